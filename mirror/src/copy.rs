//! Resolving, copying and checking images. Children go before their index and
//! blobs before their manifest, so that nothing half-done is ever visible.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use serde::Deserialize;

use crate::client::{Endpoint, Manifest, Registry, pull, push};
use crate::lock::{Child, Digest, Lock, LockedImage, Wanted};
use crate::{Error, Event, Kind};

#[derive(Clone, Debug)]
pub struct Options {
    pub target: Endpoint,
    /// Where a source registry is really reached, if not by its own name.
    pub sources: BTreeMap<String, Endpoint>,
}

pub trait Observe: Send + Sync {
    fn event(&self, event: Event);
}

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub copied: usize,
    pub skipped: usize,
    /// Blobs that another repository of the target had already.
    pub mounted: usize,
    pub bytes: u64,
    pub source_requests: u64,
}

/// Why an image cannot be pulled from the mirror as the lock says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    #[error("{image} is not pinned by a digest")]
    NotPinned { image: String },
    #[error("{target}@{digest} is missing")]
    Missing { target: String, digest: String },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, Deserialize)]
struct Descriptor {
    digest: Digest,
    size: u64,
    platform: Option<DescribedPlatform>,
}

#[derive(Clone, Debug, Deserialize)]
struct DescribedPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

fn parse(manifest: &Manifest) -> Result<Document, Error> {
    serde_json::from_slice(&manifest.bytes)
        .map_err(|error| Error::new(Kind::Invalid, format!("{}: no manifest: {error}", manifest.digest)))
}

fn source_registry(host: &str, options: &Options) -> Result<Registry, Error> {
    let own = Endpoint { host: host.to_owned(), plain_http: false, ca: None };
    Registry::new(host, options.sources.get(host).unwrap_or(&own))
}

/// Asks the source registries what each tag is now.
pub async fn resolve(wanted: &Wanted, options: &Options, observe: &dyn Observe) -> Result<Lock, Error> {
    let mut lock = Lock::unresolved(wanted);
    for image in &mut lock.images {
        observe.event(Event::Started { id: image.id.clone() });
        let (repository, tag, registry) = {
            let source = image.source()?;
            (source.repository.to_owned(), source.tag.to_owned(), source_registry(source.host, options)?)
        };
        let manifest = registry.manifest(&repository, &tag).await?;
        let document = parse(&manifest)?;
        let described = document.manifests.iter().filter_map(|child| {
            let platform = child.platform.as_ref()?;
            Some(Child {
                os: platform.os.clone(),
                arch: platform.architecture.clone(),
                variant: platform.variant.clone(),
                digest: child.digest.clone(),
                size: child.size,
            })
        });
        image.children = described.collect();
        image.image = format!("{}@{}", image.image, manifest.digest);
        image.media_type = Some(manifest.media_type);
        image.size = Some(manifest.bytes.len() as u64);
        image.target_digest = Some(manifest.digest);
    }
    Ok(lock)
}

/// One HEAD per image at the target.
pub async fn check(lock: &Lock, options: &Options) -> Result<Vec<Finding>, Error> {
    let target = Registry::new(&options.target.host, &options.target)?;
    let looks = lock.images.iter().map(|image| async {
        let Some(digest) = &image.target_digest else {
            return Ok(Some(Finding::NotPinned { image: image.image.clone() }));
        };
        let there = target.has(&image.target, "manifests", digest.as_str()).await?;
        Ok((!there).then(|| Finding::Missing { target: image.target.clone(), digest: digest.to_string() }))
    });
    let found: Vec<Option<Finding>> = futures_util::future::try_join_all(looks).await?;
    Ok(found.into_iter().flatten().collect())
}

/// Copies what the target lacks, by digest; the tag comes last.
pub async fn copy(lock: &Lock, options: &Options, observe: &dyn Observe) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let target = Registry::new(&options.target.host, &options.target)?;
    let mut placed = BTreeMap::new();
    for image in &lock.images {
        let digest = image
            .target_digest
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Lock, format!("{} is not resolved", image.id)))?;
        let tagged = Tagged { image, digest };
        if target.has(&image.target, "manifests", digest.as_str()).await? {
            summary.skipped += 1;
            observe.event(Event::Skipped { id: image.id.clone() });
            continue;
        }
        observe.event(Event::Started { id: image.id.clone() });
        let before = summary.bytes;
        tagged.copy(&target, options, &mut placed, &mut summary).await?;
        summary.copied += 1;
        observe.event(Event::Copied { id: image.id.clone(), bytes: summary.bytes - before });
    }
    Ok(summary)
}

struct Tagged<'a> {
    image: &'a LockedImage,
    digest: &'a Digest,
}

impl Tagged<'_> {
    /// `placed`: which repository of the target is known to hold a blob.
    async fn copy(
        &self,
        target: &Registry,
        options: &Options,
        placed: &mut BTreeMap<Digest, String>,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        let from = self.image.source()?;
        let source = source_registry(from.host, options)?;
        let top = source.manifest(from.repository, self.digest.as_str()).await?;
        let document = parse(&top)?;
        let mut manifests = Vec::new();
        for child in &document.manifests {
            manifests.push(source.manifest(from.repository, child.digest.as_str()).await?);
        }
        for manifest in manifests.iter().chain([&top]) {
            let document = parse(manifest)?;
            for blob in document.config.iter().chain(&document.layers) {
                if placed.get(&blob.digest) != Some(&self.image.target) {
                    self.copy_blob(&source, from.repository, target, blob, placed, summary).await?;
                    placed.insert(blob.digest.clone(), self.image.target.clone());
                }
            }
            if manifest.digest != top.digest {
                self.put(target, manifest, manifest.digest.as_str()).await?;
            }
        }
        self.put(target, &top, from.tag).await?;
        summary.source_requests += source.requests.load(std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    async fn copy_blob(
        &self,
        source: &Registry,
        repository: &str,
        target: &Registry,
        blob: &Descriptor,
        placed: &BTreeMap<Digest, String>,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        let name = &self.image.target;
        if target.has(name, "blobs", blob.digest.as_str()).await? {
            return Ok(());
        }
        let mount =
            placed.get(&blob.digest).map(|other| format!("?mount={}&from={other}", blob.digest)).unwrap_or_default();
        let url = target.url(&format!("/v2/{name}/blobs/uploads/{mount}"));
        let started = target.send(Method::POST, &url, HeaderMap::new(), Bytes::new(), &push(name)).await?;
        match started.status() {
            StatusCode::CREATED => {
                summary.mounted += 1;
                return Ok(());
            }
            StatusCode::ACCEPTED => {}
            _ => return Err(target.refused(&url, started).await),
        }
        let location = started.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = target
            .resolve(location.ok_or_else(|| target.error(Kind::Protocol, &url, "gave no Location for the upload"))?);
        let separator = if location.contains('?') { '&' } else { '?' };
        let put = format!("{location}{separator}digest={}", blob.digest);
        let body = self.open(source, repository, blob).await?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(blob.size));
        let done = target.once(Method::PUT, &put, headers, body, &push(name)).await?;
        if done.status() != StatusCode::CREATED {
            return Err(target.refused(&put, done).await);
        }
        summary.bytes += blob.size;
        Ok(())
    }

    /// The blob as a stream; registries may send us elsewhere for it.
    async fn open(&self, source: &Registry, repository: &str, blob: &Descriptor) -> Result<crate::client::Body, Error> {
        let mut url = source.url(&format!("/v2/{repository}/blobs/{}", blob.digest));
        for _ in 0..5 {
            let response = source.send(Method::GET, &url, HeaderMap::new(), Bytes::new(), &pull(repository)).await?;
            if response.status().is_redirection() {
                let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
                url =
                    source.resolve(location.ok_or_else(|| source.error(Kind::Protocol, &url, "redirects to nowhere"))?);
                continue;
            }
            if response.status() != StatusCode::OK {
                return Err(source.refused(&url, response).await);
            }
            return Ok(response.into_body().map_err(Into::into).boxed());
        }
        Err(source.error(Kind::Protocol, &url, "redirects without end"))
    }

    async fn put(&self, target: &Registry, manifest: &Manifest, reference: &str) -> Result<(), Error> {
        let name = &self.image.target;
        let url = target.url(&format!("/v2/{name}/manifests/{reference}"));
        let mut headers = HeaderMap::new();
        let media_type = HeaderValue::from_str(&manifest.media_type)
            .map_err(|_| target.error(Kind::Invalid, &url, "has an unusable media type"))?;
        headers.insert(header::CONTENT_TYPE, media_type);
        let response = target.send(Method::PUT, &url, headers, manifest.bytes.clone(), &push(name)).await?;
        if response.status() != StatusCode::CREATED {
            return Err(target.refused(&url, response).await);
        }
        Ok(())
    }
}
