//! What a layer's run leaves for the next one: an annotation on the Secret of each deployed
//! revision, with digests of what was rendered, from what, and of what Helm made of it.
//!
//! Helm recreates that Secret's metadata from its name and labels whenever it writes it, so
//! anything that Helm does removes the record. A record is valid for one Secret, by its uid, and
//! for one cluster; one that was truncated, edited or copied is not valid. What it is compared with
//! is determined in `inputs` and `live`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::claims::Claims;
use super::inputs::Parts;
use super::live::Made;
use super::objects::Objects;
use crate::files::digest;
use crate::world::helm_storage::RECORD;
use crate::world::release::Release;

/// All annotations of an object together may have 256 KiB (`TotalAnnotationSizeLimitB`).
const MOST: usize = 200 << 10;

/// The record's format; another number is no record of this program.
const FORMAT: u32 = 4;

/// A release according to the layer's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub namespace: String,
    pub name: String,
    pub installed: bool,
}

impl Named {
    pub fn release(&self) -> Release {
        let (name, namespace) = (self.name.clone(), self.namespace.clone());
        Release { name, namespace, enabled: true, installed: self.installed }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    format: u32,
    /// The uid of the namespace kube-system, which identifies the cluster.
    pub cluster: String,
    pub layer: String,
    /// All releases of the layer, so that a missing one is noticed.
    pub releases: Vec<Named>,
    pub inputs: Parts,
    /// The digest of manifest and hooks.
    pub rendered: String,
    pub objects: Vec<Made>,
    /// What its hooks have left, except for what ran.
    pub hooks: Vec<Made>,
    /// The volume claims that its hooks may have written to; none if it has no hooks.
    pub claims: Claims,
    /// Those of namespaces in which no upgrade runs a hook.
    pub claims_of_install: Claims,
    /// Its tests have passed on this revision.
    pub tested: bool,
}

impl Record {
    pub fn new(cluster: &str, layer: &str, releases: Vec<Named>, inputs: Parts) -> Self {
        Self {
            format: FORMAT,
            cluster: cluster.to_owned(),
            layer: layer.to_owned(),
            releases,
            inputs,
            rendered: String::new(),
            objects: Vec::new(),
            hooks: Vec::new(),
            claims: Claims::new(),
            claims_of_install: Claims::new(),
            tested: false,
        }
    }

    /// The text for this Secret, with a checksum that is only valid for it.
    ///
    /// # Errors
    /// If it would be too large for an annotation.
    pub fn text(&self, uid: &str) -> Result<String, String> {
        let body = serde_json::to_string(self).map_err(|error| error.to_string())?;
        if body.len() > MOST {
            return Err(format!(
                "its record would take {} KiB, more than an annotation has room for",
                body.len() >> 10
            ));
        }
        Ok(format!("{}.{body}", sum(uid, &body)))
    }

    /// The record on a revision's Secret.
    ///
    /// # Errors
    /// Why there is no trustworthy one.
    pub fn on(secret: &ObjectMeta) -> Result<Self, String> {
        let Some(text) = secret.annotations.as_ref().and_then(|all| all.get(RECORD)) else {
            return Err("there is no record on this revision: xtask did not deploy it, or Helm has rewritten it since"
                .to_owned());
        };
        if !helms_own(secret) {
            return Err("somebody has changed the revision that Helm stored".to_owned());
        }
        let uid = secret.uid.as_deref().unwrap_or_default();
        let (sum_said, body) = text.split_once('.').ok_or("its record is cut off")?;
        if uid.is_empty() || sum_said != sum(uid, body) {
            return Err("its record was changed, or belongs to another revision".to_owned());
        }
        read(body)
    }
}

/// What was recorded, without its checksum.
pub(crate) fn read(body: &str) -> Result<Record, String> {
    let record: Record = serde_json::from_str(body).map_err(|_| "its record is of another version")?;
    if record.format == FORMAT { Ok(record) } else { Err("its record is of another version".to_owned()) }
}

fn sum(uid: &str, body: &str) -> String {
    digest::of_bytes(format!("{RECORD} {uid} {body}").as_bytes())
}

/// Whether only Helm has written the Secret's data: somebody who edits it owns part of it
/// afterwards.
fn helms_own(secret: &ObjectMeta) -> bool {
    let stores = |entry: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| {
        entry
            .fields_v1
            .as_ref()
            .is_some_and(|fields| fields.0.get("f:data").is_some() || fields.0.get("f:type").is_some())
    };
    let mut owners = secret.managed_fields.iter().flatten().filter(stores);
    // `Helm`, as an update, for its own storage; `helm` is what it applies.
    owners.next().is_some_and(|entry| entry.manager.as_deref() == Some("Helm")) && owners.next().is_none()
}

/// One digest of all objects, independent of their order and formatting.
pub(crate) fn rendering<'a>(objects: impl Iterator<Item = &'a Value>) -> String {
    // Maps are sorted by key.
    let mut texts: Vec<String> = objects.filter(|object| !object.is_null()).map(Value::to_string).collect();
    texts.sort();
    digest::of_bytes(texts.join("\n").as_bytes())
}

/// The digest of a new rendering, by a release's namespace and name.
pub(crate) type Renderings = BTreeMap<(String, String), String>;

/// The digests of what releases render.
pub(crate) fn digests(rendered: &BTreeMap<(String, String), Objects>) -> Renderings {
    let digest = |objects: &Objects| rendering(objects.resources.iter().chain(&objects.hooks));
    rendered.iter().map(|(release, objects)| (release.clone(), digest(objects))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::kubernetes::place::Place;

    fn record() -> Record {
        let named = Named { namespace: "ameide".into(), name: "minio".into(), installed: true };
        let inputs = Parts::from([("charts/minio".to_owned(), "0a".to_owned())]);
        Record { rendered: "aa".into(), tested: true, ..Record::new("c", "45-x", vec![named], inputs) }
    }

    fn secret(uid: &str, text: Option<&str>, managers: &[&str]) -> ObjectMeta {
        let entry = |manager: &&str| {
            let fields = match *manager {
                "kubectl-annotate" | "xtask" => serde_json::json!({"f:metadata": {"f:annotations": {}}}),
                _ => serde_json::json!({"f:data": {".": {}, "f:release": {}}, "f:type": {}}),
            };
            serde_json::json!({"manager": manager, "operation": "Update", "fieldsV1": fields})
        };
        let managed: Vec<Value> = managers.iter().map(entry).collect();
        let annotations = text.map(|text| serde_json::json!({RECORD: text}));
        serde_json::from_value(serde_json::json!({"uid": uid, "annotations": annotations, "managedFields": managed}))
            .unwrap()
    }

    #[test]
    fn a_record_is_read_from_its_own_secret_and_from_no_other() {
        let text = record().text("u1").unwrap();
        for managers in [&["Helm"][..], &["Helm", "xtask"], &["Helm", "kubectl-annotate"]] {
            assert_eq!(Record::on(&secret("u1", Some(&text), managers)), Ok(record()), "{managers:?}");
        }
        let forged = text.replace("\"tested\":true", "\"tested\":false");
        assert_ne!(forged, text);
        for (secret, why) in [
            (secret("u1", None, &["Helm"]), "there is no record"),
            (secret("u2", Some(&text), &["Helm"]), "another revision"),
            (secret("u1", Some(&forged), &["Helm"]), "was changed"),
            (secret("u1", Some(&text[..text.len() / 2]), &["Helm"]), "was changed"),
            (secret("u1", Some("x"), &["Helm"]), "cut off"),
            (secret("u1", Some(""), &["Helm"]), "cut off"),
            (secret("", Some(&record().text("").unwrap()), &["Helm"]), "was changed"),
            (secret("u1", Some(&text), &["Helm", "kubectl-edit"]), "somebody has changed"),
            (secret("u1", Some(&text), &["kubectl-edit"]), "somebody has changed"),
            (secret("u1", Some(&text), &[]), "somebody has changed"),
        ] {
            let said = Record::on(&secret).unwrap_err();
            assert!(said.contains(why), "{why}: {said}");
        }
        let written = serde_json::to_string(&record()).unwrap();
        // By a later program, and by an earlier one that did not look at what hooks leave.
        let later = written.replace("\"format\":4", "\"format\":5");
        let earlier = written.replace("\"format\":4", "\"format\":1").replace("\"hooks\":[],\"claims\":{},", "");
        for other in [later, earlier] {
            assert_ne!(other, written);
            let other = format!("{}.{other}", sum("u1", &other));
            assert!(Record::on(&secret("u1", Some(&other), &["Helm"])).unwrap_err().contains("another version"));
        }
    }

    #[test]
    fn one_that_no_annotation_holds_is_refused() {
        let place = |index: usize| Place {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            plural: "configmaps".into(),
            namespace: Some("ameide".into()),
            name: format!("configmap-{index}"),
        };
        let made = |index: usize| Made {
            owns: Some(digest::of_bytes(b"x")),
            applied: "2026-11-25T10:00:00Z".parse().ok(),
            ..Made::identified(place(index), "6c7d5a8e-2f10-4b1c-9a53-0d6b8f1f2a3b".into())
        };
        let with = |count: usize| Record { objects: (0..count).map(made).collect(), ..record() }.text("u");
        assert!(with(500).is_ok() && with(5000).is_err_and(|why| why.contains("KiB")));
        let uid = "6c7d5a8e-2f10-4b1c-9a53-0d6b8f1f2a3b";
        let claims =
            |count: usize| (0..count).map(|index| (format!("data-postgres-{index}"), uid.to_owned())).collect();
        let with =
            |count: usize| Record { claims: Claims::from([("ameide".into(), claims(count))]), ..record() }.text("u");
        assert!(with(1000).is_ok() && with(10_000).is_err_and(|why| why.contains("KiB")));
    }

    #[test]
    fn order_and_writing_are_no_difference_and_a_value_is() {
        let digest_of = |texts: &[&str]| {
            let objects: Vec<Value> =
                texts.iter().flat_map(|text| crate::files::bounds::documents(text).unwrap()).collect();
            rendering(objects.iter())
        };
        let one = digest_of(&["kind: A\nx: 1\n---\nkind: B\n"]);
        assert_eq!(one, digest_of(&["kind: B", "# Source: x\nx: 1\nkind: A\n---\n"]));
        assert_ne!(one, digest_of(&["kind: A\nx: '1'\n---\nkind: B\n"]));
        assert_ne!(one, digest_of(&["kind: A\nx: 1\n"]));
    }
}
