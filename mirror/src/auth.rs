//! Authentication: challenges, tokens and their expiry
//! (<https://distribution.github.io/distribution/spec/auth/token/>).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;

use crate::credentials::Credential;

/// Tokens live at least a minute, and exactly that if the answer does not say (same page,
/// "expires_in").
const LEAST_LIFE: f64 = 60.0;
/// No token is kept longer than a day, in seconds; one that expires sooner is refused, and
/// requested again.
const MOST_LIFE: f64 = 86_400.0;

/// What a registry asked for with a 401.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    /// `insufficient`: the token sent is valid, but its scope is not enough (RFC 6750, 3.1).
    Bearer {
        realm: String,
        service: Option<String>,
        insufficient: bool,
    },
}

impl Challenge {
    /// The challenge that can be answered, preferring Bearer over Basic. As lenient as Docker's own
    /// parser: `realm=/` without quotes is a realm.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for value in headers.get_all(header::WWW_AUTHENTICATE) {
            for (scheme, parameters) in challenges(&String::from_utf8_lossy(value.as_bytes())) {
                let parameter = |name: &str| {
                    let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.clone())
                };
                if scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = parameter("realm").filter(|realm| !realm.is_empty())
                {
                    let insufficient = parameter("error").is_some_and(|error| error == "insufficient_scope");
                    return Some(Self::Bearer { realm, service: parameter("service"), insufficient });
                }
                if scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

impl Challenge {
    pub fn is_insufficient(&self) -> bool {
        matches!(self, Self::Bearer { insufficient: true, .. })
    }
}

/// Schemes with their parameters: `Bearer realm="https://x/token",service=y, Basic realm=z`.
fn challenges(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c == ',' || c == '=' || c.is_whitespace());
        if rest.is_empty() {
            return found;
        }
        let end = rest.find(|c: char| c == ',' || c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let word = &rest[..end];
        rest = &rest[end..];
        let Some(value) = rest.trim_start().strip_prefix('=') else {
            found.push((word.to_owned(), Vec::new()));
            continue;
        };
        let (value, after) = parameter(value.trim_start());
        rest = after;
        if let Some((_, parameters)) = found.last_mut() {
            parameters.push((word.to_owned(), value));
        }
    }
}

/// A quoted string without its quotes, or the text up to the next comma or blank; and the rest.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(c),
        }
    }
    (value, "")
}

pub(crate) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    let mut value =
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A request for a token.
pub(crate) struct TokenRequest {
    pub url: String,
    pub authorization: Option<HeaderValue>,
    /// A form to post; `None` for a GET.
    pub form: Option<String>,
}

pub(crate) fn token_request(
    realm: &str,
    service: Option<&str>,
    scopes: &[String],
    account: Option<&Credential>,
) -> TokenRequest {
    let scopes: Vec<(&str, &str)> = scopes.iter().map(|scope| ("scope", scope.as_str())).collect();
    let service = service.map(|service| ("service", service));
    if let Some(Credential::IdentityToken(token)) = account {
        let joined = scopes.iter().map(|(_, scope)| *scope).collect::<Vec<_>>().join(" ");
        let pairs =
            [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "xtask"), ("scope", &joined)];
        return TokenRequest {
            url: realm.to_owned(),
            authorization: None,
            form: Some(encode(pairs.into_iter().chain(service))),
        };
    }
    let separator = if realm.contains('?') { '&' } else { '?' };
    let authorization = match account {
        Some(Credential::Password { username, password }) => basic(username, password),
        _ => None,
    };
    let query = encode(service.into_iter().chain(scopes));
    TokenRequest { url: format!("{realm}{separator}{query}"), authorization, form: None }
}

fn encode<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

#[derive(Deserialize)]
pub(crate) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// In seconds; registries write a number of any kind, or a string.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl TokenAnswer {
    pub fn token(&self) -> Option<Token> {
        let text = [&self.token, &self.access_token].into_iter().flatten().find(|token| !token.is_empty())?;
        let mut header = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
        header.set_sensitive(true);
        // The last tenth allows for the time a request takes.
        Some(Token { header, until: Some(Instant::now() + self.life().mul_f64(0.9)) })
    }

    fn life(&self) -> Duration {
        let seconds = match &self.expires_in {
            serde_json::Value::Number(number) => number.as_f64(),
            serde_json::Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let seconds = seconds.filter(|seconds: &f64| !seconds.is_nan()).unwrap_or(LEAST_LIFE);
        Duration::from_secs_f64(seconds.clamp(LEAST_LIFE, MOST_LIFE))
    }
}

#[derive(Clone)]
pub(crate) struct Token {
    pub header: HeaderValue,
    /// `None`: valid as long as the password.
    pub until: Option<Instant>,
}

/// The tokens of one registry, by scope.
#[derive(Default)]
pub(crate) struct Tokens {
    tokens: Mutex<BTreeMap<Vec<String>, Token>>,
    /// Whoever is refused first requests the token; the others wait for it.
    pub asking: tokio::sync::Mutex<()>,
}

impl Tokens {
    fn tokens(&self) -> MutexGuard<'_, BTreeMap<Vec<String>, Token>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, scopes: &[String]) -> Option<HeaderValue> {
        let tokens = self.tokens();
        let token = tokens.get(scopes)?;
        token.until.is_none_or(|until| until > Instant::now()).then(|| token.header.clone())
    }

    pub fn put(&self, scopes: &[String], token: Token) {
        self.tokens().insert(scopes.to_vec(), token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::of(&headers)
    }

    #[test]
    fn a_token_comes_before_a_password_and_nothing_is_nothing() {
        let bearer =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry.example".to_owned()),
            insufficient: false,
        };
        assert_eq!(challenge(&[bearer]), Some(expected));
        assert_eq!(challenge(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        assert!(matches!(challenge(&["Basic realm=\"x\"", bearer]), Some(Challenge::Bearer { .. })));
        assert_eq!(challenge(&[]), None);
        assert_eq!(challenge(&["Negotiate"]), None);
        assert_eq!(challenge(&["Bearer"]), None);
        assert_eq!(challenge(&["Bearer realm="]), None);
    }

    /// As registries write them.
    #[test]
    fn a_challenge_need_not_be_written_as_the_specification_says() {
        for basic in [
            "Basic realm=/",
            "basic",
            "BASIC realm=Sonatype Nexus Repository Manager",
            "Negotiate, Basic realm=\"x",
            "Basic realm=\"a \\\"b\\\" c\", charset=\"UTF-8\"",
            "NTLM TlRMTVNTUAAB==, Basic realm=x",
        ] {
            assert_eq!(challenge(&[basic]), Some(Challenge::Basic), "{basic}");
        }
        for bearer in [
            "Bearer realm=https://a.example/t?x=1,service=s",
            "bearer service=\"s\" , Realm = \"https://a.example/t?x=1\"",
            "Basic realm=\"x, y\", Bearer realm=\"https://a.example/t?x=1\",service=\"s\"",
        ] {
            let expected = Challenge::Bearer {
                realm: "https://a.example/t?x=1".to_owned(),
                service: Some("s".to_owned()),
                insufficient: false,
            };
            assert_eq!(challenge(&[bearer]), Some(expected), "{bearer}");
        }
        let short = r#"Bearer realm="https://a/t",error="insufficient_scope""#;
        assert!(matches!(challenge(&[short]), Some(Challenge::Bearer { insufficient: true, .. })));
    }

    #[test]
    fn a_token_lives_within_bounds_whatever_is_said() {
        for (said, seconds) in [
            ("300", 300),
            ("3600.0", 3600),
            ("\"300\"", 300),
            ("0", 60),
            ("-5", 60),
            ("59.9", 60),
            ("null", 60),
            ("\"soon\"", 60),
            ("\"NaN\"", 60),
            ("\"inf\"", 86_400),
            ("[]", 60),
            ("{}", 60),
            ("true", 60),
            ("18446744073709551615", 86_400),
            ("18446744073709551616", 86_400),
            ("-9223372036854775808", 60),
            ("1e308", 86_400),
        ] {
            let answer = format!(r#"{{"token":"","access_token":"t","expires_in":{said}}}"#);
            let answer: TokenAnswer = serde_json::from_str(&answer).unwrap();
            assert_eq!(answer.life(), Duration::from_secs(seconds), "{said}");
            assert_eq!(answer.token().unwrap().header, "Bearer t");
        }
        let none: TokenAnswer = serde_json::from_str(r#"{"token":"t"}"#).unwrap();
        assert_eq!(none.life(), Duration::from_secs(60));
    }

    #[test]
    fn a_token_is_asked_for_as_the_account_wants_it() {
        let scopes = ["repository:a/b:pull".to_owned(), "repository:c:pull".to_owned()];
        let anonymous = token_request("https://a/t", Some("s p"), &scopes, None);
        assert_eq!(
            anonymous.url,
            "https://a/t?service=s+p&scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull"
        );
        assert!(anonymous.authorization.is_none() && anonymous.form.is_none());
        let account = Credential::Password { username: "u".to_owned(), password: "p".to_owned() };
        let named = token_request("https://a/t?x=1", None, &scopes[..1], Some(&account));
        assert_eq!(named.url, "https://a/t?x=1&scope=repository%3Aa%2Fb%3Apull");
        assert_eq!(named.authorization.unwrap(), "Basic dTpw");
        let token = token_request("https://a/t", Some("s"), &scopes, Some(&Credential::IdentityToken("r&".to_owned())));
        assert_eq!(token.url, "https://a/t");
        let form = token.form.unwrap();
        assert!(
            form.contains("refresh_token=r%26")
                && form.contains("scope=repository%3Aa%2Fb%3Apull+repository%3Ac%3Apull")
        );
    }

    #[test]
    fn a_token_ends_before_its_time() {
        let answer: TokenAnswer = serde_json::from_str(r#"{"access_token":"t","expires_in":300}"#).unwrap();
        let token = answer.token().unwrap();
        assert_eq!(token.header, "Bearer t");
        let left = token.until.unwrap() - Instant::now();
        assert!(left <= Duration::from_secs(270), "{left:?}");
        let tokens = Tokens::default();
        tokens.put(&["s".to_owned()], Token { until: Some(Instant::now()), ..token.clone() });
        assert!(tokens.get(&["s".to_owned()]).is_none());
        tokens.put(&["s".to_owned()], token);
        assert!(tokens.get(&["s".to_owned()]).is_some());
        assert!(tokens.get(&["other".to_owned()]).is_none());
        let none: TokenAnswer = serde_json::from_str(r#"{"token":""}"#).unwrap();
        assert!(none.token().is_none());
    }
}
