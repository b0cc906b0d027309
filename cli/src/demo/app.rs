//! The applications of the demo: real HTTP and gRPC servers that do what the plan of a trace says.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt::Write as _,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use counterfoil_entry::{clock, id::TraceId};
use futures::{StreamExt as _, stream::FuturesUnordered};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    call::{Outbound, PLAN, TRACEPARENT, Target, grpc_message},
    driver::traceparent,
    plan::{Call, Caller, Plan, Steps, System},
    timer::Timer,
};

/// Everything that a running plan needs.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) system: System,
    /// Outbound port of each service's proxy.
    outbounds: Vec<Outbound>,
    driver: Outbound,
    timer: Timer,
    plans: Mutex<HashMap<u64, Arc<Plan>>>,
    next_plan: AtomicU64,
    answered: AtomicU64,
}

/// A plan whose calls the applications know how to make, until it is dropped.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    stage: &'a Stage,
    number: u64,
    pub(crate) plan: Arc<Plan>,
}

impl Stage {
    /// `outbounds` are the proxies' outbound ports in order of the services, `driver` that of the driver's.
    pub(crate) fn new(
        system: System,
        outbounds: &[SocketAddr],
        driver: SocketAddr,
    ) -> io::Result<Self> {
        Ok(Self {
            system,
            outbounds: outbounds
                .iter()
                .map(|address| Outbound::new(*address))
                .collect(),
            driver: Outbound::new(driver),
            timer: Timer::start()?,
            plans: Mutex::default(),
            next_plan: AtomicU64::new(1),
            answered: AtomicU64::new(0),
        })
    }

    /// How many planned calls got a whole answer; each of them is written in the books.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Makes the plan known to the applications.
    pub(crate) fn run(&self, plan: Plan) -> Running<'_> {
        let number = self.next_plan.fetch_add(1, Ordering::Relaxed);
        let plan = Arc::new(plan);
        self.plans().insert(number, Arc::clone(&plan));
        Running {
            stage: self,
            number,
            plan,
        }
    }

    fn plans(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Plan>>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outbound port that a caller uses.
    pub(crate) fn outbound(&self, caller: Caller) -> Option<&Outbound> {
        match caller {
            Caller::Driver => Some(&self.driver),
            Caller::Service(index) => self.outbounds.get(index),
        }
    }

    /// Does the steps of one service, whose time began at `from_ns` of the monotonic clock: its own time and its calls.
    /// Returns whether every call succeeded.
    pub(crate) async fn perform(
        &self,
        caller: Caller,
        (number, plan): (u64, &Plan),
        steps: &Steps,
        traceparent: &str,
        from_ns: u64,
    ) -> bool {
        let mut since_ns = from_ns;
        let mut ended = vec![false; steps.calls.len()];
        let mut ended_in_order = 0;
        let mut waiting = steps.calls.iter().peekable();
        let mut open = FuturesUnordered::new();
        let mut good = true;
        loop {
            while let Some(step) = waiting.next_if(|step| step.after <= ended_in_order) {
                open.push(async move {
                    self.timer.sleep_until(since_ns + step.gap_ns).await;
                    (
                        step.end_rank,
                        self.make(caller, (number, plan), step.call, traceparent)
                            .await,
                    )
                });
            }
            let Some((rank, succeeded)) = open.next().await else {
                break;
            };
            good &= succeeded;
            if let Some(slot) = ended.get_mut(rank) {
                *slot = true;
            }
            while ended.get(ended_in_order) == Some(&true) {
                ended_in_order += 1;
                since_ns = clock::mono_ns();
            }
        }
        self.timer.sleep_until(since_ns + steps.tail_ns).await;
        good
    }

    /// Makes one call that belongs to no trace of the plan. Returns whether it succeeded.
    pub(crate) async fn once(&self, caller: Caller, operation: usize) -> bool {
        let trace = rand::random::<u128>() | 1;
        let Some(trace_id) = TraceId::new(trace.to_be_bytes()) else {
            return false;
        };
        let plan = Plan {
            trace_id,
            calls: vec![Call {
                operation,
                steps: Steps::default(),
            }],
            start: Steps::default(),
        };
        let running = self.run(plan);
        let whole = (running.number, running.plan.as_ref());
        let traceparent = traceparent(&format!("{trace:032x}"));
        self.make(caller, whole, 0, &traceparent).await
    }

    async fn make(
        &self,
        caller: Caller,
        (number, plan): (u64, &Plan),
        call: usize,
        traceparent: &str,
    ) -> bool {
        let known = plan
            .calls
            .get(call)
            .and_then(|c| self.system.operations.get(c.operation));
        let (Some(operation), Some(outbound)) = (known, self.outbound(caller)) else {
            return false;
        };
        let mut header = String::with_capacity(24);
        // Writing to a String does not fail.
        let _written = write!(header, "{number}-{call}");
        let target = Target {
            host: self.system.slug(Caller::Service(operation.service)),
            path: &operation.path,
            protocol: operation.protocol,
            traceparent,
            plan: &header,
        };
        match outbound.call(target).await {
            Ok(good) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                good
            }
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    endpoint = operation.endpoint,
                    "call failed"
                );
                false
            }
        }
    }

    /// Answers one request to a service.
    async fn answer(
        &self,
        service: usize,
        request: Request<Incoming>,
    ) -> Response<BoxBody<Bytes, Infallible>> {
        let from_ns = clock::mono_ns();
        let (parts, body) = request.into_parts();
        let grpc = parts
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        if body.collect().await.is_err() {
            return answer_with(grpc, StatusCode::BAD_REQUEST, "13");
        }
        let planned = text(&parts.headers, PLAN).and_then(|value| {
            let (number, call) = value.split_once('-')?;
            let number = number.parse().ok()?;
            let plan = self.plans().get(&number).map(Arc::clone)?;
            Some((number, plan, call.parse::<usize>().ok()?))
        });
        let Some((number, plan, call)) = planned else {
            return answer_with(grpc, StatusCode::NOT_FOUND, "5");
        };
        let Some(call) = plan.calls.get(call) else {
            return answer_with(grpc, StatusCode::NOT_FOUND, "5");
        };
        let traceparent = text(&parts.headers, TRACEPARENT).unwrap_or("");
        let whole = (number, plan.as_ref());
        let good = self
            .perform(
                Caller::Service(service),
                whole,
                &call.steps,
                traceparent,
                from_ns,
            )
            .await;
        if good {
            answer_with(grpc, StatusCode::OK, "0")
        } else {
            answer_with(grpc, StatusCode::BAD_GATEWAY, "14")
        }
    }
}

impl Running<'_> {
    /// Does what the driver does in this trace. Returns whether every call succeeded.
    pub(crate) async fn drive(&self, traceparent: &str) -> bool {
        let whole = (self.number, self.plan.as_ref());
        self.stage
            .perform(
                Caller::Driver,
                whole,
                &self.plan.start,
                traceparent,
                clock::mono_ns(),
            )
            .await
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.stage.plans().remove(&self.number);
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A small answer; a gRPC one is always 200 and carries its status in trailers.
fn answer_with(
    grpc: bool,
    status: StatusCode,
    grpc_status: &'static str,
) -> Response<BoxBody<Bytes, Infallible>> {
    if !grpc {
        let word = if status.is_success() {
            "done"
        } else {
            "not done"
        };
        let body = Full::new(Bytes::from(format!("{{\"result\":\"{word}\"}}")));
        let mut answer = Response::new(body.boxed());
        *answer.status_mut() = status;
        answer
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return answer;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(grpc_status));
    let payload = if grpc_status == "0" {
        grpc_message(b"\x08\x01")
    } else {
        Bytes::new()
    };
    let body = Full::new(payload).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut answer = Response::new(body.boxed());
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

/// Takes a free port for each service's application.
///
/// # Errors
/// When the system has no free port.
pub(crate) async fn bind(services: usize) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(services);
    for _ in 0..services {
        listeners.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?);
    }
    Ok(listeners)
}

/// Serves all applications until `shutdown`; the tracker ends when the last connection has.
pub(crate) fn serve(
    stage: &Arc<Stage>,
    listeners: Vec<TcpListener>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) {
    for (service, listener) in listeners.into_iter().enumerate() {
        let (stage, tracker, shutdown) = (Arc::clone(stage), tasks.clone(), shutdown.clone());
        tasks.spawn(async move {
            while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
                let Ok((stream, _)) = accepted else {
                    // Out of file descriptors: others must end first.
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    continue;
                };
                // Latency is what is measured; a socket that is gone already shows so at the first read.
                let _gone = stream.set_nodelay(true);
                let (stage, shutdown) = (Arc::clone(&stage), shutdown.clone());
                tracker.spawn(async move {
                    let service = service_fn(move |request| {
                        let stage = Arc::clone(&stage);
                        async move { Ok::<_, Infallible>(stage.answer(service, request).await) }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let connection = builder.serve_connection(TokioIo::new(stream), service);
                    if let Some(Err(error)) = shutdown.run_until_cancelled(connection).await {
                        tracing::debug!(error, "connection of an application ended");
                    }
                });
            }
        });
    }
}
