//! Names: how people call domains, environments, apps and keys.
//!
//! A name is parsed once, at the edge; nobody checks it again.

use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;

use crate::text::serde_as_text;

/// Longest name of one segment, in bytes.
pub const NAME_LEN_MAX: usize = 63;

/// A name of one segment: `[a-z0-9][a-z0-9-]{0,62}`. Every request makes several: short ones need no memory of their own.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name(CompactString);

impl Name {
    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let mut bytes = text.bytes();
        let valid = text.len() <= NAME_LEN_MAX
            && bytes.next().is_some_and(fits)
            && bytes.all(|byte| fits(byte) || byte == b'-');
        if valid { Ok(Self(text.into())) } else { Err(NameError::Segment { text: shorten(text) }) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Writes the segments of a path: one by one, since every record has such a path in it.
fn write_path(f: &mut fmt::Formatter<'_>, segments: &[&Name]) -> fmt::Result {
    for (index, segment) in segments.iter().enumerate() {
        if index > 0 {
            f.write_str("/")?;
        }
        f.write_str(segment.as_str())?;
    }
    Ok(())
}

/// A domain and an environment, `acme/prod`: what one set of master keys belongs to.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EnvironmentPath {
    /// The domain's name.
    pub domain: Name,
    /// The environment's name.
    pub environment: Name,
}

impl FromStr for EnvironmentPath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let [domain, environment] = split(text, "domain/environment")?;
        Ok(Self { domain, environment })
    }
}

impl fmt::Display for EnvironmentPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_path(f, &[&self.domain, &self.environment])
    }
}

/// An app in an environment, `acme/prod/crm`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AppPath {
    /// Where the app runs.
    pub environment: EnvironmentPath,
    /// The app's own name.
    pub app: Name,
}

impl FromStr for AppPath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let [domain, environment, app] = split(text, "domain/environment/app")?;
        Ok(Self { environment: EnvironmentPath { domain, environment }, app })
    }
}

impl fmt::Display for AppPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EnvironmentPath { domain, environment } = &self.environment;
        write_path(f, &[domain, environment, &self.app])
    }
}

/// A data key's full name, `acme/prod/crm/customer-pii`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyName {
    /// The app that uses the key.
    pub app: AppPath,
    /// The key's own name.
    pub key: Name,
}

impl FromStr for KeyName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let [domain, environment, app, key] = split(text, "domain/environment/app/name")?;
        let environment = EnvironmentPath { domain, environment };
        Ok(Self { app: AppPath { environment, app }, key })
    }
}

impl KeyName {
    /// The name as one text, as it is written: every record has one in it.
    pub fn text(&self) -> String {
        let AppPath { environment: EnvironmentPath { domain, environment }, app } = &self.app;
        [domain, environment, app, &self.key].map(Name::as_str).join("/")
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AppPath { environment: EnvironmentPath { domain, environment }, app } = &self.app;
        write_path(f, &[domain, environment, app, &self.key])
    }
}

/// The number of a key version, counted from 1 within its key.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Serialize)]
#[serde(transparent)]
pub struct VersionNumber(u32);

impl<'de> serde::Deserialize<'de> for VersionNumber {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| serde::de::Error::custom("versions are counted from 1"))
    }
}

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for VersionNumber {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new().schema_type(utoipa::openapi::Type::Integer).minimum(Some(1)).into()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for VersionNumber {}

impl VersionNumber {
    /// The first version of a key.
    pub const FIRST: Self = Self(1);

    /// The number, or `None` for zero.
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The plain number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The version after this one, or `None` at the end of the range.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A version of a data key as people write it, `acme/prod/crm/customer-pii@2`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyVersionName {
    /// The key.
    pub key: KeyName,
    /// Its version.
    pub version: VersionNumber,
}

impl FromStr for KeyVersionName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Version { text: shorten(text) };
        let (key, version) = text.split_once('@').ok_or_else(wrong)?;
        let digits = !version.starts_with('+') && !version.starts_with('0');
        let version = version.parse().ok().filter(|_| digits).and_then(VersionNumber::new);
        Ok(Self { key: key.parse()?, version: version.ok_or_else(wrong)? })
    }
}

impl fmt::Display for KeyVersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.version)
    }
}

serde_as_text!(Name, EnvironmentPath, AppPath, KeyName, KeyVersionName);

/// Why a text is not a name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// A path has too few or too many segments.
    #[error("`{text}` is not of the form {form}")]
    Form {
        /// What was given, shortened.
        text: String,
        /// What a path of this kind looks like.
        form: &'static str,
    },
    /// A segment has a character or a length that names do not have.
    #[error("`{text}` is not a name")]
    Segment {
        /// What was given, shortened.
        text: String,
    },
    /// A key version is not written `NAME@V`.
    #[error("`{text}` is not a key version of the form domain/environment/app/name@version")]
    Version {
        /// What was given, shortened.
        text: String,
    },
}

impl NameError {
    /// What the caller can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Form { .. } | Self::Version { .. } => {
                "write it like acme/prod/crm/customer-pii, a version like acme/prod/crm/customer-pii@2"
            }
            Self::Segment { .. } => "a name has 1 to 63 characters: a-z, 0-9 and -, and does not begin with -",
        }
    }
}

/// A word that is none of the words known at this place.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{text}` is not a {what} (one of: {known})")]
pub struct UnknownWord {
    what: &'static str,
    text: String,
    known: String,
}

impl UnknownWord {
    pub(crate) fn new(what: &'static str, text: &str, known: &[&str]) -> Self {
        Self { what, text: shorten(text), known: known.join(", ") }
    }
}

fn split<const N: usize>(text: &str, form: &'static str) -> Result<[Name; N], NameError> {
    let wrong = || NameError::Form { text: shorten(text), form };
    if text.len() > N * (NAME_LEN_MAX + 1) {
        return Err(wrong());
    }
    let names = text.split('/').map(Name::from_str).collect::<Result<Vec<_>, _>>()?;
    names.try_into().map_err(|_| wrong())
}

/// Outside text in an error is cut, and shows no control characters.
fn shorten(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// How much of a wrong text an error shows, in characters.
const SHOWN_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_lower_case_letters_digits_and_inner_hyphens() {
        for good in ["a", "0", "crm", "customer-pii", "a-", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "a.b", "ä", "a b", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_have_their_number_of_segments() {
        assert!("acme/prod".parse::<EnvironmentPath>().is_ok());
        assert!("acme/prod/crm/pii".parse::<KeyName>().is_ok());
        for bad in ["acme", "acme/prod/crm", "acme//crm/pii", "/acme/prod/crm", "acme/prod/crm/pii/x"] {
            assert!(bad.parse::<KeyName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_version_is_written_after_an_at_sign() {
        let name: KeyVersionName = "acme/prod/crm/pii@12".parse().unwrap();
        assert_eq!(name.version.get(), 12);
        assert_eq!(name.to_string(), "acme/prod/crm/pii@12");
        for bad in [
            "acme/prod/crm/pii",
            "acme/prod/crm/pii@0",
            "acme/prod/crm/pii@01",
            "acme/prod/crm/pii@+1",
            "acme/prod/crm/pii@4294967296",
        ] {
            assert!(bad.parse::<KeyVersionName>().is_err(), "{bad}");
        }
    }

    /// The rule as the contract writes it, read by somebody else.
    fn fits_the_pattern(text: &str) -> bool {
        let chars: Vec<char> = text.chars().collect();
        let first = |c: &char| matches!(c, 'a'..='z' | '0'..='9');
        (1..=63).contains(&chars.len()) && first(&chars[0]) && chars.iter().all(|c| first(c) || *c == '-')
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..Default::default() })]

        #[test]
        fn a_name_reads_back_what_it_prints(text in "[a-z0-9][a-z0-9-]{0,62}") {
            let name: Name = text.parse().unwrap();
            proptest::prop_assert_eq!(name.to_string(), text.clone());
            let json = serde_json::to_string(&name).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<Name>(&json).unwrap(), name);
        }

        #[test]
        fn everything_else_is_refused(text in "\\PC{0,70}|[a-z0-9-]{0,70}|[a-zA-Z0-9_.-]{1,4}") {
            proptest::prop_assert_eq!(text.parse::<Name>().is_ok(), fits_the_pattern(&text));
        }

        #[test]
        fn paths_read_back_what_they_print(parts in proptest::collection::vec("[a-z0-9][a-z0-9-]{0,62}", 4), version in 1_u32..) {
            let key: KeyName = parts.join("/").parse().unwrap();
            proptest::prop_assert_eq!(key.to_string(), parts.join("/"));
            proptest::prop_assert_eq!(key.app.to_string().parse::<AppPath>().unwrap(), key.app.clone());
            let environment = key.app.environment.clone();
            proptest::prop_assert_eq!(environment.to_string().parse::<EnvironmentPath>().unwrap(), environment);
            let text = format!("{key}@{version}");
            let named: KeyVersionName = text.parse().unwrap();
            proptest::prop_assert_eq!(named.to_string(), text);
        }

        #[test]
        fn a_path_with_another_number_of_segments_is_refused(parts in proptest::collection::vec("[a-z0-9]{0,3}", 0..8)) {
            let text = parts.join("/");
            let whole = parts.iter().all(|part| !part.is_empty());
            proptest::prop_assert_eq!(text.parse::<KeyName>().is_ok(), whole && parts.len() == 4);
            proptest::prop_assert_eq!(text.parse::<AppPath>().is_ok(), whole && parts.len() == 3);
            proptest::prop_assert_eq!(text.parse::<EnvironmentPath>().is_ok(), whole && parts.len() == 2);
        }

        #[test]
        fn no_text_makes_a_version_of_another_spelling(text in "[ +0-9a-f.-]{0,12}") {
            if let Ok(name) = format!("a/b/c/d@{text}").parse::<KeyVersionName>() {
                proptest::prop_assert_eq!(name.version.to_string(), text);
            }
        }
    }

    #[test]
    fn a_version_in_json_is_counted_from_one() {
        assert_eq!(serde_json::from_str::<VersionNumber>("7").unwrap().get(), 7);
        for bad in ["0", "-1", "4294967296", "1.5", "\"1\""] {
            assert!(serde_json::from_str::<VersionNumber>(bad).is_err(), "{bad}");
        }
        assert_eq!(VersionNumber::new(u32::MAX).unwrap().next(), None);
    }

    #[test]
    fn an_error_shows_a_wrong_text_cut_and_without_control_characters() {
        let error = format!("\u{1b}[31m{}", "x".repeat(1_000)).parse::<Name>().unwrap_err().to_string();
        assert!(error.chars().count() < 120 && !error.contains('\u{1b}'), "{error}");
    }
}
