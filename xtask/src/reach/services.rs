//! What can be opened: the Services of the tree's releases, their ports, and how each is reached
//! from this machine. All of it is read from the cluster and from `k3d.yaml`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Client;
use kube::api::{Api, ListParams};
use run_record::Failure;
use serde::Serialize;

use crate::repo::Repo;
use crate::repo::k3d::Mapping;
use crate::run::context::{Context, Site};
use crate::world::helmfile;
use crate::world::kubernetes::{is_forbidden, pod_ready, read_failed};
use crate::world::release::annotated;

/// A Service that connections can be forwarded to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Openable {
    pub namespace: String,
    pub name: String,
    /// The release that it belongs to, by Helm's annotation: NAMESPACE/NAME.
    pub release: Option<String>,
    pub ports: Vec<Port>,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    pub number: u16,
    pub name: Option<String>,
    /// The URL scheme, if the Service says which protocol it speaks.
    pub scheme: Option<&'static str>,
    /// Its address without forwarding, if k3d maps a port to it.
    pub address: Option<String>,
    #[serde(skip)]
    target: IntOrString,
}

/// The protocol of a port (`appProtocol`, or the beginning of its name, in Istio's convention:
/// `PROTOCOL` or `PROTOCOL-WORDS`), and the matching URL scheme.
const SCHEMES: &[(&str, &str)] = &[
    ("http", "http"),
    ("http2", "http"),
    ("h2c", "http"),
    ("ws", "ws"),
    ("https", "https"),
    ("wss", "wss"),
    ("postgres", "postgres"),
    ("postgresql", "postgres"),
    ("redis", "redis"),
    ("rediss", "rediss"),
    ("mysql", "mysql"),
    ("mongodb", "mongodb"),
    ("mongo", "mongodb"),
    ("amqp", "amqp"),
    ("amqps", "amqps"),
    ("nats", "nats"),
    ("ldap", "ldap"),
    ("ldaps", "ldaps"),
    ("bolt", "bolt"),
];

fn scheme(protocol: Option<&str>, name: Option<&str>) -> Option<&'static str> {
    let known = |word: &str| {
        let word = word.to_ascii_lowercase();
        SCHEMES.iter().find(|(spoken, _)| *spoken == word).map(|(_, scheme)| *scheme)
    };
    let beginning = |name: &str| known(name.split('-').next().unwrap_or_default());
    // gRPC uses HTTP/2, but browsers cannot open it.
    if name.is_some_and(|name| name == "grpc" || name.starts_with("grpc-")) {
        return None;
    }
    // `kubernetes.io/h2c`, or a name registered with IANA.
    match protocol {
        Some(protocol) => known(protocol.rsplit('/').next().unwrap_or_default()),
        None => name.and_then(beginning),
    }
}

/// What can be opened of a Service; `None` if it is headless or external, has no TCP port, or
/// selects no pods.
pub fn openable(service: &Service, mapped: &[Mapping]) -> Option<Openable> {
    let spec = service.spec.as_ref()?;
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let elsewhere = spec.type_.as_deref() == Some("ExternalName");
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    let tcp = |port: &&ServicePort| port.protocol.as_deref().unwrap_or("TCP") == "TCP";
    let ports: Vec<Port> =
        spec.ports.iter().flatten().filter(tcp).filter_map(|port| of_port(service, port, mapped)).collect();
    if headless || elsewhere || !selects || ports.is_empty() {
        return None;
    }
    Some(Openable {
        namespace: service.metadata.namespace.clone().unwrap_or_default(),
        name: service.metadata.name.clone()?,
        release: annotated(&service.metadata).map(|(namespace, name)| format!("{namespace}/{name}")),
        ports,
    })
}

fn of_port(service: &Service, port: &ServicePort, mapped: &[Mapping]) -> Option<Port> {
    let number = u16::try_from(port.port).ok()?;
    Some(Port {
        number,
        name: port.name.clone().filter(|name| !name.is_empty()),
        scheme: scheme(port.app_protocol.as_deref(), port.name.as_deref()),
        address: address(service, port, mapped),
        target: port.target_port.clone().unwrap_or(IntOrString::Int(port.port)),
    })
}

/// The address where k3d maps a node's port to this machine, if it is this port: a node port, or,
/// for a load balancer served by k3s, the port itself.
fn address(service: &Service, port: &ServicePort, mapped: &[Mapping]) -> Option<String> {
    let spec = service.spec.as_ref()?;
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let served = balancer.is_some_and(|balancer| balancer.ingress.as_ref().is_some_and(|ingress| !ingress.is_empty()));
    let on_nodes = match spec.type_.as_deref() {
        Some("LoadBalancer") if served => [Some(port.port), port.node_port],
        Some("LoadBalancer" | "NodePort") => [port.node_port, None],
        _ => [None, None],
    };
    let inside = |mapping: &&Mapping| {
        mapping.protocol == "tcp" && on_nodes.iter().flatten().any(|port| i32::from(mapping.inside) == *port)
    };
    mapped.iter().find(inside).map(host_address)
}

fn host_address(mapping: &Mapping) -> String {
    let (host, port) = mapping.outside.rsplit_once(':').unwrap_or(("", &mapping.outside));
    let everywhere = matches!(host, "" | "0.0.0.0" | "[::]");
    format!("{}:{port}", if everywhere { "127.0.0.1" } else { host })
}

/// What can be opened of the tree's releases, by namespace and name.
///
/// # Errors
/// Errors from reading the tree and the cluster.
pub async fn of_tree(context: &Context, client: &Client) -> Result<Vec<Openable>, Failure> {
    let wanted = helmfile::releases(context, &context.repo.tree.layers()?).await?;
    let wanted: BTreeSet<(String, String)> =
        wanted.into_iter().map(|release| (release.namespace, release.name)).collect();
    let helms = ListParams::default().labels("app.kubernetes.io/managed-by=Helm");
    let listed = listed(&context.repo, client, &helms).await?;
    let ours = |service: &&Service| annotated(&service.metadata).is_some_and(|release| wanted.contains(&release));
    let mapped = mapped(&context.repo, &context.site)?;
    let mut found: Vec<Openable> =
        listed.iter().filter(ours).filter_map(|service| openable(service, &mapped)).collect();
    found.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(found)
}

/// Every Service, or those in the tree's namespaces if the whole cluster cannot be listed.
///
/// # Errors
/// Errors from listing.
pub async fn all(repo: &Repo, client: &Client) -> Result<Vec<Service>, Failure> {
    listed(repo, client, &ListParams::default()).await
}

async fn listed(repo: &Repo, client: &Client, parameters: &ListParams) -> Result<Vec<Service>, Failure> {
    match Api::<Service>::all(client.clone()).list(parameters).await {
        Err(error) if is_forbidden(&error) => {}
        found => return found.map(|list| list.items).map_err(|error| read_failed("the services", error)),
    }
    let mut services = Vec::new();
    for namespace in repo.tree.layer_needs()?.all_namespaces() {
        let found = Api::<Service>::namespaced(client.clone(), &namespace).list(parameters).await;
        let found = found.map_err(|error| read_failed(&format!("the services of {namespace}"), error))?;
        services.extend(found.items);
    }
    Ok(services)
}

/// The ports of this machine that k3d maps to the nodes; none for a shared cluster, or if they are
/// published on another machine (in a container with its host's Docker).
pub fn mapped(repo: &Repo, site: &Site) -> Result<Vec<Mapping>, Failure> {
    let config = repo.k3d_config()?.filter(|_| site.inside.is_none());
    let ports = config.into_iter().flat_map(|config| config.simple.ports);
    Ok(ports.filter_map(|port| Mapping::parse(&port.port)).collect())
}

/// The Service that a name means: that Service, else the only one of the release with that name.
///
/// # Errors
/// `usage` if it names none, with what can be opened, or more than one.
pub fn named<'a>(services: &'a [Service], name: &str, there: &[Openable]) -> Result<&'a Service, Failure> {
    let full = |service: &Service| {
        let (namespace, name) = (service.metadata.namespace.as_deref(), service.metadata.name.as_deref());
        format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default())
    };
    let itself = |service: &&Service| service.metadata.name.as_deref() == Some(name) || full(service) == name;
    let of_release = |service: &&Service| {
        let of = annotated(&service.metadata)
            .is_some_and(|(space, release)| release == name || format!("{space}/{release}") == name);
        of && openable(service, &[]).is_some()
    };
    let mut found: Vec<&Service> = services.iter().filter(itself).collect();
    if found.is_empty() {
        found = services.iter().filter(of_release).collect();
    }
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            let there: Vec<String> = there.iter().map(|one| format!("{}/{}", one.namespace, one.name)).collect();
            let there = if there.is_empty() { "nothing".to_owned() } else { there.join(", ") };
            Err(Failure::usage(format!("{name:?} is neither a service nor a release that has one"))
                .evidence(format!("the tree's releases have {there}"))
                .remedy("cargo xtask open"))
        }
        several => {
            let names: Vec<String> = several.iter().map(|service| full(service)).collect();
            Err(Failure::usage(format!("{name:?} may be any of {}", names.join(", "))))
        }
    }
}

/// A pod for the Service's connections, and its port for each of these; `None` if no ready pod has
/// them all.
///
/// # Errors
/// Errors from listing pods.
pub async fn pod_of(client: &Client, service: &Service, ports: &[Port]) -> Result<Option<(Pod, Vec<u16>)>, Failure> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels: Vec<String> = selector.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    let listed = Api::<Pod>::namespaced(client.clone(), namespace);
    let listed = listed.list(&ListParams::default().labels(&labels.join(","))).await;
    let listed = listed.map_err(|error| read_failed(&format!("the pods of {namespace}"), error))?;
    let fits = |pod: Pod| {
        let ready = pod.metadata.deletion_timestamp.is_none() && pod_ready(&pod);
        let targets: Option<Vec<u16>> = ports.iter().map(|port| target(&pod, &port.target)).collect();
        targets.filter(|_| ready).map(|targets| (pod, targets))
    };
    Ok(listed.items.into_iter().find_map(fits))
}

/// The pod's port that a Service targets, by number or by name.
fn target(pod: &Pod, target: &IntOrString) -> Option<u16> {
    let name = match target {
        IntOrString::Int(number) => return u16::try_from(*number).ok(),
        IntOrString::String(name) => name,
    };
    let spec = pod.spec.as_ref()?;
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_ref() == Some(name))?;
    u16::try_from(port.container_port).ok()
}

/// The shortest unique name.
fn shortest(one: &Openable, all: &[Openable]) -> String {
    match all.iter().filter(|other| other.name == one.name).count() {
        1 => one.name.clone(),
        _ => format!("{}/{}", one.namespace, one.name),
    }
}

pub(super) fn with_scheme(scheme: Option<&str>, address: &str) -> String {
    scheme.map_or_else(|| address.to_owned(), |scheme| format!("{scheme}://{address}"))
}

pub(super) fn in_words(port: &Port) -> String {
    match &port.name {
        Some(name) => format!("{} ({name})", port.number),
        None => port.number.to_string(),
    }
}

/// What can be opened, for people: one line per service with how it is reached, and its ports; `open`
/// is this command as a person has to type it.
pub fn list(there: &[Openable], open: &str) -> String {
    let mut rows: Vec<(String, String)> = Vec::new();
    for one in there {
        let (mapped, others): (Vec<&Port>, Vec<&Port>) = one.ports.iter().partition(|port| port.address.is_some());
        for port in mapped {
            let address = with_scheme(port.scheme, port.address.as_deref().unwrap_or_default());
            rows.push((address, format!("{}/{}:{}", one.namespace, one.name, in_words(port))));
        }
        if !others.is_empty() {
            let ports: Vec<String> = others.into_iter().map(in_words).collect();
            let what = format!("{}/{}:{}", one.namespace, one.name, ports.join(", "));
            rows.push((format!("{open} {}", shortest(one, there)), what));
        }
    }
    if rows.is_empty() {
        return "there is nothing to open: no release of the tree has a service that connections can be forwarded to"
            .to_owned();
    }
    let width = rows.iter().map(|(how, _)| how.chars().count()).max().unwrap_or_default();
    rows.iter().map(|(how, what)| format!("{how:<width$} → {what}")).collect::<Vec<_>>().join("\n")
}

/// The same in as few lines as possible: those with an address, and the names of the others.
pub fn summary(there: &[Openable]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut names = Vec::new();
    for one in there {
        for port in &one.ports {
            if let Some(address) = &port.address {
                lines.push(format!(
                    "{} → {}/{}:{}",
                    with_scheme(port.scheme, address),
                    one.namespace,
                    one.name,
                    port.number
                ));
            }
        }
        if one.ports.iter().any(|port| port.address.is_none()) {
            names.push(shortest(one, there));
        }
    }
    if !names.is_empty() {
        lines.push(format!("open a service on this machine: cargo xtask open NAME, of {}", names.join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(name: &str, spec: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "annotations": {
                "meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": "shop"}},
            "spec": spec,
            "status": {"loadBalancer": {"ingress": [{"ip": "172.18.0.3"}]}},
        }))
        .unwrap()
    }

    fn mapping() -> Vec<Mapping> {
        ["127.0.0.1:8443:443", "8080:30080", "127.0.0.1:5353:53/udp"].into_iter().filter_map(Mapping::parse).collect()
    }

    fn plain(more: Value) -> Value {
        let mut spec = json!({"clusterIP": "10.43.0.9", "selector": {"app": "web"},
            "ports": [{"port": 80, "name": "http", "targetPort": "web"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    }

    #[test]
    fn a_scheme_is_told_where_the_service_says_what_is_spoken() {
        for (protocol, name, expected) in [
            (None, Some("http"), Some("http")),
            (None, Some("https-admin"), Some("https")),
            (None, Some("postgres"), Some("postgres")),
            (None, Some("httpd"), None),
            (None, Some("console"), None),
            (None, None, None),
            (Some("https"), Some("console"), Some("https")),
            (Some("kubernetes.io/ws"), None, Some("ws")),
            (Some("kubernetes.io/h2c"), Some("grpc"), None),
            (Some("example.com/own"), Some("http"), None),
            (Some("postgresql"), Some("tcp-db"), Some("postgres")),
        ] {
            assert_eq!(scheme(protocol, name), expected, "{protocol:?} {name:?}");
        }
    }

    #[test]
    fn what_cannot_be_opened_is_left_out() {
        assert!(openable(&service("web", plain(json!({}))), &[]).is_some());
        for (what, spec) in [
            ("headless", plain(json!({"clusterIP": "None"}))),
            ("of another name", plain(json!({"type": "ExternalName", "externalName": "db.example"}))),
            ("without ports", plain(json!({"ports": []}))),
            ("for UDP alone", plain(json!({"ports": [{"port": 53, "protocol": "UDP"}]}))),
            ("without a selector", plain(json!({"selector": {}}))),
        ] {
            assert_eq!(openable(&service("web", spec), &[]), None, "{what}");
        }
    }

    #[test]
    fn a_port_that_k3d_maps_needs_no_forwarding() {
        let address = |spec: Value| openable(&service("web", spec), &mapping()).unwrap().ports.remove(0).address;
        let port = |number: u16, node: u16| json!([{"port": number, "nodePort": node}]);
        for (what, spec, expected) in [
            ("a cluster's own", plain(json!({"ports": port(443, 30080)})), None),
            (
                "a load balancer",
                plain(json!({"type": "LoadBalancer", "ports": port(443, 31000)})),
                Some("127.0.0.1:8443"),
            ),
            ("its node port", plain(json!({"type": "LoadBalancer", "ports": port(80, 30080)})), Some("127.0.0.1:8080")),
            ("a node port", plain(json!({"type": "NodePort", "ports": port(80, 30080)})), Some("127.0.0.1:8080")),
            ("its port, which no node has", plain(json!({"type": "NodePort", "ports": port(443, 31000)})), None),
            ("mapped for UDP", plain(json!({"type": "LoadBalancer", "ports": port(53, 31000)})), None),
        ] {
            assert_eq!(address(spec).as_deref(), expected, "{what}");
        }
        let mut nobody = service("web", plain(json!({"type": "LoadBalancer", "ports": port(443, 31000)})));
        nobody.status = None;
        assert_eq!(openable(&nobody, &mapping()).unwrap().ports[0].address, None, "nobody serves it");
    }

    #[test]
    fn a_name_is_a_service_before_it_is_a_release() {
        let services = [service("web", plain(json!({}))), service("admin", plain(json!({})))];
        let name = |name: &str| named(&services, name, &[]).map(|one| one.metadata.name.clone().unwrap());
        assert_eq!(name("web").unwrap(), "web");
        assert_eq!(name("shop/admin").unwrap(), "admin");
        let failure = name("webs").unwrap_err();
        assert!(failure.message.contains("\"webs\"") && failure.evidence[0].contains("nothing"), "{failure:?}");
        // The release has two, and none has its name.
        let others = [service("api", plain(json!({}))), services[1].clone()];
        let failure = named(&others, "web", &[]).unwrap_err();
        assert!(failure.message.contains("shop/api, shop/admin"), "{failure}");
        // Headless Services do not count.
        let others = [others[0].clone(), service("pods", plain(json!({"clusterIP": "None"})))];
        assert_eq!(named(&others, "shop/web", &[]).unwrap().metadata.name.as_deref(), Some("api"));
    }

    #[test]
    fn a_named_port_is_looked_up_in_the_pod() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
            {"name": "a", "ports": [{"name": "web", "containerPort": 8080}]}]}}))
        .unwrap();
        assert_eq!(target(&pod, &IntOrString::String("web".into())), Some(8080));
        assert_eq!(target(&pod, &IntOrString::String("other".into())), None);
        assert_eq!(target(&pod, &IntOrString::Int(9000)), Some(9000));
    }

    fn of(namespace: &str, name: &str, ports: serde_json::Value) -> Openable {
        let service = json!({"metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": "10.43.0.9", "selector": {"app": name}, "ports": ports}});
        openable(&serde_json::from_value(service).unwrap(), &[]).unwrap()
    }

    fn mapped(mut of: Openable, address: &str) -> Openable {
        of.ports[0].address = Some(address.to_owned());
        of
    }

    #[test]
    fn what_there_is_says_how_it_is_reached() {
        let there = [
            mapped(of("shop", "web", json!([{"port": 443, "name": "https"}, {"port": 9000}])), "127.0.0.1:8443"),
            of("data", "db", json!([{"port": 5432, "name": "postgres"}])),
            of("shop", "db", json!([{"port": 5432}])),
        ];
        assert_eq!(
            list(&there, "cargo xtask --env ci open"),
            "https://127.0.0.1:8443            → shop/web:443 (https)\n\
             cargo xtask --env ci open web     → shop/web:9000\n\
             cargo xtask --env ci open data/db → data/db:5432 (postgres)\n\
             cargo xtask --env ci open shop/db → shop/db:5432"
        );
        assert_eq!(
            summary(&there),
            [
                "https://127.0.0.1:8443 → shop/web:443",
                "open a service on this machine: cargo xtask open NAME, of web, data/db, shop/db"
            ]
        );
        assert!(list(&[], "open").contains("nothing to open") && summary(&[]).is_empty());
    }
}
