//! What a layer's rendering depends on, as one digest for each named part; and what in the tree
//! makes it depend on more than that, which no digest can capture.
//!
//! Which files Helmfile reads is derived from the tree, without asking Helmfile: it runs with
//! `readFile` and similar functions disabled, so it reads only what files name. Every file may be
//! read, except those of another layer, another environment or a chart that nothing names. A file
//! included by mistake costs a rendering; one excluded by mistake would give a wrong answer. The
//! cluster's answers and the record's content are handled elsewhere.

mod words;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::OnceLock;

use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};

use crate::files::bounds;
use crate::repo::Tree;
use crate::repo::layers::Layer;
use run_record::Failure;
use words::{ANY, Names, Word, leads_out, words};

/// The digest of each part that the rendering depends on, by name.
pub(crate) type Parts = BTreeMap<String, String>;

/// The part with the namespace for a release that names none. People choose it as they like
/// (`kubens`), so it is an input only where a release may have got its namespace from it.
pub(crate) const OF_CONTEXT: &str = "the context's namespace";

/// These parts as they are kept for releases in these namespaces.
pub(crate) fn kept<'a>(parts: &Parts, mut namespaces: impl Iterator<Item = &'a str>) -> Parts {
    let mut parts = parts.clone();
    let of_context = parts.get(OF_CONTEXT).cloned();
    if !namespaces.any(|namespace| of_context.as_ref() == Some(&digest(namespace.as_bytes()))) {
        parts.remove(OF_CONTEXT);
    }
    parts
}

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

/// What is not in `infra/kubernetes` but affects the rendering too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Around<'a> {
    /// By name: the versions of the tools, the flags, the server's version.
    pub named: Vec<(&'static str, String)>,
    /// The image lock that is passed to Helmfile.
    pub lock: &'a [u8],
    /// The environment variables that Helmfile gets. Their values may be secret.
    pub variables: Vec<(String, OsString)>,
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
        let mut variables: BTreeSet<&str> = BTreeSet::new();
        for (path, text) in &read {
            let is_state = states.contains(path);
            text.doubts_of_values(path, is_state, &mut found.doubts);
            if is_state {
                text.doubts_of_a_state(path, &mut found.doubts);
                found.unrendered.extend(text.text.contains(UNRENDERED).then(|| path.to_string()));
            }
            if is_state || is_of_an_environment(path, &self.environment) {
                text.doubts_of_places(path, &self.environment, around, &mut found.doubts);
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
        found.parts = groups.into_iter().map(|(group, hash)| (group, hex(hash))).collect();
        for (name, value) in &around.named {
            found.parts.insert((*name).to_owned(), digest(value.as_bytes()));
        }
        found.parts.insert("the lock of the images".to_owned(), digest(around.lock));
        found.parts.insert("the environment's name".to_owned(), digest(self.environment.as_bytes()));
        for (name, value) in &around.variables {
            let of_the_tools = name.starts_with("HELM") && !NOT_READ.contains(&name.as_str());
            if (variables.contains(name.as_str()) || of_the_tools) && !is_of_one_run(name) {
                found.parts.insert(format!("the variable {name}"), digest(value.as_encoded_bytes()));
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

/// What each revision is stamped with: the run's own id, which differs each time, and who ran it.
/// In a state file they are labels, which do not affect what is rendered.
const STAMPS: [&str; 2] = ["AMEIDE_RUN", "AMEIDE_BY"];

/// Whether a variable differs with each run or each of its steps.
fn is_of_one_run(name: &str) -> bool {
    STAMPS.contains(&name) || ["TRACEPARENT", "TRACESTATE"].contains(&name) || name.starts_with("OTEL_")
}

/// Variables whose names look like the tools', on which no rendering depends: this program's own, and
/// where and how the tools work, which differs between machines. Nothing is fetched (`skipDeps`).
const NOT_READ: [&str; 13] = [
    "HELM_LAYER_SELECTOR",
    "HELMFILE_ENVIRONMENT",
    "HELM_BURST_LIMIT",
    "HELM_CACHE_HOME",
    "HELM_COLOR",
    "HELM_CONFIG_HOME",
    "HELM_CONTENT_CACHE",
    "HELM_DEBUG",
    "HELM_QPS",
    "HELM_REGISTRY_CONFIG",
    "HELM_REPOSITORY_CACHE",
    "HELM_REPOSITORY_CONFIG",
    "HELMFILE_CACHE_HOME",
];

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

/// What defines an environment's values, which state files may take any text from.
fn is_of_an_environment(path: &Utf8Path, environment: &str) -> bool {
    let own = Utf8Path::new("environments").join(environment).join("env.yaml");
    path == own || path.parent().is_some_and(|folder| folder == "environments")
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

/// Adds the length first, so that different sequences of parts never give the same bytes.
fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    hex(hash)
}

fn hex(hash: Sha256) -> String {
    crate::files::digest::hex(hash, 16)
}

/// What differs between two sets of inputs, in words; `None` if nothing does.
pub(crate) fn changed(recorded: &Parts, now: &Parts) -> Option<String> {
    let mut names: BTreeSet<&String> = recorded.keys().chain(now.keys()).collect();
    if !recorded.contains_key(OF_CONTEXT) {
        names.retain(|name| *name != OF_CONTEXT);
    }
    let mut told: Vec<String> = names
        .into_iter()
        .filter_map(|name| match (recorded.get(name), now.get(name)) {
            (Some(before), Some(after)) if before == after => None,
            (Some(_), Some(_)) => Some(format!("{name} changed")),
            (None, _) => Some(format!("{name} is new")),
            (_, None) => Some(format!("{name} is gone")),
        })
        .collect();
    let rest = told.len().saturating_sub(3);
    told.truncate(3);
    let told = told.join(", ");
    match (told.is_empty(), rest) {
        (true, _) => None,
        (false, 0) => Some(told),
        (false, rest) => Some(format!("{told} and {rest} more")),
    }
}

/// A template of a chart: a `define`, or the text of a file outside them.
struct Piece {
    path: Utf8PathBuf,
    /// The name of a `define`.
    name: Option<String>,
    text: String,
}

/// The text between `{{` and `}}`, without comments.
fn actions(text: &str) -> impl Iterator<Item = &str> {
    text.split("{{").skip(1).filter_map(|rest| {
        let action = rest.split("}}").next().unwrap_or_default();
        (!action.trim_start_matches('-').trim_start().starts_with("/*")).then_some(action)
    })
}

/// The tokens of an action that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A function or a field: `lookup`, `.Values.images`.
    Word(&'a str),
    /// A quoted string.
    Text(&'a str),
}

fn tokens(action: &str) -> Vec<Token<'_>> {
    let (mut found, mut rest) = (Vec::new(), action);
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic() || matches!(c, '.' | '$' | '"' | '`')) {
        rest = &rest[start..];
        let first = rest.chars().next().unwrap_or_default();
        let end = match first {
            '"' => quoted(rest),
            '`' => rest[1..].find('`').map_or(rest.len(), |end| end + 2),
            _ => {
                rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '$' | '_'))).unwrap_or(rest.len())
            }
        };
        let token = &rest[..end];
        found.push(match first {
            '"' | '`' => Token::Text(token.trim_matches(first)),
            _ => Token::Word(token),
        });
        rest = &rest[end..];
    }
    found
}

fn words_of(action: &str) -> impl Iterator<Item = &str> {
    tokens(action).into_iter().filter_map(|token| match token {
        Token::Word(word) => Some(word),
        Token::Text(_) => None,
    })
}

/// The length of a double-quoted text, including its quotes.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

/// A file's definitions, and the text outside them.
fn pieces_of(path: &Utf8Path, text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut outside = String::new();
    // The definition being read, and how many blocks are open in it.
    let mut inside: Option<(String, String, usize)> = None;
    for (index, part) in text.split("{{").enumerate() {
        let action = part.split("}}").next().unwrap_or_default();
        let whole = if index == 0 { part.to_owned() } else { format!("{{{{{part}") };
        let words = action.trim_start_matches('-').trim();
        let first = words.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let opens = index > 0 && matches!(first, "if" | "range" | "with" | "block" | "define");
        match &mut inside {
            None if index > 0 && first == "define" => {
                let name = words.split('"').nth(1).unwrap_or_default().to_owned();
                inside = Some((name, whole, 0));
            }
            None => outside.push_str(&whole),
            Some((name, body, depth)) => {
                if index > 0 && first == "end" && *depth == 0 {
                    pieces.push(Piece {
                        path: path.to_owned(),
                        name: Some(std::mem::take(name)),
                        text: std::mem::take(body),
                    });
                    inside = None;
                    outside.push_str(&whole);
                } else {
                    *depth = if opens { *depth + 1 } else { depth.saturating_sub(usize::from(first == "end")) };
                    body.push_str(&whole);
                }
            }
        }
    }
    if let Some((_, body, _)) = inside {
        // It is not terminated: Helm will report that, and here it counts whoever calls it.
        outside.push_str(&body);
    }
    pieces.push(Piece { path: path.to_owned(), name: None, text: outside });
    pieces
}

/// The pieces that are rendered: those outside definitions, and definitions whose name occurs in a
/// rendered piece.
fn reached(pieces: &[Piece]) -> Vec<&Piece> {
    let mut found: Vec<&Piece> = pieces.iter().filter(|piece| piece.name.is_none()).collect();
    let mut next = 0;
    while next < found.len() {
        let text = found[next].text.clone();
        // A computed name may be any.
        let any = actions(&text).any(|action| {
            ["include", "template"].iter().any(|call| {
                action.split(call).skip(1).any(|after| after.starts_with(' ') && !after.trim_start().starts_with('"'))
            })
        });
        for piece in pieces {
            let named = piece.name.as_ref().is_some_and(|name| any || text.contains(&format!("\"{name}\"")));
            if named && !found.iter().any(|known| std::ptr::eq(*known, piece)) {
                found.push(piece);
            }
        }
        next += 1;
    }
    found
}

const REVISION: &str = "reads the number of its revision";
const CAPABILITIES: &str = "reads the API server's capabilities";

/// Removes `"Release" .Release`: a `dict` that passes the release on under its name does not use
/// it; whoever uses a field of it is found by that.
fn without_passing_on(tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
    let passes_on =
        |pair: &[Token<'_>]| matches!(pair, [Token::Text("Release"), Token::Word(".Release" | "$.Release")]);
    let mut kept = Vec::new();
    let mut rest = tokens.as_slice();
    while let [first, after @ ..] = rest {
        if rest.get(..2).is_some_and(passes_on) {
            rest = &rest[2..];
        } else {
            kept.push(*first);
            rest = after;
        }
    }
    kept
}

/// Why a word of a template makes the rendering depend on more than its inputs. What is looked up
/// or generated randomly is no doubt if the chart keeps it in its own objects, which are checked
/// separately.
fn unsteady(word: &str, kept: bool) -> Option<&'static str> {
    let capabilities = word.contains(".Capabilities") && !word.contains(".Capabilities.KubeVersion");
    // The last one is the whole object, for `toYaml` and `with`.
    let revision = [".Release.Revision", ".Release.IsUpgrade", ".Release.IsInstall", ".Release"];
    match word {
        "lookup" => (!kept).then_some("reads from the cluster"),
        "uuidv4" | "shuffle" | "htpasswd" | "bcrypt" | "encryptAES" => (!kept).then_some("generates random values"),
        _ if chance(word) => (!kept).then_some("generates random values"),
        // The date functions use the present time if they are given none, `durationRound` for a time;
        // `toDate` reads a date in this machine's zone.
        "now" | "ago" | "date" | "dateInZone" | "date_in_zone" | "htmlDate" | "htmlDateInZone" | "durationRound"
        | "toDate" | "mustToDate" => Some("reads the time"),
        "getHostByName" => Some("looks up an address"),
        _ if capabilities => Some(CAPABILITIES),
        _ if revision.iter().any(|field| word.ends_with(field)) => Some(REVISION),
        _ => None,
    }
}

/// `randAlphaNum`, `genSelfSignedCert` and similar functions.
fn chance(word: &str) -> bool {
    ["rand", "gen"]
        .iter()
        .any(|prefix| word.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase())))
}

/// Helmfile's own functions that go beyond its inputs. Not `readFile`, `exec` and similar: Helmfile
/// runs without them, and a template that calls them fails.
const BEYOND: [&str; 4] = ["isFile", "isDir", "fetchSecretValue", "expandSecretRefs"];

/// The functions that it runs without.
const OFF: [&str; 5] = ["exec", "envExec", "readFile", "readDir", "readDirEntries"];

/// A file that Helmfile may read.
struct Text {
    /// Without comments.
    text: String,
    words: Vec<Word>,
    /// What these may name.
    names: Names,
    /// The variables that it reads.
    variables: BTreeSet<String>,
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

impl Text {
    fn new(text: &str, environment: &str) -> Self {
        let text = uncommented(text);
        let (words, variables) = (words(&text, environment), variables_in(actions(&text)).0);
        let mut names = Names::default();
        names.add_all(&words);
        Self { text, words, names, variables }
    }

    fn doubts_of_values(&self, path: &Utf8Path, is_state: bool, doubts: &mut Vec<String>) {
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

    /// Paths that lead out of `infra/kubernetes`.
    fn doubts_of_places(&self, path: &Utf8Path, environment: &str, around: &Around<'_>, doubts: &mut Vec<String>) {
        for word in self.words.iter().filter(|word| is_elsewhere(word)) {
            doubts.push(format!("{path} names something that is not below infra/kubernetes ({})", word.shown()));
        }
        let on = actions(&self.text).filter(|action| !words_of(action).any(|word| OFF.contains(&word)));
        for (name, value) in given(&variables_in(on).0, around) {
            if words(&value, environment).iter().any(is_elsewhere) {
                doubts.push(format!("{path}: the variable {name} names something that is not below infra/kubernetes"));
            }
        }
    }

    /// A state file, or a part of it.
    fn doubts_of_a_state(&self, path: &Utf8Path, doubts: &mut Vec<String>) {
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

/// The values of these variables, by name.
fn given<'b>(variables: &'b BTreeSet<String>, around: &'b Around<'_>) -> impl Iterator<Item = (&'b str, String)> {
    let given = around.variables.iter().filter(|(name, _)| variables.contains(name) && !is_of_one_run(name));
    given.map(|(name, value)| (name.as_str(), value.to_string_lossy().into_owned()))
}

/// Exactly `../charts/NAME`.
fn is_chart(word: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name = word.strip_prefix("../charts/");
    name.is_some_and(|name| !name.is_empty() && name.chars().all(is_plain) && name != "." && name != "..")
}

/// Whether it is a path that leads out of `infra/kubernetes`, or an address.
fn is_elsewhere(word: &Word) -> bool {
    let word = word.text.as_str();
    let is_whole = word.len() > 1 && word.starts_with(['/', '~']);
    is_whole || leads_out(word) || ["://", "::", "oci:"].iter().any(|remote| word.contains(remote))
}

/// Removes comments of YAML and of templates. A template in a YAML comment is executed all the
/// same, and so is kept.
fn uncommented(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let action = rest[start + 2..].trim_start_matches('-').trim_start();
        let end = rest[start..].find("}}").map_or(rest.len(), |end| start + end + 2);
        kept.push_str(if action.starts_with("/*") { &rest[..start] } else { &rest[..end] });
        rest = &rest[end..];
    }
    kept.push_str(rest);
    kept.lines()
        .filter(|line| !line.trim_start().starts_with('#') || line.contains("{{"))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// All doubts about a text, treated as every kind of file.
#[cfg(any(test, fuzzing))]
pub(crate) fn doubts_in(text: &str) -> Vec<String> {
    let (path, mut doubts) = (Utf8Path::new("file"), Vec::new());
    let read = Text::new(text, "ci");
    read.doubts_of_values(path, false, &mut doubts);
    read.doubts_of_a_state(path, &mut doubts);
    read.doubts_of_places(path, "ci", &Around::default(), &mut doubts);
    states(path, &BTreeMap::from([(path, &read)]), &mut doubts);
    let pieces = pieces_of(path, text);
    doubts.extend(reached(&pieces).into_iter().map(|piece| piece.text.clone()));
    doubts
}

/// The variables that templates read, and the functions that read one whose name is computed.
fn variables_in<'a>(actions: impl Iterator<Item = &'a str>) -> (BTreeSet<String>, Vec<&'a str>) {
    let (mut named, mut computed) = (BTreeSet::new(), Vec::new());
    for tokens in actions.map(tokens) {
        for (index, token) in tokens.iter().enumerate() {
            match (token, tokens.get(index + 1)) {
                (Token::Word("env" | "requiredEnv"), Some(Token::Text(name))) => drop(named.insert((*name).to_owned())),
                (Token::Word(word @ ("env" | "requiredEnv" | "expandenv")), _) => computed.push(*word),
                _ => {}
            }
        }
    }
    (named, computed)
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
