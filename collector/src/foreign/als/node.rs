//! Which Envoy sends: the parts of its node that entries tell.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node as EnvoyNode;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;

/// Bytes of a text at most; what is longer is cut.
const TEXT_BYTES_MAX: usize = 256;

/// The node of a stream.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: String,
    /// Name of the service that it stands beside.
    pub(crate) service: Option<Arc<str>>,
    pub(crate) site: Option<Arc<str>>,
    pub(crate) zone: Option<Arc<str>>,
    /// As in `envoy 1.40.0`.
    pub(crate) build: Arc<str>,
}

impl Node {
    pub(crate) fn new(node: &EnvoyNode) -> Self {
        let locality = node.locality.clone().unwrap_or_default();
        let version = match &node.user_agent_version_type {
            Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
            Some(UserAgentVersionType::UserAgentBuildVersion(build)) => {
                build.version.map_or_else(String::new, |version| {
                    let (major, minor) = (version.major_number, version.minor_number);
                    format!("{major}.{minor}.{}", version.patch)
                })
            }
            None => String::new(),
        };
        let build = format!("{} {version}", node.user_agent_name);
        Self {
            id: node.id.clone(),
            service: text(service(&node.cluster)),
            site: text(&locality.region),
            zone: text(&locality.zone),
            build: text(build.trim()).unwrap_or_else(|| Arc::from("envoy")),
        }
    }
}

/// The service in a name of a cluster: Istio's `outbound|9080||reviews.shop.svc.cluster.local` and
/// `reviews.shop` name `reviews`; `inbound|9080||` names none; another name is its own service.
pub(crate) fn service(cluster: &str) -> &str {
    let host = cluster.rsplit('|').next().unwrap_or(cluster);
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    match host.split_once('.') {
        Some((first, _)) if !is_address => first,
        _ => host,
    }
}

/// `text` in its bounds; `None` when it is empty.
pub(crate) fn text(text: &str) -> Option<Arc<str>> {
    let text = text
        .get(..text.floor_char_boundary(TEXT_BYTES_MAX))
        .unwrap_or_default();
    (!text.is_empty()).then(|| Arc::from(text))
}
