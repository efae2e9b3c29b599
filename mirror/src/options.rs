//! How registries are reached: what a caller may choose.

use std::collections::BTreeMap;

use crate::credentials::Credentials;
use crate::endpoint::Endpoint;
use crate::manifest::ManifestCache;
use crate::pace::RetryPolicy;
use crate::proxy::Proxies;

#[derive(Clone, Debug)]
pub struct Options {
    pub target: Endpoint,
    /// Where a source registry is really reached, if not by its own name.
    pub sources: BTreeMap<String, Endpoint>,
    pub credentials: Credentials,
    pub proxies: Proxies,
    pub retry: RetryPolicy,
    /// Blobs on their way at once, of all images together.
    pub transfers: usize,
    /// Looks at every blob also of images whose manifest is there.
    pub force: bool,
    /// Manifests that were read at sources: what was resolved with the same is not asked
    /// for again by a copy.
    pub kept: ManifestCache,
}

impl Options {
    pub fn to(target: Endpoint) -> Self {
        Self {
            target,
            sources: BTreeMap::new(),
            credentials: Credentials::default(),
            proxies: Proxies::default(),
            retry: RetryPolicy::default(),
            transfers: 6,
            force: false,
            kept: ManifestCache::default(),
        }
    }
}
