//! Content and choices made from a seed: the same seed gives the same bytes on every machine.

use crate::error::BenchError;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// Bytes that are made and written at once.
const BLOCK_BYTES: usize = 1 << 20;

/// A stream of bytes from a seed and a name: BLAKE3's extendable output, so that no two names share a byte by chance.
#[derive(Debug)]
pub struct Seeded(blake3::OutputReader);

impl Seeded {
    /// The stream called `name` of `seed`.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("lingqu bench content");
        hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
        Self(hasher.finalize_xof())
    }

    /// Fills `buf` with the next bytes.
    pub fn fill(&mut self, buf: &mut [u8]) {
        self.0.fill(buf);
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number below `bound`, which is at least 1. The bias is below one in 2^32 for bounds below 2^32.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound.max(1)
    }

    /// Whether something that happens in `per_mille` of 1,000 cases happens now.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }
}

/// Writes a durable file of `bytes` bytes and gives its BLAKE3 digest in hexadecimal, as `b3sum` prints it.
///
/// # Errors
/// What the system says.
pub fn write_file(path: &Path, bytes: u64, content: &mut Seeded) -> Result<String, BenchError> {
    let mut file = File::create(path).map_err(BenchError::io("making", path))?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut hasher = blake3::Hasher::new();
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        let Some(part) = block.get_mut(..now) else { break };
        content.fill(part);
        hasher.update(part);
        file.write_all(part).map_err(BenchError::io("writing", path))?;
        left -= now as u64;
    }
    file.sync_all().map_err(BenchError::io("syncing", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The BLAKE3 digest of a file in hexadecimal.
///
/// # Errors
/// What the system says.
pub fn b3sum(path: &Path) -> Result<String, BenchError> {
    let mut file = File::open(path).map_err(BenchError::io("opening", path))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).map_err(BenchError::io("reading", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// An identifier of a transfer made from a seed, so that a run can name its transfers before they begin.
pub fn transfer_id(content: &mut Seeded) -> String {
    let bits = u128::from(content.next_u64()) << 64 | u128::from(content.next_u64());
    lingqu_protocol::ids::TransferId::from_bits(bits).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_name_give_the_same_bytes_and_no_others_do() {
        let first = |seed, name: &str| Seeded::new(seed, name).next_u64();
        assert_eq!(first(7, "a"), first(7, "a"));
        assert_ne!(first(7, "a"), first(8, "a"));
        assert_ne!(first(7, "a"), first(7, "b"));
    }

    #[test]
    fn a_file_has_the_size_and_the_digest_that_were_told() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1] {
            let path = dir.path().join("file");
            let told = write_file(&path, bytes, &mut Seeded::new(1, "x")).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
            assert_eq!(b3sum(&path).unwrap(), told);
        }
    }

    #[test]
    fn an_id_from_a_seed_is_one() {
        let id = transfer_id(&mut Seeded::new(1, "id"));
        assert!(id.parse::<lingqu_protocol::ids::TransferId>().is_ok(), "{id}");
    }
}
