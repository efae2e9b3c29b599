//! Copying images: look at both sides, plan what is missing, transfer it. Children are pushed
//! before their index and blobs before their manifest, so that nothing incomplete is ever visible.
//! Each blob is transferred once, however many images contain it.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream::{FuturesUnordered, StreamExt, iter};

use crate::digest::Digest;
use crate::error::{Error, Kind};
use crate::lock::{ImagesLock, LockedImage};
use crate::manifest::Manifest;
use crate::observe::{MirrorEvent, Observe, relay};
use crate::options::Options;
use crate::pace::Quota;
use crate::referrers;
use crate::sources::{Sources, target};
use crate::target::{BlobCopy, Route, Target};
use plan::{Planned, plan};

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub copied: usize,
    pub skipped: usize,
    /// Blobs that were transferred.
    pub blobs: usize,
    /// Blobs that their repository already had, for example from an interrupted run.
    pub there: usize,
    /// Blobs that another repository of the target already had.
    pub mounted: usize,
    /// Signatures and attestations that were copied too.
    pub referrers: usize,
    pub bytes: u64,
    pub source_requests: u64,
    /// The remaining quotas of the source registries.
    pub quotas: Vec<Quota>,
}

/// Copies what the target lacks, by digest; an image's tag is pushed last.
///
/// # Errors
/// The error of the first image that could not be copied, listing all that could not. The others
/// are complete, and every blob that arrived is kept: the next run continues there.
pub async fn copy(lock: &ImagesLock, options: &Options, observe: &dyn Observe) -> Result<Summary, Error> {
    relay(observe, async |events| {
        let sources = Sources::new(options, &events);
        let target = Target::new(target(options, &events)?, events);
        CopyRun { lock, options, target, sources, referrers: AtomicUsize::default() }.run().await
    })
    .await
}

/// A whole image: its manifest or index last, after what it refers to.
struct ImageTree {
    /// Its index in the lock.
    image: usize,
    route: Route,
    /// Each with whether the target already has it, including all its blobs.
    manifests: Vec<(Manifest, bool)>,
}

impl ImageTree {
    /// The blobs of the manifests that the target lacks.
    fn blobs(&self) -> impl Iterator<Item = BlobCopy> {
        let lacking = self.manifests.iter().filter(|(_, there)| !there);
        lacking.flat_map(|(manifest, _)| manifest.blobs()).map(|blob| self.route.blob(blob))
    }
}

/// Saturating, because the sizes are whatever a manifest claims.
fn total(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// One copy in progress.
struct CopyRun<'a> {
    lock: &'a ImagesLock,
    options: &'a Options,
    target: Target,
    sources: Sources<'a>,
    referrers: AtomicUsize,
}

/// The result of one of the concurrent tasks.
enum Done {
    Blob(Planned, Result<(), Error>),
    Image(usize, Result<(), Error>),
}

type InFlight<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Done> + 'a>>>;

impl CopyRun<'_> {
    fn image(&self, index: usize) -> &LockedImage {
        &self.lock.images[index]
    }

    fn id(&self, index: usize) -> String {
        self.image(index).id.clone()
    }

    fn route(&self, index: usize) -> Result<Route, Error> {
        let image = self.image(index);
        let (source, _) = image.source()?;
        Ok(Route {
            id: image.id.clone(),
            source: self.sources.get(&source.registry)?,
            repository: source.repository,
            target: image.target.clone(),
        })
    }

    fn digest(&self, image: usize) -> Result<&Digest, Error> {
        let image = self.image(image);
        image
            .target_digest
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Usage, format!("{} is not pinned by a digest", image.image)))
    }

    async fn run(&self) -> Result<Summary, Error> {
        let mut failed: BTreeMap<usize, Error> = BTreeMap::new();
        let (present, missing) = self.look().await?;
        for image in &present {
            self.target.tell(MirrorEvent::Skipped { id: self.id(*image) });
        }
        let (trees, placed) =
            futures_util::future::join(self.read(&missing, &mut failed), self.placed(&present, &missing)).await;
        self.carry_out(&trees, &placed, &mut failed).await;
        let copied = trees.iter().filter(|tree| !failed.contains_key(&tree.image)).count();
        let failed = failed.into_iter().map(|(image, error)| (self.id(image), error)).collect();
        if let Some(error) = Error::of_images(failed) {
            return Err(error);
        }
        let sources = self.sources.all();
        Ok(Summary {
            copied,
            skipped: present.len(),
            blobs: self.target.counts.blobs.load(Ordering::Relaxed),
            there: self.target.counts.there.load(Ordering::Relaxed),
            mounted: self.target.counts.mounted.load(Ordering::Relaxed),
            referrers: self.referrers.load(Ordering::Relaxed),
            bytes: self.target.counts.bytes.load(Ordering::Relaxed),
            source_requests: sources.iter().map(|registry| registry.requests()).sum(),
            quotas: sources.iter().filter_map(|registry| registry.gate.quota()).collect(),
        })
    }

    /// Which images the target has and which it lacks: one HEAD each.
    async fn look(&self) -> Result<(Vec<usize>, Vec<usize>), Error> {
        let looks = (0..self.lock.images.len()).map(|index| async move {
            let digest = self.digest(index)?;
            let there = match self.options.force {
                true => false,
                false => match self.target.registry.has_manifest(&self.image(index).target, digest).await {
                    // Some registries answer this for a repository that the push will create.
                    Err(error) if error.kind == Kind::Denied && matches!(error.status, Some(401 | 403)) => false,
                    looked => looked?,
                },
            };
            Ok((index, there))
        });
        let looks: Vec<(usize, bool)> = futures_util::future::try_join_all(looks).await?;
        let (present, missing): (Vec<_>, Vec<_>) = looks.into_iter().partition(|(_, there)| *there);
        Ok((
            present.into_iter().map(|(index, _)| index).collect(),
            missing.into_iter().map(|(index, _)| index).collect(),
        ))
    }

    async fn read(&self, missing: &[usize], failed: &mut BTreeMap<usize, Error>) -> Vec<ImageTree> {
        let reads = iter(missing).map(|image| async move {
            self.target.tell(MirrorEvent::Started { id: self.id(*image) });
            (*image, self.tree(*image).await)
        });
        let mut trees = Vec::new();
        for (image, tree) in reads.buffered(self.options.transfers.max(1)).collect::<Vec<_>>().await {
            match tree {
                Ok(tree) => trees.push(tree),
                Err(error) => self.fail(image, error, failed),
            }
        }
        trees
    }

    fn fail(&self, image: usize, error: Error, failed: &mut BTreeMap<usize, Error>) {
        failed.entry(image).or_insert_with(|| {
            let id = self.id(image);
            self.target.tell(match error.whole {
                true => MirrorEvent::GivenUp { id },
                false => MirrorEvent::Failed { id, reason: error.to_string() },
            });
            error
        });
    }

    /// Everything an image is made of, read by digest. Manifests that an interrupted run already
    /// pushed are read from the target, where they do not count as a pull.
    async fn tree(&self, image: usize) -> Result<ImageTree, Error> {
        let route = self.route(image)?;
        let top = route.source.required_manifest(&route.repository, self.digest(image)?.as_str()).await?;
        let mut manifests = Vec::new();
        let mut seen = BTreeSet::new();
        let mut level = vec![top];
        // Nested indexes are allowed, but rare. The bound limits how much a source can make us
        // request.
        for _ in 0..4 {
            let children: Vec<Digest> = level
                .iter()
                .flat_map(|manifest| &manifest.document.manifests)
                .map(|child| child.digest.clone())
                .filter(|digest| seen.insert(digest.clone()))
                .collect();
            manifests.extend(level.into_iter().map(|manifest| (manifest, false)));
            let mut there = Vec::new();
            if !self.options.force {
                // They are pushed in this order: after the first missing one, all are missing.
                for digest in &children {
                    match self.target.registry.manifest(&route.target, digest.as_str()).await {
                        Ok(Some(manifest)) => there.push(manifest),
                        Ok(None) => break,
                        Err(error) if error.kind == Kind::Denied => break,
                        Err(error) => return Err(error),
                    }
                }
            }
            let rest = children[there.len()..]
                .iter()
                .map(|digest| route.source.required_manifest(&route.repository, digest.as_str()));
            let rest: Vec<Result<Manifest, Error>> = iter(rest).buffered(self.options.transfers.max(1)).collect().await;
            manifests.extend(there.into_iter().map(|manifest| (manifest, true)));
            level = rest.into_iter().collect::<Result<_, _>>()?;
            if level.is_empty() {
                break;
            }
        }
        if !level.is_empty() {
            let message = format!("{}: indexes nested more than three deep", self.image(image).image);
            return Err(Error::new(Kind::Invalid, message));
        }
        // Whatever refers to something is pushed after it: indexes from the innermost outwards,
        // manifests in their order.
        let (mut indexes, mut ordered): (Vec<_>, Vec<_>) =
            manifests.into_iter().partition(|(manifest, _)| manifest.is_index());
        indexes.reverse();
        ordered.append(&mut indexes);
        Ok(ImageTree { image, route, manifests: ordered })
    }

    /// Which repository of the target has which blob, for the images already there: another
    /// repository that needs the blob can mount it.
    async fn placed(&self, present: &[usize], missing: &[usize]) -> BTreeMap<Digest, String> {
        let mut placed = BTreeMap::new();
        if missing.is_empty() {
            return placed;
        }
        let reads = iter(present).map(|image| async move {
            let name = &self.image(*image).target;
            let mut found = Vec::new();
            let mut wanted = vec![self.digest(*image).ok()?.clone()];
            while let Some(digest) = wanted.pop() {
                // A manifest that cannot be read only means that its blobs are not mounted.
                let manifest = self.target.registry.manifest(name, digest.as_str()).await.ok().flatten()?;
                wanted.extend(manifest.document.manifests.iter().map(|child| child.digest.clone()));
                found.extend(manifest.blobs().map(|blob| (blob.digest.clone(), name.clone())));
            }
            Some(found)
        });
        for found in reads.buffered(self.options.transfers.max(1)).collect::<Vec<_>>().await.into_iter().flatten() {
            placed.extend(found);
        }
        placed
    }

    async fn carry_out(
        &self,
        trees: &[ImageTree],
        placed: &BTreeMap<Digest, String>,
        failed: &mut BTreeMap<usize, Error>,
    ) {
        let needed = trees.iter().flat_map(|tree| tree.blobs().map(|blob| (tree.image, blob)));
        let mut queue = plan(needed, placed);
        // How many blobs each image is waiting for.
        let mut waiting: BTreeMap<usize, usize> = trees.iter().map(|tree| (tree.image, 0)).collect();
        for planned in &queue {
            for image in &planned.images {
                *waiting.entry(*image).or_default() += 1;
            }
        }
        for tree in trees {
            let own = queue.iter().filter(|planned| planned.images.first() == Some(&tree.image));
            let bytes = total(own.map(|planned| planned.blob.source.size));
            self.target.tell(MirrorEvent::Planned { id: self.id(tree.image), bytes });
        }
        let mut going: InFlight<'_> = FuturesUnordered::new();
        for tree in trees.iter().filter(|tree| waiting.get(&tree.image) == Some(&0)) {
            going.push(Box::pin(async { Done::Image(tree.image, self.finish(tree).await) }));
        }
        let mut transfers = 0;
        loop {
            while transfers < self.options.transfers.max(1)
                && let Some(planned) = queue.pop_front()
            {
                if planned.images.iter().all(|image| failed.contains_key(image)) {
                    continue;
                }
                transfers += 1;
                going.push(Box::pin(async {
                    let result = self.target.place(&planned.blob).await;
                    Done::Blob(planned, result)
                }));
            }
            match going.next().await {
                None => return,
                Some(Done::Image(image, Err(error))) => self.fail(image, error, failed),
                Some(Done::Image(_, Ok(()))) => {}
                Some(Done::Blob(planned, result)) => {
                    transfers -= 1;
                    for image in &planned.images {
                        if let Err(error) = &result {
                            self.fail(*image, error.clone(), failed);
                        }
                        let left = waiting.entry(*image).or_default();
                        *left = left.saturating_sub(1);
                        if *left == 0
                            && !failed.contains_key(image)
                            && let Some(tree) = trees.iter().find(|tree| tree.image == *image)
                        {
                            going.push(Box::pin(async { Done::Image(tree.image, self.finish(tree).await) }));
                        }
                    }
                }
            }
        }
    }

    /// Once all blobs are there, pushes the manifests. If the target turns out to lack a blob
    /// (somebody else was still uploading it, or it was lost), that blob is transferred again.
    async fn finish(&self, tree: &ImageTree) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            match self.push(tree).await {
                Err(error) if tries < 3 && error.message.contains("BLOB_UNKNOWN") => {
                    tokio::time::sleep(self.target.registry.retry.back_off(tries, fastrand::f64())).await;
                    tries += 1;
                    for blob in tree.blobs() {
                        self.target.place(&blob).await?;
                    }
                }
                done => return done,
            }
        }
    }

    /// Manifests, what refers to them, and the tag last.
    async fn push(&self, tree: &ImageTree) -> Result<(), Error> {
        let Some(((top, _), children)) = tree.manifests.split_last() else { return Ok(()) };
        let (_, tag) = self.image(tree.image).source()?;
        let (target, name) = (&self.target.registry, &tree.route.target);
        for (manifest, _) in children.iter().filter(|(_, there)| !there) {
            target.put_manifest(name, &manifest.media_type, manifest.bytes.clone(), manifest.digest.as_str()).await?;
        }
        let referrers = referrers::copy(&self.target, &tree.route, top).await?;
        self.referrers.fetch_add(referrers, Ordering::Relaxed);
        target.put_manifest(name, &top.media_type, top.bytes.clone(), &tag).await?;
        let blobs: BTreeMap<&Digest, u64> = tree
            .manifests
            .iter()
            .flat_map(|(manifest, _)| manifest.blobs())
            .map(|blob| (&blob.digest, blob.size))
            .collect();
        self.target.tell(MirrorEvent::Copied { id: tree.route.id.clone(), bytes: total(blobs.into_values()) });
        Ok(())
    }
}
