//! A run's record, read back into what a report shows: rows of a timeline, and
//! how the run ended. Pure: text in, a [`Run`] out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use crate::run::reporter::{Outcome, PodEvent, ReleaseEvent, human_seconds};

/// A line of `record.jsonl`. What is not known here (a record of another version
/// of this tool) is passed over.
#[derive(Debug, Deserialize)]
struct Line {
    time: Timestamp,
    #[serde(flatten)]
    event: Event,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    Run {
        command: String,
        env: String,
    },
    Started {
        resource: String,
        step: String,
    },
    Finished {
        resource: String,
        step: String,
        outcome: Outcome,
        seconds: f64,
    },
    Note {
        resource: String,
        text: String,
    },
    Warning {
        resource: String,
        text: String,
    },
    Waiting {
        resource: String,
        text: String,
    },
    Retry {
        reason: String,
        attempt: u32,
        budget: u32,
        wait_seconds: u64,
    },
    Release(ReleaseEvent),
    Pod(PodEvent),
    Failure(Blocker),
    End {
        exit: i32,
        seconds: f64,
    },
    #[serde(other)]
    Other,
}

/// The failure that ended the run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Blocker {
    pub code: String,
    pub message: String,
    #[serde(default)]
    pub evidence: Vec<String>,
    pub remedy: Option<String>,
    pub log: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Step,
    Release,
    Pod,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Done,
    Unchanged,
    Failed,
    /// Begun, and the run ended before it did.
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
    /// Of a pod: the second from which it was ready, if it ever was.
    pub ready: Option<f64>,
    pub mark: Mark,
    /// What was said meanwhile, with the second at which it was.
    pub said: Vec<(f64, String)>,
    /// The log file of the run's folder that belongs to it.
    pub log: Option<String>,
}

/// A run, as far as its record tells.
#[derive(Clone, Debug)]
pub struct Run {
    pub id: String,
    pub command: String,
    pub env: String,
    pub started: Timestamp,
    pub seconds: f64,
    /// None when the record has no end: the run was killed, or goes on.
    pub exit: Option<i32>,
    pub blocker: Option<Blocker>,
    pub rows: Vec<Row>,
}

/// Lines that a run writes are hundreds. Of a record with more than these, the middle is
/// left out: its beginning says what the run was, its end what became of it.
const FIRST_LINES: usize = 15_000;
const LAST_LINES: usize = 5_000;
/// Steps within steps that a page shows as such.
const DEEPEST: usize = 16;

/// Reads a record. `logs` are the names of the log files beside it.
///
/// None for a record without a single line that is understood.
pub fn read(id: &str, text: &str, logs: &[String]) -> Option<Run> {
    // The last line of a killed run may be cut.
    let all: Vec<&str> = text.lines().collect();
    let (first, rest) = all.split_at(all.len().min(FIRST_LINES));
    let last = &rest[rest.len().saturating_sub(LAST_LINES)..];
    let lines: Vec<Line> = first.iter().chain(last).filter_map(|line| serde_json::from_str(line).ok()).collect();
    let (first, last) = (lines.first()?, lines.last()?);
    let mut run = Run {
        id: id.to_owned(),
        command: String::new(),
        env: String::new(),
        started: first.time,
        seconds: 0.0,
        exit: None,
        blocker: None,
        rows: Vec::new(),
    };
    for line in &lines {
        match &line.event {
            Event::Run { command, env } => {
                run.command.clone_from(command);
                run.env.clone_from(env);
            }
            Event::Failure(blocker) => run.blocker = Some(blocker.clone()),
            Event::End { exit, seconds } => {
                run.exit = Some(*exit);
                // The record begins a moment after the process did.
                run.started = earlier(line.time, *seconds).min(run.started);
            }
            _ => {}
        }
    }
    run.seconds = since(run.started, last.time).max(0.001);
    let steps = steps(&lines, &run, logs);
    run.rows = with_releases(steps, &lines, &run);
    Some(run)
}

/// How `layer.rs` tells a release's duration.
const DEPLOYED: &str = "deployed in ";

fn since(start: Timestamp, time: Timestamp) -> f64 {
    time.duration_since(start).as_secs_f64()
}

fn earlier(time: Timestamp, seconds: f64) -> Timestamp {
    let span = jiff::SignedDuration::try_from_secs_f64(seconds).unwrap_or_default();
    time.checked_sub(span).unwrap_or(time)
}

/// The steps in order of their beginning, each with what was said while it was the
/// innermost one, nested by time: steps follow each other or contain each other.
fn steps(lines: &[Line], run: &Run, logs: &[String]) -> Vec<Row> {
    /// How far the beginning that an end tells may be from the one that was told.
    const SAME: f64 = 0.05;
    let at = |time: Timestamp| since(run.started, time);
    let mut rows: Vec<Row> = Vec::new();
    let mut open: Vec<(f64, &str, &str)> = Vec::new();
    for line in lines {
        match &line.event {
            Event::Started { resource, step } => open.push((at(line.time), resource, step)),
            Event::Finished { resource, step, outcome, seconds } => {
                let (end, start) = (at(line.time), at(line.time) - seconds);
                open.retain(|(began, other, _)| !(other == resource && (began - start).abs() < SAME));
                let mark = match outcome {
                    Outcome::Done => Mark::Done,
                    Outcome::Unchanged => Mark::Unchanged,
                    Outcome::Failed => Mark::Failed,
                };
                rows.push(row(resource, step, start.max(0.0), end, mark, logs));
            }
            _ => {}
        }
    }
    rows.extend(
        open.into_iter().map(|(start, resource, step)| row(resource, step, start, run.seconds, Mark::CutShort, logs)),
    );
    rows.sort_by(|a, b| a.start.total_cmp(&b.start).then(b.end.total_cmp(&a.end)));
    // Rounded times of a step and the one that it is in may differ by a hair.
    const HAIR: f64 = 0.02;
    let mut ends: Vec<f64> = Vec::new();
    for row in &mut rows {
        while ends.last().is_some_and(|end| row.start >= end - HAIR || row.end > end + HAIR) {
            ends.pop();
        }
        row.depth = ends.len().min(DEEPEST);
        ends.push(row.end);
    }
    for line in lines {
        let Some(text) = said(&line.event) else { continue };
        let time = at(line.time);
        let innermost = rows.iter_mut().filter(|row| row.start - HAIR <= time && time <= row.end + HAIR);
        if let Some(row) = innermost.max_by_key(|row| row.depth) {
            row.said.push((time, text));
        }
    }
    rows
}

fn row(resource: &str, step: &str, start: f64, end: f64, mark: Mark, logs: &[String]) -> Row {
    Row {
        kind: Kind::Step,
        depth: 0,
        resource: resource.to_owned(),
        label: step.to_owned(),
        start,
        end: end.max(start),
        ready: None,
        mark,
        said: Vec::new(),
        log: log_of(resource, step, logs),
    }
}

/// The logs' names: `layer.rs` names Helmfile's after the layer and `helm test`'s
/// after layer and release; the others are named after their tool.
fn log_of(resource: &str, step: &str, logs: &[String]) -> Option<String> {
    let has = |name: String| logs.iter().find(|log| **log == name).cloned();
    match step {
        "helm test" => logs.iter().find(|log| log.ends_with(&format!("-test-{resource}.log"))).cloned(),
        "helmfile sync" => has(format!("{resource}.log")),
        _ if step.contains("the cluster") => has("k3d.log".to_owned()),
        _ if step.contains("the image ") => has(format!("lab-{}.log", step.rsplit(' ').next()?)),
        _ => None,
    }
}

fn said(event: &Event) -> Option<String> {
    match event {
        // A release has a row of its own.
        Event::Note { text, .. } if text.starts_with(DEPLOYED) => None,
        Event::Note { resource, text } => Some(format!("[{resource}] {text}")),
        Event::Warning { resource, text } => Some(format!("⚠ [{resource}] {text}")),
        Event::Waiting { resource, text } => Some(format!("⏳ [{resource}] {text}")),
        Event::Retry { reason, attempt, budget, wait_seconds } => {
            Some(format!("↻ {reason}: try {attempt} of {budget} in {wait_seconds} s"))
        }
        _ => None,
    }
}

/// Under each `helmfile sync`, the releases of that layer, each with its pods;
/// pods of tests come under the test.
fn with_releases(steps: Vec<Row>, lines: &[Line], run: &Run) -> Vec<Row> {
    let at = |time: Timestamp| since(run.started, time).max(0.0);
    let mut releases: Vec<&ReleaseEvent> = lines
        .iter()
        .filter_map(|line| match &line.event {
            Event::Release(release) => Some(release),
            _ => None,
        })
        .collect();
    releases.sort_by_key(|release| (release.started, release.name.clone(), release.revision.clone()));
    let mut pods: Vec<&PodEvent> = lines
        .iter()
        .filter_map(|line| match &line.event {
            Event::Pod(pod) => Some(pod),
            _ => None,
        })
        .collect();
    pods.sort_by_key(|pod| pod.created);
    let deployed: Vec<(f64, &str, f64)> = lines
        .iter()
        .filter_map(|line| match &line.event {
            Event::Note { resource, text } => {
                Some((at(line.time), resource.as_str(), go_seconds(text.strip_prefix(DEPLOYED)?)?))
            }
            _ => None,
        })
        .collect();
    // A roll-back makes a revision of its own: a pod is of the last one before it.
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
    // Each stands in the page once, though steps may touch within the clocks' differences.
    let mut shown = vec![false; releases.len()];
    let mut tests: Vec<&PodEvent> = pods.iter().copied().filter(|pod| pod.test).collect();
    let mut rows = Vec::new();
    for step in steps {
        // The cluster's times have whole seconds.
        let within = |time: Timestamp| at(time) >= step.start - 1.0 && at(time) < step.end;
        let (is_sync, is_test) = (step.label == "helmfile sync", step.label == "helm test");
        let (depth, end) = (step.depth + 1, step.end);
        let own: Vec<Row> = if is_sync {
            let of_layer = |layer: &str| step.resource == layer;
            let mut own = Vec::new();
            for (index, release) in releases.iter().enumerate() {
                if shown[index] || !of_layer(&release.layer) || !within(release.started) {
                    continue;
                }
                shown[index] = true;
                let start = at(release.started).max(step.start);
                let took = deployed.iter().find(|(time, name, _)| *name == release.name && (time - end).abs() < 2.0);
                let mark = if release.status == "deployed" { Mark::Done } else { Mark::Failed };
                own.push(Row {
                    kind: Kind::Release,
                    depth,
                    resource: release.name.clone(),
                    label: format!("revision {}, {}", release.revision, release.status),
                    start,
                    end: took.map_or(end, |(_, _, seconds)| start + seconds).min(end).max(start),
                    ready: None,
                    mark,
                    said: Vec::new(),
                    log: None,
                });
                let theirs = pods_of[index].iter().filter(|pod| within(pod.created));
                own.extend(theirs.map(|pod| pod_row(pod, depth + 1, end, &at)));
            }
            own
        } else if is_test {
            let is_its = |pod: &PodEvent| pod.release == step.resource && within(pod.created);
            let (its, others): (Vec<_>, Vec<_>) = tests.into_iter().partition(|pod| is_its(pod));
            tests = others;
            its.into_iter().map(|pod| pod_row(pod, depth, end, &at)).collect()
        } else {
            Vec::new()
        };
        rows.push(step);
        rows.extend(own);
    }
    rows
}

fn pod_row(pod: &PodEvent, depth: usize, end: f64, at: &impl Fn(Timestamp) -> f64) -> Row {
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
        log: None,
    }
}

/// The cluster's own times have whole seconds.
fn whole_seconds(seconds: f64) -> String {
    if seconds < 0.5 { "less than 1s".to_owned() } else { human_seconds(seconds).replace(".0s", "s") }
}

/// `1m2s` as Go prints durations, in seconds.
fn go_seconds(text: &str) -> Option<f64> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let unit = rest[digits..].find(|c: char| !c.is_ascii_alphabetic()).map_or(rest.len(), |end| digits + end);
        let factor = match &rest[digits..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        total += rest[..digits].parse::<f64>().ok()? * factor;
        rest = &rest[unit..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand steps, each within the one before, that all seem to bring the same releases.
    #[test]
    fn a_record_out_of_all_bounds_makes_no_page_out_of_all_bounds() {
        let line = |second: usize, rest: String| {
            format!("{{\"time\":\"2026-11-24T03:{:02}:{:02}Z\",{rest}}}\n", second / 60 % 60, second % 60)
        };
        let mut text = String::new();
        for n in 0..1000 {
            text.push_str(&line(n, r#""event":"release","layer":"l","name":"r","namespace":"n","revision":"1","status":"deployed","started":"2026-11-24T03:10:00Z""#.to_owned()));
            text.push_str(&line(
                1800 + n,
                format!(
                    r#""event":"finished","resource":"l","step":"helmfile sync","outcome":"done","seconds":{}"#,
                    1800 + 2 * n
                ),
            ));
        }
        let run = read("r", &text, &[]).unwrap();
        assert_eq!(run.rows.len(), 2000);
        assert!(run.rows.iter().all(|row| row.depth <= DEEPEST + 2));
        let endless = text.repeat(20);
        assert!(read("r", &endless, &[]).unwrap().rows.len() <= FIRST_LINES + LAST_LINES);
    }

    const GOOD: &str = include_str!("../../tests/runs/good/record.jsonl");
    const FAILED: &str = include_str!("../../tests/runs/failed/record.jsonl");

    fn row<'a>(run: &'a Run, resource: &str, label: &str) -> &'a Row {
        let found = run.rows.iter().find(|row| row.resource == resource && row.label.contains(label));
        found.unwrap_or_else(|| panic!("no row {resource} {label}: {:#?}", run.rows))
    }

    #[test]
    fn a_good_run_has_its_layers_releases_and_pods_in_order() {
        let logs = ["45-data-plane-ext.log".to_owned(), "45-data-plane-ext-test-minio.log".to_owned()];
        let run = read("r", GOOD, &logs).unwrap();
        assert_eq!((run.exit, &run.blocker), (Some(0), &None));
        assert!(run.command.contains("up"), "{}", run.command);
        let layer = row(&run, "45-data-plane-ext", "in place");
        let sync = row(&run, "45-data-plane-ext", "helmfile sync");
        assert_eq!((layer.depth, sync.depth), (0, 1));
        assert!(layer.start <= sync.start && sync.end <= layer.end + 0.1);
        assert_eq!(sync.log.as_deref(), Some("45-data-plane-ext.log"));
        assert_eq!(row(&run, "minio", "helm test").log.as_deref(), Some("45-data-plane-ext-test-minio.log"));
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
    fn a_failed_run_has_its_blocker_and_what_it_cut_short() {
        let run = read("r", FAILED, &[]).unwrap();
        let blocker = run.blocker.as_ref().unwrap();
        assert!(run.exit.is_some_and(|exit| exit != 0) && !blocker.code.is_empty());
        assert!(run.rows.iter().any(|row| matches!(row.mark, Mark::CutShort | Mark::Failed)), "{:#?}", run.rows);
    }

    #[test]
    fn a_killed_run_has_no_exit_and_its_last_step_reaches_the_end() {
        let cut: String = GOOD.lines().take(6).map(|line| format!("{line}\n")).collect();
        let run = read("r", &(cut + "{\"time\":\"2026-11-2"), &[]).unwrap();
        assert_eq!(run.exit, None);
        assert!(read("r", "", &[]).is_none() && read("r", "not json\n", &[]).is_none());
    }

    #[test]
    fn durations_of_go_are_read() {
        for (text, seconds) in [("16s", Some(16.0)), ("1m2s", Some(62.0)), ("300ms", Some(0.3)), ("soon", None)] {
            assert_eq!(go_seconds(text), seconds, "{text}");
        }
    }
}
