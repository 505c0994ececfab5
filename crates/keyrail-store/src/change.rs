//! A change of state: rows that change together, with the record of it.

use keyrail_core::id::RequestId;
use keyrail_core::system::OutboxEntry;

use crate::driver::Value;
use crate::field::Field;
use crate::row::{Row, Table};

/// Rows that change together. It reaches the store only with its record, or with a reason why it has none.
#[derive(Clone, Debug, Default)]
#[must_use = "a change does nothing until it is committed"]
pub struct Change {
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Insert {
        table: &'static Table,
        values: Vec<Value>,
    },
    Update {
        table: &'static Table,
        values: Vec<Value>,
        former_generation: u64,
    },
    /// With the values of the row, as far as somebody needs them.
    Delete {
        table: &'static Table,
        key: Vec<Value>,
        values: Vec<Value>,
    },
}

/// A change that may be committed.
#[derive(Debug)]
#[must_use = "a change does nothing until it is committed"]
pub struct Recorded {
    pub(crate) steps: Vec<Step>,
    /// The record of it, if it has one.
    pub(crate) entry: Option<OutboxEntry>,
}

impl Change {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a new row.
    pub fn insert<R: Row>(&mut self, row: &R) -> &mut Self {
        self.steps.push(Step::Insert { table: R::TABLE, values: row.values() });
        self
    }

    /// Replaces a row. `row` carries its new generation; the stored one must have the generation before.
    pub fn update<R: Row>(&mut self, row: &R) -> &mut Self {
        let former_generation = row.generation().saturating_sub(1);
        self.steps.push(Step::Update { table: R::TABLE, values: row.values(), former_generation });
        self
    }

    /// Deletes a row.
    pub fn delete<R: Row>(&mut self, row: &R) -> &mut Self {
        self.steps.push(Step::Delete { table: R::TABLE, key: row.key(), values: row.values() });
        self
    }

    /// Deletes the outbox rows of records that the log has.
    pub fn settle(&mut self, requests: &[RequestId]) -> &mut Self {
        self.steps.extend(requests.iter().map(|request| Step::Delete {
            table: OutboxEntry::TABLE,
            key: vec![request.to_value()],
            values: Vec::new(),
        }));
        self
    }

    /// The change with its record: both are stored, or none.
    pub fn recorded(self, entry: OutboxEntry) -> Recorded {
        Recorded { steps: self.steps, entry: Some(entry) }
    }

    /// The change without a record: only for what no auditor asks about, such as counters that are taken
    /// from the log. The reason stands at the call.
    pub fn unrecorded(self, _reason: &'static str) -> Recorded {
        Recorded { steps: self.steps, entry: None }
    }
}
