//! Exit codes of the command and the failure that carries one.

use counterfoil_columns::directory::DirectoryError;

/// Everything went well.
pub(crate) const OK: u8 = 0;
/// The command was understood and failed.
pub(crate) const FAILURE: u8 = 1;
/// The command was used wrongly.
pub(crate) const USAGE: u8 = 2;
/// The books do not prove what they should.
pub(crate) const INTEGRITY: u8 = 3;
/// An objective is not kept.
pub(crate) const BREACH: u8 = 4;
/// What was asked for was refused, and the refusal is recorded.
pub(crate) const REFUSED: u8 = 4;
/// A configuration cannot be read or is wrong; no port was bound.
pub(crate) const CONFIGURATION: u8 = 64;

/// A failure with the exit code that it ends the process with.
#[derive(Debug)]
pub(crate) struct Failure {
    /// One of the constants of this module.
    pub(crate) code: u8,
    /// What was being done, and why it did not work.
    pub(crate) error: anyhow::Error,
}

impl Failure {
    /// A failure because of how the command was called.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: USAGE,
            error: error.into(),
        }
    }

    /// A failure because of a configuration.
    pub(crate) fn configuration(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: CONFIGURATION,
            error: error.into(),
        }
    }

    /// A failure because a data directory cannot be opened: of a configuration, when no repetition can help.
    pub(crate) fn of_directory(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Newer { .. } => Self::configuration(error),
            error => error.into(),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            code: FAILURE,
            error: error.into(),
        }
    }
}

/// What a subcommand ends with: an exit code, or a failure to be printed.
pub(crate) type Outcome = Result<u8, Failure>;
