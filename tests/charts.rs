//! The charts as they render and as their scripts run, without a cluster.

#[path = "charts/network.rs"]
mod network;
#[path = "charts/pods.rs"]
mod pods;
#[path = "charts/rendered.rs"]
mod rendered;
#[path = "charts/scripts.rs"]
mod scripts;
