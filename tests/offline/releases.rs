//! Releases and layers against an API server that speaks its protocol over loopback, with stand-ins
//! for helm and helmfile: cases that a real cluster would take minutes to show, or could not be
//! made to show at all.

mod back;
mod beside;
mod history;
mod instant;
mod reach;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use xshell::cmd;

use crate::support::server::{Answer, Request};
use crate::support::{self, ends, root, shell, write_program};

/// The API server's clock, which differs from every other.
const NOW: &str = "Wed, 25 Nov 2026 12:00:00 GMT";

fn minutes_ago(minutes: i64) -> String {
    let now: jiff::Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
    (now - jiff::SignedDuration::from_mins(minutes)).to_string()
}

#[derive(Default)]
struct World {
    secrets: BTreeMap<String, Value>,
    /// The response to each path (with `?watch` appended for a watch): status and body.
    answers: BTreeMap<String, (u16, String)>,
    asked: Vec<String>,
    /// What Helm makes of `top` at each sync, by revision number; otherwise a revision without objects.
    makes: Option<fn(u32) -> Value>,
}

/// An API server that is also the registry: it answers every path.
pub struct Server {
    world: Arc<Mutex<World>>,
    address: String,
}

impl Server {
    fn start() -> Self {
        let world = Arc::new(Mutex::new(World::default()));
        let shared = world.clone();
        let server = support::server::Server::start(move |request| {
            let (code, text) = shared.lock().unwrap().respond(request);
            Answer::new(code, text).with("Date", NOW).with("Content-Type", "application/json")
        });
        Self { world, address: server.address }
    }

    pub fn put(&self, secret: Value) {
        let name = format!("{}/{}", word(&secret, "namespace"), word(&secret, "name"));
        self.world.lock().unwrap().secrets.insert(name, secret);
    }

    pub fn answer(&self, path: &str, code: u16, body: impl Into<String>) {
        self.world.lock().unwrap().answers.insert(path.to_owned(), (code, body.into()));
    }

    /// How many requests had a line that contains all of these words.
    fn asked(&self, words: &[&str]) -> usize {
        let world = self.world.lock().unwrap();
        world.asked.iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    fn label(&self, namespace: &str, release: &str, revision: u32) -> String {
        let key = format!("{namespace}/sh.helm.release.v1.{release}.v{revision}");
        self.world.lock().unwrap().secrets[&key]["metadata"]["labels"]["status"].as_str().unwrap().to_owned()
    }
}

fn word<'a>(secret: &'a Value, key: &str) -> &'a str {
    secret["metadata"][key].as_str().unwrap()
}

impl World {
    fn respond(&mut self, request: &Request) -> (u16, String) {
        let (method, target, body) = (&request.method[..], &request.target[..], &request.body[..]);
        let accepts = request.header("accept").unwrap_or_default().to_ascii_lowercase();
        let metadata = accepts.contains("partialobjectmetadata");
        let kind = if metadata { "metadata" } else { "whole" };
        self.asked.push(format!("{method} {target} {kind}"));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let watch = query.contains("watch=true").then(|| format!("{path}?watch"));
        if let Some(answer) = watch.and_then(|watch| self.answers.get(&watch)).or(self.answers.get(path)) {
            return answer.clone();
        }
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (method, parts.as_slice()) {
            (_, ["readyz"]) => (200, "ok".into()),
            ("POST", ["sync"]) => {
                let listed: Vec<Value> = serde_json::from_slice(body).unwrap();
                listed.iter().filter(|row| row["enabled"] == true && row["installed"] == true).for_each(|row| {
                    self.upgrade(row["namespace"].as_str().unwrap(), row["name"].as_str().unwrap());
                });
                (200, String::new())
            }
            (_, ["version"]) => (200, r#"{"gitVersion": "v1.34.1"}"#.into()),
            ("GET", ["api", "v1", "secrets"]) => self.list(None, query, metadata),
            ("GET", ["api", "v1", "namespaces", namespace, "secrets"]) => self.list(Some(namespace), query, metadata),
            (_, ["api", "v1", "namespaces", namespace, "secrets", name]) => {
                let key = format!("{namespace}/{name}");
                if method == "PUT" {
                    let mut secret: Value = serde_json::from_slice(body).unwrap();
                    secret["metadata"]["resourceVersion"] = "2".into();
                    self.secrets.insert(key.clone(), secret);
                }
                if let (true, Some(secret)) = (method == "PATCH", self.secrets.get_mut(&key)) {
                    let patch: Value = serde_json::from_slice(body).unwrap();
                    if patch["metadata"]["resourceVersion"] != secret["metadata"]["resourceVersion"] {
                        return (409, json!({"kind": "Status", "status": "Failure", "code": 409}).to_string());
                    }
                    for (name, value) in patch["metadata"]["annotations"].as_object().unwrap() {
                        secret["metadata"]["annotations"][name] = value.clone();
                    }
                }
                self.secrets.get(&key).map_or_else(|| missing(name), |secret| (200, secret.to_string()))
            }
            ("GET", ["api", "v1", "namespaces", namespace]) => {
                let metadata = json!({"name": namespace, "uid": format!("uid of {namespace}")});
                (200, json!({"kind": "Namespace", "apiVersion": "v1", "metadata": metadata}).to_string())
            }
            ("POST" | "PUT", [.., "leases"] | [.., "leases", _]) => (201, String::from_utf8_lossy(body).into_owned()),
            ("GET", [.., name]) if path.contains("/leases/") || path.contains("/services/") => missing(name),
            ("GET", _) if query.contains("watch=true") => (200, String::new()),
            ("GET", _) => (
                200,
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []})
                    .to_string(),
            ),
            _ => (404, "no such path".into()),
        }
    }

    /// Adds a revision, as Helm does.
    fn upgrade(&mut self, namespace: &str, release: &str) {
        let of_it =
            |secret: &&Value| secret["metadata"]["labels"]["name"] == release && word(secret, "namespace") == namespace;
        let numbers =
            self.secrets.values().filter(of_it).filter_map(|secret| secret["metadata"]["labels"]["version"].as_str());
        let number = numbers.map(|number| number.parse::<u32>().unwrap()).max().unwrap_or(0) + 1;
        let secret = match self.makes.filter(|_| release == "top") {
            Some(makes) => makes(number),
            None => revision(namespace, release, number, "deployed", 0),
        };
        self.secrets.insert(format!("{namespace}/{}", word(&secret, "name")), secret);
    }

    fn list(&self, namespace: Option<&str>, query: &str, metadata: bool) -> (u16, String) {
        let selector = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector=")).unwrap_or_default();
        let selector = selector.replace("%3D", "=").replace("%2C", ",").replace(['+'], " ").replace("%20", " ");
        let selector = selector.replace("%28", "(").replace("%29", ")");
        let sets = [",name in (", ",layer in ("];
        let (set, plain) = match sets.iter().find_map(|set| Some((*set, selector.split_once(set)?))) {
            Some((set, (before, rest))) => {
                let (names, after) = rest.split_once(')').unwrap();
                let key = if set.starts_with(",name") { "name" } else { "layer" };
                (Some((key, names.split(',').collect::<Vec<_>>())), format!("{before}{after}"))
            }
            None => (None, selector.clone()),
        };
        let items: Vec<Value> = self
            .secrets
            .values()
            .filter(|secret| namespace.is_none_or(|namespace| word(secret, "namespace") == namespace))
            .filter(|secret| {
                let label = |key: &str| secret["metadata"]["labels"][key].as_str().unwrap_or_default();
                set.as_ref().is_none_or(|(key, names)| names.contains(&label(key)))
                    && plain.split(',').filter(|pair| !pair.is_empty()).all(|pair| {
                        let (key, value) = pair.split_once('=').unwrap();
                        label(key) == value
                    })
            })
            .map(|secret| if metadata { json!({"metadata": secret["metadata"]}) } else { secret.clone() })
            .collect();
        let (kind, version) =
            if metadata { ("PartialObjectMetadataList", "meta.k8s.io/v1") } else { ("SecretList", "v1") };
        (
            200,
            json!({"kind": kind, "apiVersion": version, "metadata": {"resourceVersion": "1"}, "items": items})
                .to_string(),
        )
    }
}

fn missing(name: &str) -> (u16, String) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": format!("{name:?} not found")});
    (404, status.to_string())
}

fn packed(json: &[u8]) -> String {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(json).unwrap();
    STANDARD.encode(STANDARD.encode(encoder.finish().unwrap()))
}

/// A revision as Helm stores it, written this many minutes ago.
pub fn revision(namespace: &str, release: &str, revision: u32, status: &str, minutes: i64) -> Value {
    made(namespace, release, revision, status, minutes, "")
}

/// A revision with the objects of this manifest.
fn made(namespace: &str, release: &str, revision: u32, status: &str, minutes: i64, manifest: &str) -> Value {
    let stored = json!({"name": release, "namespace": namespace, "version": revision, "info": {"status": status}, "manifest": manifest});
    json!({
        "kind": "Secret", "apiVersion": "v1", "type": "helm.sh/release.v1",
        "metadata": {
            "name": format!("sh.helm.release.v1.{release}.v{revision}"), "namespace": namespace, "resourceVersion": "1",
            "creationTimestamp": minutes_ago(minutes),
            "labels": {"owner": "helm", "name": release, "version": revision.to_string(), "status": status},
        },
        "data": {"release": packed(stored.to_string().as_bytes())},
    })
}

/// Its own small tree: the layers `10-base` (release `web` in `shop`) and `20-top`.
pub struct Bench {
    folder: tempfile::TempDir,
    pub server: Server,
}

const RENDERED: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: own}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: keys, namespace: shop}\n";

impl Bench {
    pub fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap(), server: Server::start() };
        let address = &bench.server.address;
        for layer in ["10-base", "20-top"] {
            bench.write(&format!("infra/kubernetes/helmfiles/{layer}.yaml"), "releases: []\n");
        }
        bench.write(
            "infra/kubernetes/layers.yaml",
            "criticalPath: [10-base]\npreflight: {service: 1}\nlayers: {20-top: {layers: [10-base]}}\n",
        );
        bench.write(
            "infra/kubernetes/environments/t/env.yaml",
            &format!("cluster: {{context: t}}\nregistry: {{push: '{address}', pull: '{address}', plainHTTP: true}}\n"),
        );
        bench.write("infra/images/images.yaml", "images: []\n");
        bench.write(
            "infra/images/places.yaml",
            &std::fs::read_to_string(root().join("infra/images/places.yaml")).unwrap(),
        );
        bench.write("infra/images/images.lock", "version: 1\nplatforms: [linux/amd64]\nimages: []\n");
        let (shell, infra) = (shell(), bench.path("infra"));
        cmd!(shell, "cp -a infra/tools {infra}").quiet().run().unwrap();
        bench.write(
            "kubeconfig",
            &format!("apiVersion: v1\nkind: Config\ncurrent-context: t\nclusters: [{{name: t, cluster: {{server: 'http://{address}'}}}}]\ncontexts: [{{name: t, context: {{cluster: t, user: t}}}}]\nusers: [{{name: t, user: {{}}}}]\n"),
        );
        bench.lists("10-base", &json!([release("web", true, true)]));
        bench.lists("20-top", &json!([release("top", true, true)]));
        bench.write("answers/template", RENDERED);
        bench.write(
            "answers/build",
            "helmDefaults: {timeout: 900}\nreleases: [{name: web, namespace: shop}, {name: top, namespace: shop}]\n",
        );
        bench.stand_in("helm", "case \"$*\" in version*) echo v4.3.1 ;; esac");
        let (host, port) = address.split_once(':').unwrap();
        let request = r#"printf "POST /sync HTTP/1.1\r\nHost: x\r\nContent-Length: $(wc -c <"$0")\r\nConnection: close\r\n\r\n" >&3; cat "$0" >&3; head -1 <&3 >/dev/null"#;
        // While there is a file `idle`, it makes no revision.
        let sync = format!(
            "[ -f {0}/idle ] || bash -c 'exec 3<>/dev/tcp/{host}/{port}; {request}' {0}/answers/$layer",
            bench.folder.path().display()
        );
        bench.stand_in("helmfile", &format!(
            "case \"$*\" in version*) echo v1.8.0; exit ;; esac\nlayer=$(basename \"$2\" .yaml)\necho \"$layer $*\" >> {0}/said\nfor word in \"$@\"; do\n  if [ \"$before\" = --output-dir ]; then mkdir -p \"$word/shop/top\" && cp {0}/answers/template \"$word/shop/top/all.yaml\"; fi\n  before=$word\ndone\ncase \"$*\" in\n*' list '*) if [ -f {0}/answers/$layer ]; then cat {0}/answers/$layer; else cat {0}/answers/refusal >&2; exit 3; fi ;;\n*' template '*) cat {0}/answers/template ;;\n*' sync '*) {sync} ;;\n*' build'|*' build '*) cat {0}/answers/build ;;\nesac",
            bench.folder.path().display()
        ));
        bench
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn lists(&self, layer: &str, releases: &Value) {
        self.write(&format!("answers/{layer}"), &releases.to_string());
    }

    fn edit_layers(&self, layers: &str) {
        self.write(
            "infra/kubernetes/layers.yaml",
            &format!("criticalPath: [10-base]\npreflight: {{service: 1}}\n{layers}\n"),
        );
    }

    fn stand_in(&self, name: &str, script: &str) {
        write_program(&self.path("bin").join(name), &format!("#!/bin/sh\n{script}\n"));
    }

    pub fn xtask(&self, arguments: &[&str]) -> Command {
        let mut command = support::xtask(self.folder.path(), &[&["--env", "t"], arguments].concat());
        command.env_clear().env("NO_COLOR", "1").env("HOME", self.folder.path());
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        command.env("KUBECONFIG", self.path("kubeconfig")).env("AMEIDE_STATE_DIR", self.path("state"));
        command.env("AMEIDE_CACHE_DIR", self.path("cache"));
        command
    }

    /// Runs it and expects this exit code; returns what it printed.
    #[track_caller]
    pub fn ends(&self, arguments: &[&str], exit: i32) -> String {
        ends(self.xtask(arguments), exit)
    }

    /// The command lines that Helmfile got.
    fn said(&self) -> String {
        std::fs::read_to_string(self.path("said")).unwrap_or_default()
    }

    /// As far as the cluster is concerned, the layer `20-top` can now be deployed.
    pub fn base_in_place(&self) {
        self.server.put(revision("shop", "web", 1, "deployed", 60));
    }
}

fn release(name: &str, enabled: bool, installed: bool) -> Value {
    json!({"name": name, "namespace": "shop", "enabled": enabled, "installed": installed, "labels": "", "chart": "c", "version": ""})
}

const LAYER: &[&str] = &["layer", "20", "--skip-tests"];
const FORCED: &[&str] = &["layer", "20", "--skip-tests", "--force"];

#[test]
fn others_releases_are_read_by_their_labels_alone() {
    let bench = Bench::new();
    for number in 0..1000 {
        for version in 1..=3 {
            let status = if version == 3 { "deployed" } else { "superseded" };
            bench.server.put(revision("others", &format!("r{number}"), version, status, 60));
        }
    }
    // As Helm leaves it when interrupted at a bad moment.
    let mut pending = revision("others", "torn", 1, "pending-upgrade", 60);
    pending["metadata"]["labels"]["status"] = "failed".into();
    bench.server.put(pending);
    let said = bench.ends(&["releases", "--output", "json"], 0);
    let rows: Value = serde_json::from_str(said.lines().find(|line| line.starts_with('[')).unwrap()).unwrap();
    assert_eq!(
        (rows.as_array().unwrap().len(), &rows[0]["release"]["status"]),
        (1, &json!("pending-upgrade")),
        "{said}"
    );
    assert_eq!(bench.server.asked(&["/secrets", "metadata"]), 1);
    assert_eq!(bench.server.asked(&["/secrets", "whole"]), 1, "only the one whose label may be wrong is opened");
}

#[test]
fn every_release_that_is_not_deployed_is_told_in_words() {
    let bench = Bench::new();
    for (name, status) in
        [("a", "failed"), ("b", "unknown"), ("c", "uninstalled"), ("d", "superseded"), ("e", "deployed")]
    {
        bench.server.put(revision("shop", name, 1, status, 60));
    }
    let said = bench.ends(&["releases"], 0);
    for line in [
        "shop/a revision 1 failed, for 60m00s",
        "shop/b revision 1 has the status unknown",
        "shop/c revision 1 is uninstalled",
        "shop/d revision 1 is superseded",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(!said.contains("every release is deployed") && !said.contains("shop/e") && !said.contains('{'), "{said}");
}

#[test]
fn a_run_on_another_cluster_than_the_environments_tells_commands_for_that_cluster() {
    let bench = Bench::new();
    support::edit(&bench.path("infra/kubernetes/environments/t/env.yaml"), |text| {
        text.replace("context: t", "context: own")
    });
    let run = |arguments: &[&str], exit| bench.ends(&[&["--context", "t"], arguments].concat(), exit);
    bench.edit_layers("layers: {20-top: {layers: [10-base], secrets: [{namespace: shop, name: absent, keys: [a]}]}}");
    for output in ["text", "json"] {
        let said = run(&[&["--output", output], LAYER].concat(), 8);
        for told in ["cargo xtask --context t --env t layer 10-base", "cargo xtask --context t --env t layer --list"] {
            assert!(said.contains(told), "the remedy, and that of the failure in its evidence: {said}");
        }
    }
    let mut failed = revision("shop", "web", 1, "failed", 60);
    failed["metadata"]["labels"]["layer"] = "10-base".into();
    bench.server.put(failed);
    let said = run(&["releases"], 0);
    assert!(said.contains("upgrades it: cargo xtask --context t --env t layer 10-base"), "{said}");
}

#[test]
fn a_payload_that_inflates_without_end_is_its_releases_trouble_alone() {
    let bench = Bench::new();
    let mut bomb = revision("shop", "bomb", 1, "failed", 60);
    bomb["data"]["release"] = packed(&vec![b' '; 80 << 20]).into();
    bench.server.put(bomb);
    bench.server.put(revision("shop", "torn", 1, "failed", 60));
    let said = bench.ends(&["releases"], 0);
    assert!(said.contains("shop/bomb revision 1 failed") && said.contains("64 MiB"), "{said}");
    assert!(said.contains("shop/torn revision 1 failed"), "{said}");
}

#[test]
fn a_storage_that_is_not_read_is_refused_before_anything() {
    let bench = Bench::new();
    for arguments in [LAYER, &["releases"], &["releases", "repair"]] {
        let mut command = bench.xtask(arguments);
        command.env("HELM_DRIVER", "configmap");
        let said = ends(command, 2);
        assert!(said.contains("HELM_DRIVER=configmap"), "{said}");
    }
    assert!(!bench.said().contains("sync"));
}

#[test]
fn an_unknown_owners_helm_is_given_its_own_timeout_from_its_last_write() {
    let bench = Bench::new();
    let mut live = revision("shop", "web", 2, "pending-upgrade", 15);
    live["metadata"]["labels"]["layer"] = "10-base".into();
    bench.server.put(live.clone());
    let said = bench.ends(&["releases", "repair", "--yes"], 7);
    assert!(said.contains("release-owned") && said.contains("60 s"), "its timeout is 900 s: {said}");

    // Old, but a hook was recorded a moment ago.
    live["metadata"]["creationTimestamp"] = minutes_ago(60).into();
    live["metadata"]["managedFields"] = json!([{"manager": "helm", "operation": "Update", "time": minutes_ago(1)}]);
    bench.server.put(live.clone());
    bench.ends(&["releases", "repair", "--yes"], 7);

    // Somebody else's, of no layer: its timeout is unknown.
    live["metadata"]["managedFields"] = json!([]);
    live["metadata"]["labels"]["layer"] = "".into();
    bench.lists("10-base", &json!([]));
    live["metadata"]["creationTimestamp"] = minutes_ago(17).into();
    bench.server.put(live.clone());
    bench.ends(&["releases", "repair", "--yes"], 7);
    assert_eq!(bench.server.label("shop", "web", 2), "pending-upgrade");
    assert_eq!(bench.server.asked(&["PUT", "/secrets/"]), 0);

    // A person overrides this.
    bench.ends(&["releases", "repair", "--yes", "--older-than", "10m"], 0);
    assert_eq!(bench.server.label("shop", "web", 2), "failed");

    // A layer's release again, and its timeout has passed.
    live["metadata"]["labels"]["layer"] = "10-base".into();
    bench.server.put(live);
    bench.ends(&["releases", "repair", "--yes"], 0);
    assert_eq!(bench.server.label("shop", "web", 2), "failed");
}

#[test]
fn whoever_holds_the_lease_is_at_work() {
    let bench = Bench::new();
    bench.server.put(revision("shop", "web", 2, "pending-upgrade", 600));
    let lease = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": "ameide-deploy", "namespace": "kube-system", "resourceVersion": "1"},
        "spec": {"holderIdentity": "elsewhere#run", "leaseDurationSeconds": 15, "renewTime": "2026-11-25T11:59:58.000000Z"}});
    bench.server.answer(
        "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/ameide-deploy",
        200,
        lease.to_string(),
    );
    let said = bench.ends(&["releases"], 0);
    assert!(said.contains("elsewhere#run is working on it"), "{said}");
    let said = bench.ends(&["releases", "repair", "--dry-run", "--yes", "--older-than", "0s"], 0);
    assert!(said.contains("elsewhere#run is working on it") && !said.contains("mark revision"), "{said}");
}

#[test]
fn one_release_that_cannot_be_repaired_keeps_no_other_from_it() {
    let bench = Bench::new();
    bench.server.put(revision("shop", "a-half", 1, "uninstalling", 600));
    let mut broken = revision("shop", "b-broken", 1, "pending-install", 600);
    broken["data"]["release"] = STANDARD.encode("nothing of Helm's").into();
    bench.server.put(broken);
    bench.server.put(revision("shop", "c-orphan", 3, "pending-upgrade", 600));
    bench.server.put(revision("shop", "d-odd", 1, "unknown", 1));
    let said = bench.ends(&["releases", "repair", "--yes", "--older-than", "5m"], 7);
    assert_eq!(bench.server.label("shop", "c-orphan", 3), "failed", "{said}");
    assert_eq!(bench.server.label("shop", "d-odd", 1), "failed", "{said}");
    assert!(said.contains("2 repaired") && said.contains("--uninstall shop/a-half"), "{said}");
    let removal = "kubectl --context t -n shop delete secret sh.helm.release.v1.b-broken.v1";
    assert!(said.contains(removal), "{said}");
}

#[test]
fn a_selector_that_matches_nothing_is_a_mistake_and_over_a_range_skips() {
    let bench = Bench::new();
    std::fs::remove_file(bench.path("answers/20-top")).unwrap();
    bench.write(
        "answers/refusal",
        "err: no releases found that matches specified selector(x=y) and environment(t), in any helmfile\n",
    );
    let said = bench.ends(&["layer", "20", "--skip-tests", "-l", "x=y"], 2);
    assert!(said.contains("usage") && said.contains("x=y") && said.contains("20-top"), "{said}");
    let mut range = bench.xtask(&["layer", "10-20", "--skip-tests"]);
    range.env("HELM_LAYER_SELECTOR", "x=y");
    let said = ends(range, 0);
    assert!(said.contains("20-top") && said.contains("skipped"), "{said}");
    let synced: Vec<String> = bench.said().lines().filter(|line| line.contains(" sync ")).map(str::to_owned).collect();
    assert!(synced.len() == 1 && synced[0].starts_with("10-base"), "{synced:?}");
    bench.write("answers/refusal", "in ./20-top.yaml: malformed label: nonsense. Expected label in form k=v or k!=v\n");
    let said = bench.ends(&["layer", "20", "--skip-tests", "-l", "nonsense"], 2);
    assert!(said.contains("usage") && said.contains("malformed label"), "{said}");
}

#[test]
fn what_is_not_to_be_there_is_neither_tested_nor_counted() {
    let bench = Bench::new();
    bench.base_in_place();
    bench.lists(
        "20-top",
        &json!([release("top", true, true), release("off", false, true), release("gone", true, false)]),
    );
    bench.stand_in(
        "helm",
        &format!(
            "case \"$*\" in version*) echo v4.3.1 ;; *) echo \"$*\" >> {}/tested ;; esac",
            bench.folder.path().display()
        ),
    );
    let said = bench.ends(&["layer", "20"], 0);
    assert!(said.contains("in place: 1 release"), "{said}");
    let tested = std::fs::read_to_string(bench.path("tested")).unwrap();
    assert!(tested.contains("test top") && tested.lines().count() == 1, "{tested}");
}

#[test]
fn a_sync_that_makes_no_revision_of_a_release_is_no_success() {
    for deployed in [false, true] {
        let bench = Bench::new();
        bench.base_in_place();
        if deployed {
            let mut secret = revision("shop", "top", 1, "deployed", 60);
            secret["metadata"]["uid"] = "u1".into();
            bench.server.put(secret);
        }
        bench.write("idle", "");
        let said = bench.ends(LAYER, 1);
        assert!(said.contains("Helm has made no revision of release top in shop"), "{said}");
        assert!(said.contains("layer 20-top --force") && !said.contains("in place"), "{said}");
        std::fs::remove_file(bench.path("idle")).unwrap();
        bench.ends(LAYER, 0);
    }
}

#[test]
fn a_release_that_the_tree_gives_up_is_uninstalled_with_consent_only() {
    let bench = Bench::new();
    bench.base_in_place();
    bench.lists("20-top", &json!([release("top", true, true), release("gone", true, false)]));
    bench.server.put(revision("shop", "gone", 1, "deployed", 600));
    let said = bench.ends(&["layer", "20", "--skip-tests", "--yes"], 10);
    assert!(said.contains("consent-needed") && said.contains("uninstall release shop/gone"), "{said}");
    assert!(!bench.said().contains(" sync"));
    bench.ends(&["layer", "20", "--skip-tests", "--allow-destroy=release"], 0);
    assert!(bench.said().contains(" sync"));

    // Helmfile would not keep what holds data.
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\n";
    bench.server.put(made("shop", "gone", 1, "deployed", 600, claim));
    let said = bench.ends(&["layer", "20", "--skip-tests", "--allow-destroy=release"], 10);
    assert!(said.contains("deletes PersistentVolumeClaim data") && said.contains("=release,claim "), "{said}");
    bench.ends(&["layer", "20", "--skip-tests", "--allow-destroy=release,claim"], 0);
}

#[test]
fn who_may_not_list_the_whole_cluster_is_shown_the_releases_of_the_trees_namespaces() {
    let bench = Bench::new();
    bench.edit_layers("layers: {20-top: {namespaces: [shop], layers: [10-base]}}");
    bench.server.put(revision("shop", "web", 1, "failed", 60));
    bench.server.put(revision("elsewhere", "theirs", 1, "failed", 60));
    let refused = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
        "message": "secrets is forbidden: User \"deployer\" cannot list resource \"secrets\" in API group \"\" at the cluster scope",
    });
    bench.server.answer("/api/v1/secrets", 403, refused.to_string());
    let said = bench.ends(&["releases"], 0);
    assert!(said.contains("shop/web revision 1 failed") && !said.contains("theirs"), "{said}");
    assert!(said.contains("searched in shop only"), "{said}");
}

#[test]
fn an_upgrade_that_deletes_what_holds_data_wants_consent_and_one_that_keeps_it_does_not() {
    let claim = |name: &str| format!("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\n");
    let bench = Bench::new();
    bench.base_in_place();
    let deployed = |manifest: &str| bench.server.put(made("shop", "top", 1, "deployed", 60, manifest));
    bench.write("idle", "");
    bench.write("answers/template", &claim("data"));
    deployed(&claim("data"));
    bench.ends(&["layer", "20", "--skip-tests", "--yes"], 0);

    bench.write("answers/template", &claim("renamed"));
    std::fs::remove_file(bench.path("said")).unwrap();
    let said = bench.ends(&["layer", "20", "--skip-tests", "--yes"], 10);
    assert!(said.contains("upgrade release top, which deletes PersistentVolumeClaim data"), "{said}");
    assert!(!bench.said().contains(" sync"), "{said}");
    bench.ends(&["layer", "20", "--skip-tests", "--allow-destroy=release"], 10);
    bench.ends(&["layer", "20", "--skip-tests", "--allow-destroy=release,claim"], 0);

    // A rendering does not ask the cluster which kinds it has: that alone may be why a custom
    // resource is missing.
    deployed("apiVersion: monitoring.coreos.com/v1\nkind: ServiceMonitor\nmetadata: {name: top}\n");
    let said = bench.ends(&["layer", "20", "--skip-tests", "--yes"], 0);
    assert!(said.contains("its rendering does not have ServiceMonitor top"), "{said}");
}

#[test]
fn what_another_release_of_the_layer_takes_over_is_deleted_all_the_same() {
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\n";
    let bench = Bench::new();
    bench.base_in_place();
    bench.lists("20-top", &json!([release("top", true, true), release("other", true, true)]));
    bench.write("answers/template", claim);
    bench.server.put(made("shop", "top", 1, "deployed", 60, claim));
    bench.server.put(revision("shop", "other", 1, "deployed", 60));
    bench.write("idle", "");
    bench.ends(&["layer", "20", "--skip-tests", "--yes"], 0);
    // The stand-in renders everything as `top`.
    bench.server.put(made("shop", "other", 1, "deployed", 60, claim));
    let said = bench.ends(&["layer", "20", "--skip-tests", "--yes"], 10);
    assert!(said.contains("upgrade release other, which deletes PersistentVolumeClaim data"), "{said}");
}

#[test]
fn a_label_that_helm_has_handed_on_makes_no_dead_owner() {
    let bench = Bench::new();
    let of = |number: u32, status: &str, run: &str| {
        let mut secret = revision("shop", "web", number, status, 1);
        secret["metadata"]["labels"]["run"] = run.into();
        bench.write(&format!("state/t/runs/{run}/record.jsonl"), "");
        bench.server.put(secret);
    };
    let (first, second) = ("20261124-100000-1", "20261125-100000-1");
    of(1, "deployed", first);
    of(2, "pending-upgrade", first);
    let said = bench.ends(&["releases", "repair", "--yes"], 7);
    assert!(said.contains("release-owned") && said.contains("by somebody unknown"), "{said}");
    assert_eq!(bench.server.label("shop", "web", 2), "pending-upgrade");
    of(2, "pending-upgrade", second);
    bench.ends(&["releases", "repair"], 0);
    assert_eq!(bench.server.label("shop", "web", 2), "failed");
}

#[test]
fn an_earlier_layer_is_in_place_by_its_own_releases_alone() {
    let bench = Bench::new();
    let labelled = |mut secret: Value| {
        secret["metadata"]["labels"]["layer"] = "10-base".into();
        secret
    };
    let mut named_otherwise = revision("shop", "web", 1, "deployed", 60);
    named_otherwise["metadata"]["name"] = "anybody".into();
    let mut anothers = revision("shop", "web", 1, "deployed", 60);
    anothers["data"]["release"] = revision("shop", "other", 1, "deployed", 60)["data"]["release"].clone();
    let mut empty = revision("shop", "web", 1, "deployed", 60);
    empty["data"]["release"] = "".into();
    for (what, secret) in [
        ("another namespace", revision("anywhere", "web", 1, "deployed", 60)),
        ("another release", revision("shop", "webs", 1, "deployed", 60)),
        ("no name of Helm's", named_otherwise),
        ("another release's content", anothers),
        ("no content", empty),
        ("a failed install", revision("shop", "web", 1, "failed", 60)),
        ("half uninstalled", revision("shop", "web", 1, "uninstalling", 60)),
    ] {
        bench.server.world.lock().unwrap().secrets.clear();
        bench.server.put(labelled(secret));
        let said = bench.ends(LAYER, 8);
        assert!(said.contains("layer-missing") && said.contains("shop/web"), "{what}: {said}");
    }
    // As plain Helm leaves it, without a label of ours; then with a later upgrade that failed.
    bench.server.put(revision("shop", "web", 1, "deployed", 60));
    bench.ends(LAYER, 0);
    bench.server.put(revision("shop", "web", 2, "failed", 60));
    bench.ends(FORCED, 0);
}

const PROXY: &str = "/api/v1/namespaces/shop/services";

fn needs_service(bench: &Bench, name: &str) {
    let needs = format!(
        "criticalPath: [10-base]\npreflight: {{service: 1}}\nlayers: {{20-top: {{services: [{{namespace: shop, name: {name}, port: 80}}], secrets: [{{namespace: shop, name: keys, keys: [a]}}]}}}}\n"
    );
    bench.write("infra/kubernetes/layers.yaml", &needs);
}

#[test]
fn what_the_layer_installs_itself_is_no_reason_not_to_install_it() {
    let bench = Bench::new();
    needs_service(&bench, "own");
    let nobody = json!({"kind": "Status", "apiVersion": "v1", "message": "no endpoints available for service \"own\"", "reason": "ServiceUnavailable", "code": 503});
    bench.server.answer(&format!("{PROXY}/own:80/proxy/"), 503, nobody.to_string());
    let said = bench.ends(LAYER, 0);
    assert!(said.contains("no endpoints available") && said.contains("this layer installs it"), "{said}");
    assert!(bench.said().contains(" sync"));
    // The same for a service that somebody else deploys ends the run.
    needs_service(&bench, "theirs");
    bench.server.answer(&format!("{PROXY}/theirs:80/proxy/"), 503, nobody.to_string());
    let said = bench.ends(LAYER, 8);
    assert!(said.contains("dependency-unreachable"), "{said}");
}

#[test]
fn a_refusal_of_the_api_server_is_no_answer_of_a_service() {
    let bench = Bench::new();
    needs_service(&bench, "theirs");
    let path = format!("{PROXY}/theirs:80/proxy/");
    let status = |code: u16, message: &str| {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}).to_string()
    };
    for code in [401, 403, 500] {
        bench.server.answer(
            &path,
            code,
            status(code, "services \"theirs:80\" is forbidden: User \"dev\" cannot get resource \"services/proxy\""),
        );
        let output = bench.xtask(LAYER).output().unwrap();
        assert!(!output.status.success(), "{code}");
    }
    // The endpoint's own error pages, and those from outside the cluster.
    for code in [401, 403, 500, 503] {
        bench.server.answer(&path, code, "<html>no</html>");
        bench.ends(FORCED, 0);
    }
    bench.server.answer(&path, 503, status(503, "no endpoints available for service \"theirs\""));
    let service = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "theirs"}, "spec": {"type": "ExternalName", "externalName": "db.example"}});
    bench.server.answer(&format!("{PROXY}/theirs"), 200, service.to_string());
    let said = bench.ends(FORCED, 0);
    assert!(said.contains("db.example"), "{said}");
}

#[test]
fn forcing_conflicts_is_passed_on_to_helm() {
    let bench = Bench::new();
    bench.base_in_place();
    bench.ends(LAYER, 0);
    assert!(!bench.said().contains("force"));
    bench.ends(&["layer", "20", "--skip-tests", "--force", "--force-conflicts"], 0);
    assert!(bench.said().lines().any(|line| line.contains(" sync ") && line.contains("--sync-args=--force-conflicts")));
}
