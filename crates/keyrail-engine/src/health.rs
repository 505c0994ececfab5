//! Whether the service can do its work, in words that people and programs share.

use keyrail_seal::SealState;
use serde::Serialize;

use crate::backup::schedule::BackupHealth;
use crate::retry::SealCause;

/// One thing that must be well.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct HealthCheck {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is well.
    pub ok: bool,
    /// What is wrong, if something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether requests can be served only while it is well.
    #[serde(skip)]
    pub needed: bool,
}

/// How the service is.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Health {
    /// Whether requests can be served.
    pub ready: bool,
    /// Whether the store is open, and if not, why.
    pub seal: &'static str,
    /// What keeps the root of trust from opening the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'static str>,
    /// Each thing that was looked at.
    pub checks: Vec<HealthCheck>,
    /// How the last backup is; absent where nobody makes any. A late one keeps no request from being served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupHealth>,
}

impl Health {
    pub(crate) fn new(seal: SealState, cause: Option<SealCause>, checks: Vec<HealthCheck>) -> Self {
        let open = seal == SealState::Unsealed;
        let ready = open && checks.iter().all(|check| check.ok || !check.needed);
        let hint = (!open).then(|| cause.and_then(|cause| cause.hint).unwrap_or(seal.hint()));
        Self { ready, seal: seal.as_str(), cause: cause.map(|cause| cause.word), hint, checks, backup: None }
    }
}

impl HealthCheck {
    pub(crate) fn of(name: &'static str, problem: Option<String>) -> Self {
        Self { name, ok: problem.is_none(), problem, needed: true }
    }

    /// The same check, without which requests are served all the same.
    pub(crate) fn advice(self) -> Self {
        Self { needed: false, ..self }
    }
}
