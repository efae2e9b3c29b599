//! Helm on one release, under the cluster's lock.

use std::os::fd::RawFd;

use super::history;
use crate::run::consent::{self, Consent};
use crate::run::context::Context;
use crate::world::helm_storage::Revision;
use crate::world::process::Job;
use run_record::{Code, Failure, Step, StepKind};

/// Rolls a release back. The description says why and by which run, and so whose it is while it is
/// pending; for `layer --rollback` it is not that of a run of the layer.
pub(super) async fn roll_back(
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
pub(super) async fn uninstall_release(
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
pub(super) async fn helm_until(
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
