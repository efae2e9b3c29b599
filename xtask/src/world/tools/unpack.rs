//! Extracts one file from a `.tar.gz`: the one that is named, and nothing else, so that no archive
//! decides what is written where.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Component;

use camino::Utf8Path;
use flate2::read::GzDecoder;
use indicatif::BinaryBytes;

/// The largest binary that is extracted; kubectl and helm have 60 MiB.
const MOST: u64 = 1 << 30;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is wrong with the archive.
    #[error("{0}")]
    Archive(String),
    #[error("{0}")]
    Disk(std::io::Error),
}

/// Writes the archive's file with that path to `to`, whose folder exists.
///
/// # Errors
/// An archive that is broken, lacks the file, or in which it is not a file or too large; a disk
/// that cannot be written.
pub fn one(archive: &Utf8Path, member: &str, to: &Utf8Path) -> Result<(), Error> {
    let broken = |error: std::io::Error| Error::Archive(format!("is not a .tar.gz, or a broken one: {error}"));
    let file = File::open(archive).map_err(Error::Disk)?;
    // A long archive of small files must not be read forever.
    let mut entries = tar::Archive::new(GzDecoder::new(file).take(2 * MOST));
    for entry in entries.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        if !entry.path().is_ok_and(|path| is(&path, member)) {
            continue;
        }
        if !entry.header().entry_type().is_file() {
            return Err(Error::Archive(format!("holds {member}, which is not a file")));
        }
        if entry.size() > MOST {
            return Err(Error::Archive(format!("holds {member}, which is larger than {}", BinaryBytes(MOST))));
        }
        let mut out = File::create(to).map_err(Error::Disk)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match entry.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => out.write_all(&buffer[..count]).map_err(Error::Disk)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
        let expected = entry.size();
        return match out.metadata().map_err(Error::Disk)?.len() {
            written if written == expected => Ok(()),
            written => Err(Error::Archive(format!("ends within {member}, after {written} of {expected} bytes"))),
        };
    }
    Err(Error::Archive(format!("holds no {member}")))
}

/// `./a/b` is the same as `a/b`.
fn is(path: &std::path::Path, member: &str) -> bool {
    path.components().filter(|part| *part != Component::CurDir).eq(std::path::Path::new(member).components())
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8PathBuf;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        (folder, path)
    }

    /// With these files, a link to one outside, and a path that leads outside.
    fn archive(at: &Utf8Path, files: &[(&str, &[u8])]) {
        let mut archive = tar::Builder::new(GzEncoder::new(File::create(at).unwrap(), Compression::fast()));
        let header = |size: usize| {
            let mut header = tar::Header::new_gnu();
            header.set_size(size as u64);
            header.set_mode(0o755);
            header
        };
        let mut link = header(0);
        link.set_entry_type(tar::EntryType::Symlink);
        archive.append_link(&mut link, "linux-amd64/link", "/etc/passwd").unwrap();
        let mut escape = header(1);
        escape.as_old_mut().name[..7].copy_from_slice(b"../evil");
        escape.set_cksum();
        archive.append(&escape, &b"x"[..]).unwrap();
        for (path, content) in files {
            archive.append_data(&mut header(content.len()), path, *content).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap();
    }

    #[test]
    fn the_one_that_is_named_is_written_and_nothing_else() {
        let (_folder, folder) = folder();
        let (from, to) = (folder.join("a.tar.gz"), folder.join("in/helm"));
        std::fs::create_dir(folder.join("in")).unwrap();
        let files: [(&str, &[u8]); 3] = [
            ("linux-amd64/LICENSE", b"mine"),
            ("other/linux-amd64/helm", b"not this"),
            ("./linux-amd64/helm", b"binary"),
        ];
        archive(&from, &files);
        one(&from, "linux-amd64/helm", &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"binary");
        let names = |folder: &Utf8Path| std::fs::read_dir(folder).unwrap().count();
        assert_eq!((names(&folder), names(&folder.join("in"))), (2, 1));
        for (member, part) in [
            ("linux-amd64/link", "not a file"),
            ("helm", "holds no helm"),
            ("evil", "holds no evil"),
            ("linux-amd64", "holds no"),
        ] {
            let error = one(&from, member, &folder.join("in/x")).unwrap_err();
            assert!(error.to_string().contains(part), "{member}: {error}");
        }
        assert_eq!((names(&folder), names(&folder.join("in"))), (2, 1));
    }

    #[test]
    fn a_broken_archive_and_a_full_disk_are_told_apart() {
        let (_folder, folder) = folder();
        let from = folder.join("a.tar.gz");
        let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(100_000).collect();
        archive(&from, &[("t", &noise)]);
        let whole = std::fs::read(&from).unwrap();
        assert!(matches!(one(&from, "t", "/dev/full".into()), Err(Error::Disk(_))));
        for length in [0, 10, whole.len() / 2, whole.len() - 2000] {
            std::fs::write(&from, &whole[..length]).unwrap();
            assert!(matches!(one(&from, "t", &folder.join("x")), Err(Error::Archive(_))), "{length}");
        }
        std::fs::write(&from, "<html>").unwrap();
        assert!(matches!(one(&from, "t", &folder.join("x")), Err(Error::Archive(_))));
    }
}
