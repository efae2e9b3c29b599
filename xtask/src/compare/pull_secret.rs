//! The pull secret: with an account's credentials in the shell, and if the environment's `env.yaml`
//! says `pullSecret: {fromShell: true}`, pods that still pull from Docker Hub do so with that
//! account. With a complete mirror nothing needs it, and without credentials nothing is done.
//!
//! The format is `kubernetes.io/dockerconfigjson`, a Docker `config.json`:
//! <https://kubernetes.io/docs/tasks/configure-pod-container/pull-image-private-registry/>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::repo::needs::PullSecretNeed;
use crate::run::context::Context;
use crate::world::docker_hub::{Account, account};
use crate::world::kubernetes::{self, NamespacePhase, read_failed, write_failed};
use run_record::{Code, Failure};

const KIND: &str = "kubernetes.io/dockerconfigjson";
const KEY: &str = ".dockerconfigjson";

/// The account that is written to the cluster. If none may be, an incomplete one is left for the
/// mirror to refuse: nothing of it is used here.
fn to_write(found: Result<Option<Account>, Failure>, is_allowed: bool) -> Result<Option<Account>, Failure> {
    if is_allowed { found } else { Ok(None) }
}

/// Why a personal account may not be written to the cluster, if it may not: the environment's file
/// speaks for the environment's own cluster only.
fn forbidden(from_shell: bool, is_its_own_cluster: bool) -> Option<&'static str> {
    match (from_shell, is_its_own_cluster) {
        (true, true) => None,
        (false, _) => Some("its env.yaml does not say pullSecret.fromShell"),
        (true, false) => Some("pullSecret.fromShell of env.yaml is not about the cluster that --context names"),
    }
}

/// Creates the secret, or updates its Docker Hub credentials, in each of its namespaces that
/// exists; a missing namespace is handled before the next layer. Only if the environment's file
/// allows a personal account in the cluster.
pub async fn ensure(context: &Context, client: &Client, need: &PullSecretNeed) -> Result<(), Failure> {
    let Context { run, repo, .. } = context;
    let account = account(crate::world::process::environment::variable);
    let forbidden = forbidden(repo.env.pull_secret.from_shell, context.is_on_its_own_cluster());
    if let (Some(why), Ok(Some(_))) = (forbidden, &account) {
        static TOLD: std::sync::Once = std::sync::Once::new();
        TOLD.call_once(|| {
            let text = format!(
                "the Docker Hub account of this shell is not written into the Secrets of {}: {why}",
                context.site.kube_context
            );
            run.reporter.note(&need.name, text);
        });
    }
    let Some(account) = to_write(account, forbidden.is_none())? else { return Ok(()) };
    for namespace in &need.namespaces {
        if kubernetes::namespace_phase(client, namespace).await? != NamespacePhase::Active {
            continue;
        }
        let api = Api::<Secret>::namespaced(client.clone(), namespace);
        let what = format!("the secret {namespace}/{}", need.name);
        let found = api.get_opt(&need.name).await.map_err(|error| read_failed(&what, error))?;
        let existed = found.is_some();
        let secret = with_account(found, need, &account).map_err(|evidence| {
            Failure::new(Code::ConfigMissing, format!("{what} is not a pull secret")).evidence(evidence).remedy(
                format!("look at it, then: {} -n {namespace} delete secret {}", kubernetes::kubectl(), need.name),
            )
        })?;
        let Some(secret) = secret else { continue };
        let parameters = PostParams::default();
        // Includes the resource version that was read: a change by somebody else in between is a
        // conflict.
        let written = if existed {
            api.replace(&need.name, &parameters, &secret).await
        } else {
            api.create(&parameters, &secret).await
        };
        written.map_err(|error| write_failed(&what, error))?;
        let verb = if existed { "rotated" } else { "created" };
        run.reporter.note(namespace, format!("{verb} the pull secret {} for {}", need.name, account.username));
    }
    Ok(())
}

/// The secret as it should be; `None` if it already is. Its entries for other registries are kept.
pub(crate) fn with_account(
    found: Option<Secret>,
    need: &PullSecretNeed,
    account: &Account,
) -> Result<Option<Secret>, String> {
    let mut secret = found.unwrap_or_else(|| Secret {
        metadata: kube::api::ObjectMeta {
            name: Some(need.name.clone()),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), "xtask".to_owned())].into()),
            ..Default::default()
        },
        type_: Some(KIND.to_owned()),
        ..Default::default()
    });
    if secret.type_.as_deref() != Some(KIND) {
        return Err(format!("its type is {:?}, expected {KIND:?}", secret.type_.unwrap_or_default()));
    }
    let current = secret.data.as_ref().and_then(|data| data.get(KEY));
    let mut config: Value = match current {
        // A malformed file is useless, so it is replaced.
        Some(bytes) => serde_json::from_slice(&bytes.0).unwrap_or_else(|_| json!({})),
        None => json!({}),
    };
    let auth = STANDARD.encode(format!("{}:{}", account.username, account.token));
    let entry = json!({"username": account.username, "password": account.token, "auth": auth});
    if config.pointer("/auths").and_then(|auths| auths.get(&need.server)) == Some(&entry) {
        return Ok(None);
    }
    if !config.is_object() {
        config = json!({});
    }
    if !config["auths"].is_object() {
        config["auths"] = json!({});
    }
    config["auths"][&need.server] = entry;
    let bytes = serde_json::to_vec(&config).map_err(|error| error.to_string())?;
    secret.data.get_or_insert_default().insert(KEY.to_owned(), k8s_openapi::ByteString(bytes));
    Ok(Some(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need() -> PullSecretNeed {
        PullSecretNeed { name: "creds".into(), server: "https://hub/v1/".into(), namespaces: vec!["a".into()] }
    }

    fn alice(token: &str) -> Account {
        Account { username: "alice".into(), token: token.into() }
    }

    fn config(secret: &Secret) -> Value {
        serde_json::from_slice(&secret.data.as_ref().unwrap()[KEY].0).unwrap()
    }

    #[test]
    fn a_shells_account_gets_into_no_cluster_whose_file_does_not_say_so() {
        let half = || Err(Failure::usage("half"));
        assert!(to_write(Ok(Some(alice("t"))), true).unwrap().is_some());
        assert!(to_write(half(), true).is_err());
        assert!(to_write(Ok(Some(alice("t"))), false).unwrap().is_none());
        assert!(to_write(half(), false).unwrap().is_none());
        let names = |from_shell, own, words: &str| forbidden(from_shell, own).is_some_and(|why| why.contains(words));
        assert!(forbidden(true, true).is_none());
        assert!(names(false, true, "does not say") && names(false, false, "does not say"));
        assert!(names(true, false, "--context"), "a developer's own cluster says nothing about another");
        let root = camino::Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let tree = crate::repo::Tree { root };
        for name in tree.environments().unwrap() {
            let env = tree.environment(&name).unwrap();
            assert_eq!(env.pull_secret.from_shell, env.cluster.k3d.is_some(), "{name}");
        }
    }

    #[test]
    fn it_is_created_once_and_rotated_when_the_token_changes() {
        let created = with_account(None, &need(), &alice("one")).unwrap().unwrap();
        assert_eq!(created.type_.as_deref(), Some(KIND));
        assert_eq!(config(&created)["auths"]["https://hub/v1/"]["auth"], STANDARD.encode("alice:one"));
        assert!(with_account(Some(created.clone()), &need(), &alice("one")).unwrap().is_none());
        let rotated = with_account(Some(created), &need(), &alice("two")).unwrap().unwrap();
        assert_eq!(config(&rotated)["auths"]["https://hub/v1/"]["password"], "two");
    }

    #[test]
    fn other_registries_stay_and_other_kinds_of_secrets_are_refused() {
        let mut secret = with_account(None, &need(), &alice("one")).unwrap().unwrap();
        let other = json!({"auths": {"ghcr.io": {"auth": "eA=="}}}).to_string().into_bytes();
        secret.data.as_mut().unwrap().insert(KEY.into(), k8s_openapi::ByteString(other));
        let merged = with_account(Some(secret), &need(), &alice("one")).unwrap().unwrap();
        assert_eq!(config(&merged)["auths"]["ghcr.io"]["auth"], "eA==");
        let opaque = Secret { type_: Some("Opaque".into()), ..Default::default() };
        assert!(with_account(Some(opaque), &need(), &alice("one")).unwrap_err().contains("Opaque"));
    }
}
