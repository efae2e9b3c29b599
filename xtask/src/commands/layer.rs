//! `cargo xtask layer`: lists layers, shows what a run would do, or runs them.

use run_record::Failure;

use super::Done;
use crate::cluster;
use crate::layer::ahead::Ahead;
use crate::layer::plan::{self, Plan};
use crate::layer::preview::Unseen;
use crate::layer::{Args, Runner, instant, preview, remove, rollback};
use crate::repo;
use crate::repo::Repo;
use crate::repo::layers::{self, Layer};
use crate::run::Run;
use crate::run::context::Context;
use crate::world::{helm_storage, process, tools};

pub async fn run(context: &Context, args: &Args) -> Result<Done, Failure> {
    let layers = context.repo.tree.layers()?;
    if args.list {
        return list(&context.run, &context.repo, layers, args).map(|()| Done::AsAsked);
    }
    // Also where nothing of it is needed: a mistake in it is told before any cluster is asked.
    context.repo.tree.layer_needs()?;
    helm_storage::check_driver()?;
    if let Some(path) = &args.plan {
        // An empty variable counts as unset, which clap's rules cannot express.
        if args.selector().is_some() {
            return Err(Failure::usage(
                "--plan: the plan already says which releases are meant: leave out the selector (-l, HELM_LAYER_SELECTOR)",
            ));
        }
        let plan = Plan::read(path)?;
        let selected = layers::select(&layers, &plan.layers())?;
        let asked = plan.asks(args);
        if context.run.dry_run {
            return plan::check(context, &plan, &selected, &asked).await.map(|()| Done::AsAsked);
        }
        return bring(context, &selected, &asked, Some(&plan)).await;
    }
    let selected = if args.all { layers } else { layers::select(&layers, &args.selectors)? };
    if let Some(to) = &args.rollback {
        return rollback::run(context, &selected, args, to.as_deref()).await.map(|()| Done::AsAsked);
    }
    if args.remove {
        return remove::run(context, &selected, args).await.map(|()| Done::AsAsked);
    }
    if context.run.dry_run {
        return show(context, &selected, args, Unseen::Render).await;
    }
    bring(context, &selected, args, None).await
}

/// Makes the layers match the tree; with a plan, does exactly what that says.
async fn bring(context: &Context, layers: &[Layer], args: &Args, plan: Option<&Plan>) -> Result<Done, Failure> {
    let lock = cluster::lock(&context.run).await?;
    if plan.is_none() && instant::answers(context, layers, args).await? {
        return Ok(Done::AsAsked);
    }
    let ahead = async { Ok(Ahead::begun(context, layers, args).await) };
    // What ends the run is reported without waiting for the other.
    let (lab, ahead) = tokio::try_join!(cluster::require_ready(context), ahead)?;
    let toolbox = tools::ensure(&context.repo.tree, &["helm", "helmfile"], &context.run.reporter).await?;
    let runner = Runner::new(context, &toolbox, lab.as_ref(), &lock, args)?.of_plan(plan).having_begun(ahead);
    runner.run_all(layers).await.map(|()| Done::AsAsked)
}

fn list(run: &Run, repo: &Repo, layers: Vec<Layer>, args: &Args) -> Result<(), Failure> {
    let listed = match args.critical_path {
        true => layers::in_order(&layers, &repo::critical_path(&repo.tree)?)?,
        false if args.selectors.is_empty() => layers,
        false => layers::select(&layers, &args.selectors)?,
    };
    let names: Vec<String> = listed.iter().map(Layer::name).collect();
    let text = if run.json { serde_json::json!(names).to_string() } else { names.join("\n") };
    run.reporter.data(&text);
    Ok(())
}

/// Shows what a run would do.
pub(super) async fn show(context: &Context, layers: &[Layer], args: &Args, unseen: Unseen) -> Result<Done, Failure> {
    let previews = preview::previews(context, layers, args, unseen).await?;
    previews.iter().for_each(|preview| preview.tell(&context.run));
    if let Some(path) = &args.save_plan {
        Plan::of(&context.repo, &context.site, &previews, args)?.write(path)?;
        let text = format!("saved: cargo xtask layer --plan {}", process::for_a_shell(path.as_str()));
        context.run.reporter.note("layer", text);
    }
    let differs = args.exit_code && previews.iter().any(preview::LayerPreview::changes);
    Ok(if differs { Done::Differs } else { Done::AsAsked })
}
