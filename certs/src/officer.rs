//! An officer's key: made by the officer, in a folder of the officer's own, never shown to anyone. A request carries the
//! public half to the operator of the root; the document that the root signs in return is the officer's certificate.

use crate::document::{self, DocumentError};
use crate::key::{KeyError, PublicKey, SigningKey};
use crate::os;
use lingqu_protocol::documents::{Body, Document, OfficerBody, Signer};
use lingqu_protocol::dsse::{ENVELOPE_TEXT_BYTES_MAX, Envelope, EnvelopeError};
use lingqu_protocol::host::{Disk as _, Entropy};
use std::io;
use std::path::{Path, PathBuf};

/// The officer's key within its folder (0600).
pub const OFFICER_KEY_FILE: &str = "officer.key";

/// The request within the folder: what is handed to the operator of the root.
pub const OFFICER_REQUEST_FILE: &str = "officer.request";

/// The officer's certificate within the folder: what the root signed.
pub const OFFICER_CERTIFICATE_FILE: &str = "officer.cert";

/// The payload type of a request. It is no document: it is bound to no gateway and gives nothing by itself.
const REQUEST_TYPE: &str = "application/vnd.lingqu.officer-request+json; version=1";

/// Characters of an officer's name, role words and agency in a request; a name on a stamp has fewer.
const NAME_CHARS_MAX: usize = 128;

/// What went wrong with an officer's folder or request.
#[derive(Debug, thiserror::Error)]
pub enum OfficerError {
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file or the folder.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A request or certificate that is not one.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A request whose content makes no sense; the officer's fault.
    #[error("the officer's request is refused: {0}")]
    BadRequest(&'static str),
    /// A document that the root signs and no officer; the caller's fault.
    #[error("an officer does not sign documents of type {0:?}: the root does")]
    NotAnOfficers(&'static str),
}

impl From<EnvelopeError> for OfficerError {
    fn from(error: EnvelopeError) -> Self {
        Self::Document(error.into())
    }
}

/// An officer with the private key at hand.
#[derive(Debug)]
pub struct Officer {
    key: SigningKey,
    dir: PathBuf,
}

impl Officer {
    /// Makes a key in `dir` and the request for it. Called again, it writes the request anew for the key that is there.
    /// `key` in `says` is set by this.
    ///
    /// # Errors
    /// What the system says, and names longer than a request holds.
    pub fn request(dir: &Path, says: OfficerBody, entropy: &dyn Entropy) -> Result<Self, OfficerError> {
        os::OsDisk.create_dir_all(dir).map_err(io_error("making", dir))?;
        let key = SigningKey::load_or_create(&dir.join(OFFICER_KEY_FILE), entropy)?;
        let body = OfficerBody { key: key.public().to_string(), ..says };
        check_body(&body)?;
        let payload = serde_json::to_vec_pretty(&body).map_err(|e| DocumentError::NotWritable(e.to_string()))?;
        let envelope = document::sign_payload(REQUEST_TYPE, payload, &key);
        let file = dir.join(OFFICER_REQUEST_FILE);
        os::write_atomic(&file, envelope.to_json().as_bytes()).map_err(io_error("writing", &file))?;
        Ok(Self { key, dir: dir.to_owned() })
    }

    /// Opens an officer's folder.
    ///
    /// # Errors
    /// When there is no key or no good one.
    pub fn load(dir: &Path) -> Result<Self, OfficerError> {
        Ok(Self { key: SigningKey::load(&dir.join(OFFICER_KEY_FILE))?, dir: dir.to_owned() })
    }

    /// The public half of the key.
    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// The private key, to sign what [`document::prepare`] wrote.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Signs a document that is an officer's to sign.
    ///
    /// # Errors
    /// `NotAnOfficers` for one that is the root's.
    pub fn seal<B: Body>(&self, document: &Document<B>) -> Result<Envelope, OfficerError> {
        if B::SIGNER == Signer::Root {
            return Err(OfficerError::NotAnOfficers(B::TYPE));
        }
        Ok(document::seal(document, &self.key)?)
    }

    /// Keeps the certificate that the root signed.
    ///
    /// # Errors
    /// What the system says.
    pub fn save_certificate(&self, certificate: &Envelope) -> Result<(), OfficerError> {
        let file = self.dir.join(OFFICER_CERTIFICATE_FILE);
        os::write_atomic(&file, certificate.to_json().as_bytes()).map_err(io_error("writing", &file))
    }

    /// The certificate that was kept; unverified.
    ///
    /// # Errors
    /// When there is none, or it is no envelope.
    pub fn certificate(&self) -> Result<Envelope, OfficerError> {
        read_envelope(&self.dir.join(OFFICER_CERTIFICATE_FILE))
    }
}

/// What an officer asks to be known by; the signature shows that the asker has the key. Whether the agency exists and the
/// person is who it says is for the operator to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfficerRequest {
    /// Agency, name, role and key as asked for.
    pub body: OfficerBody,
    /// The key, parsed.
    pub key: PublicKey,
}

impl OfficerRequest {
    /// Reads and verifies a request.
    ///
    /// # Errors
    /// When it is none, is signed by another key than it names, or names what cannot be.
    pub fn parse(text: &[u8]) -> Result<Self, OfficerError> {
        let envelope = Envelope::from_json(text)?;
        // The key is the one inside. Nothing is believed on its word but that its owner made this.
        let body: OfficerBody = serde_json::from_slice(&envelope.payload)
            .map_err(|e| DocumentError::Malformed(format!("not an officer's request: {e}")))?;
        let key: PublicKey = body.key.parse()?;
        document::verify_envelope(&envelope, REQUEST_TYPE, |keyid| (key.key_id().to_string() == keyid).then_some(key))?;
        check_body(&body)?;
        Ok(Self { body, key })
    }

    /// Reads and verifies a request's file.
    ///
    /// # Errors
    /// As [`Self::parse`], and what the system says.
    pub fn load(path: &Path) -> Result<Self, OfficerError> {
        Self::parse(&os::read_bounded(path, ENVELOPE_TEXT_BYTES_MAX as u64).map_err(io_error("reading", path))?)
    }
}

/// Reads an envelope's file; nothing is verified but its form.
///
/// # Errors
/// What the system says, and a file that is none.
pub fn read_envelope(path: &Path) -> Result<Envelope, OfficerError> {
    let text = os::read_bounded(path, ENVELOPE_TEXT_BYTES_MAX as u64).map_err(io_error("reading", path))?;
    Ok(Envelope::from_json(&text)?)
}

fn check_body(body: &OfficerBody) -> Result<(), OfficerError> {
    for text in [&body.agency, &body.name] {
        if text.is_empty() || text.chars().count() > NAME_CHARS_MAX {
            return Err(OfficerError::BadRequest("agency and name have 1 to 128 characters each"));
        }
        if text.chars().any(|c| c.is_control() || is_bidi_mark(c)) {
            return Err(OfficerError::BadRequest("agency and name hold no control characters"));
        }
    }
    Ok(())
}

/// Marks that turn the direction of text around, so that what is read is not what is there.
const fn is_bidi_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OfficerError {
    let what = format!("{doing} {}", path.display());
    move |source| OfficerError::Io { what, source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::os::OsEntropy;
    use lingqu_protocol::documents::OfficerRole;

    fn says(name: &str) -> OfficerBody {
        OfficerBody {
            agency: "91350100M000100Y43".into(),
            name: name.into(),
            role: OfficerRole::AgencyHead,
            key: String::new(),
        }
    }

    fn request_text(dir: &Path) -> Vec<u8> {
        std::fs::read(dir.join(OFFICER_REQUEST_FILE)).unwrap()
    }

    #[test]
    fn a_request_names_the_key_that_stays_with_the_officer() {
        let dir = tempfile::tempdir().unwrap();
        let officer = Officer::request(dir.path(), says("李四"), &OsEntropy::new()).unwrap();
        let request = OfficerRequest::load(&dir.path().join(OFFICER_REQUEST_FILE)).unwrap();
        assert_eq!(request.key, officer.public());
        assert_eq!(request.body, OfficerBody { key: officer.public().to_string(), ..says("李四") });
        let again = Officer::request(dir.path(), says("李四"), &OsEntropy::new()).unwrap();
        assert_eq!(again.public(), officer.public());
        assert_eq!(Officer::load(dir.path()).unwrap().public(), officer.public());
    }

    #[test]
    fn a_request_for_anothers_key_or_a_changed_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let officer = Officer::request(dir.path(), says("李四"), &OsEntropy::new()).unwrap();
        let mut envelope = Envelope::from_json(&request_text(dir.path())).unwrap();
        let honest = envelope.clone();
        let text = String::from_utf8(envelope.payload).unwrap();
        envelope.payload = text.replace("agency-head", "office-head").into_bytes();
        assert!(matches!(
            OfficerRequest::parse(envelope.to_json().as_bytes()),
            Err(OfficerError::Document(DocumentError::Forged))
        ));
        let thief = SigningKey::generate(&OsEntropy::new()).unwrap();
        let stolen = document::sign_payload(REQUEST_TYPE, honest.payload, &thief);
        assert!(OfficerRequest::parse(stolen.to_json().as_bytes()).is_err(), "{:?}'s key", officer);
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "a\u{7}", "a\nb", "a\u{202e}b", &"长".repeat(129)] {
            let made = Officer::request(dir.path(), says(name), &OsEntropy::new());
            assert!(matches!(made, Err(OfficerError::BadRequest(_))), "{name:?}");
        }
        assert!(Officer::request(dir.path(), says(&"长".repeat(128)), &OsEntropy::new()).is_ok());
    }

    #[test]
    fn the_certificate_is_kept_beside_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let officer = Officer::request(dir.path(), says("李四"), &OsEntropy::new()).unwrap();
        assert!(officer.certificate().is_err());
        let envelope = Envelope::from_json(&request_text(dir.path())).unwrap();
        officer.save_certificate(&envelope).unwrap();
        assert_eq!(officer.certificate().unwrap(), envelope);
    }
}
