//! Who sets a workload's number of replicas because that is its task, by the name under which the
//! API server records it.

/// The autoscaler that made this entry of `managedFields`, or holds this field of a conflict: it
/// writes through the subresource `scale`, under a known name. Anybody else who does is a person,
/// or a person's tool: `kubectl scale` writes there too.
pub(crate) fn named<'a>(manager: Option<&'a str>, subresource: Option<&str>) -> Option<&'a str> {
    manager.filter(|manager| subresource == Some("scale") && scales(manager))
}

/// Kubernetes' own autoscaler is recorded by the name of the program that it runs in: the
/// controller manager, or the one that contains it (k3s; MicroK8s' `kubelite`). Then KEDA's, and
/// any that is identified by its name.
fn scales(manager: &str) -> bool {
    matches!(manager, "kube-controller-manager" | "k3s" | "kubelite")
        || manager.starts_with("keda")
        || manager.contains("autoscaler")
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn an_autoscaler_is_known_by_its_name_and_by_what_it_writes_through() {
        for (manager, subresource, is_one) in [
            (Some("kube-controller-manager"), Some("scale"), true),
            (Some("k3s"), Some("scale"), true),
            (Some("kubelite"), Some("scale"), true),
            (Some("keda-operator"), Some("scale"), true),
            (Some("watermarkpodautoscaler"), Some("scale"), true),
            (Some("kubectl"), Some("scale"), false),
            (Some("kubectl-scale"), Some("scale"), false),
            (Some("node-fetch"), Some("scale"), false),
            (Some("k3s"), None, false),
            (Some("k3s"), Some("status"), false),
            (Some("kubectl-autoscaler"), None, false),
            (None, Some("scale"), false),
        ] {
            assert_eq!(named(manager, subresource).is_some(), is_one, "{manager:?} {subresource:?}");
        }
    }
}
