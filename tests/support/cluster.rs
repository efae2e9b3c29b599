//! The real clusters: whose turn it is on which, xtask in a copy of the tree that tests may add
//! layers to, and helpers that look into a cluster or break it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Secret;
use xshell::cmd;

use super::server::ask;
use super::{root, shell, signal, succeeds, tool, write_program};

/// The environment of the real tree that is for tests.
pub const CI: &str = "ci";

/// The environments of the clusters that tests have side by side, because most of a test is
/// waiting. The second is made from `ci` in each copy of the tree. No name is part of another.
const ENVIRONMENTS: [&str; 2] = [CI, "second"];

/// What is different in its files.
const OF_SECOND: [(&str, &str); 6] = [
    ("infra/docker/ci/", "infra/docker/second/"),
    ("ameide-ci", "ameide-second"),
    ("k3d-ci-reg", "k3d-second-reg"),
    (":5001", ":5003"),
    ("\"6551\"", "\"6553\""),
    (":8443:", ":8445:"),
];

/// What this thread's test works with.
struct Current {
    environment: &'static str,
    tree: PathBuf,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

fn current<T>(of: impl FnOnce(&Current) -> T) -> T {
    CURRENT.with_borrow(|current| of(current.as_ref().expect("this thread has a turn")))
}

/// The environment whose turn this is.
pub fn environment() -> &'static str {
    current(|current| current.environment)
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

const UNMIRRORED: &str = "\nunmirrored: ['*']\n";

/// A copy of the tree, so that a test's layers are never seen in the real one.
pub struct Tree {
    folder: tempfile::TempDir,
}

impl Tree {
    /// For the environment whose turn this is.
    pub fn copy() -> Self {
        Self::with(environment())
    }

    fn with(environment: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (shell, to) = (shell(), folder.path());
        cmd!(shell, "cp -a infra {to}").quiet().run().unwrap();
        // The lab's sources are expected in the tree.
        std::os::unix::fs::symlink(root().join("tests"), to.join("tests")).unwrap();
        let tree = Self { folder };
        if environment != CI {
            tree.edit("infra/kubernetes/_defaults.yaml.gotmpl", |text| {
                text.replace("list \"local\"", &format!("list {environment:?} \"local\""))
            });
            let files = ["infra/kubernetes/environments/ENV/env.yaml", "infra/docker/ENV/k3d.yaml"];
            let texts = files.map(|file| std::fs::read_to_string(tree.path(&file.replace("ENV", CI))).unwrap());
            for (from, _) in OF_SECOND {
                assert!(texts.iter().any(|text| text.contains(from)), "{from} is in none of {files:?}");
            }
            for (file, text) in files.iter().zip(texts) {
                let text = OF_SECOND.iter().fold(text, |text, (from, to)| text.replace(from, to));
                tree.write(&file.replace("ENV", environment), &text);
            }
        }
        tree
    }

    /// For images that the check before Helm would refuse.
    pub fn allow_any_image(&self) {
        self.edit("infra/kubernetes/layers.yaml", |text| match text.contains(UNMIRRORED) {
            true => text,
            false => text + UNMIRRORED,
        });
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    pub fn edit(&self, relative: &str, change: impl FnOnce(String) -> String) {
        super::edit(&self.path(relative), change);
    }

    pub fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn xtask(&self, arguments: &[&str]) -> Command {
        in_environment(self.folder.path(), arguments)
    }
}

fn in_environment(folder: &Path, arguments: &[&str]) -> Command {
    super::xtask(folder, &[&["--env", environment(), "--yes"], arguments].concat())
}

/// The tool in the tree of this turn.
pub fn xtask(arguments: &[&str]) -> Command {
    in_environment(&current(|current| current.tree.clone()), arguments)
}

#[track_caller]
pub fn kubectl(arguments: &[&str]) -> String {
    let mut command = tool("kubectl");
    command.args(["--context", &context()]).args(arguments);
    succeeds(command)
}

#[track_caller]
pub fn docker(arguments: &[&str]) -> String {
    let shell = shell();
    cmd!(shell, "docker {arguments...}").quiet().read().unwrap()
}

/// A child that runs alongside the test, with both of its streams captured.
pub fn beside(command: &Command) -> duct::Handle {
    expression(command).stderr_to_stdout().stdout_capture().start().unwrap()
}

/// A child that runs alongside the test, with its output discarded.
pub fn unheard(command: &Command) -> duct::Handle {
    expression(command).stderr_to_stdout().stdout_null().start().unwrap()
}

fn expression(command: &Command) -> duct::Expression {
    let mut expression = duct::cmd(command.get_program(), command.get_args()).stdin_null().unchecked();
    if let Some(folder) = command.get_current_dir() {
        expression = expression.dir(folder);
    }
    for (name, value) in command.get_envs() {
        expression = match value {
            Some(value) => expression.env(name, value),
            None => expression.env_remove(name),
        };
    }
    expression
}

/// The exit code of such a child, and what it printed.
pub fn ended(child: &duct::Handle) -> (Option<i32>, String) {
    let output = child.wait().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `(name, status)` of each release, in any status, as Helm itself reports it.
pub fn releases() -> Vec<(String, String)> {
    let mut helm = tool("helm");
    helm.args(["--kube-context", &context(), "list", "--all-namespaces", "--output", "json"]);
    let listed: Vec<serde_json::Value> = serde_json::from_str(&succeeds(helm)).unwrap();
    let word = |release: &serde_json::Value, key: &str| release[key].as_str().unwrap().to_owned();
    listed.iter().map(|release| (word(release, "name"), word(release, "status"))).collect()
}

/// Changes the Secret of a release's newest revision, as another Helm would.
pub fn edit_revision(release: &str, edit: impl FnOnce(&mut Secret)) {
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

/// A cache like this machine's, except for Helmfile: a wrapper in its place holds a lock of its
/// layer while Helmfile changes the cluster, for as long as it or any Helm that it started lives,
/// and records each time that the lock was not free.
pub struct Alone {
    folder: tempfile::TempDir,
}

impl Alone {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Built and linked, so that there is a Helmfile to wrap.
        let real = tool("helmfile").get_program().to_owned();
        let real = std::fs::canonicalize(real).unwrap();
        let cache = ::xtask::files::cache_dir().unwrap();
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
                "#!/bin/sh\ncase \" $* \" in *' sync '*)\n  exec 9>>'{lock}'-\"$(basename \"$2\")\"\n  flock -n 9 || {{ echo \"$$ $*\" >>'{overlaps}'; exit 99; }}\n  echo $$ >>'{syncs}'\nesac\nexec '{}' \"$@\"\n",
                real.display()
            );
            write_program(&place.join("helmfile"), &script);
        }
        assert!(folder.path().join("go").join(real.parent().unwrap().file_name().unwrap()).join("helmfile").exists());
        Self { folder }
    }

    /// For runs to be watched: it contains the wrapped Helmfile.
    pub fn cache(&self) -> &Path {
        self.folder.path()
    }

    /// Fails if two overlapped; returns how often Helmfile changed the cluster.
    #[track_caller]
    pub fn never_overlapped(&self) -> usize {
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        assert_eq!(read("overlaps"), "", "Helmfile runs of one layer never overlap");
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

/// Kills those processes.
pub fn kill(processes: &[(u32, String)]) {
    processes.iter().for_each(|(pid, _)| signal(*pid, "KILL"));
}

/// How often a test kills at random moments: this often in each run of the suite, or as often as
/// `AMEIDE_TEST_KILLS` says, for a closer look.
pub fn kills_of(suite: usize) -> usize {
    std::env::var("AMEIDE_TEST_KILLS").map_or(suite, |kills| kills.parse().unwrap())
}

/// A generator whose printed seed repeats a failing run.
pub fn random() -> fastrand::Rng {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// What a client prints that runs in the cluster, next to the data plane, with the image of one of
/// its jobs.
fn client(job: &str, variables: &serde_json::Value, script: &str) -> String {
    let pod = |arguments: &[&str]| kubectl(&[&["-n", "ameide"][..], arguments].concat());
    // A failed upgrade deletes its jobs.
    static IMAGES: Mutex<BTreeMap<(&str, String), String>> = Mutex::new(BTreeMap::new());
    let ask = || pod(&["get", "job", job, "-o", "jsonpath={.spec.template.spec.containers[0].image}"]);
    let key = (environment(), job.to_owned());
    let image = IMAGES.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert_with(ask).clone();
    let container = serde_json::json!({
        "name": "guard-mc", "image": image, "command": ["/bin/sh", "-c", script], "env": variables,
    });
    let overrides = format!("--overrides={}", serde_json::json!({"spec": {"containers": [container]}}));
    pod(&["run", "guard-mc", "--restart=Never", &format!("--image={image}"), &overrides]);
    let mut phase = String::new();
    super::eventually("the client ends", || {
        phase = pod(&["get", "pod", "guard-mc", "-o", "jsonpath={.status.phase}"]);
        matches!(phase.as_str(), "Succeeded" | "Failed")
    });
    let printed = pod(&["logs", "guard-mc"]);
    pod(&["delete", "pod", "guard-mc", "--wait=true"]);
    assert_eq!(phase, "Succeeded", "{script}: {printed}");
    printed
}

/// The output of a MinIO client.
pub fn mc(script: &str) -> String {
    let from = |key: &str| serde_json::json!({"secretKeyRef": {"name": "minio-root-credentials", "key": key}});
    let variables = serde_json::json!([
        {"name": "USER", "valueFrom": from("root-user")}, {"name": "PASSWORD", "valueFrom": from("root-password")},
        {"name": "MC_HOST_minio", "value": "http://$(USER):$(PASSWORD)@minio:9000"},
        {"name": "MC_CONFIG_DIR", "value": "/tmp/mc"},
    ]);
    client("minio-buckets", &variables, script)
}

/// The output of a Temporal client.
pub fn temporal(script: &str) -> String {
    let variables = serde_json::json!([
        {"name": "TEMPORAL_ADDRESS", "value": "temporal-frontend:7233"}, {"name": "HOME", "value": "/tmp"},
    ]);
    client("temporal-namespaces", &variables, script)
}

/// The namespace for the workloads of fault tests.
pub const NAMESPACE: &str = "guard-tests";

/// The namespace for what is rolled back and removed.
pub const BACK: &str = "back-tests";

/// A cluster that nobody else has.
struct Slot(usize);

#[derive(Clone, Copy)]
struct State {
    taken: bool,
    /// Whether nothing that a test has broken is left of it.
    whole: bool,
}

static STATES: Mutex<[State; ENVIRONMENTS.len()]> =
    Mutex::new([State { taken: false, whole: false }; ENVIRONMENTS.len()]);
static GIVEN_BACK: Condvar = Condvar::new();

impl Slot {
    /// Waits for any cluster, or for this one.
    fn take(only: Option<&str>) -> Self {
        let mut states = STATES.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // From the last one on: some can only use the first.
            let fits = |index: &usize| !states[*index].taken && only.is_none_or(|name| name == ENVIRONMENTS[*index]);
            if let Some(index) = (0..clusters()).rev().find(fits) {
                states[index].taken = true;
                return Self(index);
            }
            states = GIVEN_BACK.wait(states).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state<T>(&self, of: impl FnOnce(&mut State) -> T) -> T {
        of(&mut STATES.lock().unwrap_or_else(PoisonError::into_inner)[self.0])
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.state(|state| state.taken = false);
        GIVEN_BACK.notify_all();
    }
}

/// `AMEIDE_TEST_CLUSTERS`, for machines that cannot hold two.
fn clusters() -> usize {
    let said = std::env::var("AMEIDE_TEST_CLUSTERS").ok().map(|number| number.parse::<usize>().unwrap());
    said.unwrap_or(ENVIRONMENTS.len()).clamp(1, ENVIRONMENTS.len())
}

/// The tests take turns on each cluster, each on a copy of the tree. What a test breaks is repaired
/// when its turn ends, even if it panics; what could not be, or a killed test run left broken, when
/// the next one begins.
pub struct Turn {
    tree: Tree,
    slot: Slot,
}

impl std::ops::Deref for Turn {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        &self.tree
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let whole = heal();
        self.slot.state(|state| state.whole = whole);
        CURRENT.set(None);
    }
}

/// A turn with every layer of the critical path in place.
pub fn turn() -> Turn {
    brought_up(turn_with_whatever_there_is())
}

/// The same, on the cluster of the real tree: for what only works at its root.
pub fn turn_in_the_real_tree() -> Turn {
    let turn = brought_up(turn_on(Some(CI)));
    CURRENT.set(Some(Current { environment: CI, tree: root() }));
    turn
}

fn brought_up(turn: Turn) -> Turn {
    // The test before may have removed it; nothing is brought up that is already there.
    let ready = turn.xtask(&["cluster", "status"]).output().unwrap().status.success();
    if !ready || !all_deployed() {
        succeeds(turn.xtask(&["up", "--skip-tests"]));
    } else if !turn.slot.state(|state| state.whole) {
        // A test run that was killed may have left what only this takes back: changes by kubectl.
        succeeds(turn.xtask(&["layer", "10-45", "--skip-tests", "--force-conflicts"]));
    }
    turn
}

/// A turn for a test that creates its cluster itself.
pub fn turn_with_whatever_there_is() -> Turn {
    turn_on(None)
}

fn turn_on(only: Option<&str>) -> Turn {
    let slot = Slot::take(only);
    let environment = ENVIRONMENTS[slot.0];
    let tree = Tree::with(environment);
    CURRENT.set(Some(Current { environment, tree: tree.path("") }));
    if !slot.state(|state| state.whole) {
        heal();
    }
    Turn { tree, slot }
}

/// Deletes the clusters, once nobody uses them.
pub fn delete_all() {
    for environment in &ENVIRONMENTS[..clusters()] {
        let turn = turn_on(Some(environment));
        succeeds(turn.xtask(&["cluster", "delete", "--allow-destroy=cluster,registry"]));
    }
}

/// Whether the critical path is there to its end, with every release deployed.
pub fn all_deployed() -> bool {
    let releases = releases();
    ["minio", "temporal"].iter().all(|name| releases.iter().any(|(other, _)| other == name))
        && releases.iter().all(|(_, status)| status == "deployed")
}

/// Whether it worked; a missing cluster has nothing to heal.
fn try_docker(arguments: &[&str]) -> bool {
    Command::new("docker").args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Undoes whatever a test of this kind may have broken; returns whether that worked.
fn heal() -> bool {
    try_docker(&["unpause", &node()]);
    try_docker(&["start", &registry_container()]);
    try_docker(&["start", &load_balancer()]);
    let node = node();
    let clean = "for p in /proc/[0-9]*; do case $(cat $p/comm 2>/dev/null) in kube-apiserver*) kill -CONT ${p#/proc/};; esac; done; rm -rf /var/lib/rancher/k3s/agent/etc/containerd/certs.d/[0-9]*.[0-9]*.[0-9]*.[0-9]*:*";
    if !try_docker(&["exec", &node, "sh", "-c", clean]) {
        return false;
    }
    // In `drop`, possibly during a panic.
    let kubectl = |arguments: &[&str]| {
        let output = tool("kubectl").args(["--context", &context()]).args(arguments).output();
        output.is_ok_and(|output| output.status.success())
    };
    let free = r#"{"metadata":{"finalizers":null}}"#;
    for (namespace, held) in [(NAMESPACE, "held"), (BACK, "held-held")] {
        kubectl(&["-n", namespace, "patch", "configmap", held, "--type=merge", "-p", free]);
    }
    let needed = [
        &["uncordon", &node][..],
        &["delete", "namespace", NAMESPACE, BACK, "--ignore-not-found", "--wait=true", "--timeout=120s"],
        &["-n", "ameide", "delete", "pod", "guard-mc", "--ignore-not-found", "--wait=true", "--timeout=90s"],
    ];
    needed.map(kubectl).iter().all(|worked| *worked)
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
    // The last line of a run in progress may be incomplete.
    text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

pub fn state() -> ::xtask::run::state::StateDir {
    let reporter = ::xtask::run::reporter::Reporter::new(::xtask::run::reporter::Format::Json, false);
    let root = camino::Utf8PathBuf::from_path_buf(root()).unwrap();
    ::xtask::run::state::StateDir::open(&root, &context(), &reporter).unwrap()
}

/// The time from cause to message: from when it happened according to Kubernetes to when the run
/// reported it. The kubelet's events have whole seconds. Fails if the watch did not see it.
#[track_caller]
pub fn lag(code: &str) -> String {
    let record = record();
    let Some(told) = record.iter().find(|line| line["event"] == "blocker" && line["code"] == code) else {
        panic!("{code} was not seen by the watch: {record:#?}");
    };
    let time = |value: &serde_json::Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let began = time(&record[0]["time"]).unwrap();
    let name = told["resource"].as_str().unwrap().split('/').nth(1).unwrap_or_default();
    let events: serde_json::Value =
        serde_json::from_str(&kubectl(&["-n", NAMESPACE, "get", "events", "-o", "json"])).unwrap();
    let warnings = events["items"].as_array().unwrap().iter().filter(|event| {
        event["type"] == "Warning"
            && event["involvedObject"]["name"] == name
            && ::xtask::diagnosis::sources::event(
                event["source"]["component"].as_str().or(event["reportingComponent"].as_str()),
                event["reason"].as_str().unwrap_or_default(),
                event["message"].as_str().unwrap_or_default(),
            )
            .is_some_and(|verdict| verdict.rule.code.to_string() == code)
    });
    let event = warnings.filter_map(|event| time(&event["eventTime"]).or(time(&event["firstTimestamp"]))).min();
    // A killed container has no event of that name: then it is the time when it ended.
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

/// The lock's tag of busybox, whichever it is.
pub fn image(tree: &Tree, registry: &str) -> String {
    let (_, _, tags) = ask("GET", &registry_address(tree), "/v2/third-party/busybox/tags/list", &[], b"").unwrap();
    let tags: serde_json::Value = serde_json::from_slice(&tags).unwrap();
    let mut tags = tags["tags"].as_array().unwrap().iter().filter_map(serde_json::Value::as_str);
    // The other one is added by the test of platforms.
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

/// A layer with one release of the faults chart.
pub fn layer(tree: &Tree, name: &str, values: serde_json::Value) {
    tree.allow_any_image();
    let chart = root().join("tests/faults/chart");
    let text = format!(
        "bases: [../_defaults.yaml.gotmpl]\ncommonLabels: {{stage: {name}, layer: 70-{name}}}\nreleases:\n  - name: {name}\n    namespace: {NAMESPACE}\n    chart: {}\n    createNamespace: true\n    timeout: 120\n    atomic: false\n    values: [{values}]\n",
        chart.display()
    );
    tree.write(&format!("infra/kubernetes/helmfiles/70-{name}.yaml"), &text);
}
