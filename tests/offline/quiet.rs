//! `--quiet`: only problems and what was asked for are printed, and the record is complete.

use crate::processes::{CONTEXT, World, said};

fn run(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    said(world.run(arguments, &[]).stderr_to_stdout().stdout_capture())
}

/// The names of the events of the only run.
fn events(world: &World) -> Vec<String> {
    let runs = world.path("state").join(CONTEXT).join("runs");
    let [run] = std::fs::read_dir(runs).unwrap().flatten().collect::<Vec<_>>().try_into().unwrap();
    let record = std::fs::read_to_string(run.path().join("record.jsonl")).unwrap();
    let events = record.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.map(|event| event["event"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_run_that_goes_well_says_nothing_and_keeps_all() {
    let [loud, quiet] = [&["layer", "10"][..], &["layer", "10", "-q"]].map(|arguments| {
        let world = World::new();
        world.with_a_cluster();
        let (code, text) = run(&world, arguments);
        assert_eq!(code, Some(0), "{text}");
        (text, events(&world))
    });
    assert!(loud.0.contains("in place: 1 release"), "{}", loud.0);
    assert_eq!(quiet.0, "");
    assert_eq!(quiet.1, loud.1);
}

#[test]
fn what_is_wrong_and_what_was_asked_for_is_said_all_the_same() {
    let world = World::new();
    let (code, text) = run(&world, &["--quiet", "layer", "99"]);
    assert!(code == Some(2) && text.starts_with("❌ usage: no layer \"99\""), "{text}");
    let (code, text) = run(&world, &["layer", "--list", "--quiet"]);
    assert!(code == Some(0) && text.starts_with("10-bootstrap\n") && text.lines().count() == 7, "{text}");
    let (code, text) = run(&world, &["--quiet", "mirror", "--dry-run"]);
    assert!(code == Some(0) && text.contains("[mirror] would copy docker.io/library/busybox"), "{text}");
    let (code, text) = run(&world, &["-q", "-v", "layer", "--list"]);
    assert!(code == Some(2) && text.contains("cannot be used with"), "{text}");
}
