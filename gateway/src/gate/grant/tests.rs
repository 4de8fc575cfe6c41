use super::*;
use lingqu_protocol::scope::{ApplicationSpec, ScopeSpec};

fn entry(edition: u64) -> EntryInForce {
    let spec = EntrySpec::parse(include_str!("../../../../protocol/fixtures/entry.toml")).unwrap();
    let provider = "91350100M000100Y43".parse().unwrap();
    let view = EntryView { id: EntryId::from_bits(1), code: None, provider, spec: Arc::new(spec), published: true };
    EntryInForce::new(Edition::new(edition), view)
}

fn view(number: u128, change: impl FnOnce(&mut Scope)) -> GrantView {
    let text = include_str!("../../../../protocol/fixtures/application.toml");
    let mut scope = ApplicationSpec::parse(text).unwrap().scope;
    change(&mut scope);
    GrantView {
        id: GrantId::from_bits(number),
        entry: EntryId::from_bits(1),
        requester: "91512081MA62K0260E".parse().unwrap(),
        scope: Arc::new(scope),
        status: GrantStatus::InForce,
        digest: Digest::blake3(b"answer"),
    }
}

fn keep(parts: &mut Parts, view: &GrantView) -> Grant {
    parts.keep(view, Some(&entry(1)))
}

#[test]
fn nothing_of_a_scope_is_lost() {
    let mut parts = Parts::default();
    for change in [
        (|_| {}) as fn(&mut Scope),
        |s| s.rows = None,
        |s| s.networks.clear(),
        |s| s.networks.push("10.0.0.0/8".parse().unwrap()),
        |s| s.networks = vec!["2001:db8::/32".parse().unwrap()],
        |s| s.networks = ["2001:db8::/32", "10.0.0.0/8", "192.0.2.0/24"].map(|net| net.parse().unwrap()).to_vec(),
        |s| (s.networks, s.volume_bytes_max) = (vec!["10.0.0.0/8".parse().unwrap()], None),
        |s| s.volume_bytes_max = None,
        |s| s.volume_bytes_max = Some(u64::MAX),
        |s| s.regions = vec!["4403".parse().unwrap(), "441900".parse().unwrap()],
        |s| (s.rows, s.regions) = (None, vec!["4403".parse().unwrap()]),
        |s| s.agents = vec!["main".parse().unwrap()],
        |s| s.rate_bytes_per_second_max = Some(70_000),
        |s| s.requests_per_day_max = Some(3),
        |s| s.transforms = ScopeSpec::parse("[transforms]\nregion = \"mask\"").unwrap().transforms.unwrap(),
        |s| s.until = s.from,
        |s| s.columns.truncate(1),
        |s| s.purposes.push("统计".into()),
        |s| s.methods = SharingMethod::ALL.to_vec(),
        |s| s.methods = vec![SharingMethod::BatchExchange; 2],
    ] {
        let view = view(1, change);
        let kept = keep(&mut parts, &view);
        assert_eq!(kept.scope.whole(), *view.scope);
        assert_eq!(kept.scope.volume_bytes_max(), view.scope.volume_bytes_max);
        assert_eq!(kept.scope.has_one_purpose(), view.scope.purposes.len() == 1);
        for address in ["127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3", "192.0.2.1", "2001:db8::1", "::1"] {
            let address = address.parse().unwrap();
            assert_eq!(kept.scope.allows_network(address), view.scope.allows_network(address), "{address}");
        }
        for agent in ["main", "other"] {
            let agent = agent.parse().unwrap();
            assert_eq!(kept.scope.allows_agent(&agent), view.scope.allows_agent(&agent), "{agent}");
        }
        assert_eq!(kept.scope.limits(), Limits::of(&view.scope));
        assert_eq!((kept.id, kept.entry, kept.requester), (view.id, view.entry, view.requester));
        assert_eq!((kept.digest, kept.status()), (view.digest, &GrantStatus::InForce));
        assert_eq!((kept.scope.starts_at(), kept.scope.ends_at()), (view.scope.starts_at(), view.scope.ends_at()));
        assert_eq!(kept.scope.limits_rows(), view.scope.rows.is_some() || !view.scope.regions.is_empty());
        assert_eq!(kept.scope.transforms_any(), !view.scope.transforms.is_empty());
        for method in SharingMethod::ALL {
            assert_eq!(kept.scope.allows_method(*method), view.scope.methods.contains(method), "{method}");
        }
    }
}

#[test]
fn equal_parts_are_held_once() {
    let mut parts = Parts::default();
    let parts_of_networks = std::cell::RefCell::new(Parts::default());
    let first = keep(&mut parts, &view(1, |_| {}));
    let second = keep(&mut parts, &view(2, |s| s.until = s.from));
    assert!(Arc::ptr_eq(&first.scope.shape, &second.scope.shape));
    let rows = |grant: &Grant| Arc::clone(grant.scope.rows.as_ref().unwrap());
    assert!(Arc::ptr_eq(&rows(&first), &rows(&second)));
    let elsewhere = keep(&mut parts, &GrantView { entry: EntryId::from_bits(2), ..view(5, |_| {}) });
    assert!(!Arc::ptr_eq(&rows(&first), &rows(&elsewhere)), "a condition is typed against its entry");
    let county = keep(&mut parts, &view(4, |s| s.regions = vec!["440304".parse().unwrap()]));
    assert!(Arc::ptr_eq(&first.scope.shape, &county.scope.shape), "counties differ in their rows alone");
    let networks = |number, first: &str| {
        let nets = [first, "2001:db8::/32"].map(|net| net.parse().unwrap()).to_vec();
        keep(&mut parts_of_networks.borrow_mut(), &view(number, |s| s.networks = nets)).scope.seldom.unwrap()
    };
    assert!(Arc::ptr_eq(&networks(10, "10.0.0.0/8"), &networks(11, "10.0.0.0/8")));
    assert!(!Arc::ptr_eq(&networks(10, "10.0.0.0/8"), &networks(12, "10.0.0.0/9")));
    for (number, change) in [
        (6, (|s| s.from = s.until) as fn(&mut Scope)),
        (7, |s| s.volume_bytes_max = Some(1)),
        (8, |s| s.networks = vec!["192.0.2.0/24".parse().unwrap()]),
        (9, |s| s.rows = None),
    ] {
        let grant = keep(&mut parts, &view(number, change));
        assert!(Arc::ptr_eq(&first.scope.shape, &grant.scope.shape), "{number}: not a part of what all share");
    }
    let other = keep(&mut parts, &view(3, |s| s.columns.truncate(1)));
    assert!(!Arc::ptr_eq(&first.scope.shape, &other.scope.shape));
}

#[test]
fn parts_of_grants_that_are_gone_are_forgotten_once_there_are_twice_as_many_as_stayed() {
    let mut parts = Interned::default();
    let find =
        |parts: &mut Interned<usize>, number: usize| parts.find(number as u64, |part| *part == number, || number);
    let held: Vec<_> = (0..SWEEP_AT_LEAST).map(|number| find(&mut parts, number)).collect();
    for gone in SWEEP_AT_LEAST..2 * SWEEP_AT_LEAST {
        find(&mut parts, gone);
    }
    assert_eq!(parts.by_hash.len(), 2 * SWEEP_AT_LEAST, "they are not looked through for each that comes");
    assert!(Arc::ptr_eq(&find(&mut parts, 0), &held[0]), "what a grant has stays");
    assert_eq!(parts.by_hash.len(), held.len());
}

#[test]
fn the_state_of_a_grant_stands_with_it() {
    let mut parts = Parts::default();
    let suspended = GrantStatus::Suspended { reason: "误用".into(), since: Timestamp(7) };
    for status in [suspended, GrantStatus::Terminated { reason: "撤销".into(), since: Timestamp(8) }] {
        for change in [
            (|_| {}) as fn(&mut Scope),
            |s| s.networks = vec!["2001:db8::/32".parse().unwrap()],
            |s| s.networks = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        ] {
            let view = GrantView { status: status.clone(), ..view(1, change) };
            let kept = keep(&mut parts, &view);
            assert_eq!((kept.status(), kept.scope.whole()), (&status, view.scope.as_ref().clone()));
        }
    }
}

#[test]
fn what_follows_for_an_entry_is_computed_once_and_holds_for_it_as_it_stood() {
    let mut parts = Parts::default();
    let [one, other] = [1, 2].map(|number| keep(&mut parts, &view(number, |_| {})).scope);
    assert!(one.fits(&entry(1)));
    assert_eq!(one.places(), [0, 1]);
    let typed = |scope: &GrantScope| std::ptr::from_ref(scope.typed_rows().unwrap());
    assert_eq!(typed(&one), typed(&other));
    // Terms that were replaced may put another column in the same place.
    assert!(!one.fits(&entry(2)));
    let anew = parts.keep(&view(1, |_| {}), Some(&entry(2))).scope;
    assert!(anew.fits(&entry(2)) && !anew.fits(&entry(1)));
}

#[test]
fn a_grant_fits_nothing_where_something_of_it_could_not_be_computed() {
    let mut parts = Parts::default();
    let scope = keep(&mut parts, &view(1, |s| s.columns.push("gone".into()))).scope;
    assert!(!scope.fits(&entry(1)) && scope.places().is_empty());
    let twice = |s: &mut Scope| s.columns.push(s.columns[0].clone());
    assert!(!keep(&mut parts, &view(2, twice)).scope.fits(&entry(1)));
    let scope = keep(&mut parts, &view(3, |s| s.rows = Some(Predicate::parse("gone = 'x'").unwrap()))).scope;
    assert!(!scope.fits(&entry(1)) && scope.typed_rows().is_none());
    // Its entry is not known yet, or the numbers of editions have run out.
    let unknown = parts.keep(&view(4, |_| {}), None).scope;
    assert!(!unknown.fits(&entry(1)) && unknown.places().is_empty() && unknown.typed_rows().is_none());
    let past = u64::from(u32::MAX) + 1;
    assert!(Edition::new(past - 1).is_some() && Edition::new(past).is_none() && Edition::new(0).is_none());
    assert!(!parts.keep(&view(5, |_| {}), Some(&entry(past))).scope.fits(&entry(past)));
}

#[test]
fn conditions_are_found_by_what_they_say() {
    let parts = Parts::default();
    let [entry, other] = [1, 2].map(|id| (EntryId::from_bits(id), Edition::new(1)));
    let (scope, again) = (view(1, |_| {}).scope, view(2, |_| {}).scope);
    let regions: Vec<RegionCode> = vec!["4403".parse().unwrap()];
    let this = parts.hash_of(entry, scope.rows.as_ref(), &[]);
    assert_eq!(this, parts.hash_of(entry, again.rows.as_ref(), &[]));
    for different in [
        parts.hash_of(other, scope.rows.as_ref(), &[]),
        parts.hash_of((entry.0, Edition::new(2)), scope.rows.as_ref(), &[]),
        parts.hash_of(entry, None, &[]),
        parts.hash_of(entry, scope.rows.as_ref(), &regions),
    ] {
        assert_ne!(this, different, "a million conditions in one list would be looked through for each grant");
    }
}

#[test]
fn a_grant_is_small() {
    assert_eq!(size_of::<Option<Grant>>(), 144, "a million of them lie in tables that have to stay in memory");
}
