//! Words of the command line that stand for numbers.

use crate::failure::Failure;

/// Seconds of a text like `90d`, `12h`, `30m`, `45s` or `60`.
pub(crate) fn seconds(text: &str) -> Result<u64, Failure> {
    let wrong = || Failure::caller(format!("`{text}` is not a time"), "write it like 90d, 12h, 30m or 45s");
    keyrail_core::time::seconds_from_text(text).ok_or_else(wrong)
}

/// The same, where `none` means no limit.
pub(crate) fn seconds_or_none(text: &str) -> Result<Option<u64>, Failure> {
    if text == "none" { Ok(None) } else { seconds(text).map(Some) }
}

/// A count, where `none` means no limit.
pub(crate) fn count_or_none(text: &str) -> Result<Option<u64>, Failure> {
    if text == "none" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Failure::caller(format!("`{text}` is not a count"), "write a number, or none"))
}

/// The two sides of `key=value`.
pub(crate) fn pair(text: &str) -> Result<(&str, &str), Failure> {
    text.split_once('=').ok_or_else(|| Failure::caller(format!("`{text}` has no ="), "write it like key=value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, want) in [("45", 45), ("45s", 45), ("30m", 1_800), ("12h", 43_200), ("90d", 7_776_000)] {
            assert_eq!(seconds(text).unwrap(), want, "{text}");
        }
        for bad in ["", "d", "1w", "-1", "1.5h", "+1s", "99999999999999999999d", "1ü"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(seconds_or_none("none").unwrap(), None);
    }
}
