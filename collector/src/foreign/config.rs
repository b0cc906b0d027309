//! Where foreign systems are listened for, and how long what they send is kept.

use std::fmt;
use std::net::SocketAddr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// An address to listen on, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Nothing is listened on.
    Off,
    /// Plain on loopback; anywhere else over mutual TLS with the collector's SVID and roots.
    On(SocketAddr),
}

/// Section `[otlp]`: receivers of OpenTelemetry traces.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpConfig {
    /// Address for OTLP/gRPC.
    #[serde(default = "grpc_listen")]
    pub grpc_listen: Port,
    /// Address for OTLP/HTTP.
    #[serde(default = "http_listen")]
    pub http_listen: Port,
    /// Retention class of spans.
    #[serde(default = "span_class")]
    pub class: String,
}

/// Section `[als]`: Envoy's access-log service, v3.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlsConfig {
    /// Address.
    #[serde(default = "als_listen")]
    pub listen: Port,
    /// Retention class of the entries.
    #[serde(default = "entry_class")]
    pub class: String,
    /// Side of an entry that does not tell it.
    #[serde(default)]
    pub default_side: DefaultSide,
}

/// Side of an access-log entry that does not tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultSide {
    /// The Envoys stand beside callers.
    Client,
    /// The Envoys stand in front of what is called.
    #[default]
    Server,
}

impl Port {
    /// The address, when there is one.
    #[must_use]
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::On(address) => Some(address),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On(address) => address.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "off" {
            return Ok(Self::Off);
        }
        let expected = "expected an address such as 127.0.0.1:4317, or off";
        text.parse()
            .map(Self::On)
            .map_err(|_| D::Error::custom(format!("{text}: {expected}")))
    }
}

fn loopback(port: u16) -> Port {
    Port::On(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn grpc_listen() -> Port {
    loopback(4317)
}

fn http_listen() -> Port {
    loopback(4318)
}

fn als_listen() -> Port {
    loopback(15418)
}

fn span_class() -> String {
    "trace_14d".to_owned()
}

fn entry_class() -> String {
    "ops_90d".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_listens_on_the_documented_ports_of_loopback() {
        let otlp: OtlpConfig = toml::from_str("").unwrap();
        let als: AlsConfig = toml::from_str("").unwrap();
        let ports = [otlp.grpc_listen, otlp.http_listen, als.listen].map(|port| port.to_string());
        assert_eq!(
            ports,
            ["127.0.0.1:4317", "127.0.0.1:4318", "127.0.0.1:15418"]
        );
    }

    #[test]
    fn a_receiver_can_be_off_and_another_word_is_refused() {
        let otlp: OtlpConfig = toml::from_str("grpc_listen = \"off\"").unwrap();
        assert_eq!(otlp.grpc_listen.address(), None);
        let refused = toml::from_str::<OtlpConfig>("http_listen = \"none\"").unwrap_err();
        assert!(refused.to_string().contains("or off"), "{refused}");
        assert!(toml::from_str::<AlsConfig>("default_side = \"left\"").is_err());
    }
}
