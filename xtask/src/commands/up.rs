//! `cargo xtask up`: from a fresh machine to a running stack. Each step reconciles, so an
//! interrupted run can simply be run again.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Done;
use crate::checklist;
use crate::cluster;
use crate::cluster::lock::ClusterLock;
use crate::commands::open;
use crate::compare::reader::Reader;
use crate::lab;
use crate::layer::ahead::Ahead;
use crate::layer::preview::Unseen;
use crate::layer::{self, Runner};
use crate::mirror::{self, Origin};
use crate::repo;
use crate::repo::layers::{self, Layer};
use crate::run::context::Context;
use crate::world::kubernetes;
use run_record::{Code, Exit, Failure, Step, StepKind, human_seconds};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Leave out `helm test`
    #[arg(long)]
    pub skip_tests: bool,
    /// Also sync what has not changed
    #[arg(long)]
    pub force: bool,
    /// With --dry-run: exit 1 if a run would change anything, 0 if not, more for errors
    #[arg(long, requires = "dry_run")]
    pub exit_code: bool,
    /// Uninstall the layers of the critical path, last one first; what holds data stays, unless
    /// --allow-destroy names claim
    #[arg(long, conflicts_with_all = ["skip_tests", "force", "jobs", "keep_going"])]
    pub down: bool,
    #[command(flatten)]
    pub pace: layer::Pace,
}

pub async fn run(context: &Context, args: &Args) -> Result<Done, Failure> {
    let path = repo::critical_path(&context.repo.tree)?;
    let layers = layers::select(&context.repo.tree.layers()?, &path)?;
    if args.down {
        return down(context, &layers, path).await.map(|()| Done::AsAsked);
    }
    let layer_args = layer::Args { exit_code: args.exit_code, ..layer::Args::of(path) };
    let layer_args = layer::Args { skip_tests: args.skip_tests, force: args.force, pace: args.pace, ..layer_args };
    if context.run.dry_run {
        let differs = cluster::plan(context).await?;
        context.run.reporter.planned("mirror", "copy what images.lock names and the registry lacks");
        let done = Box::pin(super::layer::show(context, &layers, &layer_args, Unseen::Name)).await?;
        return Ok(if differs && args.exit_code { Done::Differs } else { done });
    }
    // Held to the end: a run that waits for it must not make the checklist's first item fail.
    let lock = cluster::lock(&context.run).await?;
    if Box::pin(unchanged(context, &layers, &layer_args)).await? {
        return Ok(Done::AsAsked);
    }
    match Box::pin(bring(context, &lock, &layers, &layer_args)).await {
        Ok(()) => checklist::conclude(context).await.map(|()| Done::AsAsked),
        Err(failure)
            if matches!(failure.exit(), Exit::Usage | Exit::ConsentNeeded | Exit::Interrupted | Exit::Terminated) =>
        {
            Err(failure)
        }
        Err(failure) => {
            // What holds and what does not, and last, what ended the run.
            let _ = checklist::conclude(context).await;
            Err(failure)
        }
    }
}

/// How long a look at everything may take before the steps begin instead: an API server that hangs is
/// theirs to mend.
const LOOK: Duration = Duration::from_secs(10);

/// Whether there is nothing to do, which is then reported: the cluster, its registry, the mirror, the
/// layers and the checklist are looked at side by side, and each is as a run would leave it. In doubt
/// there is something to do, and the run looks again, step by step.
///
/// # Errors
/// Only an interrupt.
async fn unchanged(context: &Context, layers: &[Layer], args: &layer::Args) -> Result<bool, Failure> {
    let started = Instant::now();
    let other_kind = |lab: bool| context.site.lab.is_some_and(|wanted| wanted != lab);
    let lab = cluster::remembered(&context.run, &context.repo);
    // Without a cluster that was found ready there is nothing to look at.
    if args.force || lab.is_err() || lab.is_ok_and(other_kind) {
        return Ok(false);
    }
    let serves = async {
        let client = kubernetes::client(context).await.map_err(Some)?;
        cluster::serves(context, &client).await.map_err(|_| None::<Failure>)
    };
    let layers_in_place = async { layer::instant::look(context, layers, args).await.map_err(Some)?.ok_or(None) };
    let holds = async {
        let items = checklist::look(context).await.map_err(Some)?;
        checklist::verdict(&items).map_err(|_| None).map(|()| items)
    };
    let all = async { tokio::try_join!(layers_in_place, holds, serves) };
    let (found, items) = match tokio::time::timeout(LOOK, all).await {
        Ok(Ok((found, items, ()))) => (found, items),
        Ok(Err(Some(failure))) if matches!(failure.exit(), Exit::Interrupted | Exit::Terminated) => {
            return Err(failure);
        }
        Ok(Err(_)) | Err(_) => return Ok(false),
    };
    if let Some(config) = context.repo.k3d_config()? {
        let step = Step::new(StepKind::Cluster, config.name(), "looking at the cluster");
        context.run.reporter.step(step).since(started).unchanged("ready: API, nodes, StorageClass, DNS");
    }
    found.tell(context, layers, args);
    in_place(context, layers).await;
    checklist::tell(context, &items);
    Ok(true)
}

async fn down(context: &Context, layers: &[Layer], path: Vec<String>) -> Result<(), Failure> {
    crate::world::helm_storage::check_driver()?;
    layer::remove::run(context, layers, &layer::Args::of(path)).await?;
    // `cluster delete` deletes the environment's own cluster, whatever `--context` says.
    let is_its_own = context.is_on_its_own_cluster() && context.repo.env.cluster.k3d.is_some();
    let removal = if is_its_own { ": `cargo xtask cluster delete` removes them" } else { "" };
    context.run.reporter.note("up", format!("cluster, registry and mirror stay{removal}"));
    Ok(())
}

async fn bring(context: &Context, lock: &ClusterLock, layers: &[Layer], args: &layer::Args) -> Result<(), Failure> {
    let started = cluster::start_up(context, lock, cluster::Destroying::WithConsent).await?;
    let cluster::Ready { toolbox, lab } = &started.made;
    let origin = lab::origin(&context.repo, lab.as_ref());
    let ahead = match args.pace.jobs() {
        1 => {
            started.complete(context, cluster::copy_probe_image(context, &started)).await?;
            mirror::copy_all(context, &origin).await?;
            None
        }
        _ => {
            let ahead = Ahead::of_tree(context, toolbox, origin.clone(), args.selector(), layers);
            tokio::select! {
                done = complete_and_copy(context, &started, &origin) => done?,
                never = read_ahead(ahead.as_ref(), layers) => match never {},
            }
            ahead.map(|(_, ahead)| ahead)
        }
    };
    if !layer::instant::answers(context, layers, args).await? {
        let runner = Runner::new(context, toolbox, lab.as_ref(), lock, args)?.having_begun(ahead);
        runner.run_all(layers).await?;
    }
    in_place(context, layers).await;
    Ok(())
}

/// Copies the images while the cluster comes up. If the copy fails, the cluster comes up all the same,
/// for the next run and for a look at it.
///
/// # Errors
/// The cluster's at once, which ends the copy; else the copy's.
async fn complete_and_copy(context: &Context, started: &cluster::Started, origin: &Origin) -> Result<(), Failure> {
    let (probe_copied, has_probe) = oneshot::channel();
    let copy = async {
        // For the cluster's probe, which would request it as well.
        if !started.was_ready() {
            cluster::copy_probe_image(context, started).await?;
        }
        let _ = probe_copied.send(());
        mirror::copy_all(context, origin).await
    };
    let image = async {
        match has_probe.await {
            // It was not expected to be needed.
            Ok(()) if started.was_ready() => cluster::copy_probe_image(context, started).await,
            Ok(()) => Ok(()),
            Err(_) => Err(Failure::new(Code::RegistryUnreachable, "the image of the cluster's probe was not copied")),
        }
    };
    let complete = started.complete(context, image);
    tokio::pin!(copy, complete);
    tokio::select! {
        // What the cluster lacks because of a failed copy is none of its own failures.
        biased;
        copied = &mut copy => {
            if let Err(failure) = &copied
                && !matches!(failure.exit(), Exit::Interrupted | Exit::Terminated)
            {
                context.run.reporter.warn("mirror", format!("{failure}; the cluster is still coming up"));
            }
            let completed = complete.await;
            copied.and(completed)
        }
        completed = &mut complete => {
            completed?;
            copy.await
        }
    }
}

/// Lets Helmfile read the layers for as long as this is waited for.
async fn read_ahead(ahead: Option<&(Reader<'_>, Ahead)>, layers: &[Layer]) -> Infallible {
    if let Some((reader, ahead)) = ahead {
        ahead.read_each(reader, layers, |_| {}).await;
    }
    std::future::pending().await
}

/// What a user may want to know once everything is there.
async fn in_place(context: &Context, layers: &[Layer]) {
    let elapsed = human_seconds(context.run.reporter.elapsed().as_secs_f64());
    let names: Vec<String> = layers.iter().map(Layer::name).collect();
    context.run.reporter.note("up", format!("{} layers in place in {elapsed}: {}", names.len(), names.join(", ")));
    context.run.reporter.note(
        "up",
        format!(
            "look around: {} get pods -A (kubectl: `cargo xtask tools`)",
            kubernetes::kubectl_on(&context.site.kube_context)
        ),
    );
    open::tell(context).await;
}
