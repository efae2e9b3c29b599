//! `cargo xtask report`: a run as one HTML page, or as Markdown. Everything in it comes from the
//! run's folder: its record, its logs, its checklist.

use std::io::Write;

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::files;
use crate::files::bounds;
use crate::run::Run;
use crate::run::foreign;
use crate::run::reporter;
use run_record::readers::{html, markdown};
use run_record::timeline;
use run_record::{Checkpoint, Failure};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    Html,
    Markdown,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A run's name, as `--list` shows it; the last one that did something if none is given
    pub run: Option<String>,
    /// HTML to look at, Markdown for a pull request
    #[arg(long, value_enum, default_value = "html")]
    pub format: Form,
    /// Where to write it; report.html or report.md in the run's folder if not given, `-` for standard output
    #[arg(long, value_name = "FILE")]
    pub to: Option<Utf8PathBuf>,
    /// List the runs that are kept, and stop
    #[arg(long)]
    pub list: bool,
}

/// How much of a log goes into a page; its end is the relevant part.
const LOG_BYTES: u64 = 200 * 1024;

/// How much of a record is read from its beginning and from its end, in bytes.
const RECORD: u64 = 16 << 20;

pub async fn run(run: &Run, args: &Args) -> Result<(), Failure> {
    if args.list {
        return list(run);
    }
    let (folder, recorded) = find(run, args.run.as_deref())?;
    let checklist = checklist(&folder);
    let text = match args.format {
        Form::Html => html::page(&recorded, &checklist, |name| log(&folder.join(name))),
        Form::Markdown => markdown::page(&recorded, &checklist),
    };
    let path = match &args.to {
        Some(path) if path == "-" => {
            tell(run, &json!({"page": text}), &text);
            return Ok(());
        }
        Some(path) => path.clone(),
        None => folder.join(if args.format == Form::Html { "report.html" } else { "report.md" }),
    };
    if run.dry_run {
        run.reporter.planned("report", format!("write {path}"));
        return Ok(());
    }
    let written = match &args.to {
        Some(path) => std::fs::write(path, text),
        None => files::write_atomically(&path, text.as_bytes()),
    };
    written.map_err(|error| Failure::usage(format!("--to {path}: {error}")))?;
    tell(run, &json!({"written": path}), path.as_str());
    Ok(())
}

/// What was asked for, in the form that was asked for.
fn tell(run: &Run, json: &Value, text: &str) {
    match run.json {
        true => run.reporter.data(&json.to_string()),
        false if text.is_empty() => {}
        false => run.reporter.data(text),
    }
}

/// Adds this run's report to the job summary on GitHub Actions.
pub fn summarize(run: &Run) {
    let path = std::env::var("GITHUB_STEP_SUMMARY").ok().filter(|path| reporter::on_github() && !path.is_empty());
    let (Some(path), Some(recorded)) = (path, load(&run.dir)) else { return };
    let markdown = markdown::page(&recorded, &checklist(&run.dir));
    // It is for later: losing it must not fail the job.
    if let Ok(mut file) = std::fs::File::options().append(true).create(true).open(path) {
        let _ = file.write_all(markdown.as_bytes());
    }
}

fn list(run: &Run) -> Result<(), Failure> {
    let kept: Vec<timeline::Run> = folders(run)?.iter().filter_map(|folder| load(folder)).collect();
    let rows = kept.iter().map(|kept| json!({"run": kept.id, "verdict": kept.verdict(), "command": kept.command}));
    let lines = kept.iter().map(|kept| format!("{:<24} {:<24} {}", kept.id, kept.verdict(), kept.command));
    tell(run, &rows.collect(), &lines.collect::<Vec<_>>().join("\n"));
    Ok(())
}

/// The folders of earlier runs, oldest first: their names start with the time.
fn folders(run: &Run) -> Result<Vec<Utf8PathBuf>, Failure> {
    let runs = run.state.runs();
    let entries = runs.read_dir_utf8().map_err(|error| Failure::usage(format!("cannot list {runs}: {error}")))?;
    let mut folders: Vec<Utf8PathBuf> = entries.flatten().map(|entry| entry.path().to_owned()).collect();
    folders.retain(|folder| folder != &run.dir);
    folders.sort();
    Ok(folders)
}

fn find(run: &Run, name: Option<&str>) -> Result<(Utf8PathBuf, timeline::Run), Failure> {
    let mut folders = folders(run)?;
    if let Some(name) = name {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let folder = folders.into_iter().find(|folder| plain && folder.file_name() == Some(name));
        let found = folder.and_then(|folder| load(&folder).map(|recorded| (folder, recorded)));
        return found.ok_or_else(|| {
            Failure::usage(format!("no run {name:?} in {}", run.state.runs())).remedy("cargo xtask report --list")
        });
    }
    folders.reverse();
    let did_something = |recorded: &timeline::Run| {
        !recorded.rows.is_empty() || !recorded.previews.is_empty() || recorded.failure.is_some()
    };
    let found = folders.into_iter().find_map(|folder| Some((load(&folder).filter(did_something)?, folder)));
    found.map(|(recorded, folder)| (folder, recorded)).ok_or_else(|| {
        Failure::usage(format!("no run is recorded in {} yet", run.state.runs())).remedy("cargo xtask up")
    })
}

pub(super) fn load(folder: &Utf8Path) -> Option<timeline::Run> {
    let (mut text, end, _) = bounds::ends(&folder.join("record.jsonl"), RECORD, RECORD).ok()?;
    text.extend(end);
    let text = String::from_utf8_lossy(&text);
    let logs: Vec<String> = folder
        .read_dir_utf8()
        .ok()?
        .flatten()
        .map(|entry| entry.file_name().to_owned())
        .filter(|name| name.ends_with(".log"))
        .collect();
    timeline::read(folder.file_name()?, &text, &logs)
}

fn checklist(folder: &Utf8Path) -> Vec<Checkpoint> {
    #[derive(Deserialize)]
    struct Kept {
        items: Vec<Checkpoint>,
    }
    let text = bounds::read(&folder.join("checklist.json"), bounds::SETTINGS).unwrap_or_default();
    serde_json::from_str::<Kept>(&text).map(|kept| kept.items).unwrap_or_default()
}

fn log(path: &Utf8Path) -> Option<String> {
    let (_, mut bytes, mut left_out) = bounds::ends(path, 0, LOG_BYTES).ok()?;
    if left_out > 0 {
        // Half a line may begin inside a secret, which would not be recognised.
        let half = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
        left_out += bytes.drain(..half).len() as u64;
    }
    let text = foreign::lines(&String::from_utf8_lossy(&bytes));
    let text = foreign::masked_lines(&text);
    Some(match (left_out, text.is_empty()) {
        (0, _) => text,
        (_, true) => format!("({left_out} bytes left out: its last line is too long)\n"),
        (_, false) => format!("({left_out} bytes before this left out)\n{text}"),
    })
}
