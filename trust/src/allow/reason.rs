//! Why a call was decided as it was, in stable words.

use counterfoil_entry::word::Decision;

use crate::token::Fault;

/// Why a call was decided as it was. The words are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// There is no bundle, so that nothing is allowed.
    BundleMissing,
    /// The grant has expired.
    GrantExpired,
    /// The consumer has no grant for the operation.
    GrantNone,
    /// The grant is not valid yet.
    GrantNotStarted,
    /// A grant allows it.
    Granted,
    /// Host and authority of the request disagree, or name another workload.
    HostMismatch,
    /// The path is declared, with other methods.
    MethodNotDeclared,
    /// The operation is open to every workload of the trust domain.
    OpenOperation,
    /// The path could be read in more than one way.
    PathAmbiguous,
    /// The request is malformed.
    ReqMalformed,
    /// No operation has this path.
    RouteUnknown,
    /// The API wants a token, and the request has none that is good for the operation.
    Token(Fault),
    /// The API wants a token alone, and the request has one whose scope names the operation.
    TokenGranted,
}

impl Reason {
    /// The stable word, as entries hold it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BundleMissing => "bundle_missing",
            Self::GrantExpired => "grant_expired",
            Self::GrantNone => "grant_none",
            Self::GrantNotStarted => "grant_not_started",
            Self::Granted => "granted",
            Self::HostMismatch => "host_mismatch",
            Self::MethodNotDeclared => "method_not_declared",
            Self::OpenOperation => "open_operation",
            Self::PathAmbiguous => "path_ambiguous",
            Self::ReqMalformed => "req_malformed",
            Self::RouteUnknown => "route_unknown",
            Self::Token(fault) => fault.as_str(),
            Self::TokenGranted => "token_granted",
        }
    }

    /// The decision that goes with it.
    pub fn decision(self) -> Decision {
        match self {
            Self::Granted | Self::OpenOperation | Self::TokenGranted => Decision::Allow,
            _ => Decision::Deny,
        }
    }
}
