//! Whether a Parquet file can be stored and sent as it is: looked at from the footer to the head of every page, without
//! decoding a value.
//!
//! The sender looks to decide, and the gateway looks again, for nothing that a file says of itself is believed: its
//! statistics and page index are never read, and what its footer and page heads claim is added up and bounded before
//! anything is decoded. What does not fit travels as rows instead, which has no such bounds.

mod head;

use crate::columns::differences;
use crate::entry::EntrySpec;
use crate::views;
use head::{Kind, page_head};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::reader::ChunkReader;

/// Bytes of a footer: it is held in memory by every reader of the file.
pub const FOOTER_BYTES_MAX: u64 = 8 << 20;

/// Row groups of a file: each has its summaries in the version's manifest.
pub const ROW_GROUPS_MAX: usize = 4096;

/// Rows of a row group: what is deleted of it later is one bit each.
pub const GROUP_ROWS_MAX: u64 = 1 << 26;

/// Bytes of a page once it is decompressed; writers aim at one mebibyte.
pub const PAGE_BYTES_MAX: u64 = 8 << 20;

/// Bytes of the largest page and the dictionary of every column of a row group together: what is held while all columns of
/// it are decoded.
pub const HELD_BYTES_MAX: u64 = 40 << 20;

/// Bytes that may come out of a page for each that goes in, and those that may in any case: what snappy, LZ4 and zstd make
/// of text is far below, and what a bomb is made for is far above.
const PAGE_RATIO_MAX: u64 = 1000;
const PAGE_RATIO_FREE: u64 = 64 << 10;

const MAGIC: &[u8; 4] = b"PAR1";

/// Bytes after the footer: its length and the magic.
const TRAILER_BYTES: u64 = 8;

/// A file that fits its entry.
#[derive(Clone, Debug)]
pub struct Fit {
    /// What it holds, to be decoded with text as views.
    pub metadata: ArrowReaderMetadata,
    /// Where the footer's metadata starts, and its length.
    pub footer: (u64, u64),
    /// For each item of the entry the place of its column in the file.
    pub leaves: Vec<usize>,
    /// Rows, as the heads of all pages say.
    pub rows: u64,
    /// Bytes that are held while one row group of it is decoded.
    pub held_bytes: u64,
}

/// Why a file is not taken as it is; it may still be good, and travel as rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// Looks a file through.
///
/// # Errors
/// The first thing that does not fit, or that the reader says.
pub fn inspect<R: ChunkReader>(input: &R, entry: &EntrySpec) -> Result<Fit, Unfit> {
    let (at, bytes) = footer(input)?;
    let footer_bytes = input.get_bytes(at, bytes as usize).map_err(|e| read(&e))?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer_bytes).map_err(|e| read(&e))?;
    if metadata.num_row_groups() > ROW_GROUPS_MAX {
        return Err(unfit(format!("it has {} row groups, more than {ROW_GROUPS_MAX}", metadata.num_row_groups())));
    }
    let descr = metadata.file_metadata().schema_descr();
    if descr.columns().iter().any(|column| column.max_rep_level() > 0 || column.max_def_level() > 1)
        || descr.num_columns() != descr.root_schema().get_fields().len()
    {
        return Err(unfit("it has nested columns"));
    }
    let metadata = views::metadata(metadata).map_err(|e| read(&e))?;
    let found = differences(entry, metadata.schema());
    if !found.is_empty() {
        return Err(unfit(found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")));
    }
    let place = |name: &str| metadata.schema().fields().iter().position(|field| field.name() == name);
    let leaves: Option<Vec<usize>> = entry.items.iter().map(|item| place(&item.name)).collect();
    let leaves = leaves.ok_or_else(|| unfit("a column is missing"))?;
    let (mut rows, mut held_bytes) = (0u64, 0);
    for group in metadata.metadata().row_groups() {
        let (group_rows, held) = group_of(input, group, at)?;
        rows = rows.saturating_add(group_rows);
        held_bytes = held.max(held_bytes);
    }
    if u64::try_from(metadata.metadata().file_metadata().num_rows()) != Ok(rows) {
        return Err(unfit("its footer tells another number of rows than its pages hold"));
    }
    Ok(Fit { metadata, footer: (at, bytes), leaves, rows, held_bytes })
}

/// Where the pages of a column lie in a row group, from their heads: whoever wants a row reads its page and no other's head.
/// Of a file that was inspected; `None` where a page cannot be told by its rows.
pub fn page_map<R: ChunkReader>(input: &R, column: &ColumnChunkMetaData, rows: u64) -> Option<OffsetIndexMetaData> {
    let (start, end) = place(column)?;
    // What comes before the first page of values is taken for the dictionary.
    if column.byte_range() != (start, end - start) {
        return None;
    }
    let (mut at, mut values) = (start, 0u64);
    let mut map = OffsetIndexBuilder::new();
    while at < end {
        let (head, head_bytes) = page_head(input, at, end)?;
        let bytes = head_bytes.checked_add(head.compressed)?;
        match head.kind {
            Kind::Data if head.values > 0 => {
                map.append_offset_and_size(i64::try_from(at).ok()?, i32::try_from(bytes).ok()?);
                map.append_row_count(i64::try_from(head.values).ok()?);
                values = values.checked_add(head.values)?;
            }
            Kind::Dictionary if at == start => {}
            Kind::Data | Kind::Dictionary | Kind::Index => return None,
        }
        at = at.checked_add(bytes)?;
    }
    (at == end && values == rows && rows > 0).then(|| map.build())
}

/// Where a column of a row group starts and ends, as the footer says.
fn place(column: &ColumnChunkMetaData) -> Option<(u64, u64)> {
    let start = match column.dictionary_page_offset() {
        Some(dictionary) => dictionary.min(column.data_page_offset()),
        None => column.data_page_offset(),
    };
    let start = u64::try_from(start).ok().filter(|start| *start >= MAGIC.len() as u64)?;
    let length = u64::try_from(column.compressed_size()).ok()?;
    Some((start, start.checked_add(length)?))
}

/// Where the footer's metadata is.
fn footer<R: ChunkReader>(input: &R) -> Result<(u64, u64), Unfit> {
    let len = input.len();
    let none = || unfit("it is no Parquet file, or not whole");
    let ends_at = len.checked_sub(TRAILER_BYTES).filter(|at| *at >= MAGIC.len() as u64).ok_or_else(none)?;
    let head = input.get_bytes(0, MAGIC.len()).map_err(|e| read(&e))?;
    let trailer = input.get_bytes(ends_at, TRAILER_BYTES as usize).map_err(|e| read(&e))?;
    let Some((length, magic)) = trailer.split_first_chunk::<4>() else { return Err(none()) };
    if head != MAGIC.as_slice() || magic != MAGIC.as_slice() {
        return Err(none());
    }
    let bytes = u64::from(u32::from_le_bytes(*length));
    if bytes > FOOTER_BYTES_MAX {
        return Err(unfit(format!("its footer has {bytes} bytes, more than {FOOTER_BYTES_MAX}")));
    }
    let at = ends_at.checked_sub(bytes).filter(|at| *at >= MAGIC.len() as u64).ok_or_else(none)?;
    Ok((at, bytes))
}

/// Rows of a row group, and bytes that are held while it is decoded.
fn group_of<R: ChunkReader>(input: &R, group: &RowGroupMetaData, ends_at: u64) -> Result<(u64, u64), Unfit> {
    let rows = u64::try_from(group.num_rows()).ok().filter(|rows| *rows <= GROUP_ROWS_MAX);
    let rows = rows.ok_or_else(|| unfit(format!("a row group has {} rows", group.num_rows())))?;
    let mut held = 0u64;
    for column in group.columns() {
        held = held.saturating_add(chunk(input, column, rows, ends_at)?);
    }
    if held > HELD_BYTES_MAX {
        return Err(unfit(format!("{held} bytes would be held to decode a row group, more than {HELD_BYTES_MAX}")));
    }
    Ok((rows, held))
}

/// The heads of a column's pages in a row group, one after the other; gives the bytes that its decoding holds.
fn chunk<R: ChunkReader>(input: &R, column: &ColumnChunkMetaData, rows: u64, ends_at: u64) -> Result<u64, Unfit> {
    let name = || column.column_path().string().chars().take(100).collect::<String>();
    let wrong = |what: &str| unfit(format!("column {:?}: {what}", name()));
    match column.compression() {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::LZ4_RAW | Compression::ZSTD(_) => {}
        other => return Err(wrong(&format!("it is compressed with {other}"))),
    }
    let range = place(column).filter(|(_, end)| *end <= ends_at);
    let (mut at, end) = range.ok_or_else(|| wrong("it lies outside the file"))?;
    let (mut values, mut dictionary, mut largest) = (0u64, 0u64, 0u64);
    while at < end {
        let (head, head_bytes) = page_head(input, at, end).ok_or_else(|| wrong("the head of a page cannot be read"))?;
        let page = head.compressed;
        if page.max(head.uncompressed) > PAGE_BYTES_MAX {
            return Err(wrong(&format!(
                "a page has {} bytes, more than {PAGE_BYTES_MAX}",
                page.max(head.uncompressed)
            )));
        }
        if head.uncompressed > PAGE_RATIO_FREE.max(page.saturating_mul(PAGE_RATIO_MAX)) {
            return Err(wrong("a page would grow to more than a thousand times its size"));
        }
        at += head_bytes + page;
        match head.kind {
            Kind::Data if head.values > rows => return Err(wrong("a page has more values than there are rows")),
            Kind::Data => {
                values += head.values;
                largest = largest.max(head.uncompressed);
            }
            // One dictionary, and before all values: so it is counted once.
            Kind::Dictionary if dictionary == 0 && values == 0 => dictionary = head.uncompressed.max(1),
            Kind::Dictionary => return Err(wrong("it has two dictionaries, or one behind its values")),
            Kind::Index => {}
        }
    }
    if at != end {
        return Err(wrong("its last page does not end where the column ends"));
    }
    if values != rows {
        return Err(wrong(&format!("its pages hold {values} values for {rows} rows")));
    }
    Ok(largest + dictionary)
}

fn read(error: &ParquetError) -> Unfit {
    unfit(error.to_string().chars().take(300).collect::<String>())
}

fn unfit(what: impl Into<String>) -> Unfit {
    Unfit(what.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::{WriterProperties, WriterVersion};
    use std::sync::Arc;

    fn entry() -> EntrySpec {
        EntrySpec::parse(
            "name = \"t\"\nabstract = \"a\"\nformat = \"table\"\nupdate_frequency = \"daily\"\n\
             sharing_class = \"unconditional\"\nsharing_methods = [\"batch_exchange\"]\ngrade = \"general-1\"\n\
             [[items]]\nname = \"n\"\ntype = \"int64\"\npersonal = false\n\
             [[items]]\nname = \"s\"\ntype = \"string\"\npersonal = false\n",
        )
        .unwrap()
    }

    fn file(properties: WriterProperties, rows: i64) -> Bytes {
        let n: ArrayRef = Arc::new(Int64Array::from_iter((0..rows).map(|i| (i % 3 != 0).then_some(i))));
        let s: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("行{}", i % 7))));
        // Not the entry's order.
        let batch = RecordBatch::try_from_iter_with_nullable([("s", s, true), ("n", n, true)]).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes.into()
    }

    fn plain() -> WriterProperties {
        WriterProperties::builder().set_compression(Compression::SNAPPY).build()
    }

    #[test]
    fn what_writers_write_fits() {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(Default::default())] {
                let properties = WriterProperties::builder()
                    .set_writer_version(version)
                    .set_compression(compression)
                    .set_data_page_row_count_limit(100)
                    .set_max_row_group_row_count(Some(1000))
                    .build();
                let fit = inspect(&file(properties, 2500), &entry()).unwrap();
                assert_eq!((fit.rows, fit.leaves.as_slice()), (2500, [1, 0].as_slice()));
                assert!(fit.held_bytes > 0 && fit.held_bytes < 100_000);
            }
        }
        assert_eq!(inspect(&file(plain(), 0), &entry()).unwrap().rows, 0);
    }

    /// A file of which only the head and the trailer are there.
    struct Hollow {
        len: u64,
        footer_bytes: u32,
    }

    impl parquet::file::reader::Length for Hollow {
        fn len(&self) -> u64 {
            self.len
        }
    }

    impl ChunkReader for Hollow {
        type T = &'static [u8];

        fn get_read(&self, _start: u64) -> parquet::errors::Result<Self::T> {
            Ok(&[])
        }

        fn get_bytes(&self, start: u64, _length: usize) -> parquet::errors::Result<Bytes> {
            Ok(if start == 0 { MAGIC.to_vec() } else { [&self.footer_bytes.to_le_bytes()[..], &MAGIC[..]].concat() }
                .into())
        }
    }

    #[test]
    fn a_footer_has_its_bounds() {
        let (max, edges) = (FOOTER_BYTES_MAX as u32, MAGIC.len() as u64 + TRAILER_BYTES);
        let at = |len: u64, footer_bytes: u32| footer(&Hollow { len, footer_bytes }).map_err(|unfit| unfit.0);
        assert_eq!(at(1 << 30, max), Ok(((1 << 30) - TRAILER_BYTES - u64::from(max), u64::from(max))));
        assert!(at(1 << 30, max + 1).unwrap_err().contains("more than"));
        assert_eq!(at(edges + 100, 100), Ok((MAGIC.len() as u64, 100)));
        assert!(at(edges + 99, 100).unwrap_err().contains("not whole"));
        assert!(at(edges - 1, 0).unwrap_err().contains("not whole"));
    }

    #[test]
    fn a_map_of_pages_finds_the_rows_that_all_pages_give() {
        use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection};
        use parquet::file::metadata::page_index::PageIndexBuilder;

        for (version, dictionary) in [
            (WriterVersion::PARQUET_1_0, true),
            (WriterVersion::PARQUET_1_0, false),
            (WriterVersion::PARQUET_2_0, true),
        ] {
            let properties = WriterProperties::builder()
                .set_writer_version(version)
                .set_dictionary_enabled(dictionary)
                .set_data_page_row_count_limit(100)
                .set_write_batch_size(50)
                .set_max_row_group_row_count(Some(1000))
                .build();
            let bytes = file(properties, 2500);
            let fit = inspect(&bytes, &entry()).unwrap();
            let plain = fit.metadata.metadata();
            let mut index = PageIndexBuilder::new(3, 2);
            for (group, of) in plain.row_groups().iter().enumerate() {
                for (leaf, column) in of.columns().iter().enumerate() {
                    let map = page_map(&bytes, column, of.num_rows() as u64).unwrap();
                    assert_eq!(map.page_locations().len(), if group == 2 { 5 } else { 10 });
                    assert!(page_map(&bytes, column, of.num_rows() as u64 + 1).is_none());
                    index.put_offset_index(map, group, leaf);
                }
            }
            let mapped = plain.as_ref().clone().into_builder().set_page_index(Some(Arc::new(index.build()))).build();
            let mapped = views::metadata(mapped).unwrap();
            for rows in [vec![0], vec![999, 1000], vec![99, 100, 101, 777, 1500, 2499]] {
                let ranges = || rows.iter().map(|row| *row..row + 1);
                let read = |metadata: &ArrowReaderMetadata| {
                    ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), metadata.clone())
                        .with_row_selection(RowSelection::from_consecutive_ranges(ranges(), 2500))
                        .build()
                        .unwrap()
                        .map(Result::unwrap)
                        .collect::<Vec<_>>()
                };
                let (with, without) = (read(&mapped), read(&fit.metadata));
                assert_eq!(with.iter().map(RecordBatch::num_rows).sum::<usize>(), rows.len());
                assert_eq!(with, without);
            }
        }
    }

    #[test]
    fn what_does_not_fit_says_why() {
        let gzip = WriterProperties::builder().set_compression(Compression::GZIP(Default::default())).build();
        assert!(inspect(&file(gzip, 10), &entry()).unwrap_err().0.contains("GZIP"));
        let mut other = entry();
        other.items.pop();
        assert!(inspect(&file(plain(), 10), &other).unwrap_err().0.contains("not in the entry"));
        let whole = file(plain(), 10);
        for bytes in [Bytes::new(), whole.slice(1..), whole.slice(..whole.len() - 1), Bytes::from_static(b"PAR1PAR1")] {
            assert!(inspect(&bytes, &entry()).is_err());
        }
    }

    #[test]
    fn no_bit_of_a_file_makes_it_panic_and_none_changes_the_number_of_rows() {
        let whole = file(plain(), 40);
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.to_vec();
                bytes[at] ^= 1 << bit;
                if let Ok(fit) = inspect(&Bytes::from(bytes), &entry()) {
                    assert_eq!(fit.rows, 40, "bit {bit} of byte {at}");
                }
            }
        }
    }
}
