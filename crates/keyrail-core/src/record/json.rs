//! A record as JSON, written without a serializer: every request waits until its record is written.

use std::io::Write as _;

use serde::Serialize;

use super::{Detail, Origin, Record, StateMark, VersionUse};

impl Record {
    /// Appends the record as JSON, the same bytes as a serializer gives.
    ///
    /// # Errors
    /// None that can come about: memory takes every byte, and every text can be written. They are passed on all the same.
    pub fn write_json(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        put_number(out, br#"{"v":"#, self.v)?;
        put_hex(out, br#","id":""#, self.id.as_bytes())?;
        write!(out, r#","time":"{}""#, self.time).map_err(serde_json::Error::io)?;
        put_word(out, br#","kind":""#, self.kind.as_str());
        put_text(out, br#","principal":"#, &self.principal)?;
        if let Some(session) = &self.session {
            put_hex(out, br#","session":""#, session.as_bytes())?;
        }
        put_word(out, br#","action":""#, self.action.as_str());
        put_optional(out, br#","resource":"#, self.resource.as_ref())?;
        put_list(out, br#","versions":["#, &self.versions, put_version)?;
        put_optional(out, br#","asset":"#, self.asset.as_ref())?;
        put_origin(out, &self.origin)?;
        put_word(out, br#","decision":""#, self.decision.as_str());
        put_text(out, br#","reason":"#, &self.reason)?;
        put_word(out, br#","outcome":""#, self.outcome.as_str());
        put_optional(out, br#","code":"#, self.code.as_ref())?;
        self.items.map_or(Ok(()), |items| put_number(out, br#","items":"#, items))?;
        self.failed.map_or(Ok(()), |failed| put_number(out, br#","failed":"#, failed))?;
        put_list(out, br#","detail":["#, &self.detail, put_detail)?;
        self.state.as_ref().map_or(Ok(()), |state| put_state(out, state))?;
        out.push(b'}');
        Ok(())
    }
}

fn put_origin(out: &mut Vec<u8>, origin: &Origin) -> serde_json::Result<()> {
    put_optional(out, br#","app":"#, origin.app.as_ref())?;
    put_optional(out, br#","component":"#, origin.component.as_ref())?;
    put_optional(out, br#","environment":"#, origin.environment.as_ref())?;
    put_optional(out, br#","build":"#, origin.build.as_ref())?;
    put_optional(out, br#","from":"#, origin.from.as_ref())?;
    put_optional(out, br#","trace":"#, origin.trace.as_ref())?;
    put_optional(out, br#","caller_request":"#, origin.caller_request.as_ref())
}

fn put_version(out: &mut Vec<u8>, version: &VersionUse) -> serde_json::Result<()> {
    put_number(out, br#"{"version":"#, version.version)?;
    put_hex(out, br#","kid":""#, version.kid.as_bytes())?;
    put_number(out, br#","count":"#, version.count)?;
    out.extend_from_slice(if version.opened { br#","opened":true}"# } else { b"}" });
    Ok(())
}

fn put_detail(out: &mut Vec<u8>, detail: &Detail) -> serde_json::Result<()> {
    put_text(out, br#"{"name":"#, &detail.name)?;
    put_text(out, br#","value":"#, &detail.value)?;
    out.push(b'}');
    Ok(())
}

fn put_state(out: &mut Vec<u8>, state: &StateMark) -> serde_json::Result<()> {
    put_number(out, br#","state":{"generation":"#, state.generation)?;
    put_hex(out, br#","root":""#, &state.root)?;
    out.push(b'}');
    Ok(())
}

/// A list, left out if it is empty.
fn put_list<T>(
    out: &mut Vec<u8>,
    before: &[u8],
    list: &[T],
    put: impl Fn(&mut Vec<u8>, &T) -> serde_json::Result<()>,
) -> serde_json::Result<()> {
    let Some((first, rest)) = list.split_first() else { return Ok(()) };
    out.extend_from_slice(before);
    put(out, first)?;
    for item in rest {
        out.push(b',');
        put(out, item)?;
    }
    out.push(b']');
    Ok(())
}

fn put_optional(out: &mut Vec<u8>, before: &[u8], text: Option<&String>) -> serde_json::Result<()> {
    text.map_or(Ok(()), |text| put_text(out, before, text))
}

fn put_text(out: &mut Vec<u8>, before: &[u8], text: &str) -> serde_json::Result<()> {
    out.extend_from_slice(before);
    // Without a way out of the loop it takes many bytes at a time.
    let escaped = text.bytes().fold(false, |found, byte| found | (byte < b' ') | (byte == b'"') | (byte == b'\\'));
    if escaped {
        return serde_json::to_writer(out, text);
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
    Ok(())
}

/// A word of a fixed set, of letters, digits, dots and hyphens. `before` ends with its first quote.
fn put_word(out: &mut Vec<u8>, before: &[u8], word: &str) {
    out.extend_from_slice(before);
    out.extend_from_slice(word.as_bytes());
    out.push(b'"');
}

/// An id or a hash. `before` ends with its first quote.
fn put_hex(out: &mut Vec<u8>, before: &[u8], id: &[u8]) -> serde_json::Result<()> {
    let mut room = [0; 64];
    let digits = room.get_mut(..2 * id.len()).unwrap_or_default();
    hex::encode_to_slice(id, digits).map_err(|error| serde_json::Error::io(std::io::Error::other(error)))?;
    out.extend_from_slice(before);
    out.extend_from_slice(digits);
    out.push(b'"');
    Ok(())
}

fn put_number(out: &mut Vec<u8>, before: &[u8], number: impl Serialize) -> serde_json::Result<()> {
    out.extend_from_slice(before);
    serde_json::to_writer(out, &number)
}

#[cfg(test)]
mod tests {
    use keyrail_crypto::envelope::Kid;
    use proptest::prelude::*;

    use super::*;
    use crate::access::Action;
    use crate::id::{RequestId, TokenId};
    use crate::name::VersionNumber;
    use crate::record::{Outcome, RECORD_FORMAT, RecordDecision, RecordKind};
    use crate::time::Timestamp;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[ -~]{0,20}", "\\PC{0,8}", any::<String>(), "[\"\\\\\u{0}-\u{1f}\u{7f}]{0,6}"]
    }

    fn one_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
        proptest::sample::select(all)
    }

    fn version() -> impl Strategy<Value = VersionUse> {
        (1_u32.., any::<[u8; 16]>(), any::<u64>(), any::<bool>()).prop_map(|(number, kid, count, opened)| VersionUse {
            version: VersionNumber::new(number).unwrap(),
            kid: Kid::from_bytes(kid),
            count,
            opened,
        })
    }

    fn origin() -> impl Strategy<Value = Origin> {
        proptest::array::uniform7(proptest::option::of(text())).prop_map(
            |[app, component, environment, build, from, trace, caller_request]| Origin {
                app,
                component,
                environment,
                build,
                from,
                trace,
                caller_request,
            },
        )
    }

    fn record() -> impl Strategy<Value = Record> {
        let words = (
            one_of(RecordKind::ALL),
            one_of(Action::ALL),
            one_of(RecordDecision::ALL),
            one_of(Outcome::ALL),
            any::<[u8; 16]>(),
            proptest::option::of(any::<[u8; 16]>()),
            any::<i64>().prop_map(Timestamp::from_millis),
        );
        let texts =
            (text(), proptest::option::of(text()), proptest::option::of(text()), text(), proptest::option::of(text()));
        let rest = (
            origin(),
            proptest::collection::vec(version(), 0..3),
            any::<[Option<u64>; 2]>(),
            proptest::collection::vec((text(), text()), 0..3),
            proptest::option::of((any::<u64>(), any::<[u8; 32]>())),
        );
        (words, texts, rest).prop_map(
            |(
                (kind, action, decision, outcome, id, session, time),
                (principal, resource, asset, reason, code),
                (origin, versions, [items, failed], detail, state),
            )| Record {
                v: RECORD_FORMAT,
                id: RequestId::from_bytes(id),
                time,
                kind,
                principal,
                session: session.map(TokenId::from_bytes),
                action,
                resource,
                versions,
                asset,
                origin,
                decision,
                reason,
                outcome,
                code,
                items,
                failed,
                detail: detail.into_iter().map(|(name, value)| Detail { name, value }).collect(),
                state: state.map(|(generation, root)| StateMark { generation, root }),
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(8), ..Default::default() })]

        #[test]
        fn what_is_written_by_hand_is_what_a_serializer_writes(record in record()) {
            let mut written = b"before".to_vec();
            record.write_json(&mut written).unwrap();
            let serialized = serde_json::to_string(&record).unwrap();
            prop_assert_eq!(std::str::from_utf8(&written).unwrap(), format!("before{serialized}"));
        }
    }
}
