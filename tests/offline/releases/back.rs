//! Rollback and removal against a server that answers as the test says: what is decided, what is
//! asked, and that nothing is done if a look fails or there is no consent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Bench, packed, release, revision};

const CLAIM: &str = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\n";
const CONFIG: &str = "# Source: top\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: top}\n";
const SET: &str = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec: {selector: {matchLabels: {app: db}}, volumeClaimTemplates: [{metadata: {name: store}}]}\n";
const CLAIMS: &str = "/api/v1/namespaces/shop/persistentvolumeclaims";

/// A revision that a run made, as Helm stores it.
fn of_run(number: u32, run: &str, status: &str, minutes: i64, stored: Value) -> Value {
    let mut secret = revision("shop", "top", number, status, minutes);
    secret["metadata"]["labels"]["run"] = run.into();
    secret["metadata"]["labels"]["layer"] = "20-top".into();
    let words = match (status, stored["back"].as_u64()) {
        ("failed", _) => "Upgrade \"top\" failed: timeout".to_owned(),
        (_, Some(back)) => format!("Rollback to {back}"),
        _ => "Upgrade complete".to_owned(),
    };
    let info =
        json!({"status": status, "description": words, "rollback_revision": stored["back"].as_u64().unwrap_or(0)});
    let plain = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: top}}\ndata: {{run: {run}}}\n");
    let hooks = stored["hooks"].as_array().cloned().unwrap_or_default();
    let stored = json!({"name": "top", "namespace": "shop", "version": number, "info": info, "hooks": hooks,
        "manifest": stored["manifest"].as_str().unwrap_or(&plain)});
    secret["data"]["release"] = packed(stored.to_string().as_bytes()).into();
    secret
}

/// What the stored release of `top` currently contains.
fn stored(bench: &Bench, number: u32) -> String {
    let world = bench.server.world.lock().unwrap();
    let secret = &world.secrets[&format!("shop/sh.helm.release.v1.top.v{number}")];
    let text = secret["data"]["release"].as_str().unwrap();
    let zipped = STANDARD.decode(STANDARD.decode(text).unwrap()).unwrap();
    let mut json = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(zipped.as_slice()), &mut json).unwrap();
    let release: Value = serde_json::from_str(&json).unwrap();
    release["manifest"].as_str().unwrap().to_owned()
}

fn kinds(bench: &Bench) {
    let resource = |name: &str, kind: &str| json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": ["get"]});
    for (path, version, resources) in [
        (
            "/api/v1",
            "v1",
            vec![resource("configmaps", "ConfigMap"), resource("persistentvolumeclaims", "PersistentVolumeClaim")],
        ),
        ("/apis/apps/v1", "apps/v1", vec![resource("statefulsets", "StatefulSet")]),
    ] {
        let list = json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources});
        bench.server.answer(path, 200, list.to_string());
    }
}

/// Puts an object at a path of the namespace.
fn is_there(bench: &Bench, path: &str, version: &str, kind: &str, object: Value) {
    let name = path.rsplit('/').next().unwrap();
    let mut object = object;
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    object["metadata"]["name"] = name.into();
    object["metadata"]["namespace"] = "shop".into();
    if object["metadata"]["uid"].is_null() {
        object["metadata"]["uid"] = format!("uid of {name}").into();
    }
    bench.server.answer(path, 200, object.to_string());
}

fn claim(name: &str, more: Value) -> Value {
    let mut metadata = json!({"name": name, "namespace": "shop", "uid": format!("uid of {name}")});
    metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata})
}

fn claims(bench: &Bench, items: &[Value]) {
    let list = json!({"kind": "PersistentVolumeClaimList", "apiVersion": "v1", "metadata": {}, "items": items});
    bench.server.answer(CLAIMS, 200, list.to_string());
}

/// With a Helm that records its arguments and succeeds.
fn bench() -> Bench {
    let bench = Bench::new();
    let helms = bench.path("helms").display().to_string();
    bench.stand_in("helm", &format!("case \"$*\" in version*) echo v4.3.1 ;; *) echo \"$*\" >> {helms} ;; esac"));
    kinds(&bench);
    bench
}

impl Bench {
    fn helms(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("helms")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_rollback_is_told_confirmed_and_passed_on_to_helm() {
    let bench = bench();
    bench.server.put(of_run(1, "a", "superseded", 180, json!({})));
    bench.server.put(of_run(2, "b", "deployed", 120, json!({})));
    bench.server.put(of_run(3, "c", "failed", 5, json!({})));
    let said = bench.ends(&["layer", "20", "--rollback", "--dry-run"], 0);
    assert!(said.contains("roll back from revision 3 (run c, failed) to 2 (run b, 2 h ago)"), "{said}");
    let said = bench.ends(&["layer", "20", "--rollback"], 10);
    assert!(
        said.contains("roll back layer 20-top: release top from revision 3 to 2") && said.contains("--yes"),
        "{said}"
    );
    assert_eq!(bench.helms(), [] as [&str; 0]);

    bench.ends(&["layer", "20", "--rollback", "--yes", "--skip-tests", "--force-conflicts"], 0);
    let helms = bench.helms();
    assert!(helms.len() == 1 && helms[0].starts_with("rollback top 2 --wait --timeout 900s "), "{helms:?}");
    assert!(
        helms[0].contains("--description Rollback to 2 (xtask, run ") && helms[0].ends_with("--force-conflicts"),
        "{helms:?}"
    );
    assert!(!bench.said().contains(" sync "), "{}", bench.said());

    let said = bench.ends(&["layer", "20", "--rollback=a", "--yes"], 0);
    // The order is tested on a real cluster.
    assert!(said.contains("[top] rolled back to revision 1"), "{said}");
    assert!(bench.helms()[1].starts_with("rollback top 1 ") && bench.helms()[2].starts_with("test top "), "{said}");
}

#[test]
fn what_needs_another_goes_back_before_it() {
    let bench = bench();
    for (first, second) in [("web", "top"), ("top", "web")] {
        bench.lists("20-top", &json!([release("top", true, true), release("web", true, true)]));
        bench.write(
            "answers/build",
            &format!("releases: [{{name: {first}, namespace: shop}}, {{name: {second}, namespace: shop, needs: [shop/{first}]}}]\n"),
        );
        for (number, run, status) in [(1, "a", "superseded"), (2, "b", "deployed")] {
            bench.server.put(of_run(number, run, status, 120 - i64::from(number), json!({})));
            let mut web = revision("shop", "web", number, status, 120 - i64::from(number));
            web["metadata"]["labels"]["run"] = run.into();
            let text = json!({"name": "web", "namespace": "shop", "version": number, "info": {"status": status, "description": "Upgrade complete"},
                "manifest": format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: web}}\ndata: {{run: {run}}}\n")});
            web["data"]["release"] = packed(text.to_string().as_bytes()).into();
            bench.server.put(web);
        }
        let said = bench.ends(&["layer", "20", "--rollback", "--yes", "--skip-tests"], 0);
        let place = |release: &str| said.find(&format!("[{release}] rolled back to revision 1")).unwrap();
        assert!(place(second) < place(first), "{said}");
    }
}

#[test]
fn what_cannot_be_rolled_back_is_said_and_nothing_is_done() {
    let bench = bench();
    let ends = |arguments: &[&str], exit: i32, word: &str| {
        let said = bench.ends(&[&["layer", "20"], arguments, &["--yes"]].concat(), exit);
        assert!(said.contains(word), "{arguments:?}: {word}\n{said}");
    };
    ends(&["--rollback"], 2, "nothing of layer 20-top is installed");
    bench.server.put(of_run(7, "b", "deployed", 60, json!({})));
    ends(&["--rollback"], 2, "no good run to go back to before run b");
    ends(&["--rollback=x"], 2, "it has those of b");
    bench.lists("20-top", &json!([release("top", true, true), release("web", true, true)]));
    let mut other = revision("shop", "web", 1, "superseded", 120);
    other["metadata"]["labels"]["run"] = "a".into();
    let text = json!({"name": "web", "namespace": "shop", "version": 1, "info": {"status": "superseded", "description": "Install complete"}});
    other["data"]["release"] = packed(text.to_string().as_bytes()).into();
    bench.server.put(other);
    ends(&["--rollback"], 2, "Helm does not keep the revision of release shop/top that was there after run a");
    bench.server.put(of_run(8, "c", "pending-rollback", 1, json!({"back": 7})));
    ends(&["--rollback"], 7, "release-owned");
    for flags in ["--force", "--remove", "--jobs=2", "--keep-going", "--list"] {
        ends(&["--rollback", flags], 2, "cannot be used with");
    }
    assert_eq!(bench.helms(), [] as [&str; 0]);
    assert_eq!(bench.server.asked(&["PUT", "/secrets/"]), 0);
}

#[test]
fn a_rollback_that_deletes_a_claim_wants_consent_to_that() {
    let bench = bench();
    bench.server.put(of_run(1, "a", "superseded", 120, json!({"manifest": CONFIG})));
    bench.server.put(of_run(2, "b", "deployed", 60, json!({"manifest": format!("{CONFIG}---\n{CLAIM}")})));
    let said = bench.ends(&["layer", "20", "--rollback", "--yes"], 10);
    assert!(
        said.contains("which deletes PersistentVolumeClaim data") && said.contains("--allow-destroy=release,claim"),
        "{said}"
    );
    bench.ends(&["layer", "20", "--rollback", "--yes", "--allow-destroy=release"], 10);
    assert_eq!(bench.helms(), [] as [&str; 0]);
    bench.ends(&["layer", "20", "--rollback", "--yes", "--skip-tests", "--allow-destroy=release,claim"], 0);
    assert_eq!(bench.helms().len(), 1);
}

#[test]
fn a_rollback_to_another_group_of_a_kind_deletes_what_the_newer_one_made() {
    let bench = bench();
    let cluster = |group: &str| format!("{CONFIG}---\napiVersion: {group}/v1\nkind: Cluster\nmetadata: {{name: db}}\n");
    bench.server.put(of_run(1, "a", "superseded", 120, json!({"manifest": cluster("postgresql.cnpg.io")})));
    let newer = cluster("postgresql.k8s.enterprisedb.io");
    bench.server.put(of_run(2, "b", "deployed", 60, json!({"manifest": newer})));
    let said = bench.ends(&["layer", "20", "--rollback", "--yes"], 10);
    assert!(said.contains("which deletes Cluster db") && said.contains("--allow-destroy=release,claim"), "{said}");
    assert_eq!(bench.helms(), [] as [&str; 0]);
}

#[test]
fn a_rollback_from_what_cannot_be_read_here_wants_consent_too() {
    let bench = bench();
    let twice = CLAIM.replace("{name: data}", "{name: data, labels: {a: b}, labels: {a: b}}");
    bench.server.put(of_run(1, "a", "superseded", 120, json!({"manifest": CONFIG})));
    bench.server.put(of_run(2, "b", "deployed", 60, json!({"manifest": twice})));
    let said = bench.ends(&["layer", "20", "--rollback", "--yes"], 10);
    assert!(said.contains("which deletes what its manifest holds, which cannot be read here (line 3"), "{said}");
    assert_eq!(bench.helms(), [] as [&str; 0]);
}

#[test]
fn what_another_run_has_taken_over_is_not_settled() {
    let bench = bench();
    bench.lists("20-top", &json!([release("top", true, true), release("web", true, true)]));
    for (number, run, status) in [(1, "a", "superseded"), (2, "b", "deployed")] {
        bench.server.put(of_run(number, run, status, 120 - i64::from(number), json!({})));
        let mut web = of_run(number, run, status, 120 - i64::from(number), json!({}));
        web["metadata"]["name"] = format!("sh.helm.release.v1.web.v{number}").into();
        web["metadata"]["labels"]["name"] = "web".into();
        bench.server.put(web);
    }
    let helms = bench.path("helms");
    let script =
        format!("case \"$*\" in version*) echo v4.3.1 ;; *) echo \"$*\" >> {}; exec sleep 60 ;; esac", helms.display());
    bench.stand_in("helm", &script);
    let world = bench.server.world.clone();
    let taken = std::thread::spawn(move || {
        let said = || std::fs::read_to_string(&helms).unwrap_or_default();
        crate::support::eventually("Helm is at work", || said().ends_with('\n'));
        let words = said();
        let words = words.split("--description ").nth(1).unwrap().split(" --").next().unwrap();
        let release = if said().starts_with("rollback top") { "top" } else { "web" };
        let mut live = revision("shop", release, 3, "pending-rollback", 0);
        let info = json!({"status": "pending-rollback", "description": words});
        let stored = json!({"name": release, "namespace": "shop", "version": 3, "info": info});
        live["data"]["release"] = packed(stored.to_string().as_bytes()).into();
        let lease = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": "ameide-deploy", "namespace": "kube-system", "resourceVersion": "1"},
            "spec": {"holderIdentity": "elsewhere#run", "leaseDurationSeconds": 15, "renewTime": "2026-11-25T11:59:58.000000Z"}});
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/ameide-deploy".to_owned();
        let mut world = world.lock().unwrap();
        world.secrets.insert(format!("shop/sh.helm.release.v1.{release}.v3"), live);
        world.answers.insert(path, (200, lease.to_string()));
    });
    let said = bench.ends(&["layer", "20", "--rollback", "--yes", "--skip-tests"], 3);
    taken.join().unwrap();
    assert!(said.contains("lock-lost"), "{said}");
    assert_eq!(bench.server.asked(&["PUT", "/secrets/"]), 0, "{said}");
    assert_eq!(bench.helms().len(), 1, "{said}");
}

#[test]
fn a_release_that_is_named_is_uninstalled_without_what_holds_data_unless_that_is_named_too() {
    let repair = |bench: &Bench, flags: &[&str], exit| {
        bench.ends(&[&["releases", "repair", "--uninstall", "top"], flags].concat(), exit)
    };
    let bench = bench();
    bench.server.put(of_run(1, "a", "failed", 60, json!({"manifest": format!("{CONFIG}---\n{CLAIM}")})));
    let said = repair(&bench, &["--dry-run"], 0);
    assert!(said.contains("delete ConfigMap top") && said.contains("keep PersistentVolumeClaim data"), "{said}");
    repair(&bench, &["--yes"], 10);
    assert_eq!(bench.helms(), [] as [&str; 0]);
    repair(&bench, &["--allow-destroy=release"], 0);
    assert!(bench.helms()[0].starts_with("uninstall top --wait --timeout 300s --no-hooks "), "{:?}", bench.helms());
    assert!(stored(&bench, 1).contains(r#""helm.sh/resource-policy":"keep""#), "{}", stored(&bench, 1));
    repair(&bench, &["--allow-destroy=release,claim"], 0);
    assert!(!bench.helms()[1].contains("--no-hooks"), "{:?}", bench.helms());
    assert!(!stored(&bench, 1).contains("resource-policy"), "{}", stored(&bench, 1));

    // What cannot be kept is asked for.
    bench.server.put(of_run(1, "a", "failed", 60, json!({"manifest": format!("{CONFIG}kind: ConfigMap\n")})));
    let said = repair(&bench, &["--allow-destroy=release"], 10);
    assert!(said.contains("--allow-destroy=release,claim") && said.contains("cannot be read here"), "{said}");
    repair(&bench, &["--allow-destroy=release,claim"], 0);
    assert_eq!(bench.helms().len(), 3);
}

#[test]
fn a_release_that_somebody_is_working_on_is_neither_uninstalled_nor_rolled_back() {
    let bench = bench();
    bench.server.put(of_run(1, "a", "deployed", 60, json!({"manifest": CONFIG})));
    bench.server.put(of_run(2, "a", "pending-upgrade", 1, json!({"manifest": CONFIG})));
    for arguments in [&["--uninstall", "top", "--allow-destroy=release"][..], &["--rollback", "top", "1"]] {
        let said = bench.ends(&[&["releases", "repair", "--yes"], arguments].concat(), 7);
        assert!(said.contains("release-owned"), "{said}");
    }
    assert_eq!(bench.helms(), [] as [&str; 0]);
    assert_eq!(bench.server.asked(&["PUT", "/secrets/"]), 0);

    // Who knows better says so.
    bench.ends(&["releases", "repair", "--yes", "--older-than", "30s", "--rollback", "top", "1"], 0);
    assert_eq!(bench.server.label("shop", "top", 2), "failed");
    assert!(bench.helms()[0].starts_with("rollback top 1 --wait --description Rollback to 1 (by hand, run "));
}

#[test]
fn a_claim_is_kept_by_what_the_cluster_says_of_it_and_not_by_the_stored_manifest() {
    let policy = |word: &str| json!({"metadata": {"annotations": {"helm.sh/resource-policy": word}}});
    let marked = CLAIM.replace("{name: data}", "{name: data, annotations: {helm.sh/resource-policy: keep}}");
    let refused = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "no"});
    let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "gone"});
    let path = format!("{CLAIMS}/data");
    for (name, written, live, asks) in [
        ("both say so", &marked[..], Ok(policy("keep")), false),
        ("the cluster alone says so", CLAIM, Ok(policy("keep")), false),
        ("a removal that was killed has marked the stored one", &marked, Ok(json!({"metadata": {}})), true),
        ("a word that Helm does not take", &marked, Ok(policy("Keep")), true),
        ("another one", &marked, Ok(policy(" keep")), true),
        ("it cannot be looked at", &marked, Err((403, &refused)), true),
        ("it is gone", CLAIM, Err((404, &gone)), false),
    ] {
        let bench = bench();
        bench.base_in_place();
        match live {
            Ok(object) => is_there(&bench, &path, "v1", "PersistentVolumeClaim", object),
            Err((code, body)) => bench.server.answer(&path, code, body.to_string()),
        }
        let exit = if asks { 10 } else { 0 };
        bench.server.put(of_run(1, "a", "superseded", 120, json!({"manifest": CONFIG})));
        bench.server.put(of_run(2, "b", "deployed", 60, json!({"manifest": format!("{CONFIG}---\n{written}")})));
        for arguments in [&["--rollback"][..], &["--force"]] {
            let said = bench.ends(&[&["layer", "20", "--yes", "--skip-tests"], arguments].concat(), exit);
            assert_eq!(said.contains("which deletes PersistentVolumeClaim data"), asks, "{name}: {said}");
        }
        assert_eq!(bench.helms().is_empty(), asks, "{name}");
    }
}

#[test]
fn what_a_failed_upgrade_left_out_is_still_there_to_be_lost() {
    let bench = bench();
    bench.base_in_place();
    bench.server.put(of_run(1, "a", "deployed", 120, json!({"manifest": format!("{CONFIG}---\n{CLAIM}")})));
    bench.server.put(of_run(2, "b", "failed", 60, json!({"manifest": CONFIG})));
    is_there(&bench, &format!("{CLAIMS}/data"), "v1", "PersistentVolumeClaim", json!({}));
    let said = bench.ends(&["layer", "20", "--yes", "--skip-tests"], 10);
    assert!(said.contains("upgrade release top, which deletes PersistentVolumeClaim data"), "{said}");
}

#[test]
fn a_claim_in_another_namespace_is_another_one() {
    let bench = bench();
    bench.base_in_place();
    let within = |namespace: &str| {
        let claim = CLAIM.replace("{name: data}", &format!("{{name: data, namespace: {namespace}}}"));
        json!({"manifest": format!("{CONFIG}---\n{claim}")})
    };
    bench.server.put(of_run(1, "a", "deployed", 120, within("stays")));
    bench.server.put(of_run(2, "b", "failed", 60, within("gone")));
    let path = |namespace: &str| CLAIMS.replace("/shop/", &format!("/{namespace}/")) + "/data";
    is_there(&bench, &path("stays"), "v1", "PersistentVolumeClaim", json!({}));
    let (code, text) = super::missing("data");
    bench.server.answer(&path("gone"), code, text);
    let said = bench.ends(&["layer", "20", "--yes", "--skip-tests"], 10);
    assert!(said.contains("upgrade release top, which deletes PersistentVolumeClaim data in stays"), "{said}");
}

#[test]
fn one_layer_that_cannot_go_back_keeps_the_others_from_it() {
    let bench = bench();
    bench.server.put(of_run(1, "a", "superseded", 120, json!({})));
    bench.server.put(of_run(2, "b", "deployed", 60, json!({})));
    bench.server.put(revision("shop", "web", 1, "deployed", 60));
    let said = bench.ends(&["layer", "10-20", "--rollback", "--yes"], 2);
    assert!(said.contains("layer 10-base has no good run"), "{said}");
    assert_eq!(bench.helms(), [] as [&str; 0]);
}

#[test]
fn a_rollback_that_was_killed_goes_to_the_same_revision_again() {
    let bench = bench();
    bench.server.put(of_run(1, "a", "superseded", 180, json!({})));
    bench.server.put(of_run(2, "b", "superseded", 120, json!({})));
    bench.server.put(of_run(3, "c", "deployed", 60, json!({})));
    bench.server.put(of_run(4, "b", "pending-rollback", 40, json!({"back": 2})));
    bench.ends(&["layer", "20", "--rollback", "--yes", "--skip-tests"], 0);
    assert_eq!(bench.server.label("shop", "top", 4), "failed");
    assert!(bench.helms()[0].starts_with("rollback top 2 "), "{:?}", bench.helms());
}

#[test]
fn a_removal_wants_consent_and_has_helm_keep_what_holds_data() {
    let bench = bench();
    let hook = json!([{"name": "drop-all", "events": ["pre-delete"], "manifest": ""}]);
    let manifest = format!("---\n{CONFIG}---\n{CLAIM}");
    bench.server.put(of_run(3, "a", "deployed", 60, json!({"manifest": manifest, "hooks": hook})));
    is_there(&bench, &format!("{CLAIMS}/data"), "v1", "PersistentVolumeClaim", json!({}));
    let said = bench.ends(&["layer", "20", "--remove", "--dry-run"], 0);
    for line in
        ["delete ConfigMap top", "keep PersistentVolumeClaim shop/data", "skip its chart's uninstall hooks", "drop-all"]
    {
        assert!(said.contains(line), "{line}\n{said}");
    }
    for flags in [&["--yes"][..], &["--allow-destroy=cluster"], &["--allow-destroy=claim"]] {
        let said = bench.ends(&[&["layer", "20", "--remove"], flags].concat(), 10);
        assert!(said.contains("remove 20-top") && said.contains("release shop/top with ConfigMap top"), "{said}");
        assert_eq!(said.contains("PersistentVolumeClaim data,"), flags[0].ends_with("claim"), "{said}");
    }
    assert_eq!((bench.helms(), stored(&bench, 3)), (Vec::new(), manifest.clone()));

    let said = bench.ends(&["layer", "20", "--remove", "--allow-destroy=release"], 0);
    assert_eq!(bench.helms(), ["uninstall top --wait --timeout 900s --no-hooks --namespace shop --kube-context t"]);
    let marked = stored(&bench, 3);
    assert!(marked.contains(CONFIG) && marked.contains(r#""helm.sh/resource-policy":"keep""#), "{marked}");
    assert!(
        said.contains("kept: PersistentVolumeClaim shop/data") && said.contains("delete persistentvolumeclaims data"),
        "{said}"
    );
    // Had it not been finished, no chart would keep the claim.
    let said = bench.ends(&["layer", "20", "--remove", "--dry-run", "--allow-destroy=claim"], 0);
    assert!(said.contains("delete PersistentVolumeClaim data"), "{said}");
    // As it looks once Helm has deleted it.
    let (code, text) = super::missing("data");
    bench.server.answer(&format!("{CLAIMS}/data"), code, text);
    bench.ends(&["layer", "20", "--remove", "--allow-destroy=release,claim"], 0);
    assert!(!stored(&bench, 3).contains("resource-policy"), "{}", stored(&bench, 3));
    // The original Secret.
    let runs = std::fs::read_dir(bench.path("state/t/runs")).unwrap().flatten();
    let copies = runs.filter(|run| run.path().join("shop.sh.helm.release.v1.top.v3.json").exists());
    assert_eq!(copies.count(), 2);
}

#[test]
fn a_removal_is_not_begun_where_a_look_fails_or_the_release_cannot_be_read() {
    let refused = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "no"});
    let good = || of_run(1, "a", "deployed", 60, json!({"manifest": format!("{CONFIG}---\n{SET}")}));
    for (name, path) in
        [("claims", CLAIMS), ("kinds", "/apis/apps/v1"), ("a set", "/apis/apps/v1/namespaces/shop/statefulsets/db")]
    {
        for flags in ["--allow-destroy=release", "--allow-destroy=release,claim"] {
            let bench = bench();
            bench.server.put(good());
            bench.server.answer(path, 403, refused.to_string());
            let said = bench.xtask(&["layer", "20", "--remove", flags]).output().unwrap();
            assert_ne!(said.status.code(), Some(0), "{name}");
            assert_eq!(bench.helms(), [] as [&str; 0], "{name}");
            assert_eq!(bench.server.asked(&["PUT", "/secrets/"]) + bench.server.asked(&["DELETE"]), 0, "{name}");
        }
    }
    for manifest in ["kind: [", "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: x, annotations: [a]}\n"]
    {
        let bench = bench();
        bench.server.put(of_run(1, "a", "deployed", 60, json!({"manifest": manifest})));
        bench.ends(&["layer", "20", "--remove", "--allow-destroy=release"], 7);
        assert_eq!(bench.helms(), [] as [&str; 0], "{manifest}");
    }
    // Helm would skip it, and uninstall what the previous revision made.
    let bench = bench();
    bench.server.put(good());
    let mut broken = revision("shop", "top", 2, "deployed", 30);
    broken["data"]["release"] = STANDARD.encode("nothing of Helm's").into();
    bench.server.put(broken);
    bench.ends(&["layer", "20", "--remove", "--allow-destroy=release"], 7);
    assert_eq!(bench.helms(), [] as [&str; 0]);
}

#[test]
fn the_claims_of_a_set_stay_or_go_by_name_and_no_others_do() {
    let ours = json!({"labels": {"app": "db"}});
    let bench = bench();
    bench.server.put(of_run(1, "a", "deployed", 60, json!({"manifest": SET})));
    let others = [
        claim("store-db-x", ours.clone()),
        claim("store-db-1", json!({"labels": {"app": "other"}})),
        claim("else", ours.clone()),
    ];
    claims(&bench, &[&[claim("store-db-0", ours)], &others[..]].concat());
    // As it looks once it is deleted: gone, or another object with that name.
    is_there(
        &bench,
        &format!("{CLAIMS}/store-db-0"),
        "v1",
        "PersistentVolumeClaim",
        json!({"metadata": {"uid": "another"}}),
    );
    let said = bench.ends(&["layer", "20", "--remove", "--dry-run"], 0);
    assert!(said.contains("keep PersistentVolumeClaim store-db-0") && !said.contains("else"), "{said}");
    let said = bench.ends(&["layer", "20", "--remove", "--allow-destroy=claim"], 10);
    assert!(
        said.contains("PersistentVolumeClaim store-db-0") && said.contains("--allow-destroy=release,claim"),
        "{said}"
    );
    assert_eq!(bench.server.asked(&["DELETE"]), 0);
    let said = bench.ends(&["layer", "20", "--remove", "--allow-destroy=release,claim"], 0);
    assert_eq!(bench.server.asked(&["DELETE"]), 1, "{said}");
    assert_eq!(bench.server.asked(&["DELETE", "/persistentvolumeclaims/store-db-0"]), 1, "{said}");
    assert_eq!(bench.helms(), ["uninstall top --wait --timeout 900s --namespace shop --kube-context t"]);
    assert_eq!(bench.server.asked(&["PUT", "/secrets/"]), 0);
}

#[test]
fn a_set_that_takes_its_claims_with_it_is_made_to_leave_them_first() {
    for command in [&["layer", "20", "--remove"][..], &["releases", "repair", "--uninstall", "top"]] {
        leaves_its_claims_first(command);
    }
}

/// The newest revision does not say that it takes them: only the set in the cluster does.
fn leaves_its_claims_first(command: &[&str]) {
    let bench = bench();
    bench.server.put(of_run(1, "a", "deployed", 60, json!({"manifest": SET})));
    let set = "/apis/apps/v1/namespaces/shop/statefulsets/db";
    let spec = json!({"selector": {}, "serviceName": "db", "template": {}, "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}});
    is_there(
        &bench,
        set,
        "apps/v1",
        "StatefulSet",
        json!({"spec": spec, "metadata": {"generation": 2}, "status": {"observedGeneration": 2, "replicas": 1}}),
    );
    let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "uid of db"}]);
    claims(&bench, &[claim("store-db-0", json!({"labels": {"app": "db"}, "ownerReferences": owner}))]);
    is_there(&bench, &format!("{CLAIMS}/store-db-0"), "v1", "PersistentVolumeClaim", json!({}));
    let (world, helms) = (bench.server.world.clone(), bench.path("helms"));
    bench.stand_in(
        "helm",
        &format!("case \"$*\" in version*) echo v4.3.1 ;; *) echo \"$*\" >> {}; sleep 2 ;; esac", helms.display()),
    );
    let released = std::thread::spawn(move || {
        crate::support::eventually("the set is patched", || {
            world
                .lock()
                .unwrap()
                .asked
                .iter()
                .any(|line| line.starts_with("PATCH") && line.contains("/statefulsets/db"))
        });
        // What its controller then does.
        let free = claim("store-db-0", json!({"labels": {"app": "db"}}));
        let list = json!({"kind": "PersistentVolumeClaimList", "apiVersion": "v1", "metadata": {}, "items": [free]});
        world.lock().unwrap().answers.insert(CLAIMS.to_owned(), (200, list.to_string()));
        crate::support::eventually("Helm is at work", || helms.exists());
        world.lock().unwrap().answers.insert(set.to_owned(), super::missing("db"));
    });
    let said = bench.ends(&[command, &["--allow-destroy=release"]].concat(), 0);
    released.join().unwrap();
    assert!(said.contains("have StatefulSet db keep its claims, which it would delete"), "{said}");
    assert!(said.contains("persistentVolumeClaimRetentionPolicy is Retain now"), "{said}");
    let kept = said.contains("kept: PersistentVolumeClaim shop/store-db-0");
    assert_eq!(kept, command[0] == "layer", "{said}");
    assert_eq!(bench.helms().len(), 1);
}

#[test]
fn what_owns_a_claim_is_not_deleted_and_the_remedy_is_for_that_claim_alone() {
    for command in [&["layer", "20", "--remove"][..], &["releases", "repair", "--uninstall", "top"]] {
        let bench = bench();
        bench.server.put(of_run(1, "a", "deployed", 60, json!({"manifest": format!("{CONFIG}---\n{CLAIM}")})));
        is_there(&bench, "/api/v1/namespaces/shop/configmaps/top", "v1", "ConfigMap", json!({}));
        let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "top", "uid": "uid of top"}]);
        claims(&bench, &[claim("data", json!({"ownerReferences": owner}))]);
        let said = bench.ends(&[command, &["--allow-destroy=release"]].concat(), 2);
        assert!(said.contains("ConfigMap shop/top owns the claim data"), "{said}");
        let remedy = "kubectl --context t -n shop patch persistentvolumeclaim data --type=json";
        assert!(said.contains(remedy) && !said.contains("--allow-destroy=release,claim"), "{said}");
        assert_eq!(bench.helms(), [] as [&str; 0]);
        assert_eq!(bench.server.asked(&["PUT", "/secrets/"]), 0);
    }
}

#[test]
fn what_others_need_stays_and_what_is_gone_is_said() {
    let bench = bench();
    bench.base_in_place();
    bench.server.put(of_run(1, "a", "deployed", 60, json!({"manifest": CONFIG})));
    let said = bench.ends(&["layer", "10", "--remove", "--allow-destroy=release"], 2);
    assert!(said.contains("20-top needs 10-base, and its release shop/top is still installed"), "{said}");
    assert!(said.contains("layer 10-base 20-top --remove"), "{said}");
    assert_eq!(bench.helms(), [] as [&str; 0]);
    let said = bench.ends(&["layer", "10-20", "--remove", "--allow-destroy=release"], 0);
    let removed: Vec<String> = bench.helms().iter().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(removed, ["top", "web"], "{said}");

    bench.server.world.lock().unwrap().secrets.clear();
    let said = bench.ends(&["layer", "10-20", "--remove"], 0);
    assert_eq!(said.matches("already removed").count(), 2, "{said}");
    assert_eq!(bench.helms().len(), 2);
}

#[test]
fn an_uninstallation_that_nobody_finishes_is_gone_on_with() {
    let bench = bench();
    bench.server.put(of_run(1, "a", "uninstalling", 1, json!({"manifest": CONFIG})));
    bench.ends(&["layer", "20", "--remove", "--allow-destroy=release"], 7);
    assert_eq!(bench.helms(), [] as [&str; 0], "somebody may be at work");
    bench.server.put(of_run(1, "a", "uninstalling", 40, json!({"manifest": CONFIG})));
    let said = bench.ends(&["layer", "20", "--remove", "--allow-destroy=release"], 0);
    assert!(said.contains("half uninstalled"), "{said}");
    assert_eq!(bench.helms().len(), 1);
}

#[test]
fn what_helm_leaves_is_named() {
    let bench = bench();
    bench.server.put(of_run(1, "a", "deployed", 60, json!({"manifest": CONFIG})));
    bench.stand_in(
        "helm",
        "case \"$*\" in version*) echo v4.3.1 ;; *) echo 'Error: context deadline exceeded'; exit 1 ;; esac",
    );
    let held = json!({"metadata": {"deletionTimestamp": "2026-11-25T11:00:00Z", "finalizers": ["ameide.dev/hold"]}});
    is_there(&bench, "/api/v1/namespaces/shop/configmaps/top", "v1", "ConfigMap", held);
    let said = bench.ends(&["layer", "20", "--remove", "--allow-destroy=release"], 7);
    assert!(
        said.contains(
            "release top: ConfigMap shop/top is still there, being deleted and held by the finalizers ameide.dev/hold"
        ),
        "{said}"
    );
}

#[test]
fn what_helm_passes_over_is_named_though_it_says_that_it_succeeded() {
    let top = "/api/v1/namespaces/shop/configmaps/top";
    let of = |release: &str, namespace: &str| json!({"metadata": {"annotations": {"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": namespace}}});
    for (name, object, exit, word) in [
        ("its own", of("top", "shop"), 7, "Helm left what it had created: ConfigMap shop/top"),
        ("nobody's", json!({"metadata": {}}), 7, "kubectl --context t -n shop delete configmaps top"),
        ("another's", of("other", "shop"), 0, "ConfigMap shop/top exists, and belongs to release shop/other"),
        ("of that name elsewhere", of("top", "else"), 0, "belongs to release else/top"),
    ] {
        let bench = bench();
        bench.server.put(of_run(1, "a", "deployed", 60, json!({"manifest": CONFIG})));
        is_there(&bench, top, "v1", "ConfigMap", object);
        let said = bench.ends(&["layer", "20", "--remove", "--allow-destroy=release"], exit);
        assert!(said.contains(word), "{name}: {said}");
        assert_eq!(bench.helms().len(), 1, "{name}");
    }
}

#[test]
fn what_is_left_of_a_release_that_is_gone_is_named() {
    let bench = bench();
    let kinds = json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
        {"name": "configmaps", "singularName": "", "namespaced": true, "kind": "ConfigMap", "verbs": ["get", "list"]}]});
    bench.server.answer("/api/v1", 200, kinds.to_string());
    bench.server.answer("/apis", 200, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}).to_string());
    let object = |name: &str, release: &str| {
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": name, "namespace": "shop",
            "annotations": {"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": "shop"}}})
    };
    let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "items": [object("held", "top"), object("other", "web")]});
    bench.server.answer("/api/v1/configmaps", 200, list.to_string());
    let said = bench.ends(&["layer", "20", "--remove"], 0);
    assert!(said.contains("already removed"), "{said}");
    assert!(
        said.contains("what it created still exists: ConfigMap shop/held;") && !said.contains("shop/other"),
        "{said}"
    );

    bench.server.answer("/apis", 500, "no");
    let said = bench.ends(&["layer", "20", "--remove"], 0);
    assert!(said.contains("could not check for leftovers"), "{said}");
}

#[test]
fn a_selector_that_matches_nothing_is_no_layer_that_is_gone() {
    let bench = bench();
    bench.server.put(of_run(1, "a", "superseded", 120, json!({})));
    bench.server.put(of_run(2, "b", "deployed", 60, json!({})));
    for layer in ["10-base", "20-top"] {
        std::fs::remove_file(bench.path("answers").join(layer)).unwrap();
    }
    bench.write(
        "answers/refusal",
        "err: no releases found that matches specified selector(name=typo) and environment(t), in any helmfile\n",
    );
    for flags in [&["--remove", "--allow-destroy=release"][..], &["--remove", "--dry-run"], &["--rollback", "--yes"]] {
        let said = bench.ends(&[&["layer", "10-20", "-l", "name=typo"], flags].concat(), 2);
        assert!(said.contains("matches no release of 10-base, 20-top"), "{flags:?}: {said}");
    }
    // The selector matches a release of another layer.
    bench.lists("20-top", &json!([release("top", true, true)]));
    let said = bench.ends(&["layer", "10-20", "-l", "name=top", "--rollback", "--yes", "--skip-tests"], 0);
    assert!(said.contains("matches none of its releases") && bench.helms().len() == 1, "{said}");
    let said = bench.ends(&["layer", "10-20", "-l", "name=top", "--remove", "--allow-destroy=release"], 0);
    assert!(!said.contains("already removed") && bench.helms().len() == 2, "{said}");
}

#[test]
fn what_a_stopped_removal_has_set_is_given_back_before_helm_applies() {
    let set = "/apis/apps/v1/namespaces/shop/statefulsets/db";
    let entry = |manager: &str| {
        json!({"manager": manager, "operation": "Update", "apiVersion": "apps/v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:persistentVolumeClaimRetentionPolicy": {"f:whenDeleted": {}}}}})
    };
    for (manager, patches) in [("xtask", 1), ("kubectl-edit", 0)] {
        let bench = bench();
        bench.base_in_place();
        bench.write("answers/template", SET);
        bench.write("idle", "");
        bench.server.put(of_run(1, "a", "superseded", 120, json!({"manifest": SET})));
        bench.server.put(of_run(2, "b", "deployed", 60, json!({"manifest": SET.replace("store", "other")})));
        let managed = json!([entry("helm"), entry(manager)]);
        is_there(&bench, set, "apps/v1", "StatefulSet", json!({"metadata": {"managedFields": managed}}));
        let asked = || bench.server.asked(&["PATCH", "/statefulsets/db"]);
        bench.ends(&["layer", "20", "--rollback", "--yes", "--skip-tests"], 0);
        assert_eq!((asked(), bench.helms().len()), (patches, 1), "{manager}");
        bench.ends(&["layer", "20", "--yes", "--skip-tests", "--force"], 0);
        assert_eq!(asked(), 2 * patches, "{manager}");
        // If that is not possible, Helm is not started.
        if patches > 0 {
            let helms = bench.helms().len();
            let refused = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "no"});
            bench.server.answer(set, 403, refused.to_string());
            let ended = bench.xtask(&["layer", "20", "--rollback=a", "--yes", "--skip-tests"]).output().unwrap();
            assert_ne!(ended.status.code(), Some(0));
            assert_eq!(bench.helms().len(), helms);
        }
    }
}

#[test]
fn up_down_removes_the_critical_path_and_says_what_stays() {
    let bench = bench();
    bench.base_in_place();
    let said = bench.ends(&["up", "--down", "--yes"], 10);
    assert!(said.contains("release shop/web"), "{said}");
    let said = bench.ends(&["up", "--down", "--allow-destroy=release"], 0);
    assert!(bench.helms()[0].starts_with("uninstall web ") && said.contains("mirror stay"), "{said}");
    assert!(!said.contains("cluster delete"), "this cluster is no local one: {said}");
    for flag in ["--force", "--skip-tests", "--keep-going", "--jobs=2"] {
        bench.ends(&["up", "--down", flag], 2);
    }
}
