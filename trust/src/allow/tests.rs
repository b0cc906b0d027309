mod access;

use proptest::prelude::*;

use super::*;
use crate::SpiffeId;
use crate::bundle::{
    BundleKeys, Consumer, Endpoints, Grant, Instances, OperationRights, PeerRights, SignedBundle,
    Workload,
};
use crate::keys::SealKey;

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://bank.test/workload/{name}")).unwrap()
}

fn operation(name: &str, method: &str, route: &str) -> OperationRights {
    OperationRights {
        operation: name.to_owned(),
        method: method.to_owned(),
        route: route.to_owned(),
        scopes: vec![],
        retention_class: "ops_90d".to_owned(),
        open: false,
    }
}

fn grant(grant_id: &str, consumer: &str, name: &str, window: [Option<i64>; 2]) -> Grant {
    Grant {
        grant_id: grant_id.to_owned(),
        consumer: id(consumer),
        api: "accounts".to_owned(),
        operation: name.to_owned(),
        not_before: window[0].map(Time::from_ns),
        expires: window[1].map(Time::from_ns),
    }
}

fn rights(operations: Vec<OperationRights>, grants: Vec<Grant>) -> Rights {
    Rights {
        version: 1,
        audience: id("ledger"),
        issued_at: Time::from_ns(0),
        workload: Workload {
            app: "ledger".to_owned(),
            team: "core".to_owned(),
            site: None,
            zone: None,
        },
        apis: vec![ApiRights {
            api: "accounts".to_owned(),
            api_version: "1".to_owned(),
            protocol: None,
            access: Access::Bundle,
            operations,
        }],
        grants,
        candidate: None,
        tokens: None,
        consumers: vec![Consumer {
            spiffe_id: id("portal"),
            app: "portal".to_owned(),
            team: "web".to_owned(),
        }],
        peers: vec![],
        default_class: "ops_90d".to_owned(),
    }
}

fn bank() -> AllowList {
    let mut health = operation("health", "GET", "/health");
    health.open = true;
    AllowList::compile(&rights(
        vec![
            operation("list", "GET", "/accounts"),
            operation("read", "GET", "/accounts/{id}"),
            operation("close", "DELETE", "/accounts/{id}"),
            operation("own", "GET", "/accounts/own"),
            health,
        ],
        vec![
            grant("g-list", "portal", "list", [None, None]),
            grant("g-old", "portal", "read", [None, Some(100)]),
            grant("g-next", "portal", "close", [Some(100), Some(200)]),
        ],
    ))
    .unwrap()
}

fn reason(list: &AllowList, consumer: &str, method: &str, path: &str, now: i64) -> Reason {
    let verdict = list.decide(id(consumer).as_str(), method, path, Time::from_ns(now));
    assert_eq!(
        verdict.permit.is_some(),
        verdict.decision == Decision::Allow
    );
    verdict.reason
}

#[test]
fn each_denial_has_its_own_reason() {
    let list = bank();
    for (consumer, method, path, now, expected) in [
        ("portal", "GET", "/accounts", 0, Reason::Granted),
        ("portal", "GET", "/accounts?x=/../%2e", 0, Reason::Granted),
        ("portal", "GET", "/accounts/", 0, Reason::RouteUnknown),
        ("portal", "GET", "/Accounts", 0, Reason::RouteUnknown),
        ("portal", "POST", "/accounts", 0, Reason::MethodNotDeclared),
        ("portal", "get", "/accounts", 0, Reason::MethodNotDeclared),
        ("portal", "GET", "/accounts//", 0, Reason::PathAmbiguous),
        (
            "portal",
            "GET",
            "/accounts/%2e%2e/health",
            0,
            Reason::PathAmbiguous,
        ),
        ("stranger", "GET", "/accounts", 0, Reason::GrantNone),
        ("portal", "GET", "/accounts/4711", 99, Reason::Granted),
        ("portal", "GET", "/accounts/4711", 100, Reason::GrantExpired),
        (
            "portal",
            "DELETE",
            "/accounts/4711",
            99,
            Reason::GrantNotStarted,
        ),
        ("portal", "DELETE", "/accounts/4711", 100, Reason::Granted),
        (
            "portal",
            "DELETE",
            "/accounts/4711",
            200,
            Reason::GrantExpired,
        ),
        // The literal path wins over the template, so that the template's grant does not reach it.
        ("portal", "GET", "/accounts/own", 0, Reason::GrantNone),
        (
            "portal",
            "DELETE",
            "/accounts/own",
            150,
            Reason::MethodNotDeclared,
        ),
        ("stranger", "GET", "/health", 0, Reason::OpenOperation),
    ] {
        assert_eq!(
            reason(&list, consumer, method, path, now),
            expected,
            "{method} {path} {now}"
        );
    }
}

#[test]
fn a_denial_still_names_operation_and_grant() {
    let list = bank();
    let verdict = list.decide(
        id("portal").as_str(),
        "GET",
        "/accounts/1",
        Time::from_ns(100),
    );
    assert_eq!(&*verdict.operation.unwrap().route, "/accounts/{id}");
    assert_eq!(verdict.grant_id.as_deref(), Some("g-old"));
    assert!(verdict.permit.is_none());
    assert_eq!(
        list.consumer(id("portal").as_str())
            .map(|(app, team)| (&**app, &**team)),
        Some(("portal", "web"))
    );
}

#[test]
fn one_open_grant_among_closed_ones_allows() {
    let list = AllowList::compile(&rights(
        vec![operation("list", "GET", "/accounts")],
        vec![
            grant("g-1", "portal", "list", [None, Some(10)]),
            grant("g-2", "portal", "list", [Some(10), Some(20)]),
            grant("g-3", "portal", "list", [Some(30), None]),
        ],
    ))
    .unwrap();
    for (now, grant_id, expected) in [
        (9, "g-1", Reason::Granted),
        (10, "g-2", Reason::Granted),
        (25, "g-1", Reason::GrantExpired),
        (30, "g-3", Reason::Granted),
    ] {
        let verdict = list.decide(
            id("portal").as_str(),
            "GET",
            "/accounts",
            Time::from_ns(now),
        );
        assert_eq!(
            (verdict.reason, verdict.grant_id.as_deref()),
            (expected, Some(grant_id))
        );
    }
}

#[test]
fn without_a_bundle_everything_is_denied() {
    let verdict = decide(
        None,
        id("portal").as_str(),
        "GET",
        "/accounts",
        Time::from_ns(0),
    );
    assert_eq!(
        (verdict.decision, verdict.reason),
        (Decision::Deny, Reason::BundleMissing)
    );
    assert!(verdict.permit.is_none());
}

#[test]
fn one_bad_element_refuses_the_whole() {
    let compile = |operations, grants| AllowList::compile(&rights(operations, grants)).unwrap_err();
    for route in [
        "accounts",
        "/a/{id}.json",
        "/a/{}",
        "/a/{*rest}/b{",
        "/a//b",
        "/a/../b",
        "/a/%41",
        "/a b",
    ] {
        let error = compile(vec![operation("o", "GET", route)], vec![]);
        assert!(
            matches!(error, AllowError::Route { .. }),
            "{route}: {error}"
        );
    }
    let twice = vec![
        operation("one", "GET", "/a/{x}"),
        operation("two", "GET", "/a/{y}"),
    ];
    assert!(matches!(compile(twice, vec![]), AllowError::Twice { .. }));
    let twice = vec![operation("one", "GET", "/a"), operation("one", "GET", "/b")];
    assert!(matches!(compile(twice, vec![]), AllowError::Twice { .. }));
    let stray = vec![grant("g", "portal", "gone", [None, None])];
    let error = compile(vec![operation("one", "GET", "/a")], stray);
    assert!(matches!(error, AllowError::GrantStray { .. }));
    let classless = OperationRights {
        retention_class: "someday".to_owned(),
        ..operation("one", "GET", "/a")
    };
    assert!(matches!(
        compile(vec![classless], vec![]),
        AllowError::Class { .. }
    ));
}

fn bundle_with_peer(instances: Vec<Instances>) -> crate::bundle::Bundle {
    let mut rights = rights(vec![], vec![]);
    rights.peers = vec![PeerRights {
        name: "Rates".to_owned(),
        spiffe_id: id("rates"),
        app: "rates".to_owned(),
        team: "fx".to_owned(),
        apis: vec![ApiRights {
            api: "rates".to_owned(),
            api_version: "2".to_owned(),
            protocol: Some("grpc".to_owned()),
            access: Access::Bundle,
            operations: vec![operation("quote", "POST", "/rates.Rates/Quote")],
        }],
    }];
    let endpoints = Endpoints {
        version: 1,
        audience: id("ledger"),
        instances,
    };
    let key = SealKey::generate().unwrap();
    let keys = BundleKeys {
        governance: key.public(),
        control: key.public(),
    };
    let body = SignedBundle::seal(&rights, &endpoints, &key, &key).unwrap();
    SignedBundle::open(&body, &keys, &id("ledger")).unwrap()
}

fn rates_at(name: &str, spiffe_id: SpiffeId) -> Instances {
    Instances {
        name: name.to_owned(),
        spiffe_id,
        addresses: vec!["127.0.0.1:17101".to_owned()],
    }
}

#[test]
fn a_host_name_finds_its_peer_whatever_its_case_and_port() {
    let peers = Peers::compile(&bundle_with_peer(vec![rates_at("Rates", id("rates"))])).unwrap();
    for host in ["Rates", "rates", "RATES:8080", "rates:80"] {
        let peer = peers.find(host).unwrap();
        assert_eq!(peer.spiffe_id, id("rates"));
        assert_eq!(&*peer.addresses[0], "127.0.0.1:17101");
        assert_eq!(
            &*peer
                .operation("POST", "/rates.Rates/Quote")
                .unwrap()
                .operation,
            "quote"
        );
        assert_eq!(
            peer.operation("GET", "/rates.Rates/Quote"),
            Err(Reason::MethodNotDeclared)
        );
        assert_eq!(
            peer.operation("POST", "/rates.Rates/Other"),
            Err(Reason::RouteUnknown)
        );
    }
    assert!(peers.find("rate").is_none());
    assert!(peers.find("rates:80:80").is_none());
    assert!(peers.find("rates:x").is_none());
}

#[test]
fn endpoints_cannot_name_another_identity_or_another_peer() {
    let widened = bundle_with_peer(vec![rates_at("Rates", id("pirate"))]);
    assert!(Peers::compile(&widened).is_err());
    let widened = bundle_with_peer(vec![rates_at("backdoor", id("rates"))]);
    assert!(Peers::compile(&widened).is_err());
}

/// The same rules, written down as plainly as possible: no router, no maps.
fn naive(rights: &Rights, consumer: &str, method: &str, path: &str, now: Time) -> Reason {
    let operations = || rights.apis.iter().flat_map(|api| &api.operations);
    let segments = |text: &str| {
        text.split('/')
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let is_parameter = |segment: &str| segment.starts_with('{');
    let path = segments(path);
    let mut fitting: Vec<Vec<String>> = operations()
        .map(|o| segments(&o.route))
        .filter(|route| {
            route.len() == path.len()
                && route.iter().zip(&path).all(|(r, p)| {
                    if is_parameter(r) {
                        !p.is_empty()
                    } else {
                        r == p
                    }
                })
        })
        .collect();
    // The first segment in which two templates differ decides: the literal one wins.
    fitting.sort_by_key(|route| route.iter().map(|r| is_parameter(r)).collect::<Vec<_>>());
    let Some(best) = fitting.first() else {
        return Reason::RouteUnknown;
    };
    let same_shape = |route: &str| {
        let route = segments(route);
        route.len() == best.len()
            && route
                .iter()
                .zip(best)
                .all(|(a, b)| is_parameter(a) && is_parameter(b) || a == b)
    };
    let Some(found) = operations().find(|o| same_shape(&o.route) && o.method == method) else {
        return Reason::MethodNotDeclared;
    };
    let held: Vec<&Grant> = rights
        .grants
        .iter()
        .filter(|g| g.consumer.as_str() == consumer && g.operation == found.operation)
        .collect();
    let started = |g: &&Grant| g.not_before.is_none_or(|from| from <= now);
    let expired = |g: &&Grant| g.expires.is_some_and(|until| until <= now);
    if held.iter().any(|g| started(g) && !expired(g)) {
        Reason::Granted
    } else if found.open {
        Reason::OpenOperation
    } else if held.is_empty() {
        Reason::GrantNone
    } else if held.iter().any(expired) {
        Reason::GrantExpired
    } else {
        Reason::GrantNotStarted
    }
}

fn any_segment() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("ab"), Just("b"), Just("{x}"), Just("{y}")]
}

fn any_operations() -> impl Strategy<Value = Vec<OperationRights>> {
    let route = prop::collection::vec(any_segment(), 1..4);
    let one = (route, prop_oneof![Just("GET"), Just("POST")], any::<bool>());
    prop::collection::vec(one, 0..12).prop_map(|operations| {
        let mut seen = std::collections::HashSet::new();
        let mut kept = Vec::new();
        for (segments, method, open) in operations {
            let shape = segments.join("/").replace("{y}", "{x}");
            if seen.insert((shape, method)) {
                let name = format!("o{}", kept.len());
                let route = format!("/{}", segments.join("/"));
                kept.push(OperationRights {
                    open,
                    ..operation(&name, method, &route)
                });
            }
        }
        kept
    })
}

fn any_rights() -> impl Strategy<Value = Rights> {
    let window = (prop::option::of(0_i64..6), prop::option::of(0_i64..6));
    let one = (0_usize..12, prop_oneof![Just("p"), Just("q")], window);
    (any_operations(), prop::collection::vec(one, 0..12)).prop_map(|(operations, grants)| {
        let grants = grants
            .into_iter()
            .filter_map(|(index, consumer, (from, until))| {
                let name = &operations.get(index)?.operation;
                Some(grant(&format!("g{index}"), consumer, name, [from, until]))
            })
            .collect();
        rights(operations, grants)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_compiled_allow_list_decides_as_the_plain_rules_do(
        rights in any_rights(),
        path in prop::collection::vec(prop_oneof![Just("a"), Just("ab"), Just("b"), Just("c")], 1..5),
        method in prop_oneof![Just("GET"), Just("POST"), Just("PUT")],
        consumer in prop_oneof![Just("p"), Just("q"), Just("r")],
        now in 0_i64..6,
    ) {
        let path = format!("/{}", path.join("/"));
        let list = AllowList::compile(&rights).unwrap();
        let consumer = id(consumer);
        let now = Time::from_ns(now);
        let verdict = list.decide(consumer.as_str(), method, &path, now);
        prop_assert_eq!(verdict.reason, naive(&rights, consumer.as_str(), method, &path, now));
        prop_assert_eq!(verdict.permit.is_some(), verdict.decision == Decision::Allow);
    }
}
