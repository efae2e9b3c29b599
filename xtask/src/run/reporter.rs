//! The one stream of events of a run, and its readers: lines for people, and
//! the run's record (JSON lines) that `report`, CI and scripts read.
//!
//! Nothing else in this program prints, but for `--help` and final data output.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::run::foreign;
use crate::run::github::{self, Annotations};
use crate::run::printer;
use run_record::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Done,
    /// Looked at and found as it should be: nothing was changed.
    Unchanged,
    Failed,
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event<'a> {
    Run {
        command: String,
        env: &'a str,
    },
    Started {
        resource: &'a str,
        step: &'a str,
    },
    Finished {
        resource: &'a str,
        step: &'a str,
        outcome: Outcome,
        seconds: f64,
    },
    Note {
        resource: &'a str,
        text: &'a str,
    },
    Warning {
        resource: &'a str,
        text: &'a str,
    },
    Waiting {
        resource: &'a str,
        text: &'a str,
    },
    Retry {
        reason: &'a str,
        attempt: u32,
        budget: u32,
        wait_seconds: u64,
    },
    /// Something stands in the way, or did for a while.
    Blocker {
        code: &'a str,
        resource: &'a str,
        text: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<String>,
        then: &'a str,
    },
    Planned {
        resource: &'a str,
        text: &'a str,
    },
    Failure(&'a Failure),
    /// What the cluster wrote down of a layer; in the record only.
    Release(ReleaseEvent),
    Pod(PodEvent),
    /// What a copy of images did; in the record only.
    Images(ImagesEvent),
    End {
        exit: i32,
        seconds: f64,
    },
}

/// What `mirror` did, and what it cost.
#[derive(Clone, Debug, Serialize)]
pub struct ImagesEvent {
    pub copied: usize,
    pub skipped: usize,
    /// Blobs that went over the wire, that were there, and that were mounted.
    pub blobs: usize,
    pub there: usize,
    pub mounted: usize,
    pub bytes: u64,
    pub source_requests: u64,
    pub seconds: f64,
}

/// A revision that a layer made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReleaseEvent {
    pub layer: String,
    pub name: String,
    pub namespace: String,
    pub revision: String,
    pub status: String,
    pub started: Timestamp,
}

/// A pod of a layer's releases, as it stood when the layer ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodEvent {
    pub layer: String,
    pub release: String,
    /// A pod of `helm test`.
    pub test: bool,
    pub name: String,
    pub namespace: String,
    pub created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Timestamp>,
    /// Of a pod that ran to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    pub phase: String,
    pub restarts: i32,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

/// A file of the checked out tree, on GitHub Actions.
fn file(path: &str) -> Option<String> {
    let root = std::env::var("GITHUB_WORKSPACE").ok()?;
    std::fs::read_to_string(std::path::Path::new(&root).join(path)).ok()
}

/// Writes each event to everything that reads the run.
pub struct Reporter {
    format: Format,
    /// Print what the tools print.
    verbose: bool,
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    record: Option<File>,
    record_path: Option<Utf8PathBuf>,
    /// Events from before the record had a place, and all of them for `--output json`.
    buffered: Vec<String>,
    bar: Option<ProgressBar>,
    /// Where a long step may draw lines of its own, above that bar.
    bars: Option<MultiProgress>,
    last_sign: Option<Instant>,
    /// Where the run's output is a job's log on GitHub Actions.
    github: Option<Annotations>,
}

/// Where there is no terminal, a long step says this often that it goes on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

impl Reporter {
    pub fn new(format: Format, verbose: bool) -> Self {
        let mut inner = Inner::default();
        if format == Format::Text && std::io::stderr().is_terminal() {
            // As often as indicatif draws on a terminal of its own.
            let screen = Box::new(printer::Screen::default());
            let bars = MultiProgress::with_draw_target(ProgressDrawTarget::term_like_with_hz(screen, 20));
            let bar = bars.add(ProgressBar::no_length());
            let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            inner.bar = Some(bar);
            inner.bars = Some(bars);
        }
        inner.github = github::active().then(Annotations::default);
        Self { format, verbose, started: Instant::now(), inner: Mutex::new(inner) }
    }

    /// From now on (and for what came before) the record goes to `path`.
    pub fn record_to(&self, path: Utf8PathBuf) -> std::io::Result<()> {
        let mut file = files::private(File::options().create(true).append(true)).open(&path)?;
        let mut inner = self.lock();
        for line in &inner.buffered {
            writeln!(file, "{line}")?;
        }
        inner.record = Some(file);
        inner.record_path = Some(path);
        Ok(())
    }

    pub fn record_path(&self) -> Option<Utf8PathBuf> {
        self.lock().record_path.clone()
    }

    /// The one way into everything that reads the run: foreign text is made safe here.
    pub fn event(&self, event: &Event) {
        made_safe(event, |event| self.write(event));
    }

    fn write(&self, event: &Event) {
        #[derive(Serialize)]
        struct Line<'a> {
            time: String,
            #[serde(flatten)]
            event: &'a Event<'a>,
        }
        let line = Line { time: jiff::Timestamp::now().to_string(), event };
        let mut inner = self.lock();
        if let Ok(json) = serde_json::to_string(&line) {
            if let Some(record) = &mut inner.record {
                // A full disk must not end a deploy: the record is for reading later.
                let _ = writeln!(record, "{json}");
            }
            if inner.record.is_none() || self.format == Format::Json {
                inner.buffered.push(json);
            }
        }
        if self.format == Format::Text {
            let (before, after) = inner.github.as_mut().map(|github| github.commands(event, file)).unwrap_or_default();
            before.iter().for_each(|line| printer::words(&format!("{line}\n")));
            self.print(&inner, event);
            after.iter().for_each(|line| printer::words(&format!("{line}\n")));
            inner.last_sign = Some(Instant::now());
        }
    }

    /// A step that is reported when it ends; dropped unfinished, it says nothing
    /// more, since the failure that ended it is reported by itself.
    pub fn step(&self, resource: impl Into<String>, step: impl Into<String>) -> Step<'_> {
        let step = Step { reporter: self, resource: resource.into(), step: step.into(), started: Instant::now() };
        self.event(&Event::Started { resource: &step.resource, step: &step.step });
        step
    }

    pub fn note(&self, resource: &str, text: impl AsRef<str>) {
        self.event(&Event::Note { resource, text: text.as_ref() });
    }

    pub fn warn(&self, resource: &str, text: impl AsRef<str>) {
        self.event(&Event::Warning { resource, text: text.as_ref() });
    }

    pub fn waiting(&self, resource: &str, text: impl AsRef<str>) {
        self.event(&Event::Waiting { resource, text: text.as_ref() });
    }

    pub fn planned(&self, resource: &str, text: impl AsRef<str>) {
        self.event(&Event::Planned { resource, text: text.as_ref() });
    }

    /// What a long step is at; shown on a terminal, or everywhere with `--verbose`.
    pub fn progress(&self, text: &str) {
        let text = &foreign::line(text);
        if self.verbose {
            self.data_to_stderr(text);
            return;
        }
        let mut inner = self.lock();
        if let Some(bar) = &inner.bar {
            bar.set_message(text.to_owned());
        } else if self.format == Format::Text && inner.last_sign.is_none_or(|last| last.elapsed() >= SIGN_OF_LIFE) {
            // The first of these is the moment from which silence is counted.
            if inner.last_sign.replace(Instant::now()).is_some() {
                printer::words(&format!("   … {text}\n"));
            }
        }
    }

    /// Where lines can be drawn and drawn again; none but on a terminal.
    pub fn bars(&self) -> Option<MultiProgress> {
        if self.verbose { None } else { self.lock().bars.clone() }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The last lines of a failed run.
    pub fn failure(&self, failure: &Failure) {
        self.event(&Event::Failure(failure));
    }

    pub fn end(&self, exit: i32) {
        self.event(&Event::End { exit, seconds: self.started.elapsed().as_secs_f64() });
        let inner = self.lock();
        if let Some(bar) = &inner.bar {
            bar.finish_and_clear();
        }
        if self.format == Format::Json {
            for line in &inner.buffered {
                printer::data(&format!("{line}\n"));
            }
        }
    }

    /// Data that the command was asked for (tables, JSON): goes to standard output.
    pub fn data(&self, text: &str) {
        let inner = self.lock();
        let text = foreign::lines(text.trim_end());
        let print = || printer::data(&format!("{text}\n"));
        match &inner.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// A question, whose answer the caller reads: nothing is drawn over it.
    pub fn prompt(&self, text: &str) {
        let inner = self.lock();
        if let Some(bar) = &inner.bar {
            bar.disable_steady_tick();
        }
        let print = || printer::words(text);
        match &inner.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn data_to_stderr(&self, text: &str) {
        let inner = self.lock();
        // GitHub's runner looks past leading spaces for its commands, not past this.
        let print = || printer::words(&format!("   │ {text}\n"));
        match &inner.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn print(&self, inner: &Inner, event: &Event) {
        let Some(text) = text_line(event) else {
            if let (Event::Started { resource, step }, Some(bar)) = (event, &inner.bar) {
                bar.set_message(format!("[{resource}] {step}"));
                bar.enable_steady_tick(Duration::from_millis(120));
            }
            return;
        };
        // The runner takes this for a command wherever in a line it stands.
        let text = if inner.github.is_some() { text.replace("##[", "##\u{200b}[") } else { text };
        let print = || printer::words(&format!("{text}\n"));
        match &inner.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

pub struct Step<'a> {
    reporter: &'a Reporter,
    resource: String,
    step: String,
    started: Instant,
}

impl Step<'_> {
    pub fn done(self) {
        self.finish(Outcome::Done);
    }

    /// Done, with words that only the end of the step could know.
    pub fn done_as(mut self, step: impl Into<String>) {
        self.step = step.into();
        self.finish(Outcome::Done);
    }

    pub fn unchanged(mut self, step: impl Into<String>) {
        self.step = step.into();
        self.finish(Outcome::Unchanged);
    }

    pub fn failed(mut self, step: impl Into<String>) {
        self.step = step.into();
        self.finish(Outcome::Failed);
    }

    fn finish(self, outcome: Outcome) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.reporter.event(&Event::Finished { resource: &self.resource, step: &self.step, outcome, seconds });
    }
}

/// Hands on the event with every text of it as [`foreign::line`] makes it.
fn made_safe(event: &Event, then: impl FnOnce(&Event)) {
    let safe = foreign::line;
    match event {
        Event::Run { command, env } => then(&Event::Run { command: safe(command), env: &safe(env) }),
        Event::Started { resource, step } => then(&Event::Started { resource: &safe(resource), step: &safe(step) }),
        Event::Finished { resource, step, outcome, seconds } => then(&Event::Finished {
            resource: &safe(resource),
            step: &safe(step),
            outcome: *outcome,
            seconds: *seconds,
        }),
        Event::Note { resource, text } => then(&Event::Note { resource: &safe(resource), text: &safe(text) }),
        Event::Warning { resource, text } => then(&Event::Warning { resource: &safe(resource), text: &safe(text) }),
        Event::Waiting { resource, text } => then(&Event::Waiting { resource: &safe(resource), text: &safe(text) }),
        Event::Planned { resource, text } => then(&Event::Planned { resource: &safe(resource), text: &safe(text) }),
        Event::Blocker { code, resource, text, message, since, then: what } => then(&Event::Blocker {
            code,
            resource: &safe(resource),
            text: &safe(text),
            message: &safe(message),
            since: since.as_deref().map(safe),
            then: &safe(what),
        }),
        Event::Failure(failure) => then(&Event::Failure(&failure.map_text(safe))),
        Event::Release(release) => then(&Event::Release(ReleaseEvent {
            layer: safe(&release.layer),
            name: safe(&release.name),
            namespace: safe(&release.namespace),
            revision: safe(&release.revision),
            status: safe(&release.status),
            started: release.started,
        })),
        Event::Pod(pod) => then(&Event::Pod(PodEvent {
            layer: safe(&pod.layer),
            release: safe(&pod.release),
            name: safe(&pod.name),
            namespace: safe(&pod.namespace),
            phase: safe(&pod.phase),
            waiting: pod.waiting.as_deref().map(safe),
            ..pod.clone()
        })),
        Event::Retry { .. } | Event::Images(_) | Event::End { .. } => then(event),
    }
}

/// The width that resource and step share, so that durations stand in a column.
const COLUMN: usize = 72;

fn text_line(event: &Event) -> Option<String> {
    let line = match event {
        Event::Run { .. }
        | Event::Started { .. }
        | Event::End { .. }
        | Event::Release(_)
        | Event::Pod(_)
        | Event::Images(_) => return None,
        Event::Finished { resource, step, outcome, seconds } => {
            let mark = match outcome {
                Outcome::Done => "✅",
                Outcome::Unchanged => "✔️ ",
                Outcome::Failed => "❌",
            };
            let what = format!("[{resource}] {step}");
            let pad = COLUMN.saturating_sub(what.chars().count());
            format!("{mark} {what}{:pad$} {:>8}", "", human_seconds(*seconds))
        }
        Event::Note { resource, text } => format!("➡️  [{resource}] {text}"),
        Event::Planned { resource, text } => format!("➡️  [{resource}] would {text}"),
        Event::Warning { resource, text } => format!("⚠️  [{resource}] {text}"),
        Event::Blocker { code, resource, text, then, .. } => format!("⚠️  [{resource}] {code}: {text} ({then})"),
        Event::Waiting { resource, text } => format!("⏳ [{resource}] {text}"),
        Event::Retry { reason, attempt, budget, wait_seconds } => {
            let wait = if *wait_seconds > 0 { format!(" in {wait_seconds} s") } else { String::new() };
            format!("🔁 {reason}: try {attempt} of {budget}{wait}")
        }
        Event::Failure(failure) => {
            let mut text = format!("❌ {}: {}", failure.code, failure.message);
            for line in &failure.evidence {
                text.push_str(&format!("\n   evidence: {line}"));
            }
            if let Some(remedy) = &failure.remedy {
                text.push_str(&format!("\n   remedy:   {remedy}"));
            }
            if let Some(log) = &failure.log {
                text.push_str(&format!("\n   log:      {log}"));
            }
            text
        }
    };
    Some(line)
}

/// A duration as people read it: `0.3s`, `12.4s`, `3m07s`.
pub fn human_seconds(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1}s");
    }
    let whole = seconds.round() as u64;
    format!("{}m{:02}s", whole / 60, whole % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let cases = [(0.04, "0.0s"), (12.44, "12.4s"), (59.96, "1m00s"), (187.0, "3m07s")];
        for (seconds, text) in cases {
            assert_eq!(human_seconds(seconds), text);
        }
    }

    #[test]
    fn whatever_reads_the_run_gets_foreign_text_as_one_harmless_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("record.jsonl")).unwrap();
        let reporter = Reporter::new(Format::Json, false);
        reporter.record_to(path.clone()).unwrap();
        let shouted = "\u{1b}[31mfatal\n::add-mask::x https://me:s3cret@registry.example/v2/";
        let failure = Failure::usage(shouted).evidence(shouted).remedy(shouted);
        let text = shouted;
        reporter.event(&Event::Run { command: shouted.to_owned(), env: "ci" });
        reporter.event(&Event::Failure(&failure));
        reporter.note("pod", text);
        reporter.warn(text, text);
        reporter.waiting("pod", text);
        reporter.planned("pod", text);
        reporter.step("pod", text).done_as(text);
        let since = None;
        reporter.event(&Event::Blocker { code: "x", resource: text, text, message: text, since, then: text });
        let record = std::fs::read_to_string(path).unwrap();
        assert_eq!(record.lines().count(), 9, "an event is a line: {record}");
        for line in record.lines() {
            let read: serde_json::Value = serde_json::from_str(line).unwrap();
            let harmless = "fatal ::add-mask::x https://***@registry.example/v2/";
            assert!(read.to_string().contains(harmless) || line.contains("started"), "{line}");
            assert!(!line.contains("s3cret") && !line.contains("u001b") && !line.contains("\\n"), "{line}");
        }
    }

    #[test]
    fn finished_steps_align_their_durations() {
        let line = |step| {
            text_line(&Event::Finished { resource: "minio", step, outcome: Outcome::Done, seconds: 1.0 })
                .map(|line| line.chars().count())
        };
        assert_eq!(line("short"), line("a somewhat longer step"));
    }
}
