//! The examples of a page: fenced blocks of the language `console`.

use anyhow::bail;

/// A command with what the page says about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Example {
    /// The line of the page, from 1.
    pub(super) line: usize,
    /// The command, without its prompt; further lines joined by a line feed.
    pub(super) command: String,
    /// The exit status it must have.
    pub(super) status: i32,
    /// The output it must have, if the page shows any.
    pub(super) output: Option<Vec<String>>,
}

/// All examples, in order.
///
/// # Errors
/// A block has output before its first command, a bad exit status, or no end.
pub(super) fn examples(page: &str) -> anyhow::Result<Vec<Example>> {
    let mut examples = Vec::new();
    let mut block = None;
    for (at, line) in page.lines().enumerate().map(|(at, line)| (at + 1, line.trim_end())) {
        match &mut block {
            None if line == "```console" => block = Some(Vec::new()),
            None => {}
            Some(found) if line == "```" => {
                examples.append(found);
                block = None;
            }
            Some(found) => read_line(found, at, line)?,
        }
    }
    if block.is_some() {
        bail!("a console block does not end");
    }
    Ok(examples)
}

fn read_line(block: &mut Vec<Example>, at: usize, line: &str) -> anyhow::Result<()> {
    if let Some(command) = line.strip_prefix("$ ") {
        block.push(Example { line: at, command: command.to_owned(), status: 0, output: None });
        return Ok(());
    }
    let Some(example) = block.last_mut() else { bail!("line {at}: a console block begins with `$ ` and a command") };
    // What stands behind a line was taken off, so an empty one has its mark alone.
    let more = if line == ">" { Some("") } else { line.strip_prefix("> ") };
    match (more, line.strip_prefix("? "), &mut example.output) {
        (Some(more), _, None) => example.command.extend(["\n", more]),
        (_, Some(status), None) => example.status = status.parse()?,
        (_, _, output) => output.get_or_insert_default().push(line.to_owned()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::examples;

    #[test]
    fn commands_status_and_output_are_read_from_console_blocks_alone() {
        let page = "text\n```sh\n$ rm -rf x\n```\n```console\n$ one \\\n>   two\nout\n\nmore\n$ three\n? 2\nerror: no\n$ four\n```\n```console\n$ cat <<E\n> a\n>\n> b\n> E\na\n```\n";
        let found = examples(page).unwrap();
        let seen: Vec<_> = found.iter().map(|e| (e.line, e.command.as_str(), e.status, e.output.clone())).collect();
        let lines = |text: &[&str]| Some(text.iter().map(ToString::to_string).collect());
        assert_eq!(
            seen,
            [
                (6, "one \\\n  two", 0, lines(&["out", "", "more"])),
                (11, "three", 2, lines(&["error: no"])),
                (14, "four", 0, None),
                (17, "cat <<E\na\n\nb\nE", 0, lines(&["a"])),
            ]
        );
    }

    #[test]
    fn a_block_without_a_command_or_without_an_end_is_refused() {
        assert!(examples("```console\nout\n```\n").is_err());
        assert!(examples("```console\n$ one\n").is_err());
        assert!(examples("```console\n$ one\n? two\n```\n").is_err());
    }
}
