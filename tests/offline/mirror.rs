//! `cargo xtask mirror` with a registry of the test's own, which is source and target.

use std::path::PathBuf;

use image_mirror::Digest;
use serde_json::json;

use crate::support::server::{Answer, Request, Server};
use crate::support::{self, edit};

/// Serves two platforms under any tag, and has everything that is looked for by digest.
fn serve(request: &Request) -> Answer {
    let Some((_, reference)) = request.path().split_once("/manifests/") else { return Answer::new(404, "") };
    let child = |arch: &str| {
        let digest = Digest::of(format!("{reference} {arch}").as_bytes());
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.as_str(), "size": 1,
            "platform": {"os": "linux", "architecture": arch}})
    };
    let kind = "application/vnd.oci.image.index.v1+json";
    let index =
        json!({"schemaVersion": 2, "mediaType": kind, "manifests": [child("amd64"), child("arm64")]}).to_string();
    let digest =
        if reference.starts_with("sha256:") { reference.to_owned() } else { Digest::of(index.as_bytes()).to_string() };
    Answer::new(200, index).with("Content-Type", kind).with("Docker-Content-Digest", digest)
}

struct Tree {
    folder: tempfile::TempDir,
    registry: Server,
}

impl Tree {
    /// A tree that lists the images `a:1` and `b:1`, and has resolved them.
    fn resolved() -> Self {
        let tree = Self { folder: tempfile::tempdir().unwrap(), registry: Server::start(serve) };
        support::copy_configuration(tree.folder.path());
        std::fs::write(tree.list(), format!("images:\n{}{}", tree.row("a"), tree.row("b"))).unwrap();
        std::fs::write(tree.lock(), "version: 1\nplatforms: []\nimages: []\n").unwrap();
        tree.mirror(&["--update"], 0);
        tree
    }

    fn row(&self, id: &str) -> String {
        let address = &self.registry.address;
        format!(
            "- {{id: {id}, image: '{address}/x/{id}:1', target: x/{id}, platforms: [linux/amd64, linux/arm64], why: a test}}\n"
        )
    }

    fn list(&self) -> PathBuf {
        self.folder.path().join("infra/images/images.yaml")
    }

    fn lock(&self) -> PathBuf {
        self.folder.path().join("infra/images/images.lock")
    }

    /// The entries of the lock that name this image, with whether each has a digest.
    fn locked(&self, name: &str) -> Vec<bool> {
        let lock = std::fs::read_to_string(self.lock()).unwrap();
        lock.lines().filter(|line| line.contains(name)).map(|line| line.contains("@sha256:")).collect()
    }

    #[track_caller]
    fn mirror(&self, arguments: &[&str], exit: i32) -> String {
        let all = [&["--env", "ci", "--no-lab", "mirror"], arguments].concat();
        let mut command = support::xtask(self.folder.path(), &all);
        let output = command.env("AMEIDE_STATE_DIR", self.folder.path().join("state")).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(exit), "{text}");
        text
    }
}

#[test]
fn a_tag_that_the_list_has_changed_is_resolved_before_it_is_copied() {
    let tree = Tree::resolved();
    let to = tree.registry.address.clone();
    tree.mirror(&["--to", &to], 0);
    edit(&tree.list(), |text| text.replace("/x/a:1", "/x/a:2"));
    let text = tree.mirror(&["--check", "--to", &to], 5);
    assert!(text.contains(&format!("the lock has no digest for {to}/x/a:2")), "{text}");
    assert!(text.contains("cargo xtask --env ci mirror"), "{text}");
    let text = tree.mirror(&["--dry-run", "--to", &to], 0);
    assert!(
        text.contains(&format!("copy {to}/x/a:2 to")) && text.contains(&format!("copy {to}/x/b:1@sha256:")),
        "{text}"
    );
    let asked = tree.registry.count("GET", "/x/b/manifests/");
    tree.mirror(&["--to", &to], 0);
    assert_eq!((tree.locked("/x/a:1"), tree.locked("/x/a:2"), tree.locked("/x/b:1")), (vec![], vec![true], vec![true]));
    tree.mirror(&["--check", "--to", &to], 0);
    // What the list has not changed is asked for nowhere but at the target.
    assert_eq!(tree.registry.count("GET", "/x/b/manifests/"), asked);
    assert_eq!(tree.registry.count("HEAD", "/v2/x/b/manifests/1"), 0);
}

#[test]
fn an_image_that_is_new_in_the_list_is_known_by_its_id() {
    let tree = Tree::resolved();
    let row = tree.row("c");
    edit(&tree.list(), |text| text + &row);
    let to = tree.registry.address.clone();
    let text = tree.mirror(&["d", "--to", &to], 2);
    assert!(text.contains("expected one of a, b, c"), "{text}");
    tree.mirror(&["--check", "b", "--to", &to], 0);
    tree.mirror(&["--check", "--to", &to], 5);
    tree.mirror(&["c", "--to", &to], 0);
    assert_eq!(tree.locked("/x/c:1"), [true]);
}

#[test]
fn an_update_of_one_image_keeps_no_digest_of_another_tag() {
    let tree = Tree::resolved();
    edit(&tree.list(), |text| text.replace("/x/a:1", "/x/a:2"));
    tree.mirror(&["--update", "b"], 0);
    assert_eq!(
        (tree.locked("/x/a:1"), tree.locked("/x/a:2"), tree.locked("/x/b:1")),
        (vec![], vec![false], vec![true])
    );
}
