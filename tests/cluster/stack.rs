//! The whole tool on a real cluster: real k3d, Kubernetes, Helm, Helmfile, and
//! real kills. Everything happens on the environment `ci`, whose cluster has
//! names and ports of its own, so that it can stand beside a developer's.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use crate::support::{ends, succeeds, text};
use xtask::releases::Status;
use xtask::world::helm_storage::set_status;

const CONTEXT: &str = "k3d-ameide-ci";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// There is one cluster: the tests take turns.
fn cluster() -> MutexGuard<'static, ()> {
    let turn = crate::support::alone();
    // What a killed test run may have left.
    drop(Cordon);
    turn
}

fn xtask(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.current_dir(root()).args(["--env", "ci", "--yes"]).args(arguments).stdin(Stdio::null());
    command.env_remove("XTASK_CONFIRM").env_remove("HELMFILE_ENVIRONMENT").env_remove("INFRA_CRITICAL_PATH");
    command
}

fn tool(name: &str) -> Command {
    static BIN: OnceLock<String> = OnceLock::new();
    let bin = BIN.get_or_init(|| {
        let printed = succeeds(xtask(&["tools"]));
        let bin = printed.lines().find_map(|line| line.strip_prefix("export PATH=")?.split(':').next());
        bin.unwrap().to_owned()
    });
    Command::new(Path::new(bin).join(name))
}

fn kubectl(arguments: &[&str]) -> String {
    let mut command = tool("kubectl");
    command.args(["--context", CONTEXT]).args(arguments);
    succeeds(command)
}

fn releases() -> Vec<(String, String)> {
    crate::support::releases(tool("helm"), CONTEXT)
}

#[track_caller]
fn all_deployed() {
    let releases = releases();
    assert!(
        releases.iter().any(|(name, _)| name == "temporal") && releases.iter().any(|(name, _)| name == "minio"),
        "{releases:?}"
    );
    assert!(releases.iter().all(|(_, status)| status == "deployed"), "{releases:?}");
}

/// Helm and Helmfile processes on this machine.
fn helm_processes() -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(mut file) = std::fs::File::open(entry.path().join("cmdline")) else { continue };
        let mut bytes = Vec::new();
        if file.read_to_end(&mut bytes).is_err() {
            continue;
        }
        let words: Vec<String> =
            bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let program =
            Path::new(&words[0]).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if (program == "helm" || program == "helmfile") && words.iter().any(|word| word == CONTEXT) {
            found.push((entry.file_name().to_string_lossy().parse().unwrap(), words.join(" ")));
        }
    }
    found
}

fn docker(arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("docker");
    command.args(arguments);
    succeeds(command).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Polls until the condition holds: what is waited for has no other way to tell.
#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(120), "not seen within 120 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn signal(child: &Child, name: &str) {
    succeeds({
        let mut command = Command::new("kill");
        command.args([&format!("-{name}"), &child.id().to_string()]);
        command
    });
}

/// A small generator, so that a failing run can be repeated from its printed seed.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_nanos() as u64 | 1
        });
        println!("SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn layer_45_runs_back_to_back() {
    let _turn = cluster();
    succeeds(xtask(&["up", "--skip-tests"]));
    for _ in 0..3 {
        succeeds(xtask(&["layer", "45"]));
        all_deployed();
    }
}

#[test]
fn two_layer_runs_at_once_take_turns_and_say_for_whom() {
    let _turn = cluster();
    succeeds(xtask(&["up", "--skip-tests"]));
    let spawn = || {
        xtask(&["layer", "45", "--skip-tests", "--force"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children = [spawn(), spawn()];
    let mut seen_together = 0;
    let pids: Vec<u32> = children.iter().map(Child::id).collect();
    loop {
        let running = pids
            .iter()
            .any(|pid| Path::new(&format!("/proc/{pid}/fd")).read_dir().is_ok_and(|mut fds| fds.next().is_some()));
        let syncs =
            helm_processes().iter().filter(|(_, line)| line.contains("helmfile") && line.contains(" sync ")).count();
        seen_together = seen_together.max(syncs);
        if !running {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let outputs: Vec<String> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", text(&output));
            text(&output)
        })
        .collect();
    assert_eq!(seen_together, 1, "Helmfile runs of one cluster never overlap");
    let waited =
        outputs.iter().filter(|output| output.contains("waiting for cargo xtask --env ci --yes layer 45")).count();
    assert_eq!(waited, 1, "one waits and says for whom:\n{outputs:?}");
}

/// A node that takes no pods: Helm's hooks wait, and releases stay pending, as
/// long as this lives.
struct Cordon;

const NODE: &str = "k3d-ameide-ci-server-0";

impl Cordon {
    fn set() -> Self {
        kubectl(&["cordon", NODE]);
        Self
    }
}

impl Drop for Cordon {
    fn drop(&mut self) {
        let _ = tool("kubectl").args(["--context", CONTEXT, "uncordon", NODE]).output();
    }
}

fn some_release_is_pending() -> bool {
    releases().iter().any(|(_, status)| status.starts_with("pending"))
}

#[test]
fn an_interrupt_leaves_the_release_failed_and_no_process_behind() {
    let _turn = cluster();
    succeeds(xtask(&["up", "--skip-tests"]));
    let cordon = Cordon::set();
    let child = xtask(&["layer", "45", "--force"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("a release is being upgraded", some_release_is_pending);
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    drop(cordon);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert_eq!(helm_processes(), []);
    let releases = releases();
    assert!(releases.iter().all(|(_, status)| matches!(status.as_str(), "failed" | "deployed")), "{releases:?}");
    assert!(releases.iter().any(|(_, status)| status == "failed"), "{releases:?}");
    succeeds(xtask(&["layer", "45"]));
    all_deployed();
}

#[test]
fn a_release_whose_helm_was_killed_is_repaired_with_nothing_lost() {
    let _turn = cluster();
    succeeds(xtask(&["up", "--skip-tests"]));
    let columns = "custom-columns=NAME:.metadata.name,UID:.metadata.uid";
    let claims = || kubectl(&["-n", "ameide", "get", "pvc", "--no-headers", "-o", columns]);
    let before = claims();
    let cordon = Cordon::set();
    let mut child = xtask(&["layer", "45", "--force"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("a release is being upgraded", some_release_is_pending);
    // Helm and Helmfile first: they must have no time to say that they failed.
    for (pid, _) in helm_processes() {
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    }
    let _ = child.kill();
    child.wait().unwrap();
    eventually("helm is gone", || helm_processes().is_empty());
    drop(cordon);
    assert!(some_release_is_pending());
    let output = succeeds(xtask(&["layer", "45"]));
    assert!(output.contains("marked failed"), "{output}");
    all_deployed();
    assert_eq!(claims(), before, "the claims are the very same");
}

/// What an interrupted Helm leaves when a hook is being recorded at that moment: the
/// label says `failed`, the release `pending-upgrade`, and Helm goes by the release.
#[test]
fn a_release_that_is_pending_under_the_label_failed_is_repaired() {
    let _turn = cluster();
    succeeds(xtask(&["up", "--skip-tests"]));
    crate::support::edit_revision(kubectl, "temporal", |secret| {
        set_status(secret, Status::PendingUpgrade, "Preparing upgrade").unwrap();
        secret.metadata.labels.as_mut().unwrap().insert("status".into(), "failed".into());
    });
    assert!(some_release_is_pending(), "Helm does not take it for pending: {:?}", releases());

    let said = ends(xtask(&["checklist"]), 7);
    assert!(said.contains("pending-upgrade"), "{said}");
    let output = succeeds(xtask(&["layer", "45"]));
    assert!(output.contains("marked failed") && !output.contains("release-pending"), "{output}");
    all_deployed();
}

#[test]
fn up_killed_at_random_moments_always_converges() {
    let _turn = cluster();
    succeeds(xtask(&["cluster", "delete", "--allow-destroy=cluster,registry"]));
    let mut random = Random::seeded();
    for round in 0..10 {
        let mut child = xtask(&["up"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moment = Duration::from_millis(random.below(45_000));
        let started = Instant::now();
        while started.elapsed() < moment && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        child.wait().unwrap();
        println!("round {round}: killed after {moment:?}");
        succeeds(xtask(&["up", "--skip-tests"]));
        all_deployed();
        if round % 3 == 2 {
            // Again from nothing, so that kills meet the creation as well.
            succeeds(xtask(&["cluster", "delete", "--allow-destroy=cluster,registry"]));
        }
    }
}

/// It holds nothing, so nobody is asked, and nothing that is deployed is touched.
#[test]
fn a_lost_load_balancer_is_made_again_unasked() {
    let _turn = cluster();
    let balancer = NODE.replace("server-0", "serverlb");
    let id = || docker(&["container", "inspect", "--format", "{{.Id}}", NODE]);
    succeeds(xtask(&["cluster"]));
    let before = (id(), releases());
    docker(&["rm", "-f", "-v", &balancer]);
    let said = succeeds(xtask(&["cluster"]));
    assert!(said.contains("made the load balancer again"), "{said}");
    assert_eq!((id(), releases()), before);
    // k3d knows it as its own.
    assert!(succeeds(xtask(&["cluster", "stop"])).contains("stopped the cluster"));
    succeeds(xtask(&["cluster"]));
}

/// What must survive the deletion of a cluster: things of others with names like its own.
struct Bystander {
    name: String,
    kubeconfig: PathBuf,
    state: PathBuf,
}

impl Bystander {
    fn beside(cluster: &str) -> Self {
        let home = PathBuf::from(std::env::var("HOME").unwrap());
        let base = std::env::var("AMEIDE_STATE_DIR").map(PathBuf::from).unwrap_or_else(|_| {
            let base = std::env::var("XDG_STATE_HOME").map(PathBuf::from);
            base.unwrap_or_else(|_| home.join(".local/state")).join("ameide")
        });
        let this = Self {
            name: format!("k3d-{cluster}2"),
            kubeconfig: std::env::var("KUBECONFIG").map(PathBuf::from).unwrap_or_else(|_| home.join(".kube/config")),
            state: base.join(format!("k3d-{cluster}")),
        };
        docker(&["network", "create", &this.name]);
        docker(&["volume", "create", &this.name]);
        succeeds(this.config("set-context"));
        assert!(this.state.join("runs").exists());
        this
    }

    fn config(&self, verb: &str) -> Command {
        let mut command = tool("kubectl");
        command.args(["config", verb, &self.name]);
        command
    }

    fn survived_alone(self) {
        let config = std::fs::read_to_string(&self.kubeconfig).unwrap();
        let names: Vec<&str> = config.lines().filter(|line| line.contains("k3d-ameide-ci")).map(str::trim).collect();
        assert!(!names.is_empty() && names.iter().all(|line| line.contains(&self.name)), "{names:?}");
        assert!(!self.state.exists(), "{}", self.state.display());
        succeeds(self.config("delete-context"));
        docker(&["network", "rm", &self.name]);
        docker(&["volume", "rm", &self.name]);
    }
}

/// With the mirror complete no deploy needs the upstream, not even of a new cluster.
#[test]
fn with_the_mirror_complete_an_empty_cluster_comes_up_without_the_upstream() {
    let _turn = cluster();
    succeeds(xtask(&["cluster"]));
    succeeds(xtask(&["mirror"]));
    succeeds(xtask(&["cluster", "recreate", "--allow-destroy=cluster"]));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut up = xtask(&["up", "--skip-tests"]);
    up.env("AMEIDE_LAB_UPSTREAM", &nobody);
    succeeds(up);
    all_deployed();
    // It is really not there: what is not mirrored cannot be had.
    let mut forced = xtask(&["mirror", "--force", "busybox"]);
    forced.env("AMEIDE_LAB_UPSTREAM", &nobody);
    assert!(ends(forced, 5).contains("registry-unreachable"));
}

#[test]
fn the_whole_way_and_nothing_is_left_behind() {
    let _turn = cluster();
    succeeds(xtask(&["cluster", "delete", "--allow-destroy=cluster,registry"]));
    succeeds(xtask(&["cluster"]));
    succeeds(xtask(&["mirror"]));
    succeeds(xtask(&["layer", "10-45"]));
    succeeds(xtask(&["layer", "60"]));
    all_deployed();
    let pods = kubectl(&["get", "pods", "-A", "--no-headers"]);
    for name in ["postgres", "redis", "minio", "temporal"] {
        assert!(pods.lines().any(|line| line.contains(name) && line.contains("Running")), "{name}:\n{pods}");
    }
    let ours =
        docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", "name=ameide-ci", "--filter", "name=k3d-ci-reg"]);
    assert!(ours.iter().any(|name| name == NODE), "{ours:?}");
    let mounts = "{{range .Mounts}}{{println .Name}}{{end}}";
    let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
    let volumes = docker(&[&["container", "inspect", "--format", mounts], &ours[..]].concat());
    assert!(volumes.len() > 1, "{volumes:?}");
    let bystander = Bystander::beside("ameide-ci");
    succeeds(xtask(&["cluster", "delete", "--allow-destroy=cluster,registry"]));
    let left = [
        docker(&["ps", "-a", "--format", "{{.Names}}"]),
        docker(&["network", "ls", "--format", "{{.Name}}"]),
        docker(&["volume", "ls", "--format", "{{.Name}}"]),
    ]
    .concat();
    let left: Vec<_> = left
        .iter()
        .filter(|name| !name.ends_with("ameide-ci2"))
        .filter(|name| name.contains("ameide-ci") || name.contains("k3d-ci-reg") || volumes.contains(name))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    bystander.survived_alone();
    assert_eq!(helm_processes(), []);
    ends(xtask(&["layer", "45"]), 4);

    // A port that something else holds is named, and nothing is half made.
    for port in [5001, 6551] {
        let holder = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let said = ends(xtask(&["cluster"]), 8);
        assert!(said.contains("port-taken") && said.contains(&format!("port {port} ")), "{said}");
        assert!(!docker(&["ps", "-a", "--format", "{{.Names}}"]).contains(&NODE.to_owned()));
        drop(holder);
    }
    succeeds(xtask(&["cluster", "delete", "--allow-destroy=cluster,registry"]));
}
