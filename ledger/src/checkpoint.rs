//! C2SP checkpoints: a log's origin, size and root, as a signed note.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use counterfoil_entry::Hash;

use crate::note::{LogKey, Note, NoteError, VerifierKey};

/// The head of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's origin, also the name of its key.
    pub origin: String,
    /// Leaves in the tree.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Hash,
}

/// Why a checkpoint was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The note is damaged, or not signed by the log's key.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The note's text is not a checkpoint.
    #[error("reading a checkpoint: it is three lines, origin, size and base64 root")]
    Malformed,
    /// The checkpoint is of another log.
    #[error("the checkpoint is of {found}, not of {expected}")]
    Origin {
        /// The origin that was expected.
        expected: String,
        /// The origin that the checkpoint names.
        found: String,
    },
}

impl Checkpoint {
    /// The text that is signed: three lines.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            STANDARD.encode(self.root.as_bytes())
        )
    }

    /// The signed note.
    #[must_use]
    pub fn sign(&self, key: &LogKey) -> String {
        key.sign(&self.text())
    }

    /// Reads the text of a checkpoint. Extension lines are refused: none is defined here.
    ///
    /// # Errors
    /// [`CheckpointError::Malformed`].
    pub fn parse_text(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text
            .strip_suffix('\n')
            .ok_or(CheckpointError::Malformed)?
            .split('\n');
        let (Some(origin), Some(size), Some(root), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(CheckpointError::Malformed);
        };
        let number: u64 = size.parse().map_err(|_| CheckpointError::Malformed)?;
        let hash = STANDARD
            .decode(root)
            .ok()
            .and_then(|bytes| Hash::from_slice(&bytes))
            .ok_or(CheckpointError::Malformed)?;
        if origin.is_empty() || number.to_string() != size {
            return Err(CheckpointError::Malformed);
        }
        Ok(Self {
            origin: origin.to_owned(),
            size: number,
            root: hash,
        })
    }

    /// Reads a signed checkpoint and checks that `key` signed it and that it is of `key`'s log.
    /// Lines of other keys, such as cosignatures, are not looked at.
    ///
    /// # Errors
    /// Any [`CheckpointError`].
    pub fn open(note: &str, key: &VerifierKey) -> Result<Self, CheckpointError> {
        let note = Note::parse(note)?;
        note.verify(key)?;
        Self::of_log(note.text(), key)
    }

    /// As [`Checkpoint::open`], and refuses lines of other keys.
    ///
    /// # Errors
    /// Any [`CheckpointError`].
    pub fn open_only(note: &str, key: &VerifierKey) -> Result<Self, CheckpointError> {
        let note = Note::parse(note)?;
        note.verify_only(key)?;
        Self::of_log(note.text(), key)
    }

    fn of_log(text: &str, key: &VerifierKey) -> Result<Self, CheckpointError> {
        let checkpoint = Self::parse_text(text)?;
        if checkpoint.origin == key.name() {
            Ok(checkpoint)
        } else {
            Err(CheckpointError::Origin {
                expected: key.name().to_owned(),
                found: checkpoint.origin,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use counterfoil_entry::tree::sha256;
    use tlog_tiles::checkpoint::Checkpoint as Other;

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            origin: "bank.test/collector-1".to_owned(),
            size: 258,
            root: sha256(b"x"),
        }
    }

    #[test]
    fn the_other_implementation_reads_our_text() {
        let ours = checkpoint();
        let other = Other::from_bytes(ours.text().as_bytes()).unwrap();
        assert_eq!(other.origin(), ours.origin);
        assert_eq!(other.size(), ours.size);
        assert_eq!(other.hash().0, ours.root.0);
        assert_eq!(
            Checkpoint::parse_text(&String::from_utf8(other.to_bytes()).unwrap()),
            Ok(ours)
        );
    }

    #[test]
    fn a_signed_checkpoint_opens_with_its_key_only() {
        let key = LogKey::generate("bank.test/collector-1").unwrap();
        let note = checkpoint().sign(&key);
        assert_eq!(Checkpoint::open(&note, key.verifier()), Ok(checkpoint()));
        let stranger = LogKey::generate("bank.test/collector-1").unwrap();
        assert!(Checkpoint::open(&note, stranger.verifier()).is_err());
        let foreign = Checkpoint {
            origin: "other".to_owned(),
            ..checkpoint()
        }
        .sign(&key);
        assert!(matches!(
            Checkpoint::open(&foreign, key.verifier()),
            Err(CheckpointError::Origin { .. })
        ));
    }

    #[test]
    fn other_lines_are_passed_over_only_where_that_is_asked() {
        let key = LogKey::generate("bank.test/collector-1").unwrap();
        let witness = LogKey::generate("witness").unwrap();
        let cosigned = witness.sign(&checkpoint().text());
        let line = cosigned.rsplit_once("\n\n").unwrap().1;
        let note = format!("{}{line}", checkpoint().sign(&key));
        assert!(Checkpoint::open(&note, key.verifier()).is_ok());
        assert!(Checkpoint::open_only(&note, key.verifier()).is_err());
    }

    #[test]
    fn odd_texts_are_refused() {
        for text in [
            "",
            "a\n1\n",
            "a\n01\nAAAA\n",
            "a\n1\nAAAA\n",
            "a\n1\nAAAA\nmore\n",
        ] {
            assert_eq!(
                Checkpoint::parse_text(text),
                Err(CheckpointError::Malformed),
                "{text:?}"
            );
        }
    }
}
