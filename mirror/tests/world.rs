//! Answers of public registries, played by an in-memory registry: somebody has met each of these
//! with Docker Hub, GHCR, Quay, GitLab, ECR, ACR, Harbor, Nexus or Artifactory.

#[path = "world/fetch.rs"]
mod fetch;
#[path = "world/ping.rs"]
mod ping;
#[path = "world/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use image_mirror::{
    Credential, Digest, Endpoint, Error, Finding, ImageList, ImagesLock, Kind, ListedImage, MirrorEvent, Observe,
    Options, RetryPolicy, Summary,
};
use serde_json::{Value, json};
use server::{Answer, Request, Server, answer, challenge};

#[derive(Default)]
struct Heard(Mutex<Vec<MirrorEvent>>);

impl Observe for Heard {
    fn event(&self, event: MirrorEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl Heard {
    fn warnings(&self) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let texts = events.iter().filter_map(|event| match event {
            MirrorEvent::Warning { id, text } => Some(format!("{id}: {text}")),
            _ => None,
        });
        texts.collect()
    }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

const RETRY: RetryPolicy = RetryPolicy {
    tries: 3,
    base: Duration::from_millis(5),
    cap: Duration::from_millis(20),
    patience: Duration::from_secs(5),
    stall: Duration::from_secs(5),
};

/// With this server in place of Docker Hub.
fn options(source: &Server, target: &Server) -> Options {
    let mut options = Options::to(Endpoint::named(&target.address));
    options.sources.insert("docker.io".to_owned(), Endpoint::named(&source.address));
    options.retry = RETRY;
    options
}

fn wanted(images: &[&str]) -> ImageList {
    let images = images.iter().map(|image| ListedImage {
        id: image.rsplit('/').next().unwrap().split(':').next().unwrap().to_owned(),
        image: (*image).to_owned(),
        target: format!("mirror/{}", image.rsplit('/').next().unwrap().split(':').next().unwrap()),
        platforms: vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()],
        role: None,
        why: "a test".to_owned(),
    });
    ImageList { images: images.collect() }
}

fn resolve(images: &[&str], options: &Options) -> Result<ImagesLock, Error> {
    block(image_mirror::resolve(&wanted(images), None, options, &Heard::default()))
}

/// A lock built directly, as if resolved long ago.
fn locked(images: &[&str], digests: &[Digest]) -> ImagesLock {
    let mut lock = ImagesLock::unresolved(&wanted(images));
    for (image, digest) in lock.images.iter_mut().zip(digests) {
        image.image = format!("{}@{digest}", image.image);
        image.target_digest = Some(digest.clone());
    }
    lock
}

fn copy(lock: &ImagesLock, options: &Options) -> (Result<Summary, Error>, Heard) {
    let heard = Heard::default();
    (block(image_mirror::copy(lock, options, &heard)), heard)
}

#[track_caller]
fn copied(lock: &ImagesLock, options: &Options) -> (Summary, Heard) {
    let (summary, heard) = copy(lock, options);
    (summary.unwrap_or_else(|error| panic!("{error} {:?}", error.images())), heard)
}

fn password(password: &str) -> Credential {
    Credential::Password { username: "anna".to_owned(), password: password.to_owned() }
}

/// anna:s3cret
const ANNA: &str = "Basic YW5uYTpzM2NyZXQ=";

fn with_account(mut options: Options, host: &str) -> Options {
    options.credentials.accounts.insert(host.to_owned(), password("s3cret"));
    options
}

/// Issues tokens to everybody; requests with a token go to the rule.
fn hub(rule: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Server {
    Server::with(move |request| {
        if request.path == "/token" {
            return Some(answer(200, r#"{"token":"t","expires_in":300}"#));
        }
        match request.header("authorization") {
            Some("Bearer t") => rule(request),
            _ => Some(challenge(&format!("http://{}/token", request.host()))),
        }
    })
}

/// Renovate knows only the tag's digest, and not what else the lock says about it.
#[test]
fn an_entry_whose_digest_somebody_else_has_written_is_resolved_again() {
    let (source, target) = (Server::plain(), Server::plain());
    source.image("x/a", "1", b"old");
    let options = options(&source, &target);
    let mut lock = resolve(&["docker.io/x/a:1"], &options).unwrap();
    let now = source.image("x/a", "1", b"new");
    lock.images[0].image = format!("docker.io/x/a:1@{now}");
    let again =
        block(image_mirror::resolve(&wanted(&["docker.io/x/a:1"]), Some(&lock), &options, &Heard::default())).unwrap();
    assert_eq!(again.images[0].target_digest.as_ref(), Some(&now));
    assert_ne!(again.images[0].children, lock.images[0].children);
}

/// Whoever is between us and a server without TLS can answer anything.
#[test]
fn nobody_is_believed_without_tls_on_behalf_of_a_registry_with_it() {
    let store = Server::plain();
    let image = store.image("x/a", "1", b"a");
    let (to, pages) = (store.address.clone(), store.address.clone());
    let authority = Authority::new();
    authority.certify("IP:127.0.0.1", -1..1);
    let source = authority.server(move |request| {
        let led = format!("http://{to}{}", request.path);
        if request.path.contains("/referrers/") {
            let link = format!("<http://{pages}{}>; rel=\"next\"", request.path);
            return Some(answer(200, json!({"manifests": []}).to_string()).with("link", link));
        }
        let there = ["/manifests/1", "/sha256:"].iter().any(|part| request.path.contains(part));
        there.then(|| answer(307, "").with("location", led))
    });
    let target = Server::plain();
    let mut options = options(&source, &target);
    let endpoint =
        Endpoint { plain_http: false, ca: Some(authority.path("ca.pem")), ..Endpoint::named(&source.address) };
    options.sources.insert("docker.io".to_owned(), endpoint.clone());
    let error = resolve(&["docker.io/x/a:1"], &options).unwrap_err();
    assert!(error.kind() == Kind::Protocol && error.to_string().contains("from TLS to http://"), "{error}");
    assert_eq!(store.seen().len(), 0, "a tag may be anything");
    // By its digest it can only be that.
    let (summary, heard) = copied(&locked(&["docker.io/x/a:1"], &[image]), &options);
    assert_eq!(summary.copied, 1);
    let warnings = heard.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("the rest of its referrers"), "{warnings:?}");
    assert_eq!(store.count("GET", "/referrers/"), 0);
    // A realm on another machine is not even looked up.
    let source = authority.server(|_| Some(challenge("http://tokens.invalid/token")));
    options.sources.insert("docker.io".to_owned(), Endpoint { host: source.address.clone(), ..endpoint });
    let error = resolve(&["docker.io/x/a:1"], &options).unwrap_err();
    assert!(error.kind() == Kind::Auth && error.to_string().contains("without TLS"), "{error}");
}

/// Docker Hub issues a token even for an image that does not exist, and then refuses it.
#[test]
fn an_image_that_is_not_there_is_no_matter_of_the_account() {
    let insufficient = |request: &Request| {
        let realm = format!(r#"Bearer realm="http://{}/token",service="s",error="insufficient_scope""#, request.host());
        answer(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":[]}]}"#)
            .with("www-authenticate", realm)
    };
    type Case = fn(&Request) -> Answer;
    let cases: [(&str, Case, Kind); 3] = [
        (
            "GHCR",
            |_| answer(403, r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#),
            Kind::Denied,
        ),
        (
            "Quay",
            |_| {
                answer(
                    401,
                    r#"{"errors":[{"code":"UNAUTHORIZED","message":"access to the requested resource is not authorized"}]}"#,
                )
            },
            Kind::Denied,
        ),
        ("ECR", |_| answer(403, "Your authorization token has expired. Reauthenticate and try again."), Kind::Auth),
    ];
    let target = Server::plain();
    for account in [false, true] {
        let source = hub(move |request| Some(insufficient(request)));
        let mut options = options(&source, &target);
        if account {
            options = with_account(options, "docker.io");
        }
        let error = resolve(&["docker.io/x/missing:1"], &options).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied, "{error}");
        assert!(error.to_string().contains("no such repository, or no permission for it"), "{error}");
        // Another token would be no different.
        assert_eq!((source.count("GET", "/token"), source.count("GET", "/manifests/")), (1, 2));
        for (name, case, kind) in cases {
            let source = hub(move |request| Some(case(request)));
            let mut options = self::options(&source, &target);
            if account {
                options = with_account(options, "docker.io");
            }
            let error = resolve(&["docker.io/x/missing:1"], &options).unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {error}");
        }
    }
    // If the token itself is refused: without an account that is a denial, with one it is wrong.
    for (status, account, kind) in
        [(401, false, Kind::Denied), (403, false, Kind::Denied), (401, true, Kind::Auth), (403, true, Kind::Denied)]
    {
        let source = Server::with(move |request| match request.path == "/token" {
            true => Some(answer(status, r#"{"errors":[{"code":"DENIED","message":"access forbidden"}]}"#)),
            false => Some(challenge(&format!("http://{}/token", request.host()))),
        });
        let mut options = options(&source, &target);
        if account {
            options = with_account(options, "docker.io");
        }
        let error = resolve(&["docker.io/x/missing:1"], &options).unwrap_err();
        assert_eq!(error.kind(), kind, "{status} {account}: {error}");
        assert!(!format!("{error:?}").contains("s3cret"));
    }
}

#[test]
fn docker_hub_is_one_registry_by_all_its_names() {
    let source = Server::with(|request| match (request.path.as_str(), request.header("authorization")) {
        ("/token", Some(ANNA)) => Some(answer(200, r#"{"token":"t"}"#)),
        ("/token", _) => Some(answer(401, "{}")),
        (_, Some("Bearer t")) => None,
        _ => Some(challenge(&format!("http://{}/token", request.host()))),
    });
    source.image("library/redis", "7", b"redis");
    for image in [
        "docker.io/redis:7",
        "docker.io/library/redis:7",
        "index.docker.io/redis:7",
        "registry-1.docker.io/library/redis:7",
    ] {
        for account in ["docker.io", "index.docker.io", "https://index.docker.io/v1/"] {
            let target = Server::plain();
            let options = with_account(options(&source, &target), account);
            let lock = resolve(&[image], &options).unwrap();
            copied(&lock, &options);
            assert_eq!(target.tags("mirror/redis"), ["7"], "{image} {account}");
        }
    }
    assert!(source.seen().iter().all(|seen| seen.path == "/token" || seen.path.starts_with("/v2/library/redis/")));
    // A name without a registry leads to no request.
    let error = resolve(&["temporalio/server:1.29.0"], &options(&source, &Server::plain())).unwrap_err();
    assert!(error.kind() == Kind::Usage && error.to_string().contains("docker.io/temporalio/server:1.29.0"), "{error}");
}

#[test]
fn a_digest_beside_the_tag_is_what_is_mirrored() {
    let (source, target) = (Server::plain(), Server::plain());
    let old = source.image("x/pinned", "1", b"old");
    let new = source.image("x/pinned", "1", b"new");
    assert_ne!(old, new);
    let options = options(&source, &target);
    let pinned = format!("docker.io/x/pinned:1@{old}");
    let mut wanted = wanted(&["docker.io/x/pinned:1"]);
    wanted.images[0].image = pinned.clone();
    let lock = block(image_mirror::resolve(&wanted, None, &options, &Heard::default())).unwrap();
    assert_eq!((&lock.images[0].image, lock.images[0].target_digest.as_ref()), (&pinned, Some(&old)));
    copied(&lock, &options);
    assert!(target.manifest("mirror/pinned", old.as_str()).is_some());
    assert!(target.manifest("mirror/pinned", new.as_str()).is_none());
    // It is known now, so no tag has to be requested.
    let asked = source.seen().len();
    assert_eq!(block(image_mirror::resolve(&wanted, Some(&lock), &options, &Heard::default())).unwrap(), lock);
    assert_eq!(source.seen().len(), asked);
    // A digest that exists nowhere.
    wanted.images[0].image = format!("docker.io/x/pinned:1@{}", Digest::of(b"nowhere"));
    let error = block(image_mirror::resolve(&wanted, None, &options, &Heard::default())).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

#[test]
fn resolving_and_copying_ask_for_each_manifest_once() {
    let (source, target) = (Server::plain(), Server::plain());
    let names: Vec<String> = (0..7).map(|at| format!("docker.io/x/image-{at}:1")).collect();
    let images: Vec<&str> = names.iter().map(String::as_str).collect();
    for at in 0..7 {
        source.image(&format!("x/image-{at}"), "1", format!("layer {at}").as_bytes());
    }
    let options = options(&source, &target);
    let lock = resolve(&images, &options).unwrap();
    copied(&lock, &options);
    // Seven indexes with two platforms each.
    assert_eq!(source.count("GET", "/manifests/"), 21);
    let asked = source.seen().len();
    copied(&lock, &options);
    assert_eq!(source.seen().len(), asked);
}

#[test]
fn a_head_that_is_refused_is_asked_as_a_get() {
    for status in [400, 401, 403, 405, 412, 501] {
        let source = Server::with(move |request| (request.method == "HEAD").then(|| answer(status, "")));
        let target = Server::with(move |request| {
            (request.method == "HEAD" && request.path.contains("/manifests/")).then(|| answer(status, ""))
        });
        let digest = source.image("x/headless", "1", b"layer");
        let options = options(&source, &target);
        let images = ["docker.io/x/headless:1"];
        let lock = resolve(&images, &options).unwrap();
        copied(&lock, &options);
        assert_eq!(copied(&lock, &options).0.skipped, 1, "{status}");
        let again = block(image_mirror::resolve(&wanted(&images), Some(&lock), &options, &Heard::default())).unwrap();
        assert_eq!(again.images[0].target_digest.as_ref(), Some(&digest), "{status}");
        assert_eq!(block(image_mirror::check(&lock, &options)).unwrap(), []);
    }
}

/// Some registries answer this way for a repository that the push will create.
#[test]
fn a_target_that_denies_a_look_is_pushed_to() {
    let source = Server::plain();
    let digest = source.image("x/new", "1", b"layer");
    let target = Server::with(|request| match request.method.as_str() {
        "HEAD" | "GET" => Some(answer(403, r#"{"errors":[{"code":"DENIED"}]}"#)),
        _ => None,
    });
    let lock = locked(&["docker.io/x/new:1"], std::slice::from_ref(&digest));
    copied(&lock, &options(&source, &target));
    assert_eq!(target.tags("mirror/new"), ["1"]);
    // For a check alone, this is not reported as missing, and hides nothing else.
    let target = Server::with(|request| {
        request.path.contains("/mirror/new/").then(|| answer(403, r#"{"errors":[{"code":"DENIED"}]}"#))
    });
    let both = locked(&["docker.io/x/new:1", "docker.io/x/other:1"], &[digest.clone(), digest]);
    let found = block(image_mirror::check(&both, &options(&source, &target))).unwrap();
    assert!(matches!(&found[..], [Finding::Denied { .. }, Finding::Missing { .. }]), "{found:?}");
    assert!(found[0].to_string().contains("403 Forbidden DENIED"), "{}", found[0]);
    // A registry that does not create repositories itself says so.
    let ecr = Server::with(|request| match request.method.as_str() {
        "POST" | "PUT" => {
            Some(answer(404, r#"{"errors":[{"code":"NAME_UNKNOWN","message":"The repository does not exist"}]}"#))
        }
        _ => None,
    });
    let error = copy(&lock, &options(&source, &ecr)).0.unwrap_err();
    assert!(error.kind() == Kind::Denied && error.to_string().contains("must be created there first"), "{error}");
}

#[test]
fn a_mount_that_is_refused_is_an_upload() {
    for status in [400, 401, 403, 404, 405, 500, 501] {
        let source = Server::plain();
        let digests =
            [source.image("x/one", "1", &vec![7; 2_000_000]), source.image("x/two", "1", &vec![7; 2_000_000])];
        let target = Server::with(move |request| {
            (request.method == "POST" && request.query.contains("mount=")).then(|| answer(status, "no"))
        });
        let lock = locked(&["docker.io/x/one:1", "docker.io/x/two:1"], &digests);
        let (summary, _) = copied(&lock, &options(&source, &target));
        assert_eq!((summary.copied, summary.mounted), (2, 0), "{status}");
        assert_eq!(target.tags("mirror/two"), ["1"], "{status}");
        // What one repository received, the other one gets from there.
        let large = Digest::of(&vec![7; 2_000_000]);
        assert_eq!(source.count("GET", &format!("/blobs/{large}")), 1, "{status}");
    }
    // The token server may refuse the other repository, and grant everything for this one.
    let source = Server::plain();
    let digests = [source.image("x/one", "1", b"shared"), source.image("x/two", "1", b"shared")];
    let target = Server::with(|request| {
        if request.path == "/token" {
            let two = request.query.matches("scope=").count() > 1;
            return Some(if two { answer(401, "no such scope") } else { answer(200, r#"{"token":"t"}"#) });
        }
        match request.header("authorization") {
            Some(_) => None,
            None => Some(challenge(&format!("http://{}/token", request.host()))),
        }
    });
    let lock = locked(&["docker.io/x/one:1", "docker.io/x/two:1"], &digests);
    assert_eq!(copied(&lock, &options(&source, &target)).0.copied, 2);
}

/// Of the bytes from which a `Range` asks, what a server that knows ranges answers.
fn rest(request: &Request, content: &[u8]) -> Option<Answer> {
    let from: usize = request.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().unwrap();
    let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
    Some(answer(206, &content[from..]).with("content-range", range))
}

/// However long the source takes, that is no stall of the target.
#[test]
fn a_download_that_falls_silent_goes_on_by_range_within_the_same_upload() {
    let layer = vec![7; 3_000_000];
    let large = Digest::of(&layer);
    type Rule = fn(&Request) -> Option<Answer>;
    let cases: [(&str, Duration, Rule); 2] = [
        ("silent", Duration::from_secs(3), |_| None),
        ("cut, and asked to wait longer than a stall", Duration::ZERO, |request| {
            let limited = request.header("range").is_some() && request.before == 1;
            limited.then(|| answer(429, "").with("retry-after", "2"))
        }),
    ];
    for (name, silence, rule) in cases {
        let (of, content) = (large.clone(), layer.clone());
        let source = Server::with(move |request| match request.is("GET", of.as_str()) {
            true if request.before == 0 => Some(answer(200, content.clone()).cut_after(200_000, silence)),
            true => rule(request).or_else(|| rest(request, &content)),
            false => None,
        });
        let target = Server::plain();
        let digest = source.image("x/silent", "1", &layer);
        let retry = RetryPolicy { stall: Duration::from_secs(1), ..RETRY };
        let (summary, heard) =
            copied(&locked(&["docker.io/x/silent:1"], &[digest]), &Options { retry, ..options(&source, &target) });
        assert_eq!((summary.copied, target.tags("mirror/silent")), (1, vec!["1".to_owned()]), "{name}");
        let events = heard.0.lock().unwrap();
        let waited_for = events.iter().filter_map(|event| match event {
            MirrorEvent::Waiting { registry, .. } => Some(registry.as_str()),
            _ => None,
        });
        assert!(waited_for.clone().count() > 0 && waited_for.clone().all(|name| name == "docker.io"), "{events:?}");
        let gets = source.seen().into_iter().filter(|seen| seen.is("GET", large.as_str()));
        let ranges: Vec<_> = gets.map(|seen| seen.header("range").map(str::to_owned)).collect();
        assert!(ranges[0].is_none() && ranges[1..].iter().all(Option::is_some), "{name}: {ranges:?}");
        let puts = target.seen().into_iter().filter(|seen| seen.method == "PUT" && seen.body.len() == layer.len());
        assert_eq!(puts.count(), 1, "{name}");
    }
}

#[test]
fn a_target_that_takes_a_blob_and_does_not_answer_is_told_as_stalled() {
    let source = Server::plain();
    let digest = source.image("x/stalled", "1", b"layer");
    let target = Server::with(|request| {
        if request.is("PUT", "/uploads/") {
            std::thread::sleep(Duration::from_secs(3));
        }
        None
    });
    let retry = RetryPolicy { tries: 0, stall: Duration::from_secs(1), ..RETRY };
    let lock = locked(&["docker.io/x/stalled:1"], &[digest]);
    let error = copy(&lock, &Options { retry, ..options(&source, &target) }).0.unwrap_err();
    assert!(error.to_string().contains("no progress for 1 s"), "{error}");
}

/// The wait is longer than a stall, and an upload whose source is open already comes into it.
#[test]
fn a_wait_that_the_target_asks_for_is_no_stall_of_an_upload() {
    let (one, two) = (vec![1; 2_000_000], vec![2; 2_000_000]);
    let of = Digest::of(&one);
    let source = Server::with(move |request| {
        if request.is("GET", of.as_str()) {
            std::thread::sleep(Duration::from_millis(400));
        }
        None
    });
    let digests = [source.image("x/one", "1", &one), source.image("x/two", "1", &two)];
    let of = Digest::of(&two);
    let once = AtomicBool::new(false);
    let target = Server::with(move |request| {
        let of_two = request.method == "POST" && request.query.contains(of.as_str());
        if !of_two || once.swap(true, Ordering::SeqCst) {
            return None;
        }
        // The other one is at its source by then.
        std::thread::sleep(Duration::from_millis(100));
        Some(answer(429, "").with("retry-after", "2"))
    });
    let retry = RetryPolicy { stall: Duration::from_secs(1), ..RETRY };
    let lock = locked(&["docker.io/x/one:1", "docker.io/x/two:1"], &digests);
    let (_, heard) = copied(&lock, &Options { retry, transfers: 20, ..options(&source, &target) });
    let events = heard.0.lock().unwrap();
    assert!(!format!("{events:?}").contains("no progress"), "{events:?}");
}

#[test]
fn a_short_answer_whose_body_is_cut_or_stalls_is_asked_for_again() {
    for silence in [Duration::ZERO, Duration::from_secs(3)] {
        for part in ["/manifests/", "/blobs/", "/token"] {
            let held = Server::plain();
            let digest = held.image("x/short", "1", b"layer");
            // A single platform: its configuration says which.
            let index = held.manifest("x/short", digest.as_str()).unwrap();
            let child = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
            let name = format!("docker.io/x/short:1@{child}");
            let whole = held.clone();
            let source = Server::with(move |request| {
                let body = match request.path.as_str() {
                    "/token" => answer(200, r#"{"token":"t","expires_in":300}"#),
                    _ if request.header("authorization") != Some("Bearer t") => {
                        return Some(challenge(&format!("http://{}/token", request.host())));
                    }
                    _ => whole.answer(request),
                };
                let first = request.method == "GET" && request.path.contains(part);
                let first = first && request.before <= usize::from(part != "/token");
                Some(if first { body.cut_after(10, silence) } else { body })
            });
            let retry = RetryPolicy { stall: Duration::from_secs(1), ..RETRY };
            let options = Options { retry, ..options(&source, &Server::plain()) };
            let mut one = wanted(&[&name]);
            one.images[0].platforms.truncate(1);
            let lock = block(image_mirror::resolve(&one, None, &options, &Heard::default()));
            let lock = lock.unwrap_or_else(|error| panic!("{part}: {error}"));
            assert_eq!(lock.images[0].target_digest.as_ref().map(Digest::as_str), Some(child.as_str()), "{part}");
        }
    }
}

/// Harbor's, of a project; each status is one that a version has.
#[test]
fn a_storage_quota_that_is_used_up_is_a_full_disk_and_ends_all_uploads() {
    for (status, message) in [
        (
            403,
            "adding 29.0 MiB of storage resource, which when updated to current usage of 9.0 MiB will exceed the configured upper limit of 10.0 MiB.",
        ),
        (412, "Quota exceeded when processing the request of adding 1.3 MiB"),
    ] {
        for part in ["/uploads/", "/manifests/"] {
            let source = Server::plain();
            let digests: Vec<Digest> =
                (0..9).map(|at| source.image(&format!("x/i{at}"), "1", format!("layer {at}").as_bytes())).collect();
            let target = Server::with(move |request| {
                let body = json!({"errors": [{"code": "DENIED", "message": message}]}).to_string();
                request.is("PUT", part).then(|| answer(status, body))
            });
            let names: Vec<String> = (0..9).map(|at| format!("docker.io/x/i{at}:1")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let options = Options { transfers: 1, ..options(&source, &target) };
            let error = copy(&locked(&names, &digests), &options).0.unwrap_err();
            assert_eq!(error.kind(), Kind::DiskFull, "{error}");
            assert!(error.to_string().contains(&message[..30]) && error.to_string().contains("missing: "), "{error}");
            // One blob at a time, and what was under way; the images' manifests are sent together.
            let most = if part == "/uploads/" { 2 } else { 9 };
            assert!(target.count("PUT", part) <= most, "{status} {part}: {}", target.count("PUT", part));
        }
    }
}

#[test]
fn what_a_policy_refuses_is_told_by_its_words_and_no_matter_of_the_protocol() {
    for (status, message, kind) in [
        (412, "current image with 86 vulnerabilities cannot be pulled due to configured policy", Kind::Denied),
        (402, "the plan of this account has ended", Kind::Denied),
        (451, "not available in your country", Kind::Denied),
        (410, "this registry has moved", Kind::NotFound),
        (400, "Client sent an HTTP request to an HTTPS server.", Kind::Protocol),
    ] {
        let source = Server::with(move |request| request.path.contains("/manifests/").then(|| answer(status, message)));
        let error = resolve(&["docker.io/x/refused:1"], &options(&source, &Server::plain())).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().ends_with(message), "{error}");
    }
}

#[test]
fn a_basic_challenge_need_not_be_quoted() {
    for realm in ["Basic realm=/", "Basic", "BASIC realm=Sonatype Nexus Repository Manager"] {
        let source = Server::with(move |request| match request.header("authorization") {
            Some(ANNA) => None,
            _ => Some(answer(401, "").with("www-authenticate", realm)),
        });
        source.image("x/basic", "1", b"layer");
        let options = with_account(options(&source, &Server::plain()), "docker.io");
        assert!(resolve(&["docker.io/x/basic:1"], &options).is_ok(), "{realm}");
    }
}

fn used_up() -> Answer {
    answer(429, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"}]}"#)
        .with("ratelimit-limit", "100;w=21600")
        .with("ratelimit-remaining", "0;w=21600")
}

#[test]
fn a_quota_that_is_used_up_is_told_in_one_line() {
    let names: Vec<String> = (0..7).map(|at| format!("docker.io/x/image-{at}:1")).collect();
    let images: Vec<&str> = names.iter().map(String::as_str).collect();
    let (source, target) = (Server::with(|request| request.is("GET", "/manifests/").then(used_up)), Server::plain());
    let digests: Vec<Digest> =
        (0..7).map(|at| source.image(&format!("x/image-{at}"), "1", format!("{at}").as_bytes())).collect();
    let options = options(&source, &target);
    let (error, heard) = copy(&locked(&images, &digests), &options);
    let error = error.unwrap_err();
    let said = error.to_string();
    assert_eq!(error.kind(), Kind::RateLimited);
    assert!(
        said.starts_with("docker.io refuses further pulls: ")
            && said.contains("0 of 100 pulls left at docker.io in 6 h"),
        "{said}"
    );
    assert!(said.contains("You have reached your unauthenticated pull rate limit"), "{said}");
    assert!(said.contains("possible again at the latest in 6 h, at ") && said.contains(" UTC"), "{said}");
    let ids: Vec<String> = (0..7).map(|at| format!("image-{at}")).collect();
    assert!(said.ends_with(&format!("; missing: {}", ids.join(", "))), "{said}");
    assert!(!said.contains("http://") && !said.contains("/v2/"), "another image's address: {said}");
    assert_eq!((error.images().len(), error.other_images().len()), (7, 0));
    assert!(!heard.0.lock().unwrap().iter().any(|event| matches!(event, MirrorEvent::Failed { .. })));
    // Those already in progress asked, and nobody after them.
    assert!(source.count("GET", "/manifests/") <= options.transfers);
    // The same for tags.
    let said = resolve(&images, &options).unwrap_err().to_string();
    assert!(said.ends_with(&format!("; missing: {}", ids.join(", "))), "{said}");
    // An image's own problem does not affect others.
    let source = Server::with(|request| match request.path.contains("image-0") {
        true => Some(answer(404, "")),
        false => request.is("GET", "/manifests/").then(used_up),
    });
    let error = copy(&locked(&images, &digests), &self::options(&source, &Server::plain())).0.unwrap_err();
    let reasons = error.other_images();
    assert!(reasons.iter().any(|(ids, _)| ids == &["image-0"]) && reasons.len() <= 2, "{reasons:?}");
}

/// With any status, and with words that mean the same.
#[test]
fn a_rate_limit_need_not_be_a_429() {
    for (status, body) in [
        (403, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#),
        (401, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#),
        (403, "toomanyrequests: Rate exceeded"),
        (403, r#"{"message":"API rate limit exceeded for 10.0.0.1"}"#),
        (403, r#"{"message":"You have exceeded a secondary rate limit. Please wait."}"#),
        (403, "Rate limit reached"),
        (401, "Rate exceeded"),
        (403, r#"{"errors":[{"code":"DENIED","message":"Quota exceeded for quota metric 'Requests per minute'"}]}"#),
        (403, r#"{"error":{"code":403,"status":"RESOURCE_EXHAUSTED"}}"#),
        (403, "TooManyRequests"),
        (429, ""),
    ] {
        let source = Server::with(move |request| request.is("GET", "/manifests/").then(|| answer(status, body)));
        let error = resolve(&["docker.io/x/limited:1"], &options(&source, &Server::plain())).unwrap_err();
        assert_eq!(error.kind(), Kind::RateLimited, "{status} {body}: {error}");
        assert!(error.to_string().contains("missing: limited"), "{error}");
    }
    // Even if the answer is only about signatures, which are otherwise optional.
    let source = Server::with(|request| match request.path.ends_with(".sig") && request.before < 3 {
        true => Some(answer(429, "").with("retry-after", "0")),
        false => None,
    });
    let digest = source.image("x/limited", "1", b"layer");
    let (_, heard) = copied(&locked(&["docker.io/x/limited:1"], &[digest]), &options(&source, &Server::plain()));
    assert_eq!((heard.warnings(), source.count("HEAD", ".sig")), (vec![], 4));
    // A temporary one is waited for.
    let source = Server::with(|request| match request.is("GET", "/manifests/") && request.before < 2 {
        true => Some(answer(403, r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#).with("retry-after", "0")),
        false => None,
    });
    source.image("x/limited", "1", b"layer");
    assert!(resolve(&["docker.io/x/limited:1"], &options(&source, &Server::plain())).is_ok());
}

#[test]
fn one_image_that_its_registry_stumbles_over_keeps_no_other_from_coming() {
    for cut in [false, true] {
        let broken = move || if cut { answer(200, "ohohohoh").cut_after(2, Duration::ZERO) } else { answer(500, "oh") };
        let source = Server::with(move |request| request.is("GET", "/v2/x/broken/").then(broken));
        let digests = [source.image("x/broken", "1", b"a"), source.image("x/whole", "1", b"b")];
        let target = Server::plain();
        let error =
            copy(&locked(&["docker.io/x/broken:1", "docker.io/x/whole:1"], &digests), &options(&source, &target));
        let error = error.0.unwrap_err();
        assert_eq!(error.images().iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["broken"], "{error}");
        assert_eq!(target.tags("mirror/whole"), ["1"]);
    }
}

/// From a registry with its own accounts (htpasswd, Nexus, Artifactory).
#[test]
fn a_registry_that_lets_in_by_password_may_answer_401_to_what_it_does_not_do() {
    let source = Server::plain();
    let large = vec![7; 2_000_000];
    let digests = [source.image("x/one", "1", &large), source.image("x/two", "1", &large)];
    let lock = locked(&["docker.io/x/one:1", "docker.io/x/two:1"], &digests);
    type Refuses = fn(&Request) -> bool;
    let target = |refuses: Refuses| {
        Server::with(move |request| match request.header("authorization") {
            Some(ANNA) if !refuses(request) => None,
            _ => Some(answer(401, "").with("www-authenticate", "Basic realm=x")),
        })
    };
    let cases: [(&str, Refuses); 3] = [
        ("mounts", |request| request.query.contains("mount=")),
        ("looks", |request| request.method == "HEAD"),
        ("both", |request| request.method == "HEAD" || request.query.contains("mount=")),
    ];
    for (name, refuses) in cases {
        let target = target(refuses);
        for force in [false, true] {
            let options = with_account(options(&source, &target), &target.address);
            let (summary, _) = copied(&lock, &Options { force, ..options });
            assert_eq!(summary.copied, 2, "{name}");
        }
        assert_eq!(target.tags("mirror/two"), ["1"], "{name}");
    }
    // A registry that refuses the account says so.
    for force in [false, true] {
        let target = target(|_| true);
        let options = with_account(options(&source, &target), &target.address);
        let error = copy(&lock, &Options { force, ..options }).0.unwrap_err();
        assert!(error.kind() == Kind::Auth && error.to_string().contains("refuses the account"), "{error}");
    }
}

/// Signatures of an image, at a source that stores them in this form.
#[test]
fn signatures_come_along_in_each_form_that_they_have() {
    let pages: Vec<String> = (0..5).map(|at| format!("signature {at}")).collect();
    for form in ["api", "tag"] {
        for target in [Server::plain(), Server::listing(100, |_| None)] {
            let source = if form == "api" { Server::listing(2, |_| None) } else { Server::plain() };
            let digest = source.image("x/signed", "1", b"layer");
            let tag = digest.as_str().replace(':', "-");
            let rows: Vec<Value> = pages.iter().map(|page| source.referrer("x/signed", &digest, page)).collect();
            if form == "tag" {
                source.list("x/signed", &tag, &rows);
            }
            // Cosign's tags.
            for kind in ["sig", "att", "sbom"] {
                let layers = [source.blob("x/signed", kind.as_bytes())];
                let config = source.blob("x/signed", b"{}");
                let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
                source.put("x/signed", Some(&format!("{tag}.{kind}")), &manifest);
            }
            let lock = locked(&["docker.io/x/signed:1"], std::slice::from_ref(&digest));
            let (summary, heard) = copied(&lock, &options(&source, &target));
            assert_eq!((summary.referrers, heard.warnings()), (8, vec![]), "{form}");
            for row in &rows {
                assert!(target.manifest("mirror/signed", row["digest"].as_str().unwrap()).is_some(), "{form}");
            }
            let mut tags = vec!["1".to_owned()];
            if target.manifest("mirror/signed", &tag).is_some() {
                tags.push(tag.clone());
            }
            tags.extend(["att", "sbom", "sig"].map(|kind| format!("{tag}.{kind}")));
            assert_eq!(target.tags("mirror/signed"), tags);
            if let Some(list) = target.manifest("mirror/signed", &tag) {
                let listed = list["manifests"].as_array().unwrap();
                assert_eq!(listed.len(), 5);
                assert!(listed.iter().all(|row| row["artifactType"] == "application/x.signature"), "{list}");
            }
        }
    }
}

#[test]
fn an_image_is_copied_whatever_its_signatures_do() {
    for (form, rule) in [
        ("401", Some(401)),
        ("403", Some(403)),
        ("404", Some(404)),
        ("400", Some(400)),
        ("405", Some(405)),
        ("500", Some(500)),
        ("502", Some(502)),
        ("dangling", None),
        ("no blob", None),
        ("dangling tag", None),
        ("captive portal", Some(200)),
        ("cut", Some(200)),
    ] {
        let source = Server::listing(100, move |request| {
            let blob = format!("/blobs/{}", Digest::of(b"the signature"));
            if form == "no blob" && request.path.ends_with(&blob) {
                return Some(answer(404, ""));
            }
            let status = rule.filter(|_| request.path.contains("/referrers/"))?;
            let page = answer(status, "<html>no</html>");
            Some(if form == "cut" { page.cut_after(3, Duration::ZERO) } else { page })
        });
        let digest = source.image("x/signed", "1", b"layer");
        let tag = digest.as_str().replace(':', "-");
        let row = source.referrer("x/signed", &digest, "the signature");
        if form == "dangling tag" {
            source.forget("x/signed", row["digest"].as_str().unwrap());
            source.list("x/signed", &tag, std::slice::from_ref(&row));
        }
        let (listed, _) = (row["digest"].as_str().unwrap(), ());
        let source = if form == "dangling" || form == "dangling tag" {
            // It is listed, but does not exist.
            let row = row.clone();
            let other = Server::with(move |request| {
                request.path.contains("/referrers/").then(|| match form {
                    "dangling" => answer(200, json!({"schemaVersion": 2, "manifests": [row]}).to_string()),
                    _ => answer(404, ""),
                })
            });
            other.image("x/signed", "1", b"layer");
            if form == "dangling tag" {
                let row = json!({"mediaType": server::MANIFEST, "digest": listed, "size": 1});
                other.list("x/signed", &tag, &[row]);
            }
            other
        } else {
            source
        };
        let target = Server::plain();
        let lock = locked(&["docker.io/x/signed:1"], std::slice::from_ref(&digest));
        let (summary, heard) = copied(&lock, &options(&source, &target));
        assert_eq!((summary.copied, target.tags("mirror/signed")), (1, vec!["1".to_owned()]), "{form}");
        let expected = !matches!(form, "404" | "400" | "405" | "captive portal");
        let warnings = heard.warnings();
        assert_eq!(!warnings.is_empty(), expected, "{form}: {warnings:?}");
        assert!(warnings.iter().all(|text| text.starts_with("signed: copied without ")), "{warnings:?}");
    }
}

/// GitLab's registry reads `sha256-HEX` as the digest itself.
#[test]
fn the_image_itself_is_none_of_its_signatures() {
    let inner = Server::plain();
    let digest = inner.image("x/gitlab", "1", b"layer");
    let hex = digest.as_str().strip_prefix("sha256:").unwrap().to_owned();
    let index = inner.manifest("x/gitlab", digest.as_str()).unwrap().to_string();
    let source = Server::with(move |request| {
        let asked = request.path.split("/manifests/").nth(1)?.strip_prefix("sha256-")?;
        asked.starts_with(&hex).then(|| {
            answer(200, index.clone())
                .with("content-type", server::INDEX)
                .with("docker-content-digest", format!("sha256:{hex}"))
        })
    });
    source.image("x/gitlab", "1", b"layer");
    let target = Server::plain();
    let lock = locked(&["docker.io/x/gitlab:1"], std::slice::from_ref(&digest));
    let (summary, heard) = copied(&lock, &options(&source, &target));
    assert_eq!((summary.referrers, heard.warnings()), (0, vec![]));
    assert_eq!(target.tags("mirror/gitlab"), ["1"]);
    assert_eq!(source.count("GET", "/manifests/sha256-"), 0);
}

#[test]
fn signatures_that_only_the_target_has_stay_there() {
    let (source, target) = (Server::plain(), Server::plain());
    let digest = source.image("x/signed", "1", b"layer");
    let tag = digest.as_str().replace(':', "-");
    let theirs = source.referrer("x/signed", &digest, "theirs");
    source.list("x/signed", &tag, std::slice::from_ref(&theirs));
    let ours = target.referrer("mirror/signed", &digest, "ours");
    target.list("mirror/signed", &tag, std::slice::from_ref(&ours));
    let lock = locked(&["docker.io/x/signed:1"], std::slice::from_ref(&digest));
    for force in [false, true, true] {
        copied(&lock, &Options { force, ..options(&source, &target) });
        let list = target.manifest("mirror/signed", &tag).unwrap();
        let digests: Vec<&Value> = list["manifests"].as_array().unwrap().iter().map(|row| &row["digest"]).collect();
        assert_eq!(digests, [&ours["digest"], &theirs["digest"]]);
    }
    // If the tag holds something that is not a list, or cannot be read, it is not overwritten.
    for broken in [200, 500] {
        let target = Server::with(move |request| {
            (broken == 500 && request.is("GET", "/manifests/sha256-")).then(|| answer(500, "oh"))
        });
        let config = target.blob("mirror/signed", b"{}");
        let other = json!({"schemaVersion": 2, "mediaType": server::MANIFEST, "config": config, "layers": []});
        target.put("mirror/signed", Some(&tag), &other);
        let (summary, heard) = copied(&lock, &options(&source, &target));
        assert_eq!((summary.copied, heard.warnings().len()), (1, 1), "{:?}", heard.warnings());
        assert_eq!(target.manifest("mirror/signed", &tag).unwrap(), other);
    }
}

/// As cosign stores them: the layer is the same for all signers, the signature is an annotation.
#[test]
fn a_signature_under_a_tag_is_never_written_over_another_one() {
    let (source, target) = (Server::plain(), Server::plain());
    let digest = source.image("x/signed", "1", b"layer");
    let tag = format!("{}.sig", digest.as_str().replace(':', "-"));
    let sign = |server: &Server, repository: &str, by: &[&str]| {
        let config = server.blob(repository, b"{}");
        let layers = by.iter().map(|by| {
            let mut layer = server.blob(repository, b"payload");
            layer["annotations"] = json!({"dev.cosignproject.cosign/signature": by});
            layer
        });
        let layers: Vec<Value> = layers.collect();
        let document = json!({"schemaVersion": 2, "mediaType": server::MANIFEST, "config": config, "layers": layers});
        server.put(repository, Some(&tag), &document);
        document
    };
    let theirs = sign(&source, "x/signed", &["theirs"]);
    let lock = locked(&["docker.io/x/signed:1"], std::slice::from_ref(&digest));
    let forced = |target: &Server| copied(&lock, &Options { force: true, ..options(&source, target) });
    for _ in 0..2 {
        let (summary, heard) = forced(&target);
        assert_eq!((summary.referrers, heard.warnings()), (1, vec![]));
        assert_eq!(target.manifest("mirror/signed", &tag).unwrap(), theirs);
    }
    // An additional one at the source removes nothing.
    let more = sign(&source, "x/signed", &["theirs", "another"]);
    assert_eq!(forced(&target).1.warnings(), Vec::<String>::new());
    assert_eq!(target.manifest("mirror/signed", &tag).unwrap(), more);
    // Even if a HEAD does not return the digest.
    let silent = Server::with(|request| request.is("HEAD", ".sig").then(|| answer(200, "")));
    for target in [target, silent] {
        let ours = sign(&target, "mirror/signed", &["ours"]);
        let (summary, heard) = forced(&target);
        let warnings = heard.warnings();
        assert_eq!((summary.copied, summary.referrers, warnings.len()), (1, 0, 1), "{warnings:?}");
        assert!(warnings[0].contains(&tag) && warnings[0].contains("is left as it is"), "{warnings:?}");
        assert_eq!(target.manifest("mirror/signed", &tag).unwrap(), ours);
    }
}

#[test]
fn signatures_are_found_where_a_head_does_not_say_the_digest() {
    let mute = |request: &Request| request.is("HEAD", "/manifests/sha256-");
    let source = Server::with(move |request| (mute(request) && !request.path.contains('.')).then(|| answer(200, "")));
    let digest = source.image("x/signed", "1", b"layer");
    let row = source.referrer("x/signed", &digest, "signature");
    source.list("x/signed", &digest.as_str().replace(':', "-"), std::slice::from_ref(&row));
    let target = Server::plain();
    let lock = locked(&["docker.io/x/signed:1"], std::slice::from_ref(&digest));
    let (summary, heard) = copied(&lock, &options(&source, &target));
    assert_eq!((summary.referrers, heard.warnings()), (1, vec![]));
    assert!(target.manifest("mirror/signed", row["digest"].as_str().unwrap()).is_some());
    // A registry that reads the tag as the digest, without returning it, gives the image.
    let inner = Server::plain();
    let digest = inner.image("x/signed", "1", b"layer");
    let index = inner.manifest("x/signed", digest.as_str()).unwrap().to_string();
    let source = Server::with(move |request| {
        let of_it = request.path.contains("/manifests/sha256-");
        of_it.then(|| answer(200, index.clone()).with("content-type", server::INDEX))
    });
    source.image("x/signed", "1", b"layer");
    let target = Server::plain();
    let (summary, heard) = copied(&lock, &options(&source, &target));
    assert_eq!((summary.referrers, heard.warnings()), (0, vec![]));
    assert_eq!(target.tags("mirror/signed"), ["1"]);
}

#[test]
fn what_is_left_behind_of_a_long_or_broken_list_is_told() {
    type Case = fn(&Request) -> Option<Answer>;
    let cases: [(&str, Case, usize, &str); 4] = [
        (
            "without end",
            |request| {
                let page = answer(200, r#"{"schemaVersion":2,"manifests":[]}"#);
                let link = format!("<{}?from={}>; rel=\"next\"", request.path, request.before);
                request.path.contains("/referrers/").then(|| page.with("link", link))
            },
            0,
            "more than 100 pages",
        ),
        (
            "too many",
            |request| {
                let rows = vec![json!({}); 1001];
                let list = json!({"schemaVersion": 2, "manifests": rows});
                request.path.contains("/referrers/").then(|| answer(200, list.to_string()))
            },
            0,
            "more than 1000 manifests",
        ),
        ("broken", |request| request.query.contains("from=").then(|| answer(500, "oh")), 2, "500"),
        ("none", |request| request.query.contains("from=").then(|| answer(200, "<html>")), 2, "a page of its list"),
    ];
    for (name, rule, count, expected) in cases {
        let source = Server::listing(2, rule);
        let digest = source.image("x/signed", "1", b"layer");
        for at in 0..5 {
            source.referrer("x/signed", &digest, &format!("signature {at}"));
        }
        let lock = locked(&["docker.io/x/signed:1"], std::slice::from_ref(&digest));
        let (summary, heard) = copied(&lock, &options(&source, &Server::plain()));
        let warnings = heard.warnings();
        assert_eq!((summary.referrers, warnings.len()), (count, 1), "{name}: {warnings:?}");
        assert!(warnings[0].contains("the rest of its referrers"), "{name}: {warnings:?}");
        assert!(warnings[0].contains(expected), "{name}: {warnings:?}");
    }
}

/// An account goes to the realm that was named, and no further.
#[test]
fn an_account_goes_along_no_redirect() {
    let stranger = Server::with(|_| Some(answer(200, r#"{"token":"stolen"}"#)));
    for status in [301, 302, 303, 307, 308] {
        for account in [password("s3cret"), Credential::IdentityToken("r3fresh".to_owned())] {
            let to = stranger.address.clone();
            let source = Server::with(move |request| match request.path.as_str() {
                "/token" => Some(answer(status, "").with("location", format!("http://{to}/token"))),
                _ => Some(challenge(&format!("http://{}/token", request.host()))),
            });
            let mut options = options(&source, &Server::plain());
            options.credentials.accounts.insert("docker.io".to_owned(), account);
            let error = resolve(&["docker.io/x/a:1"], &options).unwrap_err();
            assert!(
                error.kind() == Kind::Auth && error.to_string().contains("no account is sent along a redirect"),
                "{error}"
            );
        }
    }
    assert_eq!(stranger.seen().len(), 0);
    // Without an account there is nothing to lose.
    let source = Server::with(|request| match (request.path.as_str(), request.header("authorization")) {
        ("/token", _) => Some(answer(307, "").with("location", "/token2")),
        ("/token2", _) => Some(answer(200, r#"{"token":"t"}"#)),
        (_, Some(_)) => None,
        _ => Some(challenge(&format!("http://{}/token", request.host()))),
    });
    source.image("x/a", "1", b"layer");
    assert!(resolve(&["docker.io/x/a:1"], &options(&source, &Server::plain())).is_ok());
}

/// Realms that no registry has, and addresses that only pretend to be the registry's.
#[test]
fn an_account_goes_to_no_strange_realm() {
    let stranger = Server::with(|_| Some(answer(200, r#"{"token":"stolen"}"#)));
    for realm in [
        "http://auth.example/token",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/token",
        "http://2852039166/token",
        "https://anna@auth.example/token",
        "https://auth.example:pw@127.0.0.1/token",
        "ftp://auth.example/token",
        "http://",
    ] {
        let source = Server::with(move |_| Some(challenge(realm)));
        let error = resolve(&["docker.io/x/a:1"], &with_account(options(&source, &Server::plain()), "docker.io"));
        let error = error.unwrap_err();
        assert!(
            matches!(error.kind(), Kind::Auth | Kind::Protocol | Kind::NotFound | Kind::Denied),
            "{realm}: {error}"
        );
        assert!(!format!("{error:?}").contains("s3cret"));
    }
    // A blob stored elsewhere, on a host that asks for credentials.
    let (to, realm) = (stranger.address.clone(), format!("http://{}/token", stranger.address));
    let elsewhere = Server::with(move |_| Some(challenge(&realm)));
    let there = elsewhere.address.clone();
    let source = Server::with(move |request| match request.header("authorization") {
        Some(ANNA) if request.path.contains("/blobs/") => {
            Some(answer(307, "").with("location", format!("http://{there}{}", request.path)))
        }
        Some(ANNA) => None,
        _ => Some(answer(401, "").with("www-authenticate", "Basic realm=x")),
    });
    let digest = source.image("x/a", "1", b"layer");
    let options = with_account(options(&source, &Server::plain()), "docker.io");
    assert!(copy(&locked(&["docker.io/x/a:1"], &[digest]), &options).0.is_err());
    assert!(elsewhere.seen().iter().all(|seen| seen.header("authorization").is_none()));
    assert_eq!(stranger.seen().len(), 0, "{to}");
}

#[test]
fn a_stand_in_for_a_registry_gets_no_account_of_it() {
    let source = Server::with(|request| match request.path.as_str() {
        "/token" => Some(answer(401, "{}")),
        _ => Some(challenge(&format!("http://{}/token", request.host()))),
    });
    let basic = Server::with(|_| Some(answer(401, "").with("www-authenticate", "Basic realm=x")));
    for source in [source, basic] {
        let mut options = with_account(options(&source, &Server::plain()), "docker.io");
        options.sources.get_mut("docker.io").unwrap().anonymous = true;
        let error = resolve(&["docker.io/x/a:1"], &options).unwrap_err();
        assert!(matches!(error.kind(), Kind::Auth | Kind::Denied), "{error}");
        assert!(source.seen().iter().all(|seen| seen.header("authorization").is_none()));
    }
}

/// A devcontainer has its host's configuration, but not its host's helper.
#[test]
fn a_helper_that_is_not_there_matters_where_an_account_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let path = camino::Utf8PathBuf::from_path_buf(folder.path().join("config.json")).unwrap();
    std::fs::write(&path, "{\n  \"auths\": {},\n  \"credsStore\": \"desktop.exe\"\n}").unwrap();
    let expected = format!("docker-credential-desktop.exe (named by {path}, line 3): there is no such program on PATH");
    let public = hub(|_| None);
    let digest = public.image("x/public", "1", b"layer");
    let mut options = options(&public, &Server::plain());
    options.credentials.docker_config = Some(path);
    let (_, heard) = copied(&locked(&["docker.io/x/public:1"], &[digest]), &options);
    assert_eq!(heard.warnings(), [format!("docker.io: continues without an account: {expected}")]);
    let basic = Server::with(|_| Some(answer(401, "").with("www-authenticate", "Basic realm=x")));
    let token = Server::with(|request| match request.path.as_str() {
        "/token" => Some(answer(401, "{}")),
        _ => Some(challenge(&format!("http://{}/token", request.host()))),
    });
    let denied = hub(|_| Some(answer(401, "")));
    for private in [basic, token, denied] {
        options.sources.insert("docker.io".to_owned(), Endpoint::named(&private.address));
        let error = resolve(&["docker.io/x/private:1"], &options).unwrap_err();
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

/// The archive for one platform, and the result of writing it.
fn archived(image: &image_mirror::LockedImage, platform: &str, options: &Options) -> (Result<u64, Error>, Vec<u8>) {
    let mut bytes = Vec::new();
    let written = block(image_mirror::archive(image, platform, options, &Heard::default(), &mut bytes));
    (written, bytes)
}

/// Every file of an archive by its name.
fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let files = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), bytes)
    });
    files.collect()
}

#[test]
fn an_archive_is_what_engines_load_old_and_new() {
    let (source, target) = (Server::plain(), Server::plain());
    source.image("rancher/k3s", "v1", &vec![7; 5000]);
    let options = options(&source, &target);
    let lock = resolve(&["docker.io/rancher/k3s:v1"], &options).unwrap();
    let asked = source.count("GET", "/manifests/");
    let (written, archive) = archived(&lock.images[0], "linux/x86_64", &options);
    written.unwrap();
    assert_eq!(source.count("GET", "/manifests/") - asked, 1);
    assert!(archive.len() % 512 == 0 && archive.ends_with(&[0; 1024]));
    let files = files(&archive);
    let json = |name: &str| serde_json::from_slice::<Value>(&files[name]).unwrap();
    // As Docker before 25 reads it.
    let old = json("manifest.json");
    assert_eq!(old[0]["RepoTags"], json!(["docker.io/rancher/k3s:v1"]));
    let named = |value: &Value| files[value.as_str().unwrap()].clone();
    assert_eq!(named(&old[0]["Config"]), br#"{"architecture":"amd64","os":"linux"}"#);
    assert_eq!(named(&old[0]["Layers"][0]), vec![7; 5000]);
    assert_eq!(named(&old[0]["Layers"][1]), b"amd64");
    // As an OCI image layout.
    assert_eq!(json("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
    let index = json("index.json");
    let child = &lock.images[0].children[0];
    assert_eq!(index["manifests"][0]["digest"], child.digest.as_str());
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "docker.io/rancher/k3s:v1");
    for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with("blobs/")) {
        assert_eq!(format!("blobs/{}", Digest::of(bytes).as_str().replace(':', "/")), *name);
    }
    let (error, nothing) = archived(&lock.images[0], "linux/s390x", &options);
    assert!(error.unwrap_err().kind() == Kind::Platform && nothing.is_empty());
    let unresolved = ImagesLock::unresolved(&wanted(&["docker.io/rancher/k3s:v1"]));
    let (error, nothing) = archived(&unresolved.images[0], "linux/amd64", &options);
    assert!(error.unwrap_err().kind() == Kind::Usage && nothing.is_empty());
}

/// An archive that no engine should accept has no end marker.
#[test]
fn an_archive_of_wrong_bytes_is_never_whole() {
    let source = Server::with(|request| {
        let blob = request.method == "GET" && request.path.contains("/blobs/");
        blob.then(|| answer(200, vec![8; 5000]))
    });
    source.image("x/wrong", "1", &vec![7; 5000]);
    let options = options(&source, &Server::plain());
    let lock = resolve(&["docker.io/x/wrong:1"], &options).unwrap();
    let (error, archive) = archived(&lock.images[0], "linux/amd64", &options);
    assert_eq!(error.unwrap_err().kind(), Kind::Invalid);
    assert!(!archive.ends_with(&[0; 1024]));
}

/// Created by openssl: an authority, and the certificates it signs.
struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let authority = Self { folder: tempfile::tempdir().unwrap() };
        authority.openssl("req -x509 -subj /CN=authority -keyout ca.key -out ca.pem -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2");
        authority
    }

    fn openssl(&self, arguments: &str) {
        let words = arguments.split_whitespace();
        let made = std::process::Command::new("openssl").args(words).current_dir(self.folder.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn path(&self, name: &str) -> camino::Utf8PathBuf {
        camino::Utf8PathBuf::from_path_buf(self.folder.path().join(name)).unwrap()
    }

    /// A server with a certificate for this name, valid between these days from now.
    fn serve(&self, name: &str, days: std::ops::Range<i64>) -> Server {
        self.certify(name, days);
        self.server(|_| None)
    }

    /// Creates the certificate for this name, valid between these days from now.
    fn certify(&self, name: &str, days: std::ops::Range<i64>) {
        std::fs::write(self.path("extensions"), format!("subjectAltName={name}\nbasicConstraints=critical,CA:FALSE\n"))
            .unwrap();
        self.openssl("req -subj /CN=registry -keyout key.pem -out request.pem -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes");
        let date = |day: i64| {
            let at = std::time::SystemTime::now() + Duration::from_secs(86_400 * 400)
                - Duration::from_secs(86_400 * u64::try_from(400 - day).unwrap());
            let text = httpdate::fmt_http_date(at);
            // Sun, 06 Nov 1994 08:49:37 GMT
            let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
            let month = months.iter().position(|month| *month == &text[8..11]).unwrap() + 1;
            format!("{}{month:02}{}000000Z", &text[12..16], &text[5..7])
        };
        std::fs::write(self.path("index.txt"), "").unwrap();
        std::fs::write(self.path("ca.cnf"), "[ca]\ndefault_ca=it\n[it]\ndatabase=index.txt\nrand_serial=yes\nnew_certs_dir=.\ndefault_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n").unwrap();
        self.openssl(&format!(
            "ca -batch -config ca.cnf -cert ca.pem -keyfile ca.key -in request.pem -out cert.pem -notext -extfile extensions -startdate {} -enddate {}",
            date(days.start),
            date(days.end)
        ));
    }

    /// A server with the latest certificate.
    fn server(&self, rule: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Server {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let certificate = CertificateDer::from_pem_file(self.path("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.path("key.pem")).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Server::tls(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap(), rule)
    }
}

/// Over HTTP, TLS and SOCKS; and bypassed by a port in `NO_PROXY`.
#[test]
fn a_proxy_of_each_kind_leads_to_a_registry() {
    let authority = Authority::new();
    let (plain, tls) = (Server::plain(), authority.serve("IP:127.0.0.1", -1..1));
    let source = Server::plain();
    let digest = source.image("x/far", "1", b"layer");
    let lock = locked(&["docker.io/x/far:1"], &[digest]);
    let socks = plain.behind_socks();
    let absolute = "PUT http://registry.company.invalid:5000/v2/mirror/far/manifests/1 HTTP/1.1";
    for (proxy, server, expected) in [
        (format!("http://anna:s3cret@{}", plain.address), &plain, absolute),
        (format!("socks5h://{socks}"), &plain, "registry.company.invalid"),
        (format!("https://anna:s3cret@{}", tls.address), &tls, absolute),
    ] {
        let before = server.seen().len();
        let run = |no_proxy: &str| {
            let mut options = options(&source, &plain);
            let ca = Some(authority.path("ca.pem"));
            options.target =
                Endpoint { host: "registry.company.invalid:5000".to_owned(), plain_http: true, ca, anonymous: false };
            let variable = |name: &str| match name {
                "http_proxy" => Some(proxy.clone()),
                "NO_PROXY" => Some(no_proxy.to_owned()),
                _ => None,
            };
            options.proxies = image_mirror::Proxies::from_variables(variable).unwrap();
            copy(&lock, &Options { force: true, ..options }).0
        };
        // Bypassed first: requests through the proxy may be recorded late.
        let led = || server.led().iter().any(|led| led == expected);
        assert_eq!(run("registry.company.invalid:5000").unwrap_err().kind(), Kind::Dns, "{proxy}");
        assert!(!led(), "{proxy}: {:?}", server.led());
        assert_eq!(run("registry.company.invalid:5001").unwrap().copied, 1, "{proxy}");
        assert!(led(), "{proxy}: {:?}", server.led());
        let account = if expected == absolute { Some(ANNA) } else { None };
        let seen = &server.seen()[before..];
        assert!(seen.iter().all(|seen| seen.header("proxy-authorization") == account), "{proxy}");
    }
}

/// GitLab, GHCR and Pulp lead to a store whose addresses are signed for GET.
#[test]
fn a_head_that_is_redirected_to_an_address_signed_for_get_holds_nobody_up() {
    let large = vec![7; 2_000_000];
    for status in [400, 401, 403, 404, 405] {
        let store = Server::with(move |request| (request.method == "HEAD").then(|| answer(status, "")));
        let leading = || {
            let to = store.address.clone();
            Server::with(move |request| {
                let reads = request.method == "HEAD" || request.method == "GET" && request.path.contains("/blobs/");
                reads.then(|| answer(307, "").with("location", format!("http://{to}{}", request.path)))
            })
        };
        let (source, target) = (leading(), leading());
        let digest = store.image("x/signed", "1", &large);
        source.image("x/signed", "1", &large);
        let options = options(&source, &target);
        let lock = resolve(&["docker.io/x/signed:1"], &options).unwrap();
        assert_eq!(lock.images[0].target_digest.as_ref(), Some(&digest));
        let (summary, heard) = copied(&lock, &options);
        assert_eq!((summary.copied, target.tags("mirror/signed")), (1, vec!["1".to_owned()]), "{status}");
        assert_eq!(block(image_mirror::check(&lock, &options)).unwrap(), [], "{status}");
        let events = heard.0.lock().unwrap();
        assert!(!events.iter().any(|event| matches!(event, MirrorEvent::Waiting { .. })), "{status}: {events:?}");
    }
}

#[test]
fn an_upload_keeps_tls_and_goes_to_just_the_address_it_is_redirected_to() {
    let (source, store) = (Server::plain(), Server::plain());
    let digest = source.image("x/up", "1", b"layer");
    let lock = locked(&["docker.io/x/up:1"], &[digest]);
    let authority = Authority::new();
    authority.certify("IP:127.0.0.1", -1..1);
    for method in ["POST", "PUT"] {
        let to = store.address.clone();
        let target = authority.server(move |request| {
            let location = format!("http://{to}{}?{}", request.path, request.query);
            (request.is(method, "/uploads/"))
                .then(|| answer(if method == "POST" { 202 } else { 307 }, "").with("location", location))
        });
        let ca = Some(authority.path("ca.pem"));
        let mut options = options(&source, &target);
        options.target = Endpoint { plain_http: false, ca, ..Endpoint::named(&target.address) };
        let error = copy(&lock, &options).0.unwrap_err();
        assert!(error.kind() == Kind::Protocol && error.to_string().contains("from TLS to http://"), "{error}");
        assert_eq!(store.seen().len(), 0, "{method}");
    }
    let target = Server::with(|request| {
        let location = format!("/v2/mirror/up/blobs/uploads/2?{}", request.query);
        request.is("PUT", "/uploads/1").then(|| answer(307, "").with("location", location))
    });
    copied(&lock, &options(&source, &target));
    let seen = target.seen().into_iter().filter(|seen| seen.is("PUT", "/uploads/2"));
    let uploads: Vec<String> = seen.map(|seen| seen.query).collect();
    assert!(!uploads.is_empty() && uploads.iter().all(|query| query.matches("digest=").count() == 1), "{uploads:?}");
}

#[test]
fn a_certificate_is_told_by_what_is_wrong_with_it() {
    let authority = Authority::new();
    let source = Server::plain();
    let digest = source.image("x/tls", "1", b"layer");
    let lock = locked(&["docker.io/x/tls:1"], &[digest]);
    let to = |server: &Server, trusted: bool| {
        let mut options = options(&source, server);
        options.target.plain_http = false;
        options.target.ca = trusted.then(|| authority.path("ca.pem"));
        copy(&lock, &options).0
    };
    let good = authority.serve("IP:127.0.0.1", -1..1);
    assert_eq!(to(&good, true).unwrap().copied, 1);
    let cases = [
        (good, false, Kind::Tls, "its certificate is signed by an authority that is not trusted here"),
        (authority.serve("DNS:registry.example", -1..1), true, Kind::TlsName, "is for "),
        (authority.serve("IP:127.0.0.1", -9..-2), true, Kind::TlsTime, "its certificate expired on "),
        (authority.serve("IP:127.0.0.1", 2..9), true, Kind::TlsTime, "its certificate is not valid before "),
    ];
    for (server, trusted, kind, expected) in cases {
        let error = to(&server, trusted).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        println!("{error}");
    }
    // As openssl creates one by default: its own authority, whether or not that is trusted.
    let own = Authority::new();
    own.openssl("req -x509 -subj /CN=registry -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2");
    let server = own.server(|_| None);
    for trusted in [false, true] {
        let mut options = options(&source, &server);
        options.target.plain_http = false;
        options.target.ca = trusted.then(|| own.path("cert.pem"));
        let error = copy(&lock, &options).0.unwrap_err();
        assert!(error.kind() == Kind::Tls && error.to_string().contains("basicConstraints CA:FALSE"), "{error}");
    }
}
