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
    let change = empty.rotate(new_version(1), fence(Timestamp::from_millis(0))).unwrap();
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

fn fence(now: Timestamp) -> Fence {
    Fence { now, write_window_seconds: 60 }
}

fn number(n: u32) -> VersionNumber {
    VersionNumber::new(n).unwrap()
}

#[test]
fn rotation_deactivates_the_former_version_in_the_same_change() {
    let ring = keyring();
    let change = ring.rotate(new_version(2), fence(Timestamp::from_millis(5))).unwrap();
    assert_eq!(change.added.as_ref().unwrap().version, number(2));
    assert_eq!(change.changed[0].state, VersionState::Deactivated);
    assert_eq!(change.changed[0].fenced_at, Some(Timestamp::from_millis(5)));
    assert_eq!(ring.with(&change).active().unwrap().version, number(2));
}

#[test]
fn a_fence_keeps_the_longest_window_that_was_promised() {
    let ring = keyring();
    let at = |millis, write_window_seconds| Fence { now: Timestamp::from_millis(millis), write_window_seconds };
    let window = |ring: &Keyring| ring.versions[0].fenced_window_seconds;
    let ring = ring.clone().with(&ring.rotate(new_version(2), at(5, 3_600)).unwrap());
    assert_eq!((window(&ring), ring.versions[1].fenced_window_seconds), (Some(3_600), None));
    // It stays with the version through what comes after, and a shorter one does not take its place.
    let ring = ring.clone().with(&ring.activate_former(number(1), at(6, 60)).unwrap());
    let ring = ring.clone().with(&ring.rotate(new_version(3), at(7, 60)).unwrap());
    let ring = ring.clone().with(&ring.retire(number(1), Timestamp::from_millis(8)).unwrap());
    let ring = ring.clone().with(&ring.reinstate(number(1), Timestamp::from_millis(9)).unwrap());
    assert_eq!(window(&ring), Some(3_600));
    let ring = ring.clone().with(&ring.compromise(number(1), None, at(10, 9_000)).unwrap());
    assert_eq!(window(&ring), Some(3_600), "it was fenced before");
    let ring = ring.clone().with(&ring.compromise(number(3), Some(new_version(4)), at(11, 90)).unwrap());
    assert_eq!(ring.versions[2].fenced_window_seconds, Some(90));
}

#[test]
fn only_the_active_version_encrypts_and_a_retired_one_opens_nothing() {
    let ring = keyring();
    let ring = ring.clone().with(&ring.rotate(new_version(2), fence(Timestamp::from_millis(5))).unwrap());
    assert!(ring.versions[0].for_encrypt().is_err());
    assert!(ring.versions[0].for_decrypt().is_ok());
    let ring = ring.clone().with(&ring.retire(number(1), Timestamp::from_millis(6)).unwrap());
    assert_eq!(ring.versions[0].for_decrypt().err().map(|refusal| refusal.state), Some(VersionState::Retired));
}

#[test]
fn destruction_takes_the_key_material_with_it() {
    let ring = keyring();
    let mut ring = ring.clone().with(&ring.rotate(new_version(2), fence(Timestamp::from_millis(5))).unwrap());
    ring = ring.clone().with(&ring.retire(number(1), Timestamp::from_millis(6)).unwrap());
    ring = ring.clone().with(&ring.destroy(number(1), Timestamp::from_millis(6)).unwrap());
    assert_eq!(ring.versions[0].wrapped, None);
    assert!(ring.activate_former(number(1), fence(Timestamp::from_millis(7))).is_err());
}

#[test]
fn the_active_version_is_compromised_only_with_a_replacement() {
    let ring = keyring();
    let now = Timestamp::from_millis(1);
    assert_eq!(ring.compromise(number(1), None, fence(now)), Err(KeyError::ReplacementNeeded { version: number(1) }));
    let ring = ring.clone().with(&ring.compromise(number(1), Some(new_version(2)), fence(now)).unwrap());
    assert_eq!(ring.versions[0].state, VersionState::Compromised);
    assert_eq!(ring.active().unwrap().version, number(2));
}

#[test]
fn a_suspended_active_version_that_is_exposed_is_replaced_and_the_key_enabled() {
    let ring = keyring();
    let now = Timestamp::from_millis(1);
    let ring = ring.clone().with(&ring.suspend(number(1), now).unwrap());
    assert_eq!(ring.key.status, KeyStatus::Disabled);
    assert!(ring.rotate(new_version(2), fence(now)).is_err());
    assert_eq!(ring.compromise(number(1), None, fence(now)), Err(KeyError::ReplacementNeeded { version: number(1) }));
    let ring = ring.clone().with(&ring.compromise(number(1), Some(new_version(2)), fence(now)).unwrap());
    assert_eq!(ring.key.status, KeyStatus::Enabled);
    assert_eq!(ring.active().unwrap().version, number(2));
}

#[test]
fn only_the_version_that_was_active_becomes_active_by_resuming() {
    let ring = keyring();
    let now = Timestamp::from_millis(1);
    let ring = ring.clone().with(&ring.rotate(new_version(2), fence(now)).unwrap());
    let ring = ring.clone().with(&ring.suspend(number(1), now).unwrap());
    let ring = ring.clone().with(&ring.suspend(number(2), now).unwrap());
    let ring = ring.clone().with(&ring.resume(number(1), now).unwrap());
    assert_eq!(ring.versions[0].state, VersionState::Deactivated);
    assert_eq!(ring.key.status, KeyStatus::Disabled);
    let ring = ring.clone().with(&ring.resume(number(2), now).unwrap());
    assert_eq!(ring.active().unwrap().version, number(2));
    assert_eq!(ring.key.status, KeyStatus::Enabled);
}

#[test]
fn an_absent_version_and_a_full_keyring_are_refused() {
    let ring = keyring();
    let now = Timestamp::from_millis(1);
    assert_eq!(ring.retire(number(2), now), Err(KeyError::NoSuchVersion { version: number(2) }));
    let many = Keyring { versions: vec![ring.versions[0].clone(); VERSIONS_PER_KEY_MAX], ..ring };
    let full = Err(KeyError::TooManyVersions { max: VERSIONS_PER_KEY_MAX });
    assert_eq!(many.rotate(new_version(2), fence(now)), full);
}

/// One move out of all there are.
fn step(ring: &Keyring, kind: u8, version: u32, seed: u8, now: Timestamp) -> Result<KeyChange, KeyError> {
    match kind {
        0 => ring.rotate(new_version(seed), fence(now)),
        1 => ring.activate_former(number(version), fence(now)),
        2 => ring.suspend(number(version), now),
        3 => ring.resume(number(version), now),
        4 => ring.compromise(number(version), Some(new_version(seed)), fence(now)),
        5 => ring.retire(number(version), now),
        6 => ring.reinstate(number(version), now),
        7 => ring.destroy(number(version), now),
        _ => ring.compromise(number(version), None, fence(now)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..ProptestConfig::default() })]

    /// Whatever is tried in whatever order, at whatever the clock says: never two active versions, exactly one while
    /// the key is enabled, numbers never come twice, a row's generation only grows, what is destroyed stays so and is
    /// good for nothing, and a disabled key can be enabled again.
    #[test]
    fn a_keyring_stays_whole(moves in proptest::collection::vec((0_u8..9, 1_u32..6, -5_i64..5), 1..80)) {
        let mut ring = keyring();
        let mut clock = 0;
        for (step_number, (kind, version, passed)) in moves.into_iter().enumerate() {
            clock += passed;
            let now = Timestamp::from_millis(clock);
            let seed = u8::try_from(step_number + 2).unwrap();
            let Ok(change) = step(&ring, kind, version, seed, now) else { continue };
            prop_assert!(change.key.generation > ring.key.generation);
            for row in &change.changed {
                let former = ring.by_kid(&row.kid).unwrap();
                prop_assert!(row.generation > former.generation);
                prop_assert!(former.state != VersionState::Destroyed);
            }
            ring = ring.with(&change);
            let active = ring.versions.iter().filter(|v| v.state == VersionState::Active).count();
            prop_assert_eq!(active, usize::from(ring.key.status == KeyStatus::Enabled));
            let mut numbers: Vec<_> = ring.versions.iter().map(|v| v.version).collect();
            numbers.dedup();
            prop_assert_eq!(numbers.len(), ring.versions.len());
            for gone in ring.versions.iter().filter(|v| v.state == VersionState::Destroyed) {
                prop_assert!(gone.wrapped.is_none() && gone.for_encrypt().is_err() && gone.for_decrypt().is_err());
            }
            let back: Vec<_> = ring.versions.iter().filter(|v| ring.needs_replacement(v.version)).collect();
            prop_assert_eq!(back.len(), 1);
            if ring.key.status == KeyStatus::Disabled {
                let enabled = ring.clone().with(&ring.resume(back[0].version, now).unwrap());
                prop_assert_eq!(enabled.key.status, KeyStatus::Enabled);
            }
        }
    }

    /// Rotation takes nothing away: what opened before opens after, and the new version is the one that encrypts.
    #[test]
    fn rotation_keeps_old_data_readable(moves in proptest::collection::vec((0_u8..9, 1_u32..6), 0..40)) {
        let mut ring = keyring();
        let now = Timestamp::from_millis(0);
        for (at, (kind, version)) in moves.into_iter().enumerate() {
            if let Ok(change) = step(&ring, kind, version, u8::try_from(at + 2).unwrap(), now) {
                ring = ring.with(&change);
            }
        }
        let opens = |ring: &Keyring| -> Vec<_> {
            ring.versions.iter().filter(|v| v.for_decrypt().is_ok()).map(|v| (v.kid, v.wrapped.clone())).collect()
        };
        let before = opens(&ring);
        if let Ok(change) = ring.rotate(new_version(250), fence(now)) {
            let after = ring.with(&change);
            let opened = opens(&after);
            prop_assert!(before.iter().all(|row| opened.contains(row)));
            prop_assert_eq!(after.active().unwrap().kid, Kid::from_bytes([250; 16]));
        }
    }
}
