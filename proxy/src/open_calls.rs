//! Which calls of a worker are open, oldest first: every statement names their number and the oldest.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use counterfoil_entry::Time;

/// The open calls of one worker. Read once a second by the books' thread, else by its worker alone.
#[derive(Debug, Default)]
pub(crate) struct OpenCalls(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    /// Tickets ascend, so that the first call is the oldest.
    starts: BTreeMap<Ticket, Time>,
    next: Ticket,
}

/// One open call's place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

impl OpenCalls {
    pub(crate) fn began(&self, start: Time) -> Ticket {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = open.next;
        open.next = Ticket(ticket.0.wrapping_add(1));
        open.starts.insert(ticket, start);
        ticket
    }

    pub(crate) fn ended(&self, ticket: Ticket) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .starts
            .remove(&ticket);
    }

    /// How many there are, and when the oldest began.
    pub(crate) fn summary(&self) -> (u64, Option<Time>) {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (
            open.starts.len() as u64,
            open.starts.first_key_value().map(|(_, start)| *start),
        )
    }
}

/// The summary over all workers.
pub(crate) fn summary<'a>(workers: impl Iterator<Item = &'a OpenCalls>) -> (u64, Option<Time>) {
    workers.fold((0, None), |(sum, oldest), calls| {
        let (count, first) = calls.summary();
        (sum + count, oldest.into_iter().chain(first).min())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_open_call_of_all_workers_is_named() {
        let (one, two) = (OpenCalls::default(), OpenCalls::default());
        let oldest = one.began(Time::from_ns(5));
        one.began(Time::from_ns(9));
        two.began(Time::from_ns(7));
        assert_eq!(
            summary([&one, &two].into_iter()),
            (3, Some(Time::from_ns(5)))
        );
        one.ended(oldest);
        assert_eq!(
            summary([&one, &two].into_iter()),
            (2, Some(Time::from_ns(7)))
        );
        assert_eq!(summary([&OpenCalls::default()].into_iter()), (0, None));
    }
}
