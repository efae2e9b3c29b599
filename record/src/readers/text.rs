//! Events as lines for people, on a terminal or in a job's log.

use crate::{Event, InPlace, Outcome, human_seconds, seconds::whole_seconds};

/// The width that resource and step share, so that durations stand in a column.
const COLUMN: usize = 72;

/// The event's line, or lines; none for what is only kept.
pub fn line(event: &Event) -> Option<String> {
    let line = match event {
        Event::RunStarted { .. }
        | Event::LayerStarted { .. }
        | Event::LayerFailed { .. }
        | Event::StepStarted(_)
        | Event::Release(_)
        | Event::Pod(_)
        | Event::Images(_)
        | Event::RunEnded { .. } => return None,
        Event::LayerInPlace { layer, releases, how, took } => {
            let mark = if *how == InPlace::Synced { "✅" } else { "✔️ " };
            ended(mark, layer, &in_place(*releases, *how), took.as_secs_f64())
        }
        Event::LayerSkipped { layer, selector } => {
            format!("➡️  [{layer}] skipped: none of its releases matches {selector}")
        }
        Event::ReleaseSyncing { release, why, forced, .. } => format!("➡️  [{release}] {}", syncing(why, *forced)),
        Event::ReleaseDeployed { release, took, .. } => {
            format!("➡️  [{release}] deployed in {}", whole_seconds(took.as_secs_f64()))
        }
        Event::StepFinished { step, outcome, took } => {
            let mark = match outcome {
                Outcome::Done => "✅",
                Outcome::Unchanged => "✔️ ",
                Outcome::Failed => "❌",
            };
            ended(mark, &step.resource, &step.text, took.as_secs_f64())
        }
        Event::Note { resource, text } => format!("➡️  [{resource}] {text}"),
        Event::Planned { resource, text } => format!("➡️  [{resource}] would {text}"),
        Event::Warning { resource, text } => format!("⚠️  [{resource}] {text}"),
        Event::Waiting { resource, text } => format!("⏳ [{resource}] {text}"),
        Event::Blocked(blocked) => {
            let then = blocked.prospect.map(|prospect| format!(" ({prospect})")).unwrap_or_default();
            format!("⚠️  [{}] {}: {}{then}", blocked.resource, blocked.code, blocked.code.sentence())
        }
        Event::Retry { code, attempt, budget, wait, .. } => {
            let wait = if wait.is_zero() { String::new() } else { format!(" in {} s", wait.as_secs()) };
            format!("🔁 {code}: try {attempt} of {budget}{wait}")
        }
        Event::Failed(failure) => {
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

fn ended(mark: &str, resource: &str, text: &str, seconds: f64) -> String {
    let what = format!("[{resource}] {text}");
    let pad = COLUMN.saturating_sub(what.chars().count());
    format!("{mark} {what}{:pad$} {:>8}", "", human_seconds(seconds))
}

/// That a release is synced, and why.
pub(crate) fn syncing(why: &str, forced: bool) -> String {
    format!("syncing{}: {why}", if forced { ", by --force" } else { "" })
}

/// What a layer that is done is called.
pub(crate) fn in_place(releases: usize, how: InPlace) -> String {
    let what = match how {
        InPlace::Synced => "in place",
        InPlace::Unchanged => "in place, unchanged",
        InPlace::Scaled => "unchanged, except for replicas set by an autoscaler",
    };
    format!("{what}: {releases} release{}", if releases == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Step, StepKind};
    use std::time::Duration;

    #[test]
    fn finished_steps_align_their_durations() {
        let took = Duration::from_secs(1);
        let width = |text: &str| {
            let step = Step::new(StepKind::HelmTest, "minio", text);
            let line = line(&Event::StepFinished { step, outcome: Outcome::Done, took }).unwrap();
            line.chars().count()
        };
        assert_eq!(width("short"), width("a somewhat longer step"));
        let layer =
            line(&Event::LayerInPlace { layer: "45-x".into(), releases: 1, how: InPlace::Synced, took }).unwrap();
        assert_eq!(layer.chars().count(), width("short"));
        assert!(layer.starts_with("✅ [45-x] in place: 1 release  "), "{layer}");
    }

    #[test]
    fn that_a_release_is_synced_is_told_with_its_reason() {
        let syncing = |forced| {
            let (layer, release, namespace) = ("45-x".into(), "minio".into(), "shop".into());
            line(&Event::ReleaseSyncing { layer, release, namespace, why: "charts/minio changed".into(), forced })
        };
        assert_eq!(syncing(false).unwrap(), "➡️  [minio] syncing: charts/minio changed");
        assert_eq!(syncing(true).unwrap(), "➡️  [minio] syncing, by --force: charts/minio changed");
    }

    #[test]
    fn what_is_only_kept_has_no_line_and_everything_else_has_one() {
        let silent = ["run", "layer-started", "layer-failed", "started", "release", "pod", "images", "end"];
        for event in crate::event::one_of_each("x") {
            let json = serde_json::to_value(&event).unwrap();
            assert_eq!(line(&event).is_none(), silent.contains(&json["event"].as_str().unwrap()), "{event:?}");
        }
    }
}
