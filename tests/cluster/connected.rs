//! A machine with internet, as most have one: from the committed files, of which the lock of
//! images is unresolved, to a running data plane, with Docker Hub, quay.io and ghcr.io under
//! their own names. The internet is this machine's own (see `support::internet`), and no
//! request leaves it: the network that everything runs in leads nowhere else.

use crate::support::cluster::{docker, turn};
use crate::support::fresh_machine::FreshMachine;
use crate::support::internet::{Authority, Internet, names};
use crate::support::{ends, succeeds};

/// What k3d and the cluster are made of, which the lab does not publish: its images, and the
/// public names that they stand for.
const OF_THE_CLUSTER: [(&str, &str); 4] = [
    ("node", "rancher/k3s:v1.33.13-k3s2"),
    ("tools", "k3d-io/k3d-tools:5.8.3"),
    ("loadbalancer", "k3d-io/k3d-proxy:5.8.3"),
    ("registry", "library/registry:2"),
];

fn publish_images_of_the_cluster() {
    for (image, name) in OF_THE_CLUSTER {
        let tags = docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", &format!("ameide-lab/{image}")]);
        let (tag, public) = (tags.lines().next().unwrap(), format!("{}/{name}", xtask::lab::UPSTREAM_ADDRESS));
        docker(&["tag", tag, &public]);
        docker(&["push", "--quiet", &public]);
        docker(&["rmi", &public]);
    }
}

const UP: [&str; 4] = ["--yes", "--no-lab", "up", "--skip-tests"];

#[test]
fn a_machine_with_internet_comes_up_from_the_committed_files() {
    let _turn = turn();
    publish_images_of_the_cluster();
    let authority = Authority::new();
    let internet = Internet::new(xtask::lab::UPSTREAM_ADDRESS, 100);
    let machine = FreshMachine::new(&authority.certificate());
    internet.serve(machine.listener("127.0.0.2:443"), &authority);
    internet.serve_as_proxy(machine.listener("127.0.0.3:3128"), &authority);
    machine.resolves(&names(), Some("127.0.0.2"));
    machine.lend_tools();

    println!("{}", succeeds(machine.xtask(&[], &["--yes", "--no-lab", "up"])));
    let first = internet.counts();
    println!("{first:#?}");
    assert!(first.wrong.is_empty() && first.limited == 0, "{first:#?}");
    assert!(first.manifests.values().all(|times| *times == 1), "{first:#?}");
    assert!(first.blobs.values().all(|times| *times == 1), "{first:#?}");

    internet.forget_counts();
    let again = succeeds(machine.xtask(&[], &UP));
    assert!(again.contains("[45-data-plane-ext] in place, unchanged"), "{again}");
    assert!(internet.counts().manifests.is_empty() && internet.counts().blobs.is_empty(), "{:#?}", internet.counts());

    // All anew, where a proxy is the only way out, and Docker Hub soon gives no more.
    succeeds(machine.xtask(&[], &["--yes", "cluster", "delete", "--allow-destroy=cluster,registry"]));
    let images = succeeds(machine.command("docker", &["images", "--quiet"]));
    let images: Vec<&str> = images.lines().collect();
    succeeds(machine.command("docker", &[&["rmi", "--force"], &images[..]].concat()));
    machine.resolves(&names(), None);
    let proxied = [("HTTPS_PROXY", "http://127.0.0.3:3128")];
    internet.leave(9);
    let ended = ends(machine.xtask(&proxied, &UP), 5);
    println!("{ended}");
    assert!(ended.contains("registry-rate-limited"), "{ended}");
    internet.leave(100);
    internet.forget_counts();
    println!("{}", succeeds(machine.xtask(&proxied, &UP)));
    println!("{:#?}", internet.counts());

    // Nothing is needed of it any more, not even for a new cluster.
    internet.forget_counts();
    succeeds(machine.xtask(&[], &["--yes", "cluster", "recreate", "--allow-destroy=cluster"]));
    println!("{}", succeeds(machine.xtask(&[], &["--yes", "up", "--skip-tests"])));
    let counts = internet.counts();
    assert!(counts.manifests.is_empty() && counts.heads == 0, "{counts:#?}");
    succeeds(machine.xtask(&[], &["--yes", "cluster", "delete", "--allow-destroy=cluster,registry"]));
}
