//! Compares what a dry run says with what the run then does: for changes of the tree and of the
//! cluster, object by object, using Helm's own stored manifests.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::cluster::{NAMESPACE, Turn, context, image, kubectl, pull_registry, state, turn};
use crate::support::{ends, eventually, succeeds, text, tool};

/// In a Secret, and must not show up anywhere.
const SECRET: &str = "Hidden-0f7c2a91";

const DIRECTORY: &str = "infra/kubernetes/charts/previewed";

fn guard(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    kubectl(&[&["-n", NAMESPACE], words.as_slice()].concat())
}

/// A layer with one release and its own chart.
fn layer(tree: &Turn, release: &str, replicas: bool) {
    tree.allow_any_image();
    let image = image(tree, &pull_registry(tree));
    let replicas = if replicas { "replicas: 1" } else { "" };
    let pod = |name: &str| {
        format!(
            "template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      imagePullSecrets: [{{name: dockerhub-creds}}]\n      containers: [{{name: main, image: {image}, command: [sleep, inf], env: [{{name: A, value: '1'}}], resources: {{requests: {{cpu: 1m}}}}}}]\n"
        )
    };
    let write = |file: &str, text: &str| tree.write(&format!("{DIRECTORY}/{file}"), text);
    write("Chart.yaml", "apiVersion: v2\nname: previewed\nversion: 0.1.0\n");
    write(
        "templates/deployment.yaml",
        &format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  {replicas}\n  selector: {{matchLabels: {{app: web}}}}\n  {}",
            pod("web")
        ),
    );
    write(
        "templates/set.yaml",
        &format!(
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec:\n  serviceName: db\n  selector: {{matchLabels: {{app: db}}}}\n  {}",
            pod("db")
        ),
    );
    write("templates/config.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config}\ndata: {a: '1'}\n");
    write(
        "templates/secret.yaml",
        &format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: secret}}\nstringData: {{token: {SECRET}}}\n"),
    );
    write("crds/things.yaml", &definition("things"));
    layer_file(tree, release);
}

fn layer_file(tree: &Turn, release: &str) {
    let text = format!(
        "bases: [../_defaults.yaml.gotmpl]\ncommonLabels: {{stage: previewed, layer: 70-previewed}}\nreleases:\n  - name: {release}\n    namespace: {NAMESPACE}\n    chart: ../charts/previewed\n    createNamespace: true\n    timeout: 120\n    atomic: false\n"
    );
    tree.write("infra/kubernetes/helmfiles/70-previewed.yaml", &text);
}

fn definition(plural: &str) -> String {
    let one = plural.trim_end_matches('s');
    let kind = format!("{}{}", one[..1].to_uppercase(), &one[1..]);
    format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {plural}.guard.example}}\nspec:\n  group: guard.example\n  scope: Namespaced\n  names: {{plural: {plural}, singular: {one}, kind: {kind}}}\n  versions: [{{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {{type: object}}}}}}]\n"
    )
}

/// The objects of a release's deployed revision, as Helm prints them, by kind and name.
fn manifest(release: &str) -> BTreeMap<String, Value> {
    let mut helm = tool("helm");
    helm.args(["--kube-context", &context(), "--namespace", NAMESPACE, "get", "manifest", release]);
    let output = helm.output().unwrap();
    let text = if output.status.success() { String::from_utf8(output.stdout).unwrap() } else { String::new() };
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let name = |object: &Value| {
        format!("{} {NAMESPACE}/{}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
    };
    objects.iter().filter(|object| !object.is_null()).map(|object| (name(object), object.clone())).collect()
}

/// What a run changed in the manifest, as a preview would name it.
fn difference(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> BTreeSet<(String, String)> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let change = |name: &String| match (before.get(name), after.get(name)) {
        (None, Some(_)) => Some("create"),
        (Some(_), None) => Some("delete"),
        (Some(old), Some(new)) if old != new => Some("change"),
        _ => None,
    };
    names.into_iter().filter_map(|name| Some((change(name)?.to_owned(), name.clone()))).collect()
}

/// What a dry run says about the layer's release: the action, and for each object the change with
/// all notes.
fn preview(tree: &Turn, more: &[&str]) -> (String, BTreeMap<String, (String, String)>) {
    let arguments = ["--output", "json", "layer", "70", "--skip-tests", "--dry-run"];
    let printed = succeeds(tree.xtask(&[&arguments[..], more].concat()));
    hides(&printed);
    let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found = lines.into_iter().find(|line| line["event"] == "preview").unwrap_or_else(|| panic!("{printed}"));
    let objects = found["objects"].as_array().unwrap().iter().map(|object| {
        let said = format!("{} {}", object["notes"], object["diff"]);
        (object["object"].as_str().unwrap().to_owned(), (object["change"].as_str().unwrap().to_owned(), said))
    });
    (found["act"].as_str().unwrap().to_owned(), objects.collect())
}

#[track_caller]
fn hides(text: &str) {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(SECRET);
    assert!(!text.contains(SECRET) && !text.contains(&encoded), "a Secret's value is shown: {text}");
}

fn run(tree: &Turn, more: &[&str]) -> String {
    let said = succeeds(tree.xtask(&[&["layer", "70", "--skip-tests"], more].concat()));
    hides(&said);
    said
}

#[test]
fn a_preview_says_what_the_run_then_does() {
    let tree = turn();
    kubectl(&["delete", "crd", "things.guard.example", "--ignore-not-found"]);
    layer(&tree, "previewed", true);
    let (act, objects) = preview(&tree, &[]);
    assert_eq!(act, "install");
    assert_eq!(objects["CustomResourceDefinition things.guard.example"].0, "create", "{objects:?}");
    run(&tree, &[]);
    let installed = manifest("previewed");
    let created: BTreeSet<&String> = objects.keys().filter(|name| !name.starts_with("CustomResource")).collect();
    assert_eq!(created, installed.keys().collect(), "all that is installed was said to be");
    assert!(preview(&tree, &[]).1.is_empty(), "and nothing of it changes now");

    let config = format!("{DIRECTORY}/templates/config.yaml");
    let deployment = format!("{DIRECTORY}/templates/deployment.yaml");
    let set = format!("{DIRECTORY}/templates/set.yaml");
    type Edit<'a> = Box<dyn Fn(&Turn) + 'a>;
    // The action, how the object changes, its kind, and words of its notes.
    type Row<'a> = (&'a str, Edit<'a>, &'a [(&'a str, &'a str, &'a str)]);
    let replace = |file: &str, from: &'static str, to: &'static str| -> Edit<'_> {
        let file = file.to_owned();
        Box::new(move |tree: &Turn| {
            tree.edit(&file, |text| {
                assert!(text.contains(from), "{from}: {text}");
                text.replace(from, to)
            });
        })
    };
    let other_image: Edit<'_> = Box::new(|tree| {
        // The same content by digest instead of tag.
        let by_tag = image(tree, &pull_registry(tree));
        let digest = guard("get pod -l app=web -o jsonpath={.items[0].status.containerStatuses[0].imageID}");
        let digest = digest.rsplit_once('@').unwrap().1.trim().to_owned();
        let (repository, _) = by_tag.rsplit_once(':').unwrap();
        let by_digest = format!("{repository}@{digest}");
        tree.edit(&format!("{DIRECTORY}/templates/deployment.yaml"), |text| text.replace(&by_tag, &by_digest));
    });
    let new_object: Edit<'_> = Box::new(|tree| {
        tree.write(
            &format!("{DIRECTORY}/templates/more.yaml"),
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\ndata: {x: z}\n",
        );
    });
    let removed: Edit<'_> =
        Box::new(|tree| std::fs::remove_file(tree.path(&format!("{DIRECTORY}/templates/more.yaml"))).unwrap());
    let more_definitions: Edit<'_> =
        Box::new(|tree| tree.write(&format!("{DIRECTORY}/crds/others.yaml"), &definition("others")));
    let rows: [Row<'_>; 9] = [
        ("a value", replace(&config, "a: '1'", "a: '2'"), &[("change", "ConfigMap", "until they are replaced")]),
        ("an image's digest", other_image, &[("change", "Deployment", "replaced by new ones")]),
        ("a new object", new_object, &[("create", "ConfigMap", "x: z")]),
        ("a removed object", removed, &[("delete", "ConfigMap", "x: z")]),
        (
            "a StatefulSet's template",
            replace(&set, "value: '1'", "value: '2'"),
            &[("change", "StatefulSet", "their claims stay")],
        ),
        (
            "a Secret's value",
            replace(&format!("{DIRECTORY}/templates/secret.yaml"), "token: Hidden", "token: Another-Hidden"),
            &[("change", "Secret", "its values change: token")],
        ),
        ("only a comment", replace(&config, "apiVersion", "# Nothing of this is rendered.\napiVersion"), &[]),
        ("a definition in the folder crds", more_definitions, &[]),
        (
            "replicas",
            replace(&deployment, "replicas: 1", "replicas: 2"),
            &[("change", "Deployment", "replicas: 1 → 2")],
        ),
    ];
    for (name, edit, expected) in rows {
        edit(&tree);
        let before = manifest("previewed");
        let (_, said) = preview(&tree, &[]);
        let (_, asked) = preview(&tree, &["--server"]);
        assert_eq!(said.keys().collect::<Vec<_>>(), asked.keys().collect::<Vec<_>>(), "{name}: the API server agrees");
        run(&tree, &[]);
        let changed = difference(&before, &manifest("previewed"));
        let foretold: BTreeSet<(String, String)> =
            said.iter().map(|(object, (change, _))| (change.clone(), object.clone())).collect();
        assert_eq!(foretold, changed, "{name}");
        assert_eq!(foretold.len(), expected.len(), "{name}: {said:?}");
        for (change, kind, words) in expected {
            let found = said.iter().find(|(object, _)| object.starts_with(kind)).unwrap();
            assert!(found.1.0 == *change && found.1.1.contains(words), "{name}: {found:?}");
        }
        assert!(preview(&tree, &[]).1.is_empty(), "{name}: nothing is left to do");
    }

    // What the API server refuses is reported beforehand, and changes nothing.
    let good = std::fs::read_to_string(tree.path(&set)).unwrap();
    tree.edit(&set, |text| text.replace("serviceName: db", "serviceName: other"));
    let before = manifest("previewed");
    let (_, said) = preview(&tree, &["--server"]);
    let (change, words) = &said[&format!("StatefulSet {NAMESPACE}/db")];
    assert!(change == "change" && words.contains("immutable-field") && words.contains("spec.serviceName"), "{words}");
    assert!(words.contains("the API server rejects it (422)"), "{words}");
    let refused = ends(tree.xtask(&["layer", "70", "--skip-tests"]), 8);
    assert!(refused.contains("immutable-field"), "{refused}");
    tree.write(&set, &good);
    run(&tree, &[]);
    assert_eq!(manifest("previewed"), before);

    // A release with another name conflicts with the objects of the first one.
    layer_file(&tree, "renamed");
    let (act, said) = preview(&tree, &[]);
    let in_the_way = said.iter().filter(|(_, (_, words))| words.contains("name-in-use")).count();
    assert_eq!((act.as_str(), in_the_way), ("install", before.len()), "{said:?}");
    let refused = ends(tree.xtask(&["layer", "70", "--skip-tests"]), 7);
    assert!(refused.contains("name-in-use"), "{refused}");
    let drift = succeeds(tree.xtask(&["drift", "70"]));
    assert!(
        drift.contains(&format!("{NAMESPACE}/previewed (70-previewed) is installed, but no longer part of its layer")),
        "{drift}"
    );
    kubectl(&["delete", "crd", "things.guard.example", "others.guard.example", "--ignore-not-found"]);

    // The Secret's value is not in the runs' files either.
    for run in state().runs().read_dir_utf8().unwrap().flatten() {
        let files = run.path().read_dir_utf8().unwrap().flatten().filter(|file| file.file_name() != "images-lock.json");
        for file in files.filter(|file| file.file_name() == "record.jsonl" || file.file_name() == "checklist.json") {
            hides(&std::fs::read_to_string(file.path()).unwrap());
        }
    }
}

#[test]
fn what_others_changed_is_foretold_named_and_refused_before_helm_starts() {
    let tree = turn();
    layer(&tree, "previewed", true);
    run(&tree, &[]);
    assert!(succeeds(tree.xtask(&["drift", "70", "--exit-code"])).contains("nothing differs: 1 release is"));
    let web = format!("Deployment {NAMESPACE}/web");

    // Somebody edits a field.
    guard(
        r#"patch deployment/web --field-manager=kubectl-edit --type=json -p=[{"op":"replace","path":"/spec/template/spec/containers/0/env/0/value","value":"9"}]"#,
    );
    let drift = ends(tree.xtask(&["drift", "70", "--exit-code"]), 1);
    let line = r#"env[name="A"].value is "9", Helm set "1", by kubectl-edit"#;
    assert!(drift.contains(&web) && drift.contains(line), "{drift}");
    for more in [&[][..], &["--server"]] {
        let (act, said) = preview(&tree, more);
        assert!(act == "upgrade" && said[&web].1.contains("field-conflict"), "{said:?}");
    }
    assert!(preview(&tree, &["--force-conflicts"]).1[&web].1.contains("takes it back"));
    let before = manifest("previewed");
    let history = || guard("get secrets -l owner=helm,name=previewed -o name");
    let revisions = history();
    let said = ends(tree.xtask(&["layer", "70", "--skip-tests"]), 7);
    assert!(said.contains("\"kubectl-edit\" set .spec.template.spec.containers[name=\"main\"].env"), "{said}");
    assert!(said.contains("Helm was not started"), "{said}");
    assert_eq!(history(), revisions, "no revision was begun");
    let said = run(&tree, &["--force-conflicts"]);
    assert_eq!(manifest("previewed"), before, "{said}");
    assert!(succeeds(tree.xtask(&["drift", "70", "--exit-code"])).contains("nothing differs"));

    // Somebody scales; then sets the same number, which is no conflict.
    guard("scale deployment/web --replicas=2");
    let drift = ends(tree.xtask(&["drift", "70", "--exit-code"]), 1);
    assert!(drift.contains("spec.replicas is 2, Helm set 1, by kubectl"), "{drift}");
    assert!(preview(&tree, &[]).1[&web].1.contains("field-conflict"));
    ends(tree.xtask(&["layer", "70", "--skip-tests"]), 7);
    guard("scale deployment/web --replicas=1");
    run(&tree, &[]);

    // An object is deleted, and another one is left without a release.
    guard("delete configmap config");
    guard("create configmap left");
    guard("label configmap left app.kubernetes.io/managed-by=Helm");
    guard(&format!(
        "annotate configmap left meta.helm.sh/release-name=gone meta.helm.sh/release-namespace={NAMESPACE}"
    ));
    let drift = ends(tree.xtask(&["drift", "70", "--exit-code"]), 1);
    assert!(drift.contains(&format!("ConfigMap {NAMESPACE}/config: is gone")), "{drift}");
    let left =
        format!("ConfigMap {NAMESPACE}/left claims to belong to {NAMESPACE}/gone: this release no longer exists");
    assert!(drift.contains(&left), "{drift}");
    let (_, said) = preview(&tree, &[]);
    assert!(said[&format!("ConfigMap {NAMESPACE}/config")].1.contains("Helm creates it"), "{said:?}");
    run(&tree, &[]);
    guard("get configmap config");
    guard("delete configmap left");

    // An autoscaler scales: reported, and left alone; a change of the chart is refused by name.
    guard("autoscale deployment/web --min=2 --max=3 --cpu=90%");
    eventually("the autoscaler scales", || guard("get deployment/web -o jsonpath={.spec.replicas}") == "2");
    let drift = succeeds(tree.xtask(&["drift", "70", "--exit-code"]));
    assert!(drift.contains("spec.replicas is 2, Helm set 1, by kube-controller-manager"), "{drift}");
    let said = run(&tree, &[]);
    assert!(said.contains("an autoscaler: it is left"), "{said}");
    tree.edit(&format!("{DIRECTORY}/templates/config.yaml"), |text| text.replace("a: '1'", "a: '3'"));
    let (_, said) = preview(&tree, &[]);
    assert!(said[&web].1.contains("an autoscaler: field-conflict"), "{said:?}");
    let said = ends(tree.xtask(&["layer", "70", "--skip-tests"]), 7);
    assert!(said.contains("kube-controller-manager") && said.contains("take `replicas` out"), "{said}");
    // As the remedy says.
    layer(&tree, "previewed", false);
    tree.edit(&format!("{DIRECTORY}/templates/config.yaml"), |text| text.replace("a: '1'", "a: '3'"));
    run(&tree, &[]);
    assert_eq!(guard("get configmap config -o jsonpath={.data.a}"), "3");
    kubectl(&["delete", "crd", "things.guard.example", "--ignore-not-found"]);
}

#[test]
fn a_saved_plan_is_carried_out_as_it_is_or_refused_by_what_changed() {
    let tree = turn();
    layer(&tree, "previewed", true);
    run(&tree, &[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a plan.json");
    let file = path.to_str().unwrap();
    let config = format!("{DIRECTORY}/templates/config.yaml");
    let value = |number: u8| {
        tree.edit(&config, |text| {
            let (before, _) = text.split_once("\ndata:").unwrap();
            format!("{before}\ndata: {{a: '{number}'}}\n")
        })
    };
    let save = || {
        succeeds(tree.xtask(&["layer", "70", "--skip-tests", "--dry-run", "--save-plan", file]));
        hides(&std::fs::read_to_string(&path).unwrap());
    };
    let now = || guard("get configmap config -o jsonpath={.data.a}");

    value(2);
    save();
    assert!(succeeds(tree.xtask(&["--dry-run", "layer", "--plan", file])).contains("would upgrade it"));
    assert_eq!(now(), "1");
    succeeds(tree.xtask(&["layer", "--plan", file]));
    assert_eq!(now(), "2");
    let again = ends(tree.xtask(&["layer", "--plan", file]), 7);
    assert!(again.contains("plan-outdated") && again.contains("release previewed: its revision was"), "{again}");

    // The tree.
    value(3);
    save();
    value(4);
    let said = ends(tree.xtask(&["layer", "--plan", file]), 7);
    assert!(said.contains("the tree: charts/previewed changed"), "{said}");
    assert_eq!(now(), "2");
    // An object.
    save();
    guard("label deployment/web app.kubernetes.io/managed-by=somebody --overwrite");
    let said = ends(tree.xtask(&["layer", "--plan", file]), 7);
    assert!(
        said.contains(&format!("Deployment {NAMESPACE}/web: metadata.labels")) && said.contains("kubectl-label"),
        "{said}"
    );
    assert_eq!(now(), "2");
    run(&tree, &["--force-conflicts"]);
    assert_eq!(now(), "4");

    // Files that are no plan.
    for (content, told) in [("", "expected a file that --save-plan wrote"), ("{\"format\": 99}", "its format is 99")] {
        std::fs::write(&path, content).unwrap();
        let said = ends(tree.xtask(&["layer", "--plan", file]), 2);
        assert!(said.contains("--plan") && said.contains(told), "{said}");
    }
    let output = tree.xtask(&["layer", "--plan", "/no/such/plan"]).output().unwrap();
    assert!(output.status.code() == Some(2) && text(&output).contains("/no/such/plan"));
    kubectl(&["delete", "crd", "things.guard.example", "--ignore-not-found"]);
}
