use super::*;
use signed_note::{Note as OtherNote, StandardVerifier, VerifierList};

const TEXT: &str = "bank.test/collector-1\n7\nabc\n";

#[test]
fn the_other_implementation_accepts_our_notes_and_keys() {
    let key = LogKey::generate("bank.test/collector-1").unwrap();
    let verifier = StandardVerifier::new(&key.verifier().to_string()).unwrap();
    let note = OtherNote::from_bytes(key.sign(TEXT).as_bytes()).unwrap();
    let (good, unknown) = note
        .verify(&VerifierList::new(vec![Box::new(verifier)]))
        .unwrap();
    assert_eq!((good.len(), unknown.len()), (1, 0));
}

#[test]
fn a_published_verifier_key_and_note_verify() {
    // From the documentation of golang.org/x/mod/sumdb/note.
    let key =
        VerifierKey::parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
            .unwrap();
    let note = "If you think cryptography is the answer to your problem,\n\
                then you don't know what your problem is.\n\n\
                \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    assert_eq!(Note::parse(note).unwrap().verify_only(&key), Ok(()));
}

#[test]
fn a_key_survives_its_pem_file() {
    let key = LogKey::generate("bank.test/collector-1").unwrap();
    let again = LogKey::from_pem("bank.test/collector-1", &key.to_pem().unwrap()).unwrap();
    assert_eq!(again.verifier(), key.verifier());
    assert_eq!(
        VerifierKey::parse(&key.verifier().to_string()).as_ref(),
        Ok(key.verifier())
    );
    assert!(!format!("{key:?}").contains("pair"));
}

#[test]
fn a_flip_of_any_bit_of_a_note_is_refused() {
    let key = LogKey::generate("bank.test/collector-1").unwrap();
    let note = key.sign(TEXT);
    for at in 0..note.len() {
        for bit in 0..8 {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let refused = match std::str::from_utf8(&bytes) {
                Ok(text) => Note::parse(text)
                    .and_then(|n| n.verify_only(key.verifier()))
                    .is_err(),
                Err(_) => true,
            };
            assert!(refused, "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn a_note_of_another_key_is_unsigned() {
    let key = LogKey::generate("bank.test/collector-1").unwrap();
    let other = LogKey::generate("bank.test/collector-1").unwrap();
    let note = Note::parse(&other.sign(TEXT)).unwrap();
    assert_eq!(
        note.verify(key.verifier()),
        Err(NoteError::Unsigned("bank.test/collector-1".to_owned()))
    );
}

#[test]
fn bad_verifier_keys_are_refused() {
    let good = LogKey::generate("bank.test/c")
        .unwrap()
        .verifier()
        .to_string();
    let other_name = good.replacen("bank.test/c", "bank.test/d", 1);
    let cut = good.split_at(good.len() - 4).0;
    for bad in ["", "a+b", "a+00000000+AAAA", other_name.as_str(), cut] {
        assert!(VerifierKey::parse(bad).is_err(), "{bad}");
    }
}
