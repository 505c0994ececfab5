//! The census: what an asset really holds, counted by opening it.

use std::collections::{BTreeMap, BTreeSet};

use keyrail_core::asset::AcceptedDamage;
use keyrail_core::id::ColumnId;
use keyrail_crypto::envelope::Kid;

use crate::adapter::{AssetAdapter, AssetSpec, Row};
use crate::cells::{CellReport, CellState, Keys, look, row_name};
use crate::error::AssetError;
use crate::parallel::map;

/// How many rows are read at a time.
const PAGE_ROWS: usize = 1_000;

/// How many damaged cells are listed; all are counted.
pub const DAMAGED_LISTED_MAX: usize = 1_000;

/// What an asset holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Census {
    /// Rows of the table.
    pub rows: u64,
    /// Cells by key version.
    pub cells: BTreeMap<Kid, u64>,
    /// Rows by the oldest key version among their cells, if nothing in them is plaintext or damaged.
    pub rows_by_version: BTreeMap<Kid, u64>,
    /// Cells that are not protected.
    pub plaintext: u64,
    /// Rows with such a cell, and none that is damaged.
    pub rows_plaintext: u64,
    /// Cells that do not open, or whose column is no JSON, and that nobody accepted.
    pub damaged: u64,
    /// Rows with such a cell.
    pub rows_damaged: u64,
    /// Damaged cells that somebody accepted.
    pub accepted: u64,
    /// Cells without a value.
    pub null: u64,
    /// Rows with nothing but such cells and accepted ones.
    pub rows_empty: u64,
    /// Damaged cells, up to [`DAMAGED_LISTED_MAX`].
    pub listed: Vec<DamagedCell>,
    /// Damaged cells that were not accepted, by version.
    pub damaged_by_version: BTreeMap<Kid, u64>,
}

/// A cell that does not open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DamagedCell {
    /// The row's identity.
    pub row: String,
    /// The column's id.
    pub column: ColumnId,
    /// The column's name.
    pub name: String,
    /// SHA-256 of its bytes, if it carries one of our versions.
    pub fingerprint: Option<[u8; 32]>,
}

/// Damaged cells that somebody took out of the count.
#[derive(Clone, Debug, Default)]
pub struct Accepted(BTreeSet<(ColumnId, String, [u8; 32])>);

impl Accepted {
    /// The set of the asset's rows.
    pub fn of(rows: &[AcceptedDamage]) -> Self {
        Self(rows.iter().map(|row| (row.column, row.row.clone(), row.bytes_sha256)).collect())
    }

    fn has(&self, column: ColumnId, row: &str, fingerprint: Option<[u8; 32]>) -> bool {
        fingerprint.is_some_and(|fingerprint| self.0.contains(&(column, row.to_owned(), fingerprint)))
    }
}

impl Census {
    /// Cells that a campaign towards `target` would still have to move.
    pub fn left(&self, target: Option<&Kid>) -> u64 {
        let elsewhere: u64 = self.cells.iter().filter(|(kid, _)| Some(*kid) != target).map(|(_, count)| count).sum();
        elsewhere + if target.is_some() { self.plaintext } else { 0 }
    }

    fn count(&mut self, spec: &AssetSpec, row: &Row, reports: &[CellReport], keys: &dyn Keys, accepted: &Accepted) {
        self.rows += 1;
        let (mut plaintext, mut damaged) = (false, false);
        let mut oldest: Option<Kid> = None;
        for report in reports {
            match report.state {
                CellState::Null => self.null += 1,
                CellState::Plaintext => {
                    self.plaintext += 1;
                    plaintext = true;
                }
                CellState::Protected(kid) | CellState::Closed(kid) => {
                    *self.cells.entry(kid).or_default() += 1;
                    let older = oldest.is_none_or(|former| keys.number(&kid) < keys.number(&former));
                    oldest = if older { Some(kid) } else { oldest };
                }
                CellState::Damaged(_) | CellState::NotJson => {
                    damaged |= self.count_damaged(spec, row, report, accepted)
                }
            }
        }
        match (damaged, plaintext, oldest) {
            (true, ..) => self.rows_damaged += 1,
            (_, true, _) => self.rows_plaintext += 1,
            (_, _, Some(kid)) => *self.rows_by_version.entry(kid).or_default() += 1,
            (_, _, None) => self.rows_empty += 1,
        }
    }

    /// Counts a cell that does not open; tells whether it counts as damage.
    fn count_damaged(&mut self, spec: &AssetSpec, row: &Row, report: &CellReport, accepted: &Accepted) -> bool {
        let Some(cell) = spec.cells.get(report.cell) else { return false };
        let name = row_name(row);
        if accepted.has(cell.id, &name, report.fingerprint) {
            self.accepted += 1;
            return false;
        }
        self.damaged += 1;
        if let CellState::Damaged(kid) = report.state {
            *self.damaged_by_version.entry(kid).or_default() += 1;
        }
        if self.listed.len() < DAMAGED_LISTED_MAX {
            self.listed.push(DamagedCell {
                row: name,
                column: cell.id,
                name: cell.column.clone(),
                fingerprint: report.fingerprint,
            });
        }
        true
    }
}

/// Counts every row, opening every protected value. `progress` gets the number of rows so far; `false` stops it.
///
/// # Errors
/// What the adapter fails with; `None` if it was stopped.
pub fn take(
    adapter: &mut dyn AssetAdapter,
    spec: &AssetSpec,
    keys: &dyn Keys,
    accepted: &Accepted,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<Census>, AssetError> {
    let mut census = Census::default();
    let mut after = None;
    loop {
        let page = adapter.page(after.as_deref(), PAGE_ROWS)?;
        let reports = map(&page.rows, |row| look(spec, row, keys));
        for (row, reports) in page.rows.iter().zip(reports) {
            census.count(spec, row, &reports?, keys, accepted);
        }
        if !progress(census.rows) {
            return Ok(None);
        }
        if !page.more {
            return Ok(Some(census));
        }
        after = page.rows.last().map(|row| row.key.clone());
    }
}
