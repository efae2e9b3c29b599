//! The watches of one run: pods and events of a namespace, and whether the API answers
//! at all. Each goes on for as long as the run does, opened again where it was cut and
//! begun anew where the API server has forgotten its place (410 Gone, as an answer or
//! as an event of the watch), never in a loop without a pause.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Client;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};

pub enum Seen {
    Pod(Box<Pod>),
    Gone(String),
    Event(Box<Event>),
    /// The API does not answer any more, and why; or does again.
    Silent(Option<String>),
    /// A watch is refused: what, and the answer.
    Refused(String, String),
}

pub type News = tokio::sync::mpsc::UnboundedSender<Seen>;

/// How often the API is asked whether it is there, and how long it may take: a
/// server that hangs says nothing on the watches, as one that has nothing to tell.
const HEARTBEAT: Duration = Duration::from_secs(1);
const HEARTBEAT_WITHIN: Duration = Duration::from_secs(2);

pub async fn heartbeat(client: &Client, to: News) {
    let mut silent = false;
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let answer = tokio::time::timeout(HEARTBEAT_WITHIN, crate::kubernetes::answers(client)).await;
        let reason = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", HEARTBEAT_WITHIN.as_secs()))).err();
        if reason.is_some() != silent {
            silent = reason.is_some();
            drop(to.send(Seen::Silent(reason)));
        }
    }
}

/// How long after a watch was cut it is opened again: doubling while it brings nothing.
struct Pause(Duration);

impl Pause {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(10);
    /// A watch that stood so long was a good one, and closed for its age.
    const GOOD: Duration = Duration::from_secs(5);

    fn new() -> Self {
        Self(Self::FIRST)
    }

    async fn rest(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Self::LONGEST);
    }

    fn worked(&mut self, since: Instant, brought: bool) {
        if brought || since.elapsed() >= Self::GOOD {
            self.0 = Self::FIRST;
        }
    }
}

/// Tells once that something may not be watched; whether the error is such a refusal.
fn refused(error: &kube::Error, what: &str, told: &mut bool, to: &News) {
    if let kube::Error::Api(status) = error
        && matches!(status.code, 401 | 403)
        && !std::mem::replace(told, true)
    {
        drop(to.send(Seen::Refused(what.to_owned(), status.message.clone())));
    }
}

/// Whether the API server has forgotten the version that a watch was to begin at.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410 || status.reason == "Expired")
}

/// Pods from `version` on; listed where there is none.
pub async fn pods(api: Api<Pod>, namespace: &str, mut version: String, to: News) {
    let what = format!("pods in {namespace}");
    let (mut pause, mut told) = (Pause::new(), false);
    loop {
        let since = Instant::now();
        let mut brought = false;
        if version.is_empty() {
            match api.list(&ListParams::default()).await {
                Ok(list) => {
                    version = list.metadata.resource_version.unwrap_or_default();
                    list.items.into_iter().for_each(|pod| drop(to.send(Seen::Pod(Box::new(pod)))));
                }
                Err(error) => refused(&error, &what, &mut told, &to),
            }
        }
        if !version.is_empty() {
            match api.watch(&WatchParams::default(), &version).await {
                Ok(stream) => {
                    let mut stream = std::pin::pin!(stream);
                    while let Some(Ok(event)) = stream.next().await {
                        match event {
                            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                                brought = true;
                                follow(&mut version, pod.metadata.resource_version.as_deref());
                                drop(to.send(Seen::Pod(Box::new(pod))));
                            }
                            WatchEvent::Deleted(pod) => {
                                brought = true;
                                follow(&mut version, pod.metadata.resource_version.as_deref());
                                drop(to.send(Seen::Gone(pod.metadata.uid.unwrap_or_default())));
                            }
                            WatchEvent::Bookmark(mark) => follow(&mut version, Some(&mark.metadata.resource_version)),
                            WatchEvent::Error(_) => {
                                version.clear();
                                break;
                            }
                        }
                    }
                }
                Err(error) if is_gone(&error) => version.clear(),
                Err(error) => refused(&error, &what, &mut told, &to),
            }
        }
        pause.worked(since, brought);
        pause.rest().await;
    }
}

/// Events from `version` on; from now on where there is none: pods tell what was missed.
pub async fn events(api: Api<Event>, namespace: &str, mut version: String, to: News) {
    let what = format!("events in {namespace}");
    let (mut pause, mut told) = (Pause::new(), false);
    loop {
        let since = Instant::now();
        let mut brought = false;
        if version.is_empty() {
            match api.list_metadata(&ListParams::default().limit(1)).await {
                Ok(list) => version = list.metadata.resource_version.unwrap_or_default(),
                Err(error) => refused(&error, &what, &mut told, &to),
            }
        }
        if !version.is_empty() {
            match api.watch(&WatchParams::default(), &version).await {
                Ok(stream) => {
                    let mut stream = std::pin::pin!(stream);
                    while let Some(Ok(event)) = stream.next().await {
                        match event {
                            WatchEvent::Added(event) | WatchEvent::Modified(event) => {
                                brought = true;
                                follow(&mut version, event.metadata.resource_version.as_deref());
                                drop(to.send(Seen::Event(Box::new(event))));
                            }
                            WatchEvent::Deleted(event) => {
                                follow(&mut version, event.metadata.resource_version.as_deref())
                            }
                            WatchEvent::Bookmark(mark) => follow(&mut version, Some(&mark.metadata.resource_version)),
                            WatchEvent::Error(_) => {
                                version.clear();
                                break;
                            }
                        }
                    }
                }
                Err(error) if is_gone(&error) => version.clear(),
                Err(error) => refused(&error, &what, &mut told, &to),
            }
        }
        pause.worked(since, brought);
        pause.rest().await;
    }
}

fn follow(version: &mut String, seen: Option<&str>) {
    if let Some(seen) = seen.filter(|seen| !seen.is_empty()) {
        seen.clone_into(version);
    }
}
