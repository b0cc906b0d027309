//! Reading requests before they reach the books: nothing here changes what the collector knows.

use bytes::Bytes;
use counterfoil_columns::row;
use counterfoil_entry::announcement::Announcement;
use counterfoil_entry::frame::records;
use counterfoil_entry::id::{Epoch, Stream, Writer};
use counterfoil_entry::record::RecordView;
use counterfoil_entry::statement::{Signed, Statement};
use counterfoil_entry::table::TableId;
use counterfoil_entry::tree::leaf_hash;
use counterfoil_entry::{Hash, Time};
use counterfoil_trust::{Refusal, TrustRoots, verify_announcement};

use crate::answer::{Reason, Refused};

/// Bytes of a batch at most.
pub(crate) const BATCH_BYTES_MAX: usize = 4 << 20;

/// Who may write the tables that are not open to every writer.
#[derive(Debug, Clone)]
pub(crate) struct Desks {
    /// SPIFFE id of this collector: the only writer of `gaps` and `conflicts`.
    pub(crate) collector: String,
    /// SPIFFE id of control: the only writer of `issuance`.
    pub(crate) control: String,
    /// SPIFFE id of query: the only writer of `objectives` and `alerts`.
    pub(crate) query: String,
    /// SPIFFE id of retention: the only writer of `retention_actions` and `legal_holds`.
    pub(crate) retention: String,
}

/// Entries of one writer and epoch, decoded and hashed.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) writer: Writer,
    pub(crate) epoch: Epoch,
    pub(crate) streams: Vec<Stream>,
    pub(crate) rows: Vec<BatchRow>,
    pub(crate) body: Bytes,
}

/// One entry of a batch.
#[derive(Debug, Clone)]
pub(crate) struct BatchRow {
    /// Place in [`Batch::streams`].
    pub(crate) stream: usize,
    pub(crate) seq: u64,
    pub(crate) schema_version: u16,
    pub(crate) leaf: Hash,
    /// Place of the canonical bytes in the body.
    pub(crate) at: std::ops::Range<usize>,
}

/// An announcement, and how its proof went.
#[derive(Debug)]
pub(crate) struct Hello {
    pub(crate) announcement: Announcement,
    pub(crate) signed: Signed,
    pub(crate) proof: Proof,
}

/// How far an announcement is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Its SVID is valid now, and was at the time that the announcement tells.
    Valid,
    /// Its SVID was valid when the epoch began; the certificate's hash.
    Expired(Hash),
    /// It is not proved, for this reason.
    None(Refusal),
}

/// Reads a batch that the workload `peer` sent.
///
/// # Errors
/// [`Reason::Malformed`] or [`Reason::NotTheWriter`], naming the first bad entry.
pub(crate) fn read_batch(body: Bytes, peer: &str, desks: &Desks) -> Result<Batch, Refused> {
    let mut header: Option<(Writer, Epoch)> = None;
    let mut streams: Vec<(String, Stream)> = Vec::new();
    let mut rows = Vec::new();
    let mut at = 0_usize;
    for (index, record) in records(&body).enumerate() {
        let bad = |detail: String| {
            Refused::new(
                Reason::Malformed,
                format!("entry {index} of the batch: {detail}"),
            )
        };
        let record = record.map_err(|error| bad(error.to_string()))?;
        let begin = at + 4;
        at = begin + record.len();
        let view = RecordView::parse(record).map_err(|error| bad(error.to_string()))?;
        let head = view.header_ref().map_err(|error| bad(error.to_string()))?;
        if header
            .as_ref()
            .is_none_or(|(writer, _)| writer.as_str() != head.writer)
        {
            let writer = Writer::parse(head.writer).map_err(|error| bad(error.to_string()))?;
            if header.is_some() {
                return Err(bad("it is of another writer".to_owned()));
            }
            check_peer(&writer, peer)?;
            header = Some((writer, head.epoch));
        }
        if header
            .as_ref()
            .is_some_and(|(_, epoch)| *epoch != head.epoch)
        {
            return Err(bad("it is of another epoch".to_owned()));
        }
        let stream = match streams.iter().position(|(text, _)| text == head.stream) {
            Some(known) => known,
            None => {
                let stream = Stream::parse(head.stream).map_err(|error| bad(error.to_string()))?;
                check_desk(&stream, peer, desks)?;
                streams.push((head.stream.to_owned(), stream));
                streams.len() - 1
            }
        };
        let table = streams.get(stream).map(|(_, stream)| stream.table);
        let table = table.ok_or_else(|| bad("its stream is unknown".to_owned()))?;
        row::check(table, record).map_err(|error| bad(describe(&error)))?;
        if head.seq == u64::MAX {
            return Err(bad("its sequence number is too high".to_owned()));
        }
        rows.push(BatchRow {
            stream,
            seq: head.seq,
            schema_version: view.schema_version,
            leaf: leaf_hash(record),
            at: begin..at,
        });
    }
    let empty = || Refused::new(Reason::Malformed, "the batch is empty");
    let (writer, epoch) = header.ok_or_else(empty)?;
    let streams = streams.into_iter().map(|(_, stream)| stream).collect();
    Ok(Batch {
        writer,
        epoch,
        streams,
        rows,
        body,
    })
}

/// Reads a statement that the workload `peer` sent.
///
/// # Errors
/// [`Reason::Malformed`] or [`Reason::NotTheWriter`].
pub(crate) fn read_statement(body: &[u8], peer: &str) -> Result<(Statement, Signed), Refused> {
    let bad = |detail: &str| Refused::new(Reason::Malformed, format!("the statement: {detail}"));
    let signed = Signed::from_wire(body).ok_or_else(|| bad("its length is wrong"))?;
    let statement = Statement::decode(&signed.bytes).map_err(|error| bad(&error.to_string()))?;
    check_peer(&statement.writer, peer)?;
    if statement.number == u64::MAX {
        return Err(bad("its number is too high"));
    }
    Ok((statement, signed))
}

/// Reads an announcement that the workload `peer` sent, and checks its proof at the time `now`.
///
/// # Errors
/// [`Reason::Malformed`], [`Reason::NotTheWriter`], or [`Reason::Signature`] when the announcement is
/// not signed by the key of its certificate.
pub(crate) fn read_hello(
    body: &[u8],
    peer: &str,
    roots: &TrustRoots,
    now: Time,
) -> Result<Hello, Refused> {
    let bad = |detail: &str| Refused::new(Reason::Malformed, format!("the announcement: {detail}"));
    let signed = Signed::from_wire(body).ok_or_else(|| bad("its length is wrong"))?;
    let announcement =
        Announcement::decode(&signed.bytes).map_err(|error| bad(&error.to_string()))?;
    check_peer(&announcement.writer, peer)?;
    let verify = |at| verify_announcement(roots, &signed.bytes, &signed.signature, at);
    let proof = match verify(now) {
        // A verifier holds the announcement's own time against the certificate: a writer whose clock
        // is far off is kept as unverified.
        Ok(_) => verify(announcement.time).map_or_else(Proof::None, |_| Proof::Valid),
        Err(Refusal::WrongPeer) => {
            let detail = "the announcement's certificate is another workload's";
            return Err(Refused::new(Reason::NotTheWriter, detail));
        }
        Err(Refusal::Protocol) => {
            let detail = "the announcement is not signed by the key of its certificate";
            return Err(Refused::new(Reason::Signature, detail));
        }
        Err(Refusal::Expired) => match verify(announcement.time) {
            Ok((_, peer)) => Proof::Expired(peer.cert_sha256),
            Err(refusal) => Proof::None(refusal),
        },
        Err(refusal) => Proof::None(refusal),
    };
    Ok(Hello {
        announcement,
        signed,
        proof,
    })
}

fn check_peer(writer: &Writer, peer: &str) -> Result<(), Refused> {
    if writer.spiffe_id() == peer {
        return Ok(());
    }
    let detail = format!("{peer} cannot write as {}", writer.spiffe_id());
    Err(Refused::new(Reason::NotTheWriter, detail))
}

fn check_desk(stream: &Stream, peer: &str, desks: &Desks) -> Result<(), Refused> {
    if Stream::provenance(stream.lane).is_none() {
        let detail = format!("{stream}: nothing is written on that lane");
        return Err(Refused::new(Reason::Malformed, detail));
    }
    if stream.is_foreign() && peer != desks.collector {
        let detail = format!("{peer} may not write {stream}: the lane is the collector's");
        return Err(Refused::new(Reason::NotTheWriter, detail));
    }
    let table = stream.table;
    let is_allowed = match table {
        TableId::Spans => stream.is_foreign(),
        TableId::Gaps | TableId::Conflicts => peer == desks.collector,
        TableId::Issuance
        | TableId::GovernanceEvents
        | TableId::Grants
        | TableId::Bundles
        | TableId::Apis
        | TableId::Operations => peer == desks.control,
        TableId::Objectives | TableId::Alerts => peer == desks.query,
        TableId::RetentionActions | TableId::LegalHolds => peer == desks.retention,
        TableId::Statements => {
            let detail = "rows of the table statements are made by the collector";
            return Err(Refused::new(Reason::Malformed, detail));
        }
        TableId::Entries
        | TableId::CertRotations
        | TableId::BundleAcks
        | TableId::ControlHealth
        | TableId::QueryLog
        | TableId::ConformanceResults => true,
    };
    if is_allowed {
        return Ok(());
    }
    let detail = format!("{peer} may not write the table {}", table.name());
    Err(Refused::new(Reason::NotTheWriter, detail))
}

/// An error with its sources, on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| {
        format!("{text}: {source}")
    })
}
