//! Rows on the wire: one Arrow IPC encapsulated message per Batch frame, the schema first. No dictionaries, no views, no
//! compression of Arrow's own: a batch is what it is, and its size is its size in memory. How a frame may travel is the frame's matter.

use crate::digest::{Algorithm, Digest};
use crate::frame::BATCH_BYTES_MAX;
use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::root_as_message;
use arrow::ipc::writer::StreamEncoder;
use bytes::Bytes;

/// Rows of one batch on the wire: what both sides' buffers are cut for. A sender's batch of wide rows has fewer.
pub const BATCH_ROWS_MAX: usize = 65_536;

/// Bytes that a sender aims at: large enough that a frame costs nothing, and a few of them are little memory.
pub const BATCH_BYTES_AIM: usize = 4 << 20;

/// Arrow IPC's end-of-stream marker.
const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// What every encapsulated message begins with.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Bytes that are not the rows that they should be. The sender is at fault.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// Not Arrow IPC, or not valid: lengths, offsets, UTF-8.
    #[error("not a valid Arrow message: {0}")]
    Invalid(#[from] ArrowError),
    /// Rows came before their schema, or a second schema came.
    #[error("a schema must come first, and once")]
    NoSchema,
    /// A frame with more or less than one message.
    #[error("a batch frame must hold exactly one message")]
    NotOneMessage,
    /// A batch whose head claims what is not there.
    #[error("not a valid batch: {0}")]
    Claims(&'static str),
    /// A column type that is never sent.
    #[error("column {column} has the type {found}, which is not sent")]
    Type {
        /// The column.
        column: String,
        /// Its type.
        found: DataType,
    },
    /// A row, or few of them, over the bound of a frame.
    #[error("a batch of {rows} rows has {bytes} bytes, more than a frame of {BATCH_BYTES_MAX}")]
    TooLarge {
        /// Rows.
        rows: usize,
        /// Bytes.
        bytes: usize,
    },
}

/// Encodes batches of one schema.
pub struct Encoder {
    schema: SchemaRef,
    arrow: StreamEncoder,
}

impl Encoder {
    /// For this schema. The schema's own message is the first of [`Self::schema`].
    ///
    /// # Errors
    /// A type that is never sent.
    pub fn new(schema: SchemaRef) -> Result<Self, IpcError> {
        check(&schema)?;
        Ok(Self { arrow: StreamEncoder::try_new(&schema)?, schema })
    }

    /// The body of the first frame.
    ///
    /// # Errors
    /// What Arrow says.
    pub fn schema(&mut self) -> Result<Bytes, IpcError> {
        // The encoder gives the schema with its first batch; an encoder that ends at once gives schema and end.
        let pieces = StreamEncoder::try_new(&self.schema)?.finish()?;
        let mut whole: Vec<u8> = pieces.iter().flat_map(|b| b.as_slice().iter().copied()).collect();
        whole.truncate(whole.len().saturating_sub(END_OF_STREAM.len()));
        // And so does the one that is kept, whose copy is not needed any more.
        self.arrow.encode(&RecordBatch::new_empty(self.schema.clone()))?;
        Ok(whole.into())
    }

    /// The pieces of the body of one batch's frame, sharing the batch's buffers; with their length.
    ///
    /// # Errors
    /// [`IpcError::TooLarge`]: cut the batch first, see [`cut`].
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<(Vec<Bytes>, usize), IpcError> {
        let pieces: Vec<Bytes> = self.arrow.encode(batch)?.into_iter().map(Bytes::from_owner).collect();
        let bytes = pieces.iter().map(Bytes::len).sum();
        if bytes > BATCH_BYTES_MAX {
            return Err(IpcError::TooLarge { rows: batch.num_rows(), bytes });
        }
        Ok((pieces, bytes))
    }
}

/// Decodes what [`Encoder`] made; validation stays on.
#[derive(Default)]
pub struct Decoder {
    arrow: StreamDecoder,
    schema: Option<SchemaRef>,
}

impl Decoder {
    /// The rows in a frame's body; `None` for the first, which holds the schema.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn decode(&mut self, body: Bytes) -> Result<Option<RecordBatch>, IpcError> {
        if self.schema.is_none() {
            self.schema = Some(schema_of(&body)?);
            self.arrow.decode(&mut Buffer::from(body))?;
            return Ok(None);
        }
        check_claims(&body, self.schema.as_ref().map_or(&[], |schema| schema.fields()))?;
        let mut buffer = Buffer::from(body);
        let batch = self.arrow.decode(&mut buffer)?.ok_or(IpcError::NotOneMessage)?;
        if !buffer.is_empty() {
            return Err(IpcError::NotOneMessage);
        }
        Ok(Some(batch))
    }

    /// The schema, once the first frame came.
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.schema.as_ref()
    }
}

/// A batch in pieces that fit the wire, in order, sharing its buffers.
pub fn cut(batch: &RecordBatch) -> Vec<RecordBatch> {
    cut_to(batch, BATCH_BYTES_AIM)
}

/// The same with pieces of about `bytes_aim`, a row at least.
pub fn cut_to(batch: &RecordBatch, bytes_aim: usize) -> Vec<RecordBatch> {
    let rows = batch.num_rows();
    let bytes = batch.get_array_memory_size().max(1);
    let per_piece = (rows.saturating_mul(bytes_aim.min(BATCH_BYTES_AIM)) / bytes).clamp(1, BATCH_ROWS_MAX);
    (0..rows).step_by(per_piece).map(|start| batch.slice(start, per_piece.min(rows - start))).collect()
}

/// The `bytes_root` of rows that are delivered, as their frames pass: a chain, so that a delivery which is cut can go on from
/// what it was. It starts as BLAKE3 of a domain line; each frame's body makes it BLAKE3 of itself and of the body's BLAKE3
/// hash. The schema is the first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRoot {
    root: [u8; 32],
    bytes: u64,
}

/// What a chain of frames starts with, so that it is nothing else's.
const FRAMES_DOMAIN: &[u8] = b"lingqu batches v1\n";

impl Default for BatchRoot {
    fn default() -> Self {
        Self { root: *blake3::hash(FRAMES_DOMAIN).as_bytes(), bytes: 0 }
    }
}

impl BatchRoot {
    /// Adds a frame's body, in whatever pieces.
    pub fn add<'a>(&mut self, body: impl IntoIterator<Item = &'a [u8]>) {
        let mut hasher = blake3::Hasher::new();
        for piece in body {
            hasher.update(piece);
            self.bytes += piece.len() as u64;
        }
        self.chain(hasher.finalize().as_bytes());
    }

    /// Adds a frame's body of so many bytes, whose BLAKE3 hash is known.
    pub fn add_hashed(&mut self, bytes: usize, hash: &[u8; 32]) {
        self.bytes += bytes as u64;
        self.chain(hash);
    }

    fn chain(&mut self, hash: &[u8; 32]) {
        let mut both = [0; 64];
        let (before, this) = both.split_at_mut(32);
        before.copy_from_slice(&self.root);
        this.copy_from_slice(hash);
        self.root = *blake3::hash(&both).as_bytes();
    }

    /// The digest of the frames so far.
    pub const fn digest(&self) -> Digest {
        Digest { algorithm: Algorithm::Blake3, bytes: self.root }
    }

    /// Bytes of the bodies so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Root (32 bytes) and bytes (8, big-endian): all that is needed to go on.
    pub fn to_bytes(&self) -> [u8; 40] {
        let mut out = [0; 40];
        let (root, bytes) = out.split_at_mut(32);
        root.copy_from_slice(&self.root);
        bytes.copy_from_slice(&self.bytes.to_be_bytes());
        out
    }

    /// What [`to_bytes`](Self::to_bytes) wrote.
    pub fn from_bytes(from: &[u8; 40]) -> Self {
        let (mut root, mut bytes) = ([0; 32], [0; 8]);
        let (first, last) = from.split_at(32);
        root.copy_from_slice(first);
        bytes.copy_from_slice(last);
        Self { root, bytes: u64::from_be_bytes(bytes) }
    }
}

fn schema_of(body: &Bytes) -> Result<SchemaRef, IpcError> {
    let mut arrow = StreamDecoder::new();
    let mut whole = body.to_vec();
    whole.extend(END_OF_STREAM);
    if arrow.decode(&mut Buffer::from(whole))?.is_some() {
        return Err(IpcError::NoSchema);
    }
    let schema = arrow.schema().ok_or(IpcError::NoSchema)?;
    check(&schema)?;
    Ok(schema)
}

/// The head of a batch against what is there: Arrow's reader believes some of its lengths and offsets, and would panic over
/// those that lie.
fn check_claims(body: &[u8], fields: &[FieldRef]) -> Result<(), IpcError> {
    let lies = |what| Err(IpcError::Claims(what));
    let Some((head, rest)) = body.split_first_chunk::<8>() else { return Err(IpcError::NotOneMessage) };
    let [c0, c1, c2, c3, size @ ..] = *head;
    if [c0, c1, c2, c3] != CONTINUATION {
        return lies("it does not begin as a message does");
    }
    let Some((metadata, data)) = rest.split_at_checked(u32::from_le_bytes(size) as usize) else {
        return Err(IpcError::NotOneMessage);
    };
    let Ok(message) = root_as_message(metadata) else { return lies("its head cannot be read") };
    if u64::try_from(message.bodyLength()).ok() != Some(data.len() as u64) {
        return Err(IpcError::NotOneMessage);
    }
    let Some(batch) = message.header_as_record_batch() else { return lies("rows must come here") };
    if batch.compression().is_some() || batch.variadicBufferCounts().is_some_and(|counts| !counts.is_empty()) {
        return lies("it is compressed, or has views");
    }
    let (nodes, buffers) = (batch.nodes().unwrap_or_default(), batch.buffers().unwrap_or_default());
    let widths: Vec<i64> = fields.iter().flat_map(|field| widths(field.data_type())).copied().collect();
    if batch.length() < 0 || nodes.len() != fields.len() || buffers.len() != widths.len() {
        return lies("it has other columns than its schema");
    }
    let rows = batch.length();
    if nodes.iter().any(|node| node.length() != rows || !(0..=rows).contains(&node.null_count())) {
        return lies("a column has another number of rows");
    }
    let is_inside = |offset: i64, length: i64| {
        let end = u64::try_from(offset).ok().zip(u64::try_from(length).ok()).and_then(|(a, b)| a.checked_add(b));
        end.is_some_and(|end| end <= data.len() as u64)
    };
    if buffers.iter().any(|buffer| !is_inside(buffer.offset(), buffer.length())) {
        return lies("a buffer lies outside of it");
    }
    if buffers.iter().zip(widths).any(|(buffer, width)| buffer.length() % width != 0) {
        return lies("a buffer ends within a value");
    }
    Ok(())
}

/// Bytes of one value in each buffer of a column: where it is valid, then offsets and text, or values.
const fn widths(data_type: &DataType) -> &'static [i64] {
    match data_type {
        DataType::Utf8 | DataType::Binary => &[1, 4, 1],
        DataType::Int32 | DataType::Date32 => &[1, 4],
        DataType::Int64 | DataType::Float64 | DataType::Timestamp(..) => &[1, 8],
        DataType::Decimal128(..) => &[1, 16],
        _ => &[1, 1],
    }
}

fn check(schema: &Schema) -> Result<(), IpcError> {
    let refused = schema.fields().iter().find(|f| {
        !matches!(
            f.data_type(),
            DataType::Utf8
                | DataType::Int32
                | DataType::Int64
                | DataType::Float64
                | DataType::Decimal128(..)
                | DataType::Date32
                | DataType::Timestamp(..)
                | DataType::Boolean
                | DataType::Binary
        )
    });
    refused.map_or(Ok(()), |f| Err(IpcError::Type { column: f.name().clone(), found: f.data_type().clone() }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, NullArray, StringArray};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn batch(rows: usize) -> RecordBatch {
        let n: ArrayRef = Arc::new(Int64Array::from_iter((0..rows as i64).map(|i| (i % 3 != 0).then_some(i))));
        let s: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("行{i}"))));
        RecordBatch::try_from_iter_with_nullable([("n", n, true), ("s", s, true)]).unwrap()
    }

    fn frames(batches: &[RecordBatch]) -> Vec<Bytes> {
        let mut encoder = Encoder::new(batches[0].schema()).unwrap();
        let mut frames = vec![encoder.schema().unwrap()];
        for batch in batches {
            let (pieces, bytes) = encoder.batch(batch).unwrap();
            let body = Bytes::from(pieces.concat());
            assert_eq!(body.len(), bytes);
            frames.push(body);
        }
        frames
    }

    #[test]
    fn batches_round_trip_each_in_a_frame() {
        let all = [batch(10), batch(0), batch(1000).slice(7, 500)];
        let mut decoder = Decoder::default();
        let mut back = Vec::new();
        for (i, frame) in frames(&all).into_iter().enumerate() {
            let decoded = decoder.decode(frame).unwrap();
            assert_eq!(decoded.is_none(), i == 0);
            assert_eq!(decoder.schema(), Some(&all[0].schema()));
            back.extend(decoded);
        }
        assert_eq!(back, all);
    }

    #[test]
    fn a_chain_of_frames_goes_on_from_what_it_was() {
        let mut whole = BatchRoot::default();
        for body in [b"schema".as_slice(), b"one", b"two"] {
            whole.add([body]);
        }
        let mut first = BatchRoot::default();
        first.add([b"sch".as_slice(), b"ema"]);
        first.add([b"one".as_slice()]);
        let mut then = BatchRoot::from_bytes(&first.to_bytes());
        assert_eq!(then, first);
        then.add([b"two".as_slice()]);
        assert_eq!((then, then.bytes()), (whole, 12));
        // Made with another implementation.
        let expected = "blake3:d7fb7981c5f90c56f07f2c7cad44f9f736e332410bf958b968ca4b80b5372a0b";
        assert_eq!(whole.digest().to_string(), expected);
    }

    #[test]
    fn a_cut_batch_is_the_same_rows() {
        let whole = batch(200_000);
        let pieces = cut(&whole);
        assert!(pieces.len() > 3 && pieces.iter().all(|p| p.num_rows() <= BATCH_ROWS_MAX));
        assert_eq!(arrow::compute::concat_batches(&whole.schema(), &pieces).unwrap(), whole);
        assert!(cut(&batch(0)).is_empty());
    }

    #[test]
    fn rows_without_a_schema_two_schemas_and_other_types_are_refused() {
        let frames = frames(&[batch(3)]);
        assert!(Decoder::default().decode(frames[1].clone()).is_err());
        let mut decoder = Decoder::default();
        decoder.decode(frames[0].clone()).unwrap();
        assert!(decoder.decode(frames[0].clone()).is_err());
        let nulls: ArrayRef = Arc::new(NullArray::new(1));
        let nulls = RecordBatch::try_from_iter([("x", nulls)]).unwrap();
        assert!(matches!(Encoder::new(nulls.schema()), Err(IpcError::Type { .. })));
    }

    #[test]
    fn no_bit_of_a_batch_makes_the_decoder_panic() {
        let all = frames(&[batch(20)]);
        for at in 0..all[1].len() {
            for bit in 0..8 {
                let mut bytes = all[1].to_vec();
                bytes[at] ^= 1 << bit;
                let mut decoder = Decoder::default();
                decoder.decode(all[0].clone()).unwrap();
                if let Ok(Some(rows)) = decoder.decode(bytes.into()) {
                    assert_eq!(rows.num_rows(), 20, "bit {bit} of byte {at}");
                    // What is valid can be read from end to end.
                    let _same = rows == batch(20);
                }
            }
        }
    }

    #[test]
    fn no_bit_of_a_schema_makes_the_decoder_panic() {
        let all = frames(&[batch(20)]);
        for at in 0..all[0].len() {
            for bit in 0..8 {
                let mut bytes = all[0].to_vec();
                bytes[at] ^= 1 << bit;
                let mut decoder = Decoder::default();
                if decoder.decode(bytes.into()).is_ok() {
                    // Rows of another schema: refused, or read as it says.
                    let _rows = decoder.decode(all[1].clone());
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_damaged_frame_is_refused_or_other_rows_and_never_panics(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let mut all = frames(&[batch(50)]);
            let last = all.pop().unwrap();
            let mut bytes = last.to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len() + 1).max(1));
            let mut decoder = Decoder::default();
            decoder.decode(all.remove(0)).unwrap();
            let _ = decoder.decode(bytes.into());
        }

        #[test]
        fn no_bytes_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Decoder::default().decode(bytes.into());
        }
    }
}
