//! The files that other programs read, checked by those programs' own readers:
//! the workflow by actionlint, the Tiltfile by Tilt's Starlark.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use xtask::gomodule::Program;
use xtask::output::{Format, Reporter};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A program of tests/lint, built into the same cache as the pinned tools.
fn program(name: &str, package: &str) -> Command {
    let module = camino::Utf8PathBuf::from_path_buf(root().join("tests/lint").join(name)).unwrap();
    let program = Program { name: name.to_owned(), module, package: package.to_owned(), stamp: None };
    let cache = xtask::state::cache_dir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let built = runtime.block_on(program.build(&cache, &Reporter::new(Format::Json, false))).unwrap();
    let mut command = Command::new(built);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

#[test]
fn the_workflow_holds_before_actionlint() {
    let actionlint = || program("actionlint", "github.com/rhysd/actionlint/cmd/actionlint");
    let output = actionlint().arg("-no-color").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    // It does look: a workflow that names no such step is refused.
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.yaml");
    let text = std::fs::read_to_string(root().join(".github/workflows/data-plane.yaml")).unwrap();
    std::fs::write(&broken, text.replace("if: always()", "if: alwayz()")).unwrap();
    assert!(!actionlint().arg(&broken).output().unwrap().status.success());
}

#[test]
fn the_workflow_runs_what_people_run() {
    let text = std::fs::read_to_string(root().join(".github/workflows/data-plane.yaml")).unwrap();
    for command in [
        "cargo xtask up --yes",
        ".ci/run",
        ".ci/collect artifacts",
        "cargo xtask cluster delete --allow-destroy=cluster,registry",
    ] {
        assert!(text.lines().any(|line| line.trim() == format!("run: {command}")), "{command}");
    }
}

#[test]
fn the_tiltfile_has_a_resource_per_layer_of_the_critical_path_in_its_order() {
    for (path, first, last) in [
        ("", "infra:10-bootstrap", "infra:45-data-plane-ext"),
        ("data-plane-ext 24-auth", "infra:45-data-plane-ext", "infra:24-auth"),
    ] {
        let mut tilt = program("tilt", ".");
        tilt.arg("Tiltfile").env("INFRA_CRITICAL_PATH", path).env_remove("HELMFILE_ENVIRONMENT");
        let output = tilt.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let names: Vec<&str> = rows.iter().map(|row| row["name"][0].as_str().unwrap()).collect();
        let layers: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| name["infra:".len()..].starts_with(|c: char| c.is_ascii_digit()))
            .collect();
        assert_eq!((layers.first(), layers.last()), (Some(&first), Some(&last)), "{names:?}");
        for pair in rows.windows(2) {
            let after = pair[1]["resource_deps"].to_string();
            assert!(after.contains(pair[0]["name"][0].as_str().unwrap()), "{names:?}: {after}");
        }
        for row in &rows {
            assert_eq!((&row["cmd"][0], &row["cmd"][1]), (&"cargo".into(), &"xtask".into()));
        }
    }
}
