//! One member of a JSON document, found by its path and replaced without touching any other byte.

use std::borrow::Cow;
use std::ops::Range;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::AssetError;

/// The most steps of a path.
const STEPS_MAX: usize = 16;

/// A path like `$.address.lines[0]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JsonPath {
    text: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Step {
    Name(String),
    Index(usize),
}

impl FromStr for JsonPath {
    type Err = AssetError;

    fn from_str(text: &str) -> Result<Self, AssetError> {
        let wrong = || AssetError::JsonPath { path: text.chars().take(80).collect() };
        let mut rest = text.strip_prefix('$').ok_or_else(wrong)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = next_step(rest).ok_or_else(wrong)?;
            steps.push(step);
            rest = after;
        }
        if steps.is_empty() || steps.len() > STEPS_MAX {
            return Err(wrong());
        }
        Ok(Self { text: text.to_owned(), steps })
    }
}

impl JsonPath {
    /// The steps as PostgreSQL writes an array of texts.
    pub(crate) fn elements(&self) -> String {
        let element = |step: &Step| match step {
            Step::Name(name) => format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")),
            Step::Index(index) => index.to_string(),
        };
        format!("{{{}}}", self.steps.iter().map(element).collect::<Vec<_>>().join(","))
    }

    /// Whether one of the two is the other or lies within it.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.steps.iter().zip(&other.steps).all(|(one, other)| one == other)
    }
}

fn next_step(rest: &str) -> Option<(Step, &str)> {
    if let Some(rest) = rest.strip_prefix('[') {
        let (index, rest) = rest.split_once(']')?;
        return Some((Step::Index(index.parse().ok()?), rest));
    }
    let rest = rest.strip_prefix('.')?;
    if let Some(rest) = rest.strip_prefix('"') {
        let (name, rest) = rest.split_once('"')?;
        return (!name.is_empty()).then(|| (Step::Name(name.to_owned()), rest));
    }
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    (!name.is_empty()).then(|| (Step::Name(name.to_owned()), rest))
}

impl std::fmt::Display for JsonPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// What stands at a path.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Member {
    /// Nothing, or JSON's null.
    Null,
    /// Something, at these bytes of the document.
    At(Range<usize>),
    /// The document is not JSON, or it has the member twice: which one counts is up to who reads it.
    NotJson,
}

/// Finds the member at a path.
pub(crate) fn find(document: &str, path: &JsonPath) -> Member {
    let Ok(mut value) = serde_json::from_str::<&RawValue>(document) else { return Member::NotJson };
    for step in &path.steps {
        match child(value, step) {
            Ok(Some(next)) => value = next,
            Ok(None) => return Member::Null,
            Err(Twice) => return Member::NotJson,
        }
    }
    if value.get() == "null" {
        return Member::Null;
    }
    // The value borrows from the document, so that its place is the difference of their addresses.
    let start = value.get().as_ptr().addr().wrapping_sub(document.as_ptr().addr());
    let range = start..start.saturating_add(value.get().len());
    if document.get(range.clone()) == Some(value.get()) { Member::At(range) } else { Member::NotJson }
}

/// An object has two members of the name.
struct Twice;

fn child<'a>(value: &'a RawValue, step: &Step) -> Result<Option<&'a RawValue>, Twice> {
    match step {
        Step::Name(name) => {
            let Ok(members) = serde_json::from_str::<Members<'a>>(value.get()) else { return Ok(None) };
            let mut found = members.0.into_iter().filter(|(key, _)| key == name).map(|(_, value)| value);
            let first = found.next();
            if found.next().is_some() { Err(Twice) } else { Ok(first) }
        }
        Step::Index(index) => {
            let elements = serde_json::from_str::<Vec<&RawValue>>(value.get());
            Ok(elements.ok().and_then(|elements| elements.get(*index).copied()))
        }
    }
}

/// The members of an object in their order, with all of equal names.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The document with other bytes at a place.
pub(crate) fn replace(document: &str, range: Range<usize>, with: &str) -> Option<String> {
    let (before, after) = (document.get(..range.start)?, document.get(range.end..)?);
    Some([before, with, after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_and_replaced_without_touching_the_rest() {
        let document = r#" { "a" : {"b\u0020c":[1, {"x":"y"} ,null]}, "x":2 , "x":3 , "s":"kr1." }"#;
        let rows = [
            (r#"$.a."b c"[1].x"#, Some(r#""y""#)),
            (r#"$.a."b c"[0]"#, Some("1")),
            (r#"$.a."b c"[2]"#, None),
            (r#"$.a."b c"[3]"#, None),
            ("$.s", Some(r#""kr1.""#)),
            ("$.s.t", None),
            ("$.nothing", None),
        ];
        for (path, want) in rows {
            let found = find(document, &path.parse().unwrap());
            match (found, want) {
                (Member::At(range), Some(want)) => {
                    assert_eq!(&document[range.clone()], want, "{path}");
                    let replaced = replace(document, range, "9").unwrap();
                    assert_eq!(replaced.len(), document.len() - want.len() + 1);
                    assert!(serde_json::from_str::<&RawValue>(&replaced).is_ok());
                }
                (Member::Null, None) => {}
                (found, want) => panic!("{path}: {found:?} instead of {want:?}"),
            }
        }
        assert_eq!(find("{", &"$.a".parse().unwrap()), Member::NotJson);
        // SQLite reads the first of two equal names, and most others the last.
        for path in ["$.x", "$.x.y"] {
            assert_eq!(find(document, &path.parse().unwrap()), Member::NotJson);
        }
        assert_eq!(find(r#"{"a":{"b":1,"\u0062":2}}"#, &"$.a.b".parse().unwrap()), Member::NotJson);
    }

    #[test]
    fn paths_overlap_by_their_steps_and_not_by_their_letters() {
        let rows = [("$.a", "$.a", true), ("$.a", "$.a.b", true), ("$.a", "$.ab", false), ("$.a[1]", "$.a[10]", false)];
        for (one, other, want) in rows {
            let (one, other): (JsonPath, JsonPath) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((one.overlaps(&other), other.overlaps(&one)), (want, want), "{one} {other}");
        }
    }

    #[test]
    fn a_path_has_one_spelling() {
        for bad in ["", "$", "a", "$a", "$.", "$[x]", "$[0", "$..a", r#"$.""#, &format!("${}", ".a".repeat(17))] {
            assert!(bad.parse::<JsonPath>().is_err(), "{bad}");
        }
    }
}
