//! Counts that are overtaken, waited for and fetched.

use std::path::Path;
use std::sync::Weak;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use keyrail_core::access::{Action, Role};
use keyrail_core::id::DataKeyId;
use keyrail_core::name::{KeyName, KeyVersionName};
use keyrail_core::record::{Outcome, Record};
use keyrail_core::retirement::AssetCount;
use keyrail_core::rotation::RotationReason;
use keyrail_core::time::Clock;

use super::*;
use crate::ops::app::CreateApp;
use crate::ops::key::{
    CreateKey, KeyView, ListKeys, ReinstateVersion, ResumeVersion, RotateKey, ShowKey, SuspendVersion,
};
use crate::ops::label::{DemandsPatch, SetLabel};
use crate::ops::retire::{DestroyVersion, RetireVersion, ShowEvidence};
use crate::ops::token::CreateToken;
use crate::request::{Caller, Credential};
use crate::testing::{FixedClock, SetClock, create, open_at, outcomes};
use crate::{countdown, scheduler};

/// Assets whose count is overtaken by a change each time, or takes as long as a gate is closed.
struct SlowAssets {
    open: Weak<Unsealed>,
    gate: Semaphore,
    counted: AtomicUsize,
}

#[async_trait]
impl AssetPort for SlowAssets {
    async fn evidence(&self, _: DataKeyId, _: Kid) -> Result<Vec<AssetEvidence>, EngineError> {
        self.gate.acquire().await.unwrap().forget();
        let number = self.counted.fetch_add(1, Ordering::SeqCst);
        create(&self.open.upgrade().unwrap(), &format!("meanwhile-{number}")).await.1.unwrap();
        let census = Ok(AssetCount { left: 0, damaged: 0 });
        let asset = "people".parse().unwrap();
        Ok(vec![AssetEvidence { asset, census, open_campaign: None }])
    }
}

/// A key with a version to retire, whose write window is over at once, and an operator's token.
async fn with_slow_assets(dir: &Path) -> (Arc<Unsealed>, Arc<SlowAssets>, zeroize::Zeroizing<String>) {
    with_slow_assets_at(dir, Arc::new(FixedClock), Duration::from_secs(60)).await
}

/// As above, with a clock and with how long ago a count may have ended that something final rests on.
async fn with_slow_assets_at(
    dir: &Path,
    clock: Arc<dyn Clock>,
    fresh: Duration,
) -> (Arc<Unsealed>, Arc<SlowAssets>, zeroize::Zeroizing<String>) {
    let (open, operator) = with_rotated_key(dir, clock, Duration::from_millis(50), fresh).await;
    let (gate, counted) = (Semaphore::new(0), AtomicUsize::new(0));
    let assets = Arc::new(SlowAssets { open: Arc::downgrade(&open), gate, counted });
    open.set_assets(assets.clone());
    (open, assets, operator)
}

/// A key with a version to retire, an operator's token, and nobody who counts assets.
async fn with_rotated_key(
    dir: &Path,
    clock: Arc<dyn Clock>,
    count_wait: Duration,
    fresh: Duration,
) -> (Arc<Unsealed>, zeroize::Zeroizing<String>) {
    let (mut open, _) = open_at(dir, clock, |store| store).await;
    let parts = Arc::get_mut(&mut open).unwrap();
    (parts.count_wait, parts.counts.fresh) = (count_wait, fresh);
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let key: KeyName = "acme/prod/crm/pii".parse().unwrap();
    create(&open, "acme").await.1.unwrap();
    let patch = DemandsPatch { write_window_seconds: Some(0), ..DemandsPatch::default() };
    open.execute(&caller, SetLabel { name: "internal".parse().unwrap(), patch }).await.unwrap();
    open.execute(&caller, CreateApp { path: key.app.clone() }).await.unwrap();
    open.execute(&caller, CreateKey { name: key.clone(), label: "internal".parse().unwrap() }).await.unwrap();
    open.execute(&caller, RotateKey { name: key, reason: RotationReason::Demand }).await.unwrap();
    let operator = CreateToken { role: Role::Operator, app: None, ttl_seconds: 60 };
    let operator = open.execute(&caller, operator).await.unwrap().text;
    (open, operator)
}

fn retire() -> RetireVersion {
    RetireVersion { name: "acme/prod/crm/pii@1".parse().unwrap(), acknowledged: Vec::new() }
}

/// However many changes overtake a count, it is made once, and the retirement gets through.
#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_others_overtake_is_not_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (open, assets, _) = with_slow_assets(dir.path()).await;
    assets.gate.add_permits(100);
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let shown = open.execute(&caller, ShowEvidence { name: retire().name }).await.unwrap();
    assert_eq!((shown.assets.len(), assets.counted.load(Ordering::SeqCst)), (1, 1));
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let done = open.execute(&caller, retire()).await.unwrap();
    assert_eq!(done.key.versions[0].state, VersionState::Retired);
    assert_eq!(assets.counted.load(Ordering::SeqCst), 2, "once for each request");
    assert_eq!(outcomes(&open, caller.request), [Outcome::Done]);
}

/// A request that cannot wait so long is refused with a record, and the count goes on for the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_count_outlives_the_request_that_began_it() {
    let dir = tempfile::tempdir().unwrap();
    let (open, assets, operator) = with_slow_assets(dir.path()).await;
    let ask = || Caller::new(Credential::Token(&operator)).unwrap();
    for _ in 0..3 {
        let caller = ask();
        assert_eq!(open.execute(&caller, retire()).await.unwrap_err().code(), "still_counting");
        assert_eq!(outcomes(&open, caller.request), [Outcome::Refused]);
    }
    assets.gate.add_permits(1);
    while open.counts.any_under_way() {
        tokio::task::yield_now().await;
    }
    open.execute(&ask(), retire()).await.unwrap();
    assert_eq!(assets.counted.load(Ordering::SeqCst), 1);
    // A key that changed in between is counted anew.
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let name = retire().name;
    open.execute(&caller, ReinstateVersion { name: name.clone() }).await.unwrap();
    assert_eq!(open.execute(&ask(), retire()).await.unwrap_err().code(), "still_counting");
    open.execute(&caller, SuspendVersion { name }).await.unwrap();
    assets.gate.add_permits(2);
    assert_eq!(open.execute(&caller, retire()).await.unwrap_err().code(), "retire_blocked");
    assert_eq!(assets.counted.load(Ordering::SeqCst), 3);
}

/// Whoever hung up does not come back: what was counted for him is handed to nobody who asks later.
#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_nobody_was_told_of_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (open, assets, _) = with_slow_assets(dir.path()).await;
    let show = |open: Arc<Unsealed>| async move {
        let caller = Caller::new(Credential::LocalOperator).unwrap();
        open.execute(&caller, ShowEvidence { name: retire().name }).await
    };
    let asker = tokio::spawn(show(open.clone()));
    while !open.counts.any_under_way() {
        tokio::task::yield_now().await;
    }
    asker.abort();
    assert!(asker.await.unwrap_err().is_cancelled());
    assets.gate.add_permits(1);
    while open.counts.any_under_way() {
        tokio::task::yield_now().await;
    }
    assets.gate.add_permits(1);
    show(open.clone()).await.unwrap();
    assert_eq!(assets.counted.load(Ordering::SeqCst), 2);
}

/// Rows may have come back since a count ended: a version is neither retired nor destroyed by one that is old.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_final_rests_on_a_fresh_count() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let (open, assets, operator) = with_slow_assets_at(dir.path(), clock.clone(), Duration::ZERO).await;
    let name = retire().name;
    // Somebody is told that a count goes on, and it ends.
    let count_ends = async |operator: &str| {
        let caller = Caller::new(Credential::Token(operator)).unwrap();
        let told = open.execute(&caller, ShowEvidence { name: name.clone() }).await.unwrap_err();
        assert_eq!(told.code(), "still_counting");
        assets.gate.add_permits(1);
        while open.counts.any_under_way() {
            tokio::task::yield_now().await;
        }
    };
    let counted = || assets.counted.load(Ordering::SeqCst);
    let caller = || Caller::new(Credential::LocalOperator).unwrap();
    let destroy = || DestroyVersion { name: retire().name, acknowledged: Vec::new() };
    count_ends(&operator).await;
    assets.gate.add_permits(1);
    open.execute(&caller(), retire()).await.unwrap();
    assert_eq!(counted(), 2, "a retirement counts anew");
    // A countdown only begins: at its end it is counted again.
    count_ends(&operator).await;
    assert!(!open.execute(&caller(), destroy()).await.unwrap().destroyed);
    assert_eq!(counted(), 3);
    clock.pass(8 * 86_400);
    assert_eq!(countdown::look(&open).await.unwrap().len(), 1);
    let later = CreateToken { role: Role::Operator, app: None, ttl_seconds: 60 };
    count_ends(&open.execute(&caller(), later).await.unwrap().text).await;
    assert_eq!(counted(), 4);
    assets.gate.add_permits(1);
    assert!(open.execute(&caller(), destroy()).await.unwrap().destroyed);
    assert_eq!(counted(), 5, "a destruction counts anew");
}

/// A count that takes long is asked about less and less often, and when it ends the destruction goes on at once: a count
/// that nobody fetches gets too old, and would be made again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_destruction_that_waits_for_a_count_is_tried_less_and_less_often() {
    for crowded in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SetClock::default());
        let (open, assets, _) = with_slow_assets_at(dir.path(), clock.clone(), Duration::from_secs(60)).await;
        let caller = || Caller::new(Credential::LocalOperator).unwrap();
        assets.gate.add_permits(2);
        open.execute(&caller(), retire()).await.unwrap();
        let name = retire().name;
        open.execute(&caller(), DestroyVersion { name: name.clone(), acknowledged: Vec::new() }).await.unwrap();
        clock.pass(8 * 86_400);
        let key = open.key(&name.key).await.unwrap().unwrap();
        let about = About::of(&open, &key, key.keyring.version(name.version).unwrap(), true).await.unwrap();
        let places = crowded.then(|| open.counts.crowd(&about));
        scheduler::tick(&open).await.unwrap();
        for _minute in 1..130 {
            clock.pass(60);
            countdown::tick(&open).await.unwrap();
        }
        let code = if crowded { "too_many" } else { "still_counting" };
        assert_eq!(codes(&open, Action::KeyDestroy, code), 8, "{code}");
        drop(places);
        assets.gate.add_permits(1);
        if crowded {
            clock.pass(6 * 60 * 60);
            countdown::tick(&open).await.unwrap();
        }
        while open.counts.any_under_way() {
            tokio::task::yield_now().await;
        }
        scheduler::tick(&open).await.unwrap();
        let version = open.read_key(&name.key).await.unwrap().unwrap().keyring.version(name.version).unwrap().clone();
        assert_eq!(version.state, VersionState::Destroyed, "{code}");
        assert_eq!(assets.counted.load(Ordering::SeqCst), 3, "{code}: it was counted once more");
    }
}

/// Assets whose count takes a while once the countdowns are over.
#[derive(Default)]
struct SteadyAssets {
    takes: Mutex<Duration>,
    counted: AtomicUsize,
}

#[async_trait]
impl AssetPort for SteadyAssets {
    async fn evidence(&self, _: DataKeyId, _: Kid) -> Result<Vec<AssetEvidence>, EngineError> {
        self.counted.fetch_add(1, Ordering::SeqCst);
        let takes = *self.takes.lock();
        tokio::time::sleep(takes).await;
        Ok(Vec::new())
    }
}

/// Many destructions that are due together wait together for their counts: each would be too old by the time that its
/// turn comes again, and none would ever be made.
#[tokio::test(flavor = "multi_thread")]
async fn destructions_that_are_due_together_are_counted_once_each() {
    const VERSIONS: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    // A turn that waits for each of them lasts for 10 s.
    let (wait, fresh) = (Duration::from_millis(500), Duration::from_secs(4));
    let (open, _) = with_rotated_key(dir.path(), clock.clone(), wait, fresh).await;
    let assets = Arc::new(SteadyAssets::default());
    open.set_assets(assets.clone());
    let caller = || Caller::new(Credential::LocalOperator).unwrap();
    let key = retire().name.key;
    for number in 1..=VERSIONS {
        let rotate = RotateKey { name: key.clone(), reason: RotationReason::Demand };
        open.execute(&caller(), rotate).await.unwrap();
        let name: KeyVersionName = format!("{key}@{number}").parse().unwrap();
        let retire = RetireVersion { name: name.clone(), acknowledged: Vec::new() };
        open.execute(&caller(), retire).await.unwrap();
        open.execute(&caller(), DestroyVersion { name, acknowledged: Vec::new() }).await.unwrap();
    }
    clock.pass(8 * 86_400);
    *assets.takes.lock() = Duration::from_millis(700);
    let before = assets.counted.load(Ordering::SeqCst);
    let destroyed = async || {
        let keyring = open.read_key(&key).await.unwrap().unwrap().keyring.clone();
        keyring.versions.iter().filter(|version| version.state == VersionState::Destroyed).count()
    };
    countdown::tick(&open).await.unwrap();
    for _ in 0..200 {
        if destroyed().await == VERSIONS {
            break;
        }
        while open.counts.any_under_way() {
            tokio::task::yield_now().await;
        }
        scheduler::tick(&open).await.unwrap();
        let counted = assets.counted.load(Ordering::SeqCst) - before;
        assert!(counted <= VERSIONS, "counted {counted} times for {VERSIONS} versions");
    }
    assert_eq!(destroyed().await, VERSIONS);
}

/// A count that is too old for the last step is no reason to try again before its time.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_count_waits_for_no_destruction() {
    for (fresh, waits) in [(Duration::from_secs(60), true), (Duration::ZERO, false)] {
        let dir = tempfile::tempdir().unwrap();
        let (open, assets, operator) = with_slow_assets_at(dir.path(), Arc::new(FixedClock), fresh).await;
        let key = open.key(&retire().name.key).await.unwrap().unwrap();
        let kid = key.keyring.version(retire().name.version).unwrap().kid;
        let caller = Caller::new(Credential::Token(&operator)).unwrap();
        assert_eq!(open.execute(&caller, retire()).await.unwrap_err().code(), "still_counting");
        assert!(!open.counts.waits(&kid), "it goes on");
        assets.gate.add_permits(1);
        while open.counts.any_under_way() {
            tokio::task::yield_now().await;
        }
        assert_eq!(open.counts.waits(&kid), waits);
    }
}

/// How many records of an action have this code.
fn codes(open: &Unsealed, action: Action, code: &str) -> usize {
    let bodies = open.log().read(0, usize::try_from(open.log().size()).unwrap()).unwrap().into_iter();
    let records = bodies.map(|body| serde_json::from_slice::<Record>(&body.body).unwrap());
    records.filter(|record| record.action == action && record.code.as_deref() == Some(code)).count()
}

/// What a count took is not there for the write window: a request is refused, with a record, before its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_does_not_wait_for_a_window_beyond_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let (open, assets, operator) = with_slow_assets(dir.path()).await;
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let patch = DemandsPatch { write_window_seconds: Some(60), ..DemandsPatch::default() };
    open.execute(&caller, SetLabel { name: "internal".parse().unwrap(), patch }).await.unwrap();
    assets.gate.add_permits(1_000);
    loop {
        let caller = Caller::new(Credential::Token(&operator)).unwrap();
        let limit = Duration::from_secs(20);
        let done = tokio::time::timeout(limit, open.execute(&caller, retire())).await;
        let error = done.expect("it waits for a window that is open for longer than it may wait").unwrap_err();
        assert_eq!(outcomes(&open, caller.request), [Outcome::Refused]);
        if error.code() == "still_counting" {
            continue;
        }
        assert!(matches!(error, EngineError::WriteWindowOpen { seconds_left: 61 }), "{error}");
        break;
    }
}

/// Whoever looks at the key sees that a count is under way, and since when, as long as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_shows_the_count_of_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let (open, assets, operator) = with_slow_assets_at(dir.path(), clock.clone(), Duration::from_secs(60)).await;
    let name = retire().name.key;
    let shown = async || {
        let caller = Caller::new(Credential::Token(&operator)).unwrap();
        let key = open.execute(&caller, ShowKey { name: name.clone() }).await.unwrap();
        let list = ListKeys { app: None, after: None, limit: 10 };
        let listed = open.execute(&caller, list).await.unwrap().keys.remove(0);
        let since = |key: KeyView| key.versions.iter().map(|row| row.counting_since).collect::<Vec<_>>();
        let (shown, listed) = (since(key), since(listed));
        assert_eq!(shown, listed);
        shown
    };
    assert_eq!(shown().await, [None, None]);
    let began_at = open.now();
    let caller = Caller::new(Credential::Token(&operator)).unwrap();
    assert_eq!(open.execute(&caller, retire()).await.unwrap_err().code(), "still_counting");
    clock.pass(30);
    assert_eq!(shown().await, [Some(began_at), None]);
    assets.gate.add_permits(1);
    while open.counts.any_under_way() {
        tokio::task::yield_now().await;
    }
    assert_eq!(shown().await, [None, None]);
}

/// Assets whose count takes as long as a gate is closed.
struct GatedAssets(Semaphore);

#[async_trait]
impl AssetPort for GatedAssets {
    async fn evidence(&self, _: DataKeyId, _: Kid) -> Result<Vec<AssetEvidence>, EngineError> {
        self.0.acquire().await.unwrap().forget();
        Ok(Vec::new())
    }
}

/// A count goes on although its version turned and is counted anew: it reads tables as before, and takes its place.
#[tokio::test(flavor = "multi_thread")]
async fn counts_that_are_overtaken_take_their_place_until_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let (open, operator) =
        with_rotated_key(dir.path(), Arc::new(FixedClock), Duration::ZERO, Duration::from_secs(60)).await;
    let assets = Arc::new(GatedAssets(Semaphore::new(0)));
    open.set_assets(assets.clone());
    let show = async || {
        let caller = Caller::new(Credential::Token(&operator)).unwrap();
        open.execute(&caller, ShowEvidence { name: retire().name }).await.unwrap_err().code()
    };
    let turn = async |number: usize| {
        let caller = Caller::new(Credential::LocalOperator).unwrap();
        let name = retire().name;
        match number % 2 {
            0 => open.execute(&caller, SuspendVersion { name }).await.unwrap(),
            _ => open.execute(&caller, ResumeVersion { name }).await.unwrap(),
        }
    };
    for number in 0..COUNTS_MAX {
        assert_eq!(show().await, "still_counting", "{number}");
        turn(number).await;
    }
    assert_eq!(show().await, "too_many");
    // One that ends gives its place to the next, and only one.
    assets.0.add_permits(1);
    let given_back = async {
        while show().await == "too_many" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), given_back).await.expect("its place is given back");
    assert_eq!(show().await, "still_counting", "the same is joined");
    turn(COUNTS_MAX).await;
    assert_eq!(show().await, "too_many");
}

/// An asset in which a row under the version turns up after the first count.
#[derive(Default)]
struct LateRow(AtomicUsize);

#[async_trait]
impl AssetPort for LateRow {
    async fn evidence(&self, _: DataKeyId, _: Kid) -> Result<Vec<AssetEvidence>, EngineError> {
        let left = u64::from(self.0.fetch_add(1, Ordering::SeqCst) > 0);
        let census = Ok(AssetCount { left, damaged: 0 });
        Ok(vec![AssetEvidence { asset: "people".parse().unwrap(), census, open_campaign: None }])
    }
}

/// Until its window closes a ciphertext that was handed out before may be stored: a retirement that waits for that counts
/// again after it, and one that need not wait counts once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_within_the_write_window_is_counted() {
    for (window, counted, retired) in [(60, 2, false), (0, 1, true)] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SetClock::default());
        let wait = Duration::from_secs(60);
        let (open, _) = with_rotated_key(dir.path(), clock.clone(), wait, wait).await;
        let assets = Arc::new(LateRow::default());
        open.set_assets(assets.clone());
        let caller = Caller::new(Credential::LocalOperator).unwrap();
        let patch = DemandsPatch { write_window_seconds: Some(window), ..DemandsPatch::default() };
        open.execute(&caller, SetLabel { name: "internal".parse().unwrap(), patch }).await.unwrap();
        let retiring = tokio::spawn({
            let open = open.clone();
            async move { open.execute(&Caller::new(Credential::LocalOperator).unwrap(), retire()).await }
        });
        while assets.0.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        clock.pass(61);
        while !retiring.is_finished() {
            open.tell_time_passed();
            tokio::task::yield_now().await;
        }
        let code = retiring.await.unwrap().map_err(|error| error.code());
        assert_eq!(code.is_ok(), retired, "{window} s");
        assert_eq!(code.err().unwrap_or("retire_blocked"), "retire_blocked");
        assert_eq!(assets.0.load(Ordering::SeqCst), counted, "{window} s");
    }
}
