//! Findings into the books: one row of `conformance_results` each, through a spool of its own.

use std::path::{Path, PathBuf};

use counterfoil_entry::id::{IdError, RetentionClass, Writer};
use counterfoil_entry::rows::ConformanceRow;
use counterfoil_entry::table::TableId;
use counterfoil_entry::{clock, tree};
use counterfoil_spool::join::{self, IdentityConfig, JoinError};
use counterfoil_spool::{
    AppendError, Delivery, DeliveryConfig, DeliveryError, Ending, Spool, SpoolConfig, SpoolError,
};
use counterfoil_trust::{SpiffeId, SpiffeIdError};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::BUILD;
use crate::check::Finding;

const CLASS: &str = "audit_7y";
/// Findings of a hundred runs, when no collector takes them.
const SPOOL_BYTES_MAX: u64 = 16 << 20;

/// How this tool writes into the books, from a TOML file. Keys that are not listed are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BooksConfig {
    /// `host:port` of the collector's native receiver.
    pub collector: String,
    /// Who the collector must be; without it anyone in the trust domain.
    #[serde(default)]
    pub collector_spiffe_id: Option<String>,
    /// The spool root; what a collector does not take stays here for the next run.
    pub spool_dir: PathBuf,
    /// Tells several writers of one identity apart.
    #[serde(default = "instance")]
    pub instance: String,
    /// Who this tool is, and where it gets its certificate.
    pub identity: IdentityConfig,
}

fn instance() -> String {
    "conform".to_owned()
}

/// Why findings are not in the books.
#[derive(Debug, thiserror::Error)]
pub enum BooksError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: {detail}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, key and what was expected.
        detail: String,
    },
    /// A SPIFFE id is none.
    #[error("cannot use a SPIFFE id of the books' configuration")]
    Identity(#[from] SpiffeIdError),
    /// The writer's name cannot be one.
    #[error("cannot name the writer")]
    Name(#[from] IdError),
    /// There is no SVID, and control gives none.
    #[error("cannot get an SVID from control")]
    Join(#[from] JoinError),
    /// The spool cannot be used.
    #[error("cannot open the spool")]
    Spool(#[from] SpoolError),
    /// A finding could not be written.
    #[error("cannot write a finding to the spool")]
    Append(#[from] AppendError),
    /// The books could not be delivered.
    #[error("cannot deliver the findings")]
    Delivery(#[from] DeliveryError),
    /// The collector did not take everything in time.
    #[error(
        "the collector at {0} did not take the findings; the spool keeps them for the next run"
    )]
    Kept(String),
}

impl BooksError {
    /// Whether the configuration is at fault.
    #[must_use]
    pub const fn is_config(&self) -> bool {
        matches!(
            self,
            Self::Unreadable { .. } | Self::Malformed { .. } | Self::Identity(_) | Self::Name(_)
        )
    }
}

impl BooksConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`] and [`BooksError::Malformed`].
    pub fn load(path: &Path) -> Result<Self, BooksError> {
        let text = std::fs::read_to_string(path).map_err(|source| BooksError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let config: Self = toml::from_str(&text).map_err(|error| BooksError::Malformed {
            path: path.to_owned(),
            detail: error.to_string().trim_end().to_owned(),
        })?;
        config.names()?;
        Ok(config)
    }

    fn names(&self) -> Result<(Writer, Option<SpiffeId>), BooksError> {
        let own = SpiffeId::parse(&self.identity.spiffe_id)?;
        let writer = Writer::parse(&format!("{}#{}", own.as_str(), self.instance))?;
        let collector = self
            .collector_spiffe_id
            .as_deref()
            .map(SpiffeId::parse)
            .transpose()?;
        Ok((writer, collector))
    }
}

/// Writes `findings` of the run `run_id` on `target`, and waits until the collector has them.
///
/// # Errors
/// [`BooksError`]; after [`BooksError::Kept`] the next run delivers what this one wrote.
pub async fn keep(
    config: &BooksConfig,
    run_id: &str,
    target: &str,
    findings: &[Finding],
) -> Result<(), BooksError> {
    let (writer, collector) = config.names()?;
    let spool = Spool::open(SpoolConfig {
        directory: config.spool_dir.clone(),
        writer,
        size_max: SPOOL_BYTES_MAX,
        build: BUILD.to_owned(),
        config_sha256: tree::sha256(format!("{config:?}").as_bytes()),
    })?;
    let mut lane = spool.lane(0);
    let identity = join::join(&config.identity, &mut lane).await?;
    let delivery = DeliveryConfig::new(config.collector.clone(), collector);
    let delivery = Delivery::new(&spool, identity, delivery)?;
    let class = RetentionClass::parse(CLASS)?;
    for finding in findings {
        let row = row(run_id, target, finding);
        lane.append(TableId::ConformanceResults, &class, |header, out| {
            row.encode(header, out);
        })?;
    }
    let end = CancellationToken::new();
    end.cancel();
    match delivery.run(end).await? {
        Ending::Acknowledged => Ok(()),
        Ending::Kept => Err(BooksError::Kept(config.collector.clone())),
    }
}

fn row(run_id: &str, target: &str, finding: &Finding) -> ConformanceRow {
    let evidence = match finding.sent.as_str() {
        "" => finding.saw.clone(),
        sent => format!("sent: {sent}\nsaw: {}", finding.saw),
    };
    ConformanceRow {
        run_id: run_id.to_owned(),
        check: finding.check.to_owned(),
        target: target.to_owned(),
        title: finding.title.to_owned(),
        severity: finding.severity.as_str().to_owned(),
        outcome: finding.outcome.as_str().to_owned(),
        evidence: Some(evidence),
        checked_at: finding.checked_at,
        build: BUILD.to_owned(),
    }
}

/// A name for one run.
#[must_use]
pub fn run_id() -> String {
    let random: [u8; 4] = rand::random();
    format!("{}-{}", clock::wall(), hex::encode(random))
}
