//! How a process comes by its SVID and its bundle: a light client of control.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use counterfoil_entry::{Hash, clock};
use counterfoil_trust::{
    Expect, Identity, SpiffeId, SpiffeIdError, Svid, SvidError, TrustRoots, client_config,
    client_config_without_svid,
};
use http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use rcgen::{CertificateParams, KeyPair, SanType};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, fraction};
use crate::client::{ALPN, Ask, ClientError, Connection, Reply};

/// Name of the kept SVID in `state_dir`.
const KEPT_FILE: &str = "svid.json";
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A kept SVID that expires sooner than this is not begun with.
const USABLE_NS: i64 = 60 * 1_000_000_000;
/// Room for control to hold a long poll open, and for the answer.
const BUNDLE_TIMEOUT: Duration = Duration::from_secs(25);

/// Who this process is, and where it gets its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// Own SPIFFE id.
    pub spiffe_id: String,
    /// `host:port` of control.
    pub control: String,
    /// Control's SPIFFE id; by default `/counterfoil/control` of the own trust domain.
    #[serde(default)]
    pub control_spiffe_id: Option<String>,
    /// File with the trust domain's roots in PEM, by which control is believed.
    pub roots_pem_file: PathBuf,
    /// File with the join token; needed until the first SVID is there.
    #[serde(default)]
    pub join_token_file: Option<PathBuf>,
    /// Folder in which key and certificates are kept, readable by the owner only.
    pub state_dir: PathBuf,
}

/// Why no SVID or bundle could be had.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// An id in the configuration is malformed.
    #[error("cannot use a SPIFFE id of the configuration")]
    Id(#[from] SpiffeIdError),
    /// A file could not be read or written.
    #[error("cannot read or write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Roots, certificate or key cannot be used.
    #[error("cannot use the certificates in {place}")]
    Svid {
        /// Where they come from.
        place: String,
        /// The cause.
        #[source]
        source: SvidError,
    },
    /// No certificate request could be made.
    #[error("cannot make a certificate request")]
    Request(#[from] rcgen::Error),
    /// Control could not be reached or broke off.
    #[error("cannot talk to control at {control}: {cause}")]
    Unreachable {
        /// Its address.
        control: String,
        /// The cause, as text.
        cause: String,
    },
    /// Control says no, and would say so again.
    #[error("control refuses {path} with status {status}: {detail}")]
    Refused {
        /// What was asked for.
        path: &'static str,
        /// HTTP status.
        status: u16,
        /// Control's own words.
        detail: String,
    },
    /// There is neither a usable SVID nor a token to get one with.
    #[error("no usable SVID is kept in {0}, and no join_token_file is configured")]
    NoToken(PathBuf),
}

impl JoinError {
    /// Whether trying again may help.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}

#[derive(Serialize)]
struct SvidRequest<'a> {
    csr: String,
    spiffe_id: &'a str,
}

#[derive(Deserialize)]
struct SvidAnswer {
    chain: String,
    roots: String,
}

/// Gets an identity: the one kept in `state_dir` when it is still good, so that a restart does not
/// need control; else a new one by the join token. Tries until control answers.
///
/// Cancel safe.
///
/// # Errors
/// [`JoinError`] when control refuses for good or a file cannot be used.
pub async fn join(config: &IdentityConfig) -> Result<Identity, JoinError> {
    if let Some(identity) = kept(config)? {
        return Ok(identity);
    }
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
    loop {
        match ask_for_svid(config, None).await {
            Ok((svid, roots)) => return Ok(Identity::new(svid, roots)),
            Err(error) if error.is_passing() => {
                tracing::warn!(%error, "waits for control to get an SVID");
                sleep(backoff.next()).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Renews the identity's SVID between 45 and 55 % of its life, until `shutdown`. While control is
/// away the old one stays in use and renewal is tried again and again.
///
/// Cancel safe.
pub async fn renew_loop(identity: Identity, config: IdentityConfig, shutdown: CancellationToken) {
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
    let mut wait = until_renewal(&identity.current());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(wait) => {}
        }
        let is_expired = identity.current().not_after() <= clock::wall();
        let by = (!is_expired).then_some(&identity);
        match ask_for_svid(&config, by).await {
            Ok((svid, _)) => {
                tracing::info!(serial = svid.serial(), not_after = %svid.not_after(), "SVID renewed");
                wait = until_renewal(&svid);
                identity.replace(svid);
                backoff.reset();
            }
            Err(error) => {
                tracing::warn!(%error, is_expired, "cannot renew the SVID; it is tried again");
                wait = backoff.next();
            }
        }
    }
}

fn until_renewal(svid: &Svid) -> Duration {
    let life_ns = svid.not_after().since_ns(svid.not_before());
    #[expect(clippy::cast_precision_loss, reason = "a moment in a range of hours")]
    let life = Duration::from_secs_f64(life_ns.max(0) as f64 / 1e9);
    let gone = clock::wall().since_ns(svid.not_before()).max(0);
    let gone = Duration::from_nanos(u64::try_from(gone).unwrap_or(0));
    life.mul_f64(0.1f64.mul_add(fraction(), 0.45))
        .saturating_sub(gone)
}

/// What to tell control when asking for the bundle.
#[derive(Debug, Clone, Default)]
pub struct BundleQuery {
    /// `ETag` of the bundle in force.
    pub etag: Option<String>,
    /// Epoch of the asking process.
    pub epoch: u64,
    /// The bundle that is in force.
    pub applied: Option<Hash>,
    /// Build of the asking process.
    pub build: String,
}

/// A bundle as it was served; its signatures are not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedBundle {
    /// The body, for `counterfoil_trust::bundle`.
    pub body: Bytes,
    /// Its `ETag`.
    pub etag: Option<String>,
}

/// Asks control for the bundle of this identity; `None` when the one in force is still the newest.
///
/// `control_id` defaults as in [`IdentityConfig`]. Cancel safe.
///
/// # Errors
/// [`JoinError::Unreachable`] and [`JoinError::Refused`]; keep serving from the bundle in force.
pub async fn fetch_bundle(
    identity: &Identity,
    control: &str,
    control_id: Option<&SpiffeId>,
    query: &BundleQuery,
) -> Result<Option<FetchedBundle>, JoinError> {
    let path = "/v1/proxy/bundle";
    let expect = match control_id {
        Some(id) => id.clone(),
        None => default_control_id(identity.current().spiffe_id())?,
    };
    let tls = client_config(identity, Expect::Id(expect), ALPN);
    let mut headers = HeaderMap::new();
    let texts = [
        ("mesh-epoch", Some(query.epoch.to_string())),
        ("mesh-applied", query.applied.map(|hash| hash.to_string())),
        ("mesh-build", Some(query.build.clone())),
        (IF_NONE_MATCH.as_str(), query.etag.clone()),
    ];
    for (name, text) in texts {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(name, value);
        }
    }
    let asked = timeout(BUNDLE_TIMEOUT, async {
        let mut connection = Connection::open(control, tls).await?;
        connection
            .ask(Ask {
                method: "GET",
                path,
                headers,
                body: Bytes::new(),
            })
            .await
    });
    let reply = match asked.await {
        Ok(asked) => asked.map_err(|error| unreachable(control, &error))?,
        Err(_) => return Err(unreachable(control, &ClientError::Timeout)),
    };
    if reply.status == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    let reply = accepted(path, reply)?;
    let etag = reply
        .headers
        .get(ETAG)
        .and_then(|etag| etag.to_str().ok())
        .map(str::to_owned);
    Ok(Some(FetchedBundle {
        body: reply.body,
        etag,
    }))
}

pub(crate) fn default_control_id(own: &SpiffeId) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::parse(&format!(
        "spiffe://{}/counterfoil/control",
        own.trust_domain()
    ))
}

/// Asks control to certify a new key: as `identity`, or by the join token.
async fn ask_for_svid(
    config: &IdentityConfig,
    identity: Option<&Identity>,
) -> Result<(Svid, TrustRoots), JoinError> {
    let path = "/v1/svid";
    let own = SpiffeId::parse(&config.spiffe_id)?;
    let control_id = match &config.control_spiffe_id {
        Some(id) => SpiffeId::parse(id)?,
        None => default_control_id(&own)?,
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let tls = match identity {
        Some(identity) => client_config(identity, Expect::Id(control_id), ALPN),
        None => {
            headers.insert(AUTHORIZATION, token(config)?);
            client_config_without_svid(&configured_roots(config)?, control_id, ALPN)
        }
    };
    let key = KeyPair::generate()?;
    let csr = certificate_request(&own, &key)?;
    let body = serde_json::to_vec(&SvidRequest {
        csr,
        spiffe_id: own.as_str(),
    })
    .map_err(|error| unreachable(&config.control, &error))?;
    let mut connection = Connection::open(&config.control, tls)
        .await
        .map_err(|error| unreachable(&config.control, &error))?;
    let ask = Ask {
        method: "POST",
        path,
        headers,
        body: Bytes::from(body),
    };
    let reply = connection
        .ask(ask)
        .await
        .map_err(|error| unreachable(&config.control, &error))?;
    let reply = accepted(path, reply)?;
    let answer: SvidAnswer = serde_json::from_slice(&reply.body)
        .map_err(|error| unreachable(&config.control, &error))?;
    let place = || format!("the answer of control at {}", config.control);
    let bad = |source| JoinError::Svid {
        place: place(),
        source,
    };
    let svid = Svid::from_pem(&answer.chain, &key.serialize_pem()).map_err(bad)?;
    let roots = TrustRoots::from_pem(&answer.roots).map_err(bad)?;
    if *svid.spiffe_id() != own {
        let detail = format!("the SVID is of {}", svid.spiffe_id().as_str());
        return Err(JoinError::Refused {
            path,
            status: reply.status.as_u16(),
            detail,
        });
    }
    match keep(config, &answer, &key.serialize_pem()) {
        // A full disk does not end who runs: only the next start goes without this SVID.
        Err(error) if identity.is_some() => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "cannot keep the renewed SVID; it is used all the same");
        }
        kept => kept?,
    }
    Ok((svid, roots))
}

fn certificate_request(own: &SpiffeId, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(own.as_str().try_into()?)];
    params.serialize_request(key)?.pem()
}

pub(crate) fn accepted(path: &'static str, reply: Reply) -> Result<Reply, JoinError> {
    if reply.status.is_success() {
        return Ok(reply);
    }
    let detail: String = String::from_utf8_lossy(&reply.body)
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect();
    Err(JoinError::Refused {
        path,
        status: reply.status.as_u16(),
        detail,
    })
}

pub(crate) fn unreachable(control: &str, error: &dyn std::error::Error) -> JoinError {
    let mut cause = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        cause.push_str(": ");
        cause.push_str(&error.to_string());
        source = error.source();
    }
    JoinError::Unreachable {
        control: control.to_owned(),
        cause,
    }
}

fn token(config: &IdentityConfig) -> Result<HeaderValue, JoinError> {
    let missing = || JoinError::NoToken(config.state_dir.clone());
    let path = config.join_token_file.as_ref().ok_or_else(missing)?;
    let token = read(path)?;
    let bad = |_| JoinError::File {
        path: path.clone(),
        source: io::Error::new(io::ErrorKind::InvalidData, "the token is no plain text"),
    };
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(bad)?;
    value.set_sensitive(true);
    Ok(value)
}

fn configured_roots(config: &IdentityConfig) -> Result<TrustRoots, JoinError> {
    let path = &config.roots_pem_file;
    let place = path.display().to_string();
    TrustRoots::from_pem(&read(path)?).map_err(|source| JoinError::Svid { place, source })
}

/// The kept identity, when it is of this workload and good for a while.
fn kept(config: &IdentityConfig) -> Result<Option<Identity>, JoinError> {
    let path = kept_path(config);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(JoinError::File { path, source }),
    };
    let Ok(kept) = serde_json::from_str::<Kept>(&text) else {
        tracing::warn!(path = %path.display(), "the kept SVID cannot be read; asks for a new one");
        return Ok(None);
    };
    let svid = Svid::from_pem(&kept.chain, &kept.key);
    match (svid, TrustRoots::from_pem(&kept.roots)) {
        (Ok(svid), Ok(roots))
            if svid.spiffe_id().as_str() == config.spiffe_id
                && svid.not_after().since_ns(clock::wall()) > USABLE_NS =>
        {
            Ok(Some(Identity::new(svid, roots)))
        }
        _ => Ok(None),
    }
}

/// Key, chain and roots in one file, so that they always fit together.
#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    chain: String,
    roots: String,
}

fn kept_path(config: &IdentityConfig) -> PathBuf {
    config.state_dir.join(KEPT_FILE)
}

/// Whether `state_dir` keeps an SVID, good or not: a join has succeeded before.
#[must_use]
pub fn is_kept(state_dir: &Path) -> bool {
    state_dir.join(KEPT_FILE).exists()
}

fn keep(config: &IdentityConfig, answer: &SvidAnswer, key: &str) -> Result<(), JoinError> {
    let path = kept_path(config);
    let kept = Kept {
        key: key.to_owned(),
        chain: answer.chain.clone(),
        roots: answer.roots.clone(),
    };
    write_secret(&config.state_dir, &path, &kept).map_err(|source| JoinError::File { path, source })
}

fn write_secret(directory: &Path, path: &Path, kept: &Kept) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let new = path.with_extension("new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn read(path: &Path) -> Result<String, JoinError> {
    fs::read_to_string(path).map_err(|source| JoinError::File {
        path: path.to_owned(),
        source,
    })
}
