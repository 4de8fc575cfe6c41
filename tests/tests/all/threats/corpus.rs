//! 16 to 20: a corpus of malicious files, made here. Each is pushed by the real agent; what it said, the most memory it held
//! and the time it took are printed, one line a file (`-- --nocapture corpus`), and judged against the agent's bound.

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use lingqu_tests::world::data::write_parquet;
use lingqu_tests::world::{Granted, PURPOSE, World, registrations, shared, text};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;
use zip::write::SimpleFileOptions;

/// What the agent may hold at most, with room for a build that is not optimised.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// What must become of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Must {
    /// Bad data, in these words among others.
    Fail(&'static str),
    /// It lies where it is not believed: its rows are taken, and are so many.
    Take(u64),
}

pub(super) struct Case {
    pub(super) name: String,
    pub(super) file: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) must: Must,
}

pub(super) fn case(name: impl Into<String>, file: &'static str, bytes: impl Into<Vec<u8>>, must: Must) -> Case {
    Case { name: name.into(), file, bytes: bytes.into(), must }
}

/// An entry with two strings and a number.
pub(super) fn simple(world: &World, code: &str) -> Granted {
    let toml = format!(
        "name = \"样例\"\ncode = \"{code}\"\nabstract = \"合成数据，仅供测试\"\nformat = \"table\"\nupdate_frequency = \"daily\"\n\
         sharing_class = \"conditional\"\nconditions = \"限依法履职使用\"\npurposes = [\"{PURPOSE}\"]\n\
         sharing_methods = [\"batch_exchange\"]\ngrade = \"general-2\"\n\
         [[items]]\nname = \"a\"\ntype = \"string\"\npersonal = false\n\
         [[items]]\nname = \"b\"\ntype = \"string\"\npersonal = false\n\
         [[items]]\nname = \"n\"\ntype = \"int64\"\npersonal = false\n"
    );
    let id = world.publish(&toml);
    world.granted(id, code.to_owned(), "columns = [\"a\", \"b\", \"n\"]")
}

/// Pushes every file and prints the table.
pub(super) fn run(world: &World, at: &Granted, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    println!("{:>9} {:>8} {:>7}  {:<44} what is said", "bytes", "MiB", "s", "file");
    for case in cases {
        let file = world.file(case.file, &case.bytes);
        let began = Instant::now();
        let ran = world.provider.agent.run(["push", "batch", &at.entry, file.to_str().unwrap()]);
        let seconds = began.elapsed().as_secs_f64();
        let memory = ran.memory_bytes_most;
        let said = match ran.code {
            Some(0) => format!("taken: {} rows", ran.json()["rows"]),
            _ => text(&ran.error(), "text").rsplit(case.file).next().unwrap_or_default().chars().take(110).collect(),
        };
        let (size, mib) = (case.bytes.len(), memory >> 20);
        println!("{size:>9} {mib:>8} {seconds:>7.2}  {:<44} {said}", case.name);
        let good = match case.must {
            Must::Fail(words) => ran.code == Some(7) && text(&ran.error(), "text").contains(words),
            Must::Take(rows) => ran.code == Some(0) && ran.json()["rows"].as_u64() == Some(rows),
        };
        if !good || memory > MEMORY_BYTES_MAX || ran.stderr.contains("panicked") {
            wrong.push(format!("{} ({:?}): {memory} bytes, {ran}", case.name, case.must));
        }
        std::fs::remove_file(file).unwrap();
    }
    let most = world.gateway.memory_bytes_most();
    println!("the gateway held {} MiB at most", most >> 20);
    assert!(wrong.is_empty() && most < MEMORY_BYTES_MAX, "the gateway: {most} bytes\n{}", wrong.join("\n"));
}

pub(super) fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

#[test]
fn corpus_of_parquet() {
    let world = shared();
    let at = world.new_table();
    let footer = |footer: &[u8]| [b"PAR1", footer, &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat();
    let huge = [&[0x15, 0x02, 0x19, 0xfc][..], &varint(2_000_000_000)].concat();
    let path = world.path("good.parquet");
    write_parquet(&path, &registrations(1, 300));
    let good = std::fs::read(&path).unwrap();
    // The first page's header: type, then the size of its content.
    let (start, length) = (6, good[6..].iter().position(|b| b & 0x80 == 0).unwrap() + 2);
    let claims = [&good[..start + 1], &varint((2u64 << 30) * 2 - 2), &good[start + length..]].concat();
    let cases = vec![
        case("parquet: footer of 2e9 elements", "a.parquet", footer(&huge), Must::Fail("Parquet")),
        case(
            "parquet: 100,000 structs deep",
            "a.parquet",
            footer(&[vec![0x15, 2], vec![0x1c; 100_000]].concat()),
            Must::Fail("Parquet"),
        ),
        case("parquet: a page of 2 GiB", "a.parquet", claims, Must::Fail("Parquet")),
        case("parquet: cut in half", "a.parquet", &good[..good.len() / 2], Must::Fail("Parquet")),
        case(
            "parquet: footer longer than the file",
            "a.parquet",
            [b"PAR1", &[0xff, 0xff, 0xff, 0x7f][..], b"PAR1"].concat(),
            Must::Fail("Parquet"),
        ),
        case("parquet: as it should be", "a.parquet", good, Must::Take(300)),
    ];
    run(world, &at, cases);
}

fn arrow_file(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = arrow::ipc::writer::FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn rows() -> RecordBatch {
    let a: ArrayRef = Arc::new(StringArray::from_iter_values((0..100).map(|n| format!("甲{n:04}"))));
    let b: ArrayRef = Arc::new(StringArray::from_iter((0..100).map(|n| (n % 3 > 0).then(|| format!("{n}")))));
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
    RecordBatch::try_from_iter_with_nullable([("a", a, true), ("b", b, true), ("n", n, true)]).unwrap()
}

#[test]
fn corpus_of_arrow() {
    let world = shared();
    let at = simple(world, "307040/000001");
    let good = arrow_file(&rows());
    let mut cases = vec![case("arrow: as it should be", "a.arrow", good.clone(), Must::Take(100))];
    // The head of the batch: from behind the schema's message to the first offset of the body.
    let body = good.windows(7).position(|w| w == "甲0000".as_bytes()).unwrap();
    let head =
        good[..body].windows(4).enumerate().filter(|(_, w)| *w == [0xff; 4]).map(|(i, _)| i).next_back().unwrap();
    let mut lies = 0;
    for at in (head + 8..body - 24).step_by(8).take(120) {
        let number = i64::from_le_bytes(good[at..at + 8].try_into().unwrap());
        if !(1..=10_000).contains(&number) {
            continue;
        }
        for lie in [i64::MAX, i64::MIN, number + (1 << 40), -1] {
            let mut bad = good.clone();
            bad[at..at + 8].copy_from_slice(&lie.to_le_bytes());
            lies += 1;
            if lies <= 32 {
                cases.push(case(format!("arrow: {number} at {at} is {lie}"), "a.arrow", bad, Must::Fail("Arrow")));
            }
        }
    }
    assert!(lies > 10, "{lies} numbers were found to lie with");
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        edit(&mut bad);
        bad
    };
    cases.push(case("arrow: text that is no UTF-8", "a.arrow", edited(&|b| b[body] = 0xff), Must::Fail("Arrow")));
    cases.push(case("arrow: cut in half", "a.arrow", &good[..good.len() / 2], Must::Fail("Arrow")));
    cases.push(case("arrow: no end", "a.arrow", &good[..good.len() - 6], Must::Fail("Arrow")));
    let junk_footer = edited(&|b| {
        let len = b.len();
        let footer = u32::from_le_bytes(b[len - 10..len - 6].try_into().unwrap()) as usize;
        b[len - 10 - footer..len - 10].fill(0xee);
    });
    cases.push(case("arrow: a footer of junk, not believed", "a.arrow", junk_footer, Must::Take(100)));
    // Keys that point outside of their dictionary.
    let values: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
    let keys = Int32Array::from_iter_values((0..100).map(|n| n % 2));
    let dictionary: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::try_new(keys, values).unwrap());
    let plain = rows();
    let fields = vec![
        Field::new("a", dictionary.data_type().clone(), true),
        Field::new("b", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
    ];
    let columns = vec![dictionary, plain.column(1).clone(), plain.column(2).clone()];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let good = arrow_file(&batch);
    let pattern: Vec<u8> = (0..100i32).flat_map(|n| (n % 2).to_le_bytes()).collect();
    let place = good.windows(pattern.len()).position(|w| w == pattern).unwrap();
    let mut bad = good.clone();
    bad[place..place + 4].copy_from_slice(&i32::MAX.to_le_bytes());
    cases.push(case("arrow: dictionary", "a.arrow", good, Must::Take(100)));
    cases.push(case("arrow: a key outside of its dictionary", "a.arrow", bad, Must::Fail("Arrow")));
    let claims = [&[0xff; 4][..], &i32::MAX.to_le_bytes(), &[0; 100]].concat();
    cases.push(case("arrow: a head of 2 GiB", "a.arrows", claims, Must::Fail("Arrow")));
    run(world, &at, cases);
}

#[test]
fn corpus_of_csv_and_json() {
    let world = shared();
    let at = simple(world, "307040/000002");
    let head = b"a,b,n\n";
    let with = |rest: &[u8]| [head, rest].concat();
    let gb = [0xbc, 0xd7];
    let mixed = [&b"a,b,n\n"[..], "甲,乙,1\n丙,丁,2\n".as_bytes(), &gb, b",x,3\n"].concat();
    let mut wide = (0..200_000).fold(String::new(), |mut out, n| {
        let _ = write!(out, "c{n},");
        out
    });
    wide.push('\n');
    let deep = "{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000);
    let lists = "[".repeat(200_000);
    let cases = vec![
        case("csv: 64 MB without a line break", "a.csv", with(&vec![b'x'; 64 << 20]), Must::Fail("16 MiB")),
        case(
            "csv: 64 MB of line breaks in a quote",
            "a.csv",
            with(&[b"\"", &vec![b'\n'; 64 << 20][..]].concat()),
            Must::Fail("16 MiB"),
        ),
        case("csv: a quote that never closes", "a.csv", with(b"1,\"2,3\n4,5,6\n"), Must::Fail("line 2")),
        case("csv: two encodings in one file", "a.csv", mixed, Must::Fail("line 4, column \"a\"")),
        case("csv: UTF-16", "a.csv", &[0xff, 0xfe, b'a', 0, b',', 0][..], Must::Fail("UTF-16")),
        case(
            "csv: no encoding at all",
            "a.csv",
            with(&[0xff, 0xfe, 0xfd, b',', b'\n'].repeat(1_000)),
            Must::Fail("encoding"),
        ),
        case("csv: 200,000 columns", "a.csv", wide, Must::Fail("more fields")),
        case("csv: 16 MB of commas in a row", "a.csv", with(&vec![b','; 15 << 20]), Must::Fail("more fields")),
        case("csv: every row is wrong", "a.csv", with(&b"x,y,z\n".repeat(500_000)), Must::Fail("line 2, column \"n\"")),
        case("jsonl: 100,000 objects deep", "a.jsonl", deep, Must::Fail("line 1")),
        case("jsonl: 200,000 lists deep", "a.jsonl", format!("{{\"a\":{lists}}}\n"), Must::Fail("line 1")),
        case(
            "jsonl: 64 MB without a line break",
            "a.jsonl",
            [b"{\"a\":\"", &vec![b'x'; 64 << 20][..]].concat(),
            Must::Fail("16 MiB"),
        ),
        case("jsonl: a name twice", "a.jsonl", "{\"a\":\"1\",\"a\":\"2\"}\n", Must::Fail("twice")),
        case("jsonl: no object", "a.jsonl", "[1,2]\n", Must::Fail("no JSON object")),
    ];
    run(world, &at, cases);
}

const NAMES: &str = r#"<row r="1"><c r="A1" t="inlineStr"><is><t>a</t></is></c><c r="B1" t="inlineStr"><is><t>b</t></is></c><c r="C1" t="inlineStr"><is><t>n</t></is></c></row>"#;

/// A workbook of these parts, with a workbook and its relations where they are not among them.
fn workbook(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let book = br#"<workbook xmlns:r="r"><sheets><sheet name="s" sheetId="1" r:id="rId1"/></sheets></workbook>"#;
    let relations = br#"<Relationships><Relationship Id="rId1" Target="worksheets/sheet1.xml"/></Relationships>"#;
    let defaults: [(&str, &[u8]); 2] = [("xl/workbook.xml", book), ("xl/_rels/workbook.xml.rels", relations)];
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let given = |name: &str| parts.iter().any(|(is, _)| *is == name);
    for (name, bytes) in defaults.iter().filter(|(name, _)| !given(name)).chain(parts) {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn sheet(inside: &str) -> Vec<u8> {
    format!("<worksheet><dimension ref=\"A1:XFD1048576\"/><sheetData>{NAMES}{inside}</sheetData></worksheet>")
        .into_bytes()
}

#[test]
fn corpus_of_excel() {
    const SHEET: &str = "xl/worksheets/sheet1.xml";
    let world = shared();
    let at = simple(world, "307040/000003");
    let row = r#"<row r="2"><c r="A2" t="inlineStr"><is><t>x</t></is></c><c r="C2"><v>7</v></c></row>"#;
    let laughs = format!(
        "<!DOCTYPE l [<!ENTITY a \"ha\">{}]><worksheet>&z;</worksheet>",
        (0..20).map(|n| format!("<!ENTITY l{n} \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\">")).collect::<String>()
    );
    let blanks = [&vec![b' '; 500_000][..], b"<x/>"].concat().repeat(200);
    let bomb = [&b"<worksheet><sheetData>"[..], &blanks].concat();
    let one = [&b"<worksheet><sheetData>"[..], &vec![b' '; 96 << 20]].concat();
    let texts = [&b"<sst>"[..], &b"<si><t>xxxxxxxxxxxxxxxx</t></si>".repeat(1 << 18), b"</sst>"].concat();
    let empty_texts = [&b"<sst>"[..], &b"<si/>".repeat(10 << 20), b"</sst>"].concat();
    let long = format!(r#"<row r="2"><c r="A2" t="inlineStr"><is><t>{}</t></is></c></row>"#, "x".repeat(2 << 20));
    let far = r#"<row r="2"><c r="XFD2"><v>1</v></c></row>"#;
    let lost = r#"<row r="2"><c r="A2"><v>110101199003070012</v></c></row>"#;
    let mut nothing = workbook(&[(SHEET, &sheet(row))]);
    let len = nothing.len();
    // The end of the archive claims 65,535 files.
    nothing[len - 14..len - 10].copy_from_slice(&[0xff; 4]);
    let cases = vec![
        case("xlsx: dimensions that lie, not believed", "a.xlsx", workbook(&[(SHEET, &sheet(row))]), Must::Take(1)),
        case("xlsx: one blank of 96 MB", "a.xlsx", workbook(&[(SHEET, &one)]), Must::Fail("1 MiB")),
        case(
            "xlsx: a zip bomb of 100 MB",
            "a.xlsx",
            workbook(&[(SHEET, &bomb)]),
            Must::Fail("larger than what is stored"),
        ),
        case(
            "xlsx: a quarter of a million texts, held",
            "a.xlsx",
            workbook(&[("xl/sharedStrings.xml", &texts), (SHEET, &sheet(row))]),
            Must::Take(1),
        ),
        case(
            "xlsx: ten million empty texts",
            "a.xlsx",
            workbook(&[("xl/sharedStrings.xml", &empty_texts), (SHEET, &sheet(row))]),
            Must::Fail("64 MiB"),
        ),
        case("xlsx: a billion laughs", "a.xlsx", workbook(&[(SHEET, laughs.as_bytes())]), Must::Fail("document type")),
        case(
            "xlsx: an entity that nobody has",
            "a.xlsx",
            workbook(&[(SHEET, &sheet("<row r=\"2\"><c t=\"str\"><v>&x;</v></c></row>"))]),
            Must::Fail("entity"),
        ),
        case("xlsx: a cell of 2 MB", "a.xlsx", workbook(&[(SHEET, &sheet(&long))]), Must::Fail("Excel")),
        case(
            "xlsx: 10,000 elements deep",
            "a.xlsx",
            workbook(&[(SHEET, &sheet(&"<x>".repeat(10_000)))]),
            Must::Fail("deep"),
        ),
        case("xlsx: a cell far to the right", "a.xlsx", workbook(&[(SHEET, &sheet(far))]), Must::Fail("header")),
        case(
            "xlsx: an 18-digit code as a number",
            "a.xlsx",
            workbook(&[(SHEET, &sheet(lost))]),
            Must::Fail("digits were lost"),
        ),
        case(
            "xlsx: a text that is not there",
            "a.xlsx",
            workbook(&[(SHEET, &sheet("<row r=\"2\"><c t=\"s\"><v>9</v></c></row>"))]),
            Must::Fail("not in the file"),
        ),
        case("xlsx: an archive that claims more files", "a.xlsx", nothing, Must::Fail("Excel")),
        case("xlsx: no archive", "a.xlsx", &b"\xd0\xcf\x11\xe0 old"[..], Must::Fail(".xls")),
        case("xlsx: no workbook", "a.xlsx", workbook(&[("xl/workbook.xml", b"<x/>")]), Must::Fail("no sheet")),
    ];
    run(world, &at, cases);
}
