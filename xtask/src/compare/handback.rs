//! What a removal has set and left behind because it was stopped before Helm started: as long as
//! this tool owns a field, Helm's apply of the chart's value there is refused. Before Helm applies
//! anything, ownership is given up; the value stays until Helm sets it.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::Value;

use crate::releases::owned::MANAGER;
use crate::releases::{manifest, removal};
use crate::run::Run;
use crate::world::helm_storage;
use crate::world::kubernetes::{read_failed, write_failed};
use crate::world::release::Release;
use run_record::{Code, Failure};

/// How often a write is retried after a conflicting one: a controller writes the status as its pods
/// come and go.
const TRIES: usize = 5;

/// # Errors
/// Errors from reading and writing.
pub(crate) async fn give_back(run: &Run, client: &Client, releases: &[Release]) -> Result<(), Failure> {
    let installed: Vec<Release> = releases.iter().filter(|release| release.installed).cloned().collect();
    for (revision, stored) in helm_storage::newest_whole(client, &installed).await? {
        // If it cannot be read, the code that needs its content reports that.
        for (set, _) in manifest::parse(&stored.manifest).unwrap_or_default() {
            let text = |pointer: &str| set.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
            if let (true, Some(name)) = (removal::is_set(&set), text("/metadata/name")) {
                let namespace = text("/metadata/namespace").unwrap_or(&revision.namespace);
                give_set_back(run, client, namespace, name).await?;
            }
        }
    }
    Ok(())
}

async fn give_set_back(run: &Run, client: &Client, namespace: &str, name: &str) -> Result<(), Failure> {
    let sets = Api::<StatefulSet>::namespaced(client.clone(), namespace);
    let what = format!("StatefulSet {name} in {namespace}");
    for _ in 0..TRIES {
        let found = sets.get_metadata_opt(name).await.map_err(|error| read_failed(&what, error))?;
        let Some(metadata) = found.map(|found| found.metadata) else { return Ok(()) };
        let Some(others) = without_ours(&metadata) else { return Ok(()) };
        // Refused if anybody has written in between, so that none of their entries is lost.
        let patch = serde_json::json!({"metadata": {
            "uid": metadata.uid, "resourceVersion": metadata.resource_version, "managedFields": others,
        }});
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match sets.patch_metadata(name, &parameters, &Patch::Merge(&patch)).await {
            Ok(_) => {
                let text = "what an interrupted removal has set of it is given back to its chart";
                run.reporter.note(name, text);
                return Ok(());
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(write_failed(&what, error)),
        }
    }
    Err(Failure::new(Code::ApiFailed, format!("{what} is constantly being changed by others")).remedy("run it again"))
}

/// Whether an entry of `managedFields` lists what this tool has set.
fn is_ours(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(MANAGER) && entry.subresource.is_none()
}

/// Whether this tool owns a field of this object.
pub(crate) fn is_held(metadata: &ObjectMeta) -> bool {
    metadata.managed_fields.iter().flatten().any(is_ours)
}

/// The entries without this tool's; `None` if there is nothing to remove.
fn without_ours(metadata: &ObjectMeta) -> Option<Vec<&ManagedFieldsEntry>> {
    let entries = metadata.managed_fields.as_deref().unwrap_or_default();
    let others: Vec<&ManagedFieldsEntry> = entries.iter().filter(|entry| !is_ours(entry)).collect();
    // An empty list would make the API server record everything again, without an owner.
    (others.len() < entries.len() && !others.is_empty()).then_some(others)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_this_tool_set_is_given_back_and_nothing_of_others() {
        let entry = |manager: &str, subresource: Option<&str>| json!({"manager": manager, "operation": "Update", "subresource": subresource});
        let helm = entry("helm", None);
        let controller = entry("kube-controller-manager", Some("status"));
        let ours = entry("xtask", None);
        for (managed, left) in [
            (vec![&helm, &ours, &controller], Some(vec!["helm", "kube-controller-manager"])),
            (vec![&helm, &controller], None),
            (vec![&helm, &entry("xtask-else", None)], None),
            (vec![&helm, &entry("xtask", Some("status"))], None),
            (vec![&ours], None),
            (vec![], None),
        ] {
            let metadata: ObjectMeta = serde_json::from_value(json!({"name": "db", "managedFields": managed})).unwrap();
            let found = without_ours(&metadata);
            let found =
                found.map(|all| all.into_iter().filter_map(|entry| entry.manager.as_deref()).collect::<Vec<_>>());
            assert_eq!(found, left, "{managed:?}");
        }
    }
}
