//! One page of a campaign: read, seal, open again, write by compare-and-swap.

use std::collections::BTreeMap;

use keyrail_crypto::envelope::Kid;
use keyrail_engine::EngineError;

use crate::adapter::{AssetAdapter, AssetSpec, ColumnUpdate, Page, RowUpdate};
use crate::cells::{CellState, Goal, Keys, Worked, row_name, work};
use crate::error::AssetError;
use crate::parallel::map;
use crate::value::Sql;

/// How often the rows of a page that somebody else wrote meanwhile are tried again at once; after that a
/// later pass gets them.
const ROUNDS_MAX: u32 = 5;

/// What became of a page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PageDone {
    /// Rows that were looked at.
    pub rows: u64,
    /// Cells that moved.
    pub moved: u64,
    /// Rows that somebody else wrote between our reading and writing.
    pub lost: u64,
    /// Cells that do not open.
    pub damaged: u64,
    /// Bytes of plaintext that went through.
    pub bytes: u64,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Vec<Sql>>,
}

/// What is about to be committed, for the record of it.
#[derive(Clone, Debug, Default)]
pub struct AboutTo {
    /// Cells that move.
    pub cells: u64,
    /// Cells that move and were plaintext before.
    pub encrypted: u64,
    /// Rows that change.
    pub rows: usize,
    /// Cells by the version that opened them.
    pub opened: BTreeMap<Kid, u64>,
}

/// Moves the rows of one page.
///
/// # Errors
/// What the adapter or `before_commit` fails with; then nothing of the last round is written.
pub fn move_page(
    adapter: &mut dyn AssetAdapter,
    spec: &AssetSpec,
    keys: &dyn Keys,
    goal: Goal<'_>,
    after: Option<&[Sql]>,
    limit: usize,
    before_commit: &mut dyn FnMut(AboutTo) -> Result<(), EngineError>,
) -> Result<PageDone, AssetError> {
    let mut done = PageDone::default();
    for round in 1..=ROUNDS_MAX {
        let page = adapter.page(after, limit)?;
        let worked = map(&page.rows, |row| work(spec, row, keys, goal)).into_iter().collect::<Result<Vec<_>, _>>()?;
        done.rows = page.rows.len() as u64;
        done.damaged = worked.iter().flat_map(|row| &row.cells).filter(|cell| is_damaged(cell.state)).count() as u64;
        done.next = if page.more { page.rows.last().map(|row| row.key.clone()) } else { None };
        let (updates, moving) = updates(&page, worked);
        if updates.is_empty() {
            break;
        }
        let written = match adapter.write(&updates, &mut |written| before_commit(about_to(&moving, written))) {
            Err(AssetError::Moved) if round < ROUNDS_MAX => continue,
            written => written?,
        };
        let mut lost = 0;
        for (row, written) in moving.into_iter().zip(written) {
            if written {
                done.moved += row.cells;
                done.bytes += row.bytes;
            } else {
                lost += 1;
            }
        }
        done.lost += lost;
        if lost == 0 {
            break;
        }
    }
    Ok(done)
}

/// What a rehearsal of one page showed.
#[derive(Debug, Default)]
pub struct Rehearsed {
    /// Rows that were looked at.
    pub rows: u64,
    /// Bytes of plaintext that went through.
    pub bytes: u64,
    /// Why the table would refuse the values, if it would.
    pub refused: Option<AssetError>,
}

/// Moves the rows of the first page and takes all of it back before the commit, to see how long it takes and
/// whether the table lets it. Nothing of it reaches a file: the values may be plaintext.
///
/// # Errors
/// What the adapter fails with, other than by refusing the values.
pub fn rehearse(
    adapter: &mut dyn AssetAdapter,
    spec: &AssetSpec,
    keys: &dyn Keys,
    goal: Goal<'_>,
    limit: usize,
) -> Result<Rehearsed, AssetError> {
    let page = adapter.page(None, limit)?;
    let worked = map(&page.rows, |row| work(spec, row, keys, goal)).into_iter().collect::<Result<Vec<_>, _>>()?;
    let bytes = worked.iter().map(|row| row.bytes).sum();
    let mut rehearsed = Rehearsed { rows: page.rows.len() as u64, bytes, refused: None };
    let (updates, _) = updates(&page, worked);
    if updates.is_empty() {
        return Ok(rehearsed);
    }
    adapter.hold_back(goal)?;
    match adapter.write(&updates, &mut |_| Err(EngineError::Contended)) {
        Ok(_) => Err(AssetError::Before(Box::new(EngineError::Bug { what: "a rehearsal was committed" }))),
        Err(AssetError::Before(error)) if matches!(*error, EngineError::Contended) => Ok(rehearsed),
        Err(error @ (AssetError::Constraint { .. } | AssetError::Altered { .. })) => {
            rehearsed.refused = Some(error);
            Ok(rehearsed)
        }
        Err(error) => Err(error),
    }
}

const fn is_damaged(state: CellState) -> bool {
    matches!(state, CellState::Damaged(_) | CellState::NotJson)
}

/// What of a row moves.
struct Moving {
    cells: u64,
    encrypted: u64,
    opened: BTreeMap<Kid, u64>,
    bytes: u64,
}

fn about_to(moving: &[Moving], written: &[bool]) -> AboutTo {
    let mut about = AboutTo::default();
    for (row, _) in moving.iter().zip(written).filter(|(_, written)| **written) {
        about.cells += row.cells;
        about.encrypted += row.encrypted;
        about.rows += 1;
        for (kid, cells) in &row.opened {
            *about.opened.entry(*kid).or_default() += cells;
        }
    }
    about
}

/// The updates of a page, and what each moves.
fn updates(page: &Page, worked: Vec<Worked>) -> (Vec<RowUpdate>, Vec<Moving>) {
    let changed = page.rows.iter().zip(worked).filter(|(_, worked)| !worked.changes.is_empty());
    changed
        .map(|(row, worked)| {
            let change = |(column, new): (usize, Sql)| {
                let old = row.values.get(column).cloned().unwrap_or(Sql::Null);
                ColumnUpdate { column, old, new }
            };
            let update = RowUpdate {
                key: row.key.clone(),
                guard: row.guard.clone(),
                name: row_name(row),
                changes: worked.changes.into_iter().map(change).collect(),
            };
            (
                update,
                Moving { cells: worked.moved, encrypted: worked.encrypted, opened: worked.opened, bytes: worked.bytes },
            )
        })
        .unzip()
}
