//! What the checklist looks at: everything at once, each look with the time it took. Nothing is
//! judged here, and a look that failed is its own fact, never taken for "there is nothing".

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::Client;
use kube::api::{Api, ListParams};
use serde::Deserialize;

use crate::cluster::lock::{ClusterLock, Holder};
use crate::cluster::{self, Standing};
use crate::compare::drift::{self, Drifts};
use crate::lab;
use crate::mirror::{self, Origin};
use crate::releases::Revision;
use crate::repo;
use crate::repo::layers;
use crate::run::context::{Context, Site};
use crate::world::helm_storage::{Stored, newest};
use crate::world::helmfile::{self, WantedRelease};
use crate::world::kubernetes::{self, NamespacePhase, read_failed};
use crate::world::registry;
use crate::world::release::Release;
use run_record::Failure;

/// A look, and how long it took.
#[derive(Clone, Debug)]
pub struct Seen<T> {
    pub result: Result<T, Failure>,
    pub took: Duration,
}

async fn seen<T>(look: impl Future<Output = Result<T, Failure>>) -> Seen<T> {
    let started = Instant::now();
    let result = look.await;
    Seen { result, took: started.elapsed() }
}

#[derive(Clone, Debug)]
pub struct Facts {
    /// The current run: a lock that it holds itself is no obstacle.
    pub run: String,
    pub critical_path: Vec<String>,
    /// The registry's name in pods.
    pub pull: String,
    /// The outer option: whether it is held; the inner one: whether its text could be read.
    pub lock: Seen<Option<Option<Holder>>>,
    /// `None` for a shared cluster.
    pub cluster: Seen<Option<Standing>>,
    pub api: Seen<()>,
    pub nodes: Seen<Vec<NodeFact>>,
    pub namespaces: Seen<Vec<(String, NamespacePhase)>>,
    pub registry: Seen<()>,
    pub images: Seen<Images>,
    pub pods: Seen<Pods>,
    pub wanted: Seen<Vec<WantedRelease>>,
    pub revisions: Seen<Vec<Revision>>,
    pub tests: Seen<Vec<TestRun>>,
    pub workloads: Seen<Vec<Workload>>,
    pub drift: Seen<Drifted>,
}

/// What others have changed in the releases since the last run of their layers.
#[derive(Clone, Debug, Default)]
pub struct Drifted {
    /// Releases whose layer's last run left a record to compare with.
    pub compared: usize,
    pub found: Vec<Change>,
}

#[derive(Clone, Debug)]
pub struct NodeFact {
    pub name: String,
    pub ready: bool,
    pub schedulable: bool,
    /// The kubelet's message about a node that is not Ready.
    pub message: String,
}

/// The lock's images in the registry.
#[derive(Clone, Debug, Default)]
pub struct Images {
    pub total: usize,
    /// A sentence for each that is not there with the lock's digest.
    pub findings: Vec<String>,
}

/// The images used by the pods in our namespaces.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    /// `namespace/pod: image` for each image that does not come from our registry.
    pub from_elsewhere: Vec<String>,
    /// How many images do.
    pub mirrored: usize,
    /// The pull secrets that pods name.
    pub pull_secrets: Vec<PullSecret>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullSecret {
    pub namespace: String,
    pub name: String,
    pub state: SecretState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretState {
    Absent,
    /// It exists, with credentials for at least one registry.
    Filled,
    /// It exists but is useless: it would be refused without a message.
    Empty,
}

/// A test hook of a release's newest revision, as Helm stored it.
#[derive(Clone, Debug)]
pub struct TestRun {
    pub release: WantedRelease,
    pub revision: u32,
    pub test: String,
    /// `Succeeded`, `Failed`, `Running`, `Unknown`; `None` if it never ran for this revision.
    pub phase: Option<String>,
    pub completed: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Workload {
    pub namespace: String,
    /// `deployment/minio`
    pub name: String,
    /// The release that it belongs to.
    pub release: String,
    pub wanted: i32,
    pub ready: i32,
    /// A Job that gave up; or the controller has not observed the newest change yet.
    pub trouble: Option<String>,
}

/// Looks at everything at once.
pub async fn observe(context: &Context) -> Result<Facts, Failure> {
    let critical_path = repo::critical_path(&context.repo.tree)?;
    let layers = layers::select(&context.repo.tree.layers()?, &critical_path)?;
    let needs = context.repo.tree.layer_needs()?;
    let names: BTreeSet<String> = layers
        .iter()
        .filter_map(|layer| needs.layers.get(&layer.name()))
        .flat_map(|n| [&n.namespaces[..], &n.creates].concat())
        .collect();
    let pull = context.repo.env.registry.pull.clone();
    let client = kubernetes::client(context).await;
    let cluster = async {
        let standing = seen(cluster::standing(&context.run, &context.repo)).await;
        let lab = matches!(&standing.result, Ok(Some(standing)) if standing.lab);
        let images = seen(async {
            let origin = if lab { lab::known_origin()? } else { Origin::public(&context.repo) };
            let (total, findings) = mirror::findings(&context.repo, &context.site, &origin).await?;
            Ok(Images { total, findings: findings.iter().map(ToString::to_string).collect() })
        });
        (standing, images.await)
    };
    let releases = async {
        let wanted = seen(async {
            // Asking Helmfile may require building it first: not for a cluster that does not exist.
            answering(&context.site, &client.clone()?).await?;
            helmfile::releases(context, &layers).await
        })
        .await;
        let all = seen(async { newest(&client.clone()?, None).await }).await;
        let tests = seen(async {
            let wanted = wanted.result.clone()?;
            let named: Vec<Release> = wanted.iter().map(Release::from).collect();
            let opened = newest(&client.clone()?, Some(&named)).await?;
            Ok(test_runs(&wanted, &opened))
        })
        .await;
        let revisions = all.result.map(|all| all.into_iter().map(|(revision, _)| revision).collect());
        (wanted, Seen { result: revisions, took: all.took }, tests)
    };
    let ((cluster, images), lock, api, nodes, namespaces, registry, pods, workloads, releases, drift) = tokio::join!(
        Box::pin(cluster),
        seen(async { ClusterLock::holder(&context.run.state.lock()) }),
        seen(async { answering(&context.site, &client.clone()?).await }),
        seen(async { nodes(&client.clone()?).await }),
        seen(async { phases(&client.clone()?, &names).await }),
        seen(registry::healthy(&context.repo, &context.site)),
        seen(async { pods(&client.clone()?, &names, &pull).await }),
        seen(async { workloads(&client.clone()?, &names).await }),
        Box::pin(releases),
        Box::pin(seen(async { drifted(context, &client.clone()?, &layers).await })),
    );
    let (wanted, revisions, tests) = releases;
    Ok(Facts {
        run: context.run.id.clone(),
        critical_path: layers.iter().map(layers::Layer::name).collect(),
        pull,
        lock,
        cluster,
        api,
        nodes,
        namespaces,
        registry,
        images,
        pods,
        wanted,
        revisions,
        tests,
        workloads,
        drift,
    })
}

/// The first change of an object.
#[derive(Clone, Debug)]
pub struct Change {
    pub layer: String,
    pub text: String,
    /// Somebody else owns a field that Helm set.
    pub taken: bool,
}

async fn drifted(context: &Context, client: &Client, layers: &[layers::Layer]) -> Result<Drifted, Failure> {
    answering(&context.site, client).await?;
    let mut seen = Drifted::default();
    for Drifts { layer, found } in drift::of_layers(context, client, layers).await? {
        seen.compared += 1;
        seen.found.extend(found.into_iter().map(|(text, taken)| Change { layer: layer.clone(), text, taken }));
    }
    Ok(seen)
}

async fn answering(site: &Site, client: &Client) -> Result<(), Failure> {
    kubernetes::ready(client).await.map_err(|error| kubernetes::unreachable(&site.kube_context, error))
}

async fn nodes(client: &Client) -> Result<Vec<NodeFact>, Failure> {
    Ok(kubernetes::nodes::all(client).await?.iter().map(node).collect())
}

fn node(node: &Node) -> NodeFact {
    let ready = kubernetes::nodes::ready_condition(node);
    NodeFact {
        name: node.metadata.name.clone().unwrap_or_default(),
        ready: kubernetes::nodes::is_ready(node),
        schedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true),
        message: ready.and_then(|condition| condition.message.clone()).unwrap_or_default(),
    }
}

async fn phases(client: &Client, names: &BTreeSet<String>) -> Result<Vec<(String, NamespacePhase)>, Failure> {
    let mut found = Vec::new();
    for name in names {
        found.push((name.clone(), kubernetes::namespace_phase(client, name).await?));
    }
    Ok(found)
}

async fn pods(client: &Client, namespaces: &BTreeSet<String>, pull: &str) -> Result<Pods, Failure> {
    let mut found = Pods::default();
    let mut named = BTreeSet::new();
    let ours = format!("{pull}/");
    // What the cluster itself runs there (CoreDNS) comes with the node's image.
    for namespace in namespaces.iter().filter(|name| name.as_str() != "kube-system") {
        let listed = Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await;
        let listed = listed.map_err(|error| read_failed(&format!("the pods of {namespace}"), error))?;
        for pod in &listed.items {
            let Some(spec) = &pod.spec else { continue };
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            for image in containers.filter_map(|container| container.image.as_ref()) {
                if image.starts_with(&ours) {
                    found.mirrored += 1;
                } else {
                    found.from_elsewhere.push(format!("{namespace}/{name}: {image}"));
                }
            }
            let secrets = spec.image_pull_secrets.iter().flatten();
            named.extend(secrets.map(|secret| (namespace.clone(), secret.name.clone())));
        }
    }
    for (namespace, name) in named {
        let secret = Api::<Secret>::namespaced(client.clone(), &namespace).get_opt(&name).await;
        let secret = secret.map_err(|error| read_failed(&format!("the Secret {namespace}/{name}"), error))?;
        let state = secret.map_or(SecretState::Absent, |secret| secret_state(&secret));
        found.pull_secrets.push(PullSecret { namespace, name, state });
    }
    Ok(found)
}

/// Whether a pull secret has credentials: an `auth`, or a user with a password.
pub(crate) fn secret_state(secret: &Secret) -> SecretState {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        auths: std::collections::BTreeMap<String, Login>,
    }
    #[derive(Deserialize)]
    struct Login {
        #[serde(default)]
        auth: String,
        #[serde(default)]
        username: String,
        #[serde(default)]
        password: String,
    }
    let config = secret.data.as_ref().and_then(|data| data.get(".dockerconfigjson"));
    let config = config.and_then(|json| serde_json::from_slice::<Config>(&json.0).ok());
    // Empty variables give an `auth` that is only a colon.
    let filled = |login: &Login| {
        let decoded = STANDARD.decode(&login.auth).unwrap_or_default();
        let (user, password) = (&login.username, &login.password);
        (decoded.len() > 1 && !decoded.starts_with(b":") && !decoded.ends_with(b":"))
            || (!user.is_empty() && !password.is_empty())
    };
    if config.is_some_and(|config| config.auths.values().any(filled)) {
        SecretState::Filled
    } else {
        SecretState::Empty
    }
}

/// The test hooks of the wanted releases that exist.
fn test_runs(wanted: &[WantedRelease], newest: &[(Revision, Stored)]) -> Vec<TestRun> {
    let mut runs = Vec::new();
    for release in wanted {
        let is = |found: &Revision| found.release == release.name && found.namespace == release.namespace;
        let Some((revision, stored)) = newest.iter().find(|(revision, _)| is(revision)) else { continue };
        for hook in stored.hooks.iter().filter(|hook| hook.events.iter().any(|event| event == "test")) {
            let run = hook.last_run.clone();
            runs.push(TestRun {
                release: release.clone(),
                revision: revision.revision,
                test: hook.name.clone(),
                phase: Some(run.phase).filter(|phase| !phase.is_empty()),
                completed: run.completed_at,
            });
        }
    }
    runs
}

async fn workloads(client: &Client, namespaces: &BTreeSet<String>) -> Result<Vec<Workload>, Failure> {
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=Helm");
    let mut found = Vec::new();
    for namespace in namespaces {
        let failed = |error| read_failed(&format!("the workloads of {namespace}"), error);
        let (deployments, sets, jobs) = (
            Api::<Deployment>::namespaced(client.clone(), namespace),
            Api::<StatefulSet>::namespaced(client.clone(), namespace),
            Api::<Job>::namespaced(client.clone(), namespace),
        );
        let (deployments, sets, jobs) = tokio::join!(deployments.list(&ours), sets.list(&ours), jobs.list(&ours));
        found.extend(deployments.map_err(failed)?.items.iter().map(deployment));
        found.extend(sets.map_err(failed)?.items.iter().map(stateful_set));
        found.extend(jobs.map_err(failed)?.items.iter().map(job));
    }
    Ok(found)
}

fn workload(kind: &str, meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Workload {
    let release = meta.labels.as_ref().and_then(|labels| labels.get("app.kubernetes.io/instance"));
    Workload {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: format!("{kind}/{}", meta.name.as_deref().unwrap_or_default()),
        release: release.cloned().unwrap_or_default(),
        wanted: 0,
        ready: 0,
        trouble: None,
    }
}

fn unseen(generation: Option<i64>, observed: Option<i64>) -> Option<String> {
    (generation > observed).then(|| "its controller has not seen the newest change yet".to_owned())
}

fn deployment(object: &Deployment) -> Workload {
    let status = object.status.clone().unwrap_or_default();
    Workload {
        wanted: object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
        ready: status.ready_replicas.unwrap_or(0).min(status.updated_replicas.unwrap_or(0)),
        trouble: unseen(object.metadata.generation, status.observed_generation),
        ..workload("deployment", &object.metadata)
    }
}

fn stateful_set(object: &StatefulSet) -> Workload {
    let status = object.status.clone().unwrap_or_default();
    Workload {
        wanted: object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
        ready: status.ready_replicas.unwrap_or(0),
        trouble: unseen(object.metadata.generation, status.observed_generation),
        ..workload("statefulset", &object.metadata)
    }
}

fn job(object: &Job) -> Workload {
    let status = object.status.clone().unwrap_or_default();
    let failed =
        status.conditions.iter().flatten().find(|condition| condition.type_ == "Failed" && condition.status == "True");
    Workload {
        wanted: object.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(1),
        ready: status.succeeded.unwrap_or(0),
        trouble: failed.map(|condition| {
            let words = [condition.reason.as_deref(), condition.message.as_deref()];
            words.into_iter().flatten().collect::<Vec<_>>().join(": ")
        }),
        ..workload("job", &object.metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_of(config: &str) -> SecretState {
        let data = serde_json::json!({"data": {".dockerconfigjson": STANDARD.encode(config)}});
        secret_state(&serde_json::from_value(data).unwrap())
    }

    #[test]
    fn a_pull_secret_without_credentials_is_empty() {
        let auth = |text: &str| {
            format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{}"}}}}}}"#, STANDARD.encode(text))
        };
        assert_eq!(state_of(&auth("user:token")), SecretState::Filled);
        for empty in [auth(":"), auth("user:"), auth(":token"), auth(""), r#"{"auths":{}}"#.into(), "no json".into()] {
            assert_eq!(state_of(&empty), SecretState::Empty, "{empty}");
        }
    }

    #[test]
    fn a_deployment_counts_only_pods_of_its_newest_template() {
        let object: Deployment = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "minio", "namespace": "ameide", "generation": 3, "labels": {"app.kubernetes.io/instance": "minio"}},
            "spec": {"replicas": 1, "selector": {}, "template": {}},
            "status": {"readyReplicas": 1, "observedGeneration": 3},
        }))
        .unwrap();
        let found = deployment(&object);
        assert_eq!((found.name.as_str(), found.wanted, found.ready), ("deployment/minio", 1, 0));
    }
}
