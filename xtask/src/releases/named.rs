//! Releases as a person names them: by their layer, in any form that `cargo xtask layer` accepts,
//! or by NAME or NAMESPACE/NAME.

use std::collections::BTreeSet;

use kube::Client;
use run_record::{Code, Failure};

use crate::repo::Repo;
use crate::repo::layers::{self, Layer};
use crate::run::Run;
use crate::run::context::Context;
use crate::world::helm_storage::{self, Revision, Stored, newest};
use crate::world::helmfile;
use crate::world::release::Release;

/// The releases that these words name, each once, ordered by namespace and name: for a layer those
/// that the tree installs, whether they exist or not; by name those that are in the cluster.
///
/// # Errors
/// `usage` for a word that names neither a layer nor a release, with what there is, and for one
/// that names several releases; errors from reading the tree and Helm's storage.
pub async fn named(context: &Context, client: &Client, words: &[String]) -> Result<Vec<Release>, Failure> {
    let all = context.repo.tree.layers()?;
    let (mut of, mut names) = (Vec::new(), Vec::new());
    for word in words {
        match layers::select(&all, std::slice::from_ref(word)) {
            Ok(found) => of.extend(found),
            Err(_) => names.push(word),
        }
    }
    of.sort();
    of.dedup();
    let mut found: BTreeSet<(String, String)> = BTreeSet::new();
    if !of.is_empty() {
        let wanted = helmfile::releases(context, &of).await?;
        found.extend(wanted.into_iter().map(|release| (release.namespace, release.name)));
    }
    if !names.is_empty() {
        let there = there(&context.run, &context.repo, client).await?;
        for name in names {
            found.insert(one_of(&there, name, &all)?);
        }
    }
    let release = |(namespace, name)| Release { name, namespace, enabled: true, installed: true };
    Ok(found.into_iter().map(release).collect())
}

/// The newest revision of every release; only in the tree's namespaces if the whole cluster cannot
/// be listed.
pub(super) async fn every(run: &Run, repo: &Repo, client: &Client) -> Result<Vec<(Revision, Stored)>, Failure> {
    match newest(client, None).await {
        Err(failure) if failure.code == Code::Forbidden => {
            let namespaces = repo.tree.layer_needs()?.all_namespaces();
            if namespaces.is_empty() {
                return Err(failure);
            }
            let names = namespaces.iter().cloned().collect::<Vec<_>>().join(", ");
            run.reporter.note("releases", format!("searched in {names} only: {}", failure.message));
            helm_storage::newest_within(client, &namespaces).await
        }
        all => all,
    }
}

/// Every release by namespace and name, in the whole cluster, or in the tree's namespaces if the
/// whole cluster cannot be listed.
pub(super) async fn there(run: &Run, repo: &Repo, client: &Client) -> Result<Vec<(String, String)>, Failure> {
    let newest = every(run, repo, client).await?;
    Ok(newest.into_iter().map(|(revision, _)| (revision.namespace, revision.release)).collect())
}

fn one_of(there: &[(String, String)], word: &str, layers: &[Layer]) -> Result<(String, String), Failure> {
    let full = |(namespace, name): &(String, String)| format!("{namespace}/{name}");
    let matches: Vec<&(String, String)> =
        there.iter().filter(|release| release.1 == word || full(release) == word).collect();
    match matches.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let layers: Vec<String> = layers.iter().map(Layer::name).collect();
            let releases = match there {
                [] => "no release is in the cluster".to_owned(),
                there => format!("the releases are {}", there.iter().map(full).collect::<Vec<_>>().join(", ")),
            };
            Err(Failure::usage(format!("{word:?} is neither a layer nor a release"))
                .evidence(format!("the layers are {}; {releases}", layers.join(", ")))
                .remedy("cargo xtask layer --list; cargo xtask releases history"))
        }
        several => {
            let names: Vec<String> = several.iter().map(|release| full(release)).collect();
            Err(Failure::usage(format!("{word:?} may be any of {}", names.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_release_or_says_what_there_is() {
        let there = [("a", "web"), ("b", "web"), ("a", "db")].map(|(x, y)| (x.to_owned(), y.to_owned()));
        let one = |word: &str| one_of(&there, word, &[]);
        assert_eq!(one("db").unwrap(), there[2]);
        assert_eq!(one("b/web").unwrap(), there[1]);
        let several = one("web").unwrap_err().message;
        assert!(several.contains("a/web, b/web"), "{several}");
        for none in ["webs", "c/web", "", "/web"] {
            let failure = one(none).unwrap_err();
            assert!(
                failure.message.contains(&format!("{none:?}")) && failure.evidence[0].contains("a/db"),
                "{failure:?}"
            );
        }
        assert!(one_of(&[], "web", &[]).unwrap_err().evidence[0].contains("no release is in the cluster"));
    }
}
