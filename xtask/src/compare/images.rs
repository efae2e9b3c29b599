//! Every image that a layer renders, and whether the mirror has it with the lock's digest: checked
//! before Helm starts, because later it is a pod that cannot start.

use std::collections::BTreeSet;

use image_mirror::{Digest, ImagesLock, LockedImage};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use serde::Deserialize;
use serde_json::Value;

use crate::repo::Tree;
use crate::repo::read_yaml;
use crate::world::kubernetes::nodes;
use run_record::{Code, Failure};

/// An image, and where a rendered object names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// `StatefulSet ameide/minio`
    pub object: String,
    /// `spec.template.spec.containers[0].image`
    pub field: String,
    pub image: String,
}

/// Where images are, besides text that can only be an image: `infra/images/places.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Places {
    fields: Vec<String>,
    variables: Vec<String>,
    flags: Vec<String>,
    annotations: Vec<String>,
    registries: Vec<String>,
    never: Vec<String>,
}

impl Places {
    /// # Errors
    /// `usage` for a file that cannot be read.
    pub fn of(tree: &Tree) -> Result<Self, Failure> {
        read_yaml(&tree.path("infra/images/places.yaml"))
    }
}

/// Whether a name matches one of these, where `*` is any text.
fn is_one_of(patterns: &[String], name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    patterns.iter().any(|pattern| matches(&pattern.to_ascii_lowercase(), &name))
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = name.split_once(part) else { return false };
        name = after;
    }
    name.ends_with(last)
}

/// All images in rendered manifests, in pod templates, hooks, tests, custom resources, image
/// volumes and ConfigMaps: text in the places that `places` names, and anywhere else text that can
/// only be an image. CRDs and Secrets are skipped.
///
/// # Errors
/// Line and column of what is not YAML.
pub fn images(manifests: &str, places: &Places) -> Result<Vec<Named>, String> {
    let mut search = Search { places, object: String::new(), found: BTreeSet::new() };
    // This includes rendered Secrets, and failures end up in logs: only the position is given,
    // never the text.
    let documents = crate::files::bounds::documents(manifests).map_err(|error| {
        let place = error.location().map(|place| format!(" at line {}, column {}", place.line(), place.column()));
        format!("what it renders is not YAML{}", place.unwrap_or_default())
    })?;
    for value in documents {
        let items = value.get("items").and_then(Value::as_array).filter(|_| value["kind"] == "List");
        for object in items.into_iter().flatten().chain(items.is_none().then_some(&value)) {
            search.object = name(object);
            match object["kind"].as_str().unwrap_or_default() {
                // A CRD's defaults and examples are not images in use yet.
                "Secret" | "CustomResourceDefinition" => {}
                // A file in it is not a Kubernetes object, and its keys are variables for whoever
                // reads them.
                "ConfigMap" => search.data(&object["data"]),
                _ => search.walk(object, ""),
            }
        }
    }
    Ok(search.found.into_iter().collect())
}

fn name(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let kind = text("/kind").unwrap_or("object");
    let name = text("/metadata/name").or(text("/metadata/generateName")).unwrap_or("without a name");
    match text("/metadata/namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

struct Search<'a> {
    places: &'a Places,
    /// The object being searched.
    object: String,
    found: BTreeSet<Named>,
}

impl Search<'_> {
    fn add(&mut self, field: &str, image: impl Into<String>) {
        self.found.insert(Named { object: self.object.clone(), field: field.to_owned(), image: image.into() });
    }

    /// The parts of a text that can only be an image; in a place for images, those that can be one.
    fn text(&mut self, field: &str, text: &str, generous: bool) {
        let found: Vec<&str> = words(text)
            .filter(|word| is_reference(word) || generous && may_be_image(word))
            .filter(|word| {
                let surely = word.contains("@sha256:") || is_one_of(&self.places.registries, word);
                surely || !is_one_of(&self.places.never, word)
            })
            .collect();
        for image in found {
            self.add(field, image);
        }
    }

    fn data(&mut self, data: &Value) {
        for (key, value) in data.as_object().into_iter().flatten() {
            let generous = is_one_of(&self.places.variables, key);
            self.text(&format!("data.{key}"), value.as_str().unwrap_or_default(), generous);
        }
    }

    fn walk(&mut self, value: &Value, path: &str) {
        match value {
            Value::Object(fields) => {
                let variable = fields.get("name").and_then(Value::as_str).filter(|_| path.ends_with(']'));
                for (key, inner) in fields {
                    let field = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    match (key.as_str(), inner) {
                        ("metadata", _) => self.annotations(&inner["annotations"], &field),
                        ("args" | "command", Value::Array(words)) => self.arguments(words, &field),
                        ("value", Value::String(text)) => {
                            let generous = variable.is_some_and(|name| is_one_of(&self.places.variables, name));
                            self.text(&field, text, generous);
                        }
                        (_, Value::String(image)) if is_one_of(&self.places.fields, key) => {
                            // If empty, it is the operator's default.
                            if !image.is_empty() {
                                self.add(&field, image);
                            }
                        }
                        (_, Value::String(text)) => {
                            // `env: {KAFKA_IMAGE: …}`, as in custom resources.
                            let generous = is_one_of(&self.places.variables, key);
                            self.text(&field, text, generous);
                        }
                        ("image", Value::Object(parts)) => match whole(parts) {
                            Some(image) => self.add(&field, image),
                            None => self.walk(inner, &field),
                        },
                        _ => self.walk(inner, &field),
                    }
                }
            }
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.walk(item, &format!("{path}[{at}]"));
                }
            }
            Value::String(text) => self.text(path, text, false),
            _ => {}
        }
    }

    /// `--image=name:tag`, `--image name:tag`, and images in shell scripts.
    fn arguments(&mut self, words: &[Value], field: &str) {
        let mut before = "";
        for (at, word) in words.iter().enumerate() {
            let word = word.as_str().unwrap_or_default();
            let flag = |word: &str| is_one_of(&self.places.flags, word.trim_start_matches('-'));
            let (name, value) = match word.split_once('=') {
                Some((name, value)) if name.starts_with('-') => (name, value),
                _ => (before, word),
            };
            let generous = name.starts_with('-') && flag(name);
            self.text(&format!("{field}[{at}]"), value, generous);
            before = word;
        }
    }

    fn annotations(&mut self, annotations: &Value, field: &str) {
        for (key, value) in annotations.as_object().into_iter().flatten() {
            if is_one_of(&self.places.annotations, key) {
                self.text(&format!("{field}.annotations.{key}"), value.as_str().unwrap_or_default(), true);
            }
        }
    }
}

/// The parts of a text that could be a name with slashes and colons: lists, JSON and assignments
/// are split. Skips URLs, and text that a template still has to fill in.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_ascii_alphanumeric() || "._-/:@+~%".contains(c);
    let mut rest = text;
    std::iter::from_fn(move || {
        let begin = rest.find(part)?;
        let open = rest[..begin].ends_with(['}', ')', '$', '>', '\\']);
        let whole = &rest[begin..];
        let end = whole.find(|c: char| !part(c)).unwrap_or(whole.len());
        let after = &whole[end..];
        // The placeholder is part of the word: `name:$(TAG)`, `{{ .registry }}/name:1`.
        let templated = after.starts_with(['$', '{', '<', '(']) || open && whole.starts_with(['/', ':', '.', '-', '_']);
        rest = after;
        let word = whole[..end].trim_end_matches(['.', ':']);
        Some(if templated || word.contains("://") { "" } else { word })
    })
    .filter(|word| !word.is_empty())
}

/// An image given in parts, as in custom resources and image volumes.
fn whole(parts: &serde_json::Map<String, Value>) -> Option<String> {
    let text = |key: &str| parts.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(reference) = text("reference") {
        return Some(reference.to_owned());
    }
    let repository = text("repository").or(text("name"))?;
    let registry = text("registry").map(|registry| format!("{registry}/")).unwrap_or_default();
    let tag = text("tag").map(|tag| format!(":{tag}")).unwrap_or_default();
    let digest = text("digest").map(|digest| format!("@{digest}")).unwrap_or_default();
    Some(format!("{registry}{repository}{tag}{digest}"))
}

/// Whether a text can only be an image: a registry's name with a dot or a port, a repository, and a
/// tag or digest.
fn is_reference(text: &str) -> bool {
    let Some((host, rest)) = text.split_once('/') else { return false };
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let port_like = |port: &str| !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    let label = |label: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        label.starts_with(plain) && label.ends_with(plain) && label.chars().all(|c| plain(c) || c == '-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    // Without a port it ends like an internet host name: not in a number or a single letter.
    let named = name.contains('.') && last.len() > 1 && last.bytes().all(|byte| byte.is_ascii_lowercase());
    let registry = match port {
        Some(port) => port_like(port),
        None => named || name == "localhost",
    };
    let (_, tag, digest) = parts(rest);
    registry && name.split('.').all(label) && is_image(rest) && (tag.is_some() || digest.is_some())
}

/// Whether a text can be an image, if only its place suggests so.
fn may_be_image(text: &str) -> bool {
    let (name, tag, digest) = parts(text);
    // `4.2.0` is the version in front of an image, and `Always` a pull policy.
    is_image(text) && (tag.is_some() || digest.is_some() || name.contains('/') && name.contains('.'))
}

/// Name, tag and digest.
fn parts(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
    match name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((name, tag)) => (name, Some(tag), digest),
        None => (name, None, digest),
    }
}

fn is_image(text: &str) -> bool {
    let (name, tag, digest) = parts(text);
    let component = |text: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        text.starts_with(plain) && text.ends_with(plain) && text.chars().all(|c| plain(c) || "._-:".contains(c))
    };
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let tag_like = |tag: &str| {
        tag.starts_with(word)
            && tag.ends_with(word)
            && tag.len() <= 128
            && tag.chars().all(|c| word(c) || ".-".contains(c))
    };
    let (first, rest) = name.split_once('/').map_or((name, ""), |(first, rest)| (first, rest));
    component(first)
        && (rest.is_empty() && !first.contains(':')
            || rest.split('/').all(|part| component(part) && !part.contains(':')))
        && tag.is_none_or(tag_like)
        && digest.is_none_or(|digest| Digest::parse(digest).is_ok())
}

/// Why an image is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not come from the mirror.
    Outside,
    /// It is from the mirror, but not in the lock.
    Unknown,
    Unpinned,
    OtherDigest(Option<Digest>),
    /// It has no build for this node platform.
    Platform(String),
}

/// The decision, from an image, the registry that pods pull from, the lock, and the nodes'
/// platforms.
pub fn judge(image: &str, pull: &str, lock: &ImagesLock, platforms: &[String]) -> Option<Fault> {
    let Some(rest) = image.strip_prefix(pull).and_then(|rest| rest.strip_prefix('/')) else {
        return Some(Fault::Outside);
    };
    let (name, digest) = rest.split_once('@').map_or((rest, None), |(name, digest)| (name, Some(digest)));
    let repository = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
    let of_it: Vec<&LockedImage> = lock.images.iter().filter(|locked| locked.target == repository).collect();
    let Some(first) = of_it.first() else { return Some(Fault::Unknown) };
    let Some(digest) = digest else { return Some(Fault::Unpinned) };
    let has = |locked: &&&LockedImage| {
        locked.target_digest.as_ref().is_some_and(|locked| locked.as_str() == digest)
            || locked.children.iter().any(|child| child.digest.as_str() == digest)
    };
    let Some(locked) = of_it.iter().find(has) else { return Some(Fault::OtherDigest(first.target_digest.clone())) };
    let one = locked.children.iter().filter(|child| child.digest.as_str() == digest).collect::<Vec<_>>();
    let children = if one.is_empty() { locked.children.iter().collect() } else { one };
    let lacks = |platform: &&String| !children.is_empty() && !children.iter().any(|child| child.is_for(platform));
    platforms.iter().find(lacks).map(|platform| Fault::Platform(platform.clone()))
}

/// Whether a line of `unmirrored:` matches this image: completely, or with `*` as a prefix.
fn is_exempt(image: &str, exempt: &[String]) -> bool {
    exempt.iter().any(|line| match line.strip_suffix('*') {
        Some(beginning) => image.starts_with(beginning),
        None => image == line,
    })
}

/// Checks the images of a layer; those that are `exempt` may come from anywhere.
///
/// # Errors
/// `image-not-mirrored` (or `image-platform` if that is the only problem), naming each object,
/// field and image.
pub fn check(
    layer: &str,
    named: &[Named],
    pull: &str,
    lock: &ImagesLock,
    platforms: &[String],
    exempt: &[String],
) -> Result<(), Failure> {
    let judged = named.iter().filter(|named| !is_exempt(&named.image, exempt));
    let faults: Vec<(&Named, Fault)> =
        judged.filter_map(|named| Some((named, judge(&named.image, pull, lock, platforms)?))).collect();
    let Some((_, first)) = faults.first() else { return Ok(()) };
    let platform_only = faults.iter().all(|(_, fault)| matches!(fault, Fault::Platform(_)));
    let code = if platform_only { Code::ImagePlatform } else { Code::ImageNotMirrored };
    let remedy = match first {
        Fault::Outside | Fault::Unknown => {
            "list it in infra/images/images.yaml, have the chart's values take it from there, then cargo xtask mirror"
        }
        Fault::Unpinned => "have the chart render repository:tag@digest, as docs/layers.md shows",
        Fault::OtherDigest(_) => "have the values read the digest from the lock; cargo xtask mirror --update renews it",
        Fault::Platform(_) => {
            "name the platform in infra/images/images.yaml, then cargo xtask mirror --update and cargo xtask mirror"
        }
    };
    let plural = if faults.len() == 1 { "image" } else { "images" };
    let message = format!("{layer} renders {} {plural} that the mirror does not have in that form", faults.len());
    let mut failure = Failure::new(code, message).remedy(remedy);
    failure.evidence = faults
        .iter()
        .map(|(named, fault)| {
            let why = match fault {
                Fault::Outside => format!("is not from {pull}"),
                Fault::Unknown => "is not in the lock".to_owned(),
                Fault::Unpinned => "is not pinned by a digest".to_owned(),
                Fault::OtherDigest(Some(digest)) => format!("has another digest than the lock, {digest}"),
                Fault::OtherDigest(None) => "is not resolved in the lock".to_owned(),
                Fault::Platform(platform) => format!("has no build for the nodes' {platform}"),
            };
            format!("{}: {}: {} {why}", named.object, named.field, named.image)
        })
        .collect();
    Err(failure)
}

/// The platforms of the cluster's nodes: `linux/amd64`.
pub async fn node_platforms(client: &Client) -> Result<Vec<String>, Failure> {
    let platforms: BTreeSet<String> = nodes::all(client)
        .await?
        .into_iter()
        .filter_map(|node| node.status?.node_info)
        .map(|info| format!("{}/{}", info.operating_system, info.architecture))
        .collect();
    Ok(platforms.into_iter().collect())
}

/// An image's name as a node lists it: of `NAME:TAG@DIGEST`, the node keeps `NAME@DIGEST`.
pub fn by_digest(image: &str) -> String {
    match parts(image) {
        (name, _, Some(digest)) => format!("{name}@{digest}"),
        _ => image.to_owned(),
    }
}

/// The nodes with room for more images, and the names of those that each has, as far as it lists them
/// (the kubelet lists 50).
///
/// # Errors
/// Errors from reading the nodes.
pub async fn on_nodes(client: &Client) -> Result<Vec<(String, BTreeSet<String>)>, Failure> {
    let names = |node: Node| {
        let images = node.status.and_then(|status| status.images).into_iter().flatten();
        Some((node.metadata.name?, images.flat_map(|image| image.names.unwrap_or_default()).collect()))
    };
    let roomy = nodes::all(client).await?.into_iter().filter(|node| !nodes::is(node, "DiskPressure"));
    Ok(roomy.filter_map(names).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lists_an_image_without_the_tag_beside_its_digest() {
        for (image, listed) in [
            ("reg:5000/a/b:1@sha256:ff", "reg:5000/a/b@sha256:ff"),
            ("reg:5000/a/b@sha256:ff", "reg:5000/a/b@sha256:ff"),
            ("reg:5000/a/b:1", "reg:5000/a/b:1"),
            ("b:1@sha256:ff", "b@sha256:ff"),
        ] {
            assert_eq!(by_digest(image), listed);
        }
    }

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn lock() -> ImagesLock {
        let text = format!(
            "version: 1\nplatforms: [linux/amd64]\nimages:\n\
             - {{id: redis, image: 'docker.io/library/redis:7', target: third-party/redis, targetDigest: '{0}', \
             children: [{{os: linux, arch: amd64, digest: '{1}', size: 1}}, {{os: linux, arch: arm64, variant: v8, digest: '{2}', size: 1}}]}}\n\
             - {{id: new, image: 'docker.io/library/new:1', target: third-party/new}}\n\
             - {{id: bare, image: 'docker.io/library/bare:1', target: third-party/bare, targetDigest: '{3}'}}\n",
            digest("index"),
            digest("amd64"),
            digest("arm64"),
            digest("bare")
        );
        serde_saphyr::from_str(&text).unwrap()
    }

    #[test]
    fn every_row_of_the_decision() {
        let (index, amd64, arm64, other) = (digest("index"), digest("amd64"), digest("arm64"), digest("other"));
        let bare = digest("bare");
        let (amd, arm, s390x) = (["linux/amd64"], ["linux/arm64"], ["linux/amd64", "linux/s390x"]);
        let rows: Vec<(String, &[&str], Option<Fault>)> = vec![
            (format!("reg:5000/third-party/redis:7@{index}"), &amd, None),
            (format!("reg:5000/third-party/redis@{index}"), &arm, None),
            (format!("reg:5000/third-party/redis:7@{amd64}"), &amd, None),
            (format!("reg:5000/third-party/redis:7@{arm64}"), &amd, Some(Fault::Platform("linux/amd64".into()))),
            (format!("reg:5000/third-party/redis:7@{index}"), &s390x, Some(Fault::Platform("linux/s390x".into()))),
            (format!("reg:5000/third-party/redis:7@{index}"), &[], None),
            // If the lock names no children, nothing is known about platforms.
            (format!("reg:5000/third-party/bare:1@{bare}"), &s390x, None),
            ("reg:5000/third-party/redis:7".into(), &amd, Some(Fault::Unpinned)),
            (format!("reg:5000/third-party/redis:7@{other}"), &amd, Some(Fault::OtherDigest(Some(index.clone())))),
            (format!("reg:5000/third-party/new:1@{other}"), &amd, Some(Fault::OtherDigest(None))),
            (format!("reg:5000/third-party/mystery:1@{other}"), &amd, Some(Fault::Unknown)),
            ("docker.io/library/redis:7".into(), &amd, Some(Fault::Outside)),
            ("redis".into(), &amd, Some(Fault::Outside)),
            (format!("reg:5000.evil/third-party/redis@{index}"), &amd, Some(Fault::Outside)),
        ];
        for (image, platforms, expected) in rows {
            let platforms: Vec<String> = platforms.iter().map(|platform| (*platform).to_owned()).collect();
            assert_eq!(judge(&image, "reg:5000", &lock(), &platforms), expected, "{image}");
        }
    }

    fn places() -> Places {
        serde_saphyr::from_str(include_str!("../../../infra/images/places.yaml")).unwrap()
    }

    #[test]
    fn images_are_found_wherever_they_stand() {
        let manifests = "# Source: x
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    spec:
      initContainers: [{name: a, image: init:1}]
      containers:
      - name: b
        image: main:1
        args: [--reloader=quay.io/operator/reloader:v1, --listen=0.0.0.0:80, 'redis.shop:6379']
        env: [{name: SIDE, value: 'ghcr.io/x/side@sha256:0000000000000000000000000000000000000000000000000000000000000000'}, {name: URL, value: 'http://a.b:80/c:d'}]
      volumes: [{name: m, image: {reference: models:1, pullPolicy: Always}}]
---
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: shop, annotations: {helm.sh/hook: test}}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: job:1}], ephemeralContainers: [{image: debug:1}]}}}}}
---
apiVersion: example.com/v1
kind: Cluster
metadata: {name: db}
spec: {proxy: {image: {repository: quay.io/db/proxy, tag: v2}}, nodes: [{image: {registry: r.io, repository: db, digest: 'sha256:1'}}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {image: not-one}
---
apiVersion: v1
kind: List
items: [{kind: Pod, metadata: {name: p}, spec: {containers: [{image: 'listed:1'}]}}]
";
        let found: Vec<String> = images(manifests, &places())
            .unwrap()
            .into_iter()
            .map(|named| format!("{} {} {}", named.object, named.field, named.image))
            .collect();
        let deployment = "Deployment shop/web spec.template.spec";
        assert_eq!(
            found,
            [
                "Cluster db spec.nodes[0].image r.io/db@sha256:1".to_owned(),
                "Cluster db spec.proxy.image quay.io/db/proxy:v2".to_owned(),
                "CronJob shop/nightly spec.jobTemplate.spec.template.spec.containers[0].image job:1".to_owned(),
                "CronJob shop/nightly spec.jobTemplate.spec.template.spec.ephemeralContainers[0].image debug:1"
                    .to_owned(),
                format!("{deployment}.containers[0].args[0] quay.io/operator/reloader:v1"),
                format!("{deployment}.containers[0].env[0].value ghcr.io/x/side@sha256:{}", "0".repeat(64)),
                format!("{deployment}.containers[0].image main:1"),
                format!("{deployment}.initContainers[0].image init:1"),
                format!("{deployment}.volumes[0].image models:1"),
                "Pod p spec.containers[0].image listed:1".to_owned(),
            ]
        );
        assert!(images("kind: [", &places()).is_err());
    }

    fn found(text: &str, generous: bool) -> Vec<&str> {
        words(text).filter(|word| is_reference(word) || generous && may_be_image(word)).collect()
    }

    #[test]
    fn a_registry_whose_name_begins_like_a_class_is_a_registry() {
        let digest = format!("org.example.com/team/app@sha256:{}", "a".repeat(64));
        for text in ["dev.azurecr.io/team/app:1", "net.jfrog.io/docker/app:2", &digest] {
            let manifest = format!("kind: ConfigMap\nmetadata: {{name: x}}\ndata: {{use: 'see {text}'}}\n");
            let found = images(&manifest, &places()).unwrap();
            assert_eq!(found.iter().map(|named| named.image.as_str()).collect::<Vec<_>>(), [text], "{text}");
        }
    }

    #[test]
    fn an_address_is_no_image() {
        for text in [
            "temporal-frontend.ameide.svc:7233",
            "http://minio.ameide.svc:9000/bucket",
            "postgres://user@host.x:5432/db",
            "jdbc:postgresql://db.example:5432/keycloak:1",
            "oci://ghcr.io/team/chart:1.0.0",
            "a.b/c",
            "/etc/x.conf",
            "host.x/path/to:",
            "Example.com/X:1",
            "docker.io/library/x:$(TAG)",
            "docker.io/library/x:{{ .Values.tag }}",
            "$(REGISTRY)/library/x:1",
            "${REGISTRY}.example.com/x:1",
            "x/y:1",
            "docker.io",
            "app.kubernetes.io/name",
            "anna@example.com",
            "anna@example.com:8080/x",
            "org.apache.kafka.common.Serializer:1",
            "github.com/team/module@v1.2.3",
            "10.0.0.0/8:80",
            "12.5/3:4",
            "conf.d/app.conf:ro",
            "/usr/local/bin:/usr/bin:/bin",
            "0.0.0.0:9092",
            "kafka.example.com:9092/topic",
            "quay.io/a/b:v1-{{ .x }}",
            "minio.example.com:9000",
            "https://quay.io/repository/strimzi/kafka?tab=tags:1",
            "2025-11-25T12:00:00Z",
            "a.example/b@sha256:abc",
        ] {
            assert_eq!(found(text, false), [""; 0], "{text}");
        }
        let digest = digest("x");
        for text in [
            "quay.io/a/b:v1".to_owned(),
            "localhost:5000/a:1".to_owned(),
            "registry:5000/a/b:1".to_owned(),
            format!("docker.io/a@{digest}"),
            format!("docker.io/library/a:1.2.3-r4_x@{digest}"),
            "123456789012.dkr.ecr.eu-central-1.amazonaws.com/team/app:1".to_owned(),
        ] {
            assert_eq!(found(&text, false), [text.as_str()], "{text}");
        }
    }

    #[test]
    fn lists_of_images_are_taken_apart() {
        let (a, b) = ("quay.io/strimzi/kafka:0.49.0-kafka-4.1.0", "ghcr.io/x/y:1");
        for list in [
            format!("{a},{b}"),
            format!("{a}, {b}"),
            format!("4.1.0={a}\n4.2.0={b}\n"),
            format!("{a};{b}"),
            format!("{a} {b}"),
            format!(r#"{{"4.1.0":"{a}","y":"{b}"}}"#),
            format!("[\"{a}\", '{b}']"),
            format!("kafka: {a}\ny: {b}\n"),
            format!("--image kafka={a} --image y={b}"),
            format!("exec operator --kafka={a}, \"--y={b}\" --url=http://z.example/x:1"),
        ] {
            assert_eq!(found(&list, false), [a, b], "{list}");
        }
        assert_eq!(found("4.2.0=strimzi/kafka:1\n4.1.0=kafka:2", true), ["strimzi/kafka:1", "kafka:2"]);
        assert_eq!(found("quay.io/keycloak/keycloak", true), ["quay.io/keycloak/keycloak"]);
        for none in ["Always", "4.2.0", "IfNotPresent", "my-secret", "", "true", "team/app"] {
            assert_eq!(found(none, true), [""; 0], "{none}");
        }
    }

    /// Files like those that these charts render, with the images that they would pull in a comment
    /// in their first lines.
    #[test]
    fn every_image_of_three_operators_is_found_and_nothing_else() {
        for (name, manifests) in [
            ("strimzi", include_str!("../../../tests/charts/strimzi.yaml")),
            ("cloudnative-pg", include_str!("../../../tests/charts/cloudnative-pg.yaml")),
            ("keycloak", include_str!("../../../tests/charts/keycloak.yaml")),
        ] {
            let expected: BTreeSet<&str> = manifests
                .lines()
                .map_while(|line| line.strip_prefix("#"))
                .filter_map(|line| line.strip_prefix("   "))
                .collect();
            let images = images(manifests, &places()).unwrap();
            let images: BTreeSet<&str> = images.iter().map(|named| named.image.as_str()).collect();
            assert!(expected.len() > 2, "{name}");
            assert_eq!(images, expected, "{name}");
        }
    }

    #[test]
    fn a_pattern_is_a_name_with_any_text_in_it() {
        for (pattern, name, same) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "ab", true),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "acb", false),
            ("*_image", "kafka_image", true),
            ("aa*a", "aa", false),
        ] {
            assert_eq!(matches(pattern, name), same, "{pattern} {name}");
        }
    }

    #[test]
    fn all_faults_are_told_with_object_field_and_image() {
        let named = |image: &str| Named { object: "Job a/b".into(), field: "spec.x.image".into(), image: image.into() };
        let named = [named("nginx:1.27"), named("reg:5000/third-party/redis:7")];
        let check = |exempt: &[&str]| {
            let exempt: Vec<String> = exempt.iter().map(|line| (*line).to_owned()).collect();
            check("45-x", &named, "reg:5000", &lock(), &[], &exempt)
        };
        let failure = check(&[]).unwrap_err();
        assert_eq!(failure.code, Code::ImageNotMirrored);
        assert_eq!(failure.evidence[0], "Job a/b: spec.x.image: nginx:1.27 is not from reg:5000");
        assert_eq!(
            failure.evidence[1],
            "Job a/b: spec.x.image: reg:5000/third-party/redis:7 is not pinned by a digest"
        );
        assert_eq!(check(&["nginx:1.27"]).unwrap_err().evidence.len(), 1);
        assert_eq!(check(&["nginx:1.2"]).unwrap_err().evidence.len(), 2);
        assert!(check(&["nginx:1.*", "reg:5000/*"]).is_ok() && check(&["*"]).is_ok());
    }

    #[test]
    fn what_is_no_yaml_is_told_without_its_text() {
        for text in [
            "kind: Secret\npassword: [hunter2\n",
            "kind: Secret\npassword: \"hunter2\n",
            "a: 1\n\thunter2: 2\n",
            "hunter2: 1\nhunter2: 2\n",
        ] {
            let error = images(text, &places()).unwrap_err();
            assert!(error.contains("line") && !error.contains("hunter2"), "{error}");
        }
    }
}
