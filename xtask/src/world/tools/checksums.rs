//! What a project's own checksum file says about one of its release archives.

use image_mirror::Digest;
use serde::Deserialize;

/// The format of a checksum file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Lines of a digest and the archive's name, as `sha256sum` prints them.
    Named,
    /// Only the digest.
    Bare,
}

/// The digest of the archive with this name.
///
/// # Errors
/// What is missing, as the end of a sentence that names the file.
pub fn digest_in(text: &str, form: Form, name: &str) -> Result<Digest, String> {
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|line| !line.is_empty());
    let mut found: Vec<&str> = match form {
        Form::Bare => lines.collect(),
        Form::Named => lines
            .filter_map(|line| line.split_once(char::is_whitespace))
            // Some include the folder where it was created; `*` marks binary mode.
            .filter(|(_, named)| named.trim_start().trim_start_matches('*').rsplit('/').next() == Some(name))
            .map(|(digest, _)| digest)
            .collect(),
    };
    found.dedup();
    let [digest] = found[..] else {
        return Err(match (form, found.len()) {
            (Form::Bare, count) => format!("expected a digest alone, found {count} lines"),
            (Form::Named, 0) => format!("names no {name}"),
            (Form::Named, count) => format!("names {name} with {count} digests"),
        });
    };
    // Only a file made on Windows has upper-case digits.
    Digest::parse(&format!("sha256:{}", digest.to_ascii_lowercase()))
        .map_err(|_| format!("expected 64 hexadecimal digits for {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        let list =
            format!("{b}  _dist/k3d-darwin-amd64\r\n{a} *_dist/k3d-linux-amd64\r\n\r\n{b}  k3d-linux-amd64.sig\r\n");
        let read = |text: &str, form, name| digest_in(text, form, name).map(|digest| digest.to_string());
        assert_eq!(read(&list, Form::Named, "k3d-linux-amd64"), Ok(format!("sha256:{a}")));
        let lower = b.to_lowercase();
        assert_eq!(read(&list, Form::Named, "k3d-darwin-amd64"), Ok(format!("sha256:{lower}")));
        assert_eq!(read(&a, Form::Bare, "kubectl"), Ok(format!("sha256:{a}")));
        assert_eq!(read(&format!("{a}\r\n"), Form::Bare, "kubectl"), Ok(format!("sha256:{a}")));
        let twice = format!("{a}  x\n{a}  ./x\n");
        assert_eq!(read(&twice, Form::Named, "x"), Ok(format!("sha256:{a}")));
        for (text, form, part) in [
            (list.as_str(), Form::Bare, "a digest alone, found"),
            (list.as_str(), Form::Named, "names no x"),
            ("", Form::Bare, "a digest alone, found"),
            ("<html>Not Found</html>", Form::Bare, "64 hexadecimal digits"),
            ("0123  x", Form::Named, "64 hexadecimal digits"),
            (&format!("{a}  x\n{b}  x\n"), Form::Named, "names x with 2 digests"),
        ] {
            assert!(read(text, form, "x").unwrap_err().contains(part), "{text} {form:?}");
        }
    }
}
