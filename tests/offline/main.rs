//! The tool without a cluster and without Docker: the real binary with stand-ins for the programs
//! it starts and the servers it contacts, the rendered charts, and the documentation.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod bad_input;
mod charts;
mod completion;
mod consent;
mod entry;
mod exits;
mod house;
mod mirror;
mod prefetch;
mod processes;
mod quiet;
mod releases;
mod report;
mod shown;
mod tools;
mod traces;
mod tree;
