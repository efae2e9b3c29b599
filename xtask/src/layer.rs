//! `cargo xtask layer`: brings one or more layers to the state that the tree describes. What is
//! already in that state is reported at once; the rest goes through lock, preflight, watchdog,
//! `helmfile sync`, `helm test`.

pub(crate) mod ahead;
mod args;
mod back;
mod conflicts;
pub(crate) mod instant;
mod order;
pub(crate) mod plan;
pub mod preflight;
pub mod preview;
pub mod remove;
pub mod rollback;
pub mod timeline;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kube::Client;
use tokio::sync::{Mutex, Semaphore};

use crate::cluster::lease::ClusterLease;
use crate::cluster::lock::ClusterLock;
use crate::compare;
use crate::compare::look::{Baseline, Look, Outcome, Sight, Snapshot};
use crate::compare::reader::{How, Reader};
use crate::compare::state::{Action, act};
use crate::diagnosis::Diagnosis;
use crate::diagnosis::retry::{Retry, Spent};
use crate::files;
use crate::lab::{self, Lab};
use crate::releases;
use crate::repo::layers::Layer;
use crate::repo::needs::Budgets;
use crate::run::commands;
use crate::run::context::Context;
use crate::run::duration;
use crate::run::foreign;
use crate::run::interrupt::Interrupt;
use crate::world::helm_storage::{self, Heads};
use crate::world::kubernetes;
use crate::world::otlp;
use crate::world::process::{Job, for_a_shell};
use crate::world::release::Release;
use crate::world::tools::Toolbox;
use ahead::{Ahead, Read};
pub use args::{Args, Pace};
use order::Schedule;
use plan::Plan;
use run_record::preview::Act;
use run_record::{Code, Event, Exit, Failure, InPlace, Step, StepKind};

fn actions(sight: &Sight, args: &Args) -> Vec<Action> {
    sight.releases.iter().map(|found| act(&found.state, args.force, !args.skip_tests)).collect()
}

/// What all layers of one run share.
pub struct Runner<'a> {
    pub context: &'a Context,
    pub toolbox: &'a Toolbox,
    pub lab: Option<&'a Lab>,
    pub lock: &'a ClusterLock,
    pub args: &'a Args,
    /// If there is a plan, only what it says is done.
    plan: Option<&'a Plan>,
    reader: Reader<'a>,
    /// What was read before the run began, if anything was.
    begun: Option<Ahead>,
    /// Each test is a Helm process and some pods, and a small machine has to hold them all.
    tests: Semaphore,
    /// Held while the pull secret, which belongs to no layer, is read and written.
    pull_secret: Mutex<()>,
}

impl<'a> Runner<'a> {
    /// # Errors
    /// An image lock that cannot be read or passed on.
    pub fn new(
        context: &'a Context,
        toolbox: &'a Toolbox,
        lab: Option<&'a Lab>,
        lock: &'a ClusterLock,
        args: &'a Args,
    ) -> Result<Self, Failure> {
        let reader = Reader::new(context, toolbox, lab::origin(&context.repo, lab), args.selector())?;
        let (tests, pull_secret) = (Semaphore::new(TESTS_AT_ONCE), Mutex::default());
        Ok(Self { context, toolbox, lab, lock, args, plan: None, reader, begun: None, tests, pull_secret })
    }

    /// The same, with what has been read already, if anything has.
    pub(crate) fn having_begun(self, begun: Option<Ahead>) -> Self {
        Self { begun, ..self }
    }

    /// The same, doing only what a plan says, if there is one.
    pub(crate) fn of_plan(self, plan: Option<&'a Plan>) -> Self {
        Self { plan, ..self }
    }

    /// Runs each layer once those that it needs are in place. After a failure, layers in progress
    /// run to their end, and others are started only with `--keep-going`.
    pub async fn run_all(&self, layers: &[Layer]) -> Result<(), Failure> {
        let client = kubernetes::client(self.context).await?;
        kubernetes::require(&client).await?;
        let lease = ClusterLease::acquire(self.context, &client).await?;
        // If the tree cannot be read, each layer says so in its turn. If somebody has changed it while
        // the run waited for its own, what was read before is of no use.
        let snapshot = self.snapshot().ok();
        if let (true, Some(snapshot)) = (self.args.force_conflicts, &snapshot) {
            snapshot.refuse_to_force(layers)?;
        }
        let begun = self.begun.as_ref().filter(|begun| snapshot.as_ref().is_some_and(|snapshot| begun.is_of(snapshot)));
        let fresh = snapshot.filter(|_| begun.is_none()).map(|snapshot| Ahead::of(snapshot, layers));
        let ahead = begun.or(fresh.as_ref());
        // On the heap, because a layer's future would fill the stack.
        let run = Box::pin(async {
            if let Some(plan) = self.plan {
                plan.holds(self.context, &client, &self.reader, layers, None).await?;
            }
            let some = tokio::select! {
                some = self.run_scheduled(&client, layers, ahead) => some?,
                never = self.prepare(&client, layers, ahead) => match never {},
            };
            match self.args.selector() {
                Some(selector) if !some => Err(nothing_selected(selector, layers)),
                _ => Ok(()),
            }
        });
        lease.guard(run).await
    }

    /// Prepares the layers after the first one while others are being worked on, as long as there are
    /// any.
    async fn prepare(&self, client: &Client, layers: &[Layer], ahead: Option<&Ahead>) -> Infallible {
        let is_wanted = self.args.pace.jobs() > 1 && self.plan.is_none();
        if let (Some(ahead), [_, later @ ..], true) = (ahead, layers, is_wanted) {
            ahead.prepare(&self.reader, client, later).await;
        }
        std::future::pending().await
    }

    /// Returns whether there was anything to do in any layer.
    ///
    /// # Errors
    /// The first failure, with later ones as its evidence.
    async fn run_scheduled(&self, client: &Client, layers: &[Layer], ahead: Option<&Ahead>) -> Result<bool, Failure> {
        let needs = self.context.repo.tree.layer_needs()?;
        let pace = self.args.pace;
        let mut schedule = Schedule::new(order::edges(layers, &needs), pace.keep_going);
        let mut working = FuturesUnordered::new();
        let mut results = Vec::new();
        loop {
            while Interrupt::global().check().is_ok()
                && schedule.working() < pace.jobs()
                && let Some(next) = schedule.start()
            {
                working.push(async move { (next, self.run_recorded(client, &layers[next], ahead).await) });
            }
            let Some((ended, result)) = working.next().await else { break };
            schedule.ended(ended, result.is_ok());
            let others = schedule.working();
            if let (Err(failure), 1..) = (&result, others) {
                let rest =
                    if others == 1 { "1 other layer is".to_owned() } else { format!("{others} other layers are") };
                let text = format!("{}; {rest} still being worked on", in_a_line(failure));
                self.context.run.reporter.warn(&layers[ended].name(), text);
            }
            results.push(result);
        }
        Interrupt::global().check()?;
        for (index, missing) in schedule.left() {
            let why = match missing {
                Some(missing) => format!("not started: {}, which it needs, is not in place", layers[missing].name()),
                None => "not started, because another layer failed (--keep-going would start it)".to_owned(),
            };
            self.context.run.reporter.note(&layers[index].name(), why);
        }
        let some = results.iter().any(|result| matches!(result, Ok(true)));
        all_or_first(results.into_iter().map(|result| result.map(drop)).collect())?;
        Ok(some)
    }

    /// Runs one layer, and adds what the cluster recorded about it to the run's record.
    async fn run_recorded(&self, client: &Client, layer: &Layer, ahead: Option<&Ahead>) -> Result<bool, Failure> {
        let (since, started) = (jiff::Timestamp::now(), Instant::now());
        let result = self.run_layer(client, layer, ahead).await;
        let took = started.elapsed();
        timeline::record(&self.context.run, &self.context.repo, client, layer, since).await;
        if let Err(failure) = &result {
            self.context.run.reporter.event(&Event::LayerFailed { layer: layer.name(), code: failure.code, took });
        }
        result
    }

    /// Returns whether there was anything to do: if the selector matches none of a layer's
    /// releases, nothing is checked or changed.
    async fn run_layer(&self, client: &Client, layer: &Layer, ahead: Option<&Ahead>) -> Result<bool, Failure> {
        let name = layer.name();
        let reporter = &self.context.run.reporter;
        let started = Instant::now();
        reporter.event(&Event::LayerStarted { layer: name.clone() });
        let reader = &self.reader;
        // The previous layers have taken some time.
        if let Some(plan) = self.plan {
            plan.holds(self.context, client, reader, std::slice::from_ref(layer), Some(layer)).await?;
        }
        // The tree is read first: whatever is changed in it from then on is noticed.
        let snapshot = self.snapshot();
        let ahead = ahead.filter(|ahead| snapshot.as_ref().is_ok_and(|snapshot| ahead.is_of(snapshot)));
        let read = async {
            match ahead {
                Some(ahead) => ahead.read(reader, layer).await,
                None => Read::now(reader, layer).await,
            }
        };
        let (look, read) = tokio::join!(self.look(client, snapshot), read);
        let Read { list, manifests } = read?;
        let wanted = reader.releases_in(layer, list.as_deref(), client.default_namespace())?;
        if let (Some(selector), true) = (self.args.selector(), wanted.is_empty()) {
            reporter.event(&Event::LayerSkipped { layer: name, selector: selector.to_owned() });
            return Ok(false);
        }
        let sight = match &look {
            Some(look) => examined(reader, look, layer, &wanted, self.args).await,
            None => None,
        };
        let of = |action: Action| -> Vec<Release> {
            if let Some(plan) = self.plan {
                let planned = |release: &&Release| {
                    plan.act(layer, release).is_some_and(|act| match action {
                        Action::Sync => act.changes(),
                        Action::Test => act == Act::Test,
                        Action::Nothing => false,
                    })
                };
                return wanted.iter().filter(planned).cloned().collect();
            }
            let Some(sight) = &sight else { return if action == Action::Sync { wanted.clone() } else { Vec::new() } };
            let actions = wanted.iter().zip(actions(sight, self.args));
            actions.filter(|(_, planned)| *planned == action).map(|(release, _)| release.clone()).collect()
        };
        let (syncing, mut testing) = (of(Action::Sync), of(Action::Test));
        let (mut baselines, mut untouched) = (Vec::new(), Vec::new());
        if let Some(sight) = &sight {
            instant::tell(self.context, layer, sight, self.args);
        }
        if !syncing.is_empty() || (sight.is_none() && self.plan.is_none()) {
            self.make_ready(client, layer, &wanted, &syncing, &manifests, sight.as_ref()).await?;
            // Helmfile reports an error if it would do nothing for a file.
            if !syncing.is_empty() {
                let left = wanted.iter().filter(|release| release.installed).count();
                let part = syncing.iter().filter(|release| release.installed).count() < left;
                let selectors = match part {
                    // Only the releases with a reason; for a whole layer Helmfile itself decides.
                    true => reader.selectors_of(&syncing, &wanted, client.default_namespace()),
                    false => reader.selectors(),
                };
                let before = self.sync_until_settled(client, layer, &syncing, &selectors).await?;
                // Before the tests, because in those minutes anybody may change anything.
                if let Some(look) = &look {
                    (baselines, untouched) = compare::look::baselines(look, layer, &syncing, before).await;
                }
                releases::by_hand::tell(&self.context.run, client, &syncing).await;
            }
        }
        if !self.args.skip_tests {
            testing.extend(syncing.iter().filter(|release| !untouched.contains(release)).cloned());
        }
        let tested = self.test(client, layer, &testing).await;
        if let Some(look) = &look {
            self.record(look, layer, &wanted, sight.as_ref(), (&syncing, &baselines), &testing, &tested).await;
        }
        Interrupt::global().check()?;
        let untouched = untouched.iter().map(|release| Err(compare::look::not_synced(layer, release)));
        all_or_first(untouched.chain(tested).collect())?;
        let releases = wanted.iter().filter(|release| release.installed).count();
        let how = match &sight {
            Some(sight) if testing.is_empty() && syncing.is_empty() => sight.how(),
            _ => InPlace::Synced,
        };
        reporter.event(&Event::LayerInPlace { layer: name, releases, how, took: started.elapsed() });
        Ok(true)
    }

    /// What precedes a sync: what the layer needs is there, nobody is working on its releases, what
    /// would be lost may be, and no field that Helm would set is somebody else's.
    async fn make_ready(
        &self,
        client: &Client,
        layer: &Layer,
        wanted: &[Release],
        syncing: &[Release],
        manifests: &str,
        sight: Option<&Sight>,
    ) -> Result<(), Failure> {
        let (reader, name) = (&self.reader, layer.name());
        let step = self.context.run.reporter.step(Step::new(StepKind::Preflight, &name, "preflight").of_layer(&name));
        let images = reader.check_images(layer, manifests, Some(client));
        let own = preflight::Own::of(manifests, wanted);
        preflight::check(self.context, client, layer, self.lab, &own, images).await?;
        step.done();
        if let Some(need) = &self.context.repo.tree.layer_needs()?.pull_secret {
            let _one = self.pull_secret.lock().await;
            compare::pull_secret::ensure(self.context, client, need).await?;
        }
        releases::watch_over(self.context, client, wanted).await?;
        releases::consent_to_uninstalls(&self.context.run, &self.context.site, client, wanted).await?;
        let same = |release: &&Release| sight.is_some_and(|sight| sight.renders_the_same(release));
        let changing: Vec<Release> = wanted.iter().filter(|release| !same(release)).cloned().collect();
        let apart = async |of: &[Release]| {
            let rendered = reader.for_an_upgrade(layer, of, client.default_namespace()).await?;
            let resources = rendered.into_iter().map(|(of, objects)| (of, objects.resources));
            Ok::<releases::Apart, Failure>(resources.collect())
        };
        releases::consent_to_upgrades(&self.context.run, client, &changing, apart).await?;
        // If a release is known to be as Helm left it, nobody else owns its fields.
        let known = |release: &&Release| sight.is_some_and(|sight| sight.is_untouched(release));
        let touched: Vec<Release> = syncing.iter().filter(|release| !known(release)).cloned().collect();
        compare::handback::give_back(&self.context.run, client, &touched).await?;
        match self.args.force_conflicts {
            true => Ok(()),
            false => conflicts::refuse(client, reader, layer, &touched).await,
        }
    }

    /// The tree as it is now.
    fn snapshot(&self) -> Result<Snapshot, Failure> {
        Snapshot::take(self.context, self.reader.lock.clone())
    }

    /// The current state, for comparison; if it cannot be read, everything is synced.
    async fn look<'b>(&'b self, client: &'b Client, snapshot: Result<Snapshot, Failure>) -> Option<Look<'b>> {
        let opened = async { Look::open(self.context, client, snapshot?).await };
        opened.await.map_err(|failure| instant::cannot(&self.context.run, failure)).ok()
    }

    /// Writes what the next run compares with: for what was synced or tested now, and for what a
    /// new rendering has shown to be the same with other inputs.
    #[expect(clippy::too_many_arguments, reason = "all that a layer's run has found out")]
    async fn record(
        &self,
        look: &Look<'_>,
        layer: &Layer,
        wanted: &[Release],
        sight: Option<&Sight>,
        (synced, baselines): (&[Release], &[Result<Baseline, String>]),
        testing: &[Release],
        tested: &[Result<(), Failure>],
    ) {
        let is =
            |release: &Release, other: &Release| release.name == other.name && release.namespace == other.namespace;
        let outcomes: Vec<Outcome<'_>> = wanted
            .iter()
            .enumerate()
            .filter(|(_, release)| release.installed)
            .filter_map(|(index, release)| {
                let before = sight.and_then(|sight| sight.releases.get(index));
                let now = testing.iter().zip(tested).find(|(other, _)| is(release, other));
                let baseline = synced.iter().zip(baselines).find(|(other, _)| is(release, other));
                let was_synced = baseline.is_some();
                let kept = before.is_some_and(|found| found.is_recorded_as_it_is());
                let passed = match now {
                    Some((_, result)) => result.is_ok(),
                    None => !was_synced && before.is_some_and(compare::look::Found::was_tested),
                };
                if !was_synced && now.is_none() && kept {
                    return None;
                }
                let baseline = match baseline {
                    Some((_, Ok(baseline))) => {
                        let before = before.and_then(compare::look::Found::record).filter(|_| !self.args.force);
                        Ok(before.map_or(baseline.clone(), |before| baseline.clone().with_what_is_lost(before)))
                    }
                    Some((_, Err(why))) => Err(why.clone()),
                    None => Ok(before.and_then(compare::look::Found::baseline)?),
                };
                Some(Outcome { release, tested: passed, baseline })
            })
            .collect();
        if outcomes.is_empty() {
            return;
        }
        // With a selector, the layer has more releases than those selected.
        let all = match self.args.selector() {
            None => Ok(wanted.to_vec()),
            Some(_) => {
                let reader = self.reader.of_whole_layers();
                reader.releases(layer, look.namespace()).await
            }
        };
        match all {
            Ok(all) => compare::look::write(look, layer, &all, outcomes).await,
            Err(failure) => self.context.run.reporter.note(&layer.name(), format!("not recorded: {failure}")),
        }
    }

    /// Syncs, and syncs again if the retry table says so. Returns the revisions that were there
    /// before the sync that succeeded, as far as they could be read.
    async fn sync_until_settled(
        &self,
        client: &Client,
        layer: &Layer,
        wanted: &[Release],
        selectors: &[String],
    ) -> Result<Result<Heads, Failure>, Failure> {
        let budgets = self.context.repo.tree.layer_needs()?.retries;
        let reporter = &self.context.run.reporter;
        let mut spent = Spent::default();
        let mut reinstalled = false;
        loop {
            let before = helm_storage::heads(client, wanted).await;
            let Err(failure) = self.sync(client, layer, wanted, selectors, &budgets, &mut spent).await else {
                return Ok(before);
            };
            let retry = spent.decide(failure.code, &budgets);
            let (Retry::RateLimit(next) | Retry::Repair(next) | Retry::Api(next) | Retry::Webhook(next)) = retry else {
                let stopped = Interrupt::global().check().is_err();
                let force = self.args.force_conflicts;
                let helped = match stopped || reinstalled {
                    true => Ok(false),
                    false => releases::after_failure(self.context, client, self.lock.descriptor(), wanted, force).await,
                };
                if let Ok(true) = helped {
                    reinstalled = true;
                    continue;
                }
                // What another run now holds is for that run to settle.
                if Interrupt::global().check().map_err(|cause| cause.code) != Err(Code::LockLost) {
                    let _tidying = Interrupt::global().tidying();
                    releases::settle(&self.context.run, &self.context.site, client, wanted).await;
                }
                let mut failure = failure;
                if !stopped {
                    failure.evidence.extend(releases::by_hand::evidence(client, wanted).await);
                }
                return Err(match helped {
                    // The run needs consent; the failure is the reason.
                    Err(needed) if needed.exit() == Exit::ConsentNeeded => needed.evidence(failure.to_string()),
                    Err(stopped) if matches!(stopped.exit(), Exit::Interrupted | Exit::Terminated) => stopped,
                    Err(other) => failure.also(other),
                    Ok(_) => failure,
                });
            };
            reporter.warn(&layer.name(), failure.to_string());
            let wait =
                if matches!(retry, Retry::RateLimit(_) | Retry::Webhook(_)) { next.wait } else { Duration::ZERO };
            reporter.event(&Event::Retry {
                code: failure.code,
                layer: Some(layer.name()),
                attempt: next.attempt,
                budget: next.budget,
                wait,
            });
            match retry {
                Retry::RateLimit(_) | Retry::Webhook(_) => Interrupt::global().or(tokio::time::sleep(wait)).await?,
                Retry::Api(_) => {
                    let bound = format!("waiting for the API server, at most {} s", next.wait.as_secs());
                    reporter.waiting(&layer.name(), bound);
                    kubernetes::wait_until("the API server is", Code::ApiUnreachable, next.wait, async || {
                        kubernetes::ready(client).await
                    })
                    .await?;
                }
                _ => {}
            }
            releases::watch_over(self.context, client, wanted).await?;
        }
    }

    async fn sync(
        &self,
        client: &Client,
        layer: &Layer,
        wanted: &[Release],
        selectors: &[String],
        budgets: &Budgets,
        spent: &mut Spent,
    ) -> Result<(), Failure> {
        let name = layer.name();
        let reporter = &self.context.run.reporter;
        let log = self.context.run.log(&name);
        let step = Step::new(StepKind::HelmfileSync, &name, "helmfile sync").of_layer(&name).logging_to(&log);
        let step = reporter.step(step);
        let mut arguments = vec!["sync", "--sync-release-labels"];
        // Helmfile only has it as a line of a file; Helm has the flag, and also uses it for the
        // rollback after a failure.
        arguments.extend(self.args.force_conflicts.then_some("--sync-args=--force-conflicts"));
        let mut command = self.reader.helmfile_on(layer, selectors, &arguments);
        // Only for the sync: each Helmfile that exports traces would wait up to 5 s at its end for
        // a collector that is unreachable, even for a query.
        let trace = step.trace_context();
        if !trace.is_empty() {
            command.envs(trace).envs(otlp::for_helmfile());
        }
        let mut durations: BTreeMap<(String, String), Duration> = BTreeMap::new();
        let job = Job { command, log: &log, inherit: self.lock.descriptor() };
        let diagnosis = Diagnosis::begin(self.context, client, &name, wanted, budgets, &log).await;
        // Pods that an earlier run left in back-off would wait for up to 300 s.
        diagnosis.replace_backing_off().await;
        let watch = diagnosis.watch(budgets, spent);
        let ended = job
            .run(
                |line| {
                    reporter.progress(&format!("[{name}] {line}"));
                    durations.extend(release_duration(line, wanted));
                },
                watch,
            )
            .await
            .map_err(|failure| failure.log(&log))?;
        if !ended.status.success() {
            step.failed();
            releases::wait_for_helm(&self.context.run, &self.context.site, wanted).await?;
            return Err(diagnosis.explain(&ended.tail).await.log(log));
        }
        step.done();
        for ((release, namespace), took) in durations {
            reporter.event(&Event::ReleaseDeployed { layer: name.clone(), release, namespace, took });
        }
        Ok(())
    }

    /// Runs `helm test` for each installed release, some of them in parallel, because most of a
    /// test's time is waiting. Each runs to its end even if another fails, so that all failures are
    /// reported and no child is left alone.
    async fn test(&self, client: &Client, layer: &Layer, wanted: &[Release]) -> Vec<Result<(), Failure>> {
        let tests = wanted.iter().map(async |release| match release.installed {
            true => {
                let _turn = self.tests.acquire().await;
                self.test_release(client, layer, release).await
            }
            false => Ok(()),
        });
        futures_util::stream::iter(tests).buffered(TESTS_AT_ONCE).collect().await
    }

    /// Runs `helm test` for one release, with the logs of its test pods in a file.
    async fn test_release(&self, client: &Client, layer: &Layer, release: &Release) -> Result<(), Failure> {
        let log = self.context.run.log(&format!("{}-test-{}", layer.name(), release.name));
        let mut command = self.toolbox.command_on("helm", self.context);
        command.args([
            "test",
            &release.name,
            "--namespace",
            &release.namespace,
            "--kube-context",
            &self.context.site.kube_context,
        ]);
        command.args(["--timeout", "3m"]);
        let step = Step::new(StepKind::HelmTest, &release.name, "helm test").of_layer(layer.name());
        let step = self.context.run.reporter.step(step.of_release(&release.name).logging_to(&log));
        command.envs(step.trace_context());
        let job = Job { command, log: &log, inherit: self.lock.descriptor() };
        let budgets = self.context.repo.tree.layer_needs()?.retries;
        let alone = std::slice::from_ref(release);
        let diagnosis = Diagnosis::begin(self.context, client, &layer.name(), alone, &budgets, &log).await;
        let mut spent = Spent::default();
        let watch = diagnosis.watch(&budgets, &mut spent);
        let ended = job.run(|line| self.context.run.reporter.progress(line), watch).await;
        let ended = ended.map_err(|failure| failure.log(&log))?;
        // `helm test --logs` prints nothing for hooks that are already deleted.
        let namespaces = self.context.repo.tree.layer_needs()?.namespaces_of(layer);
        let logs = test_logs(client, release, namespaces).await;
        append(&log, &logs);
        if !ended.status.success() {
            step.failed();
            let cause = diagnosis.explain(&ended.tail).await;
            // A test that ran and failed is a failed test; one that could not run has another
            // cause.
            if !matches!(cause.code, Code::Unknown | Code::HookFailed | Code::CrashLoop | Code::DependencyUnreachable) {
                return Err(cause.log(log));
            }
            let evidence = logs.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned);
            return Err(Failure::new(
                Code::TestFailed,
                format!("the test of release {} in layer {} failed", release.name, layer.name()),
            )
            .evidence(evidence.or(ended.tail.last().cloned()).unwrap_or_default())
            // `helm test` by hand would erase the record of what is deployed.
            .remedy(format!("cargo xtask layer {}   # tests it again", layer.name()))
            .log(log)
            .of_release(&release.name));
        }
        step.done();
        Ok(())
    }
}

/// The state of a layer's releases, rendered again if that may show that nothing has changed;
/// `None` if it cannot be determined.
pub(crate) async fn examined(
    reader: &Reader<'_>,
    look: &Look<'_>,
    layer: &Layer,
    wanted: &[Release],
    args: &Args,
) -> Option<Sight> {
    let mut sight = match look.listed(layer, wanted).await {
        Ok(sight) => sight,
        Err(failure) => {
            instant::cannot(&reader.context.run, failure);
            return None;
        }
    };
    if !args.force && sight.is_worth_rendering() {
        let how = How { asking: true, upgrading: sight.is_of_upgrades(), crds: false };
        let fresh = reader.rendered(layer, look.namespace(), how).await.map_err(|failure| failure.to_string());
        match fresh.and_then(|fresh| look.still(layer).map(|()| compare::record::digests(&fresh))) {
            Ok(fresh) => sight.releases.iter_mut().for_each(|found| found.rendered(&fresh)),
            Err(why) => instant::cannot(&reader.context.run, why),
        }
    }
    Some(sight)
}

/// How many releases are tested at once, over all layers.
const TESTS_AT_ONCE: usize = 3;

/// The first failure, with the others as its evidence.
fn all_or_first(results: Vec<Result<(), Failure>>) -> Result<(), Failure> {
    let mut failures = results.into_iter().filter_map(Result::err);
    let Some(first) = failures.next() else { return Ok(()) };
    Err(failures.fold(first, |first, other| first.evidence(format!("also {other}{}", first_evidence(&other)))))
}

/// A failure with its first evidence.
fn in_a_line(failure: &Failure) -> String {
    format!("{failure}{}", commands::quoted(&first_evidence(failure)))
}

fn first_evidence(failure: &Failure) -> String {
    failure.evidence.first().map(|evidence| format!(" ({evidence})")).unwrap_or_default()
}

fn nothing_selected(selector: &str, layers: &[Layer]) -> Failure {
    let names: Vec<String> = layers.iter().map(Layer::name).collect();
    let message =
        format!("the selector {selector:?} (-l, HELM_LAYER_SELECTOR) matches no release of {}", names.join(", "));
    Failure::usage(message).remedy(match layers {
        [layer] => {
            let path = for_a_shell(layer.path.as_str());
            format!("helmfile -f {path} list shows the releases with their labels")
        }
        _ => "helmfile -f infra/kubernetes/helmfile.yaml list shows the releases with their labels".to_owned(),
    })
}

async fn test_logs(client: &Client, release: &Release, mut namespaces: BTreeSet<String>) -> String {
    let labels = format!("app.kubernetes.io/component=test,app.kubernetes.io/instance={}", release.name);
    // A release may have tests in other namespaces than its own.
    namespaces.insert(release.namespace.clone());
    let mut text = String::new();
    for pod in kubernetes::pods_anywhere(client, &labels, &namespaces).await.unwrap_or_default() {
        text.push_str(&kubernetes::pod_logs(client, &pod).await);
    }
    text
}

fn append(path: &camino::Utf8Path, text: &str) {
    use std::io::Write;
    if let Ok(mut file) = files::private(std::fs::File::options().append(true).create(true)).open(path) {
        // It is for later: losing it must not fail the test.
        let _ = file.write_all(foreign::masked_lines(text).as_bytes());
    }
}

/// Helmfile ends with a table: `NAME NAMESPACE CHART VERSION DURATION`.
fn release_duration(line: &str, wanted: &[Release]) -> Option<((String, String), Duration)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (&name, &namespace, &took) = (words.first()?, words.get(1)?, words.last()?);
    let took = Some(took).filter(|took| took.ends_with('s')).and_then(|took| duration::parse(took).ok())?;
    let known = wanted.iter().any(|release| release.name == name && release.namespace == namespace);
    (known && words.len() >= 4).then(|| ((name.to_owned(), namespace.to_owned()), took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_from_the_table_only() {
        let wanted = [Release { name: "minio".into(), namespace: "ameide".into(), enabled: true, installed: true }];
        let row = "minio     ameide      ../charts/minio   0.1.0           12s";
        assert_eq!(release_duration(row, &wanted), Some((("minio".into(), "ameide".into()), Duration::from_secs(12))));
        for other in [
            "minio     ameide      ../charts/minio   0.1.0           12",
            "NAME  NAMESPACE CHART VERSION DURATION",
            "Upgrading release=minio, chart=../charts/minio, namespace=ameide",
            "minio ready in 3s",
        ] {
            assert_eq!(release_duration(other, &wanted), None, "{other}");
        }
    }
}
