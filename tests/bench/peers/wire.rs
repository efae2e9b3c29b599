//! Just enough HTTP/1.1 for a registry on loopback, with nothing between the bytes and the socket:
//! its time is that of the registries.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::Result;

pub struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
}

pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    /// Of the body that follows.
    pub length: u64,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The path and query of `Location`.
    pub fn location(&self) -> Result<&str> {
        let location = self.header("location").ok_or("no Location")?;
        match location.split_once("://") {
            Some((_, rest)) => Ok(&rest[rest.find('/').ok_or("a Location without a path")?..]),
            None => Ok(location),
        }
    }

    pub fn expect(self, status: u16) -> Result<Self> {
        if self.status == status { Ok(self) } else { Err(format!("answered {}, not {status}", self.status)) }
    }
}

fn io(error: std::io::Error) -> String {
    error.to_string()
}

/// The buffer for bytes in transfer.
const BUFFER: usize = 256 << 10;

impl Connection {
    pub fn open(host: &str) -> Result<Self> {
        let stream = TcpStream::connect(host).map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        Ok(Self { stream: BufReader::with_capacity(BUFFER, stream), host: host.to_owned() })
    }

    /// A request without a body.
    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.tell(method, path, headers, &mut std::io::empty(), 0)
    }

    pub fn tell(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &mut dyn Read,
        length: u64,
    ) -> Result<Answer> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n", self.host);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let socket = self.stream.get_mut();
        socket.write_all(head.as_bytes()).map_err(io)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = body.read(&mut buffer).map_err(io)?;
            if count == 0 {
                break;
            }
            socket.write_all(&buffer[..count]).map_err(io)?;
        }
        self.answer(method).map_err(|error| format!("{method} {}{path}: {error}", self.host))
    }

    fn answer(&mut self, method: &str) -> Result<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(io)?;
        let status = line.split(' ').nth(1).and_then(|text| text.parse().ok()).ok_or(format!("no HTTP: {line:?}"))?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).map_err(io)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, length: 0 };
        if method != "HEAD" {
            answer.length = answer.header("content-length").and_then(|text| text.parse().ok()).unwrap_or_default();
        }
        Ok(answer)
    }

    /// The body of an answer, which must be read completely before the next request.
    pub fn body(&mut self, answer: &Answer) -> impl Read {
        (&mut self.stream).take(answer.length)
    }
}
