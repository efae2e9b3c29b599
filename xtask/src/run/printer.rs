//! The only place that writes to standard output and standard error. It uses its own thread, so
//! that a terminal that accepts nothing (Ctrl-S, a pager that is full) blocks neither the run nor
//! the renewal of its Lease. What cannot be written (a closed pipe, a terminal that is gone, a full
//! disk) is dropped, and the run goes on.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use indicatif::TermLike;

/// How many bytes may be buffered for a slow terminal: some 10,000 lines. Lines beyond that are
/// dropped and counted.
const WAITING: usize = 1 << 20;

/// A progress bar is not buffered for long: the next frame is as good.
const WAITING_FRAMES: usize = 64 << 10;

enum Piece {
    /// For standard output: data that was asked for, never dropped.
    Data(String),
    /// For standard error.
    Words(String),
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Piece>,
    /// Buffered bytes for standard error.
    bytes: usize,
    /// Buffered bytes for standard output.
    data: usize,
    left_out: u64,
    writing: bool,
    /// The first reason why data could not be written.
    failed: Option<io::Error>,
}

#[derive(Default)]
struct Printer {
    state: Mutex<State>,
    changed: Condvar,
}

fn printer() -> &'static Printer {
    static PRINTER: OnceLock<Printer> = OnceLock::new();
    static THREAD: OnceLock<bool> = OnceLock::new();
    let printer = PRINTER.get_or_init(Printer::default);
    let works = THREAD.get_or_init(|| {
        let thread = std::thread::Builder::new().name("printer".to_owned());
        thread.spawn(|| printer.write_all(&mut io::stdout(), &mut io::stderr())).is_ok()
    });
    if !works {
        // If no thread can be created, this one writes.
        printer.write_waiting(&mut io::stdout(), &mut io::stderr());
    }
    printer
}

/// Lines for people, to standard error.
pub fn words(text: &str) {
    printer().add(Piece::Words(text.to_owned()), WAITING);
}

/// Data that was asked for, to standard output.
pub fn data(text: &str) {
    printer().add(Piece::Data(text.to_owned()), WAITING);
}

/// How many bytes of data are waiting for a slow reader; `None` if the reader is gone, or the data
/// cannot be written.
pub fn data_behind() -> Option<usize> {
    printer().data_behind()
}

/// Waits until everything is written, or until `give_up` says so.
///
/// # Errors
/// If data could not be written, unless its reader just stopped reading.
pub fn finish(give_up: impl Fn() -> bool) -> io::Result<()> {
    printer().finish(give_up)
}

impl Printer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, piece: Piece, most: usize) {
        let mut state = self.state();
        if let Piece::Words(text) = &piece {
            if state.bytes + text.len() > most {
                state.left_out += text.lines().count() as u64;
                return;
            }
            state.bytes += text.len();
        }
        if let Piece::Data(text) = &piece {
            state.data += text.len();
        }
        state.waiting.push_back(piece);
        self.changed.notify_all();
    }

    fn data_behind(&self) -> Option<usize> {
        let state = self.state();
        state.failed.is_none().then_some(state.data)
    }

    fn next(&self) -> Option<Piece> {
        let mut state = self.state();
        let piece = state.waiting.pop_front();
        state.writing = piece.is_some();
        if let Some(Piece::Words(text)) = &piece {
            state.bytes -= text.len();
        } else if piece.is_none() && state.left_out > 0 {
            let lines = std::mem::take(&mut state.left_out);
            state.writing = true;
            return Some(Piece::Words(format!("   … {lines} lines are left out: the output was not read in time\n")));
        }
        piece
    }

    /// Writes forever.
    fn write_all(&self, out: &mut impl Write, err: &mut impl Write) {
        loop {
            self.write_waiting(out, err);
            let state = self.state();
            self.changed.notify_all();
            let idle = |state: &mut State| state.waiting.is_empty();
            drop(self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn write_waiting(&self, out: &mut impl Write, err: &mut impl Write) {
        while let Some(piece) = self.next() {
            match piece {
                Piece::Words(text) => drop(write(err, &text)),
                Piece::Data(text) => {
                    let written = write(out, &text);
                    let mut state = self.state();
                    state.data -= text.len();
                    if let Err(error) = written {
                        state.failed.get_or_insert(error);
                    }
                }
            }
        }
    }

    fn finish(&self, give_up: impl Fn() -> bool) -> io::Result<()> {
        let mut state = self.state();
        while (state.writing || !state.waiting.is_empty()) && !give_up() {
            let waited = self.changed.wait_timeout(state, Duration::from_millis(50));
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        match state.failed.take() {
            // `head` has seen enough.
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

/// Writes all of it; waits for a stream that somebody made non-blocking.
fn write(stream: &mut impl Write, text: &str) -> io::Result<()> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error),
        }
    }
    loop {
        match stream.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            flushed => return flushed,
        }
    }
}

/// The terminal as progress bars draw on it: whole frames go through the printer.
#[derive(Debug, Default)]
pub struct Screen(Mutex<String>);

impl Screen {
    fn draw(&self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        let mut frame = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frame.write_fmt(text).map_err(io::Error::other)
    }

    fn move_cursor(&self, n: usize, letter: char) -> io::Result<()> {
        if n == 0 { Ok(()) } else { self.draw(format_args!("\x1b[{n}{letter}")) }
    }
}

/// Columns and rows.
fn size() -> (u16, u16) {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        _ => (80, 24),
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        size().0
    }

    fn height(&self) -> u16 {
        size().1
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.move_cursor(n, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.draw(format_args!("{text}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.draw(format_args!("{text}"))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw(format_args!("\r\x1b[2K"))
    }

    fn flush(&self) -> io::Result<()> {
        let frame = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if !frame.is_empty() {
            printer().add_frame(frame);
        }
        Ok(())
    }
}

impl Printer {
    /// A frame that would have to wait is dropped, and not counted as a dropped line.
    fn add_frame(&self, frame: String) {
        let mut state = self.state();
        if state.bytes + frame.len() <= WAITING_FRAMES {
            state.bytes += frame.len();
            state.waiting.push_back(Piece::Words(frame));
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every write fails with this error.
    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn words_and_data_are_written_in_their_order_each_to_its_stream() {
        let printer = Printer::default();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        printer.add(Piece::Words("one\n".into()), WAITING);
        printer.add(Piece::Data("two\n".into()), WAITING);
        printer.add(Piece::Words("three\n".into()), WAITING);
        printer.write_waiting(&mut out, &mut err);
        assert_eq!((out.as_slice(), err.as_slice()), (&b"two\n"[..], &b"one\nthree\n"[..]));
        printer.finish(|| false).unwrap();
    }

    #[test]
    fn what_nobody_takes_is_left_out_and_counted_and_data_never_is() {
        let printer = Printer::default();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            printer.add(Piece::Words("12345\n".into()), 15);
            printer.add(Piece::Data("d".into()), 15);
        }
        printer.write_waiting(&mut out, &mut err);
        assert_eq!(out, b"ddddd");
        let err = String::from_utf8(err).unwrap();
        assert_eq!(err, "12345\n12345\n   … 3 lines are left out: the output was not read in time\n");
    }

    #[test]
    fn a_reader_that_had_enough_is_no_failure_and_a_full_disk_is() {
        for (kind, fails) in [(io::ErrorKind::BrokenPipe, false), (io::ErrorKind::StorageFull, true)] {
            let printer = Printer::default();
            printer.add(Piece::Words("words\n".into()), WAITING);
            printer.add(Piece::Data("data\n".into()), WAITING);
            printer.write_waiting(&mut Broken(kind), &mut Broken(kind));
            assert_eq!(printer.finish(|| false).is_err(), fails, "{kind}");
        }
    }

    #[test]
    fn data_that_waits_is_counted_until_it_is_written_or_its_reader_is_gone() {
        let printer = Printer::default();
        printer.add(Piece::Data("12345".into()), WAITING);
        printer.add(Piece::Words("words".into()), WAITING);
        printer.add(Piece::Data("67".into()), WAITING);
        assert_eq!(printer.data_behind(), Some(7));
        printer.write_waiting(&mut Vec::new(), &mut Vec::new());
        assert_eq!(printer.data_behind(), Some(0));
        printer.add(Piece::Data("8".into()), WAITING);
        printer.write_waiting(&mut Broken(io::ErrorKind::BrokenPipe), &mut Vec::new());
        assert_eq!(printer.data_behind(), None);
    }

    #[test]
    fn who_gives_up_waits_no_longer() {
        let printer = Printer::default();
        printer.add(Piece::Words("never taken\n".into()), WAITING);
        printer.finish(|| true).unwrap();
    }
}
