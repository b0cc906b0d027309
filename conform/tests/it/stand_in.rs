//! A small proxy that is sound until it is given flaws, each the absence of one defence.
//!
//! A flaw is named by the word of the refusal that it leaves out (`tls_expired`, `token_aud`,
//! `bare_lf`), or by what it does besides (`plaintext`, `books_twice`).

mod calls;
mod forward;
mod heads;
mod pen;
mod tls;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use counterfoil_conform::Part;
use counterfoil_entry::Hash;
use counterfoil_proxy::Config;
use counterfoil_trust::allow::AllowList;
use counterfoil_trust::token::TokenCache;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use pen::Pen;

/// The workload whose name callers get that have none.
pub(crate) const CALLER: &str = "spiffe://conform.test/workload/caller";

/// What is missing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flaws(Arc<BTreeSet<&'static str>>);

impl Flaws {
    pub(crate) fn of(words: &[&'static str]) -> Self {
        Self(Arc::new(words.iter().copied().collect()))
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        self.0.contains(word)
    }

    /// Refuses for `word`, unless that is what is missing.
    pub(crate) fn refuse(&self, word: &'static str) -> Result<(), &'static str> {
        if self.has(word) { Ok(()) } else { Err(word) }
    }
}

/// One side of the stand-in: what all its connections share.
pub(crate) struct Side {
    pub(crate) flaws: Flaws,
    pub(crate) part: Part,
    pub(crate) config: Config,
    pub(crate) allow: AllowList,
    pub(crate) tokens: Mutex<TokenCache>,
    pub(crate) pen: Pen,
    pub(crate) tls: Arc<ServerConfig>,
}

/// Both proxies of a world, played. They end when this is dropped.
pub(crate) struct StandIn(Vec<JoinHandle<()>>);

impl Drop for StandIn {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl StandIn {
    pub(crate) async fn start([callee, caller]: [Part; 2], flaws: &[&'static str]) -> Self {
        let flaws = Flaws::of(flaws);
        let (callee, caller) = (Side::new(callee, &flaws), Side::new(caller, &flaws));
        let inbound = TcpListener::bind(callee.config.inbound_listen)
            .await
            .unwrap();
        let outbound = TcpListener::bind(caller.config.outbound_listen)
            .await
            .unwrap();
        Self(vec![
            tokio::spawn(async move {
                loop {
                    let (stream, address) = inbound.accept().await.unwrap();
                    tokio::spawn(calls::from_peer(Arc::clone(&callee), stream, address));
                }
            }),
            tokio::spawn(async move {
                loop {
                    let (stream, address) = outbound.accept().await.unwrap();
                    tokio::spawn(calls::from_app(Arc::clone(&caller), stream, address));
                }
            }),
        ])
    }
}

impl Side {
    fn new(part: Part, flaws: &Flaws) -> Arc<Self> {
        let config = Config::load(&part.config).unwrap();
        Arc::new(Self {
            flaws: flaws.clone(),
            allow: AllowList::compile(&part.rights).unwrap(),
            tokens: Mutex::default(),
            tls: tls::server(&part.identity, flaws),
            pen: Pen::new(&config, flaws.clone(), Hash([9; 32])),
            part,
            config,
        })
    }
}
