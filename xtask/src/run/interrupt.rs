//! What ends a run early: a signal, or the loss of something that the run needs (its Lease).
//! Interrupts are counted from the start of the process, so that one between two steps is not lost,
//! and are honoured anywhere in the run: [`Interrupt::until`] surrounds all of a command's work.
//!
//! A separate thread receives the signals: if the main thread is blocked (by a credential plugin
//! that hangs, for example), that thread ends the process.

use std::os::unix::process::CommandExt;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::host;
use run_record::{Code, Failure};

/// At this interrupt even the cleanup is abandoned: its children are killed.
pub const LAST: i32 = 3;

/// How long the main thread may stay blocked after an interrupt.
const HELD_UP: Duration = Duration::from_secs(2);

/// Whether and why this run has to end.
pub struct Interrupt {
    /// The first reason; later ones do not replace it.
    cause: OnceLock<Failure>,
    /// The number of the latest signal.
    signal: AtomicI32,
    count: AtomicI32,
    /// How many of them the main thread has honoured.
    honoured: AtomicI32,
    /// The first signal, written by its handler: code that checks before it starts a child sees it
    /// before any thread has been woken up.
    raised: AtomicI32,
    /// How many pieces of work must finish before the run may end.
    tidying: AtomicUsize,
    changed: Notify,
}

/// While it lives, an interrupted run does not end: a child has to end, or something is being
/// cleaned up.
pub struct Tidying<'a>(&'a Interrupt);

impl Drop for Tidying<'_> {
    fn drop(&mut self) {
        self.0.tidying.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

impl Interrupt {
    pub(crate) const fn new() -> Self {
        Self {
            cause: OnceLock::new(),
            signal: AtomicI32::new(0),
            count: AtomicI32::new(0),
            honoured: AtomicI32::new(0),
            raised: AtomicI32::new(0),
            tidying: AtomicUsize::new(0),
            changed: Notify::const_new(),
        }
    }

    /// The one of this process; `listen` starts it.
    pub fn global() -> &'static Self {
        static INTERRUPT: Interrupt = Interrupt::new();
        &INTERRUPT
    }

    /// Handles INT, TERM and HUP from now on; HUP only if this process was not started to outlive
    /// its terminal (`nohup`).
    ///
    /// # Errors
    /// If the system could not create the thread or a handler.
    pub fn listen(&'static self) -> std::io::Result<()> {
        let outlives = host::ignores(Signal::HUP);
        let hangup = (!outlives).then_some((1, 15));
        for (taken, number) in [(2, 2), (15, 15)].into_iter().chain(hangup) {
            let raise = move || {
                let _ = self.raised.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst);
            };
            // SAFETY: one atomic write is async-signal-safe.
            unsafe { signal_hook_registry::register(taken, raise) }?;
        }
        let (tell, listening) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let started = runtime.and_then(|runtime| {
                let streams = runtime.block_on(async {
                    let hangup = if outlives { None } else { Some(signal(SignalKind::hangup())?) };
                    Ok::<_, std::io::Error>((
                        signal(SignalKind::interrupt())?,
                        signal(SignalKind::terminate())?,
                        hangup,
                    ))
                })?;
                Ok((runtime, streams))
            });
            let (runtime, (mut interrupt, mut terminate, mut hangup)) = match started {
                Ok(started) => started,
                Err(error) => return drop(tell.send(Err(error))),
            };
            drop(tell.send(Ok(())));
            runtime.block_on(async {
                let mut deadline = None;
                loop {
                    let hung_up = async {
                        match &mut hangup {
                            Some(hangup) => drop(hangup.recv().await),
                            None => std::future::pending().await,
                        }
                    };
                    let late = async {
                        match deadline {
                            Some(at) => tokio::time::sleep_until(at).await,
                            None => std::future::pending().await,
                        }
                    };
                    let number = tokio::select! {
                        _ = interrupt.recv() => 2,
                        _ = terminate.recv() => 15,
                        () = hung_up => 15,
                        () = late => {
                            if self.honoured.load(Ordering::SeqCst) < self.count.load(Ordering::SeqCst) {
                                // Children end with this process: see `host::tie`.
                                std::process::exit(self.check().err().map_or(130, |failure| failure.exit() as i32));
                            }
                            deadline = None;
                            continue;
                        }
                    };
                    self.signalled(number);
                    deadline.get_or_insert(tokio::time::Instant::now() + HELD_UP);
                }
            });
        })?;
        listening.recv().unwrap_or_else(|_| Err(std::io::Error::other("the thread for signals ended")))
    }

    pub(crate) fn signalled(&self, number: i32) {
        self.signal.store(number, Ordering::SeqCst);
        self.stop(cause(number));
    }

    /// Ends the run for a reason other than a signal, in the same way.
    pub fn stop(&self, cause: Failure) {
        // A later reason only makes it more urgent.
        let _ = self.cause.set(cause);
        self.count.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Fails with what an interrupted run ends with, if there was an interrupt.
    pub fn check(&self) -> Result<(), Failure> {
        match self.raised.load(Ordering::SeqCst) {
            0 => {}
            number => drop(self.cause.set(cause(number))),
        }
        self.cause.get().map_or(Ok(()), |cause| Err(cause.clone()))
    }

    /// Keeps a child from becoming its program if a signal came after the last [`Self::check`]:
    /// starting it takes milliseconds, and the kernel repeats a fork that a signal interrupted. The
    /// start then fails as [`std::io::ErrorKind::Interrupted`].
    pub fn keep_from_starting(command: &mut std::process::Command) {
        // SAFETY: between fork and exec only one atomic is read.
        unsafe {
            command.pre_exec(|| match Self::global().raised.load(Ordering::SeqCst) {
                0 => Ok(()),
                _ => Err(rustix::io::Errno::INTR.into()),
            });
        }
    }

    /// Resolves at the `n`th interrupt since the process started.
    pub async fn nth(&self, n: i32) -> Signal {
        loop {
            let changed = self.changed.notified();
            if self.count.load(Ordering::SeqCst) >= n {
                return if self.signal.load(Ordering::SeqCst) == 15 { Signal::TERM } else { Signal::INT };
            }
            changed.await;
        }
    }

    /// Runs `work` to its end unless an interrupt comes first: then it is dropped.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            _ = self.nth(1) => {}
            value = work => return Ok(value),
        }
        Err(self.check().err().unwrap_or_else(|| Failure::new(Code::Interrupted, "interrupted")))
    }

    /// Runs `work`, which starts children and cleans up, to its end. After an interrupt it
    /// continues while anything in it is [`Self::tidying`], and is then dropped; at the [`LAST`]
    /// interrupt, immediately. An interrupted run returns the interrupt, whatever the result of the
    /// work.
    pub async fn until<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let mut work = pin!(work);
        loop {
            let changed = self.changed.notified();
            tokio::select! {
                biased;
                result = &mut work => return self.check().and(result),
                () = async { if !self.leaves() { changed.await } } => {}
            }
            // If something changed since that poll, the work gets it first: an `until` inside it
            // may have something to clean up.
            tokio::select! {
                biased;
                result = &mut work => return self.check().and(result),
                () = std::future::ready(()) => {}
            }
            self.honoured.store(self.count.load(Ordering::SeqCst), Ordering::SeqCst);
            if self.leaves() {
                self.check()?;
            }
        }
    }

    fn leaves(&self) -> bool {
        let count = self.count.load(Ordering::SeqCst);
        count > 0 && (count >= LAST || self.tidying.load(Ordering::SeqCst) == 0)
    }

    /// Keeps an interrupted run from ending while the result lives. What it covers must be bounded.
    pub fn tidying(&self) -> Tidying<'_> {
        self.tidying.fetch_add(1, Ordering::SeqCst);
        Tidying(self)
    }

    /// Cleans up something that an interrupt must not leave behind, within a time limit.
    pub async fn tidy<T>(&self, at_most: Duration, work: impl Future<Output = T>) -> Option<T> {
        let _tidying = self.tidying();
        tokio::time::timeout(at_most, work).await.ok()
    }
}

fn cause(number: i32) -> Failure {
    let terminated = number == 15;
    Failure::interrupted(!terminated, if terminated { "terminated" } else { "interrupted" })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use run_record::{Code, Exit};

    #[tokio::test]
    async fn work_that_never_answers_is_left_at_the_first_interrupt() {
        let interrupt = Interrupt::new();
        let work = interrupt.until(std::future::pending::<Result<(), Failure>>());
        let (result, ()) = tokio::join!(work, async { interrupt.signalled(15) });
        assert_eq!(result.unwrap_err().exit(), Exit::Terminated);
    }

    #[tokio::test]
    async fn an_interrupt_between_two_steps_is_not_lost() {
        let interrupt = Interrupt::new();
        interrupt.signalled(2);
        assert_eq!(interrupt.or(std::future::ready(1)).await.unwrap_err().exit(), Exit::Interrupted);
        let result = interrupt.until(async { Ok(()) }).await;
        assert_eq!(result.unwrap_err().exit(), Exit::Interrupted, "also where the work had just come to its end");
        let result = interrupt.until(std::future::pending::<Result<(), Failure>>()).await;
        assert_eq!(result.unwrap_err().exit(), Exit::Interrupted);
    }

    #[tokio::test]
    async fn what_tidies_up_comes_to_its_end_and_nothing_after_it_begins() {
        let interrupt = Interrupt::new();
        let (tidied, began) = (Cell::new(false), Cell::new(false));
        let work = async {
            interrupt.tidy(Duration::from_secs(60), tokio::time::sleep(Duration::from_millis(30))).await;
            tidied.set(true);
            std::future::pending::<()>().await;
            began.set(true);
            Ok(())
        };
        let (result, ()) = tokio::join!(interrupt.until(work), async { interrupt.signalled(2) });
        assert_eq!(result.unwrap_err().exit(), Exit::Interrupted);
        assert!(tidied.get() && !began.get());
    }

    #[tokio::test]
    async fn what_stands_inside_tidies_up_before_what_stands_around_is_left() {
        let interrupt = Interrupt::new();
        let released = Cell::new(false);
        let work = async {
            let result = interrupt.until(std::future::pending::<Result<(), Failure>>()).await;
            let release = async {
                tokio::task::yield_now().await;
                released.set(true);
            };
            interrupt.tidy(Duration::from_secs(60), release).await;
            result
        };
        let (result, ()) = tokio::join!(interrupt.until(work), async { interrupt.signalled(2) });
        assert!(result.is_err() && released.get());
    }

    #[tokio::test]
    async fn the_third_interrupt_waits_for_nothing() {
        let interrupt = Interrupt::new();
        let work = async {
            interrupt.tidy(Duration::from_secs(3600), std::future::pending::<()>()).await;
            Ok(())
        };
        let signals = async {
            for _ in 0..LAST {
                interrupt.signalled(2);
                tokio::task::yield_now().await;
            }
        };
        let (result, ()) = tokio::join!(interrupt.until(work), signals);
        assert_eq!(result.unwrap_err().exit(), Exit::Interrupted);
    }

    #[test]
    fn the_first_reason_stands() {
        let interrupt = Interrupt::new();
        interrupt.stop(Failure::new(Code::LockLost, "lost"));
        interrupt.signalled(2);
        assert_eq!(interrupt.check().unwrap_err().code, Code::LockLost);
    }
}
