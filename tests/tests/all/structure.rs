//! The shape of the workspace: who may import whom, what every limit must have, what the READMEs must say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file below `dir` with its path from the root; none is an error of the test itself.
fn sources(dir: &str) -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&root().join(dir), &mut paths);
    assert!(!paths.is_empty(), "{dir} has no sources");
    let named = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        (name, fs::read_to_string(path).unwrap())
    };
    paths.into_iter().map(named).collect()
}

/// The part of a file that ships: comments and what follows `#[cfg(test)]` are left out.
fn product(name: &str, text: &str) -> String {
    if name.contains("tests") || name.contains("testing") || name.contains("contract") {
        return String::new();
    }
    let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code = |line: &&str| !line.trim_start().starts_with("//");
    shipped.lines().filter(code).collect::<Vec<_>>().join("\n")
}

/// Fails where what ships of `dir` holds one of `words`.
fn holds_none(dir: &str, words: &[&str]) {
    for (name, text) in sources(dir) {
        let code = product(&name, &text);
        for word in words {
            assert!(!code.contains(word), "{name} must not use {word}");
        }
    }
}

#[test]
fn the_gateways_data_path_imports_one_way() {
    let above = |module: &str| format!("crate::{module}::");
    let rules: [(&str, &[&str]); 6] = [
        ("lake", &["edge", "gate", "flow", "registry", "state", "ledger", "app", "admin"]),
        ("gate", &["edge", "flow", "lake", "registry", "state", "ledger", "misuse", "app", "admin"]),
        ("flow", &["edge", "misuse", "app", "admin"]),
        ("edge", &["app", "admin"]),
        ("registry", &["edge", "flow", "lake", "misuse", "app", "admin"]),
        ("misuse", &["edge", "flow", "lake", "ledger", "app", "admin"]),
    ];
    for (module, forbidden) in rules {
        let words: Vec<String> = forbidden.iter().map(|word| above(word)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        holds_none(&format!("gateway/src/{module}"), &words);
    }
}

#[test]
fn the_gate_knows_no_transport_no_database_and_no_store() {
    holds_none("gateway/src/gate", &["quinn", "sqlx", "object_store", "tokio::net", "std::fs"]);
}

#[test]
fn the_protocol_does_no_io() {
    let io =
        ["tokio", "std::fs", "std::net::Tcp", "std::net::Udp", "std::env", "SystemTime", "Instant::now", "std::thread"];
    holds_none("protocol/src", &io);
    let manifest = read("protocol/Cargo.toml");
    let shipped = manifest.split("[dev-dependencies]").next().unwrap();
    for name in ["tokio", "quinn", "rustls", "sqlx", "object_store"] {
        assert!(!shipped.contains(&format!("\n{name}")), "protocol must not depend on {name}");
    }
}

#[test]
fn an_agent_and_a_gateway_do_not_know_each_other() {
    assert!(!read("agent/Cargo.toml").contains("lingqu-gateway"));
    assert!(!read("gateway/Cargo.toml").contains("lingqu-agent"));
    // The harness sees the programs from outside. A decision is shorter than a message to another process, thousands of
    // streams are more than a machine has room for processes, and a query is shorter than the start of a program: those
    // four call into them.
    for (name, text) in sources("bench/src") {
        let inside = |word: &str, places: &[&str]| !text.contains(word) || places.iter().any(|p| name.contains(p));
        assert!(inside("lingqu_gateway::", &["decide/"]), "{name} looks into the gateway");
        assert!(inside("lingqu_agent::", &["revocation/", "fanout/", "lookups.rs"]), "{name} looks into the agent");
    }
}

/// The heads of the functions of `text` that other modules can call, each on one line.
fn heads(text: &str) -> Vec<String> {
    let mut heads = Vec::new();
    for (at, _) in text.match_indices("pub async fn ").chain(text.match_indices("pub fn ")) {
        let end = text[at..].find('{').map_or(text.len(), |end| at + end);
        heads.push(text[at..end].split_whitespace().collect::<Vec<_>>().join(" "));
    }
    heads
}

#[test]
fn data_moves_only_under_a_permit() {
    let mut seen = 0;
    for (name, text) in sources("gateway/src/flow") {
        for head in heads(&product(&name, &text)) {
            // What is handed both the flow and a peer's streams can move data between them.
            if head.contains("flow: &Arc<Flow>") && head.contains("wires:") {
                seen += 1;
                assert!(head.contains("Permit"), "{name}: `{head}` moves data and asks for no permit");
            }
        }
    }
    assert!(seen >= 5, "two pushes, a pull and two ways of serving move data: {seen} were found");
}

#[test]
fn a_permit_can_be_neither_copied_nor_made_elsewhere() {
    let permit = read("gateway/src/gate/permit.rs");
    let (before, after) = permit.split_once("pub struct PullPermit").unwrap();
    assert!(!before.rsplit("\n\n").next().unwrap().contains("Clone"), "a permit must not be cloned");
    assert!(after.contains("pub(super) fn new("), "only the gate makes permits");
    assert!(!after.contains("pub fn new("), "only the gate makes permits");
}

#[test]
fn every_limit_says_its_reason() {
    let mut limits = 0;
    for dir in ["protocol/src", "certs/src", "gateway/src", "agent/src", "bench/src"] {
        for (name, text) in sources(dir) {
            let lines: Vec<&str> = text.lines().collect();
            for (i, line) in lines.iter().enumerate() {
                let Some((_, after)) = line.split_once("const ") else { continue };
                let ident = after.split(':').next().unwrap_or_default();
                if line.trim_start().starts_with("//") || !ident.ends_with("_MAX") {
                    continue;
                }
                limits += 1;
                let above = lines[..i].iter().rev().find(|line| !line.trim_start().starts_with("#["));
                let documented = above.is_some_and(|line| line.trim_start().starts_with("///"));
                assert!(documented, "{name}: {ident} has no reason above it");
            }
        }
    }
    assert!(limits > 40, "{limits} limits were found");
}

/// Constants at the top of a file, with their values.
fn constants(text: &str) -> BTreeMap<String, String> {
    let is_item = |line: &&str| line.starts_with("const ") || line.starts_with("pub");
    let starts = text.lines().filter(is_item).filter_map(|line| line.split_once("const ").map(|(_, after)| after));
    let named = starts.filter_map(|after| after.split_once(':').map(|(name, _)| name));
    let valued = named.filter_map(|name| {
        let declared = text.split(&format!("const {name}:")).nth(1)?;
        let (_, value) = declared.split_once(';')?.0.split_once('=')?;
        Some((name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
    });
    valued.collect()
}

#[test]
fn the_table_of_limits_is_what_the_source_says() {
    let operations = read("docs/OPERATIONS.md");
    let table =
        operations.split("<!-- limits: begin -->").nth(1).unwrap().split("<!-- limits: end -->").next().unwrap();
    let mut listed = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").map(|cell| cell.trim_matches(['|', '`', ' '])).collect();
        let [name, file, value, ..] = cells[..] else { panic!("not a row: {row}") };
        assert_eq!(constants(&read(file)).get(name).map(String::as_str), Some(value), "{name} of {file}");
        listed.insert((file.to_owned(), name.to_owned()));
    }
    for dir in ["protocol/src", "certs/src", "gateway/src", "agent/src"] {
        for (file, text) in sources(dir).into_iter().filter(|(file, _)| !file.contains("test")) {
            for name in constants(&text).into_keys().filter(|name| name.ends_with("_MAX")) {
                assert!(
                    listed.contains(&(file.clone(), name.clone())),
                    "{name} of {file} is not in docs/OPERATIONS.md"
                );
            }
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_but_for_one_call() {
    let workspace = read("Cargo.toml");
    assert!(workspace.contains("unsafe_code = \"forbid\""));
    for member in ["protocol", "certs", "gateway", "agent", "bench", "tests"] {
        let manifest = read(&format!("{member}/Cargo.toml"));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{member} does not take the workspace's lints");
    }
    // What calls it has its reason beside it.
    let memory = read("memory/src/lib.rs");
    let calls: Vec<&str> = memory.lines().filter(|line| line.contains("unsafe {")).collect();
    assert_eq!(calls, ["    let given = unsafe { libc::malloc_trim(0) };"]);
    assert!(read("memory/Cargo.toml").contains("unsafe_code = \"deny\""));
}

#[test]
fn the_readmes_hold_the_two_commands_and_integration_runs_the_second() {
    for name in ["README.md", "README.zh-CN.md"] {
        let text = read(name);
        for command in ["\ndeploy/demo\n", "\ndeploy/test\n"] {
            assert!(text.contains(command), "{name} does not hold {command:?} on a line of its own");
        }
    }
    assert!(read(".ci/run").contains("deploy/test"));
    let deny = read("deny.toml");
    for name in ["aws-lc-rs", "aws-lc-sys", "openssl-sys", "native-tls"] {
        assert!(deny.contains(&format!("crate = \"{name}\"")), "{name} is not banned");
    }
    let lock = read("Cargo.lock");
    assert!(!lock.contains("name = \"aws-lc"), "a second provider of cryptography is in Cargo.lock");
}

#[test]
fn documentation_names_every_close_code_with_its_number() {
    let page = read("docs/PROTOCOL.md");
    for code in lingqu_protocol::close::CloseCode::ALL {
        let row = format!("| 0x{:02x} | ", code.code());
        let line = page.lines().find(|line| line.starts_with(&row));
        let line = line.unwrap_or_else(|| panic!("{code:?} is not documented"));
        assert!(line.ends_with(&format!("| {} |", code.exit_code())), "{code:?}: {line}");
    }
}
