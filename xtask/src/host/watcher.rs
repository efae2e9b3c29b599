//! Ends the children of a process that was killed, on systems whose kernel does not: a shell reads
//! a pipe whose other end only this process has. When that is closed, however this process ended,
//! each child still on the list is signalled, as the Linux kernel would: only the child itself, not
//! its own children. A child puts itself on the list before it execs its program, so that there is
//! no moment at which it is missing.
//!
//! If somebody kills the shell too, the children are left alone; the next child is started with a
//! new shell.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal};

/// Reads `+ PID SIGNAL`, `- PID`, and `!`: the newest never became its program. It ignores the
/// terminal's signals.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
while read -r sign pid signal; do
  if [ "$sign" = + ]; then
    set -- "$@" "$pid $signal"
  elif [ "$sign" = - ]; then
    for entry do
      shift
      [ "${entry% *}" = "$pid" ] || set -- "$@" "$entry"
    done
  else
    newest=$#
    for entry do
      shift
      newest=$((newest - 1))
      [ "$newest" = 0 ] || set -- "$@" "$entry"
    done
  fi
done
for entry do kill -"${entry#* }" "${entry% *}"; done
"#;

struct Watcher {
    shell: Child,
    list: File,
}

impl Watcher {
    fn start() -> io::Result<Self> {
        let (reads, writes) = io::pipe()?;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SCRIPT]).env_clear().current_dir("/").process_group(0);
        let shell = shell.stdin(Stdio::from(reads)).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self { shell, list: File::from(OwnedFd::from(writes)) })
    }

    /// Makes the child put itself on the list.
    fn put(&self, command: &mut Command, signal: Signal) {
        let (list, parent) = (self.list.as_raw_fd(), rustix::process::getpid());
        // SAFETY: between fork and exec only async-signal-safe system calls are made, and the
        // list is closed only after its shell has ended, or with this process.
        unsafe {
            command.pre_exec(move || {
                let (line, length) = line(rustix::process::getpid().as_raw_nonzero().get(), signal.as_raw());
                rustix::io::write(BorrowedFd::borrow_raw(list), &line[..length])?;
                if rustix::process::getppid() != Some(parent) {
                    return Err(io::Error::other("the parent has ended"));
                }
                Ok(())
            });
        }
    }
}

static WATCHER: Mutex<Option<Watcher>> = Mutex::new(None);

/// The longest line: a sign, a number of ten digits, a signal.
const LINE: usize = 24;

/// `+ PID SIGNAL`, formatted without heap allocation, which is not allowed between fork and exec.
fn line(pid: i32, signal: i32) -> ([u8; LINE], usize) {
    let mut line = [0; LINE];
    let mut rest = &mut line[..];
    // The buffer is long enough.
    let _ = writeln!(rest, "+ {pid} {signal}");
    let left = rest.len();
    (line, LINE - left)
}

pub fn tie(command: &mut Command, signal: Signal) -> io::Result<()> {
    let mut watcher = WATCHER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(watching) = watcher.as_mut()
        && watching.shell.try_wait()?.is_none()
    {
        watching.put(command, signal);
        return Ok(());
    }
    watcher.insert(Watcher::start()?).put(command, signal);
    Ok(())
}

pub fn untie(pid: Pid) {
    tell(&format!("- {}\n", pid.as_raw_nonzero()));
}

// On Linux only the tests use this variant.
#[cfg_attr(target_os = "linux", expect(dead_code))]
pub fn untie_newest() {
    tell("!\n");
}

fn tell(line: &str) {
    let watcher = WATCHER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(watcher) = watcher.as_ref() {
        // If the shell has ended, there is nothing to forget.
        let _ = (&watcher.list).write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    /// A child that keeps no stream of these tests open.
    fn sleeping() -> Command {
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    #[test]
    fn the_longest_line_fits() {
        let (text, length) = line(i32::MAX, 31);
        assert_eq!(&text[..length], b"+ 2147483647 31\n");
    }

    #[test]
    fn who_is_on_the_list_ends_when_it_is_closed_and_nobody_else() {
        let mut watcher = Watcher::start().unwrap();
        let mut children: Vec<Child> = (0..3).map(|_| sleeping().spawn().unwrap()).collect();
        for child in &children {
            let (line, length) = line(child.id() as i32, Signal::TERM.as_raw());
            watcher.list.write_all(&line[..length]).unwrap();
        }
        writeln!(watcher.list, "- {}", children[1].id()).unwrap();
        // A child whose program did not exist: its id may already be reused.
        let (never, length) = line(std::process::id() as i32, Signal::TERM.as_raw());
        watcher.list.write_all(&never[..length]).unwrap();
        writeln!(watcher.list, "!").unwrap();
        let Watcher { mut shell, list } = watcher;
        assert!(children[0].try_wait().unwrap().is_none());
        drop(list);
        assert!(shell.wait().unwrap().success());
        for tied in [0, 2] {
            assert_eq!(children[tied].wait().unwrap().signal(), Some(15));
        }
        assert!(children[1].try_wait().unwrap().is_none(), "it had ended, as far as the list knows");
        children[1].kill().unwrap();
        children[1].wait().unwrap();
    }

    #[test]
    fn a_child_is_on_the_list_before_it_is_its_program() {
        let watcher = Watcher::start().unwrap();
        let mut command = sleeping();
        watcher.put(&mut command, Signal::KILL);
        let mut child = command.spawn().unwrap();
        assert!(child.try_wait().unwrap().is_none());
        let Watcher { mut shell, list } = watcher;
        drop(list);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(shell.wait().unwrap().success());
    }

    /// On systems other than Linux, the children of other tests are on this list too.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_shell_that_somebody_killed_is_replaced() {
        let mut command = Command::new("true");
        tie(&mut command, Signal::KILL).unwrap();
        let first = WATCHER.lock().unwrap().as_mut().map(|watcher| {
            watcher.shell.kill().unwrap();
            watcher.shell.wait().unwrap();
            watcher.shell.id()
        });
        let mut command = Command::new("true");
        tie(&mut command, Signal::KILL).unwrap();
        let mut child = command.spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert!(child.wait().unwrap().success());
        untie(pid);
        assert_ne!(WATCHER.lock().unwrap().as_ref().map(|watcher| watcher.shell.id()), first);
    }
}
