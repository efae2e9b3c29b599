//! Carries out what is decided about the releases that Helm does not continue from.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;

use super::after_failure::MARKED_FAILED;
use super::decide::{ORPHAN_AFTER, Owner, Plan, decide};
use super::owner::{Others, owner, wait_while_owned};
use super::rewrite::rewrite;
use crate::run::Run;
use crate::run::context::{Context, Site};
use crate::world::helm_storage::{self, Revision, Status, Stored, newest};
use crate::world::kubernetes::server_time;
use crate::world::release::Release;
use run_record::{Code, Exit, Failure, Step, StepKind};

/// The time that Helm needs after its timeout to record the failure.
const TO_SAY_SO: Duration = Duration::from_secs(60);

/// For a release whose timeout is unknown: it is not the tree's, or Helmfile cannot read its layer.
const STRANGERS_AFTER: Duration = Duration::from_secs(3600);

/// How long a run that is ending anyway may take to clean up after Helm.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// Before a layer: waits for, repairs or reports each of its releases.
pub async fn watch_over(context: &Context, client: &Client, wanted: &[Release]) -> Result<(), Failure> {
    let found = unhealthy(client, wanted).await?;
    treat_all(context, client, &Others::kept_out(), &found, None).await.1
}

/// Before a rollback or removal: waits for, repairs or reports each of these releases, as before a
/// layer. With `finishing`, an unfinished uninstall is no problem: it is continued. `older_than` is
/// the age that a person gives to what nobody is known to work on.
///
/// # Errors
/// `release-owned`, `release-pending`, `consent-needed`, and errors from reading the cluster.
pub(crate) async fn watch_over_removal(
    context: &Context,
    client: &Client,
    others: &Others,
    releases: &[Release],
    older_than: Option<Duration>,
    finishing: bool,
) -> Result<(), Failure> {
    let found = unhealthy(client, releases).await?;
    let half = |revision: &Revision| finishing && revision.status == Status::Uninstalling;
    let (half, rest): (Vec<Revision>, Vec<Revision>) = found.into_iter().partition(half);
    treat_all(context, client, others, &rest, older_than).await.1?;
    if half.is_empty() {
        return Ok(());
    }
    let now = server_time(client).await?;
    for revision in &half {
        let owner = owner(&context.run, &context.site, client, others, revision).await;
        let after = orphan_after(context, revision, &owner, older_than).await;
        match decide(revision.status, &owner, age(revision, now), after) {
            Plan::HalfUninstalled => {
                let text = format!("revision {} is half uninstalled, and nobody is working on it", revision.revision);
                context.run.reporter.note(&revision.release, text);
            }
            plan => drop(treat(context, client, revision, plan, &owner, now).await?),
        }
    }
    Ok(())
}

/// Carries out every plan, those that wait last: a release that cannot be repaired does not keep
/// others from it. Returns how many were repaired, and the first failure with the others.
pub(super) async fn treat_all(
    context: &Context,
    client: &Client,
    others: &Others,
    found: &[Revision],
    older_than: Option<Duration>,
) -> (usize, Result<(), Failure>) {
    if found.is_empty() {
        return (0, Ok(()));
    }
    let now = match server_time(client).await {
        Ok(now) => now,
        Err(failure) => return (0, Err(failure)),
    };
    let mut planned = Vec::new();
    for revision in found {
        let owner = owner(&context.run, &context.site, client, others, revision).await;
        let after = orphan_after(context, revision, &owner, older_than).await;
        planned.push((revision, decide(revision.status, &owner, age(revision, now), after), owner));
    }
    planned.sort_by_key(|(_, plan, _)| matches!(plan, Plan::WaitFor { .. }));
    let (mut repaired, mut failed) = (0, None::<Failure>);
    for (revision, plan, owner) in planned {
        match treat(context, client, revision, plan, &owner, now).await {
            Ok(done) => repaired += usize::from(done),
            Err(failure) if matches!(failure.exit(), Exit::Interrupted | Exit::Terminated) => {
                return (repaired, Err(failure));
            }
            Err(failure) => failed = failed.into_iter().chain([failure]).reduce(Failure::also),
        }
    }
    (repaired, failed.map_or(Ok(()), Err))
}

/// The age from which a revision of an unknown owner counts as orphaned: what a person says, else
/// at least the longest time that Helm may take between two writes, which is the release's own
/// timeout. Helm does not store it, so the release's layer is read.
pub(super) async fn orphan_after(
    context: &Context,
    revision: &Revision,
    owner: &Owner,
    asked: Option<Duration>,
) -> Duration {
    let working = revision.status.is_pending() || revision.status == Status::Uninstalling;
    match asked {
        Some(asked) => asked,
        None if !working || *owner != Owner::Unknown => ORPHAN_AFTER,
        None => match crate::world::helmfile::timeout(context, revision).await {
            Ok(Some(timeout)) => ORPHAN_AFTER.max(timeout.saturating_add(TO_SAY_SO)),
            Ok(None) => STRANGERS_AFTER,
            Err(failure) => {
                context.run.reporter.warn(&revision.release, format!("its timeout is not known: {failure}"));
                STRANGERS_AFTER
            }
        },
    }
}

/// Carries out the plan for one revision; returns whether it repaired something.
async fn treat(
    context: &Context,
    client: &Client,
    revision: &Revision,
    plan: Plan,
    owner: &Owner,
    now: Timestamp,
) -> Result<bool, Failure> {
    let name = &revision.release;
    let what = format!("revision {} is {}", revision.revision, revision.status.as_str());
    match plan {
        Plan::Leave => Ok(false),
        Plan::WaitFor { who } if context.run.dry_run => {
            context.run.reporter.planned(name, format!("wait: {what}, and {who} is working on it"));
            Ok(false)
        }
        Plan::WaitFor { who } => {
            context.run.reporter.waiting(name, format!("{what}, and {who} is working on it"));
            wait_while_owned(&context.run, &context.site, client, revision, &who).await?;
            Ok(false)
        }
        Plan::TooYoung { seconds } => Err(Failure::new(Code::ReleaseOwned, format!("release {name} in {}: {what}, by somebody unknown", revision.namespace),
        )
        .evidence(format!("Secret {}, last written {} s ago", revision.secret, age(revision, now).as_secs()))
        .remedy(format!(
            "wait: it counts as orphaned in {seconds} s; or, if you know that nobody is working on it: {}",
            match revision.status {
                // A plain repair finishes no uninstall.
                Status::Uninstalling => "`releases repair` with --uninstall or --rollback, and --older-than 0s".to_owned(),
                _ => format!("cargo xtask --env {} releases repair --older-than 0s --yes", context.repo.env_name),
            }
        ))),
        Plan::HalfUninstalled => Err(Failure::new(Code::ReleasePending, format!("release {name} in {}: an uninstall was interrupted", revision.namespace),
        )
        .evidence(format!("Secret {}: {what}", revision.secret))
        .remedy(format!(
            "cargo xtask --env {} releases repair --uninstall {}/{name} finishes it, after showing what goes; then run the layer again",
            context.repo.env_name, revision.namespace
        ))),
        Plan::MarkFailed => {
            if context.run.dry_run {
                context.run.reporter.planned(name, format!("mark revision {} as failed: {what}", revision.revision));
                return Ok(false);
            }
            if *owner == Owner::Unknown && revision.status.is_pending() {
                context
                    .run
                    .confirm(&format!(
                        "mark revision {} of release {name} ({what}, nobody is known to be working on it) as failed",
                        revision.revision
                    ))
                    .await?;
            }
            mark_failed(&context.run, client, revision).await?;
            Ok(true)
        }
    }
}

/// Marks one revision failed, unless anybody else has written it.
async fn mark_failed(run: &Run, client: &Client, revision: &Revision) -> Result<(), Failure> {
    let step =
        run.reporter.step(Step::new(StepKind::Repair, &revision.release, "repairing").of_release(&revision.release));
    let description = format!("Interrupted; {MARKED_FAILED} (run {})", run.id);
    let failed = |secret: &mut Secret| helm_storage::set_status(secret, Status::Failed, &description).map(|()| true);
    rewrite(run, client, revision, failed).await?;
    let what = format!("revision {} is {}", revision.revision, revision.status.as_str());
    step.done_as(format!("{what}, and nobody is working on it: marked failed"));
    Ok(())
}

/// After a sync that failed or was interrupted: marks what its Helm left pending as failed at once,
/// so that nobody finds it pending. The next run would do the same first, so errors here do not
/// matter.
pub async fn settle(run: &Run, site: &Site, client: &Client, wanted: &[Release]) {
    let settled = async {
        for revision in unhealthy(client, wanted).await? {
            let owner = owner(run, site, client, &Others::kept_out(), &revision).await;
            // For an unknown owner nothing is decided here, hence no age.
            if decide(revision.status, &owner, SignedDuration::ZERO, ORPHAN_AFTER) == Plan::MarkFailed {
                mark_failed(run, client, &revision).await?;
            }
        }
        Ok::<(), Failure>(())
    };
    let _ = tokio::time::timeout(SETTLE_WITHIN, settled).await;
}

/// The highest revisions that Helm does not continue from by itself.
async fn unhealthy(client: &Client, of: &[Release]) -> Result<Vec<Revision>, Failure> {
    Ok(stuck(newest(client, Some(of)).await?))
}

pub(super) fn stuck(newest: Vec<(Revision, Stored)>) -> Vec<Revision> {
    let stuck = |status: Status| status.is_pending() || matches!(status, Status::Uninstalling | Status::Unknown);
    newest.into_iter().map(|(revision, _)| revision).filter(|revision| stuck(revision.status)).collect()
}

/// Since it was last written, by the API server's clock, which wrote that time as well; negative if
/// that clock went back.
pub(super) fn age(revision: &Revision, now: Timestamp) -> SignedDuration {
    now.duration_since(revision.written.unwrap_or(now))
}
