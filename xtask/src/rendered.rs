//! The images that layers render, held to the mirror before Helm starts: what would
//! be pulled from elsewhere, unpinned, or under another digest than the lock's is
//! told by object and field, while nothing has changed yet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use futures_util::future::{join_all, try_join_all};
use image_mirror::{Child, Digest, Lock, Platform};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, ListParams};
use serde::Deserialize;
use serde_json::Value;

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::kubernetes::{self, read_failed};
use crate::lab::Lab;
use crate::layer::helmfile;
use crate::process::capture;
use crate::registry;
use crate::tools::{self, Toolbox};
use crate::tree::{Layer, read_yaml};
use crate::wanted;

/// `infra/images/places.yaml`: where objects name images, beyond `image` fields.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Places {
    #[serde(default)]
    images: Vec<Place>,
    #[serde(default)]
    not_images: Vec<Place>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Place {
    kind: String,
    field: String,
    after: Option<String>,
    name: Option<String>,
}

impl Place {
    /// The part of a string that this place says is an image.
    fn image<'t>(&self, at: &At, text: &'t str) -> Option<&'t str> {
        let here =
            self.kind == at.kind && self.field == at.pattern && self.name.as_deref().is_none_or(|n| n == at.name);
        here.then_some(text)?.strip_prefix(self.after.as_deref().unwrap_or_default())
    }
}

/// An image that an object names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub layer: String,
    pub release: String,
    /// `Deployment ameide/minio`
    pub object: String,
    /// `spec.template.spec.containers[0].image`
    pub field: String,
    pub image: String,
}

impl fmt::Display for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, release, object, field, image } = self;
        write!(f, "layer {layer}, release {release}: {object}: {field}: {image:?}")
    }
}

/// Why an image would not come from the mirror as the lock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Nothing,
    Elsewhere,
    NotPinned,
    OtherDigest(Digest),
    Missing,
    /// What a node is, and what the image has.
    Platform(Platform, Vec<Platform>),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("names no image"),
            Self::Elsewhere => f.write_str("is not in the mirror"),
            Self::NotPinned => f.write_str("is not pinned by a digest"),
            Self::OtherDigest(locked) => write!(f, "has another digest than the lock, which says {locked}"),
            Self::Missing => f.write_str("is missing in the mirror"),
            Self::Platform(node, has) => write!(f, "has no {node}, which a node is: it has {}", has.join(", ")),
        }
    }
}

impl Finding {
    fn code(&self) -> (&'static str, &'static str) {
        match self {
            Self::Platform(..) => {
                ("image-platform", "check its platforms in infra/images/images.yaml, then cargo xtask mirror --update")
            }
            Self::Missing => ("image-not-mirrored", "cargo xtask mirror"),
            Self::OtherDigest(_) => (
                "image-not-mirrored",
                "let its values take the digest from images.lock (docs/layers.md), or cargo xtask mirror --update",
            ),
            Self::Nothing | Self::Elsewhere | Self::NotPinned => (
                "image-not-mirrored",
                "add it to infra/images/images.yaml, let its values take it from there by its id (docs/layers.md), then cargo xtask mirror",
            ),
        }
    }
}

/// What the decision is made from.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The mirror's name in pods.
    pub pull: String,
    /// The lock's digests by repository.
    pub locked: BTreeMap<String, BTreeSet<Digest>>,
    /// What the mirror has of the images that were asked for.
    pub held: BTreeMap<(String, Digest), Vec<Child>>,
    /// The nodes'; none where no cluster answers.
    pub platforms: BTreeSet<Platform>,
}

/// Whether an image can be pulled from the mirror, as the lock says, on every node.
pub fn judge(image: &str, facts: &Facts) -> Option<Finding> {
    if image.trim().is_empty() {
        return Some(Finding::Nothing);
    }
    let Some(name) = within(image, &facts.pull) else { return Some(Finding::Elsewhere) };
    let Some((repository, digest)) = pinned(name) else { return Some(Finding::NotPinned) };
    if let Some(locked) = facts.locked.get(&repository)
        && !locked.contains(&digest)
        && let Some(locked) = locked.first()
    {
        return Some(Finding::OtherDigest(locked.clone()));
    }
    let Some(children) = facts.held.get(&(repository, digest)) else { return Some(Finding::Missing) };
    let lacks = facts.platforms.iter().find(|platform| !children.iter().any(|child| child.is_for(platform)))?;
    // Attestations call themselves unknown/unknown.
    let has = children.iter().map(Child::platform).filter(|platform| !platform.starts_with("unknown/"));
    Some(Finding::Platform(lacks.clone(), has.collect()))
}

fn within<'i>(image: &'i str, registry: &str) -> Option<&'i str> {
    image.strip_prefix(registry)?.strip_prefix('/')
}

/// Repository and digest of `repository:tag@digest`.
fn pinned(name: &str) -> Option<(String, Digest)> {
    let (name, digest) = name.split_once('@')?;
    let repository = name.split_once(':').map_or(name, |(repository, _)| repository);
    Some((repository.to_owned(), Digest::parse(digest).ok()?))
}

/// Where the walk through an object is.
struct At<'v> {
    kind: &'v str,
    /// With indices, for people; with `[*]`, for `places.yaml`.
    field: String,
    pattern: String,
    /// Of the list item that this is in: an environment variable's.
    name: &'v str,
}

impl<'v> At<'v> {
    fn key(&self, key: &str) -> Self {
        let join = |path: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        Self { kind: self.kind, field: join(&self.field), pattern: join(&self.pattern), name: self.name }
    }

    fn item(&self, index: usize, item: &'v Value) -> Self {
        Self {
            kind: self.kind,
            field: format!("{}[{index}]", self.field),
            pattern: format!("{}[*]", self.pattern),
            name: item.get("name").and_then(Value::as_str).unwrap_or_default(),
        }
    }

    fn ends(&self, endings: &[&str]) -> bool {
        endings.iter().any(|ending| {
            self.pattern.strip_suffix(ending).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        })
    }
}

/// Field and image of every image that an object names.
fn images_of(object: &Value, places: &Places) -> Vec<(String, String)> {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let mut found = Vec::new();
    // A definition describes fields that are called image, and names none.
    if kind != "CustomResourceDefinition" {
        let at = At { kind, field: String::new(), pattern: String::new(), name: "" };
        walk(object, &at, places, &mut found);
    }
    found
}

fn walk(value: &Value, at: &At<'_>, places: &Places, found: &mut Vec<(String, String)>) {
    match value {
        Value::String(text) => {
            if let Some(image) = string(text, at, places) {
                found.push((at.field.clone(), image.to_owned()));
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, &at.item(index, item), places, found);
            }
        }
        Value::Object(fields) => {
            if at.ends(&["image"])
                && let Some(image) = composed(value)
            {
                found.push((at.field.clone(), image));
                return;
            }
            for (key, field) in fields {
                walk(field, &at.key(key), places, found);
            }
        }
        _ => {}
    }
}

/// The image that a string is, or holds.
fn string<'t>(text: &'t str, at: &At<'_>, places: &Places) -> Option<&'t str> {
    if places.not_images.iter().any(|place| place.image(at, text).is_some()) {
        return None;
    }
    if let Some(image) = places.images.iter().find_map(|place| place.image(at, text)) {
        return Some(image);
    }
    // What a ConfigMap or Secret calls image is for a program to read, and may be a picture.
    let data = matches!(at.kind, "ConfigMap" | "Secret");
    if at.ends(&["image"]) && !data {
        // A custom resource leaves it empty for its operator's own; a container cannot.
        let container = at.ends(&["containers[*].image", "initContainers[*].image", "ephemeralContainers[*].image"]);
        return (container || !text.trim().is_empty()).then_some(text);
    }
    // `volumes[].image.reference`
    if at.ends(&["image.reference"]) && !data {
        return Some(text);
    }
    if at.ends(&["args[*]", "command[*]", "env[*].value"]) {
        let bare = text.split_once('=').filter(|(flag, _)| flag.starts_with('-')).map_or(text, |(_, value)| value);
        return reads_like_an_image(bare).then_some(bare);
    }
    None
}

/// `{registry, repository, tag, digest}`, as many custom resources have it.
fn composed(value: &Value) -> Option<String> {
    let part = |key: &str| match value.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let registry = part("registry").map(|registry| format!("{registry}/")).unwrap_or_default();
    let tag = part("tag").map(|tag| format!(":{tag}")).unwrap_or_default();
    let digest = part("digest").map(|digest| format!("@{digest}")).unwrap_or_default();
    Some(format!("{registry}{}{tag}{digest}", part("repository")?))
}

/// A registry that says it is one (by a dot, a port, or `localhost`), a repository,
/// and a tag or a digest: the grammar of distribution/reference, and stricter.
fn reads_like_an_image(text: &str) -> bool {
    let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
    let Some((host, path)) = name.split_once('/') else { return false };
    let (repository, tag) = path.split_once(':').map_or((path, None), |(path, tag)| (path, Some(tag)));
    let (domain, port) = host.split_once(':').map_or((host, None), |(domain, port)| (domain, Some(port)));
    let of = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c))
    };
    let is_host = of(domain, ".-")
        && (domain.contains('.') || domain == "localhost" || port.is_some())
        && port.is_none_or(|port| port.parse::<u16>().is_ok());
    let is_tag = |tag: &str| {
        !tag.is_empty() && tag.len() <= 128 && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    // A taint is written alike: example.com/key:NoSchedule.
    let is_effect = tag.is_some_and(|tag| matches!(tag, "NoSchedule" | "NoExecute" | "PreferNoSchedule"));
    is_host
        && repository.split('/').all(|part| of(part, "._-"))
        && (tag.is_some() || digest.is_some())
        && tag.is_none_or(is_tag)
        && digest.is_none_or(|digest| Digest::parse(digest).is_ok())
        && !is_effect
}

/// Every image in a release's rendered documents.
fn images(text: &str, layer: &str, release: &str, namespace: &str, places: &Places) -> Result<Vec<Rendered>, String> {
    // What cannot be parsed may hold a password: the place is told, and never the text.
    let options = serde_saphyr::options! { with_snippet: false, budget: None };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let line = error.location().map(|location| format!(" at its line {}", location.line())).unwrap_or_default();
        format!("what release {release} renders is no YAML{line}")
    })?;
    let mut found = Vec::new();
    for document in documents {
        let items = document
            .get("items")
            .and_then(Value::as_array)
            .filter(|_| document.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List")));
        for object in items.map_or(std::slice::from_ref(&document), Vec::as_slice) {
            let word = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
            let metadata = object.get("metadata");
            let kind = word(object.get("kind")).unwrap_or_default();
            let name = word(metadata.and_then(|metadata| metadata.get("name"))).unwrap_or_default();
            let own = word(metadata.and_then(|metadata| metadata.get("namespace")));
            let object_name = format!("{kind} {}/{name}", own.as_deref().unwrap_or(namespace));
            found.extend(images_of(object, places).into_iter().map(|(field, image)| Rendered {
                layer: layer.to_owned(),
                release: release.to_owned(),
                object: object_name.clone(),
                field,
                image,
            }));
        }
    }
    Ok(found)
}

/// A release by namespace and name.
type Named<'a> = (&'a str, &'a str);

/// Renders releases of a layer as `sync` would, hooks and tests with them; a release
/// alone each, so that every object is known by its release.
async fn render(
    context: &Context,
    toolbox: &Toolbox,
    lab: Option<&Lab>,
    layer: &Layer,
    releases: &[Named<'_>],
) -> Result<Vec<Rendered>, Failure> {
    let places: Places = read_yaml(&context.tree.path("infra/images/places.yaml"))?;
    let places = &places;
    let failed = |evidence: String| {
        Failure::new("render-failed", Exit::Usage, format!("Helmfile cannot render {}", layer.path))
            .evidence(evidence)
            .remedy(format!("helmfile -f {} -e {} template", layer.path, context.env_name))
    };
    let each = releases.iter().map(|(namespace, name)| async move {
        let selector = format!("name={name},namespace={namespace}");
        let command = helmfile(context, toolbox, lab, layer, Some(&selector), &["template", "--include-crds"]);
        let text = capture(command).await.map_err(|error| failed(error.to_string()))?.ok().map_err(failed)?;
        images(&text, &layer.name(), name, namespace, places).map_err(failed)
    });
    Ok(try_join_all(each).await?.into_iter().flatten().collect())
}

/// Asks the mirror for what was rendered, all at once.
async fn facts(
    context: &Context,
    lab: Option<&Lab>,
    rendered: &[Rendered],
    platforms: BTreeSet<Platform>,
) -> Result<Facts, Failure> {
    let pull = context.env.registry.pull.clone();
    let lock: Lock = registry::read_lock(&registry::lock_path(context, lab))?;
    let mut locked: BTreeMap<String, BTreeSet<Digest>> = BTreeMap::new();
    for image in lock.images {
        locked.entry(image.target).or_default().extend(image.target_digest);
    }
    let named: BTreeSet<(String, Digest)> =
        rendered.iter().filter_map(|rendered| pinned(within(&rendered.image, &pull)?)).collect();
    let options = registry::options(context, lab.is_some())?;
    let looks = named.into_iter().map(|(repository, digest)| async {
        let found = image_mirror::inspect(&repository, &digest, &options).await.map_err(registry::failure)?;
        Ok::<_, Failure>(found.map(|children| ((repository, digest), children)))
    });
    let held = try_join_all(looks).await?.into_iter().flatten().collect();
    Ok(Facts { pull, locked, held, platforms })
}

async fn platforms(client: &Client) -> Result<BTreeSet<Platform>, Failure> {
    let listed = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
    let nodes = listed.map_err(|error| read_failed("the nodes", error))?;
    let info = nodes.items.iter().filter_map(|node| node.status.as_ref()?.node_info.as_ref());
    Ok(info.map(|info| format!("{}/{}", info.operating_system, info.architecture)).collect())
}

/// One failure for all findings: a line for each, and the remedy of the first kind.
fn verdict(rendered: &[Rendered], facts: &Facts) -> Result<(), Failure> {
    let mut found: Vec<(&Rendered, Finding)> =
        rendered.iter().filter_map(|image| Some((image, judge(&image.image, facts)?))).collect();
    // What lacks a platform is mirrored: it names the failure only where nothing else does.
    found.sort_by_key(|(_, finding)| matches!(finding, Finding::Platform(..)));
    let Some((first, finding)) = found.first() else { return Ok(()) };
    let (code, remedy) = finding.code();
    let mut failure =
        Failure::new(code, Exit::Registry, format!("{} renders {:?}, which {finding}", first.object, first.image))
            .remedy(remedy);
    failure.evidence = found.iter().map(|(image, finding)| format!("{image} {finding}")).collect();
    Err(failure)
}

/// Before a layer: everything that its releases render is in the mirror, pinned as in
/// the lock, for every node.
///
/// # Errors
/// `image-not-mirrored` or `image-platform` with a line of evidence for each image;
/// `render-failed` where Helmfile or a chart fails.
pub async fn check_layer(
    context: &Context,
    client: &Client,
    toolbox: &Toolbox,
    lab: Option<&Lab>,
    layer: &Layer,
    releases: &[Named<'_>],
) -> Result<(), Failure> {
    let (rendered, platforms) = tokio::try_join!(render(context, toolbox, lab, layer, releases), platforms(client))?;
    verdict(&rendered, &facts(context, lab, &rendered, platforms).await?)
}

/// Every layer of the tree, for `mirror --check`; a cluster need not be there, but
/// then no node says what platform it has.
///
/// # Errors
/// As [`check_layer`], with the findings of all layers.
pub async fn check_tree(context: &Context, lab: Option<&Lab>) -> Result<(), Failure> {
    let layers = context.tree.layers()?;
    let toolbox = tools::ensure(&context.tree, &["helm", "helmfile"], &context.reporter).await?;
    let wanted = wanted::releases(context, &layers).await?;
    let nodes = async {
        let client = kubernetes::client(&context.kube_context).await.ok()?;
        kubernetes::ready(&client).await.ok()?;
        platforms(&client).await.ok()
    };
    let each = join_all(layers.iter().map(|layer| {
        let here = wanted.iter().filter(|release| release.layer == layer.name());
        let releases: Vec<Named<'_>> = here.map(|release| (&*release.namespace, &*release.name)).collect();
        let toolbox = &toolbox;
        async move { render(context, toolbox, lab, layer, &releases).await }
    }));
    let (each, nodes) = tokio::join!(each, nodes);
    if nodes.is_none() {
        context.reporter.note("mirror", "no cluster answers: the nodes' platforms are not checked");
    }
    let mut rendered = Vec::new();
    for layer in each {
        rendered.extend(layer?);
    }
    verdict(&rendered, &facts(context, lab, &rendered, nodes.unwrap_or_default()).await?)?;
    let distinct: BTreeSet<&str> = rendered.iter().map(|rendered| &*rendered.image).collect();
    let count = (rendered.len(), distinct.len());
    context
        .reporter
        .note("mirror", format!("the layers name an image {} times, {} different: all are there", count.0, count.1));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(os: &str, arch: &str, digest: &Digest) -> Child {
        Child { os: os.into(), arch: arch.into(), variant: None, digest: digest.clone(), size: 1 }
    }

    #[test]
    fn each_finding_has_its_cause() {
        let (good, other, own) = (Digest::of(b"good"), Digest::of(b"other"), Digest::of(b"own"));
        let facts = Facts {
            pull: "reg:5000".into(),
            locked: [
                ("third-party/redis".into(), [good.clone()].into()),
                ("third-party/new".into(), BTreeSet::new()),
                ("third-party/gone".into(), [other.clone()].into()),
            ]
            .into(),
            held: [
                (
                    ("third-party/redis".into(), good.clone()),
                    vec![child("linux", "amd64", &good), child("unknown", "unknown", &own)],
                ),
                (
                    ("ours/api".into(), own.clone()),
                    vec![child("linux", "arm64", &own), child("unknown", "unknown", &own)],
                ),
            ]
            .into(),
            platforms: ["linux/amd64".to_owned()].into(),
        };
        let arm = Finding::Platform("linux/amd64".into(), vec!["linux/arm64".into()]);
        for (image, expected) in [
            (format!("reg:5000/third-party/redis:7@{good}"), None),
            (format!("reg:5000/third-party/redis@{good}"), None),
            (String::new(), Some(Finding::Nothing)),
            ("redis:7".into(), Some(Finding::Elsewhere)),
            (format!("docker.io/library/redis:7@{good}"), Some(Finding::Elsewhere)),
            (format!("reg:50001/third-party/redis:7@{good}"), Some(Finding::Elsewhere)),
            ("reg:5000/third-party/redis:7".into(), Some(Finding::NotPinned)),
            ("reg:5000/third-party/redis:7@sha256:abc".into(), Some(Finding::NotPinned)),
            (format!("reg:5000/third-party/redis:7@{other}"), Some(Finding::OtherDigest(good.clone()))),
            (format!("reg:5000/third-party/gone:1@{other}"), Some(Finding::Missing)),
            (format!("reg:5000/third-party/new:1@{other}"), Some(Finding::Missing)),
            (format!("reg:5000/ours/web:1@{own}"), Some(Finding::Missing)),
            (format!("reg:5000/ours/api:1@{own}"), Some(arm)),
        ] {
            assert_eq!(judge(&image, &facts), expected, "{image}");
        }
        let anywhere = Facts { platforms: BTreeSet::new(), ..facts };
        assert_eq!(judge(&format!("reg:5000/ours/api:1@{own}"), &anywhere), None, "no node, no platform");
    }

    #[test]
    fn every_place_that_names_an_image_is_found() {
        let places: Places = serde_saphyr::from_str(
            "images:\n- {kind: Cluster, field: spec.imageName}\n- {kind: Deployment, field: 'spec.containers[*].args[*]', after: --side=}\n- {kind: Deployment, field: 'spec.containers[*].env[*].value', name: SIDE}\nnotImages:\n- {kind: Pod, field: 'spec.containers[*].args[*]', after: a.b/}\n",
        )
        .unwrap();
        for (object, expected) in [
            (
                "{kind: Pod, spec: {containers: [{image: a}], initContainers: [{image: b}], ephemeralContainers: [{image: c}]}}",
                vec![
                    "spec.containers[0].image=a",
                    "spec.ephemeralContainers[0].image=c",
                    "spec.initContainers[0].image=b",
                ],
            ),
            (
                "{kind: CronJob, spec: {jobTemplate: {spec: {template: {spec: {containers: [{}, {image: a}]}}}}}}",
                vec!["spec.jobTemplate.spec.template.spec.containers[1].image=a"],
            ),
            (
                "{kind: Pod, spec: {volumes: [{image: {reference: a, pullPolicy: Always}}]}}",
                vec!["spec.volumes[0].image.reference=a"],
            ),
            (
                "{kind: Any, spec: {deep: {er: [{image: {repository: r/a, tag: 1.5, digest: d}}]}}}",
                vec!["spec.deep.er[0].image=r/a:1.5@d"],
            ),
            ("{kind: Any, spec: {image: {registry: q.io, repository: a, tag: x}}}", vec!["spec.image=q.io/a:x"]),
            ("{kind: Any, spec: {image: ''}}", vec![]),
            ("{kind: Any, spec: {image: {pullPolicy: Always}}}", vec![]),
            ("{kind: Pod, spec: {containers: [{image: ''}]}}", vec!["spec.containers[0].image="]),
            ("{kind: CustomResourceDefinition, spec: {image: a}}", vec![]),
            ("{kind: ConfigMap, data: {image: logo.png}}", vec![]),
            ("{kind: Cluster, spec: {imageName: a}}", vec!["spec.imageName=a"]),
            ("{kind: Other, spec: {imageName: a}}", vec![]),
            (
                "{kind: Deployment, spec: {containers: [{args: ['--side=a', '--else=a', '--x=q.io/a/b:1'], env: [{name: SIDE, value: a}, {name: B, value: 'c:5/d:1'}, {name: C, value: x}]}]}}",
                vec![
                    "spec.containers[0].args[0]=a",
                    "spec.containers[0].args[2]=q.io/a/b:1",
                    "spec.containers[0].env[0].value=a",
                    "spec.containers[0].env[1].value=c:5/d:1",
                ],
            ),
            (
                "{kind: Pod, spec: {containers: [{args: ['a.b/c:1', 'a.c/c:1']}]}}",
                vec!["spec.containers[0].args[1]=a.c/c:1"],
            ),
        ] {
            let value: Value = serde_saphyr::from_str(object).unwrap();
            let mut found: Vec<String> =
                images_of(&value, &places).into_iter().map(|(field, image)| format!("{field}={image}")).collect();
            found.sort();
            assert_eq!(found, expected, "{object}");
        }
    }

    #[test]
    fn only_what_can_be_nothing_else_reads_like_an_image() {
        let digest = Digest::of(b"x");
        for image in [
            "quay.io/a/b:v1.2",
            "localhost/a:1",
            "reg:5000/a:1",
            "registry.k8s.io/pause:3.10",
            &format!("ghcr.io/a@{digest}"),
        ] {
            assert!(reads_like_an_image(image), "{image}");
        }
        for other in [
            "redis:7",
            "library/redis:7",
            "redis-master:6379",
            "quay.io/a/b",
            "http://minio.ameide:9000/a:1",
            "postgres://u:p@postgres.ameide:5432/db",
            "postgres.ameide:5432/db?a:b",
            "minio.ameide.svc:9000/bucket",
            "ameide.dev/key:NoSchedule",
            "/etc/a.conf:/x:ro",
            "echo quay.io/a:1",
            "quay.io/A:1",
            "ghcr.io/a@sha256:12",
            "",
        ] {
            assert!(!reads_like_an_image(other), "{other}");
        }
    }

    #[test]
    fn objects_are_named_and_broken_documents_tell_no_secret() {
        let text = "---\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{image: x}]}\n---\n# nothing\n---\nkind: List\nitems:\n- {kind: Job, metadata: {name: b, namespace: other}, spec: {image: z}}\n";
        let found = images(text, "40-l", "r", "ns", &Places::default()).unwrap();
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                r#"layer 40-l, release r: Pod ns/a: spec.containers[0].image: "x""#,
                r#"layer 40-l, release r: Job other/b: spec.image: "z""#,
            ]
        );
        let error = images("a: 1\npassword: [hunter2\n", "40-l", "r", "ns", &Places::default()).unwrap_err();
        assert!(error.contains("release r") && !error.contains("hunter2"), "{error}");
    }
}
