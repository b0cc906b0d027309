//! Ed25519 keys of the project's own signatures: PKCS#8 PEM files, public keys as 64 hex digits.

use std::fmt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use counterfoil_entry::ed25519::is_small_order;
pub use counterfoil_entry::ed25519::verify;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;

/// Why a key could not be made or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The operating system gave no randomness.
    #[error("cannot make an Ed25519 key")]
    Generate,
    /// The text is not PKCS#8 PEM of an Ed25519 key.
    #[error("the text is not an Ed25519 private key in PKCS#8 PEM")]
    Private,
    /// The text is not 64 hex digits, or the key is one for which anybody can sign, as all zeros is.
    #[error(
        "an Ed25519 public key is written as 64 hex digits, and is none that anybody can sign for"
    )]
    Public,
}

/// An Ed25519 key that signs, as the governance key and the control key do.
pub struct SealKey(Ed25519KeyPair);

impl SealKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`KeyError::Generate`] without randomness.
    pub fn generate() -> Result<Self, KeyError> {
        Ed25519KeyPair::generate()
            .map(Self)
            .map_err(|_| KeyError::Generate)
    }

    /// Reads a PKCS#8 PEM text.
    ///
    /// # Errors
    /// [`KeyError::Private`] when it is none, or of another kind of key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der =
            PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Private)?;
        Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der())
            .map(Self)
            .map_err(|_| KeyError::Private)
    }

    /// The key as PKCS#8 PEM. It is a secret.
    ///
    /// # Errors
    /// [`KeyError::Private`] when the key cannot be written.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        let der = self.0.to_pkcs8().map_err(|_| KeyError::Private)?;
        Ok(pkcs8_pem(der.as_ref()))
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        let mut key = [0; 32];
        for (to, from) in key.iter_mut().zip(self.0.public_key().as_ref()) {
            *to = *from;
        }
        key
    }

    /// Signs `message`; 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", hex::encode(self.public()))
    }
}

/// PKCS#8 bytes of a private key as PEM.
pub(crate) fn pkcs8_pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for line in body.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

/// Reads a public key of 64 hex digits.
///
/// # Errors
/// [`KeyError::Public`] when the text is anything else, or a key for which anybody can sign.
pub fn public_from_hex(text: &str) -> Result<[u8; 32], KeyError> {
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key).map_err(|_| KeyError::Public)?;
    if is_small_order(&key) {
        return Err(KeyError::Public);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_and_still_signs() {
        let key = SealKey::generate().unwrap();
        let again = SealKey::from_pem(&key.to_pem().unwrap()).unwrap();
        assert_eq!(again.public(), key.public());
        let signature = again.sign(b"message");
        assert!(verify(&key.public(), b"message", &signature));
        assert!(!verify(&key.public(), b"massage", &signature));
        assert!(!verify(
            &SealKey::generate().unwrap().public(),
            b"message",
            &signature
        ));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(SealKey::from_pem("").unwrap_err(), KeyError::Private);
        assert_eq!(public_from_hex("00").unwrap_err(), KeyError::Public);
        assert_eq!(
            public_from_hex(&"0g".repeat(32)).unwrap_err(),
            KeyError::Public
        );
        // Anybody can sign for the point of all zeros.
        assert_eq!(
            public_from_hex(&"00".repeat(32)).unwrap_err(),
            KeyError::Public
        );
        assert_eq!(public_from_hex(&"0f".repeat(32)).unwrap(), [15; 32]);
    }
}
