//! An image as one stream that a container engine loads (`docker load`). This is how an engine gets
//! the images it needs before our registry exists, with this library's accounts, proxies and waits
//! instead of its own.
//!
//! The stream is an OCI image layout (image spec, "Image Layout") as a tar, with the
//! `manifest.json` beside it that engines before Docker 25 read (Docker image spec 1.2).

use std::sync::Arc;

use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::blob::{Source, Watch};
use crate::error::{Error, Kind};
use crate::lock::LockedImage;
use crate::manifest::{Descriptor, Manifest};
use crate::observe::{MirrorEvent, Observe, relay};
use crate::options::Options;
use crate::registry::Registry;
use crate::sources::Sources;

/// Writes the image for one platform (`linux/amd64`), under its name in the lock. Blobs are
/// streamed and never whole in memory. A download that is cut off resumes by range; content whose
/// digest does not match its manifest aborts the stream.
///
/// Returns the bytes that were downloaded.
///
/// # Errors
/// `Kind::Usage` for an image that the lock has not resolved, or if the output cannot be written;
/// `Kind::Platform` if there is no image for the platform; else as the registry answers. The
/// incomplete archive written so far is not accepted by any engine.
pub async fn archive(
    image: &LockedImage,
    platform: &str,
    options: &Options,
    observe: &dyn Observe,
    out: &mut (impl AsyncWrite + Unpin),
) -> Result<u64, Error> {
    relay(observe, async |events| {
        let sources = Sources::new(options, &events);
        let (source, _) = image.source()?;
        let registry = sources.get(&source.registry)?;
        let tell = |event| {
            // The receiver lives as long as this function.
            let _ = events.send(event);
        };
        tell(MirrorEvent::Started { id: image.id.clone() });
        let manifest = build_for(image, platform, &registry, &source.repository).await?;
        let blobs = once(&manifest);
        let bytes = blobs.iter().fold(0, |sum: u64, blob| sum.saturating_add(blob.size));
        tell(MirrorEvent::Planned { id: image.id.clone(), bytes });
        let mut archive = Archive { out };
        let index = index(image.name(), &manifest).to_string();
        archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).await?;
        archive.file("index.json", index.as_bytes()).await?;
        archive.file("manifest.json", legacy(image.name(), &manifest)?.as_bytes()).await?;
        archive.file(&path_of(manifest.digest.as_str()), &manifest.bytes).await?;
        for blob in blobs {
            let watch = Arc::new(Watch::new(image.id.clone(), events.clone()));
            archive.blob(Source::of(blob, &registry, &source.repository), watch).await?;
        }
        archive.end().await?;
        Ok(bytes)
    })
    .await
}

/// The manifest for one platform, by its digest in the lock.
async fn build_for(
    image: &LockedImage,
    platform: &str,
    registry: &Registry,
    repository: &str,
) -> Result<Manifest, Error> {
    let child =
        image.children.iter().find(|child| child.is_for(platform)).ok_or_else(|| match image.is_resolved() {
            true => Error::new(Kind::Platform, format!("{}: {} has no build for {platform}", image.id, image.name())),
            false => Error::new(Kind::Usage, format!("{} is not pinned by a digest", image.image)),
        })?;
    registry.required_manifest(repository, child.digest.as_str()).await
}

/// Config and layers, each once: an image may list the same layer several times.
fn once(manifest: &Manifest) -> Vec<&Descriptor> {
    let mut blobs: Vec<&Descriptor> = Vec::new();
    for blob in manifest.blobs() {
        if !blobs.iter().any(|known| known.digest == blob.digest) {
            blobs.push(blob);
        }
    }
    blobs
}

/// The path of a blob in an image layout.
fn path_of(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn index(name: &str, manifest: &Manifest) -> serde_json::Value {
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": manifest.media_type,
            "digest": manifest.digest,
            "size": manifest.bytes.len(),
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag},
        }],
    })
}

fn legacy(name: &str, manifest: &Manifest) -> Result<String, Error> {
    let config = manifest.document.config.as_ref();
    let config =
        config.ok_or_else(|| Error::new(Kind::Invalid, format!("{name}: {} has no configuration", manifest.digest)))?;
    let layers: Vec<String> = manifest.document.layers.iter().map(|layer| path_of(layer.digest.as_str())).collect();
    Ok(json!([{"Config": path_of(config.digest.as_str()), "RepoTags": [name], "Layers": layers}]).to_string())
}

/// The block size of a tar, in bytes.
const BLOCK: u64 = 512;

/// A tar being written.
struct Archive<'a, W> {
    out: &'a mut W,
}

impl<W: AsyncWrite + Unpin> Archive<'_, W> {
    async fn file(&mut self, path: &str, content: &[u8]) -> Result<(), Error> {
        self.header(path, content.len() as u64).await?;
        self.write(content).await?;
        self.pad(content.len() as u64).await
    }

    async fn blob(&mut self, source: Source, watch: Arc<Watch>) -> Result<(), Error> {
        let size = source.size;
        self.header(&path_of(source.digest.as_str()), size).await?;
        let mut body = source.open(watch).await?;
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                self.write(&bytes).await?;
            }
        }
        self.pad(size).await
    }

    async fn header(&mut self, path: &str, size: u64) -> Result<(), Error> {
        let mut header = tar::Header::new_ustar();
        header.set_path(path).map_err(|error| Error::new(Kind::Invalid, format!("{path}: {error}")))?;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        self.write(header.as_bytes()).await
    }

    /// Files fill whole blocks.
    async fn pad(&mut self, size: u64) -> Result<(), Error> {
        let rest = size.next_multiple_of(BLOCK) - size;
        self.write(&[0; BLOCK as usize][..usize::try_from(rest).unwrap_or_default()]).await
    }

    async fn end(&mut self) -> Result<(), Error> {
        self.write(&[0; 2 * BLOCK as usize]).await?;
        self.out.shutdown().await.map_err(refused)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).await.map_err(refused)
    }
}

fn refused(error: std::io::Error) -> Error {
    Error::new(Kind::Usage, format!("the archive cannot be written: {error}"))
}
