//! `layers.yaml`: what each layer needs before it starts, how long to wait for it, what is retried,
//! and which layers `up` deploys.

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8Path;
use run_record::{Code, Failure};
use serde::Deserialize;

use super::layers::{self, Layer};
use super::parse_yaml;
use crate::files::bounds;

/// `infra/kubernetes/layers.yaml`: what each layer needs before it starts.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LayerNeeds {
    /// What each layer needs; a layer that is not listed needs nothing.
    #[serde(default)]
    pub layers: BTreeMap<String, Needs>,
    /// How long to wait before a layer starts.
    #[serde(default)]
    pub preflight: Waits,
    /// What is retried, how often, and how long blockers may last.
    #[serde(default)]
    pub retries: Budgets,
    /// The layers that `up` deploys.
    pub critical_path: Vec<String>,
    /// Created or updated before each layer.
    pub pull_secret: Option<PullSecretNeed>,
    /// Images that need not come from the mirror: whole names, or a prefix and `*`.
    #[serde(default)]
    pub unmirrored: Vec<String>,
}

impl LayerNeeds {
    /// The namespaces that a layer needs or creates, according to layers.yaml.
    pub fn namespaces_of(&self, layer: &Layer) -> BTreeSet<String> {
        let needs = self.layers.get(&layer.name());
        needs.into_iter().flat_map(|needs| needs.namespaces.iter().chain(&needs.creates)).cloned().collect()
    }

    /// The namespaces of all layers.
    pub fn all_namespaces(&self) -> BTreeSet<String> {
        self.layers.values().flat_map(|needs| needs.namespaces.iter().chain(&needs.creates)).cloned().collect()
    }

    /// The layers that must be in place before this one: those that it needs, and those that create
    /// its namespaces.
    pub fn needed_by<'a>(&'a self, layer: &'a str) -> impl Iterator<Item = &'a str> {
        let own = self.layers.get(layer).into_iter();
        own.flat_map(move |own| {
            let others = own.namespaces.iter().filter(move |namespace| !own.creates.contains(namespace));
            let makers = others.filter_map(move |namespace| self.creator_of(namespace));
            own.layers.iter().map(String::as_str).chain(makers.filter(move |maker| *maker != layer))
        })
    }

    /// The layers that go before this one: what it needs, and what it only goes after.
    pub fn before<'a>(&'a self, layer: &'a str) -> impl Iterator<Item = &'a str> {
        let after = self.layers.get(layer).into_iter().flat_map(|own| own.after.iter().map(String::as_str));
        self.needed_by(layer).chain(after)
    }

    /// The layer that creates this namespace, if layers.yaml names one.
    pub fn creator_of(&self, namespace: &str) -> Option<&str> {
        let mut makers = self.layers.iter().filter(|(_, needs)| needs.creates.iter().any(|made| made == namespace));
        makers.next().map(|(name, _)| name.as_str())
    }

    /// # Errors
    /// A file that is missing, or has an implausible number; file and field are named.
    pub fn parse(path: &Utf8Path, text: &str) -> Result<Self, Failure> {
        let needs: Self = parse_yaml(path, text)?;
        needs.check().map_err(|error| Failure::usage(format!("{path}: {error}")))?;
        Ok(needs)
    }

    /// Checks that every layer that is named is one of these, and that none waits for itself.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn check_layers(&self, all: &[Layer]) -> Result<(), String> {
        let names: Vec<String> = all.iter().map(Layer::name).collect();
        let known = |field: String, name: &String| match names.contains(name) {
            true => Ok(()),
            false => Err(format!("{field}: no layer {name:?}: expected one of {}", names.join(", "))),
        };
        for (index, name) in self.critical_path.iter().enumerate() {
            // A number, a stage or a range will do, as on the command line.
            let selected = layers::select(all, std::slice::from_ref(name));
            selected.map_err(|failure| format!("criticalPath[{index}]: {}", failure.message))?;
        }
        for (name, needs) in &self.layers {
            known("layers".to_owned(), name)?;
            for (field, others) in [("layers", &needs.layers), ("after", &needs.after)] {
                others.iter().try_for_each(|other| known(format!("layers.{name}.{field}"), other))?;
            }
        }
        match self.layers.keys().find_map(|name| self.way_back(name)) {
            Some(way) => Err(format!("layers.{}: waits for itself: {}", way[0], way.join(" waits for "))),
            None => Ok(()),
        }
    }

    /// From a layer through those before it back to itself, if there is such a way.
    fn way_back<'a>(&'a self, layer: &'a str) -> Option<Vec<&'a str>> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![vec![layer]]);
        while let Some(way) = open.pop() {
            for before in self.before(way[way.len() - 1]) {
                let longer = [&way[..], &[before]].concat();
                if before == layer {
                    return Some(longer);
                }
                if seen.insert(before) {
                    open.push(longer);
                }
            }
        }
        None
    }

    fn check(&self) -> Result<(), String> {
        let seconds = |field: &str, value| bounds::within(field, value, 0..=bounds::DAY);
        let attempts = |field: &str, value: u32| bounds::within(field, value.into(), 0..=1000);
        seconds("preflight.namespace", self.preflight.namespace)?;
        seconds("preflight.service", self.preflight.service)?;
        let retries = &self.retries;
        attempts("retries.rateLimit.attempts", retries.rate_limit.attempts)?;
        seconds("retries.rateLimit.firstWait", retries.rate_limit.first_wait)?;
        seconds("retries.rateLimit.longestWait", retries.rate_limit.longest_wait)?;
        attempts("retries.releasePending.attempts", retries.release_pending.attempts)?;
        attempts("retries.apiUnreachable.attempts", retries.api_unreachable.attempts)?;
        seconds("retries.apiUnreachable.within", retries.api_unreachable.within)?;
        attempts("retries.webhookUnavailable.attempts", retries.webhook_unavailable.attempts)?;
        seconds("retries.webhookUnavailable.wait", retries.webhook_unavailable.wait)?;
        for (code, value) in &retries.patience {
            seconds(&format!("retries.patience.{code}"), *value)?;
        }
        for (layer, needs) in &self.layers {
            for (index, service) in needs.services.iter().enumerate() {
                bounds::within(&format!("layers.{layer}.services[{index}].port"), service.port.into(), 1..=65_535)?;
            }
        }
        Ok(())
    }
}

/// The Secret with which pods pull from Docker Hub, if there are credentials.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullSecretNeed {
    pub name: String,
    /// The registry as Docker's `config.json` names it.
    pub server: String,
    pub namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Needs {
    /// Namespaces that must be Active.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Namespaces that the layer creates: waited for while they are Terminating, but allowed to be
    /// absent.
    #[serde(default)]
    pub creates: Vec<String>,
    /// Services that must accept a connection.
    #[serde(default)]
    pub services: Vec<ServiceNeed>,
    /// Secrets that must exist.
    #[serde(default)]
    pub secrets: Vec<SecretNeed>,
    /// Earlier layers that must be in place.
    #[serde(default)]
    pub layers: Vec<String>,
    /// Layers that run first if both are in one run, but that may be missing.
    #[serde(default)]
    pub after: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceNeed {
    pub namespace: String,
    pub name: String,
    pub port: u16,
    /// Needed only once this release exists: the layer itself installs it.
    pub if_release: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretNeed {
    pub namespace: String,
    pub name: String,
    /// All of them must exist, and none may be empty.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Needed only once this release exists.
    pub if_release: Option<String>,
}

/// `preflight:` of layers.yaml: how long to wait, in seconds.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Waits {
    /// For a Terminating namespace to be gone.
    pub namespace: u64,
    /// For a service that is coming up.
    pub service: u64,
}

impl Default for Waits {
    fn default() -> Self {
        Self { namespace: 120, service: 60 }
    }
}

/// `retries:` of layers.yaml.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
pub struct Budgets {
    pub rate_limit: RateLimit,
    pub release_pending: ReleasePending,
    pub api_unreachable: ApiUnreachable,
    pub webhook_unavailable: WebhookUnavailable,
    /// Seconds that a blocker may last before it ends the run, by code.
    #[serde(deserialize_with = "of_known_codes")]
    #[cfg_attr(test, schemars(schema_with = "tests::by_code"))]
    pub patience: BTreeMap<Code, u64>,
}

/// Patience only applies to codes that can come from a layer's objects, Helm or Helmfile.
fn of_known_codes<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<Code, u64>, D::Error> {
    let patience = BTreeMap::<String, u64>::deserialize(from)?;
    let known = |(name, seconds): (String, u64)| {
        let code = name.parse().ok().filter(|code: &Code| code.remedy().is_some());
        code.map(|code| (code, seconds)).ok_or_else(|| format!("patience: no blocker is called {name:?}"))
    };
    patience.into_iter().map(known).collect::<Result<_, _>>().map_err(serde::de::Error::custom)
}

/// All times are in seconds.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RateLimit {
    pub attempts: u32,
    pub first_wait: u64,
    pub longest_wait: u64,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { attempts: 8, first_wait: 5, longest_wait: 120 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ReleasePending {
    pub attempts: u32,
}

impl Default for ReleasePending {
    fn default() -> Self {
        Self { attempts: 1 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ApiUnreachable {
    pub attempts: u32,
    /// How long to wait for the API to come back each time, in seconds.
    pub within: u64,
}

impl Default for ApiUnreachable {
    fn default() -> Self {
        Self { attempts: 2, within: 180 }
    }
}

/// For a webhook that is coming up, or an object that somebody else is changing or deleting: Helm
/// gives up at its first refusal.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WebhookUnavailable {
    pub attempts: u32,
    /// Before each attempt, in seconds.
    pub wait: u64,
}

impl Default for WebhookUnavailable {
    fn default() -> Self {
        Self { attempts: 12, wait: 15 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Patience only applies to the codes that [`of_known_codes`] accepts.
    pub(super) fn by_code(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let known = Code::ALL.iter().filter(|code| code.remedy().is_some()).map(|code| code.name());
        schemars::json_schema!({
            "description": "Seconds that a blocker may last before it ends the run, by code.",
            "type": "object",
            "propertyNames": {"enum": known.collect::<Vec<_>>()},
            "additionalProperties": {"type": "integer", "minimum": 0},
        })
    }

    #[test]
    fn the_schema_of_layers_yaml_is_that_of_the_type() {
        crate::schema::kept::<LayerNeeds>("layers.json");
    }
}
