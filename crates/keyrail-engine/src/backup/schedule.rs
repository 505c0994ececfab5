//! Backups that nobody asks for by name: when the next one is due, and how the last one went.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyrail_core::time::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;

use crate::backup::{Ask, place, store_id};
use crate::error::EngineError;
use crate::ops::backup::MakeBackup;
use crate::pipeline::execute;
use crate::request::Caller;
use crate::unsealed::Unsealed;

/// How long after one that failed the next one is tried, in seconds.
const BACKUP_RETRY_SECONDS: u64 = 60;

/// The least time between two backups, in seconds.
const BACKUP_EVERY_SECONDS_MIN: u64 = 60;

/// Backups that the service makes by itself.
#[derive(Clone, Debug)]
pub struct BackupPlan {
    /// Where to put them.
    pub dir: PathBuf,
    /// The time from one to the next, in seconds.
    pub every_seconds: u64,
    /// How many of this store are kept there.
    pub keep: u32,
}

impl BackupPlan {
    /// # Errors
    /// [`EngineError::Invalid`], [`EngineError::File`].
    pub(crate) fn check(&self, data_dir: &Path) -> Result<(), EngineError> {
        if self.every_seconds < BACKUP_EVERY_SECONDS_MIN || self.keep == 0 {
            return Err(EngineError::Invalid {
                problem: format!("a backup every {} s, {} of them kept", self.every_seconds, self.keep),
                hint: "make one each minute at most, and keep 1 or more: like --backup-every 24h --backup-keep 7",
            });
        }
        place::prepare(&self.dir, Some(data_dir))
    }
}

/// What is known of backups since this process began.
#[derive(Default)]
pub(crate) struct BackupBook(Mutex<Book>);

#[derive(Clone, Debug, Default)]
struct Book {
    last: Option<Last>,
    failures: u64,
    error: Option<&'static str>,
    /// Whether one is being made.
    running: bool,
    /// When the last scheduled attempt began.
    tried_at_millis: Option<u64>,
    /// Whether it was looked which ones are there.
    looked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    at: Timestamp,
    log_size: u64,
}

/// How the last backup is.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct BackupHealth {
    /// When the last one was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
    /// How long ago that was, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Records that the log had then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_size: Option<u64>,
    /// The time from one to the next, in seconds, if the service makes them by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_seconds: Option<u64>,
    /// Whether the last one is older than twice that time, or there is none.
    pub overdue: bool,
    /// Attempts that failed since the service was started.
    pub failures: u64,
    /// The code of what the last attempt failed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
}

impl BackupBook {
    /// How an attempt ended.
    pub(crate) fn note(&self, made: Result<(Timestamp, u64), &EngineError>) {
        let mut book = self.0.lock();
        match made {
            Ok((at, log_size)) => {
                book.last = Some(Last { at, log_size });
                book.error = None;
            }
            Err(error) => {
                book.failures += 1;
                book.error = Some(error.code());
            }
        }
    }

    /// What there is to tell, if anybody makes backups.
    pub(crate) fn health(&self, plan: Option<&BackupPlan>, now: Timestamp) -> Option<BackupHealth> {
        let book = self.0.lock().clone();
        let every_seconds = plan.map(|plan| plan.every_seconds);
        if every_seconds.is_none() && book.last.is_none() && book.failures == 0 {
            return None;
        }
        let age_seconds = book.last.map(|last| now.seconds_since(last.at));
        let overdue = every_seconds.is_some_and(|every| age_seconds.is_none_or(|age| age > every.saturating_mul(2)));
        Some(BackupHealth {
            last_at: book.last.map(|last| last.at),
            age_seconds,
            log_size: book.last.map(|last| last.log_size),
            every_seconds,
            overdue,
            failures: book.failures,
            error: book.error,
        })
    }

    fn needs_a_look(&self) -> bool {
        !std::mem::replace(&mut self.0.lock().looked, true)
    }

    /// Whether one is to be made now; from here on it is being made.
    fn begin(&self, plan: &BackupPlan, now: Timestamp, uptime_millis: u64) -> bool {
        let mut book = self.0.lock();
        let due = book.last.is_none_or(|last| {
            // A clock that was set back makes none late.
            last.at > now.plus_seconds(plan.every_seconds) || now.seconds_since(last.at) >= plan.every_seconds
        });
        let retry_millis = BACKUP_RETRY_SECONDS * 1000;
        let waits = book.tried_at_millis.is_some_and(|tried| uptime_millis.saturating_sub(tried) < retry_millis);
        let begins = due && !waits && !book.running;
        if begins {
            book.running = true;
            book.tried_at_millis = Some(uptime_millis);
        }
        begins
    }

    fn end(&self) {
        self.0.lock().running = false;
    }
}

/// Says that none is being made any more, however it ended.
struct Running(Arc<Unsealed>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.metrics().backups().end();
    }
}

/// Begins a backup if one is due. It goes on beside the other background work.
pub(crate) async fn begin_if_due(open: &Arc<Unsealed>, plan: &BackupPlan) -> Result<(), EngineError> {
    let book = open.metrics().backups();
    if book.needs_a_look() {
        look(open, plan).await?;
    }
    let observed = open.clock().observe();
    if !book.begin(plan, observed.wall, observed.uptime_millis) {
        return Ok(());
    }
    let running = Running(open.clone());
    let ask = Ask { dir: plan.dir.clone(), keep: Some(plan.keep) };
    tokio::spawn(async move {
        let open = &running.0;
        let made = match Caller::system() {
            Ok(caller) => execute(open, &caller, MakeBackup { ask }).await,
            Err(error) => Err(error),
        };
        if let Err(error) = made {
            tracing::warn!(code = error.code(), %error, "a scheduled backup failed and is tried again");
        }
    });
    Ok(())
}

/// Backups that a former process made count.
async fn look(open: &Arc<Unsealed>, plan: &BackupPlan) -> Result<(), EngineError> {
    place::prepare(&plan.dir, open.data_dir())?;
    let id = store_id(open.state()).await?;
    let store: String = id.chars().take(8).collect();
    let last = place::list(&plan.dir, Some(&store))?.pop();
    if let Some((at, name)) = last.and_then(|(name, _)| Some((name.time()?, name))) {
        open.metrics().backups().note(Ok((at, name.log_size)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> BackupPlan {
        BackupPlan { dir: PathBuf::from("/nowhere"), every_seconds: 3600, keep: 2 }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn one_is_due_when_the_last_is_old_and_one_at_a_time() {
        let book = BackupBook::default();
        assert!(book.begin(&plan(), at(0), 0), "there is none");
        assert!(!book.begin(&plan(), at(0), 999_000), "it is being made");
        book.end();
        book.note(Err(&EngineError::InUse));
        assert!(!book.begin(&plan(), at(1), 59_000), "it is tried again after a minute");
        assert!(book.begin(&plan(), at(1), 60_000));
        book.end();
        book.note(Ok((at(1), 9)));
        assert!(!book.begin(&plan(), at(3600), 9_999_000));
        assert!(book.begin(&plan(), at(3601), 9_999_000));
        book.end();
        // The clock was far ahead when the last one was made, and was set right.
        book.note(Ok((at(1_000_000), 9)));
        assert!(book.begin(&plan(), at(5000), 99_999_000));
    }

    #[test]
    fn health_tells_the_last_one_and_what_went_wrong() {
        let book = BackupBook::default();
        assert_eq!(book.health(None, at(0)), None);
        let health = book.health(Some(&plan()), at(0)).unwrap();
        assert!(health.overdue && health.last_at.is_none());
        book.note(Ok((at(10), 7)));
        let health = book.health(Some(&plan()), at(7210)).unwrap();
        assert_eq!((health.age_seconds, health.log_size, health.overdue), (Some(7200), Some(7), false));
        book.note(Err(&EngineError::InUse));
        let health = book.health(Some(&plan()), at(7211)).unwrap();
        assert_eq!((health.overdue, health.failures, health.error), (true, 1, Some("data_dir_in_use")));
        // Nobody promised one, so none is late.
        assert!(!book.health(None, at(7211)).unwrap().overdue);
    }
}
