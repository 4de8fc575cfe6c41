//! The live view on a terminal: keys in, pages out, and the control socket behind both.

use super::model::{Effect, Event, Finding, Key, Model};
use super::sample::Sample;
use super::view::{Line, Tone, render};
use crate::admin::{self, Command, Failure};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::{Value, json};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between the two looks that `--once` makes its rates from.
const ONCE_APART: Duration = Duration::from_millis(500);

/// Looks between two at what was found: findings come by the hour.
const LOOKS_PER_FINDINGS: u32 = 5;

/// Findings that are shown: the open ones, and the latest; the rest is for `findings list`.
const FINDINGS_MAX: usize = 200;

/// A key that begins like an escape sequence and goes on within this is one.
const ESCAPE_WAIT: Duration = Duration::from_millis(30);

/// One look, for programs: how things stand, with rates over half a second.
///
/// # Errors
/// No gateway runs here, or it does not answer.
pub async fn once(dir: &Path) -> Result<Value, Failure> {
    let mut model = Model::default();
    model.on(Event::Sampled(look(dir).await?));
    tokio::time::sleep(ONCE_APART).await;
    model.on(Event::Sampled(look(dir).await?));
    model.on(Event::Found(findings(dir).await?));
    let sums = |rated: &[super::model::Rated]| {
        let one = |r: &super::model::Rated| {
            let mut sum = json!(r.sum);
            sum["in_bytes_per_second"] = r.in_rate.into();
            sum["out_bytes_per_second"] = r.out_rate.into();
            sum
        };
        rated.iter().map(one).collect::<Vec<_>>()
    };
    let transfers: Vec<Value> = model
        .rows
        .iter()
        .map(|row| {
            let mut flow = json!(row.flow);
            flow["bytes_per_second"] = row.rate.into();
            flow
        })
        .collect();
    let (into, out) = model.rates();
    let findings = model
        .findings
        .iter()
        .map(|f| json!({ "id": f.id, "rule": f.rule, "subject": f.subject, "status": f.status, "at": f.at }));
    Ok(json!({
        "id": "top",
        "open": model.sample.closed.is_none(),
        "closed": model.sample.closed,
        "running": model.sample.running,
        "in_bytes_per_second": into,
        "out_bytes_per_second": out,
        "transfers": transfers,
        "agencies": sums(&model.agencies),
        "grants": sums(&model.grants),
        "stops": model.sample.stops,
        "findings": findings.collect::<Vec<_>>(),
    }))
}

/// One look, for people.
///
/// # Errors
/// As for [`once`].
pub async fn page_once(dir: &Path) -> Result<String, Failure> {
    let mut model = Model::default();
    model.on(Event::Sampled(look(dir).await?));
    tokio::time::sleep(ONCE_APART).await;
    model.on(Event::Sampled(look(dir).await?));
    model.on(Event::Found(findings(dir).await?));
    let lines = render(&model, 200, model.rows.len() + 12);
    let shown = lines.iter().map(|line| line.text.trim_end()).filter(|text| !text.is_empty());
    Ok(shown.collect::<Vec<_>>().join("\n"))
}

/// The live view, until somebody leaves it.
///
/// # Errors
/// Not a terminal; a gateway that does not run. One that goes away later is shown as such.
pub async fn run(dir: &Path) -> Result<(), Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::usage("top needs a terminal", "for a program: lingqu-gateway top --once --json"));
    }
    let mut model = Model::default();
    model.on(Event::Sampled(look(dir).await?));
    let screen = Screen::enter().map_err(|e| Failure::ours(format!("the terminal: {e}"), "use --once"))?;
    let mut keys = keys();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looks = 0u32;
    loop {
        screen.draw(&model).map_err(|e| Failure::ours(format!("the terminal: {e}"), "use --once"))?;
        let event = tokio::select! {
            key = keys.recv() => match key {
                Some(key) => Event::Key(key),
                // The terminal is gone.
                None => return Ok(()),
            },
            _ = tick.tick() => {
                if looks.is_multiple_of(LOOKS_PER_FINDINGS) && let Ok(found) = findings(dir).await {
                    model.on(Event::Found(found));
                }
                looks = looks.wrapping_add(1);
                look(dir).await.map_or_else(|failure| Event::Lost(failure.text), Event::Sampled)
            }
        };
        match model.on(event) {
            Some(Effect::Quit) => return Ok(()),
            Some(Effect::Stop { selector, reason }) => {
                let done = admin::run(dir, Command::Stop { selector: selector.clone(), reason }).await;
                model.on(done.map_or_else(|failure| Event::Refused(failure.text), |_| Event::Stopped(selector)));
            }
            None => {}
        }
    }
}

async fn look(dir: &Path) -> Result<Sample, Failure> {
    let said = admin::run(dir, Command::Top {}).await?;
    serde_json::from_value(said)
        .map_err(|e| Failure::ours(e.to_string(), "use the `lingqu-gateway` of the same version as the one that runs"))
}

async fn findings(dir: &Path) -> Result<Vec<Finding>, Failure> {
    let page = admin::run(dir, Command::FindingsList { after: String::new() }).await?;
    let mut findings: Vec<Finding> = page["findings"].as_array().into_iter().flatten().map(finding).collect();
    findings.sort_by(|a, b| (b.status == "open", &b.at).cmp(&(a.status == "open", &a.at)));
    findings.truncate(FINDINGS_MAX);
    Ok(findings)
}

fn finding(said: &Value) -> Finding {
    let text = |key: &str| said[key].as_str().map(str::to_owned);
    let named = |kind: &str| text(kind).map(|id| format!("{kind}:{id}"));
    Finding {
        id: text("id").unwrap_or_default(),
        rule: text("rule").unwrap_or_default(),
        // What was cut, or the nearest thing that could be.
        subject: said["cut"]["what"]
            .as_str()
            .map(str::to_owned)
            .or_else(|| named("grant"))
            .or_else(|| named("agent"))
            .or_else(|| named("agency"))
            .unwrap_or_default(),
        status: text("status").unwrap_or_default(),
        at: text("last_at").unwrap_or_default(),
    }
}

/// The terminal as the view has it: every key at once, no echo, a page of its own. Dropped, it is as it was.
struct Screen {
    before: Termios,
}

impl Screen {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        // Signals stay: Ctrl-C ends the program as everywhere.
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        let screen = Self { before };
        write_out("\x1b[?1049h\x1b[?25l")?;
        Ok(screen)
    }

    fn draw(&self, model: &Model) -> io::Result<()> {
        let size = tcgetwinsize(io::stdout())?;
        let lines = render(model, usize::from(size.ws_col).max(1), usize::from(size.ws_row).max(1));
        write_out(&page(&lines))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Where the terminal is gone there is nothing to put back.
        let _ = write_out("\x1b[?25h\x1b[?1049l");
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The lines with what moves the cursor between them.
fn page(lines: &[Line]) -> String {
    let mut text = String::from("\x1b[H");
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            text.push_str("\r\n");
        }
        text.push_str(match line.tone {
            Tone::Plain => "\x1b[0m",
            Tone::Bold => "\x1b[0;1m",
            Tone::Reverse => "\x1b[0;7m",
            Tone::Alarm => "\x1b[0;1;31m",
        });
        text.push_str(&line.text);
        text.push_str("\x1b[0m\x1b[K");
    }
    text
}

/// Keys as they are typed, read by a thread of its own.
fn keys() -> mpsc::Receiver<Key> {
    let (bytes_in, mut bytes) = mpsc::channel::<u8>(64);
    std::thread::spawn(move || {
        for byte in io::stdin().lock().bytes() {
            let Ok(byte) = byte else { return };
            if bytes_in.blocking_send(byte).is_err() {
                return;
            }
        }
    });
    let (keys_in, keys) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut reader = Keys::default();
        loop {
            let next = if reader.waits() {
                match tokio::time::timeout(ESCAPE_WAIT, bytes.recv()).await {
                    Ok(next) => next,
                    Err(_) => {
                        if let Some(key) = reader.pause()
                            && keys_in.send(key).await.is_err()
                        {
                            return;
                        }
                        continue;
                    }
                }
            } else {
                bytes.recv().await
            };
            let Some(byte) = next else { return };
            if let Some(key) = reader.push(byte)
                && keys_in.send(key).await.is_err()
            {
                return;
            }
        }
    });
    keys
}

/// From bytes to keys: UTF-8, and the escape sequences of the arrows.
#[derive(Debug, Default)]
struct Keys(Vec<u8>);

impl Keys {
    /// Whether an escape may yet become a sequence.
    fn waits(&self) -> bool {
        self.0.first() == Some(&0x1b)
    }

    /// Nothing came after it: the escape key itself.
    fn pause(&mut self) -> Option<Key> {
        let alone = self.0 == [0x1b];
        self.0.clear();
        alone.then_some(Key::Escape)
    }

    fn push(&mut self, byte: u8) -> Option<Key> {
        self.0.push(byte);
        let key = match self.0.as_slice() {
            [0x1b] | [0x1b, b'[' | b'O'] => return None,
            [0x1b, b'[' | b'O', b'A'] => Some(Key::Up),
            [0x1b, b'[' | b'O', b'B'] => Some(Key::Down),
            // Another sequence ends with a letter or a tilde.
            [0x1b, b'[' | b'O', .., last] if !last.is_ascii_alphabetic() && *last != b'~' && self.0.len() < 16 => {
                return None;
            }
            [0x1b, ..] => None,
            [b'\t'] => Some(Key::Tab),
            [b'\r' | b'\n'] => Some(Key::Enter),
            [0x7f | 0x08] => Some(Key::Backspace),
            text => match std::str::from_utf8(text) {
                Ok(text) => text.chars().next().filter(|c| !c.is_control()).map(Key::Char),
                // The rest of the character is on its way.
                Err(error) if error.error_len().is_none() => return None,
                Err(_) => None,
            },
        };
        self.0.clear();
        key
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_keys() {
        let mut keys = Keys::default();
        let typed: Vec<Key> = "s异\t\r\x7f\x1b[A\x1bOB\x1b[1;5C\x1b[3~q".bytes().filter_map(|b| keys.push(b)).collect();
        let expected =
            [Key::Char('s'), Key::Char('异'), Key::Tab, Key::Enter, Key::Backspace, Key::Up, Key::Down, Key::Char('q')];
        assert_eq!(typed, expected);
        assert_eq!(keys.push(0x1b), None);
        assert!(keys.waits());
        assert_eq!(keys.pause(), Some(Key::Escape));
        assert_eq!(keys.push(0xff), None);
        assert_eq!(keys.push(b'a'), Some(Key::Char('a')), "what is no character is forgotten");
    }

    #[test]
    fn a_page_is_written_whole() {
        let lines = [("a", Tone::Bold), ("b", Tone::Alarm)].map(|(text, tone)| Line { text: text.into(), tone });
        assert_eq!(page(&lines), "\x1b[H\x1b[0;1ma\x1b[0m\x1b[K\r\n\x1b[0;1;31mb\x1b[0m\x1b[K");
    }
}
