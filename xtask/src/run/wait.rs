//! The only poll loop, for things that cannot be watched and give no notification: another user's
//! process, a lock file, a server that is coming up.

use std::fs::TryLockError;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use camino::Utf8Path;
use run_record::{Code, Failure};

use crate::run::interrupt::Interrupt;

/// Calls `look` until it returns [`ControlFlow::Break`], or until `within` is over: then it returns
/// the last [`ControlFlow::Continue`], with the reason why it is not ready yet. The first look
/// happens immediately, the last one not before `within` is over.
///
/// # Errors
/// An error of a look, which ends the wait; `interrupted`.
pub async fn until<T, R>(
    every: Duration,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<ControlFlow<T, R>, Failure>,
) -> Result<ControlFlow<T, R>, Failure> {
    let started = Instant::now();
    loop {
        let late = started.elapsed() >= within;
        let seen = look().await?;
        if late || seen.is_break() {
            return Ok(seen);
        }
        Interrupt::global().or(tokio::time::sleep(every)).await?;
    }
}

/// Waits for a file that another run has locked; `told` reports that once, if there is a wait.
///
/// # Errors
/// `interrupted`; `state-unwritable` if the file system has no locks.
pub async fn for_lock(lock: &std::fs::File, told: impl FnOnce()) -> Result<(), Failure> {
    const EVERY: Duration = Duration::from_millis(200);
    let mut told = Some(told);
    let look = async || {
        match lock.try_lock() {
            Ok(()) => return Ok(ControlFlow::Break(())),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                let message = format!("the cache's file system does not support locks: {error}");
                return Err(Failure::new(Code::StateUnwritable, message)
                    .remedy("set AMEIDE_CACHE_DIR to a folder on a file system that supports locks"));
            }
        }
        if let Some(tell) = told.take() {
            tell();
        }
        Ok(ControlFlow::Continue(()))
    };
    until(EVERY, Duration::MAX, look).await.map(drop)
}

/// Takes this lock file, creating it and its folder, and waits for another run that has it; it is
/// held until what is returned is dropped.
///
/// # Errors
/// `disk-full` if it cannot be created; as [`for_lock`].
pub async fn turn(path: &Utf8Path, told: impl FnOnce()) -> Result<std::fs::File, Failure> {
    let created = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::File::create(path));
    let lock = created.map_err(|error| Failure::new(Code::DiskFull, format!("cannot write {path}: {error}")))?;
    for_lock(&lock, told).await?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFTEN: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn it_looks_until_it_is_so() {
        let mut looks = 0;
        let seen = until(OFTEN, Duration::from_secs(60), async || {
            looks += 1;
            Ok(if looks == 3 { ControlFlow::Break("here") } else { ControlFlow::Continue(()) })
        });
        assert_eq!(seen.await.unwrap(), ControlFlow::Break("here"));
        assert_eq!(looks, 3);
    }

    #[tokio::test]
    async fn what_is_late_keeps_its_last_reason_and_is_looked_at_once_at_least() {
        let mut looks = 0;
        let seen = until(OFTEN, Duration::ZERO, async || {
            looks += 1;
            Ok(ControlFlow::<(), _>::Continue(format!("look {looks}")))
        });
        assert_eq!(seen.await.unwrap(), ControlFlow::Continue("look 1".to_owned()));
    }

    #[tokio::test]
    async fn a_look_that_fails_ends_the_wait() {
        let look = async || Err::<ControlFlow<(), ()>, _>(Failure::usage("broken"));
        assert_eq!(until(OFTEN, Duration::from_secs(60), look).await.unwrap_err().message, "broken");
    }
}
