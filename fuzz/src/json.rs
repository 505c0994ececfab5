//! Members of JSON documents: a path, a line feed, a document.

use keyrail_data::fuzz;
use keyrail_data::json::JsonPath;
use serde_json::value::RawValue;

/// Paths and documents.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "$.a\n{\"a\":1}",
        "$.a.\"b c\"[1].x\n { \"a\" : {\"b\\u0020c\":[1, {\"x\":\"y\"} ,null]}, \"z\":2 }",
        "$[0]\n[\"kr1.\"]",
        "$.a.b\n{\"a\":{\"b\":{\"c\":[true,false,1.5e3]}}}",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A member is found, and found again where another was put; no byte around it changes.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Some((path, document)) = text.split_once('\n') else { return false };
    let Ok(path) = path.parse::<JsonPath>() else { return false };
    assert_eq!(path.to_string().parse::<JsonPath>().ok(), Some(path.clone()));
    let Some(range) = fuzz::member(document, &path) else { return false };
    let member = &document[range.clone()];
    assert!(serde_json::from_str::<&RawValue>(member).is_ok_and(|raw| raw.get() == member), "it is no member");
    let with = "\"kr1.x\"";
    let replaced = fuzz::replace(document, range.clone(), with).expect("the place is in the document");
    assert_eq!(fuzz::member(&replaced, &path), Some(range.start..range.start + with.len()));
    assert!(replaced.starts_with(&document[..range.start]) && replaced.ends_with(&document[range.end..]));
    let back = fuzz::replace(&replaced, range.start..range.start + with.len(), member);
    assert_eq!(back.as_deref(), Some(document));
    true
}
