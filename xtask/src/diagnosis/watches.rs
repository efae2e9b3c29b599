//! The watches of one run: pods and events of a namespace, and whether the API answers at all. Each
//! goes on as long as the run does, is reopened after it was cut and restarted if the API server
//! has forgotten its version (410 Gone, as an answer or as an event of the watch), and never loops
//! without a pause.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, WatchEvent, WatchParams};

use crate::world::kubernetes;

pub enum Seen {
    Pod(Box<Pod>),
    Gone(String),
    Event(Box<Event>),
    /// The API no longer answers, and why; or it answers again.
    Silent(Option<String>),
    /// A watch is refused: what was watched, and the answer.
    Refused(String, String),
}

pub type News = tokio::sync::mpsc::UnboundedSender<Seen>;

/// How often the API is checked, and how long an answer may take: on the watches, a server that
/// hangs looks like one that has nothing to report.
const HEARTBEAT: Duration = Duration::from_secs(1);
const HEARTBEAT_WITHIN: Duration = Duration::from_secs(2);

pub async fn heartbeat(client: &Client, to: News) {
    let mut silent = false;
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let answer = tokio::time::timeout(HEARTBEAT_WITHIN, kubernetes::answers(client)).await;
        let reason = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", HEARTBEAT_WITHIN.as_secs()))).err();
        if reason.is_some() != silent {
            silent = reason.is_some();
            drop(to.send(Seen::Silent(reason)));
        }
    }
}

/// How long to wait before a watch is reopened: doubling while it brings nothing.
struct Pause(Duration);

impl Pause {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(10);
    /// A watch that stayed open this long worked, and was closed for its age.
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

/// Reports once that something may not be watched; returns whether the error is such a refusal.
fn refused(error: &kube::Error, what: &str, told: &mut bool, to: &News) {
    if let kube::Error::Api(status) = error
        && matches!(status.code, 401 | 403)
        && !std::mem::replace(told, true)
    {
        drop(to.send(Seen::Refused(what.to_owned(), status.message.clone())));
    }
}

/// Whether the API server has forgotten the version that a watch was to start from.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410 || status.reason == "Expired")
}

/// Pods from `version` on; lists them first if it is empty.
pub async fn pods(api: Api<Pod>, namespace: &str, mut version: String, to: News) {
    let what = format!("pods in {namespace}");
    let untyped = kubernetes::untyped::<Pod>(api.clone().into_client(), namespace);
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
            let news = |pod: Pod, deleted| {
                Some(match deleted {
                    true => Seen::Gone(pod.metadata.uid.unwrap_or_default()),
                    false => Seen::Pod(Box::new(pod)),
                })
            };
            match watched(&untyped, &mut version, &to, news).await {
                Ok(any) => brought = any,
                Err(error) => refused(&error, &what, &mut told, &to),
            }
        }
        pause.worked(since, brought);
        pause.rest().await;
    }
}

/// Events from `version` on; from now on if it is empty, because pods show what was missed.
pub async fn events(api: Api<Event>, namespace: &str, mut version: String, to: News) {
    let what = format!("events in {namespace}");
    let untyped = kubernetes::untyped::<Event>(api.clone().into_client(), namespace);
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
            let news = |event, deleted: bool| (!deleted).then(|| Seen::Event(Box::new(event)));
            match watched(&untyped, &mut version, &to, news).await {
                Ok(any) => brought = any,
                Err(error) => refused(&error, &what, &mut told, &to),
            }
        }
        pause.worked(since, brought);
        pause.rest().await;
    }
}

/// One watch from `version` on, until it is cut or its version is forgotten (then `version` is
/// empty). `news` turns an object, and whether it was deleted, into what is reported. Returns
/// whether there was any.
///
/// The watch carries objects of no type, and each is read from its text as those of a list are: an
/// event with a type would have the compiler generate the reading of a whole pod once more, because
/// serde reads what is inside an event by other functions.
async fn watched<K>(
    api: &Api<DynamicObject>,
    version: &mut String,
    to: &News,
    news: impl Fn(K, bool) -> Option<Seen>,
) -> Result<bool, kube::Error>
where
    K: serde::de::DeserializeOwned,
{
    let mut stream = match api.watch(&WatchParams::default(), version).await {
        Ok(stream) => std::pin::pin!(stream),
        Err(error) if is_gone(&error) => {
            version.clear();
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let mut brought = false;
    while let Some(Ok(event)) = stream.next().await {
        let (object, deleted) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            WatchEvent::Bookmark(mark) => {
                follow(version, Some(&mark.metadata.resource_version));
                continue;
            }
            WatchEvent::Error(_) => {
                version.clear();
                break;
            }
        };
        follow(version, object.metadata.resource_version.as_deref());
        let Ok(object) = serde_json::to_string(&object).and_then(|text| serde_json::from_str(&text)) else { break };
        if let Some(seen) = news(object, deleted) {
            brought = true;
            drop(to.send(seen));
        }
    }
    Ok(brought)
}

fn follow(version: &mut String, seen: Option<&str>) {
    if let Some(seen) = seen.filter(|seen| !seen.is_empty()) {
        seen.clone_into(version);
    }
}
