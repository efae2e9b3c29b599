//! The report as Markdown, for a pull request or a job's summary.

use crate::markup::{cell, escape_markdown};
use crate::preview::{Count, ReleasePreview};
use crate::readers::text;
use crate::timeline::{Kind, Mark, Run};
use crate::{Checkpoint, State, human_seconds};

/// The width of a bar in the table, in characters.
const WIDTH: usize = 40;

pub fn page(run: &Run, checklist: &[Checkpoint]) -> String {
    let mark = match run.exit {
        Some(0) => "✅",
        Some(_) => "❌",
        None => "❔",
    };
    let mut lines = vec![format!("## {mark} {}: {}", escape_markdown(&run.title()), escape_markdown(&run.verdict()))];
    if let Some(failure) = &run.failure {
        lines.push(format!("\n> **{}**: {}", failure.code, escape_markdown(&failure.message)));
        lines.extend(failure.evidence.iter().map(|line| format!("> evidence: {}  ", cell(line))));
        lines.extend(failure.remedy.iter().map(|remedy| format!("> remedy: {}", cell(remedy))));
    }
    if !checklist.is_empty() {
        lines.push("\n| | Checkpoint | Evidence | Remedy |\n|---|---|---|---|".to_owned());
        for item in checklist {
            let mark = match item.state {
                State::Pass => "✅",
                State::Fail => "❌",
                State::NotApplicable => "➖",
                State::Unknown => "❔",
            };
            let evidence: Vec<String> = item.evidence.iter().map(|line| cell(line)).collect();
            let remedy = item.remedy.as_deref().map(cell).unwrap_or_default();
            lines.push(format!("| {mark} | {} | {} | {remedy} |", cell(&item.title), evidence.join("<br>")));
        }
    }
    lines.extend(previews(&run.previews));
    if !run.rows.is_empty() {
        lines.push("\n<details><summary>Timeline</summary>\n\n| | Step | | Time |\n|---|---|---|--:|".to_owned());
        for row in run.rows.iter().filter(|row| row.kind != Kind::Pod) {
            let mark = match row.mark {
                Mark::Done => "✅",
                Mark::Unchanged => "✔️",
                Mark::Failed => "❌",
                Mark::CutShort => "✂️",
            };
            let place = |seconds: f64| ((seconds / run.seconds * WIDTH as f64).round() as usize).min(WIDTH - 1);
            let (from, to) = (place(row.start), place(row.end));
            // Dots instead of spaces, which Markdown would fold.
            let bar = format!("{}{}{}", "·".repeat(from), "█".repeat(to - from + 1), "·".repeat(WIDTH - 1 - to));
            let indent = "&emsp;".repeat(row.depth);
            let took = human_seconds(row.end - row.start);
            let blocked: String = row
                .blocked
                .iter()
                .map(|blocked| {
                    let (since, outcome) = (human_seconds(blocked.since), blocked.outcome());
                    format!("<br>{indent}⚠️ `{}` {} since {since}: {outcome}", blocked.code, cell(&blocked.resource))
                })
                .collect();
            lines.push(format!(
                "| {mark} | {indent}**{}** {}{blocked} | `{bar}` | {took} |",
                cell(&row.resource),
                cell(&row.label)
            ));
        }
        lines.push("\n</details>".to_owned());
    }
    lines.extend(run.left_out().map(|text| format!("\n{text}")));
    lines.join("\n") + "\n"
}

/// What a run would do: a line for each layer, and below it its releases with their diffs.
fn previews(previews: &[ReleasePreview]) -> Vec<String> {
    let mut lines = Vec::new();
    for layer in previews.chunk_by(|one, other| one.layer == other.layer) {
        let changing = layer.iter().filter(|release| release.act.changes()).count();
        let mark = if changing == 0 { "✔️" } else { "✏️" };
        let name = escape_markdown(&layer[0].layer);
        let of = layer.iter().filter(|release| release.counts()).count();
        lines.push(format!("\n### {mark} {name}: {changing} of {of} would change; {}\n", Count::of(layer)));
        for release in layer {
            let headline = format!("**{}** {}", cell(&release.release), cell(&release.headline()));
            if release.objects.is_empty() && release.unknown.is_empty() {
                lines.push(format!("- {headline}"));
                continue;
            }
            // Its first line is already in the summary.
            let text = text::previewed(release, true);
            let body: Vec<&str> = text.lines().skip(1).map(|line| line.strip_prefix("   ").unwrap_or(line)).collect();
            // The signs of a diff must be at the beginning of a line.
            let body: Vec<&str> = body.iter().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
            let body = body.join("\n");
            let fence = fence(&body);
            lines.push(format!(
                "\n<details><summary>{headline}</summary>\n\n{fence}diff\n{body}\n{fence}\n\n</details>\n"
            ));
        }
    }
    lines
}

/// A fence that nothing in the text closes.
fn fence(text: &str) -> String {
    let longest = text.lines().map(|line| line.trim_start().bytes().take_while(|byte| *byte == b'`').count()).max();
    "`".repeat(longest.unwrap_or(0).max(2) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::read;

    #[test]
    fn a_failed_run_names_its_blocker_and_every_bar_is_as_wide() {
        let run = read("r", include_str!("../../../tests/runs/failed/record.jsonl"), &[]).unwrap();
        let page = page(&run, &[]);
        assert!(page.starts_with("## ❌") && page.contains(run.failure.as_ref().unwrap().code.name()), "{page}");
        let bars = page.lines().filter_map(|line| line.split('`').nth(1).filter(|bar| bar.contains('█')));
        assert!(bars.clone().count() > 0 && bars.into_iter().all(|bar| bar.chars().count() == WIDTH), "{page}");
    }

    #[test]
    fn a_preview_is_shown_by_layer_and_its_text_leaves_its_fence_nowhere() {
        use crate::preview::{Act, Change, ObjectPreview};
        let release = |name: &str, act: Act, diff: &[&str]| ReleasePreview {
            layer: "45-x".into(),
            release: name.into(),
            namespace: "shop".into(),
            act,
            why: "charts/<web> changed".into(),
            revision: Some(3),
            tests: false,
            unknown: Vec::new(),
            objects: diff
                .iter()
                .map(|line| ObjectPreview {
                    object: "ConfigMap shop/x".into(),
                    change: Change::Change,
                    notes: Vec::new(),
                    diff: vec![(*line).into()],
                })
                .collect(),
        };
        let shown =
            previews(&[release("web", Act::Upgrade, &["+```", "-a"]), release("db", Act::Nothing, &[])]).join("\n");
        assert!(shown.contains("### ✏️ 45-x: 1 of 2 would change; objects: 2 changed"), "{shown}");
        assert!(shown.contains("charts/&lt;web&gt; changed") && !shown.contains("<web>"), "{shown}");
        assert!(shown.contains("\n```diff\n~ ConfigMap shop/x\n+```\n~ ConfigMap shop/x\n-a\n```\n"), "{shown}");
        assert!(shown.contains("- **db** would leave it as it is, revision 3"), "{shown}");
        let absent = ReleasePreview { revision: None, ..release("old", Act::Nothing, &[]) };
        let shown = previews(&[release("web", Act::Upgrade, &["-a"]), absent]).join("\n");
        assert!(
            shown.contains("45-x: 1 of 1 would change"),
            "one that is to be absent, and is, is not counted: {shown}"
        );
        assert_eq!((fence("x"), fence("  ````yaml")), ("```".to_owned(), "`````".to_owned()));
    }
}
