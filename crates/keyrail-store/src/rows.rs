//! The rows of `keyrail-core`, table by table.

use keyrail_core::asset::{AcceptedDamage, Asset, AssetColumn};
use keyrail_core::campaign::{Campaign, CampaignCounts};
use keyrail_core::key::{App, DataKey, DataKeyVersion, DestroyWait, Domain, MasterKey, MasterVersion};
use keyrail_core::label::{ApprovalDemand, Demands, Label};
use keyrail_core::system::{
    IdempotencyEntry, LogHeadRow, MapHead, MapNode, ObservationRow, OutboxEntry, RootSecret, RootSlotRow, Setting,
    SlotRole, UsageMark,
};
use keyrail_core::time::Observation;
use keyrail_core::token::Token;
use keyrail_core::usage::{Usage, UsageCount, UsageKey};

use crate::driver::Value;
use crate::error::StoreError;
use crate::field::Field;
use crate::row::{Row, Table, Values, plain_row};

plain_row!(RootSecret, "root_secret", key [purpose], { purpose, id, wrapped, wrap_generation, created_at, generation });
plain_row!(Setting, "setting", key [name], { name, value, updated_at, generation });
plain_row!(Domain, "domain", key [id], { id, name, created_at, generation });
plain_row!(App, "app", key [id], { id, domain, environment, name, created_at, generation });
plain_row!(MasterKey, "master_key", key [id], { id, domain, environment, created_at, generation });
plain_row!(MasterVersion, "master_key_version", key [id], {
    id, master_key, version, state, wrapped, wrap_generation, activated_at, state_changed_at, generation,
});
plain_row!(DataKey, "data_key", key [id], { id, app, name, label, status, created_at, updated_at, generation });
plain_row!(Token, "token", key [id], { id, hash, role, app, created_at, expires_at, revoked_at, generation });
plain_row!(Asset, "asset", key [id], {
    id, name, url, table, identity, identity_columns, key, state, created_at, updated_at, generation,
} added { schema });
plain_row!(AssetColumn, "asset_column", key [id], { id, asset, position, column, json_path, generation });
plain_row!(AcceptedDamage, "accepted_damage", key [asset, column, row], {
    asset, column, row, bytes_sha256, reason, accepted_by, accepted_at, generation,
});
plain_row!(IdempotencyEntry, "idempotency", key [key_hash], {
    key_hash, request_sha256, answer, request, expires_at, generation,
} added { principal });

impl Row for RootSlotRow {
    const TABLE: &'static Table = &Table {
        name: "root_slot",
        columns: &["id", "slot", "created_at", "generation", "role", "recipients", "rehearsed_at"],
        key: &["id"],
        added: &["role", "recipients", "rehearsed_at"],
        fixed: &[],
    };

    fn values(&self) -> Vec<Value> {
        vec![
            self.id.to_value(),
            self.slot.to_value(),
            self.created_at.to_value(),
            self.generation.to_value(),
            (self.role != SlotRole::Primary).then_some(self.role).to_value(),
            (!self.recipients.is_empty()).then(|| self.recipients.clone()).to_value(),
            self.rehearsed_at.to_value(),
        ]
    }

    fn from_values(values: &mut Values) -> Result<Self, StoreError> {
        Ok(Self {
            id: values.next()?,
            slot: values.next()?,
            created_at: values.next()?,
            generation: values.next()?,
            role: values.next::<Option<SlotRole>>()?.unwrap_or(SlotRole::Primary),
            recipients: values.next::<Option<Vec<String>>>()?.unwrap_or_default(),
            rehearsed_at: values.next()?,
        })
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

impl Row for Label {
    const TABLE: &'static Table = &Table {
        name: "label",
        columns: &[
            "name",
            "suite",
            "data_key_age_seconds_max",
            "data_key_uses_max",
            "master_key_age_seconds_max",
            "cache_seconds_max",
            "write_window_seconds",
            "campaign_deadline_seconds",
            "destroy_wait_seconds",
            "approval_role",
            "approval_count",
            "created_at",
            "updated_at",
            "generation",
        ],
        key: &["name"],
        added: &[],
        fixed: &[],
    };

    fn values(&self) -> Vec<Value> {
        let demands = &self.demands;
        vec![
            self.name.to_value(),
            demands.suite.to_value(),
            demands.data_key_age_seconds_max.to_value(),
            demands.data_key_uses_max.to_value(),
            demands.master_key_age_seconds_max.to_value(),
            demands.cache_seconds_max.to_value(),
            demands.write_window_seconds.to_value(),
            demands.campaign_deadline_seconds.to_value(),
            demands.destroy_wait_seconds.to_value(),
            demands.approval.map(|approval| approval.role).to_value(),
            demands.approval.map(|approval| approval.count).to_value(),
            self.created_at.to_value(),
            self.updated_at.to_value(),
            self.generation.to_value(),
        ]
    }

    fn from_values(values: &mut Values) -> Result<Self, StoreError> {
        let name = values.next()?;
        let demands = Demands {
            suite: values.next()?,
            data_key_age_seconds_max: values.next()?,
            data_key_uses_max: values.next()?,
            master_key_age_seconds_max: values.next()?,
            cache_seconds_max: values.next()?,
            write_window_seconds: values.next()?,
            campaign_deadline_seconds: values.next()?,
            destroy_wait_seconds: values.next()?,
            approval: match (values.next()?, values.next()?) {
                (Some(role), Some(count)) => Some(ApprovalDemand { role, count }),
                (None, None) => None,
                _ => return Err(values.malformed("approval_count")),
            },
        };
        Ok(Self { name, demands, created_at: values.next()?, updated_at: values.next()?, generation: values.next()? })
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

impl Row for DataKeyVersion {
    const TABLE: &'static Table = &Table {
        name: "data_key_version",
        columns: &[
            "kid",
            "key",
            "version",
            "state",
            "suite",
            "wrapped",
            "wrapped_by",
            "wrap_generation",
            "created_at",
            "activated_at",
            "state_changed_at",
            "fenced_at",
            "destroy_wait_seconds",
            "destroy_observed_seconds",
            "destroy_halt",
            "generation",
            "destroy_began_at",
            "fenced_window_seconds",
        ],
        key: &["kid"],
        added: &["destroy_began_at", "fenced_window_seconds"],
        fixed: &["key", "version", "suite", "created_at"],
    };

    fn values(&self) -> Vec<Value> {
        vec![
            self.kid.to_value(),
            self.key.to_value(),
            self.version.to_value(),
            self.state.to_value(),
            self.suite.to_value(),
            self.wrapped.to_value(),
            self.wrapped_by.to_value(),
            self.wrap_generation.to_value(),
            self.created_at.to_value(),
            self.activated_at.to_value(),
            self.state_changed_at.to_value(),
            self.fenced_at.to_value(),
            self.destroy.map(|wait| wait.wait_seconds).to_value(),
            self.destroy.map(|wait| wait.observed_seconds).to_value(),
            self.destroy.and_then(|wait| wait.halt).to_value(),
            self.generation.to_value(),
            self.destroy.and_then(|wait| wait.began_at).to_value(),
            self.fenced_window_seconds.to_value(),
        ]
    }

    fn from_values(values: &mut Values) -> Result<Self, StoreError> {
        let mut row = Self {
            kid: values.next()?,
            key: values.next()?,
            version: values.next()?,
            state: values.next()?,
            suite: values.next()?,
            wrapped: values.next()?,
            wrapped_by: values.next()?,
            wrap_generation: values.next()?,
            created_at: values.next()?,
            activated_at: values.next()?,
            state_changed_at: values.next()?,
            fenced_at: values.next()?,
            fenced_window_seconds: None,
            destroy: match (values.next()?, values.next()?, values.next()?) {
                (Some(wait_seconds), Some(observed_seconds), halt) => {
                    Some(DestroyWait { wait_seconds, observed_seconds, halt, began_at: None })
                }
                (None, None, None) => None,
                _ => return Err(values.malformed("destroy_wait_seconds")),
            },
            generation: values.next()?,
        };
        match (row.destroy.as_mut(), values.next()?) {
            (Some(wait), began_at) => wait.began_at = began_at,
            (None, None) => {}
            (None, Some(_)) => return Err(values.malformed("destroy_began_at")),
        }
        row.fenced_window_seconds = values.next()?;
        Ok(row)
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

impl Row for Campaign {
    const TABLE: &'static Table = &Table {
        name: "campaign",
        columns: &[
            "id",
            "asset",
            "kind",
            "target",
            "state",
            "cursor",
            "rows_per_second_max",
            "rows_total",
            "rows_done",
            "cells_moved",
            "cas_lost",
            "damaged",
            "bytes",
            "passes",
            "busy_millis",
            "error_code",
            "started_by",
            "started_at",
            "updated_at",
            "finished_at",
            "generation",
            "scrub_due",
            "not_scrubbed",
            "resumed_by",
        ],
        key: &["id"],
        added: &["scrub_due", "not_scrubbed", "resumed_by"],
        fixed: &[],
    };

    fn values(&self) -> Vec<Value> {
        let counts = &self.counts;
        vec![
            self.id.to_value(),
            self.asset.to_value(),
            self.kind.to_value(),
            self.target.to_value(),
            self.state.to_value(),
            self.cursor.to_value(),
            self.rows_per_second_max.to_value(),
            counts.rows_total.to_value(),
            counts.rows.to_value(),
            counts.cells_moved.to_value(),
            counts.cas_lost.to_value(),
            counts.damaged.to_value(),
            counts.bytes.to_value(),
            counts.passes.to_value(),
            counts.busy_millis.to_value(),
            self.error_code.to_value(),
            self.started_by.to_value(),
            self.started_at.to_value(),
            self.updated_at.to_value(),
            self.finished_at.to_value(),
            self.generation.to_value(),
            self.scrub_due.then_some(1_u64).to_value(),
            (!self.not_scrubbed.is_empty()).then(|| self.not_scrubbed.clone()).to_value(),
            self.resumed_by.to_value(),
        ]
    }

    fn from_values(values: &mut Values) -> Result<Self, StoreError> {
        Ok(Self {
            id: values.next()?,
            asset: values.next()?,
            kind: values.next()?,
            target: values.next()?,
            state: values.next()?,
            cursor: values.next()?,
            rows_per_second_max: values.next()?,
            counts: CampaignCounts {
                rows_total: values.next()?,
                rows: values.next()?,
                cells_moved: values.next()?,
                cas_lost: values.next()?,
                damaged: values.next()?,
                bytes: values.next()?,
                passes: values.next()?,
                busy_millis: values.next()?,
            },
            error_code: values.next()?,
            started_by: values.next()?,
            started_at: values.next()?,
            updated_at: values.next()?,
            finished_at: values.next()?,
            generation: values.next()?,
            scrub_due: values.next::<Option<u64>>()?.is_some(),
            not_scrubbed: values.next::<Option<Vec<String>>>()?.unwrap_or_default(),
            resumed_by: values.next()?,
        })
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

impl Row for Usage {
    const TABLE: &'static Table = &Table {
        name: "usage",
        columns: &["kid", "principal", "action", "place", "uses", "first_at", "last_at", "generation"],
        key: &["kid", "principal", "action", "place"],
        added: &[],
        fixed: &[],
    };

    fn values(&self) -> Vec<Value> {
        let (key, count) = (&self.key, &self.count);
        vec![
            key.kid.to_value(),
            key.principal.to_value(),
            key.action.to_value(),
            key.place.to_value(),
            count.count.to_value(),
            count.first_at.to_value(),
            count.last_at.to_value(),
            self.generation.to_value(),
        ]
    }

    fn from_values(values: &mut Values) -> Result<Self, StoreError> {
        Ok(Self {
            key: UsageKey {
                kid: values.next()?,
                principal: values.next()?,
                action: values.next()?,
                place: values.next()?,
            },
            count: UsageCount { count: values.next()?, first_at: values.next()?, last_at: values.next()? },
            generation: values.next()?,
        })
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

impl Row for OutboxEntry {
    const TABLE: &'static Table = &Table {
        name: "outbox",
        columns: &["request", "log_index_min", "body"],
        key: &["request"],
        added: &[],
        fixed: &[],
    };

    fn values(&self) -> Vec<Value> {
        vec![self.request.to_value(), self.log_index_min.to_value(), self.body.to_value()]
    }

    fn from_values(values: &mut Values) -> Result<Self, StoreError> {
        Ok(Self { request: values.next()?, log_index_min: values.next()?, body: values.next()? })
    }

    /// Outbox rows are written once.
    fn generation(&self) -> u64 {
        1
    }
}

/// The key of a table that has one row.
const ONLY: u64 = 1;

macro_rules! single_row {
    ($type:ty, $table:literal, |$row:ident, $values:ident| { $($column:literal => $get:expr),+ $(,)? } $make:expr) => {
        impl Row for $type {
            const TABLE: &'static Table = &Table { name: $table, columns: &["only", $($column,)+ "generation"], key: &["only"], added: &[], fixed: &[] };

            fn values(&self) -> Vec<Value> {
                let $row = self;
                vec![ONLY.to_value(), $($get.to_value(),)+ self.generation.to_value()]
            }

            fn from_values($values: &mut Values) -> Result<Self, StoreError> {
                if $values.next::<u64>()? != ONLY {
                    return Err($values.malformed("only"));
                }
                Ok($make)
            }

            fn generation(&self) -> u64 {
                self.generation
            }
        }
    };
}

plain_row!(MapNode, "map_node", key [id], { id, bytes, generation });
single_row!(MapHead, "map_head", |row, values| {
    "root_node" => row.root_node, "root" => row.root, "next_node" => row.next_node, "entries" => row.entries,
    "recorded" => row.recorded, "recorded_generation" => row.recorded_generation,
}
Self {
    root_node: values.next()?,
    root: values.next()?,
    next_node: values.next()?,
    entries: values.next()?,
    recorded: values.next()?,
    recorded_generation: values.next()?,
    generation: values.next()?,
});
single_row!(LogHeadRow, "log_head", |row, values| { "size" => row.size, "root" => row.root }
    Self { size: values.next()?, root: values.next()?, generation: values.next()? });
single_row!(UsageMark, "usage_mark", |row, values| { "log_index" => row.log_index }
    Self { log_index: values.next()?, generation: values.next()? });
single_row!(ObservationRow, "observation", |row, values| {
    "boot" => row.observation.boot, "wall" => row.observation.wall, "uptime_millis" => row.observation.uptime_millis,
}
Self {
    observation: Observation { boot: values.next()?, wall: values.next()?, uptime_millis: values.next()? },
    generation: values.next()?,
});

macro_rules! check_rows {
    ($($type:ty),+ $(,)?) => {
        /// Whether the values make a row of the table.
        pub(crate) fn check(table: &'static Table, values: Vec<Value>) -> Result<(), StoreError> {
            let mut values = Values::new(table, values);
            $(if table.name == <$type as Row>::TABLE.name {
                return <$type as Row>::from_values(&mut values).map(drop);
            })+
            Err(values.malformed("seal"))
        }
    };
}

crate::row_types!(check_rows);
