//! A run's record as a report shows it: the rows of a timeline, each with its messages and
//! blockers, and how the run ended. Pure: text in, a [`Run`] out. The layout is up to the reports.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::preview::ReleasePreview;
use crate::readers::json::{self, Line};
use crate::readers::text::{in_place, syncing};
use crate::seconds::whole_seconds;
use crate::trace::Trace;
use crate::{
    Blocked, Code, Event, Failure, InPlace, Outcome, PodEvent, Prospect, ReleaseEvent, Step, StepKind, human_seconds,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Layer,
    Step,
    Release,
    Pod,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Done,
    Unchanged,
    Failed,
    /// Started, but the run ended before it did.
    CutShort,
}

/// A bar of the timeline.
#[derive(Clone, Debug)]
pub struct Row {
    pub kind: Kind,
    pub depth: usize,
    pub resource: String,
    pub label: String,
    /// Seconds since the run's start.
    pub start: f64,
    pub end: f64,
    /// For a pod: the second from which it was ready, if it ever was.
    pub ready: Option<f64>,
    pub mark: Mark,
    /// Messages during this row, each with its second.
    pub said: Vec<(f64, String)>,
    pub blocked: Vec<Blockage>,
    /// Its log file in the run's folder.
    pub log: Option<String>,
    pub(crate) step: StepKind,
    /// The step's number; 0 for rows that are no step, and in records without numbers.
    pub(crate) id: u64,
    pub(crate) layer: Option<String>,
    pub(crate) release: Option<String>,
}

/// A blocker of what a row shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Blockage {
    pub code: Code,
    pub resource: String,
    pub message: String,
    /// When it began, according to Kubernetes, or else when it was seen; in seconds of the run.
    pub since: f64,
    pub until: f64,
    pub prospect: Option<Prospect>,
    /// How often the layer was retried because of it.
    pub retries: usize,
    pub followed: Followed,
}

/// What followed a blocker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The release was deployed, or the layer is in place.
    Passed,
    /// The layer or the run failed because of it.
    EndedTheRun,
    /// The layer or the run failed for another reason.
    FailedOf(Code),
    /// The record ends before that is known.
    Unknown,
}

impl Blockage {
    /// What followed, in words.
    pub fn outcome(&self) -> String {
        let tries = match self.retries {
            0 => String::new(),
            1 => "tried again once; ".to_owned(),
            more => format!("tried again {more} times; "),
        };
        let then = match self.followed {
            Followed::Passed => format!("over after {}", human_seconds((self.until - self.since).max(0.0))),
            Followed::EndedTheRun => {
                format!("it ended the run after {}", human_seconds((self.until - self.since).max(0.0)))
            }
            Followed::FailedOf(code) => format!("the run failed with {code}"),
            Followed::Unknown => "what followed is not in the record".to_owned(),
        };
        tries + &then
    }
}

/// A run, as far as its record shows.
#[derive(Clone, Debug)]
pub struct Run {
    pub id: String,
    pub command: String,
    pub verb: String,
    pub env: String,
    pub started: Timestamp,
    pub seconds: f64,
    /// `None` if the record has no end: the run was killed, or is still going on.
    pub exit: Option<i32>,
    pub failure: Option<Failure>,
    pub rows: Vec<Row>,
    /// Messages while no row was active, each with its second.
    pub said: Vec<(f64, String)>,
    /// The trace it was part of, if it was exported to a collector.
    pub trace: Option<Trace>,
    /// What a dry run would do, in order.
    pub previews: Vec<ReleasePreview>,
    /// Events from a newer version of this tool.
    pub unknown: usize,
    /// Lines of the record that should be readable but are not.
    pub unreadable: usize,
}

impl Run {
    /// `up · ci`
    pub fn title(&self) -> String {
        let verb = if self.verb.is_empty() { "run" } else { &self.verb };
        if self.env.is_empty() { verb.to_owned() } else { format!("{verb} · {}", self.env) }
    }

    pub fn verdict(&self) -> String {
        let took = human_seconds(self.seconds);
        match (self.exit, &self.failure) {
            (Some(0), _) => format!("done in {took}"),
            (Some(exit), Some(failure)) => format!("{} (exit {exit}) after {took}", failure.code),
            (Some(exit), None) => format!("exit {exit} after {took}"),
            (None, _) => format!("cut short after {took}"),
        }
    }

    /// What of the record is not shown because it was not understood.
    pub fn left_out(&self) -> Option<String> {
        let count = |count: usize, one: &str, more: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            _ => Some(format!("{count} {more}")),
        };
        let unreadable = count(self.unreadable, "line that cannot be read", "lines that cannot be read");
        let unknown = count(self.unknown, "event of another version", "events of another version");
        let parts: Vec<String> = unreadable.into_iter().chain(unknown).collect();
        (!parts.is_empty()).then(|| format!("Left out of the record: {}.", parts.join(", ")))
    }
}

/// The deepest nesting that a page shows.
const DEEPEST: usize = 16;
/// How many steps still in progress are considered as the parent of another one, latest first.
const BESIDE: usize = 64;
/// Rounding can make the times of a step and its parent differ slightly.
const HAIR: f64 = 0.02;

/// Reads a record. `logs` are the names of the log files beside it.
///
/// `None` if not a single line of the record is understood.
pub fn read(id: &str, text: &str, logs: &[String]) -> Option<Run> {
    let record = json::read(text);
    let lines = &record.lines;
    let (first, last) = (lines.first()?, lines.last()?);
    let mut run = Run {
        id: id.to_owned(),
        command: String::new(),
        verb: String::new(),
        env: String::new(),
        started: first.time,
        seconds: 0.0,
        exit: None,
        failure: None,
        rows: Vec::new(),
        said: Vec::new(),
        trace: None,
        unknown: record.unknown,
        unreadable: record.unreadable,
        previews: record.lines.iter().filter_map(|line| preview_in(&line.event)).collect(),
    };
    for line in lines {
        match &line.event {
            Event::RunStarted { command, verb, env, trace } => {
                run.command.clone_from(command);
                run.verb.clone_from(verb);
                run.env.clone_from(env);
                run.trace.clone_from(trace);
            }
            Event::Failed(failure) => run.failure = Some(failure.clone()),
            Event::RunEnded { exit, took } => {
                run.exit = Some(*exit);
                // The record begins a moment after the process did.
                let took = jiff::SignedDuration::try_from(*took).unwrap_or_default();
                run.started = line.time.checked_sub(took).unwrap_or(line.time).min(run.started);
            }
            _ => {}
        }
    }
    run.seconds = since(run.started, last.time).max(0.001);
    let mut rows = nested(bars(lines, &run, logs));
    run.said = tell(&mut rows, lines, &run);
    run.rows = with_releases(rows, lines, &run);
    block(lines, &mut run);
    Some(run)
}

fn since(start: Timestamp, time: Timestamp) -> f64 {
    time.duration_since(start).as_secs_f64()
}

/// Layers and steps with their times, in no order.
fn bars(lines: &[Line], run: &Run, logs: &[String]) -> Vec<Row> {
    /// How far the start computed from an end event may be from the recorded one, where steps are
    /// not numbered.
    const SAME: f64 = 0.05;
    let at = |time: Timestamp| since(run.started, time);
    let mut rows: Vec<Row> = Vec::new();
    let mut steps: Vec<(f64, &Step)> = Vec::new();
    let mut layers: Vec<(f64, &str)> = Vec::new();
    for line in lines {
        let now = at(line.time);
        match &line.event {
            Event::StepStarted(step) => steps.push((now, step)),
            Event::StepFinished { step, outcome, took } => {
                let start = now - took.as_secs_f64();
                steps.retain(|(began, other)| match (step.id, other.id) {
                    (0, _) | (_, 0) => other.resource != step.resource || (began - start).abs() >= SAME,
                    (one, another) => one != another,
                });
                let mark = match outcome {
                    Outcome::Done => Mark::Done,
                    Outcome::Unchanged => Mark::Unchanged,
                    Outcome::Failed => Mark::Failed,
                };
                rows.push(step_row(step, start.max(0.0), now, mark, logs));
            }
            Event::LayerStarted { layer } => layers.push((now, layer)),
            Event::LayerInPlace { layer, releases, how, took } => {
                layers.retain(|(_, open)| open != layer);
                let mark = if *how == InPlace::Synced { Mark::Done } else { Mark::Unchanged };
                rows.push(layer_row(layer, in_place(*releases, *how), now - took.as_secs_f64(), now, mark));
            }
            Event::LayerFailed { layer, code, took } => {
                layers.retain(|(_, open)| open != layer);
                let mark = if *code == Code::Interrupted { Mark::CutShort } else { Mark::Failed };
                rows.push(layer_row(layer, code.to_string(), now - took.as_secs_f64(), now, mark));
                // A step that failed writes no end event.
                for (start, step) in steps.extract_if(.., |(_, step)| step.layer.as_ref() == Some(layer)) {
                    rows.push(step_row(step, start, now, mark, logs));
                }
            }
            Event::LayerSkipped { layer, .. } => layers.retain(|(_, open)| open != layer),
            _ => {}
        }
    }
    let end = run.seconds;
    rows.extend(steps.into_iter().map(|(start, step)| step_row(step, start, end, Mark::CutShort, logs)));
    rows.extend(layers.into_iter().map(|(start, layer)| layer_row(layer, String::new(), start, end, Mark::CutShort)));
    rows
}

fn step_row(step: &Step, start: f64, end: f64, mark: Mark, logs: &[String]) -> Row {
    Row {
        kind: Kind::Step,
        depth: 0,
        resource: step.resource.clone(),
        label: step.text.clone(),
        start,
        end: end.max(start),
        ready: None,
        mark,
        said: Vec::new(),
        blocked: Vec::new(),
        // Whatever the record says, only one of the run's own logs.
        log: step.log.clone().filter(|log| logs.contains(log)),
        step: step.kind,
        id: step.id,
        layer: step.layer.clone(),
        release: step.release.clone(),
    }
}

fn layer_row(layer: &str, label: String, start: f64, end: f64, mark: Mark) -> Row {
    let step = Step::new(StepKind::Other, layer, label).of_layer(layer);
    Row { kind: Kind::Layer, ..step_row(&step, start.max(0.0), end, mark, &[]) }
}

/// Sorted by their start, each below its parent: a layer's steps below the layer, any other step
/// below the one that contains it in time.
fn nested(mut rows: Vec<Row>) -> Vec<Row> {
    let layers_first = |row: &Row| row.kind != Kind::Layer;
    rows.sort_by(|a, b| {
        let by_time = a.start.total_cmp(&b.start).then(b.end.total_cmp(&a.end));
        // The first step of a layer may appear to start before it.
        if a.layer.is_some() && a.layer == b.layer && (a.start - b.start).abs() < HAIR {
            return layers_first(a).cmp(&layers_first(b)).then(by_time);
        }
        by_time
    });
    let mut parents: Vec<Option<usize>> = Vec::with_capacity(rows.len());
    let mut containers: Vec<usize> = Vec::new();
    let mut layers: BTreeMap<String, usize> = BTreeMap::new();
    for index in 0..rows.len() {
        let row = &rows[index];
        let contains = |outer: &Row| row.start < outer.end - HAIR && row.end <= outer.end + HAIR;
        while containers.last().is_some_and(|outer| rows[*outer].end <= row.start + HAIR) {
            containers.pop();
        }
        let of_layer = row.layer.as_ref().filter(|_| row.kind != Kind::Layer).and_then(|layer| layers.get(layer));
        let by_time = || containers.iter().rev().take(BESIDE).find(|outer| contains(&rows[**outer])).copied();
        let parent = match (of_layer, row.kind) {
            (Some(layer), _) if row.start <= rows[*layer].end + HAIR => Some(*layer),
            (_, Kind::Layer) => None,
            _ => by_time(),
        };
        // Beyond this depth it is shown beside its parent, not below it.
        let parent =
            parent.and_then(|outer| if rows[outer].depth + 1 >= DEEPEST { parents[outer] } else { Some(outer) });
        rows[index].depth = parent.map_or(0, |outer| rows[outer].depth + 1);
        parents.push(parent);
        if rows[index].kind == Kind::Layer {
            layers.insert(rows[index].resource.clone(), index);
        }
        if !rows[index].step.is_leaf() {
            containers.push(index);
        }
    }
    // Parallel steps are kept apart by their parent.
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); rows.len()];
    let mut next: Vec<usize> = Vec::new();
    for (index, parent) in parents.iter().enumerate() {
        match parent {
            Some(outer) => children[*outer].push(index),
            None => next.push(index),
        }
    }
    next.reverse();
    let mut order = Vec::with_capacity(rows.len());
    while let Some(index) = next.pop() {
        order.push(index);
        next.extend(children[index].iter().rev());
    }
    let mut rows: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
    order.into_iter().filter_map(|index| rows[index].take()).collect()
}

/// Assigns each message to the row that was innermost at the time, or to the innermost row of that
/// name; returns messages from when no row was active.
fn tell(rows: &mut [Row], lines: &[Line], run: &Run) -> Vec<(f64, String)> {
    let mut outside = Vec::new();
    for line in lines {
        let Some((resource, text)) = said(&line.event) else { continue };
        let time = since(run.started, line.time);
        let then = rows.iter_mut().filter(|row| row.start - HAIR <= time && time <= row.end + HAIR);
        match then.max_by_key(|row| (row.resource == resource, row.depth)) {
            Some(row) => row.said.push((time, text)),
            None => outside.push((time, text)),
        }
    }
    outside
}

fn preview_in(event: &Event) -> Option<ReleasePreview> {
    match event {
        Event::Preview(preview) => Some(preview.clone()),
        _ => None,
    }
}

fn said(event: &Event) -> Option<(&str, String)> {
    match event {
        Event::Note { resource, text } => Some((resource, format!("[{resource}] {text}"))),
        Event::ReleaseSyncing { release, why, forced, .. } => {
            Some((release, format!("[{release}] {}", syncing(why, *forced))))
        }
        Event::Warning { resource, text } => Some((resource, format!("⚠ [{resource}] {text}"))),
        Event::Waiting { resource, text } => Some((resource, format!("⏳ [{resource}] {text}"))),
        Event::Retry { code, layer, attempt, budget, wait } => {
            let text = format!("↻ {code}: try {attempt} of {budget} in {} s", wait.as_secs());
            Some((layer.as_deref().unwrap_or_default(), text))
        }
        _ => None,
    }
}

/// Adds the releases of a layer below its sync, each with its pods; the pods of tests go below the
/// test.
fn with_releases(steps: Vec<Row>, lines: &[Line], run: &Run) -> Vec<Row> {
    let at = |time: Timestamp| since(run.started, time).max(0.0);
    let mut releases: Vec<&ReleaseEvent> = Vec::new();
    let mut pods: Vec<&PodEvent> = Vec::new();
    // Layer, release, namespace, time and duration.
    let mut deployed: Vec<(&str, &str, &str, f64, f64)> = Vec::new();
    for line in lines {
        match &line.event {
            Event::Release(release) => releases.push(release),
            Event::Pod(pod) => pods.push(pod),
            Event::ReleaseDeployed { layer, release, namespace, took } => {
                deployed.push((layer, release, namespace, at(line.time), took.as_secs_f64()));
            }
            _ => {}
        }
    }
    releases.sort_by_key(|release| (release.started, release.name.clone(), release.revision.clone()));
    pods.sort_by_key(|pod| pod.created);
    // A rollback creates a new revision: a pod belongs to the last one before it was created.
    let mut revisions: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (index, release) in releases.iter().enumerate() {
        revisions.entry((&release.name, &release.namespace)).or_default().push(index);
    }
    let mut pods_of: Vec<Vec<&PodEvent>> = vec![Vec::new(); releases.len()];
    for pod in pods.iter().filter(|pod| !pod.test) {
        let theirs = revisions.get(&(pod.release.as_str(), pod.namespace.as_str())).map_or(&[][..], Vec::as_slice);
        let before = theirs.partition_point(|index| releases[*index].started <= pod.created);
        if let Some(last) = before.checked_sub(1) {
            pods_of[theirs[last]].push(pod);
        }
    }
    // Each appears once, though steps may overlap by the difference between the clocks.
    let mut waiting: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, release) in releases.iter().enumerate() {
        waiting.entry(&release.layer).or_default().push(index);
    }
    let mut tests: Vec<&PodEvent> = pods.iter().copied().filter(|pod| pod.test).collect();
    let mut rows = Vec::new();
    for step in steps {
        // The cluster's times are in whole seconds.
        let within = |time: Timestamp| at(time) >= step.start - 1.0 && at(time) < step.end;
        let (depth, end) = (step.depth + 1, step.end);
        let layer = step.layer.clone().unwrap_or_default();
        let mut own: Vec<Row> = Vec::new();
        match step.step {
            StepKind::HelmfileSync => {
                let its: Vec<usize> = waiting
                    .get_mut(layer.as_str())
                    .map(|theirs| theirs.extract_if(.., |index| within(releases[*index].started)).collect())
                    .unwrap_or_default();
                for index in its {
                    let release = releases[index];
                    let start = at(release.started).max(step.start);
                    let took = deployed.iter().find(|(layer, name, namespace, time, _)| {
                        *layer == release.layer
                            && *name == release.name
                            && *namespace == release.namespace
                            && (time - end).abs() < 2.0
                    });
                    own.push(Row {
                        kind: Kind::Release,
                        depth,
                        resource: release.name.clone(),
                        label: format!("revision {}, {}", release.revision, release.status),
                        start,
                        end: took.map_or(end, |(.., seconds)| start + seconds).min(end).max(start),
                        mark: if release.status == "deployed" { Mark::Done } else { Mark::Failed },
                        release: Some(release.name.clone()),
                        ..bare(&step)
                    });
                    let theirs = pods_of[index].iter().filter(|pod| within(pod.created));
                    own.extend(theirs.map(|pod| pod_row(pod, depth + 1, end, &at, &step)));
                }
            }
            StepKind::HelmTest => {
                let is_its = |pod: &PodEvent| {
                    pod.layer == layer && Some(&pod.release) == step.release.as_ref() && within(pod.created)
                };
                let (its, others): (Vec<_>, Vec<_>) = tests.into_iter().partition(|pod| is_its(pod));
                tests = others;
                own.extend(its.into_iter().map(|pod| pod_row(pod, depth, end, &at, &step)));
            }
            _ => {}
        }
        rows.push(step);
        rows.extend(own);
    }
    rows
}

/// A row of the same layer and release, without any content yet.
fn bare(step: &Row) -> Row {
    Row { said: Vec::new(), blocked: Vec::new(), log: None, ready: None, id: 0, ..step.clone() }
}

/// Assigns each blocker to the row that it blocked: the release, else the layer's step, else the
/// layer. A blocker without a layer goes to whatever was going on.
fn block(lines: &[Line], run: &mut Run) {
    let at = |time: Timestamp| since(run.started, time);
    let mut seen: Vec<(f64, Blocked)> = Vec::new();
    let known = |seen: &[(f64, Blocked)], code: Code| seen.iter().any(|(_, blocked)| blocked.code == code);
    for line in lines {
        let (code, layer) = match &line.event {
            Event::Blocked(blocked) => {
                seen.push((at(line.time), blocked.clone()));
                continue;
            }
            Event::LayerFailed { layer, code, .. } => (*code, Some(layer)),
            Event::Failed(failure) => (failure.code, None),
            _ => continue,
        };
        // Its cause was known only at the end: it goes to the step that failed.
        let failed = |row: &&Row| {
            let of_layer = layer.is_none() || row.layer.as_ref() == layer;
            row.kind == Kind::Step && of_layer && matches!(row.mark, Mark::Failed | Mark::CutShort)
        };
        let Some(step) = run.rows.iter().rfind(failed) else { continue };
        if code == Code::Interrupted || known(&seen, code) {
            continue;
        }
        let failure = run.failure.as_ref().filter(|failure| failure.code == code);
        let blocked = Blocked {
            code,
            resource: step.resource.clone(),
            layer: layer.cloned(),
            release: failure.and_then(|failure| failure.release().map(str::to_owned)),
            message: failure.map(|failure| failure.message.clone()).unwrap_or_default(),
            since: None,
            prospect: None,
        };
        seen.push((step.end, blocked));
    }
    for (time, blocked) in seen {
        let rank = |row: &Row| {
            let of_layer = blocked.layer.is_some() && row.layer == blocked.layer;
            let of_release = blocked.release.is_some() && row.release == blocked.release;
            let (rank, slack) = match row.kind {
                // Helmfile reports its end in whole seconds; anything later belongs to the next
                // one.
                Kind::Release if of_layer && of_release => (4, 1.0),
                Kind::Step if of_layer && of_release => (3, HAIR),
                Kind::Step if of_layer => (2, HAIR),
                Kind::Layer if of_layer => (1, HAIR),
                Kind::Step | Kind::Layer => (0, HAIR),
                _ => return None,
            };
            (row.start - HAIR <= time && time <= row.end + slack).then_some(rank)
        };
        let blockage = blockage(lines, run, time, &blocked);
        let rows = run.rows.iter_mut().filter_map(|row| Some((rank(row)?, row)));
        // Of rows that fit equally well, the innermost comes last.
        if let Some((_, row)) = rows.max_by_key(|(rank, _)| *rank) {
            row.blocked.push(blockage);
        }
    }
}

/// A blocker, with what the rest of the record says about how it went on.
fn blockage(lines: &[Line], run: &Run, seen: f64, blocked: &Blocked) -> Blockage {
    let at = |time: Timestamp| since(run.started, time);
    let ours = |layer: &str| blocked.layer.as_deref().is_none_or(|known| known == layer);
    let failed = |code: Code| if code == blocked.code { Followed::EndedTheRun } else { Followed::FailedOf(code) };
    let (mut retries, mut followed, mut until) = (0, Followed::Unknown, run.seconds);
    for line in lines.iter().filter(|line| at(line.time) >= seen) {
        followed = match &line.event {
            Event::Retry { code, layer, .. } => {
                retries += usize::from(*code == blocked.code && layer.as_deref().is_none_or(ours));
                continue;
            }
            Event::ReleaseDeployed { layer, release, .. }
                if ours(layer) && Some(release) == blocked.release.as_ref() =>
            {
                Followed::Passed
            }
            Event::LayerInPlace { layer, .. } if ours(layer) => Followed::Passed,
            Event::LayerFailed { layer, code, .. } if ours(layer) => failed(*code),
            Event::Failed(failure) => failed(failure.code),
            Event::RunEnded { exit: 0, .. } => Followed::Passed,
            _ => continue,
        };
        until = at(line.time);
        break;
    }
    Blockage {
        code: blocked.code,
        resource: blocked.resource.clone(),
        message: blocked.message.clone(),
        since: blocked.since.map_or(seen, at).clamp(0.0, seen),
        until,
        prospect: blocked.prospect,
        retries,
        followed,
    }
}

fn pod_row(pod: &PodEvent, depth: usize, end: f64, at: &impl Fn(Timestamp) -> f64, step: &Row) -> Row {
    let start = at(pod.created);
    let ready = pod.ready.map(at);
    let over = pod.ended.map(at);
    let mark = match (pod.phase.as_str(), &pod.waiting) {
        ("Failed", _) | ("Pending", Some(_)) => Mark::Failed,
        ("Succeeded", _) => Mark::Done,
        _ if ready.is_some() => Mark::Done,
        _ => Mark::Failed,
    };
    let words = match (mark, ready, over) {
        (Mark::Done, _, Some(over)) => format!("done in {}", whole_seconds(over - start)),
        (Mark::Done, Some(ready), _) => format!("ready in {}", whole_seconds(ready - start)),
        _ => format!("{}, not ready", pod.phase.to_lowercase()),
    };
    let mut said = vec![(start, format!("created in {}", pod.namespace))];
    said.extend(pod.scheduled.map(|time| (at(time), "scheduled".to_owned())));
    said.extend(ready.map(|time| (time, "ready".to_owned())));
    said.extend(over.map(|time| (time, pod.phase.to_lowercase())));
    said.extend(pod.waiting.iter().map(|waiting| (end, waiting.clone())));
    if pod.restarts > 0 {
        said.push((end, format!("{} restarts", pod.restarts)));
    }
    Row {
        kind: Kind::Pod,
        depth,
        resource: pod.name.clone(),
        label: words,
        start,
        end: over.or(ready).unwrap_or(end).clamp(start, end.max(start)),
        ready,
        mark,
        said,
        release: Some(pod.release.clone()),
        ..bare(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::json::{FIRST_LINES, LAST_LINES};

    fn line(second: usize, rest: &str) -> String {
        format!("{{\"time\":\"2026-11-24T03:{:02}:{:02}Z\",{rest}}}\n", second / 60 % 60, second % 60)
    }

    /// A thousand steps, each nested in the previous one, that all seem to deploy the same
    /// releases.
    #[test]
    fn a_record_out_of_all_bounds_makes_no_page_out_of_all_bounds() {
        let mut text = String::new();
        for n in 0..1000 {
            text += &line(
                n,
                r#""event":"release","layer":"l","name":"r","namespace":"n","revision":"1","status":"deployed","started":"2026-11-24T03:10:00Z""#,
            );
            for (kind, at) in [("helmfile-sync", 1800), ("lab", 1800)] {
                let seconds = 1800 + 2 * n;
                text += &line(
                    at + n,
                    &format!(
                        r#""event":"finished","kind":"{kind}","layer":"l","resource":"l","step":"x","outcome":"done","seconds":{seconds}"#
                    ),
                );
            }
        }
        let run = read("r", &text, &[]).unwrap();
        assert_eq!(run.rows.len(), 3000);
        assert!(run.rows.iter().all(|row| row.depth <= DEEPEST + 2));
        let endless = text.repeat(20);
        assert!(read("r", &endless, &[]).unwrap().rows.len() <= FIRST_LINES + LAST_LINES);
    }

    const GOOD: &str = include_str!("../../tests/runs/good/record.jsonl");
    const FAILED: &str = include_str!("../../tests/runs/failed/record.jsonl");

    #[track_caller]
    fn row<'a>(run: &'a Run, resource: &str, label: &str) -> &'a Row {
        let found = run.rows.iter().find(|row| row.resource == resource && row.label.contains(label));
        found.unwrap_or_else(|| panic!("no row {resource} {label}: {:#?}", run.rows))
    }

    #[test]
    fn a_good_run_has_its_layers_releases_and_pods_in_order() {
        let logs = ["45-data-plane-ext.log".to_owned(), "45-data-plane-ext-test-minio.log".to_owned()];
        let run = read("r", GOOD, &logs).unwrap();
        assert_eq!((run.exit, &run.failure, run.title().as_str()), (Some(0), &None, "up · ci"));
        assert_eq!((run.unknown, run.unreadable, run.left_out()), (0, 0, None));
        let layer = row(&run, "45-data-plane-ext", "in place");
        let sync = row(&run, "45-data-plane-ext", "helmfile sync");
        assert_eq!((layer.kind, layer.depth, sync.depth), (Kind::Layer, 0, 1));
        assert!(layer.start <= sync.start && sync.end <= layer.end + 0.1);
        assert_eq!(sync.log.as_deref(), Some("45-data-plane-ext.log"));
        assert_eq!(row(&run, "minio", "helm test").log.as_deref(), Some("45-data-plane-ext-test-minio.log"));
        assert_eq!(row(&run, "temporal", "helm test").log, None, "a log that is not there");
        let release = row(&run, "temporal", "revision");
        assert_eq!((release.kind, release.depth, release.mark), (Kind::Release, 2, Mark::Done));
        let pods: Vec<&Row> = run.rows.iter().filter(|row| row.kind == Kind::Pod).collect();
        assert!(pods.iter().any(|pod| pod.resource.starts_with("temporal-") && pod.depth == 3), "{pods:#?}");
        assert!(pods.iter().any(|pod| pod.resource == "minio-test" && pod.depth == 2), "{pods:#?}");
        assert!(run.rows.iter().all(|row| row.start >= 0.0 && row.end <= run.seconds + 1.0), "{:#?}", run.rows);
        let told = GOOD.lines().filter(|line| line.contains("\"event\":\"pod\"")).count();
        assert_eq!(pods.len(), told, "each pod once: {pods:#?}");
    }

    #[test]
    fn a_failed_run_has_its_blocker_on_what_it_stood_in_the_way_of() {
        let run = read("r", FAILED, &[]).unwrap();
        let failure = run.failure.as_ref().unwrap();
        assert_eq!((run.exit, failure.code), (Some(5), Code::ImageNotFound));
        let release = run.rows.iter().find(|row| row.kind == Kind::Release && row.resource == "minio").unwrap();
        let [blocked] = release.blocked.as_slice() else { panic!("{release:#?}") };
        assert_eq!((blocked.code, blocked.followed), (Code::ImageNotFound, Followed::EndedTheRun));
        assert!(release.start - 1.0 <= blocked.since && blocked.since <= blocked.until, "{blocked:#?}");
        assert_eq!(run.rows.iter().map(|row| row.blocked.len()).sum::<usize>(), 1, "{:#?}", run.rows);
        assert_eq!(row(&run, "45-data-plane-ext", "image-not-found").mark, Mark::Failed);
    }

    const BLOCKED: &str = r#""event":"blocker","code":"registry-rate-limited","resource":"pod/x-1","layer":"l","release":"x","message":"429""#;

    /// A layer `l` whose sync begins at second 1 and meets a blocker at 5; `rest` follows it.
    fn blocked_run(rest: &[(usize, &str)]) -> Run {
        let mut text = line(0, r#""event":"run","command":"c","verb":"layer","env":"ci""#)
            + &line(1, r#""event":"layer-started","layer":"l""#)
            + &line(1, r#""event":"started","id":1,"kind":"helmfile-sync","layer":"l","resource":"l","step":"sync""#)
            + &line(5, BLOCKED);
        rest.iter().for_each(|(second, event)| text += &line(*second, event));
        read("r", &text, &[]).unwrap()
    }

    const SYNCED: (usize, &str) = (
        20,
        r#""event":"finished","id":1,"kind":"helmfile-sync","layer":"l","resource":"l","step":"sync","outcome":"done","seconds":19"#,
    );

    #[test]
    fn what_followed_a_blocker_is_told() {
        let retry = (
            6,
            r#""event":"retry","code":"registry-rate-limited","layer":"l","attempt":1,"budget":3,"wait_seconds":9"#,
        );
        let in_place = (21, r#""event":"layer-in-place","layer":"l","releases":1,"seconds":20"#);
        let failed = |code| format!(r#""event":"layer-failed","layer":"l","code":"{code}","seconds":20"#);
        let (same, other) = (failed("registry-rate-limited"), failed("crash-loop"));
        let elsewhere = (19, r#""event":"layer-failed","layer":"other","code":"crash-loop","seconds":9"#);
        for (rest, followed, until, words) in [
            (vec![retry, SYNCED, in_place], Followed::Passed, 21.0, "tried again once; over after 16.0s"),
            (vec![elsewhere, SYNCED, in_place], Followed::Passed, 21.0, "over after 16.0s"),
            (
                vec![retry, retry, (21, &same)],
                Followed::EndedTheRun,
                21.0,
                "tried again 2 times; it ended the run after 16.0s",
            ),
            (vec![(21, &other)], Followed::FailedOf(Code::CrashLoop), 21.0, "the run failed with crash-loop"),
            (vec![], Followed::Unknown, 5.0, "what followed is not in the record"),
        ] {
            let run = blocked_run(&rest);
            let found: Vec<&Row> =
                run.rows.iter().filter(|row| row.blocked.iter().any(|b| b.message == "429")).collect();
            let [sync] = found.as_slice() else { panic!("{:#?}", run.rows) };
            assert_eq!((sync.resource.as_str(), sync.label.as_str()), ("l", "sync"));
            let blocked = &sync.blocked[0];
            assert_eq!((blocked.followed, blocked.since, blocked.until), (followed, 5.0, until), "{rest:?}");
            assert_eq!(blocked.outcome(), words);
        }
    }

    #[test]
    fn a_cause_that_was_known_only_at_the_end_is_shown_where_it_failed() {
        let text = line(0, r#""event":"started","id":1,"kind":"cluster","resource":"c","step":"creating the cluster""#)
            + &line(9, r#""event":"failure","code":"port-taken","exit":"not-ready","message":"port 80""#)
            + &line(9, r#""event":"end","exit":8,"seconds":9"#);
        let run = read("r", &text, &[]).unwrap();
        let cluster = row(&run, "c", "creating");
        assert_eq!((cluster.mark, cluster.blocked[0].code), (Mark::CutShort, Code::PortTaken));
        assert_eq!(cluster.blocked[0].followed, Followed::EndedTheRun);
    }

    #[test]
    fn tests_that_run_beside_each_other_stand_beside_each_other() {
        let step = |event: &str, id: usize, rest: &str| {
            format!(
                r#""event":"{event}","id":{id},"kind":"helm-test","layer":"l","release":"r{id}","resource":"r{id}","step":"helm test"{rest}"#
            )
        };
        let text = line(0, r#""event":"layer-started","layer":"l""#)
            + &line(1, &step("started", 1, ""))
            + &line(1, &step("started", 2, ""))
            + &line(2, r#""event":"note","resource":"r1","text":"one""#)
            + &line(3, &step("finished", 2, r#","outcome":"done","seconds":2"#))
            + &line(9, &step("finished", 1, r#","outcome":"done","seconds":8"#))
            + &line(9, r#""event":"layer-in-place","layer":"l","releases":2,"seconds":9"#);
        let run = read("r", &text, &[]).unwrap();
        let depths: Vec<(&str, usize)> = run.rows.iter().map(|row| (row.resource.as_str(), row.depth)).collect();
        assert_eq!(depths, [("l", 0), ("r1", 1), ("r2", 1)]);
        assert_eq!(row(&run, "r1", "").said.len(), 1);
    }

    #[test]
    fn a_killed_run_has_no_exit_and_its_last_step_reaches_the_end() {
        let run = blocked_run(&[]);
        assert_eq!((run.exit, run.verdict().as_str()), (None, "cut short after 5.0s"));
        let sync = row(&run, "l", "sync");
        assert_eq!((sync.mark, sync.end, sync.depth), (Mark::CutShort, 5.0, 1));
        assert!(read("r", "", &[]).is_none() && read("r", "not json\n", &[]).is_none());
    }

    #[test]
    fn what_was_not_understood_is_told() {
        let text = line(0, r#""event":"note","resource":"r","text":"t""#) + &line(1, r#""event":"new""#) + "x\ny\n";
        let told = "Left out of the record: 2 lines that cannot be read, 1 event of another version.";
        assert_eq!(read("r", &text, &[]).unwrap().left_out().as_deref(), Some(told));
    }

    /// As version 0.1 wrote it: no numbers, kinds, layers or logs.
    #[test]
    fn a_record_of_an_earlier_version_has_its_steps_and_its_end() {
        let text = line(0, r#""event":"run","command":"cargo xtask up","env":"ci""#)
            + &line(1, r#""event":"started","resource":"40-x","step":"preflight""#)
            + &line(2, r#""event":"finished","resource":"40-x","step":"preflight","outcome":"done","seconds":1"#)
            + &line(
                5,
                r#""event":"finished","resource":"40-x","step":"in place: 1 releases","outcome":"done","seconds":4"#,
            )
            + &line(6, r#""event":"failure","code":"crash-loop","exit":"not-ready","message":"m","evidence":[]"#)
            + &line(6, r#""event":"end","exit":8,"seconds":6"#);
        let run = read("r", &text, &[]).unwrap();
        assert_eq!((run.unknown, run.unreadable, run.verdict().as_str()), (0, 0, "crash-loop (exit 8) after 6.0s"));
        let rows: Vec<(&str, usize, Mark)> =
            run.rows.iter().map(|row| (row.label.as_str(), row.depth, row.mark)).collect();
        assert_eq!(rows, [("in place: 1 releases", 0, Mark::Done), ("preflight", 1, Mark::Done)]);
    }
}
