//! 21, 23, 25: names that climb, characters that steer, errors that tell too much.

use bytes::Bytes;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::frame::{self, FrameKind};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::wire::{Fault, ManifestFile, ManifestPart, Pull, PushFiles, Read, request};
use lingqu_tests::world::raw::{Dialled, Raw, fault, runtime};
use lingqu_tests::world::{World, flip_byte, seeded_bytes, shared, text, threat};
use prost::Message;
use std::path::{Path, PathBuf};

/// Announces a set of files with these names; the fault.
async fn push_names(dialled: &Dialled, entry: &str, names: &[&str]) -> Fault {
    let ask = PushFiles {
        transfer: TransferId::random(&lingqu_certs::os::OsEntropy::new()).unwrap().to_string(),
        entry: entry.into(),
        files: names.len() as u32,
        bytes: names.len() as u64,
    };
    let mut control = dialled.request(request::Ask::PushFiles(ask)).await;
    let file = |name: &&str| ManifestFile { name: (*name).to_owned(), bytes: 1, root: Bytes::new() };
    let part = ManifestPart { files: names.iter().map(file).collect() };
    let body = frame::encode(FrameKind::Manifest, &part.encode_to_vec()).unwrap();
    // The gateway may have refused already.
    let _stopped = control.writer.raw(body).await;
    fault(&mut control.reader).await.0
}

#[test]
fn threat_21_names_that_no_folder_should_hold_are_refused() {
    let world = shared();
    let at = world.new_files();
    let long = "x".repeat(256);
    let deep = vec!["d"; 40].join("/");
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.provider.agent).dial().await;
        for names in [
            &["../x"][..],
            &["a/../../x"],
            &["/etc/passwd"],
            &["a\0b"],
            &["a\\..\\b"],
            &["."],
            &[""],
            &["a//b"],
            &["a/"],
            &["e\u{301}tude"],
            &["a\u{202e}txt.exe"],
            &["a\u{7}b"],
            &["CON"],
            &["a. "],
            &["c:x"],
            &[long.as_str()],
            &[deep.as_str()],
            // Equal but for case or Unicode form, a file that is a folder, and order.
            &["A", "a"],
            &["\u{1e9e}", "\u{df}"],
            &["a", "a/b"],
            &["b", "a"],
            &["a", "a"],
        ] {
            let fault = push_names(&dialled, &at.entry, names).await;
            threat(21, format!("files named {names:?}"), &fault);
            assert_eq!(fault.close_code(), CloseCode::BadData, "{names:?}: {fault:?}");
        }
        for pull in ["../x", "/etc/passwd", "a\0b"] {
            let transfer = TransferId::random(&lingqu_certs::os::OsEntropy::new()).unwrap().to_string();
            let ask = Pull { transfer, target: at.grant.clone(), files: vec![pull.into()], ..Pull::default() };
            let requester = Raw::of(&world.gateway, &world.requester.agent).dial().await;
            let (fault, _) = requester.refused(request::Ask::Pull(ask)).await;
            threat(21, format!("a pull of the file {pull:?}"), &fault);
            assert_eq!(fault.close_code(), CloseCode::Denied, "{fault:?}");
        }
    });
}

#[test]
fn threat_21_links_and_twins_are_not_sent() {
    let world = shared();
    let at = world.new_files();
    let push = |dir: &Path, what: &str| {
        let ran = world.provider.agent.run(["push", "file", &at.entry, dir.to_str().unwrap()]);
        threat(21, what, &ran);
        ran.fails(2)
    };
    let dir = world.path("dir");
    std::fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("link")).unwrap();
    assert!(text(&push(&dir, "a folder with a link to /etc/passwd"), "text").contains("link"));
    std::fs::remove_file(dir.join("link")).unwrap();
    std::fs::write(dir.join("Name"), "1").unwrap();
    std::fs::write(dir.join("name"), "2").unwrap();
    push(&dir, "names equal but for case");
    std::fs::remove_file(dir.join("Name")).unwrap();
    // A good name that only looks like trouble travels.
    std::fs::write(dir.join("x#123"), "3").unwrap();
    world.provider.agent.run(["push", "file", &at.entry, dir.to_str().unwrap()]).ok();
    let out = world.path("out/");
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read(out.join("x#123")).unwrap(), b"3");
    // An output that is a link is left alone.
    let (target, link) = (world.path("target"), world.path("link"));
    std::fs::write(&target, "mine").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let ran = world.requester.agent.run(["pull", &at.grant, "--out", link.to_str().unwrap()]);
    threat(21, "an output that is a link", &ran);
    ran.fails(2);
    assert_eq!(std::fs::read(&target).unwrap(), b"mine");
}

#[test]
fn threat_23_what_steers_a_terminal_is_escaped() {
    let mut world = World::new();
    let steering =
        ["\u{1b}[2J\u{1b}[31m", "\u{202e}fdp.exe", "\u{7}\u{8}\r\n2026-01-01 INFO forged", "\u{200b}\u{2066}"];
    let is_clean = |text: &str| {
        !text.chars().any(|c| {
            (c.is_control() && c != '\n')
                || ('\u{202a}'..='\u{202e}').contains(&c)
                || ('\u{2066}'..='\u{2069}').contains(&c)
        })
    };
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.provider.agent).dial().await;
        let requester = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        for bad in steering {
            let fault = push_names(&dialled, &world.files.entry, &[bad]).await;
            threat(23, format!("a file named {bad:?}"), &fault);
            assert!(is_clean(&fault.text) && !fault.text.contains('\n'), "{:?}", fault.text);
            for ask in [
                Pull { target: bad.into(), ..Pull::default() },
                Pull { target: world.table.grant.clone(), columns: vec![bad.into()], ..Pull::default() },
                Pull { target: world.table.grant.clone(), r#where: format!("{bad} = 1"), ..Pull::default() },
                Pull { target: world.table.grant.clone(), r#where: format!("region = '{bad}"), ..Pull::default() },
                Pull { target: world.table.grant.clone(), purpose: bad.into(), ..Pull::default() },
                Pull { target: world.table.grant.clone(), region: bad.into(), ..Pull::default() },
                Pull { target: world.table.grant.clone(), transfer: bad.into(), ..Pull::default() },
            ] {
                let (fault, _) = requester.refused(request::Ask::Pull(ask)).await;
                threat(23, format!("a pull with {bad:?} in it"), &fault);
                for text in [&fault.text, &fault.text_zh, &fault.word] {
                    assert!(is_clean(text), "{text:?}");
                }
            }
            for kind in ["grant", "transfer", "catalogue", bad] {
                let read = Read { kind: kind.into(), id: bad.into(), ..Read::default() };
                let (fault, _) = requester.refused(request::Ask::Read(read)).await;
                assert!(is_clean(&fault.text), "{:?}", fault.text);
            }
        }
    });
    let dir = world.path("dir");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("a\u{1b}[31m"), "x").unwrap();
    for profile in [&world.provider.agent, &world.requester.agent] {
        let mut people = profile.command(["push", "file", "\u{1b}[2Jx", dir.to_str().unwrap()]);
        people.env("NO_JSON", "1");
        let ran = lingqu_tests::world::Running::start(people).wait();
        assert_ne!(ran.code, Some(0));
        threat(23, "a push with control characters, shown to people", format!("exit {:?}: {}", ran.code, ran.stderr));
        assert!(is_clean(&ran.stderr), "{:?}", ran.stderr);
    }
    let ended = world.gateway.terminate();
    assert!(is_clean(&ended.stderr), "the log: {:?}", ended.stderr);
    assert!(!ended.stderr.lines().any(|line| line.starts_with("2026-01-01 INFO forged")));
}

fn objects(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() { folders.push(path) } else { all.push(path) }
        }
    }
    all
}

#[test]
fn threat_25_an_error_says_nothing_of_the_gateways_inside() {
    let world = World::new();
    let file = world.file("f", seeded_bytes(1, 3_000_000));
    world.provider.agent.run(["push", "file", &world.files.entry, file.to_str().unwrap()]).ok();
    let dir = world.gateway.dir().to_str().unwrap().to_owned();
    let pull = || {
        let out = world.path("out/");
        let ran = world.requester.agent.run(["pull", &world.files.grant, "--out", out.to_str().unwrap()]);
        assert!(!out.exists(), "{ran}");
        ran
    };
    let must_be_quiet = |ran: &lingqu_tests::world::Ran, what: &str| {
        let said = ran.stderr.replace(world.path("").parent().unwrap().to_str().unwrap(), "");
        for inside in [dir.as_str(), "lake/", "state/", "sqlite", "SQLite", ".rs:", "os error", "/src/"] {
            assert!(!said.contains(inside), "{what} says {inside:?}: {ran}");
        }
    };
    // A byte flipped at rest: found, named as what it is, and nobody gets it.
    let largest = objects(world.gateway.dir()).into_iter().filter(|p| !p.to_string_lossy().contains("lingqu.db"));
    let largest = largest.max_by_key(|p| std::fs::metadata(p).unwrap().len()).unwrap();
    flip_byte(&largest, 1_000_000);
    let damaged = pull();
    threat(25, "a pull of what was damaged at rest", &damaged);
    assert_eq!(damaged.code, Some(5), "{damaged}");
    must_be_quiet(&damaged, "damage");
    // An object that is gone.
    for object in objects(&world.gateway.dir().join("lake")) {
        std::fs::remove_file(object).unwrap();
    }
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let transfer = TransferId::from_bits(25).to_string();
        let ask = Pull { transfer, target: world.files.grant.clone(), ..Pull::default() };
        let (fault, _) = dialled.refused(request::Ask::Pull(ask)).await;
        threat(25, "a pull of what is gone from the disk", &fault);
        assert!(matches!(fault.close_code(), CloseCode::Integrity | CloseCode::Internal), "{fault:?}");
        let said = format!("{fault:?}");
        for inside in [dir.as_str(), "lake/", "os error", "sqlite", ".rs"] {
            assert!(!said.contains(inside), "loss says {inside:?}: {said}");
        }
    });
    // And the other transfers go on.
    let file = world.file("g", seeded_bytes(2, 100_000));
    world.provider.agent.run(["push", "file", &world.files.entry, file.to_str().unwrap()]).ok();
    let out = world.path("out/");
    world.requester.agent.run(["pull", &world.files.grant, "--out", out.to_str().unwrap()]).ok();
    // Keys and seeds are in no log.
    let key = std::fs::read_to_string(world.gateway.dir().join("receipt.key")).unwrap();
    let ran = { world }.gateway.terminate();
    for line in key.lines().filter(|l| l.len() > 20) {
        assert!(!ran.stderr.contains(line), "a key is in the log");
    }
}
