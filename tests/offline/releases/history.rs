//! The history of releases: the status of each revision, whose it is, and why.

use serde_json::{Value, json};

use super::{Bench, made, packed};

/// A run's name in this tool's format.
const RUN: &str = "20261125-100000-7";

/// A revision of `web` with Helm's description and, if given, a run label.
fn revision(number: u32, status: &str, words: &str, run: Option<&str>) -> Value {
    let mut secret = made("shop", "web", number, status, 60 - i64::from(number), "");
    let chart = json!({"metadata": {"name": "web", "version": "0.1.0", "appVersion": "7.2"}});
    let stored = json!({"name": "web", "namespace": "shop", "version": number, "chart": chart,
        "info": {"status": status, "description": words}});
    secret["data"]["release"] = packed(stored.to_string().as_bytes()).into();
    if let Some(run) = run {
        secret["metadata"]["labels"]["run"] = run.into();
        secret["metadata"]["labels"]["by"] = "anna_at_laptop".into();
    }
    secret
}

/// The run's record on this machine: it made this revision, for this reason.
fn record(bench: &Bench, revision: u32) {
    let lines = [
        json!({"event": "run", "command": "cargo xtask up", "verb": "up", "env": "t"}),
        json!({"event": "release-syncing", "layer": "10-base", "release": "web", "namespace": "shop", "why": "charts/web changed"}),
        json!({"event": "release", "layer": "10-base", "name": "web", "namespace": "shop", "revision": revision.to_string(),
            "status": "deployed", "started": "2026-11-25T11:00:00Z"}),
        json!({"event": "end", "exit": 0, "seconds": 1.0}),
    ];
    let text = lines.into_iter().map(|mut line| {
        line["time"] = "2026-11-25T11:00:00Z".into();
        format!("{line}\n")
    });
    bench.write(&format!("state/t/runs/{RUN}/record.jsonl"), &text.collect::<String>());
}

fn rows(bench: &Bench, arguments: &[&str]) -> Vec<Value> {
    let said = bench.ends(&[&["releases", "history", "--output", "json"], arguments].concat(), 0);
    serde_json::from_str(said.lines().find(|line| line.starts_with('[')).unwrap()).unwrap()
}

#[test]
fn a_revision_tells_its_run_and_the_reason_that_the_run_gave() {
    let bench = Bench::new();
    bench.server.put(revision(1, "superseded", "Install complete", Some("20261120-100000-7")));
    bench.server.put(revision(2, "deployed", "Upgrade complete", Some(RUN)));
    record(&bench, 2);
    let rows = rows(&bench, &["web"]);
    let told = |row: &Value| (row["revision"].clone(), row["run"].clone(), row["by"].clone(), row["reason"].clone());
    let reason = json!("charts/web changed");
    assert_eq!(told(&rows[0]), (json!(2), json!(RUN), json!("anna_at_laptop"), reason), "the newest first");
    assert_eq!(told(&rows[1]), (json!(1), json!("20261120-100000-7"), json!("anna_at_laptop"), Value::Null));
    assert_eq!(rows[0]["created"], "2026-11-25T11:02:00Z");
    assert_eq!((&rows[0]["age_seconds"], &rows[0]["chart_version"]), (&json!(58 * 60), &json!("0.1.0")));
    assert!(rows.len() == 2 && rows.iter().all(|row| row["certain"] == true), "{rows:#?}");
}

#[test]
fn a_label_that_helm_handed_on_makes_nobody_the_author() {
    let bench = Bench::new();
    bench.server.put(revision(1, "superseded", "Install complete", Some(RUN)));
    bench.server.put(revision(2, "superseded", "Upgrade complete", Some(RUN)));
    bench.server.put(revision(3, "deployed", "Rollback to 1", Some(RUN)));
    let rows_without = rows(&bench, &["shop/web"]);
    assert_eq!((&rows_without[1]["run"], &rows_without[1]["certain"]), (&json!(RUN), &json!(false)), "perhaps its own");
    assert_eq!((&rows_without[0]["run"], &rows_without[0]["inherited"]), (&Value::Null, &json!(true)));
    assert_eq!(rows_without[2]["certain"], true, "an install has nobody to have it from");
    // The run's record on this machine names the first revision, and no other.
    record(&bench, 1);
    let rows_with = rows(&bench, &["web"]);
    assert_eq!((&rows_with[1]["run"], &rows_with[1]["inherited"]), (&Value::Null, &json!(true)));
    let said = bench.ends(&["releases", "history", "web"], 0);
    assert!(said.contains("by hand") && !said.contains(&format!("{RUN}?")), "{said}");
}

#[test]
fn a_layer_a_release_or_everything_is_shown_and_another_word_is_an_error() {
    let bench = Bench::new();
    bench.server.put(revision(1, "deployed", "Install complete", None));
    bench.server.put(super::revision("elsewhere", "theirs", 1, "deployed", 60));
    let names = |arguments: &[&str]| -> Vec<String> {
        rows(&bench, arguments).iter().map(|row| row["release"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&["10"]), ["web"]);
    assert_eq!(names(&["base"]), ["web"]);
    assert_eq!(names(&[]), ["theirs", "web"]);
    assert!(names(&["20-top"]).is_empty());
    let said = bench.ends(&["releases", "history", "webs"], 2);
    assert!(said.contains("neither a layer nor a release") && said.contains("shop/web"), "{said}");
}

#[test]
fn a_history_that_cannot_be_read_is_a_failure_and_one_broken_secret_is_told() {
    let bench = Bench::new();
    let mut broken = revision(1, "deployed", "Install complete", None);
    broken["data"]["release"] = "AAAA".into();
    bench.server.put(broken);
    let said = bench.ends(&["releases", "history", "web"], 0);
    assert!(said.contains("its Secret cannot be read as a release"), "{said}");
    bench.server.answer("/api/v1/namespaces/shop/secrets", 500, "no");
    let said = bench.ends(&["releases", "history", "web"], 4);
    assert!(said.contains("Helm's release Secrets in shop") && !said.contains("no release"), "{said}");
}

#[test]
fn a_run_stamps_whose_it_is_and_says_why_it_syncs() {
    let bench = Bench::new();
    bench.base_in_place();
    let before = std::fs::read_to_string(bench.path("bin/helmfile")).unwrap();
    let stamped = format!("echo \"$AMEIDE_RUN $AMEIDE_BY\" >> {}\n", bench.path("stamped").display());
    bench.stand_in("helmfile", &before.replacen("#!/bin/sh\n", &stamped, 1));
    let mut layer = bench.xtask(super::LAYER);
    layer.env("USER", "anna b");
    crate::support::ends(layer, 0);
    let stamps = std::fs::read_to_string(bench.path("stamped")).unwrap();
    let stamp = stamps.lines().last().unwrap().split_once(' ').unwrap().1.to_owned();
    assert!(stamp.starts_with("anna_b_at_"), "{stamp}");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    assert!(stamp.len() <= 63 && stamp.chars().all(plain), "{stamp}");
}
