//! Files of rows on their way out: read, sifted, digested, and cut into frames.

use super::segment::changed;
use crate::batch::reject::{RejectOptions, Tally};
use crate::batch::sift::{Sieve, Sifted};
use crate::batch::{self, ReadOptions};
use crate::error::{AgentError, Told};
use crate::outbox::SourceFile;
use crate::transfer::{Env, blocking};
use arrow::array::RecordBatch;
use bytes::Bytes;
use lingqu_protocol::columns::arrow_schema;
use lingqu_protocol::digest::{Algorithm, Digest};
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::frame::{self, FrameKind};
use lingqu_protocol::ipc;
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use lingqu_protocol::session::SessionError;
use tokio::sync::mpsc;

/// How files of rows are read, and what is done about dirty rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct How {
    /// How they are read.
    pub options: ReadOptions,
    /// What is done about dirty rows.
    pub rejects: RejectOptions,
    /// Sends Parquet files as rows even where they could go as they are.
    pub as_rows: bool,
}

/// What a reading of all files came to. Rows read are rows sent and rows left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Rows that are sent.
    pub rows: u64,
    /// Rows that were read.
    pub read: u64,
    /// Rows that stay behind.
    pub rejected: u64,
    /// Rows that are sent and named.
    pub marked: u64,
    /// Bytes of the batches of rows that are sent.
    pub bytes: u64,
    /// Digest over the frames' bodies.
    pub bytes_root: Digest,
    /// Digest of the rows that are sent.
    pub rows_digest: Digest,
}

/// Where frames go, and what of the rows need not go: the first ones, where they are those that are durable.
pub type Out<'a> = (&'a mpsc::Sender<Vec<Bytes>>, RowsSum);

/// Reads every file in order, and hands the frames of its batches to `out`, but for the rows that are durable. Blocks.
///
/// # Errors
/// A file that cannot be read, or more dirty rows than may stay behind; first rows that are not those that are durable.
pub fn read_all(
    env: &Env,
    spec: &EntrySpec,
    files: &[SourceFile],
    how: &How,
    out: Option<Out<'_>>,
) -> Result<Summary, AgentError> {
    let mut tally = Tally::new(&*env.disk, &how.rejects, false)?;
    let mut reading = Reading::new(spec, out)?;
    for file in files {
        if !reading.file(env, file, &how.options, &mut tally, &mut |_| Ok(()))? {
            break;
        }
    }
    tally.finish()?;
    if let (Some(file), true) = (files.last(), reading.frames.wanted && reading.skip.is_left()) {
        // Fewer rows than are durable already.
        return Err(changed(&file.path));
    }
    Ok(reading.finish(&tally))
}

/// Reads the files of a push a second time, to compare them with a receipt. What stays behind was named the first time.
///
/// # Errors
/// As [`read_all`].
pub async fn reread(env: &Env, spec: EntrySpec, files: Vec<SourceFile>, how: &How) -> Result<Summary, AgentError> {
    let how = How { rejects: RejectOptions { file: None, ..how.rejects.clone() }, ..how.clone() };
    let env = env.clone();
    blocking(move || read_all(&env, &spec, &files, &how, None)).await
}

/// Files being read.
pub(super) struct Reading<'a> {
    spec: &'a EntrySpec,
    sieve: Sieve<'a>,
    frames: Frames<'a>,
    digest: RowsDigest,
    skip: Skip,
}

/// Rows that are durable already and are not sent.
struct Skip {
    durable: RowsSum,
    seen: RowsDigest,
}

impl Skip {
    fn is_left(&self) -> bool {
        self.seen.sum().count < self.durable.count
    }

    /// What is left of a batch to send; none while its rows are durable.
    fn rest(&mut self, batch: &RecordBatch, file: &SourceFile) -> Result<Option<RecordBatch>, AgentError> {
        let known = self.durable.count.saturating_sub(self.seen.sum().count);
        let skip = usize::try_from(known).unwrap_or(usize::MAX).min(batch.num_rows());
        if skip == 0 {
            return Ok(Some(batch.clone()));
        }
        self.seen.update(&batch.slice(0, skip)).map_err(|e| machine(&e))?;
        if !self.is_left() && self.seen.sum() != self.durable {
            return Err(changed(&file.path));
        }
        Ok((skip < batch.num_rows()).then(|| batch.slice(skip, batch.num_rows() - skip)))
    }
}

impl<'a> Reading<'a> {
    pub(super) fn new(spec: &'a EntrySpec, out: Option<Out<'a>>) -> Result<Self, AgentError> {
        let (out, durable) = out.map_or((None, RowsSum::default()), |(out, durable)| (Some(out), durable));
        let skip = Skip { durable, seen: RowsDigest::new(spec) };
        let encoder = ipc::Encoder::new(arrow_schema(spec)).map_err(|e| machine(&e))?;
        let mut frames = Frames { encoder, out, root: blake3::Hasher::new(), bytes: 0, wanted: true };
        frames.schema()?;
        Ok(Self { spec, sieve: Sieve::new(spec)?, frames, digest: RowsDigest::new(spec), skip })
    }

    /// Reads a file; each piece of it is shown to `look`. Whether more files are wanted.
    pub(super) fn file(
        &mut self,
        env: &Env,
        file: &SourceFile,
        options: &ReadOptions,
        tally: &mut Tally,
        look: &mut dyn FnMut(&Sifted) -> Result<(), AgentError>,
    ) -> Result<bool, AgentError> {
        let Self { spec, sieve, frames, digest, skip } = self;
        if !frames.wanted {
            return Ok(false);
        }
        batch::read(&*env.disk, &file.path, spec, options, &mut |piece| {
            let sifted = sieve.sift(piece)?;
            tally.take(&file.path, &sifted)?;
            look(&sifted)?;
            digest.update(&sifted.batch).map_err(|e| machine(&e))?;
            match skip.rest(&sifted.batch, file)? {
                Some(rest) => frames.rows(&rest, file),
                None => Ok(true),
            }
        })
    }

    pub(super) fn finish(self, tally: &Tally) -> Summary {
        Summary {
            rows: self.digest.sum().count,
            read: tally.read(),
            rejected: tally.rejected(),
            marked: tally.marked(),
            bytes: self.frames.bytes,
            bytes_root: Digest { algorithm: Algorithm::Blake3, bytes: *self.frames.root.finalize().as_bytes() },
            rows_digest: self.digest.finish(),
        }
    }
}

/// Batches as frames.
struct Frames<'a> {
    encoder: ipc::Encoder,
    out: Option<&'a mpsc::Sender<Vec<Bytes>>>,
    root: blake3::Hasher,
    bytes: u64,
    wanted: bool,
}

impl Frames<'_> {
    fn schema(&mut self) -> Result<(), AgentError> {
        let body = self.encoder.schema().map_err(|e| machine(&e))?;
        self.hand(vec![body]).map(|_| ())
    }

    fn rows(&mut self, batch: &RecordBatch, file: &SourceFile) -> Result<bool, AgentError> {
        for piece in ipc::cut(batch) {
            let (body, _) = self.encoder.batch(&piece).map_err(|e| {
                let path = file.path.display();
                let told = Told::new("rows", format!("{path}: {e}"), format!("{path}：{e}"));
                AgentError::Data(told.next("make rows smaller", "请减小单行数据"))
            })?;
            if !self.hand(body)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn hand(&mut self, body: Vec<Bytes>) -> Result<bool, AgentError> {
        let bytes: usize = body.iter().map(Bytes::len).sum();
        self.bytes += bytes as u64;
        // Nobody compares the digest of what is only looked at.
        let Some(out) = self.out else { return Ok(true) };
        body.iter().for_each(|piece| {
            self.root.update(piece);
        });
        let header = frame::header(FrameKind::Batch, bytes).map_err(SessionError::from)?;
        let mut frame = vec![Bytes::copy_from_slice(&header)];
        frame.extend(body);
        self.wanted = out.blocking_send(frame).is_ok();
        Ok(self.wanted)
    }
}

pub(super) fn machine(error: &dyn std::fmt::Display) -> AgentError {
    AgentError::Machine(Told::new("rows", error.to_string(), format!("内部错误：{error}")))
}
