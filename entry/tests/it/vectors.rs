//! The committed vector file is what this build writes, and its fields alone make its bytes.
//!
//! `UPDATE=1 cargo test -p counterfoil-entry` writes the file anew.

use counterfoil_entry::Time;
use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::{Stream, Writer};
use counterfoil_entry::record::{Header, HeaderRef, RecordView};
use counterfoil_entry::tlv::{Encoder, Field};
use counterfoil_entry::tree::leaf_hash;
use serde_json::{Value, json};

use crate::{cases, rows};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/entries.json");

pub(crate) fn encode(header: &Header, entry: &Entry) -> Vec<u8> {
    let stream = header.stream.to_string();
    let header = HeaderRef {
        writer: header.writer.as_str(),
        epoch: header.epoch,
        stream: &stream,
        seq: header.seq,
    };
    let mut out = Vec::new();
    entry.encode(&header, &mut out);
    out
}

fn field_to_json(id: u16, field: &Field<'_>) -> Value {
    let (kind, value) = match field {
        Field::Bool(v) => ("bool", json!(v)),
        Field::I64(v) => ("i64", json!(v.to_string())),
        Field::U64(v) => ("u64", json!(v.to_string())),
        Field::Bytes(v) => ("bytes", json!(hex::encode(v))),
        Field::Text(v) => ("utf8", json!(v)),
        Field::Time(v) => ("time", json!(v.as_ns().to_string())),
        Field::List(list) => {
            let items = list.iter().map(|item| match item {
                Field::Text(text) => json!(text),
                other => panic!("lists of texts only, found {other:?}"),
            });
            ("list of utf8", items.collect())
        }
    };
    json!({ "id": id, "kind": kind, "value": value })
}

fn field_from_json(field: &Value, w: &mut Encoder<'_>) {
    let id = u16::try_from(field["id"].as_u64().unwrap()).unwrap();
    let value = &field["value"];
    let text = || value.as_str().unwrap();
    match field["kind"].as_str().unwrap() {
        "bool" => w.bool(id, value.as_bool().unwrap()),
        "i64" => w.i64(id, text().parse().unwrap()),
        "u64" => w.u64(id, text().parse().unwrap()),
        "bytes" => w.bytes(id, &hex::decode(text()).unwrap()),
        "utf8" => w.text(id, text()),
        "time" => w.time(id, Time::from_ns(text().parse().unwrap())),
        "list of utf8" => {
            let items: Vec<_> = value
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item.as_str().unwrap())
                .collect();
            w.texts(id, &items)
        }
        other => panic!("no such kind: {other}"),
    };
}

fn vectors() -> Value {
    let of = |(name, record): (String, Vec<u8>)| {
        let view = RecordView::parse(&record).unwrap();
        let fields: Vec<Value> = view
            .decoder()
            .map(|field| field.map(|(id, field)| field_to_json(id, &field)).unwrap())
            .collect();
        json!({
            "name": name,
            "table": view.table,
            "schema_version": view.schema_version,
            "fields": fields,
            "record": hex::encode(&record),
            "leaf_hash": leaf_hash(&record).to_string(),
        })
    };
    let entries = cases::all().into_iter();
    let entries = entries.map(|(name, header, entry)| (name, encode(&header, &entry)));
    Value::Array(entries.chain(rows::all()).map(of).collect())
}

#[test]
fn the_committed_vectors_are_what_this_build_writes() {
    let made = vectors();
    if std::env::var_os("UPDATE").is_some() {
        let lines: Vec<String> = made
            .as_array()
            .unwrap()
            .iter()
            .map(|case| format!("  {case}"))
            .collect();
        std::fs::write(FILE, format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
    }
    let committed: Value = serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    assert!(committed.as_array().unwrap().len() >= 30);
    assert_eq!(committed, made);
}

#[test]
fn the_fields_of_a_vector_alone_make_its_bytes() {
    let committed: Value = serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    for case in committed.as_array().unwrap() {
        let mut record = b"counterfoil/entry/v1\0".to_vec();
        for part in ["table", "schema_version"] {
            let number = u16::try_from(case[part].as_u64().unwrap()).unwrap();
            record.extend_from_slice(&number.to_be_bytes());
        }
        let mut encoder = Encoder::new(&mut record);
        for field in case["fields"].as_array().unwrap() {
            field_from_json(field, &mut encoder);
        }
        assert_eq!(
            hex::encode(&record),
            case["record"].as_str().unwrap(),
            "{}",
            case["name"]
        );
        assert_eq!(
            leaf_hash(&record).to_string(),
            case["leaf_hash"].as_str().unwrap()
        );
    }
}

#[test]
fn every_vector_reads_back_as_its_entry() {
    for (name, header, entry) in cases::all() {
        assert_eq!(
            Entry::decode(&encode(&header, &entry)),
            Ok((header, entry)),
            "{name}"
        );
    }
}

#[test]
fn a_row_tells_its_place_without_being_read_whole() {
    let record = encode(&cases::header(7), &cases::full());
    let header = RecordView::parse(&record).unwrap().header().unwrap();
    assert_eq!(header.seq, 7);
    assert_eq!(header.stream, Stream::parse("entries/sox_7y/0").unwrap());
    assert_eq!(
        header.writer,
        Writer::parse("spiffe://bank.test/workload/payments#p-1").unwrap()
    );
}
