//! Batches that travel compressed: a length and an LZ4 block. The digests are over what comes out of it, so a batch is the
//! same one however it travelled.

use super::{BATCH_BYTES_MAX, FrameError, FrameKind, HEADER_BYTES, header};
use bytes::{Buf as _, Bytes, BytesMut};
use lz4_flex::block;

/// Bytes of the length before the block.
pub(super) const LENGTH_BYTES: usize = 4;

/// A byte of an LZ4 block stands for at most so many: what claims more is refused before there is room for it.
const RATIO_MAX: usize = 255;

/// What a compressed batch has to have saved, of eight parts: the receiver's work has to be worth something.
const SAVED_EIGHTHS: usize = 1;

/// The whole frame of a batch, compressed; `None` where that saves too little. The body may lie in pieces.
pub fn batch(pieces: &[Bytes]) -> Option<Bytes> {
    let joined: Vec<u8>;
    let body = match pieces {
        [only] => only.as_ref(),
        pieces => {
            joined = pieces.concat();
            &joined
        }
    };
    let mut out = Vec::new();
    append(body, &mut out).then(|| out.into())
}

/// Puts the whole frame of a batch, compressed, behind `out`, and says so; where that saves too little, nothing.
pub fn append(body: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let bytes = frame(body, out);
    out.truncate(start + bytes.unwrap_or(0));
    bytes.is_some()
}

/// Writes the frame behind `out`, which is longer than it afterwards; gives its bytes.
fn frame(body: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let start = out.len();
    out.resize(start + HEADER_BYTES + LENGTH_BYTES + block::get_maximum_output_size(body.len()), 0);
    let (head, rest) = out.get_mut(start..)?.split_first_chunk_mut::<HEADER_BYTES>()?;
    let (length, block) = rest.split_first_chunk_mut::<LENGTH_BYTES>()?;
    let bytes = LENGTH_BYTES + block::compress_into(body, block).ok()?;
    if bytes >= body.len() - body.len() * SAVED_EIGHTHS / 8 {
        return None;
    }
    *head = header(FrameKind::BatchLz4, bytes).ok()?;
    *length = u32::try_from(body.len()).ok()?.to_be_bytes();
    Some(HEADER_BYTES + bytes)
}

/// The batch in a compressed frame's body.
pub(super) fn restored(mut body: Bytes) -> Result<Bytes, FrameError> {
    let outside = |bytes: usize| FrameError::OutOfBounds { kind: FrameKind::BatchLz4, bytes: bytes as u64 };
    let bytes = body.try_get_u32().map_err(|_| FrameError::Truncated)? as usize;
    if bytes > BATCH_BYTES_MAX || bytes > body.len().saturating_mul(RATIO_MAX) {
        return Err(outside(bytes));
    }
    let mut out = BytesMut::zeroed(bytes);
    match block::decompress_into(&body, &mut out) {
        Ok(found) if found == bytes => Ok(out.freeze()),
        Ok(found) => Err(outside(found)),
        Err(error) => Err(FrameError::NotLz4(error.to_string())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(frame: &Bytes) -> Bytes {
        frame.slice(HEADER_BYTES..)
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back_whole(
            parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), 1usize..50), 1..20),
            cut in 1usize..200,
        ) {
            let text: Vec<u8> = parts.iter().flat_map(|(part, times)| part.repeat(*times)).collect();
            let pieces: Vec<Bytes> = text.chunks(cut).map(Bytes::copy_from_slice).collect();
            if let Some(frame) = batch(&pieces) {
                prop_assert!(frame.len() - HEADER_BYTES < text.len());
                prop_assert_eq!(restored(body(&frame)).unwrap(), text.clone());
                let mut out = b"before".to_vec();
                prop_assert!(append(&text, &mut out));
                prop_assert_eq!(&out[..6], b"before");
                prop_assert_eq!(&out[6..], &frame[..]);
            }
        }

        #[test]
        fn no_bytes_panic_or_give_more_than_a_batch(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(batch) = restored(bytes.into()) {
                prop_assert!(batch.len() <= BATCH_BYTES_MAX);
            }
        }
    }

    #[test]
    fn noise_is_left_as_it_is_and_repetition_is_not() {
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(10_000)
        .collect();
        let mut out = b"before".to_vec();
        assert!(!append(&noise, &mut out));
        assert_eq!(out, b"before", "nothing is put behind it");
        assert!(batch(&[noise.into()]).is_none());
        assert!(batch(&[Bytes::from(vec![7; 10_000])]).unwrap().len() < 200);
        assert!(batch(&[Bytes::new()]).is_none());
    }

    #[test]
    fn lengths_that_lie_are_refused_before_there_is_room_for_them() {
        let frame = batch(&[Bytes::from(vec![7; 10_000])]).unwrap();
        let claim = |bytes: u32| {
            let mut body = body(&frame).to_vec();
            body[..LENGTH_BYTES].copy_from_slice(&bytes.to_be_bytes());
            restored(body.into())
        };
        assert_eq!(claim(10_000).unwrap(), vec![7; 10_000]);
        for bytes in [0, 9_999, 10_001, u32::MAX, BATCH_BYTES_MAX as u32 + 1, BATCH_BYTES_MAX as u32] {
            assert!(claim(bytes).is_err(), "{bytes}");
        }
        assert_eq!(restored(Bytes::from_static(&[0, 0])), Err(FrameError::Truncated));
    }
}
