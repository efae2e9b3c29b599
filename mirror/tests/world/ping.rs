//! Checks that copy nothing: is it there, does it serve us, how does it limit us.

use std::time::{Duration, SystemTime};

use image_mirror::{Endpoint, Kind, Limit, Options, Proxies};

use super::server::{Answer, Request, Server, answer, challenge};
use super::{ANNA, Authority, block, hub, options, used_up, with_account};

fn target(server: &Server) -> Options {
    options(server, server)
}

/// Over TLS, trusting the authority.
fn over_tls(server: &Server, authority: &Authority) -> Options {
    let mut options = target(server);
    let endpoint =
        Endpoint { plain_http: false, ca: Some(authority.path("ca.pem")), ..Endpoint::named(&server.address) };
    options.sources.insert("docker.io".to_owned(), endpoint.clone());
    Options { target: endpoint, ..options }
}

/// Issues a token to anna only, and lets in whoever has it.
fn members(rule: impl Fn(&Request) -> Option<Answer>) -> impl Fn(&Request) -> Option<Answer> {
    move |request| match (request.path.as_str(), request.header("authorization")) {
        ("/token", Some(ANNA)) => Some(answer(200, r#"{"token":"t"}"#)),
        ("/token", _) => Some(answer(401, "{}")),
        (_, Some("Bearer t")) => rule(request),
        _ => Some(challenge(&format!("http://{}/token", request.host()))),
    }
}

#[test]
fn whatever_is_answered_is_an_answer() {
    for status in [200, 401, 404, 429, 500] {
        let server = Server::with(move |_| Some(answer(status, "")));
        block(image_mirror::answers(&Endpoint::named(&server.address), &Proxies::default())).unwrap();
        let seen = server.seen();
        assert_eq!((seen.len(), seen[0].path.as_str(), seen[0].header("authorization")), (1, "/v2/", None), "{status}");
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = block(image_mirror::answers(&Endpoint::named(&nobody), &Proxies::default())).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
}

#[test]
fn a_registry_that_serves_us_is_told_from_one_that_does_not() {
    let ping = |server: &Server| block(image_mirror::ping(&target(server), None));
    ping(&Server::plain()).unwrap();
    // No second token is requested for authentication alone.
    let open = hub(|_| None);
    ping(&open).unwrap();
    assert_eq!(open.count("GET", "/token"), 1);
    assert!(open.seen().iter().all(|seen| !seen.query.contains("scope=")), "{:?}", open.seen());
    for (status, kind) in [
        (401, Kind::Auth),
        (403, Kind::Denied),
        (404, Kind::NotFound),
        (429, Kind::RateLimited),
        (500, Kind::Unreachable),
        (503, Kind::Unreachable),
    ] {
        // The limit is reported at once, and the request not repeated later.
        let server = Server::with(move |_| Some(answer(status, "").with("retry-after", "1")));
        let error = ping(&server).unwrap_err();
        assert_eq!((error.kind(), server.seen().len()), (kind, 1), "{error}");
    }
}

#[test]
fn an_account_is_shown_where_it_is_asked_for_and_nowhere_else() {
    let server = Server::with(members(|_| None));
    let with = |options: Options| block(image_mirror::ping(&options, None));
    with(with_account(target(&server), &server.address)).unwrap();
    assert_eq!(with(target(&server)).unwrap_err().kind(), Kind::Denied);
    let other = Server::with(|request| match request.header("authorization") {
        None => Some(answer(200, "{}")),
        Some(_) => Some(answer(400, "who asked?")),
    });
    let url = format!("http://{}/health?full=1", other.address);
    block(image_mirror::ping(&with_account(target(&server), &server.address), Some(&url))).unwrap();
    assert_eq!((other.seen().len(), other.seen()[0].query.as_str()), (1, "full=1"));
    let stranger = Server::with(members(|_| None));
    let url = format!("http://{}/v2/_catalog", stranger.address);
    let options = with_account(with_account(target(&server), &server.address), &stranger.address);
    assert_eq!(block(image_mirror::ping(&options, Some(&url))).unwrap_err().kind(), Kind::Denied);
    assert!(stranger.seen().iter().all(|seen| seen.header("authorization").is_none()));
    for wrong in ["", "http://", "no url"] {
        assert_eq!(block(image_mirror::ping(&options, Some(wrong))).unwrap_err().kind(), Kind::Protocol, "{wrong}");
    }
}

#[test]
fn a_registry_behind_tls_is_asked_as_any_other() {
    let authority = Authority::new();
    authority.certify("IP:127.0.0.1", -1..1);
    let basic = |request: &Request| match request.header("authorization") {
        Some(ANNA) => request.is("HEAD", "/manifests/").then(|| answer(429, "").with("retry-after", "9")),
        _ => Some(answer(401, "").with("www-authenticate", "Basic realm=x")),
    };
    let server = authority.server(basic);
    let options = with_account(with_account(over_tls(&server, &authority), &server.address), "docker.io");
    block(image_mirror::ping(&options, None)).unwrap();
    let limit = block(image_mirror::limit("docker.io/x/a:1", &options)).unwrap();
    assert_eq!(limit.wait, Some(Duration::from_secs(9)));
    let mut strange = options;
    strange.target.ca = None;
    assert_eq!(block(image_mirror::ping(&strange, None)).unwrap_err().kind(), Kind::Tls);
}

#[test]
fn how_long_a_registry_asks_to_wait_is_read_from_its_refusal() {
    let limit = |rule: fn(&Request) -> Option<Answer>| {
        let server = hub(rule);
        let limit = block(image_mirror::limit("docker.io/x/a:1", &target(&server))).unwrap();
        // One HEAD, which does not count, after getting the token for it.
        assert_eq!((server.count("HEAD", "/v2/x/a/manifests/1"), server.count("GET", "/token")), (2, 1));
        assert_eq!(server.seen().len(), 3);
        limit
    };
    assert_eq!(limit(|_| None), Limit::default());
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(limit(|_| Some(answer(429, "").with("retry-after", "7"))).wait, seconds(7));
    assert_eq!(limit(|_| Some(answer(429, "").with("retry-after", "86400"))).wait, seconds(86_400));
    assert_eq!(limit(|_| Some(answer(429, "").with("x-ratelimit-reset", "40"))).wait, seconds(40));
    assert_eq!(limit(|_| Some(answer(429, ""))).wait, None);
    let date = |from_now: i64| {
        httpdate::fmt_http_date(
            SystemTime::UNIX_EPOCH
                + Duration::from_secs(
                    SystemTime::now()
                        .duration_since(SystemTime::UNIX_EPOCH)
                        .unwrap()
                        .as_secs()
                        .saturating_add_signed(from_now),
                ),
        )
    };
    let server = hub(move |_| Some(answer(429, "").with("retry-after", date(3600))));
    let wait = block(image_mirror::limit("docker.io/x/a:1", &target(&server))).unwrap().wait.unwrap();
    assert!(wait > Duration::from_secs(1800) && wait <= Duration::from_secs(3600), "{wait:?}");
    let server = hub(move |_| Some(answer(429, "").with("retry-after", date(-3600))));
    assert_eq!(block(image_mirror::limit("docker.io/x/a:1", &target(&server))).unwrap().wait, seconds(0));
}

#[test]
fn a_quota_is_told_whether_or_not_it_is_used_up() {
    let left = |request: &Request| {
        request
            .is("HEAD", "/manifests/")
            .then(|| answer(200, "").with("ratelimit-limit", "100;w=21600").with("ratelimit-remaining", "87;w=21600"))
    };
    let server = hub(left);
    let limit = block(image_mirror::limit("docker.io/x/a:1", &target(&server))).unwrap();
    assert_eq!(limit.wait, None);
    assert_eq!(limit.quota.unwrap().to_string(), "87 of 100 pulls left at docker.io in 6 h");
    let server = hub(|_| Some(used_up().with("retry-after", "60")));
    let limit = block(image_mirror::limit("docker.io/x/a:1", &target(&server))).unwrap();
    assert_eq!(limit.wait, Some(Duration::from_secs(60)));
    assert_eq!(limit.quota.unwrap().remaining, 0);
}

#[test]
fn a_limit_is_asked_of_the_image_as_pods_name_it() {
    let server = Server::with(members(|_| Some(answer(429, "").with("retry-after", "5"))));
    let mut options = with_account(target(&server), "registry.internal:5000");
    options.sources.insert("registry.internal:5000".to_owned(), Endpoint::named(&server.address));
    let digest = image_mirror::Digest::of(b"x");
    for (image, reference) in [
        ("registry.internal:5000/x/a:1".to_owned(), "1".to_owned()),
        (format!("registry.internal:5000/x/a@{digest}"), digest.to_string()),
        (format!("registry.internal:5000/x/a:1@{digest}"), digest.to_string()),
    ] {
        assert_eq!(block(image_mirror::limit(&image, &options)).unwrap().wait, Some(Duration::from_secs(5)), "{image}");
        let last = server.seen().pop().unwrap();
        assert_eq!(last.path, format!("/v2/x/a/manifests/{reference}"));
    }
    for image in ["", "x/a:1", "registry.internal:5000/x/a", "registry.internal:5000/x/a:1 2"] {
        assert_eq!(block(image_mirror::limit(image, &options)).unwrap_err().kind(), Kind::Usage, "{image}");
    }
    // Without access nothing is learned.
    options.credentials.accounts.clear();
    let error = block(image_mirror::limit("registry.internal:5000/x/a:1", &options)).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
}
