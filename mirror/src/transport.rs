//! Connections: plain or with TLS, direct or through a proxy. TLS is set up only
//! when an address asks for it: reading the machine's certificates costs more
//! than a warm run.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use camino::Utf8PathBuf;
use http::uri::Authority;
use http::{Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::{Error, Kind, NoProxy};

/// Where a registry is really reached.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Name or address, with its port where it is not the scheme's own, and
    /// perhaps a prefix that all its repositories have: `host:5000/team`.
    pub host: String,
    pub plain_http: bool,
    /// A further certificate authority, PEM.
    pub ca: Option<Utf8PathBuf>,
}

impl Endpoint {
    /// A name as people type it: plain HTTP where Docker speaks it unasked, to this
    /// machine itself (`localhost`, `127.0.0.0/8`, `[::1]`).
    pub fn named(host: &str) -> Self {
        let plain_http = Authority::try_from(host.split('/').next().unwrap_or_default())
            .is_ok_and(|authority| is_loopback(authority.host()));
        Self { host: host.to_owned(), plain_http, ca: None }
    }

    /// Host with port, and the prefix without its last slash.
    ///
    /// # Errors
    /// A name that no registry can have (OCI distribution spec, "Pulling manifests",
    /// for the prefix), or one with an account in it, which would end up in logs.
    pub fn parts(&self) -> Result<(Authority, &str), Error> {
        let (host, prefix) = self.host.split_once('/').unwrap_or((&self.host, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if host.contains('@') {
            return Err(Error::new(Kind::Lock, "a registry's name holds no account: docker login keeps it"));
        }
        let authority = Authority::try_from(host).ok();
        // `http:` is one to that parser.
        let authority = authority.filter(|authority| host == authority.host() || authority.port_u16().is_some());
        let authority = authority.filter(|_| prefix.is_empty() || prefix.split('/').all(is_component));
        let wrong = || Error::new(Kind::Lock, format!("{:?}: expected host[:port][/prefix]", self.host));
        Ok((authority.ok_or_else(wrong)?, prefix))
    }
}

/// Of a repository's name: lower case letters and digits, with separators only in between.
fn is_component(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(plain) && text.ends_with(plain) && text.chars().all(|c| plain(c) || "._-".contains(c))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The proxies in force; by default none.
#[derive(Clone, Default)]
pub struct Proxies {
    matcher: Option<Arc<Matcher>>,
    no_proxy: NoProxy,
    direct: Vec<String>,
}

impl Proxies {
    /// As `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    pub fn from_env() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let either = |upper: &str, lower: &str| set(upper).or_else(|| set(lower)).unwrap_or_default();
        let matcher = Matcher::builder()
            .all(either("ALL_PROXY", "all_proxy"))
            .http(either("HTTP_PROXY", "http_proxy"))
            .https(either("HTTPS_PROXY", "https_proxy"))
            .build();
        let no_proxy = NoProxy::parse(&either("NO_PROXY", "no_proxy"));
        Self { matcher: Some(Arc::new(matcher)), no_proxy, direct: Vec::new() }
    }

    /// One for everything.
    pub fn all(proxy: &str) -> Self {
        Self { matcher: Some(Arc::new(Matcher::builder().all(proxy).build())), ..Self::default() }
    }

    /// This host is reached without one, whatever else is said: a cluster's own registry.
    #[must_use]
    pub fn never_for(mut self, host: &str) -> Self {
        self.direct.push(host.to_owned());
        self
    }

    /// This machine itself is never reached through one.
    fn intercept(&self, uri: &Uri) -> Option<Intercept> {
        let host = uri.host()?;
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        let direct = self.no_proxy.covers(host, port) || self.direct.iter().any(|name| name == host);
        self.matcher.as_ref().filter(|_| !direct)?.intercept(uri)
    }
}

/// A proxy's address may hold a password.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies").field("direct", &self.direct).finish_non_exhaustive()
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Body = UnsyncBoxBody<Bytes, Error>;

pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Direct, or by CONNECT through a proxy.
#[derive(Clone)]
struct Connector {
    http: HttpConnector,
    proxies: Proxies,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let mut http = self.http.clone();
        let proxy = self.proxies.intercept(&uri);
        Box::pin(async move {
            let Some(proxy) = proxy else { return Ok(http.call(uri).await?) };
            let mut tunnel = Tunnel::new(proxy.uri().clone(), http);
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(auth.clone());
            }
            tunnel.call(uri).await.map_err(|error| format!("proxy {}: {error}", proxy.uri()).into())
        })
    }
}

pub(crate) struct Transport {
    connector: Connector,
    plain: Client<Connector, Body>,
    tls: OnceLock<Client<HttpsConnector<Connector>, Body>>,
    ca: Option<Utf8PathBuf>,
}

impl Transport {
    pub fn new(ca: Option<Utf8PathBuf>, proxies: &Proxies) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = Connector { http, proxies: proxies.clone() };
        let plain = Client::builder(TokioExecutor::new()).build(connector.clone());
        Self { connector, plain, tls: OnceLock::new(), ca }
    }

    pub async fn request(&self, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        let sent = if request.uri().scheme_str() == Some("http") {
            self.plain.request(request)
        } else {
            self.tls()?.request(request)
        };
        sent.await.map_err(|error| failure(&error))
    }

    fn tls(&self) -> Result<&Client<HttpsConnector<Connector>, Body>, Error> {
        if let Some(client) = self.tls.get() {
            return Ok(client);
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &self.ca {
            let failed = |error: &dyn std::fmt::Display| {
                Error::new(Kind::Lock, format!("{path}: expected certificates in PEM: {error}"))
            };
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| failed(&error))?;
                roots.add(certificate).map_err(|error| failed(&error))?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(Kind::Tls, error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_http1()
            .wrap_connector(self.connector.clone());
        Ok(self.tls.get_or_init(|| Client::builder(TokioExecutor::new()).build(connector)))
    }
}

/// The whole chain of causes in one line, and what kind of thing it is.
fn failure(error: &hyper_util::client::legacy::Error) -> Error {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(ours) = cause.downcast_ref::<Error>() {
            return ours.clone();
        }
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    let kind = if text.contains("dns error") || text.contains("failed to lookup") {
        Kind::Dns
    } else if text.contains("InvalidContentType") || text.contains("corrupt message") {
        // A TLS hello answered by plain HTTP.
        Kind::Protocol
    } else if text.contains("certificate") || text.contains("TLS") || text.contains("received fatal alert") {
        Kind::Tls
    } else {
        Kind::Unreachable
    };
    Error::new(kind, text).passing()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_in_plain_http_unasked() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000", "localhost:5000/team"]
        {
            assert!(Endpoint::named(host).plain_http, "{host}");
        }
        for host in ["docker.io", "10.0.0.1:5000", "registry.example/localhost", "localhost.example", "[::2]:5000"] {
            assert!(!Endpoint::named(host).plain_http, "{host}");
        }
    }

    #[test]
    fn a_registry_is_a_host_perhaps_with_a_port_and_a_prefix() {
        let parts =
            |host: &str| Endpoint::named(host).parts().map(|(authority, prefix)| format!("{authority} {prefix}")).ok();
        for (host, expected) in [
            ("central.example", "central.example "),
            ("central.example:5000/team/third-party/", "central.example:5000 team/third-party"),
            ("[::1]:5000/a__b", "[::1]:5000 a__b"),
            ("[::1]", "[::1] "),
        ] {
            assert_eq!(parts(host).as_deref(), Some(expected), "{host}");
        }
        for host in [
            "",
            "http://central.example",
            "https://central.example/team",
            "central.example:",
            "central.example:port",
            "central.example:99999",
            "user:password@central.example",
            "central.example/Team",
            "central.example/team:1",
            "central.example/team//x",
            "central.example/-x",
            "two words",
            "/team",
        ] {
            assert_eq!(parts(host), None, "{host}");
        }
    }
}
