//! Faults for tests: steps below a directory that fail, either instead of being done or after they were done.

use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::Step;

/// What a faulty step does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// It is not done.
    NotStored,
    /// It is done, and reported as failed.
    StoredButFailed,
    /// Half of what it writes is written, as on a disk that is full. A step that writes no bytes is not done.
    HalfStored,
}

/// Steps of one kind below a directory: `skip` of them work, then `count` of them fail.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Step,
    pub(crate) fault: Fault,
    pub(crate) skip: usize,
    pub(crate) count: usize,
    pub(crate) error: rustix::io::Errno,
}

struct Planned {
    dir: PathBuf,
    plan: Plan,
    hit: usize,
}

static PLANNED: Mutex<Vec<Planned>> = Mutex::new(Vec::new());

/// The faults of one directory, until dropped.
pub(crate) struct Faults {
    dir: PathBuf,
}

impl Faults {
    pub(crate) fn plan(dir: &Path, plan: Plan) -> Self {
        PLANNED.lock().push(Planned { dir: dir.to_owned(), plan, hit: 0 });
        Self { dir: dir.to_owned() }
    }

    /// How many steps failed.
    pub(crate) fn hit(&self) -> usize {
        PLANNED.lock().iter().filter(|planned| planned.dir == self.dir).map(|planned| planned.hit).sum()
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        PLANNED.lock().retain(|planned| planned.dir != self.dir);
    }
}

pub(super) fn around<T>(kind: Step, path: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some((fault, error)) = next(kind, path) else { return work() };
    if fault == Fault::StoredButFailed {
        let _done = work()?;
    }
    Err(error.into())
}

pub(super) fn around_write(
    kind: Step,
    path: &Path,
    bytes: &[u8],
    work: impl FnOnce(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let Some((fault, error)) = next(kind, path) else { return work(bytes) };
    match fault {
        Fault::NotStored => {}
        Fault::StoredButFailed => work(bytes)?,
        Fault::HalfStored => work(&bytes[..bytes.len() / 2])?,
    }
    Err(error.into())
}

fn next(kind: Step, path: &Path) -> Option<(Fault, rustix::io::Errno)> {
    let mut planned = PLANNED.lock();
    let found = planned.iter_mut().find(|found| found.plan.kind == kind && path.starts_with(&found.dir))?;
    if found.plan.skip > 0 {
        found.plan.skip -= 1;
        return None;
    }
    if found.plan.count == 0 {
        return None;
    }
    found.plan.count -= 1;
    found.hit += 1;
    Some((found.plan.fault, found.plan.error))
}
