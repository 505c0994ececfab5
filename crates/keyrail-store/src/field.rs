//! How single values become values of a column.

use keyrail_core::access::{Action, Role};
use keyrail_core::asset::{AssetState, IdentityKind};
use keyrail_core::campaign::{CampaignKind, CampaignState};
use keyrail_core::id::{
    AppId, AssetId, CampaignId, ColumnId, DataKeyId, DomainId, MasterKeyId, MasterVersionId, RequestId, TokenId,
};
use keyrail_core::key::{DestroyHalt, KeyStatus};
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::{AppPath, Name, VersionNumber};
use keyrail_core::system::{RootSecretPurpose, SettingName, SlotRole};
use keyrail_core::time::{BootId, Timestamp};
use keyrail_core::usage::UsagePlace;
use keyrail_crypto::envelope::Kid;
use keyrail_crypto::suite::Suite;

use crate::driver::Value;

/// A type that a column holds. `from_value` gives `None` for anything that `to_value` never makes.
pub trait Field: Sized {
    /// The value.
    fn to_value(&self) -> Value;
    /// The type from the value.
    fn from_value(value: Value) -> Option<Self>;
}

impl Field for u64 {
    /// Counts above what a column holds stay at its greatest number.
    fn to_value(&self) -> Value {
        Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Integer(number) => Self::try_from(number).ok(),
            _ => None,
        }
    }
}

impl Field for u32 {
    fn to_value(&self) -> Value {
        Value::Integer((*self).into())
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Integer(number) => Self::try_from(number).ok(),
            _ => None,
        }
    }
}

impl Field for Timestamp {
    fn to_value(&self) -> Value {
        Value::Integer(self.as_millis())
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Integer(millis) => Some(Self::from_millis(millis)),
            _ => None,
        }
    }
}

impl Field for VersionNumber {
    fn to_value(&self) -> Value {
        self.get().to_value()
    }

    fn from_value(value: Value) -> Option<Self> {
        u32::from_value(value).and_then(Self::new)
    }
}

impl Field for String {
    fn to_value(&self) -> Value {
        Value::Text(self.clone())
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Field for Vec<u8> {
    fn to_value(&self) -> Value {
        Value::Blob(self.clone())
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Blob(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl<const N: usize> Field for [u8; N] {
    fn to_value(&self) -> Value {
        Value::Blob(self.to_vec())
    }

    fn from_value(value: Value) -> Option<Self> {
        Vec::from_value(value)?.try_into().ok()
    }
}

/// A short list of names; kept as JSON, since nothing ever asks for one of them.
impl Field for Vec<String> {
    fn to_value(&self) -> Value {
        let items = self.iter().cloned().map(serde_json::Value::String).collect();
        Value::Text(serde_json::Value::Array(items).to_string())
    }

    fn from_value(value: Value) -> Option<Self> {
        serde_json::from_str(&String::from_value(value)?).ok()
    }
}

impl<F: Field> Field for Option<F> {
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Null, Field::to_value)
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            other => F::from_value(other).map(Some),
        }
    }
}

impl Field for BootId {
    fn to_value(&self) -> Value {
        self.0.to_value()
    }

    fn from_value(value: Value) -> Option<Self> {
        <[u8; 16]>::from_value(value).map(Self)
    }
}

macro_rules! ids {
    ($($type:ty),+ $(,)?) => {$(
        impl Field for $type {
            fn to_value(&self) -> Value {
                Value::Blob(self.as_bytes().to_vec())
            }

            fn from_value(value: Value) -> Option<Self> {
                <[u8; 16]>::from_value(value).map(Self::from_bytes)
            }
        }
    )+};
}

ids!(AppId, AssetId, CampaignId, ColumnId, DataKeyId, DomainId, Kid, MasterKeyId, MasterVersionId, RequestId, TokenId);

macro_rules! texts {
    ($($type:ty),+ $(,)?) => {$(
        impl Field for $type {
            fn to_value(&self) -> Value {
                Value::Text(self.to_string())
            }

            fn from_value(value: Value) -> Option<Self> {
                String::from_value(value)?.parse().ok()
            }
        }
    )+};
}

texts!(
    Action,
    AppPath,
    AssetState,
    CampaignKind,
    CampaignState,
    DestroyHalt,
    IdentityKind,
    KeyStatus,
    Name,
    Role,
    RootSecretPurpose,
    SlotRole,
    SettingName,
    Suite,
    UsagePlace,
    VersionState,
);
