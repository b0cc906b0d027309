//! Section `[alerts]` of query's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;

use super::alertmanager::Member;
use crate::config::ConfigError;

/// How alerts are judged and whom they are told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertsConfig {
    /// Base URLs of all members of the Alertmanager cluster, each told by itself.
    pub alertmanagers: Vec<String>,
    /// PEM certificates by which members with https URLs are believed.
    pub ca_file: Option<PathBuf>,
    /// Labels that every alert gets, such as `env = "prod"`.
    pub labels: BTreeMap<String, String>,
    /// Seconds between two evaluations, 1 to 300.
    pub every_s: u64,
    /// Seconds after which the same alerts are sent again, 1 to 300.
    pub resend_s: u64,
    /// Seconds between two verifications of the whole books, which read every sealed row; 0 for none.
    pub verify_every_s: u64,
    /// File that keeps the alerts over a restart. Default: `alerts.json` in the identity's `state_dir`.
    pub state_file: Option<PathBuf>,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            alertmanagers: Vec::new(),
            ca_file: None,
            labels: BTreeMap::new(),
            every_s: 30,
            resend_s: 30,
            verify_every_s: 3_600,
            state_file: None,
        }
    }
}

impl AlertsConfig {
    /// Checks each value, and what a single one does not tell.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with the key.
    pub(super) fn members(&self) -> Result<Vec<Member>, ConfigError> {
        for (key, value) in [
            ("alerts.every_s", self.every_s),
            ("alerts.resend_s", self.resend_s),
        ] {
            if !(1..=300).contains(&value) {
                return Err(refused(key, value.to_string(), "1 to 300"));
            }
        }
        for name in self.labels.keys() {
            let is_name = name.chars().enumerate().all(|(at, c)| {
                c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit())
            });
            if !is_name || name.is_empty() {
                let accepted =
                    "a label's name is of letters, digits and _, and begins with no digit";
                return Err(refused("alerts.labels", name.clone(), accepted));
            }
        }
        let every = Duration::from_secs(self.resend_s);
        let each = self.alertmanagers.iter().map(|url| {
            let (uri, tls) = (self.uri(url)?, self.tls(url)?);
            Ok(Member::new(uri, tls, self.labels.clone(), every))
        });
        each.collect()
    }

    fn uri(&self, url: &str) -> Result<Uri, ConfigError> {
        let accepted = "http://host:port or https://host:port, and nothing after a path";
        let uri: Uri = url
            .parse()
            .map_err(|_| refused("alerts.alertmanagers", url.to_owned(), accepted))?;
        let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
        let has_login = uri.authority().is_some_and(|of| of.as_str().contains('@'));
        if !is_known || uri.host().is_none() || uri.query().is_some() || has_login {
            // Not the text itself: it may hold a password.
            let value = uri.host().unwrap_or_default().to_owned();
            return Err(refused("alerts.alertmanagers", value, accepted));
        }
        Ok(uri)
    }

    fn tls(&self, url: &str) -> Result<Option<Arc<rustls::ClientConfig>>, ConfigError> {
        if !url.starts_with("https://") {
            return Ok(None);
        }
        let key = "alerts.ca_file";
        let Some(file) = &self.ca_file else {
            let accepted =
                "an https URL needs the file of the certificates by which it is believed";
            return Err(refused(key, String::new(), accepted));
        };
        let value = file.display().to_string();
        let unusable = || refused(key, value.clone(), "a readable file of PEM certificates");
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|_| unusable())? {
            let certificate = certificate.map_err(|_| unusable())?;
            roots.add(certificate).map_err(|_| unusable())?;
        }
        if roots.is_empty() {
            return Err(unusable());
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| unusable())?;
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        Ok(Some(Arc::new(config)))
    }
}

fn refused(key: &'static str, value: String, accepted: &'static str) -> ConfigError {
    ConfigError::Value {
        key,
        value,
        accepted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_refused_with_their_key() {
        for (text, key) in [
            ("every_s = 0", "alerts.every_s"),
            ("resend_s = 301", "alerts.resend_s"),
            ("alertmanagers = [\"ftp://a\"]", "alerts.alertmanagers"),
            (
                "alertmanagers = [\"http://u:secret@a:9093\"]",
                "alerts.alertmanagers",
            ),
            ("alertmanagers = [\"https://a:9093\"]", "alerts.ca_file"),
            ("labels = { \"bad-label\" = \"x\" }", "alerts.labels"),
        ] {
            let config: AlertsConfig = toml::from_str(text).unwrap();
            let error = config.members().unwrap_err().to_string();
            assert!(error.contains(key) && !error.contains("secret"), "{error}");
        }
        let good = "alertmanagers = [\"http://[::1]:9093/am/\"]\nlabels = { env = \"prod\" }";
        let config: AlertsConfig = toml::from_str(good).unwrap();
        assert_eq!(config.members().unwrap().len(), 1);
        assert!(toml::from_str::<AlertsConfig>("alertmanager = []").is_err());
    }
}
