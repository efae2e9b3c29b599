//! A machine with internet, as most are: from the committed files, with an unresolved image lock,
//! to a running data plane, with Docker Hub, quay.io and ghcr.io under their own names. The
//! internet is simulated on this machine (see `support::internet`), and no request leaves it: the
//! network that everything runs in leads nowhere else.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::support::cluster::{beside, docker, ended, turn};
use crate::support::fresh_machine::FreshMachine;
use crate::support::internet::{Counts, Internet, names};
use crate::support::tls::Authority;
use crate::support::{edit, ends, eventually, root, succeeds, tool};

/// What k3d and the cluster need and the lab does not publish: its images, and the public names
/// that they stand for, as the tree has them.
fn of_the_cluster() -> [(&'static str, String); 4] {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let cluster = read("infra/docker/local/k3d.yaml");
    let node = cluster.lines().find_map(|line| line.strip_prefix("image: ")).unwrap().trim();
    let module = read("infra/tools/k3d/go.mod");
    let k3d = module
        .lines()
        .find_map(|line| line.trim().trim_start_matches("require ").strip_prefix("github.com/k3d-io/k3d/v5 v"));
    let k3d = k3d.unwrap().split_whitespace().next().unwrap();
    [
        ("node", node.to_owned()),
        ("tools", format!("k3d-io/k3d-tools:{k3d}")),
        ("loadbalancer", format!("k3d-io/k3d-proxy:{k3d}")),
        ("registry", "library/registry:2".to_owned()),
    ]
}

fn publish_images_of_the_cluster() {
    for (image, name) in of_the_cluster() {
        let tags = docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", &format!("ameide-lab/{image}")]);
        let (tag, public) = (tags.lines().next().unwrap(), format!("{}/{name}", xtask::lab::UPSTREAM_ADDRESS));
        docker(&["tag", tag, &public]);
        docker(&["push", "--quiet", &public]);
        docker(&["rmi", &public]);
    }
}

const UP: [&str; 4] = ["--yes", "--no-lab", "up", "--skip-tests"];
const DELETE: [&str; 4] = ["--yes", "cluster", "delete", "--allow-destroy=cluster,registry"];

#[test]
fn a_machine_with_internet_comes_up_from_the_committed_files() {
    let turn = turn();
    // As the tree currently has them, whatever the cluster was created with.
    succeeds(turn.xtask(&["lab"]));
    publish_images_of_the_cluster();
    // From here on it has a machine of its own, beside the tests of the others.
    drop(turn);
    let certificates = tempfile::tempdir().unwrap();
    let authority = Authority::made_in(certificates.path(), &names());
    let internet = Internet::new(xtask::lab::UPSTREAM_ADDRESS, 100);
    let mut machine = FreshMachine::new(&authority.certificate());
    internet.serve(machine.listener("127.0.0.2:443"), &authority);
    machine.resolves(&names(), Some("127.0.0.2"));
    // As a maintainer would, before committing it.
    succeeds(machine.xtask(&[], &["tools", "--update"]));
    internet.forget_counts();

    let started = Instant::now();
    succeeds(machine.xtask(&[], &["--yes", "--no-lab", "up"]));
    let (first, took) = (internet.counts(), started.elapsed().as_secs());
    println!(
        "first up: {took} s, {} manifests, {} blobs, {} files, {} MB",
        first.manifests.len(),
        first.blobs.len(),
        first.files.len(),
        first.bytes / 1_000_000
    );
    let tools: Vec<&String> = first.files.keys().collect();
    assert!(tools.len() == 3 && tools.iter().all(|file| !file.contains("kubectl")), "{tools:?}");
    // Eleven images, each with an index; those for pods have two platforms, the others one.
    assert_eq!(first.manifests.len(), 7 * 3 + 4 * 2, "{first:#?}");
    assert!(first.manifests.values().chain(first.blobs.values()).all(|times| *times == 1), "{first:#?}");
    assert!(first.wrong.is_empty() && first.limited == 0, "{first:#?}");

    internet.forget_counts();
    let again = succeeds(machine.xtask(&[], &UP));
    assert!(again.contains("[45-data-plane-ext] in place, unchanged"), "{again}");
    assert_eq!(internet.counts(), Counts::default());

    // The power fails, and there is no network when it comes back.
    machine.reboot();
    let again = succeeds(machine.xtask(&[], &["--yes", "up", "--skip-tests"]));
    println!("{again}");
    assert_eq!(internet.counts(), Counts::default());

    // All over again, with a proxy as the only way out, and Docker Hub's quota soon used up.
    succeeds(machine.xtask(&[], &DELETE));
    let images = succeeds(machine.command("docker", &["images", "--quiet"]));
    let images: BTreeSet<&str> = images.lines().collect();
    succeeds(machine.command("docker", &[&["rmi", "--force"], &images.into_iter().collect::<Vec<_>>()[..]].concat()));
    machine.resolves(&names(), None);
    internet.serve_as_proxy(machine.listener("127.0.0.3:3128"), &authority);
    let proxied = [("HTTPS_PROXY", "http://127.0.0.3:3128")];
    internet.leave(9);
    let ended = ends(machine.xtask(&proxied, &UP), 5);
    assert!(ended.contains("registry-rate-limited: docker.io refuses further pulls"), "{ended}");
    assert!(internet.counts().limited > 0);
    internet.leave(100);
    // An hour later the same command goes on, all the way up.
    let proxied_up = succeeds(machine.xtask(&proxied, &UP));
    assert!(proxied_up.contains("layers in place"), "{proxied_up}");
    // What was copied before the quota ended was not requested again.
    let counts = internet.counts();
    assert!(counts.blobs.values().all(|times| *times == 1) && counts.wrong.is_empty(), "{counts:#?}");

    // The internet is no longer needed, not even for a new cluster of three nodes.
    internet.forget_counts();
    edit(&machine.tree().join("infra/docker/local/k3d.yaml"), |text| text.replace("agents: 0", "agents: 2"));
    succeeds(machine.xtask(&[], &["--yes", "cluster", "recreate", "--allow-destroy=cluster"]));
    succeeds(machine.xtask(&[], &["--yes", "up", "--skip-tests"]));
    assert_eq!(internet.counts(), Counts::default());
    a_volume_s_node_is_told_where_it_takes_no_pods(&machine);
    succeeds(machine.xtask(&[], &DELETE));
}

fn a_volume_s_node_is_told_where_it_takes_no_pods(machine: &FreshMachine) {
    let kubectl = |arguments: &[&str]| {
        let kubectl = tool("kubectl").get_program().to_str().unwrap().to_owned();
        let context = ["--context", "k3d-ameide", "-n", "ameide"];
        succeeds(machine.command(&kubectl, &[&context[..], arguments].concat()))
    };
    let nodes = kubectl(&["get", "nodes", "--no-headers"]);
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready ")).count(), 3, "{nodes}");
    let claim = kubectl(&["get", "pvc", "-o", "jsonpath={.items[?(@.metadata.name==\"minio\")].spec.volumeName}"]);
    let at = "jsonpath={.spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values[0]}";
    let node = kubectl(&["get", "pv", claim.trim(), "-o", at]);
    // Somebody drained the node: the run says what holds it up, and comes up once that is fixed.
    kubectl(&["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--force"]);
    let run = machine.xtask(&[], &["--yes", "layer", "45", "--skip-tests"]);
    let run = beside(&run);
    let said = |words: &str| {
        let runs = machine.path("home").join(".local/state/ameide/k3d-ameide/runs");
        let newest = std::fs::read_dir(runs).unwrap().map(|run| run.unwrap().path()).max().unwrap();
        std::fs::read_to_string(newest.join("record.jsonl")).unwrap_or_default().contains(words)
    };
    eventually("which node holds the volume", || {
        said(&format!("is bound to the node {node}, which is cordoned"))
            && said(&format!("kubectl --context k3d-ameide uncordon {node}"))
    });
    kubectl(&["uncordon", &node]);
    let (code, printed) = ended(&run);
    assert_eq!(code, Some(0), "{printed}");
    // Killed, and brought back; and an agent gone for good, which takes nobody's data along
    // that was not on its own disk: no consent is asked for a new one.
    succeeds(machine.command("docker", &["kill", &node]));
    let lost = ["k3d-ameide-agent-0", "k3d-ameide-agent-1"].into_iter().find(|agent| *agent != node).unwrap();
    succeeds(machine.command("docker", &["rm", "--force", "--volumes", lost]));
    let mended = succeeds(machine.xtask(&[], &["--yes", "cluster"]));
    assert!(mended.contains("joined a new agent to replace one that is gone"), "{mended}");
    assert!(mended.contains(&format!("[{lost}] removed the Node object")), "{mended}");
    let nodes = kubectl(&["get", "nodes", "--no-headers"]);
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready ")).count(), 3, "{nodes}");
    assert!(!nodes.contains(lost), "{nodes}");
}
