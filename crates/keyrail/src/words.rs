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

/// Seconds as people write them: the largest unit that does not promise too little.
pub(crate) fn time(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let unit = units.into_iter().find(|(unit, _)| seconds >= 2 * unit);
    unit.map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds.div_ceil(unit)))
}

/// A name at the beginning of a text, and what follows it. In double quotes it may hold anything, with each quotation
/// mark of its own written twice; else it ends before the first of `ends`. Tells whether it was quoted.
pub(crate) fn name<'a>(text: &'a str, ends: &[char]) -> Result<(String, bool, &'a str), Failure> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find(ends).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        return Ok((name.to_owned(), false, rest));
    };
    let mut name = String::new();
    loop {
        let Some((part, after)) = rest.split_once('"') else {
            let title = format!("`{text}` has a quotation mark that is not closed");
            return Err(Failure::caller(title, "a name in double quotes has its own quotation marks twice"));
        };
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None if after.is_empty() || after.starts_with(ends) => return Ok((name, true, after)),
            None => {
                let title = format!("`{text}` goes on behind a name in quotes");
                return Err(Failure::caller(title, "write it like '\"a:b\":$.x'"));
            }
        }
    }
}

/// Names between commas, each with whether it was quoted.
pub(crate) fn names(text: &str) -> Result<Vec<(String, bool)>, Failure> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let (one, quoted, after) = name(rest, &[','])?;
        found.push((one, quoted));
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(found),
        }
    }
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
        for (count, want) in [(1, "1s"), (119, "119s"), (120, "2m"), (7_201, "3h"), (259_200, "3d"), (259_201, "4d")] {
            assert_eq!(time(count), want);
        }
    }

    #[test]
    fn a_name_in_quotes_may_hold_anything() {
        let split = |text: &str| name(text, &[':']).map(|(name, quoted, rest)| (name, quoted, rest.to_owned()));
        for (text, want) in [
            ("a:$.x", ("a", false, ":$.x")),
            ("a", ("a", false, "")),
            ("\"a:b\":$.x", ("a:b", true, ":$.x")),
            ("\"a:b\"", ("a:b", true, "")),
            ("\"a\"\"b\"", ("a\"b", true, "")),
            ("a\"b", ("a\"b", false, "")),
        ] {
            let (one, quoted, rest) = split(text).unwrap();
            assert_eq!((one.as_str(), quoted, rest.as_str()), want, "{text}");
        }
        for bad in ["\"a", "\"a\"b", "\"a\"\""] {
            assert!(split(bad).is_err(), "{bad}");
        }
        let listed = names("a,\"b,c\",\"none\"").unwrap();
        assert_eq!(listed, [("a".to_owned(), false), ("b,c".to_owned(), true), ("none".to_owned(), true)]);
    }
}
