//! A proxy in front of a real registry that passes everything on, does to some requests what
//! networks and public registries do, and records every request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A request as received.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// How many earlier requests had this method and path.
    pub before: usize,
    pub at: Instant,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }
}

pub enum Do {
    Pass,
    /// Its own answer.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The registry's answer, cut after this many bytes of its body.
    CutAfter(usize),
    /// The registry's answer with this byte of its body changed.
    Spoil(usize),
    /// Passed on as a request for this path.
    As(String),
    /// Passed on without this header.
    Without(&'static str),
    /// The registry's answer with this header instead.
    Rewrite(&'static str, String),
    /// The registry's answer without this header.
    Drop(&'static str),
    /// No answer at all for this long.
    Hang(Duration),
    /// This many bytes of the request's body are read, then this is done and the connection cut.
    Midway(usize, Box<dyn FnOnce() + Send>),
}

type Rule = Box<dyn Fn(&Seen) -> Do + Send + Sync>;

struct Inner {
    upstream: SocketAddr,
    rule: Rule,
    seen: Mutex<Vec<Seen>>,
}

pub struct Proxy {
    pub address: String,
    inner: Arc<Inner>,
}

impl Proxy {
    /// Lives until the test process ends.
    pub fn before(upstream: &str, rule: impl Fn(&Seen) -> Do + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0", upstream, rule)
    }

    pub fn at(address: &str, upstream: &str, rule: impl Fn(&Seen) -> Do + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let inner =
            Arc::new(Inner { upstream: upstream.parse().unwrap(), rule: Box::new(rule), seen: Mutex::default() });
        let serving = inner.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let inner = serving.clone();
                // Clients hang up in the middle: that is what is tested.
                std::thread::spawn(move || drop(inner.serve(client)));
            }
        });
        Self { address, inner }
    }

    pub fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.is(method, part)).count()
    }
}

#[derive(Clone)]
struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn read(from: &mut impl BufRead) -> std::io::Result<Self> {
        let mut first = String::new();
        from.read_line(&mut first)?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Self { first: first.trim_end().to_owned(), headers })
    }

    fn length(&self) -> u64 {
        let length = self.headers.iter().find(|(name, _)| name == "content-length");
        length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }

    fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in self.headers.iter().filter(|(name, _)| name != "connection") {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        to.write_all(format!("{text}connection: close\r\n\r\n").as_bytes())
    }
}

impl Inner {
    fn serve(&self, client: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut head = Head::read(&mut reader)?;
        let mut words = head.first.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        // Forms are small; blobs are streamed.
        let mut form = Vec::new();
        if head.headers.iter().any(|(_, value)| value.contains("x-www-form-urlencoded")) {
            form.resize(usize::try_from(head.length()).unwrap(), 0);
            reader.read_exact(&mut form)?;
        }
        let seen = {
            let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let before = all.iter().filter(|seen| seen.method == method && seen.path == path).count();
            let body = String::from_utf8_lossy(&form).into_owned();
            all.push(Seen { method, path, headers: head.headers.clone(), body, before, at: Instant::now() });
            all[all.len() - 1].clone()
        };
        let fault = (self.rule)(&seen);
        match fault {
            Do::Answer(status, headers, body) => {
                let mut headers: Vec<(String, String)> =
                    headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                if !headers.iter().any(|(name, _)| name == "content-length") {
                    headers.push(("content-length".to_owned(), body.len().to_string()));
                }
                let mut client = client;
                Head { first: format!("HTTP/1.1 {status} Told"), headers }.write(&mut client)?;
                client.write_all(body.as_bytes())?;
                client.shutdown(Shutdown::Write)?;
                // The rest of the request is read, or the answer would be lost in a reset.
                std::io::copy(&mut reader, &mut std::io::sink())?;
                return Ok(());
            }
            Do::Hang(long) => {
                std::thread::sleep(long);
                return Ok(());
            }
            Do::Midway(bytes, act) => {
                std::io::copy(&mut (&mut reader).take(bytes as u64), &mut std::io::sink())?;
                act();
                return client.shutdown(Shutdown::Both);
            }
            Do::As(ref path) => head.first = format!("{} {path} HTTP/1.1", seen.method),
            Do::Without(name) => head.headers.retain(|(key, _)| key != name),
            Do::Pass | Do::CutAfter(_) | Do::Spoil(_) | Do::Rewrite(..) | Do::Drop(_) => {}
        }
        let mut upstream = TcpStream::connect(self.upstream)?;
        head.write(&mut upstream)?;
        let length = head.length();
        std::io::copy(&mut (&mut reader).take(length), &mut upstream)?;
        answer(fault, BufReader::new(upstream), client)
    }
}

fn answer(fault: Do, mut upstream: BufReader<TcpStream>, mut client: TcpStream) -> std::io::Result<()> {
    let mut head = Head::read(&mut upstream)?;
    if let Do::Rewrite(name, _) | Do::Drop(name) = &fault {
        head.headers.retain(|(key, _)| key != name);
    }
    if let Do::Rewrite(name, value) = &fault {
        head.headers.push(((*name).to_owned(), value.clone()));
    }
    head.write(&mut client)?;
    match fault {
        Do::CutAfter(bytes) => {
            std::io::copy(&mut upstream.take(bytes as u64), &mut client)?;
            client.shutdown(Shutdown::Both)
        }
        Do::Spoil(at) => {
            std::io::copy(&mut (&mut upstream).take(at as u64), &mut client)?;
            let mut byte = [0];
            upstream.read_exact(&mut byte)?;
            client.write_all(&[!byte[0]])?;
            std::io::copy(&mut upstream, &mut client).map(drop)
        }
        _ => std::io::copy(&mut upstream, &mut client).map(drop),
    }
}

/// A company's proxy: leads each CONNECT and each request in absolute form to one registry, whatever
/// its name.
pub struct Tunnel {
    pub address: String,
    heads: Arc<Mutex<Vec<Head>>>,
}

impl Tunnel {
    /// Lives until the test process ends.
    pub fn to(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (upstream, heads) = (upstream.to_owned(), Arc::<Mutex<Vec<Head>>>::default());
        let noted = heads.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (upstream, noted) = (upstream.clone(), noted.clone());
                std::thread::spawn(move || drop(Self::serve(client, &upstream, &noted)));
            }
        });
        Self { address, heads }
    }

    fn serve(mut client: TcpStream, upstream: &str, noted: &Mutex<Vec<Head>>) -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let head = Head::read(&mut reader)?;
        noted.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
        let mut upstream = TcpStream::connect(upstream)?;
        match head.first.split_once(" http://").and_then(|(method, rest)| Some((method, rest.split_once('/')?.1))) {
            Some((method, path)) => Head { first: format!("{method} /{path}"), ..head }.write(&mut upstream)?,
            None => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?,
        }
        let (mut answers, mut back) = (upstream.try_clone()?, client);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut answers, &mut back);
            back.shutdown(Shutdown::Both)
        });
        std::io::copy(&mut reader, &mut upstream)?;
        upstream.shutdown(Shutdown::Write)
    }

    /// The first line of every request, and its credentials.
    pub fn asked(&self) -> Vec<(String, Option<String>)> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let who = |head: &Head| {
            let found = head.headers.iter().find(|(name, _)| name == "proxy-authorization");
            found.map(|(_, value)| value.clone())
        };
        heads.iter().map(|head| (head.first.clone(), who(head))).collect()
    }
}
