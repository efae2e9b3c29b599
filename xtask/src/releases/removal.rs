//! Uninstalls a release without what holds data. Helm deletes what the stored manifest of the
//! newest revision names, except objects that have `helm.sh/resource-policy: keep` there
//! (`filterManifestsToKeep` of `pkg/action/resource_policy.go`; the object in the cluster is not
//! checked). So what is to stay first gets that annotation in the stored release. The objects keep
//! Helm's own labels and annotations, by which the next install takes them over.

use std::os::fd::RawFd;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use serde_json::{Value, json};

use super::helm::helm_until;
pub(crate) use super::manifest::name;
use super::manifest::{self, POLICY, holds_data, kind};
use super::rewrite::{changed, rewrite};
use crate::run::Run;
use crate::run::consent::{self, Consent};
use crate::run::context::Context;
use crate::world::helm_storage::{self, Revision, Stored};
use run_record::Failure;

/// What happens to an object of a release's manifest at a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Goes,
    /// It holds data, or takes some with it.
    StaysAsData,
    /// Its chart tells Helm to keep it.
    StaysByItsChart,
}

/// Every object of a manifest, and what happens to it. `claims`: data is deleted too.
///
/// # Errors
/// If the manifest cannot be read: then Helm cannot either, and nothing can be concluded.
pub(crate) fn fates(manifest: &str, claims: bool) -> Result<Vec<(Value, Fate)>, String> {
    let judge = |(object, kept): (Value, bool)| {
        let fate = match (kept && !is_marked(&object), is_data(&object) && !claims) {
            (true, _) => Fate::StaysByItsChart,
            (_, true) => Fate::StaysAsData,
            _ => Fate::Goes,
        };
        (object, fate)
    };
    Ok(manifest::parse(manifest)?.into_iter().map(judge).collect())
}

/// The annotation of an object that was marked here, not by its chart, in a removal that was not
/// finished.
const KEPT_BY_US: &str = "ameide/kept";

fn is_marked(object: &Value) -> bool {
    object.pointer("/metadata/annotations").is_some_and(|annotations| annotations.get(KEPT_BY_US).is_some())
}

/// A StatefulSet's data is in its claims, which stay when it is deleted.
fn is_data(object: &Value) -> bool {
    !is_set(object) && holds_data(object)
}

pub(crate) fn is_set(object: &Value) -> bool {
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    version.starts_with("apps/") && kind(object) == "StatefulSet"
}

/// Whether Helm can be made to keep everything of a release that holds data.
pub(super) fn can_keep(manifest: &str) -> bool {
    keeping(manifest).is_ok()
}

/// The manifest with `keep` on everything that holds data; `None` if all of that has it already.
/// Objects without data keep their text, byte by byte.
///
/// # Errors
/// If the result would not keep all of it, or the manifest cannot be read.
pub(crate) fn keeping(manifest: &str) -> Result<Option<String>, String> {
    let all_kept = |text: &str| Ok::<bool, String>(manifest::parse(text)?.iter().all(|(o, kept)| *kept || !is_data(o)));
    if all_kept(manifest)? {
        return Ok(None);
    }
    let mut text = String::new();
    for document in split(manifest) {
        let objects = manifest::parse(document)?;
        if objects.iter().all(|(object, kept)| *kept || !is_data(object)) {
            text.push_str("---\n");
            text.push_str(document.trim_end());
            text.push('\n');
            continue;
        }
        // Helm checks a document as a whole: each object of a list gets its own document.
        for (mut object, kept) in objects {
            if kept || is_data(&object) {
                let annotations = annotations(&mut object)?;
                annotations.insert(POLICY.to_owned(), "keep".into());
                if !kept {
                    annotations.insert(KEPT_BY_US.to_owned(), "true".into());
                }
            }
            // JSON is YAML, and has no line that could be taken for a document separator.
            text.push_str(&format!("---\n{object}\n"));
        }
    }
    // It must have the same objects, with everything kept that should be; otherwise Helm never gets
    // it.
    let names = |text: &str| -> Result<Vec<String>, String> {
        Ok(manifest::parse(text)?.iter().map(|(object, _)| name(object)).collect())
    };
    if !all_kept(&text)? || names(&text)? != names(manifest)? {
        return Err("what is to be kept cannot be marked in it".to_owned());
    }
    Ok(Some(text))
}

/// The manifest without the marks of an unfinished removal; `None` if there are none, as in one that
/// cannot be read, and so never got any.
///
/// # Errors
/// If the marks cannot be taken off.
fn unmarked(manifest: &str) -> Result<Option<String>, String> {
    let any = |text: &str| Ok::<bool, String>(manifest::parse(text)?.iter().any(|(object, _)| is_marked(object)));
    if !any(manifest).unwrap_or(false) {
        return Ok(None);
    }
    let mut text = String::new();
    for document in split(manifest) {
        if !any(document)? {
            text.push_str(&format!("---\n{}\n", document.trim_end()));
            continue;
        }
        for (mut object, _) in manifest::parse(document)? {
            if is_marked(&object) {
                let annotations = annotations(&mut object)?;
                annotations.retain(|name, _| name != KEPT_BY_US && name != POLICY);
            }
            text.push_str(&format!("---\n{object}\n"));
        }
    }
    Ok(Some(text))
}

fn annotations(object: &mut Value) -> Result<&mut serde_json::Map<String, Value>, String> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).ok_or("an object without metadata")?;
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    Ok(annotations.as_object_mut().ok_or("annotations that are not a map")?)
}

/// Splits a manifest into documents like Helm (`SplitManifests`): at each line that begins with
/// `---`, whose rest belongs to the next document.
fn split(manifest: &str) -> Vec<&str> {
    let text = manifest.strip_prefix('\u{feff}').unwrap_or(manifest).trim_start();
    let (mut found, mut start, mut at) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        if line.starts_with("---") {
            found.push(&text[start..at]);
            start = at + 3;
        }
        at += line.len();
    }
    found.push(&text[start..]);
    found.into_iter().filter(|document| !document.trim().is_empty()).collect()
}

/// Marks what holds data to be kept, in the stored release that Helm will read, or removes such
/// marks, unless anybody else has written it.
///
/// # Errors
/// `release-owned` if somebody wrote it, or a newer revision; `release-pending` if it cannot be
/// marked.
async fn mark(
    run: &Run,
    client: &Client,
    revision: &Revision,
    change: fn(&str) -> Result<Option<String>, String>,
) -> Result<(), Failure> {
    let stored = helm_storage::stored(client, revision).await?;
    let marked = change(&stored.manifest).map_err(|error| helm_storage::unreadable(revision, error))?;
    let set = |secret: &mut Secret| match &marked {
        Some(manifest) => helm_storage::set_manifest(secret, manifest).map(|()| true),
        None => Ok(false),
    };
    rewrite(run, client, revision, set).await?;
    // Check once more what Helm will read: it takes the newest revision, whoever made it.
    let now: Vec<(Revision, Stored)> = helm_storage::newest_whole(client, &[revision.to_release()]).await?;
    match now.first() {
        Some((newest, stored))
            if newest.revision == revision.revision
                && stored.unreadable.is_none()
                && change(&stored.manifest) == Ok(None) =>
        {
            Ok(())
        }
        _ => Err(changed(revision)),
    }
}

/// What was consented to losing: releases, and possibly also what holds data.
pub(crate) type Consented = (Consent<consent::Release>, Option<Consent<consent::Claim>>);

/// Asks for consent to uninstalling releases; `claims`: with what holds data.
///
/// # Errors
/// `consent-needed`.
pub(crate) async fn consent(run: &Run, claims: bool, what: &str) -> Result<Consented, Failure> {
    if !claims {
        return Ok((run.may_destroy(what).await?, None));
    }
    let (release, claim) = run.may_destroy::<(consent::Release, consent::Claim)>(what).await?.split();
    Ok((release, Some(claim)))
}

/// Uninstalls a release. Without consent to losing data no hook is run, because one may delete
/// anything.
///
/// # Errors
/// Errors of Helm and of [`mark`].
pub(crate) async fn uninstall(
    context: &Context,
    client: &Client,
    lock: Option<RawFd>,
    (revision, timeout): (&Revision, Duration),
    (_, claim): &Consented,
    watch: impl Future<Output = Failure>,
) -> Result<(), Failure> {
    mark(&context.run, client, revision, if claim.is_none() { keeping } else { unmarked }).await?;
    let timeout = format!("{}s", timeout.as_secs());
    let mut arguments = vec!["uninstall", &revision.release, "--wait", "--timeout", &timeout];
    arguments.extend(claim.is_none().then_some("--no-hooks"));
    helm_until(context, lock, revision, &arguments, watch).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: &str = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: data\n";
    const SERVICE: &str = "# Source: a/b.yaml\napiVersion: v1\nkind: Service\nmetadata:\n  name: web # of the shop\n";
    const SET: &str = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec: {volumeClaimTemplates: [{metadata: {name: data}}]}\n";

    fn object(version: &str, kind: &str) -> String {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x, annotations: null}}\n")
    }

    #[test]
    fn what_goes_and_what_stays_is_said_object_by_object() {
        use Fate::{Goes, StaysAsData, StaysByItsChart};
        let kept = CLAIM.replace("  name: data", "  name: data\n  annotations: {helm.sh/resource-policy: keep}");
        for (manifest, without, with) in [
            (SERVICE, Goes, Goes),
            (SET, Goes, Goes),
            (CLAIM, StaysAsData, Goes),
            (&kept, StaysByItsChart, StaysByItsChart),
            (&object("v1", "Namespace"), StaysAsData, Goes),
            (&object("v1", "PersistentVolume"), StaysAsData, Goes),
            (&object("apiextensions.k8s.io/v1", "CustomResourceDefinition"), StaysAsData, Goes),
            (&object("postgresql.cnpg.io/v1", "Cluster"), StaysAsData, Goes),
            (&object("example.com/v1", "StatefulSet"), StaysAsData, Goes),
            (&object("v1", "Secret"), Goes, Goes),
        ] {
            let fate = |claims| fates(manifest, claims).unwrap().pop().unwrap().1;
            assert_eq!((fate(false), fate(true)), (without, with), "{manifest}");
        }
        assert!(fates("kind: [", false).is_err());
    }

    #[test]
    fn what_holds_data_is_marked_and_the_text_of_the_rest_stays() {
        let list = "apiVersion: v1\nkind: List\nmetadata: {annotations: {x: y}}\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: one}}\n- {apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: two}}\n";
        let manifest = format!("---\n{SERVICE}--- \n{CLAIM}---\n{list}---\n{SET}---\n# nothing\n");
        let marked = keeping(&manifest).unwrap().unwrap();
        assert!(marked.contains(SERVICE.trim_end()) && marked.contains(SET.trim_end()), "{marked}");
        let kept: Vec<(String, bool)> =
            manifest::parse(&marked).unwrap().iter().map(|(object, kept)| (name(object), *kept)).collect();
        let row = |name: &str, kept| (name.to_owned(), kept);
        assert_eq!(
            kept,
            [
                row("Service web", false),
                row("PersistentVolumeClaim data", true),
                row("ConfigMap one", false),
                row("PersistentVolumeClaim two", true),
                row("StatefulSet db", false),
            ]
        );
        // As Helm reads it: each document has its own annotations.
        let documents: Vec<Value> = split(&marked)
            .into_iter()
            .filter_map(|text| crate::files::bounds::yaml(text).ok())
            .filter(|value: &Value| !value.is_null())
            .collect();
        assert_eq!(documents.len(), 5);
        assert!(documents.iter().all(|document| kind(document) != "List"));
        assert_eq!(keeping(&marked), Ok(None), "a second time there is nothing to do");

        // The marks of an unfinished removal do not count as the chart's.
        let fates = |text: &str, claims| -> Vec<Fate> {
            super::fates(text, claims).unwrap().into_iter().map(|(_, fate)| fate).collect()
        };
        for claims in [false, true] {
            assert_eq!(fates(&marked, claims), fates(&manifest, claims));
        }
        let free = unmarked(&marked).unwrap().unwrap();
        assert!(free.contains(SERVICE.trim_end()) && !free.contains("ameide/kept"), "{free}");
        assert!(manifest::parse(&free).unwrap().iter().all(|(_, kept)| !kept), "{free}");
        assert_eq!((unmarked(&free), unmarked(&manifest)), (Ok(None), Ok(None)));
        let by_chart = CLAIM.replace("  name: data", "  name: data\n  annotations: {helm.sh/resource-policy: keep}");
        let both = keeping(&format!("{by_chart}---\n{}", CLAIM.replace("name: data", "name: more"))).unwrap().unwrap();
        assert_eq!(fates(&both, true), [Fate::StaysByItsChart, Fate::Goes]);
        let kept = manifest::parse(&unmarked(&both).unwrap().unwrap()).unwrap();
        assert_eq!(kept.iter().map(|(_, kept)| *kept).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn what_cannot_be_marked_is_refused() {
        for manifest in [
            "apiVersion: v1\nkind: PersistentVolumeClaim\n",
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: x, annotations: [a]}\n",
            "kind: [",
        ] {
            assert!(keeping(manifest).is_err(), "{manifest}");
        }
        assert_eq!(keeping(SERVICE), Ok(None));
        assert_eq!(keeping(""), Ok(None));
    }

    #[test]
    fn what_cannot_be_kept_is_known_before_it_is_asked_for() {
        for (manifest, can) in [
            (CLAIM, true),
            (SET, true),
            ("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: x, annotations: [a]}\n", false),
            ("kind: Service\nkind: Service\n", false),
        ] {
            assert_eq!(can_keep(manifest), can, "{manifest}");
        }
        assert_eq!(unmarked("kind: Service\nkind: Service\n"), Ok(None), "Helm uninstalls it as it is");
    }

    #[test]
    fn documents_are_split_as_helm_splits_them() {
        for (text, parts) in [
            ("a: b\n---\nc: d\n", &["a: b\n", "\nc: d\n"][..]),
            ("\n\n---\na: |\n  ---\n---c: d", &["\na: |\n  ---\n", "c: d"]),
            ("--- # first\na: b\n", &[" # first\na: b\n"]),
            ("---\n---\n", &[]),
        ] {
            assert_eq!(split(text), parts, "{text:?}");
        }
    }
}
