//! One blob in transfer: read from a registry, resumed by range after a cut, hashed as it passes,
//! and never whole in memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::UnboundedSender;

use crate::digest::Digest;
use crate::error::{Error, Kind};
use crate::manifest::Descriptor;
use crate::observe::MirrorEvent;
use crate::pace::Outcome;
use crate::registry::{Call, Need, Registry};
use crate::transport::Body;

/// Progress is reported in steps of this many bytes.
const TOLD_EACH: u64 = 1 << 20;

/// A blob at its source.
#[derive(Clone)]
pub(crate) struct Source {
    pub registry: Arc<Registry>,
    pub repository: String,
    pub digest: Digest,
    /// In bytes, according to its descriptor.
    pub size: u64,
}

/// What can be observed of a transfer.
pub(crate) struct Watch {
    /// Since when it is the target's turn: to take what there is, or to answer. `None`: the source's.
    turn: Mutex<Option<Instant>>,
    bytes: AtomicU64,
    /// Bytes not reported yet.
    untold: AtomicU64,
    id: String,
    events: UnboundedSender<MirrorEvent>,
    /// Why the source ended it: the target only sees the connection cut.
    failed: Mutex<Option<Error>>,
}

impl Watch {
    pub fn new(id: String, events: UnboundedSender<MirrorEvent>) -> Self {
        Self { turn: Mutex::default(), bytes: 0.into(), untold: 0.into(), id, events, failed: Mutex::default() }
    }

    fn count(&self, bytes: u64, last: bool) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let untold = self.untold.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if last || untold >= TOLD_EACH {
            self.untold.store(0, Ordering::Relaxed);
            // Nobody listens any more once the copy has ended.
            let _ = self.events.send(MirrorEvent::Moved { id: self.id.clone(), bytes: untold });
        }
    }

    /// How many bytes were reported.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed) - self.untold.load(Ordering::Relaxed)
    }

    fn turn(&self) -> MutexGuard<'_, Option<Instant>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn targets_turn(&self) {
        *self.turn() = Some(Instant::now());
    }

    /// The source has waits and a limit of its own, which the target is not to be blamed for.
    fn sources_turn(&self) {
        *self.turn() = None;
    }

    /// Returns when the target has made no progress for this long, although it was its turn.
    pub async fn stalled(&self, limit: Duration) {
        loop {
            let rest = self.turn().map_or(limit, |since| limit.saturating_sub(since.elapsed()));
            if rest.is_zero() {
                return;
            }
            tokio::time::sleep(rest).await;
        }
    }

    pub fn failure(&self) -> Option<Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, error: Error) -> Error {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error).clone()
    }
}

struct Reading {
    source: Source,
    watch: Arc<Watch>,
    body: Incoming,
    hash: Sha256,
    /// The bytes already passed on.
    offset: u64,
    /// Bytes to skip because the registry does not support ranges and sends them again.
    skip: u64,
    /// Consecutive cuts without a single byte in between.
    cuts: u32,
    ended: bool,
}

impl Source {
    /// A blob that a manifest of this repository describes.
    pub fn of(blob: &Descriptor, registry: &Arc<Registry>, repository: &str) -> Self {
        Self {
            registry: registry.clone(),
            repository: repository.to_owned(),
            digest: blob.digest.clone(),
            size: blob.size,
        }
    }

    fn url(&self) -> String {
        self.registry.address.url(&self.repository, &format!("blobs/{}", self.digest))
    }

    async fn get(&self, offset: u64) -> Result<Response<Incoming>, Error> {
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(header::RANGE, range);
        }
        let scope = self.registry.pull(&self.repository);
        let url = self.url();
        let call = Call {
            method: Method::GET,
            url: &url,
            headers,
            body: Bytes::new(),
            scope: Some(&scope),
            need: Need::Required,
        };
        let response = self.registry.send(call).await?;
        match response.status() {
            StatusCode::OK => {
                let length =
                    response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
                if length.is_some_and(|length: u64| length != self.size) {
                    let reason =
                        format!("is {} bytes long, and its descriptor says {}", length.unwrap_or_default(), self.size);
                    return Err(self.registry.address.error(Kind::Invalid, &url, &reason));
                }
                Ok(response)
            }
            StatusCode::PARTIAL_CONTENT if offset > 0 => {
                let range = response
                    .headers()
                    .get(header::CONTENT_RANGE)
                    .and_then(|value| value.to_str().ok())
                    .unwrap_or_default();
                if !range.starts_with(&format!("bytes {offset}-")) {
                    let reason = format!("was asked for the bytes from {offset}, but returns {range:?}");
                    return Err(self.registry.address.error(Kind::Protocol, &url, &reason).passing());
                }
                Ok(response)
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Err(self.registry.refused(&url, response).await.passing()),
            _ => Err(self.registry.refused(&url, response).await),
        }
    }

    /// Its bytes. The last ones are passed on only if the digest matches, so that wrong content is
    /// never complete anywhere.
    pub async fn open(self, watch: Arc<Watch>) -> Result<Body, Error> {
        let body = self.get(0).await?.into_body();
        let reading =
            Reading { source: self, watch, body, hash: Sha256::new(), offset: 0, skip: 0, cuts: 0, ended: false };
        let stream = futures_util::stream::unfold(reading, async |mut reading| {
            if reading.ended {
                return None;
            }
            reading.watch.sources_turn();
            let item = reading.next().await.map_err(|error| {
                reading.ended = true;
                reading.watch.fail(error)
            });
            reading.watch.targets_turn();
            match item {
                Ok(None) => None,
                Ok(Some(bytes)) => Some((Ok(Frame::data(bytes)), reading)),
                Err(error) => Some((Err(error), reading)),
            }
        });
        Ok(StreamBody::new(stream).boxed_unsync())
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.offset == self.source.size {
                return Ok(None);
            }
            let stall = self.source.registry.retry.stall;
            let frame = tokio::time::timeout(stall, self.body.frame()).await;
            let reason = match frame {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => match self.take(bytes)? {
                        Some(bytes) => return Ok(Some(bytes)),
                        None => continue,
                    },
                    Err(_) => continue,
                },
                Ok(Some(Err(error))) => error.to_string(),
                Ok(None) => "it ended early".to_owned(),
                Err(_) => format!("no data for {} s", stall.as_secs()),
            };
            self.go_on(&reason).await?;
        }
    }

    fn take(&mut self, mut bytes: Bytes) -> Result<Option<Bytes>, Error> {
        let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= known as u64;
        let _ = bytes.split_to(known);
        if bytes.is_empty() {
            return Ok(None);
        }
        self.hash.update(&bytes);
        self.offset += bytes.len() as u64;
        self.cuts = 0;
        let invalid =
            |reason: String| self.source.registry.address.error(Kind::Invalid, &self.source.url(), &reason).passing();
        if self.offset > self.source.size {
            return Err(invalid(format!("is longer than the {} bytes that its descriptor says", self.source.size)));
        }
        if self.offset == self.source.size {
            let found = Digest::of_hash(std::mem::take(&mut self.hash));
            if found != self.source.digest {
                return Err(invalid(format!("its bytes have the digest {found}")));
            }
        }
        self.watch.count(bytes.len() as u64, self.offset == self.source.size);
        Ok(Some(bytes))
    }

    /// After a cut: requests the rest by range, from wherever the registry stores it now.
    async fn go_on(&mut self, reason: &str) -> Result<(), Error> {
        let (registry, url) = (&self.source.registry, self.source.url());
        let reason = format!("cut after {} of {} bytes: {reason}", self.offset, self.source.size);
        let error = registry.address.error(Kind::Unreachable, &url, &reason);
        registry.again(Outcome::Nothing { known: true }, &mut self.cuts, error, Need::Required).await?;
        let response = self.source.get(self.offset).await?;
        self.skip = if response.status() == StatusCode::OK { self.offset } else { 0 };
        self.body = response.into_body();
        Ok(())
    }
}
