//! Which templates of a chart are rendered, and what in a template may render differently although
//! nothing has changed.

use camino::{Utf8Path, Utf8PathBuf};

use super::template::{Token, actions, tokens};

/// A template of a chart: a `define`, or the text of a file outside them.
pub(super) struct Piece {
    pub path: Utf8PathBuf,
    /// The name of a `define`.
    pub name: Option<String>,
    pub text: String,
}

/// A file's definitions, and the text outside them.
pub(super) fn pieces_of(path: &Utf8Path, text: &str) -> Vec<Piece> {
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
pub(super) fn reached(pieces: &[Piece]) -> Vec<&Piece> {
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

pub(super) const REVISION: &str = "reads the number of its revision";
pub(super) const CAPABILITIES: &str = "reads the API server's capabilities";

/// Removes `"Release" .Release`: a `dict` that passes the release on under its name does not use
/// it; whoever uses a field of it is found by that.
pub(super) fn without_passing_on(tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
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

/// Functions that write an object as a text.
const WRITERS: [&str; 6] = ["Yaml", "YamlPretty", "Json", "PrettyJson", "RawJson", "Toml"];

/// Those that are used on any value: a definition that quotes what it is given is rarely given all.
const QUOTES: [&str; 4] = ["print", "println", "quote", "squote"];

/// Whether a template writes all that it is given: at its top that has the release and the
/// capabilities, as fields that nothing names.
pub(super) fn writes_its_root(text: &str) -> bool {
    // Of each open block, whether the dot is something else in it.
    let mut blocks: Vec<bool> = Vec::new();
    let mut is_definition = false;
    actions(text).map(tokens).any(|tokens| {
        match tokens.first() {
            Some(Token::Word("with" | "range" | "block")) => blocks.push(true),
            Some(Token::Word("if")) => blocks.push(false),
            Some(Token::Word("define")) => {
                is_definition = true;
                blocks.push(false);
            }
            Some(Token::Word("end")) => {
                blocks.pop();
            }
            _ => {}
        }
        let is_dot = !blocks.contains(&true);
        let is_root = |token: &Token<'_>| *token == Token::Word("$") || is_dot && *token == Token::Word(".");
        let writes = |token: &Token<'_>| match token {
            Token::Word(word) => {
                let word = word.strip_prefix("mustTo").or(word.strip_prefix("to")).unwrap_or(word);
                WRITERS.contains(&word) || !is_definition && QUOTES.contains(&word)
            }
            Token::Text(_) => false,
        };
        let is_piped = matches!(tokens.as_slice(), [root, writer, ..] if is_root(root) && writes(writer));
        let is_passed = tokens.windows(2).any(|pair| writes(&pair[0]) && is_root(&pair[1]));
        let is_formatted =
            |three: &[Token<'_>]| matches!(three, [Token::Word("printf"), Token::Text(_), root] if is_root(root));
        is_piped || is_passed || !is_definition && tokens.windows(3).any(is_formatted)
    })
}

/// Why a word of a template makes the rendering depend on more than its inputs. What is looked up
/// or generated randomly is no doubt if the chart keeps it in its own objects, which are checked
/// separately.
pub(super) fn unsteady(word: &str, kept: bool) -> Option<&'static str> {
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
