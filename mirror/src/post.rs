//! Posts a document to an address that is not a registry, over the same connections: with the same
//! proxies and certificates.

use bytes::Bytes;
use camino::Utf8PathBuf;
use http::{HeaderMap, Method, Request};

use crate::error::{Error, Kind};
use crate::proxy::Proxies;
use crate::transport::{Transport, full};

/// Sends it once, and returns the status of the answer, whose body is not read. `ca` is a PEM
/// certificate authority in addition to those that this machine trusts. The timeout is up to the
/// caller.
///
/// # Errors
/// `Kind::Usage` for an invalid URL or certificate file; else why there was no answer.
pub async fn post(
    url: &str,
    headers: HeaderMap,
    body: Vec<u8>,
    ca: Option<Utf8PathBuf>,
    proxies: &Proxies,
) -> Result<u16, Error> {
    let wrong = || Error::new(Kind::Usage, "expected http://host or https://host");
    let request = Request::builder().method(Method::POST).uri(url).body(full(Bytes::from(body)));
    let mut request = request.map_err(|_| wrong())?;
    if request.uri().host().is_none() || !matches!(request.uri().scheme_str(), Some("http" | "https")) {
        return Err(wrong());
    }
    *request.headers_mut() = headers;
    Ok(Transport::new(ca, proxies).request(request).await?.status().as_u16())
}
