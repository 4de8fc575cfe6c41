//! 16 and 17: Parquet files whose numbers lie, and pages that are bombs, each made here. What lies about rows is found; what
//! lies where nothing is believed (statistics, page indexes) is taken, and its rows are what its cells say.

use super::corpus::{Case, Must, case, run, simple, varint};
use arrow::array::*;
use bytes::Bytes;
use lingqu_tests::world::{read_csv, shared};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::{
    ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::Statistics;
use std::io::Write as _;
use std::sync::Arc;

const ROWS: i64 = 300;

/// `ROWS` as Thrift writes it.
const ROWS_THRIFT: [u8; 2] = [0xd8, 0x04];

/// 300 rows in pages of 50, with statistics and an index of every page.
fn good() -> Vec<u8> {
    let a: ArrayRef = Arc::new(StringArray::from_iter_values((0..ROWS).map(|n| format!("甲{n:04}"))));
    let b: ArrayRef = Arc::new(StringArray::from_iter((0..ROWS).map(|n| (n % 3 > 0).then(|| format!("{n}")))));
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS));
    let batch = RecordBatch::try_from_iter_with_nullable([("a", a, true), ("b", b, true), ("n", n, true)]).unwrap();
    written(&batch, 50)
}

fn written(batch: &RecordBatch, page_rows: usize) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_data_page_row_count_limit(page_rows)
        .set_write_batch_size(page_rows)
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// What stands before the footer, and what the footer says.
fn taken_apart(file: &[u8]) -> (Vec<u8>, ParquetMetaData) {
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&Bytes::copy_from_slice(file)).unwrap();
    let end = file.len() - 8;
    let footer = u32::from_le_bytes(file[end..end + 4].try_into().unwrap()) as usize;
    (file[..end - footer].to_vec(), metadata)
}

/// The same bytes under a footer with another row group.
fn with_footer(file: &[u8], edit: impl Fn(RowGroupMetaData, &mut Vec<u8>) -> RowGroupMetaData) -> Vec<u8> {
    let (mut body, metadata) = taken_apart(file);
    let group = edit(metadata.row_group(0).clone(), &mut body);
    let metadata = metadata.into_builder().set_page_index(None).set_row_groups(vec![group]).build();
    ParquetMetaDataWriter::new(&mut body, &metadata).finish().unwrap();
    body
}

/// Other columns in a row group.
fn with_columns(
    group: RowGroupMetaData,
    edit: impl Fn(usize, ColumnChunkMetaData) -> ColumnChunkMetaData,
) -> RowGroupMetaData {
    let columns = group.columns().iter().cloned().enumerate().map(|(place, column)| edit(place, column)).collect();
    group.into_builder().set_column_metadata(columns).build().unwrap()
}

/// The one place of `pattern` from `from` on gets `bytes` at its beginning.
fn patched(file: &[u8], from: usize, pattern: &[u8], bytes: &[u8]) -> Vec<u8> {
    let at = file[from..].windows(pattern.len()).position(|w| w == pattern).expect("the pattern is there") + from;
    let mut file = file.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn corpus_of_parquet_that_lies_about_rows() {
    let world = shared();
    let at = simple(world, "307040/000011");
    let good = good();
    let (body, metadata) = taken_apart(&good);
    let rows = |rows: i64| with_footer(&good, |group, _| group.into_builder().set_num_rows(rows).build().unwrap());
    // Of the file: the one that a list of row groups follows. Its field is the third, a number of 64 bits.
    let of_file = [&[0x16][..], &ROWS_THRIFT, &[0x19]].concat();
    let file_says = |rows: u64| patched(&good, body.len(), &of_file, &[&[0x16][..], &varint(rows * 2)].concat());
    // Of the first page of the last column: field 5 is its header, whose first number is that of its values.
    let first_page = metadata.row_group(0).column(2).data_page_offset() as usize;
    let page_says = |values: u64| patched(&good, first_page, &[0x2c, 0x15, 100], &[0x2c, 0x15, (values * 2) as u8]);
    let column_says = with_footer(&good, |group, _| {
        with_columns(group, |_, column| column.into_builder().set_num_values(ROWS + 7).build().unwrap())
    });
    let cases = vec![
        case("parquet: its footer has a row too many", "a.parquet", file_says(301), Must::Fail("301 rows")),
        case("parquet: its footer has a row too few", "a.parquet", file_says(299), Must::Fail("299 rows")),
        case(
            "parquet: its row group has a row too many",
            "a.parquet",
            rows(301),
            Must::Fail("300 rows where it says 301"),
        ),
        case(
            "parquet: its row group has a row too few",
            "a.parquet",
            rows(299),
            Must::Fail("300 rows where it says 299"),
        ),
        case("parquet: its row group has 2^40 rows", "a.parquet", rows(1 << 40), Must::Fail("Parquet")),
        case("parquet: its row group has -1 rows", "a.parquet", rows(-1), Must::Fail("Parquet")),
        case("parquet: a page has a value too many", "a.parquet", page_says(51), Must::Fail("Parquet")),
        case("parquet: a page has a value too few", "a.parquet", page_says(49), Must::Fail("Parquet")),
        case("parquet: a page has no values", "a.parquet", page_says(0), Must::Fail("Parquet")),
        case("parquet: its columns say others, not believed", "a.parquet", column_says, Must::Take(300)),
        case("parquet: as it should be", "a.parquet", good.clone(), Must::Take(300)),
    ];
    run(world, &at, cases);
}

#[test]
fn corpus_of_parquet_that_lies_where_nothing_is_believed() {
    let world = shared();
    let at = simple(world, "307040/000012");
    let good = good();
    let (body, metadata) = taken_apart(&good);
    let narrow = with_footer(&good, |group, _| {
        with_columns(group, |place, column| match place {
            2 => {
                let lie = Statistics::int64(Some(1_000), Some(1_001), None, Some(0), false);
                column.into_builder().set_statistics(lie).build().unwrap()
            }
            _ => column,
        })
    });
    let all_null = with_footer(&good, |group, _| {
        with_columns(group, |_, column| {
            let lie = Statistics::int64(None, None, Some(1), Some(ROWS as u64), false);
            if column.column_path().string() == "n" {
                column.into_builder().set_statistics(lie).build().unwrap()
            } else {
                column
            }
        })
    });
    let index: Vec<_> = metadata.row_group(0).columns().iter().collect();
    let range = |at: Option<i64>, len: Option<i32>| at.unwrap() as usize..at.unwrap() as usize + len.unwrap() as usize;
    let mut junk = good.clone();
    for column in &index {
        junk[range(column.offset_index_offset(), column.offset_index_length())].fill(0xee);
        junk[range(column.column_index_offset(), column.column_index_length())].fill(0xee);
    }
    // Every column's index is that of the first one: whole, and of other pages.
    let exchanged = with_footer(&good, |group, _| {
        with_columns(group, |_, column| {
            column
                .into_builder()
                .set_offset_index_offset(index[0].offset_index_offset())
                .set_offset_index_length(index[0].offset_index_length())
                .set_column_index_offset(index[0].column_index_offset())
                .set_column_index_length(index[0].column_index_length())
                .build()
                .unwrap()
        })
    });
    let outside = with_footer(&good, |group, _| {
        with_columns(group, |_, column| {
            column
                .into_builder()
                .set_offset_index_offset(Some(i64::MAX - 3))
                .set_offset_index_length(Some(i32::MAX))
                .set_column_index_offset(Some(body.len() as i64 * 1_000))
                .set_column_index_length(Some(-1))
                .set_bloom_filter_offset(Some(4))
                .set_bloom_filter_length(Some(i32::MAX))
                .build()
                .unwrap()
        })
    });
    for (name, bytes) in [
        ("parquet: min and max of other rows", narrow),
        ("parquet: statistics say that all is null", all_null),
        ("parquet: page indexes of junk", junk),
        ("parquet: page indexes of another column", exchanged),
        ("parquet: page indexes and a filter outside of it", outside),
    ] {
        run(world, &at, vec![case(name, "a.parquet", bytes, Must::Take(300))]);
        // What lay would leave rows out here.
        let out = world.path("out.csv");
        let args = ["pull", &at.grant, "--where", "n >= 120 and n < 170", "--out", out.to_str().unwrap()];
        world.requester.agent.run(args).ok();
        let got = read_csv(&out).rows;
        assert_eq!(got.len(), 50, "{name}");
        assert!(got.iter().any(|row| row[0] == "甲0169"), "{name}: {got:?}");
    }
}

/// A file whose first column is one page with this head and content.
fn with_page(codec: Compression, claimed: u64, content: &[u8]) -> Vec<u8> {
    with_footer(&good(), |group, body| {
        let at = body.len() as i64;
        // Type 0; sizes; the header of a data page: values, PLAIN, RLE twice.
        let head = [
            &[0x15, 0x00, 0x15][..],
            &varint(claimed * 2),
            &[0x15],
            &varint(content.len() as u64 * 2),
            &[0x2c, 0x15],
            &ROWS_THRIFT,
            &[0x15, 0x00, 0x15, 0x06, 0x15, 0x06, 0x00, 0x00],
        ]
        .concat();
        let bytes = (head.len() + content.len()) as i64;
        body.extend([&head, content].concat());
        with_columns(group, |place, column| {
            if place > 0 {
                return column;
            }
            column
                .into_builder()
                .set_compression(codec)
                .set_data_page_offset(at)
                .set_dictionary_page_offset(None)
                .set_total_compressed_size(bytes)
                .set_total_uncompressed_size(claimed as i64)
                .build()
                .unwrap()
        })
    })
}

/// Zeros as zstd has them: blocks of one byte again and again.
fn zstd_of_zeros(blocks: usize) -> Vec<u8> {
    const BLOCK_BYTES: u32 = 128 << 10;
    // Magic; a frame that says no size; a window of 128 KiB.
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    for block in 1..=blocks {
        let head = BLOCK_BYTES << 3 | 1 << 1 | u32::from(block == blocks);
        out.extend(&head.to_le_bytes()[..3]);
        out.push(0);
    }
    out
}

/// Zeros as snappy has them: one byte, and copies of 64 bytes from one before; `said` is what they claim to come to.
fn snappy_of_zeros(said: u64, copies: usize) -> Vec<u8> {
    let mut out = varint(said);
    out.extend([0x00, 0x00]);
    (0..copies).for_each(|_| out.extend([63 << 2 | 2, 1, 0]));
    out
}

/// Zeros as gzip has them; its sum is not right, which shows at the end of it.
fn gzip_of_zeros(mebibytes: usize) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("z", zip::write::SimpleFileOptions::default()).unwrap();
    let some = vec![0; 1 << 20];
    (0..mebibytes).for_each(|_| zip.write_all(&some).unwrap());
    let bytes = zip.finish().unwrap().into_inner();
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(&bytes)).unwrap();
    let (start, size) = {
        let file = archive.by_index_raw(0).unwrap();
        (file.data_start().unwrap() as usize, file.compressed_size() as usize)
    };
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    [&head[..], &bytes[start..start + size], &[0; 8]].concat()
}

#[test]
fn corpus_of_bombs_in_pages() {
    let world = shared();
    let at = simple(world, "307040/000013");
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let gzip = Compression::GZIP(Default::default());
    let page = |name: &str, codec, claimed, content: &[u8]| -> Case {
        case(format!("parquet: {name}"), "a.parquet", with_page(codec, claimed, content), Must::Fail("Parquet"))
    };
    let cases = vec![
        page("zstd, 1 GiB from 32 KiB, said", zstd, 1 << 30, &zstd_of_zeros(8 << 10)),
        page("zstd, 1 GiB where 1,000 bytes are said", zstd, 1_000, &zstd_of_zeros(8 << 10)),
        page("zstd, 60 MiB from 2 KiB, said", zstd, 60 << 20, &zstd_of_zeros(480)),
        page("zstd, 60 MiB said and 128 KiB there", zstd, 60 << 20, &zstd_of_zeros(1)),
        page("snappy, 60 MiB from 3 MiB, said", Compression::SNAPPY, 60 << 20, &snappy_of_zeros(60 << 20, 983_039)),
        page(
            "snappy, 60 MiB where 1,000 bytes are said",
            Compression::SNAPPY,
            1_000,
            &snappy_of_zeros(60 << 20, 983_039),
        ),
        page("snappy, 4 GiB claimed by the stream", Compression::SNAPPY, 1_000, &snappy_of_zeros(u32::MAX.into(), 15)),
        page("gzip, 512 MiB where 1,000 bytes are said", gzip, 1_000, &gzip_of_zeros(512)),
        page("lz4 in frames", Compression::LZ4, 1_000, &[0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82, 0, 0, 0, 0]),
        page(
            "lz4, 2 GiB claimed by the stream",
            Compression::LZ4,
            1_000,
            &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 4, 0, 0, 0, 0],
        ),
        page("lz4_raw of nothing", Compression::LZ4_RAW, 60 << 20, &[0x00]),
    ];
    run(world, &at, cases);
}
