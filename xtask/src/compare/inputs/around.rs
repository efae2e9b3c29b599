//! What a rendering depends on that is not in the tree, and which environment variables it does not
//! depend on.

use std::collections::BTreeSet;
use std::ffi::OsString;

/// What is not in `infra/kubernetes` but affects the rendering too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Around<'a> {
    /// By name: the versions of the tools, the flags, the server's version.
    pub named: Vec<(&'static str, String)>,
    /// The image lock that is passed to Helmfile.
    pub lock: &'a [u8],
    /// The environment variables that Helmfile gets. Their values may be secret.
    pub variables: Vec<(String, OsString)>,
}

/// What each revision is stamped with: the run's own id, which differs each time, and who ran it.
/// In a state file they are labels, which do not affect what is rendered.
pub(super) const STAMPS: [&str; 2] = ["AMEIDE_RUN", "AMEIDE_BY"];

/// Whether a variable differs with each run or each of its steps.
pub(super) fn is_of_one_run(name: &str) -> bool {
    STAMPS.contains(&name) || ["TRACEPARENT", "TRACESTATE"].contains(&name) || name.starts_with("OTEL_")
}

/// Variables whose names look like the tools', on which no rendering depends: this program's own, and
/// where and how the tools work, which differs between machines. Nothing is fetched (`skipDeps`).
pub(super) const NOT_READ: [&str; 13] = [
    "HELM_LAYER_SELECTOR",
    "HELMFILE_ENVIRONMENT",
    "HELM_BURST_LIMIT",
    "HELM_CACHE_HOME",
    "HELM_COLOR",
    "HELM_CONFIG_HOME",
    "HELM_CONTENT_CACHE",
    "HELM_DEBUG",
    "HELM_QPS",
    "HELM_REGISTRY_CONFIG",
    "HELM_REPOSITORY_CACHE",
    "HELM_REPOSITORY_CONFIG",
    "HELMFILE_CACHE_HOME",
];

/// The values of these variables, by name.
pub(super) fn given<'b>(
    variables: &'b BTreeSet<String>,
    around: &'b Around<'_>,
) -> impl Iterator<Item = (&'b str, String)> {
    let given = around.variables.iter().filter(|(name, _)| variables.contains(name) && !is_of_one_run(name));
    given.map(|(name, value)| (name.as_str(), value.to_string_lossy().into_owned()))
}
