use proptest::prelude::*;

use super::*;

fn keyring() -> Keyring {
    let key = DataKey {
        id: DataKeyId::from_bytes([1; 16]),
        app: AppId::from_bytes([2; 16]),
        name: "pii".parse().unwrap(),
        label: "internal".parse().unwrap(),
        status: KeyStatus::Enabled,
        created_at: Timestamp::from_millis(0),
        updated_at: Timestamp::from_millis(0),
        generation: 1,
    };
    let empty = Keyring { key, versions: Vec::new() };
    let change = empty.rotate(new_version(1), Timestamp::from_millis(0)).unwrap();
    empty.with(&change)
}

fn new_version(seed: u8) -> NewVersion {
    NewVersion {
        kid: Kid::from_bytes([seed; 16]),
        suite: Suite::default(),
        wrapped: vec![seed; 4],
        wrapped_by: MasterVersionId::from_bytes([9; 16]),
    }
}

fn number(n: u32) -> VersionNumber {
    VersionNumber::new(n).unwrap()
}

#[test]
fn rotation_deactivates_the_former_version_in_the_same_change() {
    let ring = keyring();
    let change = ring.rotate(new_version(2), Timestamp::from_millis(5)).unwrap();
    assert_eq!(change.added.as_ref().unwrap().version, number(2));
    assert_eq!(change.changed[0].state, VersionState::Deactivated);
    assert_eq!(change.changed[0].fenced_at, Some(Timestamp::from_millis(5)));
    assert_eq!(ring.with(&change).active().unwrap().version, number(2));
}

#[test]
fn only_the_active_version_encrypts_and_a_retired_one_opens_nothing() {
    let ring = keyring();
    let ring = ring.clone().with(&ring.rotate(new_version(2), Timestamp::from_millis(5)).unwrap());
    assert!(ring.versions[0].for_encrypt().is_err());
    assert!(ring.versions[0].for_decrypt().is_ok());
    let ring = ring.clone().with(&ring.retire(number(1), Timestamp::from_millis(6)).unwrap());
    assert_eq!(ring.versions[0].for_decrypt().err().map(|refusal| refusal.state), Some(VersionState::Retired));
}

#[test]
fn destruction_takes_the_key_material_with_it() {
    let ring = keyring();
    let mut ring = ring.clone().with(&ring.rotate(new_version(2), Timestamp::from_millis(5)).unwrap());
    ring = ring.clone().with(&ring.retire(number(1), Timestamp::from_millis(6)).unwrap());
    ring = ring.clone().with(&ring.destroy(number(1), Timestamp::from_millis(6)).unwrap());
    assert_eq!(ring.versions[0].wrapped, None);
    assert!(ring.activate_former(number(1), Timestamp::from_millis(7)).is_err());
}

#[test]
fn the_active_version_is_compromised_only_with_a_replacement() {
    let ring = keyring();
    let now = Timestamp::from_millis(1);
    assert_eq!(ring.compromise(number(1), None, now), Err(KeyError::ReplacementNeeded { version: number(1) }));
    let ring = ring.clone().with(&ring.compromise(number(1), Some(new_version(2)), now).unwrap());
    assert_eq!(ring.versions[0].state, VersionState::Compromised);
    assert_eq!(ring.active().unwrap().version, number(2));
}

proptest! {
    /// Whatever is tried in whatever order: never two active versions, exactly one while the key is enabled,
    /// numbers never come twice, and a row's generation only grows.
    #[test]
    fn a_keyring_stays_whole(moves in proptest::collection::vec((0_u8..9, 1_u32..6), 1..60)) {
        let mut ring = keyring();
        for (step, (kind, version)) in moves.into_iter().enumerate() {
            let now = Timestamp::from_millis(i64::try_from(step).unwrap());
            let seed = u8::try_from(step + 2).unwrap();
            let change = match kind {
                0 => ring.rotate(new_version(seed), now),
                1 => ring.activate_former(number(version), now),
                2 => ring.suspend(number(version), now),
                3 => ring.resume(number(version), now),
                4 => ring.compromise(number(version), Some(new_version(seed)), now),
                5 => ring.retire(number(version), now),
                6 => ring.reinstate(number(version), now),
                7 => ring.destroy(number(version), now),
                _ => ring.compromise(number(version), None, now),
            };
            let Ok(change) = change else { continue };
            for row in &change.changed {
                prop_assert!(row.generation > ring.by_kid(&row.kid).unwrap().generation);
            }
            ring = ring.with(&change);
            let active = ring.versions.iter().filter(|v| v.state == VersionState::Active).count();
            prop_assert_eq!(active, usize::from(ring.key.status == KeyStatus::Enabled));
            let mut numbers: Vec<_> = ring.versions.iter().map(|v| v.version).collect();
            numbers.dedup();
            prop_assert_eq!(numbers.len(), ring.versions.len());
        }
    }
}
