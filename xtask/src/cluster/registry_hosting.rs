//! Compares the registry that the cluster itself names (KEP-1755, the ConfigMap
//! `kube-public/local-registry-hosting`, which k3d writes) with `env.yaml`: if the two differ,
//! images are pushed to one registry and pulled from another.
//! <https://github.com/kubernetes/enhancements/tree/master/keps/sig-cluster-lifecycle/generic/1755-communicating-a-local-registry>

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::Api;
use serde::Deserialize;

use crate::files::bounds;
use crate::repo::Repo;
use crate::repo::environment::RegistrySettings;
use crate::run::Run;
use crate::world::kubernetes::read_failed;
use run_record::Failure;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "local-registry-hosting";
const KEY: &str = "localRegistryHosting.v1";

/// Both fields may be missing; others do not matter here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hosting {
    /// The name that this machine pushes to.
    host: Option<String>,
    /// The name that nodes pull from; defaults to `host`.
    host_from_container_runtime: Option<String>,
}

/// Warns if the cluster names a different registry than `env.yaml`. A cluster without the ConfigMap
/// says nothing, which is fine.
pub async fn warn_if_different(run: &Run, repo: &Repo, client: &Client) -> Result<(), Failure> {
    for difference in looked(repo, client).await? {
        run.reporter.warn("registry", format!("{} {difference}: correct env.yaml or k3d.yaml", what()));
    }
    Ok(())
}

/// In which ways the two differ, in words that follow the ConfigMap's name.
///
/// # Errors
/// Errors from reading it.
pub async fn looked(repo: &Repo, client: &Client) -> Result<Vec<String>, Failure> {
    let found = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE).get_opt(NAME).await;
    let found = found.map_err(|error| read_failed(&what(), error))?;
    let text = found.and_then(|map| map.data?.remove(KEY));
    Ok(text.map(|text| differences(&text, &repo.env.registry)).unwrap_or_default())
}

fn what() -> String {
    format!("the ConfigMap {NAMESPACE}/{NAME}")
}

/// In words that follow the ConfigMap's name.
pub(crate) fn differences(text: &str, settings: &RegistrySettings) -> Vec<String> {
    let hosting: Hosting = match bounds::yaml(text) {
        Ok(hosting) => hosting,
        Err(error) => return vec![format!("does not follow KEP-1755: {}", bounds::in_words(&error, text))],
    };
    let pull = hosting.host_from_container_runtime.as_ref().or(hosting.host.as_ref());
    let rows = [(hosting.host.as_ref(), &settings.push, "push"), (pull, &settings.pull, "pull")];
    rows.into_iter()
        .filter_map(|(said, ours, field)| Some((said?, ours, field)))
        .filter(|(said, ours, _)| address(said) != address(ours))
        .map(|(said, ours, field)| format!("says {said}, and registry.{field} of env.yaml {ours}"))
        .collect()
}

/// All names for this machine itself are equivalent.
fn address(name: &str) -> String {
    let (host, port) = name.rsplit_once(':').unwrap_or((name, ""));
    let host = if matches!(host, "127.0.0.1" | "0.0.0.0" | "[::1]") { "localhost" } else { host };
    format!("{host}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_comparison() {
        let settings = RegistrySettings {
            push: "127.0.0.1:5000".to_owned(),
            pull: "k3d-dev-reg:5000".to_owned(),
            plain_http: true,
            ca: None,
        };
        let push = "says localhost:5001, and registry.push of env.yaml 127.0.0.1:5000";
        let pull = "says other:5000, and registry.pull of env.yaml k3d-dev-reg:5000";
        let rows: [(&str, &[&str]); 6] = [
            // As k3d 5.8.3 writes it.
            (
                "help: https://k3d.io/stable/usage/registries/#using-a-local-registry\nhost: localhost:5000\n\
                 hostFromClusterNetwork: k3d-dev-reg:5000\nhostFromContainerRuntime: k3d-dev-reg:5000\n",
                &[],
            ),
            ("host: 0.0.0.0:5000\nhostFromContainerRuntime: k3d-dev-reg:5000\n", &[]),
            ("host: localhost:5001\nhostFromContainerRuntime: k3d-dev-reg:5000\n", &[push]),
            ("host: localhost:5001\nhostFromContainerRuntime: other:5000\n", &[push, pull]),
            ("hostFromContainerRuntime: other:5000\n", &[pull]),
            ("{}", &[]),
        ];
        for (text, expected) in rows {
            assert_eq!(differences(text, &settings), expected, "{text}");
        }
        assert!(differences("[", &settings)[0].starts_with("does not follow KEP-1755"));
        // Without a name of their own, the nodes use the other one.
        assert_eq!(differences("host: localhost:5000", &settings).len(), 1);
    }
}
