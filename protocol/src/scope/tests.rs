use super::*;
use proptest::prelude::*;

const APPLICATION: &str = include_str!("../../fixtures/application.toml");

const ENTRY: &str = include_str!("../../fixtures/entry.toml");

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
    assert_eq!(scope.volume_bytes_max, Some(1_000_000));
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
fn an_agent_is_listed_or_none_is() {
    let scope = nested();
    let name = |text: &str| AgentName::parse(text).unwrap();
    assert!(scope.allows_agent(&name("main")) && !scope.allows_agent(&name("other")));
    assert!(asked().allows_agent(&name("other")));
}

#[test]
fn rows_are_those_of_the_condition_within_the_regions() {
    let text = |scope: &Scope| scope.rows_of(&entry()).unwrap().map(|rows| rows.to_string());
    let regions = nested().regions;
    let mut scope = asked();
    assert_eq!(text(&scope).as_deref(), Some("region within '4403'"));
    scope.regions = regions.clone();
    let both = text(&scope).unwrap();
    assert!(both.starts_with("region within '4403' and ") && both.contains(&regions[0].to_string()), "{both}");
    scope.rows = None;
    let within = text(&scope).unwrap();
    assert!(within.contains(&regions[0].to_string()) && !within.contains(" and "), "{within}");
    scope.regions.clear();
    assert_eq!(text(&scope), None);
    let mut without = entry();
    without.region_column = None;
    assert_eq!(Scope { regions, ..asked() }.rows_of(&without), Err(ScopeError::NoRegions));
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
    refused("1_000_000", "0", "volume_bytes_max", "at least 1");
    refused("1_000_000", "-1", "volume_bytes_max", "");
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

/// An entry with a structure, and an application for it that uses every key.
const NESTED: &str = r#"
entry = "307010/000001"
basis = "b"
scenario = "s"
purposes = ["低收入家庭核对"]
columns = ["region", "address", "credit_code"]
regions = ["4403", "441900"]
agents = ["main", "night-1"]
methods = ["batch_exchange"]
from = 2026-12-01
until = 2027-06-30
rate_bytes_per_second_max = 1_000_000
requests_per_day_max = 24

[transforms]
credit_code = "pseudonym"
address.city = "mask(1,0)"
"#;

fn nested_entry() -> EntrySpec {
    let item = |(name, of): (&str, &str)| format!("[[items]]\nname = \"{name}\"\ntype = \"{of}\"\npersonal = true\n\n");
    let items = [("address.city", "string"), ("address.at.street", "string"), ("addressee", "bool")].map(item).concat();
    EntrySpec::parse(&ENTRY.replacen("[[items]]", &format!("{items}[[items]]"), 1)).unwrap()
}

fn nested() -> Scope {
    ApplicationSpec::parse(NESTED).unwrap().scope
}

fn answer(scope: &str) -> Result<Scope, ScopeErrors> {
    effective(&nested(), Some(&ScopeSpec::parse(scope).unwrap()))
}

#[test]
fn a_structure_is_its_leaves_at_the_time() {
    let (scope, entry) = (nested(), nested_entry());
    assert_eq!(scope.check(&entry), Ok(()));
    let resolved = scope.resolved(&entry);
    assert_eq!(resolved.columns, ["region", "address.city", "address.at.street", "credit_code"]);
    assert_eq!(resolved.resolved(&entry), resolved);
    assert!(resolved.is_in_clear("address.at.street") && !resolved.is_in_clear("address.city"));
    for name in ["address", "address.at", "addressee", "Address.city", "credit_code"] {
        assert!(!resolved.is_in_clear(name), "{name}");
    }
    let mut twice = scope;
    twice.columns.insert(0, "address.city".to_owned());
    assert_eq!(twice.resolved(&entry).columns, ["address.city", "region", "address.at.street", "credit_code"]);
    twice.columns.push("address.at.number".to_owned());
    assert!(errors(twice.check(&entry)).contains("no column \"address.at.number\""));
}

#[test]
fn what_is_dropped_is_not_delivered_and_what_is_changed_is_not_in_clear() {
    let scope = answer("[transforms]\naddress.at = \"drop\"").unwrap().resolved(&nested_entry());
    assert_eq!(scope.delivered().collect::<Vec<_>>(), ["region", "address.city", "credit_code"]);
    let predicate = Predicate::parse(
        "region is not null or address.city = 'x' or address.at.street = 'y' or credit_code = 'z' or \"REGION\" = '1'",
    );
    assert_eq!(
        scope.hidden_columns(&predicate.unwrap()),
        ["REGION", "address.at.street", "address.city", "credit_code"]
    );
}

#[test]
fn mistakes_of_the_newer_keys_are_named() {
    for (from, to, field, part) in [
        ("\"441900\"", "\"440300\"", "regions[1]", "write 4403"),
        ("\"441900\"", "\"4403\"", "regions[1]", "twice"),
        ("[\"4403\", \"441900\"]", "[]", "regions", "empty"),
        ("\"night-1\"", "\"Night\"", "agents[1]", "a-z"),
        ("1_000_000", "65_535", "rate_bytes_per_second_max", "at least 65536"),
        ("requests_per_day_max = 24", "requests_per_day_max = 0", "requests_per_day_max", "at least 1"),
        ("\"pseudonym\"", "\"hash\"", "transforms.credit_code", "mask(PREFIX,SUFFIX)"),
        ("\"pseudonym\"", "3", "transforms.credit_code", "expected a text"),
        ("credit_code = \"pseudonym\"", "\"address.city\" = \"drop\"", "transforms.address.city", "twice"),
    ] {
        assert!(NESTED.contains(from), "{from}");
        let error = ApplicationSpec::parse(&NESTED.replacen(from, to, 1)).expect_err(to);
        assert_eq!(error.field, field, "{error}");
        assert!(error.problem.contains(part), "{error}");
    }
    assert!(ScopeSpec::parse("[transforms]").is_err(), "an empty table could mean all or nothing");
    let deep = (0..TRANSFORM_DEPTH_MAX).map(|i| format!("a{i}")).collect::<Vec<_>>().join(".");
    assert!(ScopeSpec::parse(&format!("[transforms]\n{deep} = \"drop\"")).is_ok());
    assert!(ScopeSpec::parse(&format!("[transforms]\n{deep}.b = \"drop\"")).is_err());
}

#[test]
fn what_the_entry_does_not_take_is_named() {
    let mut scope = nested();
    scope.columns.push("addressee".to_owned());
    scope.transforms =
        ScopeSpec::parse("[transforms]\naddressee = \"pseudonym\"\nsalary = \"drop\"\n\"address.att\" = \"drop\"")
            .unwrap()
            .transforms
            .unwrap();
    let found = errors(scope.check(&nested_entry()));
    for part in
        ["addressee is bool, and pseudonym takes strings and whole", "\"salary\" is not", "\"address.att\" is not"]
    {
        assert!(found.contains(part), "{part}: {found}");
    }
    let all = nested().columns.iter().map(|c| format!("{c} = \"drop\"\n")).collect::<String>();
    let all = answer(&format!("[transforms]\n{all}address.city = \"drop\"").replace("address =", "address.at ="));
    assert!(errors(all.unwrap().check(&nested_entry())).contains("every column is dropped"));
    let mut flat = nested_entry();
    flat.region_column = None;
    assert!(errors(nested().check(&flat)).contains("no region column"));
}

#[test]
fn each_newer_key_has_its_order() {
    for narrower in [
        "",
        "regions = [\"440304\"]",
        "regions = [\"441900\", \"440304001\"]",
        "agents = [\"main\"]",
        "rate_bytes_per_second_max = 999_999",
        "requests_per_day_max = 24",
        "columns = [\"address.at.street\"]",
        "columns = [\"address.at\", \"region\"]",
        "[transforms]\nregion = \"mask\"",
        "[transforms]\naddress.city = \"mask\"\ncredit_code = \"drop\"\naddress.at.street = \"pseudonym\"",
    ] {
        let scope = answer(narrower).unwrap_or_else(|e| panic!("{narrower}: {e}"));
        assert_eq!(scope.narrows(&nested()), Ok(()), "{narrower}");
    }
    for (wider, part) in [
        ("regions = [\"4403\", \"4419\"]", "regions: 4419"),
        ("regions = [\"44\"]", "regions: 44"),
        ("agents = [\"main\", \"other\"]", "agents: other"),
        ("rate_bytes_per_second_max = 1_000_001", "rate_bytes_per_second_max: 1000001"),
        ("requests_per_day_max = 25", "requests_per_day_max: 25"),
        ("columns = [\"addressee\"]", "columns: addressee"),
        ("[transforms]\ncredit_code = \"mask\"", "credit_code mask instead of pseudonym"),
        ("[transforms]\naddress.city = \"mask(1,1)\"", "address.city mask(1,1) instead of mask(1,0)"),
        ("columns = [\"region\"]\n[transforms]\ncredit_code = \"drop\"", "\"credit_code\" is not among"),
    ] {
        let found = errors(answer(wider).map(|_| ()));
        assert!(found.contains(part), "{wider}: {found}");
    }
    let mut open = nested();
    (open.regions, open.agents, open.transforms) = (Vec::new(), Vec::new(), Transforms::default());
    (open.rate_bytes_per_second_max, open.requests_per_day_max) = (None, None);
    let found = errors(open.narrows(&nested()));
    for part in [
        "regions: every region",
        "agents: every agent",
        "rate_bytes_per_second_max: no bound",
        "requests_per_day_max: no bound",
        "credit_code in clear instead of pseudonym",
        "address.city in clear",
    ] {
        assert!(found.contains(part), "{part}: {found}");
    }
    assert_eq!(nested().narrows(&open), Ok(()));
}

#[test]
fn a_days_requests_are_counted_in_china() {
    let midnight = nested().starts_at();
    assert_eq!(day_of(midnight), day_of(midnight.plus_ms(-1)) + 1);
    assert_eq!(day_of(midnight), day_of(midnight.plus_ms(DAY_MS - 1)));
    assert_eq!(day_of(Timestamp(i64::MAX)), day_of(Timestamp(i64::MAX - 1)), "no end of time panics");
    assert_eq!(day_of(Timestamp(0)), 0);
    assert_eq!(day_of(Timestamp(-CST_AHEAD_MS - 1)), -1);
}

#[test]
fn the_content_digest_changes_with_transforms_and_regions() {
    let base = nested();
    let mut other = nested();
    other.agents.clear();
    other.requests_per_day_max = None;
    assert_eq!(base.content_digest(), other.content_digest());
    other.regions.pop();
    assert_ne!(base.content_digest(), other.content_digest());
    let mut clear = nested();
    clear.transforms = Transforms::default();
    assert_ne!(base.content_digest(), clear.content_digest());
    // What stands in one list cannot be read as part of the next.
    clear.columns.push("credit_code=pseudonym".to_owned());
    assert_ne!(base.content_digest(), clear.content_digest());
}

proptest! {
    #[test]
    fn no_text_of_every_key_panics(at in 0usize..500, cut in 0usize..12, put in "\\PC{0,6}|[\\x00-\\x7f]{0,6}") {
        let chars: Vec<char> = NESTED.chars().collect();
        let at = at.min(chars.len());
        let text: String = chars[..at].iter().copied().chain(put.chars()).chain(chars.iter().skip(at + cut).copied()).collect();
        if let Ok(spec) = ApplicationSpec::parse(&text) {
            let scope = spec.scope.resolved(&nested_entry());
            prop_assert_eq!(scope.narrows(&spec.scope), Ok(()), "leaves are within their structures");
            let _ = scope.check(&nested_entry());
            let _ = scope.content_digest();
        }
    }

    #[test]
    fn a_chain_of_answers_only_narrows(
        keys in prop::collection::vec((prop::sample::subsequence(vec![
            "regions = [\"440304\"]", "regions = [\"4403\"]", "agents = [\"main\"]", "requests_per_day_max = 3",
            "rate_bytes_per_second_max = 70_000", "columns = [\"address.city\", \"credit_code\"]",
        ], 0..4), prop::option::of(prop::sample::select(vec![
            "address = \"drop\"", "address.city = \"mask\"", "address.city = \"drop\"", "credit_code = \"drop\"",
        ]))), 1..4),
    ) {
        let mut scope = nested();
        for (lines, transform) in keys {
            let table = transform.map_or(String::new(), |t| format!("[transforms]\n{t}\n"));
            let Ok(spec) = ScopeSpec::parse(&format!("{}\n{table}", lines.join("\n"))) else { continue };
            if let Ok(next) = effective(&scope, Some(&spec)) {
                prop_assert_eq!(next.narrows(&scope), Ok(()));
                prop_assert_eq!(next.narrows(&nested()), Ok(()));
                for column in &next.resolved(&nested_entry()).columns {
                    prop_assert!(Transform::narrows(next.transforms.of(column), scope.transforms.of(column)));
                }
                scope = next;
            }
        }
    }

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
