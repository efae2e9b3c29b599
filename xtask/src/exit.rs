//! How a run ends: the exit codes, and the one kind of error that a person is
//! meant to read (what blocks, the evidence, the remedy).

use camino::Utf8PathBuf;
use serde::Serialize;

/// The exit codes, as documented in `docs/operations.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    Unclassified = 1,
    Usage = 2,
    LockTimeout = 3,
    ApiUnreachable = 4,
    Registry = 5,
    NamespaceTerminating = 6,
    Release = 7,
    NotReady = 8,
    TestsFailed = 9,
    /// Something would be lost or changed that nobody consented to.
    ConsentNeeded = 10,
    /// 128 + SIGINT.
    Interrupted = 130,
    /// 128 + SIGTERM.
    Terminated = 143,
}

/// What blocks a run, in the words of the last lines that it prints.
#[derive(Clone, Debug, Serialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// Stable, kebab-case: `docs/operations.md` has an entry for each.
    pub code: &'static str,
    pub exit: Exit,
    pub message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Utf8PathBuf>,
}

impl Failure {
    pub fn new(code: &'static str, exit: Exit, message: impl Into<String>) -> Self {
        Self { code, exit, message: message.into(), evidence: Vec::new(), remedy: None, log: None }
    }

    /// Bad input: a wrong flag, or a file that is missing or broken.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new("usage", Exit::Usage, message)
    }

    pub fn evidence(mut self, line: impl Into<String>) -> Self {
        self.evidence.push(line.into());
        self
    }

    pub fn remedy(mut self, command: impl Into<String>) -> Self {
        self.remedy = Some(command.into());
        self
    }

    pub fn log(mut self, path: impl Into<Utf8PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }
}

/// The failure that an error carries, or the error itself as an unclassified one.
pub fn failure_of(error: &anyhow::Error) -> Failure {
    match error.downcast_ref::<Failure>() {
        Some(failure) => failure.clone(),
        None => Failure::new("unknown", Exit::Unclassified, format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_failure_is_found_under_added_context() {
        let error = Err::<(), _>(Failure::usage("no layer 99")).context("reading the selector").unwrap_err();
        assert_eq!(failure_of(&error).exit, Exit::Usage);
    }

    #[test]
    fn any_other_error_is_unclassified_and_keeps_its_chain() {
        let error = Err::<(), _>(std::io::Error::other("broken")).context("reading x").unwrap_err();
        let failure = failure_of(&error);
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Unclassified, "reading x: broken"));
    }
}
