//! What ended a run, as its last lines print it.

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::{Code, Exit};

/// What blocks a run: the one kind of error that a person is meant to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    pub code: Code,
    /// The code's own, except for the few codes whose exit code depends on what happened.
    exit: Exit,
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Utf8PathBuf>,
    /// The release concerned, if known. Boxed without spare capacity, because every fallible
    /// function returns this type and it should stay small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    release: Option<Box<str>>,
}

/// How the remedy of a failure begins that is the evidence of another.
const REMEDY: &str = "  remedy: ";

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            exit: code.exit(),
            message: message.into(),
            evidence: Vec::new(),
            remedy: None,
            log: None,
            release: None,
        }
    }

    /// Bad input: a wrong flag, or a file that is missing or broken.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// Stopped by a signal: 130 for SIGINT, 143 for any other.
    pub fn interrupted(by_sigint: bool, message: impl Into<String>) -> Self {
        let exit = if by_sigint { Exit::Interrupted } else { Exit::Terminated };
        Self { exit, ..Self::new(Code::Interrupted, message) }
    }

    /// An item of the checklist does not hold; the item determines the exit code.
    pub fn data_plane_not_ready(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, ..Self::new(Code::DataPlaneNotReady, message) }
    }

    /// The exit code of the run that it ends.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    pub fn evidence(mut self, line: impl Into<String>) -> Self {
        self.evidence.push(line.into());
        self
    }

    /// Adds another failure, with its remedy, as evidence.
    pub fn also(self, other: Self) -> Self {
        let mut both = self.evidence(format!("also {other}"));
        both.evidence.extend(other.remedy.map(|remedy| format!("{REMEDY}{remedy}")));
        both
    }

    pub fn remedy(mut self, command: impl Into<String>) -> Self {
        self.remedy = Some(command.into());
        self
    }

    pub fn log(mut self, path: impl Into<Utf8PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    pub fn of_release(mut self, release: &str) -> Self {
        self.release = Some(release.into());
        self
    }

    /// The release concerned.
    pub fn release(&self) -> Option<&str> {
        self.release.as_deref()
    }

    /// Applies `change` to what is to be done: the remedy, and those of the failures in its evidence. The
    /// rest of its evidence is what other programs said.
    pub(crate) fn map_advice(&mut self, change: impl Fn(&str) -> String) {
        let others = self.evidence.iter_mut().filter(|line| line.starts_with(REMEDY));
        others.chain(&mut self.remedy).for_each(|text| *text = change(text));
    }

    /// The same failure with `change` applied to every text.
    pub fn map_text(&self, change: impl Fn(&str) -> String) -> Self {
        Self {
            message: change(&self.message),
            evidence: self.evidence.iter().map(|line| change(line)).collect(),
            remedy: self.remedy.as_deref().map(&change),
            release: self.release.as_deref().map(|name| change(name).into()),
            ..self.clone()
        }
    }
}
