//! The place of a row in the map: its table and key, in an order that keeps together what is asked for together.

use keyrail_crypto::digest::sha256;

use crate::driver::Value;
use crate::row::Table;

/// How a table's rows stand in the map.
pub(crate) struct Place {
    /// The table's name.
    table: &'static str,
    /// The first byte of its rows' keys. It is never given to another table.
    number: u8,
    /// The columns that name what a row belongs to. They never change as long as the row is there. All rows with the
    /// same values are found together, so that it is known whether one is missing.
    pub(crate) owner: &'static [&'static str],
    /// An order of the rows, by an index, that keeps each owner's together.
    pub(crate) owner_order: Option<&'static [&'static str]>,
}

/// Every table in the map. Not in it: the outbox, whose rows hold the map's root, and the map itself.
pub(crate) const PLACES: &[Place] = &[
    place("root_slot", 1),
    place("root_secret", 2),
    place("setting", 3),
    place("domain", 4),
    place("app", 5),
    place("master_key", 6),
    owned("master_key_version", 7, &["master_key"], &["master_key", "version"]),
    place("label", 8),
    place("data_key", 9),
    owned("data_key_version", 10, &["key"], &["key", "version"]),
    place("token", 11),
    owned("asset", 12, &["key"], &["key", "id"]),
    owned("asset_column", 13, &["asset"], &["asset", "position"]),
    place("accepted_damage", 14),
    owned("campaign", 15, &["asset"], &["asset", "id"]),
    place("usage", 16),
    place("usage_mark", 17),
    place("log_head", 18),
    place("observation", 19),
    place("idempotency", 20),
];

/// Set in the first byte of an entry that tells what a row belongs to.
const OWNED: u8 = 0x80;

/// Longer values stand in a key by their hash.
const PART_LEN_MAX: usize = 128;

const fn place(table: &'static str, number: u8) -> Place {
    Place { table, number, owner: &[], owner_order: None }
}

const fn owned(
    table: &'static str,
    number: u8,
    owner: &'static [&'static str],
    owner_order: &'static [&'static str],
) -> Place {
    Place { table, number, owner, owner_order: Some(owner_order) }
}

/// The place of a table's rows, if they are in the map.
pub(crate) fn place_of(table: &Table) -> Option<&'static Place> {
    PLACES.iter().find(|place| place.table == table.name)
}

impl Place {
    /// Where all rows of the table are.
    pub(crate) fn rows(&self) -> Vec<u8> {
        vec![self.number]
    }

    /// Where the rows are whose key begins with these values; with all of them, where one row is.
    pub(crate) fn row(&self, key: &[Value]) -> Vec<u8> {
        joined(self.number, key)
    }

    /// Where it stands which rows belong to an owner.
    pub(crate) fn owned(&self, owner: &[Value]) -> Vec<u8> {
        joined(self.number | OWNED, owner)
    }

    /// Where it stands that a row belongs to its owner.
    pub(crate) fn owned_row(&self, owner: &[Value], key: &[Value]) -> Vec<u8> {
        let mut place = self.owned(owner);
        key.iter().for_each(|value| put(&mut place, value));
        place
    }

    /// The entry that tells what a row belongs to, if the table's rows belong to something.
    pub(crate) fn owner_entry(&self, table: &Table, values: &[Value]) -> Option<Vec<u8>> {
        (!self.owner.is_empty()).then(|| self.owned_row(&self.pick(table, self.owner, values), &key_of(table, values)))
    }

    /// The values of some columns, in the order of these.
    pub(crate) fn pick(&self, table: &Table, columns: &[&str], values: &[Value]) -> Vec<Value> {
        let of = |wanted: &&str| table.columns.iter().zip(values).find(|(column, _)| *column == wanted);
        columns.iter().filter_map(of).map(|(_, value)| value.clone()).collect()
    }
}

/// The values of a row's key.
pub(crate) fn key_of(table: &Table, values: &[Value]) -> Vec<Value> {
    let keys = table.columns.iter().zip(values).filter(|(column, _)| table.key.contains(column));
    keys.map(|(_, value)| value.clone()).collect()
}

fn joined(first: u8, values: &[Value]) -> Vec<u8> {
    let mut place = vec![first];
    values.iter().for_each(|value| put(&mut place, value));
    place
}

/// Values of a fixed length keep their order; none is the beginning of another.
fn put(place: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => place.push(b'n'),
        Value::Integer(number) => {
            place.push(b'i');
            // With the sign turned around, negative ones come first.
            place.extend((number ^ i64::MIN).to_be_bytes());
        }
        Value::Text(text) => put_bytes(place, b't', text.as_bytes()),
        Value::Blob(bytes) => put_bytes(place, b'b', bytes),
    }
}

fn put_bytes(place: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    match u8::try_from(bytes.len()).ok().filter(|len| usize::from(*len) <= PART_LEN_MAX) {
        Some(len) => {
            place.extend([tag, len]);
            place.extend_from_slice(bytes);
        }
        None => {
            place.push(tag.to_ascii_uppercase());
            place.extend(sha256(bytes));
        }
    }
}

/// What an entry of the map is about.
#[derive(Debug, PartialEq)]
pub(crate) struct Subject {
    /// The name of the table.
    pub(crate) table: &'static str,
    /// Whether the entry is a row's; else it tells what a row belongs to.
    pub(crate) is_row: bool,
    /// The values in it, as far as they are not hashed; for an owner's entry those of the owner come first.
    pub(crate) values: Vec<Value>,
    /// Whether those are all.
    pub(crate) whole: bool,
}

/// Reads an entry's key.
pub(crate) fn subject(key: &[u8]) -> Option<Subject> {
    let (first, mut rest) = key.split_first()?;
    let place = PLACES.iter().find(|place| place.number == first & !OWNED)?;
    let (mut values, mut whole) = (Vec::new(), true);
    while let Some((tag, after)) = rest.split_first() {
        let (len, after) = match tag {
            b'n' => (0, after),
            b'i' => (8, after),
            b't' | b'b' => after.split_first().map(|(len, after)| (usize::from(*len), after))?,
            b'T' | b'B' => (32, after),
            _ => return None,
        };
        let (bytes, after) = after.split_at_checked(len)?;
        rest = after;
        whole &= !tag.is_ascii_uppercase();
        if whole {
            values.push(match tag {
                b'n' => Value::Null,
                b'i' => Value::Integer(i64::from_be_bytes(bytes.try_into().ok()?) ^ i64::MIN),
                b't' => Value::Text(String::from_utf8(bytes.to_vec()).ok()?),
                _ => Value::Blob(bytes.to_vec()),
            });
        }
    }
    Some(Subject { table: place.table, is_row: first & OWNED == 0, values, whole })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::map::node::KEY_LEN_MAX;
    use crate::row::TABLES;

    /// A new table is in the map, or is named here with a reason.
    #[test]
    fn every_table_has_a_place() {
        let outside = ["outbox", "map_node", "map_head"];
        for table in TABLES {
            let place = place_of(table);
            assert_eq!(place.is_none(), outside.contains(&table.name), "{}", table.name);
            for column in place.iter().flat_map(|place| place.owner) {
                assert!(table.columns.contains(column) && !table.key.contains(column), "{}.{column}", table.name);
            }
        }
        let numbers: BTreeSet<u8> = PLACES.iter().map(|place| place.number).collect();
        assert_eq!(numbers.len(), PLACES.len());
        assert!(numbers.iter().all(|number| *number > 0 && *number < OWNED));
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            "\\PC{0,140}".prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..140).prop_map(Value::Blob),
        ]
    }

    fn key() -> impl Strategy<Value = Vec<Value>> {
        proptest::collection::vec(value(), 1..5)
    }

    proptest! {
        /// Two rows have two places, a place tells its row, and a prefix is one of whole values.
        #[test]
        fn places_tell_their_rows(first in key(), second in key(), number in 0..PLACES.len()) {
            let place = &PLACES[number];
            let (one, other) = (place.row(&first), place.row(&second));
            prop_assert!(one.len() <= KEY_LEN_MAX);
            prop_assert_eq!(one == other, first == second);
            prop_assert_eq!(other.starts_with(&one), second.starts_with(&first));
            let read = subject(&one).unwrap();
            prop_assert_eq!((read.table, read.is_row), (place.table, true));
            let long = |value: &Value| matches!(value, Value::Text(text) if text.len() > PART_LEN_MAX)
                || matches!(value, Value::Blob(bytes) if bytes.len() > PART_LEN_MAX);
            let shown = first.iter().take_while(|value| !long(value)).count();
            prop_assert_eq!(read.whole, shown == first.len());
            prop_assert_eq!(&read.values[..], &first[..shown]);
        }

        #[test]
        fn numbers_and_ids_keep_their_order(a in any::<i64>(), b in any::<i64>(), x in any::<[u8; 16]>(), y in any::<[u8; 16]>()) {
            let place = &PLACES[0];
            prop_assert_eq!(a.cmp(&b), place.row(&[Value::Integer(a)]).cmp(&place.row(&[Value::Integer(b)])));
            let id = |bytes: [u8; 16]| place.row(&[Value::Blob(bytes.to_vec())]);
            prop_assert_eq!(x.cmp(&y), id(x).cmp(&id(y)));
        }

        #[test]
        fn no_bytes_are_read_amiss(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(Subject { table, is_row: true, values, whole: true }) = subject(&bytes) {
                let place = PLACES.iter().find(|place| place.table == table).unwrap();
                // Only what is longer than it need be reads as a value that is written in another way.
                prop_assert_eq!(place.row(&values), bytes);
            }
        }
    }
}
