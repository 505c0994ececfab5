//! Running a campaign: page after page, resumable, until a census finds nothing left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyrail_core::access::Action;
use keyrail_core::asset::{Asset, AssetState};
use keyrail_core::campaign::{Campaign, CampaignCounts, CampaignEvent, CampaignKind, CampaignState, transition};
use keyrail_core::id::{CampaignId, RequestId};
use keyrail_core::name::KeyName;
use keyrail_core::record::{
    Detail, Origin, Outcome as RecordOutcome, RECORD_FORMAT, Record, RecordDecision, RecordKind, VersionUse,
};
use keyrail_crypto::random;
use keyrail_engine::{EngineError, Unsealed};
use keyrail_store::Change;
use tokio::runtime::Handle;

use crate::adapter::{self, AssetAdapter, AssetSpec};
use crate::cells::Goal;
use crate::census::{self, Accepted, Census};
use crate::cursor;
use crate::error::AssetError;
use crate::keyset::Keyset;
use crate::mover::{AboutTo, PageDone, move_page};
use crate::value::Sql;

/// How many rows are one page, and one transaction of the application's database.
const PAGE_ROWS: usize = 500;

/// How often the place in the table is stored; a crash repeats what came after it, which changes nothing.
const CURSOR_INTERVAL: Duration = Duration::from_millis(500);

/// How often a table is walked before a campaign gives up on writers that bring plaintext faster than it is found.
const PASSES_MAX: u32 = 20;

/// How often a page is tried again because keys or policy changed under it.
const ATTEMPTS_MAX: u32 = 20;

/// The longest pause that a rate makes at once, so that a stop is noticed.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Tells a running campaign to stop after its page.
#[derive(Clone, Default)]
pub struct Stop(Arc<Asked>);

#[derive(Default)]
struct Asked {
    stop: AtomicBool,
    keep_running: AtomicBool,
}

impl Stop {
    /// Asks it to pause.
    pub fn pause(&self) {
        self.0.stop.store(true, Ordering::Release);
    }

    /// Asks it to end for now: its state stays "running", and whoever opens the store next goes on with it.
    pub fn shut_down(&self) {
        self.0.keep_running.store(true, Ordering::Release);
        self.pause();
    }

    /// Whether it was asked to end.
    pub fn is_set(&self) -> bool {
        self.0.stop.load(Ordering::Acquire)
    }

    fn keeps_running(&self) -> bool {
        self.0.keep_running.load(Ordering::Acquire)
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The campaign, as it is stored now.
    pub campaign: Campaign,
    /// The census at the end, if it came so far.
    pub census: Option<Census>,
}

/// What a run is told by whoever started it.
pub struct Run {
    /// The opened store.
    pub open: Arc<Unsealed>,
    /// The campaign.
    pub id: CampaignId,
    /// Asks it to stop.
    pub stop: Stop,
    /// Hears how far it is, after each page.
    pub progress: Box<dyn Fn(&Campaign) + Send>,
}

impl Run {
    /// Runs the campaign on a thread for blocking work, until it ends, is paused or fails.
    ///
    /// # Errors
    /// [`EngineError`]; what the asset failed with is also stored with the campaign, which can be resumed.
    pub async fn run(self) -> Result<Outcome, EngineError> {
        let handle = Handle::current();
        let joined =
            tokio::task::spawn_blocking(move || Walk::begin(self, handle).and_then(|mut walk| walk.run())).await;
        joined.map_err(|_| EngineError::Bug { what: "a campaign ended by a panic" })?
    }
}

/// What a page ended with.
enum Step {
    Go,
    End(CampaignState),
}

struct Walk {
    open: Arc<Unsealed>,
    handle: Handle,
    stop: Stop,
    progress: Box<dyn Fn(&Campaign) + Send>,
    campaign: Campaign,
    asset: Asset,
    key: KeyName,
    spec: AssetSpec,
    keys: Keyset,
    adapter: Box<dyn AssetAdapter>,
    place: Option<Vec<Sql>>,
    stored_at: Instant,
    began: Instant,
    rows_this_run: u64,
    moved_this_pass: u64,
    /// Whether the campaign or its key changed in the store: that is looked at before the next page.
    changed: bool,
}

impl Walk {
    fn begin(run: Run, handle: Handle) -> Result<Self, EngineError> {
        let (open, id) = (run.open.clone(), run.id);
        let absent = || EngineError::NotFound { what: "campaign", name: id.to_string() };
        let campaign = handle.block_on(open.state().campaign(&id))?.ok_or_else(absent)?;
        Self::of(run, handle.clone(), campaign.clone()).or_else(|error| {
            open.still_open()?;
            store_failure(&open, &handle, campaign, &error)?;
            Err(error)
        })
    }

    fn of(run: Run, handle: Handle, campaign: Campaign) -> Result<Self, EngineError> {
        let Run { open, id, stop, progress } = run;
        let state = open.state().clone();
        let absent = |what| move || EngineError::NotFound { what, name: id.to_string() };
        let asset = handle.block_on(state.asset(&campaign.asset))?.ok_or_else(absent("asset of campaign"))?;
        let columns = handle.block_on(state.columns_of(&asset.id))?;
        let data_key = handle.block_on(state.data_key(&asset.key))?.ok_or_else(absent("key of campaign"))?;
        let key = handle.block_on(state.key_name(&data_key))?;
        let keys = handle.block_on(Keyset::load(&open, &key))?;
        let named = |error: AssetError| error.into_engine(asset.name.as_str());
        let spec = AssetSpec::of(&asset, &columns).map_err(named)?;
        let place = campaign.cursor.as_deref().and_then(cursor::decode);
        let adapter = adapter::open(&spec).map_err(named)?;
        let now = Instant::now();
        Ok(Self {
            open,
            handle,
            stop,
            progress,
            campaign,
            asset,
            key,
            spec,
            keys,
            adapter,
            place,
            stored_at: now,
            began: now,
            rows_this_run: 0,
            moved_this_pass: 0,
            changed: false,
        })
    }

    fn run(&mut self) -> Result<Outcome, EngineError> {
        loop {
            match self.walk() {
                Ok(outcome) => {
                    if !self.resumed()? {
                        return Ok(outcome);
                    }
                }
                Err(error) => {
                    // Of a store that was closed the campaign runs on as soon as it is open again.
                    self.open.still_open()?;
                    store_failure(&self.open, &self.handle, self.campaign.clone(), &error)?;
                    return Err(error);
                }
            }
        }
    }

    /// Whether somebody resumed the campaign while it was pausing for somebody: then it goes on here.
    fn resumed(&mut self) -> Result<bool, EngineError> {
        if self.stop.is_set() || self.campaign.state != CampaignState::Paused {
            return Ok(false);
        }
        let stored = self.handle.block_on(self.open.state().campaign(&self.campaign.id))?;
        let Some(stored) = stored.filter(|stored| stored.state == CampaignState::Running) else { return Ok(false) };
        self.keys = self.handle.block_on(Keyset::load(&self.open, &self.key))?;
        self.place = stored.cursor.as_deref().and_then(cursor::decode);
        self.campaign = stored;
        Ok(true)
    }

    fn walk(&mut self) -> Result<Outcome, EngineError> {
        self.retarget()?;
        if self.place.is_none() {
            begin_pass(&mut self.campaign.counts);
        }
        if self.campaign.counts.rows_total == 0 {
            self.campaign.counts.rows_total = self.adapter.inspect().map_err(|error| self.named(error))?.rows;
        }
        loop {
            if let Step::End(state) = self.pass()? {
                return self.interrupted(state);
            }
            self.campaign.counts.passes += 1;
            let census = match self.census()? {
                Some(census) => census,
                None => return self.interrupted(CampaignState::Paused),
            };
            let target = self.campaign.target;
            let left = census.left(target.as_ref());
            let again = left > 0
                && self.campaign.counts.passes < PASSES_MAX
                && self.moved_this_pass + closed(&census, &self.keys, left) > 0;
            if !again {
                return self.finish(census, left);
            }
            self.place = None;
            self.moved_this_pass = 0;
            begin_pass(&mut self.campaign.counts);
        }
    }

    /// Walks over the table once, from the stored place to the end.
    fn pass(&mut self) -> Result<Step, EngineError> {
        let mut attempts = 0;
        loop {
            self.open.still_open()?;
            if self.stop.is_set() {
                return Ok(Step::End(CampaignState::Paused));
            }
            if let Step::End(state) = self.follow_state()? {
                return Ok(Step::End(state));
            }
            let started = Instant::now();
            let page = match self.page() {
                // Keys, policy or the campaign changed between reading them and committing under them.
                Err(AssetError::Before(error))
                    if matches!(*error, EngineError::Contended) && attempts < ATTEMPTS_MAX =>
                {
                    attempts += 1;
                    self.changed = true;
                    continue;
                }
                page => page.map_err(|error| self.named(error))?,
            };
            attempts = 0;
            self.account(&page, started);
            (self.progress)(&self.campaign);
            let last = page.next.is_none();
            self.place = page.next;
            if last || self.stored_at.elapsed() >= CURSOR_INTERVAL {
                self.store_place()?;
            }
            if last {
                return Ok(Step::Go);
            }
            self.keep_rate();
        }
    }

    fn page(&mut self) -> Result<PageDone, AssetError> {
        let Self { adapter, spec, keys, campaign, asset, place, handle, open, .. } = self;
        let goal = match campaign.target {
            Some(_) => Goal::Under(keys.active().map_err(|error| AssetError::Before(Box::new(error)))?),
            None => Goal::Plaintext,
        };
        let limit = campaign
            .rows_per_second_max
            .map_or(PAGE_ROWS, |rate| usize::try_from(rate).unwrap_or(PAGE_ROWS).clamp(1, PAGE_ROWS));
        let generation = keys.generation;
        let now = open.now();
        let place = place.as_deref();
        let mut record = |about: AboutTo| {
            if about.encrypted > 0 && !campaign.scrub_due {
                // Before the page is committed: whoever ends the campaign knows of it, if this process is killed.
                let cursor = place.map(cursor::encode);
                let next = Campaign { scrub_due: true, cursor, updated_at: now, ..campaign.clone() };
                *campaign = store(open, handle, next)?.ok_or(EngineError::Contended)?;
            }
            let record = page_record(campaign, asset, keys, about, now)?;
            handle.block_on(open.append_record(&record, generation))
        };
        move_page(adapter.as_mut(), spec, keys, goal, place, limit, &mut record)
    }

    /// A campaign always works towards the active version; if the key turned meanwhile, it begins anew.
    fn retarget(&mut self) -> Result<(), EngineError> {
        let Some(target) = self.campaign.target else { return Ok(()) };
        let active = *self.keys.active()?.kid;
        if active != target {
            self.campaign.target = Some(active);
            begin_pass(&mut self.campaign.counts);
            self.place = None;
        }
        Ok(())
    }

    /// Whether somebody paused the campaign or turned it around.
    fn follow_state(&mut self) -> Result<Step, EngineError> {
        if !std::mem::take(&mut self.changed) && self.open.generation() == self.keys.generation {
            return Ok(Step::Go);
        }
        let stored = self.handle.block_on(self.open.state().campaign(&self.campaign.id))?;
        let stored = stored.ok_or(EngineError::Bug { what: "a campaign vanished" })?;
        if stored.state != CampaignState::Running {
            let state = stored.state;
            // What was done since the place was stored last is not done again.
            self.campaign = Campaign { counts: self.campaign.counts, ..stored };
            self.store_place()?;
            return Ok(Step::End(state));
        }
        if stored.generation != self.campaign.generation {
            self.place = stored.cursor.as_deref().and_then(cursor::decode);
            self.campaign = Campaign { counts: self.campaign.counts, ..stored };
            if self.place.is_none() {
                begin_pass(&mut self.campaign.counts);
            }
        }
        self.keys = self.handle.block_on(Keyset::load(&self.open, &self.key))?;
        self.retarget()?;
        Ok(Step::Go)
    }

    fn account(&mut self, page: &PageDone, started: Instant) {
        let counts = &mut self.campaign.counts;
        counts.rows += page.rows;
        counts.cells_moved += page.moved;
        counts.cas_lost += page.lost;
        counts.damaged += page.damaged;
        counts.bytes += page.bytes;
        counts.busy_millis += u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.rows_this_run += page.rows;
        self.moved_this_pass += page.moved + page.lost;
    }

    fn store_place(&mut self) -> Result<(), EngineError> {
        self.campaign.cursor = self.place.as_deref().map(cursor::encode);
        self.campaign.updated_at = self.open.now();
        match store(&self.open, &self.handle, self.campaign.clone())? {
            Some(stored) => {
                self.campaign = stored;
                self.stored_at = Instant::now();
            }
            None => self.changed = true,
        }
        Ok(())
    }

    fn keep_rate(&self) {
        let Some(rate) = self.campaign.rows_per_second_max.filter(|rate| *rate > 0) else { return };
        let due = Duration::from_secs_f64(self.rows_this_run as f64 / f64::from(rate));
        let goes_on =
            || !self.stop.is_set() && self.open.still_open().is_ok() && self.open.generation() == self.keys.generation;
        while self.began.elapsed() < due && goes_on() {
            std::thread::park_timeout(due.saturating_sub(self.began.elapsed()).min(PAUSE_MAX));
        }
    }

    fn census(&mut self) -> Result<Option<Census>, EngineError> {
        let accepted = self.handle.block_on(self.open.state().accepted_of(&self.asset.id))?;
        let (stop, open) = (self.stop.clone(), self.open.clone());
        let taken = census::take(self.adapter.as_mut(), &self.spec, &self.keys, &Accepted::of(&accepted), &mut |_| {
            !stop.is_set() && open.still_open().is_ok()
        });
        taken.map_err(|error| self.named(error))
    }

    /// Stores that the campaign waits for somebody to resume it, or leaves it to who changed its state.
    fn interrupted(&mut self, state: CampaignState) -> Result<Outcome, EngineError> {
        self.open.still_open()?;
        if self.stop.keeps_running() {
            self.store_place()?;
        } else if self.campaign.state == CampaignState::Running && state == CampaignState::Paused {
            self.end(CampaignEvent::Pause, Vec::new(), None)?;
        }
        Ok(Outcome { campaign: self.campaign.clone(), census: None })
    }

    fn finish(&mut self, census: Census, left: u64) -> Result<Outcome, EngineError> {
        let mut left_in_files = Vec::new();
        if self.campaign.is_scrub_due() {
            left_in_files = self.adapter.scrub().map_err(|error| self.named(error))?.left;
            self.campaign.not_scrubbed.clone_from(&left_in_files);
            self.campaign.scrub_due = false;
        }
        let whole = left == 0 && census.damaged == 0;
        let event = if whole { CampaignEvent::Complete } else { CampaignEvent::FindLeft };
        let mut detail = census_detail(&census, &self.keys);
        detail.extend(left_in_files.into_iter().map(|value| Detail { name: "not-scrubbed".to_owned(), value }));
        self.campaign.error_code =
            (!whole).then(|| if census.damaged > 0 { "damaged_left" } else { "values_left" }.to_owned());
        self.place = None;
        self.end(event, detail, whole.then(|| asset_state(self.campaign.kind)))?;
        Ok(Outcome { campaign: self.campaign.clone(), census: Some(census) })
    }

    fn end(&mut self, event: CampaignEvent, detail: Vec<Detail>, asset: Option<AssetState>) -> Result<(), EngineError> {
        let now = self.open.now();
        let mut next = Campaign { generation: self.campaign.generation + 1, updated_at: now, ..self.campaign.clone() };
        next.state = transition(next.state, event)?;
        next.cursor = self.place.as_deref().map(cursor::encode);
        next.finished_at = (event == CampaignEvent::Complete).then_some(now);
        let mut change = Change::new();
        change.update(&next);
        if let Some(state) = asset.filter(|state| *state != self.asset.state) {
            self.asset = Asset { state, updated_at: now, generation: self.asset.generation + 1, ..self.asset.clone() };
            change.update(&self.asset);
        }
        let record = end_record(&next, &self.asset, detail, now)?;
        self.handle.block_on(self.open.commit_background(change, &record))?;
        self.campaign = next;
        Ok(())
    }

    fn named(&self, error: AssetError) -> EngineError {
        error.into_engine(self.asset.name.as_str())
    }
}

/// Stores what a campaign knows of itself; `None` if somebody paused it or turned it around meanwhile.
fn store(open: &Arc<Unsealed>, handle: &Handle, campaign: Campaign) -> Result<Option<Campaign>, EngineError> {
    let next = Campaign { generation: campaign.generation + 1, ..campaign };
    let mut change = Change::new();
    change.update(&next);
    match handle.block_on(open.commit_unrecorded(change.unrecorded("the records of the pages say it all"))) {
        Ok(()) => Ok(Some(next)),
        Err(EngineError::Store(keyrail_store::StoreError::Conflict { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is counted of one walk over the table begins anew with the next one.
const fn begin_pass(counts: &mut CampaignCounts) {
    counts.rows = 0;
    counts.damaged = 0;
}

const fn asset_state(kind: CampaignKind) -> AssetState {
    match kind {
        CampaignKind::Unprotect => AssetState::Registered,
        CampaignKind::Protect | CampaignKind::Reencrypt | CampaignKind::Rollback => AssetState::Protected,
    }
}

/// How many of the cells that are left could move in another pass: those under closed versions cannot.
fn closed(census: &Census, keys: &Keyset, left: u64) -> u64 {
    use crate::cells::{Keys, Known};
    let closed: u64 = census
        .cells
        .iter()
        .filter(|(kid, _)| matches!(keys.known(kid), Ok(Known::Unusable)))
        .map(|(_, count)| count)
        .sum();
    left.saturating_sub(closed)
}

/// What the record of a campaign's end says of the census.
pub(crate) fn census_detail(census: &Census, keys: &Keyset) -> Vec<Detail> {
    let detail = |name: String, value: u64| Detail { name, value: value.to_string() };
    let versions = keys.keyring().versions.iter();
    let counted =
        versions.map(|row| detail(format!("census@{}", row.version), census.cells.get(&row.kid).copied().unwrap_or(0)));
    let others = [
        ("plaintext", census.plaintext),
        ("damaged", census.damaged),
        ("accepted-damaged", census.accepted),
        ("rows", census.rows),
    ];
    counted.chain(others.map(|(name, value)| detail(name.to_owned(), value))).collect()
}

const fn action_of(kind: CampaignKind) -> Action {
    match kind {
        CampaignKind::Protect => Action::AssetProtect,
        CampaignKind::Reencrypt => Action::CampaignStart,
        CampaignKind::Rollback => Action::CampaignRollback,
        CampaignKind::Unprotect => Action::AssetUnprotect,
    }
}

fn record(campaign: &Campaign, asset: &Asset, now: keyrail_core::time::Timestamp) -> Result<Record, EngineError> {
    Ok(Record {
        v: RECORD_FORMAT,
        id: RequestId::from_bytes(random::array()?),
        time: now,
        kind: RecordKind::Operation,
        principal: campaign.resumed_by.as_ref().unwrap_or(&campaign.started_by).clone(),
        session: None,
        action: action_of(campaign.kind),
        resource: Some(format!("campaign {}", campaign.id)),
        versions: Vec::new(),
        asset: Some(asset.name.to_string()),
        origin: Origin::default(),
        decision: RecordDecision::Allow,
        reason: match campaign.resumed_by {
            Some(_) => "the campaign was allowed when it was resumed",
            None => "the campaign was allowed when it was started",
        }
        .to_owned(),
        outcome: RecordOutcome::Done,
        code: None,
        items: None,
        failed: None,
        detail: Vec::new(),
        state: None,
    })
}

fn page_record(
    campaign: &Campaign,
    asset: &Asset,
    keys: &Keyset,
    about: AboutTo,
    now: keyrail_core::time::Timestamp,
) -> Result<Record, EngineError> {
    let used = |kid, count, opened| {
        let row = keys.keyring().by_kid(&kid)?;
        Some(VersionUse { version: row.version, kid, count, opened })
    };
    let under = campaign.target.and_then(|kid| used(kid, about.cells, false));
    let opened = about.opened.iter().filter_map(|(kid, count)| used(*kid, *count, true));
    let versions = under.into_iter().chain(opened).collect();
    Ok(Record { versions, items: Some(about.rows as u64), ..record(campaign, asset, now)? })
}

fn end_record(
    campaign: &Campaign,
    asset: &Asset,
    mut detail: Vec<Detail>,
    now: keyrail_core::time::Timestamp,
) -> Result<Record, EngineError> {
    detail.insert(0, Detail { name: "state".to_owned(), value: campaign.state.to_string() });
    Ok(Record { detail, code: campaign.error_code.clone(), ..record(campaign, asset, now)? })
}

/// Stores that a campaign stopped and why, so that it can be resumed where it was.
fn store_failure(
    open: &Arc<Unsealed>,
    handle: &Handle,
    campaign: Campaign,
    error: &EngineError,
) -> Result<(), EngineError> {
    let now = open.now();
    let stored = handle.block_on(open.state().campaign(&campaign.id))?.unwrap_or_else(|| campaign.clone());
    let Ok(state) = transition(stored.state, CampaignEvent::Fail) else { return Ok(()) };
    let next = Campaign {
        state,
        counts: campaign.counts,
        error_code: Some(error.code().to_owned()),
        updated_at: now,
        generation: stored.generation + 1,
        ..stored
    };
    let asset =
        handle.block_on(open.state().asset(&next.asset))?.ok_or(EngineError::Bug { what: "an asset vanished" })?;
    let record = Record { outcome: RecordOutcome::Failed, ..end_record(&next, &asset, Vec::new(), now)? };
    let mut change = Change::new();
    change.update(&next);
    handle.block_on(open.commit_background(change, &record))
}
