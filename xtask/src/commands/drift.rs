//! `cargo xtask drift`: what others have changed in what the layers deployed. Changes nothing.

use run_record::Failure;

use super::Done;
use crate::compare::drift::{self, Report};
use crate::repo::layers;
use crate::run::context::Context;
use crate::world::{helm_storage, kubernetes};

#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Numbers (45), names (data-plane-ext), paths, or ranges (10-45); every layer if none is given
    #[arg(value_name = "LAYER")]
    pub selectors: Vec<String>,
    /// Exit 1 if anything differs, 0 if not, more for errors
    #[arg(long)]
    pub exit_code: bool,
}

pub async fn run(context: &Context, args: &Args) -> Result<Done, Failure> {
    helm_storage::check_driver()?;
    let layers = context.repo.tree.layers()?;
    let named = !args.selectors.is_empty();
    let selected = if !named { layers } else { layers::select(&layers, &args.selectors)? };
    let client = kubernetes::client(context).await?;
    kubernetes::require(&client).await?;
    let report = drift::report(context, &client, &selected, named).await?;
    match context.run.json {
        true => context.run.reporter.data(&serde_json::to_string(&report).unwrap_or_default()),
        false => context.run.reporter.data(&lines(&report).join("\n")),
    }
    Ok(if args.exit_code && report.is_drift() { Done::Differs } else { Done::AsAsked })
}

fn lines(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for release in &report.releases {
        let name = format!("{}/{} ({})", release.namespace, release.release, release.layer);
        lines.extend(release.what.as_ref().map(|what| format!("{name} {what}")));
        for object in &release.objects {
            for finding in &object.findings {
                let sign = if finding.kind.is_drift() { '!' } else { ' ' };
                lines.push(format!("{sign} {}: {}", object.object, finding.told(report.now)));
            }
        }
    }
    lines.extend(
        report
            .leftovers
            .iter()
            .map(|left| format!("! {} claims to belong to {}: {}", left.object, left.release, left.why)),
    );
    if !report.unseen.is_empty() {
        lines.push(format!("not checked, because they could not be listed: {}", report.unseen.join(", ")));
    }
    if !report.absent.is_empty() {
        lines.push(format!("not deployed: {}", report.absent.join(", ")));
    }
    let drifted = report.releases.iter().filter(|release| release.is_drift()).count();
    let count = report.releases.len();
    lines.push(match report.is_drift() {
        false => format!(
            "nothing differs: {} as Helm left {}",
            counted(count, "release is", "releases are"),
            if count == 1 { "it" } else { "them" }
        ),
        true => {
            let left = counted(report.leftovers.len(), "object is", "objects are");
            format!(
                "{drifted} of {} from the tree, {left} left over",
                counted(count, "release differs", "releases differ")
            )
        }
    });
    if report
        .releases
        .iter()
        .flat_map(|release| &release.objects)
        .flat_map(|object| &object.findings)
        .any(|finding| finding.kind == drift::FindingKind::Taken)
    {
        lines.push("a layer run fails if others own a field; --force-conflicts takes it back".to_owned());
    }
    lines
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_could_not_be_listed_are_named_without_a_guess_at_the_cause() {
        let report = Report { unseen: vec!["Thing".to_owned()], ..Report::default() };
        assert_eq!(lines(&report)[0], "not checked, because they could not be listed: Thing");
    }
}
