//! `cargo bench -p xtask --bench instant`: a layer and an `up` in which nothing has changed, a
//! layer that is synced all the same, and a look at 1,000 releases, each beside what people
//! run for it, on the cluster of the environment `ci` as it stands. See docs/operations.md,
//! "When nothing has changed".
//!
//! Rounds are interleaved, so that a busy minute of the machine hits all of them. Whatever
//! makes a new revision comes before the layer is brought in again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const ROUNDS: usize = 5;
const LAYER: &str = "45-data-plane-ext";
const CONTEXT: &str = "k3d-ameide-ci";

/// Releases for the scan: how many, and how many revisions each.
const RELEASES: usize = 1000;
const REVISIONS: usize = 3;
/// Bytes of a manifest that make a Secret of about 17 KB.
const MANIFEST: usize = 19_000;
const CROWD: &str = "bench-crowd";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// As people type it: `cargo`'s own start counts.
fn xtask(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args(["xtask", "--env", "ci"]).args(arguments);
    command
}

/// How long it took, and what it printed; what fails ends the bench.
fn timed(mut command: Command) -> Result<(Duration, String), String> {
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let took = started.elapsed();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    if output.status.success() { Ok((took, text)) } else { Err(format!("{command:?}\n{text}")) }
}

/// One command of a table, and its times.
struct Row {
    name: &'static str,
    command: Box<dyn Fn() -> Command>,
    /// What it has to print, so that it is what it is called.
    says: &'static str,
    times: Vec<Duration>,
}

impl Row {
    fn new(name: &'static str, says: &'static str, command: impl Fn() -> Command + 'static) -> Self {
        Self { name, command: Box::new(command), says, times: Vec::new() }
    }

    fn run(&mut self) -> Result<(), String> {
        let (took, said) = timed((self.command)())?;
        if !said.contains(self.says) {
            return Err(format!("{}: it does not say {:?}:\n{said}", self.name, self.says));
        }
        self.times.push(took);
        Ok(())
    }

    fn median(&mut self) -> f64 {
        self.times.sort();
        self.times[self.times.len() / 2].as_secs_f64()
    }
}

fn table(rows: &mut [Row], beside: usize) {
    let base = rows[beside].median();
    println!("| what | median of {ROUNDS} | beside {} |\n|---|---|---|", rows[beside].name);
    for row in rows {
        let seconds = row.median();
        println!("| {} | {seconds:.3} s | {:.3} |", row.name, seconds / base);
    }
    println!();
}

fn rounds(rows: &mut [Row]) -> Result<(), String> {
    for round in 1..=ROUNDS {
        for row in rows.iter_mut() {
            row.run()?;
        }
        eprintln!("round {round} of {ROUNDS}");
    }
    Ok(())
}

fn run() -> Result<(), String> {
    let (_, printed) = timed(xtask(&["tools"]))?;
    let bin = printed.lines().find_map(|line| line.strip_prefix("export PATH=")?.split(':').next());
    let bin = Path::new(bin.ok_or("`xtask tools` names no folder")?).to_owned();
    let tool = move |name: &str| {
        let mut command = Command::new(bin.join(name));
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        command.current_dir(root()).env("PATH", path).env("HELMFILE_UPGRADE_NOTICE_DISABLED", "true");
        command
    };
    let lab = xtask::files::cache_dir().map_err(|failure| failure.to_string())?.join("lab/images.lock");
    let helmfile = {
        let tool = tool.clone();
        move |verb: &'static [&'static str]| {
            let mut command = tool("helmfile");
            if lab.is_file() {
                command.env("AMEIDE_IMAGES_LOCK", &lab);
            }
            command.args(["--environment", "ci", "--file"]).arg(format!("infra/kubernetes/helmfiles/{LAYER}.yaml"));
            command.args(verb);
            command
        }
    };
    let (sync, template) = (helmfile.clone(), helmfile);
    let mut rows = [
        Row::new("helmfile sync", "", move || sync(&["--quiet", "sync"])),
        Row::new("helmfile template", "", move || template(&["--quiet", "template"])),
        Row::new("layer --force --skip-tests", "in place: ", || xtask(&["layer", LAYER, "--skip-tests", "--force"])),
        Row::new("layer, unchanged", "in place, unchanged", || xtask(&["layer", LAYER, "--skip-tests"])),
        // The layer's tests, once: `up` asks for them.
        Row::new("layer, its tests alone", "helm test", || xtask(&["layer", LAYER])),
        Row::new("up, unchanged", "in place, unchanged", || xtask(&["--yes", "up"])),
        Row::new("layer --list: cargo and the program's start", "", || xtask(&["layer", "--list"])),
    ];
    timed(xtask(&["--yes", "up"]))?;
    rounds(&mut rows)?;
    table(&mut rows, 0);
    scan(tool)
}

/// A revision as Helm stores it.
fn revision(release: &str, version: usize) -> Result<Value, String> {
    let status = if version == REVISIONS { "deployed" } else { "superseded" };
    let manifest: String = std::iter::repeat_with(fastrand::alphanumeric).take(MANIFEST).collect();
    let stored = json!({"name": release, "namespace": CROWD, "version": version, "manifest": manifest,
        "info": {"status": status, "first_deployed": "2026-11-25T12:00:00Z", "last_deployed": "2026-11-25T12:00:00Z"},
        "chart": {"metadata": {"name": "c", "version": "0.1.0", "apiVersion": "v2"}}});
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(stored.to_string().as_bytes()).map_err(|error| error.to_string())?;
    let packed = encoder.finish().map_err(|error| error.to_string())?;
    Ok(json!({"apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
        "metadata": {"name": format!("sh.helm.release.v1.{release}.v{version}"), "namespace": CROWD,
            "labels": {"owner": "helm", "name": release, "version": version.to_string(), "status": status}},
        "data": {"release": STANDARD.encode(STANDARD.encode(packed))}}))
}

/// A look at many releases, in a namespace that is made for it and goes with it.
fn scan(tool: impl Fn(&str) -> Command + Clone + 'static) -> Result<(), String> {
    let kubectl = {
        let tool = tool.clone();
        move |words: &[&str]| {
            let mut command = tool("kubectl");
            command.args(["--context", CONTEXT]).args(words);
            command
        }
    };
    timed(kubectl(&["create", "namespace", CROWD]))?;
    let measured = (|| {
        let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        for chunk in (0..RELEASES).collect::<Vec<_>>().chunks(100) {
            let mut items = Vec::new();
            for number in chunk {
                for version in 1..=REVISIONS {
                    items.push(revision(&format!("r{number}"), version)?);
                }
            }
            let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
            std::fs::write(file.path(), list.to_string()).map_err(|error| error.to_string())?;
            timed(kubectl(&["create", "-f", &file.path().display().to_string()]))?;
        }
        let mut rows = [
            Row::new("helm list -A --pending", "", move || {
                let mut command = tool("helm");
                command.args(["--kube-context", CONTEXT, "list", "--all-namespaces", "--pending"]);
                command
            }),
            Row::new("releases", "", || xtask(&["releases"])),
            Row::new("checklist", "", || xtask(&["checklist"])),
            Row::new("kubectl get secrets -l", "", {
                let kubectl = kubectl.clone();
                move || {
                    let pending = "owner=helm,status in (pending-install,pending-upgrade,pending-rollback)";
                    kubectl(&["get", "secrets", "--all-namespaces", "-l", pending])
                }
            }),
        ];
        rounds(&mut rows)?;
        table(&mut rows, 0);
        Ok(())
    })();
    timed(kubectl(&["delete", "namespace", CROWD]))?;
    measured
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
