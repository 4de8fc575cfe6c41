//! What the gateway counts of itself, from its own metrics.

use crate::error::BenchError;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counters {
    pub(super) decoded_rows: f64,
    pub(super) read_bytes: f64,
    pub(super) sent_bytes: f64,
}

impl Counters {
    /// Reads them.
    pub(super) fn read(http: &str) -> Result<Self, BenchError> {
        let mut text = String::new();
        let mut stream = TcpStream::connect(http).map_err(BenchError::system("asking for metrics"))?;
        let ask = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(ask.as_bytes()).map_err(BenchError::system("asking for metrics"))?;
        stream.read_to_string(&mut text).map_err(BenchError::system("reading metrics"))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
        };
        Self {
            decoded_rows: of("lingqu_backflow_decoded_rows_total"),
            read_bytes: of("lingqu_lake_read_bytes_total"),
            sent_bytes: of("lingqu_sent_bytes_total"),
        }
    }

    /// What was counted since.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            decoded_rows: self.decoded_rows - before.decoded_rows,
            read_bytes: self.read_bytes - before.read_bytes,
            sent_bytes: self.sent_bytes - before.sent_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_told_from_what_begins_alike_and_missing_ones_are_none() {
        let text =
            "# TYPE x\nlingqu_sent_bytes_total 7\nlingqu_sent_bytes_total_more 9\nlingqu_lake_read_bytes_total 5\n";
        let counters = Counters::parse(text);
        assert_eq!(counters, Counters { decoded_rows: 0.0, read_bytes: 5.0, sent_bytes: 7.0 });
        assert_eq!(counters.since(&counters), Counters::default());
    }
}
