//! The digests of a layer's inputs, by name: how they are put together, kept and compared.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::files::digest;

/// The digest of each part that the rendering depends on, by name.
pub(crate) type Parts = BTreeMap<String, String>;

/// The part with the namespace for a release that names none. People choose it as they like
/// (`kubens`), so it is an input only where a release may have got its namespace from it.
pub(crate) const OF_CONTEXT: &str = "the context's namespace";

/// These parts as they are kept for releases in these namespaces.
pub(crate) fn kept<'a>(parts: &Parts, mut namespaces: impl Iterator<Item = &'a str>) -> Parts {
    let mut parts = parts.clone();
    let of_context = parts.get(OF_CONTEXT).cloned();
    if !namespaces.any(|namespace| of_context.as_ref() == Some(&digest::of_bytes(namespace.as_bytes()))) {
        parts.remove(OF_CONTEXT);
    }
    parts
}

/// Adds the length first, so that different sequences of parts never give the same bytes.
pub(super) fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// What differs between two sets of inputs, in words; `None` if nothing does.
pub(crate) fn changed(recorded: &Parts, now: &Parts) -> Option<String> {
    let mut names: BTreeSet<&String> = recorded.keys().chain(now.keys()).collect();
    if !recorded.contains_key(OF_CONTEXT) {
        names.retain(|name| *name != OF_CONTEXT);
    }
    let mut told: Vec<String> = names
        .into_iter()
        .filter_map(|name| match (recorded.get(name), now.get(name)) {
            (Some(before), Some(after)) if before == after => None,
            (Some(_), Some(_)) => Some(format!("{name} changed")),
            (None, _) => Some(format!("{name} is new")),
            (_, None) => Some(format!("{name} is gone")),
        })
        .collect();
    let rest = told.len().saturating_sub(3);
    told.truncate(3);
    let told = told.join(", ");
    match (told.is_empty(), rest) {
        (true, _) => None,
        (false, 0) => Some(told),
        (false, rest) => Some(format!("{told} and {rest} more")),
    }
}
