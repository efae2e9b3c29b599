//! The mirror against real registries, with what networks and public registries do in between. Only
//! Docker Hub is simulated: its tokens, limits and addresses, by a proxy in front of a real
//! registry.

mod answers;
mod content;
mod proxy;
mod registry;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use image_mirror::{
    Credential, Digest, Endpoint, Error, Finding, ImagesLock, Kind, MirrorEvent, Observe, Options, Proxies,
    RetryPolicy, Summary,
};
use proxy::{Do, Proxy};
use registry::{
    Registry, assert_complete, assert_invisible, http, manifest, noise, options, push_blob, push_index, push_manifest,
    push_platform, source, wanted,
};
use serde_json::json;

#[derive(Default)]
struct Heard(Mutex<Vec<MirrorEvent>>);

impl Observe for Heard {
    fn event(&self, event: MirrorEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl Heard {
    fn waits(&self) -> Vec<Duration> {
        let events = self.0.lock().unwrap();
        events
            .iter()
            .filter_map(|event| if let MirrorEvent::Waiting { wait, .. } = event { Some(*wait) } else { None })
            .collect()
    }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn copy(lock: &ImagesLock, options: &Options) -> Result<Summary, Error> {
    block(image_mirror::copy(lock, options, &Heard::default()))
}

#[track_caller]
fn copied(lock: &ImagesLock, options: &Options) -> Summary {
    copy(lock, options).unwrap_or_else(|error| panic!("{error} {:?}", error.images()))
}

/// The current state of these repositories at the real source.
#[track_caller]
fn locked(repositories: &[&str]) -> ImagesLock {
    let options = options(source(), "127.0.0.1:1");
    block(image_mirror::resolve(&wanted(repositories), None, &options, &Heard::default())).unwrap()
}

/// An image with two platforms, an attestation, and layers of these sizes.
#[track_caller]
fn image(repository: &str, sizes: &[usize]) -> ImagesLock {
    let seed = repository.bytes().map(u64::from).sum::<u64>();
    let layers: Vec<Vec<u8>> =
        sizes.iter().enumerate().map(|(at, size)| noise(seed * 100 + at as u64, *size)).collect();
    push_index(source(), repository, "1", &layers);
    locked(&[repository])
}

const BIG: usize = 3_000_000;

#[test]
fn whole_indexes_are_copied_once_and_a_warm_run_asks_the_source_nothing() {
    let shared = noise(1, BIG);
    push_index(source(), "whole/a", "1", &[shared.clone(), noise(2, 100_000)]);
    push_index(source(), "whole/b", "1", &[shared.clone(), noise(3, 200_000)]);
    let lock = locked(&["whole/a", "whole/b"]);
    let (proxy, target) = (Proxy::before(source(), |_| Do::Pass), Registry::start());
    let options = options(&proxy.address, &target.address);
    let cold = copied(&lock, &options);
    assert_complete(&target.address, &lock);
    assert_eq!((cold.copied, cold.skipped), (2, 0));
    assert!(cold.mounted >= 1, "{cold:?}");
    // Each blob and manifest once, although both images have the large one, on both platforms.
    let seen: Vec<String> =
        proxy.seen().iter().filter(|seen| seen.method == "GET").map(|seen| seen.path.clone()).collect();
    let digests: Vec<&str> =
        seen.iter().filter(|path| path.contains("/blobs/")).filter_map(|path| path.split('/').next_back()).collect();
    let unique: std::collections::BTreeSet<&&str> = digests.iter().collect();
    assert_eq!(digests.len(), unique.len(), "{digests:?}");
    assert_eq!(cold.blobs, digests.len());
    assert_eq!(cold.source_requests as usize, proxy.seen().len());
    let asked = proxy.seen().len();
    let warm = copied(&lock, &options);
    assert_eq!(warm, Summary { skipped: 2, ..Summary::default() });
    assert_eq!(proxy.seen().len(), asked);
    assert_eq!(block(image_mirror::check(&lock, &options)).unwrap(), []);
    // A tag that is unchanged costs one HEAD, and gives the same lock, byte for byte.
    let again =
        block(image_mirror::resolve(&wanted(&["whole/a", "whole/b"]), Some(&lock), &options, &Heard::default()));
    assert_eq!(again.unwrap(), lock);
    assert_eq!(proxy.seen().len(), asked + 2);
    assert!(proxy.seen()[asked..].iter().all(|seen| seen.method == "HEAD"));
}

#[test]
fn signatures_follow_their_image() {
    let lock = image("signed/a", &[10_000]);
    let subject = lock.images[0].target_digest.clone().unwrap();
    let layer = push_blob(source(), "signed/a", b"signature");
    let config = push_blob(source(), "signed/a", b"{}");
    let (top, _) = manifest(source(), "signed/a", "1").unwrap();
    let size = serde_json::to_vec(&top).unwrap().len();
    let signature = json!({"schemaVersion": 2, "mediaType": registry::OCI_MANIFEST, "artifactType": "application/x.signature",
        "config": config, "layers": [layer],
        "subject": {"mediaType": registry::OCI_INDEX, "digest": subject.as_str(), "size": size}});
    let descriptor = push_manifest(source(), "signed/a", None, &signature);
    let list = json!({"schemaVersion": 2, "mediaType": registry::OCI_INDEX, "manifests": [descriptor]});
    let tag = subject.as_str().replace(':', "-");
    push_manifest(source(), "signed/a", Some(&tag), &list);
    let target = Registry::start();
    assert_eq!(copied(&lock, &options(source(), &target.address)).referrers, 1);
    let (there, _) = manifest(&target.address, "mirror/signed/a", &tag).unwrap();
    let (signature, _) =
        manifest(&target.address, "mirror/signed/a", there["manifests"][0]["digest"].as_str().unwrap()).unwrap();
    let blob = signature["layers"][0]["digest"].as_str().unwrap();
    assert_eq!(http("GET", &target.address, &format!("/v2/mirror/signed/a/blobs/{blob}"), &[], b"").body, b"signature");
}

/// A single platform is copied as its manifest, since registries reject an index without its
/// children.
#[test]
fn one_platform_alone_is_pinned_by_its_manifest_and_a_missing_one_is_an_error() {
    push_index(source(), "platforms/a", "1", &[noise(4, 1000)]);
    let target = Registry::start();
    let options = options(source(), &target.address);
    let mut one = wanted(&["platforms/a"]);
    one.images[0].platforms = vec!["linux/arm64".to_owned()];
    let lock = block(image_mirror::resolve(&one, None, &options, &Heard::default())).unwrap();
    let children = &lock.images[0].children;
    assert_eq!((children.len(), Some(&children[0].digest)), (1, lock.images[0].target_digest.as_ref()));
    assert_eq!(copied(&lock, &options).copied, 1);
    assert_complete(&target.address, &lock);
    one.images[0].platforms = vec!["linux/s390x".to_owned()];
    let error = block(image_mirror::resolve(&one, None, &options, &Heard::default())).unwrap_err();
    assert_eq!(error.kind(), Kind::Platform);
    assert!(error.to_string().contains("no linux/s390x: it has linux/amd64, linux/arm64"), "{error}");
    // An image without an index has its platform in its config.
    push_platform(source(), "platforms/b", Some("1"), "amd64", &[noise(5, 1000)]);
    let error = block(image_mirror::resolve(&wanted(&["platforms/b"]), None, &options, &Heard::default())).unwrap_err();
    assert_eq!(error.kind(), Kind::Platform, "{error}");
}

#[test]
fn a_tag_that_moved_changes_nothing_until_it_is_resolved_again() {
    let lock = image("moved/a", &[5000]);
    let old = lock.images[0].target_digest.clone().unwrap();
    push_index(source(), "moved/a", "1", &[noise(6, 6000)]);
    let target = Registry::start();
    let options = options(source(), &target.address);
    copied(&lock, &options);
    assert_eq!(manifest(&target.address, "mirror/moved/a", "1").unwrap().1, old);
    let fresh = block(image_mirror::resolve(&wanted(&["moved/a"]), Some(&lock), &options, &Heard::default())).unwrap();
    assert_ne!(fresh.images[0].target_digest.as_ref(), Some(&old));
    // The tag is there with the old digest, which is different from missing.
    let finding = block(image_mirror::check(&fresh, &options)).unwrap();
    assert!(matches!(&finding[..], [Finding::Stale { found, .. }] if found == old.as_str()), "{finding:?}");
    // The lock has a digest that the source no longer has.
    assert_eq!(http("DELETE", source(), &format!("/v2/moved/a/manifests/{old}"), &[], b"").status, 202);
    let other = Registry::start();
    let error = copy(&lock, &registry::options(source(), &other.address)).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_invisible(&other.address, &lock);
}

/// Various failures during a blob download; the copy must be complete all the same.
#[test]
fn a_download_survives_cuts_hangs_and_expired_addresses() {
    let lock = image("download/a", &[BIG]);
    let first = |seen: &proxy::Seen| seen.is("GET", "/blobs/") && seen.header("range").is_none() && seen.before == 0;
    let cdn =
        Proxy::before(
            source(),
            |seen| if seen.before == 0 { Do::Answer(403, vec![], "expired".into()) } else { Do::Pass },
        );
    let address = cdn.address.clone();
    type Rule = Box<dyn Fn(&proxy::Seen) -> Do + Send + Sync>;
    let cases: Vec<(&str, Rule)> = vec![
        ("cut", Box::new(move |seen| if first(seen) { Do::CutAfter(700_000) } else { Do::Pass })),
        ("cut at once", Box::new(move |seen| if first(seen) { Do::CutAfter(0) } else { Do::Pass })),
        (
            "cut, range ignored",
            Box::new(move |seen| match first(seen) {
                true => Do::CutAfter(700_000),
                false => Do::Without("range"),
            }),
        ),
        (
            "cut, wrong range",
            Box::new(move |seen| match (first(seen), seen.header("range"), seen.before) {
                (true, ..) => Do::CutAfter(700_000),
                (_, Some(_), 1) => Do::Rewrite("content-range", "bytes 0-10/11".to_owned()),
                _ => Do::Pass,
            }),
        ),
        (
            "cut, range refused",
            Box::new(move |seen| match (first(seen), seen.header("range"), seen.before) {
                (true, ..) => Do::CutAfter(700_000),
                (_, Some(_), 1) => Do::Answer(416, vec![], String::new()),
                _ => Do::Pass,
            }),
        ),
        ("hang", Box::new(move |seen| if first(seen) { Do::Hang(Duration::from_secs(9)) } else { Do::Pass })),
        ("wrong bytes", Box::new(move |seen| if first(seen) { Do::Spoil(5) } else { Do::Pass })),
        ("500", Box::new(move |seen| if seen.before < 2 { Do::Answer(500, vec![], "oh".into()) } else { Do::Pass })),
        (
            "502",
            Box::new(move |seen| if seen.before < 2 { Do::Answer(502, vec![], "<html>".into()) } else { Do::Pass }),
        ),
        (
            "address elsewhere, expired",
            Box::new(move |seen| match seen.is("GET", "/blobs/") {
                true => Do::Answer(307, vec![("location", format!("http://{address}{}", seen.path))], String::new()),
                false => Do::Pass,
            }),
        ),
    ];
    let target = Registry::start();
    for (at, (name, rule)) in cases.into_iter().enumerate() {
        let proxy = Proxy::before(source(), rule);
        let mut lock = lock.clone();
        // Blobs are only mounted from repositories that the lock names.
        lock.images[0].target = format!("case-{at}/a");
        let summary = copied(&lock, &options(&proxy.address, &target.address));
        assert!(summary.blobs > 0 && summary.copied == 1, "{name}: {summary:?}");
        assert_complete(&target.address, &lock);
        let ranges = proxy.seen().iter().filter(|seen| seen.header("range").is_some()).count();
        println!("{name}: {} requests, {ranges} by range", proxy.seen().len());
        assert!(ranges > 0 || !name.starts_with("cut,") && name != "cut", "{name}");
    }
    assert!(cdn.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[test]
fn wrong_bytes_never_arrive() {
    let lock = image("spoilt/a", &[BIG]);
    let target = Registry::start();
    for fault in ["bytes", "longer", "manifest"] {
        let proxy = Proxy::before(source(), move |seen| match fault {
            "manifest" if seen.is("GET", "/manifests/") => Do::Spoil(20),
            "bytes" if seen.is("GET", "/blobs/") => Do::Spoil(0),
            "longer" if seen.is("GET", "/blobs/") => Do::Rewrite("content-length", "12".to_owned()),
            _ => Do::Pass,
        });
        let error = copy(&lock, &options(&proxy.address, &target.address)).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{fault}: {error}");
        assert_invisible(&target.address, &lock);
        assert_eq!(error.images().len(), 1);
        println!("{fault}: {error}");
    }
}

#[test]
fn what_is_no_manifest_is_refused() {
    let lock = image("manifests/a", &[1000]);
    let target = Registry::start();
    let schema_1 = r#"{"schemaVersion":1,"name":"x","tag":"1","fsLayers":[],"history":[]}"#;
    let cases = [
        (schema_1.to_owned(), "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (format!("{{\"schemaVersion\":2,\"x\":\"{}\"}}", "y".repeat(5 << 20)), registry::OCI_MANIFEST, "4 MiB"),
        ("<html>captive portal</html>".to_owned(), "text/html", "not a manifest"),
    ];
    for (body, content_type, expected) in cases {
        let digest = Digest::of(body.as_bytes());
        let proxy = Proxy::before(source(), move |seen| match seen.is("GET", "/manifests/") {
            true => Do::Answer(200, vec![("content-type", content_type.to_owned())], body.clone()),
            false => Do::Pass,
        });
        let mut lock = lock.clone();
        lock.images[0].target_digest = Some(digest);
        let error = copy(&lock, &options(&proxy.address, &target.address)).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

fn date(from_now: i64) -> String {
    let now = SystemTime::now();
    let wait = Duration::from_secs(from_now.unsigned_abs());
    httpdate::fmt_http_date(if from_now < 0 { now - wait } else { now + wait })
}

#[test]
fn a_rate_limit_that_lifts_is_waited_for() {
    let lock = image("limit/a", &[50_000]);
    let target = Registry::start();
    type Headers = fn() -> Vec<(&'static str, String)>;
    let cases: [(&str, Headers); 5] = [
        ("seconds", || vec![("retry-after", "1".into())]),
        ("date", || vec![("retry-after", date(2))]),
        ("past date", || vec![("retry-after", date(-100))]),
        ("garbage", || vec![("retry-after", "soon".into())]),
        ("none", Vec::new),
    ];
    for (at, (name, headers)) in cases.into_iter().enumerate() {
        for place in ["/manifests/", "/blobs/"] {
            let proxy = Proxy::before(source(), move |seen| match seen.is("GET", place) && seen.before < 3 {
                true => Do::Answer(429, headers(), "too many requests".into()),
                false => Do::Pass,
            });
            let mut lock = lock.clone();
            lock.images[0].target = format!("case-{at}{}a", place.replace("manifests", "m"));
            let heard = Heard::default();
            let options = options(&proxy.address, &target.address);
            let summary = block(image_mirror::copy(&lock, &options, &heard)).unwrap();
            assert_eq!(summary.copied, 1, "{name} {place}");
            assert_complete(&target.address, &lock);
            assert!(!heard.waits().is_empty(), "{name} {place}");
            println!("{name} {place}: waited {:?}", heard.waits());
        }
    }
    // The target registry may rate-limit too.
    let refused = AtomicUsize::new(0);
    let slow = Proxy::before(&target.address, move |seen| {
        match seen.method == "PUT" && refused.fetch_add(1, Ordering::SeqCst) < 3 {
            true => Do::Answer(429, vec![("retry-after", "1".into())], String::new()),
            false => Do::Pass,
        }
    });
    let lock = image("limit/b", &[60_000]);
    copied(&lock, &options(source(), &slow.address));
    assert_complete(&target.address, &lock);
}

#[test]
fn a_rate_limit_that_stays_ends_it_with_what_is_left_and_the_next_run_goes_on() {
    let hub = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"}]}"#;
    let quota = || vec![("ratelimit-limit", "100;w=21600".to_owned()), ("ratelimit-remaining", "0;w=21600".to_owned())];
    let (done, late) = (image("stays/done", &[40_000]), image("stays/late", &[BIG]));
    let both = ImagesLock { images: vec![done.images[0].clone(), late.images[0].clone()], ..done };
    let target = Registry::start();
    // A used-up quota ends it at once: retrying would only prolong it.
    let used_up = Proxy::before(source(), move |seen| match seen.is("GET", "stays/late/manifests/") {
        true => Do::Answer(429, quota(), hub.into()),
        false => Do::Pass,
    });
    let error = copy(&both, &options(&used_up.address, &target.address)).unwrap_err();
    assert_eq!(error.kind(), Kind::RateLimited);
    assert!(error.to_string().contains("0 of 100 pulls left at docker.io in 6 h"), "{error}");
    assert_eq!(used_up.count("GET", "stays/late/manifests/"), 1);
    assert_invisible(&target.address, &late);
    // A time too far away is reported, not waited for.
    let far = Proxy::before(source(), move |seen| match seen.is("GET", "/manifests/") {
        true => Do::Answer(429, vec![("retry-after", "86400".into())], "slow down".into()),
        false => Do::Pass,
    });
    let error = copy(&late, &options(&far.address, &target.address)).unwrap_err();
    assert!(error.kind() == Kind::RateLimited && error.to_string().contains("asks to wait 86400 s"), "{error}");
    assert_eq!(far.count("GET", "/manifests/"), 1);
    // Without a time and without a quota it is retried a few times, then given up.
    let endless = Proxy::before(source(), |seen| {
        if seen.is("GET", "/blobs/") { Do::Answer(429, vec![], "no".into()) } else { Do::Pass }
    });
    let error = copy(&late, &options(&endless.address, &target.address)).unwrap_err();
    assert_eq!(error.kind(), Kind::RateLimited);
    assert_invisible(&target.address, &late);
    // The limit is lifted.
    let open = Proxy::before(source(), |_| Do::Pass);
    let summary = copied(&both, &options(&open.address, &target.address));
    assert_complete(&target.address, &both);
    println!("after the limit: {summary:?}");
}

#[test]
fn all_transfers_of_a_registry_wait_at_one_gate() {
    let lock = image("gate/a", &[100_000, 110_000, 120_000, 130_000, 140_000, 150_000]);
    let target = Registry::start();
    let limited = AtomicBool::new(false);
    let proxy =
        Proxy::before(source(), move |seen| match seen.is("GET", "/blobs/") && !limited.swap(true, Ordering::SeqCst) {
            true => Do::Answer(429, vec![("retry-after", "2".into())], String::new()),
            false => Do::Pass,
        });
    copied(&lock, &options(&proxy.address, &target.address));
    let seen = proxy.seen();
    let blobs: Vec<Instant> = seen.iter().filter(|seen| seen.is("GET", "/blobs/")).map(|seen| seen.at).collect();
    // Those already in progress arrived right away; the rest only after the wait.
    let early = blobs.iter().filter(|at| at.duration_since(blobs[0]) < Duration::from_millis(1900)).count();
    assert!(early <= options("127.0.0.1:1", "127.0.0.1:1").transfers, "{early} of {}", blobs.len());
    assert!(early < blobs.len());
}

/// Docker Hub's tokens, in front of the real source. A token is valid for this many requests.
fn token_hub(good_for: usize, account: Option<&'static str>) -> Proxy {
    let uses: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let given = AtomicUsize::new(0);
    Proxy::before(source(), move |seen| {
        if seen.path.starts_with("/token") {
            let who = seen.header("authorization").map(str::to_owned).unwrap_or_else(|| seen.body.clone());
            if account.is_some_and(|account| !who.contains(account)) {
                return Do::Answer(401, vec![], r#"{"details":"incorrect username or password"}"#.into());
            }
            let token = format!("t{}", given.fetch_add(1, Ordering::SeqCst));
            uses.lock().unwrap().insert(format!("Bearer {token}"), good_for);
            return Do::Answer(200, vec![], format!(r#"{{"token":"{token}","expires_in":300}}"#));
        }
        let mut uses = uses.lock().unwrap();
        match seen.header("authorization").and_then(|token| uses.get_mut(token)) {
            Some(left) if *left > 0 => {
                *left -= 1;
                // The token may expire in the middle of a large download: the rest needs another
                // one.
                if seen.is("GET", "/blobs/") && seen.header("range").is_none() && seen.before == 0 {
                    Do::CutAfter(1500)
                } else {
                    Do::Pass
                }
            }
            _ => {
                let host = seen.header("host").unwrap_or_default();
                let challenge = format!(r#"Bearer realm="http://{host}/token",service="registry.docker.io""#);
                Do::Answer(401, vec![("www-authenticate", challenge)], "{}".into())
            }
        }
    })
}

#[test]
fn tokens_are_got_shared_and_got_again() {
    let lock = image("tokens/a", &[100_000, 200_000]);
    let target = Registry::start();
    let hub = token_hub(3, None);
    copied(&lock, &Options { transfers: 1, ..options(&hub.address, &target.address) });
    assert_complete(&target.address, &lock);
    assert!(hub.count("GET", "/token?") > 1);
    println!("tokens for 3 requests each: {} of {} requests", hub.count("GET", "/token?"), hub.seen().len());
    // The token server may rate-limit too.
    let (hub, other) = (token_hub(1000, None), Registry::start());
    let limited = Proxy::before(&hub.address, |seen| match seen.path.starts_with("/token") && seen.before < 2 {
        true => Do::Answer(429, vec![("retry-after", "1".into())], String::new()),
        false => Do::Pass,
    });
    copied(&lock, &options(&limited.address, &other.address));
    assert_complete(&other.address, &lock);
    assert_eq!(limited.count("GET", "/token?"), 3);
    // A valid token is requested once, by whoever comes first.
    let (hub, other) = (token_hub(1000, None), Registry::start());
    copied(&lock, &options(&hub.address, &other.address));
    assert_eq!(hub.count("GET", "/token?"), 1);
}

#[test]
fn an_account_is_used_as_it_is_and_a_wrong_one_never_becomes_nobody() {
    let lock = image("account/a", &[1000]);
    let target = Registry::start();
    let with = |hub: &Proxy, account: Credential| {
        let mut options = options(&hub.address, &target.address);
        options.credentials.accounts.insert("docker.io".to_owned(), account);
        options
    };
    let password = |password: &str| Credential::Password { username: "anna".to_owned(), password: password.to_owned() };
    // anna:s3cret
    let hub = token_hub(1000, Some("YW5uYTpzM2NyZXQ="));
    copied(&lock, &with(&hub, password("s3cret")));
    let mut elsewhere = lock.clone();
    elsewhere.images[0].target = "other/a".to_owned();
    let error = copy(&elsewhere, &with(&hub, password("wr0ng"))).unwrap_err();
    assert_eq!(error.kind(), Kind::Auth);
    assert!(error.to_string().contains("anna") && !format!("{error:?}").contains("wr0ng"), "{error:?}");
    let asked: Vec<_> = hub.seen().iter().filter(|seen| seen.path.starts_with("/token")).cloned().collect();
    assert!(asked.iter().all(|seen| seen.header("authorization").is_some()));
    // An identity token is sent as the form of a POST.
    let hub = token_hub(1000, Some("refresh_token=r1"));
    copied(&elsewhere, &with(&hub, Credential::IdentityToken("r1".to_owned())));
    assert_eq!(hub.count("POST", "/token"), 1);
    // 401 without a challenge.
    let mute = Proxy::before(source(), |_| Do::Answer(401, vec![], String::new()));
    let error = copy(&elsewhere, &Options { force: true, ..options(&mute.address, &target.address) }).unwrap_err();
    assert!(error.kind() == Kind::Auth && error.to_string().contains("without saying"), "{error}");
}

/// The target lets everybody read, but requires an account to push.
#[test]
fn pushing_asks_for_the_account_of_the_target() {
    let lock = image("push/a", &[200_000]);
    let target = Registry::start();
    // bob:t0ken; a Basic account does not expire, so one PUT is refused on purpose.
    let refused = AtomicUsize::new(0);
    let gate = Proxy::before(&target.address, move |seen| {
        let allowed = seen.header("authorization") == Some("Basic Ym9iOnQwa2Vu");
        let reads = seen.method == "GET" || seen.method == "HEAD";
        match reads || allowed {
            true => Do::Pass,
            false => {
                refused.fetch_add(1, Ordering::SeqCst);
                Do::Answer(401, vec![("www-authenticate", "Basic realm=\"push\"".to_owned())], String::new())
            }
        }
    });
    let mut options = options(source(), &gate.address);
    let error = copy(&lock, &options).unwrap_err();
    assert!(error.kind() == Kind::Auth && error.to_string().contains("there is none for it"), "{error}");
    assert_invisible(&target.address, &lock);
    let account = Credential::Password { username: "bob".to_owned(), password: "t0ken".to_owned() };
    options.credentials.accounts.insert(gate.address.clone(), account);
    copied(&lock, &options);
    assert_complete(&target.address, &lock);
}

#[test]
fn uploads_go_where_the_target_says_and_no_further_account_goes_with_them() {
    let lock = image("location/a", &[150_000]);
    for form in ["absolute", "other host", "307", "308", "no mounts"] {
        let target = Registry::start();
        let elsewhere = Proxy::before(&target.address, |_| Do::Pass);
        let other = elsewhere.address.clone();
        let proxy = Proxy::before(&target.address, move |seen| match form {
            "307" | "308" if seen.method == "PUT" && seen.path.contains("/uploads/") => Do::Answer(
                form.parse().unwrap(),
                vec![("location", format!("http://{other}{}", seen.path))],
                String::new(),
            ),
            "other host" if seen.method == "POST" || seen.method == "PUT" && seen.path.contains("/uploads/") => {
                Do::Answer(307, vec![("location", format!("http://{other}{}", seen.path))], String::new())
            }
            "no mounts" if seen.path.contains("mount=") => Do::Answer(404, vec![], "no such thing".into()),
            _ => Do::Pass,
        });
        let mut options = options(source(), &proxy.address);
        let account = Credential::Password { username: "bob".to_owned(), password: "t0ken".to_owned() };
        options.credentials.accounts.insert(proxy.address.clone(), account);
        copied(&lock, &options);
        assert_complete(&target.address, &lock);
        assert!(elsewhere.seen().iter().all(|seen| seen.header("authorization").is_none()), "{form}");
        assert_eq!(elsewhere.seen().is_empty(), form == "absolute" || form == "no mounts", "{form}");
    }
}

/// What the target has but will not mount is read from there, not pulled again.
#[test]
fn a_target_without_mounts_costs_no_second_pull() {
    let shared = noise(11, 400_000);
    push_index(source(), "mountless/a", "1", std::slice::from_ref(&shared));
    push_index(source(), "mountless/b", "1", &[shared.clone(), noise(12, 10)]);
    let lock = locked(&["mountless/a", "mountless/b"]);
    let target = Registry::start();
    let proxy = Proxy::before(&target.address, |seen| {
        if seen.path.contains("mount=") { Do::Answer(404, vec![], String::new()) } else { Do::Pass }
    });
    let from = Proxy::before(source(), |_| Do::Pass);
    copied(&lock, &options(&from.address, &proxy.address));
    assert_complete(&target.address, &lock);
    assert_eq!(from.count("GET", &format!("/blobs/{}", Digest::of(&shared))), 1);
}

/// Some registries always start an upload instead of mounting.
#[test]
fn a_target_that_never_mounts_keeps_what_it_has_of_a_newer_image() {
    let (old, new) = (noise(13, 2_000_000), noise(14, 2_000_000));
    push_index(source(), "unmounting/a", "1", std::slice::from_ref(&old));
    let target = Registry::start();
    let proxy = Proxy::before(&target.address, |seen| match seen.path.split_once("?mount=") {
        Some((path, _)) => Do::As(path.to_owned()),
        None => Do::Pass,
    });
    copied(&locked(&["unmounting/a"]), &options(source(), &proxy.address));
    push_index(source(), "unmounting/a", "1", &[old.clone(), new.clone()]);
    let lock = locked(&["unmounting/a"]);
    let from = Proxy::before(source(), |_| Do::Pass);
    let summary = copied(&lock, &options(&from.address, &proxy.address));
    assert_complete(&target.address, &lock);
    assert_eq!((summary.there, summary.mounted), (1, 0), "{summary:?}");
    let pulled = |blob: &[u8]| from.count("GET", &format!("/blobs/{}", Digest::of(blob)));
    assert_eq!((pulled(&old), pulled(&new)), (0, 1));
}

#[test]
fn a_target_that_is_restarted_in_the_middle_of_an_upload_is_gone_on_with() {
    let lock = image("restart/a", &[BIG, 10_000]);
    let target = std::sync::Arc::new(Registry::start());
    let restarted = target.clone();
    let once = AtomicBool::new(false);
    let proxy = Proxy::before(&target.address, move |seen| {
        let large = seen.header("content-length").is_some_and(|length| length == BIG.to_string());
        if seen.method == "PUT" && large && !once.swap(true, Ordering::SeqCst) {
            let target = restarted.clone();
            return Do::Midway(BIG / 2, Box::new(move || target.restart()));
        }
        Do::Pass
    });
    let mut options = options(source(), &proxy.address);
    options.retry = RetryPolicy { tries: 20, ..options.retry };
    let summary = copied(&lock, &options);
    assert_complete(&target.address, &lock);
    println!("restarted in the middle: {summary:?}");
}

#[test]
fn a_full_disk_is_told_as_one_and_what_fits_is_there() {
    let (small, large) = (image("full/small", &[10_000]), image("full/large", &[30_000_000]));
    let both = ImagesLock { images: vec![large.images[0].clone(), small.images[0].clone()], ..small.clone() };
    let target = Registry::start_with(&["--tmpfs", "/var/lib/registry:size=8m,mode=1777"]);
    let error = copy(&both, &options(source(), &target.address)).unwrap_err();
    println!("full disk: {error}");
    assert_eq!(error.kind(), Kind::DiskFull, "{error}");
    assert_invisible(&target.address, &large);
}

#[test]
fn what_was_lost_at_the_target_comes_again() {
    let lock = image("lost/a", &[200_000, 300_000]);
    let target = Registry::start();
    let options = options(source(), &target.address);
    copied(&lock, &options);
    // A blob is gone but its manifest is there: this only shows if every blob is checked.
    let blob = Digest::of(&noise("lost/a".bytes().map(u64::from).sum::<u64>() * 100, 200_000));
    let hex = blob.as_str().strip_prefix("sha256:").unwrap();
    let path = format!("/var/lib/registry/docker/registry/v2/blobs/sha256/{}/{hex}", &hex[..2]);
    target.docker("exec", &["rm", "-r", &path]);
    target.restart();
    assert_eq!(copied(&lock, &options).skipped, 1);
    let summary = copied(&lock, &Options { force: true, ..options.clone() });
    assert_eq!((summary.copied, summary.blobs), (1, 1), "{summary:?}");
    assert_complete(&target.address, &lock);
    // Everything is lost.
    target.docker("exec", &["sh", "-c", "rm -r /var/lib/registry/docker"]);
    target.restart();
    let finding = block(image_mirror::check(&lock, &options)).unwrap();
    assert!(matches!(finding.as_slice(), [Finding::Missing { .. }]), "{finding:?}");
    assert_eq!(copied(&lock, &options).copied, 1);
    assert_complete(&target.address, &lock);
}

#[test]
fn two_copies_at_once_do_not_disturb_each_other() {
    let lock = image("two/a", &[BIG, 500_000]);
    let target = Registry::start();
    let options = options(source(), &target.address);
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| copy(&lock, &options));
        let other = scope.spawn(|| copy(&lock, &options));
        (one.join().unwrap(), other.join().unwrap())
    });
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    assert_complete(&target.address, &lock);
}

#[test]
fn a_copy_that_is_dropped_leaves_nothing_to_be_pulled_and_the_next_goes_on() {
    let lock = image("dropped/a", &[BIG, 400_000, 500_000]);
    let target = Registry::start();
    // The large one never finishes.
    let slow = Proxy::before(source(), |seen| {
        let large = Digest::of(&noise("dropped/a".bytes().map(u64::from).sum::<u64>() * 100, BIG));
        if seen.path.ends_with(large.as_str()) { Do::Hang(Duration::from_secs(60)) } else { Do::Pass }
    });
    let mut options = options(&slow.address, &target.address);
    options.retry.stall = Duration::from_secs(60);
    // Until the smaller ones have arrived.
    let seed = "dropped/a".bytes().map(u64::from).sum::<u64>() * 100;
    let smaller = [(1, 400_000), (2, 500_000)].map(|(at, size)| Digest::of(&noise(seed + at, size)));
    let dropped = block(async {
        let heard = Heard::default();
        let copy = std::pin::pin!(image_mirror::copy(&lock, &options, &heard));
        let arrived = std::pin::pin!(async {
            for blob in &smaller {
                let path = format!("/v2/mirror/dropped/a/blobs/{blob}");
                while http("HEAD", &target.address, &path, &[], b"").status != 200 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
        matches!(futures_util::future::select(copy, arrived).await, futures_util::future::Either::Right(_))
    });
    assert!(dropped);
    assert_invisible(&target.address, &lock);
    let summary = copied(&lock, &registry::options(source(), &target.address));
    assert_complete(&target.address, &lock);
    assert!(summary.there > 0 && summary.bytes < (BIG + 100_000) as u64, "{summary:?}");
}

#[test]
fn a_registry_that_is_not_there_is_told_at_once() {
    let lock = image("nowhere/a", &[1000]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let target = Registry::start();
    let started = Instant::now();
    let error = copy(&lock, &options(&closed, &target.address)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    let error = copy(&lock, &options(source(), &closed)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    let mut named = options(source(), &target.address);
    named.sources.insert("docker.io".to_owned(), Endpoint::named("registry.nowhere.invalid"));
    let error = copy(&lock, &named).unwrap_err();
    assert_eq!(error.kind(), Kind::Dns, "{error}");
    println!("nobody there: {:?} for three", started.elapsed());
    // Accessed with the wrong scheme.
    let mut wrong = options(source(), &target.address);
    wrong.target.plain_http = false;
    let error = copy(&lock, &wrong).unwrap_err();
    assert_eq!(error.kind(), Kind::Protocol, "{error}");
}

#[test]
fn a_certificate_is_trusted_when_its_authority_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let openssl = |arguments: &[&str]| {
        let made = std::process::Command::new("openssl").args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    openssl(&[&["req", "-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"][..], &key].concat());
    let names = "subjectAltName=IP:127.0.0.1,DNS:localhost";
    let leaf = [
        "req",
        "-x509",
        "-subj",
        "/CN=registry",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
    ];
    openssl(&[&leaf[..], &key, &["-addext", names, "-addext", "basicConstraints=critical,CA:FALSE"]].concat());
    let volume = format!("{}:/tls:ro", folder.path().to_str().unwrap());
    let tls = ["-e", "REGISTRY_HTTP_TLS_CERTIFICATE=/tls/cert.pem", "-e", "REGISTRY_HTTP_TLS_KEY=/tls/key.pem"];
    let target = Registry::start_with(&[&["-v", &volume][..], &tls[..]].concat());
    let lock = image("tls/a", &[300_000]);
    let mut options = options(source(), &target.address);
    let error = copy(&lock, &options).unwrap_err();
    assert_eq!(error.kind(), Kind::Protocol, "plain HTTP to it: {error}");
    options.target.plain_http = false;
    let error = copy(&lock, &options).unwrap_err();
    assert_eq!(error.kind(), Kind::Tls, "{error}");
    options.target.ca = Some(file("ca.pem").into());
    assert_eq!(copied(&lock, &options).copied, 1);
    assert_eq!(block(image_mirror::check(&lock, &options)).unwrap(), []);
}
