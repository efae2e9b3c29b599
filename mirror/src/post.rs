//! Posts a document to an address that is not a registry, over the same connections: with the same
//! proxies and certificates.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use camino::Utf8PathBuf;
use http::{HeaderMap, Method, Request};

use crate::error::{Error, Kind};
use crate::pace;
use crate::proxy::Proxies;
use crate::transport::{Transport, full};

/// What was answered; its body is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posted {
    pub status: u16,
    /// How long to wait before it is sent again, if the answer says.
    pub retry_after: Option<Duration>,
}

/// Sends it once. `ca` is a PEM certificate authority in addition to those that this machine
/// trusts. The timeout is up to the caller.
///
/// # Errors
/// `Kind::Usage` for an invalid URL or certificate file; else why there was no answer.
pub async fn post(
    url: &str,
    headers: HeaderMap,
    body: Vec<u8>,
    ca: Option<Utf8PathBuf>,
    proxies: &Proxies,
) -> Result<Posted, Error> {
    let wrong = || Error::new(Kind::Usage, "expected http://host or https://host");
    let request = Request::builder().method(Method::POST).uri(url).body(full(Bytes::from(body)));
    let mut request = request.map_err(|_| wrong())?;
    if request.uri().host().is_none() || !matches!(request.uri().scheme_str(), Some("http" | "https")) {
        return Err(wrong());
    }
    *request.headers_mut() = headers;
    let response = Transport::new(ca, proxies).request(request).await?;
    let retry_after = pace::retry_after(response.headers(), SystemTime::now());
    Ok(Posted { status: response.status().as_u16(), retry_after })
}
