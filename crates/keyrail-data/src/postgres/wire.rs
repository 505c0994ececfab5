//! Values on their way from and to a PostgreSQL server, in its binary format: no setting of a session, such as
//! DateStyle, TimeZone or bytea_output, changes what a value is taken for.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use crate::value::{Kind, Sql};

/// How a type is read, compared and written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wire {
    /// Whole numbers, as 64 bits.
    Integer,
    /// Floating-point numbers, as 64 bits.
    Real,
    /// Text, and JSON as its text.
    Text,
    /// Bytes.
    Blob,
    /// What SQLite does not have.
    Typed(Kind),
}

impl Wire {
    /// The wire of a type of `pg_catalog`; `None` for one that tells no rows apart and holds no protected value.
    pub(super) fn of(type_name: &str) -> Option<Self> {
        Some(match type_name {
            "int2" | "int4" | "int8" => Self::Integer,
            "float4" | "float8" => Self::Real,
            "text" | "varchar" | "bpchar" | "name" | "json" | "jsonb" => Self::Text,
            "bytea" => Self::Blob,
            "bool" => Self::Typed(Kind::Boolean),
            "numeric" => Self::Typed(Kind::Decimal),
            "uuid" => Self::Typed(Kind::Uuid),
            "date" => Self::Typed(Kind::Date),
            "timestamp" => Self::Typed(Kind::Timestamp),
            "timestamptz" => Self::Typed(Kind::Instant),
            _ => return None,
        })
    }

    /// An expression as it is selected.
    pub(super) fn select(self, expression: &str) -> String {
        match self {
            // Of a decimal number the digits count, not how many zeros follow them.
            Self::Typed(Kind::Decimal) => format!("pg_catalog.trim_scale({expression}::numeric)::text"),
            _ => format!("{expression}::{}", self.type_name()),
        }
    }

    /// The type that values travel as.
    const fn type_name(self) -> &'static str {
        match self {
            Self::Integer => "bigint",
            Self::Real => "double precision",
            Self::Text | Self::Typed(Kind::Decimal) => "text",
            Self::Blob => "bytea",
            Self::Typed(Kind::Boolean) => "boolean",
            Self::Typed(Kind::Uuid) => "uuid",
            Self::Typed(Kind::Date) => "date",
            Self::Typed(Kind::Timestamp) => "timestamp",
            Self::Typed(Kind::Instant) => "timestamptz",
        }
    }

    /// The ids of that type and of its array, which are the same on every server.
    const fn oids(self) -> (u32, u32) {
        match self {
            Self::Integer => (20, 1016),
            Self::Real => (701, 1022),
            Self::Text | Self::Typed(Kind::Decimal) => (25, 1009),
            Self::Blob => (17, 1001),
            Self::Typed(Kind::Boolean) => (16, 1000),
            Self::Typed(Kind::Uuid) => (2950, 2951),
            Self::Typed(Kind::Date) => (1082, 1182),
            Self::Typed(Kind::Timestamp) => (1114, 1115),
            Self::Typed(Kind::Instant) => (1184, 1185),
        }
    }

    /// What a server sent; `None` if it is no value of this type.
    pub(super) fn read(self, bytes: Option<&[u8]>) -> Option<Sql> {
        let Some(bytes) = bytes else { return Some(Sql::Null) };
        Some(match self {
            Self::Integer => Sql::Integer(i64::from_be_bytes(bytes.try_into().ok()?)),
            Self::Real => Sql::Real(f64::from_be_bytes(bytes.try_into().ok()?)),
            Self::Text => Sql::Text(bytes.to_vec()),
            Self::Blob => Sql::Blob(bytes.to_vec()),
            Self::Typed(kind) => Sql::Typed(kind, canonical(kind, bytes)?),
        })
    }

    /// A value as it is sent; `None` if it is no value of this type.
    fn bytes(self, value: &Sql) -> Option<Option<Vec<u8>>> {
        Some(Some(match (self, value) {
            (_, Sql::Null) => return Some(None),
            (Self::Integer, Sql::Integer(number)) => number.to_be_bytes().to_vec(),
            (Self::Real, Sql::Real(number)) => number.to_be_bytes().to_vec(),
            (Self::Text, Sql::Text(bytes)) | (Self::Blob, Sql::Blob(bytes)) => bytes.clone(),
            (Self::Typed(kind), Sql::Typed(of, text)) if kind == *of => binary(kind, text)?,
            _ => return None,
        }))
    }

    /// One value as a parameter.
    pub(super) fn param(self, value: &Sql) -> Option<Param> {
        Some(Param { oid: self.oids().0, bytes: self.bytes(value)? })
    }

    /// Values as one parameter, an array.
    pub(super) fn array<'a>(self, values: impl IntoIterator<Item = &'a Sql>) -> Option<Param> {
        let (element, array) = self.oids();
        let mut items = Vec::new();
        let mut count: i32 = 0;
        for value in values {
            count += 1;
            match self.bytes(value)? {
                None => items.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(bytes) => {
                    items.extend_from_slice(&i32::try_from(bytes.len()).ok()?.to_be_bytes());
                    items.extend_from_slice(&bytes);
                }
            }
        }
        // One dimension, perhaps with nulls, from 1 on.
        let head = [1, 1, element as i32, count, 1].map(i32::to_be_bytes).concat();
        Some(Param { oid: array, bytes: Some([head, items].concat()) })
    }
}

/// A parameter of a statement, as bytes of its type.
pub(super) struct Param {
    oid: u32,
    bytes: Option<Vec<u8>>,
}

impl Param {
    /// Text.
    pub(super) fn text(text: &str) -> Self {
        Self { oid: Wire::Text.oids().0, bytes: Some(text.as_bytes().to_vec()) }
    }
}

impl Type<Postgres> for Param {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(Wire::Text.oids().0))
    }
}

impl Encode<'_, Postgres> for Param {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let Some(bytes) = &self.bytes else { return Ok(IsNull::Yes) };
        buffer.extend_from_slice(bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.oid)))
    }
}

/// Days from 1970-01-01 to 2000-01-01, which PostgreSQL counts from.
const EPOCH_DAYS: i64 = 10_957;

/// The same in microseconds.
const EPOCH_MICROS: i64 = EPOCH_DAYS * 86_400_000_000;

const ENDLESS: &str = "infinity";
const BEGINLESS: &str = "-infinity";

/// The canonical text of what a server sent.
fn canonical(kind: Kind, bytes: &[u8]) -> Option<String> {
    Some(match kind {
        Kind::Boolean => (*bytes.first()? != 0).to_string(),
        Kind::Decimal => std::str::from_utf8(bytes).ok()?.to_owned(),
        Kind::Uuid => {
            let hex = hex::encode(bytes);
            let part = |from: usize, to: usize| hex.get(from..to);
            format!("{}-{}-{}-{}-{}", part(0, 8)?, part(8, 12)?, part(12, 16)?, part(16, 20)?, part(20, 32)?)
        }
        Kind::Date => match i32::from_be_bytes(bytes.try_into().ok()?) {
            i32::MAX => ENDLESS.to_owned(),
            i32::MIN => BEGINLESS.to_owned(),
            days => (i64::from(days) + EPOCH_DAYS).to_string(),
        },
        Kind::Timestamp | Kind::Instant => match i64::from_be_bytes(bytes.try_into().ok()?) {
            i64::MAX => ENDLESS.to_owned(),
            i64::MIN => BEGINLESS.to_owned(),
            micros => (i128::from(micros) + i128::from(EPOCH_MICROS)).to_string(),
        },
    })
}

/// The reverse of [`canonical`].
fn binary(kind: Kind, text: &str) -> Option<Vec<u8>> {
    Some(match kind {
        Kind::Boolean => vec![u8::from(text.parse::<bool>().ok()?)],
        Kind::Decimal => text.as_bytes().to_vec(),
        Kind::Uuid => hex::decode(text.replace('-', "")).ok().filter(|bytes| bytes.len() == 16)?,
        Kind::Date => match text {
            ENDLESS => i32::MAX,
            BEGINLESS => i32::MIN,
            days => i32::try_from(days.parse::<i64>().ok()?.checked_sub(EPOCH_DAYS)?).ok()?,
        }
        .to_be_bytes()
        .to_vec(),
        Kind::Timestamp | Kind::Instant => match text {
            ENDLESS => i64::MAX,
            BEGINLESS => i64::MIN,
            micros => i64::try_from(micros.parse::<i128>().ok()?.checked_sub(i128::from(EPOCH_MICROS))?).ok()?,
        }
        .to_be_bytes()
        .to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_sends_is_sent_back_the_same() {
        let uuid = [0x12, 0x3e, 0x45, 0x67, 0xe8, 0x9b, 0x12, 0xd3, 0xa4, 0x56, 0x42, 0x66, 0x14, 0x17, 0x40, 0x00];
        let rows: &[(Kind, Vec<u8>, &str)] = &[
            (Kind::Boolean, vec![1], "true"),
            (Kind::Decimal, b"-7.25".to_vec(), "-7.25"),
            (Kind::Uuid, uuid.to_vec(), "123e4567-e89b-12d3-a456-426614174000"),
            (Kind::Date, 0_i32.to_be_bytes().to_vec(), "10957"),
            (Kind::Date, i32::MAX.to_be_bytes().to_vec(), "infinity"),
            (Kind::Date, (-10_958_i32).to_be_bytes().to_vec(), "-1"),
            (Kind::Timestamp, 1_i64.to_be_bytes().to_vec(), "946684800000001"),
            (Kind::Instant, i64::MIN.to_be_bytes().to_vec(), "-infinity"),
            (Kind::Instant, (i64::MAX - 1).to_be_bytes().to_vec(), "9224318721654775806"),
        ];
        for (kind, bytes, text) in rows {
            let read = Wire::Typed(*kind).read(Some(bytes)).unwrap();
            assert_eq!(read, Sql::Typed(*kind, (*text).to_owned()));
            assert_eq!(Wire::Typed(*kind).param(&read).unwrap().bytes.as_deref(), Some(bytes.as_slice()));
        }
    }

    #[test]
    fn values_of_another_type_are_no_parameters() {
        assert!(Wire::Integer.param(&Sql::Text(b"7".to_vec())).is_none());
        assert!(Wire::Typed(Kind::Date).param(&Sql::Typed(Kind::Uuid, String::new())).is_none());
        assert!(Wire::Typed(Kind::Uuid).param(&Sql::Typed(Kind::Uuid, "12".to_owned())).is_none());
        assert!(Wire::Integer.read(Some(&[1])).is_none() && Wire::Typed(Kind::Uuid).read(Some(&[1])).is_none());
        assert!(Wire::Integer.array(&[Sql::Null, Sql::Integer(1)]).is_some());
    }
}
