//! The text form, the prefix that a census reads, kids and contexts.

use keyrail_crypto::envelope::{self, Context, Kid};
use keyrail_crypto::suite::Suite;

/// Text forms, a kid, a context.
pub fn seeds() -> Vec<Vec<u8>> {
    let sealed =
        |len: usize| envelope::to_text(&crate::envelope::seal(Suite::A256Gcm, &Context::empty(), &vec![b'p'; len]));
    let texts =
        [sealed(0), sealed(1), sealed(2), sealed(80), crate::envelope::KID.to_string(), "row=7\ncolumn=email".into()];
    texts.into_iter().map(String::into_bytes).collect()
}

/// Each text has one meaning, and each meaning one text.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let mut accepted = false;
    if let Ok(bytes) = envelope::from_text(text) {
        assert_eq!(envelope::to_text(&bytes), text, "a second spelling");
        assert_eq!(envelope::parse_text(text), envelope::parse(&bytes));
        accepted = true;
    }
    if let (Some(kid), Ok(header)) = (envelope::peek_kid(text), envelope::parse_text(text)) {
        assert_eq!(kid, header.kid);
        assert!(text.starts_with(&envelope::text_prefix(header.suite, &kid)));
    }
    if let Ok(kid) = text.parse::<Kid>() {
        assert_eq!(kid.to_string(), text);
        accepted = true;
    }
    accepted | context(text)
}

fn context(text: &str) -> bool {
    let pairs: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let backwards = Context::from_pairs(pairs.iter().rev().copied());
    let context = Context::from_pairs(pairs.iter().copied());
    assert_eq!(context.is_ok(), backwards.is_ok(), "the order decides");
    let (Ok(context), Ok(backwards)) = (context, backwards) else { return false };
    let aad = envelope::external_aad(&[1; 16], &context);
    assert_eq!(aad, envelope::external_aad(&[1; 16], &backwards), "the order is bound");
    assert_eq!(context.iter().len(), pairs.len());
    !pairs.is_empty()
}
