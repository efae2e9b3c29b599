//! Which variables of this process's environment each child gets, according to
//! `infra/tools/environment.yaml`: never credentials that it does not need.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::OnceLock;

use kube::config::Kubeconfig;
use serde::Deserialize;

use crate::run::foreign::is_secret_variable;

/// The list is compiled in, so that nothing can be started without it.
const FILE: &str = include_str!("../../../../infra/tools/environment.yaml");

/// Additional names to pass, separated by commas.
const PASS: &str = "AMEIDE_PASS_ENV";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    accounts: Vec<String>,
    elsewhere: Names,
    every: Names,
    programs: BTreeMap<String, Names>,
    plugins: Names,
}

/// Names, in nested lists because of YAML anchors.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<Names>),
}

impl Default for Names {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Names {
    fn any(&self, matches: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Self::One(name) => matches(name),
            Self::Many(names) => names.iter().any(|names| names.any(matches)),
        }
    }
}

fn lists() -> &'static Lists {
    static LISTS: OnceLock<Lists> = OnceLock::new();
    LISTS.get_or_init(|| {
        // A test parses it, so that this never fails in a run.
        serde_saphyr::from_str(FILE).expect("infra/tools/environment.yaml is as its type says")
    })
}

fn listed(names: &Names, name: &str, secrets: bool) -> bool {
    names.any(&|listed| match listed.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix) && (secrets || !is_secret_variable(name)),
        None => name == listed,
    })
}

/// Whether a program (given by its file name) gets a variable.
fn given(program: &str, name: &str, plugins: bool) -> bool {
    let lists = lists();
    if listed(&lists.elsewhere, name, true) {
        return false;
    }
    listed(&lists.every, name, false)
        || lists.programs.get(program).is_some_and(|names| listed(names, name, false))
        || plugins && listed(&lists.plugins, name, true)
        || passed(&std::env::var(PASS).unwrap_or_default(), name)
}

fn passed(pass: &str, name: &str) -> bool {
    pass.split(',').map(str::trim).any(|listed| match listed.strip_suffix('*') {
        Some(prefix) => !prefix.is_empty() && name.starts_with(prefix),
        None => !listed.is_empty() && name == listed,
    })
}

/// The part of this process's environment that a program gets.
pub fn of(program: impl AsRef<Path>) -> Vec<(OsString, OsString)> {
    let program = program.as_ref().file_name().unwrap_or_default().to_string_lossy().into_owned();
    std::env::vars_os().filter(|(name, _)| given(&program, &name.to_string_lossy(), false)).collect()
}

/// What a program also needs if this context's user logs in with a plugin.
pub fn for_plugins_of(kube_context: &str) -> Vec<(OsString, OsString)> {
    if !crate::world::kubeconfig::load().is_ok_and(|config| signs_in_by_plugin(&config, kube_context)) {
        return Vec::new();
    }
    std::env::vars_os().filter(|(name, _)| listed(&lists().plugins, &name.to_string_lossy(), true)).collect()
}

fn signs_in_by_plugin(config: &Kubeconfig, kube_context: &str) -> bool {
    let context = config.contexts.iter().find(|context| context.name == kube_context);
    let user = context.and_then(|context| context.context.as_ref()?.user.clone());
    let user = config.auth_infos.iter().find(|info| Some(&info.name) == user.as_ref());
    let info = user.and_then(|user| user.auth_info.as_ref());
    info.is_some_and(|info| info.exec.is_some() || info.auth_provider.is_some())
}

/// Withholds unneeded variables from the login plugins that this process starts itself.
pub fn limit_plugins(config: &mut Kubeconfig) {
    let withheld: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| !given("kubectl", name, true))
        .collect();
    for info in config.auth_infos.iter_mut().filter_map(|user| user.auth_info.as_mut()) {
        if let Some(exec) = &mut info.exec {
            exec.drop_env = Some(withheld.clone());
        }
    }
}

static ACCOUNTS: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// Removes the credentials from this process's environment, so that no child can inherit them,
/// whoever starts it (a library that calls a credential helper, for example).
///
/// # Safety
/// As for [`std::env::remove_var`]: no other thread may be running yet.
pub unsafe fn take_accounts() {
    let taken = lists().accounts.iter().filter_map(|name| {
        let value = std::env::var(name).ok()?;
        // SAFETY: the caller's.
        unsafe { std::env::remove_var(name) };
        Some((name.clone(), value))
    });
    let _ = ACCOUNTS.set(taken.collect());
}

/// A variable of the environment that this process was started with, including credentials.
pub fn variable(name: &str) -> Option<String> {
    ACCOUNTS.get().and_then(|accounts| accounts.get(name).cloned()).or_else(|| std::env::var(name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_given_an_account() {
        let programs = ["helm", "helmfile", "kubectl", "k3d", "docker", "dockerd", "go", "apt-get", "dpkg", "tar"];
        for program in programs {
            for name in [
                "DOCKERHUB_TOKEN",
                "DCKR_PAT",
                "GITHUB_TOKEN",
                "GH_TOKEN",
                "AWS_SECRET_ACCESS_KEY",
                "AWS_SESSION_TOKEN",
                "AZURE_CLIENT_SECRET",
                "GOOGLE_APPLICATION_CREDENTIALS",
                "NPM_TOKEN",
                "SSH_PRIVATE_KEY",
                "DOCKER_PASSWORD",
                "HELM_REPO_PASSWORD",
                "AMEIDE_API_KEY",
                "K3D_REGISTRY_PAT",
                "XDG_SECRET",
                "OPENAI_API_KEY",
                "UNHEARD_OF",
            ] {
                assert!(!given(program, name, false), "{program} {name}");
            }
            for name in ["PATH", "HOME", "HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE", "LC_ALL", "XDG_RUNTIME_DIR"] {
                assert!(given(program, name, false), "{program} {name}");
            }
        }
    }

    #[test]
    fn each_program_is_given_what_it_needs() {
        for (program, name) in [
            ("helm", "KUBECONFIG"),
            ("helm", "HELM_CACHE_HOME"),
            ("helmfile", "HELMFILE_TEMPDIR"),
            ("k3d", "KUBECONFIG"),
            ("k3d", "DOCKER_HOST"),
            ("k3d", "K3D_FIX_DNS"),
            ("docker", "DOCKER_CONFIG"),
            ("docker", "DOCKER_AUTH_CONFIG"),
            ("go", "GOPROXY"),
            ("go", "GOAUTH"),
            ("apt-get", "DEBIAN_FRONTEND"),
            ("helmfile", "AMEIDE_RUN"),
            ("helmfile", "OTEL_EXPORTER_OTLP_ENDPOINT"),
            ("helmfile", "OTEL_EXPORTER_OTLP_HEADERS"),
        ] {
            assert!(given(program, name, false), "{program} {name}");
        }
        assert!(!given("helm", "OTEL_EXPORTER_OTLP_HEADERS", false) && !given("helmfile", "TRACEPARENT", false));
        assert!(!given("go", "KUBECONFIG", false) && !given("apt-get", "DOCKER_HOST", false));
    }

    #[test]
    fn a_cloud_s_account_goes_to_a_plugin_and_to_nobody_else() {
        let config = r#"{"contexts":[{"name":"shared","context":{"cluster":"c","user":"cloud"}},
            {"name":"k3d","context":{"cluster":"c","user":"admin"}}],
            "users":[{"name":"cloud","user":{"exec":{"command":"aws","apiVersion":"client.authentication.k8s.io/v1"}}},
            {"name":"admin","user":{"token":"t"}}]}"#;
        let mut config: Kubeconfig = serde_json::from_str(config).unwrap();
        assert!(signs_in_by_plugin(&config, "shared"));
        assert!(!signs_in_by_plugin(&config, "k3d") && !signs_in_by_plugin(&config, "nobody"));
        assert!(given("helm", "AWS_SECRET_ACCESS_KEY", true) && !given("helm", "GITHUB_TOKEN", true));
        limit_plugins(&mut config);
        let dropped = config.auth_infos[0].auth_info.as_ref().unwrap().exec.as_ref().unwrap().drop_env.clone().unwrap();
        assert!(!dropped.contains(&"PATH".to_owned()));
        // Set by cargo for tests; no plugin needs it.
        assert!(dropped.contains(&"CARGO_MANIFEST_DIR".to_owned()), "{dropped:?}");
    }

    #[test]
    fn a_machine_may_name_more() {
        assert!(passed("ONE, TWO_*", "ONE") && passed("ONE, TWO_*", "TWO_X"));
        assert!(!passed("ONE, TWO_*", "THREE") && !passed("", "") && !passed("*", "ANY"));
    }

    /// What the tree's own files read from the environment is passed to Helmfile and k3d.
    #[test]
    fn what_the_tree_s_files_read_is_given() {
        let root = camino::Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../infra");
        let mut found = 0;
        for path in crate::files::digest::files_below(&root).unwrap() {
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let within = path.strip_prefix(&root).unwrap().as_str();
            let in_templates = within.starts_with("kubernetes/") && !within.contains("/charts/");
            for call in ["requiredEnv \"", "env \""].iter().filter(|_| in_templates) {
                for rest in text.split(call).skip(1) {
                    let name = rest.split('"').next().unwrap();
                    assert!(given("helmfile", name, false), "{path}: {name}");
                    found += 1;
                }
            }
            for rest in text.split("${").skip(1).filter(|_| path.ends_with("k3d.yaml")) {
                let name = rest.split('}').next().unwrap();
                assert!(given("k3d", name, false), "{path}: {name}");
            }
        }
        assert!(found > 1, "{found} are found");
    }
}
