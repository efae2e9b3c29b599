//! A Helm release of a layer, as Helmfile names it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// A release as `helmfile list --output json` names it.
#[derive(Clone, Debug, Deserialize)]
pub struct Release {
    pub name: String,
    pub namespace: String,
    /// Its `condition:` holds; Helmfile does nothing about one whose does not.
    pub enabled: bool,
    /// To be there when the layer is in place.
    pub installed: bool,
}

/// Namespace and name of the release that an object says it is of, as Helm annotates what it
/// makes; without the namespace, in the object's own.
pub fn annotated(metadata: &ObjectMeta) -> Option<(String, String)> {
    let annotations = metadata.annotations.as_ref()?;
    let name = annotations.get("meta.helm.sh/release-name")?;
    let namespace = annotations.get("meta.helm.sh/release-namespace").or(metadata.namespace.as_ref())?;
    Some((namespace.clone(), name.clone()))
}
