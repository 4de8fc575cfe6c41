//! Taking signed documents: who carried it, who signed it, whether it was handed in before, then what it says.

use super::agency::Agency;
use super::application::Application;
use super::entry::{Entry, Submission, follows};
use super::error::{Refusal, RegistryError};
use super::fact::{Actor, Fact};
use super::grant::{Grant, SignedAct};
use super::officer::Officer;
use super::paper::{CodeClaim, Paper};
use super::service::{Found, Registry, Tx, expect, grant_update, retried, stored_spec};
use super::stop::Selector;
use super::terms;
use crate::state::Expect;
use lingqu_certs::document::{self, DocumentError, Opened};
use lingqu_protocol::agency::{AgentId, CreditCode};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::{
    Answer, AnswerBody, ApplicationBody, BackflowListBody, BackflowRevocationBody, Body, EntryBody, FindingActBody,
    GrantAct, GrantActBody, OfficerBody, OrderWithdrawalBody, ReviewBody, StandingOrderBody,
};
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{DocumentId, EntryId};
use serde_json::{Value, json};

/// What became of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// The document.
    pub document: DocumentId,
    /// What it made or changed, with an `id`.
    pub json: Value,
}

/// A document that was opened, and by whom it was carried.
pub(super) struct Signed<B> {
    pub(super) peer: AgentId,
    pub(super) agency: Agency,
    pub(super) opened: Opened<B>,
    envelope: Envelope,
    pub(super) now: Timestamp,
}

impl<B> Signed<B> {
    pub(super) fn body(&self) -> &B {
        &self.opened.document.body
    }

    pub(super) fn digest(&self) -> Digest {
        self.opened.digest
    }

    pub(super) fn predecessor(&self) -> Option<Digest> {
        self.opened.document.predecessor
    }
}

impl Registry {
    /// Takes a document that an officer signed and `peer` carried. The same document again gets the same answer.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] with what is wrong with it, or ours. Nothing was changed.
    pub async fn take_document(&self, peer: &AgentId, envelope: &[u8]) -> Result<Taken, RegistryError> {
        let envelope = Envelope::from_json(envelope).map_err(|e| Refusal::Document(e.to_string()))?;
        retried!(self, {
            match envelope.payload_type.as_str() {
                EntryBody::TYPE => self.submit_entry(self.open(peer, &envelope).await?).await,
                ReviewBody::TYPE => self.review(self.open(peer, &envelope).await?).await,
                ApplicationBody::TYPE => self.apply(self.open(peer, &envelope).await?).await,
                AnswerBody::TYPE => self.answer(self.open(peer, &envelope).await?).await,
                GrantActBody::TYPE => self.act(self.open(peer, &envelope).await?).await,
                StandingOrderBody::TYPE => self.issue_order(self.open(peer, &envelope).await?).await,
                OrderWithdrawalBody::TYPE => self.withdraw_order(self.open(peer, &envelope).await?).await,
                FindingActBody::TYPE => self.say_signed(self.open(peer, &envelope).await?).await,
                BackflowListBody::TYPE => self.publish_list(self.open(peer, &envelope).await?).await,
                BackflowRevocationBody::TYPE => self.revoke_list(self.open(peer, &envelope).await?).await,
                other => Err(Refusal::DocumentType(other.chars().take(80).collect()).into()),
            }
        })
    }

    async fn submit_entry(&self, opened: OpenedOrSeen<EntryBody>) -> Result<Taken, RegistryError> {
        let signed = match opened {
            OpenedOrSeen::Seen(taken) => return Ok(taken),
            OpenedOrSeen::Opened(signed) => signed,
        };
        let body = signed.body();
        let provider = speaks_for(&body.agency, &signed.agency)?;
        let spec = terms::entry(&body.toml)?;
        let current: Option<Found<Entry>> = self.find(&body.entry.to_string()).await?;
        if let Some(code) = &spec.code {
            self.code_is_free(code, body.entry).await?;
        }
        let submission = Submission {
            document: signed.opened.document.id,
            digest: signed.digest(),
            predecessor: signed.predecessor(),
        };
        let standing = current.as_ref().map(|c| &c.thing);
        let (entry, fact) = Entry::submit(standing, body.entry, provider, spec.code.as_ref(), submission, signed.now)?;
        let mut tx = Tx::default();
        tx.put(&entry, expect(current.as_ref()), signed.now)?;
        if entry.published.is_none() {
            tx.publish(super::port::Update::Entry(super::port::EntryUpdate {
                id: entry.id,
                code: None,
                provider,
                spec: spec.into(),
                published: false,
            }));
        }
        let answer = json!({ "id": entry.id, "status": "submitted", "version": entry.latest.number,
            "digest": signed.digest() });
        self.finish(tx, &signed, &fact, answer).await
    }

    async fn review(&self, opened: OpenedOrSeen<ReviewBody>) -> Result<Taken, RegistryError> {
        let signed = match opened {
            OpenedOrSeen::Seen(taken) => return Ok(taken),
            OpenedOrSeen::Opened(signed) => signed,
        };
        let body = signed.body();
        let current: Option<Found<Entry>> = self.find(&body.entry.to_string()).await?;
        if !signed.agency.authority {
            // Whether an entry that is not published is there is not for others to know.
            return Err(match current.filter(|c| visible(&c.thing, &signed.agency)) {
                Some(_) => Refusal::NotAuthority.into(),
                None => Refusal::not_found("entry", &body.entry.to_string()).into(),
            });
        }
        let current = current.ok_or_else(|| Refusal::not_found("entry", &body.entry.to_string()))?;
        let toml = self.latest_toml(&current.thing).await?;
        let spec = stored_spec(body.entry, &toml)?;
        let (entry, fact) = current.thing.review(
            &body.decision,
            &toml,
            spec.code.as_ref(),
            signed.predecessor(),
            signed.digest(),
            signed.now,
        )?;
        let mut tx = Tx::default();
        tx.put(&entry, current.expect, signed.now)?;
        if let Some(code) = entry.code.as_ref().filter(|_| current.thing.code.is_none()) {
            self.code_is_free(code, entry.id).await?;
            tx.put(&CodeClaim { code: code.clone(), entry: entry.id }, Expect::Absent, signed.now)?;
        }
        if entry.published != current.thing.published {
            tx.publish(self.entry_update(&entry).await?);
        }
        let status = if entry.published != current.thing.published { "published" } else { "returned" };
        let code = entry.code.as_ref().map(ToString::to_string);
        let answer = json!({ "id": entry.id, "status": status, "code": code });
        self.finish(tx, &signed, &fact, answer).await
    }

    async fn apply(&self, opened: OpenedOrSeen<ApplicationBody>) -> Result<Taken, RegistryError> {
        let signed = match opened {
            OpenedOrSeen::Seen(taken) => return Ok(taken),
            OpenedOrSeen::Opened(signed) => signed,
        };
        let body = signed.body();
        let requester = speaks_for(&body.agency, &signed.agency)?;
        let asked = terms::application(&body.toml)?;
        let unknown = || Refusal::not_found("entry", &asked.entry);
        let entry = self.find_entry(&asked.entry).await?.ok_or_else(unknown)?;
        let published = entry.published.as_ref().ok_or_else(unknown)?;
        terms::check(&asked.scope, &stored_spec(entry.id, &published.toml)?)?;
        // Who names the terms that were read is held to them, and so is the entry.
        if signed.predecessor().is_some() {
            follows(Some(published.version.digest), signed.predecessor())?;
        }
        self.not_stopped(&[Selector::Entry(entry.id)]).await?;
        let document = (signed.opened.document.id, signed.digest());
        let (application, fact) =
            Application::submit(body, requester, (entry.id, entry.provider), document, signed.now)?;
        if self.find::<Application>(&application.id.to_string()).await?.is_some() {
            return Err(Refusal::IdTaken(application.id.to_string()).into());
        }
        let mut tx = Tx::default();
        tx.put(&application, Expect::Absent, signed.now)?;
        let answer = json!({ "id": application.id, "status": "submitted", "entry": entry.id,
            "digest": signed.digest() });
        self.finish(tx, &signed, &fact, answer).await
    }

    async fn answer(&self, opened: OpenedOrSeen<AnswerBody>) -> Result<Taken, RegistryError> {
        let signed = match opened {
            OpenedOrSeen::Seen(taken) => return Ok(taken),
            OpenedOrSeen::Opened(signed) => signed,
        };
        let body = signed.body();
        let unknown = || Refusal::not_found("application", &body.application.to_string());
        let current: Found<Application> = self.find(&body.application.to_string()).await?.ok_or_else(unknown)?;
        let (application, own) = (&current.thing, signed.agency.code);
        if application.provider != own {
            let sees = application.requester == own || signed.agency.authority;
            let name = application.entry.to_string();
            return Err(if sees { Refusal::NotProvider(name) } else { unknown() }.into());
        }
        let mut tx = Tx::default();
        let (next, fact, answer) = match &body.answer {
            Answer::Refuse { why } => {
                let (next, fact) = application.refuse(why, signed.predecessor(), signed.digest(), signed.now)?;
                (next, fact, json!({ "id": application.id, "application": application.id, "status": "refused" }))
            }
            Answer::Approve { grant: id, scope_toml } => {
                let (next, fact) = application.approve(*id, signed.predecessor(), signed.digest(), signed.now)?;
                let mut grant = Grant::make(application, *id, scope_toml.as_deref(), signed.digest(), signed.now)?;
                let entry = self.find_entry(&application.entry.to_string()).await?;
                let published = entry.and_then(|e| e.published);
                let published = published.ok_or_else(|| Refusal::not_found("entry", &application.entry.to_string()))?;
                let spec = stored_spec(application.entry, &published.toml)?;
                let scope = terms::answered(&application.toml, scope_toml.as_deref(), &spec)?;
                if terms::granted(&grant)?.columns != scope.columns {
                    grant.leaves = Some(scope.columns);
                }
                if self.find::<Grant>(&id.to_string()).await?.is_some() {
                    return Err(Refusal::IdTaken(id.to_string()).into());
                }
                tx.put(&grant, Expect::Absent, signed.now)?;
                tx.publish(grant_update(grant)?);
                (next, fact, json!({ "id": id, "application": application.id, "status": "in_force" }))
            }
        };
        tx.put(&next, current.expect, signed.now)?;
        self.finish(tx, &signed, &fact, answer).await
    }

    async fn act(&self, opened: OpenedOrSeen<GrantActBody>) -> Result<Taken, RegistryError> {
        let signed = match opened {
            OpenedOrSeen::Seen(taken) => return Ok(taken),
            OpenedOrSeen::Opened(signed) => signed,
        };
        let body = signed.body();
        let unknown = || Refusal::not_found("grant", &body.grant.to_string());
        let current: Found<Grant> = self.find(&body.grant.to_string()).await?.ok_or_else(unknown)?;
        self.may_act(&current.thing, &signed.agency)?;
        let act = SignedAct {
            act: body.act,
            reason: &body.reason,
            digest: signed.digest(),
            predecessor: signed.predecessor(),
            issued_at: Timestamp(signed.opened.document.issued_at),
        };
        let (grant, fact) = current.thing.act(signed.agency.code, act, signed.now)?;
        let update = grant_update(grant.clone())?;
        let mut tx = Tx::default();
        tx.put(&grant, current.expect, signed.now)?;
        if matches!(body.act, GrantAct::Terminate | GrantAct::Rectify { .. }) {
            // It narrows: the gate acts first, whatever becomes of the commit.
            self.gate.publish(vec![update.clone()]);
        }
        tx.publish(update);
        let answer = json!({ "id": grant.id, "status": grant.status.word() });
        self.finish(tx, &signed, &fact, answer).await
    }

    /// The provider and the authority act on a grant (article 27); the requester sees it and may not; to others it does
    /// not exist.
    pub(super) fn may_act(&self, grant: &Grant, agency: &Agency) -> Result<(), Refusal> {
        if grant.provider == agency.code || agency.authority {
            return Ok(());
        }
        Err(match grant.requester == agency.code {
            true => Refusal::NotProvider(grant.entry.to_string()),
            false => Refusal::not_found("grant", &grant.id.to_string()),
        })
    }

    /// An entry by its id or its code.
    pub(super) async fn find_entry(&self, text: &str) -> Result<Option<Entry>, RegistryError> {
        let id = match (text.parse::<EntryId>(), text.parse()) {
            (Ok(id), _) => id,
            (Err(_), Ok(code)) => match self.find::<CodeClaim>(&CodeClaim::id_of(&code)).await? {
                Some(claim) => claim.thing.entry,
                None => return Ok(None),
            },
            (Err(_), Err(_)) => return Ok(None),
        };
        Ok(self.find(&id.to_string()).await?.map(|found: Found<Entry>| found.thing))
    }

    async fn code_is_free(
        &self,
        code: &lingqu_protocol::entry::EntryCode,
        entry: EntryId,
    ) -> Result<(), RegistryError> {
        match self.find::<CodeClaim>(&CodeClaim::id_of(code)).await? {
            Some(claim) if claim.thing.entry != entry => Err(Refusal::CodeTaken(code.to_string()).into()),
            _ => Ok(()),
        }
    }

    /// Opens a document: the peer may speak, the signature is a certified officer's of the peer's own agency in a role
    /// that signs this, and the document is for this gateway, now. One that was taken before needs no more than that.
    async fn open<B: Body>(&self, peer: &AgentId, envelope: &Envelope) -> Result<OpenedOrSeen<B>, RegistryError> {
        let agency = self.participant(peer).await?;
        let officer = match envelope.signatures.first() {
            Some(signature) => self.officer(&signature.keyid).await?,
            None => None,
        };
        let key = officer.as_ref().map(|o| o.key);
        let gateway = self.identity().gateway;
        let now = self.clock.wall();
        let at = |time| document::open::<B>(envelope, gateway, time, |_| key);
        let (opened, late) = match at(now) {
            // Good but late: it may have been taken in time, and its answer lost.
            Err(DocumentError::Expired(ended)) => (at(ended).map_err(refused)?, true),
            other => (other.map_err(refused)?, false),
        };
        // `open` accepts no signature without a key, so the officer is there.
        let officer = officer.ok_or_else(|| Refusal::Document("nobody here has signed it".into()))?;
        officer.may_sign(B::SIGNER, agency.code)?;
        let id = opened.document.id;
        if let Some(paper) = self.find::<Paper>(&id.to_string()).await? {
            if paper.thing.digest != opened.digest {
                return Err(Refusal::DocumentReused(id.to_string()).into());
            }
            return Ok(OpenedOrSeen::Seen(Taken { document: id, json: paper.thing.answer }));
        }
        if late {
            let ended = Timestamp(opened.document.expires_at);
            return Err(Refusal::DocumentExpired(DocumentError::Expired(ended).to_string()).into());
        }
        Ok(OpenedOrSeen::Opened(Box::new(Signed {
            peer: peer.clone(),
            agency,
            opened,
            envelope: envelope.clone(),
            now,
        })))
    }

    /// An officer by the id of the key, as the root certified it.
    pub(super) async fn officer(&self, keyid: &str) -> Result<Option<Officer>, RegistryError> {
        let Some(found) = self.find::<Officer>(keyid).await? else { return Ok(None) };
        let officer = found.thing;
        let certified = self.certified::<OfficerBody>(officer.document).await?;
        let body = &certified.document.body;
        let same = certified.digest == officer.digest
            && body.key == officer.key.to_string()
            && body.role == officer.role
            && body.agency == officer.agency.as_str();
        if !same {
            return Err(RegistryError::Damaged(format!("officer {keyid} is not what the root signed")));
        }
        Ok(Some(officer))
    }

    /// Commits what a document did, whose leaf is in the change already, with the document itself and its answer.
    pub(super) async fn keep<B: Body>(
        &self,
        mut tx: Tx,
        signed: &Signed<B>,
        answer: Value,
    ) -> Result<Taken, RegistryError> {
        let paper = Paper {
            id: signed.opened.document.id,
            digest: signed.digest(),
            envelope: signed.envelope.clone(),
            agency: Some(signed.agency.code.to_string()),
            taken_at: signed.now,
            answer: answer.clone(),
        };
        tx.put(&paper, Expect::Absent, signed.now)?;
        self.commit(tx).await?;
        Ok(Taken { document: paper.id, json: answer })
    }

    /// Commits what a document did, with the document itself and the answer that it gets.
    pub(super) async fn finish<B: Body>(
        &self,
        mut tx: Tx,
        signed: &Signed<B>,
        fact: &Fact,
        answer: Value,
    ) -> Result<Taken, RegistryError> {
        self.record(&mut tx, fact, &Actor::Agent(signed.peer.clone()), signed.now)?;
        self.keep(tx, signed, answer).await
    }
}

/// A document for the first time, or the answer that it got then.
pub(super) enum OpenedOrSeen<B> {
    Opened(Box<Signed<B>>),
    Seen(Taken),
}

/// Whether `agency` sees an entry: all see a published one, its provider and the authority see every one.
pub(super) fn visible(entry: &Entry, agency: &Agency) -> bool {
    entry.published.is_some() || entry.provider == agency.code || agency.authority
}

pub(super) fn speaks_for(named: &str, own: &Agency) -> Result<CreditCode, Refusal> {
    if named == own.code.as_str() {
        return Ok(own.code);
    }
    Err(Refusal::OtherAgency { named: named.chars().take(40).collect(), own: own.code.to_string() })
}

fn refused(error: DocumentError) -> Refusal {
    match error {
        DocumentError::Expired(_) => Refusal::DocumentExpired(error.to_string()),
        other => Refusal::Document(other.to_string()),
    }
}
