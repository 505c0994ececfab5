//! The live catalog against the schema as the migrations make it.

use std::collections::BTreeMap;

use super::errors::classify;
use super::session::Session;
use crate::error::StoreError;

/// The catalog of the newest schema, as a fresh database has it: a line per object, `NAME: DEFINITION`. A test compares
/// it in every version of PostgreSQL.
const EXPECTED: &str = include_str!("catalog.txt");

/// What differs from the newest schema: somebody changed the database by hand.
///
/// # Errors
/// [`StoreError`] when the catalog cannot be read.
pub(super) async fn findings(session: &Session) -> Result<Vec<String>, StoreError> {
    let found = objects(session).await?;
    let wanted: BTreeMap<&str, &str> = EXPECTED.lines().filter_map(|line| line.split_once(": ")).collect();
    let differs = |(name, definition): (&&str, &&str)| found.get(*name).is_none_or(|found| found != definition);
    let missing = wanted.iter().filter(|(name, definition)| differs((name, definition)));
    let missing = missing.map(|(name, _)| format!("{name} is not the one of the schema"));
    let extra = found.keys().filter(|name| !wanted.contains_key(name.as_str()));
    Ok(missing.chain(extra.map(|name| format!("{name} is not in the schema"))).collect())
}

/// Every object of the schema: its kind and name, and how it is defined.
pub(super) async fn objects(session: &Session) -> Result<BTreeMap<String, String>, StoreError> {
    let rows = session.client().query(CATALOG, &[]).await.map_err(classify)?;
    rows.iter().map(|row| Ok((row.try_get(0).map_err(classify)?, row.try_get(1).map_err(classify)?))).collect()
}

/// Tables, columns, constraints and indexes, and all that would change what a statement does: triggers, rules,
/// policies, children, functions, and rules of the schema that were switched off.
const CATALOG: &str = "/* catalog */ \
WITH tables AS (SELECT * FROM pg_class WHERE relnamespace = to_regnamespace('keyrail') AND relkind NOT IN ('i', 'I', 't')) \
SELECT format('table `%s`', relname), format('%s %s %s %s', relkind, relpersistence, relrowsecurity, relforcerowsecurity) \
  FROM tables \
UNION ALL \
SELECT format('column `%s.%s`', relname, attname), \
       format('%s%s%s%s%s%s', format_type(atttypid, atttypmod), ' collate ' || collname, \
              CASE WHEN attnotnull THEN ' not null' END, ' default ' || pg_get_expr(adbin, adrelid), \
              CASE WHEN attidentity <> '' THEN ' identity' END, CASE WHEN attgenerated <> '' THEN ' generated' END) \
  FROM tables JOIN pg_attribute ON attrelid = tables.oid AND attnum > 0 AND NOT attisdropped \
  LEFT JOIN pg_collation ON pg_collation.oid = attcollation \
  LEFT JOIN pg_attrdef ON adrelid = tables.oid AND adnum = attnum \
UNION ALL \
SELECT format('constraint `%s.%s`', relname, conname), pg_get_constraintdef(pg_constraint.oid) \
  FROM tables JOIN pg_constraint ON conrelid = tables.oid AND contype <> 'n' \
UNION ALL \
SELECT format('index `%s`', i.relname), \
       pg_get_indexdef(indexrelid) || CASE WHEN indisvalid AND indisready THEN '' ELSE ' invalid' END \
  FROM tables JOIN pg_index ON indrelid = tables.oid JOIN pg_class i ON i.oid = indexrelid \
UNION ALL \
SELECT format('trigger `%s.%s`', relname, tgname), format('enabled %s', tgenabled) \
  FROM tables JOIN pg_trigger ON tgrelid = tables.oid AND (NOT tgisinternal OR tgenabled <> 'O') \
UNION ALL \
SELECT format('rule `%s.%s`', relname, rulename), format('enabled %s', ev_enabled) \
  FROM tables JOIN pg_rewrite ON ev_class = tables.oid \
UNION ALL \
SELECT format('policy `%s.%s`', relname, polname), format('command %s', polcmd) FROM tables JOIN pg_policy ON polrelid = tables.oid \
UNION ALL \
SELECT format('child `%s` of `%s`', inhrelid::regclass, relname), 'inherits' \
  FROM tables JOIN pg_inherits ON inhparent = tables.oid \
UNION ALL \
SELECT format('function `%s`', pg_proc.oid::regprocedure), 'defined' FROM pg_proc \
  WHERE pronamespace = to_regnamespace('keyrail')";
