//! The layout of the source: every dependency between rooms points down, files do not import each
//! other in a cycle, and `docs/architecture.md` shows the floors as they are. And what only a look
//! at all of it can tell: no command that is proposed leaves out which cluster it is for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::support::root;

/// From the roof to the ground. Rooms on one line may only use rooms on later lines; rooms on the
/// same line do not use each other.
const FLOORS: [&[&str]; 16] = [
    &["main"],
    &["cli"],
    &["commands"],
    &["checklist"],
    &["layer"],
    &["compare"],
    &["reach"],
    &["diagnosis"],
    &["releases"],
    &["cluster"],
    &["lab"],
    &["mirror"],
    &["world"],
    &["run"],
    &["repo"],
    &["host"],
];

/// The ground, which every room may use.
const GROUND: &str = "files";

/// Feeds every parser, in tests and for `cargo fuzz`: it uses all rooms, and none uses it.
const OUTSIDE: [&str; 2] = ["lib", "fuzzing"];

/// A module's path and its source, without its tests.
fn modules(folder: &Path, path: &str, into: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let name = entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
        let module = if path.is_empty() { name.clone() } else { format!("{path}::{name}") };
        if entry.path().is_dir() {
            modules(&entry.path(), &module, into);
        } else if entry.path().extension().is_some_and(|ending| ending == "rs") && name != "tests" {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            into.insert(module, lines.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// The paths that follow a prefix such as `crate::`, with braces expanded.
fn paths_after(code: &str, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        expand("", &code[at + prefix.len()..], &mut found);
    }
    found
}

/// Expands `a::b::{self, c::D}` into `a::b`, `a::b::c::D`; returns how far it has read.
fn expand(before: &str, text: &str, into: &mut Vec<String>) -> usize {
    let word = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
    let path = format!("{before}{}", &text[..word]);
    if !text[word..].starts_with('{') {
        into.push(path.trim_end_matches(':').trim_end_matches("::self").to_owned());
        return word;
    }
    let mut at = word + 1;
    loop {
        at += text[at..].find(|c: char| !c.is_whitespace() && c != ',').unwrap();
        if text[at..].starts_with('}') {
            return at + 1;
        }
        at += expand(&path, &text[at..], into);
        at += text[at..].find([',', '}']).unwrap();
    }
}

/// Each module with the modules that it names.
fn arrows(sources: &BTreeMap<String, String>) -> BTreeSet<(String, String)> {
    let module_of = |path: &str| {
        let mut path = path.to_owned();
        while !sources.contains_key(&path) {
            path = path.rsplit_once("::")?.0.to_owned();
        }
        Some(path)
    };
    let mut arrows = BTreeSet::new();
    for (module, code) in sources {
        let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        let above = if parent.is_empty() { String::new() } else { format!("{parent}::") };
        let mut named: Vec<String> = paths_after(code, "crate::");
        named.extend(paths_after(code, "xtask::"));
        named.extend(paths_after(code, "super::").into_iter().map(|path| format!("{above}{path}")));
        arrows.extend(named.iter().filter_map(|path| module_of(path)).map(|to| (module.clone(), to)));
    }
    // A module and its submodules count as one room.
    arrows.retain(|(from, to)| from != to);
    arrows
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap()
}

fn sources() -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    modules(&root().join("xtask/src"), "", &mut sources);
    sources.retain(|module, _| !OUTSIDE.contains(&room(module)));
    sources
}

#[test]
fn arrows_between_rooms_point_down() {
    let sources = sources();
    let floor = |room: &str| match FLOORS.iter().position(|rooms| rooms.contains(&room)) {
        Some(floor) => floor,
        None if room == GROUND => FLOORS.len(),
        None => panic!("{room} stands on no floor: name it in FLOORS"),
    };
    let mut seen = 0;
    for (from, to) in arrows(&sources) {
        if room(&from) != room(&to) {
            seen += 1;
            assert!(floor(room(&from)) < floor(room(&to)), "{from} looks up at {to}");
        }
    }
    assert!(seen > 100, "only {seen} arrows were read");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let arrows = arrows(&sources());
    let mut left: Vec<(&str, &str)> = arrows.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    // A room's own file may name its submodules; where it does so without `crate::` or `super::`,
    // the path is not even read.
    left.retain(|(from, to)| !to.strip_prefix(from).is_some_and(|rest| rest.starts_with("::")));
    // Repeatedly removes whatever imports nothing that is left, or is imported by nothing: what
    // remains is a cycle.
    loop {
        let (from, to): (BTreeSet<&str>, BTreeSet<&str>) = left.iter().copied().unzip();
        let before = left.len();
        left.retain(|(a, b)| to.contains(a) && from.contains(b));
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn the_page_shows_the_floors_as_they_are() {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let (_, table) = page.split_once("| floor | room | what is there |").expect("a table of the floors");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let named: Vec<String> = rows.map(|row| row.split('`').nth(1).unwrap().to_owned()).collect();
    let rooms = FLOORS.iter().flat_map(|rooms| rooms.iter().copied()).skip(1);
    let expected: Vec<String> = rooms.chain([GROUND]).map(|room| room.to_string()).collect();
    assert_eq!(named, expected);
}

/// Pasted while another cluster's context is the current one, it would change that cluster.
#[test]
fn every_kubectl_command_that_is_proposed_names_its_context() {
    let commands = [
        "-n", "annotate", "apply", "auth", "cordon", "create", "delete", "drain", "edit", "get", "label", "patch",
        "rollout", "scale", "uncordon",
    ];
    for (module, code) in sources() {
        for rest in code.split("kubectl ").skip(1) {
            let word = rest.split_whitespace().next().unwrap_or_default();
            assert!(!commands.contains(&word), "{module}: kubectl {}", rest.lines().next().unwrap());
        }
    }
}

#[test]
fn nested_paths_are_read_to_their_ends() {
    let code =
        "use crate::run::{consent::{self, Given}, foreign};\nfn f() { crate::files::private(x); other_crate::y() }";
    let read = paths_after(code, "crate::");
    assert_eq!(read, ["run::consent", "run::consent::Given", "run::foreign", "files::private"]);
}
