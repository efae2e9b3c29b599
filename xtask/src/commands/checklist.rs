//! `cargo xtask checklist`: whether the data plane is ready, in the requested format and for the
//! requested time; `--fix` carries out the remedies that destroy nothing.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::time::Duration;

use run_record::{Exit, Failure};

use super::releases;
use crate::checklist::{self, Fix, Form, Item, State};
use crate::files;
use crate::repo::Repo;
use crate::run::Run;
use crate::run::context::Context;
use crate::run::printer;
use crate::run::wait;
use crate::{cluster, lab, layer, mirror};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Carry out the remedies that destroy nothing, then look again
    #[arg(long, conflicts_with_all = ["watch", "write"])]
    pub fix: bool,
    /// How to print the checklist
    #[arg(long, value_enum, conflicts_with = "watch")]
    pub format: Option<Form>,
    /// Also write it to this file, in the format that its extension names (.txt, .json, .md, .xml)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["watch", "write"])]
    pub to: Vec<camino::Utf8PathBuf>,
    /// Look again until everything holds, for at most this long
    #[arg(long, value_name = "DURATION", value_parser = crate::run::duration::parse, allow_negative_numbers = true, conflicts_with_all = ["watch", "write"])]
    pub wait: Option<Duration>,
    /// Look again and again, on a terminal, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Write the definitions into backlog/314-full-stack-integration-pipeline.md and stop
    #[arg(long, conflicts_with = "watch")]
    pub write: bool,
}

/// How often `--watch` and `--wait` look: containers, files and a registry have no common
/// watch, and a look takes a fraction of this.
const EVERY: Duration = Duration::from_secs(2);

pub async fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    if args.write {
        return write(&context.run, &context.repo);
    }
    if args.watch {
        return watch(context).await;
    }
    let forms = args.to.iter().map(|path| Ok((path, form_of(path)?))).collect::<Result<Vec<_>, Failure>>()?;
    let mut fixed = if args.fix { Some(fix(context).await?) } else { None };
    let look = async || {
        let items = match fixed.take() {
            Some(items) => items,
            None => checklist::look(context).await?,
        };
        Ok(match checklist::first_failure(&items) {
            None => ControlFlow::Break(items),
            Some(failure) => {
                context.run.reporter.progress(&failure.message);
                ControlFlow::Continue(items)
            }
        })
    };
    let (ControlFlow::Break(items) | ControlFlow::Continue(items)) =
        wait::until(EVERY, args.wait.unwrap_or_default(), look).await?;
    checklist::save(context, &items);
    let form = args.format.unwrap_or(if context.run.json { Form::Json } else { Form::Text });
    context.run.reporter.data(&checklist::shown(&context.repo, &context.site, &items, form));
    for (path, form) in forms {
        if context.run.dry_run {
            context.run.reporter.planned("checklist", format!("write {path}"));
            continue;
        }
        std::fs::write(path, checklist::rendered(&context.repo, &context.site, &items, form) + "\n")
            .map_err(|error| Failure::usage(format!("--to {path}: {error}")))?;
    }
    checklist::verdict(&items)
}

fn form_of(path: &camino::Utf8Path) -> Result<Form, Failure> {
    match path.extension() {
        Some("txt" | "log") => Ok(Form::Text),
        Some("json") => Ok(Form::Json),
        Some("md") => Ok(Form::Markdown),
        Some("xml") => Ok(Form::Junit),
        _ => Err(Failure::usage(format!("--to {path}: expected a file that ends in .txt, .json, .md or .xml"))),
    }
}

/// Carries out one remedy after the other, each at most once, looking again after each.
async fn fix(context: &Context) -> Result<Vec<Item>, Failure> {
    let mut tried: Vec<Fix> = Vec::new();
    loop {
        let items = checklist::look(context).await?;
        let failed = items.iter().filter(|item| item.state == State::Fail);
        let next = failed.filter_map(|item| Some((item.id, item.fix.clone()?))).find(|(_, fix)| !tried.contains(fix));
        let Some((id, fix)) = next else { return Ok(items) };
        if context.run.dry_run {
            context.run.reporter.planned(id, describe(&fix));
            tried.push(fix);
            continue;
        }
        context.run.reporter.note(id, describe(&fix));
        match act(context, &fix).await {
            Err(failure) if matches!(failure.exit(), Exit::Interrupted | Exit::Terminated) => return Err(failure),
            // Reported, and the rest is tried: the checklist decides in the end.
            Err(failure) => context.run.reporter.warn(id, failure.to_string()),
            Ok(()) => {}
        }
        tried.push(fix);
    }
}

fn describe(fix: &Fix) -> String {
    match fix {
        Fix::Cluster => "cargo xtask cluster".to_owned(),
        Fix::Mirror => "cargo xtask mirror".to_owned(),
        Fix::Repair => "cargo xtask releases repair".to_owned(),
        Fix::Layers(names) => format!("cargo xtask layer {}", names.join(" ")),
    }
}

async fn act(context: &Context, fix: &Fix) -> Result<(), Failure> {
    match fix {
        Fix::Cluster => cluster::mend(context).await,
        Fix::Mirror => {
            let lab = cluster::its_lab(context).await?;
            mirror::copy_all(context, &lab::origin(&context.repo, lab.as_ref())).await
        }
        Fix::Repair => {
            let action = Some(releases::Action::Repair { older_than: None, uninstall: None, rollback: Vec::new() });
            releases::run(context, &releases::Args { action }).await
        }
        Fix::Layers(names) => super::layer::run(context, &layer::Args::of(names.clone())).await.map(drop),
    }
}

async fn watch(context: &Context) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return Err(Failure::usage("--watch: standard output is not a terminal").remedy("cargo xtask checklist"));
    }
    let show = async || {
        let items = checklist::look(context).await?;
        checklist::save(context, &items);
        let screen = checklist::shown(&context.repo, &context.site, &items, Form::Text);
        // Cursor home, and the old screen erased.
        printer::data("\x1b[H\x1b[J");
        context.run.reporter.data(&screen);
        Ok(ControlFlow::<(), ()>::Continue(()))
    };
    wait::until(EVERY, Duration::MAX, show).await.map(drop)
}

fn write(run: &Run, repo: &Repo) -> Result<(), Failure> {
    let path = repo.tree.path(checklist::PAGE);
    let page =
        std::fs::read_to_string(&path).map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))?;
    let fresh = checklist::with_definitions(&page).ok_or_else(|| {
        Failure::usage(format!(
            "{path}: expected the lines {:?} and {:?}, in this order",
            checklist::BEGIN,
            checklist::END
        ))
    })?;
    if fresh == page {
        run.reporter.note("checklist", format!("{} is up to date", checklist::PAGE));
        return Ok(());
    }
    if run.dry_run {
        run.reporter.planned("checklist", format!("write the definitions into {}", checklist::PAGE));
        return Ok(());
    }
    files::write_atomically(&path, fresh.as_bytes())
        .map_err(|error| Failure::usage(format!("cannot write {path}: {error}")))?;
    run.reporter.note("checklist", format!("wrote the definitions into {}", checklist::PAGE));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_ending_names_its_format() {
        assert_eq!(form_of("a/b.xml".into()).unwrap(), Form::Junit);
        assert!(form_of("a/b.doc".into()).unwrap_err().message.contains(".doc"));
    }
}
