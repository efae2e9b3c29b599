//! The order in which blobs are transferred: each once, however many images contain it.

use std::collections::{BTreeMap, VecDeque};

use crate::digest::Digest;
use crate::target::BlobCopy;

/// A blob with the images that wait for it, by their index in the lock.
pub(super) struct Planned {
    pub blob: BlobCopy,
    pub images: Vec<usize>,
}

/// Every blob once, large ones first: what starts last should not take longest. `placed`: which
/// repository of the target already has which blob.
pub(super) fn plan(
    needed: impl IntoIterator<Item = (usize, BlobCopy)>,
    placed: &BTreeMap<Digest, String>,
) -> VecDeque<Planned> {
    let mut unique: BTreeMap<Digest, Planned> = BTreeMap::new();
    for (image, mut blob) in needed {
        let Some(known) = unique.get_mut(&blob.source.digest) else {
            blob.mount_from = placed.get(&blob.source.digest).cloned();
            unique.insert(blob.source.digest.clone(), Planned { blob, images: vec![image] });
            continue;
        };
        if !known.images.contains(&image) {
            known.images.push(image);
        }
        for repository in blob.repositories {
            if !known.blob.repositories.contains(&repository) {
                known.blob.repositories.push(repository);
            }
        }
    }
    let mut planned: Vec<Planned> = unique.into_values().collect();
    planned.sort_by_key(|planned| std::cmp::Reverse(planned.blob.source.size));
    planned.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::blob::Source;
    use crate::endpoint::Endpoint;
    use crate::options::Options;
    use crate::registry::Registry;

    fn needed(image: usize, blob: &str, size: u64, repository: &str) -> (usize, BlobCopy) {
        let (events, _) = unbounded_channel();
        let options = Options::to(Endpoint::named("x.example"));
        let registry = Registry::new("x.example", &options.target, &options, events);
        let source = Source {
            registry: Arc::new(registry.unwrap()),
            repository: repository.to_owned(),
            digest: Digest::of(blob.as_bytes()),
            size,
        };
        let repositories = vec![repository.to_owned()];
        (image, BlobCopy { source, id: image.to_string(), repositories, mount_from: None })
    }

    #[test]
    fn each_blob_is_planned_once_the_large_ones_first() {
        let all = [
            needed(0, "base", 10, "a"),
            needed(0, "own", 30, "a"),
            needed(1, "base", 10, "b"),
            needed(0, "base", 10, "a"),
        ];
        let placed = BTreeMap::from([(Digest::of(b"own"), "c".to_owned())]);
        let plan = plan(all, &placed);
        let seen: Vec<_> = plan
            .iter()
            .map(|Planned { blob, images }| {
                (blob.source.size, images.as_slice(), blob.repositories.as_slice(), blob.mount_from.as_deref())
            })
            .collect();
        let (a, ab) = (["a".to_owned()], ["a".to_owned(), "b".to_owned()]);
        assert_eq!(seen, [(30, &[0][..], &a[..], Some("c")), (10, &[0, 1][..], &ab[..], None)]);
    }
}
