//! The ways in that need no cluster: the old script names with what they would do, and what
//! is refused.

use crate::support::{old_scripts, root, succeeds, text, xtask};

#[test]
fn the_backlog_page_has_the_definitions_of_today() {
    let page = std::fs::read_to_string(root().join(::xtask::checklist::PAGE)).unwrap();
    let fresh = ::xtask::checklist::with_definitions(&page).unwrap();
    assert!(page == fresh, "cargo xtask checklist --write brings it up to date");
}

#[test]
fn a_watch_wants_a_terminal() {
    let output = xtask(&root(), &["--env", "ci", "checklist", "--watch"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn old_script_names_take_their_old_arguments_and_variables() {
    let scripts = old_scripts();
    let mut layer = scripts.command(
        "infra/kubernetes/scripts/run-helm-layer.sh",
        &["infra/kubernetes/helmfiles/45-data-plane-ext.yaml", "--dry-run"],
    );
    layer.env("HELMFILE_ENVIRONMENT", "staging").env("HELM_LAYER_SELECTOR", "name=minio");
    let said = succeeds(layer);
    assert!(said.contains("45-data-plane-ext.yaml -e staging -l name=minio sync"), "{said}");

    let said = succeeds(scripts.command("infra/kubernetes/scripts/helmfile-sync.sh", &["staging", "--dry-run"]));
    let layers: Vec<&str> = said.lines().filter(|line| line.contains("-e staging sync")).collect();
    let files = std::fs::read_dir(root().join("infra/kubernetes/helmfiles")).unwrap().count();
    assert_eq!(layers.len(), files, "every layer, in the environment of the argument:\n{said}");
    assert!(layers[0].contains("[10-bootstrap]") && said.contains("[checklist]"), "{said}");

    let check = "infra/kubernetes/scripts/infra-health-check.sh";
    let said = succeeds(scripts.command(check, &["staging", "--layers", "45,40", "--dry-run"]));
    let (first, second) = (said.find("40-data-plane.yaml -e staging"), said.find("45-data-plane-ext.yaml -e staging"));
    assert!(first.is_some() && first < second && !said.contains("10-bootstrap"), "{said}");
    let mut critical = scripts.command(check, &["--dry-run"]);
    critical.env("INFRA_CRITICAL_PATH", "10-bootstrap 24-auth").env("HELMFILE_ENVIRONMENT", "");
    let said = succeeds(critical);
    assert!(said.contains("24-auth.yaml -e local") && !said.contains("40-data-plane"), "{said}");

    let output = scripts.command(check, &["nowhere", "--dry-run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let output = scripts.command("infra/kubernetes/scripts/run-helm-layer.sh", &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}
