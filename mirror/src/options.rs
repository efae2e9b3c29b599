//! How registries are accessed: the caller's options.

use std::collections::BTreeMap;

use crate::credentials::Credentials;
use crate::endpoint::Endpoint;
use crate::manifest::ManifestCache;
use crate::pace::RetryPolicy;
use crate::proxy::Proxies;

#[derive(Clone, Debug)]
pub struct Options {
    pub target: Endpoint,
    /// Where a source registry is actually reached, if not at its own name.
    pub sources: BTreeMap<String, Endpoint>,
    pub credentials: Credentials,
    pub proxies: Proxies,
    pub retry: RetryPolicy,
    /// Concurrent blob transfers, over all images.
    pub transfers: usize,
    /// Also checks every blob of images whose manifest is already there.
    pub force: bool,
    /// Manifests already read from sources: a copy does not request again what was resolved with
    /// the same cache.
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
