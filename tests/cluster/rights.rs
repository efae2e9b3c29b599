//! Limited rights: a layer is run with exactly the rights that
//! `infra/kubernetes/access/deployer.yaml` grants, and with each right that this tool itself uses
//! taken away.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::cluster::{Turn, context, kubectl, turn};
use crate::support::{eventually, succeeds, text, tool};

const MANIFEST: &str = "infra/kubernetes/access/deployer.yaml";
const LAYER: &str = "42-db-migrations";

/// The manifest's ServiceAccount, with its own kubeconfig. What was applied is deleted at the end.
struct Deployer {
    tree: Turn,
    kubeconfig: tempfile::NamedTempFile,
}

impl Deployer {
    fn new() -> Self {
        let tree = turn();
        kubectl(&["apply", "-f", tree.path(MANIFEST).to_str().unwrap()]);
        let token = kubectl(&["-n", "ameide", "create", "token", "ameide-deployer", "--duration=1h"]);
        let mut config: Value =
            serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "-o", "json"])).unwrap();
        config["users"][0]["user"] = json!({"token": token.trim()});
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&kubeconfig, &config).unwrap();
        let deployer = Self { tree, kubeconfig };
        deployer.until(&deployer.objects());
        deployer
    }

    /// The roles of the manifest.
    fn objects(&self) -> Vec<Value> {
        let listed = self.tree.path(MANIFEST);
        let listed = kubectl(&["apply", "--dry-run=client", "-o", "json", "-f", listed.to_str().unwrap()]);
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let is_role = |object: &&Value| object["kind"].as_str().unwrap().ends_with("Role");
        listed["items"].as_array().unwrap().iter().filter(is_role).cloned().collect()
    }

    /// Waits until the API server uses these roles, which takes it a moment.
    fn until(&self, roles: &[Value]) {
        for role in roles {
            let namespace = role["metadata"]["namespace"].as_str().unwrap_or("ameide");
            for rule in role["rules"].as_array().unwrap() {
                let (resource, group) =
                    (rule["resources"][0].as_str().unwrap(), rule["apiGroups"][0].as_str().unwrap());
                let verb = rule["verbs"][0].as_str().unwrap();
                let name = rule["resourceNames"][0].as_str();
                eventually("the rights that were given", || self.may(verb, resource, group, name, namespace));
            }
        }
    }

    fn may(&self, verb: &str, resource: &str, group: &str, name: Option<&str>, namespace: &str) -> bool {
        let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": "system:serviceaccount:ameide:ameide-deployer",
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": {
                    "namespace": namespace, "verb": verb, "group": group, "resource": resource,
                    "subresource": sub, "name": name.unwrap_or_default(),
                },
            },
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&file, &review).unwrap();
        kubectl(&["create", "-f", file.path().to_str().unwrap(), "-o", "jsonpath={.status.allowed}"]) == "true"
    }

    /// Removes this verb on this resource.
    fn without(&self, verb: &str, resource: &str) {
        let mut roles = self.objects();
        let mut of = None;
        for role in &mut roles {
            let namespace = role["metadata"]["namespace"].as_str().unwrap_or("ameide").to_owned();
            let mut rules = Vec::new();
            for rule in role["rules"].as_array().unwrap() {
                let (mut alone, mut others) = (rule.clone(), rule.clone());
                others["resources"].as_array_mut().unwrap().retain(|other| other != resource);
                if others != *rule {
                    alone["resources"] = json!([resource]);
                    let verbs = alone["verbs"].as_array_mut().unwrap();
                    if verbs.iter().any(|other| other == verb) {
                        let name = rule["resourceNames"][0].as_str().map(str::to_owned);
                        of = Some((rule["apiGroups"][0].as_str().unwrap().to_owned(), name, namespace.clone()));
                    }
                    verbs.retain(|other| other != verb);
                    rules.push(alone);
                }
                rules.push(others);
            }
            let is_any = |rule: &Value| ["resources", "verbs"].iter().all(|list| rule[*list] != json!([]));
            role["rules"] = rules.into_iter().filter(is_any).collect();
        }
        let (group, name, namespace) = of.unwrap_or_else(|| panic!("{MANIFEST} does not give {verb} {resource}"));
        self.put(&roles);
        eventually("the right to be gone", || !self.may(verb, resource, &group, name.as_deref(), &namespace));
    }

    fn put(&self, roles: &[Value]) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&mut file, &json!({"apiVersion": "v1", "kind": "List", "items": roles})).unwrap();
        kubectl(&["apply", "-f", file.path().to_str().unwrap()]);
    }

    fn layer(&self, arguments: &[&str]) -> Command {
        let mut command = self.tree.xtask(&[&["layer", LAYER], arguments].concat());
        command.env("KUBECONFIG", self.kubeconfig.path());
        command
    }
}

impl Drop for Deployer {
    fn drop(&mut self) {
        let arguments = ["--context", &context(), "delete", "--ignore-not-found", "--wait=false", "-f"];
        let _ = tool("kubectl").args(arguments).arg(self.tree.path(MANIFEST)).output();
    }
}

#[test]
fn a_layer_runs_with_the_rights_that_the_tree_names_and_one_that_lacks_is_named() {
    let deployer = Deployer::new();
    assert!(!deployer.may("list", "secrets", "", None, ""), "nothing of others");
    assert!(!deployer.may("list", "nodes", "", None, ""));
    assert!(!deployer.may("get", "secrets", "", None, "kube-system"));
    let said = succeeds(deployer.layer(&["--force"]));
    assert!(said.contains("in place") && said.contains("not checking the nodes' platforms"), "{said}");
    let said = succeeds(deployer.layer(&[]));
    assert!(said.contains("in place, unchanged"), "{said}");

    // A missing right that is needed before Helm starts ends the run, naming the right.
    for (verb, resource, namespace) in [
        ("get", "leases", "kube-system"),
        ("update", "leases", "kube-system"),
        ("get", "namespaces", "ameide"),
        ("list", "secrets", "ameide"),
        ("get", "secrets", "ameide"),
        ("get", "services/proxy", "ameide"),
    ] {
        deployer.without(verb, resource);
        let output = deployer.layer(&["--force", "--skip-tests"]).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(8), "{verb} {resource}\n{said}");
        let sentence = format!("❌ forbidden: not allowed to {verb} {resource} in the namespace {namespace}");
        assert!(said.contains(&sentence), "{sentence}\n{said}");
        assert!(said.contains(MANIFEST), "the remedy names what suffices: {said}");
        deployer.put(&deployer.objects());
        deployer.until(&deployer.objects());
    }
    // A missing right for watching does not end the run, which may say so.
    for (verb, resource) in [("list", "events"), ("watch", "events")] {
        deployer.without(verb, resource);
        succeeds(deployer.layer(&["--force", "--skip-tests"]));
        deployer.put(&deployer.objects());
        deployer.until(&deployer.objects());
    }
    // What Helm itself may not do is reported in its own words.
    deployer.without("create", "secrets");
    let output = deployer.layer(&["--force", "--skip-tests"]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(8), "{said}");
    for part in ["❌ forbidden", "cannot create resource \"secrets\"", "in the namespace \"ameide\""] {
        assert!(said.contains(part), "{part}\n{said}");
    }
}
