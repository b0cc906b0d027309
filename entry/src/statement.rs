//! Statements: a writer's signed account of what it wrote.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use crate::id::{Epoch, IdError, Stream, Writer};
use crate::tlv::{Encoder, Fields, TlvError};
use crate::tree::sha256;
use crate::{Hash, Time};

/// What a statement begins with.
pub const DOMAIN: &[u8] = b"counterfoil/statement/v1\0";
const SIGNATURE_DOMAIN: &[u8] = b"counterfoil/statement-signature/v1\0";
const KNOWN: &[u16] = &[
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 32, 33, 34, 35,
];

/// One signed account: `docs/format.md` section 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Who signs.
    pub writer: Writer,
    /// For which start of its process.
    pub epoch: Epoch,
    /// 0, 1, 2 .. in the epoch.
    pub number: u64,
    /// What kind, with the part that only a recovery has.
    pub kind: StatementKind,
    /// Hash of the previous statement of this epoch; null for number 0.
    pub previous: Option<Hash>,
    /// This writer's last statement as the collector's last answer showed it.
    pub acked: Option<(u64, Hash)>,
    /// The newest checkpoint that the collector's last answer showed.
    pub checkpoint: Option<String>,
    /// The origin that answered.
    pub origin: Option<String>,
    /// Wall clock at signing.
    pub time: Time,
    /// What the kernel knows of its clock; null when it is unsynchronised.
    pub clock: Option<ClockState>,
    /// What was written since the last statement, each stream once.
    pub streams: Vec<StreamRange>,
    /// What was dropped since the epoch's start, before it got a seq.
    pub drops: Vec<Dropped>,
    /// Calls that run.
    pub calls_open: u64,
    /// When the oldest of them began.
    pub oldest_call_start: Option<Time>,
    /// Bytes in the spool.
    pub spool_bytes: u64,
    /// Bundle in force.
    pub bundle_sha256: Option<Hash>,
    /// Configuration of the writer.
    pub config_sha256: Hash,
    /// Build of the writer.
    pub build: String,
    /// Statements of this epoch that the collector refused for good.
    pub quarantined: Vec<(u64, Hash)>,
}

/// What kind a statement is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatementKind {
    /// One of the run.
    Regular,
    /// The last of a clean end.
    Final,
    /// The first of an epoch that states what a crashed one left.
    Recovery(Recovery),
}

impl StatementKind {
    /// The word in the books.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Final => "final",
            Self::Recovery(_) => "recovery",
        }
    }
}

/// What a recovery says of the old epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The epoch that ended without a final statement.
    pub old_epoch: Epoch,
    /// Its last statement known to spool and collector.
    pub last: Option<(u64, Hash)>,
    /// What it wrote after that; empty when nothing.
    pub tail: Vec<StreamRange>,
}

/// What the kernel knows of its clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockState {
    /// Where it has its time from.
    pub source: String,
    /// Estimated offset (ns).
    pub offset_ns: i64,
    /// Bound of that estimate (ns).
    pub error_ns: u64,
}

/// A run of entries of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRange {
    /// The stream.
    pub stream: Stream,
    /// Seq of the first entry.
    pub first_seq: u64,
    /// Number of entries.
    pub count: u64,
    /// RFC 6962 root over their leaf hashes in seq order.
    pub root: Hash,
}

/// Entries of one stream that were dropped before they got a seq.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The stream.
    pub stream: Stream,
    /// Stable word.
    pub reason: String,
    /// How many since the epoch's start.
    pub dropped: u64,
}

/// Why bytes are no statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// A field is not what it must be.
    #[error(transparent)]
    Field(#[from] TlvError),
    /// A name in it is malformed.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The parts contradict each other.
    #[error("the statement contradicts itself: {0}")]
    Contradiction(&'static str),
}

impl Statement {
    /// The statement's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = DOMAIN.to_vec();
        let mut w = Encoder::new(&mut out);
        w.text(1, self.writer.as_str())
            .u64(2, self.epoch.0)
            .u64(3, self.number);
        w.text(4, self.kind.as_str())
            .bytes_opt(5, hash_bytes(self.previous.as_ref()));
        w.u64_opt(6, self.acked.map(|(number, _)| number));
        w.bytes_opt(7, hash_bytes(self.acked.as_ref().map(|(_, hash)| hash)));
        w.text_opt(8, self.checkpoint.as_deref())
            .text_opt(9, self.origin.as_deref());
        w.time(10, self.time);
        if let Some(clock) = &self.clock {
            w.text(11, &clock.source)
                .i64(12, clock.offset_ns)
                .u64(13, clock.error_ns);
        }
        w.list_bytes(14, &encode_all(&self.streams, encode_range));
        w.list_bytes(15, &encode_all(&self.drops, encode_drop));
        w.u64(16, self.calls_open)
            .time_opt(17, self.oldest_call_start)
            .u64(18, self.spool_bytes);
        w.bytes_opt(19, hash_bytes(self.bundle_sha256.as_ref()));
        w.bytes(20, &self.config_sha256.0).text(21, &self.build);
        w.list_bytes(22, &encode_all(&self.quarantined, encode_numbered));
        if let StatementKind::Recovery(recovery) = &self.kind {
            w.u64(32, recovery.old_epoch.0);
            w.u64_opt(33, recovery.last.map(|(number, _)| number));
            w.bytes_opt(34, hash_bytes(recovery.last.as_ref().map(|(_, hash)| hash)));
            w.list_bytes(35, &encode_all(&recovery.tail, encode_range));
        }
        out
    }

    /// Reads a statement's bytes.
    ///
    /// # Errors
    /// When the bytes are no statement of this version, a stream is named twice, or number and
    /// previous hash, or kind and recovery part, do not fit.
    pub fn decode(bytes: &[u8]) -> Result<Self, StatementError> {
        let f = Fields::parse_after(DOMAIN, bytes)?;
        f.only(KNOWN)?;
        let statement = Self {
            writer: Writer::parse(f.text(1)?)?,
            epoch: Epoch(f.u64(2)?),
            number: f.u64(3)?,
            kind: decode_kind(&f)?,
            previous: f.hash_opt(5)?,
            acked: numbered(f.u64_opt(6)?, f.hash_opt(7)?)?,
            checkpoint: f.text_opt(8)?.map(str::to_owned),
            origin: f.text_opt(9)?.map(str::to_owned),
            time: f.time(10)?,
            clock: decode_clock(&f)?,
            streams: decode_all(&f, 14, decode_range)?,
            drops: decode_all(&f, 15, decode_drop)?,
            calls_open: f.u64(16)?,
            oldest_call_start: f.time_opt(17)?,
            spool_bytes: f.u64(18)?,
            bundle_sha256: f.hash_opt(19)?,
            config_sha256: f.hash(20)?,
            build: f.text(21)?.to_owned(),
            quarantined: decode_all(&f, 22, decode_numbered)?,
        };
        statement.check()?;
        Ok(statement)
    }

    /// The ranges that this statement covers, with the epoch that wrote them: its own, and the tail
    /// of the old epoch in a recovery.
    pub fn covered(&self) -> impl Iterator<Item = (Epoch, &StreamRange)> {
        let tail = match &self.kind {
            StatementKind::Recovery(recovery) => recovery
                .tail
                .iter()
                .map(|range| (recovery.old_epoch, range))
                .collect(),
            _ => Vec::new(),
        };
        self.streams
            .iter()
            .map(|range| (self.epoch, range))
            .chain(tail)
    }

    fn check(&self) -> Result<(), StatementError> {
        let refuse = |why| Err(StatementError::Contradiction(why));
        if (self.number == 0) != self.previous.is_none() {
            return refuse("all statements but number 0 name the previous one");
        }
        let tail = match &self.kind {
            StatementKind::Recovery(recovery) => recovery.tail.as_slice(),
            _ => &[],
        };
        for ranges in [&self.streams[..], tail] {
            let mut names: Vec<_> = ranges.iter().map(|range| &range.stream).collect();
            names.sort();
            if names.windows(2).any(|pair| pair.first() == pair.last()) {
                return refuse("a stream is named twice");
            }
            if ranges
                .iter()
                .any(|range| range.count == 0 || range.first_seq.checked_add(range.count).is_none())
            {
                return refuse("a range is empty or too long");
            }
        }
        Ok(())
    }
}

fn hash_bytes(hash: Option<&Hash>) -> Option<&[u8]> {
    hash.map(|hash| hash.0.as_slice())
}

fn encode_all<T>(items: &[T], encode: fn(&T, &mut Encoder<'_>)) -> Vec<Vec<u8>> {
    items
        .iter()
        .map(|item| {
            let mut out = Vec::new();
            encode(item, &mut Encoder::new(&mut out));
            out
        })
        .collect()
}

fn decode_all<T>(
    f: &Fields<'_>,
    id: u16,
    decode: fn(&Fields<'_>) -> Result<T, StatementError>,
) -> Result<Vec<T>, StatementError> {
    f.list_bytes(id)?
        .into_iter()
        .map(|item| decode(&Fields::parse(item)?))
        .collect()
}

fn encode_range(range: &StreamRange, w: &mut Encoder<'_>) {
    w.text(1, &range.stream.to_string())
        .u64(2, range.first_seq)
        .u64(3, range.count);
    w.bytes(4, &range.root.0);
}

fn decode_range(f: &Fields<'_>) -> Result<StreamRange, StatementError> {
    f.only(&[1, 2, 3, 4])?;
    Ok(StreamRange {
        stream: Stream::parse(f.text(1)?)?,
        first_seq: f.u64(2)?,
        count: f.u64(3)?,
        root: f.hash(4)?,
    })
}

fn encode_drop(drop: &Dropped, w: &mut Encoder<'_>) {
    w.text(1, &drop.stream.to_string())
        .text(2, &drop.reason)
        .u64(3, drop.dropped);
}

fn decode_drop(f: &Fields<'_>) -> Result<Dropped, StatementError> {
    f.only(&[1, 2, 3])?;
    Ok(Dropped {
        stream: Stream::parse(f.text(1)?)?,
        reason: f.text(2)?.to_owned(),
        dropped: f.u64(3)?,
    })
}

fn encode_numbered((number, hash): &(u64, Hash), w: &mut Encoder<'_>) {
    w.u64(1, *number).bytes(2, &hash.0);
}

fn decode_numbered(f: &Fields<'_>) -> Result<(u64, Hash), StatementError> {
    f.only(&[1, 2])?;
    Ok((f.u64(1)?, f.hash(2)?))
}

fn numbered(
    number: Option<u64>,
    hash: Option<Hash>,
) -> Result<Option<(u64, Hash)>, StatementError> {
    match (number, hash) {
        (Some(number), Some(hash)) => Ok(Some((number, hash))),
        (None, None) => Ok(None),
        _ => Err(StatementError::Contradiction(
            "a number without its hash, or the other way round",
        )),
    }
}

fn decode_clock(f: &Fields<'_>) -> Result<Option<ClockState>, StatementError> {
    match (f.text_opt(11)?, f.i64_opt(12)?, f.u64_opt(13)?) {
        (Some(source), Some(offset_ns), Some(error_ns)) => Ok(Some(ClockState {
            source: source.to_owned(),
            offset_ns,
            error_ns,
        })),
        (None, None, None) => Ok(None),
        _ => Err(StatementError::Contradiction("the clock is told in part")),
    }
}

fn decode_kind(f: &Fields<'_>) -> Result<StatementKind, StatementError> {
    let kind = match f.text(4)? {
        "regular" => StatementKind::Regular,
        "final" => StatementKind::Final,
        "recovery" => {
            return Ok(StatementKind::Recovery(Recovery {
                old_epoch: Epoch(f.u64(32)?),
                last: numbered(f.u64_opt(33)?, f.hash_opt(34)?)?,
                tail: decode_all(f, 35, decode_range)?,
            }));
        }
        _ => return Err(TlvError::Wrong(4).into()),
    };
    match [32, 33, 34, 35]
        .into_iter()
        .find(|id| f.find(*id).is_some())
    {
        Some(id) => Err(TlvError::Wrong(id).into()),
        None => Ok(kind),
    }
}

/// SHA-256 of a statement's bytes, without the signature.
#[must_use]
pub fn statement_hash(bytes: &[u8]) -> Hash {
    sha256(bytes)
}

/// What the signature is over.
#[must_use]
pub fn signing_bytes(hash: &Hash) -> Vec<u8> {
    [SIGNATURE_DOMAIN, &hash.0].concat()
}

/// Bytes with their signature: a statement or an announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What was signed.
    pub bytes: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
}

impl Signed {
    /// `u32 len | bytes | signature`.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.bytes.len() + self.signature.len());
        crate::frame::push_record(&mut out, &self.bytes);
        out.extend_from_slice(&self.signature);
        out
    }

    /// Reads what [`Signed::to_wire`] wrote; `None` when it is cut.
    #[must_use]
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        let (len, rest) = wire.split_first_chunk()?;
        let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
        let (bytes, signature) = rest.split_at_checked(len)?;
        Some(Self {
            bytes: bytes.to_vec(),
            signature: signature.to_vec(),
        })
    }
}

/// The Ed25519 key that signs the statements of one epoch. It never leaves the process.
pub struct AuditKey(Ed25519KeyPair);

/// No key could be made: the system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no audit key could be made: the system gave no random bytes")]
pub struct NoKey;

impl std::fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditKey(..)")
    }
}

impl AuditKey {
    /// Makes a key.
    ///
    /// # Errors
    /// [`NoKey`] when the system gives no random bytes.
    pub fn generate() -> Result<Self, NoKey> {
        Ed25519KeyPair::generate().map(Self).map_err(|_| NoKey)
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        let mut public = [0; 32];
        public.copy_from_slice(self.0.public_key().as_ref());
        public
    }

    /// Signs a statement's bytes.
    #[must_use]
    pub fn sign_statement(&self, bytes: Vec<u8>) -> Signed {
        let signature = self
            .0
            .sign(&signing_bytes(&statement_hash(&bytes)))
            .as_ref()
            .to_vec();
        Signed { bytes, signature }
    }
}

/// Whether `signed` carries a statement signature of `public`.
#[must_use]
pub fn verify_statement(signed: &Signed, public: &[u8; 32]) -> bool {
    let over = signing_bytes(&statement_hash(&signed.bytes));
    crate::ed25519::verify(public, &over, &signed.signature)
}
