//! The output that people see, kept in `tests/shown` and updated with `UPDATE_EXPECT=1`.

use std::path::Path;

use expect_test::expect_file;
use serde_json::json;

use crate::consent::World;
use crate::releases::{Bench, revision};
use crate::report::state_with;
use crate::support::{edit, ends, root, succeeds, text, xtask};

#[track_caller]
fn shown(name: &str, text: &str) {
    expect_file![root().join("tests/shown").join(name)].assert_eq(text);
}

/// Without what differs each time: folders, ports, the names of runs, and times.
fn steady(text: &str, folder: &Path) -> String {
    let text = text.replace(folder.to_str().unwrap().trim_end_matches('/'), "FOLDER");
    let text = masked(&text, "runs/", |c| c != '/' && !c.is_whitespace(), "RUN");
    let text = masked(&text, "127.0.0.1:", |c| c.is_ascii_digit(), "PORT");
    let words = text.split_inclusive(char::is_whitespace).map(|word| {
        let bare = word.trim_end().trim_end_matches([',', ';', ':', '.', ')']).trim_start_matches('(');
        let number = bare.strip_suffix("ms").or(bare.strip_suffix('s')).unwrap_or_default();
        let time = !number.is_empty() && number.contains('.') && number.chars().all(|c| c.is_ascii_digit() || c == '.');
        if time { word.replace(|c: char| c.is_ascii_digit(), "0") } else { word.to_owned() }
    });
    words.collect::<String>().lines().map(|line| milliseconds(line).trim_end().to_owned() + "\n").collect()
}

/// With each number of milliseconds replaced by 0, keeping the column width.
fn milliseconds(line: &str) -> String {
    let mut parts: Vec<String> = line.split(" ms").map(str::to_owned).collect();
    let last = parts.len() - 1;
    for part in &mut parts[..last] {
        let number = part.len() - part.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        part.truncate(part.len() - number);
        if line.starts_with('|') {
            part.push('0');
        } else {
            part.push_str(&format!("{:>number$}", 0));
        }
    }
    parts.join(" ms")
}

/// Replaces what follows each `start`, as long as its characters are `part`, with `mask`.
fn masked(text: &str, start: &str, part: impl Fn(char) -> bool, mask: &str) -> String {
    let mut parts = text.split(start);
    let mut all = parts.next().unwrap_or_default().to_owned();
    for rest in parts {
        let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
        all.push_str(&format!("{start}{}{}", if end > 0 { mask } else { "" }, &rest[end..]));
    }
    all
}

/// The commands that a help lists.
fn commands(help: &str) -> Vec<&str> {
    let list = help.split_once("Commands:\n").map_or("", |(_, list)| list);
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    let names = lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").collect()
}

fn help(path: &[&str], columns: &str) -> String {
    let mut command = xtask(&root(), &[path, &["--help"]].concat());
    command.env("COLUMNS", columns);
    succeeds(command)
}

#[test]
fn the_help_of_every_command() {
    let mut open = vec![Vec::new()];
    let mut count = 0;
    while let Some(path) = open.pop() {
        let help = help(&path, "100");
        let name = [&["xtask"], &path[..]].concat().join("-");
        shown(&format!("help/{name}.txt"), &help);
        count += 1;
        for command in commands(&help) {
            let command: &'static str = command.to_owned().leak();
            open.push([&path[..], &[command]].concat());
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn the_help_breaks_its_lines_between_words() {
    let (narrow, wide) = (help(&["layer"], "60"), help(&["layer"], "300"));
    assert_eq!(narrow.lines().find(|line| line.chars().count() > 60), None);
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&narrow), words(&wide));
}

#[test]
fn the_plan_of_a_dry_run() {
    for (name, arguments) in [
        ("up", &["up", "--dry-run"][..]),
        ("layer", &["layer", "40-45", "--dry-run"]),
        ("lab", &["lab", "--dry-run"]),
        ("mirror", &["mirror", "--dry-run"]),
    ] {
        let world = World::Healthy.machine();
        let helmfile = world.path("bin/helmfile");
        let listed = r#"[{"name":"web","namespace":"shop","enabled":true,"installed":true}]"#;
        edit(&helmfile, |script| {
            script.replacen('\n', &format!("\ncase \"$*\" in *' list '*) echo '{listed}'; exit 0;; esac\n"), 1)
        });
        let said = text(&world.run(arguments, &[]));
        shown(&format!("dry-run/{name}.txt"), &steady(&said, &world.path("")));
    }
}

#[test]
fn a_failed_run() {
    let bench = Bench::new();
    let said = bench.ends(&["layer", "20", "--skip-tests"], 8);
    shown("failed-run.txt", &steady(&said, &bench.path("")));
}

#[test]
fn a_run_that_brings_a_layer_in() {
    let bench = Bench::new();
    bench.base_in_place();
    let said = bench.ends(&["layer", "20"], 0);
    shown("layer.txt", &steady(&said, &bench.path("")));
}

#[test]
fn the_table_of_releases() {
    let bench = Bench::new();
    for (name, status) in [("a", "failed"), ("b", "uninstalled"), ("c", "deployed"), ("d", "pending-upgrade")] {
        bench.server.put(revision("shop", name, 3, status, 60));
    }
    shown("releases.txt", &steady(&bench.ends(&["releases"], 0), &bench.path("")));
    bench.server.answer(
        "/api/v1/secrets",
        200,
        json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": []}).to_string(),
    );
    shown("releases-none.txt", &steady(&bench.ends(&["releases"], 0), &bench.path("")));
}

#[test]
fn the_history_of_releases() {
    let bench = Bench::new();
    for (number, status) in [(1, "superseded"), (2, "failed"), (3, "deployed")] {
        let mut revision = revision("shop", "web", number, status, 60 - i64::from(number));
        if number > 1 {
            revision["metadata"]["labels"]["run"] = "20261125-100000-7".into();
            revision["metadata"]["labels"]["by"] = "anna_at_laptop".into();
        }
        bench.server.put(revision);
    }
    shown("history.txt", &steady(&bench.ends(&["releases", "history", "web"], 0), &bench.path("")));
}

#[test]
fn the_checklist_of_a_machine_without_a_cluster() {
    let bench = Bench::new();
    for (format, name) in [("text", "checklist.txt"), ("markdown", "checklist.md")] {
        let mut command = bench.xtask(&["checklist", "--format", format]);
        let output = command.output().unwrap();
        assert_ne!(output.status.code(), Some(0));
        shown(name, &steady(&text(&output), &bench.path("")));
    }
}

#[test]
fn the_report_of_a_run() {
    for run in ["good", "failed"] {
        let state = state_with(run);
        let mut command = xtask(&root(), &["--env", "ci", "report", run, "--format", "markdown", "--to", "-"]);
        command.env("AMEIDE_STATE_DIR", state.path());
        shown(&format!("report-{run}.md"), &ends(command, 0).replace(state.path().to_str().unwrap(), "FOLDER"));
    }
}
