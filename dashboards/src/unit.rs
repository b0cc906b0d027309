//! Units of figures, by the names that Grafana has for them.

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A share, 1 is all of it.
    Share,
    /// Calls a second.
    PerSecond,
    /// Nanoseconds.
    Nanoseconds,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Days.
    Days,
    /// A count, shortened when it is large.
    Count,
    /// A plain number or text.
    Plain,
}

impl Unit {
    /// Grafana's name.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Share => "percentunit",
            Self::PerSecond => "reqps",
            Self::Nanoseconds => "ns",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::Days => "d",
            Self::Count => "short",
            Self::Plain => "none",
        }
    }
}
