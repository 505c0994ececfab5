//! What a page shows of an output: `...` on a line of its own stands for any lines, `[..]` within a line for any text.

/// Whether the lines are what the page shows.
pub(super) fn matches(wanted: &[String], lines: &[String]) -> bool {
    let Some((first, rest)) = wanted.split_first() else { return lines.is_empty() };
    if first.trim() == ANY_LINES {
        return (0..=lines.len()).any(|from| lines.get(from..).is_some_and(|lines| matches(rest, lines)));
    }
    lines.split_first().is_some_and(|(line, lines)| line_matches(first, line) && matches(rest, lines))
}

fn line_matches(wanted: &str, line: &str) -> bool {
    let mut parts = wanted.split(ANY_TEXT);
    let Some(mut line) = parts.next().and_then(|start| line.strip_prefix(start)) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((end, middle)) = parts.split_last() else { return line.is_empty() };
    // The earliest place of each part leaves the most for those after it.
    for part in middle {
        let Some((_, after)) = line.split_once(part) else { return false };
        line = after;
    }
    line.ends_with(end)
}

const ANY_LINES: &str = "...";
const ANY_TEXT: &str = "[..]";

#[cfg(test)]
mod tests {
    use super::matches;

    fn check(wanted: &str, lines: &str) -> bool {
        let split = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        matches(&split(wanted), &split(lines))
    }

    #[test]
    fn outputs_match_or_do_not() {
        for (wanted, lines, want) in [
            ("", "", true),
            ("one", "one", true),
            ("one", "one\ntwo", false),
            ("one\ntwo", "one", false),
            ("one", "one!", false),
            ("...", "", true),
            ("one\n...", "one\ntwo\nthree", true),
            ("...\nthree", "one\ntwo\nthree", true),
            ("one\n...\nthree", "one\ntwo", false),
            ("kr1.[..]", "kr1.gw4", true),
            ("[..] of [..] rows", "3 of 10 rows", true),
            ("[..] of [..] rows", "3 of 10 row", false),
            ("a[..]a", "a", false),
        ] {
            assert_eq!(check(wanted, lines), want, "{wanted:?} and {lines:?}");
        }
    }
}
