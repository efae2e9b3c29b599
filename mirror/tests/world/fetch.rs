//! Single files by URL: what servers of release archives answer, on real connections.

#[path = "../../../tests/support/server.rs"]
mod files;

use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use files::{Answer, Request, Server};
use image_mirror::{Error, FetchEvent, Fetcher, Kind, Proxies, RetryPolicy};

use super::{Authority, RETRY, answer, block};

const MOST: u64 = 1 << 20;

struct Folder {
    _folder: tempfile::TempDir,
    part: Utf8PathBuf,
}

fn folder() -> Folder {
    let folder = tempfile::tempdir().unwrap();
    let part = Utf8PathBuf::from_path_buf(folder.path().join("x.part")).unwrap();
    Folder { _folder: folder, part }
}

fn content() -> Vec<u8> {
    static CONTENT: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    CONTENT.get_or_init(|| (0..=250).cycle().take(300_000).collect()).clone()
}

/// The result, and the events reported.
fn download(url: &str, part: &Utf8Path, retry: RetryPolicy) -> (Result<(), Error>, Vec<FetchEvent>) {
    let mut told = Vec::new();
    let fetcher = Fetcher::new(&Proxies::default(), retry);
    let ended = block(fetcher.download(url, part, MOST, |event| told.push(event)));
    (ended, told)
}

fn text(url: &str) -> Result<String, Error> {
    block(Fetcher::new(&Proxies::default(), RETRY).text(url, 1000, |_| {}))
}

fn serve(rule: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
    Server::start(rule)
}

#[test]
fn a_file_is_had_where_its_address_leads_and_nobody_learns_more_than_that() {
    let store = serve(|request| Answer::file(request, &content()));
    let to = format!("{}/blob?sig=s3cret", store.url());
    let front = serve(move |request| match request.path() {
        "/a/file" => Answer::new(302, "").with("Location", "../b").with("Set-Cookie", "s3cret=1"),
        "/a/../b" | "/b" => Answer::new(301, "").with("Location", &to),
        "/round" => Answer::new(302, "").with("Location", "/round"),
        "/account" => Answer::new(302, "").with("Location", "http://me:s3cret@127.0.0.1/"),
        "/metadata" => Answer::new(302, "").with("Location", "http://169.254.169.254/latest"),
        _ => Answer::new(302, ""),
    });
    let here = folder();
    let (ended, told) = download(&format!("{}/a/file", front.url()), &here.part, RETRY);
    ended.unwrap();
    assert_eq!(std::fs::read(&here.part).unwrap(), content());
    let whole = content().len() as u64;
    assert_eq!(told.last(), Some(&FetchEvent::Moved { bytes: whole, total: Some(whole) }));
    let asked = &store.seen()[0];
    assert_eq!((asked.target.as_str(), asked.header("range")), ("/blob?sig=s3cret", None));
    for secret in ["authorization", "cookie", "referer"] {
        assert_eq!(asked.header(secret), None, "{secret}");
    }
    for path in ["round", "account", "metadata", "nowhere"] {
        let error = text(&format!("{}/{path}", front.url())).unwrap_err();
        assert!(error.kind() == Kind::Protocol && !error.to_string().contains("s3cret"), "{path}: {error}");
    }
    let error = text(&format!("http://me:s3cret@{}/a/file", front.address)).unwrap_err();
    assert!(error.kind() == Kind::Usage && !error.to_string().contains("s3cret"), "{error}");
}

#[test]
fn a_cut_file_goes_on_where_it_was_cut() {
    // The first three each send a piece, and end.
    let server = serve(|request| match request.path() {
        "/ranges" if request.before < 3 => Answer::file(request, &content()).cut_after(70_000, false),
        "/ranges" => Answer::file(request, &content()),
        "/none" if request.before < 2 => Answer::new(200, content()).cut_after(70_000, false),
        "/none" => Answer::new(200, content()),
        _ => Answer::new(200, content()).cut_after(70_000, false),
    });
    for path in ["ranges", "none"] {
        let here = folder();
        let (ended, told) = download(&format!("{}/{path}", server.url()), &here.part, RETRY);
        ended.unwrap();
        assert_eq!(std::fs::read(&here.part).unwrap(), content(), "{path}");
        assert!(told.iter().any(|event| matches!(event, FetchEvent::Waiting { reason, .. } if reason.contains("cut"))));
    }
    let begins: Vec<Option<String>> = server
        .seen()
        .iter()
        .filter(|it| it.path() == "/ranges")
        .map(|it| it.header("range").map(str::to_owned))
        .collect();
    let range = |from: usize| Some(format!("bytes={from}-"));
    assert_eq!(begins, [None, range(70_000), range(140_000), range(210_000)]);
    // A download without progress is given up, and what was received stays for another run.
    let here = folder();
    let error = download(&format!("{}/always", server.url()), &here.part, RETRY).0.unwrap_err();
    assert!(error.kind() == Kind::Unreachable && error.to_string().contains("cut after 70000 bytes"), "{error}");
    assert_eq!(server.count("GET", "/always"), 1 + RETRY.tries as usize);
    assert_eq!(std::fs::metadata(&here.part).unwrap().len(), 70_000);
}

#[test]
fn what_an_earlier_run_left_is_gone_on_with() {
    let server = serve(|request| match request.path() {
        "/lies" => Answer::new(206, "xyz").with("Content-Range", "bytes 0-2/3"),
        _ => Answer::file(request, &content()),
    });
    let url = format!("{}/file", server.url());
    for (left, range) in [(content()[..100_000].to_vec(), "bytes=100000-"), (content(), "bytes=300000-")] {
        let here = folder();
        std::fs::write(&here.part, left).unwrap();
        let asked = server.seen().len();
        download(&url, &here.part, RETRY).0.unwrap();
        assert_eq!(std::fs::read(&here.part).unwrap(), content());
        assert_eq!(server.seen()[asked..].iter().map(|it| it.header("range")).collect::<Vec<_>>(), [Some(range)]);
    }
    // Longer than the file: it is a different one.
    let here = folder();
    std::fs::write(&here.part, vec![0; 300_001]).unwrap();
    download(&url, &here.part, RETRY).0.unwrap();
    assert_eq!(std::fs::read(&here.part).unwrap(), content());
    std::fs::write(&here.part, b"12345").unwrap();
    let error = download(&format!("{}/lies", server.url()), &here.part, RETRY).0.unwrap_err();
    assert_eq!(error.kind(), Kind::Protocol, "{error}");
}

#[test]
fn a_refusal_is_told_at_once_and_trouble_is_waited_for_within_bounds() {
    let server = serve(|request| match (request.path(), request.before) {
        ("/busy", 0) => Answer::new(503, "").with("Retry-After", "1"),
        ("/limit", 0) => Answer::new(429, "").with("Retry-After", "3600"),
        ("/broken", _) => Answer::new(502, ""),
        ("/missing", _) => Answer::new(404, "<html>"),
        ("/denied", _) => Answer::new(403, ""),
        _ => Answer::new(200, "told\r\n"),
    });
    let url = |path: &str| format!("{}{path}", server.url());
    let started = Instant::now();
    assert_eq!(text(&url("/busy")).unwrap(), "told\r\n");
    assert!(started.elapsed() >= Duration::from_secs(1));
    for (path, kind, asked) in [
        ("/missing", Kind::NotFound, 1),
        ("/denied", Kind::Denied, 1),
        ("/limit", Kind::RateLimited, 1),
        ("/broken", Kind::Unreachable, 1 + RETRY.tries as usize),
    ] {
        let error = text(&url(path)).unwrap_err();
        assert!(error.kind() == kind && error.to_string().starts_with(&url(path)), "{error}");
        assert_eq!(server.count("GET", path), asked, "{path}");
    }
}

#[test]
fn a_first_connection_is_tried_twice_and_no_network_is_known_at_once() {
    let server = serve(|request| match (request.path(), request.before) {
        ("/hiccup", 0) | ("/dead", _) => Answer::Cut,
        _ => Answer::new(200, "told"),
    });
    assert_eq!(text(&format!("{}/hiccup", server.url())).unwrap(), "told");
    assert_eq!(text(&format!("{}/dead", server.url())).unwrap_err().kind(), Kind::Unreachable);
    assert_eq!((server.count("GET", "/hiccup"), server.count("GET", "/dead")), (2, 2));
    // Patience is for servers that have answered before.
    let patient = RetryPolicy { tries: 5, base: Duration::from_millis(500), ..RETRY };
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, kind) in
        [(format!("http://{nobody}/"), Kind::Unreachable), ("http://nobody.invalid/".to_owned(), Kind::Dns)]
    {
        let started = Instant::now();
        let error = block(Fetcher::new(&Proxies::default(), patient).text(&url, 1000, |_| {})).unwrap_err();
        assert!(error.kind() == kind && started.elapsed() < Duration::from_secs(2), "{error}: {:?}", started.elapsed());
    }
}

#[test]
fn one_that_falls_silent_is_given_up() {
    let server = serve(|request| match (request.path(), request.before) {
        ("/half", 0) => Answer::file(request, &content()).cut_after(1000, true),
        _ => Answer::Never,
    });
    let retry = RetryPolicy { tries: 1, stall: Duration::from_secs(1), ..RETRY };
    let here = folder();
    let error = download(&format!("{}/silent", server.url()), &here.part, retry).0.unwrap_err();
    assert!(error.to_string().ends_with("no answer within 1 s"), "{error}");
    assert_eq!(server.count("GET", "/silent"), 1);
    let (ended, told) = download(&format!("{}/half", server.url()), &here.part, retry);
    assert!(ended.unwrap_err().to_string().ends_with("no answer within 1 s"));
    let waited = "cut after 1000 bytes: no data for 1 s";
    assert!(told.iter().any(|event| matches!(event, FetchEvent::Waiting { reason, .. } if reason.ends_with(waited))));
    assert_eq!(server.seen().last().unwrap().header("range"), Some("bytes=1000-"));
    assert_eq!(std::fs::metadata(&here.part).unwrap().len(), 1000);
}

#[test]
fn what_is_too_large_or_no_text_is_refused_and_a_full_disk_is_told() {
    let server = serve(|request| match request.path() {
        "/large" => Answer::new(200, vec![b'x'; 1001]),
        "/bytes" => Answer::new(200, vec![0xff; 10]),
        "/huge" => Answer::new(200, "x").with("Content-Length", MOST + 1),
        _ => Answer::new(200, content()),
    });
    let url = |path: &str| format!("{}{path}", server.url());
    for path in ["/large", "/bytes"] {
        assert_eq!(text(&url(path)).unwrap_err().kind(), Kind::Invalid, "{path}");
    }
    let here = folder();
    assert_eq!(download(&url("/huge"), &here.part, RETRY).0.unwrap_err().kind(), Kind::Invalid);
    let error = download(&url("/file"), "/dev/full".into(), RETRY).0.unwrap_err();
    assert!(error.kind() == Kind::DiskFull && error.to_string().contains("/dev/full"), "{error}");
}

/// A proxy's refusal is none of the server's, and the account is for the proxy alone.
#[test]
fn a_proxy_that_passes_nothing_on_is_told_from_the_server() {
    let squid = |status: u16| answer(status, "<html>").with("x-squid-error", "ERR_CONNECT_FAIL 111");
    let server = super::Server::plain();
    let to = server.address.clone();
    let proxy = super::Server::with(move |request| {
        Some(match request.path.as_str() {
            "/account" => answer(407, ""),
            "/closed" => squid(403),
            "/away" => squid(503),
            "/direct" => answer(302, "").with("location", format!("http://{to}/there")),
            _ => answer(403, ""),
        })
    });
    let fetch = |path: &str| {
        let proxies = Proxies::all(&format!("http://me:s3cret@{}", proxy.address)).unwrap();
        let fetcher = Fetcher::new(&proxies, RetryPolicy { tries: 0, ..RETRY });
        block(fetcher.text(&format!("http://files.company.invalid{path}"), 1000, |_| {}))
    };
    for (path, kind) in
        [("/account", Kind::Proxy), ("/closed", Kind::Proxy), ("/away", Kind::Proxy), ("/other", Kind::Denied)]
    {
        let error = fetch(path).unwrap_err();
        assert!(error.kind() == kind && !format!("{error:?}").contains("s3cret"), "{path}: {error}");
        assert_eq!(error.to_string().contains(&format!("proxy http://{}", proxy.address)), kind == Kind::Proxy);
    }
    // This machine is reached directly.
    fetch("/direct").unwrap();
    assert_eq!(server.led(), Vec::<String>::new());
    assert!(server.seen().iter().all(|seen| seen.path == "/there" && seen.header("proxy-authorization").is_none()));
    // No account of an address itself is in the proxy's log.
    let proxies = Proxies::all(&format!("http://{}", proxy.address)).unwrap();
    let url = "http://anna:t0ken@traces.company.invalid/v1/traces";
    block(image_mirror::post(url, http::HeaderMap::new(), vec![], None, &proxies)).unwrap();
    assert_eq!(proxy.led().last().unwrap(), "POST http://traces.company.invalid/v1/traces HTTP/1.1");
}

#[test]
fn a_file_comes_by_a_proxy_and_never_over_tls_that_nobody_here_trusts() {
    let proxy = super::Server::with(|_| Some(answer(200, "by proxy")));
    let fetch = |no_proxy: &str| {
        let variable = |name: &str| match name {
            "http_proxy" => Some(format!("http://me:s3cret@{}", proxy.address)),
            "no_proxy" => Some(no_proxy.to_owned()),
            _ => None,
        };
        let fetcher = Fetcher::new(&Proxies::from_variables(variable).unwrap(), RETRY);
        block(fetcher.text("http://files.company.invalid/x", 1000, |_| {}))
    };
    assert_eq!(fetch("").unwrap(), "by proxy");
    assert_eq!(proxy.led(), ["GET http://files.company.invalid/x HTTP/1.1"]);
    let seen = proxy.seen();
    assert_eq!(seen[0].host(), "files.company.invalid");
    // me:s3cret
    assert_eq!(seen[0].header("proxy-authorization"), Some("Basic bWU6czNjcmV0"));
    assert_eq!(fetch(".company.invalid").unwrap_err().kind(), Kind::Dns);
    let authority = Authority::new();
    let server = authority.serve("IP:127.0.0.1", -1..1);
    assert_eq!(text(&format!("https://{}/x", server.address)).unwrap_err().kind(), Kind::Tls);
    assert_eq!(server.count("GET", "/x"), 0);
}
