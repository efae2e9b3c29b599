//! One registry over HTTP: tokens, requests, and errors in this library's words.
//! Rules are those of the OCI distribution spec, section "Endpoints".

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use camino::Utf8PathBuf;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::lock::Digest;
use crate::{Error, Kind};

/// Where a registry is really reached.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Name or address, with its port where it is not the scheme's own.
    pub host: String,
    pub plain_http: bool,
    /// A further certificate authority, PEM.
    pub ca: Option<Utf8PathBuf>,
}

pub(crate) type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// A manifest with what its registry says of it.
pub(crate) struct Manifest {
    pub bytes: Bytes,
    pub media_type: String,
    pub digest: Digest,
}

pub(crate) const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// Manifests larger than this are refused, as registries do (distribution: 4 MiB).
const MANIFEST_LIMIT: usize = 4 << 20;
/// To the first byte of an answer.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct Registry {
    /// For messages: `docker.io`.
    name: String,
    base: String,
    client: Client<HttpsConnector<HttpConnector>, Body>,
    /// By scope.
    tokens: Mutex<BTreeMap<String, String>>,
    pub requests: std::sync::atomic::AtomicU64,
}

impl Registry {
    pub fn new(name: &str, endpoint: &Endpoint) -> Result<Self, Error> {
        let tls = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls_provider())
            .map_err(|error| Error::new(Kind::Invalid, format!("cannot set TLS up: {error}")))?;
        let connector = tls.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let scheme = if endpoint.plain_http { "http" } else { "https" };
        // Docker Hub's API has a name of its own.
        let host = if endpoint.host == "docker.io" { "registry-1.docker.io" } else { &endpoint.host };
        Ok(Self {
            name: name.to_owned(),
            base: format!("{scheme}://{host}"),
            client,
            tokens: Mutex::default(),
            requests: 0.into(),
        })
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Where an upload goes on: `Location` may be absolute or relative.
    pub fn resolve(&self, location: &str) -> String {
        if location.starts_with('/') { self.url(location) } else { location.to_owned() }
    }

    /// Sends a request that can be sent twice, asking for a token when told to.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        scope: &str,
    ) -> Result<Response<Incoming>, Error> {
        let response = self.once(method.clone(), url, headers.clone(), full(body.clone()), scope).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        self.authorize(&response, scope).await?;
        self.once(method, url, headers, full(body), scope).await
    }

    /// Sends a request once, with the token that is there.
    pub async fn once(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Body,
        scope: &str,
    ) -> Result<Response<Incoming>, Error> {
        let uri: Uri = url.parse().map_err(|_| self.error(Kind::Protocol, url, "is no URL"))?;
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .body(body)
            .map_err(|error| self.error(Kind::Protocol, url, &error.to_string()))?;
        *request.headers_mut() = headers;
        if url.starts_with(&self.base)
            && let Some(token) = self.token(scope)
            && let Ok(value) = HeaderValue::from_str(&token)
        {
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        self.requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match tokio::time::timeout(TIMEOUT, self.client.request(request)).await {
            Err(_) => Err(self.error(Kind::Unreachable, url, "no answer within 60 s")),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.transport(url, &error)),
        }
    }

    fn token(&self, scope: &str) -> Option<String> {
        self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(scope).cloned()
    }

    /// The token flow of the distribution spec's "Token Authentication".
    async fn authorize(&self, refused: &Response<Incoming>, scope: &str) -> Result<(), Error> {
        let challenge =
            refused.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let parameter =
            |name: &str| challenge.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
        let Some(realm) = challenge.strip_prefix("Bearer ").and_then(|_| parameter("realm")) else {
            return Err(self.error(Kind::Auth, &self.base, "wants credentials that this tool does not have"));
        };
        let service = parameter("service").unwrap_or_default();
        let url = format!("{realm}?service={service}&scope={scope}");
        let response = self.once(Method::GET, &url, HeaderMap::new(), empty(), "").await?;
        if !response.status().is_success() {
            return Err(self.refused(&url, response).await);
        }
        let bytes = self.read(&url, response).await?;
        let answer: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| self.error(Kind::Auth, realm, &error.to_string()))?;
        let token = answer.get("token").or_else(|| answer.get("access_token")).and_then(serde_json::Value::as_str);
        let token = token.ok_or_else(|| self.error(Kind::Auth, realm, "gave no token"))?;
        self.tokens
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(scope.to_owned(), format!("Bearer {token}"));
        Ok(())
    }

    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Manifest, Error> {
        let url = self.url(&format!("/v2/{repository}/manifests/{reference}"));
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        let response = self.send(Method::GET, &url, headers, Bytes::new(), &pull(repository)).await?;
        if !response.status().is_success() {
            return Err(self.refused(&url, response).await);
        }
        let media_type = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let bytes = self.read(&url, response).await?;
        let digest = Digest::of(&bytes);
        if reference.starts_with("sha256:") && reference != digest.as_str() {
            return Err(self.error(Kind::Invalid, &url, &format!("its bytes have the digest {digest}")));
        }
        Ok(Manifest { bytes, media_type, digest })
    }

    /// Whether the registry has it: one HEAD.
    pub async fn has(&self, repository: &str, what: &str, digest: &str) -> Result<bool, Error> {
        let url = self.url(&format!("/v2/{repository}/{what}/{digest}"));
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        let response = self.send(Method::HEAD, &url, headers, Bytes::new(), &pull(repository)).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(&url, response).await),
        }
    }

    pub async fn read(&self, url: &str, response: Response<Incoming>) -> Result<Bytes, Error> {
        let limited = http_body_util::Limited::new(response.into_body(), MANIFEST_LIMIT);
        limited
            .collect()
            .await
            .map(|body| body.to_bytes())
            .map_err(|error| self.error(Kind::Unreachable, url, &error.to_string()))
    }

    /// A refusal, with what the registry says.
    pub async fn refused(&self, url: &str, response: Response<Incoming>) -> Error {
        let status = response.status();
        let body = self.read(url, response).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => Kind::RateLimited,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Auth,
            StatusCode::NOT_FOUND => Kind::NotFound,
            _ => Kind::Protocol,
        };
        self.error(kind, url, format!("{status} {}", text.trim()).trim())
    }

    fn transport(&self, url: &str, error: &hyper_util::client::legacy::Error) -> Error {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        let kind = if text.contains("dns") || text.contains("lookup") { Kind::Dns } else { Kind::Unreachable };
        self.error(kind, url, &text)
    }

    pub fn error(&self, kind: Kind, url: &str, text: &str) -> Error {
        Error::new(kind, format!("{}: {url}: {text}", self.name))
    }
}

pub(crate) fn pull(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

pub(crate) fn push(repository: &str) -> String {
    format!("repository:{repository}:pull,push")
}

fn rustls_provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::ring::default_provider())
}
