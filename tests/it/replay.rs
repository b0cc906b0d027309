//! Recorded calls of a system that nobody here knows, made up by the test.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
};
use parquet::arrow::ArrowWriter;

use crate::world::{Demo, number, rows};

/// One recorded call: start (us), trace, span, parent, source, destination, endpoint, server (us).
type Call = (
    i64,
    u8,
    u8,
    u8,
    &'static str,
    &'static str,
    &'static str,
    i64,
);

const TRACES: u8 = 40;

fn calls_of(trace: u8) -> Vec<Call> {
    vec![
        (
            1_000,
            trace,
            10,
            9,
            "gate",
            "ledger",
            "bank.Ledger/Post",
            30_000,
        ),
        (
            3_000,
            trace,
            20,
            11,
            "ledger",
            "risk",
            "GET /risk/{id}?deep=1 ",
            8_000,
        ),
        (
            15_000,
            trace,
            30,
            12,
            "ledger",
            "risk",
            "/bank.Risk/Score",
            6_000,
        ),
        (
            40_000,
            trace,
            40,
            13,
            "gate",
            "mail",
            "send \u{fc}ber alles",
            5_000,
        ),
    ]
}

fn write(path: &Path) {
    let calls: Vec<Call> = (1..=TRACES).flat_map(calls_of).collect();
    let id = |trace: u8, span: u8, len: usize| {
        let mut id = vec![0xA0; len];
        id[0] = trace;
        id[1] = span;
        id
    };
    let binary = |of: &dyn Fn(&Call) -> Vec<u8>| -> ArrayRef {
        let values: Vec<Vec<u8>> = calls.iter().map(of).collect();
        Arc::new(BinaryArray::from_iter_values(values))
    };
    let words = |of: &dyn Fn(&Call) -> &'static str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(calls.iter().map(of)))
    };
    let numbers = |of: &dyn Fn(&Call) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(calls.iter().map(of)))
    };
    let start = 1_661_140_339_000_000_000_i64;
    let at = |call: &Call| start + (i64::from(call.1) * 1_000_000 + call.0) * 1_000;
    let times = TimestampNanosecondArray::from_iter_values(calls.iter().map(at));
    let batch = RecordBatch::try_from_iter([
        ("ts", Arc::new(times.with_timezone("UTC")) as ArrayRef),
        ("trace_id", binary(&|call| id(call.1, 0, 16))),
        ("span_id", binary(&|call| id(call.1, call.2, 8))),
        ("parent_span_id", binary(&|call| id(call.1, call.3, 8))),
        ("phase", words(&|_| "normal")),
        ("source", words(&|call| call.4)),
        ("destination", words(&|call| call.5)),
        ("endpoint", words(&|call| call.6)),
        ("client_latency_us", numbers(&|call| call.7 + 1_000)),
        ("server_latency_us", numbers(&|call| call.7)),
        ("gap_us", numbers(&|_| 1_000)),
    ])
    .unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn recorded_calls_come_back_one_by_one_under_their_own_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hops.parquet");
    write(&file);
    let mut demo = Demo::start(&[
        "--for",
        "8s",
        "--rate",
        "10",
        "--replay",
        file.to_str().unwrap(),
    ]);
    let said = demo.finish_well();
    let data = demo.data();
    for (_, _, _, _, source, destination, endpoint, _) in calls_of(1) {
        let sql = format!(
            "select count(*) from calls where source = '{source}' and destination = '{destination}' \
             and operation = '{endpoint}' and matched and agrees"
        );
        assert_eq!(number(data, &sql), i64::from(TRACES), "{endpoint}\n{said}");
    }
    let trace = "select operation, count(*) as n from calls where trace_id like '07%' and due \
                 and decision = 'allow' group by 1 order by 1";
    let found = rows(data, trace);
    assert_eq!(
        found.len(),
        5,
        "four recorded operations and the entry: {found:?}"
    );
    let own = "select median(server_upstream_ns)::bigint from calls where destination = 'mail' and matched";
    // In the mean the application wakes on time: half a millisecond early for as often as it is late.
    let median_ns = number(data, own);
    assert!(
        median_ns >= 4_500_000,
        "the application takes the recorded 5 ms, not {median_ns} ns"
    );
    let grpc = "select count(*) from entries where kind = 'grpc' and grpc_status = 0 \
                and operation = 'bank.Ledger/Post' and side = 'server'";
    assert_eq!(number(data, grpc), i64::from(TRACES));
}

#[test]
fn a_signal_ends_the_demo_while_it_still_reads() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("hops.parquet");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    // Nobody writes, so that reading does not end by itself.
    let mut demo = Demo::start(&["--for", "8s", "--replay", pipe.to_str().unwrap()]);
    demo.line("what it reads", |line| {
        line.starts_with("reading").then_some(())
    });
    demo.terminate();
    let (status, said) = demo.finish();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("stopped before anything was started"),
        "{said}"
    );
}
