//! Dirty rows and quality rules: each is named by file, line, column and reason, and the counts add up everywhere.

use crate::e2e::push_rows;
use lingqu_tests::world::{Granted, PURPOSE, World, shared, text};
use serde_json::Value;
use std::path::Path;

const HEAD: &str = "abstract = \"合成数据，仅供测试\"\nformat = \"table\"\nupdate_frequency = \"daily\"\n\
     sharing_class = \"conditional\"\nconditions = \"限依法履职使用\"\nsharing_methods = [\"batch_exchange\"]\n\
     grade = \"general-2\"\n";

fn publish(world: &World, code: &str, rest: &str, columns: &[&str]) -> Granted {
    let toml = format!("name = \"脏数据\"\ncode = \"{code}\"\npurposes = [\"{PURPOSE}\"]\n{HEAD}{rest}");
    let id = world.publish(&toml);
    world.granted(id, code.to_owned(), &format!("columns = {columns:?}"))
}

fn item(name: &str, of: &str, more: &str) -> String {
    format!("[[items]]\nname = \"{name}\"\ntype = \"{of}\"\npersonal = false\n{more}\n")
}

fn receipt(world: &World, answer: &Value) -> Value {
    let path = world.provider.agent.receipt(text(answer, "id"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn rows_pulled(world: &World, at: &Granted) -> u64 {
    let out = world.path("out.csv");
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok()["rows"].as_u64().unwrap()
}

fn rejects(path: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut reader = csv::Reader::from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    reader.records().map(|r| r.unwrap().iter().map(str::to_owned).collect()).collect()
}

/// The 41,352 townships in GB18030, seven rows of which are wrong in seven ways; the lines of those.
fn townships() -> (Vec<u8>, Vec<(u64, &'static str, &'static str)>) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/data/streets.csv");
    let text = std::fs::read_to_string(source).unwrap();
    let (gb, _, lost) = encoding_rs::GB18030.encode(&text);
    assert!(!lost);
    let mut lines: Vec<Vec<u8>> = gb.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    if lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    assert_eq!(lines.len(), 41_353, "a header and the townships");
    let replace = |line: &mut Vec<u8>, from: &str, to: &str| {
        let at = line.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        line.splice(at..at + from.len(), to.bytes());
    };
    let code = |line: &[u8]| String::from_utf8(line[..9].to_vec()).unwrap();
    let mut faults = Vec::new();
    let mut plant = |line: usize, column, reason, edit: &dyn Fn(&mut Vec<u8>)| {
        edit(&mut lines[line - 1]);
        faults.push((line as u64, column, reason));
    };
    plant(7, "code", "not in the table", &|line| {
        let is = code(line);
        replace(line, &is, "999999999");
    });
    plant(100, "code", "filled up with zeros", &|line| {
        let padded = format!("{}000", &code(line)[..6]);
        let is = code(line);
        replace(line, &is, &padded);
    });
    plant(5_000, "name", "required", &|line| {
        let fields: Vec<Vec<u8>> = line.split(|b| *b == b'"').map(<[u8]>::to_vec).collect();
        *line = [fields[0].clone(), b"\"\"".to_vec(), fields[2].clone()].concat();
    });
    plant(12_345, "name", "not in the file's encoding", &|line| {
        let at = line.iter().position(|b| !b.is_ascii()).unwrap();
        line[at] = 0xff;
    });
    plant(20_000, "", "3 fields where the header has 5", &|line| {
        let at: Vec<usize> = line.iter().enumerate().filter(|(_, b)| **b == b',').map(|(i, _)| i).collect();
        line.truncate(at[at.len() - 2]);
    });
    plant(30_000, "", "6 fields where the header has 5", &|line| line.extend(b",x"));
    plant(41_353, "areaCode", "pattern", &|line| {
        let area = format!(",{},", &code(line)[..6]);
        replace(line, &area, ",12345O,");
    });
    (lines.join(&b'\n'), faults)
}

#[test]
fn seven_faults_among_the_townships_are_each_named() {
    let world = shared();
    let columns = ["code", "name", "areaCode", "provinceCode", "cityCode"];
    let rules = "region_column = \"code\"\n\
         [[quality]]\nrule = \"required\"\ncolumn = \"name\"\non_failure = \"reject\"\n\
         [[quality]]\nrule = \"pattern\"\ncolumn = \"areaCode\"\npattern = '[0-9]{6}'\non_failure = \"reject\"\n\
         [[quality]]\nrule = \"unique\"\ncolumn = \"code\"\non_failure = \"reject\"\n";
    let items: String =
        [item("code", "string", "key = true"), columns[1..].iter().map(|c| item(c, "string", "")).collect()].concat();
    let at = publish(world, "307030/000001", &format!("{rules}{items}"), &columns);
    let (bytes, faults) = townships();
    let file = world.file("townships.csv", bytes);

    // Nothing is left behind unless it was said: the first one refuses the push, and nothing lands.
    let error = push_rows(world, &at, &file, &[]).fails(7);
    assert!(text(&error, "text").contains("line 7, column \"code\": \"999999999\""), "{error}");
    let out = world.path("none.csv");
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).fails(3);

    // A look names all seven.
    let ran = push_rows(world, &at, &file, &["--check"]);
    assert_eq!(ran.code, Some(7), "{ran}");
    let report = ran.json();
    assert_eq!(
        (report["read"].as_u64(), report["rejected"].as_u64(), report["rows"].as_u64()),
        (Some(41_352), Some(7), Some(41_345))
    );
    let named = report["faults"].as_array().unwrap();
    assert_eq!(named.len(), 7, "{report}");
    for (found, (line, column, reason)) in named.iter().zip(&faults) {
        assert_eq!((found["line"].as_u64(), text(found, "column")), (Some(*line), *column), "{found}");
        assert!(text(found, "reason").contains(reason) && !text(found, "reason_zh").is_empty(), "{found}");
        println!("line {line}, column {column:?}: {}: {}", found["value"], text(found, "reason"));
    }

    let six = push_rows(world, &at, &file, &["--reject-rows-max", "6"]).fails(7);
    assert!(text(&six, "text").contains("limit: 6 rows"), "{six}");
    let percent = push_rows(world, &at, &file, &["--reject-percent-max", "0.0169"]).fails(7);
    assert!(text(&percent, "text").contains("7 of 41352 rows"), "{percent}");

    let bad = world.path("bad.csv");
    let more = ["--reject", bad.to_str().unwrap(), "--reject-rows-max", "7", "--reject-percent-max", "0.017"];
    let pushed = push_rows(world, &at, &file, &more).ok();
    let counts = |of: &Value, names: [&str; 3]| names.map(|name| of[name].as_u64().unwrap());
    assert_eq!(counts(&pushed, ["read", "rows", "rejected"]), [41_352, 41_345, 7]);
    let receipt = receipt(world, &pushed);
    assert_eq!(counts(&receipt, ["rows_read", "rows", "rows_rejected"]), [41_352, 41_345, 7]);
    assert_eq!(rows_pulled(world, &at), 41_345);
    let rows = rejects(&bad);
    assert_eq!(rows.len(), 7);
    for (row, (line, column, reason)) in rows.iter().zip(&faults) {
        assert!(row[0].ends_with("townships.csv"), "{row:?}");
        assert_eq!(
            (row[1].as_str(), row[2].as_str(), row[4].as_str()),
            (line.to_string().as_str(), *column, "rejected")
        );
        assert!(row[5].contains(reason) && !row[6].is_empty(), "{row:?}");
    }
    let verified = world.provider.agent.run([
        "receipt",
        "verify",
        world.provider.agent.receipt(text(&pushed, "id")).to_str().unwrap(),
    ]);
    verified.ok();
}

#[test]
fn rules_reject_mark_or_count_and_their_results_travel() {
    let world = shared();
    let list = publish(world, "307030/000011", &item("code", "string", "key = true"), &["code"]);
    push_rows(world, &list, &world.file("list.csv", "code\nA\nB\nC\n"), &[]).ok();
    let rules = "[[quality]]\nrule = \"range\"\ncolumn = \"n\"\nmin = 0\nmax = 100\non_failure = \"reject\"\n\
         [[quality]]\nrule = \"required\"\ncolumn = \"name\"\non_failure = \"mark\"\n\
         [[quality]]\nrule = \"unique\"\ncolumns = [\"id\"]\non_failure = \"count\"\n\
         [[quality]]\nrule = \"reference\"\nname = \"代码在册\"\ncolumn = \"kind\"\nentry = \"307030/000011\"\nitem = \"code\"\n\
         on_failure = \"count\"\n";
    let items =
        [item("id", "string", ""), item("n", "int64", ""), item("name", "string", ""), item("kind", "string", "")];
    let columns = ["id", "n", "name", "kind"];
    let at = publish(world, "307030/000012", &format!("{rules}{}", items.concat()), &columns);
    let file = world.file("rows.csv", "id,n,name,kind\n1,5,甲,A\n1,6,,Z\n2,101,丙,B\n3,,丁,\n");
    let bad = world.path("bad.csv");
    // A look says what the receipt will, but for what only the gateway can tell.
    let looked = push_rows(world, &at, &file, &["--check", "--reject-rows-max", "1"]).ok();
    let here = |q: &Value| (text(q, "judged").to_owned(), q["checked"].as_u64(), q["failed"].as_u64());
    let found: Vec<_> = looked["quality"].as_array().unwrap().iter().map(here).collect();
    let expected =
        [("here", Some(2), Some(0)), ("here", Some(3), Some(1)), ("here", Some(3), Some(1)), ("gateway", None, None)];
    assert_eq!(found, expected.map(|(judged, checked, failed)| (judged.to_owned(), checked, failed)), "{looked}");
    assert!(text(&looked["quality"][3], "why").contains("only the gateway"), "{looked}");
    let pushed = push_rows(world, &at, &file, &["--reject", bad.to_str().unwrap(), "--reject-rows-max", "1"]).ok();
    assert_eq!(
        (&pushed["rows"], &pushed["rejected"], &pushed["marked"]),
        (&3.into(), &1.into(), &1.into()),
        "{pushed}"
    );
    let rows = rejects(&bad);
    assert_eq!(
        rows.iter().map(|r| (r[1].as_str(), r[2].as_str(), r[4].as_str())).collect::<Vec<_>>(),
        [("3", "name", "marked"), ("4", "n", "rejected"),]
    );
    let expected = [("range(n)", 2, 0), ("required(name)", 3, 1), ("unique(id)", 3, 1), ("代码在册", 2, 1)];
    let told = |quality: &Value| -> Vec<(String, u64, u64)> {
        let one =
            |q: &Value| (text(q, "rule").to_owned(), q["checked"].as_u64().unwrap(), q["failed"].as_u64().unwrap());
        quality.as_array().unwrap().iter().map(one).collect()
    };
    let expected: Vec<(String, u64, u64)> = expected.map(|(rule, c, f)| (rule.to_owned(), c, f)).to_vec();
    assert_eq!(told(&receipt(world, &pushed)["quality"]), expected);
    let shown = world.provider.agent.run(["catalogue", "show", &at.entry]).ok();
    assert_eq!(told(&shown["latest_version"]["quality"]), expected, "{shown}");
    let others = world.other.agent.run(["catalogue", "show", &at.entry]).ok();
    assert!(others.get("latest_version").is_none(), "versions are not everybody's to know: {others}");
    let out = world.path("out.parquet");
    let pulled = world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();
    let theirs = std::fs::read(world.requester.agent.receipt(text(&pulled, "id"))).unwrap();
    assert_eq!(told(&serde_json::from_slice::<Value>(&theirs).unwrap()["quality"]), expected);

    // Rows that are appended are judged with those that are there.
    let again =
        push_rows(world, &at, &world.file("more.csv", "id,n,name,kind\n2,7,戊,C\n3,8,己,A\n"), &["--mode", "append"]);
    let again = receipt(world, &again.ok());
    assert_eq!(told(&again["quality"])[2], ("unique(id)".to_owned(), 5, 2));
}

#[test]
fn what_the_whole_version_breaks_the_gateway_refuses() {
    let world = shared();
    let rules = "[[quality]]\nrule = \"unique\"\ncolumn = \"id\"\non_failure = \"reject\"\n";
    let at = publish(world, "307030/000021", &format!("{rules}{}", item("id", "string", "")), &["id"]);
    let twice = world.file("twice.csv", "id\n1\n2\n1\n");
    let looked = push_rows(world, &at, &twice, &["--check"]);
    assert_eq!(looked.code, Some(7), "{looked}");
    let report = looked.json();
    assert_eq!((&report["valid"], &report["rejected"]), (&false.into(), &0.into()), "{report}");
    let rule = &report["quality"][0];
    assert_eq!((text(rule, "rule"), &rule["checked"], &rule["failed"]), ("unique(id)", &3.into(), &1.into()));
    assert_eq!((&rule["rows"][0]["at"]["line"], &rule["rows"][0]["same_as"]["line"]), (&4.into(), &2.into()));
    assert!(text(&looked.error(), "text").contains("1 of 3 rows"), "{looked}");
    let error = push_rows(world, &at, &twice, &[]).fails(7);
    assert!(text(&error, "text").contains("unique(id)") && text(&error, "text").contains("1 of 3 rows"), "{error}");
    let out = world.path("none.csv");
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).fails(3);
    push_rows(world, &at, &world.file("once.csv", "id\n1\n2\n"), &[]).ok();

    // A rule says of each value whether the other entry has it: not about what is shared on conditions by somebody else.
    let theirs = "[[quality]]\nrule = \"reference\"\ncolumn = \"id\"\nentry = \"307030/999999\"\nitem = \"id\"\non_failure = \"count\"\n";
    let at = publish(world, "307030/000022", &format!("{theirs}{}", item("id", "string", "")), &["id"]);
    let error = push_rows(world, &at, &world.file("rows.csv", "id\n1\n"), &[]).fails(7);
    assert!(text(&error, "text").contains("refers to an entry"), "{error}");
}
