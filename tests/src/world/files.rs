//! Files to send, and what came back.

use std::collections::BTreeMap;
use std::path::Path;

/// Bytes that look like nothing, the same for the same seed.
pub fn seeded_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

/// What `b3sum` prints for these bytes.
pub fn b3sum(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Every file below a folder by its path, as a receiver sees it; a pull of one file gives it the name of `--out`.
pub fn bytes_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    if dir.is_file() {
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        return [(name, std::fs::read(dir).unwrap())].into();
    }
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(&folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                out.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    out
}

/// Turns one bit of a byte of a file.
pub fn flip_byte(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// A folder of files with the names and sizes that go wrong first.
#[derive(Clone, Debug)]
pub struct Tree(pub BTreeMap<String, Vec<u8>>);

impl Tree {
    /// Unicode names, folders in folders, empty files, sizes around a chunk and a segment, and one of 10 MB.
    pub fn telling() -> Self {
        const MIB: usize = 1 << 20;
        let files = [
            ("空.txt", 0),
            ("a/也是空的", 0),
            ("登记/2026年/第一季度.csv", 4_096),
            ("登记/2026年/\u{e9}tude.txt", 17),
            ("emoji 😀 & 'quotes'.bin", 1_000),
            ("chunk/one", MIB),
            ("chunk/less", MIB - 1),
            ("chunk/more", MIB + 1),
            ("segment/more", 8 * MIB + 1),
            ("十兆.bin", 10_000_000),
        ];
        Self((0u64..).zip(files).map(|(seed, (name, len))| (name.to_owned(), seeded_bytes(seed, len))).collect())
    }

    /// Writes it below `dir`.
    pub fn write(&self, dir: &Path) {
        for (name, bytes) in &self.0 {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
}
