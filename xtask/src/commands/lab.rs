//! `cargo xtask lab`: builds what a machine without internet lacks.

use run_record::{Failure, Step, StepKind};

use crate::lab;
use crate::run::context::Context;
use crate::world::engine;

pub async fn run(context: &Context) -> Result<(), Failure> {
    if context.run.dry_run {
        context.run.reporter.planned("lab", "build what it still lacks, and start its upstream registry");
        return Ok(());
    }
    engine::ensure(&context.run, &context.repo).await?;
    let step = context.run.reporter.step(Step::new(StepKind::Lab, "lab", "building"));
    let built = lab::ensure(context).await?;
    step.done_as("built, upstream registry running");
    for (what, tag) in [
        ("node", &built.node),
        ("tools", &built.tools),
        ("registry", &built.registry),
        ("load balancer", &built.loadbalancer),
    ] {
        context.run.reporter.note("lab", format!("{what}: {tag}"));
    }
    context.run.reporter.note("lab", format!("upstream: {}, lock: {}", lab::UPSTREAM_ADDRESS, built.lock));
    Ok(())
}
