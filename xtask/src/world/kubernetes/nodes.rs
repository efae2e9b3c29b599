//! What a Node says of itself, and which nodes a volume can be used on.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, NodeCondition, PersistentVolume};

/// Its condition `Ready`, which a kubelet that has not reported yet has not set.
pub(crate) fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().find(|condition| condition.type_ == "Ready")
}

pub(crate) fn is_ready(node: &Node) -> bool {
    ready_condition(node).is_some_and(|condition| condition.status == "True")
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
