//! A file that Helmfile may read: its words, and what in it no digest captures.

use std::collections::BTreeSet;

use camino::Utf8Path;

use super::around::{Around, STAMPS, given, is_of_one_run};
use super::charts::unsteady;
use super::template::{OFF, actions, uncommented, variables_in, words_of};
use super::words::{ANY, Names, Word, leads_out, words};

/// Helmfile's own functions that go beyond its inputs. Not `readFile`, `exec` and similar: Helmfile
/// runs without them, and a template that calls them fails.
const BEYOND: [&str; 4] = ["isFile", "isDir", "fetchSecretValue", "expandSecretRefs"];

/// A file that Helmfile may read.
pub(super) struct Text {
    /// Without comments.
    pub text: String,
    pub words: Vec<Word>,
    /// What these may name.
    pub names: Names,
    /// The variables that it reads.
    pub variables: BTreeSet<String>,
}

/// The keys of a state file that make Helmfile do more than render charts with values.
const MORE: [&str; 7] =
    ["hooks", "postRenderer", "transformers", "jsonPatches", "strategicMergePatches", "secrets", "helmfiles"];

/// The keys whose values are paths.
const PATHS: [&str; 4] = ["bases", "values", "file", "valuesPathPrefix"];

/// The key whose arguments Helmfile passes to `helm upgrade` and not to `helm template`.
pub(crate) const UNRENDERED: &str = "syncArgs";

/// Functions that write parts of a file from values.
const WHOLE: [&str; 3] = ["toYaml", "toJson", "tpl"];

impl Text {
    pub fn new(text: &str, environment: &str) -> Self {
        let text = uncommented(text);
        let (words, variables) = (words(&text, environment), variables_in(actions(&text)).0);
        let mut names = Names::default();
        names.add_all(&words);
        Self { text, words, names, variables }
    }

    pub fn doubts_of_values(&self, path: &Utf8Path, is_state: bool, doubts: &mut Vec<String>) {
        for word in actions(&self.text).flat_map(words_of) {
            if BEYOND.contains(&word) {
                doubts.push(format!("{path} reads something that no digest covers ({word})"));
            } else if let Some(why) = unsteady(word, false) {
                doubts.push(format!("{path} {why} ({word})"));
            }
        }
        if self.text.contains("ref+") {
            doubts.push(format!("{path} takes values from elsewhere (ref+)"));
        }
        for word in variables_in(actions(&self.text)).1 {
            doubts.push(format!("{path} reads a variable whose name is computed ({word})"));
        }
        let is_label = |name: &str| is_state && STAMPS.contains(&name);
        for name in self.variables.iter().filter(|name| is_of_one_run(name) && !is_label(name)) {
            doubts.push(format!("{path} reads a variable that differs with each run ({name})"));
        }
    }

    /// The text outside the lists of releases and their templates, which begin and end with a line that
    /// begins with a key.
    pub fn outside_releases(&self) -> String {
        let mut inside = false;
        let is_outside = |line: &&str| {
            let is_item = line.starts_with('-') && !line.starts_with("---");
            if !is_item && !line.is_empty() && !line.starts_with([' ', '#']) && !line.starts_with("{{") {
                let key = line.split(':').next().unwrap_or_default().trim_matches(['"', '\'', ' ']);
                inside = matches!(key, "releases" | "templates");
            }
            !inside
        };
        self.text.lines().filter(is_outside).flat_map(|line| [line, "\n"]).collect()
    }

    /// Paths that lead out of `infra/kubernetes`, in a state file or in values that one may put anywhere
    /// into a path.
    pub fn doubts_of_places(
        &self,
        path: &Utf8Path,
        is_state: bool,
        environment: &str,
        around: &Around<'_>,
        doubts: &mut Vec<String>,
    ) {
        for word in self.words.iter().filter(|word| is_elsewhere(word) || !is_state && climbs(word)) {
            doubts.push(format!("{path} names something that is not below infra/kubernetes ({})", word.shown()));
        }
        let on = actions(&self.text).filter(|action| !words_of(action).any(|word| OFF.contains(&word)));
        for (name, value) in given(&variables_in(on).0, around) {
            if words(&value, environment).iter().any(|word| is_elsewhere(word) || climbs(word)) {
                doubts.push(format!("{path}: the variable {name} names something that is not below infra/kubernetes"));
            }
        }
    }

    /// A state file, or a part of it.
    pub fn doubts_of_a_state(&self, path: &Utf8Path, doubts: &mut Vec<String>) {
        for (index, word) in self.words.iter().enumerate() {
            let Some(key) = word.key.as_deref() else {
                let next = self.words.get(index + 1).and_then(|next| next.key.as_deref());
                if word.text == "chart" && next != Some("chart") {
                    doubts.push(format!("{path}: a chart that is not known"));
                } else if MORE.iter().any(|more| word.text.starts_with(more)) {
                    doubts.push(format!("{path} has {}", word.text));
                }
                continue;
            };
            let after = word.text.trim_start_matches(ANY);
            if key == "chart" && !is_chart(&word.text) {
                doubts.push(format!("{path}: a chart from outside the tree ({})", word.shown()));
            } else if key == "skipDeps" && word.text != "true" {
                doubts.push(format!("{path} lets dependencies be fetched (skipDeps)"));
            } else if after != word.text && (after.starts_with('/') || PATHS.contains(&key)) {
                doubts.push(format!("{path} names a file that is not known ({})", word.shown()));
            }
        }
        for word in actions(&self.text).flat_map(words_of).filter(|word| WHOLE.contains(word)) {
            doubts.push(format!("{path} takes a part of itself from values ({word})"));
        }
    }
}

/// Exactly `../charts/NAME`.
fn is_chart(word: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name = word.strip_prefix("../charts/");
    name.is_some_and(|name| !name.is_empty() && name.chars().all(is_plain) && name != "." && name != "..")
}

fn climbs(word: &Word) -> bool {
    word.text.split('/').any(|part| part == "..")
}

/// Whether it is a path that leads out of `infra/kubernetes`, or an address.
fn is_elsewhere(word: &Word) -> bool {
    let word = word.text.as_str();
    let is_whole = word.len() > 1 && word.starts_with(['/', '~']);
    is_whole || leads_out(word) || ["://", "::", "oci:"].iter().any(|remote| word.contains(remote))
}
