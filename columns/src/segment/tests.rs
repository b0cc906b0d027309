//! Entries through Parquet and back: the same bytes, whatever they hold.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;

use arrow::array::Array;
use counterfoil_entry::Time;
use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::record::DOMAIN;
use counterfoil_entry::table::{Shape, TABLES, TableId};
use counterfoil_entry::tlv::Encoder;
use counterfoil_entry::tree::{leaf_hash, root, sha256};
use parquet::file::reader::{FileReader, SerializedFileReader};
use proptest::prelude::*;

use super::*;
use crate::row::{RowBuilder, check};
use crate::schema::{Attribution, Delivery};

/// A value of any kind, as a test holds it.
#[derive(Debug, Clone)]
enum Value {
    Bool(bool),
    I64(i64),
    U64(u64),
    Bytes(Vec<u8>),
    Text(String),
    Time(i64),
    Texts(Vec<String>),
}

fn value(shape: Shape) -> BoxedStrategy<Value> {
    let extreme_u64 = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
    let extreme_i64 = prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(0), any::<i64>()];
    let text = prop_oneof![Just(String::new()), any::<String>()];
    match shape {
        Shape::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Shape::I64 => extreme_i64.prop_map(Value::I64).boxed(),
        Shape::U64 => extreme_u64.prop_map(Value::U64).boxed(),
        Shape::U16 => any::<u16>().prop_map(|v| Value::U64(v.into())).boxed(),
        Shape::Text => text.prop_map(Value::Text).boxed(),
        Shape::Time => extreme_i64.prop_map(Value::Time).boxed(),
        Shape::Fixed(n) => prop::collection::vec(any::<u8>(), usize::from(n))
            .prop_map(Value::Bytes)
            .boxed(),
        Shape::Binary => prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(Value::Bytes)
            .boxed(),
        Shape::TextList => prop::collection::vec(text, 0..4)
            .prop_map(Value::Texts)
            .boxed(),
    }
}

fn encode(id: TableId, version: u16, fields: &BTreeMap<u16, Value>) -> Vec<u8> {
    let mut record = DOMAIN.to_vec();
    record.extend_from_slice(&id.number().to_be_bytes());
    record.extend_from_slice(&version.to_be_bytes());
    let mut encoder = Encoder::new(&mut record);
    for (id, value) in fields {
        match value {
            Value::Bool(v) => encoder.bool(*id, *v),
            Value::I64(v) => encoder.i64(*id, *v),
            Value::U64(v) => encoder.u64(*id, *v),
            Value::Bytes(v) => encoder.bytes(*id, v),
            Value::Text(v) => encoder.text(*id, v),
            Value::Time(v) => encoder.time(*id, Time::from_ns(*v)),
            Value::Texts(v) => encoder.texts(*id, v),
        };
    }
    record
}

/// Entries of any table: every column, nullable ones at times absent, and fields unknown here.
fn record(id: TableId) -> BoxedStrategy<Vec<u8>> {
    let columns = id.table().columns.iter().map(|column| {
        let value = value(column.shape);
        let value = if column.nullable {
            prop::option::of(value).boxed()
        } else {
            value.prop_map(Some).boxed()
        };
        value.prop_map(move |value| (column.id, value))
    });
    let shapes = [
        Shape::Bool,
        Shape::U64,
        Shape::Text,
        Shape::Binary,
        Shape::TextList,
        Shape::Time,
    ];
    let unknown = prop::sample::select(shapes.to_vec()).prop_flat_map(value);
    let unknown = prop::collection::btree_map(200_u16..60_000, unknown, 0..3);
    (columns.collect::<Vec<_>>(), unknown)
        .prop_map(move |(known, mut fields)| {
            fields.extend(
                known
                    .into_iter()
                    .filter_map(|(id, value)| Some((id, value?))),
            );
            encode(id, 3, &fields)
        })
        .boxed()
}

fn records() -> impl Strategy<Value = (TableId, Vec<Vec<u8>>)> {
    let ids: Vec<TableId> = TABLES.iter().map(|table| table.id).collect();
    prop::sample::select(ids)
        .prop_flat_map(|id| (Just(id), prop::collection::vec(record(id), 0..12)))
}

fn meta(id: TableId) -> SegmentMeta {
    SegmentMeta {
        origin: "books.test/1".to_owned(),
        segment: 5,
        table: id,
        class: RetentionClass::parse("ops_90d").unwrap(),
        schema_version: 3,
    }
}

fn row(record: &[u8], at: i64) -> SegmentRow<'_> {
    SegmentRow {
        record,
        received_at: Time::from_ns(at),
        statement: Some(9),
        delivery: Delivery::Acked,
        attribution: Attribution::Native,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn entries_of_every_table_come_back_byte_for_byte((id, records) in records()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.parquet");
        let mut rows: Vec<_> = records.iter().zip(0..).map(|(r, at)| row(r, at)).collect();
        let file = write(&path, &meta(id), &mut rows).unwrap();
        let bytes = fs::read(&path).unwrap();
        prop_assert_eq!(file.sha256, sha256(&bytes));
        prop_assert_eq!(file.bytes, bytes.len() as u64);
        let mut back = Vec::new();
        let read = read_rows(&path, id, |at, record, envelope| {
            assert_eq!(envelope.leaf_index, Some(at));
            assert_eq!(envelope.segment, Some(5));
            assert_eq!(envelope.statement, (id != TableId::Statements).then_some(9));
            back.push(record.to_vec());
            ControlFlow::Continue(())
        }).unwrap();
        let leaves: Vec<_> = back.iter().map(|r| leaf_hash(r)).collect();
        prop_assert_eq!(root(&leaves), file.root);
        prop_assert_eq!(read.root, file.root);
        prop_assert_eq!(read.segment, meta(id));
        prop_assert_eq!(read.rows, records.len() as u64);
        back.sort();
        let mut sent = records;
        sent.sort();
        prop_assert_eq!(back, sent);
    }
}

fn entry(start_time: i64, trace: u8) -> Vec<u8> {
    let mut fields = BTreeMap::new();
    for column in TableId::Entries
        .table()
        .columns
        .iter()
        .filter(|column| !column.nullable)
    {
        let value = match column.shape {
            Shape::Bool => Value::Bool(true),
            Shape::I64 => Value::I64(1),
            Shape::U64 | Shape::U16 => Value::U64(1),
            Shape::Text => Value::Text("x".to_owned()),
            Shape::Time => Value::Time(start_time),
            Shape::Fixed(n) => Value::Bytes(vec![trace; usize::from(n)]),
            Shape::Binary => Value::Bytes(Vec::new()),
            Shape::TextList => Value::Texts(Vec::new()),
        };
        fields.insert(column.id, value);
    }
    fields.insert(7, Value::Bytes(vec![trace; 16]));
    encode(TableId::Entries, 3, &fields)
}

#[test]
fn entries_are_sorted_by_start_time_and_carry_index_and_filter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.parquet");
    let records = [entry(30, 1), entry(-10, 2), entry(20, 3)];
    let mut rows: Vec<_> = records.iter().map(|record| row(record, 0)).collect();
    let file = write(&path, &meta(TableId::Entries), &mut rows).unwrap();
    assert_eq!(
        (file.first_time.as_ns(), file.last_time.as_ns(), file.count),
        (-10, 30, 3)
    );
    let mut order = Vec::new();
    read_rows(&path, TableId::Entries, |_, record, _| {
        order.push(record.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(
        order,
        [records[1].clone(), records[2].clone(), records[0].clone()]
    );
    let reader = SerializedFileReader::new(fs::File::open(&path).unwrap()).unwrap();
    let group = reader.metadata().row_group(0);
    assert_eq!(group.sorting_columns().map(Vec::len), Some(1));
    let sorted = group.sorting_columns().unwrap()[0].column_idx;
    assert_eq!(
        group
            .column(usize::try_from(sorted).unwrap())
            .column_path()
            .string(),
        "start_time"
    );
    let trace = group
        .columns()
        .iter()
        .find(|c| c.column_path().string() == "trace_id")
        .unwrap();
    assert!(trace.bloom_filter_offset().is_some());
    assert!(trace.column_index_offset().is_some() && trace.offset_index_offset().is_some());
}

#[test]
fn an_entry_that_breaks_its_table_is_refused_and_leaves_the_builder_usable() {
    let good = entry(1, 1);
    let mut fields = BTreeMap::from([(1, Value::Text("w".to_owned()))]);
    let missing = encode(TableId::Entries, 3, &fields);
    fields.insert(2, Value::Text("not a number".to_owned()));
    let ill_typed = encode(TableId::Entries, 3, &fields);
    let mut cut = good.clone();
    cut.pop();
    for bad in [missing, ill_typed, cut, Vec::new()] {
        assert!(check(TableId::Entries, &bad).is_err());
        let mut builder = RowBuilder::new(TableId::Entries);
        let envelope = crate::Envelope {
            received_at: Time::from_ns(0),
            origin: "o",
            statement: None,
            segment: None,
            leaf_index: None,
            retention_class: "ops_90d",
            delivery: Delivery::Acked,
            attribution: Attribution::Native,
        };
        assert!(builder.push(&bad, &envelope).is_err());
        builder.push(&good, &envelope).unwrap();
        let batch = builder.finish().unwrap();
        assert_eq!(batch.num_rows(), 1);
        assert!(batch.column_by_name("leaf_index").unwrap().is_null(0));
    }
    assert!(check(TableId::Gaps, &good).is_err());
    assert!(check(TableId::Entries, &good).is_ok());
}

#[test]
fn a_segment_of_another_table_or_a_cut_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.parquet");
    let record = entry(1, 1);
    write(&path, &meta(TableId::Entries), &mut [row(&record, 0)]).unwrap();
    let ignore = |_: u64, _: &[u8], _: &crate::Envelope<'_>| ControlFlow::Continue(());
    assert!(read_rows(&path, TableId::Gaps, ignore).is_err());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(read_rows(&path, TableId::Entries, ignore).is_err());
}
