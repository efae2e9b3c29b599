//! Running other programs: captured for a short question, supervised for a long
//! job. No child outlives this process: each gets the kernel's parent-death
//! signal (`prctl(2)`, PR_SET_PDEATHSIG), and an interrupt is passed on and
//! waited for.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::sync::Notify;

use crate::exit::{Exit, Failure};

/// What an interrupt (Ctrl-C, TERM) has asked for so far.
pub struct Interrupt {
    signal: AtomicI32,
    count: AtomicI32,
    changed: Notify,
}

impl Interrupt {
    /// The process's one; `listen` starts it.
    pub fn global() -> &'static Self {
        static INTERRUPT: OnceLock<Interrupt> = OnceLock::new();
        INTERRUPT.get_or_init(|| Self { signal: AtomicI32::new(0), count: AtomicI32::new(0), changed: Notify::new() })
    }

    pub fn listen(&'static self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        for (kind, number) in [(SignalKind::interrupt(), 2), (SignalKind::terminate(), 15), (SignalKind::hangup(), 15)]
        {
            let mut stream = signal(kind)?;
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    self.signal.store(number, Ordering::SeqCst);
                    self.count.fetch_add(1, Ordering::SeqCst);
                    self.changed.notify_waiters();
                }
            });
        }
        Ok(())
    }

    /// The failure that an interrupted run ends with, if there was an interrupt.
    pub fn check(&self) -> Result<(), Failure> {
        match self.signal.load(Ordering::SeqCst) {
            0 => Ok(()),
            15 => Err(Failure::new("interrupted", Exit::Terminated, "terminated")),
            _ => Err(Failure::new("interrupted", Exit::Interrupted, "interrupted")),
        }
    }

    /// Resolves at the `n`th interrupt since the start.
    pub async fn nth(&self, n: i32) -> Signal {
        loop {
            let changed = self.changed.notified();
            if self.count.load(Ordering::SeqCst) >= n {
                return if self.signal.load(Ordering::SeqCst) == 15 { Signal::TERM } else { Signal::INT };
            }
            changed.await;
        }
    }

    /// Runs `work` to its end unless an interrupt comes first.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            value = work => Ok(value),
            _ = self.nth(1) => Err(self.check().err().unwrap_or_else(|| Failure::new("interrupted", Exit::Interrupted, "interrupted"))),
        }
    }
}

/// A command with the arguments that every child gets here.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// The output of a short command.
pub struct Captured {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Captured {
    /// Standard output when the command succeeded, else standard error's last line.
    pub fn ok(self) -> Result<String, String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let last = self.stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no output");
        Err(last.trim().to_owned())
    }
}

pub async fn capture(mut command: Command) -> std::io::Result<Captured> {
    die_with_parent(&mut command, Signal::KILL, None);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await?;
    Ok(Captured {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A long job whose lines go to a log file and to an observer.
pub struct Job<'a> {
    pub command: Command,
    pub log: &'a Utf8Path,
    /// Stays open in the job and in all its children: a lock on it is held until
    /// the last of them has ended, even when this process was killed.
    pub inherit: Option<RawFd>,
}

/// How a job ended.
pub struct Ended {
    pub status: ExitStatus,
    /// The last lines of both streams, for evidence; and the signal that killed it.
    pub tail: Vec<String>,
    pub log: Utf8PathBuf,
}

const TAIL: usize = 40;

impl Job<'_> {
    /// Runs the job to its end. An interrupt is passed on, once per interrupt (the
    /// third kills), and the job's end is waited for before the failure is returned.
    /// `stop` ends it the same way when it resolves first.
    pub async fn run(
        mut self,
        mut on_line: impl FnMut(&str),
        stop: impl Future<Output = Failure>,
    ) -> Result<Ended, Failure> {
        use std::io::Write;
        let program = self.command.as_std().get_program().to_string_lossy().into_owned();
        let io = |error: std::io::Error| Failure::new("unknown", Exit::Unclassified, format!("{program}: {error}"));
        let mut log = File::options().create(true).append(true).open(self.log).map_err(|error| {
            Failure::new("disk-full", Exit::NotReady, format!("cannot write the log {}: {error}", self.log))
        })?;
        die_with_parent(&mut self.command, Signal::TERM, self.inherit);
        // A group of its own: a terminal's Ctrl-C reaches the job through us, once.
        self.command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().map_err(|error| {
            let failure = Failure::new("unknown", Exit::Unclassified, format!("cannot start {program}: {error}"));
            if error.kind() == std::io::ErrorKind::NotFound { failure.remedy("cargo xtask tools") } else { failure }
        })?;
        let pid = child.id().and_then(|id| Pid::from_raw(id as i32));
        let (sender, mut lines) = tokio::sync::mpsc::channel(256);
        if let Some(stdout) = child.stdout.take() {
            forward(stdout, sender.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            forward(stderr, sender.clone());
        }
        drop(sender);
        let interrupt = Interrupt::global();
        let seen = interrupt.count.load(Ordering::SeqCst);
        let mut asked = 0;
        let mut stopped: Option<Failure> = None;
        let mut tail = std::collections::VecDeque::with_capacity(TAIL);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                line = lines.recv() => match line {
                    Some(line) => {
                        // The log is for people: losing a line of it must not end the job.
                        let _ = writeln!(log, "{line}");
                        on_line(&line);
                        if tail.len() == TAIL {
                            tail.pop_front();
                        }
                        tail.push_back(line);
                    }
                    None => break,
                },
                signal = interrupt.nth(seen + asked + 1) => {
                    asked += 1;
                    if let Some(pid) = pid {
                        send(pid, signal, asked >= 3);
                    }
                }
                failure = &mut stop, if stopped.is_none() => {
                    stopped = Some(failure);
                    if let Some(pid) = pid {
                        send(pid, Signal::INT, false);
                    }
                }
            }
        }
        let status = child.wait().await.map_err(io)?;
        interrupt.check()?;
        if status.signal().is_some() {
            tail.push_back(status.to_string());
        }
        match stopped {
            Some(failure) => Err(failure),
            None => Ok(Ended { status, tail: tail.into(), log: self.log.to_owned() }),
        }
    }

    /// Runs a job that nothing but an interrupt ends early.
    pub async fn run_to_end(self, on_line: impl FnMut(&str)) -> Result<Ended, Failure> {
        self.run(on_line, std::future::pending()).await
    }
}

fn send(pid: Pid, signal: Signal, kill: bool) {
    // Errors mean that it has ended already, which is what is wanted.
    if kill {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    } else {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn forward(stream: impl AsyncRead + Unpin + Send + 'static, to: tokio::sync::mpsc::Sender<String>) {
    tokio::spawn(async move {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let text = String::from_utf8_lossy(&line);
                    if to.send(text.trim_end_matches(['\r', '\n']).to_owned()).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
}

/// Asks the kernel to signal the child when the thread that started it ends, and
/// lets one file descriptor through. Children are started from the main thread
/// only (the runtime has one thread), so that this is the end of the process.
fn die_with_parent(command: &mut Command, signal: Signal, inherit: Option<RawFd>) {
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only async-signal-safe system calls are made.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(signal))?;
            if rustix::process::getppid() != Some(parent) {
                return Err(std::io::Error::other("the parent has ended"));
            }
            if let Some(fd) = inherit {
                let fd = std::os::fd::BorrowedFd::borrow_raw(fd);
                rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
            }
            Ok(())
        });
    }
}

/// The descriptor of a file, for [`Job::inherit`].
pub fn descriptor(file: &File) -> RawFd {
    file.as_raw_fd()
}
