//! Files of this machine: how much of one is read, and how one is written.

pub mod bounds;
