//! What an uninstall, an upgrade or a rollback deletes, and the consent to that.

use std::collections::BTreeMap;

use kube::Client;

use super::manifest::{data_of, objects};
use super::{kept, manifest, owned, removal};
use crate::run::Run;
use crate::run::consent::{self, Consent};
use crate::run::context::Site;
use crate::world::helm_storage::{self, Revision, Status, Stored, history, stored};
use crate::world::release::Release;
use run_record::Failure;

/// Before a layer: asks for consent to uninstall releases that the tree no longer wants installed,
/// which Helmfile would do without asking.
///
/// # Errors
/// `consent-needed` if there is one; `usage` if a claim would go with one that holds no data; errors from
/// reading Helm's storage and the claims.
pub async fn consent_to_uninstalls(run: &Run, site: &Site, client: &Client, wanted: &[Release]) -> Result<(), Failure> {
    let unwanted: Vec<Release> = wanted.iter().filter(|release| !release.installed).cloned().collect();
    for (revision, stored) in helm_storage::newest_whole(client, &unwanted).await? {
        if revision.status == Status::Uninstalled {
            continue;
        }
        let full = format!("{}/{}", revision.namespace, revision.release);
        // What it contains cannot always be listed; but it will be deleted.
        for line in objects(&stored) {
            run.reporter.note(&revision.release, format!("uninstalling deletes {line}"));
        }
        let what = format!("uninstall release {full}, which the tree marks as not installed");
        let data = data_of(&stored);
        if data.is_empty() {
            holds_no_claim(client, site, &revision, &stored).await?;
            let _: Consent<consent::Release> = run.may_destroy(&what).await?;
        }
        // Helmfile would not keep it.
        consent_to_loss(run, &what, data).await?;
    }
    Ok(())
}

/// Of a release whose objects hold no data by their kinds: an object of any kind may own a claim, which
/// Kubernetes would delete with it.
///
/// # Errors
/// `usage` if one does; errors from reading.
pub(super) async fn holds_no_claim(
    client: &Client,
    site: &Site,
    revision: &Revision,
    stored: &Stored,
) -> Result<(), Failure> {
    let fates = removal::fates(&stored.manifest, true).unwrap_or_default();
    owned::holders_of(client, site, revision, &fates).await.map(drop)
}

/// Helm's rollback deletes what the newest revision has and the target does not: if any of it holds
/// data, this asks for consent.
pub(crate) async fn consent_to_rollback(run: &Run, client: &Client, newest: &Revision, to: u32) -> Result<(), Failure> {
    let revisions = history(client, &newest.namespace, &newest.release).await?;
    let Some(good) = revisions.iter().find(|revision| revision.revision == to) else { return Ok(()) };
    let (now, good) = (stored(client, newest).await?, stored(client, good).await?);
    let what = format!("roll release {} back to revision {to}", newest.release);
    let lost = match manifest::dropped(&now, &manifest::plain(&good.manifest), &newest.namespace) {
        Ok(dropped) => names(kept::without_kept(client, dropped, &newest.namespace).await),
        Err(unread) => vec![unread],
    };
    consent_to_loss(run, &what, lost).await
}

fn names(dropped: Vec<manifest::Dropped>) -> Vec<String> {
    dropped.into_iter().map(|dropped| dropped.name).collect()
}

/// The objects that each release renders, by its namespace and name.
pub type Apart = BTreeMap<(String, String), Vec<serde_json::Value>>;

/// Helm's upgrade deletes what a release has and its own rendering no longer names, even if another
/// release takes it over: if any of it holds data, this asks for consent. A custom resource is only
/// reported, because it may just be missing from the rendering. `apart` renders these releases,
/// without hooks and definitions, which Helm treats otherwise.
///
/// # Errors
/// `consent-needed`; errors from reading Helm's storage, and those of `apart`.
pub async fn consent_to_upgrades(
    run: &Run,
    client: &Client,
    wanted: &[Release],
    apart: impl AsyncFnOnce(&[Release]) -> Result<Apart, Failure>,
) -> Result<(), Failure> {
    let installed: Vec<Release> = wanted.iter().filter(|release| release.installed).cloned().collect();
    let at_stake = at_stake(client, &installed).await?;
    if at_stake.is_empty() {
        return Ok(());
    }
    let of: Vec<Release> = at_stake.iter().map(|(revision, _)| revision.to_release()).collect();
    let mut apart = apart(&of).await?;
    for (revision, replaced) in at_stake {
        let (release, namespace) = (&revision.release, &revision.namespace);
        // One that renders nothing is not among them.
        let next = Ok(apart.remove(&(namespace.clone(), release.clone())).unwrap_or_default());
        let (mut dropped, mut lost) = (Vec::<manifest::Dropped>::new(), Vec::new());
        for stored in &replaced {
            match manifest::dropped(stored, &next, namespace) {
                Ok(found) => {
                    let is_new = |one: &manifest::Dropped| !dropped.iter().any(|known| known.is_same(one, namespace));
                    let more: Vec<_> = found.into_iter().filter(is_new).collect();
                    dropped.extend(more);
                }
                Err(unread) => lost.push(unread),
            }
        }
        let dropped = kept::without_kept(client, dropped, namespace).await;
        let (asked, told): (Vec<_>, Vec<_>) = dropped.into_iter().partition(|dropped| dropped.built_in);
        if !told.is_empty() {
            let told = names(told).join(", ");
            let text = format!("its rendering does not have {told}: Helm deletes what its release has created");
            run.reporter.warn(release, text);
        }
        lost.extend(names(asked));
        consent_to_loss(run, &format!("upgrade release {release}"), lost).await?;
    }
    Ok(())
}

/// The releases whose upgrade may lose data, each with the revisions that Helm may take as the one
/// to be replaced.
async fn at_stake(client: &Client, installed: &[Release]) -> Result<Vec<(Revision, Vec<Stored>)>, Failure> {
    let mut found = Vec::new();
    for (revision, stored) in helm_storage::newest_whole(client, installed).await? {
        // Helm skips one that cannot be decoded, and deletes nothing of it.
        if stored.unreadable.is_some() || revision.status == Status::Uninstalled {
            continue;
        }
        let mut replaced = vec![stored];
        // Helm compares with the deployed revision; one that failed after it is not that.
        if revision.status != Status::Deployed
            && let Some((_, deployed)) = helm_storage::upgraded_from(client, &revision.to_release()).await?
        {
            replaced.push(deployed);
        }
        replaced.retain(manifest::is_at_stake);
        if !replaced.is_empty() {
            found.push((revision, replaced));
        }
    }
    Ok(found)
}

async fn consent_to_loss(run: &Run, what: &str, lost: Vec<String>) -> Result<(), Failure> {
    if lost.is_empty() {
        return Ok(());
    }
    let what = format!("{what}, which deletes {}", lost.join(", "));
    let _: Consent<(consent::Release, consent::Claim)> = run.may_destroy(&what).await?;
    Ok(())
}
