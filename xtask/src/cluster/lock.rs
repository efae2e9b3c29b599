//! The cluster lock: at most one run changes a cluster at a time.
//!
//! It is `flock(2)` on a file, which the kernel releases when the last process that holds it ends:
//! a killed run never leaves it held, and Helm processes that outlive a killed run (they inherit
//! the descriptor) still hold it. The file's text is for people and scripts; it does not affect the
//! locking.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::fd::RawFd;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files::{self, is_named};
use crate::run::foreign;
use crate::run::reporter::Reporter;
use crate::run::suspension::Unsuspended;
use crate::run::wait;
use crate::world::process::descriptor;
use run_record::{Code, Failure, human_seconds};

/// The holder according to the lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    pub host: String,
    pub user: String,
    pub command: String,
    pub run: String,
    pub since: Timestamp,
}

impl Holder {
    pub fn this_process(run: &str) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let user = std::env::var("USER")
            .or_else(|_| std::env::var("LOGNAME"))
            .unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
        let command = foreign::own_command_line();
        Self { pid: std::process::id(), host, user, command, run: run.to_owned(), since: Timestamp::now() }
    }

    pub fn describe(&self, now: Timestamp) -> String {
        let age = now.duration_since(self.since).as_secs_f64().max(0.0);
        format!("{} by {}@{} (pid {}), for {}", self.command, self.user, self.host, self.pid, human_seconds(age))
    }
}

/// Held until dropped, and as long as a child that inherited it lives.
#[derive(Debug)]
pub struct ClusterLock {
    /// `Some` until it is dropped.
    file: Option<File>,
    path: Utf8PathBuf,
    _unsuspended: Unsuspended,
}

/// How often a waiter tries again: `flock` cannot wait with a time limit.
const POLL: Duration = Duration::from_millis(150);
const REMIND: Duration = Duration::from_secs(30);

impl ClusterLock {
    /// Waits for the lock, saying for whom, for at most `timeout`.
    pub async fn acquire(
        path: &Utf8Path,
        holder: &Holder,
        timeout: Duration,
        reporter: &Reporter,
    ) -> Result<Self, Failure> {
        let mut told: Option<(Option<Holder>, std::time::Instant)> = None;
        let look = async || {
            if let Some(lock) = Self::try_acquire(path, holder)? {
                return Ok(ControlFlow::Break(lock));
            }
            let current = read_holder(path);
            let changed = told.as_ref().is_none_or(|(who, when)| who != &current || when.elapsed() >= REMIND);
            if changed {
                reporter.waiting("lock", format!("waiting for {}", describe(&current)));
                told = Some((current.clone(), std::time::Instant::now()));
            }
            Ok(ControlFlow::Continue(current))
        };
        match wait::until(POLL, timeout, look).await? {
            ControlFlow::Break(lock) => Ok(lock),
            ControlFlow::Continue(current) => Err(Failure::new(
                Code::LockTimeout,
                format!("the cluster lock was not free within {}", human_seconds(timeout.as_secs_f64())),
            )
            .evidence(format!("{path} is held by {}", describe(&current)))
            .remedy("wait for that run to end, or allow more time with --lock-timeout")),
        }
    }

    fn try_acquire(path: &Utf8Path, holder: &Holder) -> Result<Option<Self>, Failure> {
        let failed =
            |error: std::io::Error| Failure::new(Code::StateUnwritable, format!("the lock file {path}: {error}"));
        if let Some(folder) = path.parent() {
            // The folder is removed with the cluster, while others may be waiting for the lock in
            // it.
            files::create_private_dir(folder).map_err(failed)?;
        }
        let mut options = File::options();
        options.create(true).read(true).write(true).truncate(false);
        let mut file = files::private(&mut options).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // The previous holder removed the file, and somebody may have created a new one: a lock on
        // a file without a name excludes nobody.
        if !is_named(&file, path) {
            return Ok(None);
        }
        let text = serde_json::to_string(holder).unwrap_or_default();
        file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(failed)?;
        Ok(Some(Self { file: Some(file), path: path.to_owned(), _unsuspended: Unsuspended::begin() }))
    }

    /// For [`crate::world::process::Job::inherit`].
    pub fn descriptor(&self) -> Option<RawFd> {
        self.file.as_ref().map(descriptor)
    }

    /// Whether anybody currently holds the lock, and the holder if the file names one.
    ///
    /// # Errors
    /// `state-unwritable` if the file exists but cannot be read: somebody may hold it.
    pub fn holder(path: &Utf8Path) -> Result<Option<Option<Holder>>, Failure> {
        let failed =
            |error: std::io::Error| Failure::new(Code::StateUnwritable, format!("the lock file {path}: {error}"));
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(read_holder(path))),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

impl Drop for ClusterLock {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        let ours = is_named(&file, &self.path);
        drop(file);
        // If a child still has it open, the child holds the lock: the file stays, so that others
        // keep waiting for it. Otherwise it is removed while locked again.
        let Some(file) = File::open(&self.path).ok().filter(|_| ours) else { return };
        if file.try_lock().is_ok() && is_named(&file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The maximum size of what a holder writes about itself, in bytes.
const HOLDER: u64 = 64 << 10;

fn read_holder(path: &Utf8Path) -> Option<Holder> {
    let mut text = String::new();
    File::open(path).ok()?.take(HOLDER).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn describe(holder: &Option<Holder>) -> String {
    match holder {
        Some(holder) => holder.describe(Timestamp::now()),
        None => "a run that has not written its name yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::reporter::Format;
    use run_record::Exit;

    fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("k3d-cluster.lock")).unwrap();
        (folder, path)
    }

    #[test]
    fn a_second_holder_is_refused_and_told_who_holds_it() {
        let (_folder, path) = folder();
        let first = ClusterLock::try_acquire(&path, &Holder::this_process("one")).unwrap().unwrap();
        assert!(ClusterLock::try_acquire(&path, &Holder::this_process("two")).unwrap().is_none());
        assert_eq!(ClusterLock::holder(&path).unwrap().unwrap().unwrap().run, "one");
        drop(first);
        assert!(ClusterLock::holder(&path).unwrap().is_none());
        assert!(!path.exists());
        assert!(ClusterLock::try_acquire(&path, &Holder::this_process("two")).unwrap().is_some());
    }

    #[test]
    fn a_lock_that_cannot_be_looked_at_is_not_taken_for_free() {
        let (folder, _) = folder();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let path = Utf8PathBuf::from_path_buf(file.join("k3d-cluster.lock")).unwrap();
        assert_eq!(ClusterLock::holder(&path).unwrap_err().code, Code::StateUnwritable);
    }

    #[test]
    fn a_file_left_by_a_killed_holder_excludes_nobody() {
        let (_folder, path) = folder();
        std::fs::write(
            &path,
            r#"{"pid":1,"host":"x","user":"y","command":"z","run":"r","since":"2025-01-01T00:00:00Z"}"#,
        )
        .unwrap();
        assert!(ClusterLock::try_acquire(&path, &Holder::this_process("new")).unwrap().is_some());
    }

    #[test]
    fn a_lock_on_a_removed_file_is_not_taken_for_the_lock() {
        let (_folder, path) = folder();
        let first = ClusterLock::try_acquire(&path, &Holder::this_process("one")).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = ClusterLock::try_acquire(&path, &Holder::this_process("two")).unwrap();
        assert!(second.is_some(), "the new file is a new lock");
        drop(first);
        assert!(path.exists(), "the first holder leaves the second one's file alone");
    }

    #[test]
    fn the_file_stays_as_long_as_a_child_holds_the_lock() {
        let (_folder, path) = folder();
        let lock = ClusterLock::try_acquire(&path, &Holder::this_process("one")).unwrap().unwrap();
        // What a child inherits: the same open file.
        let inherited = lock.file.as_ref().unwrap().try_clone().unwrap();
        drop(lock);
        assert!(path.exists());
        assert!(ClusterLock::try_acquire(&path, &Holder::this_process("two")).unwrap().is_none());
        assert_eq!(ClusterLock::holder(&path).unwrap().unwrap().unwrap().run, "one");
        drop(inherited);
        let next = ClusterLock::try_acquire(&path, &Holder::this_process("two")).unwrap().unwrap();
        drop(next);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn waiting_ends_with_the_exit_code_of_a_lock_timeout() {
        let (_folder, path) = folder();
        let holder = Holder::this_process("one");
        let _held = ClusterLock::try_acquire(&path, &holder).unwrap();
        let reporter = Reporter::new(Format::Json, false);
        let failure = ClusterLock::acquire(&path, &holder, Duration::ZERO, &reporter).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::LockTimeout);
        assert!(failure.evidence[0].contains("pid"), "{failure:?}");
    }
}
