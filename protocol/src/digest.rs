//! Digests with their algorithm, and the BLAKE3 tree of a file cut into chunks that are checked one by one.
//!
//! A file's digest is its plain BLAKE3 hash, what `b3sum` prints. BLAKE3 is a tree, so the chaining values of aligned
//! 1 MiB chunks, each checked where it arrives, combine to that hash without reading the bytes again.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use std::fmt;
use std::str::FromStr;

/// Bytes in a full chunk: a power of two of BLAKE3's own 1,024-byte chunks, small enough to check before writing and
/// large enough that the 32-byte value beside it costs nothing.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// What made a digest. National algorithms (SM3) will join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// BLAKE3 with 256 bits of output.
    Blake3,
    /// SHA-256 (FIPS 180-4).
    Sha256,
}

impl Algorithm {
    /// Its identifier on the wire and on disk.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }
}

/// A 256-bit digest and what made it, written `blake3:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    /// What made it.
    pub algorithm: Algorithm,
    /// Its bytes.
    pub bytes: [u8; 32],
}

/// A text that is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a digest: expected an algorithm (blake3, sha256), a colon and 64 hexadecimal digits")]
pub struct BadDigest;

impl Digest {
    /// The BLAKE3 digest of `bytes`.
    pub fn blake3(bytes: &[u8]) -> Self {
        Self { algorithm: Algorithm::Blake3, bytes: *blake3::hash(bytes).as_bytes() }
    }

    /// The SHA-256 digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
        Self { algorithm: Algorithm::Sha256, bytes: out }
    }

    /// The 64 hexadecimal digits alone, as `b3sum` and `sha256sum` print them.
    pub fn hex(&self) -> String {
        to_hex(&self.bytes)
    }
}

/// `bytes` in lower-case hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        for nibble in [b >> 4, b & 15] {
            text.push(char::from_digit(nibble.into(), 16).unwrap_or('?'));
        }
        text
    })
}

/// The bytes that `text` writes in hexadecimal; `None` where it is not that.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.id(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = BadDigest;
    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let (id, hex) = text.split_once(':').ok_or(BadDigest)?;
        let algorithm = [Algorithm::Blake3, Algorithm::Sha256].into_iter().find(|a| a.id() == id).ok_or(BadDigest)?;
        let bytes = from_hex(hex).and_then(|v| v.try_into().ok()).ok_or(BadDigest)?;
        Ok(Self { algorithm, bytes })
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The value that vouches for one chunk of a file: its chaining value in the file's tree or, where the file has just
/// this chunk, the file's hash.
pub type ChunkValue = [u8; 32];

/// The value of chunk `index` of a file of `file_bytes`.
pub fn chunk_value(data: &[u8], index: u64, file_bytes: u64) -> ChunkValue {
    let mut chunk = ChunkHasher::new(index, file_bytes);
    chunk.update(data);
    chunk.value()
}

/// The value of a chunk whose bytes come one after the other.
#[derive(Clone, Debug)]
pub struct ChunkHasher {
    hasher: blake3::Hasher,
    is_file: bool,
}

impl ChunkHasher {
    /// Of chunk `index` of a file of `file_bytes`.
    pub fn new(index: u64, file_bytes: u64) -> Self {
        let is_file = file_bytes <= CHUNK_BYTES;
        let mut hasher = blake3::Hasher::new();
        if !is_file {
            hasher.set_input_offset(index * CHUNK_BYTES);
        }
        Self { hasher, is_file }
    }

    /// Takes up the bytes that follow.
    pub fn update(&mut self, data: &[u8]) {
        self.hasher.update(data);
    }

    /// Of the bytes so far.
    pub fn value(&self) -> ChunkValue {
        match (self.is_file, self.hasher.count()) {
            (true, _) => *self.hasher.finalize().as_bytes(),
            // A part of a tree has bytes; what has none is no chunk, and fits no value of one.
            (false, 0) => *blake3::hash(&[]).as_bytes(),
            (false, _) => self.hasher.finalize_non_root(),
        }
    }
}

/// Chunks in a file of `file_bytes`; an empty file has one empty chunk.
pub const fn chunk_count(file_bytes: u64) -> u64 {
    if file_bytes == 0 { 1 } else { file_bytes.div_ceil(CHUNK_BYTES) }
}

/// Combines the values of a file's chunks, in order, to the file's BLAKE3 hash.
///
/// Holds one value per level of the tree, whatever the size of the file.
#[derive(Clone, Debug)]
pub struct RootBuilder {
    file_bytes: u64,
    chunks: u64,
    /// Complete subtrees from left to right; their sizes fall like the bits of `chunks`.
    stack: Vec<ChainingValue>,
}

impl RootBuilder {
    /// For a file of `file_bytes`.
    pub fn new(file_bytes: u64) -> Self {
        Self { file_bytes, chunks: 0, stack: Vec::new() }
    }

    /// Adds the value of the next chunk.
    pub fn push(&mut self, value: ChunkValue) {
        // As many subtrees are complete as `chunks` has bits set. Merging waits until a later chunk is known to follow,
        // for the last merge of all is the root's and is made differently.
        while self.stack.len() > self.chunks.count_ones() as usize {
            self.merge_top();
        }
        self.stack.push(value);
        self.chunks += 1;
    }

    /// The file's hash, or `None` where fewer or more chunks were added than the file has.
    pub fn finish(mut self) -> Option<Digest> {
        if self.chunks != chunk_count(self.file_bytes) {
            return None;
        }
        while self.stack.len() > 2 {
            self.merge_top();
        }
        let bytes = match self.stack.as_slice() {
            [only] => *only,
            [left, right] => *merge_subtrees_root(left, right, Mode::Hash).as_bytes(),
            _ => return None,
        };
        Some(Digest { algorithm: Algorithm::Blake3, bytes })
    }

    fn merge_top(&mut self) {
        if let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) {
            self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_chunks(data: &[u8]) -> Option<Digest> {
        let len = data.len() as u64;
        let mut root = RootBuilder::new(len);
        if data.is_empty() {
            root.push(chunk_value(data, 0, 0));
        }
        for (i, chunk) in data.chunks(CHUNK_BYTES as usize).enumerate() {
            root.push(chunk_value(chunk, i as u64, len));
        }
        root.finish()
    }

    fn pattern(len: usize) -> Vec<u8> {
        // The pattern of BLAKE3's own test vectors.
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn chunks_combine_to_the_plain_hash_at_every_edge() {
        let m = CHUNK_BYTES as usize;
        for len in
            [0, 1, 1023, 1024, 1025, m - 1, m, m + 1, 2 * m - 1, 2 * m, 2 * m + 1, 3 * m, 5 * m + 7, 8 * m, 9 * m]
        {
            let data = pattern(len);
            assert_eq!(by_chunks(&data), Some(Digest::blake3(&data)), "{len} bytes");
        }
    }

    #[test]
    fn a_chunk_has_the_same_value_in_whatever_pieces_it_comes() {
        let data = pattern(CHUNK_BYTES as usize);
        for (index, file_bytes) in [(0, CHUNK_BYTES), (0, 3 * CHUNK_BYTES), (2, 3 * CHUNK_BYTES)] {
            let whole = chunk_value(&data, index, file_bytes);
            for piece in [1_000, 16 << 10, 300_001] {
                let mut chunk = ChunkHasher::new(index, file_bytes);
                data.chunks(piece).for_each(|piece| chunk.update(piece));
                assert_eq!(chunk.value(), whole, "{index} {file_bytes} {piece}");
            }
        }
        // Nothing is no chunk of a large file, and nothing that breaks.
        assert_ne!(chunk_value(&[], 1, 3 * CHUNK_BYTES), chunk_value(&data, 1, 3 * CHUNK_BYTES));
    }

    #[test]
    fn the_published_vector_of_the_empty_input_holds() {
        let text = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(by_chunks(&[]).map(|d| d.to_string()).as_deref(), Some(text));
    }

    #[test]
    fn a_missing_or_spare_chunk_has_no_root() {
        let mut root = RootBuilder::new(3 * CHUNK_BYTES);
        root.push([0; 32]);
        root.push([1; 32]);
        assert_eq!(root.clone().finish(), None);
        root.push([2; 32]);
        assert!(root.clone().finish().is_some());
        root.push([3; 32]);
        assert_eq!(root.finish(), None);
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: [u8; 32]) {
            for algorithm in [Algorithm::Blake3, Algorithm::Sha256] {
                let digest = Digest { algorithm, bytes };
                prop_assert_eq!(digest.to_string().parse(), Ok(digest));
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,90}") {
            let _ = text.parse::<Digest>();
        }
    }
}
