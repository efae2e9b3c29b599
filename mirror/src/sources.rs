//! The registries that a run contacts, each created once, so that its tokens, pace and quota are
//! shared.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::observe::MirrorEvent;
use crate::options::Options;
use crate::registry::Registry;

/// The source registries, each created once.
pub(crate) struct Sources<'a> {
    options: &'a Options,
    events: UnboundedSender<MirrorEvent>,
    registries: Mutex<BTreeMap<String, Arc<Registry>>>,
}

impl<'a> Sources<'a> {
    pub fn new(options: &'a Options, events: &UnboundedSender<MirrorEvent>) -> Self {
        Self { options, events: events.clone(), registries: Mutex::default() }
    }

    pub fn get(&self, host: &str) -> Result<Arc<Registry>, Error> {
        let mut registries = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registry) = registries.get(host) {
            return Ok(registry.clone());
        }
        let own = Endpoint::named(host);
        let endpoint = self.options.sources.get(host).unwrap_or(&own);
        let registry = Arc::new(Registry::new(host, endpoint, self.options, self.events.clone())?);
        registries.insert(host.to_owned(), registry.clone());
        Ok(registry)
    }

    pub fn all(&self) -> Vec<Arc<Registry>> {
        self.registries.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The registry that images are copied to.
pub(crate) fn target(options: &Options, events: &UnboundedSender<MirrorEvent>) -> Result<Arc<Registry>, Error> {
    let (name, _) = options.target.parts()?;
    Registry::new(name.as_str(), &options.target, options, events.clone()).map(Arc::new)
}
