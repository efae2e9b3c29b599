//! What must hold before Helm starts, for each layer according to `infra/kubernetes/layers.yaml`.
//! All checks run, and all failures are shown, not only the first.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::core::Status as ApiStatus;

use crate::diagnosis::backends;
use crate::diagnosis::placement::Hindrance;
use crate::lab::{self, Lab};
use crate::mirror;
use crate::releases::{Status, manifest};
use crate::repo::Repo;
use crate::repo::layers::{self, Layer};
use crate::repo::needs::SecretNeed;
use crate::repo::needs::ServiceNeed;
use crate::repo::needs::{LayerNeeds, Needs, Waits};
use crate::run::Run;
use crate::run::commands;
use crate::run::context::{Context, Site};
use crate::run::interrupt::Interrupt;
use crate::run::wait;
use crate::world::helm_storage;
use crate::world::helmfile;
use crate::world::kubernetes::{self, NamespacePhase, read_failed};
use crate::world::registry;
use crate::world::release::Release;
use run_record::{Code, Failure};

/// How long to wait for a service that the layer itself installs.
const OWN_SERVICE: Duration = Duration::from_secs(3);

/// How often a namespace or a service is looked at: neither tells when it changes.
const EVERY: Duration = Duration::from_millis(500);

/// What the layer itself deploys: never a reason not to deploy it.
#[derive(Default)]
pub struct Own {
    /// Kind, namespace, name.
    objects: BTreeSet<(String, String, String)>,
}

impl Own {
    /// `manifests` is the layer's rendering. Charts may leave an object's namespace to Helm, and
    /// the rendering does not say which release it belongs to: then any of the releases' namespaces
    /// counts.
    pub fn of(manifests: &str, wanted: &[Release]) -> Self {
        let mut objects = BTreeSet::new();
        // Invalid YAML is reported by the image check.
        for (object, _) in manifest::parse(manifests).unwrap_or_default() {
            let text = |pointer: &str| object.pointer(pointer).and_then(serde_json::Value::as_str);
            let kind = manifest::kind(&object);
            let (true, Some(name)) = (matches!(kind, "Service" | "Secret" | "Namespace"), text("/metadata/name"))
            else {
                continue;
            };
            let version = text("/apiVersion").unwrap_or_default();
            if version != "v1" {
                continue;
            }
            let named = |namespace: &str| (kind.to_owned(), namespace.to_owned(), name.to_owned());
            match text("/metadata/namespace") {
                _ if kind == "Namespace" => drop(objects.insert(named(""))),
                Some(namespace) => drop(objects.insert(named(namespace))),
                None => objects.extend(wanted.iter().map(|release| named(&release.namespace))),
            }
        }
        Self { objects }
    }

    fn has(&self, kind: &str, namespace: &str, name: &str) -> bool {
        self.objects.contains(&(kind.to_owned(), namespace.to_owned(), name.to_owned()))
    }
}

/// Checks that the registry answers (at `K3D_REGISTRY_HEALTHCHECK_URL`, if set), and has what the
/// lock names.
async fn check_registry(repo: &Repo, site: &Site, lab: Option<&Lab>) -> Result<(), Failure> {
    registry::healthy(repo, site).await?;
    mirror::require(repo, site, &lab::origin(repo, lab)).await
}

/// `images`: the check of the layer's rendering, which runs in parallel with the others.
pub async fn check(
    context: &Context,
    client: &Client,
    layer: &Layer,
    lab: Option<&Lab>,
    own: &Own,
    images: impl Future<Output = Result<usize, Failure>>,
) -> Result<(), Failure> {
    let needs_all = context.repo.tree.layer_needs()?;
    let needs = needs_all.layers.get(&layer.name()).cloned().unwrap_or_default();
    let budgets = &needs_all.preflight;
    // All in parallel: waiting for one says nothing about the others.
    let registry = async {
        let (registry, images) = tokio::join!(check_registry(&context.repo, &context.site, lab), images);
        vec![registry, images.map(drop)]
    };
    // A namespace of any layer that is being deleted stops this one too: Helm would wait its whole
    // timeout for objects that cannot be created. One that does not exist yet does not.
    let named: BTreeSet<&String> =
        needs_all.layers.values().flat_map(|needs| needs.namespaces.iter().chain(&needs.creates)).collect();
    let namespaces = join_all(named.into_iter().map(|name| {
        let needed = needs.namespaces.contains(name) && !own.has("Namespace", "", name);
        namespace_active(&context.run, &context.site, client, name, needed, &needs_all)
    }));
    let layers = layers_in_place(context, client, &needs);
    let secrets =
        join_all(needs.secrets.iter().map(async |need| match secret_has_keys(&context.repo, client, need).await {
            Err(failure) if failure.code == Code::ConfigMissing && own.has("Secret", &need.namespace, &need.name) => {
                context.run.reporter.note(&need.name, format!("{}: this layer creates it", failure.message));
                Ok(())
            }
            result => result,
        }));
    let services = join_all(needs.services.iter().map(|need| {
        let own = own.has("Service", &need.namespace, &need.name);
        service_answers(&context.run, &context.site, client, need, budgets, own)
    }));
    let (registry, namespaces, layers, secrets, services) =
        tokio::join!(registry, namespaces, layers, secrets, services);
    Interrupt::global().check()?;
    let results = [registry, namespaces, layers, secrets, services].into_iter().flatten();
    // The first in the order above ends the run; the others are its evidence.
    results.filter_map(Result::err).reduce(Failure::also).map_or(Ok(()), Err)
}

/// Waits while the namespace is Terminating, reporting what holds it; `needed` ones must exist.
async fn namespace_active(
    run: &Run,
    site: &Site,
    client: &Client,
    name: &str,
    needed: bool,
    needs: &LayerNeeds,
) -> Result<(), Failure> {
    let within = Duration::from_secs(needs.preflight.namespace);
    let mut told: Option<Vec<String>> = None;
    let look = async || {
        let phase = match kubernetes::namespace_phase(client, name).await {
            // Another layer's, and possibly another team's.
            Err(failure) if !needed && failure.code == Code::Forbidden => {
                let text = format!("not checking whether it is being deleted: {}", failure.message);
                run.reporter.note(name, text);
                return Ok(ControlFlow::Break(()));
            }
            phase => phase?,
        };
        match phase {
            NamespacePhase::Active => {
                if told.is_some() {
                    run.reporter.note(name, "the namespace is Active");
                }
                Ok(ControlFlow::Break(()))
            }
            // It is gone, and the layer that creates it creates it again.
            NamespacePhase::Absent if !needed => Ok(ControlFlow::Break(())),
            NamespacePhase::Absent => {
                let missing = Failure::new(Code::NamespaceMissing, format!("the namespace {name} does not exist"));
                Err(missing.remedy(match needs.creator_of(name) {
                    Some(layer) => format!("cargo xtask layer {layer}"),
                    None => format!("{} create namespace {name}", kubernetes::kubectl_on(&site.kube_context)),
                }))
            }
            NamespacePhase::Terminating(held) => {
                if told.as_ref() != Some(&held) {
                    run.reporter.waiting(name, format!("the namespace is Terminating: {}", held_by(&held)));
                    told = Some(held.clone());
                }
                Ok(ControlFlow::Continue(held))
            }
        }
    };
    match wait::until(EVERY, within, look).await? {
        ControlFlow::Break(()) => Ok(()),
        ControlFlow::Continue(held) => {
            let message = format!("the namespace {name} is still being deleted after {} s", within.as_secs());
            Err(Failure::new(Code::NamespaceTerminating, message).evidence(held_by(&held)).remedy(format!(
                "{} get namespace {name} -o yaml shows the finalizers; let their controller run, or remove the object they belong to",
                kubernetes::kubectl_on(&site.kube_context)
            )))
        }
    }
}

fn held_by(held: &[String]) -> String {
    if held.is_empty() { "its content is being deleted".to_owned() } else { held.join("; ") }
}

/// Earlier layers are in place if each of the releases that the tree gives them is deployed, in the
/// namespace that the tree gives it. In a namespace that does not concern this layer, a missing
/// right is reported and the run goes on.
async fn layers_in_place(context: &Context, client: &Client, needs: &Needs) -> Vec<Result<(), Failure>> {
    let names = &needs.layers;
    if names.is_empty() {
        return Vec::new();
    }
    let look = async {
        let layers = layers::select(&context.repo.tree.layers()?, names)?;
        let wanted = helmfile::releases(context, &layers).await?;
        let releases: Vec<Release> = wanted
            .iter()
            .map(|wanted| {
                let mut release = Release::from(wanted);
                if release.namespace.is_empty() {
                    release.namespace = client.default_namespace().to_owned();
                }
                release
            })
            .collect();
        let mut by_namespace: BTreeMap<String, (Vec<&String>, Vec<Release>)> = BTreeMap::new();
        for (wanted, release) in wanted.iter().zip(releases) {
            let (layers, releases) = by_namespace.entry(release.namespace.clone()).or_default();
            layers.push(&wanted.layer);
            releases.push(release);
        }
        let mut missing = Vec::new();
        for (namespace, (layers, releases)) in &by_namespace {
            let found = match helm_storage::not_deployed(client, releases).await {
                Err(failure) if failure.code == Code::Forbidden && !needs.namespaces.contains(namespace) => {
                    let names: BTreeSet<&str> = layers.iter().map(|layer| layer.as_str()).collect();
                    let names = names.into_iter().collect::<Vec<_>>().join(", ");
                    let text = format!("releases of {names} there are not checked: {}", failure.message);
                    context.run.reporter.note(namespace, text);
                    continue;
                }
                found => found?,
            };
            for release in found {
                let at = releases.iter().position(|other| std::ptr::eq(release, other));
                missing.extend(at.map(|at| (layers[at].clone(), release.clone())));
            }
        }
        Ok(missing)
    };
    let missing: Vec<(String, Release)> = match look.await {
        Ok(missing) => missing,
        Err(failure) => return vec![Err(failure)],
    };
    let failed = names.iter().filter_map(|layer| {
        let of_it: Vec<String> = missing
            .iter()
            .filter(|(of, _)| of == layer)
            .map(|(_, release)| format!("{}/{}", release.namespace, release.name))
            .collect();
        let message = format!("the layer {layer}, which this one needs, is not in place");
        (!of_it.is_empty()).then(|| {
            Err(Failure::new(Code::LayerMissing, message)
                .evidence(format!("not deployed: {}", of_it.join(", ")))
                .remedy(format!("cargo xtask --env {} layer {layer}", context.repo.env_name)))
        })
    });
    failed.collect()
}

async fn applies(client: &Client, namespace: &str, if_release: Option<&String>) -> Result<bool, Failure> {
    let Some(release) = if_release else { return Ok(true) };
    let history = helm_storage::history(client, namespace, release).await?;
    Ok(history.iter().any(|revision| revision.status == Status::Deployed))
}

async fn secret_has_keys(repo: &Repo, client: &Client, need: &SecretNeed) -> Result<(), Failure> {
    if !applies(client, &need.namespace, need.if_release.as_ref()).await? {
        return Ok(());
    }
    let found = Api::<Secret>::namespaced(client.clone(), &need.namespace).get_opt(&need.name).await;
    let found = found.map_err(|error| read_failed(&format!("the Secret {}", need.name), error))?;
    let missing = |what: String| {
        Failure::new(Code::ConfigMissing, what)
            .remedy(format!("run the layer that creates it: cargo xtask --env {} layer --list", repo.env_name))
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

/// Connects over the cluster's network: the API server dials the service's endpoint for us.
/// Whatever the endpoint says to HTTP, it answered. `own` is a service that the layer itself
/// installs: it is reported, but does not stop the run.
async fn service_answers(
    run: &Run,
    site: &Site,
    client: &Client,
    need: &ServiceNeed,
    waits: &Waits,
    own: bool,
) -> Result<(), Failure> {
    if !applies(client, &need.namespace, need.if_release.as_ref()).await? {
        return Ok(());
    }
    let bound = Duration::from_secs(waits.service);
    let bound = if own { bound.min(OWN_SERVICE) } else { bound };
    let mut told: Option<Hindrance> = None;
    let mut looks = 0_u32;
    let look = async || {
        let reason = match dial(client, need).await {
            Dialled::Answered => return Ok(ControlFlow::Break(Ok(()))),
            Dialled::Outside(why) => {
                run.reporter.note(&need.name, format!("not dialled: {why}"));
                return Ok(ControlFlow::Break(Ok(())));
            }
            Dialled::Refused(failure) if own => failure.to_string(),
            Dialled::Refused(failure) => return Err(failure),
            Dialled::Silent(reason) => reason,
        };
        // It is installed first: there is nothing to wait for.
        if own && reason.contains("not found") {
            return Ok(ControlFlow::Break(Err(reason)));
        }
        // Every two seconds: each is several requests.
        looks += 1;
        if looks % 4 != 1 {
            return Ok(ControlFlow::Continue(reason));
        }
        let behind = backends::of(client, &site.kube_context, &need.namespace, &need.name).await;
        // A pod that is starting changes its message often: only report what is new.
        if told.as_ref() != Some(&behind) {
            let why = if behind.evidence.is_empty() { reason.clone() } else { behind.evidence.join("; ") };
            let why = commands::quoted(&why);
            let remedy = behind.remedy.as_ref().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
            run.reporter.waiting(&need.name, format!("port {} does not answer yet: {why}{remedy}", need.port));
            told = Some(behind);
        }
        Ok(ControlFlow::Continue(reason))
    };
    let reason = match wait::until(EVERY, bound, look).await? {
        ControlFlow::Break(Ok(())) => return Ok(()),
        ControlFlow::Break(Err(reason)) | ControlFlow::Continue(reason) => reason,
    };
    if own {
        let text = format!("port {} does not answer ({reason}): this layer installs it, and continues", need.port);
        run.reporter.note(&need.name, text);
        return Ok(());
    }
    let behind = told.unwrap_or_default();
    let message = format!("the service {}.{}:{} does not answer", need.name, need.namespace, need.port);
    let failure = Failure::new(Code::DependencyUnreachable, message).evidence(reason);
    let failure = behind.evidence.into_iter().fold(failure, Failure::evidence);
    Err(failure.remedy(behind.remedy.unwrap_or_else(|| {
        let kubectl = kubernetes::kubectl_on(&site.kube_context);
        format!("{kubectl} -n {} get pods,endpointslices", need.namespace)
    })))
}

/// The result of dialling a service.
enum Dialled {
    /// The endpoint accepted the connection.
    Answered,
    /// Nothing is there, or not yet, and why.
    Silent(String),
    /// The API server refused to dial for us.
    Refused(Failure),
    /// It cannot be dialled this way, since it is not backed by pods.
    Outside(String),
}

/// A larger answer, in bytes, is not a Status of the API server.
const LARGEST_STATUS: usize = 64 << 10;

async fn dial(client: &Client, need: &ServiceNeed) -> Dialled {
    let path = format!("/api/v1/namespaces/{}/services/{}:{}/proxy/", need.namespace, need.name, need.port);
    let ask = async {
        let request = http::Request::get(path).body(kube::client::Body::empty()).map_err(|error| error.to_string())?;
        let response = client.send(request).await.map_err(|error| error.to_string())?;
        let code = response.status().as_u16();
        let length = response.headers().get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
        // Neither is an error text, so it is not read at all.
        if code < 400 || length.is_some_and(|length: usize| length > LARGEST_STATUS) {
            return Ok((code, Vec::new()));
        }
        Ok::<_, String>((code, kubernetes::connect::beginning(response.into_body(), LARGEST_STATUS).await))
    };
    let silent = match tokio::time::timeout(Duration::from_secs(5), ask).await {
        Err(_) => "no answer within 5 s".to_owned(),
        Ok(Err(error)) => error,
        Ok(Ok((code, body))) => match who_answered(code, &body) {
            Said::Endpoint => return Dialled::Answered,
            Said::Server(status) if matches!(status.code, 401 | 403) => {
                let what = format!("services/proxy of {} in {}", need.name, need.namespace);
                return Dialled::Refused(read_failed(&what, kube::Error::Api(status)));
            }
            Said::Server(status) => status.message,
        },
    };
    match not_of_pods(client, need).await {
        Some(why) => Dialled::Outside(why),
        None => Dialled::Silent(silent),
    }
}

/// Why the API server cannot dial this service although it may work: it only dials endpoints that
/// are pods, on a port that the service declares (`pkg/registry/core/service/storage`).
async fn not_of_pods(client: &Client, need: &ServiceNeed) -> Option<String> {
    let service = Api::<Service>::namespaced(client.clone(), &need.namespace).get_opt(&need.name).await.ok()??;
    let spec = service.spec?;
    if let Some(name) = spec.external_name.filter(|_| spec.type_.as_deref() == Some("ExternalName")) {
        return Some(format!("it is an alias of {name}, outside the cluster"));
    }
    let headless = spec.cluster_ip.as_deref() == Some("None") && spec.ports.unwrap_or_default().is_empty();
    let by_hand = spec.selector.unwrap_or_default().is_empty();
    if !headless && !by_hand {
        return None;
    }
    let labels = format!("kubernetes.io/service-name={}", need.name);
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), &need.namespace);
    let slices = slices.list(&ListParams::default().labels(&labels)).await.ok()?;
    let ready = slices.items.iter().flat_map(|slice| &slice.endpoints).any(|endpoint| {
        // Unset means ready.
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
    });
    let why = if by_hand { "its endpoints are not pods" } else { "it declares no port" };
    ready.then(|| format!("{why}, and are listed as ready"))
}

/// Who gave an answer over the API server's proxy.
#[derive(Debug)]
enum Said {
    /// The endpoint, with any answer, or with silence after it accepted the connection.
    Endpoint,
    /// The API server: nothing was reached.
    Server(Box<ApiStatus>),
}

fn who_answered(code: u16, body: &[u8]) -> Said {
    if code < 400 {
        return Said::Endpoint;
    }
    let text = String::from_utf8_lossy(body);
    let Some(status) = status_in(code, body, &text) else { return Said::Endpoint };
    if let Some(reason) = status.message.strip_prefix("error trying to reach service: ")
        && took_the_connection(reason)
    {
        return Said::Endpoint;
    }
    Said::Server(Box::new(status))
}

/// The API server's own Status; `None` if the answer is the endpoint's.
fn status_in(code: u16, body: &[u8], text: &str) -> Option<ApiStatus> {
    let own = |message: &str| ApiStatus {
        code,
        message: message.trim().to_owned(),
        status: None,
        metadata: None,
        reason: String::new(),
        details: None,
    };
    // What its filters write before there is a request to answer (`http.Error`).
    let filters = [
        "Too many requests, please try again later.",
        "Internal Server Error: \"/api/v1/namespaces/",
        "This request caused apiserver to panic",
        "apiserver not ready",
    ];
    if filters.iter().any(|words| text.starts_with(words)) {
        return Some(own(text));
    }
    let object: serde_json::Value = serde_json::from_slice(body).ok()?;
    if object.get("kind")? != "Status" || object.get("apiVersion")? != "v1" {
        return None;
    }
    let mut status: ApiStatus = serde_json::from_value(object).unwrap_or_else(|_| own("a Status that cannot be read"));
    status.code = code;
    // An endpoint may itself be an API server (in a pod, or an aggregated one). Its refusals are
    // about a path; ours would be about a resource.
    let about_a_path = status.message.contains(" path \"");
    (!(code == 403 && about_a_path)).then_some(status)
}

/// Whether a dialling error came after the connection was established: a Redis or Postgres endpoint
/// closes it, or does not speak HTTP. All others mean that nothing accepted it.
fn took_the_connection(reason: &str) -> bool {
    let after = [
        "EOF",
        "malformed HTTP",
        "connection reset by peer",
        "broken pipe",
        "server gave HTTP response to HTTPS client",
        "tls: first record does not look like a TLS handshake",
        "http: server closed idle connection",
        "server closed connection",
        "http2: ",
    ];
    let dialling = ["dial tcp", "proxy error", "lookup ", "proxyconnect"];
    !dialling.iter().any(|words| reason.contains(words)) && after.iter().any(|words| reason.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str) -> Vec<u8> {
        let status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": code,
        });
        serde_json::to_vec_pretty(&status).unwrap()
    }

    fn endpoint(code: u16, body: &[u8]) -> bool {
        matches!(who_answered(code, body), Said::Endpoint)
    }

    #[test]
    fn a_status_about_the_proxy_is_no_answer_of_the_endpoint() {
        for (code, message) in [
            (401, "Unauthorized"),
            (
                403,
                r#"services "minio:9000" is forbidden: User "dev" cannot get resource "services/proxy" in API group "" in the namespace "ameide""#,
            ),
            (404, "services \"minio\" not found"),
            (400, "invalid service request \"minio:x\""),
            (429, "too many requests, please try again later"),
            (500, "Internal error occurred: etcdserver: request timed out"),
            (503, "no endpoints available for service \"redis-master\""),
            (503, "no service port 9001 found for service \"minio\""),
            (503, "error trying to reach service: dial tcp 10.42.0.9:6379: connect: connection refused"),
            (503, "error trying to reach service: dial tcp 10.42.0.9:6379: i/o timeout"),
            (503, "error trying to reach service: dial tcp 10.42.0.9:6379: connect: no route to host"),
            (503, "error trying to reach service: dial tcp 10.42.0.9:6379: connect: connection reset by peer"),
            (
                503,
                "error trying to reach service: proxy error from 127.0.0.1:6443 while dialing 10.42.0.9:9000, code 502: 502 Bad Gateway",
            ),
            (503, "error trying to reach service: net/http: TLS handshake timeout"),
            (503, "error trying to reach service: context deadline exceeded"),
            (503, "error trying to reach service: words of a later version"),
            (504, "Timeout: request did not complete within requested timeout - context deadline exceeded"),
        ] {
            let Said::Server(said) = who_answered(code, &status(code, message)) else { panic!("{message}") };
            assert_eq!((said.code, said.message.as_str()), (code, message));
        }
        for (code, text) in [
            (429, "Too many requests, please try again later.\n"),
            (500, "Internal Server Error: \"/api/v1/namespaces/a/services/b:1/proxy/\": no kind\n"),
            (503, "apiserver not ready"),
        ] {
            assert!(!endpoint(code, text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn an_endpoint_that_refuses_or_talks_no_http_has_answered() {
        for (code, message) in [
            (503, "error trying to reach service: EOF"),
            (503, "error trying to reach service: unexpected EOF"),
            (503, r#"error trying to reach service: malformed HTTP response "-ERR wrong number of arguments""#),
            (
                503,
                r#"error trying to reach service: net/http: HTTP/1.x transport connection broken: malformed HTTP response "\x15\x03\x01""#,
            ),
            (
                503,
                "error trying to reach service: read tcp 10.42.0.1:4242->10.42.0.9:5432: read: connection reset by peer",
            ),
            // An API server in a pod: its message is about a path, ours would be about a resource.
            (403, r#"forbidden: User "system:anonymous" cannot get path "/""#),
        ] {
            assert!(endpoint(code, &status(code, message)), "{message}");
        }
        for (code, body) in [
            (200, "ok"),
            (302, ""),
            (400, "Client sent an HTTP request to an HTTPS server.\n"),
            (401, "<html>sign in</html>"),
            (403, "<Error><Code>AccessDenied</Code></Error>"),
            (404, "404 page not found\n"),
            (500, r#"{"error": "no endpoints available"}"#),
            (502, "<html><h1>502 Bad Gateway</h1>connection refused</html>"),
            (503, r#"{"kind": "Status", "message": "starting"}"#),
            (503, ""),
        ] {
            assert!(endpoint(code, body.as_bytes()), "{code} {body}");
        }
    }

    #[test]
    fn what_the_layer_itself_renders_is_known_by_namespace() {
        let release =
            |namespace: &str| Release { name: "x".into(), namespace: namespace.into(), enabled: true, installed: true };
        let manifests = "apiVersion: v1\nkind: Service\nmetadata: {name: minio}\n---\napiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Secret, metadata: {name: keys, namespace: other}}]\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: made}\n---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: fn, namespace: shop}\n";
        let own = Own::of(manifests, &[release("shop"), release("tests")]);
        for (kind, namespace, name, is) in [
            ("Service", "shop", "minio", true),
            ("Service", "tests", "minio", true),
            ("Service", "other", "minio", false),
            ("Secret", "other", "keys", true),
            ("Secret", "shop", "keys", false),
            ("Namespace", "", "made", true),
            ("Service", "shop", "fn", false),
        ] {
            assert_eq!(own.has(kind, namespace, name), is, "{kind} {namespace}/{name}");
        }
        assert!(!Own::of("kind: [", &[release("shop")]).has("Service", "shop", "minio"));
    }
}
