//! What the live view knows and how it changes: state and event to state, and what has to be done because of it.

use super::sample::{Flow, Sample, Sum};
use std::collections::HashMap;

/// Characters of a reason that can be typed: what the registry takes fits several times.
const REASON_CHARS_MAX: usize = 200;

/// A flow that has not moved for this long is behind.
pub const BEHIND_MS: u64 = 3_000;

/// A page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Page {
    /// Transfers that run.
    #[default]
    Transfers,
    /// By agency.
    Agencies,
    /// By grant.
    Grants,
    /// What the rules found.
    Findings,
}

impl Page {
    /// All, in the order of the tab key.
    pub const ALL: [Self; 4] = [Self::Transfers, Self::Agencies, Self::Grants, Self::Findings];

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|page| *page == self).unwrap_or(0);
        Self::ALL.get(at + 1).copied().unwrap_or_default()
    }
}

/// A finding, as the list of them says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its id.
    pub id: String,
    /// The rule.
    pub rule: String,
    /// What it is about.
    pub subject: String,
    /// How it stands.
    pub status: String,
    /// When it was found.
    pub at: String,
}

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// One row up.
    Up,
    /// One row down.
    Down,
    /// The next page; while stopping, the next thing that could be stopped.
    Tab,
    /// Goes on.
    Enter,
    /// Goes back.
    Escape,
    /// Takes the last character away.
    Backspace,
}

/// What happens to the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The gateway said how things stand.
    Sampled(Sample),
    /// The gateway said what was found.
    Found(Vec<Finding>),
    /// The gateway did not answer.
    Lost(String),
    /// A stop is in force.
    Stopped(String),
    /// A stop was refused.
    Refused(String),
    /// Somebody typed.
    Key(Key),
}

/// What has to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Stop it.
    Stop {
        /// As `lingqu-gateway stop` names it.
        selector: String,
        /// Why.
        reason: String,
    },
    /// Leave.
    Quit,
}

/// A stop on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopping {
    /// What could be stopped, the nearest first. What is listed here stays, however the rows move meanwhile.
    pub choices: Vec<String>,
    /// Which of them.
    pub choice: usize,
    /// Why, as far as it was typed.
    pub reason: String,
    /// Whether only the last word is missing.
    pub asked: bool,
}

impl Stopping {
    /// What would be stopped.
    pub fn selector(&self) -> &str {
        self.choices.get(self.choice).map_or("", String::as_str)
    }
}

/// A transfer with its rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// As the gateway said.
    pub flow: Flow,
    /// Bytes a second since the sample before.
    pub rate: u64,
    /// How long it has not moved.
    pub still_ms: u64,
}

impl Row {
    /// Whether it stands still.
    pub const fn is_behind(&self) -> bool {
        self.still_ms >= BEHIND_MS
    }
}

/// A sum with its rates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rated {
    /// As the gateway said.
    pub sum: Sum,
    /// Bytes that came in a second.
    pub in_rate: u64,
    /// Bytes that went out a second.
    pub out_rate: u64,
}

/// The state of the view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// The page that is shown.
    pub page: Page,
    /// The latest sample.
    pub sample: Sample,
    /// Transfers, those that stand still first.
    pub rows: Vec<Row>,
    /// Agencies, the fastest first.
    pub agencies: Vec<Rated>,
    /// Grants, the fastest first.
    pub grants: Vec<Rated>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// The row that is chosen, by what it is and not where it stands: rows move.
    pub chosen: Option<String>,
    /// A stop on its way.
    pub stopping: Option<Stopping>,
    /// What was last said to the operator.
    pub message: Option<String>,
    /// Since when nobody answers, if so.
    pub lost: Option<String>,
    moved: HashMap<u64, (u64, u64)>,
}

impl Model {
    /// What follows from an event.
    pub fn on(&mut self, event: Event) -> Option<Effect> {
        match event {
            Event::Sampled(sample) => self.sampled(sample),
            Event::Found(findings) => self.findings = findings,
            Event::Lost(why) => self.lost = Some(why),
            Event::Stopped(selector) => self.message = Some(format!("stopped {selector} 已阻断")),
            Event::Refused(why) => self.message = Some(why),
            Event::Key(key) => return self.key(key),
        }
        None
    }

    /// What names each row of the page.
    pub fn ids(&self) -> Vec<String> {
        match self.page {
            Page::Transfers => self.rows.iter().map(|row| row.flow.number.to_string()).collect(),
            Page::Agencies => self.agencies.iter().map(|a| a.sum.id.clone()).collect(),
            Page::Grants => self.grants.iter().map(|g| g.sum.id.clone()).collect(),
            Page::Findings => self.findings.iter().map(|f| f.id.clone()).collect(),
        }
    }

    /// Bytes a second, in and out, over everything.
    pub fn rates(&self) -> (u64, u64) {
        (self.agencies.iter().map(|a| a.in_rate).sum(), self.agencies.iter().map(|a| a.out_rate).sum())
    }

    fn sampled(&mut self, sample: Sample) {
        self.lost = None;
        let before = std::mem::replace(&mut self.sample, sample);
        // A gateway that was started again counts from nothing.
        let passed_ms = self.sample.at_ms.saturating_sub(before.at_ms);
        let is_first = before.at_ms == 0 || passed_ms == 0;
        let rate = |now: u64, then: Option<u64>| match then {
            Some(then) if !is_first => now.saturating_sub(then).saturating_mul(1_000) / passed_ms.max(1),
            _ => 0,
        };
        let of_flow: HashMap<u64, u64> = before.flows.iter().map(|flow| (flow.number, flow.bytes)).collect();
        let mut moved = HashMap::new();
        self.rows.clear();
        for flow in &self.sample.flows {
            let (bytes, at) = self.moved.get(&flow.number).copied().unwrap_or((0, self.sample.at_ms));
            let at = if flow.bytes == bytes { at } else { self.sample.at_ms };
            moved.insert(flow.number, (flow.bytes, at));
            let still_ms = self.sample.at_ms.saturating_sub(at).min(flow.age_ms);
            let rate = rate(flow.bytes, of_flow.get(&flow.number).copied());
            self.rows.push(Row { flow: flow.clone(), rate, still_ms });
        }
        self.moved = moved;
        self.rows.sort_by_key(|row| (!row.is_behind(), std::cmp::Reverse(row.rate), row.flow.number));
        let rated = |now: &[Sum], then: &[Sum]| {
            let then: HashMap<&str, &Sum> = then.iter().map(|sum| (sum.id.as_str(), sum)).collect();
            let mut rated: Vec<Rated> = now
                .iter()
                .map(|sum| {
                    let before = then.get(sum.id.as_str());
                    Rated {
                        sum: sum.clone(),
                        in_rate: rate(sum.in_bytes, before.map(|b| b.in_bytes)),
                        out_rate: rate(sum.out_bytes, before.map(|b| b.out_bytes)),
                    }
                })
                .collect();
            rated.sort_by_key(|r| std::cmp::Reverse((r.in_rate + r.out_rate, r.sum.running)));
            rated
        };
        self.agencies = rated(&self.sample.agencies, &before.agencies);
        self.grants = rated(&self.sample.grants, &before.grants);
    }

    fn key(&mut self, key: Key) -> Option<Effect> {
        if self.stopping.is_some() {
            return self.key_while_stopping(key);
        }
        self.message = None;
        match key {
            Key::Char('q') | Key::Escape => return Some(Effect::Quit),
            Key::Tab => {
                self.page = self.page.next();
                self.chosen = None;
            }
            Key::Up | Key::Char('k') => self.choose(-1),
            Key::Down | Key::Char('j') => self.choose(1),
            Key::Char('s') => self.begin_to_stop(),
            Key::Char(_) | Key::Enter | Key::Backspace => {}
        }
        None
    }

    fn choose(&mut self, step: isize) {
        let ids = self.ids();
        let at = self.chosen.as_ref().and_then(|chosen| ids.iter().position(|id| id == chosen));
        let next = match at {
            None => 0,
            Some(at) => at.saturating_add_signed(step).min(ids.len().saturating_sub(1)),
        };
        self.chosen = ids.get(next).cloned();
    }

    fn begin_to_stop(&mut self) {
        let choices = self.choices();
        if choices.is_empty() {
            self.message = Some("choose a row first (arrow keys) 请先选择一行".to_owned());
        } else {
            self.stopping = Some(Stopping { choices, choice: 0, reason: String::new(), asked: false });
        }
    }

    /// What could be stopped of the chosen row, the nearest first.
    fn choices(&self) -> Vec<String> {
        let Some(chosen) = &self.chosen else { return Vec::new() };
        match self.page {
            Page::Transfers => {
                let Some(row) = self.rows.iter().find(|row| row.flow.number.to_string() == *chosen) else {
                    return Vec::new();
                };
                let flow = &row.flow;
                let agency = flow.agent.split('/').next().unwrap_or_default();
                let grant = flow.grant.iter().map(|grant| format!("grant:{grant}"));
                let wider =
                    [format!("agent:{}", flow.agent), format!("agency:{agency}"), format!("entry:{}", flow.entry)];
                grant.chain(wider).collect()
            }
            Page::Agencies => vec![format!("agency:{chosen}")],
            Page::Grants => vec![format!("grant:{chosen}")],
            Page::Findings => {
                let finding = self.findings.iter().find(|finding| finding.id == *chosen);
                finding.map(|f| f.subject.clone()).filter(|subject| subject.contains(':')).into_iter().collect()
            }
        }
    }

    fn key_while_stopping(&mut self, key: Key) -> Option<Effect> {
        let stopping = self.stopping.as_mut()?;
        match key {
            Key::Escape => self.stopping = None,
            // Nothing but a clear yes.
            Key::Char('y' | 'Y') if stopping.asked => {
                let stopping = self.stopping.take()?;
                return Some(Effect::Stop { selector: stopping.selector().to_owned(), reason: stopping.reason });
            }
            _ if stopping.asked => {
                self.stopping = None;
                self.message = Some("not stopped 未阻断".to_owned());
            }
            Key::Tab => stopping.choice = (stopping.choice + 1) % stopping.choices.len().max(1),
            Key::Backspace => drop(stopping.reason.pop()),
            Key::Enter if !stopping.reason.trim().is_empty() => stopping.asked = true,
            Key::Char(c) if !c.is_control() && stopping.reason.chars().count() < REASON_CHARS_MAX => {
                stopping.reason.push(c);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    pub(in crate::top) fn flow(number: u64, bytes: u64) -> Flow {
        Flow {
            number,
            way: "pull".into(),
            agent: "91350100M000100Y43/main".into(),
            grant: Some(format!("grant-{number}")),
            entry: "entry-1".into(),
            entry_name: "307010/000001 个体工商户登记信息".into(),
            bytes,
            rows: 0,
            age_ms: 60_000,
            waits_for: None,
        }
    }

    pub(in crate::top) fn sample(at_ms: u64, flows: Vec<Flow>) -> Sample {
        let out_bytes = flows.iter().map(|f| f.bytes).sum();
        let sum = Sum {
            id: "91350100M000100Y43".into(),
            name: "市场监督管理局".into(),
            in_bytes: 0,
            out_bytes,
            ended: 0,
            running: flows.len() as u64,
        };
        Sample { at_ms, running: flows.len() as u64, flows, agencies: vec![sum], ..Sample::default() }
    }

    fn typed(model: &mut Model, text: &str) -> Option<Effect> {
        text.chars().filter_map(|c| model.on(Event::Key(Key::Char(c)))).last()
    }

    #[test]
    fn rates_are_between_two_samples_and_what_stands_still_comes_first() {
        let mut model = Model::default();
        model.on(Event::Sampled(sample(1_000, vec![flow(1, 500), flow(2, 500)])));
        assert_eq!(model.rates(), (0, 0), "one sample has no rate");
        model.on(Event::Sampled(sample(3_000, vec![flow(1, 2_500), flow(2, 500)])));
        assert_eq!(model.rates(), (0, 1_000));
        assert_eq!(model.rows.iter().map(|r| (r.flow.number, r.rate)).collect::<Vec<_>>(), [(1, 1_000), (2, 0)]);
        model.on(Event::Sampled(sample(5_000, vec![flow(1, 2_600), flow(2, 500)])));
        assert_eq!(model.rows[0].flow.number, 2, "it has stood still for {} ms", model.rows[0].still_ms);
        assert!(model.rows[0].is_behind() && !model.rows[1].is_behind());
        // Started again: everything counts from nothing.
        model.on(Event::Sampled(sample(10, vec![flow(1, 5)])));
        assert_eq!(model.rates(), (0, 0));
    }

    #[test]
    fn the_chosen_row_stays_chosen_wherever_it_moves() {
        let mut model = Model::default();
        model.on(Event::Sampled(sample(1_000, vec![flow(1, 0), flow(2, 0)])));
        model.on(Event::Key(Key::Down));
        assert_eq!(model.chosen.as_deref(), Some("1"));
        model.on(Event::Sampled(sample(2_000, vec![flow(1, 10), flow(2, 99)])));
        assert_eq!((model.rows[0].flow.number, model.chosen.as_deref()), (2, Some("1")));
        model.on(Event::Key(Key::Char('s')));
        assert_eq!(model.stopping.as_ref().unwrap().selector(), "grant:grant-1");
        // It ends while the reason is typed: what is stopped stays what was chosen.
        model.on(Event::Sampled(sample(3_000, vec![flow(2, 100)])));
        assert_eq!(model.stopping.as_ref().unwrap().selector(), "grant:grant-1");
    }

    #[test]
    fn a_stop_needs_a_row_a_reason_and_a_yes() {
        let mut model = Model::default();
        model.on(Event::Sampled(sample(1_000, vec![flow(1, 0)])));
        assert_eq!(typed(&mut model, "s"), None);
        assert!(model.stopping.is_none() && model.message.is_some(), "no row is chosen");
        model.on(Event::Key(Key::Down));
        typed(&mut model, "s");
        model.on(Event::Key(Key::Enter));
        assert!(!model.stopping.as_ref().unwrap().asked, "no reason");
        typed(&mut model, "异常调用x");
        model.on(Event::Key(Key::Backspace));
        for _ in 0..2 {
            model.on(Event::Key(Key::Tab));
        }
        model.on(Event::Key(Key::Enter));
        let effect = typed(&mut model, "y");
        let (selector, reason) = ("agency:91350100M000100Y43".to_owned(), "异常调用".to_owned());
        assert_eq!(effect, Some(Effect::Stop { selector, reason }));
        assert!(model.stopping.is_none());
    }

    #[test]
    fn anything_but_yes_is_no_and_keys_are_text_while_one_types() {
        for answer in [Key::Enter, Key::Char('n'), Key::Escape, Key::Char(' ')] {
            let mut model = Model::default();
            model.on(Event::Sampled(sample(1_000, vec![flow(1, 0)])));
            model.on(Event::Key(Key::Down));
            assert_eq!(typed(&mut model, "squit"), None, "q is a letter of the reason");
            model.on(Event::Key(Key::Enter));
            assert_eq!(model.on(Event::Key(answer)), None);
            assert!(model.stopping.is_none());
        }
        assert_eq!(Model::default().on(Event::Key(Key::Char('q'))), Some(Effect::Quit));
    }

    #[test]
    fn each_page_stops_what_it_shows() {
        let mut model = Model::default();
        model.on(Event::Sampled(sample(1_000, vec![flow(1, 0)])));
        let finding = Finding {
            id: "finding-1".into(),
            rule: "volume".into(),
            subject: "agent:91350100M000100Y43/main".into(),
            status: "open".into(),
            at: String::new(),
        };
        model.on(Event::Found(vec![finding]));
        let mut seen = Vec::new();
        for _ in Page::ALL {
            model.on(Event::Key(Key::Down));
            typed(&mut model, "s");
            seen.extend(model.stopping.take().map(|s| s.selector().to_owned()));
            model.message = None;
            model.on(Event::Key(Key::Tab));
        }
        let expected = ["grant:grant-1", "agency:91350100M000100Y43", "agent:91350100M000100Y43/main"];
        assert_eq!(seen, expected, "there is no grant in this sample");
    }
}
