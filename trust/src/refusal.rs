//! Why a peer was refused, in words that stay the same in entries, logs and documents.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, OtherError};

/// Why a handshake or a certificate chain was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoClientCert,
    /// The chain does not lead to a trusted root, or the certificate may not be used so.
    #[error("the peer's certificate is not trusted for this use")]
    Untrusted,
    /// The certificate has expired.
    #[error("the peer's certificate has expired")]
    Expired,
    /// The certificate is not valid yet.
    #[error("the peer's certificate is not valid yet")]
    NotYetValid,
    /// The certificate does not hold exactly one well-formed SPIFFE id.
    #[error("the peer's certificate does not hold exactly one well-formed SPIFFE id")]
    IdMalformed,
    /// The peer is of another trust domain, or another workload than the one expected.
    #[error("the peer is not the expected workload")]
    WrongPeer,
    /// The peer does not speak TLS 1.3 as this side demands it, or it broke the protocol.
    #[error("the peer does not speak TLS as demanded")]
    Protocol,
}

impl Refusal {
    /// Every refusal there is.
    pub const ALL: [Self; 7] = [
        Self::NoClientCert,
        Self::Untrusted,
        Self::Expired,
        Self::NotYetValid,
        Self::IdMalformed,
        Self::WrongPeer,
        Self::Protocol,
    ];

    /// The stable word for entries and answers.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoClientCert => "tls_no_client_cert",
            Self::Untrusted => "tls_untrusted",
            Self::Expired => "tls_expired",
            Self::NotYetValid => "tls_not_yet_valid",
            Self::IdMalformed => "id_malformed",
            Self::WrongPeer => "tls_wrong_peer",
            Self::Protocol => "tls_protocol",
        }
    }
}

/// What refused a handshake, read from the error that it ended with.
///
/// The side that refuses learns the exact reason. The other side sees only the alert: it cannot tell
/// [`Refusal::IdMalformed`] and [`Refusal::WrongPeer`] from [`Refusal::Untrusted`].
pub fn refusal_of(error: &Error) -> Refusal {
    match error {
        Error::NoCertificatesPresented => Refusal::NoClientCert,
        Error::InvalidCertificate(certificate) => of_certificate(certificate),
        Error::AlertReceived(alert) => of_alert(*alert),
        _ => Refusal::Protocol,
    }
}

/// What refused a handshake that an accept or a connect future ended with; `None` when the
/// transport failed instead, as by a reset.
pub fn refusal_of_io(error: &io::Error) -> Option<Refusal> {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
        .map(refusal_of)
}

impl From<Refusal> for Error {
    /// The error by which a verifier refuses: with the fitting alert where TLS has one, and such
    /// that [`refusal_of`] gives the same refusal back.
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoClientCert => Self::NoCertificatesPresented,
            Refusal::Untrusted => Self::InvalidCertificate(CertificateError::UnknownIssuer),
            Refusal::Expired => Self::InvalidCertificate(CertificateError::Expired),
            Refusal::NotYetValid => Self::InvalidCertificate(CertificateError::NotValidYet),
            Refusal::IdMalformed | Refusal::WrongPeer | Refusal::Protocol => {
                let exact = OtherError(std::sync::Arc::new(refusal));
                Self::InvalidCertificate(CertificateError::Other(exact))
            }
        }
    }
}

fn of_certificate(error: &CertificateError) -> Refusal {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Refusal::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Refusal::NotYetValid
        }
        CertificateError::Other(other) => other
            .0
            .downcast_ref::<Refusal>()
            .copied()
            .unwrap_or(Refusal::Untrusted),
        _ => Refusal::Untrusted,
    }
}

fn of_alert(alert: AlertDescription) -> Refusal {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => Refusal::NoClientCert,
        A::CertificateExpired => Refusal::Expired,
        A::UnknownCA
        | A::BadCertificate
        | A::CertificateUnknown
        | A::CertificateRevoked
        | A::UnsupportedCertificate
        | A::AccessDenied
        | A::DecryptError => Refusal::Untrusted,
        _ => Refusal::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_survives_the_way_through_a_rustls_error() {
        for refusal in Refusal::ALL {
            assert_eq!(refusal_of(&Error::from(refusal)), refusal);
            let io = io::Error::new(io::ErrorKind::InvalidData, Error::from(refusal));
            assert_eq!(refusal_of_io(&io), Some(refusal));
        }
    }

    #[test]
    fn a_reset_is_not_a_refusal() {
        assert_eq!(
            refusal_of_io(&io::Error::from(io::ErrorKind::ConnectionReset)),
            None
        );
    }

    #[test]
    fn reasons_are_distinct() {
        let reasons: std::collections::BTreeSet<_> =
            Refusal::ALL.iter().map(|r| r.reason()).collect();
        assert_eq!(reasons.len(), Refusal::ALL.len());
    }
}
