use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, RecordBatch, StringArray,
    TimestampNanosecondArray, UInt64Array, new_null_array,
};
use arrow::datatypes::{TimestampNanosecondType, UInt64Type};
use proptest::prelude::*;

use super::fold::entry_schema;
use super::{Histogram, RollupFiles, fold, hours};
use crate::DataDirectory;
use crate::schema::UTC;

const MINUTE_NS: i64 = 60_000_000_000;

/// One half of a call.
#[derive(Debug, Clone)]
struct Half {
    call: u8,
    is_client: bool,
    minute: i64,
    duration_ns: u64,
    outcome: &'static str,
    decision: &'static str,
    attribution: &'static str,
    is_retried: bool,
}

fn half(call: u8, is_client: bool) -> Half {
    Half {
        call,
        is_client,
        minute: 1,
        duration_ns: if is_client { 10_000 } else { 8_000 },
        outcome: "ok",
        decision: "allow",
        attribution: "native",
        is_retried: false,
    }
}

fn batch(halves: &[Half]) -> RecordBatch {
    let text = |of: fn(&Half) -> &str| -> ArrayRef {
        Arc::new(
            halves
                .iter()
                .map(|half| Some(of(half)))
                .collect::<StringArray>(),
        )
    };
    let id = |is_there: fn(&Half) -> bool, bytes: i32| -> ArrayRef {
        let ids = halves.iter().map(|half| {
            let width = usize::try_from(bytes).unwrap();
            is_there(half).then(|| vec![half.call; width])
        });
        Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(ids, bytes).unwrap())
    };
    let number = |of: fn(&Half) -> u64| -> ArrayRef {
        Arc::new(
            halves
                .iter()
                .map(|half| Some(of(half)))
                .collect::<UInt64Array>(),
        )
    };
    let schema = entry_schema();
    let columns = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "writer" => text(|_| "w"),
            "side" => text(|half| if half.is_client { "client" } else { "server" }),
            "kind" => text(|_| "http"),
            "phase" => text(|_| "final"),
            "trace_id" => id(|_| true, 16),
            "span_id" => id(|half| half.is_client, 8),
            "parent_span_id" => id(|half| !half.is_client, 8),
            "start_time" => {
                let times = halves.iter().map(|half| Some(half.minute * MINUTE_NS + 7));
                Arc::new(
                    times
                        .collect::<TimestampNanosecondArray>()
                        .with_timezone(UTC),
                )
            }
            "duration_ns" => number(|half| half.duration_ns),
            "overhead_ns" => number(|half| half.duration_ns / 10),
            "upstream_ns" => number(|half| half.duration_ns / 2),
            "request_bytes" => number(|_| 3),
            "source" => text(|_| "spiffe://bank.test/workload/shop"),
            "destination_app" => text(|_| "cart"),
            "operation" => text(|_| "GetCart"),
            "outcome" => text(|half| half.outcome),
            "reason" => text(|_| "granted"),
            "decision" => text(|half| half.decision),
            "attribution" => text(|half| half.attribution),
            "mtls" => Arc::new(BooleanArray::from(vec![true; halves.len()])) as ArrayRef,
            "retried" => {
                let retried = halves.iter().map(|half| Some(half.is_retried));
                Arc::new(retried.collect::<BooleanArray>()) as ArrayRef
            }
            "attempt" => {
                let data_type = field.data_type();
                if field.is_nullable() {
                    new_null_array(data_type, halves.len())
                } else {
                    arrow::compute::cast(&number(|_| 0), data_type).unwrap()
                }
            }
            _ => new_null_array(field.data_type(), halves.len()),
        });
    RecordBatch::try_new(entry_schema(), columns.collect()).unwrap()
}

/// Rows by what they are about: how many, and the histogram of durations.
fn read(batch: &RecordBatch) -> BTreeMap<String, (u64, u64, Histogram)> {
    let text = |name: &str, row: usize| {
        let column = batch.column_by_name(name).unwrap().as_string::<i32>();
        if column.is_valid(row) {
            column.value(row).to_owned()
        } else {
            "-".to_owned()
        }
    };
    let number = |name: &str, row: usize| {
        let column = batch.column_by_name(name).unwrap();
        column.as_primitive::<UInt64Type>().value(row)
    };
    let times = batch.column_by_name("time").unwrap();
    let times = times.as_primitive::<TimestampNanosecondType>();
    let rows = (0..batch.num_rows()).map(|row| {
        let measured = batch.column_by_name("measured").unwrap().as_boolean();
        let key = format!(
            "{} {} {} {} {} {}",
            times.value(row) / MINUTE_NS,
            text("side", row),
            text("source_app", row),
            text("outcome", row),
            text("decision", row),
            measured.value(row),
        );
        let mut durations = Histogram::default();
        let bytes = batch.column_by_name("duration").unwrap().as_binary::<i32>();
        durations.merge(bytes.value(row)).unwrap();
        (
            key,
            (number("n", row), number("request_bytes", row), durations),
        )
    });
    rows.collect()
}

fn nothing() -> RecordBatch {
    RecordBatch::new_empty(entry_schema())
}

#[test]
fn a_call_is_counted_once_when_its_later_half_has_come() {
    let first = fold(&nothing(), &[batch(&[half(1, true)])]).unwrap();
    let rows = read(&first.minutes);
    assert_eq!(
        rows.keys().collect::<Vec<_>>(),
        ["1 client shop ok allow false"]
    );
    assert_eq!(first.waiting.num_rows(), 1);
    let second = fold(&first.waiting, &[batch(&[half(1, false)])]).unwrap();
    let rows = read(&second.minutes);
    let (n, bytes, durations) = &rows["1 call shop ok allow true"];
    assert_eq!((*n, *bytes), (1, 3));
    assert_eq!(
        durations.quantile(0.5).map(|ns| ns / 100),
        Some(100),
        "the caller's"
    );
    assert_eq!(rows["1 server shop ok allow false"].0, 1);
    assert_eq!(second.waiting.num_rows(), 0);
    let overhead = second
        .minutes
        .column_by_name("overhead")
        .unwrap()
        .as_binary::<i32>();
    let mut own = Histogram::default();
    own.merge(overhead.value(0)).unwrap();
    assert_eq!(
        own.count_at_or_below(1_800) - own.count_at_or_below(1_790),
        1,
        "both proxies'"
    );
}

#[test]
fn what_is_not_due_is_a_call_by_itself_and_an_attempt_that_another_followed_is_none() {
    let denied = Half {
        decision: "deny",
        outcome: "denied",
        ..half(1, true)
    };
    let retried = Half {
        is_retried: true,
        ..half(2, true)
    };
    let step = fold(&nothing(), &[batch(&[denied, retried, half(2, false)])]).unwrap();
    let calls: Vec<_> = read(&step.minutes)
        .into_keys()
        .filter(|key| key.contains(" call "))
        .collect();
    assert_eq!(calls, ["1 call shop denied deny false"]);
    assert_eq!(step.waiting.num_rows(), 0);
}

#[test]
fn a_denial_by_the_callee_is_a_denied_call() {
    let seen = Half {
        outcome: "client_error",
        ..half(1, true)
    };
    let denied = Half {
        decision: "deny",
        outcome: "denied",
        ..half(1, false)
    };
    let step = fold(&nothing(), &[batch(&[denied, seen])]).unwrap();
    assert_eq!(read(&step.minutes)["1 call shop denied deny true"].0, 1);
}

#[test]
fn halves_of_a_foreign_mesh_wait_for_one_further_step() {
    let foreign = |is_client| Half {
        attribution: "als",
        ..half(1, is_client)
    };
    let first = fold(&nothing(), &[batch(&[foreign(true)])]).unwrap();
    assert_eq!(first.waiting.num_rows(), 1);
    let paired = fold(&first.waiting, &[batch(&[foreign(false)])]).unwrap();
    assert_eq!(read(&paired.minutes)["1 call shop ok allow false"].0, 1);
    let alone = fold(&first.waiting, &[batch(&[half(9, true)])]).unwrap();
    assert_eq!(read(&alone.minutes)["1 call shop ok allow false"].0, 1);
    assert_eq!(alone.waiting.num_rows(), 1, "the native half");
}

fn halves() -> impl Strategy<Value = Vec<(usize, Half)>> {
    let call = (
        any::<(bool, bool, bool)>(),
        0_i64..130,
        1_u64..10_000_000,
        0_usize..4,
        0_usize..4,
    );
    prop::collection::vec(call, 0..40).prop_map(|calls| {
        let mut halves = Vec::new();
        for (at, ((client, server, fails), minute, duration_ns, first, second)) in
            calls.into_iter().enumerate()
        {
            let call = u8::try_from(at).unwrap();
            let of = |is_client| Half {
                minute,
                duration_ns: duration_ns + u64::from(is_client),
                outcome: if fails { "server_error" } else { "ok" },
                ..half(call, is_client)
            };
            halves.extend(client.then(|| (first, of(true))));
            halves.extend(server.then(|| (second, of(false))));
        }
        halves
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn it_does_not_matter_which_manifest_brings_which_half(halves in halves()) {
        let all: Vec<_> = halves.iter().map(|(_, half)| half.clone()).collect();
        let whole = fold(&nothing(), &[batch(&all)]).unwrap();
        let mut waiting = nothing();
        let mut parts = Vec::new();
        for manifest in 0..4 {
            let new: Vec<_> = halves.iter().filter(|(at, _)| *at == manifest).map(|(_, half)| half.clone()).collect();
            let step = fold(&waiting, &[batch(&new)]).unwrap();
            waiting = step.waiting;
            parts.push(step.minutes);
        }
        prop_assert_eq!(waiting.num_rows(), whole.waiting.num_rows());
        prop_assert_eq!(read(&hours(&parts).unwrap()), read(&hours(&[whole.minutes]).unwrap()));
    }
}

#[test]
fn each_manifest_is_answered_for_by_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataDirectory::create(folder.path()).unwrap();
    let files = RollupFiles::new(&data, "bank.test/collector-1");
    assert_eq!(files.covered().unwrap().until, None);
    let mut waiting = nothing();
    for manifest in 1..6 {
        let call = u8::try_from(manifest).unwrap();
        let step = fold(&waiting, &[batch(&[half(call, true)])]).unwrap();
        files.write_step(manifest, &step).unwrap();
        waiting = files.waiting(&files.covered().unwrap()).unwrap();
        assert_eq!(waiting, step.waiting);
    }
    files.write_hours(1, 3).unwrap();
    // A step that was cut short leaves minutes alone.
    let step = fold(&waiting, &[batch(&[half(9, true)])]).unwrap();
    files
        .write("minutes", "000000000006", &step.minutes)
        .unwrap();
    let covered = files.covered().unwrap();
    assert_eq!(covered.until, Some(5));
    let hours: Vec<_> = covered
        .hours
        .iter()
        .map(|(first, last, _)| (*first, *last))
        .collect();
    let minutes: Vec<_> = covered
        .minutes_alone()
        .map(|(manifest, _)| *manifest)
        .collect();
    assert_eq!((hours, minutes), (vec![(1, 3)], vec![4, 5]));
    files.clear().unwrap();
    assert_eq!(files.covered().unwrap(), super::Covered::default());
}
