//! The connection to the API server: the kubeconfig's context, a proxy if there is one, and retries
//! when the server asks for them.
//!
//! Proxies are chosen as in client-go (`clientcmd/client_config.go`, `rest/transport.go`, and
//! `golang.org/x/net/http/httpproxy`): `proxy-url` of the kubeconfig's cluster first, then
//! `HTTPS_PROXY`, or `HTTP_PROXY` for a server without TLS, unless `NO_PROXY` says otherwise. A
//! cluster of this machine is reached directly, because no proxy can reach it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use image_mirror::{NoProxy, Proxy};
use kube::client::Body;
use kube::config::{Cluster, Kubeconfig};
use kube::{Client, Config};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::answers::{self, Place};
use super::unanswered::{Unanswered, Via};
use crate::repo::Repo;
use crate::run::context::{Context, Site};
use crate::run::foreign;
use crate::run::interrupt::Interrupt;
use crate::run::reporter::Reporter;
use crate::world::kubeconfig;
use crate::world::process::environment::limit_plugins;
use run_record::Failure;

/// A client for the run's context.
///
/// # Errors
/// `usage` for a malformed kubeconfig or proxy, naming it; `api-unreachable` for a missing context;
/// `unauthenticated` for unusable credentials.
pub async fn client(context: &Context) -> Result<Client, Failure> {
    // For its check that the context is this environment's own cluster.
    context.repo.k3d_config()?;
    let place = Place { context: context.site.kube_context.clone(), local: context.repo.env.cluster.k3d.is_some() };
    answers::talks_to(place.clone());
    let config = kubeconfig::load()?;
    let variable = |name: &str| std::env::var(name).ok();
    connect(&config, &place, variable, context.run.reporter.clone())
}

/// Creates clients like [`client`]'s, for a thread with its own runtime.
pub fn connector(context: &Context) -> impl Fn() -> Result<Client, Failure> + Send + 'static {
    let place = Place { context: context.site.kube_context.clone(), local: context.repo.env.cluster.k3d.is_some() };
    let reporter = context.run.reporter.clone();
    move || {
        let variable = |name: &str| std::env::var(name).ok();
        connect(&kubeconfig::load()?, &place, variable, reporter.clone())
    }
}

/// Variables for Helm and Helmfile, which do not know that a cluster is on this machine, or on a
/// network that no proxy reaches: adds its host to `NO_PROXY`.
pub fn reached_directly(repo: &Repo, site: &Site) -> Vec<(&'static str, String)> {
    let place = Place { context: site.kube_context.clone(), local: repo.env.cluster.k3d.is_some() };
    let Some(config) = kubeconfig::load().ok().filter(|_| place.local) else { return Vec::new() };
    let Ok((config, _)) = config_of(&config, &place) else { return Vec::new() };
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let list = set("NO_PROXY").or_else(|| set("no_proxy")).unwrap_or_default();
    let list = no_proxy_with(&list, &config.cluster_url);
    list.map(|list| vec![("NO_PROXY", list.clone()), ("no_proxy", list)]).unwrap_or_default()
}

/// `None` if the list already covers the server.
fn no_proxy_with(list: &str, server: &Uri) -> Option<String> {
    let host = server.host()?;
    if NoProxy::parse(list).covers(host, server.port_u16().unwrap_or(443)) {
        return None;
    }
    let host = host.trim_matches(['[', ']']);
    Some(if list.trim().is_empty() { host.to_owned() } else { format!("{list},{host}") })
}

fn connect(
    kubeconfig: &Kubeconfig,
    place: &Place,
    variable: impl Fn(&str) -> Option<String>,
    reporter: Arc<Reporter>,
) -> Result<Client, Failure> {
    let mut kubeconfig = kubeconfig.clone();
    limit_plugins(&mut kubeconfig);
    let (mut config, cluster) = config_of(&kubeconfig, place)?;
    config.connect_timeout = Some(Duration::from_secs(5));
    // Retries are ours: limited, and reported.
    config.default_retry = false;
    // Watches last longer than any single read.
    config.read_timeout = Some(Duration::from_secs(300));
    let via = via(&config.cluster_url, cluster.proxy_url.as_deref(), place.local, variable)?;
    config.proxy_url = via.as_ref().and_then(|via| via.proxy.url());
    let namespace = config.default_namespace.clone();
    let inner = Client::try_from(config).map_err(|error| match error {
        error @ kube::Error::Auth(_) => answers::failure(answers::Doing::Read, "the cluster", &error, place),
        error => unusable(place, answers::in_words(&error)),
    })?;
    let answered = Arc::new(AtomicBool::new(false));
    let patient = Patient { inner, via, reporter, context: place.context.clone(), answered };
    Ok(Client::new(patient, namespace))
}

fn unusable(place: &Place, why: String) -> Failure {
    let remedy = if place.local {
        "cargo xtask cluster kubeconfig writes it again".to_owned()
    } else {
        "get the cluster's kubeconfig again from whoever runs it".to_owned()
    };
    Failure::usage(format!("the kubeconfig's context {:?} cannot be used", place.context)).evidence(why).remedy(remedy)
}

/// The client's configuration for the context, except for the proxy: kube's own choice is never
/// used.
fn config_of<'a>(kubeconfig: &'a Kubeconfig, place: &Place) -> Result<(Config, &'a Cluster), Failure> {
    let named = kubeconfig.contexts.iter().find(|named| named.name == place.context);
    let Some(context) = named.and_then(|named| named.context.as_ref()) else {
        let mut names: Vec<&str> = kubeconfig.contexts.iter().map(|named| named.name.as_str()).collect();
        names.truncate(20);
        let there = if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
        let files = kubeconfig::files()?;
        let files = files.iter().map(|path| path.as_str()).collect::<Vec<_>>().join(", ");
        let mut failure =
            answers::unreachable(&place.context, format!("the kubeconfig ({files}) has no such context: {there}"));
        if !place.local {
            failure =
                failure.remedy("get the cluster's kubeconfig from whoever runs it, or name another context: --context");
        }
        return Err(failure);
    };
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster);
    let Some(cluster) = cluster.and_then(|named| named.cluster.as_ref()) else {
        return Err(unusable(place, format!("it names the cluster {:?}, which the kubeconfig lacks", context.cluster)));
    };
    let server = cluster.server.as_deref().unwrap_or_default();
    // Without a scheme, client-go assumes TLS if there are any TLS settings.
    let full = if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
    let url = full.parse::<Uri>().ok().filter(|url| url.host().is_some_and(|host| !host.is_empty()));
    let url = url.ok_or_else(|| {
        unusable(place, format!("the server of its cluster is {server:?}: expected https://HOST:PORT"))
    })?;
    let mut config = Config::new(url);
    config.default_namespace = context.namespace.clone().unwrap_or_else(|| "default".to_owned());
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or(false);
    config.disable_compression = cluster.disable_compression.unwrap_or(false);
    config.tls_server_name.clone_from(&cluster.tls_server_name);
    config.root_cert = authority(cluster).map_err(|why| unusable(place, why))?;
    // If the user entry is missing, client-go goes on without one, and so do we.
    let user = context.user.as_ref().and_then(|name| kubeconfig.auth_infos.iter().find(|named| named.name == *name));
    if let Some(info) = user.and_then(|named| named.auth_info.clone()) {
        config.auth_info = info;
    }
    if let Some(exec) = config.auth_info.exec.as_mut().filter(|exec| exec.provide_cluster_info) {
        exec.cluster = Some(cluster.try_into().map_err(|error| unusable(place, format!("{error}")))?);
    }
    Ok((config, cluster))
}

/// The authorities for the cluster's certificate; `None`: those of this machine.
fn authority(cluster: &Cluster) -> Result<Option<Vec<Vec<u8>>>, String> {
    use base64::Engine as _;
    let (pem, from) = match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
        (Some(data), _) if !data.is_empty() => {
            let pem = base64::engine::general_purpose::STANDARD.decode(data.trim());
            (
                pem.map_err(|_| "certificate-authority-data is not base64".to_owned())?,
                "certificate-authority-data".to_owned(),
            )
        }
        (_, Some(path)) if !path.is_empty() => {
            (std::fs::read(path).map_err(|error| format!("certificate-authority {path}: {error}"))?, path.clone())
        }
        _ => return Ok(None),
    };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(found) if !found.is_empty() => Ok(Some(found.into_iter().map(|certificate| certificate.to_vec()).collect())),
        _ => Err(format!("{from} holds no certificate in PEM")),
    }
}

/// The proxy for the server; `None`: reached directly.
///
/// # Errors
/// `usage` for a proxy that would be used but is invalid.
fn via(
    server: &Uri,
    of_kubeconfig: Option<&str>,
    local: bool,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Via>, Failure> {
    if let Some(text) = of_kubeconfig.filter(|text| !text.is_empty()) {
        // client-go checks neither NO_PROXY nor whether the host is this machine.
        let strict = text.contains("://").then_some(text);
        return named("proxy-url of the kubeconfig", strict.unwrap_or_default()).map(Some);
    }
    if local {
        return Ok(None);
    }
    let plain = server.scheme_str() == Some("http");
    let names = if plain { ["HTTP_PROXY", "http_proxy"] } else { ["HTTPS_PROXY", "https_proxy"] };
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let Some((from, text)) = names.into_iter().find_map(|name| Some((name, set(name)?))) else { return Ok(None) };
    let except = set("NO_PROXY").or_else(|| set("no_proxy")).unwrap_or_default();
    let port = server.port_u16().unwrap_or(if plain { 80 } else { 443 });
    if NoProxy::parse(&except).covers(server.host().unwrap_or_default(), port) {
        return Ok(None);
    }
    named(from, &text).map(Some)
}

fn named(from: &str, text: &str) -> Result<Via, Failure> {
    let proxy = Proxy::parse(text)
        .ok_or_else(|| mistyped(from, "expected http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"))?;
    // kube's client drops the account, and the proxy's refusal would not say why.
    if proxy.is_socks() && proxy.has_account() {
        let message = format!("{from} is a SOCKS proxy with an account, which cannot be used for the API server");
        return Err(Failure::usage(message)
            .remedy(format!("name an HTTP proxy, or leave the API server's host out of {from} by NO_PROXY")));
    }
    Ok(Via { proxy, from: from.to_owned() })
}

fn mistyped(from: &str, expected: &str) -> Failure {
    // It may contain an account, mistyped just there: it is not shown.
    Failure::usage(format!("{from} is not a proxy: {expected}"))
        .remedy(format!("correct {from}, or leave the API server's host out of it by NO_PROXY"))
}

/// Retries when the server asks for it. Reads only, except after a 429, which the server sends
/// before it does anything (API Priority and Fairness).
struct Patient {
    inner: Client,
    via: Option<Via>,
    reporter: Arc<Reporter>,
    context: String,
    /// Whether the server has ever answered: one that is not up yet is not waited for here.
    answered: Arc<AtomicBool>,
}

/// How often a request is retried, and how long all retries may take.
const ATTEMPTS: u32 = 4;
const LONGEST: Duration = Duration::from_secs(15);
/// The most that is read of an answer whose body decides, in bytes.
const READ: usize = 64 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl tower_service::Service<Request<Body>> for Patient {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let patient = Self {
            inner: self.inner.clone(),
            via: self.via.clone(),
            reporter: self.reporter.clone(),
            context: self.context.clone(),
            answered: self.answered.clone(),
        };
        Box::pin(async move { patient.ask(request).await })
    }
}

impl Patient {
    async fn ask(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (parts, mut body) = request.into_parts();
        let line = format!("{} {}", parts.method, parts.uri.path());
        let started = Instant::now();
        let mut attempt = 0;
        loop {
            // A streaming body can be sent only once.
            let (now, later) = match body.try_clone() {
                Some(copy) => (copy, Some(body)),
                None => (body, None),
            };
            let answer = self.inner.send(Request::from_parts(parts.clone(), now)).await;
            let again = later.is_some() && attempt < ATTEMPTS && is_patient(&parts.uri);
            let (answer, reason) = self.reason(&parts.method, answer).await;
            let wait = reason.as_ref().map(|reason| reason.wait(attempt));
            let next = wait.filter(|wait| again && started.elapsed().saturating_add(*wait) <= LONGEST);
            match (next, later) {
                (Some(wait), Some(later)) => {
                    body = later;
                    attempt += 1;
                    let why = reason.map(|reason| reason.words).unwrap_or_default();
                    let text =
                        format!("retrying in {:.1} s ({attempt} of {ATTEMPTS}): {line}: {why}", wait.as_secs_f64());
                    self.reporter.waiting(&self.context, text);
                    Interrupt::global().or(tokio::time::sleep(wait)).await?;
                }
                _ => {
                    return answer.map_err(|cause| match cause {
                        kube::Error::Service(error) => match error.downcast::<kube::client::AuthError>() {
                            Ok(error) => Box::new(kube::Error::Auth(*error)) as BoxError,
                            Err(error) => self.unanswered(line, kube::Error::Service(error)),
                        },
                        cause @ kube::Error::Auth(_) => Box::new(cause),
                        cause => self.unanswered(line, cause),
                    });
                }
            }
        }
    }

    fn unanswered(&self, request: String, cause: kube::Error) -> BoxError {
        Box::new(Unanswered { request, via: self.via.clone(), cause })
    }

    /// Why the same request may succeed in a moment, if so.
    async fn reason(
        &self,
        method: &Method,
        answer: kube::Result<Response<Body>>,
    ) -> (kube::Result<Response<Body>>, Option<Reason>) {
        let reads = *method == Method::GET;
        match answer {
            Err(error) => {
                let words = answers::in_words(&error);
                let cut = ["reset", "connection closed", "broken pipe", "unexpected EOF", "IncompleteMessage"];
                let cut = cut.iter().any(|cause| words.contains(cause));
                let restarting = words.contains("refused") && self.answered.load(Ordering::Relaxed);
                let again = reads && (cut || restarting) && self.via.is_none();
                (Err(error), again.then_some(Reason { words, asked: None }))
            }
            Ok(response) => {
                self.answered.store(true, Ordering::Relaxed);
                let status = response.status();
                let may = match status {
                    StatusCode::TOO_MANY_REQUESTS => true,
                    StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => reads,
                    // Of these, only what the body says is temporary.
                    StatusCode::INTERNAL_SERVER_ERROR => reads,
                    _ => false,
                };
                if !may {
                    return (Ok(response), None);
                }
                let header = response.headers().get(http::header::RETRY_AFTER);
                let header = header.and_then(|value| value.to_str().ok()).and_then(|value| {
                    // A wait that overflows the clock is too long to wait for, not zero.
                    image_mirror::asked_wait(value, std::time::SystemTime::now())
                });
                let (parts, body) = response.into_parts();
                let text = beginning(body, READ).await;
                let told: kube::core::Status = serde_json::from_slice(&text).unwrap_or_default();
                let details = told.details.as_ref().map(|details| u64::from(details.retry_after_seconds));
                let asked = header.or(details.filter(|seconds| *seconds > 0).map(Duration::from_secs));
                let passing =
                    status != StatusCode::INTERNAL_SERVER_ERROR || answers::is_passing(&String::from_utf8_lossy(&text));
                let words = match told.message.as_str() {
                    "" => status.to_string(),
                    message => format!("{status}: {}", foreign::plain(message)),
                };
                let response = Response::from_parts(parts, Body::from(text));
                (Ok(response), passing.then_some(Reason { words, asked }))
            }
        }
    }
}

/// Checks whether something answers, or what it currently says, are not retried; watches are
/// reopened by their caller.
fn is_patient(uri: &Uri) -> bool {
    let path = uri.path();
    let looks = ["/readyz", "/livez", "/healthz", "/version"].contains(&path) || path.contains("/proxy/");
    let watches = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    !looks && !watches
}

struct Reason {
    words: String,
    /// The wait that the server asked for.
    asked: Option<Duration>,
}

impl Reason {
    /// As asked, else 0.25 s and doubling.
    fn wait(&self, attempt: u32) -> Duration {
        self.asked.unwrap_or_else(|| Duration::from_millis(250 << attempt.min(4)))
    }
}

/// The first bytes of a body, at most `most`.
pub(crate) async fn beginning(mut body: Body, most: usize) -> Vec<u8> {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            let room = most - text.len();
            text.extend_from_slice(&data[..data.len().min(room)]);
            if text.len() == most {
                break;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in::{Answer, Server};

    /// Answers every request with this status.
    fn server(status: u16) -> Server {
        let refusal = serde_json::json!({"kind": "Status", "status": "Failure", "code": status, "message": "no"});
        Server::start(move |_| Answer::json(status, &refusal))
    }

    #[tokio::test]
    async fn a_write_is_repeated_only_where_the_server_has_done_nothing_yet() {
        use k8s_openapi::api::core::v1::Secret;
        use kube::api::{Api, DeleteParams, PostParams};
        for (status, times) in [(429, ATTEMPTS as usize + 1), (503, 1), (504, 1), (500, 1), (409, 1)] {
            let server = server(status);
            let address = &server.address;
            let config = format!(
                "clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n"
            );
            let config = Kubeconfig::from_yaml(&config).unwrap();
            let place = Place { context: "x".into(), local: true };
            let reporter = Arc::new(Reporter::new(crate::run::reporter::Format::Text, false));
            let client = connect(&config, &place, |_| None, reporter).unwrap();
            let api = Api::<Secret>::namespaced(client, "a");
            let error = if status == 504 {
                api.delete("x", &DeleteParams::default()).await.map(drop).unwrap_err()
            } else {
                api.create(&PostParams::default(), &Secret::default()).await.map(drop).unwrap_err()
            };
            assert!(matches!(&error, kube::Error::Api(found) if found.code == status), "{error}");
            assert_eq!(server.seen().len(), times, "{status}");
        }
    }

    #[test]
    fn a_local_cluster_is_named_to_programs_that_read_no_proxy() {
        for (list, server, expected) in [
            ("", "https://k3d-ameide-serverlb:6443", Some("k3d-ameide-serverlb")),
            ("10.0.0.0/8,.corp", "https://k3d-ameide-serverlb:6443", Some("10.0.0.0/8,.corp,k3d-ameide-serverlb")),
            ("k3d-ameide-serverlb", "https://k3d-ameide-serverlb:6443", None),
            ("*", "https://k3d-ameide-serverlb:6443", None),
            ("", "https://0.0.0.0:6550", Some("0.0.0.0")),
            ("", "https://[fd00::1]:6550", Some("fd00::1")),
            ("", "https://127.0.0.1:6551", None),
        ] {
            assert_eq!(no_proxy_with(list, &server.parse().unwrap()).as_deref(), expected, "{list} {server}");
        }
    }
    #[test]
    fn a_proxy_leads_to_a_server_as_client_go_reads_the_environment() {
        const SECRET: &str = "socks5://me:s3cret@proxy.example";
        type Row = (
            &'static [(&'static str, &'static str)],
            Option<&'static str>,
            bool,
            Result<Option<&'static str>, &'static str>,
        );
        let rows: &[Row] = &[
            (&[], None, false, Ok(None)),
            (&[("HTTPS_PROXY", "proxy.example:3128")], None, false, Ok(Some("http://proxy.example:3128"))),
            (&[("https_proxy", "socks5://proxy.example")], None, false, Ok(Some("socks5://proxy.example:1080"))),
            (&[("HTTP_PROXY", "proxy.example:3128")], None, false, Ok(None)),
            (&[("ALL_PROXY", "proxy.example:3128")], None, false, Ok(None)),
            (&[("HTTPS_PROXY", "proxy.example:3128"), ("NO_PROXY", ".example")], None, false, Ok(None)),
            // A cluster of this machine is reached directly, unless its kubeconfig says otherwise.
            (&[("HTTPS_PROXY", "proxy.example:3128")], None, true, Ok(None)),
            (&[("NO_PROXY", "*")], Some("http://own.example"), true, Ok(Some("http://own.example:80"))),
            (&[], Some("own.example:3128"), true, Err("proxy-url of the kubeconfig")),
            (&[("HTTPS_PROXY", "htp://proxy.example")], None, false, Err("HTTPS_PROXY")),
            (&[("HTTPS_PROXY", SECRET)], None, false, Err("HTTPS_PROXY")),
            (&[], Some(SECRET), false, Err("proxy-url of the kubeconfig")),
        ];
        let server = "https://api.example:6443".parse().unwrap();
        for (variables, of_kubeconfig, local, expected) in rows {
            let variable =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            match (via(&server, *of_kubeconfig, *local, variable), expected) {
                (Ok(found), Ok(address)) => assert_eq!(found.map(|via| via.address()).as_deref(), *address),
                (Err(failure), Err(name)) => {
                    assert!(
                        failure.message.starts_with(name) && !format!("{failure:?}").contains("s3cret"),
                        "{failure:?}"
                    );
                }
                (found, _) => panic!("{variables:?} {of_kubeconfig:?} {local}: {found:?}"),
            }
        }
    }
}
