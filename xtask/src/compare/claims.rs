//! The volume claims that were there when a release's hooks had run. What a hook writes, it often
//! writes into a database, whose claim comes from a StatefulSet's template and so is in no manifest.
//! If such a claim is deleted, the database comes back empty, and every object that Helm made is as
//! it was.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ListParams};

use super::state::Drift;
use crate::world::kubernetes::read_failed;
use run_record::Failure;

/// The uid of each claim, by its namespace and its name.
pub(crate) type Claims = BTreeMap<String, BTreeMap<String, String>>;

/// The claims that exist in these namespaces, with those that are being deleted or without.
///
/// # Errors
/// Errors from reading: what was not seen is not reported as gone.
pub(crate) async fn look(client: &Client, namespaces: &BTreeSet<String>, going: bool) -> Result<Claims, Failure> {
    let lists = namespaces.iter().map(async |namespace| {
        let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
        let listed = claims.list_metadata(&ListParams::default()).await;
        let listed = listed.map_err(|error| read_failed(&format!("the volume claims in {namespace}"), error))?;
        let claims = listed.items.into_iter().map(|claim| claim.metadata);
        let claims = claims.filter(|claim| going || claim.deletion_timestamp.is_none());
        let claims = claims.filter_map(lasting).collect();
        Ok::<_, Failure>((namespace.clone(), claims))
    });
    Ok(try_join_all(lists).await?.into_iter().collect())
}

/// The name and the uid of a claim that lasts: one of a pod's own (an ephemeral volume) or of a Job
/// is deleted with it.
fn lasting(claim: ObjectMeta) -> Option<(String, String)> {
    let passes =
        claim.owner_references.iter().flatten().any(|owner| matches!(owner.kind.as_str(), "Pod" | "Job" | "CronJob"));
    claim.name.zip(claim.uid).filter(|_| !passes)
}

/// Those of these claims that do not exist any more, or only as new ones by their names. Others
/// that have come since mean nothing.
pub(crate) fn gone(recorded: &Claims, now: &Claims) -> Vec<Drift> {
    let mut found = Vec::new();
    for (namespace, claims) in recorded {
        let here = now.get(namespace);
        for (name, _) in claims.iter().filter(|(name, uid)| here.and_then(|here| here.get(*name)) != Some(*uid)) {
            found.push(Drift {
                object: format!("PersistentVolumeClaim {namespace}/{name}"),
                field: None,
                manager: None,
                ago: None,
                what: "was deleted since the release's hooks ran: what they wrote may be gone".to_owned(),
            });
        }
    }
    found
}

/// The same of claims that only hooks of an install have written to: no sync runs them again.
pub(crate) fn lost(recorded: &Claims, now: &Claims) -> Vec<Drift> {
    let told = |drift: Drift| Drift { what: format!("{}, and only an install runs them", drift.what), ..drift };
    gone(recorded, now).into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(all: &[(&str, &str, &str)]) -> Claims {
        let mut found = Claims::new();
        for (namespace, name, uid) in all {
            found.entry((*namespace).to_owned()).or_default().insert((*name).to_owned(), (*uid).to_owned());
        }
        found
    }

    #[test]
    fn a_claim_that_is_gone_is_told_whether_or_not_another_has_its_name() {
        let recorded = claims(&[("ameide", "data-postgres-0", "u1"), ("ameide", "data-redis-0", "u2")]);
        let postgres = "PersistentVolumeClaim ameide/data-postgres-0 was deleted since the release's hooks ran";
        for (now, told) in [
            (recorded.clone(), None),
            // A new claim holds nothing that hooks wrote before.
            (
                claims(&[("ameide", "data-postgres-0", "u1"), ("ameide", "data-redis-0", "u2"), ("ameide", "x", "u3")]),
                None,
            ),
            (claims(&[("ameide", "data-redis-0", "u2")]), Some(postgres)),
            (claims(&[("ameide", "data-postgres-0", "u9"), ("ameide", "data-redis-0", "u2")]), Some(postgres)),
            (claims(&[("other", "data-postgres-0", "u1"), ("ameide", "data-redis-0", "u2")]), Some(postgres)),
            (Claims::new(), Some(postgres)),
        ] {
            let found = gone(&recorded, &now);
            let said = found.first().map(ToString::to_string);
            match told {
                None => assert_eq!(said, None, "{now:?}"),
                Some(told) => assert!(said.as_ref().is_some_and(|said| said.starts_with(told)), "{now:?}: {said:?}"),
            }
        }
        assert_eq!(gone(&Claims::new(), &recorded), []);
    }

    #[test]
    fn a_claim_that_is_deleted_with_its_pod_does_not_count() {
        for (owner, counts) in
            [(None, true), (Some("StatefulSet"), true), (Some("Cluster"), true), (Some("Pod"), false)]
        {
            let owner = owner.map(|kind| [json!({"apiVersion": "v1", "kind": kind, "name": "x", "uid": "u9"})]);
            let claim = json!({"name": "data", "uid": "u1", "ownerReferences": owner});
            assert_eq!(lasting(serde_json::from_value(claim).unwrap()).is_some(), counts, "{owner:?}");
        }
    }
}
