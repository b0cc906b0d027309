//! Calls of the application beside this proxy: found in the bundle, sent to the callee's proxy.

use std::sync::Arc;

use counterfoil_entry::entry::Entry;
use counterfoil_trust::allow::{Peer, Reason};
use http::header::{AUTHORIZATION, HOST};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;

use crate::answer::{self, Stop};
use crate::body::{Answering, RequestBody, ResponseBody};
use crate::call::OpenCall;
use crate::failure::Failure;
use crate::gate;
use crate::headers::{REASON, clean_request};
use crate::link::{Dialled, Link};
use crate::relay::{self, From};
use crate::scribe::is_grpc;
use crate::tokens::{Token, Tokens};
use crate::waits::Waiting;
use crate::worker::Worker;

/// One connection from the application.
#[derive(Debug)]
pub(crate) struct FromApp {
    pub(crate) worker: Arc<Worker>,
    pub(crate) entry: Entry,
}

/// Serves one request of the application.
pub(crate) async fn serve(
    from: Arc<FromApp>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let worker = &from.worker;
    let call = relay::begin(&worker.scribe, &from.entry, &mut request);
    let method = request.method().clone();
    let answering = Answering {
        method: &method,
        grpc: is_grpc(&request),
    };
    match forward(worker, &call, request, answering.grpc).await {
        Ok(response) => relay::respond(call, answering, response, From::Proxy),
        Err(stop) => answer::stop(&call, answering, stop),
    }
}

async fn forward(
    worker: &Worker,
    call: &OpenCall,
    request: Request<Incoming>,
    grpc: bool,
) -> Result<Response<Incoming>, Stop> {
    let to = route(worker, call, &request)?;
    let request = prepare(request, &to.authority, grpc, call)?;
    // an application that brings credentials of its own is not helped
    let is_bare = !request.headers().contains_key(AUTHORIZATION);
    let api = to.wants_token.as_ref().filter(|_| is_bare);
    let sending = send(worker, call, (&to.peer, api), request);
    Ok(call.within(worker.request_timeout, sending).await?)
}

/// Finds the destination. This side decides nothing about rights: the callee's proxy does.
fn route(
    worker: &Worker,
    call: &OpenCall,
    request: &Request<Incoming>,
) -> Result<Destination, Stop> {
    let policy = worker.policy.current();
    if let Some(policy) = &policy {
        call.set_policy(policy);
        call.note(|entry| {
            entry.source_app = Some(Arc::clone(&policy.app));
            entry.source_team = Some(Arc::clone(&policy.team));
        });
    }
    let authority = gate::pass(request)?;
    let policy = policy.ok_or_else(|| Stop::denied(Reason::BundleMissing.as_str()))?;
    let peer = policy
        .peers
        .find(authority.host())
        .ok_or_else(|| Stop::denied(Reason::HostMismatch.as_str()))?;
    call.note(|entry| {
        entry.destination_app = Some(Arc::clone(&peer.app));
        entry.destination_team = Some(Arc::clone(&peer.team));
        entry.reason = Arc::clone(&worker.scribe.words.callee_decides);
    });
    let mut wants_token = None;
    match peer.operation(request.method().as_str(), request.uri().path()) {
        Ok(operation) => {
            call.set_operation(&operation);
            wants_token = operation.wants_token().then(|| Arc::clone(&operation.api));
        }
        Err(reason @ Reason::PathAmbiguous) => return Err(Stop::denied(reason.as_str())),
        // the callee may know more than this bundle does
        Err(_) => {}
    }
    Ok(Destination {
        peer: Arc::clone(peer),
        authority,
        wants_token,
    })
}

/// Where a call goes.
struct Destination {
    peer: Arc<Peer>,
    authority: Authority,
    /// The API, when the operation has to be shown a token.
    wants_token: Option<Arc<str>>,
}

/// The request as the other proxy gets it.
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
    *next.version_mut() = Version::HTTP_2;
    let mut target = head.uri.into_parts();
    target.scheme = Some(Scheme::HTTPS);
    target.authority = Some(authority.clone());
    *next.uri_mut() = Uri::from_parts(target)
        .map_err(|_not_a_target| Stop::denied(Reason::ReqMalformed.as_str()))?;
    *next.headers_mut() = head.headers;
    clean_request(next.headers_mut(), grpc);
    next.headers_mut().remove(HOST);
    Ok(next)
}

async fn send(
    worker: &Worker,
    call: &OpenCall,
    (peer, api): (&Peer, Option<&Arc<str>>),
    mut request: Request<RequestBody>,
) -> Result<Response<Incoming>, Failure> {
    let mut repeated = false;
    loop {
        let (mut link, dialled, token) = connect(worker, call, peer, api).await?;
        relay::note_link(call, &link, dialled, &worker.scribe.words.tls13);
        if let Some(token) = &token {
            let authorization = token.authorization.clone();
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        let mut unsent = match link.sender().try_send_request(request).await {
            Ok(response) => {
                if let Some(token) = token.filter(|_| refuses_token(&response)) {
                    Tokens::doubt(&token);
                }
                return Ok(response);
            }
            Err(unsent) => unsent,
        };
        let refusal = link.far_end.refusal.get().copied();
        let back = unsent.take_message();
        if back.is_some() || refusal.is_some() {
            // nothing reached the callee, so that no counterpart is due
            call.note(|entry| entry.mtls = false);
        }
        match back {
            // the connection had closed before: no byte of the request went out
            Some(back) if !repeated && refusal.is_none() => {
                repeated = true;
                request = back;
            }
            _ => return Err(Failure::of_send(unsent.error(), refusal)),
        }
    }
}

/// A connection to `peer` and, when `api` wants one, a token that is bound to the connection's own
/// certificate. No token when control gives none: the callee then says why.
async fn connect(
    worker: &Worker,
    call: &OpenCall,
    peer: &Peer,
    api: Option<&Arc<str>>,
) -> Result<(Link, Option<Dialled>, Option<Arc<Token>>), Failure> {
    let mut bound_to = None;
    // a renewed certificate can come between the two, and then both are looked for again
    for _ in 0..RENEWALS_MAX {
        // what control takes is the mesh's own time
        call.turn(Waiting::Nobody);
        let token = match api {
            Some(api) => worker.tokens.token(api, bound_to).await?,
            None => None,
        };
        call.turn(Waiting::Upstream);
        let cert = token.as_ref().map(|token| token.cert);
        let (link, dialled) = worker.peers.link(peer, cert).await?;
        if cert.is_none() || cert == link.own_cert() {
            return Ok((link, dialled, token));
        }
        bound_to = link.own_cert();
    }
    Err(Failure::TOKEN_UNAVAILABLE)
}

/// Renewals of the own certificate that one call may meet.
const RENEWALS_MAX: usize = 3;

/// Whether the callee's proxy says that something is wrong with the token.
fn refuses_token<B>(response: &Response<B>) -> bool {
    let reason = response.headers().get(REASON);
    reason.is_some_and(|reason| reason.as_bytes().starts_with(b"token_"))
}
