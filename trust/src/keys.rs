//! Ed25519 keys of the project's own signatures: PKCS#8 PEM files, public keys as 64 hex digits.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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
        let body = STANDARD.encode(der.as_ref());
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        for line in body.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        Ok(pem)
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

/// The points of small order by their y coordinate, the sign bit cleared. As a public key such a point
/// is signed for by anybody, all zeros among them.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    ends(0x01, 0x00, 0x00),
    *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\
       \xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
    *b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\
       \x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
    ends(0xec, 0xff, 0x7f),
    ends(0xed, 0xff, 0x7f),
    ends(0xee, 0xff, 0x7f),
];

const fn ends(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut point = [middle; 32];
    point[0] = first;
    point[31] = last;
    point
}

fn is_small_order(public: &[u8; 32]) -> bool {
    let mut point = *public;
    point[31] &= 0x7f;
    SMALL_ORDER.contains(&point)
}

/// Whether `signature` over `message` is of the key `public`. A key of small order has no signatures.
pub fn verify(public: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    !is_small_order(public)
        && UnparsedPublicKey::new(&ED25519, public)
            .verify(message, signature)
            .is_ok()
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
    fn a_key_of_small_order_verifies_nothing() {
        for key in SMALL_ORDER {
            let text = hex::encode(key);
            assert_eq!(public_from_hex(&text), Err(KeyError::Public), "{text}");
            // with such a key the zero scalar signs: one message in a few, whoever asks
            for message in 0..64_u8 {
                for point in SMALL_ORDER {
                    let forged = [point, [0; 32]].concat();
                    assert!(!verify(&key, &[message], &forged), "{text}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(SealKey::from_pem("").unwrap_err(), KeyError::Private);
        assert_eq!(public_from_hex("00").unwrap_err(), KeyError::Public);
        assert_eq!(
            public_from_hex(&"0g".repeat(32)).unwrap_err(),
            KeyError::Public
        );
        assert_eq!(public_from_hex(&"0f".repeat(32)).unwrap(), [15; 32]);
    }
}
