//! xtask with stand-ins for every program that it starts, and for the cluster's API and registry:
//! what each program is given, what an interrupt does at any moment, and how a run ends whose
//! output nobody reads. No cluster, no engine.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use camino::Utf8Path;
use duct::unix::HandleExt;
use duct::{Expression, Handle};
use serde_json::{Value, json};
use sha2::Digest;

use crate::releases::revision;
use crate::support::server::{Answer, Request};
use crate::support::{
    self, copy_configuration, edit, eventually, free_port, on, side_by_side, terminal, write_program,
};

pub const CONTEXT: &str = "k3d-ameide-ci";

fn hex(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The only manifest in the registry.
const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;

/// The API server and the registry, on one port.
#[derive(Default)]
struct Server {
    lease: Mutex<Option<String>>,
    /// Accepts requests and answers none.
    silent: AtomicBool,
    /// The world's list of started programs, of which Helm makes a revision each time.
    starts: OnceLock<PathBuf>,
}

impl Server {
    fn start() -> (Arc<Self>, u16) {
        let server = Arc::new(Self::default());
        let serving = server.clone();
        let http = support::server::Server::start(move |request| serving.serve(request));
        (server, http.port())
    }

    /// The revision that Helm made last.
    fn revisions(&self) -> Vec<Value> {
        let starts = self.starts.get().map(|path| std::fs::read_to_string(path).unwrap()).unwrap_or_default();
        let made = starts.lines().filter(|line| line.ends_with(" helm upgrade")).count();
        let mut newest = revision("ameide", "stand-in", u32::try_from(made).unwrap(), "deployed", 0);
        newest["metadata"]["uid"] = format!("made-{made}").into();
        if made > 0 { vec![newest] } else { Vec::new() }
    }

    fn serve(&self, request: &Request) -> Answer {
        if self.silent.load(Ordering::SeqCst) || request.query().contains("watch=true") {
            return Answer::Never;
        }
        let (code, kind, answer) = self.answer(&request.method, request.path(), &request.text());
        Answer::new(code, answer)
            .with("Date", httpdate::fmt_http_date(std::time::SystemTime::now()))
            .with("Content-Type", kind)
            .with("Docker-Content-Digest", format!("sha256:{}", hex(MANIFEST.as_bytes())))
    }

    fn answer(&self, method: &str, path: &str, body: &str) -> (u16, &'static str, String) {
        let json = |value: Value| (200, "application/json", value.to_string());
        let list = |items: Value| {
            json(json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}))
        };
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let absent = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
            "reason": "NotFound", "message": "not found"});
        match (method, path) {
            (_, "/readyz") => (200, "text/plain", "ok".to_owned()),
            (_, "/version") => json(json!({"major": "1", "minor": "33", "gitVersion": "v1.33.4"})),
            (_, path) if path.starts_with("/v2/") && path.contains("/manifests/") => {
                (200, "application/vnd.oci.image.manifest.v1+json", MANIFEST.to_owned())
            }
            (_, path) if path.starts_with("/v2/") => json(json!({})),
            ("PUT" | "POST", path) if path.contains("/leases") => {
                *self.lease.lock().unwrap() = Some(body.to_owned());
                (200, "application/json", body.to_owned())
            }
            ("GET", path) if path.ends_with("/leases/ameide-deploy") => match &*self.lease.lock().unwrap() {
                Some(lease) => (200, "application/json", lease.clone()),
                None => (404, "application/json", absent.to_string()),
            },
            ("POST" | "PUT" | "PATCH", _) => (200, "application/json", body.to_owned()),
            ("DELETE", _) => json(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
            (_, "/api/v1/nodes") => list(json!([{"metadata": {"name": "node"}, "status": {"conditions": ready}}])),
            (_, "/apis/storage.k8s.io/v1/storageclasses") => list(json!([{"metadata": {"name": "local-path",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "x"}])),
            (_, "/api/v1/namespaces/kube-system/pods") => {
                list(json!([{"metadata": {"name": "dns"}, "status": {"conditions": ready}}]))
            }
            (_, "/api/v1/namespaces/default/pods/registry-check") => json(json!({"kind": "Pod",
                "apiVersion": "v1", "metadata": {"name": "registry-check"}, "status": {"phase": "Succeeded"}})),
            // Makes the stand-in's release reachable: k3d.yaml maps the load balancer's port.
            (_, "/api/v1/services") => list(json!([{
                "metadata": {"name": "front", "namespace": "ameide", "annotations": {
                    "meta.helm.sh/release-name": "stand-in", "meta.helm.sh/release-namespace": "ameide"}},
                "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.9", "selector": {"app": "front"},
                    "ports": [{"name": "https", "port": 443}, {"name": "admin", "port": 9000}]},
                "status": {"loadBalancer": {"ingress": [{"ip": "172.18.0.3"}]}}}])),
            (_, path) if path.strip_prefix("/api/v1/namespaces/").is_some_and(|name| !name.contains('/')) => {
                let name = path.rsplit('/').next().unwrap_or_default();
                json(json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name},
                    "status": {"phase": "Active"}}))
            }
            (_, "/api/v1/secrets" | "/api/v1/namespaces/ameide/secrets") => list(self.revisions().into()),
            (_, path)
                if ["pods", "events", "secrets", "namespaces", "deployments", "statefulsets", "jobs", "services"]
                    .iter()
                    .any(|plural| path.ends_with(&format!("/{plural}"))) =>
            {
                list(json!([]))
            }
            _ => (404, "application/json", absent.to_string()),
        }
    }
}

/// A tree, a machine and a cluster of its own, all of them stand-ins.
pub struct World {
    folder: tempfile::TempDir,
    server: Arc<Server>,
}

const PROGRAMS: [&str; 7] = ["docker", "k3d", "helm", "helmfile", "kubectl", "go", "apt-get"];

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (server, port) = Server::start();
        let world = Self { folder, server };
        world.server.starts.set(world.path("starts")).unwrap();
        copy_configuration(&world.path(""));
        world.edit("infra/kubernetes/environments/ci/env.yaml", |text| {
            text.replace("127.0.0.1:5001", &format!("127.0.0.1:{port}"))
        });
        // Never the ports of an existing cluster.
        let free = || free_port().to_string();
        world.edit("infra/docker/ci/k3d.yaml", |text| text.replace("6551", &free()).replace("8443", &free()));
        world.write(
            "infra/images/images.yaml",
            "images:\n- {id: busybox, image: 'docker.io/library/busybox:1.35.0', target: third-party/busybox, platforms: [linux/amd64], why: a test}\n",
        );
        let digest = hex(MANIFEST.as_bytes());
        world.write(
            "infra/images/images.lock",
            &format!("version: 1\nplatforms: [linux/amd64]\nimages:\n- id: busybox\n  image: docker.io/library/busybox:1.35.0@sha256:{digest}\n  target: third-party/busybox\n  mediaType: application/vnd.oci.image.manifest.v1+json\n  size: {}\n  mode: manifest\n  targetDigest: sha256:{digest}\n  children:\n  - {{os: linux, arch: amd64, digest: 'sha256:{digest}', size: 2}}\n", MANIFEST.len()),
        );
        world.write(
            "kubeconfig",
            &format!("apiVersion: v1\nkind: Config\ncurrent-context: {CONTEXT}\nclusters:\n- name: c\n  cluster: {{server: 'http://127.0.0.1:{port}'}}\nusers:\n- name: u\n  user: {{token: t}}\ncontexts:\n- name: {CONTEXT}\n  context: {{cluster: c, user: u}}\n"),
        );
        for folder in ["bin", "environments", "home", "cluster"] {
            std::fs::create_dir(world.path(folder)).unwrap();
        }
        world.write("starts", "");
        let tree = xtask::repo::Tree::discover(Utf8Path::from_path(&world.path("")).unwrap()).unwrap();
        let versions: Vec<(String, String)> =
            xtask::world::tools::pinned(&tree).unwrap().into_iter().map(|tool| (tool.name, tool.version)).collect();
        for program in PROGRAMS {
            let version = versions.iter().find(|(name, _)| name == program).map_or("", |(_, version)| version);
            let script = SCRIPT.replace("WORLD", world.path("").to_str().unwrap()).replace("VERSION", version);
            write_program(&world.path("bin").join(program), &script);
        }
        world
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// The folder with a folder of each run.
    fn runs(&self) -> PathBuf {
        self.path("state").join(CONTEXT).join("runs")
    }

    fn write(&self, relative: &str, text: &str) {
        std::fs::write(self.path(relative), text).unwrap();
    }

    pub fn edit(&self, relative: &str, change: impl FnOnce(String) -> String) {
        edit(&self.path(relative), change);
    }

    /// The tool in this world, run by duct alongside the test; both of its streams are captured.
    fn xtask(&self, arguments: &[&str]) -> Expression {
        self.run(arguments, &[]).stderr_to_stdout().stdout_capture()
    }

    /// The same with more variables, and the test's own streams.
    pub fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Expression {
        let own = |name: &str| self.path(name).display().to_string();
        let machine = [
            ("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", own("bin"))),
            ("HOME", own("home")),
            ("KUBECONFIG", own("kubeconfig")),
            ("AMEIDE_STATE_DIR", own("state")),
            ("AMEIDE_CACHE_DIR", own("cache")),
            ("INFRA_CRITICAL_PATH", "10-bootstrap".to_owned()),
        ];
        let variables = variables.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let arguments = [&["--env", "ci", "--no-lab", "--yes"], arguments].concat();
        let tool = duct::cmd(env!("CARGO_BIN_EXE_xtask"), arguments).dir(self.path("")).stdin_null();
        tool.full_env(machine.into_iter().chain(variables)).unchecked()
    }

    /// `up` with its output captured: it does all of its work, and its checklist finds that the
    /// stand-in's release is in no cluster.
    fn up(&self) -> Option<i32> {
        let (code, text) = said(self.xtask(&["up"]));
        assert!(text.contains("[10-bootstrap] in place: 1 release"), "{text}\n{:#?}", self.starts());
        assert!(text.contains("[up] https://127.0.0.1:") && text.contains(" → ameide/front:443\n"), "{text}");
        assert!(text.contains("cargo xtask --env ci open NAME, of front"), "{text}");
        code
    }

    /// `PID PROGRAM ARGUMENTS` of each stand-in that was started.
    pub fn starts(&self) -> Vec<String> {
        std::fs::read_to_string(self.path("starts")).unwrap().lines().map(str::to_owned).collect()
    }

    /// As if a cluster had been created and found ready.
    pub fn with_a_cluster(&self) {
        let path = camino::Utf8PathBuf::from_path_buf(self.path("infra/docker/ci/k3d.yaml")).unwrap();
        let config = xtask::repo::k3d::K3dConfig::read(&path).unwrap();
        let canonical = config.canonical();
        let label = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&canonical);
        self.write("cluster/label", &label);
        self.write("cluster/made", "");
        self.write("cluster/stamp", "");
        let marker = json!({"cluster": config.name(), "clusterId": "made",
            "configHash": hex(canonical.as_bytes())[..16], "time": "2026-01-01T00:00:00Z"});
        std::fs::create_dir_all(self.path("state").join(CONTEXT)).unwrap();
        self.write(&format!("state/{CONTEXT}/k3d-cluster-ready"), &marker.to_string());
    }
}

/// Every program: records that it runs and with what environment, takes a moment, and answers as
/// far as xtask needs it. `docker` and `k3d` know one cluster.
const SCRIPT: &str = r#"#!/bin/sh
name=${0##*/}
echo "$$ $name $*" >>WORLD/starts
if [ -r /proc/$$/environ ]; then tr '\0' '\n' </proc/$$/environ; else env; fi >"WORLD/environments/$name.$$"
case "$1" in version) sleep 0.02; echo "VERSION"; exit 0;; esac
container() {
  labels='"k3d.cluster":"ameide-ci"'
  [ "$1" = k3d-ci-reg ] && labels=
  [ "$1" = k3d-ameide-ci-server-0 ] && labels="$labels,\"ameide.dev/config\":\"$(cat WORLD/cluster/label)\",\"ameide.dev/lab\":\"false\""
  echo "$sep{\"Id\":\"made\",\"Name\":\"/$1\",\"State\":{\"Running\":true,\"Status\":\"running\"},\"HostConfig\":{\"NetworkMode\":\"bridge\"},\"Config\":{\"Image\":\"i\",\"Labels\":{$labels}}}"
  sep=,
}
case "$name $1 $2" in
"docker info "*) sleep 0.02; echo '{"ServerVersion":"29.0.0","Driver":"overlay2"}' ;;
"docker ps "*)
  sleep 0.02
  case "$*" in *lab=true*) exit 0;; esac
  if [ -e WORLD/cluster/made ]; then printf 'k3d-ameide-ci-server-0\nk3d-ameide-ci-serverlb\n'; fi ;;
"docker container inspect")
  sleep 0.02
  shift 2
  echo '['
  sep=
  for one; do
    case $one in
    k3d-ci-reg) container "$one" ;;
    k3d-ameide-ci-*) if [ -e WORLD/cluster/made ]; then container "$one"; else absent=$one; fi ;;
    *) absent=$one ;;
    esac
  done
  echo ']'
  [ -z "$absent" ] || { echo "Error response from daemon: No such container: $absent" >&2; exit 1; } ;;
"docker cp "*) sleep 0.05; [ -e WORLD/cluster/stamp ] || { echo 'Error response from daemon: Could not find the file /etc/ameide-created in container k3d-ameide-ci-server-0' >&2; exit 1; } ;;
"docker exec "*) sleep 0.05; : >WORLD/cluster/stamp ;;
"docker rm "*) rm -f WORLD/cluster/* ;;
"k3d cluster create")
  sleep 0.3
  for one; do case $one in ameide.dev/config=*) one=${one#*=}; echo "${one%@all}" >WORLD/cluster/label;; esac; done
  : >WORLD/cluster/made ;;
"k3d cluster delete") sleep 0.2; rm -f WORLD/cluster/* ;;
"k3d kubeconfig "*) sleep 0.02; cat WORLD/kubeconfig ;;
k3d*) sleep 0.1 ;;
helmfile*)
  sleep 0.15
  case " $* " in
  *' list '*) echo '[{"name":"stand-in","namespace":"ameide","enabled":true,"installed":true,"labels":"","chart":"","version":""}]' ;;
  *' sync '*) sleep 0.4; WORLD/bin/helm upgrade >/dev/null ;;
  esac ;;
helm*) sleep 0.1 ;;
*) sleep 0.05 ;;
esac
"#;

/// The exit code, and what it printed.
pub fn said(command: Expression) -> (Option<i32>, String) {
    ended(&command.start().unwrap())
}

pub fn ended(child: &Handle) -> (Option<i32>, String) {
    let output = child.wait().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

pub fn signal(child: &Handle, signal: libc::c_int) {
    child.send_signal(signal).unwrap();
}

/// A process's id, its parent's id and its state, from the format of proc(5).
#[cfg(target_os = "linux")]
fn read_stat(stat: &str) -> Option<(u32, u32, char)> {
    let (head, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let (state, parent) = (words.next()?.chars().next()?, words.next()?.parse().ok()?);
    Some((head.split(' ').next()?.parse().ok()?, parent, state))
}

#[cfg(target_os = "linux")]
fn processes() -> Vec<(u32, u32, char)> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| read_stat(&std::fs::read_to_string(entry.path().join("stat")).ok()?)).collect()
}

/// The same through ps, which every other system has.
#[cfg(not(target_os = "linux"))]
fn processes() -> Vec<(u32, u32, char)> {
    let output = std::process::Command::new("ps").args(["-A", "-o", "pid=,ppid=,state="]).output().unwrap();
    let read = |line: &str| {
        let mut words = line.split_whitespace();
        let (pid, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((pid, parent, words.next()?.chars().next()?))
    };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(read).collect()
}

/// The state of a process; `None` if there is no such process.
fn state_of(pid: u32) -> Option<char> {
    #[cfg(target_os = "linux")]
    let found = read_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?);
    #[cfg(not(target_os = "linux"))]
    let found = processes().into_iter().find(|(number, _, _)| *number == pid);
    found.map(|(_, _, state)| state)
}

/// The id and state of each child of a process.
fn children(parent: u32) -> Vec<(u32, char)> {
    let of = |(pid, its_parent, state): (u32, u32, char)| (its_parent == parent).then_some((pid, state));
    processes().into_iter().filter_map(of).collect()
}

/// How many moments of a run are tried, and how many in parallel: most of a run is waiting for
/// programs.
const MOMENTS: usize = 20;
const AT_A_TIME: usize = 5;

/// Interrupts a command at moments spread over its run, each time in its own world: shortly after a
/// certain number of its programs were started, out of those that a whole run starts. What is
/// started after the signal is counted, not timed: the run is stopped while it is signalled.
fn interrupted_at_every_moment(arguments: &[&str], cluster: bool) {
    let world = || {
        let world = World::new();
        if cluster {
            world.with_a_cluster();
        }
        world
    };
    let reference = world();
    let started = Instant::now();
    if arguments == ["up"] {
        reference.up();
    } else {
        let (code, text) = said(reference.xtask(arguments));
        assert_eq!(code, Some(0), "{text}\n{:#?}", reference.starts());
    }
    let (takes, programs) = (started.elapsed(), reference.starts().len());
    println!("{arguments:?}: {takes:?}, {programs} programs");
    let interrupted = AtomicUsize::new(0);
    side_by_side(AT_A_TIME, 0..MOMENTS, |moment| {
        let world = world();
        let child = world.xtask(arguments).start().unwrap();
        let pid = child.pids()[0];
        // From when it handles signals at all.
        eventually("it runs", || world.runs().exists());
        let has_ended = || child.try_wait().unwrap().is_some();
        eventually("so many programs", || world.starts().len() >= programs * moment / MOMENTS || has_ended());
        std::thread::sleep(takes / programs as u32 * (moment as u32 % 4) / 4);
        if has_ended() {
            return;
        }
        signal(&child, libc::SIGSTOP);
        eventually("it stands still", || matches!(state_of(pid), None | Some('T' | 'Z')));
        if state_of(pid) != Some('T') {
            return;
        }
        let logged = |pid: u32| world.starts().iter().any(|line| line.starts_with(&format!("{pid} ")));
        // A child that was being started is running now.
        eventually("its children run", || children(pid).iter().all(|(child, state)| *state == 'Z' || logged(*child)));
        let (before, lived) = (world.starts(), world.path("cluster/made").exists());
        signal(&child, libc::SIGINT);
        signal(&child, libc::SIGCONT);
        let (code, text) = ended(&child);
        let after = world.starts();
        // Helmfile's own Helm is started by Helmfile.
        let new: Vec<&String> = after[before.len()..].iter().filter(|line| !line.contains(" helm upgrade")).collect();
        assert_eq!(new, Vec::<&String>::new(), "moment {moment}: started after the interrupt\n{text}\n{before:#?}");
        assert_eq!(code, Some(130), "moment {moment}\n{text}\n{after:#?}");
        let deleting = before.iter().any(|line| line.contains(" k3d cluster delete"));
        assert!(!lived || deleting || world.path("cluster/made").exists(), "moment {moment}: destroyed\n{text}");
        assert!(!world.path("state").join(CONTEXT).join("k3d-cluster.lock").exists(), "moment {moment}");
        interrupted.fetch_add(1, Ordering::SeqCst);
    });
    let interrupted = interrupted.into_inner();
    println!("{arguments:?}: {interrupted} of {MOMENTS} moments were in its run");
    assert!(interrupted >= MOMENTS / 2, "{interrupted}");
}

#[test]
fn up_is_interrupted_at_any_moment() {
    interrupted_at_every_moment(&["up"], false);
}

#[test]
fn a_layer_is_interrupted_at_any_moment() {
    interrupted_at_every_moment(&["layer", "10"], true);
}

#[test]
fn cluster_recreate_is_interrupted_at_any_moment() {
    interrupted_at_every_moment(&["cluster", "recreate", "--allow-destroy=cluster"], true);
}

/// In a process group of its own, as a shell starts it: in one without a shell the system suspends
/// nothing.
fn as_a_job(command: Expression) -> Handle {
    let command = command.before_spawn(|command| {
        command.process_group(0);
        Ok(())
    });
    command.start().unwrap()
}

#[test]
fn a_run_that_holds_the_cluster_is_not_suspended_and_says_so() {
    let world = World::new();
    world.with_a_cluster();
    world.edit("bin/helmfile", |text| {
        text.replace("*' sync '*) sleep 0.4;", "*' sync '*) until [ -e WORLD/go ]; do sleep 0.02; done;")
            .replace("WORLD", world.path("").to_str().unwrap())
    });
    let child = as_a_job(world.xtask(&["layer", "10"]));
    let pid = child.pids()[0];
    eventually("Helmfile runs", || world.starts().iter().any(|line| line.contains(" sync ")));
    signal(&child, libc::SIGTSTP);
    let record = || {
        let runs = std::fs::read_dir(world.runs()).unwrap().flatten();
        runs.map(|run| std::fs::read_to_string(run.path().join("record.jsonl")).unwrap()).collect::<String>()
    };
    eventually("it answers", || record().contains("not suspended") || state_of(pid) == Some('T'));
    let state = state_of(pid);
    world.write("go", "");
    signal(&child, libc::SIGCONT);
    let (code, text) = ended(&child);
    assert_ne!(state, Some('T'), "{text}");
    assert!(code == Some(0) && text.contains("not suspended: this run holds the cluster"), "{text}");
}

#[test]
fn a_command_that_holds_nothing_is_suspended_as_usual() {
    let world = World::new();
    world.with_a_cluster();
    world.server.silent.store(true, Ordering::SeqCst);
    let child = as_a_job(world.xtask(&["releases"]));
    let pid = child.pids()[0];
    eventually("it runs", || world.runs().exists());
    for _ in 0..3 {
        signal(&child, libc::SIGTSTP);
        eventually("it is suspended", || state_of(pid) == Some('T'));
        signal(&child, libc::SIGCONT);
        eventually("it goes on", || state_of(pid) != Some('T'));
    }
    signal(&child, libc::SIGTERM);
    let (code, text) = ended(&child);
    assert!(code == Some(143) && !text.contains("suspended"), "{text}");
}

#[test]
fn an_api_that_never_answers_holds_no_interrupt_up() {
    let world = World::new();
    world.with_a_cluster();
    world.server.silent.store(true, Ordering::SeqCst);
    side_by_side(3, [&["layer", "10"][..], &["releases"], &["checklist"]], |arguments| {
        let child = world.xtask(arguments).start().unwrap();
        let pid = child.pids()[0];
        let runs = world.runs();
        let is_of_this = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().ends_with(&format!("-{pid}"));
        eventually("it runs", || std::fs::read_dir(&runs).is_ok_and(|runs| runs.flatten().any(is_of_this)));
        std::thread::sleep(Duration::from_millis(300));
        let asked = Instant::now();
        signal(&child, libc::SIGTERM);
        let (code, text) = ended(&child);
        println!("{arguments:?}: {:?} from the signal to the end", asked.elapsed());
        assert_eq!(code, Some(143), "{text}");
    });
}

#[test]
fn no_program_is_given_an_account() {
    let world = World::new();
    let secrets = [
        "DOCKERHUB_TOKEN",
        "DCKR_PAT",
        "GITHUB_TOKEN",
        "GH_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AZURE_CLIENT_SECRET",
        "NPM_TOKEN",
        "DOCKER_PASSWORD",
        "HELM_REPO_PASSWORD",
        "SOMETHING_ELSE",
    ];
    let needed = ["PATH", "HOME", "HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE", "LC_ALL", "XDG_CONFIG_HOME"];
    let run = |world: &World, arguments: &[&str]| {
        let mut variables = secrets.map(|name| (name, "s3cret")).to_vec();
        let home = world.path("home").display().to_string();
        variables.extend([
            ("DOCKERHUB_USERNAME", "anna"),
            ("DCKR_USERNAME", "anna"),
            // Nothing here uses a proxy: the variables are only passed on.
            ("HTTPS_PROXY", "http://127.0.0.1:9"),
            ("no_proxy", "*"),
            ("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"),
            ("LC_ALL", "C"),
            ("XDG_CONFIG_HOME", &home),
            // Helm must work on the cluster that xtask looks at.
            ("HELM_KUBEAPISERVER", "https://elsewhere.invalid"),
            ("HELM_NAMESPACE", "elsewhere"),
        ]);
        said(world.run(arguments, &variables).stderr_to_stdout().stdout_capture())
    };
    // Only xtask itself uses the account: no Secret is needed here.
    world.edit("infra/kubernetes/environments/ci/env.yaml", |text| text.replace("fromShell: true", "fromShell: false"));
    let (_, text) = run(&world, &["up"]);
    assert!(text.contains("[10-bootstrap] in place: 1 release"), "{text}");
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(world.path("environments")).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let name = name.split('.').next().unwrap().to_owned();
        let environment = std::fs::read_to_string(entry.path()).unwrap();
        assert!(!environment.contains("s3cret"), "{name}:\n{environment}");
        assert!(!environment.contains("elsewhere"), "{name}:\n{environment}");
        for needed in needed {
            assert!(environment.lines().any(|line| line.starts_with(&format!("{needed}="))), "{name} has no {needed}");
        }
        let config = environment.lines().any(|line| line.starts_with("KUBECONFIG="));
        assert_eq!(config, matches!(name.as_str(), "helm" | "helmfile" | "k3d" | "kubectl"), "{name}");
        seen.insert(name);
    }
    for program in ["docker", "helm", "helmfile", "k3d"] {
        assert!(seen.contains(program), "{program} was not started: {seen:?}");
    }
}

#[test]
fn a_cloud_s_account_reaches_helm_where_the_context_signs_in_by_a_plugin() {
    let world = World::new();
    world.with_a_cluster();
    world.edit("kubeconfig", |text| {
        let plugin = world.path("bin").join("kubectl").display().to_string();
        text.replace(
            "{token: t}",
            &format!("{{exec: {{apiVersion: client.authentication.k8s.io/v1, command: '{plugin}', args: [token], interactiveMode: Never}}}}"),
        )
    });
    let account = [("AWS_SECRET_ACCESS_KEY", "for the cloud"), ("GITHUB_TOKEN", "s3cret"), ("DCKR_PAT", "s3cret")];
    // The stand-in issues no token: how the run ends does not matter here.
    let (_, text) = said(world.run(&["layer", "10"], &account).stderr_to_stdout().stdout_capture());
    let environment = |program: &str| {
        let entries = std::fs::read_dir(world.path("environments")).unwrap().flatten();
        let of = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{program}.")));
        of.map(|entry| std::fs::read_to_string(entry.path()).unwrap()).collect::<String>()
    };
    assert!(environment("kubectl").contains("for the cloud"), "{text}\n{:#?}", world.starts());
    assert!(!environment("docker").contains("for the cloud"));
    for program in PROGRAMS {
        assert!(!environment(program).contains("s3cret"), "{program}");
    }
}

#[test]
fn output_that_nobody_takes_ends_no_run() {
    let world = World::new();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    // A pipe whose reader is gone.
    let nobody = || std::io::pipe().unwrap().1;
    // Standard error closed by its reader, and on a full disk: the work is done all the same.
    let unread = world.run(&["up"], &[]).stdout_file(nobody()).stderr_file(nobody()).run().unwrap();
    assert_eq!(unread.status.code(), World::new().up());
    let unread = world.run(&["layer", "10"], &[]).stdout_capture().stderr_file(full());
    assert_eq!(said(unread).0, Some(0));
    // Data: a reader that stops early is no failure, lost data is one.
    for arguments in [&["layer", "--list"][..], &["--output", "json", "layer", "--list"], &["--help"]] {
        let output = world.run(arguments, &[]).stdout_file(nobody()).stderr_capture().run().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let output = world.run(&["layer", "--list"], &[]).stdout_file(full()).stderr_capture().run().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot write to standard output") && !text.contains("panicked"), "{text}");
}

#[test]
fn a_reader_that_stands_still_holds_neither_the_run_nor_its_interrupt_up() {
    let world = World::new();
    world.with_a_cluster();
    // Far more than fits into a pipe, all of it printed; then the interrupt ends it at once.
    world.edit("bin/helmfile", |text| {
        text.replace(
            "*' sync '*) sleep 0.4;",
            "*' sync '*) yes 'a line that nobody reads' | head -n 20000; touch WORLD/synced; exec sleep 600;",
        )
        .replace("WORLD", world.path("").to_str().unwrap())
    });
    // Nobody reads it, but it is not closed.
    let (_unread, written) = std::io::pipe().unwrap();
    let child = world.run(&["-v", "layer", "10"], &[]).stdout_null().stderr_file(written).start().unwrap();
    eventually("Helmfile has printed all", || world.path("synced").exists());
    signal(&child, libc::SIGINT);
    assert_eq!(child.wait().unwrap().status.code(), Some(130));
}

#[test]
fn a_terminal_that_goes_ends_the_run_as_terminated() {
    let world = World::new();
    world.with_a_cluster();
    let [terminal, ours] = terminal();
    let child = world.run(&["layer", "10"], &[]).before_spawn(move |command| {
        on(command, terminal.try_clone()?);
        Ok(())
    });
    let child = child.start().unwrap();
    eventually("Helmfile runs", || world.starts().iter().any(|line| line.contains(" sync ")));
    drop(ours);
    assert_eq!(child.wait().unwrap().status.code(), Some(143));
    assert!(!world.path("state").join(CONTEXT).join("k3d-cluster.lock").exists());
}
