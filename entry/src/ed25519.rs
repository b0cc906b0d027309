//! Ed25519 verification that no key can cheat.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

/// Whether `signature` over `message` is of the key `public`. A key of small order has no signatures.
#[must_use]
pub fn verify(public: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    !is_small_order(public)
        && UnparsedPublicKey::new(&ED25519, public)
            .verify(message, signature)
            .is_ok()
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

/// Whether `public` is a point of small order: a key for which anybody can sign.
#[must_use]
pub fn is_small_order(public: &[u8; 32]) -> bool {
    let mut point = *public;
    point[31] &= 0x7f;
    SMALL_ORDER.contains(&point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_small_order_verifies_nothing() {
        for key in SMALL_ORDER {
            // With such a key the zero scalar signs: one message in a few, whoever asks.
            for message in 0..64_u8 {
                for point in SMALL_ORDER {
                    let forged = [point, [0; 32]].concat();
                    assert!(!verify(&key, &[message], &forged), "{key:?}");
                }
            }
        }
    }
}
