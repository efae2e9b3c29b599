//! The commands, one recipe a file: what each does, step by step, in the words of the
//! rooms below. No mechanism lives here.

pub mod checklist;
pub mod cluster;
pub mod doctor;
pub mod lab;
pub mod logs;
pub mod mirror;
pub mod open;
pub mod releases;
pub mod remedy;
pub mod report;
pub mod script;
pub mod tools;
pub mod up;
