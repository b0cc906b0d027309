//! The HTTP endpoint of a running server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{
    Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::answer::{Answer, SqlError};

const PORT: u16 = 15_480;

/// A server, and who asks it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Server {
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<String>,
}

/// A text that is not the URL of a server.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    #[error("the URL must begin with http://, as in http://auditor:password@127.0.0.1:{PORT}")]
    Scheme,
    #[error("the URL has no host; expected http://[user[:password]@]host[:port]")]
    Host,
    #[error("the port of the URL must be a number from 1 to 65535")]
    Port,
    #[error("user and password of the URL must be UTF-8, with other characters as %XX")]
    Escape,
    #[error("the URL ends after the port; {0:?} is too much")]
    Path(String),
}

/// A question that got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// The server refused the statement, or it failed.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// Nobody listens there.
    #[error(
        "connecting to {host}:{port}: is the server running? With nothing running ask a directory with --data-dir"
    )]
    Connect {
        host: String,
        port: u16,
        #[source]
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("asking the server")]
    Http(#[from] hyper::Error),
    /// The request could not be put together.
    #[error("making the request")]
    Request(#[from] http::Error),
    /// The server does not know the user.
    #[error(
        "the server refused user or password; give them in the URL, or as --user and PGPASSWORD"
    )]
    Unauthorized,
    /// Something else answered.
    #[error("the server answered {0} with something that is no answer to SQL")]
    Form(StatusCode),
}

impl Server {
    /// Reads `http://[user[:password]@]host[:port]`; user and password of the URL go before the others.
    ///
    /// # Errors
    /// When the text has another form.
    pub(crate) fn parse(
        url: &str,
        user: Option<&str>,
        password: Option<&str>,
    ) -> Result<Self, UrlError> {
        let rest = url.strip_prefix("http://").ok_or(UrlError::Scheme)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, rest),
        };
        if let Some(at) = address.find(['/', '?', '#']) {
            return Err(UrlError::Path(address.split_at(at).1.to_owned()));
        }
        let (host, port) = host_and_port(address)?;
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
            host,
            port,
            user,
            password,
        })
    }

    /// Asks one statement.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses the user, or the statement fails.
    pub(crate) async fn ask(&self, sql: &str) -> Result<Answer, RemoteError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|source| RemoteError::Connect {
                host: self.host.clone(),
                port: self.port,
                source,
            })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::post("/v1/sql")
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json");
        if let Some(user) = &self.user {
            let login = format!("{user}:{}", self.password.as_deref().unwrap_or(""));
            request = request.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(login)));
        }
        let body = Full::new(Bytes::from(json!({ "sql": sql }).to_string()));
        let answer = sender.send_request(request.body(body)?).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        read(status, &body)
    }
}

/// The rows of an answer, or what its error says.
fn read(status: StatusCode, body: &[u8]) -> Result<Answer, RemoteError> {
    if status == StatusCode::UNAUTHORIZED {
        return Err(RemoteError::Unauthorized);
    }
    let value: Option<Value> = serde_json::from_slice(body).ok();
    if let Some(error) = value.as_ref().and_then(sql_error) {
        return Err(error.into());
    }
    value
        .filter(|_| status.is_success())
        .as_ref()
        .and_then(rows)
        .ok_or(RemoteError::Form(status))
}

fn sql_error(value: &Value) -> Option<SqlError> {
    let text = |name: &str| {
        value
            .get(name)
            .and_then(Value::as_str)
            .map(ToOwned::to_owned)
    };
    Some(SqlError {
        sqlstate: text("sqlstate")?,
        message: text("message")?,
        position: value
            .get("position")
            .and_then(Value::as_u64)
            .and_then(|at| usize::try_from(at).ok()),
    })
}

fn rows(value: &Value) -> Option<Answer> {
    let columns = value.get("columns")?.as_array()?;
    let columns = columns
        .iter()
        .map(|column| {
            column
                .get("name")
                .unwrap_or(column)
                .as_str()
                .map(ToOwned::to_owned)
        })
        .collect::<Option<_>>()?;
    let rows = value.get("rows")?.as_array()?.clone();
    Some(Answer::of_objects(columns, rows))
}

fn host_and_port(address: &str) -> Result<(String, u16), UrlError> {
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
        None if rest.is_empty() => PORT,
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
            ("https://h", Err(UrlError::Scheme)),
            ("h:15480", Err(UrlError::Scheme)),
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
            assert_eq!(Server::parse(url, None, None), expected, "{url}");
        }
    }

    #[test]
    fn the_url_goes_before_options_and_environment() {
        let parsed = Server::parse("http://a:b@h", Some("c"), Some("d")).unwrap();
        assert_eq!(parsed, server("h", 15_480, Some("a"), Some("b")));
        let parsed = Server::parse("http://a@h", Some("c"), Some("d")).unwrap();
        assert_eq!(parsed, server("h", 15_480, Some("a"), Some("d")));
    }

    #[test]
    fn errors_keep_their_sqlstate_and_place() {
        let body = br#"{"sqlstate":"25006","message":"read only","position":7}"#;
        let RemoteError::Sql(error) = read(StatusCode::BAD_REQUEST, body).unwrap_err() else {
            panic!("expected an SQL error");
        };
        assert_eq!(
            (error.sqlstate.as_str(), error.position),
            ("25006", Some(7))
        );
        assert!(matches!(
            read(StatusCode::UNAUTHORIZED, b""),
            Err(RemoteError::Unauthorized)
        ));
        assert!(matches!(
            read(StatusCode::OK, b"<html>"),
            Err(RemoteError::Form(_))
        ));
    }
}
