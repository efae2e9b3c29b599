//! What this machine remembers of the cluster: that it was found ready, and of which kind it is.

use camino::Utf8Path;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::files::{self, bounds, digest};
use crate::repo::k3d::K3dConfig;
use crate::run::Run;
use crate::world::docker::Container;
use run_record::{Code, Failure};

/// `k3d-cluster-ready`: which cluster was found ready, and with which config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadyMarker {
    pub cluster: String,
    /// The id of the server's container: a new cluster of the same name has a different one.
    pub cluster_id: String,
    pub config_hash: String,
    pub time: Timestamp,
}

impl ReadyMarker {
    pub fn read(path: &Utf8Path) -> Option<Self> {
        serde_json::from_str(&bounds::read(path, bounds::SETTINGS).ok()?).ok()
    }
}

pub fn remove_marker(run: &Run) -> Result<(), Failure> {
    match std::fs::remove_file(run.state.ready_marker()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(Code::StateUnwritable, format!("cannot remove {}: {error}", run.state.ready_marker())))
        }
        _ => Ok(()),
    }
}

/// Whether this server was found ready, whatever its file says by now.
pub fn is_marked(run: &Run, server: &Container) -> bool {
    ReadyMarker::read(&run.state.ready_marker()).is_some_and(|marker| marker.cluster_id == server.id)
}

/// Why the ready marker is not valid for this cluster and this file, if it is not.
pub fn unmarked(run: &Run, config: &K3dConfig, id: &str) -> Option<String> {
    let path = run.state.ready_marker();
    match ReadyMarker::read(&path) {
        None => Some(format!("{path} does not exist: it is being rebuilt, or was never brought up here")),
        Some(marker) if marker.cluster_id != id => {
            Some("the ready marker is from an earlier cluster of this name".to_owned())
        }
        Some(marker) if marker.config_hash != config_hash(config) => {
            Some(format!("{} has changed since the cluster was created", config.path))
        }
        Some(_) => None,
    }
}

/// The digest of the file that the marker is about.
pub fn config_hash(config: &K3dConfig) -> String {
    let mut hash = Sha256::new();
    hash.update(config.canonical());
    digest::short(hash)
}

/// The kind of the previous cluster while it is being recreated, even if that was interrupted or
/// k3d failed.
pub fn remembered_kind(run: &Run) -> Option<bool> {
    match std::fs::read_to_string(run.state.cluster_kind()).ok()?.trim() {
        "lab" => Some(true),
        "public" => Some(false),
        _ => None,
    }
}

pub fn remember_kind(run: &Run, lab: bool) -> Result<(), Failure> {
    let path = run.state.cluster_kind();
    files::write_atomically(&path, if lab { b"lab" } else { b"public" })
        .map_err(|error| Failure::new(Code::StateUnwritable, format!("cannot write {path}: {error}")))
}
