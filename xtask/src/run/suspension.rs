//! Suspending this process from its terminal (Ctrl-Z, SIGTSTP). The programs that it starts have
//! their own process groups, so it would stop alone: its Lease would expire while Helm still
//! changes the cluster. A run that holds the cluster therefore goes on, and says so.

use std::io::{Read, Write};
use std::mem::zeroed;
use std::ptr::{null, null_mut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::run::reporter::Reporter;

/// How many [`Unsuspended`] there are. Locked while this process is being stopped, so that none
/// begins meanwhile.
static UNSUSPENDED: Mutex<usize> = Mutex::new(0);

fn unsuspended() -> MutexGuard<'static, usize> {
    UNSUSPENDED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, the terminal cannot suspend this process.
#[derive(Debug)]
pub struct Unsuspended(());

impl Unsuspended {
    pub fn begin() -> Self {
        *unsuspended() += 1;
        Self(())
    }
}

impl Drop for Unsuspended {
    fn drop(&mut self) {
        *unsuspended() -= 1;
    }
}

/// Handles TSTP from now on: by suspending this process as before, unless something is
/// [`Unsuspended`].
///
/// # Errors
/// If the system could not create the pipe, the thread or the handler.
pub fn listen(reporter: Arc<Reporter>) -> std::io::Result<()> {
    // SAFETY: zeros are a valid sigaction, which is only written to.
    let usual = unsafe {
        let mut usual = zeroed();
        libc::sigaction(libc::SIGTSTP, null(), &mut usual);
        usual
    };
    let (mut asked, ask) = std::io::pipe()?;
    std::thread::Builder::new().name("suspension".to_owned()).spawn(move || {
        // Several at once are one.
        while asked.read(&mut [0; 64]).is_ok_and(|read| read > 0) {
            answer(&reporter, &usual);
        }
    })?;
    // SAFETY: write(2) is async-signal-safe.
    unsafe { signal_hook_registry::register(libc::SIGTSTP, move || drop((&ask).write(&[0]))) }.map(drop)
}

fn answer(reporter: &Reporter, usual: &libc::sigaction) {
    let unsuspended = unsuspended();
    if *unsuspended > 0 {
        let text = "not suspended: this run holds the cluster, and what it started would go on without it; \
                    Ctrl-C ends the run";
        return reporter.warn("signals", text);
    }
    // Not by SIGSTOP, which also stops a process that no shell could continue. This thread receives
    // what it raises before it goes on, so the handler is not put back too early.
    // SAFETY: zeros are a valid sigaction, and both are what the system gave.
    unsafe {
        let mut ours = zeroed();
        libc::sigaction(libc::SIGTSTP, usual, &mut ours);
        libc::raise(libc::SIGTSTP);
        libc::sigaction(libc::SIGTSTP, &ours, null_mut());
    }
}
