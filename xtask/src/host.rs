//! What this machine's system says about itself and its processes, and how a child process is tied
//! to the lifetime of this one: with Linux's own mechanisms, elsewhere (macOS) with portable ones.
//! The tests also run the portable variants on Linux, because we have no machine with another
//! system.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(test, not(target_os = "linux")))]
mod portable;
#[cfg(any(test, not(target_os = "linux")))]
mod watcher;

#[cfg(target_os = "linux")]
use {linux as system, linux as tying};
#[cfg(not(target_os = "linux"))]
use {portable as system, watcher as tying};

use std::io;
use std::process::Command;

use rustix::process::{Pid, Signal};

/// Whether there is a process with this id, even somebody else's.
pub fn lives(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// The namespace in which this process's id is valid: a home folder may be shared with containers,
/// which have their own process ids. Empty if unknown.
pub fn pid_namespace() -> String {
    system::pid_namespace()
}

/// An id that stays the same until this machine reboots; empty if unknown.
pub fn boot_id() -> String {
    system::boot_id()
}

/// Whether this process was started with a signal ignored, as `nohup` does.
pub fn ignores(signal: Signal) -> bool {
    system::ignores(signal)
}

/// How much memory is available to programs without evicting others, in bytes.
pub fn available_memory() -> Option<u64> {
    system::available_memory()
}

/// How many inotify instances a user may have, on systems with inotify.
pub fn inotify_instances() -> Option<u64> {
    system::inotify_instances()
}

/// Whether root on this machine may raise resource limits. If not, runc cannot start privileged
/// containers, which k3d's nodes are.
pub fn may_raise_limits() -> bool {
    system::may_raise_limits()
}

/// The mounts of the container that this process may be in, in the format of proc(5); empty on
/// systems where processes are not in containers.
pub fn mounts() -> String {
    system::mounts()
}

/// Every process with the words of its command line. If the system only gives the whole line, a
/// word with white space in it becomes several words.
///
/// # Errors
/// If the system cannot list them: then nothing is known about any process.
pub fn commands() -> io::Result<Vec<(u32, Vec<String>)>> {
    system::commands()
}

/// The file name of a process's program; `None` if there is no such process.
///
/// # Errors
/// Of the system.
pub fn program(pid: u32) -> io::Result<Option<String>> {
    system::program(pid)
}

/// Makes the child receive a signal when this process ends, for whatever reason. Call [`untie`]
/// when the child has ended. On Linux the kernel sends the signal when the thread that started the
/// child ends, so this must be the main thread; elsewhere a helper does, which lives as long as
/// this process.
///
/// # Errors
/// If the system could not start the helper.
pub fn tie(command: &mut Command, signal: Signal) -> io::Result<()> {
    tying::tie(command, signal)
}

/// Forgets a child that has ended: its process id may be reused.
pub fn untie(pid: Pid) {
    tying::untie(pid);
}

/// Forgets the last child that was tied, because it could not be started.
pub fn untie_newest() {
    tying::untie_newest();
}

/// `R`, `S`, `Z` …, as in ps(1).
#[cfg(test)]
pub fn state(pid: u32) -> Option<char> {
    system::state(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_lives_until_it_was_waited_for() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        assert!(lives(pid) && lives(1) && lives(std::process::id()));
        child.wait().unwrap();
        assert!(!lives(pid) && !lives(0) && !lives(u32::MAX));
    }

    /// Both variants report the same about the same machine.
    #[cfg(target_os = "linux")]
    #[test]
    fn linux_and_the_portable_form_agree() {
        let null = std::process::Stdio::null;
        let mut child = Command::new("sleep").arg("600").stdout(null()).stderr(null()).spawn().unwrap();
        let pid = child.id();
        // Until exec it has its parent's name.
        while linux::program(pid).unwrap().as_deref() != Some("sleep") {
            std::thread::yield_now();
        }
        let find = |commands: Vec<(u32, Vec<String>)>| commands.into_iter().find(|(number, _)| *number == pid);
        let linux = find(linux::commands().unwrap()).unwrap();
        assert_eq!(linux.1, ["sleep", "600"]);
        // Debian's minimal image has no ps; every macOS has one.
        if which::which("ps").is_ok() {
            assert_eq!(find(portable::commands().unwrap()), Some(linux));
            assert_eq!(portable::program(pid).unwrap().as_deref(), Some("sleep"));
            assert_eq!(portable::state(pid), linux::state(pid));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(linux::program(pid).unwrap().is_none() && portable::state(pid).is_none());
        for signal in [Signal::HUP, Signal::INT] {
            assert_eq!(portable::ignores(signal), linux::ignores(signal), "{signal:?}");
        }
        // Values that need macOS programs are unknown here, but that is all.
        assert_eq!((portable::boot_id().as_str(), portable::available_memory()), ("", None));
        assert!(!linux::boot_id().is_empty() && linux::available_memory().is_some());
        assert_eq!((portable::pid_namespace().as_str(), portable::mounts().as_str()), ("", ""));
        assert!(linux::pid_namespace().starts_with("pid:[") && linux::mounts().contains(" / "));
        assert!(portable::may_raise_limits() && portable::inotify_instances().is_none());
    }
}
