//! What follows after a release has failed: one that fails again after a repair goes back to its
//! last good revision, or is installed anew.

use std::os::fd::RawFd;

use kube::Client;

use super::helm::{roll_back, uninstall_release};
use super::losses::{consent_to_rollback, holds_no_claim};
use super::manifest::{data_of, objects};
use crate::run::consent;
use crate::run::context::Context;
use crate::world::helm_storage::{self, Revision, Status, Stored, history, stored};
use crate::world::release::Release;
use run_record::{Exit, Failure};

/// In the description of a revision that was marked failed here.
pub(super) const MARKED_FAILED: &str = "marked failed by xtask";

/// A revision, with what the decision after a failure needs to know.
#[derive(Clone, Debug)]
pub struct Past {
    pub revision: u32,
    pub status: Status,
    /// Helm's own description: "Upgrade complete", or that of a repair.
    pub description: String,
}

impl Past {
    fn of(revision: &Revision, stored: &Stored) -> Self {
        let info = stored.info.clone();
        Self { revision: revision.revision, status: info.status, description: info.description }
    }
}

/// What to do about a release whose upgrade failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// An ordinary failure: the next run upgrades again.
    Nothing,
    RollBack(u32),
    /// Uninstall and install again, with consent.
    Reinstall,
    /// A person decides, for this reason.
    Stop(String),
}

/// `data`: the objects of the manifest that hold data, or would take some with them.
pub fn decide_after_failure(past: &[Past], data: &[String]) -> AfterFailure {
    let mut newest_first: Vec<&Past> = past.iter().collect();
    newest_first.sort_by_key(|past| std::cmp::Reverse(past.revision));
    let again = match newest_first.as_slice() {
        [newest, before, ..] => newest.status == Status::Failed && before.description.contains(MARKED_FAILED),
        _ => false,
    };
    if !again {
        return AfterFailure::Nothing;
    }
    let good = newest_first.iter().find(|past| came_up(past.status, &past.description));
    let is_whole = newest_first.iter().rev().zip(1..).all(|(past, number)| past.revision == number);
    match good {
        Some(good) => AfterFailure::RollBack(good.revision),
        None if !is_whole => {
            let why = "and an earlier revision, which is not kept or cannot be read, may have been good";
            AfterFailure::Stop(why.to_owned())
        }
        None if data.is_empty() => AfterFailure::Reinstall,
        None => AfterFailure::Stop(format!("with no good revision, and holds data: {}", data.join(", "))),
    }
}

/// Whether Helm brought a revision up, by its status and description. A superseded one has been
/// deployed, whatever it is described as (`--description`), unless it was superseded without: by a
/// failed rollback, or by an upgrade that had nothing deployed to start from. Then it keeps the
/// words of its own failure, or of a Helm that was killed in it (`pkg/action` of Helm 4.3.1).
pub(crate) fn came_up(status: Status, description: &str) -> bool {
    const NEVER_UP: [&str; 6] = [
        "Initial install underway",
        "failed to render resource",
        "Preparing upgrade",
        "Release \"",
        "Upgrade \"",
        "Rollback \"",
    ];
    match status {
        Status::Deployed => true,
        Status::Superseded => {
            !description.contains(MARKED_FAILED) && !NEVER_UP.iter().any(|words| description.starts_with(words))
        }
        _ => false,
    }
}

/// After a layer failed: handles releases that were repaired and failed again. Returns true if one
/// was uninstalled, so that the layer may be synced once more.
pub async fn after_failure(
    context: &Context,
    client: &Client,
    lock: Option<RawFd>,
    wanted: &[Release],
    force_conflicts: bool,
) -> Result<bool, Failure> {
    let mut again = false;
    let mut failed: Option<Failure> = None;
    for release in wanted.iter().filter(|release| release.installed) {
        match after_failure_of(context, client, lock, release, force_conflicts).await {
            Ok(reinstall) => again |= reinstall,
            Err(failure) if matches!(failure.exit(), Exit::Interrupted | Exit::Terminated) => return Err(failure),
            // If one cannot be helped, the others still are.
            Err(failure) => {
                context.run.reporter.warn(&release.name, failure.to_string());
                failed.get_or_insert(failure);
            }
        }
    }
    failed.map_or(Ok(again), Err)
}

async fn after_failure_of(
    context: &Context,
    client: &Client,
    lock: Option<RawFd>,
    release: &Release,
    force_conflicts: bool,
) -> Result<bool, Failure> {
    let mut revisions = history(client, &release.namespace, &release.name).await?;
    revisions.sort_by_key(|revision| revision.revision);
    let Some(newest) = revisions.last().filter(|newest| newest.status == Status::Failed) else { return Ok(false) };
    let stored = stored(client, newest).await?;
    let mut past = vec![Past::of(newest, &stored)];
    for revision in &revisions[..revisions.len() - 1] {
        // One that cannot be decoded, which Helm skips, is no rollback target, and leaves a gap.
        if let Some((revision, stored)) = helm_storage::current(client, revision).await?
            && stored.unreadable.is_none()
        {
            past.push(Past::of(&revision, &stored));
        }
    }
    match decide_after_failure(&past, &data_of(&stored)) {
        AfterFailure::Nothing => {}
        AfterFailure::RollBack(good) => {
            context.run.reporter.warn(&release.name, format!("failed again after a repair: back to revision {good}"));
            consent_to_rollback(&context.run, client, newest, good).await?;
            roll_back(context, lock, newest, good, "after a failure", force_conflicts).await?;
        }
        AfterFailure::Reinstall => {
            for line in objects(&stored) {
                context.run.reporter.note(&release.name, format!("uninstalling would delete {line}"));
            }
            holds_no_claim(client, &context.site, newest, &stored).await?;
            let what = format!("uninstall release {} and install it again", release.name);
            let consent = context.run.may_destroy::<consent::Release>(&what).await?;
            uninstall_release(context, lock, newest, &consent).await?;
            return Ok(true);
        }
        AfterFailure::Stop(why) => context.run.reporter.warn(
            &release.name,
            format!(
                "failed again after a repair, {why}: `cargo xtask --env {} releases repair --uninstall {}/{}` uninstalls it and leaves what holds data",
                context.repo.env_name, release.namespace, release.name
            ),
        ),
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(rows: &[(u32, Status, &str)]) -> Vec<Past> {
        let row =
            |&(revision, status, words): &(u32, Status, &str)| Past { revision, status, description: words.into() };
        rows.iter().map(row).collect()
    }

    #[test]
    fn every_row_of_what_follows_a_failure() {
        use Status::{Deployed, Failed, Superseded};
        let marked = "Interrupted; marked failed by xtask (run r)";
        let failed = "Upgrade \"minio\" failed: context deadline exceeded";
        let claim = ["PersistentVolumeClaim minio".to_owned()];
        let stop = |why: &str| AfterFailure::Stop(why.to_owned());
        let unknown = "and an earlier revision, which is not kept or cannot be read, may have been good";
        for (rows, data, plan) in [
            (&[(1, Failed, failed)][..], &[][..], AfterFailure::Nothing),
            (&[(1, Deployed, "Install complete"), (2, Failed, failed)], &[], AfterFailure::Nothing),
            (&[(1, Failed, marked), (2, Deployed, "Upgrade complete")], &[], AfterFailure::Nothing),
            (
                &[(1, Deployed, "Install complete"), (2, Failed, marked), (3, Failed, failed)],
                &[],
                AfterFailure::RollBack(1),
            ),
            (
                &[
                    (1, Superseded, "Install complete"),
                    (2, Superseded, "Upgrade complete"),
                    (3, Superseded, failed),
                    (4, Failed, marked),
                    (5, Failed, failed),
                ],
                &[],
                AfterFailure::RollBack(2),
            ),
            (
                &[(1, Superseded, "of the shop"), (2, Failed, marked), (3, Failed, failed)],
                &[],
                AfterFailure::RollBack(1),
            ),
            (&[(1, Failed, marked), (2, Failed, failed)], &[], AfterFailure::Reinstall),
            (&[(1, Superseded, failed), (2, Failed, marked), (3, Failed, failed)], &[], AfterFailure::Reinstall),
            (
                &[(1, Failed, marked), (2, Failed, failed)],
                &claim,
                stop("with no good revision, and holds data: PersistentVolumeClaim minio"),
            ),
            // The first one cannot be read, is gone, or is gone from between.
            (&[(2, Failed, marked), (3, Failed, failed)], &[], stop(unknown)),
            (&[(1, Failed, marked), (3, Failed, marked), (4, Failed, failed)], &[], stop(unknown)),
        ] {
            assert_eq!(decide_after_failure(&past(rows), data), plan, "{rows:?}");
        }
    }

    #[test]
    fn a_superseded_revision_was_up_unless_its_words_are_of_a_failure() {
        for (words, up) in [
            ("Install complete", true),
            ("Upgrade complete", true),
            ("Rollback to 2", true),
            ("release of Monday", true),
            ("", true),
            ("Initial install underway", false),
            ("Preparing upgrade", false),
            ("Release \"web\" failed: timeout", false),
            ("Upgrade \"web\" failed: timeout", false),
            ("Rollback \"web\" failed: conflict", false),
            ("Interrupted; marked failed by xtask (run r)", false),
        ] {
            assert_eq!(came_up(Status::Superseded, words), up, "{words:?}");
            assert!(!came_up(Status::Failed, words) && came_up(Status::Deployed, words), "{words:?}");
        }
    }
}
