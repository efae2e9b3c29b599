//! Reads the output of children in bounded memory: they may print anything, even 100 MB without a
//! line break. What exceeds a limit is dropped, never left in the pipe, where it would block the
//! child.

use std::fs::File;
use std::io::Write;

use camino::Utf8Path;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc::Sender;

use crate::files;
use crate::run::foreign;

/// The longest line that is kept, in bytes.
pub const LINE: usize = 16 << 10;

/// The most that one job may write to its log, in bytes.
pub const LOG: u64 = 64 << 20;

/// Sends each line, without its line break, to `to`; a long line is cut and marked.
pub async fn lines(stream: impl AsyncRead + Unpin, to: Sender<String>) {
    let mut cutter = Cutter::default();
    let mut buffer = vec![0; 16 << 10];
    let mut stream = stream;
    loop {
        let read = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        for line in cutter.take(&buffer[..read]) {
            if to.send(line).await.is_err() {
                return;
            }
        }
    }
    if let Some(line) = cutter.rest() {
        let _ = to.send(line).await;
    }
}

/// Cuts a stream into lines of at most [`LINE`] bytes.
#[derive(Default)]
pub(crate) struct Cutter {
    line: Vec<u8>,
    dropped: u64,
}

impl Cutter {
    /// The lines that these bytes complete.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut complete = Vec::new();
        let mut parts = bytes.split(|byte| *byte == b'\n');
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            self.add(part);
            complete.push(self.end());
        }
        self.add(last);
        complete
    }

    fn add(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(LINE - self.line.len());
        self.line.extend_from_slice(&bytes[..kept]);
        self.dropped += (bytes.len() - kept) as u64;
    }

    fn end(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.line).trim_end_matches('\r').to_owned();
        self.line.clear();
        match std::mem::take(&mut self.dropped) {
            0 => text,
            dropped => {
                // A secret that has lost its end would not be recognised.
                let whole = text.rfind(char::is_whitespace).filter(|end| text.len() - end < 1024);
                let kept = &text[..whole.unwrap_or(text.len())];
                format!("{kept} … ({} more bytes)", dropped + (text.len() - kept.len()) as u64)
            }
        }
    }

    /// What came after the last line break.
    pub(crate) fn rest(&mut self) -> Option<String> {
        (!self.line.is_empty()).then(|| self.end())
    }
}

/// Reads to the end and keeps the first `most` bytes. Returns whether that was everything.
pub async fn head(mut stream: impl AsyncRead + Unpin, most: usize, kept: &mut Vec<u8>) -> bool {
    let mut buffer = vec![0; 16 << 10];
    let mut all = true;
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return all,
            Ok(read) => {
                let room = read.min(most - kept.len());
                kept.extend_from_slice(&buffer[..room]);
                all &= room == read;
            }
        }
    }
}

/// Reads to the end and keeps about the first and the last `most` bytes, with a line in between
/// that says what is missing.
pub async fn both_ends(mut stream: impl AsyncRead + Unpin, most: usize, kept: &mut Ends) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => kept.add(&buffer[..read], most),
        }
    }
}

#[derive(Default)]
pub struct Ends {
    first: Vec<u8>,
    last: Vec<u8>,
    dropped: u64,
}

impl Ends {
    fn add(&mut self, bytes: &[u8], most: usize) {
        let room = bytes.len().min(most - self.first.len());
        self.first.extend_from_slice(&bytes[..room]);
        self.last.extend_from_slice(&bytes[room..]);
        // Only occasionally, so that little data is moved.
        if self.last.len() > 2 * most {
            let surplus = self.last.len() - most;
            self.last.drain(..surplus);
            self.dropped += surplus as u64;
        }
    }

    pub fn text(&self) -> String {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if self.dropped == 0 {
            return text(&[self.first.as_slice(), &self.last].concat());
        }
        format!("{}\n… ({} bytes left out)\n{}", text(&self.first), self.dropped, text(&self.last))
    }
}

/// A job's log file, limited in size.
pub struct Log {
    file: File,
    room: u64,
}

impl Log {
    pub fn open(path: &Utf8Path) -> std::io::Result<Self> {
        Ok(Self { file: files::private(File::options().create(true).append(true)).open(path)?, room: LOG })
    }

    /// The log is for people, who also pass it on: what looks like a secret is masked. Losing a line
    /// of it (because of a full disk) must not end the job.
    pub fn write(&mut self, line: &str) {
        if self.room == 0 {
            return;
        }
        let line = foreign::masked(line);
        let length = line.len() as u64 + 1;
        if length > self.room {
            self.room = 0;
            let _ = writeln!(self.file, "… the log ends here: one job may write at most {LOG} bytes");
            return;
        }
        self.room -= length;
        let _ = writeln!(self.file, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<String> {
        let mut cutter = Cutter::default();
        let mut lines: Vec<String> = chunks.iter().flat_map(|chunk| cutter.take(chunk)).collect();
        lines.extend(cutter.rest());
        lines
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let text = b"one\r\n\ntwo\nthree";
        let whole = cut(&[text]);
        assert_eq!(whole, ["one", "", "two", "three"]);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(cut(&bytes), whole);
    }

    #[test]
    fn a_line_without_an_end_is_cut_and_the_next_one_is_whole() {
        let long = vec![b'x'; LINE + 5];
        let lines = cut(&[&long, b"yy\nnext\n"]);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with("x … (7 more bytes)"), "{}", &lines[0][LINE - 5..]);
        assert_eq!(lines[1], "next");
    }

    #[tokio::test]
    async fn what_is_read_is_bounded_and_read_to_its_end() {
        let text = vec![b'x'; 1 << 20];
        let mut kept = Vec::new();
        assert!(!head(text.as_slice(), 1000, &mut kept).await);
        assert_eq!(kept.len(), 1000);
        let mut kept = Vec::new();
        assert!(head(text.as_slice(), text.len(), &mut kept).await);
        let mut kept = Ends::default();
        both_ends([b"first ".as_slice(), &text, b" last"].concat().as_slice(), 1000, &mut kept).await;
        let text = kept.text();
        assert!(text.starts_with("first x") && text.ends_with("x last") && text.len() < 70_000, "{}", text.len());
    }

    #[test]
    fn a_log_holds_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(folder.path().join("log")).unwrap();
        let mut log = Log::open(&path).unwrap();
        log.write("pull https://bob:hunter2pw@charts.example/i");
        log.write("PGPASSWORD=s3cr3tvalue psql");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "pull https://***@charts.example/i\nPGPASSWORD=*** psql\n");
    }

    #[test]
    fn a_log_ends_at_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(folder.path().join("log")).unwrap();
        let mut log = Log { file: File::create(&path).unwrap(), room: 10 };
        for line in ["12345", "12345", "12"] {
            log.write(line);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("12345\n… the log ends here") && text.lines().count() == 2, "{text}");
    }
}
