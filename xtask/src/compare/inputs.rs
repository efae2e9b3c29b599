//! What a layer's rendering depends on, as one digest for each named part; and what in the tree
//! makes it depend on more than that, which no digest can capture.
//!
//! Which files Helmfile reads is derived from the tree, without asking Helmfile: it runs with
//! `readFile` and similar functions disabled, so it reads only what files name. Every file may be
//! read, except those of another layer, another environment or a chart that nothing names. A file
//! included by mistake costs a rendering; one excluded by mistake would give a wrong answer. The
//! cluster's answers and the record's content are handled elsewhere.

mod around;
mod charts;
mod parts;
mod template;
mod text;
mod words;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use camino::{Utf8Path, Utf8PathBuf};
use sha2::Sha256;

use crate::files::{bounds, digest};
use crate::repo::Tree;
use crate::repo::layers::Layer;
use around::{NOT_READ, given, is_of_one_run};
use charts::{CAPABILITIES, Piece, REVISION, pieces_of, reached, unsteady, without_passing_on, writes_its_root};
use parts::part;
use run_record::Failure;
use template::{Token, actions, tokens, uncommented};
use text::Text;
use words::{ANY, Names, words};

pub(crate) use around::Around;
pub(crate) use parts::{OF_CONTEXT, Parts, changed, kept};
pub(crate) use text::UNRENDERED;

/// The inputs of one layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs {
    pub parts: Parts,
    /// Why equal parts do not imply an equal rendering; empty if they do.
    pub doubts: Vec<String>,
    /// The files that give Helm's upgrade more than a rendering shows: if a part has changed, an equal
    /// rendering does not imply that there is nothing to do.
    pub unrendered: Vec<String>,
}

/// Everything below `infra/kubernetes`, read once for all layers of an environment.
#[derive(PartialEq)]
pub(crate) struct Files {
    files: BTreeMap<Utf8PathBuf, File>,
    environment: String,
    environments: Vec<String>,
}

struct File {
    content: Vec<u8>,
    /// What Helmfile may make of it, once that is asked for: most files are read for several layers.
    text: OnceLock<Text>,
}

impl PartialEq for File {
    fn eq(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

impl File {
    fn written(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.content)
    }
}

/// The annotation in a `Chart.yaml` that says that everything the chart looks up in the cluster or
/// generates randomly is in the release's own objects.
const KEPT: &str = "ameide/generated";

/// How deeply folders may be nested, including through links.
const DEEPEST: usize = 16;

impl Files {
    /// # Errors
    /// `usage` for a file that cannot be read: if it were skipped, a change could be missed.
    pub fn read(tree: &Tree, environment: &str) -> Result<Self, Failure> {
        let root = tree.path("infra/kubernetes");
        let mut files = BTreeMap::new();
        walk(&root, Utf8Path::new(""), DEEPEST, &mut files)?;
        Ok(Self { files, environment: environment.to_owned(), environments: tree.environments()? })
    }

    /// A file as it is written.
    fn content(&self, path: &Utf8Path) -> Cow<'_, str> {
        self.files.get(path).map(File::written).unwrap_or_default()
    }

    /// The inputs of a layer.
    ///
    /// # Errors
    /// If the layer's file is not among those that were read.
    pub fn of(&self, layer: &Layer, around: &Around<'_>) -> Result<Inputs, Failure> {
        let state = self.state(layer)?;
        let (read, names) = self.read_for(state, around);
        let mut found = Inputs::default();
        let states = states(state, &read, &mut found.doubts);
        let values = values_of(&states, &read, &self.environment);
        let mut variables: BTreeSet<&str> = BTreeSet::new();
        for (path, text) in &read {
            let is_state = states.contains(path);
            text.doubts_of_values(path, is_state, &mut found.doubts);
            if is_state {
                text.doubts_of_a_state(path, &mut found.doubts);
                found.unrendered.extend(text.text.contains(UNRENDERED).then(|| path.to_string()));
            }
            if is_state || values.name(path) {
                text.doubts_of_places(path, is_state, &self.environment, around, &mut found.doubts);
            }
            variables.extend(text.variables.iter().map(String::as_str));
        }

        let charts = self.charts(&names);
        for chart in &charts {
            self.doubts_of_a_chart(chart, &read, &mut found.doubts);
            self.doubts_of_dependencies(chart, &read, &mut found.doubts);
        }
        let mut groups: BTreeMap<String, Sha256> = BTreeMap::new();
        for (path, file) in &self.files {
            let group = group_of(path);
            if charts.contains(&group) || read.contains_key(path.as_path()) {
                let hash = groups.entry(group).or_default();
                part(hash, path.as_str().as_bytes());
                part(hash, &file.content);
            }
        }
        found.parts = groups.into_iter().map(|(group, hash)| (group, digest::hex(hash, 16))).collect();
        for (name, value) in &around.named {
            found.parts.insert((*name).to_owned(), digest::of_bytes(value.as_bytes()));
        }
        found.parts.insert("the lock of the images".to_owned(), digest::of_bytes(around.lock));
        found.parts.insert("the environment's name".to_owned(), digest::of_bytes(self.environment.as_bytes()));
        for (name, value) in &around.variables {
            let of_the_tools = name.starts_with("HELM") && !NOT_READ.contains(&name.as_str());
            if (variables.contains(name.as_str()) || of_the_tools) && !is_of_one_run(name) {
                found.parts.insert(format!("the variable {name}"), digest::of_bytes(value.as_encoded_bytes()));
            }
        }
        found.doubts.sort();
        found.doubts.dedup();
        Ok(found)
    }

    /// Takes apart what this layer reads, which [`Self::of`] then need not do, as far as no variable
    /// names more.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn parse(&self, layer: &Layer) -> Result<(), Failure> {
        self.read_for(self.state(layer)?, &Around::default());
        Ok(())
    }

    /// The layer's file.
    fn state(&self, layer: &Layer) -> Result<&Utf8Path, Failure> {
        let missing = || Failure::usage(format!("{} is not below infra/kubernetes", layer.path));
        let state = Utf8Path::new("helmfiles").join(layer.path.file_name().ok_or_else(missing)?);
        let (state, _) = self.files.get_key_value(&state).ok_or_else(missing)?;
        Ok(state)
    }

    /// What Helmfile may read: everything that is not foreign, and what of the rest any of these
    /// files names, or a variable that they read; and all that these name.
    fn read_for(&self, state: &Utf8Path, around: &Around<'_>) -> (BTreeMap<&Utf8Path, &Text>, Names) {
        let is_foreign = |path: &Utf8Path| path != state && self.is_foreign(path);
        let (mut foreign, own): (Vec<_>, Vec<_>) = self.files.iter().partition(|(path, _)| is_foreign(path));
        let mut read = BTreeMap::new();
        let mut names = Names::default();
        let mut new = own;
        while !new.is_empty() {
            for (path, file) in new {
                let text = file.text.get_or_init(|| Text::new(&file.written(), &self.environment));
                names.join(&text.names);
                for (_, value) in given(&text.variables, around) {
                    names.add_all(&words(&value, &self.environment));
                }
                read.insert(path.as_path(), text);
            }
            // A folder that is named may be put together with a file's name; of a chart it is Helm
            // that reads it, and what an editor leaves there is nobody's.
            (new, foreign) = foreign.into_iter().partition(|(path, _)| {
                names.name(path)
                    || (!path.starts_with("charts") && !is_an_editors(path) && names.name_a_folder_of(path))
            });
        }
        (read, names)
    }

    /// Whether a file is read only if something names it: another layer's, another environment's, a
    /// chart's, an editor's.
    fn is_foreign(&self, path: &Utf8Path) -> bool {
        let parts: Vec<&str> = path.components().map(|part| part.as_str()).collect();
        match parts.as_slice() {
            [TOP] | ["charts", ..] => true,
            ["helmfiles", _] => is_layer(path),
            ["environments", of, _, ..] if *of != self.environment => self.environments.iter().any(|known| known == of),
            _ => is_an_editors(path),
        }
    }

    /// The charts of which anything is named, as groups.
    fn charts(&self, names: &Names) -> BTreeSet<String> {
        let charts = self.files.keys().filter(|path| path.starts_with("charts"));
        charts.filter(|path| names.name(path) || names.name_a_folder_of(path)).map(|path| group_of(path)).collect()
    }

    /// What in a chart's dependencies is not in the chart itself.
    fn doubts_of_dependencies(&self, chart: &str, read: &BTreeMap<&Utf8Path, &Text>, doubts: &mut Vec<String>) {
        let of_layers = || read.values().flat_map(|text| &text.words);
        let nothing_is_fetched = of_layers().any(|word| word.key.as_deref() == Some("skipDeps") && word.text == "true");
        for path in self.files.keys().filter(|path| path.starts_with(chart)) {
            if path.as_str().ends_with(".tgz") || path.as_str().ends_with(".tar.gz") {
                doubts.push(format!("{path} is packed, and not looked into"));
            }
            if !matches!(path.file_name(), Some("Chart.yaml" | "requirements.yaml")) {
                continue;
            }
            for word in words(&uncommented(&self.content(path)), "") {
                if word.text == "dependencies" && word.key.is_none() && !nothing_is_fetched {
                    doubts.push(format!("{path}: its dependencies may be fetched (skipDeps)"));
                }
                let elsewhere = |folder: &str| folder.starts_with('/') || folder.split('/').any(|part| part == "..");
                if word.text.strip_prefix("file://").is_some_and(elsewhere) {
                    doubts.push(format!("{path}: a dependency from outside the chart ({})", word.shown()));
                }
            }
        }
    }

    /// What in a chart, including its subcharts, may render differently although its files, its
    /// values and the server's version are the same.
    fn doubts_of_a_chart(&self, chart: &str, read: &BTreeMap<&Utf8Path, &Text>, doubts: &mut Vec<String>) {
        let root = Utf8Path::new(chart);
        if !self.files.contains_key(&root.join("Chart.yaml")) {
            // Helmfile makes a chart of it, with programs of its own.
            doubts.push(format!("{root} has no Chart.yaml"));
        }
        let chart: serde_json::Value = bounds::yaml(&self.content(&root.join("Chart.yaml"))).unwrap_or_default();
        let kept = chart["annotations"][KEPT] == "kept";
        let mut pieces: Vec<Piece> = Vec::new();
        for (path, file) in self.files.iter().filter(|(path, _)| path.starts_with(root)) {
            let inner = path.strip_prefix(root).unwrap_or(path);
            let template = inner.components().any(|part| part.as_str() == "templates");
            let text = file.written();
            if template {
                pieces.extend(pieces_of(path, &text));
            } else if text.contains("{{") {
                // Values and files may be templates that the chart renders (`tpl`).
                pieces.push(Piece { path: path.clone(), name: None, text: text.into_owned() });
            }
        }
        // Values that the chart renders (`tpl`) call its definitions too.
        let calls =
            |text: &&Text| actions(&text.text).any(|action| action.contains("include") || action.contains("template"));
        let callers = read.iter().filter(|(_, text)| calls(text));
        pieces.extend(callers.map(|(path, text)| Piece {
            path: path.to_path_buf(),
            name: None,
            text: text.text.clone(),
        }));
        for piece in reached(&pieces).into_iter().filter(|piece| piece.path.starts_with(root)) {
            if writes_its_root(&piece.text) {
                doubts.push(format!("{} {REVISION} (it writes all that it is given)", piece.path));
            }
            for token in actions(&piece.text).flat_map(|action| without_passing_on(tokens(action))) {
                let (Token::Word(word) | Token::Text(word)) = token;
                let why = match token {
                    Token::Word(word) => unsteady(word, kept),
                    // As used in `index . "Release"` and `get $ "Capabilities"`.
                    Token::Text("Release") => Some(REVISION),
                    Token::Text("Capabilities") => Some(CAPABILITIES),
                    Token::Text(_) => None,
                };
                if let Some(why) = why {
                    doubts.push(format!("{} {why} ({word})", piece.path));
                }
            }
        }
    }
}

/// Lists all layers in order, which says nothing about the content of one.
const TOP: &str = "helmfile.yaml";

/// What layers need before they start: only read by xtask.
const NEEDS: &str = "layers.yaml";

fn walk(
    root: &Utf8Path,
    inner: &Utf8Path,
    depth: usize,
    files: &mut BTreeMap<Utf8PathBuf, File>,
) -> Result<(), Failure> {
    let folder = root.join(inner);
    let failed = |path: &Utf8Path, error: std::io::Error| Failure::usage(format!("cannot read {path}: {error}"));
    if depth == 0 {
        return Err(Failure::usage(format!("{folder}: its links form a loop")));
    }
    for entry in folder.read_dir_utf8().map_err(|error| failed(&folder, error))? {
        let entry = entry.map_err(|error| failed(&folder, error))?;
        let (path, inner) = (entry.path().to_owned(), inner.join(entry.file_name()));
        // Emacs' lock on a file that is being edited is a link to nowhere.
        if entry.file_name().starts_with(".#") {
            continue;
        }
        // Follows links, as Helm does when it reads charts, including those to other charts.
        let kind = path.metadata().map_err(|error| failed(&path, error))?;
        if kind.is_dir() {
            walk(root, &inner, depth - 1, files)?;
        } else if !kind.is_file() {
            // Reading a named pipe would wait for somebody who writes to it.
            return Err(Failure::usage(format!("cannot read {path}: expected a file or a folder")));
        } else {
            let content = std::fs::read(&path).map_err(|error| failed(&path, error))?;
            files.insert(inner, File { content, text: OnceLock::new() });
        }
    }
    Ok(())
}

/// What editors leave beside a file.
fn is_an_editors(path: &Utf8Path) -> bool {
    path.file_name().is_some_and(|name| name.starts_with('.') || name.ends_with('~'))
}

/// `45-data-plane-ext.yaml` in `helmfiles`.
fn is_layer(path: &Utf8Path) -> bool {
    path.parent().is_some_and(|folder| folder == "helmfiles") && matches!(Layer::from_path(path), Ok(Some(_)))
}

/// What these state files name outside their releases: the files with the values that state files may
/// take any text from.
fn values_of(states: &BTreeSet<&Utf8Path>, read: &BTreeMap<&Utf8Path, &Text>, environment: &str) -> Names {
    let mut names = Names::default();
    for text in states.iter().filter_map(|path| read.get(path)) {
        names.add_all(&words(&text.outside_releases(), environment));
    }
    names
}

/// The layer's state file and the parts that it is put together from: what is beside it or above
/// it, and its bases wherever they are.
fn states<'a>(
    layer: &'a Utf8Path,
    read: &BTreeMap<&'a Utf8Path, &Text>,
    doubts: &mut Vec<String>,
) -> BTreeSet<&'a Utf8Path> {
    let is_part = |path: &Utf8Path| {
        let folder = path.parent().map(Utf8Path::as_str).unwrap_or_default();
        let is_template = path.file_name().is_some_and(|name| name.starts_with('_') && name.ends_with(".tpl"));
        let is_beside = matches!(folder, "" | "helmfiles") && !is_layer(path) && path != TOP && path != NEEDS;
        path == layer || is_template || is_beside
    };
    let mut found = BTreeSet::new();
    let mut new: Vec<&Utf8Path> = read.keys().copied().filter(|path| is_part(path)).collect();
    while let Some(path) = new.pop() {
        let Some(text) = read.get(path).filter(|_| found.insert(path)) else { continue };
        for base in text.words.iter().filter(|word| word.key.as_deref() == Some("bases")) {
            let mut names = Names::default();
            names.add_all([base]);
            let bases: Vec<&Utf8Path> = read.keys().copied().filter(|path| names.name(path)).collect();
            if bases.is_empty() || base.text.contains(ANY) {
                doubts.push(format!("{path} has a base that is not known ({})", base.shown()));
            }
            new.extend(bases);
        }
    }
    found
}

/// The name under which a change of a file is reported: a chart as a whole, any other file by
/// itself.
fn group_of(path: &Utf8Path) -> String {
    let mut parts = path.components().map(|part| part.as_str());
    match (parts.next(), parts.next()) {
        (Some("charts"), Some(chart)) => format!("charts/{chart}"),
        _ => path.to_string(),
    }
}

/// All doubts about a text, treated as every kind of file.
#[cfg(any(test, fuzzing))]
pub(crate) fn doubts_in(text: &str) -> Vec<String> {
    let (path, mut doubts) = (Utf8Path::new("file"), Vec::new());
    let read = Text::new(text, "ci");
    read.doubts_of_values(path, false, &mut doubts);
    read.doubts_of_a_state(path, &mut doubts);
    read.doubts_of_places(path, false, "ci", &Around::default(), &mut doubts);
    states(path, &BTreeMap::from([(path, &read)]), &mut doubts);
    let pieces = pieces_of(path, text);
    doubts.extend(reached(&pieces).into_iter().map(|piece| piece.text.clone()));
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with one environment, these files below `infra/kubernetes`, and two layers.
    struct World {
        folder: tempfile::TempDir,
    }

    const STATE: &str = "bases: [../_defaults.yaml.gotmpl]\nreleases:\n  - name: web\n    chart: ../charts/web\n    values: [../values/web.yaml.gotmpl, '../environments/{{ .Environment.Name }}/web.yaml']\n";

    impl World {
        fn new() -> Self {
            let world = Self { folder: tempfile::tempdir().unwrap() };
            for (path, text) in [
                ("_defaults.yaml.gotmpl", "environments: {ci: {values: [../environments/ci/env.yaml]}}\n"),
                ("helmfile.yaml", "helmfiles: []\n"),
                ("layers.yaml", "criticalPath: []\n"),
                ("helmfiles/10-web.yaml", STATE),
                ("helmfiles/20-other.yaml", "releases: [{name: other, chart: ../charts/other}]\n"),
                ("environments/ci/env.yaml", "a: 1\n"),
                ("environments/staging/env.yaml", "a: 2\n"),
                ("environments/staging/web.yaml", "b: 2\n"),
                ("values/web.yaml.gotmpl", "replicas: 1\n"),
                ("values/other.yaml.gotmpl", "replicas: 1\n"),
                ("charts/web/Chart.yaml", "name: web\n"),
                ("charts/web/templates/a.yaml", "kind: ConfigMap\n"),
                ("charts/other/Chart.yaml", "name: other\n"),
                (
                    "charts/lib/templates/_x.tpl",
                    "{{ define \"lib.x\" }}{{ lookup \"v1\" \"Secret\" \"a\" \"b\" }}{{ end }}\n",
                ),
            ] {
                world.write(path, text);
            }
            std::fs::create_dir_all(world.path("charts/web/charts")).unwrap();
            std::os::unix::fs::symlink("../../lib", world.path("charts/web/charts/lib")).unwrap();
            world
        }

        fn path(&self, path: &str) -> std::path::PathBuf {
            self.folder.path().join("infra/kubernetes").join(path)
        }

        fn write(&self, path: &str, text: &str) {
            std::fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
            std::fs::write(self.path(path), text).unwrap();
        }

        fn tree(&self) -> Tree {
            Tree { root: Utf8PathBuf::from_path_buf(self.folder.path().to_owned()).unwrap() }
        }

        fn inputs(&self, around: &Around<'_>) -> Inputs {
            let tree = self.tree();
            let layer = tree.layers().unwrap().remove(0);
            Files::read(&tree, "ci").unwrap().of(&layer, around).unwrap()
        }

        fn doubts(&self) -> String {
            self.inputs(&around()).doubts.join("; ")
        }
    }

    fn around() -> Around<'static> {
        Around {
            named: vec![("helm", "v4.3.1".into())],
            lock: b"images: []",
            variables: ["AMEIDE_RUN", "AMEIDE_BY", "AMEIDE_X", "AWS_REGION", "AMEIDE_PLACE"]
                .map(|name| (name.into(), if name == "AMEIDE_PLACE" { "/etc/x" } else { "1" }.into()))
                .to_vec(),
        }
    }

    #[test]
    fn each_input_that_changes_is_named_and_what_no_rendering_reads_is_none() {
        let more = format!("{STATE}# more\n");
        for (path, text, told) in [
            ("helmfiles/10-web.yaml", more.as_str(), Some("helmfiles/10-web.yaml changed")),
            ("helmfiles/_extra.tpl", "x\n", Some("helmfiles/_extra.tpl is new")),
            ("_defaults.yaml.gotmpl", "environments: {}\n", Some("_defaults.yaml.gotmpl changed")),
            ("layers.yaml", "x\n", Some("layers.yaml changed")),
            ("environments/ci/env.yaml", "a: 3\n", Some("environments/ci/env.yaml changed")),
            ("environments/ci/web.yaml", "b: 1\n", Some("environments/ci/web.yaml is new")),
            ("values/web.yaml.gotmpl", "replicas: 2\n", Some("values/web.yaml.gotmpl changed")),
            // Whether the layer reads it depends on values.
            ("values/other.yaml.gotmpl", "replicas: 2\n", Some("values/other.yaml.gotmpl changed")),
            ("bases/common.yaml", "x\n", Some("bases/common.yaml is new")),
            ("helmfiles/10-web.lock", "x\n", Some("helmfiles/10-web.lock is new")),
            ("charts/web/templates/a.yaml", "kind: Secret\n", Some("charts/web changed")),
            ("charts/web/templates/b.yaml", "kind: Secret\n", Some("charts/web changed")),
            ("charts/lib/templates/_x.tpl", "\n", Some("charts/web changed")),
            ("helmfiles/20-other.yaml", "releases: []\n", None),
            ("helmfile.yaml", "x\n", None),
            ("environments/staging/web.yaml", "b: 3\n", None),
            ("environments/staging/env.yaml", "a: 3\n", None),
            ("charts/other/Chart.yaml", "name: others\n", None),
        ] {
            let world = World::new();
            let before = world.inputs(&around()).parts;
            assert_eq!(changed(&before, &world.inputs(&around()).parts), None);
            world.write(path, text);
            assert_eq!(changed(&before, &world.inputs(&around()).parts).as_deref(), told, "{path}");
        }
    }

    #[test]
    fn what_is_foreign_counts_once_anything_that_is_read_may_name_it() {
        for (path, text, foreign) in [
            (
                "helmfiles/10-web.yaml",
                "- ../environments/{{ .Values.inherit }}/web.yaml",
                "environments/staging/web.yaml",
            ),
            ("helmfiles/10-web.yaml", "- ../environments/staging/web.yaml", "environments/staging/web.yaml"),
            ("helmfiles/10-web.yaml", "- '../environments/s?aging/web.yaml'", "environments/staging/web.yaml"),
            ("helmfiles/10-web.yaml", "- '../environments/[s]taging/web.yaml'", "environments/staging/web.yaml"),
            ("helmfiles/10-web.yaml", "- '../environments/*/w*.yaml'", "environments/staging/web.yaml"),
            ("environments/ci/env.yaml", "folder: ../environments/staging", "environments/staging/web.yaml"),
            ("bases/common.yaml", "bases: [../environments/staging/web.yaml]", "environments/staging/web.yaml"),
            ("values/web.yaml.gotmpl", "{{ env \"AMEIDE_X\" }}", "environments/staging/web.yaml"),
            ("helmfiles/10-web.yaml", "bases: [20-other.yaml]", "helmfiles/20-other.yaml"),
            ("helmfiles/10-web.yaml", "values: [../values/.web.yaml.swp]", "values/.web.yaml.swp"),
            ("helmfiles/10-web.yaml", "values: ['../values/web.*']", "values/web.yaml~"),
            ("helmfiles/10-web.yaml", "- '[12]0-{{ .Release.Name }}.yaml'", "helmfiles/20-other.yaml"),
            ("_defaults.yaml.gotmpl", "bases: [../helmfile.yaml]", "helmfile.yaml"),
            (
                "helmfiles/10-web.yaml",
                "chart: ../charts/{{ .Release.Name | replace \"x\" \"y\" }}",
                "charts/other/Chart.yaml",
            ),
            ("helmfiles/10-web.yaml", "chart: '../charts/o*r'", "charts/other/Chart.yaml"),
            ("helmfiles/10-web.yaml", "values: [../charts/other/more.yaml]", "charts/other/more.yaml"),
            ("_defaults.yaml.gotmpl", "templates: {x: {chart: ../charts/other}}", "charts/other/values.yaml"),
        ] {
            let world = World::new();
            let around = Around { variables: vec![("AMEIDE_X".into(), "../environments/staging".into())], ..around() };
            let counts = |path: &str| {
                let before = world.inputs(&around).parts;
                let old = std::fs::read_to_string(world.path(path)).unwrap_or_default();
                world.write(path, &format!("{old}# more\n"));
                changed(&before, &world.inputs(&around).parts).is_some()
            };
            assert!(!counts(foreign), "{foreign}");
            let text = if path == "helmfiles/10-web.yaml" { format!("{STATE}{text}\n") } else { text.to_owned() };
            world.write(path, &text);
            assert!(counts(foreign), "{path}: {text}");
        }
    }

    #[test]
    fn two_files_that_swap_their_bytes_are_another_chart() {
        let world = World::new();
        world.write("charts/web/templates/a.yaml", "ab");
        world.write("charts/web/templates/b.yaml", "c");
        let before = world.inputs(&around()).parts;
        world.write("charts/web/templates/a.yaml", "a");
        world.write("charts/web/templates/b.yaml", "bc");
        assert_eq!(changed(&before, &world.inputs(&around()).parts).as_deref(), Some("charts/web changed"));
    }

    #[test]
    fn what_is_around_the_tree_counts_and_what_a_run_is_stamped_with_does_not() {
        let world = World::new();
        world.write("values/web.yaml.gotmpl", "x: {{ env \"AMEIDE_X\" }} {{ requiredEnv \"AWS_REGION\" }}\n");
        let labels = "commonLabels: {run: {{ env \"AMEIDE_RUN\" }}, by: {{ env \"AMEIDE_BY\" }}}\n";
        world.write("_defaults.yaml.gotmpl", labels);
        assert_eq!(world.doubts(), "");
        let before = world.inputs(&around()).parts;
        type Change = fn(&mut Around<'static>);
        let rows: [(Change, Option<&str>); 9] = [
            (|around| around.named[0].1 = "v4.3.2".into(), Some("helm changed")),
            (|around| around.lock = b"images: [x]", Some("the lock of the images changed")),
            (|around| around.variables[2].1 = "2".into(), Some("the variable AMEIDE_X changed")),
            (|around| around.variables[3].1 = "2".into(), Some("the variable AWS_REGION changed")),
            (|around| around.variables.push(("HELM_X".into(), "1".into())), Some("the variable HELM_X is new")),
            (|around| around.variables.push(("HELM_CACHE_HOME".into(), "/home/anna/.helm".into())), None),
            (|around| around.variables[0].1 = "2".into(), None),
            (|around| around.variables[1].1 = "2".into(), None),
            (|around| around.variables.push(("TERM".into(), "dumb".into())), None),
        ];
        for (change, told) in rows {
            let mut around = around();
            change(&mut around);
            assert_eq!(changed(&before, &world.inputs(&around).parts).as_deref(), told);
        }
    }

    #[test]
    fn what_no_digest_holds_is_a_doubt() {
        assert_eq!(World::new().doubts(), "");
        for (path, text, why) in [
            ("charts/web/templates/a.yaml", "x: {{ lookup \"v1\" \"Secret\" \"a\" \"b\" }}", "(lookup)"),
            ("charts/web/templates/a.yaml", "x: {{ include \"lib.x\" . }}", "charts/web/charts/lib/templates/_x.tpl"),
            ("charts/web/templates/a.yaml", "x: {{ include (print \"lib\" \".x\") . }}", "(lookup)"),
            ("charts/web/templates/a.yaml", "x: {{ now | date \"2006\" }}", "(now)"),
            ("charts/web/templates/a.yaml", "x: {{ .Values.since | date \"2006-01-02\" }}", "(date)"),
            ("charts/web/templates/a.yaml", "x: {{ .Values.since | toDate \"2006\" | unixEpoch }}", "(toDate)"),
            ("charts/web/templates/a.yaml", "x: {{ durationRound .Values.since }}", "(durationRound)"),
            (
                "values/web.yaml.gotmpl",
                "x: {{ `'{{ include \"lib.x\" . }}'` }}",
                "charts/web/charts/lib/templates/_x.tpl",
            ),
            ("environments/ci/web.yaml", "x: '{{ template \"lib.x\" . }}'", "charts/web/charts/lib/templates/_x.tpl"),
            ("environments/ci/web.yaml", "x: '{{ include .Values.name . }}'", "charts/web/charts/lib/templates/_x.tpl"),
            ("charts/web/templates/a.yaml", "x: {{- randAlphaNum 3 -}}", "(randAlphaNum)"),
            ("charts/web/templates/a.yaml", "x: {{ genCA \"x\" 3 }}", "(genCA)"),
            (
                "charts/web/templates/a.yaml",
                "x: {{ .Capabilities.APIVersions.Has \"x\" }}",
                "the API server's capabilities",
            ),
            ("charts/web/templates/a.yaml", "x: {{ $.Release.Revision }}", "the number of its revision"),
            (
                "charts/web/templates/a.yaml",
                "x: {{ with .Release }}{{ .Revision }}{{ end }}",
                "the number of its revision",
            ),
            ("charts/web/templates/a.yaml", "x: {{ (index . \"Release\").Revision }}", "the number of its revision"),
            (
                "charts/web/templates/a.yaml",
                "x: {{ get $ \"Capabilities\" | toYaml }}",
                "the API server's capabilities",
            ),
            ("charts/web/templates/a.yaml", "x: {{ toYaml . | sha256sum }}", "the number of its revision"),
            ("charts/web/templates/a.yaml", "x: {{ . | mustToJson | quote }}", "the number of its revision"),
            ("charts/web/templates/a.yaml", "{{ range .Values.x }}x: {{ toJson $ }}{{ end }}", "(it writes all"),
            ("charts/web/templates/a.yaml", "x: {{ printf \"%v\" . | sha256sum }}", "(it writes all"),
            (
                "charts/web/templates/a.yaml",
                "{{ define \"hash\" }}{{ toYaml . }}{{ end }}x: {{ include \"hash\" . | sha256sum }}",
                "(it writes all",
            ),
            ("charts/web/values.yaml", "x: '{{ getHostByName \"x\" }}'", "(getHostByName)"),
            ("values/web.yaml.gotmpl", "x: {{ isFile \"x\" }}", "(isFile)"),
            ("values/web.yaml.gotmpl", "x: ref+vault://a#b", "ref+"),
            ("values/web.yaml.gotmpl", "x: {{ env .Values.x }}", "(env)"),
            ("values/web.yaml.gotmpl", "# {{ env .Values.x }}", "(env)"),
            ("helmfiles/10-web.yaml", "hooks: [{events: [presync], command: date}]", "has hooks"),
            ("helmfiles/10-web.yaml", "bases: ['git::https://x/y']", "not below infra/kubernetes"),
            ("helmfiles/10-web.yaml", "    chart: stable/web", "outside the tree"),
            ("helmfiles/10-web.yaml", "    chart: /opt/web", "outside the tree"),
            ("helmfiles/10-web.yaml", "    chart: ../apps/web", "outside the tree"),
            ("helmfiles/10-web.yaml", "    chart: ../charts/{{ .Values.x }}", "outside the tree (../charts/{{…}})"),
            ("helmfiles/10-web.yaml", "    chart: *other", "outside the tree"),
            ("helmfiles/10-web.yaml", "    chart:\n    name: x", "a chart that is not known"),
            ("helmfiles/10-web.yaml", "  - {name: web, chart: bitnami/web}", "outside the tree (bitnami/web)"),
            (
                "helmfiles/10-web.yaml",
                "  - {\"name\":\"web\",\"chart\":\"bitnami/web\"}",
                "outside the tree (bitnami/web)",
            ),
            (
                "helmfiles/10-web.yaml",
                "  - {name: web, dependencies: [{chart: stable/x}]}",
                "outside the tree (stable/x)",
            ),
            ("_defaults.yaml.gotmpl", "templates: {x: {chart: stable/x}}", "outside the tree (stable/x)"),
            ("helmfiles/_x.tpl", "chart: stable/x", "outside the tree (stable/x)"),
            ("helmfiles/10-web.yaml", "  - {name: web, postRenderer: ./x}", "has postRenderer"),
            ("helmfiles/10-web.yaml", "  - {name: web, \"secrets\": [x.yaml]}", "has secrets"),
            ("helmfiles/10-web.yaml", "helmfiles: [x.yaml]", "has helmfiles"),
            ("helmfiles/10-web.yaml", "helmDefaults: {skipDeps: false}", "(skipDeps)"),
            ("helmfiles/10-web.yaml", "    values: [../../../secret.yaml]", "not below infra/kubernetes"),
            ("helmfiles/10-web.yaml", "    values: [../x/../../secret.yaml]", "not below infra/kubernetes"),
            ("helmfiles/10-web.yaml", "    - \"/etc/x.yaml\"", "not below infra/kubernetes (/etc/x.yaml)"),
            ("helmfiles/10-web.yaml", "    values: ['a.yaml', '/etc/x']", "not below infra/kubernetes (/etc/x)"),
            ("helmfiles/10-web.yaml", "    set: [{name: x, file: ~/x}]", "not below infra/kubernetes (~/x)"),
            (
                "helmfiles/10-web.yaml",
                "    - {{ default \"/etc/x\" .Values.x }}",
                "not below infra/kubernetes (/etc/x)",
            ),
            ("helmfiles/10-web.yaml", "    - {{ env \"HOME\" }}/x.yaml", "a file that is not known ({{…}}/x.yaml)"),
            ("helmfiles/10-web.yaml", "    values: [{{ .Values.x }}]", "a file that is not known"),
            (
                "helmfiles/10-web.yaml",
                "    x: [{{ env \"AMEIDE_PLACE\" }}]",
                "the variable AMEIDE_PLACE names something",
            ),
            ("helmfiles/10-web.yaml", "{{ toYaml .Values.releases }}", "from values (toYaml)"),
            ("environments/ci/env.yaml", "x: '/etc/x'", "not below infra/kubernetes (/etc/x)"),
            // In the middle of a path.
            ("environments/ci/env.yaml", "dir: ../x", "not below infra/kubernetes (../x)"),
            ("environments/ci/more.yaml", "dir: ../../../x", "not below infra/kubernetes (../../../x)"),
            ("values/of-the-state.yaml", "dir: ../../../x", "not below infra/kubernetes (../../../x)"),
            ("helmfiles/10-web.yaml", "bases: ['../bases/{{ .Values.x }}.yaml']", "a base that is not known"),
            ("helmfiles/10-web.yaml", "bases: [../bases/none.yaml]", "a base that is not known"),
            ("bases/common.yaml", "hooks: [x]", "bases/common.yaml has hooks"),
            ("bases/inner/common.yaml", "chart: stable/x", "bases/inner/common.yaml: a chart from outside the tree"),
            ("helmfiles/20-other.yaml", "releases: [{hooks: [x]}]", "helmfiles/20-other.yaml has hooks"),
            ("values/web.yaml.gotmpl", "x: {{ env \"AMEIDE_RUN\" }}", "differs with each run (AMEIDE_RUN)"),
            ("values/web.yaml.gotmpl", "x: {{ requiredEnv \"AMEIDE_BY\" }}", "differs with each run (AMEIDE_BY)"),
            ("environments/ci/env.yaml", "x: {{ env \"AMEIDE_RUN\" }}", "differs with each run (AMEIDE_RUN)"),
            ("_defaults.yaml.gotmpl", "x: {{ env \"TRACEPARENT\" }}", "differs with each run (TRACEPARENT)"),
            ("charts/web/charts/common-2.0.0.tgz", "x", "common-2.0.0.tgz is packed"),
            ("charts/web/charts/common.tar.gz", "x", "common.tar.gz is packed"),
            (
                "charts/web/Chart.yaml",
                "dependencies: [{name: x, repository: \"file://../x\"}]",
                "a dependency from outside the chart (file://../x)",
            ),
            ("charts/web/requirements.yaml", "- repository: file:///x", "a dependency from outside the chart"),
            ("charts/web/Chart.yaml", "dependencies: [{name: x}]", "may be fetched (skipDeps)"),
        ] {
            let world = World::new();
            let mut state = STATE.to_owned();
            if path.starts_with("bases/") || path == "helmfiles/20-other.yaml" {
                // One base includes the other.
                world.write("bases/common.yaml", "bases: [../bases/inner/common.yaml]\n");
                world.write("bases/inner/common.yaml", "bases: [20-other.yaml]\n");
                state += "---\nbases: ['../bases/common.yaml']\n";
            }
            if matches!(path, "environments/ci/more.yaml" | "values/of-the-state.yaml") {
                world.write(path, "");
                state = format!(
                    "environments:\n  ci:\n    values:\n    - ../environments/ci/more.yaml\n---\n{state}values:\n- ../values/of-the-state.yaml\n"
                );
            }
            world.write("helmfiles/10-web.yaml", &state);
            assert_eq!(world.doubts(), "", "before {text}");
            let text = if path == "helmfiles/10-web.yaml" { format!("{state}{text}\n") } else { text.to_owned() };
            world.write(path, &text);
            assert!(world.doubts().contains(why), "{text}: {}", world.doubts());
        }
        for (path, text) in [
            (
                "charts/web/templates/a.yaml",
                "x: {{ .Values.lookup }} {{ \"lookup\" }} lookup {{/* lookup */}} {{ .Capabilities.KubeVersion.Minor }}",
            ),
            (
                "charts/web/templates/a.yaml",
                "{{ with .Values.x }}{{ toYaml . }}{{ end }}{{ range $k, $v := .Values.y }}{{ quote . }}{{ end }}",
            ),
            (
                "charts/web/templates/a.yaml",
                "{{ define \"quoted\" }}{{ . | quote }}{{ printf \"%s-x\" . }}{{ end }}x: {{ include \"quoted\" .Values.x }}",
            ),
            (
                "charts/web/templates/a.yaml",
                "x: {{ include \"none\" . | quote }} {{ print $.Template.Name }} {{ printf \"%s\" (tpl .Values.x $) }}",
            ),
            ("values/web.yaml.gotmpl", "dir: ../../../x"),
            ("charts/web/Chart.yaml", "name: web\nannotations:\n  ameide/generated: kept\n"),
            ("values/web.yaml.gotmpl", "# ref+x\nx: {{ .Values.now }}"),
            ("values/web.yaml.gotmpl", "x: {{ readFile \"../../x\" }}"),
            ("_defaults.yaml.gotmpl", "x: {{ readFile \"../../x\" | fromYaml }}"),
            ("_defaults.yaml.gotmpl", "x: {{ readFile (env \"AMEIDE_PLACE\" | default \"../../x\") }}"),
            ("_defaults.yaml.gotmpl", "helmDefaults: {skipDeps: true} # see /etc/x"),
            ("_defaults.yaml.gotmpl", "templates: {x: {\"chart\": \"../charts/web\"}}"),
            ("_defaults.yaml.gotmpl", "values:\n{{- range $x }}\n- ../values/{{ . }}.yaml\n{{- end }}"),
            ("environments/images.yaml.gotmpl", "x: {{ $registry }}/{{ .target }}"),
            ("values/web.yaml.gotmpl", "secrets: [{path: /etc/x, url: 'https://x'}]\nchart: x"),
            ("charts/web/Chart.yaml", "repository: file://charts/x"),
            ("helmfiles/20-other.yaml", "hooks: [x]\nvalues: [{{ now }}]"),
            ("environments/staging/web.yaml", "x: {{ now }}"),
        ] {
            let world = World::new();
            world.write(path, text);
            assert_eq!(world.doubts(), "", "{text}");
        }
        let world = World::new();
        world.write("charts/web/Chart.yaml", "annotations:\n  ameide/generated: kept\n");
        world.write("charts/web/templates/a.yaml", "x: {{ include \"lib.x\" . }}{{ randAlpha 3 }}");
        assert_eq!(world.doubts(), "");
        world.write("charts/web/templates/a.yaml", "x: {{ include \"lib.x\" . }}{{ now }}");
        assert!(world.doubts().contains("reads the time"), "{}", world.doubts());
    }

    #[test]
    fn a_file_that_gives_an_upgrade_what_no_rendering_shows_is_named() {
        for (path, named) in [
            ("helmfiles/10-web.yaml", true),
            ("_defaults.yaml.gotmpl", true),
            ("values/web.yaml.gotmpl", false),
            ("helmfiles/20-other.yaml", false),
        ] {
            let world = World::new();
            assert_eq!(world.inputs(&around()).unrendered, [""; 0]);
            let text = format!("{STATE}helmDefaults: {{syncArgs: [--set, x=2]}}\n");
            world.write(path, &text);
            let found = world.inputs(&around()).unrendered;
            assert_eq!(found, if named { vec![path] } else { Vec::new() });
            world.write(path, &text.replace("helmDefaults", "# helmDefaults"));
            assert_eq!(world.inputs(&around()).unrendered, [""; 0], "{path}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let world = World::new();
        std::os::unix::fs::symlink("nowhere", world.path("values/broken.yaml")).unwrap();
        assert!(Files::read(&world.tree(), "ci").is_err_and(|failure| failure.message.contains("broken.yaml")));
        let world = World::new();
        std::os::unix::fs::symlink("..", world.path("charts/web/up")).unwrap();
        assert!(Files::read(&world.tree(), "ci").is_err());
        let world = World::new();
        rustix::fs::mkfifoat(rustix::fs::CWD, world.path("values/pipe"), rustix::fs::Mode::RUSR).unwrap();
        let failure = Files::read(&world.tree(), "ci").err().unwrap();
        assert!(failure.message.ends_with("values/pipe: expected a file or a folder"), "{failure}");
    }

    #[test]
    fn no_layer_of_the_tree_is_in_doubt_or_reads_what_is_another_s() {
        let tree = Tree { root: Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned() };
        let charts: [&[&str]; 7] = [
            &["namespaces", "service-accounts"],
            &["coredns-config"],
            &["postgres"],
            &["redis"],
            &["db-migrations"],
            &["minio", "neo4j", "temporal"],
            &["platform-smoke"],
        ];
        for environment in tree.environments().unwrap() {
            let files = Files::read(&tree, &environment).unwrap();
            for (layer, charts) in tree.layers().unwrap().iter().zip(charts) {
                let inputs = files.of(layer, &Around::default()).unwrap();
                assert_eq!(inputs.doubts, [""; 0], "{environment} {}", layer.name());
                let of = |folder: &str| -> Vec<&str> {
                    inputs.parts.keys().filter_map(|part| part.strip_prefix(folder)).collect()
                };
                assert_eq!(of("charts/"), charts, "{environment} {}", layer.name());
                assert_eq!(of("helmfiles/"), [layer.path.file_name().unwrap()], "{environment}");
                // `_defaults.yaml.gotmpl` lists them all.
                let is_foreign = |path: &&str| path.contains('/') && !path.ends_with("/env.yaml");
                let others = of("environments/").into_iter().filter(is_foreign);
                let others: Vec<&str> = others.filter(|path| !path.starts_with(&environment)).collect();
                assert_eq!(others, [""; 0], "{environment} {}", layer.name());
            }
        }
    }
}
