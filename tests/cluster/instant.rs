//! A layer that is in place is reported as such at once, and never if it is not: every kind of
//! drift and doubt on the real cluster, each with what it must lead to.

use std::collections::BTreeMap;

use xtask::releases::Status;
use xtask::world::helm_storage::set_status;

use crate::support::cluster::{
    NAMESPACE, Tree, beside, context, edit_revision, ended, environment, kubectl, node, turn,
};
use crate::support::{eventually, succeeds, tool};

const LAYER: [&str; 3] = ["layer", "40", "--skip-tests"];

fn ameide(line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    kubectl(&[&["-n", "ameide"], words.as_slice()].concat());
}

fn helm(words: &[&str]) -> bool {
    let mut helm = tool("helm");
    helm.args(["--kube-context", &context(), "--namespace", "ameide"]).args(words);
    helm.output().unwrap().status.success()
}

/// The newest revision of redis.
fn revision() -> String {
    let words = [
        "-n",
        "ameide",
        "get",
        "secrets",
        "-l",
        "owner=helm,name=redis",
        "-o",
        "jsonpath={.items[*].metadata.labels.version}",
    ];
    let listed = kubectl(&words);
    listed.split_whitespace().filter_map(|number| number.parse::<u32>().ok()).max().unwrap().to_string()
}

fn ready() {
    ameide("rollout status statefulset/redis-master --timeout=90s");
}

/// Brings redis to what the tree says, whatever a test has done to it.
fn whole(tree: &Tree) {
    succeeds(tree.xtask(&[&LAYER[..], &["--force", "--force-conflicts"]].concat()));
    ready();
    assert!(stays(tree), "what was just brought in is in place");
}

/// Whether the layer is reported as in place, without a new revision.
fn stays(tree: &Tree) -> bool {
    let before = revision();
    let said = succeeds(tree.xtask(&LAYER));
    said.contains("in place, unchanged: 1 release") && revision() == before
}

/// A copy of redis's newest revision as the next one, with this status.
fn next_revision(status: Status) {
    let number: u32 = revision().parse().unwrap();
    let name = |number: u32| format!("sh.helm.release.v1.redis.v{number}");
    let text = kubectl(&["-n", "ameide", "get", "secret", &name(number), "-o", "json"]);
    let mut secret: k8s_openapi::api::core::v1::Secret = serde_json::from_str(&text).unwrap();
    set_status(&mut secret, status, "by hand").unwrap();
    let labels = secret.metadata.labels.as_mut().unwrap();
    labels.insert("version".to_owned(), (number + 1).to_string());
    secret.metadata.name = Some(name(number + 1));
    secret.metadata.resource_version = None;
    secret.metadata.uid = None;
    secret.metadata.managed_fields = None;
    let file = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&file, &secret).unwrap();
    kubectl(&["create", "-f", file.path().to_str().unwrap()]);
}

/// The ConfigMap, as it would be made again.
fn redis_s_config(flags: &[&str]) -> serde_json::Value {
    let text = kubectl(&[&["-n", "ameide", "get", "configmap/redis", "-o", "json"], flags].concat());
    let mut object: serde_json::Value = serde_json::from_str(&text).unwrap();
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        object["metadata"].as_object_mut().unwrap().remove(field);
    }
    object
}

fn remove_newest() {
    ameide(&format!("delete secret sh.helm.release.v1.redis.v{}", revision()));
}

#[test]
fn no_drift_and_no_doubt_is_taken_for_in_place() {
    let tree = turn();
    whole(&tree);
    // Another test sets it, and what is applied below in Helm's name would take it over.
    ameide("annotate statefulset/redis-master configmap/redis injected-");
    type Act = fn(&Tree);
    let rows: [(&str, &str, Act); 20] = [
        ("replicas", "StatefulSet ameide/redis-master: spec.replicas was changed", |_| {
            ameide("scale statefulset/redis-master --replicas=0");
        }),
        ("a variable's value", "StatefulSet ameide/redis-master", |_| {
            let patch = r#"patch statefulset/redis-master --type=json -p=[{"op":"replace","path":"/spec/template/spec/containers/0/env/0/valueFrom/secretKeyRef/key","value":"other"}]"#;
            ameide(patch);
        }),
        ("a ConfigMap's data", "ConfigMap ameide/redis: data.redis.conf was changed by kubectl-patch", |_| {
            ameide(r#"patch configmap/redis --type=merge -p {"data":{"redis.conf":"x"}}"#);
        }),
        ("a Secret's data", "Secret ameide/redis-auth: data.password was changed by kubectl-patch", |_| {
            let password = kubectl(&["-n", "ameide", "get", "secret", "redis-auth", "-o", "jsonpath={.data.password}"]);
            ameide(r#"patch secret/redis-auth --type=merge -p {"data":{"password":"eA=="}}"#);
            // The change stays somebody else's; the original password comes back.
            ameide(&format!(r#"patch secret/redis-auth --type=merge -p {{"data":{{"password":"{password}"}}}}"#));
        }),
        (
            "a label",
            "Service ameide/redis-master: metadata.labels.app.kubernetes.io/component was changed by kubectl-label",
            |_| {
                ameide("label service/redis-master app.kubernetes.io/component=x --overwrite");
            },
        ),
        (
            "an annotation",
            "Secret ameide/redis-auth: metadata.annotations.helm.sh/resource-policy was changed by kubectl-annotate",
            |_| {
                ameide("annotate secret/redis-auth helm.sh/resource-policy=none --overwrite");
            },
        ),
        ("a Service's port", "Service ameide/redis-master", |_| {
            ameide(
                r#"patch service/redis-master --type=json -p=[{"op":"replace","path":"/spec/ports/0/targetPort","value":1}]"#,
            );
        }),
        ("a change under Helm's name", "ConfigMap ameide/redis was changed under Helm's name", |_| {
            let mut object = redis_s_config(&[]);
            object["data"]["redis.conf"] = "x".into();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), object.to_string()).unwrap();
            ameide(&format!("apply --server-side --field-manager=helm -f {}", file.path().display()));
        }),
        ("a deleted object", "ConfigMap ameide/redis is gone", |_| ameide("delete configmap/redis")),
        ("an object made again", "ConfigMap ameide/redis was deleted and recreated", |_| {
            let object = redis_s_config(&["--show-managed-fields"]);
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), object.to_string()).unwrap();
            ameide("delete configmap/redis");
            kubectl(&["create", "-f", file.path().to_str().unwrap()]);
        }),
        ("a pod that is not ready", "of 1 pods are ready", |_| {
            kubectl(&["cordon", &node()]);
            ameide("delete pod redis-master-0 --wait=true");
            eventually("the pod is not ready", || {
                let ready =
                    ["-n", "ameide", "get", "statefulset/redis-master", "-o", "jsonpath={.status.readyReplicas}"];
                matches!(kubectl(&ready).as_str(), "" | "0")
            });
        }),
        ("a failed newer revision", "is failed", |_| next_revision(Status::Failed)),
        ("a pending newer revision", "is pending-upgrade", |_| next_revision(Status::PendingUpgrade)),
        ("a rollback by hand", "record", |_| {
            assert!(helm(&["rollback", "redis"]));
        }),
        ("an upgrade by hand", "record", |tree| {
            let chart = tree.path("infra/kubernetes/charts/redis");
            assert!(helm(&["upgrade", "redis", chart.to_str().unwrap(), "--reuse-values"]));
        }),
        ("a test that failed", "record", |_| {
            helm(&["test", "redis", "--timeout", "1s"]);
        }),
        ("a record that was cut", "record", |_| {
            edit_revision("redis", |secret| {
                let record = secret.metadata.annotations.as_mut().unwrap().get_mut("ameide/record").unwrap();
                record.truncate(record.len() / 2);
            });
        }),
        ("a record that was forged", "record", |_| {
            edit_revision("redis", |secret| {
                let record = secret.metadata.annotations.as_mut().unwrap().get_mut("ameide/record").unwrap();
                *record = record.replace("\"tested\":false", "\"tested\":true");
            });
        }),
        ("a revision that was edited", "record", |_| {
            edit_revision("redis", |secret| {
                secret.metadata.annotations.as_mut().unwrap().insert("ameide/record".to_owned(), "x.{}".to_owned());
            });
        }),
        ("an autoscaler", "", |_| {
            let manager = "--field-manager=kube-controller-manager";
            ameide(&format!(
                "patch statefulset/redis-master --subresource=scale {manager} --type=merge -p {{\"spec\":{{\"replicas\":2}}}}"
            ));
            ready();
        }),
    ];
    for (name, why, act) in rows {
        act(&tree);
        let planned = succeeds(tree.xtask(&[&LAYER[..], &["--dry-run"]].concat()));
        let undone = kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].spec.unschedulable}"]);
        if undone.contains("true") {
            kubectl(&["uncordon", &node()]);
            ready();
        }
        if why.is_empty() {
            // Reported, and not fought over.
            let said = succeeds(tree.xtask(&LAYER));
            assert!(said.contains("kube-controller-manager, an autoscaler: it is left"), "{name}: {said}");
            assert!(!said.contains("in place"), "{name}: {said}");
        } else {
            assert!(planned.contains("would change") && planned.contains(why), "{name}: {planned}");
        }
        if name.ends_with("newer revision") {
            remove_newest();
        }
        whole(&tree);
    }
    // The second pod's claim.
    ameide("delete pvc data-redis-master-1");
}

#[test]
fn an_input_that_changed_is_named_and_synced_where_it_renders_something_else() {
    let tree = turn();
    whole(&tree);
    let values = "infra/kubernetes/values/infrastructure/redis.yaml.gotmpl";
    let comment = |text: String| format!("# Nothing of this is rendered.\n{text}");
    let of_environment = format!("environments/{}/env.yaml", environment());
    for (file, told) in [
        (values, "values/infrastructure/redis.yaml.gotmpl changed"),
        ("infra/kubernetes/charts/redis/values.yaml", "charts/redis changed"),
        ("infra/kubernetes/helmfiles/40-data-plane.yaml", "helmfiles/40-data-plane.yaml changed"),
        ("infra/kubernetes/_defaults.yaml.gotmpl", "_defaults.yaml.gotmpl changed"),
        (&format!("infra/kubernetes/{of_environment}"), &format!("{of_environment} changed")),
    ] {
        tree.edit(file, comment);
        let before = revision();
        let said = succeeds(tree.xtask(&LAYER));
        assert!(said.contains(told) && said.contains("what it renders is the same"), "{file}: {said}");
        assert_eq!(revision(), before, "{file}: {said}");
        assert!(stays(&tree), "{file}");
    }
    // A template in a comment is executed as well.
    tree.edit(values, |text| format!("{text}# {{{{ env \"AMEIDE_OF_THE_TEST\" }}}}\n"));
    succeeds(tree.xtask(&LAYER));
    let mut with = tree.xtask(&LAYER);
    with.env("AMEIDE_OF_THE_TEST", "1");
    let said = succeeds(with);
    assert!(said.contains("the variable AMEIDE_OF_THE_TEST is new"), "{said}");

    tree.edit("infra/kubernetes/charts/lib/templates/_metadata.tpl", |text| {
        text.replace("app.kubernetes.io/part-of: ameide", "app.kubernetes.io/part-of: other")
    });
    let before = revision();
    // Other tests have left some of its fields to other owners.
    let said = succeeds(tree.xtask(&[&LAYER[..], &["--force-conflicts"]].concat()));
    assert!(said.contains("syncing: charts/redis changed"), "{said}");
    assert_ne!(revision(), before, "{said}");
}

/// Added to redis's chart: what the API server does not list under Helm's name, and what only a hook
/// creates.
const ADDED: &str = "apiVersion: v1
kind: Secret
metadata: {name: written-as-text, namespace: {{ .Release.Namespace }}}
stringData: {password: x}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: left-by-hook
  namespace: {{ .Release.Namespace }}
  annotations: {helm.sh/hook: 'pre-install,pre-upgrade', helm.sh/hook-delete-policy: before-hook-creation}
data: {a: '1'}
---
apiVersion: batch/v1
kind: Job
metadata: {name: gone-by-itself, namespace: {{ .Release.Namespace }}}
spec:
  ttlSecondsAfterFinished: 600
  template:
    spec:
      restartPolicy: Never
      {{- include \"lib.podDefaults\" (dict \"root\" . \"uid\" 999) | nindent 6 }}
      containers:
        - name: main
          {{- include \"lib.image\" .Values.image | nindent 10 }}
          command: ['true']
          {{- include \"lib.containerSecurity\" . | nindent 10 }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: in-order, namespace: {{ .Release.Namespace }}}
spec:
  replicas: 0
  selector: {matchLabels: {app: in-order}}
  template:
    metadata: {labels: {app: in-order}}
    spec:
      initContainers:
        {{- range list \"one\" \"two\" }}
        - name: {{ . }}
          {{- include \"lib.image\" $.Values.image | nindent 10 }}
        {{- end }}
      containers:
        - name: main
          {{- include \"lib.image\" .Values.image | nindent 10 }}
";

#[test]
fn what_no_list_of_helms_contains_is_looked_at_all_the_same() {
    let tree = turn();
    tree.write("infra/kubernetes/charts/redis/templates/added.yaml", ADDED);
    whole(&tree);
    for (why, act) in [
        (
            "Secret ameide/written-as-text: data.password was changed by kubectl-patch",
            r#"patch secret/written-as-text --type=merge -p {"data":{"password":"eQ=="}}"#,
        ),
        (
            "ConfigMap ameide/left-by-hook: data.a was changed by kubectl-patch",
            r#"patch configmap/left-by-hook --type=merge -p {"data":{"a":"2"}}"#,
        ),
        ("ConfigMap ameide/left-by-hook is gone", "delete configmap/left-by-hook"),
        (
            "Deployment ameide/in-order has its containers or their variables in another order",
            r#"patch deployment/in-order --type=json -p=[{"op":"move","from":"/spec/template/spec/initContainers/1","path":"/spec/template/spec/initContainers/0"}]"#,
        ),
    ] {
        ameide(act);
        let planned = succeeds(tree.xtask(&[&LAYER[..], &["--dry-run"]].concat()));
        assert!(planned.contains("would change") && planned.contains(why), "{act}: {planned}");
        whole(&tree);
        let value = |what, path| kubectl(&["-n", "ameide", "get", what, "-o", &format!("jsonpath={{{path}}}")]);
        assert_eq!(
            (value("secret/written-as-text", ".data.password"), value("configmap/left-by-hook", ".data.a")),
            ("eA==".into(), "1".into())
        );
        let order = value("deployment/in-order", ".spec.template.spec.initContainers[*].name");
        assert_eq!(order, "one two");
    }
    // As the API server does once its time is over.
    ameide("delete job/gone-by-itself");
    assert!(stays(&tree), "a completed Job that deletes itself");
    // Another run of the tests must not find them.
    let tree = Tree::copy();
    whole(&tree);
    ameide("delete configmap/left-by-hook");
}

#[test]
fn a_volume_claim_that_hooks_may_have_written_to_is_missed() {
    let tree = turn();
    let layer = ["layer", "42", "--skip-tests"];
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: of-the-test, namespace: ameide}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), claim).unwrap();
    let create = || kubectl(&["create", "-f", file.path().to_str().unwrap()]);
    succeeds(tree.xtask(&[&layer[..], &["--force"]].concat()));
    create();
    let said = succeeds(tree.xtask(&layer));
    assert!(said.contains("in place, unchanged"), "a new claim: {said}");
    succeeds(tree.xtask(&[&layer[..], &["--force"]].concat()));
    let gone = "PersistentVolumeClaim ameide/of-the-test was deleted since the release's hooks ran";
    for again in [true, false] {
        ameide("delete pvc/of-the-test --wait=true");
        if again {
            create();
        }
        let said = succeeds(tree.xtask(&layer));
        assert!(said.contains(gone) && !said.contains("in place, unchanged"), "{said}");
        let said = succeeds(tree.xtask(&layer));
        assert!(said.contains("in place, unchanged"), "{said}");
    }
}

/// A layer with these releases of one chart, which is made of these objects.
fn write_layer(tree: &Tree, name: &str, releases: &[&str], objects: &str) {
    let chart = format!("infra/kubernetes/charts/{name}");
    tree.write(&format!("{chart}/Chart.yaml"), &format!("apiVersion: v2\nname: {name}\nversion: 0.1.0\n"));
    tree.write(&format!("{chart}/templates/objects.yaml"), objects);
    let release = |release: &&str| {
        format!("  - {{name: {release}, namespace: {NAMESPACE}, chart: ../charts/{name}, createNamespace: true}}\n")
    };
    let labels = format!("commonLabels: {{stage: {name}, layer: 70-{name}}}");
    let releases: String = releases.iter().map(release).collect();
    let text = format!("bases: [../_defaults.yaml.gotmpl]\n{labels}\nreleases:\n{releases}");
    tree.write(&format!("infra/kubernetes/helmfiles/70-{name}.yaml"), &text);
}

#[test]
fn what_only_an_install_makes_is_told_by_each_run_once_it_is_gone() {
    let tree = turn();
    let write = |value: &str| {
        let hook = "annotations: {helm.sh/hook: pre-install}";
        let objects = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: by-install, {hook}}}\n---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: by-any}}\ndata: {{a: '{value}'}}\n"
        );
        write_layer(&tree, "installed", &["installed"], &objects);
    };
    let run = |flags: &[&str]| succeeds(tree.xtask(&[&["layer", "70", "--skip-tests"], flags].concat()));
    write("1");
    run(&[]);
    assert!(run(&[]).contains("in place, unchanged: 1 release"));
    kubectl(&["-n", NAMESPACE, "delete", "configmap/by-install"]);
    let told = format!("ConfigMap {NAMESPACE}/by-install is gone, and only an install makes it");
    let lacking = "unchanged, except for what is gone and only an install makes: 1 release";
    for _ in 0..2 {
        let said = run(&[]);
        assert!(said.contains(&told) && said.contains(lacking), "{said}");
    }
    // What the chart says otherwise is synced, which brings it back no more than before.
    write("2");
    let said = run(&[]);
    assert!(said.contains("in place: 1 release"), "{said}");
    let said = run(&[]);
    assert!(said.contains(&told) && said.contains(lacking), "{said}");
    run(&["--force"]);
    assert!(run(&[]).contains("in place, unchanged: 1 release"));
}

#[test]
fn a_chart_that_asks_whether_it_is_upgraded_is_not_synced_by_each_run() {
    let tree = turn();
    let objects = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: asks}\ndata: {a: '{{ .Release.IsUpgrade }}'}\n";
    write_layer(&tree, "asks", &["asks"], objects);
    let run = || succeeds(tree.xtask(&["layer", "70", "--skip-tests"]));
    run();
    // The first upgrade differs from the install.
    let said = run();
    assert!(said.contains("in place: 1 release"), "{said}");
    for _ in 0..2 {
        let said = run();
        assert!(said.contains("in place, unchanged: 1 release"), "{said}");
    }
}

#[test]
fn a_release_that_the_tree_has_dropped_keeps_no_other_from_being_in_place() {
    let tree = turn();
    let object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {a: '1'}\n";
    let run = |releases: &[&str]| {
        write_layer(&tree, "dropped", releases, object);
        succeeds(tree.xtask(&["layer", "70", "--skip-tests"]))
    };
    run(&["first", "second"]);
    let said = run(&["first", "second"]);
    assert!(said.contains("in place, unchanged: 2 releases"), "{said}");
    // Its record stays, with a list of releases that is no longer the layer's.
    run(&["second"]);
    let said = run(&["second"]);
    assert!(said.contains("in place, unchanged: 1 release") && !said.contains("what it renders"), "{said}");
}

#[test]
fn what_somebody_opens_is_seen_and_what_somebody_pauses_is_told() {
    let tree = turn();
    let layer = |name, flags: &[&str]| tree.xtask(&[&["layer", name, "--skip-tests"], flags].concat());
    succeeds(layer("10", &["--force", "--force-conflicts"]));
    let before = succeeds(layer("10", &[]));
    assert!(before.contains("in place, unchanged"), "{before}");
    ameide(r#"patch networkpolicy/default-deny --type=merge -p {"spec":{"egress":[{}]}}"#);
    let planned = succeeds(layer("10", &["--dry-run"]));
    let told = "NetworkPolicy ameide/default-deny: spec.egress was changed by kubectl-patch";
    assert!(planned.contains(told), "{planned}");
    succeeds(layer("10", &["--force-conflicts"]));
    let policy = ["-n", "ameide", "get", "networkpolicy/default-deny", "-o", "jsonpath={.spec.egress}"];
    assert_eq!(kubectl(&policy), "");

    // Its next change would wait for somebody to continue it.
    succeeds(layer("45", &["--force-conflicts"]));
    ameide("rollout pause deployment/minio");
    let said = succeeds(layer("45", &[]));
    ameide("rollout resume deployment/minio");
    assert!(said.contains("kubectl-rollout has set .spec.paused") && said.contains("in place, unchanged"), "{said}");
    assert!(!succeeds(layer("45", &[])).contains("paused"));
}

#[test]
fn what_others_do_while_a_run_is_at_work_gets_into_no_record() {
    let tree = turn();
    whole(&tree);
    let values = "infra/kubernetes/values/infrastructure/redis.yaml.gotmpl";
    let latest = |release: &str| {
        let labels = format!("owner=helm,name={release}");
        let listed = kubectl(&[
            "-n",
            "ameide",
            "get",
            "secrets",
            "-l",
            &labels,
            "-o",
            "jsonpath={.items[*].metadata.labels.version}",
        ]);
        listed.split_whitespace().filter_map(|number| number.parse::<u32>().ok()).max().unwrap()
    };
    // Somebody works on the tree, and takes it back.
    let before = latest("redis");
    let run = beside(&tree.xtask(&["layer", "40", "45", "--skip-tests", "--force", "--jobs", "2"]));
    eventually("Helm to be at work", || latest("redis") > before);
    tree.edit(values, |text| format!("{text}# {{{{ env \"AMEIDE_OF_THE_TEST\" }}}}\n"));
    // Of a layer that waits for this one, and was read ahead.
    let of_minio = "infra/kubernetes/values/infrastructure/minio.yaml.gotmpl";
    tree.edit(of_minio, |text| text.replace("memory: 128Mi", "memory: 160Mi"));
    let (code, said) = ended(&run);
    assert_eq!(code, Some(0), "{said}");
    let memory = "jsonpath={.spec.template.spec.containers[0].resources.requests.memory}";
    assert_eq!(kubectl(&["-n", "ameide", "get", "deployment/minio", "-o", memory]), "160Mi", "{said}");
    tree.edit(of_minio, |text| text.replace("memory: 160Mi", "memory: 128Mi"));
    assert!(said.contains("while the run was at work, values/"), "{said}");
    let before = latest("redis");
    let said = succeeds(tree.xtask(&LAYER));
    assert!(
        said.contains("the tree as the last run read it is gone") && said.contains("what it renders is the same"),
        "{said}"
    );
    assert_eq!(latest("redis"), before, "{said}");

    // Somebody rolls a release back that is done, while others of the layer are not.
    let layer = ["layer", "45", "--skip-tests"];
    succeeds(tree.xtask(&layer));
    let before = latest("minio");
    let run = beside(&tree.xtask(&[&layer[..], &["--force"]].concat()));
    let of_minio = ["-n", "ameide", "get", "secrets", "-o", "name", "-l"];
    let done = format!("owner=helm,name=minio,status=deployed,version={}", before + 1);
    eventually("minio to be done", || !kubectl(&[&of_minio[..], &[&done]].concat()).is_empty());
    assert!(helm(&["rollback", "minio", &before.to_string()]));
    let (code, said) = ended(&run);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("[minio] not recorded") && said.contains("somebody else has written a revision"), "{said}");
    let said = succeeds(tree.xtask(&layer));
    assert!(said.contains("[minio] syncing: there is no record") && !said.contains("[temporal] syncing"), "{said}");
}

#[test]
fn what_others_do_beside_helm_is_no_drift_and_an_unchanged_run_writes_nothing() {
    let tree = turn();
    whole(&tree);
    ameide("annotate statefulset/redis-master injected=1 --overwrite");
    ameide("annotate configmap/redis injected=1 --overwrite");
    assert!(stays(&tree), "others' annotations");
    ameide("delete pod redis-master-0 --wait=true");
    ready();
    assert!(stays(&tree), "a pod that is made again");
    // An equal tree somewhere else.
    assert!(stays(&Tree::copy()), "an equal tree");

    // What its controllers write on their own is not counted.
    let writes = || -> BTreeMap<String, u64> {
        let metrics = kubectl(&["get", "--raw", "/metrics"]);
        let ours = [
            "resource=\"secrets\"",
            "resource=\"configmaps\"",
            "resource=\"services\"",
            "resource=\"statefulsets\"",
            "resource=\"networkpolicies\"",
            "resource=\"pods\"",
        ];
        let verbs = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];
        metrics
            .lines()
            .filter(|line| line.starts_with("apiserver_request_total{") && ours.iter().any(|kind| line.contains(kind)))
            .filter(|line| verbs.iter().any(|verb| line.contains(&format!("verb=\"{verb}\""))))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, count)| (name.to_owned(), count.parse::<f64>().unwrap() as u64))
            .collect()
    };
    let lease = || {
        kubectl(&["-n", "kube-system", "get", "lease", "ameide-deploy", "-o", "jsonpath={.metadata.resourceVersion}"])
    };
    let before = (writes(), lease());
    for _ in 0..5 {
        assert!(stays(&tree));
    }
    assert_eq!((writes(), lease()), before);
}
