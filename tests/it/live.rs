//! Questions to a running demo, with psql.

use crate::world::{Demo, Psql, eventually, rows};

#[test]
fn psql_answers_while_the_demo_runs_and_nothing_can_be_written() {
    let mut demo = Demo::start(&["--rate", "5"]);
    let psql = demo.psql();
    eventually("calls are in the books", 60, || {
        (psql.number("select count(*) from calls where matched") > 20).then_some(())
    });
    for question in [
        "select * from latency_overhead",
        "select * from calls limit 5",
        "select * from sla",
        "select * from completeness",
        "select * from completeness('2020-01-01T00:00:00Z', '2100-01-01T00:00:00Z')",
        "select * from entries limit 5",
    ] {
        assert!(!psql.ask(question).is_empty(), "{question} gave no row");
    }
    eventually("a denial is in the books", 60, || {
        (psql.number("select count(*) from denials") > 0).then_some(())
    });

    for write in [
        "insert into entries select * from entries",
        "update entries set side = 'x'",
        "delete from entries",
        "truncate entries",
        "create table t (a int)",
        "create view v as select 1",
        "create external table t stored as parquet location '/tmp/x'",
        "drop view calls",
        "copy entries from '/etc/passwd'",
        "copy (select 1) to '/tmp/counterfoil-leak.csv'",
        "select 1; drop view calls",
        "explain analyze copy (select 1) to '/tmp/counterfoil-leak.csv'",
        "set datafusion.runtime.memory_limit = '100G'",
        "set role admin",
    ] {
        let said = psql.refused(write);
        assert!(
            said.contains("25006") || said.contains("42501"),
            "{write}: {said}"
        );
    }
    assert!(!std::path::Path::new("/tmp/counterfoil-leak.csv").exists());
    let refused =
        "select count(*) from query_log where phase = 'refused' and sql like 'drop view%'";
    eventually("the refusal is logged", 30, || {
        (psql.number(refused) > 0).then_some(())
    });

    for (wrong, state) in [
        ("select * from nothing_here", "42P01"),
        ("select nothing_here from calls", "42703"),
        ("selec 1", "42601"),
        ("select 1 / 0", "22012"),
    ] {
        let said = psql.refused(wrong);
        assert!(said.contains(state), "{wrong}: {said}");
    }
    let said = psql.with_password("guess").refused("select 1");
    assert!(said.contains("password authentication failed"), "{said}");

    long_statements_are_answered_or_refused(&psql);

    demo.terminate();
    demo.finish_well();
    assert!(rows(demo.data(), "select * from query_log where phase = 'start'").len() > 5);
}

/// What once filled a thread's stack: the server must outlive all of it.
fn long_statements_are_answered_or_refused(psql: &Psql) {
    let list: Vec<String> = (0..5_000).map(|n| n.to_string()).collect();
    let listed = format!(
        "select count(*) from entries where seq in ({})",
        list.join(",")
    );
    assert!(psql.number(&listed) > 0);
    assert_eq!(psql.number(&format!("select 1{}", "+1".repeat(450))), 451);
    for chain in [
        format!("select 1{}", "+1".repeat(5_000)),
        format!("select 1{}", " union all select 1".repeat(1_000)),
        format!("select count(*) from gaps{}", ", gaps".repeat(1_000)),
    ] {
        let said = psql.refused(&chain);
        assert!(said.contains("54001"), "{said}");
    }
    assert_eq!(psql.number("select 1"), 1);
}

#[test]
fn a_call_is_visible_within_two_seconds_and_never_twice() {
    let mut demo = Demo::start(&["--rate", "5"]);
    let psql = demo.psql();
    eventually("calls are in the books", 60, || {
        (psql.number("select count(*) from entries") > 20).then_some(())
    });
    // The driver calls five times a second, so the newest visible end is as old as the books lag.
    let lag = "select cast(extract(epoch from now()) * 1000 as bigint) \
               - cast(extract(epoch from max(end_time)) * 1000 as bigint) from entries";
    let sealed = "select count(*) from entries where segment is not null";
    let twice = "select count(*) from (select writer, epoch, stream, seq from entries \
                 group by 1, 2, 3, 4 having count(*) > 1)";
    let mut lags = Vec::new();
    eventually("several seals have happened", 90, || {
        lags.push(psql.number(lag));
        assert_eq!(psql.number(twice), 0);
        (psql.number("select count(*) from manifests where kind = 'seal'") >= 3
            && psql.number(sealed) > 0)
            .then_some(())
    });
    lags.sort_unstable();
    assert!(lags[0] > -100, "now() is behind the books: {lags:?}");
    let worst = lags[lags.len() * 95 / 100];
    assert!(
        worst < 2_000,
        "newest visible end is {worst} ms old; all: {lags:?}"
    );
    demo.terminate();
    demo.finish_well();
    assert_eq!(
        rows(demo.data(), twice)[0]
            .values()
            .next()
            .and_then(|v| v.as_i64()),
        Some(0)
    );
}
