//! What one attempt of a request hands on to the next: work that takes longer than the state keeps still.

use std::any::Any;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::EngineError;
use crate::pipeline::Context;

/// Lives as long as the request, over all its attempts.
pub(crate) struct Kept {
    /// When the request began.
    pub(crate) began: Instant,
    found: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Kept {
    pub(crate) fn new() -> Self {
        Self::since(Instant::now())
    }

    /// For a part of something that began at another time.
    pub(crate) fn since(began: Instant) -> Self {
        Self { began, found: Mutex::default() }
    }
}

impl Context<'_> {
    /// What `find` finds out, which may take long. When another change overtakes the request, it is not found out anew,
    /// unless `about` is not the same any more: name there all of the state that it depends on. The last one is kept.
    ///
    /// # Errors
    /// Those of `find`.
    pub async fn once<K: PartialEq + Send + 'static, T: Clone + Send + 'static>(
        &self,
        about: K,
        find: impl Future<Output = Result<T, EngineError>> + Send,
    ) -> Result<T, EngineError> {
        let known = self.kept.found.lock().as_ref().and_then(|found| {
            let (former, value) = found.downcast_ref::<(K, T)>()?;
            (*former == about).then(|| value.clone())
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let value = find.await?;
        *self.kept.found.lock() = Some(Box::new((about, value.clone())));
        Ok(value)
    }
}
