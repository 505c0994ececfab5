//! From records to evidence: the right edge of the log, and the files that follow from it.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};

use keyrail_crypto::secret::SigningSeed;

use crate::body::{BODY_LEN_MAX, Logged, Records, SALT_LEN, encode_entry, parse_bodies};
use crate::error::LogError;
use crate::files;
use crate::note::{Checkpoint, NOTE_LEN_MAX, VerifierKey};
use crate::tile::{Tile, TileKind};
use crate::tree::{Edge, FullTile, Hash, LEVELS_MAX, TILE_WIDTH};

/// The right edge of the log: hashes of the tiles that are not full, and the records of the last bundle.
#[derive(Clone, Debug, Default)]
pub(crate) struct RightEdge {
    tree: Edge,
    /// Entry bundle of the records after the last full one.
    entries: Vec<u8>,
    /// Their bodies.
    bodies: Vec<u8>,
}

impl RightEdge {
    pub(crate) fn size(&self) -> u64 {
        self.tree.size()
    }

    pub(crate) fn root(&self) -> Hash {
        self.tree.root()
    }

    pub(crate) fn tree(&self) -> &Edge {
        &self.tree
    }

    /// How many records the last, unfull bundle has.
    fn width(&self) -> usize {
        (self.tree.size() % TILE_WIDTH as u64) as usize
    }

    /// Appends a record; gives what became full: files that will never change again.
    pub(crate) fn push(&mut self, logged: Logged<'_>) -> Vec<(Tile, Vec<u8>)> {
        encode_entry(&logged.hashes.entry, &mut self.entries);
        self.bodies.extend_from_slice(logged.encoded);
        let bundle = self.tree.size() / TILE_WIDTH as u64;
        let full = self.tree.push(logged.hashes.leaf);
        if full.is_empty() {
            return Vec::new();
        }
        let mut files = vec![
            (Tile::full(TileKind::Bodies, bundle), std::mem::take(&mut self.bodies)),
            (Tile::full(TileKind::Entries, bundle), std::mem::take(&mut self.entries)),
        ];
        let hashes = |tile: FullTile| (Tile::full(TileKind::Hashes(tile.level), tile.index), tile.hashes.concat());
        files.extend(full.into_iter().map(hashes));
        files
    }

    /// The files of the tiles that are not full.
    pub(crate) fn partial(&self) -> Vec<(Tile, Vec<u8>)> {
        let mut files = Vec::new();
        let bundle = self.tree.size() / TILE_WIDTH as u64;
        let width = self.width();
        if width > 0 {
            files.push((Tile { kind: TileKind::Bodies, index: bundle, width }, self.bodies.clone()));
            files.push((Tile { kind: TileKind::Entries, index: bundle, width }, self.entries.clone()));
        }
        for (level, hashes) in self.tree.levels().iter().enumerate().filter(|(_, hashes)| !hashes.is_empty()) {
            let index = self.tree.size() >> (8 * (level + 1));
            files.push((Tile { kind: TileKind::Hashes(level), index, width: hashes.len() }, hashes.concat()));
        }
        files
    }

    /// The tiles that are not full.
    fn partial_tiles(&self) -> impl Iterator<Item = Tile> {
        crate::tile::partial_tiles(self.size()).into_iter()
    }

    /// The edge of this tree; `None` unless the bodies are those of its last bundle, as far as their number goes.
    pub(crate) fn of(tree: Edge, bodies: Vec<u8>) -> Option<Self> {
        let mut entries = Vec::new();
        let records = parse_bodies(&bodies)?;
        records.iter().for_each(|record| encode_entry(&record.entry(), &mut entries));
        let edge = Self { tree, entries, bodies };
        (records.len() == edge.width()).then_some(edge)
    }

    /// Size, number of levels, each level with its length, bodies of the last bundle.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.tree.size().to_be_bytes().to_vec();
        out.push(self.tree.levels().len() as u8);
        for level in self.tree.levels() {
            out.extend_from_slice(&(level.len() as u16).to_be_bytes());
            out.extend_from_slice(&level.concat());
        }
        out.extend_from_slice(&self.bodies);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (size, rest) = bytes.split_first_chunk::<8>()?;
        let (count, mut rest) = rest.split_first()?;
        let mut levels = Vec::new();
        for _ in 0..*count {
            let (len, more) = rest.split_first_chunk::<2>()?;
            let (hashes, more) = more.split_at_checked(usize::from(u16::from_be_bytes(*len)) * 32)?;
            levels.push(hashes.chunks_exact(32).map(|hash| hash.try_into().ok()).collect::<Option<Vec<Hash>>>()?);
            rest = more;
        }
        let tree = Edge::from_levels(u64::from_be_bytes(*size), levels)?;
        Self::of(tree, rest.to_vec())
    }
}

/// What a file of the evidence is called, in the journal's directory, until it is whole.
pub(crate) const TEMPORARY: &str = "publishing";

/// Writes the evidence.
pub(crate) struct Publisher {
    audit_dir: PathBuf,
    temporary: PathBuf,
    edge: RightEdge,
    /// Files that became full and are not written yet, because the disk did not take them.
    unwritten: VecDeque<(Tile, Vec<u8>)>,
    /// Partial files of the last checkpoint, to be removed once another one stands.
    partials: HashSet<Tile>,
    /// Partial files that were begun since; they are stale if their checkpoint did not come about.
    begun: HashSet<Tile>,
    /// Whether a checkpoint on the disk may cover what is written.
    covered: Covered,
    /// The last checkpoint that was put in place here.
    placed: Option<String>,
}

/// Whether a checkpoint on the disk may cover a tile that is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Covered {
    /// None does: whoever reads the tile before it is whole reads what nobody signed.
    No,
    /// One may: the tile must stay whole until it stands anew.
    Maybe,
}

impl Publisher {
    pub(crate) fn new(audit_dir: PathBuf, journal_dir: &Path, edge: RightEdge) -> Self {
        let partials = edge.partial().into_iter().map(|(tile, _)| tile).collect();
        let temporary = journal_dir.join(TEMPORARY);
        Self {
            audit_dir,
            temporary,
            edge,
            unwritten: VecDeque::new(),
            partials,
            begun: HashSet::new(),
            covered: Covered::No,
            placed: None,
        }
    }

    pub(crate) fn edge(&self) -> &RightEdge {
        &self.edge
    }

    pub(crate) fn checkpoint_path(&self) -> PathBuf {
        self.audit_dir.join("checkpoint")
    }

    /// Whether the checkpoint is still as it was put in place.
    pub(crate) fn is_placed(&self) -> bool {
        self.placed.is_some() && self.read_checkpoint() == self.placed
    }

    fn read_checkpoint(&self) -> Option<String> {
        let note = files::read_optional(&self.checkpoint_path(), NOTE_LEN_MAX as u64).ok().flatten();
        note.and_then(|note| String::from_utf8(note).ok())
    }

    /// Takes over what is published already, and writes nothing: what somebody changed meanwhile stays as it is,
    /// for who verifies.
    pub(crate) fn resume(&mut self, records: &Records) {
        for logged in records.iter() {
            self.edge.push(logged);
        }
        self.partials = self.edge.partial().into_iter().map(|(tile, _)| tile).collect();
        self.placed = self.read_checkpoint();
    }

    /// Takes records over and writes what became full. The checkpoint follows with [`Self::checkpoint`].
    pub(crate) fn add<'a>(&mut self, records: impl Iterator<Item = Logged<'a>>) -> Result<(), LogError> {
        for logged in records {
            self.unwritten.extend(self.edge.push(logged));
        }
        while let Some((tile, content)) = self.unwritten.front() {
            self.write(tile, content, self.covered)?;
            self.unwritten.pop_front();
        }
        Ok(())
    }

    /// Writes the partial tiles and the checkpoint, then removes the partial tiles of the one before.
    pub(crate) fn checkpoint(&mut self, seed: &SigningSeed, key: &VerifierKey) -> Result<(), LogError> {
        self.write_partials()?;
        let checkpoint = Checkpoint { origin: key.name().to_owned(), size: self.edge.size(), root: self.edge.root() };
        self.place(&checkpoint.sign(seed, key)?)
    }

    /// Writes the partial tiles that the next checkpoint demands.
    pub(crate) fn write_partials(&mut self) -> Result<(), LogError> {
        for (tile, content) in self.edge.partial() {
            if !self.partials.contains(&tile) {
                // Begun before: the checkpoint over it may stand, although it was reported as failed.
                let covered = if self.begun.insert(tile) { self.covered } else { Covered::Maybe };
                self.write(&tile, &content, covered)?;
            }
        }
        Ok(())
    }

    /// Puts the checkpoint in place, all of whose files are written, and removes the partial tiles of the one before.
    pub(crate) fn place(&mut self, note: &str) -> Result<(), LogError> {
        let partials: HashSet<Tile> = self.edge.partial_tiles().collect();
        files::replace(&self.temporary, &self.checkpoint_path(), note.as_bytes())?;
        for stale in self.partials.union(&self.begun).filter(|tile| !partials.contains(tile)) {
            remove_partial(&self.audit_dir.join(stale.path()))?;
        }
        self.partials = partials;
        self.begun.clear();
        self.covered = Covered::No;
        self.placed = Some(note.to_owned());
        Ok(())
    }

    /// Writes every file of the edge again, whether it is there or not: after a power cut nothing newer than
    /// the journal's start is believed. That files read as they should says nothing: what they read as may never have
    /// reached the disk. Until the next checkpoint each is replaced as a whole, since the last one may cover it.
    pub(crate) fn forget_partials(&mut self) {
        self.partials.clear();
        self.covered = Covered::Maybe;
    }

    /// Removes partial tiles that no checkpoint of this log needs any more, and directories without a file.
    pub(crate) fn sweep_stale(&mut self) -> Result<(), LogError> {
        let (mut stale, mut empty) = (Vec::new(), Vec::new());
        let walked = walk(&self.audit_dir, Path::new(""), &mut |relative, found| match found {
            Found::File if self.is_stale(relative) => stale.push(relative.to_owned()),
            Found::EmptyDir => empty.push(relative.to_owned()),
            _ => {}
        });
        walked.map_err(|(path, error)| files::failed("list", &self.audit_dir.join(path))(error))?;
        stale.iter().try_for_each(|relative| remove_partial(&self.audit_dir.join(relative)))?;
        empty.iter().for_each(|relative| {
            // What is left of it is seen by who verifies.
            let _kept = std::fs::remove_dir(self.audit_dir.join(relative));
        });
        Ok(())
    }

    fn is_stale(&self, relative: &Path) -> bool {
        Tile::at(relative).is_some_and(|tile| tile.width < TILE_WIDTH && !self.partials.contains(&tile))
    }

    fn write(&self, tile: &Tile, content: &[u8], covered: Covered) -> Result<(), LogError> {
        let path = self.audit_dir.join(tile.path());
        match covered {
            Covered::No => files::write_new(&path, content),
            Covered::Maybe => files::replace(&self.temporary, &path, content),
        }
    }
}

/// Removes a partial tile, and its directory when that is empty.
fn remove_partial(path: &Path) -> Result<(), LogError> {
    files::remove(path)?;
    if let Some(dir) = path.parent() {
        // Fails while another partial tile is in there, which is fine.
        let _not_empty = std::fs::remove_dir(dir);
    }
    Ok(())
}

/// What a walk finds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Found {
    /// A directory with something in it.
    Dir,
    /// A directory with nothing in it.
    EmptyDir,
    /// A plain file.
    File,
    /// Neither: a link, a pipe, a socket, a device.
    Other,
}

/// Calls `visit` for everything below `root`, with the path relative to it.
pub(crate) fn walk(
    root: &Path,
    relative: &Path,
    visit: &mut dyn FnMut(&Path, Found),
) -> Result<(), (PathBuf, std::io::Error)> {
    let failed = |error| (relative.to_owned(), error);
    let entries = match std::fs::read_dir(root.join(relative)) {
        Ok(entries) => entries,
        // A running writer removes directories.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && relative != Path::new("") => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let mut is_empty = true;
    for entry in entries {
        let entry = entry.map_err(failed)?;
        is_empty = false;
        let below = relative.join(entry.file_name());
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            walk(root, &below, visit)?;
        } else {
            visit(&below, if kind.is_file() { Found::File } else { Found::Other });
        }
    }
    if relative != Path::new("") {
        visit(relative, if is_empty { Found::EmptyDir } else { Found::Dir });
    }
    Ok(())
}

/// The most bytes of an encoded right edge: its numbers, the hashes of each level, and a body file.
pub(crate) const EDGE_LEN_MAX: usize = 8 + 1 + LEVELS_MAX * (2 + 32 * TILE_WIDTH) + BODY_FILE_LEN_MAX as usize;

/// The most bytes of a body file.
pub(crate) const BODY_FILE_LEN_MAX: u64 = (TILE_WIDTH * (4 + SALT_LEN + BODY_LEN_MAX)) as u64;
