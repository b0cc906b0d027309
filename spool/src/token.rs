//! How a process comes by its access tokens: a light client of control's token endpoint.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use counterfoil_trust::{Expect, Identity, SpiffeId, client_config, token};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::client::{ALPN, Ask, ClientError, Connection};
use crate::join::{JoinError, accepted, default_control_id};

/// Longest wait for a token: calls wait for it.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(5);

/// A token as control gave it, and for how long it is good.
pub struct AccessToken {
    /// What `Authorization` shows, `Bearer` and the token: marked as sensitive.
    pub authorization: HeaderValue,
    /// Its life from now on.
    pub expires_in: Duration,
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // never the token
        write!(f, "AccessToken({:?})", self.expires_in)
    }
}

/// The whole answer of control (RFC 6749 5.1).
#[derive(Deserialize, Serialize)]
pub struct TokenAnswer {
    /// The token: whoever shows it under the certificate to which it is bound may call.
    pub access_token: String,
    /// Always `Bearer`.
    pub token_type: String,
    /// Its life from now on (s).
    pub expires_in: u64,
    /// The operations that it names, as its claim `scope` has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // never the token
        f.debug_struct("TokenAnswer")
            .field("expires_in", &self.expires_in)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// Asks control for a token with which `identity` may call the operations of `api` that are granted
/// to it. The token is bound to the SVID in use: see [`Identity::pinned`].
///
/// `control_id` defaults as in [`crate::join::IdentityConfig`]. Cancel safe.
///
/// # Errors
/// As [`ask_for_token`].
pub async fn fetch_token(
    identity: &Identity,
    control: &str,
    control_id: Option<&SpiffeId>,
    api: &str,
) -> Result<AccessToken, JoinError> {
    let answer = ask_for_token(identity, control, control_id, api, &[]).await?;
    bearer(&answer).ok_or_else(|| no_token(control))
}

/// Asks control for a token of `identity` for `api` (RFC 6749 4.4, RFC 8707): for these operations,
/// or for all that are granted when none are named.
///
/// `control_id` defaults as in [`crate::join::IdentityConfig`]. Cancel safe.
///
/// # Errors
/// [`JoinError::Refused`] with status 400 when control gives this workload none, else as for
/// bundles. No error holds anything of a token.
pub async fn ask_for_token(
    identity: &Identity,
    control: &str,
    control_id: Option<&SpiffeId>,
    api: &str,
    operations: &[&str],
) -> Result<TokenAnswer, JoinError> {
    let path = "/v1/token";
    let expect = match control_id {
        Some(id) => id.clone(),
        None => default_control_id(identity.current().spiffe_id())?,
    };
    let tls = client_config(identity, Expect::Id(expect), ALPN);
    let mut headers = HeaderMap::new();
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(CONTENT_TYPE, form);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let asked = timeout(TOKEN_TIMEOUT, async {
        let mut connection = Connection::open(control, tls).await?;
        connection
            .ask(Ask {
                method: "POST",
                path,
                headers,
                body: Bytes::from(request(api, operations)),
            })
            .await
    });
    let reply = asked
        .await
        .unwrap_or(Err(ClientError::Timeout))
        .map_err(|error| JoinError::of_client(control, &error))?;
    let reply = accepted(path, reply)?;
    read(&reply.body).ok_or_else(|| no_token(control))
}

fn request(api: &str, operations: &[&str]) -> String {
    // a scope's encoding leaves nothing that a form would read otherwise
    let resource = token::scope([api]);
    let mut form = format!("grant_type=client_credentials&resource={resource}");
    if !operations.is_empty() {
        let scope = token::scope(operations.iter().copied());
        // the form's encoding lies over the scope's own, which the claim keeps
        let scope = scope.replace('%', "%25").replace(' ', "+");
        form.push_str("&scope=");
        form.push_str(&scope);
    }
    form
}

fn no_token(control: &str) -> JoinError {
    JoinError::Unreachable {
        control: control.to_owned(),
        // the cause could quote the token
        cause: "what it answered is no token".to_owned(),
    }
}

fn read(body: &[u8]) -> Option<TokenAnswer> {
    let answer: TokenAnswer = serde_json::from_slice(body).ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_token = !answer.access_token.is_empty() && answer.access_token.bytes().all(is_plain);
    (is_token && answer.token_type.eq_ignore_ascii_case("Bearer")).then_some(answer)
}

fn bearer(answer: &TokenAnswer) -> Option<AccessToken> {
    let text = format!("Bearer {}", answer.access_token);
    let mut authorization = HeaderValue::from_str(&text).ok()?;
    authorization.set_sensitive(true);
    Some(AccessToken {
        authorization,
        expires_in: Duration::from_secs(answer.expires_in),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_and_never_shown() {
        let body =
            br#"{"access_token":"a.b-c.d_e","token_type":"bearer","expires_in":60,"scope":"x"}"#;
        let answer = read(body).unwrap();
        let token = bearer(&answer).unwrap();
        assert_eq!(token.authorization, "Bearer a.b-c.d_e");
        assert_eq!(token.expires_in, Duration::from_secs(60));
        let shown = format!("{answer:?} {token:?} {:?}", token.authorization);
        assert!(!shown.contains("a.b-c"), "{shown}");
    }

    #[test]
    fn what_is_no_bearer_token_is_none() {
        for body in [
            "",
            "{}",
            r#"{"access_token":"","token_type":"Bearer","expires_in":60}"#,
            r#"{"access_token":"a b","token_type":"Bearer","expires_in":60}"#,
            r#"{"access_token":"a.b.c","token_type":"DPoP","expires_in":60}"#,
            r#"{"access_token":"a.b.c","token_type":"Bearer","expires_in":-1}"#,
            r#"{"access_token":"a.b.c","token_type":"Bearer"}"#,
        ] {
            assert!(read(body.as_bytes()).is_none(), "{body}");
        }
    }

    #[test]
    fn operations_are_encoded_as_in_the_claim_and_then_as_in_a_form() {
        assert_eq!(
            request("pay ments", &[]),
            "grant_type=client_credentials&resource=pay%20ments"
        );
        let form = request("payments", &["listPayments", "shop.Cart/Get"]);
        let (_, scope) = form.split_once("&scope=").unwrap();
        assert_eq!(scope, "listPayments+shop.Cart%252FGet");
    }
}
