//! What the threads that answer requests do, for the log: as long as none of them comes to rest, more records come.

use std::sync::{Arc, OnceLock, Weak};

use keyrail_http::Service;
use tokio::runtime::Builder;

/// Whose log is told.
static SERVICE: OnceLock<Weak<Service>> = OnceLock::new();

/// The same runtime, which tells when one of its threads has nothing to do: what waits to be recorded is then recorded at
/// once, since there is time for it.
pub(crate) fn that_tell(builder: &mut Builder) -> &mut Builder {
    telling(builder, || {
        if let Some(service) = SERVICE.get().and_then(Weak::upgrade) {
            service.engine().rest();
        }
    })
}

fn telling(builder: &mut Builder, rests: impl Fn() + Send + Sync + 'static) -> &mut Builder {
    builder.on_thread_park(rests)
}

/// From now on the service's log is told.
pub(crate) fn tell(service: &Arc<Service>) {
    // A process serves one data directory.
    let _already_told = SERVICE.set(Arc::downgrade(service));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_thread_that_has_done_its_work_tells() {
        let (tell, told) = mpsc::channel();
        let mut builder = Builder::new_multi_thread();
        let runtime = telling(builder.worker_threads(1), move || {
            let _nobody_hears_the_last = tell.send(());
        });
        let runtime = runtime.build().unwrap();
        // What it told before it had work does not count.
        let worked = runtime.spawn(async move {
            while told.try_recv().is_ok() {}
            told
        });
        let told = runtime.block_on(worked).unwrap();
        told.recv_timeout(Duration::from_secs(30)).unwrap();
    }
}
