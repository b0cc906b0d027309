//! Tables about the books themselves, made from a snapshot: segments, manifests, checkpoints; and those
//! of objectives and reports.

mod deleted;

use std::sync::Arc;

use counterfoil_entry::Time;
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::Result;

use crate::books::{ManifestFacts, OriginSnapshot, Snapshot};
use crate::objectives::Objective;
use crate::public::timestamptz;
use crate::reports;
use counterfoil_ledger::manifest::SegmentRef;

const DAY_NS: f64 = 86_400e9;

/// The rows of table `name`; `None` for a name that is none of this module's.
///
/// # Errors
/// When columns do not fit together.
pub(crate) fn table(
    name: &str,
    snapshot: &Snapshot,
    objectives: &[Objective],
    now: Time,
) -> Result<Option<RecordBatch>> {
    match name {
        "segments" => segments(snapshot).map(Some),
        "deleted_ranges" => deleted::ranges(snapshot).map(Some),
        "manifests" => manifests(snapshot).map(Some),
        "checkpoints" => checkpoints(snapshot).map(Some),
        "objectives" => promised(objectives, now).map(Some),
        "reports" => reports::table().map(Some),
        _ => Ok(None),
    }
}

fn segments(snapshot: &Snapshot) -> Result<RecordBatch> {
    let rows: Vec<(&OriginSnapshot, &ManifestFacts, Option<u64>, &SegmentRef)> = snapshot
        .origins
        .iter()
        .flat_map(|origin| {
            origin
                .manifests
                .iter()
                .map(move |manifest| (origin, manifest))
        })
        .flat_map(|(origin, manifest)| {
            let gone = manifest.deleted.iter().map(|(one, by)| (one, Some(*by)));
            let there = manifest.segments.iter().map(|one| (one, None));
            there
                .chain(gone)
                .map(move |(segment, by)| (origin, &**manifest, by, segment))
        })
        .collect();
    batch(vec![
        text(
            "origin",
            rows.iter().map(|(origin, ..)| Some(origin.origin.clone())),
        ),
        number(
            "segment",
            rows.iter().map(|(.., segment)| Some(segment.segment)),
        ),
        number(
            "manifest",
            rows.iter().map(|(_, manifest, ..)| Some(manifest.number)),
        ),
        text(
            "table_name",
            rows.iter()
                .map(|(.., segment)| Some(segment.table.name().to_owned())),
        ),
        text(
            "retention_class",
            rows.iter()
                .map(|(.., segment)| Some(segment.class.to_string())),
        ),
        number("rows", rows.iter().map(|(.., segment)| Some(segment.count))),
        number(
            "bytes",
            rows.iter().map(|(.., segment)| Some(segment.bytes)),
        ),
        time(
            "first_time",
            rows.iter().map(|(.., segment)| segment.first_time),
        ),
        time(
            "last_time",
            rows.iter().map(|(.., segment)| segment.last_time),
        ),
        text(
            "root",
            rows.iter()
                .map(|(.., segment)| Some(segment.root.to_string())),
        ),
        text(
            "file",
            rows.iter().map(|(.., segment)| Some(segment.file.clone())),
        ),
        text(
            "sha256",
            rows.iter()
                .map(|(.., segment)| Some(segment.sha256.to_string())),
        ),
        // The manifest that deleted it lawfully; null while it is in the books.
        number("deleted_by", rows.iter().map(|(_, _, by, _)| *by)),
    ])
}

fn manifests(snapshot: &Snapshot) -> Result<RecordBatch> {
    let rows: Vec<(&OriginSnapshot, &ManifestFacts)> = snapshot
        .origins
        .iter()
        .flat_map(|origin| {
            origin
                .manifests
                .iter()
                .map(move |manifest| (origin, &**manifest))
        })
        .collect();
    batch(vec![
        text(
            "origin",
            rows.iter().map(|(origin, _)| Some(origin.origin.clone())),
        ),
        number(
            "number",
            rows.iter().map(|(_, manifest)| Some(manifest.number)),
        ),
        text(
            "kind",
            rows.iter()
                .map(|(_, manifest)| Some(manifest.kind.to_owned())),
        ),
        time("from_time", rows.iter().map(|(_, manifest)| manifest.from)),
        time(
            "until_time",
            rows.iter().map(|(_, manifest)| manifest.until),
        ),
        number(
            "segments",
            rows.iter()
                .map(|(_, one)| Some((one.segments.len() + one.deleted.len()) as u64)),
        ),
        number(
            "journal_file",
            rows.iter().map(|(_, manifest)| manifest.journal_file),
        ),
        text(
            "build",
            rows.iter()
                .map(|(_, manifest)| Some(manifest.build.clone())),
        ),
        text(
            "sha256",
            rows.iter()
                .map(|(_, manifest)| Some(manifest.sha256.to_string())),
        ),
        text(
            "previous",
            rows.iter()
                .map(|(_, one)| one.previous.map(|hash| hash.to_string())),
        ),
    ])
}

fn checkpoints(snapshot: &Snapshot) -> Result<RecordBatch> {
    let heads: Vec<_> = snapshot
        .origins
        .iter()
        .filter_map(|origin| origin.checkpoint.as_ref())
        .collect();
    batch(vec![
        text("origin", heads.iter().map(|head| Some(head.origin.clone()))),
        number("size", heads.iter().map(|head| Some(head.size))),
        text("root", heads.iter().map(|head| Some(head.root.to_string()))),
    ])
}

fn promised(objectives: &[Objective], now: Time) -> Result<RecordBatch> {
    let float = |name: &str, values: Vec<f64>| -> (Field, ArrayRef) {
        (
            Field::new(name, DataType::Float64, true),
            Arc::new(Float64Array::from(values)),
        )
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "a window in days needs no nanosecond"
    )]
    let days = objectives
        .iter()
        .map(|one| one.window.length_ns() as f64 / DAY_NS)
        .collect();
    batch(vec![
        text(
            "objective",
            objectives.iter().map(|one| Some(one.name.clone())),
        ),
        text("service", objectives.iter().map(|one| one.service.clone())),
        signed(
            "each",
            objectives
                .iter()
                .map(|one| Some(i64::from(one.service.is_none()))),
        ),
        text(
            "operation",
            objectives.iter().map(|one| one.operation.clone()),
        ),
        signed(
            "threshold_ns",
            objectives.iter().map(|one| one.threshold_ns),
        ),
        float("target", objectives.iter().map(|one| one.target).collect()),
        float("window_days", days),
        time(
            "from_time",
            objectives.iter().map(|one| one.window.begin(now)),
        ),
        text(
            "time_window",
            objectives.iter().map(|one| Some(one.window.to_string())),
        ),
        flag(
            "rolling",
            objectives.iter().map(|one| one.window.is_rolling()),
        ),
        number("ordinal", objectives.iter().map(|one| Some(one.ordinal))),
        number(
            "events_min",
            objectives.iter().map(|one| Some(one.events_min)),
        ),
    ])
}

/// Who may ask: name and role.
///
/// # Errors
/// When columns do not fit together.
pub(crate) fn users(users: &[(String, &'static str)]) -> Result<RecordBatch> {
    batch(vec![
        text("name", users.iter().map(|(name, _)| Some(name.clone()))),
        text(
            "role",
            users.iter().map(|(_, role)| Some((*role).to_owned())),
        ),
    ])
}

pub(crate) fn batch(columns: Vec<(Field, ArrayRef)>) -> Result<RecordBatch> {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

pub(crate) fn text(name: &str, values: impl Iterator<Item = Option<String>>) -> (Field, ArrayRef) {
    let array: StringArray = values.collect();
    (Field::new(name, DataType::Utf8, true), Arc::new(array))
}

fn flag(name: &str, values: impl Iterator<Item = bool>) -> (Field, ArrayRef) {
    let array: BooleanArray = values.map(Some).collect();
    (Field::new(name, DataType::Boolean, true), Arc::new(array))
}

fn signed(name: &str, values: impl Iterator<Item = Option<i64>>) -> (Field, ArrayRef) {
    let array: Int64Array = values.collect();
    (Field::new(name, DataType::Int64, true), Arc::new(array))
}

pub(crate) fn number(name: &str, values: impl Iterator<Item = Option<u64>>) -> (Field, ArrayRef) {
    signed(
        name,
        values.map(|value| value.and_then(|value| i64::try_from(value).ok())),
    )
}

fn time(name: &str, values: impl Iterator<Item = Time>) -> (Field, ArrayRef) {
    let values = values.map(|at| at.as_ns().div_euclid(1_000));
    let array = TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC");
    (Field::new(name, timestamptz(), true), Arc::new(array))
}
