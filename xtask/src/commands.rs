//! The commands, one recipe a file: what each does, step by step, in the words of the
//! rooms below. No mechanism lives here.

pub mod checklist;
pub mod cluster;
pub mod completion;
pub mod doctor;
pub mod drift;
pub mod lab;
pub mod layer;
pub mod logs;
pub mod mirror;
pub mod open;
pub mod releases;
pub mod remedy;
pub mod report;
pub mod script;
pub mod tools;
pub mod trace;
pub mod up;

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    AsAsked,
    /// `--exit-code` was given, and a run would change something.
    Differs,
}

impl Done {
    /// As `diff` and `kubectl diff` have it.
    pub fn exit(self) -> i32 {
        match self {
            Self::AsAsked => 0,
            Self::Differs => 1,
        }
    }
}
