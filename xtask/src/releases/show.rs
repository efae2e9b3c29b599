//! `cargo xtask releases`: the releases that are not deployed, whose they are, and what a repair
//! would do.

use jiff::Timestamp;
use kube::Client;

use super::decide::{Owner, Plan, decide};
use super::named::every;
use super::owner::{Others, owner};
use super::watchdog::{age, orphan_after};
use crate::run::context::Context;
use crate::world::helm_storage::{Revision, Status, Stored};
use crate::world::kubernetes::server_time;
use run_record::Failure;

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
fn outlook(revision: &Revision, stored: &Stored, owner: &Owner, plan: &Plan) -> String {
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
        Plan::HalfUninstalled => {
            format!("that was interrupted: cargo xtask releases repair --uninstall {full} finishes it")
        }
        Plan::Leave => match (revision.status, layer) {
            (Status::Uninstalled, Some(layer)) => {
                format!("the next run of its layer installs it: cargo xtask layer {layer}")
            }
            (_, Some(layer)) => {
                format!("the next run of its layer upgrades it: cargo xtask layer {layer}")
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
            context.run.reporter.completed(&outlook(revision, stored, &owner, &plan))
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
