//! On GitHub Actions (`GITHUB_ACTIONS=true`): a group per layer in the log, an
//! annotation at the layer's file and line for what ended the run, and the report
//! in the job's summary. Workflow commands as GitHub documents them.

use std::io::Write;

use crate::report;
use crate::run::context::Context;
use crate::run::reporter::Event;

pub fn active() -> bool {
    std::env::var("GITHUB_ACTIONS").is_ok_and(|value| value == "true")
}

/// Reads the run's events; remembers which layer is at work.
#[derive(Default)]
pub struct Annotations {
    layer: Option<String>,
}

impl Annotations {
    /// The workflow commands that come before and after the event's own line.
    /// `read` gives the text of a file of the tree.
    pub fn commands(&mut self, event: &Event, read: impl Fn(&str) -> Option<String>) -> (Vec<String>, Vec<String>) {
        match event {
            Event::Started { resource, step: "preflight" } => {
                let before = self.end_group();
                self.layer = Some((*resource).to_owned());
                ([before, vec![format!("::group::{}", data(resource))]].concat(), Vec::new())
            }
            Event::Finished { resource, step, .. } if step.starts_with("in place") => {
                let ends = self.layer.as_deref() == Some(resource);
                (Vec::new(), if ends { self.end_group() } else { Vec::new() })
            }
            Event::Warning { resource, text } => {
                (Vec::new(), vec![format!("::warning title={}::{}", property(resource), data(text))])
            }
            Event::Failure(failure) => {
                let file = self.layer.as_ref().map(|layer| format!("infra/kubernetes/helmfiles/{layer}.yaml"));
                let mut place = String::new();
                if let Some((file, text)) = file.and_then(|file| read(&file).map(|text| (file, text))) {
                    place = format!("file={},line={},", property(&file), line_of(&text, &failure.message));
                }
                let mut text = failure.message.clone();
                for line in failure.evidence.iter().map(|line| format!("evidence: {line}")) {
                    text.push_str(&format!("\n{line}"));
                }
                text.push_str(&failure.remedy.as_ref().map(|remedy| format!("\nremedy: {remedy}")).unwrap_or_default());
                let error = format!("::error {place}title={}::{}", property(failure.code.name()), data(&text));
                // Outside of the group, so that it is seen without a click.
                (self.end_group(), vec![error])
            }
            Event::End { .. } => (self.end_group(), Vec::new()),
            _ => (Vec::new(), Vec::new()),
        }
    }

    fn end_group(&mut self) -> Vec<String> {
        self.layer.take().map(|_| "::endgroup::".to_owned()).into_iter().collect()
    }
}

/// The line of the release that the message names, else the first.
fn line_of(layer: &str, message: &str) -> usize {
    let named = |name: &str| {
        message.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).any(|word| {
            // A pod is named after its release.
            word == name || word.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
        })
    };
    let found = layer
        .lines()
        .position(|line| line.trim_start().strip_prefix("- name: ").is_some_and(|name| named(name.trim())));
    found.map_or(1, |index| index + 1)
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Adds the run's report to the job's summary.
pub fn summarize(context: &Context) {
    let path = std::env::var("GITHUB_STEP_SUMMARY").ok().filter(|path| active() && !path.is_empty());
    let (Some(path), Some(markdown)) = (path, report::markdown_of(context)) else { return };
    // For reading later: losing it must not fail the job.
    if let Ok(mut file) = std::fs::File::options().append(true).create(true).open(path) {
        let _ = file.write_all(markdown.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::reporter::Outcome;
    use run_record::{Code, Failure};

    const LAYER: &str = "releases:\n  - name: minio\n    namespace: ameide\n  - name: temporal\n";

    fn read(path: &str) -> Option<String> {
        (path == "infra/kubernetes/helmfiles/45-data-plane-ext.yaml").then(|| LAYER.to_owned())
    }

    #[test]
    fn a_failure_is_annotated_at_the_release_in_its_layer() {
        let mut annotations = Annotations::default();
        let started = Event::Started { resource: "45-data-plane-ext", step: "preflight" };
        assert_eq!(annotations.commands(&started, read).0, ["::group::45-data-plane-ext"]);
        let failure = Failure::new(Code::CrashLoop, "pod ameide/temporal-64d6-dwl6l: crashes, 100%")
            .evidence("a\nb")
            .remedy("kubectl logs");
        let (before, after) = annotations.commands(&Event::Failure(&failure), read);
        assert_eq!(before, ["::endgroup::"]);
        assert_eq!(
            after,
            [
                "::error file=infra/kubernetes/helmfiles/45-data-plane-ext.yaml,line=4,title=crash-loop::pod ameide/temporal-64d6-dwl6l: crashes, 100%25%0Aevidence: a%0Ab%0Aremedy: kubectl logs"
            ]
        );
        assert!(annotations.commands(&Event::End { exit: 8, seconds: 1.0 }, read).0.is_empty());
    }

    #[test]
    fn a_layer_that_is_in_place_ends_its_group_and_later_failures_have_no_file() {
        let mut annotations = Annotations::default();
        annotations.commands(&Event::Started { resource: "45-data-plane-ext", step: "preflight" }, read);
        let step = "in place: 2 releases";
        let done = Event::Finished { resource: "45-data-plane-ext", step, outcome: Outcome::Done, seconds: 1.0 };
        assert_eq!(annotations.commands(&done, read).1, ["::endgroup::"]);
        let failure = Failure::usage("x");
        assert_eq!(annotations.commands(&Event::Failure(&failure), read).1, ["::error title=usage::x"]);
    }
}
