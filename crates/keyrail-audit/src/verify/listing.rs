//! What lies in the log's directory, against what its size demands.

use std::path::{Path, PathBuf};

use super::{CHECKPOINT, failure};
use crate::error::{VerifyFailure, VerifyProblem};
use crate::publish::{Found, walk};
use crate::tile::Tile;

/// Everything that was found in the log's directory, and was not yet seen to belong to the log.
pub(super) struct Listing {
    open: Vec<(PathBuf, Found)>,
}

impl Listing {
    /// Lists the directory.
    pub(super) fn read(audit_dir: &Path) -> Result<Self, VerifyFailure> {
        let mut open = Vec::new();
        walk(audit_dir, Path::new(""), &mut |path, kind| open.push((path.to_owned(), kind)))
            .map_err(|(path, error)| failure(VerifyProblem::Unreadable(error), path))?;
        open.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(Self { open })
    }

    /// What is there and belongs to no log of this size. That all files of the log are there and hold what they must was
    /// seen before. What does not belong to it stays open: a running writer may have made it for the next checkpoint,
    /// and then it is looked at again with that one, without listing the rest anew.
    pub(super) fn open(&mut self, audit_dir: &Path, size: u64) -> &[(PathBuf, Found)] {
        self.open.retain(|(path, kind)| problem(path, *kind, size).is_some());
        self.open.retain_mut(|(path, kind)| match look(&audit_dir.join(&*path)) {
            None => false,
            Some(found) => {
                *kind = found;
                problem(path, found, size).is_some()
            }
        });
        &self.open
    }

    /// Nothing but the files of a log of this size may be there, and what a writer may have left if `tolerated`.
    pub(super) fn check(&self, size: u64, tolerated: bool) -> Result<(), VerifyFailure> {
        let problems = self.open.iter().filter_map(|(path, kind)| Some((path, problem(path, *kind, size)?)));
        // What no writer makes comes first: it says more than what a writer may have left.
        match problems.min_by_key(|(_, problem)| problem.may_be_a_running_writer()) {
            Some((_, VerifyProblem::Uncovered)) if tolerated => Ok(()),
            None => Ok(()),
            Some((path, problem)) => Err(failure(problem, path.clone())),
        }
    }
}

/// What is at a path now.
fn look(path: &Path) -> Option<Found> {
    let kind = std::fs::symlink_metadata(path).ok()?.file_type();
    Some(if kind.is_dir() {
        let is_empty = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if is_empty { Found::EmptyDir } else { Found::Dir }
    } else if kind.is_file() {
        Found::File
    } else {
        Found::Other
    })
}

fn problem(path: &Path, kind: Found, size: u64) -> Option<VerifyProblem> {
    match kind {
        // Whatever lies in it is listed by itself.
        Found::Dir => None,
        // A running writer makes a directory just before its first file, and removes it after the last.
        Found::EmptyDir => Some(VerifyProblem::Uncovered),
        Found::Other => Some(VerifyProblem::Stray),
        Found::File if path == Path::new(CHECKPOINT) => None,
        Found::File => match Tile::at(path) {
            None => Some(VerifyProblem::Stray),
            Some(tile) if tile.width == tile.width_at(size) => None,
            Some(_) => Some(VerifyProblem::Uncovered),
        },
    }
}
