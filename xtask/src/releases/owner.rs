//! Who works on a release: the holders of lock and Lease, a Helm on this machine, or a run that has
//! ended.

use std::ops::ControlFlow;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;

use super::decide::Owner;
use super::history::{self, is_recorded};
use crate::host;
use crate::repo::Repo;
use crate::run::Run;
use crate::run::context::Site;
use crate::run::wait;
use crate::world::helm_storage::{self, Revision};
use crate::world::release::Release;
use run_record::{Code, Failure};

/// Who else may be working, for a look without holding lock or Lease.
#[derive(Default)]
pub struct Others {
    /// The holders of the lock on this machine and of the cluster's Lease, as they describe
    /// themselves.
    working: Vec<String>,
}

impl Others {
    /// Lock and Lease are ours: whoever honours them is not working now.
    pub fn kept_out() -> Self {
        Self::default()
    }

    pub async fn look(run: &Run, repo: &Repo, client: &Client) -> Self {
        let mut working = Vec::new();
        // If a look fails, somebody may be working.
        let perhaps = |failure: Failure| format!("possibly somebody ({})", failure.message);
        match crate::cluster::lock::ClusterLock::holder(&run.state.lock()) {
            Ok(Some(holder)) => working
                .push(holder.map_or("a run on this machine".to_owned(), |holder| holder.describe(Timestamp::now()))),
            Err(failure) => working.push(perhaps(failure)),
            Ok(None) => match crate::cluster::lease::other_holder(run, repo, client).await {
                Ok(Some(who)) => working.push(who),
                Ok(None) => {}
                Err(failure) => working.push(perhaps(failure)),
            },
        }
        Self { working }
    }
}

/// Helm processes of earlier runs hold the cluster lock as long as they live. So if we hold it, a
/// revision that a run recorded in this state folder made (including this run) has no living owner
/// except a helm process. Whose it is must be certain: Helm hands its labels on to whoever upgrades
/// it next, anywhere.
pub(super) async fn owner(run: &Run, site: &Site, client: &Client, others: &Others, revision: &Revision) -> Owner {
    if let Some(who) = worker(site, revision).or_else(|| others.working.first().cloned()) {
        return Owner::Alive { who };
    }
    let dead = match revision.status.is_pending() {
        // If it cannot be read, nobody is known.
        true => history::author(run, client, revision).await.unwrap_or_default(),
        // Nothing is written in the name of such an owner.
        false => revision.run.clone().filter(|id| is_recorded(run, id)),
    };
    dead.map_or(Owner::Unknown, |run| Owner::Dead { run })
}

/// The Helm process on this machine that works on a revision; the caller already holds the lock.
pub(crate) fn worker(site: &Site, revision: &Revision) -> Option<String> {
    helm_process(&site.kube_context, &revision.release)
}

pub(super) async fn wait_while_owned(
    run: &Run,
    site: &Site,
    client: &Client,
    revision: &Revision,
    who: &str,
) -> Result<(), Failure> {
    const EVERY: Duration = Duration::from_millis(500);
    // Somebody else's process cannot be watched, only checked again.
    let look = async || {
        let current = helm_storage::current(client, revision).await?;
        let still_pending = current.is_some_and(|(now, _)| now.status == revision.status);
        Ok(if still_pending && worker(site, revision).is_some() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    };
    if wait::until(EVERY, run.lock_timeout, look).await?.is_continue() {
        return Err(still_worked_on(&revision.release, &revision.namespace, who));
    }
    Ok(())
}

/// Waits for Helm processes on these releases to end: Helmfile was killed, but they go on. Two of
/// them on one release would make each other fail.
///
/// # Errors
/// `release-owned` after the lock timeout.
pub async fn wait_for_helm(run: &Run, site: &Site, wanted: &[Release]) -> Result<(), Failure> {
    const EVERY: Duration = Duration::from_millis(200);
    let mut told = false;
    // It is not our child, so it can only be checked again.
    let look = async || {
        let working =
            wanted.iter().find_map(|release| Some((release, helm_process(&site.kube_context, &release.name)?)));
        let Some((release, who)) = working else { return Ok(ControlFlow::Break(())) };
        if !std::mem::replace(&mut told, true) {
            run.reporter.waiting(&release.name, format!("{who} is still working on it"));
        }
        Ok(ControlFlow::Continue((release, who)))
    };
    match wait::until(EVERY, run.lock_timeout, look).await? {
        ControlFlow::Break(()) => Ok(()),
        ControlFlow::Continue((release, who)) => Err(still_worked_on(&release.name, &release.namespace, &who)),
    }
}

fn still_worked_on(release: &str, namespace: &str, who: &str) -> Failure {
    Failure::new(Code::ReleaseOwned, format!("release {release} in {namespace} is still being worked on"))
        .evidence(who)
        .remedy("wait for that command to end, or end it yourself")
}

/// A helm process on this machine that changes the release; if processes cannot be listed, that
/// there may be one.
fn helm_process(kube_context: &str, release: &str) -> Option<String> {
    match host::commands() {
        Ok(commands) => commands
            .into_iter()
            .find_map(|(pid, words)| changes(&words, kube_context, release).then(|| format!("helm (pid {pid})"))),
        Err(error) => Some(format!("possibly somebody (cannot list processes: {error})")),
    }
}

/// Whether this command line is a Helm that changes the release. Without a context it uses the
/// current one, which may be ours; another context is another cluster, which may have a release of
/// the same name.
fn changes(arguments: &[String], kube_context: &str, release: &str) -> bool {
    // Also `helm4`, `helm-v4.3.1`.
    let is_named_so =
        |name: &str| name.strip_prefix("helm").is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic()));
    let program = arguments.first().and_then(|program| camino::Utf8Path::new(program).file_name());
    let is_helm = program.is_some_and(is_named_so);
    let writes = arguments
        .iter()
        .any(|word| matches!(word.as_str(), "install" | "upgrade" | "rollback" | "uninstall" | "delete"));
    let named = arguments.iter().enumerate().find_map(|(index, word)| match word.split_once('=') {
        Some(("--kube-context", name)) => Some(name),
        _ if word == "--kube-context" => arguments.get(index + 1).map(String::as_str),
        _ => None,
    });
    is_helm && writes && arguments.iter().any(|word| word == release) && named.is_none_or(|named| named == kube_context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helm_on_another_cluster_works_on_another_release() {
        for (line, ours) in [
            ("/cache/bin/helm upgrade --install minio ../charts/minio --kube-context k3d-a", true),
            ("helm upgrade minio chart --kube-context=k3d-a", true),
            ("helm uninstall minio", true),
            ("/opt/helm-v4.3.1 upgrade minio chart", true),
            ("helm3 rollback minio 2", true),
            ("helmfile upgrade minio", false),
            ("helm upgrade minio chart --kube-context k3d-b", false),
            ("helm upgrade minio chart --kube-context=k3d-b", false),
            ("helm upgrade temporal chart --kube-context k3d-a", false),
            ("helm status minio --kube-context k3d-a", false),
            ("vim upgrade minio", false),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(changes(&words, "k3d-a", "minio"), ours, "{line}");
        }
    }
}
