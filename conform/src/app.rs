//! The application behind the target: answers calls, and records to the byte what reached it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

/// Requests that are remembered; a run makes some hundred.
const ARRIVED_MAX: usize = 8_192;
/// A head that is longer is cut off, and the connection closed.
const HEAD_BYTES_MAX: usize = 512 << 10;
/// The answer to every call. Says nothing of the request, so that no answer can be mistaken.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 14\r\n\r\nthe app's word\n";

/// One request as it reached the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// The head, byte for byte where it is UTF-8.
    pub head: String,
    /// Bytes of the body.
    pub body_bytes: u64,
    /// Whether the request came to its end.
    pub complete: bool,
}

impl Arrived {
    /// The method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    /// The request target.
    #[must_use]
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// All values of a header, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.lines()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// Names of all headers, in lower case.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lines().map(|(name, _)| name.to_lowercase()).collect()
    }

    fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.head.split("\r\n").skip(1);
        lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name, value.trim()))
    }
}

/// A fault that the application plays on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It breaks off in the middle of its response.
    Reset,
    /// It never answers.
    Hang,
}

/// A running application; it ends with its last handle.
#[derive(Debug, Clone)]
pub struct App {
    address: SocketAddr,
    arrived: Arc<Mutex<VecDeque<Arrived>>>,
    _serving: Arc<AbortOnDropHandle<()>>,
}

/// Where an arrival stands while its body is read.
struct Slot {
    arrived: Arc<Mutex<VecDeque<Arrived>>>,
    /// The head with which it was pushed.
    head: String,
}

impl App {
    /// Listens on `address` and plays `faults` on their paths.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub(crate) async fn start(
        address: SocketAddr,
        faults: Vec<(String, Fault)>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let arrived = Arc::new(Mutex::new(VecDeque::new()));
        let serving = tokio::spawn(accept(listener, Arc::clone(&arrived), Arc::new(faults)));
        Ok(Self {
            address,
            arrived,
            _serving: Arc::new(AbortOnDropHandle::new(serving)),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests whose head holds `marker`, in the order in which they came.
    #[must_use]
    pub fn arrived(&self, marker: &str) -> Vec<Arrived> {
        let all = lock(&self.arrived);
        all.iter()
            .filter(|one| one.head.contains(marker))
            .cloned()
            .collect()
    }
}

async fn accept(
    listener: TcpListener,
    arrived: Arc<Mutex<VecDeque<Arrived>>>,
    faults: Arc<Vec<(String, Fault)>>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (arrived, faults) = (Arc::clone(&arrived), Arc::clone(&faults));
                let serving: JoinHandle<()> = tokio::spawn(async move {
                    if let Err(error) = serve(stream, &arrived, &faults).await {
                        tracing::debug!(%error, "a connection to the application ended");
                    }
                });
                drop(serving);
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a connection to the application");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    arrived: &Arc<Mutex<VecDeque<Arrived>>>,
    faults: &[(String, Fault)],
) -> io::Result<()> {
    let mut bytes = Vec::new();
    while let Some(end) = read_to(&mut stream, &mut bytes, b"\r\n\r\n").await? {
        let rest = bytes.split_off(end);
        let head = String::from_utf8_lossy(&bytes).into_owned();
        bytes = rest;
        let slot = Slot::push(arrived, head);
        slot.read_body(&mut stream, &mut bytes).await?;
        let target = slot.target();
        match faults.iter().find(|(path, _)| target == *path) {
            Some((_, Fault::Hang)) => {
                // until the proxy loses its patience
                let mut some = [0; 64];
                while stream.read(&mut some).await? > 0 {}
                return Ok(());
            }
            Some((_, Fault::Reset)) => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 64\r\n\r\nhalf")
                    .await?;
                return Ok(());
            }
            None => stream.write_all(ANSWER).await?,
        }
    }
    Ok(())
}

impl Slot {
    fn push(arrived: &Arc<Mutex<VecDeque<Arrived>>>, head: String) -> Self {
        let mut all = lock(arrived);
        if all.len() == ARRIVED_MAX {
            all.pop_front();
        }
        all.push_back(Arrived {
            head: head.clone(),
            body_bytes: 0,
            complete: false,
        });
        drop(all);
        Self {
            arrived: Arc::clone(arrived),
            head,
        }
    }

    fn note(&self, change: impl FnOnce(&mut Arrived)) {
        let mut all = lock(&self.arrived);
        let own = all
            .iter_mut()
            .rev()
            .find(|one| one.head == self.head && !one.complete);
        if let Some(own) = own {
            change(own);
        }
    }

    fn target(&self) -> String {
        let target = self.head.split(' ').nth(1).unwrap_or_default();
        target.split('?').next().unwrap_or_default().to_owned()
    }

    async fn read_body(&self, stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
        let arrived = Arrived {
            head: self.head.clone(),
            body_bytes: 0,
            complete: false,
        };
        if !arrived.header("transfer-encoding").is_empty() {
            self.read_chunks(stream, bytes).await?;
        } else if let Some(length) = arrived.header("content-length").first() {
            let length = length.parse().map_err(|_| malformed("content-length"))?;
            self.read_exactly(stream, bytes, length).await?;
        }
        self.note(|own| own.complete = true);
        Ok(())
    }

    async fn read_exactly(
        &self,
        stream: &mut TcpStream,
        bytes: &mut Vec<u8>,
        length: usize,
    ) -> io::Result<()> {
        let mut left = length;
        loop {
            let taken = left.min(bytes.len());
            bytes.drain(..taken);
            left -= taken;
            self.note(|own| own.body_bytes += taken as u64);
            if left == 0 {
                return Ok(());
            }
            if stream.read_buf(bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn read_chunks(&self, stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let line = line(stream, bytes).await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| malformed("chunk size"))?;
            if size == 0 {
                // trailers, up to an empty line
                while !self::line(stream, bytes).await?.is_empty() {}
                return Ok(());
            }
            self.read_exactly(stream, bytes, size).await?;
            if !self::line(stream, bytes).await?.is_empty() {
                return Err(malformed("chunk"));
            }
        }
    }
}

async fn line(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<String> {
    let end = read_to(stream, bytes, b"\r\n")
        .await?
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let line: Vec<u8> = bytes.drain(..end).collect();
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// Reads until `bytes` hold `end`, and gives the place after it; `None` when nothing more comes.
async fn read_to(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    end: &[u8],
) -> io::Result<Option<usize>> {
    loop {
        if let Some(at) = bytes.windows(end.len()).position(|part| part == end) {
            return Ok(Some(at + end.len()));
        }
        if bytes.len() > HEAD_BYTES_MAX || stream.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a malformed {what}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn say(app: &App, text: &str) -> String {
        let mut stream = TcpStream::connect(app.address()).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn start() -> App {
        let faults = vec![("/reset".to_owned(), Fault::Reset)];
        App::start("127.0.0.1:0".parse().unwrap(), faults)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn what_arrives_is_recorded_to_the_byte() {
        let app = start().await;
        let text = "POST /a?b HTTP/1.1\r\nHost: x\r\nX-Mark: m1\r\ntransfer-encoding: chunked\r\n\r\n\
                    3\r\nabc\r\n0\r\n\r\nGET /c HTTP/1.1\r\nx-mark: m2\r\n\r\n";
        assert_eq!(say(&app, text).await.matches("HTTP/1.1 200").count(), 2);
        let [one] = &app.arrived("m1")[..] else {
            panic!("one request")
        };
        assert_eq!((one.method(), one.target()), ("POST", "/a?b"));
        assert_eq!((one.body_bytes, one.complete), (3, true));
        assert_eq!(one.header("host"), ["x"]);
        assert_eq!(app.arrived("m2")[0].target(), "/c");
    }

    #[tokio::test]
    async fn a_request_that_is_cut_is_not_complete() {
        let app = start().await;
        let answer = say(
            &app,
            "POST / HTTP/1.1\r\ncontent-length: 9\r\nx: m\r\n\r\nabc",
        )
        .await;
        assert_eq!(answer, "");
        let cut = &app.arrived("m")[0];
        assert_eq!((cut.body_bytes, cut.complete), (3, false));
    }

    #[tokio::test]
    async fn a_fault_breaks_the_response_off() {
        let app = start().await;
        let answer = say(&app, "GET /reset HTTP/1.1\r\n\r\n").await;
        assert!(answer.contains("content-length: 64\r\n\r\nhalf") && answer.ends_with("half"));
    }
}
