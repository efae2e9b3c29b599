//! The two files: the images wanted (`images.yaml`), and what they resolved to (`images.lock`). The
//! same input gives the same bytes: sorted by id, with no timestamps and no hosts of ours.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use camino::Utf8Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Kind};
use crate::reference::{Reference, is_repository};
use crate::yaml;

/// `linux/amd64` or `linux/arm/v7`.
pub type Platform = String;

/// `infra/images/images.yaml`: the third-party images that the platform runs.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ImageList {
    pub images: Vec<ListedImage>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ListedImage {
    /// The name by which values refer to it.
    pub id: String,
    /// Registry, repository and tag.
    pub image: String,
    /// Its repository in the mirror.
    pub target: String,
    /// What the mirror must hold: `linux/amd64`.
    pub platforms: Vec<Platform>,
    /// The image's role in the local cluster; none for images that pods run.
    #[serde(default)]
    pub role: Option<Role>,
    /// What needs it, for people.
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImagesLock {
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
    /// As in the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Of the manifest or index itself, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The digest that values pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Child>,
}

/// The role of an image that the container engine runs for the local cluster, not a pod. These are
/// k3d's terms (`k3d.role`, and the images that `k3d version` and its variables name).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Node,
    Tools,
    Registry,
    Loadbalancer,
}

/// What is mirrored from the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The whole index, with all platforms, signatures and attestations.
    Index,
    /// One platform's manifest, or a source that has only one.
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

    /// `linux/arm64` matches any variant, `linux/arm/v7` only that one. Equivalent names match:
    /// `linux/arm64/v8` is `linux/arm64` (containerd's `platforms.Normalize`).
    pub fn is_for(&self, platform: &str) -> bool {
        is_platform(&self.os, &self.arch, self.variant.as_deref(), platform)
    }
}

/// Whether an operating system, an architecture and a variant are those of a platform, as for
/// [`Child::is_for`].
pub fn is_platform(os: &str, arch: &str, variant: Option<&str>, platform: &str) -> bool {
    let own = normal(os, arch, variant);
    let mut parts = platform.splitn(3, '/');
    let (os, arch, variant) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
    let wanted = normal(os, arch, variant);
    // `linux/arm` alone matches any variant, although it normalizes to one.
    let any = variant.is_none() && !matches!(arch, "armhf" | "armel");
    own == wanted || any && (own.0 == wanted.0 && own.1 == wanted.1)
}

/// Operating system, architecture and variant, normalized from their aliases.
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

/// An image's name with its tag, which people read and updates start from.
fn tagged(image: &str) -> Result<(Reference, String), String> {
    let reference = Reference::parse(image)?;
    let tag = reference.tag.clone().ok_or("has no tag: expected registry/repository:tag")?;
    Ok((reference, tag))
}

/// Checks images, each by its id, its name and its target. An id stands for one image: of two, the
/// lock would have the same one twice.
fn sound<'a>(images: impl Iterator<Item = [&'a String; 3]>) -> Result<(), String> {
    let mut ids = BTreeSet::new();
    for [id, image, target] in images {
        tagged(image).map_err(|reason| format!("{id}: image {image:?} {reason}"))?;
        if !is_repository(target) {
            return Err(format!(
                "{id}: target {target:?} is not a repository name (lower case letters, digits, . _ - /)"
            ));
        }
        if !ids.insert(id) {
            return Err(format!("{id}: two images have this id"));
        }
    }
    Ok(())
}

impl LockedImage {
    pub fn is_resolved(&self) -> bool {
        self.target_digest.is_some()
    }

    /// The name in the list: registry, repository and tag.
    pub fn name(&self) -> &str {
        self.image.split('@').next().unwrap_or_default()
    }

    /// Whether it was resolved for what the list says now.
    fn serves(&self, wanted: &ListedImage) -> bool {
        let alone = self.mode == Some(Mode::Manifest);
        (self.name() == wanted.image || self.image == wanted.image)
            && self.target == wanted.target
            && self.role == wanted.role
            && self.is_resolved()
            // Renovate writes a new digest behind the tag, and nothing else.
            && (alone || self.target_digest == self.source_digest())
            && (alone || wanted.platforms.len() != 1 || self.children.len() == 1)
            && wanted.platforms.iter().all(|platform| self.children.iter().any(|child| child.is_for(platform)))
    }

    /// The digest of the source's tag; with `Mode::Manifest`, that of the surrounding index.
    pub(crate) fn source_digest(&self) -> Option<Digest> {
        Digest::parse(self.image.split_once('@')?.1).ok()
    }

    /// Where it is copied from, and by which tag.
    pub(crate) fn source(&self) -> Result<(Reference, String), Error> {
        tagged(&self.image)
            .map_err(|reason| Error::new(Kind::Usage, format!("{}: image {:?} {reason}", self.id, self.image)))
    }
}

impl ImageList {
    /// # Errors
    /// `Kind::Usage` for a file that cannot be read, and for names that no image can have.
    pub fn read(path: &Utf8Path) -> Result<Self, Error> {
        let wanted: Self = read(path)?;
        wanted.check().map_err(|reason| Error::new(Kind::Usage, format!("{path}: {reason}")))?;
        Ok(wanted)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        sound(self.images.iter().map(|image| [&image.id, &image.image, &image.target]))
    }
}

impl ImagesLock {
    pub fn read(path: &Utf8Path) -> Result<Self, Error> {
        let lock: Self = read(path)?;
        lock.check().map_err(|reason| Error::new(Kind::Usage, format!("{path}: {reason}")))?;
        Ok(lock)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.version != 1 {
            return Err(format!("version {}: expected 1", self.version));
        }
        sound(self.images.iter().map(|image| [&image.id, &image.image, &image.target]))
    }

    /// The lock of a list before anything has been resolved.
    pub fn unresolved(wanted: &ImageList) -> Self {
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
                role: image.role,
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

    /// The lock for this list: what it lacks, or has for another name, target, role or platform, is as
    /// before anything has been resolved. What the list does not have goes.
    #[must_use]
    pub fn for_list(self, wanted: &ImageList) -> Self {
        let mut images = Self::unresolved(wanted).images;
        for image in &mut images {
            let listed = wanted.images.iter().find(|listed| listed.id == image.id);
            if let Some(known) = listed.and_then(|listed| self.serving(listed)) {
                image.clone_from(known);
            }
        }
        Self { images, ..self }
    }

    /// The entry that was resolved for what the list says now.
    pub(crate) fn serving(&self, listed: &ListedImage) -> Option<&LockedImage> {
        self.images.iter().find(|known| known.id == listed.id && known.serves(listed))
    }

    /// Written atomically.
    pub fn write(&self, path: &Utf8Path) -> Result<(), Error> {
        let failed = |error: String| Error::new(Kind::Usage, format!("cannot write {path}: {error}"));
        let text = serde_saphyr::to_string(self).map_err(|error| failed(error.to_string()))?;
        let folder = path.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|error| failed(error.to_string()))?;
        file.write_all(text.as_bytes()).map_err(|error| failed(error.to_string()))?;
        file.as_file().sync_all().map_err(|error| failed(error.to_string()))?;
        file.persist(path).map_err(|error| failed(error.to_string()))?;
        Ok(())
    }
}

fn read<T: DeserializeOwned>(path: &Utf8Path) -> Result<T, Error> {
    let failed = |error: String| Error::new(Kind::Usage, format!("{path}: {error}"));
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes));
    read.map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > MOST {
        return Err(failed(format!("it is larger than {} MiB", MOST >> 20)));
    }
    let text = yaml::utf8(bytes).map_err(failed)?;
    yaml::parse(&text).map_err(|error| failed(yaml::in_words(&error, &text)))
}

/// The maximum size of a list of images or its lock, in bytes.
const MOST: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> ImageList {
        serde_saphyr::from_str("images:\n- {id: b, image: docker.io/x/y:1, target: third-party/y, platforms: [linux/arm64, linux/amd64], why: z}\n- {id: a, image: quay.io/x/z:2, target: third-party/z, platforms: [linux/amd64], why: z}\n").unwrap()
    }

    #[test]
    fn the_schema_of_images_yaml_is_that_of_the_type() {
        crate::schema::kept::<ImageList>("images.json");
    }

    #[test]
    fn a_lock_reads_back_as_it_was_written_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(folder.path().join("images.lock")).unwrap();
        let mut lock = ImagesLock::unresolved(&wanted());
        lock.images[0].target_digest = Some(Digest::of(b"x"));
        lock.write(&path).unwrap();
        let first = std::fs::read(&path).unwrap();
        let read = ImagesLock::read(&path).unwrap();
        assert_eq!(read, lock);
        assert_eq!(read.images.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(read.platforms, ["linux/amd64", "linux/arm64"]);
        read.write(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
    }

    #[test]
    fn what_a_lock_has_for_another_list_counts_as_unresolved() {
        let list = wanted();
        let mut lock = ImagesLock::unresolved(&list);
        for (image, listed) in lock.images.iter_mut().zip([&list.images[1], &list.images[0]]) {
            let digest = Digest::of(image.id.as_bytes());
            let child = |platform: &String| {
                let (os, arch) = platform.split_once('/').unwrap();
                Child { os: os.into(), arch: arch.into(), variant: None, digest: digest.clone(), size: 1 }
            };
            image.children = listed.platforms.iter().map(child).collect();
            (image.image, image.mode) = (format!("{}@{digest}", image.image), Some(Mode::Index));
            image.target_digest = Some(digest);
        }
        assert_eq!(lock.clone().for_list(&list), lock);
        assert_eq!(lock.clone().for_list(&ImageList { images: Vec::new() }).images, []);
        type Change = fn(&mut ListedImage);
        let changes: [(&str, Change); 5] = [
            ("tag", |b| b.image = "docker.io/x/y:2".to_owned()),
            ("target", |b| b.target = "third-party/z".to_owned()),
            ("role", |b| b.role = Some(Role::Tools)),
            ("one platform more", |b| b.platforms.push("linux/riscv64".to_owned())),
            ("one platform alone", |b| b.platforms.truncate(1)),
        ];
        for (name, change) in changes {
            let mut list = list.clone();
            change(&mut list.images[0]);
            let read = lock.clone().for_list(&list);
            assert_eq!(
                read.images,
                [lock.images[0].clone(), ImagesLock::unresolved(&list).images[1].clone()],
                "{name}"
            );
        }
        let mut renovated = lock.clone();
        renovated.images[1].image = format!("docker.io/x/y:1@{}", Digest::of(b"moved"));
        let lacking = ImagesLock { images: lock.images[..1].to_vec(), ..lock.clone() };
        for lock in [renovated, lacking] {
            let resolved: Vec<bool> = lock.for_list(&list).images.iter().map(LockedImage::is_resolved).collect();
            assert_eq!(resolved, [true, false]);
        }
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
            let error = ImageList::read(&path).unwrap_err();
            assert!(error.kind() == Kind::Usage && error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn an_id_that_two_images_have_is_refused_in_both_files() {
        let mut wanted = wanted();
        wanted.images[1].id = "b".to_owned();
        let folder = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(folder.path().join("images.lock")).unwrap();
        ImagesLock::unresolved(&wanted).write(&path).unwrap();
        for reason in [wanted.check().unwrap_err(), ImagesLock::read(&path).unwrap_err().to_string()] {
            assert!(reason.contains("b: two images have this id"), "{reason}");
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
