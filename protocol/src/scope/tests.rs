use super::*;
use proptest::prelude::*;

const APPLICATION: &str = r#"
entry = "307010/000001"
basis = "社会救助暂行办法"
scenario = "低收入家庭经济状况核对"
purposes = ["低收入家庭核对"]
columns = ["region", "credit_code"]
where = "region within '4403'"
methods = ["batch_exchange"]
networks = ["127.0.0.0/8"]
from = 2026-12-01
until = 2027-06-30
volume_bytes_max = 1_000_000_000
"#;

const ENTRY: &str = r#"
name = "个体工商户登记信息"
abstract = "a"
format = "table"
update_frequency = "daily"
sharing_class = "conditional"
conditions = "限依法履职使用"
purposes = ["低收入家庭核对"]
sharing_methods = ["batch_exchange"]
region_column = "region"
grade = "general-2"
items = [
  { name = "region", type = "string", personal = false },
  { name = "credit_code", type = "string", key = true, personal = false },
  { name = "operator_name", type = "string", personal = true },
]
"#;

fn entry() -> EntrySpec {
    EntrySpec::parse(ENTRY).unwrap()
}

fn asked() -> Scope {
    ApplicationSpec::parse(APPLICATION).unwrap().scope
}

fn errors(result: Result<(), ScopeErrors>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

#[track_caller]
fn refused(from: &str, to: &str, field: &str, part: &str) {
    assert!(APPLICATION.contains(from), "{from}");
    let error = ApplicationSpec::parse(&APPLICATION.replacen(from, to, 1)).expect_err(to);
    assert_eq!(error.field, field, "{error}");
    assert!(error.problem.contains(part), "{error}");
}

#[test]
fn the_example_is_read_whole_and_fits_its_entry() {
    let application = ApplicationSpec::parse(APPLICATION).unwrap();
    assert_eq!(application.entry, "307010/000001");
    let scope = &application.scope;
    assert_eq!(scope.columns, ["region", "credit_code"]);
    assert_eq!(scope.rows.as_ref().map(ToString::to_string).as_deref(), Some("region within '4403'"));
    assert_eq!(scope.methods, [SharingMethod::BatchExchange]);
    assert_eq!(scope.volume_bytes_max, Some(1_000_000_000));
    assert_eq!(scope.check(&entry()), Ok(()));
}

#[test]
fn days_are_days_in_china() {
    let scope = asked();
    assert_eq!(scope.starts_at().to_rfc3339(), "2026-11-30T16:00:00.000Z");
    assert_eq!(scope.ends_at().to_rfc3339(), "2027-06-30T16:00:00.000Z");
    assert!(scope.is_open_at(scope.starts_at()) && !scope.is_open_at(scope.starts_at().plus_ms(-1)));
    assert!(scope.is_open_at(scope.ends_at().plus_ms(-1)) && !scope.is_open_at(scope.ends_at()));
}

#[test]
fn a_call_comes_from_a_listed_network() {
    let mut scope = asked();
    for (address, allowed) in [("127.0.0.1", true), ("128.0.0.1", false), ("::ffff:127.0.0.1", true), ("::1", false)] {
        assert_eq!(scope.allows_network(address.parse().unwrap()), allowed, "{address}");
    }
    scope.networks.clear();
    assert!(scope.allows_network("128.0.0.1".parse().unwrap()));
}

#[test]
fn mistakes_in_the_file_are_named() {
    refused("until = 2027-06-30", "until = 2026-11-30", "until", "before 2026-12-01");
    refused("2026-12-01", "2026-12-01T00:00:00", "from", "without a time");
    refused("from = 2026-12-01", "", "from", "missing");
    refused("from = 2026-12-01", "from = \"2026-12-01\"", "from", "");
    refused("127.0.0.0/8", "127.0.0.1/8", "networks[0]", "write 127.0.0.0/8");
    refused("127.0.0.0/8", "localhost", "networks[0]", "not a network");
    refused("[\"127.0.0.0/8\"]", "[]", "networks", "empty");
    refused("region within '4403'", "region within '440300'", "where", "character 15");
    refused("batch_exchange", "fax", "methods[0]", "file_download");
    refused("\"credit_code\"", "\"region\"", "columns[1]", "twice");
    refused("1_000_000_000", "0", "volume_bytes_max", "nothing");
    refused("1_000_000_000", "-1", "volume_bytes_max", "");
    refused("basis =", "bases =", "bases", "unknown");
    refused("社会救助暂行办法", " ", "basis", "empty");
    assert_eq!(ScopeSpec::parse("entry = \"x\"").map_err(|e| e.field), Err("entry".to_owned()));
}

#[test]
fn what_the_entry_does_not_offer_is_named() {
    let mut scope = asked();
    scope.columns.push("salary".to_owned());
    scope.methods.push(SharingMethod::FileDownload);
    scope.purposes.push("招商".to_owned());
    scope.rows = Some(Predicate::parse("credit_code = 3").unwrap());
    let found = errors(scope.check(&entry()));
    for part in
        ["no column \"salary\"", "not offer file_download", "not shared for \"招商\"", "where: credit_code is string"]
    {
        assert!(found.contains(part), "{found}");
    }
    scope = asked();
    scope.columns.clear();
    assert!(errors(scope.check(&entry())).contains("list the columns"));
    let mut files = entry();
    files.format = EntryFormat::File;
    files.items.clear();
    let found = errors(asked().check(&files));
    assert!(found.contains("leave columns out") && found.contains("no condition on rows"), "{found}");
    scope.rows = None;
    assert_eq!(scope.check(&files), Ok(()));
    files.sharing_class = SharingClass::NotShared;
    assert!(errors(scope.check(&files)).contains("article 15"));
}

#[test]
fn an_answer_narrows_and_leaves_the_rest() {
    let asked = asked();
    assert_eq!(effective(&asked, None), Ok(asked.clone()));
    assert_eq!(effective(&asked, Some(&ScopeSpec::parse("").unwrap())), Ok(asked.clone()));
    let answer = ScopeSpec::parse(
        "columns = [\"region\"]\nwhere = \"credit_code is not null\"\nnetworks = [\"127.0.0.1/32\"]\nfrom = 2027-01-01\n\
         until = 2027-01-31\nvolume_bytes_max = 5",
    );
    let scope = effective(&asked, Some(&answer.unwrap())).unwrap();
    assert_eq!(scope.columns, ["region"]);
    let rows = scope.rows.as_ref().map(ToString::to_string);
    assert_eq!(rows.as_deref(), Some("region within '4403' and credit_code is not null"));
    assert_eq!((scope.purposes.clone(), scope.volume_bytes_max), (asked.purposes.clone(), Some(5)));
    assert_eq!(scope.narrows(&asked), Ok(()));
    let found = errors(asked.narrows(&scope));
    for key in ["columns", "where", "networks", "from", "until", "volume_bytes_max"] {
        assert!(found.contains(&format!("{key}: ")), "{key}: {found}");
    }
}

#[test]
fn an_answer_that_is_wider_is_refused() {
    for (answer, part) in [
        ("columns = [\"region\", \"operator_name\"]", "columns: operator_name"),
        ("purposes = [\"招商\"]", "purposes: 招商"),
        ("methods = [\"file_download\"]", "methods: file_download"),
        ("networks = [\"126.0.0.0/7\"]", "networks: 126.0.0.0/7"),
        ("networks = [\"::/0\"]", "networks: ::/0"),
        ("from = 2026-11-30", "from: 2026-11-30"),
        ("until = 2027-07-01", "until: 2027-07-01"),
        ("from = 2027-07-01", "before it begins"),
        ("volume_bytes_max = 1_000_000_001", "volume_bytes_max: 1000000001"),
    ] {
        let answer = ScopeSpec::parse(answer).unwrap();
        let found = errors(effective(&asked(), Some(&answer)).map(|_| ()));
        assert!(found.contains(part), "{part}: {found}");
    }
    let mut open = asked();
    open.networks.clear();
    open.volume_bytes_max = None;
    assert!(errors(open.narrows(&asked())).contains("networks: every network"));
    assert_eq!(asked().narrows(&open), Ok(()));
}

#[test]
fn a_condition_on_hidden_columns_is_found() {
    let predicate = Predicate::parse("operator_name = 'x' and region is not null or salary = 1").unwrap();
    assert_eq!(asked().hidden_columns(&predicate), ["operator_name", "salary"]);
}

#[test]
fn the_content_digest_changes_with_columns_and_rows_alone() {
    let base = asked();
    let mut other = asked();
    other.until = other.from;
    other.volume_bytes_max = None;
    assert_eq!(base.content_digest(), other.content_digest());
    other.columns = vec!["region".to_owned()];
    assert_ne!(base.content_digest(), other.content_digest());
    let mut joined = asked();
    joined.columns = vec!["region11:credit_code".to_owned()];
    assert_ne!(base.content_digest(), joined.content_digest());
    let mut rows = asked();
    rows.rows = None;
    assert_ne!(base.content_digest(), rows.content_digest());
    rows.columns.push("where".to_owned());
    let mut all = asked();
    all.rows = None;
    assert_ne!(all.content_digest(), rows.content_digest());
}

proptest! {
    #[test]
    fn what_an_answer_gives_is_never_wider(
        columns in prop::option::of(prop::sample::subsequence(vec!["region", "credit_code", "operator_name"], 1..=3)),
        from in prop::option::of(-30i64..300), until in prop::option::of(-30i64..300),
        volume in prop::option::of(1u64..2_000_000_000), rows in any::<bool>(),
    ) {
        let asked = asked();
        let day = |days: i64| asked.from + chrono::TimeDelta::days(days);
        let answer = ScopeSpec {
            columns: columns.map(|list| list.into_iter().map(str::to_owned).collect()),
            rows: rows.then(|| Predicate::parse("credit_code is null or region = '44'").unwrap()),
            from: from.map(day),
            until: until.map(day),
            volume_bytes_max: volume,
            ..ScopeSpec::default()
        };
        if let Ok(scope) = effective(&asked, Some(&answer)) {
            prop_assert!(scope.columns.iter().all(|c| asked.columns.contains(c)));
            prop_assert!(scope.from >= asked.from && scope.until <= asked.until && scope.from <= scope.until);
            prop_assert!(scope.volume_bytes_max <= asked.volume_bytes_max);
            prop_assert_eq!(scope.narrows(&asked), Ok(()));
            prop_assert!(scope.rows.is_some_and(|rows| rows.to_string().starts_with("region within '4403'")));
        }
    }

    #[test]
    fn no_text_panics(at in 0usize..400, cut in 0usize..12, put in "\\PC{0,6}|[\\x00-\\x7f]{0,6}") {
        let chars: Vec<char> = APPLICATION.chars().collect();
        let at = at.min(chars.len());
        let text: String = chars[..at].iter().copied().chain(put.chars()).chain(chars.iter().skip(at + cut).copied()).collect();
        if let Err(error) = ApplicationSpec::parse(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
        let _ = ScopeSpec::parse(&text);
    }
}
