//! Layers on a real cluster: one after the other, two at once, interrupted and killed.

use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use duct::unix::HandleExt;
use xshell::cmd;
use xtask::releases::Status;
use xtask::world::helm_storage::set_status;

use crate::support::cluster::{
    Alone, all_deployed, beside, context, docker, edit_revision, ended, environment, helm_processes, kill, kubectl,
    load_balancer, node, registry_container, releases, turn, unheard, xtask,
};
use crate::support::{ends, eventually, shell, signal, succeeds, tool};

#[test]
fn layer_45_runs_back_to_back() {
    let _turn = turn();
    for _ in 0..3 {
        succeeds(xtask(&["layer", "45"]));
        assert!(all_deployed(), "{:?}", releases());
    }
}

#[test]
fn two_layer_runs_at_once_take_turns_and_say_for_whom() {
    let _turn = turn();
    let alone = Alone::new();
    let children = [(); 2].map(|()| {
        let mut run = xtask(&["layer", "45", "--skip-tests", "--force"]);
        beside(run.env("AMEIDE_CACHE_DIR", alone.cache()))
    });
    let outputs = children.map(|child| {
        let (code, said) = ended(&child);
        assert_eq!(code, Some(0), "{said}");
        said
    });
    assert_eq!(alone.never_overlapped(), 2);
    let line = format!("waiting for cargo xtask --env {} --yes layer 45", environment());
    let waited = outputs.iter().filter(|output| output.contains(&line)).count();
    assert_eq!(waited, 1, "one waits and says for whom:\n{outputs:?}");
}

/// A node that takes no pods: Helm's hooks wait, and releases stay pending, as long as this lives.
struct Cordon;

impl Cordon {
    fn set() -> Self {
        kubectl(&["cordon", &node()]);
        Self
    }
}

impl Drop for Cordon {
    fn drop(&mut self) {
        let _ = tool("kubectl").args(["--context", &context(), "uncordon", &node()]).output();
    }
}

fn some_release_is_pending() -> bool {
    releases().iter().any(|(_, status)| status.starts_with("pending"))
}

#[test]
fn an_interrupt_leaves_the_release_failed_and_no_process_behind() {
    let _turn = turn();
    let cordon = Cordon::set();
    let child = beside(&xtask(&["layer", "45", "--force"]));
    eventually("a release is being upgraded", some_release_is_pending);
    child.send_signal(libc::SIGINT).unwrap();
    let (code, said) = ended(&child);
    drop(cordon);
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(helm_processes(), []);
    let found = releases();
    assert!(found.iter().all(|(_, status)| matches!(status.as_str(), "failed" | "deployed")), "{found:?}");
    assert!(found.iter().any(|(_, status)| status == "failed"), "{found:?}");
    succeeds(xtask(&["layer", "45"]));
    assert!(all_deployed(), "{:?}", releases());
}

/// As a laptop's lid closes in the middle of a deploy: all that works on it stands still, the nodes
/// too, for longer than a Lease lasts and than Kubernetes believes in a silent node.
#[test]
fn a_deploy_goes_on_after_the_machine_has_slept() {
    let _turn = turn();
    let child = beside(&xtask(&["layer", "45", "--force"]));
    eventually("a release is being upgraded", some_release_is_pending);
    child.send_signal(libc::SIGSTOP).unwrap();
    let helm = helm_processes();
    helm.iter().for_each(|(pid, _)| signal(*pid, "STOP"));
    docker(&["pause", &node(), &load_balancer()]);
    std::thread::sleep(Duration::from_secs(65));
    docker(&["unpause", &node(), &load_balancer()]);
    helm.iter().for_each(|(pid, _)| signal(*pid, "CONT"));
    child.send_signal(libc::SIGCONT).unwrap();
    let (code, said) = ended(&child);
    assert_eq!(code, Some(0), "{said}");
    assert!(all_deployed(), "{said}\n{:?}", releases());
}

#[test]
fn a_release_whose_helm_was_killed_is_repaired_with_nothing_lost() {
    let _turn = turn();
    let columns = "custom-columns=NAME:.metadata.name,UID:.metadata.uid";
    let claims = || kubectl(&["-n", "ameide", "get", "pvc", "--no-headers", "-o", columns]);
    let before = claims();
    let cordon = Cordon::set();
    let child = unheard(&xtask(&["layer", "45", "--force"]));
    eventually("a release is being upgraded", some_release_is_pending);
    // Helm and Helmfile first: they must have no time to report a failure.
    kill(&helm_processes());
    child.kill().unwrap();
    eventually("helm is gone", || helm_processes().is_empty());
    drop(cordon);
    assert!(some_release_is_pending());
    let output = succeeds(xtask(&["layer", "45"]));
    assert!(output.contains("marked failed"), "{output}");
    assert!(all_deployed(), "{:?}", releases());
    assert_eq!(claims(), before, "the claims are the very same");
}

/// What an interrupted Helm leaves while a hook is being recorded: the label says `failed`, the
/// release `pending-upgrade`, and Helm goes by the release.
#[test]
fn a_release_that_is_pending_under_the_label_failed_is_repaired() {
    let _turn = turn();
    edit_revision("temporal", |secret| {
        set_status(secret, Status::PendingUpgrade, "Preparing upgrade").unwrap();
        secret.metadata.labels.as_mut().unwrap().insert("status".into(), "failed".into());
    });
    assert!(some_release_is_pending(), "Helm does not take it for pending: {:?}", releases());

    let said = ends(xtask(&["checklist"]), 7);
    assert!(said.contains("pending-upgrade"), "{said}");
    let output = succeeds(xtask(&["layer", "45"]));
    assert!(output.contains("marked failed") && !output.contains("release-pending"), "{output}");
    assert!(all_deployed(), "{:?}", releases());
}

/// It holds no data, so no consent is needed, and nothing that is deployed is touched.
#[test]
fn a_lost_load_balancer_is_made_again_and_what_is_paused_goes_on_unasked() {
    let _turn = turn();
    let id = || docker(&["container", "inspect", "--format", "{{.Id}}", &node()]);
    let before = (id(), releases());
    docker(&["rm", "-f", "-v", &load_balancer()]);
    let said = succeeds(xtask(&["cluster"]));
    assert!(said.contains("recreated the load balancer"), "{said}");
    assert_eq!((id(), releases()), before);
    // Paused containers are continued, the registry's included.
    for container in [node(), load_balancer(), registry_container()] {
        docker(&["pause", &container]);
    }
    assert!(succeeds(xtask(&["cluster"])).contains("started the cluster"));
    assert_eq!((id(), releases()), before);
    // k3d recognises it as its own.
    assert!(succeeds(xtask(&["cluster", "stop"])).contains("stopped the cluster"));
    succeeds(xtask(&["cluster"]));
}

/// So that its pods find them there: on a new cluster most of a layer's time may be its pulls.
#[test]
fn a_later_layer_s_images_are_pulled_while_an_earlier_one_is_worked_on() {
    let _turn = turn();
    let of_redis = ["-n", "ameide", "get", "statefulset", "redis-master", "-o"];
    let image = kubectl(&[&of_redis[..], &["jsonpath={.spec.template.spec.containers[0].image}"]].concat());
    let node = node();
    let _whole = Pulled(image.clone());
    // Redis goes on running without it, and nothing but this would pull it again.
    docker(&["exec", &node, "crictl", "rmi", &image]);
    eventually("the node lists it no more", || {
        !kubectl(&["get", "node", &node, "-o", "jsonpath={.status.images[*].names}"]).contains("third-party/redis@")
    });
    succeeds(xtask(&["layer", "18", "40", "--jobs", "1", "--force", "--skip-tests"]));
    let has_it = || docker(&["exec", &node, "crictl", "images"]).contains("third-party/redis");
    assert!(!has_it(), "one after the other");
    succeeds(xtask(&["layer", "18", "40", "--jobs", "2", "--force", "--skip-tests"]));
    // A pull that has begun goes on in the node.
    eventually("the node has it again", has_it);
}

/// An image that the node has at the end, whatever a test finds out.
struct Pulled(String);

impl Drop for Pulled {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["exec", &node(), "crictl", "pull", &self.0]).output();
    }
}

/// As `docker network prune` takes the network of a cluster that stands still, and somebody the
/// registry's container: what it holds is in a volume.
#[test]
fn a_network_and_a_registry_that_are_gone_are_made_again_unasked() {
    let _turn = turn();
    let _afterwards = BroughtUp;
    let before = releases();
    let network = format!("ameide-{}-network", environment());
    let of_registry = || docker(&["inspect", "--format", "{{json .NetworkSettings.Networks}}", &registry_container()]);
    succeeds(xtask(&["cluster", "stop"]));
    docker(&["stop", &registry_container()]);
    docker(&["network", "rm", &network]);
    let said = succeeds(xtask(&["cluster"]));
    assert!(said.contains(&format!("[{network}] created the network again")), "{said}");
    assert!(said.contains(&format!("[{}] connected to the network", node())), "{said}");
    assert_eq!(releases(), before);
    assert!(of_registry().contains(&network), "{}", of_registry());
    docker(&["rm", "--force", &registry_container()]);
    let said = succeeds(xtask(&["cluster"]));
    assert!(said.contains("connected to the cluster's network"), "{said}");
    // The nodes find it by its name, with what it held.
    succeeds(xtask(&["layer", "45", "--force"]));
}

/// Whatever a test finds out, the tests after it find a cluster that is up.
struct BroughtUp;

impl Drop for BroughtUp {
    fn drop(&mut self) {
        let _ = xtask(&["cluster"]).output();
    }
}

/// The folder in which k3s keeps its certificates.
const TLS: &str = "/var/lib/rancher/k3s/server/tls";

/// A certificate for the key of this name in that folder, which expired yesterday.
fn expired(key: &str, subject: &str, extension: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let shell = shell();
    shell.change_dir(folder.path());
    let files = ["server-ca.crt".to_owned(), "server-ca.key".to_owned(), format!("{key}.key")];
    for file in &files {
        shell.write_file(file, docker(&["exec", &node(), "cat", &format!("{TLS}/{file}")])).unwrap();
    }
    let [authority, of_authority, key] = files;
    shell.write_file("extension", extension).unwrap();
    cmd!(shell, "openssl req -new -key {key} -subj {subject} -out request").run().unwrap();
    let sign = cmd!(shell, "openssl x509 -req -in request -CA {authority} -CAkey {of_authority} -days -1");
    sign.args(["-extfile", "extension"]).ignore_stderr().read().unwrap() + "\n"
}

/// A cluster that nobody has started again for a year.
#[test]
fn certificates_that_have_expired_are_renewed_unasked() {
    let _turn = turn();
    let _afterwards = BroughtUp;
    let before = releases();
    let (node, shell) = (node(), shell());
    let replace = format!("cat > {TLS}/serving-kube-apiserver.crt");
    let of_server = expired("serving-kube-apiserver", "/CN=kube-apiserver", "subjectAltName=IP:127.0.0.1");
    cmd!(shell, "docker exec -i {node} sh -c {replace}").stdin(of_server).run().unwrap();
    eventually("the API server shows it", || {
        let seen = tool("kubectl").args(["--context", &context(), "get", "nodes"]).output().unwrap();
        String::from_utf8_lossy(&seen.stderr).contains("certificate has expired")
    });
    let told = ends(xtask(&["layer", "45", "--skip-tests"]), 4);
    assert!(told.contains("its certificate has expired") && told.contains(" cluster "), "{told}");
    let said = succeeds(xtask(&["cluster"]));
    assert!(said.contains("started the cluster, with new certificates"), "{said}");
    assert_eq!(releases(), before);

    // The client's alone, as k3s has written it for everybody.
    let of_client = expired("client-admin", "/O=system:masters/CN=system:admin", "extendedKeyUsage=clientAuth");
    let replace = format!(
        "sed -i 's/client-certificate-data: .*/client-certificate-data: {}/' $K3S_KUBECONFIG_OUTPUT",
        STANDARD.encode(of_client)
    );
    docker(&["exec", &node, "sh", "-c", &replace]);
    succeeds(xtask(&["cluster", "kubeconfig"]));
    let told = ends(xtask(&["layer", "45", "--skip-tests"]), 8);
    assert!(told.contains("unauthenticated") && told.contains(" cluster "), "{told}");
    let said = succeeds(xtask(&["cluster"]));
    assert!(said.contains("it refuses the credentials that it has issued"), "{said}");
    assert!(said.contains("started the cluster, with new certificates"), "{said}");
    assert_eq!(releases(), before);
}
