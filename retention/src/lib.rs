//! Retention: how long entries are kept, what may not end yet, and how they end.
//!
//! An [`Office`] works on one data directory for one command. It reads classes and holds, finds what is due,
//! writes a plan, takes approvals, and executes what was approved while no collector runs. Every step is a row
//! of `retention_actions` or `legal_holds` in the books. `docs/format.md` section 10 gives the files.

mod classes;
mod clock;
mod config;
mod deliver;
mod error;
mod execute;
mod holds;
mod judge;
mod office;
mod plan;
mod plans;
mod record;
mod scan;
mod survey;
mod when;

pub use classes::{Classes, ClassesError, Rule};
pub use config::{ConfigError, RetentionConfig};
pub use deliver::Delivered;
pub use error::{Refusal, RetainError};
pub use execute::Executed;
pub use holds::{HoldRequest, Released};
pub use judge::{Due, Held, Lifted, Outlook};
pub use office::{Office, Person};
pub use plan::{Plan, PlanError, PlannedRule, PlannedSegment};
pub use survey::Sealed;
pub use when::{NoInstant, instant};

/// Build named in rows and manifests.
const BUILD: &str = concat!("counterfoil ", env!("CARGO_PKG_VERSION"));
