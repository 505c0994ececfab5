//! Work on the items of a batch, spread over the cores.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Handle, RuntimeFlavor};

/// From how many items on a batch is spread.
pub(crate) const SPREAD_ITEMS_MIN: usize = 128;

/// The threads that help with batches: as many at a time as there are cores, for all batches together.
static HELPERS: LazyLock<Helpers> =
    LazyLock::new(|| Helpers::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)));

/// A bound on helping threads.
struct Helpers {
    busy: AtomicUsize,
    busy_max: usize,
}

impl Helpers {
    fn new(busy_max: usize) -> Self {
        Self { busy: AtomicUsize::new(0), busy_max }
    }

    /// Leave to start a thread, until dropped; `None` while as many as may help do.
    fn take(&self) -> Option<Helper<'_>> {
        let one_more = |busy| (busy < self.busy_max).then_some(busy + 1);
        self.busy.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok().map(|_| Helper(self))
    }
}

/// Leave to start a thread.
struct Helper<'a>(&'a Helpers);

impl Drop for Helper<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// `work` on every item, in order; a large batch uses a second core while there is one to be had.
pub fn spread<I: Send, O: Send>(items: Vec<I>, work: impl Fn(I) -> O + Sync) -> Vec<O> {
    if items.len() < SPREAD_ITEMS_MIN {
        return items.into_iter().map(work).collect();
    }
    spread_with(&HELPERS, items, work)
}

fn spread_with<I: Send, O: Send>(helpers: &Helpers, mut items: Vec<I>, work: impl Fn(I) -> O + Sync) -> Vec<O> {
    blocking(|| {
        let Some(_helper) = helpers.take() else { return items.into_iter().map(work).collect() };
        let right = items.split_off(items.len() / 2);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| right.into_iter().map(&work).collect::<Vec<_>>());
            let mut results: Vec<O> = items.into_iter().map(&work).collect();
            match other.join() {
                Ok(rest) => results.extend(rest),
                // A panic goes on in the thread that asked for the work.
                Err(panic) => std::panic::resume_unwind(panic),
            }
            results
        })
    })
}

/// Work that takes a while: other tasks go on on other threads. A runtime with one thread has no others, and waits.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    let several = Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if several { tokio::task::block_in_place(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn threads(helpers: &Helpers) -> usize {
        let done = spread_with(helpers, (0..1_000).collect(), |number: usize| (number, std::thread::current().id()));
        assert!(done.iter().map(|(number, _)| *number).eq(0..1_000));
        done.into_iter().map(|(_, thread)| format!("{thread:?}")).collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn a_batch_without_a_helper_is_done_alone() {
        let helpers = Helpers::new(2);
        assert_eq!(threads(&helpers), 2);
        let first = helpers.take().unwrap();
        assert_eq!(threads(&helpers), 2);
        let second = helpers.take().unwrap();
        assert!(helpers.take().is_none());
        assert_eq!(threads(&helpers), 1, "all help elsewhere");
        drop((first, second));
        assert_eq!(threads(&helpers), 2);
        assert_eq!(helpers.busy.load(Ordering::Acquire), 0);
    }
}
