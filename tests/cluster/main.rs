//! The whole tool on a real cluster: real Docker, k3d, Kubernetes, Helm and Helmfile.

#[path = "../support/mod.rs"]
mod support;

mod back;
#[cfg(target_os = "linux")]
mod connected;
mod devcontainer;
mod entry;
mod guard;
mod instant;
mod kills;
mod mirror;
mod preview;
mod rights;
mod stack;
mod whole_way;
