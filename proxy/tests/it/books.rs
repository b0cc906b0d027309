//! What a proxy wrote, read back from its spool.

use std::path::{Path, PathBuf};
use std::time::Duration;

use counterfoil_entry::entry::Entry;
use counterfoil_entry::frame::FrameReader;
use counterfoil_entry::record::RecordView;
use counterfoil_entry::table::TableId;
use counterfoil_entry::tlv::Fields;
use counterfoil_entry::word::Side;

/// Longest wait for something that must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// All entries under a spool root, by start time.
pub(crate) fn entries(root: &Path) -> Vec<Entry> {
    let records = records(root, "entries.");
    let mut found: Vec<_> = records
        .iter()
        .map(|record| Entry::decode(record).unwrap().1)
        .collect();
    found.sort_by_key(|entry| entry.start_time);
    found
}

/// The fields `ids` of each row of `table`, in the order in which they were written, as text; `-`
/// where there is none.
pub(crate) fn rows(root: &Path, table: TableId, ids: &[u16]) -> Vec<Vec<String>> {
    let name = format!("{}.", table.name());
    let fields_of = |record: &Vec<u8>| {
        let view = RecordView::parse(record).unwrap();
        view.expect(table).unwrap();
        let fields = Fields::parse(view.body).unwrap();
        let shown = |id: &u16| {
            let text = fields.text_opt(*id).map(|text| text.map(str::to_owned));
            let text = text.or_else(|_| fields.u64_opt(*id).map(|n| n.map(|n| n.to_string())));
            let text = text.or_else(|_| fields.bool(*id).map(|is| Some(is.to_string())));
            text.unwrap().unwrap_or_else(|| "-".to_owned())
        };
        ids.iter().map(shown).collect()
    };
    records(root, &name).iter().map(fields_of).collect()
}

fn records(root: &Path, prefix: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for file in files(root) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with(prefix) {
            continue;
        }
        let bytes = std::fs::read(&file).unwrap();
        if bytes.is_empty() {
            // just made, nothing in it yet
            continue;
        }
        assert_eq!(&bytes[..8], b"CFSPOOL1");
        let frames = FrameReader::new(&bytes[8..]).filter(|frame| frame.kind == 1);
        found.extend(frames.map(|frame| frame.payload.to_vec()));
    }
    found
}

/// All files under a folder.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(read) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = read.map(|item| item.unwrap().path()).collect();
    paths.sort();
    let below = paths.into_iter().flat_map(|path| {
        if path.is_dir() {
            files(&path)
        } else {
            vec![path]
        }
    });
    below.collect()
}

/// Waits until there are `count` entries under `root`, and checks that no more come at once.
pub(crate) async fn wait_for(root: &Path, count: usize) -> Vec<Entry> {
    let looking = async {
        loop {
            let entries = entries(root);
            if entries.len() >= count {
                return entries;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let entries = tokio::time::timeout(DEADLINE, looking).await;
    let entries = entries
        .unwrap_or_else(|_| panic!("{count} entries, but: {:#?}", crate::books::entries(root)));
    assert_eq!(entries.len(), count, "{entries:#?}");
    entries
}

/// The client's and the server's entry of one call, checked to match and to agree.
#[track_caller]
pub(crate) fn matched(client: &Entry, server: &Entry) {
    assert_eq!((client.side, server.side), (Side::Client, Side::Server));
    assert_eq!(client.trace_id, server.trace_id);
    assert!(client.trace_id.is_some());
    assert_eq!(server.parent_span_id, client.span_id);
    assert_ne!(server.span_id, client.span_id);
    assert_eq!(client.source, server.source);
    assert_eq!(client.destination, server.destination);
    assert_eq!(client.source_cert_sha256, server.source_cert_sha256);
    assert_eq!(
        client.destination_cert_sha256,
        server.destination_cert_sha256
    );
    assert_eq!(client.operation, server.operation);
    assert_eq!(client.method, server.method);
    assert!(client.mtls && server.mtls);
    for entry in [client, server] {
        adds_up(entry);
    }
}

/// As [`matched`], for a call that both sides saw to its end.
#[track_caller]
pub(crate) fn agreed(client: &Entry, server: &Entry) {
    matched(client, server);
    assert_eq!(client.status, server.status);
    assert_eq!(client.grpc_status, server.grpc_status);
    assert_eq!(client.outcome, server.outcome);
    assert_eq!(client.error_type, None, "{client:#?}");
    assert_eq!(server.error_type, None, "{server:#?}");
    assert_eq!(client.request_bytes, server.request_bytes);
    assert_eq!(client.response_bytes, server.response_bytes);
}

/// Duration is the sum of its parts, to the nanosecond.
#[track_caller]
pub(crate) fn adds_up(entry: &Entry) {
    let parts =
        entry.upstream_ns.unwrap() + entry.downstream_ns.unwrap() + entry.overhead_ns.unwrap();
    assert_eq!(entry.duration_ns, Some(parts), "{entry:#?}");
    assert!(entry.end_time.unwrap() >= entry.start_time);
}

/// Waits until `is_so`.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let seen = tokio::time::timeout(DEADLINE * 3, looking).await;
    assert!(seen.is_ok(), "not in time: {what}");
}
