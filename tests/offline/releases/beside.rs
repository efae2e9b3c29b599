//! Layers running in parallel: which do, which wait, and what a failure of one means for the rest.

use std::time::Duration;

use serde_json::json;

use super::{Bench, release};

const LAYERS: [&str; 5] = ["10-base", "20-top", "30-side", "40-last", "50-other"];

/// `20-top` and `30-side` need the base, `40-last` needs `20-top`, `50-other` nothing. A sync first
/// runs the lines of `hook`, and records its start and its end.
fn bench(hook: &str) -> Bench {
    let bench = Bench::new();
    bench.edit_layers(
        "layers: {10-base: {}, 20-top: {layers: [10-base]}, 30-side: {layers: [10-base]}, 40-last: {layers: [20-top]}, 50-other: {}}",
    );
    for layer in LAYERS {
        bench.write(&format!("infra/kubernetes/helmfiles/{layer}.yaml"), "releases: []\n");
        let name = match layer {
            "10-base" => "web",
            _ => layer.split_once('-').unwrap().1,
        };
        bench.lists(layer, &json!([release(name, true, true)]));
        bench.server.put(super::revision("shop", name, 1, "deployed", 60));
    }
    let folder = bench.path("").display().to_string();
    let before = std::fs::read_to_string(bench.path("bin/helmfile")).unwrap();
    let before = before.strip_prefix("#!/bin/sh\n").unwrap();
    bench.stand_in(
        "helmfile",
        &format!(
            "cd {folder}\ncase \"$*\" in *' sync '*)\nlayer=$(basename \"$2\" .yaml)\necho \"start $layer\" >> order\n{hook}\necho \"end $layer\" >> order\n;; esac\n{before}"
        ),
    );
    bench
}

/// Waits, for some seconds, until the other layer's sync has started.
fn meets(layer: &str, other: &str) -> String {
    format!(
        "if [ $layer = {layer} ]; then n=0; until grep -q 'start {other}' order; do n=$((n+1)); [ $n -lt 100 ] || exit 9; sleep 0.1; done; fi"
    )
}

fn order(bench: &Bench) -> Vec<String> {
    std::fs::read_to_string(bench.path("order")).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn run(bench: &Bench, more: &[&str], exit: i32) -> String {
    bench.ends(&[&["layer", "10-50", "--skip-tests"], more].concat(), exit)
}

#[test]
fn layers_that_do_not_need_each_other_are_worked_on_at_once_and_the_others_wait() {
    let hook = [meets("20-top", "30-side"), meets("30-side", "20-top")].join("\n");
    let bench = bench(&hook);
    let said = run(&bench, &["--jobs", "3"], 0);
    for layer in LAYERS {
        assert!(said.contains(&format!("[{layer}] in place: 1 release")), "{said}");
    }
    let order = order(&bench);
    let at = |line: &str| order.iter().position(|found| found == line).unwrap();
    assert!(at("end 10-base") < at("start 20-top") && at("end 10-base") < at("start 30-side"), "{order:?}");
    assert!(at("end 20-top") < at("start 40-last"), "{order:?}");
    assert!(at("start 50-other") < at("start 20-top"), "it needs nothing: {order:?}");
}

#[test]
fn one_job_is_one_layer_after_the_other() {
    let bench = bench("");
    run(&bench, &["--jobs", "1"], 0);
    let expected: Vec<String> =
        LAYERS.iter().flat_map(|layer| [format!("start {layer}"), format!("end {layer}")]).collect();
    assert_eq!(order(&bench), expected);
}

#[test]
fn after_a_failure_the_others_come_to_their_end_and_no_more_is_started() {
    // 20-top fails once 30-side is running, and 30-side goes on after that.
    let hook = format!(
        "{}\nif [ $layer = 20-top ]; then echo 'Error: no' >&2; echo 'failed' >> order; exit 1; fi\nif [ $layer = 30-side ]; then n=0; until grep -q failed order; do n=$((n+1)); [ $n -lt 100 ] || exit 9; sleep 0.1; done; sleep 1; fi",
        meets("20-top", "30-side")
    );
    for (more, others) in
        [(&["--jobs", "2"][..], "not started"), (&["--jobs", "2", "--keep-going"], "in place: 1 release")]
    {
        // Nothing needs 50-other, and it comes last.
        let bench = bench(&hook);
        bench.edit_layers(
            "layers: {10-base: {}, 20-top: {layers: [10-base]}, 30-side: {layers: [10-base]}, 40-last: {layers: [20-top]}, 50-other: {layers: [10-base, 30-side]}}",
        );
        let said = run(&bench, more, 1);
        assert!(said.contains("1 other layer is still being worked on"), "{more:?}: {said}");
        assert!(said.contains("[30-side] in place: 1 release"), "{more:?}: {said}");
        assert!(said.contains("[40-last] not started: 20-top, which it needs, is not in place"), "{more:?}: {said}");
        assert!(said.contains(&format!("[50-other] {others}")), "{more:?}: {said}");
        assert!(!order(&bench).contains(&"start 40-last".to_owned()));
    }
}

#[test]
fn all_that_fail_are_told_and_the_first_one_is_the_verdict() {
    let hook = format!(
        "{}\n{}\nif [ $layer = 20-top ]; then echo 'Error: the first' >&2; echo 'failed' >> order; exit 1; fi\nif [ $layer = 30-side ]; then until grep -q failed order; do sleep 0.1; done; sleep 1; echo 'Error: the second' >&2; exit 1; fi",
        meets("20-top", "30-side"),
        meets("30-side", "20-top")
    );
    let bench = bench(&hook);
    let said = run(&bench, &["--jobs", "2"], 1);
    let verdict = said.split('❌').next_back().unwrap();
    let (first, second) = (verdict.find("the first").unwrap(), verdict.find("the second").unwrap());
    assert!(first < second && verdict.contains("also"), "{said}");
}

#[test]
fn an_interrupt_ends_all_of_them() {
    let bench = bench("case $layer in 20-top|30-side) sleep 60 ;; esac");
    let mut child = bench
        .xtask(&["layer", "10-50", "--skip-tests", "--jobs", "2"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    crate::support::eventually("both are worked on", || {
        let order = order(&bench);
        ["20-top", "30-side"].iter().all(|layer| order.contains(&format!("start {layer}")))
    });
    std::thread::sleep(Duration::from_millis(200));
    crate::support::signal(child.id(), "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!order(&bench).iter().any(|line| line == "start 40-last"), "{:?}", order(&bench));
}
