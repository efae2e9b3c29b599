//! Docker Engine: is it there, what is it like, and, for root on a Debian-like
//! machine that has none running, installing and starting it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::process::{self, Interrupt, Job};

/// What `docker info` says of the engine.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EngineInfo {
    pub server_version: String,
    pub driver: String,
    #[serde(default)]
    pub cgroup_version: String,
    #[serde(default)]
    pub cgroup_driver: String,
    #[serde(default)]
    pub default_runtime: String,
    #[serde(default)]
    pub docker_root_dir: String,
}

/// A `docker` command.
pub fn docker<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> tokio::process::Command {
    let mut command = process::command("docker");
    command.args(arguments);
    command
}

/// The output of a `docker` command that is expected to succeed.
pub async fn docker_output<S: AsRef<std::ffi::OsStr>>(
    arguments: impl IntoIterator<Item = S>,
) -> Result<String, Failure> {
    let command = docker(arguments);
    let shown = format!("{:?}", command.as_std()).replace('"', "");
    let at_most = if looks(&command) { process::ANSWER } else { process::ACT };
    let captured =
        process::capture_within(command, at_most).await.map_err(|failure| unavailable(failure.to_string()))?;
    if captured.status.success() {
        return Ok(captured.stdout);
    }
    let said = captured.stderr.to_lowercase();
    if said.contains("docker daemon") && (said.contains("cannot connect") || said.contains("permission denied")) {
        return Err(unavailable(captured.ok().err().unwrap_or_default()));
    }
    // The client's last line only counts what failed; the engine's own words come before it.
    let cause = captured.stderr.lines().find(|line| line.contains("Error response from daemon")).map(str::to_owned);
    let evidence = cause.unwrap_or_else(|| captured.ok().err().unwrap_or_default());
    Err(Failure::new("docker-failed", Exit::NotReady, format!("`{shown}` failed")).evidence(evidence))
}

/// Whether a command only asks the engine; what it does (saving, pushing, deleting) may take longer.
fn looks(command: &tokio::process::Command) -> bool {
    let looks = ["info", "inspect", "ps", "images", "version", "ls"];
    command.as_std().get_args().take(2).any(|word| looks.iter().any(|look| word == *look))
}

/// Starts a stopped container, or removes it where the engine cannot: made under
/// a runtime that this engine does not know, its port taken, its image half gone.
/// Only for containers whose content is in a named volume. Returns whether it runs.
pub async fn start_or_remove(name: &str) -> Result<bool, Failure> {
    if docker_output(["start", name]).await.is_ok() {
        return Ok(true);
    }
    docker_output(["rm", "-f", name]).await?;
    Ok(false)
}

/// The engine's description, or why it cannot be had.
pub async fn observe() -> Result<EngineInfo, String> {
    let captured =
        process::capture(docker(["info", "--format", "{{json .}}"])).await.map_err(|error| error.to_string())?;
    let output = captured.ok()?;
    // Without an engine the client answers all the same, with `ServerErrors`.
    let value: Value = serde_json::from_str(&output).map_err(|error| error.to_string())?;
    if let Some(error) = value.get("ServerErrors").and_then(Value::as_array).and_then(|errors| errors.first()) {
        return Err(error.as_str().unwrap_or("unknown").to_owned());
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn unavailable(evidence: impl Into<String>) -> Failure {
    Failure::new("docker-unavailable", Exit::NotReady, "Docker Engine cannot be reached").evidence(evidence).remedy(
        "start Docker Engine (`systemctl start docker`, or Docker Desktop), or as root on Debian: cargo xtask up --yes",
    )
}

pub async fn require() -> Result<EngineInfo, Failure> {
    observe().await.map_err(unavailable)
}

/// The engine, installed and started if this machine allows it.
pub async fn ensure(context: &Context) -> Result<EngineInfo, Failure> {
    let error = match observe().await {
        Ok(info) => return Ok(info),
        Err(error) => error,
    };
    let debian = which::which("apt-get").is_ok() && which::which("dpkg").is_ok();
    let remote = std::env::var("DOCKER_HOST").is_ok_and(|host| !host.is_empty());
    if !rustix::process::geteuid().is_root() || !debian || remote {
        return Err(unavailable(error));
    }
    let reporter = &context.reporter;
    let installed = which::which("dockerd").is_ok();
    let what = if installed {
        "start Docker Engine (dockerd)"
    } else {
        "install Docker Engine (apt package docker.io) and start it"
    };
    reporter.note("docker", format!("no engine is running here ({error})"));
    if context.dry_run {
        reporter.planned("docker", what);
        return Err(unavailable(error));
    }
    context.confirm(what).await?;
    if !installed {
        let step = reporter.step("docker", "installing Docker Engine");
        // A killed installation leaves packages unpacked but not configured.
        apt(context, "dpkg", &["--configure", "-a"]).await?;
        apt(context, "apt-get", &["update"]).await?;
        apt(context, "apt-get", &["install", "-y", "--no-install-recommends", "docker.io"]).await?;
        step.done_as("installed Docker Engine (docker.io)");
    }
    let step = reporter.step("docker", "starting Docker Engine");
    let mut dockerd = start(context).await?;
    let info = wait_until_it_answers(dockerd.as_mut()).await?;
    step.done_as(format!(
        "started Docker Engine {} ({}, cgroup v{})",
        info.server_version, info.driver, info.cgroup_version
    ));
    Ok(info)
}

async fn apt(context: &Context, program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let mut command = process::command(program);
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let log = context.log("apt");
    let ended = Job { command, log: &log, inherit: None }.run_to_end(|line| context.reporter.progress(line)).await?;
    if ended.status.success() {
        return Ok(());
    }
    Err(Failure::new("docker-unavailable", Exit::NotReady, format!("`{program} {}` failed", arguments.join(" ")))
        .evidence(ended.tail.last().cloned().unwrap_or_default())
        .log(log))
}

/// Where the wrapper around runc is put: dockerd wants a path that stays.
const WRAPPER: &str = "/usr/local/lib/ameide/runc-without-sys-resource";

const DOCKERD_LOG: &str = "/var/log/dockerd.log";

/// Starts the engine: by systemd, or as a process of its own, which is returned.
async fn start(context: &Context) -> Result<Option<std::process::Child>, Failure> {
    let io = |error: std::io::Error| unavailable(error.to_string());
    let wrapper = !has_sys_resource();
    if !wrapper && std::path::Path::new("/run/systemd/system").is_dir() {
        let mut command = process::command("systemctl");
        command.args(["start", "docker"]);
        let answer = process::capture_within(command, process::ACT).await;
        answer.map_err(|failure| unavailable(failure.to_string()))?.ok().map_err(unavailable)?;
        return Ok(None);
    }
    for pid_file in ["/var/run/docker.pid", "/var/run/docker/containerd/containerd.pid"] {
        remove_stale_pid_file(pid_file);
    }
    let mut command = std::process::Command::new("dockerd");
    if wrapper {
        let source = context.tree.path("infra/docker/engine/runc-without-sys-resource");
        install_executable(source.as_std_path(), std::path::Path::new(WRAPPER)).map_err(io)?;
        command.arg(format!("--add-runtime=ameide={WRAPPER}")).arg("--default-runtime=ameide");
    }
    let log = std::fs::File::options().create(true).append(true).open(DOCKERD_LOG).map_err(io)?;
    command.env_clear().envs(process::environment::of("dockerd"));
    command.stdin(std::process::Stdio::null()).stderr(log.try_clone().map_err(io)?).stdout(log);
    {
        use std::os::unix::process::CommandExt;
        // The engine outlives this run: a session of its own keeps a terminal's signals away.
        // SAFETY: setsid is async-signal-safe.
        unsafe {
            command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into));
        }
    }
    Ok(Some(command.spawn().map_err(io)?))
}

/// dockerd that was killed leaves a file with its process id; when another program
/// has that id by now, the next dockerd would take it for itself and not start.
fn remove_stale_pid_file(path: &str) {
    let Ok(text) = std::fs::read_to_string(path) else { return };
    let name = std::fs::read_to_string(format!("/proc/{}/comm", text.trim())).unwrap_or_default();
    if !matches!(name.trim(), "dockerd" | "containerd") {
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
    std::fs::rename(temporary, target)
}

async fn wait_until_it_answers(mut dockerd: Option<&mut std::process::Child>) -> Result<EngineInfo, Failure> {
    let started = Instant::now();
    loop {
        let error = match observe().await {
            Ok(info) => return Ok(info),
            Err(error) => error,
        };
        if let Some(Ok(Some(status))) = dockerd.as_mut().map(|dockerd| dockerd.try_wait()) {
            let log = std::fs::read_to_string(DOCKERD_LOG).unwrap_or_default();
            let cause = log.lines().rev().find(|line| line.starts_with("failed to start")).unwrap_or(&error);
            return Err(Failure::new("docker-unavailable", Exit::NotReady, format!("dockerd ended with {status}"))
                .evidence(cause)
                .remedy("mend what the evidence names, then run this again")
                .log(DOCKERD_LOG));
        }
        if started.elapsed() > Duration::from_secs(60) {
            return Err(unavailable(error).log(DOCKERD_LOG));
        }
        // dockerd has no way to tell that it listens now but to be asked.
        Interrupt::global().or(tokio::time::sleep(Duration::from_millis(200))).await?;
    }
}

/// Whether this machine's root may raise resource limits. Where the bounding set
/// lacks CAP_SYS_RESOURCE (bit 24, `capability.h`), runc cannot start privileged
/// containers, which k3d's nodes are.
pub fn has_sys_resource() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    bounding.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_none_or(|set| set & (1 << 24) != 0)
}

/// A container as `docker inspect` describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    pub id: String,
    pub name: String,
    pub state: ContainerState,
    pub config: ContainerConfig,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerState {
    pub running: bool,
    pub status: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    pub image: String,
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
}

impl Container {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.config.labels.as_ref()?.get(name).map(String::as_str)
    }
}

/// The named containers that exist.
pub async fn containers(names: &[String]) -> Result<Vec<Container>, Failure> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = docker(["container", "inspect"]);
    command.args(names);
    let captured = process::capture(command).await.map_err(|error| unavailable(error.to_string()))?;
    // Exit code 1 with a list of what was found means that some do not exist.
    serde_json::from_str(&captured.stdout).map_err(|_| unavailable(captured.stderr.trim().to_owned()))
}

/// The names of all containers with all of these labels, running or not.
pub async fn containers_labelled(labels: &[&str]) -> Result<Vec<String>, Failure> {
    let filters = labels.iter().flat_map(|label| ["--filter".to_owned(), format!("label={label}")]);
    let arguments = ["ps", "-a", "--format", "{{.Names}}"].map(str::to_owned).into_iter().chain(filters);
    let output = docker_output(arguments).await?;
    Ok(output.lines().map(str::to_owned).collect())
}

/// Every image whose repository matches, as `repository:tag`.
pub async fn image_tags(repository: &str) -> Result<BTreeSet<String>, Failure> {
    let filter = format!("reference={repository}");
    let output = docker_output(["images", "--filter", &filter, "--format", "{{.Repository}}:{{.Tag}}"]).await?;
    Ok(output.lines().map(str::to_owned).collect())
}
