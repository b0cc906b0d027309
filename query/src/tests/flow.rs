//! The path of a trace, and what is wrong with it.

use std::sync::Arc;

use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::{SpanId, TraceId};
use counterfoil_entry::word::{Decision, Outcome};
use counterfoil_entry::{Time, clock};
use serde_json::{Value, json};

use super::estate::{MS, ask};
use super::shop::{Proxy, Shop};
use crate::offline;

const TRACE: [u8; 16] = [0xab; 16];
const HEX: &str = "abababababababababababababababab";

/// Three proxies and one trace through them.
struct Path {
    shop: Shop,
    web: Proxy,
    cart: Proxy,
    stock: Proxy,
    begin: Time,
}

/// Which halves of a hop are written.
#[derive(Clone, Copy, PartialEq)]
enum Halves {
    Both,
    Client,
    Server,
}

impl Path {
    fn open() -> Self {
        let mut shop = Shop::open();
        let (web, cart, stock) = (shop.proxy("web"), shop.proxy("cart"), shop.proxy("stock"));
        let begin = shop.now;
        Self {
            shop,
            web,
            cart,
            stock,
            begin,
        }
    }

    /// A call of `names` under `parent`, `ms` after the begin; the spans of its client and server halves.
    fn hop(
        &mut self,
        names: (&str, &str),
        parent: Option<SpanId>,
        ms: i64,
        halves: Halves,
        edit: impl FnOnce(&mut Entry, &mut Entry),
    ) -> (SpanId, SpanId) {
        let at = self.begin.plus_ns(ms * MS);
        let Self {
            shop,
            web,
            cart,
            stock,
            ..
        } = self;
        let of = |name: &str| match name {
            "web" => 0,
            "cart" => 1,
            _ => 2,
        };
        let proxies = [web, cart, stock];
        let (from, to) = (of(names.0), of(names.1));
        let (mut client, mut server) = shop.call(proxies[from], proxies[to], names.1);
        for half in [&mut client, &mut server] {
            half.trace_id = TraceId::new(TRACE);
            half.start_time = at;
            half.end_time = Some(at.plus_ns(5 * MS));
        }
        client.parent_span_id = parent;
        client.decision = Decision::NotRequired;
        client.upstream_ns = Some(4_800_000);
        edit(&mut client, &mut server);
        let spans = (client.span_id.unwrap(), server.span_id.unwrap());
        if halves != Halves::Server {
            shop.write(proxies[from], &client);
        }
        if halves != Halves::Client {
            shop.write(proxies[to], &server);
        }
        spans
    }

    async fn flow(&self, columns: &str) -> Value {
        ask(&self.shop, &format!("select {columns} from flow('{HEX}')")).await
    }

    async fn findings(&self) -> Value {
        let sql = "select finding, trace_id, span_id, side, source from e37 order by finding, side";
        ask(&self.shop, sql).await
    }
}

fn span(number: u64) -> SpanId {
    SpanId::new(number.to_be_bytes()).unwrap()
}

const fn untouched(_: &mut Entry, _: &mut Entry) {}

/// web calls cart, which calls stock three times: an attempt that fails, one that is good and goes on to
/// web, and a call that is denied.
fn told() -> Path {
    let mut path = Path::open();
    let (_, cart) = path.hop(("web", "cart"), None, 0, Halves::Both, untouched);
    // The later call is written first; the first attempt of the other one failed.
    path.hop(
        ("cart", "stock"),
        Some(cart),
        30,
        Halves::Both,
        |_, server| {
            server.decision = Decision::Deny;
            server.reason = Arc::from("grant_none");
            server.outcome = Some(Outcome::Denied);
        },
    );
    path.hop(
        ("cart", "stock"),
        Some(cart),
        10,
        Halves::Client,
        |client, _| {
            client.outcome = Some(Outcome::Unavailable);
            client.mtls = false;
            client.retried = true;
            client.overhead_ns = Some(50_000);
        },
    );
    let (_, stock) = path.hop(
        ("cart", "stock"),
        Some(cart),
        20,
        Halves::Both,
        |client, _| {
            client.attempt = 1;
        },
    );
    path.hop(("stock", "web"), Some(stock), 21, Halves::Both, untouched);
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_is_told_hop_by_hop_with_decisions_attempts_and_what_the_mesh_cost() {
    let mut path = told();
    // Another trace.
    let Path {
        shop, web, cart, ..
    } = &mut path;
    shop.matched(web, cart, "GetCart");
    let columns = "place, depth, parent_place as parent, source || '-' || destination as hop, link, halves, \
                   attempt, retried, decision, outcome, mesh_ns, network_ns, running_mesh_ns as running, \
                   total_mesh_ns as total, finding, complete";
    let row = |place: i64, depth: i64, parent: Option<i64>, hop: &str, cost: (i64, i64)| {
        json!({"place": place, "depth": depth, "parent": parent, "hop": hop,
          "link": if depth == 0 { "root" } else { "called" }, "halves": "both", "attempt": 0,
          "retried": false, "decision": "allow", "outcome": "ok", "mesh_ns": cost.0,
          "network_ns": 800_000, "running": cost.1, "total": 1_250_000, "finding": null,
          "complete": true})
    };
    let mut expected = vec![
        row(1, 0, None, "web-cart", (300_000, 300_000)),
        row(2, 1, Some(1), "cart-stock", (50_000, 350_000)),
        row(3, 1, Some(1), "cart-stock", (300_000, 650_000)),
        row(4, 2, Some(3), "stock-web", (300_000, 950_000)),
        row(5, 1, Some(1), "cart-stock", (300_000, 1_250_000)),
    ];
    expected[1]["halves"] = json!("client");
    expected[1]["retried"] = json!(true);
    expected[1]["decision"] = json!("not_required");
    expected[1]["outcome"] = json!("unavailable");
    expected[1]["network_ns"] = json!(null);
    expected[2]["attempt"] = json!(1);
    expected[4]["decision"] = json!("deny");
    expected[4]["outcome"] = json!("denied");
    // The caller's half says that the call was good, which a denied one was not.
    expected[4]["finding"] = json!("decisions_disagree");
    assert_eq!(path.flow(columns).await, json!(expected));
    let upper = format!("select count(*) as n from flow('{}')", HEX.to_uppercase());
    assert_eq!(ask(&path.shop, &upper).await, json!([{"n": 5}]));
    let sql = "select reason, after_caller_ns, client_duration_ns, server_duration_ns, server_upstream_ns, \
               client_overhead_ns, server_overhead_ns, trace_id, status from flow('%') where place = 5";
    assert_eq!(
        ask(&path.shop, &sql.replace('%', HEX)).await,
        json!([{"reason": "grant_none", "after_caller_ns": 30_000_000, "client_duration_ns": 5_000_000,
          "server_duration_ns": 4_000_000, "server_upstream_ns": 3_900_000, "client_overhead_ns": 200_000,
          "server_overhead_ns": 100_000, "trace_id": HEX, "status": 200}])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_without_holes_is_no_finding_also_when_it_began_outside_the_mesh() {
    let mut path = Path::open();
    // The application that began the trace calls twice, each time under a span of its own.
    let (_, cart) = path.hop(
        ("web", "cart"),
        Some(span(0xa1)),
        0,
        Halves::Both,
        untouched,
    );
    path.hop(
        ("web", "cart"),
        Some(span(0xa2)),
        50,
        Halves::Both,
        untouched,
    );
    path.hop(
        ("cart", "stock"),
        Some(cart),
        1,
        Halves::Both,
        |client, server| {
            // By another clock that is off by less than anybody knows.
            server.start_time = client.start_time.plus_ns(-900 * MS);
            server.decision = Decision::Deny;
            server.outcome = Some(Outcome::Denied);
            client.outcome = Some(Outcome::Denied);
        },
    );
    assert_eq!(path.findings().await, json!([]));
    let links = path.flow("link, finding, complete").await;
    let row = |link: &str| json!({"link": link, "finding": null, "complete": true});
    assert_eq!(
        links,
        json!([row("outside"), row("called"), row("outside")])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_in_a_flow_are_found() {
    let mut path = Path::open();
    let (_, cart) = path.hop(("web", "cart"), None, 0, Halves::Both, untouched);
    let alone = path.hop(("cart", "stock"), Some(cart), 1, Halves::Client, untouched);
    let called = path.hop(("cart", "stock"), Some(cart), 2, Halves::Server, untouched);
    let orphan = path.hop(
        ("cart", "stock"),
        Some(span(0xff)),
        3,
        Halves::Both,
        untouched,
    );
    let finding = |finding: &str, span: SpanId, side: &str| {
        json!({"finding": finding, "trace_id": HEX, "span_id": span.to_string(), "side": side,
          "source": "spiffe://shop.test/workload/cart"})
    };
    let expected = json!([
        finding("client_half_missing", called.1, "server"),
        finding("parent_unknown", orphan.0, "client"),
        finding("server_half_missing", alone.0, "client"),
    ]);
    assert_eq!(path.findings().await, expected);
    path.shop.seal(true);
    assert_eq!(path.findings().await, expected);
    let row = |place: i64, halves: &str, finding: Option<&str>| json!({"place": place, "halves": halves, "finding": finding, "complete": false});
    assert_eq!(
        path.flow("place, halves, finding, complete").await,
        json!([
            row(1, "both", None),
            row(2, "client", Some("server_half_missing")),
            row(3, "server", Some("client_half_missing")),
            row(4, "both", Some("parent_unknown")),
        ])
    );
    // In a window without the hops nothing is found; in one with them their callers before it are known.
    let from = |ms: i64| path.begin.plus_ns(ms * MS);
    let count = |from: Time| format!("select count(*) as n from e37('{from}', null)");
    assert_eq!(ask(&path.shop, &count(from(4))).await, json!([{"n": 0}]));
    assert_eq!(ask(&path.shop, &count(from(2))).await, json!([{"n": 2}]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hops_before_their_caller_and_sides_that_disagree_are_found() {
    let mut path = Path::open();
    let (_, cart) = path.hop(("web", "cart"), None, 0, Halves::Both, untouched);
    // cart's proxy wrote both by one clock.
    let early = path.hop(("cart", "stock"), Some(cart), -1, Halves::Both, untouched);
    // Two clocks, each half a second off at most as far as anybody knows; then they know better.
    let (late, known) = (span(0xd1), span(0xd2));
    for (span, error_ns) in [(late, None), (known, Some(1_000))] {
        path.hop(("web", "cart"), None, 10, Halves::Both, |client, server| {
            client.span_id = Some(span);
            server.parent_span_id = Some(span);
            client.clock_error_ns = error_ns;
            server.clock_error_ns = error_ns;
            let off_ms = if error_ns.is_some() { 1 } else { 1_001 };
            server.start_time = client.start_time.plus_ns(-off_ms * MS);
        });
    }
    let through = path.hop(("web", "cart"), None, 20, Halves::Both, |client, _| {
        client.decision = Decision::Deny;
    });
    let told = path.hop(("web", "cart"), None, 30, Halves::Both, |client, _| {
        client.outcome = Some(Outcome::Denied);
    });
    let sql = "select finding, side, coalesce(parent_span_id, '') as parent, span_id from e37 order by 1, 2, 3";
    let rows = ask(&path.shop, sql).await;
    let found: Vec<String> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let word = |name: &str| row[name].as_str().unwrap().to_owned();
            let span = if word("side") == "client" {
                "span_id"
            } else {
                "parent"
            };
            format!("{} {} {}", word("finding"), word("side"), word(span))
        })
        .collect();
    let mut expected = vec![
        format!("decisions_disagree server {}", through.0),
        format!("decisions_disagree server {}", told.0),
        format!("starts_before_caller client {}", early.0),
        format!("starts_before_caller server {late}"),
        format!("starts_before_caller server {known}"),
    ];
    expected.sort();
    let mut sorted = found.clone();
    sorted.sort();
    assert_eq!(sorted, expected);
    let told = path.flow("finding").await;
    let told: Vec<&str> = told
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["finding"].as_str())
        .collect();
    assert_eq!(
        told.iter()
            .filter(|one| **one == "starts_before_caller")
            .count(),
        3
    );
    assert_eq!(
        told.iter()
            .filter(|one| **one == "decisions_disagree")
            .count(),
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_hops_circles_and_foreign_spans_neither_loop_nor_explode() {
    let mut path = Path::open();
    let mut parent = None;
    for _ in 0..5_000 {
        let (_, server) = path.hop(("web", "cart"), parent, 0, Halves::Both, untouched);
        parent = Some(server);
    }
    // All with the same spans, each its own parent.
    for _ in 0..5_000 {
        path.hop(
            ("web", "cart"),
            Some(span(0xee)),
            1,
            Halves::Both,
            |client, server| {
                client.span_id = Some(span(0xee));
                server.parent_span_id = Some(span(0xee));
                server.span_id = Some(span(0xee));
            },
        );
    }
    path.shop.seal(true);
    let began_ns = clock::mono_ns();
    let sql = format!(
        "select count(*) as n, max(place) as last, max(depth) as deepest, \
         count(case when link = 'cycle' then 1 end) as cycles, bool_or(complete) as complete \
         from flow('{HEX}')"
    );
    assert_eq!(
        ask(&path.shop, &sql).await,
        json!([{"n": 10_000, "last": 10_000, "deepest": 4_999, "cycles": 1, "complete": false}])
    );
    assert_eq!(path.findings().await, json!([]));
    let took_ns = clock::mono_ns() - began_ns;
    assert!(took_ns < 120_000_000_000, "{took_ns}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_gap_in_the_time_of_a_trace_makes_its_flow_incomplete() {
    let mut path = Path::open();
    path.hop(("web", "cart"), None, 0, Halves::Both, untouched);
    assert_eq!(path.flow("complete").await, json!([{"complete": true}]));
    path.shop.gap("stock", 7, Some("grants/permanent/0"), 1);
    assert_eq!(path.flow("complete").await, json!([{"complete": true}]));
    path.shop.gap("stock", 8, None, 1);
    assert_eq!(path.flow("complete").await, json!([{"complete": false}]));
    path.shop.gap("stock", 8, None, 2);
    assert_eq!(path.flow("complete").await, json!([{"complete": true}]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_trace_id_is_refused_and_an_unknown_one_has_no_hops() {
    let path = Path::open();
    assert_eq!(path.flow("place").await, json!([]));
    let zeros = "0".repeat(32);
    for argument in [
        "",
        "'ab'",
        "null",
        "1",
        "'x; drop'",
        &format!("'{HEX}', 'b'"),
        &format!("'{zeros}'"),
    ] {
        let sql = format!("select * from flow({argument})");
        let error = offline::query(path.shop.path(), None, &sql)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("flow takes one trace id"),
            "{sql}: {error}"
        );
    }
}
