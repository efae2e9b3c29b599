//! What a run would do to a release, and to each of its objects.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a run would do about a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Leave it as it is.
    Nothing,
    Install,
    Upgrade,
    /// Mark a revision that nobody will finish as failed, then upgrade.
    Repair,
    /// Wait for whoever is working on it, then upgrade.
    Wait,
    /// Only run its tests.
    Test,
    Uninstall,
    /// What is in the cluster could not be read: sync it, whatever that changes.
    Sync,
}

impl Act {
    /// Whether it would change the cluster.
    pub fn changes(self) -> bool {
        !matches!(self, Self::Nothing | Self::Test)
    }

    /// What would be done, as part of a sentence.
    pub fn words(self) -> &'static str {
        match self {
            Self::Nothing => "leave it as it is",
            Self::Install => "install it",
            Self::Upgrade => "upgrade it",
            Self::Repair => "repair and upgrade it",
            Self::Wait => "wait, then upgrade it",
            Self::Test => "run its tests",
            Self::Uninstall => "uninstall it",
            Self::Sync => "sync it",
        }
    }
}

/// What would happen to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    Create,
    /// Its manifest changes.
    Change,
    /// Deleted and created again.
    Replace,
    /// Its manifest stays the same, but others have changed the object since: their changes are
    /// undone, or stand in the way.
    Restore,
    Delete,
    /// No longer part of the release, but left in the cluster.
    Keep,
}

impl Change {
    /// The sign before the object's name.
    pub fn sign(self) -> char {
        match self {
            Self::Create => '+',
            Self::Change => '~',
            Self::Replace => '±',
            Self::Restore => '!',
            Self::Delete => '-',
            Self::Keep => '=',
        }
    }

    /// What happened to a number of objects.
    fn done(self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::Change => "changed",
            Self::Replace => "replaced",
            Self::Restore => "changed by others",
            Self::Delete => "deleted",
            Self::Keep => "left behind",
        }
    }
}

/// An object that a run would touch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectPreview {
    /// `Deployment ameide/minio`
    pub object: String,
    pub change: Change,
    /// What the change means, and what stands in its way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// A unified diff of its deployed and rendered manifests, one entry per line, without the
    /// values of Secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diff: Vec<String>,
}

/// What a run would do to one release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasePreview {
    pub layer: String,
    pub release: String,
    pub namespace: String,
    pub act: Act,
    pub why: String,
    /// The current revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u32>,
    /// Its tests would follow.
    pub tests: bool,
    /// What could not be compared, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
    pub objects: Vec<ObjectPreview>,
}

impl ReleasePreview {
    pub(crate) fn map_text(&self, change: impl Fn(&str) -> String) -> Self {
        let all = |texts: &[String]| texts.iter().map(|text| change(text)).collect();
        let object = |object: &ObjectPreview| {
            let ObjectPreview { object, change: what, notes, diff } = object;
            ObjectPreview { object: change(object), change: *what, notes: all(notes), diff: all(diff) }
        };
        let Self { layer, release, namespace, act, why, revision, tests, unknown, objects } = self;
        Self {
            layer: change(layer),
            release: change(release),
            namespace: change(namespace),
            act: *act,
            why: change(why),
            revision: *revision,
            tests: *tests,
            unknown: all(unknown),
            objects: objects.iter().map(object).collect(),
        }
    }

    /// Whether it counts as one of its layer's releases: one that the tree wants absent, and that is,
    /// does not.
    pub fn counts(&self) -> bool {
        self.act != Act::Nothing || self.revision.is_some()
    }

    /// `would upgrade it, revision 3: values/minio.yaml changed`
    pub(crate) fn headline(&self) -> String {
        let revision = self.revision.map(|revision| format!(", revision {revision}")).unwrap_or_default();
        let tests = if self.tests && self.act != Act::Test { "; its tests follow" } else { "" };
        format!("would {}{revision}: {}{tests}", self.act.words(), self.why)
    }
}

/// How many objects of a layer would be touched, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count(std::collections::BTreeMap<Change, usize>);

impl Count {
    pub fn of<'a>(previews: impl IntoIterator<Item = &'a ReleasePreview>) -> Self {
        let mut count = Self::default();
        for object in previews.into_iter().flat_map(|preview| &preview.objects) {
            *count.0.entry(object.change).or_default() += 1;
        }
        count
    }
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str("no object changes");
        }
        let parts: Vec<String> = self.0.iter().map(|(change, count)| format!("{count} {}", change.done())).collect();
        write!(formatter, "objects: {}", parts.join(", "))
    }
}
