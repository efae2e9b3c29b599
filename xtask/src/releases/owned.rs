//! The claims that Kubernetes would delete together with the object that owns them. A StatefulSet
//! whose `persistentVolumeClaimRetentionPolicy` says so is made to keep its own; if anything else
//! owns one, a removal that is to keep what holds data is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::Value;

use super::removal::Fate;
use crate::run::Run;
use crate::run::context::Site;
use crate::run::wait;
use crate::world::helm_storage::Revision;
use crate::world::kubernetes::kinds::Kinds;
use crate::world::kubernetes::place::Place;
use crate::world::kubernetes::{kubectl_on, read_failed, write_failed};
use run_record::{Code, Failure};

/// The field manager's name for this tool's changes to objects that Helm made.
pub(crate) const MANAGER: &str = "xtask";

/// The identity of a StatefulSet that would take its claims with it.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    namespace: String,
    name: String,
    uid: String,
}

impl Holder {
    /// What [`let_go_of_claims`] will do.
    pub fn plan(&self) -> String {
        format!("have StatefulSet {} keep its claims, which it would delete", self.name)
    }
}

/// Those of a release, if what goes of its manifest is deleted.
///
/// # Errors
/// `usage` if anything else owns a claim; errors from reading.
pub(super) async fn holders_of(
    client: &Client,
    site: &Site,
    revision: &Revision,
    fates: &[(Value, Fate)],
) -> Result<Vec<Holder>, Failure> {
    let (mut going, mut kinds) = (BTreeMap::new(), Kinds::new());
    for (object, _) in fates.iter().filter(|(_, fate)| *fate == Fate::Goes) {
        // Of a kind that the API server does not have, there is none.
        let Some(place) = Place::of(client, object, &revision.namespace, &mut kinds).await? else { continue };
        if let Some(uid) = place.metadata(client).await?.and_then(|live| live.uid) {
            going.insert(place, uid);
        }
    }
    let claims = claims_in(client, &going.keys().filter_map(|place| place.namespace.clone()).collect()).await?;
    holders(client, site, &revision.release, &going, &claims).await
}

/// Those among the objects of a release that go, each with its uid. `claims`: all in their
/// namespaces.
///
/// # Errors
/// `usage` if anything else owns a claim; errors from reading.
pub(crate) async fn holders(
    client: &Client,
    site: &Site,
    release: &str,
    going: &BTreeMap<Place, String>,
    claims: &[PersistentVolumeClaim],
) -> Result<Vec<Holder>, Failure> {
    let mut holders = Vec::new();
    for (place, uid) in going {
        let Some(namespace) = &place.namespace else { continue };
        if (place.group(), place.kind.as_str()) == ("apps", "StatefulSet") {
            if deletes_its_claims(client, namespace, place).await? {
                holders.push(Holder { namespace: namespace.clone(), name: place.name.clone(), uid: uid.clone() });
            }
        } else if place.kind != "Pod"
            && let Some(claim) = claims.iter().find(|claim| is_owned_by(&claim.metadata, uid))
        {
            return Err(is_anothers(site, release, place, namespace, claim));
        }
    }
    Ok(holders)
}

/// All claims in these namespaces.
///
/// # Errors
/// Errors from reading.
pub(crate) async fn claims_in(
    client: &Client,
    namespaces: &BTreeSet<String>,
) -> Result<Vec<PersistentVolumeClaim>, Failure> {
    let mut claims = Vec::new();
    for namespace in namespaces {
        let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
        let listed = api.list(&ListParams::default()).await;
        claims.extend(listed.map_err(|error| read_failed(&format!("the claims in {namespace}"), error))?.items);
    }
    Ok(claims)
}

fn is_owned_by(claim: &ObjectMeta, uid: &str) -> bool {
    claim.owner_references.iter().flatten().any(|owner| owner.uid == uid)
}

/// Whether Kubernetes deletes this set's claims with it, according to its current state.
async fn deletes_its_claims(client: &Client, namespace: &str, place: &Place) -> Result<bool, Failure> {
    let set = Api::<StatefulSet>::namespaced(client.clone(), namespace).get_opt(&place.name).await;
    let set = set.map_err(|error| read_failed(&place.to_string(), error))?;
    let policy = set.and_then(|set| set.spec?.persistent_volume_claim_retention_policy);
    Ok(policy.and_then(|policy| policy.when_deleted).is_some_and(|when| when == "Delete"))
}

/// The remedy keeps the claim. Consent to its loss is not proposed, because it would cover all other
/// data of the release as well.
fn is_anothers(site: &Site, release: &str, owner: &Place, namespace: &str, claim: &PersistentVolumeClaim) -> Failure {
    let claim = claim.metadata.name.as_deref().unwrap_or_default();
    let message = format!("release {release}: {owner} owns the claim {claim}, which Kubernetes would delete with it");
    let patch = r#"[{"op":"remove","path":"/metadata/ownerReferences"}]"#;
    let kubectl = kubectl_on(&site.kube_context);
    Failure::usage(message).evidence("nothing was changed").remedy(format!(
        "take the ownerReferences out of it after a backup, then run it again: {kubectl} -n {namespace} patch persistentvolumeclaim {claim} --type=json -p '{patch}'"
    ))
}

/// How long the StatefulSet controller may take to release claims.
const CONTROLLER: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(500);

/// Has a StatefulSet keep its claims when it goes, and waits until Kubernetes would: with an
/// owner that is gone a claim would be collected. Where the removal is stopped now, the layer's
/// next run gives the field back.
pub(crate) async fn let_go_of_claims(run: &Run, client: &Client, set: &Holder) -> Result<(), Failure> {
    let sets = Api::<StatefulSet>::namespaced(client.clone(), &set.namespace);
    let what = format!("StatefulSet {} in {}", set.name, set.namespace);
    let patch = serde_json::json!({
        "metadata": {"uid": set.uid},
        "spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain"}},
    });
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let written = sets.patch(&set.name, &parameters, &Patch::Merge(&patch)).await;
    let written = written.map_err(|error| write_failed(&what, error))?;
    let generation = written.metadata.generation;
    run.reporter.note(&set.name, "its claims stay when it goes: persistentVolumeClaimRetentionPolicy is Retain now");
    let namespaces = BTreeSet::from([set.namespace.clone()]);
    let look = async || {
        let now = sets.get(&set.name).await.map_err(|error| read_failed(&what, error))?;
        let taken_up = now.status.and_then(|status| status.observed_generation) >= generation;
        let claims = claims_in(client, &namespaces).await?;
        let owned = claims.iter().find(|claim| is_owned_by(&claim.metadata, &set.uid));
        Ok(match owned.and_then(|claim| claim.metadata.name.clone()) {
            None if taken_up => ControlFlow::Break(()),
            None => ControlFlow::Continue("its controller has not observed that yet".to_owned()),
            Some(claim) => ControlFlow::Continue(format!("the claim {claim} still belongs to it")),
        })
    };
    match wait::until(EVERY, CONTROLLER, look).await? {
        ControlFlow::Break(()) => Ok(()),
        ControlFlow::Continue(why) => {
            let message = format!("{what} would delete its claims with it, although it is to keep them");
            Err(Failure::new(Code::ReleasePending, message)
                .evidence(why)
                .remedy("run it again when the controller manager of the cluster works"))
        }
    }
}
