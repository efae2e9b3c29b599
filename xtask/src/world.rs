//! External systems, one per file and without policy: how to query each, and what its answers mean.

pub mod docker;
pub mod docker_hub;
pub mod engine;
pub mod go;
pub mod helm_storage;
pub mod helmfile;
pub mod kubeconfig;
pub mod kubernetes;
pub mod otlp;
pub mod pod_log;
pub mod port_forward;
pub mod process;
pub mod proxies;
pub mod registry;
pub mod release;
pub mod tools;
