//! Events as lines for people, on a terminal or in a job log.

use crate::preview::{Change, ReleasePreview};
use crate::{Event, InPlace, Outcome, human_seconds, seconds::whole_seconds};

/// The width that resource and step share, so that durations line up.
const COLUMN: usize = 72;

/// The event's line or lines; `None` for events that are only recorded.
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
        Event::Preview(preview) => previewed(preview, true),
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

/// Whether it is printed with `--quiet` too: only problems, and what was asked for.
pub fn quietly(event: &Event) -> bool {
    match event {
        Event::Warning { .. } | Event::Blocked(_) | Event::Failed(_) => true,
        // A failed step says so itself; the answer of a dry run is what was asked for.
        Event::StepFinished { outcome, .. } => *outcome == Outcome::Failed,
        Event::Planned { .. } | Event::Preview(_) => true,
        _ => false,
    }
}

/// A release's line, its objects and their diffs. The diffs of objects that a first install creates
/// are included only if `whole` is set.
pub fn previewed(preview: &ReleasePreview, whole: bool) -> String {
    let mut lines = vec![format!("➡️  [{}] {}", preview.release, preview.headline())];
    lines.extend(preview.unknown.iter().map(|text| format!("   ❔ {text}")));
    for object in &preview.objects {
        let left_out = !whole && preview.revision.is_none() && object.change == Change::Create;
        let size = if left_out { format!(" ({} lines; -v shows them)", object.diff.len()) } else { String::new() };
        lines.push(format!("   {} {}{size}", object.change.sign(), object.object));
        lines.extend(object.notes.iter().map(|note| format!("     # {note}")));
        if !left_out {
            lines.extend(object.diff.iter().map(|line| format!("     {line}").trim_end().to_owned()));
        }
    }
    lines.join("\n")
}

/// The same lines, coloured as a diff.
pub fn coloured(lines: &str) -> String {
    let colour = |line: &str| {
        let code = match (line.get(..5), line.get(5..6), line.get(3..4)) {
            (Some("     "), Some("+"), _) | (_, _, Some("+")) => "32",
            (Some("     "), Some("-"), _) | (_, _, Some("-")) => "31",
            (Some("     "), Some("@"), _) => "36",
            (Some("     "), Some("#"), _) | (_, _, Some("~" | "!")) => "33",
            _ => return line.to_owned(),
        };
        format!("\u{1b}[{code}m{line}\u{1b}[0m")
    };
    lines.lines().map(colour).collect::<Vec<_>>().join("\n")
}

fn ended(mark: &str, resource: &str, text: &str, seconds: f64) -> String {
    let what = format!("[{resource}] {text}");
    let pad = COLUMN.saturating_sub(what.chars().count());
    format!("{mark} {what}{:pad$} {:>8}", "", human_seconds(seconds))
}

/// Says that a release is synced, and why.
pub(crate) fn syncing(why: &str, forced: bool) -> String {
    format!("syncing{}: {why}", if forced { ", by --force" } else { "" })
}

/// How a finished layer is described.
pub(crate) fn in_place(releases: usize, how: InPlace) -> String {
    let what = match how {
        InPlace::Synced => "in place",
        InPlace::Unchanged => "in place, unchanged",
        InPlace::Scaled => "unchanged, except for replicas set by an autoscaler",
        InPlace::Lacking => "unchanged, except for what is gone and only an install makes",
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

    #[test]
    fn who_wants_it_quiet_sees_what_is_wrong_and_what_was_asked_for() {
        let quiet = crate::event::one_of_each("x").into_iter().filter(quietly);
        let names = quiet.map(|event| serde_json::to_value(&event).unwrap()["event"].as_str().unwrap().to_owned());
        assert_eq!(names.collect::<Vec<_>>(), ["warning", "planned", "preview", "blocker", "failure"]);
        let failed = Event::StepFinished {
            step: Step::new(StepKind::Check, "r", "t"),
            outcome: Outcome::Failed,
            took: Duration::ZERO,
        };
        assert!(quietly(&failed) && line(&failed).is_some());
    }

    #[test]
    fn a_first_installation_names_its_objects_and_an_upgrade_shows_them_in_colours() {
        use crate::preview::{Act, ObjectPreview};
        let mut preview = ReleasePreview {
            layer: "45-x".into(),
            release: "web".into(),
            namespace: "shop".into(),
            act: Act::Install,
            why: "it is not installed".into(),
            revision: None,
            tests: true,
            unknown: Vec::new(),
            objects: vec![ObjectPreview {
                object: "ConfigMap shop/x".into(),
                change: Change::Create,
                notes: vec!["a note".into()],
                diff: vec!["@@ -0,0 +1 @@".into(), "+a".into()],
            }],
        };
        let short = previewed(&preview, false);
        assert_eq!(
            short,
            "➡️  [web] would install it: it is not installed; its tests follow\n   + ConfigMap shop/x (2 lines; -v shows them)\n     # a note"
        );
        assert!(previewed(&preview, true).ends_with("     @@ -0,0 +1 @@\n     +a"));
        preview.revision = Some(1);
        let shown = coloured(&previewed(&preview, false));
        for line in ["\u{1b}[32m   + ConfigMap shop/x\u{1b}[0m", "\u{1b}[36m     @@", "\u{1b}[32m     +a"] {
            assert!(shown.contains(line), "{shown}");
        }
    }
}
