use super::*;
use counterfoil_entry::tree::leaf_hash;
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use proptest::prelude::*;
use sha2::Sha256;

fn leaves(size: u64) -> Vec<Hash> {
    (0..size).map(|n| leaf_hash(&n.to_be_bytes())).collect()
}

/// The same leaves in ct-merkle's tree, an implementation that shares no code with ours.
fn other(size: u64) -> MemoryBackedTree<Sha256, Vec<u8>> {
    let mut tree = MemoryBackedTree::new();
    (0..size).for_each(|n| tree.push(n.to_be_bytes().to_vec()));
    tree
}

fn bytes(proof: &[Hash]) -> Vec<u8> {
    proof.iter().flat_map(|hash| hash.0).collect()
}

#[test]
fn proofs_are_byte_for_byte_those_of_the_other_implementation() {
    for size in 1..70_u64 {
        let (ours, theirs) = (leaves(size), other(size));
        assert_eq!(
            root(&ours).as_bytes().as_slice(),
            theirs.root().as_bytes().as_slice()
        );
        for at in 0..size {
            let place = usize::try_from(at).unwrap();
            let proof = prove_inclusion(&ours, at).unwrap();
            assert_eq!(
                bytes(&proof),
                theirs.prove_inclusion(place).as_bytes(),
                "{at} of {size}"
            );
            let old = at + 1;
            let additions = usize::try_from(size - old).unwrap();
            let proof = prove_consistency(&ours, old).unwrap();
            if additions > 0 {
                let theirs = theirs.prove_consistency(additions);
                assert_eq!(bytes(&proof), theirs.as_bytes(), "{old} to {size}");
            }
        }
    }
}

#[test]
fn every_prefix_verifies_against_every_later_size() {
    for size in 0..70_u64 {
        let all = leaves(size);
        let new = Head {
            size,
            root: root(&all),
        };
        for at in 0..=size {
            let old = Head {
                size: at,
                root: root(&leaves(at)),
            };
            let proof = prove_consistency(&all, at).unwrap();
            assert_eq!(
                verify_consistency(&old, &new, &proof),
                Ok(()),
                "{at} to {size}"
            );
            if let Some(leaf) = all.get(usize::try_from(at).unwrap()) {
                let proof = prove_inclusion(&all, at).unwrap();
                assert_eq!(verify_inclusion(leaf, at, size, &proof, &new.root), Ok(()));
            }
        }
    }
}

#[test]
fn the_tlog_implementation_accepts_our_proofs() {
    for (old, size) in [
        (1_u64, 2_u64),
        (3, 7),
        (4, 7),
        (6, 8),
        (200, 300),
        (256, 300),
    ] {
        let all = leaves(size);
        let hash = |hash: Hash| tlog_tiles::Hash(hash.0);
        let theirs = |proof: Vec<Hash>| proof.into_iter().map(hash).collect::<Vec<_>>();
        let newest = hash(root(&all));
        let proof = theirs(prove_consistency(&all, old).unwrap());
        let before = hash(root(&leaves(old)));
        tlog_tiles::check_tree(&proof, size, newest, old, before).unwrap();
        let proof = theirs(prove_inclusion(&all, old).unwrap());
        let leaf = hash(all[usize::try_from(old).unwrap()]);
        tlog_tiles::check_record(&proof, size, newest, old, leaf).unwrap();
    }
}

#[test]
fn places_beyond_the_tree_are_refused() {
    let all = leaves(5);
    assert_eq!(
        prove_inclusion(&all, 5),
        Err(ProofError::Beyond { at: 5, size: 5 })
    );
    assert_eq!(
        prove_consistency(&all, 6),
        Err(ProofError::Beyond { at: 6, size: 5 })
    );
    assert!(verify_inclusion(&all[0], 0, 0, &[], &root(&[])).is_err());
    let head = |size| Head {
        size,
        root: root(&leaves(size)),
    };
    assert!(verify_consistency(&head(6), &head(5), &[]).is_err());
}

proptest! {
    #[test]
    fn a_changed_proof_leaf_place_or_root_is_refused(
        size in 2_u64..200,
        at in 0_u64..200,
        flip in 0_usize..4096,
    ) {
        let at = at % size;
        let all = leaves(size);
        let place = usize::try_from(at).unwrap();
        let (leaf, top) = (all[place], root(&all));
        let proof = prove_inclusion(&all, at).unwrap();
        let bad = |proof: &[Hash], leaf: &Hash, at, top: &Hash| {
            verify_inclusion(leaf, at, size, proof, top).is_err()
        };
        let mut changed = proof.clone();
        changed[flip % proof.len()].0[flip % 32] ^= 1;
        prop_assert!(bad(&changed, &leaf, at, &top));
        prop_assert!(bad(&proof, &all[(place + 1) % all.len()], at, &top));
        prop_assert!(bad(&proof[1..], &leaf, at, &top));
        prop_assert!(bad(&[proof.clone(), vec![top]].concat(), &leaf, at, &top));
        prop_assert!(bad(&proof, &leaf, at, &leaf_hash(b"")));

        let (old, new) = (Head { size: at, root: root(&all[..place]) }, Head { size, root: top });
        let proof = prove_consistency(&all, at).unwrap();
        if let Some(last) = proof.len().checked_sub(1) {
            let mut changed = proof.clone();
            changed[flip % (last + 1)].0[flip % 32] ^= 1;
            prop_assert!(verify_consistency(&old, &new, &changed).is_err());
            prop_assert!(verify_consistency(&old, &new, &proof[..last]).is_err());
        }
        let other = Head { root: leaf_hash(b""), ..old };
        prop_assert!(verify_consistency(&other, &new, &proof).is_err());
    }
}
