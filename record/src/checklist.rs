//! The checklist as a run's folder keeps it, for the reports.

use serde::{Deserialize, Serialize};

/// The state of one checklist item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Pass,
    Fail,
    NotApplicable,
    Unknown,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::NotApplicable => "not-applicable",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct Checkpoint {
    pub title: String,
    pub state: State,
    #[serde(default)]
    pub evidence: Vec<String>,
    pub remedy: Option<String>,
}
