//! The two files: what is wanted (`images.yaml`), and what it resolved to
//! (`images.lock`). Same input, same bytes: sorted by id, no times, no hosts of ours.

use std::fmt;
use std::io::{Read, Write};

use camino::Utf8Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::transport::{Endpoint, is_component};
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

    /// `linux/arm64` is any variant of it, `linux/arm/v7` that one. Names that mean the
    /// same are the same: `linux/arm64/v8` is `linux/arm64` (containerd's `platforms.Normalize`).
    pub fn is_for(&self, platform: &str) -> bool {
        let mut parts = platform.splitn(3, '/');
        let (os, arch, variant) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
        let own = normal(&self.os, &self.arch, self.variant.as_deref());
        let wanted = normal(os, arch, variant);
        // `linux/arm` alone asks for no variant, though it is one.
        let any = variant.is_none() && !matches!(arch, "armhf" | "armel");
        own == wanted || any && (own.0 == wanted.0 && own.1 == wanted.1)
    }
}

/// Operating system, architecture and variant by the name that others call them too.
fn normal(os: &str, arch: &str, variant: Option<&str>) -> (String, String, String) {
    let (os, arch) = (os.to_ascii_lowercase(), arch.to_ascii_lowercase());
    let variant = variant.unwrap_or_default().to_ascii_lowercase();
    let numbered = if variant.starts_with(|c: char| c.is_ascii_digit()) { format!("v{variant}") } else { variant };
    let (arch, variant) = match (arch.as_str(), numbered.as_str()) {
        ("aarch64" | "arm64", "" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
        ("armhf", _) | ("arm", "") => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        other => other,
    };
    let os = if os == "macos" { "darwin".to_owned() } else { os };
    (os, arch.to_owned(), variant.to_owned())
}

/// Docker Hub has several names; images, accounts and limits know it by this one.
pub(crate) const DOCKER_HUB: &str = "docker.io";

/// Whether a host is Docker Hub.
pub(crate) fn is_docker_hub(host: &str) -> bool {
    matches!(host, DOCKER_HUB | "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com")
}

/// Where an image is: `docker.io`, `temporalio/server`, `1.29.0`, perhaps with a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub host: String,
    pub repository: String,
    pub tag: String,
    pub digest: Option<Digest>,
}

impl Source {
    /// Registry, repository and tag are all named; Docker's short forms are none, but that
    /// `docker.io/redis` is `docker.io/library/redis`. The grammar is that of
    /// <https://pkg.go.dev/github.com/distribution/reference>.
    fn parse(image: &str) -> Result<Self, String> {
        let expected = "expected registry/repository:tag";
        let (name, digest) = match image.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest).map_err(|error| error.to_string())?)),
            None => (image, None),
        };
        if name.contains("://") {
            return Err(format!("{expected}, without a scheme"));
        }
        let (host, rest) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            Some(_) => return Err(format!("names no registry: {DOCKER_HUB}/{image}?")),
            None => return Err(format!("names no registry: {DOCKER_HUB}/library/{image}?")),
        };
        let host = host.to_ascii_lowercase();
        if Endpoint::named(&host).parts().is_err() {
            return Err(format!("{host:?} is no registry's name: {expected}"));
        }
        let (repository, tag) = rest
            .rsplit_once(':')
            .filter(|(_, tag)| !tag.contains('/'))
            .ok_or_else(|| format!("has no tag: {expected}"))?;
        if !is_repository(repository) {
            return Err(format!("{repository:?} is no repository's name (lower case letters, digits, . _ - /)"));
        }
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !tag.starts_with(word) || tag.len() > 128 || !tag.chars().all(|c| word(c) || c == '.' || c == '-') {
            return Err(format!("{tag:?} is no tag"));
        }
        let hub = is_docker_hub(&host);
        let repository =
            if hub && !repository.contains('/') { format!("library/{repository}") } else { repository.to_owned() };
        let host = if hub { DOCKER_HUB.to_owned() } else { host };
        Ok(Self { host, repository, tag: tag.to_owned(), digest })
    }
}

/// OCI distribution spec, "Pulling manifests", `<name>`.
fn is_repository(text: &str) -> bool {
    text.len() <= 255 && text.split('/').all(is_component)
}

fn sound(id: &str, image: &str, target: &str) -> Result<(), String> {
    Source::parse(image).map_err(|reason| format!("{id}: image {image:?} {reason}"))?;
    if !is_repository(target) {
        return Err(format!("{id}: target {target:?} is no repository's name (lower case letters, digits, . _ - /)"));
    }
    Ok(())
}

impl LockedImage {
    pub fn is_resolved(&self) -> bool {
        self.target_digest.is_some()
    }

    /// The digest of the source's tag; with `Mode::Manifest`, of the index around it.
    pub(crate) fn source_digest(&self) -> Option<Digest> {
        Digest::parse(self.image.split_once('@')?.1).ok()
    }

    pub(crate) fn source(&self) -> Result<Source, Error> {
        Source::parse(&self.image)
            .map_err(|reason| Error::new(Kind::Lock, format!("{}: image {:?} {reason}", self.id, self.image)))
    }
}

impl Wanted {
    /// # Errors
    /// `Kind::Lock` for what cannot be read, and names that no image can have.
    pub fn read(path: &Utf8Path) -> Result<Self, Error> {
        let wanted: Self = read(path)?;
        for image in &wanted.images {
            sound(&image.id, &image.image, &image.target)
                .map_err(|reason| Error::new(Kind::Lock, format!("{path}: {reason}")))?;
        }
        Ok(wanted)
    }
}

impl Lock {
    pub fn read(path: &Utf8Path) -> Result<Self, Error> {
        let lock: Self = read(path)?;
        if lock.version != 1 {
            return Err(Error::new(Kind::Lock, format!("{path}: version {}: expected 1", lock.version)));
        }
        for image in &lock.images {
            sound(&image.id, &image.image, &image.target)
                .map_err(|reason| Error::new(Kind::Lock, format!("{path}: {reason}")))?;
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
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MOST + 1).read_to_string(&mut text));
    read.map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > MOST {
        return Err(failed(format!("it is larger than {} MiB", MOST >> 20)));
    }
    parse(&text).map_err(|error| failed(error.to_string()))
}

/// What a list of images or its lock may hold, in bytes.
const MOST: u64 = 8 << 20;

/// Aliases may stand for what people write, not for millions of values.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    let mut options = serde_saphyr::Options::default();
    options.alias_limits.max_total_replayed_events = 20_000;
    serde_saphyr::from_str_with_options(text, options)
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
        let source = |image: &str| {
            let found = Source::parse(image)?;
            Ok::<_, String>(format!("{} {} {}", found.host, found.repository, found.tag))
        };
        for (image, expected) in [
            ("docker.io/x/y:1", "docker.io x/y 1"),
            ("docker.io/redis:7", "docker.io library/redis 7"),
            ("index.docker.io/redis:7", "docker.io library/redis 7"),
            ("registry-1.docker.io/library/redis:7", "docker.io library/redis 7"),
            ("Docker.io/x/y:1", "docker.io x/y 1"),
            ("quay.io/redis:7", "quay.io redis 7"),
            ("localhost/a:1", "localhost a 1"),
            ("localhost:5000/a/b:1", "localhost:5000 a/b 1"),
            ("[::1]:5000/a:1", "[::1]:5000 a 1"),
            ("r.example/a__b/c-d:V1.2_x-y", "r.example a__b/c-d V1.2_x-y"),
        ] {
            assert_eq!(source(image).as_deref(), Ok(expected), "{image}");
        }
        for (image, expected) in [
            ("temporalio/server:1.29.0", "docker.io/temporalio/server:1.29.0?"),
            ("redis:7", "docker.io/library/redis:7?"),
            ("redis", "docker.io/library/redis?"),
            ("", "names no registry"),
            ("docker.io/redis", "has no tag"),
            ("localhost:5000/a", "has no tag"),
            ("docker.io/library/Redis:7", "no repository's name"),
            ("docker.io/a//b:1", "no repository's name"),
            ("docker.io/a/../b:1", "no repository's name"),
            ("docker.io/a:b/c:", "no repository's name"),
            ("docker.io/a:-x", "is no tag"),
            ("https://docker.io/a:1", "without a scheme"),
            ("user:secret@docker.io/a:1", "is no digest"),
            ("docker.io/a:1@sha256:abc", "is no digest"),
            ("docker.io:port/a:1", "no registry's name"),
        ] {
            let error = source(image).unwrap_err();
            assert!(error.contains(expected), "{image}: {error}");
        }
        let digest = Digest::of(b"x");
        assert_eq!(Source::parse(&format!("docker.io/a:1@{digest}")).unwrap().digest, Some(digest.clone()));
        assert!(Source::parse(&format!("docker.io/a:1@{digest}@{digest}")).is_err());
    }

    #[test]
    fn a_file_with_a_name_that_no_image_has_is_told_with_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(folder.path().join("images.yaml")).unwrap();
        for (image, target, expected) in [
            (
                "temporalio/server:1.29.0",
                "third-party/server",
                "t: image \"temporalio/server:1.29.0\" names no registry",
            ),
            ("docker.io/x/y:1", "Third/../party", "t: target"),
        ] {
            let row = format!("{{id: t, image: '{image}', target: '{target}', platforms: [linux/amd64], why: z}}");
            std::fs::write(&path, format!("images:\n- {row}\n")).unwrap();
            let error = Wanted::read(&path).unwrap_err();
            assert!(error.kind() == Kind::Lock && error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn platforms_that_mean_the_same_are_the_same() {
        let child = |platform: &str| {
            let mut parts = platform.splitn(3, '/').map(str::to_owned);
            let (os, arch, variant) = (parts.next().unwrap(), parts.next().unwrap(), parts.next());
            Child { os, arch, variant, digest: Digest::of(b"x"), size: 1 }
        };
        for (there, wanted, same) in [
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64/v8", "linux/arm64/v8", true),
            ("linux/arm64/8", "linux/arm64/v8", true),
            ("linux/arm64/v9", "linux/arm64", true),
            ("linux/arm64/v9", "linux/arm64/v8", false),
            ("linux/aarch64", "linux/arm64", true),
            ("linux/amd64", "linux/amd64/v1", true),
            ("linux/amd64", "linux/x86_64", true),
            ("linux/amd64", "linux/amd64/v3", false),
            ("linux/amd64/v3", "linux/amd64", true),
            ("linux/arm", "linux/arm/v7", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/arm/v6", "linux/arm", true),
            ("linux/arm/v7", "linux/armhf", true),
            ("linux/arm/v6", "linux/armhf", false),
            ("linux/386", "linux/i386", true),
            ("windows/amd64", "linux/amd64", false),
            ("linux/amd64", "linux/arm64", false),
            ("linux/amd64", "linux", false),
            ("linux/amd64", "", false),
        ] {
            assert_eq!(child(there).is_for(wanted), same, "{there} for {wanted}");
        }
    }
}
