//! Passwords from a password file, as libpq reads it: a line per server, `host:port:database:user:password`.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::url::{Host, PostgresUrl};
use crate::error::StoreError;

/// The most bytes of a password file that are read.
pub const PASSFILE_LEN_MAX: u64 = 65_536;

/// The password for a host of the URL; none if no file has it.
///
/// # Errors
/// [`StoreError::File`]: a file that the URL or `PGPASSFILE` names cannot be read, or others can read it.
pub(super) fn password(url: &PostgresUrl, host: &Host, port: u16) -> Result<Option<Zeroizing<String>>, StoreError> {
    let named = url.passfile.clone().or_else(|| std::env::var_os("PGPASSFILE").map(PathBuf::from));
    let usual = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".pgpass"));
    let path = match (named, usual()) {
        (Some(named), _) => named,
        (None, Some(usual)) if usual.is_file() => usual,
        _ => return Ok(None),
    };
    let text = read(&path).map_err(|source| StoreError::File { path, source })?;
    let name = match host {
        Host::Name(name) => name.as_str(),
        Host::Socket(_) => "localhost",
    };
    Ok(find(&text, &[name, &port.to_string(), &url.database, &url.user]))
}

fn read(path: &Path) -> std::io::Result<Zeroizing<String>> {
    let file = std::fs::File::open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        return Err(std::io::Error::other("the password file can be read by others; give it the mode 0600"));
    }
    // All of it at once: a text that grows leaves copies behind.
    let len = file.metadata()?.len();
    if len > PASSFILE_LEN_MAX {
        return Err(std::io::Error::other("the password file is longer than any that is read"));
    }
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(len).unwrap_or_default() + 1));
    file.take(len).read_to_string(&mut text)?;
    Ok(text)
}

fn find(text: &str, wanted: &[&str; 4]) -> Option<Zeroizing<String>> {
    // Blanks at the end belong to the password.
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(fields).find_map(|mut fields| {
        let password = fields.pop()?;
        let fits = fields.iter().zip(wanted).all(|(field, wanted)| field.as_str() == "*" || field.as_str() == *wanted);
        fits.then_some(password)
    })
}

/// The five fields of a line; a backslash takes the next character as it is.
fn fields(line: &str) -> Option<Vec<Zeroizing<String>>> {
    let mut fields = vec![Zeroizing::new(String::with_capacity(line.len()))];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            // The password goes to the end of the line.
            ':' if fields.len() < 5 => fields.push(Zeroizing::new(String::with_capacity(line.len()))),
            '\\' => fields.last_mut()?.push(letters.next()?),
            other => fields.last_mut()?.push(other),
        }
    }
    (fields.len() == 5).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_at_the_end_belong_to_the_password() {
        let found = find("one:1:*:*:two  \r\n", &["one", "1", "db", "me"]);
        assert_eq!(found.as_deref().map(String::as_str), Some("two  "));
    }

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let text = "# one:1:*:*:never\n\
            short:line\n\
            one:1:db:u:exact\n\
            one:*:*:u:by host\n\
            \\:\\:1:5432:*:*:six\n\
            *:*:*:u:with\\:colon\\\\ and : more\n";
        for (wanted, password) in [
            (["one", "1", "db", "u"], Some("exact")),
            (["one", "2", "db", "u"], Some("by host")),
            (["::1", "5432", "db", "x"], Some("six")),
            (["two", "2", "db", "u"], Some("with:colon\\ and : more")),
            (["two", "2", "db", "v"], None),
        ] {
            assert_eq!(find(text, &wanted).as_ref().map(|found| found.as_str()), password, "{wanted:?}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passfile");
        std::fs::write(&path, "*:*:*:u:secret\n").unwrap();
        let url: PostgresUrl = format!("postgres://u@localhost/db?passfile={}", path.display()).parse().unwrap();
        let host = Host::Name("localhost".to_owned());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let error = password(&url, &host, 5_432).unwrap_err();
        assert!(matches!(error, StoreError::File { .. }), "{error}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(password(&url, &host, 5_432).unwrap().unwrap().as_str(), "secret");
        let absent: PostgresUrl = "postgres://u@localhost/db?passfile=/absent".parse().unwrap();
        assert!(matches!(password(&absent, &host, 5_432), Err(StoreError::File { .. })));
    }
}
