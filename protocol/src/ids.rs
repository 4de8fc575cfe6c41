//! Names of things that are made at run time: 128 random bits behind a prefix that says what they name.

use crate::host::Entropy;
use std::fmt;
use std::io;
use std::str::FromStr;

/// Crockford's alphabet in lower case: no letter that is read as another, safe in file names and addresses.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Characters that 128 bits take at 5 bits each.
const BODY_LEN: usize = 26;

/// An identifier that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {article} identifier: expected {prefix}- and 26 letters or digits")]
pub struct BadId {
    /// What was given, cut to a length that can be shown.
    pub text: String,
    article: &'static str,
    prefix: &'static str,
}

fn encode(prefix: &str, bits: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut body = [0u8; BODY_LEN];
    for (i, slot) in body.iter_mut().enumerate() {
        let shift = 5 * (BODY_LEN - 1 - i);
        *slot = ALPHABET[((bits >> shift) & 31) as usize];
    }
    write!(f, "{prefix}-{}", std::str::from_utf8(&body).unwrap_or_default())
}

fn decode(prefix: &str, text: &str) -> Option<u128> {
    let body = text.strip_prefix(prefix)?.strip_prefix('-')?.as_bytes();
    if body.len() != BODY_LEN {
        return None;
    }
    body.iter().enumerate().try_fold(0u128, |bits, (i, c)| {
        let digit = ALPHABET.iter().position(|a| a == c)? as u128;
        // 26 characters hold 130 bits; the first may use three of its five.
        if i == 0 && digit > 7 { None } else { Some(bits << 5 | digit) }
    })
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $article:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// A new one from 128 random bits.
            ///
            /// # Errors
            /// When the system's generator fails.
            pub fn random(entropy: &dyn Entropy) -> io::Result<Self> {
                let mut bits = [0; 16];
                entropy.fill(&mut bits)?;
                Ok(Self(u128::from_be_bytes(bits)))
            }
            /// The one with exactly these bits.
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }
            /// Its 128 bits.
            pub const fn bits(self) -> u128 {
                self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                encode($prefix, self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                decode($prefix, text).map(Self).ok_or_else(|| BadId {
                    text: text.chars().take(80).collect(),
                    article: $article,
                    prefix: $prefix,
                })
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

identifier!(/// A catalogue entry (政务数据目录条目).
    EntryId, "entry", "an entry");
identifier!(/// An application (共享申请).
    ApplicationId, "application", "an application");
identifier!(/// A grant (共享权限).
    GrantId, "grant", "a grant");
identifier!(/// A transfer, fixed in the agent's outbox before its first byte.
    TransferId, "transfer", "a transfer");
identifier!(/// A signed document, made by the one who drafts it.
    DocumentId, "document", "a document");
identifier!(/// What a rule found (疑似问题线索).
    FindingId, "finding", "a finding");
identifier!(/// A standing order under which rules may cut.
    OrderId, "order", "a standing order");
identifier!(/// A published list of what flows back to whom (回流清单).
    ListId, "list", "a backflow list");
identifier!(/// A gateway; every signed document is bound to one.
    GatewayId, "gateway", "a gateway");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bits_round_trip() {
        for bits in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let id = GrantId::from_bits(bits);
            assert_eq!(id.to_string().parse::<GrantId>(), Ok(id));
            assert_eq!(id.to_string().len(), "grant-".len() + BODY_LEN);
        }
    }

    #[test]
    fn another_kind_a_wrong_length_and_spare_bits_are_refused() {
        let id = EntryId::from_bits(7).to_string();
        assert!(id.parse::<GrantId>().is_err());
        assert!(id[..id.len() - 1].parse::<EntryId>().is_err());
        assert!(format!("{id}0").parse::<EntryId>().is_err());
        assert!("entry-8zzzzzzzzzzzzzzzzzzzzzzzzz".parse::<EntryId>().is_err());
        assert!("entry-7zzzzzzzzzzzzzzzzzzzzzzzzz".parse::<EntryId>().is_ok());
        assert!("entry-7zzzzzzzzzzzzzzzzzzzzzzzzu".parse::<EntryId>().is_err());
    }
}
