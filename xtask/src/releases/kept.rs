//! What Helm keeps at an upgrade or a rollback although the next revision does not have it: it
//! checks the object in the cluster (`update` of `pkg/kube/client.go`), and only for the value
//! `keep`, not the stored manifest, which an uninstall uses. The two can differ: a removal only
//! marks the stored manifest, and anybody may remove the annotation from the object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use serde_json::Value;

use super::manifest::{Dropped, POLICY};
use crate::world::kubernetes::kinds::Kinds;
use crate::world::kubernetes::place::Place;
use run_record::Failure;

const KEEP: &str = "keep";

/// The objects that Helm would delete: neither already gone nor kept. One that cannot be looked at
/// does not count as kept.
pub(super) async fn without_kept(client: &Client, dropped: Vec<Dropped>, namespace: &str) -> Vec<Dropped> {
    let (mut lost, mut known) = (Vec::new(), Kinds::new());
    for object in dropped {
        if !matches!(is_safe(client, &object.written, namespace, &mut known).await, Ok(true)) {
            lost.push(object);
        }
    }
    lost
}

/// Whether the object is kept, or already gone.
async fn is_safe(client: &Client, object: &Value, namespace: &str, known: &mut Kinds) -> Result<bool, Failure> {
    let Some(place) = Place::of(client, object, namespace, known).await? else { return Ok(false) };
    if place.name.is_empty() {
        return Ok(false);
    }
    Ok(place.metadata(client).await?.is_none_or(|live| is_kept(&live)))
}

/// Whether an object in the cluster is kept, by Helm's own check.
pub(crate) fn is_kept(live: &ObjectMeta) -> bool {
    live.annotations.as_ref().and_then(|all| all.get(POLICY)).is_some_and(|policy| policy == KEEP)
}
