//! What is running in the cluster, read and reached from this machine: the logs of its pods, and
//! its services.

pub mod forward;
pub mod logs;
pub mod services;
