//! What the tree says, parsed once: layers and what they need, environments, k3d.

pub mod k3d;
pub mod tree;
