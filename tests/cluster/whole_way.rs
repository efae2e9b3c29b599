//! From no cluster to every layer, and back. These tests create their cluster themselves and sort
//! last by name; after them there is none.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::cluster::{
    all_deployed, context, delete_all, docker, environment, helm_processes, kills_of, kubectl, node, random,
    registry_address, registry_container, releases, state, turn, turn_with_whatever_there_is, unheard, xtask,
};
use crate::support::{ends, free_port, succeeds, tool};

fn lines(arguments: &[&str]) -> Vec<String> {
    docker(arguments).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// With a complete mirror no deploy needs the upstream, not even on a new cluster.
#[test]
fn an_empty_cluster_comes_up_without_the_upstream_where_the_mirror_is_complete() {
    let _turn = turn();
    succeeds(xtask(&["mirror"]));
    succeeds(xtask(&["cluster", "recreate", "--allow-destroy=cluster"]));
    let nobody = format!("127.0.0.1:{}", free_port());
    let mut up = xtask(&["up", "--skip-tests"]);
    up.env("AMEIDE_LAB_UPSTREAM", &nobody);
    succeeds(up);
    assert!(all_deployed(), "{:?}", releases());
    // It is really gone: what is not mirrored is not available.
    let mut forced = xtask(&["mirror", "--force", "busybox"]);
    forced.env("AMEIDE_LAB_UPSTREAM", &nobody);
    assert!(ends(forced, 5).contains("registry-unreachable"));
}

#[test]
fn kills_of_up_at_random_moments_always_converge() {
    let _turn = turn_with_whatever_there_is();
    let mut random = random();
    for round in 0..kills_of(4) {
        let child = unheard(&xtask(&["up", "--force"]));
        let moment = Duration::from_millis(random.u64(..45_000));
        let started = Instant::now();
        while started.elapsed() < moment && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        println!("round {round}: killed after {moment:?}");
        succeeds(xtask(&["up", "--skip-tests"]));
        assert!(all_deployed(), "{:?}", releases());
        if round % 3 == 2 {
            // From nothing again, so that kills also hit the creation.
            succeeds(xtask(&["cluster", "delete", "--allow-destroy=cluster,registry"]));
        }
    }
}

/// What must survive the deletion of a cluster: other people's objects with similar names.
struct Bystander {
    name: String,
    kubeconfig: PathBuf,
    state: PathBuf,
}

impl Bystander {
    fn beside(cluster: &str) -> Self {
        let home = PathBuf::from(std::env::var("HOME").unwrap());
        let this = Self {
            name: format!("k3d-{cluster}2"),
            kubeconfig: std::env::var("KUBECONFIG").map(PathBuf::from).unwrap_or_else(|_| home.join(".kube/config")),
            state: state().lock().parent().unwrap().as_std_path().to_owned(),
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
        let names: Vec<&str> = config.lines().filter(|line| line.contains(&context())).map(str::trim).collect();
        assert!(!names.is_empty() && names.iter().all(|line| line.contains(&self.name)), "{names:?}");
        assert!(!self.state.exists(), "{}", self.state.display());
        succeeds(self.config("delete-context"));
        docker(&["network", "rm", &self.name]);
        docker(&["volume", "rm", &self.name]);
    }
}

#[test]
fn nothing_is_left_behind_by_the_whole_way() {
    let turn = turn_with_whatever_there_is();
    succeeds(xtask(&["cluster", "delete", "--allow-destroy=cluster,registry"]));
    // A prebuild keeps what needs no running cluster.
    succeeds(xtask(&["cluster", "prefetch"]));
    let there = lines(&["ps", "-a", "--format", "{{.Names}}"]);
    assert!(there.contains(&registry_container()) && !there.contains(&node()), "{there:?}");
    succeeds(xtask(&["cluster"]));
    succeeds(xtask(&["mirror"]));
    succeeds(xtask(&["layer", "10-45"]));
    succeeds(xtask(&["layer", "60"]));
    assert!(all_deployed(), "{:?}", releases());
    let pods = kubectl(&["get", "pods", "-A", "--no-headers"]);
    for name in ["postgres", "redis", "minio", "temporal"] {
        assert!(pods.lines().any(|line| line.contains(name) && line.contains("Running")), "{name}:\n{pods}");
    }
    let cluster = format!("ameide-{}", environment());
    let (filter, registry) = (format!("name={cluster}"), registry_container());
    let ours =
        lines(&["ps", "-a", "--format", "{{.Names}}", "--filter", &filter, "--filter", &format!("name={registry}")]);
    assert!(ours.contains(&node()), "{ours:?}");
    let mounts = "{{range .Mounts}}{{println .Name}}{{end}}";
    let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
    let volumes = lines(&[&["container", "inspect", "--format", mounts], &ours[..]].concat());
    assert!(volumes.len() > 1, "{volumes:?}");
    let bystander = Bystander::beside(&cluster);
    succeeds(xtask(&["cluster", "delete", "--allow-destroy=cluster,registry"]));
    let left = [
        lines(&["ps", "-a", "--format", "{{.Names}}"]),
        lines(&["network", "ls", "--format", "{{.Name}}"]),
        lines(&["volume", "ls", "--format", "{{.Name}}"]),
    ]
    .concat();
    let left: Vec<_> = left
        .iter()
        .filter(|name| **name != bystander.name)
        .filter(|name| name.contains(&cluster) || name.contains(&registry) || volumes.contains(name))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    bystander.survived_alone();
    assert_eq!(helm_processes(), []);
    ends(xtask(&["layer", "45"]), 4);

    // A port that something else uses is named, and nothing is left half created.
    let port_of = |text: &str| text.rsplit(':').next().unwrap().trim_matches(['"', ' ']).parse::<u16>().unwrap();
    let k3d = std::fs::read_to_string(turn.path(&format!("infra/docker/{}/k3d.yaml", environment()))).unwrap();
    let api = k3d.lines().find(|line| line.trim().starts_with("hostPort:")).unwrap();
    for port in [port_of(&registry_address(&turn)), port_of(api)] {
        let holder = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let said = ends(xtask(&["cluster"]), 8);
        assert!(said.contains("port-taken") && said.contains(&format!("port {port} ")), "{said}");
        assert!(!lines(&["ps", "-a", "--format", "{{.Names}}"]).contains(&node()));
        drop(holder);
    }
    drop(turn);
    delete_all();
}
