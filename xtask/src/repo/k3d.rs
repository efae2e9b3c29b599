//! k3d's config file (`k3d.io/v1alpha5`, kind `Simple`) as types, and the differences between two
//! versions of it, field by field.
//!
//! The schema is k3d's own `pkg/config/v1alpha5/schema.json`: an unknown field
//! is an error here too, before anything is created.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::bounds;
use crate::repo;
use run_record::Failure;

/// The config file as read, and as a plain value for comparison.
#[derive(Clone, Debug)]
pub struct K3dConfig {
    pub path: Utf8PathBuf,
    pub simple: Simple,
    value: Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Simple {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    #[serde(default = "one")]
    pub servers: u32,
    #[serde(default)]
    pub agents: u32,
    #[serde(rename = "kubeAPI")]
    pub kube_api: Option<KubeApi>,
    pub image: Option<String>,
    pub network: Option<String>,
    pub subnet: Option<String>,
    pub token: Option<String>,
    #[serde(default)]
    pub volumes: Vec<Volume>,
    #[serde(default)]
    pub ports: Vec<Port>,
    pub options: Option<Options>,
    #[serde(default)]
    pub env: Vec<EnvVar>,
    pub registries: Option<Registries>,
    #[serde(default)]
    pub host_aliases: Vec<HostAlias>,
    #[serde(default)]
    pub files: Vec<FileEntry>,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub name: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeApi {
    pub host: Option<String>,
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
    pub host_port: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    pub volume: String,
    #[serde(default)]
    pub node_filters: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    pub port: String,
    #[serde(default)]
    pub node_filters: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Label {
    pub label: String,
    #[serde(default)]
    pub node_filters: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    pub env_var: String,
    #[serde(default)]
    pub node_filters: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Options {
    pub k3d: Option<K3dOptions>,
    pub k3s: Option<K3sOptions>,
    pub kubeconfig: Option<KubeconfigOptions>,
    pub runtime: Option<RuntimeOptions>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct K3dOptions {
    pub wait: Option<bool>,
    pub timeout: Option<String>,
    pub disable_loadbalancer: Option<bool>,
    pub disable_image_volume: Option<bool>,
    pub disable_rollback: Option<bool>,
    pub loadbalancer: Option<Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct K3sOptions {
    #[serde(default)]
    pub extra_args: Vec<ExtraArg>,
    #[serde(default)]
    pub node_labels: Vec<Label>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtraArg {
    pub arg: String,
    #[serde(default)]
    pub node_filters: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeconfigOptions {
    pub update_default_kubeconfig: Option<bool>,
    pub switch_current_context: Option<bool>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimeOptions {
    pub gpu_request: Option<String>,
    pub servers_memory: Option<String>,
    pub agents_memory: Option<String>,
    pub host_pid_mode: Option<bool>,
    #[serde(default)]
    pub labels: Vec<Label>,
    #[serde(default)]
    pub ulimits: Vec<Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Registries {
    pub create: Option<Value>,
    #[serde(default, rename = "use")]
    pub use_existing: Vec<String>,
    pub config: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostAlias {
    pub ip: String,
    pub hostnames: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEntry {
    pub source: String,
    pub destination: String,
    pub description: Option<String>,
    #[serde(default)]
    pub node_filters: Vec<String>,
}

impl K3dConfig {
    pub fn read(path: &Utf8Path) -> Result<Self, Failure> {
        Self::parse(path, &repo::read(path)?)
    }

    /// # Errors
    /// A file that is missing, or has an invalid number; file and field are named.
    pub fn parse(path: &Utf8Path, text: &str) -> Result<Self, Failure> {
        let simple: Simple = repo::parse_yaml(path, text)?;
        if simple.api_version != "k3d.io/v1alpha5" || simple.kind != "Simple" {
            return Err(Failure::usage(format!(
                "{path}: apiVersion {:?}, kind {:?}: expected k3d.io/v1alpha5 and Simple",
                simple.api_version, simple.kind
            )));
        }
        simple.check().map_err(|error| Failure::usage(format!("{path}: {error}")))?;
        let value = serde_json::to_value(&simple).map_err(|error| Failure::usage(format!("{path}: {error}")))?;
        Ok(Self { path: path.to_owned(), simple, value })
    }

    pub fn name(&self) -> &str {
        &self.simple.metadata.name
    }

    pub fn network(&self) -> String {
        self.simple.network.clone().unwrap_or_else(|| format!("k3d-{}", self.name()))
    }

    /// The kubeconfig context that k3d creates for it.
    pub fn kube_context(&self) -> String {
        format!("k3d-{}", self.name())
    }

    pub fn server_container(&self) -> String {
        format!("k3d-{}-server-0", self.name())
    }

    pub fn loadbalancer_container(&self) -> Option<String> {
        let disabled = self.simple.options.as_ref().and_then(|o| o.k3d.as_ref()).and_then(|k| k.disable_loadbalancer);
        (disabled != Some(true)).then(|| format!("k3d-{}-serverlb", self.name()))
    }

    /// Fails for what no cluster may be made of, although k3d takes it: a registry that k3d deletes
    /// with its cluster, and variables that k3d does not have, of which `has` knows those that it has.
    ///
    /// # Errors
    /// `usage`; file and field are named.
    pub fn check_for_creation(&self, has: impl Fn(&str) -> bool) -> Result<(), Failure> {
        let create = self.simple.registries.as_ref().is_some_and(|registries| registries.create.is_some());
        let refused = match create {
            true => {
                Err("registries.create: expected registries.use: k3d deletes its own registry with the cluster".into())
            }
            false => no_unknown_variable("", &self.value, &has),
        };
        refused.map_err(|error: String| Failure::usage(format!("{}: {error}", self.path)))
    }

    /// Whether the file limits how long k3d may wait.
    pub fn has_timeout(&self) -> bool {
        let options = self.simple.options.as_ref().and_then(|options| options.k3d.as_ref());
        let timeout = options.and_then(|options| options.timeout.as_deref());
        timeout.is_some_and(|timeout| timeout.contains(|c: char| matches!(c, '1'..='9')))
    }

    fn nodes(&self, role: &str, count: u32) -> Vec<String> {
        (0..count).map(|n| format!("k3d-{}-{role}-{n}", self.name())).collect()
    }

    pub fn servers(&self) -> Vec<String> {
        self.nodes("server", self.simple.servers)
    }

    /// How many nodes the file asks for.
    pub fn node_count(&self) -> usize {
        self.simple.servers.saturating_add(self.simple.agents) as usize
    }

    pub fn agents(&self) -> Vec<String> {
        self.nodes("agent", self.simple.agents)
    }

    /// Whether a node that joins by `k3d node create` is like every agent of this file. k3d copies
    /// another agent for it, and a server's mounts and environment where no agent is left, so that
    /// nothing may be said of single nodes, or of agents alone.
    pub fn agents_are_alike(&self) -> bool {
        let of_others = |filters: &Vec<String>| {
            !filters.is_empty()
                && filters.iter().all(|filter| filter.starts_with("server") || filter.starts_with("loadbalancer"))
        };
        let simple = &self.simple;
        let options = simple.options.as_ref();
        let k3s = options.and_then(|options| options.k3s.as_ref());
        let runtime = options.and_then(|options| options.runtime.as_ref());
        simple.volumes.is_empty()
            && simple.env.is_empty()
            && simple.host_aliases.is_empty()
            && simple.files.iter().all(|file| of_others(&file.node_filters))
            && simple.ports.iter().all(|port| of_others(&port.node_filters))
            && k3s.is_none_or(|k3s| {
                k3s.extra_args.iter().all(|arg| of_others(&arg.node_filters))
                    && k3s.node_labels.iter().all(|label| of_others(&label.node_filters))
            })
            && runtime.is_none_or(|runtime| {
                runtime.agents_memory.is_none()
                    && runtime.ulimits.is_empty()
                    && runtime.gpu_request.is_none()
                    && runtime.labels.iter().all(|label| of_others(&label.node_filters))
            })
    }

    /// Every container that the cluster consists of.
    pub fn containers(&self) -> Vec<String> {
        let others = self.agents().into_iter().chain(self.loadbalancer_container());
        self.servers().into_iter().chain(others).collect()
    }

    /// Where the API is published on this machine, `IP:PORT`.
    pub fn api_binding(&self) -> Option<String> {
        let api = self.simple.kube_api.as_ref()?;
        let port: u16 = api.host_port.as_ref()?.parse().ok()?;
        let ip = api.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
        Some(if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") })
    }

    /// The registry container that the cluster uses, `k3d-dev-reg`.
    pub fn registry_container(&self) -> Option<String> {
        let first = self.simple.registries.as_ref()?.use_existing.first()?;
        Some(first.split(':').next().unwrap_or(first).to_owned())
    }

    /// Where the cluster's TCP ports are published on this machine: the API's, and those of `ports`.
    /// Without an address, Docker takes all of them: then it is the loopback one.
    pub fn host_ports(&self) -> Vec<SocketAddr> {
        let published = self.simple.ports.iter().filter_map(|port| Mapping::parse(&port.port));
        let published = published.filter(|mapping| mapping.protocol == "tcp").map(|mapping| mapping.outside);
        self.api_binding().into_iter().chain(published).filter_map(|outside| bound(&outside)).collect()
    }

    /// The config in one line, secrets and all.
    pub fn canonical(&self) -> String {
        self.value.to_string()
    }

    /// The whole file.
    pub fn value(&self) -> &Value {
        &self.value
    }
}

/// `[IP:]HOSTPORT:CONTAINERPORT[/PROTOCOL]`, for single ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// On the host: `IP:PORT`, or the port.
    pub outside: String,
    pub inside: u16,
    pub protocol: String,
}

impl Mapping {
    pub fn parse(text: &str) -> Option<Self> {
        let (mapping, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (outside, inside) = mapping.rsplit_once(':')?;
        outside.rsplit(':').next()?.parse::<u16>().ok()?;
        Some(Self { outside: outside.to_owned(), inside: inside.parse().ok()?, protocol: protocol.to_owned() })
    }

    /// As `docker create --publish` takes it.
    pub fn publish(&self) -> String {
        format!("{}:{}/{}", self.outside, self.inside, self.protocol)
    }
}

/// `IP:PORT` or `PORT`, as an address that can be tried.
fn bound(outside: &str) -> Option<SocketAddr> {
    let (ip, port) = outside.rsplit_once(':').unwrap_or(("", outside));
    let ip = ip.trim_matches(['[', ']']).parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified());
    Some(SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), port.parse().ok()?))
}

impl Simple {
    /// Checks that every node is a container of this machine, and that every port is valid.
    fn check(&self) -> Result<(), String> {
        const NODES: u64 = 100;
        bounds::within("servers", self.servers.into(), 1..=NODES)?;
        bounds::within("agents", self.agents.into(), 0..=NODES)?;
        let wrong = |field: String, text: &str| Err(format!("{field}: {text:?}: expected a port, 1 to 65535"));
        let port = self.kube_api.as_ref().and_then(|api| api.host_port.as_deref());
        if let Some(port) = port.filter(|port| !is_port(port) && !matches!(*port, "" | "random")) {
            return wrong("kubeAPI.hostPort".to_owned(), port);
        }
        for (index, mapping) in self.ports.iter().enumerate() {
            let ports = mapping.port.split(['/', '@']).next().unwrap_or_default();
            // An address may contain numbers too, and larger ones. Ports may be ranges.
            let mut numbers = ports.rsplit(':').take(2).flat_map(|port| port.split('-')).filter(|port| is_digits(port));
            if numbers.any(|port| !is_port(port) && port != "0") {
                return wrong(format!("ports[{index}].port"), &mapping.port);
            }
        }
        Ok(())
    }
}

/// k3d replaces variables in the whole file (`os.ExpandEnv` in its `cmd/util/config/config.go`), those
/// that it does not have by nothing.
fn no_unknown_variable(field: &str, value: &Value, has: &impl Fn(&str) -> bool) -> Result<(), String> {
    match value {
        Value::String(text) if !variables(text).all(has) => Err(format!(
            "{field}: k3d replaces a `$` and what follows by a variable of its environment, which it does not have: \
             expected the value itself"
        )),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| no_unknown_variable(&format!("{field}[{index}]"), item, has)),
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
            let field = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
            no_unknown_variable(&field, value, has)
        }),
        _ => Ok(()),
    }
}

/// The names that Go's `os.Expand` replaces: `${NAME}`, `$NAME`, and the shell's special parameters.
fn variables(text: &str) -> impl Iterator<Item = &str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices('$').filter_map(move |(at, _)| {
        let rest = &text[at + 1..];
        match rest.chars().next()? {
            '{' => Some(rest[1..].split('}').next().unwrap_or_default()),
            first if is_name(first) => Some(&rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())]),
            first if "*#$@!?-".contains(first) => Some(&rest[..1]),
            _ => None,
        }
    })
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_port(text: &str) -> bool {
    is_digits(text) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// A field that differs, by its path in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub field: String,
    pub cluster: String,
    pub file: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: the cluster has {}, the file says {}", self.field, self.cluster, self.file)
    }
}

/// How a cluster created from the one config differs from the other.
pub fn differences(cluster: &Value, file: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", cluster, file, &mut found);
    found
}

fn compare(path: &str, cluster: &Value, file: &Value, found: &mut Vec<Difference>) {
    let none = Value::Object(serde_json::Map::new());
    match (cluster, file) {
        (Value::Null, Value::Object(_)) => compare(path, &none, file, found),
        (Value::Object(_), Value::Null) => compare(path, cluster, &none, found),
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let child = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&child, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{index}]"), a, b, found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(Difference { field: path.to_owned(), cluster: a.to_string(), file: b.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "apiVersion: k3d.io/v1alpha5\nkind: Simple\nmetadata:\n  name: ameide\nkubeAPI:\n  hostPort: \"6550\"\nports:\n- port: 127.0.0.1:443:443\n  nodeFilters: [loadbalancer]\n";

    fn config(text: &str) -> Result<K3dConfig, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("k3d.yaml")).unwrap();
        std::fs::write(&path, text).unwrap();
        K3dConfig::read(&path)
    }

    #[test]
    fn an_unknown_field_is_refused_by_name_and_line() {
        let message = config(&FILE.replace("kubeAPI:", "serverz: 3\nkubeAPI:")).unwrap_err().message;
        assert!(message.contains("serverz") && message.contains('5'), "{message}");
    }

    #[test]
    fn windows_line_ends_and_comments_change_nothing() {
        let plain = config(FILE).unwrap();
        let windows = config(&format!("# the local cluster\r\n{}", FILE.replace('\n', "\r\n"))).unwrap();
        assert_eq!(differences(plain.value(), windows.value()), []);
    }

    #[test]
    fn drift_names_the_field_and_both_values() {
        let old = config(FILE).unwrap();
        let new = config(&FILE.replace("6550", "6551").replace("ameide", "ameide\nagents: 2")).unwrap();
        let drift = differences(old.value(), new.value());
        let fields: Vec<&str> = drift.iter().map(|d| d.field.as_str()).collect();
        assert_eq!(fields, ["agents", "kubeAPI.hostPort"]);
        assert_eq!(drift[1].to_string(), r#"kubeAPI.hostPort: the cluster has "6550", the file says "6551""#);
    }

    #[test]
    fn a_variable_that_k3d_does_not_have_is_refused_by_its_field() {
        let of = |text: &str| {
            let config = config(&FILE.replace("ameide", &format!("ameide\ntoken: '{text}'"))).unwrap();
            config.check_for_creation(|name| name == "K3S_TOKEN")
        };
        for text in ["pa$$w0rd", "${API_PORT}", "a$b", "$1", "${K3S_TOKEN}$x", "${", "$K3S_TOKENS"] {
            let failure = of(text).unwrap_err();
            assert!(failure.message.contains("token: k3d replaces"), "{text}: {failure}");
            assert!(!failure.message.contains(text), "it may be a secret: {failure}");
        }
        for text in ["a$ b$", "${K3S_TOKEN}", "$K3S_TOKEN-1"] {
            assert!(of(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_registry_that_would_go_with_its_cluster_is_refused() {
        let create = "registries:\n  create:\n    name: reg\nkubeAPI:";
        let config = config(&FILE.replace("kubeAPI:", create)).unwrap();
        let failure = config.check_for_creation(|_| true).unwrap_err();
        assert!(failure.message.contains("registries.create: expected registries.use"), "{failure}");
    }

    #[test]
    fn a_field_inside_a_list_is_named_by_its_index() {
        let old = config(FILE).unwrap();
        let new = config(&FILE.replace(":443:443", ":8443:443")).unwrap();
        assert_eq!(differences(old.value(), new.value())[0].field, "ports[0].port");
    }

    #[test]
    fn the_ports_on_the_host_are_found() {
        for (mapping, published) in [
            ("127.0.0.1:443:443", "127.0.0.1:443"),
            ("8080:80", "127.0.0.1:8080"),
            ("0.0.0.0:8080:80/tcp", "127.0.0.1:8080"),
            ("127.0.0.2:443:443", "127.0.0.2:443"),
            ("[::1]:8080:80", "[::1]:8080"),
            ("53:53/udp", ""),
            ("80", ""),
        ] {
            let ports = config(&FILE.replace("127.0.0.1:443:443", &format!("'{mapping}'"))).unwrap().host_ports();
            let ports: Vec<String> = ports.iter().map(SocketAddr::to_string).collect();
            let wanted = ["127.0.0.1:6550", published].into_iter().filter(|port| !port.is_empty());
            assert_eq!(ports, wanted.collect::<Vec<_>>(), "{mapping}");
        }
    }
}
