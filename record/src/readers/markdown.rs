//! The report as Markdown, for a pull request or a job's summary.

use crate::markup::{cell, escape_markdown};
use crate::timeline::{Kind, Mark, Run};
use crate::{Checkpoint, State, human_seconds};

/// How wide a bar of the table is, in characters.
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
            // Spaces of a width of their own, which Markdown does not fold.
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
}
