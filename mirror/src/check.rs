//! Whether a registry holds what a lock names.

use crate::error::Error;
use crate::lock::ImagesLock;
use crate::observe::{Silent, relay};
use crate::options::Options;
use crate::sources::target;

/// Why an image cannot be pulled from the mirror as the lock says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    #[error("{image} is not pinned by a digest")]
    NotPinned { image: String },
    #[error("{target}@{digest} is missing")]
    Missing { target: String, digest: String },
    #[error("{target}:{tag} is {found}, but the lock says {digest}")]
    Stale { target: String, tag: String, found: String, digest: String },
}

/// One HEAD per image at the target, all in parallel; a second one if it is not there.
pub async fn check(lock: &ImagesLock, options: &Options) -> Result<Vec<Finding>, Error> {
    relay(&Silent, async |events| {
        let target = target(options, &events)?;
        let looks = lock.images.iter().map(|image| async {
            let Some(digest) = &image.target_digest else {
                return Ok(Some(Finding::NotPinned { image: image.image.clone() }));
            };
            if target.has_manifest(&image.target, digest).await? {
                return Ok(None);
            }
            let (name, digest, tag) = (image.target.clone(), digest.to_string(), image.source()?.1);
            Ok(Some(match target.digest_of(&name, &tag).await?.flatten() {
                Some(found) => Finding::Stale { target: name, tag, found: found.to_string(), digest },
                None => Finding::Missing { target: name, digest },
            }))
        });
        let found: Vec<Option<Finding>> = futures_util::future::try_join_all(looks).await?;
        Ok(found.into_iter().flatten().collect())
    })
    .await
}
