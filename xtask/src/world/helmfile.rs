//! Which releases the tree wants, according to Helmfile. Asking Helmfile takes most of a second per
//! layer, so the answer is cached in the state folder, under a digest of everything that determines
//! it.

use std::time::Duration;

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::files::bounds;
use crate::files::{self, digest};
use crate::repo::Repo;
use crate::repo::layers::Layer;
use crate::run::Run;
use crate::run::context::Context;
use crate::world::helm_storage::Revision;
use crate::world::process::{capture, for_a_shell};
use crate::world::release::Release;
use crate::world::tools::{self, Toolbox};
use run_record::{Code, Failure};

/// A release that the tree wants installed, and the layer that deploys it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedRelease {
    pub layer: String,
    pub namespace: String,
    pub name: String,
}

impl From<&WantedRelease> for Release {
    fn from(wanted: &WantedRelease) -> Self {
        Self { name: wanted.name.clone(), namespace: wanted.namespace.clone(), enabled: true, installed: true }
    }
}

/// The releases of these layers that are to be installed.
///
/// # Errors
/// `render-failed` if Helmfile cannot read a layer.
pub async fn releases(context: &Context, layers: &[Layer]) -> Result<Vec<WantedRelease>, Failure> {
    let key = key(&context.repo)?;
    let mut missing = Vec::new();
    let mut wanted = Vec::new();
    for layer in layers {
        match read(&kept(&context.run, &context.repo, layer), &key) {
            Some(found) => wanted.extend(found),
            None => missing.push(layer),
        }
    }
    if missing.is_empty() {
        return Ok(wanted);
    }
    let toolbox = tools::ensure(&context.repo.tree, &["helm", "helmfile"], &context.run.reporter).await?;
    let asked = missing.iter().map(|layer| ask(context, &toolbox, layer));
    let answers = futures_util::future::try_join_all(asked).await?;
    for (layer, releases) in missing.iter().zip(answers) {
        let answer = Kept { key: key.clone(), releases };
        let text = serde_json::to_string(&answer).unwrap_or_default();
        // This only saves time: without it Helmfile is asked again.
        let _ = files::write_atomically(&kept(&context.run, &context.repo, layer), text.as_bytes());
        wanted.extend(answer.releases);
    }
    Ok(wanted)
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    releases: Vec<WantedRelease>,
}

fn kept(run: &Run, repo: &Repo, layer: &Layer) -> Utf8PathBuf {
    run.state.path.join(format!("wanted-{}-{}.json", repo.env_name, layer.name()))
}

fn read(path: &Utf8PathBuf, key: &str) -> Option<Vec<WantedRelease>> {
    let kept: Kept = serde_json::from_str(&bounds::read(path, bounds::SETTINGS).ok()?).ok()?;
    (kept.key == key).then_some(kept.releases)
}

/// Everything below infra/kubernetes except the charts (they determine what a release contains,
/// never whether there is one), and Helmfile's version.
fn key(repo: &Repo) -> Result<String, Failure> {
    let root = repo.tree.path("infra/kubernetes");
    let mut hash = Sha256::new();
    let charts = root.join("charts");
    let mut files = digest::files_below(&root)?;
    files.retain(|path| !path.starts_with(&charts));
    digest::update(&mut hash, &root, &files)?;
    hash.update(std::fs::read(repo.tree.path("infra/tools/helmfile/go.mod")).unwrap_or_default());
    Ok(digest::short(hash))
}

/// Helmfile on a layer's file, with the flags of every query and every sync. For rendering, the
/// caller also passes the image lock, and forbids reading anything else. The queries here are only
/// about releases, and use the tree's own lock.
pub(crate) fn command(context: &Context, toolbox: &Toolbox, layer: &Layer) -> tokio::process::Command {
    let mut command = toolbox.command_on("helmfile", context);
    command.current_dir(&context.repo.tree.root);
    command.args(["--file", layer.path.as_str(), "--environment", &context.repo.env_name]);
    command.args(["--kube-context", &context.site.kube_context]);
    command.args(["--helm-binary", toolbox.path("helm").as_str(), "--no-color"]);
    command
}

/// The output of Helmfile for a layer's file.
async fn helmfile(context: &Context, toolbox: &Toolbox, layer: &Layer, arguments: &[&str]) -> Result<String, Failure> {
    let mut command = command(context, toolbox, layer);
    command.args(arguments);
    let captured = capture(command).await.map_err(|failure| match failure.code {
        // This says nothing about the file.
        Code::NoAnswer | Code::Interrupted => failure,
        _ => unreadable(&context.repo, layer, arguments, failure.to_string()),
    })?;
    if !captured.status.success() && captured.stderr.contains(NO_RELEASES) {
        return Ok(String::new());
    }
    captured.ok().map_err(|error| unreadable(&context.repo, layer, arguments, error))
}

/// Helmfile's message if none of a file's releases matches, or if it has none.
pub const NO_RELEASES: &str = "no releases found that matches specified selector";

/// `render-failed`, for a call that can be repeated by hand.
pub(crate) fn unreadable(repo: &Repo, layer: &Layer, arguments: &[&str], evidence: String) -> Failure {
    let (path, env, arguments) = (for_a_shell(layer.path.as_str()), for_a_shell(&repo.env_name), arguments.join(" "));
    Failure::new(Code::RenderFailed, format!("Helmfile cannot read {}", layer.path))
        .evidence(evidence)
        .remedy(format!("helmfile -f {path} -e {env} {arguments}"))
}

async fn ask(context: &Context, toolbox: &Toolbox, layer: &Layer) -> Result<Vec<WantedRelease>, Failure> {
    #[derive(Deserialize)]
    struct Row {
        name: String,
        namespace: String,
        enabled: bool,
        installed: bool,
    }
    let list = ["list", "--output", "json"];
    let output = helmfile(context, toolbox, layer, &list).await?;
    let rows: Vec<Row> = if output.trim().is_empty() {
        Vec::new()
    } else {
        serde_json::from_str(&output).map_err(|error| unreadable(&context.repo, layer, &list, error.to_string()))?
    };
    let installed = rows.into_iter().filter(|row| row.enabled && row.installed);
    Ok(installed.map(|row| WantedRelease { layer: layer.name(), namespace: row.namespace, name: row.name }).collect())
}

/// How long Helm waits for one operation by default (`helm upgrade --timeout`).
pub(crate) const HELMS_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a Helm that works on this release may wait for one operation, according to its layer's
/// file; `None` if it belongs to no layer of the tree.
///
/// # Errors
/// `render-failed` if Helmfile cannot read the layer.
pub async fn timeout(context: &Context, revision: &Revision) -> Result<Option<Duration>, Failure> {
    let layers = context.repo.tree.layers()?;
    let stamped = layers.iter().find(|layer| revision.layer.as_ref() == Some(&layer.name()));
    let layer = match stamped {
        Some(layer) => layer.name(),
        // Installed by a Helmfile without --sync-release-labels, or by hand.
        None => {
            let wanted = releases(context, &layers).await?;
            let is =
                |wanted: &&WantedRelease| wanted.name == revision.release && wanted.namespace == revision.namespace;
            let Some(wanted) = wanted.iter().find(is) else { return Ok(None) };
            wanted.layer.clone()
        }
    };
    let Some(layer) = layers.iter().find(|known| known.name() == layer) else { return Ok(None) };
    let toolbox = tools::ensure(&context.repo.tree, &["helm", "helmfile"], &context.run.reporter).await?;
    let built = helmfile(context, &toolbox, layer, &["build"]).await?;
    Ok(timeout_in(&built, revision))
}

/// The timeout in the output of `helmfile build`, of the release or the default, with Helmfile's
/// precedence (`timeoutFlags`).
pub(crate) fn timeout_in(built: &str, revision: &Revision) -> Option<Duration> {
    let documents = bounds::documents(built).ok()?;
    let state = documents.iter().find(|document| document.get("releases").is_some_and(serde_json::Value::is_array))?;
    let release = state["releases"].as_array()?.iter().find(|release| {
        let namespace = release["namespace"].as_str().unwrap_or(&revision.namespace);
        release["name"] == revision.release.as_str() && namespace == revision.namespace
    })?;
    let seconds = release["timeout"].as_u64().or(state["helmDefaults"]["timeout"].as_u64());
    // If it is not set, or 0, Helmfile omits the flag.
    Some(seconds.filter(|seconds| *seconds > 0).map_or(HELMS_TIMEOUT, Duration::from_secs).min(bounds::YEAR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_releases_own_timeout_goes_before_that_of_all() {
        let built = "---\n#  Source: x\n\nfilepath: x.yaml\nhelmDefaults:\n  timeout: 900\nreleases:\n- name: minio\n  namespace: ameide\n- name: temporal\n  namespace: ameide\n  timeout: 600\n";
        let of = |built: &str, release: &str, namespace: &str| {
            let revision = Revision::named(namespace, release, 1);
            timeout_in(built, &revision).map(|timeout| timeout.as_secs())
        };
        assert_eq!(of(built, "minio", "ameide"), Some(900));
        assert_eq!(of(built, "temporal", "ameide"), Some(600));
        assert_eq!(of(built, "temporal", "elsewhere"), None);
        assert_eq!(of("releases: [{name: x}]", "x", "ameide"), Some(300));
        assert_eq!(of("releases: [", "x", "ameide"), None);
    }
}
