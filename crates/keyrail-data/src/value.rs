//! Values of foreign tables, and what a protected value is bound to (`spec/asset-value.md`).

use keyrail_core::id::{AssetId, ColumnId};
use keyrail_crypto::digest::sha256;
use keyrail_crypto::envelope::{Context, ContextError};

/// A value with its storage class. Text is kept as the bytes that are stored, which need not be UTF-8.
#[derive(Clone, Debug, PartialEq)]
pub enum Sql {
    /// No value.
    Null,
    /// A whole number.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text, as its bytes.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
    /// A value of a type that SQLite does not have, in its canonical text (`spec/asset-value.md`). Such values tell rows
    /// apart; none is protected itself.
    Typed(Kind, String),
}

/// The types of [`Sql::Typed`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A decimal number of any length, without zeros that say nothing.
    Decimal,
    /// A UUID.
    Uuid,
    /// Days since 1970-01-01.
    Date,
    /// Microseconds since 1970-01-01T00:00:00, wherever that is.
    Timestamp,
    /// Microseconds since 1970-01-01T00:00:00Z.
    Instant,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [Self::Boolean, Self::Decimal, Self::Uuid, Self::Date, Self::Timestamp, Self::Instant];

    /// The letter of the typed encoding.
    pub const fn letter(self) -> char {
        match self {
            Self::Boolean => 'l',
            Self::Decimal => 'd',
            Self::Uuid => 'u',
            Self::Date => 'c',
            Self::Timestamp => 'w',
            Self::Instant => 'z',
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Decimal => "numeric",
            Self::Uuid => "uuid",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::Instant => "timestamptz",
        }
    }
}

impl Sql {
    /// The name of the storage class, as SQLite's `typeof` has it, or of the type.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Integer(_) => "integer",
            Self::Real(_) => "real",
            Self::Text(_) => "text",
            Self::Blob(_) => "blob",
            Self::Typed(kind, _) => kind.name(),
        }
    }

    /// Bytes of content, for counting.
    pub const fn len(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Integer(_) | Self::Real(_) => 8,
            Self::Text(bytes) | Self::Blob(bytes) => bytes.len(),
            Self::Typed(_, text) => text.len(),
        }
    }

    /// Whether there is no content.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The longest typed encoding of a row that is used as it is, in bytes; longer ones are hashed.
const ROW_LEN_MAX: usize = 1_024;

/// The identity of a row, in the one typed encoding: it is bound into each protected value of the row.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct RowIdentity(String);

impl RowIdentity {
    /// The identity made of these values, in the order of the asset's identity columns.
    pub fn of(values: &[Sql]) -> Self {
        let parts: Vec<_> = values.iter().map(typed).collect();
        let whole = parts.join(",");
        if whole.len() <= ROW_LEN_MAX {
            Self(whole)
        } else {
            Self(format!("h{}", hex::encode(sha256(whole.as_bytes()))))
        }
    }

    /// An identity that was printed before, as it stands.
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The encoding.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RowIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One letter for the class, then the value; no two values look alike, and none holds a comma.
fn typed(value: &Sql) -> String {
    match value {
        Sql::Null => "n".to_owned(),
        Sql::Integer(number) => format!("i{number}"),
        Sql::Real(number) => format!("r{:016x}", number.to_bits()),
        Sql::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if text.bytes().all(is_plain) => format!("t{text}"),
            _ => format!("x{}", hex::encode(bytes)),
        },
        Sql::Blob(bytes) => format!("b{}", hex::encode(bytes)),
        Sql::Typed(kind, text) => format!("{}{text}", kind.letter()),
    }
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@' | b':' | b'/')
}

/// What a value was before it was protected, where its cell does not tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// The cell tells: text in a text, bytes in a blob, a string in JSON.
    Same,
    /// A whole number, in decimal.
    Integer,
    /// A floating-point number, in its shortest decimal form.
    Real,
    /// JSON that is no plain string, as it was written.
    Json,
}

impl Class {
    const fn name(self) -> Option<&'static str> {
        match self {
            Self::Same => None,
            Self::Integer => Some("integer"),
            Self::Real => Some("real"),
            Self::Json => Some("json"),
        }
    }
}

/// Where a value belongs.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The asset.
    pub asset: &'a AssetId,
    /// The column.
    pub column: &'a ColumnId,
    /// The row; `None` if the asset declares no identity.
    pub row: Option<&'a RowIdentity>,
}

impl Binding<'_> {
    /// The envelope's context.
    ///
    /// # Errors
    /// [`ContextError`] never happens for identities made by [`RowIdentity::of`].
    pub fn context(&self, class: Class) -> Result<Context, ContextError> {
        let mut pairs = vec![("keyrail.asset", self.asset.to_string()), ("keyrail.column", self.column.to_string())];
        pairs.extend(self.row.map(|row| ("keyrail.row", row.as_str().to_owned())));
        pairs.extend(class.name().map(|name| ("keyrail.class", name.to_owned())));
        Context::from_pairs(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rows_look_alike() {
        let rows: &[(&[Sql], &str)] = &[
            (&[Sql::Null], "n"),
            (&[Sql::Integer(7)], "i7"),
            (&[Sql::Integer(-7)], "i-7"),
            (&[Sql::Real(7.0)], "r401c000000000000"),
            (&[Sql::Text(b"7".to_vec())], "t7"),
            (&[Sql::Text("Zoë".into())], "x5a6fc3ab"),
            (&[Sql::Text(vec![0xff])], "xff"),
            (&[Sql::Text(Vec::new())], "t"),
            (&[Sql::Text(b"a,b".to_vec())], "x612c62"),
            (&[Sql::Blob(vec![7])], "b07"),
            (&[Sql::Text(b"a".to_vec()), Sql::Text(b"b".to_vec())], "ta,tb"),
            (&[Sql::Typed(Kind::Decimal, "7".to_owned())], "d7"),
            (&[Sql::Typed(Kind::Date, "7".to_owned())], "c7"),
            (&[Sql::Typed(Kind::Timestamp, "7".to_owned())], "w7"),
            (&[Sql::Typed(Kind::Instant, "7".to_owned())], "z7"),
            (&[Sql::Typed(Kind::Boolean, "true".to_owned())], "ltrue"),
        ];
        for (values, want) in rows {
            assert_eq!(RowIdentity::of(values).as_str(), *want);
        }
        let long = RowIdentity::of(&[Sql::Blob(vec![1; 4_000])]);
        assert_eq!(long.as_str().len(), 65);
        assert!(long.as_str().starts_with('h'));
    }
}
