//! Real registries in containers, images made for a test, and checks of what the registries hold.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use image_mirror::{Digest, Endpoint, ImageList, ImagesLock, ListedImage, Options, RetryPolicy};
use serde_json::{Value, json};

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

#[track_caller]
pub fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "docker {arguments:?}: {said}");
    said.trim().to_owned()
}

/// The lab's registry image.
fn image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        // This also starts Docker Engine if needed.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut lab = Command::new(cargo);
        lab.args(["xtask", "--env", "ci", "--lab", "--yes", "lab"]).stdin(Stdio::null());
        let output = lab.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // First remove what a killed process left; a static is never dropped.
        sweep();
        // SAFETY: the handler takes nothing, returns nothing, and does not unwind.
        unsafe { libc::atexit(sweep) };
        docker(&["inspect", "--format", "{{.Config.Image}}", "ameide-lab-upstream"])
    })
}

/// Removes every registry of these tests.
extern "C" fn sweep() {
    let left = Command::new("docker").args(["ps", "-aq", "--filter", "label=ameide.dev/test=mirror"]).output();
    for id in String::from_utf8_lossy(&left.map(|output| output.stdout).unwrap_or_default()).split_whitespace() {
        let _ = Command::new("docker").args(["rm", "-f", "-v", id]).output();
    }
}

/// A registry of one test, removed when dropped.
pub struct Registry {
    name: String,
    pub address: String,
}

impl Registry {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(arguments: &[&str]) -> Self {
        let image = image();
        // A fixed port: it must be the same after a restart.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let name = format!("xtask-test-registry-{port}");
        let publish = format!("127.0.0.1:{port}:5000");
        let all =
            [&["run", "-d", "--name", &name, "-p", &publish, "--label", "ameide.dev/test=mirror"], arguments, &[image]];
        docker(&all.concat());
        let registry = Self { name, address: format!("127.0.0.1:{port}") };
        registry.wait();
        registry
    }

    pub fn wait(&self) {
        let started = Instant::now();
        while try_http("GET", &self.address, "/v2/", &[], b"").is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "{} does not answer", self.name);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn docker(&self, verb: &str, more: &[&str]) -> String {
        docker(&[&[verb, &self.name], more].concat())
    }

    pub fn restart(&self) {
        docker(&["restart", "-t", "0", &self.name]);
        self.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", "-v", &self.name]).output();
    }
}

/// The registry that the tests' images come from.
pub fn source() -> &'static str {
    static SOURCE: OnceLock<String> = OnceLock::new();
    SOURCE.get_or_init(|| {
        std::mem::ManuallyDrop::new(Registry::start_with(&["-e", "REGISTRY_STORAGE_DELETE_ENABLED=true"]))
            .address
            .clone()
    })
}

pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found =
            self.head.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }
}

pub fn try_http(
    method: &str,
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(body)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok(Answer { status, head, body: bytes[end + 4..].to_vec() })
}

#[track_caller]
pub fn http(method: &str, address: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    try_http(method, address, path, headers, body).unwrap()
}

/// Incompressible bytes, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

#[track_caller]
pub fn push_blob(address: &str, repository: &str, bytes: &[u8]) -> Value {
    let digest = Digest::of(bytes);
    let start = http("POST", address, &format!("/v2/{repository}/blobs/uploads/"), &[], b"");
    let location = start.header("location").unwrap().to_owned();
    let path = location.strip_prefix(&format!("http://{address}")).unwrap_or(&location);
    let separator = if path.contains('?') { '&' } else { '?' };
    let done = http("PUT", address, &format!("{path}{separator}digest={digest}"), &[], bytes);
    assert_eq!(done.status, 201, "{}", String::from_utf8_lossy(&done.body));
    json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest.as_str(), "size": bytes.len()})
}

#[track_caller]
pub fn push_manifest(address: &str, repository: &str, reference: Option<&str>, manifest: &Value) -> Value {
    push_as(address, repository, reference, manifest["mediaType"].as_str().unwrap(), manifest)
}

/// Pushes a manifest that need not contain its own media type.
#[track_caller]
pub fn push_as(address: &str, repository: &str, reference: Option<&str>, media_type: &str, manifest: &Value) -> Value {
    let bytes = serde_json::to_vec(manifest).unwrap();
    let digest = Digest::of(&bytes);
    let path = format!("/v2/{repository}/manifests/{}", reference.unwrap_or(digest.as_str()));
    let done = http("PUT", address, &path, &[("Content-Type", media_type)], &bytes);
    assert_eq!(done.status, 201, "{}", String::from_utf8_lossy(&done.body));
    json!({"mediaType": media_type, "digest": digest.as_str(), "size": bytes.len()})
}

#[track_caller]
pub fn push_platform(
    address: &str,
    repository: &str,
    reference: Option<&str>,
    arch: &str,
    layers: &[Vec<u8>],
) -> Value {
    let config = serde_json::to_vec(&json!({"os": "linux", "architecture": arch, "layers": layers.len()})).unwrap();
    let mut config = push_blob(address, repository, &config);
    config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
    let layers: Vec<Value> = layers.iter().map(|layer| push_blob(address, repository, layer)).collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
    push_manifest(address, repository, reference, &manifest)
}

/// An index of two platforms and an attestation, each with these layers and one more of its own.
#[track_caller]
pub fn push_index(address: &str, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Value {
    let platform = |arch: &str| {
        let own = noise(repository.len() as u64 + u64::from(arch.as_bytes()[1]), 3000);
        let mut child = push_platform(address, repository, None, arch, &[layers, &[own]].concat());
        child["platform"] = json!({"os": "linux", "architecture": arch});
        child
    };
    let mut attestation = push_platform(address, repository, None, "unknown", &[noise(7, 500)]);
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let manifests = [platform("amd64"), platform("arm64"), attestation];
    push_manifest(
        address,
        repository,
        Some(tag),
        &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}),
    )
}

/// The wanted list for these Docker Hub repositories, under `mirror/…`.
pub fn wanted(repositories: &[&str]) -> ImageList {
    let images = repositories.iter().map(|repository| ListedImage {
        id: (*repository).to_owned(),
        image: format!("docker.io/{repository}:1"),
        target: format!("mirror/{repository}"),
        platforms: vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()],
        role: None,
        why: "a test".to_owned(),
    });
    ImageList { images: images.collect() }
}

/// Short waits, to keep the tests fast.
pub const RETRY: RetryPolicy = RetryPolicy {
    tries: 5,
    base: Duration::from_millis(20),
    cap: Duration::from_millis(300),
    patience: Duration::from_secs(5),
    stall: Duration::from_secs(3),
};

pub fn options(source: &str, target: &str) -> Options {
    let mut options = Options::to(Endpoint::named(target));
    options.sources.insert("docker.io".to_owned(), Endpoint::named(source));
    options.retry = RETRY;
    options
}

/// Asserts that everything the lock names is at the target, byte for byte, under digest and tag.
#[track_caller]
pub fn assert_complete(target: &str, lock: &ImagesLock) {
    for image in &lock.images {
        let digest = image.target_digest.as_ref().unwrap();
        assert_eq!(manifest(target, &image.target, "1").unwrap().1, *digest, "the tag of {}", image.id);
        let mut wanted = vec![digest.as_str().to_owned()];
        while let Some(reference) = wanted.pop() {
            let (found, digest) = manifest(target, &image.target, &reference).unwrap();
            assert_eq!(digest.as_str(), reference, "{}", image.id);
            let rows = |name: &str| found[name].as_array().cloned().unwrap_or_default();
            wanted.extend(rows("manifests").iter().map(|child| child["digest"].as_str().unwrap().to_owned()));
            // Layers with URLs of their own are fetched from there.
            for blob in rows("layers").iter().chain([&found["config"]]).filter(|blob| blob["urls"].is_null()) {
                let Some(blob) = blob["digest"].as_str() else { continue };
                let answer = http("GET", target, &format!("/v2/{}/blobs/{blob}", image.target), &[], b"");
                assert_eq!((answer.status, Digest::of(&answer.body).as_str()), (200, blob), "{}", image.id);
            }
        }
    }
}

pub fn manifest(address: &str, repository: &str, reference: &str) -> Option<(Value, Digest)> {
    let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
    let answer = http("GET", address, &format!("/v2/{repository}/manifests/{reference}"), &[("Accept", &accept)], b"");
    (answer.status == 200).then(|| (serde_json::from_slice(&answer.body).unwrap(), Digest::of(&answer.body)))
}

/// Asserts that nothing of it can be pulled.
#[track_caller]
pub fn assert_invisible(target: &str, lock: &ImagesLock) {
    for image in &lock.images {
        let digest = image.target_digest.as_ref().unwrap();
        assert!(manifest(target, &image.target, digest.as_str()).is_none(), "{} by digest", image.id);
        assert!(manifest(target, &image.target, "1").is_none(), "{} by tag", image.id);
    }
}
