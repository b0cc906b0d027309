//! The limit of open files, which a fleet in one process may pass.

use anyhow::{Context as _, bail};
use rustix::process::{Resource, getrlimit, setrlimit};

/// A proxy has one connection, and a second one while it joins or renews.
const FILES_A_PROXY: u64 = 2;
/// Pipes, logs, the runtime, control's spool and the collector's files.
const FILES_BESIDES: u64 = 512;

/// Raises the limit for this process and its children.
///
/// # Errors
/// When the system does not allow as many.
pub(super) fn raise(proxies: u32) -> anyhow::Result<()> {
    let needed = u64::from(proxies) * FILES_A_PROXY + FILES_BESIDES;
    let mut limit = getrlimit(Resource::Nofile);
    if is_enough(limit.current, needed) {
        return Ok(());
    }
    if !is_enough(limit.maximum, needed) {
        bail!(
            "{proxies} proxies need {needed} open files, and this process may have {}: raise the limit \
             (ulimit -Hn, LimitNOFILE of systemd) or take {} proxies",
            limit.maximum.unwrap_or(0),
            limit.maximum.unwrap_or(0).saturating_sub(FILES_BESIDES) / FILES_A_PROXY
        );
    }
    limit.current = Some(needed);
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}

/// No limit is enough for everything.
fn is_enough(limit: Option<u64>, needed: u64) -> bool {
    limit.is_none_or(|limit| limit >= needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_that_the_system_does_not_allow_is_refused_with_what_would_do() {
        raise(1).unwrap();
        let Some(most) = getrlimit(Resource::Nofile).maximum else {
            return;
        };
        let Ok(too_many) = u32::try_from(most) else {
            return;
        };
        let said = raise(too_many).unwrap_err().to_string();
        assert!(
            said.contains("ulimit") && said.contains(&most.to_string()),
            "{said}"
        );
    }
}
