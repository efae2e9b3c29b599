//! `cargo bench -p xtask --bench instant`: a layer in which nothing has changed, beside what
//! people run for it, on the cluster of the environment `ci` as it stands. See
//! docs/operations.md, "When nothing has changed".
//!
//! Rounds are interleaved, so that a busy minute of the machine hits all of them. Helmfile's
//! sync makes a new revision each time, so that the layer is brought in again before its turn.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const LAYER: &str = "45-data-plane-ext";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn xtask(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.current_dir(root()).args(["--env", "ci"]).args(arguments);
    command
}

/// How long it took; what fails ends the bench.
fn timed(mut command: Command) -> Result<(Duration, String), String> {
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let took = started.elapsed();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok((took, text));
    }
    Err(format!("{command:?}\n{text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

fn run() -> Result<(), String> {
    let (_, printed) = timed(xtask(&["tools"]))?;
    let bin = printed.lines().find_map(|line| line.strip_prefix("export PATH=")?.split(':').next());
    let bin = Path::new(bin.ok_or("`xtask tools` names no folder")?).to_owned();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let lab = xtask::files::cache_dir().map_err(|failure| failure.to_string())?.join("lab/images.lock");
    let helmfile = |words: &[&str]| {
        let mut command = Command::new(bin.join("helmfile"));
        command.current_dir(root()).env("PATH", &path).env("HELMFILE_UPGRADE_NOTICE_DISABLED", "true");
        if lab.is_file() {
            command.env("AMEIDE_IMAGES_LOCK", &lab);
        }
        command.args(["--environment", "ci", "--file"]).arg(format!("infra/kubernetes/helmfiles/{LAYER}.yaml"));
        command.args(words);
        command
    };
    let layer = || xtask(&["layer", LAYER, "--skip-tests"]);
    let mut times: [Vec<Duration>; 5] = Default::default();
    for round in 1..=ROUNDS {
        times[1].push(timed(helmfile(&["--quiet", "sync"]))?.0);
        times[2].push(timed(helmfile(&["--quiet", "template"]))?.0);
        times[3].push(timed(xtask(&["layer", LAYER, "--skip-tests", "--force"]))?.0);
        let (took, said) = timed(layer())?;
        if !said.contains("in place, unchanged") {
            return Err(format!("it is not in place:\n{said}"));
        }
        times[0].push(took);
        times[4].push(timed(xtask(&["layer", "--list"]))?.0);
        eprintln!("round {round} of {ROUNDS}");
    }
    let names = ["layer, unchanged", "helmfile sync", "helmfile template", "layer --force", "the program's own start"];
    let medians = times.each_mut().map(|times| median(times));
    println!("| what | median of {ROUNDS} | beside helmfile sync |\n|---|---|---|");
    for (name, seconds) in names.iter().zip(medians) {
        println!("| {name} | {seconds:.3} s | {:.3} |", seconds / medians[1]);
    }
    Ok(())
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
