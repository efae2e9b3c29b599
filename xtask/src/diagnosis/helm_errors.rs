//! Finds what Helm and Helmfile said anywhere in a job's log: Helmfile repeats Helm's error in a
//! frame of forty lines (`PATH:`, `ARGS:`, `STDERR:` …), and goes on with other releases after it.
//!
//! Only errors are taken: output of a hook or a test may be in the same log, and is not Helm's.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

use camino::Utf8Path;

use super::rules::Ends;
use super::sources::{self, Verdict};
use crate::world::kubernetes::autoscaler;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    Helm,
    Helmfile,
}

/// One error, of one or more lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub speaker: Speaker,
    pub text: String,
}

impl Statement {
    /// The most informative verdict about it, and the line that it is based on.
    pub fn verdict(&self) -> Option<(Verdict, String)> {
        let classify = match self.speaker {
            Speaker::Helm => sources::helm,
            Speaker::Helmfile => sources::helmfile,
        };
        let mut found: Vec<(Verdict, String)> =
            self.lines().into_iter().filter_map(|line| Some((classify(&line)?, line))).collect();
        found.sort_by_key(|(verdict, _)| rank(verdict));
        let first = found.into_iter().next();
        // Over several lines: the list of a conflict's fields, a wrapped sentence.
        let whole = self.text.split_whitespace().collect::<Vec<_>>().join(" ");
        first.or_else(|| Some((classify(&whole)?, whole)))
    }

    /// Lines that are judged one by one. What a webhook says about an object that it denied is one
    /// sentence with it: only its end may tell why (Kyverno writes a paragraph for each policy).
    fn lines(&self) -> Vec<String> {
        let mut lines = self.text.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
        let mut judged = Vec::new();
        while let Some(line) = lines.next() {
            let mut sentence = line.to_owned();
            if line.contains(DENIED) {
                // A timeout of no address is Helm's own.
                let is_helms = |line: &str| sources::is_timeout(line) && !line.contains("://");
                let is_its = |line: &&str| !is_helms_error(line) && !is_helms(line);
                while let Some(more) = lines.next_if(is_its) {
                    sentence = format!("{sentence} {more}");
                }
            }
            judged.push(sentence);
        }
        judged
    }
}

/// An API refusal comes before what may heal, and that before a symptom.
pub fn rank(verdict: &Verdict) -> u8 {
    match verdict {
        verdict if verdict.ends == Ends::AtOnce => 0,
        verdict if sources::is_symptom(verdict) => 2,
        _ => 1,
    }
}

/// A log that was read to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub errors: Vec<Statement>,
    /// Helmfile's message that Helm was killed.
    pub killed: Option<String>,
    /// The last lines with content outside frames, in case nothing else helps.
    pub last: Vec<String>,
}

/// The position of a line in Helmfile's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Outside,
    Stderr,
    /// `ERROR:`: how the command ended.
    Error,
    /// The command line, and repetitions of what is in `STDERR:`.
    Other,
}

/// Longer lines are cut: no message of Helm's is as long.
const LINE: usize = 64 * 1024;
/// For a longer log, the first and the last half of this are read.
const READ: u64 = 64 * 1024 * 1024;
/// The maximum number of lines of one error; a list of conflicts has one line per field.
const LINES: usize = 200;
const LAST: usize = 5;

/// Reads what was appended to a log since it had `from` bytes.
pub fn read(log: &Utf8Path, from: u64) -> std::io::Result<Said> {
    let mut file = std::fs::File::open(log)?;
    let end = file.metadata()?.len();
    let mut reader = Reader::default();
    let mut part = |from: u64, to: u64| -> std::io::Result<()> {
        file.seek(SeekFrom::Start(from))?;
        let mut lines = BufReader::new((&mut file).take(to.saturating_sub(from)));
        while let Some(line) = bounded_line(&mut lines)? {
            reader.line(&line);
        }
        Ok(())
    };
    if end.saturating_sub(from) > READ {
        part(from, from + READ / 2)?;
        part(end - READ / 2, end)?;
    } else {
        part(from, end)?;
    }
    Ok(reader.finish())
}

/// The next line without its line break, cut at [`LINE`] bytes; the rest is skipped.
fn bounded_line(lines: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    if lines.take(LINE as u64).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        loop {
            let (skip, found) = {
                let buffer = lines.fill_buf()?;
                match buffer.iter().position(|byte| *byte == b'\n') {
                    Some(at) => (at + 1, true),
                    None => (buffer.len(), buffer.is_empty()),
                }
            };
            lines.consume(skip);
            if found {
                break;
            }
        }
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()))
}

/// The errors in these lines.
pub fn of_lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> Said {
    let mut reader = Reader::default();
    lines.into_iter().for_each(|line| reader.line(line));
    reader.finish()
}

struct Reader {
    section: Section,
    open: Option<Statement>,
    /// Helm's errors in frames, and Helmfile's own.
    errors: Vec<Statement>,
    /// `Error: …` outside a frame: Helm's, if it is run without Helmfile.
    bare: Vec<Statement>,
    killed: Option<String>,
    last: std::collections::VecDeque<String>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            section: Section::Outside,
            open: None,
            errors: Vec::new(),
            bare: Vec::new(),
            killed: None,
            last: std::collections::VecDeque::new(),
        }
    }
}

impl Reader {
    fn line(&mut self, line: &str) {
        let text = line.trim();
        if let Some(section) = header(line) {
            self.close();
            self.section = section;
            return;
        }
        let indented = line.starts_with([' ', '\t']);
        if !indented && !text.is_empty() {
            if self.section != Section::Outside {
                self.close();
            }
            self.section = Section::Outside;
        }
        match self.section {
            Section::Outside => self.outside(line, text),
            Section::Stderr => self.helm(text),
            Section::Error if is_killed(text) => self.killed = Some(text.to_owned()),
            Section::Error | Section::Other => {}
        }
    }

    /// A line of Helm's standard error, without indentation.
    fn helm(&mut self, text: &str) {
        if sources::is_warning(text) {
            return;
        }
        if (text.starts_with("Error: ") || text.starts_with("error: ")) && !self.is_of_denial(text) {
            self.close();
            self.open = Some(Statement { speaker: Speaker::Helm, text: text.to_owned() });
            self.remember(text);
        } else if let Some(open) = &mut self.open
            && open.text.lines().count() < LINES
        {
            open.text.push('\n');
            open.text.push_str(text);
        }
    }

    fn outside(&mut self, line: &str, text: &str) {
        if text.is_empty() {
            return self.close_bare();
        }
        if is_killed(text) {
            self.killed = Some(text.to_owned());
            return;
        }
        if sources::is_warning(text) || is_of_traces(text) {
            return;
        }
        self.remember(text);
        if let Some(says) = of_helmfile(text) {
            self.close_bare();
            self.errors.push(Statement { speaker: Speaker::Helmfile, text: says.to_owned() });
        } else if line.starts_with("Error: ") && !self.is_of_denial(text) {
            self.close_bare();
            self.open = Some(Statement { speaker: Speaker::Helm, text: text.to_owned() });
        } else if let Some(open) = &mut self.open
            && open.text.lines().count() < LINES
        {
            open.text.push('\n');
            open.text.push_str(text);
        }
    }

    /// Whether a webhook that denied an object goes on with this line: ingress-nginx quotes its
    /// controller's own `Error: …`.
    fn is_of_denial(&self, text: &str) -> bool {
        self.open.as_ref().is_some_and(|open| open.text.contains(DENIED)) && !is_helms_error(text)
    }

    fn remember(&mut self, text: &str) {
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(text.to_owned());
    }

    fn close(&mut self) {
        let of_frame = self.section == Section::Stderr;
        if let Some(open) = self.open.take() {
            if of_frame { self.errors.push(open) } else { self.bare.push(open) }
        }
    }

    fn close_bare(&mut self) {
        self.bare.extend(self.open.take());
    }

    fn finish(mut self) -> Said {
        self.close();
        let framed = self.errors.iter().any(|error| error.speaker == Speaker::Helm);
        if !framed {
            self.errors.append(&mut self.bare);
        }
        Said { errors: self.errors, killed: self.killed, last: self.last.into() }
    }
}

/// How the API server begins what a webhook says (`admission/plugin/webhook/errors/statuserror.go`).
const DENIED: &str = "denied the request";

/// `Error: UPGRADE FAILED: …`, as Helm's commands that write begin theirs (`pkg/cmd/upgrade.go`).
fn is_helms_error(line: &str) -> bool {
    line.starts_with("Error: ") && line.contains(" FAILED: ")
}

fn header(line: &str) -> Option<Section> {
    Some(match line.trim_end() {
        "STDERR:" => Section::Stderr,
        "ERROR:" => Section::Error,
        "PATH:" | "ARGS:" | "EXIT STATUS" | "STDOUT:" | "COMBINED OUTPUT:" => Section::Other,
        _ => return None,
    })
}

/// What Helmfile says about a state file, without the file names before it.
fn of_helmfile(text: &str) -> Option<&str> {
    if let Some(says) = text.strip_prefix("err: ") {
        return Some(says);
    }
    let numbered = text.strip_prefix("err ").and_then(|rest| rest.split_once(": "));
    if let Some((number, says)) = numbered
        && number.chars().all(|c| c.is_ascii_digit())
    {
        return Some(says);
    }
    let mut rest = text.strip_prefix("in ")?;
    loop {
        let (file, says) = rest.split_once(": ")?;
        if !(file.contains(".yaml") || file.contains(".gotmpl") || file.starts_with("./")) {
            return None;
        }
        match says.strip_prefix("in ") {
            Some(inner) if inner.contains(": ") => rest = inner,
            _ => return Some(says),
        }
    }
}

/// What Helmfile says about its trace collector, usually that it does not answer (from `otlptrace`,
/// through Go's `log`): it says nothing about the cluster.
fn is_of_traces(text: &str) -> bool {
    text.contains(" traces export: ") || text.starts_with("OpenTelemetry tracing ")
}

/// Helmfile's message for a Helm that was killed (Go's `exec.ExitError`), on its own line; and
/// Rust's for a Helmfile that was.
pub fn is_killed(line: &str) -> bool {
    matches!(line.trim(), "signal: killed" | "signal: 9 (SIGKILL)")
}

/// What another manager owns of an object that Helm applies (server-side apply;
/// `apimachinery/pkg/util/managedfields/internal/conflict.go`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// `Deployment ameide/temporal`, if the message says.
    pub object: Option<String>,
    pub manager: String,
    pub subresource: Option<String>,
    pub fields: Vec<String>,
}

impl Conflict {
    /// An autoscaler that sets `replicas`, as it should. `kubectl scale` writes the same
    /// subresource, but does not count.
    pub fn is_of_autoscaler(&self) -> bool {
        autoscaler::named(Some(&self.manager), self.subresource.as_deref()).is_some()
            && self.fields.iter().all(|field| field.ends_with(".replicas"))
    }

    /// The controller that puts together the rules of an aggregated ClusterRole: it applies them by
    /// force, whoever sets them.
    pub fn is_of_aggregation(&self) -> bool {
        self.manager == "clusterrole-aggregation-controller" && self.fields.iter().any(|field| field == ".rules")
    }
}

/// The conflicts in an error, in each of its forms: one in the sentence itself, several by manager,
/// each field on a line.
pub fn conflicts(text: &str) -> Vec<Conflict> {
    let mut found = Vec::new();
    for (before, after) in occurrences(text, "Apply failed with ") {
        let object = object_of(before);
        let mut rest = after;
        while let Some((_, tail)) = split_any(rest, &["conflicts with \"", "conflict with \""]) {
            let Some((conflict, tail)) = one_conflict(tail, object.clone()) else { break };
            found.push(conflict);
            rest = tail;
        }
    }
    found
}

/// Each occurrence, with the error's text before and after it.
fn occurrences<'a>(text: &'a str, word: &'a str) -> Vec<(&'a str, &'a str)> {
    let starts: Vec<usize> = text.match_indices(word).map(|(at, _)| at).collect();
    let mut begin = 0;
    let mut found = Vec::new();
    for (index, at) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(text.len());
        found.push((&text[begin..*at], &text[at + word.len()..end]));
        begin = at + word.len();
    }
    found
}

fn split_any<'a>(text: &'a str, words: &[&str]) -> Option<(&'a str, &'a str)> {
    let (at, word) = words.iter().filter_map(|word| Some((text.find(word)?, word))).min()?;
    Some((&text[..at], &text[at + word.len()..]))
}

/// Parses what follows `conflict with "`.
fn one_conflict(text: &str, object: Option<String>) -> Option<(Conflict, &str)> {
    let (manager, mut rest) = quoted(text)?;
    let mut subresource = None;
    if let Some(tail) = rest.strip_prefix(" with subresource \"") {
        let (name, tail) = quoted(tail)?;
        subresource = Some(name);
        rest = tail;
    }
    // ` using apps/v1 at 2025-11-25T12:00:00Z`: ends at the first colon before white space.
    let colon = rest.match_indices(':').find(|(at, _)| rest[at + 1..].starts_with([' ', '\n', '\r']))?.0;
    rest = &rest[colon + 1..];
    let line_end = rest.find('\n').unwrap_or(rest.len());
    let same_line = rest[..line_end].trim();
    if !same_line.is_empty() && !same_line.starts_with("- ") {
        let fields = vec![same_line.to_owned()];
        return Some((Conflict { object, manager, subresource, fields }, &rest[line_end..]));
    }
    let mut fields = Vec::new();
    // On separate lines, or joined by spaces.
    let mut tail = rest;
    while let Some(item) = tail.trim_start().strip_prefix("- ") {
        let ends = [item.find('\n'), item.find(" - ."), item.find(" conflicts with ")];
        let end = ends.into_iter().flatten().min().unwrap_or(item.len());
        fields.push(item[..end].trim().to_owned());
        tail = &item[end..];
    }
    (!fields.is_empty()).then_some((Conflict { object, manager, subresource, fields }, tail))
}

/// The rest of a string in Go's `%q` format, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// `conflict occurred while applying object ameide/temporal apps/v1, Kind=Deployment: `
fn object_of(before: &str) -> Option<String> {
    let (_, object) = before.rsplit_once("object ")?;
    let (name, kind) = object.split_once(' ')?;
    let kind = kind.split_once("Kind=")?.1;
    let kind: String = kind.chars().take_while(char::is_ascii_alphanumeric).collect();
    Some(format!("{kind} {}", name.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use run_record::Code;

    /// Helmfile 1.8 about a failed Helm, as in a log.
    const FRAME: &str = r#"Upgrading release=web, chart=../charts/web, namespace=shop
level=WARN msg="unable to find exact version; falling back to closest available version" chart=web

UPDATED RELEASES:
NAME   NAMESPACE   CHART           VERSION   DURATION
db     shop        ../charts/db    0.1.0     3s

FAILED RELEASES:
NAME   NAMESPACE   CHART           VERSION   DURATION
web    shop        ../charts/web             1s

in ./helmfile.yaml: in .helmfiles[0]: failed processing release web: command "/usr/local/bin/helm" exited with non-zero status:

PATH:
  /usr/local/bin/helm

ARGS:
  0: helm (4 bytes)
  1: upgrade (7 bytes)
  2: web (3 bytes)
  3: ../charts/yaml: template: (7 bytes)

ERROR:
  exit status 1

EXIT STATUS
  1

STDERR:
  W1125 12:00:00.123456   77 warnings.go:110] "Warning: unknown field \"spec.x\""
  Error: UPGRADE FAILED: conflict occurred while applying object shop/web apps/v1, Kind=Deployment: Apply failed with 2 conflicts: conflicts with "kubectl-edit" using apps/v1:
  - .spec.replicas
  - .spec.template.spec.containers[name="web"].image

COMBINED OUTPUT:
  Error: UPGRADE FAILED: conflict occurred while applying object shop/web apps/v1
"#;

    #[test]
    fn helms_error_is_found_in_helmfiles_frame_and_the_frame_is_no_cause() {
        let said = of_lines(FRAME.lines());
        let verdicts: Vec<_> = said.errors.iter().filter_map(Statement::verdict).collect();
        assert_eq!(verdicts.len(), 1, "{:?}", said.errors);
        assert_eq!(verdicts[0].0.rule.code, Code::FieldConflict);
        assert!(said.killed.is_none());
        let helm = said.errors.iter().find(|error| error.speaker == Speaker::Helm).unwrap();
        let conflicts = conflicts(&helm.text);
        assert_eq!(conflicts.len(), 1);
        assert_eq!(conflicts[0].object.as_deref(), Some("Deployment shop/web"));
        assert_eq!(conflicts[0].fields, [".spec.replicas", ".spec.template.spec.containers[name=\"web\"].image"]);
    }

    #[test]
    fn why_a_webhook_denies_is_read_to_its_end() {
        let denied = |why: &str| {
            let frame = format!(
                "STDERR:\n  Error: UPGRADE FAILED: admission webhook \"mutate.kyverno.svc-fail\" denied the request: \n\n  resource Pod/shop/web was blocked due to the following policies \n\n  verify-image:\n    verify: '{why}'\n"
            );
            let (verdict, line) = of_lines(frame.lines()).errors[0].verdict().unwrap();
            assert!(line.contains("denied the request: resource Pod/shop/web") && line.contains(why), "{line}");
            verdict.rule.code
        };
        let unreachable = "failed to verify image ghcr.io/shop/web:1: Get \"https://tuf-repo-cdn.sigstore.dev/root.json\": dial tcp: lookup tuf-repo-cdn.sigstore.dev: server misbehaving";
        assert_eq!(denied(unreachable), Code::WebhookUnavailable);
        assert_eq!(denied("failed to verify image ghcr.io/shop/web:1: no matching signatures"), Code::WebhookDenied);
        // What ended the rollback says nothing about the denial.
        let rolled_back = "Error: UPGRADE FAILED: an error occurred while rolling back the release. original upgrade error: admission webhook \"x\" denied the request: replicas <= 3: context deadline exceeded";
        for text in [
            rolled_back,
            "Error: UPGRADE FAILED: admission webhook \"x\" denied the request: no\n  context deadline exceeded",
        ] {
            let frame = format!("STDERR:\n  {text}\n");
            assert_eq!(of_lines(frame.lines()).errors[0].verdict().unwrap().0.rule.code, Code::WebhookDenied, "{text}");
        }
        let not_rolled_back = "Error: UPGRADE FAILED: unable to find a previously successful release when attempting to rollback. original upgrade error: admission webhook \"x\" denied the request: failed to verify image: Get \"https://ghcr.io/v2/\": context deadline exceeded";
        let said = of_lines(format!("STDERR:\n  {not_rolled_back}\n").lines());
        assert_eq!(said.errors[0].verdict().unwrap().0.rule.code, Code::WebhookUnavailable);
        // A registry that the webhook names is not the one that Helm gets a chart from.
        let asked = "GET https://ghcr.io/v2/shop/web/manifests/1: response status code 403: denied: denied";
        assert_eq!(denied(asked), Code::WebhookDenied);
    }

    #[test]
    fn that_nobody_takes_helmfiles_traces_is_no_cause() {
        let refused = "2026/11/27 19:05:08 traces export: Post \"http://127.0.0.1:4318/v1/traces\": dial tcp 127.0.0.1:4318: connect: connection refused";
        let error = "Error: INSTALLATION FAILED: quota exceeded";
        for text in [error.to_owned(), FRAME.to_owned()] {
            let traced = format!("OpenTelemetry tracing enabled\n{text}\n{refused}\n");
            assert_eq!(of_lines(traced.lines()), of_lines(text.lines()));
        }
    }

    #[test]
    fn a_cause_is_found_however_much_is_written_after_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = Utf8Path::from_path(file.path()).unwrap();
        let old = "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress\n\n";
        let noise = format!("Upgrading release=x, chart=y\n{}\n", "z".repeat(LINE * 3));
        std::fs::write(path, format!("{old}{FRAME}\n{}", noise.repeat(300))).unwrap();
        let said = read(path, old.len() as u64).unwrap();
        let codes: Vec<Code> = said.errors.iter().filter_map(|e| Some(e.verdict()?.0.rule.code)).collect();
        assert_eq!(codes, [Code::FieldConflict]);
    }

    #[test]
    fn what_a_hook_prints_is_not_helms_word() {
        let lines = "Logs for pod web-hook\n  Error: UPGRADE FAILED: another operation is in progress\nnamespace x is being terminated\n";
        assert_eq!(of_lines(lines.lines()).errors, []);
        // Next to a frame, text outside it is not Helm's error either.
        let mixed = format!("Error: secrets is forbidden: User \"x\" cannot list resource\n\n{FRAME}");
        let codes: Vec<Code> =
            of_lines(mixed.lines()).errors.iter().filter_map(|e| Some(e.verdict()?.0.rule.code)).collect();
        assert_eq!(codes, [Code::FieldConflict]);
    }

    #[test]
    fn a_killed_helm_is_told_from_what_a_container_says() {
        assert!(is_killed("  signal: killed") && is_killed("signal: 9 (SIGKILL)"));
        assert!(!is_killed("Unhealthy: Liveness probe errored: command timed out: signal: killed"));
        let frame = "in ./x.yaml: failed processing release web: command \"helm\" exited\n\nERROR:\n  signal: killed\n";
        assert_eq!(of_lines(frame.lines()).killed.as_deref(), Some("signal: killed"));
    }

    #[test]
    fn every_form_of_a_conflict_names_manager_and_fields() {
        let cases = [
            (
                r#"Apply failed with 1 conflict: conflict with "kubectl-set" using apps/v1: .spec.template.spec.containers[name="temporal"].image"#,
                vec![("kubectl-set", None, vec![".spec.template.spec.containers[name=\"temporal\"].image"])],
            ),
            (
                r#"Apply failed with 1 conflict: conflict with "kubectl-set" using apps/v1 at 2025-11-25T12:00:00Z: .spec.x"#,
                vec![("kubectl-set", None, vec![".spec.x"])],
            ),
            (
                r#"Apply failed with 1 conflict: conflict with "kube-controller-manager" with subresource "scale" using apps/v1: .spec.replicas"#,
                vec![("kube-controller-manager", Some("scale"), vec![".spec.replicas"])],
            ),
            (
                "Apply failed with 1 conflict: conflict with \"argocd-controller\": .data.key",
                vec![("argocd-controller", None, vec![".data.key"])],
            ),
            (
                "Apply failed with 4 conflicts: conflicts with \"flux\":\n- .spec.a\nconflicts with \"kubectl-edit\" using apps/v1:\n  - .spec.b\n  - .spec.c\nconflicts with \"hpa\" with subresource \"scale\" using apps/v1:\n- .spec.replicas",
                vec![
                    ("flux", None, vec![".spec.a"]),
                    ("kubectl-edit", None, vec![".spec.b", ".spec.c"]),
                    ("hpa", Some("scale"), vec![".spec.replicas"]),
                ],
            ),
            (
                "Apply failed with 2 conflicts: conflicts with \"kubectl edit\" using v1: - .data.a - .data.b",
                vec![("kubectl edit", None, vec![".data.a", ".data.b"])],
            ),
        ];
        for (text, expected) in cases {
            let found = conflicts(text);
            let found: Vec<_> = found
                .iter()
                .map(|c| (c.manager.as_str(), c.subresource.as_deref(), c.fields.iter().map(String::as_str).collect()))
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn the_rules_of_an_aggregated_cluster_role_are_for_no_chart_to_set() {
        let of = |by: &str| format!("Apply failed with 1 conflict: conflict with {by:?} using {RBAC}: .rules");
        assert!(conflicts(&of("clusterrole-aggregation-controller"))[0].is_of_aggregation());
        assert!(!conflicts(&of("kubectl-edit"))[0].is_of_aggregation());
    }

    const RBAC: &str = "rbac.authorization.k8s.io/v1";

    #[test]
    fn an_autoscalers_replicas_are_its_own_and_those_of_kubectl_scale_are_not() {
        let of = |text: &str| conflicts(text)[0].is_of_autoscaler();
        assert!(of(
            r#"Apply failed with 1 conflict: conflict with "k3s" with subresource "scale" using apps/v1: .spec.replicas"#
        ));
        assert!(!of(
            r#"Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale" using apps/v1: .spec.replicas"#
        ));
        assert!(!of(
            r#"Apply failed with 1 conflict: conflict with "dashboard" with subresource "scale" using apps/v1: .spec.replicas"#
        ));
        assert!(!of(r#"Apply failed with 1 conflict: conflict with "kubectl-set" using apps/v1: .spec.replicas"#));
    }

    #[test]
    fn what_helms_libraries_log_is_no_error() {
        for line in [
            "E0204 17:06:35.898427   76690 memcache.go:121] \"Unhandled Error\" err=\"couldn't get resource list\"",
            "W1125 12:00:00.123456       1 warnings.go:70] would violate PodSecurity \"restricted:latest\"",
            "level=WARN msg=\"x509: certificate signed by unknown authority\"",
            "time=2025-11-25T12:00:00Z level=ERROR msg=\"yaml: x\"",
            "WARNING: Kubernetes configuration file is group-readable. This is insecure.",
        ] {
            assert!(sources::is_warning(line), "{line}");
        }
        assert!(
            !sources::is_warning("Error: UPGRADE FAILED: x") && !sources::is_warning("E") && !sources::is_warning("")
        );
    }
}
