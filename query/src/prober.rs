//! The prober: looks at control once a second, and writes down how it was found.

use std::time::Duration;

use counterfoil_entry::clock;
use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::rows::ControlHealthRow;
use counterfoil_entry::table::TableId;
use counterfoil_spool::Lane;
use counterfoil_spool::probe::HealthProbe;
use counterfoil_spool::slots::Slots;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(1);
/// An answer that takes longer is none.
const WITHIN: Duration = Duration::from_secs(1);

/// Probes control until `stop`, and writes rows of `control_health` to `lane`: a change as soon as its
/// slot is over, up to six equal slots together, and what is open at the end.
///
/// Not cancel safe: what is open is lost then, as in a crash.
pub(crate) async fn run(probe: HealthProbe, lane: Lane, stop: CancellationToken) {
    let mut pen = Pen {
        lane,
        class: class(),
        is_failing: false,
    };
    let mut slots = Slots::of_control("prober");
    let mut was_up = None;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let at = clock::wall();
        let found = tokio::select! {
            () = stop.cancelled() => break,
            found = probe.ask(WITHIN) => found,
        };
        if was_up != Some(found.is_ok()) {
            was_up = Some(found.is_ok());
            match &found {
                Ok(_) => tracing::info!("control answers"),
                Err(error) => tracing::warn!(%error, "a probe of control failed"),
            }
        }
        let found = found.as_ref().map(|took| Some(*took));
        let found = found.map_err(|error| error.class());
        slots.note(at, found, &mut |row| pen.write(&row));
    }
    slots.end(&mut |row| pen.write(&row));
}

struct Pen {
    lane: Lane,
    class: RetentionClass,
    is_failing: bool,
}

impl Pen {
    /// What does not fit is dropped and counted by the spool.
    fn write(&mut self, row: &ControlHealthRow) {
        let appended = self
            .lane
            .append(TableId::ControlHealth, &self.class, |header, out| {
                row.encode(header, out);
            });
        let failed = appended.err();
        if self.is_failing == failed.is_some() {
            return;
        }
        self.is_failing = failed.is_some();
        match failed {
            None => tracing::info!("the spool takes rows on control's health again"),
            Some(error) => {
                tracing::error!(%error, "rows on control's health are dropped and counted");
            }
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "the text is a constant and a test parses it"
)]
fn class() -> RetentionClass {
    RetentionClass::parse("ops_13m").expect("a constant class")
}
