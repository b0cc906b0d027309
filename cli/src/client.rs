//! HTTP to a server that people use: where it is, who asks, one connection, one answer at a time.

use std::{path::Path, sync::Arc, time::Duration};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// An estate of ten banks is taken in less.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(600);

/// A server, and who asks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) encrypted: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
}

/// A text that is not the URL of a server.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    #[error("the URL must begin with http:// or https://, as in http://user@127.0.0.1:{0}")]
    Scheme(u16),
    #[error("the URL has no host; expected http://[user[:password]@]host[:port]")]
    Host,
    #[error("the port of the URL must be a number from 1 to 65535")]
    Port,
    #[error("user and password of the URL must be UTF-8, with other characters as %XX")]
    Escape,
    #[error("the URL ends after the port; {0:?} is too much")]
    Path(String),
}

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// Nobody listens there.
    #[error(
        "connecting to {host}:{port}: is the server running? With nothing running use a directory with --data-dir"
    )]
    Connect {
        host: String,
        port: u16,
        #[source]
        source: std::io::Error,
    },
    /// An https URL without the certificate that the server is believed by.
    #[error("an https URL needs --cacert FILE, the certificate by which the server is believed")]
    NoRoots,
    /// The certificate cannot be used.
    #[error("using {file}: {why}")]
    Roots { file: String, why: String },
    /// The connection broke.
    #[error("asking the server")]
    Http(#[from] hyper::Error),
    /// The request could not be put together.
    #[error("making the request")]
    Request(#[from] http::Error),
    /// The server let the time pass.
    #[error("the server did not answer within {} s", ANSWER_TIME_MAX.as_secs())]
    Timeout,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Server {
    /// Reads `http[s]://[user[:password]@]host[:port]`; user and password of the URL go before the others.
    ///
    /// # Errors
    /// When the text has another form.
    pub(crate) fn parse(
        url: &str,
        default_port: u16,
        user: Option<&str>,
        password: Option<&str>,
    ) -> Result<Self, UrlError> {
        let (encrypted, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(UrlError::Scheme(default_port)),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, rest),
        };
        if let Some(at) = address.find(['/', '?', '#']) {
            return Err(UrlError::Path(address.split_at(at).1.to_owned()));
        }
        let (host, port) = host_and_port(address, default_port)?;
        let (mut user, mut password) =
            (user.map(ToOwned::to_owned), password.map(ToOwned::to_owned));
        if let Some(login) = login {
            let (name, secret) = match login.split_once(':') {
                Some((name, secret)) => (name, Some(secret)),
                None => (login, None),
            };
            user = Some(unescape(name)?);
            if let Some(secret) = secret {
                password = Some(unescape(secret)?);
            }
        }
        Ok(Self {
            encrypted,
            host,
            port,
            user,
            password,
        })
    }

    /// `host:port`, as the header `Host` has it.
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn authorization(&self) -> Option<Result<HeaderValue, http::Error>> {
        let user = self.user.as_ref()?;
        let login = format!("{user}:{}", self.password.as_deref().unwrap_or(""));
        let value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(login)));
        Some(value.map_err(Into::into).map(|mut value| {
            value.set_sensitive(true);
            value
        }))
    }
}

/// Requests that follow each other on one connection, which is made anew when the server has closed it.
#[derive(Debug)]
pub(crate) struct Session {
    server: Server,
    tls: Option<Arc<ClientConfig>>,
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    authorization: Option<HeaderValue>,
}

impl Session {
    /// Connects. `roots` is the PEM file by which a server with an https URL is believed.
    ///
    /// # Errors
    /// When nobody listens there, or the server cannot be believed.
    pub(crate) async fn open(server: &Server, roots: Option<&Path>) -> Result<Self, HttpError> {
        let tls = match (server.encrypted, roots) {
            (false, _) => None,
            (true, None) => return Err(HttpError::NoRoots),
            (true, Some(file)) => Some(believe(file)?),
        };
        Ok(Self {
            sender: connect(server, tls.clone()).await?,
            authority: server.authority(),
            authorization: server.authorization().transpose()?,
            server: server.clone(),
            tls,
        })
    }

    /// Sends a request and reads the whole answer. Not cancel safe: a connection whose answer was not
    /// read is of no more use.
    ///
    /// # Errors
    /// When the connection breaks or the time passes.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Reply, HttpError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority)
            .header(ACCEPT, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body)))?;
        if self.sender.ready().await.is_err() {
            self.sender = connect(&self.server, self.tls.clone()).await?;
        }
        let answered = timeout(ANSWER_TIME_MAX, async {
            let answer = self.sender.send_request(request).await?;
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            Ok(Reply { status, body })
        });
        answered.await.unwrap_or(Err(HttpError::Timeout))
    }
}

async fn connect(
    server: &Server,
    tls: Option<Arc<ClientConfig>>,
) -> Result<SendRequest<Full<Bytes>>, HttpError> {
    let connected = timeout(CONNECT_TIME_MAX, async {
        let tcp = TcpStream::connect((server.host.as_str(), server.port)).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = tls else {
            return handshake(tcp).await;
        };
        let name = ServerName::try_from(server.host.clone()).map_err(std::io::Error::other)?;
        handshake(TlsConnector::from(tls).connect(name, tcp).await?).await
    });
    connected
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|source| HttpError::Connect {
            host: server.host.clone(),
            port: server.port,
            source,
        })
}

async fn handshake<S>(stream: S) -> std::io::Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

/// TLS to servers with a certificate of these.
fn believe(file: &Path) -> Result<Arc<ClientConfig>, HttpError> {
    let unusable = |why: String| HttpError::Roots {
        file: file.display().to_string(),
        why,
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file).map_err(|e| unusable(e.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("there is no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Text as one segment of a path or one value of a query.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn host_and_port(address: &str, default_port: u16) -> Result<(String, u16), UrlError> {
    let (host, rest) = match address.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').ok_or(UrlError::Host)?,
        None => address.split_at(address.find(':').unwrap_or(address.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(UrlError::Port)?,
        None if rest.is_empty() => default_port,
        None => return Err(UrlError::Host),
    };
    if host.is_empty() {
        return Err(UrlError::Host);
    }
    Ok((host.to_owned(), port))
}

/// Undoes `%XX`.
fn unescape(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.bytes();
    while let Some(byte) = left.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let pair = [
            left.next().ok_or(UrlError::Escape)?,
            left.next().ok_or(UrlError::Escape)?,
        ];
        let mut value = [0];
        hex::decode_to_slice(pair, &mut value).map_err(|_| UrlError::Escape)?;
        bytes.extend(value);
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: &str, port: u16, user: Option<&str>, password: Option<&str>) -> Server {
        let own = |text: Option<&str>| text.map(ToOwned::to_owned);
        Server {
            encrypted: false,
            host: host.to_owned(),
            port,
            user: own(user),
            password: own(password),
        }
    }

    #[test]
    fn urls_give_host_port_and_who_asks() {
        let cases = [
            (
                "http://127.0.0.1:15480",
                Ok(server("127.0.0.1", 15_480, None, None)),
            ),
            ("http://books/", Ok(server("books", 15_480, None, None))),
            (
                "http://a:p%40ss:w@h:1",
                Ok(server("h", 1, Some("a"), Some("p@ss:w"))),
            ),
            ("http://a@[::1]:8", Ok(server("::1", 8, Some("a"), None))),
            (
                "http://a%20b:@h",
                Ok(server("h", 15_480, Some("a b"), Some(""))),
            ),
            ("ftp://h", Err(UrlError::Scheme(15_480))),
            ("h:15480", Err(UrlError::Scheme(15_480))),
            ("http://", Err(UrlError::Host)),
            ("http://:80", Err(UrlError::Host)),
            ("http://[::1", Err(UrlError::Host)),
            ("http://h:0", Err(UrlError::Port)),
            ("http://h:70000", Err(UrlError::Port)),
            ("http://h:1/v1", Err(UrlError::Path("/v1".to_owned()))),
            ("http://%zz@h", Err(UrlError::Escape)),
            ("http://%e9@h", Err(UrlError::Escape)),
        ];
        for (url, expected) in cases {
            assert_eq!(Server::parse(url, 15_480, None, None), expected, "{url}");
        }
    }

    #[test]
    fn the_url_goes_before_options_and_environment() {
        let parsed = Server::parse("http://a:b@h", 15_480, Some("c"), Some("d")).unwrap();
        assert_eq!(parsed, server("h", 15_480, Some("a"), Some("b")));
        let parsed = Server::parse("http://a@h", 15_480, Some("c"), Some("d")).unwrap();
        assert_eq!(parsed, server("h", 15_480, Some("a"), Some("d")));
    }

    #[test]
    fn an_https_url_is_encrypted_and_needs_a_certificate() {
        let parsed = Server::parse("https://a@books:8443", 1, None, None).unwrap();
        assert!(parsed.encrypted);
        assert_eq!(parsed.authority(), "books:8443");
        let v6 = Server::parse("http://[::1]", 8, None, None).unwrap();
        assert_eq!(v6.authority(), "[::1]:8");
    }

    #[test]
    fn what_has_a_meaning_in_urls_is_escaped() {
        assert_eq!(encoded("POST /a?b&é"), "POST%20%2Fa%3Fb%26%C3%A9");
        assert_eq!(encoded("G-12.a_~"), "G-12.a_~");
    }
}
