//! What tests on the real cluster share: the environment, xtask in a copy of the
//! tree that tests may add layers to, and tools.

// Each test binary uses a part of it.
#![allow(dead_code)]

pub mod rendered;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `ci`, unless somebody develops these tests on a cluster of their own.
pub fn environment() -> String {
    std::env::var("AMEIDE_TEST_ENV").unwrap_or_else(|_| "ci".to_owned())
}

pub fn context() -> String {
    format!("k3d-ameide-{}", environment())
}

pub fn node() -> String {
    format!("k3d-ameide-{}-server-0", environment())
}

pub fn registry_container() -> String {
    format!("k3d-{}-reg", environment())
}

pub fn load_balancer() -> String {
    format!("k3d-ameide-{}-serverlb", environment())
}

/// A copy of the tree, so that a test's layers are never seen in the real one.
pub struct Tree {
    folder: tempfile::TempDir,
}

impl Tree {
    pub fn copy() -> Self {
        let folder = tempfile::tempdir().unwrap();
        succeeds({
            let mut command = Command::new("cp");
            command.arg("-a").arg(root().join("infra")).arg(folder.path());
            command
        });
        // The lab's sources are looked for in the tree.
        std::os::unix::fs::symlink(root().join("tests").canonicalize().unwrap(), folder.path().join("tests")).unwrap();
        let tree = Self { folder };
        // Faults of images are made with images that the check before Helm would refuse.
        tree.edit("infra/kubernetes/layers.yaml", |text| format!("{text}\nunmirrored: ['*']\n"));
        if environment() != "ci" {
            tree.edit("infra/kubernetes/_defaults.yaml.gotmpl", |text| {
                text.replace("list \"local\"", &format!("list {:?} \"local\"", environment()))
            });
        }
        tree
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    pub fn edit(&self, relative: &str, change: impl FnOnce(String) -> String) {
        let path = self.path(relative);
        let text = change(std::fs::read_to_string(&path).unwrap());
        std::fs::write(path, text).unwrap();
    }

    pub fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn xtask(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.current_dir(self.folder.path()).args(["--env", &environment(), "--yes"]).args(arguments);
        command.stdin(Stdio::null()).env("NO_COLOR", "1");
        command.env_remove("XTASK_CONFIRM").env_remove("HELMFILE_ENVIRONMENT").env_remove("INFRA_CRITICAL_PATH");
        command
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = self.tool("kubectl");
        command.args(["--context", &context()]).args(arguments);
        succeeds(command)
    }

    pub fn tool(&self, name: &str) -> Command {
        static BIN: OnceLock<String> = OnceLock::new();
        let bin = BIN.get_or_init(|| {
            let printed = succeeds(self.xtask(&["tools"]));
            let bin = printed.lines().find_map(|line| line.strip_prefix("export PATH=")?.split(':').next());
            bin.unwrap().to_owned()
        });
        Command::new(Path::new(bin).join(name))
    }

    /// `(name, status)` of each release.
    pub fn releases(&self) -> Vec<(String, String)> {
        releases(self.tool("helm"), &context())
    }
}

/// `(name, status)` of each release, whatever its status, as Helm itself judges it.
pub fn releases(mut helm: Command, kube_context: &str) -> Vec<(String, String)> {
    helm.args(["--kube-context", kube_context, "list", "--all-namespaces", "--output", "json"]);
    let listed: Vec<serde_json::Value> = serde_json::from_str(&succeeds(helm)).unwrap();
    let word = |release: &serde_json::Value, key: &str| release[key].as_str().unwrap().to_owned();
    listed.iter().map(|release| (word(release, "name"), word(release, "status"))).collect()
}

/// Changes the Secret of a release's newest revision, as another Helm would.
pub fn edit_revision(kubectl: impl Fn(&[&str]) -> String, release: &str, edit: impl FnOnce(&mut Secret)) {
    let selector = format!("owner=helm,name={release}");
    let listed = kubectl(&["-n", "ameide", "get", "secrets", "-l", &selector, "-o", "json"]);
    let mut listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let secrets: Vec<Secret> = serde_json::from_value(listed["items"].take()).unwrap();
    let number = |secret: &Secret| secret.metadata.labels.as_ref().unwrap()["version"].parse::<u32>().unwrap();
    let mut newest = secrets.into_iter().max_by_key(number).unwrap();
    edit(&mut newest);
    let file = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&file, &newest).unwrap();
    kubectl(&["replace", "-f", file.path().to_str().unwrap()]);
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
pub fn succeeds(command: Command) -> String {
    ends(command, 0)
}

#[track_caller]
pub fn ends(mut command: Command, exit: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(exit), "{command:?}\n{}", text(&output));
    text(&output)
}

#[track_caller]
pub fn docker(arguments: &[&str]) -> String {
    let mut command = Command::new("docker");
    command.args(arguments);
    succeeds(command)
}

/// Polls until the condition holds: what is waited for has no other way to tell.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(120), "not seen within 120 s: {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// A cache like this machine's, but for Helmfile: in its place stands a program that
/// holds a lock while Helmfile changes the cluster, for as long as it or any Helm that
/// it started lives, and that notes each time when the lock was not free.
pub struct Alone {
    folder: tempfile::TempDir,
}

impl Alone {
    pub fn new(tree: &Tree) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Built and linked, so that there is a Helmfile to stand before.
        let real = tree.tool("helmfile").get_program().to_owned();
        let real = std::fs::canonicalize(real).unwrap();
        let cache = xtask::files::cache_dir().unwrap();
        let link = |from: &Path, to: &Path| std::os::unix::fs::symlink(from, to).unwrap();
        std::fs::create_dir(folder.path().join("go")).unwrap();
        for entry in cache.read_dir_utf8().unwrap().flatten() {
            if !matches!(entry.file_name(), "go" | "bin") {
                link(entry.path().as_std_path(), &folder.path().join(entry.file_name()));
            }
        }
        for entry in cache.join("go").read_dir_utf8().unwrap().flatten() {
            let place = folder.path().join("go").join(entry.file_name());
            if !real.starts_with(entry.path()) {
                link(entry.path().as_std_path(), &place);
                continue;
            }
            std::fs::create_dir(&place).unwrap();
            let [lock, syncs, overlaps] =
                ["lock", "syncs", "overlaps"].map(|name| folder.path().join(name).display().to_string());
            let script = format!(
                "#!/bin/sh\ncase \" $* \" in *' sync '*)\n  exec 9>>'{lock}'\n  flock -n 9 || {{ echo \"$$ $*\" >>'{overlaps}'; exit 99; }}\n  echo $$ >>'{syncs}'\nesac\nexec '{}' \"$@\"\n",
                real.display()
            );
            let path = place.join("helmfile");
            std::fs::write(&path, script).unwrap();
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert!(folder.path().join("go").join(real.parent().unwrap().file_name().unwrap()).join("helmfile").exists());
        Self { folder }
    }

    /// For runs that are to be watched: their Helmfile is this one.
    pub fn cache(&self) -> &Path {
        self.folder.path()
    }

    /// Fails where two overlapped; how often Helmfile changed the cluster.
    #[track_caller]
    pub fn never_overlapped(&self) -> usize {
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        assert_eq!(read("overlaps"), "", "Helmfile runs of one cluster never overlap");
        let syncs = read("syncs").lines().count();
        assert!(syncs > 0, "no Helmfile run was seen");
        syncs
    }
}

/// Helm and Helmfile processes that work on this cluster.
pub fn helm_processes() -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(bytes) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let words: Vec<String> =
            bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let program = Path::new(&words[0]).file_name().map(|name| name.to_string_lossy().into_owned());
        if matches!(program.as_deref(), Some("helm" | "helmfile")) && words.contains(&context()) {
            found.push((entry.file_name().to_string_lossy().parse().unwrap(), words.join(" ")));
        }
    }
    found
}

pub fn kill(pid: u32, signal: &str) {
    // It may have ended by itself.
    let _ = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).output();
}

/// A small generator, so that a failing run can be repeated from its printed seed.
pub struct Random(u64);

impl Random {
    pub fn seeded() -> Self {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_nanos() as u64 | 1
        });
        println!("SEED={seed}");
        Self(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Where the tests of faults put their workloads.
pub const NAMESPACE: &str = "guard-tests";

/// There is one cluster: the tests take turns, each on a copy of the tree. What a
/// test breaks is whole again when its turn ends, also when it panics; what a killed
/// test run left broken, when the next turn begins.
pub struct Turn {
    tree: Tree,
    _held: MutexGuard<'static, ()>,
}

impl std::ops::Deref for Turn {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        &self.tree
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        heal(&self.tree);
    }
}

/// The one turn of all tests of the cluster.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn turn() -> Turn {
    let held = alone();
    let tree = Tree::copy();
    heal(&tree);
    // The test before may have taken it away.
    let ready = tree.xtask(&["cluster", "status"]).output().unwrap().status.success();
    let deployed = || {
        let releases = tree.releases();
        releases.iter().any(|(name, _)| name == "temporal") && releases.iter().all(|(_, status)| status == "deployed")
    };
    if !ready || !deployed() {
        succeeds(tree.xtask(&["up", "--skip-tests"]));
    }
    Turn { tree, _held: held }
}

/// Whether it worked; a cluster that is not there has nothing to heal.
fn try_docker(arguments: &[&str]) -> bool {
    Command::new("docker").args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Undoes whatever a test of this kind may have broken.
fn heal(tree: &Tree) {
    try_docker(&["start", &registry_container()]);
    try_docker(&["start", &load_balancer()]);
    let node = node();
    let clean = "for p in /proc/[0-9]*; do case $(cat $p/comm 2>/dev/null) in kube-apiserver*) kill -CONT ${p#/proc/};; esac; done; rm -rf /var/lib/rancher/k3s/agent/etc/containerd/certs.d/[0-9]*.[0-9]*.[0-9]*.[0-9]*:*";
    if !try_docker(&["exec", &node, "sh", "-c", clean]) {
        return;
    }
    let free = r#"{"metadata":{"finalizers":null}}"#;
    for arguments in [
        &["-n", NAMESPACE, "patch", "configmap", "held", "--type=merge", "-p", free][..],
        &["delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true", "--timeout=90s"],
        &["-n", "ameide", "delete", "pod", "guard-mc", "--ignore-not-found", "--wait=true", "--timeout=90s"],
    ] {
        // In `drop`, perhaps of a panic: the next turn finds out.
        let _ = tree.tool("kubectl").args(["--context", &context()]).args(arguments).output();
    }
}

/// Stops or continues the API server, which is a process of the node.
pub fn signal_api_server(signal: &str) {
    let find = "for p in /proc/[0-9]*; do grep -q '^kube-apiserver' $p/comm && basename $p; done; true";
    let pids = docker(&["exec", &node(), "sh", "-c", find]);
    let pid = pids.split_whitespace().next().expect("kube-apiserver runs in the node");
    docker(&["exec", &node(), "sh", "-c", &format!("kill -{signal} {pid}")]);
}

/// The record of this cluster's newest run.
pub fn record() -> Vec<serde_json::Value> {
    let mut runs: Vec<_> = state().runs().read_dir_utf8().unwrap().flatten().map(|run| run.path().to_owned()).collect();
    runs.sort();
    let text = std::fs::read_to_string(runs.last().unwrap().join("record.jsonl")).unwrap_or_default();
    // Of a run that goes on, the last line may be half written.
    text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

pub fn state() -> xtask::run::state::StateDir {
    let reporter = xtask::run::reporter::Reporter::new(xtask::run::reporter::Format::Json, false);
    let root = camino::Utf8PathBuf::from_path_buf(root()).unwrap();
    xtask::run::state::StateDir::open(&root, &context(), &reporter).unwrap()
}

/// From cause to message: when Kubernetes says that it happened, and when the run
/// told it. Events of the kubelet carry whole seconds. Fails where the watch did not see it.
#[track_caller]
pub fn lag(tree: &Tree, code: &str) -> String {
    let record = record();
    let Some(told) = record.iter().find(|line| line["event"] == "blocker" && line["code"] == code) else {
        panic!("{code} was not seen by the watch: {record:#?}");
    };
    let time = |value: &serde_json::Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let began = time(&record[0]["time"]).unwrap();
    let name = told["resource"].as_str().unwrap().split('/').nth(1).unwrap_or_default();
    let events: serde_json::Value =
        serde_json::from_str(&tree.kubectl(&["-n", NAMESPACE, "get", "events", "-o", "json"])).unwrap();
    let warnings = events["items"].as_array().unwrap().iter().filter(|event| {
        event["type"] == "Warning"
            && event["involvedObject"]["name"] == name
            && xtask::diagnosis::sources::event(
                event["source"]["component"].as_str().or(event["reportingComponent"].as_str()),
                event["reason"].as_str().unwrap_or_default(),
                event["message"].as_str().unwrap_or_default(),
            )
            .is_some_and(|verdict| verdict.rule.code.name() == code)
    });
    let event = warnings.filter_map(|event| time(&event["eventTime"]).or(time(&event["firstTimestamp"]))).min();
    // A container that was killed has no event of that name: then it is when it ended.
    let cause = event.or(time(&told["since"])).unwrap_or_else(|| panic!("no time of the cause: {told:#}"));
    let told = time(&told["time"]).unwrap();
    let seconds = told.duration_since(cause).as_secs_f64();
    let from = if event.is_some() { "event" } else { "end of the container" };
    format!(
        "{seconds:.2} s from the {from} ({cause}); {:.1} s from the start",
        told.duration_since(began).as_secs_f64()
    )
}

pub fn busybox(registry: &str) -> String {
    format!("{registry}/third-party/busybox:1.35.0")
}

/// The lock's tag of busybox, whatever it is.
pub fn image(tree: &Tree, registry: &str) -> String {
    let tags = http("GET", &registry_address(tree), "/v2/third-party/busybox/tags/list", "", "").1;
    let tags: serde_json::Value = serde_json::from_str(&tags).unwrap();
    let mut tags = tags["tags"].as_array().unwrap().iter().filter_map(serde_json::Value::as_str);
    // The other one is what the test of platforms puts there.
    let tag = tags.find(|tag| *tag != "s390x").unwrap();
    busybox(registry).replace("1.35.0", tag)
}

pub fn env_yaml(tree: &Tree, key: &str) -> String {
    let path = tree.path(&format!("infra/kubernetes/environments/{}/env.yaml", environment()));
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap();
    line.trim().to_owned()
}

pub fn registry_address(tree: &Tree) -> String {
    env_yaml(tree, "push:")
}

pub fn pull_registry(tree: &Tree) -> String {
    env_yaml(tree, "pull:")
}

/// One request, plain HTTP.
pub fn http(method: &str, address: &str, path: &str, kind: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAccept: application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A layer of one release of the chart of faults.
pub fn layer(tree: &Tree, name: &str, values: serde_json::Value) {
    let chart = root().join("tests/faults/chart").canonicalize().unwrap();
    let text = format!(
        "bases: [../_defaults.yaml.gotmpl]\ncommonLabels: {{stage: {name}, layer: 70-{name}}}\nreleases:\n  - name: {name}\n    namespace: {NAMESPACE}\n    chart: {}\n    createNamespace: true\n    timeout: 120\n    atomic: false\n    values: [{values}]\n",
        chart.display()
    );
    tree.write(&format!("infra/kubernetes/helmfiles/70-{name}.yaml"), &text);
}

pub fn spawn(tree: &Tree, arguments: &[&str]) -> Child {
    tree.xtask(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}
