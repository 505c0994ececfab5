//! Metrics for Prometheus.

use std::sync::atomic::AtomicU64;

use keyrail_crypto::locked::protection;
use keyrail_engine::{BackupHealth, Engine, MetricsSnapshot, Unsealed};
use keyrail_seal::SealState;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, &'static str)>;

/// The text that Prometheus reads. Labels are words of the code, never names or data.
pub(crate) async fn render(engine: &Engine) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("keyrail");
    let unsealed: Gauge = Gauge::default();
    unsealed.set(i64::from(engine.seal_state() == SealState::Unsealed));
    registry.register("unsealed", "1 while the store is open", unsealed);
    let state = Family::<Labels, Gauge>::default();
    let cause = engine.seal_cause().map_or("", |cause| cause.word);
    state.get_or_create(&vec![("state", engine.seal_state().as_str()), ("cause", cause)]).set(1);
    registry.register("seal_state", "1 for whether the store is open, and what keeps its root from opening it", state);
    if let Ok(open) = engine.unsealed() {
        opened(&mut registry, engine, &open).await;
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

async fn opened(registry: &mut Registry, engine: &Engine, open: &Unsealed) {
    operations(registry, &engine.metrics());
    let healthy = Family::<Labels, Gauge>::default();
    for check in engine.health().await.checks {
        healthy.get_or_create(&vec![("check", check.name)]).set(i64::from(check.ok));
    }
    registry.register("healthy", "1 while the part works", healthy);
    let memory = Family::<Labels, Gauge>::default();
    memory.get_or_create(&vec![("protection", protection().as_str())]).set(1);
    registry.register("key_memory", "1 for how the memory of keys is protected", memory);
    if let Some(backup) = engine.backup_health() {
        backups(registry, &backup);
    }
    let records: Gauge = Gauge::default();
    records.set(i64::try_from(open.log().size()).unwrap_or(i64::MAX));
    registry.register("audit_records", "Records in the audit log", records);
    let given_up: Counter<u64, AtomicU64> = Counter::default();
    given_up.inc_by(open.log().health().given_up);
    registry.register("log_files_given_up", "Files of the log that were given up since a write failed", given_up);
    if let Some(seconds) = open.anchor_lag_seconds() {
        let lag: Gauge = Gauge::default();
        lag.set(i64::try_from(seconds).unwrap_or(i64::MAX));
        registry.register("anchor_lag_seconds", "For how long an anchor has not known the newest head", lag);
    }
}

fn backups(registry: &mut Registry, backup: &BackupHealth) {
    let set = |value: i64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        gauge
    };
    if let Some(last) = backup.last_at {
        registry.register("backup_last_time_seconds", "When the last backup was made", set(last.as_millis() / 1000));
    }
    if let Some(age) = backup.age_seconds {
        let age = i64::try_from(age).unwrap_or(i64::MAX);
        registry.register("backup_age_seconds", "How long ago the last backup was made", set(age));
    }
    registry.register("backup_overdue", "1 while a scheduled backup is late", set(i64::from(backup.overdue)));
    let failures: Counter<u64, AtomicU64> = Counter::default();
    failures.inc_by(backup.failures);
    registry.register("backup_failures", "Backups that failed since the service was started", failures);
}

fn operations(registry: &mut Registry, snapshot: &MetricsSnapshot) {
    let family = Family::<Labels, Counter<u64, AtomicU64>>::default();
    for (action, count) in snapshot.done.iter().filter(|(_, count)| *count > 0) {
        family.get_or_create(&vec![("action", *action), ("outcome", "done")]).inc_by(*count);
    }
    for (action, code, count) in &snapshot.errors {
        family.get_or_create(&vec![("action", *action), ("outcome", *code)]).inc_by(*count);
    }
    registry.register("operations", "Operations by action and outcome", family);
    let items: Counter<u64, AtomicU64> = Counter::default();
    items.inc_by(snapshot.items);
    registry.register("items", "Items encrypted, decrypted or re-encrypted", items);
    let alarms: Counter<u64, AtomicU64> = Counter::default();
    alarms.inc_by(snapshot.alarms);
    registry.register("alarms", "Alarms raised", alarms);
    let overdue: Gauge = Gauge::default();
    overdue.set(i64::try_from(snapshot.campaigns_overdue).unwrap_or(i64::MAX));
    registry.register("campaigns_overdue", "Key versions whose data should have been moved by now", overdue);
}
