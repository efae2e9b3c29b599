//! The checklist in its output formats.

use serde_json::json;

use super::items::{Definition, ITEMS, Item, State};
use run_record::markup::{cell, escape};

/// What the checklist is about.
pub struct Subject<'a> {
    pub env: &'a str,
    pub kube_context: &'a str,
}

fn word(state: State) -> (&'static str, &'static str) {
    match state {
        State::Pass => ("✅", "pass"),
        State::Fail => ("❌", "FAIL"),
        State::NotApplicable => ("➖", "n/a"),
        State::Unknown => ("❔", "?"),
    }
}

/// How many of the decided items pass.
pub fn summary(items: &[Item]) -> String {
    let of = |state: State| items.iter().filter(|item| item.state == state).count();
    let told = if of(State::Unknown) > 0 { format!(", {} not known", of(State::Unknown)) } else { String::new() };
    format!("{} of {} hold{told}", of(State::Pass), of(State::Pass) + of(State::Fail))
}

/// Where the evidence begins, in columns, of which a mark takes two.
const EVIDENCE: usize = 45;
/// Narrower evidence than this, in columns, is left to the terminal.
const NARROWEST: usize = 24;

/// `width`: the terminal's, in columns. Evidence that is longer is broken between words;
/// remedies are not, because they hold commands that people copy.
pub fn text(subject: &Subject, items: &[Item], width: Option<usize>) -> String {
    let room = width.and_then(|width| width.checked_sub(EVIDENCE)).filter(|room| *room >= NARROWEST);
    let mut lines = vec![format!("Data Plane Ready · {} · {}", subject.env, subject.kube_context)];
    for item in items {
        let (mark, word) = word(item.state);
        let mut evidence = item.evidence.iter().flat_map(|line| broken(line, room));
        let first = evidence.next().unwrap_or_default();
        lines.push(format!("{mark} {word:<4} {:<25} {:>6.0} ms  {first}", item.title, item.seconds * 1000.0));
        // Below the first line of the evidence.
        let indent = " ".repeat(EVIDENCE);
        lines.extend(evidence.map(|line| format!("{indent}{line}")));
        lines.extend(item.remedy.iter().map(|remedy| format!("{indent}remedy: {remedy}")));
    }
    lines.push(summary(items));
    lines.join("\n")
}

/// A line in parts of at most so many characters; a longer word stays whole.
fn broken(line: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room else { return vec![line.to_owned()] };
    let mut parts = vec![String::new()];
    for word in line.split(' ') {
        let Some(last) = parts.last_mut() else { continue };
        let length = last.chars().count();
        if length > 0 && length + 1 + word.chars().count() > room {
            parts.push(word.to_owned());
            continue;
        }
        if length > 0 {
            last.push(' ');
        }
        last.push_str(word);
    }
    parts
}

pub fn json(subject: &Subject, items: &[Item]) -> String {
    let ready = !items.iter().any(|item| item.state == State::Fail);
    json!({"env": subject.env, "context": subject.kube_context, "ready": ready, "items": items}).to_string()
}

pub fn markdown(subject: &Subject, items: &[Item]) -> String {
    let mut lines = vec![
        format!("### Data Plane Ready: {} ({})", cell(&summary(items)), cell(subject.kube_context)),
        String::new(),
        "| | Checkpoint | Evidence | Remedy | Time |".to_owned(),
        "|---|---|---|---|--:|".to_owned(),
    ];
    for item in items {
        let (mark, word) = word(item.state);
        let evidence: Vec<String> = item.evidence.iter().map(|line| cell(line)).collect();
        let remedy = item.remedy.as_deref().map(cell).unwrap_or_default();
        let time = format!("{:.0} ms", item.seconds * 1000.0);
        lines.push(format!("| {mark} {word} | {} | {} | {remedy} | {time} |", item.title, evidence.join("<br>")));
    }
    lines.join("\n") + "\n"
}

/// JUnit XML for CI systems: one suite with a case per item.
pub fn junit(subject: &Subject, items: &[Item]) -> String {
    let of = |state: State| items.iter().filter(|item| item.state == state).count();
    let seconds: f64 = items.iter().map(|item| item.seconds).sum();
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" time=\"{seconds:.3}\"",
        items.len(),
        of(State::Fail),
        of(State::Unknown) + of(State::NotApplicable)
    );
    let name = escape(&format!("data-plane-ready.{}", subject.env));
    let mut lines = vec![
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>".to_owned(),
        format!("<testsuites name=\"{name}\" {counts}>"),
        format!("  <testsuite name=\"{name}\" {counts}>"),
    ];
    for item in items {
        let case = format!("<testcase classname=\"{name}\" name=\"{}\" time=\"{:.3}\"", item.id, item.seconds);
        let evidence = escape(&item.evidence.join("\n"));
        let inner = match item.state {
            State::Pass => format!("<system-out>{evidence}</system-out>"),
            State::Fail => {
                let remedy = item.remedy.as_deref().map(|remedy| format!("\nremedy: {remedy}")).unwrap_or_default();
                let message = escape(item.evidence.first().map_or(item.title, String::as_str));
                let text = format!("{evidence}{}", escape(&remedy));
                format!("<failure type=\"{}\" message=\"{message}\">{text}</failure>", item.id)
            }
            State::NotApplicable | State::Unknown => format!("<skipped message=\"{evidence}\"/>"),
        };
        lines.push(format!("    {case}>{inner}</testcase>"));
    }
    lines.extend(["  </testsuite>".to_owned(), "</testsuites>".to_owned()]);
    lines.join("\n") + "\n"
}

/// The definitions for the backlog page, without the state of any machine.
pub fn definitions() -> String {
    let mut lines = vec![
        "| # | Checkpoint | What must hold | Exit code when it does not | Remedy |".to_owned(),
        "|--:|---|---|---|---|".to_owned(),
    ];
    for (index, Definition { id, title, holds, remedy, exits, .. }) in ITEMS.iter().enumerate() {
        let exits: Vec<String> = exits.iter().map(|exit| (*exit as i32).to_string()).collect();
        lines.push(format!("| {} | {title} (`{id}`) | {holds} | {} | {remedy} |", index + 1, exits.join(", ")));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use run_record::Exit;

    const SUBJECT: Subject = Subject { env: "ci", kube_context: "k3d-ameide-ci" };

    fn items() -> Vec<Item> {
        let item = |id: &'static str, state: State, evidence: &str| Item {
            id,
            title: "A title",
            state,
            evidence: vec![evidence.into(), "more".into()],
            remedy: (state == State::Fail).then(|| "a & b".into()),
            exit: (state == State::Fail).then_some(Exit::Registry),
            seconds: 0.012,
            fix: None,
        };
        vec![
            item("good", State::Pass, "all | there"),
            item("bad", State::Fail, "<script>\"x\""),
            item("dark", State::Unknown, "the API does not answer"),
        ]
    }

    #[test]
    fn junit_escapes_what_it_quotes_and_counts_what_it_holds() {
        let xml = junit(&SUBJECT, &items());
        assert!(xml.contains("tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"1\""), "{xml}");
        assert!(xml.contains("message=\"&lt;script&gt;&quot;x&quot;\""), "{xml}");
        assert!(xml.contains("remedy: a &amp; b</failure>"), "{xml}");
        assert_eq!(xml.matches("<testcase").count(), xml.matches("</testcase>").count());
    }

    #[test]
    fn markdown_keeps_a_row_a_row() {
        let table = markdown(&SUBJECT, &items());
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).collect();
        assert_eq!(rows.len(), 4, "{table}");
        assert!(rows[1].contains("all \\| there<br>more") && rows[2].contains("&lt;script&gt;"), "{table}");
    }

    #[test]
    fn text_has_a_line_a_checkpoint_with_pass_or_fail() {
        let text = text(&SUBJECT, &items(), None);
        assert!(text.contains("✅ pass A title") && text.contains("❌ FAIL A title"), "{text}");
        assert!(text.contains("remedy: a & b") && text.ends_with("1 of 2 hold, 1 not known"), "{text}");
    }

    #[test]
    fn evidence_is_broken_between_words_where_the_terminal_ends_and_remedies_are_not() {
        let mut items = items();
        items[0].evidence = vec!["0 of 10 ran; not yet for minio revision 1".to_owned()];
        items[1].remedy = Some("cargo xtask layer 10-bootstrap 40-data-plane 45-data-plane-ext".to_owned());
        let text = text(&SUBJECT, &items, Some(80));
        let indent = " ".repeat(EVIDENCE);
        assert!(text.contains(&format!("0 of 10 ran; not yet for minio\n{indent}revision 1\n")), "{text}");
        assert!(text.contains("remedy: cargo xtask layer 10-bootstrap 40-data-plane 45-data-plane-ext"), "{text}");
        assert!(text.lines().filter(|line| !line.contains("remedy")).all(|line| line.chars().count() <= 80), "{text}");
        // A window too narrow for that is left to itself.
        assert!(super::text(&SUBJECT, &items, Some(50)).contains("not yet for minio revision 1"));
    }

    #[test]
    fn every_title_fits_its_column() {
        assert!(ITEMS.iter().all(|item| item.title.chars().count() <= 25));
    }

    #[test]
    fn json_is_json() {
        let value: serde_json::Value = serde_json::from_str(&json(&SUBJECT, &items())).unwrap();
        assert_eq!((&value["ready"], &value["items"][1]["exit"]), (&false.into(), &"registry".into()));
    }

    #[test]
    fn every_definition_is_a_row_with_an_exit_code() {
        let table = definitions();
        assert_eq!(table.lines().count(), ITEMS.len() + 2);
        assert!(ITEMS.iter().all(|item| !item.exits.is_empty()));
    }
}
