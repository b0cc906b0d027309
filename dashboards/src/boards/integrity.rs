//! Whether the books are complete, whether certificates are renewed and control answers, and who asked.

use super::{INTEGRITY, governance, others};
use crate::board::{Annotation, Board, Section};
use crate::panel::{Panel, Shape};
use crate::unit::Unit;

pub(super) fn board() -> Board {
    Board {
        uid: INTEGRITY.0,
        title: INTEGRITY.1,
        description: "Whether the books are complete, whether certificates are renewed in time, whether control answers, and who asked what.",
        since: "24h",
        refresh: "1m",
        variables: Vec::new(),
        annotations: vec![governance(), failed_renewals(), gaps()],
        links: others(INTEGRITY),
        sections: vec![
            Section {
                title: "Books",
                panels: figures(),
            },
            Section {
                title: "Holes and statements",
                panels: [books(), sealed()].concat(),
            },
            Section {
                title: "Certificates",
                panels: certificates(),
            },
            Section {
                title: "Control plane",
                panels: control(),
            },
            Section {
                title: "Retention",
                panels: retention(),
            },
            Section {
                title: "Who asked",
                panels: asked(),
            },
        ],
    }
}

fn failed_renewals() -> Annotation {
    Annotation {
        name: "Failed renewals",
        color: "orange",
        sql: "SELECT ended_at AS \"time\", workload || ': ' || coalesce(error_class, 'unknown') AS text, trigger AS tags
FROM cert_rotations WHERE outcome <> 'success' AND $__timeFilter(ended_at) ORDER BY 1",
    }
}

fn gaps() -> Annotation {
    Annotation {
        name: "Gaps",
        color: "red",
        sql: "SELECT opened_at AS \"time\", subject_writer || ': ' || cause AS text, detected_by AS tags
FROM gaps WHERE revision = 1 AND $__timeFilter(opened_at) ORDER BY 1",
    }
}

fn retention() -> Vec<Panel> {
    vec![
        Panel::new(
            23,
            Shape::Table,
            Unit::Plain,
            "Legal holds that bind",
            "What must not leave the books, for which case, and who said so. A hold that one person wants released binds until a second one does, too.",
            "SELECT matter, state, service, operation, from_time, until_time, actor, reason, occurred_at, hold_id FROM (
  SELECT *, row_number() OVER (PARTITION BY hold_id ORDER BY revision DESC) AS place FROM legal_holds
) WHERE place = 1 AND state <> 'released' ORDER BY occurred_at, hold_id",
        ),
        Panel::new(
            24,
            Shape::Table,
            Unit::Count,
            "Steps of retention",
            "Plans, approvals, deletions and refusals of the time range, the newest first.",
            "SELECT occurred_at, step, outcome, reason, actor, segments, records, bytes, detail
FROM retention_actions WHERE $__timeFilter(occurred_at) ORDER BY occurred_at DESC, action_id LIMIT 200",
        )
        .columns(Unit::Bytes, &["bytes"]),
    ]
}

fn figures() -> Vec<Panel> {
    vec![
        Panel::new(
            1,
            Shape::Stat,
            Unit::Count,
            "Entries due and present",
            "Of all the books: what signed statements account for, what of it is there, missing, and declared dropped, and what no statement accounts for yet. missing and dropped should be 0.",
            "SELECT sum(due) AS due, sum(present) AS present, sum(missing) AS missing, sum(dropped) AS dropped,
  sum(unstated) AS unstated FROM completeness",
        )
        .size(12, 4),
        Panel::new(
            2,
            Shape::Stat,
            Unit::Count,
            "Open gaps",
            "Holes that were found and are not closed.",
            "SELECT count(CASE WHEN closed_at IS NULL THEN 1 END) AS open_gaps FROM (
  SELECT closed_at, row_number() OVER (PARTITION BY gap_id ORDER BY revision DESC) AS place FROM gaps
) WHERE place = 1",
        )
        .steps("green", &[(1.0, "red")])
        .size(4, 4),
        Panel::new(
            3,
            Shape::Stat,
            Unit::Count,
            "Unmatched entries",
            "Entries of the time range without their counterpart, a minute after they ended.",
            "SELECT count(*) AS unmatched FROM unmatched WHERE $__timeFilter(start_time)",
        )
        .steps("green", &[(1.0, "orange")])
        .size(4, 4),
        Panel::new(
            4,
            Shape::Stat,
            Unit::Seconds,
            "Age of the newest entry",
            "How long ago the newest entry of the last hour ended: the lag of the books while there are calls.",
            "SELECT extract(epoch FROM now()) - extract(epoch FROM max(end_time)) AS age
FROM entries WHERE start_time >= now() - INTERVAL '1 hour'",
        )
        .steps("green", &[(30.0, "orange"), (300.0, "red")])
        .size(4, 4),
    ]
}

fn books() -> Vec<Panel> {
    vec![
        Panel::new(
            5,
            Shape::Table,
            Unit::Count,
            "Streams, incomplete ones first",
            "What each stream of each writer must hold and holds. epoch_state: final is a clean end, recovered was accounted for by the next epoch.",
            "SELECT writer, stream, epoch_state, due, present, missing, dropped, unstated, gaps_open, last_statement_time
FROM completeness ORDER BY missing + dropped + gaps_open DESC, writer, epoch, stream LIMIT 500",
        ),
        Panel::new(
            6,
            Shape::Table,
            Unit::Plain,
            "Gaps",
            "Newest revision of each hole, open ones first.",
            "SELECT subject_writer, subject_stream, from_seq, until_seq, cause, detected_by, opened_at, closed_at,
  explanation, ticket
FROM (
  SELECT *, row_number() OVER (PARTITION BY gap_id ORDER BY revision DESC) AS place FROM gaps
) WHERE place = 1 ORDER BY closed_at IS NOT NULL, opened_at DESC, subject_writer LIMIT 500",
        )
        .size(12, 8),
        Panel::new(
            7,
            Shape::Stacked,
            Unit::Count,
            "Statements by kind",
            "Signed statements that arrived: regular ones every ten seconds of each writer, recovery after a crash, final at a clean end.",
            "SELECT $__timeGroupAlias(time, $__interval), kind AS metric, count(*) AS statements
FROM statements WHERE $__timeFilter(time)
GROUP BY 1, 2 ORDER BY 1, 2",
        ),
        Panel::new(
            8,
            Shape::Stacked,
            Unit::Count,
            "Entries stated and dropped",
            "What statements account for, and what writers declared dropped so far in the statements of each interval.",
            "SELECT $__timeGroupAlias(time, $__interval), sum(entries) AS entries, sum(dropped) AS dropped
FROM statements WHERE kind <> 'announcement' AND $__timeFilter(time)
GROUP BY 1 ORDER BY 1",
        ),
    ]
}

fn sealed() -> Vec<Panel> {
    vec![
        Panel::new(
            9,
            Shape::Table,
            Unit::Count,
            "Sealed books",
            "Rows and bytes under the log, by table and retention class.",
            "SELECT table_name, retention_class, count(*) AS segments, sum(rows) AS rows, sum(bytes) AS bytes,
  min(first_time) AS first_time, max(last_time) AS last_time
FROM segments GROUP BY 1, 2 ORDER BY bytes DESC, 1, 2",
        )
        .columns(Unit::Bytes, &["bytes"])
        .size(12, 8),
        Panel::new(
            10,
            Shape::Table,
            Unit::Plain,
            "Checkpoints and newest seals",
            "The head of each log and when it was last sealed. Hold a checkpoint that you saved earlier against it: counterfoil verify --against.",
            "SELECT c.origin, c.size, c.root, m.until_time AS sealed_until FROM checkpoints c
LEFT JOIN (SELECT origin, max(until_time) AS until_time FROM manifests GROUP BY origin) m ON c.origin = m.origin
ORDER BY c.origin",
        )
        .size(12, 8),
        Panel::new(
            11,
            Shape::Table,
            Unit::Plain,
            "Conflicts",
            "Two different statements under one number: a writer that contradicts itself. It should be empty.",
            "SELECT detected_at, subject_writer, subject_epoch, number, kept_sha256, other_sha256
FROM conflicts ORDER BY detected_at DESC LIMIT 200",
        )
        .size(12, 8),
    ]
}

fn certificates() -> Vec<Panel> {
    vec![
        Panel::new(
            12,
            Shape::Stat,
            Unit::Plain,
            "Rotation success against 99.9 %",
            "Attempts of the time range that ended with a handshake in which the new certificate was seen, by all attempts; and cycles: certificates that were renewed before they expired.",
            "SELECT verdict, success_rate, attempts, failures, cycle_rate, cycles
FROM rotation_success($__timeFrom(), $__timeTo()) WHERE scope = 'total'",
        )
        .columns(Unit::Share, &["success_rate", "cycle_rate"])
        .size(24, 4),
        Panel::new(
            13,
            Shape::Stacked,
            Unit::Count,
            "Renewals by outcome",
            "Attempts to renew a certificate: success, or the class of the failure.",
            "SELECT $__timeGroupAlias(ended_at, $__interval), coalesce(error_class, outcome) AS metric, count(*) AS attempts
FROM cert_rotations WHERE $__timeFilter(ended_at)
GROUP BY 1, 2 ORDER BY 1, 2",
        ),
        Panel::new(
            14,
            Shape::Table,
            Unit::Count,
            "Workloads, worst first",
            "Attempts and cycles of each workload in the time range.",
            "SELECT workload, success_rate, attempts, failures, cycles, cycles_renewed, cycles_late, cycles_missed, cycles_open
FROM rotation_success($__timeFrom(), $__timeTo()) WHERE scope = 'workload'
ORDER BY success_rate, failures DESC, workload LIMIT 200",
        )
        .columns(Unit::Share, &["success_rate"])
        .size(12, 8),
        Panel::new(
            15,
            Shape::Table,
            Unit::Seconds,
            "Certificates that expire next",
            "The newest certificate that control issued to each workload, and how long it still holds. Renewal comes at about half of a life.",
            "SELECT spiffe_id, max(not_after) AS expires,
  extract(epoch FROM max(not_after)) - extract(epoch FROM now()) AS left_s
FROM issuance WHERE kind = 'svid' GROUP BY 1 ORDER BY 2, 1 LIMIT 200",
        )
        .size(12, 8),
        Panel::new(
            16,
            Shape::Table,
            Unit::Count,
            "Credentials that should not be (report E19)",
            "Certificates in use that control did not issue, or issued to somebody else, and announcements that are not believed. It should be empty.",
            "SELECT event, time AS first_at, workload, serial, cert_sha256, how, entries, complete
FROM e19($__timeFrom(), $__timeTo()) WHERE finding ORDER BY first_at DESC, workload LIMIT 200",
        )
        .size(12, 8),
    ]
}

fn control() -> Vec<Panel> {
    vec![
        Panel::new(
            17,
            Shape::Stat,
            Unit::Plain,
            "Mesh availability against 99.95 %",
            "(total uptime - control plane downtime) / total uptime over slots of ten seconds. A slot of which nobody told counts as down and is shown as unknown. Beside it the share of the carried calls that did not fail through the proxies.",
            "SELECT verdict, availability, availability_known, data_plane_availability, downtime_s, slots, slots_down, slots_unknown
FROM mesh_availability($__timeFrom(), $__timeTo())",
        )
        .columns(
            Unit::Share,
            &["availability", "availability_known", "data_plane_availability"],
        )
        .columns(Unit::Seconds, &["downtime_s"])
        .size(24, 4),
        Panel::new(
            18,
            Shape::Lines,
            Unit::Share,
            "Slots in which control was up",
            "Share of the slots of ten seconds of which anybody told. Where there is no line, nobody told.",
            "SELECT $__timeGroupAlias(slot_start, $__interval), avg(CASE WHEN up THEN 1.0 ELSE 0.0 END) AS up
FROM control_slots($__timeFrom(), $__timeTo())
GROUP BY 1 ORDER BY 1",
        )
        .max(1.0),
        Panel::new(
            19,
            Shape::Table,
            Unit::Count,
            "Slots that were not up",
            "down: the prober or more than 5 % of the proxies found control not there; unprobed: only the prober's report is missing.",
            "SELECT slot_start, state, prober_up, proxies, proxies_up
FROM control_slots($__timeFrom(), $__timeTo()) WHERE NOT up ORDER BY slot_start DESC LIMIT 500",
        )
        .size(12, 8),
    ]
}

fn asked() -> Vec<Panel> {
    vec![
        Panel::new(
            20,
            Shape::Stacked,
            Unit::Count,
            "Statements asked, by person and outcome",
            "Every SQL statement is in the books before its first row leaves: this panel's own, too.",
            "SELECT $__timeGroupAlias(start_time, $__interval), principal || ' ' || coalesce(outcome, phase) AS metric, count(*) AS statements
FROM query_log WHERE phase <> 'start' AND $__timeFilter(start_time)
GROUP BY 1, 2 ORDER BY 1, 2",
        ),
        Panel::new(
            21,
            Shape::Table,
            Unit::Count,
            "By person",
            "Who asked how often, and how many rows and bytes they took.",
            "SELECT principal, role, endpoint, count(*) AS statements, count(CASE WHEN outcome <> 'ok' THEN 1 END) AS not_ok,
  sum(rows) AS rows, sum(bytes) AS bytes, max(start_time) AS last_at
FROM query_log WHERE phase <> 'start' AND $__timeFilter(start_time)
GROUP BY 1, 2, 3 ORDER BY statements DESC, 1, 2, 3",
        )
        .columns(Unit::Bytes, &["bytes"])
        .size(12, 8),
        Panel::new(
            22,
            Shape::Table,
            Unit::Count,
            "Refused and failed statements",
            "What was not allowed or did not work, with its SQLSTATE; 25006 and 42501 are attempts to write or to change what a session may.",
            "SELECT start_time, principal, role, endpoint, peer_address, outcome, sqlstate, sql
FROM query_log WHERE phase <> 'start' AND outcome <> 'ok' AND $__timeFilter(start_time)
ORDER BY start_time DESC, query_id LIMIT 200",
        ),
    ]
}
