//! The registry that is copied to: blobs are mounted if it already has them, else streamed from
//! their source; what was done is counted.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::mpsc::UnboundedSender;

use crate::blob::{Source, Watch};
use crate::error::{Error, Kind};
use crate::manifest::Descriptor;
use crate::observe::MirrorEvent;
use crate::pace::{self, Next, Outcome};
use crate::registry::{Call, Need, Registry, Scope};

/// From this size on, in bytes, a blob is looked up before it is uploaded: transferring it takes
/// longer than a HEAD.
const LOOKED_FOR: u64 = 1 << 20;

/// Where one image is copied from and to.
pub(crate) struct Route {
    /// The image's id, under which its progress is reported.
    pub id: String,
    pub source: Arc<Registry>,
    /// The repository at the source.
    pub repository: String,
    /// The repository at the target.
    pub target: String,
}

impl Route {
    pub fn blob(&self, blob: &Descriptor) -> BlobCopy {
        let source = Source::of(blob, &self.source, &self.repository);
        BlobCopy { source, id: self.id.clone(), repositories: vec![self.target.clone()], mount_from: None }
    }
}

/// A blob, and where it is needed.
pub(crate) struct BlobCopy {
    pub source: Source,
    /// The image that its bytes are reported for.
    pub id: String,
    /// The repositories of the target that need it.
    pub repositories: Vec<String>,
    /// A repository of the target that has it.
    pub mount_from: Option<String>,
}

/// What was done.
#[derive(Default)]
pub(crate) struct Counts {
    pub blobs: AtomicUsize,
    pub there: AtomicUsize,
    pub mounted: AtomicUsize,
    pub bytes: AtomicU64,
}

/// The registry's answer to a request to place a blob.
enum Start {
    Placed,
    Upload(String),
    /// This registry does not support mounts.
    Refused,
}

pub(crate) struct Target {
    pub registry: Arc<Registry>,
    pub counts: Counts,
    events: UnboundedSender<MirrorEvent>,
}

impl Target {
    pub fn new(registry: Arc<Registry>, events: UnboundedSender<MirrorEvent>) -> Self {
        Self { registry, counts: Counts::default(), events }
    }

    pub fn tell(&self, event: MirrorEvent) {
        // The receiver lives as long as this.
        let _ = self.events.send(event);
    }

    /// Makes a blob available in each repository that needs it.
    pub async fn place(&self, blob: &BlobCopy) -> Result<(), Error> {
        let mut at = blob.mount_from.clone();
        let mut moved = false;
        for repository in &blob.repositories {
            moved |= self.put(blob, repository, at.as_deref()).await?;
            at = Some(repository.clone());
        }
        if !moved {
            self.tell(MirrorEvent::Spared { id: blob.id.clone(), bytes: blob.source.size });
        }
        Ok(())
    }

    /// Returns whether it had to be transferred.
    async fn put(&self, blob: &BlobCopy, repository: &str, at: Option<&str>) -> Result<bool, Error> {
        let digest = &blob.source.digest;
        // A mount from the same repository: one request tells whether the blob is already there,
        // and starts the upload if it is not.
        let from = at.unwrap_or(repository);
        let scope = self.registry.push(repository, Some(from));
        let query = format!("?mount={digest}&from={}", self.registry.address.repository(from));
        let placed = |counter: &AtomicUsize| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(false)
        };
        let location = match self.start(repository, &query, &scope).await? {
            Start::Placed if from == repository => return placed(&self.counts.there),
            Start::Placed => return placed(&self.counts.mounted),
            // Registries may start an upload instead of mounting, even for blobs that they have.
            Start::Upload(location) if blob.source.size < LOOKED_FOR => Some(location),
            _ if self.registry.has_blob(repository, digest).await? => return placed(&self.counts.there),
            Start::Upload(location) => Some(location),
            Start::Refused => None,
        };
        // If the target has it but does not mount it, it need not be pulled from the source again.
        let source = match at {
            Some(at) => Source { registry: self.registry.clone(), repository: at.to_owned(), ..blob.source.clone() },
            None => blob.source.clone(),
        };
        self.upload(blob, &source, repository, location).await?;
        self.counts.blobs.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(blob.source.size, Ordering::Relaxed);
        Ok(true)
    }

    async fn start(&self, repository: &str, query: &str, scope: &Scope) -> Result<Start, Error> {
        let url = self.registry.address.url(repository, &format!("blobs/uploads/{query}"));
        // A mount only saves an upload, so it is optional.
        let need = if query.is_empty() { Need::Required } else { Need::Optional };
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let call = Call { method: Method::POST, url: &url, headers, body, scope: Some(scope), need };
        let error = match self.registry.send(call).await {
            Ok(answer) if answer.status() == StatusCode::CREATED => return Ok(Start::Placed),
            Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                return self.leads(&url, &answer).map(Start::Upload);
            }
            Ok(answer) => self.registry.refused(&url, answer).await,
            Err(error) => error,
        };
        let final_too = matches!(error.kind, Kind::RateLimited | Kind::DiskFull);
        if need == Need::Optional && error.status.is_some() && !final_too {
            return Ok(Start::Refused);
        }
        // Registries that do not create repositories on push answer that there is none.
        if error.kind == Kind::NotFound {
            let message = format!("{}: the repository must be created there first", error.message);
            return Err(Error { kind: Kind::Denied, message, ..error });
        }
        Err(error)
    }

    async fn new_upload(&self, repository: &str, scope: &Scope) -> Result<String, Error> {
        match self.start(repository, "", scope).await? {
            Start::Upload(address) => Ok(address),
            Start::Placed | Start::Refused => {
                let url = self.registry.address.url(repository, "blobs/uploads/");
                Err(self.registry.address.error(Kind::Protocol, &url, "does not start an upload"))
            }
        }
    }

    /// Where an upload continues.
    fn leads(&self, from: &str, answer: &Response<Incoming>) -> Result<String, Error> {
        let to = self.registry.address.resolve(from, answer.headers())?;
        self.registry.address.keep_tls(from, &to).map(|()| to)
    }

    /// Transfers a blob in one PUT; after a transient failure, in another one.
    async fn upload(
        &self,
        blob: &BlobCopy,
        source: &Source,
        repository: &str,
        mut location: Option<String>,
    ) -> Result<(), Error> {
        let (target, id) = (&self.registry, &blob.id);
        let scope = target.push(repository, None);
        let (mut tries, mut redirects, mut authorized) = (0, 0, false);
        let mut redirected = None;
        loop {
            let url = match redirected.take() {
                Some(url) => url,
                None => {
                    let address = match location.take() {
                        Some(address) => address,
                        None => self.new_upload(repository, &scope).await?,
                    };
                    let separator = if address.contains('?') { '&' } else { '?' };
                    format!("{address}{separator}digest={}", blob.source.digest)
                }
            };
            let watch = Arc::new(Watch::new(id.clone(), self.events.clone()));
            let body = source.clone().open(watch.clone()).await?;
            // A wait that the target has asked for is no stall.
            target.gate.pass().await?;
            watch.targets_turn();
            let sent = {
                let (sent, stalled) =
                    (target.stream(&url, source.size, body, &scope), watch.stalled(target.retry.stall));
                match select(pin!(sent), pin!(stalled)).await {
                    Either::Left((sent, _)) => sent,
                    Either::Right(_) => {
                        let reason = format!("no progress for {} s: is its disk full?", target.retry.stall.as_secs());
                        Err(Error::new(Kind::Unreachable, reason))
                    }
                }
            };
            if let Ok(answer) = &sent
                && answer.status().is_success()
            {
                return Ok(());
            }
            self.tell(MirrorEvent::Lost { id: id.clone(), bytes: watch.bytes() });
            match (sent, watch.failure()) {
                // The target only saw a cut: the source knows why.
                (_, Some(error)) if error.passing => {
                    target.again(Outcome::Nothing { known: true }, &mut tries, error, Need::Required).await?;
                }
                (_, Some(error)) => return Err(error),
                (Err(error), None) => {
                    let error = target.address.error(error.kind, &url, &error.message);
                    target.again(Outcome::Nothing { known: true }, &mut tries, error, Need::Required).await?;
                }
                (Ok(answer), None) => {
                    let status = answer.status();
                    let ours = url.parse().is_ok_and(|uri| target.address.is_ours(&uri));
                    if status == StatusCode::UNAUTHORIZED && ours && !authorized {
                        authorized = true;
                        let refused = answer.headers().contains_key(http::header::WWW_AUTHENTICATE);
                        let sent = if refused { target.token(&scope) } else { None };
                        target.authorize(&url, &answer, &scope, sent).await?;
                        continue;
                    }
                    if matches!(status.as_u16(), 307 | 308) && redirects < 5 {
                        redirects += 1;
                        redirected = Some(self.leads(&url, &answer)?);
                        continue;
                    }
                    let (error, outcome) = target.judge(&url, answer).await;
                    // The registry has lost the upload, for example because it was restarted.
                    let outcome = match pace::next(outcome, 0, &target.retry, 0.0) {
                        Next::Take if status == StatusCode::NOT_FOUND => Outcome::Nothing { known: true },
                        Next::Take => return Err(error),
                        _ => outcome,
                    };
                    target.again(outcome, &mut tries, error, Need::Required).await?;
                }
            }
        }
    }
}
