//! The rules for every pod of every layer.

use crate::support::rendered::{Pod, neo4j, pods, render};

fn all() -> Vec<Pod> {
    let mut objects = render("production");
    objects.extend(neo4j());
    pods(&objects)
}

#[test]
fn no_container_writes_its_root_runs_as_root_or_gains_rights() {
    for pod in all() {
        let security = &pod.spec["securityContext"];
        assert_eq!(security["runAsNonRoot"], true, "{}", pod.name);
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{}", pod.name);
        assert_eq!(pod.spec["automountServiceAccountToken"], false, "{}", pod.name);
        for container in pod.containers().chain(pod.init_containers()) {
            let security = &container["securityContext"];
            let name = format!("{} {}", pod.name, container["name"]);
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
        }
    }
}

#[test]
fn whoever_serves_has_every_probe_and_whoever_ends_has_a_bound() {
    let pods = all();
    assert!(pods.iter().filter(|pod| pod.serves).count() >= 5);
    for pod in pods {
        if pod.serves {
            for container in pod.containers() {
                for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                    assert!(container[probe].is_object(), "{} has no {probe}", pod.name);
                }
            }
        } else {
            assert_eq!(pod.spec["restartPolicy"], "Never", "{}", pod.name);
        }
    }
}

/// Users below 10000 may exist on a node: only pods that own data on volumes have one.
#[test]
fn only_who_owns_data_runs_as_a_user_of_its_image() {
    for pod in all() {
        let user = pod.spec["securityContext"]["runAsUser"].as_u64().unwrap();
        let owns = pod.serves && !pod.name.contains("temporal");
        assert_eq!(user < 10_000, owns, "{} runs as {user}", pod.name);
        // The other users are not in any image's passwd: programs that ask for their user need
        // these variables.
        for container in pod.containers().chain(pod.init_containers()).filter(|_| !owns) {
            for name in ["USER", "HOME"] {
                let mut told = container["env"].as_array().unwrap().iter();
                assert!(told.any(|variable| variable["name"] == name), "{} lacks {name}", pod.name);
            }
        }
    }
}

#[test]
fn a_node_can_be_drained_of_what_runs_more_than_once_and_of_what_cannot() {
    for (environment, budgets) in [("production", 1), ("staging", 1), ("ci", 0)] {
        let objects = render(environment);
        let found: Vec<_> = objects.iter().filter(|object| object.kind() == "PodDisruptionBudget").collect();
        assert_eq!(found.len(), budgets, "{environment}");
        for object in objects.iter().filter(|object| matches!(object.kind(), "Deployment" | "StatefulSet")) {
            let replicas = object.value["spec"]["replicas"].as_u64().unwrap();
            let labels = object.pod().unwrap().labels;
            let guarded = found.iter().any(|budget| {
                let selector = crate::support::rendered::labels(&budget.value["spec"]["selector"]["matchLabels"]);
                selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            });
            assert_eq!(guarded, replicas > 1, "{environment}: {}", object.name());
        }
        assert!(found.iter().all(|budget| budget.value["spec"]["maxUnavailable"] == 1));
    }
}
