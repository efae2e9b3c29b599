//! One table of exit codes: the closed list of codes, the end of the help and the pages agree.

use std::collections::{BTreeMap, BTreeSet};

use run_record::{Code, Exit};

use crate::support::{root, succeeds, xtask};

/// Every exit code that a run can end with, except 0.
fn exits() -> BTreeSet<i32> {
    // A run that was terminated has the code of one that was interrupted, but its own exit code.
    Code::ALL.iter().map(|code| code.exit() as i32).chain([Exit::Terminated as i32]).collect()
}

fn numbers(text: &str) -> Vec<i32> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn the_help_names_every_exit_code_and_no_other() {
    let help = succeeds(xtask(&root(), &["--help"]));
    let (_, list) = help.split_once("Exit codes: ").unwrap();
    let list = list.split_once(". ").unwrap().0.replace('\n', " ");
    let named: Vec<i32> = list.split(", ").flat_map(|part| numbers(part.split(' ').next().unwrap())).collect();
    assert_eq!(named, [0].into_iter().chain(exits()).collect::<Vec<_>>(), "{list}");
}

#[test]
fn the_page_gives_each_code_the_exit_that_it_has() {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let (_, table) = page.split_once("| exit | blockers |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let (mut told, mut named) = (BTreeMap::new(), BTreeSet::new());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').splitn(2, " | ").collect();
        // A code whose exit depends on something else has no exit code of its own.
        let of_another = cells[0].contains('…');
        let of = numbers(cells[0]);
        named.extend(of.iter().copied());
        for code in cells[1].split('`').skip(1).step_by(2) {
            let code: Code = code.parse().unwrap_or_else(|error| panic!("{error}: {row}"));
            assert!(told.insert(code, (!of_another).then(|| of.clone())).is_none(), "twice: {code}");
        }
    }
    assert_eq!(named, exits().into_iter().chain([0]).collect());
    for code in Code::ALL {
        match told.get(code) {
            Some(Some(of)) => assert!(of.contains(&(code.exit() as i32)), "{code}: {of:?}"),
            Some(None) => {}
            None => assert_eq!(code.exit(), Exit::NotReady, "{code} has no row, which means 8"),
        }
    }
}
