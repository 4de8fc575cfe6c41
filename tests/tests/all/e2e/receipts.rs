//! Receipts: kept by both parties, checked offline, worthless once changed.

use lingqu_certs::key::PublicKey;
use lingqu_protocol::receipt::Receipt;
use lingqu_tests::world::{Agent, seeded_bytes, shared, text};

#[test]
fn both_receipts_verify_offline_and_no_byte_can_be_changed() {
    let world = shared();
    let at = world.new_files();
    let file = world.file("f", seeded_bytes(1, 5_000));
    let copy = world.path("receipt.json");
    let args = ["push", "file", &at.entry, file.to_str().unwrap(), "--receipt", copy.to_str().unwrap()];
    let pushed = world.provider.agent.run(args).ok();
    let out = world.path("out/");
    let pulled = world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();

    let kept = world.provider.agent.receipt(text(&pushed, "id"));
    let bytes = std::fs::read(&kept).unwrap();
    assert_eq!(std::fs::read(&copy).unwrap(), bytes);
    let verify = |agent: &Agent, file: &std::path::Path| agent.run(["receipt", "verify", file.to_str().unwrap()]);
    let valid = verify(&world.provider.agent, &kept).ok();
    assert_eq!(valid["valid"], true);
    assert!(text(&valid, "cosigned_by").starts_with("ed25519:"), "both parties signed it");
    let theirs = world.requester.agent.receipt(text(&pulled, "id"));
    let valid = verify(&world.requester.agent, &theirs).ok();
    assert_eq!(valid["statement"]["grant"]["id"], at.grant.as_str());

    // An auditor has the root's key and no profile.
    let trust = world.gateway.root().join("root.pub");
    let auditor = Agent::new(world.path("no-profile"));
    let args = ["receipt", "verify", kept.to_str().unwrap(), "--trust", trust.to_str().unwrap()];
    assert_eq!(auditor.run(args).ok()["valid"], true);

    // Every bit of every byte by the function, and one of the bytes by the command.
    let root: PublicKey = std::fs::read_to_string(&trust).unwrap().trim().parse().unwrap();
    let valid =
        |bytes: &[u8]| Receipt::from_json(bytes).is_ok_and(|r| lingqu_certs::receipt::verify(&r, &root).is_ok());
    assert!(valid(&bytes));
    for place in 0..bytes.len() {
        for bit in [0, 5] {
            let mut bad = bytes.clone();
            bad[place] ^= 1 << bit;
            assert!(!valid(&bad), "bit {bit} of byte {place}: {}", String::from_utf8_lossy(&bad));
        }
    }
    let mut bad = bytes.clone();
    let place = String::from_utf8_lossy(&bytes).find("\"bytes\":5000").unwrap() + "\"bytes\":".len();
    bad[place] = b'6';
    let changed = world.file("changed.json", bad);
    verify(&world.provider.agent, &changed).fails(5);
}
