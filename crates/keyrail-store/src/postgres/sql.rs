//! Values of ours as values of PostgreSQL, and back.

use std::error::Error;
use std::fmt;

use bytes::{BufMut as _, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};

use crate::driver::Value;
use crate::statement::Dialect;

/// How statements are written.
pub(super) static DIALECT: Dialect = Dialect::new('$', "keyrail.");

/// A value that is bound. Its `Debug` shows nothing: the library logs what is bound at the level `debug`.
pub(super) struct Bound<'a>(pub(super) &'a Value);

impl fmt::Debug for Bound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A value that its column cannot hold.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("a column of type `{0}` does not take such a value")]
    Type(Type),
    #[error("text in PostgreSQL cannot hold the character NUL")]
    Nul,
}

impl ToSql for Bound<'_> {
    fn to_sql(&self, column: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self.0 {
            Value::Null => return Ok(IsNull::Yes),
            Value::Integer(number) if *column == Type::INT8 => out.put_i64(*number),
            Value::Text(text) if text.contains('\0') => return Err(Box::new(Unfit::Nul)),
            Value::Text(text) if *column == Type::TEXT => out.put_slice(text.as_bytes()),
            Value::Blob(bytes) if *column == Type::BYTEA => out.put_slice(bytes),
            _ => return Err(Box::new(Unfit::Type(column.clone()))),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

/// A value of a result. What no column of ours holds becomes bytes, which no seal of such a column fits.
pub(super) struct Found(pub(super) Value);

impl<'a> FromSql<'a> for Found {
    fn from_sql(column: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let known = match *column {
            Type::INT8 => raw.try_into().ok().map(|raw| Value::Integer(i64::from_be_bytes(raw))),
            Type::TEXT => std::str::from_utf8(raw).ok().map(|text| Value::Text(text.to_owned())),
            _ => None,
        };
        Ok(Self(known.unwrap_or_else(|| Value::Blob(raw.to_vec()))))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Value::Null))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
