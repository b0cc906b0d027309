//! Why a collector did not start or stopped early.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use counterfoil_columns::directory::DirectoryError;
use counterfoil_spool::join::JoinError;
use counterfoil_spool::{DeliveryError, SpoolError};

use crate::config::ConfigError;
use crate::rollup::FoldError;

/// Why a collector did not start or stopped early.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Another collector writes these books.
    #[error(
        "another collector, or `counterfoil retain execute`, holds {0}: one log has one writer, stop the other one first"
    )]
    Locked(PathBuf),
    /// A file of the collector's own cannot be used.
    #[error("{doing} {path}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The port cannot be opened.
    #[error("listening on {address}: free it, or choose another with the key listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The port of `/metrics` cannot be opened.
    #[error(
        "listening on {address} for /metrics: free it, or choose another with the key admin_listen"
    )]
    ListenAdmin {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A port for foreign systems cannot be opened.
    #[error(
        "listening on {address} for foreign systems: free it, or set {key} to another or to off"
    )]
    ListenForeign {
        /// The address.
        address: SocketAddr,
        /// The key that names it.
        key: &'static str,
        /// Why.
        source: io::Error,
    },
    /// No SVID was to be had.
    #[error("getting an SVID from control")]
    Join(#[source] JoinError),
    /// The collector's own spool cannot be opened.
    #[error("opening the collector's own spool")]
    Spool(#[from] SpoolError),
    /// The collector's own rows cannot be delivered.
    #[error("starting the delivery of the collector's own rows")]
    Delivery(#[from] DeliveryError),
    /// Books and journal cannot be taken over.
    #[error("recovering from books and journal")]
    Recover(#[source] Box<dyn Error + Send + Sync>),
    /// Journal or books refused a write.
    #[error("keeping the books")]
    Books(#[source] Box<dyn Error + Send + Sync>),
    /// The roll-ups cannot be folded.
    #[error(transparent)]
    Rollup(#[from] FoldError),
    /// A thread could not be started, or died.
    #[error("the thread {0} is gone")]
    Thread(&'static str),
}

impl CollectorError {
    /// Whether the configuration, or what it names, is at fault. No port was bound.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Directory(_))
    }

    /// Whether books or journal are damaged, so that another start cannot help.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        let Self::Recover(error) = self else {
            return false;
        };
        // What the file system refuses now it may allow later.
        let mut cause: Option<&(dyn Error + 'static)> = Some(error.as_ref());
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                let damage = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
                return damage.contains(&error.kind());
            }
            cause = error.source();
        }
        true
    }
}
