//! Where a PostgreSQL store is: a URL without a password.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

/// The most bytes of a URL.
pub const POSTGRES_URL_LEN_MAX: usize = 2_048;

/// The most hosts of a URL.
pub const POSTGRES_HOSTS_MAX: usize = 8;

/// The URL of a store in PostgreSQL: `postgres://USER@HOST[:PORT][,HOST…]/DATABASE[?SETTING=VALUE&…]`.
///
/// It never holds a password: those are in a password file (`passfile=FILE`, else `PGPASSFILE`, else `~/.pgpass`). So
/// it can be shown and kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PostgresUrl {
    text: String,
    pub(super) user: String,
    pub(super) hosts: Vec<(Host, u16)>,
    pub(super) database: String,
    pub(super) tls: Tls,
    pub(super) passfile: Option<PathBuf>,
}

/// A place that a server listens at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Host {
    /// A name or an address.
    Name(String),
    /// The directory of a unix socket.
    Socket(PathBuf),
}

/// What protects the connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Tls {
    /// Nothing.
    Off,
    /// TLS, with the server's certificate and name verified.
    VerifyFull {
        /// Who vouches for the server; nobody named means the public authorities.
        roots: Option<PathBuf>,
        /// Our own certificate and its key.
        client: Option<(PathBuf, PathBuf)>,
    },
}

/// What is wrong with a URL. No variant holds a part of it that could be a password.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresUrlError {
    /// It is not of the form.
    #[error("the URL of the store is not `postgres://USER@HOST/DATABASE`: its {0} is missing or malformed")]
    Malformed(&'static str),
    /// It holds a password.
    #[error("the URL of the store holds a password")]
    Password,
    /// A setting is unknown or has another value than it may have.
    #[error("the URL of the store has a setting `{0}` that is not known or has no such value")]
    Setting(String),
    /// It asks for TLS that does not tell who answers.
    #[error("the URL of the store asks for TLS that does not verify the server")]
    Unverified,
}

impl PostgresUrlError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Malformed(_) => {
                "an example: postgres://keyrail_app@db.example.org/keyrail?sslrootcert=/etc/keyrail/ca.pem"
            }
            Self::Password => "put it in a password file and name that with passfile=FILE or PGPASSFILE",
            Self::Setting(_) => "known are host, port, sslmode, sslrootcert, sslcert, sslkey and passfile",
            Self::Unverified => "use sslmode=verify-full with sslrootcert=FILE, or sslmode=disable",
        }
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for PostgresUrl {
    type Err = PostgresUrlError;

    fn from_str(text: &str) -> Result<Self, PostgresUrlError> {
        use PostgresUrlError::Malformed;
        if text.len() > POSTGRES_URL_LEN_MAX {
            return Err(Malformed("length"));
        }
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let (place, settings) = split(rest.ok_or(Malformed("scheme"))?, '?');
        // The last one: a password may hold this character, and must not be taken for a host.
        let (who, place) = place.rsplit_once('@').ok_or(Malformed("user"))?;
        if who.contains(':') {
            return Err(PostgresUrlError::Password);
        }
        let (hosts, database) = place.split_once('/').ok_or(Malformed("database"))?;
        let user = decoded(who).filter(|user| !user.is_empty()).ok_or(Malformed("user"))?;
        let database = decoded(database).filter(|name| !name.is_empty()).ok_or(Malformed("database"))?;
        let settings = Settings::parse(settings.unwrap_or_default())?;
        let hosts = match &settings.host {
            Some(host) if hosts.is_empty() => vec![(host_of(host), settings.port.unwrap_or(PORT))],
            Some(_) => return Err(PostgresUrlError::Setting("host".to_owned())),
            None => hosts_of(hosts, settings.port)?,
        };
        let tls = settings.tls(&hosts)?;
        Ok(Self { text: text.to_owned(), user, hosts, database, tls, passfile: settings.passfile })
    }
}

#[derive(Default)]
struct Settings {
    host: Option<String>,
    port: Option<u16>,
    sslmode: Option<String>,
    sslrootcert: Option<PathBuf>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    passfile: Option<PathBuf>,
}

impl Settings {
    fn parse(text: &str) -> Result<Self, PostgresUrlError> {
        let mut settings = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = split(pair, '=');
            if name == "password" {
                return Err(PostgresUrlError::Password);
            }
            let wrong = || PostgresUrlError::Setting(if name.len() <= 32 { name.to_owned() } else { "…".to_owned() });
            let value = value.and_then(decoded).filter(|value| !value.is_empty()).ok_or_else(wrong)?;
            match name {
                "host" => settings.host = Some(value),
                "port" => settings.port = Some(value.parse().map_err(|_| wrong())?),
                "sslmode" => settings.sslmode = Some(value),
                "sslrootcert" => settings.sslrootcert = Some(value.into()),
                "sslcert" => settings.sslcert = Some(value.into()),
                "sslkey" => settings.sslkey = Some(value.into()),
                "passfile" => settings.passfile = Some(value.into()),
                _ => return Err(wrong()),
            }
        }
        Ok(settings)
    }

    fn tls(&self, hosts: &[(Host, u16)]) -> Result<Tls, PostgresUrlError> {
        let setting = |name: &str| PostgresUrlError::Setting(name.to_owned());
        let asked = self.sslrootcert.is_some() || self.sslcert.is_some() || self.sslkey.is_some();
        let verify = match self.sslmode.as_deref() {
            None => asked || !hosts.iter().all(|(host, _)| is_local(host)),
            Some("verify-full") => true,
            Some("disable") => false,
            Some("allow" | "prefer" | "require" | "verify-ca") => return Err(PostgresUrlError::Unverified),
            Some(_) => return Err(setting("sslmode")),
        };
        if !verify {
            return if asked { Err(setting("sslmode")) } else { Ok(Tls::Off) };
        }
        let client = match (&self.sslcert, &self.sslkey) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            (Some(_), None) => return Err(setting("sslkey")),
            (None, Some(_)) => return Err(setting("sslcert")),
        };
        Ok(Tls::VerifyFull { roots: self.sslrootcert.clone(), client })
    }
}

fn hosts_of(text: &str, port: Option<u16>) -> Result<Vec<(Host, u16)>, PostgresUrlError> {
    let malformed = PostgresUrlError::Malformed("host");
    if text.is_empty() || text.split(',').count() > POSTGRES_HOSTS_MAX {
        return Err(malformed);
    }
    let hosts = text.split(',').map(|host| {
        // An IPv6 address stands in brackets.
        let (name, own) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            Some((name, "")) => (name, None),
            Some((name, rest)) => (name, Some(rest.strip_prefix(':')?)),
            None => split(host, ':'),
        };
        let own = own.map(str::parse::<u16>).transpose().ok()?;
        let name = decoded(name).filter(|name| !name.is_empty())?;
        Some((host_of(&name), own.or(port).unwrap_or(PORT)))
    });
    hosts.collect::<Option<_>>().ok_or(malformed)
}

fn host_of(text: &str) -> Host {
    if text.starts_with('/') { Host::Socket(text.into()) } else { Host::Name(text.to_owned()) }
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Socket(_) => true,
        Host::Name(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    (!text.contains('\0')).then(|| text.into_owned())
}

/// Where PostgreSQL listens unless somebody says otherwise.
const PORT: u16 = 5_432;

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> PostgresUrl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_part_of_a_url_is_understood() {
        let url = parsed("postgres://a%40b@one,two:6000,[::1]:7/db%20x?passfile=/p&port=99&sslmode=disable");
        assert_eq!((url.user.as_str(), url.database.as_str()), ("a@b", "db x"));
        let names = [("one", 99), ("two", 6_000), ("::1", 7)];
        assert_eq!(url.hosts, names.map(|(name, port)| (Host::Name(name.to_owned()), port)));
        assert_eq!(url.passfile, Some("/p".into()));
        let socket = vec![(Host::Socket("/run/pg".into()), 5_432)];
        assert_eq!(parsed("postgresql://u@%2Frun%2Fpg/db").hosts, socket);
        assert_eq!(parsed("postgres://u@/db?host=/run/pg").hosts, socket);
    }

    /// What leaves the machine is verified unless somebody says otherwise.
    #[test]
    fn tls_is_verified_wherever_the_way_leaves_the_machine() {
        let full = |roots: Option<&str>| Tls::VerifyFull { roots: roots.map(PathBuf::from), client: None };
        for (text, want) in [
            ("postgres://u@db.example/x", full(None)),
            ("postgres://u@127.0.0.1,db.example/x", full(None)),
            ("postgres://u@127.0.0.2/x", Tls::Off),
            ("postgres://u@[::1]/x", Tls::Off),
            ("postgres://u@localhost/x", Tls::Off),
            ("postgres://u@localhost.example/x", full(None)),
            ("postgres://u@%2Fs/x", Tls::Off),
            ("postgres://u@localhost/x?sslrootcert=/ca", full(Some("/ca"))),
            ("postgres://u@db.example/x?sslmode=disable", Tls::Off),
        ] {
            assert_eq!(parsed(text).tls, want, "{text}");
        }
        let url = parsed("postgres://u@h/x?sslcert=/c&sslkey=/k");
        assert_eq!(url.tls, Tls::VerifyFull { roots: None, client: Some(("/c".into(), "/k".into())) });
        for mode in ["allow", "prefer", "require", "verify-ca"] {
            let refused = format!("postgres://u@h/x?sslmode={mode}").parse::<PostgresUrl>();
            assert_eq!(refused, Err(PostgresUrlError::Unverified));
        }
    }

    #[test]
    fn a_password_is_refused_and_never_repeated() {
        for text in [
            "postgres://u:geheim@h/db",
            "postgres://u:ge@heim@h/db",
            "postgres://u:@h/db",
            "postgres://u@h/db?password=geheim",
            "postgres://u:geheim",
            "mysql://u:geheim@h/db",
            "postgres://u:geheim@h",
        ] {
            let error = text.parse::<PostgresUrl>().unwrap_err();
            let told = format!("{error} {error:?} {}", error.hint());
            assert!(!told.contains("geheim") && !told.contains("heim@"), "{told}");
        }
        assert_eq!("postgres://u:p@h/db".parse::<PostgresUrl>(), Err(PostgresUrlError::Password));
    }

    #[test]
    fn what_is_malformed_is_named() {
        for (text, want) in [
            ("postgres://h/db", "user"),
            ("postgres://@h/db", "user"),
            ("postgres://u@h", "database"),
            ("postgres://u@h/", "database"),
            ("postgres://u@/db", "host"),
            ("postgres://u@h,/db", "host"),
            ("postgres://u@h:0x/db", "host"),
            ("postgres://u@[::1]x/db", "host"),
            ("postgres://u@a,b,c,d,e,f,g,h,i/db", "host"),
            ("postgres://u%00@h/db", "user"),
        ] {
            assert_eq!(text.parse::<PostgresUrl>(), Err(PostgresUrlError::Malformed(want)), "{text}");
        }
        for (text, want) in [
            ("postgres://u@h/db?colour=red", "colour"),
            ("postgres://u@h/db?sslmode=perhaps", "sslmode"),
            ("postgres://u@h/db?sslmode=disable&sslrootcert=/ca", "sslmode"),
            ("postgres://u@h/db?sslcert=/c", "sslkey"),
            ("postgres://u@h/db?passfile=", "passfile"),
            ("postgres://u@h/db?host=/run", "host"),
        ] {
            assert_eq!(text.parse::<PostgresUrl>(), Err(PostgresUrlError::Setting(want.to_owned())), "{text}");
        }
    }
}
