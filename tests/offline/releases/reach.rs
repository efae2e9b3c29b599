//! Logs of pods and access to services, with stand-ins for the API server and kubectl.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Bench, made};
use crate::support::{eventually, signal};

const PODS: &str = "/api/v1/namespaces/shop/pods";

/// A pod of the Deployment `front`, without a label for its release.
fn pod(name: &str, container: &str) -> Value {
    let above =
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "front-1", "uid": "u", "controller": true});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "5", "ownerReferences": [above],
            "labels": {"app": "front"}},
        "spec": {"containers": [{"name": container, "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": container, "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
                "state": {"running": {}}}]},
    })
}

fn list(kind: &str, items: &[Value]) -> String {
    json!({"kind": format!("{kind}List"), "apiVersion": "v1", "metadata": {"resourceVersion": "5"}, "items": items})
        .to_string()
}

/// The release `web` of the layer `10-base`, with a Deployment and these pods.
fn bench(pods: &[Value]) -> Bench {
    let bench = Bench::new();
    bench.server.put(made(
        "shop",
        "web",
        1,
        "deployed",
        60,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: front}\n",
    ));
    let above =
        json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "front", "uid": "d", "controller": true}]);
    let set = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": "front-1", "namespace": "shop", "uid": "u", "ownerReferences": above}});
    bench.server.answer("/apis/apps/v1/namespaces/shop/replicasets/front-1", 200, set.to_string());
    bench.server.answer(PODS, 200, list("Pod", pods));
    bench.server.answer(&format!("{PODS}?watch"), 200, "");
    bench
}

fn log(bench: &Bench, pod: &str, text: &str) {
    bench.server.answer(&format!("{PODS}/{pod}/log"), 200, text);
}

/// A run that goes on until it is stopped, and what it has printed so far.
struct Running {
    child: std::process::Child,
    printed: std::path::PathBuf,
}

impl Running {
    fn start(bench: &Bench, arguments: &[&str]) -> Self {
        let printed = bench.path("printed");
        let file = std::fs::File::create(&printed).unwrap();
        let mut command: Command = bench.xtask(arguments);
        command.stdout(Stdio::from(file.try_clone().unwrap())).stderr(Stdio::from(file));
        Self { child: command.spawn().unwrap(), printed }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.printed).unwrap()
    }

    #[track_caller]
    fn says(&self, words: &str) {
        eventually(words, || self.said().contains(words));
    }

    /// Sends Ctrl-C, and returns everything that was printed.
    #[track_caller]
    fn interrupted(mut self) -> String {
        signal(self.child.id(), "INT");
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(130), "{}", self.said());
        self.said()
    }
}

#[test]
fn the_logs_of_a_layer_are_those_of_the_pods_that_its_releases_made() {
    let mut others = pod("other", "main");
    others["metadata"]["ownerReferences"][0]["name"] = "nobodys".into();
    let bench = bench(&[pod("front-1-b", "main"), pod("front-1-a", "main"), others]);
    log(&bench, "front-1-a", "2026-11-25T12:00:00.5Z one\n2026-11-25T12:00:01Z \u{1b}[31mPGPASSWORD=hunter2\n");
    log(&bench, "front-1-b", "2026-11-25T12:00:00Z two\n");
    log(&bench, "other", "2026-11-25T12:00:00Z never\n");
    let lines = "front-1-a/main one\nfront-1-a/main PGPASSWORD=***\nfront-1-b/main two\n";
    for name in ["10", "10-base", "base", "web", "shop/web", "infra/kubernetes/helmfiles/10-base.yaml"] {
        assert_eq!(bench.ends(&["logs", name], 0), lines, "{name}");
    }
    let said = bench.ends(&["logs", "web", "--output", "json", "--tail", "5", "--since", "1h"], 0);
    let first: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(first, json!({"namespace": "shop", "pod": "front-1-a", "container": "main", "line": "one"}));
    assert!(bench.server.asked(&["front-1-a/log", "tailLines=5", "sinceSeconds=3600"]) > 0);
}

#[test]
fn one_container_prints_as_it_is() {
    let bench = bench(&[pod("front-1-a", "main")]);
    log(&bench, "front-1-a", "2026-11-25T12:00:00Z one\n");
    assert_eq!(bench.ends(&["logs", "web"], 0), "one\n");
    // Except in a GitHub Actions job, whose runner would obey it.
    log(&bench, "front-1-a", "2026-11-25T12:00:00Z ::stop-commands::x\n");
    let mut job = bench.xtask(&["logs", "web"]);
    job.env("GITHUB_ACTIONS", "true");
    let said = crate::support::ends(job, 0);
    assert!(said.lines().all(|line| !line.starts_with("::stop")) && said.contains("front-1-a/main ::stop"), "{said}");
}

#[test]
fn what_is_not_there_is_said_and_a_failed_look_is_no_answer() {
    let bench = bench(&[]);
    for (arguments, words) in [
        (&["logs", "web"][..], "it has no pods"),
        (&["logs", "20"], "none of its releases is installed"),
        (&["logs", "webs"], "neither a layer nor a release"),
        (&["logs", "web", "--tail", "ten"], "--tail"),
        (&["logs", "web", "--since", "yesterday"], "--since"),
        (&["logs"], "required"),
    ] {
        let said = bench.ends(arguments, 2);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    bench.server.answer(PODS, 200, list("Pod", &[pod("front-1-a", "main")]));
    for (arguments, words) in [
        (&["logs", "web", "--container", "other"][..], "expected one of main"),
        (&["logs", "web", "--previous"], "no container of it was started before"),
    ] {
        let said = bench.ends(arguments, 2);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    // The pod's owners, its log and the list of pods: each look may fail.
    for path in
        [format!("{PODS}/front-1-a/log"), "/apis/apps/v1/namespaces/shop/replicasets/front-1".into(), PODS.into()]
    {
        bench.server.answer(&path, 500, "no");
        let said = bench.ends(&["logs", "web"], 4);
        assert!(said.contains("api-failed") && !said.contains("no pod"), "{path}: {said}");
    }
}

#[test]
fn whose_a_pod_is_may_be_hidden_and_is_told() {
    let bench = bench(&[pod("front-1-a", "main")]);
    let refusal = json!({"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "no"});
    bench.server.answer("/apis/apps/v1/namespaces/shop/replicasets/front-1", 403, refusal.to_string());
    let said = bench.ends(&["logs", "web"], 8);
    assert!(said.contains("forbidden") && said.contains("no permission to read ReplicaSet shop/front-1"), "{said}");
}

#[test]
fn a_connection_that_breaks_repeats_no_line_and_pods_that_start_later_are_followed() {
    let bench = bench(&[pod("front-1-a", "main")]);
    log(&bench, "front-1-a", "2026-11-25T12:00:00.4Z one\n2026-11-25T12:00:00.6Z two\n");
    let running = Running::start(&bench, &["logs", "web", "--follow"]);
    running.says("two");
    // The stand-in returns the whole log each time, as the API server returns a whole second.
    let again = || bench.server.asked(&["front-1-a/log", "follow=true", "sinceTime=2026-11-25T12%3A00%3A00Z"]);
    eventually("retrying", || again() > 1);
    log(&bench, "front-1-a", "2026-11-25T12:00:00.4Z one\n2026-11-25T12:00:00.6Z two\n2026-11-25T12:00:00.9Z three\n");
    running.says("three");
    log(&bench, "front-1-b", "2026-11-25T12:00:05Z four\n");
    let news = json!({"type": "ADDED", "object": pod("front-1-b", "main")});
    bench.server.answer(&format!("{PODS}?watch"), 200, format!("{news}\n"));
    running.says("front-1-b/main four");
    let said = running.interrupted();
    let lines: Vec<&str> = said.lines().filter(|line| !line.contains("interrupted")).collect();
    assert_eq!(lines, ["one", "two", "three", "front-1-b/main four"]);
}

fn service(name: &str, more: Value) -> Value {
    let mut spec = json!({"clusterIP": "10.43.0.9", "selector": {"app": "front"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": "shop"}},
        "spec": spec,
    })
}

/// A kubectl that forwards once, loses its connection, and then stays up.
fn kubectl(bench: &Bench) {
    let folder = bench.path("").display().to_string();
    bench.stand_in(
        "kubectl",
        &format!(
            "case \"$*\" in version*) echo '{{\"gitVersion\": \"v1.37.2\"}}'; exit ;; esac\n\
         echo \"$*\" >> {folder}/forwarded\nfor pair in \"$@\"; do :; done\n\
         echo \"Forwarding from 127.0.0.1:${{pair%:*}} -> ${{pair#*:}}\"\n\
         if [ -f {folder}/lost ]; then trap 'exit 0' INT; while :; do sleep 0.05; done; fi\n\
         touch {folder}/lost\necho 'error: lost connection to pod' >&2\nexit 1"
        ),
    );
}

#[test]
fn what_there_is_to_open_are_the_services_of_the_trees_releases() {
    let bench = bench(&[]);
    let mut theirs = service("theirs", json!({}));
    theirs["metadata"]["annotations"]["meta.helm.sh/release-name"] = "nobodys".into();
    let services = [
        service("front", json!({})),
        theirs,
        service("front-pods", json!({"clusterIP": "None"})),
        service("elsewhere", json!({"type": "ExternalName", "externalName": "db.example"})),
        service("empty", json!({"ports": []})),
    ];
    bench.server.answer("/api/v1/services", 200, list("Service", &services));
    assert_eq!(bench.ends(&["open"], 0), "cargo xtask --env t open front → shop/front:80 (http)\n");
    assert!(bench.server.asked(&["/api/v1/services", "labelSelector=app.kubernetes.io%2Fmanaged-by%3DHelm"]) > 0);
    for (arguments, words) in [
        (&["open", "nosuch"][..], "shop/front"),
        (&["open", "front-pods"], "headless"),
        (&["open", "front", "--port", "81"], "80 (http)"),
        (&["open", "front", "--port", "x:80"], "expected PORT or LOCAL:PORT"),
        (&["open", "--port", "80"], "--port"),
    ] {
        let said = bench.ends(arguments, 2);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    let said = bench.ends(&["open", "web", "--dry-run"], 0);
    assert!(said.contains("would forward a port of this machine to shop/front:80"), "{said}");
    bench.server.answer("/api/v1/services", 500, "no");
    let said = bench.ends(&["open"], 4);
    assert!(said.contains("api-failed") && !said.contains("nothing to open"), "{said}");
}

#[test]
fn a_connection_that_is_lost_is_taken_up_again_at_the_same_port() {
    let bench = bench(&[pod("front-1-a", "main")]);
    kubectl(&bench);
    bench.server.answer("/api/v1/services", 200, list("Service", &[service("front", json!({}))]));
    bench.server.answer("/api/v1/namespaces/shop/services/front", 200, service("front", json!({})).to_string());
    let local = crate::support::free_port();
    let running = Running::start(&bench, &["open", "front", "--port", &format!("{local}:http")]);
    running.says(&format!("http://127.0.0.1:{local} → shop/front:80"));
    running.says("lost connection to pod");
    running.says("forwarded again, to pod/front-1-a");
    running.interrupted();
    let forwarded = std::fs::read_to_string(bench.path("forwarded")).unwrap();
    let expected = format!("--context t --namespace shop port-forward --address 127.0.0.1 pod/front-1-a {local}:8080");
    assert_eq!(forwarded.lines().collect::<Vec<_>>(), [&expected, &expected]);
}

#[test]
fn a_pod_that_is_being_deleted_is_left_for_the_next_one() {
    let bench = bench(&[pod("front-1-a", "main")]);
    kubectl(&bench);
    std::fs::write(bench.path("lost"), "").unwrap();
    bench.server.answer("/api/v1/services", 200, list("Service", &[service("front", json!({}))]));
    bench.server.answer("/api/v1/namespaces/shop/services/front", 200, service("front", json!({})).to_string());
    let local = crate::support::free_port();
    let running = Running::start(&bench, &["open", "front", "--port", &format!("{local}:80")]);
    running.says("→ shop/front:80");
    bench.server.answer(PODS, 200, list("Pod", &[pod("front-1-b", "main")]));
    let mut going = pod("front-1-a", "main");
    going["metadata"]["deletionTimestamp"] = "2026-11-25T12:00:00Z".into();
    let news = json!({"type": "MODIFIED", "object": going});
    bench.server.answer(&format!("{PODS}?watch"), 200, format!("{news}\n"));
    running.says("forwarded again, to pod/front-1-b");
    running.interrupted();
}

#[test]
fn a_port_that_somebody_has_is_refused_where_it_was_asked_for() {
    let bench = bench(&[pod("front-1-a", "main")]);
    kubectl(&bench);
    bench.server.answer("/api/v1/services", 200, list("Service", &[service("front", json!({}))]));
    bench.server.answer("/api/v1/namespaces/shop/services/front", 200, service("front", json!({})).to_string());
    let somebody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = somebody.local_addr().unwrap().port();
    let said = bench.ends(&["open", "front", "--port", &format!("{taken}:80")], 8);
    assert!(said.contains("port-taken") && said.contains(&taken.to_string()), "{said}");
    assert!(!bench.path("forwarded").exists(), "{said}");
}
