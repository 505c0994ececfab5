//! Alarms: records that somebody should look at.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use keyrail_audit::AppendError;
use keyrail_core::access::{Action, Principal};
use keyrail_core::id::RequestId;
use keyrail_core::key::{DataKeyVersion, DestroyHalt, DestroyWait};
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::KeyName;
use keyrail_core::record::{Detail, Origin, Outcome, RECORD_FORMAT, Record, RecordDecision, RecordKind, VersionUse};
use keyrail_core::retirement::Obstacle;
use keyrail_core::time::Timestamp;
use keyrail_crypto::envelope::Kid;
use keyrail_crypto::random;
use keyrail_store::Change;

use crate::error::EngineError;
use crate::ops::put_key_change;
use crate::ops::retire::with_wait;
use crate::pipeline::{ATTEMPTS_MAX, CommitError, append};
use crate::unsealed::{OpenKey, Unsealed};

/// How long an alarm about a refused decrypt of the same version is not repeated, in seconds.
const ALARM_SECONDS: u64 = 60;

/// How long an alarm about data that is late is not repeated, in seconds.
const OVERDUE_ALARM_SECONDS: u64 = 24 * 60 * 60;

/// How many obstacles one alarm lists.
const OBSTACLES_TOLD_MAX: usize = 16;

/// How many alarms are known to be raised; beyond it they may be repeated sooner.
const RAISED_MAX: usize = 4_096;

/// When the last alarm of each kind about each version was raised.
pub(crate) type Raised = HashMap<(Kid, AlarmKind), Timestamp>;

/// What an alarm is about.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum AlarmKind {
    /// Somebody asked for data under a retired version.
    DecryptRefused,
    /// Data is still under a version that it should have left.
    Overdue,
    /// Data was found under a version that was about to be destroyed.
    DestroyStopped,
    /// A version cannot be destroyed though its wait is over.
    DestroyWaits,
}

impl AlarmKind {
    const fn repeats_after_seconds(self) -> u64 {
        match self {
            Self::DecryptRefused | Self::DestroyStopped => ALARM_SECONDS,
            Self::Overdue | Self::DestroyWaits => OVERDUE_ALARM_SECONDS,
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::DecryptRefused => "somebody asked for data under a retired version",
            Self::Overdue => "a campaign is over its deadline, and data is still under this version",
            Self::DestroyStopped => "values were found under a version that was to be destroyed",
            Self::DestroyWaits => "the wait is over, and something stands in the way of destroying this version",
        }
    }

    const fn action(self) -> Action {
        match self {
            Self::DecryptRefused => Action::DataDecrypt,
            Self::Overdue => Action::CampaignRead,
            Self::DestroyStopped | Self::DestroyWaits => Action::KeyDestroy,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::DecryptRefused => "version_unusable",
            Self::Overdue => "campaign_overdue",
            Self::DestroyStopped => "destroy_stopped",
            Self::DestroyWaits => "destroy_waits",
        }
    }
}

impl Unsealed {
    /// Somebody asked for data under a retired version: an alarm, and its countdown to destruction stands still.
    pub(crate) async fn refused_decrypt(
        self: &Arc<Self>,
        key: &OpenKey,
        version: &DataKeyVersion,
    ) -> Result<(), EngineError> {
        if version.state != VersionState::Retired || !self.writes() {
            return Ok(());
        }
        if version.destroy.is_none_or(|wait| wait.halt.is_some()) {
            return self.raise(AlarmKind::DecryptRefused, &key.name, version).await.map(drop);
        }
        for _ in 0..ATTEMPTS_MAX {
            if self.halt_countdown(&key.name, &version.kid).await? {
                return Ok(());
            }
        }
        Err(EngineError::Contended)
    }

    /// Halts the countdown of a retired version, with an alarm. Answers whether that is decided: a countdown goes on
    /// without a fence, so a step of it may have come in between, and then nothing else would begin anew.
    async fn halt_countdown(self: &Arc<Self>, name: &KeyName, kid: &Kid) -> Result<bool, EngineError> {
        let (generation, now) = (self.generation(), self.now());
        let Some(key) = self.read_key(name).await? else { return Ok(true) };
        // What is reinstated or destroyed meanwhile was fenced: the caller's operation begins anew.
        let retired = |version: &&DataKeyVersion| version.state == VersionState::Retired;
        let Some(version) = key.keyring.by_kid(kid).filter(retired) else { return Ok(true) };
        let Some(wait) = version.destroy.filter(|wait| wait.halt.is_none()) else {
            return self.raise(AlarmKind::DecryptRefused, name, version).await.map(|_| true);
        };
        let halted = DestroyWait { halt: Some(DestroyHalt::DecryptRefused), ..wait };
        let mut change = Change::new();
        put_key_change(&mut change, &with_wait(&key, version, Some(halted), now));
        let record = about_version(AlarmKind::DecryptRefused, name, version, now)?;
        match self.commit(change, &record, generation).await {
            Ok(()) => {
                self.note_alarm(AlarmKind::DecryptRefused, version.kid, now);
                Ok(true)
            }
            Err(CommitError::Fenced) => Ok(false),
            Err(CommitError::Failed(error)) => Err(error),
        }
    }

    /// Raises an alarm about a version, unless the same one was raised a while ago. Answers whether it did.
    pub(crate) async fn raise(
        &self,
        kind: AlarmKind,
        key: &KeyName,
        version: &DataKeyVersion,
    ) -> Result<bool, EngineError> {
        self.raise_about(kind, key, version, &[]).await
    }

    /// [`Unsealed::raise`], with what stands in the way.
    pub(crate) async fn raise_about(
        &self,
        kind: AlarmKind,
        key: &KeyName,
        version: &DataKeyVersion,
        obstacles: &[Obstacle],
    ) -> Result<bool, EngineError> {
        let now = self.now();
        let last = self.alarms.lock().get(&(version.kid, kind)).copied();
        if last.is_some_and(|at| now.seconds_since(at) < kind.repeats_after_seconds()) {
            return Ok(false);
        }
        let mut record = about_version(kind, key, version, now)?;
        let told = obstacles.iter().take(OBSTACLES_TOLD_MAX);
        record.detail = told.map(|row| Detail { name: "obstacle".to_owned(), value: row.to_string() }).collect();
        self.append_alarm(record).await?;
        self.note_alarm(kind, version.kid, now);
        Ok(true)
    }

    /// Raises an alarm about the wall clock.
    pub(crate) async fn raise_clock_set(&self, off_millis: i64) -> Result<(), EngineError> {
        let mut record = alarm(self.now(), Action::SystemRead, "clock_jumped", "the wall clock was set by hand")?;
        record.detail = vec![Detail { name: "off_millis".to_owned(), value: off_millis.to_string() }];
        self.append_alarm(record).await?;
        self.metrics.count_alarm();
        Ok(())
    }

    /// The log gave files up since this was asked last, because a write failed or somebody else changed them: what was in
    /// them is kept elsewhere, and somebody should look at the disk.
    pub(crate) async fn tell_given_up(&self) -> Result<(), EngineError> {
        let health = self.log.health();
        let told = self.given_up_told.load(Ordering::Relaxed);
        if health.given_up == told {
            return Ok(());
        }
        let why = health.why.unwrap_or_default();
        tracing::error!(files = health.given_up - told, why, "the log gave a file up and began another");
        let mut record = alarm(self.now(), Action::SystemRead, "log_file_given_up", "the log gave a file up")?;
        let detail = |name: &str, value| Detail { name: name.to_owned(), value };
        record.detail = vec![detail("files", (health.given_up - told).to_string()), detail("why", why)];
        self.append_alarm(record).await?;
        self.given_up_told.store(health.given_up, Ordering::Relaxed);
        self.metrics.count_alarm();
        Ok(())
    }

    /// An alarm is true under any state.
    async fn append_alarm(&self, record: Record) -> Result<(), EngineError> {
        loop {
            match append(self, &record, self.generation()).await {
                Ok(()) => return Ok(()),
                // Each turn means that a change went through meanwhile.
                Err(AppendError::Fenced) => {}
                Err(error) => return Err(EngineError::AuditUnavailable(error)),
            }
        }
    }

    pub(crate) fn note_alarm(&self, kind: AlarmKind, kid: Kid, now: Timestamp) {
        self.metrics.count_alarm();
        let mut alarms = self.alarms.lock();
        if alarms.len() >= RAISED_MAX {
            alarms.clear();
        }
        alarms.insert((kid, kind), now);
    }
}

pub(crate) fn about_version(
    kind: AlarmKind,
    key: &KeyName,
    version: &DataKeyVersion,
    now: Timestamp,
) -> Result<Record, EngineError> {
    let mut record = alarm(now, kind.action(), kind.code(), kind.reason())?;
    record.resource = Some(format!("{key}@{}", version.version));
    record.versions = vec![VersionUse { version: version.version, kid: version.kid, count: 1, opened: false }];
    Ok(record)
}

fn alarm(now: Timestamp, action: Action, code: &str, reason: &str) -> Result<Record, EngineError> {
    Ok(Record {
        v: RECORD_FORMAT,
        id: RequestId::from_bytes(random::array()?),
        time: now,
        kind: RecordKind::Alarm,
        principal: Principal::system().label(),
        session: None,
        action,
        resource: None,
        versions: Vec::new(),
        asset: None,
        origin: Origin::default(),
        decision: RecordDecision::Refuse,
        reason: reason.to_owned(),
        outcome: Outcome::Refused,
        code: Some(code.to_owned()),
        items: None,
        failed: None,
        detail: Vec::new(),
        state: None,
    })
}

#[cfg(test)]
mod tests;
