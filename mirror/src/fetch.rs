//! Single files by URL: a short text, or a large file whose download resumes where an earlier one
//! stopped. Redirects to other hosts are followed; no account is ever sent.

use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use camino::Utf8Path;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::endpoint::Endpoint;
use crate::error::{Error, Kind};
use crate::pace::{self, Next, Outcome, RetryPolicy};
use crate::proxy::Proxies;
use crate::registry::address::{Address, leaves_tls};
use crate::transport::{Transport, full};

const REDIRECTS: usize = 5;

/// How long a first try may take to fail and still be repeated: what took longer was waited for
/// already.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Progress of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchEvent {
    /// Bytes received so far, and the total if the server says.
    Moved { bytes: u64, total: Option<u64> },
    /// The request is repeated after this time.
    Waiting { wait: Duration, reason: String },
}

/// Fetches files, each host through the proxies and within the limits given at creation.
pub struct Fetcher {
    transport: Transport,
    retry: RetryPolicy,
}

/// One file being requested.
struct Asking<'a> {
    url: &'a str,
    /// Consecutive tries that brought nothing.
    tries: u32,
    /// The server has answered before: if it then falls silent, it is likely to come back.
    known: bool,
    told: &'a mut dyn FnMut(FetchEvent),
}

impl Fetcher {
    /// Does not connect yet. Trusts the machine's certificates (`SSL_CERT_FILE` and `SSL_CERT_DIR`
    /// name others).
    pub fn new(proxies: &Proxies, retry: RetryPolicy) -> Self {
        Self { transport: Transport::new(None, proxies), retry }
    }

    /// A text of at most `most` bytes.
    ///
    /// # Errors
    /// Why it could not be fetched, with its address; `Kind::Invalid` if it is larger, or not text.
    pub async fn text(&self, url: &str, most: usize, mut told: impl FnMut(FetchEvent)) -> Result<String, Error> {
        let mut asking = Asking { url, tries: 0, known: false, told: &mut told };
        loop {
            let mut body = self.get(&mut asking, 0).await?.into_body();
            let mut text = Vec::new();
            let cut = loop {
                match self.next(&mut body).await {
                    Ok(Some(bytes)) => text.extend_from_slice(&bytes),
                    Ok(None) => break None,
                    Err(reason) => break Some(reason),
                }
                if text.len() > most {
                    return Err(error(Kind::Invalid, url, &format!("is larger than {most} bytes")));
                }
            };
            match cut {
                None => return String::from_utf8(text).map_err(|_| error(Kind::Invalid, url, "is not text")),
                Some(reason) => self.cut(&mut asking, text.len() as u64, &reason).await?,
            }
        }
    }

    /// Downloads a file of at most `most` bytes into `part`, which may hold its beginning from an
    /// earlier try: then only the rest is requested. What was received is kept, whatever happens.
    ///
    /// # Errors
    /// Why it could not be fetched, with its address; `Kind::DiskFull` if it cannot be written;
    /// `Kind::Invalid` if it is larger. Verifying that it is the intended file is up to the caller.
    pub async fn download(
        &self,
        url: &str,
        part: &Utf8Path,
        most: u64,
        mut told: impl FnMut(FetchEvent),
    ) -> Result<(), Error> {
        let unwritten = |error: std::io::Error| Error::new(Kind::DiskFull, format!("cannot write {part}: {error}"));
        let mut options = std::fs::File::options();
        let mut file = options.create(true).truncate(false).write(true).open(part).map_err(unwritten)?;
        let mut there = file.seek(SeekFrom::End(0)).map_err(unwritten)?;
        // Bytes that a server without range support sends again are not progress.
        let mut farthest = there;
        let mut asking = Asking { url, tries: 0, known: false, told: &mut told };
        let from_start = |file: &mut std::fs::File| {
            file.set_len(0).and_then(|()| file.rewind()).map_err(unwritten)?;
            Ok::<u64, Error>(0)
        };
        loop {
            let response = self.get(&mut asking, there).await?;
            let (begins, total) = extent(&response);
            match response.status() {
                StatusCode::RANGE_NOT_SATISFIABLE if total == Some(there) => return Ok(()),
                StatusCode::RANGE_NOT_SATISFIABLE if there > 0 => {
                    // The local file is not a prefix of the remote one.
                    there = from_start(&mut file)?;
                    continue;
                }
                StatusCode::PARTIAL_CONTENT if begins != Some(there) => {
                    return Err(error(Kind::Protocol, url, &format!("does not return the bytes from {there} on")));
                }
                StatusCode::PARTIAL_CONTENT => {}
                // The server does not support ranges.
                StatusCode::OK if there > 0 => there = from_start(&mut file)?,
                StatusCode::OK => {}
                _ => return Err(refused(url, &response)),
            }
            let too_large = || error(Kind::Invalid, url, &format!("is larger than {most} bytes"));
            if total.is_some_and(|total| total > most) {
                return Err(too_large());
            }
            let mut body = response.into_body();
            let cut = loop {
                let bytes = match self.next(&mut body).await {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) if total.is_some_and(|total| total > there) => break "it ended early".to_owned(),
                    Ok(None) => return Ok(()),
                    Err(reason) => break reason,
                };
                if there + bytes.len() as u64 > most {
                    return Err(too_large());
                }
                file.write_all(&bytes).map_err(unwritten)?;
                there += bytes.len() as u64;
                if there > farthest {
                    (farthest, asking.tries) = (there, 0);
                }
                (asking.told)(FetchEvent::Moved { bytes: there, total });
            };
            self.cut(&mut asking, there, &cut).await?;
        }
    }

    /// Repeats the request, for the bytes from `offset` on, until there is a usable answer. Status
    /// codes 200, 206 and 416 are left to the caller.
    async fn get(&self, asking: &mut Asking<'_>, offset: u64) -> Result<Response<Incoming>, Error> {
        let url = asking.url;
        loop {
            let started = Instant::now();
            let error = match self.along_redirects(asking, offset).await? {
                Ok(response) if matches!(response.status().as_u16(), 200 | 206) => return Ok(response),
                Ok(response) if offset > 0 && response.status() == StatusCode::RANGE_NOT_SATISFIABLE => {
                    return Ok(response);
                }
                Ok(response) => {
                    let retry_after = pace::retry_after(response.headers(), SystemTime::now());
                    let status = response.status().as_u16();
                    let outcome = Outcome::Answer { status, retry_after, quota: false };
                    (refused(url, &response), outcome)
                }
                Err(error) => {
                    // A reset or a resolver's hiccup is over the next moment. Without a network
                    // the second try costs no more than that moment, and there is no third.
                    let may_pass = matches!(error.kind(), Kind::Dns | Kind::Unreachable | Kind::Proxy)
                        && started.elapsed() < AT_ONCE.min(self.retry.stall)
                        && asking.tries == 0;
                    (error, Outcome::Nothing { known: asking.known || may_pass })
                }
            };
            self.again(asking, error.0, error.1).await?;
        }
    }

    /// One try: the answer of the server that has the file, or why there was none.
    async fn along_redirects(
        &self,
        asking: &mut Asking<'_>,
        offset: u64,
    ) -> Result<Result<Response<Incoming>, Error>, Error> {
        let mut url = asking.url.to_owned();
        for _ in 0..=REDIRECTS {
            let (uri, address) = parse(&url)?;
            let sent = tokio::time::timeout(self.retry.stall, self.transport.request(request(uri, offset))).await;
            let response = match sent {
                Ok(Ok(response)) => response,
                Ok(Err(failed)) => return Ok(Err(Error { message: told_of(&url, &failed.message), ..failed })),
                Err(_) => {
                    let reason = format!("no answer within {} s", self.retry.stall.as_secs());
                    return Ok(Err(error(Kind::Unreachable, &url, &reason)));
                }
            };
            if !matches!(response.status().as_u16(), 301..=303 | 307 | 308) {
                asking.known = true;
                return Ok(Ok(response));
            }
            let to = address.resolve(&url, response.headers())?;
            if leaves_tls(&url, &to) {
                return Err(error(Kind::Protocol, &url, "redirects from TLS to an address without it"));
            }
            url = to;
        }
        Err(error(Kind::Protocol, asking.url, "redirects too many times"))
    }

    /// The next bytes; `None` at the end. The error says what happened instead.
    async fn next(&self, body: &mut Incoming) -> Result<Option<Bytes>, String> {
        loop {
            match tokio::time::timeout(self.retry.stall, body.frame()).await {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                    _ => {}
                },
                Ok(Some(Err(error))) => return Err(error.to_string()),
                Ok(None) => return Ok(None),
                Err(_) => return Err(format!("no data for {} s", self.retry.stall.as_secs())),
            }
        }
    }

    async fn cut(&self, asking: &mut Asking<'_>, there: u64, reason: &str) -> Result<(), Error> {
        let error = error(Kind::Unreachable, asking.url, &format!("cut after {there} bytes: {reason}"));
        self.again(asking, error, Outcome::Nothing { known: true }).await
    }

    /// Waits for the next try, or gives up with this error.
    async fn again(&self, asking: &mut Asking<'_>, error: Error, outcome: Outcome) -> Result<(), Error> {
        let Next::Again(wait) = pace::next(outcome, asking.tries, &self.retry, fastrand::f64()) else {
            return Err(error);
        };
        asking.tries += 1;
        (asking.told)(FetchEvent::Waiting { wait, reason: error.message });
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// A URL, and the rules for where its host may redirect to.
fn parse(url: &str) -> Result<(Uri, Address), Error> {
    let wrong = || Error::new(Kind::Usage, format!("{:?}: expected http[s]://HOST/PATH", shown(url)));
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let plain_http = match uri.scheme_str() {
        Some("http") => true,
        Some("https") => false,
        _ => return Err(wrong()),
    };
    let host = uri.authority().map(|authority| authority.as_str().to_owned()).ok_or_else(wrong)?;
    let address = Address::new(&host, &Endpoint { host: host.clone(), plain_http, ca: None, anonymous: true })?;
    Ok((uri, address))
}

fn request(uri: Uri, offset: u64) -> Request<crate::transport::Body> {
    let mut request = Request::new(full(Bytes::new()));
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("image-mirror/", env!("CARGO_PKG_VERSION"))));
    if offset > 0
        && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
    {
        headers.insert(header::RANGE, range);
    }
    request
}

/// Where in the file the answer begins, and the file's total length (RFC 9110, 14.4).
fn extent(response: &Response<Incoming>) -> (Option<u64>, Option<u64>) {
    let value = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    if response.status() == StatusCode::OK {
        return (Some(0), value(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()));
    }
    content_range(value(header::CONTENT_RANGE).unwrap_or_default())
}

/// `bytes 5-9/10`, `bytes 5-9/*`, `bytes */10`
pub(crate) fn content_range(text: &str) -> (Option<u64>, Option<u64>) {
    let Some((range, total)) = text.trim().strip_prefix("bytes ").and_then(|rest| rest.split_once('/')) else {
        return (None, None);
    };
    (range.split_once('-').and_then(|(begin, _)| begin.trim().parse().ok()), total.trim().parse().ok())
}

fn refused(url: &str, response: &Response<Incoming>) -> Error {
    let status = response.status();
    let kind = match status.as_u16() {
        401 | 403 => Kind::Denied,
        404 | 410 => Kind::NotFound,
        429 => Kind::RateLimited,
        _ => Kind::Unreachable,
    };
    Error { status: Some(status.as_u16()), ..error(kind, url, &format!("answered {status}")) }
}

fn error(kind: Kind, url: &str, text: &str) -> Error {
    Error::new(kind, told_of(url, text))
}

fn told_of(url: &str, text: &str) -> String {
    format!("{}: {text}", shown(url))
}

/// The URL without its query and account, which may be secret.
fn shown(url: &str) -> &str {
    let url = url.split('?').next().unwrap_or_default();
    url.rsplit_once('@').map_or(url, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_where_it_begins_and_how_long_the_whole_is() {
        for (text, expected) in [
            ("bytes 5-9/10", (Some(5), Some(10))),
            ("bytes 5-9/*", (Some(5), None)),
            ("bytes */10", (None, Some(10))),
            ("bytes 99999999999999999999-1/2", (None, Some(2))),
            ("items 5-9/10", (None, None)),
            ("", (None, None)),
        ] {
            assert_eq!(content_range(text), expected, "{text}");
        }
    }

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        assert_eq!(shown("https://cdn.example/x?sig=s3cret"), "https://cdn.example/x");
        assert_eq!(shown("https://me:s3cret@cdn.example/x"), "cdn.example/x");
        for url in ["", "ftp://x/y", "/x", "https://", "https://me:s3cret@cdn.example/x"] {
            let error = parse(url).err().expect(url);
            assert!(error.kind() == Kind::Usage && !error.to_string().contains("s3cret"), "{url}: {error}");
        }
    }
}
