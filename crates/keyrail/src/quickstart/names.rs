//! Whether the table and the columns that a line names are there.

use std::path::Path;

use keyrail_data::sqlite::names;

use crate::failure::{Exit, Failure};

/// How many names a hint lists.
const LISTED_MAX: usize = 20;

/// How many characters of a name are shown.
const NAME_LEN_MAX: usize = 60;

/// Refuses a table or a column that is not there, and says which ones are.
pub(super) fn require(data: &Path, table: &str, columns: &[String]) -> Result<(), Failure> {
    let found = names(data, table).map_err(|error| super::unusable(error, data))?;
    let absent = |title: String, hint: String| Err(Failure::new(Exit::Absent, "asset_absent", title, hint));
    let Some(there) = found.columns else {
        return absent(
            format!("there is no table `{table}` in {}", data.display()),
            match listed(&found.tables) {
                Some(tables) => format!("name one of its tables with --table: {tables}"),
                None => "the database has no tables: name the file of another one with --data".to_owned(),
            },
        );
    };
    // As SQLite compares names.
    let missing = columns.iter().find(|name| !there.iter().any(|column| column.eq_ignore_ascii_case(name)));
    match missing {
        Some(column) => absent(
            format!("there is no column `{column}` in table `{table}`"),
            format!("name some of its columns with --columns: {}", listed(&there).unwrap_or_default()),
        ),
        None => Ok(()),
    }
}

/// The first of the names; whoever made them may have put anything into them.
fn listed(names: &[String]) -> Option<String> {
    let shown = names.iter().take(LISTED_MAX).map(|name| {
        let mut text: String = name.chars().take(NAME_LEN_MAX).flat_map(char::escape_debug).collect();
        if name.chars().count() > NAME_LEN_MAX {
            text.push('…');
        }
        format!("`{text}`")
    });
    let shown: Vec<_> = shown.collect();
    let more = match names.len().saturating_sub(LISTED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!shown.is_empty()).then(|| format!("{}{more}", shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_names_is_short_and_plain() {
        assert_eq!(listed(&[]), None);
        let names = |count: usize| (0..count).map(|i| format!("t{i:02}")).collect::<Vec<_>>();
        assert_eq!(listed(&names(2)).unwrap(), "`t00`, `t01`");
        let many = listed(&names(900)).unwrap();
        assert!(many.starts_with("`t00`, ") && many.ends_with("`t19` and 880 more"), "{many}");
        let odd = listed(&["a\n\u{1b}[2J".to_owned(), "ü".repeat(61)]).unwrap();
        assert_eq!(odd, format!("`a\\n\\u{{1b}}[2J`, `{}…`", "ü".repeat(60)));
    }
}
