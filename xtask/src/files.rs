//! Files of this machine: how much of one is read, who may read what is written, where built parts
//! are kept, and whether there is enough space.

pub mod bounds;
pub mod digest;

use camino::{Utf8Path, Utf8PathBuf};
use indicatif::BinaryBytes;
use run_record::{Code, Failure};

/// Creates a folder that only its owner may enter, and restricts one that an earlier version left
/// open to others. Its parents are left as they are.
pub fn create_private_dir(folder: &Utf8Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut permissions = std::fs::metadata(folder)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(permissions.mode() & !0o077);
        // It may be somebody else's folder that we can write to: our files in it are private all
        // the same.
        let _ = std::fs::set_permissions(folder, permissions);
    }
    Ok(())
}

/// Files created with these options are readable by their owner only: records, logs and locks
/// contain command lines and tool output.
pub fn private(options: &mut std::fs::OpenOptions) -> &mut std::fs::OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600)
}

/// Whether `path` is exactly this file.
pub fn is_named(file: &std::fs::File, path: &Utf8Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => identity(named) == identity(open),
        _ => false,
    }
}

pub fn env_path(name: &str) -> Option<Utf8PathBuf> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(Utf8PathBuf::from)
}

const OWN: &str = "set AMEIDE_CACHE_DIR to a folder that you may write to";

/// `$AMEIDE_CACHE_DIR`, else `$XDG_CACHE_HOME/ameide`, else `~/.cache/ameide`.
///
/// # Errors
/// `usage` if none of them is set; `disk-full` or `machine-not-ready` if it cannot be created.
pub fn cache_dir() -> Result<Utf8PathBuf, Failure> {
    let folder = env_path("AMEIDE_CACHE_DIR")
        .or_else(|| env_path("XDG_CACHE_HOME").map(|folder| folder.join("ameide")))
        .or_else(|| env_path("HOME").map(|home| home.join(".cache/ameide")))
        .ok_or_else(|| {
            Failure::usage("neither AMEIDE_CACHE_DIR nor HOME is set: no place for the cache").remedy(OWN)
        })?;
    std::fs::create_dir_all(&folder).and_then(|()| camino::absolute_utf8(&folder)).map_err(|error| {
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let code = if full { Code::DiskFull } else { Code::MachineNotReady };
        Failure::new(code, format!("cannot create the cache folder {folder}: {error}")).remedy(OWN)
    })
}

/// Fails, naming the folder, if less than `bytes` is free there.
pub fn require_free(folder: &Utf8Path, bytes: u64, purpose: &str) -> Result<(), Failure> {
    let stat = rustix::fs::statvfs(folder.as_std_path())
        .map_err(|error| Failure::new(Code::Unknown, format!("cannot ask for the free space of {folder}: {error}")))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= bytes {
        return Ok(());
    }
    Err(Failure::new(
        Code::DiskFull,
        format!("{folder} has {} free, {purpose} needs {}", BinaryBytes(free), BinaryBytes(bytes)),
    )
    .remedy("free space there, or set AMEIDE_CACHE_DIR to a folder on a larger disk"))
}

/// Writes a file so that readers see the old content or the new, never a part: not even after a
/// power failure, which without the sync may leave the new name with nothing behind it.
pub fn write_atomically(path: &Utf8Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let folder = path.parent().unwrap_or(Utf8Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// What a look at a file in the cache tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    Absent,
    /// It has the size that it was put there with.
    Whole,
    /// Nobody noted its size: an earlier version put it there, or the machine stopped right then.
    Unsized,
    /// Why it cannot be what was put there.
    Damaged(String),
}

/// The note of a file's size, beside it.
fn size_note(path: &Utf8Path) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{path}.size"))
}

/// Puts a finished file into the cache under its name, so that it is there whole or not at all, and
/// notes its size, by which every later run can tell at the cost of a look.
pub fn keep(finished: &Utf8Path, path: &Utf8Path) -> std::io::Result<()> {
    let file = std::fs::File::open(finished)?;
    file.sync_all()?;
    // First the note: what is under the name until then is either the same or damaged.
    write_atomically(&size_note(path), file.metadata()?.len().to_string().as_bytes())?;
    std::fs::rename(finished, path)
}

/// Notes the size of a file that is known to be whole.
pub fn note_size(path: &Utf8Path) -> std::io::Result<()> {
    write_atomically(&size_note(path), path.metadata()?.len().to_string().as_bytes())
}

pub fn kept(path: &Utf8Path) -> Kept {
    let Some(found) = path.metadata().ok().filter(std::fs::Metadata::is_file) else { return Kept::Absent };
    let noted = std::fs::read_to_string(size_note(path)).ok().and_then(|text| text.trim().parse::<u64>().ok());
    match (found.len(), noted) {
        (0, _) => Kept::Damaged("it is empty".to_owned()),
        (size, Some(noted)) if size != noted => Kept::Damaged(format!("it has {size} of {noted} bytes")),
        (_, Some(_)) => Kept::Whole,
        (_, None) => Kept::Unsized,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_file_in_the_cache_is_told_from_what_a_power_failure_left_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("helm")).unwrap();
        let finished = path.with_extension("part");
        assert_eq!(kept(&path), Kept::Absent);
        std::fs::write(&path, "").unwrap();
        assert_eq!(kept(&path), Kept::Damaged("it is empty".to_owned()));
        std::fs::write(&path, "whole").unwrap();
        assert_eq!(kept(&path), Kept::Unsized);
        for content in ["the whole program", "another one"] {
            std::fs::write(&finished, content).unwrap();
            keep(&finished, &path).unwrap();
            assert!(kept(&path) == Kept::Whole && !finished.exists(), "{content}");
        }
        std::fs::write(&path, "anot").unwrap();
        assert_eq!(kept(&path), Kept::Damaged("it has 4 of 11 bytes".to_owned()));
    }

    #[test]
    fn too_little_space_names_folder_and_need() {
        let failure = require_free(Utf8Path::new("/"), u64::MAX, "building helm").unwrap_err();
        assert!(failure.message.starts_with("/ has ") && failure.message.contains("building helm"), "{failure}");
    }
}
