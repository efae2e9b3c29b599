//! Why nothing answers behind a Service. A Service is only a name: the reason is in its pods, in
//! what creates them, or in the nodes they need.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use kube::api::{Api, ListParams};

use super::looks::{cut, within};
use super::placement::{self, Hindrance};
use super::{pods, sources};
use crate::world::kubernetes::{self, pod_ready};

/// What is wrong with the Service's pods. Empty if nothing is known to be wrong, if one of them is
/// ready, or if they cannot be looked at.
pub(crate) async fn of(client: &Client, context: &str, namespace: &str, service: &str) -> Hindrance {
    look(client, context, namespace, service).await.unwrap_or_default()
}

async fn look(client: &Client, context: &str, namespace: &str, service: &str) -> Result<Hindrance, String> {
    let found = within(Api::<Service>::namespaced(client.clone(), namespace).get_opt(service)).await?;
    let selector = found.and_then(|service| service.spec?.selector).unwrap_or_default();
    if selector.is_empty() {
        return Ok(Hindrance::default());
    }
    let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let labels = labels.join(",");
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let pods = within(pods.list(&ListParams::default().labels(&labels))).await?.items;
    let living = |pod: &&Pod| !matches!(pods::phase(pod), Some("Succeeded" | "Failed"));
    let living: Vec<&Pod> = pods.iter().filter(living).collect();
    if living.iter().any(|pod| pod_ready(pod)) {
        return Ok(Hindrance::default());
    }
    if pods.is_empty() {
        return nothing_runs(client, context, namespace, &selector, &labels).await;
    }
    let mut whole = Hindrance::default();
    // The dead ones say why, where no other one is there.
    let shown = if living.is_empty() { pods.iter().collect() } else { living };
    for pod in shown.into_iter().take(MOST_PODS) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        whole.evidence.extend(against(pod).into_iter().map(|words| cut(&format!("pod/{name}: {words}"))));
        let placed = placement::of_pod(client, context, namespace, pod).await;
        whole
            .evidence
            .extend(placed.evidence.into_iter().filter(|line| !whole.evidence.contains(line)).collect::<Vec<_>>());
        whole.remedy = whole.remedy.or(placed.remedy);
    }
    Ok(whole)
}

/// How many pods are looked at: what holds the others up is mostly the same.
const MOST_PODS: usize = 3;

/// What a pod's state shows to be wrong, with the blocker's code if known.
fn against(pod: &Pod) -> Vec<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return vec!["is being deleted".to_owned()];
    }
    let words = |fact: pods::Fact| {
        let code = sources::state(&fact.reason, &fact.message).map(|verdict| format!("{}: ", verdict.rule.code));
        let message = if fact.message.is_empty() { String::new() } else { format!(": {}", fact.message.trim()) };
        format!("{}{}{message}", code.unwrap_or_default(), fact.reason)
    };
    let facts: Vec<String> = pods::facts(pod).into_iter().map(words).collect();
    if facts.is_empty() { vec![format!("{}, not ready yet", pods::phase(pod).unwrap_or("Pending"))] } else { facts }
}

/// There is no pod: the most common reason is a workload scaled to zero.
async fn nothing_runs(
    client: &Client,
    context: &str,
    namespace: &str,
    selector: &BTreeMap<String, String>,
    labels: &str,
) -> Result<Hindrance, String> {
    let all = ListParams::default();
    let (deployments, stateful) = (
        Api::<Deployment>::namespaced(client.clone(), namespace),
        Api::<StatefulSet>::namespaced(client.clone(), namespace),
    );
    let (deployments, stateful) = tokio::join!(within(deployments.list(&all)), within(stateful.list(&all)));
    let deployments = deployments?.items.into_iter().filter_map(|one| {
        let spec = one.spec?;
        Some(("deployment", one.metadata.name?, spec.replicas.unwrap_or(1), spec.template.metadata?.labels?))
    });
    let stateful = stateful?.items.into_iter().filter_map(|one| {
        let spec = one.spec?;
        Some(("statefulset", one.metadata.name?, spec.replicas.unwrap_or(1), spec.template.metadata?.labels?))
    });
    let makes = |own: &BTreeMap<String, String>| selector.iter().all(|(key, value)| own.get(key) == Some(value));
    let makers: Vec<_> = deployments.chain(stateful).filter(|(.., own)| makes(own)).collect();
    let mut found = Hindrance::default();
    let kubectl = kubernetes::kubectl_on(context);
    for (kind, name, replicas, _) in &makers {
        if *replicas == 0 {
            found.evidence.push(format!("{kind}/{name} is scaled to 0"));
            let remedy = format!("{kubectl} -n {namespace} scale {kind}/{name} --replicas=1, or run its layer again");
            found.remedy.get_or_insert(remedy);
        } else {
            found.evidence.push(format!("{kind}/{name} has created no pod yet"));
            let remedy = format!("{kubectl} -n {namespace} describe {kind}/{name}");
            found.remedy.get_or_insert(remedy);
        }
    }
    if makers.is_empty() {
        found.evidence.push(format!("no pod has its labels {labels}, and no Deployment or StatefulSet creates one"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(status: serde_json::Value) -> Vec<String> {
        against(&serde_json::from_value(json!({"metadata": {"name": "redis-0"}, "status": status})).unwrap())
    }

    #[test]
    fn a_pod_behind_a_service_is_told_with_the_code_of_what_blocks_it() {
        let waiting = |reason: &str, message: &str| {
            json!({"phase": "Pending", "containerStatuses": [{
                "name": "redis", "image": "redis", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": message}},
            }]})
        };
        let back_off =
            r#"Back-off pulling image "redis:9": ErrImagePull: toomanyrequests: You have reached your pull rate limit"#;
        let [line] = &told(waiting("ImagePullBackOff", back_off))[..] else { panic!() };
        assert_eq!(line, &format!("registry-rate-limited: ImagePullBackOff: {back_off}"));
        assert_eq!(told(waiting("ContainerCreating", "")), ["Pending, not ready yet"]);
        assert_eq!(told(json!({"phase": "Running"})), ["Running, not ready yet"]);
        let unscheduled = json!({"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available",
        }]});
        assert!(told(unscheduled)[0].starts_with("unschedulable: Unschedulable: 0/3"));
    }
}
