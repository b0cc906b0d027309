//! The clock of one call: how much of its time went into waiting for others.

/// Whom the call waits for. Exactly one at any time, so that the waits never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Nobody: the proxy itself is at work.
    Nobody,
    /// The next hop: connecting, sending, waiting, receiving.
    Upstream,
    /// The caller: a slow upload, a slow reader.
    Caller,
}

/// Nanoseconds of one call, split by [`Waiting`]. All instants are monotonic.
#[derive(Debug)]
pub(crate) struct Waits {
    begun_ns: u64,
    since_ns: u64,
    waiting: Waiting,
    upstream_ns: u64,
    downstream_ns: u64,
    responding: bool,
}

/// The split of a call's time; `duration_ns` is the sum of the other three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) duration_ns: u64,
    pub(crate) upstream_ns: u64,
    pub(crate) downstream_ns: u64,
    pub(crate) overhead_ns: u64,
}

impl Waits {
    pub(crate) const fn begin(now_ns: u64) -> Self {
        Self {
            begun_ns: now_ns,
            since_ns: now_ns,
            waiting: Waiting::Nobody,
            upstream_ns: 0,
            downstream_ns: 0,
            responding: false,
        }
    }

    pub(crate) const fn begun_ns(&self) -> u64 {
        self.begun_ns
    }

    /// From now on the call waits for `next`.
    pub(crate) const fn turn(&mut self, next: Waiting, now_ns: u64) {
        let spent = now_ns.saturating_sub(self.since_ns);
        match self.waiting {
            Waiting::Nobody => {}
            Waiting::Upstream => self.upstream_ns += spent,
            Waiting::Caller => self.downstream_ns += spent,
        }
        self.since_ns = now_ns;
        self.waiting = next;
    }

    /// As [`Self::turn`], said by the request's body. Once the response has begun, the response's
    /// side alone tells whom the call waits for.
    pub(crate) const fn turn_while_uploading(&mut self, next: Waiting, now_ns: u64) {
        if !self.responding {
            self.turn(next, now_ns);
        }
    }

    /// The response has begun.
    pub(crate) const fn respond(&mut self, now_ns: u64) {
        self.turn(Waiting::Nobody, now_ns);
        self.responding = true;
    }

    /// Ends the clock.
    pub(crate) const fn spent(&mut self, now_ns: u64) -> Spent {
        self.turn(Waiting::Nobody, now_ns);
        let duration_ns = now_ns.saturating_sub(self.begun_ns);
        Spent {
            duration_ns,
            upstream_ns: self.upstream_ns,
            downstream_ns: self.downstream_ns,
            overhead_ns: duration_ns.saturating_sub(self.upstream_ns + self.downstream_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nanosecond_goes_to_exactly_one_side() {
        let mut waits = Waits::begin(1_000);
        waits.turn(Waiting::Upstream, 1_010);
        waits.turn_while_uploading(Waiting::Caller, 1_040);
        waits.turn_while_uploading(Waiting::Upstream, 1_140);
        waits.respond(1_640);
        waits.turn(Waiting::Caller, 1_645);
        waits.turn(Waiting::Nobody, 1_745);
        assert_eq!(
            waits.spent(1_750),
            Spent {
                duration_ns: 750,
                upstream_ns: 530,
                downstream_ns: 200,
                overhead_ns: 20
            }
        );
    }

    #[test]
    fn an_upload_that_goes_on_after_the_response_began_moves_no_time() {
        let mut waits = Waits::begin(0);
        waits.respond(5);
        waits.turn(Waiting::Upstream, 10);
        waits.turn_while_uploading(Waiting::Caller, 20);
        let spent = waits.spent(110);
        assert_eq!(
            (spent.upstream_ns, spent.downstream_ns, spent.overhead_ns),
            (100, 0, 10)
        );
    }

    #[test]
    fn a_clock_that_stands_still_gives_no_negative_overhead() {
        let mut waits = Waits::begin(100);
        waits.turn(Waiting::Upstream, 90);
        assert_eq!(waits.spent(80).overhead_ns, 0);
    }
}
