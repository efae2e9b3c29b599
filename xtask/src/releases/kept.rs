//! What Helm keeps at an upgrade and at a rollback, though the next revision does not have it: it
//! asks the object in the cluster (`update` of `pkg/kube/client.go`), and takes `keep` alone for
//! an answer, not the stored manifest, which an uninstallation goes by. The two can differ: a
//! removal marks the stored one alone, and anybody may take the annotation off the object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use serde_json::Value;

use super::manifest::{Dropped, POLICY};
use crate::world::kubernetes::kinds::Kinds;
use crate::world::kubernetes::place::Place;
use crate::world::kubernetes::read_failed;
use run_record::Failure;

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
    let Some(place) = Place::of(client, object, namespace, known).await? else { return Ok(false) };
    if place.name.is_empty() {
        return Ok(false);
    }
    let live = place.api(client).get_metadata_opt(&place.name).await;
    let live = live.map_err(|error| read_failed(&place.to_string(), error))?;
    Ok(live.is_none_or(|live| is_kept(&live.metadata)))
}

/// Whether an object in the cluster says so, as Helm asks it.
pub(crate) fn is_kept(live: &ObjectMeta) -> bool {
    live.annotations.as_ref().and_then(|all| all.get(POLICY)).is_some_and(|policy| policy == KEEP)
}
