//! The registry that the cluster pulls from, and what `mirror` puts into it:
//! this tool's side of the `image-mirror` library.

mod progress;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use image_mirror::{
    Account, Credentials, Digest, Endpoint, Event, Finding, Kept, Kind, Lock, Observe, Options, Proxies, Wanted,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::files::human_bytes;
use crate::lab::{self, Lab};
use crate::layer::pull_secret;
use crate::mirror::progress::Transfer;
use crate::run::context::Context;
use crate::run::interrupt::Interrupt;
use crate::run::reporter::{self, ImagesEvent};
use run_record::{Code, Failure};

#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Ids of infra/images/images.yaml; all of them if none is given
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Only say what is missing or stale, and which image of a layer is not from the
    /// mirror by the lock's digest; exit 5 if anything is
    #[arg(long)]
    pub check: bool,
    /// Resolve the tags again and rewrite the lock, showing old and new digest
    #[arg(long, conflicts_with = "check")]
    pub update: bool,
    /// Copy to this registry, HOST[:PORT][/PREFIX], instead of the environment's
    #[arg(long, value_name = "REGISTRY", conflicts_with = "update")]
    pub to: Option<String>,
    /// Look at every blob, also of images whose manifest is there already
    #[arg(long, conflicts_with_all = ["check", "update"])]
    pub force: bool,
}

pub fn images_path(context: &Context) -> Utf8PathBuf {
    context.tree.path("infra/images/images.yaml")
}

/// The lock in force: the lab has one of its own, since what it serves is built here.
pub fn lock_path(context: &Context, lab: Option<&Lab>) -> Utf8PathBuf {
    lab.map_or_else(|| context.tree.path("infra/images/images.lock"), |lab| lab.lock.clone())
}

/// What the lock in force says.
pub fn lock(context: &Context, lab: Option<&Lab>) -> Result<Lock, Failure> {
    read_lock(&lock_path(context, lab))
}

fn read_lock(path: &Utf8Path) -> Result<Lock, Failure> {
    Lock::read(path).map_err(failure)
}

/// Where images go: the environment's registry, or the one that `--to` names.
fn target(context: &Context, to: Option<&str>) -> Endpoint {
    let settings = &context.env.registry;
    let ca = settings.ca.as_ref().map(|path| context.tree.path(path.as_str()));
    match to {
        Some(host) => Endpoint { ca, ..Endpoint::named(host) },
        None => Endpoint { host: context.registry_host.clone(), plain_http: settings.plain_http, ca, anonymous: false },
    }
}

/// The proxies that the environment names.
///
/// # Errors
/// `usage` for one that is mistyped.
pub fn proxies() -> Result<Proxies, Failure> {
    Proxies::from_env().map_err(|error| {
        Failure::usage(error.to_string()).remedy("correct the variable; NO_PROXY names what is reached without it")
    })
}

fn options(context: &Context, lab: bool) -> Result<Options, Failure> {
    let variable = crate::world::process::environment::variable;
    let mut options = Options::to(target(context, None));
    options.credentials.docker_config = Credentials::docker_config_path(variable);
    options.credentials.docker_auth_config = variable("DOCKER_AUTH_CONFIG").map(image_mirror::AuthConfig);
    options.proxies = proxies()?;
    if context.env.cluster.k3d.is_some() {
        // It is on this machine or on the cluster's network, where no proxy reaches.
        let (authority, _) = options.target.parts().map_err(failure)?;
        options.proxies = options.proxies.never_for(authority.host());
    }
    if lab {
        // It stands in for registries whose accounts it must never see.
        let upstream = Endpoint { host: lab::upstream_address(), plain_http: true, ca: None, anonymous: true };
        options.sources = lab::UPSTREAM_HOSTS.iter().map(|host| ((*host).to_owned(), upstream.clone())).collect();
    }
    if let Some((username, password)) = pull_secret::account(variable)?.map(pull_secret::Account::into_parts) {
        options.credentials.accounts =
            BTreeMap::from([("docker.io".to_owned(), Account::Password { username, password })]);
    }
    Ok(options)
}

/// What is wanted; of the lab, what a machine like this one can build.
fn wanted(context: &Context, lab: bool) -> Result<Wanted, Failure> {
    let mut wanted = Wanted::read(&images_path(context)).map_err(failure)?;
    if lab {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        wanted.images.iter_mut().for_each(|image| image.platforms = vec![format!("linux/{arch}")]);
    }
    Ok(wanted)
}

/// This tool's words for what the library says went wrong.
fn failure(error: image_mirror::Error) -> Failure {
    let (code, remedy) = match error.kind() {
        Kind::RateLimited => (
            Code::RegistryRateLimited,
            "docker login (or set DOCKERHUB_USERNAME and DOCKERHUB_TOKEN), then run it again: what was copied stays",
        ),
        Kind::Auth => (Code::RegistryAuth, "docker login, or correct DOCKERHUB_USERNAME and DOCKERHUB_TOKEN"),
        Kind::Denied => (
            Code::RegistryDeniedOrMissing,
            "check the name in infra/images/images.yaml, and that the account may read it (of our registry: write to it): docker login",
        ),
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
            "free space where the registry keeps its images (docker system df), then run it again: what was copied stays",
        ),
        Kind::Protocol => (Code::RegistryProtocol, "check registry.plainHTTP in env.yaml"),
        Kind::BodyLimit => (
            Code::RegistryBodyLimit,
            "raise the body limit of the proxy before the registry (nginx: client_max_body_size 0), then run it again: what was copied stays",
        ),
        Kind::Platform => (Code::ImagePlatform, "check the platforms in infra/images/images.yaml"),
        Kind::Lock => (Code::Usage, "correct the file"),
        Kind::Invalid => (Code::ImageInvalid, "cargo xtask mirror --update"),
    };
    let mut failure = Failure::new(code, error.to_string()).remedy(remedy);
    let others = error.other_images();
    failure.evidence = others.iter().map(|(ids, reason)| format!("{}: {reason}", ids.join(", "))).collect();
    failure
}

/// Registries may keep us waiting for minutes: an interrupt ends that at once. What was
/// half sent is in no repository, and what was complete stays.
async fn interruptible<T>(work: impl Future<Output = Result<T, image_mirror::Error>>) -> Result<T, Failure> {
    Interrupt::global().or(work).await?.map_err(failure)
}

/// `cargo xtask mirror`.
pub async fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    if let Some(to) = &args.to {
        // Not by clap, whose message would repeat an account that somebody wrote there.
        Endpoint::named(to).parts().map_err(|error| Failure::usage(format!("--to: {error}")))?;
    }
    let lab = existing_lab(context).await?;
    let path = lock_path(context, lab.as_ref());
    if args.update {
        return update(context, lab.is_some(), &path, &args.images, &Kept::default()).await;
    }
    let ids: Vec<&str> = args.images.iter().map(String::as_str).collect();
    if args.check {
        let lock = pick(context, read_lock(&path)?, &ids)?;
        check_lock(context, lab.is_some(), &lock, args.to.as_deref()).await?;
        if ids.is_empty() && args.to.is_none() {
            let count = crate::layer::check_all_images(context, lab.as_ref()).await?;
            context
                .reporter
                .note("mirror", format!("{count} places name an image in the layers: all mirrored and pinned"));
        }
        return Ok(());
    }
    if context.dry_run {
        let lock = pick(context, read_lock(&path)?, &ids)?;
        let to = args.to.as_ref().unwrap_or(&context.env.registry.push);
        for image in &lock.images {
            context.reporter.planned("mirror", format!("copy {} to {to}/{}", image.image, image.target));
        }
        return Ok(());
    }
    copy(context, lab.as_ref(), &ids, |options| {
        options.force = args.force;
        if args.to.is_some() {
            options.target = target(context, args.to.as_deref());
        }
    })
    .await
}

/// The lab that the cluster was made with, or that was asked for.
async fn existing_lab(context: &Context) -> Result<Option<Lab>, Failure> {
    if context.k3d_config()?.is_none() || context.lab == Some(false) {
        return Ok(None);
    }
    let wanted = context.lab == Some(true) || crate::cluster::made_with_lab(context).await?;
    if wanted { lab::ensure(context).await.map(Some) } else { Ok(None) }
}

pub async fn mirror_all(context: &Context, lab: Option<&Lab>) -> Result<(), Failure> {
    mirror_ids(context, lab, &[]).await
}

/// Copies the images with these ids (all for none); those that are there already cost one HEAD each.
pub async fn mirror_ids(context: &Context, lab: Option<&Lab>, ids: &[&str]) -> Result<(), Failure> {
    copy(context, lab, ids, |_| {}).await
}

async fn copy(
    context: &Context,
    lab: Option<&Lab>,
    ids: &[&str],
    change: impl FnOnce(&mut Options),
) -> Result<(), Failure> {
    let path = lock_path(context, lab);
    let mut lock = read_lock(&path)?;
    // What is resolved now is not asked for again.
    let kept = Kept::default();
    let unresolved: Vec<String> =
        lock.images.iter().filter(|image| !image.is_resolved()).map(|image| image.id.clone()).collect();
    if !unresolved.is_empty() {
        context.reporter.note(
            "mirror",
            format!("not resolved yet: {}: asking the registries, and writing {path}", unresolved.join(", ")),
        );
        update(context, lab.is_some(), &path, &unresolved, &kept).await?;
        lock = read_lock(&path)?;
    }
    let lock = pick(context, lock, ids)?;
    let mut options = Options { kept, ..options(context, lab.is_some())? };
    change(&mut options);
    let step = context.reporter.step("mirror", images(lock.images.len()));
    let started = Instant::now();
    let summary = interruptible(image_mirror::copy(&lock, &options, &Transfer::new(&context.reporter))).await?;
    context.reporter.event(&reporter::Event::Images(ImagesEvent {
        copied: summary.copied,
        skipped: summary.skipped,
        blobs: summary.blobs,
        there: summary.there,
        mounted: summary.mounted,
        bytes: summary.bytes,
        source_requests: summary.source_requests,
        seconds: started.elapsed().as_secs_f64(),
    }));
    if summary.copied == 0 {
        step.unchanged(format!("{} there already", images(summary.skipped)));
    } else {
        let mut words = vec![format!("{} copied ({})", images(summary.copied), human_bytes(summary.bytes))];
        let counts = [(summary.skipped, "there"), (summary.mounted, "blobs mounted"), (summary.there, "blobs there")];
        words.extend(counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        words.push(format!("{} requests upstream", summary.source_requests));
        step.done_as(words.join(", "));
    }
    for quota in &summary.quotas {
        context.reporter.note("mirror", quota.to_string());
    }
    Ok(())
}

fn images(count: usize) -> String {
    format!("{count} image{}", if count == 1 { "" } else { "s" })
}

fn pick(context: &Context, mut lock: Lock, ids: &[&str]) -> Result<Lock, Failure> {
    if let Some(unknown) = ids.iter().find(|id| !lock.images.iter().any(|image| image.id == **id)) {
        let known: Vec<&str> = lock.images.iter().map(|image| image.id.as_str()).collect();
        return Err(Failure::usage(format!(
            "no image {unknown:?} in {}: expected one of {}",
            images_path(context),
            known.join(", ")
        )));
    }
    lock.images.retain(|image| ids.is_empty() || ids.contains(&image.id.as_str()));
    Ok(lock)
}

/// Resolves tags again and rewrites the lock.
async fn update(context: &Context, lab: bool, path: &Utf8Path, ids: &[String], kept: &Kept) -> Result<(), Failure> {
    let wanted = wanted(context, lab)?;
    let old = match Lock::read(path) {
        Ok(old) => Some(old),
        // What it says of the other images would be lost.
        Err(error) if !ids.is_empty() && path.exists() => return Err(failure(error)),
        Err(_) => None,
    };
    let mut subset = wanted.clone();
    subset.images.retain(|image| ids.is_empty() || ids.contains(&image.id));
    let template = Lock::unresolved(&wanted);
    let options = Options { kept: kept.clone(), ..options(context, lab)? };
    let transfer = Transfer::new(&context.reporter);
    let fresh = interruptible(image_mirror::resolve(&subset, old.as_ref(), &options, &transfer)).await?;
    drop(transfer);
    let mut lock = template;
    for image in &mut lock.images {
        let before = old.as_ref().and_then(|old| old.images.iter().find(|other| other.id == image.id));
        let after = fresh.images.iter().find(|other| other.id == image.id);
        if let Some(chosen) = after.or(before) {
            *image = chosen.clone();
        }
        if let (Some(after), true) =
            (after, before.map(|before| &before.target_digest) != after.map(|after| &after.target_digest))
        {
            let digest = |digest: Option<&Digest>| digest.map_or("unresolved".to_owned(), ToString::to_string);
            context.reporter.note(
                &image.id,
                format!(
                    "{} -> {}",
                    digest(before.and_then(|before| before.target_digest.as_ref())),
                    digest(after.target_digest.as_ref())
                ),
            );
        }
    }
    if context.dry_run {
        context.reporter.planned("mirror", format!("write {path}"));
        return Ok(());
    }
    lock.write(path).map_err(failure)
}

async fn check_lock(context: &Context, lab: bool, lock: &Lock, to: Option<&str>) -> Result<(), Failure> {
    let options = Options { target: target(context, to), ..options(context, lab)? };
    let findings = interruptible(image_mirror::check(lock, &options)).await?;
    let registry = to.unwrap_or(&context.env.registry.push);
    if findings.is_empty() {
        context.reporter.note("mirror", format!("all {} in {registry}", images(lock.images.len())));
        return Ok(());
    }
    Err(not_mirrored(registry, findings.iter().map(ToString::to_string).collect()))
}

fn not_mirrored(registry: &str, findings: Vec<String>) -> Failure {
    let mut failure = Failure::new(
        Code::ImageNotMirrored,
        format!("{} not in the registry {registry} as the lock says", images(findings.len())),
    )
    .remedy("cargo xtask mirror");
    failure.evidence = findings;
    failure
}

/// Before a layer: the registry answers, and holds what the lock names.
pub async fn check_mirror(context: &Context, lab: Option<&Lab>) -> Result<(), Failure> {
    let lock = read_lock(&lock_path(context, lab))?;
    let findings = interruptible(image_mirror::check(&lock, &options(context, lab.is_some())?)).await?;
    if findings.is_empty() {
        Ok(())
    } else {
        Err(not_mirrored(&context.env.registry.push, findings.iter().map(ToString::to_string).collect()))
    }
}

/// What of the lock is not in the registry, and how many images it names.
pub async fn findings(context: &Context, lab: bool) -> Result<(usize, Vec<Finding>), Failure> {
    let path = if lab { lab::lock_file()? } else { lock_path(context, None) };
    let lock = read_lock(&path)?;
    let findings = interruptible(image_mirror::check(&lock, &options(context, lab)?)).await?;
    Ok((lock.images.len(), findings))
}

/// Where the registry is asked for its health: `K3D_REGISTRY_HEALTHCHECK_URL`, else
/// its catalog by the name that this machine pushes to.
pub fn health_url(context: &Context) -> String {
    let scheme = if context.env.registry.plain_http { "http" } else { "https" };
    std::env::var("K3D_REGISTRY_HEALTHCHECK_URL")
        .ok()
        .filter(|url| !url.is_empty())
        .unwrap_or_else(|| format!("{scheme}://{}/v2/_catalog", context.registry_host))
}

/// Asks a registry's health once.
///
/// # Errors
/// `registry-unreachable` when nothing answers, or a plain-HTTP answer is not 200;
/// `usage` for a URL that is none.
pub async fn healthy(url: &str) -> Result<(), Failure> {
    let wrong = || {
        Failure::usage(format!(
            "K3D_REGISTRY_HEALTHCHECK_URL {url:?}: expected a URL like http://localhost:5000/v2/_catalog"
        ))
    };
    let parsed: http::Uri = url.parse().map_err(|_| wrong())?;
    let (Some(host), Some(scheme @ ("http" | "https"))) = (parsed.host(), parsed.scheme_str()) else {
        return Err(wrong());
    };
    let unreachable = |evidence: String| {
        Failure::new(Code::RegistryUnreachable, format!("the registry does not answer at {url}"))
            .evidence(evidence)
            .remedy("docker ps shows whether its container runs; cargo xtask cluster starts it")
    };
    let port = parsed.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
    let path = parsed.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    // Over TLS, that it takes a connection: reading the images that follows speaks to it.
    let path = (scheme == "http").then_some(path);
    let status = tokio::time::timeout(Duration::from_secs(3), first_line(&format!("{host}:{port}"), path)).await;
    match status {
        Ok(Ok(line)) if path.is_none() || line.ends_with(" 200") => Ok(()),
        Ok(Ok(line)) => Err(unreachable(format!("it answered {line:?}"))),
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_) => Err(unreachable("no answer within 3 s".to_owned())),
    }
}

/// Connects, and asks for a path if one is given: `HTTP/1.1 200`.
async fn first_line(address: &str, path: Option<&str>) -> std::io::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let Some(path) = path else { return Ok(String::new()) };
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// An image as pods name it.
pub fn pull_reference(context: &Context, lab: Option<&Lab>, id: &str) -> Result<String, Failure> {
    let path = lock_path(context, lab);
    let lock = read_lock(&path)?;
    let image = lock.images.iter().find(|image| image.id == id);
    let image = image.ok_or_else(|| Failure::usage(format!("{path}: no image {id:?}")))?;
    let digest = image.target_digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
    Ok(format!("{}/{}{digest}", context.env.registry.pull, image.target))
}

/// Resolves everything at the lab's upstream into the lab's own lock.
pub async fn resolve_lab_lock(context: &Context, path: &Utf8Path) -> Result<(), Failure> {
    update(context, true, path, &[], &Kept::default()).await
}

/// Whether the lab's upstream still serves what the lab's lock says. One that cannot be
/// asked is not in the way: where an image is still to be copied, that will tell.
pub async fn lock_is_served(context: &Context, path: &Utf8Path) -> Result<bool, Failure> {
    let Ok(lock) = Lock::read(path) else { return Ok(false) };
    let (wanted, options) = (wanted(context, true)?, options(context, true)?);
    let fresh = Interrupt::global().or(image_mirror::resolve(&wanted, Some(&lock), &options, &Quiet)).await?;
    Ok(match fresh {
        Ok(fresh) => fresh == lock,
        Err(error) => matches!(error.kind(), Kind::Unreachable | Kind::RateLimited),
    })
}

struct Quiet;

impl Observe for Quiet {
    fn event(&self, _event: Event) {}
}

/// Waits for a registry that was just started: any answer to `/v2/` will do.
pub async fn wait_until_it_answers(address: &str, timeout: Duration) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        let Err(reason) = answers(address).await else { return Ok(()) };
        if started.elapsed() >= timeout {
            return Err(Failure::new(Code::RegistryUnreachable, format!("the registry at {address} does not answer"))
                .evidence(reason)
                .remedy("docker ps shows whether its container runs; cargo xtask cluster starts it"));
        }
        Interrupt::global().or(tokio::time::sleep(Duration::from_millis(100))).await?;
    }
}

async fn answers(address: &str) -> Result<(), String> {
    match tokio::time::timeout(Duration::from_secs(3), first_line(address, Some("/v2/"))).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.") => Ok(()),
        Ok(Ok(answer)) => Err(format!("answered {answer:?}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within 3 s".to_owned()),
    }
}
