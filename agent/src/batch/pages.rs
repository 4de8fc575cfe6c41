//! What the pages of a Parquet file say they hold, looked at before anything is decoded: a page of some bytes may claim two
//! gigabytes, and a decoder makes room for what is claimed.

mod content;

use lingqu_protocol::host::DiskFile;
use lingqu_protocol::thrift::{Compact, FALSE, I32, STRUCT, Stop};
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;

/// Bytes of one page when it is decompressed. Writers aim at one MiB; the largest known cut at 100 MB, and a page that
/// large does not fit beside its rows.
pub(super) const PAGE_BYTES_MAX: u64 = 64 << 20;

/// Bytes of the largest pages of all columns of a row group together: a page of each column is held while its rows are
/// read. A table of 256 columns at the usual size.
pub(super) const PAGES_BYTES_MAX: u64 = 256 << 20;

/// Bytes of a page's header: it may hold two bounds of a text column, of a row's size at most each.
const HEADER_BYTES_MAX: usize = 4 << 20;

/// Bytes that are read first: most headers have under a hundred.
const HEADER_BYTES_FIRST: usize = 4 << 10;

/// Looks at every page's header.
///
/// # Errors
/// What is wrong with it, as a text that follows "it cannot be read as Parquet".
pub(super) fn check(file: &dyn DiskFile, metadata: &ParquetMetaData) -> Result<(), String> {
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let mut together = 0;
        for column in group.columns() {
            let name = column.column_path().string();
            let place = format!("row group {number}, column {name:?}");
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let range = (u64::try_from(start), u64::try_from(column.compressed_size()));
            let (Ok(start), Ok(bytes)) = range else { return Err(format!("{place}: it has no place in the file")) };
            let end = start.checked_add(bytes).ok_or_else(|| format!("{place}: it has no place in the file"))?;
            let codec = column.compression();
            together += largest_page(file, codec, start, end).map_err(|why| format!("{place}: {why}"))?;
        }
        if together > PAGES_BYTES_MAX {
            let most = PAGES_BYTES_MAX >> 20;
            return Err(format!(
                "row group {number}: its pages take {together} bytes together; {most} MiB are the most"
            ));
        }
    }
    Ok(())
}

/// The decompressed size of the largest page between two places of a file.
fn largest_page(file: &dyn DiskFile, codec: Compression, start: u64, end: u64) -> Result<u64, String> {
    let (mut at, mut largest) = (start, 0);
    while at < end {
        let header = header_at(file, at, end)?;
        if header.decompressed_bytes > PAGE_BYTES_MAX {
            let (bytes, most) = (header.decompressed_bytes, PAGE_BYTES_MAX >> 20);
            return Err(format!("a page of {bytes} bytes; {most} MiB are the most"));
        }
        largest = largest.max(header.decompressed_bytes);
        let data = at.saturating_add(header.bytes as u64);
        at = data.saturating_add(header.stored_bytes);
        if at <= end {
            content::check(file, codec, &header, data)?;
        }
    }
    if at == end { Ok(largest) } else { Err("a page reaches beyond its column".into()) }
}

fn header_at(file: &dyn DiskFile, at: u64, end: u64) -> Result<Header, String> {
    let mut want = HEADER_BYTES_FIRST;
    loop {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let mut bytes = vec![0; want.min(left)];
        file.read_exact_at(&mut bytes, at).map_err(|e| e.to_string())?;
        match Header::read(&bytes) {
            Ok(header) => return Ok(header),
            Err(Stop::Bad(why)) => return Err(why.into()),
            Err(Stop::Short) if want < left && want < HEADER_BYTES_MAX => want *= 4,
            Err(Stop::Short) => return Err("a page's header does not end".into()),
        }
    }
}

/// What counts of a page's header.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    /// Bytes of the header itself.
    bytes: usize,
    decompressed_bytes: u64,
    stored_bytes: u64,
    /// Bytes of levels before what is compressed, in pages of the second kind; all of one that says it is not.
    plain_bytes: u64,
}

impl Header {
    /// Reads a `PageHeader` in Thrift's compact protocol.
    fn read(bytes: &[u8]) -> Result<Self, Stop> {
        let mut thrift = Compact::new(bytes);
        let (mut decompressed, mut stored, mut plain) = (None, None, 0);
        let mut last = 0;
        while let Some((id, of)) = thrift.field(&mut last)? {
            match (id, of) {
                (2, I32) => decompressed = Some(thrift.number()?),
                (3, I32) => stored = Some(thrift.number()?),
                (8, STRUCT) => plain = plain_bytes(&mut thrift)?,
                _ => thrift.skip(of)?,
            }
        }
        let size =
            |size: Option<i64>| size.and_then(|n| u64::try_from(n).ok()).ok_or(Stop::Bad("a page without a size"));
        let (decompressed_bytes, stored_bytes) = (size(decompressed)?, size(stored)?);
        Ok(Self { bytes: thrift.at(), decompressed_bytes, stored_bytes, plain_bytes: plain })
    }
}

/// What a `DataPageHeaderV2` says is not compressed: both kinds of levels, or all.
fn plain_bytes(thrift: &mut Compact<'_>) -> Result<u64, Stop> {
    let (mut last, mut bytes) = (0, 0u64);
    while let Some((id, of)) = thrift.field(&mut last)? {
        match (id, of) {
            (5 | 6, I32) => bytes = bytes.saturating_add(u64::try_from(thrift.number()?).unwrap_or(u64::MAX)),
            (7, FALSE) => bytes = u64::MAX,
            _ => thrift.skip(of)?,
        }
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
    use lingqu_certs::os::OsDisk;
    use lingqu_protocol::host::Disk as _;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::file::properties::{WriterProperties, WriterVersion};
    use proptest::prelude::*;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    /// A file of texts of `bytes` each, with pages of about `page_bytes`.
    fn file(dir: &Path, rows: usize, bytes: usize, page_bytes: usize, version: WriterVersion) -> PathBuf {
        let path = dir.join("f.parquet");
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|_| "0".repeat(bytes))));
        let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values((0..rows).map(|i| (i % 7) as i32)));
        let batch = RecordBatch::try_from_iter([("text", texts), ("number", numbers)]).unwrap();
        let properties = WriterProperties::builder()
            .set_writer_version(version)
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap()))
            .set_column_dictionary_enabled("text".into(), false)
            .set_data_page_size_limit(page_bytes)
            .set_write_batch_size(if page_bytes > 1 << 20 { 1 << 20 } else { 16 })
            .build();
        let out = std::fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(out, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        path
    }

    fn checked(path: &Path) -> Result<(), String> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
        check(&*OsDisk.open(path).unwrap(), builder.metadata())
    }

    #[test]
    fn every_page_of_a_good_file_is_met_and_a_bomb_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            // Texts stand in the headers' statistics, too: long headers.
            assert_eq!(checked(&file(dir.path(), 500, 20_000, 100_000, version)), Ok(()));
            assert_eq!(checked(&file(dir.path(), 0, 1, 100_000, version)), Ok(()));
            let bomb = file(dir.path(), 1, 80_000_000, 1 << 30, version);
            assert!(std::fs::metadata(&bomb).unwrap().len() < 3_000_000);
            let said = checked(&bomb).unwrap_err();
            assert!(said.contains("text") && said.contains("64 MiB"), "{said}");
        }
    }

    /// The header of a page that says these sizes, and has a structure, a list and a text behind them.
    fn header(decompressed: i32, stored: i32) -> Vec<u8> {
        let varint = |n: i32| {
            let mut n = ((n << 1) ^ (n >> 31)).cast_unsigned();
            let mut out = Vec::new();
            while n >= 0x80 {
                out.push(n as u8 | 0x80);
                n >>= 7;
            }
            out.push(n as u8);
            out
        };
        let mut out = vec![0x15, 0x00, 0x15];
        out.extend(varint(decompressed));
        out.push(0x15);
        out.extend(varint(stored));
        out.extend([0x2c, 0x15, 0x02, 0x11, 0x18, 0x02, b'a', b'b', 0x19, 0x21, 1, 2, 0x00]);
        out.push(0x00);
        out
    }

    #[test]
    fn a_header_that_lies_is_believed_in_what_it_claims() {
        let bytes = header(i32::MAX, 20);
        let read = Header::read(&bytes).unwrap();
        assert_eq!(
            read,
            Header { bytes: bytes.len(), decompressed_bytes: 2_147_483_647, stored_bytes: 20, plain_bytes: 0 }
        );
        for cut in 0..bytes.len() {
            assert_eq!(Header::read(&bytes[..cut]), Err(Stop::Short), "{cut}");
        }
        assert!(matches!(Header::read(&header(-1, 20)), Err(Stop::Bad(_))));
        assert!(matches!(Header::read(&header(1, -20)), Err(Stop::Bad(_))));
        assert!(matches!(Header::read(&[0x1c; 100]), Err(Stop::Bad(_))), "too deep");
    }

    #[test]
    fn what_good_writers_compress_is_as_long_as_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.parquet");
        let texts: ArrayRef =
            Arc::new(StringArray::from_iter((0..5_000).map(|i| (i % 3 > 0).then(|| format!("值{i}")))));
        let batch = RecordBatch::try_from_iter_with_nullable([("t", texts, true)]).unwrap();
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for codec in
                [Compression::GZIP(Default::default()), Compression::LZ4, Compression::LZ4_RAW, Compression::SNAPPY]
            {
                for rows in [5_000, 0, 1] {
                    let properties = WriterProperties::builder().set_writer_version(version).set_compression(codec);
                    let out = std::fs::File::create(&path).unwrap();
                    let mut writer = ArrowWriter::try_new(out, batch.schema(), Some(properties.build())).unwrap();
                    writer.write(&batch.slice(0, rows)).unwrap();
                    writer.close().unwrap();
                    assert_eq!(checked(&path), Ok(()), "{codec:?} {version:?} {rows}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(header) = Header::read(&bytes) {
                prop_assert!(header.bytes <= bytes.len());
            }
        }
    }
}
