use super::*;
use clap::CommandFactory as _;
use clap::error::ErrorKind;

fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once(&"lingqu").chain(line))
}

fn refused(line: &[&str]) -> ErrorKind {
    parse(line).expect_err("must be refused").kind()
}

const APPLICATION: &str = "application-00000000000000000000000007";

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_design_is_understood() {
    let grant = "grant-00000000000000000000000007";
    let transfer = "transfer-00000000000000000000000007";
    let lines: &[&[&str]] = &[
        &["--profile", "p", "join", "x"],
        &["join", "x", "--request", "f"],
        &["join", "x", "--certificate", "f"],
        &["status"],
        &["doctor", "--json"],
        &["renew"],
        &["officer", "request", "--agency", "C", "--name", "N", "--role", "office-head", "--out", "o"],
        &["inbox"],
        &["catalogue", "submit", "f", "--key", "o"],
        &["catalogue", "review", "e", "--approve", "--code", "307010/000001", "--key", "o"],
        &["catalogue", "review", "e", "--return", "why", "--prepare", "f"],
        &["catalogue", "list"],
        &["catalogue", "show", "e"],
        &["apply", "f", "--key", "o", "--valid-days", "30"],
        &["application", "list"],
        &["application", "show", "a"],
        &["application", "answer", APPLICATION, "--approve", "--key", "o"],
        &["answer", APPLICATION, "--approve", "--scope", "s", "--key", "o"],
        &["answer", APPLICATION, "--refuse", "why", "--key", "o"],
        &["grant", "list"],
        &["grant", "show", "g"],
        &["grant", "suspend", grant, "--reason", "why"],
        &["grant", "reinstate", grant, "--reason", "why", "--key", "o"],
        &["grant", "terminate", grant, "--reason", "why", "--prepare", "f"],
        &["grant", "rectify", grant, "--by", "2026-12-31", "--reason", "why", "--key", "o"],
        &["findings", "list"],
        &["findings", "show", "f"],
        &["findings", "confirm", "finding-00000000000000000000000007", "--reason", "why", "--key", "o"],
        &["findings", "lift", "finding-00000000000000000000000007", "--reason", "why", "--prepare", "f"],
        &["backflow-list", "publish", "f", "--key", "o"],
        &["backflow-list", "revoke", "list-00000000000000000000000007", "--reason", "why", "--prepare", "p"],
        &["backflow-list", "list"],
        &["backflow-list", "show", "l"],
        &["standing-order", "list"],
        &["standing-order", "show", "o"],
        &[
            "standing-order",
            "issue",
            "--rule",
            "enumeration",
            "--rule",
            "two_places",
            "--strongest",
            "cut_agent",
            "--until",
            "2027-01-31",
            "--reason",
            "why",
            "--key",
            "o",
        ],
        &["standing-order", "withdraw", "order-00000000000000000000000007", "--reason", "why", "--key", "o"],
        &["sign", "f", "--key", "o", "--out", "s"],
        &["send", "s"],
        &["verify", "s", "--signer", "c"],
        &["push", "batch", "e", "a", "b", "--mode", "append", "--check"],
        &["push", "file", "e", "a", "--queue", "--idempotency-key", "2026-11-21", "--receipt", "r"],
        &["pull", "g", "--version", "3", "--columns", "a,b", "--where", "x = 1", "--region", "44", "--out", "-"],
        &["pull", "g", "--file", "a", "b", "--purpose", "p", "--out", "o"],
        &["query", "g", "--key", "K"],
        &["query", "e", "--key", "a=1", "--key", "b=-2", "--columns", "c,d", "--purpose", "p", "--version", "3"],
        &["match", "g", "keys.csv", "--out", "o.parquet", "--keys-encoding", "gb18030", "--delimiter", "tab"],
        &["backflow", "307010/000001", "--out", "d", "--follow"],
        &["backflow", "e", "--out", "d", "--format", "csv", "--once", "--max-age", "26h"],
        &["backflow", "e", "--out", "-", "--columns", "a,b"],
        &["backflow", "e", "--exec", "cat", "--format", "arrow"],
        &["backflow", "e", "--postgres", "postgres://h/d", "--table", "s.t"],
        &["reconcile", "e"],
        &["reconcile", "e", "--out", "d", "--at", "3"],
        &["agent", "run"],
        &["service", "install", "--dry-run", "--user", "u", "--name", "n", "--unit-dir", "d"],
        &["transfer", "list"],
        &["transfer", "show", transfer],
        &["transfer", "resume", transfer],
        &["transfer", "cancel", transfer],
        &["receipt", "verify", "f", "--trust", "t"],
    ];
    for line in lines {
        if let Err(error) = parse(line) {
            panic!("{line:?}: {error}");
        }
    }
}

#[test]
fn an_act_needs_one_signer_and_one_decision() {
    let missing = ErrorKind::MissingRequiredArgument;
    assert_eq!(refused(&["apply", "f"]), missing);
    assert_eq!(refused(&["apply", "f", "--key", "o", "--prepare", "p"]), ErrorKind::ArgumentConflict);
    assert_eq!(refused(&["answer", APPLICATION, "--key", "o"]), missing);
    let both = ["answer", APPLICATION, "--approve", "--refuse", "why", "--key", "o"];
    assert_eq!(refused(&both), ErrorKind::ArgumentConflict);
    let scope = ["answer", APPLICATION, "--refuse", "why", "--scope", "s", "--key", "o"];
    assert!(parse(&scope).is_err(), "a refusal has no scope");
    assert_eq!(refused(&["catalogue", "review", "e", "--key", "o"]), missing);
}

#[test]
fn bounds_and_ids_are_checked_where_they_are_read() {
    assert_eq!(refused(&["apply", "f", "--key", "o", "--valid-days", "31"]), ErrorKind::ValueValidation);
    assert_eq!(refused(&["apply", "f", "--key", "o", "--valid-days", "0"]), ErrorKind::ValueValidation);
    assert_eq!(refused(&["answer", "grant-7", "--approve", "--key", "o"]), ErrorKind::ValueValidation);
    assert_eq!(refused(&["transfer", "show", "x"]), ErrorKind::ValueValidation);
    assert_eq!(refused(&["pull", "g", "--version", "0", "--out", "o"]), ErrorKind::ValueValidation);
    assert_eq!(refused(&["push", "file", "e"]), ErrorKind::MissingRequiredArgument);
    let grant = "grant-00000000000000000000000007";
    let rectify = ["grant", "rectify", grant, "--by", "31.12.2026", "--reason", "why", "--key", "o"];
    assert_eq!(refused(&rectify), ErrorKind::ValueValidation);
    let order = ["standing-order", "issue", "--rule", "all", "--strongest", "cut_grant", "--until", "2027-01-31"];
    assert_eq!(refused(&[&order[..], &["--reason", "w", "--key", "o"]].concat()), ErrorKind::ValueValidation);
}

#[test]
fn columns_are_cut_at_commas() {
    let cli = parse(&["pull", "g", "--columns", "a,b", "--out", "o"]).unwrap();
    assert!(matches!(cli.command, Command::Pull(PullArgs { columns, .. }) if columns == ["a", "b"]));
}

#[test]
fn help_teaches_with_examples() {
    let mut command = Cli::command();
    for name in ["join", "apply", "answer", "sign", "pull", "query", "match"] {
        let help = command.find_subcommand_mut(name).unwrap().render_long_help().to_string();
        assert!(help.contains("Example"), "{name}: {help}");
    }
    assert!(command.render_help().to_string().contains("Exit codes"));
}
