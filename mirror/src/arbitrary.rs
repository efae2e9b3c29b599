//! What others write, broken in every way: no parser of it may panic, and what it gives
//! stays within bounds. `ARBITRARY_RUNS=1000000 cargo test -p image-mirror arbitrary` for longer.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::auth::{Challenge, TokenAnswer};
use crate::credentials::Credentials;
use crate::lock::{Lock, LockedImage, Wanted};
use crate::manifest::Manifest;
use crate::pace::{self, Quota};
use crate::{Endpoint, NoProxy, Proxies, registry};

fn runs() -> u32 {
    std::env::var("ARBITRARY_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(500)
}

/// Numbers at the edges of what machines hold, and words with which parsers begin and end.
const PIECES: [&str; 24] = [
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "9223372036854775807",
    "1e308",
    "1e999",
    "-1",
    "0",
    "3600.0",
    "null",
    "[]",
    "{}",
    "\"",
    "\\",
    "=",
    ",",
    "@",
    "://",
    ":",
    "\u{0}",
    "\u{1b}[31m",
    "é",
    "Bearer realm=",
    "sha256:",
];

fn mutated(random: &mut fastrand::Rng, seed: &str) -> Vec<u8> {
    let mut bytes = seed.as_bytes().to_vec();
    if random.u8(..) < 16 {
        let length = random.usize(..200);
        bytes = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
    }
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..=bytes.len());
        let until = (at + random.usize(..12)).min(bytes.len());
        match random.u8(..6) {
            0 if at < bytes.len() => bytes[at] = random.u8(..),
            1 => drop(bytes.drain(at..until)),
            2 => {
                let again = bytes[at..until].to_vec();
                bytes.splice(at..at, again.repeat(random.usize(1..8)));
            }
            3 => bytes.truncate(at),
            // A number becomes another one.
            4 => {
                if let Some(digit) = bytes.iter().position(u8::is_ascii_digit) {
                    let end = bytes[digit..]
                        .iter()
                        .position(|byte| !byte.is_ascii_digit())
                        .map_or(bytes.len(), |n| digit + n);
                    bytes.splice(digit..end, PIECES[random.usize(..9)].bytes());
                }
            }
            _ => drop(bytes.splice(at..at, PIECES[random.usize(..PIECES.len())].bytes())),
        }
    }
    bytes
}

/// Each seed as it is and broken, `runs()` times.
fn each(seeds: &[&str], mut parse: impl FnMut(&[u8])) {
    let mut random = fastrand::Rng::with_seed(0x5eed);
    for seed in seeds {
        parse(seed.as_bytes());
        for _ in 0..runs() {
            parse(&mutated(&mut random, seed));
        }
    }
}

fn headers(names: &[&'static str], bytes: &[u8]) -> Option<HeaderMap> {
    let value = HeaderValue::from_bytes(bytes).ok()?;
    Some(names.iter().map(|name| (HeaderName::from_static(name), value.clone())).collect())
}

#[test]
fn challenges_and_tokens() {
    let challenge = r#"Basic realm="x\"y", Bearer realm="https://a.example/token",service="s",scope="repository:a:pull",error="insufficient_scope""#;
    each(&[challenge, "Basic realm=/", "Negotiate abc=="], |bytes| {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(bytes) {
            headers.insert(header::WWW_AUTHENTICATE, value);
            let _ = Challenge::of(&headers);
        }
    });
    each(&[r#"{"token":"t","access_token":"u","expires_in":300,"issued_at":"2025-11-25T12:00:00Z"}"#], |bytes| {
        let answer: Result<TokenAnswer, _> = serde_json::from_slice(bytes);
        if let Some(until) = answer.ok().and_then(|answer| answer.token()?.until) {
            let life = until.saturating_duration_since(std::time::Instant::now());
            assert!(life > Duration::from_secs(50) && life <= Duration::from_secs(86_400), "{life:?}");
        }
    });
}

#[test]
fn limits() {
    let seeds = ["100;w=21600", "0", "120", "1.5", "Sun, 06 Nov 1994 08:49:37 GMT", "1700003600"];
    let names = ["retry-after", "x-retry-after", "ratelimit-reset", "ratelimit-limit", "ratelimit-remaining"];
    each(&seeds, |bytes| {
        let Some(headers) = headers(&names, bytes) else { return };
        let now = SystemTime::now();
        let waits = [pace::retry_after(&headers, now), pace::gives_again(&headers, now)];
        for wait in waits.into_iter().flatten() {
            assert!(!pace::until(wait, now).is_empty());
        }
        if let Some(quota) = Quota::of("x", &headers) {
            assert!(!pace::until(quota.window, now).is_empty() && !quota.to_string().is_empty());
        }
    });
}

#[test]
fn manifests() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"digest":"{digest}","size":7,"platform":{{"os":"linux","architecture":"arm","variant":"v7"}}}}],"subject":{{"digest":"{digest}"}}}}"#
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{digest}","size":1}},"layers":[{{"digest":"{digest}","size":2,"urls":["https://x"]}}]}}"#
    );
    each(&[&index, &manifest, "[[[[[[[[[["], |bytes| {
        if let Ok(manifest) = Manifest::parse(bytes.to_vec().into(), "application/json") {
            let children = manifest.document.manifests.iter().filter_map(|child| child.child());
            assert!(children.filter(|child| child.is_for("linux/arm/v7")).count() <= manifest.document.manifests.len());
            let _ = manifest.blobs().fold(0, |sum: u64, blob| sum.saturating_add(blob.size));
        }
    });
}

#[test]
fn references_and_addresses() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let full = format!("docker.io/library/redis:7@{digest}");
    let empty: LockedImage = serde_saphyr::from_str("{id: x, image: x, target: y}").unwrap();
    each(&[&full, "[::1]:5000/a/b:1", "localhost/a:1"], |bytes| {
        let image = String::from_utf8_lossy(bytes).into_owned();
        if let Ok(source) = (LockedImage { image, ..empty.clone() }).source() {
            // Whatever is taken makes an address.
            let endpoint = Endpoint::named(&source.host);
            assert!(endpoint.parts().is_ok());
            assert!(
                format!("https://{}/v2/{}/manifests/{}", source.host, source.repository, source.tag)
                    .parse::<http::Uri>()
                    .is_ok()
            );
        }
    });
    each(&["central.example:5000/team", "[::1]:5000", "user:password@x"], |bytes| {
        let _ = Endpoint::named(&String::from_utf8_lossy(bytes)).parts();
    });
    let links = [r#"</v2/a/referrers/x?n=2>; rel="next", <b>; rel=prev"#, "http://169.254.169.254/x", "../x?y#z"];
    each(&links, |bytes| registry::read_arbitrary(&String::from_utf8_lossy(bytes)));
}

#[test]
fn proxies() {
    each(&["http://anna:s3%40cret@proxy.example:3128/", "socks5h://[::1]:1080"], |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let proxies = Proxies::from_variables(|name| (name == "HTTPS_PROXY").then(|| text.clone()));
        if let Ok(proxies) = proxies {
            let _ = proxies.leads_to(&"https://x.example".parse().unwrap());
        }
    });
    each(&["10.0.0.0/8,.x.example:5000,*.y,[fd00::1]:443,*"], |bytes| {
        let _ = NoProxy::parse(&String::from_utf8_lossy(bytes)).covers("x.example", 443);
    });
}

#[test]
fn files() {
    let folder = tempfile::tempdir().unwrap();
    let path = camino::Utf8PathBuf::from_path_buf(folder.path().join("file")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let config = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YTpi","identitytoken":"t"},"quay.io":null},"credHelpers":{"quay.io":""}}"#;
    each(&[config], |bytes| {
        std::fs::write(&path, bytes).unwrap();
        let credentials = Credentials { docker_config: Some(path.clone()), ..Credentials::default() };
        let found = runtime.block_on(credentials.find("docker.io"));
        drop(found);
    });
    let digest = format!("sha256:{}", "0".repeat(64));
    let lock = format!(
        "version: 1\nplatforms: [linux/amd64]\nimages:\n- {{id: a, image: 'docker.io/a/b:1@{digest}', target: c/d, size: 7, mode: index, targetDigest: '{digest}', children: [{{os: linux, arch: amd64, digest: '{digest}', size: 1}}]}}\n"
    );
    let wanted = "images:\n- {id: a, image: docker.io/a/b:1, target: c/d, platforms: [linux/amd64], why: z}\n";
    each(&[&lock, wanted, "a: &a [*a,*a]\n"], |bytes| {
        std::fs::write(&path, bytes).unwrap();
        drop((Lock::read(&path), Wanted::read(&path)));
    });
}
