//! One registry: requests with what it takes to be let in, at the pace it allows.
//! Rules are those of the OCI distribution spec, section "Endpoints".

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc::UnboundedSender;

use crate::auth::{self, Challenge, Token, TokenAnswer, Tokens};
use crate::copy::Options;
use crate::credentials::{Account, Credentials};
use crate::lock::Digest;
use crate::manifest::{self, Manifest};
use crate::pace::{self, Came, Gate, Next, Quota, Retry};
use crate::proxy::Proxies;
use crate::transport::{Body, Endpoint, Transport, full};
use crate::{Error, Event, Kind};

/// Manifests larger than this are refused, as registries do (distribution: 4 MiB).
const MANIFEST_LIMIT: usize = 4 << 20;
const REDIRECTS: usize = 5;
/// A token may end between being given and being used, but not each time.
const AUTHORIZED: u32 = 3;

pub(crate) struct Registry {
    /// As images name it, for messages and credentials: `docker.io`.
    pub name: String,
    scheme: &'static str,
    authority: String,
    /// Of all repositories here, with its slash; mostly empty.
    prefix: String,
    transport: Transport,
    credentials: Credentials,
    account: tokio::sync::OnceCell<Option<Account>>,
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
        let hub = matches!(authority.host(), "docker.io" | "index.docker.io" | "registry-1.docker.io");
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
            account: tokio::sync::OnceCell::new(),
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
    pub fn resolve(&self, from: &str, headers: &HeaderMap) -> Result<String, Error> {
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| self.error(Kind::Protocol, from, "gave no Location"))?;
        if location.starts_with("http://") || location.starts_with("https://") {
            return Ok(location.to_owned());
        }
        let base: Uri = from.parse().map_err(|_| self.error(Kind::Protocol, from, "is no URL"))?;
        let (scheme, authority) =
            (base.scheme_str().unwrap_or(self.scheme), base.authority().map_or("", |a| a.as_str()));
        if let Some(rest) = location.strip_prefix("//") {
            return Ok(format!("{scheme}://{rest}"));
        }
        if location.starts_with('/') {
            return Ok(format!("{scheme}://{authority}{location}"));
        }
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        Ok(format!("{scheme}://{authority}{folder}/{location}"))
    }

    /// Whether an address is this registry's own; no other is told who we are.
    fn is_ours(&self, uri: &Uri) -> bool {
        uri.scheme_str() == Some(self.scheme) && uri.authority().is_some_and(|at| at.as_str() == self.authority)
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
                    self.again(came, &mut tries, error).await?;
                    continue;
                }
            };
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED
                && authorized < AUTHORIZED
                && let Some(scope) = ask.scope
            {
                authorized += 1;
                Box::pin(self.authorize(&url, &response, scope, sent.flatten())).await?;
                continue;
            }
            // 307 and 308 keep the method, the older ones need not (RFC 9110, 15.4).
            let reads = ask.method == Method::GET || ask.method == Method::HEAD;
            if matches!(status.as_u16(), 307 | 308) || reads && matches!(status.as_u16(), 301..=303) {
                redirects += 1;
                if redirects > REDIRECTS {
                    return Err(self.error(Kind::Protocol, &url, "redirects without end"));
                }
                url = self.resolve(&url, response.headers())?;
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
                self.again(came, &mut tries, Error { kind: Kind::Protocol, ..error }).await?;
                (url, redirects) = (ask.url.to_owned(), 0);
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
            self.again(came, &mut tries, error).await?;
        }
    }

    /// Waits, or gives up with this error.
    pub async fn again(&self, came: Came, tries: &mut u32, error: Error) -> Result<(), Error> {
        // A full disk is full the next second too.
        let next = if error.kind == Kind::DiskFull {
            Next::Stop
        } else {
            pace::next(came, *tries, &self.retry, fastrand::f64())
        };
        let Next::Again(wait) = next else {
            if pace::concerns_all(error.kind) {
                self.gate.stop(&error);
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

    /// A refusal, for people and for the decision table.
    pub async fn judge(&self, url: &str, response: Response<Incoming>) -> (Error, Came) {
        let mut status = response.status().as_u16();
        let retry_after = pace::retry_after(response.headers(), SystemTime::now());
        let left = Quota::of(&self.name, response.headers()).map(|quota| quota.remaining);
        let mut error = self.refused(url, response).await;
        // Docker Hub's words for a quota that is used up; too many requests a minute has others.
        let quota = status == 429 && (left == Some(0) || error.message.contains("pull rate limit"));
        if status == 429 {
            let wait = retry_after.map(|wait| format!("; it asks to wait {} s", wait.as_secs())).unwrap_or_default();
            let quota = self.gate.quota().map(|quota| format!("; {quota}")).unwrap_or_default();
            error.message.push_str(&wait);
            error.message.push_str(&quota);
        }
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
        let wants = |what: &str| self.error(Kind::Auth, url, what);
        let challenge =
            Challenge::of(refused.headers()).ok_or_else(|| wants("answered 401 without saying what it wants"))?;
        let account = self.account.get_or_try_init(|| self.credentials.find(&self.name)).await?.as_ref();
        let (realm, service) = match (challenge, account) {
            (Challenge::Basic, Some(Account::Password { username, password })) => {
                let header = auth::basic(username, password).ok_or_else(|| wants("its account cannot be sent"))?;
                if sent.as_ref() == Some(&header) {
                    return Err(wants(&format!("refuses the account {username:?}")));
                }
                self.tokens.put(&scope.0, Token { header, until: None });
                return Ok(());
            }
            (Challenge::Basic, Some(Account::IdentityToken(_))) => {
                return Err(wants("wants a password, and there is an identity token"));
            }
            (Challenge::Basic, None) => return Err(wants("wants an account, and there is none for it")),
            (Challenge::Bearer { realm, service }, _) => (realm, service),
        };
        // No password leaves a connection with TLS for one without.
        if account.is_some() && self.scheme == "https" && !realm.starts_with("https://") {
            return Err(wants(&format!("wants the account to be sent to {realm}, without TLS")));
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
        let response = self.send(Ask { method, url: &request.url, headers, body, scope: None }).await?;
        if !response.status().is_success() {
            let error = self.refused(&realm, response).await;
            let who = account.map(|account| format!("refuses {account:?}: ")).unwrap_or_default();
            let kind = if error.kind == Kind::NotFound { Kind::Protocol } else { Kind::Auth };
            return Err(Error { kind, message: format!("{who}{error}"), ..error });
        }
        let bytes = self.read(&realm, response).await?;
        // The answer is a secret: of a broken one only that it is.
        let answer: TokenAnswer =
            serde_json::from_slice(&bytes).map_err(|_| wants(&format!("{realm} gave no token")))?;
        let token = answer.token().ok_or_else(|| wants(&format!("{realm} gave no token")))?;
        self.tokens.put(&scope.0, token);
        Ok(())
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
        let bytes = self.read(&url, response).await?;
        if reference.starts_with("sha256:") && reference != Digest::of(&bytes).as_str() {
            return Err(self.error(Kind::Invalid, &url, &format!("its bytes have the digest {}", Digest::of(&bytes))));
        }
        let manifest = Manifest::parse(bytes, &content_type);
        manifest.map(Some).map_err(|error| self.error(error.kind, &url, &error.message))
    }

    /// As `manifest`, where it must be there.
    pub async fn wanted_manifest(&self, repository: &str, reference: &str) -> Result<Manifest, Error> {
        let url = self.url(repository, &format!("manifests/{reference}"));
        let found = self.manifest(repository, reference).await?;
        found.ok_or_else(|| self.error(Kind::NotFound, &url, "there is no such manifest"))
    }

    /// The digest that a reference has here, by one HEAD, which counts for no quota.
    pub async fn digest_of(&self, repository: &str, reference: &str) -> Result<Option<Option<Digest>>, Error> {
        let url = self.url(repository, &format!("manifests/{reference}"));
        let response = self.head(repository, &url, Self::accepting_manifests()).await?;
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

    pub async fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool, Error> {
        let url = self.url(repository, &format!("blobs/{digest}"));
        let response = self.head(repository, &url, HeaderMap::new()).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(&url, response).await),
        }
    }

    async fn head(&self, repository: &str, url: &str, headers: HeaderMap) -> Result<Response<Incoming>, Error> {
        let scope = self.pull(repository);
        self.send(Ask { method: Method::HEAD, url, headers, body: Bytes::new(), scope: Some(&scope) }).await
    }

    /// A small answer, whole.
    pub async fn get(&self, repository: &str, rest: &str) -> Result<Option<Bytes>, Error> {
        let url = self.url(repository, rest);
        let scope = self.pull(repository);
        let ask =
            Ask { method: Method::GET, url: &url, headers: HeaderMap::new(), body: Bytes::new(), scope: Some(&scope) };
        let response = self.send(ask).await?;
        match response.status() {
            StatusCode::OK => self.read(&url, response).await.map(Some),
            // Distribution 2.8 answers 404 to what it does not know, others 400, 405 or 501.
            StatusCode::NOT_FOUND
            | StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => Ok(None),
            _ => Err(self.refused(&url, response).await),
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
        let response =
            self.send(Ask { method: Method::PUT, url: &url, headers, body: bytes, scope: Some(&scope) }).await?;
        if !response.status().is_success() {
            return Err(self.refused(&url, response).await);
        }
        Ok(response.headers().contains_key("oci-subject"))
    }

    pub async fn read(&self, url: &str, response: Response<Incoming>) -> Result<Bytes, Error> {
        let limited = http_body_util::Limited::new(response.into_body(), MANIFEST_LIMIT);
        match tokio::time::timeout(self.retry.stall, limited.collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                Err(self.error(Kind::Invalid, url, "its answer is larger than 4 MiB, which no manifest may be"))
            }
            Ok(Err(error)) => Err(self.error(Kind::Unreachable, url, &error.to_string())),
            Err(_) => Err(self.error(Kind::Unreachable, url, "its answer stands still")),
        }
    }

    /// A refusal, with what the registry says.
    pub async fn refused(&self, url: &str, response: Response<Incoming>) -> Error {
        let status = response.status();
        let body = tokio::time::timeout(Duration::from_secs(5), self.read(url, response)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect();
        // ENOSPC is error 28: distribution prints Go's syscall error as a number.
        let full = text.contains("no space left on device") || text.contains("\"Err\":28");
        let kind = match status {
            _ if full => Kind::DiskFull,
            StatusCode::TOO_MANY_REQUESTS => Kind::RateLimited,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Auth,
            StatusCode::NOT_FOUND => Kind::NotFound,
            // Distribution answers 500 to a manifest with layers that lie elsewhere.
            _ if text.contains("DIGEST_INVALID") || text.contains("MANIFEST_") => Kind::Invalid,
            _ if status.is_server_error() => Kind::Unreachable,
            StatusCode::PAYLOAD_TOO_LARGE => Kind::BodyLimit,
            // Among them "Client sent an HTTP request to an HTTPS server."
            _ => Kind::Protocol,
        };
        self.error(kind, url, format!("{status} {text}").trim())
    }

    pub fn error(&self, kind: Kind, url: &str, text: &str) -> Error {
        // What follows the question mark may be a signature.
        let url = url.split('?').next().unwrap_or_default();
        Error::new(kind, format!("{}: {url}: {text}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(host: &str, plain_http: bool) -> Result<Registry, Error> {
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        let endpoint = Endpoint { host: host.to_owned(), plain_http, ca: None };
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
        assert!(registry("user:password@central.example", false).is_err());
    }
}
