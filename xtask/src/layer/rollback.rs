//! `cargo xtask layer … --rollback`: takes a layer's releases back together to the revisions of its
//! last good run. First it reads the histories that Helm keeps; [`target`] decides; then `helm
//! rollback` runs for one after the other, watched like a sync.

mod target;

use camino::Utf8PathBuf;
use kube::Client;

use super::back::{self, Built};
use super::{Args, Reader, Runner, all_or_first, instant, timeline};
use crate::cluster;
use crate::cluster::lease::ClusterLease;
use crate::compare::{handback, live};
use crate::diagnosis::Diagnosis;
use crate::diagnosis::retry::Spent;
use crate::files::{self, bounds, digest};
use crate::releases::{self, Others};
use crate::repo::Repo;
use crate::repo::layers::Layer;
use crate::run::Run;
use crate::run::context::{Context, Site};
use crate::run::interrupt::Interrupt;
use crate::world::helm_storage::{self, Revision, Stored};
use crate::world::process::Job;
use crate::world::release::Release;
use crate::world::{kubernetes, tools};
use run_record::{Code, Failure, Step, StepKind};
use target::{History, Intent, Maker, Move, Past, Refusal};

pub(crate) async fn run(context: &Context, layers: &[Layer], args: &Args, to: Option<&str>) -> Result<(), Failure> {
    if context.run.dry_run {
        let toolbox = tools::ensure(&context.repo.tree, &["helm", "helmfile"], &context.run.reporter).await?;
        let reader = Reader::new(context, &toolbox, instant::origin(&context.run, &context.repo)?, args.selector())?;
        let client = kubernetes::client(context).await?;
        let others = Others::look(&context.run, &context.repo, &client).await;
        return planned(&reader, &client, &others, layers, to).await.map(drop);
    }
    let lock = cluster::lock(&context.run).await?;
    let lab = cluster::require_ready(context).await?;
    let toolbox = tools::ensure(&context.repo.tree, &["helm", "helmfile"], &context.run.reporter).await?;
    let runner = Runner::new(context, &toolbox, lab.as_ref(), &lock, args)?;
    let client = kubernetes::client(context).await?;
    kubernetes::require(&client).await?;
    let lease = ClusterLease::acquire(context, &client).await?;
    // On the heap, because a layer's future would fill the stack.
    let work = Box::pin(async {
        let plans = planned(&runner.reader, &client, &Others::kept_out(), layers, to).await?;
        consent(&context.run, &client, &plans).await?;
        let mut results = Vec::new();
        for plan in &plans {
            results.extend(roll_layer_back(&runner, &client, plan).await);
            Interrupt::global().check()?;
        }
        all_or_first(results)
    });
    lease.guard(work).await
}

/// What happens to a layer's releases.
struct Plan<'a> {
    layer: &'a Layer,
    intent: Intent,
    built: Built,
    /// The newest revision of each that is rolled back, and the number of the target revision.
    back: Vec<(Release, Revision, u32)>,
    /// Those that exist, to be tested.
    there: Vec<Release>,
}

/// Every layer's plan, last layer first. All are reported before any is carried out, and one that
/// cannot go back keeps the others from it: a partial rollback is useless.
///
/// # Errors
/// `usage` if there is nothing to go back to; errors from reading the cluster.
async fn planned<'a>(
    reader: &Reader<'_>,
    client: &Client,
    others: &Others,
    layers: &'a [Layer],
    to: Option<&str>,
) -> Result<Vec<Plan<'a>>, Failure> {
    let context = reader.context;
    let mut plans = Vec::new();
    for (layer, wanted) in back::selected(reader, client, layers).await? {
        let wanted: Vec<Release> = wanted.into_iter().filter(|release| release.installed).collect();
        releases::watch_over_removal(context, client, others, &wanted, None, false).await?;
        let mut histories = Vec::new();
        let mut newest = Vec::new();
        for release in &wanted {
            let (revision, past) = history(client, release).await?;
            newest.push(revision);
            histories.push(History { release: format!("{}/{}", release.namespace, release.name), past });
        }
        let left = left_by_another(&context.run, &context.repo, layer)
            .filter(|left| to.is_none() && left.still_holds(&histories));
        if let Some(left) = &left {
            let text = format!("continuing the rollback to {}, which was interrupted", left.to);
            context.run.reporter.note(&layer.name(), text);
        }
        let asked = to.map(|run| Maker::Run(run.to_owned())).or(left.map(|left| left.to));
        let decision = target::decide(&histories, asked.as_ref());
        let decision = decision.map_err(|refusal| refused(&context.repo, &context.site, layer, &refusal))?;
        let now = kubernetes::server_time(client).await?;
        let (mut back, mut there) = (Vec::new(), Vec::new());
        for (index, (release, found)) in wanted.iter().zip(&decision.moves).enumerate() {
            let text = in_words(&histories, index, found, &decision.to.to_string(), now);
            context.run.reporter.planned(&release.name, text);
            if *found != Move::NotInstalled {
                there.push(release.clone());
            }
            if let (Move::Back { to, .. }, Some(newest)) = (found, &newest[index]) {
                back.push((release.clone(), newest.clone(), *to));
            }
        }
        if back.is_empty() {
            let text = format!("nothing to roll back: it has what it had after {}", decision.to);
            context.run.reporter.note(&layer.name(), text);
        }
        let built = Built::of(reader, layer).await?;
        let order = built.reversed(&wanted);
        let place = |release: &Release| {
            order.iter().position(|other| other.name == release.name && other.namespace == release.namespace)
        };
        back.sort_by_key(|(release, ..)| place(release));
        let intent = Intent::of(&histories, &decision.to);
        plans.push(Plan { layer, intent, built, back, there });
    }
    Ok(plans)
}

/// The file in which a rollback of this layer notes what it is about to do, while it does it.
fn note(run: &Run, repo: &Repo, layer: &Layer) -> Utf8PathBuf {
    run.state.path.join(format!("rollback-{}-{}.json", repo.env_name, layer.name()))
}

fn left_by_another(run: &Run, repo: &Repo, layer: &Layer) -> Option<Intent> {
    serde_json::from_str(&bounds::read(&note(run, repo, layer), bounds::SETTINGS).ok()?).ok()
}

/// The newest revision of a release, and all that Helm keeps of it; Helm skips what it cannot read,
/// so nobody can go back to that.
async fn history(client: &Client, release: &Release) -> Result<(Option<Revision>, Vec<Past>), Failure> {
    let revisions = helm_storage::history(client, &release.namespace, &release.name).await?;
    let mut found = helm_storage::whole(client, revisions).await?;
    found.sort_by_key(|(revision, _)| revision.revision);
    if let Some((newest, stored)) = found.last()
        && let Some(reason) = &stored.unreadable
    {
        return Err(helm_storage::unreadable(newest, reason.clone()));
    }
    let newest = found.last().map(|(revision, _)| revision.clone());
    let readable = found.into_iter().filter(|(_, stored)| stored.unreadable.is_none());
    Ok((newest, readable.map(|(revision, stored)| past(&revision, &stored)).collect()))
}

fn past(revision: &Revision, stored: &Stored) -> Past {
    let noted = Some(stored.info.rollback_revision).filter(|number| *number > 0);
    let mut content = stored.manifest.clone();
    for hook in &stored.hooks {
        content.push_str("\n---\n");
        content.push_str(&hook.manifest);
    }
    Past {
        revision: revision.revision,
        status: revision.status,
        run: revision.run.clone(),
        created: revision.created,
        back_to: noted.or_else(|| target::named_in(&stored.info.description)),
        description: stored.info.description.clone(),
        content: digest::of_bytes(content.as_bytes()),
    }
}

fn in_words(histories: &[History], index: usize, found: &Move, target: &str, now: jiff::Timestamp) -> String {
    let find = |number: u32| histories[index].past.iter().find(|past| past.revision == number);
    let maker = |number: u32| target::maker_of(histories, index, number).unwrap_or_else(|| "made by hand".to_owned());
    match found {
        Move::Back { from, to } => {
            let status = find(*from).map_or("gone", |past| past.status.as_str());
            let ago = find(*to).and_then(|past| past.created);
            let ago = ago.map(|time| format!(", {} ago", live::in_words(now.duration_since(time).as_secs().max(0))));
            let (before, after) = (maker(*from), maker(*to));
            format!("roll back from revision {from} ({before}, {status}) to {to} ({after}{})", ago.unwrap_or_default())
        }
        Move::There { revision } => {
            format!("leave it: revision {revision} ({}) is what it had after {target}", maker(*revision))
        }
        Move::NotYetThere => {
            format!("leave it: it was not installed after {target}, and a rollback uninstalls nothing")
        }
        Move::NotInstalled => "leave it: it is not installed".to_owned(),
    }
}

fn refused(repo: &Repo, site: &Site, layer: &Layer, refusal: &Refusal) -> Failure {
    let (env, layer) = (&repo.env_name, layer.name());
    let history = |release: &str| {
        let (namespace, name) = release.split_once('/').unwrap_or(("", release));
        format!("helm history {name} -n {namespace} --kube-context {}", site.kube_context)
    };
    let failure = match refusal {
        Refusal::NothingInstalled => {
            Failure::usage(format!("nothing of layer {layer} is installed: there is nothing to roll back"))
                .remedy(format!("cargo xtask --env {env} layer {layer}"))
        }
        Refusal::NothingBefore { now } => {
            Failure::usage(format!("layer {layer} has no good run to go back to before {now}"))
                .remedy(format!("fix the tree, then: cargo xtask --env {env} layer {layer}"))
        }
        Refusal::NotKept { release, to } => {
            Failure::usage(format!("Helm does not keep the revision of release {release} that was there after {to}"))
                .evidence("Helm keeps only the last revisions (historyMax)")
                .remedy(history(release))
        }
        Refusal::NoSuchRun { known } => Failure::usage(format!(
            "no revision of layer {layer} is from that run: it has those of {}",
            known.join(", ")
        )),
        Refusal::NotGood { release, to } => {
            Failure::usage(format!("release {release} did not come up in {to}, or did not stay so after it"))
                .remedy(history(release))
        }
    };
    failure.evidence("nothing was rolled back")
}

/// All questions come before any action.
async fn consent(run: &Run, client: &Client, plans: &[Plan<'_>]) -> Result<(), Failure> {
    let mut all = Vec::new();
    for plan in plans.iter().filter(|plan| !plan.back.is_empty()) {
        let each = plan
            .back
            .iter()
            .map(|(release, newest, to)| format!("release {} from revision {} to {to}", release.name, newest.revision));
        all.push(format!("roll back layer {}: {}", plan.layer.name(), each.collect::<Vec<_>>().join(", ")));
        for (_, newest, to) in &plan.back {
            releases::consent_to_rollback(run, client, newest, *to).await?;
        }
    }
    if all.is_empty() { Ok(()) } else { run.confirm(&all.join("; ")).await }
}

/// One release after the other: a failure is reported and does not keep others from going back.
/// Then the tests.
async fn roll_layer_back(runner: &Runner<'_>, client: &Client, plan: &Plan<'_>) -> Vec<Result<(), Failure>> {
    let (context, since) = (runner.context, jiff::Timestamp::now());
    let (note, mut results) = (note(&context.run, &context.repo, plan.layer), Vec::new());
    let text = serde_json::to_string(&plan.intent).unwrap_or_default();
    if let Err(error) = files::write_atomically(&note, text.as_bytes()) {
        return vec![Err(Failure::new(Code::StateUnwritable, format!("cannot write {note}: {error}")))];
    }
    let going: Vec<Release> = plan.back.iter().map(|(release, ..)| release.clone()).collect();
    if let Err(failure) = handback::give_back(&context.run, client, &going).await {
        return vec![Err(failure)];
    }
    for (release, newest, to) in &plan.back {
        let result = roll_back(runner, client, plan, release, newest, *to).await;
        let cause = Interrupt::global().check().err().map(|cause| cause.code);
        let stopped = result.is_err() && cause.is_some();
        if let Err(failure) = &result {
            // What was left pending is marked failed, so that the next run finds the same target; what
            // another run now holds is for that run to settle.
            if cause != Some(Code::LockLost) {
                let _tidying = Interrupt::global().tidying();
                releases::settle(&context.run, &context.site, client, std::slice::from_ref(release)).await;
            }
            if plan.back.len() > 1 && !stopped {
                context.run.reporter.warn(&release.name, failure.to_string());
            }
        }
        results.push(result);
        if stopped {
            return results;
        }
    }
    timeline::record(&context.run, &context.repo, client, plan.layer, since).await;
    let failed = results.iter().any(Result::is_err);
    if !failed && !runner.args.skip_tests {
        results.extend(runner.test(client, plan.layer, &plan.there).await);
    }
    if Interrupt::global().check().is_err() {
        return results;
    }
    // It has finished, successfully or not: the next one decides from scratch.
    let _ = std::fs::remove_file(&note);
    let name = plan.layer.name();
    let text = format!(
        "rolled back; its next run deploys what the tree says again: cargo xtask --env {} layer {name}",
        context.repo.env_name
    );
    if !failed && !plan.back.is_empty() {
        context.run.reporter.note(&name, text);
    }
    results
}

/// `helm rollback`, watched like a sync: blockers are reported within seconds, and a StatefulSet
/// that is held by a pod of the bad revision is freed.
async fn roll_back(
    runner: &Runner<'_>,
    client: &Client,
    plan: &Plan<'_>,
    release: &Release,
    newest: &Revision,
    to: u32,
) -> Result<(), Failure> {
    let (context, layer) = (runner.context, plan.layer.name());
    let log = context.run.log(&format!("{layer}-rollback-{}", release.name));
    let (number, timeout) = (to.to_string(), format!("{}s", plan.built.timeout(newest).as_secs()));
    let words = target::description(to, &context.run.id);
    let mut command = runner.toolbox.command_on("helm", context);
    command.args(["rollback", &release.name, &number, "--wait", "--timeout", &timeout, "--description", &words]);
    command.args(["--namespace", &release.namespace, "--kube-context", &context.site.kube_context]);
    command.args(runner.args.force_conflicts.then_some("--force-conflicts"));
    let step = Step::new(StepKind::Helm, &release.name, format!("helm rollback to revision {to}"));
    let step = context.run.reporter.step(step.of_layer(&layer).of_release(&release.name).logging_to(&log));
    command.envs(step.trace_context());
    let job = Job { command, log: &log, inherit: runner.lock.descriptor() };
    let budgets = context.repo.tree.layer_needs()?.retries;
    let alone = std::slice::from_ref(release);
    let diagnosis = Diagnosis::begin(context, client, &layer, alone, &budgets, &log).await;
    let mut spent = Spent::default();
    let watch = diagnosis.watch(&budgets, &mut spent);
    let ended = job.run(|line| context.run.reporter.progress(&format!("[{layer}] {line}")), watch).await;
    let ended = ended.map_err(|failure| failure.log(&log))?;
    if !ended.status.success() {
        step.failed();
        return Err(diagnosis.explain(&ended.tail).await.log(log).of_release(&release.name));
    }
    step.done_as(format!("rolled back to revision {to}"));
    Ok(())
}
