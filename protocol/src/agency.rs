//! Who takes part: an agency by its unified social credit code (统一社会信用代码, GB 32100), and an agent of it by name.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// The characters of a credit code, in the order of their values: no letter that is read as a digit.
const ALPHABET: &[u8; 31] = b"0123456789ABCDEFGHJKLMNPQRTUWXY";

/// Weights of the first 17 characters, as GB 32100 gives them.
const WEIGHTS: [usize; 17] = [1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28];

/// Characters that an agent's name may have: a host name's label and one more.
pub const AGENT_NAME_CHARS_MAX: usize = 64;

/// A unified social credit code whose check character is right.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CreditCode([u8; 18]);

/// A text that is not a credit code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCreditCode {
    /// Not 18 characters.
    #[error("a credit code has 18 characters, not {0}: copy it again from the agency's certificate")]
    Length(usize),
    /// A character that no code has.
    #[error(
        "character {position} of a credit code cannot be {found:?}: digits and capital letters but for I, O, S, V, Z"
    )]
    Character {
        /// Which character, from 1.
        position: usize,
        /// What is there.
        found: char,
    },
    /// The check character is wrong.
    #[error("the last character of {text} does not fit the others (expected {expected}): one of them was mistyped")]
    Check {
        /// The text as given.
        text: String,
        /// The check character that the first 17 ask for.
        expected: char,
    },
}

impl CreditCode {
    /// Reads a code: 18 characters in capitals, the last of which checks the others.
    ///
    /// # Errors
    /// Names the first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, BadCreditCode> {
        let count = text.chars().count();
        if count != WEIGHTS.len() + 1 {
            return Err(BadCreditCode::Length(count));
        }
        let mut code = [0; 18];
        let mut values = [0; 18];
        for (i, found) in text.chars().enumerate() {
            let value = ALPHABET.iter().position(|a| char::from(*a) == found);
            let value = value.ok_or(BadCreditCode::Character { position: i + 1, found })?;
            code[i] = ALPHABET[value];
            values[i] = value;
        }
        let sum: usize = WEIGHTS.iter().zip(values).map(|(w, v)| w * v).sum();
        let expected = ALPHABET[(31 - sum % 31) % 31];
        if code[17] != expected {
            return Err(BadCreditCode::Check { text: text.to_owned(), expected: char::from(expected) });
        }
        Ok(Self(code))
    }

    /// Its 18 characters.
    pub fn as_str(&self) -> &str {
        // Every byte came from ALPHABET.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for CreditCode {
    type Err = BadCreditCode;
    fn from_str(text: &str) -> Result<Self, BadCreditCode> {
        Self::parse(text)
    }
}

impl fmt::Display for CreditCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for CreditCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An agent's name within its agency: 1 to 64 of `a-z`, `0-9` and `-`, not beginning with `-`. It lies in place: who is
/// told apart by names, as the gate does for every request, reads no other memory for them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentName {
    /// Zeros behind the name: names are in the order of their texts.
    bytes: [u8; AGENT_NAME_CHARS_MAX],
    len: u8,
}

impl Hash for AgentName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.written().hash(state);
    }
}

/// A text that is not an agent's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an agent's name has 1 to 64 of a-z, 0-9 and -, and does not begin with -")]
pub struct BadAgentName;

impl AgentName {
    /// Reads a name.
    ///
    /// # Errors
    /// Where it breaks the rule.
    pub fn parse(text: &str) -> Result<Self, BadAgentName> {
        let fits = (1..=AGENT_NAME_CHARS_MAX).contains(&text.len());
        let known = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits || !known || text.starts_with('-') {
            return Err(BadAgentName);
        }
        let mut bytes = [0; AGENT_NAME_CHARS_MAX];
        bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        Ok(Self { bytes, len: text.len() as u8 })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        // Every byte of it is one of ASCII.
        std::str::from_utf8(self.written()).unwrap_or_default()
    }

    fn written(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl FromStr for AgentName {
    type Err = BadAgentName;
    fn from_str(text: &str) -> Result<Self, BadAgentName> {
        Self::parse(text)
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One agent: its agency and its name there, written `CODE/NAME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId {
    /// The agency.
    pub agency: CreditCode,
    /// The agent's name there.
    pub name: AgentName,
}

/// A text that names no agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAgentId {
    /// No `/` between code and name.
    #[error("an agent is written CODE/NAME: the agency's credit code, a slash and the agent's name")]
    Form,
    /// The agency.
    #[error(transparent)]
    Agency(#[from] BadCreditCode),
    /// The name.
    #[error(transparent)]
    Name(#[from] BadAgentName),
    /// Not the address of an agent in this domain.
    #[error("not the address of an agent here: expected spiffe://{domain}/agency/CODE/agent/NAME")]
    Uri {
        /// The domain that was asked for.
        domain: String,
    },
}

impl AgentId {
    /// Its address in a certificate: `spiffe://<domain>/agency/<code>/agent/<name>`.
    pub fn to_uri(&self, domain: &str) -> String {
        format!("spiffe://{domain}/agency/{}/agent/{}", self.agency, self.name)
    }

    /// Reads the address of an agent of `domain`. Only the form that [`to_uri`](Self::to_uri) writes is read: no other
    /// case, escape, query or spare slash, so that one agent has one address.
    ///
    /// # Errors
    /// Where it is another's address, or code or name is wrong.
    pub fn from_uri(uri: &str, domain: &str) -> Result<Self, BadAgentId> {
        let path = uri.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(domain));
        let path = path.and_then(|rest| rest.strip_prefix("/agency/"));
        let parts = path.and_then(|rest| rest.split_once("/agent/"));
        let (code, name) = parts.ok_or_else(|| BadAgentId::Uri { domain: domain.to_owned() })?;
        Ok(Self { agency: CreditCode::parse(code)?, name: AgentName::parse(name)? })
    }
}

impl FromStr for AgentId {
    type Err = BadAgentId;
    fn from_str(text: &str) -> Result<Self, BadAgentId> {
        let (code, name) = text.split_once('/').ok_or(BadAgentId::Form)?;
        Ok(Self { agency: CreditCode::parse(code)?, name: AgentName::parse(name)? })
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.agency, self.name)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VALID: [&str; 3] = ["91350100M000100Y43", "91512081MA62K0260E", "91330100799655058B"];

    #[test]
    fn published_codes_are_read_and_written_back() {
        for text in VALID {
            assert_eq!(CreditCode::parse(text).map(|c| c.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn a_wrong_check_character_length_or_letter_is_named() {
        assert!(matches!(CreditCode::parse("91350100M000100Y4Z"), Err(BadCreditCode::Character { position: 18, .. })));
        assert_eq!(
            CreditCode::parse("91350100M000100Y44"),
            Err(BadCreditCode::Check { text: "91350100M000100Y44".to_owned(), expected: '3' })
        );
        assert_eq!(CreditCode::parse("91350100M000100Y4"), Err(BadCreditCode::Length(17)));
        assert!(matches!(CreditCode::parse("91350100m000100Y43"), Err(BadCreditCode::Character { position: 9, .. })));
        assert!(matches!(CreditCode::parse("９1350100M000100Y43"), Err(BadCreditCode::Character { position: 1, .. })));
    }

    #[test]
    fn one_agent_has_one_address() {
        let id: AgentId = "91350100M000100Y43/main-1".parse().unwrap();
        let uri = id.to_uri("lingqu.test");
        assert_eq!(uri, "spiffe://lingqu.test/agency/91350100M000100Y43/agent/main-1");
        assert_eq!(format!("{id:?} {id}"), "91350100M000100Y43/main-1 91350100M000100Y43/main-1");
        assert_eq!(AgentId::from_uri(&uri, "lingqu.test"), Ok(id));
        for wrong in [
            "spiffe://lingqu.test/agency/91350100M000100Y43/agent/main-1/",
            "spiffe://lingqu.test/agency/91350100M000100Y43/agent/Main-1",
            "spiffe://lingqu.test/agency/91350100M000100Y43/agent/",
            "spiffe://lingqu.test/agency/91350100M000100Y43/agent/a?b",
            "spiffe://lingqu.test.evil/agency/91350100M000100Y43/agent/main-1",
            "spiffe://evil/agency/91350100M000100Y43/agent/main-1",
            "SPIFFE://lingqu.test/agency/91350100M000100Y43/agent/main-1",
            "https://lingqu.test/agency/91350100M000100Y43/agent/main-1",
        ] {
            assert!(AgentId::from_uri(wrong, "lingqu.test").is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_keep_to_their_rule() {
        let longest = "a".repeat(AGENT_NAME_CHARS_MAX);
        for good in ["a", "0", "a-", "county-office-3", longest.as_str()] {
            assert!(AgentName::parse(good).is_ok(), "{good}");
        }
        let longer = "a".repeat(AGENT_NAME_CHARS_MAX + 1);
        for bad in ["", "-a", "A", "a_b", "a/b", "a b", "名", longer.as_str()] {
            assert!(AgentName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_told_apart_and_ordered_as_their_texts() {
        let hash = |text: &str| {
            let mut hasher = std::hash::DefaultHasher::new();
            AgentName::parse(text).unwrap().hash(&mut hasher);
            hasher.finish()
        };
        assert_eq!(hash("main-1"), hash("main-1"));
        assert_ne!(hash("main-1"), hash("main-2"));
        let texts = ["0", "a", "a-", "a0", "aa", "b", "main-1"];
        for one in texts {
            let name = AgentName::parse(one).unwrap();
            assert_eq!((name.as_str(), name.to_string()), (one, one.to_owned()));
            for other in texts {
                assert_eq!(name.cmp(&AgentName::parse(other).unwrap()), one.cmp(other), "{one} {other}");
            }
        }
    }

    proptest! {
        #[test]
        fn one_changed_character_is_always_found(which in 0..3usize, at in 0..18usize, to in 0..31usize) {
            let mut code = VALID[which].as_bytes().to_vec();
            prop_assume!(code[at] != ALPHABET[to]);
            code[at] = ALPHABET[to];
            prop_assert!(CreditCode::parse(std::str::from_utf8(&code).unwrap()).is_err());
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}", domain in "[a-z.]{0,9}") {
            let _ = CreditCode::parse(&text);
            let _ = text.parse::<AgentId>();
            let _ = AgentId::from_uri(&text, &domain);
            let _ = AgentId::from_uri(&format!("spiffe://{domain}/agency/{text}"), &domain);
        }

        #[test]
        fn ids_round_trip(which in 0..3usize, name in "[a-z0-9][a-z0-9-]{0,63}") {
            let id = AgentId { agency: VALID[which].parse().unwrap(), name: name.parse().unwrap() };
            prop_assert_eq!(id.to_string().parse(), Ok(id.clone()));
            prop_assert_eq!(AgentId::from_uri(&id.to_uri("d.cn"), "d.cn"), Ok(id));
        }
    }
}
