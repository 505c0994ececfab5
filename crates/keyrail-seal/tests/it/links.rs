//! Slots whose root stayed away while the root key was rotated.

use keyrail_crypto::secret::RootKey;
use keyrail_seal::{KeyFile, ROOT_LINKS_MAX, RootSlot, SealError};

use crate::place::{Place, protected_by};

/// A slot that missed so many rotations, with all its root keys.
fn missed(file: &KeyFile, count: usize) -> (RootSlot, Vec<RootKey>) {
    let (first, mut slot) = protected_by(file);
    let mut keys = vec![first];
    for _ in 0..count {
        let next = RootKey::generate().unwrap();
        slot = slot.linked(keys.last().unwrap(), &next).unwrap();
        keys.push(next);
    }
    (slot, keys)
}

#[test]
fn a_slot_with_links_opens_the_last_root_key() {
    let place = Place::new();
    let file = KeyFile::create(place.path("root.key")).unwrap();
    for count in 0..=ROOT_LINKS_MAX {
        let (slot, keys) = missed(&file, count);
        let bytes = slot.to_bytes();
        let links = if count == 0 { 0 } else { 1 + 81 * count };
        assert_eq!((bytes[0], bytes.len()), (if count == 0 { 1 } else { 2 }, 115 + links));
        let read = RootSlot::from_bytes(&bytes).unwrap();
        assert_eq!(read, slot);
        assert!(read.open_with(&file).unwrap().ct_eq(&keys[count]));
        if count == ROOT_LINKS_MAX {
            let full = slot.linked(&keys[count], &keys[0]).unwrap_err();
            assert!(matches!(full, SealError::LinksFull { links: ROOT_LINKS_MAX }), "{full}");
        }
    }
}

#[test]
fn no_link_opens_in_another_place() {
    let place = Place::new();
    let file = KeyFile::create(place.path("root.key")).unwrap();
    let (slot, keys) = missed(&file, 3);
    let (other, _) = missed(&file, 3);
    let damaged = |change: &dyn Fn(&mut RootSlot)| {
        let mut slot = slot.clone();
        change(&mut slot);
        matches!(slot.open_with(&file), Err(SealError::SlotDamaged))
    };
    assert!(!damaged(&|_| ()));
    assert!(damaged(&|slot| slot.links.swap(0, 1)));
    assert!(damaged(&|slot| drop(slot.links.remove(1))));
    assert!(damaged(&|slot| slot.links[0] = other.links[0].clone()));
    assert!(damaged(&|slot| slot.links.insert(1, slot.links[0].clone())));
    // One that goes on from the present root key, with the number of another place.
    let short = RootSlot { links: slot.links[..1].to_vec(), ..slot.clone() };
    let early = short.linked(&keys[3], &keys[0]).unwrap();
    assert!(damaged(&|slot| slot.links.push(early.links[1].clone())));
    let whole = slot.to_bytes();
    for index in [0, 115, 116, whole.len() - 1] {
        let mut altered = whole.clone();
        altered[index] ^= 1;
        let opened = RootSlot::from_bytes(&altered).and_then(|slot| slot.open_with(&file));
        assert!(matches!(opened, Err(SealError::SlotDamaged)), "byte {index}");
    }
    for bytes in
        [&whole[..whole.len() - 81], &whole[..116], &[&whole[..115], &[0]].concat(), &[whole.as_slice(), &[0]].concat()]
    {
        assert!(matches!(RootSlot::from_bytes(bytes), Err(SealError::SlotDamaged)));
    }
}

/// What is kept of a void slot has the set in it, and no key.
#[test]
fn a_void_slot_opens_nothing() {
    let place = Place::new();
    let file = KeyFile::create(place.path("root.key")).unwrap();
    let (slot, _) = missed(&file, 2);
    let void = RootSlot::from_bytes(&slot.voided().unwrap().to_bytes()).unwrap();
    assert_eq!((&void.parameters, void.links.len()), (&slot.parameters, 0));
    assert!(void.id != slot.id && matches!(void.open_with(&file), Err(SealError::SlotDamaged)));
}
