//! The two files: what is wanted (`images.yaml`), and what it resolved to
//! (`images.lock`). Same input, same bytes: sorted by id, no times, no hosts of ours.

use std::fmt;
use std::io::Write;

use camino::Utf8Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Error, Kind};

/// `sha256:` and 64 hexadecimal digits (OCI image spec, "Digests").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    pub fn parse(text: &str) -> Result<Self, Error> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(Kind::Invalid, format!("{text:?} is no digest: expected sha256: and 64 hexadecimal digits")))
    }

    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::of_hash(sha2::Sha256::new_with_prefix(bytes))
    }

    pub(crate) fn of_hash(hash: sha2::Sha256) -> Self {
        use sha2::Digest as _;
        let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("sha256:{hex}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// `linux/amd64` or `linux/arm/v7`.
pub type Platform = String;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub images: Vec<WantedImage>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedImage {
    pub id: String,
    /// Registry, repository and tag.
    pub image: String,
    /// Its repository in the mirror.
    pub target: String,
    pub platforms: Vec<Platform>,
    /// Who needs it, for people.
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lock {
    pub version: u32,
    pub platforms: Vec<Platform>,
    pub images: Vec<LockedImage>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LockedImage {
    pub id: String,
    /// `registry/repository:tag`, with `@digest` once resolved.
    pub image: String,
    /// The repository in the mirror.
    pub target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Of the manifest or index itself, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What values pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Child>,
}

/// What of the source is mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The index, whole: with all its platforms, signatures and attestations.
    Index,
    /// One platform's manifest, or all there is.
    Manifest,
}

/// One platform's manifest of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Child {
    pub os: String,
    pub arch: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    pub digest: Digest,
    pub size: u64,
}

impl Child {
    /// `linux/arm/v7`.
    pub fn platform(&self) -> Platform {
        let variant = self.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
        format!("{}/{}{variant}", self.os, self.arch)
    }

    /// `linux/arm64` is any variant of it, `linux/arm/v7` that one.
    pub fn is_for(&self, platform: &str) -> bool {
        let own = self.platform();
        own == platform || own.strip_prefix(platform).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// Where an image is: `docker.io`, `temporalio/server`, `1.29.0`.
pub(crate) struct Source<'a> {
    pub host: &'a str,
    pub repository: &'a str,
    pub tag: &'a str,
}

impl LockedImage {
    pub fn is_resolved(&self) -> bool {
        self.target_digest.is_some()
    }

    /// The digest of the source's tag; with `Mode::Manifest`, of the index around it.
    pub(crate) fn source_digest(&self) -> Option<Digest> {
        Digest::parse(self.image.split_once('@')?.1).ok()
    }

    pub(crate) fn source(&self) -> Result<Source<'_>, Error> {
        let name = self.image.split('@').next().unwrap_or_default();
        let parts = name
            .split_once('/')
            .and_then(|(host, rest)| rest.rsplit_once(':').map(|(repository, tag)| Source { host, repository, tag }));
        parts.ok_or_else(|| {
            Error::new(Kind::Lock, format!("{}: {:?}: expected registry/repository:tag", self.id, self.image))
        })
    }
}

impl Wanted {
    pub fn read(path: &Utf8Path) -> Result<Self, Error> {
        read(path)
    }
}

impl Lock {
    pub fn read(path: &Utf8Path) -> Result<Self, Error> {
        let lock: Self = read(path)?;
        if lock.version != 1 {
            return Err(Error::new(Kind::Lock, format!("{path}: version {}: expected 1", lock.version)));
        }
        Ok(lock)
    }

    /// The lock of a list that nothing was resolved of yet.
    pub fn unresolved(wanted: &Wanted) -> Self {
        let mut platforms: Vec<Platform> = wanted.images.iter().flat_map(|image| image.platforms.clone()).collect();
        platforms.sort();
        platforms.dedup();
        let mut images: Vec<LockedImage> = wanted
            .images
            .iter()
            .map(|image| LockedImage {
                id: image.id.clone(),
                image: image.image.clone(),
                target: image.target.clone(),
                media_type: None,
                size: None,
                mode: None,
                target_digest: None,
                children: Vec::new(),
            })
            .collect();
        images.sort_by(|a, b| a.id.cmp(&b.id));
        Self { version: 1, platforms, images }
    }

    /// Written whole or not at all.
    pub fn write(&self, path: &Utf8Path) -> Result<(), Error> {
        let failed = |error: String| Error::new(Kind::Lock, format!("cannot write {path}: {error}"));
        let text = serde_saphyr::to_string(self).map_err(|error| failed(error.to_string()))?;
        let folder = path.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|error| failed(error.to_string()))?;
        file.write_all(text.as_bytes()).map_err(|error| failed(error.to_string()))?;
        file.persist(path).map_err(|error| failed(error.to_string()))?;
        Ok(())
    }
}

fn read<T: DeserializeOwned>(path: &Utf8Path) -> Result<T, Error> {
    let failed = |error: String| Error::new(Kind::Lock, format!("{path}: {error}"));
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    serde_saphyr::from_str(&text).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        serde_saphyr::from_str("images:\n- {id: b, image: docker.io/x/y:1, target: third-party/y, platforms: [linux/arm64, linux/amd64], why: z}\n- {id: a, image: quay.io/x/z:2, target: third-party/z, platforms: [linux/amd64], why: z}\n").unwrap()
    }

    #[test]
    fn a_lock_reads_back_as_it_was_written_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(folder.path().join("images.lock")).unwrap();
        let mut lock = Lock::unresolved(&wanted());
        lock.images[0].target_digest = Some(Digest::of(b"x"));
        lock.write(&path).unwrap();
        let first = std::fs::read(&path).unwrap();
        let read = Lock::read(&path).unwrap();
        assert_eq!(read, lock);
        assert_eq!(read.images.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(read.platforms, ["linux/amd64", "linux/arm64"]);
        read.write(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
    }

    #[test]
    fn only_real_digests_are_taken() {
        for text in
            ["sha256:", "sha256:xyz", "md5:d41d8cd98f00b204e9800998ecf8427e", &format!("sha256:{}", "G".repeat(64))]
        {
            assert!(Digest::parse(text).is_err(), "{text}");
        }
        assert_eq!(Digest::of(b"").as_str(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn a_source_is_registry_repository_and_tag() {
        let lock = Lock::unresolved(&wanted());
        let source = lock.images[1].source().unwrap();
        assert_eq!((source.host, source.repository, source.tag), ("docker.io", "x/y", "1"));
        let bad = LockedImage { image: "redis".into(), ..lock.images[0].clone() };
        assert!(bad.source().is_err());
    }
}
