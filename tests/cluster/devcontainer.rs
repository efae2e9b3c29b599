//! The devcontainer as its own CLI starts it: each stage in order, in that container and as its
//! user, with an engine that comes up late. Instead of a cluster it only needs the machine's engine
//! and images.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::entry::plain_image;
use crate::support::cluster::{docker, turn};
use crate::support::{devcontainers, root, text, tool, write_program};

/// How long the engine's socket is missing after the container has started, in seconds.
const LATE: u32 = 6;

/// A stand-in for the toolchain, which this image lacks: `cargo xtask` is the tool itself, without
/// the lab, which is not available inside a container.
const CARGO: &str = r#"#!/bin/sh
echo "$(id -un) $PWD cargo $* account=$DCKR_USERNAME:$DCKR_PAT secret=$DOCKERHUB_USERNAME" >>"$HOME/calls"
case "$1 $AS" in
  "xtask ") shift; case $1 in --no-lab) shift ;; esac; exec /opt/xtask --no-lab "$@" ;;
  "xtask prints") echo "cargo $* ran" ;;
esac
"#;

/// What the docker-in-docker feature has as an entry point: the engine starts in parallel.
const INIT: &str = r#"#!/bin/sh
(sleep LATE; ln -s /host/docker.sock /var/run/docker.sock) &
exec "$@"
"#;

/// An image with a user and the files that a feature would have installed.
fn image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        write_program(&folder.path().join("cargo"), CARGO);
        write_program(&folder.path().join("docker-init.sh"), &INIT.replace("LATE", &LATE.to_string()));
        let group = std::fs::metadata("/var/run/docker.sock").unwrap().gid();
        let metadata = json!([{"entrypoint": "/usr/local/bin/docker-init.sh", "remoteUser": "vscode"}]);
        let dockerfile = format!(
            "FROM {}\nRUN groupadd --force --gid {group} --non-unique engine && useradd --create-home --groups engine vscode\n\
             COPY cargo docker-init.sh /usr/local/bin/\nLABEL devcontainer.metadata='{metadata}'\n",
            plain_image()
        );
        std::fs::write(folder.path().join("Dockerfile"), dockerfile).unwrap();
        let tag = "ameide-test/devcontainer";
        let mut build = Command::new("docker");
        // The classic builder: Debian's package brings no buildx.
        build.args(["build", "--quiet", "--tag", tag]).arg(folder.path()).env("DOCKER_BUILDKIT", "0");
        let built = build.output().unwrap();
        assert!(built.status.success(), "{}", text(&built));
        tag.to_owned()
    })
}

/// A devcontainer of a copy of the tree.
struct Devcontainer {
    folder: tempfile::TempDir,
    label: String,
}

impl Devcontainer {
    /// With the tree's own configuration except for its image and features and what stands in for
    /// them; `change` is applied to the copy.
    fn new(name: &str, environment: Value, change: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        for part in [".devcontainer", "infra", "backlog"] {
            let copied = Command::new("cp").arg("-a").arg(root().join(part)).arg(&tree).status().unwrap();
            assert!(copied.success(), "{part}");
        }
        change(&tree);
        let file = tree.join(".devcontainer/devcontainer.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        config["image"] = image().into();
        config.as_object_mut().unwrap().remove("features");
        // This would build an image, with a builder that is not available everywhere.
        config["updateRemoteUserUID"] = false.into();
        config["containerEnv"].as_object_mut().unwrap().extend(environment.as_object().unwrap().clone());
        let bind = |from: &Path, to: &str| format!("type=bind,source={},target={to},readonly", from.display());
        let mut mounts = vec![
            bind(Path::new("/var/run/docker.sock"), "/host/docker.sock"),
            bind(&which("docker"), "/usr/bin/docker"),
            bind(Path::new(env!("CARGO_BIN_EXE_xtask")), "/opt/xtask"),
        ];
        for name in ["helm", "helmfile", "k3d", "kubectl"] {
            let real = std::fs::canonicalize(tool(name).get_program()).unwrap();
            mounts.push(bind(&real, &format!("/usr/local/bin/{name}")));
        }
        config["mounts"] = mounts.into();
        std::fs::write(folder.path().join("override.json"), config.to_string()).unwrap();
        Self { folder, label: format!("ameide.dev/test=devcontainer-{name}-{}", std::process::id()) }
    }

    /// `devcontainer up`: its result, and everything that it and the scripts printed.
    fn up(&self, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut command = devcontainers::cli();
        command.args(["up", "--id-label", &self.label, "--mount-workspace-git-root", "false", "--workspace-folder"]);
        command.arg(self.folder.path().join("tree"));
        command.arg("--override-config").arg(self.folder.path().join("override.json"));
        command.arg("--user-data-folder").arg(self.folder.path().join("data"));
        command.args(arguments).envs(variables.iter().copied());
        let output: Output = command.output().unwrap();
        (output.status.code(), text(&output))
    }

    fn container(&self) -> String {
        docker(&["ps", "--all", "--quiet", "--filter", &format!("label={}", self.label)])
    }

    /// A file in the user's home.
    fn read(&self, name: &str) -> String {
        docker(&["exec", self.container().trim(), "cat", &format!("/home/vscode/{name}")])
    }
}

impl Drop for Devcontainer {
    fn drop(&mut self) {
        // Also runs while a test fails: no second panic.
        let mut list = Command::new("docker");
        list.args(["ps", "--all", "--quiet", "--filter"]).arg(format!("label={}", self.label));
        let ids = list.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        for id in ids.unwrap_or_default().lines() {
            let _ = Command::new("docker").args(["rm", "--force", "--volumes", id]).output();
        }
    }
}

fn which(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap().canonicalize().unwrap()
}

/// A prebuild waits for the engine and does not fail over what it cannot get; the stage after it
/// ends with the tool's own exit code, and its last lines are those of the log.
#[test]
fn a_devcontainer_waits_for_its_engine_and_ends_with_what_the_log_says() {
    let _turn = turn();
    // A name that k3d does not accept: the first thing to fail after the engine and the tools.
    let container = Devcontainer::new("blocked", json!({}), |tree| {
        let file = tree.join("infra/docker/local/k3d.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        let text =
            text.replace("name: ameide\n", "name: nobody\n").replace("  - k3d-dev-reg:5000\n", "  - nobody:5000\n");
        std::fs::write(&file, text).unwrap();
        let environment = tree.join("infra/kubernetes/environments/local/env.yaml");
        crate::support::edit(&environment, |text| text.replace("context: k3d-ameide\n", "context: k3d-nobody\n"));
    });
    let (code, said) = container.up(&["--prebuild"], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("waiting at most 90 s for the dev container's engine to come up"), "{said}");
    assert!(said.contains("images ended with exit 2: left for postCreateCommand.sh"), "{said}");
    let log = container.read(".devcontainer-setup.log");
    assert!(log.contains("came up") && !log.contains("== postCreateCommand.sh"), "{log}");
    assert!(log.contains("helmfile") && log.contains("export PATH="), "the tools are there: {log}");

    let (code, said) = container.up(&[], &[]);
    assert_eq!(code, Some(1), "{said}");
    let (_, end) = said.split_once("postCreateCommand.sh failed with exit 2").expect(&said);
    assert!(end.contains("❌ usage: ") && end.contains("expected a name that starts with k3d-"), "{end}");
    assert!(!container.read("calls").contains("checklist --wait"), "nothing follows a stage that failed");
}

/// Every stage, once, in order, as the container's user in its folder; with and without an account.
#[test]
fn each_stage_of_a_devcontainer_runs_in_its_order_with_or_without_an_account() {
    let _turn = turn();
    let account = [("DCKR_USERNAME", "alice"), ("DCKR_PAT", "t0ken")];
    for (name, variables, expected) in [("with", &account[..], "alice:t0ken"), ("without", &[], ":")] {
        let container = Devcontainer::new(name, json!({"AS": "prints"}), |_| {});
        let secrets = container.folder.path().join("secrets.json");
        std::fs::write(&secrets, json!({"DOCKERHUB_USERNAME": "of-codespaces"}).to_string()).unwrap();
        let (code, said) = container.up(&["--secrets-file", secrets.to_str().unwrap()], variables);
        assert_eq!(code, Some(0), "{said}");
        let calls = container.read("calls");
        let calls: Vec<&str> = calls.lines().collect();
        let commands = [
            "build --locked",
            "xtask tools",
            "xtask --no-lab cluster prefetch",
            "xtask --no-lab mirror",
            "xtask up --yes",
            "xtask cluster",
            "xtask checklist --wait 3m",
            "xtask checklist",
            "xtask open",
        ];
        let line = |command| format!("vscode /workspaces/tree cargo {command} account={expected} secret=of-codespaces");
        assert_eq!(calls, commands.map(line), "{said}");
        let log = container.read(".devcontainer-setup.log");
        let parts: Vec<&str> =
            log.lines().filter_map(|line| line.strip_prefix("== ")?.strip_suffix("Command.sh")).collect();
        assert_eq!(parts, ["onCreate", "updateContent", "postCreate", "postStart", "postAttach"]);
        assert!(log.contains("cargo xtask up --yes ran"), "{log}");
        assert!(!log.contains("t0ken"), "{log}");
    }
}
