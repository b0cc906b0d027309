//! What must hold of any entry, and of any bytes.

use std::sync::Arc;

use counterfoil_entry::announcement::Announcement;
use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::{Epoch, RetentionClass, SpanId, Stream, TraceId};
use counterfoil_entry::record::RecordView;
use counterfoil_entry::rows::{GapRow, IssuanceRow, StatementParts, StatementRow, Trust};
use counterfoil_entry::statement::{
    AuditKey, ClockState, Dropped, Recovery, Signed, Statement, StatementKind, StreamRange,
    statement_hash, verify_statement,
};
use counterfoil_entry::table::{ENTRIES, Shape, TableId};
use counterfoil_entry::tlv::{Encoder, Field, Fields};
use counterfoil_entry::tree::leaf_hash;
use counterfoil_entry::{Hash, Time};
use proptest::prelude::*;

use crate::cases;
use crate::vectors::encode;

fn any_entry() -> impl Strategy<Value = Entry> {
    let numbers = proptest::collection::vec(proptest::option::of(any::<u64>()), 8);
    let texts = proptest::collection::vec(proptest::option::of(".{0,20}"), 6);
    let scopes = proptest::collection::vec(".{0,6}", 0..5);
    (
        numbers,
        texts,
        scopes,
        any::<(i64, u16, bool, [u8; 16], [u8; 8])>(),
    )
        .prop_map(
            |(numbers, texts, scopes, (time, small, flag, trace, span))| {
                let text = |at: usize| texts[at].as_deref().map(Arc::from);
                Entry {
                    start_time: Time::from_ns(time),
                    trace_id: TraceId::new(trace),
                    span_id: SpanId::new(span),
                    duration_ns: numbers[0],
                    upstream_ns: numbers[1],
                    overhead_ns: numbers[2],
                    downstream_ns: numbers[3],
                    request_bytes: numbers[4],
                    response_bytes: numbers[5],
                    bundle_version: numbers[6],
                    clock_error_ns: numbers[7],
                    source: text(0),
                    destination: text(1),
                    operation: text(2),
                    route: text(3),
                    error_type: text(4),
                    grant_id: text(5),
                    scopes: scopes
                        .iter()
                        .map(|scope| Arc::from(scope.as_str()))
                        .collect(),
                    status: flag.then_some(small),
                    attempt: small,
                    mtls: flag,
                    ..cases::full()
                }
            },
        )
}

/// A value of the same kind that differs.
fn other(field: &Field<'_>, out: &mut Encoder<'_>, id: u16) {
    match field {
        Field::Bool(v) => out.bool(id, !v),
        Field::I64(v) => out.i64(id, v.wrapping_add(1)),
        Field::U64(v) => out.u64(id, v.wrapping_add(1)),
        Field::Bytes(v) => out.bytes(id, &v.iter().map(|byte| !byte).collect::<Vec<_>>()),
        Field::Text(v) => out.text(id, &format!("{v}.")),
        Field::Time(v) => out.time(id, Time::from_ns(v.as_ns().wrapping_add(1))),
        Field::List(v) => {
            let mut items: Vec<String> = v
                .iter()
                .map(|item| match item {
                    Field::Text(text) => text.to_owned(),
                    other => format!("{other:?}"),
                })
                .collect();
            items.push(String::new());
            out.texts(id, &items)
        }
    };
}

fn statement(kind: StatementKind) -> Statement {
    let header = cases::header(0);
    Statement {
        writer: header.writer,
        epoch: header.epoch,
        number: 3,
        kind,
        previous: Some(Hash([1; 32])),
        acked: Some((2, Hash([1; 32]))),
        checkpoint: Some("bank.test/books\n1\nAAAA\n".to_owned()),
        origin: Some("bank.test/books".to_owned()),
        time: Time::from_ns(5),
        clock: Some(ClockState {
            source: "ntp".to_owned(),
            offset_ns: -3,
            error_ns: 9,
        }),
        streams: vec![range("entries/sox_7y/0", 10), range("entries/ops_90d/0", 1)],
        drops: vec![Dropped {
            stream: Stream::parse("entries/ops_90d/0").unwrap(),
            reason: "spool_full".to_owned(),
            dropped: 4,
        }],
        calls_open: 2,
        oldest_call_start: Some(Time::from_ns(1)),
        spool_bytes: 77,
        bundle_sha256: None,
        config_sha256: Hash([9; 32]),
        build: "0.1.0".to_owned(),
        quarantined: vec![(1, Hash([8; 32]))],
    }
}

fn range(stream: &str, count: u64) -> StreamRange {
    StreamRange {
        stream: Stream::parse(stream).unwrap(),
        first_seq: 5,
        count,
        root: Hash([7; 32]),
    }
}

fn recovery() -> StatementKind {
    StatementKind::Recovery(Recovery {
        old_epoch: Epoch(1),
        last: Some((8, Hash([3; 32]))),
        tail: vec![range("entries/sox_7y/0", 2)],
    })
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(entry in any_entry(), seq in any::<u64>()) {
        let header = cases::header(seq);
        prop_assert_eq!(Entry::decode(&encode(&header, &entry)), Ok((header, entry)));
    }

    #[test]
    fn a_change_of_any_field_changes_the_hash(entry in any_entry()) {
        let record = encode(&cases::header(0), &entry);
        let view = RecordView::parse(&record).unwrap();
        let present: Vec<u16> = view.decoder().map(|field| field.unwrap().0).collect();
        for column in ENTRIES.columns {
            let mut changed = record[..record.len() - view.body.len()].to_vec();
            let mut w = Encoder::new(&mut changed);
            let mut added = present.contains(&column.id);
            for field in view.decoder() {
                let (id, field) = field.unwrap();
                if !added && id > column.id {
                    absent_made_present(column.shape, &mut w, column.id);
                    added = true;
                }
                if id == column.id { other(&field, &mut w, id) } else { w.field_of(id, &field); }
            }
            if !added {
                absent_made_present(column.shape, &mut w, column.id);
            }
            prop_assert_ne!(leaf_hash(&record), leaf_hash(&changed), "{}", column.name);
        }
    }

    #[test]
    fn any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(Fields::parse(&bytes));
        drop(Entry::decode(&bytes));
        drop(Statement::decode(&bytes));
        drop(Announcement::decode(&bytes));
        drop(Signed::from_wire(&bytes));
        drop(StatementRow::parts(&bytes));
    }

    #[test]
    fn a_flipped_bit_is_never_the_same_entry(
        entry in any_entry(), at in any::<proptest::sample::Index>(), bit in 0_u8..8,
    ) {
        let mut record = encode(&cases::header(0), &entry);
        let before = (cases::header(0), entry);
        let at = at.index(record.len());
        record[at] ^= 1 << bit;
        prop_assert_ne!(Entry::decode(&record).ok(), Some(before));
    }
}

fn absent_made_present(shape: Shape, w: &mut Encoder<'_>, id: u16) {
    match shape {
        Shape::Bool => w.bool(id, false),
        Shape::I64 => w.i64(id, 0),
        Shape::U64 | Shape::U16 => w.u64(id, 0),
        Shape::Text => w.text(id, ""),
        Shape::Time => w.time(id, Time::from_ns(0)),
        Shape::Fixed(_) | Shape::Binary => w.bytes(id, &[]),
        Shape::TextList => w.texts::<&str>(id, &[]),
    };
}

#[test]
fn statements_of_every_kind_read_back() {
    for kind in [StatementKind::Regular, StatementKind::Final, recovery()] {
        let statement = statement(kind);
        assert_eq!(Statement::decode(&statement.encode()), Ok(statement));
    }
}

#[test]
fn a_statement_that_contradicts_itself_is_refused() {
    let good = statement(StatementKind::Regular);
    let bad: [fn(&mut Statement); 5] = [
        |s| s.previous = None,
        |s| s.number = 0,
        |s| s.streams.push(s.streams[0].clone()),
        |s| s.streams[0].count = 0,
        |s| s.streams[0].first_seq = u64::MAX,
    ];
    for change in bad {
        let mut changed = good.clone();
        change(&mut changed);
        assert!(Statement::decode(&changed.encode()).is_err());
    }
}

#[test]
fn a_signature_holds_for_its_statement_and_key_only() {
    let key = AuditKey::generate().unwrap();
    let signed = key.sign_statement(statement(StatementKind::Final).encode());
    assert!(verify_statement(&signed, &key.public()));
    assert!(!verify_statement(
        &signed,
        &AuditKey::generate().unwrap().public()
    ));
    let mut changed = signed.clone();
    changed.bytes[40] ^= 1;
    assert!(!verify_statement(&changed, &key.public()));
    assert_eq!(Signed::from_wire(&signed.to_wire()), Some(signed));
}

#[test]
fn the_row_of_a_statement_is_made_again_from_its_parts() {
    let key = AuditKey::generate().unwrap();
    let signed = key.sign_statement(statement(recovery()).encode());
    let row = StatementRow::of_statement(&signed, key.public(), Trust::Late, Some("why")).unwrap();
    assert_eq!(row.header.stream.to_string(), "statements/sox_7y/0");
    let mut record = Vec::new();
    row.encode(&mut record);
    let parts: StatementParts = StatementRow::parts(&record).unwrap();
    assert_eq!(parts.signed, signed);
    assert_eq!(
        statement_hash(&parts.signed.bytes),
        statement_hash(&signed.bytes)
    );
    assert_eq!(parts.record().unwrap(), record);
}

#[test]
fn an_announcement_reads_back_and_has_a_row_of_its_own() {
    let header = cases::header(0);
    let announcement = Announcement {
        writer: header.writer,
        epoch: header.epoch,
        audit_key: [5; 32],
        time: Time::from_ns(1),
        chain: vec![vec![1, 2], vec![]],
        build: "0.1.0".to_owned(),
    };
    assert_eq!(
        Announcement::decode(&announcement.encode()),
        Ok(announcement.clone())
    );
    let signed = Signed {
        bytes: announcement.encode(),
        signature: vec![1],
    };
    let row = StatementRow::of_announcement(&signed, Trust::Verified, None).unwrap();
    assert_eq!(row.stream_text(), "statements/permanent/announcement");
    let mut record = Vec::new();
    row.encode(&mut record);
    assert_eq!(
        StatementRow::parts(&record).unwrap().record().unwrap(),
        record
    );
}

#[test]
fn the_small_rows_read_back() {
    let header = cases::header(3);
    let header = counterfoil_entry::record::Header {
        stream: Stream::new(TableId::Gaps, RetentionClass::permanent(), 0),
        ..header
    };
    let stream = header.stream.to_string();
    let place = counterfoil_entry::record::HeaderRef {
        writer: header.writer.as_str(),
        epoch: header.epoch,
        stream: &stream,
        seq: header.seq,
    };
    let gap = GapRow {
        gap_id: "g".to_owned(),
        revision: 1,
        subject_writer: "w".to_owned(),
        subject_epoch: 2,
        subject_stream: Some("entries/sox_7y/0".to_owned()),
        from_seq: Some(1),
        until_seq: Some(4),
        from_statement: None,
        until_statement: None,
        not_before: Some(Time::from_ns(1)),
        not_after: None,
        cause: "skipped".to_owned(),
        detected_by: "sequence".to_owned(),
        opened_at: Time::from_ns(5),
        closed_at: None,
        explanation: Some(String::new()),
        ticket: None,
    };
    let mut record = Vec::new();
    gap.encode(&place, &mut record);
    assert_eq!(GapRow::decode(&record), Ok((header, gap)));
    assert!(IssuanceRow::decode(&record).is_err());
}
