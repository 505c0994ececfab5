//! Counters of the service; the transport renders them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use keyrail_core::access::Action;

use crate::backup::schedule::BackupBook;
use crate::error::EngineError;

/// Counts operations by action and by how they ended. Labels are words of the code, never names or data.
pub(crate) struct Metrics {
    done: Vec<AtomicU64>,
    errors: parking_lot::Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    items: AtomicU64,
    alarms: AtomicU64,
    overdue: AtomicU64,
    backups: BackupBook,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct MetricsSnapshot {
    /// Operations that were done, by action.
    pub done: Vec<(&'static str, u64)>,
    /// Operations that ended otherwise, by action and code.
    pub errors: Vec<(&'static str, &'static str, u64)>,
    /// Items that were encrypted, decrypted or re-encrypted.
    pub items: u64,
    /// Alarms that were raised.
    pub alarms: u64,
    /// Key versions whose data should have been moved by now, as the last sweep found them.
    pub campaigns_overdue: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let done = Action::ALL.iter().map(|_| AtomicU64::new(0)).collect();
        let zero = || AtomicU64::new(0);
        Self {
            done,
            errors: parking_lot::Mutex::default(),
            items: zero(),
            alarms: zero(),
            overdue: zero(),
            backups: BackupBook::default(),
        }
    }
}

impl Metrics {
    pub(crate) fn count_operation(&self, action: Action, error: Option<&EngineError>) {
        match error {
            None => {
                if let Some(counter) = self.done.get(action as usize) {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
            Some(error) => *self.errors.lock().entry((action.as_str(), error.code())).or_default() += 1,
        }
    }

    pub(crate) fn count_items(&self, items: usize) {
        self.items.fetch_add(items as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_alarm(&self) {
        self.alarms.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_overdue(&self, versions: u64) {
        self.overdue.store(versions, Ordering::Relaxed);
    }

    /// What is known of backups.
    pub(crate) fn backups(&self) -> &BackupBook {
        &self.backups
    }

    pub(crate) fn snapshot(&self) -> MetricsSnapshot {
        let done = Action::ALL.iter().zip(&self.done);
        MetricsSnapshot {
            done: done.map(|(action, count)| (action.as_str(), count.load(Ordering::Relaxed))).collect(),
            errors: self.errors.lock().iter().map(|((action, code), count)| (*action, *code, *count)).collect(),
            items: self.items.load(Ordering::Relaxed),
            alarms: self.alarms.load(Ordering::Relaxed),
            campaigns_overdue: self.overdue.load(Ordering::Relaxed),
        }
    }
}
