//! The report as one HTML page: style inside, no script, no link to anywhere.
//! A bar is the summary of a `details` element, so that a click (or Enter) opens
//! its log in any browser.

use std::fmt::Write;

use crate::markup::escape;
use crate::readers::text;
use crate::timeline::{Blockage, Followed, Kind, Mark, Row, Run};
use crate::{Checkpoint, human_seconds};

/// The page. `log` gives the text of one of the run's log files.
pub fn page(run: &Run, checklist: &[Checkpoint], log: impl Fn(&str) -> Option<String>) -> String {
    let mut html = String::new();
    let title = escape(&format!("{} · {}", run.title(), run.verdict()));
    // `write!` to a String cannot fail.
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n",
        include_str!("page.css")
    );
    head(&mut html, run);
    failure(&mut html, run);
    checks(&mut html, checklist);
    previews(&mut html, run);
    timeline(&mut html, run, log);
    let left_out = run.left_out().map(|text| format!(" {}", escape(&text))).unwrap_or_default();
    let _ = write!(
        html,
        "<footer>Times are counted from the start of the run. Run: {}.{left_out}</footer>\n</body>\n</html>\n",
        escape(&run.id)
    );
    html
}

fn class(mark: Mark) -> &'static str {
    match mark {
        Mark::Done => "done",
        Mark::Unchanged => "unchanged",
        Mark::Failed => "failed",
        Mark::CutShort => "cut",
    }
}

fn head(html: &mut String, run: &Run) {
    let badge = match run.exit {
        Some(0) => "done",
        Some(_) => "failed",
        None => "cut",
    };
    let _ = write!(
        html,
        "<header>\n<div class=\"head\"><h1>{}</h1><span class=\"badge {badge}\">{}</span></div>\n<p class=\"facts\">",
        escape(&run.title()),
        escape(&run.verdict())
    );
    if !run.command.is_empty() {
        let _ = write!(html, "<span><code>{}</code></span>", escape(&run.command));
    }
    let started = run.started.strftime("%Y-%m-%d %H:%M:%S UTC");
    let _ = write!(html, "<span>{started}</span><span>{}</span></p>\n</header>\n", human_seconds(run.seconds));
}

fn failure(html: &mut String, run: &Run) {
    let Some(failure) = &run.failure else { return };
    let _ = write!(
        html,
        "<section class=\"blocker\">\n<h2>{}</h2>\n<p>{}</p>\n<dl>",
        failure.code,
        escape(&failure.message)
    );
    for line in &failure.evidence {
        let _ = write!(html, "<dt>evidence</dt><dd>{}</dd>", escape(line));
    }
    for (name, text) in [("remedy", failure.remedy.as_deref()), ("log", failure.log.as_deref().map(|log| log.as_str()))]
    {
        if let Some(text) = text {
            let _ = write!(html, "<dt>{name}</dt><dd><code>{}</code></dd>", escape(text));
        }
    }
    html.push_str("</dl>\n</section>\n");
}

fn checks(html: &mut String, checklist: &[Checkpoint]) {
    if checklist.is_empty() {
        return;
    }
    html.push_str("<h2>Data Plane Ready</h2>\n<ul class=\"checks\">\n");
    for item in checklist {
        let _ = write!(html, "<li class=\"{}\"><b>{}</b>", item.state.name(), escape(&item.title));
        for line in item.evidence.iter().chain(&item.remedy) {
            let _ = write!(html, "<span>{}</span>", escape(line));
        }
        html.push_str("</li>\n");
    }
    html.push_str("</ul>\n");
}

/// A tick interval that people find natural, such that there are at most eight.
fn tick(seconds: f64) -> f64 {
    const STEPS: [f64; 16] =
        [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
    STEPS.into_iter().find(|step| seconds / step <= 8.0).unwrap_or(seconds / 8.0)
}

fn tick_label(seconds: f64) -> String {
    if seconds < 60.0 { format!("{}s", (seconds * 100.0).round() / 100.0) } else { human_seconds(seconds) }
}

/// What a dry run would do.
fn previews(html: &mut String, run: &Run) {
    if run.previews.is_empty() {
        return;
    }
    html.push_str("<h2>What a run would do</h2>\n");
    for preview in &run.previews {
        let text = text::previewed(preview, true);
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let _ = writeln!(html, "<p><b>{}</b> {}</p>", escape(&preview.layer), escape(first));
        if !rest.is_empty() {
            let _ = writeln!(html, "<pre>{}</pre>", escape(rest));
        }
    }
}

fn timeline(html: &mut String, run: &Run, log: impl Fn(&str) -> Option<String>) {
    html.push_str("<h2>Timeline</h2>\n");
    if run.rows.is_empty() {
        html.push_str("<p>The run has no steps.</p>\n");
        return;
    }
    html.push_str("<p class=\"legend\">");
    for (colour, name) in [
        ("--done", "step"),
        ("--same", "nothing to do"),
        ("--release", "release"),
        ("--pod", "pod, until ready"),
        ("--failed", "failed"),
        ("--cut", "cut short"),
        ("--blocked", "blocked"),
    ] {
        let _ = write!(html, "<span><i style=\"background:var({colour})\"></i>{name}</span>");
    }
    html.push_str("</p>\n<div class=\"axis\"><span>click a bar for its log</span><span class=\"ticks\">");
    let step = tick(run.seconds);
    let percent = |seconds: f64| (seconds / run.seconds * 100.0).clamp(0.0, 100.0);
    let mut time = 0.0;
    while time < run.seconds * 0.98 {
        let _ = write!(html, "<span style=\"left:{:.2}%\">{}</span>", percent(time), tick_label(time));
        time += step;
    }
    html.push_str("</span><span></span></div>\n");
    let grid = percent(step);
    for (index, row) in run.rows.iter().enumerate() {
        let contains = run
            .rows
            .get(index + 1)
            .is_some_and(|next| next.depth > row.depth && matches!(row.kind, Kind::Layer | Kind::Step));
        row_html(html, row, contains, grid, &percent, &log);
    }
}

fn row_html(
    html: &mut String,
    row: &Row,
    contains: bool,
    grid: f64,
    percent: &impl Fn(f64) -> f64,
    log: &impl Fn(&str) -> Option<String>,
) {
    let kind = match row.kind {
        Kind::Layer | Kind::Step if contains && row.log.is_none() => "group",
        Kind::Layer | Kind::Step => "step",
        Kind::Release => "release",
        Kind::Pod => "pod",
    };
    let bad = matches!(row.mark, Mark::Failed | Mark::CutShort);
    let failed = if bad { " failed-row" } else { "" };
    // Rows where something went wrong are open from the start.
    let something = row.log.is_some() || !row.said.is_empty() || !row.blocked.is_empty();
    let open = if bad && something { " open" } else { "" };
    // A pod's duration is part of its label, in whole seconds as the cluster has it.
    let took = if row.kind == Kind::Pod { String::new() } else { human_seconds(row.end - row.start) };
    let (resource, label) = (escape(&row.resource), escape(&row.label));
    let mut codes: Vec<&str> = row.blocked.iter().map(|blocked| blocked.code.name()).collect();
    codes.dedup();
    let codes: String = codes.iter().map(|code| format!(" <i>{code}</i>")).collect();
    let block = |blocked: &Blockage| {
        let (from, to) = (percent(blocked.since), percent(blocked.until));
        let ended = if blocked.followed == Followed::EndedTheRun { " ended" } else { "" };
        format!("<span class=\"block{ended}\" style=\"left:{from:.2}%;width:{:.2}%\"></span>", to - from)
    };
    let blocks: String = row.blocked.iter().map(block).collect();
    let _ = write!(
        html,
        "<details class=\"{kind}{failed}\" style=\"--depth:{}\"{open}>\n<summary>\
         <span class=\"name\" title=\"{resource}: {label}\"><b>{resource}</b>{codes} <em>{label}</em></span>\
         <span class=\"track\" style=\"background-size:{grid:.3}% 100%\">\
         <span class=\"bar {}\" style=\"left:{:.2}%;width:{:.2}%\"></span>{blocks}</span>\
         <span class=\"took\">{took}</span></summary>\n<div class=\"more\">",
        row.depth,
        class(row.mark),
        percent(row.start),
        percent(row.end) - percent(row.start),
    );
    let _ = write!(html, "<p>{} to {} of the run</p>", human_seconds(row.start), human_seconds(row.end));
    for blocked in &row.blocked {
        let _ = write!(
            html,
            "<div class=\"blocked\"><p><b>{}</b> {}: {}</p>",
            blocked.code,
            escape(&blocked.resource),
            blocked.code.sentence()
        );
        if !blocked.message.is_empty() {
            let _ = write!(html, "<p><code>{}</code></p>", escape(&blocked.message));
        }
        let _ = write!(html, "<p>since {}: {}</p></div>", human_seconds(blocked.since), blocked.outcome());
    }
    if !row.said.is_empty() {
        html.push_str("<ol>");
        for (time, text) in &row.said {
            let _ = write!(html, "<li><time>{}</time><span>{}</span></li>", human_seconds(*time), escape(text));
        }
        html.push_str("</ol>");
    }
    if let Some((name, text)) = row.log.as_ref().and_then(|name| Some((name, log(name)?))) {
        let _ = write!(html, "<p>{}</p><pre tabindex=\"0\">{}</pre>", escape(name), escape(&text));
    }
    html.push_str("</div>\n</details>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;
    use crate::readers::json::Line;
    use crate::timeline::read;

    #[test]
    fn ticks_are_few_and_round() {
        for (seconds, step) in [(0.3, 0.05), (7.0, 1.0), (107.0, 15.0), (400.0, 60.0), (36_000.0, 7200.0 * 0.625)] {
            assert!((tick(seconds) - step).abs() < 1e-9, "{seconds}: {}", tick(seconds));
            assert!(seconds / tick(seconds) <= 8.0 + 1e-9);
        }
    }

    #[test]
    fn nothing_that_a_run_says_becomes_markup() {
        let evil = "<script>alert(1)</script>\"><img src=x>";
        let time = jiff::Timestamp::UNIX_EPOCH;
        let lines =
            crate::event::one_of_each(evil).into_iter().map(|event| Line { time, event }.to_json().unwrap() + "\n");
        let mut run = read("<script>", &lines.collect::<String>(), &[]).unwrap();
        assert!(run.rows.iter().any(|row| !row.blocked.is_empty()), "{:#?}", run.rows);
        run.rows[0].log = Some(evil.into());
        let checkpoint = Checkpoint {
            title: evil.into(),
            state: State::Fail,
            evidence: vec![evil.into()],
            remedy: Some(evil.into()),
        };
        let page = page(&run, &[checkpoint], |_| Some(evil.to_owned()));
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
        assert!(page.contains("&lt;script&gt;"));
    }
}
