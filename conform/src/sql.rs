//! The SQL endpoint over HTTP, as an auditor asks it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;

const ASK_LIMIT: Duration = Duration::from_secs(20);
/// Checks ask for single rows.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A server, and who asks it.
#[derive(Clone)]
pub(crate) struct Server {
    address: String,
    login: Option<String>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.address).finish()
    }
}

/// A statement that got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SqlError {
    /// The server cannot be reached, or broke off.
    #[error("asking {address}: {cause}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        cause: String,
    },
    /// The server refused the statement or the user.
    #[error("the SQL endpoint answered {status}: {detail}")]
    Refused {
        /// Its status.
        status: u16,
        /// Its words.
        detail: String,
    },
}

impl Server {
    /// Reads `http://[user@]host:port`; the password comes from elsewhere.
    pub(crate) fn parse(url: &str, user: Option<&str>, password: Option<&str>) -> Option<Self> {
        let rest = url.strip_prefix("http://")?.trim_end_matches('/');
        let (named, address) = match rest.rsplit_once('@') {
            Some((named, address)) => (Some(named), address),
            None => (None, rest),
        };
        let (host, port) = address.rsplit_once(':')?;
        if host.is_empty() || port.parse::<u16>().is_err() || named.is_some_and(|n| n.contains(':'))
        {
            return None;
        }
        let login = named
            .or(user)
            .map(|user| format!("{user}:{}", password.unwrap_or_default()));
        Some(Self {
            address: address.to_owned(),
            login,
        })
    }

    /// The rows of one statement, each an object.
    pub(crate) async fn ask(&self, sql: &str) -> Result<Vec<Map<String, Value>>, SqlError> {
        let failed = |cause: String| SqlError::Unreachable {
            address: self.address.clone(),
            cause,
        };
        let asked = tokio::time::timeout(ASK_LIMIT, self.post(sql)).await;
        let (status, body) = match asked {
            Ok(asked) => asked.map_err(|error| failed(error.to_string()))?,
            Err(_elapsed) => return Err(failed("no answer in time".to_owned())),
        };
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let rows = value.get("rows").and_then(Value::as_array);
        match rows {
            Some(rows) if status == 200 => {
                Ok(rows.iter().filter_map(Value::as_object).cloned().collect())
            }
            _ => Err(SqlError::Refused {
                status,
                detail: value
                    .get("message")
                    .and_then(Value::as_str)
                    .unwrap_or("no rows")
                    .to_owned(),
            }),
        }
    }

    async fn post(
        &self,
        sql: &str,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(connection);
        let mut request = http::Request::post("/v1/sql")
            .header(HOST, &self.address)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json");
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(login)));
        }
        let body = Full::new(Bytes::from(json!({ "sql": sql }).to_string()));
        let answer = sender.send_request(request.body(body)?).await?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await?
            .to_bytes();
        driving.abort();
        Ok((status, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_port_and_user_but_no_password() {
        let server = Server::parse("http://auditor@127.0.0.1:15480", None, Some("pw")).unwrap();
        assert_eq!(server.login.as_deref(), Some("auditor:pw"));
        assert_eq!(format!("{server:?}"), "Server(\"127.0.0.1:15480\")");
        for bad in [
            "https://h:1",
            "http://h",
            "http://a:b@h:1",
            "http://:1",
            "h:1",
        ] {
            assert!(Server::parse(bad, None, None).is_none(), "{bad}");
        }
    }
}
