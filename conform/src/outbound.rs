//! The target's other side: where an application's own calls go into the mesh.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::check::Stop;
use crate::h1::Said;
use crate::rig::{ANSWER_LIMIT, Call, Probe, tcp};

/// A proxy that takes plain HTTP of an application and calls the target.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// `host:port` of its listener.
    pub(crate) address: String,
    /// The host name under which it reaches the target.
    pub(crate) host: String,
    /// A further host name, whose instance is not who it must be.
    pub(crate) impostor: Option<Impostor>,
}

/// Somebody else at the place of a workload.
#[derive(Debug)]
pub(crate) struct Impostor {
    /// The host name of that workload.
    pub(crate) host: String,
    /// Where its instance is said to be: this tool listens there.
    pub(crate) listener: TcpListener,
}

impl Outbound {
    /// Asks `host` for `call`.
    pub(crate) async fn ask(&self, probe: &Probe, host: &str, call: &Call) -> Result<Said, Stop> {
        let (mut stream, port) = tcp(&self.address).await?;
        let Call { method, path } = call;
        let lines = probe.lines(host);
        let request = format!("{method} {path} HTTP/1.1\r\n{lines}connection: close\r\n\r\n");
        if let Err(error) = stream.write_all(request.as_bytes()).await {
            tracing::debug!(%error, "the outbound proxy closed while it was written to");
        }
        Ok(Said::read(&mut stream, port, ANSWER_LIMIT).await)
    }
}
