//! Copying and checking images: look at both sides, plan what is missing, move it.
//! Children go before their index and blobs before their manifest, so that nothing
//! half-done is ever visible; and each blob goes over the wire once, whatever
//! number of images has it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt, iter};
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::blob::{Source, Watch};
use crate::credentials::Credentials;
use crate::lock::{Digest, Lock, LockedImage};
use crate::manifest::{Descriptor, Manifest};
use crate::pace::{self, Came, Next, Quota, Retry};
use crate::proxy::Proxies;
use crate::registry::{Ask, Kept, Registry, Scope, Wants};
use crate::transport::Endpoint;
use crate::{Error, Event, Kind, referrers};

/// From this size on, in bytes, a blob is looked for before it is uploaded: moving it
/// takes longer than a HEAD.
const LOOKED_FOR: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Options {
    pub target: Endpoint,
    /// Where a source registry is really reached, if not by its own name.
    pub sources: BTreeMap<String, Endpoint>,
    pub credentials: Credentials,
    pub proxies: Proxies,
    pub retry: Retry,
    /// Blobs on their way at once, of all images together.
    pub transfers: usize,
    /// Looks at every blob also of images whose manifest is there.
    pub force: bool,
    /// Manifests that were read at sources: what was resolved with the same is not asked
    /// for again by a copy.
    pub kept: Kept,
}

impl Options {
    pub fn to(target: Endpoint) -> Self {
        Self {
            target,
            sources: BTreeMap::new(),
            credentials: Credentials::default(),
            proxies: Proxies::default(),
            retry: Retry::default(),
            transfers: 6,
            force: false,
            kept: Kept::default(),
        }
    }
}

pub trait Observe: Send + Sync {
    fn event(&self, event: Event);
}

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub copied: usize,
    pub skipped: usize,
    /// Blobs that went over the wire.
    pub blobs: usize,
    /// Blobs that their repository had already, from a run that was interrupted for instance.
    pub there: usize,
    /// Blobs that another repository of the target had already.
    pub mounted: usize,
    /// Signatures and attestations that came along.
    pub referrers: usize,
    pub bytes: u64,
    pub source_requests: u64,
    /// What the source registries still give.
    pub quotas: Vec<Quota>,
}

/// Why an image cannot be pulled from the mirror as the lock says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    #[error("{image} is not pinned by a digest")]
    NotPinned { image: String },
    #[error("{target}@{digest} is missing")]
    Missing { target: String, digest: String },
    #[error("{target}:{tag} is {found}, and the lock says {digest}")]
    Stale { target: String, tag: String, found: String, digest: String },
}

/// Runs something that tells events, and hands them on as they come.
pub(crate) async fn relay<T>(observe: &dyn Observe, work: impl AsyncFnOnce(UnboundedSender<Event>) -> T) -> T {
    let (sender, mut receiver) = unbounded_channel();
    let mut work = pin!(work(sender));
    std::future::poll_fn(|context| {
        let done = work.as_mut().poll(context);
        while let Poll::Ready(Some(event)) = receiver.poll_recv(context) {
            observe.event(event);
        }
        done
    })
    .await
}

/// The source registries, each made once: its tokens, pace and quota are one.
pub(crate) struct Sources<'a> {
    options: &'a Options,
    events: UnboundedSender<Event>,
    registries: Mutex<BTreeMap<String, Arc<Registry>>>,
}

impl<'a> Sources<'a> {
    pub fn new(options: &'a Options, events: &UnboundedSender<Event>) -> Self {
        Self { options, events: events.clone(), registries: Mutex::default() }
    }

    pub fn get(&self, host: &str) -> Result<Arc<Registry>, Error> {
        let mut registries = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registry) = registries.get(host) {
            return Ok(registry.clone());
        }
        let own = Endpoint::named(host);
        let endpoint = self.options.sources.get(host).unwrap_or(&own);
        let registry = Arc::new(Registry::new(host, endpoint, self.options, self.events.clone())?);
        registries.insert(host.to_owned(), registry.clone());
        Ok(registry)
    }

    fn all(&self) -> Vec<Arc<Registry>> {
        self.registries.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

fn target(options: &Options, events: &UnboundedSender<Event>) -> Result<Arc<Registry>, Error> {
    let (name, _) = options.target.parts()?;
    Registry::new(name.as_str(), &options.target, options, events.clone()).map(Arc::new)
}

struct Silent;

impl Observe for Silent {
    fn event(&self, _: Event) {}
}

/// One HEAD per image at the target, all at once; a second one where it is not there.
pub async fn check(lock: &Lock, options: &Options) -> Result<Vec<Finding>, Error> {
    relay(&Silent, async |events| {
        let target = target(options, &events)?;
        let looks = lock.images.iter().map(|image| async {
            let Some(digest) = &image.target_digest else {
                return Ok(Some(Finding::NotPinned { image: image.image.clone() }));
            };
            if target.has_manifest(&image.target, digest).await? {
                return Ok(None);
            }
            let (name, digest, tag) = (image.target.clone(), digest.to_string(), image.source()?.tag);
            Ok(Some(match target.digest_of(&name, &tag).await?.flatten() {
                Some(found) => Finding::Stale { target: name, tag, found: found.to_string(), digest },
                None => Finding::Missing { target: name, digest },
            }))
        });
        let found: Vec<Option<Finding>> = futures_util::future::try_join_all(looks).await?;
        Ok(found.into_iter().flatten().collect())
    })
    .await
}

/// Copies what the target lacks, by digest; an image's tag comes last.
///
/// # Errors
/// The first image's that could not be copied, with all that could not be; the
/// others are complete, and so is every blob that arrived: the next run goes on there.
pub async fn copy(lock: &Lock, options: &Options, observe: &dyn Observe) -> Result<Summary, Error> {
    relay(observe, async |events| {
        let target = target(options, &events)?;
        let sources = Sources::new(options, &events);
        let act = Act { lock, options, target, sources, events, counts: Counts::default() };
        act.run().await
    })
    .await
}

/// All of an image: its manifest or index last, after what it refers to.
struct Tree {
    image: usize,
    /// Each with whether the target has it already, and with it all its blobs.
    manifests: Vec<(Manifest, bool)>,
}

/// A blob that some image needs, and where it has to be.
#[derive(Clone)]
pub(crate) struct Job {
    source: Source,
    /// The images that wait for it; its bytes are told as the first one's.
    images: Vec<usize>,
    /// The repositories of the target that need it.
    repositories: Vec<String>,
    /// A repository of the target that has it.
    at: Option<String>,
}

impl Job {
    pub fn alone(image: usize, blob: &Descriptor, source: &Arc<Registry>, repository: &str, name: &str) -> Self {
        let (registry, repository) = (source.clone(), repository.to_owned());
        let source = Source { registry, repository, digest: blob.digest.clone(), size: blob.size };
        Self { source, images: vec![image], repositories: vec![name.to_owned()], at: None }
    }
}

/// Every blob once, the large ones first: what starts last should not take longest.
fn plan(jobs: impl IntoIterator<Item = Job>, placed: &BTreeMap<Digest, String>) -> VecDeque<Job> {
    let mut unique: BTreeMap<Digest, Job> = BTreeMap::new();
    for job in jobs {
        let Some(known) = unique.get_mut(&job.source.digest) else {
            unique.insert(job.source.digest.clone(), Job { at: placed.get(&job.source.digest).cloned(), ..job });
            continue;
        };
        for image in job.images {
            if !known.images.contains(&image) {
                known.images.push(image);
            }
        }
        for repository in job.repositories {
            if !known.repositories.contains(&repository) {
                known.repositories.push(repository);
            }
        }
    }
    let mut jobs: Vec<Job> = unique.into_values().collect();
    jobs.sort_by_key(|job| std::cmp::Reverse(job.source.size));
    jobs.into()
}

/// Sizes are what a manifest says they are.
fn total(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

#[derive(Default)]
struct Counts {
    blobs: AtomicUsize,
    there: AtomicUsize,
    mounted: AtomicUsize,
    referrers: AtomicUsize,
    bytes: AtomicU64,
}

/// What became of one request to put a blob somewhere.
enum Start {
    Placed,
    Upload(String),
    /// This registry knows no mounts.
    Refused,
}

/// One copy on its way.
pub(crate) struct Act<'a> {
    lock: &'a Lock,
    options: &'a Options,
    pub target: Arc<Registry>,
    sources: Sources<'a>,
    events: UnboundedSender<Event>,
    counts: Counts,
}

/// What one of the things going on at once came to.
enum Done {
    Blob(Job, Result<(), Error>),
    Image(usize, Result<(), Error>),
}

type Going<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Done> + 'a>>>;

impl Act<'_> {
    pub fn tell(&self, event: Event) {
        // The receiver lives as long as this.
        let _ = self.events.send(event);
    }

    fn image(&self, index: usize) -> &LockedImage {
        &self.lock.images[index]
    }

    pub fn id(&self, index: usize) -> String {
        self.image(index).id.clone()
    }

    /// An image's registry and repository, and its repository at the target.
    pub fn whence(&self, image: usize) -> Result<(Arc<Registry>, String, String), Error> {
        let image = self.image(image);
        let source = image.source()?;
        Ok((self.sources.get(&source.host)?, source.repository, image.target.clone()))
    }

    fn digest(&self, image: usize) -> Result<&Digest, Error> {
        let image = self.image(image);
        image
            .target_digest
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Lock, format!("{} is not pinned by a digest", image.image)))
    }

    async fn run(&self) -> Result<Summary, Error> {
        let mut failed: BTreeMap<usize, Error> = BTreeMap::new();
        let (present, missing) = self.look().await?;
        for image in &present {
            self.tell(Event::Skipped { id: self.id(*image) });
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
            blobs: self.counts.blobs.load(Ordering::Relaxed),
            there: self.counts.there.load(Ordering::Relaxed),
            mounted: self.counts.mounted.load(Ordering::Relaxed),
            referrers: self.counts.referrers.load(Ordering::Relaxed),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            source_requests: sources.iter().map(|registry| registry.requests()).sum(),
            quotas: sources.iter().filter_map(|registry| registry.gate.quota()).collect(),
        })
    }

    /// Which images the target has, and which it lacks: one HEAD each.
    async fn look(&self) -> Result<(Vec<usize>, Vec<usize>), Error> {
        let looks = (0..self.lock.images.len()).map(|index| async move {
            let digest = self.digest(index)?;
            let there = match self.options.force {
                true => false,
                false => match self.target.has_manifest(&self.image(index).target, digest).await {
                    // So some answer of a repository that a push is going to make.
                    Err(error) if error.kind == Kind::Denied => false,
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

    async fn read(&self, missing: &[usize], failed: &mut BTreeMap<usize, Error>) -> Vec<Tree> {
        let reads = iter(missing).map(|image| async move {
            self.tell(Event::Started { id: self.id(*image) });
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
            self.tell(match error.whole {
                true => Event::GivenUp { id },
                false => Event::Failed { id, reason: error.to_string() },
            });
            error
        });
    }

    /// Everything that an image is made of, read by digest. Manifests that an
    /// interrupted run brought already are read from the target, where they cost no pull.
    async fn tree(&self, image: usize) -> Result<Tree, Error> {
        let (source, repository, name) = self.whence(image)?;
        let top = source.wanted_manifest(&repository, self.digest(image)?.as_str()).await?;
        let mut manifests = Vec::new();
        let mut seen = BTreeSet::new();
        let mut level = vec![top];
        // Indexes within indexes are allowed, and rare; a bound on them is a bound on what a source can ask of us.
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
                // They are pushed in this order: behind the first that is missing there is none.
                for digest in &children {
                    match self.target.manifest(&name, digest.as_str()).await {
                        Ok(Some(manifest)) => there.push(manifest),
                        Ok(None) => break,
                        Err(error) if error.kind == Kind::Denied => break,
                        Err(error) => return Err(error),
                    }
                }
            }
            let rest =
                children[there.len()..].iter().map(|digest| source.wanted_manifest(&repository, digest.as_str()));
            let rest: Vec<Result<Manifest, Error>> = iter(rest).buffered(self.options.transfers.max(1)).collect().await;
            manifests.extend(there.into_iter().map(|manifest| (manifest, true)));
            level = rest.into_iter().collect::<Result<_, _>>()?;
            if level.is_empty() {
                break;
            }
        }
        if !level.is_empty() {
            let message = format!("{}: indexes within indexes, more than three deep", self.image(image).image);
            return Err(Error::new(Kind::Invalid, message));
        }
        // Whatever refers to something is pushed after it, so indexes from the innermost
        // outwards; manifests in the order in which they stand.
        let (mut indexes, mut ordered): (Vec<_>, Vec<_>) =
            manifests.into_iter().partition(|(manifest, _)| manifest.is_index());
        indexes.reverse();
        ordered.append(&mut indexes);
        Ok(Tree { image, manifests: ordered })
    }

    /// Which repository of the target has which blob, of the images that are there:
    /// another one that has it too can mount it.
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
                // What cannot be read is not mounted, and nothing worse.
                let manifest = self.target.manifest(name, digest.as_str()).await.ok().flatten()?;
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

    fn jobs(&self, tree: &Tree) -> Result<Vec<Job>, Error> {
        let (source, repository, name) = self.whence(tree.image)?;
        let lacking = tree.manifests.iter().filter(|(_, there)| !there);
        let blobs = lacking.flat_map(|(manifest, _)| manifest.blobs());
        Ok(blobs.map(|blob| Job::alone(tree.image, blob, &source, &repository, &name)).collect())
    }

    async fn carry_out(&self, trees: &[Tree], placed: &BTreeMap<Digest, String>, failed: &mut BTreeMap<usize, Error>) {
        let mut all = Vec::new();
        for tree in trees {
            match self.jobs(tree) {
                Ok(jobs) => all.extend(jobs),
                Err(error) => self.fail(tree.image, error, failed),
            }
        }
        let mut queue = plan(all, placed);
        // How many blobs each image waits for.
        let mut waiting: BTreeMap<usize, usize> = trees.iter().map(|tree| (tree.image, 0)).collect();
        for job in &queue {
            for image in &job.images {
                *waiting.entry(*image).or_default() += 1;
            }
        }
        for tree in trees {
            let own = queue.iter().filter(|job| job.images.first() == Some(&tree.image));
            self.tell(Event::Planned { id: self.id(tree.image), bytes: total(own.map(|job| job.source.size)) });
        }
        let mut going: Going<'_> = FuturesUnordered::new();
        for tree in trees.iter().filter(|tree| waiting.get(&tree.image) == Some(&0)) {
            going.push(Box::pin(async { Done::Image(tree.image, self.finish(tree).await) }));
        }
        let mut transfers = 0;
        loop {
            while transfers < self.options.transfers.max(1)
                && let Some(job) = queue.pop_front()
            {
                if job.images.iter().all(|image| failed.contains_key(image)) {
                    continue;
                }
                transfers += 1;
                going.push(Box::pin(async {
                    let result = self.place(&job).await;
                    Done::Blob(job, result)
                }));
            }
            match going.next().await {
                None => return,
                Some(Done::Image(image, Err(error))) => self.fail(image, error, failed),
                Some(Done::Image(_, Ok(()))) => {}
                Some(Done::Blob(job, result)) => {
                    transfers -= 1;
                    for image in &job.images {
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

    /// With all blobs there: the manifests. Where the target misses a blob after all
    /// (somebody else was just putting it there, or it was lost), that one comes again.
    async fn finish(&self, tree: &Tree) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            match self.push(tree).await {
                Err(error) if tries < 3 && error.message.contains("BLOB_UNKNOWN") => {
                    tokio::time::sleep(self.target.retry.back_off(tries, fastrand::f64())).await;
                    tries += 1;
                    for job in self.jobs(tree)? {
                        self.place(&job).await?;
                    }
                }
                done => return done,
            }
        }
    }

    /// Manifests, what refers to them, and the tag last.
    async fn push(&self, tree: &Tree) -> Result<(), Error> {
        let (image, name) = (self.image(tree.image), &self.image(tree.image).target);
        let Some(((top, _), children)) = tree.manifests.split_last() else { return Ok(()) };
        for (manifest, _) in children.iter().filter(|(_, there)| !there) {
            self.target
                .put_manifest(name, &manifest.media_type, manifest.bytes.clone(), manifest.digest.as_str())
                .await?;
        }
        let referrers = referrers::copy(self, tree.image, top).await?;
        self.counts.referrers.fetch_add(referrers, Ordering::Relaxed);
        self.target.put_manifest(name, &top.media_type, top.bytes.clone(), &image.source()?.tag).await?;
        let blobs: BTreeMap<&Digest, u64> = tree
            .manifests
            .iter()
            .flat_map(|(manifest, _)| manifest.blobs())
            .map(|blob| (&blob.digest, blob.size))
            .collect();
        self.tell(Event::Copied { id: image.id.clone(), bytes: total(blobs.into_values()) });
        Ok(())
    }

    /// Gets a blob into each repository that needs it.
    pub async fn place(&self, job: &Job) -> Result<(), Error> {
        let mut at = job.at.clone();
        let mut moved = false;
        for repository in &job.repositories {
            moved |= self.put(job, repository, at.as_deref()).await?;
            at = Some(repository.clone());
        }
        if !moved && let Some(image) = job.images.first() {
            self.tell(Event::Spared { id: self.id(*image), bytes: job.source.size });
        }
        Ok(())
    }

    /// Whether it had to be moved.
    async fn put(&self, job: &Job, repository: &str, at: Option<&str>) -> Result<bool, Error> {
        let digest = &job.source.digest;
        // Mounted from the repository itself it is there already: one request tells
        // that, and is the beginning of the upload if it is not.
        let from = at.unwrap_or(repository);
        let scope = self.target.push(repository, Some(from));
        let query = format!("?mount={digest}&from={}", self.target.repository(from));
        let placed = |counter: &AtomicUsize| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(false)
        };
        let location = match self.start(repository, &query, &scope).await? {
            Start::Placed if from == repository => return placed(&self.counts.there),
            Start::Placed => return placed(&self.counts.mounted),
            // Registries may begin an upload instead of mounting, also what they have.
            Start::Upload(location) if job.source.size < LOOKED_FOR => Some(location),
            _ if self.target.has_blob(repository, digest).await? => return placed(&self.counts.there),
            Start::Upload(location) => Some(location),
            Start::Refused => None,
        };
        // Where the target has it, but does not mount it, it need not be pulled again.
        let source = match at {
            Some(at) => Source { registry: self.target.clone(), repository: at.to_owned(), ..job.source.clone() },
            None => job.source.clone(),
        };
        self.upload(job, &source, repository, location).await?;
        self.counts.blobs.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(job.source.size, Ordering::Relaxed);
        Ok(true)
    }

    async fn start(&self, repository: &str, query: &str, scope: &Scope) -> Result<Start, Error> {
        let url = self.target.url(repository, &format!("blobs/uploads/{query}"));
        // A mount saves an upload, and is nothing to insist on.
        let wants = if query.is_empty() { Wants::All } else { Wants::Little };
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let ask = Ask { method: Method::POST, url: &url, headers, body, scope: Some(scope), wants };
        let error = match self.target.send(ask).await {
            Ok(answer) if answer.status() == StatusCode::CREATED => return Ok(Start::Placed),
            Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                return self.target.resolve(&url, answer.headers()).map(Start::Upload);
            }
            Ok(answer) => self.target.refused(&url, answer).await,
            Err(error) => error,
        };
        let final_too = matches!(error.kind, Kind::RateLimited | Kind::DiskFull);
        if wants == Wants::Little && error.status.is_some() && !final_too {
            return Ok(Start::Refused);
        }
        // Registries that make no repository by themselves say that there is none.
        if error.kind == Kind::NotFound {
            let message = format!("{}: the repository has to be made there first", error.message);
            return Err(Error { kind: Kind::Denied, message, ..error });
        }
        Err(error)
    }

    /// Moves a blob in one PUT; after a failure that can pass, in another one.
    async fn upload(
        &self,
        job: &Job,
        source: &Source,
        repository: &str,
        mut location: Option<String>,
    ) -> Result<(), Error> {
        let (target, id) = (&self.target, self.id(job.images[0]));
        let scope = target.push(repository, None);
        let (mut tries, mut redirects, mut authorized) = (0, 0, false);
        loop {
            let address = match location.take() {
                Some(address) => address,
                None => match self.start(repository, "", &scope).await? {
                    Start::Upload(address) => address,
                    Start::Placed | Start::Refused => {
                        return Err(target.error(
                            Kind::Protocol,
                            &target.url(repository, "blobs/uploads/"),
                            "begins no upload",
                        ));
                    }
                },
            };
            let separator = if address.contains('?') { '&' } else { '?' };
            let url = format!("{address}{separator}digest={}", job.source.digest);
            let watch = Arc::new(Watch::new(id.clone(), self.events.clone()));
            let body = source.clone().open(watch.clone()).await?;
            let sent = {
                let (sent, stalled) =
                    (target.stream(&url, source.size, body, &scope), watch.stalled(target.retry.stall));
                match select(pin!(sent), pin!(stalled)).await {
                    Either::Left((sent, _)) => sent,
                    Either::Right(_) => {
                        let reason = format!("nothing moves for {} s: is its disk full?", target.retry.stall.as_secs());
                        Err(Error::new(Kind::Unreachable, reason))
                    }
                }
            };
            if let Ok(answer) = &sent
                && answer.status().is_success()
            {
                return Ok(());
            }
            self.tell(Event::Lost { id: id.clone(), bytes: watch.bytes() });
            match (sent, watch.failure()) {
                // The target only saw a cut: the source knows why.
                (_, Some(error)) if error.passing => {
                    target.again(Came::Nothing { known: true }, &mut tries, error, Wants::All).await?;
                }
                (_, Some(error)) => return Err(error),
                (Err(error), None) => {
                    let error = target.error(error.kind, &url, &error.message);
                    target.again(Came::Nothing { known: true }, &mut tries, error, Wants::All).await?;
                }
                (Ok(answer), None) => {
                    let status = answer.status();
                    let ours = url.parse().is_ok_and(|uri| target.is_ours(&uri));
                    if status == StatusCode::UNAUTHORIZED && ours && !authorized {
                        authorized = true;
                        let refused = answer.headers().contains_key(http::header::WWW_AUTHENTICATE);
                        let sent = if refused { target.token(&scope) } else { None };
                        target.authorize(&url, &answer, &scope, sent).await?;
                        continue;
                    }
                    if matches!(status.as_u16(), 307 | 308) && redirects < 5 {
                        redirects += 1;
                        location = Some(target.resolve(&url, answer.headers())?);
                        continue;
                    }
                    let (error, came) = target.judge(&url, answer).await;
                    // An upload that the registry has forgotten, having been restarted for instance.
                    let came = match pace::next(came, 0, &target.retry, 0.0) {
                        Next::Take if status == StatusCode::NOT_FOUND => Came::Nothing { known: true },
                        Next::Take => return Err(error),
                        _ => came,
                    };
                    target.again(came, &mut tries, error, Wants::All).await?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(image: usize, blob: &str, size: u64, repository: &str) -> Job {
        let (events, _) = unbounded_channel();
        let options = Options::to(Endpoint::named("x.example"));
        let registry = Registry::new("x.example", &options.target, &options, events);
        let source = Source {
            registry: Arc::new(registry.unwrap()),
            repository: repository.to_owned(),
            digest: Digest::of(blob.as_bytes()),
            size,
        };
        Job { source, images: vec![image], repositories: vec![repository.to_owned()], at: None }
    }

    #[test]
    fn each_blob_is_planned_once_the_large_ones_first() {
        let jobs = [job(0, "base", 10, "a"), job(0, "own", 30, "a"), job(1, "base", 10, "b"), job(0, "base", 10, "a")];
        let placed = BTreeMap::from([(Digest::of(b"own"), "c".to_owned())]);
        let plan = plan(jobs, &placed);
        let seen: Vec<_> = plan
            .iter()
            .map(|job| (job.source.size, job.images.as_slice(), job.repositories.as_slice(), job.at.as_deref()))
            .collect();
        let (a, ab) = (["a".to_owned()], ["a".to_owned(), "b".to_owned()]);
        assert_eq!(seen, [(30, &[0][..], &a[..], Some("c")), (10, &[0, 1][..], &ab[..], None)]);
    }
}
