//! Where a machine keeps what this tool must remember about a cluster: its lock, the ready marker,
//! the records of runs.

use camino::{Utf8Path, Utf8PathBuf};

use crate::files::{create_private_dir, env_path};
use crate::host;
use crate::run::reporter::Reporter;
use run_record::{Code, Failure};

/// A folder outside the work tree, so that two work trees that use the same cluster exclude each
/// other.
#[derive(Clone, Debug)]
pub struct StateDir {
    pub path: Utf8PathBuf,
}

impl StateDir {
    /// `$AMEIDE_STATE_DIR/<cluster>`, else `$XDG_STATE_HOME/ameide/<cluster>`, else
    /// `~/.local/state/ameide/<cluster>`; if that cannot be written (because it belongs to root,
    /// for example), `.k3d-state/<cluster>` in the work tree, with a warning.
    ///
    /// # Errors
    /// `usage` for an `AMEIDE_STATE_DIR` that is not absolute; `state-unwritable`.
    pub fn open(root: &Utf8Path, cluster: &str, reporter: &Reporter) -> Result<Self, Failure> {
        let (preferred, path) = places(root, cluster)?;
        if let Some(path) = preferred {
            match writable(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) => reporter
                    .warn("state", format!("{path} cannot be written ({error}); using .k3d-state/ in the work tree")),
            }
        }
        writable(&path).map_err(|error| {
            Failure::new(Code::StateUnwritable, format!("the state folder {path} cannot be written: {error}"))
                .remedy("set AMEIDE_STATE_DIR to a folder that you own")
        })?;
        Ok(Self { path })
    }

    /// The names of the runs that are kept, the newest first; creates nothing.
    pub fn runs_of(root: &Utf8Path, cluster: &str) -> Vec<String> {
        let Ok((preferred, fallback)) = places(root, cluster) else { return Vec::new() };
        let folders = preferred.into_iter().chain([fallback]).map(|path| Self { path }.runs());
        let entries = folders.filter_map(|runs| runs.read_dir_utf8().ok()).flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_owned()).collect();
        // They start with the time.
        names.sort_unstable_by(|one, other| other.cmp(one));
        names
    }

    pub fn lock(&self) -> Utf8PathBuf {
        self.path.join("k3d-cluster.lock")
    }

    pub fn ready_marker(&self) -> Utf8PathBuf {
        self.path.join("k3d-cluster-ready")
    }

    /// Whether the cluster's images are the lab's or public ones: this does not change when the
    /// cluster is recreated.
    pub fn cluster_kind(&self) -> Utf8PathBuf {
        self.path.join("k3d-cluster-kind")
    }

    pub fn runs(&self) -> Utf8PathBuf {
        self.path.join("runs")
    }

    /// Removes the oldest run records beyond `keep`, but none whose process is alive. Runs
    /// that only looked are counted separately: the record of a run proves that nobody is working
    /// on a revision that it left pending, so a hundred looks must not displace it. Another run may
    /// prune at the same time: what is already gone is no error.
    pub fn prune(&self, keep: usize) {
        let entries = self.runs().read_dir_utf8().into_iter().flatten().flatten();
        let mut runs: Vec<Utf8PathBuf> = entries.map(|entry| entry.path().to_owned()).collect();
        // Their names start with the time.
        runs.sort();
        let (ran_tools, looked): (Vec<Utf8PathBuf>, Vec<Utf8PathBuf>) = runs.into_iter().partition(|run| has_logs(run));
        for kind in [ran_tools, looked] {
            let surplus = kind.len().saturating_sub(keep);
            for run in kind.into_iter().take(surplus).filter(|run| !lives(run)) {
                let _ = std::fs::remove_dir_all(run);
            }
        }
    }

    /// Removes everything except the lock, which the caller holds: the cluster is gone. The folder
    /// itself is removed with the lock (see [`Self::remove_if_empty`]).
    pub fn clear(&self) -> std::io::Result<()> {
        for entry in self.path.read_dir_utf8()?.flatten() {
            let path = entry.path();
            if path == self.lock() {
                continue;
            }
            let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub fn remove_if_empty(&self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Where the state of a cluster belongs, and where it goes if that cannot be written.
fn places(root: &Utf8Path, cluster: &str) -> Result<(Option<Utf8PathBuf>, Utf8PathBuf), Failure> {
    let own = env_path("AMEIDE_STATE_DIR");
    // Below the current folder there would be another lock in each.
    if let Some(folder) = own.as_ref().filter(|folder| !folder.is_absolute()) {
        return Err(Failure::usage(format!("AMEIDE_STATE_DIR: {folder:?}: expected an absolute path")));
    }
    // The XDG specification has a relative path ignored.
    let xdg = || env_path("XDG_STATE_HOME").filter(|folder| folder.is_absolute()).map(|folder| folder.join("ameide"));
    let home = || env_path("HOME").map(|home| home.join(".local/state/ameide"));
    let preferred = own.or_else(xdg).or_else(home);
    Ok((preferred.map(|folder| folder.join(cluster)), root.join(".k3d-state").join(cluster)))
}

/// How many records are kept per cluster, of runs that changed something and of runs that only
/// looked: `AMEIDE_KEEP_RUNS`, else 100.
///
/// # Errors
/// `usage` if that is set and is no number; an empty variable counts as unset.
pub fn kept_runs() -> Result<usize, Failure> {
    let text = std::env::var("AMEIDE_KEEP_RUNS").unwrap_or_default();
    if text.is_empty() {
        return Ok(100);
    }
    let number = text.parse().map(|number: usize| number.max(1));
    number.map_err(|_| Failure::usage(format!("AMEIDE_KEEP_RUNS: {text:?}: expected a whole number")))
}

/// Whether a run started a tool that changes something: each of these has a log.
fn has_logs(run: &Utf8Path) -> bool {
    let entries = run.read_dir_utf8().into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().ends_with(".log"))
}

/// Whether the process whose id ends the run's name is alive. If the id was reused, the record is
/// just kept a little longer.
fn lives(run: &Utf8Path) -> bool {
    let pid = run.file_name().and_then(|name| name.rsplit('-').next());
    pid.and_then(|pid| pid.parse().ok()).is_some_and(host::lives)
}

fn writable(folder: &Utf8Path) -> std::io::Result<()> {
    create_private_dir(folder)?;
    tempfile::tempfile_in(folder).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_runs_go_and_living_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir { path: Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap() };
        // There are no pids above the kernel's limit of 2^22.
        let name = |n: usize| format!("20260101-{n:06}-99999999");
        for n in 0..8 {
            std::fs::create_dir_all(state.runs().join(name(n)).join("logs")).unwrap();
        }
        // One that started a revision, followed by many looks.
        let revision = "20250601-000000-99999999";
        std::fs::create_dir_all(state.runs().join(revision)).unwrap();
        std::fs::write(state.runs().join(revision).join("45-x.log"), "").unwrap();
        let living = format!("20250101-000000-{}", std::process::id());
        std::fs::create_dir_all(state.runs().join(&living)).unwrap();
        state.prune(5);
        assert!(state.runs().join(living).exists() && state.runs().join(revision).exists());
        assert!(!state.runs().join(name(2)).exists() && state.runs().join(name(3)).exists());
    }

    #[test]
    fn clearing_leaves_the_lock_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir { path: Utf8PathBuf::from_path_buf(folder.path().join("k3d-x")).unwrap() };
        std::fs::create_dir_all(state.runs().join("r")).unwrap();
        std::fs::write(state.lock(), "{}").unwrap();
        std::fs::write(state.ready_marker(), "{}").unwrap();
        state.clear().unwrap();
        assert!(state.lock().exists() && !state.runs().exists() && !state.ready_marker().exists());
        state.remove_if_empty();
        assert!(state.path.exists(), "a lock that somebody holds keeps its folder");
        std::fs::remove_file(state.lock()).unwrap();
        state.remove_if_empty();
        assert!(!state.path.exists());
    }
}
