//! A run's record: what blocks a run, and how the run ends.

mod code;
mod failure;

pub use code::{Code, Exit, UnknownCode};
pub use failure::Failure;
