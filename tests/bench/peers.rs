//! `cargo bench -p xtask`: copying images into a registry, side by side with the
//! tools that people use for it. See docs/mirror.md, "Bench".
//!
//! Each round gives every tool an empty target registry and the same images, first cold, then with
//! everything there. Rounds are interleaved and rotated, so that a busy minute of the machine
//! affects all of them.

#[path = "peers/images.rs"]
mod images;
#[path = "peers/measure.rs"]
mod measure;
#[path = "peers/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use xtask::run::reporter::{Format, Reporter};
use xtask::world::go::Program;

use images::Image;
use measure::{Sample, Usage};

type Result<T> = std::result::Result<T, String>;

const SOURCE: &str = "127.0.0.1:5610";
const TARGET: &str = "127.0.0.1:5611";
const SOURCE_CONTAINER: &str = "ameide-bench-source";
const TARGET_CONTAINER: &str = "ameide-bench-target";

/// Warm copies are short: each round takes several.
const WARM_PER_ROUND: usize = 3;

struct Settings {
    rounds: usize,
    /// Of the images' sizes.
    percent: u64,
    /// Substrings of the tools' names.
    only: Vec<String>,
    host_network: bool,
}

impl Settings {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut settings = Self { rounds: 5, percent: 100, only: Vec::new(), host_network: false };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text:?} is no number"));
            match argument.as_str() {
                "--bench" => {}
                "--rounds" => settings.rounds = number(value()?)?.max(1) as usize,
                "--percent" => settings.percent = number(value()?)?.max(1),
                "--only" => settings.only = value()?.split(',').map(str::to_owned).collect(),
                "--host-network" => settings.host_network = true,
                _ => {
                    return Err(format!(
                        "{argument:?}: expected --rounds N, --percent N, --only NAME,NAME or --host-network"
                    ));
                }
            }
        }
        Ok(settings)
    }
}

fn main() {
    // `cargo test --all-targets` starts benches too, without this flag.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("a bench: cargo bench -p xtask");
        return;
    }
    let ended = Settings::read(std::env::args().skip(1)).and_then(|settings| run(&settings));
    if let Err(error) = ended {
        eprintln!("peers: {error}");
        std::process::exit(1);
    }
}

fn run(settings: &Settings) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let registry = registry_image()?;
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
    let source = Container::start(SOURCE_CONTAINER, SOURCE, &registry, settings.host_network)?;
    eprintln!("making the images …");
    let images = images::push(SOURCE, scratch.path(), settings.percent)?;
    let mut tools = tools(&root, scratch.path(), &images)?;
    if !settings.only.is_empty() {
        tools.retain(|tool| settings.only.iter().any(|part| tool.name.contains(part.as_str())));
    }

    let mut samples: BTreeMap<usize, Samples> = BTreeMap::new();
    for round in 0..settings.rounds {
        for place in 0..tools.len() {
            let index = (place + round) % tools.len();
            let tool = &tools[index];
            let target = Container::start(TARGET_CONTAINER, TARGET, &registry, settings.host_network)?;
            tool.forget(&images, scratch.path())?;
            // Writes of earlier runs must not reach the disk during this one.
            succeed(&mut Command::new("sync"))?;
            let of = samples.entry(index).or_default();
            let cold = tool.copy(scratch.path(), &images)?;
            if tool.checked {
                images::check(TARGET, &images).map_err(|error| format!("after {}: {error}", tool.name))?;
            }
            eprintln!("round {} {}: cold {:.2} s", round + 1, tool.name, cold.wall.as_secs_f64());
            of.cold.push(cold);
            for _ in 0..if tool.warms { WARM_PER_ROUND } else { 0 } {
                of.warm.push(tool.copy(scratch.path(), &images)?);
            }
            tool.forget(&images, scratch.path())?;
            drop(target);
        }
    }
    drop(source);
    print(settings, &images, &tools, &samples);
    Ok(())
}

#[derive(Default)]
struct Samples {
    cold: Vec<Usage>,
    warm: Vec<Usage>,
}

/// The commands for one image, one after another.
type Chain = Vec<Command>;

type Chains = Box<dyn Fn(&[Image]) -> Vec<Chain>>;

struct Tool {
    name: String,
    version: String,
    chains: Chains,
    /// Whether all chains run at once.
    parallel: bool,
    /// Whether the child processes do the work themselves; for Docker, the daemon does.
    own_memory: bool,
    /// Whether the target then holds exactly the source's manifests.
    checked: bool,
    warms: bool,
    work: Work,
}

enum Work {
    Processes,
    /// Only transfers the bytes, in this program, with this many connections.
    Bytes(usize),
}

impl Tool {
    fn copy(&self, scratch: &Path, images: &[Image]) -> Result<Usage> {
        if let Work::Bytes(connections) = self.work {
            let started = Instant::now();
            images::relay(SOURCE, TARGET, images, connections)?;
            return Ok(Usage { wall: started.elapsed(), ..Usage::default() });
        }
        let home = scratch.join("home");
        std::fs::create_dir_all(&home).map_err(|error| error.to_string())?;
        let mut chains = (self.chains)(images);
        for command in chains.iter_mut().flatten() {
            // Nobody's credentials or settings. skopeo also stores what it knows about registries
            // there, unless it believes to be root.
            command.env("HOME", &home).env("XDG_DATA_HOME", &home).env("_CONTAINERS_ROOTLESS_UID", "1000");
            command.env("DOCKER_CONFIG", &home).env_remove("HTTP_PROXY").env_remove("http_proxy");
        }
        let started = Instant::now();
        let mut usage = if self.parallel {
            let ended: Result<Vec<Usage>> = std::thread::scope(|scope| {
                let runs: Vec<_> =
                    chains.iter_mut().map(|chain| scope.spawn(move || measure::in_turn(chain))).collect();
                runs.into_iter().map(|run| run.join().map_err(|_| "a thread panicked".to_owned())?).collect()
            });
            ended?.into_iter().fold(Usage::default(), Usage::beside)
        } else {
            let mut usage = Usage::default();
            for chain in &mut chains {
                usage = usage.then(measure::in_turn(chain)?);
            }
            usage
        };
        usage.wall = started.elapsed();
        Ok(usage)
    }

    /// Deletes what the tool stores between runs: a cold copy starts without it.
    fn forget(&self, images: &[Image], scratch: &Path) -> Result<()> {
        let home = scratch.join("home");
        if home.exists() {
            std::fs::remove_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
        }
        if self.name.starts_with("docker") {
            let mut command = Command::new("docker");
            command.args(["rmi", "--force"]);
            for image in images {
                command.arg(image.at(SOURCE)).arg(image.at(TARGET));
            }
            // Fails if there is nothing to delete.
            let _ = command.output();
        }
        Ok(())
    }
}

fn command(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn tools(root: &Path, scratch: &Path, images: &[Image]) -> Result<Vec<Tool>> {
    let mut tools = Vec::new();
    for (profile, folder) in [("dev", "debug"), ("release", "release")] {
        tools.push(ours(root, scratch, images, profile, folder)?);
    }
    let skopeo = which::which("skopeo").ok().or_else(|| missing("skopeo", "apt-get install skopeo"));
    let crane = built(root, "crane", "github.com/google/go-containerregistry/cmd/crane");
    let regctl = built(root, "regctl", "github.com/regclient/regclient/cmd/regctl");
    let docker = which::which("docker").ok();
    type OfImage = fn(&Path, &Image) -> Chain;
    let peers: [(&str, Option<PathBuf>, &[&str], OfImage); 4] = [
        ("skopeo copy --all", skopeo, &["--version"], |program, image| {
            let (from, to) = (format!("docker://{}", image.at(SOURCE)), format!("docker://{}", image.at(TARGET)));
            vec![command(program, &["copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to])]
        }),
        ("crane copy", crane, &["version"], |program, image| {
            vec![command(program, &["copy", &image.at(SOURCE), &image.at(TARGET)])]
        }),
        ("regctl image copy", regctl, &["version", "--format", "{{.VCSTag}}"], |program, image| {
            let plain = |host: &str| format!("reg={host},tls=disabled");
            let hosts = [plain(SOURCE), plain(TARGET)];
            let (from, to) = (image.at(SOURCE), image.at(TARGET));
            vec![command(program, &["--host", &hosts[0], "--host", &hosts[1], "image", "copy", &from, &to])]
        }),
        ("docker pull, tag, push", docker, &["version", "--format", "{{.Server.Version}}"], |program, image| {
            let (from, to) = (image.at(SOURCE), image.at(TARGET));
            [&["pull", &from][..], &["tag", &from, &to], &["push", &to]]
                .map(|arguments| command(program, arguments))
                .into()
        }),
    ];
    for (name, program, version, of_image) in peers {
        let Some(program) = program else { continue };
        let output = command(&program, version).output().map_err(|error| format!("{}: {error}", program.display()))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().trim_start_matches("skopeo version ").to_owned();
        for parallel in [false, true] {
            let program = program.clone();
            tools.push(Tool {
                name: if parallel { format!("{name}, all images at once") } else { name.to_owned() },
                version: version.clone(),
                chains: Box::new(move |images| images.iter().map(|image| of_image(&program, image)).collect()),
                parallel,
                own_memory: !name.starts_with("docker"),
                checked: !name.starts_with("docker"),
                warms: true,
                work: Work::Processes,
            });
        }
    }
    for connections in [1, 2, 4] {
        tools.push(Tool {
            name: format!("the blobs' bytes alone, {connections} at once"),
            version: String::new(),
            chains: Box::new(|_| Vec::new()),
            parallel: false,
            own_memory: false,
            checked: false,
            warms: false,
            work: Work::Bytes(connections),
        });
    }
    Ok(tools)
}

/// This project's program, built with one profile; the only place that knows how to call it.
fn ours(root: &Path, scratch: &Path, images: &[Image], profile: &str, folder: &str) -> Result<Tool> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(root).args(["build", "--package", "image-mirror", "--example", "copy", "--profile", profile]);
    eprintln!("building this project's program, profile {profile} …");
    succeed(&mut build)?;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(root);
    let program = target.join(folder).join("examples/copy");
    let wanted = scratch.join("images.yaml");
    let lock = scratch.join("images.lock").to_string_lossy().into_owned();
    std::fs::write(&wanted, images::wanted(SOURCE, images)).map_err(|error| error.to_string())?;
    succeed(command(&program, &["resolve", &wanted.to_string_lossy(), &lock, SOURCE]).env_remove("http_proxy"))?;
    Ok(Tool {
        name: format!("ours, {profile} profile"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        chains: Box::new(move |_| vec![vec![command(&program, &["run", &lock, SOURCE, TARGET])]]),
        parallel: false,
        own_memory: true,
        checked: true,
        warms: true,
        work: Work::Processes,
    })
}

fn missing(name: &str, remedy: &str) -> Option<PathBuf> {
    eprintln!("{name} is not on PATH, and left out: {remedy}");
    None
}

/// A program of tests/bench, from PATH or built into the cache of the pinned tools.
fn built(root: &Path, name: &str, package: &str) -> Option<PathBuf> {
    if let Ok(found) = which::which(name) {
        return Some(found);
    }
    let module = Utf8PathBuf::from_path_buf(root.join("tests/bench").join(name)).ok()?;
    let program = Program { name: name.to_owned(), module, package: package.to_owned(), stamp: None };
    let build = async {
        let cache = xtask::files::cache_dir()?;
        program.build(&cache, &Reporter::new(Format::Json, false)).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    match runtime.block_on(build) {
        Ok(path) => Some(path.into()),
        Err(failure) => missing(name, &format!("building it failed: {}", failure.message)),
    }
}

/// The lab's registry image, or the one that it stands for.
fn registry_image() -> Result<String> {
    for name in ["ameide-lab/registry", "registry:2"] {
        let listed = succeed(Command::new("docker").args(["images", "--format", "{{.Repository}}:{{.Tag}}", name]))?;
        if let Some(first) = listed.lines().next() {
            return Ok(first.to_owned());
        }
    }
    Err("no registry image: `cargo xtask lab` makes one, or `docker pull registry:2`".into())
}

fn succeed(command: &mut Command) -> Result<String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{shown}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A registry with its own empty volume, both removed when dropped.
struct Container(&'static str);

impl Container {
    fn start(name: &'static str, address: &str, image: &str, host_network: bool) -> Result<Self> {
        let remove = |name: &str| Command::new("docker").args(["rm", "--force", "--volumes", name]).output();
        let _ = remove(name);
        let mut run = Command::new("docker");
        run.args(["run", "--detach", "--name", name]);
        if host_network {
            run.args(["--network", "host", "--env", &format!("REGISTRY_HTTP_ADDR={address}")]);
        } else {
            run.args(["--publish", &format!("{address}:5000")]);
        }
        let container = Self(name);
        succeed(run.arg(image))?;
        let started = Instant::now();
        while let Err(error) =
            wire::Connection::open(address).and_then(|mut connection| connection.ask("GET", "/v2/", &[]))
        {
            if started.elapsed() > Duration::from_secs(30) {
                return Err(format!("the registry {address} does not answer: {error}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(container)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "--force", "--volumes", self.0]).output();
    }
}

fn print(settings: &Settings, images: &[Image], tools: &[Tool], samples: &BTreeMap<usize, Samples>) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let floor = measure::in_turn(&mut [Command::new("true")]).map_or(0, |usage| usage.peak_kib);
    let blobs = images::blobs(images);
    println!(
        "{} images, {} different blobs, {:.0} MB; {} rounds, {cores} cores, load {}, {}.",
        images.len(),
        blobs.len(),
        blobs.iter().map(|blob| blob.size).sum::<u64>() as f64 / 1e6,
        settings.rounds,
        load.split(' ').next().unwrap_or_default(),
        if settings.host_network { "registries on the host's network" } else { "registries behind Docker's proxy" },
    );
    println!(
        "Memory below {:.0} MiB cannot be told apart. Times in seconds: least / median / most.\n",
        floor as f64 / 1024.0
    );
    let first = tools.iter().position(|tool| tool.name.starts_with("ours"));
    let ours = first.and_then(|index| samples.get(&index));
    let median = |of: &[Usage]| Sample::of(of).map(|sample| sample.median);
    let (cold_ours, warm_ours) = (ours.and_then(|ours| median(&ours.cold)), ours.and_then(|ours| median(&ours.warm)));
    println!("| | cold | to ours | warm | to ours | memory, MiB | processor, s |");
    println!("|---|---|---|---|---|---|---|");
    for (index, tool) in tools.iter().enumerate() {
        let Some(of) = samples.get(&index) else { continue };
        let ratio = |all: &[Usage], ours: Option<f64>| match (median(all), ours) {
            (Some(theirs), Some(ours)) => format!("{:.2}", theirs / ours),
            _ => "–".into(),
        };
        let times = |all: &[Usage], digits: usize| {
            Sample::of(all).map_or("–".into(), |Sample { least, median, most }| {
                format!("{least:.digits$} / {median:.digits$} / {most:.digits$}")
            })
        };
        let name = format!("{} {}", tool.name, tool.version);
        let (memory, processor) = if tool.own_memory {
            let peak = of.cold.iter().map(|usage| usage.peak_kib).max().unwrap_or_default();
            let mut processor: Vec<f64> = of.cold.iter().map(|usage| usage.processor.as_secs_f64()).collect();
            processor.sort_by(f64::total_cmp);
            (format!("{:.0}", peak as f64 / 1024.0), format!("{:.2}", processor[processor.len() / 2]))
        } else {
            ("–".into(), "–".into())
        };
        println!(
            "| {} | {} | {} | {} | {} | {memory} | {processor} |",
            name.trim(),
            times(&of.cold, 2),
            ratio(&of.cold, cold_ours),
            times(&of.warm, 3),
            ratio(&of.warm, warm_ours),
        );
    }
}
