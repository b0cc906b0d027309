//! The PostgreSQL wire: one connection's life from its start to its last statement.

mod answer;
mod login;
mod session;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use pgwire::api::auth::StartupHandler;
use pgwire::api::cancel::CancelHandler;
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::{ErrorHandler, PgWireServerHandlers};
use pgwire::messages::cancel::CancelRequest;
use tokio::net::TcpStream;

use crate::engine::Engine;
use crate::pg::login::Login;
use crate::pg::session::{Session, Sessions};
use crate::users::Users;

pub use answer::Conversation;

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
        let connection = Connection {
            login: Arc::new(Login::new(Arc::clone(&self))),
            conversation: Arc::new(Conversation::new(Arc::clone(&self.engine))),
            cancel: Arc::new(Canceller(Arc::clone(&self))),
        };
        Box::pin(pgwire::tokio::process_socket(stream, tls, connection)).await
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
