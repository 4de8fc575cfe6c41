//! Officers: persons whose keys the root has certified. Their signatures stand behind every act of an agency.

use super::error::Refusal;
use super::fact::{Act, Fact};
use super::text;
use lingqu_certs::key::PublicKey;
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::{OfficerBody, OfficerRole, Signer};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::DocumentId;

/// An officer with a certified key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Officer {
    /// The key, made by the officer.
    pub key: PublicKey,
    /// The officer's agency.
    pub agency: CreditCode,
    /// The officer's name.
    pub name: String,
    /// What the officer is there.
    pub role: OfficerRole,
    /// The root's statement.
    pub document: DocumentId,
    /// Digest of the statement.
    pub digest: Digest,
    /// When it was taken.
    pub added_at: Timestamp,
}

/// Takes the root's statement of an officer. A key stands for one person in one office: it is not certified twice in
/// different ways.
///
/// # Errors
/// The first part that is wrong; [`Refusal::IdTaken`] where the key is another's.
pub fn state(
    current: Option<&Officer>,
    body: &OfficerBody,
    document: DocumentId,
    digest: Digest,
    now: Timestamp,
) -> Result<(Officer, Fact), Refusal> {
    let spec = |what, problem: String| Refusal::Spec { what, problem };
    let agency = CreditCode::parse(&body.agency).map_err(|e| spec("agency", e.to_string()))?;
    let key: PublicKey = body.key.parse().map_err(|_| spec("key", "not a public key".into()))?;
    let name = text::name("an officer's name", &body.name)?;
    if current.is_some_and(|c| c.agency != agency || c.role != body.role || c.name != name) {
        return Err(Refusal::IdTaken(key.key_id().to_string()));
    }
    let officer = Officer { key, agency, name, role: body.role, document, digest, added_at: now };
    let fact = Fact::new(Act::OfficerAdded, key.key_id(), Some(agency)).by(digest);
    Ok((officer, fact))
}

impl Officer {
    /// Whether the officer may sign what `signer` asks for, carried by an agent of `peer`.
    ///
    /// # Errors
    /// [`Refusal::OfficerElsewhere`], [`Refusal::WrongRole`].
    pub fn may_sign(&self, signer: Signer, peer: CreditCode) -> Result<(), Refusal> {
        if self.agency != peer {
            return Err(Refusal::OfficerElsewhere);
        }
        match signer {
            Signer::Officer(needed) if needed.contains(&self.role) => Ok(()),
            Signer::Officer(needed) => Err(Refusal::WrongRole { found: self.role, needed }),
            Signer::Root => Err(Refusal::WrongRole { found: self.role, needed: &[] }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_protocol::documents::{AnswerBody, Body, EntryBody, ReviewBody};

    const HOME: &str = "91350100M000100Y43";

    fn body(role: OfficerRole) -> OfficerBody {
        let key = PublicKey::from_bytes([7; 32]).to_string();
        OfficerBody { agency: HOME.into(), name: "王芳".into(), role, key }
    }

    fn officer(role: OfficerRole) -> Officer {
        state(None, &body(role), DocumentId::from_bits(1), Digest::sha256(b"o"), Timestamp(1)).unwrap().0
    }

    #[test]
    fn each_role_signs_its_own_and_nothing_else() {
        let home = CreditCode::parse(HOME).unwrap();
        let away = CreditCode::parse("91512081MA62K0260E").unwrap();
        let signs = |role, signer| officer(role).may_sign(signer, home).is_ok();
        use OfficerRole::{AgencyHead, Clerk, OfficeHead};
        for (role, entry, review, answer) in
            [(AgencyHead, true, true, false), (OfficeHead, false, true, true), (Clerk, false, false, false)]
        {
            assert_eq!(signs(role, EntryBody::SIGNER), entry, "{role:?}");
            assert_eq!(signs(role, ReviewBody::SIGNER), review, "{role:?}");
            assert_eq!(signs(role, AnswerBody::SIGNER), answer, "{role:?}");
            assert!(!signs(role, Signer::Root));
            assert_eq!(officer(role).may_sign(AnswerBody::SIGNER, away), Err(Refusal::OfficerElsewhere));
        }
    }

    #[test]
    fn a_key_does_not_change_its_person_or_office() {
        let clerk = officer(OfficerRole::Clerk);
        let again = |body: &OfficerBody| {
            state(Some(&clerk), body, DocumentId::from_bits(2), Digest::sha256(b"p"), Timestamp(2))
        };
        assert!(again(&body(OfficerRole::Clerk)).is_ok());
        assert!(matches!(again(&body(OfficerRole::AgencyHead)), Err(Refusal::IdTaken(_))));
        let other = OfficerBody { agency: "91512081MA62K0260E".into(), ..body(OfficerRole::Clerk) };
        assert!(matches!(again(&other), Err(Refusal::IdTaken(_))));
    }
}
