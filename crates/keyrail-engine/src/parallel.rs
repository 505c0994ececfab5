//! Work on the items of a batch, spread over the cores.

/// From how many items on a batch is spread.
const SPREAD_ITEMS_MIN: usize = 128;

/// `work` on every item, in order; a large batch uses a second core. For threads of a runtime with several of them.
pub fn spread<I: Send, O: Send>(mut items: Vec<I>, work: impl Fn(I) -> O + Sync) -> Vec<O> {
    if items.len() < SPREAD_ITEMS_MIN {
        return items.into_iter().map(work).collect();
    }
    tokio::task::block_in_place(|| {
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
