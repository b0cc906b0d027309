//! Whether an identity's configuration can be used, before anything is opened.

use counterfoil_trust::{SpiffeId, TrustRoots};

use super::{IdentityConfig, kept, with_causes};

/// A key of the section `[identity]` whose value, or the file that it names, cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("identity.{key} = {value:?}: {detail}")]
pub struct UnusableIdentity {
    /// The key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl IdentityConfig {
    /// Reads what the keys name: ids, control's address, roots, the kept SVID or else the join token.
    ///
    /// # Errors
    /// [`UnusableIdentity`] for the first that [`join`](super::join) could not use, however often it tried.
    pub fn check(&self) -> Result<(), UnusableIdentity> {
        let unusable = |key, value: &dyn std::fmt::Display, detail: String| UnusableIdentity {
            key,
            value: value.to_string(),
            detail,
        };
        for (key, id) in [
            ("spiffe_id", Some(&self.spiffe_id)),
            ("control_spiffe_id", self.control_spiffe_id.as_ref()),
        ] {
            if let Some(Err(error)) = id.map(|id| SpiffeId::parse(id)) {
                return Err(unusable(
                    key,
                    &id.map_or("", String::as_str),
                    error.to_string(),
                ));
            }
        }
        let is_address = self.control.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if !is_address {
            let expected = "expected host:port, as in 127.0.0.1:15443".to_owned();
            return Err(unusable("control", &self.control, expected));
        }
        let roots = std::fs::read_to_string(&self.roots_pem_file)
            .map_err(|error| error.to_string())
            .and_then(|pem| TrustRoots::from_pem(&pem).map_err(|error| with_causes(&error)));
        let wrong_roots =
            |detail| unusable("roots_pem_file", &self.roots_pem_file.display(), detail);
        let roots = roots.map_err(wrong_roots)?;
        let domain = SpiffeId::parse(&self.spiffe_id).map(|id| id.trust_domain().to_owned());
        if domain.is_ok_and(|domain| roots.are_foreign_to(&domain)) {
            let detail = "its roots are of another trust domain than spiffe_id: give the roots of its own, which control keeps as control/ca.pem in its data directory";
            return Err(wrong_roots(detail.to_owned()));
        }
        let kept = kept::load(self).map_err(|error| {
            unusable("state_dir", &self.state_dir.display(), with_causes(&error))
        })?;
        if kept.is_some() {
            return Ok(());
        }
        let Some(file) = &self.join_token_file else {
            let detail = "is missing, and no usable SVID is kept in state_dir".to_owned();
            return Err(unusable("join_token_file", &"", detail));
        };
        let detail = match std::fs::read_to_string(file) {
            Ok(token) if !token.trim().is_empty() => return Ok(()),
            Ok(_) => "the file is empty".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(unusable("join_token_file", &file.display(), detail))
    }
}
