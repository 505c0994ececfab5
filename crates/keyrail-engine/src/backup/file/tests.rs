use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use keyrail_core::system::SlotRole;
use keyrail_crypto::secret::{AsSecret, Secret32};
use keyrail_seal::{KeyFile, RootSpec};
use tempfile::TempDir;

use super::*;
use crate::roots::new_row;

/// Parts of the file that is written here.
const PARTS: usize = 5;

struct Made {
    dir: TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
}

fn key_file(path: &Path) -> Box<dyn RootOfTrust> {
    KeyFile::create(path).unwrap();
    RootSpec::KeyFile(path.to_owned()).resolve().unwrap()
}

fn manifest() -> Manifest {
    Manifest {
        store: "ab".repeat(16),
        time: Timestamp::from_millis(0),
        origin: "keyrail/test".to_owned(),
        public_key: "keyrail/test+00+00".to_owned(),
        log_size: 7,
        log_root: "00".repeat(32),
        generation: 9,
        state_root: "11".repeat(32),
        configured_root: "keyfile:/r".to_owned(),
        rows: BTreeMap::from([("domain".to_owned(), 3)]),
    }
}

/// A manifest, three full parts and a short one.
fn content() -> Vec<u8> {
    (0..3 * CHUNK_LEN_MAX + 100).map(|place| place as u8).collect()
}

fn made() -> Made {
    let dir = tempfile::tempdir().unwrap();
    let provider = key_file(&dir.path().join("root.key"));
    let root = RootKey::generate().unwrap();
    let slot = new_row(&provider.protect(&root).unwrap(), SlotRole::Primary, Timestamp::from_millis(0));
    let name = BackupName::new(&"ab".repeat(16), Timestamp::from_millis(0), 7);
    let mut file = BackupFile::create(dir.path(), &name, &[slot], &root, &manifest()).unwrap();
    content().chunks(1_000).for_each(|part| file.write(part).unwrap());
    let written = file.finish().unwrap();
    let bytes = std::fs::read(&written.path).unwrap();
    assert_eq!((written.len, written.sha256), (bytes.len() as u64, sha256(&bytes)));
    assert_eq!(std::fs::metadata(&written.path).unwrap().permissions().mode() & 0o777, 0o600);
    Made { dir, path: written.path, bytes }
}

impl Made {
    /// Reads other bytes in the place of the backup's.
    fn read(&self, bytes: &[u8]) -> Result<Vec<u8>, EngineError> {
        std::fs::write(&self.path, bytes).unwrap();
        let root = RootSpec::KeyFile(self.dir.path().join("root.key")).resolve().unwrap();
        let mut reader = BackupReader::open(&self.path, root.as_ref())?;
        assert_eq!(reader.manifest, manifest());
        let mut found = Vec::new();
        while let Some(part) = reader.next()? {
            found.extend(part);
        }
        Ok(found)
    }

    fn code(&self, bytes: &[u8]) -> &'static str {
        self.read(bytes).unwrap_err().code()
    }

    /// Where the parts begin, and the end of the last one.
    fn bounds(&self) -> Vec<usize> {
        let header = Header::read(&mut self.bytes.as_slice()).unwrap_or_else(|_| panic!("a header"));
        let mut bounds = vec![header.bytes.len()];
        while *bounds.last().unwrap() < self.bytes.len() {
            let at = *bounds.last().unwrap();
            let part = Part::read(&mut &self.bytes[at..], 0).unwrap_or_else(|_| panic!("a part"));
            bounds.push(at + PART_HEAD_LEN + part.sealed.len());
        }
        bounds
    }
}

#[test]
fn what_was_written_is_read() {
    let made = made();
    assert_eq!(made.read(&made.bytes).unwrap(), content());
    assert_eq!(made.bounds().len(), PARTS + 1);
    assert_eq!(std::fs::read_dir(made.dir.path()).unwrap().count(), 2, "the key file and the backup");
}

#[test]
fn one_that_is_cut_off_anywhere_says_so() {
    let made = made();
    let bounds = made.bounds();
    let places = (0..made.bytes.len()).step_by(3_001).chain(0..bounds[1]).chain(bounds[..PARTS].iter().copied());
    for len in places {
        let code = made.code(&made.bytes[..len]);
        assert_eq!(code, "backup_truncated", "{len}");
    }
}

#[test]
fn one_that_was_altered_anywhere_says_so() {
    let made = made();
    let bounds = made.bounds();
    let heads = bounds[..PARTS].iter().flat_map(|at| *at..at + PART_HEAD_LEN);
    for place in (0..made.bytes.len()).step_by(2_003).chain(0..bounds[1]).chain(heads) {
        let mut altered = made.bytes.clone();
        altered[place] ^= 1;
        let code = made.code(&altered);
        let wanted: &[&str] = match place {
            0..8 => &["not_a_backup"],
            8 => &["backup_newer"],
            // A length leads astray, a slot does not open.
            _ => &["backup_altered", "backup_truncated", "root_failed"],
        };
        assert!(wanted.contains(&code), "{place}: {code}");
    }
    let longer = [&made.bytes[..], b"x"].concat();
    assert_eq!(made.code(&longer), "backup_altered");
}

#[test]
fn parts_that_are_not_in_their_order_are_told() {
    let made = made();
    let bounds = made.bounds();
    let part = |number: usize| &made.bytes[bounds[number]..bounds[number + 1]];
    let with = |order: [usize; PARTS]| {
        let parts: Vec<_> = order.iter().map(|number| part(*number)).collect();
        [&made.bytes[..bounds[0]], &parts.concat()].concat()
    };
    assert_eq!(made.read(&with([0, 1, 2, 3, 4])).unwrap(), content());
    for order in [[0, 2, 1, 3, 4], [1, 0, 2, 3, 4], [0, 1, 2, 2, 4], [0, 1, 3, 4, 2]] {
        assert_eq!(made.code(&with(order)), "backup_reordered", "{order:?}");
    }
    let left_out = [&made.bytes[..bounds[1]], part(2), part(3), part(4)].concat();
    assert_eq!(made.code(&left_out), "backup_reordered");
    // The last part in the place of another does not pass for a shorter backup.
    let shorter = [&made.bytes[..bounds[2]], part(4)].concat();
    assert_eq!(made.code(&shorter), "backup_reordered");
    // A number that was altered with the place does not help.
    let mut renumbered = with([0, 2, 1, 3, 4]);
    for (at, number) in [(bounds[1], 1_u32), (bounds[2], 2)] {
        renumbered[at..at + 4].copy_from_slice(&number.to_be_bytes());
    }
    assert_eq!(made.code(&renumbered), "backup_altered");
}

#[test]
fn the_root_of_another_store_does_not_open_it() {
    let (one, two) = (made(), made());
    // A part of one, in the place of the same part of the other.
    let bounds = one.bounds();
    let mut mixed = one.bytes.clone();
    mixed[bounds[1]..bounds[2]].copy_from_slice(&two.bytes[bounds[1]..bounds[2]]);
    assert_eq!(one.code(&mixed), "backup_altered");
    assert_eq!(one.code(&two.bytes), "root_failed");
}

#[test]
fn one_that_is_given_up_leaves_nothing() {
    let made = made();
    let name = BackupName::new(&"ab".repeat(16), Timestamp::from_millis(0), 8);
    let root = RootKey::generate().unwrap();
    let mut file = BackupFile::create(made.dir.path(), &name, &[], &root, &manifest()).unwrap();
    file.write(b"rows").unwrap();
    drop(file);
    assert_eq!(std::fs::read_dir(made.dir.path()).unwrap().count(), 2);
    let again = BackupName::new(&"ab".repeat(16), Timestamp::from_millis(0), 7);
    let taken = BackupFile::create(made.dir.path(), &again, &[], &root, &manifest()).err().unwrap();
    assert_eq!(taken.code(), "exists");
}

/// The example of the specification: a store of one row, as `spec/state-map.md` has it, with the slot of `spec/root-slot.md`.
#[test]
fn the_example_is_the_vector() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let text = std::fs::read_to_string(repository.join("testdata/vectors/backup.json")).unwrap();
    let vectors: serde_json::Value = serde_json::from_str(&text).unwrap();
    let vector = &vectors["valid"][0];
    let bytes = |name: &str| hex::decode(vector[name].as_str().unwrap()).unwrap();
    let root = RootKey::from_secret(
        Secret32::init_with(|out| -> Result<(), keyrail_crypto::CryptoError> {
            out.copy_from_slice(&bytes("root_key"));
            Ok(())
        })
        .unwrap(),
    );
    let manifest: Manifest = serde_json::from_str(vector["manifest"].as_str().unwrap()).unwrap();
    let slot = slot_rows(&[bytes("slot")], Timestamp::from_millis(0)).remove(0);
    let dir = tempfile::tempdir().unwrap();
    let name = BackupName::new(&manifest.store, manifest.time, manifest.log_size);
    assert_eq!(name.to_string(), vector["name"].as_str().unwrap());
    let salt = bytes("salt").try_into().unwrap();
    let mut file = BackupFile::create_with(dir.path(), &name, &[slot], &root, &manifest, &salt).unwrap();
    file.write(&bytes("rows")).unwrap();
    let written = file.finish().unwrap();
    assert_eq!(hex::encode(std::fs::read(&written.path).unwrap()), vector["file"].as_str().unwrap());
    let mut check = keyrail_store::ImageCheck::default();
    check.take(&bytes("rows")).unwrap();
    assert_eq!(check.finish().unwrap(), manifest.rows);
    let page = std::fs::read_to_string(repository.join("spec/backup.md")).unwrap();
    let packed: String = page.split_whitespace().collect();
    for (name, value) in vector.as_object().unwrap().iter().filter(|(name, _)| *name != "id") {
        let value: String = value.as_str().unwrap().split_whitespace().collect();
        assert!(packed.contains(&format!("{name}={value}")), "the page has another {name}");
    }
}
