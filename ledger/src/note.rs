//! C2SP signed notes: a text, and lines that sign it with named Ed25519 keys.

use std::fmt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use counterfoil_entry::ed25519::verify;
use counterfoil_entry::tree::sha256;

/// Algorithm byte of Ed25519 in verifier keys and key ids.
const ED25519_ALGORITHM: u8 = 1;
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// Why a note or a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The bytes are not a signed note.
    #[error("reading a signed note: {0}")]
    Malformed(&'static str),
    /// A key text is not a verifier key or not a private key.
    #[error("reading a log key: {0}")]
    Key(&'static str),
    /// No signature line is by the key.
    #[error("the note has no signature by key {0}")]
    Unsigned(String),
    /// A line names the key, and its signature is wrong.
    #[error("the note's signature by key {0} is wrong")]
    Wrong(String),
    /// Making a key or a signature failed in the cryptographic library.
    #[error("making a key failed")]
    Crypto,
}

/// The public half of a log key: a name and an Ed25519 public key.
///
/// Displayed and parsed as a C2SP verifier key, `<name>+<key id, 8 hex>+<base64 of 01 | key>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    public: [u8; 32],
}

impl VerifierKey {
    /// The key `public` under `name`.
    ///
    /// # Errors
    /// [`NoteError::Key`] when the name is empty or holds spaces, control characters or `+`.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, NoteError> {
        if name_is_valid(name) {
            Ok(Self {
                name: name.to_owned(),
                public,
            })
        } else {
            Err(NoteError::Key(
                "a key name has no spaces, no control characters and no +",
            ))
        }
    }

    /// Reads a C2SP verifier key.
    ///
    /// # Errors
    /// [`NoteError::Key`] when the text has another form, names another algorithm, or its key id
    /// does not fit.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let form = NoteError::Key("a verifier key is <name>+<8 hex digits>+<base64>");
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(form);
        };
        let bytes = STANDARD.decode(key).map_err(|_| form.clone())?;
        let Some((&ED25519_ALGORITHM, public)) = bytes.split_first() else {
            return Err(NoteError::Key("only Ed25519 keys (algorithm 1) are known"));
        };
        let public = public.try_into().map_err(|_| form)?;
        let key = Self::new(name, public)?;
        if id == format!("{:08x}", key.id()) {
            Ok(key)
        } else {
            Err(NoteError::Key(
                "the key id does not fit the name and the key",
            ))
        }
    }

    /// The key's name; for a log, its origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Ed25519 public key.
    #[must_use]
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// First four bytes of `SHA-256(name | 0a | 01 | public key)`.
    #[must_use]
    pub fn id(&self) -> u32 {
        let mut bytes = self.name.clone().into_bytes();
        bytes.extend_from_slice(&[b'\n', ED25519_ALGORITHM]);
        bytes.extend_from_slice(&self.public);
        let [a, b, c, d, ..] = sha256(&bytes).0;
        u32::from_be_bytes([a, b, c, d])
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ED25519_ALGORITHM];
        key.extend_from_slice(&self.public);
        write!(
            f,
            "{}+{:08x}+{}",
            self.name,
            self.id(),
            STANDARD.encode(key)
        )
    }
}

/// The private half of a log key. Never displayed.
pub struct LogKey {
    pair: Ed25519KeyPair,
    verifier: VerifierKey,
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogKey")
            .field("verifier", &self.verifier)
            .finish_non_exhaustive()
    }
}

impl LogKey {
    /// Makes a new key for the log `origin`.
    ///
    /// # Errors
    /// [`NoteError::Key`] for a bad name, [`NoteError::Crypto`] when no key could be made.
    pub fn generate(origin: &str) -> Result<Self, NoteError> {
        Self::of(
            origin,
            Ed25519KeyPair::generate().map_err(|_| NoteError::Crypto)?,
        )
    }

    /// Reads the key of the log `origin` from a PEM text that holds PKCS#8.
    ///
    /// # Errors
    /// [`NoteError::Key`] when the text is not such a key.
    pub fn from_pem(origin: &str, pem: &str) -> Result<Self, NoteError> {
        let body = pem
            .split_once(PEM_BEGIN)
            .and_then(|(_, rest)| rest.split_once(PEM_END))
            .map(|(body, _)| body.split_whitespace().collect::<String>())
            .ok_or(NoteError::Key("no PEM block PRIVATE KEY"))?;
        let der = STANDARD
            .decode(body)
            .map_err(|_| NoteError::Key("the PEM block is damaged"))?;
        let pair = Ed25519KeyPair::from_pkcs8(&der)
            .map_err(|_| NoteError::Key("the PEM block is not an Ed25519 key in PKCS#8"))?;
        Self::of(origin, pair)
    }

    fn of(origin: &str, pair: Ed25519KeyPair) -> Result<Self, NoteError> {
        let public = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| NoteError::Key("wrong length"))?;
        Ok(Self {
            pair,
            verifier: VerifierKey::new(origin, public)?,
        })
    }

    /// The key as PEM text (PKCS#8). Keep it in a file that only its owner can read.
    ///
    /// # Errors
    /// [`NoteError::Crypto`] when the key could not be written out.
    pub fn to_pem(&self) -> Result<String, NoteError> {
        let der = self.pair.to_pkcs8().map_err(|_| NoteError::Crypto)?;
        let body = STANDARD.encode(der.as_ref());
        let mut pem = format!("{PEM_BEGIN}\n");
        let mut rest = body.as_str();
        while let Some((line, tail)) = rest.split_at_checked(64) {
            pem.push_str(line);
            pem.push('\n');
            rest = tail;
        }
        if !rest.is_empty() {
            pem.push_str(rest);
            pem.push('\n');
        }
        pem.push_str(PEM_END);
        pem.push('\n');
        Ok(pem)
    }

    /// The public half.
    #[must_use]
    pub const fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The signed note over `text`, which ends with a newline.
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        let mut line = self.verifier.id().to_be_bytes().to_vec();
        line.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        format!(
            "{text}\n\u{2014} {} {}\n",
            self.verifier.name,
            STANDARD.encode(line)
        )
    }
}

/// A signed note as read; nothing is verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<SignatureLine>,
}

/// One signature line of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLine {
    /// Name of the key that signed.
    pub name: String,
    /// Key id.
    pub id: u32,
    /// The signature's bytes.
    pub signature: Vec<u8>,
}

impl Note {
    /// Reads a note: text, an empty line, one or more signature lines.
    ///
    /// # Errors
    /// [`NoteError::Malformed`] when it has another form.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.chars().any(|c| c.is_ascii_control() && c != '\n') {
            return Err(NoteError::Malformed("control characters"));
        }
        let at = note
            .rfind("\n\n")
            .ok_or(NoteError::Malformed("no empty line"))?;
        let (text, rest) = note
            .split_at_checked(at + 1)
            .ok_or(NoteError::Malformed("no empty line"))?;
        let lines = rest
            .strip_prefix('\n')
            .and_then(|lines| lines.strip_suffix('\n'))
            .ok_or(NoteError::Malformed(
                "no signature line, or no newline at the end",
            ))?;
        let signatures = lines
            .split('\n')
            .map(SignatureLine::parse)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            text: text.to_owned(),
            signatures,
        })
    }

    /// The signed text, its last newline included.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines.
    #[must_use]
    pub fn signatures(&self) -> &[SignatureLine] {
        &self.signatures
    }

    /// Checks that `key` signed the text. Lines of other keys are not looked at.
    ///
    /// # Errors
    /// [`NoteError::Unsigned`] or [`NoteError::Wrong`].
    pub fn verify(&self, key: &VerifierKey) -> Result<(), NoteError> {
        let mut lines = self
            .signatures
            .iter()
            .filter(|line| line.name == key.name && line.id == key.id());
        let line = lines
            .next()
            .ok_or_else(|| NoteError::Unsigned(key.name.clone()))?;
        if lines.next().is_some() {
            return Err(NoteError::Malformed("two signature lines of one key"));
        }
        if verify(&key.public, self.text.as_bytes(), &line.signature) {
            Ok(())
        } else {
            Err(NoteError::Wrong(key.name.clone()))
        }
    }

    /// As [`Note::verify`], and refuses any line that is not by `key`.
    ///
    /// # Errors
    /// Besides those of [`Note::verify`], [`NoteError::Malformed`] for a line of an unknown key.
    pub fn verify_only(&self, key: &VerifierKey) -> Result<(), NoteError> {
        self.verify(key)?;
        if self.signatures.len() == 1 {
            Ok(())
        } else {
            Err(NoteError::Malformed("a signature line of an unknown key"))
        }
    }
}

impl SignatureLine {
    fn parse(line: &str) -> Result<Self, NoteError> {
        let form = NoteError::Malformed("a signature line is an em dash, a name and base64");
        let (name, signature) = line
            .strip_prefix("\u{2014} ")
            .and_then(|rest| rest.split_once(' '))
            .filter(|(name, _)| name_is_valid(name))
            .ok_or_else(|| form.clone())?;
        let bytes = STANDARD.decode(signature).map_err(|_| form.clone())?;
        let (id, signature) = bytes.split_first_chunk::<4>().ok_or(form)?;
        Ok(Self {
            name: name.to_owned(),
            id: u32::from_be_bytes(*id),
            signature: signature.to_vec(),
        })
    }
}

fn name_is_valid(name: &str) -> bool {
    !name.is_empty()
        && !name
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

#[cfg(test)]
mod tests;
