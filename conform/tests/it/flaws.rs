//! Each check fails on a stand-in that lacks the one defence that it asks for, and passes on the
//! same stand-in when nothing is missing.

use std::sync::Arc;
use std::time::Duration;

use counterfoil_conform::{Check, Finding, Kept, Outcome, Rig, Settings, World, all, run};

use crate::collector;
use crate::own::{PATIENCE, failures, slowest};
use crate::stand_in::StandIn;

/// For each check the flaws that it finds, each by itself.
const FOUND: &[(&str, &[&str])] = &[
    ("T01", &["plaintext"]),
    ("T02", &["tls_no_client_cert"]),
    ("T03", &["tls_untrusted"]),
    ("T04", &["tls_expired"]),
    ("T05", &["tls_not_yet_valid"]),
    ("T06", &["tls_wrong_peer", "id_malformed"]),
    ("T07", &["tls_untrusted"]),
    ("T08", &["tls12"]),
    ("T09", &["any_server"]),
    ("T10", &["resumption", "early_data"]),
    ("J01", &["token_missing"]),
    ("J02", &["token_alg"]),
    ("J03", &["token_alg"]),
    ("J04", &["token_key_unknown", "token_bad_sig"]),
    ("J05", &["token_key_unknown", "token_bad_sig"]),
    ("J06", &["token_aud"]),
    ("J07", &["token_iss"]),
    ("J08", &["token_expired"]),
    ("J09", &["token_not_yet"]),
    ("J10", &["token_exp_invalid", "token_nbf_invalid"]),
    ("J11", &["token_scope"]),
    ("J12", &["token_scope"]),
    ("J13", &["token_cnf_mismatch"]),
    ("J14", &["token_cnf_mismatch"]),
    ("J15", &["token_sub_mismatch"]),
    ("J16", &["token_revoked"]),
    ("J17", &["token_expired", "token_not_yet"]),
    ("J18", &["query_token", "token_malformed"]),
    ("P01", &["path_ambiguous"]),
    ("P02", &["path_ambiguous"]),
    ("P03", &["path_ambiguous"]),
    ("P04", &["case"]),
    ("P05", &["target_bytes", "path_ambiguous"]),
    ("P06", &["fragment"]),
    ("P07", &["hosts"]),
    ("P08", &["overrides"]),
    ("P09", &["method_not_declared"]),
    ("S01", &["both_lengths"]),
    ("S02", &["malformed"]),
    ("S03", &["equal_lengths"]),
    ("S04", &["codings"]),
    ("S05", &["bare_lf"]),
    ("S06", &["chunks"]),
    ("S07", &["http10"]),
    ("S08", &["frames"]),
    ("S09", &["nominated"]),
    ("H01", &["claims"]),
    ("H02", &["trace_replaced", "trace_parent_kept"]),
    ("H03", &["trace_malformed"]),
    ("H04", &["tracestate"]),
    ("H05", &["baggage"]),
    ("A01", &["books_none", "books_twice"]),
    ("A02", &["books_none", "books_twice", "books_reason"]),
    ("A03", &["books_aborted"]),
    ("A06", &["books_secret"]),
    ("A07", &["stores_twice"]),
    ("A09", &["shadow_none", "shadow_enforced"]),
];

/// Flaws without which another one shows nothing.
const BESIDES: &[(&str, &str)] = &[
    ("early_data", "resumption"),
    ("target_bytes", "path_ambiguous"),
];

async fn start(flaws: &[&'static str]) -> (Arc<Rig>, Kept, StandIn) {
    let mut world = World::prepare().await.unwrap();
    let parts = world.parts().unwrap();
    world.let_go();
    let stand_in = StandIn::start(parts, flaws).await;
    if flaws.contains(&"stores_twice") {
        collector::start_forgetful(&mut world).await;
    } else {
        collector::start(&mut world);
    }
    world.ready(PATIENCE).await.unwrap();
    let (rig, kept) = world.into_rig();
    (rig, kept, stand_in)
}

fn settings() -> Settings {
    Settings {
        limit: Duration::from_secs(60),
        at_once: 6,
    }
}

fn checks_for(flaw: &str) -> Vec<Check> {
    let finds = |id: &str| {
        FOUND
            .iter()
            .any(|(check, flaws)| *check == id && flaws.contains(&flaw))
    };
    all()
        .iter()
        .filter(|check| finds(check.id))
        .copied()
        .collect()
}

#[test]
fn every_check_has_a_flaw_that_it_finds() {
    let listed: Vec<_> = FOUND.iter().map(|(check, _)| *check).collect();
    let known: Vec<_> = all().iter().map(|check| check.id).collect();
    assert_eq!(listed, known);
    assert!(FOUND.iter().all(|(_, flaws)| !flaws.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stand_in_without_a_flaw_passes_every_check() {
    let (rig, _kept, _stand_in) = start(&[]).await;
    let findings = run(&rig, all(), settings(), |_| {}).await.unwrap();
    let failures = failures(&findings);
    assert!(
        failures.is_empty(),
        "{}\nslowest: {}",
        failures.join("\n"),
        slowest(&findings)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flaw_is_found_by_its_checks() {
    let mut flaws: Vec<&'static str> = FOUND
        .iter()
        .flat_map(|(_, flaws)| *flaws)
        .copied()
        .collect();
    flaws.sort_unstable();
    flaws.dedup();
    let mut missed = Vec::new();
    for some in flaws.chunks(8) {
        let runs = some.iter().map(|flaw| tokio::spawn(missed_by(flaw)));
        for run in runs.collect::<Vec<_>>() {
            missed.extend(run.await.unwrap());
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// The checks that pass although the target has this flaw, which they ask for.
async fn missed_by(flaw: &'static str) -> Vec<String> {
    let besides = BESIDES
        .iter()
        .find(|(of, _)| *of == flaw)
        .map(|(_, besides)| *besides);
    let flaws: Vec<_> = std::iter::once(flaw).chain(besides).collect();
    let (rig, _kept, _stand_in) = start(&flaws).await;
    let checks = checks_for(flaw);
    let findings: Vec<Finding> = run(&rig, &checks, settings(), |_| {}).await.unwrap();
    let passed = findings
        .iter()
        .filter(|found| found.outcome != Outcome::Fail);
    passed
        .map(|found| {
            format!(
                "{} with {flaw}: {} {}",
                found.check,
                found.outcome.as_str(),
                found.saw
            )
        })
        .collect()
}
