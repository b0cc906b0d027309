mod explain;

use counterfoil_trust::bundle::Access;
use serde_json::{Value, json};

use super::desk::Desk;
use super::grants::Step;
use super::records::{ApiStatus, GrantRecord, State};
use super::requests::{ApiImport, Note, StatusChange};
use super::*;
use crate::catalogue::GrantState;
use crate::fixture::{self, ACCOUNTS, LEDGER, PORTAL, bank, grant, person, root};
use apis::{ApiImported, ImportOutcome};

/// The small bank at a desk, and the folder that it stands in.
struct Bank {
    dir: tempfile::TempDir,
    desk: Desk,
}

impl Bank {
    fn new() -> Self {
        Self::of(&bank())
    }

    fn of(content: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let desk = fixture::desk(dir.path());
        let given = serde_json::from_value(content.clone()).unwrap();
        desk.import_estate(&given, &root()).unwrap();
        Self { dir, desk }
    }

    /// As after a restart of the process.
    fn reopened(self) -> Self {
        let Self { dir, desk } = self;
        drop(desk);
        let desk = fixture::desk(dir.path());
        Self { dir, desk }
    }

    fn ask(&self, who: &str, changes: Value) -> Result<GrantRecord, GovernanceError> {
        let mut asked = json!({
            "consumer": "portal", "api": "accounts", "operations": ["closeAccount"],
            "purpose": "close accounts", "ticket": "CHG-2", "expires": "2100-01-01T00:00:00Z",
        });
        for (name, value) in changes.as_object().unwrap() {
            asked[name] = value.clone();
        }
        let asked = serde_json::from_value(asked).unwrap();
        self.desk.request_grant(&asked, &person(who, &[]))
    }

    fn step(&self, who: &Actor, id: &str, step: Step) -> Result<GrantRecord, GovernanceError> {
        self.desk.take_step(id, step, &Note::default(), who)
    }

    fn import(&self, who: &Actor, document: &str) -> Result<ApiImported, GovernanceError> {
        self.import_with(who, document, |_| {})
    }

    fn import_with(
        &self,
        who: &Actor,
        document: &str,
        set: impl FnOnce(&mut ApiImport),
    ) -> Result<ApiImported, GovernanceError> {
        let mut given = ApiImport {
            document: document.to_owned(),
            file: "accounts.yaml".to_owned(),
            ..ApiImport::default()
        };
        set(&mut given);
        self.desk.import_api(&given, who)
    }

    fn events(&self) -> Vec<String> {
        let events = self.desk.events(None, 1_000).unwrap();
        let said = |e: EventRecord| {
            let reason = e.reason.map(|r| format!(" {r}")).unwrap_or_default();
            format!("{} {} {}{reason}", e.actor, e.action, e.outcome)
        };
        events.into_iter().map(said).collect()
    }

    /// The grant as bundles are made of it.
    fn rule(&self, id: &str) -> Option<(GrantState, bool)> {
        let estate = self.desk.estate();
        let rule = estate.catalogue.grants.get(id)?;
        Some((rule.state, rule.revocation_proposed))
    }
}

#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, GovernanceError>) -> Refusal {
    match result {
        Err(GovernanceError::Refused(refusal)) => *refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_grant_goes_its_way_with_four_eyes_and_an_event_a_step() {
    let bank = Bank::new();
    let (bob, carl) = (person("bob", &["core"]), person("carl", &["web"]));
    let asked = bank.ask("ann", json!({})).unwrap();
    assert_eq!((asked.state, asked.revision), (State::Requested, 1));
    assert_eq!(asked.owner_team.as_deref(), Some("core"));
    let id = asked.grant_id.as_str();
    assert_eq!(bank.rule(id), Some((GrantState::Requested, false)));

    let refused = refusal(bank.step(&carl, id, Step::Approve));
    assert_eq!(
        (refused.kind, refused.reason),
        (RefusalKind::Forbidden, "not_owner")
    );
    for same in ["ann", " Ann", "ANN "] {
        let refused = refusal(bank.step(&person(same, &["core"]), id, Step::Approve));
        assert_eq!(refused.reason, "four_eyes", "{same}");
    }
    let refused = refusal(bank.step(&root(), id, Step::Approve));
    assert_eq!(refused.reason, "not_owner", "administrators own nothing");
    let approved = bank.step(&bob, id, Step::Approve).unwrap();
    assert_eq!((approved.state, approved.revision), (State::Approved, 2));
    assert_eq!(approved.decided_by.as_deref(), Some("bob"));
    assert!(approved.review_due_at.unwrap() > approved.decided_at.unwrap());
    assert_eq!(bank.rule(id), Some((GrantState::Approved, false)));
    assert_eq!(
        refusal(bank.step(&bob, id, Step::Approve)).reason,
        "grant_state"
    );

    let events = bank.reopened().events();
    assert_eq!(
        events[4..],
        [
            "ann grant.requested done",
            "carl grant.approved refused not_owner",
            "ann grant.approved refused four_eyes",
            " Ann grant.approved refused four_eyes",
            "ANN  grant.approved refused four_eyes",
            "root grant.approved refused not_owner",
            "bob grant.approved done",
        ]
    );
}

#[test]
fn a_grant_is_reviewed_proposed_for_revocation_and_revoked_with_an_event_a_step() {
    let bank = Bank::new();
    let (bob, carl) = (person("bob", &["core"]), person("carl", &["web"]));
    let asked = bank.ask("ann", json!({})).unwrap();
    let id = asked.grant_id.as_str();
    bank.step(&bob, id, Step::Approve).unwrap();
    let own = refusal(bank.step(&person("ann", &["core"]), id, Step::Review));
    assert_eq!(own.reason, "four_eyes");
    let reviewed = bank.step(&bob, id, Step::Review).unwrap();
    assert_eq!(reviewed.reviewed_by.as_deref(), Some("bob"));

    assert_eq!(
        refusal(bank.step(&bob, id, Step::WithdrawProposal)).reason,
        "not_proposed"
    );
    bank.step(&bob, id, Step::ProposeRevocation).unwrap();
    assert_eq!(bank.rule(id), Some((GrantState::Approved, true)));
    assert_eq!(
        refusal(bank.step(&bob, id, Step::ProposeRevocation)).reason,
        "already_proposed"
    );
    bank.step(&bob, id, Step::WithdrawProposal).unwrap();
    assert_eq!(bank.rule(id), Some((GrantState::Approved, false)));

    assert_eq!(
        refusal(bank.step(&carl, id, Step::Revoke)).reason,
        "not_owner"
    );
    let revoked = bank.step(&root(), id, Step::Revoke).unwrap();
    assert_eq!(
        (revoked.state, revoked.revoked_by.as_deref()),
        (State::Revoked, Some("root"))
    );
    assert_eq!(bank.rule(id), Some((GrantState::Ended, false)));
    assert_eq!(
        refusal(bank.step(&bob, id, Step::Revoke)).reason,
        "grant_state"
    );

    let bank = bank.reopened();
    let events = bank.events();
    assert_eq!(
        events[4..],
        [
            "ann grant.requested done",
            "bob grant.approved done",
            "ann grant.reviewed refused four_eyes",
            "bob grant.reviewed done",
            "bob grant.revocation_proposed done",
            "bob grant.proposal_withdrawn done",
            "carl grant.revoked refused not_owner",
            "root grant.revoked done",
        ]
    );
    let events = bank.desk.events(None, 1_000).unwrap();
    let of_grant = events
        .iter()
        .filter(|e| e.object_id == id && e.outcome == "done");
    let hashes: Vec<_> = of_grant
        .map(|e| (e.before_sha256, e.after_sha256))
        .collect();
    assert_eq!(hashes[0].0, None);
    assert!(
        hashes.windows(2).all(|pair| pair[0].1 == pair[1].0),
        "each goes on where one ended"
    );
}

#[test]
fn who_asked_may_take_it_back_and_give_it_up() {
    let bank = Bank::new();
    let ann = person("ann", &[]);
    let asked = bank.ask("ann", json!({})).unwrap();
    let taken_back = bank.step(&ann, &asked.grant_id, Step::Reject).unwrap();
    assert_eq!(taken_back.state, State::Rejected);
    let rule = bank.rule(&asked.grant_id);
    assert_eq!(rule, Some((GrantState::Ended, false)));
    let given_up = bank.step(&ann, "g-1", Step::Revoke).unwrap();
    assert_eq!(given_up.state, State::Revoked);
}

#[test]
fn what_is_asked_for_is_checked_field_by_field() {
    let bank = Bank::new();
    for (changes, field, detail) in [
        (
            json!({"consumer": "nobody"}),
            "consumer",
            "nobody is no workload",
        ),
        (
            json!({"consumer": "spiffe://bank.test/x"}),
            "consumer",
            "is no workload",
        ),
        (json!({"consumer": ""}), "consumer", "is no workload"),
        (json!({"api": "acounts"}), "api", "there is no API acounts"),
        (json!({"operations": []}), "operations", "must not be empty"),
        (
            json!({"operations": ["listAccounts", "x"]}),
            "operations[1]",
            "has no operation x",
        ),
        (
            json!({"operations": ["health", "health"]}),
            "operations",
            "health stands there twice",
        ),
        (json!({"purpose": " "}), "purpose", "must not be empty"),
        (
            json!({"purpose": "x".repeat(2_001)}),
            "purpose",
            "more than 2000 bytes",
        ),
        (json!({"ticket": "a\u{0}b"}), "ticket", "control characters"),
        (
            json!({"ticket": "x".repeat(201)}),
            "ticket",
            "more than 200 bytes",
        ),
        (
            json!({"expires": "2020-01-01T00:00:00Z"}),
            "expires",
            "in the future",
        ),
        (
            json!({"not_before": "2100-01-01T00:00:00Z"}),
            "not_before",
            "before expires",
        ),
    ] {
        let refused = refusal(bank.ask("ann", changes.clone()));
        assert_eq!(refused.field.as_deref(), Some(field), "{changes}");
        assert!(
            refused.detail.contains(detail),
            "{changes}: {}",
            refused.detail
        );
        assert_eq!(refused.kind, RefusalKind::Value);
    }
    assert_eq!(bank.events().len(), 4, "what is only mistaken is no event");
    let all = bank
        .ask("ann", json!({"operations": ["*"], "consumer": PORTAL}))
        .unwrap();
    assert_eq!(all.operations.len(), 4);
}

#[test]
fn a_grant_that_ran_out_is_recorded_as_expired_and_denied_as_such_for_a_while() {
    let mut soon = bank();
    let in_a_moment = clock::wall().plus_ns(300_000_000);
    soon["grants"][0]["expires"] = json!(in_a_moment.to_string());
    let bank = Bank::of(&soon);
    assert!(!bank.desk.estate().grants.is_empty());
    while clock::wall() <= in_a_moment {
        std::thread::yield_now();
    }
    assert!(bank.desk.needs_tending(clock::wall()));
    bank.desk.tend().unwrap();
    let estate = bank.desk.estate();
    assert_eq!(estate.grants["g-1"].state, State::Expired);
    assert_eq!(
        bank.rule("g-1"),
        Some((GrantState::Approved, false)),
        "it says grant_expired"
    );
    assert_eq!(bank.events().last().unwrap(), "root grant.expired done");
    bank.desk.tend().unwrap();
    assert_eq!(bank.events().len(), 5, "once");
    let refused = refusal(bank.step(&person("bob", &["core"]), "g-1", Step::Revoke));
    assert_eq!(refused.reason, "grant_state");
}

#[test]
fn the_same_document_changes_nothing_and_another_makes_a_revision() {
    let bank = Bank::new();
    let bob = person("bob", &["core"]);
    let same = bank.import(&bob, ACCOUNTS).unwrap();
    assert_eq!(
        (same.outcome, same.api.revision),
        (ImportOutcome::Unchanged, 1)
    );
    assert_eq!(bank.events().len(), 4);
    let other = ACCOUNTS
        .replace("/health:", "/ready:")
        .replace("operationId: health", "operationId: ready")
        .replace("scopes: [sox, pci]", "scopes: [pci]");
    let revised = bank.import(&bob, &other).unwrap();
    assert_eq!(
        (revised.outcome, revised.api.revision),
        (ImportOutcome::Revised, 2)
    );
    assert_eq!(
        (revised.added, revised.removed, revised.changed),
        (
            vec!["ready".to_owned()],
            vec!["health".to_owned()],
            vec!["closeAccount".to_owned()]
        )
    );
    let bank = bank.reopened();
    assert_eq!(bank.desk.estate().apis["accounts"].operations.len(), 4);
    assert!(bank.desk.estate().apis["accounts"].has("ready"));
}

#[test]
fn an_operation_does_not_go_away_under_a_grant() {
    let bank = Bank::new();
    let bob = person("bob", &["core"]);
    let without = ACCOUNTS.replace("operationId: listAccounts", "operationId: list");
    let refused = refusal(bank.import(&bob, &without));
    assert_eq!(
        (refused.kind, refused.reason),
        (RefusalKind::Conflict, "grants_in_force")
    );
    assert_eq!(refused.grants, ["g-1"]);
    assert!(refused.detail.contains("g-1"), "{}", refused.detail);
    let retire = StatusChange {
        status: requests::NewStatus::Retired,
        comment: None,
        ticket: None,
    };
    let refused = refusal(bank.desk.set_status("accounts", &retire, &bob));
    assert_eq!(refused.grants, ["g-1"]);

    let asked = bank
        .ask("ann", json!({"operations": ["listAccounts"]}))
        .unwrap();
    bank.step(&bob, "g-1", Step::Revoke).unwrap();
    bank.import(&bob, &without).unwrap();
    assert_eq!(
        bank.rule(&asked.grant_id),
        None,
        "proxies would refuse what is not there"
    );
    let refused = refusal(bank.step(&bob, &asked.grant_id, Step::Approve));
    assert_eq!(refused.reason, "operation_gone");
    let retired = bank.desk.set_status("accounts", &retire, &bob).unwrap();
    assert_eq!((retired.status, retired.revision), (ApiStatus::Retired, 3));
    assert!(bank.desk.estate().catalogue.apis.is_empty());
    let gone = refusal(bank.ask("ann", json!({})));
    assert_eq!(gone.field.as_deref(), Some("api"));
    let again = bank.import(&bob, &without).unwrap();
    assert_eq!(
        (again.api.status, again.api.revision),
        (ApiStatus::Published, 4)
    );
}

#[test]
fn only_the_owner_or_an_administrator_brings_documents_in() {
    let bank = Bank::new();
    let (carl, bob) = (person("carl", &["web"]), person("bob", &["core"]));
    let other = ACCOUNTS.replace("title: accounts", "title: others");
    let theirs = ACCOUNTS.replace("owner_team: core", "owner_team: web");
    for (who, document) in [
        (&carl, ACCOUNTS),
        (&carl, other.as_str()),
        (&bob, theirs.as_str()),
    ] {
        let refused = refusal(bank.import(who, document));
        assert_eq!(
            (refused.kind, refused.reason),
            (RefusalKind::Forbidden, "not_owner")
        );
    }
    // An API of one's own on the workload of another team would open what stands there.
    let on_ledger = other.replace("owner_team: core", "owner_team: web");
    assert_eq!(refusal(bank.import(&carl, &on_ledger)).reason, "not_owner");
    let refused = refusal(bank.import(&root(), &other));
    assert_eq!(
        (refused.kind, refused.reason),
        (RefusalKind::Conflict, "paths_meet")
    );
    let moved = other.replace("service: ledger\n  owner_team: core", "service: portal");
    let imported = bank.import_with(&carl, &moved, |given| given.owner_team = Some("web".into()));
    assert_eq!(imported.unwrap().outcome, ImportOutcome::Created);
    assert_eq!(
        bank.events()[4..],
        ["carl api.imported refused not_owner"; 2]
            .map(str::to_owned)
            .into_iter()
            .chain(
                [
                    "bob api.imported refused not_owner",
                    "carl api.imported refused not_owner",
                    "carl api.imported done"
                ]
                .map(str::to_owned)
            )
            .collect::<Vec<_>>()
    );
}

#[test]
fn owner_server_and_access_come_from_the_document_or_the_request() {
    let bank = Bank::new();
    let plain = "openapi: 3.1.0\ninfo: {title: plain, version: '1'}\npaths: {/p: {get: {}}}\n";
    let refused = refusal(bank.import(&root(), plain));
    assert_eq!(refused.field.as_deref(), Some("owner_team"));
    let refused = refusal(bank.import_with(&root(), plain, |given| {
        given.owner_team = Some("web".into());
        given.server = Some("nobody".into());
    }));
    assert_eq!(refused.field.as_deref(), Some("server"));
    let own = |given: &mut ApiImport| given.owner_team = Some("web".into());
    let first = bank.import_with(&root(), plain, own).unwrap();
    assert_eq!((first.api.server, first.api.access), (None, Access::Bundle));
    let later = bank.import_with(&root(), plain, |given| {
        given.server = Some(PORTAL.into());
        given.access = Some(Access::Both);
    });
    let later = later.unwrap();
    assert_eq!(
        (later.outcome, later.api.owner_team.as_str()),
        (ImportOutcome::Revised, "web")
    );
    assert_eq!(later.api.server.as_ref().unwrap().as_str(), PORTAL);
    let same = bank.import(&root(), plain).unwrap();
    assert_eq!(
        (same.outcome, same.api.access),
        (ImportOutcome::Unchanged, Access::Both)
    );
    for (set, field) in [
        (
            ApiImport {
                owner_team: Some("web".into()),
                ..ApiImport::default()
            },
            "owner_team",
        ),
        (
            ApiImport {
                server: Some("portal".into()),
                ..ApiImport::default()
            },
            "server",
        ),
    ] {
        let refused = refusal(bank.import_with(&root(), ACCOUNTS, |given| {
            given.owner_team.clone_from(&set.owner_team);
            given.server.clone_from(&set.server);
        }));
        assert_eq!(
            refused.field.as_deref(),
            Some(field),
            "the document says something else"
        );
    }
    let nobody = ACCOUNTS.replace("service: ledger", "service: nobody");
    let refused = refusal(bank.import(&root(), &nobody));
    assert_eq!(
        refused.document.unwrap().to_string(),
        "accounts.yaml:6: x-counterfoil.service: service nobody is no workload"
    );
}

/// The last element of a list in an estate, a field of it, a value that is not good, and the place that
/// is named then.
const BAD: &[(&str, &str, &str, &str)] = &[
    ("workloads", "name", r#""a/b""#, "workloads[1].name"),
    (
        "workloads",
        "spiffe_id",
        r#""spiffe://other.test/w""#,
        "workloads[1].spiffe_id",
    ),
    (
        "workloads",
        "spiffe_id",
        r#""spiffe://bank.test/counterfoil/control""#,
        "workloads[1].spiffe_id",
    ),
    ("workloads", "name", r#""LEDGER""#, "workloads[1].name"),
    (
        "workloads",
        "addresses",
        r#"["127.0.0.1"]"#,
        "workloads[1].addresses[0]",
    ),
    (
        "workloads",
        "join_token_sha256",
        r#""ab""#,
        "workloads[1].join_token_sha256",
    ),
    (
        "workloads",
        "join_token",
        r#"true"#,
        "workloads[1].join_token",
    ),
    ("workloads", "team", r#""""#, "workloads[1].team"),
    ("apis", "document", r#""{""#, "apis[0].document"),
    ("apis", "file", r#""""#, "apis[0].file"),
    (
        "grants",
        "approved_by",
        r#"" ANN""#,
        "grants[0].approved_by",
    ),
    ("grants", "grant_id", r#""a b""#, "grants[0].grant_id"),
    (
        "grants",
        "operations",
        r#"["x"]"#,
        "grants[0].operations[0]",
    ),
    (
        "grants",
        "operations",
        r#"["health"]"#,
        "grants[0].grant_id",
    ),
];

#[test]
fn an_estate_comes_in_whole_or_not_at_all_and_twice_is_once() {
    let bank = Bank::new();
    let given = |content: Value| serde_json::from_value(content).unwrap();
    let again = bank
        .desk
        .import_estate(&given(fixture::bank()), &root())
        .unwrap();
    assert_eq!((again.workloads, again.apis, again.grants), (0, 0, 0));
    assert_eq!(bank.events().len(), 4);
    for (at, field, value, place) in BAD {
        let mut content = fixture::bank();
        let list = content[*at].as_array_mut().unwrap();
        list.last_mut().unwrap()[*field] = serde_json::from_str(value).unwrap();
        // Something good before the bad one must not stay.
        content["workloads"].as_array_mut().unwrap().insert(0, json!({
            "spiffe_id": "spiffe://bank.test/workload/new", "name": "new", "app": "a", "team": "t",
        }));
        let place = place.replace("workloads[1]", "workloads[2]");
        let refused = refusal(bank.desk.import_estate(&given(content), &root()));
        assert_eq!(refused.field.as_deref(), Some(place.as_str()), "{value}");
    }
    assert!(bank.desk.estate().workload("new").is_none());
    assert_eq!(bank.events().len(), 4);
    let refused = refusal(
        bank.desk
            .import_estate(&given(json!({})), &person("bob", &["core"])),
    );
    assert_eq!(refused.reason, "not_admin");
    assert_eq!(bank.events().len(), 5);
}

#[test]
fn a_change_names_whose_slices_it_touches_and_whether_it_is_urgent() {
    let mut estate = Estate::clone(&fixture::estate(&bank()));
    let now = clock::wall();
    let names = |change: &Change| {
        let names = change.touched.iter().map(|id| id.short_name().to_owned());
        names.collect::<Vec<_>>()
    };
    let (mut revoked, _) =
        grants::take(&estate, "g-1", Step::Revoke, &Note::default(), &root(), now).unwrap();
    assert!(revoked.urgent);
    estate.apply(&mut revoked, now);
    assert_eq!(names(&revoked), ["ledger", "portal"]);
    let given = serde_json::from_value(grant(&["health"])).unwrap();
    let given = requests::GrantImport {
        grant_id: None,
        ..given
    };
    let mut granted = grants::import(&estate, &given, &root(), now).unwrap();
    assert!(!granted.urgent);
    estate.apply(&mut granted, now);
    assert_eq!(names(&granted), ["ledger", "portal"]);
    let moved = json!({
        "spiffe_id": LEDGER, "name": "ledger", "app": "core-ledger", "team": "core",
        "addresses": ["127.0.0.1:9"],
    });
    let moved = serde_json::from_value(moved).unwrap();
    let (mut moved, _) = workloads::register(&estate, &moved, "bank.test", &root(), now).unwrap();
    estate.apply(&mut moved, now);
    assert_eq!(
        names(&moved),
        ["ledger", "portal"],
        "its callers must know the new address"
    );
    assert!(
        estate
            .workload("ledger")
            .unwrap()
            .join_token_sha256
            .is_some(),
        "kept"
    );
}
