//! Digests of folders, which are the cache key of what is built from them, and of files.

use std::io::Read;

use camino::{Utf8Path, Utf8PathBuf};
use run_record::Failure;
use sha2::{Digest, Sha256};

/// Adds the files of a folder, each with its name and its content, delimited so that they cannot be
/// confused.
///
/// # Errors
/// A file that cannot be read: a digest without it would be that of another folder.
pub fn update(hash: &mut Sha256, folder: &Utf8Path, files: &[Utf8PathBuf]) -> Result<(), Failure> {
    for path in files {
        let content = std::fs::read(path).map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))?;
        hash.update(path.strip_prefix(folder).unwrap_or(path).as_str());
        hash.update([0]);
        hash.update(Sha256::digest(&content));
    }
    Ok(())
}

/// The files below a folder, sorted, so that digests do not depend on the disk's order.
pub fn files_below(folder: &Utf8Path) -> Result<Vec<Utf8PathBuf>, Failure> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            folder.read_dir_utf8().map_err(|error| Failure::usage(format!("cannot list {folder}: {error}")))?;
        for entry in entries {
            let unread = |error| Failure::usage(format!("cannot list {folder}: {error}"));
            let entry = entry.map_err(unread)?;
            let of_kind = if entry.file_type().map_err(unread)?.is_dir() { &mut folders } else { &mut files };
            of_kind.push(entry.path().to_owned());
        }
    }
    files.sort();
    Ok(files)
}

/// Sixteen hexadecimal digits: enough to distinguish cache entries that also have a name.
pub fn short(hash: Sha256) -> String {
    hex(hash, 8)
}

/// The first `bytes` bytes of the digest, in hexadecimal.
pub fn hex(hash: Sha256, bytes: usize) -> String {
    hash.finalize().iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

/// Thirty-two hexadecimal digits of the digest of these bytes: this length is in the records that
/// clusters hold.
pub fn of_bytes(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes), 16)
}

/// The whole digest of a file, in hexadecimal; the file is read in pieces.
pub fn of_file(path: &Utf8Path) -> std::io::Result<String> {
    let (mut file, mut hash, mut buffer) = (std::fs::File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(hash, 32)),
            count => hash.update(&buffer[..count]),
        }
    }
}
