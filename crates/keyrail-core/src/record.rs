//! Audit records: one for every operation and every refusal, never with data in it.

mod json;

use keyrail_crypto::envelope::Kid;
use serde::{Deserialize, Serialize};

use crate::access::Action;
use crate::id::{RequestId, TokenId};
use crate::name::VersionNumber;
use crate::text::text_enum;
use crate::time::Timestamp;

/// The version of the record format, in every record.
pub const RECORD_FORMAT: u8 = 1;

text_enum! {
    /// What a record is about.
    RecordKind, "kind of record" {
        /// An operation, done or refused.
        Operation = "operation",
        /// Something that somebody should look at.
        Alarm = "alarm",
        /// Several refusals before authentication, counted.
        Aggregate = "aggregate",
    }
}

text_enum! {
    /// What the policy step said.
    RecordDecision, "decision" {
        /// Allowed.
        Allow = "allow",
        /// Refused.
        Refuse = "refuse",
    }
}

text_enum! {
    /// How it ended.
    Outcome, "outcome" {
        /// Done.
        Done = "done",
        /// Refused by policy, by a key's state or for want of authentication.
        Refused = "refused",
        /// Tried and failed.
        Failed = "failed",
    }
}

/// One record. Field names are the wire names; absent means unknown or not applicable.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Record {
    /// [`RECORD_FORMAT`].
    pub v: u8,
    /// The request, unique; a record is written once under it.
    pub id: RequestId,
    /// When the operation was decided.
    pub time: Timestamp,
    /// What the record is about.
    pub kind: RecordKind,
    /// Who asked: [`crate::access::Principal::label`], or `anonymous`.
    pub principal: String,
    /// The token that was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<TokenId>,
    /// What was asked.
    pub action: Action,
    /// What it was about: the name of a key, app, asset, label or domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The key versions it touched, with the number of items under each. All of them: use is counted from here, and what
    /// is not named would not stand in the way of a retirement. They are [`crate::key::VERSIONS_PER_KEY_MAX`] at most, and
    /// the one that a re-encryption puts its items under, in less than 0.9 MB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<VersionUse>,
    /// The asset that accounts for the use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asset: Option<String>,
    /// What the caller said of itself, and where it called from.
    #[serde(flatten)]
    pub origin: Origin,
    /// What the policy step said.
    pub decision: RecordDecision,
    /// The rule that decided.
    pub reason: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The stable code of the refusal or failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Items of a batch, or counted refusals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<u64>,
    /// Items that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
    /// More about a change, in words: versions, counts, reasons. Never data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detail: Vec<Detail>,
    /// What the rows of the store came to with the change that the record tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateMark>,
}

/// What the rows of the store come to after a commit.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StateMark {
    /// Counts the commits.
    pub generation: u64,
    /// The seal of the root of the map over all rows, in hex.
    #[serde(with = "hash_text")]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub root: [u8; 32],
}

/// One more fact of a record.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Detail {
    /// What it is.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A key version that an operation touched.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VersionUse {
    /// The version's number.
    pub version: VersionNumber,
    /// Its id.
    #[serde(with = "kid_text")]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub kid: Kid,
    /// Items under it.
    pub count: u64,
    /// Whether these items were only opened under it, by an operation that puts them elsewhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opened: bool,
}

/// The longest text of one field of [`Origin`], in bytes; longer ones are cut.
pub const ORIGIN_FIELD_LEN_MAX: usize = 128;

/// Where a request came from. All but the address is what the caller said of itself.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Origin {
    /// The app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The reusable part inside the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// The build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// The network address, or `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The W3C trace id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// The id that the caller gave the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_request: Option<String>,
}

impl Origin {
    /// The same with each field cut to [`ORIGIN_FIELD_LEN_MAX`]: what a caller says of itself cannot fill the log.
    #[must_use]
    pub fn bounded(&self) -> Self {
        let cut = |field: &Option<String>| field.as_deref().map(|text| cut(text).to_owned());
        Self {
            app: cut(&self.app),
            component: cut(&self.component),
            environment: cut(&self.environment),
            build: cut(&self.build),
            from: cut(&self.from),
            trace: cut(&self.trace),
            caller_request: cut(&self.caller_request),
        }
    }
}

/// The text up to the last whole character within [`ORIGIN_FIELD_LEN_MAX`].
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(ORIGIN_FIELD_LEN_MAX)).unwrap_or_default()
}

mod kid_text {
    use keyrail_crypto::envelope::Kid;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(kid: &Kid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(kid)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Kid, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom("a kid is 32 hex digits"))
    }
}

mod hash_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(hash: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(hash))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let mut hash = [0; 32];
        hex::decode_to_slice(text.as_bytes(), &mut hash).map_err(|_| D::Error::custom("a hash is 64 hex digits"))?;
        Ok(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_says_of_itself_is_cut_at_a_whole_character() {
        let origin = Origin { app: Some("ä".repeat(100)), build: Some("b".repeat(128)), ..Origin::default() };
        let bounded = origin.bounded();
        assert_eq!(bounded.app.unwrap(), "ä".repeat(64));
        assert_eq!(bounded.build, origin.build);
        let odd = Origin { from: Some(format!("x{}", "ä".repeat(100))), ..Origin::default() };
        assert_eq!(odd.bounded().from.unwrap().len(), 127);
    }

    #[test]
    fn a_record_reads_back_what_it_writes() {
        let record = Record {
            v: RECORD_FORMAT,
            id: RequestId::from_bytes([1; 16]),
            time: Timestamp::from_millis(0),
            kind: RecordKind::Operation,
            principal: "system".to_owned(),
            session: Some(TokenId::from_bytes([2; 16])),
            action: Action::DataEncrypt,
            resource: Some("acme/prod/crm/pii".to_owned()),
            versions: vec![VersionUse {
                version: VersionNumber::FIRST,
                kid: Kid::from_bytes([3; 16]),
                count: 9,
                opened: false,
            }],
            asset: Some("people".to_owned()),
            origin: Origin { app: Some("crm".to_owned()), ..Origin::default() },
            decision: RecordDecision::Allow,
            reason: "owner".to_owned(),
            outcome: Outcome::Done,
            code: None,
            items: Some(10),
            failed: Some(1),
            detail: vec![Detail { name: "reason".to_owned(), value: "demand".to_owned() }],
            state: Some(StateMark { generation: 7, root: [0xab; 32] }),
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        assert!(!text.contains("code"), "what is absent is not written: {text}");
    }

    #[test]
    fn members_that_nobody_knows_are_ignored() {
        let text = r#"{"v":1,"id":"0d9c6c7a1b5e4f03a2c4d6e8f0a1b2c3","time":"2026-11-25T03:10:00.007Z","kind":"operation",
            "principal":"system","action":"key.rotate","decision":"allow","reason":"operator","outcome":"done","later":[{}]}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!((record.action, record.outcome), (Action::KeyRotate, Outcome::Done));
    }
}
