//! Docker Engine: whether it is there, what it is like, and, for root on a Debian-like machine
//! where none is running, installing and starting it. In a dev container the engine is only waited
//! for: there a feature starts one in parallel, or none is wanted.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::files;
use crate::host;
use crate::repo::Repo;
use crate::run::Run;
use crate::run::wait;
use crate::world::docker::{self, EngineInfo, Fault, docker_output, unavailable};
use crate::world::process::{self, Job};
use run_record::{Code, Exit, Failure, Step, StepKind};

/// The engine's description, or why it is not available.
pub async fn observe() -> Result<EngineInfo, String> {
    docker::info().await.map_err(|(_, error)| error)
}

pub async fn require() -> Result<EngineInfo, Failure> {
    docker::info().await.map_err(|(fault, error)| unavailable(fault, error))
}

/// The engine, installed and started if this machine allows it; waited for in a dev container.
///
/// # Errors
/// `docker-unavailable`, `consent-needed`, `interrupted`.
pub async fn ensure(run: &Run, repo: &Repo) -> Result<EngineInfo, Failure> {
    let (fault, error) = match docker::info().await {
        Ok(info) => return Ok(info),
        Err(error) => error,
    };
    let unavailable = |error: String| unavailable(fault, error);
    // If an engine answers, even with an error, no other one should be started.
    if fault != Fault::Away {
        return Err(unavailable(error));
    }
    let debian = which::which("apt-get").is_ok() && which::which("dpkg").is_ok();
    let set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let remote = set("DOCKER_HOST") || set("DOCKER_CONTEXT");
    if is_dev_container(set) {
        // Without a client, or for a remote engine, nothing will come up here.
        let comes = !remote && which::which("docker").is_ok();
        return if comes { come_up(run, error).await } else { Err(of_dev_container(unavailable(error))) };
    }
    if !rustix::process::geteuid().is_root() || !debian || remote {
        return Err(unavailable(error));
    }
    // Without a client, nobody can have chosen another engine with it.
    if which::which("docker").is_ok() {
        require_here(docker::endpoint().await, unavailable(error.clone()))?;
    }
    let reporter = &run.reporter;
    let installed = which::which("dockerd").is_ok();
    let what = if installed {
        "start Docker Engine (dockerd)"
    } else {
        "install Docker Engine (apt package docker.io) and start it"
    };
    reporter.note("docker", format!("no engine is running here ({error})"));
    if run.dry_run {
        reporter.planned("docker", what);
        return Err(unavailable(error));
    }
    run.confirm(what).await?;
    // Another run may be about to do the same, for another cluster.
    let told = || reporter.waiting("docker", "another run is installing or starting it");
    let _turn = wait::turn(&files::cache_dir()?.join("engine.lock"), told).await?;
    match docker::info().await {
        Ok(info) => return Ok(info),
        Err((Fault::Away, _)) => {}
        Err((fault, error)) => return Err(docker::unavailable(fault, error)),
    }
    if which::which("dockerd").is_err() {
        let step = reporter
            .step(Step::new(StepKind::Engine, "docker", "installing Docker Engine").logging_to(&run.log("apt")));
        // A killed installation leaves packages unpacked but not configured.
        apt(run, "dpkg", &["--configure", "-a"]).await?;
        apt(run, "apt-get", &["update"]).await?;
        apt(run, "apt-get", &["install", "-y", "--no-install-recommends", "docker.io"]).await?;
        step.done_as("installed Docker Engine (docker.io)");
    }
    let step = reporter.step(Step::new(StepKind::Engine, "docker", "starting Docker Engine"));
    let mut dockerd = start(repo).await?;
    let info = wait_until_it_answers(dockerd.as_mut()).await?;
    step.done_as(format!(
        "started Docker Engine {} ({}, cgroup v{})",
        info.server_version, info.driver, info.cgroup_version
    ));
    Ok(info)
}

/// Whether this is a dev container, by the variables of `.devcontainer/devcontainer.json`, VS Code
/// and GitHub Codespaces. Any other container counts as a machine of its own.
fn is_dev_container(set: impl Fn(&str) -> bool) -> bool {
    ["DEVCONTAINER", "REMOTE_CONTAINERS", "CODESPACES"].into_iter().any(set)
}

/// How long the engine of a dev container may take to answer. The docker-in-docker feature starts
/// dockerd, and restarts it after a failure, while the first commands are already running.
const COMES_UP: Duration = Duration::from_secs(90);

/// Waits for the engine that a dev container starts in parallel.
async fn come_up(run: &Run, error: String) -> Result<EngineInfo, Failure> {
    const EVERY: Duration = Duration::from_millis(500);
    let reporter = &run.reporter;
    let bound = COMES_UP.as_secs();
    reporter.waiting("docker", format!("{error}: waiting at most {bound} s for the dev container's engine to come up"));
    let step = reporter.step(Step::new(StepKind::Engine, "docker", "waiting for Docker Engine"));
    let look = async || match docker::info().await {
        Ok(info) => Ok(ControlFlow::Break(info)),
        // Its socket is created before it is given to the group docker.
        Err((fault @ (Fault::Away | Fault::Denied), error)) => Ok(ControlFlow::Continue((fault, error))),
        Err((fault, error)) => Err(unavailable(fault, error)),
    };
    match wait::until(EVERY, COMES_UP, look).await? {
        ControlFlow::Break(info) => {
            step.done_as(format!("Docker Engine {} came up", info.server_version));
            Ok(info)
        }
        ControlFlow::Continue((Fault::Denied, error)) => Err(unavailable(Fault::Denied, error)),
        ControlFlow::Continue((fault, error)) => {
            Err(of_dev_container(unavailable(fault, error).evidence(format!("it did not come up within {bound} s"))))
        }
    }
}

/// The remedy in a dev container, where a feature installs and starts the engine.
fn of_dev_container(failure: Failure) -> Failure {
    failure.remedy(
        "docker-in-docker says why in /tmp/dockerd.log; rebuild the container, with that feature or \
         docker-outside-of-docker in its devcontainer.json",
    )
}

/// Whether an engine at this address, as in a Docker context, is on this machine.
fn is_here(host: &str) -> bool {
    ["unix://", "npipe://"].iter().any(|local| host.trim().starts_with(local))
}

/// Requires that the engine that does not answer would be on this machine; else fails with `away`.
/// If the look failed, its address is unknown.
fn require_here(endpoint: Result<String, Failure>, away: Failure) -> Result<(), Failure> {
    match endpoint {
        Ok(host) if is_here(&host) => Ok(()),
        Ok(host) => Err(away
            .evidence(format!("the chosen context of Docker is for {:?}", host.trim()))
            .remedy("start the engine that `docker context ls` shows as chosen; or docker context use default")),
        Err(failure) if matches!(failure.exit(), Exit::Interrupted | Exit::Terminated) => Err(failure),
        Err(_) => Err(away),
    }
}

async fn apt(run: &Run, program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let mut command = process::command(program);
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let log = run.log("apt");
    let ended = Job { command, log: &log, inherit: None }.run_to_end(|line| run.reporter.progress(line)).await?;
    if ended.status.success() {
        return Ok(());
    }
    Err(Failure::new(Code::DockerUnavailable, format!("`{program} {}` failed", arguments.join(" ")))
        .evidence(ended.tail.last().cloned().unwrap_or_default())
        .log(log))
}

/// The path of the wrapper around runc; dockerd needs one that stays valid.
const WRAPPER: &str = "/usr/local/lib/ameide/runc-without-sys-resource";

const DOCKERD_LOG: &str = "/var/log/dockerd.log";

/// Starts the engine: through systemd, or as a child process, which is returned.
async fn start(repo: &Repo) -> Result<Option<std::process::Child>, Failure> {
    let io = |error: std::io::Error| unavailable(Fault::Away, error.to_string());
    let wrapper = !host::may_raise_limits();
    if !wrapper && std::path::Path::new("/run/systemd/system").is_dir() {
        let mut command = process::command("systemctl");
        command.args(["start", "docker"]);
        let answer = process::capture_within(command, process::ACT).await;
        let failed = |error: String| unavailable(Fault::Away, error);
        answer.map_err(|failure| failed(failure.to_string()))?.ok().map_err(failed)?;
        return Ok(None);
    }
    for pid_file in ["/var/run/docker.pid", "/var/run/docker/containerd/containerd.pid"] {
        remove_stale_pid_file(pid_file);
    }
    let mut command = std::process::Command::new("dockerd");
    if wrapper {
        let source = repo.tree.path("infra/docker/engine/runc-without-sys-resource");
        install_executable(source.as_std_path(), std::path::Path::new(WRAPPER)).map_err(io)?;
        command.arg(format!("--add-runtime=ameide={WRAPPER}")).arg("--default-runtime=ameide");
    }
    let log = std::fs::File::options().create(true).append(true).open(DOCKERD_LOG).map_err(io)?;
    command.env_clear().envs(process::environment::of("dockerd"));
    command.stdin(std::process::Stdio::null()).stderr(log.try_clone().map_err(io)?).stdout(log);
    {
        use std::os::unix::process::CommandExt;
        // The engine outlives this run: its own session keeps the terminal's signals away.
        // SAFETY: setsid is async-signal-safe.
        unsafe {
            command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into));
        }
    }
    Ok(Some(command.spawn().map_err(io)?))
}

/// A killed dockerd leaves a file with its process id; if another program has that id now, the next
/// dockerd would believe itself to be running already and not start.
fn remove_stale_pid_file(path: &str) {
    let Ok(text) = std::fs::read_to_string(path) else { return };
    let Ok(pid) = text.trim().parse() else { return };
    let other = host::program(pid).is_ok_and(|name| !matches!(name.as_deref(), Some("dockerd" | "containerd")));
    if other {
        let _ = std::fs::remove_file(path);
    }
}

fn install_executable(source: &std::path::Path, target: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let temporary = target.with_extension("new");
    std::fs::copy(source, &temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o755))?;
    std::fs::File::open(&temporary)?.sync_all()?;
    std::fs::rename(temporary, target)
}

async fn wait_until_it_answers(mut dockerd: Option<&mut std::process::Child>) -> Result<EngineInfo, Failure> {
    const EVERY: Duration = Duration::from_millis(200);
    // The only way to find out whether dockerd is listening is to query it.
    let look = async || {
        let error = match observe().await {
            Ok(info) => return Ok(ControlFlow::Break(info)),
            Err(error) => error,
        };
        if let Some(Ok(Some(status))) = dockerd.as_mut().map(|dockerd| dockerd.try_wait()) {
            let log = std::fs::read_to_string(DOCKERD_LOG).unwrap_or_default();
            let cause = log.lines().rev().find(|line| line.starts_with("failed to start")).unwrap_or(&error);
            return Err(Failure::new(Code::DockerUnavailable, format!("dockerd exited with {status}"))
                .evidence(cause)
                .remedy("fix what the evidence names, then run this again")
                .log(DOCKERD_LOG));
        }
        Ok(ControlFlow::Continue(error))
    };
    match wait::until(EVERY, Duration::from_secs(60), look).await? {
        ControlFlow::Break(info) => Ok(info),
        ControlFlow::Continue(error) => Err(unavailable(Fault::Away, error).log(DOCKERD_LOG)),
    }
}

/// Every image whose repository matches, as `repository:tag`.
pub async fn image_tags(repository: &str) -> Result<BTreeSet<String>, Failure> {
    let filter = format!("reference={repository}");
    let output = docker_output(["images", "--filter", &filter, "--format", "{{.Repository}}:{{.Tag}}"]).await?;
    Ok(output.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dev_container_is_known_by_its_variables() {
        for variable in ["DEVCONTAINER", "REMOTE_CONTAINERS", "CODESPACES"] {
            assert!(is_dev_container(|name| name == variable), "{variable}");
        }
        // Inside a container that is not a dev container, as a CI job may be.
        assert!(!is_dev_container(|name| name == "container"));
    }

    #[test]
    fn an_engine_chosen_elsewhere_is_not_here() {
        for host in ["unix:///var/run/docker.sock\n", "unix:///run/docker.sock", "npipe:////./pipe/docker_engine"] {
            assert!(is_here(host), "{host}");
        }
        for host in ["ssh://anna@build\n", "tcp://10.0.0.1:2376", "http://x", "", "\n", "<no value>", "/unix://"] {
            assert!(!is_here(host), "{host}");
        }
    }

    #[test]
    fn no_engine_is_started_here_for_one_chosen_elsewhere_or_nobody_knows_where() {
        let away = || unavailable(Fault::Away, "it does not answer");
        assert!(require_here(Ok("unix:///var/run/docker.sock\n".to_owned()), away()).is_ok());
        let remote = require_here(Ok("ssh://anna@build\n".to_owned()), away()).unwrap_err();
        assert_eq!((remote.code, remote.evidence.len()), (Code::DockerUnavailable, 2));
        assert!(remote.remedy.unwrap().contains("docker context"));
        let unknown = Failure::new(Code::DockerFailed, "x");
        assert_eq!(require_here(Err(unknown), away()).unwrap_err().evidence, ["it does not answer"]);
        let interrupted = Failure::new(Code::Interrupted, "x");
        assert_eq!(require_here(Err(interrupted), away()).unwrap_err().exit(), Exit::Interrupted);
    }
}
