//! Rows of the store: the first byte chooses the table, then come values.

use keyrail_core::access::{Action, Role};
use keyrail_core::asset::{AssetState, IdentityKind};
use keyrail_core::campaign::{CampaignKind, CampaignState};
use keyrail_core::key::{DestroyHalt, KeyStatus};
use keyrail_core::lifecycle::VersionState;
use keyrail_core::system::{RootSecretPurpose, SettingName};
use keyrail_core::usage::UsagePlace;
use keyrail_store::{StoreError, TABLES, Table, Value, fuzz};

use crate::take;

/// A row of every table: for each column the first value that it takes.
pub fn seeds() -> Vec<Vec<u8>> {
    let row = |(number, table): (usize, &&'static Table)| {
        let values: Vec<u8> = valid_row(table).iter().flat_map(encode).collect();
        [&[number as u8], values.as_slice()].concat()
    };
    TABLES.iter().enumerate().map(row).collect()
}

/// A row that is accepted has as many values as its table has columns, and is accepted again as it was written.
pub fn check(data: &[u8]) -> bool {
    let Some((choice, mut rest)) = data.split_first() else { return false };
    let Some(table) = TABLES.get(usize::from(*choice) % TABLES.len()) else { return false };
    let mut values = Vec::new();
    while !rest.is_empty() {
        let Some(value) = decode(&mut rest) else { return false };
        values.push(value);
    }
    let Ok(read) = fuzz::row(table.name, values) else { return false };
    assert_eq!(read.len(), table.columns.len());
    assert_eq!(fuzz::row(table.name, read.clone()).as_ref().ok(), Some(&read));
    true
}

fn valid_row(table: &'static Table) -> Vec<Value> {
    let candidates = candidates();
    let mut tried = vec![0; table.columns.len()];
    loop {
        let values: Vec<_> = tried.iter().map(|number: &usize| candidates[*number].clone()).collect();
        match fuzz::row(table.name, values) {
            Ok(row) => return row,
            Err(StoreError::Malformed { column, .. }) => {
                let place = table.columns.iter().position(|name| *name == column).expect("a column of the table");
                tried[place] += 1;
            }
            Err(error) => panic!("{}: {error}", table.name),
        }
    }
}

fn candidates() -> Vec<Value> {
    let words = ["a", "acme/prod/crm", "[\"a\"]", "A256GCM"].map(str::to_owned);
    let mut texts = words.to_vec();
    macro_rules! words_of {
        ($($type:ty),+) => { $(texts.extend(<$type>::ALL.iter().take(1).map(ToString::to_string));)+ };
    }
    words_of!(Action, AssetState, CampaignKind, CampaignState, DestroyHalt, IdentityKind, KeyStatus, Role);
    words_of!(RootSecretPurpose, SettingName, UsagePlace, VersionState);
    let mut candidates = vec![Value::Null, Value::Integer(1), Value::Blob(vec![1; 16]), Value::Blob(vec![1; 32])];
    candidates.extend(texts.into_iter().map(Value::Text));
    candidates
}

fn encode(value: &Value) -> Vec<u8> {
    let (tag, bytes) = match value {
        Value::Null => (0, Vec::new()),
        Value::Integer(number) => (1, number.to_be_bytes().to_vec()),
        Value::Text(text) => (2, text.clone().into_bytes()),
        Value::Blob(bytes) => (3, bytes.clone()),
    };
    [&[tag, bytes.len() as u8], bytes.as_slice()].concat()
}

fn decode(rest: &mut &[u8]) -> Option<Value> {
    let &[tag, len] = take(rest, 2) else { return None };
    let bytes = take(rest, usize::from(len));
    Some(match tag % 4 {
        0 => Value::Null,
        1 => Value::Integer(i64::from_be_bytes(bytes.try_into().ok()?)),
        2 => Value::Text(std::str::from_utf8(bytes).ok()?.to_owned()),
        _ => Value::Blob(bytes.to_vec()),
    })
}
