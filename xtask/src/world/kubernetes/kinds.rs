//! Which kinds the API server has, and how its paths name them.

use std::collections::BTreeMap;

use kube::Client;

use super::read_failed;
use run_record::Failure;

/// By a version of an API, its kinds: kind, plural, whether it is within namespaces.
pub(crate) type Kinds = BTreeMap<String, Vec<(String, String, bool)>>;

/// The plural of a kind and whether it is within namespaces; none where the API server does not
/// have it. Each version of an API is asked for once.
///
/// # Errors
/// Those of asking.
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
            // It has nothing of that group or version.
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
