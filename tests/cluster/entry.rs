//! The entry points: the checklist with each of its items made to fail for real, the old script
//! names, the devcontainer's scripts, and the cluster from inside a container.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use xshell::cmd;
use xtask::releases::Status;
use xtask::world::helm_storage::set_status;

use crate::support::cluster::{
    context, docker, edit_revision, environment, kubectl, node, registry_container, state, turn_in_the_real_tree, xtask,
};
use crate::support::server::{Answer, Server, ask};
use crate::support::{eventually, old_scripts, plain, root, shell, succeeds, text, tool};

fn set_finalizers(list: &str) {
    let patch = format!(r#"{{"metadata":{{"finalizers":{list}}}}}"#);
    kubectl(&["-n", "ameide-int-tests", "patch", "configmap", "held", "--type=merge", "-p", &patch]);
}

/// Deletes a namespace that is held by an object in it.
fn delete_held_namespace() {
    kubectl(&["-n", "ameide-int-tests", "create", "configmap", "held"]);
    set_finalizers(r#"["ameide.dev/hold"]"#);
    kubectl(&["delete", "namespace", "ameide-int-tests", "--wait=false"]);
}

/// The checklist's exit code and items.
fn checklist(arguments: &[&str]) -> (i32, Vec<Value>) {
    let output = xtask(&["checklist", "--format", "json"]).args(arguments).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    let code = output.status.code().unwrap();
    assert_eq!(json["ready"], code == 0, "{json:#}");
    (code, json["items"].as_array().unwrap().clone())
}

fn evidence(items: &[Value], id: &str) -> String {
    items.iter().find(|item| item["id"] == id).unwrap()["evidence"].to_string()
}

/// Asserts that the first failed item is this one, with this exit code and text.
#[track_caller]
fn first_failed(id: &str, exit: i32, says: &str) {
    let (code, items) = checklist(&[]);
    let failed: Vec<&Value> = items.iter().filter(|item| item["state"] == "fail").map(|item| &item["id"]).collect();
    assert_eq!(failed.first(), Some(&&Value::from(id)), "{items:#?}");
    assert_eq!(code, exit, "{items:#?}");
    assert!(evidence(&items, id).contains(says), "{says:?} is not in {}", evidence(&items, id));
}

#[track_caller]
fn green(arguments: &[&str]) {
    let output = xtask(&["checklist"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "checklist {arguments:?}\n{}", text(&output));
}

#[test]
fn each_item_of_the_checklist_fails_for_its_own_cause() {
    let _turn = turn_in_the_real_tree();
    // From a run with an account; without one, they matter if the mirror lacks an image.
    for namespace in ["ameide", "ameide-int-tests"] {
        kubectl(&["-n", namespace, "delete", "secret", "dockerhub-creds", "--ignore-not-found"]);
    }
    green(&[]);

    // lock-free: somebody holds the lock.
    let state = state();
    let lock = std::fs::File::create(state.lock()).unwrap();
    lock.lock().unwrap();
    first_failed("lock-free", 3, "held by");
    drop(lock);
    green(&[]);

    // cluster-matches: this cluster has no ready marker; --fix writes it.
    std::fs::remove_file(state.ready_marker()).unwrap();
    first_failed("cluster-matches", 4, "k3d-cluster-ready does not exist");
    green(&["--fix"]);

    // api-ready: a server that does not answer.
    docker(&["pause", &node()]);
    let (code, items) = checklist(&[]);
    docker(&["unpause", &node()]);
    let state_of = |id: &str| items.iter().find(|item| item["id"] == id).unwrap()["state"].clone();
    assert_eq!(
        (code, state_of("api-ready"), state_of("nodes-ready")),
        (4, "fail".into(), "unknown".into()),
        "{items:#?}"
    );

    // nodes-ready
    kubectl(&["cordon", &node()]);
    first_failed("nodes-ready", 8, "cordoned");
    kubectl(&["uncordon", &node()]);
    eventually("green after the pause", || checklist(&[]).0 == 0);

    // registry-warm: stopped, then without one image, so that pull secrets matter. --fix repairs
    // both.
    docker(&["stop", "-t", "0", &registry_container()]);
    first_failed("registry-warm", 5, "does not answer");
    green(&["--fix"]);
    let redis = "/var/lib/registry/docker/registry/v2/repositories/third-party/redis";
    docker(&["exec", &registry_container(), "rm", "-rf", redis]);
    first_failed("registry-warm", 5, "third-party/redis");
    let (_, items) = checklist(&[]);
    assert!(evidence(&items, "pull-secrets").contains("the mirror is not complete"), "{items:#?}");
    green(&["--fix"]);

    // images-mirrored
    kubectl(&["-n", "ameide", "run", "stranger", "--image=docker.io/library/stranger:1", "--restart=Never"]);
    first_failed("images-mirrored", 5, "ameide/stranger: docker.io/library/stranger:1");
    kubectl(&["-n", "ameide", "delete", "pod", "stranger", "--now"]);

    // workloads-ready, and a smoke test that fails because of it.
    kubectl(&["-n", "ameide", "scale", "statefulset/redis-master", "--replicas=0"]);
    eventually("redis is gone", || {
        kubectl(&["-n", "ameide", "get", "pods", "-o", "name"]).lines().all(|pod| !pod.contains("redis-master"))
    });
    first_failed("workloads-ready", 8, "statefulset/redis-master: is scaled to 0");
    let mut test = tool("helm");
    test.args(["test", "redis", "-n", "ameide", "--kube-context", &context(), "--timeout", "60s"]);
    assert!(!test.output().unwrap().status.success(), "no test passes without a Redis");
    kubectl(&["-n", "ameide", "scale", "statefulset/redis-master", "--replicas=1"]);
    kubectl(&["-n", "ameide", "rollout", "status", "statefulset/redis-master", "--timeout=120s"]);
    first_failed("smoke-tests", 9, "of ameide/redis failed");
    green(&["--fix"]);

    // releases-deployed and no-pending-release: --fix repairs and syncs, and all is well.
    edit_revision("redis", |secret| set_status(secret, Status::Failed, "").unwrap());
    first_failed("releases-deployed", 7, "ameide/redis (layer 40-data-plane): revision");
    edit_revision("redis", |secret| set_status(secret, Status::PendingUpgrade, "").unwrap());
    first_failed("no-pending-release", 7, "is pending-upgrade");
    green(&["--fix"]);

    // namespaces-active: one that is held, then one that is gone. --fix creates it again.
    delete_held_namespace();
    eventually("it tells what holds the namespace", || {
        evidence(&checklist(&[]).1, "namespaces-active").contains("ameide.dev/hold")
    });
    first_failed("namespaces-active", 6, "ameide-int-tests is Terminating");
    set_finalizers("null");
    eventually("the namespace is gone", || {
        evidence(&checklist(&[]).1, "namespaces-active").contains("ameide-int-tests does not exist")
    });
    first_failed("namespaces-active", 8, "does not exist");
    green(&["--fix"]);
}

#[test]
fn old_script_names_take_their_old_arguments_and_variables() {
    // They run `cargo xtask`, which works only there.
    let _turn = turn_in_the_real_tree();
    let scripts = old_scripts();
    let mut layer = scripts.command(
        "infra/kubernetes/scripts/run-helm-layer.sh",
        &["infra/kubernetes/helmfiles/45-data-plane-ext.yaml", "--dry-run"],
    );
    layer.env("HELMFILE_ENVIRONMENT", "staging").env("HELM_LAYER_SELECTOR", "name=minio");
    let said = succeeds(layer);
    assert!(said.contains("ameide-staging") && said.contains("[minio] would sync it"), "{said}");
    assert!(!said.contains("[temporal]"), "{said}");

    // There is no such cluster here: each layer is rendered, and a line says that nothing was
    // compared.
    let compared = "what is deployed could not be read";
    let said = succeeds(scripts.command("infra/kubernetes/scripts/helmfile-sync.sh", &["staging", "--dry-run"]));
    let layers: Vec<&str> = said.lines().filter(|line| line.contains(compared)).collect();
    let files = std::fs::read_dir(root().join("infra/kubernetes/helmfiles")).unwrap().count();
    assert_eq!(layers.len(), files, "every layer, in the environment of the argument:\n{said}");
    assert!(said.contains("ameide-staging"), "{said}");
    assert!(layers[0].contains("[10-bootstrap]") && said.contains("[checklist]"), "{said}");

    let check = "infra/kubernetes/scripts/infra-health-check.sh";
    let said = succeeds(scripts.command(check, &["staging", "--layers", "45,40", "--dry-run"]));
    let place = |layer: &str| said.find(&format!("[{layer}] {compared}"));
    let (first, second) = (place("40-data-plane"), place("45-data-plane-ext"));
    assert!(first.is_some() && first < second && place("10-bootstrap").is_none(), "{said}");
    let mut critical = scripts.command(check, &["--dry-run"]);
    critical.env("INFRA_CRITICAL_PATH", "10-bootstrap 24-auth").env("HELMFILE_ENVIRONMENT", "");
    let said = succeeds(critical);
    assert!(said.contains("[24-auth]") && !said.contains("40-data-plane"), "{said}");

    let output = scripts.command(check, &["nowhere", "--dry-run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let output = scripts.command("infra/kubernetes/scripts/run-helm-layer.sh", &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn old_script_names_work_on_a_cluster() {
    let _turn = turn_in_the_real_tree();
    let scripts = old_scripts();
    let ensure = || {
        let mut command = scripts.command("scripts/infra/ensure-k3d-cluster.sh", &[]);
        command.env("HELMFILE_ENVIRONMENT", environment());
        command
    };
    let said = succeeds(ensure());
    assert!(said.contains("ready: API, nodes"), "{said}");
    // Nothing listens on the discard port.
    let mut elsewhere = ensure();
    elsewhere.env("K3D_REGISTRY_HEALTHCHECK_URL", "http://127.0.0.1:9/v2/_catalog");
    let output = elsewhere.output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(text(&output).contains("http://127.0.0.1:9/v2/_catalog"), "{}", text(&output));

    let mut layer = scripts
        .command("infra/kubernetes/scripts/run-helm-layer.sh", &["infra/kubernetes/helmfiles/45-data-plane-ext.yaml"]);
    layer.env("HELMFILE_ENVIRONMENT", environment()).env("HELM_LAYER_SELECTOR", "name=minio");
    let said = succeeds(layer);
    assert!(said.contains("[45-data-plane-ext] in place") && said.contains("1 release"), "{said}");
    assert!(!said.contains("[temporal]"), "{said}");
}

/// The devcontainer's script with its own home, as in a container that was just created; only what
/// takes minutes to build is shared. Returns its exit code and its log.
fn devcontainer(script: &str, home: &Path, critical_path: &str) -> (i32, String) {
    devcontainer_with(script, home, critical_path, &[])
}

fn devcontainer_with(script: &str, home: &Path, critical_path: &str, variables: &[(&str, &str)]) -> (i32, String) {
    let real = PathBuf::from(std::env::var("HOME").unwrap());
    let kept =
        |variable: &str, below: &str| std::env::var(variable).map(PathBuf::from).unwrap_or_else(|_| real.join(below));
    let mut command = plain(root().join(".devcontainer").join(script));
    command.env("RUSTUP_HOME", kept("RUSTUP_HOME", ".rustup")).env("CARGO_HOME", kept("CARGO_HOME", ".cargo"));
    command.env("AMEIDE_CACHE_DIR", kept("AMEIDE_CACHE_DIR", ".cache/ameide"));
    command.env_remove("AMEIDE_STATE_DIR").env_remove("XDG_STATE_HOME").env_remove("KUBECONFIG");
    command.env("HOME", home).env("HELMFILE_ENVIRONMENT", environment()).env("INFRA_CRITICAL_PATH", critical_path);
    command.envs(variables.iter().copied());
    let output = command.current_dir("/").output().unwrap();
    let log = std::fs::read_to_string(home.join(".devcontainer-setup.log")).unwrap_or_default();
    (output.status.code().unwrap(), log)
}

fn last_lines(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[test]
fn the_devcontainers_scripts_log_each_checkpoint_and_name_what_blocks() {
    let _turn = turn_in_the_real_tree();
    let home = tempfile::tempdir().unwrap();
    let (code, log) = devcontainer("postCreateCommand.sh", home.path(), "");
    assert_eq!(code, 0, "{log}");
    let passed = log.lines().filter(|line| line.starts_with("✅ pass ")).count();
    assert_eq!(passed, xtask::checklist::ITEMS.len(), "{log}");
    assert_eq!(log.lines().last(), Some("13 of 13 hold"), "{log}");

    // A stopped cluster starts again with the devcontainer.
    docker(&["stop", "-t", "0", &node()]);
    let (code, log) = devcontainer("postStartCommand.sh", home.path(), "");
    assert!(code == 0 && log.contains("started the cluster"), "{log}");
    assert_eq!(log.lines().last(), Some("13 of 13 hold"), "{log}");

    // A release that an unknown owner seems to be working on.
    edit_revision("redis", |secret| {
        set_status(secret, Status::PendingUpgrade, "Preparing upgrade").unwrap();
        secret.metadata.labels.as_mut().unwrap().remove("run");
    });
    let (code, log) = devcontainer("postCreateCommand.sh", home.path(), "40-data-plane");
    edit_revision("redis", |secret| set_status(secret, Status::Deployed, "Upgrade complete").unwrap());
    assert_eq!(code, 7, "{log}");
    assert!(log.contains("❌ FAIL No pending release"), "{log}");
    let last = last_lines(&log, 4);
    assert!(last.contains("release redis") && last.contains("remedy:"), "{log}");

    // A namespace that is held by an object in it.
    delete_held_namespace();
    // From the first layer on, which creates the namespaces: even that one must not wait for Helm's
    // timeout.
    let (code, log) = devcontainer("postCreateCommand.sh", home.path(), "");
    set_finalizers("null");
    assert_eq!(code, 6, "{log}");
    assert!(log.contains("❌ FAIL Namespaces Active") && log.contains("ameide.dev/hold"), "{log}");
    assert!(last_lines(&log, 4).contains("namespace-terminating"), "{log}");
    eventually("the namespace is gone", || {
        evidence(&checklist(&[]).1, "namespaces-active").contains("ameide-int-tests does not exist")
    });
    green(&["--fix"]);
}

/// Answers 429 to every manifest and blob, as Docker Hub does when the quota is used up; a HEAD
/// does not count, and goes through to the real registry.
fn used_up(registry: &'static str) -> String {
    let answer = move |request: &crate::support::server::Request| {
        if request.method == "HEAD" {
            let headers: Vec<_> = request.headers.iter().map(|(name, value)| (&name[..], &value[..])).collect();
            let headers: Vec<_> = headers.into_iter().filter(|(name, _)| *name != "host").collect();
            let Ok((status, headers, _)) = ask("HEAD", registry, &request.target, &headers, b"") else {
                return Answer::Cut;
            };
            let headers = headers.iter().filter(|(name, _)| !matches!(&name[..], "connection" | "content-length"));
            return headers.fold(Answer::new(status, ""), |answer, (name, value)| answer.with(name, value));
        }
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
        Answer::new(429, body).with("RateLimit-Limit", "100;w=21600").with("RateLimit-Remaining", "0;w=21600")
    };
    Server::start(answer).address
}

/// The mirror lacks an image, and the quota of its source registry is used up.
#[test]
fn the_devcontainers_script_names_a_rate_limit() {
    let _turn = turn_in_the_real_tree();
    let repository = "/var/lib/registry/docker/registry/v2/repositories/third-party/minio/mc";
    docker(&["exec", &registry_container(), "rm", "-r", repository]);
    docker(&["restart", "-t", "0", &registry_container()]);
    let home = tempfile::tempdir().unwrap();
    let limited = used_up("127.0.0.1:5555");
    let (code, log) = devcontainer_with("postCreateCommand.sh", home.path(), "", &[("AMEIDE_LAB_UPSTREAM", &limited)]);
    assert_eq!(code, 5, "{log}");
    let last = last_lines(&log, 6);
    assert!(last.contains("registry-rate-limited") && last.contains("0 of 100 pulls left"), "{log}");
    assert!(log.contains("❌ FAIL"), "{log}");
    green(&["--fix"]);
}

/// An image with this machine's own Linux, so that this machine's programs run in it.
pub fn plain_image() -> String {
    let lab = docker(&["images", "--filter", "reference=ameide-lab/base:*", "--format", "{{.Repository}}:{{.Tag}}"]);
    if let Some(image) = lab.lines().next() {
        return image.to_owned();
    }
    let release = std::fs::read_to_string("/etc/os-release").unwrap();
    let value = |key: &str| {
        release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap().trim_matches('"').to_owned()
    };
    format!("{}:{}", value("ID"), value("VERSION_ID"))
}

#[test]
fn from_inside_a_container_the_api_is_reached_by_a_name_of_its_certificate() {
    let _turn = turn_in_the_real_tree();
    let real = PathBuf::from(std::env::var("HOME").unwrap());
    let path = |variable: &str, below: &str| {
        std::env::var(variable).unwrap_or_else(|_| real.join(below).to_str().unwrap().to_owned())
    };
    let cache = path("AMEIDE_CACHE_DIR", ".cache/ameide");
    let state = path("AMEIDE_STATE_DIR", ".local/state/ameide");
    let shell = shell();
    let docker_cli = cmd!(shell, "which docker").read().unwrap();
    let root = root();
    let script = "xtask cluster kubeconfig && xtask checklist && kubectl --context \"$CONTEXT\" get --raw /readyz && \
                  ! grep -i insecure \"$HOME/.kube/config\" && grep server: \"$HOME/.kube/config\"";
    let mut command = Command::new("docker");
    command.args(["run", "--rm", "--network", "bridge", "-v", "/var/run/docker.sock:/var/run/docker.sock"]);
    let tools = tool("kubectl").get_program().to_str().unwrap().to_owned();
    for (from, to) in [
        (docker_cli.trim(), "/usr/bin/docker"),
        (env!("CARGO_BIN_EXE_xtask"), "/usr/bin/xtask"),
        (Path::new(&tools).canonicalize().unwrap().to_str().unwrap(), "/usr/bin/kubectl"),
        (root.to_str().unwrap(), root.to_str().unwrap()),
    ] {
        command.args(["-v", &format!("{from}:{to}:ro")]);
    }
    for (folder, variable) in [(&cache, "AMEIDE_CACHE_DIR"), (&state, "AMEIDE_STATE_DIR")] {
        command.args(["-v", &format!("{folder}:{folder}"), "-e", &format!("{variable}={folder}")]);
    }
    command.args(["-e", "HOME=/tmp", "-e", &format!("HELMFILE_ENVIRONMENT={}", environment())]);
    command.args(["-e", &format!("CONTEXT={}", context()), "-w", root.to_str().unwrap()]);
    command.args([&plain_image(), "sh", "-c", script]);
    let said = succeeds(command);
    for item in ["Cluster as its file says", "Kubernetes API ready", "Registry mirror warm", "Workloads ready"] {
        assert!(said.contains(&format!("✅ pass {item}")), "{item}:\n{said}");
    }
    assert!(said.contains(&format!("server: https://{}-serverlb:6443", context())), "{said}");
    // This machine's own kubeconfig is unchanged.
    kubectl(&["get", "--raw", "/readyz"]);
}
