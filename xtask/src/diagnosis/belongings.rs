//! Which pods belong to releases: by their owners, up to an object that Helm's annotation or the
//! stored manifest names, including hooks and tests. A label only counts for a pod about which
//! nothing else says anything, because charts may or may not set it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use run_record::Failure;
use serde_json::Value;

use super::looks::GENERATIONS;
use super::pods::controller;
use crate::releases::manifest;
use crate::world::helm_storage::{Revision, Stored};
use crate::world::kubernetes::{is_forbidden, read_failed};
use crate::world::release::annotated;

/// Namespace and name.
type ReleaseName = (String, String);

/// An object made by a release: API group, kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Made {
    group: String,
    kind: String,
    namespace: String,
    name: String,
}

impl Made {
    fn new(version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let owned = |text: &str| text.to_owned();
        Self { group: owned(group), kind: owned(kind), namespace: owned(namespace), name: owned(name) }
    }
}

/// What some releases have made, and which pods were found to belong to them.
pub struct Belongings<'a> {
    client: &'a Client,
    releases: BTreeSet<ReleaseName>,
    made: BTreeMap<Made, ReleaseName>,
    /// The namespaces where their pods may be.
    namespaces: BTreeSet<String>,
    /// By the pods' uid; a pod's release never changes.
    known: RefCell<BTreeMap<String, bool>>,
    /// Releases whose manifest could not be read, so that only Helm's annotations count.
    pub unread: Vec<String>,
}

impl<'a> Belongings<'a> {
    /// From the newest revisions of these releases, with their manifests.
    pub fn of(client: &'a Client, stored: &[(Revision, Stored)]) -> Self {
        let (mut made, mut unread, mut namespaces) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        let mut releases = BTreeSet::new();
        for (revision, stored) in stored {
            let release = (revision.namespace.clone(), revision.release.clone());
            namespaces.insert(revision.namespace.clone());
            let hooks = stored.hooks.iter().map(|hook| hook.manifest.as_str());
            let mut whole = stored.unreadable.is_none();
            for text in std::iter::once(stored.manifest.as_str()).chain(hooks) {
                let Ok(objects) = manifest::parse(text) else {
                    whole = false;
                    continue;
                };
                for object in objects.iter().filter_map(|(object, _)| of_object(object, &revision.namespace)) {
                    namespaces.insert(object.namespace.clone());
                    made.insert(object, release.clone());
                }
            }
            if !whole {
                unread.push(revision.release.clone());
            }
            releases.insert(release);
        }
        Self { client, releases, made, namespaces, known: RefCell::default(), unread }
    }

    /// The namespaces in which a pod of these releases may be.
    pub fn namespaces(&self) -> &BTreeSet<String> {
        &self.namespaces
    }

    /// The current pods of these releases, and where a watch for others starts: each namespace with
    /// its version. Also says which pods are unclear, and why.
    ///
    /// # Errors
    /// Errors from listing pods and reading their owners.
    pub async fn pods(&self) -> Result<Found, Failure> {
        let mut found = Found::default();
        for namespace in &self.namespaces {
            let listed = Api::<Pod>::namespaced(self.client.clone(), namespace).list(&ListParams::default()).await;
            let own = self.releases.iter().any(|(own, _)| own == namespace);
            let listed = match listed {
                // Not the release's own namespace: what it has there may not have any pods.
                Err(error) if is_forbidden(&error) && !own => {
                    found
                        .unclear
                        .push(format!("cannot tell whether it has pods in {namespace}: no permission to list them"));
                    continue;
                }
                listed => listed.map_err(|error| read_failed(&format!("the pods of {namespace}"), error))?,
            };
            found.versions.insert(namespace.clone(), listed.metadata.resource_version.unwrap_or_default());
            for pod in listed.items {
                match self.has(&pod).await? {
                    Whose::Theirs => found.pods.push(pod),
                    Whose::Others => {}
                    Whose::Unknown(why) => found.unclear.push(why),
                }
            }
        }
        Ok(found)
    }

    /// Whether a pod belongs to one of these releases.
    ///
    /// # Errors
    /// Errors from reading its owners, except a missing right, which has its own answer.
    pub async fn has(&self, pod: &Pod) -> Result<Whose, Failure> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let whose = |theirs: bool| if theirs { Whose::Theirs } else { Whose::Others };
        if let Some(known) = self.known.borrow().get(&uid) {
            return Ok(whose(*known));
        }
        let found = match self.by_chain(pod).await {
            Ok(Some(release)) => self.releases.contains(&release),
            Ok(None) => self.by_label(&pod.metadata),
            Err((what, error)) if is_forbidden(&error) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let why = format!("cannot tell which release pod {name} belongs to: no permission to read {what}");
                return Ok(if self.by_label(&pod.metadata) { Whose::Theirs } else { Whose::Unknown(why) });
            }
            Err((what, error)) => return Err(read_failed(&what, error)),
        };
        self.known.borrow_mut().insert(uid, found);
        Ok(whose(found))
    }

    /// Follows a pod's owners until one says which release it belongs to. That may be a release
    /// other than these.
    async fn by_chain(&self, pod: &Pod) -> Result<Option<ReleaseName>, (String, kube::Error)> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let mut current = pod.metadata.clone();
        let itself = Made::new("v1", "Pod", &namespace, current.name.as_deref().unwrap_or_default());
        if let Some(release) = self.made.get(&itself) {
            return Ok(Some(release.clone()));
        }
        for _ in 0..GENERATIONS {
            if let Some(release) = annotated(&current) {
                return Ok(Some(release));
            }
            let Some(above) = controller(&current) else { return Ok(None) };
            if let Some(release) = self.made.get(&Made::new(&above.api_version, &above.kind, &namespace, &above.name)) {
                return Ok(Some(release.clone()));
            }
            let (group, short) = above.api_version.split_once('/').unwrap_or(("", &above.api_version));
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, short, &above.kind));
            let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &namespace, &resource);
            let found = match api.get_metadata(&above.name).await {
                Ok(found) => Some(found.metadata),
                // It is gone, or its kind's plural is irregular.
                Err(kube::Error::Api(status)) if status.code == 404 => None,
                Err(error) => return Err((format!("{} {namespace}/{}", above.kind, above.name), error)),
            };
            let found = found.filter(|found| found.uid.as_deref() == Some(&above.uid));
            let Some(found) = found else { return Ok(None) };
            current = found;
        }
        Ok(None)
    }

    fn by_label(&self, metadata: &ObjectMeta) -> bool {
        let instance = metadata.labels.as_ref().and_then(|all| all.get("app.kubernetes.io/instance"));
        let named = instance.zip(metadata.namespace.as_ref());
        named.is_some_and(|(name, namespace)| self.releases.contains(&(namespace.clone(), name.clone())))
    }
}

/// The pods of some releases.
#[derive(Default)]
pub struct Found {
    pub pods: Vec<Pod>,
    /// By namespace, the version of its list.
    pub versions: BTreeMap<String, String>,
    /// Which pods are unclear, and why.
    pub unclear: Vec<String>,
}

/// Whose a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    Theirs,
    Others,
    /// Its owner may not be read; in words.
    Unknown(String),
}

fn of_object(object: &Value, namespace: &str) -> Option<Made> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let own = text("/metadata/namespace").filter(|own| !own.is_empty());
    Some(Made::new(text("/apiVersion")?, manifest::kind(object), own.unwrap_or(namespace), text("/metadata/name")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in::{Answer, Server};
    use crate::world::helm_storage::Hook;
    use serde_json::json;

    const MANIFEST: &str = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\n---\napiVersion: db.example/v1\nkind: Cluster\nmetadata: {name: main, namespace: data}\n";

    fn stored() -> Vec<(Revision, Stored)> {
        let hook: Hook = serde_json::from_value(json!({
            "name": "schema", "events": ["post-install"],
            "manifest": "apiVersion: batch/v1\nkind: Job\nmetadata: {name: schema}\n",
        }))
        .unwrap();
        let stored = Stored { manifest: MANIFEST.to_owned(), hooks: vec![hook], ..Stored::default() };
        vec![(Revision::named("shop", "web", 1), stored)]
    }

    fn pod(namespace: &str, above: Option<(&str, &str, &str)>, more: Value) -> Pod {
        let owners: Vec<Value> = above
            .into_iter()
            .map(|(version, kind, name)| {
                json!({"apiVersion": version, "kind": kind, "name": name, "uid": name, "controller": true})
            })
            .collect();
        let name = format!("{namespace}-{above:?}-{more}");
        let mut metadata = json!({"name": name, "uid": name, "namespace": namespace, "ownerReferences": owners});
        metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    /// Knows the ReplicaSets `front` of the release and `other` of another one, and lets nobody
    /// read a Cluster.
    fn client() -> Client {
        let server = Server::start(|request| {
            let name = request.path().rsplit('/').next().unwrap_or_default().to_owned();
            let of = |release: &str| {
                let annotations =
                    json!({"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": "shop"});
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                    "metadata": {"name": name, "uid": name, "annotations": annotations}})
            };
            let status = |code: u16| {
                Answer::json(code, &json!({"kind": "Status", "status": "Failure", "code": code, "message": "no"}))
            };
            match name.as_str() {
                "front" => Answer::json(200, &of("web")),
                "other" => Answer::json(200, &of("api")),
                "hidden" => status(403),
                "broken" => status(500),
                _ => status(404),
            }
        });
        let config = kube::Config::new(server.url().parse().unwrap());
        Client::try_from(config).unwrap()
    }

    #[tokio::test]
    async fn a_pod_is_of_the_release_that_made_it_whatever_its_labels_say() {
        let (client, stored) = (client(), stored());
        let belongings = Belongings::of(&client, &stored);
        assert_eq!(belongings.namespaces().iter().collect::<Vec<_>>(), ["data", "shop"]);
        let none = || json!({});
        let labelled = |name: &str| json!({"labels": {"app.kubernetes.io/instance": name}});
        for (what, pod, theirs) in [
            ("of a StatefulSet of the manifest", pod("shop", Some(("apps/v1", "StatefulSet", "db")), none()), true),
            ("of a Job that is a hook", pod("shop", Some(("batch/v1", "Job", "schema")), none()), true),
            ("of a custom resource", pod("data", Some(("db.example/v1", "Cluster", "main")), none()), true),
            ("by Helm's annotation above it", pod("shop", Some(("apps/v1", "ReplicaSet", "front")), none()), true),
            ("of another release", pod("shop", Some(("apps/v1", "ReplicaSet", "other")), labelled("web")), false),
            ("of a namesake elsewhere", pod("data", Some(("apps/v1", "StatefulSet", "db")), none()), false),
            ("of a namesake of another kind", pod("shop", Some(("apps/v1", "DaemonSet", "db")), none()), false),
            ("by its label alone", pod("shop", None, labelled("web")), true),
            ("of nobody", pod("shop", None, none()), false),
        ] {
            let whose = belongings.has(&pod).await.unwrap();
            assert_eq!(whose == Whose::Theirs, theirs, "{what}: {whose:?}");
        }
    }

    #[tokio::test]
    async fn a_namespace_that_may_not_be_looked_into_is_told_where_the_release_is_another() {
        let server = Server::start(|request| match request.path() {
            "/api/v1/namespaces/shop/pods" => {
                Answer::json(200, &json!({"metadata": {"resourceVersion": "7"}, "items": []}))
            }
            _ => Answer::json(403, &json!({"kind": "Status", "status": "Failure", "code": 403, "message": "no"})),
        });
        let client = Client::try_from(kube::Config::new(server.url().parse().unwrap())).unwrap();
        let found = Belongings::of(&client, &stored()).pods().await.unwrap();
        assert_eq!(found.versions.into_iter().collect::<Vec<_>>(), [("shop".to_owned(), "7".to_owned())]);
        assert!(found.unclear.len() == 1 && found.unclear[0].contains(" in data: "), "{:?}", found.unclear);
        let elsewhere = vec![(Revision::named("data", "web", 1), Stored::default())];
        assert!(Belongings::of(&client, &elsewhere).pods().await.is_err());
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_no_answer() {
        let (client, stored) = (client(), stored());
        let belongings = Belongings::of(&client, &stored);
        let hidden = pod("shop", Some(("apps/v1", "ReplicaSet", "hidden")), json!({}));
        assert!(
            matches!(belongings.has(&hidden).await.unwrap(), Whose::Unknown(why) if why.contains("ReplicaSet shop/hidden"))
        );
        let broken = pod("shop", Some(("apps/v1", "ReplicaSet", "broken")), json!({}));
        assert!(belongings.has(&broken).await.is_err());
    }

    #[tokio::test]
    async fn a_manifest_that_cannot_be_read_is_told() {
        let (client, mut stored) = (client(), stored());
        stored[0].1.manifest = "a: [".to_owned();
        assert_eq!(Belongings::of(&client, &stored).unread, ["web"]);
    }
}
