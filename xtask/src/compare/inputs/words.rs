//! The words of a file that Helmfile reads, and which files a word may name. What a template writes
//! is unknown, so it may be anything.

use std::collections::BTreeSet;

use camino::Utf8Path;

use super::template::{OFF, Token, tokens};

/// Stands for what a template writes.
pub(super) const ANY: char = '\0';

/// A part of a file between whitespace, quotes, brackets, commas and `=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub text: String,
    /// The key that it is a value of, as far as the words before it say; `None` for a key itself.
    pub key: Option<String>,
}

impl Word {
    /// For people.
    pub fn shown(&self) -> String {
        self.text.replace(ANY, "{{…}}")
    }
}

/// Actions that write nothing themselves.
const CONTROL: [&str; 10] = ["if", "else", "end", "range", "with", "define", "block", "break", "continue", "fail"];

/// The words of a text without comments, in the environment of this name.
pub(super) fn words(text: &str, environment: &str) -> Vec<Word> {
    let mut found: Vec<Word> = Vec::new();
    let mut key = None;
    for text in split(&flat(text, environment)) {
        if text == "---" {
            key = None;
            continue;
        }
        // `"key": value`, `"key":value` and `? key` have the colon by itself.
        if let Some(value) = text.strip_prefix(':')
            && let Some(last) = found.last_mut()
        {
            last.key = None;
            key = Some(last.text.clone());
            if !value.is_empty() {
                found.push(Word { text: value.to_owned(), key: key.clone() });
            }
        } else if let Some(name) = text.strip_suffix(':') {
            key = Some(name.to_owned());
            found.push(Word { text: name.to_owned(), key: None });
        } else if !matches!(text.as_str(), "-" | "?") {
            found.push(Word { text, key: key.clone().or_else(|| Some(String::new())) });
        }
    }
    found
}

/// The text with what its templates may write: the environment's name, [`ANY`], or nothing. The
/// strings in them come last, as words of their own.
fn flat(text: &str, environment: &str) -> String {
    let mut pieces = text.split("{{");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    let mut strings = String::new();
    for piece in pieces {
        let (action, rest) = piece.split_once("}}").unwrap_or((piece, ""));
        let found = tokens(action);
        let off = found.iter().any(|token| matches!(token, Token::Word(word) if OFF.contains(word)));
        let assigns = assigns(action);
        match found.as_slice() {
            [Token::Word(".Environment.Name" | "$.Environment.Name")] => plain.push_str(environment),
            [Token::Word(word), ..] if assigns || CONTROL.contains(word) => plain.push(' '),
            _ => plain.push(ANY),
        }
        for token in found.iter().filter(|_| !off) {
            if let Token::Text(text) = token {
                strings.push('\n');
                strings.push_str(&formatted(text));
            }
        }
        plain.push_str(rest);
    }
    format!("{plain}\n---{strings}")
}

/// `$name := …` or `$name = …`.
fn assigns(action: &str) -> bool {
    let variable = action.trim_start_matches('-').trim_start().strip_prefix('$');
    let after = variable.map(|name| name.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').trim_start());
    after.is_some_and(|after| after.starts_with(":=") || after.starts_with('='))
}

/// With [`ANY`] for each `%s` of `printf`.
fn formatted(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut all = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|c: char| c.is_ascii_alphabetic()).map_or(0, |at| at + 1);
        all.push(ANY);
        all.push_str(&piece[end..]);
    }
    all
}

fn split(text: &str) -> Vec<String> {
    text.lines().flat_map(|line| split_line(without_its_comment(line))).collect()
}

/// A `#` after a quote may be part of a string, and a template in a comment is executed.
fn without_its_comment(line: &str) -> &str {
    match line.find(" #") {
        Some(at) if !line[..at].contains(['"', '\'', '`']) && !line.contains(ANY) => &line[..at],
        _ => line,
    }
}

fn split_line(line: &str) -> Vec<String> {
    let (mut found, mut inside) = (vec![String::new()], Vec::new());
    let (mut rest, mut before) = (line, ' ');
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        let word = found.last_mut().expect("it is never empty");
        // `[ab]` within a word or at the start of a string is a pattern's. If it is a list after
        // all, what is in it counts too.
        let may_be_pattern = c == '[' && !before.is_whitespace() && !":[({,=".contains(before);
        if let Some(end) = may_be_pattern.then(|| rest.find(']')).flatten() {
            word.push(ANY);
            inside.extend(split_line(&rest[..end]));
            rest = &rest[end + 1..];
        } else if c.is_whitespace() || "\"'`[](){},=".contains(c) {
            found.push(String::new());
        } else {
            word.push(c);
        }
        before = c;
    }
    found.extend(inside);
    found.retain(|word| !word.is_empty());
    found
}

/// Words that may name files.
#[derive(Debug, Default)]
pub(super) struct Names {
    plain: BTreeSet<String>,
    /// What is between the wildcards of each pattern: two texts at least.
    patterns: BTreeSet<Vec<String>>,
}

impl Names {
    pub fn add_all<'a>(&mut self, words: impl IntoIterator<Item = &'a Word>) {
        // As a key it is the section of a state file, not the folder.
        let is_section = |word: &&Word| word.key.is_none() && word.text == "environments";
        words.into_iter().filter(|word| !is_section(word)).for_each(|word| self.add(&word.text));
    }

    /// Adds all of the others.
    pub fn join(&mut self, others: &Self) {
        self.plain.extend(others.plain.iter().cloned());
        self.patterns.extend(others.patterns.iter().cloned());
    }

    fn add(&mut self, word: &str) {
        let word = normal(word);
        let says_nothing = word.is_empty() || word == "*" || word.chars().all(|c| matches!(c, ANY | '/'));
        match says_nothing {
            true => false,
            false if word.contains(WILD) => self.patterns.insert(word.split(WILD).map(str::to_owned).collect()),
            false => self.plain.insert(word),
        };
    }

    /// Whether one of them may name a file. From where it starts is not known, so its end is
    /// enough.
    pub fn name(&self, path: &Utf8Path) -> bool {
        let path = path.as_str();
        let ends = || std::iter::once(0).chain(path.match_indices('/').map(|(at, _)| at + 1)).map(|at| &path[at..]);
        ends().any(|end| self.plain.contains(end))
            || self.patterns_to(path).any(|pattern| ends().any(|end| matches(pattern, end)))
    }

    /// Whether one of them names a folder that the file is in.
    pub fn name_a_folder_of(&self, path: &Utf8Path) -> bool {
        let mut folders = path.ancestors().skip(1).map(Utf8Path::as_str).filter(|folder| !folder.is_empty());
        folders.any(|folder| {
            self.plain.contains(folder) || self.patterns_to(folder).any(|pattern| matches(pattern, folder))
        })
    }

    /// The patterns that end as the path does: there are many, and few do.
    fn patterns_to(&self, path: &str) -> impl Iterator<Item = &[String]> {
        let patterns = self.patterns.iter().map(Vec::as_slice);
        patterns.filter(move |pattern| pattern.last().is_some_and(|last| path.ends_with(last.as_str())))
    }
}

const WILD: [char; 3] = [ANY, '*', '?'];

/// A path without `.` and `..`, as far as it says where those lead.
fn normal(word: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in word.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether a pattern matches, given what is between its wildcards, if each of these stands for any
/// text, including `/`.
fn matches(pattern: &[String], text: &str) -> bool {
    let [first, between @ .., last] = pattern else { return false };
    let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
    for literal in between {
        let Some(at) = rest.find(literal.as_str()) else { return false };
        rest = &rest[at + literal.len()..];
    }
    rest.ends_with(last.as_str())
}

/// Whether a path that starts in `helmfiles` leads out of `infra/kubernetes`.
pub(super) fn leads_out(word: &str) -> bool {
    let mut depth = 1;
    word.split('/').any(|part| {
        depth += match part {
            ".." => -1,
            "" | "." => 0,
            _ => 1,
        };
        depth < 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_names_every_file_that_it_may_become_the_path_of() {
        for (text, path, may) in [
            ("../environments/ci/web.yaml", "environments/ci/web.yaml", true),
            ("../environments/ci/web.yaml", "environments/staging/web.yaml", false),
            ("../environments/{{ .Environment.Name }}/web.yaml", "environments/staging/web.yaml", false),
            ("../environments/{{ .Values.inherit }}/web.yaml", "environments/staging/web.yaml", true),
            ("../environments/{{ .Values.inherit }}/web.yaml", "environments/staging/other.yaml", false),
            ("{{ printf \"../environments/%s/web.yaml\" .Values.inherit }}", "environments/staging/web.yaml", true),
            ("{{ list \"..\" \"environments\" .Values.x | join \"/\" }}", "environments/staging/web.yaml", true),
            ("environments: {ci: {}}", "environments/staging/web.yaml", false),
            ("folder: ../environments/staging", "environments/staging/web.yaml", true),
            ("'../environments/stag*/web.yaml'", "environments/staging/web.yaml", true),
            ("'../environments/stag?ng/web.yaml'", "environments/staging/web.yaml", true),
            ("'../environments/[st]taging/web.yaml'", "environments/staging/web.yaml", true),
            ("'../environments/stagin[gh]/web.yaml'", "environments/staging/web.yaml", true),
            ("'../*/*/web.yaml'", "environments/staging/web.yaml", true),
            ("../values/../environments/staging/web.yaml", "environments/staging/web.yaml", true),
            ("{{ .Values.registry }}/web", "environments/staging/web.yaml", false),
            ("{{ .Values.a }}{{ .Values.b }}", "environments/staging/web.yaml", false),
            ("[20-other.yaml]", "helmfiles/20-other.yaml", true),
            ("needs: [20-other]", "helmfiles/20-other.yaml", false),
            ("{chart: ../charts/web, name: x}", "charts/web/templates/a.yaml", true),
            ("{chart: ../charts/web, name: x}", "charts/webs/templates/a.yaml", false),
            ("chart: ../charts/{{ .Release.Name }}", "charts/web/templates/a.yaml", true),
            ("x: y # ../environments/staging", "environments/staging/web.yaml", false),
            ("x: 'y # ../environments/staging'", "environments/staging/web.yaml", true),
        ] {
            let mut names = Names::default();
            names.add_all(&words(text, "ci"));
            let path = Utf8Path::new(path);
            assert_eq!(names.name(path) || names.name_a_folder_of(path), may, "{text} {path}");
        }
    }

    #[test]
    fn a_value_belongs_to_the_key_before_it_however_both_are_written() {
        for text in ["chart: x", "- {chart: x}", "\"chart\": \"x\"", "{\"chart\":\"x\"}", "? chart\n: x", "chart:\n  x"]
        {
            let word = |text: &str, key: Option<&str>| Word { text: text.to_owned(), key: key.map(str::to_owned) };
            assert_eq!(words(text, "ci"), [word("chart", None), word("x", Some("chart"))], "{text}");
        }
    }

    #[test]
    fn a_path_leads_out_where_it_climbs_above_the_folder_of_all() {
        for (word, out) in
            [("../x", false), ("../../x", true), ("../..", true), ("../x/../../..", true), ("./a/../../b", false)]
        {
            assert_eq!(leads_out(word), out, "{word}");
        }
    }
}
