//! `kubectl port-forward`, which forwards connections from ports on this machine's loopback to a
//! pod. The pinned kubectl does it, not this program: kube's implementation needs its feature `ws`,
//! which adds tungstenite and its dependencies to the build time of everybody who types `cargo
//! xtask`.

use std::net::{Ipv4Addr, TcpListener};

use camino::Utf8Path;
use run_record::{Code, Failure};

use crate::run::context::Context;
use crate::world::process::Job;
use crate::world::tools::Toolbox;

/// A port of this machine, and the pod's port behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub local: u16,
    pub remote: u16,
}

/// How one port-forward ended, by itself or because of `stop`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// Whether it was listening.
    pub listened: bool,
    /// kubectl's last message, if it ended by itself.
    pub why: String,
}

/// Forwards until kubectl ends or `stop` resolves; `on_listening` is called once when the ports are
/// open.
///
/// # Errors
/// `interrupted`; a kubectl that cannot be started.
pub async fn forward(
    context: &Context,
    toolbox: &Toolbox,
    (namespace, pod): (&str, &str),
    pairs: &[Pair],
    log: &Utf8Path,
    mut on_listening: impl FnMut(),
    stop: impl Future<Output = ()>,
) -> Result<Over, Failure> {
    let mut command = toolbox.command_on("kubectl", context);
    command.args(["--context", &context.site.kube_context, "--namespace", namespace]);
    command.args(["port-forward", "--address", "127.0.0.1", &format!("pod/{pod}")]);
    command.args(pairs.iter().map(|pair| format!("{}:{}", pair.local, pair.remote)));
    let mut open = 0;
    let job = Job { command, log, inherit: None };
    let on_line = |line: &str| {
        if line.starts_with("Forwarding from ") {
            open += 1;
            if open == pairs.len() {
                on_listening();
            }
        } else {
            context.run.reporter.progress(line);
        }
    };
    let mut stopped = false;
    let stopping = async {
        stop.await;
        stopped = true;
        Failure::new(Code::Unknown, "the forwarding was to end")
    };
    let ended = job.run(on_line, stopping).await;
    let listened = open >= pairs.len();
    match ended {
        Ok(ended) => {
            let last = ended.tail.iter().rev().find(|line| !line.starts_with("Handling connection"));
            Ok(Over { listened, why: last.cloned().unwrap_or_else(|| ended.status.to_string()) })
        }
        Err(_) if stopped => Ok(Over { listened, why: "the pod is being replaced".to_owned() }),
        Err(failure) => Err(failure),
    }
}

/// A free loopback port: this one if it is free and this user may listen on it, else any; `None` if
/// there is none.
pub fn free_port(wanted: u16) -> Option<u16> {
    if is_free(wanted) {
        return Some(wanted);
    }
    let any = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    Some(any.local_addr().ok()?.port())
}

/// Whether this user can listen on a loopback port.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_somebody_has_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(!is_free(port));
        let other = free_port(port).unwrap();
        assert_ne!(other, port);
        drop(taken);
        assert_eq!(free_port(port), Some(port));
    }
}
