//! Where a PostgreSQL database is, as a URL says it. A password is in none of them: the URL stands in the store and is
//! shown.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use zeroize::Zeroizing;

use crate::error::AssetError;

/// The longest password file that is read, in bytes.
const PASSFILE_LEN_MAX: u64 = 1024 * 1024;

/// A database, and how it is reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) database: String,
    tls: Option<Tls>,
    root_cert: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    passfile: Option<PathBuf>,
}

/// How much of TLS is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Tls {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Place {
    /// Reads a URL like `postgres://user@host:5432/database?sslrootcert=/etc/ssl/db.pem`.
    ///
    /// # Errors
    /// [`AssetError::BadUrl`]; its text holds nothing of a password.
    pub(crate) fn parse(url: &str) -> Result<Self, AssetError> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(|| bad("it does not begin with postgres://", FORM))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        if user.contains(':') {
            return Err(password());
        }
        let (host, port) = split_port(host)?;
        let mut place = Self {
            host: decoded(host)?,
            port,
            user: decoded(user)?,
            database: decoded(database)?,
            tls: None,
            root_cert: None,
            cert: None,
            key: None,
            passfile: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            place.set(name, decoded(value)?)?;
        }
        if place.cert.is_some() != place.key.is_some() {
            return Err(bad("it names only one of sslcert and sslkey", "name both, or neither"));
        }
        for (what, value) in [("host", &place.host), ("user", &place.user), ("database", &place.database)] {
            if value.is_empty() {
                return Err(bad(&format!("it names no {what}"), FORM));
            }
        }
        Ok(place)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), AssetError> {
        match name {
            "host" => self.host = value,
            "port" => self.port = value.parse().map_err(|_| bad("its port is no number", FORM))?,
            "user" => self.user = value,
            "dbname" => self.database = value,
            "sslmode" => {
                self.tls = Some(match value.as_str() {
                    "disable" => Tls::Disable,
                    "prefer" => Tls::Prefer,
                    "require" => Tls::Require,
                    "verify-ca" => Tls::VerifyCa,
                    "verify-full" => Tls::VerifyFull,
                    _ => {
                        return Err(bad(
                            "its sslmode is unknown",
                            "choose verify-full, verify-ca, require, prefer or disable",
                        ));
                    }
                });
            }
            "sslrootcert" => self.root_cert = Some(value.into()),
            "sslcert" => self.cert = Some(value.into()),
            "sslkey" => self.key = Some(value.into()),
            "passfile" => self.passfile = Some(value.into()),
            "password" | "sslpassword" => return Err(password()),
            _ => {
                let known = "known are host, port, user, dbname, sslmode, sslrootcert, sslcert, sslkey and passfile";
                // Where no user stands before it, it may be what follows a question mark in a password.
                let which =
                    if self.user.is_empty() { "a parameter".to_owned() } else { format!("its parameter `{name}`") };
                return Err(bad(&format!("{which} is unknown"), known));
            }
        }
        Ok(())
    }

    /// Whether the server is on this machine.
    fn is_local(&self) -> bool {
        let ip = self.host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        self.host.starts_with('/') || self.host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether somebody in the network between could read what is sent, or take the server's place.
    pub(crate) fn is_exposed(&self) -> bool {
        !self.is_local() && !matches!(self.tls, None | Some(Tls::VerifyFull))
    }

    /// Whether two URLs lead to one database, as far as they tell.
    pub(crate) fn is_same_database(&self, other: &Self) -> bool {
        (&self.host, self.port, &self.database) == (&other.host, other.port, &other.database)
    }

    /// What the driver connects with, a password from a password file included. Its `Debug` would show that.
    ///
    /// # Errors
    /// [`AssetError::BadUrl`] for a password file that cannot be read, or that others may read.
    pub(super) fn options(&self) -> Result<PgConnectOptions, AssetError> {
        let local = if self.host.starts_with('/') { Tls::Disable } else { Tls::Prefer };
        let mode = match self.tls.unwrap_or(if self.is_local() { local } else { Tls::VerifyFull }) {
            Tls::Disable => PgSslMode::Disable,
            Tls::Prefer => PgSslMode::Prefer,
            Tls::Require => PgSslMode::Require,
            Tls::VerifyCa => PgSslMode::VerifyCa,
            Tls::VerifyFull => PgSslMode::VerifyFull,
        };
        let mut options = PgConnectOptions::new_without_pgpass().port(self.port).username(&self.user);
        options =
            options.database(&self.database).ssl_mode(mode).application_name("keyrail").disable_statement_logging();
        options = if self.host.starts_with('/') {
            options.socket(&self.host)
        } else {
            options.host(self.host.trim_matches(['[', ']']))
        };
        if let Some(path) = &self.root_cert {
            options = options.ssl_root_cert(path);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            options = options.ssl_client_cert(cert).ssl_client_key(key);
        }
        // An empty one instead of none: the driver would take one from the environment, which is not meant for whatever
        // host an operator names.
        let password = self.password()?;
        Ok(options.password(password.as_ref().map_or("", |password| password.as_str())))
    }

    fn password(&self) -> Result<Option<Zeroizing<String>>, AssetError> {
        let named = self.passfile.clone().or_else(|| std::env::var_os("PGPASSFILE").map(PathBuf::from));
        let path = match named {
            Some(path) => path,
            None => match std::env::home_dir().map(|home| home.join(".pgpass")) {
                Some(path) if path.exists() => path,
                _ => return Ok(None),
            },
        };
        let text = read_private(&path)?;
        Ok(text.lines().find_map(|line| self.password_in(line)))
    }

    /// The password of a line `host:port:database:user:password`, if it is for this place. A line for any host is for
    /// none: whoever may add assets would have the password sent to a host of his own.
    fn password_in(&self, line: &str) -> Option<Zeroizing<String>> {
        if line.starts_with('#') {
            return None;
        }
        let text = || Zeroizing::new(String::with_capacity(line.len()));
        let (mut fields, mut field, mut chars) = (Vec::new(), text(), line.chars());
        while let Some(next) = chars.next() {
            match next {
                '\\' => field.extend(chars.next()),
                ':' if fields.len() < 4 => fields.push(std::mem::replace(&mut field, text())),
                other => field.push(other),
            }
        }
        let port = self.port.to_string();
        let [host, rest @ ..] = fields.as_slice() else { return None };
        let is_usual_socket = host.as_str() == "localhost" && SOCKET_DIRS.contains(&self.host.as_str());
        let is_for = |(field, want): (&Zeroizing<String>, &str)| field.as_str() == "*" || field.as_str() == want;
        let matches = rest.len() == 3
            && (host.as_str() == self.host || is_usual_socket)
            && rest.iter().zip([port.as_str(), &self.database, &self.user]).all(is_for);
        matches.then_some(field)
    }
}

/// Where packages put the socket, which nobody else can write to: `localhost` in a password file means them, too.
const SOCKET_DIRS: [&str; 2] = ["/run/postgresql", "/var/run/postgresql"];

fn read_private(path: &Path) -> Result<Zeroizing<String>, AssetError> {
    let problem = |what: &str| {
        bad(
            &format!("the password file `{}` {what}", path.display()),
            "name one with passfile=FILE, which its owner alone may read (mode 0600)",
        )
    };
    let file = File::open(path).map_err(|_| problem("cannot be read"))?;
    let mode = file.metadata().map_err(|_| problem("cannot be read"))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(problem("may be read by others"));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(PASSFILE_LEN_MAX).read_to_string(&mut text).map_err(|_| problem("cannot be read"))?;
    Ok(text)
}

fn split_port(host: &str) -> Result<(&str, u16), AssetError> {
    if host.contains(',') {
        return Err(bad("it names several hosts", "name the one that takes writes, or an address that follows it"));
    }
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => {
            Ok((name, port.parse().map_err(|_| bad("its port is no number", FORM))?))
        }
        _ => Ok((host, 5432)),
    }
}

fn decoded(text: &str) -> Result<String, AssetError> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| bad("it is not UTF-8", FORM))?;
    Ok(text.into_owned())
}

fn bad(problem: &str, hint: &str) -> AssetError {
    AssetError::BadUrl { problem: problem.to_owned(), hint: hint.to_owned() }
}

fn password() -> AssetError {
    bad(
        "it holds a password, and it is stored and shown",
        "leave the password out and put it into a password file: passfile=FILE at the end of the URL, or PGPASSFILE",
    )
}

const FORM: &str = "write it like postgres://user@host:5432/database";

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(url: &str) -> String {
        Place::parse(url).unwrap_err().to_string()
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        for url in [
            "postgres://app:Tr0ub4dor@db.example/crm",
            "postgres://app:Tr0ub4dor@db.example",
            "postgresql://app@db.example/crm?password=Tr0ub4dor",
            "postgres://app@db.example/crm?sslmode=verify-full&password=Tr0ub4dor",
            "postgres://app@db.example/crm?sslpassword=Tr0ub4dor",
            "postgres://app@db.example/crm?sslmode=Tr0ub4dor",
            "postgres://app:12?Tr0ub4dor@db.example/crm",
        ] {
            let error = Place::parse(url).unwrap_err();
            assert!(!format!("{error} {error:?} {}", error.hint()).contains("Tr0ub4dor"), "{url}");
        }
        assert!(problem("postgres://app:pw@db.example/crm").contains("password"));
    }

    #[test]
    fn a_url_says_where_a_database_is() {
        let place = Place::parse("postgres://app%40x@db.example:5433/c%20rm?sslrootcert=/etc/ca.pem").unwrap();
        assert_eq!(
            (place.host.as_str(), place.port, place.user.as_str(), place.database.as_str()),
            ("db.example", 5433, "app@x", "c rm")
        );
        let socket = Place::parse("postgres://app@%2Frun%2Fpostgresql/crm").unwrap();
        assert_eq!((socket.host.as_str(), socket.port), ("/run/postgresql", 5432));
        assert_eq!(Place::parse("postgres://app@/crm?host=/run/postgresql").unwrap(), socket);
        assert_eq!(Place::parse("postgres://app@[::1]:5433/crm").unwrap().port, 5433);
        for (url, want) in [
            ("postgres://app@/crm", "no host"),
            ("postgres://db.example/crm", "no user"),
            ("postgres://app@db.example", "no database"),
            ("postgres://app@db.example:x/crm", "port"),
            ("postgres://app@one,two/crm", "several hosts"),
            ("postgres://app@db.example/crm?sslmod=disable", "`sslmod`"),
            ("postgres://app@db.example/crm?sslcert=/etc/crm.pem", "only one of sslcert and sslkey"),
        ] {
            assert!(problem(url).contains(want), "{url}: {}", problem(url));
        }
    }

    #[test]
    fn another_machine_is_reached_by_verified_tls_unless_somebody_says_otherwise() {
        let mode = |url: &str| format!("{:?}", Place::parse(url).unwrap().options().unwrap().get_ssl_mode());
        assert_eq!(mode("postgres://app@db.example/crm"), "VerifyFull");
        assert_eq!(mode("postgres://app@db.example/crm?sslmode=require"), "Require");
        assert_eq!(mode("postgres://app@127.0.0.1/crm"), "Prefer");
        assert_eq!(mode("postgres://app@[::1]/crm"), "Prefer");
        assert_eq!(mode("postgres://app@%2Frun/crm"), "Disable");
        assert!(Place::parse("postgres://app@db.example/crm?sslmode=verify-ca").unwrap().is_exposed());
        assert!(!Place::parse("postgres://app@localhost/crm?sslmode=disable").unwrap().is_exposed());
    }

    #[test]
    fn a_password_comes_from_the_line_for_the_place() {
        let place = Place::parse("postgres://app@db.example/crm").unwrap();
        let rows = [
            ("*:*:*:*:no", None),
            ("*:5432:crm:app:no", None),
            ("db.example:*:*:*:one", Some("one")),
            ("db.example:5432:crm:app:t\\:w\\\\o:x", Some("t:w\\o:x")),
            ("db.example:5433:crm:app:no", None),
            ("#*:*:*:*:no", None),
            ("db.example:5432:crm", None),
            ("", None),
        ];
        for (line, want) in rows {
            assert_eq!(place.password_in(line).as_ref().map(|found| found.as_str()), want, "{line}");
        }
        for (dir, line, want) in [
            ("%2Frun%2Fpostgresql", "localhost:*:*:app:yes", true),
            ("%2Frun%2Fpostgresql", "/run/postgresql:*:*:app:yes", true),
            ("%2Ftmp%2Fmine", "localhost:*:*:app:yes", false),
            ("%2Ftmp%2Fmine", "/tmp/mine:*:*:app:yes", true),
        ] {
            let socket = Place::parse(&format!("postgres://app@{dir}/crm")).unwrap();
            assert_eq!(socket.password_in(line).is_some(), want, "{dir} {line}");
        }
    }

    #[test]
    fn a_password_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pass");
        std::fs::write(&path, "db:*:*:*:secret\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let place = Place::parse(&format!("postgres://app@db/crm?passfile={}", path.display())).unwrap();
        assert!(place.password().unwrap_err().to_string().contains("may be read by others"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(place.password().unwrap().unwrap().as_str(), "secret");
    }
}
