//! Where a machine keeps what this tool must remember: one state folder per
//! cluster (lock, ready marker, run records), and one cache for built parts.

use camino::{Utf8Path, Utf8PathBuf};

use crate::run::reporter::Reporter;
use run_record::{Code, Failure};

/// A folder outside the work tree, so that two work trees of one cluster exclude each other.
#[derive(Clone, Debug)]
pub struct StateDir {
    pub path: Utf8PathBuf,
}

impl StateDir {
    /// `$AMEIDE_STATE_DIR/<cluster>`, else `$XDG_STATE_HOME/ameide/<cluster>`, else
    /// `~/.local/state/ameide/<cluster>`; `.k3d-state/<cluster>` in the work tree,
    /// with a warning, where that one cannot be written (say it belongs to root).
    pub fn open(root: &Utf8Path, cluster: &str, reporter: &Reporter) -> Result<Self, Failure> {
        let preferred = env_path("AMEIDE_STATE_DIR")
            .or_else(|| env_path("XDG_STATE_HOME").map(|folder| folder.join("ameide")))
            .or_else(|| env_path("HOME").map(|home| home.join(".local/state/ameide")));
        if let Some(folder) = preferred {
            let path = folder.join(cluster);
            match writable(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) => reporter
                    .warn("state", format!("{path} cannot be written ({error}); using .k3d-state/ in the work tree")),
            }
        }
        let path = root.join(".k3d-state").join(cluster);
        writable(&path).map_err(|error| {
            Failure::new(Code::StateUnwritable, format!("the state folder {path} cannot be written: {error}"))
                .remedy("set AMEIDE_STATE_DIR to a folder that you own")
        })?;
        Ok(Self { path })
    }

    pub fn lock(&self) -> Utf8PathBuf {
        self.path.join("k3d-cluster.lock")
    }

    pub fn ready_marker(&self) -> Utf8PathBuf {
        self.path.join("k3d-cluster-ready")
    }

    /// Whether the cluster's images are the lab's or public ones: it stays so when the
    /// cluster is made again.
    pub fn cluster_kind(&self) -> Utf8PathBuf {
        self.path.join("k3d-cluster-kind")
    }

    pub fn runs(&self) -> Utf8PathBuf {
        self.path.join("runs")
    }

    /// Removes the oldest run records beyond [`kept_runs`], never one whose process lives.
    /// Another run may be at it too: what is gone already is no error.
    pub fn prune(&self) {
        let entries = self.runs().read_dir_utf8().into_iter().flatten().flatten();
        let mut runs: Vec<Utf8PathBuf> = entries.map(|entry| entry.path().to_owned()).collect();
        // Their names begin with the time.
        runs.sort();
        let surplus = runs.len().saturating_sub(kept_runs());
        for run in runs.into_iter().take(surplus).filter(|run| !lives(run)) {
            let _ = std::fs::remove_dir_all(run);
        }
    }

    /// Removes everything but the lock, which the caller holds: the cluster that it is
    /// about is gone. The folder itself goes with the lock (see [`Self::remove_if_empty`]).
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

/// How many runs' records are kept per cluster: `AMEIDE_KEEP_RUNS`, else 100.
fn kept_runs() -> usize {
    std::env::var("AMEIDE_KEEP_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(100).max(1)
}

/// Whether the process that a run's name ends with is there (or another of its number:
/// then the record is kept a little longer).
fn lives(run: &Utf8Path) -> bool {
    let pid = run.file_name().and_then(|name| name.rsplit('-').next());
    pid.is_some_and(|pid| std::path::Path::new("/proc").join(pid).exists())
}

fn writable(folder: &Utf8Path) -> std::io::Result<()> {
    create_private_dir(folder)?;
    tempfile::tempfile_in(folder).map(drop)
}

/// Creates a folder that only its owner may enter, and makes one that an earlier
/// version left open to others so. Those above it are left as they are.
pub fn create_private_dir(folder: &Utf8Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut permissions = std::fs::metadata(folder)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(permissions.mode() & !0o077);
        // Somebody else's folder that we may write to: what we put there is private all the same.
        let _ = std::fs::set_permissions(folder, permissions);
    }
    Ok(())
}

/// Files that are made this way may be read by their owner only: records, logs and
/// locks hold command lines and what tools printed.
pub fn private(options: &mut std::fs::OpenOptions) -> &mut std::fs::OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600)
}

pub fn env_path(name: &str) -> Option<Utf8PathBuf> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(Utf8PathBuf::from)
}

/// `$AMEIDE_CACHE_DIR`, else `$XDG_CACHE_HOME/ameide`, else `~/.cache/ameide`.
pub fn cache_dir() -> Result<Utf8PathBuf, Failure> {
    let folder = env_path("AMEIDE_CACHE_DIR")
        .or_else(|| env_path("XDG_CACHE_HOME").map(|folder| folder.join("ameide")))
        .or_else(|| env_path("HOME").map(|home| home.join(".cache/ameide")))
        .ok_or_else(|| Failure::usage("neither AMEIDE_CACHE_DIR nor HOME is set: no place for the cache"))?;
    std::fs::create_dir_all(&folder)
        .and_then(|()| camino::absolute_utf8(&folder))
        .map_err(|error| Failure::new(Code::DiskFull, format!("cannot create the cache folder {folder}: {error}")))
}

/// Fails, naming the folder, when fewer than `bytes` are free there.
pub fn require_free(folder: &Utf8Path, bytes: u64, purpose: &str) -> Result<(), Failure> {
    let stat = rustix::fs::statvfs(folder.as_std_path())
        .map_err(|error| Failure::new(Code::Unknown, format!("cannot ask for the free space of {folder}: {error}")))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= bytes {
        return Ok(());
    }
    Err(Failure::new(
        Code::DiskFull,
        format!("{folder} has {} free, {purpose} needs {}", human_bytes(free), human_bytes(bytes)),
    )
    .remedy("free space there, or set AMEIDE_CACHE_DIR to a folder on a larger disk"))
}

pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Writes a file so that readers see the old content or the new, never a part.
pub fn write_atomically(path: &Utf8Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let folder = path.parent().unwrap_or(Utf8Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_runs_go_and_living_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir { path: Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap() };
        // Pids above the kernel's limit of 2^22 are nobody's.
        let name = |n: usize| format!("20260101-{n:06}-99999999");
        for n in 0..kept_runs() + 3 {
            std::fs::create_dir_all(state.runs().join(name(n)).join("logs")).unwrap();
        }
        let living = format!("20250101-000000-{}", std::process::id());
        std::fs::create_dir_all(state.runs().join(&living)).unwrap();
        state.prune();
        assert!(state.runs().join(living).exists());
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

    #[test]
    fn what_is_kept_may_be_read_by_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("a/b")).unwrap();
        let mode = |path: &Utf8Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        create_private_dir(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        create_private_dir(&path).unwrap();
        assert_eq!(mode(&path), 0o700, "a folder of an earlier version is closed");
        let file = path.join("record.jsonl");
        private(std::fs::File::options().create(true).append(true)).open(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
    }

    #[test]
    fn bytes_read_well() {
        assert_eq!(human_bytes(512), "512 B");
        assert_eq!(human_bytes(3 * 1024 * 1024 * 1024 / 2), "1.5 GiB");
    }

    #[test]
    fn too_little_space_names_folder_and_need() {
        let failure = require_free(Utf8Path::new("/"), u64::MAX, "building helm").unwrap_err();
        assert!(failure.message.starts_with("/ has ") && failure.message.contains("building helm"), "{failure}");
    }
}
