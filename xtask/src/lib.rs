//! The deploy automation of this repository, `cargo xtask`.
//!
//! Every command is three steps: observe (read the tree, the cluster, the
//! registry into plain facts), decide (a pure function from facts to a plan or a
//! verdict), act (carry the plan out, one reported step at a time).

pub mod bounds;
pub mod checklist;
pub mod cli;
pub mod cluster;
pub mod consent;
pub mod context;
pub mod devcontainer;
pub mod diagnosis;
pub mod docker;
pub mod doctor;
pub mod engine;
pub mod exit;
pub mod foreign;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod github;
pub mod gomodule;
pub mod k3d;
pub mod kubeconfig;
pub mod kubernetes;
pub mod lab;
pub mod layer;
pub mod lease;
pub mod lock;
pub mod markup;
pub mod output;
pub mod preflight;
pub mod process;
pub mod pull_secret;
pub mod registry;
pub mod registry_hosting;
pub mod releases;
pub mod rendered;
pub mod report;
pub mod retry;
pub mod scripts;
pub mod state;
pub mod tools;
pub mod trace;
pub mod transfer;
pub mod tree;
pub mod up;
pub mod wanted;
