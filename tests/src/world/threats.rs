//! The table of bad inputs: each test of a threat prints what it sent and what came back, one line a try. The whole table:
//! `cargo test -p lingqu-tests --test all threats -- --nocapture | grep ^THREAT`.

use super::program::Ran;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::name::escape_for_log;
use lingqu_protocol::wire::Fault;
use quinn::ConnectionError;

/// Characters of a text in the table.
const SHOWN_CHARS: usize = 110;

/// Prints a line: the number in THREATS.md, what was sent, what came back. `got` is the value that the test looks at.
pub fn threat(number: u32, sent: impl AsRef<str>, got: impl Into<Got>) {
    let Got(got) = got.into();
    println!("THREAT {number:02} | {} | {}", shown(sent.as_ref()), shown(&got));
}

/// What came back, in words.
#[derive(Clone, Debug)]
pub struct Got(String);

impl From<&Fault> for Got {
    fn from(fault: &Fault) -> Self {
        Self(format!("refused {:?} {}: {}", fault.close_code(), fault.word, fault.text))
    }
}

impl From<&Ran> for Got {
    fn from(ran: &Ran) -> Self {
        let code = ran.code.map_or_else(|| "a signal".to_owned(), |code| format!("exit {code}"));
        let line = ran.stderr.lines().rfind(|line| line.starts_with("{\"error\""));
        let error = line.and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let text = |field: &str| error.as_ref().and_then(|e| e["error"][field].as_str()).unwrap_or_default().to_owned();
        Self(match &error {
            Some(_) => format!("{code} {}: {}", text("word"), text("text")),
            None => code,
        })
    }
}

impl From<&ConnectionError> for Got {
    fn from(error: &ConnectionError) -> Self {
        Self(match error {
            ConnectionError::ApplicationClosed(close) => {
                format!("connection closed {:?}", CloseCode::from_code(close.error_code.into_inner()))
            }
            other => format!("no connection: {other}"),
        })
    }
}

impl From<CloseCode> for Got {
    fn from(code: CloseCode) -> Self {
        Self(format!("stream reset {code:?}"))
    }
}

impl From<String> for Got {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Got {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// One line, whatever it holds, with no bar that would look like a column's, and no folder of the test's own.
fn shown(text: &str) -> String {
    let temp = std::env::temp_dir().display().to_string();
    let short = |word: &str| match word.starts_with(&temp) {
        true => word.rsplit('/').next().unwrap_or_default().to_owned(),
        false => word.to_owned(),
    };
    let words: Vec<String> = escape_for_log(text).replace('|', "¦").split(' ').map(short).collect();
    let text = words.join(" ");
    let cut: String = text.chars().take(SHOWN_CHARS).collect();
    if cut.len() < text.len() { format!("{cut}…") } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line_and_tells_the_code() {
        let fault =
            Fault { code: CloseCode::Denied.code(), word: "w".into(), text: "a\nb | c".into(), ..Fault::default() };
        let Got(got) = (&fault).into();
        assert!(got.starts_with("refused Denied w: "));
        let line = shown(&got);
        assert!(!line.contains('\n') && !line.contains('|'), "{line}");
        assert!(shown(&"x".repeat(500)).chars().count() <= SHOWN_CHARS + 1);
        let ran = Ran {
            code: Some(7),
            stdout: Vec::new(),
            stderr: "{\"error\":{\"word\":\"csv\",\"text\":\"line 3\"}}\n".into(),
            what: String::new(),
            memory_bytes_most: 0,
        };
        assert_eq!(Got::from(&ran).0, "exit 7 csv: line 3");
        let file = std::env::temp_dir().join("x/rows.csv");
        assert_eq!(shown(&format!("in {}: line 3", file.display())), "in rows.csv: line 3");
    }
}
