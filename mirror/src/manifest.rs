//! Manifests and indexes, OCI and Docker schema 2: their original bytes, since any other bytes have
//! another digest, and the parts that a copy needs to know.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{Error, Kind};
use crate::lock::Child;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// For the `Accept` header.
pub(crate) const TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// A manifest with what its registry says about it.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub bytes: Bytes,
    pub media_type: String,
    pub digest: Digest,
    pub document: Document,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    media_type: Option<String>,
    schema_version: Option<u32>,
    #[serde(default, deserialize_with = "or_null")]
    pub manifests: Vec<Descriptor>,
    pub config: Option<Descriptor>,
    #[serde(default, deserialize_with = "or_null")]
    pub layers: Vec<Descriptor>,
    /// The manifest that it refers to (OCI image spec, "Image Manifest", subject).
    pub subject: Option<Subject>,
}

/// Go writes a nil slice as `null`.
fn or_null<'de, T: Deserialize<'de> + Default, D: serde::Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Subject {
    pub digest: Digest,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub media_type: Option<String>,
    pub digest: Digest,
    pub size: u64,
    pub platform: Option<DescribedPlatform>,
    #[serde(default, deserialize_with = "or_null")]
    urls: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DescribedPlatform {
    #[serde(default, deserialize_with = "or_null")]
    pub os: String,
    #[serde(default, deserialize_with = "or_null")]
    pub architecture: String,
    pub variant: Option<String>,
}

impl Descriptor {
    /// Layers that are fetched from the URLs they list and are not stored in registries (OCI image
    /// spec, "Non-Distributable Layers"; Windows base images).
    fn is_foreign(&self) -> bool {
        let foreign = |kind: &str| kind.contains("nondistributable") || kind.contains("foreign");
        !self.urls.is_empty() && self.media_type.as_deref().is_some_and(foreign)
    }

    /// As the lock records it.
    pub fn child(&self) -> Option<Child> {
        let platform = self.platform.as_ref()?;
        Some(Child {
            os: platform.os.clone(),
            arch: platform.architecture.clone(),
            variant: platform.variant.clone().filter(|variant| !variant.is_empty()),
            digest: self.digest.clone(),
            size: self.size,
        })
    }
}

impl Manifest {
    /// # Errors
    /// Anything that is not a manifest, and schema 1, which has no digests to pin.
    pub fn parse(bytes: Bytes, content_type: &str) -> Result<Self, Error> {
        let digest = Digest::of(&bytes);
        let invalid = |reason: String| Error::new(Kind::Invalid, format!("{digest}: {reason}"));
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|error| invalid(format!("not a manifest: {error}")))?;
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        if document.schema_version == Some(1)
            || content_type.contains("manifest.v1+") && content_type.contains("docker")
        {
            return Err(invalid(
                "Docker's schema 1, which registries no longer support: expected schema 2 or OCI".to_owned(),
            ));
        }
        // Some registries serve every manifest as application/json.
        let known = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];
        let said = document.media_type.as_deref().unwrap_or(content_type);
        let media_type = match (known.iter().find(|kind| **kind == said), &document.config) {
            (Some(kind), _) => kind,
            (None, Some(config)) if config.media_type.as_deref().is_some_and(|kind| kind.contains("docker")) => {
                DOCKER_MANIFEST
            }
            (None, Some(_)) => OCI_MANIFEST,
            (None, None) if document.manifests.is_empty() => {
                return Err(invalid("neither a manifest nor an index".to_owned()));
            }
            (None, None) => OCI_INDEX,
        };
        let media_type = media_type.to_owned();
        Ok(Self { bytes, media_type, digest, document })
    }

    pub fn is_index(&self) -> bool {
        self.media_type == OCI_INDEX || self.media_type == DOCKER_INDEX
    }

    /// Config and layers, without those that are fetched from elsewhere.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.document.config.iter().chain(&self.document.layers).filter(|blob| !blob.is_foreign())
    }
}

/// Manifests already read, by digest: what was just resolved is not pulled again.
#[derive(Clone, Debug, Default)]
pub struct ManifestCache(Arc<Mutex<BTreeMap<Digest, Manifest>>>);

impl ManifestCache {
    /// The limits of the cache, in entries and bytes, so that no list of images takes all memory.
    const MOST: usize = 256;
    const BYTES: usize = 64 << 20;

    pub(crate) fn get(&self, digest: &str) -> Option<Manifest> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&Digest::parse(digest).ok()?).cloned()
    }

    pub(crate) fn put(&self, manifest: &Manifest) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = kept.values().map(|kept| kept.bytes.len()).sum();
        if kept.len() < Self::MOST && held + manifest.bytes.len() <= Self::BYTES {
            kept.insert(manifest.digest.clone(), manifest.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> String {
        Digest::of(text.as_bytes()).to_string()
    }

    fn parse(json: &str, content_type: &str) -> Result<Manifest, Error> {
        Manifest::parse(Bytes::from(json.to_owned()), content_type)
    }

    #[test]
    fn a_missing_media_type_is_told_from_what_is_inside() {
        let oci = format!(r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":1}},"layers":[]}}"#, digest("a"));
        assert_eq!(parse(&oci, "application/json").unwrap().media_type, OCI_MANIFEST);
        assert_eq!(parse(&oci, &format!("{DOCKER_MANIFEST}; charset=utf-8")).unwrap().media_type, DOCKER_MANIFEST);
        let docker = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"{}","size":1}}}}"#,
            digest("a")
        );
        assert_eq!(parse(&docker, "").unwrap().media_type, DOCKER_MANIFEST);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":1}}]}}"#, digest("a"));
        let index = parse(&index, "").unwrap();
        assert!(index.is_index() && index.blobs().count() == 0);
    }

    #[test]
    fn schema_1_and_what_is_no_manifest_are_refused() {
        for (json, content_type) in [
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
            (r#"{"schemaVersion":2}"#, "application/json"),
            ("<html>", "text/html"),
            (r#"{"manifests":[{"digest":"sha256:1","size":1}]}"#, OCI_INDEX),
        ] {
            assert_eq!(parse(json, content_type).unwrap_err().kind(), Kind::Invalid, "{json}");
        }
    }

    #[test]
    fn what_go_writes_of_nothing_is_nothing() {
        let json = format!(
            r#"{{"schemaVersion":2,"mediaType":null,"manifests":null,"subject":null,"annotations":null,
            "config":{{"mediaType":null,"digest":"{}","size":1,"urls":null,"platform":null}},"layers":null}}"#,
            digest("a")
        );
        let manifest = parse(&json, OCI_MANIFEST).unwrap();
        assert!(!manifest.is_index() && manifest.blobs().count() == 1);
        let json = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":1,"platform":{{"os":null,"architecture":"amd64","variant":""}}}}],"layers":null}}"#,
            digest("a")
        );
        let index = parse(&json, OCI_INDEX).unwrap();
        assert_eq!(index.document.manifests[0].child().unwrap().platform(), "/amd64");
    }

    #[test]
    fn layers_that_lie_elsewhere_are_left_there() {
        let json = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{0}","size":1}},"layers":[
            {{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"{1}","size":1,"urls":["https://x"]}},
            {{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":"{2}","size":1}}]}}"#,
            digest("a"),
            digest("b"),
            digest("c")
        );
        let manifest = parse(&json, "").unwrap();
        let found: Vec<String> = manifest.blobs().map(|blob| blob.digest.to_string()).collect();
        assert_eq!(found, [digest("a"), digest("c")]);
    }
}
