//! An in-memory registry that speaks the protocol, over HTTP or TLS; a rule may answer in its
//! place, as public registries do.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use image_mirror::Digest;
use serde_json::{Value, json};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Without its query.
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// How many earlier requests had this method and path.
    pub before: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }

    pub fn host(&self) -> &str {
        self.header("host").unwrap_or_default()
    }
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// After this many bytes of the body it is silent for this long, and hangs up.
    pub part: Option<(usize, Duration)>,
}

pub fn answer(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer { status, headers: Vec::new(), body: body.into(), part: None }
}

impl Answer {
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn cut_after(self, bytes: usize, silence: Duration) -> Self {
        Self { part: Some((bytes, silence)), ..self }
    }
}

/// A 401 with a token realm.
pub fn challenge(realm: &str) -> Answer {
    answer(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
        .with("www-authenticate", format!(r#"Bearer realm="{realm}",service="s""#))
}

type Rule = Box<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

#[derive(Default)]
struct Store {
    /// By repository and reference (tag or digest): media type and bytes.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    blobs: BTreeMap<(String, String), Vec<u8>>,
}

struct Inner {
    rule: Rule,
    store: Mutex<Store>,
    seen: Mutex<Vec<Request>>,
    /// The requests it served as a proxy: CONNECT, or in absolute form.
    led: Mutex<Vec<String>>,
    /// Whether it has the referrers API, with this many entries per page.
    pages_of: Option<usize>,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// Lives until the test process ends.
#[derive(Clone)]
pub struct Server {
    pub address: String,
    inner: Arc<Inner>,
}

impl Server {
    pub fn plain() -> Self {
        Self::with(|_| None)
    }

    pub fn with(rule: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Self {
        Self::of(Box::new(rule), None, None)
    }

    /// With the referrers API.
    pub fn listing(pages_of: usize, rule: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Self {
        Self::of(Box::new(rule), Some(pages_of), None)
    }

    pub fn tls(
        config: rustls::ServerConfig,
        rule: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        Self::of(Box::new(rule), None, Some(Arc::new(config)))
    }

    fn of(rule: Rule, pages_of: Option<usize>, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let inner = Arc::new(Inner {
            rule,
            store: Mutex::default(),
            seen: Mutex::default(),
            led: Mutex::default(),
            pages_of,
            tls,
        });
        let server = Self { address, inner };
        let serving = server.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = serving.clone();
                // Clients hang up in the middle.
                std::thread::spawn(move || drop(server.serve(client)));
            }
        });
        server
    }

    pub fn led(&self) -> Vec<String> {
        self.inner.led.lock().unwrap().clone()
    }

    /// A SOCKS 5 proxy that leads to it, whatever the name (RFC 1928, without an account).
    pub fn behind_socks(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = self.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || drop(server.greet(client)));
            }
        });
        address
    }

    fn greet(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut greeting = [0; 2];
        client.read_exact(&mut greeting)?;
        client.read_exact(&mut vec![0; greeting[1].into()])?;
        client.write_all(&[5, 0])?;
        // Version, command, reserved, kind of address (3: a name), its length.
        let mut head = [0; 5];
        client.read_exact(&mut head)?;
        assert_eq!((head[1], head[3]), (1, 3));
        let mut name = vec![0; head[4].into()];
        client.read_exact(&mut name)?;
        client.read_exact(&mut [0; 2])?;
        self.inner.led.lock().unwrap().push(String::from_utf8(name).unwrap());
        client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
        self.speak(client)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.inner.store.lock().unwrap()
    }

    pub fn seen(&self) -> Vec<Request> {
        self.inner.seen.lock().unwrap().clone()
    }

    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.is(method, part)).count()
    }

    fn serve(&self, client: TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        match &self.inner.tls {
            None => self.speak(client),
            Some(config) => {
                let connection = rustls::ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
                self.speak(rustls::StreamOwned::new(connection, client))
            }
        }
    }

    fn speak(&self, client: impl Read + Write) -> std::io::Result<()> {
        let mut stream = BufReader::new(client);
        loop {
            let mut first = String::new();
            if stream.read_line(&mut first)? == 0 {
                return Ok(());
            }
            let mut headers = Vec::new();
            loop {
                let mut line = String::new();
                stream.read_line(&mut line)?;
                let Some((name, value)) = line.split_once(':') else { break };
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let mut body = vec![0; length.map_or(0, |(_, value)| value.parse().unwrap())];
            stream.read_exact(&mut body)?;
            // As a proxy it connects to itself, whatever the name.
            if first.starts_with("CONNECT ") {
                self.inner.led.lock().unwrap().push(first.trim_end().to_owned());
                let stream = stream.get_mut();
                stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
                stream.flush()?;
                continue;
            }
            let mut words = first.split_whitespace();
            let method = words.next().unwrap_or_default().to_owned();
            let mut target = words.next().unwrap_or_default();
            if let Some(rest) = target.strip_prefix("http://") {
                self.inner.led.lock().unwrap().push(first.trim_end().to_owned());
                target = rest.find('/').map_or("/", |at| &rest[at..]);
            }
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let (path, query) = (path.to_owned(), query.to_owned());
            let request = {
                let mut seen = self.inner.seen.lock().unwrap();
                let before = seen.iter().filter(|it| it.method == method && it.path == path).count();
                seen.push(Request { method, path, query, headers, body, before });
                seen[seen.len() - 1].clone()
            };
            let answer = (self.inner.rule)(&request).unwrap_or_else(|| self.answer(&request));
            let mut head = format!("HTTP/1.1 {} Told\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
            for (name, value) in &answer.headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            let stream = stream.get_mut();
            stream.write_all(format!("{head}\r\n").as_bytes())?;
            let part = answer.part.filter(|(bytes, _)| *bytes < answer.body.len());
            if request.method != "HEAD" {
                stream.write_all(&answer.body[..part.map_or(answer.body.len(), |(bytes, _)| bytes)])?;
            }
            stream.flush()?;
            if let Some((_, silence)) = part {
                std::thread::sleep(silence);
                return Ok(());
            }
        }
    }

    pub fn answer(&self, request: &Request) -> Answer {
        let rest = request.path.strip_prefix("/v2/").unwrap_or_default();
        let mut store = self.store();
        if let Some((repository, reference)) = rest.split_once("/manifests/") {
            let key = (repository.to_owned(), reference.to_owned());
            if request.method == "PUT" {
                let digest = Digest::of(&request.body).to_string();
                let kind = request.header("content-type").unwrap_or_default().to_owned();
                let document: Value = serde_json::from_slice(&request.body).unwrap();
                let blobs =
                    [&document["config"]].into_iter().chain(document["layers"].as_array().into_iter().flatten());
                for blob in blobs.filter_map(|blob| blob["digest"].as_str()) {
                    if !store.blobs.contains_key(&(repository.to_owned(), blob.to_owned())) {
                        return answer(
                            400,
                            format!(r#"{{"errors":[{{"code":"MANIFEST_BLOB_UNKNOWN","message":"{blob}"}}]}}"#),
                        );
                    }
                }
                store.manifests.insert((key.0.clone(), digest.clone()), (kind.clone(), request.body.clone()));
                store.manifests.insert(key, (kind, request.body.clone()));
                let done = answer(201, "").with("docker-content-digest", digest);
                let subject = document["subject"]["digest"].as_str();
                return match subject.filter(|_| self.inner.pages_of.is_some()) {
                    Some(subject) => done.with("oci-subject", subject),
                    None => done,
                };
            }
            return match store.manifests.get(&key) {
                Some((kind, bytes)) => answer(200, bytes.clone())
                    .with("content-type", kind)
                    .with("docker-content-digest", Digest::of(bytes).as_str()),
                None => answer(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
            };
        }
        if let Some((repository, subject)) = rest.split_once("/referrers/") {
            let Some(pages_of) = self.inner.pages_of else { return answer(404, "404 page not found") };
            let own = store.manifests.iter().filter(|((of, at), (_, bytes))| {
                let document: Value = serde_json::from_slice(bytes).unwrap();
                of == repository && at.starts_with("sha256:") && document["subject"]["digest"] == subject
            });
            let all: Vec<Value> = own.map(|((_, digest), (kind, bytes))| described(kind, digest, bytes)).collect();
            let from: usize = request.query.strip_prefix("from=").map_or(0, |from| from.parse().unwrap());
            let until = (from + pages_of).min(all.len());
            let list = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": all[from..until]});
            let page = answer(200, list.to_string()).with("content-type", INDEX);
            return match until < all.len() {
                true => page.with("link", format!("<{}?from={until}>; rel=\"next\"", request.path)),
                false => page,
            };
        }
        if let Some((repository, rest)) = rest.split_once("/blobs/uploads/") {
            let parameter = |name: &str| {
                let pairs = request.query.split('&').filter_map(|pair| pair.split_once('='));
                pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next()
            };
            if request.method == "POST" {
                if let (Some(digest), Some(from)) = (parameter("mount"), parameter("from"))
                    && let Some(bytes) = store.blobs.get(&(from, digest.clone())).cloned()
                {
                    store.blobs.insert((repository.to_owned(), digest), bytes);
                    return answer(201, "");
                }
                return answer(202, "").with("location", format!("/v2/{repository}/blobs/uploads/1"));
            }
            let digest = parameter("digest").unwrap_or_else(|| rest.to_owned());
            if Digest::of(&request.body).as_str() != digest {
                return answer(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
            }
            store.blobs.insert((repository.to_owned(), digest), request.body.clone());
            return answer(201, "");
        }
        if let Some((repository, digest)) = rest.split_once("/blobs/") {
            return match store.blobs.get(&(repository.to_owned(), digest.to_owned())) {
                Some(bytes) => answer(200, bytes.clone()),
                None => answer(404, r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#),
            };
        }
        answer(200, "{}")
    }

    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Value> {
        let store = self.store();
        let (_, bytes) = store.manifests.get(&(repository.to_owned(), reference.to_owned()))?;
        serde_json::from_slice(bytes).ok()
    }

    /// The tags of a repository.
    pub fn tags(&self, repository: &str) -> Vec<String> {
        let store = self.store();
        let own = store.manifests.keys().filter(|(of, at)| of == repository && !at.starts_with("sha256:"));
        own.map(|(_, at)| at.clone()).collect()
    }

    pub fn blob(&self, repository: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes).to_string();
        self.store().blobs.insert((repository.to_owned(), digest.clone()), bytes.to_vec());
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": bytes.len()})
    }

    /// Stores it under its digest, and a tag if given; returns its descriptor.
    pub fn put(&self, repository: &str, tag: Option<&str>, document: &Value) -> Value {
        let kind = document["mediaType"].as_str().unwrap_or(MANIFEST).to_owned();
        let bytes = document.to_string().into_bytes();
        let digest = Digest::of(&bytes).to_string();
        let descriptor = described(&kind, &digest, &bytes);
        let mut store = self.store();
        if let Some(tag) = tag {
            store.manifests.insert((repository.to_owned(), tag.to_owned()), (kind.clone(), bytes.clone()));
        }
        store.manifests.insert((repository.to_owned(), digest), (kind, bytes));
        descriptor
    }

    pub fn forget(&self, repository: &str, reference: &str) {
        self.store().manifests.remove(&(repository.to_owned(), reference.to_owned())).unwrap();
    }

    /// Stores an index of two platforms; returns its digest.
    pub fn image(&self, repository: &str, tag: &str, layer: &[u8]) -> Digest {
        let platforms = ["amd64", "arm64"].map(|arch| {
            let config = self.blob(repository, json!({"os": "linux", "architecture": arch}).to_string().as_bytes());
            let layers = [self.blob(repository, layer), self.blob(repository, arch.as_bytes())];
            let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
            let mut child = self.put(repository, None, &manifest);
            child["platform"] = json!({"os": "linux", "architecture": arch});
            child
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": platforms});
        Digest::of(&{
            self.put(repository, Some(tag), &index);
            index.to_string().into_bytes()
        })
    }

    /// Stores an artifact that refers to a digest; returns its descriptor.
    pub fn referrer(&self, repository: &str, subject: &Digest, content: &str) -> Value {
        let (config, layer) = (self.blob(repository, b"{}"), self.blob(repository, content.as_bytes()));
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x.signature",
            "config": config, "layers": [layer],
            "subject": {"mediaType": INDEX, "digest": subject.as_str(), "size": 1}});
        self.put(repository, None, &manifest)
    }

    /// Stores a list under a tag.
    pub fn list(&self, repository: &str, tag: &str, manifests: &[Value]) {
        self.put(repository, Some(tag), &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}));
    }
}

fn described(kind: &str, digest: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
}
