//! Connections: plain or TLS, direct or through a proxy. TLS is set up only when an address needs
//! it: reading the machine's certificates takes longer than a warm run.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use camino::Utf8PathBuf;
use http::header::PROXY_AUTHORIZATION;
use http::uri::{Authority, Parts};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::error::{Error, Kind};
use crate::proxy::{Proxies, Proxy, Speaks};
use crate::trust::Trust;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Body = UnsyncBoxBody<Bytes, Error>;

pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens connections: direct, to a proxy that passes requests on, or through one (CONNECT or SOCKS
/// 5); to the proxy also over TLS. TLS to the address itself is layered on top.
#[derive(Clone)]
struct Connector {
    http: HttpConnector,
    proxies: Proxies,
    trust: Arc<Trust>,
}

impl Connector {
    /// Does no I/O; errors show when a connection is opened.
    fn new(proxies: Proxies, trust: Arc<Trust>) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self { http, proxies, trust }
    }
}

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// An open connection.
struct Link {
    stream: Stream,
    /// At its end is a proxy that passes requests on, so they are written in absolute form.
    forwarded: bool,
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.forwarded)
    }
}

impl Read for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl Write for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }
}

/// How long a proxy may take to connect.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(30);

impl Service<Uri> for Connector {
    type Response = Link;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (mut http, trust) = (self.http.clone(), self.trust.clone());
        let proxy = self.proxies.to(&uri).cloned();
        Box::pin(async move {
            let Some(proxy) = proxy else { return Ok(Link { stream: http.call(uri).await?.into(), forwarded: false }) };
            let forwarded = proxy.forwards(&uri);
            let led = tokio::time::timeout(TUNNEL_TIMEOUT, through(&proxy, uri, http, &trust)).await;
            let led = led.unwrap_or_else(|_| Err(format!("no answer within {} s", TUNNEL_TIMEOUT.as_secs()).into()));
            let stream = led.map_err(|error| ProxyFailed { proxy: proxy.address(), error })?;
            Ok(Link { stream, forwarded })
        })
    }
}

/// With the scheme's default port written out: SOCKS without a port would lead to the HTTPS port.
fn with_port(uri: Uri) -> Uri {
    let Some(host) = uri.host().filter(|_| uri.port().is_none() && uri.scheme_str() == Some("http")) else {
        return uri;
    };
    let authority = format!("{host}:80");
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Uri::builder().scheme("http").authority(authority).path_and_query(path).build().unwrap_or(uri)
}

async fn through(proxy: &Proxy, uri: Uri, http: HttpConnector, trust: &Trust) -> Result<Stream, BoxError> {
    match (proxy.speaks, proxy.uri.scheme_str()) {
        (Speaks::Socks5 { local_dns }, _) => {
            let mut socks = SocksV5::new(proxy.uri.clone(), http).local_dns(local_dns);
            if let Some((username, password)) = proxy.account.clone() {
                socks = socks.with_auth(username, password);
            }
            Ok(socks.call(with_port(uri)).await?.into())
        }
        (Speaks::Http, Some("https")) => {
            let tls = HttpsConnectorBuilder::new().with_tls_config(trust.config()?).https_only();
            through_http(proxy, uri, tls.enable_http1().wrap_connector(http)).await
        }
        (Speaks::Http, _) => through_http(proxy, uri, http).await,
    }
}

/// The connection to the proxy itself if it passes the request on, else one that it tunnels.
async fn through_http<C>(proxy: &Proxy, uri: Uri, mut connector: C) -> Result<Stream, BoxError>
where
    C: Service<Uri>,
    C::Response: Read + Write + Unpin + Send + Into<Stream> + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    if proxy.forwards(&uri) {
        return connector.call(proxy.uri.clone()).await.map(Into::into).map_err(Into::into);
    }
    let tunnel = Tunnel::new(proxy.uri.clone(), connector);
    let mut tunnel = match proxy.authorization() {
        Some(header) => tunnel.with_auth(header),
        None => tunnel,
    };
    Ok(tunnel.call(uri).await?.into())
}

/// Whether a proxy that was to pass a request on answers itself: it wants an account (RFC 9110,
/// 15.5.8), or it is Squid and says so. Others cannot be told from the server.
fn is_the_proxy_s_own(response: &Response<Incoming>) -> bool {
    response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED || response.headers().contains_key("x-squid-error")
}

/// An address as the request line may hold it: an account in it would be in the proxy's log (RFC
/// 9110, 4.2.4).
fn without_account(uri: Uri) -> Uri {
    let Some((_, host)) = uri.authority().and_then(|authority| authority.as_str().rsplit_once('@')) else { return uri };
    let Ok(authority) = Authority::try_from(host) else { return uri };
    let mut parts = Parts::default();
    (parts.scheme, parts.authority) = (uri.scheme().cloned(), Some(authority));
    parts.path_and_query = uri.path_and_query().cloned();
    Uri::from_parts(parts).unwrap_or(uri)
}

#[derive(Debug, thiserror::Error)]
#[error("proxy {proxy}")]
struct ProxyFailed {
    proxy: String,
    #[source]
    error: BoxError,
}

pub(crate) struct Transport {
    connector: Connector,
    plain: Client<Connector, Body>,
    tls: OnceLock<Client<HttpsConnector<Connector>, Body>>,
}

impl Transport {
    pub fn new(ca: Option<Utf8PathBuf>, proxies: &Proxies) -> Self {
        let connector = Connector::new(proxies.clone(), Arc::new(Trust::with(ca)));
        let plain = Client::builder(TokioExecutor::new()).build(connector.clone());
        Self { connector, plain, tls: OnceLock::new() }
    }

    pub async fn request(&self, mut request: Request<Body>) -> Result<Response<Incoming>, Error> {
        let uri = request.uri();
        let proxy = self.connector.proxies.to(uri).filter(|proxy| proxy.forwards(uri));
        if let Some(proxy) = proxy {
            *request.uri_mut() = without_account(std::mem::take(request.uri_mut()));
            request.headers_mut().extend(proxy.authorization().map(|header| (PROXY_AUTHORIZATION, header)));
        }
        let sent = if request.uri().scheme_str() == Some("http") {
            self.plain.request(request)
        } else {
            self.tls()?.request(request)
        };
        let response = sent.await.map_err(|error| self.connector.trust.explain(failure(&error)))?;
        match proxy.filter(|_| is_the_proxy_s_own(&response)) {
            Some(proxy) => {
                let text = format!("proxy {} answers {}", proxy.address(), response.status());
                Err(Error::new(Kind::Proxy, text).passing())
            }
            None => Ok(response),
        }
    }

    fn tls(&self) -> Result<&Client<HttpsConnector<Connector>, Body>, Error> {
        if let Some(client) = self.tls.get() {
            return Ok(client);
        }
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(self.connector.trust.config()?)
            .https_only()
            .enable_http1()
            .wrap_connector(self.connector.clone());
        Ok(self.tls.get_or_init(|| Client::builder(TokioExecutor::new()).build(connector)))
    }
}

/// The whole chain of causes in one line, and its kind.
fn failure(error: &hyper_util::client::legacy::Error) -> Error {
    let mut text = error.to_string();
    let mut found = None;
    let mut by_proxy = false;
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(ours) = cause.downcast_ref::<Error>() {
            return ours.clone();
        }
        by_proxy |= cause.is::<ProxyFailed>();
        found = found.or_else(|| tls_error(cause).and_then(certificate));
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    let kind = if let Some((kind, words)) = found {
        text = words;
        kind
    } else if text.contains("dns error") || text.contains("failed to lookup") {
        Kind::Dns
    } else if text.contains("InvalidContentType") || text.contains("corrupt message") {
        // The server answered a TLS hello with plain HTTP.
        Kind::Protocol
    } else if text.contains("certificate") || text.contains("TLS") || text.contains("received fatal alert") {
        Kind::Tls
    } else {
        Kind::Unreachable
    };
    let kind =
        if by_proxy && matches!(kind, Kind::Dns | Kind::Unreachable | Kind::Protocol) { Kind::Proxy } else { kind };
    Error::new(kind, text).passing()
}

/// The TLS error within; I/O errors hide their cause.
fn tls_error<'a>(mut cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    loop {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        cause = cause.downcast_ref::<std::io::Error>()?.get_ref()?;
    }
}

/// What is wrong with a certificate, worded so that it leads to the remedy.
fn certificate(error: &rustls::Error) -> Option<(Kind, String)> {
    use rustls::CertificateError as Wrong;
    let rustls::Error::InvalidCertificate(wrong) = error else { return None };
    let day = |time: rustls::pki_types::UnixTime| {
        let time = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
        // A year that no date can have.
        let time = time
            .filter(|time| time.duration_since(std::time::UNIX_EPOCH).is_ok_and(|it| it.as_secs() < 253_402_300_800));
        time.map_or("a time that no clock shows".to_owned(), httpdate::fmt_http_date)
    };
    Some(match wrong {
        Wrong::NotValidForNameContext { expected, presented } => {
            let presented = if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") };
            (Kind::TlsName, format!("its certificate is for {presented}, not for {}", expected.to_str()))
        }
        Wrong::NotValidForName => (Kind::TlsName, "its certificate is for another name".to_owned()),
        Wrong::ExpiredContext { time, not_after } => {
            let (end, now) = (day(*not_after), day(*time));
            (Kind::TlsTime, format!("its certificate expired on {end}; this machine's clock says {now}"))
        }
        Wrong::Expired => (Kind::TlsTime, "its certificate expired".to_owned()),
        Wrong::NotValidYetContext { time, not_before } => {
            let (begin, now) = (day(*not_before), day(*time));
            (Kind::TlsTime, format!("its certificate is not valid before {begin}; this machine's clock says {now}"))
        }
        Wrong::NotValidYet => (Kind::TlsTime, "its certificate is not valid yet".to_owned()),
        Wrong::UnknownIssuer => {
            (Kind::Tls, "its certificate is signed by an authority that is not trusted here".to_owned())
        }
        // The certificate that openssl creates by default.
        Wrong::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            let words = "its certificate is that of an authority, which no server may use as its own, even if it is trusted: the server needs one with basicConstraints CA:FALSE (openssl req -x509 -addext \
                         basicConstraints=critical,CA:FALSE)";
            (Kind::Tls, words.to_owned())
        }
        _ => return None,
    })
}
