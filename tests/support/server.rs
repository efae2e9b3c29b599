//! An HTTP server on loopback that answers as a test says: an API server, a registry, or neither.
//! The unit tests of `xtask` use it too.

// Each crate that includes it uses only part of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// The path with its query.
    pub target: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    /// How many earlier requests had this method and target.
    pub before: usize,
}

impl Request {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.target.contains(part)
    }
}

#[derive(Clone, Debug)]
pub enum Answer {
    Full {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// Only the first bytes of an answer with a larger Content-Length: then the connection ends or,
    /// if held, stays open without more data.
    Part {
        of: Box<Self>,
        bytes: usize,
        held: bool,
    },
    /// The first lines of a watch, whose connection then stays open until the client leaves.
    Watch(Vec<String>),
    /// The first lines of a watch, whose connection then ends.
    WatchThatEnds(Vec<String>),
    /// The connection ends without an answer.
    Cut,
    /// The connection stays open without an answer.
    Never,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Full { status, headers: Vec::new(), body: body.into() }
    }

    /// The requested range of a file (RFC 9110, 14.2): `Range: bytes=N-` for the rest.
    pub fn file(request: &Request, content: &[u8]) -> Self {
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        let (length, from) = (content.len(), range.map(|from| from.parse::<usize>().unwrap()));
        match from {
            None => Self::new(200, content),
            Some(from) if from >= length => Self::new(416, "").with("Content-Range", format!("bytes */{length}")),
            Some(from) => {
                Self::new(206, &content[from..]).with("Content-Range", format!("bytes {from}-{}/{length}", length - 1))
            }
        }
    }

    #[must_use]
    pub fn cut_after(self, bytes: usize, held: bool) -> Self {
        Self::Part { of: Box::new(self), bytes, held }
    }

    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, body.to_string()).with("Content-Type", "application/json")
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        if let Self::Full { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_string()));
        }
        self
    }
}

/// A connection, plain or encrypted.
pub trait Connection: Read + Write + Send {}
impl<T: Read + Write + Send> Connection for T {}

type Rule = dyn Fn(&Request) -> Answer + Send + Sync;

/// Lives until the test process ends.
#[derive(Clone)]
pub struct Server {
    pub address: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::over("127.0.0.1:0", answer, |stream| Box::new(stream))
    }

    /// On this address, with each connection wrapped, for example in TLS.
    pub fn over(
        address: &str,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> Box<dyn Connection> + Send + Sync + 'static,
    ) -> Self {
        Self::behind(TcpListener::bind(address).unwrap(), answer, wrap)
    }

    /// Like [`Server::over`], on an existing listener.
    pub fn behind(
        listener: TcpListener,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> Box<dyn Connection> + Send + Sync + 'static,
    ) -> Self {
        let server = Self { address: listener.local_addr().unwrap().to_string(), seen: Arc::default() };
        let (seen, answer, wrap) = (server.seen.clone(), Arc::new(answer), Arc::new(wrap));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer, wrap) = (seen.clone(), answer.clone(), wrap.clone());
                // A client that hangs up in the middle only ends its own connection.
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    serve(BufReader::new(wrap(stream)), &seen, &*answer)
                });
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.rsplit(':').next().unwrap().parse().unwrap()
    }

    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|request| request.is(method, part)).count()
    }
}

/// Answers one request after another, until the connection ends.
fn serve(mut stream: BufReader<Box<dyn Connection>>, seen: &Mutex<Vec<Request>>, answer: &Rule) -> std::io::Result<()> {
    loop {
        let mut first = String::new();
        if stream.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let (headers, body) = rest(&mut stream)?;
        let mut words = first.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let request = {
            let mut seen = seen.lock().unwrap();
            let before = seen.iter().filter(|it| it.method == method && it.target == target).count();
            seen.push(Request { method, target, headers, body, before });
            seen[seen.len() - 1].clone()
        };
        let (answer, part) = match answer(&request) {
            Answer::Part { of, bytes, held } => (*of, Some((bytes, held))),
            whole => (whole, None),
        };
        let (lines, held) = match answer {
            Answer::Full { status, headers, body } => {
                // Clients quote it: containerd, whose words the tool reads, says "429 Too Many Requests".
                let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
                let reason = reason.unwrap_or_default();
                let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
                // A response that is passed on has its own, even for a body that a HEAD omits.
                if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
                    head.push_str(&format!("Content-Length: {}\r\n", body.len()));
                }
                headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
                let body = if request.method == "HEAD" { &[] } else { &body[..] };
                let body = part.map_or(body, |(bytes, _)| &body[..bytes.min(body.len())]);
                let writing = stream.get_mut();
                writing.write_all(&[head.as_bytes(), b"\r\n", body].concat())?;
                writing.flush()?;
                match part {
                    None => continue,
                    Some((_, true)) => return until_it_ends(&mut stream),
                    Some((_, false)) => return Ok(()),
                }
            }
            Answer::Part { .. } => return Ok(()),
            Answer::Watch(lines) => (lines, true),
            Answer::WatchThatEnds(lines) => (lines, false),
            Answer::Cut => return Ok(()),
            Answer::Never => return until_it_ends(&mut stream),
        };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        stream.get_mut().write_all((head.to_owned() + &lines).as_bytes())?;
        stream.get_mut().flush()?;
        return if held { until_it_ends(&mut stream) } else { Ok(()) };
    }
}

fn until_it_ends(stream: &mut impl Read) -> std::io::Result<()> {
    while stream.read(&mut [0; 512])? > 0 {}
    Ok(())
}

/// Lower-case names, and values.
pub type Headers = Vec<(String, String)>;

/// What follows the first line; a body without a length ends with the connection.
fn rest(stream: &mut impl BufRead) -> std::io::Result<(Headers, Vec<u8>)> {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, value)| value.parse().unwrap_or(0))];
    stream.read_exact(&mut body)?;
    Ok((headers, body))
}

/// One request to another server, over plain HTTP: its status, headers and body.
pub fn ask(
    method: &str,
    address: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<(u16, Headers, Vec<u8>)> {
    let stream = TcpStream::connect(address)?;
    let mut head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    (&stream).write_all(&[head.as_bytes(), b"\r\n", body].concat())?;
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    stream.read_line(&mut first)?;
    let status =
        first.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    let (headers, body) = if method == "HEAD" { (rest_of_head(&mut stream)?, Vec::new()) } else { rest(&mut stream)? };
    Ok((status, headers, body))
}

/// The headers of an answer to `HEAD`, whose Content-Length is not that of this answer.
fn rest_of_head(stream: &mut impl BufRead) -> std::io::Result<Headers> {
    let mut lines = String::new();
    stream.read_to_string(&mut lines)?;
    let headers = lines.lines().filter_map(|line| line.split_once(':'));
    Ok(headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect())
}
