//! What else reads, copies or restricts a protected column.

use crate::adapter::{AssetSpec, Misfit};
use crate::error::AssetError;
use crate::postgres::fit::{refuse, warn};
use crate::postgres::session::Session;
use crate::postgres::table::{Column, Table, fields};

/// The rows of a query on the catalog, each of texts.
fn listed<const N: usize>(session: &mut Session, sql: &str, params: &[&str]) -> Result<Vec<[String; N]>, AssetError> {
    Ok(session.texts(sql, params)?.into_iter().filter_map(fields).collect())
}

pub(super) fn of_column(
    session: &mut Session,
    table: &Table,
    column: &Column,
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    let (name, params) = (&column.name, [table.oid.as_str(), column.number.as_str()]);
    for [computed] in listed(session, COMPUTED, &params)? {
        misfits.push(refuse(
            format!("column `{computed}` is computed from `{name}`"),
            "drop the computed column, or leave this one out",
        ));
    }
    constraints(session, name, &params, misfits)?;
    indexes(session, name, &params, misfits)?;
    for [view, kind] in listed(session, VIEWS, &params)? {
        misfits.push(if kind == "m" {
            warn(
                format!("materialized view {view} keeps a copy of column `{name}`, which is not protected"),
                "REFRESH it after protecting, and once more with what it left in its files in mind",
            )
        } else {
            warn(
                format!("view {view} reads column `{name}` and shows protected values"),
                "let the application decrypt what it reads through the view",
            )
        });
    }
    for [statistics] in listed(session, STATISTICS, &params)? {
        misfits.push(warn(
            format!("statistics {statistics} over column `{name}` tell nothing any more"),
            "drop them after protecting",
        ));
    }
    for [policy] in listed(session, POLICIES, &params)? {
        misfits.push(warn(
            format!("policy `{policy}` decides by column `{name}` who sees a row, and will see protected values"),
            "let it decide by another column",
        ));
    }
    Ok(())
}

fn constraints(
    session: &mut Session,
    name: &str,
    params: &[&str],
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    for [constraint, kind, side, other] in listed(session, CONSTRAINTS, params)? {
        let leave_out = "leave it out: a protected value refers to nothing";
        misfits.push(match (kind.as_str(), side.as_str()) {
            ("f", "own") => refuse(format!("column `{name}` refers to {other} by `{constraint}`"), leave_out),
            ("f", _) => refuse(
                format!("{other} refers to column `{name}` by `{constraint}`"),
                "leave it out: a protected value is referred to by nothing",
            ),
            ("x", _) => refuse(
                format!("constraint `{constraint}` compares the values of column `{name}`, and protected ones are all different"),
                "drop the constraint: it would keep nothing out any more",
            ),
            _ => warn(
                format!("CHECK constraint `{constraint}` reads column `{name}`, and holds for protected values too"),
                "look at what it demands: a protected value begins with kr1. and takes 4/3 of the length and 138 characters more",
            ),
        });
    }
    Ok(())
}

fn indexes(session: &mut Session, name: &str, params: &[&str], misfits: &mut Vec<Misfit>) -> Result<(), AssetError> {
    for [index, unique, how] in listed(session, INDEXES, params)? {
        let drop_unique = "drop it: it would keep nothing out any more";
        misfits.push(match (unique.as_str(), how.as_str()) {
            ("true", "key") => refuse(
                format!("column `{name}` is unique by `{index}`, and protected values are all different"),
                drop_unique,
            ),
            ("true", "expression") => refuse(
                format!("index `{index}` makes unique by column `{name}`, and protected values are all different"),
                drop_unique,
            ),
            (_, "key") => {
                warn(format!("index `{index}` on column `{name}` finds nothing any more"), "drop it after protecting")
            }
            (_, "included") => {
                warn(format!("index `{index}` keeps a copy of column `{name}`"), "make it without the column")
            }
            _ => warn(
                format!("index `{index}` computes with column `{name}` and finds nothing any more"),
                "drop it after protecting",
            ),
        });
    }
    Ok(())
}

pub(super) fn of_table(
    session: &mut Session,
    spec: &AssetSpec,
    table: &Table,
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    for [trigger, columns] in listed(session, TRIGGERS, &[&table.oid])? {
        let runs = columns.is_empty() || columns.split('\u{1}').any(|name| spec.columns().contains(&name));
        if runs {
            misfits.push(warn(
                format!("trigger `{trigger}` runs for every row that is written"),
                "look at what it does, such as setting a time of change, and at where it writes former values: a copy is not scrubbed",
            ));
        }
    }
    for [publication] in listed(session, PUBLICATIONS, &[&table.schema, &table.name])? {
        misfits.push(warn(
            format!("publication `{publication}` sends every change of the table to its subscribers"),
            "let the subscribers expect protected values; what they hold already is not protected by this",
        ));
    }
    if !listed::<1>(session, LOGGED, &[])?.is_empty() {
        misfits.push(warn(
            "the server logs statements with their values, former ones of the table among them".to_owned(),
            "set log_parameter_max_length to 0, or let an administrator GRANT SET ON PARAMETER log_parameter_max_length to the role",
        ));
    }
    for [what] in listed(session, SETTINGS, &[&table.oid])? {
        misfits.push(match what.as_str() {
            "full" => warn(
                "the replica identity of the table is FULL: former values go into the write-ahead log".to_owned(),
                "let the primary key be the replica identity",
            ),
            _ => warn(
                "autovacuum is off for the table: every row that is written leaves a dead one behind".to_owned(),
                "turn it on while a campaign runs, or run VACUUM meanwhile",
            ),
        });
    }
    Ok(())
}

/// Generated columns that read the column.
const COMPUTED: &str = "\
    SELECT DISTINCT a.attname::text FROM pg_depend d \
    LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid \
    JOIN pg_attribute a ON a.attrelid = $1::oid AND a.attgenerated <> '' AND a.attnum <> $2::int2 \
      AND (a.attnum = f.adnum OR (d.classid = 'pg_class'::regclass AND d.objid = $1::oid AND a.attnum = d.objsubid)) \
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::oid AND d.refobjsubid = $2::int2 \
      AND (f.adrelid = $1::oid OR f.oid IS NULL)";

/// Foreign keys of and to the column, CHECK and exclusion constraints over it.
const CONSTRAINTS: &str = "\
    SELECT conname::text, contype::text, 'own', CASE WHEN confrelid <> 0 THEN confrelid::regclass::text ELSE '' END \
    FROM pg_constraint WHERE conrelid = $1::oid AND contype IN ('f', 'c', 'x') AND $2::int2 = ANY (conkey) \
    UNION ALL \
    SELECT conname::text, contype::text, 'other', conrelid::regclass::text \
    FROM pg_constraint WHERE confrelid = $1::oid AND contype = 'f' AND $2::int2 = ANY (confkey) AND conparentid = 0 \
    ORDER BY 1";

const INDEXES: &str = "\
    SELECT DISTINCT i.indexrelid::regclass::text, i.indisunique::text, \
      CASE WHEN $2::int2 = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) THEN 'key' \
           WHEN $2::int2 = ANY (i.indkey::int2[]) THEN 'included' \
           WHEN i.indexprs IS NOT NULL THEN 'expression' ELSE 'condition' END \
    FROM pg_index i WHERE i.indrelid = $1::oid AND NOT i.indisexclusion AND ($2::int2 = ANY (i.indkey::int2[]) \
      OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid \
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = $2::int2)) \
    ORDER BY 1";

const VIEWS: &str = "\
    SELECT DISTINCT r.ev_class::regclass::text, c.relkind::text FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid \
    JOIN pg_class c ON c.oid = r.ev_class \
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::oid \
      AND d.refobjsubid = $2::int2 AND r.ev_class <> $1::oid AND c.relkind IN ('v', 'm') ORDER BY 1";

const STATISTICS: &str = "\
    SELECT DISTINCT quote_ident(s.stxname) FROM pg_statistic_ext s JOIN pg_depend d ON d.classid = 'pg_statistic_ext'::regclass \
      AND d.objid = s.oid AND d.refobjid = $1::oid AND d.refobjsubid = $2::int2 WHERE s.stxrelid = $1::oid ORDER BY 1";

const POLICIES: &str = "\
    SELECT DISTINCT p.polname::text FROM pg_policy p JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid \
      AND d.refobjid = $1::oid AND d.refobjsubid = $2::int2 WHERE p.polrelid = $1::oid ORDER BY 1";

/// Triggers for UPDATE, with the columns that they are for, if they are for some only.
const TRIGGERS: &str = "\
    SELECT DISTINCT g.tgname::text, coalesce((SELECT string_agg(a.attname::text, chr(1)) FROM pg_attribute a \
      WHERE a.attrelid = g.tgrelid AND a.attnum = ANY (g.tgattr::int2[])), '') \
    FROM pg_trigger g WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 16 = 16 \
      AND (g.tgrelid = $1::oid OR g.tgrelid IN (SELECT relid FROM pg_partition_tree($1::oid))) ORDER BY 1";

const PUBLICATIONS: &str =
    "SELECT DISTINCT pubname::text FROM pg_publication_tables WHERE schemaname = $1 AND tablename = $2 ORDER BY 1";

/// Whether what a page sends gets into the server's log.
pub(in crate::postgres) const LOGGED: &str = "\
    SELECT '' WHERE current_setting('log_parameter_max_length') <> '0' AND (current_setting('log_statement') IN ('mod', 'all') \
      OR current_setting('log_min_duration_statement') <> '-1' OR current_setting('log_min_duration_sample') <> '-1')";

const SETTINGS: &str = "\
    SELECT 'full' FROM pg_class WHERE oid = $1::oid AND relreplident = 'f' \
    UNION ALL SELECT 'vacuum' WHERE EXISTS (SELECT FROM pg_class c, unnest(c.reloptions) o \
      WHERE (c.oid = $1::oid OR c.oid IN (SELECT relid FROM pg_partition_tree($1::oid))) AND o = 'autovacuum_enabled=false') \
      OR current_setting('autovacuum') = 'off'";
