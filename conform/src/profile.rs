//! A target described in a TOML file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use counterfoil_trust::{SpiffeId, TrustRoots};
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::app::{App, Fault};
use crate::books::Books;
use crate::collector::{Receiver, SqlBooks, Stored};
use crate::material::{Bad, Ca, Material, Pem, Source};
use crate::outbound::{Impostor, Outbound};
use crate::rig::{Call, Calls, Rig, Target};
use crate::sql::Server;
use crate::tokens::{Terms, Tokens};

/// A target and what checks need to know of it. Keys that are not listed are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Who must answer.
    pub spiffe_id: String,
    /// PEM certificates of the trust domain's roots.
    pub roots_file: PathBuf,
    /// The caller that holds the grant.
    client: Client,
    calls: CallsPart,
    app: Option<AppPart>,
    outbound: Option<OutboundPart>,
    tokens: Option<TokensPart>,
    books: Option<BooksPart>,
    collector: Option<CollectorPart>,
    /// Files and folders in which no secret may stand.
    #[serde(default)]
    logs: Vec<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Client {
    spiffe_id: String,
    ca_cert_file: Option<PathBuf>,
    ca_key_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    #[serde(default)]
    bad: BTreeMap<String, PemFiles>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PemFiles {
    cert_file: PathBuf,
    key_file: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CallsPart {
    host: String,
    allowed: String,
    upload: String,
    denied: String,
    undeclared: String,
    reset: Option<String>,
    hang: Option<String>,
    timeout_s: Option<u64>,
    shadow: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppPart {
    listen: SocketAddr,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutboundPart {
    address: String,
    host: String,
    impostor_host: Option<String>,
    impostor_listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensPart {
    key_file: PathBuf,
    kid: Option<String>,
    issuer: String,
    api: String,
    scope: String,
    call: String,
    revoked_jti: Option<String>,
    leeway_s: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct BooksPart {
    url: String,
    user: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectorPart {
    address: String,
    spiffe_id: Option<String>,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The profile is not TOML, or a key is missing, unknown or of another type.
    #[error("{}: {detail}", path.display())]
    Malformed {
        /// The profile.
        path: PathBuf,
        /// Line, key and what was expected.
        detail: String,
    },
    /// A value is not what it must be.
    #[error("{}: {key} = {value}: must be {expected}", path.display())]
    Value {
        /// The profile.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The value as written.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A port of the profile cannot be listened on.
    #[error("{}: {key} = {address}: cannot listen there", path.display())]
    Listen {
        /// The profile.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A value that is not what it must be.
struct Wrong {
    key: &'static str,
    value: String,
    expected: &'static str,
}

fn wrong(key: &'static str, value: impl ToString, expected: &'static str) -> Wrong {
    Wrong {
        key,
        value: value.to_string(),
        expected,
    }
}

/// Reads what a profile names. Paths are relative to the profile's own folder.
struct Reader<'a> {
    path: &'a Path,
}

impl Reader<'_> {
    fn text(&self, file: &Path) -> Result<String, ProfileError> {
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        let path = folder.join(file);
        std::fs::read_to_string(&path).map_err(|source| ProfileError::Unreadable { path, source })
    }

    fn folder(&self, file: &Path) -> PathBuf {
        self.path
            .parent()
            .unwrap_or_else(|| Path::new("."))
            .join(file)
    }

    fn refuse(&self, wrong: Wrong) -> ProfileError {
        ProfileError::Value {
            path: self.path.to_owned(),
            key: wrong.key,
            value: wrong.value,
            expected: wrong.expected,
        }
    }

    fn id(&self, key: &'static str, text: &str) -> Result<SpiffeId, ProfileError> {
        SpiffeId::parse(text).map_err(|_| self.refuse(wrong(key, text, "a SPIFFE id")))
    }

    fn call(&self, key: &'static str, text: &str) -> Result<Call, ProfileError> {
        let expected = "a method and a path, as in GET /accounts/1";
        Call::parse(text).ok_or_else(|| self.refuse(wrong(key, text, expected)))
    }

    fn call_opt(
        &self,
        key: &'static str,
        text: Option<&String>,
    ) -> Result<Option<Call>, ProfileError> {
        text.map(|text| self.call(key, text)).transpose()
    }
}

impl Profile {
    /// Reads the file and everything that it names, and listens where the tool plays a part.
    ///
    /// `address` is the target's `host:port`; `password` is the one of the books' user.
    ///
    /// # Errors
    /// [`ProfileError`] names the file and the key.
    pub async fn load(
        path: &Path,
        address: &str,
        password: Option<&str>,
    ) -> Result<Rig, ProfileError> {
        let reader = Reader { path };
        let text = std::fs::read_to_string(path).map_err(|source| ProfileError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let profile: Self = toml::from_str(&text).map_err(|error| ProfileError::Malformed {
            path: path.to_owned(),
            detail: error.to_string().trim_end().to_owned(),
        })?;
        let roots = reader.text(&profile.roots_file)?;
        let roots = TrustRoots::from_pem(&roots).map_err(|_| {
            let file = profile.roots_file.display();
            reader.refuse(wrong("roots_file", file, "a file of PEM certificates"))
        })?;
        let calls = profile.calls.read(&reader)?;
        let books = profile.books(&reader, password)?;
        let receiver = match (&profile.collector, &books) {
            (Some(part), Some(server)) => Some(Receiver {
                address: part.address.clone(),
                spiffe_id: part
                    .spiffe_id
                    .as_deref()
                    .map(|text| reader.id("collector.spiffe_id", text))
                    .transpose()?,
                stored: Stored::Sql(SqlBooks(server.clone())),
            }),
            _ => None,
        };
        Ok(Rig {
            name: address.to_owned(),
            target: Target {
                address: address.to_owned(),
                spiffe_id: reader.id("spiffe_id", &profile.spiffe_id)?,
                host: profile.calls.host.clone(),
            },
            material: profile.client.material(&reader, roots)?,
            app: profile.app(&reader, &calls).await?,
            calls,
            books: books.map(Books::Sql),
            logs: profile
                .logs
                .iter()
                .map(|file| reader.folder(file))
                .collect(),
            tokens: profile.tokens(&reader)?,
            outbound: profile.outbound(&reader).await?,
            receiver,
        })
    }

    fn books(
        &self,
        reader: &Reader<'_>,
        password: Option<&str>,
    ) -> Result<Option<Server>, ProfileError> {
        let Some(part) = &self.books else {
            return Ok(None);
        };
        let expected = "http://[user@]host:port; the password is PGPASSWORD";
        Server::parse(&part.url, part.user.as_deref(), password)
            .map(Some)
            .ok_or_else(|| reader.refuse(wrong("books.url", &part.url, expected)))
    }

    async fn app(&self, reader: &Reader<'_>, calls: &Calls) -> Result<Option<App>, ProfileError> {
        let Some(part) = &self.app else {
            return Ok(None);
        };
        let fault =
            |call: &Option<Call>, fault| call.as_ref().map(|call| (call.path.clone(), fault));
        let faults = fault(&calls.reset, Fault::Reset)
            .into_iter()
            .chain(fault(&calls.hang, Fault::Hang))
            .collect();
        let app = App::start(part.listen, faults).await;
        app.map(Some).map_err(|source| ProfileError::Listen {
            path: reader.path.to_owned(),
            key: "app.listen",
            address: part.listen,
            source,
        })
    }

    async fn outbound(&self, reader: &Reader<'_>) -> Result<Option<Outbound>, ProfileError> {
        let Some(part) = &self.outbound else {
            return Ok(None);
        };
        let impostor = match (&part.impostor_host, part.impostor_listen) {
            (Some(host), Some(address)) => {
                let listener = TcpListener::bind(address).await;
                let listener = listener.map_err(|source| ProfileError::Listen {
                    path: reader.path.to_owned(),
                    key: "outbound.impostor_listen",
                    address,
                    source,
                })?;
                Some(Impostor {
                    host: host.clone(),
                    listener,
                })
            }
            (None, None) => None,
            _ => {
                let expected = "given together with outbound.impostor_listen, or not at all";
                let key = "outbound.impostor_host";
                let host = part.impostor_host.clone().unwrap_or_default();
                return Err(reader.refuse(wrong(key, host, expected)));
            }
        };
        Ok(Some(Outbound {
            address: part.address.clone(),
            host: part.host.clone(),
            impostor,
        }))
    }

    fn tokens(&self, reader: &Reader<'_>) -> Result<Option<Tokens>, ProfileError> {
        let Some(part) = &self.tokens else {
            return Ok(None);
        };
        let key = reader.text(&part.key_file)?;
        let terms = Terms {
            kid: part.kid.clone(),
            issuer: part.issuer.clone(),
            api: part.api.clone(),
            scope: part.scope.clone(),
            call: reader.call("tokens.call", &part.call)?,
            revoked: part.revoked_jti.clone(),
            leeway_s: part.leeway_s,
        };
        Tokens::new(&key, terms).map(Some).map_err(|_| {
            let expected = "a file with a P-256 private key in PKCS#8 PEM";
            reader.refuse(wrong("tokens.key_file", part.key_file.display(), expected))
        })
    }
}

impl CallsPart {
    fn read(&self, reader: &Reader<'_>) -> Result<Calls, ProfileError> {
        Ok(Calls {
            allowed: reader.call("calls.allowed", &self.allowed)?,
            upload: reader.call("calls.upload", &self.upload)?,
            denied: reader.call("calls.denied", &self.denied)?,
            undeclared: reader.call("calls.undeclared", &self.undeclared)?,
            reset: reader.call_opt("calls.reset", self.reset.as_ref())?,
            hang: reader.call_opt("calls.hang", self.hang.as_ref())?,
            shadow: reader.call_opt("calls.shadow", self.shadow.as_ref())?,
            timeout_s: self.timeout_s,
        })
    }
}

impl Client {
    fn material(&self, reader: &Reader<'_>, roots: TrustRoots) -> Result<Material, ProfileError> {
        let spiffe_id = reader.id("client.spiffe_id", &self.spiffe_id)?;
        let source = match (
            &self.ca_cert_file,
            &self.ca_key_file,
            &self.cert_file,
            &self.key_file,
        ) {
            (Some(cert), Some(key), None, None) => {
                let ca = Ca::read(&reader.text(cert)?, &reader.text(key)?).map_err(|_| {
                    let expected = "a CA's certificate, with its key in client.ca_key_file";
                    reader.refuse(wrong("client.ca_cert_file", cert.display(), expected))
                })?;
                Source::Ca(Box::new(ca))
            }
            (None, None, Some(cert), Some(key)) => Source::Ready {
                good: Pem {
                    chain: reader.text(cert)?,
                    key: reader.text(key)?,
                },
                bad: self.ready(reader)?,
            },
            _ => {
                let expected = "either ca_cert_file and ca_key_file, or cert_file and key_file";
                return Err(reader.refuse(wrong("client", &self.spiffe_id, expected)));
            }
        };
        Ok(Material {
            spiffe_id,
            roots,
            source,
        })
    }

    fn ready(&self, reader: &Reader<'_>) -> Result<BTreeMap<String, Pem>, ProfileError> {
        let mut ready = BTreeMap::new();
        for (name, files) in &self.bad {
            if !Bad::ALL.iter().any(|bad| bad.name() == name) {
                let expected = "foreign, self_signed, expired, not_yet_valid, wrong_domain, \
                                no_identity, two_identities, server_only or is_ca";
                return Err(reader.refuse(wrong("client.bad", name, expected)));
            }
            let pem = Pem {
                chain: reader.text(&files.cert_file)?,
                key: reader.text(&files.key_file)?,
            };
            ready.insert(name.clone(), pem);
        }
        Ok(ready)
    }
}
