//! Checked ids: traces, spans, writers, streams, epochs, retention classes.

use std::fmt;
use std::str::FromStr;

use crate::table::TableId;
use crate::tree::sha256;

/// A text or byte string that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {why}")]
pub struct IdError {
    what: &'static str,
    why: &'static str,
    text: String,
}

impl IdError {
    fn new(what: &'static str, why: &'static str, text: &str) -> Self {
        Self {
            what,
            why,
            text: text.chars().take(200).collect(),
        }
    }
}

/// Trace id of W3C Trace Context: 16 bytes, not all zero. Displayed as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId([u8; 16]);

/// Span id of W3C Trace Context: 8 bytes, not all zero. Displayed as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId([u8; 8]);

impl TraceId {
    /// The id of these bytes; `None` when all are zero.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl SpanId {
    /// The id of these bytes; `None` when all are zero.
    #[must_use]
    pub fn new(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpanId({self})")
    }
}

impl FromStr for TraceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        lower_hex(text)
            .and_then(Self::new)
            .ok_or_else(|| IdError::new("trace id", "32 lower-case hex digits, not all 0", text))
    }
}

impl FromStr for SpanId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        lower_hex(text)
            .and_then(Self::new)
            .ok_or_else(|| IdError::new("span id", "16 lower-case hex digits, not all 0", text))
    }
}

fn lower_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok().map(|()| bytes)
}

/// Who writes into the books: `<SPIFFE id>#<instance>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Writer {
    text: String,
    /// Where the `#` stands.
    at: usize,
}

impl Writer {
    /// Checks a writer's name: a SPIFFE id, `#`, and an instance of 1 to 64 characters of
    /// `[A-Za-z0-9._-]`. The SPIFFE id itself is checked by who verifies certificates.
    ///
    /// # Errors
    /// When the text has another form.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let error = |why| IdError::new("writer", why, text);
        let (id, instance) = text
            .rsplit_once('#')
            .ok_or_else(|| error("no # before an instance"))?;
        if !id.starts_with("spiffe://") || id.contains('#') || id.len() > 2048 {
            return Err(error("it must begin with a SPIFFE id"));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if instance.is_empty() || instance.len() > 64 || !instance.bytes().all(plain) {
            return Err(error("an instance is 1 to 64 of [A-Za-z0-9._-]"));
        }
        Ok(Self {
            at: id.len(),
            text: text.to_owned(),
        })
    }

    /// The SPIFFE id, as text.
    #[must_use]
    pub fn spiffe_id(&self) -> &str {
        self.text.get(..self.at).unwrap_or_default()
    }

    /// The instance.
    #[must_use]
    pub fn instance(&self) -> &str {
        self.text.get(self.at + 1..).unwrap_or_default()
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// A folder name for this writer: readable, and different for every writer.
    #[must_use]
    pub fn directory_name(&self) -> String {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || c == '.' || c == '-' {
                c
            } else {
                '_'
            }
        };
        let readable: String = self
            .text
            .trim_start_matches("spiffe://")
            .chars()
            .map(plain)
            .take(120)
            .collect();
        let hash = sha256(self.text.as_bytes()).to_string();
        format!("{readable}-{}", hash.get(..8).unwrap_or_default())
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One start of a writer's process: nanoseconds since the Unix epoch at that start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How long entries are kept: `permanent`, or a name that ends in `_<n>d`, `_<n>m` or `_<n>y`.
///
/// Ordered by length, then by name; `permanent` is the longest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RetentionClass(String);

impl RetentionClass {
    /// The class that is kept for ever.
    #[must_use]
    pub fn permanent() -> Self {
        Self("permanent".to_owned())
    }

    /// Checks a class name: `[a-z0-9_-]`, at most 64 long, with the ending that gives its length.
    ///
    /// # Errors
    /// When the name has another form.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let error = |why| IdError::new("retention class", why, text);
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) {
            return Err(error("it is 1 to 64 of [a-z0-9_-]"));
        }
        let class = Self(text.to_owned());
        if class.is_permanent() || class.length_d().is_some() {
            Ok(class)
        } else {
            Err(error("it ends in _<n>d, _<n>m or _<n>y, as in sox_7y"))
        }
    }

    /// Whether entries of this class are kept for ever.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.0 == "permanent"
    }

    /// Days that entries are kept; a month counts 31, a year 366. `None` for `permanent`.
    #[must_use]
    pub fn length_d(&self) -> Option<u32> {
        let (name, ending) = self.0.rsplit_once('_')?;
        let unit = ending.chars().last()?;
        let count: u32 = ending.strip_suffix(unit)?.parse().ok()?;
        let days = match unit {
            'd' => 1,
            'm' => 31,
            'y' => 366,
            _ => return None,
        };
        if name.is_empty() || count == 0 {
            None
        } else {
            count.checked_mul(days)
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RetentionClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Ord for RetentionClass {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let length = |class: &Self| class.length_d().unwrap_or(u32::MAX);
        length(self)
            .cmp(&length(other))
            .then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for RetentionClass {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// From this lane on only a collector writes: what it received from foreign systems.
const FOREIGN_LANES_FROM: u16 = 65_001;
/// Lane of what came by Envoy's access-log service.
pub const ALS_LANE: u16 = 65_001;
/// Lane of what OpenTelemetry exporters sent.
pub const OTLP_LANE: u16 = 65_002;

/// One sequence of a writer: `<table>/<retention class>/<lane>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// The table.
    pub table: TableId,
    /// The retention class.
    pub class: RetentionClass,
    /// The worker thread.
    pub lane: u16,
}

impl Stream {
    /// The stream of `table` and `class` on `lane`.
    #[must_use]
    pub const fn new(table: TableId, class: RetentionClass, lane: u16) -> Self {
        Self { table, class, lane }
    }

    /// Whether only a collector may write it: the rows of foreign systems.
    #[must_use]
    pub const fn is_foreign(&self) -> bool {
        self.lane >= FOREIGN_LANES_FROM
    }

    /// How rows of `lane` came and who vouches for them: the words of the columns `delivery` and
    /// `attribution`. `None` for a lane that nothing is written on.
    ///
    /// The lane is part of what a writer signs, so that nobody can change these words afterwards.
    #[must_use]
    pub const fn provenance(lane: u16) -> Option<(&'static str, &'static str)> {
        match lane {
            0..FOREIGN_LANES_FROM => Some(("acked", "native")),
            ALS_LANE => Some(("best_effort", "als")),
            OTLP_LANE => Some(("acked", "otlp")),
            _ => None,
        }
    }

    /// Reads `<table>/<retention class>/<lane>`.
    ///
    /// # Errors
    /// When the text has another form or the table is unknown.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let error = |why| IdError::new("stream", why, text);
        let mut parts = text.split('/');
        let (Some(table), Some(class), Some(lane), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(error("it is <table>/<retention class>/<lane>"));
        };
        let table = TableId::from_name(table).ok_or_else(|| error("no such table"))?;
        let number = lane
            .parse::<u16>()
            .map_err(|_| error("a lane is a number up to 65535"))?;
        if number.to_string() != lane {
            return Err(error("a lane has no leading zero or sign"));
        }
        Ok(Self {
            table,
            class: RetentionClass::parse(class)?,
            lane: number,
        })
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.table.name(), self.class, self.lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_zero_upper_case_and_wrong_lengths() {
        assert!(
            "0af7651916cd43dd8448eb211c80319c"
                .parse::<TraceId>()
                .is_ok()
        );
        for bad in [
            "",
            "00000000000000000000000000000000",
            "0AF7651916CD43DD8448EB211C80319C",
            "0af7",
        ] {
            assert!(bad.parse::<TraceId>().is_err(), "{bad}");
        }
        assert!("b7ad6b7169203331".parse::<SpanId>().is_ok());
        assert!("0000000000000000".parse::<SpanId>().is_err());
    }

    #[test]
    fn a_writer_has_an_id_and_an_instance() {
        let writer = Writer::parse("spiffe://bank.test/workload/pay#p-1").unwrap();
        assert_eq!(writer.spiffe_id(), "spiffe://bank.test/workload/pay");
        assert_eq!(writer.instance(), "p-1");
        for bad in [
            "spiffe://bank.test/x",
            "spiffe://bank.test/x#",
            "x#1",
            "spiffe://a/b#c/d",
        ] {
            assert!(Writer::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn folders_of_different_writers_differ() {
        let a = Writer::parse("spiffe://bank.test/a/b#1")
            .unwrap()
            .directory_name();
        let b = Writer::parse("spiffe://bank.test/a_b#1")
            .unwrap()
            .directory_name();
        assert_ne!(a, b);
        assert!(a.starts_with("bank.test_a_b_1-"));
    }

    #[test]
    fn classes_are_ordered_by_how_long_they_keep() {
        let mut classes: Vec<_> = ["permanent", "pci_12m", "ops_90d", "sox_7y"]
            .into_iter()
            .map(|name| RetentionClass::parse(name).unwrap())
            .collect();
        classes.sort();
        let names: Vec<_> = classes.iter().map(RetentionClass::as_str).collect();
        assert_eq!(names, ["ops_90d", "pci_12m", "sox_7y", "permanent"]);
        for bad in ["", "sox", "sox_7", "sox_0y", "_7y", "Sox_7y", "sox_7y/.."] {
            assert!(RetentionClass::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stream_reads_as_it_prints() {
        let text = "entries/sox_7y/3";
        assert_eq!(Stream::parse(text).unwrap().to_string(), text);
        for bad in [
            "entries/sox_7y",
            "nothing/sox_7y/0",
            "entries/sox_7y/00",
            "entries/sox_7y/-1",
        ] {
            assert!(Stream::parse(bad).is_err(), "{bad}");
        }
    }
}
