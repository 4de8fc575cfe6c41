//! From everybody's times to figures.

use super::peer::Told;
use crate::decide::Times;
use crate::error::BenchError;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

/// Beyond the scheduler's own lateness, the last datagram leaves within this, in milliseconds.
const SENT_AIM_MS: f64 = 5.0;

/// An agent's last byte comes within this, in milliseconds, where up to [`FEW`] transfers run.
const LAST_BYTE_AIM_MS: f64 = 20.0;

/// Transfers up to which the nearer aim holds.
const FEW: usize = 100;

/// And within this where more run.
const LAST_BYTE_AIM_MANY_MS: f64 = 50.0;

/// One cut.
pub(super) struct Round {
    pub(super) told: Vec<Told>,
    pub(super) moments: Moments,
    pub(super) late_ms: Vec<f64>,
    /// Bytes a second, look by look; the last is the one before the cut.
    pub(super) rates: Vec<f64>,
    /// The most memory that the gateway held from the round's begin to the last word of why.
    pub(super) gateway_peak_bytes: u64,
}

/// What the gateway noted of the latest stop.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Moments {
    accepted_ns: u64,
    /// Of each connection, its sends and their bytes.
    sends: HashMap<String, Vec<(u64, u64)>>,
    resets: HashMap<String, u64>,
    last_begun_ns: u64,
    /// Whether the socket was full shortly before or while it was cut.
    was_full: bool,
}

/// A full socket is remembered for so long: what it made wait leaves within that, or there is no load.
const FULL_NS: u64 = 1_000_000_000;

impl Moments {
    pub(super) fn read(file: &Path) -> Result<Self, BenchError> {
        let text = std::fs::read_to_string(file).map_err(BenchError::io("reading", file))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut moments = Self::default();
        let after = text.rsplit_once(" accepted").map(|(before, _)| before.rfind('\n').map_or(0, |at| at + 1));
        let last_full_ns = text.lines().rev().find_map(|line| line.strip_suffix(" full")?.parse::<u64>().ok());
        for line in text.get(after.unwrap_or(0)..).unwrap_or_default().lines() {
            let mut words = line.split(' ');
            let at: u64 = words.next().and_then(|at| at.parse().ok()).unwrap_or(0);
            let (what, to) = (words.next(), words.next().unwrap_or_default());
            match what {
                Some("accepted") => moments.accepted_ns = at,
                Some("sent") => {
                    let bytes = words.next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
                    moments.sends.entry(to.to_owned()).or_default().push((at, bytes));
                }
                Some("reset") => {
                    let last = moments.resets.entry(to.to_owned()).or_default();
                    *last = at.max(*last);
                }
                Some("begun") => moments.last_begun_ns = at.max(moments.last_begun_ns),
                _ => {}
            }
        }
        moments.was_full = last_full_ns.is_some_and(|at| at + FULL_NS >= moments.accepted_ns);
        moments
    }

    fn after_ms(&self, at: u64) -> f64 {
        at.saturating_sub(self.accepted_ns) as f64 / 1e6
    }

    /// Of each connection whose streams were reset, when the last datagram that could hold their data was handed over.
    fn last_sent_ms(&self) -> Vec<f64> {
        let last = |(to, reset): (&String, &u64)| {
            let sends = self.sends.get(to).map_or(&[][..], Vec::as_slice);
            let before = sends.iter().map(|s| s.0).filter(|at| at <= reset).max().unwrap_or(self.accepted_ns);
            let waited = sends.iter().map(|s| s.0).filter(|at| at > reset).min().filter(|_| self.was_full);
            self.after_ms(waited.unwrap_or(before).max(before))
        };
        self.resets.iter().map(last).collect()
    }

    /// Of each connection whose streams were reset, when the first datagram after that left: the one that says so.
    fn told_ms(&self) -> Vec<f64> {
        let first = |(to, reset): (&String, &u64)| {
            let sends = self.sends.get(to).map_or(&[][..], Vec::as_slice);
            sends.iter().map(|s| s.0).filter(|at| at > reset).min().map(|at| self.after_ms(at))
        };
        self.resets.iter().filter_map(first).collect()
    }
}

/// The figures of several cuts of as many transfers.
pub(super) fn series(transfers: usize, rounds: &[Round]) -> Value {
    let (mut sent, mut told_at, mut last) = (Times::default(), Times::default(), Times::default());
    let (mut chunk, mut knows, mut late) = (Times::default(), Times::default(), Times::default());
    let (mut loads, mut rates, mut begun, mut streams) = (Vec::new(), Vec::new(), 0.0f64, 0);
    for round in rounds {
        let moments = &round.moments;
        moments.last_sent_ms().into_iter().for_each(|ms| sent.add(ms));
        moments.told_ms().into_iter().for_each(|ms| told_at.add(ms));
        for told in &round.told {
            knows.add(moments.after_ms(told.cut_ns));
            // What a push gives away goes nowhere: its bytes count where they are stored, and there none are begun.
            if told.is_pull {
                last.add(moments.after_ms(told.last_byte_ns));
                chunk.add(moments.after_ms(told.last_chunk_ns));
            }
        }
        round.late_ms.iter().for_each(|ms| late.add(*ms));
        begun = begun.max(moments.after_ms(moments.last_begun_ns));
        let most = round.rates.iter().copied().fold(1.0, f64::max);
        let before = round.rates.last().copied().unwrap_or(0.0);
        loads.push(before / (round.rates.iter().sum::<f64>() / round.rates.len().max(1) as f64).max(1.0));
        rates.push(before.min(most));
        streams = streams.max(round.told.iter().map(|t| t.streams).sum());
    }
    let aim = if transfers <= FEW { LAST_BYTE_AIM_MS } else { LAST_BYTE_AIM_MANY_MS };
    let beyond = (sent.at(0.99) - late.at(0.99)).max(0.0);
    json!({
        "transfers": transfers,
        "streams": streams,
        "mb_per_second": crate::report::median(rates) / 1e6,
        "load": crate::report::median(loads),
        "sent_ms": sent.summary(),
        "reset_sent_ms": told_at.summary(),
        "socket_was_full": rounds.iter().filter(|round| round.moments.was_full).count(),
        "gateway_peak_bytes": rounds.iter().map(|round| round.gateway_peak_bytes).max().unwrap_or(0),
        "last_byte_ms": last.summary(),
        "last_chunk_begun_at_agent_ms": chunk.summary(),
        "last_piece_begun_at_gateway_ms": begun,
        "knows_ms": knows.summary(),
        "scheduler_ms": late.summary(),
        "sent_beyond": beyond / SENT_AIM_MS,
        "over_aim": last.at(0.99) / aim,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn only_what_could_hold_data_counts_and_only_of_the_last_stop() {
        let text = "1000000 accepted\n2000000 sent a:1 9\n\
                    5000000000 accepted\n5001000000 sent a:1 60000\n5001500000 begun\n5002000000 reset a:1\n\
                    5003000000 sent a:1 900\n5004000000 sent a:1 80\n5001000000 sent b:2 9\n";
        let moments = Moments::parse(text);
        assert_eq!(moments.accepted_ns, 5_000_000_000);
        assert_eq!(moments.last_sent_ms(), [1.0], "what is sent after the reset was made after it");
        assert_eq!(moments.told_ms(), [3.0]);
        assert!((moments.after_ms(moments.last_begun_ns) - 1.5).abs() < 1e-9);
        let long_ago = Moments::parse(&format!("2500000000 full\n{text}"));
        assert_eq!(long_ago.last_sent_ms(), [1.0]);
        let full = Moments::parse(&format!("{text}4999000000 full\n"));
        assert_eq!(full.last_sent_ms(), [3.0], "unless it had to wait for room in the socket");
    }
}
