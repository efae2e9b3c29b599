//! What a layer's rendering depends on, as one digest for each named part; and what in the tree
//! makes it depend on more than that, which no digest can capture.
//!
//! Which files Helmfile reads is derived from the tree, without asking Helmfile: it reads what the
//! state file and its bases name, and runs with `readFile` and similar functions disabled. So a
//! file is excluded only if nothing in them contains its name. A file included by mistake costs a
//! rendering; one excluded by mistake would give a wrong answer. The cluster's answers and the
//! record's content are handled elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};

use crate::files::bounds;
use crate::repo::Tree;
use crate::repo::layers::Layer;
use run_record::Failure;

/// The digest of each part that the rendering depends on, by name.
pub(crate) type Parts = BTreeMap<String, String>;

/// The inputs of one layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs {
    pub parts: Parts,
    /// Why equal parts do not imply an equal rendering; empty if they do.
    pub doubts: Vec<String>,
}

/// What is not in `infra/kubernetes` but affects the rendering too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Around<'a> {
    pub environment: &'a str,
    /// By name: the versions of the tools, the flags, the server's version.
    pub named: Vec<(&'static str, String)>,
    /// The image lock that is passed to Helmfile.
    pub lock: &'a [u8],
    /// The environment variables that Helmfile gets.
    pub variables: Vec<(String, String)>,
}

/// Everything below `infra/kubernetes`, read once for all layers.
pub(crate) struct Files {
    files: BTreeMap<Utf8PathBuf, Vec<u8>>,
    environments: Vec<String>,
}

/// The annotation in a `Chart.yaml` that says that everything the chart looks up in the cluster or
/// generates randomly is in the release's own objects.
const KEPT: &str = "ameide/generated";

/// How deeply folders may be nested, including through links.
const DEEPEST: usize = 16;

impl Files {
    /// # Errors
    /// `usage` for a file that cannot be read: if it were skipped, a change could be missed.
    pub fn read(tree: &Tree) -> Result<Self, Failure> {
        let root = tree.path("infra/kubernetes");
        let mut files = BTreeMap::new();
        walk(&root, Utf8Path::new(""), DEEPEST, &mut files)?;
        Ok(Self { files, environments: tree.environments() })
    }

    fn text(&self, path: &Utf8Path) -> std::borrow::Cow<'_, str> {
        self.files.get(path).map(|content| String::from_utf8_lossy(content)).unwrap_or_default()
    }

    /// The inputs of a layer.
    ///
    /// # Errors
    /// If the layer's file is not among those that were read.
    pub fn of(&self, layer: &Layer, around: &Around<'_>) -> Result<Inputs, Failure> {
        let missing = || Failure::usage(format!("{} is not below infra/kubernetes", layer.path));
        let state = Utf8Path::new("helmfiles").join(layer.path.file_name().ok_or_else(missing)?);
        if !self.files.contains_key(&state) {
            return Err(missing());
        }
        let mut found = Inputs::default();
        // Files that can name others: the layer's own, those next to it and above it, the
        // environment's.
        let own = Utf8Path::new("environments").join(around.environment);
        let names: Vec<&Utf8PathBuf> = self
            .files
            .keys()
            .filter(|path| {
                let folder = path.parent().map(Utf8Path::as_str).unwrap_or_default();
                let is_state =
                    matches!(folder, "" | "helmfiles") && !is_layer(path) && !NO_STATE.contains(&path.as_str());
                **path == state || is_state || folder == "environments" || **path == own.join("env.yaml")
            })
            .collect();
        let mut corpus = String::new();
        let mut named: BTreeSet<String> = BTreeSet::new();
        for path in &names {
            let text = uncommented(&self.text(path));
            doubts_of_a_state(path, &text, **path == state, &mut found.doubts);
            variables_in(path, &text, &mut named, &mut found.doubts);
            corpus += &text;
        }
        let given = |name: &String| around.variables.iter().find(|(known, _)| known == name);
        let values: String = named.iter().filter_map(given).map(|(_, value)| format!("{value}\n")).collect();
        let corpus = corpus + &values;

        let mut groups: BTreeMap<String, Sha256> = BTreeMap::new();
        let mut charts: BTreeSet<String> = BTreeSet::new();
        for (path, content) in &self.files {
            let Some(group) = group_of(path) else { continue };
            if !(names.contains(&path)
                || path.as_str() == NEEDS
                || self.may_be_read(&group, path, &corpus, around.environment))
            {
                continue;
            }
            if let Some(chart) = group.strip_prefix("charts/") {
                charts.insert(chart.to_owned());
            } else if !names.contains(&path) && path.as_str() != NEEDS {
                let text = uncommented(&self.text(path));
                variables_in(path, &text, &mut named, &mut found.doubts);
                doubts_of_values(path, &text, &mut found.doubts);
            }
            let hash = groups.entry(group).or_default();
            part(hash, path.as_str().as_bytes());
            part(hash, content);
        }
        for chart in &charts {
            self.doubts_of_a_chart(chart, &mut found.doubts);
        }
        found.parts = groups.into_iter().map(|(group, hash)| (group, hex(hash))).collect();
        for (name, value) in &around.named {
            found.parts.insert((*name).to_owned(), digest(value.as_bytes()));
        }
        found.parts.insert("the lock of the images".to_owned(), digest(around.lock));
        found.parts.insert("the environment's name".to_owned(), digest(around.environment.as_bytes()));
        for (name, value) in &around.variables {
            let of_the_tools = name.starts_with("HELM") && !OURS.contains(&name.as_str());
            if (named.contains(name) && !STAMPS.contains(&name.as_str())) || of_the_tools {
                found.parts.insert(format!("the variable {name}"), digest(value.as_bytes()));
            }
        }
        found.doubts.sort();
        found.doubts.dedup();
        Ok(found)
    }

    /// Whether Helmfile may read a file: any, except those of another environment or layer, and
    /// those whose name occurs nowhere.
    fn may_be_read(&self, group: &str, path: &Utf8Path, corpus: &str, environment: &str) -> bool {
        if is_layer(path) || path.as_str() == TOP {
            return false;
        }
        let parts: Vec<&str> = path.components().map(|part| part.as_str()).collect();
        if let ["environments", of, _, ..] = parts.as_slice()
            && *of != environment
            && self.environments.iter().any(|known| known == of)
            && !corpus.contains(&format!("environments/{of}"))
        {
            return false;
        }
        // A pattern may match any name.
        let patterns = corpus.contains('*');
        let name = Utf8Path::new(group).file_name().unwrap_or_default();
        let stem = name.split('.').next().unwrap_or_default();
        patterns || stem.is_empty() || corpus.contains(stem)
    }

    /// What in a chart, including its subcharts, may render differently although its files, its
    /// values and the server's version are the same.
    fn doubts_of_a_chart(&self, chart: &str, doubts: &mut Vec<String>) {
        let root = Utf8Path::new("charts").join(chart);
        let chart: serde_json::Value = bounds::yaml(&self.text(&root.join("Chart.yaml"))).unwrap_or_default();
        let kept = chart["annotations"][KEPT] == "kept";
        let mut pieces: Vec<Piece> = Vec::new();
        for (path, content) in self.files.iter().filter(|(path, _)| path.starts_with(&root)) {
            let inner = path.strip_prefix(&root).unwrap_or(path);
            let template = inner.components().any(|part| part.as_str() == "templates");
            let text = String::from_utf8_lossy(content);
            if template {
                pieces.extend(pieces_of(path, &text));
            } else if text.contains("{{") {
                // Values and files may be templates that the chart renders (`tpl`).
                pieces.push(Piece { path: path.clone(), name: None, text: text.into_owned() });
            }
        }
        for piece in reached(&pieces) {
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

/// Files that Helmfile reads for no layer.
const NO_STATE: [&str; 2] = [TOP, NEEDS];

/// What layers need before they start: only read by xtask.
const NEEDS: &str = "layers.yaml";

/// What each revision is stamped with: the run's own id, which differs each time, and who ran it.
/// They do not affect what is rendered.
const STAMPS: [&str; 2] = ["AMEIDE_RUN", "AMEIDE_BY"];

/// This program's own variables whose names look like the tools'.
const OURS: [&str; 2] = ["HELM_LAYER_SELECTOR", "HELMFILE_ENVIRONMENT"];

fn walk(
    root: &Utf8Path,
    inner: &Utf8Path,
    depth: usize,
    files: &mut BTreeMap<Utf8PathBuf, Vec<u8>>,
) -> Result<(), Failure> {
    let folder = root.join(inner);
    let failed = |path: &Utf8Path, error: std::io::Error| Failure::usage(format!("cannot read {path}: {error}"));
    if depth == 0 {
        return Err(Failure::usage(format!("{folder}: its links form a loop")));
    }
    for entry in folder.read_dir_utf8().map_err(|error| failed(&folder, error))? {
        let entry = entry.map_err(|error| failed(&folder, error))?;
        let (path, inner) = (entry.path().to_owned(), inner.join(entry.file_name()));
        // Follows links, as Helm does when it reads charts, including those to other charts.
        if path.metadata().map_err(|error| failed(&path, error))?.is_dir() {
            walk(root, &inner, depth - 1, files)?;
        } else {
            let content = std::fs::read(&path).map_err(|error| failed(&path, error))?;
            files.insert(inner, content);
        }
    }
    Ok(())
}

/// `45-data-plane-ext.yaml` in `helmfiles`.
fn is_layer(path: &Utf8Path) -> bool {
    let numbered = path.file_name().is_some_and(|name| name.starts_with(|c: char| c.is_ascii_digit()));
    path.parent().is_some_and(|folder| folder == "helmfiles") && numbered
}

/// The name under which a change of a file is reported: a chart as a whole, any other file by
/// itself.
fn group_of(path: &Utf8Path) -> Option<String> {
    let mut parts = path.components().map(|part| part.as_str());
    match (parts.next(), parts.next()) {
        (Some("charts"), Some(chart)) => Some(format!("charts/{chart}")),
        (Some(_), _) => Some(path.to_string()),
        _ => None,
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
    let names: BTreeSet<&String> = recorded.keys().chain(now.keys()).collect();
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

fn words(action: &str) -> impl Iterator<Item = &str> {
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
        "now" | "ago" => Some("reads the time"),
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

fn doubts_of_values(path: &Utf8Path, text: &str, doubts: &mut Vec<String>) {
    for word in actions(text).flat_map(words) {
        if BEYOND.contains(&word) {
            doubts.push(format!("{path} reads something that no digest covers ({word})"));
        } else if let Some(why) = unsteady(word, false) {
            doubts.push(format!("{path} {why} ({word})"));
        }
    }
    if text.contains("ref+") {
        doubts.push(format!("{path} takes values from elsewhere (ref+)"));
    }
}

/// A state file, or a part of it.
fn doubts_of_a_state(path: &Utf8Path, text: &str, layer: bool, doubts: &mut Vec<String>) {
    doubts_of_values(path, text, doubts);
    let mut text = text.to_owned();
    for off in actions(&text.clone()).filter(|action| words(action).any(|word| OFF.contains(&word))) {
        text = text.replace(off, "");
    }
    for line in text.lines() {
        let entry = line.trim().trim_start_matches("- ");
        let (key, value) = entry.split_once(':').unwrap_or((entry, ""));
        let key = key.trim();
        let value = value.trim();
        if matches!(
            key,
            "hooks" | "postRenderer" | "transformers" | "jsonPatches" | "strategicMergePatches" | "secrets"
        ) {
            doubts.push(format!("{path} has {key}"));
        }
        if key == "helmfiles" {
            doubts.push(format!("{path} contains nested helmfiles"));
        }
        let local = value.starts_with("./") || value.starts_with("../");
        if layer && key == "chart" && !local {
            doubts.push(format!("{path}: a chart from outside the tree ({value})"));
        }
        let above = entry.matches("../").count() > 1 && entry.contains("../../");
        let absolute = entry.starts_with('/') || value.starts_with('/') || value.starts_with("[/");
        if above || absolute || ["://", "git::", "oci:"].iter().any(|remote| entry.contains(remote)) {
            doubts.push(format!("{path} names something that is not below infra/kubernetes ({entry})"));
        }
    }
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
    let (path, mut doubts, mut named) = (Utf8Path::new("file"), Vec::new(), BTreeSet::new());
    let plain = uncommented(text);
    doubts_of_a_state(path, &plain, true, &mut doubts);
    variables_in(path, &plain, &mut named, &mut doubts);
    let pieces = pieces_of(path, text);
    doubts.extend(reached(&pieces).into_iter().map(|piece| piece.text.clone()));
    doubts
}

/// The variables that a template reads.
fn variables_in(path: &Utf8Path, text: &str, named: &mut BTreeSet<String>, doubts: &mut Vec<String>) {
    for action in actions(text) {
        let tokens = tokens(action);
        for (index, token) in tokens.iter().enumerate() {
            match (token, tokens.get(index + 1)) {
                (Token::Word("env" | "requiredEnv"), Some(Token::Text(name))) => drop(named.insert((*name).to_owned())),
                (Token::Word(word @ ("env" | "requiredEnv" | "expandenv")), _) => {
                    doubts.push(format!("{path} reads a variable whose name is computed ({word})"));
                }
                _ => {}
            }
        }
    }
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
            Files::read(&tree).unwrap().of(&layer, around).unwrap()
        }

        fn doubts(&self) -> String {
            self.inputs(&around()).doubts.join("; ")
        }
    }

    fn around() -> Around<'static> {
        Around {
            environment: "ci",
            named: vec![("helm", "v4.3.1".into())],
            lock: b"images: []",
            variables: ["AMEIDE_RUN", "AMEIDE_BY", "AMEIDE_X"].map(|name| (name.into(), "1".into())).to_vec(),
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
            ("charts/web/templates/a.yaml", "kind: Secret\n", Some("charts/web changed")),
            ("charts/web/templates/b.yaml", "kind: Secret\n", Some("charts/web changed")),
            ("charts/lib/templates/_x.tpl", "\n", Some("charts/web changed")),
            ("helmfiles/20-other.yaml", "releases: []\n", None),
            ("helmfile.yaml", "x\n", None),
            ("environments/staging/web.yaml", "b: 3\n", None),
            ("values/other.yaml.gotmpl", "replicas: 2\n", None),
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
        world.write(
            "values/web.yaml.gotmpl",
            "x: {{ env \"AMEIDE_X\" }} {{ env \"AMEIDE_RUN\" }} {{ env \"AMEIDE_BY\" }}\n",
        );
        let before = world.inputs(&around()).parts;
        type Change = fn(&mut Around<'static>);
        let rows: [(Change, Option<&str>); 7] = [
            (|around| around.named[0].1 = "v4.3.2".into(), Some("helm changed")),
            (|around| around.lock = b"images: [x]", Some("the lock of the images changed")),
            (|around| around.variables[2].1 = "2".into(), Some("the variable AMEIDE_X changed")),
            (|around| around.variables.push(("HELM_X".into(), "1".into())), Some("the variable HELM_X is new")),
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
            ("helmfiles/10-web.yaml", "    values: [../../../secret.yaml]", "not below infra/kubernetes"),
        ] {
            let world = World::new();
            let text = if path == "helmfiles/10-web.yaml" { format!("{STATE}{text}\n") } else { text.to_owned() };
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
    fn what_cannot_be_read_is_an_error() {
        let world = World::new();
        std::os::unix::fs::symlink("nowhere", world.path("values/broken.yaml")).unwrap();
        assert!(Files::read(&world.tree()).is_err_and(|failure| failure.message.contains("broken.yaml")));
        let world = World::new();
        std::os::unix::fs::symlink("..", world.path("charts/web/up")).unwrap();
        assert!(Files::read(&world.tree()).is_err());
    }

    #[test]
    fn no_layer_of_the_tree_is_in_doubt() {
        let tree = Tree { root: Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned() };
        let files = Files::read(&tree).unwrap();
        let around = Around { environment: "ci", ..Around::default() };
        let in_doubt: Vec<String> =
            tree.layers().unwrap().iter().flat_map(|layer| files.of(layer, &around).unwrap().doubts).collect();
        assert_eq!(in_doubt, [""; 0]);
    }
}
