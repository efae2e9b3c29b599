//! The diagnosis against a simulated API server, over HTTP on loopback.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::repo::Repo;
use crate::run::Run;
use crate::run::context::Site;
use crate::run::reporter::{Format, Reporter};
use crate::stand_in;
use run_record::Code;

/// The API server's answer to one request.
enum Answer {
    Json(u16, Value),
    /// A container's log.
    Text(&'static str),
    /// The lines of a watch, which is then held open, or closed.
    Watch(Vec<Value>, Held),
}

enum Held {
    Open,
    Closed,
}

struct Server(stand_in::Server);

impl Server {
    /// `answer` gets method, path, and how many times the same request came before.
    fn start(answer: impl Fn(&str, &str, usize) -> Answer + Send + Sync + 'static) -> Self {
        let lines = |lines: Vec<Value>| lines.iter().map(Value::to_string).collect();
        Self(stand_in::Server::start(move |request| match answer(&request.method, &request.target, request.before) {
            Answer::Json(status, json) => stand_in::Answer::json(status, &json),
            Answer::Text(text) => stand_in::Answer::new(200, text),
            Answer::Watch(watched, Held::Open) => stand_in::Answer::Watch(lines(watched)),
            Answer::Watch(watched, Held::Closed) => stand_in::Answer::WatchThatEnds(lines(watched)),
        }))
    }

    fn client(&self) -> Client {
        let mut config = kube::Config::new(self.0.url().parse().unwrap());
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    fn count(&self, method: &str, part: &str) -> usize {
        self.0.count(method, part)
    }
}

fn refusal(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

fn gone() -> Value {
    refusal(410, "Expired", "too old resource version: 7 (9)")
}

fn forbidden(what: &str) -> Answer {
    Answer::Json(403, refusal(403, "Forbidden", &format!("{what} is forbidden: User \"ci\" cannot list resource")))
}

fn not_found() -> Answer {
    Answer::Json(404, refusal(404, "NotFound", "not found"))
}

fn list(kind: &str, items: Vec<Value>) -> Answer {
    Answer::Json(
        200,
        json!({"kind": format!("{kind}List"), "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": items}),
    )
}

/// The default for anything else: empty lists, and watches without events.
fn nothing(path: &str) -> Answer {
    if path.contains("watch=true") {
        return Answer::Watch(Vec::new(), Held::Open);
    }
    if path.starts_with("/version") {
        return Answer::Json(200, json!({"major": "1", "minor": "33"}));
    }
    list("Any", Vec::new())
}

/// A context, with the folder for its files.
fn context() -> (Context, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
    let tree = crate::repo::Tree::discover(Utf8Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let reporter = Arc::new(Reporter::new(Format::Json, false));
    reporter.record_to(path.join("record.jsonl")).unwrap();
    let env = tree.environment("ci").unwrap();
    let context = Context {
        run: Run {
            id: "run".to_owned(),
            state: crate::run::state::StateDir { path: path.clone() },
            dir: path,
            reporter,
            consent: Default::default(),
            dry_run: false,
            json: true,
            lock_timeout: Duration::from_secs(1),
        },
        repo: Repo { tree, env_name: "ci".to_owned(), env },
        site: Site { kube_context: "k3d-test".to_owned(), registry_host: String::new(), inside: None, lab: None },
    };
    (context, folder)
}

fn told(run: &Run) -> String {
    std::fs::read_to_string(run.dir.join("record.jsonl")).unwrap()
}

fn release(name: &str) -> Release {
    Release { name: name.to_owned(), namespace: "shop".to_owned(), enabled: true, installed: true }
}

fn patient(patience: &[(Code, u64)]) -> Budgets {
    Budgets { patience: patience.iter().copied().collect(), ..Budgets::default() }
}

fn pod(name: &str, owner: (&str, &str), status: Value) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": "8",
            "creationTimestamp": "2025-11-25T12:00:00Z",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": owner.0, "name": owner.1, "uid": format!("uid-{}", owner.1), "controller": true}],
        },
        "spec": {"containers": [{"name": "main", "image": "i"}], "nodeName": "n"},
        "status": status,
    })
}

fn labelled(mut pod: Value, release: &str) -> Value {
    pod["metadata"]["labels"] = json!({"app.kubernetes.io/instance": release});
    pod
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{
        "name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}},
    }]})
}

/// An object in the answer to a request for its metadata.
fn metadata(kind: &str, name: &str, release: Option<&str>, owner: Option<(&str, &str)>) -> Answer {
    let annotations =
        release.map(|release| json!({"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": "shop"}));
    let owners: Vec<Value> = owner
        .iter()
        .map(|(kind, name)| json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": format!("uid-{name}"), "controller": true}))
        .collect();
    Answer::Json(
        200,
        json!({
            "kind": kind, "apiVersion": "apps/v1",
            "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "annotations": annotations, "ownerReferences": owners},
        }),
    )
}

const NOT_FOUND: &str = "failed to pull and unpack image \"reg:5000/x:9\": failed to resolve reference \"reg:5000/x:9\": reg:5000/x:9: not found";

fn event(reason: &str, message: &str, kind: &str, name: &str) -> Value {
    json!({"type": "ADDED", "object": {
        "kind": "Event", "apiVersion": "v1", "metadata": {"name": "e", "namespace": "shop", "resourceVersion": "9"},
        "type": "Warning", "reason": reason, "message": message, "source": {"component": "kubelet"},
        "involvedObject": {"apiVersion": "v1", "kind": kind, "name": name, "namespace": "shop", "uid": format!("uid-{name}")},
        "lastTimestamp": "2035-11-25T12:00:00Z",
    }})
}

/// The watch's verdict, if it comes in time.
async fn watched(diagnosis: &Diagnosis<'_>, budgets: &Budgets, within: Duration) -> Option<Failure> {
    let mut spent = Spent::default();
    tokio::time::timeout(within, diagnosis.watch(budgets, &mut spent)).await.ok()
}

/// On a separate thread: work that never yields would block any timer of its runtime.
fn ends_by_itself<F: Future<Output = ()>>(what: &str, work: impl FnOnce() -> F + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work());
        done.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("it spins: {what}"));
}

#[test]
fn a_run_with_nothing_to_watch_waits_and_does_not_spin() {
    let none = Release { installed: false, ..release("web") };
    let no_namespace = Release { namespace: String::new(), ..release("web") };
    for (what, wanted, allowed) in [
        ("nothing is installed", vec![none], true),
        ("no release at all", vec![], true),
        ("no namespace", vec![no_namespace], true),
        ("nothing may be watched", vec![release("web")], false),
    ] {
        ends_by_itself(what, move || async move {
            let server = Server::start(move |_, path, _| {
                if !allowed && (path.contains("/pods") || path.contains("/events")) {
                    return forbidden("it");
                }
                nothing(path)
            });
            let ((context, _folder), client) = (context(), server.client());
            let budgets = Budgets::default();
            let log = context.run.log("x");
            let diagnosis = Diagnosis::begin(&context, &client, "45-x", &wanted, &budgets, &log).await;
            assert!(watched(&diagnosis, &budgets, Duration::from_millis(1500)).await.is_none(), "{what}");
            if !allowed {
                let told = told(&context.run);
                assert!(told.contains("pods in shop cannot be watched") && told.contains("events in shop"), "{told}");
                assert_eq!(server.count("GET", "watch=true"), 0);
            }
            if what == "no namespace" {
                assert!(server.count("GET", "/namespaces/default/pods") > 0);
            }
        });
    }
}

#[tokio::test]
async fn who_may_not_see_events_still_sees_pods() {
    let server = Server::start(|_, path, _| match path {
        _ if path.contains("/events") => forbidden("events"),
        _ if path.contains("/pods") && path.contains("watch=true") => {
            let pod = labelled(pod("web-1", ("ReplicaSet", "web"), waiting("ErrImagePull", NOT_FOUND)), "web");
            Answer::Watch(vec![json!({"type": "ADDED", "object": pod})], Held::Open)
        }
        _ => nothing(path),
    });
    let ((context, _folder), client, budgets) = (context(), server.client(), Budgets::default());
    let diagnosis =
        Diagnosis::begin(&context, &client, "45-x", &[release("web")], &budgets, &context.run.log("x")).await;
    assert!(watched(&diagnosis, &budgets, Duration::from_secs(2)).await.is_none(), "seen once ends nothing");
    let told = told(&context.run);
    assert!(told.contains("events in shop cannot be watched"), "{told}");
    let record = run_record::readers::json::read(&told);
    let blocked = record.lines.iter().find_map(|line| match &line.event {
        run_record::Event::Blocked(blocked) => Some(blocked),
        _ => None,
    });
    let blocked = blocked.unwrap_or_else(|| panic!("{told}"));
    assert_eq!((blocked.code, blocked.prospect), (Code::ImageNotFound, Some(Prospect::EndsTheRunIfSeenAgain)));
    assert_eq!((blocked.layer.as_deref(), blocked.release.as_deref()), (Some("45-x"), Some("web")));
}

#[tokio::test]
async fn a_watch_that_is_cut_or_forgotten_is_begun_anew_and_never_in_a_busy_loop() {
    let cases = [
        ("gone as an event", true),
        ("gone as an answer", true),
        ("closed", false),
        ("refused", false),
        ("bookmark", false),
    ].map(|(what, listed_again)| async move {
        let server = Server::start(move |_, path, before| {
            if !(path.contains("/pods") && path.contains("watch=true")) {
                return nothing(path);
            }
            let mark = json!({"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "99"}}});
            match what {
                "gone as an event" if before == 0 => {
                    Answer::Watch(vec![json!({"type": "ERROR", "object": gone()})], Held::Closed)
                }
                "gone as an answer" if before == 0 => Answer::Json(410, gone()),
                "closed" => Answer::Watch(Vec::new(), Held::Closed),
                "refused" => forbidden("pods"),
                "bookmark" if path.contains("resourceVersion=7") => Answer::Watch(vec![mark], Held::Closed),
                _ => Answer::Watch(Vec::new(), Held::Open),
            }
        });
        let ((context, _folder), client, budgets) = (context(), server.client(), Budgets::default());
        let diagnosis =
            Diagnosis::begin(&context, &client, "45-x", &[release("web")], &budgets, &context.run.log("x")).await;
        assert!(watched(&diagnosis, &budgets, Duration::from_secs(4)).await.is_none(), "{what}");
        let lists = |watched: bool| {
            let asked = server.0.seen().into_iter();
            asked.filter(|seen| seen.path().contains("/pods") && seen.target.contains("watch=true") == watched).count()
        };
        let watches = lists(true);
        // 0.5 s, 1 s, 2 s: the pause doubles.
        assert!((2..=5).contains(&watches), "{what}: {watches} watches in 4 s");
        let relisted = lists(false);
        assert_eq!(relisted > 1, listed_again, "{what}: {relisted} lists");
        if what == "refused" {
            assert!(told(&context.run).matches("pods in shop cannot be watched").count() == 1, "told once");
        }
        if what == "bookmark" {
            assert!(server.count("GET", "resourceVersion=99") > 0, "goes on from the bookmark");
        }
    });
    futures_util::future::join_all(cases).await;
}

/// A ReplicaSet `web` of a Deployment `web`, whose owner is given by Helm's annotations.
fn owned_by(release: Option<&'static str>) -> impl Fn(&str) -> Option<Answer> {
    move |path| match path {
        _ if path.contains("/replicasets/web") => {
            Some(metadata("ReplicaSet", "web", None, Some(("Deployment", "web"))))
        }
        _ if path.contains("/deployments/web") => Some(metadata("Deployment", "web", release, None)),
        _ => None,
    }
}

#[tokio::test]
async fn a_pod_without_a_label_is_of_whom_made_it() {
    let cases = [(Some("web"), true, true), (Some("other"), false, false), (None, true, false)].map(
        |(release_of_owner, tells, ends)| async move {
            let owned = owned_by(release_of_owner);
            let broken = || {
                pod("web-1", ("ReplicaSet", "web"), waiting("InvalidImageName", "couldn't parse image name \"a//b\""))
            };
            let server = Server::start(move |_, path, _| {
                if let Some(answer) = owned(path) {
                    return answer;
                }
                match path {
                    _ if path.contains("/pods/web-1") => Answer::Json(200, broken()),
                    _ if path.contains("/pods") && path.contains("watch=true") => {
                        Answer::Watch(vec![json!({"type": "ADDED", "object": broken()})], Held::Open)
                    }
                    _ => nothing(path),
                }
            });
            let ((context, _folder), client, budgets) = (context(), server.client(), Budgets::default());
            let diagnosis =
                Diagnosis::begin(&context, &client, "45-x", &[release("web")], &budgets, &context.run.log("x")).await;
            let failure = watched(&diagnosis, &budgets, Duration::from_secs(8)).await;
            assert_eq!(
                failure.as_ref().map(|failure| failure.code),
                ends.then_some(Code::ImageInvalid),
                "{release_of_owner:?}"
            );
            assert_eq!(
                told(&context.run).contains(Code::ImageInvalid.name()),
                tells,
                "{release_of_owner:?}: {}",
                told(&context.run)
            );
        },
    );
    futures_util::future::join_all(cases).await;
}

/// A Job `night` with these owners, and the CronJob `clock` of a release.
fn job(owners: Value, annotations: Value) -> impl Fn(&str) -> Option<Answer> {
    move |path| match path {
        _ if path.contains("/cronjobs/clock") => Some(metadata("CronJob", "clock", Some("web"), None)),
        _ if path.contains("/jobs/night") => Some(Answer::Json(
            200,
            json!({"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": "night", "namespace": "shop",
                "uid": "uid-night", "ownerReferences": owners, "annotations": annotations}}),
        )),
        _ => None,
    }
}

#[tokio::test]
async fn what_a_cron_job_started_is_told_and_ends_nothing() {
    let clock = |controller: bool| json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "clock", "uid": "uid-clock", "controller": controller}]);
    let cases = [
        ("a hook", json!([]), json!({"helm.sh/hook": "pre-upgrade"}), true),
        ("by the clock", clock(true), json!({}), false),
        ("by hand", clock(false), json!({"cronjob.kubernetes.io/instantiate": "manual"}), false),
    ]
    .map(|(what, owners, annotations, ends)| async move {
        let job = job(owners, annotations);
        let broken = || {
            let state = waiting("InvalidImageName", "couldn't parse image name \"a//b\"");
            labelled(pod("night-1", ("Job", "night"), state), "web")
        };
        let server = Server::start(move |_, path, _| match path {
            _ if path.contains("/pods/night-1") => Answer::Json(200, broken()),
            _ if path.contains("/pods") && path.contains("watch=true") => {
                Answer::Watch(vec![json!({"type": "ADDED", "object": broken()})], Held::Open)
            }
            _ => job(path).unwrap_or_else(|| nothing(path)),
        });
        let ((context, _folder), client, budgets) = (context(), server.client(), Budgets::default());
        let diagnosis =
            Diagnosis::begin(&context, &client, "45-x", &[release("web")], &budgets, &context.run.log("x")).await;
        let failure = watched(&diagnosis, &budgets, Duration::from_secs(8)).await;
        assert_eq!(failure.map(|failure| failure.code), ends.then_some(Code::ImageInvalid), "{what}");
        assert!(told(&context.run).contains(Code::ImageInvalid.name()), "{what}");
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn a_pod_that_was_evicted_ends_a_run_only_where_nothing_takes_its_place() {
    let evicted = |name: &str| {
        let text = "The node was low on resource: ephemeral-storage.";
        let status = json!({"phase": "Failed", "reason": "Evicted", "message": text});
        labelled(pod(name, ("ReplicaSet", "web"), status), "web")
    };
    let later = |mut pod: Value| {
        pod["metadata"]["creationTimestamp"] = json!("2025-11-25T12:01:00Z");
        pod
    };
    let starting = labelled(pod("web-2", ("ReplicaSet", "web"), waiting("ContainerCreating", "")), "web");
    let cases = [
        ("another one is starting", 1, Some(later(starting.clone())), false),
        ("another one was made in the same second", 1, Some(starting), false),
        ("there is no other", 0, None, true),
        ("the other was evicted too", 1, Some(later(evicted("web-2"))), true),
    ]
    .map(|(what, made, other, ends)| async move {
        let server = Server::start(move |_, path, before| match path {
            _ if path.contains("/replicasets/web") => Answer::Json(
                200,
                json!({"kind": "ReplicaSet", "apiVersion": "apps/v1",
                    "metadata": {"name": "web", "namespace": "shop", "uid": "uid-web"},
                    "spec": {"replicas": 1, "selector": {}}, "status": {"replicas": made}}),
            ),
            _ if path.contains("/pods/web-1") => Answer::Json(200, evicted("web-1")),
            _ if path.contains("/pods") && path.contains("watch=true") => {
                Answer::Watch(vec![json!({"type": "ADDED", "object": evicted("web-1")})], Held::Open)
            }
            // The first list is of what was there before.
            _ if path.contains("/pods") && before > 0 => {
                list("Pod", other.iter().cloned().chain([evicted("web-1")]).collect())
            }
            _ => nothing(path),
        });
        let ((context, _folder), client) = (context(), server.client());
        let budgets = patient(&[(Code::DiskFull, 1)]);
        let diagnosis =
            Diagnosis::begin(&context, &client, "45-x", &[release("web")], &budgets, &context.run.log("x")).await;
        let failure = watched(&diagnosis, &budgets, Duration::from_secs(4)).await;
        assert_eq!(failure.map(|failure| failure.code), ends.then_some(Code::DiskFull), "{what}");
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn what_an_event_says_ends_a_run_only_where_a_state_stands_behind_it() {
    let creating = waiting("ContainerCreating", "");
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let cases =
        [("the pod waits", Some(creating), true), ("it is ready", Some(ready), false), ("it is gone", None, false)]
            .map(|(what, state, ends)| async move {
                let server = Server::start(move |_, path, _| match (path, &state) {
                    _ if path.contains("/pods/web-1") && state.is_none() => not_found(),
                    (_, Some(state)) if path.contains("/pods/web-1") => {
                        Answer::Json(200, labelled(pod("web-1", ("ReplicaSet", "web"), state.clone()), "web"))
                    }
                    _ if path.contains("/events") && path.contains("watch=true") => {
                        let text =
                            "MountVolume.SetUp failed for volume \"cert\" : secret \"webhook-server-cert\" not found";
                        Answer::Watch(vec![event("FailedMount", text, "Pod", "web-1")], Held::Open)
                    }
                    _ => nothing(path),
                });
                let ((context, _folder), client) = (context(), server.client());
                let budgets = patient(&[(Code::ConfigMissing, 1)]);
                let diagnosis =
                    Diagnosis::begin(&context, &client, "45-x", &[release("web")], &budgets, &context.run.log("x"))
                        .await;
                let failure = watched(&diagnosis, &budgets, Duration::from_secs(4)).await;
                assert_eq!(failure.map(|failure| failure.code), ends.then_some(Code::ConfigMissing), "{what}");
            });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn only_pods_of_this_layer_in_which_nothing_runs_are_replaced() {
    let sidecar = || {
        let mut status = waiting("ImagePullBackOff", "Back-off pulling image");
        status["containerStatuses"].as_array_mut().unwrap().push(json!({
            "name": "db", "image": "i", "imageID": "sha256:1", "ready": true, "restartCount": 0, "state": {"running": {}},
        }));
        status
    };
    let stuck = || waiting("ImagePullBackOff", "Back-off pulling image");
    let server = Server::start(move |method, path, _| match path {
        _ if method == "DELETE" => {
            Answer::Json(200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
        }
        _ if path.contains("/replicasets/web") => metadata("ReplicaSet", "web", Some("web"), None),
        _ if path.contains("/replicasets/other") => metadata("ReplicaSet", "other", Some("other"), None),
        _ if path.contains("/replicasets/nobody") => metadata("ReplicaSet", "nobody", None, None),
        _ if path.contains("/replicasets/hidden") => forbidden("replicasets"),
        // A hook of any release: it has no release name.
        _ if path.contains("/replicasets/hook") => Answer::Json(
            200,
            json!({
                "kind": "ReplicaSet", "apiVersion": "apps/v1",
                "metadata": {"name": "hook", "namespace": "shop", "uid": "uid-hook", "annotations": {"helm.sh/hook": "pre-install"}},
            }),
        ),
        _ if path.contains("/statefulsets/db") => metadata("StatefulSet", "db", Some("web"), None),
        _ if path.contains("/pods") && !path.contains("watch") => list(
            "Pod",
            vec![
                labelled(pod("ours", ("ReplicaSet", "web"), stuck()), "web"),
                pod("ours-without-label", ("ReplicaSet", "web"), stuck()),
                labelled(pod("beside-a-database", ("ReplicaSet", "web"), sidecar()), "web"),
                labelled(pod("db-0", ("StatefulSet", "db"), stuck()), "web"),
                labelled(pod("db-1", ("StatefulSet", "db"), sidecar()), "web"),
                pod("of-others", ("ReplicaSet", "other"), stuck()),
                // Its label says what its owner does not.
                labelled(pod("says-so", ("ReplicaSet", "other"), stuck()), "web"),
                labelled(pod("of-nobody", ("ReplicaSet", "nobody"), stuck()), "web"),
                labelled(pod("hidden", ("ReplicaSet", "hidden"), stuck()), "web"),
                labelled(pod("of-a-hook", ("ReplicaSet", "hook"), stuck()), "web"),
                labelled(pod("of-a-job", ("Job", "web"), stuck()), "web"),
            ],
        ),
        _ => nothing(path),
    });
    let ((context, _folder), client, budgets) = (context(), server.client(), Budgets::default());
    let diagnosis =
        Diagnosis::begin(&context, &client, "45-x", &[release("web")], &budgets, &context.run.log("x")).await;
    diagnosis.replace_backing_off().await;
    let deletions = server.0.seen().into_iter().filter(|seen| seen.method == "DELETE");
    let deleted: Vec<(String, Value)> = deletions
        .map(|seen| (seen.path().rsplit('/').next().unwrap().to_owned(), serde_json::from_slice(&seen.body).unwrap()))
        .collect();
    assert_eq!(deleted.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(), ["ours", "ours-without-label", "db-0"]);
    for (name, body) in &deleted {
        assert_eq!(body["preconditions"], json!({"uid": format!("uid-{name}"), "resourceVersion": "8"}), "{name}");
        let grace = if name == "db-0" { Value::Null } else { json!(0) };
        assert_eq!(body["gracePeriodSeconds"], grace, "{name}");
    }
}

/// The explanation of a run that ended with these lines in its log, on a cluster with these
/// answers.
async fn explained(log: &str, answer: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static) -> Failure {
    let server = Server::start(move |_, path, _| answer(path).unwrap_or_else(|| nothing(path)));
    let ((context, _folder), client, budgets) = (context(), server.client(), Budgets::default());
    let path = context.run.log("x");
    std::fs::write(
        &path,
        "Error: UPGRADE FAILED: of an earlier try: another operation (install/upgrade/rollback) is in progress\n",
    )
    .unwrap();
    let diagnosis = Diagnosis::begin(&context, &client, "45-x", &[release("web")], &budgets, &path).await;
    let mut file = std::fs::File::options().append(true).open(&path).unwrap();
    file.write_all(log.as_bytes()).unwrap();
    let tail: Vec<String> = log.lines().rev().take(40).map(str::to_owned).collect();
    let tail: Vec<String> = tail.into_iter().rev().collect();
    diagnosis.explain(&tail).await
}

fn frame(error: &str) -> String {
    let indented: String = error.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "in ./45-x.yaml: failed processing release web: command \"/bin/helm\" exited with non-zero status:\n\nPATH:\n  /bin/helm\n\nARGS:\n  0: helm (4 bytes)\n  1: upgrade (7 bytes)\n\nERROR:\n  exit status 1\n\nEXIT STATUS\n  1\n\nSTDERR:\n{indented}\nCOMBINED OUTPUT:\n{indented}"
    )
}

/// A pod of the release whose image is not in the registry.
fn without_its_image(path: &str) -> Option<Answer> {
    let broken = || labelled(pod("web-1", ("ReplicaSet", "web"), waiting("ErrImagePull", NOT_FOUND)), "web");
    match path {
        _ if path.contains("/pods/web-1") => Some(Answer::Json(200, broken())),
        _ if path.contains("/pods") && !path.contains("watch") => Some(list("Pod", vec![broken()])),
        _ => None,
    }
}

#[tokio::test]
async fn what_stands_goes_before_helms_words_but_not_before_the_apis_refusal() {
    let refused = "Error: UPGRADE FAILED: failed to create resource: Deployment.apps \"web\" is invalid: spec.template: Required value";
    for (error, code) in [
        ("Error: UPGRADE FAILED: context deadline exceeded", Code::ImageNotFound),
        (
            "Error: UPGRADE FAILED: pre-upgrade hooks failed: job web-hook failed: BackoffLimitExceeded",
            Code::ImageNotFound,
        ),
        ("Error: UPGRADE FAILED: yaml: hook x509: 401 Unauthorized", Code::ImageNotFound),
        (
            "Error: UPGRADE FAILED: resource Deployment/shop/web not ready. status: InProgress, message: x",
            Code::ImageNotFound,
        ),
        (refused, Code::ObjectInvalid),
    ] {
        assert_eq!(explained(&frame(error), without_its_image).await.code, code, "{error}");
        // However much other releases write after it.
        let long = format!("{}{}", frame(error), "Upgrading release=x, chart=y, namespace=shop\n".repeat(3000));
        assert_eq!(explained(&long, without_its_image).await.code, code, "{error}");
    }
    let failure = explained(&frame(refused), |_| None).await;
    assert!(failure.evidence[0].contains("Required value"), "{:?}", failure.evidence);
}

#[tokio::test]
async fn a_conflict_names_manager_field_and_both_ways_out() {
    let set = "Error: UPGRADE FAILED: conflict occurred while applying object shop/web apps/v1, Kind=Deployment: Apply failed with 1 conflict: conflict with \"kubectl-set\" using apps/v1: .spec.template.spec.containers[name=\"web\"].image";
    let failure = explained(&frame(set), |_| None).await;
    assert_eq!(failure.code, Code::FieldConflict);
    assert_eq!(failure.remedy.as_deref(), Some("cargo xtask --env ci layer 45-x --force-conflicts"));
    let evidence = failure.evidence.join("\n");
    let named = "Deployment shop/web: \"kubectl-set\" set .spec.template.spec.containers[name=\"web\"].image";
    assert!(evidence.contains(named) && evidence.contains("to keep the other value"), "{evidence}");
    // What an autoscaler sets is left alone.
    let scaled = "Error: UPGRADE FAILED: conflict occurred while applying object shop/web apps/v1, Kind=Deployment: Apply failed with 1 conflict: conflict with \"k3s\" with subresource \"scale\" using apps/v1: .spec.replicas";
    let failure = explained(&frame(scaled), |_| None).await;
    assert!(!failure.remedy.unwrap().contains("--force-conflicts"));
    assert!(failure.evidence.join("\n").contains("an autoscaler sets"), "{:?}", failure.evidence);
}

#[tokio::test]
async fn unknown_is_never_empty() {
    let failure = explained("", |_| None).await;
    assert_eq!(failure.code, Code::Unknown);
    assert!(!failure.evidence.is_empty());
    let failure = explained(&frame("Error: UPGRADE FAILED: something that nobody wrote down"), |path| match path {
        _ if path.contains("/deployments/web") => Some(metadata("Deployment", "web", Some("web"), None)),
        _ if path.contains("/deployments/theirs") => Some(metadata("Deployment", "theirs", Some("other"), None)),
        _ if path.contains("/deployments") => Some(list(
            "Deployment",
            ["web", "theirs"].iter().map(|name| json!({
                "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "generation": 2,
                    "annotations": {"meta.helm.sh/release-name": if *name == "web" { "web" } else { "other" }, "meta.helm.sh/release-namespace": "shop"}},
                "spec": {"replicas": 1, "selector": {}, "template": {}},
                "status": {"observedGeneration": 2, "conditions": [
                    {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "message": "Deployment does not have minimum availability."},
                ]},
            })).collect(),
        )),
        _ if path.contains("/events") && path.contains("fieldSelector") => Some(list(
            "Event",
            vec![event("Odd", "a word of an operator", "Deployment", "web")["object"].clone(),
                 event("Odd", "of somebody else", "Deployment", "theirs")["object"].clone()],
        )),
        _ if path.contains("/statefulsets") => None,
        _ => None,
    })
    .await;
    let evidence = failure.evidence.join("\n");
    assert_eq!(failure.code, Code::Unknown, "{evidence}");
    for part in [
        "something that nobody wrote down",
        "Deployment shop/web: 0 of 1 ready",
        "MinimumReplicasUnavailable",
        "a word of an operator",
    ] {
        assert!(evidence.contains(part), "{part}: {evidence}");
    }
    assert!(!evidence.contains("theirs") && !evidence.contains("somebody else"), "{evidence}");
    assert!(failure.remedy.is_some());
    // Failed looks are reported, and do not mean "nothing".
    let failure = explained("", |path| path.contains("/apis/apps").then(|| forbidden("deployments"))).await;
    assert!(failure.evidence.join("\n").contains("the workloads in shop cannot be read"), "{:?}", failure.evidence);
}

#[tokio::test]
async fn a_crash_shows_the_containers_last_words_and_its_exit_in_words() {
    for (log, code, words) in [
        (
            "starting\nsomething odd\n\n",
            Code::CrashLoop,
            "exit code 139 (ended by SIGSEGV, a memory fault of its own): something odd",
        ),
        (
            "x\ndial tcp 10.43.0.7:5432: connect: connection refused\nbye\n",
            Code::DependencyUnreachable,
            "connection refused; then bye",
        ),
        ("", Code::CrashLoop, "it wrote nothing"),
    ] {
        let crashing = || {
            let status = json!({"phase": "Running", "containerStatuses": [{
                "name": "main", "image": "i", "imageID": "sha256:1", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container=main"}},
                "lastState": {"terminated": {"exitCode": 139, "reason": "Error", "finishedAt": "2025-11-25T12:00:00Z"}},
            }]});
            labelled(pod("web-1", ("ReplicaSet", "web"), status), "web")
        };
        let failure = explained(&frame("Error: UPGRADE FAILED: context deadline exceeded"), move |path| match path {
            _ if path.contains("/log") => Some(Answer::Text(log)),
            _ if path.contains("/pods/web-1") => Some(Answer::Json(200, crashing())),
            _ if path.contains("/pods") && !path.contains("watch") => Some(list("Pod", vec![crashing()])),
            _ => None,
        })
        .await;
        let evidence = failure.evidence.join("\n");
        assert_eq!(failure.code, code, "{evidence}");
        assert!(evidence.contains("container main: ") && evidence.contains(words), "{words}: {evidence}");
    }
}

#[tokio::test]
async fn helm_waits_for_nothing_only_where_every_look_says_so() {
    for (what, stuck) in [
        ("all is ready", true),
        ("a backup failed last night", true),
        ("a pod is not", false),
        ("a deployment is not", false),
        ("claims may not be read", false),
        ("the release is deployed", false),
    ] {
        let server = Server::start(move |_, path, _| {
            let status = if what == "the release is deployed" { "deployed" } else { "pending-upgrade" };
            let secret = json!({
                "kind": "Secret", "apiVersion": "v1",
                "metadata": {"name": "sh.helm.release.v1.web.v2", "namespace": "shop", "uid": "s", "resourceVersion": "5",
                    "labels": {"owner": "helm", "name": "web", "version": "2", "status": status}},
            });
            match path {
                _ if path.contains("/secrets/") => Answer::Json(200, secret),
                _ if path.contains("/secrets") => list("Secret", vec![secret]),
                _ if path.contains("/persistentvolumeclaims") && what == "claims may not be read" => {
                    forbidden("claims")
                }
                _ if path.contains("/pods") && what == "a backup failed last night" => {
                    list("Pod", vec![labelled(pod("night-1", ("Job", "night"), json!({"phase": "Failed"})), "web")])
                }
                _ if path.contains("/jobs") && what == "a backup failed last night" => list(
                    "Job",
                    vec![json!({"metadata": {"name": "night", "namespace": "shop", "uid": "uid-night",
                        "labels": {"app.kubernetes.io/instance": "web"},
                        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "clock", "uid": "c", "controller": true}]}})],
                ),
                _ if path.contains("/pods") && what == "a pod is not" => {
                    list("Pod", vec![labelled(pod("web-1", ("ReplicaSet", "web"), json!({"phase": "Running"})), "web")])
                }
                _ if path.contains("/deployments") && what == "a deployment is not" => list(
                    "Deployment",
                    vec![json!({
                        "metadata": {"name": "web", "namespace": "shop", "uid": "d",
                            "labels": {"app.kubernetes.io/instance": "web"}},
                        "spec": {"replicas": 1, "selector": {}, "template": {}},
                    })],
                ),
                _ => nothing(path),
            }
        });
        let ((context, _folder), client, budgets) = (context(), server.client(), Budgets::default());
        let log = context.run.log("x");
        let diagnosis = Diagnosis::begin(&context, &client, "45-x", &[release("web")], &budgets, &log).await;
        let pending = diagnosis.waits_for_nothing().await;
        assert_eq!(pending.map(|revision| revision.revision), stuck.then_some(2), "{what}");
    }
}
