//! Statements for any table, in the words that all databases share. Names come from [`Table`], never from outside;
//! values are bound.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;

use crate::driver::{Condition, SELECT_ROWS_MAX, Select, Value, Write};
use crate::row::{TABLES, Table};

/// In what the databases differ.
pub(crate) struct Dialect {
    /// What stands before the number of a bound value.
    pub(crate) mark: char,
    /// What stands before the name of a table.
    pub(crate) schema: &'static str,
    /// The texts of writes, made once: a large change has thousands of them.
    writes: OnceLock<HashMap<&'static str, WriteTexts>>,
}

/// The statements that write one table.
struct WriteTexts {
    insert: String,
    update: String,
    delete: String,
}

/// A statement and the values of its marks, in their order.
pub(crate) struct Statement<'a> {
    /// The text.
    pub(crate) sql: Cow<'a, str>,
    /// The values.
    pub(crate) values: Vec<Cow<'a, Value>>,
}

impl Dialect {
    pub(crate) const fn new(mark: char, schema: &'static str) -> Self {
        Self { mark, schema, writes: OnceLock::new() }
    }

    pub(crate) fn select<'a>(&self, select: &'a Select) -> Statement<'a> {
        let mut values = Vec::new();
        let mut wheres = self.conditions(&select.conditions, &mut values);
        if let Some(after) = &select.after {
            let marks = self.marks(values.len(), select.order.len());
            wheres.push(format!("({}) > ({marks})", list(select.order)));
            values.extend(after.iter().map(Cow::Borrowed));
        }
        let sql = format!(
            "/* select */ SELECT {}, seal FROM {}{} ORDER BY {} LIMIT {}",
            list(select.table.columns),
            self.name(select.table),
            where_clause(&wheres),
            list(select.order),
            select.limit.min(SELECT_ROWS_MAX),
        );
        Statement { sql: sql.into(), values }
    }

    pub(crate) fn count<'a>(&self, table: &Table, conditions: &'a [Condition]) -> Statement<'a> {
        let mut values = Vec::new();
        let wheres = self.conditions(conditions, &mut values);
        let sql = format!("/* count */ SELECT count(*) FROM {}{}", self.name(table), where_clause(&wheres));
        Statement { sql: sql.into(), values }
    }

    pub(crate) fn write<'a>(&'a self, write: &'a Write) -> Statement<'a> {
        let texts = self.texts(write.table());
        let borrowed = |text: &'a String| Cow::Borrowed(text.as_str());
        match write {
            Write::Insert { values, .. } => {
                Statement { sql: borrowed(&texts.insert), values: values.iter().map(Cow::Borrowed).collect() }
            }
            Write::Update { table, values, former_generation } => {
                let pairs = table.columns.iter().chain(&["seal"]).zip(values);
                let set = pairs.clone().filter(|(column, _)| !table.is_fixed(column));
                let key = pairs.filter(|(column, _)| table.key.contains(column));
                let former = Value::Integer(i64::try_from(*former_generation).unwrap_or(i64::MAX));
                let bound = set.chain(key).map(|(_, value)| Cow::Borrowed(value)).chain([Cow::Owned(former)]);
                Statement { sql: borrowed(&texts.update), values: bound.collect() }
            }
            Write::Delete { key, .. } => {
                Statement { sql: borrowed(&texts.delete), values: key.iter().map(Cow::Borrowed).collect() }
            }
        }
    }

    fn texts(&self, table: &'static Table) -> &WriteTexts {
        let all = || TABLES.iter().map(|table| (table.name, self.write_texts(table))).collect();
        // Every table is among those.
        &self.writes.get_or_init(all)[table.name]
    }

    fn write_texts(&self, table: &Table) -> WriteTexts {
        let (name, columns, marks) = (self.name(table), list(table.columns), self.marks(0, table.columns.len() + 1));
        let set: Vec<&str> =
            table.columns.iter().copied().chain(["seal"]).filter(|column| !table.is_fixed(column)).collect();
        let sets = self.equals(&set, 0, ", ");
        let keys = self.equals(table.key, set.len(), " AND ");
        let generation = self.marks(set.len() + table.key.len(), 1);
        WriteTexts {
            insert: format!("/* insert */ INSERT INTO {name} ({columns}, seal) VALUES ({marks})"),
            update: format!("/* update */ UPDATE {name} SET {sets} WHERE {keys} AND \"generation\" = {generation}"),
            delete: format!("/* delete */ DELETE FROM {name} WHERE {}", self.equals(table.key, 0, " AND ")),
        }
    }

    fn conditions<'a>(&self, conditions: &'a [Condition], values: &mut Vec<Cow<'a, Value>>) -> Vec<String> {
        let sql = conditions.iter().map(|condition| {
            let (column, operator, value) = match condition {
                Condition::Equal(column, value) => (column, "=", value),
                Condition::Less(column, value) => (column, "<", value),
            };
            values.push(Cow::Borrowed(value));
            format!("{} {operator} {}{}", quoted(column), self.mark, values.len())
        });
        sql.collect()
    }

    fn marks(&self, before: usize, count: usize) -> String {
        let marks: Vec<_> = (1..=count).map(|number| format!("{}{}", self.mark, before + number)).collect();
        marks.join(", ")
    }

    fn equals(&self, columns: &[&str], before: usize, between: &str) -> String {
        let numbered = columns.iter().zip(before + 1..);
        let equals: Vec<_> =
            numbered.map(|(column, number)| format!("{} = {}{number}", quoted(column), self.mark)).collect();
        equals.join(between)
    }

    fn name(&self, table: &Table) -> String {
        format!("{}{}", self.schema, quoted(table.name))
    }
}

fn where_clause(wheres: &[String]) -> String {
    if wheres.is_empty() { String::new() } else { format!(" WHERE {}", wheres.join(" AND ")) }
}

fn list(columns: &[&str]) -> String {
    let quoted: Vec<_> = columns.iter().map(|column| quoted(column)).collect();
    quoted.join(", ")
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_has_its_number_in_each_dialect() {
        let table = crate::row::TABLES.iter().find(|table| table.name == "accepted_damage").unwrap();
        let write = Write::Update { table, values: vec![Value::Null; 9], former_generation: 3 };
        let dialect = Dialect::new('$', "s.");
        let sql = dialect.write(&write);
        assert!(
            sql.sql.starts_with("/* update */ UPDATE s.\"accepted_damage\" SET \"bytes_sha256\" = $1, "),
            "{}",
            sql.sql
        );
        let end = "\"seal\" = $6 WHERE \"asset\" = $7 AND \"column\" = $8 AND \"row\" = $9 AND \"generation\" = $10";
        assert!(sql.sql.ends_with(end), "{}", sql.sql);
        assert_eq!(sql.values.len(), 10);
        let select = Select {
            table,
            conditions: vec![Condition::Less("row", Value::Null)],
            order: table.key,
            after: Some(vec![Value::Null; 3]),
            limit: 5,
        };
        let sql = Dialect::new('?', "").select(&select).sql.into_owned();
        let end = "FROM \"accepted_damage\" WHERE \"row\" < ?1 AND (\"asset\", \"column\", \"row\") > (?2, ?3, ?4) \
                   ORDER BY \"asset\", \"column\", \"row\" LIMIT 5";
        assert!(sql.ends_with(end), "{sql}");
    }
}
