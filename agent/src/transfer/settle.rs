//! How a transfer ends: receipt, check, signature, done.

use super::{Env, answer, blocking};
use crate::connect::{ControlStream, unexpected};
use crate::error::AgentError;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{Cosign, reply, step};
use std::path::PathBuf;

/// What a receipt must say, from what this side sent or got itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The transfer.
    pub transfer: TransferId,
    /// Over the files of a set; for rows, over the frames sent.
    pub bytes_root: Option<Digest>,
    /// Over the rows.
    pub rows_digest: Option<Digest>,
    /// Bytes of the files.
    pub bytes: Option<u64>,
    /// Files.
    pub files: Option<u64>,
    /// Rows.
    pub rows: Option<u64>,
}

/// Checks receipts against the pinned trust and signs them with the agent's key.
pub trait Notary: Send + Sync + 'static {
    /// Whether the gateway's key signed this receipt, the ledger holds it, and it says what is expected.
    ///
    /// # Errors
    /// [`AgentError::Integrity`] where any of that does not hold.
    fn verify(&self, receipt: &[u8], expected: &Expected) -> Result<(), AgentError>;
    /// The agent's signature over the receipt's exact bytes, and the receipt with it: what both parties signed.
    ///
    /// # Errors
    /// Where the key cannot be used.
    fn cosign(&self, receipt: &[u8]) -> Result<(Cosign, Vec<u8>), AgentError>;
}

/// Waits for the receipt and settles the transfer.
///
/// # Errors
/// A refusal, a receipt that does not hold, a disk that does not take it.
pub async fn settle<C: Channel>(
    control: &mut ControlStream<C>,
    env: &Env,
    expected: &Expected,
) -> Result<PathBuf, AgentError> {
    match answer(control).await? {
        reply::Reply::Receipt(receipt) => settle_at_once(control, env, expected, &receipt.json).await,
        other => Err(unexpected("a receipt", &other)),
    }
}

/// Settles a transfer whose receipt is here: check, keep durably, cosign. Gives the receipt's path.
///
/// Once the receipt lies on this disk the transfer is done, whether or not the gateway still hears the signature.
///
/// # Errors
/// A receipt that does not hold, a disk that does not take it.
pub async fn settle_at_once<C: Channel>(
    control: &mut ControlStream<C>,
    env: &Env,
    expected: &Expected,
    receipt: &[u8],
) -> Result<PathBuf, AgentError> {
    env.notary.verify(receipt, expected)?;
    let (cosign, json) = env.notary.cosign(receipt)?;
    let (outbox, id) = (env.outbox.clone(), expected.transfer);
    let path = blocking(move || outbox.keep_receipt(id, &json)).await?;
    let said = async {
        control.step(step::Step::Cosign(cosign)).await?;
        match answer(control).await? {
            reply::Reply::Done(_) => Ok(()),
            other => Err(unexpected("Done", &other)),
        }
    };
    if let Err(error) = said.await {
        tracing::warn!(transfer = %expected.transfer, %error, "the receipt is kept, but the gateway may lack its cosignature");
    }
    control.writer.finish();
    Ok(path)
}
