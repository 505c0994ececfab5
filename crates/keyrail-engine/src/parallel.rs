//! Work on the items of a batch, spread over the cores.

use tokio::runtime::{Handle, RuntimeFlavor};

/// From how many items on a batch is spread.
const SPREAD_ITEMS_MIN: usize = 128;

/// `work` on every item, in order; a large batch uses a second core.
pub fn spread<I: Send, O: Send>(mut items: Vec<I>, work: impl Fn(I) -> O + Sync) -> Vec<O> {
    if items.len() < SPREAD_ITEMS_MIN {
        return items.into_iter().map(work).collect();
    }
    blocking(|| {
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
