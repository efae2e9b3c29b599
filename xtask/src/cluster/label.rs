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

/// How a cluster with this label differs from the config; `None` if it is no label of ours.
pub(crate) fn drift(label: &str, config: &K3dConfig) -> Option<Vec<Difference>> {
    let applied: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(label).ok()?).ok()?;
    // Older labels were not veiled.
    Some(differences(&veiled("", &applied), &veiled("", config.value())))
}

/// Begins what stands for a secret.
const VEIL: &str = "*** ";

/// Four hexadecimal digits: enough to notice a change, and too few to check a guess.
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
    match value {
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), veiled(key, value))).collect(),
        Value::Array(items) => items.iter().map(|item| veiled(key, item)).collect(),
        Value::String(text) => match key {
            // Of k3s's registries.yaml, in the words of its documentation.
            "password" | "auth" | "identity_token" | "token" => veil(text).into(),
            // It is a file of its own, in which blanks and comments say nothing.
            "config" => match bounds::yaml(text) {
                Ok(inner @ Value::Object(_)) => veiled("", &inner),
                _ => veil(text).into(),
            },
            // `NAME=VALUE`, `--FLAG=VALUE`.
            "envVar" | "arg" => match text.split_once('=') {
                Some((name, value)) if is_secret_variable(name) || masked(text) != *text => {
                    format!("{name}={}", veil(value)).into()
                }
                _ => value.clone(),
            },
            _ if masked(text) != *text => veil(text).into(),
            _ => value.clone(),
        },
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "apiVersion: k3d.io/v1alpha5
kind: Simple
metadata: {name: ameide}
token: of-the-cluster
env: [{envVar: 'K3S_TOKEN=of-a-variable'}, {envVar: 'HTTPS_PROXY=http://u:of-a-proxy@p:1'}, {envVar: A=plain}]
options: {k3s: {extraArgs: [{arg: --agent-token=of-an-agent}, {arg: --datastore-endpoint=postgres://u:of-a-store@h/d}, {arg: --disable=traefik}]}}
registries:
  config: |
    mirrors: {a:5000: {endpoint: ['https://u:of-an-address@a:5000']}}
    configs: {a:5000: {auth: {username: me, password: of-a-registry}}}
";

    fn config(text: &str) -> K3dConfig {
        K3dConfig::parse("k3d.yaml".into(), text).unwrap()
    }

    fn drift_of(old: &str, new: &str) -> Vec<String> {
        let drift = drift(&of(&config(old)), &config(new)).unwrap();
        drift.into_iter().map(|difference| difference.to_string()).collect()
    }

    #[test]
    fn no_secret_is_in_a_label_or_in_what_is_told_of_it() {
        let label = String::from_utf8(URL_SAFE_NO_PAD.decode(of(&config(FILE))).unwrap()).unwrap();
        assert!(!label.contains("of-a"), "{label}");
        for open in ["K3S_TOKEN=", "A=plain", "--disable=traefik", "\"username\":\"me\""] {
            assert!(label.contains(open), "{open}: {label}");
        }
        let other = FILE.replace("of-", "other-of-");
        let told = drift_of(FILE, &other);
        assert_eq!(told.len(), 7, "{told:#?}");
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
