//! 16, 17, 19, 20: data that is not what it says.

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::wire::PushEnd;
use lingqu_tests::faults::rng::Rng;
use lingqu_tests::world::data::{nested_type, with_column, write_csv, write_parquet};
use lingqu_tests::world::raw::{Raw, batch_frames, runtime};
use lingqu_tests::world::{Granted, Ran, World, registrations, shared, table_entry_toml, text, threat};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::path::Path;
use std::sync::Arc;

/// What the agent may hold at most, with room for a build that is not optimised.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

fn push(world: &World, at: &Granted, file: &Path, more: &[&str]) -> Ran {
    let args = ["push", "batch", &at.entry, file.to_str().unwrap()];
    world.provider.agent.run([&args, more].concat())
}

/// Bad data, said in words, and at no cost.
#[track_caller]
fn must_be_refused(number: u32, what: &str, ran: Ran) -> String {
    threat(number, what, &ran);
    let most = ran.memory_bytes_most;
    // A look prints its report before its error.
    assert_eq!(ran.code, Some(7), "{ran}");
    let error = ran.error();
    assert!(most < MEMORY_BYTES_MAX, "{most} bytes: {ran}");
    text(&error, "text").to_owned()
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn parquet_with_footer(footer: &[u8]) -> Vec<u8> {
    [b"PAR1", footer, &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat()
}

#[test]
fn threat_16_a_footer_that_lies_is_bad_data_and_takes_no_memory() {
    let world = shared();
    let at = world.new_table();
    // Thrift compact: version 1, then a list of two thousand million schema elements, and the file ends.
    let huge_list = [&[0x15, 0x02, 0x19, 0xfc][..], &varint(2_000_000_000)].concat();
    let deep = [vec![0x15, 0x02], vec![0x1c; 100_000]].concat();
    for (what, bytes) in [
        ("a huge list", parquet_with_footer(&huge_list)),
        ("deep nesting", parquet_with_footer(&deep)),
        ("a footer longer than the file", [&b"PAR1"[..], &[0xff, 0xff, 0xff, 0x7f], b"PAR1"].concat()),
        ("an encrypted footer", [&b"PAR1"[..], &[0; 20], &20u32.to_le_bytes(), b"PARE"].concat()),
        ("only magic", b"PAR1PAR1".to_vec()),
        ("nothing", Vec::new()),
        ("text", b"region,credit_code\n".to_vec()),
    ] {
        let file = world.file("bad.parquet", bytes);
        let said = must_be_refused(16, &format!("Parquet: {what}"), push(world, &at, &file, &[]));
        assert!(said.contains("bad.parquet"), "{what}: {said}");
    }
}

#[test]
fn threat_16_a_file_with_a_flipped_byte_is_refused_or_right() {
    let world = shared();
    let at = world.new_table();
    let good = world.path("good.parquet");
    write_parquet(&good, &registrations(16, 200));
    let bytes = std::fs::read(&good).unwrap();
    let checked = push(world, &at, &good, &["--check"]).ok();
    let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    let mut random = Rng::new(16);
    for i in 0..60 {
        let mut bad = bytes.clone();
        // The footer holds the lies that matter: counts, offsets, sizes, statistics.
        let from = if i % 3 == 0 { 4 } else { bytes.len() - 8 - footer };
        let at_byte = from + random.below((bytes.len() - from) as u64) as usize;
        bad[at_byte] ^= 1 << random.below(8);
        let file = world.file("flipped.parquet", bad);
        let ran = push(world, &at, &file, &["--check"]);
        assert!(ran.memory_bytes_most < MEMORY_BYTES_MAX, "byte {at_byte}: {ran}");
        threat(16, format!("Parquet with byte {at_byte} flipped"), &ran);
        match ran.code {
            Some(7) => {}
            // Statistics, names of writers and values themselves carry no check of their own.
            Some(0) => assert_eq!(ran.json()["rows"], checked["rows"], "byte {at_byte}"),
            _ => panic!("byte {at_byte}: {ran}"),
        }
    }
}

#[test]
fn threat_16_statistics_that_lie_do_not_decide() {
    // min/max and counts of the file are the provider's words: the gateway makes its own.
    let world = shared();
    let at = world.new_table();
    let batch = registrations(161, 500);
    let file = world.path("rows.parquet");
    let properties =
        WriterProperties::builder().set_statistics_enabled(parquet::file::properties::EnabledStatistics::Page).build();
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(&file).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    // The largest region of the statistics becomes the smallest: `441900` reads `341900` wherever the footer says it.
    let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    let from = bytes.len() - 8 - footer;
    let mut changed = 0;
    for place in from..bytes.len() - 6 {
        if &bytes[place..place + 6] == b"441900" {
            bytes[place] = b'3';
            changed += 1;
        }
    }
    assert!(changed > 0, "the footer has no statistics to lie with");
    std::fs::write(&file, bytes).unwrap();
    push(world, &at, &file, &[]).ok();
    let out = world.path("out.parquet");
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();
    let all = lingqu_tests::world::Rows::of(&[batch]).filter("region", |r| r.starts_with("4403"));
    let got = lingqu_tests::world::read_parquet(&out);
    threat(16, "Parquet with statistics that lie", format!("taken; {} rows, as their cells say", got.rows.len()));
    got.must_be(&all.select(&got.columns.iter().map(String::as_str).collect::<Vec<_>>()));
}

#[test]
fn threat_16_frames_that_are_no_rows_are_refused_by_the_gateway() {
    let world = World::new();
    let at = &world.table;
    let toml = table_entry_toml(&at.code);
    let (good, end) = batch_frames(&toml, &registrations(16, 300));
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.provider.agent).dial().await;
        let mut random = Rng::new(61);
        let mut cases: Vec<(String, Vec<Bytes>)> = vec![
            ("no schema".into(), good[1..].to_vec()),
            ("two schemas".into(), [good[..1].to_vec(), good.clone()].concat()),
            ("nothing".into(), Vec::new()),
            ("junk".into(), vec![Bytes::from(random.bytes(5_000))]),
            (
                "a length of i64::MAX".into(),
                vec![[[0xff; 4].to_vec(), i32::MAX.to_le_bytes().to_vec()].concat().into()],
            ),
            ("half a batch".into(), vec![good[0].clone(), good[1].slice(..good[1].len() / 2)]),
            ("a batch twice".into(), [good.clone(), good[1..].to_vec()].concat()),
        ];
        for i in 0..60 {
            let mut body = good[1].to_vec();
            // Its head holds lengths and offsets.
            let reach = if i % 2 == 0 { 700 } else { body.len() as u64 };
            let place = random.below(reach) as usize;
            body[place] ^= 1 << random.below(8);
            cases.push((format!("byte {place} flipped"), vec![good[0].clone(), body.into()]));
        }
        for (what, bodies) in cases {
            match dialled.push_batch(&at.entry, bodies, end.clone()).await {
                Err(fault) => {
                    threat(16, format!("frames of rows: {what}"), &fault);
                    let code = fault.close_code();
                    let expected =
                        [CloseCode::BadData, CloseCode::Integrity, CloseCode::Protocol, CloseCode::OverLimit];
                    assert!(expected.contains(&code), "{what}: {fault:?}");
                }
                // Padding carries nothing.
                Ok(_) => {
                    threat(16, format!("frames of rows: {what}"), "taken: padding carries nothing");
                    assert!(what.contains("flipped"), "{what} was taken");
                }
            }
        }
        let end = PushEnd { rows: end.rows + 1, ..end.clone() };
        let fault = dialled.push_batch(&at.entry, good.clone(), end).await.unwrap_err();
        threat(16, "an end record with one row too many", &fault);
        assert_eq!(fault.close_code(), CloseCode::Integrity, "an end record that lies: {fault:?}");
    });
}

#[test]
fn threat_17_a_bomb_stays_small() {
    let world = shared();
    let at = world.new_table();
    let rows = 300;
    let zeros = "0".repeat(1_000_000);
    let notes: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|_| zeros.as_str())));
    let bomb = with_column(&registrations(17, rows), "note", notes);
    let one: ArrayRef = Arc::new(StringArray::from_iter_values(["0".repeat(64_000_000)]));
    let cell = with_column(&registrations(17, 1), "note", one);
    let codecs = [Compression::ZSTD(ZstdLevel::try_new(3).unwrap()), Compression::LZ4_RAW];
    for (what, batch, codecs) in [("many", &bomb, &codecs[..]), ("one cell", &cell, &codecs[..1])] {
        for codec in codecs {
            let file = world.path("bomb.parquet");
            let properties = WriterProperties::builder().set_compression(*codec).set_dictionary_enabled(false).build();
            let out = std::fs::File::create(&file).unwrap();
            let mut writer = ArrowWriter::try_new(out, batch.schema(), Some(properties)).unwrap();
            writer.write(batch).unwrap();
            writer.close().unwrap();
            let bytes = std::fs::metadata(&file).unwrap().len();
            assert!(bytes < 3_000_000, "{bytes} is no bomb");
            let ran = push(world, &at, &file, &["--check"]);
            let held = ran.memory_bytes_most >> 20;
            threat(17, format!("a bomb of {bytes} bytes ({what}, {codec:?}); {held} MiB held"), &ran);
            assert!(matches!(ran.code, Some(0 | 7)), "{what} {codec:?}: {ran}");
            assert!(what != "one cell" || ran.code == Some(7), "no frame holds such a row: {ran}");
            let most = ran.memory_bytes_most;
            assert!(most < MEMORY_BYTES_MAX, "{what} {codec:?}: {most} bytes");
        }
    }
    let most = world.gateway.memory_bytes_most();
    assert!(most < MEMORY_BYTES_MAX, "the gateway: {most} bytes");
}

const HEADER: &str = "region,credit_code,staff,opened\n";

/// An entry whose rows are easily written by hand.
fn simple_table(world: &World, code: &str) -> Granted {
    let items = [("region", "string"), ("credit_code", "string"), ("staff", "int32"), ("opened", "date")];
    let toml = table_entry_toml(code);
    let head = toml.split("\n[[items]]").next().unwrap();
    let items: String = items
        .iter()
        .map(|(name, of)| format!("\n[[items]]\nname = \"{name}\"\ntype = \"{of}\"\npersonal = false\n"))
        .collect();
    let entry = world.publish(&format!("{head}{items}"));
    world.granted(entry, code.into(), "columns = [\"region\", \"credit_code\", \"staff\", \"opened\"]")
}

#[test]
fn threat_19_csv_that_is_wrong_is_named_by_file_line_and_column() {
    let world = shared();
    let at = simple_table(world, "307010/600019");
    let row = "440303,A,1,2026-01-01\n";
    for (what, body, parts) in [
        ("a bad number", format!("{HEADER}{row}440303,B,many,2026-01-01\n"), &["3", "staff", "many"][..]),
        ("a bad date", format!("{HEADER}{row}{row}440303,B,1,2026-02-30\n"), &["4", "opened", "2026-02-30"]),
        ("too few fields", format!("{HEADER}{row}440303,B\n"), &["3"]),
        ("too many fields", format!("{HEADER}{row}440303,B,1,2026-01-01,x\n"), &["3"]),
        ("no header", row.to_owned(), &["region"]),
        ("an empty file", String::new(), &[]),
        ("a quote that never closes", format!("{HEADER}{row}440303,\"B,1,2026-01-01\n{}", row.repeat(50)), &[]),
        ("a number too large", format!("{HEADER}440303,B,2147483648,2026-01-01\n"), &["2", "staff"]),
    ] {
        let file = world.file("rows.csv", &body);
        let said = must_be_refused(19, &format!("CSV: {what}"), push(world, &at, &file, &[]));
        assert!(said.contains("rows.csv"), "{what}: {said}");
        for part in parts {
            assert!(said.contains(part), "{what} should name {part}: {said}");
        }
    }
    // Regions are judged by the agent too, which knows the line.
    for (region, part) in [("440300", "4403"), ("999999", "999999"), ("44 03", "44 03")] {
        let file = world.file("region.csv", format!("{HEADER}{row}{region},B,1,2026-01-01\n"));
        let said = must_be_refused(19, &format!("CSV: the region {region}"), push(world, &at, &file, &[]));
        assert!(said.contains("line 3") && said.contains("region") && said.contains(part), "{said}");
        // A look without sending names the same.
        let report = push(world, &at, &file, &["--check"]);
        assert_eq!(report.code, Some(7), "{report}");
        let fault = report.json()["faults"][0].clone();
        assert_eq!((&fault["line"], &fault["column"]), (&3.into(), &"region".into()), "{fault}");
        assert!(text(&fault, "file").ends_with("region.csv") && text(&fault, "reason").contains(part), "{fault}");
    }
}

#[test]
fn threat_19_lines_without_an_end_other_encodings_and_marks() {
    let world = shared();
    let at = simple_table(world, "307010/600020");
    // Stops long before the end of the file.
    let file = world.path("endless.csv");
    std::fs::write(&file, [HEADER.as_bytes(), &vec![b'a'; 100_000_000]].concat()).unwrap();
    must_be_refused(19, "CSV: 100 MB without a line's end", push(world, &at, &file, &[]));
    let quoted = [HEADER.as_bytes(), b"440303,\"", &vec![b'\n'; 40_000_000]].concat();
    let ran = push(world, &at, &world.file("quoted.csv", quoted), &[]);
    must_be_refused(19, "CSV: a quote that is open for 40 MB", ran);
    // GB18030 is common: it is converted, or said to be what it is.
    let gb = [HEADER.as_bytes(), b"440303,", &[0xc9, 0xee, 0xdb, 0xda], b",1,2026-01-01\n"].concat();
    let ran = push(world, &at, &world.file("gb.csv", gb), &[]);
    if ran.code == Some(0) {
        threat(19, "CSV in GB18030", &ran);
        let out = world.path("out.csv");
        world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();
        assert!(std::fs::read_to_string(out).unwrap().contains("深圳"));
    } else {
        let said = must_be_refused(19, "CSV in GB18030", ran);
        assert!(said.contains("UTF-8"), "{said}");
    }
    let utf16: Vec<u8> = HEADER.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let ran = push(world, &at, &world.file("utf16.csv", [&[0xff, 0xfe], &utf16[..]].concat()), &[]);
    must_be_refused(19, "CSV in UTF-16", ran);
    // A byte order mark is no part of the first column's name, and line ends of Windows are line ends.
    let marked = format!("\u{feff}{HEADER}440303,M,1,2026-01-01\n").replace('\n', "\r\n");
    let ran = push(world, &at, &world.file("marked.csv", marked), &[]);
    threat(19, "CSV with a byte order mark and line ends of Windows", &ran);
    ran.ok();
    let out = world.path("out.csv");
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();
    assert!(std::fs::read_to_string(out).unwrap().contains(",M,1,2026-01-01"));
}

#[test]
fn threat_20_every_difference_from_the_catalogue_is_named() {
    let world = shared();
    let at = world.new_table();
    let plain = registrations(20, 20);
    // note is missing, seal is retyped, visits is called Visits, extra is extra, score is nested.
    let mut fields: Vec<Field> = plain.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    let mut columns = plain.columns().to_vec();
    let place = |name: &str| plain.schema().index_of(name).unwrap();
    fields[place("seal")] = Field::new("seal", DataType::Utf8, true);
    columns[place("seal")] = Arc::new(StringArray::from_iter_values((0..20).map(|_| "x")));
    fields[place("visits")] = Field::new("Visits", DataType::Int64, true);
    fields[place("score")] = Field::new("score", nested_type(), true);
    columns[place("score")] = new_null_array(&nested_type(), 20);
    fields.remove(place("note"));
    columns.remove(place("note"));
    fields.push(Field::new("extra", DataType::Int32, true));
    columns.push(Arc::new(Int32Array::from(vec![1; 20])));
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let file = world.path("rows.parquet");
    write_parquet(&file, &batch);
    for more in [&["--check"][..], &[]] {
        let said = must_be_refused(20, "Parquet: five columns that differ", push(world, &at, &file, more));
        for part in ["\"note\"", "missing", "\"seal\"", "Utf8", "\"Visits\"", "\"visits\"", "\"extra\"", "\"score\""] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
    let csv = world.path("rows.csv");
    write_csv(&csv, &plain.project(&[0, 1, 2]).unwrap());
    let said = must_be_refused(20, "CSV with three of twelve columns", push(world, &at, &csv, &[]));
    assert!(said.contains("\"staff\"") && said.contains("\"note\""), "{said}");
    // And by the gateway, whatever the agent let through.
    let toml = table_entry_toml(&at.code);
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.provider.agent).dial().await;
        let (_, end) = batch_frames(&toml, &plain);
        let fewer = plain.project(&[0, 1, 2]).unwrap();
        let mut encoder = lingqu_protocol::ipc::Encoder::new(fewer.schema()).unwrap();
        let bodies = vec![encoder.schema().unwrap()];
        let fault = dialled.push_batch(&at.entry, bodies, end).await.unwrap_err();
        threat(20, "frames of three of twelve columns", &fault);
        assert_eq!(fault.close_code(), CloseCode::BadData);
        assert!(fault.text.contains("\"staff\"") && fault.text.contains("\"note\""), "{}", fault.text);
    });
}
