//! The label with the config that a cluster was created from. k3d takes it as an argument, which
//! every user of this machine may read while k3d runs, and drift is reported by it: so secrets are in
//! it only as marks that say whether they are still the same.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::files::{bounds, digest};
use crate::repo::k3d::{Difference, K3dConfig, differences};
use crate::run::foreign::{is_secret_variable, masked};

/// What the label says.
pub(crate) fn of(config: &K3dConfig) -> String {
    URL_SAFE_NO_PAD.encode(veiled("", config.value()).to_string())
}

/// The same, for a node that joins later: a digest will do.
pub(crate) fn digest(config: &K3dConfig) -> String {
    let mut hash = Sha256::new();
    hash.update(of(config));
    digest::short(hash)
}

/// How a cluster with this label differs from the config; `None` if it is no label of ours.
pub(crate) fn drift(label: &str, config: &K3dConfig) -> Option<Vec<Difference>> {
    let applied: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(label).ok()?).ok()?;
    // Older labels were not veiled.
    let mut found = differences(&veiled("", &applied), &veiled("", config.value()));
    found.retain(|difference| !OF_THE_COMMAND.contains(&difference.field.as_str()));
    Some(found)
}

/// How k3d goes about it: a cluster made with another value is the same.
const OF_THE_COMMAND: [&str; 5] = [
    "options.k3d.wait",
    "options.k3d.timeout",
    "options.k3d.disableRollback",
    "options.kubeconfig.updateDefaultKubeconfig",
    "options.kubeconfig.switchCurrentContext",
];

/// Begins what stands for a secret.
const VEIL: &str = "*** ";

/// With four hexadecimal digits of its digest: a changed secret goes unnoticed once in 65,536 times,
/// and whoever guesses cannot tell whether a guess that fits is right.
fn veil(secret: &str) -> String {
    if secret.is_empty() || secret.starts_with(VEIL) {
        return secret.to_owned();
    }
    let mut hash = Sha256::new();
    hash.update(secret);
    format!("{VEIL}{}", digest::hex(hash, 2))
}

/// A value, which is that of this key, with each secret in it veiled.
fn veiled(key: &str, value: &Value) -> Value {
    // Of k3d.yaml and of k3s's registries.yaml, in the words of their documentation.
    const SECRET: [&str; 4] = ["password", "auth", "identity_token", "token"];
    // k3d does not mind capital letters in a key.
    let lower = key.to_ascii_lowercase();
    let is_secret = SECRET.contains(&lower.as_str());
    match value {
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), veiled(key, value))).collect(),
        Value::Array(items) => {
            // `--FLAG` and its value may be two arguments.
            let mut flag = String::new();
            let mut item = |item: &Value| {
                let own = item.get("arg").and_then(Value::as_str).unwrap_or_default();
                let is_value = flag.starts_with('-') && is_secret_argument(&flag) && !own.starts_with('-');
                own.clone_into(&mut flag);
                veiled(key, &if is_value { veiled_argument(item) } else { item.clone() })
            };
            items.iter().map(&mut item).collect()
        }
        Value::Number(number) if is_secret => veil(&number.to_string()).into(),
        Value::String(text) => match key {
            _ if is_secret => veil(text).into(),
            // It is a file of its own, in which blanks and comments say nothing.
            "config" => match bounds::yaml(text) {
                Ok(inner @ Value::Object(_)) => veiled("", &inner),
                _ => veil(text).into(),
            },
            // Or a path.
            "source" if text.contains('\n') => veil(text).into(),
            _ => match text.split_once('=') {
                // `NAME=VALUE`, `--FLAG=VALUE`.
                Some((name, value))
                    if matches!(key, "envVar" | "arg") && (is_secret_argument(name) || masked(text) != *text) =>
                {
                    format!("{name}={}", veil(value)).into()
                }
                _ if masked(text) != *text => veil(text).into(),
                _ => value.clone(),
            },
        },
        other => other.clone(),
    }
}

/// Whether the value of k3s's argument or variable is a secret. `-t` is its token; a datastore's
/// address may contain a password, in forms of its own.
fn is_secret_argument(name: &str) -> bool {
    let is_datastore = ["datastore-endpoint", "K3S_DATASTORE_ENDPOINT"].contains(&name.trim_start_matches('-'));
    name == "-t" || is_datastore || is_secret_variable(name)
}

fn veiled_argument(item: &Value) -> Value {
    let mut item = item.clone();
    if let Some(argument) = item.get_mut("arg") {
        let veiled = argument.as_str().map(veil);
        *argument = veiled.unwrap_or_default().into();
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "apiVersion: k3d.io/v1alpha5
kind: Simple
metadata: {name: ameide}
token: of-the-cluster
env: [{envVar: 'K3S_TOKEN=of-a-variable'}, {envVar: 'HTTPS_PROXY=http://u:of-a-proxy@p:1'}, {envVar: 'K3S_DATASTORE_ENDPOINT=mysql://u:a/of-a-variable@tcp(h)/d'}, {envVar: A=plain}]
files: [{source: \"kind: Secret\\ndata: {x: of-a-file}\", destination: /x}, {source: ./path.yaml, destination: /y}]
options: {k3s: {extraArgs: [{arg: --agent-token=of-an-agent}, {arg: --datastore-endpoint}, {arg: 'postgres://of-a-store/d'}, {arg: -t}, {arg: of-a-flag}, {arg: --disable=traefik}]}}
registries:
  config: |
    mirrors: {a:5000: {endpoint: ['https://u:of-an-address@a:5000']}}
    configs: {a:5000: {auth: {username: me, password: of-a-registry}}, b: {auth: {username: me, password: 123456}}}
";

    fn config(text: &str) -> K3dConfig {
        K3dConfig::parse("k3d.yaml".into(), text).unwrap()
    }

    fn drift_of(old: &str, new: &str) -> Vec<String> {
        let drift = drift(&of(&config(old)), &config(new)).unwrap();
        drift.into_iter().map(|difference| difference.to_string()).collect()
    }

    #[test]
    fn for_how_long_k3d_waits_is_no_drift() {
        let with = |timeout: &str| FILE.replace("options: {", &format!("options: {{k3d: {{timeout: {timeout}}}, "));
        assert_eq!(drift_of(&with("180s"), &with("20m")), [] as [&str; 0]);
        assert_eq!(drift_of(FILE, &with("20m")), [] as [&str; 0]);
        assert_eq!(drift_of(&with("180s"), &with("180s, disableImageVolume: true")).len(), 1);
    }

    #[test]
    fn no_secret_is_in_a_label_or_in_what_is_told_of_it() {
        let label = String::from_utf8(URL_SAFE_NO_PAD.decode(of(&config(FILE))).unwrap()).unwrap();
        assert!(!label.contains("of-a"), "{label}");
        assert!(!label.contains("123456"), "{label}");
        for open in ["K3S_TOKEN=", "A=plain", "--disable=traefik", "\"username\":\"me\"", "./path.yaml"] {
            assert!(label.contains(open), "{open}: {label}");
        }
        let other = FILE.replace("of-", "other-of-");
        let told = drift_of(FILE, &other);
        assert_eq!(told.len(), 10, "{told:#?}");
        assert!(!told.concat().contains("of-a"), "{told:#?}");
    }

    #[test]
    fn what_says_the_same_is_no_drift_whoever_wrote_the_label() {
        let blanks = FILE.replace("    mirrors: {", "    # of our own\n    mirrors:   {");
        assert_eq!(drift_of(FILE, &blanks), [""; 0]);
        let unveiled = URL_SAFE_NO_PAD.encode(config(FILE).canonical());
        assert_eq!(drift(&unveiled, &config(FILE)), Some(Vec::new()));
        for label in ["!", "bm8ganNvbg"] {
            assert_eq!(drift(label, &config(FILE)), None);
        }
    }
}
