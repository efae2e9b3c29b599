//! A Helm release of a layer, as Helmfile names it.

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
