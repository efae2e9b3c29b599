//! A run's record: what happens in a run, what blocks it and how it ends, and everything
//! that reads that, while it goes on or afterwards.
//!
//! It knows nothing of clusters, and prints and writes nothing: who runs hands events in,
//! and takes text out.

// Not that anything here minds; but all else is compiled after this, so that it stands alone.
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
