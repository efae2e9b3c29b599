//! The portable variant: POSIX programs (ps, sh), plus those of macOS (sysctl, vm_stat). What a
//! system cannot tell is unknown, which never counts as the harmless case.

use std::io;
use std::process::{Command, Stdio};

use rustix::process::Signal;

/// The output of one of the system's own programs, in the C locale.
fn printed(program: &str, arguments: &[&str]) -> io::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("LC_ALL", "C");
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    // ps exits with 1 if no process matches.
    if !matches!(output.status.code(), Some(0 | 1)) {
        return Err(io::Error::other(format!("{program} exited with {}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ps(pid: u32, field: &str) -> io::Result<Option<String>> {
    let said = printed("ps", &["-o", &format!("{field}="), "-p", &pid.to_string()])?;
    Ok(Some(said.trim().to_owned()).filter(|said| !said.is_empty()))
}

/// All processes of this machine share one.
pub fn pid_namespace() -> String {
    boot_id()
}

pub fn boot_id() -> String {
    printed("sysctl", &["-n", "kern.bootsessionuuid"]).unwrap_or_default().trim().to_owned()
}

/// A child inherits ignored signals: if it sends itself the signal and the signal is ignored, it
/// survives.
pub fn ignores(signal: Signal) -> bool {
    // Otherwise the signal ends it, which is an error here.
    printed("sh", &["-c", &format!("kill -{} $$; echo ignored", signal.as_raw())]).is_ok_and(|said| !said.is_empty())
}

pub fn available_memory() -> Option<u64> {
    available(&printed("vm_stat", &[]).ok()?)
}

/// From the output of vm_stat: pages that are free, or can be freed without writing anything.
fn available(text: &str) -> Option<u64> {
    let size: u64 = text.split_once("page size of ")?.1.split(' ').next()?.parse().ok()?;
    let pages = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().trim_end_matches('.').parse::<u64>().ok()
    };
    let others = ["Pages inactive", "Pages speculative", "Pages purgeable"].into_iter().filter_map(pages);
    pages("Pages free")?.checked_add(others.sum())?.checked_mul(size)
}

pub fn inotify_instances() -> Option<u64> {
    None
}

/// The engine runs in its own virtual machine here, where root may.
pub fn may_raise_limits() -> bool {
    true
}

pub fn mounts() -> String {
    String::new()
}

pub fn commands() -> io::Result<Vec<(u32, Vec<String>)>> {
    let said = printed("ps", &["-A", "-ww", "-o", "pid=", "-o", "args="])?;
    let of = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, words.map(str::to_owned).collect()))
    };
    let found: Vec<_> = said.lines().filter_map(of).collect();
    // At least ps itself is running.
    if found.is_empty() { Err(io::Error::other("ps lists no process")) } else { Ok(found) }
}

pub fn program(pid: u32) -> io::Result<Option<String>> {
    // macOS gives the whole path.
    Ok(ps(pid, "comm")?.map(|path| path.rsplit('/').next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
pub fn state(pid: u32) -> Option<char> {
    ps(pid, "state").ok()??.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_that_can_be_had_is_read_from_vm_stat() {
        let text = "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n\
            Pages free:                               10.\nPages active:                            1000.\n\
            Pages inactive:                           20.\nPages speculative:                         3.\n\
            Pages throttled:                           0.\nPages purgeable:                           4.\n";
        assert_eq!(available(text), Some(37 * 16384));
        assert_eq!(available(""), None);
        assert_eq!(available("(page size of 4096 bytes)\nPages active: 1.\n"), None);
    }

    #[test]
    fn a_signal_that_is_ignored_is_told_by_what_it_does_to_a_child() {
        // Nobody ignores USR1 here, so it ends the process that gets it.
        assert!(!ignores(Signal::USR1));
    }
}
