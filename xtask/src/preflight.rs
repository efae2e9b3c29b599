//! What must hold before Helm starts: `infra/kubernetes/layers.yaml` says it per
//! layer. All checks run, and all that fail are shown, not the first alone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ListParams};

use serde::Deserialize;

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::kubernetes::{self, NamespacePhase, read_failed};
use crate::lab::Lab;
use crate::process::Interrupt;
use crate::registry;
use crate::releases::{Status, storage};
use crate::tree::{Layer, SecretNeed, ServiceNeed};

/// `preflight:` of layers.yaml: how long is waited, in seconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Waits {
    /// For a Terminating namespace to be gone.
    pub namespace: u64,
    /// For a service that is coming up.
    pub service: u64,
}

impl Default for Waits {
    fn default() -> Self {
        Self { namespace: 120, service: 60 }
    }
}

/// The registry answers (at `K3D_REGISTRY_HEALTHCHECK_URL` where that is set), and
/// holds what the lock names.
async fn check_registry(context: &Context, lab: Option<&Lab>) -> Result<(), Failure> {
    registry::healthy(&registry::health_url(context)).await?;
    registry::check_mirror(context, lab).await
}

/// `images`: the check of what the layer renders, which goes on beside the others.
pub async fn check(
    context: &Context,
    client: &Client,
    layer: &Layer,
    lab: Option<&Lab>,
    images: impl Future<Output = Result<usize, Failure>>,
) -> Result<(), Failure> {
    let needs_all = context.tree.layer_needs()?;
    let needs = needs_all.layers.get(&layer.name()).cloned().unwrap_or_default();
    let budgets = &needs_all.preflight;
    // All at once: a wait for one says nothing about the others.
    let registry = async {
        let (registry, images) = tokio::join!(check_registry(context, lab), images);
        vec![registry, images.map(drop)]
    };
    // A namespace of any layer that is being deleted stops this one too: Helm would wait
    // its whole timeout for objects that nobody can make. One that is not there yet does not.
    let named: BTreeSet<&String> =
        needs_all.layers.values().flat_map(|needs| needs.namespaces.iter().chain(&needs.creates)).collect();
    let namespaces = join_all(named.into_iter().map(|name| {
        let needed = needs.namespaces.contains(name);
        namespace_active(context, client, name, needed, budgets)
    }));
    let layers = join_all(needs.layers.iter().map(|name| layer_in_place(client, name)));
    let secrets = join_all(needs.secrets.iter().map(|need| secret_has_keys(client, need)));
    let services = join_all(needs.services.iter().map(|need| service_answers(context, client, need, budgets)));
    let (registry, namespaces, layers, secrets, services) =
        tokio::join!(registry, namespaces, layers, secrets, services);
    Interrupt::global().check()?;
    let results = [registry, namespaces, layers, secrets, services].into_iter().flatten();
    let failures: Vec<Failure> = results.filter_map(Result::err).collect();
    // The first in the order above ends the run; the others are its evidence.
    let mut failures = failures.into_iter();
    let Some(mut first) = failures.next() else { return Ok(()) };
    for other in failures {
        first.evidence.push(format!("also {other}"));
        first.evidence.extend(other.remedy.map(|remedy| format!("  remedy: {remedy}")));
    }
    Err(first)
}

/// Waits while the namespace is Terminating, telling what holds it; `needed` ones must exist.
async fn namespace_active(
    context: &Context,
    client: &Client,
    name: &str,
    needed: bool,
    waits: &Waits,
) -> Result<(), Failure> {
    let started = Instant::now();
    let mut told = Vec::new();
    loop {
        match kubernetes::namespace_phase(client, name).await? {
            NamespacePhase::Active => {
                if !told.is_empty() {
                    context.reporter.note(name, "the namespace is Active");
                }
                return Ok(());
            }
            // It is gone, and the layer that makes it makes it anew.
            NamespacePhase::Absent if !needed => return Ok(()),
            NamespacePhase::Absent => {
                return Err(Failure::new(
                    "namespace-missing",
                    Exit::NotReady,
                    format!("the namespace {name} does not exist"),
                )
                .remedy("cargo xtask layer 10"));
            }
            NamespacePhase::Terminating(held) => {
                let told_now: Vec<String> = held.clone();
                if told.is_empty() || told != told_now {
                    context.reporter.waiting(name, format!("the namespace is Terminating: {}", held_by(&held)));
                    told = if told_now.is_empty() { vec![String::new()] } else { told_now };
                }
                if started.elapsed() >= Duration::from_secs(waits.namespace) {
                    return Err(Failure::new("namespace-terminating", Exit::NamespaceTerminating, format!("the namespace {name} is still being deleted after {} s", waits.namespace))
                        .evidence(held_by(&held))
                        .remedy(format!("kubectl --context {} get namespace {name} -o yaml shows the finalizers; let their controller run, or remove the object they belong to", context.kube_context)));
                }
            }
        }
        Interrupt::global().or(tokio::time::sleep(Duration::from_millis(500))).await?;
    }
}

fn held_by(held: &[String]) -> String {
    if held.is_empty() { "its content is being deleted".to_owned() } else { held.join("; ") }
}

/// An earlier layer is in place when it has a deployed release (Helm's storage
/// carries the `layer` label of each release).
async fn layer_in_place(client: &Client, layer: &str) -> Result<(), Failure> {
    let labels = format!("owner=helm,status=deployed,layer={layer}");
    let listed =
        Api::<Secret>::all(client.clone()).list_metadata(&ListParams::default().labels(&labels).limit(1)).await;
    let listed = listed.map_err(|error| read_failed("Helm's release Secrets", error))?;
    if !listed.items.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        "layer-missing",
        Exit::NotReady,
        format!("the layer {layer}, which this one needs, is not in place"),
    )
    .remedy(format!("cargo xtask layer {layer}")))
}

async fn applies(client: &Client, namespace: &str, if_release: Option<&String>) -> Result<bool, Failure> {
    let Some(release) = if_release else { return Ok(true) };
    let history = storage::history(client, namespace, release).await?;
    Ok(history.iter().any(|revision| revision.status == Status::Deployed))
}

async fn secret_has_keys(client: &Client, need: &SecretNeed) -> Result<(), Failure> {
    if !applies(client, &need.namespace, need.if_release.as_ref()).await? {
        return Ok(());
    }
    let found = Api::<Secret>::namespaced(client.clone(), &need.namespace).get_opt(&need.name).await;
    let found = found.map_err(|error| read_failed(&format!("the Secret {}", need.name), error))?;
    let missing = |what: String| {
        Failure::new("config-missing", Exit::NotReady, what)
            .remedy("run the layer that makes it, or create it as docs/operations.md says")
    };
    let Some(secret) = found else {
        return Err(missing(format!("the Secret {}/{} does not exist", need.namespace, need.name)));
    };
    let has =
        |key: &String| secret.data.as_ref().is_some_and(|data| data.get(key).is_some_and(|value| !value.0.is_empty()));
    let absent: Vec<&str> = need.keys.iter().filter(|key| !has(key)).map(String::as_str).collect();
    match absent.as_slice() {
        [] => Ok(()),
        absent => Err(missing(format!("the Secret {}/{} has no key {}", need.namespace, need.name, absent.join(", ")))),
    }
}

/// Reached over the network from inside the cluster: the API server dials the
/// service's endpoint for us. Whatever the endpoint says to HTTP, it answered.
async fn service_answers(context: &Context, client: &Client, need: &ServiceNeed, waits: &Waits) -> Result<(), Failure> {
    if !applies(client, &need.namespace, need.if_release.as_ref()).await? {
        return Ok(());
    }
    let started = Instant::now();
    let mut told = false;
    loop {
        let Err(reason) = dial(client, need).await else { return Ok(()) };
        if started.elapsed() >= Duration::from_secs(waits.service) {
            return Err(Failure::new(
                "dependency-unreachable",
                Exit::NotReady,
                format!("the service {}.{}:{} does not answer", need.name, need.namespace, need.port),
            )
            .evidence(reason)
            .remedy(format!(
                "kubectl --context {} -n {} get pods,endpointslices",
                context.kube_context, need.namespace
            )));
        }
        if !told {
            context.reporter.waiting(&need.name, format!("port {} does not answer yet: {reason}", need.port));
            told = true;
        }
        Interrupt::global().or(tokio::time::sleep(Duration::from_millis(500))).await?;
    }
}

async fn dial(client: &Client, need: &ServiceNeed) -> Result<(), String> {
    let path = format!("/api/v1/namespaces/{}/services/{}:{}/proxy/", need.namespace, need.name, need.port);
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    let answer = tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await;
    match answer {
        Err(_) => Err("no answer within 5 s".to_owned()),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) => answered(status.code, &status.message),
        Ok(Err(error)) => Err(error.to_string()),
    }
}

/// What the API server's proxy says, read as "did the endpoint answer".
fn answered(code: u16, message: &str) -> Result<(), String> {
    let nobody = [
        "no endpoints available",
        "connection refused",
        "no route to host",
        "i/o timeout",
        "not found",
        "no such host",
        "network is unreachable",
    ];
    // A Redis or Postgres endpoint closes the connection or talks no HTTP: it is there.
    if nobody.iter().any(|reason| message.contains(reason)) || (code == 404 && message.contains("services")) {
        return Err(message.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_talks_no_http_has_answered() {
        for (code, message, there) in [
            (503, "error trying to reach service: EOF", true),
            (503, r#"error trying to reach service: malformed HTTP response "-ERR wrong number of arguments""#, true),
            (403, "AccessDenied", true),
            (503, "no endpoints available for service \"redis-master\"", false),
            (503, "error trying to reach service: dial tcp 10.42.0.9:6379: connect: connection refused", false),
            (404, "services \"minio\" not found", false),
            (503, "error trying to reach service: dial tcp 10.42.0.9:6379: i/o timeout", false),
        ] {
            assert_eq!(answered(code, message).is_ok(), there, "{message}");
        }
    }
}
