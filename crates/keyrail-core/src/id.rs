//! Identifiers: 16 random bytes each, a type of its own for each thing, written as 32 hex digits.

use std::fmt;
use std::str::FromStr;

use crate::text::serde_as_text;

/// Length of every id, in bytes.
pub const ID_LEN: usize = 16;

macro_rules! ids {
    ($($(#[$meta:meta])* $name:ident,)+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name([u8; ID_LEN]);

        impl $name {
            /// The id with these bytes; new ids take them from the operating system's generator.
            pub const fn from_bytes(bytes: [u8; ID_LEN]) -> Self {
                Self(bytes)
            }

            /// The bytes of the id.
            pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Written several times for each request: in the answer, and for every id in its record.
                let mut digits = [0; 2 * ID_LEN];
                let encoded = hex::encode_to_slice(self.0, &mut digits).map_err(|_| fmt::Error);
                encoded.and_then(|()| f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; ID_LEN];
                let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
                hex::decode_to_slice(text, &mut bytes).ok().filter(|()| lower).ok_or(IdError)?;
                Ok(Self(bytes))
            }
        }

        serde_as_text!($name);
    )+};
}

ids! {
    /// An app.
    AppId,
    /// A registered asset.
    AssetId,
    /// A campaign.
    CampaignId,
    /// A column, or a JSON member of one, of an asset.
    ColumnId,
    /// A data key; its versions have a `Kid` each.
    DataKeyId,
    /// A domain.
    DomainId,
    /// A master key: one set of versions for a domain and environment.
    MasterKeyId,
    /// A version of a master key.
    MasterVersionId,
    /// A process of the service among others over one store.
    NodeId,
    /// One request; also the id of its audit record.
    RequestId,
    /// A token.
    TokenId,
}

/// A text is not an id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an id is 32 lower-case hex digits")]
pub struct IdError;

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..Default::default() })]

        #[test]
        fn an_id_reads_back_what_it_prints(bytes: [u8; ID_LEN]) {
            let id = DataKeyId::from_bytes(bytes);
            proptest::prop_assert_eq!(id.to_string().parse::<DataKeyId>().unwrap(), id);
            proptest::prop_assert_eq!(id.to_string().len(), 2 * ID_LEN);
            let json = serde_json::to_string(&id).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<DataKeyId>(&json).unwrap(), id);
        }

        #[test]
        fn an_id_has_one_spelling(text in "[0-9a-fA-F]{30,34}|\\PC{0,40}") {
            if let Ok(id) = text.parse::<TokenId>() {
                proptest::prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let good = "0123456789abcdef0123456789abcdef";
        assert!(good.parse::<AppId>().is_ok());
        for bad in ["", "0", &good[1..], &format!("{good}0"), &good.to_uppercase(), &good.replace('0', "g")] {
            assert_eq!(bad.parse::<AppId>(), Err(IdError), "{bad}");
        }
    }
}
