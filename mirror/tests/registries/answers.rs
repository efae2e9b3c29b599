//! Answers of target registries, and the ways to reach them.

use super::*;
use proxy::Tunnel;

#[test]
fn a_target_may_say_less_than_the_specification_and_fail_for_a_while() {
    let lock = image("answers/a", &[90_000]);
    type Rule = fn(&proxy::Seen) -> Do;
    fn blob(seen: &proxy::Seen) -> bool {
        seen.is("PUT", "/blobs/uploads/")
    }
    let cases: [(&str, Rule); 7] = [
        ("created, nobody says where", |seen| if seen.method == "PUT" { Do::Drop("location") } else { Do::Pass }),
        ("no digest", |_| Do::Drop("docker-content-digest")),
        ("500 for a blob", |seen| match blob(seen) && seen.before < 2 {
            true => Do::Answer(500, vec![], "oh".into()),
            false => Do::Pass,
        }),
        ("503 for a manifest", |seen| match seen.is("PUT", "/manifests/") && seen.before < 2 {
            true => Do::Answer(503, vec![], String::new()),
            false => Do::Pass,
        }),
        ("an upload that is forgotten", |seen| match blob(seen) && seen.before == 0 {
            true => Do::Answer(404, vec![], r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#.into()),
            false => Do::Pass,
        }),
        ("no answer to the first upload", |seen| match blob(seen) && seen.before == 0 {
            true => Do::Hang(Duration::from_secs(9)),
            false => Do::Pass,
        }),
        ("cut in the middle of the first upload", |seen| {
            let large = seen.header("content-length").is_some_and(|length| length == "90000");
            if large && seen.before == 0 { Do::Midway(40_000, Box::new(|| {})) } else { Do::Pass }
        }),
    ];
    for (name, rule) in cases {
        let target = Registry::start();
        // An upload URL is used once, so requests are counted over all of them.
        let uploads = AtomicUsize::new(0);
        let proxy = Proxy::before(&target.address, move |seen| {
            let mut seen = seen.clone();
            if blob(&seen) {
                seen.before = uploads.fetch_add(1, Ordering::SeqCst);
            }
            rule(&seen)
        });
        let summary = copied(&lock, &options(source(), &proxy.address));
        assert_eq!(summary.copied, 1, "{name}");
        assert_complete(&target.address, &lock);
        println!("{name}: {} requests", proxy.seen().len());
    }
}

#[test]
fn a_target_that_refuses_is_told_by_its_words_and_holds_nothing_that_can_be_pulled() {
    let lock = image("refused/a", &[40_000]);
    type Rule = fn(&proxy::Seen) -> Do;
    let cases: [(Kind, &str, Rule); 6] = [
        (Kind::Unreachable, "out of order", |seen| match seen.is("PUT", "/blobs/") {
            true => Do::Answer(500, vec![], "out of order".into()),
            false => Do::Pass,
        }),
        (Kind::Denied, "DENIED", |seen| match seen.method == "POST" {
            true => Do::Answer(403, vec![], r#"{"errors":[{"code":"DENIED"}]}"#.into()),
            false => Do::Pass,
        }),
        (Kind::Invalid, "MANIFEST_INVALID", |seen| match seen.is("PUT", "/manifests/") {
            true => Do::Answer(400, vec![], r#"{"errors":[{"code":"MANIFEST_INVALID"}]}"#.into()),
            false => Do::Pass,
        }),
        (Kind::BodyLimit, "413", |seen| match seen.is("PUT", "/blobs/") {
            true => Do::Answer(413, vec![], "<h1>413 Request Entity Too Large</h1>".into()),
            false => Do::Pass,
        }),
        (Kind::Protocol, "sent no Location", |seen| match seen.method == "POST" {
            true => Do::Drop("location"),
            false => Do::Pass,
        }),
        (Kind::Unreachable, "no progress", |seen| match seen.is("PUT", "/blobs/") {
            true => Do::Hang(Duration::from_secs(60)),
            false => Do::Pass,
        }),
    ];
    for (kind, expected, rule) in cases {
        let target = Registry::start();
        let proxy = Proxy::before(&target.address, rule);
        let mut options = options(source(), &proxy.address);
        options.retry = RetryPolicy { tries: 1, stall: Duration::from_secs(1), ..options.retry };
        let error = copy(&lock, &options).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_invisible(&target.address, &lock);
    }
}

/// A large upload may start with a valid token that has expired by its end.
#[test]
fn a_token_of_the_target_that_ends_before_an_upload_is_got_again() {
    let lock = image("late/a", &[BIG]);
    let target = Registry::start();
    let given = AtomicUsize::new(0);
    let late = AtomicBool::new(false);
    let gate = Proxy::before(&target.address, move |seen| {
        if seen.path.starts_with("/token") {
            let token = given.fetch_add(1, Ordering::SeqCst);
            return Do::Answer(200, vec![], format!(r#"{{"token":"t{token}","expires_in":300}}"#));
        }
        let large = seen.header("content-length").is_some_and(|length| length == BIG.to_string());
        let ended = seen.method == "PUT" && large && !late.swap(true, Ordering::SeqCst);
        if !ended && seen.header("authorization").is_some() {
            return Do::Pass;
        }
        let host = seen.header("host").unwrap_or_default();
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="target""#);
        Do::Answer(401, vec![("www-authenticate", challenge)], "{}".into())
    });
    copied(&lock, &options(source(), &gate.address));
    assert_complete(&target.address, &lock);
    let uploads = gate.seen().iter().filter(|seen| seen.is("PUT", "/blobs/")).cloned().collect::<Vec<_>>();
    let large: Vec<_> = uploads.iter().filter(|seen| seen.header("content-length") == Some(&BIG.to_string())).collect();
    assert_eq!(large.len(), 2);
    assert_ne!(large[0].header("authorization"), large[1].header("authorization"));
}

#[test]
fn a_company_s_proxy_leads_to_every_registry_but_this_machine_s_and_the_cluster_s_own() {
    let lock = image("proxied/a", &[60_000]);
    let target = Registry::start();
    let tunnel = Tunnel::to(source());
    let mut options = options(source(), &target.address);
    let named =
        Endpoint { host: "registry.company.invalid:5000".to_owned(), plain_http: true, ca: None, anonymous: false };
    options.proxies = Proxies::all(&format!("http://anna:s3cret@{}", tunnel.address)).unwrap();
    // A check whether the registry is there must go through the same proxy.
    block(image_mirror::answers(&named, &options.proxies)).unwrap();
    assert_eq!(block(image_mirror::answers(&named, &Proxies::default())).unwrap_err().kind(), Kind::Dns);
    options.sources.insert("docker.io".to_owned(), named);
    copied(&lock, &options);
    assert_complete(&target.address, &lock);
    let asked = tunnel.asked();
    let expected = |(first, account): &(String, Option<String>)| {
        // anna:s3cret
        first.contains(" http://registry.company.invalid:5000/v2/")
            && account.as_deref() == Some("Basic YW5uYTpzM2NyZXQ=")
    };
    assert!(!asked.is_empty() && asked.iter().all(expected), "{asked:?}");
    assert!(!format!("{options:?}").contains("s3cret"));
    // No proxy knows the name of the cluster's own registry.
    options.proxies = options.proxies.never_for("registry.company.invalid");
    let error = copy(&lock, &Options { force: true, ..options.clone() }).unwrap_err();
    assert_eq!(error.kind(), Kind::Dns, "{error}");
    // A proxy that is not there is not waited for.
    options.proxies = Proxies::all("http://anna:s3cret@127.0.0.1:1").unwrap();
    let error = copy(&lock, &Options { force: true, ..options }).unwrap_err();
    assert!(error.kind() == Kind::Proxy && error.to_string().contains("proxy"), "{error}");
    assert!(!error.to_string().contains("s3cret"), "{error}");
}

#[test]
fn this_machine_is_reached_by_each_of_its_names() {
    let lock = image("names/a", &[5000]);
    let port = source().rsplit_once(':').unwrap().1;
    let mut names = vec![format!("localhost:{port}"), format!("127.0.0.1:{port}")];
    // Not every machine has IPv6.
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        names.push(Proxy::at("[::1]:0", source(), |_| Do::Pass).address);
    }
    for name in names {
        let target = Registry::start();
        copied(&lock, &options(&name, &target.address));
        assert_complete(&target.address, &lock);
    }
}
