//! Runs of k3d: the command, its log, and why it failed.

use std::net::SocketAddr;

use super::containers::{self, CONFIG_LABEL, LAB_LABEL, observe};
use super::images::Images;
use super::marker::remember_kind;
use super::{devcontainer, k3d_errors, label, network};
use crate::repo::k3d::K3dConfig;
use crate::run::Run;
use crate::run::context::{Context, Site};
use crate::world::docker::{self, Container, Kind, Looked, docker_output};
use crate::world::kubeconfig;
use crate::world::process::{self, Job};
use crate::world::tools::Toolbox;
use run_record::{Failure, Step, StepKind};

pub async fn create(run: &Run, config: &K3dConfig, toolbox: &Toolbox, images: &Images) -> Result<(), Failure> {
    let step = run.reporter.step(k3d_step(run, config, "creating the cluster"));
    remember_kind(run, images.lab)?;
    let label = format!("{CONFIG_LABEL}={}@all", label::of(config));
    let lab_label = format!("{LAB_LABEL}={}@all", images.lab);
    let mut arguments = vec!["cluster", "create", "--config", config.path.as_str()];
    // A flag would take precedence over the file.
    arguments.extend(if config.has_timeout() { &WAITING[..1] } else { &WAITING });
    arguments.extend(["--kubeconfig-update-default=false", "--runtime-label", &label, "--runtime-label", &lab_label]);
    if let Some(node) = &images.node {
        arguments.extend(["--image", node]);
    }
    k3d(run, toolbox, images, &arguments).await?;
    containers::stamp(config).await?;
    step.done_as("created the cluster");
    Ok(())
}

pub async fn start(
    run: &Run,
    config: &K3dConfig,
    toolbox: &Toolbox,
    images: &Images,
    done: &str,
) -> Result<(), Failure> {
    let step = run.reporter.step(k3d_step(run, config, "starting the cluster"));
    network::restore(run, config, &observe(config).await?).await?;
    // Agents may have joined through the load balancer, which k3d starts last.
    if let Some(balancer) = config.loadbalancer_container()
        && let Looked::Found(container) = docker::look::<Container>(Kind::Container, &balancer).await?
        && !container.runs()
    {
        // What keeps it from starting is reported by k3d, which tries again.
        let _ = docker_output([container.starting(), &container.id]).await;
    }
    // k3d starts containers that are stopped, and no others.
    for container in observe(config).await?.iter().filter(|container| container.is_paused()) {
        docker_output(["unpause", &container.id]).await?;
    }
    k3d(run, toolbox, images, &[&["cluster", "start", config.name()], &WAITING[..]].concat()).await?;
    step.done_as(done);
    Ok(())
}

/// What can be known of a creation before anything is deleted for it: that k3d accepts the file, and that
/// no other program holds a port of the cluster, of which `existing` are the containers.
///
/// # Errors
/// `usage` with k3d's words, `port-taken`; errors of running k3d.
pub async fn require_creatable(
    context: &Context,
    config: &K3dConfig,
    toolbox: &Toolbox,
    existing: &[Container],
) -> Result<(), Failure> {
    check_file(&context.run, config, toolbox).await?;
    require_ports_free(&context.site, config, existing)
}

/// Has k3d check the file against its schema, which knows more than the types here. It asks no engine
/// for that.
///
/// # Errors
/// `usage` with k3d's words; errors of running it.
async fn check_file(run: &Run, config: &K3dConfig, toolbox: &Toolbox) -> Result<(), Failure> {
    let mut command = k3d_command(run, toolbox);
    let has = |name: &str| command.as_std().get_envs().any(|(given, value)| given == name && value.is_some());
    config.check_for_creation(has)?;
    // It prints the file as it understands it, and writes nothing.
    command.args(["config", "migrate", config.path.as_str()]);
    let refusal = |said: String| {
        Failure::usage(format!("k3d does not accept {}", config.path)).evidence(k3d_errors::readable(&said))
    };
    process::capture(command).await?.ok().map(drop).map_err(refusal)
}

/// Names a port of the cluster that is taken by something else than its own containers, which are
/// `existing`: before k3d leaves half a cluster, and before any of them is deleted for a new one.
///
/// # Errors
/// `port-taken`.
pub fn require_ports_free(site: &Site, config: &K3dConfig, existing: &[Container]) -> Result<(), Failure> {
    let published: Option<Vec<Vec<SocketAddr>>> = existing.iter().map(Container::published).collect();
    // Where the engine does not say which ports are the cluster's own, any may be.
    let Some(ours) = published.map(|ports| ports.concat()) else { return Ok(()) };
    let is_ours = |address: &SocketAddr| {
        let holds = |own: &SocketAddr| own.ip() == address.ip() || own.ip().is_unspecified();
        ours.iter().any(|own| own.port() == address.port() && holds(own))
    };
    let mut others = config.host_ports().into_iter().filter(|address| !is_ours(address));
    others.try_for_each(|address| require_port_free(site, address))
}

/// In a container whose engine is outside, the ports are those of a machine that cannot be
/// inspected from here.
pub fn require_port_free(site: &Site, address: SocketAddr) -> Result<(), Failure> {
    if site.inside.is_some() {
        return Ok(());
    }
    match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(k3d_errors::port_taken(Some(address.port()), format!("bind {address}: address already in use")))
        }
        // We may not be allowed to use a low port that is still free for Docker.
        Err(_) => Ok(()),
    }
}

/// A step done by k3d.
pub fn k3d_step(run: &Run, config: &K3dConfig, text: &str) -> Step {
    Step::new(StepKind::Cluster, config.name(), text).logging_to(&k3d_log(run))
}

fn k3d_log(run: &Run) -> camino::Utf8PathBuf {
    run.log("k3d")
}

/// For how long k3d waits for the nodes: without a limit of ours it is forever.
const WAITING: [&str; 3] = ["--wait", "--timeout", "300s"];

pub async fn k3d(run: &Run, toolbox: &Toolbox, images: &Images, arguments: &[&str]) -> Result<(), Failure> {
    let mut command = k3d_command(run, toolbox);
    command.envs(images.variables()).args(arguments);
    let log = k3d_log(run);
    let job = Job { command, log: &log, inherit: None };
    let said = |line: &str| run.reporter.progress(&format!("[k3d] {}", k3d_errors::readable(line)));
    run_k3d(job, arguments, said).await
}

/// Runs k3d to its end, or until it pulls an image over and over.
async fn run_k3d(job: Job<'_>, arguments: &[&str], mut said: impl FnMut(&str)) -> Result<(), Failure> {
    let log = job.log.to_owned();
    let (mut lines, mut pulls) = (Vec::new(), k3d_errors::Pulls::default());
    let (sender, mut too_many) = tokio::sync::mpsc::unbounded_channel();
    let on_line = |line: &str| {
        said(line);
        if let Some(failure) = pulls.too_many(line) {
            // The receiver lives until the job has ended.
            let _ = sender.send(failure);
        }
        if lines.len() < MOST_LINES {
            lines.push(line.to_owned());
        }
    };
    let stop = async {
        match too_many.recv().await {
            Some(failure) => failure.log(log.clone()),
            None => std::future::pending().await,
        }
    };
    if job.run(on_line, stop).await?.status.success() {
        return Ok(());
    }
    Err(k3d_errors::failure(arguments, &lines).log(log))
}

/// k3d refuses a `KUBECONFIG` with several files and takes no lock on the one it rewrites: it gets
/// a file of this run, and the `kubeconfig` module writes what k3d would have written.
fn k3d_command(run: &Run, toolbox: &Toolbox) -> tokio::process::Command {
    let mut command = toolbox.command("k3d");
    command.env("KUBECONFIG", run.dir.join("kubeconfig"));
    command
}

/// How many lines of k3d's output are kept to find the cause in; it prints some thirty.
const MOST_LINES: usize = 1000;

/// Writes the cluster's context to the kubeconfig, with an address that is reachable from here.
pub async fn merge_kubeconfig(run: &Run, site: &Site, config: &K3dConfig, toolbox: &Toolbox) -> Result<(), Failure> {
    // Its output contains the cluster's keys, so it is not logged.
    let mut command = k3d_command(run, toolbox);
    command.args(["kubeconfig", "get", config.name()]);
    let failed = |tail: Vec<String>| k3d_errors::failure(&["kubeconfig", "get"], &tail);
    let captured = process::capture(command).await?;
    if !captured.status.success() {
        return Err(failed(captured.stderr.lines().map(str::to_owned).collect()));
    }
    devcontainer::join(site, config, &[]).await?;
    kubeconfig::put(&captured.stdout, devcontainer::api_server(site, config).as_deref()).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use camino::Utf8Path;
    use run_record::Code;

    use super::*;

    async fn run(script: &str) -> Result<(), Failure> {
        let folder = tempfile::tempdir().unwrap();
        let log = Utf8Path::from_path(folder.path()).unwrap().join("k3d.log");
        let mut command = process::command("sh");
        command.args(["-c", script]);
        let job = Job { command, log: &log, inherit: None };
        run_k3d(job, &["cluster", "create"], |_| {}).await
    }

    #[tokio::test]
    async fn k3d_that_pulls_one_image_over_and_over_is_ended() {
        let script = "while :; do echo \"INFO[0000] Pulling image 'a:1'\"; sleep 0.01; done";
        let failure = tokio::time::timeout(Duration::from_secs(60), run(script)).await.unwrap().unwrap_err();
        assert_eq!(failure.message, "Docker does not finish pulling a:1");
        run("for i in a b c d; do echo \"INFO[0000] Pulling image '$i:1'\"; done").await.unwrap();
        let failed = run("echo \"ERRO[0000] no space left on device\"; exit 1").await.unwrap_err();
        assert_eq!(failed.code, Code::DiskFull);
    }
}
