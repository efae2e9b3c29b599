//! `cargo xtask report`: a run as one HTML page, or as Markdown. Everything in it
//! comes from the run's folder: its record, its logs, its checklist.

use std::io::Write;

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;

use crate::files;
use crate::files::bounds;
use crate::run::context::Context;
use crate::run::foreign;
use crate::run::reporter;
use run_record::readers::{html, markdown};
use run_record::timeline::{self, Run};
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

/// How much of a log goes into a page; its end is what tells.
const LOG_BYTES: u64 = 200 * 1024;

/// How much of a record is read from its beginning, and from its end, in bytes.
const RECORD: u64 = 16 << 20;

pub async fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    if args.list {
        return list(context);
    }
    let (folder, run) = find(context, args.run.as_deref())?;
    let checklist = checklist(&folder);
    let text = match args.format {
        Form::Html => html::page(&run, &checklist, |name| log(&folder.join(name))),
        Form::Markdown => markdown::page(&run, &checklist),
    };
    let path = match &args.to {
        Some(path) if path == "-" => {
            context.run.reporter.data(&text);
            return Ok(());
        }
        Some(path) => path.clone(),
        None => folder.join(if args.format == Form::Html { "report.html" } else { "report.md" }),
    };
    let written = match &args.to {
        Some(path) => std::fs::write(path, text),
        None => files::write_atomically(&path, text.as_bytes()),
    };
    written.map_err(|error| Failure::usage(format!("--to {path}: {error}")))?;
    context.run.reporter.data(path.as_str());
    Ok(())
}

/// Adds this run's report to the summary of the job that it is, on GitHub Actions.
pub fn summarize(context: &Context) {
    let path = std::env::var("GITHUB_STEP_SUMMARY").ok().filter(|path| reporter::on_github() && !path.is_empty());
    let (Some(path), Some(run)) = (path, load(&context.run.dir)) else { return };
    let markdown = markdown::page(&run, &checklist(&context.run.dir));
    // For reading later: losing it must not fail the job.
    if let Ok(mut file) = std::fs::File::options().append(true).create(true).open(path) {
        let _ = file.write_all(markdown.as_bytes());
    }
}

fn list(context: &Context) -> Result<(), Failure> {
    for folder in folders(context)? {
        if let Some(run) = load(&folder) {
            context.run.reporter.data(&format!("{:<24} {:<24} {}", run.id, run.verdict(), run.command));
        }
    }
    Ok(())
}

/// The folders of earlier runs, oldest first: their names begin with the time.
fn folders(context: &Context) -> Result<Vec<Utf8PathBuf>, Failure> {
    let runs = context.run.state.runs();
    let entries = runs.read_dir_utf8().map_err(|error| Failure::usage(format!("cannot list {runs}: {error}")))?;
    let mut folders: Vec<Utf8PathBuf> = entries.flatten().map(|entry| entry.path().to_owned()).collect();
    folders.retain(|folder| folder != &context.run.dir);
    folders.sort();
    Ok(folders)
}

fn find(context: &Context, name: Option<&str>) -> Result<(Utf8PathBuf, Run), Failure> {
    let mut folders = folders(context)?;
    if let Some(name) = name {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let folder = folders.into_iter().find(|folder| plain && folder.file_name() == Some(name));
        let found = folder.and_then(|folder| load(&folder).map(|run| (folder, run)));
        return found.ok_or_else(|| {
            Failure::usage(format!("no run {name:?} in {}", context.run.state.runs()))
                .remedy("cargo xtask report --list")
        });
    }
    folders.reverse();
    let did_something = |run: &Run| !run.rows.is_empty() || !run.previews.is_empty() || run.failure.is_some();
    let found = folders.into_iter().find_map(|folder| Some((load(&folder).filter(did_something)?, folder)));
    found.map(|(run, folder)| (folder, run)).ok_or_else(|| {
        Failure::usage(format!("no run is recorded in {} yet", context.run.state.runs())).remedy("cargo xtask up")
    })
}

pub(super) fn load(folder: &Utf8Path) -> Option<Run> {
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
    let (_, bytes, left_out) = bounds::ends(path, 0, LOG_BYTES).ok()?;
    let text = foreign::lines(&String::from_utf8_lossy(&bytes));
    Some(if left_out == 0 { text } else { format!("({left_out} bytes before this left out)\n{text}") })
}
