//! `cargo xtask doctor`: checks the machine, and gives the fix for each finding.

use std::net::{SocketAddr, TcpListener};

use indicatif::BinaryBytes;

use crate::cluster::remedy;
use crate::files::cache_dir;
use crate::host;
use crate::repo::Repo;
use crate::run::Run;
use crate::run::context::{Context, Site};
use crate::run::reporter::RunningStep;
use crate::world::docker::{self, Container};
use crate::world::engine;
use crate::world::tools::{self, From, Source};
use run_record::{Code, Exit, Failure, Step, StepKind};

struct Check {
    name: &'static str,
    /// What was found, or what is wrong and its fix.
    result: Result<String, (String, String)>,
}

pub async fn run(context: &Context) -> Result<(), Failure> {
    let mut checks = vec![docker().await, capability(), go(&context.repo).await?, disk(), inotify(), memory()];
    checks.extend(ports(&context.repo, &context.site).await?);
    let mut broken = 0;
    for check in &checks {
        match &check.result {
            Ok(seen) => check_step(&context.run).unchanged(format!("{}: {seen}", check.name)),
            Err((finding, fix)) => {
                broken += 1;
                check_step(&context.run).failed_as(format!("{}: {finding}", check.name));
                // Also printed with `--quiet`: the failure refers to it.
                let fix = remedy::adapted(&context.repo, &context.site, Exit::NotReady, fix);
                context.run.reporter.warn("doctor", format!("fix: {fix}"));
            }
        }
    }
    match broken {
        0 => Ok(()),
        _ => Err(Failure::new(Code::MachineNotReady, format!("{broken} of {} checks failed", checks.len()))
            .remedy("the fixes are listed above")),
    }
}

fn check_step(run: &Run) -> RunningStep<'_> {
    run.reporter.step(Step::new(StepKind::Check, "doctor", ""))
}

async fn docker() -> Check {
    let result = match engine::require().await {
        Ok(info) => Ok(format!(
            "Engine {}, storage {}, cgroup v{} ({}), runtime {}",
            info.server_version, info.driver, info.cgroup_version, info.cgroup_driver, info.default_runtime
        )),
        // Unreachable, denied, or address unknown: each has its own fix.
        Err(failure) => Err((
            format!("no engine: {}", failure.evidence.first().unwrap_or(&failure.message)),
            failure.remedy.unwrap_or_default(),
        )),
    };
    Check { name: "Docker Engine", result }
}

fn capability() -> Check {
    let seen = if host::may_raise_limits() { "there" } else { "missing: an engine that xtask starts works around it" };
    Check { name: "CAP_SYS_RESOURCE", result: Ok(seen.to_owned()) }
}

/// Go is installed, or not needed because no pinned tool has to be built.
async fn go(repo: &Repo) -> Result<Check, Failure> {
    let mut built = Vec::new();
    let result = if let Ok(path) = which::which("go") {
        Ok(path.display().to_string())
    } else {
        let cache = cache_dir()?;
        for tool in tools::pinned(&repo.tree)? {
            if matches!(tool.source(&cache, From::Anywhere).await?, Source::Module(_)) {
                built.push(tool.name);
            }
        }
        match built.is_empty() {
            true => Ok("not on PATH, and not needed: every pinned tool is there or downloaded".to_owned()),
            false => Err((
                format!("not on PATH, and there is no other way to {}", built.join(", ")),
                "install Go 1.26 or newer, put the pinned tools on PATH, or run cargo xtask tools --update on a machine with internet access".to_owned(),
            )),
        }
    };
    Ok(Check { name: "Go", result })
}

fn disk() -> Check {
    const NEEDED: u64 = 10 << 30;
    let result =
        cache_dir().map_err(|failure| (failure.message, failure.remedy.unwrap_or_default())).and_then(|folder| {
            let stat = rustix::fs::statvfs(folder.as_std_path())
                .map_err(|error| (error.to_string(), "check the disk".to_owned()))?;
            let free = stat.f_bavail * stat.f_frsize;
            if free >= NEEDED {
                return Ok(format!("{} free in {folder}", BinaryBytes(free)));
            }
            Err((
                format!("{} free in {folder}, {} are needed", BinaryBytes(free), BinaryBytes(NEEDED)),
                "free space, or set AMEIDE_CACHE_DIR".to_owned(),
            ))
        });
    Check { name: "disk", result }
}

fn inotify() -> Check {
    // k3d's FAQ: below this, kubelet and its watchers fail with "too many open files".
    const NEEDED: u64 = 128;
    let result = match host::inotify_instances() {
        Some(value) if value < NEEDED => Err((
            format!("max_user_instances is {value}"),
            format!("sysctl -w fs.inotify.max_user_instances={}", NEEDED * 4),
        )),
        Some(value) => Ok(format!("max_user_instances is {value}")),
        None => Ok("not limited here".to_owned()),
    };
    Check { name: "inotify", result }
}

fn memory() -> Check {
    const NEEDED: u64 = 4 << 30;
    let result = match host::available_memory() {
        Some(bytes) if bytes < NEEDED => {
            Err((format!("{} available", BinaryBytes(bytes)), "close something: the stack needs 4 GiB".to_owned()))
        }
        Some(bytes) => Ok(format!("{} available", BinaryBytes(bytes))),
        None => Ok("unknown here".to_owned()),
    };
    Check { name: "memory", result }
}

/// The host ports of the cluster and the registry: free, or used by them.
async fn ports(repo: &Repo, site: &Site) -> Result<Vec<Check>, Failure> {
    let Some(config) = repo.k3d_config()? else { return Ok(Vec::new()) };
    if site.inside.is_some() {
        let seen = "not checked: they are those of the machine that Docker Engine runs on".to_owned();
        return Ok(vec![Check { name: "ports", result: Ok(seen) }]);
    }
    let mut ours = config.containers();
    ours.extend(config.registry_container());
    let ours = docker::inspect::<Container>(docker::Kind::Container, &ours).await;
    let running = ours.is_ok_and(|found| found.iter().any(|container| container.state.running));
    let ports = config.host_ports().into_iter().chain(repo.env.registry.published());
    let check = |address: SocketAddr| match (TcpListener::bind(address), address.port()) {
        (Err(error), port) if error.kind() == std::io::ErrorKind::AddrInUse && !running => Err((
            format!("{port} is taken"),
            format!("ss -ltnp sport = :{port} shows by whom; stop it, or change the port"),
        )),
        (Err(error), port) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Ok(format!("{port} is taken, and the cluster runs"))
        }
        (_, port) => Ok(format!("{port} is free")),
    };
    Ok(ports.map(|port| Check { name: "port", result: check(port) }).collect())
}
