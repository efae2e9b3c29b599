//! Which releases the tree wants, as Helmfile reads it. Asking Helmfile takes
//! most of a second a layer, so the answer is kept beside the state, under a
//! digest of everything that decides it.

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::gomodule::{files_below, short_hex};
use crate::process::capture;
use crate::state;
use crate::tools::{self, Toolbox};
use crate::tree::Layer;

/// A release that the tree wants installed, and the layer that brings it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedRelease {
    pub layer: String,
    pub namespace: String,
    pub name: String,
}

/// The installed releases of these layers.
///
/// # Errors
/// `render-failed` where Helmfile cannot read a layer.
pub async fn releases(context: &Context, layers: &[Layer]) -> Result<Vec<WantedRelease>, Failure> {
    let key = key(context)?;
    let mut missing = Vec::new();
    let mut wanted = Vec::new();
    for layer in layers {
        match read(&kept(context, layer), &key) {
            Some(found) => wanted.extend(found),
            None => missing.push(layer),
        }
    }
    if missing.is_empty() {
        return Ok(wanted);
    }
    let toolbox = tools::ensure(&context.tree, &["helm", "helmfile"], &context.reporter).await?;
    for layer in missing {
        let answer = Kept { key: key.clone(), releases: ask(context, &toolbox, layer).await? };
        let text = serde_json::to_string(&answer).unwrap_or_default();
        // For speed only: without it Helmfile is asked again.
        let _ = state::write_atomically(&kept(context, layer), text.as_bytes());
        wanted.extend(answer.releases);
    }
    Ok(wanted)
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    releases: Vec<WantedRelease>,
}

fn kept(context: &Context, layer: &Layer) -> Utf8PathBuf {
    context.state.path.join(format!("wanted-{}-{}.json", context.env_name, layer.name()))
}

fn read(path: &Utf8PathBuf, key: &str) -> Option<Vec<WantedRelease>> {
    let kept: Kept = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
    (kept.key == key).then_some(kept.releases)
}

/// Everything below infra/kubernetes but the charts (they decide what a release
/// holds, never whether there is one), and Helmfile's version.
fn key(context: &Context) -> Result<String, Failure> {
    let root = context.tree.path("infra/kubernetes");
    let mut hash = Sha256::new();
    let charts = root.join("charts");
    for path in files_below(&root)?.into_iter().filter(|path| !path.starts_with(&charts)) {
        let content = std::fs::read(&path).map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))?;
        hash.update(path.strip_prefix(&root).unwrap_or(&path).as_str());
        hash.update([0]);
        hash.update(Sha256::digest(&content));
    }
    hash.update(std::fs::read(context.tree.path("infra/tools/helmfile/go.mod")).unwrap_or_default());
    Ok(short_hex(hash))
}

async fn ask(context: &Context, toolbox: &Toolbox, layer: &Layer) -> Result<Vec<WantedRelease>, Failure> {
    #[derive(Deserialize)]
    struct Row {
        name: String,
        namespace: String,
        enabled: bool,
        installed: bool,
    }
    let failed = |evidence: String| {
        Failure::new("render-failed", Exit::Usage, format!("Helmfile cannot read {}", layer.path))
            .evidence(evidence)
            .remedy(format!("helmfile -f {} -e {} list", layer.path, context.env_name))
    };
    let mut command = toolbox.command("helmfile");
    command.current_dir(&context.tree.root).args(["--file", layer.path.as_str(), "--environment", &context.env_name]);
    command.args(["--helm-binary", toolbox.path("helm").as_str(), "--no-color", "list", "--output", "json"]);
    command.env("HELMFILE_UPGRADE_NOTICE_DISABLED", "true");
    let output = capture(command).await.map_err(|error| failed(error.to_string()))?.ok().map_err(failed)?;
    let rows: Vec<Row> = serde_json::from_str(&output).map_err(|error| failed(error.to_string()))?;
    let installed = rows.into_iter().filter(|row| row.enabled && row.installed);
    Ok(installed.map(|row| WantedRelease { layer: layer.name(), namespace: row.namespace, name: row.name }).collect())
}
