//! xtask with stand-ins for every program that it starts, and for the cluster's API
//! and registry: what each program is given, what an interrupt does at any moment,
//! and what becomes of a run whose output nobody takes. No cluster, no engine.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use camino::Utf8Path;
use sha2::Digest;

const CONTEXT: &str = "k3d-ameide-ci";

fn hex(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The one manifest that the registry has.
const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;

/// The API server and the registry, on one port.
#[derive(Default)]
struct Server {
    lease: Mutex<Option<String>>,
    /// Takes requests and answers none.
    silent: std::sync::atomic::AtomicBool,
}

impl Server {
    fn start() -> (Arc<Self>, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Arc::new(Self::default());
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = serving.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        (server, port)
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let (mut first, mut length) = (String::new(), 0);
            reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                if line.trim().is_empty() {
                    break;
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().ok()?;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            let mut words = first.split(' ');
            let (method, target) = (words.next()?, words.next()?);
            let silent = self.silent.load(std::sync::atomic::Ordering::SeqCst);
            if silent || target.contains("watch=true") {
                // Until the other side goes.
                let _ = reader.read(&mut [0]);
                return None;
            }
            let (code, kind, answer) = self.answer(method, target.split('?').next()?, &String::from_utf8_lossy(&body));
            let head = format!(
                "HTTP/1.1 {code} X\r\nDate: {}\r\nContent-Type: {kind}\r\nDocker-Content-Digest: sha256:{}\r\nContent-Length: {}\r\n\r\n",
                httpdate::fmt_http_date(std::time::SystemTime::now()),
                hex(MANIFEST.as_bytes()),
                answer.len()
            );
            let shown = if method == "HEAD" { "" } else { &answer };
            (&stream).write_all((head + shown).as_bytes()).ok()?;
        }
    }

    fn answer(&self, method: &str, path: &str, body: &str) -> (u16, &'static str, String) {
        let json = |value: serde_json::Value| (200, "application/json", value.to_string());
        let list = |items: serde_json::Value| {
            json(
                serde_json::json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
            )
        };
        let ready = serde_json::json!([{"type": "Ready", "status": "True"}]);
        let absent = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
            "reason": "NotFound", "message": "not found"});
        match (method, path) {
            (_, "/readyz") => (200, "text/plain", "ok".to_owned()),
            (_, "/version") => json(serde_json::json!({"major": "1", "minor": "33", "gitVersion": "v1.33.4"})),
            (_, path) if path.starts_with("/v2/") && path.contains("/manifests/") => {
                (200, "application/vnd.oci.image.manifest.v1+json", MANIFEST.to_owned())
            }
            (_, path) if path.starts_with("/v2/") => json(serde_json::json!({})),
            ("PUT" | "POST", path) if path.contains("/leases") => {
                *self.lease.lock().unwrap() = Some(body.to_owned());
                (200, "application/json", body.to_owned())
            }
            ("GET", path) if path.ends_with("/leases/ameide-deploy") => match &*self.lease.lock().unwrap() {
                Some(lease) => (200, "application/json", lease.clone()),
                None => (404, "application/json", absent.to_string()),
            },
            ("POST" | "PUT" | "PATCH", _) => (200, "application/json", body.to_owned()),
            ("DELETE", _) => json(serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
            (_, "/api/v1/nodes") => {
                list(serde_json::json!([{"metadata": {"name": "node"}, "status": {"conditions": ready}}]))
            }
            (_, "/apis/storage.k8s.io/v1/storageclasses") => {
                list(serde_json::json!([{"metadata": {"name": "local-path",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "x"}]))
            }
            (_, "/api/v1/namespaces/kube-system/pods") => {
                list(serde_json::json!([{"metadata": {"name": "dns"}, "status": {"conditions": ready}}]))
            }
            (_, "/api/v1/namespaces/default/pods/registry-check") => json(serde_json::json!({"kind": "Pod",
                "apiVersion": "v1", "metadata": {"name": "registry-check"}, "status": {"phase": "Succeeded"}})),
            (_, path) if path.strip_prefix("/api/v1/namespaces/").is_some_and(|name| !name.contains('/')) => {
                let name = path.rsplit('/').next().unwrap_or_default();
                json(serde_json::json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name},
                    "status": {"phase": "Active"}}))
            }
            (_, path)
                if ["pods", "events", "secrets", "namespaces", "deployments", "statefulsets", "jobs", "services"]
                    .iter()
                    .any(|plural| path.ends_with(&format!("/{plural}"))) =>
            {
                list(serde_json::json!([]))
            }
            _ => (404, "application/json", absent.to_string()),
        }
    }
}

/// A tree, a machine and a cluster to themselves, all of them stand-ins.
struct World {
    folder: tempfile::TempDir,
    server: Arc<Server>,
}

const PROGRAMS: [&str; 7] = ["docker", "k3d", "helm", "helmfile", "kubectl", "go", "apt-get"];

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (server, port) = Server::start();
        let world = Self { folder, server };
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let copied = Command::new("cp").arg("-r").arg(root.join("infra")).arg(world.path("")).status().unwrap();
        assert!(copied.success());
        world.edit("infra/kubernetes/environments/ci/env.yaml", |text| {
            text.replace("127.0.0.1:5001", &format!("127.0.0.1:{port}"))
        });
        // Never the ports of a cluster that is there.
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        world.edit("infra/docker/ci/k3d.yaml", |text| text.replace("6551", &free()).replace("8443", &free()));
        let digest = hex(MANIFEST.as_bytes());
        world.write(
            "infra/images/images.lock",
            &format!("version: 1\nplatforms: [linux/amd64]\nimages:\n- id: busybox\n  image: docker.io/library/busybox:1.35.0@sha256:{digest}\n  target: third-party/busybox\n  mediaType: application/vnd.oci.image.manifest.v1+json\n  size: {}\n  mode: manifest\n  targetDigest: sha256:{digest}\n", MANIFEST.len()),
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
            let path = world.path("bin").join(program);
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        world
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    fn write(&self, relative: &str, text: &str) {
        std::fs::write(self.path(relative), text).unwrap();
    }

    fn edit(&self, relative: &str, change: impl FnOnce(String) -> String) {
        let text = std::fs::read_to_string(self.path(relative)).unwrap();
        self.write(relative, &change(text));
    }

    fn xtask(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.current_dir(self.path("")).args(["--env", "ci", "--no-lab", "--yes"]).args(arguments);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.path("bin").display());
        command.env_clear().env("PATH", path).env("HOME", self.path("home")).env("KUBECONFIG", self.path("kubeconfig"));
        command.env("AMEIDE_STATE_DIR", self.path("state")).env("AMEIDE_CACHE_DIR", self.path("cache"));
        command.env("INFRA_CRITICAL_PATH", "10-bootstrap");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `up` with its output taken: it does all of its work, and its checklist finds that
    /// the stand-in's release is in no cluster.
    fn up(&self) -> Option<i32> {
        let (status, text) = said(self.xtask(&["up"]).spawn().unwrap());
        assert!(text.contains("[10-bootstrap] in place: 1 release"), "{text}\n{:#?}", self.starts());
        status.code()
    }

    /// `PID PROGRAM ARGUMENTS` of each stand-in that was started.
    fn starts(&self) -> Vec<String> {
        std::fs::read_to_string(self.path("starts")).unwrap().lines().map(str::to_owned).collect()
    }

    /// As if a cluster had been made, and found ready.
    fn with_a_cluster(&self) {
        let path = camino::Utf8PathBuf::from_path_buf(self.path("infra/docker/ci/k3d.yaml")).unwrap();
        let config = xtask::repo::k3d::K3dConfig::read(&path).unwrap();
        let canonical = config.canonical();
        let label = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&canonical);
        self.write("cluster/label", &label);
        self.write("cluster/made", "");
        self.write("cluster/stamp", "");
        let marker = serde_json::json!({"cluster": config.name(), "clusterId": "made",
            "configHash": hex(canonical.as_bytes())[..16], "time": "2026-01-01T00:00:00Z"});
        std::fs::create_dir_all(self.path("state").join(CONTEXT)).unwrap();
        self.write(&format!("state/{CONTEXT}/k3d-cluster-ready"), &marker.to_string());
    }
}

/// Every program: writes down that it runs and with what environment, takes a moment,
/// and answers as far as xtask needs it. `docker` and `k3d` know one cluster.
const SCRIPT: &str = r#"#!/bin/sh
name=${0##*/}
echo "$$ $name $*" >>WORLD/starts
tr '\0' '\n' </proc/$$/environ >"WORLD/environments/$name.$$"
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

fn said(child: Child) -> (ExitStatus, String) {
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8_lossy(&text).into_owned())
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success(), "{name} to {pid}");
}

/// `PID` and state of each child of a process.
fn children(parent: u32) -> Vec<(u32, char)> {
    let stats = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            let (head, rest) = stat.rsplit_once(") ")?;
            let mut words = rest.split(' ');
            let (state, of) = (words.next()?.chars().next()?, words.next()?.parse::<u32>().ok()?);
            (of == parent).then_some((head.split(' ').next()?.parse().ok()?, state))
        })
        .collect()
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "not within 60 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How many of the moments of a run are tried.
const MOMENTS: u32 = 20;

/// Interrupts a command at evenly spread moments of its run, each time in a world of
/// its own. What is started after the signal was delivered is counted, not timed: the
/// run stands still while it is signalled.
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
        let (status, text) = said(reference.xtask(arguments).spawn().unwrap());
        assert_eq!(status.code(), Some(0), "{text}\n{:#?}", reference.starts());
    }
    let takes = started.elapsed();
    println!("{arguments:?}: {takes:?}, {} programs", reference.starts().len());
    let mut interrupted = 0;
    for moment in 0..MOMENTS {
        let world = world();
        let child = world.xtask(arguments).spawn().unwrap();
        // From when it takes signals at all.
        until("it runs", || world.path("state").join(CONTEXT).join("runs").exists());
        std::thread::sleep(takes * moment / MOMENTS);
        let pid = child.id();
        signal(pid, "STOP");
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        until("it stands still", || state().contains(") T ") || state().contains(") Z "));
        if state().contains(") Z ") {
            continue;
        }
        let logged = |pid: u32| world.starts().iter().any(|line| line.starts_with(&format!("{pid} ")));
        // Who was being started, has been.
        until("its children run", || children(pid).iter().all(|(child, state)| *state == 'Z' || logged(*child)));
        let (before, lived) = (world.starts(), world.path("cluster/made").exists());
        signal(pid, "INT");
        signal(pid, "CONT");
        let (status, text) = said(child);
        let after = world.starts();
        // Helmfile's own Helm is Helmfile's to start or not.
        let new: Vec<&String> = after[before.len()..].iter().filter(|line| !line.contains(" helm upgrade")).collect();
        assert_eq!(new, Vec::<&String>::new(), "moment {moment}: started after the interrupt\n{text}\n{before:#?}");
        assert_eq!(status.code(), Some(130), "moment {moment}\n{text}\n{after:#?}");
        let deleting = before.iter().any(|line| line.contains(" k3d cluster delete"));
        assert!(!lived || deleting || world.path("cluster/made").exists(), "moment {moment}: destroyed\n{text}");
        assert!(!world.path("state").join(CONTEXT).join("k3d-cluster.lock").exists(), "moment {moment}");
        interrupted += 1;
    }
    println!("{arguments:?}: {interrupted} of {MOMENTS} moments were in its run");
    assert!(interrupted >= MOMENTS / 4, "{interrupted}");
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

#[test]
fn an_api_that_never_answers_holds_no_interrupt_up() {
    let world = World::new();
    world.with_a_cluster();
    world.server.silent.store(true, std::sync::atomic::Ordering::SeqCst);
    for arguments in [&["layer", "10"][..], &["releases"], &["checklist"]] {
        let child = world.xtask(arguments).spawn().unwrap();
        let record = || {
            let runs = world.path("state").join(CONTEXT).join("runs");
            std::fs::read_dir(runs).is_ok_and(|runs| {
                runs.flatten().any(|run| {
                    run.path().ends_with(format!("{}", child.id()))
                        || run.file_name().to_string_lossy().ends_with(&format!("-{}", child.id()))
                })
            })
        };
        until("it runs", record);
        std::thread::sleep(Duration::from_millis(300));
        let asked = Instant::now();
        signal(child.id(), "TERM");
        let (status, text) = said(child);
        println!("{arguments:?}: {:?} from the signal to the end", asked.elapsed());
        assert_eq!(status.code(), Some(143), "{text}");
    }
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
        let mut command = world.xtask(arguments);
        for name in secrets {
            command.env(name, "s3cret");
        }
        command.env("DOCKERHUB_USERNAME", "anna").env("DCKR_USERNAME", "anna");
        // No proxy for anything here: they are only handed on.
        command
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .env("no_proxy", "*")
            .env("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt");
        command.env("LC_ALL", "C").env("XDG_CONFIG_HOME", world.path("home"));
        // Helm is to work where xtask looks.
        command.env("HELM_KUBEAPISERVER", "https://elsewhere.invalid").env("HELM_NAMESPACE", "elsewhere");
        said(command.spawn().unwrap())
    };
    // The account is xtask's own affair: no Secret is asked for here.
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
    let mut command = world.xtask(&["layer", "10"]);
    command.env("AWS_SECRET_ACCESS_KEY", "for the cloud").env("GITHUB_TOKEN", "s3cret").env("DCKR_PAT", "s3cret");
    // The stand-in gives no token: how the run ends is not what is looked at.
    let (_, text) = said(command.spawn().unwrap());
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
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    // Standard error closed by its reader, and on a full disk: the work is done all the same.
    let mut child = world.xtask(&["up"]).spawn().unwrap();
    drop(child.stderr.take());
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), World::new().up());
    let mut command = world.xtask(&["layer", "10"]);
    let (status, text) = said(command.stderr(full()).spawn().unwrap());
    assert_eq!(status.code(), Some(0), "{text}");
    // Data: a reader that had enough is no failure, data that is lost is one.
    for arguments in [&["layer", "--list"][..], &["--output", "json", "layer", "--list"], &["--help"]] {
        let mut child = world.xtask(arguments).spawn().unwrap();
        drop(child.stdout.take());
        let (status, text) = said(child);
        assert_eq!(status.code(), Some(0), "{arguments:?}: {text}");
    }
    let mut command = world.xtask(&["layer", "--list"]);
    let (status, text) = said(command.stdout(full()).spawn().unwrap());
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("cannot write to standard output") && !text.contains("panicked"), "{text}");
}

#[test]
fn a_reader_that_stands_still_holds_neither_the_run_nor_its_interrupt_up() {
    let world = World::new();
    world.with_a_cluster();
    // Far more than a pipe takes, all of it printed.
    world.edit("bin/helmfile", |text| {
        text.replace(
            "*' sync '*) sleep 0.4;",
            "*' sync '*) yes 'a line that nobody reads' | head -n 20000; touch WORLD/synced; sleep 600;",
        )
        .replace("WORLD", world.path("").to_str().unwrap())
    });
    let mut child = world.xtask(&["-v", "layer", "10"]).spawn().unwrap();
    // Nobody reads it, and it is not closed.
    let _unread = child.stderr.take();
    until("Helmfile has printed all", || world.path("synced").exists());
    signal(child.id(), "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_terminal_that_goes_ends_the_run_as_terminated() {
    let world = World::new();
    world.with_a_cluster();
    let [terminal, ours] = terminal();
    let mut command = world.xtask(&["layer", "10"]);
    command.stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap()).stderr(terminal);
    // SAFETY: all three calls are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            // These tests may have been started by `nohup`, which xtask would respect.
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    drop(command);
    until("Helmfile runs", || world.starts().iter().any(|line| line.contains(" sync ")));
    drop(ours);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!world.path("state").join(CONTEXT).join("k3d-cluster.lock").exists());
}

/// A new terminal: the side of a program, and ours.
fn terminal() -> [std::fs::File; 2] {
    use std::os::fd::FromRawFd;
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: both are written by the call, and owned from then on.
    unsafe {
        let null = std::ptr::null_mut();
        assert_eq!(libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast()), 0);
        libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(theirs, libc::F_SETFD, libc::FD_CLOEXEC);
        [std::fs::File::from_raw_fd(theirs), std::fs::File::from_raw_fd(ours)]
    }
}
