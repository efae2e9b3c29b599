//! The readers of a run's events, peers of each other: each a form of its own, none
//! knowing another. Where the forms go (terminal, file, job's log) is not theirs.

pub mod github;
pub mod html;
pub mod json;
pub mod markdown;
pub mod otlp;
pub mod text;
