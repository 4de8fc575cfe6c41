//! 共享权限: in force, suspended, in force again, or terminated for good. That a grant's period ended is a reading of the
//! clock, not a state.

use super::application::{APPLICATION_BYTES_MAX, Application};
use super::entry::follows;
use super::error::Refusal;
use super::fact::{Act, Fact};
use super::text;
use lingqu_certs::document::DRAFTER_AHEAD_MS_MAX;
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::{Day, GrantAct};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{ApplicationId, EntryId, GrantId};
use lingqu_protocol::scope::midnight;

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// The application that it answers.
    pub application: ApplicationId,
    /// What it grants.
    pub entry: EntryId,
    /// Whose that is.
    pub provider: CreditCode,
    /// To whom.
    pub requester: CreditCode,
    /// What was asked for, verbatim.
    pub application_toml: String,
    /// The answer's scope file, verbatim, where less was granted than was asked for.
    pub scope_toml: Option<String>,
    /// The columns, where the texts name structures: the leaves that those had when the grant was made. What the entry gets
    /// below them later was not granted.
    pub leaves: Option<Vec<String>>,
    /// Digest of the answer: another digest is another scope.
    pub answer: Digest,
    /// Digest of the last document about it: what an act on it follows.
    pub digest: Digest,
    /// When it was made.
    pub made_at: Timestamp,
    /// Whether it may be used.
    pub status: GrantStatus,
}

/// Whether a grant may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantStatus {
    /// It may, within its period.
    InForce,
    /// 暂停.
    Suspended {
        /// Why.
        reason: String,
        /// By which agency.
        by: CreditCode,
        /// Since when.
        since: Timestamp,
        /// 限期整改: what has to be put right by when, where that was ordered.
        rectify: Option<Rectification>,
    },
    /// 终止.
    Terminated {
        /// Why.
        reason: String,
        /// Since when.
        since: Timestamp,
    },
}

/// 限期整改 (article 27).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rectification {
    /// The last day, in China Standard Time.
    pub by: Day,
    /// What has to be put right.
    pub reason: String,
    /// When it was ordered.
    pub ordered_at: Timestamp,
}

impl Rectification {
    /// Whether its last day is over.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.by.0.succ_opt().is_some_and(|next| midnight(next) <= now)
    }
}

/// Days ahead that a rectification may be given: what takes longer is a new application.
pub const RECTIFY_DAYS_MAX: i64 = 366;

impl GrantStatus {
    /// Its word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::InForce => "in_force",
            Self::Suspended { .. } => "suspended",
            Self::Terminated { .. } => "terminated",
        }
    }
}

/// A signed act on a grant.
#[derive(Clone, Copy, Debug)]
pub struct SignedAct<'a> {
    /// What is done.
    pub act: GrantAct,
    /// Why.
    pub reason: &'a str,
    /// Digest of the act's document.
    pub digest: Digest,
    /// The document that it follows.
    pub predecessor: Option<Digest>,
    /// When it was drafted.
    pub issued_at: Timestamp,
}

impl Grant {
    /// The grant that follows an answer. That its scope is within what was asked for was checked by the caller.
    ///
    /// # Errors
    /// A scope file that is too long.
    pub fn make(
        application: &Application,
        id: GrantId,
        scope_toml: Option<&str>,
        answer: Digest,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        if let Some(long) = scope_toml.filter(|s| s.len() > APPLICATION_BYTES_MAX) {
            let problem = format!("has {} bytes, and {APPLICATION_BYTES_MAX} are the most", long.len());
            return Err(Refusal::Spec { what: "the scope file", problem });
        }
        Ok(Self {
            id,
            application: application.id,
            entry: application.entry,
            provider: application.provider,
            requester: application.requester,
            application_toml: application.toml.clone(),
            scope_toml: scope_toml.map(str::to_owned),
            leaves: None,
            answer,
            digest: answer,
            made_at: now,
            status: GrantStatus::InForce,
        })
    }

    /// Suspends it. `None` where it is suspended already: the first reason stands.
    ///
    /// # Errors
    /// It was terminated, or the reason is not good.
    pub fn suspend(&self, by: CreditCode, reason: &str, now: Timestamp) -> Result<Option<(Self, Fact)>, Refusal> {
        let reason = text::reason(reason)?;
        match self.status {
            GrantStatus::Suspended { .. } => Ok(None),
            GrantStatus::Terminated { .. } => Err(self.wrong("in_force")),
            GrantStatus::InForce => {
                let fact = Fact::new(Act::GrantSuspended, self.id, Some(self.requester)).on(by).because(&reason);
                Ok(Some((
                    Self { status: GrantStatus::Suspended { reason, by, since: now, rectify: None }, ..self.clone() },
                    fact,
                )))
            }
        }
    }

    /// Does what an officer of `by` signed.
    ///
    /// # Errors
    /// A state that does not allow it, a document that follows another, one drafted before the suspension that it would
    /// lift, or a reason that is not good.
    pub fn act(&self, by: CreditCode, signed: SignedAct<'_>, now: Timestamp) -> Result<(Self, Fact), Refusal> {
        let reason = text::reason(signed.reason)?;
        let digest = signed.digest;
        let (act, status) = match (signed.act, &self.status) {
            (GrantAct::Reinstate, GrantStatus::Suspended { since, .. }) => {
                // A suspension is lifted by someone who knew of it. Clocks may differ by what any drafter's may.
                if signed.issued_at.plus_ms(DRAFTER_AHEAD_MS_MAX) < *since {
                    let (drafted, since) = (signed.issued_at.to_string(), since.to_string());
                    return Err(Refusal::ActTooOld { drafted, since });
                }
                (Act::GrantReinstated, GrantStatus::InForce)
            }
            (GrantAct::Reinstate, _) => return Err(self.wrong("suspended")),
            (GrantAct::Rectify { .. }, GrantStatus::Terminated { .. }) => {
                return Err(self.wrong("in_force or suspended"));
            }
            (GrantAct::Rectify { by: day }, status) => {
                let ahead_ms = midnight(day.0).0.saturating_sub(now.0);
                let order = Rectification { by: day, reason: reason.clone(), ordered_at: now };
                if order.is_overdue(now) || ahead_ms > RECTIFY_DAYS_MAX * 24 * 3_600_000 {
                    let problem = format!("{day} is over already, or more than {RECTIFY_DAYS_MAX} days ahead");
                    return Err(Refusal::Spec { what: "the last day of a rectification", problem });
                }
                // A new day takes the place of an old one; what was not suspended is, with the order.
                let (cause, by, since) = match status {
                    GrantStatus::Suspended { reason, by, since, .. } => (reason.clone(), *by, *since),
                    _ => (reason.clone(), by, now),
                };
                let status = GrantStatus::Suspended { reason: cause, by, since, rectify: Some(order) };
                (Act::GrantRectificationOrdered, status)
            }
            (GrantAct::Terminate, GrantStatus::Terminated { .. }) => return Err(self.wrong("in_force or suspended")),
            (GrantAct::Terminate, _) => {
                (Act::GrantTerminated, GrantStatus::Terminated { reason: reason.clone(), since: now })
            }
        };
        follows(Some(self.digest), signed.predecessor)?;
        let fact = Fact::new(act, self.id, Some(self.requester)).by(digest).because(&reason);
        Ok((Self { status, digest, ..self.clone() }, fact))
    }

    fn wrong(&self, needed: &'static str) -> Refusal {
        Refusal::WrongState { what: "grant", id: self.id.to_string(), is: self.status.word(), needed }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::application::tests::submitted;
    use super::*;
    use proptest::prelude::*;

    const HOUR_MS: i64 = 3_600_000;

    fn grant() -> Grant {
        Grant::make(&submitted(), GrantId::from_bits(9), None, Digest::sha256(b"answer"), Timestamp(0)).unwrap()
    }

    fn signed(grant: &Grant, act: GrantAct, n: u8, at: i64) -> SignedAct<'static> {
        SignedAct {
            act,
            reason: "已整改",
            digest: Digest::sha256(&[n]),
            predecessor: Some(grant.digest),
            issued_at: Timestamp(at),
        }
    }

    #[test]
    fn suspended_reinstated_terminated() {
        let provider = grant().provider;
        let (suspended, fact) = grant().suspend(provider, "违规使用", Timestamp(HOUR_MS)).unwrap().unwrap();
        assert_eq!((fact.act, suspended.status.word()), (Act::GrantSuspended, "suspended"));
        assert_eq!(suspended.suspend(provider, "again", Timestamp(2 * HOUR_MS)), Ok(None));
        let old = signed(&suspended, GrantAct::Reinstate, 1, HOUR_MS - DRAFTER_AHEAD_MS_MAX - 1);
        assert!(matches!(suspended.act(provider, old, Timestamp(2 * HOUR_MS)), Err(Refusal::ActTooOld { .. })));
        let (back, _) = suspended
            .act(provider, signed(&suspended, GrantAct::Reinstate, 1, HOUR_MS), Timestamp(2 * HOUR_MS))
            .unwrap();
        assert_eq!(back.status, GrantStatus::InForce);
        let stale = SignedAct { predecessor: Some(grant().digest), ..signed(&back, GrantAct::Terminate, 2, HOUR_MS) };
        assert!(matches!(back.act(provider, stale, Timestamp(3 * HOUR_MS)), Err(Refusal::Predecessor { .. })));
        let (ended, _) =
            back.act(provider, signed(&back, GrantAct::Terminate, 2, HOUR_MS), Timestamp(3 * HOUR_MS)).unwrap();
        for act in [GrantAct::Reinstate, GrantAct::Terminate] {
            assert!(ended.act(provider, signed(&ended, act, 3, 4 * HOUR_MS), Timestamp(4 * HOUR_MS)).is_err());
        }
        assert!(ended.suspend(provider, "r", Timestamp(4 * HOUR_MS)).is_err());
        assert!(grant().suspend(provider, " ", Timestamp(1)).is_err(), "a suspension has a reason");
    }

    #[test]
    fn a_rectification_has_a_day_and_ends_with_reinstatement_or_termination() {
        let provider = grant().provider;
        let order =
            |grant: &Grant, day: &str, n| signed(grant, GrantAct::Rectify { by: day.parse().unwrap() }, n, HOUR_MS);
        let now = Timestamp(HOUR_MS);
        // What is in force is suspended with the order.
        let (ordered, fact) = grant().act(provider, order(&grant(), "1970-01-09", 1), now).unwrap();
        assert_eq!((fact.act, ordered.status.word()), (Act::GrantRectificationOrdered, "suspended"));
        // What was suspended keeps its cause; a new day takes the place of the old.
        let (suspended, _) = grant().suspend(provider, "违规使用", now).unwrap().unwrap();
        let (ordered, _) = suspended.act(provider, order(&suspended, "1970-01-09", 2), now).unwrap();
        let (again, _) = ordered.act(provider, order(&ordered, "1970-02-01", 3), now).unwrap();
        let GrantStatus::Suspended { reason, rectify: Some(rectify), .. } = &again.status else {
            panic!("{:?}", again.status)
        };
        assert_eq!((reason.as_str(), rectify.by.to_string().as_str()), ("违规使用", "1970-02-01"));
        // Its last day counts, in China.
        assert!(!rectify.is_overdue(Timestamp(31 * 24 * HOUR_MS + 16 * HOUR_MS - 1)));
        assert!(rectify.is_overdue(Timestamp(31 * 24 * HOUR_MS + 16 * HOUR_MS)));
        for day in ["1969-12-31", "1972-01-01"] {
            assert!(suspended.act(provider, order(&suspended, day, 4), now).is_err(), "{day}");
        }
        for (act, word) in [(GrantAct::Reinstate, "in_force"), (GrantAct::Terminate, "terminated")] {
            let (next, _) = again.act(provider, signed(&again, act, 5, 2 * HOUR_MS), Timestamp(3 * HOUR_MS)).unwrap();
            assert_eq!(next.status.word(), word);
            let late = order(&next, "1970-02-01", 6);
            assert_eq!(next.act(provider, late, now).is_ok(), word == "in_force", "nothing follows an end");
        }
    }

    #[test]
    fn a_scope_file_is_bounded() {
        let make = |n| {
            Grant::make(&submitted(), GrantId::from_bits(1), Some(&"x".repeat(n)), Digest::sha256(b"a"), Timestamp(0))
        };
        assert!(make(APPLICATION_BYTES_MAX).is_ok());
        assert!(make(APPLICATION_BYTES_MAX + 1).is_err());
    }

    proptest! {
        #[test]
        fn only_a_signed_act_widens_and_nothing_follows_an_end(steps in prop::collection::vec(0u8..4, 0..40)) {
            let mut grant = grant();
            for (i, step) in steps.into_iter().enumerate() {
                let before = grant.clone();
                let now = Timestamp(i as i64);
                match step {
                    0 | 1 => if let Ok(Some((next, _))) = grant.suspend(grant.provider, "r", now) { grant = next },
                    2 => if let Ok((next, _)) = grant.act(grant.provider, signed(&grant, GrantAct::Reinstate, i as u8, now.0), now) { grant = next },
                    _ => if i % 7 == 3 && let Ok((next, _)) = grant.act(grant.provider, signed(&grant, GrantAct::Terminate, i as u8, now.0), now) { grant = next },
                }
                if matches!(before.status, GrantStatus::Terminated { .. }) {
                    prop_assert_eq!(&before, &grant);
                }
                let widened = before.status != GrantStatus::InForce && grant.status == GrantStatus::InForce;
                prop_assert!(!widened || (step == 2 && before.digest != grant.digest));
                prop_assert_eq!(&before.answer, &grant.answer);
            }
        }
    }
}
