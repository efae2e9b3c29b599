//! Bad input: each gives one clear error that names it, and changes nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use xshell::cmd;

use crate::support::{self, copy_configuration, shell};

/// A copy of the tree's configuration in a folder with a space in its name.
fn copy_of_the_tree() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("a tree");
    copy_configuration(&copy);
    (folder, copy)
}

fn xtask(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = support::xtask(folder, &[&["--env", "ci"], arguments].concat());
    command.env("AMEIDE_STATE_DIR", folder.join("state"));
    command
}

#[track_caller]
fn refused(mut command: Command, exit: i32, parts: &[&str]) -> Output {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert_eq!(text.matches('❌').count(), 1, "one error:\n{text}");
    output
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from:?} is not in {}", path.display());
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn an_unknown_layer_or_environment_is_named_with_what_there_is() {
    let (_folder, tree) = copy_of_the_tree();
    refused(xtask(&tree, &["layer", "99"]), 2, &["\"99\"", "45-data-plane-ext"]);
    refused(support::xtask(&tree, &["--env", "prod", "layer", "45"]), 2, &["\"prod\"", "production"]);
}

#[test]
fn an_unknown_flag_is_refused_before_anything_happens() {
    let (_folder, tree) = copy_of_the_tree();
    let output = xtask(&tree, &["layer", "45", "--forse"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--forse"));
    assert!(!tree.join("state").exists());
}

#[test]
fn outside_the_tree_it_says_what_it_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    refused(xtask(folder.path(), &["layer", "45"]), 2, &["infra/kubernetes/helmfiles"]);
}

#[test]
fn an_unknown_field_of_k3d_yaml_is_named_with_its_line() {
    let (_folder, tree) = copy_of_the_tree();
    edit(&tree.join("infra/docker/ci/k3d.yaml"), "servers: 1", "servers: 1\nserverz: 3");
    refused(xtask(&tree, &["cluster"]), 2, &["k3d.yaml", "serverz"]);
}

#[test]
fn numbers_that_cannot_be_meant_are_named_with_file_and_field() {
    let layers = "infra/kubernetes/layers.yaml";
    let k3d = "infra/docker/ci/k3d.yaml";
    for (command, file, from, to, parts) in [
        ("up", layers, "firstWait: 5", "firstWait: 18446744073709551615", ["retries.rateLimit.firstWait", "86400"]),
        ("up", layers, "within: 180", "within: 99999999", ["retries.apiUnreachable.within", "86400"]),
        ("up", layers, "service: 60", "service: 18446744073709551616", ["service", "18446744073709551616"]),
        ("up", layers, "namespace: 120", "namespace: -1", ["namespace", "-1"]),
        ("up", layers, "attempts: 8", "attempts: 4294967296", ["attempts", "4294967296"]),
        ("up", layers, "attempts: 2,", "attempts: 2000,", ["retries.apiUnreachable.attempts", "1000"]),
        ("up", layers, "retries:\n", "retries:\n  patience: {crash-loop: 9e99}\n", ["patience", "9e99"]),
        ("cluster", k3d, "servers: 1", "servers: 4294967295", ["servers", "1 to 100"]),
        ("cluster", k3d, "servers: 1", "servers: 0", ["servers", "1 to 100"]),
        ("cluster", k3d, "agents: 0", "agents: 4294967295", ["agents", "0 to 100"]),
        ("cluster", k3d, "servers: 1", "servers: 4294967296", ["servers", "4294967296"]),
        ("cluster", k3d, "\"6551\"", "\"655100\"", ["kubeAPI.hostPort", "655100"]),
        ("cluster", k3d, "127.0.0.1:8443:443", "127.0.0.1:84430:443", ["ports[0].port", "84430"]),
    ] {
        let (_folder, tree) = copy_of_the_tree();
        edit(&tree.join(file), from, to);
        let name = file.rsplit('/').next().unwrap();
        let mut command = xtask(&tree, &[command]);
        command.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
        refused(command, 2, &[name, parts[0], parts[1]]);
    }
    let (_folder, tree) = copy_of_the_tree();
    for flag in ["18446744073709551615", "9999h", "-1s", "1e3"] {
        let output = xtask(&tree, &["--lock-timeout", flag, "layer", "--list"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flag}");
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_once_with_its_place_and_in_nobodys_terms_of_rust() {
    let layers = "infra/kubernetes/layers.yaml";
    for (from, to, expected) in [
        ("namespace: 120", "namespace: soon", "expected a whole number from 0 to 18446744073709551615"),
        ("criticalPath:", "preflight: {}\ncriticalPath:", "duplicate mapping key `preflight`"),
        ("criticalPath:", "criticalPath: [\n", "line "),
    ] {
        let (_folder, tree) = copy_of_the_tree();
        edit(&tree.join(layers), from, to);
        let output = refused(xtask(&tree, &["up", "--dry-run"]), 2, &["layers.yaml: line ", " column ", expected]);
        let text = support::text(&output);
        for inside in ["Options", "from_str", "u64", "<input>", "-->"] {
            assert!(!text.contains(inside), "{inside} is in {text}");
        }
    }
    let (_folder, tree) = copy_of_the_tree();
    let text = std::fs::read_to_string(tree.join(layers)).unwrap();
    std::fs::write(tree.join(layers), text + "---\n{}\n").unwrap();
    refused(xtask(&tree, &["up", "--dry-run"]), 2, &["layers.yaml: line ", "only single YAML document expected"]);
    std::fs::write(tree.join(layers), b"criticalPath: []\n# \xff\n").unwrap();
    refused(xtask(&tree, &["up", "--dry-run"]), 2, &["layers.yaml", "line 2 column 3: not UTF-8"]);
    std::fs::write(tree.join("infra/images/images.lock"), "version: 1\nplatforms: []\nimages: x\n").unwrap();
    refused(xtask(&tree, &["--no-lab", "mirror", "--dry-run"]), 2, &["images.lock: line 3 column "]);
}

#[test]
fn a_variable_that_cannot_be_meant_is_named() {
    let (_folder, tree) = copy_of_the_tree();
    for (variable, value, expected) in [
        ("AMEIDE_STATE_DIR", "state", "expected an absolute path"),
        ("AMEIDE_KEEP_RUNS", "x", "expected a whole number"),
        ("XTASK_CONFIRM", "yes", "expected 1 to consent"),
    ] {
        let mut command = xtask(&tree, &["layer", "--list"]);
        command.env(variable, value);
        refused(command, 2, &[variable, value, expected]);
    }
}

#[test]
fn a_remedy_can_be_pasted_whatever_the_tree_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("it's a tree");
    copy_configuration(&tree);
    std::fs::write(tree.join("infra/kubernetes/helmfiles/45-data-plane-ext.yaml"), "releases: [").unwrap();
    let quoted = r"helmfile -f '/";
    refused(xtask(&tree, &["layer", "45", "--dry-run"]), 2, &[quoted, r"it'\''s a tree/", "' -e ci "]);
}

#[test]
fn layers_can_be_listed_by_what_selects_them() {
    let (_folder, tree) = copy_of_the_tree();
    let listed = |arguments: &[&str]| support::succeeds(xtask(&tree, arguments));
    assert_eq!(listed(&["layer", "45", "--list"]), "45-data-plane-ext\n");
    refused(xtask(&tree, &["layer", "--list", "99"]), 2, &["\"99\""]);
}

#[test]
fn a_command_line_that_cannot_be_read_is_told_as_json_too() {
    let (_folder, tree) = copy_of_the_tree();
    let output = xtask(&tree, &["layer", "45", "--forse", "--output", "json"]).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(2), &b""[..]));
    let text = String::from_utf8(output.stdout).unwrap();
    let events: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failure = events.iter().find(|event| event["event"] == "failure").unwrap();
    assert_eq!(failure["code"], "usage");
    assert!(failure["message"].as_str().unwrap().contains("--forse"), "{failure}");
}

#[test]
fn a_file_of_the_tree_without_end_is_refused_and_not_read_to_it() {
    let (_folder, tree) = copy_of_the_tree();
    for (command, file) in [("up", "infra/kubernetes/layers.yaml"), ("cluster", "infra/docker/ci/k3d.yaml")] {
        let path = tree.join(file);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        refused(xtask(&tree, &[command]), 2, &[file.rsplit('/').next().unwrap(), "larger than"]);
    }
}

#[test]
fn missing_and_broken_yaml_are_named() {
    let (_folder, tree) = copy_of_the_tree();
    let env = tree.join("infra/kubernetes/environments/ci/env.yaml");
    edit(&env, "plainHTTP: true", "plainHTTP: maybe");
    refused(xtask(&tree, &["cluster"]), 2, &["env.yaml", "plainHTTP"]);
    edit(&env, "plainHTTP: maybe", "plainHTTP: true");
    edit(&env, "infra/docker/ci/k3d.yaml", "infra/docker/none/k3d.yaml");
    refused(xtask(&tree, &["cluster"]), 2, &["infra/docker/none/k3d.yaml"]);
    std::fs::write(tree.join("infra/kubernetes/layers.yaml"), "criticalPath: [10-bootstrap\n").unwrap();
    refused(xtask(&tree, &["up"]), 2, &["layers.yaml"]);
}

#[test]
fn what_env_yaml_says_wrongly_is_named_with_its_field_and_makes_no_folder() {
    for (from, to, parts) in [
        ("context: k3d-ameide-ci", "context: ../../evil", ["cluster.context", "../../evil"]),
        ("context: k3d-ameide-ci", "context: ''", ["cluster.context", "kubeconfig"]),
        ("push: 127.0.0.1:5001", "push: 'http://x y'", ["registry.push", "http://x y"]),
        ("push: 127.0.0.1:5001", "push: a\n  ca: nope.pem", ["registry.ca", "nope.pem"]),
    ] {
        let (_folder, tree) = copy_of_the_tree();
        edit(&tree.join("infra/kubernetes/environments/ci/env.yaml"), from, to);
        refused(xtask(&tree, &["checklist"]), 2, &["ci/env.yaml", parts[0], parts[1]]);
        assert!(!tree.join("state").exists() && !tree.with_file_name("evil").exists());
    }
}

#[test]
fn an_environment_with_the_context_of_another_touches_neither_cluster() {
    let (_folder, tree) = copy_of_the_tree();
    edit(&tree.join("infra/kubernetes/environments/ci/env.yaml"), "context: k3d-ameide-ci", "context: k3d-ameide");
    for command in [
        &["cluster", "--dry-run"][..],
        &["cluster", "delete", "--allow-destroy=cluster"],
        &["releases"],
        &["layer", "45", "--dry-run"],
    ] {
        refused(xtask(&tree, command), 2, &["ci/env.yaml", "k3d-ameide-ci", "infra/docker/ci/k3d.yaml"]);
    }
}

#[test]
fn a_name_that_no_layer_has_ends_every_run_of_a_layer() {
    let (_folder, tree) = copy_of_the_tree();
    let path = tree.join("infra/kubernetes/layers.yaml");
    edit(&path, "  60-qa:", "  61-qa:");
    for command in [&["layer", "60", "--dry-run"][..], &["layer", "10"], &["layer", "45", "--remove"], &["up"]] {
        refused(xtask(&tree, command), 2, &["layers.yaml", "61-qa", "60-qa"]);
    }
    std::fs::remove_file(&path).unwrap();
    refused(xtask(&tree, &["layer", "60", "--dry-run"]), 2, &["layers.yaml"]);
}

#[test]
fn an_image_to_update_that_is_not_listed_is_named_and_the_lock_stays() {
    let (_folder, tree) = copy_of_the_tree();
    let lock = tree.join("infra/images/images.lock");
    let before = std::fs::read(&lock).unwrap();
    let update = |more: &[&str]| xtask(&tree, &[&["--no-lab", "mirror", "--update"], more].concat());
    refused(update(&["redsi"]), 2, &["images.yaml", "\"redsi\"", "redis"]);
    edit(&tree.join("infra/images/images.yaml"), "id: redis", "id: postgres");
    refused(update(&["postgres"]), 2, &["images.yaml", "postgres: two images have this id"]);
    assert_eq!(std::fs::read(&lock).unwrap(), before);
    // A lock that already says it is not written again.
    let text = "# by hand\nversion: 1\nplatforms: []\nimages: []\n";
    std::fs::write(tree.join("infra/images/images.yaml"), "images: []\n").unwrap();
    std::fs::write(&lock, text).unwrap();
    support::succeeds(update(&[]));
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), text);
}

#[test]
fn windows_line_ends_are_read_as_any_other() {
    let (_folder, tree) = copy_of_the_tree();
    for file in
        ["infra/kubernetes/layers.yaml", "infra/docker/ci/k3d.yaml", "infra/kubernetes/environments/ci/env.yaml"]
    {
        let path = tree.join(file);
        let text = std::fs::read_to_string(&path).unwrap().replace('\n', "\r\n");
        std::fs::write(path, text).unwrap();
    }
    let output = xtask(&tree, &["layer", "10-45", "--dry-run"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = xtask(&tree, &["cluster", "delete", "--dry-run"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn without_docker_it_says_so() {
    let (_folder, tree) = copy_of_the_tree();
    let mut command = xtask(&tree, &["cluster", "--yes"]);
    command.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    refused(command, 8, &["docker-unavailable", "/nowhere/docker.sock"]);
}

#[test]
fn without_go_it_says_so() {
    let (_folder, tree) = copy_of_the_tree();
    let mut command = xtask(&tree, &["tools"]);
    command.env("AMEIDE_CACHE_DIR", tree.join("cache")).env("PATH", "/nowhere");
    refused(command, 8, &["go-missing", "install Go"]);
}

#[test]
fn a_full_disk_in_the_cache_folder_is_named() {
    let (_folder, tree) = copy_of_the_tree();
    let cache = tree.join("cache");
    std::fs::create_dir(&cache).unwrap();
    let _mounted = SmallDisk::at(&cache);
    let mut command = xtask(&tree, &["tools"]);
    // Tools on PATH would be used.
    let go = which("go");
    command.env("AMEIDE_CACHE_DIR", &cache).env("PATH", go.parent().unwrap());
    refused(command, 8, &["disk-full", "a tree/cache"]);
}

/// A file system of 1 MiB, unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn at(folder: &Path) -> Self {
        let shell = shell();
        let mounted = cmd!(shell, "mount -t tmpfs -o size=1m tmpfs {folder}").quiet().run();
        mounted.expect("this test mounts a small file system, and must be root for it");
        Self(folder.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn which(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file()).unwrap()
}
