//! Log-in: SCRAM-SHA-256 against the users' verifiers, then the parameters that drivers expect.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{Sink, SinkExt};
use pgwire::api::auth::{
    ServerParameterProvider, StartupHandler, finish_authentication, protocol_negotiation,
    save_startup_parameters_to_metadata,
};
use pgwire::api::{
    ClientInfo, METADATA_APPLICATION_NAME, METADATA_DATABASE, METADATA_USER, PgWireConnectionState,
};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::startup::{Authentication, PasswordMessageFamily, SecretKey};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::Server;
use super::session::Session;
use crate::catalogue::DATABASE;
use crate::log::Asker;
use crate::settings::{REPORTED, defaults};
use counterfoil_trust::scram::Exchange;

const METHOD: &str = "SCRAM-SHA-256";
/// Longest SCRAM message that is read (bytes).
const MESSAGE_BYTES_MAX: usize = 4096;

/// The log-in of one connection.
pub(crate) struct Login {
    server: Arc<Server>,
    exchange: Mutex<Option<Exchange>>,
    /// Cancelled when the log-in is done.
    done: CancellationToken,
}

impl Login {
    pub(crate) fn new(server: Arc<Server>, done: CancellationToken) -> Self {
        Self {
            server,
            exchange: Mutex::new(None),
            done,
        }
    }

    async fn proof<C>(&self, client: &mut C, message: PasswordMessageFamily) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let user = client
            .metadata()
            .get(METADATA_USER)
            .cloned()
            .unwrap_or_default();
        let mut exchange = self.exchange.lock().await;
        let answer = match exchange.take() {
            None => {
                let first = message.into_sasl_initial_response()?;
                if first.auth_method != METHOD {
                    return Err(fatal("28000", "only SCRAM-SHA-256 is offered"));
                }
                let data = first.data.unwrap_or_default();
                let (_, verifier) = self.server.users.find(&user);
                let (begun, answer) = Exchange::begin(verifier, text(&data)?)
                    .map_err(|_| fatal("08P01", "malformed SCRAM message"))?;
                *exchange = Some(begun);
                Authentication::SASLContinue(answer.into())
            }
            Some(begun) => {
                let last = message.into_sasl_response()?;
                let answer = begun
                    .finish(text(&last.data)?)
                    .map_err(|_| wrong_password(&user))?;
                Authentication::SASLFinal(answer.into())
            }
        };
        let done = matches!(answer, Authentication::SASLFinal(_));
        client
            .send(PgWireBackendMessage::Authentication(answer))
            .await?;
        if done {
            self.welcome(client, &user).await
        } else {
            Ok(())
        }
    }

    async fn welcome<C>(&self, client: &mut C, user: &str) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let (found, _) = self.server.users.find(user);
        let found = found.ok_or_else(|| wrong_password(user))?;
        let database = client
            .metadata()
            .get(METADATA_DATABASE)
            .map_or(user, String::as_str);
        if database != DATABASE {
            return Err(fatal(
                "3D000",
                &format!("database \"{database}\" does not exist; it is {DATABASE}"),
            ));
        }
        let asker = Asker {
            principal: found.name.clone(),
            role: found.role.as_str().to_owned(),
            endpoint: "postgres",
            peer_address: client.socket_addr().ip().to_string(),
            purpose: None,
        };
        let application = client
            .metadata()
            .get(METADATA_APPLICATION_NAME)
            .map(String::as_str);
        let session = Arc::new(Session::new(asker, found.role, application));
        let key = match client.protocol_version() {
            ProtocolVersion::PROTOCOL3_0 => SecretKey::I32(rand::random()),
            _ => SecretKey::Bytes(rand::random::<[u8; 32]>().to_vec().into()),
        };
        let number = self.server.sessions.number();
        self.server
            .sessions
            .add(number, key.to_bytes().to_vec(), &session);
        client.set_pid_and_secret_key(number, key);
        client.session_extensions().insert::<Arc<Session>>(session);
        self.done.cancel();
        finish_authentication(client, &Parameters).await
    }
}

#[async_trait]
impl StartupHandler for Login {
    async fn on_startup<C>(
        &self,
        client: &mut C,
        message: PgWireFrontendMessage,
    ) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match message {
            PgWireFrontendMessage::Startup(startup) => {
                protocol_negotiation(client, &startup).await?;
                save_startup_parameters_to_metadata(client, &startup);
                if self.server.tls_required && !client.is_secure() {
                    return Err(fatal(
                        "28000",
                        "this server takes connections over TLS only: set sslmode=verify-full",
                    ));
                }
                client.set_state(PgWireConnectionState::AuthenticationInProgress);
                let methods = Authentication::SASL(vec![METHOD.to_owned()]);
                client
                    .send(PgWireBackendMessage::Authentication(methods))
                    .await?;
                Ok(())
            }
            PgWireFrontendMessage::PasswordMessageFamily(message) => {
                self.proof(client, message).await
            }
            _ => Err(fatal("08P01", "expected a log-in")),
        }
    }
}

fn text(data: &[u8]) -> PgWireResult<&str> {
    Some(data)
        .filter(|data| data.len() <= MESSAGE_BYTES_MAX)
        .and_then(|data| std::str::from_utf8(data).ok())
        .ok_or_else(|| fatal("08P01", "malformed SCRAM message"))
}

fn fatal(sqlstate: &str, message: &str) -> PgWireError {
    let info = ErrorInfo::new("FATAL".to_owned(), sqlstate.to_owned(), message.to_owned());
    PgWireError::UserError(Box::new(info))
}

fn wrong_password(user: &str) -> PgWireError {
    fatal(
        "28P01",
        &format!("password authentication failed for user \"{user}\""),
    )
}

/// The parameters that are told at the start.
struct Parameters;

impl ServerParameterProvider for Parameters {
    fn server_parameters<C>(&self, client: &C) -> Option<HashMap<String, String>>
    where
        C: ClientInfo,
    {
        let user = client
            .metadata()
            .get(METADATA_USER)
            .map_or("", String::as_str);
        let mut settings = defaults(user);
        if let Some(application) = client.metadata().get(METADATA_APPLICATION_NAME) {
            settings.insert("application_name".to_owned(), application.clone());
        }
        let value = |name: &&str| {
            let value = settings.get(&name.to_ascii_lowercase())?;
            Some(((*name).to_owned(), value.clone()))
        };
        Some(REPORTED.iter().filter_map(value).collect())
    }
}
