//! Which kinds the API server has, and their names in its paths.

use std::collections::BTreeMap;

use kube::Client;

use super::read_failed;
use run_record::Failure;

/// The kinds of each API version: kind, plural, whether it is namespaced.
pub(crate) type Kinds = BTreeMap<String, Vec<(String, String, bool)>>;

/// The plural of a kind and whether it is namespaced; `None` if the API server does not have it.
/// Each API version is requested once.
///
/// # Errors
/// Errors from the request.
pub(crate) async fn find(
    client: &Client,
    version: &str,
    kind: &str,
    known: &mut Kinds,
) -> Result<Option<(String, bool)>, Failure> {
    if !known.contains_key(version) {
        let asked = match version.contains('/') {
            true => client.list_api_group_resources(version).await,
            false => client.list_core_api_resources(version).await,
        };
        let resources = match asked {
            Ok(list) => list.resources,
            // The server has nothing of that group or version.
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(error) => return Err(read_failed(&format!("the kinds of {version}"), error)),
        };
        let kinds = resources.into_iter().filter(|resource| !resource.name.contains('/'));
        let kinds = kinds.map(|resource| (resource.kind, resource.name, resource.namespaced)).collect();
        known.insert(version.to_owned(), kinds);
    }
    let found = known.get(version).into_iter().flatten().find(|(known, _, _)| known == kind);
    Ok(found.map(|(_, plural, namespaced)| (plural.clone(), *namespaced)))
}
