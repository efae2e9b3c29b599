//! Makes external text safe: what containers, registries, tools and people wrote, before it reaches
//! a terminal, a job log, or a run's record.
//!
//! A terminal obeys escape sequences, GitHub's runner obeys a line that begins with `::` wherever
//! it comes from, and others read the record. So each text of an event becomes one line, without
//! control characters, of limited length, and with anything that looks like a secret masked.
//! [`crate::run::reporter::Reporter`] is the one caller that matters: nothing reaches a reader
//! except through it.

use std::borrow::Cow;

/// The maximum length kept of one text, in bytes. A container may print megabytes in one line;
/// its beginning says what it is about.
const LONGEST: usize = 4096;

/// How much more of it is looked at, in bytes: userinfo is only recognised by the `@` at its end.
const AHEAD: usize = 1024;

/// Replaces a secret.
const MASK: &str = "***";

/// One line, safe to print and to record.
pub fn line(text: &str) -> String {
    // Escape sequences may be most of it.
    let (text, beyond) = cut(text, 4 * LONGEST);
    let plain = anstream::adapter::strip_str(text).to_string();
    let (plain, rest) = cut(&plain, LONGEST + AHEAD);
    let beyond = beyond + rest;
    let mut safe = String::with_capacity(plain.len());
    for character in plain.trim_end().chars() {
        match character {
            '\n' | '\r' | '\t' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => {
                if !safe.ends_with(' ') {
                    safe.push(' ');
                }
            }
            other => safe.push(printable(other)),
        }
    }
    // Where it was cut, a secret may have lost its end.
    let certain = safe.rfind(' ').unwrap_or(0).max(safe.len().saturating_sub(AHEAD));
    let longest = if beyond > 0 { LONGEST.min(certain) } else { LONGEST };
    let (shown, rest) = masked_to(&safe, longest);
    let (mut safe, left_out) = (shown.into_owned(), rest + beyond);
    if left_out > 0 {
        safe.push_str(&format!(" … ({left_out} more bytes)"));
    }
    safe
}

/// Several lines for a terminal: line breaks and tabs are kept, and nothing is masked, since the
/// user asked for this output.
pub fn lines(text: &str) -> String {
    let plain = anstream::adapter::strip_str(text).to_string();
    plain
        .chars()
        .map(|character| if matches!(character, '\n' | '\t') { character } else { printable(character) })
        .collect()
}

/// Replaces control characters and characters that reorder text ("Trojan Source", CVE-2021-42574).
fn printable(character: char) -> char {
    let reorders =
        matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if character.is_control() || reorders { '\u{fffd}' } else { character }
}

/// The beginning of a text, at most `longest` bytes, and how many are left out.
fn cut(text: &str, longest: usize) -> (&str, usize) {
    if text.len() <= longest {
        return (text, 0);
    }
    let end = (0..=longest).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    (&text[..end], text.len() - end)
}

/// A command line that is safe to record: what looks like an account or a token is masked, also if
/// a flag's name says that its value is one.
pub fn command_line<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    let mut shown: Vec<String> = Vec::new();
    let mut secret_follows = false;
    for word in words {
        let word = word.as_ref();
        let whole = || without_account(word).unwrap_or_else(|| line(word));
        shown.push(if secret_follows && !word.starts_with('-') { MASK.to_owned() } else { whole() });
        secret_follows = word.starts_with("--") && !word.contains('=') && names_a_secret(word);
    }
    shown.join(" ")
}

/// Removes the account from one word of a command line. Because the word's ends are known, a
/// password may contain any character, such as `/` in base64.
fn without_account(word: &str) -> Option<String> {
    let (before, host) = word.rsplit_once('@')?;
    let digest =
        host.split_once(':').is_some_and(|(_, hex)| hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if digest || host.is_empty() {
        return None;
    }
    let value = if before.starts_with('-') { before.find('=').map_or(0, |at| at + 1) } else { 0 };
    let from = before.find("://").map_or(value, |at| at + 3);
    before[from..].contains(':').then(|| format!("{}{MASK}@{}", line(&before[..from]), line(host)))
}

/// This process's own command line.
pub fn own_command_line() -> String {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    format!("cargo xtask {}", command_line(words))
}

/// Masks userinfo, tokens recognisable by their format, and values whose key says that they are
/// secret.
pub fn masked(text: &str) -> Cow<'_, str> {
    masked_to(text, text.len()).0
}

/// The same for each line of a text: a value ends with its line.
pub fn masked_lines(text: &str) -> String {
    text.split_inclusive('\n').map(masked).collect()
}

/// The same for the beginning of a text, at most `longest` bytes, and how many are left out: a secret
/// across that end is masked whole.
fn masked_to(text: &str, longest: usize) -> (Cow<'_, str>, usize) {
    let (beginning, left_out) = cut(text, longest);
    let mut found = secrets(text);
    found.retain(|(start, _)| *start < beginning.len());
    if found.is_empty() {
        return (Cow::Borrowed(beginning), left_out);
    }
    let mut shown = String::with_capacity(beginning.len());
    let mut done = 0;
    for (start, end) in found {
        if start < done {
            // It is inside one that is already masked, or starts there.
            done = done.max(end);
            continue;
        }
        shown.push_str(&text[done..start]);
        shown.push_str(MASK);
        done = end;
    }
    let end = beginning.len().max(done);
    shown.push_str(&text[done..end]);
    (Cow::Owned(shown), text.len() - end)
}

/// Documented token prefixes, with the minimum length of what follows.
const TOKENS: &[(&str, usize)] = &[
    ("ghp_", 16),
    ("gho_", 16),
    ("ghu_", 16),
    ("ghs_", 16),
    ("ghr_", 16),
    ("github_pat_", 16),
    ("glpat-", 16),
    ("gldt-", 16),
    ("dckr_pat_", 8),
    ("dckr_oat_", 8),
    ("hvs.", 16),
    ("hvb.", 16),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("npm_", 30),
    ("pypi-", 30),
    ("AKIA", 16),
    ("ASIA", 16),
    // The header of a JWT is `{"` in base64.
    ("eyJ", 24),
];

/// The positions of secrets, in bytes, in order.
fn secrets(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    found.extend(userinfo(text));
    for (beginning, least) in TOKENS {
        for (start, _) in text.match_indices(beginning) {
            let inside = text[..start].chars().next_back().is_some_and(|before| before.is_ascii_alphanumeric());
            let rest = &text[start + beginning.len()..];
            let length =
                rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_-.~+/=".contains(c))).unwrap_or(rest.len());
            if !inside && length >= *least {
                found.push((start, start + beginning.len() + length));
            }
        }
    }
    for scheme in ["bearer ", "basic "] {
        for (start, _) in text.to_ascii_lowercase().match_indices(scheme) {
            let value = start + scheme.len();
            let length = text[value..].find(|c: char| !(c.is_ascii_alphanumeric() || "_-.~+/=".contains(c)));
            let length = length.unwrap_or(text.len() - value);
            // `Bearer realm="…"` is a challenge, and "basic auth credentials" are words.
            let word = &text[value..value + length];
            let looks_random = word.chars().any(|c| c.is_ascii_digit() || c.is_ascii_uppercase()) || length >= 24;
            let challenge = text[value + length..].starts_with('"');
            if length >= 8 && looks_random && !challenge {
                found.push((value, value + length));
            }
        }
    }
    found.extend(named_values(text));
    found.sort_unstable();
    found
}

/// `https://USER:PASSWORD@host`, `https://TOKEN@host`, `USER:PASSWORD@host`. An image's
/// `name:tag@sha256:…` is not one.
fn userinfo(text: &str) -> Vec<(usize, usize)> {
    let host_follows = |at: usize| {
        let digest = text[at + 1..].split_once(':').is_some_and(|(algorithm, rest)| {
            !algorithm.is_empty()
                && algorithm.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+._-".contains(c))
                && rest.bytes().take_while(u8::is_ascii_hexdigit).count() >= 32
        });
        !digest && text[at + 1..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
    };
    let mut found = Vec::new();
    // RFC 3986, 3.2: the authority may contain any punctuation but this.
    for (scheme, separator) in text.match_indices("://") {
        let start = scheme + separator.len();
        let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '<' | '>');
        let authority = text[start..].split(ends).next().unwrap_or_default();
        let at = start + authority.rfind('@').unwrap_or(0);
        if start < at && host_follows(at) {
            found.push((start, at));
        }
    }
    for (at, _) in text.match_indices('@').filter(|(at, _)| host_follows(*at)) {
        let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '<' | '>' | '(' | ')' | ',');
        let start =
            text[..at].rfind(ends).map_or(0, |index| index + text[index..].chars().next().map_or(1, char::len_utf8));
        let user = &text[start..at];
        // Without a scheme, a name alone may be an email address.
        let has_password =
            user.split_once(':').is_some_and(|(name, password)| !name.is_empty() && !password.is_empty());
        // In `--to=user:password@host` the flag stays.
        let start = match user.split_once('=') {
            Some((flag, _)) if flag.starts_with('-') => start + flag.len() + 1,
            _ => start,
        };
        if start < at && has_password {
            found.push((start, at));
        }
    }
    found
}

/// The values in `password=…`, `"token": "…"`, `?X-Amz-Signature=…`.
fn named_values(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let bytes = text.as_bytes();
    for (index, _) in text.char_indices().filter(|(_, c)| matches!(c, '=' | ':')) {
        let quoted_key = text[..index].ends_with('"') || text[..index].ends_with('\'');
        // Prose has colons too ("token: expired"): before a colon, only a quoted key counts.
        if bytes[index] == b':' && !quoted_key {
            continue;
        }
        // JSON in a text of JSON has each quote behind a backslash.
        let key_end = if quoted_key { text[..index - 1].trim_end_matches('\\').len() } else { index };
        let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let key_start = text[..key_end]
            .rfind(|c: char| !is_key(c))
            .map_or(0, |before| before + text[before..].chars().next().map_or(1, char::len_utf8));
        if !is_secret_field(&text[key_start..key_end]) {
            continue;
        }
        let mut value = index + 1;
        if bytes[index] == b':' {
            value += text[value..].len() - text[value..].trim_start().len();
        }
        let bare = text[value..].trim_start_matches('\\');
        let escapes = text[value..].len() - bare.len();
        let length = match bare.chars().next().filter(|c| matches!(c, '"' | '\'')) {
            Some(quote) => {
                value += escapes + 1;
                quoted_length(&text[value..], quote, escapes)
            }
            None => {
                let ends = |c: char| c.is_whitespace() || matches!(c, '&' | ',' | ';' | '"' | '\'' | ')' | '}' | ']');
                text[value..].find(ends).unwrap_or(text.len() - value)
            }
        };
        if length > 0 {
            found.push((value, value + length));
        }
    }
    found
}

/// Up to the quote that has as many backslashes before it as the one that begins it: one with more is
/// part of the value.
fn quoted_length(text: &str, quote: char, escapes: usize) -> usize {
    let mut ends = text.match_indices(quote).map(|(at, _)| text[..at].trim_end_matches('\\').len()..at);
    ends.find(|before| before.len() <= escapes).map_or(text.len(), |before| before.start)
}

/// Whether the value of this key or flag is secret. `secret` alone does not count: Kubernetes uses
/// it for names.
pub(crate) fn names_a_secret(key: &str) -> bool {
    let plain: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    const ENDS: &[&str] = &[
        "password",
        "passwd",
        "passphrase",
        "token",
        "apikey",
        "accesskey",
        "secretkey",
        "privatekey",
        "clientsecret",
        "accountkey",
        "signature",
        "credential",
        "credentials",
        "dckrpat",
        "pwd",
    ];
    ENDS.iter().any(|end| plain.ends_with(end)) || plain == "sig"
}

/// Whether the value of a variable is secret, by its name; in doubt it is. In such names, unlike in
/// those of fields, `secret` and `key` describe the value itself.
pub(crate) fn is_secret_variable(name: &str) -> bool {
    const PARTS: &[&str] =
        &["TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "CREDENTIAL", "PRIVATE", "APIKEY", "AUTH"];
    const WORDS: &[&str] = &["KEY", "PAT", "PASS", "PW", "PWD"];
    let upper = name.to_ascii_uppercase();
    let mut words = upper.split(|c: char| !c.is_ascii_alphanumeric());
    names_a_secret(name) || PARTS.iter().any(|part| upper.contains(part)) || words.any(|word| WORDS.contains(&word))
}

/// The same for what is a field, or a variable that is written like one: a key of a ConfigMap that
/// containers take their environment from.
pub(crate) fn is_secret_field(name: &str) -> bool {
    let is_variable = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    names_a_secret(name) || (is_variable && is_secret_variable(name))
}

/// One line, without what Rust appends to the system's message.
pub fn plain(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    while let Some(start) = line.find(" (os error ") {
        let Some(length) = line[start..].find(')') else { break };
        line.replace_range(start..=start + length, "");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_prints_is_one_harmless_line() {
        for (text, safe) in [
            ("\u{1b}[31mred\u{1b}[0m alert", "red alert"),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("\u{1b}]8;;https://evil.example\u{1b}\\click\u{1b}]8;;\u{1b}\\", "click"),
            ("one\n::add-mask::x\r\n::stop-commands::y", "one ::add-mask::x ::stop-commands::y"),
            ("back\u{8}space, bell\u{7}, nul\0, del\u{7f}", "backspace, bell, nul, del"),
            ("user\u{202e}gpj.exe", "user\u{fffd}gpj.exe"),
            ("c1\u{9b}31m", "c131m"),
            ("", ""),
            ("trailing \n\n", "trailing"),
        ] {
            let made = line(text).replace('\u{fffd}', if safe.contains('\u{fffd}') { "\u{fffd}" } else { "" });
            assert_eq!(made, safe, "{text:?}");
        }
    }

    #[test]
    fn nothing_that_a_terminal_or_a_runner_obeys_is_left_in_any_text() {
        fastrand::seed(7);
        let pieces = [
            "\u{1b}[", "\u{1b}]", "\u{9b}", "31m", "::", "\n", "\r", "error", "\u{7}", "é", "\u{2028}", "\u{202e}",
            "a", " ", "\0",
        ];
        for _ in 0..20_000 {
            let text: String = (0..fastrand::usize(0..12)).map(|_| pieces[fastrand::usize(0..pieces.len())]).collect();
            let safe = line(&text);
            assert!(!safe.chars().any(char::is_control), "{text:?} became {safe:?}");
            assert!(!safe.contains(['\u{2028}', '\u{202e}']), "{text:?} became {safe:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_cut_and_says_so() {
        let endless = "é".repeat(1_000_000);
        let safe = line(&endless);
        assert!(safe.len() < 5000 && safe.ends_with(" more bytes)"), "{}", safe.len());
    }

    #[test]
    fn a_line_of_escape_sequences_keeps_its_words() {
        let spinner = "\u{1b}[1G\u{1b}[0K\u{280b} ".repeat(2000);
        let safe = line(&format!("{spinner} x"));
        assert!(safe.starts_with("\u{280b} \u{280b}") && safe.len() < 5000, "{safe}");
    }

    #[test]
    fn a_secret_across_the_end_of_what_is_kept_is_masked() {
        let secret = "https://bob:verysecretpassword@charts.example/i";
        for shown in [LONGEST - secret.len(), LONGEST - 20, LONGEST - 9, LONGEST] {
            for (filler, after) in [("x ", 0), ("x ", 100_000), ("PW=123456 ", 100_000)] {
                let text = filler.repeat(shown / filler.len()) + secret + &" z".repeat(after);
                let safe = line(&text);
                assert!(!safe.contains("verysecret") && safe.len() < LONGEST + 100, "{shown} {filler}: {safe}");
            }
        }
        // A line full of them, with another one at the end of what is looked at.
        let safe = line(&format!("{secret} ").repeat(1000));
        assert!(!safe.contains("bob") && safe.starts_with("https://***@charts.example/i https://***@"), "{safe}");
    }

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        for (text, shown) in [
            ("mirror --to user:password@host", "mirror --to ***@host"),
            ("--to=user:pass@host:5000/x", "--to=***@host:5000/x"),
            ("proxy http://me:s3cret@proxy.example:3128 refuses", "proxy http://***@proxy.example:3128 refuses"),
            ("clone https://ghp_0123456789abcdefABCDEF@github.com/x", "clone https://***@github.com/x"),
            ("token ghp_0123456789abcdefABCDEF is bad", "token *** is bad"),
            ("dckr_pat_AbCdEfGh12", "***"),
            ("Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "Authorization: Bearer ***"),
            ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "Authorization: Basic ***"),
            ("PGPASSWORD=hunter2 psql", "PGPASSWORD=*** psql"),
            (r#"{"password":"hunter2","user":"me"}"#, r#"{"password":"***","user":"me"}"#),
            (r#"{"identitytoken": "x y"}"#, r#"{"identitytoken": "***"}"#),
            ("GET /b?X-Amz-Signature=abc123&x=1", "GET /b?X-Amz-Signature=***&x=1"),
            ("STRIPE_KEY=abc BASIC_AUTH='me' KEYCLOAK_URL=x", "STRIPE_KEY=*** BASIC_AUTH='***' KEYCLOAK_URL=x"),
            (r#"{"log":"{\"password\":\"hunter2\", \"a\": 1}"}"#, r#"{"log":"{\"password\":\"***\", \"a\": 1}"}"#),
            (r#"{"password":"a\"b","user":"c"}"#, r#"{"password":"***","user":"c"}"#),
            (r#"{"GCP_CREDENTIALS":"abc"}: AUTH: refused"#, r#"{"GCP_CREDENTIALS":"***"}: AUTH: refused"#),
            ("postgres://app:pw@db:5432/x?sslmode=off", "postgres://***@db:5432/x?sslmode=off"),
            ("get 'https://bob:p,a'(s)!@ss@charts.example/i' x@y", "get 'https://***@charts.example/i' x@y"),
        ] {
            assert_eq!(masked(text), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_secret_stays_readable() {
        for text in [
            "docker.io/library/redis:7@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "secret \"minio-root-credentials\" not found",
            "couldn't find key root-password in Secret ameide/minio-root-credentials",
            "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\"",
            "no basic auth credentials",
            "bearer authentication failed",
            "password authentication failed for user \"temporal\"",
            "token: expired",
            "git@github.com:org/repo.git",
            "vscode@devcontainer (pid 7)",
            "https://charts.example/me@example.com https://charts.example?to=me@example.com",
            "waiting for cargo xtask --env ci --yes layer 45 by root@host (pid 1)",
            "kubectl --context k3d-ameide-ci -n ameide get secrets,configmaps",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    #[test]
    fn a_recorded_command_line_holds_no_secret() {
        let shown = |words: &[&str]| command_line(words);
        assert_eq!(shown(&["mirror", "--to", "user:password@host"]), "mirror --to ***@host");
        assert_eq!(shown(&["mirror", "--to", "user:pa/ss,w(o)r'd+x==@host:5000"]), "mirror --to ***@host:5000");
        assert_eq!(shown(&["--to=user:pa/ss@host"]), "--to=***@host");
        assert_eq!(shown(&["--to", "https://user:pa/ss@host/x"]), "--to https://***@host/x");
        let pinned = "docker.io/x/y:1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        assert_eq!(shown(&["mirror", pinned]), format!("mirror {pinned}"));
        assert_eq!(shown(&["--password", "hunter2", "up"]), "--password *** up");
        assert_eq!(shown(&["--token=abc", "up"]), "--token=*** up");
        assert_eq!(shown(&["layer", "-l", "stage=data-plane-ext"]), "layer -l stage=data-plane-ext");
    }

    #[test]
    fn lines_for_a_terminal_keep_their_breaks() {
        assert_eq!(lines("a\tb\nc\u{1b}[2Jd\u{7}e\u{202e}\u{61c}"), "a\tb\ncde\u{fffd}\u{fffd}");
    }
}
