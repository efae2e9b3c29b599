//! `cargo xtask tools`: finds, downloads or builds the pinned tools, and says how to use them; or
//! records the digests of their release archives.

use camino::Utf8Path;
use run_record::{Code, Failure, Step, StepKind};

use crate::files;
use crate::repo::Repo;
use crate::run::Run;
use crate::run::context::Context;
use crate::world::process;
use crate::world::tools::lock::{Lock, Locked};
use crate::world::tools::{self, From, Source, Tool, download};

#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Read the digest of every release archive from the projects' checksum files, and record them
    /// in infra/tools/tools.lock; exit 8 if one cannot be determined
    #[arg(long)]
    pub update: bool,
    /// Build them from their Go modules, instead of using PATH or release archives
    #[arg(long, conflicts_with = "update")]
    pub from_source: bool,
}

pub async fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    if args.update {
        return update(&context.run, &context.repo).await;
    }
    let from = if args.from_source { From::Source } else { From::Anywhere };
    let (tree, reporter) = (&context.repo.tree, &context.run.reporter);
    let cache = files::cache_dir()?;
    if context.run.dry_run {
        return plan(&context.run, &tools::pinned(tree)?, &cache, from).await;
    }
    for tool in tools::pinned(tree)? {
        let step = reporter.step(Step::new(StepKind::Tool, &tool.name, &tool.version));
        let path = tool.find(&cache, from, reporter).await?;
        step.unchanged(format!("{} at {path}", tool.version));
    }
    let toolbox = tools::ensure_from(tree, &[], from, reporter).await?;
    let bin = toolbox.search_path.split(':').next().unwrap_or_default();
    reporter.data(&match context.run.json {
        true => serde_json::json!({"bin": bin}).to_string(),
        false => format!("export PATH={}:$PATH", process::for_a_shell(bin)),
    });
    Ok(())
}

/// Says where each tool is, or how it would be had.
async fn plan(run: &Run, pinned: &[Tool], cache: &Utf8Path, from: From) -> Result<(), Failure> {
    for tool in pinned {
        let version = &tool.version;
        match tool.source(cache, from).await? {
            Source::There(path) => {
                run.reporter
                    .step(Step::new(StepKind::Tool, &tool.name, version))
                    .unchanged(format!("{version} at {path}"));
            }
            Source::Archive(url) => run.reporter.planned(&tool.name, format!("download {version} from {url}")),
            Source::Module(folder) => run.reporter.planned(&tool.name, format!("build {version} from {folder}")),
        }
    }
    Ok(())
}

/// A digest that cannot be determined keeps its entry in the lock, and is named at the end.
async fn update(run: &Run, repo: &Repo) -> Result<(), Failure> {
    let (tree, reporter) = (&repo.tree, &run.reporter);
    let archives = tools::archives(tree)?;
    let mut lock = Lock::read(tree)?;
    let before = lock.clone();
    lock.retain(|tool, platform| {
        archives.iter().any(|archive| (&*archive.tool, &*archive.platform) == (tool, platform))
    });
    let step = reporter.step(Step::new(StepKind::Tool, "tools", "asking for the digests of the release archives"));
    let told = download::ask(&archives, reporter).await?;
    let (mut silent, mut reasons) = (Vec::new(), Vec::new());
    for (archive, told) in archives.iter().zip(told) {
        let (tool, platform, version) = (&archive.tool, &archive.platform, &archive.version);
        let digest = match told {
            Ok(digest) => digest,
            Err(reason) => {
                silent.push(format!("{tool} {platform}"));
                reasons.push(reason);
                continue;
            }
        };
        match lock.entry(tool, platform) {
            Some(known) if known.version == *version && known.digest == digest => continue,
            // Releases are never replaced; if one is, the project has to say why.
            Some(known) if known.version == *version => reporter.warn(
                tool,
                format!("{platform}: {version} was {} and is {digest} now: ask the project why", known.digest),
            ),
            _ => reporter.note(tool, format!("{platform}: {version} is {digest}")),
        }
        lock.put(tool, platform, Locked { version: version.clone(), digest });
    }
    let (count, path) = (archives.len(), Lock::path(tree));
    let resolved = format!("{} of {count} archives resolved", count - silent.len());
    if lock == before {
        step.unchanged(format!("{resolved}, {path} is unchanged"));
    } else if run.dry_run {
        step.unchanged(resolved);
        reporter.planned("tools", format!("write {path}"));
    } else {
        lock.write(tree)?;
        step.done_as(format!("{resolved}, in {path}"));
    }
    if silent.is_empty() {
        return Ok(());
    }
    let message = format!("{} of {count} archives are not resolved: {}", silent.len(), silent.join(", "));
    let mut failure = Failure::new(Code::ToolUnresolved, message).remedy(
        "check that the addresses in infra/tools/tools.yaml can be reached (HTTPS_PROXY, SSL_CERT_FILE), then run it again",
    );
    reasons.dedup();
    failure.evidence = reasons;
    Err(failure)
}
