//! The files that other programs read, checked with those programs' own parsers: the workflow with
//! actionlint and zizmor, the Tiltfile with Tilt's Starlark, shell files with shellcheck, what
//! production renders with checkov, the devcontainer with its CLI, the tree's YAML with the schemas
//! for editors, and the tree against what Renovate looks for in it.

mod support;

#[path = "lint/devcontainer.rs"]
mod devcontainer;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{installed, rendered, root, text};
use xtask::run::reporter::{Format, Reporter};
use xtask::world::go::Program;

/// A program of tests/lint/judges/requirements.txt, installed from PyPI.
fn judge(name: &str) -> Command {
    let list = root().join("tests/lint/judges/requirements.txt");
    let folder = installed("python/judges", &list, |folder| {
        let environment = || Command::new("python3").args(["-m", "venv"]).arg(folder).output();
        if !environment().is_ok_and(|output| output.status.success()) {
            // Debian packages the module separately.
            support::apt_install(&["python3-venv"]);
            let made = environment().expect("python3 with venv (Debian: apt-get install python3-venv)");
            assert!(made.status.success(), "{}", text(&made));
        }
        let mut pip = Command::new(folder.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&list);
        let installed = pip.stdin(Stdio::null()).output().unwrap();
        assert!(installed.status.success(), "{}", text(&installed));
    });
    let mut command = Command::new(folder.join("bin").join(name));
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// A program of tests/lint, built into the cache of the pinned tools.
fn program(name: &str, package: &str) -> Command {
    let module = camino::Utf8PathBuf::from_path_buf(root().join("tests/lint").join(name)).unwrap();
    let program = Program { name: name.to_owned(), module, package: package.to_owned(), stamp: None };
    let cache = xtask::files::cache_dir().unwrap();
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
    // It really checks: a workflow that names no such step is rejected.
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.yaml");
    let text = std::fs::read_to_string(root().join(".github/workflows/data-plane.yaml")).unwrap();
    std::fs::write(&broken, text.replace("if: always()", "if: alwayz()")).unwrap();
    assert!(!actionlint().arg(&broken).output().unwrap().status.success());
}

#[test]
fn the_workflow_holds_before_zizmor() {
    let zizmor = |path: &Path| judge("zizmor").args(["--offline", "--no-progress"]).arg(path).output().unwrap();
    let output = zizmor(&root().join(".github"));
    assert!(output.status.success(), "{}", text(&output));
    // It really checks: an action by tag, and a token that is left behind, are rejected.
    let text = std::fs::read_to_string(root().join(".github/workflows/data-plane.yaml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (good, bad) in
        [("@08c6903cd8c0fde910a37f88322edcfb5dd907a8", "@v5"), ("persist-credentials: false", "fetch-depth: 1")]
    {
        assert!(text.contains(good), "{good}");
        let broken = folder.path().join("broken.yaml");
        std::fs::write(&broken, text.replace(good, bad)).unwrap();
        assert!(!zizmor(&broken).status.success(), "{bad}");
    }
}

#[test]
fn every_action_is_named_by_its_commit_with_its_version_beside() {
    let text = std::fs::read_to_string(root().join(".github/workflows/data-plane.yaml")).unwrap();
    let actions: Vec<&str> =
        text.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("uses: ")).collect();
    assert!(actions.len() >= 4, "{actions:?}");
    for action in actions {
        let (name, version) = action.split_once(" # v").expect(action);
        let commit = name.split_once('@').unwrap().1;
        assert!(commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{action}");
        assert_eq!(version.split('.').count(), 3, "{action}");
    }
}

/// What shellcheck says about a script; with `masked`, including failures that are hidden by a
/// surrounding command.
fn shellcheck(script: &str, shell: Option<&str>, masked: bool) -> Result<(), String> {
    let mut command = judge("shellcheck");
    // The kubelet and bash set HOSTNAME; sourced files are checked on their own.
    command.args(["--color=never", "--exclude=SC3028,SC1091"]);
    command.args(shell.map(|shell| format!("--shell={shell}")));
    if masked {
        command.arg("--enable=check-extra-masked-returns");
    } else {
        command.arg("--exclude=SC1090");
    }
    let mut child = command.arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(text(&output)) }
}

fn shell_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            shell_files(&path, into);
        } else if std::fs::read(&path).is_ok_and(|bytes| {
            let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
            bytes.starts_with(b"#!") && (first.ends_with(b"/sh") || first.ends_with(b"bash"))
        }) {
            into.push(path);
        }
    }
}

#[test]
fn every_shell_file_holds_before_shellcheck() {
    let mut files = Vec::new();
    for folder in [".ci", ".devcontainer", "scripts", "infra", "tests/lab/images"] {
        shell_files(&root().join(folder), &mut files);
    }
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        // The lab's images replace others, and follow their entry points.
        let masked = !file.to_str().unwrap().contains("/tests/lab/");
        let text = std::fs::read_to_string(&file).unwrap();
        shellcheck(&text, None, masked).unwrap_or_else(|said| panic!("{}\n{said}", file.display()));
    }
    // Bash reads it at startup; nobody runs it.
    let completion = root().join("xtask/src/commands/completion/cargo-xtask.bash");
    let text = std::fs::read_to_string(completion).unwrap();
    shellcheck(&text, Some("bash"), false).unwrap_or_else(|said| panic!("{said}"));
}

/// As the pods get them, assembled and filled in.
#[test]
fn every_script_that_a_chart_renders_holds_before_shellcheck() {
    let mut objects = rendered::render("production");
    objects.extend(rendered::neo4j());
    let mut scripts: BTreeMap<String, String> = BTreeMap::new();
    for object in &objects {
        if object.kind() == "ConfigMap" {
            for (key, text) in object.value["data"].as_object().unwrap().iter().filter(|(key, _)| key.ends_with(".sh"))
            {
                scripts.insert(format!("{} {key}", object.name()), text.as_str().unwrap().to_owned());
            }
        }
        inline(&object.value, &mut scripts, object.name());
    }
    assert!(scripts.len() > 15, "{:?}", scripts.keys());
    for (name, script) in &scripts {
        shellcheck(script, Some("sh"), true).unwrap_or_else(|said| panic!("{name}\n{said}\n{script}"));
    }
    for hidden in
        ["export A=\"$(false)\"", "for x in $(cat /list); do echo \"$x\"; done", "[ \"$(psql -c x)\" = t ] || continue"]
    {
        assert!(shellcheck(hidden, Some("sh"), true).is_err(), "{hidden}");
    }
}

/// Commands anywhere in an object that give a shell its script: containers, probes, hooks.
fn inline(value: &Value, into: &mut BTreeMap<String, String>, name: &str) {
    match value {
        Value::Object(map) => {
            if let Some(command) = map.get("command").and_then(Value::as_array) {
                let words = command.iter().chain(map.get("args").and_then(Value::as_array).into_iter().flatten());
                let words: Vec<&str> = words.map(|word| word.as_str().unwrap()).collect();
                if let ["/bin/sh", options, script, ..] = words[..]
                    && options.starts_with('-')
                    && options.ends_with('c')
                {
                    let part = map.get("name").and_then(Value::as_str).unwrap_or("probe");
                    // In arguments Kubernetes reads $$ as one $.
                    into.insert(format!("{name} {part} {}", into.len()), script.replace("$$", "$"));
                }
            }
            map.values().for_each(|value| inline(value, into, name));
        }
        Value::Array(values) => values.iter().for_each(|value| inline(value, into, name)),
        _ => {}
    }
}

#[test]
fn checkov_asks_of_production_only_what_is_declined_with_a_reason() {
    let declined = std::fs::read_to_string(root().join("tests/lint/checkov.yaml")).unwrap();
    let declined: BTreeMap<String, String> = serde_saphyr::from_str(&declined).unwrap();
    assert!(declined.values().all(|reason| reason.len() > 40));
    // Folders whose names begin with a dot are skipped.
    let folder = tempfile::Builder::new().prefix("rendered").tempdir().unwrap();
    for (number, object) in rendered::render("production").iter().enumerate() {
        std::fs::write(
            folder.path().join(format!("{number:03}.json")),
            serde_json::to_string_pretty(&object.value).unwrap(),
        )
        .unwrap();
    }
    let mut checkov = judge("checkov");
    checkov.args(["--framework", "kubernetes", "--skip-download", "--compact", "--output", "json", "--directory"]);
    let output = checkov.arg(folder.path()).output().unwrap();
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    let results = &report["results"];
    let failed: BTreeSet<String> = results["failed_checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| !declined.contains_key(check["check_id"].as_str().unwrap()))
        .map(|check| format!("{} {}: {}", check["check_id"], check["check_name"], check["resource"]))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let summary = &report["summary"];
    assert!(summary["passed"].as_u64().unwrap() > 1000 && summary["parsing_errors"] == 0, "{summary}");
}

/// What a JSON Schema validator says about a YAML file; its schema is the one that its first line
/// names, which is how editors find it.
fn by_its_schema(path: &Path, yaml: &str) -> Result<(), String> {
    const SCRIPT: &str = "import json, jsonschema, sys, yaml
schema = json.load(open(sys.argv[1]))
jsonschema.Draft7Validator.check_schema(schema)
jsonschema.Draft7Validator(schema).validate(yaml.safe_load(sys.stdin))";
    let named = yaml.lines().next().unwrap().strip_prefix("# yaml-language-server: $schema=");
    let schema = path.parent().unwrap().join(named.unwrap_or_else(|| panic!("{} names none", path.display())));
    let mut command = judge("python");
    command.args(["-c", SCRIPT]).arg(&schema).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(text(&output)) }
}

#[test]
fn the_tree_s_yaml_holds_before_the_schemas_that_editors_get() {
    let environments = ["local", "ci", "staging", "production"];
    let environments = environments.map(|name| format!("kubernetes/environments/{name}/env.yaml"));
    let others = ["kubernetes/layers.yaml", "images/images.yaml", "tools/tools.yaml"].map(str::to_owned);
    for path in environments.into_iter().chain(others) {
        let path = root().join("infra").join(path);
        let yaml = std::fs::read_to_string(&path).unwrap();
        by_its_schema(&path, &yaml).unwrap_or_else(|said| panic!("{}\n{said}", path.display()));
        assert!(by_its_schema(&path, &format!("{yaml}\nkolour: red\n")).is_err(), "{}: a wrong key", path.display());
    }
    for (path, good, bad) in [
        ("kubernetes/layers.yaml", "preflight: {namespace: 120", "preflight: {namespace: soon"),
        ("kubernetes/layers.yaml", "creates: [", "makes: ["),
        ("kubernetes/layers.yaml", "retries:\n", "retries:\n  patience: {no-such-blocker: 5}\n"),
        ("kubernetes/environments/ci/env.yaml", "plainHTTP: true", "plainHTTP: yes, please"),
        ("images/images.yaml", "platforms: [linux/amd64, linux/arm64]", "platforms: linux/amd64"),
        ("tools/tools.yaml", "    stamp: helm.sh", "    stump: helm.sh"),
    ] {
        let path = root().join("infra").join(path);
        let yaml = std::fs::read_to_string(&path).unwrap();
        assert!(yaml.contains(good), "{good}");
        let said = by_its_schema(&path, &yaml.replacen(good, bad, 1)).unwrap_err();
        assert!(said.contains("ValidationError"), "{said}");
    }
}

/// The files of this name below a folder.
fn files_called(name: &str, folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            files_called(name, &entry.path(), into);
        } else if entry.file_name() == name {
            into.push(entry.path());
        }
    }
}

#[test]
fn renovate_sees_every_image_and_every_tool() {
    let config = std::fs::read_to_string(root().join(".github/renovate.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    // What its expressions find in a file: the values of their groups.
    let found = |manager: usize, file: &str| -> Vec<BTreeMap<String, String>> {
        const SCRIPT: &str = "import json, re, sys
pattern = sys.argv[1].replace('(?<', '(?P<')
print(json.dumps([match.groupdict() for match in re.finditer(pattern, open(sys.argv[2]).read())]))";
        let manager = &config["customManagers"][manager];
        let mut command = judge("python");
        assert!(manager["managerFilePatterns"].is_array(), "there is no such manager");
        command.args(["-c", SCRIPT, manager["matchStrings"][0].as_str().unwrap()]).arg(root().join(file));
        let output = command.output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
    };
    let list = std::fs::read_to_string(root().join("infra/images/images.yaml")).unwrap();
    let list: Value = serde_saphyr::from_str(&list).unwrap();
    let wanted = list["images"].as_array().unwrap().iter().map(|image| {
        let (name, tag) = image["image"].as_str().unwrap().rsplit_once(':').unwrap();
        let groups = [("depName", image["id"].as_str().unwrap()), ("packageName", name), ("currentValue", tag)];
        groups.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    });
    assert_eq!(found(0, "infra/images/images.yaml"), wanted.collect::<Vec<BTreeMap<_, _>>>());
    // Every image of the lock that is resolved, with its tag and its digest; here the real lock, and
    // the same once all of it is.
    let lock = std::fs::read_to_string(root().join("infra/images/images.lock")).unwrap();
    let digest = format!("@sha256:{}", "0123456789abcdef".repeat(4));
    let line = |line: &str| match line.trim_start().starts_with("image: ") && !line.contains('@') {
        true => format!("{line}{digest}\n"),
        false => format!("{line}\n"),
    };
    let resolved: String = lock.lines().map(line).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.lock");
    std::fs::write(&path, &resolved).unwrap();
    for (file, text) in [("infra/images/images.lock", &lock), (path.to_str().unwrap(), &resolved)] {
        let lock: Value = serde_saphyr::from_str(text).unwrap();
        let pinned = lock["images"].as_array().unwrap().iter().filter_map(|image| {
            let (name, digest) = image["image"].as_str().unwrap().split_once('@')?;
            let (name, tag) = name.rsplit_once(':').unwrap();
            let id = image["id"].as_str().unwrap();
            let groups = [("depName", id), ("packageName", name), ("currentValue", tag), ("currentDigest", digest)];
            Some(groups.map(|(key, value)| (key.to_owned(), value.to_owned())).into())
        });
        assert_eq!(found(2, file), pinned.collect::<Vec<BTreeMap<_, _>>>(), "{file}");
    }
    assert_eq!(found(2, path.to_str().unwrap()).len(), list["images"].as_array().unwrap().len());
    assert_eq!(config["customManagers"][2]["managerFilePatterns"][0], r"/^infra/images/images\.lock$/");
    for cluster in ["local", "ci"] {
        assert_eq!(found(1, &format!("infra/docker/{cluster}/k3d.yaml")).len(), 1, "{cluster}");
    }

    let mut modules = Vec::new();
    ["infra", "tests"].iter().for_each(|folder| files_called("go.mod", &root().join(folder), &mut modules));
    let rules = config["packageRules"].as_array().unwrap();
    let rule = rules.iter().find(|rule| rule["matchDepTypes"][0] == "indirect").unwrap();
    let named: Vec<&str> =
        rule["matchPackageNames"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let mut tools = 0;
    for path in modules {
        let module = std::fs::read_to_string(&path).unwrap();
        let mut in_block = false;
        for line in module.lines().map(str::trim) {
            in_block = line == "tool (" || in_block && line != ")";
            let alone = line.strip_prefix("tool ").unwrap_or(if in_block { line } else { "" });
            let Some(package) = Some(alone).filter(|package| package.contains('/')) else { continue };
            tools += 1;
            let is_of = |module: &&str| package == *module || package.starts_with(&format!("{module}/"));
            assert!(named.iter().any(is_of), "{}: {package} is not named", path.display());
        }
    }
    assert!(tools > 10, "{tools}");
}

#[test]
fn the_workflow_runs_what_people_run() {
    let text = std::fs::read_to_string(root().join(".github/workflows/data-plane.yaml")).unwrap();
    for command in [
        "cargo xtask up --yes",
        ".ci/run",
        ".ci/collect artifacts",
        "cargo xtask cluster delete --allow-destroy=cluster,registry",
        // On macOS.
        "cargo test --workspace --lib --bins --test offline",
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
            assert!(row["cmd"].to_string().contains(r#""cargo","xtask","--env","local","#), "{row}");
        }
        // A later run of one that others build on begins theirs.
        let named = |name: &str| rows.iter().find(|row| row["name"][0] == name).unwrap();
        for (before, after) in [("cluster", "infra:mirror"), ("mirror", first), ("mirror", last)] {
            let stamp = format!("target/tilt/local-{before}");
            let written = named(&format!("infra:{before}"))["cmd"].to_string();
            assert!(written.contains(&stamp) && named(after)["deps"].to_string().contains(&stamp), "{rows:?}");
        }
    }
}
