//! YAML as the Go programs read it that read the same files (Helm, Helmfile, k3d), and what is wrong
//! with it in words for people.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::{Error, MessageFormatter, Options, UserMessageFormatter};

/// How far aliases may expand, in YAML events (a scalar is one, a list two plus its items). YAML
/// templates were expanded by Helm and Helmfile before they are read here.
const REPLAYED: usize = 20_000;

/// How much of a line is quoted, in characters.
const QUOTED: usize = 100;

fn options() -> Options {
    let mut options = Options::default();
    options.alias_limits.max_total_replayed_events = REPLAYED;
    // Go's `sigs.k8s.io/yaml` reads YAML 1.1, where the file mode 0755 is 493.
    options.legacy_octal_numbers = true;
    options
}

/// One YAML document.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_saphyr::from_str_with_options(text, options())
}

/// All documents of a YAML stream.
pub fn documents(text: &str) -> Result<Vec<Value>, Error> {
    serde_saphyr::from_multiple_with_options(text, options())
}

/// What is wrong with a file: `line 3 column 9: "port: 99999": expected a whole number from 0 to
/// 65535`. It quotes the line, so it is for files that hold no secrets.
pub fn in_words(error: &Error, text: &str) -> String {
    let Some(at) = error.location() else { return message(error) };
    let line = text.lines().nth(usize::try_from(at.line()).unwrap_or_default().saturating_sub(1));
    let mut quoted: String = line.unwrap_or_default().trim().chars().take(QUOTED).collect();
    if !quoted.is_empty() {
        quoted = format!("\"{quoted}\": ");
    }
    format!("line {} column {}: {quoted}{}", at.line(), at.column(), message(error))
}

fn message(error: &Error) -> String {
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => message(error),
        Error::InvalidScalar { ty, .. } => match most(ty) {
            Some(most) => format!("expected a whole number from 0 to {most}"),
            None if *ty == "bool" => "expected true or false".to_owned(),
            None => format!("expected a number ({ty})"),
        },
        other => UserMessageFormatter.format_message(other).into_owned(),
    }
}

fn most(unsigned: &str) -> Option<u64> {
    match unsigned {
        "u8" => Some(u8::MAX.into()),
        "u16" => Some(u16::MAX.into()),
        "u32" => Some(u32::MAX.into()),
        "u64" => Some(u64::MAX),
        _ => None,
    }
}

/// # Errors
/// The position of what is not UTF-8.
pub fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').next_back().unwrap_or_default();
        let lines = before.iter().filter(|byte| **byte == b'\n').count();
        let column = String::from_utf8_lossy(line).chars().count();
        format!("line {} column {}: not UTF-8", lines + 1, column + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(rename = "port")]
        _port: u16,
        #[serde(rename = "tls", default)]
        _tls: bool,
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_its_line_and_what_is_expected() {
        for (text, expected) in [
            ("a: 1\n", "line 1 column 1: \"a: 1\": unknown field `a`, expected one of port, tls"),
            ("\nport: soon\n", "line 2 column 7: \"port: soon\": expected a whole number from 0 to 65535"),
            ("port: 99999\n", "line 1 column 7: \"port: 99999\": expected a whole number from 0 to 65535"),
            ("port: -1 # x\n", "line 1 column 7: \"port: -1 # x\": expected a whole number from 0 to 65535"),
            ("port: &a 1\nport: 2\n", "line 2 column 1: \"port: 2\": duplicate mapping key `port` is not allowed here"),
            ("port: 1\n---\nport: 2\n", "only single YAML document expected but multiple found"),
            ("port: 1\ntls: maybe\n", "line 2 column 6: \"tls: maybe\": "),
            ("port: [1\n", "line "),
        ] {
            let said = in_words(&parse::<File>(text).unwrap_err(), text);
            assert!(said.contains(expected), "{said}");
            for inside in ["Options", "from_str", "u16", "<input>", "\n"] {
                assert!(!said.contains(inside), "{inside} is in {said}");
            }
        }
        assert_eq!(utf8(b"a: 1\nb: \xff\n".to_vec()).unwrap_err(), "line 2 column 4: not UTF-8");
    }

    /// As `sigs.k8s.io/yaml` 1.6 reads them.
    #[test]
    fn numbers_are_those_that_helm_reads() {
        for (text, number) in
            [("0755", 493), ("-0755", -493), ("0o755", 493), ("0x1F", 31), ("0b11", 3), ("0", 0), ("00", 0), ("10", 10)]
        {
            assert_eq!(parse::<Value>(text).unwrap(), serde_json::json!(number), "{text}");
        }
        assert_eq!(parse::<Value>("\"0755\"").unwrap(), "0755");
        // No octal number, so a decimal one.
        assert_eq!(parse::<Value>("09").unwrap().as_f64(), Some(9.0));
    }
}
