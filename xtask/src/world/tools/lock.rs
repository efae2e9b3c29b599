//! `infra/tools/tools.lock`: the digest of each tool's release archive by platform, and the version
//! that it is for.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use image_mirror::Digest;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::repo::{Tree, parse_yaml, read};
use run_record::Failure;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    /// By tool and platform; what is missing is not resolved.
    tools: BTreeMap<String, BTreeMap<String, Locked>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// The version that it was resolved for; it says nothing about others.
    pub version: String,
    /// Of the archive, as downloaded.
    pub digest: Digest,
}

/// Written at the top of the file.
const HEAD: &str = "# Written by `cargo xtask tools --update`: what the projects' own checksum files say of the\n\
                    # release archives in tools.yaml. An archive that is not here is not downloaded.\n";

impl Lock {
    pub fn path(tree: &Tree) -> Utf8PathBuf {
        tree.path("infra/tools/tools.lock")
    }

    /// The tree's lock; if it does not exist, nothing is resolved.
    ///
    /// # Errors
    /// `usage` for one that cannot be read, or is malformed.
    pub fn read(tree: &Tree) -> Result<Self, Failure> {
        let path = Self::path(tree);
        if !path.exists() {
            return Ok(Self { version: 1, tools: BTreeMap::new() });
        }
        Self::parse(&path, &read(&path)?)
    }

    pub(crate) fn parse(path: &Utf8Path, text: &str) -> Result<Self, Failure> {
        let lock: Self = parse_yaml(path, text)?;
        match lock.version {
            1 => Ok(lock),
            other => Err(Failure::usage(format!("{path}: version {other}: expected 1"))),
        }
    }

    /// The entry for a tool's archive, of any version.
    pub fn entry(&self, tool: &str, platform: &str) -> Option<&Locked> {
        self.tools.get(tool)?.get(platform)
    }

    /// The digest of a tool's archive, if it was resolved for exactly that version.
    pub fn digest(&self, tool: &str, platform: &str, version: &str) -> Option<&Digest> {
        self.entry(tool, platform).filter(|locked| locked.version == version).map(|locked| &locked.digest)
    }

    pub fn put(&mut self, tool: &str, platform: &str, locked: Locked) {
        self.tools.entry(tool.to_owned()).or_default().insert(platform.to_owned(), locked);
    }

    /// Removes what the tree no longer names.
    pub fn retain(&mut self, named: impl Fn(&str, &str) -> bool) {
        for (tool, platforms) in &mut self.tools {
            platforms.retain(|platform, _| named(tool, platform));
        }
        self.tools.retain(|_, platforms| !platforms.is_empty());
    }

    /// Writes it atomically, so that readers see the old or the new file.
    ///
    /// # Errors
    /// `usage` if that fails.
    pub fn write(&self, tree: &Tree) -> Result<(), Failure> {
        let path = Self::path(tree);
        let failed = |error: String| Failure::usage(format!("cannot write {path}: {error}"));
        let text = serde_saphyr::to_string(self).map_err(|error| failed(error.to_string()))?;
        files::write_atomically(&path, format!("{HEAD}{text}").as_bytes()).map_err(|error| failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_good_for_the_version_it_was_resolved_for() {
        let hex = "0".repeat(64);
        let text = format!(
            "version: 1\r\ntools:\r\n  helm:\r\n    linux/amd64: {{version: v1.0.0, digest: 'sha256:{hex}'}}\r\n"
        );
        let lock = Lock::parse("tools.lock".into(), &text).unwrap();
        assert!(lock.digest("helm", "linux/amd64", "v1.0.0").is_some());
        for (tool, platform, version) in
            [("helm", "linux/amd64", "v1.0.1"), ("helm", "linux/arm64", "v1.0.0"), ("k3d", "linux/amd64", "v1.0.0")]
        {
            assert_eq!(lock.digest(tool, platform, version), None, "{tool} {platform} {version}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_what_is_no_lock_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree { root: Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap() };
        let mut lock = Lock::read(&tree).unwrap();
        lock.put("helm", "linux/amd64", Locked { version: "v1.0.0".to_owned(), digest: Digest::of(b"") });
        lock.put("gone", "linux/amd64", Locked { version: "v1.0.0".to_owned(), digest: Digest::of(b"") });
        lock.retain(|tool, _| tool == "helm");
        std::fs::create_dir_all(tree.path("infra/tools")).unwrap();
        lock.write(&tree).unwrap();
        assert_eq!(Lock::read(&tree).unwrap(), lock);
        for (text, part) in [
            ("version: 2\ntools: {}\n", "expected 1"),
            ("version: 1\ntools: {helm: {linux/amd64: {version: v1, digest: 'sha256:0'}}}\n", "is not a digest"),
            ("version: 1\ntools: {}\nmore: 1\n", "more"),
        ] {
            let failure = Lock::parse("tools.lock".into(), text).unwrap_err();
            assert!(failure.message.contains("tools.lock") && failure.message.contains(part), "{failure}");
        }
    }
}
