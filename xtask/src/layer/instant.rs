//! The fast path of a run: layers that are in place are reported as such, after one look that takes
//! no Lease and, where nothing has changed, starts no program and writes nothing. Anything that is
//! not clearly in place takes the normal path, which looks again under the Lease and says why.

use std::time::Instant;

use super::{Args, actions, examined};
use crate::cluster;
use crate::cluster::lease;
use crate::compare::look::{Look, Sight, Snapshot};
use crate::compare::reader::{Reader, bytes};
use crate::compare::record::Named;
use crate::compare::state::{Action, Kept, ReleaseState};
use crate::lab;
use crate::mirror::Origin;
use crate::repo::Repo;
use crate::repo::layers::Layer;
use crate::run::Run;
use crate::run::context::Context;
use crate::world::process::for_a_shell;
use crate::world::release::Release;
use crate::world::{kubernetes, tools};
use run_record::{Event, Exit, Failure};

/// Layers that were found in place.
pub(crate) struct InPlace {
    started: Instant,
    sights: Vec<Sight>,
}

impl InPlace {
    /// Reports it; `layers` and `args` are those that it was found for.
    pub fn tell(&self, context: &Context, layers: &[Layer], args: &Args) {
        for (layer, sight) in layers.iter().zip(&self.sights) {
            tell(context, layer, sight, args);
            let releases = sight.releases.iter().filter(|found| found.named.installed).count();
            let (how, took) = (sight.how(), self.started.elapsed());
            context.run.reporter.event(&Event::LayerInPlace { layer: layer.name(), releases, how, took });
        }
    }
}

/// Whether all of these layers are in place, which is then reported; if that cannot be determined,
/// they are not.
///
/// # Errors
/// Only an interrupt.
pub(crate) async fn answers(context: &Context, layers: &[Layer], args: &Args) -> Result<bool, Failure> {
    let found = look(context, layers, args).await?;
    if let Some(found) = &found {
        found.tell(context, layers, args);
    }
    Ok(found.is_some())
}

/// These layers, if all of them are in place.
///
/// # Errors
/// Only an interrupt.
pub(crate) async fn look(context: &Context, layers: &[Layer], args: &Args) -> Result<Option<InPlace>, Failure> {
    if args.force || args.force_conflicts || args.selector().is_some() {
        return Ok(None);
    }
    match Box::pin(in_place(context, layers, args)).await {
        Ok(found) => Ok(found),
        Err(failure) if matches!(failure.exit(), Exit::Interrupted | Exit::Terminated) => Err(failure),
        // The normal path looks again, and says why it cannot.
        Err(_) => Ok(None),
    }
}

async fn in_place(context: &Context, layers: &[Layer], args: &Args) -> Result<Option<InPlace>, Failure> {
    let started = Instant::now();
    let origin = origin(&context.run, &context.repo)?;
    let client = kubernetes::client(context).await?;
    let snapshot = Snapshot::take(context, bytes(&origin)?)?;
    snapshot.parse_ahead(layers);
    let (look, holder) =
        tokio::join!(Look::open(context, &client, snapshot), lease::other_holder(&context.run, &context.repo, &client));
    let look = look?;
    // Another run may be changing something, so there is no look yet.
    if holder?.is_some() {
        return Ok(None);
    }
    let mut sights = Vec::new();
    for sight in look.recorded(layers).await? {
        let Some(sight) = sight else { return Ok(None) };
        sights.push(sight);
    }
    let still = |sight: &Sight| actions(sight, args).iter().all(|action| *action == Action::Nothing);
    let hopeless = |sight: &Sight| {
        let mut found = sight.releases.iter().zip(actions(sight, args));
        found.any(|(found, action)| action != Action::Nothing && !found.is_open())
    };
    if sights.iter().any(hopeless) {
        return Ok(None);
    }
    for (layer, sight) in layers.iter().zip(&mut sights) {
        if still(sight) {
            continue;
        }
        let toolbox = tools::ensure(&context.repo.tree, &["helm", "helmfile"], &context.run.reporter).await?;
        let reader = Reader::new(context, &toolbox, origin.clone(), args.selector())?;
        if reader.lock != look.lock() {
            return Ok(None);
        }
        let wanted = reader.releases(layer, look.namespace()).await?;
        let Some(examined) = examined(&reader, &look, layer, &wanted, args).await.filter(still) else {
            return Ok(None);
        };
        *sight = examined;
        refresh(&look, layer, &wanted, sight).await;
    }
    look.pull_secret().await?;
    Ok(Some(InPlace { started, sights }))
}

/// Records the new inputs of releases whose rendering they do not change.
async fn refresh(look: &Look<'_>, layer: &Layer, wanted: &[Release], sight: &Sight) {
    let outdated = wanted.iter().zip(&sight.releases).filter(|(_, found)| !found.is_recorded_as_it_is());
    let outcomes: Vec<super::Outcome<'_>> = outdated
        .filter(|(release, _)| release.installed)
        .filter_map(|(release, found)| {
            Some(super::Outcome { release, tested: found.was_tested(), baseline: Ok(found.baseline()?) })
        })
        .collect();
    if !outcomes.is_empty() {
        crate::compare::look::write(look, layer, wanted, outcomes).await;
    }
}

/// Reports why something is done about a release, and which changes were found to make no
/// difference.
pub(crate) fn tell(context: &Context, layer: &Layer, sight: &Sight, args: &Args) {
    let run = &context.run;
    for (found, action) in sight.releases.iter().zip(actions(sight, args)) {
        let name = &found.named.name;
        let why = found.state.why();
        let syncing = |forced| {
            let (release, namespace) = (name.clone(), found.named.namespace.clone());
            let layer = layer.name();
            run.reporter.event(&Event::ReleaseSyncing { layer, release, namespace, why: why.clone(), forced });
        };
        match action {
            Action::Sync if args.force => syncing(true),
            // A first install needs no reason.
            Action::Sync if found.state == ReleaseState::Absent => {}
            Action::Sync => syncing(false),
            Action::Test => run.reporter.note(name, format!("testing: {why}")),
            Action::Nothing => {
                if let (Kept::Whole { inputs: Some(why), .. }, true) =
                    (&found.facts.kept, found.facts.rendering.is_some())
                {
                    run.reporter.note(name, format!("{why}, and what it renders is the same"));
                }
            }
        }
        found.told.iter().for_each(|told| run.reporter.warn(name, told));
        let by_hand = found.lost.iter().map(|lost| format!("{lost}: {}", by_hand(context, &found.named, layer)));
        by_hand.for_each(|text| run.reporter.warn(name, text));
        // After a sync the kinds that matter most are looked at once more, and told then.
        if action != Action::Sync {
            found.added.iter().for_each(|(object, text)| run.reporter.warn(object, text));
        }
    }
}

/// What is left to do where no sync helps.
fn by_hand(context: &Context, release: &Named, layer: &Layer) -> String {
    let (namespace, name) = (&release.namespace, &release.name);
    let cluster = for_a_shell(&context.site.kube_context);
    format!(
        "`helm --kube-context {cluster} get hooks {name} -n {namespace}` prints its hooks, to be applied by hand; \
         `cargo xtask layer {} --force` takes it as it is",
        layer.name()
    )
}

/// Reports that the fast path is not possible, and why.
pub(crate) fn cannot(run: &Run, why: impl std::fmt::Display) {
    run.reporter.note("layer", format!("cannot compare with the last run, so everything is synced: {why}"));
}

/// Where the images come from, according to what this machine recorded about the cluster.
pub(crate) fn origin(run: &Run, repo: &Repo) -> Result<Origin, Failure> {
    match cluster::remembered(run, repo)? {
        true => lab::known_origin(),
        false => Ok(Origin::public(repo)),
    }
}
