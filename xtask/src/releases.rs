//! The watchdog: Helm releases that are not `deployed`, who owns them, and what
//! becomes of them.
//!
//! Only the highest revision of a release is judged. A repair never deletes
//! anything: a revision that nobody finishes any more is marked `failed`, which
//! is what Helm itself would have written, and the next upgrade goes on from the
//! last good one.

pub mod storage;

use std::io::Write;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, PostParams};
use serde::Serialize;

use crate::consent::{self, Consent};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::kubernetes::{server_time, write_failed};
use crate::layer::Release;
use crate::lease::ClusterLease;
use crate::process::{Interrupt, Job};

pub use storage::{Revision, Status};
use storage::{Stored, history, newest, stored};

/// Whether anybody still works on a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "owner")]
pub enum Owner {
    /// Says who: a helm process on this machine.
    Alive { who: String },
    /// A run of this machine that has ended: its lock is ours now.
    Dead { run: String },
    /// Nobody that we have a record of: then, and only then, age decides.
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
    /// Too young to count as orphaned; will count as such in so many seconds.
    TooYoung {
        seconds: u64,
    },
    /// Nobody finishes it: mark it failed and upgrade forward.
    MarkFailed,
    /// A half-done uninstall of a release that the tree wants: a person decides.
    HalfUninstalled,
}

/// The decision table. `age` and `orphan_after` matter for unknown owners only.
pub fn decide(status: Status, owner: &Owner, age: Duration, orphan_after: Duration) -> Plan {
    match (status, owner) {
        (status, Owner::Alive { who }) if status.is_pending() || status == Status::Uninstalling => {
            Plan::WaitFor { who: who.clone() }
        }
        (status, Owner::Dead { .. }) if status.is_pending() => Plan::MarkFailed,
        (status, Owner::Unknown) if status.is_pending() && age >= orphan_after => Plan::MarkFailed,
        (status, Owner::Unknown) if status.is_pending() => {
            Plan::TooYoung { seconds: (orphan_after - age).as_secs().max(1) }
        }
        (Status::Uninstalling, _) => Plan::HalfUninstalled,
        // Helm goes forward by itself from these.
        _ => Plan::Leave,
    }
}

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub action: Option<Action>,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub enum Action {
    /// Mark what nobody finishes any more as failed, so that the next layer run goes on
    Repair {
        /// From which age a pending release of an unknown owner counts as orphaned
        #[arg(long, default_value = "5m", value_parser = crate::cli::duration)]
        older_than: Duration,
        /// Uninstall this release (NAME or NAMESPACE/NAME), after showing what goes with it
        #[arg(long, value_name = "NAME", conflicts_with = "rollback")]
        uninstall: Option<String>,
        /// Roll this release back to that revision
        #[arg(long, num_args = 2, value_names = ["NAME", "REVISION"])]
        rollback: Vec<String>,
    },
}

/// The age from which an unknown owner's pending release is taken for orphaned.
pub const ORPHAN_AFTER: Duration = Duration::from_secs(300);

/// How long a revision of an unknown owner is watched before it is repaired.
const UNCHANGED_FOR: Duration = Duration::from_secs(3);

/// How long a run that ends anyway may take to tidy up after Helm.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// In the description of a revision that was marked failed here.
const MARKED: &str = "marked failed by xtask";

pub async fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    let client = crate::kubernetes::client(context).await?;
    let Some(Action::Repair { older_than, uninstall, rollback }) = &args.action else {
        return show(context, &client).await;
    };
    if context.dry_run {
        return repair(context, &client, *older_than, uninstall.as_deref(), rollback).await;
    }
    let _lock = crate::cluster::lock(context).await?;
    let mut lease = ClusterLease::acquire(context, &client).await?;
    let result = lease.guard(repair(context, &client, *older_than, uninstall.as_deref(), rollback)).await;
    lease.release().await;
    result
}

async fn repair(
    context: &Context,
    client: &Client,
    older_than: Duration,
    uninstall: Option<&str>,
    rollback: &[String],
) -> Result<(), Failure> {
    let reporter = &context.reporter;
    if let Some(name) = uninstall {
        let (newest, stored) = find(client, name).await?;
        for line in objects(&stored) {
            reporter.planned(&newest.release, format!("delete {line}"));
        }
        if context.dry_run {
            return Ok(());
        }
        let what = format!("uninstall release {} in {}", newest.release, newest.namespace);
        let consent = context.may_destroy::<consent::Release>(&what).await?;
        return uninstall_release(context, &newest, &consent).await;
    }
    if let [name, revision] = rollback {
        let (newest, _) = find(client, name).await?;
        let number: u32 = revision.parse().map_err(|_| {
            Failure::usage(format!("--rollback {name} {revision:?}: expected the number of a revision"))
        })?;
        let known = history(client, &newest.namespace, &newest.release).await?;
        if !known.iter().any(|other| other.revision == number) {
            let numbers: Vec<String> = known.iter().map(|other| other.revision.to_string()).collect();
            let message = format!("release {} has no revision {number}: it has {}", newest.release, numbers.join(", "));
            return Err(Failure::usage(message));
        }
        if context.dry_run {
            reporter.planned(&newest.release, format!("roll back to revision {number}"));
            return Ok(());
        }
        context.confirm(&format!("roll release {} back to revision {number}", newest.release)).await?;
        return helm(context, &newest, &["rollback", &newest.release, &number.to_string(), "--wait"]).await;
    }
    let now = server_time(client).await?;
    let mut repaired = 0;
    for revision in unhealthy(client, None).await? {
        repaired += usize::from(treat(context, client, &revision, older_than, now).await?);
    }
    reporter.note("releases", format!("{repaired} repaired"));
    Ok(())
}

/// The newest revision of a release by `NAME` or `NAMESPACE/NAME`.
async fn find(client: &Client, name: &str) -> Result<(Revision, Stored), Failure> {
    let full = |revision: &Revision| format!("{}/{}", revision.namespace, revision.release);
    let mut found = newest(client, None).await?;
    found.retain(|(revision, _)| revision.release == name || full(revision) == name);
    match (found.pop(), found.as_slice()) {
        (Some(one), []) => Ok(one),
        (None, _) => Err(Failure::usage(format!("no release {name:?}")).remedy("helm list -A")),
        (Some((last, _)), others) => {
            let names: Vec<String> = others.iter().map(|(revision, _)| full(revision)).chain([full(&last)]).collect();
            Err(Failure::usage(format!("{name:?} may be any of {}", names.join(", "))))
        }
    }
}

/// Uninstalls a release, with whatever its chart made.
async fn uninstall_release(
    context: &Context,
    revision: &Revision,
    _: &Consent<consent::Release>,
) -> Result<(), Failure> {
    helm(context, revision, &["uninstall", &revision.release, "--wait"]).await
}

/// Runs Helm on one release; its lines go to a log.
async fn helm(context: &Context, revision: &Revision, arguments: &[&str]) -> Result<(), Failure> {
    let toolbox = crate::tools::ensure(&context.tree, &["helm"], &context.reporter).await?;
    let mut command = toolbox.command("helm");
    command.args(arguments).args(["--namespace", &revision.namespace, "--kube-context", &context.kube_context]);
    let log = context.log(&format!("{}-{}", arguments[0], revision.release));
    let step = context.reporter.step(&revision.release, arguments.join(" "));
    let job = Job { command, log: &log, inherit: None };
    let ended = job.run_to_end(|line| context.reporter.progress(line)).await?;
    if !ended.status.success() {
        let failure = Failure::new(
            "release-pending",
            Exit::Release,
            format!("`helm {}` failed for release {}", arguments[0], revision.release),
        );
        return Err(failure.evidence(ended.tail.last().cloned().unwrap_or_default()).log(log));
    }
    step.done_as(format!("helm {}", arguments.join(" ")));
    Ok(())
}

/// A revision as deciding after a failure needs to know it.
#[derive(Clone, Debug)]
pub struct Past {
    pub revision: u32,
    pub status: Status,
    /// Helm's own words: "Upgrade complete", or those of a repair.
    pub description: String,
}

impl Past {
    fn of(revision: &Revision, stored: &Stored) -> Self {
        let info = stored.info.clone();
        Self { revision: revision.revision, status: info.status, description: info.description }
    }
}

/// What becomes of a release whose forward attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// A plain failure: the next run upgrades again.
    Nothing,
    RollBack(u32),
    /// Uninstall and install again, with consent.
    Reinstall,
    /// Uninstalling would delete these: a person decides.
    Stop(Vec<String>),
}

/// `data` are the objects of the manifest that hold data, or would take some with them.
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
    // A revision that a failed rollback superseded keeps the words of its own failure.
    let completed =
        |words: &str| ["Install complete", "Upgrade complete", "Rollback to"].iter().any(|w| words.starts_with(w));
    let good = newest_first.iter().find(|past| match past.status {
        Status::Deployed => true,
        Status::Superseded => completed(&past.description),
        _ => false,
    });
    match good {
        Some(good) => AfterFailure::RollBack(good.revision),
        None if data.is_empty() => AfterFailure::Reinstall,
        None => AfterFailure::Stop(data.to_vec()),
    }
}

/// After a layer failed: releases that were repaired and failed again. True when
/// one was uninstalled, so that the layer may be synced once more.
pub async fn after_failure(context: &Context, client: &Client, wanted: &[Release]) -> Result<bool, Failure> {
    let mut again = false;
    for release in wanted.iter().filter(|release| release.installed) {
        let mut revisions = history(client, &release.namespace, &release.name).await?;
        revisions.sort_by_key(|revision| revision.revision);
        let Some(newest) = revisions.last().filter(|newest| newest.status == Status::Failed) else { continue };
        let stored = stored(client, newest).await?;
        let mut past = vec![Past::of(newest, &stored)];
        for revision in &revisions[..revisions.len() - 1] {
            past.push(Past::of(revision, &storage::stored(client, revision).await?));
        }
        match decide_after_failure(&past, &data_of(&stored)) {
            AfterFailure::Nothing => {}
            AfterFailure::RollBack(good) => {
                context.reporter.warn(&release.name, format!("failed again after a repair: back to revision {good}"));
                helm(context, newest, &["rollback", &release.name, &good.to_string(), "--wait"]).await?;
            }
            AfterFailure::Reinstall => {
                for line in objects(&stored) {
                    context.reporter.note(&release.name, format!("uninstalling would delete {line}"));
                }
                let what = format!("uninstall release {} and install it again", release.name);
                let consent = context.may_destroy::<consent::Release>(&what).await?;
                uninstall_release(context, newest, &consent).await?;
                again = true;
            }
            AfterFailure::Stop(data) => context.reporter.warn(
                &release.name,
                format!(
                    "failed again after a repair, with no good revision; uninstalling it would delete {}: `cargo xtask releases repair --uninstall {}` if that may go",
                    data.join(", "),
                    release.name
                ),
            ),
        }
    }
    Ok(again)
}

/// `kind name` of each object of a stored release.
fn objects(stored: &Stored) -> Vec<String> {
    documents(stored).map(|(kind, name, _)| format!("{kind} {name}")).collect()
}

fn documents(stored: &Stored) -> impl Iterator<Item = (String, String, &str)> {
    stored.manifest.split("\n---").filter_map(|text| {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(|rest| rest.trim().to_owned());
        Some((value("kind:")?, value("  name:").unwrap_or_default(), text))
    })
}

/// Those that hold data, or that others live in. What Helm keeps does not count.
fn data_of(stored: &Stored) -> Vec<String> {
    let holds = |kind: &str, text: &str| match kind {
        "PersistentVolumeClaim" | "Namespace" | "CustomResourceDefinition" => {
            !text.contains("helm.sh/resource-policy: keep")
        }
        "StatefulSet" => text.contains("volumeClaimTemplates:"),
        _ => false,
    };
    documents(stored)
        .filter(|(kind, _, text)| holds(kind, text))
        .map(|(kind, name, _)| format!("{kind} {name}"))
        .collect()
}

async fn show(context: &Context, client: &Client) -> Result<(), Failure> {
    let found = unhealthy(client, None).await?;
    let now = server_time(client).await?;
    if context.json {
        let rows: Vec<serde_json::Value> = found
            .iter()
            .map(|revision| {
                let owner = owner(context, revision);
                let plan = decide(revision.status, &owner, age(revision, now), ORPHAN_AFTER);
                serde_json::json!({"release": revision, "owner": owner, "plan": plan})
            })
            .collect();
        context.reporter.data(&serde_json::Value::from(rows).to_string());
        return Ok(());
    }
    for revision in &found {
        let owner = owner(context, revision);
        let plan = decide(revision.status, &owner, age(revision, now), ORPHAN_AFTER);
        context.reporter.data(&format!(
            "{}/{} revision {}: {:?} for {} s; owner {owner:?}; repair would: {plan:?}",
            revision.namespace,
            revision.release,
            revision.revision,
            revision.status,
            age(revision, now).as_secs()
        ));
    }
    if found.is_empty() {
        context.reporter.data("every release is deployed");
    }
    Ok(())
}

/// Before a layer: each of its releases is waited for, repaired, or reported.
pub async fn watch_over(context: &Context, client: &Client, wanted: &[Release]) -> Result<(), Failure> {
    let found = unhealthy(client, Some(wanted)).await?;
    if found.is_empty() {
        return Ok(());
    }
    let now = server_time(client).await?;
    for revision in found {
        treat(context, client, &revision, ORPHAN_AFTER, now).await?;
    }
    Ok(())
}

/// Carries the plan for one revision out; whether it repaired something.
async fn treat(
    context: &Context,
    client: &Client,
    revision: &Revision,
    orphan_after: Duration,
    now: Timestamp,
) -> Result<bool, Failure> {
    let name = &revision.release;
    let owner = owner(context, revision);
    let plan = decide(revision.status, &owner, age(revision, now), orphan_after);
    let what = format!("revision {} is {}", revision.revision, revision.status.as_str());
    match plan {
        Plan::Leave => Ok(false),
        Plan::WaitFor { who } => {
            context.reporter.waiting(name, format!("{what}, and {who} works on it"));
            wait_while_owned(context, client, revision, &who).await?;
            Ok(false)
        }
        Plan::TooYoung { seconds } => Err(Failure::new(
            "release-owned",
            Exit::Release,
            format!("release {name} in {}: {what}, by somebody unknown", revision.namespace),
        )
        .evidence(format!("Secret {}, created {} s ago", revision.secret, age(revision, now).as_secs()))
        .remedy(format!(
            "wait: it counts as orphaned in {seconds} s; or now: cargo xtask releases repair --older-than 0s --yes"
        ))),
        Plan::HalfUninstalled => Err(Failure::new(
            "release-pending",
            Exit::Release,
            format!("release {name} in {}: an uninstall was interrupted", revision.namespace),
        )
        .evidence(format!("Secret {} is {what}", revision.secret))
        .remedy(format!(
            "helm uninstall {name} -n {} finishes it (its claims stay), then run the layer again",
            revision.namespace
        ))),
        Plan::MarkFailed => {
            if context.dry_run {
                context.reporter.planned(name, format!("mark revision {} as failed: {what}", revision.revision));
                return Ok(false);
            }
            if owner == Owner::Unknown {
                context
                    .confirm(&format!(
                        "mark revision {} of release {name} ({what}, nobody works on it) as failed",
                        revision.revision
                    ))
                    .await?;
                // Unchanged while we watch, and then only if nobody wrote in between.
                Interrupt::global().or(tokio::time::sleep(UNCHANGED_FOR)).await?;
            }
            mark_failed(context, client, revision).await?;
            Ok(true)
        }
    }
}

/// After a sync that failed or was interrupted: what its Helm left pending is marked
/// failed at once, so that nobody finds it so. The next run would do the same first,
/// hence what goes wrong here is nobody's trouble.
pub async fn settle(context: &Context, client: &Client, wanted: &[Release]) {
    let settled = async {
        for revision in unhealthy(client, Some(wanted)).await? {
            let owner = owner(context, &revision);
            if decide(revision.status, &owner, Duration::ZERO, ORPHAN_AFTER) == Plan::MarkFailed {
                mark_failed(context, client, &revision).await?;
            }
        }
        Ok::<(), Failure>(())
    };
    let _ = tokio::time::timeout(SETTLE_WITHIN, settled).await;
}

async fn wait_while_owned(context: &Context, client: &Client, revision: &Revision, who: &str) -> Result<(), Failure> {
    let started = std::time::Instant::now();
    loop {
        let current = storage::current(client, revision).await?;
        let still_pending = current.is_some_and(|(now, _)| now.status == revision.status);
        if !still_pending || !matches!(owner(context, revision), Owner::Alive { .. }) {
            return Ok(());
        }
        if started.elapsed() >= context.lock_timeout {
            return Err(Failure::new(
                "release-owned",
                Exit::Release,
                format!("release {} in {} is still worked on", revision.release, revision.namespace),
            )
            .evidence(who)
            .remedy("wait for that command to end, or end it yourself"));
        }
        // A process of somebody else cannot be watched, only looked at again.
        Interrupt::global().or(tokio::time::sleep(Duration::from_millis(500))).await?;
    }
}

/// The highest revisions that are neither deployed nor simply failed.
async fn unhealthy(client: &Client, of: Option<&[Release]>) -> Result<Vec<Revision>, Failure> {
    let found = newest(client, of).await?.into_iter().map(|(revision, _)| revision);
    Ok(found.filter(|revision| revision.status.is_pending() || revision.status == Status::Uninstalling).collect())
}

/// By the API server's clock, which wrote the time of creation as well.
fn age(revision: &Revision, now: Timestamp) -> Duration {
    let created = revision.created.unwrap_or(now);
    Duration::try_from(now.duration_since(created)).unwrap_or_default()
}

/// The cluster lock is ours while this is asked, and Helm processes of earlier
/// runs hold it as long as they live: so a revision of a run recorded in this
/// state folder (this run among them) has no living owner but a helm process.
fn owner(context: &Context, revision: &Revision) -> Owner {
    if let Some(who) = helm_process(&context.kube_context, &revision.release) {
        return Owner::Alive { who };
    }
    match &revision.run {
        Some(run) if is_recorded(context, run) => Owner::Dead { run: run.clone() },
        _ => Owner::Unknown,
    }
}

fn is_recorded(context: &Context, run: &str) -> bool {
    let plain = run.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    plain && context.state.runs().join(run).is_dir()
}

/// Waits for Helm processes on these releases to end: Helmfile was killed, and they
/// go on. Two of them on one release would fail each other.
///
/// # Errors
/// `release-owned` after the lock timeout.
pub async fn wait_for_helm(context: &Context, wanted: &[Release]) -> Result<(), Failure> {
    let started = std::time::Instant::now();
    let mut told = false;
    loop {
        let working =
            wanted.iter().find_map(|release| Some((release, helm_process(&context.kube_context, &release.name)?)));
        let Some((release, who)) = working else { return Ok(()) };
        if !told {
            context.reporter.waiting(&release.name, format!("{who} still works on it"));
            told = true;
        }
        if started.elapsed() >= context.lock_timeout {
            let message = format!("release {} in {} is still worked on", release.name, release.namespace);
            return Err(Failure::new("release-owned", Exit::Release, message)
                .evidence(who)
                .remedy("wait for that command to end, or end it yourself"));
        }
        // It is no child of ours: it can only be looked at again.
        Interrupt::global().or(tokio::time::sleep(Duration::from_millis(200))).await?;
    }
}

/// A helm process on this machine that changes the release.
fn helm_process(kube_context: &str, release: &str) -> Option<String> {
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
        let arguments: Vec<String> =
            arguments.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        changes(&arguments, kube_context, release).then(|| format!("helm (pid {pid})"))
    })
}

/// Whether this command line is a Helm that changes the release. One that names no
/// context works on the current one, which may be ours; another context is another
/// cluster, whose release may have the same name.
fn changes(arguments: &[String], kube_context: &str, release: &str) -> bool {
    let is_helm = arguments.first().is_some_and(|program| camino::Utf8Path::new(program).file_name() == Some("helm"));
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

/// Marks one revision failed, in one write that the API server refuses if anybody
/// else wrote in between.
async fn mark_failed(context: &Context, client: &Client, revision: &Revision) -> Result<(), Failure> {
    let step = context.reporter.step(&revision.release, "repairing");
    let mut secret = storage::secret(client, revision).await?;
    let changed = || {
        Failure::new(
            "release-owned",
            Exit::Release,
            format!("release {} changed while it was looked at", revision.release),
        )
        .remedy("run it again")
    };
    if secret.metadata.resource_version != revision.resource_version {
        return Err(changed());
    }
    keep_copy(context, &secret, revision)?;
    let description = format!("Interrupted; {MARKED} (run {})", context.run_id);
    storage::set_status(&mut secret, Status::Failed, &description)
        .map_err(|error| storage::unreadable(revision, error))?;
    let api = Api::<Secret>::namespaced(client.clone(), &revision.namespace);
    match api.replace(&revision.secret, &PostParams::default(), &secret).await {
        Ok(_) => {
            let what = format!("revision {} is {}", revision.revision, revision.status.as_str());
            step.done_as(format!("{what}, and nobody finishes it: marked failed"));
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Err(changed()),
        Err(error) => Err(write_failed(&format!("the Secret {}/{}", revision.namespace, revision.secret), error)),
    }
}

/// The Secret as it was, in this run's folder, for this user's eyes only.
fn keep_copy(context: &Context, secret: &Secret, revision: &Revision) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = context.run_dir.join(format!("{}.{}.json", revision.namespace, revision.secret));
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::options().create(true).write(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(serde_json::to_string(secret)?.as_bytes())
    };
    write().map_err(|error| {
        Failure::new("disk-full", Exit::NotReady, format!("cannot keep a copy of the Secret in {path}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: Duration = Duration::from_secs(10);
    const OLD: Duration = Duration::from_secs(301);

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
        }
        assert_eq!(decide(Status::Uninstalling, &alive, OLD, ORPHAN_AFTER), wait);
        for status in [Status::Deployed, Status::Failed, Status::Superseded, Status::Uninstalled, Status::Unknown] {
            for owner in [&alive, &dead, &Owner::Unknown] {
                assert_eq!(decide(status, owner, OLD, ORPHAN_AFTER), Plan::Leave, "{status:?} {owner:?}");
            }
        }
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
            (&[(1, Failed, marked), (2, Failed, failed)], &[], AfterFailure::Reinstall),
            (&[(1, Failed, marked), (2, Failed, failed)], &claim, AfterFailure::Stop(claim.to_vec())),
        ] {
            assert_eq!(decide_after_failure(&past(rows), data), plan, "{rows:?}");
        }
    }

    #[test]
    fn a_helm_on_another_cluster_works_on_another_release() {
        for (line, ours) in [
            ("/cache/bin/helm upgrade --install minio ../charts/minio --kube-context k3d-a", true),
            ("helm upgrade minio chart --kube-context=k3d-a", true),
            ("helm uninstall minio", true),
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

    #[test]
    fn what_holds_data_is_found_in_the_manifest() {
        let manifest = "---\nkind: Service\nmetadata:\n  name: web\n---\nkind: PersistentVolumeClaim\nmetadata:\n  name: kept\n  annotations:\n    helm.sh/resource-policy: keep\n---\nkind: PersistentVolumeClaim\nmetadata:\n  name: gone\n---\nkind: StatefulSet\nmetadata:\n  name: db\nspec:\n  volumeClaimTemplates: []\n";
        let stored = Stored { manifest: manifest.to_owned(), ..Stored::default() };
        assert_eq!(data_of(&stored), ["PersistentVolumeClaim gone", "StatefulSet db"]);
        assert_eq!(objects(&stored).len(), 4);
    }
}
