//! Whether the data plane is ready, item by item: [`facts`] looks, [`items`] decides,
//! [`render`] shows. Nothing is changed here.

pub(crate) mod facts;
mod items;
mod render;

pub use items::{Fix, ITEMS, Item, State, first_failure};

use crate::cluster::remedy;
use crate::files;
use crate::repo::Repo;
use crate::run::context::{Context, Site};
use crate::run::foreign;
use crate::run::interrupt::Interrupt;
use run_record::{Exit, Failure};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    Text,
    Json,
    Markdown,
    Junit,
}

/// The page that defines "Data Plane Ready", and the markers around our part of it.
pub const PAGE: &str = "backlog/314-full-stack-integration-pipeline.md";
pub const BEGIN: &str = "<!-- data-plane-ready: written by `cargo xtask checklist --write` -->";
pub const END: &str = "<!-- data-plane-ready: end -->";

/// The checklist at the end of another command, in that command's output and record.
pub async fn conclude(context: &Context) -> Result<(), Failure> {
    let items = look(context).await?;
    tell(context, &items);
    verdict(&items)
}

/// Shows the items as part of another command's output, and saves them in the run's folder for
/// `report`.
pub fn tell(context: &Context, items: &[Item]) {
    save(context, items);
    let form = if context.run.json { Form::Json } else { Form::Text };
    context.run.reporter.data(&shown(&context.repo, &context.site, items, form));
}

/// Saves the items in the run's folder for `report`.
pub fn save(context: &Context, items: &[Item]) {
    let text = rendered(&context.repo, &context.site, items, Form::Json);
    // It is for later: losing it must not fail the checklist.
    let _ = files::write_atomically(&context.run.dir.join("checklist.json"), text.as_bytes());
}

/// Observes and decides.
pub async fn look(context: &Context) -> Result<Vec<Item>, Failure> {
    let facts = Interrupt::global().or(Box::pin(facts::observe(context))).await??;
    let mut items = items::decide(&facts);
    for item in &mut items {
        let exit = item.exit.unwrap_or(Exit::NotReady);
        item.remedy = item.remedy.take().map(|text| remedy::adapted(&context.repo, &context.site, exit, &text));
        item.evidence.iter_mut().chain(&mut item.remedy).for_each(|text| *text = foreign::line(text));
    }
    Ok(items)
}

pub fn verdict(items: &[Item]) -> Result<(), Failure> {
    items::first_failure(items).map_or(Ok(()), Err)
}

/// For a file, whatever the terminal is.
pub fn rendered(repo: &Repo, site: &Site, items: &[Item], form: Form) -> String {
    in_columns(repo, site, items, form, None)
}

/// For standard output, as wide as the terminal that it may be.
pub fn shown(repo: &Repo, site: &Site, items: &[Item], form: Form) -> String {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let columns = size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
    in_columns(repo, site, items, form, columns)
}

fn in_columns(repo: &Repo, site: &Site, items: &[Item], form: Form, width: Option<usize>) -> String {
    let subject = render::Subject { env: &repo.env_name, kube_context: &site.kube_context };
    match form {
        Form::Text => render::text(&subject, items, width),
        Form::Json => render::json(&subject, items),
        Form::Markdown => render::markdown(&subject, items),
        Form::Junit => render::junit(&subject, items),
    }
}

/// The page with our part replaced; `None` if it has no place for it.
pub fn with_definitions(page: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}{END}{after}", render::definitions()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_between_the_markers_is_written() {
        let page = format!("# Title\n{BEGIN}\nOUTDATED\n{END}\nrest\n");
        let fresh = with_definitions(&page).unwrap();
        assert!(
            fresh.starts_with("# Title\n") && fresh.ends_with("\nrest\n") && !fresh.contains("OUTDATED"),
            "{fresh}"
        );
        assert_eq!(with_definitions(&fresh).as_deref(), Some(fresh.as_str()), "a second time changes nothing");
        assert!(with_definitions("# no markers").is_none());
    }
}
