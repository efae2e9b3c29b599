//! Where a machine keeps what this tool must remember: one state folder per
//! cluster (lock, ready marker, run records), and one cache for built parts.

use camino::{Utf8Path, Utf8PathBuf};

use crate::exit::{Exit, Failure};
use crate::output::Reporter;

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
            Failure::new(
                "state-unwritable",
                Exit::Unclassified,
                format!("the state folder {path} cannot be written: {error}"),
            )
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

    pub fn runs(&self) -> Utf8PathBuf {
        self.path.join("runs")
    }
}

fn writable(folder: &Utf8Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    tempfile::tempfile_in(folder).map(drop)
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
    std::fs::create_dir_all(&folder).and_then(|()| camino::absolute_utf8(&folder)).map_err(|error| {
        Failure::new("disk-full", Exit::NotReady, format!("cannot create the cache folder {folder}: {error}"))
    })
}

/// Fails, naming the folder, when fewer than `bytes` are free there.
pub fn require_free(folder: &Utf8Path, bytes: u64, purpose: &str) -> Result<(), Failure> {
    let stat = rustix::fs::statvfs(folder.as_std_path()).map_err(|error| {
        Failure::new("unknown", Exit::Unclassified, format!("cannot ask for the free space of {folder}: {error}"))
    })?;
    let free = stat.f_bavail * stat.f_frsize;
    if free >= bytes {
        return Ok(());
    }
    Err(Failure::new(
        "disk-full",
        Exit::NotReady,
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
