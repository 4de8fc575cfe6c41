//! What people type, and what they are told when it was not right.

use lingqu_tests::world::{World, shared, text};

#[test]
fn an_agency_is_changed_by_agency_change_and_by_nothing_else() {
    let world = World::new();
    let gateway = &world.gateway;
    let (root, code) = (gateway.root().to_str().unwrap(), world.authority.code.as_str());
    let show = || gateway.run(["agency", "show", code]).ok();
    let standing = show();
    let name = text(&standing, "name");
    // Forgetting --authority would have taken the catalogue's review from it.
    let add = ["agency", "add", code, "--name", name, "--region", "44:province", "--root", root];
    let error = gateway.run(add).fails(3);
    assert_eq!(text(&error, "word"), "agency_exists");
    assert!(text(&error, "text").contains("authority") && text(&error, "next").contains("agency change"), "{error}");
    assert_eq!(show(), standing);
    let again = [&add[..], &["--authority"]].concat();
    assert_eq!(gateway.run(again).ok()["authority"], true, "the same again is no change");
    assert_eq!(show(), standing);

    let change = ["agency", "change", code, "--root", root, "--name", "政务服务和数据管理局", "--duty", "目录审核"];
    let changed = gateway.run(change).ok();
    assert_eq!((&changed["authority"], text(&changed, "name")), (&true.into(), "政务服务和数据管理局"));
    assert_eq!(changed["duties"], serde_json::json!(["目录审核"]));
    assert_eq!(text(&changed, "region"), "44");
    let changed = gateway.run(["agency", "change", code, "--root", root, "--no-authority", "--no-duty"]).ok();
    assert_eq!((&changed["authority"], &changed["duties"]), (&false.into(), &serde_json::json!([])));
    gateway.run(["agency", "change", code, "--root", root]).fails_usage();
    gateway.run(["ledger", "verify"]).ok();
    gateway.run(["check"]).ok();

    let line = |name: &str| format!("code,name,region,level,duties,parent,authority\n{code},{name},44,province,,,\n");
    let import = |name: &str| {
        let file = world.file("agencies.csv", line(name));
        gateway.run(["agency", "import", file.to_str().unwrap(), "--root", root])
    };
    import("政务服务和数据管理局").ok();
    assert!(text(&import("另一名称").fails(3), "text").contains("line 2"));
}

#[test]
fn a_stop_of_nobody_says_where_to_look() {
    let world = shared();
    let nobody = format!("{}/nobody", world.other.code);
    let error = world.gateway.run(["stop", "--agent", &nobody, "--reason", "r"]).fails(3);
    assert!(text(&error, "next").contains("agent list"), "{error}");
    let error = world.gateway.run(["invite", &world.agency_nobody_has(), "--agent", "a"]).fails(3);
    assert!(text(&error, "next").contains("agency list"), "{error}");
}

#[test]
fn a_receipt_without_a_profile_asks_for_the_roots_key() {
    let world = shared();
    let mut command = world.requester.agent.command(["receipt", "verify", "none.json"]);
    command.env_remove("LINGQU_PROFILE");
    let error = lingqu_tests::world::Running::start(command).wait().fails(2);
    assert!(text(&error, "next").contains("--trust") && text(&error, "next").contains("root.pub"), "{error}");
}

#[test]
fn what_a_pull_asks_for_is_judged_before_it_is_asked() {
    let world = shared();
    let pull = |more: &[&str]| world.requester.agent.run([&["pull", &world.table.grant, "--out", "-"], more].concat());
    for (more, part) in [
        (["--where", "staff >"], "character 8"),
        (["--where", "region within '440300'"], "4403"),
        (["--region", "999999"], "999999"),
        (["--columns", "region,,staff"], "name 2"),
        (["--columns", "region,staff,region"], "name 3"),
    ] {
        let error = pull(&more).fails(2);
        assert!(text(&error, "text").contains(more[0]) && text(&error, "text").contains(part), "{more:?}: {error}");
    }
    assert!(world.requester.agent.transfers("queued").is_empty(), "nothing is written down for it");
    // What only the entry can tell: a text against a number.
    let error = pull(&["--where", "staff = 'many'"]).fails(2);
    assert_eq!(text(&error, "word"), "bad_predicate");
    pull(&["--columns", "region,note"]).fails(3);
}

#[test]
fn a_cut_that_was_not_recorded_is_recorded_at_the_next_start() {
    let mut world = World::stopped();
    // As a gateway leaves it whose disk was full when it was told to stop.
    let file = world.gateway.dir().join("unrecorded-cuts");
    let cut = serde_json::json!({ "selector": "all", "reason": "磁盘已满时的阻断", "since": 1 });
    std::fs::write(&file, format!("{cut}\n{}", " ".repeat(100))).unwrap();
    world.gateway.start();
    let out = world.path("rows.parquet");
    let error = world.requester.agent.run(["pull", &world.table.grant, "--out", out.to_str().unwrap()]).fails(4);
    assert_eq!(text(&error, "word"), "suspended", "{error}");
    let stops = world.gateway.run(["check"]).ok()["stops"].clone();
    assert_eq!((text(&stops[0], "id"), text(&stops[0], "reason")), ("all", "磁盘已满时的阻断"));
    assert!(stops[0].get("unrecorded").is_none(), "it is recorded now: {stops}");
    assert!(std::fs::read_to_string(&file).unwrap().trim().is_empty());
    world.gateway.resume(&["--all"], "已排除");
    world.gateway.restart();
    world.requester.agent.run(["status"]).ok();

    world.gateway.terminate();
    std::fs::write(&file, "{\"selector\":").unwrap();
    let error = world.gateway.run(["serve", "--http", "127.0.0.1:0"]).fails(5);
    assert_eq!(text(&error, "word"), "cuts_unreadable");
}
