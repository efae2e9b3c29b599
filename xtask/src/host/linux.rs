//! The Linux variant: proc(5), prctl(2).

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal};

fn proc(path: &str) -> String {
    std::fs::read_to_string(format!("/proc/{path}")).unwrap_or_default()
}

/// A bit set from the status of this process, in hexadecimal digits.
fn status(field: &str) -> Option<u64> {
    let status = proc("self/status");
    let set = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

pub fn pid_namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid").unwrap_or_default().display().to_string()
}

pub fn boot_id() -> String {
    proc("sys/kernel/random/boot_id").trim().to_owned()
}

pub fn ignores(signal: Signal) -> bool {
    status("SigIgn").is_some_and(|set| set & (1 << (signal.as_raw() - 1)) != 0)
}

pub fn available_memory() -> Option<u64> {
    let text = proc("meminfo");
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.split_whitespace().next());
    kib?.parse::<u64>().ok().map(|kib| kib * 1024)
}

pub fn inotify_instances() -> Option<u64> {
    proc("sys/fs/inotify/max_user_instances").trim().parse().ok()
}

/// Whether the bounding set has CAP_SYS_RESOURCE (bit 24, `capability.h`), or cannot be read.
pub fn may_raise_limits() -> bool {
    status("CapBnd").is_none_or(|set| set & (1 << 24) != 0)
}

pub fn mounts() -> String {
    proc("self/mountinfo")
}

pub fn commands() -> io::Result<Vec<(u32, Vec<String>)>> {
    let of = |entry: std::fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = line.strip_suffix(b"\0").unwrap_or(&line);
        let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        Some((pid, words.collect()))
    };
    Ok(std::fs::read_dir("/proc")?.flatten().filter_map(of).collect())
}

pub fn program(pid: u32) -> io::Result<Option<String>> {
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => Ok(Some(name.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn tie(command: &mut Command, signal: Signal) -> io::Result<()> {
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only async-signal-safe system calls are made.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(signal))?;
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::other("the parent has ended"));
            }
            Ok(())
        });
    }
    Ok(())
}

pub fn untie_newest() {}

pub fn untie(_: Pid) {}

#[cfg(test)]
pub fn state(pid: u32) -> Option<char> {
    proc(&format!("{pid}/stat")).rsplit_once(") ")?.1.chars().next()
}
