//! Grafana dashboards over the books: typed panels, one place for each query, plain JSON as the result.
//!
//! `cargo run -p counterfoil-dashboards` writes `grafana/dashboards/*.json`; a test fails when the
//! committed files differ from what this crate makes.

mod board;
mod boards;
pub mod macros;
mod panel;
mod unit;

use std::path::{Path, PathBuf};

pub use board::{Annotation, Board, Section, Values, Variable};
pub use panel::{Column, Panel, Shape};
pub use unit::Unit;

/// All dashboards, in the order in which a reader meets them.
#[must_use]
pub fn boards() -> Vec<Board> {
    boards::all()
}

/// Where the dashboards are committed.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/dashboards")
}

/// Name and text of each file.
///
/// # Errors
/// When a dashboard cannot be written as JSON.
pub fn files() -> Result<Vec<(String, String)>, serde_json::Error> {
    let file = |board: Board| {
        let text = serde_json::to_string_pretty(&board.json())?;
        Ok((format!("{}.json", board.uid), text + "\n"))
    };
    boards().into_iter().map(file).collect()
}

#[cfg(test)]
mod tests;
