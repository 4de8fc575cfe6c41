//! 政务数据目录条目: submitted, then published or returned. A new version keeps the id, and the one before it stays in
//! force until the new one is published.

use super::error::Refusal;
use super::fact::{Act, Fact};
use super::text;
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::Review;
use lingqu_protocol::entry::EntryCode;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{DocumentId, EntryId};

/// One submitted text of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryVersion {
    /// 1 for the first text, one more with each.
    pub number: u32,
    /// The signed document that holds the text.
    pub document: DocumentId,
    /// Digest of its payload.
    pub digest: Digest,
    /// When it was submitted.
    pub at: Timestamp,
}

/// The text that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Which text.
    pub version: EntryVersion,
    /// entry.toml, verbatim.
    pub toml: String,
    /// Since when it is published.
    pub since: Timestamp,
}

/// What became of the latest text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Latest {
    /// It is the one in force.
    Published,
    /// The authority has not reviewed it yet.
    Submitted,
    /// The authority sent it back.
    Returned {
        /// Why.
        why: String,
        /// When.
        at: Timestamp,
    },
}

/// A catalogue entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id, the same for all its texts.
    pub id: EntryId,
    /// Whose data it is.
    pub provider: CreditCode,
    /// Its code, once it was published.
    pub code: Option<EntryCode>,
    /// The text in force.
    pub published: Option<Published>,
    /// The latest text, in force or not.
    pub latest: EntryVersion,
    /// What became of it.
    pub is: Latest,
}

/// A text that is handed in.
#[derive(Clone, Copy, Debug)]
pub struct Submission {
    /// The document.
    pub document: DocumentId,
    /// Digest of its payload.
    pub digest: Digest,
    /// The text that it follows.
    pub predecessor: Option<Digest>,
}

impl Entry {
    /// Submits the first or another text. `code` is the code in the text.
    ///
    /// # Errors
    /// Another agency's entry, a text that follows another than the latest, or a code that changes.
    pub fn submit(
        current: Option<&Self>,
        id: EntryId,
        provider: CreditCode,
        code: Option<&EntryCode>,
        by: Submission,
        now: Timestamp,
    ) -> Result<(Self, Fact), Refusal> {
        let latest = current.map(|entry| entry.latest);
        if let Some(entry) = current.filter(|entry| entry.provider != provider) {
            // To others an entry that was never published does not exist.
            return Err(match entry.published {
                Some(_) => Refusal::NotProvider(id.to_string()),
                None => Refusal::not_found("entry", &id.to_string()),
            });
        }
        follows(latest.map(|v| v.digest), by.predecessor)?;
        if let (Some(is), Some(given)) = (current.and_then(|c| c.code.as_ref()), code) {
            same_code(is, given)?;
        }
        let number = latest.map_or(0, |v| v.number).saturating_add(1);
        let version = EntryVersion { number, document: by.document, digest: by.digest, at: now };
        let entry = match current {
            Some(entry) => Self { latest: version, is: Latest::Submitted, ..entry.clone() },
            None => Self { id, provider, code: None, published: None, latest: version, is: Latest::Submitted },
        };
        Ok((entry, Fact::new(Act::EntrySubmitted, id, Some(provider)).by(by.digest)))
    }

    /// Reviews the submitted text. `toml` is that text, and `code` the code in it.
    ///
    /// # Errors
    /// Nothing submitted, signed against another text, or no code or two.
    pub fn review(
        &self,
        decision: &Review,
        toml: &str,
        code: Option<&EntryCode>,
        predecessor: Option<Digest>,
        review: Digest,
        now: Timestamp,
    ) -> Result<(Self, Fact), Refusal> {
        if self.is != Latest::Submitted {
            return Err(Refusal::WrongState {
                what: "entry",
                id: self.id.to_string(),
                is: self.status(),
                needed: "submitted",
            });
        }
        let version = self.latest;
        follows(Some(version.digest), predecessor)?;
        match decision {
            Review::Return { why } => {
                let why = text::reason(why)?;
                let fact = Fact::new(Act::EntryReturned, self.id, Some(self.provider)).by(review).because(&why);
                Ok((Self { is: Latest::Returned { why, at: now }, ..self.clone() }, fact))
            }
            Review::Approve { code: given } => {
                let given: Option<EntryCode> = match given {
                    Some(text) => Some(
                        text.parse()
                            .map_err(|e| Refusal::Spec { what: "the review's code", problem: format!("{e}") })?,
                    ),
                    None => None,
                };
                // The code it has, the one in its text and the one in the review: at least one, and all the same.
                let mut known = [self.code.as_ref(), code, given.as_ref()].into_iter().flatten();
                let first = known.next().ok_or(Refusal::CodeMissing)?.clone();
                known.try_for_each(|other| same_code(&first, other))?;
                let fact = Fact::new(Act::EntryPublished, self.id, Some(self.provider)).by(review).on(&first);
                let published = Some(Published { version, toml: toml.to_owned(), since: now });
                Ok((Self { code: Some(first), published, is: Latest::Published, ..self.clone() }, fact))
            }
        }
    }

    /// `published` where a text is in force, else what became of the latest.
    pub fn status(&self) -> &'static str {
        match (&self.published, &self.is) {
            (Some(_), _) | (None, Latest::Published) => "published",
            (None, Latest::Submitted) => "submitted",
            (None, Latest::Returned { .. }) => "returned",
        }
    }
}

/// Refuses a document that was signed against another text than the one that stands here.
///
/// # Errors
/// [`Refusal::Predecessor`].
pub(super) fn follows(stands: Option<Digest>, named: Option<Digest>) -> Result<(), Refusal> {
    if stands == named {
        return Ok(());
    }
    let text = |digest: Option<Digest>| digest.map_or_else(|| "nothing".to_owned(), |d| d.to_string());
    Err(Refusal::Predecessor { expected: text(stands), found: text(named) })
}

fn same_code(is: &EntryCode, given: &EntryCode) -> Result<(), Refusal> {
    if is == given {
        return Ok(());
    }
    Err(Refusal::CodeChanged { is: is.to_string(), given: given.to_string() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: EntryId = EntryId::from_bits(1);

    fn home() -> CreditCode {
        CreditCode::parse("91350100M000100Y43").unwrap()
    }

    fn code(text: &str) -> EntryCode {
        text.parse().unwrap()
    }

    fn digest(n: u32) -> Digest {
        Digest::sha256(&n.to_be_bytes())
    }

    fn by(n: u32, predecessor: Option<u32>) -> Submission {
        Submission {
            document: DocumentId::from_bits(n.into()),
            digest: digest(n),
            predecessor: predecessor.map(digest),
        }
    }

    fn submitted() -> Entry {
        Entry::submit(None, ID, home(), None, by(1, None), Timestamp(1)).unwrap().0
    }

    fn approve(code: Option<&str>) -> Review {
        Review::Approve { code: code.map(str::to_owned) }
    }

    #[test]
    fn submitted_published_and_a_new_version_beside_the_one_in_force() {
        let entry = submitted();
        assert_eq!(entry.status(), "submitted");
        let review =
            |e: &Entry, d: &Review, p: u32| e.review(d, "toml", None, Some(digest(p)), digest(90), Timestamp(2));
        assert!(matches!(review(&entry, &approve(None), 1), Err(Refusal::CodeMissing)));
        assert!(matches!(review(&entry, &approve(Some("x")), 1), Err(Refusal::Spec { .. })));
        assert!(matches!(review(&entry, &approve(Some("307010/000001")), 2), Err(Refusal::Predecessor { .. })));
        let (published, fact) = review(&entry, &approve(Some("307010/000001")), 1).unwrap();
        assert_eq!((published.status(), fact.act), ("published", Act::EntryPublished));
        assert!(matches!(review(&published, &approve(None), 1), Err(Refusal::WrongState { .. })));

        let again = Entry::submit(Some(&published), ID, home(), None, by(2, None), Timestamp(3));
        assert!(matches!(again, Err(Refusal::Predecessor { .. })), "a new text follows the one before");
        let (second, _) = Entry::submit(Some(&published), ID, home(), None, by(2, Some(1)), Timestamp(3)).unwrap();
        assert_eq!(second.latest.number, 2);
        assert_eq!(second.published, published.published, "the first stays in force");
        let (returned, _) = review(&second, &Review::Return { why: "缺数据项".into() }, 2).unwrap();
        assert_eq!(returned.published, published.published);
        assert_eq!(returned.latest.number, 2);
    }

    #[test]
    fn another_agency_neither_changes_it_nor_learns_of_it() {
        let away = CreditCode::parse("91512081MA62K0260E").unwrap();
        let other = |e: &Entry| Entry::submit(Some(e), ID, away, None, by(2, Some(1)), Timestamp(3)).unwrap_err();
        assert!(matches!(other(&submitted()), Refusal::NotFound { .. }));
        let decision = approve(Some("307010/000001"));
        let (published, _) =
            submitted().review(&decision, "t", None, Some(digest(1)), digest(90), Timestamp(2)).unwrap();
        assert!(matches!(other(&published), Refusal::NotProvider(_)));
    }

    #[test]
    fn an_entry_has_one_code_for_good() {
        let entry = submitted();
        let (mine, other) = (code("307010/000001"), code("307010/000002"));
        let review = |given, own| {
            entry.review(&approve(given), "t", own, Some(digest(1)), digest(90), Timestamp(2)).map(|(e, _)| e)
        };
        assert!(matches!(review(Some("307010/000002"), Some(&mine)), Err(Refusal::CodeChanged { .. })));
        let published = review(None, Some(&mine)).unwrap();
        assert_eq!(published.code, Some(mine));
        let changed = Entry::submit(Some(&published), ID, home(), Some(&other), by(2, Some(1)), Timestamp(3));
        assert!(matches!(changed, Err(Refusal::CodeChanged { .. })));
    }

    proptest! {
        #[test]
        fn what_is_published_stays_published_and_numbers_only_grow(steps in prop::collection::vec(0u8..3, 0..30)) {
            let mut entry: Option<Entry> = None;
            let mut last = 0;
            for (i, step) in steps.into_iter().enumerate() {
                let n = i as u32 + 1;
                let before = entry.clone();
                let next = match (step, &entry) {
                    (0, e) => Entry::submit(
                        e.as_ref(),
                        ID,
                        home(),
                        None,
                        Submission { document: DocumentId::from_bits(1), digest: digest(n),
                            predecessor: e.as_ref().map(|e| e.latest.digest) },
                        Timestamp(1),
                    ).ok(),
                    (_, None) => None,
                    (1, Some(e)) => e.review(&approve(Some("307010/000001")), "t", None,
                        Some(e.latest.digest), digest(0), Timestamp(2)).ok(),
                    (_, Some(e)) => e.review(&Review::Return { why: "w".into() }, "t", None,
                        Some(e.latest.digest), digest(0), Timestamp(2)).ok(),
                };
                if let Some((next, _)) = next { entry = Some(next); }
                if let (Some(before), Some(after)) = (before, &entry) {
                    prop_assert!(before.published.is_none() || after.published.is_some());
                    prop_assert!(after.latest.number >= last);
                    last = after.latest.number;
                    prop_assert!(after.latest.number > 0);
                }
            }
        }
    }
}
