//! Which connections the rendered network policies allow. The lab's node enforces none, so they are
//! evaluated here as the API's documentation says a network plugin must.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use serde_json::Value;

use crate::support::rendered::{Object, Pod, labels, neo4j, pods, render};

/// One end of a connection.
#[derive(Clone, Debug)]
enum End {
    Pod {
        namespace: String,
        labels: BTreeMap<String, String>,
    },
    /// Outside of the cluster, or a node.
    Elsewhere,
}

impl From<&Pod> for End {
    fn from(pod: &Pod) -> Self {
        Self::Pod { namespace: pod.namespace.clone(), labels: pod.labels.clone() }
    }
}

fn end(namespace: &str, labels: &[(&str, &str)]) -> End {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    End::Pod { namespace: namespace.to_owned(), labels }
}

/// Unknown fields would be evaluated wrongly, so they are rejected.
#[track_caller]
fn only(value: &Value, known: &[&str]) {
    for key in value.as_object().unwrap().keys() {
        assert!(known.contains(&key.as_str()), "{key} of {value}");
    }
}

fn selects(selector: &Value, of: &BTreeMap<String, String>) -> bool {
    only(selector, &["matchLabels"]);
    labels(&selector["matchLabels"]).iter().all(|(key, value)| of.get(key) == Some(value))
}

struct Policies<'a>(Vec<&'a Object>);

impl<'a> Policies<'a> {
    fn of(objects: &'a [Object]) -> Self {
        Self(objects.iter().filter(|object| object.kind() == "NetworkPolicy").collect())
    }

    fn peer(&self, peer: &Value, policy: &Object, other: &End) -> bool {
        only(peer, &["podSelector", "namespaceSelector", "ipBlock"]);
        let End::Pod { namespace, labels } = other else { return peer["ipBlock"]["cidr"] == "0.0.0.0/0" };
        if let Some(block) = peer.get("ipBlock") {
            // Whether a block includes pods depends on the plugin.
            only(block, &["cidr"]);
            return false;
        }
        let in_namespace = match peer.get("namespaceSelector") {
            None => *namespace == policy.namespace,
            Some(selector) => {
                let own = [("kubernetes.io/metadata.name".to_owned(), namespace.clone())].into();
                selects(selector, &own)
            }
        };
        in_namespace && peer.get("podSelector").is_none_or(|selector| selects(selector, labels))
    }

    /// One direction: `own` is the pod whose policies count.
    fn one_way(&self, direction: &str, own: &End, other: &End, protocol: &str, port: u64) -> bool {
        let End::Pod { namespace, labels } = own else { return true };
        let (rules, peers) = if direction == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
        let mut isolated = false;
        for policy in self.0.iter().filter(|policy| policy.namespace == *namespace) {
            let spec = &policy.value["spec"];
            only(spec, &["podSelector", "policyTypes", "ingress", "egress"]);
            let types = spec["policyTypes"].as_array().unwrap();
            if !types.iter().any(|name| name == direction) || !selects(&spec["podSelector"], labels) {
                assert!(types.iter().any(|name| name == direction) || spec.get(rules).is_none(), "{}", policy.name());
                continue;
            }
            isolated = true;
            for rule in spec[rules].as_array().into_iter().flatten() {
                only(rule, &[peers, "ports"]);
                let named = rule[peers].as_array().unwrap().iter().any(|peer| self.peer(peer, policy, other));
                let open = rule.get("ports").is_none_or(|ports| {
                    ports.as_array().unwrap().iter().any(|entry| {
                        only(entry, &["protocol", "port"]);
                        entry["protocol"] == protocol && entry["port"].as_u64().unwrap() == port
                    })
                });
                if named && open {
                    return true;
                }
            }
        }
        !isolated
    }

    fn allow(&self, from: &End, to: &End, protocol: &str, port: u64) -> bool {
        self.one_way("Egress", from, to, protocol, port) && self.one_way("Ingress", to, from, protocol, port)
    }
}

/// A port of a service, and the pods behind it.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
struct Service {
    name: String,
    namespace: String,
    selector: BTreeMap<String, String>,
    /// Of the service, and of the container.
    ports: Vec<(u64, u64)>,
}

fn services(objects: &[Object]) -> Vec<Service> {
    let all = pods(objects);
    let mut services = Vec::new();
    for object in objects.iter().filter(|object| object.kind() == "Service") {
        let spec = &object.value["spec"];
        let selector = labels(&spec["selector"]);
        let behind = all.iter().find(|pod| selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)));
        let behind = behind.unwrap_or_else(|| panic!("no pod behind {}", object.name()));
        let container_port = |target: &Value| {
            let mut ports =
                behind.containers().flat_map(|container| container["ports"].as_array().into_iter().flatten());
            ports.find(|port| port["name"] == *target).unwrap()["containerPort"].as_u64().unwrap()
        };
        let ports = spec["ports"].as_array().unwrap().iter();
        let ports = ports.map(|port| (port["port"].as_u64().unwrap(), container_port(&port["targetPort"]))).collect();
        services.push(Service { name: object.name().to_owned(), namespace: object.namespace.clone(), selector, ports });
    }
    services
}

fn decoded(value: &Value) -> String {
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// All configuration that a pod gets: its environment, its arguments, the files mounted into it. A
/// Secret with a host and a port is given as `host:port`.
fn told(pod: &Pod, objects: &[Object]) -> Vec<String> {
    let find = |kind: &str, name: &Value| {
        objects
            .iter()
            .find(|object| object.kind() == kind && object.namespace == pod.namespace && *name == object.name())
    };
    let secret = |name: &Value| {
        let data = &find("Secret", name)?.value["data"];
        data.get("host").map(|host| format!("{}:{}", decoded(host), decoded(&data["port"])))
    };
    let mut told = Vec::new();
    for container in pod.containers().chain(pod.init_containers()) {
        for variable in container["env"].as_array().into_iter().flatten() {
            told.extend(variable["value"].as_str().map(str::to_owned));
            let reference = &variable["valueFrom"]["secretKeyRef"];
            if reference["key"] == "host" {
                told.extend(secret(&reference["name"]));
            }
        }
        let arguments = ["command", "args"].map(|key| container[key].as_array().cloned().unwrap_or_default()).concat();
        // A program may have the same name as a service; a host without a port only occurs in the
        // environment.
        told.extend(arguments.iter().filter_map(Value::as_str).map(|argument| format!(" {argument}")));
    }
    for volume in pod.spec["volumes"].as_array().into_iter().flatten() {
        told.extend(secret(&volume["secret"]["secretName"]));
        if let Some(config) = find("ConfigMap", &volume["configMap"]["name"]) {
            told.extend(
                config.value["data"].as_object().unwrap().values().map(|text| text.as_str().unwrap().to_owned()),
            );
        }
    }
    told
}

/// Pod, service and container port of each connection that a pod is configured to make.
fn needed(objects: &[Object]) -> BTreeSet<(String, Service, u64)> {
    let services = services(objects);
    let mut needed = BTreeSet::new();
    for pod in pods(objects) {
        let told = told(&pod, objects);
        for service in &services {
            for (port, container_port) in &service.ports {
                let hosts = [
                    format!("{}:{port}", service.name),
                    format!("{}.{}.svc.cluster.local:{port}", service.name, service.namespace),
                ];
                let names = |text: &String| {
                    let mut words = text.split(|c: char| c.is_whitespace() || matches!(c, '/' | '@' | '"' | '\''));
                    // A host alone means its service's port, whatever that is.
                    *text == service.name || words.any(|word| hosts.iter().any(|host| word == host))
                };
                if told.iter().any(names) {
                    needed.insert((pod.name.clone(), service.clone(), *container_port));
                }
            }
        }
    }
    needed
}

const DNS: &[(&str, &str)] = &[("k8s-app", "kube-dns")];

/// Checks every connection between any two pods: those that are needed are allowed, all others are
/// not.
fn judge(environment: &str, with_default_deny: bool) {
    let mut objects = render(environment);
    objects.extend(neo4j());
    let needed = needed(&objects);
    if !with_default_deny {
        objects.retain(|object| object.release != "namespaces" || object.kind() != "NetworkPolicy");
    }
    let policies = Policies::of(&objects);
    let pods = pods(&objects);
    let mut passing = 0;
    for server in pods.iter().filter(|pod| pod.serves) {
        let behind =
            |service: &Service| service.selector.iter().all(|(key, value)| server.labels.get(key) == Some(value));
        let peers: &[u64] =
            if server.name.contains("temporal") { &[6933, 6934, 6935, 6939, 7233, 7234, 7235, 7239] } else { &[] };
        let container_ports =
            server.containers().flat_map(|container| container["ports"].as_array().into_iter().flatten());
        let mut ports: BTreeSet<u64> = container_ports.map(|port| port["containerPort"].as_u64().unwrap()).collect();
        ports.extend(peers);
        ports.insert(22);
        for port in ports {
            for pod in &pods {
                let wanted =
                    needed.iter().any(|(name, service, to)| *name == pod.name && behind(service) && *to == port)
                        || pod.name == server.name && peers.contains(&port);
                let passes = policies.allow(&pod.into(), &server.into(), "TCP", port);
                assert_eq!(passes, wanted, "{environment}: {} to {} port {port}", pod.name, server.name);
                passing += usize::from(passes);
            }
            // A pod that is no client, in this namespace or another, whatever labels it has there.
            let everything: Vec<(String, String)> =
                pods.iter().flat_map(|pod| pod.labels.clone()).filter(|(key, _)| key.ends_with("-client")).collect();
            let worn: Vec<(&str, &str)> =
                everything.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            for stranger in [
                end("ameide", &[]),
                end("ameide", &[("app.kubernetes.io/name", "temporal")]),
                end("ameide-int-tests", &worn),
                end("default", &worn),
                end("kube-system", DNS),
                End::Elsewhere,
            ] {
                assert!(
                    !policies.allow(&stranger, &server.into(), "TCP", port),
                    "{stranger:?} to {} {port}",
                    server.name
                );
            }
        }
        let proxy = end("kube-system", &[("k8s-app", "konnectivity-agent")]);
        let port = server.containers().next().unwrap()["ports"][0]["containerPort"].as_u64().unwrap();
        assert_eq!(policies.allow(&proxy, &server.into(), "TCP", port), with_default_deny, "{}", server.name);
    }
    assert!(passing > 15, "{passing}");
    let dns = end("kube-system", DNS);
    for pod in &pods {
        // A server makes no DNS queries, unless it is a client of another one.
        let asks = with_default_deny || !pod.serves || pod.name.contains("temporal");
        for (protocol, port) in [("UDP", 53), ("TCP", 53)] {
            assert_eq!(policies.allow(&pod.into(), &dns, protocol, port), asks, "{} asks for names", pod.name);
        }
        assert!(with_default_deny || !pod.serves || !policies.allow(&pod.into(), &End::Elsewhere, "TCP", 443));
        if with_default_deny {
            let smoke = pod.name.contains("platform-smoke");
            for port in [443, 6443] {
                assert_eq!(policies.allow(&pod.into(), &End::Elsewhere, "TCP", port), smoke, "{} {port}", pod.name);
            }
            assert!(!policies.allow(&pod.into(), &End::Elsewhere, "TCP", 80), "{}", pod.name);
            assert!(!policies.allow(&pod.into(), &end("default", &[]), "TCP", 443), "{}", pod.name);
        }
    }
}

#[test]
fn every_connection_that_is_needed_passes_and_no_other() {
    judge("production", true);
    judge("ci", true);
}

/// On a cluster that already has the platform, the charts are deployed before the default.
#[test]
fn a_servers_own_policies_hold_without_the_namespaces_default() {
    judge("ci", false);
}

#[test]
fn the_connections_that_are_needed_are_read_from_what_pods_are_told() {
    let objects = render("ci");
    let needed: Vec<(String, String, u64)> =
        needed(&objects).into_iter().map(|(pod, service, port)| (pod, service.name, port)).collect();
    for (pod, service, port) in [
        ("Deployment ameide/temporal", "postgres-ameide-rw", 5432),
        ("Job ameide/temporal-schema", "postgres-ameide-rw", 5432),
        ("Job ameide/temporal-namespaces", "temporal-frontend", 7233),
        ("Job ameide/minio-buckets", "minio", 9000),
        ("Job ameide/db-migrations", "postgres-ameide-rw", 5432),
        ("Pod ameide/db-migrations-test", "postgres-ameide-rw", 5432),
        ("Pod ameide/postgres-ameide-test", "postgres-ameide-rw", 5432),
        ("Pod ameide/redis-test", "redis-master", 6379),
        ("Pod ameide/minio-test", "minio", 9000),
        ("Pod ameide/temporal-test", "temporal-frontend", 7233),
        ("Pod ameide/platform-smoke-test", "minio", 4002),
        ("Pod ameide/platform-smoke-test", "minio", 9000),
        ("Pod ameide/platform-smoke-test", "redis-master", 6379),
        ("Pod ameide/platform-smoke-test", "temporal-frontend", 7233),
        ("Pod ameide/platform-smoke-test", "postgres-ameide-rw", 5432),
    ] {
        assert!(needed.contains(&(pod.into(), service.into(), port)), "{pod} {service} {port}: {needed:?}");
    }
}
