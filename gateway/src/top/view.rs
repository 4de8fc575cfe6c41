//! The state of the live view as lines, each exactly as wide as the terminal at most. Whoever's words are shown, they
//! cannot steer the terminal.

use super::model::{Model, Page, Rated, Row, Stopping};
use lingqu_protocol::name::escape_for_log;

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As text.
    Plain,
    /// Headings.
    Bold,
    /// The chosen row.
    Reverse,
    /// What wants to be looked at.
    Alarm,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it says.
    pub text: String,
    /// How.
    pub tone: Tone,
}

/// The page for a terminal of so many columns and lines.
pub fn render(model: &Model, columns: usize, lines: usize) -> Vec<Line> {
    let mut page = head(model);
    let foot = foot(model);
    let (heading, rows) = match model.page {
        Page::Transfers => transfers(&model.rows),
        Page::Agencies => sums("agency 部门", &model.agencies),
        Page::Grants => sums("grant 共享权限", &model.grants),
        Page::Findings => findings(model),
    };
    page.push(Line { text: heading, tone: Tone::Bold });
    let room = lines.saturating_sub(page.len() + foot.len() + 1);
    let ids = model.ids();
    let chosen = model.chosen.as_ref().and_then(|chosen| ids.iter().position(|id| id == chosen));
    // The chosen row is always on the screen.
    let first = chosen.map_or(0, |at| (at + 1).saturating_sub(room));
    let count = rows.len();
    for (i, (text, alarm)) in rows.into_iter().enumerate().skip(first).take(room) {
        let tone = match (Some(i) == chosen, alarm) {
            (true, _) => Tone::Reverse,
            (false, true) => Tone::Alarm,
            (false, false) => Tone::Plain,
        };
        page.push(Line { text, tone });
    }
    if count > first + room {
        page.push(Line {
            text: format!("… {} more 另有 {} 行", count - first - room, count - first - room),
            tone: Tone::Plain,
        });
    } else if count == 0 {
        page.push(Line { text: "nothing 无".to_owned(), tone: Tone::Plain });
    }
    page.resize(lines.saturating_sub(foot.len()).max(page.len()), Line { text: String::new(), tone: Tone::Plain });
    page.extend(foot);
    page.truncate(lines);
    page.into_iter().map(|line| Line { text: fit(&line.text, columns), tone: line.tone }).collect()
}

fn head(model: &Model) -> Vec<Line> {
    let sample = &model.sample;
    let (into, out) = model.rates();
    let state = match (&model.lost, &sample.closed) {
        (Some(why), _) => (format!("no answer 无应答: {}", escape_for_log(why)), Tone::Alarm),
        (None, Some(why)) => (format!("CLOSED 已关闭: {}", escape_for_log(why)), Tone::Alarm),
        (None, None) => ("open 开放".to_owned(), Tone::Bold),
    };
    let behind = model.rows.iter().filter(|row| row.is_behind()).count();
    let mut lines = vec![
        Line { text: format!("lingqu-gateway  {}", state.0), tone: state.1 },
        Line {
            text: format!(
                "in 流入 {}/s   out 流出 {}/s   transfers 传输 {}   standing still 停滞 {behind}   findings 线索 {}   stops 阻断 {}",
                bytes(into),
                bytes(out),
                sample.running,
                model.findings.len(),
                sample.stops.len(),
            ),
            tone: Tone::Plain,
        },
    ];
    if sample.subscriptions > 0 {
        let tone = if sample.subscriptions_behind > 0 { Tone::Bold } else { Tone::Plain };
        let (all, behind) = (sample.subscriptions, sample.subscriptions_behind);
        lines.push(Line { text: format!("backflow 回流订阅 {all}   behind 落后 {behind}"), tone });
    }
    lines.extend(sample.stops.iter().take(3).map(|stop| Line {
        text: format!("stopped 已阻断 {} since {}: {}", stop.selector, stop.since, escape_for_log(&stop.reason)),
        tone: Tone::Alarm,
    }));
    let tab = |page: Page, name: &str| if page == model.page { format!("[{name}]") } else { format!(" {name} ") };
    let tabs = [
        tab(Page::Transfers, "transfers 传输"),
        tab(Page::Agencies, "agencies 部门"),
        tab(Page::Grants, "grants 权限"),
        tab(Page::Findings, "findings 线索"),
    ];
    lines.push(Line { text: tabs.join(" "), tone: Tone::Plain });
    lines
}

fn foot(model: &Model) -> Vec<Line> {
    let line = |text: String, tone| vec![Line { text, tone }];
    match (&model.stopping, &model.message) {
        (Some(Stopping { asked: true, reason, .. }), _) => {
            let selector = model.stopping.as_ref().map_or("", Stopping::selector);
            line(
                format!("stop {selector} ({})? y = yes, anything else = no 确认阻断？", escape_for_log(reason)),
                Tone::Alarm,
            )
        }
        (Some(stopping), _) => line(
            format!(
                "stop {}  (tab: another 切换)  reason 原因: {}_  (enter, esc)",
                stopping.selector(),
                escape_for_log(&stopping.reason)
            ),
            Tone::Alarm,
        ),
        (None, Some(message)) => line(escape_for_log(message), Tone::Bold),
        (None, None) => line("tab page 换页   ↑↓ choose 选择   s stop 阻断   q quit 退出".to_owned(), Tone::Plain),
    }
}

fn transfers(rows: &[Row]) -> (String, Vec<(String, bool)>) {
    let heading = format!(
        "{:<5} {:>9} {:>10} {:>7}  {}  {}  entry 目录",
        "way",
        "passed",
        "per s",
        "age",
        padded("state 状态", 22),
        padded("agent 代理", 34)
    );
    let row = |row: &Row| {
        let flow = &row.flow;
        let state = match flow.waits_for.as_deref() {
            Some("memory") if row.is_behind() => "waits for memory 等内存".to_owned(),
            Some("reader") if row.is_behind() => "held by reader 对方未收".to_owned(),
            _ if row.is_behind() => "nothing comes 对方未发".to_owned(),
            _ => "moves 传输中".to_owned(),
        };
        let text = format!(
            "{:<5} {:>9} {:>10} {:>6}s  {}  {}  {}",
            flow.way,
            bytes(flow.bytes),
            format!("{}/s", bytes(row.rate)),
            if row.is_behind() { row.still_ms / 1000 } else { flow.age_ms / 1000 },
            padded(&state, 22),
            padded(&escape_for_log(&flow.agent), 34),
            escape_for_log(&flow.entry_name),
        );
        (text, row.is_behind())
    };
    (heading, rows.iter().map(row).collect())
}

fn sums(what: &str, rated: &[Rated]) -> (String, Vec<(String, bool)>) {
    let heading = format!(
        "{} {:>10} {:>10} {:>9} {:>9} {:>7} {:>7}  name 名称",
        padded(what, 32),
        "in/s",
        "out/s",
        "in",
        "out",
        "running",
        "ended"
    );
    let row = |rated: &Rated| {
        let sum = &rated.sum;
        let text = format!(
            "{} {:>10} {:>10} {:>9} {:>9} {:>7} {:>7}  {}",
            padded(&sum.id, 32),
            format!("{}/s", bytes(rated.in_rate)),
            format!("{}/s", bytes(rated.out_rate)),
            bytes(sum.in_bytes),
            bytes(sum.out_bytes),
            sum.running,
            sum.ended,
            escape_for_log(&sum.name),
        );
        (text, false)
    };
    (heading, rated.iter().map(row).collect())
}

fn findings(model: &Model) -> (String, Vec<(String, bool)>) {
    let heading = format!(
        "{} {} {} rule 规则",
        padded("found 发现时间", 24),
        padded("status 状态", 12),
        padded("about 对象", 44)
    );
    let row = |finding: &super::model::Finding| {
        let text = format!(
            "{} {} {} {}  {}",
            padded(&finding.at, 24),
            padded(&finding.status, 12),
            padded(&escape_for_log(&finding.subject), 44),
            escape_for_log(&finding.rule),
            finding.id,
        );
        (text, finding.status == "open")
    };
    (heading, model.findings.iter().map(row).collect())
}

/// Bytes with three digits or so, by thousands.
fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = units.iter();
    let mut name = unit.next().copied().unwrap_or_default();
    for next in unit {
        if value < 1_000.0 {
            break;
        }
        value /= 1_000.0;
        name = next;
    }
    if name == "B" || value >= 100.0 { format!("{value:.0} {name}") } else { format!("{value:.1} {name}") }
}

/// Columns that a character takes: two for one of Chinese, none for a mark that joins the one before.
const fn columns_of(c: char) -> usize {
    match c as u32 {
        0x0300..=0x036f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 => 2,
        0xffe0..=0xffe6 | 0x1f300..=0x1f64f | 0x1f900..=0x1f9ff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// The text cut, or filled with blanks, to so many columns.
fn padded(text: &str, columns: usize) -> String {
    let mut cut = fit(text, columns);
    let used: usize = cut.chars().map(columns_of).sum();
    cut.extend(std::iter::repeat_n(' ', columns.saturating_sub(used)));
    cut
}

/// The text cut to so many columns.
fn fit(text: &str, columns: usize) -> String {
    let mut used = 0;
    text.chars()
        .take_while(|c| {
            used += columns_of(*c);
            used <= columns
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::model::tests::{flow, sample};
    use super::super::model::{Event, Finding, Key};
    use super::*;

    fn texts(lines: &[Line]) -> String {
        lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_page_fits_every_terminal() {
        let mut model = Model::default();
        let mut flows: Vec<_> = (0..300).map(|i| flow(i, i * 1_000)).collect();
        flows[0].entry_name = "长".repeat(500);
        model.on(Event::Sampled(sample(1_000, flows)));
        (0..250).for_each(|_| drop(model.on(Event::Key(Key::Down))));
        for columns in [1, 20, 80, 200] {
            for lines in [1, 5, 24, 60, 500] {
                for _ in Page::ALL {
                    let page = render(&model, columns, lines);
                    assert_eq!(page.len(), lines, "{columns} × {lines}");
                    for line in &page {
                        assert!(line.text.chars().map(columns_of).sum::<usize>() <= columns, "{line:?}");
                    }
                    model.page = if model.page == Page::Findings { Page::Transfers } else { model.page };
                }
                let page = render(&model, columns, lines);
                let shown = page.iter().filter(|line| line.tone == Tone::Reverse).count();
                assert_eq!(shown, usize::from(lines >= 10), "the chosen row is on the screen: {columns} × {lines}");
            }
        }
    }

    #[test]
    fn it_says_what_stands_still_and_why() {
        let mut model = Model::default();
        let held = |wait: &str| super::super::sample::Flow { waits_for: Some(wait.into()), ..flow(1, 5) };
        for (wait, words) in [("reader", "held by reader"), ("memory", "waits for memory"), ("", "nothing comes")] {
            model.on(Event::Sampled(sample(1_000, vec![held(wait)])));
            model.on(Event::Sampled(sample(9_000, vec![held(wait)])));
            let page = texts(&render(&model, 160, 20));
            assert!(page.contains(words) && page.contains("standing still 停滞 1"), "{page}");
        }
        model
            .on(Event::Sampled(super::super::Sample { closed: Some("ledger_failed".into()), ..sample(9_500, vec![]) }));
        assert!(texts(&render(&model, 80, 20)).contains("CLOSED 已关闭: ledger_failed"));
        model.on(Event::Lost("gone".into()));
        assert!(texts(&render(&model, 80, 20)).contains("no answer 无应答: gone"));
    }

    #[test]
    fn nobodys_words_steer_the_terminal() {
        let mut model = Model::default();
        let mut bad = flow(1, 5);
        bad.entry_name = "\u{1b}[2J\u{202e}name".into();
        model.on(Event::Sampled(sample(1_000, vec![bad])));
        let rule = "\u{1b}]0;x\u{7}".to_owned();
        let empty = String::new();
        let finding = Finding { id: "f".into(), rule, subject: empty.clone(), status: "open".into(), at: empty };
        model.on(Event::Found(vec![finding]));
        for page in Page::ALL {
            model.page = page;
            let text = texts(&render(&model, 200, 20));
            assert!(!text.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}'), "{text:?}");
        }
    }

    #[test]
    fn numbers_of_bytes() {
        let said: Vec<String> = [0, 999, 1_000, 12_345, 999_999, 123_456_789, u64::MAX].map(bytes).into();
        assert_eq!(said, ["0 B", "999 B", "1.0 kB", "12.3 kB", "1000 kB", "123 MB", "18447 PB"]);
    }
}
