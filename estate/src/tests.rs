//! What holds of every estate, and the figures of the usual one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use counterfoil_entry::Time;
use counterfoil_entry::id::RetentionClass;
use proptest::prelude::*;

use super::*;

const DOMAIN: &str = "bank.test";

fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> usize {
    items.collect::<BTreeSet<T>>().len()
}

/// What everybody who uses an estate counts on.
fn check(size: &Size, estate: &Estate) {
    assert_eq!(estate.workloads.len(), size.workloads);
    assert_eq!(estate.apis.len(), size.applications);
    assert_eq!(estate.teams.len(), size.teams);
    let workloads: HashMap<&str, &Workload> = estate
        .workloads
        .iter()
        .map(|w| (w.spiffe_id.as_str(), w))
        .collect();
    assert_eq!(workloads.len(), size.workloads);
    let hosts = estate.workloads.iter().map(|w| &w.name);
    assert_eq!(distinct(hosts), size.workloads);
    let addresses = estate.workloads.iter().map(|w| &w.address);
    assert_eq!(distinct(addresses), size.workloads);
    let teams: HashMap<&str, &Team> = estate.teams.iter().map(|t| (t.name.as_str(), t)).collect();
    assert_eq!(teams.len(), size.teams);
    let people = estate.teams.iter().flat_map(|team| &team.people);
    assert_eq!(
        people.clone().collect::<BTreeSet<_>>().len(),
        people.count()
    );

    let apis: HashMap<&str, &Api> = estate.apis.iter().map(|a| (a.name.as_str(), a)).collect();
    assert_eq!(apis.len(), size.applications);
    for workload in &estate.workloads {
        assert!(teams.contains_key(workload.team.as_str()));
        assert!(apis.contains_key(workload.app.as_str()));
    }
    for api in &estate.apis {
        assert!(teams.contains_key(api.team.as_str()));
        assert!(workloads.contains_key(api.server.as_str()), "{api:?}");
        assert!(RetentionClass::parse(api.class).is_ok());
        assert!((1..=40).contains(&api.operations.len()));
        assert!(api.operations.iter().any(|operation| !operation.open));
        let names = api.operations.iter().map(|o| &o.name);
        assert_eq!(distinct(names), api.operations.len());
        let routes = api.operations.iter().map(|o| (o.method, &o.route));
        assert_eq!(distinct(routes), api.operations.len());
        let own = format!("/{}/", api.name);
        assert!(api.operations.iter().all(|o| o.route.starts_with(&own)));
    }

    let mut held = HashSet::new();
    for grant in &estate.grants {
        let consumer = workloads[grant.consumer.as_str()];
        let api = apis[grant.api.as_str()];
        assert!(held.insert((&grant.consumer, &grant.api)), "{grant:?}");
        assert_ne!(api.server, grant.consumer, "nobody calls himself");
        assert_ne!(grant.requested_by, grant.approved_by);
        assert!(
            teams[consumer.team.as_str()]
                .people
                .contains(&grant.requested_by)
        );
        assert!(teams[api.team.as_str()].people.contains(&grant.approved_by));
        assert!(!grant.purpose.is_empty() && !grant.ticket.is_empty());
        assert!(grant.left_days > 0);
        assert!(!grant.operations.is_empty());
        for name in &grant.operations {
            let declared = api.operations.iter().any(|o| o.name == *name && !o.open);
            assert!(
                declared || (name == "*" && grant.operations.len() == 1),
                "{grant:?}"
            );
        }
        assert_eq!(distinct(grant.operations.iter()), grant.operations.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_estate_of_any_size_holds_together(
        workloads in 1_usize..60,
        applications in 1_usize..80,
        teams in 1_usize..40,
        dependencies in 1_usize..10,
        seed: u64,
    ) {
        let size = Size { workloads, applications, teams, dependencies };
        check(&size, &Estate::generate(&size, seed, DOMAIN));
    }
}

#[test]
fn a_bank_has_the_promised_figures() {
    let estate = Estate::generate(&Size::BANK, 1, DOMAIN);
    check(&Size::BANK, &estate);
    let grants = estate.grants.len();
    assert!((9_500..=10_700).contains(&grants), "{grants} grants");
    let operations: usize = estate.apis.iter().map(|api| api.operations.len()).sum();
    assert!(
        (11_000..=15_000).contains(&operations),
        "{operations} operations"
    );
    assert!(estate.apis.iter().any(|api| api.operations.len() == 40));
    for scope in ["sox", "pci", "pii"] {
        let of = estate
            .apis
            .iter()
            .filter(|api| api.scopes.contains(&scope))
            .count();
        assert!((60..1_500).contains(&of), "{of} APIs of {scope}");
    }
    for criticality in [
        Criticality::Standard,
        Criticality::Important,
        Criticality::Critical,
        Criticality::Platform,
    ] {
        let of = estate
            .workloads
            .iter()
            .filter(|w| w.criticality == criticality)
            .count();
        assert!(of > 20, "{of} workloads are {criticality:?}");
    }
    let places = estate.workloads.iter().map(|w| (w.site, w.zone));
    assert_eq!(distinct(places), 9);
    // Every team owns something.
    assert_eq!(distinct(estate.apis.iter().map(|api| &api.team)), 850);
}

#[test]
fn few_are_called_by_very_many_and_most_by_few() {
    let estate = Estate::generate(&Size::BANK, 1, DOMAIN);
    let called = estate.most_called();
    let (first, callers) = called[0];
    assert!(
        (400..1_200).contains(&callers),
        "{first} has {callers} callers"
    );
    assert_eq!(
        estate.api(first).unwrap().criticality,
        Criticality::Platform
    );
    let median = called[called.len() / 2].1;
    assert!(median <= 4, "half of the APIs have up to {median} callers");
    let platform: usize = called
        .iter()
        .filter(|(name, _)| estate.api(name).unwrap().criticality == Criticality::Platform)
        .map(|(_, callers)| callers)
        .sum();
    let share = 100 * platform / estate.grants.len();
    assert!(
        (25..45).contains(&share),
        "{share} % of the grants are on the platform"
    );

    let mut calls = BTreeMap::<&str, usize>::new();
    for grant in &estate.grants {
        *calls.entry(&grant.consumer).or_default() += 1;
    }
    let (least, most) = (calls.values().min().unwrap(), calls.values().max().unwrap());
    assert!(
        *least >= 1 && (20..=40).contains(most),
        "{least} to {most} dependencies"
    );
}

#[test]
fn a_seed_tells_the_whole_estate() {
    let size = Size::of_workloads(50);
    let one = Estate::generate(&size, 3, DOMAIN);
    assert_eq!(one, Estate::generate(&size, 3, DOMAIN));
    assert_ne!(one, Estate::generate(&size, 4, DOMAIN));
    let now = Time::from_ns(1_800_000_000_000_000_000);
    assert_eq!(
        import_body(50, 3, DOMAIN, now),
        import_body(50, 3, DOMAIN, now)
    );
}

#[test]
fn a_larger_estate_keeps_its_proportions() {
    assert_eq!(Size::of_workloads(1_700), Size::BANK);
    let size = Size::of_workloads(17_000);
    assert_eq!((size.applications, size.teams), (22_000, 8_500));
    let estate = Estate::generate(&size, 1, DOMAIN);
    check(&size, &estate);
    let grants = estate.grants.len();
    assert!((95_000..107_000).contains(&grants), "{grants} grants");
    assert_eq!(Size::of_workloads(0), Size::of_workloads(1));
}

#[test]
fn documents_say_what_the_apis_have() {
    let estate = Estate::generate(&Size::of_workloads(100), 1, DOMAIN);
    for api in &estate.apis {
        let document = api.document();
        assert_eq!(document["info"]["title"], api.name.as_str());
        assert_eq!(document["x-counterfoil"]["class"], api.class);
        let paths = document["paths"].as_object().unwrap();
        let described: usize = paths
            .values()
            .map(|item| {
                item.as_object()
                    .unwrap()
                    .keys()
                    .filter(|key| *key != "parameters")
                    .count()
            })
            .sum();
        assert_eq!(described, api.operations.len());
        for operation in &api.operations {
            let found = &paths[&operation.route][operation.method.to_ascii_lowercase()];
            assert_eq!(found["operationId"], operation.name.as_str());
            assert_eq!(found["x-counterfoil"]["open"] == true, operation.open);
        }
    }
}

#[test]
fn the_body_of_an_import_has_grants_in_force_and_only_the_given_tokens() {
    let now = Time::from_ns(1_800_000_000_000_000_000);
    let estate = Estate::generate(&Size::of_workloads(30), 1, DOMAIN);
    let first = estate.workloads[0].name.clone();
    let body = estate.import(now, |w| (w.name == first).then(|| "00ff".to_owned()));
    let of = |name: &str| body[name].as_array().unwrap().clone();
    assert_eq!(of("workloads").len(), 30);
    assert_eq!(of("workloads")[0]["join_token_sha256"], "00ff");
    assert_eq!(of("workloads")[1].get("join_token_sha256"), None);
    assert_eq!(of("grants").len(), estate.grants.len());
    let now = now.to_string();
    for grant in of("grants") {
        // Of one form, so that they compare as texts.
        assert!(*grant["not_before"].as_str().unwrap() <= *now);
        assert!(*grant["expires"].as_str().unwrap() > *now);
    }
    for api in of("apis") {
        let document: serde_json::Value =
            serde_json::from_str(api["document"].as_str().unwrap()).unwrap();
        assert_eq!(document["x-counterfoil"]["owner_team"], api["owner_team"]);
    }
}
