//! The pages: what must stand in them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::workspace::Workspace;

/// The command that tests everything, executable and nothing else.
pub(super) fn ci_run(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let file = workspace.join(".ci/run");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let runs = lines.next() == Some("exec cargo xtask test") && lines.next().is_none();
    let executable = file.metadata().is_ok_and(|file| file.permissions().mode() & 0o111 != 0);
    Ok(unless(runs && executable, ".ci/run"))
}

/// Both commands, each in a block that the step `console` runs.
pub(super) fn readme(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(workspace.join("README.md")).unwrap_or_default();
    let shown = |command: &&&str| !text.lines().any(|line| line.strip_prefix("$ ") == Some(command));
    let commands = ["cargo run --release -- quickstart", "cargo xtask test"];
    Ok(commands.iter().filter(shown).map(|command| format!("README.md does not show `{command}`")).collect())
}

/// The section that changes are written into.
pub(super) fn changelog(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(workspace.join("CHANGELOG.md")).unwrap_or_default();
    Ok(unless(text.lines().any(|line| line == "## Unreleased"), "CHANGELOG.md has no section `## Unreleased`"))
}

fn unless(holds: bool, told: &str) -> Vec<String> {
    if holds { Vec::new() } else { vec![told.to_owned()] }
}

/// Each record of another name, and each number that is used twice.
pub(super) fn design_records(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut numbers = Vec::new();
    for file in pages(workspace, "docs/design")? {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match record_number(&name) {
            None if name != "README.md" => wrong.push(file.display().to_string()),
            Some(number) if numbers.contains(&number) => wrong.push(format!("{}: twice", file.display())),
            number => numbers.extend(number),
        }
    }
    Ok(wrong)
}

fn record_number(name: &str) -> Option<u16> {
    let (number, title) = name.strip_suffix(".md")?.split_once('-')?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (number.len() == 4 && !title.is_empty() && title.chars().all(plain)).then(|| number.parse().ok())?
}

/// Each paragraph or item of `spec/` with a MUST that names no vector or test, and each name that is nowhere.
pub(super) fn musts(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let known = known_names(workspace)?;
    let mut wrong = Vec::new();
    for file in pages(workspace, "spec")? {
        let text = std::fs::read_to_string(workspace.join(&file))?;
        wrong.extend(unshown(&text, &known).into_iter().map(|why| format!("{}: {why}", file.display())));
    }
    Ok(wrong)
}

/// All vectors, and all tests, as text to look names up in.
fn known_names(workspace: &Workspace) -> anyhow::Result<String> {
    let mut known = String::new();
    for file in workspace.files()? {
        let is_rust = file.extension().is_some_and(|extension| extension == "rs");
        if file.starts_with("testdata") || (is_rust && file.starts_with("crates")) {
            known.push_str(&String::from_utf8_lossy(&std::fs::read(workspace.join(&file))?));
        }
    }
    Ok(known)
}

fn unshown(page: &str, known: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let blocks = blocks(page);
    let says_must = |(_, block): &(usize, &String)| block.contains(" MUST ") && !is_about_words(block);
    for (at, block) in blocks.iter().enumerate().filter(says_must) {
        let start: String = block.trim().chars().take(60).collect();
        let Some(names) = reference(blocks.get(at..).unwrap_or_default()) else {
            wrong.push(format!("no vector or test: {start}…"));
            continue;
        };
        let names = names.split('`').skip(1).step_by(2);
        let absent = names.filter(|name| !known.contains(&known_form(name)));
        wrong.extend(absent.map(|name| format!("`{name}` is neither a vector nor a test: {start}…")));
    }
    wrong
}

/// What stands behind `*Vectors:*` in the first block, or in a paragraph of its own that ends its section.
fn reference(blocks: &[String]) -> Option<&str> {
    let section = blocks.iter().enumerate().take_while(|(at, block)| *at == 0 || !block.starts_with('#'));
    let refers = |(at, block): (usize, &'_ String)| {
        REFERENCES.iter().any(|word| if at == 0 { block.contains(word) } else { block.trim().starts_with(word) })
    };
    let (_, block) = section.into_iter().find(|(at, block)| refers((*at, block)))?;
    REFERENCES.iter().find_map(|word| block.split_once(word)).map(|(_, names)| names)
}

/// A vector stands in quotes in its file, a test after `fn`; a star stands for any ending.
fn known_form(name: &str) -> String {
    match (name.strip_suffix('*'), name.contains('_')) {
        (Some(start), _) => format!("\"{start}"),
        (None, true) => format!("fn {name}("),
        (None, false) => format!("\"{name}\""),
    }
}

/// Where a page says what its capital words mean.
fn is_about_words(block: &str) -> bool {
    block.contains("RFC 2119") || block.contains("MUST and MAY")
}

/// Paragraphs and items, each on one line.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in page.lines() {
        if line.trim().is_empty() || line.starts_with("- ") || line.starts_with('#') {
            blocks.push(String::new());
        }
        if let Some(block) = blocks.last_mut() {
            block.extend([line.trim(), " "]);
        }
    }
    blocks
}

const REFERENCES: &[&str] = &["*Vectors:*", "*Vector:*", "*Tests:*", "*Test:*"];

/// Each link from a page to a file that is not there.
pub(super) fn links(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let mut dead = Vec::new();
    for file in pages(workspace, "")? {
        let text = without_code(&std::fs::read_to_string(workspace.join(&file))?);
        let dir = file.parent().unwrap_or(Path::new("")).to_path_buf();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        let local = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
        let absent = local.filter(|target| {
            let path = target.split('#').next().unwrap_or_default();
            !workspace.join(dir.join(path)).exists()
        });
        dead.extend(absent.map(|target| format!("{}: {target}", file.display())));
    }
    Ok(dead)
}

/// The page without its fenced blocks.
fn without_code(page: &str) -> String {
    let fenced = page.split("\n```");
    fenced.step_by(2).collect()
}

fn pages(workspace: &Workspace, dir: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = workspace.files()?;
    files.retain(|file| file.starts_with(dir) && file.extension().is_some_and(|extension| extension == "md"));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::{record_number, unshown};

    #[test]
    fn records_have_four_digits_and_a_title() {
        assert_eq!(record_number("0007-one-log.md"), Some(7));
        for wrong in ["7-one.md", "0007.md", "0007-One.md", "0007-.md", "0007-one.txt"] {
            assert_eq!(record_number(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_must_names_what_shows_it() {
        let known = "{\"id\": \"kid-short\"} fn a_cursor_reads_back() {}";
        let page = |text: &str| unshown(text, known);
        assert!(page("Words: MUST as in RFC 2119.").is_empty());
        assert!(page("- A reader MUST refuse it. *Vectors:* `kid-*`,\n  `kid-short`.\n- It may.").is_empty());
        assert!(page("A cursor MUST read back. *Test:* `a_cursor_reads_back`.").is_empty());
        assert_eq!(page("- A reader MUST refuse it.\n- It may. *Vectors:* `kid-short`").len(), 1);
        assert_eq!(page("A reader MUST refuse it. *Vectors:* `kid-long`.").len(), 1);
        assert!(page("A reader MUST refuse it.\n\nSo it is.\n\n*Vectors:* refused: `kid-short`.").is_empty());
        assert_eq!(page("A reader MUST refuse it.\n## Next\n\n*Vectors:* `kid-short`.").len(), 1);
    }
}
