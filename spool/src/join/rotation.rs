//! One SVID after the other: renewed at half of its life, proven before it is used, each attempt a
//! row of `cert_rotations`.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::rows::CertRotationRow;
use counterfoil_entry::table::TableId;
use counterfoil_entry::{Time, clock};
use counterfoil_trust::{Identity, Svid};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::issue::{Issued, ask_for_svid, prove};
use super::kept;
use super::{IdentityConfig, JoinError, with_causes};
use crate::Lane;
use crate::backoff::{Backoff, fraction};

/// Share of a life at which it is renewed: a random one between these, so that a fleet that was
/// started at once does not stay in step.
const RENEW_FROM: f64 = 0.45;
const RENEW_UNTIL: f64 = 0.55;
/// From this share of a life on, what fails is an error: a tenth more, and calls are in danger.
const URGENT: f64 = 0.8;
/// Longest sleep between two looks at the wall clock, which may be set and goes on while a host is
/// suspended.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// What a request to control may take when no certificate is in danger.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Renews the identity's SVID at a random moment between 45 and 55 % of its life, until `shutdown`.
///
/// A new SVID is shown to control first, on a connection of its own; only when control has seen its
/// serial does the process use it. While control is away the old one stays in use, and renewal is
/// tried again, after a random pause whose bound doubles, for ever. Each attempt becomes a row of
/// `cert_rotations` on `lane`.
///
/// Cancel safe: an attempt that is broken off leaves no row.
pub async fn renew_loop(
    identity: Identity,
    config: IdentityConfig,
    lane: Lane,
    shutdown: CancellationToken,
) {
    let renewing = async move {
        let mut lane = lane;
        let mut rotations = Rotations::after(&config, &identity.current());
        let mut life = Life::of(&identity.current(), kept::received(&config));
        loop {
            life.renewal_is_due().await;
            let mut backoff = life.backoff();
            while let Err(error) = rotations.renew(&identity, &life, &mut lane).await {
                life.complain(&error);
                sleep(backoff.next()).await;
            }
            life = Life::of(&identity.current(), Some(clock::wall()));
        }
    };
    shutdown.run_until_cancelled(renewing).await;
}

/// A life of one SVID as its holder sees it: from when it was received, as `not_before` lies in
/// the past for the sake of peers whose clocks are behind.
#[derive(Debug, Clone, Copy)]
struct Life {
    begin: Time,
    end: Time,
}

impl Life {
    fn of(svid: &Svid, received: Option<Time>) -> Self {
        let not_before = svid.not_before();
        Self {
            begin: received.map_or(not_before, |at| at.max(not_before)),
            end: svid.not_after(),
        }
    }

    fn length(&self) -> Duration {
        nanoseconds(self.end.since_ns(self.begin))
    }

    /// The share of it that is over.
    fn gone(&self) -> f64 {
        let gone = nanoseconds(clock::wall().since_ns(self.begin));
        gone.as_secs_f64() / self.length().as_secs_f64().max(f64::MIN_POSITIVE)
    }

    async fn renewal_is_due(&self) {
        let share = (RENEW_UNTIL - RENEW_FROM).mul_add(fraction(), RENEW_FROM);
        loop {
            let left = self.length().mul_f64((share - self.gone()).max(0.0));
            if left.is_zero() {
                return;
            }
            sleep(left.min(LOOK_EVERY)).await;
        }
    }

    /// Pauses between attempts: 50 ms to 250 ms for a life of 10 s, 1 s to a minute for a day.
    fn backoff(&self) -> Backoff {
        let length = self.length();
        Backoff::new(
            (length / 200).clamp(Duration::from_millis(50), Duration::from_secs(1)),
            (length / 40).clamp(Duration::from_millis(250), Duration::from_secs(60)),
        )
    }

    /// What one request may take, so that a short life has room for several attempts.
    fn request_timeout(&self) -> Duration {
        (self.length() / 8).clamp(Duration::from_secs(2), REQUEST_TIMEOUT)
    }

    fn complain(&self, error: &JoinError) {
        let cause = std::error::Error::source(error).map(with_causes);
        let gone = self.gone();
        let percent = format!("{:.0}", gone * 100.0);
        if gone >= URGENT {
            tracing::error!(
                %error, cause, life_gone_percent = percent,
                "the SVID is not renewed: calls fail when it expires; it is tried again"
            );
        } else {
            tracing::warn!(
                %error, cause, life_gone_percent = percent,
                "cannot renew the SVID; it is tried again"
            );
        }
    }
}

/// The attempts of one cycle, which ends with the first that succeeds.
#[derive(Debug)]
pub(super) struct Rotations {
    config: IdentityConfig,
    /// The serial of the SVID with which the cycle began; none before the first.
    cycle: Option<String>,
    attempts: u64,
    is_failing: bool,
}

/// One attempt on its way.
struct Attempt {
    started_at: Time,
    old: Option<Arc<Svid>>,
    new: Option<Arc<Svid>>,
}

impl Rotations {
    /// The cycle of who has no SVID yet.
    pub(super) fn first(config: &IdentityConfig) -> Self {
        Self {
            config: config.clone(),
            cycle: None,
            attempts: 0,
            is_failing: false,
        }
    }

    /// The cycle of the SVID in use.
    fn after(config: &IdentityConfig, svid: &Svid) -> Self {
        Self {
            cycle: Some(svid.serial().to_owned()),
            ..Self::first(config)
        }
    }

    /// One attempt to get the first SVID.
    pub(super) async fn join(&mut self, lane: &mut Lane) -> Result<Identity, JoinError> {
        let mut attempt = self.begin(None);
        let joined = self.try_to_join(&mut attempt).await;
        self.end(attempt, joined.as_ref().err(), lane);
        joined
    }

    async fn try_to_join(&self, attempt: &mut Attempt) -> Result<Identity, JoinError> {
        let issued = ask_for_svid(&self.config, None, REQUEST_TIMEOUT).await?;
        attempt.new = Some(issued.identity.current());
        prove(&self.config, &issued.identity, REQUEST_TIMEOUT).await?;
        issued.kept.write(&self.config)?;
        Ok(issued.identity)
    }

    /// One attempt to renew `identity`.
    async fn renew(
        &mut self,
        identity: &Identity,
        life: &Life,
        lane: &mut Lane,
    ) -> Result<(), JoinError> {
        let mut attempt = self.begin(Some(identity.current()));
        let renewed = self.try_to_renew(&mut attempt, identity, life).await;
        self.end(attempt, renewed.as_ref().err(), lane);
        renewed?;
        let svid = identity.current();
        tracing::info!(serial = svid.serial(), not_after = %svid.not_after(), "SVID renewed");
        *self = Self {
            is_failing: self.is_failing,
            ..Self::after(&self.config, &svid)
        };
        Ok(())
    }

    async fn try_to_renew(
        &self,
        attempt: &mut Attempt,
        identity: &Identity,
        life: &Life,
    ) -> Result<(), JoinError> {
        let has_expired = || identity.current().not_after() <= clock::wall();
        let within = life.request_timeout();
        let by = (!has_expired()).then_some(identity);
        let Issued {
            identity: new,
            kept,
        } = ask_for_svid(&self.config, by, within).await?;
        attempt.new = Some(new.current());
        match prove(&self.config, &new, within).await {
            Ok(()) => identity.replace(new.current()),
            Err(error) => {
                // an unproven SVID is better than one that nobody takes, never than a good one
                if has_expired() && !matches!(error, JoinError::Clock) {
                    identity.replace(new.current());
                }
                return Err(error);
            }
        }
        // A full disk does not end who runs: only the next start goes without this SVID.
        if let Err(error) = kept.write(&self.config) {
            let cause = std::error::Error::source(&error).map(with_causes);
            tracing::error!(%error, cause, "cannot keep the renewed SVID; it is used all the same");
        }
        Ok(())
    }

    fn begin(&mut self, old: Option<Arc<Svid>>) -> Attempt {
        self.attempts += 1;
        Attempt {
            started_at: clock::wall(),
            old,
            new: None,
        }
    }

    fn end(&mut self, attempt: Attempt, error: Option<&JoinError>, lane: &mut Lane) {
        let trigger = match (self.attempts, &self.cycle) {
            (1, None) => "first",
            (1, Some(_)) => "scheduled",
            _ => "retry",
        };
        let serial = |svid: &Arc<Svid>| svid.serial().to_owned();
        let outcome = if error.is_none() { "success" } else { "failed" };
        let row = CertRotationRow {
            attempt_id: new_id(),
            workload: self.config.spiffe_id.clone(),
            cycle: self.cycle.clone().unwrap_or_else(|| "first".to_owned()),
            attempt: self.attempts,
            trigger: trigger.to_owned(),
            old_serial: attempt.old.as_ref().map(serial),
            old_not_after: attempt.old.map(|svid| svid.not_after()),
            new_serial: attempt.new.as_ref().map(serial),
            new_not_after: attempt.new.map(|svid| svid.not_after()),
            started_at: attempt.started_at,
            ended_at: clock::wall(),
            outcome: outcome.to_owned(),
            error_class: error.map(|error| error.class().to_owned()),
        };
        self.write(&row, lane);
    }

    /// What does not fit is dropped and counted by the spool: a certificate does not wait for books.
    fn write(&mut self, row: &CertRotationRow, lane: &mut Lane) {
        let appended = lane.append(TableId::CertRotations, &class(), |header, out| {
            row.encode(header, out);
        });
        let failed = appended.err();
        if self.is_failing != failed.is_some() {
            self.is_failing = failed.is_some();
            match failed {
                None => tracing::info!("the spool takes rows of rotations again"),
                Some(error) => {
                    tracing::error!(%error, "rows of rotations are dropped and counted");
                }
            }
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "the text is a constant and a test parses it"
)]
fn class() -> RetentionClass {
    RetentionClass::parse("audit_7y").expect("a constant class")
}

/// A random name of an attempt; by the clock when the system gives no randomness.
fn new_id() -> String {
    let mut bytes = [0; 16];
    match rand::fill(&mut bytes) {
        Ok(()) => hex::encode(bytes),
        Err(_) => format!("{:032x}", clock::wall().as_ns()),
    }
}

fn nanoseconds(ns: i64) -> Duration {
    Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(length_s: i64, gone_s: i64) -> Life {
        let begin = clock::wall().plus_ns(-gone_s * 1_000_000_000);
        Life {
            begin,
            end: begin.plus_ns(length_s * 1_000_000_000),
        }
    }

    #[test]
    fn rows_of_rotations_have_a_class() {
        assert_eq!(class().as_str(), "audit_7y");
    }

    #[test]
    fn pauses_and_deadlines_grow_with_the_life() {
        let of = |length_s| {
            let life = life(length_s, 0);
            let mut backoff = life.backoff();
            let longest = (0..40).map(|_| backoff.next()).max().unwrap();
            (longest, life.request_timeout())
        };
        let (pause, deadline) = of(10);
        assert!(pause <= Duration::from_millis(250), "{pause:?}");
        assert_eq!(deadline, Duration::from_secs(2));
        let (pause, deadline) = of(86_400);
        assert!(pause <= Duration::from_secs(60), "{pause:?}");
        assert!(pause > Duration::from_secs(10), "{pause:?}");
        assert_eq!(deadline, REQUEST_TIMEOUT);
    }

    #[tokio::test]
    async fn a_life_that_is_half_over_is_renewed_at_once() {
        tokio::time::timeout(Duration::from_secs(1), life(3_600, 1_990).renewal_is_due())
            .await
            .unwrap();
    }
}
