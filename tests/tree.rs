//! The tree itself: every environment renders, and the documentation holds.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

#[track_caller]
fn succeeds(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn bin() -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.current_dir(root()).arg("tools");
    let printed = succeeds(command);
    printed.lines().find_map(|line| line.strip_prefix("export PATH=")?.split(':').next()).unwrap().to_owned()
}

#[test]
fn every_environment_renders_with_its_own_registry() {
    let bin = bin();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
    for (environment, registry) in [
        ("local", "k3d-dev-reg:5000/"),
        ("ci", "k3d-ci-reg:5000/"),
        ("staging", "registry.staging.ameide.example/"),
        ("production", "registry.production.ameide.example/"),
    ] {
        let mut command = Command::new(Path::new(&bin).join("helmfile"));
        // From elsewhere: the tree's paths are its own.
        command.current_dir("/").env("PATH", &path).env_remove("AMEIDE_IMAGES_LOCK");
        command.arg("--file").arg(root().join("infra/kubernetes/helmfile.yaml"));
        command.args(["--environment", environment, "--quiet", "template"]);
        let rendered = succeeds(command);
        let images: Vec<&str> =
            rendered.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image: ")).collect();
        assert!(images.len() > 10, "{environment}: {images:?}");
        assert!(images.iter().all(|image| image.trim_matches('"').starts_with(registry)), "{environment}: {images:?}");
        for kind in ["kind: StatefulSet", "kind: Deployment", "kind: Job", "helm.sh/hook: test"] {
            assert!(rendered.contains(kind), "{environment}: {kind}");
        }
    }
}

#[test]
fn what_the_readme_links_to_exists() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let links: Vec<&str> = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(!links.is_empty());
    for link in links.iter().filter(|link| !link.starts_with("http")) {
        assert!(root().join(link).exists(), "{link}");
    }
}

#[test]
fn the_readme_has_exactly_two_commands() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let blocks: Vec<&str> = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks, ["cargo xtask up --yes\n", "cargo test --workspace\n"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.current_dir(root()).args(["up", "--yes", "--dry-run"]);
    succeeds(command);
}
