//! Looking at a whole table in short statements: none of them holds up vacuum for longer than a page does.

use crate::error::AssetError;
use crate::postgres::session::Session;
use crate::postgres::table::{Table, fields};

/// How many blocks a statement looks at, in all partitions together: 128 MiB, a second or two.
const BLOCKS_MAX: u64 = 16_384;

/// How many it looks at in each partition at least.
const BLOCKS_MIN: u64 = 64;

/// The rows that `sql` gives of each piece of the table, for a condition that says which one it is. A row that is written
/// meanwhile may be in none of them, or in two.
pub(super) fn in_pieces(
    session: &mut Session,
    table: &Table,
    sql: impl Fn(&str) -> String,
) -> Result<Vec<Vec<Option<String>>>, AssetError> {
    let found = session.texts(BLOCKS, &[&table.oid])?;
    let [blocks, parts] = found.into_iter().find_map(fields).unwrap_or_default();
    let (blocks, parts): (u64, u64) = (blocks.parse().unwrap_or(0), parts.parse().unwrap_or(1));
    let step = (BLOCKS_MAX / parts.max(1)).max(BLOCKS_MIN);
    let (mut rows, mut from) = (Vec::new(), 0);
    loop {
        let to = from + step;
        // The last one takes what was added meanwhile.
        let end = if to < blocks { format!(" AND ctid < '({to},0)'") } else { String::new() };
        rows.extend(session.texts(&sql(&format!("ctid >= '({from},0)'{end}")), &[])?);
        if to >= blocks {
            return Ok(rows);
        }
        from = to;
    }
}

/// The blocks of the largest part of a table, and how many parts it has.
const BLOCKS: &str = "\
    SELECT max(pg_relation_size(relid) / current_setting('block_size')::bigint)::text, count(*)::text \
    FROM (SELECT $1::oid AS relid UNION SELECT relid FROM pg_partition_tree($1::oid)) parts";
