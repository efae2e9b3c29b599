//! What this machine's system tells of itself and of its processes, and how a child is tied
//! to the life of this process: by Linux's own ways, elsewhere (macOS) by portable ones. The
//! portable forms are tried on Linux too, in the tests: no machine of ours runs another system.

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

/// Whether there is a process of this number, be it somebody else's.
pub fn lives(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Where this process' number means it: a home folder is shared with containers, whose
/// processes have numbers of their own. Empty where that cannot be told.
pub fn pid_namespace() -> String {
    system::pid_namespace()
}

/// An id that this machine has until it is started anew; empty where that cannot be told.
pub fn boot_id() -> String {
    system::boot_id()
}

/// Whether this process was started with a signal ignored, as by `nohup`.
pub fn ignores(signal: Signal) -> bool {
    system::ignores(signal)
}

/// How much memory programs can have without others being pushed out, in bytes.
pub fn available_memory() -> Option<u64> {
    system::available_memory()
}

/// How many inotify instances a user may have, where the system has such.
pub fn inotify_instances() -> Option<u64> {
    system::inotify_instances()
}

/// Whether this machine's root may raise resource limits. Where it may not, runc cannot start
/// privileged containers, which k3d's nodes are.
pub fn may_raise_limits() -> bool {
    system::may_raise_limits()
}

/// The mounts of the container that this process may be in, as proc(5) has them; empty where
/// processes are in no containers.
pub fn mounts() -> String {
    system::mounts()
}

/// Every process with the words of its command line. Where the system tells only the whole
/// line, a word with white space in it is several.
///
/// # Errors
/// Of the system, which did not list them: then nothing is known of any.
pub fn commands() -> io::Result<Vec<(u32, Vec<String>)>> {
    system::commands()
}

/// The file name of what a process runs; none where there is no such process.
///
/// # Errors
/// Of the system.
pub fn program(pid: u32) -> io::Result<Option<String>> {
    system::program(pid)
}

/// Has the child signalled when this process ends, however that comes about. To be followed by
/// [`untie`] when the child has ended. On Linux the kernel does it when the thread ends that
/// starts the child, so that this thread has to be the main one; elsewhere a helper does it,
/// which lives as long as this process.
///
/// # Errors
/// Of the system, which gave no helper.
pub fn tie(command: &mut Command, signal: Signal) -> io::Result<()> {
    tying::tie(command, signal)
}

/// Forgets a child that has ended: its number may be another process' by and by.
pub fn untie(pid: Pid) {
    tying::untie(pid);
}

/// Forgets the child that was tied last, which could not be started.
pub fn untie_newest() {
    tying::untie_newest();
}

/// `R`, `S`, `Z` …, as ps(1) has it.
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

    /// The two forms say one thing of one machine.
    #[cfg(target_os = "linux")]
    #[test]
    fn linux_and_the_portable_form_agree() {
        let null = std::process::Stdio::null;
        let mut child = Command::new("sleep").arg("600").stdout(null()).stderr(null()).spawn().unwrap();
        let pid = child.id();
        // It has its parent's name until it is its program.
        while linux::program(pid).unwrap().as_deref() != Some("sleep") {
            std::thread::yield_now();
        }
        let find = |commands: Vec<(u32, Vec<String>)>| commands.into_iter().find(|(number, _)| *number == pid);
        let linux = find(linux::commands().unwrap()).unwrap();
        assert_eq!(linux.1, ["sleep", "600"]);
        // Debian's smallest machine has no ps; every macOS has one.
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
        // What only macOS has programs for is unknown here, and nothing worse.
        assert_eq!((portable::boot_id().as_str(), portable::available_memory()), ("", None));
        assert!(!linux::boot_id().is_empty() && linux::available_memory().is_some());
        assert_eq!((portable::pid_namespace().as_str(), portable::mounts().as_str()), ("", ""));
        assert!(linux::pid_namespace().starts_with("pid:[") && linux::mounts().contains(" / "));
        assert!(portable::may_raise_limits() && portable::inotify_instances().is_none());
    }
}
