//! The pages in `spec/` say what the vectors say: their examples are vectors, and every MUST names its vectors.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::testdata::{rows, text, vectors};

const PAGES: [&str; 4] = ["envelope", "wrapped-key", "root-slot", "recovery-share"];

/// `name = value` of the blocks of a page, one map for each `=` block; a value goes on in the lines below it.
fn example(page: &str) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for block in page.split("```text\n").skip(1) {
        for line in block.split("\n```").next().unwrap().lines() {
            match line.split_once("= ") {
                Some((name, value)) if !line.starts_with(' ') => {
                    fields.push((name.trim().to_owned(), value.to_owned()))
                }
                _ => fields.last_mut().unwrap().1.push_str(line.trim()),
            }
        }
    }
    fields
}

fn said(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn require_fields(fields: &[(String, String)], vector: &Value, left_out: &[&str]) {
    for (name, value) in fields {
        let expected = &vector[name.as_str()];
        match expected {
            Value::Object(_) => assert_eq!(&serde_json::from_str::<Value>(value).unwrap(), expected, "{name}"),
            _ => assert_eq!(value, &said(expected), "{name}"),
        }
    }
    let names: BTreeSet<_> = fields.iter().map(|(name, _)| name.as_str()).chain(left_out.iter().copied()).collect();
    let all: BTreeSet<_> = vector.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, all, "the example leaves nothing out");
}

#[test]
fn the_examples_are_the_vectors() {
    let envelope = example(&text("spec/envelope.md"));
    require_fields(&envelope, &rows(&vectors("envelope"), "valid")[0], &["id", "about"]);
    let wrapped = example(&text("spec/wrapped-key.md"));
    require_fields(&wrapped, &rows(&vectors("wrapped-key"), "valid")[0], &["id"]);
    let share = example(&text("spec/recovery-share.md"));
    require_fields(&share, &rows(&vectors("recovery-share"), "valid")[0], &["id"]);
    let slots = example(&text("spec/root-slot.md"));
    let place = |first: &str| slots.iter().position(|(name, _)| name == first).unwrap();
    let (before, by_token) = slots.split_at(place("token_key"));
    let (by_file, by_words) = before.split_at(place("passphrase"));
    let vectors = vectors("root-slot");
    require_fields(by_file, &rows(&vectors, "valid")[0], &["id", "kind", "hierarchy"]);
    require_fields(by_words, &rows(&vectors, "valid")[1], &["id", "kind", "hierarchy"]);
    require_fields(by_token, &rows(&vectors, "valid")[3], &["id", "kind", "hierarchy"]);
}

/// The list items of a page that say MUST, each with the vectors it names.
fn musts(page: &str) -> Vec<(String, Vec<String>)> {
    let mut items: Vec<String> = Vec::new();
    for line in page.lines() {
        match line.strip_prefix("- ") {
            Some(start) => items.push(start.to_owned()),
            None if line.starts_with("  ") && !items.is_empty() => {
                items.last_mut().unwrap().push_str(&format!(" {}", line.trim()));
            }
            None => items.push(String::new()),
        }
    }
    items.retain(|item| item.contains("MUST"));
    items
        .into_iter()
        .map(|item| {
            // That the tests which an item names are there is told elsewhere.
            if item.contains("*Tests:* ") {
                return (item, Vec::new());
            }
            let (_, named) = item.split_once("*Vectors:* ").unwrap_or_else(|| panic!("without vectors: {item}"));
            let named = named.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            (item, named)
        })
        .collect()
}

fn matches(pattern: &str, id: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => id.starts_with(start),
        None => pattern == id,
    }
}

#[test]
fn every_must_names_vectors_and_every_vector_is_named() {
    for name in PAGES {
        let page = text(&format!("spec/{name}.md"));
        let vectors = vectors(name);
        let ids: Vec<_> =
            ["valid", "failing"].iter().flat_map(|list| rows(&vectors, list)).map(|row| said(&row["id"])).collect();
        let musts = musts(&page);
        assert_eq!(musts.len(), page.matches(" MUST ").count(), "{name}: a MUST stands outside of the lists");
        for (item, named) in &musts {
            assert!(!named.is_empty() || item.contains("*Tests:* "), "{name}: no vectors: {item}");
            for pattern in named {
                assert!(ids.iter().any(|id| matches(pattern, id)), "{name}: there is no vector {pattern}");
            }
        }
        for id in &ids {
            let named = musts.iter().flat_map(|(_, named)| named).any(|pattern| matches(pattern, id));
            assert!(named, "{name}: no MUST names the vector {id}");
        }
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{name}: an id comes twice");
    }
}

/// Figures of the text that no vector holds.
#[test]
fn the_overhead_is_what_the_page_says() {
    use keyrail_crypto::envelope::{Context, KeyRef, Kid, seal};
    use keyrail_crypto::secret::DataKey;
    use keyrail_crypto::suite::Suite;
    let key = DataKey::generate().unwrap();
    for (suite, more) in [(Suite::A256Gcm, 0), (Suite::ChaCha20Poly1305, 1)] {
        let key = KeyRef { kid: &Kid::from_bytes([1; 16]), key_id: &[2; 16], key: &key, suite };
        let overhead = |len: usize| seal(&key, &Context::empty(), &vec![0; len]).unwrap().len() - len - more;
        assert_eq!((overhead(0), overhead(7), overhead(8)), (100, 100, 101), "{suite}");
        assert_eq!(overhead(16 * 1024 * 1024), 104, "{suite}");
    }
}
