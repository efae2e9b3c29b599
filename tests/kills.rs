//! Runs that are killed, and many at once: the next one converges, nothing is
//! lost, and no two Helmfile runs of one cluster ever overlap.

mod support;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use support::{
    Random, Tree, clear, context, eventually, helm_processes, image, kill, layer, pull_registry, spawn, succeeds, text,
    turn,
};

#[test]
fn twenty_runs_at_once_take_turns() {
    let (_turn, tree) = turn();
    clear(&tree);
    layer(&tree, "fine", serde_json::json!({"image": image(&tree, &pull_registry(&tree))}));
    let children: Vec<Child> = (0..20).map(|_| spawn(&tree, &["layer", "fine"])).collect();
    let pids: Vec<u32> = children.iter().map(Child::id).collect();
    let alive = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !status.is_empty() && !status.contains(") Z ")
    };
    let mut together = 0;
    while pids.iter().any(alive) {
        together = together.max(syncs());
        std::thread::sleep(Duration::from_millis(10));
    }
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
    assert_eq!(together, 1, "Helmfile runs of one cluster never overlap");
    clear(&tree);
}

/// Helmfile processes that sync.
fn syncs() -> usize {
    helm_processes().iter().filter(|(_, line)| line.contains("helmfile") && line.contains(" sync ")).count()
}

/// A client of MinIO, run in the cluster.
fn mc(tree: &Tree, script: &str) -> String {
    let secret = |key: &str| {
        let path = format!("go-template={{{{index .data {key:?} | base64decode}}}}");
        tree.kubectl(&["-n", "ameide", "get", "secret", "minio-root-credentials", "-o", &path])
    };
    let image = tree.kubectl(&[
        "-n",
        "ameide",
        "get",
        "job",
        "minio-buckets",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].image}",
    ]);
    let host = format!("MC_HOST_minio=http://{}:{}@minio:9000", secret("root-user"), secret("root-password"));
    let (image, host) = (format!("--image={image}"), format!("--env={host}"));
    tree.kubectl(&[
        "-n",
        "ameide",
        "run",
        "guard-mc",
        "--rm",
        "-i",
        "--quiet",
        "--restart=Never",
        &image,
        &host,
        "--env=MC_CONFIG_DIR=/tmp/mc",
        "--command",
        "--",
        "/bin/sh",
        "-c",
        script,
    ])
}

/// Kills helm, once a release is in this state; whether it still was afterwards.
fn kill_helm_while(tree: &Tree, state: &str) {
    let child = spawn(tree, &["layer", "45", "--skip-tests"]);
    eventually(state, || tree.releases().iter().any(|(name, status)| name == "minio" && status == state));
    for (pid, line) in helm_processes() {
        if !line.contains("helmfile --file") {
            kill(pid, "KILL");
        }
    }
    println!("{}", text(&child.wait_with_output().unwrap()));
}

fn all_deployed(tree: &Tree) {
    let releases = tree.releases();
    for name in ["minio", "temporal"] {
        assert!(releases.contains(&(name.to_owned(), "deployed".to_owned())), "{releases:?}");
    }
}

#[test]
fn helm_killed_in_an_install_and_in_an_upgrade_of_minio_loses_nothing() {
    let (_turn, tree) = turn();
    succeeds(tree.xtask(&["layer", "45", "--skip-tests"]));
    mc(&tree, "mc mb -q --ignore-existing minio/guard && echo kept | mc pipe -q minio/guard/object");
    kill_helm_while(&tree, "pending-upgrade");
    succeeds(tree.xtask(&["layer", "45", "--skip-tests"]));
    all_deployed(&tree);
    assert!(mc(&tree, "mc cat minio/guard/object").contains("kept"));
    let mut uninstall = tree.tool("helm");
    uninstall.args(["--kube-context", &context(), "-n", "ameide", "uninstall", "minio", "--wait"]);
    succeeds(uninstall);
    kill_helm_while(&tree, "pending-install");
    succeeds(tree.xtask(&["layer", "45", "--skip-tests"]));
    all_deployed(&tree);
    assert!(mc(&tree, "mc cat minio/guard/object").contains("kept"));
}

#[test]
fn layer_45_killed_at_random_moments_always_converges() {
    let (_turn, tree) = turn();
    let mut random = Random::seeded();
    let mut together = 0;
    for round in 0..30 {
        let mut child =
            tree.xtask(&["layer", "45", "--skip-tests"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moment = Duration::from_millis(random.below(9_000));
        let started = Instant::now();
        while started.elapsed() < moment && child.try_wait().unwrap().is_none() {
            together = together.max(syncs());
            std::thread::sleep(Duration::from_millis(10));
        }
        for (pid, _) in helm_processes() {
            kill(pid, "KILL");
        }
        let _ = child.kill();
        child.wait().unwrap();
        let mut again = spawn(&tree, &["layer", "45", "--skip-tests"]);
        while again.try_wait().unwrap().is_none() {
            together = together.max(syncs());
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = again.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "round {round}, killed after {moment:?}\n{}", text(&output));
        println!("round {round}: killed after {moment:?}");
        all_deployed(&tree);
    }
    assert_eq!(together, 1, "Helmfile runs of one cluster never overlap");
    let state = std::env::var("AMEIDE_STATE_DIR")
        .or_else(|_| std::env::var("XDG_STATE_HOME").map(|folder| format!("{folder}/ameide")))
        .unwrap_or_else(|_| format!("{}/.local/state/ameide", std::env::var("HOME").unwrap()));
    let lock = format!("{state}/{}/k3d-cluster.lock", context());
    assert!(!std::path::Path::new(&lock).exists(), "{lock} stays");
    let holder = ["-n", "kube-system", "get", "lease", "ameide-deploy", "-o", "jsonpath={.spec.holderIdentity}"];
    assert_eq!(tree.kubectl(&holder), "");
}
