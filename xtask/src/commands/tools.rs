//! `cargo xtask tools`: finds or builds the pinned tools, and says how to use them.

use run_record::{Failure, Step, StepKind};

use crate::files;
use crate::run::context::Context;
use crate::world::tools;

pub async fn run(context: &Context) -> Result<(), Failure> {
    let (tree, reporter) = (&context.tree, &context.reporter);
    let cache = files::cache_dir()?;
    for tool in tools::pinned(tree)? {
        let step = reporter.step(Step::new(StepKind::Tool, &tool.name, &tool.version));
        let path = tool.find_or_build(&cache, reporter).await?;
        step.unchanged(format!("{} at {path}", tool.version));
    }
    let toolbox = tools::ensure(tree, &[], reporter).await?;
    let bin = toolbox.search_path.split(':').next().unwrap_or_default();
    reporter.data(&format!("export PATH={bin}:$PATH"));
    Ok(())
}
