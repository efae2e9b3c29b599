//! The location of an object in the API's paths, for any kind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::kinds::{self, Kinds};
use super::read_failed;
use run_record::Failure;

/// The location of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place {
    pub api_version: String,
    pub kind: String,
    /// The kind's name in the API's paths.
    pub plural: String,
    /// `None` for a cluster-scoped object.
    pub namespace: Option<String>,
    pub name: String,
}

impl Place {
    /// The location of a manifest's object, existing or not, with `namespace` being its release's;
    /// `None` if the API server does not have its kind.
    ///
    /// # Errors
    /// Errors from requesting the kinds.
    pub async fn of(
        client: &Client,
        object: &Value,
        namespace: &str,
        known: &mut Kinds,
    ) -> Result<Option<Self>, Failure> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("/apiVersion"), text("/kind"));
        let Some((plural, namespaced)) = kinds::find(client, version, kind, known).await? else { return Ok(None) };
        let own = text("/metadata/namespace");
        let own = if own.is_empty() { namespace } else { own };
        Ok(Some(Self {
            api_version: version.to_owned(),
            kind: kind.to_owned(),
            plural,
            namespace: namespaced.then(|| own.to_owned()),
            name: text("/metadata/name").to_owned(),
        }))
    }

    /// The API group, empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Whether its group is not one of Kubernetes' own, whose names have no dot or end in `k8s.io`.
    pub fn is_custom(&self) -> bool {
        let group = self.group();
        group.contains('.') && group != "k8s.io" && !group.ends_with(".k8s.io")
    }

    fn resource(&self) -> ApiResource {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            plural: self.plural.clone(),
        }
    }

    /// The metadata of the object; `None` if there is none.
    ///
    /// # Errors
    /// Errors from reading.
    pub async fn metadata(&self, client: &Client) -> Result<Option<ObjectMeta>, Failure> {
        let found = self.api(client).get_metadata_opt(&self.name).await;
        Ok(found.map_err(|error| read_failed(&self.to_string(), error))?.map(|found| found.metadata))
    }

    pub fn api(&self, client: &Client) -> Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource()),
            None => Api::all_with(client.clone(), &self.resource()),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}
