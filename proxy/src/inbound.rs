//! Calls of other workloads to the application: decided first, then forwarded.

use std::sync::{Arc, PoisonError};

use counterfoil_entry::entry::Entry;
use counterfoil_entry::{Hash, Time, clock};
use counterfoil_trust::Refusal;
use counterfoil_trust::allow::{Asked, Permit, Reason, Verdict};
use counterfoil_trust::bundle::Access;
use counterfoil_trust::token::Authorization;
use http::header::{AUTHORIZATION, HOST};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use hyper::body::{Body, Incoming};

use crate::answer::{self, Stop};
use crate::app::{App, Kept};
use crate::body::{Answering, RequestBody, ResponseBody};
use crate::call::OpenCall;
use crate::failure::Failure;
use crate::gate;
use crate::headers::{clean_request, join_cookies};
use crate::policy::Policy;
use crate::relay::{self, From};
use crate::scribe::is_grpc;
use crate::waits::Waiting;
use crate::worker::Worker;

/// One connection from another proxy, whose certificate has been verified.
#[derive(Debug)]
pub(crate) struct FromPeer {
    pub(crate) worker: Arc<Worker>,
    pub(crate) entry: Entry,
    pub(crate) spiffe_id: Arc<str>,
    pub(crate) cert_sha256: Hash,
    /// When the peer's certificate expires.
    pub(crate) not_after: Time,
}

/// Serves one request of another workload.
pub(crate) async fn serve(
    from: Arc<FromPeer>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let worker = &from.worker;
    let call = relay::begin(&worker.scribe, &from.entry, &mut request);
    let method = request.method().clone();
    let answering = Answering {
        method: &method,
        grpc: is_grpc(&request),
    };
    match decide_and_forward(&from, &call, request, answering.grpc).await {
        Ok((response, kept)) => relay::respond(call, answering, response, From::Application(kept)),
        Err(stop) => answer::stop(&call, answering, stop),
    }
}

async fn decide_and_forward(
    from: &FromPeer,
    call: &OpenCall,
    request: Request<Incoming>,
    grpc: bool,
) -> Result<Forwarded, Stop> {
    let worker = &from.worker;
    let (permit, access, authority) = authorize(from, call, &request)?;
    let mut request = prepare(request, &authority, grpc, call)?;
    if access.wants_token() {
        // it was meant for this proxy
        request.headers_mut().remove(AUTHORIZATION);
    }
    let sending = forward(permit, &worker.app, call, request, grpc);
    let (response, kept) = call.within(worker.request_timeout, sending).await?;
    if response.status().is_informational() {
        // nobody asked it to switch protocols
        return Err(Failure::PROTOCOL.into());
    }
    Ok((response, kept))
}

/// Decides, before anything is forwarded.
fn authorize(
    from: &FromPeer,
    call: &OpenCall,
    request: &Request<Incoming>,
) -> Result<(Permit, Access, Authority), Stop> {
    let policy = from.worker.policy.current();
    if let Some(policy) = &policy {
        call.set_policy(policy);
        call.note(|entry| {
            entry.destination_app = Some(Arc::clone(&policy.app));
            entry.destination_team = Some(Arc::clone(&policy.team));
            if let Some((app, team)) = policy.allow.consumer(&from.spiffe_id) {
                entry.source_app = Some(Arc::clone(app));
                entry.source_team = Some(Arc::clone(team));
            }
        });
    }
    let authority = gate::pass(request)?;
    let now = clock::wall();
    if from.not_after <= now {
        return Err(Stop::denied(Refusal::Expired.reason()));
    }
    let policy = policy.ok_or_else(|| Stop::denied(Reason::BundleMissing.as_str()))?;
    let began_ns = clock::mono_ns();
    let verdict = decide(from, &policy, request, now);
    let authz_ns = clock::mono_ns().saturating_sub(began_ns);
    let mut access = Access::default();
    if let Some(operation) = &verdict.operation {
        access = operation.access;
        call.set_operation(operation);
    }
    let words = &from.worker.scribe.words;
    call.note(|entry| {
        entry.authz_ns = Some(authz_ns);
        entry.decision = verdict.decision;
        entry.reason = words.reason(verdict.reason);
        entry.grant_id = verdict.grant_id;
        if let Some((decision, reason)) = verdict.shadow {
            entry.shadow_decision = Some(words.decision(decision));
            entry.shadow_reason = Some(words.reason(reason));
        }
        if let Some(token) = verdict.token {
            entry.token_issuer = Some(token.issuer);
            entry.token_id = Some(token.jti);
            entry.token_key = Some(token.kid);
        }
    });
    let permit = verdict
        .permit
        .ok_or_else(|| Stop::denied(verdict.reason.as_str()))?;
    Ok((permit, access, authority))
}

fn decide<B>(from: &FromPeer, policy: &Policy, request: &Request<B>, now: Time) -> Verdict {
    let shown = request.headers().get_all(AUTHORIZATION);
    let asked = Asked {
        consumer: &from.spiffe_id,
        cert_sha256: from.cert_sha256,
        method: request.method().as_str(),
        path: request.uri().path(),
        authorization: Authorization::of(shown.iter().map(HeaderValue::as_bytes)),
    };
    let verified = &from.worker.verified;
    let mut verified = verified.lock().unwrap_or_else(PoisonError::into_inner);
    policy.allow.decide_asked(&asked, &mut verified, now)
}

/// The request as the application gets it: HTTP/2 for gRPC, else HTTP/1.1 with one `Host`.
fn prepare(
    request: Request<Incoming>,
    authority: &Authority,
    grpc: bool,
    call: &OpenCall,
) -> Result<Request<RequestBody>, Stop> {
    let (head, body) = request.into_parts();
    let body = RequestBody::new(body, &head.headers, call.share());
    let mut next = Request::new(body);
    *next.method_mut() = head.method;
    *next.headers_mut() = head.headers;
    clean_request(next.headers_mut(), grpc);
    let mut target = head.uri.into_parts();
    if grpc {
        *next.version_mut() = Version::HTTP_2;
        target.scheme = Some(Scheme::HTTP);
        target.authority = Some(authority.clone());
        next.headers_mut().remove(HOST);
    } else {
        target.scheme = None;
        target.authority = None;
        join_cookies(next.headers_mut());
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            next.headers_mut().insert(HOST, host);
        }
    }
    *next.uri_mut() = Uri::from_parts(target)
        .map_err(|_not_a_target| Stop::denied(Reason::ReqMalformed.as_str()))?;
    Ok(next)
}

type Forwarded = (Response<Incoming>, Option<Kept>);

/// Sends a permitted request to the application.
async fn forward(
    _permit: Permit,
    app: &Arc<App>,
    call: &OpenCall,
    request: Request<RequestBody>,
    grpc: bool,
) -> Result<Forwarded, Failure> {
    call.turn(Waiting::Upstream);
    call.note(|entry| entry.upstream_address = Some(Arc::clone(app.address())));
    if grpc {
        forward_grpc(app, call, request)
            .await
            .map(|response| (response, None))
    } else {
        forward_http1(app, call, request).await
    }
}

async fn forward_grpc(
    app: &App,
    call: &OpenCall,
    mut request: Request<RequestBody>,
) -> Result<Response<Incoming>, Failure> {
    let mut repeated = false;
    loop {
        let (mut link, dialled) = app.grpc_link().await?;
        call.note(|entry| relay::note_dialled(entry, dialled));
        match link.sender().try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(mut unsent) => match unsent.take_message() {
                // the connection had closed before: no byte of the request went out
                Some(back) if !repeated => {
                    repeated = true;
                    request = back;
                }
                _ => return Err(Failure::of_send(unsent.error(), None)),
            },
        }
    }
}

async fn forward_http1(
    app: &Arc<App>,
    call: &OpenCall,
    request: Request<RequestBody>,
) -> Result<Forwarded, Failure> {
    let mut lease = app.lease().await?;
    call.note(|entry| relay::note_dialled(entry, lease.dialled));
    let spare = if lease.dialled.is_none() {
        repeatable(&request, call)
    } else {
        None
    };
    let again = match lease.sender.try_send_request(request).await {
        Ok(response) => return Ok((response, Some(Kept::new(Arc::clone(app), lease.sender)))),
        // a kept connection can close under the request: when no byte went out, or when repeating
        // it changes nothing, it goes out once more on a new one
        Err(mut unsent) => {
            // who has answered, however badly, has had the request
            let spare = spare.filter(|_| !unsent.error().is_parse());
            match unsent.take_message().or(spare) {
                Some(again) if lease.dialled.is_none() => again,
                _ => return Err(Failure::of_send(unsent.error(), None)),
            }
        }
    };
    let mut lease = app.lease_new().await?;
    call.note(|entry| relay::note_dialled(entry, lease.dialled));
    match lease.sender.try_send_request(again).await {
        Ok(response) => Ok((response, Some(Kept::new(Arc::clone(app), lease.sender)))),
        Err(unsent) => Err(Failure::of_send(unsent.error(), None)),
    }
}

/// A copy of a request that may be sent twice: a safe method without a body.
fn repeatable(request: &Request<RequestBody>, call: &OpenCall) -> Option<Request<RequestBody>> {
    let safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    if !safe || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty(call.share()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}
