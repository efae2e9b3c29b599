//! Events as workflow commands of GitHub Actions: a group per layer in the log, and an annotation,
//! at the layer's file and line, for what ended the run. Whether the run is a GitHub job is not
//! checked here.

use std::collections::BTreeSet;

use crate::Event;

/// Reads the run's events and remembers the current layer.
#[derive(Clone, Debug, Default)]
pub struct Annotations {
    layer: Option<String>,
    /// All layers in progress. Groups cannot overlap, so a layer gets one only if no other layer is
    /// in progress when it starts.
    working: BTreeSet<String>,
    /// The layer that failed; the failure itself is reported after the layer has ended.
    failed: Option<String>,
}

impl Annotations {
    /// The workflow commands that come before and after the event's own line.
    /// `read` gives the text of a file of the tree.
    pub fn commands(&mut self, event: &Event, read: impl Fn(&str) -> Option<String>) -> (Vec<String>, Vec<String>) {
        match event {
            Event::LayerStarted { layer } => {
                let mut before = self.end_group();
                if self.working.is_empty() {
                    self.layer = Some(layer.clone());
                    before.push(format!("::group::{}", data(layer)));
                }
                self.working.insert(layer.clone());
                (before, Vec::new())
            }
            Event::LayerInPlace { layer, .. } | Event::LayerSkipped { layer, .. } => (Vec::new(), self.ended(layer)),
            Event::LayerFailed { layer, .. } => {
                // The first one decides how the run ends.
                self.failed.get_or_insert_with(|| layer.clone());
                (Vec::new(), self.ended(layer))
            }
            Event::Warning { resource, text } => {
                (Vec::new(), vec![format!("::warning title={}::{}", property(resource), data(text))])
            }
            Event::Failed(failure) => {
                let layer = self.failed.as_ref().or(self.layer.as_ref());
                let file = layer.map(|layer| format!("infra/kubernetes/helmfiles/{layer}.yaml"));
                let mut place = String::new();
                if let Some((file, text)) = file.and_then(|file| read(&file).map(|text| (file, text))) {
                    let line = line_of(&text, failure.release());
                    place = format!("file={},line={line},", property(&file));
                }
                let mut text = failure.message.clone();
                for line in failure.evidence.iter().map(|line| format!("evidence: {line}")) {
                    text.push_str(&format!("\n{line}"));
                }
                text.push_str(&failure.remedy.as_ref().map(|remedy| format!("\nremedy: {remedy}")).unwrap_or_default());
                let error = format!("::error {place}title={}::{}", property(failure.code.name()), data(&text));
                // Outside the group, so that it is visible without a click.
                (self.end_group(), vec![error])
            }
            Event::RunEnded { .. } => (self.end_group(), Vec::new()),
            _ => (Vec::new(), Vec::new()),
        }
    }

    fn ended(&mut self, layer: &str) -> Vec<String> {
        self.working.remove(layer);
        if self.layer.as_deref() == Some(layer) { self.end_group() } else { Vec::new() }
    }

    fn end_group(&mut self) -> Vec<String> {
        self.layer.take().map(|_| "::endgroup::".to_owned()).into_iter().collect()
    }
}

/// The line of the release in its layer's file; the first line if there is none.
fn line_of(layer: &str, release: Option<&str>) -> usize {
    let name = |line: &str| line.trim_start().strip_prefix("- name: ").map(|name| name.trim().to_owned());
    let found = layer.lines().position(|line| release.is_some() && name(line).as_deref() == release);
    found.map_or(1, |index| index + 1)
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, Failure};
    use std::time::Duration;

    const LAYER: &str = "releases:\n  - name: minio\n    namespace: ameide\n  - name: temporal\n";

    fn read(path: &str) -> Option<String> {
        (path == "infra/kubernetes/helmfiles/45-data-plane-ext.yaml").then(|| LAYER.to_owned())
    }

    fn layer() -> String {
        "45-data-plane-ext".to_owned()
    }

    #[test]
    fn a_failure_is_annotated_at_the_release_in_its_layer() {
        let mut annotations = Annotations::default();
        let started = Event::LayerStarted { layer: layer() };
        assert_eq!(annotations.commands(&started, read).0, ["::group::45-data-plane-ext"]);
        let took = Duration::from_secs(1);
        let failed = Event::LayerFailed { layer: layer(), code: Code::CrashLoop, took };
        assert_eq!(annotations.commands(&failed, read).1, ["::endgroup::"]);
        let failure = Failure::new(Code::CrashLoop, "pod ameide/temporal-64d6-dwl6l: crashes, 100%")
            .evidence("a\nb")
            .remedy("kubectl logs");
        for (failure, line) in [(failure.clone().of_release("temporal"), 4), (failure.of_release("temporal-64d6"), 1)] {
            let (before, after) = annotations.commands(&Event::Failed(failure), read);
            let error = format!(
                "::error file=infra/kubernetes/helmfiles/45-data-plane-ext.yaml,line={line},title=crash-loop::pod ameide/temporal-64d6-dwl6l: crashes, 100%25%0Aevidence: a%0Ab%0Aremedy: kubectl logs"
            );
            assert_eq!((before.len(), after), (0, vec![error]));
        }
        assert!(annotations.commands(&Event::RunEnded { exit: 8, took }, read).0.is_empty());
    }

    #[test]
    fn a_layer_that_is_in_place_ends_its_group_and_later_failures_have_no_file() {
        let mut annotations = Annotations::default();
        annotations.commands(&Event::LayerStarted { layer: layer() }, read);
        let done = Event::LayerInPlace {
            layer: layer(),
            releases: 2,
            how: crate::InPlace::Synced,
            took: Duration::from_secs(1),
        };
        assert_eq!(annotations.commands(&done, read).1, ["::endgroup::"]);
        let failure = Failure::usage("x");
        assert_eq!(annotations.commands(&Event::Failed(failure), read).1, ["::error title=usage::x"]);
    }
}
