//! The PostgreSQL wire: one connection's life from its start to its last statement.

mod answer;
mod bound;
mod login;
mod session;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use pgwire::api::auth::StartupHandler;
use pgwire::api::cancel::CancelHandler;
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::{ErrorHandler, PgWireServerHandlers};
use pgwire::messages::cancel::CancelRequest;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::pg::login::Login;
use crate::pg::session::{Session, Sessions};
use crate::users::Users;

pub use answer::Conversation;

/// After this long without a log-in a connection is closed, as PostgreSQL's `authentication_timeout`.
const LOGIN_TIME: Duration = Duration::from_secs(60);

/// What all connections share.
#[derive(Debug)]
pub struct Server {
    engine: Arc<Engine>,
    users: Arc<Users>,
    tls_required: bool,
    sessions: Sessions,
}

impl Server {
    /// A server that answers `users` with `engine`; `tls_required` refuses plain connections.
    #[must_use]
    pub fn new(engine: Arc<Engine>, users: Arc<Users>, tls_required: bool) -> Self {
        Self {
            engine,
            users,
            tls_required,
            sessions: Sessions::default(),
        }
    }

    /// Serves one connection until it ends.
    ///
    /// # Errors
    /// When the network fails.
    pub async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        tls: Option<tokio_rustls::TlsAcceptor>,
    ) -> std::io::Result<()> {
        let logged_in = CancellationToken::new();
        let connection = Connection {
            login: Arc::new(Login::new(Arc::clone(&self), logged_in.clone())),
            conversation: Arc::new(Conversation::new(Arc::clone(&self.engine))),
            cancel: Arc::new(Canceller(Arc::clone(&self))),
        };
        tokio::select! {
            ended = Box::pin(pgwire::tokio::process_socket(stream, tls, connection)) => ended,
            () = no_log_in(&logged_in, LOGIN_TIME) => Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "waiting for a log-in",
            )),
        }
    }
}

/// Ends when the time for a log-in is over and there was none.
async fn no_log_in(logged_in: &CancellationToken, limit: Duration) {
    let log_in = tokio::time::timeout(limit, logged_in.cancelled());
    if log_in.await.is_ok() {
        std::future::pending::<()>().await;
    }
}

struct Connection {
    login: Arc<Login>,
    conversation: Arc<Conversation>,
    cancel: Arc<Canceller>,
}

impl PgWireServerHandlers for Connection {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::clone(&self.conversation)
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        Arc::clone(&self.conversation)
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::clone(&self.login)
    }

    fn error_handler(&self) -> Arc<impl ErrorHandler> {
        Arc::new(pgwire::api::NoopHandler)
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::clone(&self.cancel)
    }
}

/// A cancel request comes over a connection of its own and names its target by key.
struct Canceller(Arc<Server>);

#[async_trait]
impl CancelHandler for Canceller {
    async fn on_cancel_request(&self, request: CancelRequest) {
        if let Some(session) = self
            .0
            .sessions
            .find(request.pid, &request.secret_key.to_bytes())
        {
            session.cancel();
        }
    }
}

/// Keys of the open connections, by process number.
type Open = HashMap<i32, (Vec<u8>, Weak<Session>)>;
type Keys = Mutex<Open>;

fn lock(keys: &Keys) -> std::sync::MutexGuard<'_, Open> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_never_logs_in_is_sent_away() {
        let logged_in = CancellationToken::new();
        no_log_in(&logged_in, Duration::ZERO).await;
        logged_in.cancel();
        let stays = no_log_in(&logged_in, Duration::ZERO);
        let patience = tokio::time::timeout(Duration::from_millis(1), stays);
        assert!(patience.await.is_err());
    }
}
