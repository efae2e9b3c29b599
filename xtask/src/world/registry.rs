//! Registries, ours and public ones: their addresses, the proxies and accounts used for them, what
//! their answers mean, and whether ours answers. What is copied is decided in the mirror room.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::select_ok;
use image_mirror::{Credential, Credentials, Endpoint, Kind, Options, Proxies, RetryPolicy};

use crate::repo::Repo;
use crate::run::context::Site;
use crate::run::wait;
use crate::world::process::environment::variable;
use crate::world::{docker_hub, proxies};
use run_record::{Code, Failure};

/// How long a registry may take for one answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The environment's registry, or another one by its name.
pub(crate) fn endpoint(repo: &Repo, site: &Site, named: Option<&str>) -> Endpoint {
    let settings = &repo.env.registry;
    let ca = settings.ca.as_ref().map(|path| repo.tree.path(path.as_str()));
    match named {
        Some(host) => Endpoint { ca, ..Endpoint::named(host) },
        None => Endpoint { host: site.registry_host.clone(), plain_http: settings.plain_http, ca, anonymous: false },
    }
}

/// How registries are reached from here; images are pushed to the environment's.
///
/// # Errors
/// `usage` for a malformed proxy or registry; `registry-auth` for an incomplete account.
pub(crate) fn options(repo: &Repo, site: &Site) -> Result<Options, Failure> {
    let mut options = Options::to(endpoint(repo, site, None));
    options.credentials.docker_config = Credentials::docker_config_path(variable);
    options.credentials.docker_auth_config = variable("DOCKER_AUTH_CONFIG").map(image_mirror::AuthConfig);
    options.proxies = proxies::named()?;
    if repo.env.cluster.k3d.is_some() {
        // It is on this machine or on the cluster's network, which no proxy reaches.
        let (authority, _) = options.target.parts().map_err(failure)?;
        options.proxies = options.proxies.never_for(authority.host());
    }
    if let Some(docker_hub::Account { username, token }) = docker_hub::account(variable)? {
        let account = Credential::Password { username, password: token };
        options.credentials.accounts = BTreeMap::from([(docker_hub::NAME.to_owned(), account)]);
    }
    // Pods know ours by another name.
    let pull = repo.env.registry.pull.clone();
    options.sources = BTreeMap::from([(pull, options.target.clone())]);
    Ok(options)
}

/// What to do about a registry that denies an image.
pub(crate) const DENIED: &str = "check the name in infra/images/images.yaml, and that the account may read it (of our registry: write to it): docker login";

/// Turns the library's error into a failure in this tool's words.
pub(crate) fn failure(error: image_mirror::Error) -> Failure {
    let (code, remedy) = match error.kind() {
        Kind::RateLimited => (
            Code::RegistryRateLimited,
            "docker login (or set DOCKERHUB_USERNAME and DOCKERHUB_TOKEN), then run it again: what was copied stays",
        ),
        Kind::Auth => (Code::RegistryAuth, "docker login, or correct DOCKERHUB_USERNAME and DOCKERHUB_TOKEN"),
        Kind::Denied => (Code::RegistryDeniedOrMissing, DENIED),
        Kind::NotFound => {
            (Code::ImageNotFound, "check the tag in infra/images/images.yaml, then cargo xtask mirror --update")
        }
        Kind::Dns => (Code::RegistryDns, "check the network; without one: cargo xtask up --lab"),
        Kind::Unreachable => (
            Code::RegistryUnreachable,
            "check the network (without one: cargo xtask up --lab), and cargo xtask cluster for our registry",
        ),
        Kind::Proxy => (Code::RegistryUnreachable, "check HTTPS_PROXY; NO_PROXY names what is reached without a proxy"),
        Kind::Tls => {
            (Code::RegistryTls, "where its certificate authority is not known here, registry.ca in env.yaml names it")
        }
        Kind::TlsName => (
            Code::RegistryTls,
            "name the registry as its certificate does, or give it one for this name too (subjectAltName)",
        ),
        Kind::TlsTime => {
            (Code::RegistryTls, "renew the registry's certificate; if it is good, set this machine's clock")
        }
        Kind::DiskFull => (
            Code::DiskFull,
            "free space where the registry keeps its images (docker system df), or raise its quota, then run it again: what was copied stays",
        ),
        Kind::Protocol => (Code::RegistryProtocol, "check registry.plainHTTP in env.yaml"),
        Kind::BodyLimit => (
            Code::RegistryBodyLimit,
            "raise the body limit of the proxy in front of the registry (nginx: client_max_body_size 0), then run it again: what was copied stays",
        ),
        Kind::Platform => (Code::ImagePlatform, "check the platforms in infra/images/images.yaml"),
        Kind::Usage => (Code::Usage, "correct the file"),
        Kind::Invalid => (Code::ImageInvalid, "cargo xtask mirror --update"),
    };
    let mut failure = Failure::new(code, error.to_string()).remedy(remedy);
    let others = error.other_images();
    failure.evidence = others.iter().map(|(ids, reason)| format!("{}: {reason}", ids.join(", "))).collect();
    failure
}

/// The URL of the registry's health check: `K3D_REGISTRY_HEALTHCHECK_URL`, else its catalog, by the
/// name that this machine pushes to.
fn health_url(repo: &Repo, site: &Site) -> Result<String, Failure> {
    const VARIABLE: &str = "K3D_REGISTRY_HEALTHCHECK_URL";
    let Some(url) = std::env::var(VARIABLE).ok().filter(|url| !url.is_empty()) else {
        let scheme = if repo.env.registry.plain_http { "http" } else { "https" };
        // A prefix is one of repositories.
        let host = site.registry_host.split('/').next().unwrap_or_default();
        return Ok(format!("{scheme}://{host}/v2/_catalog"));
    };
    let parsed = url.parse::<http::Uri>();
    if parsed.is_ok_and(|url| url.host().is_some() && matches!(url.scheme_str(), Some("http" | "https"))) {
        return Ok(url);
    }
    Err(Failure::usage(format!("{VARIABLE} {url:?}: expected a URL like http://localhost:5000/v2/_catalog")))
}

/// Checks the environment's registry once. One that requires another account is healthy all the
/// same: whether it serves an image is up to the check of that image.
///
/// # Errors
/// `registry-unreachable` if nothing answers, or not like a healthy registry; `registry-tls` for a
/// certificate; `usage` for an invalid URL.
pub(crate) async fn healthy(repo: &Repo, site: &Site) -> Result<(), Failure> {
    let url = health_url(repo, site)?;
    let options = options(repo, site)?;
    let asked = tokio::time::timeout(PATIENCE, image_mirror::ping(&options, Some(&url))).await;
    let evidence = match asked {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) if matches!(error.kind(), Kind::Auth | Kind::Denied) => return Ok(()),
        Ok(Err(error)) if matches!(error.kind(), Kind::Tls | Kind::TlsName | Kind::TlsTime | Kind::RateLimited) => {
            return Err(failure(error));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => slow(),
    };
    Err(silent(format!("the registry does not answer at {url}"), evidence))
}

fn slow() -> String {
    format!("no answer within {} s", PATIENCE.as_secs())
}

fn silent(message: String, evidence: String) -> Failure {
    Failure::new(Code::RegistryUnreachable, message)
        .evidence(evidence)
        .remedy("docker ps shows whether its container runs; cargo xtask cluster starts it")
}

/// Waits for a registry of this machine that was just started: any answer will do.
pub(crate) async fn wait_until_it_answers(endpoint: &Endpoint, timeout: Duration) -> Result<(), Failure> {
    const EVERY: Duration = Duration::from_millis(100);
    // This machine is never reached through a proxy.
    let proxies = Proxies::default();
    let look = async || {
        let asked = tokio::time::timeout(PATIENCE, image_mirror::answers(endpoint, &proxies)).await;
        Ok(match asked {
            Ok(Ok(())) => ControlFlow::Break(()),
            Ok(Err(error)) => ControlFlow::Continue(error.to_string()),
            Err(_) => ControlFlow::Continue(slow()),
        })
    };
    match wait::until(EVERY, timeout, look).await? {
        ControlFlow::Break(()) => Ok(()),
        ControlFlow::Continue(evidence) => {
            Err(silent(format!("the registry at {} does not answer", endpoint.host), evidence))
        }
    }
}

/// How an image's registry currently limits us, with the image's name as pods pull it; `None` if
/// the registry does not say, or cannot be reached.
pub(crate) async fn limit(repo: &Repo, site: &Site, image: &str) -> Option<image_mirror::Limit> {
    let retry = RetryPolicy { stall: PATIENCE, ..RetryPolicy::default() };
    let options = Options { retry, ..options(repo, site).ok()? };
    let (host, _) = image.split_once('/')?;
    let asked = async {
        let usual = image_mirror::limit(image, &options);
        if !host.contains(':') || options.sources.contains_key(host) {
            return usual.await.ok();
        }
        // The nodes may use plain HTTP for a host with a port, so it is tried both ways at once,
        // because a server without TLS may not answer a TLS hello at all. No account is sent there.
        let mut plain = options.clone();
        let unnamed = Endpoint { plain_http: true, anonymous: true, ..Endpoint::named(host) };
        plain.sources.insert(host.to_owned(), unnamed);
        let plain = image_mirror::limit(image, &plain);
        select_ok([usual.boxed_local(), plain.boxed_local()]).await.ok().map(|(limit, _)| limit)
    };
    tokio::time::timeout(PATIENCE, asked).await.ok()?
}
