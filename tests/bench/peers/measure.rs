//! Processes, with the time and memory that they used according to the kernel.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;

#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub wall: Duration,
    /// User and system time.
    pub processor: Duration,
    pub peak_kib: u64,
}

impl Usage {
    /// Of two that ran one after the other.
    pub fn then(self, next: Self) -> Self {
        Self { peak_kib: self.peak_kib.max(next.peak_kib), ..self.beside(next) }
    }

    /// Of two that ran at once: the sum of the peaks, as they may have coincided.
    pub fn beside(self, other: Self) -> Self {
        Self {
            wall: self.wall + other.wall,
            processor: self.processor + other.processor,
            peak_kib: self.peak_kib + other.peak_kib,
        }
    }
}

/// In seconds.
pub struct Sample {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Sample {
    pub fn of(all: &[Usage]) -> Option<Self> {
        let mut walls: Vec<f64> = all.iter().map(|usage| usage.wall.as_secs_f64()).collect();
        walls.sort_by(f64::total_cmp);
        Some(Self { least: *walls.first()?, median: walls[walls.len() / 2], most: *walls.last()? })
    }
}

pub fn in_turn(chain: &mut [Command]) -> Result<Usage> {
    let mut usage = Usage::default();
    for command in chain {
        usage = usage.then(run(command)?);
    }
    Ok(usage)
}

fn run(command: &mut Command) -> Result<Usage> {
    let shown = format!("{command:?}");
    let failed = |error: std::io::Error| format!("{shown}: {error}");
    let mut said = tempfile::tempfile().map_err(failed)?;
    let copy = said.try_clone().map_err(failed)?;
    let started = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(copy).spawn().map_err(failed)?;
    let mut status = 0;
    let mut used = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to locals that live through the call, a zeroed `rusage`
    // is a valid one, and nobody else waits for this child.
    let used = unsafe {
        while libc::wait4(child.id().cast_signed(), &raw mut status, 0, used.as_mut_ptr()) == -1 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(failed(error));
            }
        }
        used.assume_init()
    };
    let wall = started.elapsed();
    if status != 0 {
        use std::io::{Read, Seek};
        let mut text = String::new();
        said.rewind().and_then(|()| said.read_to_string(&mut text)).map_err(failed)?;
        return Err(format!("{shown}: wait status {status}: {}", text.trim()));
    }
    let time = |of: libc::timeval| {
        Duration::from_secs(of.tv_sec.unsigned_abs()) + Duration::from_micros(of.tv_usec.unsigned_abs())
    };
    // Linux counts `ru_maxrss` in KiB.
    Ok(Usage { wall, processor: time(used.ru_utime) + time(used.ru_stime), peak_kib: used.ru_maxrss.unsigned_abs() })
}
