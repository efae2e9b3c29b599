//! Real faults on a cluster: each ends the run or heals as documented, with its code, and the time
//! from cause to message is printed.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::cluster::{
    NAMESPACE, Tree, beside, docker, ended, image, kubectl, lag, layer, load_balancer, node, pull_registry, record,
    registry_address, registry_container, releases, signal_api_server, turn,
};
use crate::support::server::{Answer, Request, Server, ask};
use crate::support::{ends, eventually, succeeds, text};

/// As registries write digests.
fn sha256(text: &str) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(text.as_bytes());
    format!("sha256:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Runs a layer that must fail; returns what it printed.
fn fault(tree: &Tree, name: &str, code: &str, exit: i32) -> String {
    let output = tree.xtask(&["layer", name, "--skip-tests"]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(exit), "{name}\n{said}");
    assert_eq!(verdict(&said), code, "{name}\n{said}");
    assert!(said.contains("evidence:") && said.contains("remedy:"), "{said}");
    assert!(!releases().iter().any(|(_, status)| status.starts_with("pending")), "{name}: {said}");
    // A hook's own exit code is reported by Helm; everything else is seen while Helm works.
    let seen = if code == "hook-failed" { "told by Helm".to_owned() } else { lag(code) };
    println!("{name}: {code}, exit {exit}: {seen}");
    said
}

/// The code that the last lines of a failed run start with.
fn verdict(said: &str) -> &str {
    let last = said.lines().rfind(|line| line.starts_with("❌ ") && !line.starts_with("❌ ["));
    last.and_then(|line| line.strip_prefix("❌ ")?.split(':').next()).unwrap_or_default()
}

fn patience(tree: &Tree, yaml: &str) {
    tree.edit("infra/kubernetes/layers.yaml", |text| {
        text.replace("  releasePending:", &format!("  patience: {yaml}\n  releasePending:"))
    });
}

#[test]
fn every_fault_of_an_image_is_told_by_its_cause() {
    let tree = turn();
    let registry = pull_registry(&tree);
    let good = image(&tree, &registry);

    layer(&tree, "wrong-tag", json!({"image": format!("{registry}/third-party/busybox:absent")}));
    fault(&tree, "wrong-tag", "image-not-found", 5);

    // An index that only has an image for another platform.
    let address = registry_address(&tree);
    let tag = good.rsplit(':').next().unwrap();
    let accept = [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ];
    let target = format!("/v2/third-party/busybox/manifests/{tag}");
    let (status, _, manifest) = ask("GET", &address, &target, &[("Accept", &accept.join(", "))], b"").unwrap();
    assert_eq!(status, 200);
    let manifest = String::from_utf8(manifest).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    // The first image of an index, or the only image.
    let mut other = parsed["manifests"][0].clone();
    if other.is_null() {
        let digest = sha256(&manifest);
        other = json!({"mediaType": parsed["mediaType"], "digest": digest, "size": manifest.len()});
    }
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": [other]}).to_string();
    let target = "/v2/third-party/busybox/manifests/s390x";
    let (status, ..) = ask("PUT", &address, target, &[("Content-Type", kind)], index.as_bytes()).unwrap();
    assert_eq!(status, 201);
    layer(&tree, "wrong-platform", json!({"image": format!("{registry}/third-party/busybox:s390x")}));
    fault(&tree, "wrong-platform", "image-platform", 5);

    // By its address: the node does not know that this uses plain HTTP.
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
    let addresses = docker(&["inspect", "--format", format, &registry_container()]);
    let address = addresses.split_whitespace().next().unwrap();
    layer(&tree, "wrong-protocol", json!({"image": format!("{address}:5000/third-party/busybox:{tag}")}));
    fault(&tree, "wrong-protocol", "registry-protocol", 5);
}

#[test]
fn every_fault_of_a_workload_is_told_by_its_cause() {
    let tree = turn();
    patience(&tree, "{crash-loop: 5, unschedulable: 3, config-missing: 2, oom-killed: 1, quota-exceeded: 1}");
    let image = image(&tree, &pull_registry(&tree));
    let shell = |script: &str| json!(["/bin/sh", "-c", script]);

    layer(&tree, "fine", json!({"image": image}));
    succeeds(tree.xtask(&["layer", "fine"]));
    kubectl(&["-n", NAMESPACE, "create", "secret", "generic", "half", "--from-literal=one=1"]);
    let from = json!([{"name": "X", "valueFrom": {"secretKeyRef": {"name": "half", "key": "two"}}}]);
    layer(&tree, "missing-key", json!({"image": image, "env": from}));
    let said = fault(&tree, "missing-key", "config-missing", 8);
    assert!(said.contains("two"), "names the key: {said}");
    layer(&tree, "crash", json!({"image": image, "command": shell("exit 1")}));
    fault(&tree, "crash", "crash-loop", 8);
    let memory = json!({"limits": {"memory": "12Mi"}});
    let eats = shell("x=x; while :; do x=$x$x; done");
    layer(&tree, "memory", json!({"image": image, "command": eats, "resources": memory}));
    fault(&tree, "memory", "oom-killed", 8);
    let much = json!({"requests": {"cpu": "1000"}});
    layer(&tree, "too-big", json!({"image": image, "resources": much}));
    fault(&tree, "too-big", "unschedulable", 8);
    layer(&tree, "bad-hook", json!({"image": image, "hook": ["/bin/sh", "-c", "exit 3"]}));
    fault(&tree, "bad-hook", "hook-failed", 8);
    layer(&tree, "quota", json!({"image": image, "quota": true}));
    fault(&tree, "quota", "quota-exceeded", 8);
}

/// What people do to a layer by hand, and the result of running the layer again.
#[test]
fn layer_45_is_brought_back_by_running_it() {
    let tree = turn();
    let get =
        |object: &str, path: &str| kubectl(&["-n", "ameide", "get", object, "-o", &format!("jsonpath={{{path}}}")]);
    let minio = r#".spec.template.spec.containers[?(@.name=="minio")].image"#;
    let look = || {
        [
            get("deployment/minio", minio),
            get("deployment/minio", ".spec.replicas"),
            get("service/minio", r".metadata.labels.app\.kubernetes\.io/component"),
            get("deployment/temporal", ".spec.template.spec.containers[0].env"),
            get("configmap/temporal", ".data.kubernetes\\.yaml"),
        ]
    };
    let act = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        kubectl(&[&["-n", "ameide"], words.as_slice()].concat());
    };
    let layer = |flags: &[&str]| tree.xtask(&[&["layer", "45", "--skip-tests"], flags].concat());
    let before = look();

    // What Helm restores by itself; what is not in the tree stays, and is reported.
    act("scale deployment/minio --replicas=0");
    act("delete deployment/temporal --wait=false");
    act("label service/minio by-hand=1");
    act("annotate configmap/temporal by-hand=1");
    let said = succeeds(layer(&[]));
    assert_eq!(look(), before, "{said}");
    assert!(said.contains("this layer installs it"), "{said}");
    assert!(said.contains("kubectl-label has set .metadata.labels.by-hand"), "{said}");
    assert!(said.contains("kubectl-annotate has set .metadata.annotations.by-hand"), "{said}");

    // What somebody else owns is reported with who and what, and taken back with the flag.
    act(&format!("set image deployment/minio minio={}/third-party/absent:1", pull_registry(&tree)));
    act("set env deployment/temporal BY_HAND=1");
    act("label service/minio app.kubernetes.io/component=changed --overwrite");
    act(r#"patch configmap/temporal --type=merge -p {"data":{"kubernetes.yaml":"changed"}}"#);
    // Not because of the pod that cannot pull the new image: Helm's apply reports it.
    let said = ends(layer(&[]), 7);
    assert_eq!(verdict(&said), "field-conflict", "{said}");
    // One line for each object: who, and what.
    for line in [
        "deployment/minio in ameide: kubectl-set has set",
        "configmap/temporal in ameide: kubectl-patch has set .data.kubernetes.yaml",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    let said = succeeds(layer(&["--force-conflicts"]));
    let after = look();
    assert_eq!((&after[..3], &after[4..]), (&before[..3], &before[4..]), "{said}");
    assert!(said.contains(r#"env[name="BY_HAND"]"#), "{said}");
    act("set env deployment/temporal BY_HAND-");

    // A missing image, then fixed in the tree.
    let file = "infra/kubernetes/values/infrastructure/minio.yaml.gotmpl";
    let good = std::fs::read_to_string(tree.path(file)).unwrap();
    tree.allow_any_image();
    let absent = format!("{{repository: {}/third-party/absent, tag: '1', digest: ''}}", pull_registry(&tree));
    tree.edit(file, |text| format!("image: {absent}\n{}", text.split_once('\n').unwrap().1));
    let said = ends(layer(&[]), 5);
    assert_eq!(verdict(&said), "image-not-found", "{said}");
    tree.write(file, &good);
    let said = succeeds(layer(&[]));
    assert_eq!(look()[0], before[0], "{said}");

    act("label service/minio by-hand-");
    act("annotate configmap/temporal by-hand-");
}

/// `kubectl set image` takes ownership of the field: Helm's apply is then refused.
#[test]
fn what_somebody_else_set_is_named_and_taken_back_only_when_asked() {
    let tree = turn();
    let image = image(&tree, &pull_registry(&tree));
    layer(&tree, "fine", json!({"image": image}));
    succeeds(tree.xtask(&["layer", "fine", "--skip-tests"]));
    kubectl(&["-n", NAMESPACE, "set", "image", "deployment/fine", &format!("main={image}-other")]);
    let said = ends(tree.xtask(&["layer", "fine", "--skip-tests"]), 7);
    assert_eq!(verdict(&said), "field-conflict", "{said}");
    assert!(said.contains("\"kubectl-set\" set .spec.template.spec.containers[name=\"main\"].image"), "{said}");
    let remedy = said.lines().find_map(|line| line.trim().strip_prefix("remedy:")).unwrap().trim();
    assert!(remedy.ends_with("layer 70-fine --force-conflicts"), "{remedy}");
    succeeds(tree.xtask(&["layer", "70-fine", "--force-conflicts", "--skip-tests"]));
    let read = ["-n", NAMESPACE, "get", "deployment", "fine", "-o", "jsonpath={..image}"];
    assert_eq!(kubectl(&read).trim(), image);
}

#[test]
fn a_stopped_registry_is_told_before_helm_runs() {
    let tree = turn();
    layer(&tree, "fine", json!({"image": image(&tree, &pull_registry(&tree))}));
    docker(&["stop", "--time", "1", &registry_container()]);
    let started = Instant::now();
    let said = ends(tree.xtask(&["layer", "fine"]), 5);
    assert_eq!(verdict(&said), "registry-unreachable", "{said}");
    println!("stopped registry: registry-unreachable, exit 5: {:.1} s from the start", started.elapsed().as_secs_f64());
    docker(&["start", &registry_container()]);
    succeeds(tree.xtask(&["layer", "fine"]));
}

#[test]
fn a_registry_that_stops_while_helm_works_is_told_and_the_next_run_goes_on() {
    let tree = turn();
    patience(&tree, "{registry-unreachable: 4, registry-dns: 4}");
    let hook = json!(["/bin/sh", "-c", "sleep 4"]);
    let image = image(&tree, &pull_registry(&tree));
    // The node has the image, but asks the registry all the same.
    layer(&tree, "cut", json!({"image": image, "hook": hook, "pullPolicy": "Always"}));
    let child = beside(&tree.xtask(&["layer", "cut", "--skip-tests"]));
    eventually("the hook runs", || running("cut-hook"));
    docker(&["stop", "--time", "1", &registry_container()]);
    let (code, said) = ended(&child);
    assert_eq!(code, Some(5), "{said}");
    // Docker's DNS does not resolve a stopped container either.
    let code = verdict(&said);
    assert!(matches!(code, "registry-unreachable" | "registry-dns"), "{said}");
    println!("registry stopped meanwhile: {code}, exit 5: {}", lag(code));
    docker(&["start", &registry_container()]);
    succeeds(tree.xtask(&["layer", "cut", "--skip-tests"]));
}

fn running(pod: &str) -> bool {
    let pods = kubectl(&["-n", NAMESPACE, "get", "pods", "--no-headers", "--ignore-not-found"]);
    pods.lines().any(|line| line.starts_with(pod) && line.contains("Running"))
}

/// A registry that refuses for a while with Docker Hub's own words, then passes everything on to
/// the cluster's registry.
struct Limited {
    port: u16,
    gateway: String,
    open: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
}

/// The answer to refused requests, and which requests are let through all the same.
#[derive(Clone, Copy)]
struct Refusal {
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    /// The value of `Authorization` that opens it.
    login: Option<&'static str>,
}

impl Limited {
    fn start(tree: &Tree, refusal: Refusal) -> Self {
        let (open, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let upstream = registry_address(tree);
        let (is_open, counted) = (open.clone(), refused.clone());
        let answer = move |request: &Request| {
            let logged_in = refusal.login.is_some_and(|login| request.header("authorization") == Some(login));
            if logged_in || is_open.load(Ordering::SeqCst) {
                return passed_on(request, &upstream);
            }
            counted.fetch_add(1, Ordering::SeqCst);
            refusal.answer()
        };
        // The node, which is a container, reaches it through its gateway.
        let port = Server::over("0.0.0.0:0", answer, |stream| Box::new(stream)).port();
        let format = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}";
        let gateway = docker(&["inspect", "--format", format, &node()]).trim().to_owned();
        // Tells the node that this registry uses plain HTTP; containerd reads this at each pull.
        let folder = format!("/var/lib/rancher/k3s/agent/etc/containerd/certs.d/{gateway}:{port}");
        let hosts = format!("server = \"http://{gateway}:{port}\"\n[host.\"http://{gateway}:{port}\"]\n");
        let script = format!("mkdir -p '{folder}' && printf '%s' '{hosts}' > '{folder}/hosts.toml'");
        docker(&["exec", &node(), "sh", "-c", &script]);
        Self { port, gateway, open, refused }
    }

    fn registry(&self) -> String {
        format!("{}:{}", self.gateway, self.port)
    }
}

impl Refusal {
    fn answer(self) -> Answer {
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"}]}"#;
        let answer = Answer::new(self.status, if self.status == 429 { body } else { "" });
        let answer = answer.with("Content-Type", "application/json");
        self.headers.iter().fold(answer, |answer, (name, value)| answer.with(name, value))
    }
}

/// What the cluster's registry answers.
fn passed_on(request: &Request, upstream: &str) -> Answer {
    let headers = request.headers.iter().filter(|(name, _)| !matches!(&name[..], "host" | "connection"));
    let headers: Vec<_> = headers.map(|(name, value)| (&name[..], &value[..])).collect();
    let Ok((status, headers, body)) = ask(&request.method, upstream, &request.target, &headers, b"") else {
        return Answer::Cut;
    };
    let answer = Answer::new(status, body);
    headers
        .iter()
        .filter(|(name, _)| name != "connection")
        .fold(answer, |answer, (name, value)| answer.with(name, value))
}

/// Runs a layer against a limit that is lifted some seconds after it was reported.
fn heals_when_the_limit_lifts(name: &str, headers: &'static [(&'static str, &'static str)]) {
    let tree = turn();
    let limited = Limited::start(&tree, Refusal { status: 429, headers, login: None });
    layer(&tree, name, json!({"image": image(&tree, &limited.registry())}));
    let mut child = tree.xtask(&["layer", name]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let started = Instant::now();
    let mut said = String::new();
    for line in lines.map_while(Result::ok) {
        println!("{:6.1} s  {line}", started.elapsed().as_secs_f64());
        if line.contains("🔁") && line.contains("registry-rate-limited") {
            limited.open.store(true, Ordering::SeqCst);
        }
        said.push_str(&line);
        said.push('\n');
    }
    assert!(child.wait().unwrap().success(), "{said}");
    assert!(said.contains("registry-rate-limited: ") && said.contains("try 1 of 8"), "{said}");
    if !headers.is_empty() {
        assert!(said.contains("try 1 of 8 in 7 s"), "as long as the registry asks for: {said}");
    }
    assert!(limited.refused.load(Ordering::SeqCst) > 0);
    println!("{name}: registry-rate-limited, healed: {}", lag("registry-rate-limited"));
}

#[test]
fn a_rate_limit_with_retry_after_heals() {
    heals_when_the_limit_lifts("limited-told", &[("Retry-After", "7")]);
}

#[test]
fn a_rate_limit_without_retry_after_heals() {
    heals_when_the_limit_lifts("limited", &[]);
}

#[test]
fn wrong_credentials_end_the_run_without_a_retry() {
    let tree = turn();
    // The right Secret may still be about to come, so the default is minutes.
    patience(&tree, "{registry-auth: 5}");
    // `puller:right`
    let login = Some("Basic cHVsbGVyOnJpZ2h0");
    let refusal = Refusal { status: 401, headers: &[("WWW-Authenticate", "Basic realm=\"registry\"")], login };
    let refusing = Limited::start(&tree, refusal);
    let secret = |password: &str| {
        let server = format!("--docker-server={}", refusing.registry());
        let password = format!("--docker-password={password}");
        kubectl(&["-n", NAMESPACE, "delete", "secret", "login", "--ignore-not-found"]);
        let create = ["create", "secret", "docker-registry", "login", &server, "--docker-username=puller", &password];
        kubectl(&[&["-n", NAMESPACE][..], &create].concat());
    };
    kubectl(&["create", "namespace", NAMESPACE]);
    secret("wrong");
    let pull_secrets = json!([{"name": "login"}]);
    let image = image(&tree, &refusing.registry());
    layer(&tree, "refused", json!({"image": image, "pullSecrets": pull_secrets}));
    let said = fault(&tree, "refused", "registry-auth", 5);
    assert!(!said.contains("🔁"), "{said}");
    // With the right credentials the next run goes on, without waiting for a back-off.
    secret("right");
    let started = Instant::now();
    succeeds(tree.xtask(&["layer", "refused", "--skip-tests"]));
    println!("refused: in place {:.1} s after the credentials were right", started.elapsed().as_secs_f64());
}

/// Longer than the Lease lasts without renewal: the run keeps it all the same.
const LONG: Duration = Duration::from_secs(20);
/// Longer than any single request is waited for.
const SHORT: Duration = Duration::from_secs(8);

/// Runs a layer whose API is unreachable for this long, from a moment of the run on.
fn outage(name: &str, long: Duration, moment: impl Fn() -> bool, begin: impl Fn(), end: impl Fn()) {
    let tree = turn();
    let hook = json!(["/bin/sh", "-c", "sleep 4"]);
    layer(&tree, name, json!({"image": image(&tree, &pull_registry(&tree)), "hook": hook}));
    let child = beside(&tree.xtask(&["layer", name]));
    eventually("the moment of the outage", &moment);
    begin();
    let away = jiff::Timestamp::now();
    std::thread::sleep(long);
    end();
    let (code, said) = ended(&child);
    println!("{said}");
    assert_eq!(code, Some(0), "{said}");
    let record = record();
    // Noticed by the watch, or by Helm at its start.
    let tells = |line: &&serde_json::Value| line["code"] == "api-unreachable" || line["reason"] == "api-unreachable";
    let told = record.iter().find(tells);
    let told: jiff::Timestamp = told.expect(&said)["time"].as_str().unwrap().parse().unwrap();
    println!("{name}: api-unreachable, healed: {:.2} s from the cause", told.duration_since(away).as_secs_f64());
}

#[test]
fn an_api_server_that_hangs_for_20_seconds_ends_nothing() {
    outage("outage", LONG, || running("outage-hook"), || signal_api_server("STOP"), || signal_api_server("CONT"));
}

#[test]
fn an_api_that_refuses_for_20_seconds_ends_nothing() {
    let stop = || drop(docker(&["stop", "--time", "1", &load_balancer()]));
    let start = || drop(docker(&["start", &load_balancer()]));
    outage("refusing", LONG, || running("refusing-hook"), stop, start);
    // As Helm starts, which then fails: it is retried when the API is back.
    let helmfile_starts = || {
        let record = record();
        record.first().is_some_and(|run| run["command"].as_str().unwrap().contains("layer early"))
            && record.iter().any(|line| line["event"] == "started" && line["step"] == "helmfile sync")
    };
    outage("early", SHORT, helmfile_starts, stop, start);
}

#[test]
fn a_namespace_held_by_a_finalizer_is_waited_for_and_named() {
    let tree = turn();
    tree.edit("infra/kubernetes/layers.yaml", |text| {
        text.replace("namespace: 120", "namespace: 5")
            .replace("layers:\n  10-", &format!("layers:\n  70-fine:\n    creates: [{NAMESPACE}]\n  10-"))
    });
    layer(&tree, "fine", json!({"image": image(&tree, &pull_registry(&tree))}));
    let hold = |on: bool| {
        let finalizers = if on { r#"["ameide.dev/hold"]"# } else { "null" };
        let patch = format!(r#"{{"metadata":{{"finalizers":{finalizers}}}}}"#);
        kubectl(&["-n", NAMESPACE, "patch", "configmap", "held", "--type=merge", "-p", &patch]);
    };
    kubectl(&["create", "namespace", NAMESPACE]);
    kubectl(&["-n", NAMESPACE, "create", "configmap", "held"]);
    hold(true);
    kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
    eventually("the namespace controller tells", || {
        kubectl(&["get", "namespace", NAMESPACE, "-o", "yaml"]).contains("ameide.dev/hold")
    });
    // Not freed: exit 6, and the finalizer is still there.
    let said = ends(tree.xtask(&["layer", "fine"]), 6);
    println!("held: namespace-terminating, exit 6");
    assert!(said.contains("❌ namespace-terminating: ") && said.contains("ameide.dev/hold"), "{said}");
    let kept = kubectl(&["-n", NAMESPACE, "get", "configmap", "held", "-o", "yaml"]);
    assert!(kept.contains("ameide.dev/hold"), "{kept}");
    // Freed while it is waited for: the run goes on.
    tree.edit("infra/kubernetes/layers.yaml", |text| text.replace("namespace: 5", "namespace: 120"));
    let started = Instant::now();
    let mut child = tree.xtask(&["layer", "fine"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains(NAMESPACE) && line.contains("ameide.dev/hold")).unwrap();
    println!("held: told {:.1} s after the start: {line}", started.elapsed().as_secs_f64());
    hold(false);
    let rest: Vec<String> = lines.collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
}

/// An image that is not from the mirror ends a layer before Helm starts.
#[test]
fn an_image_outside_the_mirror_is_refused_before_helm_starts() {
    let tree = turn();
    tree.edit("infra/kubernetes/charts/minio/templates/deployment.yaml", |text| {
        text.replace("{{- include \"lib.image\" .Values.image | nindent 10 }}", "image: docker.io/library/nginx:1.27")
    });
    let before = releases();
    let output = tree.xtask(&["layer", "45", "--skip-tests"]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    let expected = "evidence: Deployment ameide/minio: spec.template.spec.containers[0].image: docker.io/library/nginx:1.27 is not from ";
    assert!(said.contains("image-not-mirrored: ") && said.contains(expected), "{said}");
    assert!(!said.contains("helmfile sync"), "{said}");
    assert_eq!(releases(), before);
    let output = tree.xtask(&["mirror", "--check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(text(&output).contains(expected), "{}", text(&output));
}
