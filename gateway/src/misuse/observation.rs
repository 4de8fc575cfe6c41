//! What is seen of requests and streams: fixed-size records without a pointer, so that making one costs a copy and a full
//! queue costs what it says.

use lingqu_protocol::agency::{AGENT_NAME_CHARS_MAX, AgentId, AgentName, CreditCode};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, GrantId};
use lingqu_protocol::predicate::{Expr, Predicate};
use lingqu_protocol::region::RegionCode;
use std::fmt::Write as _;
use std::net::IpAddr;

/// An agent, in a fixed number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Who {
    agency: CreditCode,
    name: [u8; AGENT_NAME_CHARS_MAX],
}

impl From<&AgentId> for Who {
    fn from(agent: &AgentId) -> Self {
        let mut name = [0; AGENT_NAME_CHARS_MAX];
        // A name is at most as long, and holds no zero.
        name.iter_mut().zip(agent.name.as_str().bytes()).for_each(|(slot, byte)| *slot = byte);
        Self { agency: agent.agency, name }
    }
}

impl Who {
    /// Its agency.
    pub const fn agency(&self) -> CreditCode {
        self.agency
    }

    /// The agent; `None` for bytes that no agent's name made.
    pub fn agent(&self) -> Option<AgentId> {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        let name = std::str::from_utf8(self.name.get(..end)?).ok()?;
        Some(AgentId { agency: self.agency, name: AgentName::parse(name).ok()? })
    }
}

/// One thing that was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// When, by the wall clock.
    pub at: Timestamp,
    /// Who.
    pub who: Who,
    /// On which connection, by the number that this process gave it.
    pub connection: u64,
    /// From where.
    pub address: IpAddr,
    /// What.
    pub event: Event,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A connection stands.
    Connected,
    /// A connection is gone.
    Gone,
    /// A request was answered: given, denied, or ended in another way.
    Answered(Answered),
    /// A stream that runs, seen every few seconds.
    Moving(Passed),
    /// A stream that ended.
    Ended(Passed),
    /// One of the keys of a file of keys, of which some are seen for all.
    Key(Key),
}

/// A key of a file of keys (核对) that stands for [`KeySet::keys_per_mark`] of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Under which grant.
    pub grant: Option<GrantId>,
    /// Of which entry.
    pub entry: EntryId,
    /// Among which keys it counts.
    pub set: KeySet,
    /// The key's number.
    pub number: u64,
}

/// Keys of files that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySet {
    /// Those for which the grant gives nothing: who tries numbers has many.
    Missing,
    /// All.
    Any,
}

impl KeySet {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Missing, Self::Any];

    /// Of so many different keys one leaves a mark, so that a map of bits is enough for millions. Which ones is the keyed
    /// number's to say: the same key always does or never.
    pub const fn keys_per_mark(self) -> u64 {
        match self {
            Self::Missing => 1 << 10,
            Self::Any => 1 << 14,
        }
    }

    /// Whether a key of this number leaves one. The number's other end is the mark's place.
    pub const fn marks(self, number: u64) -> bool {
        number.leading_zeros() >= self.keys_per_mark().trailing_zeros()
    }

    /// What is counted in place of a question's shape.
    pub const fn shape(self) -> u64 {
        self as u64
    }
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answered {
    /// What was asked, as metrics call it.
    pub operation: &'static str,
    /// `given`, `done`, or the word of the refusal.
    pub word: &'static str,
    /// Under which grant, where that could be told.
    pub grant: Option<GrantId>,
    /// Of which entry, where that could be told.
    pub entry: Option<EntryId>,
    /// A number for everything that was asked: another request has another.
    pub asked: u64,
}

/// What passed of a stream since it was last seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Passed {
    /// Under which grant; a push has none.
    pub grant: Option<GrantId>,
    /// Of which entry.
    pub entry: EntryId,
    /// Bytes since the stream was last seen.
    pub bytes: u64,
    /// Rows since then.
    pub rows: u64,
    /// Rows since the stream began.
    pub rows_in_all: u64,
    /// Milliseconds since then.
    pub elapsed_ms: u64,
    /// What the grant allows in all; nothing where it has no bound.
    pub volume_bytes_max: Option<u64>,
    /// The question, where it was a pointed one.
    pub question: Option<Question>,
}

/// A question that points at something: the same question with other values has the same shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// What was asked, values aside.
    pub shape: u64,
    /// The values.
    pub value: u64,
}

/// Makes numbers of what was asked. Keyed, so that nobody outside can choose two requests with one number.
#[derive(Clone, Copy)]
pub struct Fingerprint([u8; 32]);

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fingerprint")
    }
}

impl Fingerprint {
    /// With this key.
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The number of these parts, each told from the next.
    pub fn of<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        number(&hasher.finalize())
    }

    /// The number of a key, of which a hash is known that everybody can make.
    pub fn of_key(&self, hash: u64) -> u64 {
        number(&blake3::keyed_hash(&self.0, &hash.to_be_bytes()))
    }

    /// The question in a pull's condition and region; `None` where it names no value at all.
    pub fn question(&self, rows: Option<&Predicate>, region: Option<RegionCode>) -> Option<Question> {
        let (mut shape, mut value) = (String::new(), String::new());
        if let Some(rows) = rows {
            parts(rows.expr(), &mut shape, &mut value);
        }
        if let Some(region) = region {
            shape.push_str("--region");
            // Writing to a String does not fail.
            let _ = write!(value, "{region}");
        }
        (!value.is_empty()).then(|| Question { shape: self.of([shape.as_str()]), value: self.of([value.as_str()]) })
    }
}

/// The first eight bytes of a hash.
fn number(hash: &blake3::Hash) -> u64 {
    hash.as_bytes().first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first))
}

/// Splits a condition into what it asks and the values that it asks for.
fn parts(expr: &Expr, shape: &mut String, value: &mut String) {
    // Writing to a String does not fail.
    match expr {
        Expr::And(all) | Expr::Or(all) => {
            shape.push_str(if matches!(expr, Expr::And(_)) { "and(" } else { "or(" });
            all.iter().for_each(|part| parts(part, shape, value));
            shape.push(')');
        }
        Expr::Not(inner) => {
            shape.push_str("not(");
            parts(inner, shape, value);
            shape.push(')');
        }
        Expr::Compare { column, op, value: literal } => {
            let _ = write!(shape, "{column}{};", op.as_str());
            let _ = write!(value, "{literal};");
        }
        Expr::In { column, values } => {
            // A list of one and a list of ten are one kind of question.
            let _ = write!(shape, "{column} in;");
            values.iter().for_each(|literal| {
                let _ = write!(value, "{literal},");
            });
        }
        Expr::Between { column, low, high } => {
            let _ = write!(shape, "{column} between;");
            let _ = write!(value, "{low},{high};");
        }
        Expr::IsNull { column, negated } => {
            let _ = write!(shape, "{column} null {negated};");
        }
        Expr::Within { column, region } => {
            let _ = write!(shape, "{column} within;");
            let _ = write!(value, "{region};");
        }
    }
}

/// What kind of refusal a word is, as far as rules tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Outside the scope: columns, rows, network, method and what else a scope says.
    OutsideScope,
    /// For a purpose that was not approved.
    Purpose,
    /// After the period, or after the grant was ended.
    AfterEnd,
    /// Above the approved volume, rate or number of requests.
    AboveLimit,
    /// Something that does not exist for this peer.
    NotThere,
}

impl Refusal {
    /// The kind of a refusal's word; `None` for what says nothing about the asker (busy, closed, a cut, a mistyped
    /// condition).
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "purpose_outside_scope" => Some(Self::Purpose),
            "period_ended" | "grant_terminated" => Some(Self::AfterEnd),
            "volume_used_up" | "requests_used_up" => Some(Self::AboveLimit),
            "grant_not_found" | "no_grant" | "entry_not_found" | "not_provider" => Some(Self::NotThere),
            word if word.ends_with("_outside_scope") => Some(Self::OutsideScope),
            _ => None,
        }
    }
}

impl Observation {
    /// The refusal in it, and of what.
    pub fn refusal(&self) -> Option<(Refusal, Answered)> {
        match self.event {
            Event::Answered(answered) => Refusal::of(answered.word).map(|refusal| (refusal, answered)),
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small_and_names_its_agent() {
        assert!(size_of::<Observation>() <= 320, "{}", size_of::<Observation>());
        for name in ["a", "night-1", &"x".repeat(AGENT_NAME_CHARS_MAX)] {
            let agent: AgentId = format!("91350100M000100Y43/{name}").parse().unwrap();
            assert_eq!(Who::from(&agent).agent(), Some(agent));
        }
    }

    #[test]
    fn questions_differ_by_their_values_and_are_alike_by_their_shape() {
        let print = Fingerprint::new([1; 32]);
        let ask = |text: &str| print.question(Some(&Predicate::parse(text).unwrap()), None);
        let one = ask("credit_code = 'A' and region within '4403'").unwrap();
        let other = ask("credit_code = 'B' and region within '4403'").unwrap();
        assert_eq!((one.shape == other.shape, one.value == other.value), (true, false));
        assert_ne!(ask("name = 'A'").unwrap().shape, ask("credit_code = 'A'").unwrap().shape);
        assert_eq!(ask("staff in (1, 2)").unwrap().shape, ask("staff in (3)").unwrap().shape);
        assert_ne!(ask("staff in (1, 2)").unwrap().value, ask("staff in (12)").unwrap().value);
        assert_eq!(ask("note is not null"), None, "no value, no question");
        assert_eq!(print.question(None, None), None);
        let region = |code: &str| print.question(None, Some(code.parse().unwrap())).unwrap();
        assert_eq!((region("4403").shape, region("4401").value == region("4403").value), (region("4401").shape, false));
        assert_ne!(Fingerprint::new([2; 32]).of(["a"]), print.of(["a"]), "another key, other numbers");
        assert_ne!(print.of(["a", "b"]), print.of(["ab"]));
        assert_eq!(format!("{print:?}"), "Fingerprint", "its key is nobody's to read");
    }

    #[test]
    fn of_many_keys_as_many_leave_a_mark_as_is_said() {
        let print = Fingerprint::new([3; 32]);
        for set in KeySet::ALL {
            let keys = 200 * set.keys_per_mark();
            let marks = (0..keys).filter(|key| set.marks(print.of_key(*key))).count();
            assert!((140..260).contains(&marks), "{set:?}: {marks} of about 200");
        }
        assert_ne!(KeySet::Missing.shape(), KeySet::Any.shape());
        assert_ne!(Fingerprint::new([4; 32]).of_key(1), print.of_key(1));
    }

    #[test]
    fn words_of_refusals_have_their_kind() {
        for (word, kind) in [
            ("columns_outside_scope", Some(Refusal::OutsideScope)),
            ("network_outside_scope", Some(Refusal::OutsideScope)),
            ("purpose_outside_scope", Some(Refusal::Purpose)),
            ("period_ended", Some(Refusal::AfterEnd)),
            ("volume_used_up", Some(Refusal::AboveLimit)),
            ("no_grant", Some(Refusal::NotThere)),
            ("grant_suspended", None),
            ("stopped", None),
            ("given", None),
            ("busy", None),
        ] {
            assert_eq!(Refusal::of(word), kind, "{word}");
        }
    }
}
