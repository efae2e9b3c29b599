//! Fields that others own, before Helm starts: if the API server refuses a dry run of an apply, it
//! also refuses Helm's, after Helm has created a revision that it then has to roll back. So the run
//! says who set what, and leaves everything as it is.

use kube::Client;
use serde_json::Value;

use super::preview::dry_run;
use crate::compare::drift::{place, resources};
use crate::compare::live;
use crate::compare::objects::title;
use crate::compare::ownership;
use crate::compare::reader::{How, Reader};
use crate::diagnosis;
use crate::diagnosis::helm_errors::{self, Conflict};
use crate::releases::by_hand;
use crate::repo::layers::Layer;
use crate::world::helm_storage;
use crate::world::kubernetes::kinds::Kinds;
use crate::world::kubernetes::place::Place;
use crate::world::release::Release;
use run_record::{Code, Failure};

/// # Errors
/// `field-conflict`, if the API server says so. What could not be looked at is left to Helm.
pub(crate) async fn refuse(
    client: &Client,
    reader: &Reader<'_>,
    layer: &Layer,
    syncing: &[Release],
) -> Result<(), Failure> {
    let (mut suspects, mut kinds): (Vec<(&Release, Place)>, _) = (Vec::new(), Kinds::new());
    for release in syncing.iter().filter(|release| release.installed) {
        suspects.extend(
            taken_from(client, release, &mut kinds).await.unwrap_or_default().into_iter().map(|place| (release, place)),
        );
    }
    if suspects.is_empty() {
        return Ok(());
    }
    let how = How { asking: true, upgrading: true, crds: false };
    let Ok(rendered) = reader.rendered(layer, client.default_namespace(), how).await else { return Ok(()) };
    let mut conflicts = Vec::new();
    for (release, place) in &suspects {
        let Some(objects) = rendered.get(&(release.namespace.clone(), release.name.clone())) else { continue };
        let is = |object: &&Value| title(object, &release.namespace, &kinds) == place.to_string();
        let Some(object) = objects.resources.iter().find(is) else { continue };
        if let Err(kube::Error::Api(status)) = dry_run(client, place, object, release, false).await
            && status.code == 409
        {
            let said = helm_errors::conflicts(&status.message).into_iter();
            conflicts.extend(said.map(|conflict| Conflict { object: Some(place.to_string()), ..conflict }));
        }
    }
    if conflicts.is_empty() {
        return Ok(());
    }
    let name = layer.name();
    let remedy = format!("cargo xtask --env {} layer {name} --force-conflicts", reader.context.repo.env_name);
    let failure =
        Failure::new(Code::FieldConflict, format!("{name}: {}", Code::FieldConflict.sentence())).remedy(remedy);
    let mut failure =
        diagnosis::of_conflicts(failure, &conflicts).evidence("Helm was not started, and nothing was changed");
    failure.evidence.extend(by_hand::evidence(client, syncing).await);
    Err(failure)
}

/// Objects of the deployed revision in which others own a field that the manifest sets.
async fn taken_from(client: &Client, release: &Release, kinds: &mut Kinds) -> Result<Vec<Place>, Failure> {
    let Some((revision, stored)) = helm_storage::upgraded_from(client, release).await? else { return Ok(Vec::new()) };
    let (mut places, mut objects) = (Vec::new(), Vec::new());
    for object in resources(&revision, &stored)? {
        if let Some(found) = place(client, &object, &release.namespace, kinds).await? {
            places.push(found);
            objects.push(object);
        }
    }
    let seen = live::look(client, &places).await?;
    let taken = places.into_iter().zip(objects).zip(seen).filter_map(|((place, object), seen)| {
        let is_taken = !ownership::taken(&object, &seen?.metadata).is_empty();
        is_taken.then_some(place)
    });
    Ok(taken.collect())
}
