//! Why k3d failed, from its output. Its last message only says that changes were rolled back: the
//! cause is the first error that says more than that something failed.
//!
//! k3d wraps Docker Engine's messages (`failed to …: docker failed to …:`); the rules match Docker
//! Engine's part.

use std::collections::BTreeMap;

use crate::world::docker::{self, Fault};
use run_record::{Code, Failure};

/// A message of Docker Engine, matched by any of these alternatives, each a list of parts (in lower
/// case) that must all occur.
struct Rule {
    code: Code,
    any: &'static [&'static [&'static str]],
    sentence: &'static str,
    /// With `{login}` and `{image}`: k3d itself pulls without an account, but uses an existing
    /// image.
    remedy: &'static str,
}

/// Most specific first.
const RULES: &[Rule] = &[
    Rule {
        code: Code::RegistryRateLimited,
        any: &[
            &["toomanyrequests"],
            &["too many requests"],
            &["pull rate limit"],
            &["rate exceeded"],
            &["status", ": 429"],
        ],
        sentence: "the registry's pull rate limit stopped k3d",
        remedy: "{login}, then docker pull {image}, then run it again",
    },
    Rule {
        code: Code::AddressPool,
        any: &[
            &["non-overlapping", "address pool"],
            &["all predefined address pools have been fully subnetted"],
            &["pool overlaps with other one"],
            &["no available ipv4 addresses"],
        ],
        sentence: "Docker has no address range left for another network",
        remedy: "docker network prune removes unused networks; or widen default-address-pools in /etc/docker/daemon.json",
    },
    Rule {
        code: Code::MachineNotReady,
        any: &[&["/sys/fs/cgroup", "no space left"]],
        sentence: "this machine has no control groups left",
        remedy: "cargo xtask doctor",
    },
    Rule {
        code: Code::DiskFull,
        any: &[&["no space left on device"], &["disk quota exceeded"]],
        sentence: "the disk that Docker keeps its data on is full",
        remedy: "docker system df shows what uses it",
    },
    Rule {
        code: Code::RegistryDeniedOrMissing,
        any: &[&["http 401", "invalid character '<'"]],
        sentence: "the registry denies an image that k3d needs, or does not have it",
        remedy: "{login}, then docker pull {image}, then run it again; or correct `image` in k3d.yaml",
    },
    Rule {
        code: Code::RegistryUnreachable,
        any: &[&["invalid character '<'"], &["<html"], &["<!doctype"]],
        sentence: "a web page (a proxy's or a portal's) answers in the registry's place",
        remedy: "check Docker's connection to it (docker info shows its proxy); or without internet: cargo xtask up --lab",
    },
    Rule {
        code: Code::ImagePlatform,
        any: &[&["no matching manifest for"], &["exec format error"]],
        sentence: "an image that k3d needs has no build for this machine",
        remedy: "change `image` in k3d.yaml to one that has",
    },
    Rule {
        code: Code::ImageNotFound,
        any: &[&["manifest unknown"], &["manifest for", "not found"], &["failed to resolve reference", "not found"]],
        sentence: "the registry does not have an image that k3d needs",
        remedy: "correct `image` in k3d.yaml",
    },
    Rule {
        code: Code::RegistryDeniedOrMissing,
        any: &[
            &["pull access denied"],
            &["requested access to the resource is denied"],
            &["may require 'docker login'"],
            &["unauthorized:"],
            &["no basic auth credentials"],
            // ghcr.io's words, also in the form of Docker's containerd store.
            &["denied: denied"],
            &["daemon: denied"],
            &["error from registry: denied"],
            &["error from registry: unauthorized"],
            &["403 forbidden"],
            &["http 403"],
        ],
        sentence: "the registry denies an image that k3d needs, or does not have it",
        remedy: "{login}, then docker pull {image}, then run it again; or correct `image` in k3d.yaml",
    },
    Rule {
        code: Code::RegistryTls,
        any: &[&["x509:"], &["tls: failed to verify"], &["http: server gave http response to https client"]],
        sentence: "Docker does not trust the certificate of the registry that k3d pulls from",
        remedy: "put the certificate authority (a company's proxy, say) into /etc/docker/certs.d/HOST/ca.crt or the system's store, and restart Docker",
    },
    Rule {
        code: Code::RegistryDns,
        any: &[
            &["lookup", "no such host"],
            &["lookup", "server misbehaving"],
            &["lookup", "i/o timeout"],
            &["lookup", "try again"],
            &["temporary failure in name resolution"],
        ],
        sentence: "the name of the registry that k3d pulls from does not resolve",
        remedy: "check the DNS of the machine that Docker runs on; or without internet: cargo xtask up --lab",
    },
    Rule {
        code: Code::RegistryUnreachable,
        any: &[
            &["/v2/", "connection refused"],
            &["/v2/", "i/o timeout"],
            &["/v2/", "client.timeout exceeded"],
            &["/v2/", "request canceled"],
            &["/v2/", "deadline exceeded"],
            &["/v2/", "tls handshake timeout"],
            &["/v2/", "connection reset"],
            &["/v2/", "no route to host"],
            &["/v2/", "network is unreachable"],
            &["/v2/", "eof"],
            &["/v2/", "proxyconnect"],
            // A proxy refuses to connect, and Go says only the reason (`net/http/transport.go`).
            &["proxy authentication required"],
            &["failed to pull", "\": forbidden"],
            &["failed to pull", "\": bad request"],
            &["failed to pull", "\": bad gateway"],
            &["failed to pull", "\": service unavailable"],
            &["failed to pull", "\": gateway timeout"],
            &["pull", "received unexpected http status: 5"],
            // A token server or CDN on another host.
            &["failed to pull", "error response from daemon", "dial tcp"],
            &["failed to pull", "error response from daemon", "i/o timeout"],
            &["failed to pull", "error response from daemon", "client.timeout exceeded"],
            &["failed to pull", "error response from daemon", "deadline exceeded"],
            &["failed to pull", "error response from daemon", "tls handshake timeout"],
            &["failed to pull", "error response from daemon", "connection reset"],
            &["failed to pull", "error response from daemon", "proxyconnect"],
            &["failed to pull", "error response from daemon", "httpreadseeker"],
            &["failed to pull", "error response from daemon", "failed to do request"],
            &["failed to pull", "error response from daemon", ": eof"],
            &["failed to pull", "error response from daemon", "unexpected eof"],
            &["failed to pull", "error response from daemon", "unexpected status", ": 50"],
        ],
        sentence: "the registry that k3d pulls from does not answer Docker",
        remedy: "check Docker's connection to it (docker info shows its proxy); or without internet: cargo xtask up --lab",
    },
    Rule {
        code: Code::DockerFailed,
        any: &[&["iptables", "no chain/target/match"]],
        sentence: "the machine's firewall was loaded anew, without Docker's own rules",
        remedy: "restart Docker (sudo systemctl restart docker), then run it again",
    },
    Rule {
        code: Code::DockerFailed,
        any: &[&["mounts denied"], &["is not shared from the host"]],
        sentence: "Docker Desktop does not share a folder that the cluster mounts",
        remedy: "add the folder in Docker Desktop under Settings, Resources, File sharing",
    },
    Rule {
        code: Code::NotOurs,
        any: &[&["the container name", "is already in use by container"]],
        sentence: "a container that k3d did not create has a name that the cluster needs",
        remedy: "docker ps -a shows it; rename or remove it, or change metadata.name in k3d.yaml",
    },
    Rule {
        code: Code::MachineNotReady,
        any: &[&["too many open files"], &["inotify"], &["cgroup", "mountpoint does not exist"]],
        sentence: "this machine's limits keep a node from running",
        remedy: "cargo xtask doctor",
    },
    Rule {
        code: Code::DockerFailed,
        any: &[
            &["oci runtime create failed"],
            &["failed to create shim task"],
            &["failed to create task for container"],
            &["unknown runtime"],
            &["unknown or invalid runtime name"],
            &["invalid ip address in add-host"],
            &["privileged port"],
            &["bind: permission denied"],
        ],
        sentence: "Docker Engine cannot start a container as k3d wants it",
        remedy: "cargo xtask doctor; docker info shows how the engine is set up",
    },
];

/// k3d's error for a command, from the lines that it printed.
pub fn failure(arguments: &[&str], lines: &[String]) -> Failure {
    let errors: Vec<String> = lines.iter().filter_map(|line| error(line)).collect();
    let lines: Vec<String> = lines.iter().map(|line| without_prefix(&plain(line)).to_owned()).collect();
    // If no line has a log level (a panic, a loader's error), any of them may be the cause.
    let said = if errors.is_empty() { &lines } else { &errors };
    if let Some(failure) = said.iter().find_map(|line| known(line)) {
        return failure;
    }
    let frame = |line: &&String| {
        let line = line.to_lowercase();
        line.contains("rolling back") || line.contains("rolled back") || line.contains("creation failed")
    };
    let mut telling: Vec<&String> = said.iter().filter(|line| line.contains("Error response from daemon")).collect();
    if telling.is_empty() {
        // The first error and, before the rollback, its whole chain.
        telling = said.iter().filter(|line| !frame(line)).collect();
    }
    telling.dedup();
    let what = arguments.iter().take(2).copied().collect::<Vec<_>>().join(" ");
    let mut failure = Failure::new(Code::ClusterFailed, format!("`k3d {what}` failed"));
    failure.evidence = telling.into_iter().take(3).cloned().collect();
    if failure.evidence.is_empty() {
        failure.evidence = vec![said.first().cloned().unwrap_or_else(|| "k3d printed nothing".to_owned())];
    }
    failure.remedy("cargo xtask doctor")
}

/// A failure if this line names its cause.
fn known(line: &str) -> Option<Failure> {
    let lower = line.to_lowercase();
    if let Some(failure) = port_failure(line) {
        return Some(failure);
    }
    let rule = RULES.iter().find(|rule| rule.any.iter().any(|parts| parts.iter().all(|part| lower.contains(part))));
    // Failures of the engine to reach something were matched above; this is about the engine
    // itself.
    let Some(rule) = rule else {
        return match docker::fault(line) {
            Fault::Other => None,
            fault => Some(docker::unavailable(fault, line)),
        };
    };
    let image = pulled(line);
    let remedy = rule.remedy.replace("{login}", &login(image.unwrap_or_default()));
    let remedy = remedy.replace("{image}", image.unwrap_or("what the evidence names"));
    Some(Failure::new(rule.code, rule.sentence).evidence(line).remedy(remedy))
}

/// The image in `docker failed to pull the image 'X': …` or `Pulling image 'X'`.
fn pulled(line: &str) -> Option<&str> {
    let frames = ["pull the image '", "pull image '", "Pulling image '"];
    let rest = frames.iter().find_map(|frame| line.split_once(frame))?.1;
    let (image, _) = rest.split_once('\'')?;
    (!image.is_empty() && !image.contains(char::is_whitespace)).then_some(image)
}

/// The login command for an image's registry. Docker Hub needs no name.
fn login(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) && host != "docker.io" => format!("docker login {host}"),
        _ => "docker login".to_owned(),
    }
}

/// How often k3d started to pull each image. It retries, without a pause or a reason, if a pull
/// that started did not bring the image.
#[derive(Default)]
pub struct Pulls(BTreeMap<String, u32>);

impl Pulls {
    /// The failure if this line of k3d's output is one pull of an image too many.
    pub fn too_many(&mut self, line: &str) -> Option<Failure> {
        let line = readable(line);
        let image = pulled(&line).filter(|_| line.starts_with("Pulling image '"))?;
        let count = self.0.entry(image.to_owned()).or_default();
        *count += 1;
        (*count == MOST_PULLS).then(|| {
            Failure::new(Code::RegistryUnreachable, format!("Docker does not finish pulling {image}"))
                .evidence(format!("k3d began to pull it {MOST_PULLS} times"))
                .remedy(format!("docker pull {image} shows why"))
        })
    }
}

/// Nodes are created one after the other, so a single pull is enough for all of them.
const MOST_PULLS: u32 = 3;

/// A port that another program on this machine uses, if known.
pub fn port_taken(port: Option<u16>, evidence: impl Into<String>) -> Failure {
    let (message, look) = match port {
        Some(port) => (format!("port {port} on this machine is taken"), format!("ss -ltnp sport = :{port}")),
        None => ("a port that the cluster needs is taken on this machine".to_owned(), "ss -ltnp".to_owned()),
    };
    Failure::new(Code::PortTaken, message)
        .evidence(evidence)
        .remedy(format!("see who holds it with `{look}`, and stop that or change the port in k3d.yaml or env.yaml"))
}

/// A failure if a line of the engine says that a host port is taken.
pub fn port_failure(line: &str) -> Option<Failure> {
    taken_port(&line.to_lowercase()).map(|port| port_taken(port, line))
}

/// Whether a line (in lower case) says that a host port is taken, and which one.
fn taken_port(line: &str) -> Option<Option<u16>> {
    if !["port is already allocated", "address already in use", "ports are not available", "only one usage of each"]
        .iter()
        .any(|said| line.contains(said))
    {
        return None;
    }
    // dockerd up to 27, its proxy, dockerd from 28, Docker Desktop.
    let places = ["bind for ", "listen tcp ", "listen tcp4 ", "listen tcp6 ", "listen udp ", "listen udp6 "];
    let newer = ["bind host port for ", "bind host port ", "exposing port tcp ", "exposing port udp "];
    let mut named = false;
    for place in places.iter().chain(&newer) {
        for (at, _) in line.match_indices(place) {
            named = true;
            if let Some(port) = port_of(&line[at + place.len()..]) {
                return Some(Some(port));
            }
        }
    }
    // "Address already in use" alone is about an address in one of Docker's networks.
    (named || line.contains("port is already allocated") || line.contains("ports are not available")).then_some(None)
}

/// The port at the start of a text: `0.0.0.0:80`, `[::]:80`, `:::80`, `:80`.
fn port_of(text: &str) -> Option<u16> {
    let end = text.find(|c: char| c.is_whitespace() || matches!(c, '/' | ',')).unwrap_or(text.len());
    let address = &text[..end];
    let rest = if let Some(bracketed) = address.strip_prefix('[') {
        bracketed.split_once("]:")?.1
    } else if let Some(rest) = address.strip_prefix(":::") {
        rest
    } else {
        // An unbracketed IPv6 address has its port last; an IPv4 address has it first, from Docker
        // 28 on followed by the container's side.
        let (host, rest) = address.split_once(':')?;
        if host.is_empty() || host.contains('.') || host == "*" || host == "localhost" {
            rest
        } else {
            address.rsplit_once(':')?.1
        }
    };
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|port| *port > 0)
}

/// The message of a line with an error level.
fn error(line: &str) -> Option<String> {
    let line = plain(line);
    let level = ["ERRO[", "FATA[", "level=error", "level=fatal"].iter().any(|level| line.contains(level));
    level.then(|| without_prefix(&line).to_owned())
}

/// Removes the colours that k3d always writes (logrus, `ForceColors`).
fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        let after = after.strip_prefix('[').unwrap_or(after);
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest = rest.strip_prefix(|c: char| c.is_ascii_alphabetic()).unwrap_or(rest);
    }
    plain.push_str(rest);
    plain
}

/// Removes logrus's prefix such as `INFO[0003] `, with or without colours.
pub fn without_prefix(line: &str) -> &str {
    let level = line.get(..4).is_some_and(|level| level.bytes().all(|byte| byte.is_ascii_uppercase()));
    match line.split_once("] ") {
        Some((before, text)) if level && before.contains('[') => text.trim(),
        _ => line.trim(),
    }
}

/// One line for people, to show progress.
pub fn readable(line: &str) -> String {
    without_prefix(&plain(line)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Failure {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        failure(&["cluster", "create"], &lines)
    }

    /// A failing creation as k3d 5.8.3 prints it, with `cause` in the middle.
    fn rolled_back(cause: &str) -> Failure {
        of(&[
            "\u{1b}[36mINFO\u{1b}[0m[0000] Prep: Network",
            "\u{1b}[31mERRO\u{1b}[0m[0001] Failed to run tools container for cluster 'ameide'",
            &format!("\u{1b}[31mERRO\u{1b}[0m[0001] {cause}"),
            "\u{1b}[31mERRO\u{1b}[0m[0001] Failed to create cluster >>> Rolling Back",
            "\u{1b}[36mINFO\u{1b}[0m[0001] Deleting cluster 'ameide'",
            "\u{1b}[33mWARN\u{1b}[0m[0001] Failed to delete cluster network 'x' because it's still in use",
            "\u{1b}[31mFATA\u{1b}[0m[0001] Cluster creation FAILED, all changes have been rolled back!",
        ])
    }

    #[test]
    fn the_cause_is_told_and_not_that_changes_were_rolled_back() {
        let node = "failed to start node 'k3d-a-tools': runtime failed to create node 'k3d-a-tools': failed to create container for node 'k3d-a-tools': docker failed to";
        let rows = [
            (Code::AddressPool, "Failed Cluster Preparation: Failed Network Preparation: failed to create cluster network: failed to create network: docker failed to create new network 'x': Error response from daemon: could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network".to_owned()),
            (Code::AddressPool, "docker failed to create new network 'x': Error response from daemon: all predefined address pools have been fully subnetted".to_owned()),
            (Code::AddressPool, "Error response from daemon: invalid pool request: Pool overlaps with other one on this address space".to_owned()),
            (Code::RegistryDns, format!("{node} pull image 'docker.io/rancher/k3s:v1': Error response from daemon: Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io on 127.0.0.53:53: no such host")),
            (Code::RegistryDns, format!("{node} pull image 'ghcr.io/x': Error response from daemon: Get \"https://ghcr.io/v2/\": dial tcp: lookup ghcr.io: Temporary failure in name resolution")),
            (Code::RegistryTls, format!("{node} pull image 'x': Error response from daemon: Get \"https://registry-1.docker.io/v2/\": tls: failed to verify certificate: x509: certificate signed by unknown authority")),
            (Code::RegistryUnreachable, format!("{node} pull image 'x': Error response from daemon: Get \"https://registry-1.docker.io/v2/\": net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)")),
            (Code::RegistryUnreachable, format!("{node} pull image 'x': Error response from daemon: Get \"https://ghcr.io/v2/\": dial tcp 140.82.121.33:443: connect: connection refused")),
            (Code::RegistryUnreachable, format!("{node} pull image 'x': Error response from daemon: Get \"https://ghcr.io/v2/\": proxyconnect tcp: dial tcp 10.0.0.1:3128: connect: no route to host")),
            (Code::RegistryUnreachable, format!("{node} pull image 'x': docker failed to pull the image 'x': Error response from daemon: Get \"https://auth.docker.io/token?scope=x\": dial tcp 1.2.3.4:443: i/o timeout")),
            (Code::RegistryUnreachable, format!("{node} pull image 'x': Error response from daemon: Get \"https://auth.docker.io/token?scope=x\": net/http: request canceled (Client.Timeout exceeded while awaiting headers)")),
            (Code::RegistryUnreachable, format!("{node} pull image 'x': Error response from daemon: failed to copy: httpReadSeeker: failed open: failed to do request: Get \"https://production.cloudflare.docker.com/x\": dial tcp 1.2.3.4:443: connect: connection refused")),
            (Code::RegistryUnreachable, format!("{node} pull image 'x': Error response from daemon: failed to resolve reference \"docker.io/x\": failed to authorize: failed to fetch anonymous token: Get \"https://auth.docker.io/token\": EOF")),
            (Code::RegistryUnreachable, format!("{node} pull image 'x': Error response from daemon: unexpected EOF")),
            (Code::RegistryUnreachable, format!("{node} pull image 'x': Error response from daemon: failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://auth.docker.io/token: 503 Service Unavailable")),
            (Code::RegistryDns, format!("{node} pull image 'x': Error response from daemon: Get \"https://auth.docker.io/token\": dial tcp: lookup auth.docker.io on 10.0.0.2:53: no such host")),
            (Code::RegistryDns, format!("{node} pull image 'x': Error response from daemon: Get \"https://auth.docker.io/token\": dial tcp: lookup auth.docker.io on 10.0.0.2:53: read udp 10.0.0.3:1->10.0.0.2:53: i/o timeout")),
            (Code::RegistryTls, format!("{node} pull image 'x': Error response from daemon: Get \"https://auth.docker.io/token\": tls: failed to verify certificate: x509: certificate signed by unknown authority")),
            (Code::RegistryRateLimited, format!("{node} pull image 'x': Error response from daemon: failed to copy: httpReadSeeker: failed open: unexpected status code https://registry-1.docker.io/v2/x: 429 Too Many Requests - Server message: toomanyrequests: x")),
            (Code::DockerUnavailable, format!("{node} pull image 'x': error during connect: Post \"http://10.0.0.1:2375/v1.46/images/create\": dial tcp 10.0.0.1:2375: connect: connection refused")),
            (Code::RegistryRateLimited, format!("{node} pull image 'x': Error response from daemon: toomanyrequests: You have reached your unauthenticated pull rate limit.")),
            (Code::RegistryDeniedOrMissing, format!("{node} pull image 'x': Error response from daemon: pull access denied for rancher/k3z, repository does not exist or may require 'docker login'")),
            (Code::ImageNotFound, format!("{node} pull image 'x': Error response from daemon: manifest for rancher/k3s:v9 not found: manifest unknown: manifest unknown")),
            (Code::ImagePlatform, format!("{node} pull image 'x': Error response from daemon: no matching manifest for linux/riscv64 in the manifest list entries")),
            (Code::DiskFull, "failed to start: Error response from daemon: mkdir /var/lib/docker/overlay2/x: no space left on device".to_owned()),
            (Code::NotOurs, format!("{node} create container 'k3d-a-tools': Error response from daemon: Conflict. The container name \"/k3d-a-tools\" is already in use by container \"0123\". You have to remove (or rename) that container to be able to reuse that name.")),
            (Code::DockerFailed, "failed to start: Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed".to_owned()),
            (Code::DockerFailed, format!("{node} create container: Error response from daemon: invalid IP address in add-host: \"host-gateway\"")),
            (Code::DockerUnavailable, "Failed to list docker networks: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?".to_owned()),
            (Code::DockerUnavailable, "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct and if the daemon is running: dial unix /var/run/docker.sock: connect: no such file or directory".to_owned()),
            (Code::ClusterFailed, "Failed Cluster Start: Failed to start server k3d-a-server-0: Error response from daemon: Address already in use".to_owned()),
            (Code::ClusterFailed, "Failed Cluster Start: Failed to start server k3d-a-server-0: Node k3d-a-server-0 failed to get ready: Failed waiting for log message 'k3s is up and running' from node 'k3d-a-server-0': stopped returning log lines: context deadline exceeded".to_owned()),
        ];
        for (code, cause) in rows {
            let failure = rolled_back(&cause);
            assert_eq!((failure.code, failure.evidence.last()), (code, Some(&cause)), "{failure:?}");
            assert!(failure.remedy.is_some());
        }
    }

    #[test]
    fn every_message_on_record_has_its_code() {
        let table = include_str!("../../../tests/messages.tsv").lines().filter_map(|row| row.strip_prefix("k3d\t-\t"));
        let mut count = 0;
        for row in table {
            let [said, code, ..] = row.split('\t').collect::<Vec<_>>()[..] else { panic!("{row}") };
            let expected = if code == "-" { Code::ClusterFailed } else { code.parse().unwrap() };
            assert_eq!(of(&[said]).code, expected, "{said}");
            count += 1;
        }
        assert!(count > 25, "{count}");
    }

    #[test]
    fn what_k3d_cannot_pull_without_an_account_is_pulled_before_it() {
        let remedy = |cause: &str| rolled_back(cause).remedy.unwrap();
        let of = |image: &str, said: &str| {
            remedy(&format!(
                "docker failed to pull image '{image}': docker failed to pull the image '{image}': Error response from daemon: {said}"
            ))
        };
        assert_eq!(
            of("docker.io/rancher/k3s:v1", "toomanyrequests: x"),
            "docker login, then docker pull docker.io/rancher/k3s:v1, then run it again"
        );
        assert_eq!(
            of("registry:2", "toomanyrequests: x"),
            "docker login, then docker pull registry:2, then run it again"
        );
        assert_eq!(
            of("ghcr.io/k3d-io/k3d-tools:5", "denied: requested access to the resource is denied"),
            "docker login ghcr.io, then docker pull ghcr.io/k3d-io/k3d-tools:5, then run it again; or correct `image` in k3d.yaml"
        );
        assert_eq!(
            remedy("Error response from daemon: toomanyrequests: x"),
            "docker login, then docker pull what the evidence names, then run it again"
        );
    }

    #[test]
    fn the_third_pull_of_one_image_is_one_too_many() {
        let pull = |image: &str| format!("\u{1b}[36mINFO\u{1b}[0m[0003] Pulling image '{image}'");
        let mut pulls = Pulls::default();
        for line in [pull("a:1"), pull("b:1"), pull("a:1"), pull("b:1"), "Starting node 'a:1'".to_owned()] {
            assert!(pulls.too_many(&line).is_none(), "{line}");
        }
        assert!(pulls.too_many("ERRO[0003] docker failed to pull the image 'a:1': x").is_none());
        let failure = pulls.too_many(&pull("a:1")).unwrap();
        assert_eq!(failure.code, Code::RegistryUnreachable);
        assert_eq!(failure.message, "Docker does not finish pulling a:1");
        assert_eq!(failure.remedy.as_deref(), Some("docker pull a:1 shows why"));
        assert!(pulls.too_many(&pull("a:1")).is_none(), "it is told once");
    }

    #[test]
    fn a_reason_that_nobody_knows_is_evidence_before_the_frames() {
        let failure = rolled_back("failed to translate config: something new");
        assert_eq!(failure.code, Code::ClusterFailed);
        let tools = "Failed to run tools container for cluster 'ameide'";
        assert_eq!(failure.evidence, [tools, "failed to translate config: something new"]);
        let failure = rolled_back("docker failed to start: Error response from daemon: something new");
        assert!(failure.evidence[0].ends_with("something new"), "{failure:?}");
        assert_eq!(of(&[]).evidence, ["k3d printed nothing"]);
        assert_eq!(of(&["panic: runtime error", "goroutine 1 [running]:"]).evidence[0], "panic: runtime error");
    }

    #[test]
    fn a_taken_port_is_named_whatever_the_family_and_the_version() {
        let rows = [
            ("Bind for 127.0.0.1:5000 failed: port is already allocated", Some(5000)),
            ("Bind for 0.0.0.0:443 failed: port is already allocated", Some(443)),
            ("Bind for :::5001 failed: port is already allocated", Some(5001)),
            ("Bind for [::]:5001 failed: port is already allocated", Some(5001)),
            ("Error starting userland proxy: listen tcp4 0.0.0.0:6550: bind: address already in use", Some(6550)),
            ("Error starting userland proxy: listen tcp6 [::]:6551: bind: address already in use", Some(6551)),
            ("Error starting userland proxy: listen tcp6 [::1]:6551: bind: address already in use", Some(6551)),
            ("failed to bind host port for 0.0.0.0:8443:172.18.0.3:443/tcp: address already in use", Some(8443)),
            ("failed to bind host port for [::]:8443:172.18.0.3:443/tcp: address already in use", Some(8443)),
            ("failed to bind host port 127.0.0.1:8443/tcp: address already in use", Some(8443)),
            ("failed to bind host port [::1]:8443/tcp: address already in use", Some(8443)),
            (
                "Ports are not available: exposing port TCP 127.0.0.1:443 -> 127.0.0.1:0: listen tcp 127.0.0.1:443: bind: address already in use",
                Some(443),
            ),
            ("driver failed programming external connectivity: port is already allocated", None),
        ];
        for (said, port) in rows {
            let failure = rolled_back(&format!("docker failed to start container: Error response from daemon: {said}"));
            assert_eq!(failure.code, Code::PortTaken, "{said}");
            let expected = port.map_or("a port that".to_owned(), |port| format!("port {port} on"));
            assert!(failure.message.starts_with(&expected), "{said}: {failure}");
            assert!(!failure.message.contains("port 0"));
        }
        assert_eq!(taken_port("failed to allocate: address already in use"), None);
    }
}
