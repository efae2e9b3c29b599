//! The tree itself: every environment renders, and the documentation holds.

use image_mirror::Role;

use crate::support::{self, copy_configuration, edit, root, side_by_side, succeeds, tool};

#[test]
fn every_environment_renders_with_its_own_registry() {
    let environments = [
        ("local", "k3d-dev-reg:5000/"),
        ("ci", "k3d-ci-reg:5000/"),
        ("staging", "registry.staging.ameide.example/"),
        ("production", "registry.production.ameide.example/"),
    ];
    side_by_side(2, environments, |(environment, registry)| {
        let mut command = tool("helmfile");
        // From another folder: the tree's paths are relative to itself.
        command.current_dir("/").arg("--file").arg(root().join("infra/kubernetes/helmfile.yaml"));
        command.args(["--environment", environment, "--quiet", "template"]);
        let rendered = succeeds(command);
        let images: Vec<&str> =
            rendered.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image: ")).collect();
        assert!(images.len() > 10, "{environment}: {images:?}");
        assert!(images.iter().all(|image| image.trim_matches('"').starts_with(registry)), "{environment}: {images:?}");
        for kind in ["kind: StatefulSet", "kind: Deployment", "kind: Job", "helm.sh/hook: test"] {
            assert!(rendered.contains(kind), "{environment}: {kind}");
        }
    });
}

/// Helmfile gives such a release to the context's namespace, in which its list has it.
#[test]
fn a_release_without_a_namespace_is_found_in_what_is_rendered() {
    let folder = tempfile::tempdir().unwrap();
    copy_configuration(folder.path());
    edit(&folder.path().join("infra/kubernetes/helmfiles/45-data-plane-ext.yaml"), |text| {
        assert!(text.contains("    namespace: ameide\n"), "{text}");
        text.replace("    namespace: ameide\n", "")
    });
    let mut command = support::xtask(folder.path(), &["--env", "ci", "layer", "45", "--dry-run"]);
    command.env("AMEIDE_STATE_DIR", folder.path().join("state")).env("KUBECONFIG", folder.path().join("none"));
    let output = command.output().unwrap();
    let said = support::text(&output);
    assert!(output.status.success() && said.contains("objects that it renders: "), "{said}");
    assert!(!said.contains("objects that it renders: 0"), "{said}");
}

/// Helmfile knows an environment by these lists, this tool by its folder.
#[test]
fn helmfile_lists_the_environments_that_have_a_folder() {
    let read = |file: &str| std::fs::read_to_string(path("infra/kubernetes").join(file)).unwrap();
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let folders = xtask::repo::Tree { root: path("") }.environments().unwrap();
    let defaults = read("_defaults.yaml.gotmpl");
    let (_, list) = defaults.split_once("$environments := list ").unwrap();
    let listed = list.lines().next().unwrap().split('"').skip(1).step_by(2).map(str::to_owned);
    assert_eq!(sorted(listed.collect()), folders);
    let all = read("helmfile.yaml");
    let (_, keys) = all.split_once("environments:\n").unwrap();
    let keys = keys.lines().map_while(|line| line.strip_prefix("  ")?.strip_suffix(": {}")).map(str::to_owned);
    assert_eq!(sorted(keys.collect()), folders);
}

/// k3d pulls what k3d.yaml and its own version name; the images loaded for it must be the same.
#[test]
fn the_listed_images_of_the_cluster_are_those_that_k3d_asks_for() {
    let listed = image_mirror::ImageList::read(&path("infra/images/images.yaml")).unwrap();
    let of = |role| listed.images.iter().find(|image| image.role == Some(role)).unwrap().image.clone();
    for environment in ["ci", "local"] {
        let text = std::fs::read_to_string(path(&format!("infra/docker/{environment}/k3d.yaml"))).unwrap();
        let image = text.lines().find_map(|line| line.strip_prefix("image: ")).unwrap();
        assert_eq!(of(Role::Node), format!("docker.io/{image}"), "{environment}");
    }
    let go_mod = std::fs::read_to_string(path("infra/tools/k3d/go.mod")).unwrap();
    let version = go_mod.split("github.com/k3d-io/k3d/v5 v").nth(1).and_then(|rest| rest.split_whitespace().next());
    for role in [Role::Tools, Role::Loadbalancer] {
        assert_eq!(of(role).rsplit_once(':').map(|(_, tag)| tag), version, "{}", of(role));
    }
}

fn path(relative: &str) -> camino::Utf8PathBuf {
    camino::Utf8PathBuf::from_path_buf(root().join(relative)).unwrap()
}

/// A heading's anchor on GitHub.
fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

#[test]
fn what_the_pages_link_to_exists() {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().flatten().map(|entry| entry.path());
    let pages = docs.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let mut count = 0;
    for page in pages.chain(["README.md", "CONTRIBUTING.md"].map(|page| root().join(page))) {
        let text = std::fs::read_to_string(&page).unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            count += 1;
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {link}", page.display());
            if !heading.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|line| slug(line.trim_start_matches('#').trim()) == heading);
                assert!(found, "{}: {link}", page.display());
            }
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn the_readme_has_exactly_two_commands() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let blocks: Vec<&str> = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks, ["cargo xtask up --yes\n", "cargo test --workspace\n"]);
    succeeds(support::xtask(&root(), &["up", "--yes", "--dry-run"]));
}

#[test]
fn every_blocker_is_explained_with_what_to_do() {
    let text = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let (_, list) = text.split_once("## What each blocker means").unwrap();
    let rows: Vec<&str> = list.lines().filter(|line| line.starts_with("| `")).collect();
    for code in run_record::Code::ALL {
        let name = format!("`{code}`");
        let row = rows.iter().find(|row| row.split('|').nth(1).unwrap().contains(&name));
        let cells: Vec<&str> = row.unwrap_or_else(|| panic!("no row for {name}")).split(" | ").collect();
        assert!(cells.len() == 3 && cells.iter().all(|cell| cell.trim().len() > 3), "{name}: {cells:?}");
    }
}

/// `tests/messages.tsv` is what the diagnosis rules are tested with: a row that is malformed, or
/// there twice, would test nothing.
#[test]
fn the_table_of_messages_has_its_form() {
    const SOURCES: [&str; 10] =
        ["event", "state", "scheduler", "controller", "api", "helm", "helmfile", "warning", "k3d", "log"];
    let table = std::fs::read_to_string(root().join("tests/messages.tsv")).unwrap();
    let mut lines = table.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("source\treason\tmessage\tcode\tmay_end\torigin"));
    let mut seen = std::collections::BTreeSet::new();
    let mut sources = std::collections::BTreeSet::new();
    for line in lines {
        let row: Vec<&str> = line.split('\t').collect();
        let [source, reason, message, code, may_end, origin] = row[..] else { panic!("{} cells: {line}", row.len()) };
        assert!(SOURCES.contains(&source), "an unknown source: {line}");
        assert!(seen.insert((source, reason, message)), "there twice: {line}");
        assert!(!reason.is_empty() && (!message.trim().is_empty() || reason != "-"), "nothing to judge: {line}");
        let kebab = |code: &str| code.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'));
        assert!(!code.is_empty() && kebab(code), "no code: {line}");
        assert!(["at-once", "after", "never"].contains(&may_end), "no such end: {line}");
        // Only a state, or the answer of a program that has ended, shows that something cannot
        // heal.
        let may_tell = ["state", "api", "helm", "helmfile", "k3d"].contains(&source);
        assert!(may_end != "at-once" || may_tell, "ends a run by a text alone: {line}");
        assert!(code != "-" || may_end == "never", "says nothing, and may end a run: {line}");
        assert!(origin.trim().len() > 5, "of no known origin: {line}");
        sources.insert(source);
    }
    assert!(seen.len() >= 230, "only {} rows", seen.len());
    assert_eq!(sources.len(), SOURCES.len(), "a source without a row: {sources:?}");
}
