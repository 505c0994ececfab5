//! Backups, on behalf of a caller or of the schedule.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyrail_core::access::Action;

use crate::authorize::Authorized;
use crate::backup::{Ask, BackupView, make};
use crate::error::EngineError;
use crate::pipeline::{Acted, Context, Operation, Target};
use crate::unsealed::Unsealed;

/// Makes a backup on the machine of the service.
#[derive(Clone, Debug)]
pub struct MakeBackup {
    pub(crate) ask: Ask,
}

impl MakeBackup {
    /// A backup in `dir`, where the newest `keep` of this store stay.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] when none is to be kept.
    pub fn new(dir: PathBuf, keep: Option<u32>) -> Result<Self, EngineError> {
        if keep == Some(0) {
            return Err(EngineError::Invalid {
                problem: "0 backups would be kept".to_owned(),
                hint: "keep 1 or more, or leave it out to keep all",
            });
        }
        Ok(Self { ask: Ask { dir, keep } })
    }
}

impl Operation for MakeBackup {
    const ACTION: Action = Action::SystemBackup;
    type Loaded = ();
    type Answer = BackupView;

    async fn load(&self, _: &Arc<Unsealed>) -> Result<(), EngineError> {
        Ok(())
    }

    fn target(&self, (): &()) -> Target {
        Target::service("store", None)
    }

    // It takes as long as the store is large, and no change of state makes a backup of before worth less.
    async fn act(authorized: &Authorized<Self>, (): (), cx: &Context<'_>) -> Result<Acted<BackupView>, EngineError> {
        let ask = &authorized.op().ask;
        let made = cx.once(ask.clone(), async {
            let made = make(cx.open, ask).await;
            let noted = made.as_ref().map(|made| (made.time, made.log_size));
            cx.open.metrics().backups().note(noted);
            made
        });
        let made = made.await?;
        let name = Path::new(&made.file).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Acted::new(made.clone())
            .detail("file", name)
            .detail("log_size", made.log_size)
            .detail("rows", made.rows)
            .detail("bytes", made.bytes)
            .detail("sha256", &made.sha256))
    }
}
