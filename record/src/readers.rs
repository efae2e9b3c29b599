//! The readers of a run's events, independent of each other: each produces one format. Where the
//! output goes (terminal, file, job log) is not their concern.

pub mod github;
pub mod html;
pub mod json;
pub mod markdown;
pub mod otlp;
pub mod text;
