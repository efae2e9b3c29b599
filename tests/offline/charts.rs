//! The charts as they render and as their scripts run, without a cluster.

mod network;
mod pods;
mod scripts;
