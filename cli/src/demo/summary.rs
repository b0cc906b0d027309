//! The end of a demo: what the books say about it, asked in SQL, and questions to go on with.

use std::{path::PathBuf, sync::atomic::Ordering};

use counterfoil_columns::DataDirectory;
use counterfoil_entry::{Time, clock};
use serde_json::Value;

use super::{checkpoints::Checkpoints, driver::Tally, retention};
use crate::{
    console::{chain, escaped, line, word},
    rows::Answer,
    sql::offline::Offline,
};

/// What the demo knows itself; everything else comes from the books.
#[derive(Debug)]
pub(crate) struct Figures<'a> {
    pub(crate) data: &'a DataDirectory,
    pub(crate) tally: &'a Tally,
    /// Traces that did not end in time.
    pub(crate) unfinished: u64,
    /// Recorded traces that are too long; nothing when none were recorded.
    pub(crate) left_out: Option<u64>,
    /// The newest saved checkpoint.
    pub(crate) checkpoint: Option<PathBuf>,
    /// When this demo began; the books may hold earlier ones.
    pub(crate) from: Time,
    /// Planned calls that got a whole answer.
    pub(crate) answered: u64,
    /// What did not go well until now.
    pub(crate) troubles: Vec<String>,
}

/// Less free space than this is none.
const DISK_MIN: u64 = 1024 * 1024;
impl Figures<'_> {
    /// Saves the newest checkpoint.
    pub(crate) fn save(&mut self, checkpoints: &Checkpoints) {
        match checkpoints.save() {
            Ok(file) => self.checkpoint = file,
            Err(error) => self
                .troubles
                .push(format!("saving a checkpoint: {}", chain(&error))),
        }
    }
}

const CALLS: &str = "select count(*) as calls, count(case when due then 1 end) as due, \
    count(case when due and matched then 1 end) as matched, \
    count(case when matched and agrees then 1 end) as agree from calls";
const SENT: &str = "select count(*) as sent from entries where side = 'client' and phase = 'final'";
const SEALED: &str = "select coalesce(sum(\"rows\"), 0) as entries, coalesce(sum(bytes), 0) as bytes \
    from segments where table_name = 'entries'";
const UNSEALED: &str = "select count(*) as entries from entries where segment is null";
const OVERHEAD: &str = "select n, own_p50_ns, own_p99_ns, overhead_p99_ns, verdict \
    from latency_overhead where scope = 'mesh'";
const SLA: &str = "select objective, service, measure, sli, target, total, breached from sla \
    where total > 0 order by service, measure";
const ALERTS: &str = "
select alertname, severity, min(case when state = 'firing' then summary end) as summary,
  min(case when state = 'firing' then changed_at end) as fired_at,
  max(case when state = 'resolved' then changed_at end) as resolved_at
from alerts where alertname <> 'Watchdog'
group by alert_id, alertname, severity
having min(case when state = 'firing' then changed_at end) is not null
order by fired_at";
const LONGEST: &str = "
select trace_id from calls where matched and decision = 'allow'
group by trace_id order by count(*) desc, trace_id limit 1";
const FLOW: &str = "
select count(*) as hops, max(depth) as deep, max(client_duration_ns) as whole_ns,
  coalesce(max(total_mesh_ns), 0) as mesh_ns
from flow('%trace%')";
const DENIALS: &str = "select reason, count(*) as n, max(coalesce(source_app, source, 'a stranger')) as source, \
    max(coalesce(destination_app, destination, 'unknown')) as destination, max(coalesce(operation, route, method, '')) as what \
    from (select reason, source_app, source, destination_app, destination, operation, route, method from denials \
    where kind <> 'tls_failure' \
    union all select reason, null, source, null, destination, null, null, 'handshake refused' from tls_failures) d \
    group by reason order by reason";
const GAPS: &str = "select count(distinct gap_id) as gaps from gaps";
const COMPLETE: &str = "select coalesce(sum(due), 0) as due, coalesce(sum(present), 0) as present, \
    coalesce(sum(missing), 0) as missing, coalesce(sum(dropped), 0) as dropped from completeness";

/// Prints the summary. Returns whether nothing needs attention.
///
/// # Errors
/// When the books cannot be read, or a question fails.
pub(crate) async fn print(figures: &Figures<'_>) -> anyhow::Result<bool> {
    let books = Offline::open(figures.data.root())?;
    line("\nsummary (all that the books hold)");
    traces(figures);
    let (calls, sent) = (books.ask(CALLS).await?, books.ask(SENT).await?);
    let (due, matched) = (count(&calls, "due"), count(&calls, "matched"));
    row(
        "calls",
        format_args!(
            "{} sent; {due} due at both sides, {} % of them matched; {} % of the matched agree",
            count(&sent, "sent"),
            percent(matched, due),
            percent(count(&calls, "agree"), matched),
        ),
    );
    let (sealed, unsealed) = (books.ask(SEALED).await?, books.ask(UNSEALED).await?);
    let entries = count(&sealed, "entries");
    row(
        "entries",
        format_args!(
            "{entries} sealed with {} bytes each in Parquet, {} not sealed",
            ratio(count(&sealed, "bytes"), entries),
            count(&unsealed, "entries"),
        ),
    );
    overhead(&books.ask(OVERHEAD).await?);
    sla(&books.ask(SLA).await?);
    alerts(&books.ask(ALERTS).await?);
    denials(&books.ask(DENIALS).await?);
    flow(&books).await?;
    kept(figures);
    let (gaps, complete) = (
        count(&books.ask(GAPS).await?, "gaps"),
        books.ask(COMPLETE).await?,
    );
    row("gaps", gaps_text(gaps, count(&complete, "dropped")));
    row(
        "completeness",
        format_args!(
            "{} entries of all writers due, {} present, {} missing, {} declared as dropped",
            count(&complete, "due"),
            count(&complete, "present"),
            count(&complete, "missing"),
            count(&complete, "dropped"),
        ),
    );
    match &figures.checkpoint {
        Some(file) => row("checkpoint", format_args!("saved as {}", file.display())),
        None => row("checkpoint", "none was saved"),
    }
    let from = figures.from;
    plane(&books, from).await?;
    let sent = books
        .ask(&format!("{SENT} and start_time >= timestamp '{from}'"))
        .await?;
    let complete = books.ask(&since(from)).await?;
    let found = Found {
        unsealed: count(&unsealed, "entries"),
        sent: count(&sent, "sent"),
        dropped: count(&complete, "dropped"),
        missing: count(&complete, "missing"),
    };
    let attention = attention(figures, &found);
    for text in &attention {
        row("attention", escaped(text));
    }
    questions(figures);
    Ok(attention.is_empty())
}

/// Control and certificates in this run.
async fn plane(books: &Offline, from: Time) -> anyhow::Result<()> {
    let run = format!("('{from}', '{}')", clock::wall());
    let mesh = format!("select * from mesh_availability{run}");
    row("mesh", mesh_text(&books.ask(&mesh).await?));
    let rotations = format!("select * from rotation_success{run} where scope = 'total'");
    row("rotations", rotations_text(&books.ask(&rotations).await?));
    Ok(())
}

/// What the books say of this demo.
#[derive(Debug, Default)]
struct Found {
    unsealed: i64,
    sent: i64,
    dropped: i64,
    missing: i64,
}

/// What somebody must look at: the books do not hold all that they should.
fn attention(figures: &Figures<'_>, found: &Found) -> Vec<String> {
    let mut texts = figures.troubles.clone();
    let root = figures.data.root();
    let (logs, directory) = (root.join("logs"), root.display());
    let logs = logs.display();
    if found.unsealed > 0 {
        texts.push(format!(
            "{} entries are not sealed; see {logs}/collector.log",
            found.unsealed
        ));
    }
    if found.dropped > 0 {
        texts.push(format!(
            "{} entries of this run were declared as dropped; see the logs of their writers in {logs}",
            found.dropped
        ));
    }
    if found.missing > 0 {
        texts.push(format!(
            "{} entries of this run are missing in the books; see the view completeness, and {logs}",
            found.missing
        ));
    }
    let sent = u64::try_from(found.sent).unwrap_or(0);
    if sent < figures.answered {
        texts.push(format!(
            "{} calls were sent and answered, and only {sent} are in the books {directory}; see {logs}",
            figures.answered
        ));
    }
    if !texts.is_empty()
        && let Ok(disk) = rustix::fs::statvfs(root)
        && disk.f_bavail.saturating_mul(disk.f_frsize) < DISK_MIN
    {
        texts.push(format!("the disk of {directory} is full"));
    }
    texts
}

fn since(from: Time) -> String {
    COMPLETE.replace(
        "from completeness",
        &format!("from completeness('{from}', '2200-01-01T00:00:00Z')"),
    )
}

fn gaps_text(gaps: i64, dropped: i64) -> String {
    match (gaps, dropped) {
        (0, 0) => "none".to_owned(),
        (0, _) => format!("none beside the {dropped} entries declared as dropped"),
        _ => format!("{gaps}; see the view gaps"),
    }
}

fn mesh_text(answer: &Answer) -> String {
    let count = |column| count(answer, column);
    format!(
        "control up in {} of {} slots of 10 s, {} of them unknown; {} of {} calls failed between the proxies (this run)",
        count("slots_up"),
        count("slots"),
        count("slots_unknown"),
        count("data_plane_failed"),
        count("data_plane_calls"),
    )
}

fn rotations_text(answer: &Answer) -> String {
    let count = |column| count(answer, column);
    format!(
        "{} of {} attempts to renew a certificate succeeded; {} of {} cycles renewed before the old one expired (this run)",
        count("successes"),
        count("attempts"),
        count("cycles_renewed"),
        count("cycles"),
    )
}

fn row(name: &str, text: impl std::fmt::Display) {
    line(format_args!("  {name:<13} {text}"));
}

fn traces(figures: &Figures<'_>) {
    let load = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
    let left_out = match figures.left_out {
        Some(number) => format!(", {number} left out because they are longer than 5 s"),
        None => String::new(),
    };
    row(
        "traces",
        format_args!(
            "{} started, {} ended, {} unfinished after 10 s, {} with a failed call{left_out}",
            load(&figures.tally.started),
            load(&figures.tally.ended),
            figures.unfinished,
            load(&figures.tally.failed),
        ),
    );
}

fn overhead(answer: &Answer) {
    let calls = count(answer, "n");
    let ms = |column: &str| {
        answer
            .first(column)
            .and_then(Value::as_i64)
            .map_or_else(|| "unknown".to_owned(), milliseconds)
    };
    row(
        "overhead",
        format_args!(
            "both proxies of a call P50 {}, P99 {}; P99 with mesh less P99 without {} ({calls} calls, target < 2 ms: {})",
            ms("own_p50_ns"),
            ms("own_p99_ns"),
            ms("overhead_p99_ns"),
            text(answer.first("verdict")),
        ),
    );
}

/// One line for each service, with all its objectives.
fn sla(answer: &Answer) {
    let mut service = String::new();
    let mut parts: Vec<String> = Vec::new();
    let flush = |service: &str, parts: &mut Vec<String>| {
        if !parts.is_empty() {
            row("SLA", format_args!("{service:<24} {}", parts.join(", ")));
            parts.clear();
        }
    };
    for one in &answer.rows {
        let of = |column: &str| answer.value(one, column);
        let name = text(of("service"));
        if name != service {
            flush(&service, &mut parts);
            service = name;
        }
        let share = |column: &str| {
            of(column)
                .and_then(Value::as_f64)
                .map_or(0.0, |share| share * 100.0)
        };
        let verdict = match of("breached").and_then(Value::as_bool) {
            Some(true) => "BREACHED",
            Some(false) => "met",
            None => "unknown",
        };
        parts.push(format!(
            "{} {:.2} % of {:.1} % {verdict}",
            text(of("measure")),
            share("sli"),
            share("target")
        ));
    }
    flush(&service, &mut parts);
}

fn alerts(answer: &Answer) {
    for one in &answer.rows {
        let of = |column: &str| answer.value(one, column);
        let clock = |column: &str| {
            let time = text(of(column));
            time.get(11..19).unwrap_or_default().to_owned()
        };
        let end = match of("resolved_at").filter(|end| !end.is_null()) {
            Some(_) => format!("resolved {}", clock("resolved_at")),
            None => "still firing".to_owned(),
        };
        row(
            "alert",
            format_args!(
                "{} ({}) fired {}, {end}: {}",
                text(of("alertname")),
                text(of("severity")),
                clock("fired_at"),
                escaped(&text(of("summary"))),
            ),
        );
    }
}

/// One whole flow through the mesh, with what the mesh cost.
async fn flow(books: &Offline) -> anyhow::Result<()> {
    let longest = books.ask(LONGEST).await?;
    let Some(trace) = longest.first("trace_id").and_then(Value::as_str) else {
        return Ok(());
    };
    let hops = books.ask(&FLOW.replace("%trace%", trace)).await?;
    row(
        "flow",
        format_args!(
            "trace {trace}: {} hops, {} deep, {}; the mesh cost {} of it: select * from flow('{trace}')",
            count(&hops, "hops"),
            count(&hops, "deep"),
            milliseconds(count(&hops, "whole_ns")),
            milliseconds(count(&hops, "mesh_ns")),
        ),
    );
    Ok(())
}

/// What a legal hold keeps; nothing where the demo placed none.
fn kept(figures: &Figures<'_>) {
    match retention::outlook(figures.data.root()) {
        Ok((at, outlook)) if !outlook.held.is_empty() => {
            row("retention", retention::told(at, &outlook));
        }
        Ok(_) => {}
        Err(error) => row(
            "retention",
            format_args!("unknown: {}", escaped(&chain(&error))),
        ),
    }
}

fn denials(answer: &Answer) {
    if answer.rows.is_empty() {
        row("denials", "none");
    }
    for one in &answer.rows {
        let of = |column: &str| text(answer.value(one, column));
        row(
            "denials",
            format_args!(
                "{} times {}: for example {} to {}, {}",
                of("n"),
                of("reason"),
                of("source"),
                of("destination"),
                of("what"),
            ),
        );
    }
}

fn questions(figures: &Figures<'_>) {
    let root = figures.data.root();
    let (directory, policy) = (word(root), word(root.join("policy.toml")));
    line("\nquestions to try, with nothing running");
    for sql in [
        "select source, destination, operation, count(*) as calls from calls group by 1, 2, 3 order by 4 desc",
        "select start_time, source_app, destination_app, operation, reason, grant_id from denials order by start_time",
        "select destination, n, own_p50_ns, own_p99_ns, verdict from latency_overhead",
        "select * from completeness",
    ] {
        line(format_args!(
            "  counterfoil sql --data-dir {directory} \"{sql}\""
        ));
    }
    line(format_args!(
        "  counterfoil verify {directory} --policy {policy} --complete"
    ));
    if let Some(checkpoint) = &figures.checkpoint {
        line(format_args!(
            "  counterfoil verify {directory} --against {}",
            word(checkpoint)
        ));
    }
}

fn count(answer: &Answer, column: &str) -> i64 {
    answer.first(column).and_then(Value::as_i64).unwrap_or(0)
}

fn text(value: Option<&Value>) -> String {
    match value {
        None => "unknown".to_owned(),
        Some(Value::String(text)) => escaped(text),
        Some(other) => other.to_string(),
    }
}

/// Cut, not rounded: what is not all must not read as 100.
fn percent(part: i64, whole: i64) -> String {
    if whole <= 0 {
        return "unknown".to_owned();
    }
    let hundredths = part.saturating_mul(10_000) / whole;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn ratio(part: i64, whole: i64) -> String {
    if whole <= 0 {
        return "unknown".to_owned();
    }
    let tenths = part.saturating_mul(10) / whole;
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn milliseconds(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let hundredths = ns.unsigned_abs() / 10_000;
    format!("{sign}{}.{:02} ms", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_all_is_not_printed_as_all() {
        assert_eq!(percent(99_999, 100_000), "99.99");
        assert_eq!(percent(100_000, 100_000), "100.00");
        assert_eq!(percent(0, 0), "unknown");
    }

    #[test]
    fn what_is_not_in_the_books_needs_attention() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDirectory::create(directory.path()).unwrap();
        let tally = Tally::default();
        let figures = |troubles: &[&str]| Figures {
            data: &data,
            tally: &tally,
            unfinished: 0,
            left_out: None,
            checkpoint: None,
            from: Time::from_ns(0),
            answered: 7,
            troubles: troubles.iter().map(|&text| text.to_owned()).collect(),
        };
        let all = Found {
            sent: 9,
            ..Found::default()
        };
        assert_eq!(attention(&figures(&[]), &all), Vec::<String>::new());
        assert_eq!(
            attention(&figures(&["collector stopped"]), &all)[0],
            "collector stopped"
        );
        let none = Found {
            unsealed: 1,
            sent: 6,
            dropped: 2,
            missing: 3,
        };
        let texts = attention(&figures(&[]), &none).join("\n");
        for part in [
            "1 entries are not sealed",
            "2 entries of this run were declared as dropped",
            "3 entries of this run are missing",
            "7 calls were sent and answered, and only 6 are in the books",
            "logs",
        ] {
            assert!(texts.contains(part), "{texts}");
        }
    }

    #[test]
    fn no_gaps_do_not_stand_alone_beside_what_was_dropped() {
        assert_eq!(gaps_text(0, 0), "none");
        assert!(gaps_text(0, 5).contains("5 entries declared as dropped"));
        assert!(gaps_text(2, 5).starts_with("2;"));
    }

    #[test]
    fn nanoseconds_become_milliseconds() {
        assert_eq!(milliseconds(1_234_567), "1.23 ms");
        assert_eq!(milliseconds(-50_000), "-0.05 ms");
    }
}
