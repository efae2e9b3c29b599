//! `cargo bench -p xtask --bench instant`: a layer and an `up` with nothing changed, a forced sync
//! of a layer, and a look at 1,000 releases, each compared with what people run for it, on the
//! cluster of the environment `ci` as it is. With `-- first`: an `up` on a new cluster, whose data is
//! deleted for it. See docs/operations.md, "When nothing has changed".
//!
//! Rounds are interleaved, so that a busy minute of the machine affects all of them. Whatever
//! creates a new revision runs before the layer is deployed again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use xtask::run::reporter::{Format, Reporter};
use xtask::world::go::Program;

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

/// As people type it: `cargo`'s own startup counts.
fn xtask(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args(["xtask", "--env", "ci"]).args(arguments);
    command
}

/// How long it took, and what it printed; a failure ends the bench.
fn timed(mut command: Command) -> Result<(Duration, String), String> {
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let took = started.elapsed();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    if output.status.success() { Ok((took, text)) } else { Err(format!("{command:?}\n{text}")) }
}

/// One command of a table, with its times.
struct Row {
    name: &'static str,
    command: Box<dyn Fn() -> Command>,
    /// What it has to print to count as what its name says.
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
    let helmfile = helmfile(&tool, root())?;
    timed(xtask(&["--yes", "up"]))?;
    let list = timed(helmfile(&["list", "--output", "json"]))?.1;
    // As they are, which is what a shell script of Helm commands does.
    let upgrades = script(&list, |name, namespace, chart| {
        format!("helm upgrade {name} {chart} --namespace {namespace} --kube-context {CONTEXT} --reuse-values --wait")
    })?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let plugins = helm_diff(folder.path());
    let forced = || xtask(&["layer", LAYER, "--skip-tests", "--force"]);
    let (sync, template, apply, shell) = (helmfile.clone(), helmfile.clone(), helmfile, tool.clone());
    let mut rows = vec![
        Row::new("helmfile sync", "", move || sync(&["sync"])),
        Row::new("helmfile template", "", move || template(&["template"])),
        Row::new("helm upgrade --reuse-values --wait, one release after another", "has been upgraded", move || {
            let mut command = shell("/bin/sh");
            command.args(["-ec", &upgrades]);
            command
        }),
        // What others deployed has no record, and is compared with more care.
        Row::new("layer --force --skip-tests, after others", "in place: ", forced),
        Row::new("layer --force --skip-tests", "in place: ", forced),
        Row::new("layer, unchanged", "in place, unchanged", || xtask(&["layer", LAYER, "--skip-tests"])),
        // The layer's tests, once, because `up` needs them.
        Row::new("layer, its tests alone", "helm test", || xtask(&["layer", LAYER])),
        Row::new("up, unchanged", "in place, unchanged", || xtask(&["--yes", "up"])),
        Row::new("layer --list: cargo and the program's start", "", || xtask(&["layer", "--list"])),
    ];
    if let Some(plugins) = plugins.clone() {
        // Nothing has changed by then: it compares, and leaves it at that.
        rows.push(Row::new("helmfile apply (helm-diff 3.13.2)", "", move || {
            let mut command = apply(&["apply", "--suppress-diff"]);
            of_helm_diff(&mut command, &plugins);
            command
        }));
    }
    rounds(&mut rows)?;
    table(&mut rows, 0);
    preview(&tool, plugins, &list)?;
    scan(tool)
}

/// Helmfile on the layer, as it is in this tree.
fn helmfile(
    tool: &(impl Fn(&str) -> Command + Clone + 'static),
    tree: PathBuf,
) -> Result<impl Fn(&[&str]) -> Command + Clone + 'static, String> {
    let tool = tool.clone();
    let lab = xtask::files::cache_dir().map_err(|failure| failure.to_string())?.join("lab/images.lock");
    Ok(move |verb: &[&str]| {
        let mut command = tool("helmfile");
        command.current_dir(&tree);
        if lab.is_file() {
            command.env("AMEIDE_IMAGES_LOCK", &lab);
        }
        command.args(["--environment", "ci", "--file"]).arg(format!("infra/kubernetes/helmfiles/{LAYER}.yaml"));
        command.arg("--quiet").args(verb);
        command
    })
}

/// What a changed value would do: ours against helm-diff and nelm, each on a copy of the tree.
fn preview(
    tool: &(impl Fn(&str) -> Command + Clone + 'static),
    plugins: Option<PathBuf>,
    list: &str,
) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree).map_err(|error| error.to_string())?;
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(root().join("infra")).arg(&tree);
    timed(copy)?;
    // The lab's sources are expected in the tree.
    std::os::unix::fs::symlink(root().join("tests"), tree.join("tests")).map_err(|error| error.to_string())?;
    let values = tree.join("infra/kubernetes/values/infrastructure/minio.yaml.gotmpl");
    let text = std::fs::read_to_string(&values).map_err(|error| error.to_string())?;
    std::fs::write(&values, text.replacen("memory: 128Mi", "memory: 144Mi", 1)).map_err(|error| error.to_string())?;
    let ours = |flag: Option<&'static str>| {
        let tree = tree.clone();
        move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
            command.current_dir(&tree).args(["--env", "ci", "layer", LAYER, "--dry-run"]).args(flag);
            command
        }
    };
    let mut rows = vec![
        Row::new("layer --dry-run", "memory: 144Mi", ours(None)),
        Row::new("layer --dry-run --server", "memory: 144Mi", ours(Some("--server"))),
    ];
    let helmfile = helmfile(tool, tree.clone())?;
    if let Some(nelm) = built("nelm", "github.com/werf/nelm/cmd/nelm") {
        // It knows charts and values, and no Helmfile.
        let values = folder.path().join("values");
        let template = format!("{}/{{{{ .Release.Name }}}}.yaml", values.display());
        timed(helmfile(&["write-values", "--output-file-template", &template]))?;
        let plans = script(list, |name, namespace, chart| {
            let values = values.join(format!("{name}.yaml"));
            let flags = format!("--namespace {namespace} --kube-context {CONTEXT} --values {}", values.display());
            format!("{} release plan install --release {name} {flags} {chart}", nelm.display())
        })?;
        let tree = tree.clone();
        rows.push(Row::new(
            "nelm release plan install (1.4.1), one release after another",
            "memory: 144Mi",
            move || {
                let mut command = Command::new("/bin/sh");
                command.current_dir(&tree).args(["-ec", &plans]);
                command
            },
        ));
    }
    if let Some(plugins) = plugins {
        rows.push(Row::new("helmfile diff (helm-diff 3.13.2)", "memory: 144Mi", move || {
            let mut command = helmfile(&["diff", "--context", "3"]);
            of_helm_diff(&mut command, &plugins);
            command
        }));
    }
    rounds(&mut rows)?;
    let last = rows.len() - 1;
    table(&mut rows, last);
    Ok(())
}

/// A line of a shell script for each release of a layer that is installed, given Helmfile's list of
/// them, with its name, namespace and chart.
fn script(list: &str, line: impl Fn(&str, &str, &str) -> String) -> Result<String, String> {
    let list: Vec<Value> = serde_json::from_str(list).map_err(|error| format!("{list}: {error}"))?;
    let is_there = |release: &&Value| release["enabled"] == true && release["installed"] == true;
    let lines = list.iter().filter(is_there).map(|release| {
        let text = |key: &str| release[key].as_str().unwrap_or_default();
        line(text("name"), text("namespace"), &format!("infra/kubernetes/helmfiles/{}", text("chart")))
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Lets a Helmfile use helm-diff.
fn of_helm_diff(command: &mut Command, plugins: &Path) {
    command.env("HELM_PLUGINS", plugins);
    // Rendered by Helm's own dry run: otherwise 3.13.2 passes Helm 4 both `--validate` and
    // `--dry-run`, and without either reports each generated password as a change.
    command.env("HELM_DIFF_USE_UPGRADE_DRY_RUN", "true");
}

/// A program from its pinned Go module beside this file; `None` if it cannot be built.
fn built(name: &str, package: &str) -> Option<PathBuf> {
    let module = camino::Utf8PathBuf::from_path_buf(root().join("tests/bench").join(name)).ok()?;
    let program = Program { name: name.to_owned(), module, package: package.to_owned(), stamp: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let built = runtime
        .block_on(async { program.build(&xtask::files::cache_dir()?, &Reporter::new(Format::Json, false)).await });
    Some(built.map_err(|failure| eprintln!("without {name}: {failure}")).ok()?.into_std_path_buf())
}

/// A Helm plugin folder with helm-diff.
fn helm_diff(scratch: &Path) -> Option<PathBuf> {
    let built = built("helm-diff", "github.com/databus23/helm-diff/v3")?;
    let plugin = scratch.join("plugins/diff");
    std::fs::create_dir_all(plugin.join("bin")).ok()?;
    std::os::unix::fs::symlink(&built, plugin.join("bin/diff")).ok()?;
    let manifest = "name: diff\nversion: 3.13.2\nusage: diff\ndescription: diff\nplatformCommand: [{command: '${HELM_PLUGIN_DIR}/bin/diff'}]\n";
    std::fs::write(plugin.join("plugin.yaml"), manifest).ok()?;
    Some(scratch.join("plugins"))
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

/// A look at many releases, in a namespace that is created for it and deleted afterwards.
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

/// From an empty cluster to every layer, with the images in the mirror: layers beside each other, and
/// one after the other. Only if asked for, because it creates the cluster anew each time.
fn first() -> Result<(), String> {
    let mut rows = [
        Row::new("first up, --jobs 1", "6 layers in place", || xtask(&["--yes", "up", "--skip-tests", "--jobs", "1"])),
        Row::new("first up", "6 layers in place", || xtask(&["--yes", "up", "--skip-tests"])),
    ];
    for round in 1..=ROUNDS {
        for row in &mut rows {
            timed(xtask(&["--yes", "cluster", "recreate", "--allow-destroy=cluster"]))?;
            row.run()?;
        }
        eprintln!("round {round} of {ROUNDS}");
    }
    table(&mut rows, 0);
    Ok(())
}

fn main() -> std::process::ExitCode {
    let asked = if std::env::args().any(|argument| argument == "first") { first() } else { run() };
    match asked {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
