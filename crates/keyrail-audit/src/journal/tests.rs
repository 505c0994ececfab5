#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use keyrail_crypto::secret::StoreKey;
use rustix::io::Errno;

use super::*;
use crate::body::Records;
use crate::files::Step;
use crate::files::faults::{Fault, Faults, Plan};
use crate::log::replay::Replay;

/// A directory with a journal of some long records, and the edge that the next file would begin with: of many sectors.
fn journal(key: &MacKey) -> (tempfile::TempDir, RightEdge) {
    let dir = tempfile::tempdir().unwrap();
    let mut file = JournalFile::create(dir.path(), 1, &RightEdge::default(), key).unwrap();
    let mut edge = RightEdge::default();
    for index in 0..RECORDS {
        let record = Record { salt: [7; 16], body: vec![b'a' + index as u8; 3_000] };
        let mut payload = Vec::new();
        record.encode(&mut payload);
        file.append(index as u64, &payload, key).unwrap();
        Records::from_iter([record]).iter().for_each(|logged| drop(edge.push(logged)));
    }
    (dir, edge)
}

const RECORDS: usize = 20;

/// What a power cut may keep of a file that was never synced: some of its sectors.
fn cut_power(path: &Path, keeps: impl Fn(usize) -> bool) {
    let mut bytes = std::fs::read(path).unwrap();
    for (index, sector) in bytes.chunks_mut(SECTOR_LEN).enumerate() {
        if !keeps(index) {
            sector.fill(0);
        }
    }
    std::fs::write(path, bytes).unwrap();
}

/// Whatever is kept of a file that was being begun, the one before it counts and is whole.
#[test]
fn a_power_cut_while_a_file_is_begun_leaves_the_former_one() {
    let key = StoreKey::generate().unwrap().mac_key("journal").unwrap();
    let (dir, edge) = journal(&key);
    let second = JournalFile::path_in(dir.path(), 2);
    let keeps: [fn(usize) -> bool; 5] = [|_| true, |_| false, |at| at > 0, |at| at == 0, |at| at % 2 == 1];
    // Its edge is written, and the power goes before the sync says that it is durable.
    for (round, keeps) in keeps.iter().enumerate() {
        let plan = Plan { kind: Step::Sync, fault: Fault::NotStored, skip: 0, count: 1, error: Errno::IO };
        let faults = Faults::plan(dir.path(), plan);
        assert!(JournalFile::create(dir.path(), 2, &edge, &key).is_err());
        assert_eq!(faults.hit(), 1);
        drop(faults);
        if second.exists() {
            cut_power(&second, keeps);
        }
        // What this process threw away, and a power cut does not.
        let whole = JournalFile::begin(&dir.path().join(TEMPORARY), 2, edge.size(), &edge.encode(), &key).unwrap();
        cut_power(&whole.path, keeps);
        let replay = Replay::read(dir.path(), Some(&key)).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!((replay.records.len(), replay.sequence), (RECORDS, 1), "round {round}");
        assert!(replay.former.is_empty(), "round {round}: {:?}", replay.former);
    }
    // What is left of it is in nobody's way.
    JournalFile::create(dir.path(), 2, &edge, &key).unwrap();
    let replay = Replay::read(dir.path(), Some(&key)).unwrap();
    assert_eq!((replay.records.len(), replay.path), (RECORDS, second.clone()));
    assert!(!dir.path().join(TEMPORARY).exists());
    let again = JournalFile::create(dir.path(), 2, &edge, &key);
    assert!(matches!(again, Err(LogError::File { .. })), "no file is replaced");
}

/// Wherever it fails, there is no file of that name, or one with its whole edge.
#[test]
fn a_file_has_its_name_with_a_whole_edge_alone() {
    let key = StoreKey::generate().unwrap().mac_key("journal").unwrap();
    let (dir, edge) = journal(&key);
    let steps = [Step::Create, Step::Append, Step::Sync, Step::Rename, Step::SyncDir];
    let mut named = 0;
    for (number, kind) in (2..).zip(steps) {
        for (part, fault) in [Fault::NotStored, Fault::HalfStored, Fault::StoredButFailed].into_iter().enumerate() {
            let sequence = number * 10 + part as u64;
            let faults = Faults::plan(dir.path(), Plan { kind, fault, skip: 0, count: 1, error: Errno::NOSPC });
            assert!(JournalFile::create(dir.path(), sequence, &edge, &key).is_err(), "{kind:?} {fault:?}");
            assert_eq!(faults.hit(), 1, "{kind:?} {fault:?}");
            assert!(!dir.path().join(TEMPORARY).exists(), "{kind:?} {fault:?}: its room is not freed");
            let path = JournalFile::path_in(dir.path(), sequence);
            if path.exists() {
                let read = replay(&path, sequence, Some(&key)).unwrap().unwrap();
                assert_eq!((read.edge.root(), read.torn_len), (edge.root(), 0), "{kind:?} {fault:?}");
                named += 1;
            }
        }
    }
    // A rename that was done, and a directory whose sync failed.
    assert_eq!(named, 4);
}
