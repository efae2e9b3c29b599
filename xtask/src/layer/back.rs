//! What rollback and removal need from a layer's file: how long Helm may wait for a release, and
//! the order of the releases, dependents first.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::Client;
use run_record::Failure;

use super::{Layer, Reader, Release, nothing_selected};
use crate::files::bounds;
use crate::world::helm_storage::Revision;
use crate::world::helmfile;

/// The layers, last one first, each with its releases; without those of which the selector matches
/// none.
///
/// # Errors
/// `usage` if it matches none at all; `render-failed`.
pub(super) async fn selected<'a>(
    reader: &Reader<'_>,
    client: &Client,
    layers: &'a [Layer],
) -> Result<Vec<(&'a Layer, Vec<Release>)>, Failure> {
    let mut found = Vec::new();
    for layer in layers.iter().rev() {
        let releases = reader.releases(layer, client.default_namespace()).await?;
        match (reader.selector, releases.is_empty()) {
            (Some(selector), true) => {
                let text = format!("left out: the selector {selector:?} matches none of its releases");
                reader.context.run.reporter.note(&layer.name(), text);
            }
            _ => found.push((layer, releases)),
        }
    }
    match reader.selector {
        Some(selector) if found.is_empty() => Err(nothing_selected(selector, layers)),
        _ => Ok(found),
    }
}

/// A layer's file as Helmfile builds it.
pub(super) struct Built(String);

impl Built {
    /// # Errors
    /// `render-failed` if Helmfile cannot read the layer.
    pub async fn of(reader: &Reader<'_>, layer: &Layer) -> Result<Self, Failure> {
        Ok(Self(reader.read(layer, &["build"]).await?.unwrap_or_default()))
    }

    /// How long Helm may wait for one operation on this release.
    pub fn timeout(&self, revision: &Revision) -> Duration {
        helmfile::timeout_in(&self.0, revision).unwrap_or(helmfile::HELMS_TIMEOUT)
    }

    /// These releases in the order in which they are removed: none before one that needs it.
    pub fn reversed(&self, releases: &[Release]) -> Vec<Release> {
        let needs = needs_in(&self.0, releases);
        reversed(&needs).into_iter().filter_map(|index| releases.get(index).cloned()).collect()
    }
}

/// For each of these releases, which of them it needs.
fn needs_in(built: &str, releases: &[Release]) -> Vec<Vec<usize>> {
    let documents = bounds::documents(built).unwrap_or_default();
    let rows = documents.iter().find_map(|document| document.get("releases")?.as_array()).cloned().unwrap_or_default();
    let of = |release: &Release| {
        let row = rows.iter().find(|row| {
            let namespace = row["namespace"].as_str().unwrap_or(&release.namespace);
            row["name"] == release.name.as_str() && namespace == release.namespace
        });
        let needs = row.and_then(|row| row["needs"].as_array()).into_iter().flatten().filter_map(|need| need.as_str());
        let find = |need: &str| {
            // `name`, `namespace/name`, `context/namespace/name`.
            let mut words = need.rsplit('/');
            let name = words.next().unwrap_or_default();
            let namespace = words.next().unwrap_or(&release.namespace);
            releases.iter().position(|other| other.name == name && other.namespace == namespace)
        };
        needs.filter_map(find).collect()
    };
    releases.iter().map(of).collect()
}

/// The last ones first, and each only after those that need it.
fn reversed(needs: &[Vec<usize>]) -> Vec<usize> {
    fn visit(index: usize, needs: &[Vec<usize>], seen: &mut BTreeSet<usize>, found: &mut Vec<usize>) {
        // This also terminates if they need each other in a cycle, which Helmfile refuses.
        if seen.insert(index) {
            needs.get(index).into_iter().flatten().for_each(|need| visit(*need, needs, seen, found));
            found.push(index);
        }
    }
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    (0..needs.len()).for_each(|index| visit(index, needs, &mut seen, &mut found));
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_another_goes_before_it() {
        let release = |name: &str| Release {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            enabled: true,
            installed: true,
        };
        let releases = ["db", "web", "queue", "worker"].map(release);
        for (needs, order) in [
            (["", "", "", ""], ["worker", "queue", "web", "db"]),
            (["", "db", "", "shop/queue"], ["worker", "queue", "web", "db"]),
            (["t/shop/web", "", "", ""], ["worker", "queue", "db", "web"]),
            (["", "", "worker", "elsewhere/db"], ["queue", "worker", "web", "db"]),
            (["web", "db", "", ""], ["worker", "queue", "db", "web"]),
        ] {
            let rows = releases.iter().zip(needs).map(|(release, need)| {
                let need = if need.is_empty() { String::new() } else { format!(", needs: [{need}]") };
                format!("{{name: {}, namespace: shop{need}}}", release.name)
            });
            let built = Built(format!("releases: [{}]\n", rows.collect::<Vec<_>>().join(", ")));
            let found: Vec<String> = built.reversed(&releases).into_iter().map(|release| release.name).collect();
            assert_eq!(found, order, "{needs:?}");
        }
    }
}
