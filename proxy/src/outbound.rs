//! Calls of the application beside this proxy: found in the bundle, sent to the callee's proxy.

use std::sync::Arc;

use counterfoil_entry::entry::Entry;
use counterfoil_trust::allow::{Peer, Reason};
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;

use crate::answer::{self, Stop};
use crate::body::{Answering, RequestBody, ResponseBody};
use crate::call::OpenCall;
use crate::failure::Failure;
use crate::gate;
use crate::headers::clean_request;
use crate::relay::{self, From};
use crate::scribe::is_grpc;
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
    let (peer, authority) = route(worker, call, &request)?;
    let request = prepare(request, &authority, grpc, call)?;
    let sending = send(worker, call, &peer, request);
    Ok(call.within(worker.request_timeout, sending).await?)
}

/// Finds the destination. This side decides nothing about rights: the callee's proxy does.
fn route(
    worker: &Worker,
    call: &OpenCall,
    request: &Request<Incoming>,
) -> Result<(Arc<Peer>, Authority), Stop> {
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
    match peer.operation(request.method().as_str(), request.uri().path()) {
        Ok(operation) => call.set_operation(&operation),
        Err(reason @ Reason::PathAmbiguous) => return Err(Stop::denied(reason.as_str())),
        // the callee may know more than this bundle does
        Err(_) => {}
    }
    Ok((Arc::clone(peer), authority))
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
    peer: &Peer,
    mut request: Request<RequestBody>,
) -> Result<Response<Incoming>, Failure> {
    call.turn(Waiting::Upstream);
    let mut repeated = false;
    loop {
        let (mut link, dialled) = worker.peers.link(peer).await?;
        relay::note_link(call, &link, dialled, &worker.scribe.words.tls13);
        let mut unsent = match link.sender().try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(unsent) => unsent,
        };
        let refusal = link.far_end.refusal.get().copied();
        match unsent.take_message() {
            // the connection had closed before: no byte of the request went out
            Some(back) if !repeated && refusal.is_none() => {
                repeated = true;
                request = back;
            }
            back => {
                if back.is_some() || refusal.is_some() {
                    call.note(|entry| entry.mtls = false);
                }
                return Err(Failure::of_send(unsent.error(), refusal));
            }
        }
    }
}
