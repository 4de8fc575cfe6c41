//! The control messages, generated from `proto/lingqu.proto`, and how they become frames.

#[allow(missing_docs, reason = "generated; the .proto documents each message")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/lingqu.v1.rs"));
}

pub use generated::*;

use crate::close::CloseCode;
use crate::frame::{self, FrameError, FrameKind};
use bytes::Bytes;
use prost::Message;

/// Protocol versions that this build speaks, best first.
pub const VERSIONS: [u32; 1] = [1];

/// Parallel data streams of one transfer: enough to fill a long link without one stream's window being its ceiling, and
/// at one segment each still little memory and little to send again.
pub const DATA_STREAMS_MAX: u32 = 4;

/// The limits of this build.
pub const fn limits() -> Limits {
    Limits {
        control_bytes_max: frame::CONTROL_BYTES_MAX as u32,
        data_streams_max: DATA_STREAMS_MAX,
        batch_bytes_max: frame::BATCH_BYTES_MAX as u32,
    }
}

/// The best version that both sides speak.
pub fn negotiate(theirs: &[u32]) -> Option<u32> {
    VERSIONS.into_iter().find(|v| theirs.contains(v))
}

/// A control frame that holds `message`.
///
/// # Errors
/// Where the message is larger than a control frame may be.
pub fn encode(message: &impl Message) -> Result<Bytes, FrameError> {
    frame::encode(FrameKind::Control, &message.encode_to_vec())
}

/// The message in a control frame's body.
///
/// # Errors
/// Where the bytes are not this message.
pub fn decode<M: Message + Default>(body: Bytes) -> Result<M, FrameError> {
    M::decode(body).map_err(|e| FrameError::BadMessage(e.to_string()))
}

impl From<request::Ask> for Request {
    fn from(ask: request::Ask) -> Self {
        Self { ask: Some(ask) }
    }
}

impl From<reply::Reply> for Reply {
    fn from(reply: reply::Reply) -> Self {
        Self { reply: Some(reply) }
    }
}

impl From<step::Step> for Step {
    fn from(step: step::Step) -> Self {
        Self { step: Some(step) }
    }
}

impl Fault {
    /// Its close code; an unknown one counts as the peer's internal error.
    pub fn close_code(&self) -> CloseCode {
        CloseCode::from_code(self.code.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_version_that_nobody_shares_is_none() {
        assert_eq!(negotiate(&[7, 1]), Some(1));
        assert_eq!(negotiate(&[2, 3]), None);
        assert_eq!(negotiate(&[]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_a_decoder(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let body = Bytes::from(body);
            let _ = decode::<Request>(body.clone());
            let _ = decode::<Reply>(body.clone());
            let _ = decode::<Step>(body.clone());
            let _ = decode::<Hello>(body.clone());
            let _ = decode::<ManifestPart>(body);
        }

        #[test]
        fn a_request_round_trips(transfer in ".{0,40}", entry in ".{0,40}", files: u32, bytes: u64) {
            let request = Request::from(request::Ask::PushFiles(PushFiles { transfer, entry, files, bytes }));
            let body = Bytes::from(request.encode_to_vec());
            prop_assert_eq!(decode::<Request>(body), Ok(request));
        }
    }
}
