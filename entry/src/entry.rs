//! The typed row of the table `entries`.

use std::sync::Arc;

use crate::id::{SpanId, TraceId};
use crate::record::{self, Header, HeaderRef, RecordError, RecordView};
use crate::table::TableId;
use crate::tlv::{Fields, TlvError};
use crate::word::{Decision, Durability, Kind, Outcome, Phase, Side};
use crate::{Hash, Time};

/// One attempt of a call, as one side saw it. Field names are the column names.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Whose proxy wrote it.
    pub side: Side,
    /// What was called over.
    pub kind: Kind,
    /// Trace; null only for `tls_failure`.
    pub trace_id: Option<TraceId>,
    /// This side's own span; null only for `tls_failure`.
    pub span_id: Option<SpanId>,
    /// The span above; a server entry's is the client entry's span.
    pub parent_span_id: Option<SpanId>,
    /// Wall clock of the writer at the first request byte.
    pub start_time: Time,
    /// Wall clock of the writer at the append of the final entry.
    pub end_time: Option<Time>,
    /// Monotonic, first request byte in to the append of the final entry (ns).
    pub duration_ns: Option<u64>,
    /// Of which waiting for the next hop (ns).
    pub upstream_ns: Option<u64>,
    /// What this proxy itself cost (ns): duration less upstream less downstream.
    pub overhead_ns: Option<u64>,
    /// Time of the decision (ns).
    pub authz_ns: Option<u64>,
    /// Time in queues (ns).
    pub queue_ns: Option<u64>,
    /// TCP connect, when this call made the connection (ns).
    pub connect_ns: Option<u64>,
    /// TLS handshake, when this call made the connection (ns).
    pub handshake_ns: Option<u64>,
    /// From the start to the head of the response (ns).
    pub first_byte_ns: Option<u64>,
    /// The kernel's estimate of this clock's offset (ns).
    pub clock_offset_ns: Option<i64>,
    /// Bound of that estimate (ns).
    pub clock_error_ns: Option<u64>,
    /// Caller's SPIFFE id, from its verified certificate.
    pub source: Option<Arc<str>>,
    /// Callee's SPIFFE id, from its verified certificate.
    pub destination: Option<Arc<str>>,
    /// Catalogue name of the caller.
    pub source_app: Option<Arc<str>>,
    /// Team of the caller.
    pub source_team: Option<Arc<str>>,
    /// Catalogue name of the callee.
    pub destination_app: Option<Arc<str>>,
    /// Team of the callee.
    pub destination_team: Option<Arc<str>>,
    /// Site of this proxy.
    pub site: Option<Arc<str>>,
    /// Zone of this proxy.
    pub zone: Option<Arc<str>>,
    /// Network address of the peer that connected.
    pub peer_address: Option<Arc<str>>,
    /// Its port.
    pub peer_port: Option<u16>,
    /// The instance chosen, `address:port`.
    pub upstream_address: Option<Arc<str>>,
    /// API of the operation.
    pub api: Option<Arc<str>>,
    /// Its version.
    pub api_version: Option<Arc<str>>,
    /// OpenAPI operation id.
    pub operation: Option<Arc<str>>,
    /// HTTP method.
    pub method: Option<Arc<str>>,
    /// Route template, never the raw path.
    pub route: Option<Arc<str>>,
    /// Audit scopes from the catalogue.
    pub scopes: Arc<[Arc<str>]>,
    /// http/1.0, http/1.1, h2 or tcp: what the caller of this proxy spoke.
    pub protocol: Arc<str>,
    /// HTTP status as sent to the caller.
    pub status: Option<u16>,
    /// gRPC status as sent to the caller.
    pub grpc_status: Option<u16>,
    /// How it ended; null in phases other than final.
    pub outcome: Option<Outcome>,
    /// Low-cardinality class of the error.
    pub error_type: Option<Arc<str>>,
    /// Body bytes of the request.
    pub request_bytes: Option<u64>,
    /// Body bytes of the response.
    pub response_bytes: Option<u64>,
    /// 0 for the first try.
    pub attempt: u16,
    /// Whether mutual TLS protected this leg.
    pub mtls: bool,
    /// TLS version of the mesh leg.
    pub tls_version: Option<Arc<str>>,
    /// Cipher suite of the mesh leg.
    pub tls_cipher: Option<Arc<str>>,
    /// SHA-256 of the caller's certificate.
    pub source_cert_sha256: Option<Hash>,
    /// SHA-256 of the callee's certificate.
    pub destination_cert_sha256: Option<Hash>,
    /// The verdict of this side.
    pub decision: Decision,
    /// Its stable reason.
    pub reason: Arc<str>,
    /// The grant that allowed it.
    pub grant_id: Option<Arc<str>>,
    /// Verdict of the candidate bundle.
    pub shadow_decision: Option<Arc<str>>,
    /// Its reason.
    pub shadow_reason: Option<Arc<str>>,
    /// The bundle in force.
    pub bundle_sha256: Option<Hash>,
    /// Its version.
    pub bundle_version: Option<u64>,
    /// Age of that bundle (ms).
    pub policy_stale_ms: Option<u64>,
    /// Issuer of the token.
    pub token_issuer: Option<Arc<str>>,
    /// Its id, never the token.
    pub token_id: Option<Arc<str>>,
    /// Key that signed it.
    pub token_key: Option<Arc<str>>,
    /// Pseudonym of the end user.
    pub subject: Option<[u8; 16]>,
    /// Delegation chain.
    pub on_behalf_of: Option<Vec<Arc<str>>>,
    /// Fail mode of the route.
    pub durability: Durability,
    /// Configuration of this proxy.
    pub config_sha256: Hash,
    /// Build of this proxy.
    pub build: Arc<str>,
    /// Which moment of the call this entry tells.
    pub phase: Phase,
    /// Of which waiting for the caller (ns).
    pub downstream_ns: Option<u64>,
    /// Whether another attempt followed.
    pub retried: bool,
}

impl Entry {
    /// An entry that knows only which side it is of and when it began: not decided, no mutual TLS,
    /// phase final, everything else null or empty.
    #[must_use]
    pub fn new(side: Side, kind: Kind, start_time: Time) -> Self {
        Self {
            side,
            kind,
            trace_id: None,
            span_id: None,
            parent_span_id: None,
            start_time,
            end_time: None,
            duration_ns: None,
            upstream_ns: None,
            overhead_ns: None,
            authz_ns: None,
            queue_ns: None,
            connect_ns: None,
            handshake_ns: None,
            first_byte_ns: None,
            clock_offset_ns: None,
            clock_error_ns: None,
            source: None,
            destination: None,
            source_app: None,
            source_team: None,
            destination_app: None,
            destination_team: None,
            site: None,
            zone: None,
            peer_address: None,
            peer_port: None,
            upstream_address: None,
            api: None,
            api_version: None,
            operation: None,
            method: None,
            route: None,
            scopes: Arc::from([]),
            protocol: Arc::from("http/1.1"),
            status: None,
            grpc_status: None,
            outcome: None,
            error_type: None,
            request_bytes: None,
            response_bytes: None,
            attempt: 0,
            mtls: false,
            tls_version: None,
            tls_cipher: None,
            source_cert_sha256: None,
            destination_cert_sha256: None,
            decision: Decision::NotRequired,
            reason: Arc::from(""),
            grant_id: None,
            shadow_decision: None,
            shadow_reason: None,
            bundle_sha256: None,
            bundle_version: None,
            policy_stale_ms: None,
            token_issuer: None,
            token_id: None,
            token_key: None,
            subject: None,
            on_behalf_of: None,
            durability: Durability::Bounded,
            config_sha256: Hash::default(),
            build: Arc::from(""),
            phase: Phase::Final,
            downstream_ns: None,
            retried: false,
        }
    }

    /// Appends R, the canonical bytes, to `out` (`docs/format.md` section 2).
    #[expect(
        clippy::too_many_lines,
        reason = "one line a field, in the order of the ids"
    )]
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::Entries, header, out);
        w.text(5, self.side.as_str());
        w.text(6, self.kind.as_str());
        w.bytes_opt(7, self.trace_id.as_ref().map(|id| id.bytes().as_slice()));
        w.bytes_opt(8, self.span_id.as_ref().map(|id| id.bytes().as_slice()));
        w.bytes_opt(
            9,
            self.parent_span_id.as_ref().map(|id| id.bytes().as_slice()),
        );
        w.time(10, self.start_time);
        w.time_opt(11, self.end_time);
        w.u64_opt(12, self.duration_ns);
        w.u64_opt(13, self.upstream_ns);
        w.u64_opt(14, self.overhead_ns);
        w.u64_opt(15, self.authz_ns);
        w.u64_opt(16, self.queue_ns);
        w.u64_opt(17, self.connect_ns);
        w.u64_opt(18, self.handshake_ns);
        w.u64_opt(19, self.first_byte_ns);
        w.i64_opt(20, self.clock_offset_ns);
        w.u64_opt(21, self.clock_error_ns);
        w.text_opt(22, self.source.as_deref());
        w.text_opt(23, self.destination.as_deref());
        w.text_opt(24, self.source_app.as_deref());
        w.text_opt(25, self.source_team.as_deref());
        w.text_opt(26, self.destination_app.as_deref());
        w.text_opt(27, self.destination_team.as_deref());
        w.text_opt(28, self.site.as_deref());
        w.text_opt(29, self.zone.as_deref());
        w.text_opt(30, self.peer_address.as_deref());
        w.u64_opt(31, self.peer_port.map(u64::from));
        w.text_opt(32, self.upstream_address.as_deref());
        w.text_opt(33, self.api.as_deref());
        w.text_opt(34, self.api_version.as_deref());
        w.text_opt(35, self.operation.as_deref());
        w.text_opt(36, self.method.as_deref());
        w.text_opt(37, self.route.as_deref());
        w.texts(38, &self.scopes);
        w.text(39, &self.protocol);
        w.u64_opt(40, self.status.map(u64::from));
        w.u64_opt(41, self.grpc_status.map(u64::from));
        w.text_opt(42, self.outcome.map(Outcome::as_str));
        w.text_opt(43, self.error_type.as_deref());
        w.u64_opt(44, self.request_bytes);
        w.u64_opt(45, self.response_bytes);
        w.u64(46, u64::from(self.attempt));
        w.bool(47, self.mtls);
        w.text_opt(48, self.tls_version.as_deref());
        w.text_opt(49, self.tls_cipher.as_deref());
        w.bytes_opt(
            50,
            self.source_cert_sha256
                .as_ref()
                .map(|hash| hash.0.as_slice()),
        );
        w.bytes_opt(
            51,
            self.destination_cert_sha256
                .as_ref()
                .map(|hash| hash.0.as_slice()),
        );
        w.text(52, self.decision.as_str());
        w.text(53, &self.reason);
        w.text_opt(54, self.grant_id.as_deref());
        w.text_opt(55, self.shadow_decision.as_deref());
        w.text_opt(56, self.shadow_reason.as_deref());
        w.bytes_opt(
            57,
            self.bundle_sha256.as_ref().map(|hash| hash.0.as_slice()),
        );
        w.u64_opt(58, self.bundle_version);
        w.u64_opt(59, self.policy_stale_ms);
        w.text_opt(60, self.token_issuer.as_deref());
        w.text_opt(61, self.token_id.as_deref());
        w.text_opt(62, self.token_key.as_deref());
        w.bytes_opt(63, self.subject.as_ref().map(<[u8; 16]>::as_slice));
        if let Some(chain) = &self.on_behalf_of {
            w.texts(64, chain);
        }
        w.text(65, self.durability.as_str());
        w.bytes(66, &self.config_sha256.0);
        w.text(67, &self.build);
        w.text(68, self.phase.as_str());
        w.u64_opt(69, self.downstream_ns);
        w.bool(70, self.retried);
    }

    /// Reads R back.
    ///
    /// # Errors
    /// When the bytes are no entry of this version, or hold a field that it does not know.
    pub fn decode(bytes: &[u8]) -> Result<(Header, Self), RecordError> {
        let view = RecordView::parse(bytes)?;
        view.expect(TableId::Entries)?;
        let fields = Fields::parse(view.body)?;
        record::only_known(TableId::Entries, &fields)?;
        Ok((view.header()?, Self::of_fields(&fields)?))
    }

    fn of_fields(f: &Fields<'_>) -> Result<Self, TlvError> {
        Ok(Self {
            side: word(f, 5, Side::from_word)?,
            kind: word(f, 6, Kind::from_word)?,
            trace_id: id(f, 7, TraceId::new)?,
            span_id: id(f, 8, SpanId::new)?,
            parent_span_id: id(f, 9, SpanId::new)?,
            start_time: f.time(10)?,
            end_time: f.time_opt(11)?,
            duration_ns: f.u64_opt(12)?,
            upstream_ns: f.u64_opt(13)?,
            overhead_ns: f.u64_opt(14)?,
            authz_ns: f.u64_opt(15)?,
            queue_ns: f.u64_opt(16)?,
            connect_ns: f.u64_opt(17)?,
            handshake_ns: f.u64_opt(18)?,
            first_byte_ns: f.u64_opt(19)?,
            clock_offset_ns: f.i64_opt(20)?,
            clock_error_ns: f.u64_opt(21)?,
            source: f.text_opt(22)?.map(Arc::from),
            destination: f.text_opt(23)?.map(Arc::from),
            source_app: f.text_opt(24)?.map(Arc::from),
            source_team: f.text_opt(25)?.map(Arc::from),
            destination_app: f.text_opt(26)?.map(Arc::from),
            destination_team: f.text_opt(27)?.map(Arc::from),
            site: f.text_opt(28)?.map(Arc::from),
            zone: f.text_opt(29)?.map(Arc::from),
            peer_address: f.text_opt(30)?.map(Arc::from),
            peer_port: f.u16_opt(31)?,
            upstream_address: f.text_opt(32)?.map(Arc::from),
            api: f.text_opt(33)?.map(Arc::from),
            api_version: f.text_opt(34)?.map(Arc::from),
            operation: f.text_opt(35)?.map(Arc::from),
            method: f.text_opt(36)?.map(Arc::from),
            route: f.text_opt(37)?.map(Arc::from),
            scopes: f.texts(38)?.into_iter().map(Arc::from).collect(),
            protocol: Arc::from(f.text(39)?),
            status: f.u16_opt(40)?,
            grpc_status: f.u16_opt(41)?,
            outcome: word_opt(f, 42, Outcome::from_word)?,
            error_type: f.text_opt(43)?.map(Arc::from),
            request_bytes: f.u64_opt(44)?,
            response_bytes: f.u64_opt(45)?,
            attempt: f.u16_opt(46)?.ok_or(TlvError::Missing(46))?,
            mtls: f.bool(47)?,
            tls_version: f.text_opt(48)?.map(Arc::from),
            tls_cipher: f.text_opt(49)?.map(Arc::from),
            source_cert_sha256: f.hash_opt(50)?,
            destination_cert_sha256: f.hash_opt(51)?,
            decision: word(f, 52, Decision::from_word)?,
            reason: Arc::from(f.text(53)?),
            grant_id: f.text_opt(54)?.map(Arc::from),
            shadow_decision: f.text_opt(55)?.map(Arc::from),
            shadow_reason: f.text_opt(56)?.map(Arc::from),
            bundle_sha256: f.hash_opt(57)?,
            bundle_version: f.u64_opt(58)?,
            policy_stale_ms: f.u64_opt(59)?,
            token_issuer: f.text_opt(60)?.map(Arc::from),
            token_id: f.text_opt(61)?.map(Arc::from),
            token_key: f.text_opt(62)?.map(Arc::from),
            subject: f.array_opt(63)?,
            on_behalf_of: f
                .texts_opt(64)?
                .map(|chain| chain.into_iter().map(Arc::from).collect()),
            durability: word(f, 65, Durability::from_word)?,
            config_sha256: f.hash(66)?,
            build: Arc::from(f.text(67)?),
            phase: word(f, 68, Phase::from_word)?,
            downstream_ns: f.u64_opt(69)?,
            retried: f.bool(70)?,
        })
    }
}

fn word<T>(f: &Fields<'_>, id: u16, of: fn(&str) -> Option<T>) -> Result<T, TlvError> {
    of(f.text(id)?).ok_or(TlvError::Wrong(id))
}

fn word_opt<T>(f: &Fields<'_>, id: u16, of: fn(&str) -> Option<T>) -> Result<Option<T>, TlvError> {
    f.text_opt(id)?
        .map(|text| of(text).ok_or(TlvError::Wrong(id)))
        .transpose()
}

fn id<T, const N: usize>(
    f: &Fields<'_>,
    id: u16,
    of: fn([u8; N]) -> Option<T>,
) -> Result<Option<T>, TlvError> {
    f.array_opt(id)?
        .map(|bytes| of(bytes).ok_or(TlvError::Wrong(id)))
        .transpose()
}
