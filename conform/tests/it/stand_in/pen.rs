//! What the stand-in writes into its spool.

use std::sync::{Arc, Mutex};

use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::{RetentionClass, SpanId, TraceId, Writer};
use counterfoil_entry::table::TableId;
use counterfoil_entry::word::{Decision, Kind, Outcome, Side};
use counterfoil_entry::{Hash, clock};
use counterfoil_proxy::Config;
use counterfoil_spool::{Lane, Spool, SpoolConfig};
use counterfoil_trust::allow::Verdict;

use super::Flaws;
use super::heads::{Head, traceparent};

/// The pen of one side.
pub(crate) struct Pen {
    lane: Mutex<Lane>,
    flaws: Flaws,
    bundle: Hash,
    _spool: Spool,
}

/// Trace, own span, and the caller's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trace {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
    pub(crate) parent: Option<SpanId>,
}

impl Trace {
    /// Continues the trace of a request, or begins one.
    pub(crate) fn of(head: &Head, flaws: &Flaws) -> Self {
        let known = traceparent(head).filter(|_| !flaws.has("trace_replaced"));
        Self {
            trace: known.map_or_else(|| TraceId::new(rand::random()).unwrap(), |(trace, _)| trace),
            span: SpanId::new(rand::random()).unwrap(),
            parent: known.map(|(_, parent)| parent),
        }
    }
}

impl Pen {
    pub(crate) fn new(config: &Config, flaws: Flaws, bundle: Hash) -> Self {
        let spool = Spool::open(SpoolConfig {
            directory: config.spool_dir.clone(),
            writer: Writer::parse(&config.writer_name()).unwrap(),
            size_max: 64 << 20,
            build: "stand-in".to_owned(),
            config_sha256: config.sha256,
        })
        .unwrap();
        Self {
            lane: Mutex::new(spool.lane(0)),
            flaws,
            bundle,
            _spool: spool,
        }
    }

    pub(crate) fn refused_handshake(&self, port: u16, reason: &str) {
        let mut entry = Entry::new(Side::Server, Kind::TlsFailure, clock::wall());
        entry.peer_port = Some(port);
        entry.decision = Decision::Deny;
        entry.reason = Arc::from(reason);
        entry.outcome = Some(Outcome::Denied);
        self.append(&entry);
    }

    /// An entry of the server's side, without its end.
    pub(crate) fn server(
        &self,
        source: &str,
        head: &Head,
        trace: Trace,
        verdict: &Verdict,
    ) -> Entry {
        let mut entry = self.entry(Side::Server, source, trace);
        entry.decision = verdict.decision;
        entry.reason = Arc::from(verdict.reason.as_str());
        entry.grant_id.clone_from(&verdict.grant_id);
        if let Some((decision, reason)) = verdict.shadow.filter(|_| !self.flaws.has("shadow_none"))
        {
            entry.shadow_decision = Some(Arc::from(decision.as_str()));
            entry.shadow_reason = Some(Arc::from(reason.as_str()));
        }
        if self.flaws.has("books_secret") {
            entry.route = Some(Arc::from(head.target.as_str()));
        }
        entry
    }

    /// An entry of the client's side, without its end.
    pub(crate) fn client(&self, source: &str, trace: Trace) -> Entry {
        self.entry(Side::Client, source, trace)
    }

    fn entry(&self, side: Side, source: &str, trace: Trace) -> Entry {
        let mut entry = Entry::new(side, Kind::Http, clock::wall());
        entry.trace_id = Some(trace.trace);
        entry.span_id = Some(trace.span);
        entry.parent_span_id = trace.parent;
        entry.source = Some(Arc::from(source));
        entry.bundle_sha256 = Some(self.bundle);
        entry
    }

    /// Writes an entry with how its call ended.
    pub(crate) fn end(&self, mut entry: Entry, outcome: Outcome) {
        entry.outcome = Some(outcome);
        if outcome == Outcome::Denied {
            entry.decision = Decision::Deny;
            if self.flaws.has("books_reason") {
                entry.reason = Arc::from("denied");
            }
        }
        if outcome == Outcome::Aborted && self.flaws.has("books_aborted") {
            return;
        }
        self.append(&entry);
        if self.flaws.has("books_twice") {
            self.append(&entry);
        }
    }

    fn append(&self, entry: &Entry) {
        if self.flaws.has("books_none") {
            return;
        }
        let class = RetentionClass::parse("ops_90d").unwrap();
        let mut lane = self.lane.lock().unwrap();
        lane.append(TableId::Entries, &class, |header, out| {
            entry.encode(header, out)
        })
        .unwrap();
    }
}
