//! Runs other programs: captured for a short query, supervised for a long job. No child outlives
//! this process: each is [tied](host::tie) to it, and interrupts are passed on and waited for.
//!
//! Every child has its own process group, so that a terminal's Ctrl-C reaches it through us, once;
//! its environment is determined in [`environment`]. After an interrupt no child is started, except
//! by [`tidy_up`].

pub mod environment;
pub(crate) mod streams;

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use indicatif::BinaryBytes;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::host;
use crate::run::interrupt::{Interrupt, LAST};
use run_record::{Code, Failure};

/// How long a short query may take before it counts as unanswered. Docker answers in a fraction of
/// a second, a busy engine in some seconds; Helmfile in a few seconds, or a minute on a busy
/// machine.
pub const ANSWER: Duration = Duration::from_secs(120);

/// How long an operation of the engine or a package manager may take: saving, pushing or importing
/// an image, deleting a volume.
pub const ACT: Duration = Duration::from_secs(1800);

/// The most that a captured command may print, in bytes: a hundred times the rendered size of the
/// largest layer. Of standard error both ends are kept, each of this size.
const MOST: usize = 64 << 20;
const MOST_ERRORS: usize = 64 << 10;

/// How long the streams of a child that has ended may stay open: a grandchild that it left behind
/// may hold them.
const LEFT_OPEN: Duration = Duration::from_secs(2);

/// How long a job may take after INT before it gets TERM, and how much longer before it is killed.
/// Helm writes the release's status in this time.
const ASKED: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 30 });
const TOLD: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// A command with the stdin and environment that every child gets here.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(&program);
    command.stdin(Stdio::null()).env_clear().envs(environment::of(program.as_ref()));
    command
}

/// Text quoted as one word for a shell.
pub fn for_a_shell(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+@%:".contains(c);
    let is_plain = !text.is_empty() && text.chars().all(plain);
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Leaves the processor to other programs where they need it (nice(2), by 5 of 19).
pub fn in_the_background(command: &mut Command) {
    // SAFETY: the call is a system call without memory, and async-signal-safe.
    unsafe {
        // Not to be allowed to is no reason not to run.
        command.pre_exec(|| {
            let _ = rustix::process::nice(5);
            Ok(())
        });
    }
}

/// The output of a short command.
#[derive(Debug)]
pub struct Captured {
    pub status: ExitStatus,
    pub stdout: String,
    /// Only the two ends, if it is very long.
    pub stderr: String,
}

impl Captured {
    /// Standard output if the command succeeded, else standard error's last line.
    pub fn ok(self) -> Result<String, String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let last = self.stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no output");
        Err(last.trim().to_owned())
    }
}

/// Runs a short command, within [`ANSWER`].
///
/// # Errors
/// `interrupted` (then nothing was started, or it has ended), `no-answer` if it took too long,
/// `unknown` if it could not be started or printed too much. None of these says anything about what
/// was queried.
pub async fn capture(command: Command) -> Result<Captured, Failure> {
    capture_within(command, ANSWER).await
}

/// Runs a command within the caller's time limit.
///
/// # Errors
/// As for [`capture`].
pub async fn capture_within(mut command: Command, at_most: Duration) -> Result<Captured, Failure> {
    let interrupt = Interrupt::global();
    interrupt.check()?;
    Interrupt::keep_from_starting(command.as_std_mut());
    interrupt.or(captured(command, at_most)).await?
}

/// Runs a cleanup command, even after an interrupt, which waits for it. Only cleanup may do this: a
/// run that was told to stop starts nothing else.
///
/// # Errors
/// As for [`capture`], except `interrupted`.
pub async fn tidy_up(command: Command, at_most: Duration) -> Result<Captured, Failure> {
    let _tidying = Interrupt::global().tidying();
    captured(command, at_most).await
}

/// What kept a child from starting, if it was an interrupt.
fn interrupted(error: &std::io::Error) -> Option<Failure> {
    let is = error.kind() == std::io::ErrorKind::Interrupted;
    is.then(|| Interrupt::global().check().err()).flatten()
}

async fn captured(mut command: Command, at_most: Duration) -> Result<Captured, Failure> {
    let shown = shown(&command);
    let failed = |error: String| Failure::new(Code::Unknown, format!("`{shown}`: {error}"));
    host::tie(command.as_std_mut(), Signal::KILL).map_err(|error| failed(error.to_string()))?;
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        host::untie_newest();
        interrupted(&error).unwrap_or_else(|| failed(error.to_string()))
    })?;
    let mut group = Group::of(&child);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (mut stdout, mut stderr, mut whole) = (Vec::new(), streams::Ends::default(), true);
    let ended = async {
        let reading = async {
            let out = async {
                if let Some(out) = out {
                    whole = streams::head(out, MOST, &mut stdout).await;
                }
            };
            let err = async {
                if let Some(err) = err {
                    streams::both_ends(err, MOST_ERRORS, &mut stderr).await;
                }
            };
            futures_util::future::join(out, err).await;
        };
        tokio::pin!(reading);
        tokio::select! {
            biased;
            _ = &mut reading => child.wait().await,
            status = child.wait() => {
                let _ = tokio::time::timeout(LEFT_OPEN, reading).await;
                status
            }
        }
    };
    let status = match tokio::time::timeout(at_most, ended).await {
        Ok(status) => status.map_err(|error| failed(error.to_string()))?,
        Err(_) => {
            let message = format!("`{shown}` did not answer within {} s, and was stopped", at_most.as_secs());
            return Err(Failure::new(Code::NoAnswer, message));
        }
    };
    group.ended();
    if !whole {
        return Err(failed(format!("printed more than {}", BinaryBytes(MOST as u64))));
    }
    Ok(Captured { status, stdout: String::from_utf8_lossy(&stdout).into_owned(), stderr: stderr.text() })
}

/// A command as messages show it: the program and its first words, which contain no secret.
fn shown(command: &Command) -> String {
    let command = command.as_std();
    let program = command.get_program().to_string_lossy().into_owned();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned()).take(2);
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}

/// A child's process group: killed if this is dropped before the child has ended.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id as i32)))
    }

    fn ended(&mut self) {
        if let Some(pid) = self.0.take() {
            host::untie(pid);
        }
    }

    fn signal(&self, signal: Signal, all: bool) {
        let Some(pid) = self.0 else { return };
        // An error means that it has already ended, which is the goal.
        let _ = if all {
            rustix::process::kill_process_group(pid, signal)
        } else {
            rustix::process::kill_process(pid, signal)
        };
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL, true);
        self.ended();
    }
}

/// A long job whose lines go to a log file and to an observer.
pub struct Job<'a> {
    pub command: Command,
    pub log: &'a Utf8Path,
    /// Stays open in the job and all its descendants: a lock on it is held until the last of them
    /// has ended, even if this process was killed.
    pub inherit: Option<RawFd>,
}

/// How a job ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// The last lines of both streams, as evidence; and the signal that killed it.
    pub tail: Vec<String>,
    pub log: Utf8PathBuf,
}

const TAIL: usize = 40;

/// How a job is being ended, and when the next step is due.
#[derive(Default)]
struct Ending {
    steps: i32,
    next: Option<Instant>,
}

impl Ending {
    /// The next step: INT (only the leader, which tells its children), TERM (all of them), KILL.
    fn step(&mut self, group: &Group, signal: Signal, leader_ended: bool) {
        self.steps += 1;
        match self.steps {
            1 => group.signal(signal, leader_ended),
            2 => group.signal(Signal::TERM, true),
            _ => group.signal(Signal::KILL, true),
        }
        self.next = match self.steps {
            1 => Some(Instant::now() + ASKED),
            2 => Some(Instant::now() + TOLD),
            _ => None,
        };
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

impl Job<'_> {
    /// Runs the job to its end. An interrupt is passed on; each further one, or more time,
    /// escalates (the third kills), and the job's end is waited for before the failure is returned.
    /// If `stop` resolves first, it ends the job in the same way.
    ///
    /// # Errors
    /// What stopped it; `interrupted`, without a start, if the run was already interrupted.
    pub async fn run(self, on_line: impl FnMut(&str), stop: impl Future<Output = Failure>) -> Result<Ended, Failure> {
        self.run_under(Interrupt::global(), on_line, stop).await
    }

    async fn run_under(
        mut self,
        interrupt: &Interrupt,
        mut on_line: impl FnMut(&str),
        stop: impl Future<Output = Failure>,
    ) -> Result<Ended, Failure> {
        interrupt.check()?;
        // The run does not end before the job: the lock must not be released before the last child
        // has ended.
        let _tidying = interrupt.tidying();
        let program = self.command.as_std().get_program().to_string_lossy().into_owned();
        let io = |error: std::io::Error| Failure::new(Code::Unknown, format!("{program}: {error}"));
        let mut log = streams::Log::open(self.log)
            .map_err(|error| Failure::new(Code::DiskFull, format!("cannot write the log {}: {error}", self.log)))?;
        Interrupt::keep_from_starting(self.command.as_std_mut());
        host::tie(self.command.as_std_mut(), Signal::TERM).map_err(io)?;
        if let Some(fd) = self.inherit {
            let_through(&mut self.command, fd);
        }
        self.command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().map_err(|error| {
            host::untie_newest();
            if let Some(interrupted) = interrupted(&error) {
                return interrupted;
            }
            let failure = Failure::new(Code::Unknown, format!("cannot start {program}: {error}"));
            if error.kind() == std::io::ErrorKind::NotFound { failure.remedy("cargo xtask tools") } else { failure }
        })?;
        let mut group = Group::of(&child);
        let (sender, mut lines) = tokio::sync::mpsc::channel(256);
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(streams::lines(stdout, sender.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(streams::lines(stderr, sender.clone()));
        }
        drop(sender);
        let (mut interrupts, mut ending) = (0, Ending::default());
        let mut stopped: Option<Failure> = None;
        let mut tail = std::collections::VecDeque::with_capacity(TAIL);
        let (mut status, mut open, mut left) = (None, true, None);
        tokio::pin!(stop);
        while status.is_none() || open {
            tokio::select! {
                line = lines.recv(), if open => match line {
                    Some(line) => {
                        log.write(&line);
                        on_line(&line);
                        if tail.len() == TAIL {
                            tail.pop_front();
                        }
                        tail.push_back(line);
                    }
                    None => open = false,
                },
                ended = child.wait(), if status.is_none() => {
                    status = Some(ended.map_err(io)?);
                    // Descendants that hold the lock are waited for; others are not.
                    left = self.inherit.is_none().then(|| Instant::now() + LEFT_OPEN);
                }
                signal = interrupt.nth(interrupts + 1) => {
                    interrupts += 1;
                    ending.step(&group, signal, status.is_some());
                }
                failure = &mut stop, if stopped.is_none() => {
                    stopped = Some(failure);
                    if ending.steps == 0 {
                        ending.step(&group, Signal::INT, status.is_some());
                    }
                }
                () = at(ending.next) => ending.step(&group, Signal::TERM, status.is_some()),
                () = at(left), if status.is_some() => open = false,
            }
            if status.is_some() && ending.steps >= LAST && left.is_none() {
                left = Some(Instant::now() + LEFT_OPEN);
            }
        }
        group.ended();
        let Some(status) = status else { return Err(io(std::io::Error::other("no status"))) };
        interrupt.check()?;
        if status.signal().is_some() {
            tail.push_back(status.to_string());
        }
        match stopped {
            Some(failure) => Err(failure),
            None => Ok(Ended { status, tail: tail.into(), log: self.log.to_owned() }),
        }
    }

    /// Runs a job that only an interrupt ends early.
    pub async fn run_to_end(self, on_line: impl FnMut(&str)) -> Result<Ended, Failure> {
        self.run(on_line, std::future::pending()).await
    }
}

/// Lets the child and its descendants inherit one file descriptor.
fn let_through(command: &mut Command, fd: RawFd) {
    // SAFETY: between fork and exec only an async-signal-safe system call is made; the
    // job's caller keeps the descriptor open.
    unsafe {
        command.pre_exec(move || {
            let fd = std::os::fd::BorrowedFd::borrow_raw(fd);
            Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?)
        });
    }
}

/// The file descriptor for [`Job::inherit`].
pub fn descriptor(file: &File) -> RawFd {
    file.as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;
    use run_record::Exit;

    fn shell(script: &str) -> Command {
        let mut shell = command("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn a_path_stays_one_word_for_a_shell() {
        assert_eq!(for_a_shell("/root/.cache/ameide/bin"), "/root/.cache/ameide/bin");
        assert_eq!(for_a_shell("/a b/it's"), r"'/a b/it'\''s'");
        assert_eq!(for_a_shell(r#"u"$x/`y`"#), r#"'u"$x/`y`'"#);
        assert_eq!(for_a_shell(""), "''");
    }

    fn log() -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("log")).unwrap();
        (folder, path)
    }

    /// Runs a job that is interrupted at each line it prints.
    async fn interrupted_at_each_line(script: &str) -> (Failure, String) {
        // A shell starts background jobs with INT ignored, including these tests; xtask itself
        // handles the signal, so its children have the default.
        // SAFETY: no existing handler is replaced.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
        let (_folder, log) = log();
        let interrupt = Interrupt::new();
        let job = Job { command: shell(script), log: &log, inherit: None };
        let ended = job.run_under(&interrupt, |_| interrupt.signalled(2), std::future::pending()).await;
        (ended.unwrap_err(), std::fs::read_to_string(&log).unwrap())
    }

    fn lives(pid: &str) -> bool {
        host::state(pid.trim().parse().unwrap()).is_some_and(|state| state != 'Z')
    }

    async fn is_gone(pid: &str) {
        while lives(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_run_that_was_interrupted_starts_no_job() {
        let (folder, log) = log();
        let interrupt = Interrupt::new();
        interrupt.signalled(15);
        let command = shell(&format!("touch {}/started", folder.path().display()));
        let job = Job { command, log: &log, inherit: None };
        let failure = job.run_under(&interrupt, |_| {}, std::future::pending()).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Terminated);
        assert!(!folder.path().join("started").exists());
    }

    #[tokio::test]
    async fn an_interrupted_job_ends_in_its_own_time() {
        let script = "trap 'echo tidied; exit 0' INT; echo ready; while :; do sleep 0.01; done";
        let (failure, log) = interrupted_at_each_line(script).await;
        assert_eq!(failure.exit(), Exit::Interrupted);
        assert!(log.ends_with("tidied\n"), "{log}");
    }

    #[tokio::test]
    async fn the_second_interrupt_tells_the_children_and_the_third_kills() {
        let script = "trap 'echo asked' INT; trap 'echo told' TERM; echo ready; while :; do :; done";
        let (failure, log) = interrupted_at_each_line(script).await;
        assert_eq!(failure.exit(), Exit::Interrupted);
        assert_eq!(log, "ready\nasked\ntold\n");
    }

    #[tokio::test]
    async fn a_job_that_ignores_its_stop_is_killed_in_the_end() {
        let (_folder, log) = log();
        let interrupt = Interrupt::new();
        let job = Job { command: shell("trap '' INT TERM; while :; do sleep 0.01; done"), log: &log, inherit: None };
        let stop = async { Failure::new(Code::LockLost, "stop") };
        let failure = job.run_under(&interrupt, |_| {}, stop).await.unwrap_err();
        assert_eq!(failure.code, Code::LockLost);
    }

    #[tokio::test]
    async fn a_grandchild_that_keeps_the_streams_holds_nobody_up() {
        let captured = capture(shell("sleep 600 & echo $!")).await.unwrap();
        let pid = captured.ok().unwrap();
        assert!(lives(&pid));
        rustix::process::kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn a_question_that_is_not_answered_is_a_failure_and_its_group_ends() {
        let (folder, _) = log();
        let pids = folder.path().join("pids");
        let script = format!("sleep 600 & echo $! > {}; wait", pids.display());
        let failure = capture_within(shell(&script), Duration::from_millis(500)).await.unwrap_err();
        assert_eq!(failure.code, Code::NoAnswer);
        is_gone(&std::fs::read_to_string(pids).unwrap()).await;
    }

    #[tokio::test]
    async fn a_capture_that_is_dropped_leaves_nobody_behind() {
        let (folder, _) = log();
        let pids = folder.path().join("pids");
        let script = format!("sleep 600 & echo $$ $! > {}.part; mv {0}.part {0}; wait", pids.display());
        let mut asking = Box::pin(capture(shell(&script)));
        while !pids.exists() {
            let _ = tokio::time::timeout(Duration::from_millis(5), &mut asking).await;
        }
        drop(asking);
        for pid in std::fs::read_to_string(pids).unwrap().split_whitespace() {
            is_gone(pid).await;
        }
    }

    #[tokio::test]
    async fn captured_children_are_out_of_the_terminal_s_reach() {
        let group = capture(shell("ps -o pgid= -p $$ 2>/dev/null || cut -d' ' -f5 /proc/$$/stat")).await.unwrap();
        let own = rustix::process::getpgrp().as_raw_nonzero().to_string();
        assert_ne!(group.ok().unwrap().trim(), own);
    }

    #[tokio::test]
    async fn output_without_end_takes_no_memory_to_speak_of() {
        let (_folder, log) = log();
        let job = Job { command: shell("head -c 100000000 /dev/zero"), log: &log, inherit: None };
        let ended = job.run_to_end(|line| assert!(line.len() < 2 * streams::LINE)).await.unwrap();
        assert!(ended.status.success());
        assert!(std::fs::metadata(&log).unwrap().len() < 100_000);
        let failure = capture(shell("head -c 100000000 /dev/zero")).await.unwrap_err();
        assert!(failure.message.contains("printed more than"), "{failure}");
        let noisy = capture(shell("head -c 100000000 /dev/zero >&2; echo last >&2")).await.unwrap();
        assert!(noisy.stderr.len() < 300_000 && noisy.stderr.ends_with("last\n"));
    }
}
