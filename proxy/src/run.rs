//! The whole life of the process: bind, join, open the spool, serve, drain, state the end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use counterfoil_entry::id::{IdError, Writer};
use counterfoil_spool::join::{self, JoinError};
use counterfoil_spool::{
    Delivery, DeliveryConfig, DeliveryError, Ending, Gauges, Spool, SpoolConfig, SpoolError,
};
use counterfoil_trust::bundle::BundleKeys;
use counterfoil_trust::keys::{KeyError, public_from_hex};
use counterfoil_trust::{Identity, SpiffeId, SpiffeIdError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, Stage};
use crate::books::Books;
use crate::config::Config;
use crate::listen::{ListenError, bind};
use crate::policy::PolicyCell;
use crate::proxy::{BUILD, Figures, Listeners, Proxy};
use crate::pull::{Pull, PullConfig};

/// How often the figures for statements are brought up to date.
const FIGURES_EVERY: Duration = Duration::from_secs(1);

/// Why the proxy ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A port is in use.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The writer's name cannot be one.
    #[error("naming the writer")]
    Name(#[from] IdError),
    /// An identity in the configuration is none.
    #[error("reading an identity of the configuration")]
    Identity(#[from] SpiffeIdError),
    /// A key in the configuration is none.
    #[error("reading a key of the configuration")]
    Key(#[from] KeyError),
    /// There is no SVID, and control gives none.
    #[error("getting an SVID from control")]
    Join(#[from] JoinError),
    /// The spool cannot be used.
    #[error("opening the spool")]
    Spool(#[from] SpoolError),
    /// A thread or a socket cannot be made.
    #[error("starting the workers")]
    Start(#[source] io::Error),
    /// The books could not be delivered. The spool still holds what was not acknowledged.
    #[error("delivering the books")]
    Delivery(#[from] DeliveryError),
    /// The task that delivers the books died.
    #[error("running the delivery of the books")]
    Books(#[source] tokio::task::JoinError),
}

/// Runs the proxy until `stop`: the whole process but for signals and logs. The calling thread
/// becomes the books' thread and must run a current-thread runtime.
///
/// # Errors
/// [`RunError`] says what could not be begun, or that the books could not be delivered.
pub async fn run(config: &Config, stop: CancellationToken) -> Result<(), RunError> {
    let listeners = Listeners::bind(config)?;
    let policy = PolicyCell::default();
    let admin = Arc::new(Admin::new(policy.clone()));
    let mut background = JoinSet::new();
    for listener in bind("admin_listen", config.admin_listen, 1)? {
        let listener = TcpListener::from_std(listener).map_err(RunError::Start)?;
        background.spawn(Arc::clone(&admin).serve(listener));
    }
    let spool = open_spool(config)?;
    // the workers' lanes are 0, 1 ..: this thread's is the one after
    let own_lane = || spool.lane(config.workers);
    let joining = config.identity();
    let mut lane = own_lane();
    let identity = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        identity = join::join(&joining, &mut lane) => identity?,
    };
    let mut books = Books::new(own_lane(), spool.gauges());
    let mut pull = Pull::new(pull_config(config, &identity, &spool)?, policy.clone())?;
    pull.begin_from_disk(|seen| books.note(&seen));
    let books_end = CancellationToken::new();
    let delivery = Delivery::new(&spool, identity.clone(), delivery_config(config)?)?;
    let mut delivering = tokio::spawn({
        let books_end = books_end.clone();
        async move { delivery.run(books_end).await }
    });
    let proxy =
        Proxy::start(config, listeners, &identity, &spool, &policy).map_err(RunError::Start)?;
    let figures = proxy.figures();
    admin.show(figures.clone(), spool.gauges());
    admin.enter(Stage::Serving);
    background.spawn(tell_figures(figures.clone(), spool.gauges()));
    // calls that drain need a policy and a certificate, too: control is left after the last of them
    let drained = CancellationToken::new();
    let mut of_control = JoinSet::new();
    of_control.spawn(pull.run(drained.clone(), move |seen| {
        figures.counters.pulled(&seen);
        books.note(&seen);
    }));
    of_control.spawn(join::renew_loop(identity, joining, lane, drained.clone()));

    // a delivery that has died is a reason to stop: the next start recovers the spool
    let early = tokio::select! {
        () = stop.cancelled() => None,
        ended = &mut delivering => Some(ended),
    };
    tracing::info!("draining");
    admin.enter(Stage::Draining);
    proxy.stop();
    if tokio::task::spawn_blocking(move || proxy.join())
        .await
        .is_err()
    {
        tracing::error!("waiting for the workers failed");
    }
    drained.cancel();
    all_ended(of_control).await;
    // every row is in the spool now: the final statement may say so
    books_end.cancel();
    let ended = match early {
        Some(ended) => ended,
        None => delivering.await,
    };
    background.shutdown().await;
    report(ended.map_err(RunError::Books)??);
    Ok(())
}

async fn all_ended(mut tasks: JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a task beside the calls died");
        }
    }
}

fn open_spool(config: &Config) -> Result<Spool, RunError> {
    Ok(Spool::open(SpoolConfig {
        directory: config.spool_dir.clone(),
        writer: Writer::parse(&config.writer_name())?,
        size_max: config.spool_bytes_max,
        build: BUILD.to_owned(),
        config_sha256: config.sha256,
    })?)
}

fn delivery_config(config: &Config) -> Result<DeliveryConfig, SpiffeIdError> {
    let collector = config
        .collector_spiffe_id
        .as_deref()
        .map(SpiffeId::parse)
        .transpose()?;
    Ok(DeliveryConfig::new(config.collector.clone(), collector))
}

fn pull_config(
    config: &Config,
    identity: &Identity,
    spool: &Spool,
) -> Result<PullConfig, KeyError> {
    Ok(PullConfig {
        identity: identity.clone(),
        control: config.control.clone(),
        control_id: None,
        epoch: spool.epoch(),
        keys: BundleKeys {
            governance: public_from_hex(&config.governance_key)?,
            control: public_from_hex(&config.control_key)?,
        },
        file: Some(config.state_dir.join("bundle")),
    })
}

fn report(ended: Ending) {
    match ended {
        Ending::Acknowledged => tracing::info!("the collector has everything"),
        Ending::Kept => tracing::warn!("the spool keeps what was not acknowledged"),
    }
}

async fn tell_figures(figures: Figures, gauges: Arc<Gauges>) {
    loop {
        let (open, oldest) = figures.open_calls();
        gauges.set_calls_open(open);
        gauges.set_oldest_call_start(oldest);
        sleep(FIGURES_EVERY).await;
    }
}
