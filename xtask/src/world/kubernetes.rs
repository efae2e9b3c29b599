//! The cluster's API as this tool uses it: a client for one kubeconfig context, and waiting for
//! what a fresh cluster needs before anything runs on it.

pub mod answers;
pub(crate) mod autoscaler;
pub(crate) mod connect;
pub(crate) mod kinds;
pub(crate) mod nodes;
pub(crate) mod place;
mod unanswered;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, LogParams, PostParams};

pub use answers::{bring_back, in_words, is_forbidden, kubectl, kubectl_on, read_failed, unreachable, write_failed};
pub use connect::{client, connector, reached_directly};

use crate::run::interrupt::Interrupt;
use crate::run::wait;
use run_record::{Code, Failure};

/// The API server's own clock (its `Date` header), which its timestamps refer to.
pub async fn server_time(client: &Client) -> Result<jiff::Timestamp, Failure> {
    Ok(version(client).await?.0)
}

/// What the API server says about itself.
pub(crate) struct Server {
    /// `v1.34.1+k3s1`
    pub version: String,
    /// Its own clock.
    pub time: jiff::Timestamp,
}

/// Requests both at once.
///
/// # Errors
/// Errors from the request; an answer without a version.
pub(crate) async fn server(client: &Client) -> Result<Server, Failure> {
    let (time, body) = version(client).await?;
    let told: serde_json::Value = serde_json::from_slice(&connect::beginning(body, VERSION).await).unwrap_or_default();
    match told["gitVersion"].as_str() {
        Some(version) if !version.is_empty() => Ok(Server { version: version.to_owned(), time }),
        _ => Err(Failure::new(Code::ApiFailed, "the API server does not report its version")),
    }
}

/// The most that is read of the answer to `/version`, in bytes.
const VERSION: usize = 64 << 10;

async fn version(client: &Client) -> Result<(jiff::Timestamp, kube::client::Body), Failure> {
    let failed =
        |error: String| Failure::new(Code::ApiUnreachable, "asking the API server for its time failed").evidence(error);
    let request = http::Request::get("/version").body(kube::client::Body::empty());
    let request = request.map_err(|error| failed(error.to_string()))?;
    let response = client.send(request).await.map_err(|error| read_failed("the API server's time", error))?;
    let date = response.headers().get("date").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date);
    let time = parsed.map_err(|error| failed(format!("its Date {date:?}: {error}")))?;
    Ok((time, response.into_body()))
}

/// The pods with these labels, in the whole cluster; if listing it is forbidden, those in these
/// namespaces.
pub async fn pods_anywhere(client: &Client, labels: &str, namespaces: &BTreeSet<String>) -> kube::Result<Vec<Pod>> {
    let parameters = ListParams::default().labels(labels);
    match Api::<Pod>::all(client.clone()).list(&parameters).await {
        Err(error) if is_forbidden(&error) => {}
        listed => return listed.map(|list| list.items),
    }
    let mut pods = Vec::new();
    for namespace in namespaces {
        pods.extend(Api::<Pod>::namespaced(client.clone(), namespace).list(&parameters).await?.items);
    }
    Ok(pods)
}

/// Whether the API server answers at all, with any status.
pub async fn answers(client: &Client) -> Result<(), String> {
    let request = http::Request::get("/version").body(Vec::new()).map_err(|error| error.to_string())?;
    match client.request_text(request).await {
        Ok(_) | Err(kube::Error::Api(_)) => Ok(()),
        Err(error) => Err(in_words(&error)),
    }
}

/// Requires that the API server is ready.
///
/// # Errors
/// `api-unreachable`, `unauthenticated` and similar. If `/readyz` is forbidden the run goes on:
/// each request it needs will fail by itself.
pub async fn require(client: &Client) -> Result<(), Failure> {
    match asked_ready(client).await {
        Ok(()) => Ok(()),
        Err(error) if is_forbidden(&error) => Ok(()),
        Err(error) => Err(read_failed("/readyz of the API server", error)),
    }
}

async fn asked_ready(client: &Client) -> Result<(), kube::Error> {
    const WITHIN: Duration = Duration::from_secs(5);
    let request = http::Request::get("/readyz").body(Vec::new()).map_err(kube::Error::HttpError)?;
    match tokio::time::timeout(WITHIN, client.request_text(request)).await {
        Ok(Ok(text)) if text.trim() == "ok" => Ok(()),
        Ok(Ok(text)) => Err(kube::Error::Service(text.into())),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(kube::Error::Service(format!("no answer within {} s", WITHIN.as_secs()).into())),
    }
}

/// In words, why the cluster needs new certificates, if it does, given credentials that it has just
/// handed out itself. A refusal of these counts only if it lasts: an API server that is starting may
/// refuse anybody.
pub async fn needs_certificates(client: &Client) -> Option<&'static str> {
    const LASTS: Duration = Duration::from_secs(10);
    let started = std::time::Instant::now();
    loop {
        match answers::of_age(&asked_ready(client).await.err()?)? {
            answers::OfAge::Server(words) => return Some(words),
            answers::OfAge::Client(words) if started.elapsed() >= LASTS => return Some(words),
            answers::OfAge::Client(_) => {
                Interrupt::global().or(tokio::time::sleep(Duration::from_secs(1))).await.ok()?
            }
        }
    }
}

/// One request to `/readyz`.
pub async fn ready(client: &Client) -> Result<(), String> {
    match asked_ready(client).await {
        Err(error) if !is_forbidden(&error) => Err(in_words(&error)),
        _ => Ok(()),
    }
}

/// Checks four times a second until the check passes, for at most `within`.
///
/// # Errors
/// The given code, with `what` and the reason of the last check; `interrupted`.
pub async fn wait_until(
    what: &str,
    code: Code,
    within: Duration,
    mut check: impl AsyncFnMut() -> Result<(), String>,
) -> Result<(), Failure> {
    const EVERY: Duration = Duration::from_millis(250);
    let look = async || Ok(check().await.map_or_else(ControlFlow::Continue, ControlFlow::Break));
    match wait::until(EVERY, within, look).await? {
        ControlFlow::Break(()) => Ok(()),
        ControlFlow::Continue(reason) => {
            Err(Failure::new(code, format!("{what} not ready after {} s", within.as_secs())).evidence(reason))
        }
    }
}

/// Checks that every node is Ready, and that there are at least `expected`.
pub async fn nodes_ready(client: &Client, expected: usize) -> Result<(), String> {
    let nodes =
        Api::<Node>::all(client.clone()).list(&ListParams::default()).await.map_err(|error| in_words(&error))?;
    let waiting: Vec<String> = nodes
        .items
        .iter()
        .filter(|node| !nodes::is_ready(node))
        .filter_map(|node| node.metadata.name.clone())
        .collect();
    if !waiting.is_empty() {
        return Err(format!("nodes not Ready: {}", waiting.join(", ")));
    }
    if nodes.items.len() < expected {
        return Err(format!("{} of {expected} nodes have registered", nodes.items.len()));
    }
    Ok(())
}

/// Checks that the DNS service has an endpoint that answers.
pub async fn dns_ready(client: &Client) -> Result<(), String> {
    let pods = Api::<Pod>::namespaced(client.clone(), "kube-system")
        .list(&ListParams::default().labels("k8s-app=kube-dns"))
        .await
        .map_err(|error| in_words(&error))?;
    if pods.items.iter().any(pod_ready) { Ok(()) } else { Err("no DNS pod (k8s-app=kube-dns) is Ready".to_owned()) }
}

pub fn pod_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

pub async fn default_storage_class(client: &Client) -> Result<(), String> {
    let classes = Api::<StorageClass>::all(client.clone())
        .list(&ListParams::default())
        .await
        .map_err(|error| in_words(&error))?;
    let is_default = |class: &StorageClass| {
        let annotations = class.metadata.annotations.as_ref();
        annotations.is_some_and(|all| {
            all.get("storageclass.kubernetes.io/is-default-class").is_some_and(|value| value == "true")
        })
    };
    if classes.items.iter().any(is_default) { Ok(()) } else { Err("no default StorageClass".to_owned()) }
}

/// A namespace's state for preflight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespacePhase {
    Absent,
    Active,
    /// With what holds it according to the API server: remaining kinds and finalizers.
    Terminating(Vec<String>),
}

pub async fn namespace_phase(client: &Client, name: &str) -> Result<NamespacePhase, Failure> {
    let found = Api::<Namespace>::all(client.clone()).get_opt(name).await;
    let namespace = found.map_err(|error| read_failed(&format!("the namespace {name}"), error))?;
    Ok(namespace.map_or(NamespacePhase::Absent, |namespace| phase_of(&namespace)))
}

fn phase_of(namespace: &Namespace) -> NamespacePhase {
    if namespace.metadata.deletion_timestamp.is_none() {
        return NamespacePhase::Active;
    }
    let mut held: Vec<String> = Vec::new();
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
    let own = namespace.metadata.finalizers.clone().unwrap_or_default();
    if !own.is_empty() {
        held.push(format!("finalizers {}", own.join(", ")));
    }
    // The namespace controller says what remains, in conditions like
    // NamespaceContentRemaining and NamespaceFinalizersRemaining.
    let conditions = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
    let remaining = conditions.into_iter().flatten().filter(|condition| condition.status == "True");
    held.extend(remaining.filter_map(|condition| condition.message.clone()));
    if held.is_empty() && !finalizers.is_empty() {
        held.push(format!("finalizers {}", finalizers.join(", ")));
    }
    NamespacePhase::Terminating(held)
}

/// The most that is read of one container's log: this many of the last lines, and of these the
/// first bytes up to a limit (a line may be of any length).
const LOG_LINES: i64 = 10_000;
pub const LOG_BYTES: i64 = 4 << 20;

/// The logs of a pod's containers, within limits, or why they cannot be read.
pub async fn pod_logs(client: &Client, pod: &Pod) -> String {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let api = Api::<Pod>::namespaced(client.clone(), &namespace);
    let mut text = String::new();
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        let parameters = LogParams {
            container: Some(container.name.clone()),
            tail_lines: Some(LOG_LINES),
            limit_bytes: Some(LOG_BYTES),
            ..Default::default()
        };
        let logs =
            api.logs(&name, &parameters).await.unwrap_or_else(|error| format!("(no logs: {})\n", in_words(&error)));
        text.push_str(&format!("--- {namespace}/{name} {}\n{logs}", container.name));
    }
    text
}

/// The objects of a kind, without its type: what reads and writes a pod by its type is generated
/// anew for each way of reading, which the cold build pays for.
pub fn untyped<K: kube::Resource<DynamicType = ()>>(client: Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client, namespace, &ApiResource::erase::<K>(&()))
}

/// Tests registry and DNS end to end: a pod that pulls `image` by the name that pods use, and
/// resolves the API server's name.
pub async fn run_probe_pod(client: &Client, image: &str, timeout: Duration) -> Result<(), Failure> {
    const NAME: &str = "registry-check";
    let failed = |evidence: String| {
        Failure::new(Code::RegistryUnreachable, format!("a pod could not pull {image} and resolve a name"))
            .evidence(evidence)
            .remedy("cargo xtask cluster recreate   # asks first, elsewhere --allow-destroy=cluster; the node's registry configuration is read when it is created")
    };
    let api = Api::<Pod>::namespaced(client.clone(), "default");
    let now = DeleteParams::default().grace_period(0);
    let _ = api.delete(NAME, &now).await;
    let mut pod = DynamicObject::new(NAME, &ApiResource::erase::<Pod>(&())).data(serde_json::json!({
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "check", "image": image, "imagePullPolicy": "Always",
                // Only one record type: old busybox versions fail if the other one has no answer.
                // Repeated for a while, because CoreDNS answers NXDOMAIN until it has read the
                // services.
                "command": ["sh", "-c", "for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do nslookup -type=a kubernetes.default.svc.cluster.local. && exit 0; sleep 1; done; exit 1"],
            }],
        },
    }));
    pod.metadata.labels = Some([("app.kubernetes.io/managed-by".to_owned(), "xtask".to_owned())].into());
    let untyped = untyped::<Pod>(client.clone(), "default");
    // In a new namespace the service account is created a moment later, and a pod of an earlier run
    // may still be terminating.
    let made = wait_until("the pod is", Code::RegistryUnreachable, timeout, async || {
        untyped.create(&PostParams::default(), &pod).await.map(drop).map_err(|error| in_words(&error))
    });
    made.await.map_err(|failure| unless_interrupted(failure, |failure| failed(failure.evidence.join("; "))))?;
    let mut last = String::from("the pod did not start");
    let outcome = wait_until("the pod is", Code::RegistryUnreachable, timeout, async || {
        let pod = api.get(NAME).await.map_err(|error| in_words(&error))?;
        let status = pod.status.clone().unwrap_or_default();
        match status.phase.as_deref() {
            Some("Succeeded") => last.clear(),
            Some("Failed") => last = pod_logs(client, &pod).await,
            phase => {
                let waiting = status.container_statuses.iter().flatten().find_map(|container| {
                    let waiting = container.state.as_ref()?.waiting.as_ref()?;
                    let message = waiting.message.clone().unwrap_or_default();
                    Some(format!("{}: {message}", waiting.reason.clone().unwrap_or_default()))
                });
                last = waiting.unwrap_or_else(|| format!("the pod is {}", phase.unwrap_or("unknown")));
                return Err(last.clone());
            }
        }
        Ok(())
    })
    .await;
    let _ = Interrupt::global().tidy(Duration::from_secs(5), api.delete(NAME, &now)).await;
    match outcome {
        Ok(()) if last.is_empty() => Ok(()),
        Err(failure) => Err(unless_interrupted(failure, |_| failed(last))),
        Ok(()) => Err(failed(last)),
    }
}

/// Replaces this failure with another one, unless the run was just interrupted.
fn unless_interrupted(failure: Failure, otherwise: impl FnOnce(Failure) -> Failure) -> Failure {
    if Interrupt::global().check().is_err() { failure } else { otherwise(failure) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(json: serde_json::Value) -> Namespace {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_terminating_namespace_tells_what_holds_it() {
        let phase = phase_of(&namespace(serde_json::json!({
            "metadata": {"name": "ameide", "deletionTimestamp": "2025-11-06T10:00:00Z"},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Terminating", "conditions": [
                {"type": "NamespaceDeletionContentFailure", "status": "False", "message": "All content successfully deleted"},
                {"type": "NamespaceFinalizersRemaining", "status": "True", "message": "Some content in the namespace has finalizers remaining: ameide.dev/hold in 1 resource instances"},
            ]},
        })));
        let NamespacePhase::Terminating(held) = phase else { panic!("{phase:?}") };
        assert_eq!(
            held,
            ["Some content in the namespace has finalizers remaining: ameide.dev/hold in 1 resource instances"]
        );
    }

    #[test]
    fn a_namespace_that_is_not_being_deleted_is_active() {
        assert_eq!(phase_of(&namespace(serde_json::json!({"metadata": {"name": "ameide"}}))), NamespacePhase::Active);
    }
}
