//! Every image that a layer renders, and whether the mirror has it as the lock says:
//! found out before Helm starts, since afterwards it is a pod that cannot start.

use std::collections::BTreeSet;

use image_mirror::{Digest, Lock, LockedImage};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, ListParams};
use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::kubernetes::read_failed;

/// An image where a rendered object names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// `StatefulSet ameide/minio`
    pub object: String,
    /// `spec.template.spec.containers[0].image`
    pub field: String,
    pub image: String,
}

/// All images of rendered manifests: every `image` field, at whatever depth and of
/// whatever kind (pod templates, hooks, tests, custom resources), image volumes, and
/// arguments and environment variables whose value can be nothing else than an image.
///
/// # Errors
/// Line and column of what is no YAML.
pub fn images(manifests: &str) -> Result<Vec<Named>, String> {
    let mut found = BTreeSet::new();
    // Rendered Secrets are in there, and what fails ends up in logs: the place is told, never the text.
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifests).map_err(|error| {
        let place = error.location().map(|place| format!(" at line {}, column {}", place.line(), place.column()));
        format!("what it renders is no YAML{}", place.unwrap_or_default())
    })?;
    for value in documents {
        let items = value.get("items").and_then(Value::as_array).filter(|_| value["kind"] == "List");
        for object in items.into_iter().flatten().chain(items.is_none().then_some(&value)) {
            // What they hold is data, and a file in it is no field of Kubernetes.
            if object["kind"] == "ConfigMap" || object["kind"] == "Secret" {
                continue;
            }
            walk(object, &name(object), "", &mut found);
        }
    }
    Ok(found.into_iter().collect())
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

fn walk(value: &Value, object: &str, path: &str, found: &mut BTreeSet<Named>) {
    let named = |field: String, image: String| Named { object: object.to_owned(), field, image };
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                let field = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match (key.as_str(), inner) {
                    // Empty, it is the operator's own.
                    ("image", Value::String(image)) if !image.is_empty() => {
                        found.insert(named(field, image.clone()));
                    }
                    ("image", Value::Object(parts)) => match whole(parts) {
                        Some(image) => {
                            found.insert(named(field, image));
                        }
                        None => walk(inner, object, &field, found),
                    },
                    ("value", Value::String(text)) if path.contains("env[") && is_reference(text) => {
                        found.insert(named(field, text.clone()));
                    }
                    ("args" | "command", Value::Array(words)) => {
                        for (at, word) in words.iter().enumerate() {
                            // `--image=registry/name:tag`
                            let text = word.as_str().unwrap_or_default();
                            let text = text.split_once('=').map_or(text, |(_, value)| value);
                            if is_reference(text) {
                                found.insert(named(format!("{field}[{at}]"), text.to_owned()));
                            }
                        }
                    }
                    _ => walk(inner, object, &field, found),
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                walk(item, object, &format!("{path}[{at}]"), found);
            }
        }
        _ => {}
    }
}

/// An image in parts, as custom resources and image volumes have it.
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

/// Whether a text can be nothing else than an image: a registry's name with a dot or a
/// port, a repository, and a tag or digest.
fn is_reference(text: &str) -> bool {
    if text.contains("://") || text.contains(char::is_whitespace) || text.contains(['$', '{', ',', '?', '=']) {
        return false;
    }
    let Some((host, rest)) = text.split_once('/') else { return false };
    let (name, digest) = rest.split_once('@').map_or((rest, None), |(name, digest)| (name, Some(digest)));
    let (repository, tag) = name.rsplit_once(':').map_or((name, None), |(repository, tag)| (repository, Some(tag)));
    let lower = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c))
    };
    let tag_like = |tag: &str| !tag.is_empty() && tag.len() <= 128 && !tag.contains('/');
    (host.contains('.') || host.contains(':') || host == "localhost")
        && lower(host, ".-:")
        && lower(repository, "._-/")
        && digest.is_none_or(|digest| Digest::parse(digest).is_ok())
        && tag.is_none_or(tag_like)
        && (tag.is_some() || digest.is_some())
}

/// Why an image will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It comes from somewhere else than the mirror.
    Outside,
    /// The mirror's, but in no lock.
    Unknown,
    Unpinned,
    OtherDigest(Option<Digest>),
    /// None of a node.
    Platform(String),
}

/// The decision: an image, where pods pull from, what the lock says, what the nodes are.
pub fn judge(image: &str, pull: &str, lock: &Lock, platforms: &[String]) -> Option<Fault> {
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

/// Whether a line of `unmirrored:` means this image: all of it, or with `*` its beginning.
fn is_exempt(image: &str, exempt: &[String]) -> bool {
    exempt.iter().any(|line| match line.strip_suffix('*') {
        Some(beginning) => image.starts_with(beginning),
        None => image == line,
    })
}

/// What is wrong with the images of a layer; those that are `exempt` may come from anywhere.
///
/// # Errors
/// `image-not-mirrored` (`image-platform` where that is all), naming each object, field and image.
pub fn check(
    layer: &str,
    named: &[Named],
    pull: &str,
    lock: &Lock,
    platforms: &[String],
    exempt: &[String],
) -> Result<(), Failure> {
    let judged = named.iter().filter(|named| !is_exempt(&named.image, exempt));
    let faults: Vec<(&Named, Fault)> =
        judged.filter_map(|named| Some((named, judge(&named.image, pull, lock, platforms)?))).collect();
    let Some((_, first)) = faults.first() else { return Ok(()) };
    let platform_only = faults.iter().all(|(_, fault)| matches!(fault, Fault::Platform(_)));
    let code = if platform_only { "image-platform" } else { "image-not-mirrored" };
    let remedy = match first {
        Fault::Outside | Fault::Unknown => {
            "list it in infra/images/images.yaml, let the chart's values take it from there, then cargo xtask mirror"
        }
        Fault::Unpinned => "let the chart print repository:tag@digest, as docs/layers.md shows",
        Fault::OtherDigest(_) => "let the values read the digest from the lock; cargo xtask mirror --update renews it",
        Fault::Platform(_) => {
            "name the platform in infra/images/images.yaml, then cargo xtask mirror --update and cargo xtask mirror"
        }
    };
    let plural = if faults.len() == 1 { "image" } else { "images" };
    let message = format!("{layer} renders {} {plural} that the mirror does not have like that", faults.len());
    let mut failure = Failure::new(code, Exit::Registry, message).remedy(remedy);
    failure.evidence = faults
        .iter()
        .map(|(named, fault)| {
            let why = match fault {
                Fault::Outside => format!("is not from {pull}"),
                Fault::Unknown => "is not in the lock".to_owned(),
                Fault::Unpinned => "is not pinned by a digest".to_owned(),
                Fault::OtherDigest(Some(digest)) => format!("has another digest than the lock, {digest}"),
                Fault::OtherDigest(None) => "is not resolved in the lock".to_owned(),
                Fault::Platform(platform) => format!("is not made for the nodes' {platform}"),
            };
            format!("{}: {}: {} {why}", named.object, named.field, named.image)
        })
        .collect();
    Err(failure)
}

/// What the cluster's nodes are: `linux/amd64`.
pub async fn node_platforms(client: &Client) -> Result<Vec<String>, Failure> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
    let nodes = nodes.map_err(|error| read_failed("the nodes", error))?;
    let platforms: BTreeSet<String> = nodes
        .items
        .into_iter()
        .filter_map(|node| node.status?.node_info)
        .map(|info| format!("{}/{}", info.operating_system, info.architecture))
        .collect();
    Ok(platforms.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn lock() -> Lock {
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
            // Of a lock that names no children nothing is known.
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
        let found: Vec<String> = images(manifests)
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
        assert!(images("kind: [").is_err());
    }

    #[test]
    fn an_address_is_no_image() {
        for text in [
            "temporal-frontend.ameide.svc:7233",
            "http://minio.ameide.svc:9000/bucket",
            "postgres://user@host.x:5432/db",
            "a.b/c",
            "/etc/x.conf",
            "host.x/path/to:",
            "Example.com/X:1",
            "docker.io/library/x:$(TAG)",
            "a.b/c:1,d.e/f:2",
            "x/y:1",
        ] {
            assert!(!is_reference(text), "{text}");
        }
        for text in [
            "quay.io/a/b:v1",
            "localhost:5000/a:1",
            "docker.io/a@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ] {
            assert!(is_reference(text), "{text}");
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
        assert_eq!((failure.code, failure.exit), ("image-not-mirrored", Exit::Registry));
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
            let error = images(text).unwrap_err();
            assert!(error.contains("line") && !error.contains("hunter2"), "{error}");
        }
    }
}
