//! A layer that is in place, and every way in which it may not be: what leads to a sync, what to a
//! rendering, and what to nothing at all.

use serde_json::{Value, json};

use super::{Bench, ends, made, packed};
use crate::support::succeeds;

const OBJECT: &str = "/api/v1/namespaces/shop/configmaps/top";
const SECRET: &str = "shop/sh.helm.release.v1.top.v1";
const MANIFEST: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: top, namespace: shop}\ndata: {a: '1'}\n";

/// The object that Helm made of the manifest.
fn object() -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {
        "name": "top", "namespace": "shop", "uid": "u1", "resourceVersion": "1",
        "managedFields": [{"manager": "helm", "operation": "Apply", "time": "2026-11-25T11:00:00Z",
            "fieldsV1": {"f:data": {"f:a": {}}}}],
    }})
}

fn entry(manager: &str, fields: Value) -> Value {
    json!({"manager": manager, "operation": "Update", "time": "2026-11-25T11:57:00Z", "fieldsV1": fields})
}

/// A revision of `top` as Helm leaves it.
fn revision(number: u32, status: &str) -> Value {
    let mut secret = made("shop", "top", number, status, 60, MANIFEST);
    secret["metadata"]["uid"] = format!("revision {number}").into();
    secret["metadata"]["labels"]["layer"] = "20-top".into();
    secret["metadata"]["managedFields"] = json!([entry("Helm", json!({"f:data": {"f:release": {}}, "f:type": {}}))]);
    secret
}

/// With the layer `20-top` deployed and recorded.
fn in_place() -> Bench {
    in_place_as(|number| revision(number, "deployed"), |_| {})
}

/// The same, with what Helm makes at each sync, and what the API server answers then.
fn in_place_as(makes: fn(u32) -> Value, answers: impl FnOnce(&Bench)) -> Bench {
    let bench = Bench::new();
    bench.base_in_place();
    bench.write("answers/template", MANIFEST);
    let kinds = json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
        {"name": "configmaps", "singularName": "", "namespaced": true, "kind": "ConfigMap", "verbs": ["get"]}]});
    bench.server.answer("/api/v1", 200, kinds.to_string());
    bench.server.answer(OBJECT, 200, object().to_string());
    bench.server.world.lock().unwrap().makes = Some(makes);
    answers(&bench);
    let said = bench.ends(&["layer", "20", "--skip-tests"], 0);
    assert_eq!(bench.syncs(), 1, "{said}");
    bench
}

impl Bench {
    fn syncs(&self) -> usize {
        self.said().lines().filter(|line| line.contains(" sync ")).count()
    }

    fn writes(&self) -> usize {
        ["PUT ", "POST ", "PATCH ", "DELETE "].iter().map(|method| self.server.asked(&[method])).sum()
    }

    fn edit(&self, edit: impl FnOnce(&mut Value)) {
        let mut world = self.server.world.lock().unwrap();
        edit(world.secrets.get_mut(SECRET).unwrap());
    }

    /// Asserts that nothing is done: no program is started and nothing is written.
    #[track_caller]
    fn stays(&self, why: &str) {
        let before = (self.said().lines().count(), self.writes());
        let said = self.ends(&["layer", "20", "--skip-tests"], 0);
        assert!(said.contains("in place, unchanged: 1 release"), "{why}: {said}");
        assert_eq!((self.said().lines().count(), self.writes()), before, "{why}: {said}");
    }
}

#[test]
fn what_is_in_place_costs_neither_a_program_nor_a_write() {
    let bench = in_place();
    bench.stays("just recorded");
    let mut touched = object();
    touched["metadata"]["resourceVersion"] = "9".into();
    touched["metadata"]["annotations"] = json!({"injected": "1"});
    let others = entry("istio", json!({"f:metadata": {"f:annotations": {"f:injected": {}}}}));
    touched["metadata"]["managedFields"].as_array_mut().unwrap().push(others);
    bench.server.answer(OBJECT, 200, touched.to_string());
    bench.stays("others' annotation");
    bench.edit(|secret| {
        let fields = json!({"f:metadata": {"f:annotations": {"f:ameide/record": {}}}});
        secret["metadata"]["managedFields"].as_array_mut().unwrap().push(entry("xtask", fields));
    });
    bench.stays("the record's own entry");
    // Somebody else's machine, where `kubens` has chosen another namespace.
    let config = std::fs::read_to_string(bench.path("kubeconfig")).unwrap();
    let mut config: Value = serde_saphyr::from_str(&config).unwrap();
    config["contexts"][0]["context"]["namespace"] = "elsewhere".into();
    bench.write("kubeconfig", &config.to_string());
    bench.stays("the context's namespace");
    let mut run = bench.xtask(&["layer", "20", "--skip-tests"]);
    run.env("HELM_CACHE_HOME", bench.path("elsewhere")).env("HELM_DEBUG", "true");
    let said = succeeds(run);
    assert!(said.contains("in place, unchanged: 1 release"), "{said}");
    // Where a release may have got its namespace from it, it counts.
    let said = bench.ends(&["layer", "20", "--skip-tests", "--force"], 0);
    assert!(said.contains("in place"), "{said}");
    config["contexts"][0]["context"]["namespace"] = "shop".into();
    bench.write("kubeconfig", &config.to_string());
    bench.stays("the same namespace by name");
    bench.ends(&["layer", "20", "--skip-tests", "--force"], 0);
    config["contexts"][0]["context"]["namespace"] = "elsewhere".into();
    bench.write("kubeconfig", &config.to_string());
    let said = bench.ends(&["layer", "20", "--skip-tests"], 0);
    assert!(said.contains("the context's namespace changed, and what it renders is the same"), "{said}");
    bench.stays("it was recorded");
}

#[test]
fn each_doubt_ends_in_a_sync_that_says_why() {
    type Change = fn(&Bench);
    let rows: [(&str, Change); 12] = [
        ("ConfigMap shop/top was changed under Helm's name", |bench| {
            let mut object = object();
            object["metadata"]["managedFields"][0]["time"] = "2031-01-01T00:00:00Z".into();
            bench.server.answer(OBJECT, 200, object.to_string());
        }),
        ("ConfigMap shop/top is gone", |bench| {
            let (code, text) = super::missing("top");
            bench.server.answer(OBJECT, code, text);
        }),
        ("ConfigMap shop/top was deleted and recreated", |bench| {
            let mut object = object();
            object["metadata"]["uid"] = "u2".into();
            bench.server.answer(OBJECT, 200, object.to_string());
        }),
        ("ConfigMap shop/top is being deleted", |bench| {
            let mut object = object();
            object["metadata"]["deletionTimestamp"] = "2026-11-25T11:00:00Z".into();
            bench.server.answer(OBJECT, 200, object.to_string());
        }),
        ("ConfigMap shop/top: data.a was changed by kubectl-edit 3 min ago", |bench| {
            let mut object = object();
            let taken = entry("kubectl-edit", json!({"f:data": {"f:a": {}}}));
            object["metadata"]["managedFields"][0]["fieldsV1"] = json!({"f:data": {}});
            object["metadata"]["managedFields"].as_array_mut().unwrap().push(taken);
            bench.server.answer(OBJECT, 200, object.to_string());
        }),
        ("revision 2 is failed", |bench| bench.server.put(revision(2, "failed"))),
        ("revision 2 is pending-upgrade", |bench| bench.server.put(revision(2, "pending-upgrade"))),
        ("there is no record on this revision", |bench| bench.server.put(revision(2, "deployed"))),
        ("there is no record on this revision", |bench| bench.server.put(revision(1, "deployed"))),
        ("its record was changed", |bench| {
            bench.edit(|secret| {
                let text = secret["metadata"]["annotations"]["ameide/record"].as_str().unwrap().to_owned();
                secret["metadata"]["annotations"]["ameide/record"] = text[..text.len() - 9].into();
            });
        }),
        ("somebody has changed the revision that Helm stored", |bench| {
            bench.edit(|secret| {
                let fields = json!({"f:data": {"f:release": {}}});
                secret["metadata"]["managedFields"].as_array_mut().unwrap().push(entry("kubectl-edit", fields));
            });
        }),
        ("its record is from another cluster", |bench| {
            let other =
                json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "kube-system", "uid": "other"}});
            bench.server.answer("/api/v1/namespaces/kube-system", 200, other.to_string());
        }),
    ];
    for (why, change) in rows {
        let bench = in_place();
        bench.stays(why);
        change(&bench);
        let planned = bench.ends(&["layer", "20", "--skip-tests", "--dry-run"], 0);
        assert!(planned.contains("would change"), "{why}: {planned}");
        // The stand-in for Helm changes nothing, so the run may fail; but the layer was not taken
        // for in place.
        let output = bench.xtask(&["--yes", "layer", "20", "--skip-tests"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(why), "{why}: {said}");
        assert!(!said.contains("in place, unchanged"), "{why}: {said}");
        // A pending revision has no known owner here, and is not old enough to be repaired.
        if output.status.success() {
            assert_eq!(bench.syncs(), 2, "{why}: {said}");
        }
    }
}

const LEFT: &str = "/api/v1/namespaces/shop/configmaps/left";
const CLAIMS: &str = "/api/v1/namespaces/shop/persistentvolumeclaims";

/// The volume claims with these names and uids.
fn claims(all: &[(&str, &str)]) -> String {
    let items: Vec<Value> =
        all.iter().map(|(name, uid)| json!({"metadata": {"name": name, "namespace": "shop", "uid": uid}})).collect();
    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items})
        .to_string()
}

/// A ConfigMap that Helm has created, and not applied.
fn left(version: &str) -> String {
    let created = entry("helm", json!({"f:data": {"f:a": {}}}));
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "left", "namespace": "shop", "uid": "u7",
        "resourceVersion": version, "managedFields": [created]}})
    .to_string()
}

/// A revision of `top` with a hook that leaves a ConfigMap, and one that only runs.
fn with_hooks(number: u32) -> Value {
    let hook = |kind: &str, name: &str| {
        let manifest = format!(
            "apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}, annotations: {{helm.sh/hook: pre-upgrade}}}}\n"
        );
        json!({"name": name, "events": ["pre-install", "pre-upgrade"], "manifest": manifest})
    };
    let stored = json!({"name": "top", "namespace": "shop", "version": number, "info": {"status": "deployed"},
        "manifest": MANIFEST, "hooks": [hook("ConfigMap", "left"), hook("Pod", "ran")]});
    let mut secret = revision(number, "deployed");
    secret["data"]["release"] = packed(stored.to_string().as_bytes()).into();
    secret
}

#[test]
fn what_hooks_left_and_the_claims_they_wrote_to_are_looked_at() {
    type Change = fn(&Bench);
    let rows: [(&str, Change); 5] = [
        ("ConfigMap shop/left is gone", |bench| {
            let (code, text) = super::missing("left");
            bench.server.answer(LEFT, code, text);
        }),
        ("ConfigMap shop/left was written to since Helm made it", |bench| bench.server.answer(LEFT, 200, left("8"))),
        ("PersistentVolumeClaim shop/data-db-0 was deleted since the release's hooks ran", |bench| {
            bench.server.answer(CLAIMS, 200, claims(&[("other", "u2")]));
        }),
        ("PersistentVolumeClaim shop/data-db-0 was deleted since the release's hooks ran", |bench| {
            bench.server.answer(CLAIMS, 200, claims(&[("data-db-0", "u9")]));
        }),
        ("not allowed to list persistentvolumeclaims", |bench| bench.server.answer(CLAIMS, 403, forbidden())),
    ];
    for (why, change) in rows {
        let bench = in_place_as(with_hooks, |bench| {
            bench.server.answer(LEFT, 200, left("7"));
            bench.server.answer(CLAIMS, 200, claims(&[("data-db-0", "u1")]));
        });
        bench.stays(why);
        bench.server.answer(CLAIMS, 200, claims(&[("data-db-0", "u1"), ("new", "u3")]));
        bench.stays("a new claim");
        change(&bench);
        let said = bench.ends(&["--yes", "layer", "20", "--skip-tests"], 0);
        assert!(said.contains(why) && !said.contains("in place, unchanged"), "{why}: {said}");
        assert_eq!(bench.syncs(), 2, "{why}: {said}");
        let refused = said.contains("not recorded, so the next run will sync it again");
        assert_eq!(refused, why.starts_with("not allowed"), "{why}: {said}");
        if !refused {
            bench.stays("the sync has recorded what is there now");
        }
    }
}

const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: top, namespace: shop}\nspec: {replicas: 1, paused: false}\n";

/// What an autoscaler has scaled while Helm waited for it.
fn scaled() -> String {
    let scales = json!({"manager": "k3s", "operation": "Update", "subresource": "scale",
        "fieldsV1": {"f:spec": {"f:replicas": {}}}});
    let helm = json!({"manager": "helm", "operation": "Apply", "time": "2026-11-25T11:00:00Z",
        "fieldsV1": {"f:spec": {"f:paused": {}}}});
    json!({"kind": "Deployment", "apiVersion": "apps/v1",
        "metadata": {"name": "top", "namespace": "shop", "uid": "u1", "generation": 2, "managedFields": [helm, scales]},
        "spec": {"replicas": 2, "paused": false},
        "status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}})
    .to_string()
}

#[test]
fn what_an_autoscaler_scales_while_helm_waits_is_recorded_and_left_to_it() {
    let of_a_deployment = |number: u32| {
        let mut secret = revision(number, "deployed");
        secret["data"] = made("shop", "top", number, "deployed", 60, DEPLOYMENT)["data"].clone();
        secret
    };
    let bench = in_place_as(of_a_deployment, |bench| {
        let kinds = json!({"kind": "APIResourceList", "groupVersion": "apps/v1", "resources": [
            {"name": "deployments", "singularName": "", "namespaced": true, "kind": "Deployment", "verbs": ["get"]}]});
        bench.server.answer("/apis/apps/v1", 200, kinds.to_string());
        bench.server.answer("/apis/apps/v1/namespaces/shop/deployments/top", 200, scaled());
    });
    let said = bench.ends(&["layer", "20", "--skip-tests"], 0);
    assert!(said.contains("spec.replicas is set by k3s, an autoscaler: it is left as it is"), "{said}");
    assert_eq!(bench.syncs(), 1, "{said}");
}

fn forbidden() -> String {
    let message = "persistentvolumeclaims is forbidden: User \"x\" cannot list resource \"persistentvolumeclaims\" in API group \"\" in the namespace \"shop\"";
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
        "message": message})
    .to_string()
}

#[test]
fn what_changed_is_named_and_synced_only_where_it_renders_something_else() {
    let bench = in_place();
    let file = "infra/kubernetes/helmfiles/20-top.yaml";
    bench.write(file, "releases: [] # changed\n");
    let said = bench.ends(&["layer", "20", "--skip-tests"], 0);
    assert!(said.contains("helmfiles/20-top.yaml changed, and what it renders is the same"), "{said}");
    assert_eq!(bench.syncs(), 1, "{said}");
    bench.stays("its new inputs are recorded");
    bench.write(file, "releases: [] # changed again\n");
    bench.write("answers/template", &MANIFEST.replace("'1'", "'2'"));
    let planned = bench.ends(&["layer", "20", "--skip-tests", "--dry-run"], 0);
    assert!(planned.contains("would upgrade it, revision 1: helmfiles/20-top.yaml changed"), "{planned}");
    let said = bench.ends(&["layer", "20", "--skip-tests"], 0);
    assert!(said.contains("syncing: helmfiles/20-top.yaml changed"), "{said}");
    assert_eq!(bench.syncs(), 2, "{said}");
}

#[test]
fn what_helmfile_gives_an_upgrade_alone_is_synced_whatever_it_renders() {
    let bench = in_place();
    let file = "infra/kubernetes/helmfiles/20-top.yaml";
    bench.write(file, "releases: []\nhelmDefaults: {syncArgs: [--set, x=2]}\n");
    let said = bench.ends(&["layer", "20", "--skip-tests"], 0);
    assert!(said.contains("syncing: helmfiles/20-top.yaml changed (helmfiles/20-top.yaml has syncArgs)"), "{said}");
    assert_eq!(bench.syncs(), 2, "{said}");
    bench.stays("it has been synced");
    for flags in [&["--force-conflicts"][..], &["--force-conflicts", "--dry-run"]] {
        let said = bench.ends(&[&["layer", "20", "--skip-tests"], flags].concat(), 2);
        assert!(said.contains("20-top.yaml has syncArgs, whose place --force-conflicts would take"), "{said}");
    }
    assert_eq!(bench.syncs(), 2);
}

#[test]
fn by_force_it_is_synced_all_the_same_and_tests_that_have_not_passed_are_run_alone() {
    let bench = in_place();
    let said = bench.ends(&["layer", "20", "--skip-tests", "--force"], 0);
    assert!(said.contains("syncing, by --force"), "{said}");
    assert_eq!(bench.syncs(), 2, "{said}");
    let said = bench.ends(&["layer", "20"], 0);
    assert!(said.contains("testing: its tests have not passed") && said.contains("helm test"), "{said}");
    assert_eq!(bench.syncs(), 2, "{said}");
    let said = bench.ends(&["layer", "20"], 0);
    assert!(said.contains("in place, unchanged: 1 release"), "{said}");
}

#[test]
fn while_somebody_else_holds_the_lease_nothing_is_said_of_what_they_change() {
    let bench = in_place();
    let lease = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"name": "ameide-deploy", "namespace": "kube-system", "resourceVersion": "1"},
        "spec": {"holderIdentity": "elsewhere#1", "leaseDurationSeconds": 15, "renewTime": "2026-11-25T12:00:00.000000Z"}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/ameide-deploy";
    bench.server.answer(path, 200, lease.to_string());
    let mut run = bench.xtask(&["layer", "20", "--skip-tests", "--lock-timeout", "1s"]);
    run.env("XTASK_CONFIRM", "1");
    let said = ends(run, 3);
    assert!(!said.contains("in place"), "{said}");
}

#[test]
fn a_dry_run_writes_nothing_and_tells_by_its_exit_code_whether_anything_would_change() {
    let bench = in_place();
    let ask = ["layer", "20", "--skip-tests", "--dry-run", "--exit-code"];
    let before = bench.writes();
    assert!(bench.ends(&ask, 0).contains("nothing would change: 1 release"));
    bench.write("infra/kubernetes/helmfiles/20-top.yaml", "releases: [] # changed\n");
    assert!(bench.ends(&ask, 0).contains("nothing would change"), "only a comment");
    bench.write("answers/template", &MANIFEST.replace("'1'", "'2'"));
    let said = bench.ends(&ask, 1);
    assert!(said.contains("~ ConfigMap shop/top") && said.contains("+  a: \"2\""), "{said}");
    assert_eq!(bench.writes(), before, "{said}");
    assert_eq!(bench.syncs(), 1, "{said}");
    // A look that gets no answer must not be reported as in place.
    bench.server.answer("/version", 500, "");
    bench.server.answer("/readyz", 500, "");
    bench.ends(&ask, 4);
    let said = bench.ends(&["layer", "20", "--skip-tests", "--dry-run"], 0);
    assert!(said.contains("not compared with what is deployed; objects that it renders: 1"), "{said}");
}

#[test]
fn a_saved_plan_is_refused_by_the_name_of_what_changed() {
    let bench = in_place();
    bench.write("answers/template", &MANIFEST.replace("'1'", "'2'"));
    bench.write("infra/kubernetes/helmfiles/20-top.yaml", "releases: [] # changed\n");
    let plan = bench.path("a plan.json");
    let file = plan.to_str().unwrap();
    let save = || bench.ends(&["layer", "20", "--skip-tests", "--dry-run", "--save-plan", file], 0);
    let refused = |told: &str| {
        let said = bench.ends(&["layer", "--plan", file], 7);
        assert!(said.contains("plan-outdated") && said.contains(told), "{told}: {said}");
        assert_eq!(bench.syncs(), 1, "{said}");
    };
    let said = save();
    assert!(said.contains(&format!("saved: cargo xtask --env t layer --plan '{file}'")), "{said}");
    bench.ends(&["--dry-run", "layer", "--plan", file], 0);
    bench.write("infra/kubernetes/helmfiles/20-top.yaml", "releases: [] # changed again\n");
    refused("the tree: helmfiles/20-top.yaml changed");
    save();
    let mut other = object();
    other["metadata"]["uid"] = "u2".into();
    bench.server.answer(OBJECT, 200, other.to_string());
    refused("ConfigMap shop/top was deleted and recreated");
    bench.server.answer(OBJECT, 200, object().to_string());
    save();
    bench.server.put(revision(2, "deployed"));
    refused("release top: its revision was 1 and is 2");

    let mut with = bench.xtask(&["layer", "--plan", file]);
    with.env("HELM_LAYER_SELECTOR", "name=top");
    assert!(ends(with, 2).contains("HELM_LAYER_SELECTOR"));
    bench.write("a plan.json", "{\"format\": 2, \"what\": 2}");
    let said = bench.ends(&["layer", "--plan", file], 2);
    assert!(said.contains("a plan.json") && said.contains("expected a file that --save-plan wrote"), "{said}");
    for flags in [&["--force"][..], &["20"], &["--rollback"], &["--remove"]] {
        bench.ends(&[&["layer", "--plan", file][..], flags].concat(), 2);
    }
}
