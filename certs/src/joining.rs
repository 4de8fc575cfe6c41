//! Joining by files, where a new agent cannot reach the gateway: a request that shows the invitation's key and the
//! agent's, and an answer with the certificate. What they prove is what the connection would have proved.

use crate::ca::CaError;
use crate::invitation::Invitation;
use crate::key::{KeyError, PublicKey};
use crate::receipt::open_gateway;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::ids::GatewayId;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

/// Bytes of a request or an answer as a file: three certificates and a statement, with room.
pub const JOIN_FILE_BYTES_MAX: usize = 64 * 1024;

/// Certificates in an answer: the leaf, its CA, and one between.
const CHAIN_CERTIFICATES_MAX: usize = 3;

/// What a request's signature covers begins with this, so that it is good for nothing else.
const REQUEST_CONTEXT: &[u8] = b"lingqu join request 1\n";

const REQUEST_FORM: &str = "lingqu-join-request-1";
const ANSWER_FORM: &str = "lingqu-join-answer-1";

/// Why a file or an answer is not taken.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Another file.
    #[error("not a {form}: {why}")]
    NotThis {
        /// What was expected.
        form: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The request was not made by the holder of the invitation.
    #[error(
        "the request is not signed with the invitation's key: make it again with `lingqu join INVITATION --request`"
    )]
    NotInvited,
    /// The answer is from another gateway than the invitation's, or none vouches for it.
    #[error("the answer is not from the gateway of the invitation: {0}")]
    NotTheGateway(String),
    /// The invitation's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate material.
    #[error(transparent)]
    Ca(#[from] CaError),
}

/// A signing request under an invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// The invitation's public key.
    pub invitation: PublicKey,
    /// The signing request (PKCS#10, DER).
    pub csr_der: Vec<u8>,
}

/// What a gateway answers to a joiner, over the connection or in a file. Nothing of it is checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAnswer {
    /// Leaf first, then the CA.
    pub chain_der: Vec<Vec<u8>>,
    /// The agent, `CODE/NAME`.
    pub agent: String,
    /// The gateway's id.
    pub gateway: String,
    /// Its domain.
    pub domain: String,
    /// The root's public key.
    pub root_key: String,
    /// The root's statement of the gateway (DSSE envelope as JSON).
    pub statement: Vec<u8>,
}

/// An answer that comes from the invitation's gateway.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The certificate of the CA, by the invitation's digest.
    pub ca: CertificateDer<'static>,
    /// Leaf first, then the CA. That the leaf is on the agent's key is for the profile to check.
    pub chain: Vec<CertificateDer<'static>>,
    /// Who the agent is from now on.
    pub agent: AgentId,
    /// The gateway.
    pub gateway: GatewayId,
    /// The root that vouches for the gateway, to be pinned.
    pub root: PublicKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestJson {
    form: String,
    invitation_key: String,
    csr: String,
    signature: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerJson {
    form: String,
    chain: Vec<String>,
    agent: String,
    gateway: String,
    domain: String,
    root_key: String,
    statement: String,
}

impl JoinRequest {
    /// The file's text: the request, signed with the invitation's key.
    ///
    /// # Errors
    /// None is known; what the key says.
    pub fn file(invitation: &Invitation, csr_der: &[u8]) -> Result<String, JoinError> {
        let key = invitation.key()?;
        let json = RequestJson {
            form: REQUEST_FORM.into(),
            invitation_key: key.public().to_string(),
            csr: STANDARD.encode(csr_der),
            signature: STANDARD.encode(key.sign(&[REQUEST_CONTEXT, csr_der].concat())),
        };
        Ok(text(&json))
    }

    /// Reads the file's text and checks that the holder of the named invitation made it. Whether that is open is for the
    /// registry.
    ///
    /// # Errors
    /// `NotThis`, `NotInvited`.
    pub fn parse(file: &[u8]) -> Result<Self, JoinError> {
        let json: RequestJson = read(file, REQUEST_FORM, |json: &RequestJson| &json.form)?;
        let csr_der = base64(REQUEST_FORM, &json.csr)?;
        let invitation: PublicKey = json.invitation_key.parse()?;
        let signature = base64(REQUEST_FORM, &json.signature)?;
        let signed = [REQUEST_CONTEXT, &csr_der].concat();
        invitation.verify(&signed, &signature).map_err(|_| JoinError::NotInvited)?;
        Ok(Self { invitation, csr_der })
    }
}

impl JoinAnswer {
    /// The file's text.
    pub fn file(&self) -> String {
        text(&AnswerJson {
            form: ANSWER_FORM.into(),
            chain: self.chain_der.iter().map(|der| STANDARD.encode(der)).collect(),
            agent: self.agent.clone(),
            gateway: self.gateway.clone(),
            domain: self.domain.clone(),
            root_key: self.root_key.clone(),
            statement: STANDARD.encode(&self.statement),
        })
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// `NotThis`.
    pub fn parse(file: &[u8]) -> Result<Self, JoinError> {
        let json: AnswerJson = read(file, ANSWER_FORM, |json: &AnswerJson| &json.form)?;
        Ok(Self {
            chain_der: json.chain.iter().map(|der| base64(ANSWER_FORM, der)).collect::<Result<_, _>>()?,
            agent: json.agent,
            gateway: json.gateway,
            domain: json.domain,
            root_key: json.root_key,
            statement: base64(ANSWER_FORM, &json.statement)?,
        })
    }

    /// Checks that the answer is from the gateway that the invitation pins: its CA by digest, and a root that vouches for
    /// that CA.
    ///
    /// # Errors
    /// `NotTheGateway`.
    pub fn admit(self, invitation: &Invitation) -> Result<Admission, JoinError> {
        let not = |why: &dyn std::fmt::Display| JoinError::NotTheGateway(why.to_string());
        if self.domain != invitation.domain {
            return Err(not(&"its domain is another"));
        }
        if self.chain_der.len() > CHAIN_CERTIFICATES_MAX {
            return Err(not(&"its chain is too long"));
        }
        let chain: Vec<_> = self.chain_der.into_iter().map(CertificateDer::from).collect();
        let is_pinned = |certificate: &&CertificateDer<'_>| Digest::sha256(certificate) == invitation.ca;
        let ca = chain.iter().find(is_pinned).ok_or_else(|| not(&"its CA is another"))?.clone();
        let root: PublicKey = self.root_key.parse()?;
        let gateway: GatewayId = self.gateway.parse().map_err(|e| not(&e))?;
        let envelope = Envelope::from_json(&self.statement).map_err(|e| not(&e))?;
        let statement = open_gateway(&envelope, gateway, &root).map_err(|e| not(&e))?.body;
        if statement.ca != invitation.ca || statement.domain != invitation.domain {
            return Err(not(&"its root vouches for another CA"));
        }
        let agent = self.agent.parse().map_err(|e| not(&e))?;
        Ok(Admission { ca, chain, agent, gateway, root })
    }
}

fn text(json: &impl Serialize) -> String {
    // Structs of texts always have a JSON form.
    serde_json::to_string_pretty(json).unwrap_or_default() + "\n"
}

fn read<T: for<'de> Deserialize<'de>>(
    file: &[u8],
    form: &'static str,
    says: impl FnOnce(&T) -> &String,
) -> Result<T, JoinError> {
    let not_this = |why: String| JoinError::NotThis { form, why };
    if file.len() > JOIN_FILE_BYTES_MAX {
        return Err(not_this(format!("it has {} bytes, and {JOIN_FILE_BYTES_MAX} are the most", file.len())));
    }
    let json: T = serde_json::from_slice(file).map_err(|e| not_this(e.to_string()))?;
    if says(&json) != form {
        return Err(not_this("it is another form".into()));
    }
    Ok(json)
}

fn base64(form: &'static str, text: &str) -> Result<Vec<u8>, JoinError> {
    STANDARD.decode(text).map_err(|e| JoinError::NotThis { form, why: e.to_string() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::ca::{Authority, LEAF_VALID_MS, Validity, signing_request};
    use crate::document;
    use crate::key::SigningKey;
    use crate::os::OsEntropy;
    use lingqu_protocol::documents::{Document, GatewayBody};
    use lingqu_protocol::host::Timestamp;
    use lingqu_protocol::ids::DocumentId;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const DOMAIN: &str = "example.gov.cn";
    const GATEWAY: GatewayId = GatewayId::from_bits(3);

    struct World {
        ca: Authority,
        root: SigningKey,
        invitation: Invitation,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let ca = Authority::create(dir.path(), DOMAIN, NOW, &OsEntropy::new()).unwrap();
            let invitation = Invitation::new("127.0.0.1:1", DOMAIN, ca.digest(), &OsEntropy::new()).unwrap();
            Self { ca, root: SigningKey::generate(&OsEntropy::new()).unwrap(), invitation }
        }

        fn statement(&self, gateway: GatewayId, ca: Digest) -> Vec<u8> {
            let receipt_key = self.root.public().to_string();
            let body = GatewayBody { domain: DOMAIN.into(), receipt_key, ca };
            let id = DocumentId::from_bits(1);
            let document = Document { gateway, id, predecessor: None, issued_at: 1, expires_at: 2, body };
            document::seal(&document, &self.root).unwrap().to_json().into_bytes()
        }

        fn answer(&self) -> JoinAnswer {
            let csr = signing_request(&SigningKey::from_seed([5; 32]).unwrap()).unwrap();
            let agent = "91350100M000100Y43/main".parse().unwrap();
            let chain =
                self.ca.sign_agent(&csr, &agent, Validity::starting(NOW, LEAF_VALID_MS), &OsEntropy::new()).unwrap();
            JoinAnswer {
                chain_der: chain.iter().map(|c| c.to_vec()).collect(),
                agent: agent.to_string(),
                gateway: GATEWAY.to_string(),
                domain: DOMAIN.into(),
                root_key: self.root.public().to_string(),
                statement: self.statement(GATEWAY, self.ca.digest()),
            }
        }
    }

    #[test]
    fn a_request_shows_who_was_invited() {
        let world = World::new();
        let file = JoinRequest::file(&world.invitation, b"csr").unwrap();
        let request = JoinRequest::parse(file.as_bytes()).unwrap();
        assert_eq!(request.invitation, world.invitation.key().unwrap().public());
        assert_eq!(request.csr_der, b"csr");
        let swapped = file.replace(&STANDARD.encode(b"csr"), &STANDARD.encode(b"another"));
        assert!(matches!(JoinRequest::parse(swapped.as_bytes()), Err(JoinError::NotInvited)));
        let other = World::new().invitation.key().unwrap().public().to_string();
        let borrowed = file.replace(&request.invitation.to_string(), &other);
        assert!(matches!(JoinRequest::parse(borrowed.as_bytes()), Err(JoinError::NotInvited)));
        assert!(!file.contains(&world.invitation.to_string()), "the seed stays at home");
    }

    #[test]
    fn an_answer_comes_back_and_is_admitted() {
        let world = World::new();
        let answer = world.answer();
        assert_eq!(JoinAnswer::parse(answer.file().as_bytes()).unwrap(), answer);
        let admission = answer.admit(&world.invitation).unwrap();
        assert_eq!((admission.gateway, admission.root), (GATEWAY, world.root.public()));
        assert_eq!(&admission.ca, world.ca.certificate());
        assert_eq!(admission.chain.len(), 2);
    }

    #[test]
    fn an_answer_from_anyone_else_is_refused() {
        let world = World::new();
        let good = world.answer();
        let bad = [
            JoinAnswer { domain: "elsewhere".into(), ..good.clone() },
            JoinAnswer { chain_der: World::new().answer().chain_der, ..good.clone() },
            JoinAnswer { chain_der: vec![good.chain_der[1].clone(); 4], ..good.clone() },
            JoinAnswer { root_key: World::new().root.public().to_string(), ..good.clone() },
            JoinAnswer { gateway: GatewayId::from_bits(4).to_string(), ..good.clone() },
            JoinAnswer { statement: world.statement(GATEWAY, Digest::sha256(b"x")), ..good.clone() },
            JoinAnswer { statement: vec![], ..good.clone() },
            JoinAnswer { agent: "nobody".into(), ..good },
        ];
        for (i, answer) in bad.into_iter().enumerate() {
            assert!(matches!(answer.admit(&world.invitation), Err(JoinError::NotTheGateway(_))), "case {i}");
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        let world = World::new();
        let request = JoinRequest::file(&world.invitation, b"csr").unwrap();
        assert!(matches!(JoinAnswer::parse(request.as_bytes()), Err(JoinError::NotThis { .. })));
        let answer = world.answer().file();
        assert!(matches!(JoinRequest::parse(answer.as_bytes()), Err(JoinError::NotThis { .. })));
        let other_form = answer.replace(ANSWER_FORM, "lingqu-join-answer-2");
        assert!(matches!(JoinAnswer::parse(other_form.as_bytes()), Err(JoinError::NotThis { .. })));
        let long = vec![b' '; JOIN_FILE_BYTES_MAX + 1];
        assert!(matches!(JoinAnswer::parse(&long), Err(JoinError::NotThis { .. })));
    }
}
