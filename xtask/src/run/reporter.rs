//! Where a run's stream of events goes: as lines to a terminal or a job log, as JSON to standard
//! output, and into the run's record, which `report`, CI and scripts read. Events and their formats
//! are defined in `run_record`.
//!
//! Nothing else in this program prints, except `--help` and final data output.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::files;
use crate::run::commands::{self, Flags};
use crate::run::foreign;
use crate::run::printer;
use camino::Utf8PathBuf;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use run_record::readers::github::Annotations;
use run_record::readers::json::Line;
use run_record::readers::text;
use run_record::trace::{SpanId, Trace};
use run_record::{Event, Failure, Outcome, Step};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Whether this is a GitHub Actions job.
pub(crate) fn on_github() -> bool {
    std::env::var("GITHUB_ACTIONS").is_ok_and(|value| value == "true")
}

/// Whether what is printed to standard output may have colours (<https://no-color.org>).
fn coloured() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !set("NO_COLOR") && std::env::var("TERM").is_ok_and(|term| term != "dumb")
}

/// A file of the checked-out tree, on GitHub Actions.
fn file(path: &str) -> Option<String> {
    let root = std::env::var("GITHUB_WORKSPACE").ok()?;
    std::fs::read_to_string(std::path::Path::new(&root).join(path)).ok()
}

/// Passes each event to every reader of the run.
pub struct Reporter {
    format: Format,
    /// Print the tools' output.
    verbose: bool,
    /// Print only problems and what was asked for.
    quiet: bool,
    started: Instant,
    /// How many steps have begun.
    steps: AtomicU64,
    /// The trace that the run is part of, once it has started.
    trace: OnceLock<Trace>,
    /// By which commands in its texts reach the cluster of the run, once that is known.
    flags: OnceLock<Flags>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    record: Option<File>,
    record_path: Option<Utf8PathBuf>,
    /// Events from before the record was opened, and all of them for `--output json`.
    buffered: Vec<String>,
    bar: Option<ProgressBar>,
    /// Where a long step may draw its own lines, above that bar.
    bars: Option<MultiProgress>,
    last_sign: Option<Instant>,
    /// Set if the output is a GitHub Actions job log.
    github: Option<Annotations>,
}

/// Without a terminal, a long step reports this often that it is still going on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

impl Reporter {
    pub fn new(format: Format, verbose: bool) -> Self {
        let mut inner = Inner::default();
        if format == Format::Text && std::io::stderr().is_terminal() {
            // As often as indicatif draws by default.
            let screen = Box::new(printer::Screen::default());
            let bars = MultiProgress::with_draw_target(ProgressDrawTarget::term_like_with_hz(screen, 20));
            let bar = bars.add(ProgressBar::no_length());
            let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            inner.bar = Some(bar);
            inner.bars = Some(bars);
        }
        inner.github = on_github().then(Annotations::default);
        let (steps, trace, flags) = (AtomicU64::new(0), OnceLock::new(), OnceLock::new());
        Self { format, verbose, quiet: false, started: Instant::now(), steps, trace, flags, inner: Mutex::new(inner) }
    }

    /// If `quiet`, prints only problems and what was asked for. Other readers of the run still get
    /// everything.
    pub fn quietly(self, quiet: bool) -> Self {
        if quiet {
            let mut inner = self.lock();
            (inner.bar, inner.bars) = (None, None);
        }
        Self { quiet, ..self }
    }

    /// Writes the record to `path` from now on, including earlier events.
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

    /// From now on, adds these to the commands that it tells.
    pub fn tell_with(&self, flags: Flags) {
        let _ = self.flags.set(flags);
    }

    /// The text, with the flags in each of its commands. Events get them anyway; this is for data.
    pub fn completed(&self, text: &str) -> String {
        self.flags.get().map_or_else(|| text.to_owned(), |flags| flags.put_into(text))
    }

    /// The only way to every reader of the run: commands are completed and external text is made safe
    /// here.
    pub fn event(&self, event: &Event) {
        if let Event::RunStarted { trace: Some(trace), .. } = event {
            let _ = self.trace.set(trace.clone());
        }
        let event = event.map_sentences(|text| self.completed(text));
        self.write(event.map_text(|text| foreign::line(&commands::unquoted(text))));
    }

    fn write(&self, event: Event) {
        let line = Line { time: jiff::Timestamp::now(), event };
        let mut inner = self.lock();
        if let Ok(json) = line.to_json() {
            if let Some(record) = &mut inner.record {
                // A full disk must not end a deploy: the record is for later.
                let _ = writeln!(record, "{json}");
            }
            if inner.record.is_none() || self.format == Format::Json {
                inner.buffered.push(json);
            }
        }
        let event = &line.event;
        if self.format == Format::Text {
            let (before, after) = inner.github.as_mut().map(|github| github.commands(event, file)).unwrap_or_default();
            if self.quiet && !text::quietly(event) {
                return;
            }
            before.iter().for_each(|line| printer::words(&format!("{line}\n")));
            self.print(&inner, event);
            after.iter().for_each(|line| printer::words(&format!("{line}\n")));
            inner.last_sign = Some(Instant::now());
        }
    }

    /// A step that is reported when it ends. If it is dropped unfinished it says nothing more,
    /// since the failure that ended it is reported separately.
    pub fn step(&self, step: Step) -> RunningStep<'_> {
        let id = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let step = RunningStep { reporter: self, step: Step { id, ..step }, started: Instant::now() };
        self.event(&Event::StepStarted(step.step.clone()));
        step
    }

    pub fn note(&self, resource: &str, text: impl AsRef<str>) {
        self.event(&Event::Note { resource: resource.to_owned(), text: text.as_ref().to_owned() });
    }

    pub fn warn(&self, resource: &str, text: impl AsRef<str>) {
        self.event(&Event::Warning { resource: resource.to_owned(), text: text.as_ref().to_owned() });
    }

    pub fn waiting(&self, resource: &str, text: impl AsRef<str>) {
        self.event(&Event::Waiting { resource: resource.to_owned(), text: text.as_ref().to_owned() });
    }

    pub fn planned(&self, resource: &str, text: impl AsRef<str>) {
        self.event(&Event::Planned { resource: resource.to_owned(), text: text.as_ref().to_owned() });
    }

    /// What a long step is doing; shown on a terminal, or everywhere with `--verbose`.
    pub fn progress(&self, text: &str) {
        let text = &foreign::line(text);
        if self.verbose {
            self.data_to_stderr(text);
            return;
        }
        if self.quiet {
            return;
        }
        let mut inner = self.lock();
        if let Some(bar) = &inner.bar {
            bar.set_message(text.to_owned());
        } else if self.format == Format::Text && inner.last_sign.is_none_or(|last| last.elapsed() >= SIGN_OF_LIFE) {
            // The first one starts the interval.
            if inner.last_sign.replace(Instant::now()).is_some() {
                printer::words(&format!("   … {text}\n"));
            }
        }
    }

    /// A line that only `--verbose` prints and nothing records.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            self.data_to_stderr(&foreign::line(text));
        }
    }

    /// A warning about what follows the run: its record, which has ended, does not contain it.
    pub fn last_word(resource: &str, text: &str) {
        // Nothing is drawn any more.
        printer::words(&format!("⚠️  [{resource}] {}\n", foreign::line(text)));
    }

    /// The variables that tell a child process its parent span, here the run's; empty if no trace
    /// is exported. For children of a step, use [`RunningStep::trace_context`].
    pub fn trace_context(&self) -> Vec<(&'static str, String)> {
        self.trace_context_of(|trace| trace.span)
    }

    fn trace_context_of(&self, span: impl Fn(&Trace) -> SpanId) -> Vec<(&'static str, String)> {
        let Some(trace) = self.trace.get() else { return Vec::new() };
        // A child of a span that nobody exports would have no place in the trace.
        let parent = trace.parent.filter(|_| trace.unsent).unwrap_or_else(|| span(trace));
        let state = trace.state.clone().map(|state| ("TRACESTATE", state));
        [("TRACEPARENT", trace.traceparent(parent))].into_iter().chain(state).collect()
    }

    /// Where lines can be redrawn; only on a terminal.
    pub fn bars(&self) -> Option<MultiProgress> {
        if self.verbose { None } else { self.lock().bars.clone() }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The last lines of a failed run.
    pub fn failure(&self, failure: &Failure) {
        self.event(&Event::Failed(failure.clone()));
    }

    pub fn end(&self, exit: i32) {
        self.event(&Event::RunEnded { exit, took: self.started.elapsed() });
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

    /// Data that the command was asked for (tables, JSON), to standard output.
    pub fn data(&self, text: &str) {
        let inner = self.lock();
        let text = foreign::lines(text.trim_end());
        let print = || printer::data(&format!("{text}\n"));
        match &inner.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Prints a question, whose answer the caller reads; nothing is drawn over it.
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
        // GitHub's runner ignores leading spaces before its commands, but not this character.
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
        let Some(text) = text::line(event) else {
            if let (Event::StepStarted(step), Some(bar)) = (event, &inner.bar) {
                bar.set_message(format!("[{}] {}", step.resource, step.text));
                bar.enable_steady_tick(Duration::from_millis(120));
            }
            return;
        };
        if let Event::Preview(preview) = event {
            let text = text::previewed(preview, self.verbose);
            let text = if coloured() { text::coloured(&text) } else { text };
            let print = || printer::data(&format!("{text}\n"));
            return match &inner.bar {
                Some(bar) => bar.suspend(print),
                None => print(),
            };
        }
        // The runner recognises this command anywhere in a line.
        let text = if inner.github.is_some() { text.replace("##[", "##\u{200b}[") } else { text };
        let print = || printer::words(&format!("{text}\n"));
        match &inner.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

pub struct RunningStep<'a> {
    reporter: &'a Reporter,
    step: Step,
    started: Instant,
}

impl RunningStep<'_> {
    /// Like [`Reporter::trace_context`], for what this step starts.
    pub fn trace_context(&self) -> Vec<(&'static str, String)> {
        self.reporter.trace_context_of(|trace| trace.step(self.step.id))
    }

    /// For a step that is only known to be one once it has ended.
    #[must_use]
    pub fn since(self, started: Instant) -> Self {
        Self { started, ..self }
    }

    pub fn done(self) {
        self.finish(Outcome::Done);
    }

    /// Done, with text that is only known at the end of the step.
    pub fn done_as(mut self, text: impl Into<String>) {
        self.step.text = text.into();
        self.finish(Outcome::Done);
    }

    pub fn unchanged(mut self, text: impl Into<String>) {
        self.step.text = text.into();
        self.finish(Outcome::Unchanged);
    }

    pub fn failed(self) {
        self.finish(Outcome::Failed);
    }

    pub fn failed_as(mut self, text: impl Into<String>) {
        self.step.text = text.into();
        self.finish(Outcome::Failed);
    }

    fn finish(self, outcome: Outcome) {
        let took = self.started.elapsed();
        self.reporter.event(&Event::StepFinished { step: self.step, outcome, took });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use run_record::{Blocked, Code, StepKind};

    #[test]
    fn whatever_reads_the_run_gets_foreign_text_as_one_harmless_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("record.jsonl")).unwrap();
        let reporter = Reporter::new(Format::Json, false);
        reporter.record_to(path.clone()).unwrap();
        let text = "\u{1b}[31mfatal\n::add-mask::x https://me:s3cret@registry.example/v2/";
        let owned = || text.to_owned();
        let failure = Failure::usage(text).evidence(text).remedy(text);
        reporter.event(&Event::RunStarted { command: owned(), verb: owned(), env: "ci".to_owned(), trace: None });
        reporter.event(&Event::Failed(failure));
        reporter.note("pod", text);
        reporter.warn(text, text);
        reporter.waiting("pod", text);
        reporter.planned("pod", text);
        reporter.step(Step::new(StepKind::Check, text, text)).done_as(text);
        let (resource, message) = (owned(), owned());
        let (layer, release, since, prospect) = (None, None, None, None);
        let code = Code::Unknown;
        reporter.event(&Event::Blocked(Blocked { code, resource, layer, release, message, since, prospect }));
        let record = std::fs::read_to_string(path).unwrap();
        assert_eq!(record.lines().count(), 9, "an event is a line: {record}");
        for line in record.lines() {
            let read: serde_json::Value = serde_json::from_str(line).unwrap();
            let harmless = "fatal ::add-mask::x https://***@registry.example/v2/";
            assert!(read.to_string().contains(harmless), "{line}");
            assert!(!line.contains("s3cret") && !line.contains("u001b") && !line.contains("\\n"), "{line}");
        }
    }

    #[test]
    fn commands_reach_the_cluster_of_the_run_and_what_others_printed_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("record.jsonl")).unwrap();
        let reporter = Reporter::new(Format::Json, false);
        reporter.record_to(path.clone()).unwrap();
        reporter.tell_with(Flags { context: "--context b ".to_owned(), env: "--env ci ".to_owned() });
        let text = "`cargo xtask --env ci up`";
        reporter.note("pod", text);
        reporter.warn("pod", text);
        reporter.waiting("pod", text);
        reporter.planned("pod", text);
        reporter.step(Step::new(StepKind::Check, "pod", "x")).done_as(text);
        let failure = Failure::usage("x").evidence(text).remedy(text);
        reporter.failure(&failure.also(Failure::usage("y").remedy(text)));
        reporter.warn("pod", format!("the last line was {}", commands::quoted(text)));
        let record = std::fs::read_to_string(path).unwrap();
        let lines: Vec<(usize, usize)> = record
            .lines()
            .map(|line| [text, "`cargo xtask --context b --env ci up`"].map(|text| line.matches(text).count()).into())
            .filter(|counts| *counts != (0, 0))
            .collect();
        assert_eq!(lines, [(0, 1), (0, 1), (0, 1), (0, 1), (0, 1), (1, 2), (1, 0)], "{record}");
    }

    #[test]
    fn steps_of_a_run_are_numbered_and_end_as_they_began() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("record.jsonl")).unwrap();
        let reporter = Reporter::new(Format::Json, false);
        reporter.record_to(path.clone()).unwrap();
        let step = |resource: &str| Step::new(StepKind::HelmTest, resource, "helm test").of_layer("l");
        let (one, two) = (reporter.step(step("one")), reporter.step(step("two")));
        two.done();
        one.failed();
        let record = run_record::readers::json::read(&std::fs::read_to_string(path).unwrap());
        let steps: Vec<(u64, String)> = record
            .lines
            .into_iter()
            .map(|line| match line.event {
                Event::StepStarted(step) | Event::StepFinished { step, .. } => (step.id, step.resource),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(steps, [(1, "one"), (2, "two"), (2, "two"), (1, "one")].map(|(id, name)| (id, name.to_owned())));
    }
}
