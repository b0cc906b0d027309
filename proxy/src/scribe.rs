//! One worker's pen: the lane of the spool, the worker's span ids, and the words that every entry
//! of the worker shares.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::table::TableId;
use counterfoil_entry::word::{Decision, Kind, Outcome, Side};
use counterfoil_entry::{Hash, Time, clock};
use counterfoil_spool::{AppendError, Lane};
use counterfoil_trust::allow::Reason;
use http::{Method, Request, Version};

use crate::call_metrics::WorkerCalls;
use crate::counters::Counters;
use crate::open_calls::{OpenCalls, Ticket};
use crate::trace_context::SpanIds;

/// What every entry of this proxy says.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) spiffe_id: Arc<str>,
    pub(crate) site: Option<Arc<str>>,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) config_sha256: Hash,
    pub(crate) build: Arc<str>,
}

/// One worker's pen. Used by its thread alone, so that its locks are always free.
#[derive(Debug)]
pub(crate) struct Scribe {
    lane: Mutex<Lane>,
    pub(crate) spans: SpanIds,
    pub(crate) words: Words,
    facts: Facts,
    fallback_class: RetentionClass,
    open: Arc<OpenCalls>,
    counters: Arc<Counters>,
    calls: Mutex<WorkerCalls>,
    stopping: AtomicBool,
    failing: AtomicBool,
}

/// Texts that many entries share.
#[derive(Debug)]
pub(crate) struct Words {
    methods: Vec<(Method, Arc<str>)>,
    other_method: Arc<str>,
    http10: Arc<str>,
    http11: Arc<str>,
    h2: Arc<str>,
    tcp: Arc<str>,
    pub(crate) tls13: Arc<str>,
    /// The usual reasons.
    reasons: [(Reason, Arc<str>); 4],
    allow: Arc<str>,
    deny: Arc<str>,
    not_required: Arc<str>,
    pub(crate) callee_decides: Arc<str>,
}

impl Words {
    fn new() -> Self {
        let methods = [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::PATCH,
            Method::HEAD,
            Method::OPTIONS,
            Method::CONNECT,
            Method::TRACE,
        ];
        Self {
            methods: methods
                .into_iter()
                .map(|m| (m.clone(), Arc::from(m.as_str())))
                .collect(),
            other_method: Arc::from("_OTHER"),
            http10: Arc::from("http/1.0"),
            http11: Arc::from("http/1.1"),
            h2: Arc::from("h2"),
            tcp: Arc::from("tcp"),
            tls13: Arc::from("TLSv1.3"),
            reasons: [
                Reason::Granted,
                Reason::OpenOperation,
                Reason::TokenGranted,
                Reason::GrantNone,
            ]
            .map(|reason| (reason, Arc::from(reason.as_str()))),
            allow: Arc::from(Decision::Allow.as_str()),
            deny: Arc::from(Decision::Deny.as_str()),
            not_required: Arc::from(Decision::NotRequired.as_str()),
            callee_decides: Arc::from("callee_decides"),
        }
    }

    /// A method as entries spell it; what no standard knows is `_OTHER`, as it could be anything.
    fn method(&self, method: &Method) -> Arc<str> {
        let known = self.methods.iter().find(|(known, _)| known == method);
        Arc::clone(known.map_or(&self.other_method, |(_, word)| word))
    }

    fn protocol(&self, version: Version) -> Arc<str> {
        Arc::clone(match version {
            Version::HTTP_09 | Version::HTTP_10 => &self.http10,
            Version::HTTP_2 => &self.h2,
            _ => &self.http11,
        })
    }

    /// A reason, without allocation where it is one of the usual ones.
    pub(crate) fn reason(&self, reason: Reason) -> Arc<str> {
        let usual = self.reasons.iter().find(|(usual, _)| *usual == reason);
        usual.map_or_else(|| Arc::from(reason.as_str()), |(_, word)| Arc::clone(word))
    }

    pub(crate) fn decision(&self, decision: Decision) -> Arc<str> {
        Arc::clone(match decision {
            Decision::Allow => &self.allow,
            Decision::Deny => &self.deny,
            Decision::NotRequired => &self.not_required,
        })
    }
}

impl Scribe {
    pub(crate) fn new(
        lane: Lane,
        facts: Facts,
        open: Arc<OpenCalls>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            lane: Mutex::new(lane),
            spans: SpanIds::new(),
            words: Words::new(),
            facts,
            fallback_class: fallback_class(),
            open,
            calls: Mutex::new(counters.calls.worker()),
            counters,
            stopping: AtomicBool::new(false),
            failing: AtomicBool::new(false),
        }
    }

    /// An entry with everything that a whole connection has in common; calls begin as its copies.
    pub(crate) fn entry_of_connection(&self, side: Side, peer: std::net::SocketAddr) -> Entry {
        let mut entry = Entry::new(side, Kind::Http, Time::from_ns(0));
        entry.site.clone_from(&self.facts.site);
        entry.zone.clone_from(&self.facts.zone);
        entry.config_sha256 = self.facts.config_sha256;
        entry.build = Arc::clone(&self.facts.build);
        entry.peer_address = Some(Arc::from(peer.ip().to_string()));
        entry.peer_port = Some(peer.port());
        match side {
            Side::Client => entry.source = Some(Arc::clone(&self.facts.spiffe_id)),
            Side::Server => entry.destination = Some(Arc::clone(&self.facts.spiffe_id)),
        }
        entry
    }

    /// The copy of a connection's entry with which the call of `request` begins.
    pub(crate) fn entry_of_call<B>(&self, connection: &Entry, request: &Request<B>) -> Entry {
        let mut entry = connection.clone();
        entry.start_time = clock::wall();
        if is_grpc(request) {
            entry.kind = Kind::Grpc;
        }
        entry.method = Some(self.words.method(request.method()));
        entry.protocol = self.words.protocol(request.version());
        entry
    }

    /// The entry with which a request begins whose head nobody could read.
    pub(crate) fn entry_of_unreadable(&self, connection: &Entry) -> Entry {
        let mut entry = connection.clone();
        entry.start_time = clock::wall();
        entry.protocol = Arc::clone(&self.words.http11);
        entry.decision = Decision::Deny;
        entry.reason = Arc::from(Reason::ReqMalformed.as_str());
        entry
    }

    /// Writes the entry of a handshake that was refused; it began at `began_ns` by the monotonic clock.
    pub(crate) fn refused_handshake(&self, mut entry: Entry, began_ns: u64, reason: &'static str) {
        let duration_ns = clock::mono_ns().saturating_sub(began_ns);
        let duration = i64::try_from(duration_ns).unwrap_or(i64::MAX);
        entry.kind = Kind::TlsFailure;
        entry.end_time = Some(entry.start_time.plus_ns(duration));
        entry.duration_ns = Some(duration_ns);
        entry.protocol = Arc::clone(&self.words.tcp);
        entry.decision = Decision::Deny;
        entry.reason = Arc::from(reason);
        entry.outcome = Some(Outcome::Denied);
        self.append(&entry, None);
    }

    /// Appends a final entry to the lane. Mode `bounded`: what does not fit is dropped and counted.
    pub(crate) fn append(&self, entry: &Entry, class: Option<&RetentionClass>) {
        let class = class.unwrap_or(&self.fallback_class);
        let appended = self
            .lane
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .append(TableId::Entries, class, |header, out| {
                entry.encode(header, out)
            });
        let failed = appended.err();
        self.counters.ended(entry, failed.is_none());
        if entry.kind != Kind::TlsFailure {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            calls.ended(entry);
        }
        if self.failing.swap(failed.is_some(), Ordering::Relaxed) == failed.is_some() {
            return;
        }
        match failed {
            None => tracing::info!("the spool takes entries again"),
            Some(AppendError::Full) => {
                tracing::error!("the spool is full: entries are dropped and counted");
            }
            Some(error) => {
                tracing::error!(%error, "the spool takes no entries: they are dropped and counted");
            }
        }
    }

    pub(crate) fn call_began(&self, start: Time) -> Ticket {
        self.open.began(start)
    }

    pub(crate) fn call_ended(&self, ticket: Ticket) {
        self.open.ended(ticket);
    }

    /// From now on calls that are broken off are so because the proxy stops.
    pub(crate) fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// Whether `request` is a gRPC call.
pub(crate) fn is_grpc<B>(request: &Request<B>) -> bool {
    let Some(value) = request.headers().get(http::header::CONTENT_TYPE) else {
        return false;
    };
    match value.as_bytes().strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// The class of entries that no bundle gives one: denials and refused handshakes are security
/// events, which the longest usual rule (PCI DSS 10.5.1) keeps for a year.
#[expect(
    clippy::expect_used,
    reason = "the text is a constant and a test parses it"
)]
fn fallback_class() -> RetentionClass {
    RetentionClass::parse("sec_1y").expect("a constant class")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_without_a_bundle_have_a_class() {
        assert_eq!(fallback_class().as_str(), "sec_1y");
    }

    #[test]
    fn grpc_is_told_by_its_content_type_alone() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let request = Request::builder()
                .header("content-type", content_type)
                .body(())
                .unwrap();
            assert_eq!(is_grpc(&request), expected, "{content_type}");
        }
    }

    #[test]
    fn methods_that_no_standard_knows_share_one_word() {
        let words = Words::new();
        assert_eq!(&*words.method(&Method::PATCH), "PATCH");
        assert_eq!(
            &*words.method(&Method::from_bytes(b"4111111111111111").unwrap()),
            "_OTHER"
        );
    }
}
