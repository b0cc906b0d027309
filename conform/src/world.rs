//! A throw-away mesh on free loopback ports: an authority and a stand-in for control, an
//! application, and all that two proxies and a collector need to start. Who uses it starts them.

mod control;
mod rights;

use std::io;
use std::net::{SocketAddr, TcpListener as Held};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use counterfoil_trust::bundle::{Endpoints, Rights};
use counterfoil_trust::keys::{KeyError, SealKey};
use counterfoil_trust::token::{SignError, TokenSigner, issuer};
use counterfoil_trust::{Identity, SpiffeId, SpiffeIdError, SvidError, TrustRoots};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use crate::app::{App, Fault};
use crate::books::Books;
use crate::check::Stop;
use crate::collector::Receiver;
use crate::material::{Ca, Material, Source};
use crate::outbound::{Impostor, Outbound};
use crate::rig::{Call, Calls, Rig, Target};
use crate::runner::{NoGround, serves};
use crate::tokens::{Terms, Tokens};
use control::{Control, Seals};
use rights::Places;

const TRUST_DOMAIN: &str = "conform.test";
/// The workload under test.
const CALLEE: &str = "spiffe://conform.test/workload/callee";
/// The workload whose grants this tool uses.
const CALLER: &str = "spiffe://conform.test/workload/caller";
const COLLECTOR: &str = "spiffe://conform.test/counterfoil/collector";
/// How long the proxies wait for the application (s): short, so that a check can wait for it.
const TIMEOUT_S: u64 = 2;
const READY_PAUSE: Duration = Duration::from_millis(50);

/// Why a world could not be made.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// A file or a port could not be had.
    #[error("cannot make a throw-away world: {what}")]
    Io {
        /// What for.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A certificate could not be used.
    #[error("cannot use a certificate")]
    Svid(#[from] SvidError),
    /// A key could not be made.
    #[error("cannot make a key")]
    Key(#[from] KeyError),
    /// A key for tokens could not be made.
    #[error("cannot make a key for tokens")]
    Token(#[from] SignError),
    /// A name could not be used.
    #[error("cannot use a SPIFFE id")]
    Id(#[from] SpiffeIdError),
    /// The proxies do not serve.
    #[error("the proxies of the throw-away world do not serve")]
    NotReady(#[from] NoGround),
}

/// What one process of the world is started with.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub name: &'static str,
    /// Its configuration.
    pub config: PathBuf,
    /// Where its log goes: no secret may stand there.
    pub log: PathBuf,
}

/// What a program needs that takes a proxy's place, without asking control for it.
#[derive(Debug)]
pub struct Part {
    /// The certificates of the workload.
    pub identity: Identity,
    /// Who may do what with it, and whom it may call.
    pub rights: Rights,
    /// Where these are.
    pub endpoints: Endpoints,
    /// The configuration of the proxy.
    pub config: PathBuf,
}

/// A world. Everything in it ends when it is dropped.
#[derive(Debug)]
pub struct World {
    rig: Rig,
    proxies: [Node; 2],
    collector: Node,
    collector_address: SocketAddr,
    collector_data: PathBuf,
    /// Ports that nobody else may take until the processes start.
    held: Vec<Held>,
    ca: Arc<Ca>,
    places: Places,
    control: Control,
    directory: TempDir,
}

/// Ports of one proxy.
struct Ports {
    outbound: SocketAddr,
    inbound: SocketAddr,
    admin: SocketAddr,
}

impl World {
    /// Makes everything but the processes. Needs a runtime with the network.
    ///
    /// # Errors
    /// [`WorldError`], but for the last.
    pub async fn prepare() -> Result<Self, WorldError> {
        let directory = tempfile::tempdir().map_err(failed("a folder"))?;
        let root = directory.path().to_owned();
        let ca = Arc::new(Ca::new()?);
        let mut held = Vec::new();
        let callee_ports = Ports::take(&mut held)?;
        let caller_ports = Ports::take(&mut held)?;
        let collector_address = port(&mut held)?;
        let impostor = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(failed("a port"))?;
        let calls = calls();
        let app = start_app(&calls).await?;
        let signer = TokenSigner::generate()?;
        let places = Places {
            callee: callee_ports.inbound,
            impostor: impostor.local_addr().map_err(failed("a port"))?,
            token_key: signer.public().clone(),
        };
        let seals = Seals {
            governance: SealKey::generate()?,
            control: SealKey::generate()?,
        };
        let control = Control::start(&ca, &seals, &places).await?;
        let site = Site {
            root: &root,
            control: &control,
            seals: &seals,
            app: app.address(),
        };
        site.write("roots.pem", ca.pem())?;
        site.write("join-token", control.token())?;
        let proxies = [
            site.proxy("callee", CALLEE, &callee_ports)?,
            site.proxy("caller", CALLER, &caller_ports)?,
        ];
        let collector = site.collector(collector_address)?;
        let rig = Rig {
            outbound: Some(Outbound {
                address: caller_ports.outbound.to_string(),
                host: "callee".to_owned(),
                impostor: Some(Impostor {
                    host: "impostor".to_owned(),
                    listener: impostor,
                }),
            }),
            books: Some(Books::Spools(vec![root.join("spool")])),
            logs: proxies.iter().map(|node| node.log.clone()).collect(),
            tokens: Some(Tokens::new(&signer.to_pem(), terms())?),
            ..rig(&ca, callee_ports.inbound, app, calls)?
        };
        Ok(Self {
            rig,
            proxies,
            collector,
            collector_address,
            collector_data: root.join("data"),
            held,
            ca,
            places,
            control,
            directory,
        })
    }

    /// The two proxies: the one under test, and its caller's.
    #[must_use]
    pub fn proxies(&self) -> &[Node; 2] {
        &self.proxies
    }

    /// A collector that may be started beside them. The proxies do not know it: their entries stay
    /// in the spool, where checks read them.
    #[must_use]
    pub fn collector(&self) -> (&Node, SocketAddr, &Path) {
        (
            &self.collector,
            self.collector_address,
            &self.collector_data,
        )
    }

    /// The collector's SPIFFE id.
    #[must_use]
    pub const fn collector_id() -> &'static str {
        COLLECTOR
    }

    /// Lets the ports go, so that the processes can take them: start these at once.
    pub fn let_go(&mut self) {
        self.held.clear();
    }

    /// The parts of the two proxies, in the order of [`Self::proxies`], for whoever plays them.
    ///
    /// # Errors
    /// [`WorldError`] when a certificate cannot be made.
    pub fn parts(&self) -> Result<[Part; 2], WorldError> {
        let [callee, caller] = &self.proxies;
        let part = |id: &str, (rights, endpoints), node: &Node| {
            Ok::<_, WorldError>(Part {
                identity: control::identity(&self.ca, id)?,
                rights,
                endpoints,
                config: node.config.clone(),
            })
        };
        Ok([
            part(CALLEE, rights::callee(&self.places)?, callee)?,
            part(CALLER, rights::caller(&self.places)?, caller)?,
        ])
    }

    /// A collector to check.
    pub fn watch(&mut self, receiver: Receiver) {
        self.rig.receiver = Some(receiver);
    }

    /// Waits until the proxies serve.
    ///
    /// # Errors
    /// [`WorldError::NotReady`] when they do not within `limit`, with what was seen last.
    pub async fn ready(&self, limit: Duration) -> Result<(), WorldError> {
        let until = tokio::time::Instant::now() + limit;
        loop {
            match serves_all(&self.rig).await {
                Ok(()) => return Ok(()),
                Err(error) if tokio::time::Instant::now() >= until => return Err(error.into()),
                Err(_) => tokio::time::sleep(READY_PAUSE).await,
            }
        }
    }

    /// The rig; keep the other half until the run is over.
    #[must_use]
    pub fn into_rig(self) -> (Arc<Rig>, Kept) {
        let kept = Kept {
            _control: self.control,
            _directory: self.directory,
        };
        (Arc::new(self.rig), kept)
    }
}

/// What must live as long as checks run.
#[derive(Debug)]
pub struct Kept {
    _control: Control,
    _directory: TempDir,
}

const AFTER_THE_START: &str = "after the start";

async fn serves_all(rig: &Rig) -> Result<(), NoGround> {
    serves(rig, AFTER_THE_START).await?;
    serves_outbound(rig).await?;
    let Some(receiver) = &rig.receiver else {
        return Ok(());
    };
    let connected = TcpStream::connect(&receiver.address).await;
    connected.map(drop).map_err(|error| NoGround {
        target: receiver.address.clone(),
        when: AFTER_THE_START,
        saw: error.to_string(),
    })
}

async fn serves_outbound(rig: &Rig) -> Result<(), NoGround> {
    let Some(outbound) = &rig.outbound else {
        return Ok(());
    };
    let probe = crate::rig::Probe::new();
    let saw = match outbound
        .ask(&probe, &outbound.host, &rig.calls.allowed)
        .await
    {
        Ok(said) if said.is_served() => return Ok(()),
        Ok(said) => said.words(),
        Err(Stop::Skipped(why)) => why,
        Err(Stop::Trouble(trouble)) => crate::check::chain(&trouble),
    };
    Err(NoGround {
        target: outbound.address.clone(),
        when: AFTER_THE_START,
        saw,
    })
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> WorldError {
    move |source| WorldError::Io { what, source }
}

impl Ports {
    fn take(held: &mut Vec<Held>) -> Result<Self, WorldError> {
        Ok(Self {
            outbound: port(held)?,
            inbound: port(held)?,
            admin: port(held)?,
        })
    }
}

fn port(held: &mut Vec<Held>) -> Result<SocketAddr, WorldError> {
    let listener = Held::bind("127.0.0.1:0").map_err(failed("a port"))?;
    let address = listener.local_addr().map_err(failed("a port"))?;
    held.push(listener);
    Ok(address)
}

fn calls() -> Calls {
    let call = |method: &str, path: &str| Call {
        method: method.to_owned(),
        path: path.to_owned(),
    };
    Calls {
        allowed: call("GET", "/conform/echo/1"),
        upload: call("POST", "/conform/upload"),
        denied: call("GET", "/conform/secret"),
        undeclared: call("GET", "/conform/nothing"),
        reset: Some(call("GET", "/conform/reset")),
        hang: Some(call("GET", "/conform/hang")),
        timeout_s: Some(TIMEOUT_S),
        shadow: Some(call("GET", "/conform/shadow")),
    }
}

async fn start_app(calls: &Calls) -> Result<App, WorldError> {
    let faults = [(&calls.reset, Fault::Reset), (&calls.hang, Fault::Hang)]
        .into_iter()
        .filter_map(|(call, fault)| Some((call.as_ref()?.path.clone(), fault)))
        .collect();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    App::start(any, faults)
        .await
        .map_err(failed("the application"))
}

fn terms() -> Terms {
    Terms {
        kid: None,
        issuer: issuer(TRUST_DOMAIN),
        api: rights::TOKEN_API.to_owned(),
        scope: rights::TOKEN_OPERATION.to_owned(),
        call: Call {
            method: "GET".to_owned(),
            path: rights::TOKEN_ROUTE.to_owned(),
        },
        revoked: Some(rights::REVOKED.to_owned()),
        leeway_s: Some(5),
    }
}

/// A rig with what every target has.
fn rig(ca: &Ca, target: SocketAddr, app: App, calls: Calls) -> Result<Rig, WorldError> {
    Ok(Rig {
        name: "self".to_owned(),
        target: Target {
            address: target.to_string(),
            spiffe_id: SpiffeId::parse(CALLEE)?,
            host: "callee".to_owned(),
        },
        material: Material {
            spiffe_id: SpiffeId::parse(CALLER)?,
            roots: TrustRoots::from_pem(ca.pem())?,
            source: Source::Ca(Box::new(Ca::read(ca.pem(), &ca.key_pem())?)),
        },
        app: Some(app),
        calls,
        books: None,
        logs: Vec::new(),
        tokens: None,
        outbound: None,
        receiver: None,
    })
}

/// What the configurations are made from.
struct Site<'a> {
    root: &'a Path,
    control: &'a Control,
    seals: &'a Seals,
    app: SocketAddr,
}

impl Site<'_> {
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, WorldError> {
        let path = self.root.join(name);
        std::fs::write(&path, text).map_err(failed("a file"))?;
        Ok(path)
    }

    fn quoted(&self, name: &str) -> String {
        toml::Value::String(self.root.join(name).display().to_string()).to_string()
    }

    fn proxy(&self, name: &'static str, id: &str, ports: &Ports) -> Result<Node, WorldError> {
        let text = format!(
            "spiffe_id = \"{id}\"\ninstance = \"conform\"\noutbound_listen = \"{}\"\n\
             inbound_listen = \"{}\"\nadmin_listen = \"{}\"\napp_address = \"{}\"\n\
             collector = \"127.0.0.1:9\"\ncontrol = \"{}\"\nroots_file = {}\n\
             join_token_file = {}\ngovernance_key = \"{}\"\ncontrol_key = \"{}\"\n\
             state_dir = {}\nspool_dir = {}\nrequest_timeout_s = {TIMEOUT_S}\ndrain_s = 1\n\
             die_with_parent = true\n",
            ports.outbound,
            ports.inbound,
            ports.admin,
            self.app,
            self.control.address(),
            self.quoted("roots.pem"),
            self.quoted("join-token"),
            hex::encode(self.seals.governance.public()),
            hex::encode(self.seals.control.public()),
            self.quoted(&format!("state-{name}")),
            self.quoted("spool"),
        );
        let log = self.write(&format!("{name}.log"), "")?;
        Ok(Node {
            name,
            config: self.write(&format!("{name}.toml"), &text)?,
            log,
        })
    }

    fn collector(&self, listen: SocketAddr) -> Result<Node, WorldError> {
        let text = format!(
            "data_dir = {}\norigin = \"{TRUST_DOMAIN}/collector\"\nlisten = \"{listen}\"\n\n\
             [identity]\nspiffe_id = \"{COLLECTOR}\"\ncontrol = \"{}\"\nroots_pem_file = {}\n\
             join_token_file = {}\nstate_dir = {}\n",
            self.quoted("data"),
            self.control.address(),
            self.quoted("roots.pem"),
            self.quoted("join-token"),
            self.quoted("state-collector"),
        );
        Ok(Node {
            name: "collector",
            config: self.write("collector.toml", &text)?,
            log: self.write("collector.log", "")?,
        })
    }
}
