//! What the command line says when something does not work, and with which exit code it ends.

use keyrail_client::{CertificateProblem, ClientError};
use keyrail_engine::EngineError;
use keyrail_engine::error::Fault;
use keyrail_http::{ListenError, Problem};

/// An error for people and scripts.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) title: String,
    pub(crate) code: String,
    pub(crate) hint: Option<String>,
    pub(crate) exit: Exit,
    /// How long what is in the way lasts, where that is known.
    pub(crate) seconds_left: Option<u64>,
    /// The id of the request, and of its record in the log if there is one.
    pub(crate) request_id: Option<String>,
}

/// How a command ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    Caller = 2,
    Refused = 3,
    Absent = 4,
    StoredData = 5,
    Dependency = 6,
    Bug = 70,
}

impl Exit {
    /// The exit code for whose fault it is.
    pub(crate) const fn of_fault(fault: Fault) -> Self {
        match fault {
            Fault::Caller | Fault::Conflict => Self::Caller,
            Fault::Policy | Fault::Unauthenticated => Self::Refused,
            Fault::Absent => Self::Absent,
            Fault::StoredData => Self::StoredData,
            Fault::Dependency | Fault::Load => Self::Dependency,
            Fault::Bug => Self::Bug,
        }
    }
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: &str, title: impl Into<String>, hint: impl Into<String>) -> Self {
        let (title, code, hint) = (title.into(), code.to_owned(), Some(hint.into()));
        Self { title, code, hint, exit, seconds_left: None, request_id: None }
    }

    pub(crate) fn caller(title: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Caller, "usage", title, hint)
    }

    /// What is wrong with a command line, from the parser's own words.
    pub(crate) fn usage(rendered: &str) -> Self {
        let mut paragraphs = rendered.trim().split("\n\n");
        let title = paragraphs.next().unwrap_or_default().trim_start_matches("error: ");
        let lines: Vec<_> = title.lines().map(str::trim).collect();
        let (head, listed) = lines.split_first().map_or(("", &[] as &[&str]), |(head, rest)| (*head, rest));
        let title = if listed.is_empty() { head.to_owned() } else { format!("{head} {}", listed.join(", ")) };
        let mut hint = None;
        for paragraph in paragraphs {
            let paragraph = paragraph.trim();
            if let Some(tip) = paragraph.strip_prefix("tip: ") {
                hint = Some(ticked(tip.lines().next().unwrap_or_default()));
            } else if let Some(usage) = paragraph.strip_prefix("Usage: ") {
                hint.get_or_insert_with(|| format!("write it like `{}`", usage.lines().next().unwrap_or_default()));
            }
        }
        let hint = hint.unwrap_or_else(|| "`keyrail --help` lists the commands".to_owned());
        Self::caller(ticked(&title), hint)
    }

    pub(crate) fn stored_data(title: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::StoredData, "stored_data", title, hint)
    }

    pub(crate) fn file(action: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::Absent } else { Exit::Dependency };
        let title = format!("cannot {action} `{}`: {error}", path.display());
        Self::new(exit, "file_failed", title, "check that the path is there and that this user may use it")
    }

    pub(crate) fn bug(what: &str) -> Self {
        Self::new(Exit::Bug, "bug", format!("this is a bug: {what}"), "please report it")
    }

    pub(crate) fn of(problem: Problem) -> Self {
        let exit = match problem.fault.as_str() {
            "caller" => Exit::Caller,
            "refused" => Exit::Refused,
            "absent" => Exit::Absent,
            "stored-data" => Exit::StoredData,
            "dependency" => Exit::Dependency,
            _ => Exit::Bug,
        };
        let Problem { title, code, hint, seconds_left, request_id, .. } = problem;
        Self { title, code, hint, exit, seconds_left, request_id }
    }

    /// The same, with another hint if what was done cannot be told.
    pub(crate) fn if_untold(mut self, hint: &str) -> Self {
        if self.code == crate::output::OUTPUT_FAILED {
            self.hint = Some(hint.to_owned());
        }
        self
    }

    /// As one JSON object on one line.
    pub(crate) fn json(&self) -> String {
        let mut error = serde_json::json!({"code": self.code, "title": self.title, "hint": self.hint});
        if let Some(fields) = error.as_object_mut() {
            let known = self.request_id.as_ref().map(|id| ("request_id", serde_json::json!(id)));
            let lasting = self.seconds_left.map(|seconds| ("seconds_left", serde_json::json!(seconds)));
            fields.extend(known.into_iter().chain(lasting).map(|(name, value)| (name.to_owned(), value)));
        }
        serde_json::json!({ "error": error }).to_string()
    }

    /// As lines for people: what, what to do, and where to look if nobody knows what became of it.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("error: {}", self.title)];
        lines.extend(self.hint.as_ref().map(|hint| format!("hint: {hint}")));
        let id = self.request_id.as_ref().filter(|_| self.code == "indeterminate");
        lines.extend(id.map(|id| format!("request id: {id}")));
        lines
    }

    /// What a line lacks that ends before its command is named.
    pub(crate) fn incomplete(help: &str) -> Self {
        let usage = help.lines().find_map(|line| line.trim().strip_prefix("Usage: ")).unwrap_or("keyrail");
        let words: Vec<_> = usage.split(' ').take_while(|word| !word.starts_with(['[', '<'])).collect();
        let words = words.join(" ");
        Self::caller(format!("`{words}` needs a command"), format!("`{words} --help` lists the commands"))
    }
}

/// The parser quotes with apostrophes; everything here does with backticks.
fn ticked(text: &str) -> String {
    text.replace('\'', "`")
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let mut failure = Self::of(Problem::of(&error));
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            // A transparent error has its cause as its own words.
            let text = cause.to_string();
            if !failure.title.contains(&text) {
                failure.title = format!("{}: {text}", failure.title);
            }
            source = cause.source();
        }
        failure
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match error.fault() {
            keyrail_client::Fault::Caller => Exit::Caller,
            keyrail_client::Fault::Dependency => Exit::Dependency,
        };
        let mut title = error.to_string();
        // What the TLS library says of a certificate is said already, but for what nobody foresaw.
        let told = matches!(&error, ClientError::Certificate { problem, .. } if *problem != CertificateProblem::Other);
        if let Some(cause) = innermost(&error).filter(|_| !told) {
            title = format!("{title}: {cause}");
        }
        Self::new(exit, error.code(), title, error.hint())
    }
}

/// The last cause of an error: what the system said, without what each layer made of it.
fn innermost(error: &dyn std::error::Error) -> Option<String> {
    let mut source = error.source()?;
    while let Some(cause) = source.source() {
        source = cause;
    }
    Some(source.to_string())
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        let exit =
            if matches!(error, ListenError::PlainBeyondLoopback { .. }) { Exit::Caller } else { Exit::Dependency };
        let title = match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        Self::new(exit, "listen_failed", title, error.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_exit_code() {
        let of = |error: EngineError| Failure::from(error).exit as u8;
        assert_eq!(of(EngineError::BadContext), 2);
        assert_eq!(of(EngineError::Refused { reason: "no rule" }), 3);
        assert_eq!(of(EngineError::Unauthenticated), 3);
        assert_eq!(of(EngineError::NotInitialized), 4);
        assert_eq!(of(EngineError::Unopenable), 5);
        assert_eq!(of(EngineError::InUse), 6);
        assert_eq!(of(EngineError::Bug { what: "it" }), 70);
        assert_eq!(Failure::bug("it").exit as u8, 70);
    }

    #[test]
    fn who_does_not_know_what_became_of_it_is_told_where_to_look() {
        let id = "0123456789abcdef0123456789abcdef";
        let failure = Failure::of(Problem::of(&EngineError::Indeterminate).under(id));
        assert_eq!(failure.lines().last().unwrap(), &format!("request id: {id}"));
        let said: serde_json::Value = serde_json::from_str(&failure.json()).unwrap();
        assert_eq!(said["error"]["request_id"], id);
        assert!(said["error"].get("seconds_left").is_none());
        let failure = Failure::of(Problem::of(&EngineError::WriteWindowOpen { seconds_left: 259_200 }));
        let said: serde_json::Value = serde_json::from_str(&failure.json()).unwrap();
        assert_eq!(said["error"]["seconds_left"], 259_200);
        assert!(said["error"].get("request_id").is_none());
        assert_eq!(failure.lines().len(), 2);
    }

    #[test]
    fn a_misread_line_is_an_error_with_a_hint() {
        let missing = "error: the following required arguments were not provided:\n  --label <LABEL>\n  <NAME>\n\nUsage: keyrail key create --label <LABEL> <NAME>\n\nFor more information, try '--help'.\n";
        let failure = Failure::usage(missing);
        assert_eq!(failure.title, "the following required arguments were not provided: --label <LABEL>, <NAME>");
        assert_eq!(failure.hint.as_deref(), Some("write it like `keyrail key create --label <LABEL> <NAME>`"));
        let typo = "error: unexpected argument '--datadir' found\n\n  tip: a similar argument exists: '--data-dir'\n\nUsage: keyrail key list\n";
        let failure = Failure::usage(typo);
        assert_eq!(failure.title, "unexpected argument `--datadir` found");
        assert_eq!(failure.hint.as_deref(), Some("a similar argument exists: `--data-dir`"));
    }
}
