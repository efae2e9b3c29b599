//! The images of the cluster itself, before there is a cluster: from a registry of the test's own,
//! with Docker's command as a stand-in.

use image_mirror::Digest;
use serde_json::json;

use crate::consent::{Machine, World};
use crate::support::edit;
use crate::support::server::{Answer, Server};

/// A registry that has given this machine all that it gives in six hours.
fn used_up() -> Server {
    Server::start(|_| {
        let text = "toomanyrequests: You have reached your unauthenticated pull rate limit.";
        Answer::json(429, &json!({"errors": [{"code": "TOOMANYREQUESTS", "message": text}]}))
            .with("X-Retry-After", "21600")
    })
}

/// A machine whose cluster needs three images of this registry.
fn machine(registry: &Server) -> Machine {
    let machine = World::Healthy.machine();
    let digest = Digest::of(b"x");
    let image = |id: &str, role: &str| {
        format!(
            "- id: {id}\n  image: {}@{digest}\n  target: third-party/{id}\n  role: {role}\n  mediaType: application/vnd.oci.image.index.v1+json\n  size: 1\n  mode: index\n  targetDigest: {digest}\n  children:\n  - {{os: linux, arch: amd64, digest: '{digest}', size: 1}}\n  - {{os: linux, arch: arm64, digest: '{digest}', size: 1}}\n",
            name(registry, id)
        )
    };
    let roles = [("k3d-proxy", "loadbalancer"), ("k3d-tools", "tools"), ("k3s", "node")];
    let listed = |(id, role): (&str, &str)| {
        let name = name(registry, id);
        format!(
            "- {{id: {id}, image: '{name}', target: third-party/{id}, platforms: [linux/amd64, linux/arm64], role: {role}, why: a test}}\n"
        )
    };
    let list = format!("images:\n{}", roles.map(listed).concat());
    std::fs::write(machine.path("infra/images/images.yaml"), list).unwrap();
    let images = roles.map(|(id, role)| image(id, role)).concat();
    let lock = format!("version: 1\nplatforms: [linux/amd64, linux/arm64]\nimages:\n{images}");
    std::fs::write(machine.path("infra/images/images.lock"), lock).unwrap();
    edit(&machine.path("infra/docker/ci/k3d.yaml"), |text| {
        let line = text.lines().find(|line| line.starts_with("image: ")).unwrap().to_owned();
        text.replace(&line, &format!("image: {}", name(registry, "k3s")))
    });
    // What the engine says about itself.
    let info =
        r#"echo '{"ServerVersion":"29.0.0","Driver":"overlay2","OSType":"linux","Architecture":"x86_64"}'; exit"#;
    crate::support::write_program(&machine.path("fault/info"), &format!("{info}\n"));
    // Like the engine, it reads to the end.
    crate::support::write_program(&machine.path("fault/load"), "cat >/dev/null; exit\n");
    machine
}

fn name(registry: &Server, id: &str) -> String {
    format!("{}/x/{id}:1", registry.address)
}

/// As `docker pull` with this platform leaves it.
fn there(machine: &Machine, name: &str, arch: &str) {
    let path = machine.path("world/image").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, json!({"Id": "sha256:1", "Os": "linux", "Architecture": arch}).to_string()).unwrap();
}

#[track_caller]
fn prefetch(machine: &Machine, exit: i32) -> String {
    let output = machine.run(&["cluster", "prefetch"], &[]);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(exit), "{text}");
    text
}

#[test]
fn a_registry_whose_quota_is_used_up_is_asked_once_and_docker_may_still_have_another_way() {
    let registry = used_up();
    let machine = machine(&registry);
    let text = prefetch(&machine, 0);
    assert_eq!(text.matches("Docker will pull it itself").count(), 3, "{text}");
    assert!(text.contains("possible again in 6 h"), "{text}");
    assert_eq!(registry.count("GET", "/manifests/"), 1, "{text}");
}

#[test]
fn an_image_that_docker_has_for_another_platform_is_loaded_again() {
    let registry = used_up();
    let machine = machine(&registry);
    for id in ["k3d-proxy", "k3d-tools", "k3s"] {
        there(&machine, &name(&registry, id), "amd64");
    }
    prefetch(&machine, 0);
    assert_eq!(registry.count("GET", "/manifests/"), 0);
    there(&machine, &name(&registry, "k3d-tools"), "arm64");
    let text = prefetch(&machine, 0);
    assert!(text.contains("for linux/arm64: it is loaded for linux/x86_64"), "{text}");
    assert!(text.contains("the one that Docker has is used"), "{text}");
    assert_eq!(registry.count("GET", "/manifests/"), 1, "{text}");
}

#[test]
fn a_prebuild_settles_of_which_kind_the_cluster_will_be() {
    let registry = used_up();
    let machine = machine(&registry);
    for id in ["k3d-proxy", "k3d-tools", "k3s"] {
        there(&machine, &name(&registry, id), "amd64");
    }
    // There is no cluster yet.
    for container in ["k3d-ameide-ci-server-0", "k3d-ameide-ci-serverlb"] {
        std::fs::remove_file(machine.path("world/container").join(container)).unwrap();
    }
    prefetch(&machine, 0);
    let kind = std::fs::read_to_string(machine.path("state/k3d-ameide-ci/k3d-cluster-kind")).unwrap();
    assert_eq!(kind, "public");
}
