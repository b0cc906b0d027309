//! Access modes, tokens and shadow verdicts, through real proxies.

use std::sync::Arc;
use std::time::Duration;

use counterfoil_entry::entry::Entry;
use counterfoil_entry::word::{Decision, Outcome};
use counterfoil_proxy::Policy;
use counterfoil_trust::bundle::{Access, Bundle, Grant};
use counterfoil_trust::{Identity, SpiffeId, Svid};

use crate::app;
use crate::books::{DEADLINE, agreed, entries, files, wait_for};
use crate::ca::{Ca, Leaf};
use crate::client::{Raw, ask, get};
use crate::issuer::{Answers, Desk, Issuer, USUAL};
use crate::world::{CART, Running, SHOP, Setup, cart_bundle, shop_bundle};

const PIRATE: &str = "spiffe://bank.test/workload/pirate";

/// Shop and cart as usual, and a control that gives the shop tokens; the cart wants `access`.
struct World {
    ca: Ca,
    issuer: Issuer,
    identity: Identity,
    shop: Running,
    cart: Running,
    access: Access,
}

fn wanting(access: Access, mut bundle: Bundle) -> Bundle {
    let peers = bundle
        .rights
        .peers
        .iter_mut()
        .flat_map(|peer| &mut peer.apis);
    for api in bundle.rights.apis.iter_mut().chain(peers) {
        api.access = access;
    }
    bundle
}

impl World {
    async fn start(access: Access) -> Self {
        let app = app::start(app::echo()).await;
        let ca = Ca::new();
        let issuer = Issuer::start(&ca).await;
        let keys = format!("control = \"{}\"", issuer.address);
        let cart = Setup::new(CART, app).start(&ca);
        let identity = ca.identity(SHOP);
        let shop = Setup {
            keys: &keys,
            ..Setup::new(SHOP, app)
        }
        .start_as(&identity);
        shop.policy
            .put(Policy::compile(wanting(access, shop_bundle(CART, cart.inbound))).unwrap());
        let world = Self {
            ca,
            issuer,
            identity,
            shop,
            cart,
            access,
        };
        world.give_cart(|_| {});
        world
    }

    fn desk(&self) -> &Arc<Desk> {
        &self.issuer.desk
    }

    /// Puts the cart's bundle in force, changed by `change`.
    fn give_cart(&self, change: impl FnOnce(&mut Bundle)) {
        let mut bundle = wanting(self.access, cart_bundle());
        bundle.rights.tokens = Some(self.desk().rules());
        change(&mut bundle);
        self.cart.policy.put(Policy::compile(bundle).unwrap());
    }

    async fn get(&self, path: &str) -> String {
        ask(self.shop.outbound, &get("cart", path)).await
    }

    /// Asks with credentials of the application's own.
    async fn get_showing(&self, path: &str, authorization: &str) -> String {
        ask(self.shop.outbound, &showing(path, authorization)).await
    }

    /// Asks until the answer has `status`, and gives how often it was asked.
    async fn get_until(&self, path: &str, status: u16) -> usize {
        let asking = async {
            let mut times = 0;
            loop {
                times += 1;
                let answer = self.get(path).await;
                if answer.starts_with(&format!("HTTP/1.1 {status} ")) {
                    return times;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, asking).await.unwrap()
    }

    /// The cart's entry of the one call so far.
    async fn server_entry(&self) -> Entry {
        wait_for(&self.cart.books(), 1).await.remove(0)
    }

    /// Renews the shop's SVID.
    fn rotate(&self) -> Arc<Svid> {
        let (chain, key) = self.ca.leaf(&Leaf::good(SHOP));
        self.identity.replace(Svid::from_pem(&chain, &key).unwrap());
        self.identity.current()
    }

    /// No token is in any file of the proxies.
    fn assert_no_token_is_kept(&self) {
        let issued = self.desk().issued();
        assert!(!issued.is_empty());
        for directory in [&self.shop.directory, &self.cart.directory] {
            for file in files(directory.path()) {
                let bytes = std::fs::read(&file).unwrap();
                for part in issued.iter().flat_map(|token| token.split('.').skip(1)) {
                    let found = bytes
                        .windows(part.len())
                        .any(|some| some == part.as_bytes());
                    assert!(!found, "a token in {}", file.display());
                }
            }
        }
    }
}

fn showing(path: &str, authorization: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\
         authorization: {authorization}\r\n\r\n"
    )
}

#[track_caller]
fn assert_allowed(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.to_lowercase().contains("authorization"), "{answer}");
}

#[track_caller]
fn assert_denied(answer: &str, reason: &str) {
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let reason = format!("x-counterfoil-reason: {reason}\r\n");
    assert!(answer.contains(&reason), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_fetched_shown_and_checked_and_the_application_never_sees_it() {
    let world = World::start(Access::Token).await;
    for _ in 0..3 {
        assert_allowed(&world.get("/carts/1").await);
    }
    // one was enough
    assert_eq!(world.desk().issued().len(), 1);
    let client = wait_for(&world.shop.books(), 3).await;
    let server = wait_for(&world.cart.books(), 3).await;
    for (client, server) in client.iter().zip(&server) {
        agreed(client, server);
        assert_eq!(
            (server.decision, &*server.reason),
            (Decision::Allow, "token_granted")
        );
        assert_eq!(server.grant_id.as_deref(), Some("g-readCart"));
        assert_eq!(server.token_id.as_deref(), Some("j-0"));
        let issuer = "https://bank.test/counterfoil/control";
        assert_eq!(server.token_issuer.as_deref(), Some(issuer));
        let kid = &*world.desk().signer.public().kid;
        assert_eq!(server.token_key.as_deref(), Some(kid));
        assert_eq!(server.shadow_decision, None);
        // who did not check it says nothing of it
        assert_eq!(client.token_id, None);
    }
    // what the token does not name is denied by its scope
    assert_denied(&world.get("/secret").await, "token_scope");
    world.assert_no_token_is_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_mode_both_a_grant_and_a_token_are_needed() {
    let world = World::start(Access::Both).await;
    assert_allowed(&world.get("/carts/1").await);
    let server = world.server_entry().await;
    assert_eq!(&*server.reason, "granted");
    assert_eq!(server.grant_id.as_deref(), Some("g-readCart"));
    assert_eq!(server.token_id.as_deref(), Some("j-0"));
    assert_denied(&world.get("/secret").await, "grant_none");
    // the grant is taken away, and the token that still names the operation does not help
    world.give_cart(|bundle| bundle.rights.grants.clear());
    assert_denied(&world.get("/carts/1").await, "grant_none");
    let server = wait_for(&world.cart.books(), 3).await.remove(2);
    assert_eq!(server.token_id.as_deref(), Some("j-0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_token_is_refused_and_the_entry_says_so() {
    for access in [Access::Token, Access::Both] {
        let world = World::start(access).await;
        assert_allowed(&world.get("/carts/1").await);
        let stolen = format!("Bearer {}", world.desk().issued()[0]);

        let app = app::start(|_| panic!("nobody calls the pirate")).await;
        let pirate = Setup::new(PIRATE, app).start(&world.ca);
        let bundle = wanting(access, shop_bundle(CART, world.cart.inbound));
        pirate.policy.put(Policy::compile(bundle).unwrap());
        let answer = ask(pirate.outbound, &showing("/carts/1", &stolen)).await;
        assert_denied(&answer, "token_cnf_mismatch");

        let server = wait_for(&world.cart.books(), 2).await.remove(1);
        assert_eq!(server.source.as_deref(), Some(PIRATE));
        assert_eq!(
            (server.decision, &*server.reason),
            (Decision::Deny, "token_cnf_mismatch")
        );
        assert_eq!(server.outcome, Some(Outcome::Denied));
        assert_eq!(
            server.token_id.as_deref(),
            Some("j-0"),
            "whose token it was"
        );
        let client = wait_for(&pirate.books(), 1).await.remove(0);
        agreed(&client, &server);
        world.assert_no_token_is_kept();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_forged_token_is_refused_with_its_reason() {
    let world = World::start(Access::Token).await;
    assert_allowed(&world.get("/carts/1").await);
    let good = world.desk().issued()[0].clone();
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("{good}");
    };
    let turned: String = signature.chars().rev().collect();
    // {"alg":"none","typ":"at+jwt"} and {"alg":"HS256","typ":"at+jwt"}
    let (none, hs256) = (
        "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6ImF0K2p3dCJ9",
    );
    for (at, (shown, reason)) in [
        (format!("Bearer {none}.{claims}."), "token_alg"),
        (format!("Bearer {none}.{claims}.{signature}"), "token_alg"),
        (format!("Bearer {hs256}.{claims}.{signature}"), "token_alg"),
        (
            format!("Bearer {header}.{claims}.{turned}"),
            "token_bad_sig",
        ),
        (format!("Bearer {header}.{claims}"), "token_malformed"),
        (format!("Bearer {good}, Bearer {good}"), "token_malformed"),
        (
            format!("Bearer {good}\r\nauthorization: Bearer {good}"),
            "token_malformed",
        ),
        (format!("Bearer {}", "x".repeat(9_000)), "token_malformed"),
        ("Basic c2hvcDo=".to_owned(), "token_missing"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_denied(&world.get_showing("/carts/1", &shown).await, reason);
        let server = wait_for(&world.cart.books(), at + 2).await.remove(at + 1);
        assert_eq!((server.decision, &*server.reason), (Decision::Deny, reason));
        assert_eq!(server.token_id, None, "nothing of it is believed");
    }
    // a token in the query is none, and the proxy shows its own
    assert_allowed(&world.get("/carts/1?access_token=x.y.z").await);
    world.assert_no_token_is_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_mode_bundle_the_applications_own_authorization_passes_untouched() {
    let world = World::start(Access::Bundle).await;
    let answer = world.get_showing("/carts/1", "Basic c2hvcDo=").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer.contains("authorization: Basic c2hvcDo=\n"),
        "{answer}"
    );
    let server = world.server_entry().await;
    assert_eq!((&*server.reason, server.token_id), ("granted", None));
    assert!(world.desk().issued().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_operation_needs_no_token() {
    let world = World::start(Access::Token).await;
    assert_allowed(&world.get("/health").await);
    assert_eq!(&*world.server_entry().await.reason, "open_operation");
    assert!(world.desk().issued().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_control_gives_no_token_the_callee_says_why() {
    for (access, path, reason) in [
        (Access::Token, "/carts/1", "token_missing"),
        (Access::Both, "/secret", "grant_none"),
    ] {
        let world = World::start(access).await;
        world.desk().answer_with(Answers::Refused);
        assert_denied(&world.get(path).await, reason);
        let client = wait_for(&world.shop.books(), 1).await.remove(0);
        agreed(&client, &world.server_entry().await);
        // a right that is given is found soon
        world.desk().answer_with(USUAL);
        world.get_until("/carts/1", 200).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_control_is_away_a_kept_token_is_good_and_without_one_calls_fail() {
    let mut world = World::start(Access::Token).await;
    world.desk().answer_with(Answers::Broken);
    for _ in 0..3 {
        let answer = world.get("/carts/1").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(
            answer.contains("x-counterfoil-reason: token_unavailable\r\n"),
            "{answer}"
        );
    }
    for client in wait_for(&world.shop.books(), 3).await {
        assert_eq!(client.outcome, Some(Outcome::Unavailable));
        assert_eq!(client.error_type.as_deref(), Some("token_unavailable"));
        assert!(!client.mtls, "nothing went to the callee");
    }
    assert!(entries(&world.cart.books()).is_empty());

    world.desk().answer_with(USUAL);
    world.get_until("/carts/1", 200).await;
    world.issuer.stop().await;
    for _ in 0..5 {
        assert_allowed(&world.get("/carts/1").await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_begin_together_share_one_token() {
    let world = World::start(Access::Token).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let outbound = world.shop.outbound;
        calls.spawn(async move { ask(outbound, &get("cart", "/carts/1")).await });
    }
    for answer in calls.join_all().await {
        assert_allowed(&answer);
    }
    assert_eq!(world.desk().issued().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_brings_a_renewed_token_and_no_call_fails() {
    let world = World::start(Access::Token).await;
    let mut raw = Raw::connect(world.shop.outbound).await;
    let mut calls = 0;
    for renewal in 1..=3 {
        let svid = world.rotate();
        let renewing = async {
            loop {
                calls += 1;
                raw.send("GET /carts/1 HTTP/1.1\r\nhost: cart\r\n\r\n")
                    .await;
                let answer = raw.read_to("\n\n").await;
                assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                let server = wait_for(&world.cart.books(), calls).await;
                if server.last().unwrap().source_cert_sha256 == Some(svid.cert_sha256()) {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, renewing).await.unwrap();
        assert_eq!(world.desk().issued().len(), renewal);
    }
    for (client, server) in wait_for(&world.shop.books(), calls)
        .await
        .iter()
        .zip(&wait_for(&world.cart.books(), calls).await)
    {
        agreed(client, server);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_renewed_before_it_expires_and_no_call_fails() {
    let world = World::start(Access::Token).await;
    world.desk().answer_with(Answers::Token(&["readCart"], 2));
    let renewing = async {
        while world.desk().issued().len() < 3 {
            assert_allowed(&world.get("/carts/1").await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, renewing).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_the_callee_refuses_is_replaced() {
    let world = World::start(Access::Token).await;
    // what is granted after the token was signed
    world
        .desk()
        .answer_with(Answers::Token(&["fillCart"], 3_600));
    assert_denied(&world.get("/carts/1").await, "token_scope");
    world.desk().answer_with(USUAL);
    world.get_until("/carts/1", 200).await;
    // a token that was taken back
    let issued = world.desk().issued().len();
    world.give_cart(|bundle| {
        let rules = bundle.rights.tokens.as_mut().unwrap();
        rules.revoked = (0..issued).map(|number| format!("j-{number}")).collect();
    });
    assert_denied(&world.get("/carts/1").await, "token_revoked");
    world.get_until("/carts/1", 200).await;
    // however often it is refused, control is not asked each time
    world.give_cart(|bundle| bundle.rights.tokens.as_mut().unwrap().keys.clear());
    let issued = world.desk().issued().len();
    for _ in 0..50 {
        assert_denied(&world.get("/carts/1").await, "token_key_unknown");
    }
    assert!(world.desk().issued().len() < issued + 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shadow_verdict_is_written_down_and_changes_nothing() {
    let world = World::start(Access::Bundle).await;
    // proposed: the shop may drop carts, and read none
    world.give_cart(|bundle| {
        bundle.rights.candidate = Some(vec![Grant {
            grant_id: "g-new".to_owned(),
            consumer: SpiffeId::parse(SHOP).unwrap(),
            api: "cart".to_owned(),
            operation: "dropCart".to_owned(),
            not_before: None,
            expires: None,
        }]);
    });
    assert_allowed(&world.get("/carts/1").await);
    assert_denied(&world.get("/secret").await, "grant_none");
    assert_denied(&world.get("/nothing").await, "route_unknown");
    world.give_cart(|_| {});
    assert_allowed(&world.get("/carts/1").await);
    let told: Vec<_> = wait_for(&world.cart.books(), 4)
        .await
        .iter()
        .map(|entry| {
            (
                entry.decision.as_str(),
                entry.reason.to_string(),
                entry.shadow_decision.as_deref().map(str::to_owned),
                entry.shadow_reason.as_deref().map(str::to_owned),
            )
        })
        .collect();
    let word = |text: &str| Some(text.to_owned());
    assert_eq!(
        told,
        [
            (
                "allow",
                "granted".to_owned(),
                word("deny"),
                word("grant_none")
            ),
            (
                "deny",
                "grant_none".to_owned(),
                word("allow"),
                word("granted")
            ),
            (
                "deny",
                "route_unknown".to_owned(),
                word("deny"),
                word("route_unknown")
            ),
            ("allow", "granted".to_owned(), None, None),
        ]
    );
}
