//! What one connection remembers: its user, its settings, and how to stop its statement.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time;
use tokio_util::sync::CancellationToken;

use super::{Keys, lock};
use crate::engine::Limits;
use crate::guard::timeout_ms;
use crate::log::Asker;
use crate::settings;
use crate::users::Role;

/// The open connections, so that a cancel request finds its target.
#[derive(Debug)]
pub(crate) struct Sessions {
    keys: Keys,
    next: AtomicI32,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            keys: Keys::default(),
            next: AtomicI32::new(1),
        }
    }
}

impl Sessions {
    /// A number for a new connection.
    pub(crate) fn number(&self) -> i32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn add(&self, number: i32, key: Vec<u8>, session: &Arc<Session>) {
        let mut keys = lock(&self.keys);
        keys.retain(|_, (_, session)| session.strong_count() > 0);
        keys.insert(number, (key, Arc::downgrade(session)));
    }

    pub(crate) fn find(&self, number: i32, key: &[u8]) -> Option<Arc<Session>> {
        let keys = lock(&self.keys);
        let (expected, session) = keys.get(&number)?;
        constant_time::verify_slices_are_equal(expected, key).ok()?;
        session.upgrade()
    }
}

/// One logged-in connection.
#[derive(Debug)]
pub(crate) struct Session {
    asker: Asker,
    role: Role,
    start: BTreeMap<String, String>,
    settings: Mutex<BTreeMap<String, String>>,
    running: Mutex<CancellationToken>,
}

impl Session {
    pub(crate) fn new(asker: Asker, role: Role, application: Option<&str>) -> Self {
        let mut start = settings::defaults(&asker.principal);
        if let Some(application) = application {
            start.insert("application_name".to_owned(), application.to_owned());
        }
        Self {
            asker,
            role,
            settings: Mutex::new(start.clone()),
            start,
            running: Mutex::default(),
        }
    }

    /// Who asks, for the purpose that the session names now.
    pub(crate) fn asker(&self) -> Asker {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let purpose = settings.get(settings::PURPOSE).map(|text| text.trim());
        Asker {
            purpose: purpose.filter(|text| !text.is_empty()).map(str::to_owned),
            ..self.asker.clone()
        }
    }

    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        self.settings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sets `name` for this session; `None` as at its start.
    pub(crate) fn set(&self, name: &str, value: Option<String>) {
        let value = value
            .or_else(|| self.start.get(name).cloned())
            .unwrap_or_default();
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings.insert(name.to_owned(), value);
    }

    pub(crate) fn reset(&self) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = self.start.clone();
    }

    /// The role's limits, with the session's own timeout where it is shorter.
    pub(crate) fn limits(&self) -> Limits {
        let limits = self.role.limits();
        let own = self
            .settings()
            .get("statement_timeout")
            .and_then(|text| timeout_ms(text));
        match own.filter(|ms| *ms > 0) {
            Some(ms) => Limits {
                timeout: limits.timeout.min(Duration::from_millis(ms)),
                ..limits
            },
            None => limits,
        }
    }

    /// A token that the next cancel request fires.
    pub(crate) fn begin_statement(&self) -> CancellationToken {
        let token = CancellationToken::new();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = token.clone();
        token
    }

    pub(crate) fn cancel(&self) {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .cancel();
    }
}
