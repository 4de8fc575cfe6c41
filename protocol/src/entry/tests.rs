//! Tests of [`super`], beside it because the file of rules is long enough.

use super::*;
use proptest::prelude::*;

pub(crate) const MARKETS: &str = concat!("\ncode = \"307010/000001\"\n", include_str!("../../fixtures/entry.toml"));

/// What reading `MARKETS` gives after replacing `from` by `to`; the replacement must happen.
fn changed(from: &str, to: &str) -> Result<EntrySpec, SpecError> {
    assert!(MARKETS.contains(from), "{from}");
    EntrySpec::parse(&MARKETS.replacen(from, to, 1))
}

#[track_caller]
fn refused(from: &str, to: &str, field: &str, part: &str) {
    let error = changed(from, to).expect_err(to);
    assert_eq!(error.field, field, "{error}");
    assert!(error.problem.contains(part), "{error}");
}

#[test]
fn the_example_is_read_whole() {
    let entry = EntrySpec::parse(MARKETS).unwrap();
    assert_eq!(entry.code.as_ref().map(EntryCode::as_str), Some("307010/000001"));
    assert_eq!(entry.sharing_methods.len(), 1);
    assert_eq!(entry.region_column, Some(0));
    assert_eq!(entry.grade, Grade::General2);
    let got: Vec<_> = entry.items.iter().map(|i| (i.name.as_str(), i.key, i.grade, i.personal, i.nullable)).collect();
    assert_eq!(
        got,
        [
            ("region", false, Grade::General1, false, false),
            ("credit_code", true, Grade::General2, false, false),
            ("operator_name", false, Grade::General3, true, true),
        ]
    );
    assert_eq!(entry.key_columns().collect::<Vec<_>>(), [1]);
}

#[test]
fn an_error_says_line_column_and_field() {
    let error = changed("type = \"string\"", "type = \"text\"").expect_err("text");
    assert_eq!((error.line, error.column, error.field.as_str()), (16, 8, "items[0].type"));
    let error = changed("\ngrade = \"general-2\"\n", "\ngrade = \"general-2\"\nsize = 3\n").expect_err("size");
    assert_eq!((error.line, error.column, error.field.as_str()), (13, 1, "size"));
    let error = changed("name = \"个体工商户登记信息\"", "").expect_err("name");
    assert_eq!(error.field, "name");
    let error = changed("key = true", "key = \"yes\"").expect_err("yes");
    assert_eq!((error.line, error.field.as_str()), (23, "key"));
    let error = changed("format = \"table\"", "format = ").expect_err("no value");
    assert_eq!(error.line, 5);
}

#[test]
fn each_sharing_class_has_its_own_keys() {
    refused("conditions = \"限依法履职使用\"", "", "conditions", "conditional");
    refused("purposes = [\"低收入家庭核对\"]", "", "purposes", "conditional");
    refused("\"conditional\"", "\"unconditional\"", "conditions", "article 14");
    let terms = "sharing_class = \"conditional\"\nconditions = \"限依法履职使用\"\npurposes = [\"低收入家庭核对\"]";
    assert!(changed(terms, "sharing_class = \"unconditional\"").is_ok());
    refused(terms, "sharing_class = \"unconditional\"\npurposes = [\"a\"]", "purposes", "article 14");
    refused(terms, "sharing_class = \"not_shared\"", "sharing_methods", "remove");
    let methods = "sharing_methods = [\"batch_exchange\"]";
    refused(methods, "", "sharing_methods", "add");
    let both = format!("{terms}\n{methods}");
    refused(&both, "sharing_class = \"not_shared\"", "not_shared_reason", "article 15");
    let why = |kind: &str| {
        format!(
            "sharing_class = \"not_shared\"\nnot_shared_reason = \"r\"\nnot_shared_basis_kind = \"{kind}\"\n\
             not_shared_basis = \"《统计法》第九条\""
        )
    };
    assert!(changed(&both, &why("law")).is_ok_and(|e| e.not_shared.is_some_and(|n| n.kind == BasisKind::Law)));
    refused(&both, &why("department_rule"), "not_shared_basis_kind", "state_council_decision");
    refused(terms, &format!("{terms}\nnot_shared_reason = \"r\""), "not_shared_reason", "remove");
}

#[test]
fn secrets_stay_out() {
    refused("format =", "secret = true\nformat =", "secret", "article 3");
    refused("format =", "state_secret = true\nformat =", "state_secret", "article 3");
    refused("key = true", "key = true\nsecret = true", "items[1].secret", "article 3");
    assert!(changed("format =", "secret = false\nformat =").is_ok());
}

#[test]
fn items_keep_to_their_rules() {
    refused("\"operator_name\"", "\"Region\"", "items[2].name", "case");
    refused("\"operator_name\"", "\"a\\u202Eb\"", "items[2].name", "U+202E");
    refused("\"operator_name\"", "\"e\\u0301\"", "items[2].name", "NFC");
    refused("\"operator_name\"", "\" a\"", "items[2].name", "space");
    refused("\"operator_name\"", "\"\"", "items[2].name", "empty");
    refused("region_column = \"region\"", "region_column = \"regio\"", "region_column", "no item");
    refused("type = \"string\"", "type = \"int32\"", "region_column", "strings");
    refused("type = \"string\"", "type = \"string\"\nnullable = true", "region_column", "nullable");
    refused("key = true", "key = true\nnullable = true", "items[1].nullable", "key");
    refused("personal = true", "", "personal", "missing");
    let head = MARKETS.split("[[items]]").next().unwrap();
    assert_eq!(EntrySpec::parse(head).map_err(|e| e.field), Err("items".to_owned()));
    assert!(changed("region_column = \"region\"\n", "").is_ok_and(|e| e.region_column.is_none()));
}

#[test]
fn an_entry_of_files_has_no_columns() {
    refused("\"table\"", "\"file\"", "items", "files");
    let head = MARKETS.split("[[items]]").next().unwrap().replace("\"table\"", "\"file\"");
    assert_eq!(EntrySpec::parse(&head).map_err(|e| e.field), Err("region_column".to_owned()));
    let entry = EntrySpec::parse(&head.replace("region_column = \"region\"", "")).unwrap();
    assert_eq!((entry.format, entry.items.len()), (EntryFormat::File, 0));
}

#[test]
fn too_much_is_refused() {
    let head = MARKETS.split("[[items]]").next().unwrap().replace("region_column = \"region\"", "");
    let with = |n: usize| {
        let items = (0..n).map(|i| format!("[[items]]\nname = \"c{i}\"\ntype = \"bool\"\npersonal = false\n"));
        EntrySpec::parse(&(head.clone() + &items.collect::<String>()))
    };
    assert!(with(ITEMS_MAX).is_ok_and(|e| e.items.len() == ITEMS_MAX));
    assert_eq!(with(ITEMS_MAX + 1).map_err(|e| e.field), Err("items".to_owned()));
    let long = format!("name = \"{}\"", "a".repeat(crate::spec::SPEC_BYTES_MAX));
    assert!(EntrySpec::parse(&long).is_err_and(|e| e.problem.contains("bytes")));
    assert!(EntrySpec::parse(&format!("name = {}", "[".repeat(100_000))).is_err());
}

#[test]
fn codes_and_types_have_one_form() {
    for good in ["307010/000001", "107010/1", "3070101234/000001"] {
        assert!(good.parse::<EntryCode>().is_ok(), "{good}");
    }
    for bad in ["", "307010", "407010/000001", "30701/000001", "307010/", "307010/00000a", "307010/1/2", "３07010/1"] {
        assert!(bad.parse::<EntryCode>().is_err(), "{bad}");
    }
    assert_eq!("decimal(15, 2)".parse(), Ok(ItemType::Decimal(15, 2)));
    for bad in ["decimal", "decimal()", "decimal(0,0)", "decimal(39,0)", "decimal(3,4)", "decimal(+3,1)", "decimal(3)"]
    {
        assert!(bad.parse::<ItemType>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn types_round_trip(digits in 1u8..=38, scale in 0u8..=38, plain in 0usize..8) {
        use ItemType::*;
        let plain = [String, Int32, Int64, Float64, Date, Timestamp, Bool, Binary][plain];
        for item_type in [plain, Decimal(digits, scale.min(digits))] {
            prop_assert_eq!(item_type.to_string().parse(), Ok(item_type));
        }
    }

    #[test]
    fn no_text_panics(at in 0usize..900, cut in 0usize..12, put in "\\PC{0,6}|[\\x00-\\x7f]{0,6}") {
        let chars: Vec<char> = MARKETS.chars().collect();
        let at = at.min(chars.len());
        let tail = chars.iter().skip(at + cut);
        let text: std::string::String = chars[..at].iter().copied().chain(put.chars()).chain(tail.copied()).collect();
        if let Err(error) = EntrySpec::parse(&text) {
            prop_assert!(error.line <= text.lines().count() + 1 && !error.to_string().is_empty());
        }
    }
}
