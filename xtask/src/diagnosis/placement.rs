//! Why no node takes a pod, in more detail than the scheduler gives: it counts nodes and names
//! none. A volume on one node's disk ties its pod to that node, even if the node is gone.

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Client;
use kube::api::{Api, ListParams};

use super::looks::within;
use crate::world::kubernetes::{self, nodes};

/// What keeps a node from taking pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    Gone,
    NotReady,
    Cordoned,
}

/// What blocks a pod, as evidence, and what to do about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hindrance {
    pub evidence: Vec<String>,
    pub remedy: Option<String>,
}

/// Looks at the nodes, and at the volumes of a pod that no node takes. What may not be read, or
/// does not answer, adds nothing.
pub(super) async fn of(client: &Client, context: &str, namespace: &str, pod: &str) -> Hindrance {
    match within(Api::<Pod>::namespaced(client.clone(), namespace).get(pod)).await {
        Ok(pod) => of_pod(client, context, namespace, &pod).await,
        Err(_) => Hindrance::default(),
    }
}

/// Like [`of`], for a pod that has been read already.
pub(super) async fn of_pod(client: &Client, context: &str, namespace: &str, pod: &Pod) -> Hindrance {
    let looked = async {
        // A pod that has its node waits for something else.
        if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
            return Ok(Hindrance::default());
        }
        let nodes = within(Api::<Node>::all(client.clone()).list(&ListParams::default())).await?.items;
        let mut volumes = Vec::new();
        for claim in claims(pod) {
            let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
            let bound = within(claims.get_opt(&claim)).await?.and_then(|claim| claim.spec?.volume_name);
            let Some(volume) = bound else { continue };
            if let Some(volume) = within(Api::<PersistentVolume>::all(client.clone()).get_opt(&volume)).await? {
                volumes.push((claim, volume));
            }
        }
        Ok::<Hindrance, String>(judge(context, namespace, &nodes, &volumes))
    };
    looked.await.unwrap_or_default()
}

fn claims(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone())).collect()
}

fn judge(context: &str, namespace: &str, nodes: &[Node], volumes: &[(String, PersistentVolume)]) -> Hindrance {
    let mut found = Hindrance::default();
    let mut worst: Option<(Obstacle, String)> = None;
    for (claim, volume) in volumes {
        let hosts = nodes::of_volume(volume);
        let obstacles: Vec<_> = hosts.iter().map(|host| (obstacle(nodes, host), host)).collect();
        // One node that takes pods is enough.
        if hosts.is_empty() || obstacles.iter().any(|(obstacle, _)| obstacle.is_none()) {
            continue;
        }
        for (obstacle, host) in obstacles {
            let Some(obstacle) = obstacle else { continue };
            let state = match obstacle {
                Obstacle::Gone => "which is gone".to_owned(),
                Obstacle::NotReady => format!("which is not ready{}", why_not_ready(nodes, host)),
                Obstacle::Cordoned => "which is cordoned".to_owned(),
            };
            found.evidence.push(format!("the claim {namespace}/{claim} is bound to the node {host}, {state}"));
            if worst.as_ref().is_none_or(|(known, _)| obstacle < *known) {
                worst = Some((obstacle, (*host).clone()));
            }
        }
    }
    if volumes.is_empty() {
        let out = nodes.iter().filter_map(|node| {
            let name = node.metadata.name.clone()?;
            Some((obstacle(nodes, &name)?, name))
        });
        let out: Vec<(Obstacle, String)> = out.collect();
        for (obstacle, name) in &out {
            let state = if *obstacle == Obstacle::Cordoned { "cordoned" } else { "not ready" };
            found.evidence.push(format!("the node {name} is {state}{}", why_not_ready(nodes, name)));
        }
        // The remedy is only for the case that no other node is left.
        if out.len() == nodes.len() {
            worst = out.into_iter().min();
        }
    }
    let kubectl = kubernetes::kubectl_on(context);
    found.remedy = worst.map(|(obstacle, node)| match obstacle {
        Obstacle::Gone => format!(
            "bring the node {node} back: the data is on its disk; or, giving that up, delete the claim, and run the layer again"
        ),
        Obstacle::NotReady => format!(
            "bring the node {node} back (of a local cluster: cargo xtask cluster); {kubectl} describe node {node}"
        ),
        Obstacle::Cordoned => format!("{kubectl} uncordon {node}"),
    });
    found
}

fn find<'a>(nodes: &'a [Node], host: &str) -> Option<&'a Node> {
    let by_label = |node: &&Node| {
        node.metadata.labels.as_ref().and_then(|all| all.get("kubernetes.io/hostname")).is_some_and(|own| own == host)
    };
    nodes.iter().find(by_label).or_else(|| nodes.iter().find(|node| node.metadata.name.as_deref() == Some(host)))
}

fn obstacle(nodes: &[Node], host: &str) -> Option<Obstacle> {
    let Some(node) = find(nodes, host) else { return Some(Obstacle::Gone) };
    if nodes::ready_condition(node).is_some_and(|ready| ready.status != "True") {
        return Some(Obstacle::NotReady);
    }
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default().then_some(Obstacle::Cordoned)
}

fn why_not_ready(nodes: &[Node], host: &str) -> String {
    let condition = find(nodes, host).and_then(nodes::ready_condition).filter(|ready| ready.status != "True");
    let message = condition.and_then(|ready| ready.message.as_deref()).filter(|message| !message.is_empty());
    message.map_or_else(String::new, |message| format!(" ({message})"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, ready: &str, cordoned: bool) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {"unschedulable": cordoned},
            "status": {"conditions": [{"type": "Ready", "status": ready, "message": "Kubelet stopped posting node status."}]},
        }))
        .unwrap()
    }

    fn volume(hosts: &[&str]) -> (String, PersistentVolume) {
        let expressions = json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": hosts}]);
        let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}});
        let affinity = if hosts.is_empty() { json!(null) } else { affinity };
        ("data".to_owned(), serde_json::from_value(json!({"spec": {"nodeAffinity": affinity}})).unwrap())
    }

    #[test]
    fn a_claim_is_told_with_the_node_that_holds_it() {
        let nodes = [node("a", "True", false), node("b", "Unknown", false), node("c", "True", true)];
        let of = |hosts: &[&str]| judge("ctx", "ns", &nodes, &[volume(hosts)]);
        for (hosts, evidence, remedy) in [
            (
                &["b"][..],
                "the claim ns/data is bound to the node b, which is not ready (Kubelet stopped posting node status.)",
                "bring the node b back (of a local cluster",
            ),
            (&["c"], "the claim ns/data is bound to the node c, which is cordoned", "kubectl --context ctx uncordon c"),
            (
                &["d"],
                "the claim ns/data is bound to the node d, which is gone",
                "bring the node d back: the data is on its disk",
            ),
        ] {
            let found = of(hosts);
            assert_eq!(found.evidence, [evidence]);
            assert!(found.remedy.as_deref().unwrap().starts_with(remedy), "{found:?}");
        }
        // A volume that can be used on a node that takes pods is not the obstacle.
        assert_eq!(of(&["a"]), Hindrance::default());
        assert_eq!(of(&["b", "a"]), Hindrance::default());
        assert_eq!(of(&[]), Hindrance::default());
        assert_eq!(of(&["c", "d"]).evidence.len(), 2);
        assert!(of(&["c", "d"]).remedy.unwrap().starts_with("bring the node d back"), "the worse one");
    }

    #[test]
    fn without_claims_the_nodes_that_take_none_are_named() {
        let nodes = [node("a", "True", false), node("c", "True", true)];
        let found = judge("ctx", "ns", &nodes, &[]);
        assert_eq!((found.evidence, found.remedy), (vec!["the node c is cordoned".to_owned()], None));
        let found = judge("ctx", "ns", &nodes[1..], &[]);
        assert_eq!(found.remedy.as_deref(), Some("kubectl --context ctx uncordon c"));
        assert_eq!(judge("ctx", "ns", &nodes[..1], &[]), Hindrance::default());
    }
}
