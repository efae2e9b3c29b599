//! A named list of every parser for text written by registries, people and Docker, for the tests
//! here and for `cargo fuzz` (`fuzz/`). Each accepts any bytes.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use crate::auth::{Challenge, TokenAnswer};
use crate::credentials;
use crate::endpoint::Endpoint;
use crate::lock::{ImageList, ImagesLock};
use crate::manifest::Manifest;
use crate::no_proxy::NoProxy;
use crate::pace::{self, Outcome, Quota, RetryPolicy};
use crate::proxy::{Proxies, Proxy};
use crate::reference::Reference;
use crate::registry::address::{Address, never_led_to, next_page};
use crate::registry::refusal::told;

#[cfg(test)]
#[path = "../../tests/fuzz/driver.rs"]
mod driver;

/// A parser's name, and the function that feeds it.
pub type Parser = (&'static str, fn(&[u8]));

pub const PARSERS: &[Parser] = &[
    ("challenge", challenge),
    ("content-range", content_range),
    ("docker-config", docker_config),
    ("endpoint", endpoint),
    ("image-list", image_list),
    ("image-lock", image_lock),
    ("link", link),
    ("location", location),
    ("manifest", manifest),
    ("no-proxy", no_proxy),
    ("pace", pace_of),
    ("proxy-variable", proxy_variable),
    ("reference", reference),
    ("refusal", refusal),
    ("token", token),
];

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Those bytes that a header value can hold.
fn value(bytes: &[u8]) -> HeaderValue {
    let bytes: Vec<u8> = bytes.iter().copied().filter(|byte| *byte >= 32 && *byte != 127 || *byte == b'\t').collect();
    HeaderValue::from_bytes(&bytes).unwrap_or(HeaderValue::from_static(""))
}

fn challenge(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(20) {
        headers.append(header::WWW_AUTHENTICATE, value(line));
    }
    if let Some(Challenge::Bearer { realm, service, .. }) = Challenge::of(&headers) {
        let _ = crate::auth::token_request(&realm, service.as_deref(), &["repository:a:pull".to_owned()], None).url;
    }
}

fn content_range(bytes: &[u8]) {
    let _ = crate::fetch::content_range(&text(bytes));
}

fn token(bytes: &[u8]) {
    if let Some(token) = serde_json::from_slice::<TokenAnswer>(bytes).ok().and_then(|answer| answer.token()) {
        let lives = token.until.map(|until| until.saturating_duration_since(Instant::now()));
        let within = Duration::from_secs(50)..=Duration::from_secs(86_400);
        assert!(lives.is_none_or(|lives| within.contains(&lives)), "{lives:?}");
    }
}

/// Headers as received, one per line, and what is done about them.
fn pace_of(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(20) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        if let Ok(name) = HeaderName::from_bytes(&line[..colon]) {
            headers.append(name, value(&line[colon + 1..]));
        }
    }
    if let Some(quota) = Quota::of("docker.io", &headers) {
        let _ = (quota.to_string(), pace::until(quota.window, SystemTime::now()));
    }
    let asked = pace::retry_after(&headers, SystemTime::now());
    let plain = pace::asked_wait(&text(bytes), SystemTime::now());
    let again = pace::gives_again(&headers, SystemTime::now());
    let _ = again.map(|wait| pace::until(wait, SystemTime::now()));
    for retry_after in [asked, plain, again] {
        for tries in [0, 3, u32::MAX] {
            let outcome = Outcome::Answer { status: 429, retry_after, quota: false };
            if let pace::Next::Again(wait) = pace::next(outcome, tries, &RetryPolicy::default(), 0.5) {
                pace::Gate::default().close(wait);
            }
        }
    }
}

fn manifest(bytes: &[u8]) {
    for kind in ["application/json", "application/vnd.oci.image.index.v1+json"] {
        let Ok(manifest) = Manifest::parse(Bytes::copy_from_slice(bytes), kind) else { continue };
        let _ = manifest.blobs().fold(0, |sum: u64, blob| sum.saturating_add(blob.size));
        for child in manifest.document.manifests.iter().filter_map(|descriptor| descriptor.child()) {
            let _ = child.is_for(&child.platform());
        }
    }
}

fn image_lock(bytes: &[u8]) {
    let Ok(lock) = crate::yaml::parse::<ImagesLock>(&text(bytes)) else { return };
    let _ = lock.check().is_ok();
    for image in &lock.images {
        let _ = (image.source().is_ok(), image.source_digest());
        let _ = image.children.iter().any(|child| child.is_for(&child.platform()));
    }
}

fn image_list(bytes: &[u8]) {
    if let Ok(wanted) = crate::yaml::parse::<ImageList>(&text(bytes)) {
        let _ = (ImagesLock::unresolved(&wanted), wanted.check().is_ok());
    }
}

fn reference(bytes: &[u8]) {
    let Ok(reference) = Reference::parse(&text(bytes)) else { return };
    // Whatever is accepted must form a valid address.
    let registry = Address::new(&reference.registry, &Endpoint::named(&reference.registry)).unwrap();
    let manifest = registry.url(&reference.repository, &format!("manifests/{}", reference.digest_or_tag()));
    assert!(manifest.parse::<Uri>().is_ok(), "{manifest}");
}

fn refusal(bytes: &[u8]) {
    let said = told(&text(bytes));
    assert!(said.chars().count() <= 300 && !said.contains('\u{1b}'), "{said:?}");
}

/// Skips the helper that it may name, which is a program.
fn docker_config(bytes: &[u8]) {
    let Ok(config) = serde_json::from_slice::<credentials::Config>(bytes) else { return };
    let auths = config.auths.unwrap_or_default();
    for registry in ["docker.io", "quay.io", "registry.example:5000"] {
        let Some(entry) = credentials::best(&auths, &credentials::host_of(registry)) else { continue };
        if let Ok(Some(entry)) = serde_json::from_value::<Option<credentials::Entry>>(entry.clone()) {
            let _ = entry.account();
        }
    }
}

fn link(bytes: &[u8]) {
    let _ = next_page(&text(bytes));
}

fn endpoint(bytes: &[u8]) {
    let _ = Endpoint::named(&text(bytes)).parts().is_ok();
}

fn location(bytes: &[u8]) {
    let Ok(registry) = Address::new("registry.example", &Endpoint::named("registry.example:5000")) else { return };
    let mut headers = HeaderMap::new();
    headers.append(header::LOCATION, value(bytes));
    let from = "https://registry.example:5000/v2/a/blobs/uploads/";
    let links = next_page(&text(bytes)).map(|link| registry.lead(from, &link));
    for address in [Some(registry.resolve(from, &headers)), links].into_iter().flatten().flatten() {
        let host = address.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
        assert!(host.is_some_and(|host| !never_led_to(&host)), "{address}");
    }
}

fn no_proxy(bytes: &[u8]) {
    let text = text(bytes);
    let list = NoProxy::parse(&text);
    for host in ["registry.example", "10.1.2.3", "[fd12::1]", text.get(..20).unwrap_or(&text)] {
        let _ = list.covers(host, 443);
    }
}

fn proxy_variable(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(proxies) = Proxies::from_variables(|_| Some(text.to_string())) {
        let _ = proxies.to(&Uri::from_static("https://registry.example"));
    }
    if let Some(proxy) = Proxy::parse(&text) {
        let url = proxy.url().map(|url| url.to_string());
        assert_eq!(url.as_deref().and_then(Proxy::parse).map(|again| again.address()), Some(proxy.address()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Real input: the tree's own files, and answers of registries.
    fn samples(parser: &str) -> Vec<Vec<u8>> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let file = |path: &str| std::fs::read(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        match parser {
            "challenge" => texts(&[
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a:pull",error="insufficient_scope""#,
                "Basic realm=\"a \\\"b\\\" c\", charset=\"UTF-8\"\nBearer realm=https://a.example/t?x=1,service=s",
                "NTLM TlRMTVNTUAAB==, Basic realm=x",
            ]),
            "docker-config" => texts(&[
                r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YW5uYTpzM2NyZXQ="},"quay.io":{"username":"u","password":"p","auth":null},"x.azurecr.io":{"auth":"MDAwMDo=","identitytoken":"t"},"http://registry.example:5000/v2/":null},"credsStore":"desktop","credHelpers":{"gcr.io":"gcloud","x":null},"HttpHeaders":{"User-Agent":"Docker-Client"},"detachKeys":"ctrl-e,e"}"#,
                r#"{"auths":null}"#,
            ]),
            "content-range" => texts(&["bytes 5-9/10", "bytes */18446744073709551615"]),
            "link" => {
                texts(&[r#"</v2/a/referrers/sha256:0?n=2&last=x>; rel="next", <https://x>; rel=prev; title="a, b""#])
            }
            "endpoint" => texts(&["127.0.0.1:5001", "central.example/team/a_b", "[::1]:5000", "docker.io"]),
            "image-list" => vec![file("infra/images/images.yaml")],
            "image-lock" => vec![file("infra/images/images.lock"), LOCK.as_bytes().to_vec()],
            "location" => texts(&[
                "/v2/a/blobs/uploads/1?s=2",
                "https://cdn.example/x?sig=a%2Fb",
                "//cdn.example/x",
                "1?s=2",
                "?x=1",
            ]),
            "manifest" => texts(&[
                r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":18446744073709551615},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":5,"urls":["https://x"]}]}"#,
                r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1,"platform":{"os":"linux","architecture":"arm64","variant":"v8"}}]}"#,
            ]),
            "no-proxy" => {
                texts(&["localhost,127.0.0.1,.svc,*.cluster.local,10.0.0.0/8,fd00::/8,[fd12::1]:443,a.example:8080,*"])
            }
            "pace" => texts(&[
                "ratelimit-limit: 100;w=21600\nratelimit-remaining: 0;w=21600\nretry-after: 120",
                "RetryPolicy-After: Sun, 06 Nov 2094 08:49:37 GMT\nX-RateLimit-Reset: 1700003600",
                "18446744073709551615",
            ]),
            "proxy-variable" => texts(&["http://an%6ea:s3%40cr@proxy.example:3128", "socks5h://[::1]", "p:1"]),
            "reference" => texts(&[
                "docker.io/temporalio/server:1.29.0@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "localhost:5000/a__b/c-d:V1.2_x",
                "redis",
            ]),
            "refusal" => texts(&[
                r#"{"errors":[{"code":"DENIED","message":"no\nway","detail":{"x":1}},{"code":"A"},{"message":"b"}]}"#,
                r#"{"details":"incorrect username or password"}"#,
                "<html>\n <b>\u{1b}[31m502</b>",
            ]),
            "token" => texts(&[
                r#"{"token":"t","access_token":"t","expires_in":300,"issued_at":"2026-11-24T03:40:00Z"}"#,
                r#"{"access_token":"t","expires_in":18446744073709551615}"#,
            ]),
            _ => Vec::new(),
        }
    }

    const LOCK: &str = "version: 1\nplatforms: [linux/amd64]\nimages:\n- id: a\n  image: docker.io/x/y:1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n  target: third-party/y\n  mediaType: application/vnd.oci.image.index.v1+json\n  size: 1609\n  mode: index\n  targetDigest: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n  children:\n  - os: linux\n    arch: arm64\n    variant: v8\n    digest: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n    size: 18446744073709551615\n";

    #[test]
    fn no_text_from_outside_makes_a_parser_panic_or_take_all_memory() {
        driver::hold(PARSERS, samples);
    }
}
