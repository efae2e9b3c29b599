//! Interprets the output of Docker's command line, in one place. A look has three possible results:
//! the thing was found, the engine itself said that there is none, or the look failed; and the
//! third is never taken for the second.
//!
//! The messages are those of docker/cli and moby 20.10 to 29, of podman behind the same command,
//! and of anything in between: a socket, a proxy, a context.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::world::process::{self, Captured};
use run_record::{Code, Exit, Failure};

/// The result of a look that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "what was not looked at is not absent"]
pub enum Looked<T> {
    Found(T),
    /// The engine itself said that there is none.
    Absent,
}

impl<T> Looked<T> {
    pub fn found(self) -> Option<T> {
        match self {
            Self::Found(value) => Some(value),
            Self::Absent => None,
        }
    }
}

/// What can be looked up by name: `docker KIND inspect NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
        }
    }
}

/// Why Docker's command did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing answers at the engine's address.
    Away,
    /// Something answers, but denies access.
    Denied,
    /// The client does not know where the engine is.
    Context,
    /// Client and engine share no API version.
    Version,
    /// Anything else, including the engine's own refusals.
    Other,
}

/// The fault that a line of standard error describes.
pub fn fault(line: &str) -> Fault {
    let line = line.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| line.contains(word));
    // An engine's answer is about its own connections (to a registry, for example), except for
    // Docker Desktop's, which answers for an engine behind it. k3d, and the client itself, may add
    // around it what they were doing.
    let answered = line.contains("error response from daemon");
    let on_the_way = &[
        "cannot connect to the docker daemon",
        "failed to connect to the docker api",
        "error during connect",
        "cannot connect to podman",
        "unable to connect to podman",
        "is the docker daemon running",
        "dial tcp",
        "open //./pipe/",
        "connection reset by peer",
        "unexpected eof",
        "server misbehaving",
    ];
    let server_error =
        has(&["request returned 5", "request returned internal server error", "request returned bad gateway"]);
    if has(&["permission denied while trying to connect", "dial unix"]) && has(&["permission denied"]) {
        Fault::Denied
    } else if has(&["context not found", "unable to resolve docker endpoint", "invalid docker host"])
        || (has(&["context \""]) && has(&["does not exist", "not found"]))
    {
        Fault::Context
    } else if has(&["client version"]) && has(&["too new", "too old"]) {
        Fault::Version
    } else if has(&["dial unix", "daemon is shutting down", "docker desktop is unable to start"])
        || (!answered && has(on_the_way))
        || (server_error && has(&["api route"]))
    {
        Fault::Away
    } else {
        Fault::Other
    }
}

/// A line that says nothing about whether the command succeeded.
fn is_noise(line: &str) -> bool {
    let lower = line.to_lowercase();
    // Logged by podman and sometimes by Docker, in logrus's format without a terminal.
    let level = lower.strip_prefix("time=\"").and_then(|rest| rest.split_once("\" level=")).map(|(_, rest)| rest);
    let logged = level.is_some_and(|rest| {
        ["trace", "debug", "info", "warning"].iter().any(|level| rest.starts_with(&format!("{level} ")))
    });
    line.trim().is_empty()
        || logged
        || lower.starts_with("warning")
        || lower.starts_with("emulate docker cli using podman")
}

/// Whether in this line the engine itself says that it has no such thing, by this name.
fn says_absent(line: &str, kind: Kind, name: &str) -> bool {
    let Some(said) = refusal(line) else { return false };
    let name = name.to_lowercase();
    let named = said
        .split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ','))
        .any(|word| word == name || word.trim_end_matches(':') == name);
    let noun = kind.word();
    let absent = said.contains(&format!("no such {noun}"))
        || said.contains("no such object")
        || said.contains(&format!("no {noun} with name or id"))
        || match kind {
            Kind::Image => said.contains("image not known"),
            Kind::Network => said == format!("network {name} not found") || said.ends_with("network not found"),
            Kind::Container | Kind::Volume => false,
        };
    named && absent
}

/// Whether in this line the engine itself says that a container has no such file.
fn says_no_file(line: &str, container: &str, path: &str) -> bool {
    let Some(said) = refusal(line) else { return false };
    let (container, path) = (container.to_lowercase(), path.to_lowercase());
    said == format!("could not find the file {path} in container {container}")
        || said == format!("no such container:path: {container}:{path}")
        || said.starts_with(&format!("\"{path}\" could not be found on container {container}"))
}

/// What follows "Error:" or "Error response from daemon:", in lower case; `None` for messages about
/// the connection to the engine, which may contain "no such file" too.
fn refusal(line: &str) -> Option<String> {
    let line = line.trim();
    if fault(line) != Fault::Other {
        return None;
    }
    let lower = line.to_lowercase();
    let said = lower.strip_prefix("error response from daemon: ").or_else(|| lower.strip_prefix("error: "))?;
    Some(said.strip_prefix("error response from daemon: ").unwrap_or(said).to_owned())
}

/// The address of the engine that this machine's client uses, according to its contexts.
///
/// # Errors
/// As for [`docker_output`].
pub async fn endpoint() -> Result<String, Failure> {
    docker_output(["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]).await
}

/// A `docker` command.
pub fn docker<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> tokio::process::Command {
    let mut command = process::command("docker");
    command.args(arguments);
    command
}

/// A command as messages show it. None of our arguments is secret.
fn shown(command: &tokio::process::Command) -> String {
    // Not the standard library's format, which includes the environment.
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Whether a command only queries the engine; other commands (saving, pushing, deleting) may take
/// longer.
fn looks(command: &tokio::process::Command) -> bool {
    let looks = ["info", "inspect", "ps", "images", "version", "ls"];
    command.as_std().get_args().take(2).any(|word| looks.iter().any(|look| word == *look))
}

async fn capture(command: tokio::process::Command) -> Result<Captured, Failure> {
    let at_most = if looks(&command) { process::ANSWER } else { process::ACT };
    process::capture_within(command, at_most).await.map_err(|failure| match failure.exit() {
        Exit::Interrupted | Exit::Terminated => failure,
        _ => unavailable(Fault::Away, failure.to_string()),
    })
}

/// Runs a `docker` command that is expected to succeed, and returns its output.
///
/// # Errors
/// `docker-unavailable` if no engine answers, `docker-failed` if it refused.
pub async fn docker_output<S: AsRef<std::ffi::OsStr>>(
    arguments: impl IntoIterator<Item = S>,
) -> Result<String, Failure> {
    let command = docker(arguments);
    let shown = shown(&command);
    let captured = capture(command).await?;
    if captured.status.success() { Ok(captured.stdout) } else { Err(failed(&shown, &captured)) }
}

/// Why a command failed, quoting its most informative line.
fn failed(shown: &str, captured: &Captured) -> Failure {
    let lines = || captured.stderr.lines().filter(|line| !is_noise(line));
    // The client's last line only counts failures; the engine's own message comes before it.
    let telling = lines()
        .find(|line| fault(line) != Fault::Other)
        .or_else(|| lines().find(|line| line.contains("Error response from daemon")))
        .or_else(|| lines().next_back())
        .map(|line| line.trim().to_owned());
    let evidence = telling.unwrap_or_else(|| captured.status.to_string());
    match fault(&evidence) {
        Fault::Other => refused(shown, evidence),
        fault => unavailable(fault, evidence),
    }
}

fn refused(shown: &str, evidence: impl Into<String>) -> Failure {
    Failure::new(Code::DockerFailed, format!("`{shown}` failed"))
        .evidence(evidence)
        .remedy("`docker info` shows the engine's state; when it is healthy, run this again")
}

/// An invalid answer: cut off, or not in this command's format.
fn unreadable(shown: &str, why: impl std::fmt::Display) -> Failure {
    refused(shown, format!("its answer cannot be read: {why}"))
}

pub(crate) fn unavailable(fault: Fault, evidence: impl Into<String>) -> Failure {
    let remedy = match fault {
        Fault::Denied => "join the group docker (`sudo usermod -aG docker $USER`, then log in again)",
        Fault::Context => "docker context ls; docker context use default, or unset DOCKER_CONTEXT and DOCKER_HOST",
        Fault::Version => "docker version; use a client and an engine that share a version of the API",
        Fault::Away | Fault::Other => {
            "start Docker Engine (`systemctl start docker`, or Docker Desktop), or as root on Debian: cargo xtask up --yes"
        }
    };
    Failure::new(Code::DockerUnavailable, "Docker Engine cannot be reached").evidence(evidence).remedy(remedy)
}

/// Everything of one kind with one of these names. Each name is positively found or positively
/// absent; if a look leaves one open, it has failed as a whole.
///
/// # Errors
/// `docker-unavailable`, `docker-failed`.
pub async fn inspect<T: DeserializeOwned + Named>(kind: Kind, names: &[String]) -> Result<Vec<T>, Failure> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = docker([kind.word(), "inspect"]);
    command.args(names);
    let shown = shown(&command);
    read_inspected(kind, names, &shown, &capture(command).await?)
}

pub(crate) fn read_inspected<T: DeserializeOwned + Named>(
    kind: Kind,
    names: &[String],
    shown: &str,
    captured: &Captured,
) -> Result<Vec<T>, Failure> {
    let mut absent = Vec::new();
    for line in captured.stderr.lines().filter(|line| !is_noise(line)) {
        match names.iter().find(|name| says_absent(line, kind, name)) {
            Some(name) => absent.push(name),
            None => return Err(failed(shown, captured)),
        }
    }
    // Killed, or failed without a message: its output may be incomplete.
    if captured.status.code().is_none() || (absent.is_empty() && !captured.status.success()) {
        return Err(failed(shown, captured));
    }
    let text = captured.stdout.trim();
    let found: Vec<T> = match text {
        "" if absent.len() == names.len() => Vec::new(),
        text => serde_json::from_str(text).map_err(|error| unreadable(shown, error))?,
    };
    for name in names {
        let times = found.iter().filter(|thing| thing.is(name)).count();
        match (times, absent.contains(&name)) {
            (1, false) | (0, true) => {}
            _ => return Err(unreadable(shown, format_args!("it is ambiguous about {name}"))),
        }
    }
    if found.len() + absent.len() != names.len() {
        return Err(unreadable(shown, "it is about something else"));
    }
    Ok(found)
}

/// Looks up one thing by name.
///
/// # Errors
/// As for [`inspect`].
pub async fn look<T: DeserializeOwned + Named>(kind: Kind, name: &str) -> Result<Looked<T>, Failure> {
    let found = inspect(kind, std::slice::from_ref(&name.to_owned())).await?;
    Ok(found.into_iter().next().map_or(Looked::Absent, Looked::Found))
}

/// Whether a container, running or not, has a file. `docker cp` also reads stopped ones.
///
/// # Errors
/// As for [`inspect`]; also if the container itself is absent.
pub async fn look_at_file(container: &str, path: &str) -> Result<Looked<()>, Failure> {
    let command = docker(["cp", &format!("{container}:{path}"), "-"]);
    let shown = shown(&command);
    let captured = capture(command).await?;
    read_file_look(container, path, &shown, &captured)
}

pub(crate) fn read_file_look(
    container: &str,
    path: &str,
    shown: &str,
    captured: &Captured,
) -> Result<Looked<()>, Failure> {
    if captured.status.success() {
        // A tar archive, whose first header (512 bytes, tar(5)) names the file.
        let name = path.rsplit('/').next().unwrap_or(path);
        if captured.stdout.starts_with(name) && captured.stdout.len() >= 512 {
            return Ok(Looked::Found(()));
        }
        return Err(unreadable(shown, "it is not an archive of that file"));
    }
    let mut lines = captured.stderr.lines().filter(|line| !is_noise(line)).peekable();
    let said = lines.peek().is_some() && lines.all(|line| says_no_file(line, container, path));
    if said && captured.status.code() == Some(1) { Ok(Looked::Absent) } else { Err(failed(shown, captured)) }
}

/// Something that `docker inspect` describes, matched by the name it was requested by.
pub trait Named {
    fn is(&self, name: &str) -> bool;
}

/// A container as `docker inspect` describes it. Podman omits some fields; a missing field counts
/// as unknown, which is never the harmless case.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    pub id: String,
    pub name: String,
    pub state: ContainerState,
    pub config: ContainerConfig,
    #[serde(default)]
    pub mounts: Option<Vec<Mount>>,
    /// How often the engine restarted it.
    #[serde(default)]
    pub restart_count: Option<u64>,
    #[serde(default)]
    pub network_settings: Option<NetworkSettings>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkSettings {
    /// By the names that the networks had when it was connected.
    #[serde(default)]
    pub networks: Option<BTreeMap<String, Endpoint>>,
    /// By the ports inside, `6443/tcp`; without a value where one is not published.
    #[serde(default)]
    pub ports: Option<BTreeMap<String, Option<Vec<Binding>>>>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Binding {
    #[serde(default, rename = "HostIp")]
    pub host_ip: String,
    #[serde(default, rename = "HostPort")]
    pub host_port: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Endpoint {
    /// Empty if it was never started with the network.
    #[serde(default, rename = "NetworkID")]
    pub network_id: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerState {
    #[serde(default)]
    pub running: bool,
    pub status: String,
    /// RFC 3339; [`NEVER`] if it never ran.
    #[serde(default)]
    pub started_at: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    #[serde(default)]
    pub image: String,
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Mount {
    #[serde(default)]
    pub r#type: String,
    /// The volume's name, if it is one.
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub destination: String,
}

/// Go's zero time, which Docker writes for a time that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

impl Container {
    pub fn name(&self) -> &str {
        self.name.trim_start_matches('/')
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.config.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// The id by which it remembers the network of this name.
    pub fn network_id(&self, network: &str) -> Option<&str> {
        let networks = self.network_settings.as_ref()?.networks.as_ref()?;
        networks.get(network).map(|endpoint| endpoint.network_id.as_str()).filter(|id| !id.is_empty())
    }

    /// The addresses of this machine that it holds, which it does while it runs; `None` if the engine
    /// does not say which. An unspecified one stands for all.
    pub fn published(&self) -> Option<Vec<SocketAddr>> {
        if !self.state.running {
            return Some(Vec::new());
        }
        let bindings = self.network_settings.as_ref()?.ports.as_ref()?.values().flatten().flatten();
        bindings
            .map(|binding| {
                let ip = binding.host_ip.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                Some((ip, binding.host_port.parse().ok()?).into())
            })
            .collect()
    }

    /// Paused by somebody: its processes are there, and none of them does anything. The engine
    /// also calls it running.
    pub fn is_paused(&self) -> bool {
        self.state.status == "paused"
    }

    /// The `docker` command that makes it run.
    pub fn starting(&self) -> &'static str {
        if self.is_paused() { "unpause" } else { "start" }
    }

    pub fn runs(&self) -> bool {
        self.state.running && !self.is_paused()
    }

    /// Positively known: created, and never started. Anything else may hold data.
    pub fn never_ran(&self) -> bool {
        // Podman says "configured" or "initialized" instead of "created".
        matches!(self.state.status.as_str(), "created" | "configured" | "initialized")
            && !self.state.running
            && self.state.started_at.as_deref() == Some(NEVER)
            && self.restart_count == Some(0)
    }

    /// Positively known: `path` in it is the named volume, which survives it.
    pub fn keeps_in_volume(&self, path: &str, volume: &str) -> bool {
        self.mounts.as_ref().is_some_and(|mounts| {
            mounts.iter().any(|mount| mount.r#type == "volume" && mount.name == volume && mount.destination == path)
        })
    }
}

impl Named for Container {
    fn is(&self, name: &str) -> bool {
        self.name() == name || (name.len() >= 12 && self.id.starts_with(name))
    }
}

/// A network or a volume.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Thing {
    /// Empty for a volume, which is known by its name alone.
    #[serde(default, alias = "id")]
    pub id: String,
    #[serde(alias = "name")]
    pub name: String,
    #[serde(default, alias = "labels")]
    pub labels: Option<BTreeMap<String, String>>,
}

impl Thing {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.as_ref()?.get(name).map(String::as_str)
    }
}

impl Named for Thing {
    fn is(&self, name: &str) -> bool {
        self.name == name
    }
}

/// An image, which may have been requested by any of its names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Image {
    pub id: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl Image {
    /// Its platform, if that is said to be another one than this.
    pub fn not_for(&self, platform: &str) -> Option<String> {
        let variant = Some(self.variant.as_str()).filter(|variant| !variant.is_empty());
        let said = !self.os.is_empty() && !self.architecture.is_empty() && !platform.contains(UNKNOWN);
        let other = said && !image_mirror::is_platform(&self.os, &self.architecture, variant, platform);
        other.then(|| format!("{}/{}", self.os, self.architecture))
    }
}

/// In place of what the engine does not say about itself.
const UNKNOWN: &str = "unknown";

impl Named for Image {
    fn is(&self, _: &str) -> bool {
        !self.id.is_empty()
    }
}

/// The containers with all of these labels, running or not.
///
/// # Errors
/// As for [`inspect`].
pub async fn containers_labelled(labels: &[(&str, &str)]) -> Result<Vec<Container>, Failure> {
    let filters = labels.iter().flat_map(|(key, value)| ["--filter".to_owned(), format!("label={key}={value}")]);
    let arguments = ["ps", "-a", "--format", "{{.Names}}"].map(str::to_owned).into_iter().chain(filters);
    let command = docker(arguments);
    let shown = shown(&command);
    let captured = capture(command).await?;
    let names = read_names(&shown, &captured)?;
    let found: Vec<Container> = inspect(Kind::Container, &names).await?;
    let has = |container: &Container| labels.iter().all(|(key, value)| container.label(key) == Some(value));
    match (found.iter().find(|container| !has(container)), found.len() == names.len()) {
        (None, true) => Ok(found),
        (Some(other), _) => Err(unreadable(&shown, format_args!("{} has other labels", other.name()))),
        (None, false) => Err(unreadable(&shown, "containers disappeared while they were looked at")),
    }
}

pub(crate) fn read_names(shown: &str, captured: &Captured) -> Result<Vec<String>, Failure> {
    // A client that succeeds prints nothing but warnings.
    if !captured.status.success() || captured.stderr.lines().any(|line| !is_noise(line)) {
        return Err(failed(shown, captured));
    }
    let names: Vec<String> = captured.stdout.lines().map(str::to_owned).collect();
    // moby's rule for a container's name.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    match names.iter().find(|name| name.is_empty() || !name.chars().all(plain)) {
        None => Ok(names),
        Some(name) => Err(unreadable(shown, format_args!("{name:?} is not a container name"))),
    }
}

/// What `docker info` says about the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineInfo {
    pub server_version: String,
    pub driver: String,
    pub cgroup_version: String,
    pub cgroup_driver: String,
    pub default_runtime: String,
    pub docker_root_dir: String,
    /// The platform that it runs without emulation: `linux/amd64`.
    pub platform: String,
}

/// The engine's description.
///
/// # Errors
/// Why it is not available.
pub async fn info() -> Result<EngineInfo, (Fault, String)> {
    let command = docker(["info", "--format", "{{json .}}"]);
    match capture(command).await {
        Ok(captured) => read_info(&captured),
        Err(_) if which::which("docker").is_err() => Err((Fault::Away, "there is no `docker` on PATH".to_owned())),
        Err(failure) => Err((Fault::Other, failure.evidence.first().cloned().unwrap_or_else(|| failure.to_string()))),
    }
}

pub(crate) fn read_info(captured: &Captured) -> Result<EngineInfo, (Fault, String)> {
    let value: Option<Value> = serde_json::from_str(captured.stdout.trim()).ok();
    // Without an engine the client still answers, with `ServerErrors`.
    let told = value.as_ref().and_then(|value| value["ServerErrors"].as_array()?.first()?.as_str().map(str::to_owned));
    if told.is_some() || !captured.status.success() {
        let said = captured.stderr.lines().filter(|line| !is_noise(line)).map(str::trim);
        let said = told.or_else(|| said.clone().find(|line| fault(line) != Fault::Other).map(str::to_owned));
        let said =
            said.or_else(|| captured.stderr.lines().rfind(|line| !is_noise(line)).map(|line| line.trim().to_owned()));
        let said = said.unwrap_or_else(|| format!("docker info: {}", captured.status));
        return Err((fault(&said), said));
    }
    let value = value.ok_or_else(|| (Fault::Other, "the answer of `docker info` cannot be read".to_owned()))?;
    let text = |at: &[&str]| {
        at.iter().find_map(|at| match value.pointer(at) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            _ => None,
        })
    };
    let or_unknown = |at: &[&str]| text(at).unwrap_or_else(|| UNKNOWN.to_owned());
    let Some(server_version) =
        text(&["/ServerVersion"]).or_else(|| text(&["/version/Version"]).map(|version| format!("podman {version}")))
    else {
        return Err((Fault::Other, "`docker info` names no version of an engine".to_owned()));
    };
    Ok(EngineInfo {
        server_version,
        driver: or_unknown(&["/Driver", "/store/graphDriverName"]),
        cgroup_version: or_unknown(&["/CgroupVersion", "/host/cgroupVersion"]).trim_start_matches('v').to_owned(),
        cgroup_driver: or_unknown(&["/CgroupDriver", "/host/cgroupManager"]),
        default_runtime: or_unknown(&["/DefaultRuntime", "/host/ociRuntime/name"]),
        docker_root_dir: text(&["/DockerRootDir", "/store/graphRoot"]).unwrap_or_default(),
        platform: format!("{}/{}", or_unknown(&["/OSType", "/host/os"]), or_unknown(&["/Architecture", "/host/arch"])),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn said(code: i32, stdout: &str, stderr: &str) -> Captured {
        Captured { status: ExitStatus::from_raw(code << 8), stdout: stdout.to_owned(), stderr: stderr.to_owned() }
    }

    fn container(name: &str) -> String {
        format!(
            r#"{{"Id":"0123456789abcdef","Name":"/{name}","State":{{"Status":"running","Running":true}},"Config":{{"Image":"i"}}}}"#
        )
    }

    fn containers(names: &[&str], captured: &Captured) -> Result<Vec<String>, Failure> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let found = read_inspected::<Container>(Kind::Container, &names, "docker container inspect", captured)?;
        Ok(found.iter().map(|container| container.name().to_owned()).collect())
    }

    /// What engines say about a thing called `x` that they do not have.
    const ABSENT: [(Kind, &str); 19] = [
        (Kind::Container, "Error: No such container: x"),
        (Kind::Container, "Error response from daemon: No such container: x"),
        (Kind::Container, "Error: No such object: x"),
        (Kind::Container, "error: no such object: x"),
        (Kind::Container, "Error: no such container x"),
        (Kind::Container, "Error: no such object: \"x\""),
        (Kind::Container, "Error: inspecting object: no such container x"),
        (Kind::Container, "Error: no container with name or ID \"x\" found: no such container"),
        (Kind::Container, "Error response from daemon: no container with name or ID \"x\" found: no such container"),
        (Kind::Volume, "Error: No such volume: x"),
        (Kind::Volume, "Error response from daemon: get x: no such volume"),
        (Kind::Volume, "Error: inspecting object: no such volume x"),
        (Kind::Network, "Error: No such network: x"),
        (Kind::Network, "Error response from daemon: network x not found"),
        (Kind::Network, "Error: network x: unable to find network with name or ID x: network not found"),
        (Kind::Image, "Error: No such image: x"),
        (Kind::Image, "Error response from daemon: no such image: x: No such image: x:latest"),
        (Kind::Image, "Error: x: image not known"),
        (Kind::Image, "Error response from daemon: No such image: x"),
    ];

    /// Messages after which nothing is known about `x`, with their fault.
    const UNKNOWN: [(Fault, &str); 17] = [
        (
            Fault::Away,
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        ),
        (
            Fault::Away,
            "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct and if the daemon is running: dial unix /var/run/docker.sock: connect: no such file or directory",
        ),
        (
            Fault::Away,
            "failed to connect to the docker API at npipe:////./pipe/docker_engine; check if the path is correct: open //./pipe/docker_engine: The system cannot find the file specified.",
        ),
        (Fault::Away, "error during connect: Get \"http://%2Fvar%2Frun%2Fdocker.sock/v1.41/containers/x/json\": EOF"),
        (
            Fault::Away,
            "error during connect: in the default daemon configuration on Windows, the docker client must be run with elevated privileges to connect",
        ),
        (Fault::Away, "Error response from daemon: dial unix docker.raw.sock: connect: connection refused"),
        (
            Fault::Away,
            "request returned 500 Internal Server Error for API route and version http://%2Fvar%2Frun%2Fdocker.sock/v1.47/containers/x/json, check if the server supports the requested API version",
        ),
        (
            Fault::Away,
            "request returned Internal Server Error for API route and version http://x, check if the server supports the requested API version",
        ),
        (
            Fault::Away,
            "Error: unable to connect to Podman socket: failed to connect: dial unix /run/podman/podman.sock: connect: no such file or directory",
        ),
        (
            Fault::Denied,
            "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get \"http://x\": dial unix /var/run/docker.sock: connect: permission denied",
        ),
        (
            Fault::Denied,
            "Got permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
        ),
        (Fault::Denied, "permission denied while trying to connect to the docker API at unix:///var/run/docker.sock"),
        (
            Fault::Context,
            "Failed to initialize: unable to resolve docker endpoint: context \"x\": context not found: open /root/.docker/contexts/meta/0/meta.json: no such file or directory",
        ),
        (
            Fault::Context,
            "Current context \"x\" is not found on the file system, please check your config file at /root/.docker/config.json",
        ),
        (
            Fault::Version,
            "Error response from daemon: client version 1.52 is too new. Maximum supported API version is 1.41",
        ),
        (
            Fault::Version,
            "Error response from daemon: client version 1.24 is too old. Minimum supported API version is 1.44, please upgrade your client to a newer version",
        ),
        (Fault::Other, "Error response from daemon: open /var/lib/docker/x: no such file or directory"),
    ];

    #[test]
    fn a_message_names_a_command_and_nothing_of_its_environment() {
        let mut command = docker(["volume", "rm", "k3d-reg"]);
        command.env("HTTPS_PROXY", "http://anna:s3cret@proxy:3128");
        assert_eq!(shown(&command), "docker volume rm k3d-reg");
    }

    #[test]
    fn only_the_engines_own_word_means_absent() {
        for (kind, line) in ABSENT {
            assert!(says_absent(line, kind, "x"), "{line}");
            assert!(!says_absent(line, kind, "y"), "of another: {line}");
            let names = ["x".to_owned()];
            let found = read_inspected::<Thing>(kind, &names, "docker", &said(1, "[]\n", line)).unwrap();
            assert!(found.is_empty(), "{line}");
            // Podman exits with 125, and its wrapper identifies itself.
            let line =
                format!("Emulate Docker CLI using podman. Create /etc/containers/nodocker to quiet msg.\n{line}");
            assert!(read_inspected::<Thing>(kind, &names, "docker", &said(125, "[]\n", &line)).is_ok());
        }
        for (expected, line) in UNKNOWN {
            assert_eq!(fault(line), expected, "{line}");
            for kind in [Kind::Container, Kind::Volume, Kind::Network, Kind::Image] {
                assert!(!says_absent(line, kind, "x"), "{line}");
                let names = ["x".to_owned()];
                let failure = read_inspected::<Thing>(kind, &names, "docker", &said(1, "[]\n", line)).unwrap_err();
                let code = if expected == Fault::Other { Code::DockerFailed } else { Code::DockerUnavailable };
                assert_eq!((failure.code, failure.evidence.as_slice()), (code, &[line.to_owned()][..]));
                assert!(failure.remedy.is_some());
            }
        }
    }

    #[test]
    fn an_answer_that_leaves_a_name_open_has_failed() {
        let both = format!("[{},{}]", container("a"), container("b"));
        let one = format!("[{}]", container("a"));
        let no_b = "Error response from daemon: No such container: b";
        let away = UNKNOWN[0].1;
        assert_eq!(containers(&["a", "b"], &said(0, &both, "")).unwrap(), ["a", "b"]);
        assert_eq!(containers(&["a", "b"], &said(1, &one, no_b)).unwrap(), ["a"]);
        assert_eq!(containers(&["b"], &said(1, "[]", no_b)).unwrap(), [] as [&str; 0]);
        let killed = Captured { status: ExitStatus::from_raw(9), ..said(0, &one, "") };
        let open = [
            said(0, &one, ""),
            said(1, &one, away),
            said(1, "[]", &format!("{no_b}\n{away}")),
            said(1, &one, &format!("{away}\n{no_b}")),
            said(1, "[]", ""),
            said(0, "[]", ""),
            said(0, "", ""),
            said(0, "<html></html>", ""),
            said(0, &both[..both.len() - 3], ""),
            said(1, "[{\"Id\":", no_b),
            said(0, &format!("[{},{}]", container("a"), container("c")), ""),
            said(1, &format!("[{},{},{}]", container("a"), container("b"), container("c")), ""),
            said(1, &both, no_b),
            said(0, &format!("[{},{}]", container("a"), container("a")), ""),
            killed,
        ];
        for answer in &open {
            let result = containers(&["a", "b"], answer);
            assert!(result.is_err(), "{:?} {:?}: {result:?}", answer.stdout, answer.stderr);
        }
    }

    #[test]
    fn only_the_engines_own_word_means_that_a_file_is_not_there() {
        let path = "/etc/ameide-created";
        let look = |captured: &Captured| read_file_look("n", path, "docker cp", captured);
        let archive = format!("ameide-created{}", "\0".repeat(1010));
        assert_eq!(look(&said(0, &archive, "")).unwrap(), Looked::Found(()));
        for line in [
            "Error response from daemon: Could not find the file /etc/ameide-created in container n",
            "Error: No such container:path: n:/etc/ameide-created",
        ] {
            assert_eq!(look(&said(1, "", line)).unwrap(), Looked::Absent, "{line}");
        }
        for line in UNKNOWN.iter().map(|(_, line)| *line).chain([
            "Error response from daemon: No such container: n",
            "Error response from daemon: Could not find the file /etc/other in container n",
            "Error response from daemon: Could not find the file /etc/ameide-created in container m",
            "",
        ]) {
            assert!(look(&said(1, "", line)).is_err(), "{line}");
        }
        assert!(look(&said(0, "", "")).is_err() && look(&said(0, "garbage", "")).is_err());
        let killed = Captured { status: ExitStatus::from_raw(2), ..said(0, "", "") };
        assert!(look(&killed).is_err());
    }

    #[test]
    fn a_list_of_names_is_names() {
        let names = |captured: &Captured| read_names("docker ps", captured);
        assert_eq!(names(&said(0, "a\nk3d-x_1.2\n", "WARNING: something")).unwrap(), ["a", "k3d-x_1.2"]);
        assert!(names(&said(0, "", "")).unwrap().is_empty());
        for answer in
            [said(0, "<html>\n", ""), said(1, "a\n", ""), said(0, "a\n\nb\n", ""), said(0, "a\n", UNKNOWN[0].1)]
        {
            assert!(names(&answer).is_err(), "{:?}", answer.stdout);
        }
    }

    #[test]
    fn an_engine_that_answers_of_its_way_to_elsewhere_is_reached() {
        let pull = "failed to create node 'k3d-a-tools': docker failed to pull image 'x': docker failed to pull the image 'x': Error response from daemon:";
        for said in [
            "Get \"https://auth.docker.io/token?scope=x\": dial tcp 1.2.3.4:443: i/o timeout",
            "httpReadSeeker: failed open: failed to do request: Get \"https://production.cloudflare.docker.com/x\": dial tcp 1.2.3.4:443: connect: connection refused",
            "read tcp 10.0.0.2:4711->1.2.3.4:443: read: connection reset by peer",
            "unexpected EOF",
            "lookup auth.docker.io: server misbehaving",
        ] {
            assert_eq!(fault(&format!("{pull} {said}")), Fault::Other, "{said}");
            assert_eq!(fault(&format!("docker: Error response from daemon: {said}")), Fault::Other, "{said}");
        }
        // The same words without an answer are about the connection to the engine.
        let away = "docker failed to pull the image 'x': error during connect: Post \"http://x/images/create\": EOF";
        assert_eq!(fault(away), Fault::Away);
        let behind = format!("{pull} dial unix docker.raw.sock: connect: connection refused");
        assert_eq!(fault(&behind), Fault::Away);
    }

    #[test]
    fn a_logged_warning_fails_no_look_and_makes_nothing_absent() {
        let one = format!("[{}]", container("a"));
        let no_b = "Error: No such container: b";
        for level in ["trace", "debug", "info", "warning"] {
            let warned = format!(
                "time=\"2026-01-01T00:00:00Z\" level={level} msg=\"The cgroupv2 manager is set to systemd but there is no systemd user session available\"\n"
            );
            assert_eq!(containers(&["a"], &said(0, &one, &warned)).unwrap(), ["a"]);
            assert_eq!(read_names("docker ps", &said(0, "a\n", &warned)).unwrap(), ["a"]);
            let with_refusal = format!("{warned}{no_b}");
            assert_eq!(containers(&["a", "b"], &said(125, &one, &with_refusal)).unwrap(), ["a"]);
            let pretends = format!("time=\"2026-01-01T00:00:00Z\" level={level} msg=\"no such container: b\" b");
            for code in [0, 1, 125] {
                assert!(containers(&["b"], &said(code, "[]", &warned)).is_err(), "{level} {code}");
                assert!(containers(&["b"], &said(code, "", &pretends)).is_err(), "{level} {code}");
                assert!(containers(&["a", "b"], &said(code, &one, &pretends)).is_err(), "{level} {code}");
            }
        }
        for level in ["error", "fatal"] {
            let line = format!("time=\"2026-01-01T00:00:00Z\" level={level} msg=\"level=info \"");
            assert!(containers(&["a"], &said(0, &one, &line)).is_err(), "{level}");
        }
    }

    #[test]
    fn what_is_not_positively_unused_may_hold_something() {
        let of = |state: &str, more: &str| -> Container {
            let text = format!(r#"{{"Id":"0","Name":"/a","State":{state},"Config":{{}}{more}}}"#);
            serde_json::from_str(&text).unwrap()
        };
        let created = format!(r#"{{"Status":"created","Running":false,"StartedAt":"{NEVER}"}}"#);
        assert!(of(&created, r#","RestartCount":0"#).never_ran());
        for (state, more) in [
            (created.as_str(), ""),
            (created.as_str(), r#","RestartCount":1"#),
            (r#"{"Status":"created"}"#, r#","RestartCount":0"#),
            (r#"{"Status":"created","StartedAt":""}"#, r#","RestartCount":0"#),
            (r#"{"Status":"created","StartedAt":"2026-01-01T00:00:00Z"}"#, r#","RestartCount":0"#),
            (r#"{"Status":"exited","StartedAt":"0001-01-01T00:00:00Z"}"#, r#","RestartCount":0"#),
            (r#"{"Status":"dead","StartedAt":"0001-01-01T00:00:00Z"}"#, r#","RestartCount":0"#),
        ] {
            assert!(!of(state, more).never_ran(), "{state} {more}");
        }
    }

    #[test]
    fn an_engine_is_described_by_docker_and_by_podman_or_is_none() {
        let docker = r#"{"ServerVersion":"29.0.1","Driver":"overlay2","CgroupVersion":"2","CgroupDriver":"systemd","DefaultRuntime":"runc"}"#;
        assert_eq!(read_info(&said(0, docker, "")).unwrap().server_version, "29.0.1");
        let podman = r#"{"host":{"cgroupManager":"systemd","cgroupVersion":"v2","ociRuntime":{"name":"crun"}},"store":{"graphDriverName":"overlay","graphRoot":"/x"},"version":{"Version":"4.9.3"}}"#;
        let info = read_info(&said(0, podman, "Emulate Docker CLI using podman.")).unwrap();
        assert_eq!((info.server_version.as_str(), info.driver.as_str()), ("podman 4.9.3", "overlay"));
        assert_eq!((info.cgroup_version.as_str(), info.default_runtime.as_str()), ("2", "crun"));
        let away = r#"{"ServerVersion":"","ServerErrors":["Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?"]}"#;
        for code in [0, 1] {
            assert_eq!(read_info(&said(code, away, "")).unwrap_err().0, Fault::Away);
        }
        for (answer, fault) in [
            (said(1, "", UNKNOWN[1].1), Fault::Away),
            (said(1, r#"{"ServerVersion":""}"#, UNKNOWN[9].1), Fault::Denied),
            (said(1, "", UNKNOWN[12].1), Fault::Context),
            (said(0, "", ""), Fault::Other),
            (said(0, "{}", ""), Fault::Other),
            (said(0, r#"{"ServerVersion":"29"#, ""), Fault::Other),
            (said(1, "", ""), Fault::Other),
        ] {
            assert_eq!(read_info(&answer).unwrap_err().0, fault, "{:?} {:?}", answer.stdout, answer.stderr);
        }
    }
}
