//! A run's record: what happens in a run, what blocks it and how it ends, and everything that reads
//! this, during the run or afterwards.
//!
//! It knows nothing about clusters, and neither prints nor writes: the caller hands events in and
//! takes text out.

// This crate itself would compile there; but all others depend on it, so this is the only error
// shown.
#[cfg(windows)]
compile_error!("cargo xtask runs on Linux and macOS; on Windows, inside of WSL2 (README.md)");

mod checklist;
mod code;
mod event;
mod failure;
pub mod markup;
pub mod preview;
pub mod readers;
mod seconds;
pub mod timeline;
pub mod trace;

pub use checklist::{Checkpoint, State};
pub use code::{Code, Exit, UnknownCode};
pub use event::{Blocked, Event, ImagesEvent, InPlace, Outcome, PodEvent, Prospect, ReleaseEvent, Step, StepKind};
pub use failure::Failure;
pub use seconds::human_seconds;
