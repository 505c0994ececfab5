//! A table, as the catalog describes it.

use keyrail_core::asset::IdentityKind;

use crate::adapter::AssetSpec;
use crate::error::AssetError;
use crate::postgres::session::Session;
use crate::postgres::wire::Wire;

/// Whether a column holds JSON.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Json {
    No,
    /// As it was written: `json`.
    Text,
    /// Taken apart, and written anew when it is read: `jsonb`.
    Binary,
}

/// A column of a table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) number: String,
    /// The type as the table declares it.
    pub(super) declared: String,
    /// The type below all domains, by its name alone and as SQL spells it.
    pub(super) base: String,
    pub(super) base_sql: String,
    /// How its values travel; `None` for a type that Keyrail does not know.
    pub(super) wire: Option<Wire>,
    pub(super) json: Json,
    /// The most characters, where the type has a limit.
    pub(super) length: Option<usize>,
    pub(super) generated: bool,
    pub(super) is_domain: bool,
}

impl Column {
    /// Whether paging can go by it: its order is that of a type of the server itself.
    fn orders(&self) -> bool {
        self.wire.is_some() && self.json == Json::No && self.base != "citext"
    }
}

/// A table, as far as paging and fitting need it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Table {
    pub(super) oid: String,
    pub(super) schema: String,
    pub(super) name: String,
    /// As `pg_class.relkind` has it.
    pub(super) kind: String,
    pub(super) persistence: String,
    pub(super) is_partition: bool,
    pub(super) columns: Vec<Column>,
    /// What orders and finds the rows; empty if nothing does.
    pub(super) key: Vec<Column>,
    pub(super) primary_key: Vec<String>,
    /// Whether triggers run for rows that are updated, in the table or a partition.
    pub(super) triggers: bool,
    /// Changes whenever something of this may have changed.
    pub(super) signature: String,
}

/// A name as SQL wants it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL wants it.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Table {
    /// Reads a table of this schema; without one, of the first schema of the search path that has it.
    pub(super) fn read(session: &mut Session, schema: Option<&str>, name: &str) -> Result<Self, AssetError> {
        let absent = || AssetError::Absent { what: "table", name: name.to_owned() };
        let found = match schema {
            Some(schema) => session.texts(TABLE_IN, &[name, schema])?,
            None => session.texts(TABLE_ON_PATH, &[name])?,
        };
        let row = found.into_iter().next().ok_or_else(absent)?;
        let [oid, schema, kind, persistence, is_partition, triggers] = fields(row).ok_or_else(absent)?;
        let columns: Vec<_> = session.texts(COLUMNS, &[&oid])?.into_iter().filter_map(column).collect();
        let indexes: Vec<_> = session.texts(KEYS, &[&oid])?.into_iter().filter_map(fields).collect();
        let indexes: Vec<(bool, Vec<String>)> = indexes
            .into_iter()
            .map(|[primary, names]| (primary == "1", names.split('\u{1}').map(str::to_owned).collect()))
            .collect();
        let primary_key =
            indexes.iter().find(|(primary, _)| *primary).map(|(_, names)| names.clone()).unwrap_or_default();
        let columns_of = |names: &[String]| -> Option<Vec<Column>> {
            names
                .iter()
                .map(|name| columns.iter().find(|column| column.name == *name && column.orders()).cloned())
                .collect()
        };
        let key = indexes.iter().find_map(|(_, names)| columns_of(names)).unwrap_or_default();
        let signature = signature(session, &schema, name)?.ok_or_else(absent)?;
        let (is_partition, triggers) = (is_partition == "1", triggers == "1");
        let name = name.to_owned();
        Ok(Self { oid, schema, name, kind, persistence, is_partition, columns, key, primary_key, triggers, signature })
    }

    /// The table in SQL.
    pub(super) fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub(super) fn require(&self, name: &str) -> Result<&Column, AssetError> {
        self.column(name).ok_or_else(|| AssetError::Absent { what: "column", name: name.to_owned() })
    }

    /// The columns that the asset tells rows by.
    pub(super) fn identity_columns(&self, spec: &AssetSpec) -> Result<Vec<Column>, AssetError> {
        for column in spec.columns() {
            self.require(column)?;
        }
        let names = match spec.identity {
            IdentityKind::None => return Ok(Vec::new()),
            IdentityKind::PrimaryKey if spec.identity_columns.is_empty() => &self.primary_key,
            IdentityKind::PrimaryKey | IdentityKind::Columns => &spec.identity_columns,
        };
        names.iter().map(|name| self.require(name).cloned()).collect()
    }

    /// Whether the key tells as much as these columns of the row identity, so that no guard is needed.
    pub(super) fn key_is(&self, identity: &[Column]) -> bool {
        self.key == identity
    }
}

/// What the catalog says of a table, in one text; `None` if there is no such table.
pub(super) fn signature(session: &mut Session, schema: &str, name: &str) -> Result<Option<String>, AssetError> {
    use crate::postgres::session::cell;
    use crate::postgres::wire::Param;
    let found = session.rows(SIGNATURE, vec![Param::text(schema), Param::text(name)])?;
    Ok(found.first().and_then(|row| cell(row, 0)).map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
}

/// A row of texts of which none is null.
pub(super) fn fields<const N: usize>(row: Vec<Option<String>>) -> Option<[String; N]> {
    row.into_iter().collect::<Option<Vec<_>>>()?.try_into().ok()
}

fn column(row: Vec<Option<String>>) -> Option<Column> {
    let [name, number, declared, base, in_catalog, base_sql, modifier, generated, is_domain] = fields(row)?;
    let known = in_catalog == "1" || base == "citext";
    let wire = if base == "citext" { Some(Wire::Text) } else { Wire::of(&base) }.filter(|_| known);
    let json = match base.as_str() {
        "json" => Json::Text,
        "jsonb" => Json::Binary,
        _ => Json::No,
    };
    // The type modifier of texts counts four bytes more.
    let length = modifier.parse::<usize>().ok().and_then(|modifier| modifier.checked_sub(4));
    let length = length.filter(|_| matches!(base.as_str(), "varchar" | "bpchar"));
    let (generated, is_domain) = (generated == "1", is_domain == "1");
    Some(Column { name, number, declared, base, base_sql, wire, json, length, generated, is_domain })
}

const TABLE_IN: &str = "\
    SELECT c.oid::text, n.nspname::text, c.relkind::text, c.relpersistence::text, c.relispartition::int::text, \
      (EXISTS (SELECT FROM pg_trigger g WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 16 = 16 \
         AND (g.tgrelid = c.oid OR g.tgrelid IN (SELECT p.relid FROM pg_partition_tree(c.oid) p))))::int::text \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relname = $1 AND n.nspname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')";

const TABLE_ON_PATH: &str = "\
    SELECT c.oid::text, n.nspname::text, c.relkind::text, c.relpersistence::text, c.relispartition::int::text, \
      (EXISTS (SELECT FROM pg_trigger g WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 16 = 16 \
         AND (g.tgrelid = c.oid OR g.tgrelid IN (SELECT p.relid FROM pg_partition_tree(c.oid) p))))::int::text \
    FROM unnest(current_schemas(false)) WITH ORDINALITY s(name, place) \
    JOIN pg_namespace n ON n.nspname = s.name JOIN pg_class c ON c.relnamespace = n.oid \
    WHERE c.relname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY s.place LIMIT 1";

/// The columns with their types, and the types below all domains.
const COLUMNS: &str = "\
    WITH RECURSIVE base(number, type, modifier, depth) AS ( \
      SELECT attnum, atttypid, atttypmod, 0 FROM pg_attribute WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped \
      UNION ALL \
      SELECT b.number, t.typbasetype, CASE WHEN b.modifier = -1 THEN t.typtypmod ELSE b.modifier END, b.depth + 1 \
      FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd') \
    SELECT DISTINCT ON (a.attnum) a.attname::text, a.attnum::text, format_type(a.atttypid, a.atttypmod), t.typname::text, \
      (n.nspname = 'pg_catalog')::int::text, format_type(t.oid, -1), b.modifier::text, \
      (a.attgenerated <> '')::int::text, (b.depth > 0)::int::text \
    FROM base b JOIN pg_attribute a ON a.attrelid = $1::oid AND a.attnum = b.number \
    JOIN pg_type t ON t.oid = b.type JOIN pg_namespace n ON n.oid = t.typnamespace \
    ORDER BY a.attnum, b.depth DESC";

/// The unique indexes that rows can be paged by: whole, over columns that are never null, in their own order. The
/// primary key comes first, then the shortest.
const KEYS: &str = "\
    SELECT i.indisprimary::int::text, string_agg(a.attname::text, chr(1) ORDER BY k.place) \
    FROM pg_index i CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) k(place) \
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.place] \
    JOIN pg_opclass o ON o.oid = i.indclass[k.place] JOIN pg_am m ON m.oid = o.opcmethod \
    WHERE i.indrelid = $1::oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL \
    GROUP BY i.indexrelid, i.indisprimary, i.indnkeyatts \
    HAVING bool_and(a.attnotnull AND o.opcdefault AND m.amname = 'btree' AND i.indoption[k.place] = 0 \
      AND i.indcollation[k.place] = a.attcollation) AND count(*) = i.indnkeyatts \
    ORDER BY i.indisprimary DESC, count(*), i.indexrelid";

const SIGNATURE: &str = "\
    SELECT md5(concat_ws('|', c.oid, c.relkind, c.relrowsecurity, c.relforcerowsecurity, \
      (SELECT string_agg(concat_ws(':', attnum, attname, atttypid, atttypmod, attnotnull, attgenerated), ',' ORDER BY attnum) \
       FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped), \
      (SELECT string_agg(concat_ws(':', oid, xmin, tgenabled), ',' ORDER BY oid) FROM pg_trigger \
       WHERE tgrelid = c.oid OR (c.relkind = 'p' AND tgrelid IN (SELECT relid FROM pg_partition_tree(c.oid)))), \
      (SELECT string_agg(concat_ws(':', indexrelid, indisvalid, indisprimary), ',' ORDER BY indexrelid) FROM pg_index \
       WHERE indrelid = c.oid AND indisunique))) \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";
