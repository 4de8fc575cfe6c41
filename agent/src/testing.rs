//! What the tests of this crate share: a gateway's CA and root, and a profile under them.

#![allow(clippy::unwrap_used)]

use crate::machine::Machine;
use crate::machine::tests::real;
use lingqu_certs::ca::{Authority, LEAF_VALID_MS, Validity};
use lingqu_certs::document;
use lingqu_certs::invitation::Invitation;
use lingqu_certs::key::SigningKey;
use lingqu_certs::profile::{Draft, Profile, Settings};
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::documents::{Document, GatewayBody};
use lingqu_protocol::ids::{DocumentId, GatewayId};
use std::path::PathBuf;

/// The gateway of the tests.
pub(crate) const GATEWAY: GatewayId = GatewayId::from_bits(9);

/// A gateway's material in a folder that goes away with it.
pub(crate) struct World {
    pub(crate) machine: Machine,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) ca: Authority,
    /// Where the gateway of invitation and profile is.
    pub(crate) address: String,
}

impl World {
    pub(crate) const DOMAIN: &str = "example.gov.cn";

    pub(crate) fn new() -> Self {
        Self::at("127.0.0.1:1")
    }

    pub(crate) fn at(address: &str) -> Self {
        let (machine, dir) = (real(), tempfile::tempdir().unwrap());
        let ca = Authority::create(dir.path(), Self::DOMAIN, machine.clock.wall(), machine.entropy.as_ref()).unwrap();
        Self { machine, dir, ca, address: address.into() }
    }

    pub(crate) fn root(&self) -> SigningKey {
        SigningKey::from_seed([1; 32]).unwrap()
    }

    pub(crate) fn receipt_key(&self) -> SigningKey {
        SigningKey::from_seed([2; 32]).unwrap()
    }

    pub(crate) fn agent(&self) -> AgentId {
        "91350100M000100Y43/main".parse().unwrap()
    }

    pub(crate) fn profile_dir(&self) -> PathBuf {
        self.dir.path().join("profile")
    }

    pub(crate) fn invitation(&self) -> Invitation {
        Invitation::new(&self.address, Self::DOMAIN, self.ca.digest(), self.machine.entropy.as_ref()).unwrap()
    }

    pub(crate) fn gateway_document(&self, gateway: GatewayId) -> Document<GatewayBody> {
        let receipt_key = self.receipt_key().public().to_string();
        let body = GatewayBody { domain: Self::DOMAIN.into(), receipt_key, ca: self.ca.digest() };
        Document { gateway, id: DocumentId::from_bits(1), predecessor: None, issued_at: 1, expires_at: 2, body }
    }

    /// The root's statement of the gateway.
    pub(crate) fn statement(&self) -> Vec<u8> {
        document::seal(&self.gateway_document(GATEWAY), &self.root()).unwrap().to_json().into_bytes()
    }

    /// A chain for the agent on the key of this request.
    pub(crate) fn chain(&self, csr_der: &[u8], validity: Validity) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        self.ca.sign_agent(csr_der, &self.agent(), validity, self.machine.entropy.as_ref()).unwrap()
    }

    pub(crate) fn month(&self) -> Validity {
        Validity::starting(self.machine.clock.wall(), LEAF_VALID_MS)
    }

    /// The agent's profile, joined where it was not yet.
    pub(crate) fn profile(&self) -> Profile {
        if let Ok(profile) = Profile::load(&self.profile_dir()) {
            return profile;
        }
        let draft = Draft::open(&self.profile_dir(), self.machine.entropy.as_ref()).unwrap();
        let chain = self.chain(&draft.signing_request().unwrap(), self.month());
        let settings = Settings {
            agent: self.agent(),
            address: self.address.clone(),
            domain: Self::DOMAIN.into(),
            gateway: GATEWAY,
            root: self.root().public(),
        };
        draft.complete(settings, self.ca.certificate(), &chain, self.machine.clock.wall()).unwrap()
    }
}
