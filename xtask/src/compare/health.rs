//! Whether an object runs as intended, by its status.

use serde_json::Value;

use super::live::Seen;
use crate::run::foreign;
use crate::world::kubernetes::place::Place;

/// What in an object does not run as intended, in words; `None` if it does, or if its kind is not
/// known to run anything.
pub(super) fn ailing(place: &Place, seen: &Seen) -> Option<String> {
    let whole = seen.whole.as_ref()?;
    let number = |pointer: &str| whole.pointer(pointer).and_then(Value::as_i64);
    let text = |pointer: &str| whole.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let conditions = || whole.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let condition =
        |kind: &str| conditions().any(|condition| condition["type"] == kind && condition["status"] == "True");
    let behind = || {
        let observed = number("/status/observedGeneration").unwrap_or_default();
        (observed < number("/metadata/generation").unwrap_or_default())
            .then(|| "its newest change has not been observed yet".to_owned())
    };
    let of = |have: Option<i64>, want: i64, what: &str| {
        let have = have.unwrap_or_default();
        (have < want).then(|| format!("{have} of {want} pods {what}"))
    };
    let wanted = number("/spec/replicas").unwrap_or(1);
    let surplus = || {
        let pods = number("/status/replicas").unwrap_or_default();
        (pods > wanted).then(|| format!("{pods} pods exist, {wanted} wanted"))
    };
    let why = match place.kind.as_str() {
        // As Helm waits for it, by the conventions of kstatus: what has no such condition is ready.
        _ if place.is_custom() => {
            let behind = number("/status/observedGeneration").and_then(|_| behind());
            let stands = |condition: &&Value| match condition["type"].as_str() {
                Some("Ready") => condition["status"] != "True",
                Some("Stalled" | "Reconciling") => condition["status"] == "True",
                _ => false,
            };
            let word = |value: &Value| foreign::line(value.as_str().unwrap_or_default());
            let in_words = |condition: &Value| {
                let message = word(&condition["message"]);
                let more = if message.is_empty() { String::new() } else { format!(" ({message})") };
                format!("{} is {}{more}", word(&condition["type"]), word(&condition["status"]))
            };
            behind.or_else(|| conditions().find(stands).map(in_words))
        }
        "Deployment" => behind()
            .or_else(|| of(number("/status/updatedReplicas"), wanted, "are of its newest version"))
            .or_else(|| of(number("/status/readyReplicas"), wanted, "are ready"))
            .or_else(|| of(number("/status/availableReplicas"), wanted, "are available"))
            .or_else(surplus),
        "StatefulSet" => {
            let by_itself = text("/spec/updateStrategy/type") != "OnDelete";
            let kept = number("/spec/updateStrategy/rollingUpdate/partition").unwrap_or_default();
            let updated = if by_itself { (wanted - kept).max(0) } else { 0 };
            let revision = text("/status/updateRevision");
            let there = if by_itself && kept == 0 && text("/status/currentRevision") == revision {
                number("/status/replicas")
            } else {
                number("/status/updatedReplicas")
            };
            behind()
                .or_else(|| of(there, updated, "are of its newest version"))
                .or_else(|| of(number("/status/readyReplicas"), wanted, "are ready"))
                .or_else(surplus)
        }
        "ReplicaSet" => behind().or_else(|| of(number("/status/readyReplicas"), wanted, "are ready")),
        "DaemonSet" => {
            let wanted = number("/status/desiredNumberScheduled").unwrap_or_default();
            let by_itself = text("/spec/updateStrategy/type") != "OnDelete";
            let updated = if by_itself { wanted } else { 0 };
            behind()
                .or_else(|| of(number("/status/updatedNumberScheduled"), updated, "are of its newest version"))
                .or_else(|| of(number("/status/numberReady"), wanted, "are ready"))
        }
        "Job" if condition("Failed") => Some("it failed".to_owned()),
        "Job" => (!condition("Complete")).then(|| "it has not completed".to_owned()),
        "PersistentVolumeClaim" => {
            let phase = text("/status/phase");
            (phase != "Bound").then(|| format!("it is {}", if phase.is_empty() { "in no phase" } else { phase }))
        }
        "Pod" => {
            let phase = text("/status/phase");
            (phase != "Succeeded" && !(phase == "Running" && condition("Ready"))).then(|| "it is not ready".to_owned())
        }
        "CustomResourceDefinition" => (!condition("Established")).then(|| "it is not established".to_owned()),
        "APIService" => (!condition("Available")).then(|| "it is not available".to_owned()),
        _ => None,
    };
    why.map(|why| format!("{place}: {why}"))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::json;

    use super::*;
    use crate::compare::live::runs;

    fn place(kind: &str) -> Place {
        let api_version = match kind {
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" => "apps/v1",
            "Job" => "batch/v1",
            "Cluster" => "postgresql.cnpg.io/v1",
            "Job.batch.volcano.sh" => "batch.volcano.sh/v1",
            "CustomResourceDefinition" => "apiextensions.k8s.io/v1",
            "NetworkPolicy" => "networking.k8s.io/v1",
            _ => "v1",
        };
        Place {
            api_version: api_version.into(),
            kind: kind.split('.').next().unwrap().into(),
            plural: format!("{}s", kind.to_ascii_lowercase()),
            namespace: Some("ameide".into()),
            name: "web".into(),
        }
    }

    #[test]
    fn what_does_not_run_is_told_by_kind() {
        let meta = json!({"generation": 2});
        for (kind, spec, status, why) in [
            (
                "Deployment",
                json!({"replicas": 2}),
                json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}),
                None,
            ),
            ("Deployment", json!({"replicas": 0}), json!({"observedGeneration": 2}), None),
            ("Deployment", json!({"replicas": 0}), json!({"observedGeneration": 1}), Some("has not been observed")),
            ("Deployment", json!({}), json!({"observedGeneration": 2}), Some("0 of 1 pods are of its newest version")),
            (
                "Deployment",
                json!({"replicas": 2}),
                json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 1}),
                Some("1 of 2 pods are ready"),
            ),
            (
                "Deployment",
                json!({"replicas": 1}),
                json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}),
                Some("2 pods exist, 1 wanted"),
            ),
            (
                "StatefulSet",
                json!({"replicas": 1}),
                json!({"observedGeneration": 2, "replicas": 1, "readyReplicas": 1, "currentRevision": "a", "updateRevision": "a"}),
                None,
            ),
            (
                "StatefulSet",
                json!({"replicas": 1}),
                json!({"observedGeneration": 2, "replicas": 1, "readyReplicas": 1, "currentRevision": "a", "updateRevision": "b"}),
                Some("0 of 1 pods are of its newest version"),
            ),
            (
                "StatefulSet",
                json!({"replicas": 2}),
                json!({"observedGeneration": 2, "replicas": 2, "readyReplicas": 1, "currentRevision": "a", "updateRevision": "a"}),
                Some("1 of 2 pods are ready"),
            ),
            (
                "StatefulSet",
                json!({"replicas": 1}),
                json!({"observedGeneration": 2, "replicas": 2, "readyReplicas": 2, "currentRevision": "a", "updateRevision": "a"}),
                Some("2 pods exist, 1 wanted"),
            ),
            (
                "StatefulSet",
                json!({"replicas": 1, "updateStrategy": {"type": "OnDelete"}}),
                json!({"observedGeneration": 2, "replicas": 1, "readyReplicas": 1, "currentRevision": "a", "updateRevision": "b"}),
                None,
            ),
            (
                "DaemonSet",
                json!({}),
                json!({"observedGeneration": 2, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberReady": 1}),
                Some("1 of 2 pods are ready"),
            ),
            ("Job", json!({}), json!({"conditions": [{"type": "Complete", "status": "True"}]}), None),
            ("Job", json!({}), json!({"conditions": [{"type": "Failed", "status": "True"}]}), Some("it failed")),
            ("Job", json!({}), json!({"active": 1}), Some("has not completed")),
            ("Cluster", json!({}), json!({"conditions": [{"type": "Ready", "status": "True"}]}), None),
            (
                "Cluster",
                json!({}),
                json!({"phase": "x", "conditions": [{"type": "Archiving", "status": "False"}]}),
                None,
            ),
            ("Cluster", json!({}), json!({}), None),
            ("Cluster", json!({}), json!({"observedGeneration": 1}), Some("has not been observed")),
            (
                "Cluster",
                json!({}),
                json!({"conditions": [{"type": "Ready", "status": "False", "message": "no\nprimary"}]}),
                Some("Ready is False (no primary)"),
            ),
            (
                "Cluster",
                json!({}),
                json!({"conditions": [{"type": "Stalled", "status": "True"}]}),
                Some("Stalled is True"),
            ),
            (
                "CustomResourceDefinition",
                json!({}),
                json!({"conditions": [{"type": "Established", "status": "False"}]}),
                Some("it is not established"),
            ),
            ("NetworkPolicy", json!({}), json!({"conditions": [{"type": "Ready", "status": "False"}]}), None),
            // Of another group than Kubernetes' own, which has other conditions.
            ("Job.batch.volcano.sh", json!({}), json!({"state": {"phase": "Running"}}), None),
            ("PersistentVolumeClaim", json!({}), json!({"phase": "Bound"}), None),
            ("PersistentVolumeClaim", json!({}), json!({"phase": "Lost"}), Some("it is Lost")),
            ("Pod", json!({}), json!({"phase": "Succeeded"}), None),
            (
                "Pod",
                json!({}),
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}),
                Some("not ready"),
            ),
        ] {
            assert_eq!(runs(&place(kind)), kind != "NetworkPolicy", "{kind}");
            let whole = Some(json!({"metadata": meta, "spec": spec, "status": status}));
            let seen = Seen { metadata: ObjectMeta::default(), whole };
            let found = ailing(&place(kind), &seen);
            match why {
                None => assert_eq!(found, None, "{kind} {status}"),
                Some(why) => assert!(found.as_ref().is_some_and(|found| found.contains(why)), "{why}: {found:?}"),
            }
        }
    }
}
