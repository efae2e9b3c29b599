//! What a Node says of itself, and which nodes a volume can be used on.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, NodeCondition, PersistentVolume};
use kube::Client;
use kube::api::{Api, ListParams};

use super::read_failed;
use run_record::Failure;

/// Every node of the cluster.
///
/// # Errors
/// Errors from reading: `forbidden` and similar.
pub(crate) async fn all(client: &Client) -> Result<Vec<Node>, Failure> {
    let listed = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
    Ok(listed.map_err(|error| read_failed("the nodes", error))?.items)
}

/// A condition of this type, which a kubelet that has not reported yet has not set.
fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == kind)
}

/// Its condition `Ready`.
pub(crate) fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    condition(node, "Ready")
}

/// Whether its condition of this type is true.
pub(crate) fn is(node: &Node, kind: &str) -> bool {
    condition(node, kind).is_some_and(|condition| condition.status == "True")
}

pub(crate) fn is_ready(node: &Node) -> bool {
    is(node, "Ready")
}

/// The nodes that a volume can be used on, where it names them. Empty is any node.
pub(crate) fn of_volume(volume: &PersistentVolume) -> BTreeSet<&String> {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    let terms = affinity.iter().flat_map(|required| &required.node_selector_terms);
    let labels = terms.clone().flat_map(|term| term.match_expressions.iter().flatten());
    let fields = terms.flat_map(|term| term.match_fields.iter().flatten());
    let named = labels.filter(|one| one.key == "kubernetes.io/hostname" && one.operator == "In");
    let named = named.chain(fields.filter(|one| one.key == "metadata.name" && one.operator == "In"));
    named.flat_map(|one| one.values.iter().flatten()).collect()
}
