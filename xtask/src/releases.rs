//! The watchdog: Helm releases that are not `deployed`, who owns them, and what is done about them.
//!
//! Only the highest revision of a release is judged. A repair never deletes anything: a revision
//! that nobody will finish is marked `failed`, which is what Helm itself would have written, and
//! the next upgrade continues from the last good one.

pub mod by_hand;
pub mod history;
pub(crate) mod kept;
pub mod manifest;
pub mod named;
pub(crate) mod removal;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::RawFd;
use std::time::Duration;

use camino::Utf8Path;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, PostParams};
use serde::Serialize;

use crate::host;
use crate::repo::Repo;
use crate::run::Run;
use crate::run::consent::{self, Consent, Kind};
use crate::run::context::{Context, Site};
use crate::run::wait;
use crate::world::kubernetes::{kubectl, server_time, write_failed};
use crate::world::process::Job;
use crate::world::release::Release;
use run_record::{Code, Exit, Failure, Step, StepKind};

use crate::world::helm_storage::{self, Stored, history, newest, stored};
pub use crate::world::helm_storage::{Revision, Status};
use crate::world::helmfile::HELMS_TIMEOUT;
use manifest::{data_of, objects};

/// Whether somebody is still working on a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "owner")]
pub enum Owner {
    /// With who it is: a helm process on this machine, the holder of the lock or of the Lease.
    Alive { who: String },
    /// A run of this machine that has ended: we hold its lock now.
    Dead { run: String },
    /// Nobody that there is a record of: only then does age decide.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "plan")]
pub enum Plan {
    /// Nothing to do.
    Leave,
    WaitFor {
        who: String,
    },
    /// Too young to count as orphaned; it will in this many seconds.
    TooYoung {
        seconds: u64,
    },
    /// Nobody will finish it: mark it failed and upgrade.
    MarkFailed,
    /// An unfinished uninstall of a release that the tree wants: a person decides.
    HalfUninstalled,
}

/// The decision table. `age` is how long nobody has written the revision, negative if the clock
/// went back; `age` and `orphan_after` only matter for unknown owners.
pub fn decide(status: Status, owner: &Owner, age: SignedDuration, orphan_after: Duration) -> Plan {
    let working = status.is_pending() || status == Status::Uninstalling;
    let left = SignedDuration::try_from(orphan_after).unwrap_or(SignedDuration::MAX).saturating_sub(age);
    match owner {
        Owner::Alive { who } if working => Plan::WaitFor { who: who.clone() },
        Owner::Unknown if working && left.is_positive() => {
            Plan::TooYoung { seconds: left.as_secs().max(1).unsigned_abs() }
        }
        _ if status.is_pending() => Plan::MarkFailed,
        _ if status == Status::Uninstalling => Plan::HalfUninstalled,
        // Nobody works on such a revision, and Helm upgrades no release without a deployed
        // revision.
        _ if status == Status::Unknown => Plan::MarkFailed,
        // Helm continues from these by itself.
        _ => Plan::Leave,
    }
}

/// The minimum age from which an unknown owner's pending release counts as orphaned.
pub const ORPHAN_AFTER: Duration = Duration::from_secs(300);

/// The time that Helm needs after its timeout to record the failure.
const TO_SAY_SO: Duration = Duration::from_secs(60);

/// For a release whose timeout is unknown: it is not the tree's, or Helmfile cannot read its layer.
const STRANGERS_AFTER: Duration = Duration::from_secs(3600);

/// How long a run that is ending anyway may take to clean up after Helm.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// In the description of a revision that was marked failed here.
const MARKED: &str = "marked failed by xtask";

/// Repairs what nobody will finish, or uninstalls or rolls back the release that is named.
pub async fn repair(
    context: &Context,
    client: &Client,
    lock: Option<RawFd>,
    others: &Others,
    older_than: Option<Duration>,
    uninstall: Option<&str>,
    rollback: &[String],
) -> Result<(), Failure> {
    let reporter = &context.run.reporter;
    if let Some(name) = uninstall {
        let found = find(&context.run, &context.repo, client, name).await?;
        let newest = left_alone(context, client, others, &found, older_than).await?;
        return uninstall_named(context, client, lock, &newest).await;
    }
    if let [name, revision] = rollback {
        let newest = find(&context.run, &context.repo, client, name).await?;
        let number: u32 = revision.parse().map_err(|_| {
            Failure::usage(format!("--rollback {name} {revision:?}: expected the number of a revision"))
        })?;
        let known = history(client, &newest.namespace, &newest.release).await?;
        if !known.iter().any(|other| other.revision == number) {
            let numbers: Vec<String> = known.iter().map(|other| other.revision.to_string()).collect();
            let message = format!("release {} has no revision {number}: it has {}", newest.release, numbers.join(", "));
            return Err(Failure::usage(message));
        }
        let newest = left_alone(context, client, others, &newest, older_than).await?;
        if context.run.dry_run {
            reporter.planned(&newest.release, format!("roll back to revision {number}"));
            return Ok(());
        }
        consent_to_rollback(&context.run, client, &newest, number).await?;
        context.run.confirm(&format!("roll release {} back to revision {number}", newest.release)).await?;
        return roll_back(context, lock, &newest, number, "by hand", false).await;
    }
    let found = stuck(every(&context.run, &context.repo, client).await?);
    let (repaired, result) = treat_all(context, client, others, &found, older_than).await;
    reporter.note("releases", format!("{repaired} repaired"));
    result
}

/// The newest revision of every release; only in the tree's namespaces if the whole cluster cannot
/// be listed.
async fn every(run: &Run, repo: &Repo, client: &Client) -> Result<Vec<(Revision, Stored)>, Failure> {
    match newest(client, None).await {
        Err(failure) if failure.code == Code::Forbidden => {
            let namespaces = repo.tree.layer_needs()?.all_namespaces();
            if namespaces.is_empty() {
                return Err(failure);
            }
            let names = namespaces.iter().cloned().collect::<Vec<_>>().join(", ");
            run.reporter.note("releases", format!("searched in {names} only: {}", failure.message));
            helm_storage::newest_within(client, &namespaces).await
        }
        all => all,
    }
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
    let of = [removal::release_of(found)];
    // A half uninstalled one is what either may be for.
    removal::watch_over(context, client, others, &of, older_than, true).await?;
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
    let goes = |fate: &removal::Fate| if *fate == removal::Fate::Goes { "delete" } else { "keep" };
    let lines: Vec<String> = match removal::fates(&stored.manifest, claims) {
        Ok(all) => all.iter().map(|(object, fate)| format!("{} {}", goes(fate), removal::name(object))).collect(),
        Err(_) => objects(&stored).iter().map(|line| format!("delete {line}")).collect(),
    };
    for line in lines {
        run.reporter.planned(&newest.release, line);
    }
    if run.dry_run {
        return Ok(());
    }
    let data = data_of(&stored);
    let with = if claims && !data.is_empty() { format!(", with {}", data.join(", ")) } else { String::new() };
    let what = format!("uninstall release {} in {}{with}", newest.release, newest.namespace);
    let consented = removal::consent(run, claims, &what).await?;
    removal::uninstall(context, client, lock, (newest, HELMS_TIMEOUT), &consented, std::future::pending()).await
}

/// Rolls a release back. The description says why and by which run, and so whose it is while it is
/// pending; for `layer --rollback` it is not that of a run of the layer.
async fn roll_back(
    context: &Context,
    lock: Option<RawFd>,
    newest: &Revision,
    to: u32,
    why: &str,
    force_conflicts: bool,
) -> Result<(), Failure> {
    let (number, words) = (to.to_string(), history::rollback_words(to, why, &context.run.id));
    let mut arguments = vec!["rollback", &newest.release, &number, "--wait", "--description", &words];
    arguments.extend(force_conflicts.then_some("--force-conflicts"));
    helm(context, lock, newest, &arguments).await
}

/// Uninstalls a release, with everything its chart created.
async fn uninstall_release(
    context: &Context,
    lock: Option<RawFd>,
    revision: &Revision,
    _: &Consent<consent::Release>,
) -> Result<(), Failure> {
    helm(context, lock, revision, &["uninstall", &revision.release, "--wait"]).await
}

/// Runs Helm on one release; its output goes to a log. It inherits the cluster lock, so that the
/// lock is held as long as Helm works.
async fn helm(context: &Context, lock: Option<RawFd>, revision: &Revision, arguments: &[&str]) -> Result<(), Failure> {
    helm_until(context, lock, revision, arguments, std::future::pending()).await
}

/// The same, but ended if `stop` resolves first.
async fn helm_until(
    context: &Context,
    lock: Option<RawFd>,
    revision: &Revision,
    arguments: &[&str],
    stop: impl Future<Output = Failure>,
) -> Result<(), Failure> {
    let toolbox = crate::world::tools::ensure(&context.repo.tree, &["helm"], &context.run.reporter).await?;
    let mut command = toolbox.command_on("helm", context);
    command.args(arguments).args(["--namespace", &revision.namespace, "--kube-context", &context.site.kube_context]);
    let log = context.run.log(&format!("{}-{}", arguments[0], revision.release));
    let step = context.run.reporter.step(
        Step::new(StepKind::Helm, &revision.release, arguments.join(" "))
            .of_release(&revision.release)
            .logging_to(&log),
    );
    command.envs(step.trace_context());
    let job = Job { command, log: &log, inherit: lock };
    let ended = job.run(|line| context.run.reporter.progress(line), stop).await?;
    if !ended.status.success() {
        let failure = Failure::new(
            Code::ReleasePending,
            format!("`helm {}` failed for release {}", arguments[0], revision.release),
        );
        return Err(failure.evidence(ended.tail.last().cloned().unwrap_or_default()).log(log));
    }
    step.done_as(format!("helm {}", arguments.join(" ")));
    Ok(())
}

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
        [newest, before, ..] => newest.status == Status::Failed && before.description.contains(MARKED),
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
            !description.contains(MARKED) && !NEVER_UP.iter().any(|words| description.starts_with(words))
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

/// Describes a revision that is not deployed, for people.
fn words(status: Status) -> &'static str {
    match status {
        Status::PendingInstall => "is being installed",
        Status::PendingUpgrade => "is being upgraded",
        Status::PendingRollback => "is being rolled back",
        Status::Uninstalling => "is being uninstalled",
        Status::Failed => "failed",
        Status::Superseded => "is superseded, and there is no newer one",
        Status::Uninstalled => "is uninstalled",
        Status::Unknown => "has the status unknown",
        Status::Other => "has a status that this tool does not know",
        Status::Deployed => "is deployed",
    }
}

/// Describes an owner and what a repair would do, for people.
fn outlook(repo: &Repo, revision: &Revision, stored: &Stored, owner: &Owner, plan: &Plan) -> String {
    let full = format!("{}/{}", revision.namespace, revision.release);
    if let Some(reason) = &stored.unreadable {
        return format!("its Secret {} cannot be read as a release ({reason}), and is left as it is", revision.secret);
    }
    let layer = revision.layer.as_deref().filter(|layer| !layer.is_empty());
    match plan {
        Plan::WaitFor { who } => format!("{who} is working on it: a repair would wait"),
        Plan::TooYoung { seconds } => {
            format!("by somebody unknown: a repair would leave it, and count it as orphaned in {seconds} s")
        }
        Plan::MarkFailed => match owner {
            Owner::Dead { run } => format!("its run {run} has ended: a repair would mark it failed"),
            _ => "nobody is known to be working on it: a repair would mark it failed".to_owned(),
        },
        Plan::HalfUninstalled => format!(
            "that was interrupted: cargo xtask --env {} releases repair --uninstall {full} finishes it",
            repo.env_name
        ),
        Plan::Leave => match (revision.status, layer) {
            (Status::Uninstalled, Some(layer)) => {
                format!("the next run of its layer installs it: cargo xtask --env {} layer {layer}", repo.env_name)
            }
            (_, Some(layer)) => {
                format!("the next run of its layer upgrades it: cargo xtask --env {} layer {layer}", repo.env_name)
            }
            (Status::Uninstalled, None) => "its history was kept; nothing to repair".to_owned(),
            (_, None) => "nothing to repair: Helm continues from there".to_owned(),
        },
    }
}

pub async fn show(context: &Context, client: &Client) -> Result<(), Failure> {
    let all = every(&context.run, &context.repo, client).await?;
    let count = all.len();
    let found: Vec<(Revision, Stored)> = all
        .into_iter()
        .filter(|(revision, stored)| revision.status != Status::Deployed || stored.unreadable.is_some())
        .collect();
    let (others, now) = if found.is_empty() {
        (Others::kept_out(), Timestamp::now())
    } else {
        (Others::look(&context.run, &context.repo, client).await, server_time(client).await?)
    };
    let mut rows = Vec::new();
    for (revision, stored) in &found {
        let owner = owner(&context.run, &context.site, client, &others, revision).await;
        let after = orphan_after(context, revision, &owner, None).await;
        let plan = decide(revision.status, &owner, age(revision, now), after);
        if context.run.json {
            rows.push(serde_json::json!({"release": revision, "owner": owner, "plan": plan}));
            continue;
        }
        context.run.reporter.data(&format!(
            "{}/{} revision {} {}, for {}: {}",
            revision.namespace,
            revision.release,
            revision.revision,
            words(revision.status),
            run_record::human_seconds(age(revision, now).as_secs_f64().max(0.0)),
            outlook(&context.repo, revision, stored, &owner, &plan)
        ));
    }
    match (context.run.json, found.len()) {
        (true, _) => context.run.reporter.data(&serde_json::Value::from(rows).to_string()),
        (false, 0) if count == 0 => context.run.reporter.data("there is no release"),
        (false, 0) => context.run.reporter.data("every release is deployed"),
        (false, _) => {}
    }
    Ok(())
}

/// Before a layer: asks for consent to uninstall releases that the tree no longer wants installed,
/// which Helmfile would do without asking.
///
/// # Errors
/// `consent-needed` if there is one; errors from reading Helm's storage.
pub async fn consent_to_uninstalls(run: &Run, client: &Client, wanted: &[Release]) -> Result<(), Failure> {
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
            let _: Consent<consent::Release> = run.may_destroy(&what).await?;
        }
        // Helmfile would not keep it.
        consent_to_loss(run, &what, data).await?;
    }
    Ok(())
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
    let of: Vec<Release> = at_stake.iter().map(|(revision, _)| removal::release_of(revision)).collect();
    let mut apart = apart(&of).await?;
    for (revision, replaced) in at_stake {
        let (release, namespace) = (&revision.release, &revision.namespace);
        // One that renders nothing is not among them.
        let next = Ok(apart.remove(&(namespace.clone(), release.clone())).unwrap_or_default());
        let (mut dropped, mut lost) = (Vec::<manifest::Dropped>::new(), Vec::new());
        for stored in &replaced {
            match manifest::dropped(stored, &next, namespace) {
                Ok(found) => {
                    let is_new = |one: &manifest::Dropped| !dropped.iter().any(|known| known.name == one.name);
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
            && let Some((_, deployed)) = helm_storage::upgraded_from(client, &removal::release_of(&revision)).await?
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

/// Before a layer: waits for, repairs or reports each of its releases.
pub async fn watch_over(context: &Context, client: &Client, wanted: &[Release]) -> Result<(), Failure> {
    let found = unhealthy(client, wanted).await?;
    treat_all(context, client, &Others::kept_out(), &found, None).await.1
}

/// Carries out every plan, those that wait last: a release that cannot be repaired does not keep
/// others from it. Returns how many were repaired, and the first failure with the others.
async fn treat_all(
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
            Err(failure) => match &mut failed {
                None => failed = Some(failure),
                Some(first) => {
                    first.evidence.push(format!("also {failure}"));
                    first.evidence.extend(failure.remedy.map(|remedy| format!("  remedy: {remedy}")));
                }
            },
        }
    }
    (repaired, failed.map_or(Ok(()), Err))
}

/// The age from which a revision of an unknown owner counts as orphaned: what a person says, else
/// at least the longest time that Helm may take between two writes, which is the release's own
/// timeout. Helm does not store it, so the release's layer is read.
async fn orphan_after(context: &Context, revision: &Revision, owner: &Owner, asked: Option<Duration>) -> Duration {
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

async fn wait_while_owned(
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

fn still_worked_on(release: &str, namespace: &str, who: &str) -> Failure {
    Failure::new(Code::ReleaseOwned, format!("release {release} in {namespace} is still being worked on"))
        .evidence(who)
        .remedy("wait for that command to end, or end it yourself")
}

/// The highest revisions that Helm does not continue from by itself.
async fn unhealthy(client: &Client, of: &[Release]) -> Result<Vec<Revision>, Failure> {
    Ok(stuck(newest(client, Some(of)).await?))
}

fn stuck(newest: Vec<(Revision, Stored)>) -> Vec<Revision> {
    let stuck = |status: Status| status.is_pending() || matches!(status, Status::Uninstalling | Status::Unknown);
    newest.into_iter().map(|(revision, _)| revision).filter(|revision| stuck(revision.status)).collect()
}

/// Since it was last written, by the API server's clock, which wrote that time as well; negative if
/// that clock went back.
fn age(revision: &Revision, now: Timestamp) -> SignedDuration {
    now.duration_since(revision.written.unwrap_or(now))
}

/// Helm processes of earlier runs hold the cluster lock as long as they live. So if we hold it, a
/// revision that a run recorded in this state folder made (including this run) has no living owner
/// except a helm process. Whose it is must be certain: Helm hands its labels on to whoever upgrades
/// it next, anywhere.
async fn owner(run: &Run, site: &Site, client: &Client, others: &Others, revision: &Revision) -> Owner {
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

fn is_recorded(run: &Run, id: &str) -> bool {
    let plain = id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    plain && run.state.runs().join(id).is_dir()
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

/// Marks one revision failed, in one write that the API server refuses if anybody else wrote in
/// between.
async fn mark_failed(run: &Run, client: &Client, revision: &Revision) -> Result<(), Failure> {
    let step =
        run.reporter.step(Step::new(StepKind::Repair, &revision.release, "repairing").of_release(&revision.release));
    let mut secret = helm_storage::secret(client, revision).await?;
    let changed = || {
        Failure::new(Code::ReleaseOwned, format!("release {} changed while it was looked at", revision.release))
            .remedy("run it again")
    };
    if secret.metadata.resource_version != revision.resource_version {
        return Err(changed());
    }
    keep_copy(run, &secret, revision)?;
    let description = format!("Interrupted; {MARKED} (run {})", run.id);
    helm_storage::set_status(&mut secret, Status::Failed, &description)
        .map_err(|error| helm_storage::unreadable(revision, error))?;
    let api = Api::<Secret>::namespaced(client.clone(), &revision.namespace);
    match api.replace(&revision.secret, &PostParams::default(), &secret).await {
        Ok(_) => {
            let what = format!("revision {} is {}", revision.revision, revision.status.as_str());
            step.done_as(format!("{what}, and nobody is working on it: marked failed"));
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Err(changed()),
        Err(error) => Err(write_failed(&format!("the Secret {}/{}", revision.namespace, revision.secret), error)),
    }
}

/// Saves the original Secret in this run's folder, readable by this user only. What this run has
/// written since is not the original.
fn keep_copy(run: &Run, secret: &Secret, revision: &Revision) -> Result<(), Failure> {
    let path = run.dir.join(format!("{}.{}.json", revision.namespace, revision.secret));
    let write = || write_once(&path, serde_json::to_string(secret)?.as_bytes());
    write()
        .map_err(|error| Failure::new(Code::DiskFull, format!("cannot keep a copy of the Secret in {path}: {error}")))
}

fn write_once(path: &Utf8Path, content: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = match std::fs::File::options().create_new(true).write(true).mode(0o600).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        file => file?,
    };
    // A part of it is no copy.
    file.write_all(content).inspect_err(|_| drop(std::fs::remove_file(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: SignedDuration = SignedDuration::from_secs(10);
    const OLD: SignedDuration = SignedDuration::from_secs(301);

    #[test]
    fn every_row_of_the_recovery_table() {
        let alive = Owner::Alive { who: "helm (pid 7)".into() };
        let dead = Owner::Dead { run: "r".into() };
        let wait = Plan::WaitFor { who: "helm (pid 7)".into() };
        let pending = [Status::PendingInstall, Status::PendingUpgrade, Status::PendingRollback];
        for status in pending {
            for age in [YOUNG, OLD] {
                assert_eq!(decide(status, &alive, age, ORPHAN_AFTER), wait, "{status:?}");
                assert_eq!(decide(status, &dead, age, ORPHAN_AFTER), Plan::MarkFailed, "{status:?}");
            }
            assert_eq!(
                decide(status, &Owner::Unknown, YOUNG, ORPHAN_AFTER),
                Plan::TooYoung { seconds: 290 },
                "{status:?}"
            );
            assert_eq!(decide(status, &Owner::Unknown, OLD, ORPHAN_AFTER), Plan::MarkFailed, "{status:?}");
        }
        for owner in [&dead, &Owner::Unknown] {
            assert_eq!(decide(Status::Uninstalling, owner, OLD, ORPHAN_AFTER), Plan::HalfUninstalled);
            assert_eq!(decide(Status::Unknown, owner, YOUNG, ORPHAN_AFTER), Plan::MarkFailed);
        }
        assert_eq!(decide(Status::Uninstalling, &dead, YOUNG, ORPHAN_AFTER), Plan::HalfUninstalled);
        assert_eq!(
            decide(Status::Uninstalling, &Owner::Unknown, YOUNG, ORPHAN_AFTER),
            Plan::TooYoung { seconds: 290 },
            "somebody may be uninstalling it"
        );
        assert_eq!(decide(Status::Uninstalling, &alive, OLD, ORPHAN_AFTER), wait);
        for status in [Status::Deployed, Status::Failed, Status::Superseded, Status::Uninstalled, Status::Other] {
            for owner in [&alive, &dead, &Owner::Unknown] {
                assert_eq!(decide(status, owner, OLD, ORPHAN_AFTER), Plan::Leave, "{status:?} {owner:?}");
            }
        }
    }

    #[test]
    fn a_clock_that_went_back_makes_no_orphan() {
        let plan = |age: i64, after: u64| {
            let age = SignedDuration::from_secs(age);
            decide(Status::PendingUpgrade, &Owner::Unknown, age, Duration::from_secs(after))
        };
        assert_eq!(plan(-3600, 300), Plan::TooYoung { seconds: 3900 });
        assert_eq!(plan(299, 300), Plan::TooYoung { seconds: 1 });
        assert_eq!(plan(300, 300), Plan::MarkFailed);
        assert_eq!(plan(0, 0), Plan::MarkFailed);
        assert!(matches!(plan(i64::MIN, u64::MAX), Plan::TooYoung { .. }));
        assert!(matches!(plan(i64::MAX, u64::MAX), Plan::TooYoung { .. } | Plan::MarkFailed));
    }

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

    #[test]
    fn what_was_there_first_stays_the_copy() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(folder.path().join("copy.json")).unwrap();
        write_once(&path, b"the original").unwrap();
        write_once(&path, b"what this run made of it").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "the original");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

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
