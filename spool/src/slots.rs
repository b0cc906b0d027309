//! How a component was found, in slots of ten seconds: rows of `control_health` in the making.

use std::time::Duration;

use counterfoil_entry::Time;
use counterfoil_entry::rows::{ControlHealthRow, SLOT_S};

const SLOT_NS: i64 = SLOT_S.cast_signed() * 1_000_000_000;
/// Most slots in a row: what a crash may take from the books is a minute of good news.
const SLOTS_MAX: u64 = 6;

/// The slot that is open, and what is not told yet.
///
/// A slot in which nothing was found out is not told of at all. The first slot of a new state is told
/// of as soon as it is over, equal ones after it together. A slot in which anything failed is down.
#[derive(Debug)]
pub struct Slots {
    reporter: &'static str,
    open: Option<ControlHealthRow>,
    /// Equal slots that are over and not told of.
    untold: Option<ControlHealthRow>,
    /// Where the last slot ended and what was found.
    last: Option<(Time, bool)>,
}

impl Slots {
    /// Slots of `control` as `reporter` finds it.
    #[must_use]
    pub const fn of_control(reporter: &'static str) -> Self {
        Self {
            reporter,
            open: None,
            untold: None,
            last: None,
        }
    }

    /// Counts one look at `at`: how long a good answer took, as far as that is known, or the class of
    /// the failure.
    pub fn note(
        &mut self,
        at: Time,
        found: Result<Option<Duration>, &str>,
        tell: &mut impl FnMut(ControlHealthRow),
    ) {
        let slot_start = start_of(at);
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.slot_start != slot_start)
        {
            self.close_open(tell);
        }
        let open = self.open.get_or_insert_with(|| ControlHealthRow {
            component: "control".to_owned(),
            reporter: self.reporter.to_owned(),
            slot_start,
            slots: 1,
            ok: 0,
            failed: 0,
            up: true,
            latency_max_ns: None,
            error_class: None,
        });
        match found {
            Ok(latency) => {
                open.ok += 1;
                let ns = |latency: Duration| u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
                open.latency_max_ns = open.latency_max_ns.max(latency.map(ns));
            }
            Err(class) => {
                open.failed += 1;
                open.up = false;
                open.error_class = Some(class.to_owned());
            }
        }
    }

    /// How long until the open slot is over; a slot's length when none is open.
    #[must_use]
    pub fn until_over(&self, now: Time) -> Duration {
        let end = self
            .open
            .as_ref()
            .map_or_else(|| now.plus_ns(SLOT_NS), end_of);
        Duration::from_nanos(u64::try_from(end.since_ns(now)).unwrap_or(0))
    }

    /// Closes the open slot when it is over.
    pub fn close(&mut self, now: Time, tell: &mut impl FnMut(ControlHealthRow)) {
        if self.open.as_ref().is_some_and(|open| end_of(open) <= now) {
            self.close_open(tell);
        }
    }

    /// Tells of everything that is not told yet, the open slot too.
    pub fn end(&mut self, tell: &mut impl FnMut(ControlHealthRow)) {
        self.close_open(tell);
        self.untold.take().into_iter().for_each(tell);
    }

    fn close_open(&mut self, tell: &mut impl FnMut(ControlHealthRow)) {
        let Some(slot) = self.open.take() else {
            return;
        };
        let follows = self.last == Some((slot.slot_start, slot.up));
        self.last = Some((end_of(&slot), slot.up));
        if !follows {
            self.untold.take().into_iter().for_each(&mut *tell);
            tell(slot);
            return;
        }
        let untold = match self.untold.take() {
            None => slot,
            Some(before) => joined(before, slot),
        };
        if untold.slots >= SLOTS_MAX {
            tell(untold);
        } else {
            self.untold = Some(untold);
        }
    }
}

fn joined(before: ControlHealthRow, slot: ControlHealthRow) -> ControlHealthRow {
    ControlHealthRow {
        slots: before.slots + slot.slots,
        ok: before.ok + slot.ok,
        failed: before.failed + slot.failed,
        latency_max_ns: before.latency_max_ns.max(slot.latency_max_ns),
        error_class: slot.error_class.or(before.error_class),
        ..before
    }
}

fn start_of(at: Time) -> Time {
    at.plus_ns(-at.as_ns().rem_euclid(SLOT_NS))
}

fn end_of(row: &ControlHealthRow) -> Time {
    let slots = i64::try_from(row.slots).unwrap_or(1);
    row.slot_start.plus_ns(slots.saturating_mul(SLOT_NS))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts looks at so many seconds after the epoch and returns the rows that were told.
    fn told(slots: &mut Slots, looks: &[(i64, Result<(), &str>)]) -> Vec<String> {
        let mut rows = Vec::new();
        for (second, found) in looks {
            let at = Time::from_ns(second * 1_000_000_000);
            let latency = Duration::from_millis(u64::try_from(*second).unwrap());
            let found = found.map(|()| Some(latency));
            slots.note(at, found, &mut |row| rows.push(text(&row)));
        }
        rows
    }

    fn text(row: &ControlHealthRow) -> String {
        assert_eq!((&*row.component, &*row.reporter), ("control", "prober"));
        format!(
            "{}+{} ok {} failed {} {} {:?} {}",
            row.slot_start.as_ns() / 1_000_000_000,
            row.slots,
            row.ok,
            row.failed,
            if row.up { "up" } else { "down" },
            row.latency_max_ns.map(|ns| ns / 1_000_000),
            row.error_class.as_deref().unwrap_or("-"),
        )
    }

    fn end(slots: &mut Slots) -> Vec<String> {
        let mut rows = Vec::new();
        slots.end(&mut |row| rows.push(text(&row)));
        rows
    }

    const UP: Result<(), &str> = Ok(());
    const AWAY: Result<(), &str> = Err("unreachable");

    #[test]
    fn equal_slots_share_a_row_and_the_first_of_a_state_is_told_of_at_once() {
        let mut slots = Slots::of_control("prober");
        let looks: Vec<_> = (0..9).map(|slot| (slot * 10 + 3, UP)).collect();
        assert_eq!(
            told(&mut slots, &looks),
            [
                "0+1 ok 1 failed 0 up Some(3) -",
                "10+6 ok 6 failed 0 up Some(63) -",
            ]
        );
        assert_eq!(
            told(&mut slots, &[(91, AWAY), (93, Err("timeout")), (104, AWAY)]),
            [
                "70+2 ok 2 failed 0 up Some(83) -",
                "90+1 ok 0 failed 2 down None timeout",
            ]
        );
        assert_eq!(
            told(&mut slots, &[(111, AWAY), (112, UP), (121, UP)]),
            Vec::<String>::new(),
            "a slot with a failure is down"
        );
        assert_eq!(
            end(&mut slots),
            [
                "100+2 ok 1 failed 2 down Some(112) unreachable",
                "120+1 ok 1 failed 0 up Some(121) -",
            ]
        );
        assert_eq!(end(&mut slots), Vec::<String>::new());
    }

    #[test]
    fn a_slot_without_any_look_has_no_row() {
        let mut slots = Slots::of_control("prober");
        let looks = [(5, UP), (15, UP), (35, UP), (45, UP)];
        assert_eq!(
            told(&mut slots, &looks),
            [
                "0+1 ok 1 failed 0 up Some(5) -",
                "10+1 ok 1 failed 0 up Some(15) -",
                "30+1 ok 1 failed 0 up Some(35) -",
            ]
        );
        assert_eq!(end(&mut slots), ["40+1 ok 1 failed 0 up Some(45) -"]);
    }

    #[test]
    fn a_slot_is_told_of_when_it_is_over_and_not_before() {
        let at = |second: i64| Time::from_ns(second * 1_000_000_000);
        let mut slots = Slots::of_control("prober");
        told(&mut slots, &[(7, UP)]);
        assert_eq!(slots.until_over(at(8)), Duration::from_secs(2));
        let mut rows = Vec::new();
        slots.close(at(9), &mut |row| rows.push(text(&row)));
        assert_eq!(rows, Vec::<String>::new());
        slots.close(at(10), &mut |row| rows.push(text(&row)));
        assert_eq!(rows, ["0+1 ok 1 failed 0 up Some(7) -"]);
    }
}
