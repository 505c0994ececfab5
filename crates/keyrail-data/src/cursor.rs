//! A campaign's place in a table, as bytes for the store.

use crate::value::{Kind, Sql};

/// The key of the last row that is done.
pub(crate) fn encode(key: &[Sql]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in key {
        let (tag, bytes): (u8, Vec<u8>) = match value {
            Sql::Null => (b'n', Vec::new()),
            Sql::Integer(number) => (b'i', number.to_be_bytes().to_vec()),
            Sql::Real(number) => (b'r', number.to_bits().to_be_bytes().to_vec()),
            Sql::Text(bytes) => (b't', bytes.clone()),
            Sql::Blob(bytes) => (b'b', bytes.clone()),
            Sql::Typed(kind, text) => (kind.letter() as u8, text.clone().into_bytes()),
        };
        out.push(tag);
        out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

/// The key again; `None` for bytes that [`encode`] did not make.
pub(crate) fn decode(mut bytes: &[u8]) -> Option<Vec<Sql>> {
    let mut key = Vec::new();
    while let Some((tag, rest)) = bytes.split_first() {
        let (len, rest) = rest.split_first_chunk::<8>()?;
        let (content, rest) = rest.split_at_checked(usize::try_from(u64::from_be_bytes(*len)).ok()?)?;
        bytes = rest;
        key.push(match tag {
            b'n' if content.is_empty() => Sql::Null,
            b'i' => Sql::Integer(i64::from_be_bytes(content.try_into().ok()?)),
            b'r' => Sql::Real(f64::from_bits(u64::from_be_bytes(content.try_into().ok()?))),
            b't' => Sql::Text(content.to_vec()),
            b'b' => Sql::Blob(content.to_vec()),
            _ => {
                let kind = Kind::ALL.into_iter().find(|kind| kind.letter() as u8 == *tag)?;
                Sql::Typed(kind, String::from_utf8(content.to_vec()).ok()?)
            }
        });
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values() -> impl Strategy<Value = Vec<Sql>> {
        let value = prop_oneof![
            Just(Sql::Null),
            any::<i64>().prop_map(Sql::Integer),
            (-1e300..1e300).prop_map(Sql::Real),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Sql::Text),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Sql::Blob),
            (0..Kind::ALL.len(), "[a-z0-9.-]{0,40}").prop_map(|(kind, text)| Sql::Typed(Kind::ALL[kind], text)),
        ];
        proptest::collection::vec(value, 0..4)
    }

    proptest! {
        #[test]
        fn a_cursor_reads_back(key in values()) {
            prop_assert_eq!(decode(&encode(&key)), Some(key));
        }

        #[test]
        fn other_bytes_are_refused_or_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&bytes);
        }
    }
}
