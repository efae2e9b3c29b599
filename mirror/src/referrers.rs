//! Signatures, bills of materials and the like, which point at an image
//! (OCI distribution spec 1.1, "Listing Referrers" and "Referrers Tag Schema").

use serde::Deserialize;

use crate::Error;
use crate::copy::{Act, Job};
use crate::lock::Digest;
use crate::manifest::{Descriptor, Manifest, OCI_INDEX};
use crate::registry::Registry;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// The tag under which registries without the API keep the list.
fn tag(digest: &Digest) -> String {
    digest.as_str().replacen(':', "-", 1)
}

async fn list(registry: &Registry, repository: &str, digest: &Digest) -> Result<Option<bytes::Bytes>, Error> {
    if let Some(answer) = registry.get(repository, &format!("referrers/{digest}")).await? {
        return Ok(Some(answer));
    }
    // A HEAD first: a manifest that is not there must not cost a pull.
    if registry.digest_of(repository, &tag(digest)).await?.is_none() {
        return Ok(None);
    }
    Ok(registry.manifest(repository, &tag(digest)).await?.filter(Manifest::is_index).map(|manifest| manifest.bytes))
}

/// Brings what refers to an image after it; how many there were.
pub(crate) async fn copy(act: &Act<'_>, image: usize, digest: &Digest) -> Result<usize, Error> {
    let (source, repository, name) = act.whence(image)?;
    let Some(answer) = list(&source, &repository, digest).await? else { return Ok(0) };
    // Proxies answer 200 to anything.
    let Ok(index) = serde_json::from_slice::<Index>(&answer) else { return Ok(0) };
    let mut listed = true;
    for descriptor in &index.manifests {
        let manifest = source.wanted_manifest(&repository, descriptor.digest.as_str()).await?;
        for blob in manifest.blobs() {
            act.place(&Job::alone(image, blob, &source, &repository, &name)).await?;
        }
        listed &=
            act.target.put_manifest(&name, &manifest.media_type, manifest.bytes, manifest.digest.as_str()).await?;
    }
    if !listed {
        act.target.put_manifest(&name, OCI_INDEX, answer, &tag(digest)).await?;
    }
    Ok(index.manifests.len())
}
