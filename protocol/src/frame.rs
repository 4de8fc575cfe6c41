//! Frames: how bytes on a stream are told apart. A frame is a kind (1 byte), a length (4 bytes, big endian) and a body.
//! The decoder holds at most one bounded frame, hands bulk bytes on as they come, and never trusts a length before it has
//! checked it against the kind's bound.

pub mod lz4;

use crate::digest::{CHUNK_BYTES, ChunkValue};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

/// Bytes before a frame's body.
pub const HEADER_BYTES: usize = 5;

/// A control message: a page of records or a signed document with room to spare.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;

/// A part of a manifest: some thousand names.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;

/// One Arrow IPC message: the largest batch that a sender cuts, and a single row of large cells.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// Bytes of an item's head: its index in the segment and its value.
const ITEM_HEAD_BYTES: usize = 4 + 32;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A protobuf message.
    Control = 1,
    /// A protobuf `ManifestPart`.
    Manifest = 2,
    /// The index of the segment whose items follow.
    Segment = 3,
    /// One item of a segment: index, value and bytes.
    Item = 4,
    /// One Arrow IPC encapsulated message.
    Batch = 5,
    /// The same, compressed: its length (4 bytes) and an LZ4 block.
    BatchLz4 = 6,
}

impl FrameKind {
    const ALL: [Self; 6] = [Self::Control, Self::Manifest, Self::Segment, Self::Item, Self::Batch, Self::BatchLz4];

    /// Bytes that a body of this kind may have.
    pub const fn body_bytes_max(self) -> usize {
        match self {
            Self::Control => CONTROL_BYTES_MAX,
            Self::Manifest => MANIFEST_BYTES_MAX,
            Self::Segment => 4,
            Self::Item => ITEM_HEAD_BYTES + CHUNK_BYTES as usize,
            Self::Batch | Self::BatchLz4 => BATCH_BYTES_MAX,
        }
    }

    const fn body_bytes_min(self) -> usize {
        match self {
            Self::Segment => 4,
            Self::Item => ITEM_HEAD_BYTES,
            Self::BatchLz4 => lz4::LENGTH_BYTES,
            Self::Control | Self::Manifest | Self::Batch => 0,
        }
    }
}

/// Bytes that are not frames of this protocol. The peer is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No such kind.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// A body that is shorter or longer than its kind allows.
    #[error("a {kind:?} frame of {bytes} bytes is outside its bounds")]
    OutOfBounds {
        /// The frame's kind.
        kind: FrameKind,
        /// The length it claims.
        bytes: u64,
    },
    /// A compressed batch that is none.
    #[error("a compressed batch cannot be restored: {0}")]
    NotLz4(String),
    /// A protobuf message that is none.
    #[error("a message cannot be decoded: {0}")]
    BadMessage(String),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
}

/// What the decoder found next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole protobuf message.
    Control(Bytes),
    /// A whole part of a manifest.
    Manifest(Bytes),
    /// A segment starts.
    Segment(u32),
    /// An item starts; `bytes` of [`Event::ItemData`] follow.
    Item {
        /// Index in the segment.
        index: u32,
        /// The value that the sender gives.
        value: ChunkValue,
        /// Bytes that follow.
        bytes: u32,
    },
    /// The next bytes of the current item, as they came.
    ItemData(Bytes),
    /// A whole Arrow IPC message, restored where it came compressed.
    Batch(Bytes),
}

/// A frame with this body.
///
/// # Errors
/// Where the body is outside its kind's bounds.
pub fn encode(kind: FrameKind, body: &[u8]) -> Result<Bytes, FrameError> {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + body.len());
    out.put_slice(&header(kind, body.len())?);
    out.put_slice(body);
    Ok(out.freeze())
}

/// The header of a frame whose body the caller sends itself, without copying it.
///
/// # Errors
/// Where the length is outside its kind's bounds.
pub fn header(kind: FrameKind, body_bytes: usize) -> Result<[u8; HEADER_BYTES], FrameError> {
    check(kind, body_bytes as u64)?;
    let mut out = [kind as u8; HEADER_BYTES];
    // Checked above: every bound is far below 2^32.
    out[1..].copy_from_slice(&(body_bytes as u32).to_be_bytes());
    Ok(out)
}

/// The frame that starts a segment.
pub fn segment(index: u32) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + 4);
    out.put_u8(FrameKind::Segment as u8);
    out.put_u32(4);
    out.put_u32(index);
    out.freeze()
}

/// Header and head of an item's frame; its `bytes` follow.
///
/// # Errors
/// Where the item is larger than a chunk.
pub fn item_head(index: u32, value: &ChunkValue, bytes: u32) -> Result<Bytes, FrameError> {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + ITEM_HEAD_BYTES);
    out.put_slice(&header(FrameKind::Item, ITEM_HEAD_BYTES + bytes as usize)?);
    out.put_u32(index);
    out.put_slice(value);
    Ok(out.freeze())
}

fn check(kind: FrameKind, bytes: u64) -> Result<(), FrameError> {
    if bytes < kind.body_bytes_min() as u64 || bytes > kind.body_bytes_max() as u64 {
        return Err(FrameError::OutOfBounds { kind, bytes });
    }
    Ok(())
}

#[derive(Debug)]
enum Expect {
    Header,
    Body { kind: FrameKind, bytes: usize },
    ItemData { left: usize },
}

/// Turns the bytes of one stream into events. Feed it with [`push`](Self::push), drain it with [`next`](Self::next).
#[derive(Debug)]
pub struct Decoder {
    takes_lz4: bool,
    expect: Expect,
    pieces: VecDeque<Bytes>,
    buffered: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { takes_lz4: false, expect: Expect::Header, pieces: VecDeque::new(), buffered: 0 }
    }
}

impl Decoder {
    /// The same for whoever said that it takes compressed batches. To all others they are an unknown kind: a few bytes that
    /// become many are not for everybody to send.
    #[must_use]
    pub fn taking_lz4(self) -> Self {
        Self { takes_lz4: true, ..self }
    }

    /// Adds bytes of the stream. Drain the events first: what is buffered then is less than one frame.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.buffered += bytes.len();
            self.pieces.push_back(bytes);
        }
    }

    /// The next event, or `None` until more bytes were pushed.
    ///
    /// # Errors
    /// Where the bytes are no frame; the stream is of no use after that.
    #[expect(clippy::should_implement_trait, reason = "fallible, and None is not the end")]
    pub fn next(&mut self) -> Result<Option<Event>, FrameError> {
        loop {
            match self.expect {
                Expect::Header => {
                    if self.buffered < HEADER_BYTES {
                        return Ok(None);
                    }
                    let mut head = self.take(HEADER_BYTES);
                    let byte = head.get_u8();
                    let mut kinds =
                        FrameKind::ALL.into_iter().filter(|kind| self.takes_lz4 || *kind != FrameKind::BatchLz4);
                    let kind = kinds.find(|kind| *kind as u8 == byte).ok_or(FrameError::UnknownKind(byte))?;
                    let bytes = head.get_u32();
                    check(kind, bytes.into())?;
                    self.expect = Expect::Body { kind, bytes: bytes as usize };
                }
                Expect::Body { kind: FrameKind::Item, bytes } => {
                    if self.buffered < ITEM_HEAD_BYTES {
                        return Ok(None);
                    }
                    let mut head = self.take(ITEM_HEAD_BYTES);
                    let index = head.get_u32();
                    let mut value = [0; 32];
                    head.copy_to_slice(&mut value);
                    let left = bytes - ITEM_HEAD_BYTES;
                    self.expect = if left == 0 { Expect::Header } else { Expect::ItemData { left } };
                    return Ok(Some(Event::Item { index, value, bytes: left as u32 }));
                }
                Expect::Body { kind, bytes } => {
                    if self.buffered < bytes {
                        return Ok(None);
                    }
                    let mut body = self.take(bytes);
                    self.expect = Expect::Header;
                    return Ok(Some(match kind {
                        FrameKind::Control => Event::Control(body),
                        FrameKind::Manifest => Event::Manifest(body),
                        FrameKind::Batch => Event::Batch(body),
                        FrameKind::BatchLz4 => Event::Batch(lz4::restored(body)?),
                        FrameKind::Segment | FrameKind::Item => Event::Segment(body.get_u32()),
                    }));
                }
                Expect::ItemData { left } => {
                    let Some(mut piece) = self.pieces.pop_front() else { return Ok(None) };
                    let data = piece.split_to(piece.len().min(left));
                    self.buffered -= data.len();
                    if !piece.is_empty() {
                        self.pieces.push_front(piece);
                    }
                    let left = left - data.len();
                    self.expect = if left == 0 { Expect::Header } else { Expect::ItemData { left } };
                    return Ok(Some(Event::ItemData(data)));
                }
            }
        }
    }

    /// Says that the stream ended.
    ///
    /// # Errors
    /// Where it ended inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffered == 0 && matches!(self.expect, Expect::Header) { Ok(()) } else { Err(FrameError::Truncated) }
    }

    /// `bytes` bytes that are buffered; without a copy where they lie in one piece.
    fn take(&mut self, bytes: usize) -> Bytes {
        self.buffered -= bytes;
        if let Some(first) = self.pieces.front_mut()
            && first.len() >= bytes
        {
            let out = first.split_to(bytes);
            if first.is_empty() {
                self.pieces.pop_front();
            }
            return out;
        }
        let mut out = BytesMut::with_capacity(bytes);
        while out.len() < bytes {
            let Some(mut piece) = self.pieces.pop_front() else { break };
            out.put(piece.split_to(piece.len().min(bytes - out.len())));
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Frame {
        Whole(FrameKind, Vec<u8>),
        Segment(u32),
        Item(u32, ChunkValue, Vec<u8>),
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let body = || prop::collection::vec(any::<u8>(), 0..200);
        prop_oneof![
            (prop_oneof![Just(FrameKind::Control), Just(FrameKind::Manifest), Just(FrameKind::Batch)], body())
                .prop_map(|(k, b)| Frame::Whole(k, b)),
            any::<u32>().prop_map(Frame::Segment),
            (any::<u32>(), any::<[u8; 32]>(), body()).prop_map(|(i, v, b)| Frame::Item(i, v, b)),
        ]
    }

    fn wire(frames: &[Frame]) -> Result<Vec<u8>, FrameError> {
        let mut out = Vec::new();
        for frame in frames {
            match frame {
                Frame::Whole(kind, body) => out.extend(encode(*kind, body)?),
                Frame::Segment(index) => out.extend(segment(*index)),
                Frame::Item(index, value, body) => {
                    out.extend(item_head(*index, value, body.len() as u32)?);
                    out.extend(body);
                }
            }
        }
        Ok(out)
    }

    /// The frames that come out when `bytes` arrive in pieces of these sizes, in turn.
    fn read(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = Decoder::default();
        let mut frames: Vec<Frame> = Vec::new();
        let mut rest = bytes;
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let cut = cuts.next().copied().unwrap_or(1).clamp(1, rest.len());
            decoder.push(Bytes::copy_from_slice(&rest[..cut]));
            rest = &rest[cut..];
            while let Some(event) = decoder.next()? {
                match event {
                    Event::Control(b) => frames.push(Frame::Whole(FrameKind::Control, b.to_vec())),
                    Event::Manifest(b) => frames.push(Frame::Whole(FrameKind::Manifest, b.to_vec())),
                    Event::Batch(b) => frames.push(Frame::Whole(FrameKind::Batch, b.to_vec())),
                    Event::Segment(i) => frames.push(Frame::Segment(i)),
                    Event::Item { index, value, .. } => frames.push(Frame::Item(index, value, Vec::new())),
                    Event::ItemData(piece) => match frames.last_mut() {
                        Some(Frame::Item(_, _, data)) => data.extend(piece),
                        other => panic!("bytes of an item after {other:?}"),
                    },
                }
            }
        }
        decoder.finish()?;
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            frames in prop::collection::vec(any_frame(), 0..12),
            cuts in prop::collection::vec(1usize..300, 1..8),
        ) {
            let bytes = wire(&frames).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let back = read(&bytes, &cuts).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(format!("{back:?}"), format!("{frames:?}"));
        }

        #[test]
        fn a_stream_that_ends_early_is_known_to(frames in prop::collection::vec(any_frame(), 1..5), at: prop::sample::Index) {
            let bytes = wire(&frames).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let cut = at.index(bytes.len());
            match read(&bytes[..cut], &[64]) {
                Err(e) => prop_assert_eq!(e, FrameError::Truncated),
                Ok(back) => prop_assert!(back.len() < frames.len(), "cut at a frame's edge"),
            }
        }

        #[test]
        fn no_bytes_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes, &[7]);
        }
    }

    #[test]
    fn a_length_is_refused_before_anything_is_held_for_it() {
        for (kind, bytes) in
            [(1u8, u32::MAX), (2, 1 << 20 | 1), (3, 3), (3, 5), (4, 35), (4, 36 + (1 << 20) + 1), (5, 1 << 25), (6, 3)]
        {
            let mut decoder = Decoder::default().taking_lz4();
            let mut head = vec![kind];
            head.extend(bytes.to_be_bytes());
            decoder.push(Bytes::from(head));
            assert!(matches!(decoder.next(), Err(FrameError::OutOfBounds { .. })), "kind {kind}, {bytes} bytes");
        }
        let mut decoder = Decoder::default();
        decoder.push(Bytes::from_static(&[9, 0, 0, 0, 0]));
        assert_eq!(decoder.next(), Err(FrameError::UnknownKind(9)));
        let mut decoder = Decoder::default();
        decoder.push(Bytes::from_static(&[6, 0, 0, 0, 4]));
        assert_eq!(decoder.next(), Err(FrameError::UnknownKind(6)), "for those who asked for it alone");
    }

    #[test]
    fn a_header_of_each_kind_is_these_bytes() -> Result<(), FrameError> {
        assert_eq!(&encode(FrameKind::Control, b"ab")?[..], b"\x01\x00\x00\x00\x02ab");
        assert_eq!(&segment(258)[..], b"\x03\x00\x00\x00\x04\x00\x00\x01\x02");
        assert_eq!(&item_head(1, &[7; 32], 3)?[..9], b"\x04\x00\x00\x00\x27\x00\x00\x00\x01");
        Ok(())
    }
}
