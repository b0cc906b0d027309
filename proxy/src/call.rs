//! One call in progress: its entry as far as it is known, its clock, and the guard that sees to it
//! that exactly one final entry is written, however the call ends.

use std::ops::Deref;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use counterfoil_entry::clock;
use counterfoil_entry::entry::Entry;
use counterfoil_entry::word::{Decision, Kind, Outcome};
use counterfoil_trust::allow::Operation;
use http::{HeaderMap, HeaderName, StatusCode};
use tokio::time::timeout;

use crate::failure::Failure;
use crate::open_calls::Ticket;
use crate::policy::Policy;
use crate::scribe::Scribe;
use crate::waits::{Waiting, Waits};

/// Header and trailer that carry a gRPC call's result.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// How a call ended, when its status alone does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) outcome: Outcome,
    pub(crate) error_type: Option<&'static str>,
}

/// How far the request's body got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upload {
    Open,
    Complete,
    Broken,
}

/// A call in progress, shared by the service and the two bodies, all on one worker.
#[derive(Debug)]
pub(crate) struct Call {
    scribe: Arc<Scribe>,
    ticket: Ticket,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    entry: Entry,
    waits: Waits,
    policy: Option<Arc<Policy>>,
    operation: Option<Arc<Operation>>,
    ending: Option<Ending>,
    upload: Upload,
    /// When the request last went on, by the monotonic clock.
    uploaded_ns: u64,
    request_bytes: u64,
    response_bytes: u64,
    written: bool,
}

/// The owner of a call: dropped before the call is complete, it writes the entry as `aborted`.
#[derive(Debug)]
pub(crate) struct OpenCall(Arc<Call>);

impl OpenCall {
    /// Begins a call. `entry` holds what the connection knows.
    pub(crate) fn begin(scribe: &Arc<Scribe>, entry: Entry, now_ns: u64) -> Self {
        let ticket = scribe.call_began(entry.start_time);
        Self(Arc::new(Call {
            scribe: Arc::clone(scribe),
            ticket,
            state: Mutex::new(State {
                entry,
                waits: Waits::begin(now_ns),
                policy: None,
                operation: None,
                ending: None,
                upload: Upload::Open,
                uploaded_ns: now_ns,
                request_bytes: 0,
                response_bytes: 0,
                written: false,
            }),
        }))
    }

    /// A further handle that does not own the call.
    pub(crate) fn share(&self) -> Arc<Call> {
        Arc::clone(&self.0)
    }
}

impl Deref for OpenCall {
    type Target = Call;
    fn deref(&self) -> &Call {
        &self.0
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let stopped = self.scribe.is_stopping();
        let mut state = self.state();
        if !state.written {
            let ending = state.ending.unwrap_or(Ending {
                outcome: Outcome::Aborted,
                error_type: Some(if stopped {
                    "proxy_stopped"
                } else {
                    "caller_gone"
                }),
            });
            self.write(&mut state, ending);
        }
    }
}

impl Call {
    /// Changes what the entry says.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Entry)) {
        change(&mut self.state().entry);
    }

    /// The policy in force for this call, and so its retention class.
    pub(crate) fn set_policy(&self, policy: &Arc<Policy>) {
        let mut state = self.state();
        let entry = &mut state.entry;
        entry.bundle_sha256 = Some(policy.sha256);
        entry.bundle_version = Some(policy.version);
        entry.policy_stale_ms = Some(policy.stale_ms(entry.start_time));
        if entry.site.is_none() {
            entry.site.clone_from(&policy.site);
        }
        if entry.zone.is_none() {
            entry.zone.clone_from(&policy.zone);
        }
        state.policy = Some(Arc::clone(policy));
    }

    /// The operation that the catalogue knows for this call.
    pub(crate) fn set_operation(&self, operation: &Arc<Operation>) {
        let mut state = self.state();
        let entry = &mut state.entry;
        entry.api = Some(Arc::clone(&operation.api));
        entry.api_version = Some(Arc::clone(&operation.api_version));
        entry.operation = Some(Arc::clone(&operation.operation));
        entry.route = Some(Arc::clone(&operation.route));
        entry.scopes = Arc::clone(&operation.scopes);
        state.operation = Some(Arc::clone(operation));
    }

    /// Fixes how this call ends, whatever its status says.
    pub(crate) fn set_ending(&self, ending: Ending) {
        self.state().ending = Some(ending);
    }

    /// From now on the call waits for `next`.
    pub(crate) fn turn(&self, next: Waiting) {
        self.state().waits.turn(next, clock::mono_ns());
    }

    /// As [`Self::turn`], said by the request's body.
    pub(crate) fn turn_while_uploading(&self, next: Waiting) {
        self.state()
            .waits
            .turn_while_uploading(next, clock::mono_ns());
    }

    /// `bytes` of the request's body went on to the next hop.
    pub(crate) fn uploaded(&self, bytes: u64) {
        let now_ns = clock::mono_ns();
        let mut state = self.state();
        state.request_bytes += bytes;
        state.uploaded_ns = now_ns;
        state.waits.turn_while_uploading(Waiting::Upstream, now_ns);
    }

    /// The request's body has gone on completely.
    pub(crate) fn upload_complete(&self) {
        let mut state = self.state();
        state.upload = Upload::Complete;
        state
            .waits
            .turn_while_uploading(Waiting::Upstream, clock::mono_ns());
    }

    /// The caller broke off in the middle of the request's body.
    pub(crate) fn upload_broken(&self) {
        self.state().upload = Upload::Broken;
    }

    /// Whether the whole request went on to the next hop.
    pub(crate) fn is_upload_complete(&self) -> bool {
        self.state().upload == Upload::Complete
    }

    /// What `sending` gives, when it comes within `limit` of the last time that the request went on:
    /// an upload may take as long as it goes on.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        sending: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut sending = pin!(sending);
        let mut left = limit;
        loop {
            if let Ok(sent) = timeout(left, sending.as_mut()).await {
                return sent;
            }
            let still_ns = clock::mono_ns().saturating_sub(self.state().uploaded_ns);
            left = limit.saturating_sub(Duration::from_nanos(still_ns));
            if left.is_zero() {
                return Err(Failure::TIMEOUT);
            }
        }
    }

    /// The head of the response is here and goes to the caller as it is given.
    pub(crate) fn respond(&self, status: StatusCode, headers: &HeaderMap) {
        let now_ns = clock::mono_ns();
        let mut state = self.state();
        state.waits.respond(now_ns);
        state.entry.first_byte_ns = Some(now_ns.saturating_sub(state.waits.begun_ns()));
        state.entry.status = Some(status.as_u16());
        state.note_grpc_status(headers);
    }

    /// `bytes` of the response's body are about to go to the caller, and more may follow.
    pub(crate) fn downloaded(&self, bytes: u64) {
        let mut state = self.state();
        state.response_bytes += bytes;
        state.waits.turn(Waiting::Caller, clock::mono_ns());
    }

    /// The response is complete: writes the final entry, before its last `bytes` are released.
    pub(crate) fn complete(&self, bytes: u64, trailers: Option<&HeaderMap>) {
        let mut state = self.state();
        state.response_bytes += bytes;
        if let Some(trailers) = trailers {
            state.note_grpc_status(trailers);
        }
        let ending = state.ending.unwrap_or_else(|| state.judge());
        self.write(&mut state, ending);
    }

    /// The next hop broke off in the middle of the response: writes the final entry.
    pub(crate) fn break_off(&self, error_type: &'static str) {
        let mut state = self.state();
        let ending = if state.upload == Upload::Broken {
            Ending {
                outcome: Outcome::Aborted,
                error_type: Some("caller_gone"),
            }
        } else {
            Ending {
                outcome: Outcome::Unavailable,
                error_type: Some(error_type),
            }
        };
        self.write(&mut state, ending);
    }

    /// Whether the caller broke off while it sent its request.
    pub(crate) fn is_upload_broken(&self) -> bool {
        self.state().upload == Upload::Broken
    }

    fn write(&self, state: &mut State, ending: Ending) {
        if state.written {
            return;
        }
        state.written = true;
        let now_ns = clock::mono_ns();
        let spent = state.waits.spent(now_ns);
        let (request_bytes, response_bytes) = (state.request_bytes, state.response_bytes);
        let State {
            entry,
            policy,
            operation,
            ..
        } = &mut *state;
        entry.end_time = Some(
            entry
                .start_time
                .plus_ns(i64::try_from(spent.duration_ns).unwrap_or(i64::MAX)),
        );
        entry.duration_ns = Some(spent.duration_ns);
        entry.upstream_ns = Some(spent.upstream_ns);
        entry.downstream_ns = Some(spent.downstream_ns);
        entry.overhead_ns = Some(spent.overhead_ns);
        entry.request_bytes = Some(request_bytes);
        entry.response_bytes = Some(response_bytes);
        entry.outcome = Some(ending.outcome);
        entry.error_type = ending.error_type.map(Arc::from);
        let class = operation
            .as_ref()
            .map(|operation| &operation.class)
            .or_else(|| policy.as_ref().map(|policy| &policy.default_class));
        self.scribe.append(entry, class);
        self.scribe.call_ended(self.ticket);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // one worker owns the call, so the lock is always free; a panic elsewhere leaves plain data
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note_grpc_status(&mut self, headers: &HeaderMap) {
        if self.entry.kind == Kind::Grpc
            && let Some(status) = headers.get(GRPC_STATUS)
        {
            self.entry.grpc_status = status.to_str().ok().and_then(|text| text.parse().ok());
        }
    }

    fn judge(&self) -> Ending {
        let outcome = outcome_of(
            self.entry.status.unwrap_or(0),
            (self.entry.kind == Kind::Grpc).then_some(self.entry.grpc_status),
        );
        let unread = self.upload != Upload::Complete && self.entry.decision != Decision::Deny;
        Ending {
            outcome,
            error_type: unread.then_some("request_incomplete"),
        }
    }
}

/// The outcome that a status tells. For gRPC the class of the HTTP status to which the code maps.
fn outcome_of(status: u16, grpc: Option<Option<u16>>) -> Outcome {
    match (status, grpc) {
        (400..=499, _) => Outcome::ClientError,
        (500..=599, _) => Outcome::ServerError,
        (_, None | Some(Some(0))) => Outcome::Ok,
        (_, Some(Some(1 | 3 | 5..=11 | 16))) => Outcome::ClientError,
        (_, Some(_)) => Outcome::ServerError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_code_counts_as_the_http_status_it_maps_to() {
        for (status, grpc, expected) in [
            (200, None, Outcome::Ok),
            (304, None, Outcome::Ok),
            (404, None, Outcome::ClientError),
            (503, None, Outcome::ServerError),
            (200, Some(Some(0)), Outcome::Ok),
            (200, Some(Some(5)), Outcome::ClientError),
            (200, Some(Some(7)), Outcome::ClientError),
            (200, Some(Some(13)), Outcome::ServerError),
            (200, Some(Some(99)), Outcome::ServerError),
            (200, Some(None), Outcome::ServerError),
            (415, Some(None), Outcome::ClientError),
        ] {
            assert_eq!(outcome_of(status, grpc), expected, "{status} {grpc:?}");
        }
    }
}
