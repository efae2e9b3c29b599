//! The entry points that need no cluster.

use crate::support::{root, text, xtask};

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
