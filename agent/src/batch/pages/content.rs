//! Pages in the two kinds of compression whose decoders go on for as long as their input does, whatever a page says of its
//! size: what comes out is counted first, and kept nowhere. The others stop at what the page says.

use super::Header;
use flate2::bufread::MultiGzDecoder;
use lingqu_protocol::host::DiskFile;
use parquet::basic::Compression;
use std::io::{BufReader, Read};

/// Bytes that are read, and made, at a time.
const STEP_BYTES: usize = 64 << 10;

/// Bytes of the lengths before each piece of Hadoop's LZ4.
const LENGTHS_BYTES: u64 = 8;

/// Whether the page's content, which is stored at `at`, is as long as its header says.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(file: &dyn DiskFile, codec: Compression, header: &Header, at: u64) -> Result<(), String> {
    let plain = header.plain_bytes.min(header.stored_bytes);
    let content = Content { file, at: at + plain, left: header.stored_bytes - plain };
    let said = header.decompressed_bytes.saturating_sub(plain);
    match codec {
        // What would come to nothing is not decompressed.
        _ if said == 0 || content.left == 0 => Ok(()),
        Compression::GZIP(_) => gzip(content, said),
        Compression::LZ4 => hadoop(content, said),
        _ => Ok(()),
    }
}

fn gzip(content: Content<'_>, said: u64) -> Result<(), String> {
    let mut decoder = MultiGzDecoder::new(BufReader::with_capacity(STEP_BYTES, content));
    let mut buffer = vec![0; STEP_BYTES];
    let mut found = 0u64;
    loop {
        // What the decoder says of content that is broken is said when it is decoded.
        let Ok(bytes) = decoder.read(&mut buffer) else { return Ok(()) };
        found += bytes as u64;
        if found > said {
            return Err(format!("a page holds more than the {said} bytes that it says"));
        }
        if bytes == 0 {
            return Ok(());
        }
    }
}

/// Pieces of LZ4 with their lengths before them, as Hadoop writes them; frames of LZ4 would be without a bound.
fn hadoop(mut content: Content<'_>, said: u64) -> Result<(), String> {
    let unknown = || "it is compressed with LZ4 in another form than Hadoop's: write LZ4_RAW or ZSTD".to_owned();
    let mut found = 0u64;
    while content.left > 0 {
        let mut lengths = [0; LENGTHS_BYTES as usize];
        content.read_exact(&mut lengths).map_err(|_| unknown())?;
        let number = |at: usize| lengths.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
        let stored = u64::from(number(4));
        found = found.saturating_add(number(0).into());
        if stored > content.left || found > said {
            return Err(unknown());
        }
        content.at += stored;
        content.left -= stored;
    }
    if found == said { Ok(()) } else { Err(unknown()) }
}

/// A page's bytes in its file.
struct Content<'a> {
    file: &'a dyn DiskFile,
    at: u64,
    left: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.left.min(buf.len() as u64) as usize;
        let Some(part) = buf.get_mut(..bytes) else { return Ok(0) };
        self.file.read_exact_at(part, self.at)?;
        self.at += bytes as u64;
        self.left -= bytes as u64;
        Ok(bytes)
    }
}
