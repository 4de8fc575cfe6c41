use super::*;
use crate::entry::EntrySpec;
use crate::region::RegionTable;
use proptest::prelude::*;

const TYPES: &str = r#"
name = "t"
abstract = "a"
format = "table"
update_frequency = "daily"
sharing_class = "unconditional"
sharing_methods = ["batch_exchange"]
region_column = "region"
grade = "general-1"
items = [
  { name = "region", type = "string", personal = false },
  { name = "i", type = "int32", personal = false },
  { name = "l", type = "int64", personal = false },
  { name = "f", type = "float64", personal = false },
  { name = "money", type = "decimal(5,2)", personal = false },
  { name = "date", type = "date", personal = false },
  { name = "at", type = "timestamp", personal = false },
  { name = "b", type = "bool", personal = false },
  { name = "raw", type = "binary", personal = false },
  { name = "经营者 姓名", type = "string", personal = true },
]
"#;

fn entry() -> EntrySpec {
    EntrySpec::parse(TYPES).unwrap()
}

/// The canonical text of `text`, or what is wrong with it.
fn canonical(text: &str) -> String {
    match Predicate::parse(text) {
        Ok(predicate) => predicate.to_string(),
        Err(error) => error.to_string(),
    }
}

fn mistakes(text: &str) -> String {
    match Predicate::parse(text).unwrap().check(&entry()) {
        Ok(_) => String::new(),
        Err(mistakes) => mistakes.to_string(),
    }
}

#[test]
fn each_form_has_one_text() {
    for (given, text) in [
        ("region within '4403'", "region within '4403'"),
        ("a=1 AND b<>2 Or c >= -3.50", "a = 1 and b != 2 or c >= -3.50"),
        ("((a = 1)) and (b = 2 or c = 3)", "a = 1 and (b = 2 or c = 3)"),
        ("(a = 1 and b = 2) and c = 3", "(a = 1 and b = 2) and c = 3"),
        ("not (a = 1 and b = 2)", "not (a = 1 and b = 2)"),
        ("not not (a = 1)", "not not a = 1"),
        ("a is  NULL or a is not null", "a is null or a is not null"),
        ("a in ('x','it''s')", "a in ('x', 'it''s')"),
        ("a not in (1)", "not a in (1)"),
        ("a not between 1 and 2 and b = true", "not a between 1 and 2 and b = true"),
        (
            "date between date '2026-01-01' and date '2026-12-31'",
            "date between date '2026-01-01' and date '2026-12-31'",
        ),
        ("t < timestamp '2026-01-31T08:00:00.120Z'", "t < timestamp '2026-01-31T08:00:00.12Z'"),
        ("\"and\" = 1 and \"a\"\"b\" = 2 and \"c\" = 3", "\"and\" = 1 and \"a\"\"b\" = 2 and c = 3"),
        ("姓名 = '张三'", "姓名 = '张三'"),
        ("\"e\u{301}\" = 1", "é = 1"),
        ("address.city = 'x' and \"address.2nd\" is null", "address.city = 'x' and \"address.2nd\" is null"),
        ("\"address.city\" = 'x'", "address.city = 'x'"),
        ("a = -0", "a = 0"),
        ("a = 007.10", "a = 7.10"),
    ] {
        assert_eq!(canonical(given), text);
        assert_eq!(canonical(text), text);
    }
}

#[test]
fn an_error_says_where_and_what_was_expected() {
    for (given, part) in [
        ("", "character 1: expected a column"),
        ("a", "character 2: expected a comparison"),
        ("a = ", "character 5: expected a value"),
        ("姓名 = 张三", "character 6: expected a value"),
        ("a = 1 b = 2", "character 7: expected `and`, `or` or the end, found `b`"),
        ("(a = 1", "character 7: expected `and`, `or` or `)`, found the end"),
        ("a = 1)", "character 6: expected `and`, `or` or the end"),
        ("a = 'x", "character 5: this quote never closes"),
        ("a in ()", "character 7: expected a value"),
        ("a between 1 or 2", "character 13: expected `and`"),
        ("a is 3", "character 6: expected `null`"),
        ("a = date '2026-02-30'", "character 10: not a day"),
        ("a = date '2026-2-3'", "character 10: not a day"),
        ("a = timestamp '2026-01-01 00:00:00'", "character 15: not a point in time"),
        ("a within '440300'", "character 10: 440300 is 4403 filled up"),
        ("a within '99'", "character 10: 99 is not in the table"),
        ("a within 4403", "character 10: expected a region code"),
        ("a. = 1", "character 2: expected a column"),
        ("a..b = 1", "character 2: expected a column"),
        ("a.1 = 1", "character 2: expected a column"),
        ("a = 1.", "character 5: expected a number"),
        ("a = 1e5", "character 5: expected a number"),
        ("a = --1", "character 5: expected a number"),
        ("a = 123456789012345678901234567890123456789", "character 5: a number has at most 38"),
        ("a = 1; drop table x", "character 6: expected a column, a value, a word or a sign, found ';'"),
        ("1 = 1", "character 1: expected a column"),
        ("\"\" = 1", "character 1: expected a column"),
        ("not", "character 4: expected a column"),
    ] {
        let got = canonical(given);
        assert!(got.starts_with(part), "{given}: {got}");
    }
}

#[test]
fn bombs_are_refused() {
    let terms = |n: usize| vec!["a = 1"; n].join(" or ");
    assert!(Predicate::parse(&terms(TERMS_MAX)).is_ok());
    let problem = |text: &str| Predicate::parse(text).map_err(|e| e.problem);
    assert_eq!(problem(&terms(10_000)), Err(PredicateProblem::TooLong));
    assert_eq!(problem(&terms(TERMS_MAX + 1)), Err(PredicateProblem::TooManyTerms));
    assert_eq!(problem(&vec!["a=1"; 10_000].join(" or ")[..60_000]), Err(PredicateProblem::TooManyTerms));
    assert_eq!(problem(&format!("a in ({})", vec!["1"; 10_000].join(","))), Err(PredicateProblem::TooManyTerms));
    let nested = |open: &str, n: usize, close: &str| format!("{}a = 1{}", open.repeat(n), close.repeat(n));
    assert!(Predicate::parse(&nested("(", DEPTH_MAX, ")")).is_ok());
    assert!(Predicate::parse(&nested("not ", DEPTH_MAX, "")).is_ok());
    assert_eq!(problem(&nested("(", DEPTH_MAX + 1, ")")), Err(PredicateProblem::TooDeep));
    assert_eq!(problem(&nested("(", 10_000, ")")), Err(PredicateProblem::TooDeep));
    assert_eq!(problem(&nested("not ", 10_000, "")), Err(PredicateProblem::TooDeep));
    let sugar = format!("{}a not in (1)", "not ".repeat(DEPTH_MAX));
    assert_eq!(problem(&sugar), Err(PredicateProblem::TooDeep));
}

#[test]
fn values_take_the_type_of_their_column() {
    let value = |text: &str| match Predicate::parse(text).unwrap().check(&entry()) {
        Ok(TypedPredicate::Compare { value, .. }) => value,
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(value("i = -2147483648"), Value::Int32(i32::MIN));
    assert_eq!(value("i = 3.00"), Value::Int32(3));
    assert_eq!(value("l > 9223372036854775807"), Value::Int64(i64::MAX));
    assert_eq!(value("f = 0.1"), Value::Float64(0.1));
    assert_eq!(value("money <= 1.5"), Value::Decimal(150));
    assert_eq!(value("money <= -999.99"), Value::Decimal(-99_999));
    assert_eq!(value("date = date '1969-12-31'"), Value::Date(-1));
    assert_eq!(value("at = timestamp '1970-01-01T00:00:01.5Z'"), Value::Timestamp(1_500_000));
    assert_eq!(value("\"经营者 姓名\" = 'x'"), Value::String("x".to_owned()));
}

#[test]
fn every_mistake_of_type_is_named() {
    let found = mistakes("i = 2147483648 and money = 0.001 and nobody = 1 and date = '2026-01-01'");
    for part in [
        "i is int32, which cannot hold 2147483648",
        "money is decimal(5,2), which cannot hold 0.001",
        "no column \"nobody\"",
        "date is date, and '2026-01-01' is not: write date '2026-01-31'",
    ] {
        assert!(found.contains(part), "{found}");
    }
    for (text, part) in [
        ("money < 1000", "cannot hold"),
        ("i = 1.5", "cannot hold"),
        ("i in (1, 'x', 2.5)", "i is int32, and 'x' is not"),
        ("b < true", "no order"),
        ("b between false and true", "no order"),
        ("raw = 'x'", "bytes are not compared"),
        ("i within '44'", "region codes are strings"),
        ("at = date '2026-01-01'", "at is timestamp"),
        ("Region = '44'", "no column"),
    ] {
        assert!(mistakes(text).contains(part), "{text}: {}", mistakes(text));
    }
    assert_eq!(mistakes("b = true and raw is null and region is not null"), "");
}

#[test]
fn null_means_what_it_means_in_sql() {
    let row = |place: usize| match place {
        0 => Value::String("440305".to_owned()),
        1 => Value::Int32(5),
        3 => Value::Float64(f64::NAN),
        4 => Value::Decimal(150),
        _ => Value::Null,
    };
    for (text, expected) in [
        ("i = 5", Some(true)),
        ("l = 5", None),
        ("not l = 5", None),
        ("l != 5", None),
        ("l = 5 or i = 5", Some(true)),
        ("l = 5 and i = 5", None),
        ("l = 5 and i = 6", Some(false)),
        ("l is null", Some(true)),
        ("l is not null", Some(false)),
        ("l in (1, 2)", None),
        ("i in (1, 5)", Some(true)),
        ("i not in (1, 2)", Some(true)),
        ("i between 5 and 6", Some(true)),
        ("i between 6 and 5", Some(false)),
        ("money = 1.5", Some(true)),
        ("f > 1", Some(true)),
        ("f = 1", Some(false)),
        ("region within '4403'", Some(true)),
        ("region within '440305'", Some(true)),
        ("region within '4404'", Some(false)),
        ("\"经营者 姓名\" within '44'", None),
    ] {
        let typed = Predicate::parse(text).unwrap().check(&entry()).unwrap();
        assert_eq!(typed.eval_row(&row), expected, "{text}");
    }
    // A value that is no region is let out by neither the condition nor its opposite.
    for value in ["440300", "99", ""] {
        for text in ["region within '44'", "region not within '44'"] {
            let typed = Predicate::parse(text).unwrap().check(&entry()).unwrap();
            assert_eq!(typed.eval_row(&|_| Value::String(value.to_owned())), None, "{text} {value}");
        }
    }
    assert!(compare_floats(-0.0, 0.0).is_eq() && compare_floats(f64::NAN, -f64::NAN).is_eq());
    assert!(compare_floats(f64::INFINITY, -f64::NAN).is_lt() && compare_floats(f64::NAN, 1.0).is_gt());
}

#[test]
fn columns_are_listed_once() {
    let predicate = Predicate::parse("b = true and (i = 1 or not b = false) and region within '44'").unwrap();
    assert_eq!(predicate.columns(), ["b", "i", "region"]);
    assert_eq!(predicate.check(&entry()).unwrap().columns(), [0, 1, 7]);
    let both = Predicate::parse("a = 1 or b = 2").unwrap().and(&Predicate::parse("c = 3 and d = 4").unwrap());
    assert_eq!(both.to_string(), "(a = 1 or b = 2) and c = 3 and d = 4");
    assert_eq!(Predicate::parse(&both.to_string()), Ok(both));
}

fn literal() -> impl Strategy<Value = Literal> {
    let digits = 10i128.pow(37);
    prop_oneof![
        "\\PC{0,6}|['\"]{1,3}|[\\x00-\\x20]{1,3}".prop_map(Literal::String),
        (-digits..digits, 0u8..=38).prop_map(|(unscaled, scale)| Literal::Number(Number { unscaled, scale })),
        (-9i128..9, 0u8..=3).prop_map(|(unscaled, scale)| Literal::Number(Number { unscaled, scale })),
        any::<bool>().prop_map(Literal::Bool),
        (-719_528..2_932_896i32).prop_map(Literal::Date),
        (-62_167_219_200_000_000..253_402_300_800_000_000i64).prop_map(Literal::Timestamp),
    ]
}

fn name() -> impl Strategy<Value = String> {
    use unicode_normalization::UnicodeNormalization;
    prop_oneof!["[a-c]", "and|NOT|date|timestamp|null|In", "[\"' ().\\pL]{1,4}", "\\PC{1,4}"]
        .prop_map(|name| name.nfc().collect::<String>())
}

fn term() -> impl Strategy<Value = Expr> {
    use CompareOp::*;
    let regions = ["44", "4403", "441900", "110101001", "110101001001"];
    prop_oneof![
        (name(), prop::sample::select(vec![Eq, Ne, Lt, Le, Gt, Ge]), literal())
            .prop_map(|(column, op, value)| Expr::Compare { column, op, value }),
        (name(), prop::collection::vec(literal(), 1..4)).prop_map(|(column, values)| Expr::In { column, values }),
        (name(), literal(), literal()).prop_map(|(column, low, high)| Expr::Between { column, low, high }),
        (name(), any::<bool>()).prop_map(|(column, negated)| Expr::IsNull { column, negated }),
        (name(), prop::sample::select(regions.to_vec())).prop_map(|(column, region)| Expr::Within {
            column,
            region: RegionTable::national().check(region).unwrap(),
        }),
    ]
}

fn nest(leaf: impl Strategy<Value = Expr> + 'static) -> impl Strategy<Value = Expr> {
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::Or),
            inner.prop_map(|inner| Expr::Not(Box::new(inner))),
        ]
    })
}

/// Conditions that type, over few values so that they meet the rows.
fn typed() -> impl Strategy<Value = Expr> {
    let int = (-2i128..3).prop_map(|unscaled| Literal::Number(Number { unscaled, scale: 0 }));
    let text =
        prop::sample::select(vec!["44", "4403", "440305", "45", "x"]).prop_map(|s| Literal::String(s.to_owned()));
    let of = |names: &'static [&'static str], value: BoxedStrategy<Literal>| {
        use CompareOp::*;
        let names = prop::sample::select(names.to_vec()).prop_map(str::to_owned);
        prop_oneof![
            (names.clone(), prop::sample::select(vec![Eq, Ne, Lt, Le, Gt, Ge]), value.clone())
                .prop_map(|(column, op, value)| Expr::Compare { column, op, value }),
            (names.clone(), prop::collection::vec(value.clone(), 1..3))
                .prop_map(|(column, values)| Expr::In { column, values }),
            (names.clone(), value.clone(), value).prop_map(|(column, low, high)| Expr::Between { column, low, high }),
            (names, any::<bool>()).prop_map(|(column, negated)| Expr::IsNull { column, negated }),
        ]
    };
    let within = prop::sample::select(vec!["44", "4403", "45"]).prop_map(|region| Expr::Within {
        column: "region".to_owned(),
        region: RegionTable::national().check(region).unwrap(),
    });
    nest(prop_oneof![of(&["i", "f"], int.boxed()), of(&["region"], text.boxed()), within])
}

/// Rows of region, i and f.
fn rows() -> impl Strategy<Value = Vec<[Value; 3]>> {
    let region = prop::sample::select(vec!["", "44", "4403", "440305", "440300", "45", "x"]);
    let region =
        prop::option::weighted(0.8, region).prop_map(|r| r.map_or(Value::Null, |r| Value::String(r.to_owned())));
    let i = prop::option::weighted(0.8, -2i32..3).prop_map(|i| i.map_or(Value::Null, Value::Int32));
    let f = prop::sample::select(vec![-2.0, -0.0, 0.0, 1.0, f64::NAN, f64::INFINITY]);
    let f = prop::option::weighted(0.8, f).prop_map(|f| f.map_or(Value::Null, Value::Float64));
    prop::collection::vec((region, i, f).prop_map(|(region, i, f)| [region, i, f]), 1..4)
}

fn place(column: usize) -> usize {
    [0, 1, 3].iter().position(|c| *c == column).unwrap()
}

/// Statistics as a file has them: NaN left out.
fn stats(rows: &[[Value; 3]], column: usize) -> ColumnStats {
    let values = || rows.iter().map(|row| row[place(column)].clone()).filter(|v| *v != Value::Null);
    let bounded = || values().filter(|v| !matches!(v, Value::Float64(f) if f.is_nan()));
    ColumnStats {
        min: bounded().min_by(|a, b| a.compare(b).unwrap()),
        max: bounded().max_by(|a, b| a.compare(b).unwrap()),
        may_be_null: values().count() < rows.len(),
        may_be_value: values().count() > 0,
    }
}

proptest! {
    #[test]
    fn the_text_of_a_tree_parses_to_the_same_tree(expr in nest(term())) {
        let text = expr.to_string();
        prop_assert_eq!(Predicate::parse(&text).map(|p| p.expr).map_err(|e| format!("{text}: {e}")), Ok(expr));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}|([a-c(),=<>'\" 0-9.-]|and|or|not|in|is|null|between|within|date){0,30}") {
        if let Ok(predicate) = Predicate::parse(&text) {
            prop_assert_eq!(Predicate::parse(&predicate.to_string()), Ok(predicate.clone()));
            let _ = predicate.check(&entry());
        }
    }

    #[test]
    fn pruning_never_loses_a_row(expr in typed(), rows in rows()) {
        let typed = types::check(&expr, &entry()).unwrap();
        let selected = rows.iter().any(|row| typed.eval_row(&|column| row[place(column)].clone()) == Some(true));
        let may = typed.may_match(&|column| stats(&rows, column));
        prop_assert!(may || !selected, "{expr}");
        prop_assert!(typed.may_match(&|_| ColumnStats::UNKNOWN) || !selected);
    }

    #[test]
    fn a_comparison_of_one_known_value_is_pruned_exactly(i in -2i32..3, rows in -2i32..3) {
        let typed = Predicate::parse(&format!("i = {i} or i > {i} and region is not null")).unwrap();
        let typed = typed.check(&entry()).unwrap();
        let bound = Some(Value::Int32(rows));
        let stats = ColumnStats { min: bound.clone(), max: bound, may_be_null: false, may_be_value: true };
        prop_assert_eq!(typed.may_match(&|_| stats.clone()), rows >= i);
    }

    #[test]
    fn days_and_times_round_trip(days in -719_528..2_932_896i32, micros in -62_167_219_200_000_000..253_402_300_800_000_000i64) {
        prop_assert_eq!(parse_date(&date_text(days)), Some(days));
        prop_assert_eq!(parse_timestamp(&timestamp_text(micros)), Some(micros));
    }

    #[test]
    fn no_day_or_time_panics(text in "[0-9TZ:.+-]{0,30}|\\PC{0,10}") {
        let _ = (parse_date(&text), parse_timestamp(&text));
    }
}

#[test]
fn within_is_pruned_on_either_side_of_a_region() {
    let typed = Predicate::parse("region within '4403'").unwrap().check(&entry()).unwrap();
    for (min, max, may) in [
        ("440300", "440399", true),
        ("110000", "650000", true),
        ("110000", "440299", false),
        ("440403", "650000", false),
        ("4403", "4403", true),
    ] {
        let bound = |text: &str| Some(Value::String(text.to_owned()));
        let stats = ColumnStats { min: bound(min), max: bound(max), may_be_null: false, may_be_value: true };
        assert_eq!(typed.may_match(&|_| stats.clone()), may, "{min} to {max}");
    }
}

#[test]
fn a_condition_moves_to_other_places_or_not_at_all() {
    let typed = |text: &str| Predicate::parse(text).unwrap().check(&entry()).unwrap();
    let text = "region within '44' and not (i = 1 or l in (2, 3)) and f is null";
    let moved = typed(text).moved(&|place| Some(place + 10)).unwrap();
    assert_eq!(moved.columns(), [10, 11, 12, 13]);
    assert_eq!(moved.moved(&|place| place.checked_sub(10)), Some(typed(text)));
    assert_eq!(typed(text).moved(&|place| (place != 2).then_some(place)), None);
}

#[test]
fn within_any_of_none_is_nothing() {
    let any = |codes: &[&str]| {
        let codes: Vec<_> = codes.iter().map(|code| RegionTable::national().check(code).unwrap()).collect();
        Predicate::within_any("region", &codes).check(&entry()).unwrap()
    };
    let eval = |typed: &TypedPredicate, code: &str| typed.eval_row(&|_| Value::String(code.to_owned()));
    for (codes, code, selected) in [
        (&["4403"][..], "440304", Some(true)),
        (&["4403", "441900"], "441900", Some(true)),
        (&["4403", "441900"], "4419", Some(false)),
        (&["4403", "441900"], "440300", None),
        (&[], "440304", Some(false)),
    ] {
        assert_eq!(eval(&any(codes), code), selected, "{codes:?} {code}");
    }
}
