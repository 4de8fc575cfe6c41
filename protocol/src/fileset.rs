//! A set of files and the digest that stands for all of it.

use crate::digest::{Algorithm, Digest};

/// One file of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name, checked by [`crate::name::FileName`].
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its BLAKE3 hash, what `b3sum` prints.
    pub root: Digest,
}

/// What a listing starts with, so that its digest is nothing else's.
const DOMAIN: &[u8] = b"lingqu file set v1\n";

/// The digest of a set: BLAKE3 over a domain line and, for each file in ascending order of the bytes of its name, the
/// name's length (u32, big endian), the name, the file's length (u64, big endian) and the 32 bytes of its hash.
///
/// The caller has the files in that order; a manifest in another order is refused where it is read.
pub fn set_root<'a>(files: impl IntoIterator<Item = &'a FileEntry>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(DOMAIN);
    for file in files {
        hasher.update(&(file.name.len() as u32).to_be_bytes());
        hasher.update(file.name.as_bytes());
        hasher.update(&file.bytes.to_be_bytes());
        hasher.update(&file.root.bytes);
    }
    Digest { algorithm: Algorithm::Blake3, bytes: *hasher.finalize().as_bytes() }
}

/// What a listing of parts starts with.
const PARTS_DOMAIN: &[u8] = b"lingqu table parts v1\n";

/// The `bytes_root` of a version of rows: BLAKE3 over a domain line and, for each part in order, its length (u64, big
/// endian) and the 32 bytes of its digest. Where files were sent to stay as they are, they are the parts, in their order.
pub fn parts_root(parts: impl IntoIterator<Item = (u64, Digest)>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(PARTS_DOMAIN);
    for (bytes, digest) in parts {
        hasher.update(&bytes.to_be_bytes());
        hasher.update(&digest.bytes);
    }
    Digest { algorithm: Algorithm::Blake3, bytes: *hasher.finalize().as_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: u64) -> FileEntry {
        FileEntry { name: name.to_owned(), bytes, root: Digest::blake3(name.as_bytes()) }
    }

    #[test]
    fn every_part_of_every_file_counts() {
        let base = [file("a", 1), file("b", 2)];
        let root = set_root(&base);
        assert_eq!(root, set_root(&base));
        for changed in [
            vec![file("a", 1)],
            vec![file("a", 2), file("b", 2)],
            vec![file("b", 2), file("a", 1)],
            vec![FileEntry { root: Digest::blake3(b""), ..file("a", 1) }, file("b", 2)],
            vec![FileEntry { name: "ab".into(), ..file("a", 1) }, file("b", 2)],
        ] {
            assert_ne!(root, set_root(&changed));
        }
    }
}
