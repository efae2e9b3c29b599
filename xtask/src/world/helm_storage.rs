//! Helm's storage: a Secret `sh.helm.release.v1.NAME.vREVISION` for each revision
//! (`pkg/storage/driver/secrets.go`), with the labels `owner`, `name`, `status`, `version`, and the
//! release itself as base64 of gzip of JSON.
//!
//! The status is stored twice, and the two can differ: an interrupted Helm marks its revision
//! failed while a hook of the same revision is being recorded, and the result can be the label
//! `failed` on a release that says `pending-upgrade` (`action/upgrade.go` and `action/hooks.go`
//! share the release without a lock). Helm refuses the next upgrade by what the release says, and
//! finds the last deployed revision by the label; so does this module. `failed` is the only label
//! that can be wrong in this way (`newSecretsObject` writes the release first and then the label,
//! and only a failure is written concurrently with a hook), so only releases with this label, and
//! those that are named explicitly, are decoded at all.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ListParams};
use serde::de::{DeserializeOwned, IntoDeserializer, value};
use serde::{Deserialize, Serialize};

use crate::world::kubernetes::{kubectl, read_failed};
use crate::world::release::Release;
use run_record::{Code, Failure};

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
    /// Helm's own value: nobody works on such a revision, and Helm does not continue from it.
    #[default]
    Unknown,
    /// A value of a later Helm, which may mean anything.
    #[serde(other)]
    Other,
}

impl Status {
    fn parse(text: &str) -> Self {
        let text: value::StrDeserializer<'_, value::Error> = text.into_deserializer();
        Self::deserialize(text).unwrap_or(Self::Other)
    }

    /// The name that Helm writes.
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
            Self::Other => "of a later Helm",
        }
    }

    pub fn is_pending(self) -> bool {
        matches!(self, Self::PendingInstall | Self::PendingUpgrade | Self::PendingRollback)
    }
}

/// One revision of a release, from its Secret's metadata.
#[derive(Clone, Debug, Serialize)]
pub struct Revision {
    pub release: String,
    pub namespace: String,
    pub revision: u32,
    pub status: Status,
    /// The run that started it, if stamped.
    pub run: Option<String>,
    /// Who ran it, if stamped.
    #[serde(skip)]
    pub by: Option<String>,
    pub created: Option<Timestamp>,
    /// When anybody last wrote it, by the API server's clock; Helm writes at each hook.
    #[serde(skip)]
    pub written: Option<Timestamp>,
    /// The layer that deployed it, if stamped.
    #[serde(skip)]
    pub layer: Option<String>,
    #[serde(skip)]
    pub secret: String,
    /// The uid of that Secret.
    #[serde(skip)]
    pub uid: Option<String>,
    #[serde(skip)]
    pub resource_version: Option<String>,
}

const STAMP_LABEL: &str = "run";
const BY_LABEL: &str = "by";

/// The annotation that a layer's run puts on a revision that it found intact. Helm replaces the
/// whole Secret each time it writes, which removes it.
pub(crate) const RECORD: &str = "ameide/record";

impl Revision {
    /// `None` if it is not a revision: anybody can set labels, but the name is Helm's.
    fn of(metadata: &ObjectMeta) -> Option<Self> {
        let labels = metadata.labels.as_ref()?;
        let (release, version) = (labels.get("name")?, labels.get("version")?);
        let revision: u32 = version.parse().ok()?;
        let secret = metadata.name.clone().filter(|name| *name == key(release, revision))?;
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
        let writes =
            metadata.managed_fields.iter().flatten().filter_map(|entry| entry.time.as_ref().map(|time| time.0));
        Some(Self {
            release: release.clone(),
            namespace: metadata.namespace.clone()?,
            revision,
            status: Status::parse(labels.get("status")?),
            run: labels.get(STAMP_LABEL).cloned(),
            by: labels.get(BY_LABEL).cloned(),
            created,
            written: writes.chain(created).max(),
            layer: labels.get("layer").cloned(),
            secret,
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
        })
    }

    /// Its release, to look for others of it.
    pub(crate) fn to_release(&self) -> Release {
        let (name, namespace) = (self.release.clone(), self.namespace.clone());
        Release { name, namespace, enabled: true, installed: true }
    }
}

#[cfg(test)]
impl Revision {
    pub fn named(namespace: &str, release: &str, revision: u32) -> Self {
        Self {
            release: release.to_owned(),
            namespace: namespace.to_owned(),
            revision,
            status: Status::Deployed,
            run: None,
            by: None,
            created: None,
            written: None,
            layer: None,
            secret: key(release, revision),
            uid: None,
            resource_version: None,
        }
    }
}

/// `makeKey` of `pkg/storage/storage.go`.
fn key(release: &str, revision: u32) -> String {
    format!("sh.helm.release.v1.{release}.v{revision}")
}

/// The fields needed of a stored release (`pkg/release/v1/release.go`).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Stored {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub version: u32,
    pub info: Info,
    #[serde(default)]
    pub manifest: String,
    #[serde(default)]
    pub hooks: Vec<Hook>,
    /// `ssa`, or what Helm did before it supported server-side apply.
    #[serde(default)]
    pub apply_method: String,
    /// Why the Secret could not be decoded as a release.
    #[serde(skip)]
    pub unreadable: Option<String>,
}

impl Stored {
    /// Whether Helm used server-side apply for it, and so will for the next revision
    /// (`--server-side=auto`).
    pub fn is_applied_by_the_server(&self) -> bool {
        self.apply_method == "ssa"
    }

    /// Whether it is this revision, and not the content of another one under its name.
    pub fn is(&self, revision: &Revision) -> bool {
        self.name == revision.release && self.namespace == revision.namespace && self.version == revision.revision
    }

    /// Drops the large fields, so that many can be kept.
    fn slim(mut self) -> Self {
        self.manifest = String::new();
        self.hooks.iter_mut().for_each(|hook| hook.manifest = String::new());
        self
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Info {
    pub status: Status,
    /// Helm's own description, "Upgrade complete", or that of a repair.
    #[serde(default)]
    pub description: String,
    /// The target revision if it is a rollback, even a failed one; otherwise 0.
    #[serde(default)]
    pub rollback_revision: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Hook {
    pub name: String,
    #[serde(default)]
    pub manifest: String,
    #[serde(default)]
    pub events: Vec<String>,
    #[serde(default)]
    pub last_run: HookExecution,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct HookExecution {
    /// `Succeeded`, `Failed`, `Running`, `Unknown`; empty if it never ran for this revision.
    #[serde(default)]
    pub phase: String,
    pub completed_at: Option<String>,
}

/// How many Secrets are fetched concurrently; each is at most 1 MiB.
const READS: usize = 4;

/// Only this module knows where Helm stores its releases: with another driver Helm would see none
/// of them, and install them a second time.
///
/// # Errors
/// `usage` if `HELM_DRIVER` names a storage other than Secrets.
pub fn check_driver() -> Result<(), Failure> {
    let driver = std::env::var("HELM_DRIVER").unwrap_or_default();
    if is_read_here(&driver) {
        return Ok(());
    }
    let message = format!("HELM_DRIVER={driver}: Helm would keep its releases where this tool does not look");
    Err(Failure::usage(message).remedy("unset HELM_DRIVER (releases are kept in Secrets, Helm's default)"))
}

/// As Helm reads the variable (`action.Configuration.Init`).
fn is_read_here(driver: &str) -> bool {
    matches!(driver, "" | "secret" | "secrets")
}

/// The highest revision of each release, or of each of these.
///
/// Releases that are named are decoded, and have the status of the stored release; for all others
/// only the metadata is read, except for those labelled `failed`. One that cannot be decoded, which
/// Helm skips, is judged by its label and says why. Manifests are left out.
pub async fn newest(client: &Client, of: Option<&[Release]>) -> Result<Vec<(Revision, Stored)>, Failure> {
    opened(client, highest(revisions(client, of, "owner=helm").await?), of.is_some()).await
}

/// The highest revision of each of these releases, like [`newest`], with its manifest.
pub async fn newest_whole(client: &Client, of: &[Release]) -> Result<Vec<(Revision, Stored)>, Failure> {
    whole(client, highest(revisions(client, Some(of), "owner=helm").await?)).await
}

/// The current state of each of these revisions, with its manifest; one that is gone is left out.
///
/// # Errors
/// Errors from reading.
pub(crate) async fn whole(client: &Client, revisions: Vec<Revision>) -> Result<Vec<(Revision, Stored)>, Failure> {
    let reads = revisions.into_iter().map(|revision| async move { current(client, &revision).await });
    futures_util::stream::iter(reads).buffered(READS).try_filter_map(async |found| Ok(found)).try_collect().await
}

/// The highest revision of each release in these namespaces, read like [`newest`] reads all.
pub async fn newest_within(client: &Client, namespaces: &BTreeSet<String>) -> Result<Vec<(Revision, Stored)>, Failure> {
    let lists = namespaces.iter().map(async |namespace| {
        let what = format!("Helm's release Secrets in {namespace}");
        list(Api::namespaced(client.clone(), namespace), "owner=helm", &what).await
    });
    let found = futures_util::future::try_join_all(lists).await?.into_iter().flatten().collect();
    opened(client, highest(found), false).await
}

async fn opened(client: &Client, newest: Vec<Revision>, all: bool) -> Result<Vec<(Revision, Stored)>, Failure> {
    let reads = newest.into_iter().map(|revision| async move {
        if !all && revision.status != Status::Failed {
            let info = Info { status: revision.status, ..Info::default() };
            return Ok(Some((revision, Stored { info, ..Stored::default() })));
        }
        let found = current(client, &revision).await?;
        Ok(found.map(|(revision, stored)| (revision, stored.slim())))
    });
    futures_util::stream::iter(reads).buffered(READS).try_filter_map(async |found| Ok(found)).try_collect().await
}

/// The highest revision of each release, by its label.
pub(crate) fn highest(revisions: Vec<Revision>) -> Vec<Revision> {
    let mut newest: BTreeMap<(String, String), Revision> = BTreeMap::new();
    for revision in revisions {
        let key = (revision.namespace.clone(), revision.release.clone());
        if newest.get(&key).is_none_or(|known| known.revision < revision.revision) {
            newest.insert(key, revision);
        }
    }
    newest.into_values().collect()
}

/// Each release's highest revision, by namespace and name.
pub type Heads = BTreeMap<(String, String), Revision>;

/// The highest revisions of these releases, whatever their state.
///
/// # Errors
/// Errors from reading.
pub async fn heads(client: &Client, of: &[Release]) -> Result<Heads, Failure> {
    let found = highest(revisions(client, Some(of), "owner=helm").await?);
    Ok(found.into_iter().map(|found| ((found.namespace.clone(), found.release.clone()), found)).collect())
}

/// All revisions with these labels, or those of these releases, searched only in their namespaces.
async fn revisions(client: &Client, of: Option<&[Release]>, labels: &str) -> Result<Vec<Revision>, Failure> {
    let Some(wanted) = of else {
        return list(Api::all(client.clone()), labels, "Helm's release Secrets").await;
    };
    let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for release in wanted {
        names.entry(&release.namespace).or_default().insert(&release.name);
    }
    let lists = names.iter().map(async |(namespace, names)| {
        let labels = format!("{labels},name in ({})", names.iter().copied().collect::<Vec<_>>().join(","));
        let what = format!("Helm's release Secrets in {namespace}");
        list(Api::namespaced(client.clone(), namespace), &labels, &what).await
    });
    Ok(futures_util::future::try_join_all(lists).await?.into_iter().flatten().collect())
}

/// The releases that have no deployed revision: one that Helm finds by its label, and that is a
/// stored release of exactly that name, namespace and revision.
pub async fn not_deployed<'a>(client: &Client, wanted: &'a [Release]) -> Result<Vec<&'a Release>, Failure> {
    let labelled = revisions(client, Some(wanted), "owner=helm,status=deployed").await?;
    let checks = wanted.iter().map(async |release| {
        let of_it = |found: &&Revision| found.release == release.name && found.namespace == release.namespace;
        for revision in labelled.iter().filter(of_it) {
            let found = current(client, revision).await?;
            if found.is_some_and(|(now, stored)| now.status == Status::Deployed && stored.is(revision)) {
                return Ok(None);
            }
        }
        Ok(Some(release))
    });
    Ok(futures_util::future::try_join_all(checks).await?.into_iter().flatten().collect())
}

/// The current state of a revision; `None` if it is gone.
pub async fn current(client: &Client, revision: &Revision) -> Result<Option<(Revision, Stored)>, Failure> {
    let secret = Api::<Secret>::namespaced(client.clone(), &revision.namespace).get_opt(&revision.secret).await;
    let secret = secret.map_err(|error| read_failed(&format!("the Secret {}", revision.secret), error))?;
    Ok(secret.and_then(|secret| {
        let labelled = Revision::of(&secret.metadata)?;
        Some(match decode::<Stored>(payload(&secret)) {
            Ok(stored) => (Revision { status: stored.info.status, ..labelled }, stored),
            Err(error) => {
                let info = Info { status: labelled.status, ..Info::default() };
                (labelled, Stored { info, unreadable: Some(error), ..Stored::default() })
            }
        })
    }))
}

/// The revision that Helm's next upgrade of a release starts from (`prepareUpgrade` of
/// `pkg/action/upgrade.go`): the deployed one, else the newest; `None` if there is none, or it was
/// uninstalled.
///
/// # Errors
/// Errors from reading.
pub(crate) async fn upgraded_from(client: &Client, of: &Release) -> Result<Option<(Revision, Stored)>, Failure> {
    let mut revisions = history(client, &of.namespace, &of.name).await?;
    revisions.sort_by_key(|revision| revision.revision);
    let Some(newest) = revisions.last().filter(|newest| newest.status != Status::Uninstalled) else { return Ok(None) };
    let deployed = revisions.iter().rev().find(|revision| revision.status == Status::Deployed);
    current(client, deployed.unwrap_or(newest)).await
}

/// What a stored revision says about itself, without its objects.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Told {
    #[serde(default)]
    pub info: Info,
    #[serde(default)]
    pub chart: Chart,
}

/// The chart that a revision was rendered from.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Chart {
    #[serde(default)]
    pub metadata: ChartMetadata,
}

/// From its `Chart.yaml`; empty if that does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChartMetadata {
    pub name: String,
    pub version: String,
    pub app_version: String,
}

/// What each of these revisions says, in order; each may instead be the reason why its Secret
/// cannot be decoded as a release. One that is gone is left out.
///
/// # Errors
/// Errors from reading.
pub async fn told(client: &Client, revisions: Vec<Revision>) -> Result<Vec<(Revision, Result<Told, String>)>, Failure> {
    let reads = revisions.into_iter().map(|revision| async move {
        let secret = Api::<Secret>::namespaced(client.clone(), &revision.namespace).get_opt(&revision.secret).await;
        let secret = secret.map_err(|error| read_failed(&format!("the Secret {}", revision.secret), error))?;
        Ok(secret.map(|secret| (revision, decode::<Told>(payload(&secret)))))
    });
    futures_util::stream::iter(reads).buffered(READS).try_filter_map(async |found| Ok(found)).try_collect().await
}

/// Every revision of a release, by its label.
pub async fn history(client: &Client, namespace: &str, release: &str) -> Result<Vec<Revision>, Failure> {
    let (labels, what) = (format!("owner=helm,name={release}"), format!("the revisions of release {release}"));
    list(Api::namespaced(client.clone(), namespace), &labels, &what).await
}

async fn list(secrets: Api<Secret>, labels: &str, what: &str) -> Result<Vec<Revision>, Failure> {
    Ok(with_metadata(secrets, labels, what).await?.into_iter().map(|(revision, _)| revision).collect())
}

/// The revisions with these labels, in this namespace or in all, each with its Secret's metadata.
///
/// # Errors
/// Errors from reading; `usage` if Helm stores its releases elsewhere.
pub(crate) async fn metadata(
    client: &Client,
    namespace: Option<&str>,
    labels: &str,
) -> Result<Vec<(Revision, ObjectMeta)>, Failure> {
    let (api, what) = match namespace {
        Some(namespace) => {
            (Api::namespaced(client.clone(), namespace), format!("Helm's release Secrets in {namespace}"))
        }
        None => (Api::all(client.clone()), "Helm's release Secrets".to_owned()),
    };
    with_metadata(api, labels, &what).await
}

async fn with_metadata(secrets: Api<Secret>, labels: &str, what: &str) -> Result<Vec<(Revision, ObjectMeta)>, Failure> {
    check_driver()?;
    let listed = secrets.list_metadata(&ListParams::default().labels(labels)).await;
    let listed = listed.map_err(|error| read_failed(what, error))?;
    let of = |metadata: ObjectMeta| Revision::of(&metadata).map(|revision| (revision, metadata));
    Ok(listed.items.into_iter().filter_map(|secret| of(secret.metadata)).collect())
}

/// The Secret of a revision.
pub async fn secret(client: &Client, revision: &Revision) -> Result<Secret, Failure> {
    let secret = Api::<Secret>::namespaced(client.clone(), &revision.namespace).get(&revision.secret).await;
    secret.map_err(|error| read_failed(&format!("the Secret {}", revision.secret), error))
}

/// The stored release of a revision.
///
/// # Errors
/// `release-pending` if the Secret holds none.
pub async fn stored(client: &Client, revision: &Revision) -> Result<Stored, Failure> {
    let secret = secret(client, revision).await?;
    decode(payload(&secret)).map_err(|error| unreadable(revision, error))
}

pub fn unreadable(revision: &Revision, error: String) -> Failure {
    let message = format!("the Secret {} cannot be read as a Helm release", revision.secret);
    Failure::new(Code::ReleasePending, message).evidence(error).remedy(format!(
        "Helm skips it, and fails at that revision's name: keep a copy, then {} -n {} delete secret {}",
        kubectl(),
        revision.namespace,
        revision.secret
    ))
}

fn payload(secret: &Secret) -> &[u8] {
    secret.data.as_ref().and_then(|data| data.get("release")).map_or(&[], |release| &release.0)
}

/// Sets the status in both places of a Secret, removes the record for the old status, and leaves
/// the rest unchanged.
pub fn set_status(secret: &mut Secret, status: Status, description: &str) -> Result<(), String> {
    if let Some(annotations) = &mut secret.metadata.annotations {
        annotations.remove(RECORD);
    }
    let changed = with_status(payload(secret), status, description)?;
    let data = secret.data.as_mut().and_then(|data| data.get_mut("release"));
    data.ok_or("it has no key `release`")?.0 = changed;
    let labels = secret.metadata.labels.get_or_insert_default();
    labels.insert("status".to_owned(), status.as_str().to_owned());
    Ok(())
}

pub(crate) fn with_status(payload: &[u8], status: Status, description: &str) -> Result<Vec<u8>, String> {
    rewritten(payload, |release| {
        let info = release.get_mut("info").and_then(serde_json::Value::as_object_mut).ok_or("it has no info")?;
        info.insert("status".to_owned(), status.as_str().into());
        info.insert("description".to_owned(), description.into());
        Ok(())
    })
}

/// Replaces the manifest in a Secret, removes the record for the old one, and leaves the rest
/// unchanged.
pub fn set_manifest(secret: &mut Secret, manifest: &str) -> Result<(), String> {
    if let Some(annotations) = &mut secret.metadata.annotations {
        annotations.remove(RECORD);
    }
    let changed = rewritten(payload(secret), |release| {
        let release = release.as_object_mut().ok_or("it is not a release")?;
        release.insert("manifest".to_owned(), manifest.into());
        Ok(())
    })?;
    let data = secret.data.as_mut().and_then(|data| data.get_mut("release"));
    data.ok_or("it has no key `release`")?.0 = changed;
    Ok(())
}

fn rewritten(
    payload: &[u8],
    change: impl FnOnce(&mut serde_json::Value) -> Result<(), &'static str>,
) -> Result<Vec<u8>, String> {
    let mut release: serde_json::Value = decode(payload)?;
    change(&mut release)?;
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(release.to_string().as_bytes()).map_err(|error| error.to_string())?;
    let zipped = encoder.finish().map_err(|error| error.to_string())?;
    Ok(STANDARD.encode(zipped).into_bytes())
}

/// The maximum decompressed size of a stored release. The API server accepts at most 1 MiB of data
/// in a Secret (`MaxSecretSize`), hence 768 KiB of gzip. Charts and manifests compress to a tenth
/// or twentieth, which is some 15 MiB; gzip itself could expand a thousandfold.
const INFLATED: u64 = 64 << 20;

const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];

/// `pkg/storage/driver/util.go`.
pub(crate) fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    let lines: Vec<u8> = payload.iter().copied().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect();
    let zipped = STANDARD.decode(lines).map_err(|error| error.to_string())?;
    let json = if zipped.starts_with(&GZIP) { inflate(&zipped)? } else { zipped };
    serde_json::from_slice(&json).map_err(|error| {
        // Its text may contain secret values.
        format!("not a Helm release: line {}, column {} of its JSON", error.line(), error.column())
    })
}

fn inflate(zipped: &[u8]) -> Result<Vec<u8>, String> {
    let too_large = || format!("it inflates to more than {} MiB, which no Helm release does", INFLATED >> 20);
    // The last four bytes give the size: only used to reject, never trusted to accept.
    let says = zipped.last_chunk::<4>().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)));
    if says > INFLATED {
        return Err(too_large());
    }
    let mut json = Vec::with_capacity(usize::try_from(says).unwrap_or_default() + 1);
    let read = MultiGzDecoder::new(zipped).take(INFLATED + 1).read_to_end(&mut json);
    read.map_err(|error| error.to_string())?;
    if json.len() as u64 > INFLATED { Err(too_large()) } else { Ok(json) }
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
        assert_eq!(Status::parse("pending-approval"), Status::Other);
        assert_eq!(Status::parse("unknown"), Status::Unknown);
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
    fn a_manifest_changes_and_nothing_else_does_but_the_record_of_it() {
        let release =
            r#"{"name":"minio","info":{"status":"deployed"},"manifest":"a: b\n","hooks":[{"name":"h"}],"version":1}"#;
        let mut secret: Secret = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "sh.helm.release.v1.minio.v1", "annotations": {RECORD: "x", "other": "y"},
                "labels": {"owner": "helm", "status": "deployed"}},
            "data": {"release": STANDARD.encode(encode(release))},
        }))
        .unwrap();
        set_manifest(&mut secret, "c: d\n").unwrap();
        assert_eq!(secret.metadata.annotations.as_ref().unwrap().keys().collect::<Vec<_>>(), ["other"]);
        assert_eq!(secret.metadata.labels.as_ref().unwrap()["status"], "deployed");
        let changed: serde_json::Value = decode(payload(&secret)).unwrap();
        let expected = release.replace("a: b", "c: d");
        assert_eq!(changed, serde_json::from_str::<serde_json::Value>(&expected).unwrap());
    }

    #[test]
    fn a_payload_that_is_not_helms_is_refused() {
        for payload in [b"not base64!".to_vec(), STANDARD.encode("not gzip").into_bytes(), encode("[]"), Vec::new()] {
            assert!(with_status(&payload, Status::Failed, "").is_err());
            assert!(decode::<Stored>(&payload).is_err());
        }
    }

    #[test]
    fn a_bomb_is_refused_and_a_large_release_is_read() {
        let release = |filler: usize| {
            format!(r#"{{"name":"x","info":{{"status":"deployed"}},"manifest":"{}"}}"#, "a".repeat(filler))
        };
        let large = decode::<Stored>(&encode(&release(20 << 20))).unwrap();
        assert_eq!((large.manifest.len(), large.slim().manifest.len()), (20 << 20, 0));
        let mut zipped = STANDARD.decode(encode(&release(70 << 20))).unwrap();
        let honest = decode::<Stored>(STANDARD.encode(&zipped).as_bytes()).unwrap_err();
        // One with a wrong size is detected while decompressing.
        let end = zipped.len();
        zipped[end - 4..].copy_from_slice(&7_u32.to_le_bytes());
        let lying = decode::<Stored>(STANDARD.encode(&zipped).as_bytes()).unwrap_err();
        assert!(honest.contains("64 MiB") && lying == honest, "{honest} {lying}");
    }

    #[test]
    fn what_is_wrong_with_a_payload_is_told_without_its_text() {
        let error = decode::<Stored>(&encode(r#"{"info":{"status":"deployed","description":hunter2}}"#)).unwrap_err();
        assert!(error.contains("column") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn only_what_has_helms_name_is_a_revision() {
        let metadata = |name: &str| -> ObjectMeta {
            serde_json::from_value(serde_json::json!({
                "name": name, "namespace": "ameide", "creationTimestamp": "2026-11-25T10:00:00Z",
                "labels": {"owner": "helm", "name": "redis", "version": "3", "status": "deployed", "layer": "40-data-plane"},
                "managedFields": [{"manager": "helm", "time": "2026-11-25T10:04:00Z"}, {"manager": "x"}],
            }))
            .unwrap()
        };
        let revision = Revision::of(&metadata("sh.helm.release.v1.redis.v3")).unwrap();
        assert_eq!(revision.written.unwrap().to_string(), "2026-11-25T10:04:00Z");
        for foreign in ["anything", "sh.helm.release.v1.redis.v4", "sh.helm.release.v1.minio.v3"] {
            assert!(Revision::of(&metadata(foreign)).is_none(), "{foreign}");
        }
    }

    #[test]
    fn only_secrets_are_read_here() {
        for (driver, here) in
            [("", true), ("secret", true), ("secrets", true), ("configmap", false), ("sql", false), ("memory", false)]
        {
            assert_eq!(is_read_here(driver), here, "{driver:?}");
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
