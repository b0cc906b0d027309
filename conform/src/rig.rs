//! Everything that checks may use, and the few questions that most of them ask.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use counterfoil_trust::{Expect, SpiffeId, client_config, server_name};
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::app::{App, Arrived};
use crate::books::{Books, Row};
use crate::check::{Stop, Trouble, chain};
use crate::collector::Receiver;
use crate::h1::Said;
use crate::material::Material;
use crate::outbound::Outbound;
use crate::tokens::Tokens;

/// How long the target gets for an answer.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long something that must not happen is given to happen.
const SETTLE: Duration = Duration::from_millis(120);

/// A target and everything by which it can be checked.
#[derive(Debug)]
pub struct Rig {
    /// How reports and books name the target.
    pub name: String,
    pub(crate) target: Target,
    pub(crate) material: Material,
    pub(crate) calls: Calls,
    pub(crate) app: Option<App>,
    pub(crate) books: Option<Books>,
    pub(crate) logs: Vec<PathBuf>,
    pub(crate) tokens: Option<Tokens>,
    pub(crate) outbound: Option<Outbound>,
    pub(crate) receiver: Option<Receiver>,
}

/// Whom to ask.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// `host:port` of the listener for mutual TLS.
    pub(crate) address: String,
    /// Who must answer there.
    pub(crate) spiffe_id: SpiffeId,
    /// The `Host` of good requests.
    pub(crate) host: String,
}

/// A method and a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
}

impl Call {
    /// Reads `GET /path`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (method, path) = text.trim().split_once(' ')?;
        let plain = |c: char| c.is_ascii_graphic();
        let good = method.chars().all(|c| c.is_ascii_uppercase())
            && !method.is_empty()
            && path.starts_with('/')
            && path.chars().all(plain);
        good.then(|| Self {
            method: method.to_owned(),
            path: path.to_owned(),
        })
    }
}

/// What the good caller may and may not do.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    pub(crate) allowed: Call,
    pub(crate) upload: Call,
    pub(crate) denied: Call,
    pub(crate) undeclared: Call,
    pub(crate) reset: Option<Call>,
    pub(crate) hang: Option<Call>,
    /// How long the target waits for the application (s).
    pub(crate) timeout_s: Option<u64>,
    pub(crate) shadow: Option<Call>,
}

/// The names by which one request is found again.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    pub(crate) marker: String,
    pub(crate) trace: String,
    pub(crate) span: String,
}

/// The header that carries a probe's marker.
pub(crate) const MARKER: &str = "x-conform-probe";

impl Probe {
    pub(crate) fn new() -> Self {
        let trace: [u8; 16] = rand::random();
        let span: [u8; 8] = rand::random();
        let marker: [u8; 12] = rand::random();
        Self {
            marker: hex::encode(marker),
            trace: hex::encode(trace),
            span: hex::encode(span),
        }
    }

    /// Headers that every request has, each with its line's end.
    pub(crate) fn lines(&self, host: &str) -> String {
        format!("host: {host}\r\n{}", self.own_lines())
    }

    /// The same without a host.
    pub(crate) fn own_lines(&self) -> String {
        let Self {
            marker,
            trace,
            span,
        } = self;
        format!("{MARKER}: {marker}\r\ntraceparent: 00-{trace}-{span}-01\r\n")
    }
}

/// A connection as the good caller.
pub(crate) struct Session {
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) port: u16,
}

impl Session {
    /// Writes `bytes`. A target that closes meanwhile is not an error: the answer tells.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        if let Err(error) = written.await {
            tracing::debug!(%error, "the target closed while it was written to");
        }
    }

    pub(crate) async fn read(&mut self, limit: Duration) -> Said {
        Said::read(&mut self.stream, self.port, limit).await
    }
}

impl Rig {
    /// Connects to the target and gives the local port.
    pub(crate) async fn tcp(&self) -> Result<(TcpStream, u16), Stop> {
        tcp(&self.target.address).await
    }

    /// TLS of the good caller, to the target and nobody else.
    pub(crate) fn good_tls(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, Stop> {
        let expect = Expect::Id(self.target.spiffe_id.clone());
        Ok(client_config(&self.material.identity()?, expect, alpn))
    }

    /// A connection as the good caller that speaks `alpn`.
    pub(crate) async fn session(&self, alpn: &'static [u8]) -> Result<Session, Stop> {
        let tls = self.good_tls(&[alpn])?;
        let (stream, port) = self.tcp().await?;
        let connected = TlsConnector::from(tls).connect(server_name(), stream).await;
        let stream = match connected {
            Ok(stream) => stream,
            Err(error) if no_protocol(&error) => {
                let name = String::from_utf8_lossy(alpn);
                return Err(Stop::skip(format!("the target does not speak {name} here")));
            }
            Err(error) => return Err(Trouble::Handshake(error).into()),
        };
        Ok(Session { stream, port })
    }

    /// Says `bytes` on a connection of its own as the good caller, over HTTP/1.1.
    pub(crate) async fn say(&self, bytes: &[u8]) -> Result<Said, Stop> {
        let mut session = self.session(b"http/1.1").await?;
        session.write(bytes).await;
        Ok(session.read(ANSWER_LIMIT).await)
    }

    /// The request of `call` with further header lines, on a connection that closes after it.
    pub(crate) fn request(&self, probe: &Probe, method: &str, target: &str, more: &str) -> String {
        let lines = probe.lines(&self.target.host);
        format!("{method} {target} HTTP/1.1\r\n{lines}connection: close\r\n{more}\r\n")
    }

    /// Asks `call` with further header lines.
    pub(crate) async fn ask(&self, probe: &Probe, call: &Call, more: &str) -> Result<Said, Stop> {
        let request = self.request(probe, &call.method, &call.path, more);
        self.say(request.as_bytes()).await
    }

    /// What of this probe reached the application by now; `None` when it cannot be seen.
    pub(crate) async fn arrived(&self, marker: &str) -> Option<Vec<Arrived>> {
        let app = self.app.as_ref()?;
        tokio::time::sleep(SETTLE).await;
        Some(app.arrived(marker))
    }

    /// The application, which a check cannot do without.
    pub(crate) fn app(&self) -> Result<&App, Stop> {
        self.app
            .as_ref()
            .ok_or_else(|| Stop::skip("the profile has no [app]: what reaches it cannot be seen"))
    }

    /// The books, which a check cannot do without.
    pub(crate) fn books(&self) -> Result<&Books, Stop> {
        self.books
            .as_ref()
            .ok_or_else(|| Stop::skip("the profile has no [books]"))
    }

    /// Spools of the target that lie open here.
    pub(crate) fn spools(&self) -> Vec<PathBuf> {
        match &self.books {
            Some(Books::Spools(roots)) => roots.clone(),
            _ => Vec::new(),
        }
    }

    /// Judges an answer to a request of which nothing may reach the application.
    pub(crate) async fn refused(&self, probe: &Probe, said: &Said) -> (bool, String) {
        let arrived = self.arrived(&probe.marker).await.unwrap_or_default();
        judge(said, &arrived)
    }

    /// Judges an answer to a request that may reach the application in part, but not whole.
    pub(crate) async fn cut(&self, probe: &Probe, said: &Said) -> (bool, String) {
        let mut arrived = self.arrived(&probe.marker).await.unwrap_or_default();
        arrived.retain(|one| one.complete);
        judge(said, &arrived)
    }

    /// Judges an answer to a request that must be served.
    pub(crate) async fn served(&self, probe: &Probe, said: &Said) -> (bool, String) {
        let arrived = self.arrived(&probe.marker).await;
        let once = arrived.as_ref().is_none_or(|all| all.len() == 1);
        let saw = match arrived {
            Some(all) if !once => {
                format!(
                    "{}; reached the application {} times",
                    said.words(),
                    all.len()
                )
            }
            _ => said.words(),
        };
        (said.is_served() && once, saw)
    }

    /// The rows of the books about a call, once there is one; none when there is none in time.
    pub(crate) async fn rows_of(&self, probe: &Probe) -> Result<Vec<Row>, Stop> {
        self.rows(|books| books.by_trace(&probe.trace), 1).await
    }

    /// As [`Self::rows_of`], for at least `count` rows.
    pub(crate) async fn rows_of_at_least(
        &self,
        probe: &Probe,
        count: usize,
    ) -> Result<Vec<Row>, Stop> {
        self.rows(|books| books.by_trace(&probe.trace), count).await
    }

    /// The rows of the books about a connection from this local port.
    pub(crate) async fn rows_of_port(&self, port: u16) -> Result<Vec<Row>, Stop> {
        self.rows(|books| books.by_port(port), 1).await
    }

    async fn rows<'a, F>(
        &'a self,
        ask: impl Fn(&'a Books) -> F,
        least: usize,
    ) -> Result<Vec<Row>, Stop>
    where
        F: Future<Output = Result<Vec<Row>, crate::books::ReadError>>,
    {
        let books = self.books()?;
        let until = tokio::time::Instant::now() + books.limit();
        loop {
            let rows = ask(books).await?;
            let late = tokio::time::Instant::now() >= until;
            if rows.len() >= least && !rows.is_empty() {
                // a second one would come as soon as the first did
                tokio::time::sleep(books.settle()).await;
                return Ok(ask(books).await?);
            }
            if late {
                return Ok(rows);
            }
            tokio::time::sleep(books.pause()).await;
        }
    }
}

fn judge(said: &Said, arrived: &[Arrived]) -> (bool, String) {
    let reached = arrived.first().map(|one| {
        let (method, target) = (one.method(), one.target());
        format!("reached the application as {method} {target}")
    });
    let answered = said.status().is_some_and(|status| status >= 400) || said.closed;
    let good = reached.is_none() && answered && !said.is_served();
    let saw = match reached {
        Some(reached) => format!("{}, {reached}", said.words()),
        None => said.words(),
    };
    (good, saw)
}

/// A connection, and its local port.
pub(crate) async fn tcp(address: &str) -> Result<(TcpStream, u16), Stop> {
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let port = stream.local_addr()?.port();
        Ok((stream, port))
    };
    connecting.await.map_err(|source| {
        Trouble::Connect {
            address: address.to_owned(),
            source,
        }
        .into()
    })
}

/// Whether a handshake failed because the target speaks none of the offered protocols.
fn no_protocol(error: &std::io::Error) -> bool {
    chain(error).contains("NoApplicationProtocol")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_a_method_and_a_path() {
        let call = Call::parse("GET /a/b").unwrap();
        assert_eq!((call.method.as_str(), call.path.as_str()), ("GET", "/a/b"));
        for bad in ["", "GET", "GET a", "get /a", "GET /a b", " /a"] {
            assert_eq!(Call::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_refusal_is_an_answer_or_a_close_and_nothing_that_arrived() {
        let said = |text: &str, closed| Said {
            bytes: text.as_bytes().to_vec(),
            closed,
            port: 0,
        };
        let arrived = Arrived {
            head: "GET /x HTTP/1.1\r\n\r\n".to_owned(),
            body_bytes: 0,
            complete: true,
        };
        assert!(judge(&said("", true), &[]).0);
        assert!(judge(&said("HTTP/1.1 400 x\r\n", false), &[]).0);
        assert!(!judge(&said("", false), &[]).0, "no answer is no refusal");
        assert!(!judge(&said("HTTP/1.1 200 x\r\n", true), &[]).0);
        assert!(!judge(&said("HTTP/1.1 400 x\r\n", true), &[arrived]).0);
    }
}
