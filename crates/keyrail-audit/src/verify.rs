//! Offline verification: the files and a public key, nothing else.

mod listing;
mod rows;
mod tail;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::body::{ENTRY_LEN, encode_entry, parse_bodies};
use crate::error::{VerifyFailure, VerifyProblem};
use crate::files::read_optional;
use crate::note::{Checkpoint, NoteError, VerifierKey};
use crate::publish::BODY_FILE_LEN_MAX;
use crate::tile::{Tile, TileKind, partial_tiles};
use crate::tree::{Edge, FullTile, Hash, TILE_WIDTH, leaf_hash};
use listing::Listing;
pub use rows::verify_rows;
pub use tail::{JournalPlace, Tail};

/// How often verification goes on with a newer checkpoint because the log grew meanwhile.
const ATTEMPTS_MAX: usize = 256;

/// How long a running writer may take to put a file and its checkpoint in place, in milliseconds.
const WRITER_MILLIS_MAX: u64 = 1_000;

/// How long to wait between two looks at what a running writer does, in milliseconds.
const LOOK_MILLIS: u64 = 5;

/// The longest checkpoint file, in bytes.
pub(crate) const CHECKPOINT_LEN_MAX: u64 = 4096;

pub(crate) const CHECKPOINT: &str = "checkpoint";

/// A head of the log that somebody remembers from before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Remembered {
    /// Records in the log then.
    pub size: u64,
    /// Root hash then.
    pub root: Hash,
}

impl From<&Checkpoint> for Remembered {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self { size: checkpoint.size, root: checkpoint.root }
    }
}

/// What was verified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The log's name.
    pub origin: String,
    /// Records in the log, those in the journal included.
    pub records: u64,
    /// Root hash over all of them.
    pub root: Hash,
    /// What the journal says beyond the checkpoint; absent if it was not looked at.
    pub tail: Option<Tail>,
}

/// Verifies a log: every byte of every file under `audit_dir`, against the checkpoint that `key` signed and
/// the heads that are remembered. Read-only. A log that grows meanwhile is verified at its newer size.
///
/// Nothing may lie there beside the files that the checkpoint demands. A writer that was stopped the hard way
/// can leave such files: [`verify_with_journal`] knows them, and the next start puts them right.
///
/// # Errors
/// [`VerifyFailure`] with the first bad record or file.
pub fn verify(audit_dir: &Path, key: &VerifierKey, remembered: &[Remembered]) -> Result<Report, VerifyFailure> {
    verify_places(audit_dir, None, key, remembered)
}

/// [`verify`], and the records in the journal that are durable and not published yet.
///
/// The journal must come through the checkpoint and through the heads that are remembered. A frame at its end that is
/// not whole was never acknowledged and is no damage; [`Tail`] tells of it. What a writer that was stopped the hard
/// way had begun to publish must hold what the journal says.
///
/// # Errors
/// [`VerifyFailure`] with the first bad record or file.
pub fn verify_with_journal(
    audit_dir: &Path,
    journal: &JournalPlace<'_>,
    key: &VerifierKey,
    remembered: &[Remembered],
) -> Result<Report, VerifyFailure> {
    verify_places(audit_dir, Some(journal), key, remembered)
}

fn verify_places(
    audit_dir: &Path,
    journal: Option<&JournalPlace<'_>>,
    key: &VerifierKey,
    remembered: &[Remembered],
) -> Result<Report, VerifyFailure> {
    let mut verification = Verification { audit_dir, journal, key, remembered, full: Edge::default(), listing: None };
    let mut waiting_since = Instant::now();
    let mut attempts = 0;
    let mut altered = None;
    loop {
        let note = read(audit_dir, Path::new(CHECKPOINT), CHECKPOINT_LEN_MAX)?;
        let failure = match verification.attempt(&note) {
            Ok(report) => return Ok(report),
            Err(failure) => failure,
        };
        attempts += 1;
        let grew = read(audit_dir, Path::new(CHECKPOINT), CHECKPOINT_LEN_MAX)? != note;
        let waits = failure.problem.may_be_a_running_writer()
            && waiting_since.elapsed() < Duration::from_millis(WRITER_MILLIS_MAX);
        // A journal is read while it is written: a frame whose middle was read before it was there can stand before one
        // that was read after. The next look finds it whole, unless it was altered.
        let place = failure.altered_frame();
        let is_new = place.is_some() && place != altered && attempts < ATTEMPTS_MAX;
        altered = place.or(altered);
        if grew && attempts < ATTEMPTS_MAX {
            waiting_since = Instant::now();
        } else if waits || is_new {
            // The writer has no way to tell another process, so this looks again until the limit.
            std::thread::park_timeout(Duration::from_millis(LOOK_MILLIS));
        } else {
            return Err(failure);
        }
    }
}

struct Verification<'a> {
    audit_dir: &'a Path,
    journal: Option<&'a JournalPlace<'a>>,
    key: &'a VerifierKey,
    remembered: &'a [Remembered],
    /// The tree of the full bundles that were verified: their files never change again.
    full: Edge,
    /// What was found in the directory when it was listed.
    listing: Option<Listing>,
}

impl Verification<'_> {
    fn attempt(&mut self, note: &[u8]) -> Result<Report, VerifyFailure> {
        let checkpoint = self.checkpoint(note)?;
        // First, because a running writer replaces them.
        let partials = Partials::read(self.audit_dir, checkpoint.size)?;
        if self.full.size() > checkpoint.size {
            (self.full, self.listing) = (Edge::default(), None);
        }
        self.check_remembered(&self.full)?;
        let bundles = checkpoint.size / TILE_WIDTH as u64;
        for index in self.full.size() / TILE_WIDTH as u64..bundles {
            self.full = self.full_bundle(index)?;
        }
        let edge = self.partial_bundle(&partials)?;
        if edge.root() != checkpoint.root {
            return Err(VerifyFailure { problem: VerifyProblem::Root, file: Some(CHECKPOINT.into()), record: None });
        }
        let listing = match &mut self.listing {
            Some(listing) => listing,
            none => none.insert(Listing::read(self.audit_dir)?),
        };
        let open = listing.open(self.audit_dir, checkpoint.size);
        let Some(journal) = self.journal else {
            listing.check(checkpoint.size, false)?;
            let Checkpoint { origin, size, root } = checkpoint;
            return Ok(Report { origin, records: size, root, tail: None });
        };
        // Before the journal is read: whatever a running writer publishes is in the journal already.
        let leftovers = tail::read_leftovers(self.audit_dir, open)?;
        listing.check(checkpoint.size, true)?;
        let (tail, tree) = tail::check(journal, &checkpoint, &leftovers, self.remembered)?;
        Ok(Report { origin: checkpoint.origin, records: tree.size(), root: tree.root(), tail: Some(tail) })
    }

    fn checkpoint(&self, note: &[u8]) -> Result<Checkpoint, VerifyFailure> {
        let invalid = |error| VerifyFailure {
            problem: VerifyProblem::Checkpoint(error),
            file: Some(CHECKPOINT.into()),
            record: None,
        };
        let note = std::str::from_utf8(note).map_err(|_| invalid(NoteError::Form))?;
        let checkpoint = Checkpoint::verify(note, self.key).map_err(invalid)?;
        match self.remembered.iter().find(|head| head.size > checkpoint.size) {
            // The journal may have what is missing.
            Some(newer) if self.journal.is_none() => {
                let problem = VerifyProblem::Older { found: checkpoint.size, remembered: newer.size };
                Err(VerifyFailure { problem, file: None, record: None })
            }
            _ => Ok(checkpoint),
        }
    }

    fn full_bundle(&self, index: u64) -> Result<Edge, VerifyFailure> {
        let tile = |kind| Tile::full(kind, index);
        let bundle = Bundle {
            bodies: (tile(TileKind::Bodies), read_tile(self.audit_dir, &tile(TileKind::Bodies))?),
            entries: (tile(TileKind::Entries), read_tile(self.audit_dir, &tile(TileKind::Entries))?),
            hashes: (tile(TileKind::Hashes(0)), read_tile(self.audit_dir, &tile(TileKind::Hashes(0)))?),
        };
        let mut edge = self.full.clone();
        for full in self.bundle(&mut edge, &bundle)? {
            let tile = Tile::full(TileKind::Hashes(full.level), full.index);
            compare(&tile, &read_tile(self.audit_dir, &tile)?, &full.hashes)?;
        }
        Ok(edge)
    }

    fn partial_bundle(&self, partials: &Partials) -> Result<Edge, VerifyFailure> {
        let mut edge = self.full.clone();
        if let Some(bundle) = &partials.bundle {
            self.bundle(&mut edge, bundle)?;
        }
        for (tile, content) in &partials.hashes {
            let level = if let TileKind::Hashes(level) = tile.kind { level } else { 0 };
            compare(tile, content, edge.levels().get(level).map(Vec::as_slice).unwrap_or_default())?;
        }
        Ok(edge)
    }

    /// One bundle of records: bodies against entries, entries against hashes. Gives the tiles that became full.
    fn bundle(&self, edge: &mut Edge, bundle: &Bundle) -> Result<Vec<FullTile>, VerifyFailure> {
        let width = bundle.bodies.0.width;
        let records = parse_bodies(&bundle.bodies.1).filter(|records| records.len() == width);
        let records = records.ok_or_else(|| failure(VerifyProblem::FileAltered, bundle.bodies.0.path()))?;
        for ((tile, content), len) in [(&bundle.entries, ENTRY_LEN), (&bundle.hashes, 32)] {
            if content.len() != len * width {
                return Err(failure(VerifyProblem::FileAltered, tile.path()));
            }
        }
        let places = bundle.entries.1.chunks_exact(ENTRY_LEN).zip(bundle.hashes.1.chunks_exact(32));
        let mut full = Vec::new();
        for (record, (entry, hash)) in records.iter().zip(places) {
            let leaf = leaf_hash(&record.entry());
            let mut expected = Vec::with_capacity(ENTRY_LEN);
            encode_entry(&record.entry(), &mut expected);
            let culprit = match (entry == expected, hash == leaf) {
                (true, true) => None,
                (true, false) => Some(&bundle.hashes.0),
                (false, true) => Some(&bundle.entries.0),
                (false, false) => Some(&bundle.bodies.0),
            };
            if let Some(tile) = culprit {
                let record = Some(edge.size());
                return Err(VerifyFailure { problem: VerifyProblem::Altered, file: Some(tile.path()), record });
            }
            full.extend(edge.push(leaf));
            self.check_remembered(edge)?;
        }
        Ok(full)
    }

    fn check_remembered(&self, edge: &Edge) -> Result<(), VerifyFailure> {
        let size = edge.size();
        let forked = self.remembered.iter().any(|head| head.size == size && head.root != edge.root());
        if forked {
            Err(VerifyFailure { problem: VerifyProblem::Fork { size }, file: None, record: None })
        } else {
            Ok(())
        }
    }
}

/// The files of one bundle of records.
struct Bundle {
    bodies: (Tile, Vec<u8>),
    entries: (Tile, Vec<u8>),
    hashes: (Tile, Vec<u8>),
}

/// The files that the next checkpoint replaces.
struct Partials {
    bundle: Option<Bundle>,
    /// Hashes of all levels.
    hashes: Vec<(Tile, Vec<u8>)>,
}

impl Partials {
    fn read(audit_dir: &Path, size: u64) -> Result<Self, VerifyFailure> {
        let (mut bodies, mut entries, mut hashes) = (None, None, Vec::new());
        for tile in partial_tiles(size) {
            let content = read_tile(audit_dir, &tile)?;
            match tile.kind {
                TileKind::Bodies => bodies = Some((tile, content)),
                TileKind::Entries => entries = Some((tile, content)),
                TileKind::Hashes(_) => hashes.push((tile, content)),
            }
        }
        let lowest = hashes.iter().find(|(tile, _)| tile.kind == TileKind::Hashes(0)).cloned();
        let bundle = match (bodies, entries, lowest) {
            (Some(bodies), Some(entries), Some(hashes)) => Some(Bundle { bodies, entries, hashes }),
            _ => None,
        };
        Ok(Self { bundle, hashes })
    }
}

fn compare(tile: &Tile, content: &[u8], hashes: &[Hash]) -> Result<(), VerifyFailure> {
    if content == hashes.concat() { Ok(()) } else { Err(failure(VerifyProblem::FileAltered, tile.path())) }
}

fn read_tile(audit_dir: &Path, tile: &Tile) -> Result<Vec<u8>, VerifyFailure> {
    let len_max = match tile.kind {
        TileKind::Bodies => BODY_FILE_LEN_MAX,
        TileKind::Entries => (ENTRY_LEN * TILE_WIDTH) as u64,
        TileKind::Hashes(_) => (32 * TILE_WIDTH) as u64,
    };
    read(audit_dir, &tile.path(), len_max)
}

fn read(audit_dir: &Path, relative: &Path, len_max: u64) -> Result<Vec<u8>, VerifyFailure> {
    let problem = match read_optional(&audit_dir.join(relative), len_max) {
        Ok(Some(bytes)) => return Ok(bytes),
        Ok(None) => VerifyProblem::Missing,
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => VerifyProblem::FileAltered,
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => VerifyProblem::Stray,
        Err(error) => VerifyProblem::Unreadable(error),
    };
    Err(failure(problem, relative.to_owned()))
}

fn failure(problem: VerifyProblem, file: PathBuf) -> VerifyFailure {
    VerifyFailure { problem, file: Some(file), record: None }
}
