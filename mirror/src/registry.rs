//! One registry: requests with the authentication they need, at the pace it allows. The rules are
//! those of the OCI distribution spec, section "Endpoints".

pub(crate) mod address;
mod api;
pub(crate) mod refusal;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc::UnboundedSender;

use crate::auth::{self, Challenge, Token, TokenAnswer, Tokens};
use crate::credentials::{Credential, Credentials, Found};
use crate::endpoint::Endpoint;
use crate::error::{Error, Kind};
use crate::manifest::ManifestCache;
use crate::observe::MirrorEvent;
use crate::options::Options;
use crate::pace::{self, Gate, Next, Outcome, Quota, RetryPolicy};
use crate::transport::{Body, Transport, full};
use address::{Address, has_tls};
use refusal::refusal;

/// The most that is read of a token response, in bytes.
const TOKEN_LIMIT: usize = 1 << 20;
const REDIRECTS: usize = 5;
/// A token may expire between being issued and being used, but not every time.
const AUTHORIZED: u32 = 3;

pub(crate) struct Registry {
    pub address: Address,
    transport: Transport,
    credentials: Credentials,
    /// A stand-in for the registry whose name it has: it must not get that registry's account.
    anonymous: bool,
    found: tokio::sync::OnceCell<Found>,
    kept: ManifestCache,
    tokens: Tokens,
    pub gate: Gate,
    pub retry: RetryPolicy,
    events: UnboundedSender<MirrorEvent>,
    requests: AtomicU64,
    answered: AtomicBool,
}

/// The actions allowed on repositories, as requested with a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope(Vec<String>);

impl Scope {
    /// Authentication only, without access to a repository.
    pub fn nothing() -> Self {
        Self(Vec::new())
    }
}

#[derive(Clone)]
pub(crate) struct Call<'a> {
    pub method: Method,
    pub url: &'a str,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub scope: Option<&'a Scope>,
    pub need: Need,
}

/// How important an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing works without it.
    Required,
    /// There is an alternative: a refusal is an answer, and waits are short.
    Optional,
    /// The request contains an account: redirects are never followed.
    Secret,
}

impl Registry {
    /// # Errors
    /// A name that no URL can hold; plain HTTP to Docker Hub.
    pub fn new(
        name: &str,
        endpoint: &Endpoint,
        options: &Options,
        events: UnboundedSender<MirrorEvent>,
    ) -> Result<Self, Error> {
        Ok(Self {
            address: Address::new(name, endpoint)?,
            transport: Transport::new(endpoint.ca.clone(), &options.proxies),
            credentials: options.credentials.clone(),
            anonymous: endpoint.anonymous,
            found: tokio::sync::OnceCell::new(),
            kept: options.kept.clone(),
            tokens: Tokens::default(),
            gate: Gate::default(),
            retry: options.retry,
            events,
            requests: AtomicU64::new(0),
            answered: AtomicBool::new(false),
        })
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn pull(&self, repository: &str) -> Scope {
        Scope(vec![format!("repository:{}:pull", self.address.repository(repository))])
    }

    /// For a push, optionally mounting from another repository.
    pub fn push(&self, repository: &str, from: Option<&str>) -> Scope {
        let mut scopes = vec![format!("repository:{}:pull,push", self.address.repository(repository))];
        if let Some(from) = from.filter(|from| *from != repository) {
            scopes.push(format!("repository:{}:pull", self.address.repository(from)));
        }
        Scope(scopes)
    }

    /// Sends a request until there is a usable answer: waits if the registry asks for it, retries
    /// where that can help, gets a token when challenged, follows redirects.
    pub async fn send(&self, call: Call<'_>) -> Result<Response<Incoming>, Error> {
        let mut url = call.url.to_owned();
        let (mut tries, mut redirects, mut authorized) = (0, 0, 0);
        loop {
            self.gate.pass().await?;
            let sent = call.scope.map(|scope| self.tokens.get(&scope.0));
            let request =
                self.request(call.method.clone(), &url, call.headers.clone(), full(call.body.clone()), call.scope)?;
            let answer = tokio::time::timeout(self.retry.stall, self.exchange(request)).await;
            let answer = answer.unwrap_or_else(|_| {
                let reason = format!("no answer within {} s", self.retry.stall.as_secs());
                Err(Error::new(Kind::Unreachable, reason).passing())
            });
            let response = match answer {
                Ok(response) => response,
                Err(error) => {
                    let outcome = Outcome::Nothing { known: self.answered.load(Ordering::Relaxed) };
                    let error = self.address.error(error.kind, &url, &error.message);
                    self.again(outcome, &mut tries, error, call.need).await?;
                    continue;
                }
            };
            let status = response.status();
            let challenge = Challenge::of(response.headers());
            if status == StatusCode::UNAUTHORIZED
                && authorized < AUTHORIZED
                && let Some(scope) = call.scope
                && url.parse().is_ok_and(|uri| self.address.is_ours(&uri))
                // The token is new and valid, but insufficient: another one would be too.
                && challenge.as_ref().is_some_and(|challenge| authorized == 0 || !challenge.is_insufficient())
            {
                authorized += 1;
                Box::pin(self.authorize(&url, &response, scope, sent.flatten())).await?;
                continue;
            }
            // 307 and 308 keep the method, the older ones may not (RFC 9110, 15.4).
            let reads = call.method == Method::GET || call.method == Method::HEAD;
            let follows = matches!(status.as_u16(), 307 | 308) || reads && matches!(status.as_u16(), 301..=303);
            if follows || call.need == Need::Secret && status.is_redirection() {
                let to = self.address.resolve(&url, response.headers())?;
                if call.need == Need::Secret {
                    let to = to.split('?').next().unwrap_or_default();
                    let reason = format!("redirects to {to}, and no account is sent along a redirect");
                    return Err(self.address.error(Kind::Auth, &url, &reason));
                }
                // What is asked for by its digest is compared with it, wherever it comes from: some
                // registries have their blobs on servers without TLS.
                if !(reads && is_by_digest(call.url)) {
                    self.address.keep_tls(&url, &to)?;
                }
                redirects += 1;
                if redirects > REDIRECTS {
                    return Err(self.address.error(Kind::Protocol, &url, "redirects too many times"));
                }
                url = to;
                continue;
            }
            if redirects > 0
                && reads
                && status.is_client_error()
                && status != StatusCode::TOO_MANY_REQUESTS
                && status != StatusCode::RANGE_NOT_SATISFIABLE
            {
                let error = self.refused(&url, response).await;
                // A URL that is signed for GET refuses any HEAD, and a new one would too.
                if call.method == Method::HEAD {
                    return Err(error);
                }
                // A CDN's URLs expire: the registry issues a new one.
                let outcome = Outcome::Answer { status: 503, retry_after: None, quota: false };
                self.again(outcome, &mut tries, Error { kind: Kind::Protocol, ..error }, call.need).await?;
                (url, redirects) = (call.url.to_owned(), 0);
                continue;
            }
            // Registries signal rate limits in many ways; any other refusal is final.
            if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
                let (error, outcome) = self.judge(&url, response).await;
                if error.kind != Kind::RateLimited {
                    let mute = status == StatusCode::UNAUTHORIZED && authorized == 0 && challenge.is_none();
                    if mute && call.scope.is_some() {
                        let silent = self.address.error(
                            Kind::Auth,
                            &url,
                            "answered 401 without saying which authentication it wants",
                        );
                        return Err(Error { status: error.status, ..silent });
                    }
                    // The reason may be that the credentials could not be read.
                    let trouble = self.found.get().and_then(|found| found.trouble.as_ref());
                    let more = trouble.filter(|_| call.scope.is_some()).map(|trouble| format!("; {trouble}"));
                    let message = format!("{}{}", error.message, more.unwrap_or_default());
                    return Err(Error { message, ..error });
                }
                self.again(outcome, &mut tries, error, call.need).await?;
                continue;
            }
            let outcome = Outcome::Answer {
                status: status.as_u16(),
                retry_after: pace::retry_after(response.headers(), SystemTime::now()),
                quota: false,
            };
            if pace::next(outcome, 0, &self.retry, 0.0) == Next::Take {
                return Ok(response);
            }
            let (error, outcome) = self.judge(&url, response).await;
            self.again(outcome, &mut tries, error, call.need).await?;
        }
    }

    /// Like `send`, and reads the body of a success, up to `most` bytes. One that is cut, or stalls, is
    /// requested again, as if there had been no answer. The inner error is any other answer.
    ///
    /// # Errors
    /// As for `send`; a body that is larger, or is cut or stalls at each try.
    pub async fn send_whole(
        &self,
        call: Call<'_>,
        most: usize,
    ) -> Result<Result<Response<Bytes>, Response<Incoming>>, Error> {
        let mut tries = 0;
        loop {
            let response = self.send(call.clone()).await?;
            if !response.status().is_success() {
                return Ok(Err(response));
            }
            let (head, body) = response.into_parts();
            match self.read(call.url, body, most).await {
                Ok(bytes) => return Ok(Ok(Response::from_parts(head, bytes))),
                Err(mut error) if error.kind == Kind::Unreachable => {
                    error.status = Some(head.status.as_u16());
                    self.again(Outcome::Nothing { known: true }, &mut tries, error, call.need).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the next try, or gives up with this error.
    pub async fn again(&self, outcome: Outcome, tries: &mut u32, error: Error, need: Need) -> Result<(), Error> {
        // A registry may fail on one thing and serve everything else.
        let own_fault = error.is_cut() || matches!(outcome, Outcome::Answer { status: 500, .. });
        let answered = error.status.is_some() && error.kind != Kind::RateLimited;
        let next = match need {
            // A full disk will not be free a second later.
            _ if error.kind == Kind::DiskFull => Next::Stop,
            // A rate limit, or a registry that is briefly unavailable, is waited for all the same.
            Need::Optional if answered && (own_fault && !error.is_cut() || *tries >= 1) => Next::Stop,
            _ => pace::next(outcome, *tries, &self.retry, fastrand::f64()),
        };
        let Next::Again(wait) = next else {
            let optional = need == Need::Optional && answered;
            if pace::concerns_all(error.kind) && !own_fault && !optional {
                return Err(self.gate.stop(self.whole(error)));
            }
            return Err(error);
        };
        *tries += 1;
        // A rate limit applies to all transfers; a broken connection only to its own.
        let shared = matches!(outcome, Outcome::Answer { status: 429 | 503, .. });
        if !shared || self.gate.close(wait) {
            let event =
                MirrorEvent::Waiting { registry: self.address.name.clone(), wait, reason: error.message.clone() };
            // Nobody listens any more once the copy has ended.
            let _ = self.events.send(event);
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// The same error for all images of this registry: without the address where it occurred, and
    /// with the remaining quota and the time until it resets.
    fn whole(&self, mut error: Error) -> Error {
        let text = self.address.without_address(&error.message);
        let mut message = match error.kind {
            Kind::RateLimited => format!("{} refuses further pulls: {text}", self.address.name),
            _ => format!("{}: {text}", self.address.full_name()),
        };
        if error.kind == Kind::RateLimited {
            let window = self.gate.quota().map(|quota| quota.window).filter(|window| !window.is_zero());
            let again = match (error.gives_again, window) {
                (Some(wait), _) => Some(format!("possible again {}", pace::until(wait, SystemTime::now()))),
                (None, Some(window)) => {
                    Some(format!("possible again at the latest {}", pace::until(window, SystemTime::now())))
                }
                (None, None) => None,
            };
            message.extend(again.map(|again| format!("; {again}")));
        }
        error.message = message;
        error.whole = true;
        error
    }

    /// A refusal as an error for people, and as input for the decision table.
    pub async fn judge(&self, url: &str, response: Response<Incoming>) -> (Error, Outcome) {
        let mut status = response.status().as_u16();
        let retry_after = pace::retry_after(response.headers(), SystemTime::now());
        let gives_again = pace::gives_again(response.headers(), SystemTime::now());
        let left = Quota::of(&self.address.name, response.headers()).map(|quota| quota.remaining);
        let mut error = self.refused(url, response).await;
        error.gives_again = gives_again;
        if error.kind == Kind::RateLimited {
            // Some registries answer a rate limit with 403 or 401.
            status = 429;
            let wait = retry_after.map(|wait| format!("; it asks to wait {} s", wait.as_secs())).unwrap_or_default();
            let quota = self.gate.quota().map(|quota| format!("; {quota}")).unwrap_or_default();
            error.message.push_str(&wait);
            error.message.push_str(&quota);
        }
        // Docker Hub's wording for a quota that is used up; too many requests per minute has
        // another one.
        let quota = status == 429 && (left == Some(0) || error.message.contains("pull rate limit"));
        if error.kind == Kind::Invalid {
            // Invalid content stays invalid, whatever the status.
            status = 400;
        }
        (error, Outcome::Answer { status, retry_after, quota })
    }

    fn request(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Body,
        scope: Option<&Scope>,
    ) -> Result<Request<Body>, Error> {
        let uri: Uri = url.parse().map_err(|_| self.address.error(Kind::Protocol, url, "is not a URL"))?;
        let token = scope.filter(|_| self.address.is_ours(&uri)).and_then(|scope| self.tokens.get(&scope.0));
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .body(body)
            .map_err(|error| self.address.error(Kind::Protocol, url, &error.to_string()))?;
        *request.headers_mut() = headers;
        request
            .headers_mut()
            .insert(header::USER_AGENT, HeaderValue::from_static(concat!("image-mirror/", env!("CARGO_PKG_VERSION"))));
        if let Some(token) = token {
            request.headers_mut().insert(header::AUTHORIZATION, token);
        }
        Ok(request)
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let response = self.transport.request(request).await?;
        self.answered.store(true, Ordering::Relaxed);
        if let Some(quota) = Quota::of(&self.address.name, response.headers()) {
            self.gate.learn(quota);
        }
        Ok(response)
    }

    /// Sends a body that cannot be sent twice: once, to one address, whether the gate is open or not.
    /// The body's watcher knows whether it still makes progress.
    pub async fn stream(&self, url: &str, size: u64, body: Body, scope: &Scope) -> Result<Response<Incoming>, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
        let request = self.request(Method::PUT, url, headers, body, Some(scope))?;
        self.exchange(request).await
    }

    pub fn token(&self, scope: &Scope) -> Option<HeaderValue> {
        self.tokens.get(&scope.0)
    }

    /// Gets the token that a 401 asks for. `sent`: the token that was refused; somebody else may
    /// have got a newer one in the meantime.
    pub async fn authorize(
        &self,
        url: &str,
        refused: &Response<Incoming>,
        scope: &Scope,
        sent: Option<HeaderValue>,
    ) -> Result<(), Error> {
        let _asking = self.tokens.asking.lock().await;
        if self.tokens.get(&scope.0).is_some_and(|token| Some(token) != sent) {
            return Ok(());
        }
        let found = if self.anonymous {
            &Found::default()
        } else {
            self.found
                .get_or_try_init(|| async {
                    let found = self.credentials.find(&self.address.name).await?;
                    if let Some(trouble) = &found.trouble {
                        let text = format!("continues without an account: {trouble}");
                        let _ = self.events.send(MirrorEvent::Warning { id: self.address.name.clone(), text });
                    }
                    Ok::<_, Error>(found)
                })
                .await?
        };
        let account = found.account.as_ref();
        // The reason may be that the credentials could not be read.
        let more = found.trouble.as_ref().map(|trouble| format!("; {trouble}")).unwrap_or_default();
        let wants = |what: &str| self.address.error(Kind::Auth, url, &format!("{what}{more}"));
        let challenge = Challenge::of(refused.headers())
            .ok_or_else(|| wants("answered 401 without saying which authentication it wants"))?;
        let (realm, service) = match (challenge, account) {
            (Challenge::Basic, Some(Credential::Password { username, password })) => {
                if !self.address.may_send_account() {
                    return Err(wants("asks for the account without TLS"));
                }
                let header = auth::basic(username, password).ok_or_else(|| wants("its account cannot be sent"))?;
                if sent.as_ref() == Some(&header) {
                    // Some registries answer this way for anything unsupported or missing, whoever
                    // asks.
                    let status = Some(refused.status().as_u16());
                    return Err(Error { status, ..wants(&format!("refuses the account {username:?}")) });
                }
                self.tokens.put(&scope.0, Token { header, until: None });
                return Ok(());
            }
            (Challenge::Basic, Some(Credential::IdentityToken(_))) => {
                return Err(wants("wants a password, but there is only an identity token"));
            }
            (Challenge::Basic, None) if self.anonymous => {
                return Err(wants("wants an account, but as a stand-in it is given none"));
            }
            (Challenge::Basic, None) => return Err(wants("wants an account, but there is none for it")),
            (Challenge::Bearer { realm, service, .. }, _) => (self.address.lead(url, &realm)?, service),
        };
        let at = realm.split('?').next().unwrap_or_default();
        let uri: Uri = realm.parse().map_err(|_| wants("wants a token from something that is not a URL"))?;
        let (scheme, host) = (uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", Authority::as_str));
        // A realm on another host is normal (auth.docker.io); a password without TLS is not, and
        // neither is a registry with TLS whose tokens anybody on the way could replace.
        if account.is_none() && has_tls(url) && !self.address.may_send_account_to(scheme, host) {
            return Err(wants(&format!("asks for its token to be got from {at}, without TLS")));
        }
        if account.is_some() && !self.address.may_send_account_to(scheme, host) {
            return Err(wants(&format!("asks for the account to be sent to {at}, without TLS")));
        }
        let request = auth::token_request(&realm, service.as_deref(), &scope.0, account);
        let mut headers = HeaderMap::new();
        if let Some(value) = request.authorization {
            headers.insert(header::AUTHORIZATION, value);
        }
        let method = if request.form.is_some() { Method::POST } else { Method::GET };
        if request.form.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        }
        let body = Bytes::from(request.form.unwrap_or_default());
        let secret = if account.is_some() { Need::Secret } else { Need::Required };
        let call = Call { method, url: &request.url, headers, body, scope: None, need: secret };
        let asked = match self.send_whole(call, TOKEN_LIMIT).await {
            Ok(Ok(answer)) => Ok(answer.into_body()),
            Ok(Err(response)) => Err(self.refused(&realm, response).await),
            Err(error) => Err(error),
        };
        let bytes = match (asked, account) {
            (Ok(bytes), _) => bytes,
            (Err(error), _) if error.status.is_none() || error.is_cut() || error.kind == Kind::RateLimited => {
                return Err(error);
            }
            (Err(error), Some(account)) => {
                let kind = match error.kind {
                    Kind::NotFound => Kind::Protocol,
                    Kind::Unreachable => Kind::Unreachable,
                    // The account is valid, but not permitted.
                    Kind::Denied if error.status == Some(403) => Kind::Denied,
                    _ => Kind::Auth,
                };
                let message = format!("refuses {account:?}: {}", error.message);
                return Err(Error { kind, message, ..error });
            }
            (Err(error), None) => {
                let kind = if error.kind == Kind::NotFound { Kind::Protocol } else { error.kind };
                return Err(Error { kind, message: format!("{}{more}", error.message), ..error });
            }
        };
        // The response is a secret: never quote a malformed one.
        let answer: TokenAnswer = serde_json::from_slice(&bytes).map_err(|_| wants(&format!("{at} gave no token")))?;
        let token = answer.token().ok_or_else(|| wants(&format!("{at} gave no token")))?;
        self.tokens.put(&scope.0, token);
        Ok(())
    }

    /// Turns a refusal into an error, with what the registry says. A full disk, or a quota of storage
    /// that is used up, stops all requests: registries tell it with many a status.
    pub async fn refused(&self, url: &str, response: Response<Incoming>) -> Error {
        let error = refusal(&self.address, url, response).await;
        if error.kind == Kind::DiskFull { self.gate.stop(self.whole(error)) } else { error }
    }

    /// Reads a whole body, up to `most` bytes.
    async fn read(&self, url: &str, body: Incoming, most: usize) -> Result<Bytes, Error> {
        let limited = http_body_util::Limited::new(body, most);
        match tokio::time::timeout(self.retry.stall, limited.collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                let mib = most >> 20;
                Err(self.address.error(Kind::Invalid, url, &format!("its answer is larger than {mib} MiB, the limit")))
            }
            Ok(Err(error)) => Err(self.address.error(Kind::Unreachable, url, &error.to_string())),
            Err(_) => Err(self.address.error(Kind::Unreachable, url, "its response stalled")),
        }
    }
}

/// Whether a URL names its content: `…/manifests/sha256:…`, `…/blobs/sha256:…`.
fn is_by_digest(url: &str) -> bool {
    let path = url.split('?').next().unwrap_or_default();
    path.rsplit_once('/').is_some_and(|(_, last)| last.starts_with("sha256:"))
        && ["/manifests/", "/blobs/"].iter().any(|kind| path.contains(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_that_mounts_may_read_where_it_mounts_from() {
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        let endpoint = Endpoint::named("central.example/team");
        let registry = Registry::new("central", &endpoint, &Options::to(endpoint.clone()), events).unwrap();
        assert_eq!(registry.push("a", Some("b")).0, ["repository:team/a:pull,push", "repository:team/b:pull"]);
        assert_eq!(registry.push("a", Some("a")).0, ["repository:team/a:pull,push"]);
    }
}
