//! Limits of time that are seconds long and hardly ever reached. A timer of its own for each of them costs more than
//! the request that it guards; here all of them look at the clock when the one ticker says so.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// How often the clock is looked at: a limit is kept to within this.
const TICK: Duration = Duration::from_millis(250);

/// Tells everybody who waits that time has gone by.
pub(crate) struct Ticks(Arc<Notify>);

impl Ticks {
    /// Starts to tick, until the last owner is gone.
    pub(crate) fn start() -> Arc<Self> {
        let ticks = Arc::new(Self(Arc::new(Notify::new())));
        let told = Arc::downgrade(&ticks);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                match told.upgrade() {
                    Some(ticks) => ticks.0.notify_waiters(),
                    None => break,
                }
            }
        });
        ticks
    }

    /// `work`, unless it takes longer than `limit`.
    pub(crate) async fn within<F: Future>(&self, limit: Duration, work: F) -> Option<F::Output> {
        let deadline = Instant::now() + limit;
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = self.0.notified() => {
                    if Instant::now() >= deadline {
                        return None;
                    }
                }
            }
        }
    }
}

/// Timers of connections.
#[derive(Clone)]
pub(crate) struct CoarseTimer(Arc<Ticks>);

impl CoarseTimer {
    pub(crate) fn new(ticks: Arc<Ticks>) -> Self {
        Self(ticks)
    }
}

impl Timer for CoarseTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let told = self.0.0.clone();
        Box::pin(CoarseSleep { ticked: Box::pin(told.clone().notified_owned()), told, deadline })
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        match sleep.as_mut().downcast_mut_pin::<CoarseSleep>() {
            Some(mut sleep) => sleep.deadline = deadline,
            None => *sleep = self.sleep_until(deadline),
        }
    }
}

struct CoarseSleep {
    deadline: Instant,
    ticked: Pin<Box<OwnedNotified>>,
    told: Arc<Notify>,
}

impl Sleep for CoarseSleep {}

impl Future for CoarseSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.ticked.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if Instant::now() >= self.deadline => return Poll::Ready(()),
                Poll::Ready(()) => self.ticked = Box::pin(self.told.clone().notified_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_given_up_and_what_does_not_is_not() {
        let ticks = Ticks::start();
        // Without real time going by, only the deadline of none is over.
        assert_eq!(ticks.within(Duration::from_secs(3_600), async { 7 }).await, Some(7));
        assert_eq!(ticks.within(Duration::ZERO, std::future::pending::<()>()).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_ends_after_its_deadline_and_can_be_set_anew() {
        let timer = CoarseTimer::new(Ticks::start());
        timer.sleep(Duration::ZERO).await;
        let mut sleep = timer.sleep(Duration::from_secs(3_600));
        timer.reset(&mut sleep, Instant::now());
        sleep.await;
    }
}
