//! The entry points that need no cluster.

use std::io::Read;

use crate::processes::{World, signal};
use crate::releases::Bench;
use crate::support::{on, root, terminal, text, xtask};

#[test]
fn the_backlog_page_has_the_definitions_of_today() {
    let page = std::fs::read_to_string(root().join(::xtask::checklist::PAGE)).unwrap();
    let fresh = ::xtask::checklist::with_definitions(&page).unwrap();
    assert!(page == fresh, "cargo xtask checklist --write brings it up to date");
}

#[test]
fn a_watch_wants_a_terminal() {
    // Whoever tests on a cluster at the same time reads its newest record.
    let state = tempfile::tempdir().unwrap();
    let mut command = xtask(&root(), &["--env", "ci", "checklist", "--watch"]);
    let output = command.env("AMEIDE_STATE_DIR", state.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn a_watch_draws_each_look_over_the_last() {
    let world = World::new();
    world.with_a_cluster();
    let [theirs, mut ours] = terminal();
    let child = world.run(&["checklist", "--watch"], &[]).before_spawn(move |command| {
        on(command, theirs.try_clone()?);
        Ok(())
    });
    let child = child.start().unwrap();
    let (mut shown, mut part) = (String::new(), [0; 4096]);
    while shown.matches("Data Plane Ready · ").count() < 3 {
        let read = ours.read(&mut part).unwrap();
        shown.push_str(&String::from_utf8_lossy(&part[..read]));
    }
    signal(&child, libc::SIGINT);
    assert_eq!(child.wait().unwrap().status.code(), Some(130));
    assert_eq!(shown.matches("\x1b[H\x1b[JData Plane Ready · ").count(), 3, "{shown:?}");
}

#[test]
fn the_remedies_of_the_checklist_are_for_its_environment_and_a_dry_run_writes_no_file() {
    let bench = Bench::new();
    let to = bench.path("ready.md");
    let output = bench.xtask(&["checklist", "--dry-run", "--to", to.to_str().unwrap()]).output().unwrap();
    let said = text(&output);
    assert!(said.contains("would write ") && !to.exists(), "{said}");
    let remedies: Vec<&str> = said.lines().filter_map(|line| line.split_once("remedy: ")).map(|(_, it)| it).collect();
    assert!(remedies.contains(&"cargo xtask --env t layer 10-base"), "{said}");
    for remedy in remedies {
        assert!(!remedy.contains('`') && !remedy.contains("kubectl describe"), "{remedy}");
        assert!(remedy.split("cargo xtask ").skip(1).all(|rest| rest.starts_with("--env t ")), "{remedy}");
    }
}
