//! 7, 22: what is outside the scope never leaves, and questions about it are not answered.

use arrow::array::*;
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::wire::{Pull, reply, request};
use lingqu_tests::world::data::{with_column, write_parquet};
use lingqu_tests::world::raw::{Raw, batch_frames, runtime};
use lingqu_tests::world::{Rows, World, registrations, shared, table_entry_toml, text, threat};
use std::sync::Arc;

fn transfer() -> String {
    TransferId::random(&lingqu_certs::os::OsEntropy::new()).unwrap().to_string()
}

fn ask(target: &str) -> Pull {
    Pull { transfer: transfer(), target: target.into(), ..Pull::default() }
}

#[test]
fn threat_07_columns_and_conditions_outside_the_scope_are_denied_before_anything_is_read() {
    let world = shared();
    // Nothing was pushed: were anything read, the answer would be that there is no version.
    let at = world.new_table();
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let columns = |names: &[&str]| {
            request::Ask::Pull(Pull { columns: names.iter().map(|n| (*n).to_owned()).collect(), ..ask(&at.grant) })
        };
        for names in [
            &["note"][..],
            &["region", "operator_name"],
            &["NOTE"],
            &["note "],
            &["region.note"],
            &["region", "*"],
            &["region as note"],
            &["no_such_column"],
            &[""],
        ] {
            let (fault, _) = dialled.refused(columns(names)).await;
            threat(7, format!("columns {names:?}"), &fault);
            assert_eq!(fault.word, "columns_outside_scope", "{names:?}: {fault:?}");
        }
        let (fault, _) = dialled.refused(columns(&["staff", "staff"])).await;
        threat(7, "a column twice", &fault);
        assert_eq!(fault.word, "column_twice");
        for oracle in [
            "note = 'x'",
            "staff > 1 and note is null",
            "not (not (note = 'x'))",
            "staff > 1 or operator_name in ('a', 'b')",
            "visits between 1 and 2",
            "note within '4403'",
        ] {
            let (fault, _) =
                dialled.refused(request::Ask::Pull(Pull { r#where: oracle.into(), ..ask(&at.grant) })).await;
            threat(7, format!("where {oracle}"), &fault);
            assert_eq!(fault.word, "predicate_outside_scope", "{oracle}: {fault:?}");
        }
        for (pull, word) in [
            (Pull { purpose: "别的用途".into(), ..ask(&at.grant) }, "purpose_outside_scope"),
            (Pull { files: vec!["f".into()], ..ask(&at.grant) }, ""),
        ] {
            let asked = format!("purpose {:?}, files {:?}", pull.purpose, pull.files);
            let (fault, _) = dialled.refused(request::Ask::Pull(pull)).await;
            threat(7, asked, &fault);
            assert!(word.is_empty() || fault.word == word, "{fault:?}");
        }
    });
    // The same by the command.
    let ran = world.requester.agent.run(["pull", &at.grant, "--columns", "region,note", "--out", "-"]);
    threat(7, "pull --columns region,note", &ran);
    let error = ran.fails(3);
    assert_eq!(text(&error, "word"), "columns_outside_scope");
    assert!(text(&error, "text").contains("note"), "{error}");
}

/// Bytes that stand only where the requester may not look.
const SENTINEL: &str = "QUITE-SECRET-91f3";

/// A number of which the same holds; its bytes are looked for in both orders.
const SENTINEL_NUMBER: i32 = 0x5EC2_37A1;

#[test]
fn threat_07_what_is_outside_the_scope_is_not_on_the_wire() {
    let world = World::new();
    let at = &world.table;
    let rows = 3_000;
    let plain = registrations(1, rows);
    let regions = plain.column(0).as_any().downcast_ref::<StringArray>().unwrap().clone();
    let outside = |i: usize| !regions.value(i).starts_with("4403");
    let everywhere: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("{SENTINEL}{i}"))));
    // Whole columns that are dropped, and cells of granted columns in rows of other regions.
    let mut batch = with_column(&plain, "note", everywhere.clone());
    batch = with_column(&batch, "operator_name", everywhere);
    let code = (0..rows).map(|i| if outside(i) { format!("{SENTINEL}{i}") } else { format!("OPEN{i}") });
    batch = with_column(&batch, "credit_code", Arc::new(StringArray::from_iter_values(code)));
    // Values under nulls, in granted columns of granted rows.
    let valid: Vec<bool> = (0..rows).map(|i| !outside(i) && i % 3 == 0).collect();
    let hidden = ScalarBuffer::from(valid.iter().map(|v| if *v { 7 } else { SENTINEL_NUMBER }).collect::<Vec<i32>>());
    batch = with_column(&batch, "staff", Arc::new(Int32Array::new(hidden, Some(NullBuffer::from(valid)))));
    let file = world.path("rows.parquet");
    write_parquet(&file, &batch);
    let toml = table_entry_toml(&at.code);

    runtime().block_on(async {
        // As frames too: Parquet keeps nothing under nulls, but a peer can send what it likes.
        let provider = Raw::of(&world.gateway, &world.provider.agent).dial().await;
        let (bodies, end) = batch_frames(&toml, &batch);
        assert!(bodies.iter().any(|b| holds(b, &SENTINEL_NUMBER.to_le_bytes())), "the sentinel is sent");
        provider.push_batch(&at.entry, bodies, end).await.expect("a receipt");
        tokio::task::block_in_place(|| {
            world.provider.agent.run(["push", "batch", &at.entry, file.to_str().unwrap()]).ok();
        });
        let expected = Rows::of(&[batch.clone()]).filter("region", |r| r.starts_with("4403"));
        let requester = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        for (version, where_) in [(1, ""), (2, ""), (1, "staff is null"), (2, "region within '440305001'")] {
            let pull = Pull { version, r#where: where_.into(), ..ask(&at.grant) };
            let pulled = requester.pull_rows(pull).await;
            assert!(pulled.end.is_some(), "{:?}", pulled.fault);
            let mut wanted = expected.clone();
            if where_.contains("null") {
                wanted = wanted.filter("staff", |s| s == "∅");
            } else if !where_.is_empty() {
                wanted = wanted.filter("region", |r| r == "440305001");
            }
            let got = Rows::of(&pulled.batches);
            got.must_be(&wanted.select(&got.columns.iter().map(String::as_str).collect::<Vec<_>>()));
            assert!(pulled.holds(b"OPEN"), "what is looked for would be found");
            let (text, number) = (pulled.holds(SENTINEL.as_bytes()), pulled.holds(&SENTINEL_NUMBER.to_le_bytes()));
            let sent = format!("secrets outside the scope and under nulls, version {version}, where {where_:?}");
            threat(7, sent, format!("on the wire: text {text}, number {number}"));
            assert!(!text, "version {version} {where_:?}");
            assert!(!number, "version {version} {where_:?}: under a null");
            for batch in &pulled.batches {
                nothing_under_nulls(batch);
            }
        }
    });
}

#[test]
fn threat_07_texts_under_nulls_are_not_on_the_wire() {
    let world = World::new();
    let code = "307010/700001";
    let toml = table_entry_toml(code);
    let entry = world.publish(&toml);
    let at = world.granted(entry, code.into(), "columns = [\"region\", \"note\", \"seal\"]");
    let rows = 100;
    let plain = registrations(1, rows);
    let texts = vec![SENTINEL; rows].concat();
    let offsets = || OffsetBuffer::<i32>::from_lengths(vec![SENTINEL.len(); rows]);
    let nulls = || Some(NullBuffer::from(vec![false; rows]));
    let note: ArrayRef = Arc::new(StringArray::new(offsets(), Buffer::from(texts.as_bytes()), nulls()));
    let seal: ArrayRef = Arc::new(BinaryArray::new(offsets(), Buffer::from(texts.as_bytes()), nulls()));
    let batch = with_column(&with_column(&plain, "note", note), "seal", seal);
    runtime().block_on(async {
        let provider = Raw::of(&world.gateway, &world.provider.agent).dial().await;
        let (bodies, end) = batch_frames(&toml, &batch);
        assert!(bodies.iter().any(|b| holds(b, SENTINEL.as_bytes())), "the sentinel is sent");
        provider.push_batch(&at.entry, bodies, end).await.expect("a receipt");
        let requester = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let pulled = requester.pull_rows(ask(&at.grant)).await;
        assert_eq!(pulled.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows);
        let held = pulled.holds(SENTINEL.as_bytes());
        threat(7, "secret texts under nulls", format!("on the wire: {held}"));
        assert!(!held);
    });
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|w| w == needle)
}

/// The bytes of a null are zero, and of a null text there are none.
fn nothing_under_nulls(batch: &RecordBatch) {
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if let Some(numbers) = column.as_any().downcast_ref::<Int32Array>() {
            let under = (0..numbers.len()).filter(|i| numbers.is_null(*i)).map(|i| numbers.values()[i]);
            assert!(under.clone().all(|v| v == 0), "{}: {:?}", field.name(), under.collect::<Vec<_>>());
        }
    }
}

#[test]
fn threat_22_predicates_are_parsed_and_bounded() {
    let world = shared();
    let at = world.new_table();
    let deep = format!("{}staff = 1{}", "(".repeat(10_000), ")".repeat(10_000));
    let not = format!("{}staff = 1", "not ".repeat(10_000));
    let many = vec!["staff = 1"; 10_000].join(" or ");
    let list = format!("staff in ({})", vec!["1"; 50_000].join(","));
    let long = format!("credit_code = '{}'", "x".repeat(500_000));
    let injections = [
        "1=1; drop table records",
        "staff = 1 union select * from records",
        "credit_code = 'x' or 1=1 --",
        "credit_code = 'a''; delete from leaves; --'  extra",
        "exec('x')",
        "staff = (select 1)",
        "\u{202e}staff = 1",
        "staff = 1 /* */",
        "",
        "'",
    ];
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let all = [&deep, &not, &many, &list, &long].into_iter().map(String::as_str).chain(injections);
        for text in all.filter(|t| !t.is_empty()) {
            let (fault, _) = dialled.refused(request::Ask::Pull(Pull { r#where: text.into(), ..ask(&at.grant) })).await;
            let shown: String = text.chars().take(40).collect();
            threat(22, format!("where {shown} ({} bytes)", text.len()), &fault);
            assert!(matches!(fault.close_code(), CloseCode::BadData | CloseCode::Denied), "{shown}: {fault:?}");
            assert!(fault.text.len() < 4_000, "the answer is short: {shown}");
        }
        let reply =
            dialled.ask(request::Ask::Read(lingqu_protocol::wire::Read { kind: "grant".into(), ..Default::default() }));
        assert!(matches!(reply.await, reply::Reply::Records(_)), "and the connection goes on");
    });
    let ran = world.requester.agent.run(["pull", &at.grant, "--where", injections[0], "--out", "-"]);
    threat(22, format!("pull --where {:?}", injections[0]), &ran);
    assert_eq!(ran.code, Some(2), "{ran}");
}
