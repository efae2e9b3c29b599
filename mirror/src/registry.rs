//! One registry: requests with what it takes to be let in, at the pace it allows.
//! Rules are those of the OCI distribution spec, section "Endpoints".

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc::UnboundedSender;

use crate::auth::{self, Challenge, Token, TokenAnswer, Tokens};
use crate::copy::Options;
use crate::credentials::{Account, Credentials, Found};
use crate::lock::{Digest, is_docker_hub};
use crate::manifest::{self, Manifest};
use crate::no_proxy::is_loopback;
use crate::pace::{self, Came, Gate, Next, Quota, Retry};
use crate::proxy::Proxies;
use crate::transport::{Body, Endpoint, Transport, full};
use crate::{Error, Event, Kind};

/// Manifests larger than this are refused, as registries do (distribution: 4 MiB).
const MANIFEST_LIMIT: usize = 4 << 20;
/// What is read of a token's answer, in bytes; of a refusal's, less.
const TOKEN_LIMIT: usize = 1 << 20;
const REFUSAL_LIMIT: usize = 64 << 10;
const REDIRECTS: usize = 5;
/// A token may end between being given and being used, but not each time.
const AUTHORIZED: u32 = 3;

/// Manifests that were read, by digest: what was resolved a moment ago is not pulled again.
#[derive(Clone, Debug, Default)]
pub struct Kept(Arc<Mutex<BTreeMap<Digest, Manifest>>>);

impl Kept {
    /// More are not kept, so that no list of images takes all memory: in number and in bytes.
    const MOST: usize = 256;
    const BYTES: usize = 64 << 20;

    fn get(&self, digest: &str) -> Option<Manifest> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&Digest::parse(digest).ok()?).cloned()
    }

    fn put(&self, manifest: &Manifest) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = kept.values().map(|kept| kept.bytes.len()).sum();
        if kept.len() < Self::MOST && held + manifest.bytes.len() <= Self::BYTES {
            kept.insert(manifest.digest.clone(), manifest.clone());
        }
    }
}

pub(crate) struct Registry {
    /// As images name it, for messages and credentials: `docker.io`.
    pub name: String,
    scheme: &'static str,
    authority: String,
    /// Of all repositories here, with its slash; mostly empty.
    prefix: String,
    transport: Transport,
    credentials: Credentials,
    /// A stand-in for the registry whose name it has: no account is its own.
    anonymous: bool,
    found: tokio::sync::OnceCell<Found>,
    kept: Kept,
    tokens: Tokens,
    pub gate: Gate,
    pub retry: Retry,
    events: UnboundedSender<Event>,
    requests: AtomicU64,
    answered: AtomicBool,
}

/// Whether a registry answers at all, whatever it says: one GET of `/v2/`.
///
/// # Errors
/// Why it does not.
pub async fn answers(endpoint: &Endpoint, proxies: &Proxies) -> Result<(), Error> {
    let options = Options { proxies: proxies.clone(), ..Options::to(endpoint.clone()) };
    // There is nothing to tell on the way.
    let (events, _) = tokio::sync::mpsc::unbounded_channel();
    let registry = Registry::new(&endpoint.host, endpoint, &options, events)?;
    let url = format!("{}://{}/v2/", registry.scheme, registry.authority);
    let request = registry.request(Method::GET, &url, HeaderMap::new(), full(Bytes::new()), None)?;
    registry.exchange(request).await.map(drop).map_err(|error| registry.error(error.kind, &url, &error.message))
}

/// What may be done where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope(Vec<String>);

pub(crate) struct Ask<'a> {
    pub method: Method,
    pub url: &'a str,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub scope: Option<&'a Scope>,
    pub wants: Wants,
}

/// How much hangs on an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// Nothing goes on without it.
    All,
    /// There is another way: a refusal is an answer, and nobody waits for long.
    Little,
    /// It holds an account: never along a redirect.
    Secret,
}

impl Registry {
    /// # Errors
    /// A name that no URL can hold; plain HTTP to Docker Hub.
    pub fn new(
        name: &str,
        endpoint: &Endpoint,
        options: &Options,
        events: UnboundedSender<Event>,
    ) -> Result<Self, Error> {
        let (authority, prefix) = endpoint.parts()?;
        let hub = is_docker_hub(&authority.host().to_ascii_lowercase());
        if hub && endpoint.plain_http {
            return Err(Error::new(Kind::Lock, format!("{authority}: Docker Hub is never spoken to in plain HTTP")));
        }
        Ok(Self {
            name: name.to_owned(),
            scheme: if endpoint.plain_http { "http" } else { "https" },
            // Docker Hub's API has a name of its own.
            authority: if hub { "registry-1.docker.io".to_owned() } else { authority.to_string() },
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
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

    /// A repository's full name here.
    pub fn repository(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub fn url(&self, repository: &str, rest: &str) -> String {
        format!("{}://{}/v2/{}{repository}/{rest}", self.scheme, self.authority, self.prefix)
    }

    pub fn pull(&self, repository: &str) -> Scope {
        Scope(vec![format!("repository:{}:pull", self.repository(repository))])
    }

    /// To push, perhaps mounting out of another repository.
    pub fn push(&self, repository: &str, from: Option<&str>) -> Scope {
        let mut scopes = vec![format!("repository:{}:pull,push", self.repository(repository))];
        if let Some(from) = from.filter(|from| *from != repository) {
            scopes.push(format!("repository:{}:pull", self.repository(from)));
        }
        Scope(scopes)
    }

    /// Where a `Location` leads, seen from the address that gave it (RFC 9110, 10.2.2).
    ///
    /// # Errors
    /// None given; one with an account in it, or that no registry has (`never_led_to`).
    pub fn resolve(&self, from: &str, headers: &HeaderMap) -> Result<String, Error> {
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| self.error(Kind::Protocol, from, "gave no Location"))?;
        self.lead(from, location)
    }

    /// As [`Self::resolve`], of any reference.
    fn lead(&self, from: &str, reference: &str) -> Result<String, Error> {
        let wrong = |why: &str| self.error(Kind::Protocol, from, &format!("leads to {why}"));
        let base: Uri = from.parse().map_err(|_| self.error(Kind::Protocol, from, "is no URL"))?;
        let (scheme, authority) =
            (base.scheme_str().unwrap_or(self.scheme), base.authority().map_or("", |a| a.as_str()));
        let absolute = if has_scheme(reference) {
            reference.to_owned()
        } else if let Some(rest) = reference.strip_prefix("//") {
            format!("{scheme}://{rest}")
        } else if reference.starts_with('/') {
            format!("{scheme}://{authority}{reference}")
        } else if reference.starts_with('?') {
            format!("{scheme}://{authority}{}{reference}", base.path())
        } else {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{reference}")
        };
        let uri: Uri = absolute.parse().map_err(|_| wrong("what is no URL"))?;
        let host = uri.host().ok_or_else(|| wrong("no host"))?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(wrong("an address with an account in it"));
        }
        if !self.is_our_host(host) && never_led_to(host) {
            return Err(wrong(&format!("{host}, where machines keep their own secrets")));
        }
        // A registry behind a proxy that ends TLS writes its own address with http: it is
        // the same one, and never spoken to without TLS for that.
        if self.scheme == "https" && uri.scheme_str() == Some("http") && self.is_our_host(host) {
            let port = uri.port_u16();
            if port.is_none() || port == Some(80) || port == self.port() {
                let rest = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
                return Ok(format!("{}://{}{rest}", self.scheme, self.authority));
            }
        }
        Ok(absolute)
    }

    fn port(&self) -> Option<u16> {
        let port = self.authority.parse::<Authority>().ok().and_then(|authority| authority.port_u16());
        port.or(if self.scheme == "https" { Some(443) } else { Some(80) })
    }

    fn is_our_host(&self, host: &str) -> bool {
        self.authority.parse::<Authority>().is_ok_and(|own| own.host().eq_ignore_ascii_case(host))
    }

    /// Whether an address is this registry's own; no other is told who we are. The port of
    /// a scheme may be written out or not.
    pub fn is_ours(&self, uri: &Uri) -> bool {
        let (host, scheme) = (uri.host().unwrap_or_default(), uri.scheme_str());
        let port = uri.port_u16().or(if scheme == Some("https") { Some(443) } else { Some(80) });
        let account = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        scheme == Some(self.scheme) && self.is_our_host(host) && port == self.port() && !account
    }

    /// Sends a request until there is an answer worth reading: waits where the
    /// registry asks for it, asks again where that can help, gets a token when told
    /// to, follows redirects.
    pub async fn send(&self, ask: Ask<'_>) -> Result<Response<Incoming>, Error> {
        let mut url = ask.url.to_owned();
        let (mut tries, mut redirects, mut authorized) = (0, 0, 0);
        loop {
            self.gate.pass().await?;
            let sent = ask.scope.map(|scope| self.tokens.get(&scope.0));
            let request =
                self.request(ask.method.clone(), &url, ask.headers.clone(), full(ask.body.clone()), ask.scope)?;
            let answer = tokio::time::timeout(self.retry.stall, self.exchange(request)).await;
            let answer = answer.unwrap_or_else(|_| {
                let reason = format!("no answer within {} s", self.retry.stall.as_secs());
                Err(Error::new(Kind::Unreachable, reason).passing())
            });
            let response = match answer {
                Ok(response) => response,
                Err(error) => {
                    let came = Came::Nothing { known: self.answered.load(Ordering::Relaxed) };
                    let error = self.error(error.kind, &url, &error.message);
                    self.again(came, &mut tries, error, ask.wants).await?;
                    continue;
                }
            };
            let status = response.status();
            let challenge = Challenge::of(response.headers());
            if status == StatusCode::UNAUTHORIZED
                && authorized < AUTHORIZED
                && let Some(scope) = ask.scope
                && url.parse().is_ok_and(|uri| self.is_ours(&uri))
                // A token that was just got, and is good, but not for this: another one will be like it.
                && challenge.as_ref().is_some_and(|challenge| authorized == 0 || !challenge.is_insufficient())
            {
                authorized += 1;
                Box::pin(self.authorize(&url, &response, scope, sent.flatten())).await?;
                continue;
            }
            // 307 and 308 keep the method, the older ones need not (RFC 9110, 15.4).
            let reads = ask.method == Method::GET || ask.method == Method::HEAD;
            let follows = matches!(status.as_u16(), 307 | 308) || reads && matches!(status.as_u16(), 301..=303);
            if follows || ask.wants == Wants::Secret && status.is_redirection() {
                let to = self.resolve(&url, response.headers())?;
                if ask.wants == Wants::Secret {
                    let to = to.split('?').next().unwrap_or_default();
                    let reason = format!("leads to {to}, and no account is sent along a redirect");
                    return Err(self.error(Kind::Auth, &url, &reason));
                }
                redirects += 1;
                if redirects > REDIRECTS {
                    return Err(self.error(Kind::Protocol, &url, "redirects without end"));
                }
                url = to;
                continue;
            }
            if redirects > 0
                && status.is_client_error()
                && status != StatusCode::TOO_MANY_REQUESTS
                && status != StatusCode::RANGE_NOT_SATISFIABLE
            {
                // Addresses of a CDN expire: the registry gives a fresh one.
                let error = self.refused(&url, response).await;
                let came = Came::Answer { status: 503, retry_after: None, quota: false };
                self.again(came, &mut tries, Error { kind: Kind::Protocol, ..error }, ask.wants).await?;
                (url, redirects) = (ask.url.to_owned(), 0);
                continue;
            }
            // Registries say in many ways that it is too much; what else they forbid is final.
            if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
                let (error, came) = self.judge(&url, response).await;
                if error.kind != Kind::RateLimited {
                    let mute = status == StatusCode::UNAUTHORIZED && authorized == 0 && challenge.is_none();
                    if mute && ask.scope.is_some() {
                        let silent = self.error(Kind::Auth, &url, "answered 401 without saying what it wants");
                        return Err(Error { status: error.status, ..silent });
                    }
                    // What could not be asked for an account may be why.
                    let trouble = self.found.get().and_then(|found| found.trouble.as_ref());
                    let more = trouble.filter(|_| ask.scope.is_some()).map(|trouble| format!("; {trouble}"));
                    let message = format!("{}{}", error.message, more.unwrap_or_default());
                    return Err(Error { message, ..error });
                }
                self.again(came, &mut tries, error, ask.wants).await?;
                continue;
            }
            let came = Came::Answer {
                status: status.as_u16(),
                retry_after: pace::retry_after(response.headers(), SystemTime::now()),
                quota: false,
            };
            if pace::next(came, 0, &self.retry, 0.0) == Next::Take {
                return Ok(response);
            }
            let (error, came) = self.judge(&url, response).await;
            self.again(came, &mut tries, error, ask.wants).await?;
        }
    }

    /// Waits, or gives up with this error.
    pub async fn again(&self, came: Came, tries: &mut u32, error: Error, wants: Wants) -> Result<(), Error> {
        let own_fault = matches!(came, Came::Answer { status: 500, .. });
        let answered = error.status.is_some() && error.kind != Kind::RateLimited;
        let next = match wants {
            // A full disk is full the next second too.
            _ if error.kind == Kind::DiskFull => Next::Stop,
            // A limit, and a registry that is away for a moment, are waited for all the same.
            Wants::Little if answered && (own_fault || *tries >= 1) => Next::Stop,
            _ => pace::next(came, *tries, &self.retry, fastrand::f64()),
        };
        let Next::Again(wait) = next else {
            // A registry may stumble over one thing and serve all others.
            let one_thing = own_fault && error.kind != Kind::DiskFull;
            let little = wants == Wants::Little && answered;
            if pace::concerns_all(error.kind) && !one_thing && !little {
                return Err(self.gate.stop(self.whole(error)));
            }
            return Err(error);
        };
        *tries += 1;
        // Too fast for one is too fast for all; a broken connection is nobody else's.
        let shared = matches!(came, Came::Answer { status: 429 | 503, .. });
        if !shared || self.gate.close(wait) {
            let event = Event::Waiting { registry: self.name.clone(), wait, reason: error.message.clone() };
            // Nobody listens any more once the copy has ended.
            let _ = self.events.send(event);
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// The same as all its images' affair: without the address at which it came up, and
    /// with what is left and until when.
    fn whole(&self, mut error: Error) -> Error {
        let text = match error.message.strip_prefix(&format!("{}: ", self.name)) {
            // `registry: address: text`; addresses have no blanks.
            Some(rest) => {
                rest.split_once(": ").filter(|(address, _)| has_scheme(address)).map_or(rest, |(_, text)| text)
            }
            None => &error.message,
        };
        let mut message = match (self.name == self.authority, error.kind) {
            (_, Kind::RateLimited) => format!("{} gives no more: {text}", self.name),
            (true, _) => format!("{}: {text}", self.name),
            (false, _) => format!("{} ({}): {text}", self.name, self.authority),
        };
        if error.kind == Kind::RateLimited {
            let window = self.gate.quota().map(|quota| quota.window).filter(|window| !window.is_zero());
            let again = match (error.gives_again, window) {
                (Some(wait), _) => Some(format!("again {}", pace::until(wait, SystemTime::now()))),
                (None, Some(window)) => Some(format!("again at the latest {}", pace::until(window, SystemTime::now()))),
                (None, None) => None,
            };
            message.extend(again.map(|again| format!("; {again}")));
        }
        error.message = message;
        error.whole = true;
        error
    }

    /// A refusal, for people and for the decision table.
    pub async fn judge(&self, url: &str, response: Response<Incoming>) -> (Error, Came) {
        let mut status = response.status().as_u16();
        let retry_after = pace::retry_after(response.headers(), SystemTime::now());
        let gives_again = pace::gives_again(response.headers(), SystemTime::now());
        let left = Quota::of(&self.name, response.headers()).map(|quota| quota.remaining);
        let mut error = self.refused(url, response).await;
        error.gives_again = gives_again;
        if error.kind == Kind::RateLimited {
            // Some say it with a 403, or a 401.
            status = 429;
            let wait = retry_after.map(|wait| format!("; it asks to wait {} s", wait.as_secs())).unwrap_or_default();
            let quota = self.gate.quota().map(|quota| format!("; {quota}")).unwrap_or_default();
            error.message.push_str(&wait);
            error.message.push_str(&quota);
        }
        // Docker Hub's words for a quota that is used up; too many requests a minute has others.
        let quota = status == 429 && (left == Some(0) || error.message.contains("pull rate limit"));
        if error.kind == Kind::Invalid {
            // A judgement on what was sent stays the same, whatever the status.
            status = 400;
        }
        (error, Came::Answer { status, retry_after, quota })
    }

    fn request(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Body,
        scope: Option<&Scope>,
    ) -> Result<Request<Body>, Error> {
        let uri: Uri = url.parse().map_err(|_| self.error(Kind::Protocol, url, "is no URL"))?;
        let token = scope.filter(|_| self.is_ours(&uri)).and_then(|scope| self.tokens.get(&scope.0));
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .body(body)
            .map_err(|error| self.error(Kind::Protocol, url, &error.to_string()))?;
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
        if let Some(quota) = Quota::of(&self.name, response.headers()) {
            self.gate.learn(quota);
        }
        Ok(response)
    }

    /// Sends a body that cannot be sent twice: once, to one address. Whoever watches
    /// the body knows whether it still moves.
    pub async fn stream(&self, url: &str, size: u64, body: Body, scope: &Scope) -> Result<Response<Incoming>, Error> {
        self.gate.pass().await?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
        let request = self.request(Method::PUT, url, headers, body, Some(scope))?;
        self.exchange(request).await
    }

    pub fn token(&self, scope: &Scope) -> Option<HeaderValue> {
        self.tokens.get(&scope.0)
    }

    /// Gets the token that a 401 asks for. `sent`: what was refused; somebody else
    /// may have got a newer one meanwhile.
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
                    let found = self.credentials.find(&self.name).await?;
                    if let Some(trouble) = &found.trouble {
                        let text = format!("goes on without an account: {trouble}");
                        let _ = self.events.send(Event::Warning { id: self.name.clone(), text });
                    }
                    Ok::<_, Error>(found)
                })
                .await?
        };
        let account = found.account.as_ref();
        // What could not be asked for an account may be why there is none.
        let more = found.trouble.as_ref().map(|trouble| format!("; {trouble}")).unwrap_or_default();
        let wants = |what: &str| self.error(Kind::Auth, url, &format!("{what}{more}"));
        let challenge =
            Challenge::of(refused.headers()).ok_or_else(|| wants("answered 401 without saying what it wants"))?;
        let (realm, service) = match (challenge, account) {
            (Challenge::Basic, Some(Account::Password { username, password })) => {
                if !self.may_carry(self.scheme, &self.authority) {
                    return Err(wants("wants the account without TLS"));
                }
                let header = auth::basic(username, password).ok_or_else(|| wants("its account cannot be sent"))?;
                if sent.as_ref() == Some(&header) {
                    // Some answer so to what they do not do or do not have, whoever asks.
                    let status = Some(refused.status().as_u16());
                    return Err(Error { status, ..wants(&format!("refuses the account {username:?}")) });
                }
                self.tokens.put(&scope.0, Token { header, until: None });
                return Ok(());
            }
            (Challenge::Basic, Some(Account::IdentityToken(_))) => {
                return Err(wants("wants a password, and there is an identity token"));
            }
            (Challenge::Basic, None) if self.anonymous => {
                return Err(wants("wants an account, and as a stand-in it is given none"));
            }
            (Challenge::Basic, None) => return Err(wants("wants an account, and there is none for it")),
            (Challenge::Bearer { realm, service, .. }, _) => (self.lead(url, &realm)?, service),
        };
        let at = realm.split('?').next().unwrap_or_default();
        let uri: Uri = realm.parse().map_err(|_| wants("wants a token from what is no URL"))?;
        let (scheme, host) = (uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", Authority::as_str));
        // A realm on another host is normal (auth.docker.io); a password without TLS is not.
        if account.is_some() && !self.may_carry(scheme, host) {
            return Err(wants(&format!("wants the account to be sent to {at}, without TLS")));
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
        let secret = if account.is_some() { Wants::Secret } else { Wants::All };
        let asked = self.send(Ask { method, url: &request.url, headers, body, scope: None, wants: secret }).await;
        let response = match asked {
            Ok(response) if response.status().is_success() => Ok(response),
            Ok(response) => Err(self.refused(&realm, response).await),
            Err(error) => Err(error),
        };
        let response = match (response, account) {
            (Ok(response), _) => response,
            (Err(error), _) if error.status.is_none() || error.kind == Kind::RateLimited => return Err(error),
            (Err(error), Some(account)) => {
                let kind = match error.kind {
                    Kind::NotFound => Kind::Protocol,
                    Kind::Unreachable => Kind::Unreachable,
                    // Who asks is known there, and may not.
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
        let bytes = self.read(&realm, response, TOKEN_LIMIT).await?;
        // The answer is a secret: of a broken one only that it is.
        let answer: TokenAnswer = serde_json::from_slice(&bytes).map_err(|_| wants(&format!("{at} gave no token")))?;
        let token = answer.token().ok_or_else(|| wants(&format!("{at} gave no token")))?;
        self.tokens.put(&scope.0, token);
        Ok(())
    }

    /// Whether an account may be sent there: over TLS; on this machine also without, for a
    /// registry that is on it too.
    fn may_carry(&self, scheme: &str, authority: &str) -> bool {
        let host = |authority: &str| authority.parse::<Authority>().map(|it| it.host().to_owned()).unwrap_or_default();
        scheme == "https" || is_loopback(&host(authority)) && is_loopback(&host(&self.authority))
    }

    fn accepting_manifests() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(manifest::TYPES));
        headers
    }

    /// None: it has no such manifest.
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Option<Manifest>, Error> {
        let url = self.url(repository, &format!("manifests/{reference}"));
        let scope = self.pull(repository);
        let ask = Ask {
            method: Method::GET,
            url: &url,
            headers: Self::accepting_manifests(),
            body: Bytes::new(),
            scope: Some(&scope),
            wants: Wants::All,
        };
        let response = self.send(ask).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(self.refused(&url, response).await),
        }
        let content_type = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let bytes = self.read(&url, response, MANIFEST_LIMIT).await?;
        if reference.starts_with("sha256:") && reference != Digest::of(&bytes).as_str() {
            return Err(self.error(Kind::Invalid, &url, &format!("its bytes have the digest {}", Digest::of(&bytes))));
        }
        let manifest = Manifest::parse(bytes, &content_type);
        manifest.map(Some).map_err(|error| self.error(error.kind, &url, &error.message))
    }

    /// As `manifest`, where it must be there; one that was read before is not asked for again.
    pub async fn wanted_manifest(&self, repository: &str, reference: &str) -> Result<Manifest, Error> {
        if let Some(manifest) = self.kept.get(reference) {
            return Ok(manifest);
        }
        let url = self.url(repository, &format!("manifests/{reference}"));
        let found = self.manifest(repository, reference).await?;
        let found = found.ok_or_else(|| self.error(Kind::NotFound, &url, "there is no such manifest"))?;
        self.kept.put(&found);
        Ok(found)
    }

    /// The digest that a reference has here, by one HEAD, which counts for no quota. Where
    /// that is not allowed, by a GET, whose refusal comes with a reason.
    pub async fn digest_of(&self, repository: &str, reference: &str) -> Result<Option<Option<Digest>>, Error> {
        match self.digest_at_once(repository, reference, Wants::All).await {
            Err(error) if matches!(error.status, Some(400 | 401 | 403 | 405 | 406 | 501)) => {
                Ok(self.manifest(repository, reference).await?.map(|manifest| Some(manifest.digest)))
            }
            done => done,
        }
    }

    /// As `digest_of`, by a HEAD alone.
    pub async fn digest_at_once(
        &self,
        repository: &str,
        reference: &str,
        wants: Wants,
    ) -> Result<Option<Option<Digest>>, Error> {
        let url = self.url(repository, &format!("manifests/{reference}"));
        let response = self.head(repository, &url, Self::accepting_manifests(), wants).await?;
        match response.status() {
            StatusCode::OK => {
                let said = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
                Ok(Some(said.and_then(|said| Digest::parse(said).ok())))
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refused(&url, response).await),
        }
    }

    /// Whether it has this very manifest.
    pub async fn has_manifest(&self, repository: &str, digest: &Digest) -> Result<bool, Error> {
        let found = self.digest_of(repository, digest.as_str()).await?;
        // A registry that does not say was asked by digest all the same.
        Ok(found.is_some_and(|said| said.is_none_or(|said| said == *digest)))
    }

    /// Where it will not say, it is as if it were not there: the upload tells.
    pub async fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool, Error> {
        let url = self.url(repository, &format!("blobs/{digest}"));
        match self.head(repository, &url, HeaderMap::new(), Wants::All).await {
            Ok(response) if response.status() == StatusCode::OK => Ok(true),
            Ok(response) if response.status().is_client_error() => Ok(false),
            Ok(response) => Err(self.refused(&url, response).await),
            Err(error) if error.kind == Kind::Denied || error.kind == Kind::Auth && error.status.is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn head(
        &self,
        repository: &str,
        url: &str,
        headers: HeaderMap,
        wants: Wants,
    ) -> Result<Response<Incoming>, Error> {
        let scope = self.pull(repository);
        self.send(Ask { method: Method::HEAD, url, headers, body: Bytes::new(), scope: Some(&scope), wants }).await
    }

    /// A small blob, whole.
    pub async fn small_blob(&self, repository: &str, digest: &Digest) -> Result<Option<Bytes>, Error> {
        let url = self.url(repository, &format!("blobs/{digest}"));
        let scope = self.pull(repository);
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let ask = Ask { method: Method::GET, url: &url, headers, body, scope: Some(&scope), wants: Wants::All };
        let response = self.send(ask).await?;
        match response.status() {
            StatusCode::OK => self.read(&url, response, MANIFEST_LIMIT).await.map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refused(&url, response).await),
        }
    }

    /// One page of a list that a registry may not know, and where the next one is
    /// (`Link: <…>; rel="next"`, RFC 8288). None: it does not know such lists.
    pub async fn page(&self, repository: &str, url: &str) -> Result<Option<(Bytes, Option<String>)>, Error> {
        let scope = self.pull(repository);
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(manifest::OCI_INDEX));
        let ask =
            Ask { method: Method::GET, url, headers, body: Bytes::new(), scope: Some(&scope), wants: Wants::Little };
        let response = self.send(ask).await?;
        match response.status() {
            StatusCode::OK => {
                let next =
                    response.headers().get_all(header::LINK).iter().find_map(|link| next_page(link.to_str().ok()?));
                let next = next.map(|next| self.lead(url, &next)).transpose()?;
                Ok(Some((self.read(url, response, MANIFEST_LIMIT).await?, next)))
            }
            // Distribution 2.8 answers 404 to what it does not know, others 400, 405 or 501.
            StatusCode::NOT_FOUND
            | StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_ACCEPTABLE
            | StatusCode::NOT_IMPLEMENTED => Ok(None),
            _ => Err(self.refused(url, response).await),
        }
    }

    /// Puts a manifest there; whether the registry took note of its subject
    /// (`OCI-Subject`, OCI distribution spec 1.1, "Pushing Manifests with Subject").
    pub async fn put_manifest(
        &self,
        repository: &str,
        media_type: &str,
        bytes: Bytes,
        reference: &str,
    ) -> Result<bool, Error> {
        let url = self.url(repository, &format!("manifests/{reference}"));
        let mut headers = HeaderMap::new();
        let media_type = HeaderValue::from_str(media_type)
            .map_err(|_| self.error(Kind::Invalid, &url, "has an unusable media type"))?;
        headers.insert(header::CONTENT_TYPE, media_type);
        let scope = self.push(repository, None);
        let ask = Ask { method: Method::PUT, url: &url, headers, body: bytes, scope: Some(&scope), wants: Wants::All };
        let response = self.send(ask).await?;
        if !response.status().is_success() {
            return Err(self.refused(&url, response).await);
        }
        Ok(response.headers().contains_key("oci-subject"))
    }

    /// An answer, whole; `most` bytes of it.
    async fn read(&self, url: &str, response: Response<Incoming>, most: usize) -> Result<Bytes, Error> {
        let limited = http_body_util::Limited::new(response.into_body(), most);
        match tokio::time::timeout(self.retry.stall, limited.collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                let mib = most >> 20;
                Err(self.error(Kind::Invalid, url, &format!("its answer is larger than {mib} MiB, which none may be")))
            }
            Ok(Err(error)) => Err(self.error(Kind::Unreachable, url, &error.to_string())),
            Err(_) => Err(self.error(Kind::Unreachable, url, "its answer stands still")),
        }
    }

    /// A refusal, with what the registry says.
    pub async fn refused(&self, url: &str, response: Response<Incoming>) -> Error {
        let status = response.status();
        let body = tokio::time::timeout(Duration::from_secs(5), beginning(response, REFUSAL_LIMIT)).await;
        let body = body.unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        // ENOSPC is error 28: distribution prints Go's syscall error as a number.
        let full = text.contains("no space left on device") || text.contains("\"Err\":28");
        let lower = text.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let forbidden = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        // GitHub, GitLab, Amazon and Google each have words of their own for it.
        let limited = says(&["toomanyrequests", "pull rate limit", "api rate limit exceeded"])
            || forbidden && says(&["rate limit", "rate exceeded", "quota exceeded for", "resource_exhausted"]);
        let kind = match status {
            _ if full => Kind::DiskFull,
            StatusCode::TOO_MANY_REQUESTS => Kind::RateLimited,
            _ if limited && status.is_client_error() => Kind::RateLimited,
            // ECR's, of an account that was good for twelve hours.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if text.contains("token has expired") => Kind::Auth,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Denied,
            StatusCode::NOT_FOUND => Kind::NotFound,
            // Distribution answers 500 to a manifest with layers that lie elsewhere.
            _ if text.contains("DIGEST_INVALID") || text.contains("MANIFEST_") => Kind::Invalid,
            _ if status.is_server_error() => Kind::Unreachable,
            StatusCode::PAYLOAD_TOO_LARGE => Kind::BodyLimit,
            // Among them "Client sent an HTTP request to an HTTPS server."
            _ => Kind::Protocol,
        };
        let mut said = format!("{status} {}", told(&text));
        if kind == Kind::Denied {
            said = format!("{}: no such repository, or no right to it", said.trim());
        }
        Error { status: Some(status.as_u16()), ..self.error(kind, url, said.trim()) }
    }

    pub fn error(&self, kind: Kind, url: &str, text: &str) -> Error {
        // What follows the question mark may be a signature.
        let url = url.split('?').next().unwrap_or_default();
        Error::new(kind, format!("{}: {url}: {text}", self.name))
    }
}

fn has_scheme(text: &str) -> bool {
    let begins = |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    begins("http://") || begins("https://")
}

/// Where clouds keep what a machine is allowed to do, and what else lies next to one: no
/// registry sends anybody there.
fn never_led_to(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let bare = bare.trim_end_matches('.').to_ascii_lowercase();
    let address = match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical(),
        // The resolver takes an address as one number too, or in parts that are hexadecimal.
        Err(_) => match bare.split('.').next_back() {
            Some(last) if last.starts_with("0x") || !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()) => {
                return true;
            }
            _ => return bare == "metadata.google.internal",
        },
    };
    match address {
        IpAddr::V4(address) => {
            address.is_link_local() || address.is_unspecified() || address.octets() == [100, 100, 100, 200]
        }
        IpAddr::V6(address) => {
            let first = address.segments()[0];
            first & 0xffc0 == 0xfe80 || address.is_unspecified() || address.segments()[..2] == [0xfd00, 0xec2]
        }
    }
}

/// The address of `<…>; rel="next"`, among others perhaps.
pub(crate) fn next_page(link: &str) -> Option<String> {
    let mut rest = link;
    while let Some((_, after)) = rest.split_once('<') {
        let (address, parameters) = after.split_once('>')?;
        let end = parameters.find('<').unwrap_or(parameters.len());
        let is_next = parameters[..end].split([';', ',']).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            let mut relations = value.trim().trim_matches('"').split_whitespace();
            name.trim().eq_ignore_ascii_case("rel") && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
        });
        if is_next && !address.is_empty() {
            return Some(address.to_owned());
        }
        rest = &parameters[end..];
    }
    None
}

/// The first bytes of an answer.
async fn beginning(response: Response<Incoming>, most: usize) -> Vec<u8> {
    let (mut body, mut bytes) = (response.into_body(), Vec::new());
    while bytes.len() < most
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data[..data.len().min(most - bytes.len())]);
        }
    }
    bytes
}

/// What a registry says, in one line: `CODE: message` of its errors (OCI distribution spec,
/// "Error Codes"), or the beginning of whatever else it is.
fn told(text: &str) -> String {
    let word = |value: &serde_json::Value| value.as_str().map(str::to_owned).filter(|text| !text.is_empty());
    let one = |error: &serde_json::Value| {
        let parts: Vec<String> = [&error["code"], &error["message"]].into_iter().filter_map(word).collect();
        (!parts.is_empty()).then(|| parts.join(": "))
    };
    let answer: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let listed: Vec<String> = answer["errors"].as_array().into_iter().flatten().take(3).filter_map(one).collect();
    let single = || ["details", "message", "error"].iter().find_map(|key| word(&answer[*key]));
    let said = if listed.is_empty() { single() } else { Some(listed.join("; ")) };
    let said = said.unwrap_or_else(|| text.chars().take(2000).collect());
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// What a registry says, by each parser of it here.
#[cfg(test)]
pub(crate) fn read_arbitrary(text: &str) {
    let (events, _) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = Endpoint::named("registry.example");
    let registry = Registry::new("registry.example", &endpoint, &Options::to(endpoint.clone()), events).unwrap();
    let from = "https://registry.example/v2/a/";
    for reference in [Some(text.to_owned()), next_page(text)].into_iter().flatten() {
        if let Ok(address) = registry.lead(from, &reference) {
            assert!(!never_led_to(address.parse::<Uri>().unwrap().host().unwrap()), "{address}");
        }
    }
    assert!(told(text).chars().count() <= 300 && !told(text).contains('\u{1b}'));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(host: &str, plain_http: bool) -> Result<Registry, Error> {
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        let endpoint = Endpoint { host: host.to_owned(), plain_http, ca: None, anonymous: false };
        Registry::new(host, &endpoint, &Options::to(endpoint.clone()), events)
    }

    fn resolved(location: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, location.parse().unwrap());
        registry("127.0.0.1:5000", true)
            .unwrap()
            .resolve("http://127.0.0.1:5000/v2/a/blobs/uploads/", &headers)
            .unwrap()
    }

    #[test]
    fn a_location_may_have_any_form() {
        assert_eq!(resolved("/v2/a/blobs/uploads/1?s=2"), "http://127.0.0.1:5000/v2/a/blobs/uploads/1?s=2");
        assert_eq!(resolved("https://cdn.example/x"), "https://cdn.example/x");
        assert_eq!(resolved("//cdn.example/x"), "http://cdn.example/x");
        assert_eq!(resolved("1?s=2"), "http://127.0.0.1:5000/v2/a/blobs/uploads/1?s=2");
    }

    #[test]
    fn docker_hub_is_never_spoken_to_in_plain_http_and_has_its_api_elsewhere() {
        assert_eq!(registry("docker.io", true).err().unwrap().kind(), Kind::Lock);
        let hub = registry("docker.io", false).unwrap();
        assert_eq!(hub.url("library/redis", "tags/list"), "https://registry-1.docker.io/v2/library/redis/tags/list");
    }

    #[test]
    fn a_prefix_is_part_of_every_repository() {
        let central = registry("central.example/team/", false).unwrap();
        assert_eq!(
            central.url("third-party/redis", "blobs/x"),
            "https://central.example/v2/team/third-party/redis/blobs/x"
        );
        assert_eq!(central.push("a", Some("b")).0, ["repository:team/a:pull,push", "repository:team/b:pull"]);
        assert_eq!(central.push("a", Some("a")).0, ["repository:team/a:pull,push"]);
    }

    #[test]
    fn only_the_registry_itself_is_told_who_we_are() {
        let ours = registry("127.0.0.1:5000", true).unwrap();
        assert!(ours.is_ours(&"http://127.0.0.1:5000/v2/".parse().unwrap()));
        for other in ["http://127.0.0.1:50000/", "https://127.0.0.1:5000/", "http://127.0.0.1:5000@evil.example/"] {
            assert!(!ours.is_ours(&other.parse().unwrap()), "{other}");
        }
        let ours = registry("Registry.example", false).unwrap();
        for own in ["https://registry.example/v2/", "https://registry.example:443/v2/", "https://REGISTRY.example/x"] {
            assert!(ours.is_ours(&own.parse().unwrap()), "{own}");
        }
        for other in ["https://registry.example:5000/", "http://registry.example:443/", "https://a.registry.example/"] {
            assert!(!ours.is_ours(&other.parse().unwrap()), "{other}");
        }
        assert!(registry("user:password@central.example", false).is_err());
    }

    /// A proxy that ends TLS leaves the registry behind it in the belief that there is none.
    #[test]
    fn a_location_that_forgets_tls_is_led_back_to_it() {
        let ours = registry("registry.example", false).unwrap();
        let from = "https://registry.example/v2/a/blobs/uploads/";
        for location in [
            "http://registry.example/v2/x?y=1",
            "http://registry.example:80/v2/x?y=1",
            "HTTP://Registry.example/v2/x?y=1",
        ] {
            assert_eq!(ours.lead(from, location).unwrap(), "https://registry.example/v2/x?y=1", "{location}");
        }
        assert_eq!(ours.lead(from, "http://cdn.example/x").unwrap(), "http://cdn.example/x");
        assert_eq!(ours.lead(from, "?n=2").unwrap(), "https://registry.example/v2/a/blobs/uploads/?n=2");
    }

    #[test]
    fn nobody_is_led_to_where_machines_keep_their_secrets() {
        let ours = registry("registry.example", false).unwrap();
        for host in [
            "169.254.169.254",
            "169.254.170.2:80",
            "[fe80::1]",
            "[::ffff:169.254.169.254]",
            "[fd00:ec2::254]",
            "100.100.100.200",
            "metadata.google.internal",
            "2852039166",
            "0xa9fea9fe",
            "0xa9.0xfe.0xa9.0xfe",
            "0251.0376.0251.0376",
            "0.0.0.0",
            "[::]",
            "user:password@cdn.example",
        ] {
            let error = ours.lead("https://registry.example/v2/", &format!("http://{host}/x")).unwrap_err();
            assert!(error.kind() == Kind::Protocol && !error.to_string().contains("password"), "{error}");
        }
        for host in ["10.0.0.1", "cdn.example", "127.0.0.1:5000", "[::1]:5000", "192.168.1.1", "100.100.100.201"] {
            assert!(ours.lead("https://registry.example/v2/", &format!("http://{host}/x")).is_ok(), "{host}");
        }
        // Whoever names one has it.
        let named = registry("169.254.1.1:5000", false).unwrap();
        assert!(named.lead("https://169.254.1.1:5000/v2/", "/v2/x").is_ok());
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        for (link, expected) in [
            (r#"</v2/a/referrers/sha256:1?n=2>; rel="next""#, Some("/v2/a/referrers/sha256:1?n=2")),
            ("<x>;rel=next", Some("x")),
            (r#"<a>; rel="prev", <b>; title="x"; REL="next last""#, Some("b")),
            (r#"<a>; rel="prev""#, None),
            ("<a", None),
            ("", None),
            ("<>; rel=next", None),
        ] {
            assert_eq!(next_page(link).as_deref(), expected, "{link}");
        }
    }

    #[test]
    fn what_a_registry_says_is_one_line() {
        for (body, expected) in [
            (r#"{"errors":[{"code":"DENIED","message":"no\nway","detail":{"x":1}}]}"#, "DENIED: no way"),
            (r#"{"errors":[{"code":"A"},{"message":"b"}]}"#, "A; b"),
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            ("<html>\n <b>\u{1b}[31m502</b>", "<html> <b>[31m502</b>"),
            (r#"{"errors":null}"#, r#"{"errors":null}"#),
            ("", ""),
        ] {
            assert_eq!(told(body), expected);
        }
        assert_eq!(told(&"x".repeat(5000)).len(), 300);
    }
}
