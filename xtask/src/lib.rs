//! The deploy automation of this repository, `cargo xtask`.
//!
//! Every command has three steps: observe (read the tree, the cluster and the registry into plain
//! facts), decide (a pure function from facts to a plan or a verdict) and act (carry out the plan,
//! one reported step at a time).

pub mod checklist;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod compare;
pub mod diagnosis;
pub mod files;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod host;
pub mod lab;
pub mod layer;
pub mod mirror;
pub mod reach;
pub mod releases;
pub mod repo;
pub mod run;
pub mod world;

#[cfg(test)]
#[path = "../../tests/support/schema.rs"]
mod schema;

#[cfg(test)]
#[path = "../../tests/support/server.rs"]
mod stand_in;
