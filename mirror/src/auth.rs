//! Being let in: challenges, tokens, and their end
//! (<https://distribution.github.io/distribution/spec/auth/token/>).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;

use crate::credentials::Account;

/// Tokens without a life of their own live a minute (same page, "expires_in").
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// What a registry asked for with a 401.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// The one that can be answered; a token before a password.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for value in headers.get_all(header::WWW_AUTHENTICATE) {
            let Some(challenges) = value.to_str().ok().and_then(|text| http_auth::parse_challenges(text).ok()) else {
                continue;
            };
            for challenge in challenges {
                let parameter = |name: &str| {
                    let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = parameter("realm")
                {
                    return Some(Self::Bearer { realm, service: parameter("service") });
                }
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
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
    /// A form to post; without one it is a GET.
    pub form: Option<String>,
}

pub(crate) fn token_request(
    realm: &str,
    service: Option<&str>,
    scopes: &[String],
    account: Option<&Account>,
) -> TokenRequest {
    let scopes: Vec<(&str, &str)> = scopes.iter().map(|scope| ("scope", scope.as_str())).collect();
    let service = service.map(|service| ("service", service));
    if let Some(Account::IdentityToken(token)) = account {
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
        Some(Account::Password { username, password }) => basic(username, password),
        _ => None,
    };
    let query = encode(service.into_iter().chain(scopes));
    TokenRequest { url: format!("{realm}{separator}{query}"), authorization, form: None }
}

/// `application/x-www-form-urlencoded`.
fn encode<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let escape = |text: &str| {
        text.bytes().fold(String::new(), |mut escaped, byte| {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',' => {
                    escaped.push(byte.into());
                }
                _ => escaped.push_str(&format!("%{byte:02X}")),
            }
            escaped
        })
    };
    let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key}={}", escape(value))).collect();
    pairs.join("&")
}

#[derive(Deserialize)]
pub(crate) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds.
    expires_in: Option<u64>,
}

impl TokenAnswer {
    pub fn token(&self) -> Option<Token> {
        let text = self.token.as_ref().or(self.access_token.as_ref()).filter(|token| !token.is_empty())?;
        let mut header = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
        header.set_sensitive(true);
        let life = self.expires_in.map_or(TOKEN_LIFE, Duration::from_secs);
        // A tenth of it is for the way.
        Some(Token { header, until: Some(Instant::now() + life.mul_f64(0.9)) })
    }
}

#[derive(Clone)]
pub(crate) struct Token {
    pub header: HeaderValue,
    /// None: as long as the password.
    pub until: Option<Instant>,
}

/// The tokens of one registry, by scope.
#[derive(Default)]
pub(crate) struct Tokens {
    tokens: Mutex<BTreeMap<Vec<String>, Token>>,
    /// Whoever is refused first asks for the token; the others wait for that one.
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
        };
        assert_eq!(challenge(&[bearer]), Some(expected));
        assert_eq!(challenge(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        assert!(matches!(challenge(&["Basic realm=\"x\"", bearer]), Some(Challenge::Bearer { .. })));
        assert_eq!(challenge(&[]), None);
        assert_eq!(challenge(&["Negotiate"]), None);
        assert_eq!(challenge(&["Bearer"]), None);
    }

    #[test]
    fn a_token_is_asked_for_as_the_account_wants_it() {
        let scopes = ["repository:a/b:pull".to_owned(), "repository:c:pull".to_owned()];
        let anonymous = token_request("https://a/t", Some("s p"), &scopes, None);
        assert_eq!(anonymous.url, "https://a/t?service=s%20p&scope=repository:a/b:pull&scope=repository:c:pull");
        assert!(anonymous.authorization.is_none() && anonymous.form.is_none());
        let account = Account::Password { username: "u".to_owned(), password: "p".to_owned() };
        let named = token_request("https://a/t?x=1", None, &scopes[..1], Some(&account));
        assert_eq!(named.url, "https://a/t?x=1&scope=repository:a/b:pull");
        assert_eq!(named.authorization.unwrap(), "Basic dTpw");
        let token = token_request("https://a/t", Some("s"), &scopes, Some(&Account::IdentityToken("r&".to_owned())));
        assert_eq!(token.url, "https://a/t");
        let form = token.form.unwrap();
        assert!(form.contains("refresh_token=r%26") && form.contains("scope=repository:a/b:pull%20repository:c:pull"));
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
