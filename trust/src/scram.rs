//! SCRAM-SHA-256 (RFC 5802, RFC 7677) from verifiers: the server never holds a password.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Iterations of the verifiers that [`Verifier::of_password`] makes, as PostgreSQL's default.
pub const ITERATIONS: u32 = 4096;
/// More would let one log-in keep a core busy.
const ITERATIONS_MAX: u32 = 1_000_000;
const SALT_BYTES: usize = 16;
const PASSWORD_BYTES_MAX: usize = 1024;
const METHOD: &str = "SCRAM-SHA-256";

/// What the users file keeps of a password: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`,
/// the form of PostgreSQL's `pg_authid`.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

/// A text that is not a verifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>")]
pub struct VerifierError;

/// Why an exchange ended without a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The message is not one of SCRAM-SHA-256 without channel binding.
    #[error("reading a SCRAM message: malformed")]
    Malformed,
    /// The proof does not belong to the verifier.
    #[error("checking a SCRAM proof: wrong")]
    Proof,
}

impl Verifier {
    /// A verifier for `password` with a random salt.
    #[must_use]
    pub fn of_password(password: &str) -> Self {
        let mut salt = vec![0; SALT_BYTES];
        // Without randomness the salt stays the same for all, which weakens it but proves nothing wrong.
        let _randomness = rand::fill(&mut salt);
        Self::with_salt(password, salt, ITERATIONS)
    }

    fn with_salt(password: &str, salt: Vec<u8>, iterations: u32) -> Self {
        let salted = salted(password, &salt, iterations);
        let client_key = hmac_sha256(&salted, b"Client Key");
        Self {
            iterations,
            salt,
            stored_key: sha256(&client_key),
            server_key: hmac_sha256(&salted, b"Server Key"),
        }
    }

    /// A verifier that no password fits, always the same for `name`, with salt and iterations as
    /// those of `alike`: unknown users look like known ones.
    #[must_use]
    pub fn of_nobody(secret: &[u8; 32], name: &str, alike: Option<&Self>) -> Self {
        let (iterations, salt_bytes) = alike.map_or((ITERATIONS, SALT_BYTES), |one| {
            (one.iterations, one.salt.len().min(32))
        });
        let salt = hmac_sha256(secret, name.as_bytes());
        let stored_key = hmac_sha256(secret, &salt);
        let server_key = hmac_sha256(secret, &stored_key);
        let salt = salt.iter().copied().take(salt_bytes).collect();
        Self {
            iterations,
            salt,
            stored_key,
            server_key,
        }
    }

    /// Whether `password` is the verifier's. Takes milliseconds: call it off the network's threads.
    #[must_use]
    pub fn fits(&self, password: &str) -> bool {
        if password.len() > PASSWORD_BYTES_MAX {
            return false;
        }
        let salted = salted(password, &self.salt, self.iterations);
        let stored_key = sha256(&hmac_sha256(&salted, b"Client Key"));
        constant_time::verify_slices_are_equal(&stored_key, &self.stored_key).is_ok()
    }
}

impl FromStr for Verifier {
    type Err = VerifierError;

    fn from_str(text: &str) -> Result<Self, VerifierError> {
        let mut parts = text.split('$');
        let (Some(METHOD), Some(salt), Some(keys), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(VerifierError);
        };
        let (iterations, salt) = salt.split_once(':').ok_or(VerifierError)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(VerifierError)?;
        let iterations = iterations.parse().map_err(|_| VerifierError)?;
        let salt = BASE64.decode(salt).map_err(|_| VerifierError)?;
        if salt.is_empty() || !(ITERATIONS..=ITERATIONS_MAX).contains(&iterations) {
            return Err(VerifierError);
        }
        Ok(Self {
            iterations,
            salt,
            stored_key: key(stored_key).ok_or(VerifierError)?,
            server_key: key(server_key).ok_or(VerifierError)?,
        })
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, stored) = (BASE64.encode(&self.salt), BASE64.encode(self.stored_key));
        let server = BASE64.encode(self.server_key);
        write!(f, "{METHOD}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

/// The server's half of one exchange, after its first message.
#[derive(Debug)]
pub struct Exchange {
    verifier: Verifier,
    nonce: String,
    binding: String,
    auth_message_head: String,
}

impl Exchange {
    /// Takes the client's first message; answers with the server's first.
    ///
    /// # Errors
    /// [`ScramError::Malformed`], also when the client demands channel binding.
    pub fn begin(verifier: Verifier, client_first: &str) -> Result<(Self, String), ScramError> {
        let mut nonce = [0_u8; 18];
        rand::fill(&mut nonce).map_err(|_| ScramError::Malformed)?;
        Self::begin_with(verifier, client_first, &BASE64.encode(nonce))
    }

    fn begin_with(
        verifier: Verifier,
        client_first: &str,
        server_nonce: &str,
    ) -> Result<(Self, String), ScramError> {
        let mut parts = client_first.splitn(3, ',');
        let (flag, identity) = (parts.next(), parts.next());
        let bare = parts.next().ok_or(ScramError::Malformed)?;
        let (Some(flag @ ("n" | "y")), Some(identity)) = (flag, identity) else {
            return Err(ScramError::Malformed);
        };
        // A mandatory extension (`m=`) stands before the name, and none is known here.
        let mut attributes = bare.split(',');
        let name = attributes.next().and_then(|text| text.strip_prefix("n="));
        let client_nonce = attributes.next().and_then(|text| text.strip_prefix("r="));
        let (Some(_), Some(client_nonce)) = (name, client_nonce.filter(|one| !one.is_empty()))
        else {
            return Err(ScramError::Malformed);
        };
        let nonce = format!("{client_nonce}{server_nonce}");
        let salt = BASE64.encode(&verifier.salt);
        let first = format!("r={nonce},s={salt},i={}", verifier.iterations);
        let exchange = Self {
            binding: BASE64.encode(format!("{flag},{identity},")),
            auth_message_head: format!("{bare},{first}"),
            verifier,
            nonce,
        };
        Ok((exchange, first))
    }

    /// Takes the client's final message; answers with the server's when the proof holds.
    ///
    /// # Errors
    /// [`ScramError`]
    pub fn finish(&self, client_final: &str) -> Result<String, ScramError> {
        let (without_proof, proof) = client_final
            .rsplit_once(",p=")
            .ok_or(ScramError::Malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|text| text.strip_prefix("c="));
        let nonce = attributes.next().and_then(|text| text.strip_prefix("r="));
        if binding != Some(self.binding.as_str()) || nonce != Some(self.nonce.as_str()) {
            return Err(ScramError::Malformed);
        }
        let proof = key(proof).ok_or(ScramError::Malformed)?;
        let auth_message = format!("{},{without_proof}", self.auth_message_head);
        let signature = hmac_sha256(&self.verifier.stored_key, auth_message.as_bytes());
        let mut client_key = proof;
        for (byte, mask) in client_key.iter_mut().zip(signature) {
            *byte ^= mask;
        }
        constant_time::verify_slices_are_equal(&sha256(&client_key), &self.verifier.stored_key)
            .map_err(|_| ScramError::Proof)?;
        let server = hmac_sha256(&self.verifier.server_key, auth_message.as_bytes());
        Ok(format!("v={}", BASE64.encode(server)))
    }
}

fn key(text: &str) -> Option<[u8; 32]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

fn salted(password: &str, salt: &[u8], iterations: u32) -> [u8; 32] {
    let mut out = [0; 32];
    let iterations = std::num::NonZeroU32::new(iterations).unwrap_or(std::num::NonZeroU32::MIN);
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        salt,
        password.as_bytes(),
        &mut out,
    );
    out
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    tag.as_ref().try_into().unwrap_or([0; 32])
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes)
        .as_ref()
        .try_into()
        .unwrap_or([0; 32])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn rfc_verifier(password: &str) -> Verifier {
        Verifier::with_salt(
            password,
            BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(),
            4096,
        )
    }

    #[test]
    fn the_example_of_rfc_7677_is_reproduced() {
        let (exchange, first) =
            Exchange::begin_with(rfc_verifier("pencil"), CLIENT_FIRST, SERVER_NONCE).unwrap();
        assert_eq!(first, SERVER_FIRST);
        assert_eq!(exchange.finish(CLIENT_FINAL).unwrap(), SERVER_FINAL);
    }

    #[test]
    fn a_wrong_password_an_altered_nonce_and_channel_binding_are_refused() {
        let (exchange, _) =
            Exchange::begin_with(rfc_verifier("pencil!"), CLIENT_FIRST, SERVER_NONCE).unwrap();
        assert_eq!(exchange.finish(CLIENT_FINAL), Err(ScramError::Proof));
        let (exchange, _) =
            Exchange::begin_with(rfc_verifier("pencil"), CLIENT_FIRST, "other").unwrap();
        assert_eq!(exchange.finish(CLIENT_FINAL), Err(ScramError::Malformed));
        for refused in [
            "p=tls-exporter,,n=user,r=x",
            "n,,m=later,n=user,r=x",
            "n,,r=x,n=user",
            "n,,n=user,r=",
        ] {
            assert!(
                Exchange::begin(rfc_verifier("pencil"), refused).is_err(),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_verifier_survives_its_text_and_checks_passwords() {
        let verifier = Verifier::of_password("correct horse");
        let again: Verifier = verifier.to_string().parse().unwrap();
        assert_eq!(again, verifier);
        assert!(again.fits("correct horse"));
        assert!(!again.fits("correct hors"));
        assert!(!Verifier::of_nobody(&[7; 32], "eve", None).fits(""));
        for bad in [
            "",
            "SCRAM-SHA-256$1:AA==$AA==:AA==",
            "md5abc",
            "SCRAM-SHA-256$4096:AA==$x",
        ] {
            assert!(bad.parse::<Verifier>().is_err(), "{bad}");
        }
    }
}
