//! Docker Hub, quay.io and ghcr.io, simulated on this machine: their names, tokens, quota and CDNs
//! in front of the images that the lab serves, which are published under their public names. The
//! clients are in a network namespace that leads nowhere else (see `fresh_machine`).

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::server::{Answer, Request, Server, ask};
use super::tls::{Authority, encrypted};
use super::{root, tool};

/// A public registry: its names, its token server, and where its blobs are.
struct Host {
    /// As images name it.
    name: &'static str,
    api: &'static str,
    realm: &'static str,
    service: &'static str,
    cdn: &'static str,
}

const HOSTS: [Host; 3] = [
    Host {
        name: "docker.io",
        api: "registry-1.docker.io",
        realm: "https://auth.docker.io/token",
        service: "registry.docker.io",
        cdn: "production.cloudflare.docker.com",
    },
    Host {
        name: "quay.io",
        api: "quay.io",
        realm: "https://quay.io/v2/auth",
        service: "quay.io",
        cdn: "cdn01.quay.io",
    },
    Host {
        name: "ghcr.io",
        api: "ghcr.io",
        realm: "https://ghcr.io/token",
        service: "ghcr.io",
        cdn: "pkg-containers.githubusercontent.com",
    },
];

/// Where the tools' projects publish them; files on GitHub are served by its CDN.
const RELEASES: [&str; 3] = ["get.helm.sh", "github.com", "dl.k8s.io"];
const GITHUB_CDN: &str = "release-assets.githubusercontent.com";

/// Every name that the simulated internet answers to.
pub fn names() -> Vec<&'static str> {
    let mut names = vec!["index.docker.io", "auth.docker.io", GITHUB_CDN];
    names.extend(RELEASES);
    names.extend(HOSTS.iter().flat_map(|host| [host.api, host.cdn]));
    names
}

/// How long a token is valid: shorter than clients count on, so that one ends in the middle of a
/// copy.
const TOKEN_FOR: Duration = Duration::from_secs(10);

/// How long a registry's signed blob URL is valid.
const SIGNED_FOR: Duration = Duration::from_secs(60);

/// The registries behind their names.
pub struct Internet {
    /// Serves the images under their paths, over plain HTTP.
    upstream: String,
    started: Instant,
    /// Docker Hub's quota for six hours, and how much of it is left.
    limit: i64,
    left: AtomicI64,
    /// Registry and scope of each token, and when it was issued.
    tokens: Mutex<BTreeMap<String, (String, Instant)>>,
    made: Mutex<BTreeMap<String, Arc<Made>>>,
    /// Files by host and path.
    files: BTreeMap<String, Vec<u8>>,
    number: AtomicU64,
    counts: Mutex<Counts>,
}

/// An image as its public registry has it: one index with two platforms.
struct Made {
    index: Vec<u8>,
    /// Manifests and configurations by digest.
    documents: BTreeMap<String, Vec<u8>>,
}

/// Requests by what they asked for; images by registry, repository and reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub tokens: usize,
    /// Complete files served, by host and path.
    pub files: BTreeMap<String, usize>,
    pub heads: usize,
    /// Manifests served, as `docker.io/library/busybox:1.35.0` or `…@sha256:…`.
    pub manifests: BTreeMap<String, usize>,
    /// Blobs that a CDN started to serve.
    pub blobs: BTreeMap<String, usize>,
    /// Of all responses' bodies.
    pub bytes: usize,
    /// 429 responses.
    pub limited: usize,
    /// Requests that a real registry would refuse: an account at a CDN, a token for another
    /// repository.
    pub wrong: Vec<String>,
}

impl Internet {
    /// `limit`: how many manifests Docker Hub serves.
    pub fn new(upstream: &str, limit: i64) -> Arc<Self> {
        Arc::new(Self {
            upstream: upstream.to_owned(),
            started: Instant::now(),
            limit,
            left: AtomicI64::new(limit),
            tokens: Mutex::default(),
            made: Mutex::default(),
            files: releases(),
            number: AtomicU64::new(0),
            counts: Mutex::default(),
        })
    }

    /// Serves on this listener, with TLS.
    pub fn serve(self: &Arc<Self>, listener: TcpListener, authority: &Authority) {
        let (internet, tls) = (self.clone(), authority.tls());
        Server::behind(listener, move |request| internet.answer(request), move |stream| encrypted(&tls, stream));
    }

    /// Serves on this listener as an HTTP proxy that can reach all of it.
    pub fn serve_as_proxy(self: &Arc<Self>, listener: TcpListener, authority: &Authority) {
        let (internet, tls) = (self.clone(), authority.tls());
        let wrap = move |stream: TcpStream| {
            tunnelled(&stream);
            encrypted(&tls, stream)
        };
        Server::behind(listener, move |request| internet.answer(request), wrap);
    }

    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap().clone()
    }

    pub fn forget_counts(&self) {
        *self.counts.lock().unwrap() = Counts::default();
    }

    /// Sets how many manifests Docker Hub still serves.
    pub fn leave(&self, left: i64) {
        self.left.store(left, Ordering::SeqCst);
    }

    fn counted(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.counts.lock().unwrap());
    }

    fn wrong(&self, status: u16, request: &Request, why: &str) -> Answer {
        let host = request.header("host").unwrap_or_default();
        self.counted(|counts| counts.wrong.push(format!("{} {host}{}: {why}", request.method, request.target)));
        Answer::new(status, why)
    }

    fn answer(&self, request: &Request) -> Answer {
        let answer = self.routed(request);
        if let (Answer::Full { body, .. }, false) = (&answer, request.method == "HEAD") {
            self.counted(|counts| counts.bytes += body.len());
        }
        answer
    }

    fn routed(&self, request: &Request) -> Answer {
        let host = request.header("host").unwrap_or_default().trim_end_matches(":443");
        if let Some(registry) = HOSTS.iter().find(|known| known.cdn == host) {
            return self.cdn(registry, request);
        }
        if host == GITHUB_CDN || RELEASES.contains(&host) {
            return self.file(host, request);
        }
        let here = format!("https://{host}{}", request.path());
        if let Some(registry) = HOSTS.iter().find(|known| known.realm == here) {
            return self.token(registry, request);
        }
        match HOSTS.iter().find(|known| known.api == host || (known.name == "docker.io" && host == "index.docker.io")) {
            Some(registry) => self.registry(registry, request),
            None => self.wrong(404, request, "nobody has this name"),
        }
    }

    fn file(&self, host: &str, request: &Request) -> Answer {
        let name = format!("{}{}", if host == GITHUB_CDN { "github.com" } else { host }, request.path());
        match self.files.get(&name) {
            None => Answer::new(404, "Not Found"),
            Some(_) if host == "github.com" => {
                Answer::new(302, "").with("Location", format!("https://{GITHUB_CDN}{}", request.path()))
            }
            Some(bytes) => {
                self.counted(|counts| *counts.files.entry(name).or_default() += 1);
                Answer::new(200, bytes.clone())
            }
        }
    }

    fn token(&self, registry: &Host, request: &Request) -> Answer {
        self.counted(|counts| counts.tokens += 1);
        let query: BTreeMap<String, String> = form_urlencoded::parse(request.query().as_bytes()).into_owned().collect();
        if query.get("service").map(String::as_str) != Some(registry.service) {
            return self.wrong(400, request, "the service is another one");
        }
        let token = format!("token-{}", self.number.fetch_add(1, Ordering::SeqCst));
        let scope = query.get("scope").cloned().unwrap_or_default();
        self.tokens.lock().unwrap().insert(token.clone(), (format!("{} {scope}", registry.name), Instant::now()));
        let life = TOKEN_FOR.as_secs();
        Answer::json(200, &json!({"token": token, "access_token": token, "expires_in": life}))
    }

    fn registry(&self, registry: &Host, request: &Request) -> Answer {
        let parts = request.path().trim_start_matches("/v2/").rsplitn(3, '/').collect::<Vec<_>>();
        let [last, kind, repository] = parts[..] else {
            return self.challenge(registry, None);
        };
        let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let known = token.and_then(|token| self.tokens.lock().unwrap().get(token).cloned());
        let granted = known.filter(|(_, issued)| issued.elapsed() < TOKEN_FOR).map(|(scope, _)| scope);
        let needed = format!("{} repository:{repository}:pull", registry.name);
        match granted {
            None => return self.challenge(registry, Some(repository)),
            Some(scope) if scope != needed => return self.wrong(401, request, &format!("the token is for {scope}")),
            Some(_) => {}
        }
        match kind {
            "manifests" => self.manifest(registry, repository, last, request),
            "blobs" => {
                let (bytes, until) = (request.path(), self.started.elapsed() + SIGNED_FOR);
                let signed = format!("https://{}{bytes}?until={}", registry.cdn, until.as_millis());
                Answer::new(307, "").with("Location", signed)
            }
            _ => Answer::new(404, ""),
        }
    }

    fn challenge(&self, registry: &Host, repository: Option<&str>) -> Answer {
        let scope = repository.map(|name| format!(",scope=\"repository:{name}:pull\"")).unwrap_or_default();
        let challenge = format!("Bearer realm=\"{}\",service=\"{}\"{scope}", registry.realm, registry.service);
        Answer::json(401, &json!({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}))
            .with("WWW-Authenticate", challenge)
            .with("Docker-Distribution-Api-Version", "registry/2.0")
    }

    fn manifest(&self, registry: &Host, repository: &str, reference: &str, request: &Request) -> Answer {
        let hub = registry.name == "docker.io";
        if request.method == "HEAD" {
            self.counted(|counts| counts.heads += 1);
        } else if hub && self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.left.fetch_add(1, Ordering::SeqCst);
            self.counted(|counts| counts.limited += 1);
            let message =
                "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit";
            return self
                .quota(Answer::json(429, &json!({"errors": [{"code": "TOOMANYREQUESTS", "message": message}]})));
        }
        let Some((bytes, digest)) = self.document(repository, reference) else {
            return Answer::json(
                404,
                &json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}),
            );
        };
        if request.method == "GET" {
            let separator = if reference.starts_with("sha256:") { '@' } else { ':' };
            let image = format!("{}/{repository}{separator}{reference}", registry.name);
            self.counted(|counts| *counts.manifests.entry(image).or_default() += 1);
        }
        let kind: Value = serde_json::from_slice(&bytes).unwrap();
        let answer = Answer::new(200, bytes)
            .with("Content-Type", kind["mediaType"].as_str().unwrap())
            .with("Docker-Content-Digest", digest);
        if hub { self.quota(answer) } else { answer }
    }

    fn quota(&self, answer: Answer) -> Answer {
        let left = self.left.load(Ordering::SeqCst).max(0);
        answer
            .with("ratelimit-limit", format!("{};w=21600", self.limit))
            .with("ratelimit-remaining", format!("{left};w=21600"))
            .with("docker-ratelimit-source", "127.0.0.1")
    }

    fn cdn(&self, registry: &Host, request: &Request) -> Answer {
        if request.header("authorization").is_some() {
            return self.wrong(400, request, "Only one auth mechanism allowed");
        }
        let until = request.query().strip_prefix("until=").and_then(|until| until.parse::<u128>().ok());
        if until.is_none_or(|until| until < self.started.elapsed().as_millis()) {
            return Answer::new(403, "Request has expired");
        }
        let path = request.path().trim_start_matches("/v2/");
        let Some((repository, digest)) = path.split_once("/blobs/") else {
            return self.wrong(404, request, "no blob's address");
        };
        self.counted(|counts| {
            *counts.blobs.entry(format!("{}/{repository}@{digest}", registry.name)).or_default() += 1
        });
        let made = self.made.lock().unwrap().values().find_map(|made| made.documents.get(digest).cloned());
        if let Some(config) = made {
            return Answer::new(200, config);
        }
        let headers: Vec<(&str, &str)> = request.header("range").map(|range| ("Range", range)).into_iter().collect();
        let (status, headers, body) = ask("GET", &self.upstream, request.path(), &headers, b"").unwrap();
        let answer = Answer::new(status, body);
        match headers.into_iter().find(|(name, _)| name == "content-range") {
            Some((_, range)) => answer.with("Content-Range", range),
            None => answer,
        }
    }

    /// An index by its tag or digest, or a manifest by its digest.
    fn document(&self, repository: &str, reference: &str) -> Option<(Vec<u8>, String)> {
        if reference.starts_with("sha256:") {
            let made = self.made.lock().unwrap();
            let of_repository = made.iter().filter(|(name, _)| name.starts_with(&format!("{repository}:")));
            let found = of_repository.into_iter().find_map(|(_, made)| match digest(&made.index) == reference {
                true => Some(made.index.clone()),
                false => made.documents.get(reference).cloned(),
            });
            return Some((found?, reference.to_owned()));
        }
        let mut made = self.made.lock().unwrap();
        let name = format!("{repository}:{reference}");
        if !made.contains_key(&name) {
            made.insert(name.clone(), Arc::new(self.make(repository, reference)?));
        }
        let index = made[&name].index.clone();
        let digest = digest(&index);
        Some((index, digest))
    }

    /// An index with what the upstream has for one platform, and with the same layers for another
    /// one, since the lists of images want both.
    fn make(&self, repository: &str, tag: &str) -> Option<Made> {
        let accept = [("Accept", MANIFEST)];
        let get =
            |target: &str| ask("GET", &self.upstream, target, &accept, b"").ok().filter(|(status, ..)| *status == 200);
        let (_, _, manifest) = get(&format!("/v2/{repository}/manifests/{tag}"))?;
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let blob = manifest["config"]["digest"].as_str().unwrap();
        let (_, _, config) = get(&format!("/v2/{repository}/blobs/{blob}"))?;
        let config: Value = serde_json::from_slice(&config).unwrap();
        let (mut documents, mut children) = (BTreeMap::new(), Vec::new());
        for architecture in ["amd64", "arm64"] {
            let (mut manifest, mut config) = (manifest.clone(), config.clone());
            config["architecture"] = json!(architecture);
            let config = config.to_string().into_bytes();
            manifest["config"]["digest"] = json!(digest(&config));
            manifest["config"]["size"] = json!(config.len());
            documents.insert(digest(&config), config);
            let manifest = manifest.to_string().into_bytes();
            children.push(json!({
                "mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len(),
                "platform": {"os": "linux", "architecture": architecture},
            }));
            documents.insert(digest(&manifest), manifest);
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children});
        Some(Made { index: index.to_string().into_bytes(), documents })
    }
}

/// The pinned tools as their projects publish them: this machine's own, in archives of the
/// published format, the same for each platform.
fn releases() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let version = |tool: &str| {
        let go_mod = root().join("infra/tools").join(tool).join("go.mod");
        let text = std::fs::read_to_string(go_mod).unwrap();
        let package = text.lines().find_map(|line| line.strip_prefix("tool ")).unwrap().trim().to_owned();
        let required = text.lines().map(|line| line.trim().trim_start_matches("require "));
        let mut required = required.filter_map(|line| line.split_once(" v"));
        let (_, version) = required.find(|(module, _)| package.starts_with(*module)).unwrap();
        version.split_whitespace().next().unwrap().to_owned()
    };
    let binary = |name: &str| std::fs::read(tool(name).get_program()).unwrap();
    let (helm, helmfile, k3d, kubectl) = (version("helm"), version("helmfile"), version("k3d"), version("kubectl"));
    let hex = |bytes: &[u8]| digest(bytes).trim_start_matches("sha256:").to_owned();
    let kubectl_binary = binary("kubectl");
    let helmfile_archive = packed("helmfile", &binary("helmfile"));
    let k3d_binary = binary("k3d");
    let (mut helmfile_sums, mut k3d_sums) = (String::new(), String::new());
    let helmfile_at = format!("github.com/helmfile/helmfile/releases/download/v{helmfile}");
    let k3d_at = format!("github.com/k3d-io/k3d/releases/download/v{k3d}");
    let helm_binary = binary("helm");
    for (os, arch) in [("linux", "amd64"), ("linux", "arm64"), ("darwin", "amd64"), ("darwin", "arm64")] {
        let here = (os, arch) == ("linux", "amd64");
        // For other platforms only the checksums are requested.
        let archive = if here { packed(&format!("{os}-{arch}/helm"), &helm_binary) } else { Vec::new() };
        let name = format!("helm-v{helm}-{os}-{arch}.tar.gz");
        files.insert(format!("get.helm.sh/{name}.sha256sum"), format!("{}  {name}\n", hex(&archive)).into_bytes());
        files.insert(format!("get.helm.sh/{name}"), archive);
        let name = format!("helmfile_{helmfile}_{os}_{arch}.tar.gz");
        helmfile_sums.push_str(&format!("{}  {name}\n", hex(&helmfile_archive)));
        files.insert(format!("{helmfile_at}/{name}"), if here { helmfile_archive.clone() } else { Vec::new() });
        k3d_sums.push_str(&format!("{}  _dist/k3d-{os}-{arch}\n", hex(&k3d_binary)));
        files.insert(format!("{k3d_at}/k3d-{os}-{arch}"), if here { k3d_binary.clone() } else { Vec::new() });
        let kubectl_at = format!("dl.k8s.io/release/v{kubectl}/bin/{os}/{arch}/kubectl");
        files.insert(format!("{kubectl_at}.sha256"), hex(&kubectl_binary).into_bytes());
        files.insert(kubectl_at, if here { kubectl_binary.clone() } else { Vec::new() });
    }
    files.insert(format!("{helmfile_at}/helmfile_{helmfile}_checksums.txt"), helmfile_sums.into_bytes());
    files.insert(format!("{k3d_at}/checksums.txt"), k3d_sums.into_bytes());
    files
}

/// A `.tar.gz` with one program.
fn packed(member: &str, program: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none()));
    let mut header = tar::Header::new_ustar();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    archive.append_data(&mut header, member, program).unwrap();
    archive.into_inner().unwrap().finish().unwrap()
}

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

fn digest(bytes: &[u8]) -> String {
    image_mirror::Digest::of(bytes).to_string()
}

/// Answers `CONNECT` like a proxy that has reached the target.
fn tunnelled(mut stream: &TcpStream) {
    use std::io::{Read, Write};
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.extend(byte);
    }
    let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
}
