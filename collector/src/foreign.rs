//! Foreign systems: what OpenTelemetry exporters and Envoys send, written into the books as the
//! collector's own statements about what it received.
//!
//! The rows go the way of all entries, through a spool: acknowledged when they are synced there, then
//! delivered to the native receiver. They have a spool and a writer of their own, so that a flood of them
//! cannot keep the collector's gaps and conflicts from being written.

mod als;
mod body;
mod config;
mod counters;
mod desk;
mod door;
mod grpc;
mod house;
mod otlp;
mod trouble;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use counterfoil_columns::DataDirectory;
use counterfoil_entry::Hash;
use counterfoil_entry::id::{IdError, RetentionClass, Writer};
use counterfoil_spool::{Delivery, DeliveryConfig, Spool, SpoolConfig};
use counterfoil_trust::Identity;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::config::{AlsConfig, DefaultSide, OtlpConfig, Port};
pub use self::counters::ForeignCounters;
use self::desk::{Clerk, Desk};
use self::door::{Door, Speech};
use self::house::House;
use crate::config::{CollectorConfig, ConfigError};
use crate::service::{CollectorError, own_end};

/// Part of the instance name that tells this writer from the collector's other one.
const INSTANCE_SUFFIX: &str = ".foreign";

/// The ports and the spool, opened; nothing is served yet.
#[derive(Debug)]
pub(crate) struct PreparedForeign {
    doors: Vec<Door>,
    spool: Spool,
    spool_bytes_max: u64,
    classes: (RetentionClass, RetentionClass),
    default_side: DefaultSide,
    config_sha256: Hash,
    counters: Arc<ForeignCounters>,
}

/// Foreign receivers, ready to serve.
#[derive(Debug)]
pub(crate) struct Foreign {
    doors: Vec<Door>,
    house: Arc<House>,
    thread: JoinHandle<()>,
    delivery: Delivery,
    /// Its lock is held until the end.
    spool: Spool,
    identity: Identity,
}

impl PreparedForeign {
    /// Opens the ports that `config` names, and the spool; `None` when there are no ports and nothing is
    /// left to deliver of an earlier start.
    ///
    /// # Errors
    /// [`CollectorError`].
    pub(crate) async fn open(
        config: &CollectorConfig,
        data: &DataDirectory,
        (build, config_sha256): (&str, Hash),
    ) -> Result<Option<Self>, CollectorError> {
        let writer = writer(config)?;
        let doors = open_doors(config).await?;
        let left = data.spool().join(writer.directory_name());
        let is_left = std::fs::read_dir(left).is_ok_and(|mut epochs| epochs.next().is_some());
        if doors.is_empty() && !is_left {
            return Ok(None);
        }
        let spool = Spool::open(SpoolConfig {
            directory: data.spool(),
            writer,
            size_max: config.foreign_spool_bytes_max,
            build: build.to_owned(),
            config_sha256,
        })?;
        let class = |class: Option<&String>| {
            let parsed = class.map(|class| RetentionClass::parse(class));
            let permanent = RetentionClass::permanent();
            parsed.and_then(Result::ok).unwrap_or(permanent)
        };
        Ok(Some(Self {
            doors,
            spool,
            spool_bytes_max: config.foreign_spool_bytes_max,
            classes: (
                class(config.otlp.as_ref().map(|otlp| &otlp.class)),
                class(config.als.as_ref().map(|als| &als.class)),
            ),
            default_side: config
                .als
                .as_ref()
                .map_or_else(DefaultSide::default, |als| als.default_side),
            config_sha256,
            counters: Arc::default(),
        }))
    }

    /// Addresses that are listened on, OTLP/gRPC, OTLP/HTTP and the access-log service in this order;
    /// those that are off left out.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.doors.iter().map(|door| door.address).collect()
    }

    pub(crate) fn counters(&self) -> Arc<ForeignCounters> {
        Arc::clone(&self.counters)
    }

    /// Begins an epoch and starts the writing thread; rows are delivered to the receiver that `delivery`
    /// names.
    ///
    /// # Errors
    /// [`CollectorError`].
    pub(crate) fn start(
        self,
        identity: &Identity,
        delivery: DeliveryConfig,
    ) -> Result<Foreign, CollectorError> {
        let delivery = Delivery::new(&self.spool, identity.clone(), delivery)?;
        let clerk = Clerk::new(&self.spool, self.spool_bytes_max, self.classes);
        let (desk, thread) =
            Desk::open(clerk).map_err(|_| CollectorError::Thread("foreign rows"))?;
        let house = House::new(desk, self.counters, self.default_side, self.config_sha256);
        Ok(Foreign {
            doors: self.doors,
            house: Arc::new(house),
            thread,
            delivery,
            spool: self.spool,
            identity: identity.clone(),
        })
    }
}

impl Foreign {
    /// Serves until `shutdown`; then ends connections, writes what they brought, and waits for the
    /// acknowledgement of its final statement, but not for long.
    ///
    /// Dropping the future abandons everything at once, as a crash would.
    pub(crate) async fn serve(self, shutdown: CancellationToken) {
        let (mut doors, mut deliveries) = (JoinSet::new(), JoinSet::new());
        let stop_delivery = CancellationToken::new();
        for door in self.doors {
            let (house, identity) = (Arc::clone(&self.house), self.identity.clone());
            doors.spawn(door.serve(house, identity, shutdown.clone()));
        }
        let stop = stop_delivery.clone();
        let delivery = self.delivery;
        deliveries.spawn(async move { delivery.run(stop).await });
        shutdown.cancelled().await;
        while doors.join_next().await.is_some() {}
        drop(self.house);
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the thread of foreign rows died");
        }
        stop_delivery.cancel();
        own_end(&mut deliveries).await;
        drop(self.spool);
    }
}

fn writer(config: &CollectorConfig) -> Result<Writer, ConfigError> {
    let (id, instance) = (&config.identity.spiffe_id, &config.instance);
    Writer::parse(&format!("{id}#{instance}{INSTANCE_SUFFIX}")).map_err(|_: IdError| {
        ConfigError::Value {
            key: "instance",
            value: instance.clone(),
            expected: "1 to 56 characters of A-Z, a-z, 0-9, dot, underscore and minus",
        }
    })
}

async fn open_doors(config: &CollectorConfig) -> Result<Vec<Door>, CollectorError> {
    let otlp = config.otlp.as_ref();
    let wanted = [
        (
            Speech::OtlpGrpc,
            "otlp.grpc_listen",
            otlp.map(|otlp| otlp.grpc_listen),
        ),
        (
            Speech::OtlpHttp,
            "otlp.http_listen",
            otlp.map(|otlp| otlp.http_listen),
        ),
        (
            Speech::Als,
            "als.listen",
            config.als.as_ref().map(|als| als.listen),
        ),
    ];
    let mut doors = Vec::new();
    for (speech, key, port) in wanted {
        let Some(address) = port.and_then(Port::address) else {
            continue;
        };
        let failed = |source| CollectorError::ListenForeign {
            address,
            key,
            source,
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        doors.push(Door {
            speech,
            listener,
            address,
        });
    }
    Ok(doors)
}
