//! `cargo xtask cluster`: reconciles the local k3d cluster with its config file.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use camino::Utf8Path;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::consent::{self, Consent};
use crate::context::Context;
use crate::devcontainer;
use crate::engine::{self, Container};
use crate::exit::{Exit, Failure};
use crate::gomodule::short_hex;
use crate::k3d::{Difference, K3dConfig};
use crate::kubeconfig;
use crate::kubernetes;
use crate::lab::{self, Lab};
use crate::lock::{ClusterLock, Holder};
use crate::process::{self, Job};
use crate::registry;
use crate::registry_hosting;
use crate::state;
use crate::tools::{self, Toolbox};

/// The label that holds the config that a cluster was made from.
const CONFIG_LABEL: &str = "ameide.dev/config";
/// The label of a cluster whose images come from the lab.
const LAB_LABEL: &str = "ameide.dev/lab";
/// A file in the server's container, written when its creation was complete:
/// without it, nothing was ever deployed there.
const CREATED_STAMP: &str = "/etc/ameide-created";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Action {
    /// Show what exists and how it differs from k3d.yaml; changes nothing
    Status,
    /// Stop the cluster's containers; data stays
    Stop,
    /// Delete the cluster, its registry, their volumes, the kubeconfig context and the state folder
    Delete,
    /// Write the kubeconfig's context again, by a name that is reached from here
    Kubeconfig,
    /// Delete the cluster and create it again; the registry and its images stay
    Recreate,
}

/// `k3d-cluster-ready`: which cluster was found ready, and from which config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadyMarker {
    pub cluster: String,
    /// The id of the server's container: a new cluster of the same name has another.
    pub cluster_id: String,
    pub config_hash: String,
    pub time: Timestamp,
}

impl ReadyMarker {
    pub fn read(path: &Utf8Path) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
    }
}

/// What is there, as far as deciding needs to know.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Of those that the config asks for.
    pub missing: Vec<String>,
    pub stopped: Vec<String>,
    /// Any container that k3d made for this cluster.
    pub exists: bool,
    /// Creation once came to its end.
    pub complete: bool,
    pub drift: Vec<Difference>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    Create,
    /// An interrupted creation left parts that never held anything.
    ClearAndCreate,
    /// Destroys what the cluster holds: asked for first.
    Recreate(Vec<String>),
    Start(Vec<String>),
    Nothing,
}

/// Facts to plan. A cluster that was once complete is never cleared without consent.
pub fn decide(facts: &Facts) -> Plan {
    if !facts.exists {
        return Plan::Create;
    }
    if !facts.complete {
        return Plan::ClearAndCreate;
    }
    let mut reasons: Vec<String> = facts.drift.iter().map(ToString::to_string).collect();
    reasons.extend(facts.missing.iter().map(|name| format!("the container {name} is gone")));
    if !reasons.is_empty() {
        return Plan::Recreate(reasons);
    }
    if !facts.stopped.is_empty() {
        return Plan::Start(facts.stopped.clone());
    }
    Plan::Nothing
}

/// Everything that later steps need to know of a cluster that is up.
pub struct Ready {
    pub toolbox: Toolbox,
    pub lab: Option<Lab>,
}

pub async fn run(context: &Context, action: Option<Action>) -> Result<(), Failure> {
    let config = context.require_k3d_config()?;
    if action == Some(Action::Status) {
        return status(context, &config).await;
    }
    if context.dry_run {
        return match action {
            None => plan(context).await,
            Some(action) => {
                context.reporter.planned(config.name(), format!("{action:?} the cluster").to_lowercase());
                Ok(())
            }
        };
    }
    let lock = lock(context).await?;
    match action {
        None => up(context, &lock).await.map(drop),
        Some(Action::Stop) => stop(context, &config).await,
        Some(Action::Delete) => {
            delete(context, &config).await?;
            drop(lock);
            context.state.remove_if_empty();
            Ok(())
        }
        Some(Action::Recreate) => {
            let consent = context.may_destroy::<consent::Cluster>(&recreation(&config)).await?;
            let toolbox = tools::ensure(&context.tree, &["k3d"], &context.reporter).await?;
            remove_marker(context)?;
            delete_cluster(context, &config, &toolbox, Some(&consent)).await?;
            up(context, &lock).await.map(drop)
        }
        Some(Action::Kubeconfig) => {
            let toolbox = tools::ensure(&context.tree, &["k3d"], &context.reporter).await?;
            merge_kubeconfig(context, &config, &toolbox).await?;
            context.reporter.note(config.name(), format!("kubeconfig context {}", context.kube_context));
            Ok(())
        }
        Some(Action::Status) => Ok(()),
    }
}

/// What recreating loses, as consent is asked for.
fn recreation(config: &K3dConfig) -> String {
    format!("delete the cluster {} with everything deployed on it, and create it again", config.name())
}

pub async fn lock(context: &Context) -> Result<ClusterLock, Failure> {
    let holder = Holder::this_process(&context.run_id);
    ClusterLock::acquire(&context.state.lock(), &holder, context.lock_timeout, &context.reporter).await
}

fn remove_marker(context: &Context) -> Result<(), Failure> {
    match std::fs::remove_file(context.state.ready_marker()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::new(
            "state-unwritable",
            Exit::Unclassified,
            format!("cannot remove {}: {error}", context.state.ready_marker()),
        )),
        _ => Ok(()),
    }
}

/// Brings the cluster up. The lock is the caller's, who goes on using it.
pub async fn up(context: &Context, _held: &ClusterLock) -> Result<Ready, Failure> {
    let Some(config) = context.k3d_config()? else {
        let toolbox = tools::ensure(&context.tree, &["helm", "helmfile"], &context.reporter).await?;
        let client = kubernetes::client(context).await?;
        kubernetes::require(&client).await?;
        context.reporter.note(&context.kube_context, "a shared cluster: it is used as it is");
        return Ok(Ready { toolbox, lab: None });
    };
    engine::ensure(context).await?;
    let existing = observe_containers(&config).await?;
    let lab = choose_lab(context, &existing).await?;
    let toolbox = tools::ensure(&context.tree, &["helm", "helmfile", "k3d"], &context.reporter).await?;
    let facts = facts(&config, &existing, lab.as_ref()).await?;
    let plan = decide(&facts);
    let reporter = &context.reporter;
    let marker_before = ReadyMarker::read(&context.state.ready_marker());
    let mut consent = None;
    if let Plan::Recreate(reasons) = &plan {
        for reason in reasons {
            reporter.warn(config.name(), reason);
        }
        let what = recreation(&config);
        consent = Some(context.may_destroy::<consent::Cluster>(&what).await?);
    }
    if plan != Plan::Nothing {
        remove_marker(context)?;
    }
    ensure_registry(context, &config, &toolbox, lab.as_ref()).await?;
    match &plan {
        Plan::Nothing => {}
        Plan::Start(_) => {
            let step = reporter.step(config.name(), "starting the cluster");
            k3d(context, &toolbox, lab.as_ref(), &["cluster", "start", config.name(), "--wait"]).await?;
            step.done_as("started the cluster");
        }
        Plan::Create => create(context, &config, &toolbox, lab.as_ref()).await?,
        Plan::ClearAndCreate | Plan::Recreate(_) => {
            delete_cluster(context, &config, &toolbox, consent.as_ref()).await?;
            create(context, &config, &toolbox, lab.as_ref()).await?;
        }
    }
    ready(context, &config, &toolbox, lab.as_ref(), marker_before.filter(|_| plan == Plan::Nothing)).await?;
    Ok(Ready { toolbox, lab })
}

/// What `up` would do, without doing any of it.
pub async fn plan(context: &Context) -> Result<(), Failure> {
    let Some(config) = context.k3d_config()? else {
        context.reporter.planned(&context.kube_context, "change nothing: it is a shared cluster");
        return Ok(());
    };
    let Ok(_) = engine::observe().await else {
        context.reporter.planned("docker", "start Docker Engine, installing it where it may");
        context.reporter.planned(config.name(), describe(&Plan::Create));
        return Ok(());
    };
    let existing = observe_containers(&config).await?;
    let facts = facts(&config, &existing, None).await?;
    context.reporter.planned(config.name(), describe(&decide(&facts)));
    Ok(())
}

pub fn describe(plan: &Plan) -> String {
    match plan {
        Plan::Create => "create the cluster".to_owned(),
        Plan::ClearAndCreate => "remove the rest of an interrupted creation and create the cluster".to_owned(),
        Plan::Recreate(reasons) => format!("recreate the cluster: {}", reasons.join("; ")),
        Plan::Start(names) => format!("start {}", names.join(", ")),
        Plan::Nothing => "change nothing: the cluster is as the file says".to_owned(),
    }
}

/// The lab serves a cluster that was made with it, or a new one where the
/// upstream registries do not answer; never one that was made without it.
async fn choose_lab(context: &Context, existing: &[Container]) -> Result<Option<Lab>, Failure> {
    let made_with_lab = existing.iter().find_map(|container| container.label(LAB_LABEL)).map(|value| value == "true");
    let wanted = match (context.lab, made_with_lab) {
        (Some(wanted), _) => wanted,
        (None, Some(made)) => made,
        (None, None) => {
            let reachable = lab::upstream_reachable().await?;
            if !reachable {
                context.reporter.note(
                    "lab",
                    "the upstream registries do not answer: building what is missing here (--no-lab to fail instead)",
                );
            }
            !reachable
        }
    };
    if wanted { lab::ensure(context).await.map(Some) } else { Ok(None) }
}

/// Whether the cluster that exists was made with the lab's images.
pub async fn made_with_lab(context: &Context) -> Result<bool, Failure> {
    let Some(config) = context.k3d_config()? else { return Ok(false) };
    let labels = [cluster_label(&config), format!("{LAB_LABEL}=true")];
    Ok(!engine::containers_labelled(&labels.each_ref().map(String::as_str)).await?.is_empty())
}

/// What k3d labels each container of a cluster with.
fn cluster_label(config: &K3dConfig) -> String {
    format!("k3d.cluster={}", config.name())
}

async fn observe_containers(config: &K3dConfig) -> Result<Vec<Container>, Failure> {
    let names = engine::containers_labelled(&[&cluster_label(config)]).await?;
    engine::containers(&names).await
}

async fn facts(config: &K3dConfig, existing: &[Container], lab: Option<&Lab>) -> Result<Facts, Failure> {
    let wanted = config.containers();
    let nodes: Vec<&Container> = existing
        .iter()
        .filter(|container| wanted.iter().any(|name| container.name.trim_start_matches('/') == name))
        .collect();
    let named = |name: &String| nodes.iter().find(|container| container.name.trim_start_matches('/') == name);
    let server = named(&config.server_container());
    let mut drift = Vec::new();
    if let Some(server) = server {
        let label = server
            .label(CONFIG_LABEL)
            .and_then(|label| URL_SAFE_NO_PAD.decode(label).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok());
        match label {
            Some(applied) => drift = config.drift_from(&applied).map_err(Failure::usage)?,
            None => drift.push(Difference {
                field: "metadata.name".into(),
                cluster: "a cluster of this name that something else made".into(),
                file: config.name().into(),
            }),
        }
        if let Some(lab) = lab.filter(|lab| lab.node != server.config.image) {
            drift.push(Difference {
                field: "image (lab)".into(),
                cluster: server.config.image.clone(),
                file: lab.node.clone(),
            });
        }
    }
    let complete = match server {
        // A cluster made by something else may hold anything: consent is asked for.
        Some(server) if server.label(CONFIG_LABEL).is_none() => true,
        Some(_) => has_stamp(&config.server_container()).await?,
        None => false,
    };
    Ok(Facts {
        missing: wanted.iter().filter(|name| named(name).is_none()).cloned().collect(),
        stopped: wanted
            .iter()
            .filter(|name| named(name).is_some_and(|container| !container.state.running))
            .cloned()
            .collect(),
        exists: !nodes.is_empty(),
        complete,
        drift,
    })
}

async fn has_stamp(server: &str) -> Result<bool, Failure> {
    // `docker cp` reads stopped containers as well.
    let captured = process::capture(engine::docker(["cp", &format!("{server}:{CREATED_STAMP}"), "-"])).await;
    captured
        .map(|captured| captured.status.success())
        .map_err(|error| Failure::new("docker-unavailable", Exit::NotReady, error.to_string()))
}

/// Creates or starts the registry container. It stands apart from the cluster,
/// so that recreating the cluster keeps the mirrored images.
async fn ensure_registry(
    context: &Context,
    config: &K3dConfig,
    toolbox: &Toolbox,
    lab: Option<&Lab>,
) -> Result<(), Failure> {
    let Some(name) = config.registry_container() else { return Ok(()) };
    let push = &context.env.registry.push;
    let reporter = &context.reporter;
    let existing = engine::containers(std::slice::from_ref(&name)).await?;
    let runs = match existing.first() {
        None => false,
        Some(container) if container.state.running => true,
        Some(_) => {
            let step = reporter.step(&name, "starting the registry");
            let started = engine::start_or_remove(&name).await?;
            step.done_as(if started { "started the registry" } else { "removed a registry that does not start" });
            started
        }
    };
    if !runs {
        if let Some(port) = push.rsplit_once(':').and_then(|(_, port)| port.parse().ok()) {
            require_port_free(port)?;
        }
        let step = reporter.step(&name, "creating the registry");
        let short = name.strip_prefix("k3d-").ok_or_else(|| {
            Failure::usage(format!("{}: registries.use: {name:?}: expected a name that starts with k3d-", config.path))
        })?;
        let volume = format!("{name}:/var/lib/registry");
        let mut arguments = vec!["registry", "create", short, "--port", push, "--volume", &volume, "--no-help"];
        if let Some(lab) = lab {
            arguments.extend(["--image", &lab.registry]);
        }
        if let Err(failure) = k3d(context, toolbox, lab, &arguments).await {
            // k3d leaves the container that could not start (say its port is taken).
            let _ = process::tidy_up(engine::docker(["rm", "-f", "-v", &name]), process::ANSWER).await;
            return Err(failure);
        }
        step.done_as(format!("created the registry, {push}"));
    }
    devcontainer::join(context, config, &[&name]).await?;
    registry::wait_until_it_answers(&context.registry_host, Duration::from_secs(30)).await?;
    registry::healthy(&registry::health_url(context)).await
}

async fn create(context: &Context, config: &K3dConfig, toolbox: &Toolbox, lab: Option<&Lab>) -> Result<(), Failure> {
    for port in config.host_ports() {
        require_port_free(port)?;
    }
    let step = context.reporter.step(config.name(), "creating the cluster");
    let label = format!("{CONFIG_LABEL}={}@all", URL_SAFE_NO_PAD.encode(config.canonical()));
    let lab_label = format!("{LAB_LABEL}={}@all", lab.is_some());
    let mut arguments = vec!["cluster", "create", "--config", config.path.as_str(), "--wait", "--timeout", "300s"];
    arguments.extend(["--kubeconfig-update-default=false", "--runtime-label", &label, "--runtime-label", &lab_label]);
    if let Some(lab) = lab {
        arguments.extend(["--image", &lab.node]);
    }
    k3d(context, toolbox, lab, &arguments).await?;
    engine::docker_output(["exec", &config.server_container(), "touch", CREATED_STAMP]).await?;
    step.done_as("created the cluster");
    Ok(())
}

/// A port that something else holds is named before k3d leaves half a cluster.
fn require_port_free(port: u16) -> Result<(), Failure> {
    match std::net::TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(port_taken(port)),
        // A low port may be refused to us and yet be free for Docker.
        Err(_) => Ok(()),
    }
}

fn port_taken(port: u16) -> Failure {
    Failure::new("port-taken", Exit::NotReady, format!("port {port} on this machine is taken"))
        .evidence(format!("bind 127.0.0.1:{port}: address already in use"))
        .remedy(format!(
            "see who holds it with `ss -ltnp sport = :{port}`, and stop that or change the port in k3d.yaml or env.yaml"
        ))
}

async fn k3d(context: &Context, toolbox: &Toolbox, lab: Option<&Lab>, arguments: &[&str]) -> Result<(), Failure> {
    let mut command = k3d_command(context, toolbox, lab);
    command.args(arguments);
    let log = context.log("k3d");
    let ended = Job { command, log: &log, inherit: None }
        .run_to_end(|line| context.reporter.progress(&format!("[k3d] {}", without_prefix(line))))
        .await?;
    if ended.status.success() {
        return Ok(());
    }
    Err(k3d_failure(arguments, &ended.tail).log(log))
}

/// k3d refuses a `KUBECONFIG` of several files and takes no lock on the one it rewrites:
/// it gets a file of this run's own, and what it would have written `kubeconfig` writes.
fn k3d_command(context: &Context, toolbox: &Toolbox, lab: Option<&Lab>) -> tokio::process::Command {
    let mut command = toolbox.command("k3d");
    if let Some(lab) = lab {
        command.env("K3D_IMAGE_TOOLS", &lab.tools).env("K3D_IMAGE_LOADBALANCER", &lab.loadbalancer);
    }
    command.env("KUBECONFIG", context.run_dir.join("kubeconfig"));
    command
}

/// logrus prefixes lines with `INFO[0003] `.
fn without_prefix(line: &str) -> &str {
    line.split_once("] ").map_or(line, |(_, text)| text)
}

fn k3d_failure(arguments: &[&str], tail: &[String]) -> Failure {
    let said = |needle: &str| tail.iter().find(|line| line.contains(needle));
    let taken = said("port is already allocated").or_else(|| said("address already in use"));
    let limited = said("toomanyrequests").or_else(|| said("Too Many Requests"));
    let last = tail.iter().rev().find(|line| line.contains("ERRO") || line.contains("FATA")).or(tail.last());
    if let Some(line) = taken {
        let port = line.split("0.0.0.0:").nth(1).or(line.split("127.0.0.1:").nth(1));
        let port =
            port.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>()).unwrap_or_default();
        let mut failure = port_taken(port.parse().unwrap_or(0));
        failure.evidence = vec![without_prefix(line).to_owned()];
        failure
    } else if let Some(line) = limited {
        Failure::new("registry-rate-limited", Exit::Registry, "Docker Hub's pull rate limit stopped k3d")
            .evidence(without_prefix(line))
            .remedy("docker login, then run it again")
    } else {
        Failure::new(
            "cluster-failed",
            Exit::NotReady,
            format!("`k3d {} {}` failed", arguments[0], arguments.get(1).unwrap_or(&"")),
        )
        .evidence(last.map(|line| without_prefix(line).to_owned()).unwrap_or_default())
        .remedy("cargo xtask doctor")
    }
}

/// The cluster's context in the kubeconfig, by a name that is reached from here.
async fn merge_kubeconfig(context: &Context, config: &K3dConfig, toolbox: &Toolbox) -> Result<(), Failure> {
    // Its output holds the cluster's keys, and goes into no log.
    let mut command = k3d_command(context, toolbox, None);
    command.args(["kubeconfig", "get", config.name()]);
    let failed = |tail: Vec<String>| k3d_failure(&["kubeconfig", "get"], &tail);
    let captured = process::capture(command).await?;
    if !captured.status.success() {
        return Err(failed(captured.stderr.lines().map(str::to_owned).collect()));
    }
    devcontainer::join(context, config, &[]).await?;
    kubeconfig::put(&captured.stdout, devcontainer::api_server(context, config).as_deref()).await
}

/// From "containers run" to "things can be deployed", and the marker that says so.
async fn ready(
    context: &Context,
    config: &K3dConfig,
    toolbox: &Toolbox,
    lab: Option<&Lab>,
    before: Option<ReadyMarker>,
) -> Result<(), Failure> {
    let reporter = &context.reporter;
    let step = reporter.step(config.name(), "waiting for the cluster");
    merge_kubeconfig(context, config, toolbox).await?;
    let client = kubernetes::client(context).await?;
    let expected = (config.simple.servers + config.simple.agents) as usize;
    let timeout = Duration::from_secs(180);
    let named = |what: &'static str| {
        move |mut failure: Failure| {
            failure.message = format!("{what} {}", failure.message);
            failure.remedy("cargo xtask doctor; docker logs of the k3d containers tell more")
        }
    };
    kubernetes::wait_until(timeout, async || kubernetes::ready(&client).await)
        .await
        .map_err(named("the API server is"))?;
    kubernetes::wait_until(timeout, async || kubernetes::nodes_ready(&client, expected).await)
        .await
        .map_err(named("the nodes are"))?;
    kubernetes::wait_until(timeout, async || kubernetes::default_storage_class(&client).await)
        .await
        .map_err(named("the StorageClass is"))?;
    kubernetes::wait_until(timeout, async || kubernetes::dns_ready(&client).await).await.map_err(named("DNS is"))?;
    registry_hosting::warn_if_different(context, &client).await?;
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
    probe(context, &client, lab).await?;
    let text = serde_json::to_string_pretty(&marker).unwrap_or_default();
    state::write_atomically(&context.state.ready_marker(), text.as_bytes()).map_err(|error| {
        Failure::new(
            "state-unwritable",
            Exit::Unclassified,
            format!("cannot write {}: {error}", context.state.ready_marker()),
        )
    })
}

/// Pushes an image by one of the registry's names and lets a pod pull it by the other.
async fn probe(context: &Context, client: &kube::Client, lab: Option<&Lab>) -> Result<(), Failure> {
    let step = context.reporter.step("registry", "probing end to end");
    registry::mirror_ids(context, lab, &["busybox"]).await?;
    let image = registry::pull_reference(context, lab, "busybox")?;
    kubernetes::run_probe_pod(client, &image, Duration::from_secs(90)).await?;
    step.done_as("a pod pulls from it, and resolves names");
    Ok(())
}

async fn cluster_id(config: &K3dConfig) -> Result<String, Failure> {
    let name = config.server_container();
    let found = engine::containers(std::slice::from_ref(&name)).await?;
    found.first().map(|container| container.id.clone()).ok_or_else(|| {
        Failure::new("cluster-missing", Exit::ApiUnreachable, format!("the container {name} does not exist"))
            .remedy("cargo xtask cluster")
    })
}

fn config_hash(config: &K3dConfig) -> String {
    let mut hash = Sha256::new();
    hash.update(config.canonical());
    short_hex(hash)
}

/// How the cluster stands to its config file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What `cargo xtask cluster` would do.
    pub plan: Plan,
    /// Why no layer would run on it, though its containers are as they should be.
    pub unmarked: Option<String>,
    /// Its images come from the lab.
    pub lab: bool,
}

/// A look at the containers and the ready marker; none for a shared cluster.
///
/// # Errors
/// `docker-unavailable`, `docker-failed`, or `usage` for a broken k3d.yaml.
pub async fn standing(context: &Context) -> Result<Option<Standing>, Failure> {
    let Some(config) = context.k3d_config()? else { return Ok(None) };
    let existing = observe_containers(&config).await?;
    let facts = facts(&config, &existing, None).await?;
    let server = config.server_container();
    let id = existing.iter().find(|container| container.name.trim_start_matches('/') == server);
    let unmarked = unmarked(context, &config, id.map_or("", |server| &server.id));
    let lab = existing.iter().any(|container| container.label(LAB_LABEL) == Some("true"));
    Ok(Some(Standing { plan: decide(&facts), unmarked, lab }))
}

/// Why the ready marker does not hold for this cluster and this file, if it does not.
fn unmarked(context: &Context, config: &K3dConfig, id: &str) -> Option<String> {
    let path = context.state.ready_marker();
    match ReadyMarker::read(&path) {
        None => Some(format!("{path} does not exist: it is being rebuilt, or was never brought up here")),
        Some(marker) if marker.cluster_id != id => {
            Some("the ready marker is of an earlier cluster of this name".to_owned())
        }
        Some(marker) if marker.config_hash != config_hash(config) => {
            Some(format!("{} has changed since the cluster was made", config.path))
        }
        Some(_) => None,
    }
}

/// A layer runs only on the cluster that was found ready, made from today's file.
pub async fn require_ready(context: &Context) -> Result<Option<Lab>, Failure> {
    let Some(config) = context.k3d_config()? else { return Ok(None) };
    engine::require().await?;
    let id = cluster_id(&config).await?;
    if let Some(why) = unmarked(context, &config, &id) {
        let message = format!("the cluster {} is not ready", config.name());
        return Err(Failure::new("cluster-not-ready", Exit::ApiUnreachable, message)
            .evidence(why)
            .remedy("cargo xtask cluster"));
    }
    if made_with_lab(context).await? { lab::ensure(context).await.map(Some) } else { Ok(None) }
}

async fn stop(context: &Context, config: &K3dConfig) -> Result<(), Failure> {
    engine::require().await?;
    let toolbox = tools::ensure(&context.tree, &["k3d"], &context.reporter).await?;
    remove_marker(context)?;
    let step = context.reporter.step(config.name(), "stopping the cluster");
    k3d(context, &toolbox, None, &["cluster", "stop", config.name()]).await?;
    step.done_as("stopped the cluster; `cargo xtask cluster` starts it again");
    Ok(())
}

async fn delete(context: &Context, config: &K3dConfig) -> Result<(), Failure> {
    engine::require().await?;
    let what = format!(
        "delete the cluster {} and its registry with all their data, and the records of its runs",
        config.name()
    );
    let consent = context.may_destroy::<(consent::Cluster, consent::Registry)>(&what).await?;
    let (consent, _registry) = consent.split();
    let toolbox = tools::ensure(&context.tree, &["k3d"], &context.reporter).await?;
    remove_marker(context)?;
    delete_cluster(context, config, &toolbox, Some(&consent)).await?;
    if let Some(name) = config.registry_container() {
        let step = context.reporter.step(&name, "deleting the registry");
        if !engine::containers(std::slice::from_ref(&name)).await?.is_empty() {
            engine::docker_output(["rm", "-f", "-v", &name]).await?;
        }
        remove_if_there("volume", &name).await?;
        step.done_as("deleted the registry and its volume");
    }
    devcontainer::leave(context, config).await;
    remove_if_there("network", &config.network()).await?;
    remove_if_there("volume", &format!("k3d-{}-images", config.name())).await?;
    kubeconfig::forget(config.name()).await?;
    context.state.clear().map_err(|error| {
        let path = &context.state.path;
        Failure::new("state-unwritable", Exit::Unclassified, format!("cannot clear the state folder {path}: {error}"))
    })
}

async fn remove_if_there(kind: &str, name: &str) -> Result<(), Failure> {
    let inspected = process::capture(engine::docker([kind, "inspect", name])).await;
    if inspected.is_ok_and(|captured| captured.status.success()) {
        engine::docker_output([kind, "rm", name]).await?;
    }
    Ok(())
}

async fn delete_cluster(
    context: &Context,
    config: &K3dConfig,
    toolbox: &Toolbox,
    _consent: Option<&Consent<consent::Cluster>>,
) -> Result<(), Failure> {
    let step = context.reporter.step(config.name(), "deleting the cluster");
    let existing = observe_containers(config).await?;
    if existing.is_empty() {
        step.unchanged("no cluster to delete");
        return Ok(());
    }
    k3d(context, toolbox, None, &["cluster", "delete", config.name()]).await?;
    // What k3d does not know of: containers of a creation that was killed early.
    for container in observe_containers(config).await? {
        engine::docker_output(["rm", "-f", "-v", container.name.trim_start_matches('/')]).await?;
    }
    step.done_as("deleted the cluster");
    Ok(())
}

async fn status(context: &Context, config: &K3dConfig) -> Result<(), Failure> {
    engine::require().await?;
    let existing = observe_containers(config).await?;
    let facts = facts(config, &existing, None).await?;
    let plan = decide(&facts);
    let marker = ReadyMarker::read(&context.state.ready_marker());
    if context.json {
        let json = serde_json::json!({
            "cluster": config.name(), "exists": facts.exists, "complete": facts.complete, "missing": facts.missing,
            "stopped": facts.stopped, "drift": facts.drift, "ready": marker,
        });
        context.reporter.data(&json.to_string());
    } else {
        for container in &existing {
            context.reporter.data(&format!(
                "{:<32} {:<10} {}",
                container.name.trim_start_matches('/'),
                container.state.status,
                container.config.image
            ));
        }
        let ready = marker.map_or("not marked ready".to_owned(), |marker| format!("ready since {}", marker.time));
        context.reporter.data(&format!("{}: {ready}; `cargo xtask cluster` would {}", config.name(), describe(&plan)));
    }
    match plan {
        Plan::Nothing => Ok(()),
        other => {
            Err(Failure::new("cluster-not-ready", Exit::ApiUnreachable, describe(&other)).remedy("cargo xtask cluster"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination of what can be there; each row the first that holds.
    #[test]
    fn every_state_has_its_plan() {
        let drift = Difference { field: "servers".into(), cluster: "1".into(), file: "2".into() };
        for bits in 0..32u32 {
            let [exists, complete, missing, stopped, drifted] = std::array::from_fn(|bit| bits & (1 << bit) != 0);
            let facts = Facts {
                exists,
                complete,
                missing: Vec::from_iter(missing.then(|| "lb".to_owned())),
                stopped: Vec::from_iter(stopped.then(|| "a".to_owned())),
                drift: Vec::from_iter(drifted.then(|| drift.clone())),
            };
            match (exists, complete, missing || drifted, stopped, decide(&facts)) {
                (false, _, _, _, Plan::Create)
                | (true, false, _, _, Plan::ClearAndCreate)
                | (true, true, false, false, Plan::Nothing) => {}
                (true, true, false, true, Plan::Start(names)) => assert_eq!(names, ["a"]),
                (true, true, true, _, Plan::Recreate(reasons)) => {
                    let named = |what: &str| reasons.iter().any(|reason| reason.contains(what));
                    assert_eq!((named("servers"), named("lb")), (drifted, missing), "{reasons:?}");
                }
                (.., plan) => panic!("{facts:?}: {plan:?}"),
            }
        }
    }

    #[test]
    fn k3d_failures_are_told_by_their_cause() {
        let line = "ERRO[0001] Failed to start: Bind for 127.0.0.1:5000 failed: port is already allocated".to_owned();
        let failure = k3d_failure(&["registry", "create"], &[line]);
        assert_eq!((failure.code, failure.message.as_str()), ("port-taken", "port 5000 on this machine is taken"));
        let line = "FATA[0002] toomanyrequests: You have reached your unauthenticated pull rate limit.".to_owned();
        assert_eq!(k3d_failure(&["cluster", "create"], &[line]).exit, Exit::Registry);
    }
}
