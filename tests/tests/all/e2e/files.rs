//! Files in and out: the same bytes under the same names, and the hash that `b3sum` prints.

use lingqu_tests::world::{Tree, b3sum, bytes_of, seeded_bytes, shared, text};
use serde_json::Value;

#[test]
fn a_file_comes_back_as_it_was() {
    let world = shared();
    let at = world.new_files();
    let bytes = seeded_bytes(1, 3_000_000);
    let file = world.file("一份 档案.bin", &bytes);
    let pushed = world.provider.agent.run(["push", "file", &at.entry, file.to_str().unwrap()]).ok();
    let receipt = std::fs::read(world.provider.agent.receipt(text(&pushed, "id"))).unwrap();
    let receipt: Value = serde_json::from_slice(&receipt).unwrap();
    let listed = &receipt["files"][0];
    assert_eq!(text(listed, "path"), "一份 档案.bin");
    assert_eq!(text(listed, "root"), format!("blake3:{}", b3sum(&bytes)));
    assert_eq!(listed["bytes"], 3_000_000);

    // A set of one file goes into a folder, or becomes the file that is named.
    let out = world.path("out/");
    let pulled = world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();
    assert_eq!(bytes_of(&out), [("一份 档案.bin".to_owned(), bytes.clone())].into());
    let out = world.path("another name");
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();
    assert!(std::fs::read(&out).unwrap() == bytes);
    let theirs = std::fs::read(world.requester.agent.receipt(text(&pulled, "id"))).unwrap();
    let theirs: Value = serde_json::from_slice(&theirs).unwrap();
    assert_eq!(theirs["bytes_root"], receipt["bytes_root"], "one root on both sides");
    assert_eq!(text(&theirs["grant"], "id"), at.grant);
}

#[test]
fn a_tree_keeps_its_names_sizes_and_bytes() {
    let world = shared();
    let at = world.new_files();
    let tree = Tree::telling();
    let dir = world.path("export");
    tree.write(&dir);
    world.provider.agent.run(["push", "file", &at.code, dir.to_str().unwrap()]).ok();
    let out = world.path("out/");
    world.requester.agent.run(["pull", &at.code, "--out", out.to_str().unwrap()]).ok();
    let back = bytes_of(&out);
    assert_eq!(back.keys().collect::<Vec<_>>(), tree.0.keys().collect::<Vec<_>>());
    for (name, bytes) in &tree.0 {
        assert_eq!(b3sum(&back[name]), b3sum(bytes), "{name}");
    }
}

#[test]
fn single_files_of_a_set_and_older_versions_are_pulled() {
    let world = shared();
    let at = world.new_files();
    let push = |version: u64| {
        let dir = world.path("v");
        let tree =
            Tree([("a".into(), seeded_bytes(version, 100)), ("b/c".into(), seeded_bytes(version, 2_000))].into());
        tree.write(&dir);
        world.provider.agent.run(["push", "file", &at.entry, dir.to_str().unwrap()]).ok();
        tree
    };
    let (first, second) = (push(1), push(2));
    let pull = |more: &[&str]| {
        let out = world.path("out/");
        let args = ["pull", &at.grant, "--out", out.to_str().unwrap()];
        world.requester.agent.run([&args, more].concat()).ok();
        bytes_of(&out)
    };
    assert_eq!(pull(&[]), second.0, "the latest");
    assert_eq!(pull(&["--version", "1"]), first.0);
    assert_eq!(pull(&["--version", "1", "--file", "b/c"]), [("b/c".to_owned(), first.0["b/c"].clone())].into());
    let out = world.path("none");
    let args = ["pull", &at.grant, "--version", "9", "--out", out.to_str().unwrap()];
    world.requester.agent.run(args).fails(3);
    let args = ["pull", &at.grant, "--file", "no-such", "--out", out.to_str().unwrap()];
    world.requester.agent.run(args).fails(3);
    assert!(!out.exists());
}

#[test]
fn many_small_files_travel_as_one_set() {
    let world = shared();
    let at = world.new_files();
    let tree = Tree((0..1_500).map(|i| (format!("d{}/f{i:04}", i % 7), seeded_bytes(i, (i % 300) as usize))).collect());
    let dir = world.path("many");
    tree.write(&dir);
    world.provider.agent.run(["push", "file", &at.entry, dir.to_str().unwrap()]).ok();
    let out = world.path("out/");
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();
    assert_eq!(bytes_of(&out), tree.0);
}
