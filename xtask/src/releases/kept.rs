//! What Helm keeps at an upgrade and at a rollback, though the next revision does not have it: it
//! asks the object in the cluster (`update` of `pkg/kube/client.go`), and takes `keep` alone for
//! an answer, not the stored manifest, which an uninstallation goes by. The two can differ: a
//! removal marks the stored one alone, and anybody may take the annotation off the object.

use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use serde_json::Value;

use super::manifest::Dropped;
use crate::world::kubernetes::kinds::{self, Kinds};
use crate::world::kubernetes::read_failed;
use run_record::Failure;

const POLICY: &str = "helm.sh/resource-policy";
const KEEP: &str = "keep";

/// Those of these objects that Helm would delete: neither gone already nor kept. One that
/// cannot be looked at is none that is known to be kept.
pub(super) async fn without_kept(client: &Client, dropped: Vec<Dropped>, namespace: &str) -> Vec<Dropped> {
    let (mut lost, mut known) = (Vec::new(), Kinds::new());
    for object in dropped {
        if !matches!(is_safe(client, &object.written, namespace, &mut known).await, Ok(true)) {
            lost.push(object);
        }
    }
    lost
}

/// Whether the object is kept, or is not there to be lost.
async fn is_safe(client: &Client, object: &Value, namespace: &str, known: &mut Kinds) -> Result<bool, Failure> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let Some((plural, namespaced)) = kinds::find(client, version, kind, known).await? else { return Ok(false) };
    if name.is_empty() {
        return Ok(false);
    }
    let (group, short) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource {
        group: group.to_owned(),
        version: short.to_owned(),
        api_version: version.to_owned(),
        kind: kind.to_owned(),
        plural,
    };
    let within = Some(text("/metadata/namespace")).filter(|own| !own.is_empty()).unwrap_or(namespace);
    let api: Api<DynamicObject> = match namespaced {
        true => Api::namespaced_with(client.clone(), within, &resource),
        false => Api::all_with(client.clone(), &resource),
    };
    let live = api.get_metadata_opt(name).await.map_err(|error| read_failed(&format!("{kind} {name}"), error))?;
    let Some(live) = live else { return Ok(true) };
    Ok(live.metadata.annotations.is_some_and(|all| all.get(POLICY).is_some_and(|policy| policy == KEEP)))
}
