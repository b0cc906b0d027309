//! Tokens that have been verified, so that a caller's next request costs a hash and not a signature.

use std::collections::HashMap;
use std::sync::Arc;

use counterfoil_entry::Hash;

use super::claims::Held;

/// Tokens in each of the two halves: together twice the estate's two thousand callers.
const HALF_MAX: usize = 2_048;

/// Under what a verified token is kept: the token itself is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// SHA-256 of the token.
    pub(super) token: Hash,
    /// SHA-256 of the certificate with which it was shown.
    pub(super) cert: Hash,
}

/// The tokens that one worker has verified. Bounded: what was not shown for a while makes room.
///
/// Two halves stand for an order of use: a token is found in the young one, or moved there; when that
/// is full it becomes the old one, and what the old one held is forgotten.
#[derive(Debug, Default)]
pub struct TokenCache {
    rules: Hash,
    young: HashMap<Key, Arc<Held>>,
    old: HashMap<Key, Arc<Held>>,
}

impl TokenCache {
    /// How many tokens it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything when issuer or keys are other ones than before.
    pub(super) fn follow(&mut self, rules: Hash) {
        if self.rules != rules {
            *self = Self {
                rules,
                ..Self::default()
            };
        }
    }

    pub(super) fn find(&mut self, key: &Key) -> Option<&Held> {
        if let Some(held) = self.old.remove(key) {
            self.keep(*key, held);
        }
        self.young.get(key).map(|held| &**held)
    }

    pub(super) fn keep(&mut self, key: Key, held: Arc<Held>) {
        if self.young.len() >= HALF_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, held);
    }
}
