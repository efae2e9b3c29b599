//! A layer as the tree has it and as the cluster has it: what it is rendered from and renders,
//! what Helm has recorded, what lives, whose each field is, and how all of these differ. It
//! looks and judges; what is done about it is [`crate::layer`]'s.

pub(crate) mod claims;
pub(crate) mod difference;
pub(crate) mod drift;
pub(crate) mod handback;
mod health;
mod hidden;
pub mod images;
mod immutable;
pub(crate) mod inputs;
pub(crate) mod live;
pub(crate) mod look;
pub(crate) mod objects;
pub(crate) mod ownership;
pub mod pull_secret;
pub(crate) mod reader;
pub(crate) mod record;
pub(crate) mod state;
