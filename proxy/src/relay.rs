//! What both directions share: a call begins, its response goes back.

use std::sync::Arc;

use counterfoil_entry::clock;
use counterfoil_entry::entry::Entry;
use counterfoil_entry::word::Outcome;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::answer::ending_at_callee;
use crate::app::Kept;
use crate::body::{Answering, ResponseBody};
use crate::call::{Ending, GRPC_STATUS, OpenCall};
use crate::headers::{REASON, clean_response};
use crate::link::{Dialled, Link};
use crate::policy::Policy;
use crate::scribe::Scribe;
use crate::trace_context;

/// Begins the call of `request` on a connection whose common part of entries is `connection`, and
/// makes the request continue or begin its trace.
pub(crate) fn begin(
    scribe: &Arc<Scribe>,
    connection: &Entry,
    request: &mut Request<Incoming>,
) -> OpenCall {
    let now_ns = clock::mono_ns();
    let span = scribe.spans.mint();
    let mut entry = scribe.entry_of_call(connection, request);
    let (trace_id, parent) = trace_context::follow(request.headers_mut(), span, entry.start_time);
    entry.trace_id = Some(trace_id);
    entry.span_id = Some(span);
    entry.parent_span_id = parent;
    OpenCall::begin(scribe, entry, now_ns)
}

/// Writes the entry of a request whose head nobody could read. The HTTP library has answered it, so
/// that its status is not known here.
pub(crate) fn unreadable(
    scribe: &Arc<Scribe>,
    connection: &Entry,
    policy: Option<&Arc<Policy>>,
    error_type: &'static str,
) {
    let mut entry = scribe.entry_of_unreadable(connection);
    entry.trace_id = Some(trace_context::mint_trace_id(entry.start_time));
    entry.span_id = Some(scribe.spans.mint());
    let call = OpenCall::begin(scribe, entry, clock::mono_ns());
    if let Some(policy) = policy {
        call.set_policy(policy);
    }
    call.set_ending(Ending {
        outcome: Outcome::Denied,
        error_type: Some(error_type),
    });
    call.complete(0, None);
}

/// Notes over which connection the call goes, and what it cost to make.
pub(crate) fn note_link(call: &OpenCall, link: &Link, dialled: Option<Dialled>, tls13: &Arc<str>) {
    call.note(|entry| {
        entry.upstream_address = Some(Arc::clone(&link.far_end.address));
        if let Some(tls) = &link.far_end.secured {
            entry.destination = Some(Arc::clone(&tls.spiffe_id));
            entry.destination_cert_sha256 = Some(tls.peer_cert);
            entry.source_cert_sha256 = Some(tls.own_cert);
            entry.mtls = true;
            entry.tls_version = Some(Arc::clone(tls13));
            entry.tls_cipher.clone_from(&tls.cipher);
        }
        note_dialled(entry, dialled);
    });
}

/// Notes what it cost to make the connection, when this call made it.
pub(crate) const fn note_dialled(entry: &mut Entry, dialled: Option<Dialled>) {
    if let Some(dialled) = dialled {
        entry.connect_ns = Some(dialled.connect_ns);
        entry.handshake_ns = dialled.handshake_ns;
    }
}

/// Where a response came from.
#[derive(Debug)]
pub(crate) enum From {
    /// Another proxy, which may have made the response itself.
    Proxy,
    /// The application, over a connection that may be kept.
    Application(Option<Kept>),
}

/// Passes a response on to the caller.
pub(crate) fn respond(
    call: OpenCall,
    answering: Answering<'_>,
    response: Response<Incoming>,
    from: From,
) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    let kept = match from {
        From::Proxy => {
            if let Some(reason) = head.headers.get(REASON) {
                let grpc = answering
                    .grpc
                    .then(|| head.headers.get(GRPC_STATUS))
                    .flatten();
                let grpc = grpc.and_then(|code| code.to_str().ok()?.parse().ok());
                call.set_ending(ending_at_callee(reason, head.status, grpc));
            }
            clean_response(&mut head.headers, true);
            None
        }
        From::Application(kept) => {
            clean_response(&mut head.headers, false);
            kept
        }
    };
    call.respond(head.status, &head.headers);
    let body = ResponseBody::relay(body, head.status, &head.headers, answering, call, kept);
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}
