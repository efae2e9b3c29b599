//! What a layer did on the cluster, for the run's record: its releases and their pods, with the
//! times that the cluster itself recorded.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Client;
use kube::api::{Api, ListParams};

use crate::repo::Repo;
use crate::repo::layers::Layer;
use crate::run::Run;
use crate::world::kubernetes::{is_forbidden, pods_anywhere};
use run_record::{Event, PodEvent, ReleaseEvent};

/// Records what was created since then. If the cluster does not answer, nothing is added: the run
/// has its own result, and this is for later.
pub async fn record(run: &Run, repo: &Repo, client: &Client, layer: &Layer, since: Timestamp) {
    const PATIENCE: Duration = Duration::from_secs(5);
    let _ = tokio::time::timeout(PATIENCE, observe(run, repo, client, layer, since)).await;
}

async fn observe(run: &Run, repo: &Repo, client: &Client, layer: &Layer, since: Timestamp) -> kube::Result<()> {
    // The API server's times are whole seconds.
    let since = Timestamp::from_second(since.as_second()).unwrap_or(since);
    let ours = ListParams::default().labels(&format!("owner=helm,layer={}", layer.name()));
    let namespaces = repo.tree.layer_needs().map(|needs| needs.namespaces_of(layer)).unwrap_or_default();
    let mut secrets = Vec::new();
    match Api::<Secret>::all(client.clone()).list_metadata(&ours).await {
        // Without the right to read the whole cluster, only the namespaces in layers.yaml are read.
        Err(error) if is_forbidden(&error) => {
            for namespace in &namespaces {
                secrets.extend(Api::<Secret>::namespaced(client.clone(), namespace).list_metadata(&ours).await?.items);
            }
        }
        listed => secrets.extend(listed?.items),
    }
    let mut releases = Vec::new();
    for secret in &secrets {
        let label = |name: &str| secret.metadata.labels.as_ref()?.get(name).cloned();
        let (Some(name), Some(started)) = (label("name"), time(secret.metadata.creation_timestamp.as_ref())) else {
            continue;
        };
        if !releases.contains(&name) {
            releases.push(name.clone());
        }
        if started >= since {
            run.reporter.event(&Event::Release(ReleaseEvent {
                layer: layer.name(),
                name,
                namespace: secret.metadata.namespace.clone().unwrap_or_default(),
                revision: label("version").unwrap_or_default(),
                status: label("status").unwrap_or_default(),
                started,
            }));
        }
    }
    let instances = format!("app.kubernetes.io/instance in ({})", releases.join(","));
    if releases.is_empty() {
        return Ok(());
    }
    for pod in &pods_anywhere(client, &instances, &namespaces).await? {
        if let Some(event) = pod_event(layer, pod).filter(|event| event.created >= since) {
            run.reporter.event(&Event::Pod(event));
        }
    }
    Ok(())
}

fn time(time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>) -> Option<Timestamp> {
    time.map(|time| time.0)
}

pub(crate) fn pod_event(layer: &Layer, pod: &Pod) -> Option<PodEvent> {
    let status = pod.status.clone().unwrap_or_default();
    let since = |kind: &str| {
        let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        condition.filter(|condition| condition.status == "True").and_then(|c| time(c.last_transition_time.as_ref()))
    };
    let containers =
        || status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let terminated = containers().filter_map(|container| container.state.as_ref()?.terminated.as_ref());
    let ended = terminated.filter_map(|state| time(state.finished_at.as_ref())).max();
    let waiting = containers().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.clone().unwrap_or_default();
        let message = waiting.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
        Some(format!("{}: {reason}{message}", container.name))
    });
    let unscheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    let unscheduled = unscheduled.map(|condition| {
        let words = [condition.reason.as_deref(), condition.message.as_deref()];
        words.into_iter().flatten().collect::<Vec<_>>().join(": ")
    });
    let label = |name: &str| pod.metadata.labels.as_ref()?.get(name).cloned();
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    Some(PodEvent {
        layer: layer.name(),
        release: label("app.kubernetes.io/instance")?,
        test: label("app.kubernetes.io/component").is_some_and(|component| component == "test"),
        name: pod.metadata.name.clone()?,
        namespace: pod.metadata.namespace.clone()?,
        created: time(pod.metadata.creation_timestamp.as_ref())?,
        scheduled: since("PodScheduled"),
        ready: since("Ready"),
        ended: ended.filter(|_| over),
        phase: status.phase.clone().unwrap_or_default(),
        restarts: containers().map(|container| container.restart_count).fold(0, i32::saturating_add),
        waiting: waiting.or(unscheduled),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> Layer {
        Layer { number: 45, stage: "data-plane-ext".into(), path: "45-data-plane-ext.yaml".into() }
    }

    fn pod(status: serde_json::Value) -> PodEvent {
        let pod = serde_json::json!({
            "metadata": {
                "name": "minio-0", "namespace": "ameide", "creationTimestamp": "2026-11-24T03:40:00Z",
                "labels": {"app.kubernetes.io/instance": "minio"},
            },
            "status": status,
        });
        pod_event(&layer(), &serde_json::from_value(pod).unwrap()).unwrap()
    }

    #[test]
    fn a_pod_that_cannot_pull_says_so() {
        let event = pod(serde_json::json!({"phase": "Pending", "containerStatuses": [{
            "name": "server", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "429 Too Many Requests"}},
        }]}));
        assert_eq!(event.waiting.as_deref(), Some("server: ImagePullBackOff: 429 Too Many Requests"));
        assert_eq!((event.ready, event.ended), (None, None));
    }

    #[test]
    fn a_pod_that_ran_to_its_end_has_one() {
        let event = pod(serde_json::json!({"phase": "Succeeded", "containerStatuses": [{
            "name": "test", "image": "x", "imageID": "", "ready": false, "restartCount": 1,
            "state": {"terminated": {"exitCode": 0, "finishedAt": "2026-11-24T03:40:03Z"}},
        }]}));
        assert_eq!(event.ended.unwrap().to_string(), "2026-11-24T03:40:03Z");
        assert_eq!(event.restarts, 1);
    }
}
