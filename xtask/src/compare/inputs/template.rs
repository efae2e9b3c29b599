//! What stands between `{{` and `}}`: the actions of Go's templates, their words and strings, and the
//! variables that they read.

use std::collections::BTreeSet;

/// The text between `{{` and `}}`, without comments.
pub(super) fn actions(text: &str) -> impl Iterator<Item = &str> {
    text.split("{{").skip(1).filter_map(|rest| {
        let action = rest.split("}}").next().unwrap_or_default();
        (!action.trim_start_matches('-').trim_start().starts_with("/*")).then_some(action)
    })
}

/// The tokens of an action that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A function or a field: `lookup`, `.Values.images`.
    Word(&'a str),
    /// A quoted string.
    Text(&'a str),
}

pub(super) fn tokens(action: &str) -> Vec<Token<'_>> {
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

pub(super) fn words_of(action: &str) -> impl Iterator<Item = &str> {
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

/// The functions that Helmfile runs without.
pub(super) const OFF: [&str; 5] = ["exec", "envExec", "readFile", "readDir", "readDirEntries"];

/// Removes comments of YAML and of templates. A template in a YAML comment is executed all the
/// same, and so is kept.
pub(super) fn uncommented(text: &str) -> String {
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

/// The variables that templates read, and the functions that read one whose name is computed.
pub(super) fn variables_in<'a>(actions: impl Iterator<Item = &'a str>) -> (BTreeSet<String>, Vec<&'a str>) {
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
