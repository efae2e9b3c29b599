//! What a registry holds under a digest.

use crate::Error;
use crate::copy::{Options, Silent, relay, target};
use crate::lock::{Child, Digest};
use crate::manifest::Descriptor;
use crate::resolve::only_child;

/// The platforms of an image at the target, each with its manifest; none where it
/// has no such image. Costs one request for an index, two for a single image.
///
/// # Errors
/// As the registry answers; `Kind::Invalid` for what is no manifest.
pub async fn inspect(repository: &str, digest: &Digest, options: &Options) -> Result<Option<Vec<Child>>, Error> {
    relay(&Silent, async |events| {
        let target = target(options, &events)?;
        let Some(manifest) = target.manifest(repository, digest.as_str()).await? else { return Ok(None) };
        if manifest.is_index() {
            return Ok(Some(manifest.document.manifests.iter().filter_map(Descriptor::child).collect()));
        }
        Ok(Some(vec![only_child(&target, repository, &manifest).await?]))
    })
    .await
}
