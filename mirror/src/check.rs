//! Whether a registry holds what a lock names.

use crate::error::{Error, Kind};
use crate::lock::ImagesLock;
use crate::observe::{Silent, relay};
use crate::options::Options;
use crate::sources::target;

/// Why an image cannot be pulled from the mirror as the lock says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    #[error("the lock has no digest for {image}")]
    NotPinned { image: String },
    #[error("{target}@{digest} is missing")]
    Missing { target: String, digest: String },
    #[error("{target}:{tag} is {found}, but the lock says {digest}")]
    Stale { target: String, tag: String, found: String, digest: String },
    /// It may be there or not; some registries answer this for a repository that a push will create.
    #[error("{target}@{digest} is denied: {reason}")]
    Denied { target: String, digest: String, reason: String },
}

/// One HEAD per image at the target, all in parallel; a second one if it is not there.
pub async fn check(lock: &ImagesLock, options: &Options) -> Result<Vec<Finding>, Error> {
    relay(&Silent, async |events| {
        let target = target(options, &events)?;
        let looks = lock.images.iter().map(|image| async {
            let Some(digest) = &image.target_digest else {
                return Ok(Some(Finding::NotPinned { image: image.image.clone() }));
            };
            let (name, tag) = (image.target.clone(), image.source()?.1);
            let looked = async {
                if target.has_manifest(&name, digest).await? {
                    return Ok(None);
                }
                let found = target.digest_of(&name, &tag).await?.flatten();
                let (target, digest) = (name.clone(), digest.to_string());
                Ok(Some(match found {
                    Some(found) => Finding::Stale { target, tag, found: found.to_string(), digest },
                    None => Finding::Missing { target, digest },
                }))
            };
            match looked.await {
                Err(Error { kind: Kind::Denied, message, .. }) => {
                    Ok(Some(Finding::Denied { target: name.clone(), digest: digest.to_string(), reason: message }))
                }
                looked => looked,
            }
        });
        let found: Vec<Option<Finding>> = futures_util::future::try_join_all(looks).await?;
        Ok(found.into_iter().flatten().collect())
    })
    .await
}
