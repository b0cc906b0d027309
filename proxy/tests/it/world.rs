//! Two workloads, `shop` and `cart`, each with a proxy: the shop may call some of the cart's
//! operations.

use std::net::SocketAddr;
use std::path::PathBuf;

use counterfoil_entry::id::Writer;
use counterfoil_entry::{Hash, clock};
use counterfoil_proxy::{BUILD, Config, Listeners, Policy, PolicyCell, Proxy};
use counterfoil_spool::{Spool, SpoolConfig};
use counterfoil_trust::bundle::{
    Access, ApiRights, Bundle, Consumer, Endpoints, Grant, Instances, OperationRights, PeerRights,
    Rights, Workload,
};
use counterfoil_trust::{Identity, SpiffeId};

use crate::ca::Ca;

pub(crate) const SHOP: &str = "spiffe://bank.test/workload/shop";
pub(crate) const CART: &str = "spiffe://bank.test/workload/cart";

/// A proxy with what it has on disk. Stops when dropped.
pub(crate) struct Running {
    pub(crate) outbound: SocketAddr,
    pub(crate) inbound: SocketAddr,
    pub(crate) policy: PolicyCell,
    pub(crate) spool: Spool,
    pub(crate) directory: tempfile::TempDir,
    proxy: Option<Proxy>,
}

impl Running {
    pub(crate) fn books(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    pub(crate) fn begin_stop(&self) {
        self.proxy.as_ref().unwrap().stop();
    }

    /// Waits, off the runtime, until every worker has ended.
    pub(crate) async fn stopped(&mut self) {
        let proxy = self.proxy.take().unwrap();
        proxy.stop();
        tokio::task::spawn_blocking(move || proxy.join())
            .await
            .unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(proxy) = &self.proxy {
            proxy.stop();
        }
    }
}

/// How a proxy differs from the usual one.
pub(crate) struct Setup<'a> {
    pub(crate) id: &'a str,
    pub(crate) app: SocketAddr,
    pub(crate) keys: &'a str,
    pub(crate) spool_bytes: u64,
}

impl<'a> Setup<'a> {
    pub(crate) fn new(id: &'a str, app: SocketAddr) -> Self {
        Self {
            id,
            app,
            keys: "",
            spool_bytes: 64 << 20,
        }
    }

    pub(crate) fn start(&self, ca: &Ca) -> Running {
        self.start_as(&ca.identity(self.id))
    }

    pub(crate) fn start_as(&self, identity: &Identity) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let config = self.config(directory.path());
        let spool = Spool::open(SpoolConfig {
            directory: config.spool_dir.clone(),
            writer: Writer::parse(&config.writer_name()).unwrap(),
            size_max: self.spool_bytes,
            build: BUILD.to_owned(),
            config_sha256: config.sha256,
        })
        .unwrap();
        let listeners = Listeners::bind(&config).unwrap();
        let (outbound, inbound) = (listeners.outbound_address, listeners.inbound_address);
        let policy = PolicyCell::default();
        let proxy = Proxy::start(&config, listeners, identity, &spool, &policy).unwrap();
        Running {
            outbound,
            inbound,
            policy,
            spool,
            directory,
            proxy: Some(proxy),
        }
    }

    fn config(&self, directory: &std::path::Path) -> Config {
        let key = "0f".repeat(32);
        let text = format!(
            "spiffe_id = \"{id}\"\ninstance = \"test\"\napp_address = \"{app}\"\n\
             outbound_listen = \"127.0.0.1:0\"\ninbound_listen = \"127.0.0.1:0\"\n\
             admin_listen = \"127.0.0.1:0\"\nroots_file = \"roots.pem\"\n\
             governance_key = \"{key}\"\ncontrol_key = \"{key}\"\n\
             state_dir = {state:?}\nspool_dir = {spool:?}\n{keys}\n",
            id = self.id,
            app = self.app,
            state = directory.join("state"),
            spool = directory.join("spool"),
            keys = self.keys,
        );
        let file = directory.join("proxy.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(&file).unwrap()
    }
}

/// The usual world: the shop's proxy, the cart's proxy, and the cart's application.
pub(crate) struct World {
    pub(crate) ca: Ca,
    pub(crate) shop: Running,
    pub(crate) cart: Running,
}

impl World {
    pub(crate) fn start(app: SocketAddr) -> Self {
        Self::start_with(app, "")
    }

    /// `keys` are further lines of both configurations.
    pub(crate) fn start_with(app: SocketAddr, keys: &str) -> Self {
        let ca = Ca::new();
        let cart = Setup {
            keys,
            ..Setup::new(CART, app)
        }
        .start(&ca);
        let shop = Setup {
            keys,
            ..Setup::new(SHOP, app)
        }
        .start(&ca);
        cart.policy.put(Policy::compile(cart_bundle()).unwrap());
        shop.policy
            .put(Policy::compile(shop_bundle(CART, cart.inbound)).unwrap());
        Self { ca, shop, cart }
    }

    /// Asks the cart through both proxies.
    pub(crate) async fn get(&self, path: &str) -> String {
        crate::client::ask(self.shop.outbound, &crate::client::get("cart", path)).await
    }

    /// The one call that was made: the client's entry and the server's.
    pub(crate) async fn one_call(
        &self,
    ) -> (
        counterfoil_entry::entry::Entry,
        counterfoil_entry::entry::Entry,
    ) {
        let client = crate::books::wait_for(&self.shop.books(), 1)
            .await
            .remove(0);
        let server = crate::books::wait_for(&self.cart.books(), 1)
            .await
            .remove(0);
        (client, server)
    }
}

fn cart_api() -> ApiRights {
    let operation = |operation: &str, method: &str, route: &str, open| OperationRights {
        operation: operation.to_owned(),
        method: method.to_owned(),
        route: route.to_owned(),
        scopes: vec!["sox".to_owned()],
        retention_class: "sox_7y".to_owned(),
        open,
    };
    ApiRights {
        api: "cart".to_owned(),
        api_version: "1".to_owned(),
        protocol: None,
        access: Access::Bundle,
        operations: vec![
            operation("readCart", "GET", "/carts/{id}", false),
            operation("probeCart", "HEAD", "/carts/{id}", false),
            operation("fillCart", "POST", "/carts/{id}", false),
            operation("shop.Cart/Get", "POST", "/shop.Cart/Get", false),
            operation("shop.Cart/Secret", "POST", "/shop.Cart/Secret", false),
            operation("dropCart", "GET", "/secret", false),
            operation("health", "GET", "/health", true),
            operation("root", "GET", "/", true),
        ],
    }
}

pub(crate) fn cart_bundle() -> Bundle {
    let id = SpiffeId::parse(CART).unwrap();
    let granted = ["readCart", "probeCart", "fillCart", "shop.Cart/Get"];
    Bundle {
        rights: Rights {
            version: 3,
            audience: id.clone(),
            issued_at: clock::wall(),
            workload: workload("cart"),
            apis: vec![cart_api()],
            grants: granted
                .iter()
                .map(|operation| Grant {
                    grant_id: format!("g-{operation}"),
                    consumer: SpiffeId::parse(SHOP).unwrap(),
                    api: "cart".to_owned(),
                    operation: (*operation).to_owned(),
                    not_before: None,
                    expires: None,
                })
                .collect(),
            candidate: None,
            tokens: None,
            consumers: vec![Consumer {
                spiffe_id: SpiffeId::parse(SHOP).unwrap(),
                app: "shop".to_owned(),
                team: "shop-team".to_owned(),
            }],
            peers: Vec::new(),
            default_class: "ops_90d".to_owned(),
        },
        endpoints: Endpoints {
            version: 1,
            audience: id,
            instances: Vec::new(),
        },
        sha256: Hash([3; 32]),
        fetched_at: clock::wall(),
    }
}

/// The shop's bundle: the cart is `callee` at `address`.
pub(crate) fn shop_bundle(callee: &str, address: SocketAddr) -> Bundle {
    let id = SpiffeId::parse(SHOP).unwrap();
    let callee = SpiffeId::parse(callee).unwrap();
    Bundle {
        rights: Rights {
            version: 4,
            audience: id.clone(),
            issued_at: clock::wall(),
            workload: workload("shop"),
            apis: Vec::new(),
            grants: Vec::new(),
            candidate: None,
            tokens: None,
            consumers: Vec::new(),
            peers: vec![PeerRights {
                name: "cart".to_owned(),
                spiffe_id: callee.clone(),
                app: "cart".to_owned(),
                team: "cart-team".to_owned(),
                apis: vec![cart_api()],
            }],
            default_class: "ops_90d".to_owned(),
        },
        endpoints: Endpoints {
            version: 1,
            audience: id,
            instances: vec![Instances {
                name: "cart".to_owned(),
                spiffe_id: callee,
                addresses: vec![address.to_string()],
            }],
        },
        sha256: Hash([4; 32]),
        fetched_at: clock::wall(),
    }
}

fn workload(name: &str) -> Workload {
    Workload {
        app: name.to_owned(),
        team: format!("{name}-team"),
        site: Some("fra".to_owned()),
        zone: None,
    }
}
