//! The devcontainer as its CLI reads it, and VS Code's tasks as it applies their matchers.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use xtask::reach::services;

use crate::support::{devcontainers, rendered, root, text};

/// The stages of a devcontainer in order; a prebuild stops after the second.
const STAGES: [&str; 5] =
    ["onCreateCommand", "updateContentCommand", "postCreateCommand", "postStartCommand", "postAttachCommand"];

fn read(folder: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = devcontainers::cli();
    // It looks for an existing container of the folder first; here there is none.
    command.args(["read-configuration", "--docker-path", "true", "--workspace-folder"]).arg(folder);
    command.envs(variables.iter().copied()).output().unwrap()
}

fn configuration(variables: &[(&str, &str)]) -> Value {
    let output = read(&root(), variables);
    assert!(output.status.success(), "{}", text(&output));
    let mut read: Value = serde_json::from_slice(&output.stdout).unwrap();
    read["configuration"].take()
}

#[test]
fn the_devcontainers_own_cli_reads_each_stage_and_the_account() {
    let read = configuration(&[("DCKR_USERNAME", "alice"), ("DCKR_PAT", "t")]);
    assert_eq!((&read["remoteEnv"]["DCKR_USERNAME"], &read["remoteEnv"]["DCKR_PAT"]), (&"alice".into(), &"t".into()));
    for stage in STAGES {
        let script = root().join(read[stage].as_str().unwrap());
        assert_eq!(script.file_stem().unwrap(), stage);
        assert!(script.metadata().unwrap().permissions().mode() & 0o111 != 0, "{}", script.display());
    }
    // Without an account: the tool treats an empty variable as none.
    assert_eq!(configuration(&[])["remoteEnv"]["DCKR_PAT"], "");
    // Nothing may set a variable named like a Codespaces secret, not even to an empty value.
    for secret in read["secrets"].as_object().unwrap().keys() {
        assert!(read["remoteEnv"].get(secret).is_none(), "{secret}");
    }

    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(".devcontainer")).unwrap();
    std::fs::write(folder.path().join(".devcontainer/devcontainer.json"), "[").unwrap();
    assert!(!self::read(folder.path(), &[]).status.success(), "it does look");
}

/// `cargo xtask open` listens on a service's own port number if it is free.
#[test]
fn what_an_editor_forwards_is_what_can_be_opened() {
    let read = configuration(&[]);
    let mut expected: BTreeMap<u16, String> = BTreeMap::new();
    for object in rendered::render("local").iter().filter(|object| object.kind() == "Service") {
        let service = serde_json::from_value(object.value.clone()).unwrap();
        for (openable, port) in services::openable(&service, &[])
            .iter()
            .flat_map(|openable| openable.ports.iter().map(move |port| (openable, port)))
        {
            let several = openable.ports.len() > 1;
            let name = port.name.as_ref().filter(|_| several).map(|name| format!(": {name}")).unwrap_or_default();
            expected.insert(port.number, format!("{}{name}", openable.name));
        }
    }
    let forwarded: Vec<u16> =
        read["forwardPorts"].as_array().unwrap().iter().map(|port| port.as_u64().unwrap() as u16).collect();
    assert_eq!(forwarded, expected.keys().copied().collect::<Vec<_>>());
    for (port, label) in expected {
        let attributes = &read["portsAttributes"][port.to_string()];
        assert_eq!(attributes["label"], label, "{port}");
        // If it is taken on the editor's machine, another one is used.
        assert_eq!(attributes["requireLocalPort"], false, "{port}");
    }
}

fn tasks() -> Vec<Value> {
    let text = std::fs::read_to_string(root().join(".vscode/tasks.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["tasks"].as_array().unwrap().clone()
}

/// What a task's matchers find in these lines, as `(file, line, message)`.
fn found(task: &str, lines: &str) -> Vec<(String, Option<String>, String)> {
    let mut command = Command::new("node");
    command.arg(root().join("tests/lint/tasks/match.js")).arg(root().join(".vscode/tasks.json")).arg(task);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let problem = |line: &str| {
        let problem: Value = serde_json::from_str(line).unwrap();
        let word = |key: &str| problem[key].as_str().map(str::to_owned);
        (word("file").unwrap(), word("line"), word("message").unwrap())
    };
    printed.lines().map(problem).collect()
}

#[test]
fn the_tasks_run_commands_that_there_are_and_find_what_failed_where() {
    let tasks = tasks();
    let commands: Vec<&str> = tasks.iter().map(|task| task["command"].as_str().unwrap()).collect();
    for command in ["cargo xtask up --yes", "cargo xtask layer 45", "cargo xtask checklist", "cargo xtask report"] {
        assert!(commands.contains(&command), "{commands:?}");
    }
    for command in commands.iter().filter_map(|command| command.strip_prefix("cargo xtask ")) {
        let arguments = std::iter::once("xtask").chain(command.split(' '));
        <xtask::cli::Cli as clap::Parser>::try_parse_from(arguments).map(drop).unwrap();
    }
    let contributing = std::fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    assert!(contributing.contains(commands.last().unwrap()), "the fast loop is the last one");
    let of_xtask: Vec<&Value> =
        tasks.iter().filter(|task| task["label"].as_str().unwrap().starts_with("xtask")).collect();
    assert!(of_xtask.iter().all(|task| task["problemMatcher"] == of_xtask[0]["problemMatcher"]));

    // As the tool prints them.
    let shown = |name: &str| std::fs::read_to_string(root().join("tests/shown").join(name)).unwrap();
    let failed = found("xtask: up", &format!("✅ [x] in place\n{}", shown("failed-run.txt")));
    let messages: Vec<&str> = failed.iter().map(|(_, _, message)| message.as_str()).collect();
    let sentence = "the layer 10-base, which this one needs, is not in place";
    let with = |detail: &str| format!("{sentence}\n{detail}");
    assert_eq!(
        messages,
        [with("evidence: not deployed: shop/web"), with("remedy:   cargo xtask --env t layer 10-base")]
    );
    assert_eq!(failed[0].0, "layer-missing");
    // Its items are a table; the failure follows from them.
    let not_ready = found("xtask: checklist", &shown("checklist.txt"));
    assert!(not_ready.len() == 2 && not_ready.iter().all(|(file, _, _)| file == "data-plane-not-ready"));

    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("a tree");
    crate::support::copy_configuration(&tree);
    let file = tree.join("infra/kubernetes/environments/local/env.yaml");
    let text_of = std::fs::read_to_string(&file).unwrap();
    let wrong = text_of.lines().position(|line| line.starts_with("cluster:")).unwrap() + 1;
    crate::support::edit(&file, |text| text.replacen("cluster:", "clustr:", 1));
    let said = text(&crate::support::xtask(&tree, &["layer", "45"]).output().unwrap());
    let problems = found("xtask: layer 45", &said);
    let [(at, line, message)] = &problems[..] else { panic!("{said}\n{problems:?}") };
    assert_eq!(
        (Path::new(at), line.as_deref()),
        (file.canonicalize().unwrap().as_path(), Some(wrong.to_string().as_str())),
        "{said}"
    );
    assert!(message.contains("clustr"), "{message}");
}
