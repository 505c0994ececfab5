//! Assets in PostgreSQL databases.
//!
//! A page is read in one statement, and written in one short transaction at READ COMMITTED: no transaction of ours is
//! ever older than one page, so that vacuum is not held up. Before a campaign the table is looked at in pieces for the
//! same reason; only whether named columns tell rows apart, where no index says so, is one statement over the whole. A
//! row that somebody else has locked is waited for only while nothing of ours is locked.

mod failure;
mod fit;
mod pages;
mod pieces;
mod probe;
mod scrub;
mod session;
mod table;
mod url;
mod wire;
mod write;

use std::time::{Duration, Instant};

use crate::adapter::{AssetAdapter, AssetSpec, BeforeCommit, Fit, Page, RowUpdate, Scrubbed};
use crate::cells::Goal;
use crate::error::AssetError;
use crate::value::Sql;
use failure::is_away;
use session::Session;
use table::{Column, Table, signature};
pub(crate) use url::Place;
use write::How;

/// How long a lock of others is waited for while rows of ours are locked, in milliseconds. Below the second after which
/// PostgreSQL looks for deadlocks: it would end the transaction of whoever waits longest, and that would be theirs.
const LOCK_MILLIS_MAX: u64 = 200;

/// How long locks of others may last before that is an error, in milliseconds.
const BUSY_MILLIS_MAX: u64 = 10_000;

/// How often a page is read again because the server went away meanwhile.
const READS_MAX: u32 = 3;

/// An asset's table in a PostgreSQL database.
pub(crate) struct PgAsset {
    session: Session,
    place: Place,
    spec: AssetSpec,
    table: Table,
    /// The columns of the row identity, in their order.
    identity: Vec<Column>,
    /// Whether what is written is taken back, and new values may not even be tried.
    held_back: bool,
    /// How many rows a page is asked for at most: values that make short pages are measured, and not each many times.
    width: usize,
}

impl PgAsset {
    /// Opens the table of an asset.
    ///
    /// # Errors
    /// [`AssetError::BadUrl`], [`AssetError::Unreachable`], [`AssetError::Login`], [`AssetError::Absent`].
    pub(crate) fn open(spec: &AssetSpec) -> Result<Self, AssetError> {
        let place = Place::parse(&spec.url)?;
        let mut session = Session::open(&place)?;
        let table = Table::read(&mut session, spec.schema.as_deref(), &spec.table)?;
        let identity = table.identity_columns(spec)?;
        Ok(Self { session, place, spec: spec.clone(), table, identity, held_back: false, width: usize::MAX })
    }

    /// A table that changed is looked at again: what the asset needs must still be there.
    fn follow_table(&mut self) -> Result<(), AssetError> {
        let found = signature(&mut self.session, &self.table.schema, &self.table.name)?;
        if found.as_ref() == Some(&self.table.signature) {
            return Ok(());
        }
        let changed = |error| match error {
            AssetError::Absent { what, name } => {
                AssetError::Changed { problem: format!("there is no {what} `{name}` any more") }
            }
            other => other,
        };
        // Statements that were prepared for the table as it was may not run any more.
        self.session.drop_connection();
        self.session.ensure()?;
        let schema = self.table.schema.clone();
        let table = Table::read(&mut self.session, Some(&schema), &self.spec.table).map_err(changed)?;
        let identity = table.identity_columns(&self.spec).map_err(changed)?;
        if table.key != self.table.key || identity != self.identity {
            return Err(AssetError::Changed { problem: "it has another primary key".to_owned() });
        }
        self.table = table;
        Ok(())
    }

    fn read_page(&mut self, after: Option<&[Sql]>, limit: usize) -> Result<Page, AssetError> {
        self.session.ensure()?;
        self.follow_table()?;
        if self.table.key.is_empty() {
            return Err(AssetError::Changed { problem: "it has no primary key any more".to_owned() });
        }
        let limit = limit.min(self.width);
        let page = pages::page(&mut self.session, &self.table, &self.identity, &self.spec, after, limit)?;
        let is_cut = page.more && page.rows.len() < limit;
        self.width = if is_cut { page.rows.len().max(1) } else { limit }.saturating_mul(2);
        Ok(page)
    }

    /// Begins a transaction and writes in it, without a commit.
    fn begin(&mut self, updates: &[RowUpdate], careful: bool, deadline: Instant) -> Result<Vec<bool>, AssetError> {
        self.session.ensure()?;
        self.session.execute("BEGIN")?;
        let mut written =
            if careful { self.write_what_is_free(updates, deadline)? } else { self.apply(updates, How::Write)? };
        // From here on the table is locked against changes of its definition.
        let found = signature(&mut self.session, &self.table.schema, &self.table.name)?;
        if found.as_ref() != Some(&self.table.signature) {
            return Err(AssetError::Moved);
        }
        if self.table.triggers {
            self.write_what_was_left(updates, &mut written)?;
            self.check_written(updates, &written)?;
        }
        Ok(written)
    }

    /// What was not written was written by somebody else, or a trigger takes it back: then it is not written either while
    /// the row is locked with its old values in it.
    fn write_what_was_left(&mut self, updates: &[RowUpdate], written: &mut [bool]) -> Result<(), AssetError> {
        let left: Vec<(usize, RowUpdate)> = updates
            .iter()
            .enumerate()
            .filter(|(at, _)| written.get(*at) == Some(&false))
            .map(|(at, update)| (at, update.clone()))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        let rows: Vec<RowUpdate> = left.iter().map(|(_, update)| update.clone()).collect();
        let locked = self.apply(&rows, How::Lock)?;
        let (places, ours): (Vec<usize>, Vec<RowUpdate>) =
            left.into_iter().zip(locked).filter(|(_, locked)| *locked).map(|(left, _)| left).unzip();
        let done = self.apply(&ours, How::Write)?;
        for ((at, update), done) in places.into_iter().zip(&ours).zip(done) {
            if !done {
                return Err(AssetError::Altered { row: update.name.clone() });
            }
            if let Some(written) = written.get_mut(at) {
                *written = true;
            }
        }
        Ok(())
    }

    fn apply(&mut self, updates: &[RowUpdate], how: How) -> Result<Vec<bool>, AssetError> {
        write::apply(&mut self.session, &self.table, &self.identity, &self.spec, updates, how)
    }

    /// Leaves out the rows that others have locked: they count as written by others, and are tried again. If all are
    /// locked, the first is waited for, with nothing of ours locked meanwhile.
    fn write_what_is_free(&mut self, updates: &[RowUpdate], deadline: Instant) -> Result<Vec<bool>, AssetError> {
        let mut free = self.apply(updates, How::Lock)?;
        if let (false, Some(first)) = (free.contains(&true), updates.get(..1)) {
            let wait = deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
            self.session.execute(&format!("SET LOCAL lock_timeout = {wait}"))?;
            free = self.apply(first, How::Wait)?;
            // From here on a row of ours is locked.
            self.session.execute(&format!("SET LOCAL lock_timeout = {LOCK_MILLIS_MAX}"))?;
        }
        let chosen: Vec<RowUpdate> =
            updates.iter().zip(&free).filter(|(_, free)| **free).map(|(update, _)| update.clone()).collect();
        let mut done = self.apply(&chosen, How::Write)?.into_iter();
        free.resize(updates.len(), false);
        Ok(free.into_iter().map(|free| free && done.next().unwrap_or(false)).collect())
    }

    /// Reads back what was just written: a trigger may have changed it.
    fn check_written(&mut self, updates: &[RowUpdate], written: &[bool]) -> Result<(), AssetError> {
        let ours: Vec<RowUpdate> =
            updates.iter().zip(written).filter(|(_, written)| **written).map(|(update, _)| update.clone()).collect();
        let kept = self.apply(&ours, How::Compare)?;
        match ours.iter().zip(kept).find(|(_, kept)| !kept) {
            Some((altered, _)) => Err(AssetError::Altered { row: altered.name.clone() }),
            None => Ok(()),
        }
    }

    /// Names the row that a constraint refused: each is tried for itself, and taken back.
    fn named(&mut self, updates: &[RowUpdate], refused: AssetError) -> AssetError {
        let refused = match (refused, updates.first()) {
            (AssetError::Constraint { source, .. }, Some(first)) => {
                AssetError::Constraint { row: format!("{} or one after it in its page", first.name), source }
            }
            (other, _) => other,
        };
        for update in updates {
            let tried =
                self.session.execute("BEGIN").and_then(|()| self.apply(std::slice::from_ref(update), How::Write));
            let _reported_by_what_follows = self.session.execute("ROLLBACK");
            match tried {
                Ok(_) => {}
                Err(AssetError::Constraint { source, .. }) => {
                    return AssetError::Constraint { row: update.name.clone(), source };
                }
                Err(_) => return refused,
            }
        }
        refused
    }

    /// Opens a transaction with the updates in it, as often as locks of others and the deadline allow.
    fn begin_in_time(&mut self, updates: &[RowUpdate]) -> Result<Vec<bool>, AssetError> {
        let deadline = Instant::now() + Duration::from_millis(BUSY_MILLIS_MAX);
        let mut careful = false;
        loop {
            let error = match self.begin(updates, careful, deadline) {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            let _broken_off_anyway = self.session.execute("ROLLBACK");
            match error {
                AssetError::Busy(_) | AssetError::Collided(_) if Instant::now() < deadline => careful = true,
                // Nothing was written: the rows are read again, once the server is back.
                error if is_away(&error) => return Err(AssetError::Moved),
                AssetError::Constraint { .. } => return Err(self.named(updates, error)),
                error => return Err(error),
            }
        }
    }
}

impl AssetAdapter for PgAsset {
    fn inspect(&mut self) -> Result<Fit, AssetError> {
        let Self { session, place, spec, table, identity, .. } = self;
        session.at_leisure(|session| fit::inspect(session, place, spec, table, identity))
    }

    fn page(&mut self, after: Option<&[Sql]>, limit: usize) -> Result<Page, AssetError> {
        let deadline = Instant::now() + Duration::from_millis(BUSY_MILLIS_MAX);
        let mut reads = 1;
        loop {
            match self.read_page(after, limit) {
                Err(AssetError::Busy(_) | AssetError::Collided(_)) if Instant::now() < deadline => {}
                Err(AssetError::Moved) if reads < READS_MAX => {
                    reads += 1;
                    self.session.drop_connection();
                }
                Err(error) if is_away(&error) && reads < READS_MAX => reads += 1,
                done => return done,
            }
        }
    }

    fn hold_back(&mut self, goal: Goal<'_>) -> Result<(), AssetError> {
        // What a transaction writes is in the table's file and in the log even if it is taken back.
        self.held_back = matches!(goal, Goal::Plaintext);
        Ok(())
    }

    fn write(&mut self, updates: &[RowUpdate], before_commit: &mut BeforeCommit<'_>) -> Result<Vec<bool>, AssetError> {
        let held_back = self.held_back.then(|| unchanged(updates));
        let written = self.begin_in_time(held_back.as_deref().unwrap_or(updates))?;
        if let Err(error) = before_commit(&written) {
            let _broken_off_anyway = self.session.execute("ROLLBACK");
            return Err(AssetError::Before(Box::new(error)));
        }
        match self.session.execute("COMMIT") {
            Ok(()) => Ok(written),
            // Whether it was committed is not known, and does not matter: the rows are read again.
            Err(error) if is_away(&error) => Err(AssetError::Moved),
            // What a constraint that is checked at the end refuses has no row.
            Err(error) => {
                let _broken_off_anyway = self.session.execute("ROLLBACK");
                Err(if matches!(error, AssetError::Constraint { .. }) { self.named(updates, error) } else { error })
            }
        }
    }

    fn scrub(&mut self) -> Result<Scrubbed, AssetError> {
        self.session.ensure()?;
        self.follow_table()?;
        let Self { session, table, spec, .. } = self;
        session.at_leisure(|session| scrub::scrub(session, table, spec))
    }
}

/// The same updates with the old values in place of the new ones.
fn unchanged(updates: &[RowUpdate]) -> Vec<RowUpdate> {
    let mut updates = updates.to_vec();
    for change in updates.iter_mut().flat_map(|update| &mut update.changes) {
        change.new = change.old.clone();
    }
    updates
}
