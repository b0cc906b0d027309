//! The access tokens that are still good, so that those of a right that is taken away end with it.
//!
//! In the access mode `token` the proxy looks at no grant: a revoked one ends its tokens through the
//! list in the callee's bundle alone. Tokens are remembered over a restart, by name and never whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use counterfoil_entry::Time;
use counterfoil_trust::SpiffeId;
use serde::{Deserialize, Serialize};

use crate::catalogue::{Catalogue, GrantState};
use crate::jsonlines::{JsonLines, LinesError};

const FILE: &str = "tokens.jsonl";
const MODE: u32 = 0o600;
/// Proxies allow for clocks that differ by 5 s; a token is forgotten when no proxy takes it any more.
const FORGOTTEN_AFTER_NS: i64 = 10 * 1_000_000_000;
/// A hundred instances of one workload that renew their certificates ten times in an hour. Revoked at
/// once they make a list of 35 kB.
const HELD_MAX: usize = 1_024;

/// A token that was given out. The token itself is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Live {
    pub(crate) jti: String,
    /// Who may show it.
    pub(crate) caller: SpiffeId,
    pub(crate) api: String,
    pub(crate) operations: Vec<String>,
    /// Until when, in seconds since the Unix epoch.
    pub(crate) exp_s: i64,
}

/// Why a token cannot be given out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LiveError {
    #[error("the caller has {HELD_MAX} tokens for this API that are good still")]
    TooMany,
    #[error("a token cannot be remembered")]
    Lines(#[from] LinesError),
}

/// All of them, by API.
#[derive(Debug)]
pub(crate) struct LiveTokens {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: JsonLines<Live>,
    by_api: BTreeMap<String, Vec<Live>>,
    /// How many there were when those that are over were forgotten last.
    kept: usize,
}

impl LiveTokens {
    /// Goes on with those of the last process.
    pub(crate) fn open(dir: &Path, now: Time) -> Result<Self, LinesError> {
        let (file, lines) = JsonLines::<Live>::open(&dir.join(FILE), MODE)?;
        let mut by_api = BTreeMap::<_, Vec<_>>::new();
        for live in lines {
            by_api.entry(live.api.clone()).or_default().push(live);
        }
        let mut inner = Inner {
            file,
            by_api,
            kept: 0,
        };
        inner.forget(now)?;
        let inner = Mutex::new(inner);
        Ok(Self { inner })
    }

    /// Takes in the token that `decide` allows, and gives what came with it.
    ///
    /// `decide` must look at the newest catalogue: a catalogue that is put in force before is seen by
    /// it, and one that comes after sees the token, so that no token slips between.
    pub(crate) fn admit<T, E: From<LiveError>>(
        &self,
        now: Time,
        decide: impl FnOnce() -> Result<(Live, T), E>,
    ) -> Result<T, E> {
        let mut inner = self.lock();
        let (live, with) = decide()?;
        inner.take(live, now)?;
        Ok(with)
    }

    /// The names of the tokens for the APIs of `server` that hold more than `catalogue` grants.
    pub(crate) fn revoked(
        &self,
        catalogue: &Catalogue,
        server: &SpiffeId,
        now: Time,
    ) -> Vec<String> {
        let mut inner = self.lock();
        let mut revoked = Vec::new();
        for api in catalogue.apis_of(server) {
            let Some(tokens) = inner.by_api.get_mut(&api.api) else {
                continue;
            };
            tokens.retain(|live| live.counts(now));
            let over = tokens.iter().filter(|live| !live.is_granted(catalogue));
            revoked.extend(over.map(|live| live.jti.clone()));
        }
        revoked.sort_unstable();
        revoked
    }

    /// Nothing is left half done by a panic elsewhere.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self, live: Live, now: Time) -> Result<(), LiveError> {
        let held = |tokens: &Vec<Live>| {
            let of_caller = tokens.iter().filter(|held| held.caller == live.caller);
            of_caller.filter(|held| held.counts(now)).count()
        };
        if self.by_api.get(&live.api).map_or(0, held) >= HELD_MAX {
            return Err(LiveError::TooMany);
        }
        if self.file.is_due(self.kept) {
            self.forget(now)?;
        }
        self.file.append([&live], false)?;
        self.by_api.entry(live.api.clone()).or_default().push(live);
        Ok(())
    }

    fn forget(&mut self, now: Time) -> Result<(), LinesError> {
        for tokens in self.by_api.values_mut() {
            tokens.retain(|live| live.counts(now));
        }
        self.by_api.retain(|_, tokens| !tokens.is_empty());
        self.kept = self.by_api.values().map(Vec::len).sum();
        self.file.renew(self.by_api.values().flatten())
    }
}

impl Live {
    /// Whether a proxy may take it yet.
    fn counts(&self, now: Time) -> bool {
        let expires_ns = self.exp_s.saturating_mul(1_000_000_000);
        now.as_ns() < expires_ns.saturating_add(FORGOTTEN_AFTER_NS)
    }

    /// Whether each of its operations is granted as long as it lasts.
    fn is_granted(&self, catalogue: &Catalogue) -> bool {
        let expires_ns = self.exp_s.saturating_mul(1_000_000_000);
        self.operations.iter().all(|operation| {
            catalogue
                .grants_of(&self.caller)
                .filter(|grant| grant.api == self.api && grant.state == GrantState::Approved)
                .filter(|grant| grant.expires.as_ns() >= expires_ns)
                .any(|grant| grant.operations.contains(operation))
        })
    }
}

#[cfg(test)]
mod tests {
    use counterfoil_entry::clock;

    use super::*;

    #[test]
    fn neither_memory_nor_file_grow_with_tokens_that_are_over() {
        let dir = tempfile::tempdir().unwrap();
        let now = clock::wall();
        let now_s = now.as_ns() / 1_000_000_000;
        let tokens = LiveTokens::open(dir.path(), now).unwrap();
        for at in 0..10_000 {
            let live = Live {
                jti: format!("j-{at}"),
                caller: SpiffeId::parse("spiffe://bank.test/workload/cart").unwrap(),
                api: format!("api-{}", at % 100),
                operations: vec!["list".to_owned()],
                // One in a hundred is good still.
                exp_s: now_s + if at % 100 == 7 { 3_600 } else { -60 },
            };
            let admitted = tokens.admit(now, || Ok::<_, LiveError>((live, ())));
            admitted.unwrap();
        }
        let held: usize = tokens.lock().by_api.values().map(Vec::len).sum();
        let lines = std::fs::read_to_string(dir.path().join(FILE))
            .unwrap()
            .lines()
            .count();
        assert!(held < 5_000 && lines < 5_000, "{held} {lines}");
        drop(tokens);
        let tokens = LiveTokens::open(dir.path(), now).unwrap();
        let held: usize = tokens.lock().by_api.values().map(Vec::len).sum();
        assert_eq!(held, 100);
    }
}
