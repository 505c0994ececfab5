//! What the journal says when the log is opened, and whether the log is still the one it was.

use std::path::{Path, PathBuf};

use keyrail_crypto::mac::MacKey;

use crate::body::{Record, Records};
use crate::error::LogError;
use crate::files::failed;
use crate::journal::{self, Replayed};
use crate::log::{Head, LogOptions, Recovered};
use crate::note::{Checkpoint, VerifierKey};
use crate::publish::RightEdge;

/// What the journal files say together.
pub(crate) struct Replay {
    pub(crate) edge: RightEdge,
    pub(crate) records: Records,
    pub(crate) last: Replayed,
    pub(crate) path: PathBuf,
    pub(crate) sequence: u64,
    pub(crate) former: Vec<PathBuf>,
}

impl Replay {
    /// Reads the journal files of a directory; without the key their form alone is looked at.
    pub(crate) fn read(dir: &Path, key: Option<&MacKey>) -> Result<Self, LogError> {
        let mut found: Option<(Self, Vec<Record>)> = None;
        let mut former = Vec::new();
        let mut sequence_max = 0;
        for (sequence, path) in journal::list(dir)? {
            sequence_max = sequence;
            let Some(mut last) = journal::replay(&path, sequence, key)? else {
                former.push(path);
                continue;
            };
            let mut records = std::mem::take(&mut last.records);
            let (edge, records_later) = (last.edge.clone(), Records::default());
            let mut next = Self { edge, records: records_later, last, path, sequence, former: Vec::new() };
            if let Some((earlier, mut before)) = found.take() {
                let keep = next.last.edge.size().saturating_sub(earlier.edge.size());
                let keep = usize::try_from(keep).unwrap_or(usize::MAX);
                // An earlier file that ends before this one begins is left over from one that was removed: then
                // everything before this edge is published and durable.
                if before.len() >= keep {
                    next.edge = earlier.edge;
                    // What an earlier file holds beyond this one's edge was never acknowledged.
                    before.truncate(keep);
                    before.append(&mut records);
                    records = before;
                }
                former.push(earlier.path);
            }
            found = Some((next, records));
        }
        let Some((replay, records)) = found else {
            return Err(match former.pop() {
                Some(path) => LogError::JournalAltered { path, offset: 0 },
                None => LogError::NoJournal { path: dir.to_owned() },
            });
        };
        // No number is used twice: a file that was begun and never used still has to be removed under its own.
        Ok(Self { records: records.into_iter().collect(), former, sequence: sequence_max, ..replay })
    }

    /// Nothing is written before the log is known to be the one that was signed and the one that is remembered.
    pub(crate) fn require_consistent(&self, options: &LogOptions, key: &VerifierKey) -> Result<(), LogError> {
        let clean = self.recovered().clean;
        let path = options.audit_dir.join("checkpoint");
        let signed = std::fs::read_to_string(&path).map_err(failed("read", &path));
        let signed = signed.and_then(|note| Checkpoint::verify(&note, key).map_err(LogError::Checkpoint));
        let size = self.edge.size() + self.records.len() as u64;
        let signed = match signed {
            Ok(signed) if signed.size > size || (clean && signed.size < size) => return Err(LogError::Mismatch),
            Ok(signed) => Some(Head { size: signed.size, root: signed.root }),
            Err(error) if clean => return Err(error),
            // A power cut can leave half a checkpoint; the journal makes it again.
            Err(_) => None,
        };
        if let Some(head) = options.remembered.filter(|head| head.size > size) {
            return Err(LogError::Older { found: size, remembered: head.size });
        }
        if let Some(newer) = options.anchored.iter().find(|known| known.head.size > size) {
            let (remembered, place) = (newer.head.size, newer.place.clone());
            return Err(LogError::BehindAnchor { found: size, remembered, place });
        }
        let leaves = self.records.iter().map(|logged| logged.hashes.leaf);
        let mut tree = self.edge.tree().clone();
        for leaf in leaves.map(Some).chain([None]) {
            let differs = |head: &Head| head.size == tree.size() && head.root != tree.root();
            if signed.is_some_and(|head| differs(&head)) {
                return Err(LogError::Mismatch);
            }
            if options.remembered.is_some_and(|head| differs(&head)) {
                return Err(LogError::Fork { size: tree.size() });
            }
            if let Some(known) = options.anchored.iter().find(|known| differs(&known.head)) {
                return Err(LogError::AnchorFork { size: tree.size(), place: known.place.clone() });
            }
            leaf.into_iter().for_each(|leaf| drop(tree.push(leaf)));
        }
        Ok(())
    }

    pub(crate) fn recovered(&self) -> Recovered {
        let clean = self.last.clean && self.former.is_empty();
        let published = if clean { 0 } else { self.records.len() as u64 };
        Recovered { published, torn_len: self.last.torn_len, clean }
    }
}
