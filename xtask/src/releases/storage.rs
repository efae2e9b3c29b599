//! Helm's storage: a Secret `sh.helm.release.v1.NAME.vREVISION` for each revision
//! (`pkg/storage/driver/secrets.go`), with the labels `owner`, `name`, `status`,
//! `version`, and the release itself as base64 of gzip of JSON.
//!
//! The status is there twice, and the two can differ: an interrupted Helm marks its
//! revision failed while a hook of the same revision is being recorded, and that
//! record can end with the label `failed` beside a release that says
//! `pending-upgrade` (`action/upgrade.go` and `action/hooks.go` share the release
//! without a lock). Helm refuses the next upgrade by what the release says, and finds
//! the last deployed revision by the label; so does this module.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ListParams};
use serde::de::{DeserializeOwned, IntoDeserializer, value};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};
use crate::kubernetes::read_failed;
use crate::layer::Release;

/// Helm's `release.Status`, `pkg/release/common/status.go`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Deployed,
    Failed,
    Superseded,
    Uninstalled,
    Uninstalling,
    PendingInstall,
    PendingUpgrade,
    PendingRollback,
    #[default]
    #[serde(other)]
    Unknown,
}

impl Status {
    fn parse(text: &str) -> Self {
        let text: value::StrDeserializer<'_, value::Error> = text.into_deserializer();
        Self::deserialize(text).unwrap_or_default()
    }

    /// As Helm writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployed => "deployed",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
            Self::Uninstalled => "uninstalled",
            Self::Uninstalling => "uninstalling",
            Self::PendingInstall => "pending-install",
            Self::PendingUpgrade => "pending-upgrade",
            Self::PendingRollback => "pending-rollback",
            Self::Unknown => "unknown",
        }
    }

    pub fn is_pending(self) -> bool {
        matches!(self, Self::PendingInstall | Self::PendingUpgrade | Self::PendingRollback)
    }
}

/// One revision of a release, as its Secret's metadata tells.
#[derive(Clone, Debug, Serialize)]
pub struct Revision {
    pub release: String,
    pub namespace: String,
    pub revision: u32,
    pub status: Status,
    /// The run that started it, where it was stamped.
    pub run: Option<String>,
    pub created: Option<Timestamp>,
    #[serde(skip)]
    pub secret: String,
    #[serde(skip)]
    pub resource_version: Option<String>,
}

const STAMP_LABEL: &str = "run";

impl Revision {
    fn of(metadata: &ObjectMeta) -> Option<Self> {
        let labels = metadata.labels.as_ref()?;
        Some(Self {
            release: labels.get("name")?.clone(),
            namespace: metadata.namespace.clone()?,
            revision: labels.get("version")?.parse().ok()?,
            status: Status::parse(labels.get("status")?),
            run: labels.get(STAMP_LABEL).cloned(),
            created: metadata.creation_timestamp.as_ref().and_then(|time| time.0.to_string().parse().ok()),
            secret: metadata.name.clone()?,
            resource_version: metadata.resource_version.clone(),
        })
    }
}

/// What is asked of a stored release (`pkg/release/v1/release.go`).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Stored {
    pub info: Info,
    #[serde(default)]
    pub manifest: String,
    #[serde(default)]
    pub hooks: Vec<Hook>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Info {
    pub status: Status,
    /// Helm's own words, "Upgrade complete", or those of a repair.
    #[serde(default)]
    pub description: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Hook {
    pub name: String,
    #[serde(default)]
    pub events: Vec<String>,
    #[serde(default)]
    pub last_run: HookExecution,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct HookExecution {
    /// `Succeeded`, `Failed`, `Running`, `Unknown`; empty when it never ran for this revision.
    #[serde(default)]
    pub phase: String,
    pub completed_at: Option<String>,
}

/// How many stored releases are read at a time.
const READS: usize = 8;

/// The highest revision of each release, or of each of these, with its status as the
/// stored release has it. One that cannot be read as a release, which Helm passes
/// over, is judged by its label.
pub async fn newest(client: &Client, of: Option<&[Release]>) -> Result<Vec<(Revision, Stored)>, Failure> {
    let mut labels = "owner=helm".to_owned();
    if let Some(wanted) = of {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = wanted.iter().map(|release| release.name.as_str()).collect();
        labels = format!("{labels},name in ({})", names.join(","));
    }
    let mut newest: BTreeMap<(String, String), Revision> = BTreeMap::new();
    for revision in list(Api::all(client.clone()), &labels, "Helm's release Secrets").await? {
        let is = |release: &Release| release.name == revision.release && release.namespace == revision.namespace;
        let key = (revision.namespace.clone(), revision.release.clone());
        if of.is_none_or(|wanted| wanted.iter().any(is))
            && newest.get(&key).is_none_or(|known| known.revision < revision.revision)
        {
            newest.insert(key, revision);
        }
    }
    let reads = newest.into_values().map(|revision| async move { current(client, &revision).await });
    futures_util::stream::iter(reads).buffered(READS).try_filter_map(async |found| Ok(found)).try_collect().await
}

/// A revision as it is now; none where it is gone.
pub async fn current(client: &Client, revision: &Revision) -> Result<Option<(Revision, Stored)>, Failure> {
    let secret = Api::<Secret>::namespaced(client.clone(), &revision.namespace).get_opt(&revision.secret).await;
    let secret = secret.map_err(|error| read_failed(&format!("the Secret {}", revision.secret), error))?;
    Ok(secret.and_then(|secret| {
        let labelled = Revision::of(&secret.metadata)?;
        Some(match decode::<Stored>(payload(&secret)) {
            Ok(stored) => (Revision { status: stored.info.status, ..labelled }, stored),
            Err(_) => (labelled, Stored::default()),
        })
    }))
}

/// Every revision of a release, by its label.
pub async fn history(client: &Client, namespace: &str, release: &str) -> Result<Vec<Revision>, Failure> {
    let (labels, what) = (format!("owner=helm,name={release}"), format!("the revisions of release {release}"));
    list(Api::namespaced(client.clone(), namespace), &labels, &what).await
}

async fn list(secrets: Api<Secret>, labels: &str, what: &str) -> Result<Vec<Revision>, Failure> {
    let listed = secrets.list_metadata(&ListParams::default().labels(labels)).await;
    let listed = listed.map_err(|error| read_failed(what, error))?;
    Ok(listed.items.iter().filter_map(|secret| Revision::of(&secret.metadata)).collect())
}

/// The Secret of a revision.
pub async fn secret(client: &Client, revision: &Revision) -> Result<Secret, Failure> {
    let secret = Api::<Secret>::namespaced(client.clone(), &revision.namespace).get(&revision.secret).await;
    secret.map_err(|error| read_failed(&format!("the Secret {}", revision.secret), error))
}

/// The stored release of a revision.
///
/// # Errors
/// `release-pending` where the Secret holds none.
pub async fn stored(client: &Client, revision: &Revision) -> Result<Stored, Failure> {
    let secret = secret(client, revision).await?;
    decode(payload(&secret)).map_err(|error| unreadable(revision, error))
}

pub fn unreadable(revision: &Revision, error: String) -> Failure {
    let message = format!("the Secret {} cannot be read as a Helm release", revision.secret);
    Failure::new("release-pending", Exit::Release, message).evidence(error)
}

fn payload(secret: &Secret) -> &[u8] {
    secret.data.as_ref().and_then(|data| data.get("release")).map_or(&[], |release| &release.0)
}

/// Puts the status into both places of a Secret, and leaves the rest as it is.
pub fn set_status(secret: &mut Secret, status: Status, description: &str) -> Result<(), String> {
    let changed = with_status(payload(secret), status, description)?;
    let data = secret.data.as_mut().and_then(|data| data.get_mut("release"));
    data.ok_or("it has no key `release`")?.0 = changed;
    let labels = secret.metadata.labels.get_or_insert_default();
    labels.insert("status".to_owned(), status.as_str().to_owned());
    Ok(())
}

fn with_status(payload: &[u8], status: Status, description: &str) -> Result<Vec<u8>, String> {
    let mut release: serde_json::Value = decode(payload)?;
    let info = release.get_mut("info").and_then(serde_json::Value::as_object_mut).ok_or("it has no info")?;
    info.insert("status".to_owned(), status.as_str().into());
    info.insert("description".to_owned(), description.into());
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(release.to_string().as_bytes()).map_err(|error| error.to_string())?;
    let zipped = encoder.finish().map_err(|error| error.to_string())?;
    Ok(STANDARD.encode(zipped).into_bytes())
}

/// `pkg/storage/driver/util.go`.
fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    let zipped = STANDARD.decode(payload).map_err(|error| error.to_string())?;
    let mut json = String::new();
    GzDecoder::new(zipped.as_slice()).read_to_string(&mut json).map_err(|error| error.to_string())?;
    serde_json::from_str(&json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(release: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(release.as_bytes()).unwrap();
        STANDARD.encode(encoder.finish().unwrap()).into_bytes()
    }

    #[test]
    fn every_status_is_read_as_it_is_written() {
        for status in [
            Status::Deployed,
            Status::Failed,
            Status::Superseded,
            Status::Uninstalled,
            Status::Uninstalling,
            Status::PendingInstall,
            Status::PendingUpgrade,
            Status::PendingRollback,
            Status::Unknown,
        ] {
            assert_eq!(Status::parse(status.as_str()), status);
        }
        assert_eq!(Status::parse("of a later Helm"), Status::Unknown);
    }

    #[test]
    fn a_status_changes_in_both_places_and_nothing_else_does() {
        let release =
            r#"{"name":"minio","info":{"status":"pending-install","description":"x"},"manifest":"a: b\n","version":1}"#;
        let mut secret: Secret = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "sh.helm.release.v1.minio.v1", "labels": {"owner": "helm", "status": "pending-install"}},
            "data": {"release": STANDARD.encode(encode(release))},
        }))
        .unwrap();
        set_status(&mut secret, Status::Failed, "Interrupted").unwrap();
        let labels = secret.metadata.labels.as_ref().unwrap();
        assert_eq!((labels["owner"].as_str(), labels["status"].as_str()), ("helm", "failed"));
        let changed: serde_json::Value = decode(payload(&secret)).unwrap();
        let expected = r#"{"name":"minio","info":{"status":"failed","description":"Interrupted"},"manifest":"a: b\n","version":1}"#;
        assert_eq!(changed, serde_json::from_str::<serde_json::Value>(expected).unwrap());
    }

    #[test]
    fn a_payload_that_is_not_helms_is_refused() {
        for payload in [b"not base64!".to_vec(), STANDARD.encode("not gzip").into_bytes(), encode("[]"), Vec::new()] {
            assert!(with_status(&payload, Status::Failed, "").is_err());
            assert!(decode::<Stored>(&payload).is_err());
        }
    }

    #[test]
    fn the_last_run_of_a_hook_is_read_from_helms_own_record() {
        // As Helm 4.3.1 stored it for the release minio.
        let stored: Stored = decode(&encode(r#"{"name":"minio","info":{"status":"deployed"},"hooks":[{"name":"minio-test","kind":"Pod","events":["test"],"last_run":{"started_at":"2026-11-24T03:40:05Z","completed_at":"2026-11-24T03:40:08Z","phase":"Succeeded"}},{"name":"minio-buckets","kind":"Job","events":["post-install"],"last_run":{"phase":""}}]}"#)).unwrap();
        assert_eq!(stored.hooks[0].last_run.phase, "Succeeded");
        assert_eq!((stored.hooks[1].events[0].as_str(), stored.hooks[1].last_run.phase.as_str()), ("post-install", ""));
    }
}
