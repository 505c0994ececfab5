//! What must not be found, what was said, and a search that proves itself first.

use std::path::{Path, PathBuf};

use keyrail_testkit::postgres::Database;
use keyrail_testkit::{Search, planted_forms};

use super::keys::{SlotKeyOf, content_of_backup, in_database, in_file, keys_of, of_key_file};

/// Stands for a secret that leaked. Its bytes make the two alphabets of base64 differ.
pub(super) const PLANTED: &[u8] = b"planted \xfb\xff\xbf\xef\xfe secret 0123456789";

/// The name of [`PLANTED`] in a hit.
const PLANTED_NAME: &str = "planted";

/// Secrets by their names, and everything that the program said and that holds no data by design.
#[derive(Default)]
pub(super) struct Secrets {
    known: Vec<(String, Vec<u8>)>,
    /// Opens the slot where the root is no key file.
    pub(super) slot_key_of: Option<SlotKeyOf>,
    /// Where the store is, if it is in no file of the data directory.
    pub(super) database: Option<&'static Database<'static>>,
    /// What was said, by the place where it was said.
    pub(super) said: Vec<(&'static str, String)>,
}

impl Secrets {
    /// Those of a store in a database.
    pub(super) fn in_database(database: &'static Database<'static>) -> Self {
        Self { database: Some(database), ..Self::default() }
    }

    pub(super) fn keep(&mut self, name: &str, secret: impl AsRef<[u8]>) {
        self.known.push((name.to_owned(), secret.as_ref().to_vec()));
    }

    /// A token is a secret as a whole and without its prefix.
    pub(super) fn keep_token(&mut self, name: &str, token: &str) {
        self.keep(name, token);
        self.keep(&format!("{name} without its prefix"), token.trim_start_matches("krt_"));
    }

    /// Every key that the store holds now; those that are destroyed later stay secrets.
    pub(super) fn keep_keys(&mut self, data_dir: &Path) {
        let of_file = self.slot_key_of.is_none().then(|| of_key_file(data_dir));
        let rows = self.database.map_or_else(|| in_file(data_dir), in_database);
        let found = keys_of(&rows, self.slot_key_of.as_ref().or(of_file.as_ref()).unwrap());
        for (name, key) in found {
            if !self.known.iter().any(|(_, known)| *known == key) {
                self.keep(&name, key);
            }
        }
    }

    /// How many secrets have a name that begins like this.
    pub(super) fn count(&self, prefix: &str) -> usize {
        self.known.iter().filter(|(name, _)| name.starts_with(prefix)).count()
    }

    pub(super) fn say(&mut self, place: &'static str, text: &str) {
        self.said.push((place, text.to_owned()));
    }

    fn search<'a>(&'a self, more: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Search {
        let known = self.known.iter().map(|(name, secret)| (name.as_str(), secret.as_slice()));
        Search::new(known.chain([(PLANTED_NAME, PLANTED)]).chain(more)).unwrap()
    }

    /// First finds what is planted in the middle of the content, in every encoding; then nothing else is there.
    pub(super) fn require_absent(&self, place: &str, content: &[u8]) {
        assert!(!content.is_empty(), "{place}: nothing was searched");
        let search = self.search([]);
        let (before, after) = content.split_at(content.len() / 2);
        for (encoding, form) in planted_forms(PLANTED) {
            let hits = search.in_bytes(&[before, b" ", &form, b" ", after].concat());
            let found = hits.iter().any(|hit| hit.name == PLANTED_NAME && hit.encoding == encoding);
            assert!(found, "{place}: planted as {encoding:?} and not found");
        }
        let hits = search.in_bytes(content);
        assert!(hits.is_empty(), "{place}: {hits:?}");
    }

    /// The same for a file, or for every file under a directory: planted in the largest file, and as one more file in
    /// the deepest directory.
    pub(super) fn require_absent_in(&self, place: &str, path: &Path) {
        let search = self.search([]);
        let look = |path: &Path| {
            if path.is_dir() { search.under(path).unwrap() } else { search.in_file(path).unwrap() }
        };
        let files = files_under(path);
        let largest = files.iter().max_by_key(|file| std::fs::metadata(file).unwrap().len()).expect("there are files");
        self.require_absent(place, &std::fs::read(largest).unwrap());
        if path.is_dir() {
            let deepest = files.iter().max_by_key(|file| file.components().count()).unwrap();
            let extra = deepest.with_file_name("planted");
            for (encoding, form) in planted_forms(PLANTED) {
                std::fs::write(&extra, form).unwrap();
                let found = look(path).iter().any(|hit| hit.name == PLANTED_NAME && hit.encoding == encoding);
                assert!(found, "{place}: planted as {encoding:?} and not found");
            }
            std::fs::remove_file(extra).unwrap();
        }
        let hits = look(path);
        assert!(hits.is_empty(), "{place}: {hits:?}");
    }

    /// A core holds what was planted in the environment, in every encoding, and a name that the log's newest records
    /// hold, so the heap is there; and no key.
    pub(super) fn require_absent_in_core(&self, core: &Path, in_heap: &str) {
        let hits = self.search([(in_heap, in_heap.as_bytes())]).in_file(core).unwrap();
        for (encoding, _) in planted_forms(PLANTED) {
            let found = hits.iter().any(|hit| hit.name == PLANTED_NAME && hit.encoding == encoding);
            assert!(found, "planted as {encoding:?} and not found in the core");
        }
        assert!(hits.iter().any(|hit| hit.name == in_heap), "the core holds no heap");
        let leaked: Vec<_> = hits.iter().filter(|hit| ![PLANTED_NAME, in_heap].contains(&hit.name.as_str())).collect();
        assert!(leaked.is_empty(), "{leaked:?}");
    }
}

/// The files at or under a path.
pub(super) fn files_under(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| files_under(&path)).collect()
}

impl Secrets {
    /// [`Self::keep_keys`] unless the root is a passphrase, which opens by a derivation alone.
    pub(super) fn keep_keys_if_known(&mut self, place: &crate::place::Place) {
        if self.slot_key_of.is_some() || place.data_dir().join("root.key").exists() {
            self.keep_keys(&place.data_dir());
        }
    }
}

impl Secrets {
    /// A backup holds no secret, neither as it lies there nor, where the root is known, opened.
    pub(super) fn require_absent_in_backup(&self, place: &crate::place::Place, dir: &Path) {
        self.require_absent_in("backup", dir);
        let [file] = &files_under(dir)[..] else { panic!("one backup is there") };
        let of_file = || place.data_dir().join("root.key").exists().then(|| of_key_file(&place.data_dir()));
        let own = if self.slot_key_of.is_none() { of_file() } else { None };
        let Some(slot_key_of) = self.slot_key_of.as_ref().or(own.as_ref()) else { return };
        let content = content_of_backup(&std::fs::read(file).unwrap(), slot_key_of);
        assert!(content.windows(16).any(|part| part == b"data_key_version"), "the rows are there");
        self.require_absent("opened backup", &content);
    }
}
