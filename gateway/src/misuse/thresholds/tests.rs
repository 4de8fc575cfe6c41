use super::*;

#[derive(Deserialize)]
struct File {
    misuse: Thresholds,
}

#[test]
fn the_file_that_init_writes_says_the_defaults() {
    let written: File = toml::from_str(TEMPLATE).unwrap();
    assert_eq!(written.misuse, Thresholds::default());
    written.misuse.check().unwrap();
    // A rule's section that is left out, and a key of it, have their own rule's defaults.
    let partly: File = toml::from_str("[misuse.scope_probing]\ndifferent = 30\n").unwrap();
    assert_eq!(partly.misuse.scope_probing.different, 30);
    assert_eq!(partly.misuse.two_places, Thresholds::default().two_places);
}

#[test]
fn values_under_which_a_rule_cannot_work_are_refused_by_name() {
    for (text, part) in [
        ("[misuse.scope_repeated]\ncount = 0", "scope_repeated.count"),
        ("[misuse.scope_repeated]\ncount = 100000", "scope_repeated.count"),
        ("[misuse.joining]\naction = \"cut_grant\"", "joining"),
        ("[misuse.departure]\naction = \"cut_agency\"", "departure"),
        ("[misuse.two_places]\nnetwork_bits_v4 = 0", "network_bits_v4"),
        ("[misuse]\nconfirm_within_hours = 0", "confirm_within_hours"),
        ("[misuse]\nrules = [\"backflow_late\"]", "backflow_late"),
    ] {
        let file: File = toml::from_str(text).unwrap();
        assert!(file.misuse.check().unwrap_err().contains(part), "{text}");
    }
    for text in [
        "[misuse]\nobserv_only = true",
        "[misuse.departure]\naction = \"stop\"",
        "[misuse.unknown]",
        "[misuse]\nrules = [\"all\"]",
    ] {
        assert!(toml::from_str::<File>(text).is_err(), "{text}");
    }
}

#[test]
fn every_value_has_its_bounds() {
    const WEEK: u32 = 7 * 24 * 60;
    let kept = DENIALS_KEPT_MAX as u32;
    for (section, key, least, most) in [
        ("", "confirm_within_hours", 1u32, 24 * 30),
        ("", "quiet_hours", 0, 24 * 365),
        ("", "open_days", 1, 365),
        ("", "sample_seconds", 1, 300),
        ("scope_repeated", "count", 1, kept),
        ("scope_repeated", "minutes", 1, WEEK),
        ("purpose_not_approved", "count", 1, kept),
        ("purpose_not_approved", "minutes", 1, WEEK),
        ("use_after_expiry", "count", 1, kept),
        ("use_after_expiry", "minutes", 1, WEEK),
        ("scope_probing", "different", 2, kept),
        ("scope_probing", "minutes", 1, WEEK),
        ("over_approved", "count", 1, kept),
        ("over_approved", "minutes", 1, WEEK),
        ("over_approved", "measured_percent", 101, 1_000),
        ("departure", "days_min", 3, 35),
        ("departure", "deviations", 3, 1_000),
        ("departure", "largest_times", 1, 1_000),
        ("departure", "quiet_weeks", 2, 200),
        ("two_places", "turns", 2, 16),
        ("two_places", "minutes", 1, 24 * 60),
        ("two_places", "network_bits_v4", 8, 32),
        ("two_places", "network_bits_v6", 16, 128),
        ("enumeration", "different", 10, 2_000),
        ("enumeration", "minutes", 2, 24 * 60),
        ("enumeration", "missing_keys", 16 << 10, 4 << 20),
        ("enumeration", "different_keys", 256 << 10, 64 << 20),
    ] {
        let is_taken = |value: u32| {
            let table = if section.is_empty() { "misuse".to_owned() } else { format!("misuse.{section}") };
            let file: File = toml::from_str(&format!("[{table}]\n{key} = {value}\n")).unwrap();
            file.misuse.check().is_ok()
        };
        let below = least.checked_sub(1).map(is_taken);
        let around = (below, is_taken(least), is_taken(most), is_taken(most + 1));
        assert_eq!(around, (least.checked_sub(1).map(|_| false), true, true, false), "{section}.{key}");
    }
}

#[test]
fn a_rule_that_is_not_named_does_not_work_and_it_is_said() {
    assert!(Thresholds::default().left_out().is_empty());
    let of = |text: &str| toml::from_str::<File>(text).unwrap().misuse;
    let some = of("[misuse]\nrules = [\"departure\", \"joining\"]");
    some.check().unwrap();
    assert!(some.works(Rule::Departure) && !some.works(Rule::TwoPlaces));
    assert_eq!(some.left_out().len(), 7);
    let none = of("[misuse]\nrules = []");
    none.check().unwrap();
    assert_eq!(none.left_out(), Thresholds::default().rules);
}

#[test]
fn a_place_is_a_network_or_a_group_of_them() {
    let text = "[misuse.two_places]\nsame_place = [[\"192.0.2.0/24\", \"198.51.100.0/24\"]]";
    let file: File = toml::from_str(text).unwrap();
    let place = |address: &str| file.misuse.place(address.parse().unwrap()).unwrap().to_string();
    assert_eq!(place("10.1.2.3"), "10.1.2.0/24");
    assert_eq!(place("::ffff:10.1.2.9"), "10.1.2.0/24");
    assert_eq!(place("2001:db8:1:2::3"), "2001:db8:1::/48");
    assert_eq!((place("198.51.100.7"), place("192.0.2.1")), ("192.0.2.0/24".into(), "192.0.2.0/24".into()));
    assert!(toml::from_str::<File>("[misuse.two_places]\nsame_place = [[\"here\"]]").is_err());
}

#[test]
fn places_are_some_networks_and_no_directory() {
    let network = Network("10.0.0.0/24".parse().unwrap());
    for (groups, networks, is_taken) in
        [(PLACES_MAX, 1, true), (PLACES_MAX + 1, 1, false), (1, PLACES_MAX, true), (1, PLACES_MAX + 1, false)]
    {
        let two_places = TwoPlaces { same_place: vec![vec![network; networks]; groups], ..TwoPlaces::default() };
        let checked = Thresholds { two_places, ..Thresholds::default() }.check();
        assert_eq!(checked.is_ok(), is_taken, "{groups} of {networks}: {checked:?}");
    }
}
