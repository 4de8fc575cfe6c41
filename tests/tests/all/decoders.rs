//! Every decoder on random bytes, on damaged good inputs, and reachable by a fuzz target.

use lingqu_tests::decoders::{ALL, ENTRY_TOML, WHERE};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Good inputs to damage. Each decoder gets all of them: what is good for one is bad for the others.
fn good() -> Vec<Vec<u8>> {
    let mut frames = vec![3u8];
    frames.extend(lingqu_protocol::frame::segment(7));
    frames.extend(lingqu_protocol::frame::item_head(0, &[7; 32], 3).unwrap());
    frames.extend(b"abc");
    let texts = [
        "region within '4403' and (n > 5 or not b = true) and t between date '2026-01-01' and date '2026-02-01'",
        ENTRY_TOML,
        "columns = [\"region\"]\nwhere = \"n in (1, 2)\"\nfrom = 2026-12-01\nuntil = 2027-01-01\n",
        "{\"payloadType\":\"a\",\"payload\":\"YQ==\",\"signatures\":[{\"keyid\":\"k\",\"sig\":\"YQ==\"}]}",
        "DSSEv1 1 a 1 b",
        "a/b.txt\n登记/一.csv\nA/b.txt\n..\nc\u{202e}d",
        "transfer-00000000000000000000000007",
        "91350100M000100Y43/main",
        "440305001",
        "lingqu-invite-1:AAAA",
        "gateway.d/gateway-00000000000000000000000007\n1\nAAAA\n\n\u{2014} k AAAA\n",
    ];
    let mut all: Vec<Vec<u8>> = texts.into_iter().map(|t| t.as_bytes().to_vec()).collect();
    all.push(frames);
    let receipt = std::fs::read(root().join("docs/vectors/receipt.json")).unwrap();
    let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap();
    all.push(receipt["receipt"].as_str().unwrap().as_bytes().to_vec());
    all.push([7u64, 12_345_678, 1 << 20].iter().flat_map(|n| n.to_be_bytes()).collect());
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_panic_any_decoder(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for (_, decode) in ALL {
            decode(&bytes);
        }
    }

    #[test]
    fn no_damage_panics_any_decoder(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 0..4),
        drop in 0usize..4,
    ) {
        let mut bytes = which.get(&good()).clone();
        let at = at.index(bytes.len());
        let end = (at + drop).min(bytes.len());
        bytes.splice(at..end, with);
        for (_, decode) in ALL {
            decode(&bytes);
        }
    }
}

#[test]
fn good_inputs_pass_every_decoder() {
    for bytes in good() {
        for (_, decode) in ALL {
            decode(&bytes);
        }
    }
}

#[test]
fn every_decoder_has_a_fuzz_target() {
    let manifest = std::fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    for (name, _) in ALL {
        let target = std::fs::read_to_string(root().join(format!("fuzz/fuzz_targets/{name}.rs")));
        assert!(target.unwrap_or_default().contains("lingqu_tests::decoders::"), "fuzz/fuzz_targets/{name}.rs");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} in fuzz/Cargo.toml");
    }
    let targets = std::fs::read_dir(root().join("fuzz/fuzz_targets")).unwrap().count();
    assert_eq!(targets, ALL.len(), "a target that no property test knows");
}

#[test]
fn every_file_with_a_decoder_is_reached_by_a_target() {
    // How a decoder is called in this workspace. Words alone (`FromStr` of enums made by one macro) are not peers' bytes.
    let marks = [
        "pub fn parse(",
        "pub fn decode(",
        "pub fn from_json(",
        "pub fn from_bytes(text",
        "pub fn from_bytes(bytes: &[u8])",
        "pub fn unverified(",
        "pub fn parse_pae(",
        "pub fn next(&mut self) -> Result",
        "pub fn decode<",
        "pub fn verify_inclusion(",
        "pub fn check(&self, text",
        "impl FromStr for Digest",
        "        impl FromStr for $name",
    ];
    let names: BTreeSet<&str> = ALL.iter().map(|(name, _)| *name).collect();
    let source = root().join("protocol/src");
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let file = path.strip_prefix(&source).unwrap().to_str().unwrap();
            let has = marks.iter().any(|mark| text.contains(mark));
            let listed = WHERE.iter().find(|(name, _)| *name == file);
            assert!(!has || listed.is_some(), "{file} has a decoder that no fuzz target is said to reach");
        }
    }
    for (file, targets) in WHERE {
        assert!(source.join(file).is_file(), "{file}");
        assert!(!targets.is_empty() && targets.iter().all(|t| names.contains(t)), "{file}");
    }
}
