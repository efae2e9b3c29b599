//! The local k3d cluster and its registry: reconciled with the config file, and checked to be
//! ready.

mod agents;
mod containers;
mod decide;
pub mod devcontainer;
mod facts;
mod images;
mod k3d;
pub(crate) mod k3d_errors;
pub(crate) mod label;
pub mod lease;
pub(crate) mod loadbalancer;
pub mod lock;
mod marker;
mod network;
mod registry_container;
pub mod registry_hosting;
pub mod remedy;

use std::time::Duration;

use jiff::Timestamp;

use crate::cluster::containers::{CLUSTER_LABEL, LAB_LABEL, cluster_id, is_lab, observe, stamp};
use crate::cluster::facts::{facts, its_lab_node};
use crate::cluster::images::Images;
use crate::cluster::k3d::{create, k3d, k3d_step, merge_kubeconfig, require_creatable, start};
use crate::cluster::lock::{ClusterLock, Holder};
use crate::cluster::marker::{ReadyMarker, config_hash, remember_kind, remembered_kind, remove_marker, unmarked};
use crate::files;
use crate::lab::{self, Lab};
use crate::mirror;
use crate::repo::Repo;
use crate::repo::k3d::K3dConfig;
use crate::run::Run;
use crate::run::consent::{self, Consent};
use crate::run::context::Context;
use crate::world::docker::{self, Container, Kind, Looked, Thing, docker_output};
use crate::world::docker_hub;
use crate::world::engine;
use crate::world::kubeconfig;
use crate::world::kubernetes;
use crate::world::tools::{self, Toolbox};
use run_record::{Code, Exit, Failure, Step, StepKind};

pub use decide::{Facts, Leftovers, Node, Plan, decide, describe};

/// The image of the pod that shows that the registry can be pulled from, by its id in the lock.
const PROBE: &str = "busybox";

/// Whether something may be lost on the way to a cluster that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destroying {
    /// Consent is asked for, or was given by a flag.
    WithConsent,
    /// Nobody is asked, and consent that was given for another reason does not count.
    Never,
}

/// What later steps need to know about a cluster that is up.
pub struct Ready {
    pub toolbox: Toolbox,
    pub lab: Option<Lab>,
}

/// What a recreation loses, worded for the consent question.
pub fn recreation(config: &K3dConfig) -> String {
    format!("delete the cluster {} with everything deployed on it, and create it again", config.name())
}

/// Deletes the cluster and creates it again, of the same kind; its registry stays.
pub async fn recreate(
    context: &Context,
    config: &K3dConfig,
    held: &ClusterLock,
    consent: &Consent<consent::Cluster>,
) -> Result<Ready, Failure> {
    engine::ensure(&context.run, &context.repo).await?;
    // Before anything is deleted: check that the new one can be created like the old one.
    let existing = observe(config).await?;
    let lab = choose_lab(context, &existing).await?;
    let toolbox = tools::ensure(&context.repo.tree, &["k3d"], &context.run.reporter).await?;
    let images = Images::of(&context.repo, lab.as_ref())?;
    require_creatable(context, config, &toolbox, &existing).await?;
    registry_container::ensure(context, config, &toolbox, &images, Destroying::WithConsent).await?;
    images.load_nodes(context, config).await?;
    remember_kind(&context.run, lab.is_some())?;
    remove_marker(&context.run)?;
    delete_cluster(&context.run, config, &toolbox, Warrant::Consent(consent)).await?;
    up(context, held).await
}

/// Writes the kubeconfig's context again, with an address that is reachable from here.
pub async fn write_kubeconfig(context: &Context, config: &K3dConfig) -> Result<(), Failure> {
    let toolbox = tools::ensure(&context.repo.tree, &["k3d"], &context.run.reporter).await?;
    merge_kubeconfig(&context.run, &context.site, config, &toolbox).await
}

pub async fn lock(run: &Run) -> Result<ClusterLock, Failure> {
    let holder = Holder::this_process(&run.id);
    ClusterLock::acquire(&run.state.lock(), &holder, run.lock_timeout, &run.reporter).await
}

/// Brings the cluster up. The caller holds the lock, and keeps using it.
pub async fn up(context: &Context, held: &ClusterLock) -> Result<Ready, Failure> {
    bring_up(context, held, Destroying::WithConsent).await
}

/// Like [`up`], but fails where consent would be needed.
pub async fn mend(context: &Context) -> Result<(), Failure> {
    if context.run.dry_run {
        return plan(context).await.map(drop);
    }
    context.repo.require_k3d_config()?;
    let lock = lock(&context.run).await?;
    bring_up(context, &lock, Destroying::Never).await.map(drop)
}

async fn bring_up(context: &Context, held: &ClusterLock, destroying: Destroying) -> Result<Ready, Failure> {
    let started = start_up(context, held, destroying).await?;
    started.complete(context, copy_probe_image(context, &started)).await?;
    Ok(started.made)
}

/// A cluster that runs, but need not answer yet, and its registry, to which images can be copied.
pub(crate) struct Started {
    /// What later steps need.
    pub made: Ready,
    /// `None` for a shared cluster, of which nothing is left to do.
    local: Option<Local>,
}

struct Local {
    config: K3dConfig,
    images: Images,
    /// The marker, if nothing had to be done about the cluster.
    before: Option<ReadyMarker>,
}

/// The first half of [`up`], with all that needs consent: the engine, the tools, the registry, and
/// containers that run.
///
/// # Errors
/// `consent-needed`, and errors of the engine, the tools, the registry, the pulls and k3d.
pub(crate) async fn start_up(
    context: &Context,
    _held: &ClusterLock,
    destroying: Destroying,
) -> Result<Started, Failure> {
    let Some(config) = context.repo.k3d_config()? else {
        let toolbox = tools::ensure(&context.repo.tree, &["helm", "helmfile"], &context.run.reporter).await?;
        let client = kubernetes::client(context).await?;
        kubernetes::require(&client).await?;
        context.run.reporter.note(&context.site.kube_context, "a shared cluster: it is used as it is");
        return Ok(Started { made: Ready { toolbox, lab: None }, local: None });
    };
    engine::ensure(&context.run, &context.repo).await?;
    let existing = observe(&config).await?;
    let lab = choose_lab(context, &existing).await?;
    let toolbox = tools::ensure(&context.repo.tree, &["helm", "helmfile", "k3d"], &context.run.reporter).await?;
    let facts = facts(&context.run, &config, &existing, lab.as_ref().map(|lab| &*lab.node)).await?;
    let plan = decide(&facts);
    let reporter = &context.run.reporter;
    let marker_before = ReadyMarker::read(&context.run.state.ready_marker());
    let mut consent = None;
    if let Plan::Recreate(reasons) = &plan {
        for reason in reasons {
            reporter.warn(config.name(), reason);
        }
        if destroying == Destroying::Never {
            return Err(Failure::new(Code::ConsentNeeded, format!("this would {}", recreation(&config)))
                .evidence(reasons.join("; "))
                .remedy("cargo xtask cluster   # asks first, elsewhere --allow-destroy=cluster"));
        }
        consent = Some(context.run.may_destroy::<consent::Cluster>(&recreation(&config)).await?);
    }
    if plan != Plan::Nothing {
        remove_marker(&context.run)?;
    }
    let images = Images::of(&context.repo, lab.as_ref())?;
    registry_container::ensure(context, &config, &toolbox, &images, destroying).await?;
    // Before anything is deleted that they are to replace.
    match &plan {
        Plan::Nothing => {}
        Plan::Start(_) | Plan::Finish | Plan::Mend(_) | Plan::Join(_) => images.load_helpers(context).await?,
        Plan::Create | Plan::ClearAndCreate(_) | Plan::Recreate(_) => {
            require_creatable(context, &config, &toolbox, &existing).await?;
            images.load_nodes(context, &config).await?;
        }
    }
    let warrant = match (&plan, &consent) {
        (Plan::ClearAndCreate(leftovers), _) => Some(Warrant::NeverRan(leftovers)),
        (Plan::Recreate(_), Some(consent)) => Some(Warrant::Consent(consent)),
        _ => None,
    };
    if let Some(warrant) = warrant {
        delete_cluster(&context.run, &config, &toolbox, warrant).await?;
    }
    match &plan {
        Plan::Nothing => {}
        Plan::Start(_) => start(&context.run, &config, &toolbox, &images, "started the cluster").await?,
        Plan::Finish => finish(context, &config, &toolbox, &images).await?,
        Plan::Mend(_) => {
            if facts.joinable {
                agents::remove_never_ran(&config).await?;
            }
            loadbalancer::replace(&context.run, &context.site, &config, &images).await?;
            start(&context.run, &config, &toolbox, &images, "started the stopped containers").await?;
            agents::join(&context.run, &context.site, &config, &toolbox, &images).await?;
        }
        Plan::Join(_) => agents::join(&context.run, &context.site, &config, &toolbox, &images).await?,
        Plan::Create | Plan::ClearAndCreate(_) | Plan::Recreate(_) => {
            create(&context.run, &config, &toolbox, &images).await?;
        }
    }
    // From here on its address stays, and a copy to it is not cut.
    network::connect_registry(&context.run, &config).await?;
    let before = marker_before.filter(|_| plan == Plan::Nothing);
    Ok(Started { made: Ready { toolbox, lab }, local: Some(Local { config, images, before }) })
}

impl Started {
    /// Whether the cluster was found ready before, as it is.
    pub fn was_ready(&self) -> bool {
        self.local.as_ref().is_none_or(|local| local.before.is_some())
    }

    /// The second half of [`up`]: the cluster answers, and a pod pulls from the registry. That is
    /// shown once for each cluster; `image` puts the pod's image there, if it is needed.
    ///
    /// # Errors
    /// `api-unreachable`, `cluster-not-ready`, and errors of the probe.
    pub async fn complete(
        &self,
        context: &Context,
        image: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        match &self.local {
            Some(local) => ready(context, &self.made, local, image).await,
            None => Ok(()),
        }
    }
}

/// Copies the image of the pod that pulls from the registry.
pub(crate) async fn copy_probe_image(context: &Context, started: &Started) -> Result<(), Failure> {
    mirror::copy(context, &lab::origin(&context.repo, started.made.lab.as_ref()), &[PROBE], |_| {}).await
}

/// Prepares what can exist before the cluster does: its registry, and the image of its nodes. For a
/// prebuild, which is saved and has no cluster running in it. Destroys nothing.
///
/// # Errors
/// Errors of the engine, of creating the registry and of pulling; what was prepared by then stays.
pub async fn prefetch(context: &Context, config: &K3dConfig, _held: &ClusterLock) -> Result<(), Failure> {
    engine::ensure(&context.run, &context.repo).await?;
    let existing = observe(config).await?;
    let lab = choose_lab(context, &existing).await?;
    let toolbox = tools::ensure(&context.repo.tree, &["k3d"], &context.run.reporter).await?;
    let images = Images::of(&context.repo, lab.as_ref())?;
    registry_container::ensure(context, config, &toolbox, &images, Destroying::Never).await?;
    images.load_nodes(context, config).await?;
    // What is prepared is of this kind, even if no registry answers when the cluster is created. One
    // that exists has a kind already.
    if existing.is_empty() { remember_kind(&context.run, lab.is_some()) } else { Ok(()) }
}

/// Reports what `up` would do, without doing it; returns whether that would change anything.
///
/// # Errors
/// If something cannot be looked at, there is no plan for it.
pub async fn plan(context: &Context) -> Result<bool, Failure> {
    let Some(config) = context.repo.k3d_config()? else {
        context.run.reporter.planned(&context.site.kube_context, "change nothing: it is a shared cluster");
        return Ok(false);
    };
    if let Err((fault, error)) = docker::info().await {
        // If something cannot be looked at, there is no plan for it.
        if fault != docker::Fault::Away {
            return Err(docker::unavailable(fault, error));
        }
        context.run.reporter.planned("docker", "start Docker Engine, installing it if allowed");
        context.run.reporter.planned(config.name(), "then check what exists, and create the cluster if nothing does");
        return Ok(true);
    }
    let existing = observe(&config).await?;
    let node = its_lab_node(&context.repo, &existing);
    let facts = facts(&context.run, &config, &existing, node.as_deref()).await?;
    let plan = decide(&facts);
    context.run.reporter.planned(config.name(), describe(&plan));
    Ok(!matches!(plan, Plan::Nothing))
}

/// A cluster keeps its kind, even when it is recreated: with the lab's images or public ones. If
/// there is none yet, the lab is used if the public registries do not answer.
async fn choose_lab(context: &Context, existing: &[Container]) -> Result<Option<Lab>, Failure> {
    let made_with_lab = existing.iter().find_map(|container| container.label(LAB_LABEL)).map(|value| value == "true");
    let wanted = match (context.site.lab, made_with_lab.or_else(|| remembered_kind(&context.run))) {
        (Some(wanted), _) => wanted,
        (None, Some(made)) => made,
        (None, None) => {
            let told = docker_hub::unreachable(&mirror::registries(&context.repo)?).await?;
            if !told.is_empty() {
                let text = "no public registry answers: building what is missing here (--no-lab to fail instead)";
                context.run.reporter.note("lab", format!("{text}: {}", told.join("; ")));
            }
            !told.is_empty()
        }
    };
    if !wanted {
        return Ok(None);
    }
    if let Some(config) = context.repo.k3d_config()?.filter(|config| config.simple.servers > 1) {
        let message = format!("{}: servers: {}: the lab has only one", config.path, config.simple.servers);
        return Err(Failure::usage(message).remedy("servers: 1, or --no-lab where there is internet"));
    }
    lab::ensure(context).await.map(Some)
}

/// The lab that the cluster was created with, or that was requested.
pub(crate) async fn its_lab(context: &Context) -> Result<Option<Lab>, Failure> {
    if context.repo.k3d_config()?.is_none() || context.site.lab == Some(false) {
        return Ok(None);
    }
    let wanted = context.site.lab == Some(true) || made_with_lab(&context.repo).await?;
    if wanted { lab::ensure(context).await.map(Some) } else { Ok(None) }
}

/// Whether the existing cluster was created with the lab's images.
pub async fn made_with_lab(repo: &Repo) -> Result<bool, Failure> {
    let Some(config) = repo.k3d_config()? else { return Ok(false) };
    Ok(!docker::containers_labelled(&[(CLUSTER_LABEL, config.name()), (LAB_LABEL, "true")]).await?.is_empty())
}

/// Continues a creation that was interrupted when nodes were already running: by stopping and
/// starting them, so that k3d performs the steps that follow a start (names for CoreDNS and the
/// nodes).
async fn finish(context: &Context, config: &K3dConfig, toolbox: &Toolbox, images: &Images) -> Result<(), Failure> {
    let reporter = &context.run.reporter;
    reporter.note(config.name(), "its creation was interrupted: continuing it");
    let finished = async {
        let balancer = config.loadbalancer_container();
        let existing = observe(config).await?;
        let ran =
            existing.iter().any(|container| Some(container.name()) == balancer.as_deref() && !container.never_ran());
        // Which also leaves agents out of its config, of which one that is removed would keep
        // it from starting.
        let removed = agents::joinable(config) && agents::remove_never_ran(config).await?;
        if balancer.is_some() && (removed || !ran) {
            loadbalancer::replace(&context.run, &context.site, config, images).await?;
        }
        k3d(&context.run, toolbox, images, &["cluster", "stop", config.name()]).await?;
        start(&context.run, config, toolbox, images, "finished creating the cluster").await?;
        agents::join(&context.run, &context.site, config, toolbox, images).await?;
        stamp(config).await
    };
    finished.await.map_err(|failure: Failure| match (failure.exit(), &failure.remedy) {
        (Exit::Interrupted | Exit::Terminated, _) => failure,
        // Another cause has its own remedy, and would be in a new cluster's way too.
        (_, Some(_)) if failure.code != Code::ClusterFailed => failure,
        _ => failure.remedy("cargo xtask cluster recreate   # asks first, elsewhere --allow-destroy=cluster"),
    })
}

/// From "the containers are running" to "things can be deployed", including the ready marker.
async fn ready(
    context: &Context,
    Ready { toolbox, lab }: &Ready,
    Local { config, images, before }: &Local,
    image: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let reporter = &context.run.reporter;
    let step = reporter.step(k3d_step(&context.run, config, "waiting for the cluster"));
    merge_kubeconfig(&context.run, &context.site, config, toolbox).await?;
    let mut client = kubernetes::client(context).await?;
    // `--context` may name any cluster.
    let is_this_one = context.site.kube_context == config.kube_context();
    let mut before = before.clone();
    let why = if is_this_one { kubernetes::needs_certificates(&client).await } else { None };
    if let Some(why) = why {
        remove_marker(&context.run)?;
        before = None;
        reporter.note(config.name(), format!("{why}: restarting it, so that k3s renews its certificates"));
        k3d(&context.run, toolbox, images, &["cluster", "stop", config.name()]).await?;
        start(&context.run, config, toolbox, images, "started the cluster, with new certificates").await?;
        merge_kubeconfig(&context.run, &context.site, config, toolbox).await?;
        client = kubernetes::client(context).await?;
    }
    let expected = config.node_count();
    let timeout = Duration::from_secs(180);
    // Each needs its own check; none of them gives a notification.
    let help = |failure: Failure| match failure.code {
        Code::ApiUnreachable | Code::ClusterNotReady => {
            failure.remedy("cargo xtask doctor; docker logs of the k3d containers show more")
        }
        _ => failure,
    };
    let not_ready = Code::ClusterNotReady;
    kubernetes::wait_until("the API server is", Code::ApiUnreachable, timeout, async || {
        kubernetes::ready(&client).await
    })
    .await
    .map_err(help)?;
    if is_this_one {
        agents::forget_gone(&context.run, config, &client).await?;
    }
    kubernetes::wait_until("the nodes are", not_ready, timeout, async || {
        kubernetes::nodes_ready(&client, expected).await
    })
    .await
    .map_err(help)?;
    kubernetes::wait_until("the StorageClass is", not_ready, timeout, async || {
        kubernetes::default_storage_class(&client).await
    })
    .await
    .map_err(help)?;
    kubernetes::wait_until("DNS is", not_ready, timeout, async || kubernetes::dns_ready(&client).await)
        .await
        .map_err(help)?;
    registry_hosting::warn_if_different(&context.run, &context.repo, &client).await?;
    // It may have been lost with the state folder; without it no later run could take the fast
    // path.
    if remembered_kind(&context.run).is_none() {
        remember_kind(&context.run, lab.is_some())?;
    }
    let marker = ReadyMarker {
        cluster: config.name().to_owned(),
        cluster_id: cluster_id(config).await?,
        config_hash: config_hash(config),
        time: Timestamp::now(),
    };
    let known =
        before.is_some_and(|before| before.cluster_id == marker.cluster_id && before.config_hash == marker.config_hash);
    if known {
        step.unchanged("ready: API, nodes, StorageClass, DNS");
        return Ok(());
    }
    step.done_as("ready: API, nodes, StorageClass, DNS");
    image.await?;
    probe(context, &client, lab.as_ref()).await?;
    let text = serde_json::to_string_pretty(&marker).unwrap_or_default();
    files::write_atomically(&context.run.state.ready_marker(), text.as_bytes()).map_err(|error| {
        Failure::new(Code::StateUnwritable, format!("cannot write {}: {error}", context.run.state.ready_marker()))
    })
}

/// Lets a pod pull what was pushed by another one of the registry's names.
async fn probe(context: &Context, client: &kube::Client, lab: Option<&Lab>) -> Result<(), Failure> {
    let step = context.run.reporter.step(Step::new(StepKind::Probe, "registry", "probing end to end"));
    let origin = lab::origin(&context.repo, lab);
    let image = mirror::pull_reference(&context.repo, &origin, PROBE)?;
    kubernetes::run_probe_pod(client, &image, Duration::from_secs(90)).await?;
    step.done_as("a pod pulls from it, and resolves names");
    Ok(())
}

/// The cluster's state compared with its config file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What `cargo xtask cluster` would do.
    pub plan: Plan,
    /// Why no layer would come up on it, although its containers are as they should be.
    pub unfit: Option<String>,
    /// Its images come from the lab.
    pub lab: bool,
}

/// Looks at the containers and the ready marker; `None` for a shared cluster.
///
/// # Errors
/// `docker-unavailable`, `docker-failed`, or `usage` for an invalid k3d.yaml.
pub async fn standing(run: &Run, repo: &Repo) -> Result<Option<Standing>, Failure> {
    let Some(config) = repo.k3d_config()? else { return Ok(None) };
    let registry = async {
        match config.registry_container() {
            Some(name) => docker::look::<Container>(Kind::Container, &name).await,
            None => Ok(Looked::Absent),
        }
    };
    let (existing, registry) = tokio::join!(observe(&config), registry);
    let (existing, registry) = (existing?, registry?);
    let facts = facts(run, &config, &existing, its_lab_node(repo, &existing).as_deref()).await?;
    let server = config.server_container();
    let id = existing.iter().find(|container| container.name() == server);
    let unfit = unmarked(run, &config, id.map_or("", |server| &server.id));
    let unfit = unfit.or_else(|| network::apart(&config, &existing, &registry));
    let lab = is_lab(&existing);
    Ok(Some(Standing { plan: decide(&facts), unfit, lab }))
}

/// A layer only runs on a cluster that was found ready, created from the current file.
pub async fn require_ready(context: &Context) -> Result<Option<Lab>, Failure> {
    let Some(config) = context.repo.k3d_config()? else { return Ok(None) };
    engine::require().await?;
    let id = cluster_id(&config).await?;
    if let Some(why) = unmarked(&context.run, &config, &id) {
        return Err(not_ready(&config, why));
    }
    if made_with_lab(&context.repo).await? { lab::ensure(context).await.map(Some) } else { Ok(None) }
}

/// Whether the cluster uses the lab's images, according to what this machine recorded when it found
/// the cluster ready; the engine is not queried.
///
/// # Errors
/// `cluster-not-ready` if no cluster created from the current file was found ready.
pub(crate) fn remembered(run: &Run, repo: &Repo) -> Result<bool, Failure> {
    let Some(config) = repo.k3d_config()? else { return Ok(false) };
    let id = ReadyMarker::read(&run.state.ready_marker()).map(|marker| marker.cluster_id).unwrap_or_default();
    if let Some(why) = unmarked(run, &config, &id) {
        return Err(not_ready(&config, why));
    }
    remembered_kind(run).ok_or_else(|| not_ready(&config, "it is not known here which images it was created from"))
}

fn not_ready(config: &K3dConfig, why: impl Into<String>) -> Failure {
    Failure::new(Code::ClusterNotReady, format!("the cluster {} is not ready", config.name()))
        .evidence(why)
        .remedy("cargo xtask cluster")
}

/// Checks what `up` does about a cluster beyond what the checklist looks at. A shared cluster is
/// used as it is.
///
/// # Errors
/// What is not as it should be, or cannot be looked at; `up` itself says more.
pub async fn serves(context: &Context, client: &kube::Client) -> Result<(), String> {
    let config = context.repo.k3d_config().map_err(|failure| failure.to_string())?;
    let Some(config) = config else { return Ok(()) };
    let expected = config.node_count();
    let hosting = async {
        let differs = registry_hosting::looked(&context.repo, client).await.map_err(|failure| failure.to_string())?;
        differs.into_iter().next().map_or(Ok(()), Err)
    };
    tokio::try_join!(
        kubernetes::nodes_ready(client, expected),
        kubernetes::default_storage_class(client),
        kubernetes::dns_ready(client),
        hosting,
    )
    .map(drop)
}

pub async fn stop(run: &Run, repo: &Repo, config: &K3dConfig) -> Result<(), Failure> {
    engine::require().await?;
    let toolbox = tools::ensure(&repo.tree, &["k3d"], &run.reporter).await?;
    remove_marker(run)?;
    let step = run.reporter.step(k3d_step(run, config, "stopping the cluster"));
    k3d(run, &toolbox, &Images::default(), &["cluster", "stop", config.name()]).await?;
    step.done_as("stopped the cluster; `cargo xtask cluster` starts it again");
    Ok(())
}

pub async fn delete(context: &Context, config: &K3dConfig) -> Result<(), Failure> {
    engine::require().await?;
    registry_container::require_ours(config).await?;
    let what = format!(
        "delete the cluster {} and its registry with all their data, and the records of its runs",
        config.name()
    );
    let consent = context.run.may_destroy::<(consent::Cluster, consent::Registry)>(&what).await?;
    let (of_cluster, of_registry) = consent.split();
    let toolbox = tools::ensure(&context.repo.tree, &["k3d"], &context.run.reporter).await?;
    remove_marker(&context.run)?;
    delete_cluster(&context.run, config, &toolbox, Warrant::Consent(&of_cluster)).await?;
    if let Some(name) = config.registry_container() {
        let step = context.run.reporter.step(Step::new(StepKind::Registry, &name, "deleting the registry"));
        if let Looked::Found(container) = docker::look::<Container>(Kind::Container, &name).await? {
            registry_container::remove(&container, &of_registry).await?;
        }
        remove_if_there(Kind::Volume, &name).await?;
        step.done_as("deleted the registry and its volume");
    }
    devcontainer::leave(&context.site, config).await;
    delete_network(&context.run, config).await?;
    remove_if_there(Kind::Volume, &format!("k3d-{}-images", config.name())).await?;
    kubeconfig::forget(config.name()).await?;
    context.run.state.clear().map_err(|error| {
        let path = &context.run.state.path;
        Failure::new(Code::StateUnwritable, format!("cannot clear the state folder {path}: {error}"))
    })
}

/// Removes the cluster's network if k3d or this tool created it; any other stays.
async fn delete_network(run: &Run, config: &K3dConfig) -> Result<(), Failure> {
    let name = config.network();
    let Looked::Found(network) = docker::look::<Thing>(Kind::Network, &name).await? else { return Ok(()) };
    if network.label("app") == Some("k3d") || network.label(devcontainer::NETWORK_LABEL) == Some(config.name()) {
        return docker_output(["network", "rm", &name]).await.map(drop);
    }
    run.reporter.note(&name, "left the network, which something else created");
    Ok(())
}

async fn remove_if_there(kind: Kind, name: &str) -> Result<(), Failure> {
    if docker::look::<Thing>(kind, name).await?.found().is_some() {
        docker_output([kind.word(), "rm", name]).await?;
    }
    Ok(())
}

/// What permits removing the containers of a cluster.
enum Warrant<'a> {
    #[expect(dead_code, reason = "it proves, and says nothing more")]
    Consent(&'a Consent<consent::Cluster>),
    /// Known facts: none of them ever held anything.
    NeverRan(&'a Leftovers),
}

async fn delete_cluster(run: &Run, config: &K3dConfig, toolbox: &Toolbox, warrant: Warrant<'_>) -> Result<(), Failure> {
    let step = run.reporter.step(k3d_step(run, config, "deleting the cluster"));
    match warrant {
        Warrant::Consent(_) => {
            if observe(config).await?.is_empty() {
                step.unchanged("no cluster to delete");
                return Ok(());
            }
            k3d(run, toolbox, &Images::default(), &["cluster", "delete", config.name()]).await?;
            // Containers that k3d does not know about, from a creation that was killed early.
            for container in observe(config).await? {
                docker_output(["rm", "-f", "-v", &container.id]).await?;
            }
        }
        Warrant::NeverRan(leftovers) => {
            for node in leftovers.nodes() {
                // Without --force the engine itself refuses if it is running by now.
                let force: &[&str] = if node.holds_data { &[] } else { &["-f"] };
                docker_output([&["rm", "-v"], force, &[&node.id]].concat()).await?;
            }
        }
    }
    if let Some(left) = observe(config).await?.first() {
        let message = format!("the container {} of the cluster {} is still there", left.name(), config.name());
        return Err(Failure::new(Code::DockerFailed, message)
            .evidence(format!("its state is {}", left.state.status))
            .remedy("run it again"));
    }
    step.done_as("deleted the cluster");
    Ok(())
}

pub async fn status(run: &Run, repo: &Repo, config: &K3dConfig) -> Result<(), Failure> {
    engine::require().await?;
    let existing = observe(config).await?;
    let facts = facts(run, config, &existing, its_lab_node(repo, &existing).as_deref()).await?;
    let plan = decide(&facts);
    let marker = ReadyMarker::read(&run.state.ready_marker());
    if run.json {
        let has =
            |name: &&String| facts.nodes.iter().any(|node| node.name == **name && !(node.is_agent && node.never_ran));
        let runs = |name: &&String| facts.nodes.iter().any(|node| node.name == **name && node.running);
        let named = config.servers().into_iter().chain(config.loadbalancer_container());
        // A joined agent has a name of its own: of those in the file so many count as gone.
        let agents = config.agents();
        let missing_agents = agents.iter().filter(|name| !has(name)).take(decide::missing_agents(&facts)).cloned();
        let counts = |node: &&Node| node.is_agent && !node.never_ran;
        let agents = facts.nodes.iter().filter(counts).map(|node| node.name.clone());
        let wanted: Vec<String> = named.chain(agents).chain(missing_agents).collect();
        let json = serde_json::json!({
            "cluster": config.name(),
            "exists": !existing.is_empty(),
            "complete": !existing.is_empty() && facts.stamp != Looked::Absent,
            "missing": wanted.iter().filter(|name| !has(name)).collect::<Vec<_>>(),
            "stopped": wanted.iter().filter(|name| has(name) && !runs(name)).collect::<Vec<_>>(),
            "drift": facts.drift,
            "ready": marker,
        });
        run.reporter.data(&json.to_string());
    } else {
        for container in &existing {
            run.reporter.data(&format!(
                "{:<32} {:<10} {}",
                container.name(),
                container.state.status,
                container.config.image
            ));
        }
        let ready = marker.map_or("not marked ready".to_owned(), |marker| format!("ready since {}", marker.time));
        let text = format!("{}: {ready}; `cargo xtask cluster` would {}", config.name(), describe(&plan));
        run.reporter.data(&run.reporter.completed(&text));
    }
    match plan {
        Plan::Nothing => Ok(()),
        other => Err(Failure::new(Code::ClusterNotReady, describe(&other)).remedy("cargo xtask cluster")),
    }
}
