//! Connections to the application: HTTP/2 for gRPC, a small keep-alive pool of HTTP/1.1 for the rest.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use counterfoil_entry::clock;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::body::RequestBody;
use crate::failure::Failure;
use crate::link::{Dialled, FarEnd, HEADER_BYTES_MAX, Link, Slot};
use crate::transport::connect;

/// A kept connection is not used after this time. Usual servers close theirs after 2 s and more:
/// whoever closes first must not be the server, or a request meets a closing connection.
const IDLE_MAX: Duration = Duration::from_millis(1_500);
/// Connections kept by one worker.
const KEPT_MAX: usize = 64;

type Sender = http1::SendRequest<RequestBody>;

/// The application beside this proxy, as one worker reaches it.
#[derive(Debug)]
pub(crate) struct App {
    far_end: Arc<FarEnd>,
    grpc: Slot,
    kept: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since_ns: u64,
}

/// One HTTP/1.1 connection in use.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) sender: Sender,
    /// How long it took to make; `None` for a kept connection.
    pub(crate) dialled: Option<Dialled>,
}

/// A connection that goes back to the pool when its response has been read to the end.
#[derive(Debug)]
pub(crate) struct Kept {
    app: Arc<App>,
    sender: Sender,
}

impl Kept {
    pub(crate) const fn new(app: Arc<App>, sender: Sender) -> Self {
        Self { app, sender }
    }

    pub(crate) fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let mut kept = self.app.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(Idle {
                sender: self.sender,
                since_ns: clock::mono_ns(),
            });
        }
    }
}

impl App {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            far_end: Arc::new(FarEnd {
                address: Arc::from(address.to_string()),
                secured: None,
                refusal: Arc::new(OnceLock::new()),
            }),
            grpc: Slot::default(),
            kept: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn address(&self) -> &Arc<str> {
        &self.far_end.address
    }

    /// The HTTP/2 connection for gRPC calls, by prior knowledge.
    pub(crate) async fn grpc_link(&self) -> Result<(Link, Option<Dialled>), Failure> {
        self.grpc
            .link(None, || async {
                let (stream, connect_ns) = connect(&self.far_end.address).await?;
                let link = Link::open(stream, Arc::clone(&self.far_end)).await?;
                Ok((
                    link,
                    Dialled {
                        connect_ns,
                        handshake_ns: None,
                    },
                ))
            })
            .await
    }

    /// An HTTP/1.1 connection: the most recently used kept one, or a new one.
    pub(crate) async fn lease(&self) -> Result<Lease, Failure> {
        while let Some(mut sender) = self.take_kept() {
            if sender.ready().await.is_ok() {
                return Ok(Lease {
                    sender,
                    dialled: None,
                });
            }
        }
        self.lease_new().await
    }

    /// A new HTTP/1.1 connection.
    pub(crate) async fn lease_new(&self) -> Result<Lease, Failure> {
        let (stream, connect_ns) = connect(&self.far_end.address).await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEADER_BYTES_MAX as usize)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::of_send(&error, None))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the application ended");
            }
        });
        sender
            .ready()
            .await
            .map_err(|error| Failure::of_send(&error, None))?;
        Ok(Lease {
            sender,
            dialled: Some(Dialled {
                connect_ns,
                handshake_ns: None,
            }),
        })
    }

    fn take_kept(&self) -> Option<Sender> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Idle { sender, since_ns } = kept.pop()?;
        let idle_ns = u128::from(clock::mono_ns().saturating_sub(since_ns));
        if idle_ns >= IDLE_MAX.as_nanos() {
            // the rest have been idle even longer
            kept.clear();
            return None;
        }
        Some(sender)
    }
}
