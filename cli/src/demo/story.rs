//! What people do while the demo runs: a denial is explained, a grant asked for, approved and taken away again.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use counterfoil_entry::{Time, clock};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    app::Stage,
    forbidden::not_granted,
    plan::{Caller, ENTRY},
    provision::{APPROVER, Provisioned, REQUESTER},
};
use crate::{
    client::Server,
    console::{Console, chain, escaped},
    people::Door,
};

/// The grant of the story would end by itself a day later.
const GRANT_NS: i64 = 86_400 * 1_000_000_000;
/// A decision is in force within two polls; ten seconds are more than that.
const EFFECT_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The call that the story is about, and who speaks.
#[derive(Debug)]
pub(crate) struct Story {
    stage: Arc<Stage>,
    console: Arc<Console>,
    address: std::net::SocketAddr,
    requester: String,
    approver: String,
    caller: Caller,
    operation: usize,
}

impl Story {
    /// Nothing when there is no call to tell it of.
    pub(crate) fn new(
        files: &Provisioned,
        stage: &Arc<Stage>,
        console: &Arc<Console>,
    ) -> Option<Self> {
        // Recorded operations are called as they were recorded, and no more often.
        let is_entry = |operation: usize| {
            let operation = stage.system.operations.get(operation);
            operation.is_some_and(|operation| operation.endpoint == ENTRY)
        };
        // The first one is that of the calls that must stay denied.
        let (caller, operation) = not_granted(&stage.system)
            .skip(1)
            .find(|(_, operation)| is_entry(*operation))?;
        Some(Self {
            stage: Arc::clone(stage),
            console: Arc::clone(console),
            address: files.site.settings.ports.people,
            requester: files.requester.clone(),
            approver: files.approver.clone(),
            caller,
            operation,
        })
    }

    /// Tells the story once. A story that breaks off is no failure of the mesh, but it is told.
    ///
    /// # Errors
    /// When a decision had no effect in time, or control refused what it should not.
    pub(crate) async fn tell(self, time_up: CancellationToken) -> anyhow::Result<()> {
        let told = time_up.run_until_cancelled(self.acts()).await;
        match told {
            Some(Err(error)) => {
                self.console
                    .say(format_args!("the story broke off: {}", chain(&error)));
                Err(error.context("asking for, approving and revoking a grant"))
            }
            Some(Ok(())) | None => Ok(()),
        }
    }

    async fn acts(&self) -> anyhow::Result<()> {
        let system = &self.stage.system;
        let operation = system
            .operations
            .get(self.operation)
            .context("the operation of the story is gone")?;
        let (consumer, to) = (
            system.slug(self.caller),
            system.slug(Caller::Service(operation.service)),
        );
        let api = system
            .services
            .get(operation.service)
            .map_or("", |service| service.name.as_str());
        let (mut ines, mut tom) = (
            self.door(REQUESTER, &self.requester).await?,
            self.door(APPROVER, &self.approver).await?,
        );
        if self.call().await {
            bail!("a call without a grant was answered");
        }
        let explain = format!(
            "/v1/policy/explain?as={consumer}&to={to}&call={}",
            encoded(&format!("POST {}", operation.path))
        );
        let before = ines.get(&explain).await?;
        self.console.say(format_args!(
            "  {consumer} may not call {} of {to}: {}",
            escaped(&operation.endpoint),
            said(&before, "rule"),
        ));
        let expires = Time::from_ns(clock::wall().as_ns() + GRANT_NS);
        let request = json!({
            "consumer": consumer, "api": api, "operations": [operation.endpoint],
            "purpose": "tells a story", "ticket": "DEMO-STORY", "expires": expires.to_string(),
        });
        let asked = ines.post("/v1/grants", &request).await?;
        let id = said(&asked, "grant_id");
        self.console.say(format_args!(
            "  {REQUESTER} asks for it: grant {id}, until {}",
            said(&asked, "expires")
        ));
        if ines
            .post(&format!("/v1/grants/{id}/approve"), &json!({}))
            .await
            .is_ok()
        {
            bail!("somebody approved what she had asked for herself");
        }
        tom.post(
            &format!("/v1/grants/{id}/approve"),
            &json!({ "comment": "as agreed" }),
        )
        .await?;
        let after_ms = self.until(true).await?;
        self.console.say(format_args!(
            "  {APPROVER}, whose team owns {api}, approves it (she may not): allowed {after_ms} ms later"
        ));
        let taken = json!({ "comment": "the story ends", "ticket": "DEMO-STORY" });
        tom.post(&format!("/v1/grants/{id}/revoke"), &taken).await?;
        let after_ms = self.until(false).await?;
        self.console.say(format_args!(
            "  {APPROVER} takes it away: denied {after_ms} ms later"
        ));
        Ok(())
    }

    /// Calls until it is answered as wanted; gives how long that took (ms).
    async fn until(&self, wanted: bool) -> anyhow::Result<u64> {
        let from_ns = clock::mono_ns();
        let trying = async {
            while self.call().await != wanted {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(EFFECT_MAX, trying).await.is_err() {
            bail!(
                "the decision had no effect within {} s",
                EFFECT_MAX.as_secs()
            );
        }
        Ok((clock::mono_ns() - from_ns) / 1_000_000)
    }

    async fn call(&self) -> bool {
        self.stage.once(self.caller, self.operation).await
    }

    async fn door(&self, person: &str, password: &str) -> anyhow::Result<Door> {
        let server = Server {
            encrypted: false,
            host: self.address.ip().to_string(),
            port: self.address.port(),
            user: Some(person.to_owned()),
            password: Some(password.to_owned()),
        };
        Door::connect(&server, None)
            .await
            .with_context(|| format!("knocking at control's door for people as {person}"))
    }
}

/// Text of an answer, fit for a terminal.
fn said(answer: &Value, key: &str) -> String {
    answer
        .get(key)
        .and_then(Value::as_str)
        .map(escaped)
        .unwrap_or_default()
}

/// A text as a value in a query (RFC 3986).
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_value_of_a_query() {
        assert_eq!(encoded("POST /a b&c=é"), "POST%20%2Fa%20b%26c%3D%C3%A9");
    }
}
