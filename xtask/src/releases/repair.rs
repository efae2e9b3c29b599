//! `cargo xtask releases repair`: what nobody will finish, or the release that a person names.

use std::os::fd::RawFd;
use std::time::Duration;

use kube::Client;

use super::helm::roll_back;
use super::losses::consent_to_rollback;
use super::manifest::{data_of, objects};
use super::named::every;
use super::owner::Others;
use super::watchdog::{stuck, treat_all, watch_over_removal};
use super::{owned, removal};
use crate::repo::Repo;
use crate::run::Run;
use crate::run::consent::Kind;
use crate::run::context::Context;
use crate::world::helm_storage::{Revision, history, newest, stored};
use crate::world::helmfile::HELMS_TIMEOUT;
use crate::world::kubernetes::kubectl;
use run_record::Failure;

/// What a person asks for.
#[derive(Clone, Debug)]
pub enum Asked {
    /// That what nobody will finish is marked failed.
    Repair,
    /// By `NAME` or `NAMESPACE/NAME`.
    Uninstall(String),
    RollBack {
        name: String,
        revision: u32,
    },
}

/// Repairs what nobody will finish, or uninstalls or rolls back the release that is named.
pub async fn repair(
    context: &Context,
    client: &Client,
    lock: Option<RawFd>,
    others: &Others,
    older_than: Option<Duration>,
    asked: &Asked,
) -> Result<(), Failure> {
    let (run, repo) = (&context.run, &context.repo);
    match asked {
        Asked::Repair => {
            let found = stuck(every(run, repo, client).await?);
            let (repaired, result) = treat_all(context, client, others, &found, older_than).await;
            run.reporter.note("releases", format!("{repaired} repaired"));
            result
        }
        Asked::Uninstall(name) => {
            let found = find(run, repo, client, name).await?;
            let newest = left_alone(context, client, others, &found, older_than).await?;
            uninstall_named(context, client, lock, &newest).await
        }
        Asked::RollBack { name, revision } => {
            let found = find(run, repo, client, name).await?;
            check_is_known(client, &found, *revision).await?;
            let newest = left_alone(context, client, others, &found, older_than).await?;
            roll_back_named(context, client, lock, &newest, *revision).await
        }
    }
}

/// # Errors
/// `usage` if Helm does not keep this revision of the release; errors from reading.
async fn check_is_known(client: &Client, of: &Revision, number: u32) -> Result<(), Failure> {
    let known = history(client, &of.namespace, &of.release).await?;
    if known.iter().any(|other| other.revision == number) {
        return Ok(());
    }
    let numbers: Vec<String> = known.iter().map(|other| other.revision.to_string()).collect();
    let message = format!("release {} has no revision {number}: it has {}", of.release, numbers.join(", "));
    Err(Failure::usage(message))
}

async fn roll_back_named(
    context: &Context,
    client: &Client,
    lock: Option<RawFd>,
    newest: &Revision,
    to: u32,
) -> Result<(), Failure> {
    if context.run.dry_run {
        context.run.reporter.planned(&newest.release, format!("roll back to revision {to}"));
        return Ok(());
    }
    consent_to_rollback(&context.run, client, newest, to).await?;
    context.run.confirm(&format!("roll release {} back to revision {to}", newest.release)).await?;
    roll_back(context, lock, newest, to, "by hand", false).await
}

/// The newest revision of a release by `NAME` or `NAMESPACE/NAME`.
async fn find(run: &Run, repo: &Repo, client: &Client, name: &str) -> Result<Revision, Failure> {
    let full = |revision: &Revision| format!("{}/{}", revision.namespace, revision.release);
    let mut found: Vec<Revision> = every(run, repo, client).await?.into_iter().map(|(revision, _)| revision).collect();
    found.retain(|revision| revision.release == name || full(revision) == name);
    match (found.pop(), found.as_slice()) {
        (Some(one), []) => Ok(one),
        (None, _) => Err(Failure::usage(format!("no release {name:?}"))
            .remedy(format!("{} get secrets -A -l owner=helm shows all", kubectl()))),
        (Some(last), others) => {
            let names: Vec<String> = others.iter().map(full).chain([full(&last)]).collect();
            Err(Failure::usage(format!("{name:?} may be any of {}", names.join(", "))))
        }
    }
}

/// The newest revision of the release that was found, once nobody is working on it: Helm itself
/// keeps nobody from uninstalling it, or rolling it back, in the middle of an upgrade.
async fn left_alone(
    context: &Context,
    client: &Client,
    others: &Others,
    found: &Revision,
    older_than: Option<Duration>,
) -> Result<Revision, Failure> {
    let of = [found.to_release()];
    // A half uninstalled one is what either may be for.
    watch_over_removal(context, client, others, &of, older_than, true).await?;
    let newest = newest(client, Some(&of)).await?.pop();
    newest.map(|(newest, _)| newest).ok_or_else(|| Failure::usage(format!("release {} is gone by now", found.release)))
}

/// Uninstalls the release that a person has named: what holds data stays, unless losing that is
/// named as well, or it cannot be kept.
async fn uninstall_named(
    context: &Context,
    client: &Client,
    lock: Option<RawFd>,
    newest: &Revision,
) -> Result<(), Failure> {
    let run = &context.run;
    let stored = stored(client, newest).await?;
    let claims = run.consent.names(Kind::Claim) || !removal::can_keep(&stored.manifest);
    let fates = removal::fates(&stored.manifest, claims);
    let goes = |fate: &removal::Fate| if *fate == removal::Fate::Goes { "delete" } else { "keep" };
    let lines: Vec<String> = match &fates {
        Ok(all) => all.iter().map(|(object, fate)| format!("{} {}", goes(fate), removal::name(object))).collect(),
        Err(_) => objects(&stored).iter().map(|line| format!("delete {line}")).collect(),
    };
    for line in lines {
        run.reporter.planned(&newest.release, line);
    }
    let holders = match fates {
        Ok(all) if !claims => owned::holders_of(client, &context.site, newest, &all).await?,
        _ => Vec::new(),
    };
    for set in &holders {
        run.reporter.planned(&newest.release, set.plan());
    }
    if run.dry_run {
        return Ok(());
    }
    let data = data_of(&stored);
    let with = if claims && !data.is_empty() { format!(", with {}", data.join(", ")) } else { String::new() };
    let what = format!("uninstall release {} in {}{with}", newest.release, newest.namespace);
    let consented = removal::consent(run, claims, &what).await?;
    for set in &holders {
        owned::let_go_of_claims(run, client, set).await?;
    }
    removal::uninstall(context, client, lock, (newest, HELMS_TIMEOUT), &consented, std::future::pending()).await
}
