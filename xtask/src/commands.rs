//! The commands, one recipe a file: what each does, step by step, in the words of the
//! rooms below. No mechanism lives here.

pub mod doctor;
pub mod mirror;
pub mod remedy;
pub mod script;
pub mod up;
