//! Nothing is destroyed without consent, whatever Docker's command answers: with `docker`, `k3d`,
//! `helm` and `helmfile` as stand-ins that log every call, every possible answer is given to each
//! look, in each state that a cluster can be in.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use xshell::cmd;
use xtask::repo::k3d::K3dConfig;

use crate::support::server::{Answer, Server};
use crate::support::{
    self, copy_configuration, edit, free_port, on, root, shell, side_by_side, terminal, write_program,
};

const SERVER: &str = "k3d-ameide-ci-server-0";
const BALANCER: &str = "k3d-ameide-ci-serverlb";
const REGISTRY: &str = "k3d-ci-reg";
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A machine with its own tree, state and stand-ins.
pub struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        copy_configuration(machine.folder.path());
        // Its own ports; something answers at the registry's.
        edit(&machine.path("infra/docker/ci/k3d.yaml"), |text| {
            text.replace("6551", &free_port().to_string())
                .replace("127.0.0.1:8443", &format!("127.0.0.1:{}", free_port()))
        });
        let registry = Server::start(|_| Answer::new(200, "{}")).address;
        edit(&machine.path("infra/kubernetes/environments/ci/env.yaml"), |text| {
            text.replace("127.0.0.1:5001", &registry)
        });
        for folder in ["bin", "world/container", "world/volume", "world/network", "world/image", "cache", "state"] {
            std::fs::create_dir_all(machine.path(folder)).unwrap();
        }
        std::fs::write(machine.path("calls"), "").unwrap();
        write_program(&machine.path("bin/docker"), &DOCKER.replace("HERE", machine.folder.path().to_str().unwrap()));
        for tool in ["k3d", "helm", "helmfile"] {
            let version = pinned(&root(), tool);
            let log = machine.path("calls");
            write_program(
                &machine.path("bin").join(tool),
                &format!(
                    "#!/bin/sh\ncase \"$*\" in *version*) echo '{version}'; exit 0;; esac\n\
                     echo \"{tool} $*\" >> {}\nif [ -e {} ]; then cat {} >&2; exit 1; fi\n",
                    log.display(),
                    machine.path(&format!("{tool}.fails")).display(),
                    machine.path(&format!("{tool}.fails")).display(),
                ),
            );
        }
        machine
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    fn config(&self) -> K3dConfig {
        let path = camino::Utf8PathBuf::from_path_buf(self.path("infra/docker/ci/k3d.yaml")).unwrap();
        K3dConfig::read(&path).unwrap()
    }

    fn put(&self, kind: &str, name: &str, thing: &Value) {
        std::fs::write(self.path(&format!("world/{kind}/{name}")), thing.to_string()).unwrap();
    }

    pub fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        self.command(arguments, variables).output().unwrap()
    }

    fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let _ = std::fs::remove_dir_all(self.path("state/k3d-ameide-ci"));
        std::fs::write(self.path("calls"), "").unwrap();
        let mut command = support::xtask(self.folder.path(), &[&["--env", "ci"], arguments].concat());
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        // With no existing cluster to take the kind from, nothing must be built.
        if !variables.iter().any(|(name, _)| *name == "HTTPS_PROXY") {
            command.arg("--no-lab");
        }
        command.env("PATH", path).env("AMEIDE_STATE_DIR", self.path("state"));
        command.env("AMEIDE_CACHE_DIR", self.path("cache")).env("KUBECONFIG", self.path("kubeconfig"));
        command.env_remove("DOCKER_CONTEXT");
        // No engine is installed or started on the machine that runs the tests.
        command.env("DOCKER_HOST", "unix:///nowhere/docker.sock").envs(variables.iter().copied());
        command
    }

    /// Runs it on a new terminal, and types `keys` once it asks; returns its exit code and what it
    /// showed.
    fn on_a_terminal(&self, arguments: &[&str], keys: &str) -> (Option<i32>, String) {
        self.on_a_terminal_where(arguments, "", keys)
    }

    /// The same, with keys that were typed before it asks.
    fn on_a_terminal_where(&self, arguments: &[&str], earlier: &str, keys: &str) -> (Option<i32>, String) {
        let [theirs, mut ours] = terminal();
        ours.write_all(earlier.as_bytes()).unwrap();
        let mut command = self.command(arguments, &[]);
        on(&mut command, theirs);
        let mut child = command.spawn().unwrap();
        drop(command);
        let (mut shown, mut typed, mut part) = (Vec::new(), false, [0; 4096]);
        // The terminal closes when the last process that holds it has ended.
        while let Ok(count @ 1..) = ours.read(&mut part) {
            shown.extend_from_slice(&part[..count]);
            if !typed && String::from_utf8_lossy(&shown).contains("[y/N]") {
                ours.write_all(keys.as_bytes()).unwrap();
                typed = true;
            }
        }
        let shown = String::from_utf8_lossy(&shown).into_owned();
        assert!(typed, "it never asked:\n{shown}");
        (child.wait().unwrap().code(), shown)
    }

    fn calls(&self) -> Vec<String> {
        std::fs::read_to_string(self.path("calls")).unwrap().lines().map(str::to_owned).collect()
    }

    /// Lets the engine say that a container publishes this port of the machine, or none.
    fn publishes(&self, name: &str, port: Option<u16>) {
        let path = self.path(&format!("world/container/{name}"));
        let mut container: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let binding = port.map(|port| json!([{"HostIp": "127.0.0.1", "HostPort": port.to_string()}]));
        container["NetworkSettings"] = json!({"Ports": {"6443/tcp": binding}});
        self.put("container", name, &container);
    }

    /// Calls that remove something.
    fn destructive(&self) -> Vec<String> {
        let takes = |call: &String| {
            let words: Vec<&str> = call.split(' ').collect();
            words.iter().skip(1).take(2).any(|word| matches!(*word, "rm" | "rmi" | "prune" | "delete" | "kill"))
        };
        self.calls().into_iter().filter(takes).collect()
    }
}

/// The version that the tree pins a tool to.
fn pinned(root: &Path, tool: &str) -> String {
    let text = std::fs::read_to_string(root.join("infra/tools").join(tool).join("go.mod")).unwrap();
    let package = text.lines().find_map(|line| line.strip_prefix("tool ")).unwrap().trim().to_owned();
    let version = |line: &str| {
        let (module, version) = line.trim().trim_start_matches("require ").split_once(' ')?;
        package.starts_with(module).then(|| version.split(' ').next().unwrap().to_owned())
    };
    text.lines().filter(|line| !line.starts_with("tool")).find_map(version).unwrap()
}

/// Docker's command, backed by a folder. If there is a file `fault/WHAT`, it is a script that
/// answers this look instead, and gets the arguments.
const DOCKER: &str = r#"#!/bin/sh
here=HERE
echo "docker $*" >> $here/calls
what=$1
case "$2" in inspect) what=$1-inspect;; esac
if [ -x $here/fault/$what ]; then . $here/fault/$what; fi
case $what in
info) echo '{"ServerVersion":"20.10.24","Driver":"overlay2","CgroupVersion":"2","CgroupDriver":"systemd","DefaultRuntime":"runc"}';;
ps)
  label=${6#label=}; key=${label%%=*}; value=${label#*=}
  for file in $here/world/container/*; do
    if read -r all <$file || [ -n "$all" ]; then case $all in *"\"$key\":\"$value\""*) echo ${file##*/};; esac; fi
  done 2>/dev/null;;
container-inspect|volume-inspect|network-inspect|image-inspect)
  kind=$1; shift 2; status=0; comma=; printf '['
  for name; do
    if [ -e $here/world/$kind/$name ]; then read -r all <$here/world/$kind/$name; printf '%s%s' "$comma" "$all"; comma=,
    else
      case $kind in
      container) echo "Error response from daemon: No such container: $name" >&2;;
      volume) echo "Error response from daemon: get $name: no such volume" >&2;;
      network) echo "Error response from daemon: network $name not found" >&2;;
      image) echo "Error response from daemon: No such image: $name" >&2;;
      esac
      status=1
    fi
  done
  echo ']'; exit $status;;
cp)
  case "$2" in
  *:/etc/ameide-created)
    if [ -e $here/world/unfinished ]; then
      echo "Error response from daemon: Could not find the file /etc/ameide-created in container ${2%%:*}" >&2; exit 1
    fi
    printf 'ameide-created'; head -c 1010 /dev/zero;;
  esac;;
start) if [ -e $here/world/no-start ]; then echo "Error response from daemon: unknown or invalid runtime name: ameide" >&2; exit 1; fi;;
rm)
  for word; do last=$word; done
  for file in $here/world/container/*; do
    read -r all <$file; case $all in *"\"Id\":\"$last\""*) rm $file;; esac
  done;;
esac
"#;

/// An id like the engine's, distinct in its first letters.
fn id(name: &str) -> String {
    format!("{:0<64}", name.bytes().map(|byte| format!("{byte:02x}")).collect::<String>()).chars().take(64).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Running,
    Stopped,
    NeverRan,
}

fn container(name: &str, is: Is, labels: Value) -> Value {
    let (status, started) = match is {
        Is::Running => ("running", "2026-11-25T10:00:00Z"),
        Is::Stopped => ("exited", "2026-11-25T10:00:00Z"),
        Is::NeverRan => ("created", NEVER),
    };
    json!({
        "Id": id(name), "Name": format!("/{name}"), "RestartCount": 0, "Mounts": [],
        "State": {"Running": is == Is::Running, "Status": status, "StartedAt": started},
        "Config": {"Image": "rancher/k3s:v1.33.4-k3s1", "Labels": labels},
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    Healthy,
    Stopped,
    Drifted,
    Foreign,
    BalancerLost,
    ServerLost,
    Unfinished,
    NeverRan,
    RegistryStands,
    RegistryBroken,
    RegistryBrokenWithoutVolume,
    RegistryForeign,
}

const WORLDS: [World; 12] = [
    World::Healthy,
    World::Stopped,
    World::Drifted,
    World::Foreign,
    World::BalancerLost,
    World::ServerLost,
    World::Unfinished,
    World::NeverRan,
    World::RegistryStands,
    World::RegistryBroken,
    World::RegistryBrokenWithoutVolume,
    World::RegistryForeign,
];

impl World {
    pub fn machine(self) -> Machine {
        let machine = Machine::new();
        let applied = machine.config().canonical();
        let applied = if self == Self::Drifted { applied.replace("\"servers\":1", "\"servers\":3") } else { applied };
        let labels = |role: &str| {
            let mut labels = json!({
                "app": "k3d", "k3d.cluster": "ameide-ci", "k3d.role": role, "k3d.version": "v5.8.3",
                "ameide.dev/config": URL_SAFE_NO_PAD.encode(&applied), "ameide.dev/lab": "false",
                "k3d.cluster.token": "secret-token",
            });
            if self == Self::Foreign {
                labels.as_object_mut().unwrap().remove("ameide.dev/config");
            }
            labels
        };
        let is = match self {
            Self::Stopped => Is::Stopped,
            Self::NeverRan => Is::NeverRan,
            _ => Is::Running,
        };
        if self != Self::ServerLost {
            machine.put("container", SERVER, &container(SERVER, is, labels("server")));
        } else {
            let agent = "k3d-ameide-ci-agent-0";
            machine.put("container", agent, &container(agent, Is::Running, labels("agent")));
        }
        if !matches!(self, Self::BalancerLost | Self::Unfinished) {
            machine.put("container", BALANCER, &container(BALANCER, is, labels("loadbalancer")));
        }
        if self == Self::Unfinished {
            std::fs::write(machine.path("world/unfinished"), "").unwrap();
        }
        let mut registry = container(REGISTRY, Is::Running, json!({"app": "k3d", "k3d.role": "registry"}));
        let volume = json!([{"Type": "volume", "Name": REGISTRY, "Destination": "/var/lib/registry"}]);
        registry["Mounts"] = volume;
        let broken = matches!(
            self,
            Self::RegistryBroken | Self::RegistryBrokenWithoutVolume | Self::RegistryForeign | Self::RegistryStands
        );
        if broken {
            registry["State"] = container("", Is::Stopped, json!({}))["State"].clone();
        }
        match self {
            Self::RegistryBrokenWithoutVolume => registry["Mounts"] = json!([]),
            Self::RegistryForeign => registry["Config"]["Labels"] = json!({"app": "theirs"}),
            _ => {}
        }
        if broken && self != Self::RegistryStands {
            std::fs::write(machine.path("world/no-start"), "").unwrap();
        }
        machine.put("container", REGISTRY, &registry);
        machine.put("volume", REGISTRY, &json!({"Name": REGISTRY, "Labels": null}));
        machine
    }

    /// What may be removed without consent: what never ran, holds no data, or whose data survives.
    fn may_go(self) -> BTreeSet<String> {
        let names: &[&str] = match self {
            Self::NeverRan => &[SERVER, BALANCER],
            // Its images are known to be in the volume.
            Self::RegistryBroken | Self::RegistryStands => &[REGISTRY],
            _ => &[],
        };
        names.iter().map(|name| id(name)).collect()
    }

    /// The looks at the engine in this state, including those whose answer is acted on.
    fn looks(self) -> &'static [&'static str] {
        match self {
            Self::Healthy => &["info", "ps", "container-inspect", "cp"],
            Self::NeverRan => &["info", "ps", "container-inspect"],
            Self::Unfinished => &["ps", "container-inspect", "cp"],
            Self::Stopped | Self::Drifted | Self::BalancerLost => &["ps", "container-inspect"],
            Self::Foreign | Self::ServerLost => &["container-inspect"],
            Self::RegistryStands | Self::RegistryBroken | Self::RegistryBrokenWithoutVolume | Self::RegistryForeign => {
                &["container-inspect", "volume-inspect", "start"]
            }
        }
    }

    /// Whether going on requires consent.
    fn needs_consent(self) -> bool {
        matches!(self, Self::Drifted | Self::Foreign | Self::ServerLost | Self::RegistryBrokenWithoutVolume)
    }
}

/// What a look may answer: a name, and the script that gives the answer.
fn answers() -> Vec<(&'static str, String)> {
    let said = [
        (
            "20.10 away",
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        ),
        (
            "29 away",
            "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct and if the daemon is running: dial unix /var/run/docker.sock: connect: no such file or directory",
        ),
        ("connecting", "error during connect: Get \"http://%2Fvar%2Frun%2Fdocker.sock/v1.41/containers/json\": EOF"),
        (
            "denied",
            "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get \"http://%2Fvar%2Frun%2Fdocker.sock/v1.24/info\": dial unix /var/run/docker.sock: connect: permission denied",
        ),
        (
            "500",
            "request returned 500 Internal Server Error for API route and version http://%2Fvar%2Frun%2Fdocker.sock/v1.47/containers/json, check if the server supports the requested API version",
        ),
        ("desktop", "Error response from daemon: dial unix docker.raw.sock: connect: connection refused"),
        (
            "context",
            "Failed to initialize: unable to resolve docker endpoint: context \"desktop-linux\": context not found: open /root/.docker/contexts/meta/x/meta.json: no such file or directory",
        ),
        (
            "version",
            "Error response from daemon: client version 1.52 is too new. Maximum supported API version is 1.41",
        ),
        ("another", "Error response from daemon: No such container: somebody-else"),
        ("storage", "Error response from daemon: open /var/lib/docker/overlay2/x: no such file or directory"),
        (
            "podman",
            "Error: unable to connect to Podman socket: failed to connect: dial unix /run/podman/podman.sock: connect: no such file or directory",
        ),
        ("nothing", ""),
    ];
    let mut all: Vec<(&str, String)> = Vec::new();
    for (name, text) in said {
        all.push((name, format!("echo '[]'; cat >&2 <<'EOT'\n{text}\nEOT\nexit 1\n")));
    }
    all.push(("killed", "printf '[{\"Id\"'; kill -KILL $$; sleep 5\n".to_owned()));
    all.push(("garbage", "echo '<html>proxy</html>'; exit 0\n".to_owned()));
    all.push(("truncated", "printf '[{\"Id\":\"01\",'; exit 0\n".to_owned()));
    all.push(("empty", "exit 0\n".to_owned()));
    all.push(("none of it", "echo '[]'; exit 0\n".to_owned()));
    all.push(("slow", "sleep 0.3\n".to_owned()));
    all
}

fn give(machine: &Machine, look: &str, script: &str) {
    let _ = std::fs::remove_dir_all(machine.path("fault"));
    std::fs::create_dir(machine.path("fault")).unwrap();
    let path = machine.path("fault").join(look);
    write_program(&path, script);
}

/// Asserts that every destructive call is about something that may be removed in this world, by its
/// id.
#[track_caller]
fn nothing_else_went(world: World, machine: &Machine, how: &str, output: &Output) {
    for call in machine.destructive() {
        let target = call.split(' ').next_back().unwrap().to_owned();
        let forced = call.split(' ').any(|word| word == "-f" || word == "--force");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(world.may_go().contains(&target), "{world:?}, {how}: `{call}`\n{text}");
        // The load balancer of an unfinished creation holds nothing, running or not.
        assert!(!forced || target == id(BALANCER), "{world:?}, {how}: `{call}`\n{text}");
    }
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("secret-token") && !machine.calls().iter().any(|call| call.contains("secret-token")));
}

#[test]
fn nothing_is_destroyed_without_consent_whatever_a_look_answers() {
    let runs = AtomicUsize::new(0);
    side_by_side(3, WORLDS, |world| {
        let machine = world.machine();
        let pristine = machine.path("pristine");
        copy(&machine.path("world"), &pristine);
        for look in world.looks() {
            for (name, script) in answers() {
                give(&machine, look, &script);
                for arguments in [&["cluster", "--yes"][..], &["checklist", "--fix", "--yes"]] {
                    // The longer path is tested in a few worlds only: it ends in the same code.
                    if arguments[0] == "checklist" && (world != World::Healthy || *look == "info") {
                        continue;
                    }
                    let output = machine.run(arguments, &[("XTASK_CONFIRM", "1")]);
                    let how = format!("{look} answers {name:?} to {arguments:?}");
                    nothing_else_went(world, &machine, &how, &output);
                    runs.fetch_add(1, Ordering::SeqCst);
                    // No container at all is also an answer.
                    let answered = name == "slow" || (*look == "ps" && name == "empty");
                    if !answered && matches!(*look, "ps" | "info") {
                        assert!(!output.status.success(), "{world:?}, {how}");
                        assert!(machine.destructive().is_empty(), "{world:?}, {how}");
                    }
                    // Nothing else changes this engine's content.
                    if machine.destructive().iter().any(|call| call.starts_with("docker rm")) {
                        copy(&pristine, &machine.path("world"));
                    }
                }
            }
        }
    });
    let runs = runs.into_inner();
    println!("{runs} runs");
    assert!(runs > 500, "{runs}");
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let shell = shell();
    cmd!(shell, "cp -r {from} {to}").quiet().run().unwrap();
}

#[test]
fn each_state_is_left_mended_or_asked_about() {
    // With a limit: an agent that does not reach its server would be waited for forever.
    const START: &str = "k3d cluster start ameide-ci --wait --timeout ";
    side_by_side(2, WORLDS, |world| {
        for flags in [&[][..], &["--yes"], &["--allow-destroy=release"], &["--yes", "--allow-destroy=release"]] {
            let machine = world.machine();
            let output = machine.run(&[&["cluster"], flags].concat(), &[]);
            nothing_else_went(world, &machine, &format!("{flags:?}"), &output);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code() == Some(10), world.needs_consent(), "{world:?} {flags:?}\n{text}");
            if world.needs_consent() {
                let kind = if world == World::RegistryBrokenWithoutVolume { "registry" } else { "cluster" };
                assert!(text.contains("consent-needed"), "{text}");
                assert!(text.contains(&format!("--allow-destroy={kind} ")), "{text}");
            }
            let called = |what: &str| machine.calls().iter().any(|call| call.starts_with(what));
            match world {
                World::BalancerLost => {
                    assert!(called(&format!("docker create --name {BALANCER}")), "{text}\n{:?}", machine.calls());
                    assert!(called(&format!("docker start {BALANCER}")) && !called("k3d cluster create"), "{text}");
                }
                World::Unfinished => assert!(called("k3d cluster stop") && called(START), "{text}"),
                World::Stopped => assert!(called(START), "{text}"),
                World::NeverRan => {
                    assert!(called(&format!("docker rm -v {}", id(SERVER))), "{text}\n{:?}", machine.calls());
                    assert!(called("k3d cluster create"), "{text}");
                }
                World::RegistryBroken => assert!(called(&format!("docker rm {}", id(REGISTRY))), "{text}"),
                World::RegistryForeign => assert!(text.contains("not-ours"), "{text}"),
                _ => assert!(!called("k3d cluster create") && !called("k3d registry create"), "{text}"),
            }
        }
    });
}

#[test]
fn each_destructive_command_wants_its_own_flag() {
    let rows = [(&["cluster", "recreate"][..], "cluster"), (&["cluster", "delete"], "cluster,registry")];
    for (command, needed) in rows {
        for given in ["", "release", "registry", "cluster", "cluster,registry", "cluster,registry,release"] {
            let has: BTreeSet<&str> = given.split(',').collect();
            let enough = needed.split(',').all(|kind| has.contains(kind));
            for by_variable in [false, true] {
                let machine = World::Healthy.machine();
                let flag = format!("--allow-destroy={given}");
                let (mut arguments, mut variables) = ([command, &["--yes"]].concat(), vec![("XTASK_CONFIRM", "1")]);
                if by_variable {
                    variables.push(("XTASK_ALLOW_DESTROY", given));
                } else if !given.is_empty() {
                    arguments.push(&flag);
                }
                let output = machine.run(&arguments, &variables);
                let text = String::from_utf8_lossy(&output.stderr);
                let how = format!("{arguments:?} {variables:?}\n{text}");
                assert_eq!(output.status.code() == Some(10), !enough, "{how}");
                let deleted = machine.calls().iter().any(|call| call == "k3d cluster delete ameide-ci");
                assert_eq!(deleted, enough, "{how}");
                if !enough {
                    assert_eq!(machine.destructive(), [] as [&str; 0], "{how}");
                    assert!(text.contains(&format!("--allow-destroy={needed} ")), "{how}");
                    // Of what came before it in the run, nothing is claimed.
                    assert!(text.contains("none of that was done") && !text.contains("nothing was changed"), "{how}");
                }
            }
        }
    }
}

#[test]
fn up_and_fix_say_what_they_would_lose_and_lose_nothing() {
    for arguments in [&["up", "--yes"][..], &["checklist", "--fix", "--yes", "--allow-destroy=cluster"]] {
        let machine = World::Drifted.machine();
        let output = machine.run(arguments, &[]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{text}");
        assert_eq!(machine.destructive(), [] as [&str; 0], "{arguments:?}\n{text}");
    }
}

#[test]
fn a_cluster_that_is_made_again_keeps_its_kind() {
    let machine = World::Healthy.machine();
    // Created from public images, none of which can be reached here.
    let output =
        machine.run(&["cluster", "recreate", "--allow-destroy=cluster"], &[("HTTPS_PROXY", "http://127.0.0.1:9")]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(machine.calls().iter().any(|call| call.starts_with("k3d cluster create")), "{text}");
    assert!(!text.contains("building what is missing"), "{text}");
    assert_eq!(std::fs::read_to_string(machine.path("state/k3d-ameide-ci/k3d-cluster-kind")).unwrap(), "public");
}

/// The two commands that make a cluster again, and where.
const RECREATIONS: [(World, &[&str]); 2] = [
    (World::Healthy, &["cluster", "recreate", "--allow-destroy=cluster"]),
    (World::Drifted, &["cluster", "--allow-destroy=cluster"]),
];

#[test]
fn a_cluster_is_not_deleted_before_its_registry_is_there() {
    let recreate = ["cluster", "recreate", "--allow-destroy=cluster"];
    let refused = |machine: &Machine, exit: i32, told: &str| {
        let output = machine.run(&recreate, &[]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{text}");
        assert!(text.contains(told), "{text}");
        assert_eq!(machine.destructive(), [] as [&str; 0], "{text}");
    };
    let machine = World::RegistryBrokenWithoutVolume.machine();
    refused(&machine, 10, "--allow-destroy=registry ");
    // It is gone, and something else answers at its port.
    let machine = World::Healthy.machine();
    std::fs::remove_file(machine.path(&format!("world/container/{REGISTRY}"))).unwrap();
    refused(&machine, 8, "port-taken");
}

#[test]
fn a_cluster_is_not_deleted_for_one_whose_port_another_program_holds() {
    for (world, arguments) in RECREATIONS {
        for is_its_own in [false, true] {
            let machine = world.machine();
            let port = machine.config().host_ports()[0].port();
            let _holder = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
            machine.publishes(SERVER, None);
            machine.publishes(BALANCER, Some(port).filter(|_| is_its_own));
            let output = machine.run(arguments, &[]);
            let text = String::from_utf8_lossy(&output.stderr);
            let deleted = machine.calls().iter().any(|call| call == "k3d cluster delete ameide-ci");
            assert_eq!(deleted, is_its_own, "{arguments:?}\n{text}");
            if !is_its_own {
                assert!(text.contains("port-taken") && text.contains(&format!("port {port} ")), "{text}");
                assert_eq!(machine.destructive(), [] as [&str; 0], "{text}");
            }
        }
    }
}

#[test]
fn a_cluster_is_not_deleted_for_a_file_that_k3d_does_not_accept() {
    for (world, arguments) in RECREATIONS {
        let machine = world.machine();
        let refusal = "FATA[0000] Schema Validation failed for config file k3d.yaml: - kubeAPI.hostIP: Does not match format 'ipv4'";
        std::fs::write(machine.path("k3d.fails"), refusal).unwrap();
        let output = machine.run(arguments, &[]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("evidence: Schema Validation failed") && text.contains("hostIP"), "{text}");
        assert_eq!(machine.destructive(), [] as [&str; 0], "{arguments:?}");
    }
}

#[test]
fn a_creation_that_cannot_go_on_is_only_begun_anew_where_that_may_help() {
    let recreate = "cluster recreate   # asks first, elsewhere --allow-destroy=cluster";
    let machine = World::Unfinished.machine();
    std::fs::write(machine.path("k3d.fails"), "ERRO[0000] something new").unwrap();
    let output = machine.run(&["cluster"], &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("cluster-failed") && text.contains(&format!("cargo xtask --env ci {recreate}")), "{text}");

    let machine = World::Unfinished.machine();
    let port = machine.config().host_ports()[0].port();
    let _holder = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    machine.publishes(SERVER, None);
    let output = machine.run(&["cluster"], &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&format!("ss -ltnp sport = :{port}")) && !text.contains("recreate"), "{text}");
}

#[test]
fn what_is_deleted_is_what_was_meant() {
    let machine = World::RegistryForeign.machine();
    machine.put("network", "ameide-ci-network", &json!({"Name": "ameide-ci-network", "Labels": {"theirs": "1"}}));
    let output = machine.run(&["cluster", "delete", "--allow-destroy=cluster,registry"], &[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{text}");
    assert!(text.contains("not-ours"), "{text}");
    assert_eq!(machine.destructive(), [] as [&str; 0], "{text}");
    assert!(machine.path("state/k3d-ameide-ci/runs").exists(), "the records stay while something stays");
}

#[test]
fn on_a_terminal_it_asks_and_names_what_is_lost() {
    for (keys, exit) in [("\x03", 130), ("\x03\x03y\n", 130), ("\n", 10), ("n\n", 10), ("yeah\n", 10), ("\x04", 10)] {
        for arguments in [&["cluster", "recreate"][..], &["cluster", "delete", "--yes"]] {
            let machine = World::Healthy.machine();
            let (code, shown) = machine.on_a_terminal(arguments, keys);
            assert_eq!(code, Some(exit), "{arguments:?} {keys:?}\n{shown}");
            assert!(shown.contains("This would delete the cluster ameide-ci"), "{shown}");
            assert_eq!(machine.destructive(), [] as [&str; 0], "{arguments:?} {keys:?}\n{shown}");
        }
    }
    let machine = World::Healthy.machine();
    let (_, shown) = machine.on_a_terminal(&["cluster", "recreate"], "y\n");
    assert!(machine.calls().iter().any(|call| call == "k3d cluster delete ameide-ci"), "{shown}");
    // Consent to losing nothing does not cover this, not even on a terminal.
    let machine = World::Drifted.machine();
    let (code, shown) = machine.on_a_terminal(&["cluster", "--yes"], "n\n");
    assert!(code == Some(10) && shown.contains("This would delete the cluster ameide-ci"), "{shown}");
    assert_eq!(machine.destructive(), [] as [&str; 0]);
}

#[test]
fn what_was_typed_before_the_question_does_not_answer_it() {
    let machine = World::Healthy.machine();
    let (code, shown) = machine.on_a_terminal_where(&["cluster", "delete"], "y\ny\ny\n", "n\n");
    assert!(code == Some(10) && shown.contains("not confirmed"), "{shown}");
    assert_eq!(machine.destructive(), [] as [&str; 0], "{shown}");
}

#[test]
fn a_run_in_the_background_asks_nobody_rather_than_being_stopped_at_its_question() {
    let machine = World::Healthy.machine();
    let run = machine.command(&["cluster", "delete"], &[]);
    // With job control, the shell keeps the terminal to itself.
    let mut shell = Command::new("sh");
    shell.args(["-mc", "\"$@\" & wait $!", "sh"]).arg(run.get_program()).args(run.get_args());
    shell.current_dir(machine.folder.path());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let [theirs, mut ours] = terminal();
    on(&mut shell, theirs);
    let mut child = shell.spawn().unwrap();
    drop(shell);
    let mut shown = Vec::new();
    // It ends in an error when the last process that holds the terminal has ended.
    let _ = ours.read_to_end(&mut shown);
    let (status, shown) = (child.wait().unwrap(), String::from_utf8_lossy(&shown).into_owned());
    assert!(status.code() == Some(10) && shown.contains("nobody can be asked here"), "{status}\n{shown}");
}
