//! The sources: what stands in them, how long they are, what is tracked.

use std::path::Path;

use crate::workspace::Workspace;

/// Where unsafe code may be.
const UNSAFE_MODULE: &str = "crates/keyrail-crypto/src/locked.rs";

/// The most lines of a file, without its tests.
const LINES_MAX: usize = 600;

/// The most bytes of a tracked file.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// The most characters of a commit's subject, and how many commits are looked at.
const SUBJECT_CHARS_MAX: usize = 60;
const COMMITS: &str = "50";

/// Each use of the word outside of the one module.
pub(super) fn unsafe_code(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let words =
        [concat!("unsa", "fe {"), concat!("unsa", "fe fn"), concat!("unsa", "fe impl"), concat!("unsa", "fe extern")];
    // A word in quotes is one that a test looks for.
    let quoted = |line: &str, word: &str| line.contains(&format!("\"{word}"));
    let uses = |line: &str| words.iter().any(|word| line.contains(word) && !quoted(line, word));
    let mut found = each_line(workspace, is_rust, uses)?;
    found.retain(|place| !place.starts_with(UNSAFE_MODULE));
    Ok(found)
}

/// Each file that is too long.
pub(super) fn sizes(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let mut long = Vec::new();
    for file in workspace.files()?.into_iter().filter(|file| is_rust(file) && !is_test(file)) {
        let text = std::fs::read_to_string(workspace.join(&file))?;
        let lines = lines_without_tests(&text);
        if lines > LINES_MAX {
            long.push(format!("{}: {lines} lines", file.display()));
        }
    }
    Ok(long)
}

fn lines_without_tests(text: &str) -> usize {
    text.lines().take_while(|line| *line != "#[cfg(test)]").count()
}

fn is_test(file: &Path) -> bool {
    file.iter().any(|part| part == "tests") || file.file_name().is_some_and(|name| name == "tests.rs")
}

fn is_rust(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "rs")
}

/// Each path that is somebody's and not everybody's.
pub(super) fn machine_paths(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    each_line(workspace, is_text, names_machine_path)
}

fn names_machine_path(line: &str) -> bool {
    let dirs = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/Us", "ers/"), concat!("/tmp", "/kr")];
    let begins_path = |start: &str| !start.ends_with(|c: char| c.is_alphanumeric() || "._-}~".contains(c));
    dirs.iter().any(|dir| line.match_indices(dir).any(|(at, _)| line.get(..at).is_some_and(begins_path)))
}

fn is_text(file: &Path) -> bool {
    let known = ["rs", "md", "toml", "sql", "py", "sh", "json", "yml", "yaml", "txt", "js", "ts"];
    file.starts_with(".ci") || file.extension().is_some_and(|extension| known.iter().any(|known| extension == *known))
}

/// Each line of the chosen files that `wanted` finds.
fn each_line(
    workspace: &Workspace,
    chosen: fn(&Path) -> bool,
    wanted: impl Fn(&str) -> bool,
) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for file in workspace.files()?.into_iter().filter(|file| chosen(file)) {
        let bytes = std::fs::read(workspace.join(&file))?;
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().enumerate().filter(|(_, line)| wanted(line));
        found.extend(lines.map(|(at, _)| format!("{}:{}", file.display(), at + 1)));
    }
    Ok(found)
}

/// Each tracked file that a tool makes, or that is too big to be anything else.
pub(super) fn generated(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let ignored = workspace.git(&["ls-files", "--cached", "--ignored", "--exclude-standard"]).output()?;
    let mut found: Vec<_> = ignored.lines().map(|file| format!("{file}: tracked and ignored")).collect();
    for file in workspace.files()? {
        let made = ["profraw", "sqlite", "sqlite-wal", "pyc", "o", "so", "gz", "zst"];
        let is_made = file.extension().is_some_and(|extension| made.iter().any(|made| extension == *made));
        let is_dir_of_tool =
            file.iter().any(|part| part == "target" || part == "node_modules" || part == "__pycache__");
        if is_made || is_dir_of_tool || workspace.join(&file).metadata()?.len() > FILE_LEN_MAX {
            found.push(file.display().to_string());
        }
    }
    Ok(found)
}

/// Each late commit whose subject is too long or ends with a full stop.
pub(super) fn commits(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let subjects = workspace.git(&["log", "-n", COMMITS, "--no-merges", "--format=%s"]).output()?;
    Ok(subjects.lines().filter(|subject| !is_subject(subject)).map(str::to_owned).collect())
}

fn is_subject(subject: &str) -> bool {
    subject.chars().count() <= SUBJECT_CHARS_MAX && !subject.ends_with('.')
}

#[cfg(test)]
mod tests {
    use super::{is_subject, lines_without_tests, names_machine_path};

    #[test]
    fn paths_of_a_machine_are_told_from_others() {
        let place = concat!("/wo", "rk/");
        assert!(names_machine_path(&format!("see `{place}main`")) && names_machine_path(place));
        for fine in [format!("the home{place}main"), format!("$HOME/x{place}"), "/srv/app".to_owned()] {
            assert!(!names_machine_path(&fine), "{fine}");
        }
    }

    #[test]
    fn tests_do_not_count_and_subjects_are_short() {
        assert_eq!(lines_without_tests("a\nb\n#[cfg(test)]\nmod tests {}\n"), 2);
        assert!(is_subject("xtask: check the files") && !is_subject("xtask: check the files."));
        assert!(!is_subject(&"x".repeat(61)));
    }
}
