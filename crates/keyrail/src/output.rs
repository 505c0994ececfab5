//! What is printed: JSON for programs, lines and tables for people.

use std::io::Write;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure};

/// How answers are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints an answer.
    pub(crate) fn print(self, answer: &Value) -> Result<(), Failure> {
        let text = if self.json { answer.to_string() } else { render(answer) };
        line(text.trim_end())
    }

    /// Prints an answer that is shown once and kept nowhere.
    pub(crate) fn print_once(self, answer: &Value) -> Result<(), Failure> {
        let text = Zeroizing::new(if self.json { answer.to_string() } else { render(answer) });
        line_once(text.trim_end())
    }
}

/// Prints a line; a reader that went away is no error of ours.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    written(writeln!(out, "{text}").and_then(|()| out.flush()))
}

/// Prints what is shown once: a reader that went away has lost it, and is told so.
pub(crate) fn line_once(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| untold(&error))
}

/// Writes bytes as they are; a reader that went away is no error of ours.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

/// What became of standard output.
pub(crate) fn written(done: std::io::Result<()>) -> Result<(), Failure> {
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(untold(&error)),
        _ => Ok(()),
    }
}

fn untold(error: &std::io::Error) -> Failure {
    Failure::new(
        Exit::Dependency,
        OUTPUT_FAILED,
        format!("cannot write standard output: {error}"),
        "check the disk or the program that reads; a change is made all the same, so look before you ask for it again",
    )
}

/// The code of an answer that could not be written.
pub(crate) const OUTPUT_FAILED: &str = "output_failed";

/// Prints a line beside the answer.
pub(crate) fn note(text: &str) {
    let _closed = writeln!(std::io::stderr().lock(), "{text}");
}

/// An answer for people: fields as lines, lists of things as tables.
pub(crate) fn render(answer: &Value) -> String {
    match answer {
        Value::Object(fields) => page(fields).unwrap_or_else(|| object(fields, 0)),
        Value::Array(rows) if rows.is_empty() => "nothing there".to_owned(),
        Value::Array(rows) => table(rows),
        other => scalar(other),
    }
}

/// A page of a list: its rows as a table, and how to go on.
fn page(fields: &Map<String, Value>) -> Option<String> {
    let next = fields.get("next")?;
    let (_, rows) = fields.iter().find(|(name, _)| *name != "next").filter(|_| fields.len() == 2)?;
    let mut out = render(rows);
    if let Some(next) = next.as_str() {
        out.push_str(&format!("more with --after {next}\n"));
    }
    Some(out)
}

fn object(fields: &Map<String, Value>, indent: usize) -> String {
    let shown = fields.iter().filter(|(_, value)| !is_empty(value));
    let width = shown.clone().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, value) in shown {
        let name = name.replace('_', " ");
        let pad = " ".repeat(indent);
        match value {
            Value::Array(rows) if rows.iter().all(Value::is_object) => {
                let table = table(rows).lines().map(|line| format!("{pad}  {line}\n")).collect::<String>();
                out.push_str(&format!("{pad}{name}:\n{table}"));
            }
            Value::Object(inner) => out.push_str(&format!("{pad}{name}:\n{}", object(inner, indent + 2))),
            other => out.push_str(&format!("{pad}{name:width$}  {}\n", scalar(other))),
        }
    }
    out
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn table(rows: &[Value]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for row in rows.iter().filter_map(Value::as_object) {
        for (name, value) in row {
            if !is_empty(value) && !columns.contains(&name.as_str()) {
                columns.push(name);
            }
        }
    }
    let cell = |row: &Value, column: &str| row.get(column).map(scalar).unwrap_or_default();
    let width =
        |column: &str| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0).max(column.len());
    let widths: Vec<usize> = columns.iter().map(|column| width(column)).collect();
    let mut out = String::new();
    let head: Vec<_> =
        columns.iter().zip(&widths).map(|(column, width)| format!("{:width$}", column.replace('_', " "))).collect();
    out.push_str(&format!("{}\n", head.join("  ").trim_end()));
    for row in rows {
        let cells: Vec<_> =
            columns.iter().zip(&widths).map(|(column, width)| format!("{:width$}", cell(row, column))).collect();
        out.push_str(&format!("{}\n", cells.join("  ").trim_end()));
    }
    out
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => match shortened(text) {
            Some((start, end)) => format!("{start}…{end}"),
            None => text.clone(),
        },
        Value::Number(number) => number.to_string(),
        Value::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !is_empty(value))
            .map(|(name, value)| format!("{name}={}", scalar(value)))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// Beginning and end of a post-quantum recipient, which has two thousand characters; programs get all of it.
fn shortened(text: &str) -> Option<(&str, &str)> {
    let (start, rest) = text.split_at_checked(16).filter(|_| text.starts_with("age1pq1"))?;
    Some((start, rest.split_at_checked(rest.len().checked_sub(6)?)?.1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_tables_and_fields_are_lines() {
        let answer = json!({"name": "pii", "versions": [{"version": 1, "state": "active"}, {"version": 12, "state": "retired"}], "hint": null});
        assert_eq!(
            render(&answer),
            "name      pii\nversions:\n  version  state\n  1        active\n  12       retired\n"
        );
        assert_eq!(render(&json!([])), "nothing there");
        assert_eq!(render(&json!({"keys": [{"name": "a"}], "next": "a"})), "name\na\nmore with --after a\n");
        assert_eq!(render(&json!({"keys": [], "next": null})), "nothing there");
    }
}
