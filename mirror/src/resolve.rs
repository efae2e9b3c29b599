//! Resolves tags at the source registries.

use tokio::sync::mpsc::UnboundedSender;

use crate::digest::Digest;
use crate::error::{Error, Kind};
use crate::lock::{Child, ImageList, ImagesLock, LockedImage, Mode};
use crate::manifest::{Descriptor, Manifest};
use crate::observe::{MirrorEvent, Observe, relay};
use crate::options::Options;
use crate::registry::Registry;
use crate::sources::Sources;

/// Asks the source registries for the current digest of each tag. A tag that is unchanged from
/// `known` costs one HEAD, which does not count against any quota.
///
/// # Errors
/// The error of the first image that could not be resolved, listing all that could not: as the
/// registries answer; `Kind::Platform` if a wanted platform is missing.
pub async fn resolve(
    wanted: &ImageList,
    known: Option<&ImagesLock>,
    options: &Options,
    observe: &dyn Observe,
) -> Result<ImagesLock, Error> {
    relay(observe, async |events| {
        let sources = Sources::new(options, &events);
        let mut lock = ImagesLock::unresolved(wanted);
        let images = lock.images.iter_mut().map(|image| {
            let listed = wanted.images.iter().find(|listed| listed.id == image.id);
            let platforms = listed.map(|listed| listed.platforms.as_slice());
            let known = known.and_then(|lock| lock.serving(listed?));
            let (sources, events) = (&sources, &events);
            async move {
                let done = one(image, platforms.unwrap_or_default(), known, sources, events).await;
                done.err().map(|error| (image.id.clone(), error))
            }
        });
        let failed: Vec<Option<(String, Error)>> = futures_util::future::join_all(images).await;
        match Error::of_images(failed.into_iter().flatten().collect()) {
            Some(error) => Err(error),
            None => Ok(lock),
        }
    })
    .await
}

async fn one(
    image: &mut LockedImage,
    platforms: &[String],
    known: Option<&LockedImage>,
    sources: &Sources<'_>,
    events: &UnboundedSender<MirrorEvent>,
) -> Result<(), Error> {
    let _ = events.send(MirrorEvent::Started { id: image.id.clone() });
    let (source, tag) = image.source()?;
    let registry = sources.get(&source.registry)?;
    let repository = source.repository;
    if let Some(known) = known.filter(|known| known.source_digest().is_some()) {
        // An image wanted by digest cannot change.
        let now = match &source.digest {
            Some(digest) => Some(digest.clone()),
            None => registry.digest_of(&repository, &tag).await?.flatten(),
        };
        if now.is_some() && now == known.source_digest() {
            *image = known.clone();
            return Ok(());
        }
    }
    let reference = source.digest.as_ref().map_or(tag.as_str(), Digest::as_str);
    let manifest = registry.required_manifest(&repository, reference).await?;
    let children: Vec<Child> = if manifest.is_index() {
        manifest.document.manifests.iter().filter_map(Descriptor::child).collect()
    } else {
        vec![only_child(&registry, &repository, &manifest).await?]
    };
    if let Some(missing) = platforms.iter().find(|platform| !children.iter().any(|child| child.is_for(platform))) {
        let there: Vec<String> =
            children.iter().map(Child::platform).filter(|platform| !platform.starts_with("unknown/")).collect();
        let message = format!("{}: {} has no {missing}: it has {}", image.id, image.image, there.join(", "));
        return Err(Error::new(Kind::Platform, message));
    }
    // Registries reject an index without some of its children, so a single platform is mirrored as
    // its manifest.
    let single = platforms.first().filter(|_| platforms.len() == 1 && manifest.is_index());
    let chosen = single.and_then(|platform| children.iter().find(|child| child.is_for(platform))).cloned();
    if source.digest.is_none() {
        image.image = format!("{}@{}", image.image, manifest.digest);
    }
    (image.media_type, image.size, image.target_digest) = match &chosen {
        Some(child) => {
            let found = manifest.document.manifests.iter().find(|descriptor| descriptor.digest == child.digest);
            (found.and_then(|descriptor| descriptor.media_type.clone()), Some(child.size), Some(child.digest.clone()))
        }
        None => (Some(manifest.media_type.clone()), Some(manifest.bytes.len() as u64), Some(manifest.digest.clone())),
    };
    let whole = manifest.is_index() && chosen.is_none();
    image.mode = Some(if whole { Mode::Index } else { Mode::Manifest });
    image.children = chosen.map_or(children, |child| vec![child]);
    Ok(())
}

/// A single-platform image has its platform in its config.
async fn only_child(registry: &Registry, repository: &str, manifest: &Manifest) -> Result<Child, Error> {
    #[derive(serde::Deserialize)]
    struct Config {
        os: String,
        architecture: String,
        variant: Option<String>,
    }
    let digest = manifest.document.config.as_ref().map(|config| config.digest.clone());
    let invalid = |reason: &str| Error::new(Kind::Invalid, format!("{repository}@{}: {reason}", manifest.digest));
    let digest: Digest = digest.ok_or_else(|| invalid("has no configuration"))?;
    let bytes = registry.small_blob(repository, &digest).await?;
    let bytes = bytes.ok_or_else(|| invalid("its configuration is missing"))?;
    if Digest::of(&bytes) != digest {
        return Err(invalid("its configuration has another digest"));
    }
    let config: Config = serde_json::from_slice(&bytes).map_err(|_| invalid("its configuration names no platform"))?;
    Ok(Child {
        os: config.os,
        arch: config.architecture,
        variant: config.variant,
        digest: manifest.digest.clone(),
        size: manifest.bytes.len() as u64,
    })
}
