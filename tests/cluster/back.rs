//! Rollback and removal on a real cluster: a layer's releases rolled back together, and removed
//! with and without what holds data.

use serde_json::{Value, json};

use crate::support::cluster::{
    BACK as NAMESPACE, Tree, beside, ended, image, kubectl, mc, pull_registry, random, temporal, turn,
};
use crate::support::{ends, root, signal, succeeds};

/// A layer with these releases of the faults chart, each but the first needing the previous one.
fn layer(tree: &Tree, name: &str, releases: &[(&str, Value)]) {
    tree.allow_any_image();
    let chart = root().join("tests/faults/chart");
    let mut text =
        format!("bases: [../_defaults.yaml.gotmpl]\ncommonLabels: {{stage: {name}, layer: 70-{name}}}\nreleases:\n");
    for (index, (release, values)) in releases.iter().enumerate() {
        let needs = if index == 0 { String::new() } else { format!("{NAMESPACE}/{}", releases[index - 1].0) };
        text.push_str(&format!(
            "  - name: {release}\n    namespace: {NAMESPACE}\n    chart: {}\n    createNamespace: true\n    timeout: 45\n    atomic: false\n    needs: [{needs}]\n    values: [{values}]\n",
            chart.display()
        ));
    }
    tree.write(&format!("infra/kubernetes/helmfiles/70-{name}.yaml"), &text);
}

fn get(object: &str, path: &str) -> String {
    kubectl(&["-n", NAMESPACE, "get", object, "--ignore-not-found", "-o", &format!("jsonpath={{{path}}}")])
}

fn in_pod(object: &str, script: &str) -> String {
    kubectl(&["-n", NAMESPACE, "exec", object, "--", "/bin/sh", "-c", script])
}

fn claims() -> String {
    let names = ["-n", NAMESPACE, "get", "pvc", "--ignore-not-found", "-o", "jsonpath={.items[*].metadata.name}"];
    kubectl(&names)
}

#[test]
fn a_layer_of_two_releases_goes_back_together_after_a_bad_image_and_keeps_its_data() {
    let tree = turn();
    let good = image(&tree, &pull_registry(&tree));
    let absent = format!("{}/third-party/busybox:absent", pull_registry(&tree));
    let bring = |version: &str, image: &str| {
        let env = json!([{"name": "VERSION", "value": version}]);
        let set = json!({"whenDeleted": "Retain"});
        layer(
            &tree,
            "pair",
            &[
                ("first", json!({"image": good, "env": env, "claim": true})),
                ("second", json!({"image": image, "env": env, "set": set})),
            ],
        );
        tree.xtask(&["layer", "pair", "--skip-tests"])
    };
    let versions = || {
        let env = ".spec.template.spec.containers[0].env[0].value";
        ["deployment/first", "deployment/second", "statefulset/second-set"].map(|object| get(object, env))
    };
    let back = |flags: &[&str]| tree.xtask(&[&["layer", "pair"], flags].concat());
    succeeds(bring("1", &good));
    let nothing = ends(back(&["--rollback"]), 2);
    assert!(nothing.contains("no good run to go back to"), "{nothing}");
    in_pod("deployment/first", "echo kept >/data/x");
    in_pod("second-set-0", "echo kept >/data/x");
    succeeds(bring("2", &good));
    ends(bring("3", &absent), 5);
    // The second waits for the first, which came up.
    assert_eq!(versions(), ["3", "3", "3"]);

    let planned = succeeds(back(&["--rollback", "--dry-run"]));
    println!("{planned}");
    assert!(
        planned.contains("roll back from revision 3 (run ") && planned.contains(", failed) to 2 (run "),
        "{planned}"
    );
    assert!(planned.contains(", deployed) to 2 (run "), "{planned}");
    assert_eq!(versions(), ["3", "3", "3"]);
    let started = std::time::Instant::now();
    let said = succeeds(back(&["--rollback"]));
    println!("rolled back in {:.1} s\n{said}", started.elapsed().as_secs_f64());
    assert_eq!(versions(), ["2", "2", "2"], "{said}");
    let order = |release: &str| said.find(&format!("[{release}] rolled back to revision"));
    let (first, second) = (order("first"), order("second"));
    let told = |found: Option<usize>| found.unwrap_or_else(|| panic!("a rollback is not told:\n{said}"));
    assert!(told(second) < told(first), "{said}");

    let said = succeeds(back(&["--rollback"]));
    assert_eq!(versions(), ["1", "1", "1"], "further back: {said}");
    let said = ends(back(&["--rollback"]), 2);
    assert!(said.contains("no good run to go back to"), "{said}");
    for pod in ["deployment/first", "second-set-0"] {
        assert_eq!(in_pod(pod, "cat /data/x").trim(), "kept", "{pod}");
    }
    succeeds(bring("4", &good));
    assert_eq!(versions(), ["4", "4", "4"]);
}

#[test]
fn a_layer_that_is_removed_leaves_its_data_which_the_next_run_takes_over() {
    let tree = turn();
    let image = image(&tree, &pull_registry(&tree));
    // Kubernetes itself would delete the second's claim.
    let set = json!({"whenDeleted": "Delete"});
    layer(
        &tree,
        "gone",
        &[("one", json!({"image": image, "claim": true})), ("two", json!({"image": image, "set": set}))],
    );
    let remove = |flags: &[&str]| tree.xtask(&[&["layer", "gone", "--remove"], flags].concat());
    let bring = || succeeds(tree.xtask(&["layer", "gone", "--skip-tests"]));
    bring();
    in_pod("deployment/one", "echo of one >/data/x");
    in_pod("two-set-0", "echo of two >/data/x");
    let uids = || ["pvc/one-claim", "pvc/data-two-set-0"].map(|claim| get(claim, ".metadata.uid"));
    let before = uids();

    let planned = succeeds(remove(&["--dry-run"]));
    println!("{planned}");
    assert!(planned.contains("keep PersistentVolumeClaim back-tests/one-claim"), "{planned}");
    assert!(planned.contains("keep PersistentVolumeClaim data-two-set-0"), "{planned}");
    let refused = ends(remove(&[]), 10);
    assert!(refused.contains("--allow-destroy=release") && refused.contains("Deployment one"), "{refused}");
    let started = std::time::Instant::now();
    let said = succeeds(remove(&["--allow-destroy=release"]));
    println!("removed in {:.1} s\n{said}", started.elapsed().as_secs_f64());
    assert_eq!(uids(), before, "{said}");
    assert_eq!(get("deployment", ".items[*].metadata.name") + &get("statefulset", ".items[*].metadata.name"), "");
    assert!(said.contains("kept: PersistentVolumeClaim back-tests/one-claim"), "{said}");
    assert!(said.contains("delete persistentvolumeclaims data-two-set-0"), "{said}");
    let again = succeeds(remove(&[]));
    assert!(again.contains("already removed"), "{again}");

    bring();
    assert_eq!(uids(), before);
    assert_eq!(in_pod("deployment/one", "cat /data/x").trim(), "of one");
    assert_eq!(in_pod("two-set-0", "cat /data/x").trim(), "of two");

    let refused = ends(remove(&["--allow-destroy=claim"]), 10);
    assert!(refused.contains("PersistentVolumeClaim data-two-set-0"), "{refused}");
    assert!(refused.contains("--allow-destroy=release,claim"), "{refused}");
    assert_eq!(uids(), before);
    let said = succeeds(remove(&["--allow-destroy=release,claim"]));
    println!("{said}");
    assert_eq!(claims(), "", "{said}");
}

#[test]
fn an_object_that_does_not_go_is_named() {
    let tree = turn();
    let image = image(&tree, &pull_registry(&tree));
    layer(&tree, "held", &[("held", json!({"image": image, "held": "ameide.dev/hold"}))]);
    succeeds(tree.xtask(&["layer", "held", "--skip-tests"]));
    let said = ends(tree.xtask(&["layer", "held", "--remove", "--allow-destroy=release"]), 7);
    println!("{said}");
    assert!(
        said.contains("ConfigMap back-tests/held-held is still there") && said.contains("ameide.dev/hold"),
        "{said}"
    );
}

#[test]
fn a_removal_that_was_stopped_before_helm_keeps_no_later_run_from_the_set() {
    let tree = turn();
    let image = image(&tree, &pull_registry(&tree));
    let bring = |version: &str| {
        let env = json!([{"name": "VERSION", "value": version}]);
        layer(&tree, "stopped", &[("one", json!({"image": image, "env": env, "set": {"whenDeleted": "Delete"}}))]);
        tree.xtask(&["layer", "stopped", "--skip-tests"])
    };
    // What a removal does before it starts Helm, and nothing more.
    let stopped = || {
        let patch = r#"{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Retain"}}}"#;
        let patch = ["patch", "statefulset/one-set", "--type=merge", "--field-manager=xtask", "-p", patch];
        kubectl(&[&["-n", NAMESPACE][..], &patch].concat());
        assert!(managers().contains("xtask"));
    };
    fn managers() -> String {
        let fields = "jsonpath={.metadata.managedFields[*].manager}";
        kubectl(&["-n", NAMESPACE, "get", "statefulset/one-set", "--show-managed-fields", "-o", fields])
    }
    let policy = || get("statefulset/one-set", ".spec.persistentVolumeClaimRetentionPolicy.whenDeleted");
    succeeds(bring("1"));
    stopped();
    let said = succeeds(bring("1"));
    assert_eq!(policy(), "Delete", "{said}");
    assert!(!managers().contains("xtask"), "{}", managers());
    succeeds(bring("2"));
    stopped();
    let said = succeeds(tree.xtask(&["layer", "stopped", "--rollback", "--skip-tests"]));
    assert_eq!(policy(), "Delete", "{said}");
    assert_eq!(get("statefulset/one-set", ".spec.template.spec.containers[0].env[0].value"), "1", "{said}");
}

/// Runs it, kills it after this long, and runs it again to completion if it had not finished.
#[track_caller]
fn killed_and_again(tree: &Tree, arguments: &[&str], after: u64) {
    let child = beside(&tree.xtask(arguments));
    std::thread::sleep(std::time::Duration::from_millis(after));
    child.pids().into_iter().for_each(|pid| signal(pid, "KILL"));
    let (code, said) = ended(&child);
    println!("{arguments:?}, killed after {after} ms: {code:?}\n{said}");
    if code != Some(0) {
        println!("{}", succeeds(tree.xtask(arguments)));
    }
}

#[test]
fn a_way_back_that_is_killed_comes_to_its_end_when_it_is_run_again() {
    let tree = turn();
    let image = image(&tree, &pull_registry(&tree));
    let mut random = random();
    let bring = |version: &str| {
        let values = json!({"image": image, "env": [{"name": "VERSION", "value": version}], "claim": true});
        let set =
            json!({"image": image, "env": [{"name": "VERSION", "value": version}], "set": {"whenDeleted": "Delete"}});
        layer(&tree, "killed", &[("left", values), ("right", set)]);
        succeeds(tree.xtask(&["layer", "killed", "--skip-tests"]));
    };
    let version = |object: &str| get(object, ".spec.template.spec.containers[0].env[0].value");
    bring("0");
    in_pod("deployment/left", "echo kept >/data/x");
    in_pod("right-set-0", "echo kept >/data/x");
    for _ in 0..3 {
        bring("1");
        bring("2");
        killed_and_again(&tree, &["layer", "killed", "--rollback"], random.u64(500..7000));
        assert_eq!([version("deployment/left"), version("statefulset/right-set")], ["1", "1"]);
    }
    for _ in 0..3 {
        killed_and_again(&tree, &["layer", "killed", "--remove", "--allow-destroy=release"], random.u64(300..2500));
        assert_eq!(get("deployment", ".items[*].metadata.name"), "");
        assert_eq!(claims(), "data-right-set-0 left-claim");
        bring("3");
        for pod in ["deployment/left", "right-set-0"] {
            assert_eq!(in_pod(pod, "cat /data/x").trim(), "kept", "{pod}");
        }
    }
    killed_and_again(&tree, &["layer", "killed", "--remove", "--allow-destroy=release,claim"], random.u64(300..2500));
    // Deleted claims disappear once nothing uses them.
    crate::support::eventually("the claims go", || claims().is_empty());
}

/// A bad image in the tree ended the run; what MinIO and Temporal held before is still there.
#[test]
fn layer_45_goes_back_after_a_bad_image_with_its_objects_and_workflows() {
    let tree = turn();
    let values = "infra/kubernetes/values/infrastructure/minio.yaml.gotmpl";
    let good = std::fs::read_to_string(tree.path(values)).unwrap();
    let memory = || {
        let path = "jsonpath={.spec.template.spec.containers[0].resources.requests.memory}";
        kubectl(&["-n", "ameide", "get", "deployment/minio", "-o", path])
    };
    let layer = |flags: &[&str]| tree.xtask(&[&["layer", "45", "--skip-tests"], flags].concat());
    succeeds(layer(&["--force-conflicts"]));
    let before = memory();
    // A good run to go back to.
    tree.write(values, &good.replace("memory: 128Mi", "memory: 160Mi"));
    succeeds(layer(&[]));
    assert_eq!(memory(), "160Mi");
    mc("mc mb --ignore-existing minio/back && echo kept | mc pipe minio/back/object");
    let namespace = temporal("temporal operator namespace list --output json");
    let namespace: Value = serde_json::from_str(&namespace).unwrap();
    let names = namespace.as_array().unwrap().iter().filter_map(|one| one["namespaceInfo"]["name"].as_str());
    let namespace = names.into_iter().find(|name| *name != "temporal-system").unwrap().to_owned();
    let id = format!("back-{}", fastrand::u32(..));
    temporal(&format!(
        "temporal workflow start --namespace {namespace} --workflow-id {id} --type Back --task-queue back --execution-timeout 1h"
    ));

    // A run that came up, but is wrong all the same.
    tree.write(values, &good.replace("memory: 128Mi", "memory: 200Mi"));
    succeeds(layer(&[]));
    assert_eq!(memory(), "200Mi");
    let said = succeeds(tree.xtask(&["layer", "45", "--rollback"]));
    assert_eq!(memory(), "160Mi", "{said}");

    tree.allow_any_image();
    let absent = format!("image: {{repository: {}/third-party/absent, tag: '1', digest: ''}}", pull_registry(&tree));
    tree.write(values, &format!("{absent}\n{}", good.split_once('\n').unwrap().1));
    let said = ends(layer(&[]), 5);
    assert!(said.contains("image-not-found"), "{said}");
    // Helm has rolled back by itself (`atomic`), so the layer is already there.
    let said = succeeds(layer(&["--rollback"]));
    assert!(said.contains("nothing to roll back"), "{said}");
    assert_eq!(memory(), "160Mi");
    assert_eq!(mc("mc cat minio/back/object").trim(), "kept");
    // The text output does not include the status of a running workflow.
    let describe = format!("temporal workflow describe --namespace {namespace} --workflow-id {id} --output json");
    let described = temporal(&describe);
    assert!(described.to_ascii_lowercase().contains("running"), "{described}");
    temporal(&format!("temporal workflow terminate --namespace {namespace} --workflow-id {id}"));
    mc("mc rb --force minio/back");

    tree.write(values, &good);
    succeeds(layer(&[]));
    assert_eq!(memory(), before);
}
