//! Names, ids, words, times: what stands in paths, arguments and JSON.

use std::fmt::Display;
use std::str::FromStr;

use keyrail_core::access::{Action, Role};
use keyrail_core::id::RequestId;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::{AppPath, EnvironmentPath, KeyName, KeyVersionName, Name};
use keyrail_core::time::{Timestamp, seconds_from_text};
use keyrail_crypto::suite::Suite;
use serde_json::Value;

/// One of each.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "acme",
        "acme/prod",
        "acme/prod/crm",
        "acme/prod/crm/customer-pii",
        "acme/prod/crm/customer-pii@12",
        "00112233445566778899aabbccddeeff",
        "2026-11-24T09:30:00.000Z",
        "90d",
        "owner",
        "deactivated",
        "A256GCM",
        "key.create",
    ];
    let valid = texts.into_iter().filter(|text| check(text.as_bytes()));
    valid.map(|text| text.as_bytes().to_vec()).collect()
}

/// A text is read by its type alike everywhere, and written as it was read.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let mut accepted = same::<Name>(text) | same::<EnvironmentPath>(text) | same::<AppPath>(text);
    accepted |= same::<KeyName>(text) | same::<KeyVersionName>(text) | same::<RequestId>(text);
    accepted |= same::<Role>(text) | same::<Action>(text) | same::<VersionState>(text) | same::<Suite>(text);
    let from_json = serde_json::from_value::<KeyName>(Value::String(text.to_owned()));
    assert_eq!(from_json.ok(), text.parse().ok(), "JSON reads another name");
    if let Ok(time) = text.parse::<Timestamp>() {
        assert_eq!(time.to_string().parse::<Timestamp>().as_ref(), Ok(&time));
        accepted = true;
    }
    if let Some(seconds) = seconds_from_text(text) {
        assert_eq!(seconds_from_text(&seconds.to_string()), Some(seconds));
        accepted = true;
    }
    accepted
}

fn same<T: FromStr + Display>(text: &str) -> bool {
    text.parse::<T>().is_ok_and(|read| {
        assert_eq!(read.to_string(), text, "a second spelling");
        true
    })
}
