//! 共享申请: submitted, then answered once, with a grant or with a reason.

use super::entry::follows;
use super::error::Refusal;
use super::fact::{Act, Fact};
use super::text;
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::ApplicationBody;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{ApplicationId, DocumentId, EntryId, GrantId};

/// Bytes of application.toml: the longest predicate, thousands of columns, and a grant still has room for two of them.
pub const APPLICATION_BYTES_MAX: usize = 192 * 1024;

/// An application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Its id.
    pub id: ApplicationId,
    /// Who asks.
    pub requester: CreditCode,
    /// For what.
    pub entry: EntryId,
    /// Whose that is.
    pub provider: CreditCode,
    /// application.toml, verbatim.
    pub toml: String,
    /// The signed document.
    pub document: DocumentId,
    /// Digest of its payload: what an answer follows.
    pub digest: Digest,
    /// When it was submitted: the clock of article 21 starts.
    pub submitted_at: Timestamp,
    /// Whether it was answered.
    pub status: ApplicationStatus,
}

/// Whether an application was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplicationStatus {
    /// Not yet.
    Submitted,
    /// 同意.
    Approved {
        /// The grant that followed.
        grant: GrantId,
        /// Digest of the answer.
        answer: Digest,
        /// When.
        at: Timestamp,
    },
    /// 不同意.
    Refused {
        /// Why.
        why: String,
        /// Digest of the answer.
        answer: Digest,
        /// When.
        at: Timestamp,
    },
}

impl ApplicationStatus {
    /// Its word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Approved { .. } => "approved",
            Self::Refused { .. } => "refused",
        }
    }
}

impl Application {
    /// Takes an application. That its scope fits the entry was checked by the caller.
    ///
    /// # Errors
    /// The declaration is missing, or the text is too long.
    pub fn submit(
        body: &ApplicationBody,
        requester: CreditCode,
        (entry, provider): (EntryId, CreditCode),
        (document, digest): (DocumentId, Digest),
        now: Timestamp,
    ) -> Result<(Self, Fact), Refusal> {
        if !body.declared_true_lawful_necessary {
            return Err(Refusal::NotDeclared);
        }
        if body.toml.len() > APPLICATION_BYTES_MAX {
            let problem = format!("has {} bytes, and {APPLICATION_BYTES_MAX} are the most", body.toml.len());
            return Err(Refusal::Spec { what: "application.toml", problem });
        }
        let id = body.application;
        let fact = Fact::new(Act::ApplicationSubmitted, id, Some(requester)).on(entry).by(digest);
        let application = Self {
            id,
            requester,
            entry,
            provider,
            toml: body.toml.clone(),
            document,
            digest,
            submitted_at: now,
            status: ApplicationStatus::Submitted,
        };
        Ok((application, fact))
    }

    /// The provider agrees, and `grant` follows.
    ///
    /// # Errors
    /// Answered already, or signed against another text.
    pub fn approve(
        &self,
        grant: GrantId,
        predecessor: Option<Digest>,
        answer: Digest,
        now: Timestamp,
    ) -> Result<(Self, Fact), Refusal> {
        self.is_open(predecessor)?;
        let fact = Fact::new(Act::ApplicationApproved, self.id, Some(self.requester)).on(grant).by(answer);
        Ok((Self { status: ApplicationStatus::Approved { grant, answer, at: now }, ..self.clone() }, fact))
    }

    /// The provider refuses, with a reason.
    ///
    /// # Errors
    /// Answered already, signed against another text, or no good reason.
    pub fn refuse(
        &self,
        why: &str,
        predecessor: Option<Digest>,
        answer: Digest,
        now: Timestamp,
    ) -> Result<(Self, Fact), Refusal> {
        self.is_open(predecessor)?;
        let why = text::reason(why)?;
        let fact = Fact::new(Act::ApplicationRefused, self.id, Some(self.requester)).by(answer).because(&why);
        Ok((Self { status: ApplicationStatus::Refused { why, answer, at: now }, ..self.clone() }, fact))
    }

    fn is_open(&self, predecessor: Option<Digest>) -> Result<(), Refusal> {
        if self.status != ApplicationStatus::Submitted {
            return Err(Refusal::WrongState {
                what: "application",
                id: self.id.to_string(),
                is: self.status.word(),
                needed: "submitted",
            });
        }
        follows(Some(self.digest), predecessor)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn submitted() -> Application {
        let body = ApplicationBody {
            application: ApplicationId::from_bits(1),
            agency: "91350100M000100Y43".into(),
            toml: "toml".into(),
            declared_true_lawful_necessary: true,
        };
        let requester = CreditCode::parse("91350100M000100Y43").unwrap();
        let provider = CreditCode::parse("91512081MA62K0260E").unwrap();
        let document = (DocumentId::from_bits(3), Digest::sha256(b"application"));
        Application::submit(&body, requester, (EntryId::from_bits(2), provider), document, Timestamp(1)).unwrap().0
    }

    #[test]
    fn it_declares_and_it_is_bounded() {
        let one = submitted();
        let submit = |toml: String, declared| {
            let body = ApplicationBody {
                application: one.id,
                agency: one.requester.to_string(),
                toml,
                declared_true_lawful_necessary: declared,
            };
            Application::submit(
                &body,
                one.requester,
                (one.entry, one.provider),
                (one.document, one.digest),
                Timestamp(1),
            )
        };
        assert!(submit("t".into(), true).is_ok());
        assert!(matches!(submit("t".into(), false), Err(Refusal::NotDeclared)));
        assert!(submit("t".repeat(APPLICATION_BYTES_MAX), true).is_ok());
        assert!(matches!(submit("t".repeat(APPLICATION_BYTES_MAX + 1), true), Err(Refusal::Spec { .. })));
    }

    proptest! {
        #[test]
        fn it_is_answered_once_and_only_against_its_own_text(steps in prop::collection::vec((0u8..2, any::<bool>()), 1..12)) {
            let mut application = submitted();
            let mut answers = 0;
            for (i, (step, right)) in steps.into_iter().enumerate() {
                let predecessor = right.then_some(application.digest);
                let answer = Digest::sha256(&[i as u8]);
                let next = match step {
                    0 => application.approve(GrantId::from_bits(i as u128), predecessor, answer, Timestamp(2)),
                    _ => application.refuse("why", predecessor, answer, Timestamp(2)),
                };
                if let Ok((next, _)) = next {
                    prop_assert!(right);
                    answers += 1;
                    application = next;
                }
            }
            prop_assert!(answers <= 1);
        }
    }
}
