//! The logs of pods: one container after the other, or all at once as they are written, each line
//! with its source, and safe to print.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, LogParams};
use run_record::{Code, Failure};
use tokio::sync::{mpsc, watch};

use crate::diagnosis::belongings::{Belongings, Whose};
use crate::diagnosis::watches::{self, Seen};
use crate::run::Run;
use crate::run::{foreign, printer, reporter};
use crate::world::helm_storage::{Revision, Stored};
use crate::world::kubernetes::{self, read_failed};
use crate::world::pod_log::{self, Container, Standing, Taken};
use crate::world::release::Release;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// In the user's words.
    pub what: String,
    pub follow: bool,
    /// The number of last lines of each container.
    pub tail: Option<u32>,
    /// The previous instance of each container.
    pub previous: bool,
    pub since: Option<Duration>,
    /// Only containers of this name.
    pub container: Option<String>,
}

/// Reports which of these releases are not installed.
///
/// # Errors
/// `usage` if none is.
pub fn require_installed(
    run: &Run,
    what: &str,
    releases: &[Release],
    stored: &[(Revision, Stored)],
) -> Result<(), Failure> {
    for release in releases {
        let is_it = |found: &Revision| found.release == release.name && found.namespace == release.namespace;
        if !stored.iter().any(|(revision, _)| is_it(revision)) {
            run.reporter.note(&release.name, format!("not installed in {}", release.namespace));
        }
    }
    if !stored.is_empty() {
        return Ok(());
    }
    let failure = Failure::usage(format!("{what}: none of its releases is installed"));
    Err(failure.remedy(format!("cargo xtask layer {what}")))
}

/// How many bytes may wait for a slow reader before no more is read from the cluster.
const BEHIND: usize = 1 << 20;

/// The pause before a broken connection is reopened: doubling while that brings nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Asked {
    fn wants(&self, container: &Container) -> bool {
        self.container.as_ref().is_none_or(|name| *name == container.name)
    }

    fn parameters(&self) -> LogParams {
        LogParams {
            follow: self.follow,
            previous: self.previous,
            tail_lines: self.tail.map(i64::from),
            // At least one second: 0 would be refused.
            since_seconds: self.since.map(|since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX).max(1)),
            ..LogParams::default()
        }
    }
}

/// Where lines are printed.
struct Lines<'a> {
    run: &'a Run,
    /// Whether each line is prefixed with its source.
    prefixed: Cell<bool>,
    /// The reader of the output is gone.
    unheard: Cell<bool>,
    on_github: bool,
}

impl<'a> Lines<'a> {
    fn new(run: &'a Run) -> Self {
        let on_github = reporter::on_github();
        // GitHub's runner obeys a line that begins with `::`; prefixed with its source, no line
        // does.
        Self { run, prefixed: Cell::new(on_github), unheard: Cell::new(false), on_github }
    }

    /// Prints a line; returns whether anybody still reads.
    async fn print(&self, container: &Container, line: &str) -> bool {
        self.run.reporter.data(&shown(container, line, self.prefixed.get(), self.run.json, self.on_github));
        loop {
            match printer::data_behind() {
                None => {
                    self.unheard.set(true);
                    return false;
                }
                Some(behind) if behind > BEHIND => tokio::time::sleep(Duration::from_millis(10)).await,
                Some(_) => return true,
            }
        }
    }
}

/// A container's line, safe to print and without what looks like a secret.
fn shown(container: &Container, line: &str, prefixed: bool, json: bool, on_github: bool) -> String {
    let safe = foreign::masked(&foreign::lines(line)).into_owned();
    if json {
        let Container { namespace, pod, name, .. } = container;
        return serde_json::json!({"namespace": namespace, "pod": pod, "container": name, "line": safe}).to_string();
    }
    // The runner recognises this command anywhere in a line.
    let safe = if on_github { safe.replace("##[", "##\u{200b}[") } else { safe };
    if prefixed { format!("{}/{} {safe}", container.pod, container.name) } else { safe }
}

/// Prints what exists so far, one container after the other.
///
/// # Errors
/// `usage` if there is nothing to show; errors from reading the cluster.
pub async fn show(run: &Run, client: &Client, asked: &Asked, belongings: &Belongings<'_>) -> Result<(), Failure> {
    let (lines, found, what) = (Lines::new(run), belongings.pods().await?, &asked.what);
    found.unclear.iter().for_each(|why| run.reporter.warn("logs", why));
    if found.pods.is_empty() && !found.unclear.is_empty() {
        return Err(Failure::new(Code::Forbidden, format!("{what}: cannot tell whether it has pods"))
            .evidence(found.unclear.join("; ")));
    }
    let chosen = chosen(asked, &found.pods)?;
    let mut logs = Vec::new();
    for (pod, container) in &chosen {
        match pod_log::standing(pod, container) {
            Standing::NotStarted(why) => {
                run.reporter.note(&container.pod, format!("{} has not started: {why}", container.name));
            }
            _ if asked.previous && !pod_log::has_previous(pod, container) => {}
            _ => logs.push(container),
        }
    }
    if logs.is_empty() {
        let why =
            if asked.previous { "no container of it was started before" } else { "no container of it has started" };
        let follow = if asked.previous { "" } else { " --follow   # waits for one" };
        return Err(Failure::usage(format!("{what}: {why}")).remedy(format!("cargo xtask logs {what}{follow}")));
    }
    if logs.len() > 1 {
        lines.prefixed.set(true);
    }
    let mut failed: Option<Failure> = None;
    for container in logs {
        let print = async |line: &str| lines.print(container, line).await;
        let read = pod_log::read(client, container, &asked.parameters(), &mut Taken::default(), print).await;
        if lines.unheard.get() {
            return Ok(());
        }
        if let Err(error) = read {
            let failure = read_failed(&log_of(container), error);
            // One that cannot be read does not keep the others from being printed.
            failed = failed.into_iter().chain([failure]).reduce(Failure::also);
        }
    }
    failed.map_or(Ok(()), Err)
}

fn log_of(container: &Container) -> String {
    format!("the log of {}/{} {}", container.namespace, container.pod, container.name)
}

/// The requested containers, in order, each with its pod.
fn chosen<'a>(asked: &Asked, pods: &'a [Pod]) -> Result<Vec<(&'a Pod, Container)>, Failure> {
    let what = &asked.what;
    if pods.is_empty() {
        return Err(Failure::usage(format!("{what}: it has no pods"))
            .remedy(format!("cargo xtask logs {what} --follow   # waits for one")));
    }
    let mut all: Vec<(&Pod, Container)> =
        pods.iter().flat_map(|pod| pod_log::containers(pod).into_iter().map(move |one| (pod, one))).collect();
    all.sort_by(|(_, a), (_, b)| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
    let names: BTreeSet<String> = all.iter().map(|(_, container)| container.name.clone()).collect();
    all.retain(|(_, container)| asked.wants(container));
    match &asked.container {
        Some(name) if all.is_empty() => {
            let names: Vec<String> = names.into_iter().collect();
            Err(Failure::usage(format!("{what}: no container {name:?}: expected one of {}", names.join(", "))))
        }
        _ => Ok(all),
    }
}

/// A pod's current state; `None` when it is gone.
type Pods = watch::Receiver<Option<Pod>>;

type Following<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

/// Follows all containers at once, and those of pods that come later.
///
/// # Errors
/// Errors from the first look; that a log may not be read.
pub async fn follow(run: &Run, client: &Client, asked: &Asked, belongings: &Belongings<'_>) -> Result<(), Failure> {
    let (lines, found) = (Lines::new(run), belongings.pods().await?);
    found.unclear.iter().for_each(|why| run.reporter.warn("logs", why));
    // If nothing has come yet, a reconnect asks for nothing from before this time.
    let now = kubernetes::server_time(client).await?;
    let mut unclear: BTreeSet<String> = found.unclear.into_iter().collect();
    let (to, mut news) = mpsc::unbounded_channel();
    let watches = found.versions.into_iter().map(|(namespace, version)| {
        let api = Api::<Pod>::namespaced(client.clone(), &namespace);
        let to = to.clone();
        async move { watches::pods(api, &namespace, version, to).await }
    });
    let watching = futures_util::future::join_all(watches);
    if found.pods.is_empty() {
        run.reporter.waiting("logs", "it has no pods yet");
    }
    let known: RefCell<BTreeMap<String, watch::Sender<Option<Pod>>>> = RefCell::default();
    let mut following: FuturesUnordered<Following<'_>> = FuturesUnordered::new();
    let count = Cell::new(0);
    // The containers to follow from now on; for a known pod none, but its new state is passed on.
    let begin = |pod: Pod, early: bool| -> Vec<Following<'_>> {
        let Some(uid) = pod.metadata.uid.clone() else { return Vec::new() };
        let mut known = known.borrow_mut();
        if let Some(sender) = known.get(&uid) {
            sender.send_replace(Some(pod));
            return Vec::new();
        }
        let mut containers = pod_log::containers(&pod);
        containers.retain(|container| asked.wants(container));
        let (sender, receiver) = watch::channel(Some(pod));
        known.insert(uid, sender);
        count.set(count.get() + containers.len());
        lines.prefixed.set(lines.prefixed.get() || count.get() > 1);
        let one = |container| -> Following<'_> {
            let first = if early { asked.parameters() } else { LogParams { follow: true, ..LogParams::default() } };
            Box::pin(follow_one(run, client, container, receiver.clone(), first, now, &lines))
        };
        containers.into_iter().map(one).collect()
    };
    following.extend(found.pods.into_iter().flat_map(|pod| begin(pod, true)));
    tokio::pin!(watching);
    loop {
        tokio::select! {
            _ = &mut watching => {}
            Some(ended) = following.next() => {
                ended?;
                if lines.unheard.get() {
                    return Ok(());
                }
            }
            Some(seen) = news.recv() => match seen {
                Seen::Pod(pod) => match belongings.has(&pod).await {
                    Ok(Whose::Theirs) => following.extend(begin(*pod, false)),
                    // Each is reported once, though a pod changes often; after an error, the next
                    // change tries again.
                    whose => {
                        let why = match whose {
                            Ok(Whose::Unknown(why)) => why,
                            Err(failure) => failure.to_string(),
                            Ok(_) => continue,
                        };
                        if unclear.insert(why.clone()) {
                            run.reporter.warn("logs", why);
                        }
                    }
                },
                Seen::Gone(uid) => {
                    if let Some(sender) = known.borrow_mut().remove(&uid) {
                        sender.send_replace(None);
                    }
                }
                Seen::Refused(what, why) => {
                    let text = format!("pods that start later are not followed: {what} may not be watched: {why}");
                    run.reporter.warn("logs", text);
                }
                Seen::Event(_) | Seen::Silent(_) => {}
            },
        }
    }
}

/// Follows one container through its restarts, until its pod is gone or will not start it again.
async fn follow_one(
    run: &Run,
    client: &Client,
    container: Container,
    mut pods: Pods,
    first: LogParams,
    begun: Timestamp,
    lines: &Lines<'_>,
) -> Result<(), Failure> {
    let (mut taken, mut parameters) = (Taken::default(), first);
    let (mut pause, mut told, mut read_through) = (FIRST_PAUSE, false, None);
    loop {
        let Some(pod) = pods.borrow_and_update().clone() else { return Ok(()) };
        let standing = pod_log::standing(&pod, &container);
        let waits = match &standing {
            Standing::NotStarted(_) => true,
            Standing::Runs => false,
            Standing::Ended(instance) => {
                if read_through == Some(*instance) && (container.init || pod_log::is_over(&pod)) {
                    return Ok(());
                }
                read_through == Some(*instance)
            }
        };
        if waits {
            // The sender is only dropped together with everything here.
            if pods.changed().await.is_err() {
                return Ok(());
            }
            continue;
        }
        let mut brought = false;
        let print = async |line: &str| {
            brought = true;
            lines.print(&container, line).await
        };
        let read = pod_log::read(client, &container, &parameters, &mut taken, print).await;
        if lines.unheard.get() {
            return Ok(());
        }
        match read {
            Ok(()) => {
                told = false;
                if let Standing::Ended(instance) = standing {
                    read_through = Some(instance);
                }
                // These options only apply to the first request.
                parameters.tail_lines = None;
                parameters.since_seconds = None;
                parameters.since_time = Some(taken.since().unwrap_or(begun));
            }
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            // The kubelet has not started it yet although the pod says so, or the other way round.
            Err(kube::Error::Api(status)) if status.code == 400 => {}
            Err(error @ kube::Error::Api(_)) if kubernetes::is_forbidden(&error) => {
                return Err(read_failed(&log_of(&container), error));
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    let text = format!("{}: {}: retrying", container.name, kubernetes::in_words(&error));
                    run.reporter.waiting(&container.pod, text);
                }
            }
        }
        if brought {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(container: Option<&str>) -> Asked {
        Asked {
            what: "45".to_owned(),
            follow: false,
            tail: None,
            previous: false,
            since: None,
            container: container.map(str::to_owned),
        }
    }

    fn pod(namespace: &str, name: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"initContainers": [{"name": "wait"}], "containers": [{"name": "main"}]},
        }))
        .unwrap()
    }

    #[test]
    fn containers_come_pod_by_pod_in_the_order_in_which_they_start() {
        let pods = [pod("shop", "web-1"), pod("shop", "web-0"), pod("data", "web-2")];
        let names = |asked: &Asked| -> Vec<String> {
            let chosen = chosen(asked, &pods).unwrap().into_iter();
            chosen.map(|(_, container)| format!("{}/{}", container.pod, container.name)).collect()
        };
        let all = ["web-2/wait", "web-2/main", "web-0/wait", "web-0/main", "web-1/wait", "web-1/main"];
        assert_eq!(names(&asked(None)), all);
        assert_eq!(names(&asked(Some("main"))), ["web-2/main", "web-0/main", "web-1/main"]);
        let none = chosen(&asked(Some("sidecar")), &pods).unwrap_err();
        assert!(none.message.contains("main, wait"), "{none}");
        assert!(chosen(&asked(None), &[]).unwrap_err().message.contains("it has no pods"));
    }

    #[test]
    fn a_line_is_harmless_whatever_a_container_prints() {
        let container = pod_log::containers(&pod("shop", "web-0")).remove(1);
        let evil = "\u{1b}[31m::add-mask::x ##[error] https://me:s3cret@db/ \u{202e}";
        let plain = shown(&container, evil, true, false, true);
        assert!(plain.starts_with("web-0/main ::add-mask::x "), "{plain}");
        for text in [&plain, &shown(&container, evil, false, true, true)] {
            assert!(!text.contains("s3cret") && !text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
        }
        assert!(!plain.contains("##["), "{plain}");
        let json: serde_json::Value =
            serde_json::from_str(&shown(&container, "a \"b\"\tc", true, true, false)).unwrap();
        assert_eq!(json, json!({"namespace": "shop", "pod": "web-0", "container": "main", "line": "a \"b\"\tc"}));
        assert_eq!(shown(&container, "a", false, false, false), "a");
    }

    #[test]
    fn what_is_asked_of_the_api_is_what_was_asked_for() {
        let asked = Asked { tail: Some(0), since: Some(Duration::ZERO), ..asked(None) };
        let parameters = asked.parameters();
        assert_eq!((parameters.tail_lines, parameters.since_seconds), (Some(0), Some(1)));
    }
}
