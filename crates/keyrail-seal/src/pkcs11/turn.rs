//! Calls into a module: one at a time, on a thread of their own, with a limit on the time they are waited for.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::error::TokenError;

/// How long an operation on a token is waited for, its turn included, in seconds.
pub const OPERATION_SECONDS_MAX: u64 = 10;

/// The modules that are inside a call.
static BUSY: LazyLock<(Mutex<HashSet<PathBuf>>, Condvar)> = LazyLock::new(Default::default);

/// The right to call a module; given back when dropped.
struct Turn(PathBuf);

impl Turn {
    /// Waits until nobody else is inside the module.
    fn take(module: &Path, deadline: Instant) -> Result<Self, TokenError> {
        let (busy, ended) = &*BUSY;
        let mut busy = busy.lock();
        while busy.contains(module) {
            if ended.wait_until(&mut busy, deadline).timed_out() {
                return Err(SLOW);
            }
        }
        busy.insert(module.to_owned());
        Ok(Self(module.to_owned()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        BUSY.0.lock().remove(&self.0);
        BUSY.1.notify_all();
    }
}

const SLOW: TokenError = TokenError::Slow { seconds: OPERATION_SECONDS_MAX };

/// Does `work` inside a module. A call that does not come back in time is left alone: what it returns later is dropped,
/// and until then nobody else gets a turn. So no more than one thread per module can hang.
///
/// # Errors
/// Those of `work`; [`TokenError::Slow`].
pub(super) fn within_limit<T: Send + 'static, E: From<TokenError> + Send + 'static>(
    module: &Path,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let deadline = Instant::now() + Duration::from_secs(OPERATION_SECONDS_MAX);
    let turn = Turn::take(module, deadline)?;
    let (done, waited) = sync_channel(1);
    let thread = std::thread::Builder::new().name("pkcs11".to_owned()).spawn(move || {
        let result = work();
        drop(turn);
        // Nobody may be waiting any more; then the result is wiped here.
        let _late = done.send(result);
    });
    let failed = |code: &str| TokenError::Failed { function: "this process", code: code.to_owned() };
    thread.map_err(|_| failed("no thread"))?;
    match waited.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(SLOW.into()),
        Err(RecvTimeoutError::Disconnected) => Err(failed("a panic").into()),
    }
}
