//! Why something was not taken from a foreign system, and how that is said over HTTP and gRPC.

use http::StatusCode;

use super::counters::Count;

/// Why a request was not taken. None of it is in the books.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// The bytes are not what the protocol says.
    #[error("the request cannot be read: {0}")]
    Malformed(String),
    /// More bytes, or more items, than are taken at once.
    #[error("the request is larger than {0}: send smaller batches")]
    TooLarge(&'static str),
    /// The peer went away.
    #[error("the connection broke off")]
    Gone,
    /// The peer did not send on.
    #[error("the request did not come within 10 s: send it again")]
    Slow,
    /// A service or encoding that is not offered.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Too many others.
    #[error("too many requests are on their way: send it again in a second")]
    Busy,
    /// The spool has no room.
    #[error("the collector's spool is full: send it again in a second")]
    SpoolFull,
    /// The disk refused.
    #[error("the collector cannot write to its disk: send it again in a second")]
    Disk,
    /// The collector stops.
    #[error("the collector is stopping: send it again in a second")]
    Closing,
}

impl Trouble {
    pub(crate) const fn http_status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::Gone => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::SpoolFull | Self::Disk | Self::Closing => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Number of the gRPC status.
    pub(crate) const fn grpc_status(&self) -> u8 {
        match self {
            Self::Gone => 1,
            Self::Malformed(_) => 3,
            Self::Slow => 4,
            Self::TooLarge(_) => 8,
            Self::Unsupported(_) => 12,
            Self::Busy | Self::SpoolFull | Self::Disk | Self::Closing => 14,
        }
    }

    /// Whether the same request may be taken later.
    pub(crate) const fn is_passing(&self) -> bool {
        matches!(self.grpc_status(), 4 | 14)
    }

    pub(crate) const fn count(&self) -> Count {
        match self {
            Self::Malformed(_) => Count::RequestsMalformed,
            Self::Gone => Count::RequestsGone,
            Self::TooLarge(_) => Count::RequestsTooLarge,
            Self::Slow => Count::RequestsSlow,
            Self::Unsupported(_) => Count::RequestsUnsupported,
            Self::Busy | Self::Closing => Count::RequestsBusy,
            Self::SpoolFull => Count::RequestsSpoolFull,
            Self::Disk => Count::RequestsDisk,
        }
    }
}
