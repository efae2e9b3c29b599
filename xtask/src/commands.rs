//! The commands, one recipe per file: what each does, step by step, in the terms of the rooms
//! below. There are no mechanisms here.

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
pub mod report;
pub mod script;
pub mod tools;
pub mod trace;
pub mod up;

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    AsAsked,
    /// `--exit-code` was given, and a run would change something.
    Differs,
}

impl Done {
    /// The exit codes of `diff` and `kubectl diff`.
    pub fn exit(self) -> i32 {
        match self {
            Self::AsAsked => 0,
            Self::Differs => 1,
        }
    }
}
