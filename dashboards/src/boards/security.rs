//! Who was refused and why, what is granted, and what rights changed.

use super::{SECURITY, TO_SERVICE, governance, others, services};
use crate::board::{Board, Section};
use crate::panel::{Panel, Shape};
use crate::unit::Unit;

/// What a callee is called in the tables of denials and entries.
const CALLEE: &str = "coalesce(destination_app, reverse(split_part(reverse(destination), '/', 1)))";
const CALLER: &str = "coalesce(source_app, reverse(split_part(reverse(source), '/', 1)))";

pub(super) fn board() -> Board {
    Board {
        uid: SECURITY.0,
        title: SECURITY.1,
        description: "What was refused and why, who may call what, and whether changes of rights took hold.",
        since: "6h",
        refresh: "1m",
        variables: vec![services(true)],
        annotations: vec![governance()],
        links: others(SECURITY),
        sections: vec![
            Section {
                title: "Refused",
                panels: [figures(), over_time()].concat(),
            },
            Section {
                title: "Who and what",
                panels: refused(),
            },
            Section {
                title: "Rights",
                panels: rights(),
            },
            Section {
                title: "Controls",
                panels: controls(),
            },
        ],
    }
}

fn figures() -> Vec<Panel> {
    vec![
        Panel::new(
            1,
            Shape::Stat,
            Unit::Count,
            "Denied calls",
            "Calls that a proxy did not let through, in the time range, of all services.",
            "SELECT count(*) AS denied FROM denials WHERE $__timeFilter(start_time)",
        ),
        Panel::new(
            2,
            Shape::Stat,
            Unit::Count,
            "Refused handshakes",
            "Connections that ended before a call was made, in the time range.",
            "SELECT count(*) AS refused FROM tls_failures WHERE $__timeFilter(start_time)",
        ),
        Panel::new(
            3,
            Shape::Stat,
            Unit::Count,
            "Entries without mutual TLS",
            "Entries of the time range whose other side showed no certificate, foreign meshes included. It should be 0.",
            "SELECT count(*) AS plain FROM entries
WHERE NOT mtls AND phase = 'final' AND kind <> 'tls_failure' AND decision <> 'deny' AND side = 'server'
  AND $__timeFilter(start_time)",
        )
        .steps("green", &[(1.0, "red")]),
        Panel::new(
            4,
            Shape::Stat,
            Unit::Count,
            "Calls without a valid grant",
            "Rows of report E01 in the time range: calls that were let through although no grant for them was in force. It should be 0.",
            "SELECT count(*) AS findings FROM e01($__timeFrom(), $__timeTo())",
        )
        .steps("green", &[(1.0, "red")]),
    ]
}

fn over_time() -> Vec<Panel> {
    vec![
        Panel::new(
            5,
            Shape::Stacked,
            Unit::Count,
            "Denied calls by reason",
            "By the stable reason that the deciding proxy wrote down.",
            format!(
                "SELECT $__timeGroupAlias(start_time, $__interval), reason AS metric, count(*) AS denied
FROM denials WHERE $__timeFilter(start_time) AND {CALLEE} IN (${{service:sqlstring}})
GROUP BY 1, 2 ORDER BY 1, 2"
            ),
        ),
        Panel::new(
            6,
            Shape::Stacked,
            Unit::Count,
            "Refused handshakes by reason",
            "By what was wrong with the certificate, or with the handshake.",
            "SELECT $__timeGroupAlias(start_time, $__interval), reason AS metric, count(*) AS refused
FROM tls_failures WHERE $__timeFilter(start_time)
GROUP BY 1, 2 ORDER BY 1, 2",
        ),
        Panel::new(
            7,
            Shape::Stacked,
            Unit::Count,
            "Token problems by reason",
            "Calls that were denied for their token: expired, for another audience, by an unknown key, over another's certificate.",
            "SELECT $__timeGroupAlias(start_time, $__interval), reason AS metric, count(*) AS denied
FROM denials WHERE $__timeFilter(start_time) AND starts_with(reason, 'token_')
GROUP BY 1, 2 ORDER BY 1, 2",
        ),
        Panel::new(
            8,
            Shape::Stacked,
            Unit::Count,
            "What proposed rights would break",
            "Allowed calls that the proposed rights would deny (the shadow decision), by reason.",
            format!(
                "SELECT $__timeGroupAlias(start_time, $__interval), coalesce(shadow_reason, 'unknown') AS metric, count(*) AS calls
FROM entries WHERE shadow_decision = 'deny' AND decision = 'allow' AND $__timeFilter(start_time)
  AND {CALLEE} IN (${{service:sqlstring}})
GROUP BY 1, 2 ORDER BY 1, 2"
            ),
        ),
    ]
}

fn refused() -> Vec<Panel> {
    vec![
        Panel::new(
            9,
            Shape::Table,
            Unit::Count,
            "Denied callers and operations",
            "Who was denied what, most often first. grant_none: declared, but this consumer has no grant; route_unknown: nothing is declared under that path.",
            format!(
                "SELECT {CALLER} AS caller, {CALLEE} AS service, operation, reason, count(*) AS denied,
  min(start_time) AS first_at, max(start_time) AS last_at
FROM denials WHERE $__timeFilter(start_time)
GROUP BY 1, 2, 3, 4 ORDER BY denied DESC, 1, 2, 3, 4 LIMIT 200"
            ),
        )
        .link("service", TO_SERVICE),
        Panel::new(
            10,
            Shape::Table,
            Unit::Count,
            "All refused access (report E18)",
            "Denied calls, bad tokens, refused handshakes and refused acts of people. complete: whether the tables that this rests on are.",
            "SELECT kind, reason, side, source, destination, operation, peer_address, attempts, first_at, last_at, complete
FROM e18($__timeFrom(), $__timeTo()) ORDER BY attempts DESC, kind, reason, source, destination LIMIT 500",
        ),
        Panel::new(
            11,
            Shape::Table,
            Unit::Count,
            "First seen",
            "Callers and operations whose first call in the roll-ups lies in the time range: new habits, wanted or not.",
            "SELECT source_app AS caller, destination_app AS service, coalesce(operation, '') AS operation,
  min(time) AS first_seen, sum(n) AS calls
FROM rollup_1m WHERE side = 'call' GROUP BY 1, 2, 3
HAVING min(time) >= CAST($__timeFrom() AS TIMESTAMPTZ) AND min(time) < CAST($__timeTo() AS TIMESTAMPTZ)
ORDER BY first_seen DESC, 1, 2, 3 LIMIT 200",
        )
        .link("service", TO_SERVICE),
    ]
}

fn rights() -> Vec<Panel> {
    vec![
        Panel::new(
            12,
            Shape::Table,
            Unit::Count,
            "Grants in force",
            "Who may call what, for which purpose, approved by whom; unused and unreviewed ones first.",
            "SELECT grant_id, consumer, api, operations, purpose, ticket, requested_by, decided_by, expires, calls,
  days_unused, unused, days_unreviewed, unreviewed
FROM access_review ORDER BY unused DESC, unreviewed DESC, grant_id LIMIT 1000",
        )
        .columns(Unit::Days, &["days_unused", "days_unreviewed"]),
        Panel::new(
            13,
            Shape::Table,
            Unit::Milliseconds,
            "Revocations",
            "How long each proxy process took to put a revocation in force, and how many calls it let through meanwhile. Promised are 2 s.",
            "SELECT grant_id, consumer, api, operations, revoked_by, revoked_at, proxy, published_at, enforced_at, delay_ms,
  calls_after
FROM revocations($__timeFrom(), $__timeTo()) ORDER BY revoked_at DESC, delay_ms DESC NULLS FIRST, proxy LIMIT 500",
        )
        .columns(Unit::Count, &["calls_after"]),
        Panel::new(
            14,
            Shape::Stacked,
            Unit::Count,
            "Bundles put in force, by outcome",
            "What proxies said of the bundles that they got: applied, or refused and why.",
            "SELECT $__timeGroupAlias(acked_at, $__interval),
  CASE WHEN reason IS NULL THEN outcome ELSE outcome || ' ' || reason END AS metric, count(*) AS acks
FROM bundle_acks WHERE $__timeFilter(acked_at)
GROUP BY 1, 2 ORDER BY 1, 2",
        ),
        Panel::new(
            15,
            Shape::Table,
            Unit::Count,
            "Changes of catalogue and rights",
            "Who changed what, with its ticket, and who was not let.",
            "SELECT occurred_at, actor, action, object_kind, object_id, object_revision, outcome, reason, ticket, comment
FROM governance_events WHERE $__timeFilter(occurred_at) ORDER BY occurred_at DESC, event_id LIMIT 500",
        )
        .columns(Unit::Plain, &["object_revision"])
        .size(12, 8),
    ]
}

fn controls() -> Vec<Panel> {
    vec![
        Panel::new(
            16,
            Shape::Table,
            Unit::Count,
            "Reports",
            "Every named report over the time range: rows, verdict, and how complete the books are on which it rests. A clean report over books that are not complete proves nothing.",
            "SELECT id, name, kind, rows, verdict, complete, due, present, missing, dropped, gaps_open
FROM report_summary($__timeFrom(), $__timeTo()) ORDER BY id",
        ),
        Panel::new(
            17,
            Shape::Table,
            Unit::Count,
            "Conformance checks",
            "The newest outcome of each check of a proxy or a mesh, failures first.",
            "SELECT target, check, title, severity, outcome, checked_at, build FROM (
  SELECT *, row_number() OVER (PARTITION BY target, check ORDER BY checked_at DESC) AS place FROM conformance_results
) WHERE place = 1 ORDER BY outcome, severity, target, check LIMIT 500",
        ),
    ]
}
