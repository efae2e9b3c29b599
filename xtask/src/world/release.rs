//! A Helm release of a layer, in Helmfile's terms.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// A release in the output of `helmfile list --output json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Release {
    pub name: String,
    pub namespace: String,
    /// Its `condition:` is true; Helmfile ignores releases whose condition is false.
    pub enabled: bool,
    /// It has to exist when the layer is in place.
    pub installed: bool,
}

/// Namespace and name of the release that an object belongs to according to Helm's annotations; the
/// namespace defaults to the object's own.
pub fn annotated(metadata: &ObjectMeta) -> Option<(String, String)> {
    let annotations = metadata.annotations.as_ref()?;
    let name = annotations.get("meta.helm.sh/release-name")?;
    let namespace = annotations.get("meta.helm.sh/release-namespace").or(metadata.namespace.as_ref())?;
    Some((namespace.clone(), name.clone()))
}
