//! Work on many rows, spread over the cores.

/// From how many rows on a second thread is worth its start.
const ROWS_MIN: usize = 32;

/// The most threads.
const THREADS_MAX: usize = 4;

/// `work` on every item, in order.
pub(crate) fn map<I: Sync, O: Send>(items: &[I], work: impl Fn(&I) -> O + Sync) -> Vec<O> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(THREADS_MAX);
    if items.len() < ROWS_MIN || threads == 1 {
        return items.iter().map(work).collect();
    }
    let share = items.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            items.chunks(share).map(|chunk| scope.spawn(|| chunk.iter().map(&work).collect::<Vec<O>>())).collect();
        let mut results = Vec::with_capacity(items.len());
        for worker in workers {
            match worker.join() {
                Ok(part) => results.extend(part),
                // A panic goes on in the thread that asked for the work.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    })
}
