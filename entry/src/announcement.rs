//! Announcements: a writer's SVID vouches for the audit key of one epoch.

use crate::Time;
use crate::id::{Epoch, IdError, Writer};
use crate::tlv::{Encoder, Fields, TlvError};
use crate::tree::sha256;

/// What an announcement begins with.
pub const DOMAIN: &[u8] = b"counterfoil/announcement/v1\0";
const SIGNATURE_DOMAIN: &[u8] = b"counterfoil/announcement-signature/v1\0";

/// The audit key of one epoch, with the certificates of the SVID that signs for it:
/// `docs/format.md` section 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Whose key it is.
    pub writer: Writer,
    /// In which start of its process.
    pub epoch: Epoch,
    /// Ed25519 public key.
    pub audit_key: [u8; 32],
    /// Wall clock at signing.
    pub time: Time,
    /// DER certificates, leaf first, the root left out.
    pub chain: Vec<Vec<u8>>,
    /// Build of the writer.
    pub build: String,
}

/// Why bytes are no announcement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncementError {
    /// A field is not what it must be.
    #[error(transparent)]
    Field(#[from] TlvError),
    /// The writer's name is malformed.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl Announcement {
    /// The announcement's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = DOMAIN.to_vec();
        Encoder::new(&mut out)
            .text(1, self.writer.as_str())
            .u64(2, self.epoch.0)
            .bytes(3, &self.audit_key)
            .time(4, self.time)
            .list_bytes(5, &self.chain)
            .text(6, &self.build);
        out
    }

    /// Reads an announcement's bytes.
    ///
    /// # Errors
    /// When the bytes are no announcement of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, AnnouncementError> {
        let f = Fields::parse_after(DOMAIN, bytes)?;
        f.only(&[1, 2, 3, 4, 5, 6])?;
        Ok(Self {
            writer: Writer::parse(f.text(1)?)?,
            epoch: Epoch(f.u64(2)?),
            audit_key: f.array_opt(3)?.ok_or(TlvError::Missing(3))?,
            time: f.time(4)?,
            chain: f.list_bytes(5)?.into_iter().map(<[u8]>::to_vec).collect(),
            build: f.text(6)?.to_owned(),
        })
    }
}

/// What the SVID's key signs: the domain and the hash of the announcement's bytes.
#[must_use]
pub fn signing_bytes(bytes: &[u8]) -> Vec<u8> {
    [SIGNATURE_DOMAIN, &sha256(bytes).0].concat()
}
