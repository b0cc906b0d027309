//! Closed sets of words in `entries`.

/// Whose proxy wrote an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The caller's.
    Client,
    /// The callee's.
    Server,
}

impl Side {
    /// Every value.
    pub const ALL: &[Self] = &[Self::Client, Self::Server];

    /// The word in the books.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// The value of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|value| value.as_str() == word)
    }
}

/// What a call went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// HTTP.
    Http,
    /// gRPC over HTTP/2.
    Grpc,
    /// An upgraded connection.
    Websocket,
    /// A byte stream.
    Tcp,
    /// A refused handshake.
    TlsFailure,
}

impl Kind {
    /// Every value.
    pub const ALL: &[Self] = &[
        Self::Http,
        Self::Grpc,
        Self::Websocket,
        Self::Tcp,
        Self::TlsFailure,
    ];

    /// The word in the books.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Websocket => "websocket",
            Self::Tcp => "tcp",
            Self::TlsFailure => "tls_failure",
        }
    }

    /// The value of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|value| value.as_str() == word)
    }
}

/// Which moment of a call an entry tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its end.
    Final,
    /// It still runs.
    Open,
    /// It is about to be forwarded.
    Intent,
    /// An intent whose end a crash hid.
    Unknown,
}

impl Phase {
    /// Every value.
    pub const ALL: &[Self] = &[Self::Final, Self::Open, Self::Intent, Self::Unknown];

    /// The word in the books.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Final => "final",
            Self::Open => "open",
            Self::Intent => "intent",
            Self::Unknown => "unknown",
        }
    }

    /// The value of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|value| value.as_str() == word)
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Answered without an error.
    Ok,
    /// Status 4xx, or a gRPC status that blames the caller.
    ClientError,
    /// Status 5xx, or a gRPC status that blames the callee.
    ServerError,
    /// The mesh refused it.
    Denied,
    /// The time limit passed.
    Timeout,
    /// The next hop could not be reached or broke off.
    Unavailable,
    /// The caller broke off.
    Aborted,
    /// Not known.
    Unknown,
}

impl Outcome {
    /// Every value.
    pub const ALL: &[Self] = &[
        Self::Ok,
        Self::ClientError,
        Self::ServerError,
        Self::Denied,
        Self::Timeout,
        Self::Unavailable,
        Self::Aborted,
        Self::Unknown,
    ];

    /// The word in the books.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Denied => "denied",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Aborted => "aborted",
            Self::Unknown => "unknown",
        }
    }

    /// The value of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|value| value.as_str() == word)
    }
}

/// A verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// May be forwarded.
    Allow,
    /// Refused.
    Deny,
    /// This side does not decide.
    NotRequired,
}

impl Decision {
    /// Every value.
    pub const ALL: &[Self] = &[Self::Allow, Self::Deny, Self::NotRequired];

    /// The word in the books.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::NotRequired => "not_required",
        }
    }

    /// The value of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|value| value.as_str() == word)
    }
}

/// Fail mode of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Intent and end on disk before bytes move.
    StrictFsync,
    /// Intent and end in the spool before bytes move.
    Strict,
    /// End in the spool; dropped and counted when it is full.
    Bounded,
    /// As bounded, with a small spool.
    BestEffort,
}

impl Durability {
    /// Every value.
    pub const ALL: &[Self] = &[
        Self::StrictFsync,
        Self::Strict,
        Self::Bounded,
        Self::BestEffort,
    ];

    /// The word in the books.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StrictFsync => "strict_fsync",
            Self::Strict => "strict",
            Self::Bounded => "bounded",
            Self::BestEffort => "best_effort",
        }
    }

    /// The value of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|value| value.as_str() == word)
    }
}
