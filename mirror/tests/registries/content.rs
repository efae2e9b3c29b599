//! Every form that an image can have, copied between registries.

use super::*;
use registry::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, push_as};
use serde_json::Value;

/// A registry that accepts layers stored elsewhere.
fn liberal() -> Registry {
    Registry::start_with(&["-e", "REGISTRY_VALIDATION_MANIFESTS_URLS_ALLOW=[.*]"])
}

/// The wanted image of a repository, resolved and copied to another registry.
#[track_caller]
fn through(from: &Registry, repository: &str, platforms: &[&str]) -> (ImagesLock, Registry) {
    let target = liberal();
    let options = options(&from.address, &target.address);
    let mut wanted = wanted(&[repository]);
    wanted.images[0].platforms = platforms.iter().map(|platform| (*platform).to_owned()).collect();
    let lock = block(image_mirror::resolve(&wanted, None, &options, &Heard::default())).unwrap();
    copied(&lock, &options);
    assert_complete(&target.address, &lock);
    (lock, target)
}

struct Maker<'a> {
    at: &'a str,
    repository: &'a str,
}

impl Maker<'_> {
    fn blob(&self, bytes: &[u8], media_type: &str) -> Value {
        let mut blob = push_blob(self.at, self.repository, bytes);
        blob["mediaType"] = media_type.into();
        blob
    }

    fn config(&self, arch: &str) -> Value {
        let config = json!({"os": "linux", "architecture": arch, "for": self.repository}).to_string();
        self.blob(config.as_bytes(), "application/vnd.oci.image.config.v1+json")
    }

    fn layer(&self, bytes: &[u8]) -> Value {
        self.blob(bytes, "application/vnd.oci.image.layer.v1.tar+gzip")
    }

    /// An OCI manifest without a media type.
    fn platform(&self, arch: &str, layers: &[Value]) -> Value {
        let manifest = json!({"schemaVersion": 2, "config": self.config(arch), "layers": layers});
        let mut child = push_as(self.at, self.repository, None, OCI_MANIFEST, &manifest);
        child["platform"] = json!({"os": "linux", "architecture": arch});
        child
    }

    fn tagged(&self, media_type: &str, manifest: &Value) {
        push_as(self.at, self.repository, Some("1"), media_type, manifest);
    }
}

#[test]
fn docker_s_own_formats_stay_what_they_are() {
    let from = liberal();
    let make = Maker { at: &from.address, repository: "content/docker" };
    let children: Vec<Value> = ["amd64", "arm64"]
        .map(|arch| {
            let mut config = make.config(arch);
            config["mediaType"] = "application/vnd.docker.container.image.v1+json".into();
            let layer = make.blob(&noise(1, 20_000), "application/vnd.docker.image.rootfs.diff.tar.gzip");
            let manifest =
                json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": [layer]});
            let mut child = push_manifest(make.at, make.repository, None, &manifest);
            child["platform"] = json!({"os": "linux", "architecture": arch});
            child
        })
        .into();
    make.tagged(DOCKER_LIST, &json!({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": children}));
    let (lock, target) = through(&from, make.repository, &["linux/amd64", "linux/arm64"]);
    assert_eq!(lock.images[0].media_type.as_deref(), Some(DOCKER_LIST));
    let asked = [("Accept", DOCKER_LIST)];
    let answer = http("HEAD", &target.address, "/v2/mirror/content/docker/manifests/1", &asked, b"");
    assert_eq!(answer.header("content-type"), Some(DOCKER_LIST));
}

#[test]
fn manifests_need_not_say_what_they_are_and_indexes_may_hold_indexes() {
    let from = liberal();
    let make = Maker { at: &from.address, repository: "content/nested" };
    let inner = json!({"schemaVersion": 2, "manifests": [make.platform("amd64", &[make.layer(&noise(2, 9000))])]});
    let inner = push_as(make.at, make.repository, None, OCI_INDEX, &inner);
    let [amd64, arm64] = ["amd64", "arm64"].map(|arch| make.platform(arch, &[make.layer(&noise(3, 9000))]));
    make.tagged(OCI_INDEX, &json!({"schemaVersion": 2, "manifests": [amd64, inner, arm64]}));
    through(&from, make.repository, &["linux/amd64", "linux/arm64"]);
}

#[test]
fn a_layer_may_stand_twice_be_empty_or_lie_elsewhere() {
    let from = liberal();
    let make = Maker { at: &from.address, repository: "content/odd" };
    let (twice, empty) = (make.layer(&noise(4, 70_000)), make.layer(b""));
    let foreign = json!({"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "size": 12,
        "digest": Digest::of(b"nobody has it").as_str(), "urls": ["https://layers.example/1"]});
    let layers = [twice.clone(), empty.clone(), twice, foreign, empty];
    let manifest = json!({"schemaVersion": 2, "config": make.config("amd64"), "layers": layers});
    make.tagged(OCI_MANIFEST, &manifest);
    let (lock, target) = through(&from, make.repository, &["linux/amd64"]);
    // A registry that does not accept such layers says so, and nothing of the image can be pulled.
    let strict = Registry::start();
    let error = copy(&lock, &options(&from.address, &strict.address)).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert_invisible(&strict.address, &lock);
    drop(target);
}

/// `linux/arm/v7` is that variant, `linux/arm64` any.
#[test]
fn variants_are_told_apart() {
    let from = liberal();
    let make = Maker { at: &from.address, repository: "content/arm" };
    let variant = |arch: &str, variant: &str| {
        let mut child = make.platform(arch, &[make.layer(variant.as_bytes())]);
        child["platform"]["variant"] = variant.into();
        child
    };
    let children = [variant("arm", "v6"), variant("arm", "v7"), variant("arm64", "v8")];
    make.tagged(OCI_INDEX, &json!({"schemaVersion": 2, "manifests": children}));
    for (platform, expected) in [("linux/arm/v7", 1), ("linux/arm/v6", 0), ("linux/arm64", 2)] {
        let (lock, _) = through(&from, make.repository, &[platform]);
        let pinned = lock.images[0].target_digest.as_ref().unwrap();
        assert_eq!(pinned.as_str(), children[expected]["digest"], "{platform}");
    }
    let mut wanted = wanted(&[make.repository]);
    wanted.images[0].platforms = vec!["linux/arm/v5".to_owned()];
    let options = options(&from.address, "127.0.0.1:1");
    let error = block(image_mirror::resolve(&wanted, None, &options, &Heard::default())).unwrap_err();
    assert!(error.to_string().contains("no linux/arm/v5: it has linux/arm/v6, linux/arm/v7"), "{error}");
}

/// An index that names a manifest missing in its registry.
#[test]
fn an_index_with_a_hole_is_told_and_nothing_of_it_can_be_pulled() {
    let lock = image("content/hole", &[8000]);
    let hole = lock.images[0].children[1].digest.clone();
    assert_eq!(http("DELETE", source(), &format!("/v2/content/hole/manifests/{hole}"), &[], b"").status, 202);
    let target = Registry::start();
    let error = copy(&lock, &options(source(), &target.address)).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains(hole.as_str()), "{error}");
    assert_invisible(&target.address, &lock);
}
