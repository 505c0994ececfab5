//! What the command line says when something does not work, and with which exit code it ends.

use keyrail_client::ClientError;
use keyrail_engine::EngineError;
use keyrail_http::{ListenError, Problem};

/// An error for people and scripts.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) title: String,
    pub(crate) code: String,
    pub(crate) hint: Option<String>,
    pub(crate) exit: Exit,
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

impl Failure {
    pub(crate) fn caller(title: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { title: title.into(), code: "usage".to_owned(), hint: Some(hint.into()), exit: Exit::Caller }
    }

    pub(crate) fn stored_data(title: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { title: title.into(), code: "stored_data".to_owned(), hint: Some(hint.into()), exit: Exit::StoredData }
    }

    pub(crate) fn file(action: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::Absent } else { Exit::Dependency };
        Self {
            title: format!("cannot {action} `{}`: {error}", path.display()),
            code: "file_failed".to_owned(),
            hint: None,
            exit,
        }
    }

    pub(crate) fn bug(what: &str) -> Self {
        Self {
            title: format!("this is a bug: {what}"),
            code: "bug".to_owned(),
            hint: Some("please report it".to_owned()),
            exit: Exit::Bug,
        }
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
        Self { title: problem.title, code: problem.code, hint: problem.hint, exit }
    }

    /// As one JSON object on one line.
    pub(crate) fn json(&self) -> String {
        serde_json::json!({"error": {"code": self.code, "title": self.title, "hint": self.hint}}).to_string()
    }
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
        let exit = match error {
            ClientError::Unreachable { .. } | ClientError::TimedOut { .. } => Exit::Dependency,
            _ => Exit::Caller,
        };
        Self { title: error.to_string(), code: "unreachable".to_owned(), hint: Some(error.hint().to_owned()), exit }
    }
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        let exit =
            if matches!(error, ListenError::PlainBeyondLoopback { .. }) { Exit::Caller } else { Exit::Dependency };
        let title = match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        Self { title, code: "listen_failed".to_owned(), hint: Some(error.hint().to_owned()), exit }
    }
}
