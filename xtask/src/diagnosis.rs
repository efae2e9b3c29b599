//! Why a layer does not come up: pods and events of its namespaces, and what
//! Helm and Helmfile print, sorted into a closed list of blockers.
//!
//! A timeout is a symptom and never a verdict: the rules look at messages of
//! the kubelet, containerd, the API server, Helm and Helmfile, most specific first.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Client;
use kube::api::{Api, ListParams};

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::layer::Release;

/// A row: a message that holds one of these (lower case) is that blocker.
pub struct Rule {
    pub code: &'static str,
    pub exit: Exit,
    /// Any of these alternatives; each a list of parts that must all be there.
    pub any: &'static [&'static [&'static str]],
    pub sentence: &'static str,
    pub remedy: &'static str,
    /// Cannot heal while Helm waits: the run is ended early.
    pub fatal: bool,
}

/// Most specific first: the first row that matches is the verdict.
pub const RULES: &[Rule] = &[
    Rule {
        code: "registry-rate-limited",
        exit: Exit::Registry,
        any: &[&["toomanyrequests"], &["429 too many requests"], &["pull rate limit"]],
        sentence: "the registry's pull rate limit is reached",
        remedy: "cargo xtask mirror",
        fatal: false,
    },
    Rule {
        code: "node-pull-qps",
        exit: Exit::Registry,
        any: &[&["pull qps exceeded"]],
        sentence: "the kubelet pulls too many images at once; it goes on by itself",
        remedy: "wait",
        fatal: false,
    },
    Rule {
        code: "registry-protocol",
        exit: Exit::Registry,
        any: &[&["server gave http response to https client"]],
        sentence: "a plain-HTTP registry is spoken to over HTTPS",
        remedy: "cargo xtask cluster recreate",
        fatal: true,
    },
    Rule {
        code: "registry-tls",
        exit: Exit::Registry,
        any: &[&["x509:"], &["tls: failed to verify"]],
        sentence: "the registry's certificate is not trusted",
        remedy: "check the CA of the registry in k3d.yaml (registries.config)",
        fatal: true,
    },
    Rule {
        code: "registry-denied-or-missing",
        exit: Exit::Registry,
        any: &[&["pull access denied"], &["insufficient_scope"]],
        sentence: "the registry denies the image, or does not have it",
        remedy: "cargo xtask mirror --check",
        fatal: true,
    },
    Rule {
        code: "registry-auth",
        exit: Exit::Registry,
        any: &[
            &["401 unauthorized"],
            &["authentication required"],
            &["no basic auth credentials"],
            &["403 forbidden", "pull"],
            &["unauthorized:"],
        ],
        sentence: "the registry refuses the credentials, or wants some",
        remedy: "docker login, then cargo xtask mirror",
        fatal: true,
    },
    Rule {
        code: "image-platform",
        exit: Exit::Registry,
        any: &[&["no match for platform in manifest"], &["exec format error"], &["no matching manifest for"]],
        sentence: "the image has no build for the node's platform",
        remedy: "cargo xtask mirror --update",
        fatal: true,
    },
    Rule {
        code: "image-not-found",
        exit: Exit::Registry,
        any: &[&["manifest unknown"], &["failed to resolve reference", "not found"], &["failed to pull", "not found"]],
        sentence: "the image is not in the registry",
        remedy: "cargo xtask mirror",
        fatal: true,
    },
    Rule {
        code: "image-invalid",
        exit: Exit::Registry,
        any: &[&["invalidimagename"], &["couldn't parse image"], &["invalid reference format"]],
        sentence: "the image's name is not valid",
        remedy: "check the image in infra/images/images.yaml",
        fatal: true,
    },
    Rule {
        code: "registry-dns",
        exit: Exit::Registry,
        any: &[&["pull", "no such host"], &["failed to do request", "no such host"]],
        sentence: "the registry's name does not resolve on the node",
        remedy: "cargo xtask cluster",
        fatal: false,
    },
    Rule {
        code: "registry-unreachable",
        exit: Exit::Registry,
        any: &[
            &["failed to do request", "connection refused"],
            &["failed to do request", "i/o timeout"],
            &["pull", "connection refused"],
            &["failed to do request", "no route to host"],
        ],
        sentence: "the registry does not answer the node",
        remedy: "cargo xtask cluster",
        fatal: false,
    },
    Rule {
        code: "namespace-terminating",
        exit: Exit::NamespaceTerminating,
        any: &[&["is being terminated"], &["namespace", "terminating"]],
        sentence: "the namespace is being deleted",
        remedy: "wait for it, then run the layer again",
        fatal: true,
    },
    Rule {
        code: "release-pending",
        exit: Exit::Release,
        any: &[&["another operation (install/upgrade/rollback) is in progress"]],
        sentence: "another Helm operation on the release is in progress, or died",
        remedy: "cargo xtask releases repair",
        fatal: true,
    },
    Rule {
        code: "name-in-use",
        exit: Exit::Release,
        any: &[&["cannot reuse a name that is still in use"], &["invalid ownership metadata"]],
        sentence: "an object or release of that name belongs to somebody else",
        remedy: "see whose it is: kubectl get -o yaml shows its annotations",
        fatal: true,
    },
    Rule {
        code: "immutable-field",
        exit: Exit::NotReady,
        any: &[&["field is immutable"], &["updates to statefulset spec for fields other than"]],
        sentence: "a field that cannot change was changed",
        remedy: "undo the change, or replace that object by hand",
        fatal: true,
    },
    Rule {
        code: "crd-missing",
        exit: Exit::NotReady,
        any: &[&["no matches for kind"], &["ensure crds are installed first"]],
        sentence: "a custom resource's definition is not installed",
        remedy: "run the layer that installs the CRD",
        fatal: true,
    },
    Rule {
        code: "webhook-denied",
        exit: Exit::NotReady,
        any: &[&["admission webhook", "denied the request"]],
        sentence: "an admission webhook denied the object",
        remedy: "change the object as the webhook says",
        fatal: true,
    },
    Rule {
        code: "webhook-unavailable",
        exit: Exit::NotReady,
        any: &[&["failed calling webhook"]],
        sentence: "an admission webhook does not answer",
        remedy: "see the pods of the webhook's service",
        fatal: false,
    },
    Rule {
        code: "quota-exceeded",
        exit: Exit::NotReady,
        any: &[&["exceeded quota"]],
        sentence: "the namespace's quota is used up",
        remedy: "kubectl describe quota shows it",
        fatal: true,
    },
    Rule {
        code: "forbidden",
        exit: Exit::NotReady,
        any: &[&["is forbidden: user"], &["cannot create resource"], &["cannot list resource"]],
        sentence: "the credentials do not allow it",
        remedy: "use a context with more rights (--context)",
        fatal: true,
    },
    Rule {
        code: "unschedulable",
        exit: Exit::NotReady,
        any: &[&["nodes are available"]],
        sentence: "no node can take the pod",
        remedy: "kubectl describe the pod and the nodes",
        fatal: false,
    },
    Rule {
        code: "volume-pending",
        exit: Exit::NotReady,
        any: &[
            &["unbound immediate persistentvolumeclaims"],
            &["failedattachvolume"],
            &["failedmount"],
            &["provisioningfailed"],
        ],
        sentence: "a volume is not there yet",
        remedy: "kubectl get pvc,events in the namespace",
        fatal: false,
    },
    Rule {
        code: "config-missing",
        exit: Exit::NotReady,
        any: &[
            &["couldn't find key"],
            &["secret", "not found"],
            &["configmap", "not found"],
            &["createcontainerconfigerror"],
            &["flyway_url not set"],
        ],
        sentence: "a Secret, ConfigMap or key is missing",
        remedy: "run the layer that makes it, or create it",
        fatal: true,
    },
    Rule {
        code: "oom-killed",
        exit: Exit::NotReady,
        any: &[&["oomkilled"]],
        sentence: "a container used more memory than its limit",
        remedy: "raise its memory limit in infra/kubernetes/values",
        fatal: true,
    },
    Rule {
        code: "disk-full",
        exit: Exit::NotReady,
        any: &[&["no space left on device"], &["disk pressure"]],
        sentence: "a disk is full",
        remedy: "cargo xtask doctor",
        fatal: true,
    },
    Rule {
        code: "crash-loop",
        exit: Exit::NotReady,
        any: &[&["crashloopbackoff"], &["back-off restarting failed container"]],
        sentence: "a container keeps crashing",
        remedy: "kubectl logs --previous of the pod",
        fatal: false,
    },
    Rule {
        code: "hook-failed",
        exit: Exit::NotReady,
        any: &[&["backofflimitexceeded"], &["hook", "failed"], &["job failed"]],
        sentence: "a hook or a job of the release failed",
        remedy: "see the hook's log in the log file",
        fatal: false,
    },
    Rule {
        code: "probe-failing",
        exit: Exit::NotReady,
        any: &[&["probe failed"]],
        sentence: "a container's probe fails",
        remedy: "kubectl logs of the pod",
        fatal: false,
    },
    Rule {
        code: "chart-missing",
        exit: Exit::Usage,
        any: &[
            &["no such file or directory", "chart"],
            &["chart.yaml file is missing"],
            &["path", "charts", "not found"],
        ],
        sentence: "a chart is not in the tree",
        remedy: "git status; charts are vendored under infra/kubernetes/charts",
        fatal: true,
    },
    Rule {
        code: "render-failed",
        exit: Exit::Usage,
        any: &[
            &["error parsing"],
            &["template:"],
            &["values don't meet the specifications"],
            &["yaml:"],
            &["execution error at"],
        ],
        sentence: "the layer's files cannot be rendered",
        remedy: "helmfile template shows it",
        fatal: true,
    },
    Rule {
        code: "object-invalid",
        exit: Exit::NotReady,
        any: &[&["is invalid:"], &["unknown field"]],
        sentence: "the API server refuses an object as invalid",
        remedy: "correct the object's template",
        fatal: true,
    },
    Rule {
        code: "api-unreachable",
        exit: Exit::ApiUnreachable,
        any: &[
            &["kubernetes cluster unreachable"],
            &["client rate limiter wait returned an error"],
            &["the connection to the server", "refused"],
            &["dial tcp", ":6550", "refused"],
            &["unexpected eof", "api"],
        ],
        sentence: "the Kubernetes API does not answer",
        remedy: "cargo xtask cluster",
        fatal: false,
    },
];

/// The rule for a message, if any is.
pub fn classify(message: &str) -> Option<&'static Rule> {
    let lower = message.to_lowercase();
    RULES.iter().find(|rule| rule.any.iter().any(|parts| parts.iter().all(|part| lower.contains(part))))
}

/// Symptoms: they say that something took too long, and not what.
fn is_timeout(message: &str) -> bool {
    let lower = message.to_lowercase();
    lower.contains("context deadline exceeded") && !lower.contains("client rate limiter")
        || lower.contains("timed out waiting for the condition")
}

fn failure(rule: &Rule, object: &str, message: &str) -> Failure {
    Failure::new(rule.code, rule.exit, format!("{object}: {}", rule.sentence))
        .evidence(message.trim())
        .remedy(rule.remedy)
}

/// Resolves when something is seen that cannot heal; else never.
pub async fn watch(_context: &Context, client: &Client, wanted: &[Release]) -> Failure {
    let namespaces = namespaces(wanted);
    let mut grace: std::collections::BTreeMap<String, u32> = std::collections::BTreeMap::new();
    let started = jiff::Timestamp::now();
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(1000)).await;
        for namespace in &namespaces {
            for (object, message) in pod_messages(client, namespace, Some(started)).await {
                let Some(rule) = classify(&message).filter(|rule| rule.fatal) else { continue };
                // Seen on three looks: a Secret may be a moment behind its pod.
                let seen = grace.entry(format!("{object} {}", rule.code)).or_default();
                *seen += 1;
                if *seen >= 3 {
                    return failure(rule, &object, &message);
                }
            }
        }
    }
}

fn namespaces(wanted: &[Release]) -> std::collections::BTreeSet<String> {
    wanted.iter().filter(|release| release.installed).map(|release| release.namespace.clone()).collect()
}

/// What blocks a layer whose Helmfile run has failed.
pub async fn explain(client: &Client, layer: &str, wanted: &[Release], tail: &[String]) -> Failure {
    let said = tail.iter().rev().filter(|line| !is_timeout(line));
    let helm_says = said.clone().find_map(|line| Some((classify(line)?, line)));
    if let Some((rule, line)) = helm_says.filter(|(rule, _)| rule.fatal) {
        return failure(rule, layer, line);
    }
    for namespace in namespaces(wanted) {
        for (object, message) in pod_messages(client, &namespace, None).await {
            if let Some(rule) = classify(&message) {
                return failure(rule, &object, &message);
            }
        }
    }
    if let Some((rule, line)) = helm_says {
        return failure(rule, layer, line);
    }
    let raw = tail.iter().rev().filter(|line| !line.trim().is_empty()).take(5).cloned().collect::<Vec<_>>();
    raw.into_iter()
        .rev()
        .fold(Failure::new("unknown", Exit::Unclassified, format!("{layer}: Helmfile failed")), |failure, line| {
            failure.evidence(line)
        })
}

/// Why the pods of a namespace are not ready, with the events that belong to them.
async fn pod_messages(client: &Client, namespace: &str, since: Option<jiff::Timestamp>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await;
    let pods = pods.map(|list| list.items).unwrap_or_default();
    for pod in &pods {
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let created = pod
            .metadata
            .creation_timestamp
            .as_ref()
            .and_then(|time| time.0.to_string().parse::<jiff::Timestamp>().ok());
        // A pod from before this run is not this run's doing.
        if let (Some(since), Some(created)) = (since, created)
            && created + jiff::SignedDuration::from_secs(2) < since
        {
            continue;
        }
        let name = pod.metadata.name.clone().unwrap_or_default();
        let object = format!("pod {namespace}/{name}");
        found.extend(container_messages(pod).into_iter().map(|message| (object.clone(), message)));
        if !crate::kubernetes::pod_ready(pod) {
            let selector = format!("involvedObject.name={name},type=Warning");
            let events = Api::<Event>::namespaced(client.clone(), namespace)
                .list(&ListParams::default().fields(&selector))
                .await;
            for event in events.map(|list| list.items).unwrap_or_default() {
                found.push((
                    object.clone(),
                    format!("{}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default()),
                ));
            }
        }
    }
    found
}

fn container_messages(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let mut messages = Vec::new();
    for container in containers {
        let Some(state) = &container.state else { continue };
        if let Some(waiting) = &state.waiting {
            let reason = waiting.reason.clone().unwrap_or_default();
            if !matches!(reason.as_str(), "ContainerCreating" | "PodInitializing") {
                messages.push(format!("{reason}: {}", waiting.message.clone().unwrap_or_default()));
            }
        }
        let ended =
            state.terminated.as_ref().or(container.last_state.as_ref().and_then(|last| last.terminated.as_ref()));
        if let Some(ended) = ended.filter(|ended| ended.exit_code != 0) {
            messages.push(format!(
                "{}: exit code {}: {}",
                ended.reason.clone().unwrap_or_default(),
                ended.exit_code,
                ended.message.clone().unwrap_or_default()
            ));
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Real messages, each with the blocker it stands for.
    const MESSAGES: &[(&str, &str)] = &[
        (
            "Failed to pull image \"docker.io/temporalio/server:1.29.0\": failed to pull and unpack image: failed to copy: httpReadSeeker: failed open: unexpected status code https://registry-1.docker.io/v2/temporalio/server/manifests/sha256:0: 429 Too Many Requests - Server message: toomanyrequests: You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit",
            "registry-rate-limited",
        ),
        ("ErrImagePull: pull QPS exceeded", "node-pull-qps"),
        (
            "failed to do request: Head \"https://k3d-dev-reg:5000/v2/third-party/redis/manifests/7\": http: server gave HTTP response to HTTPS client",
            "registry-protocol",
        ),
        (
            "failed to do request: Head \"https://reg/v2/\": tls: failed to verify certificate: x509: certificate signed by unknown authority",
            "registry-tls",
        ),
        (
            "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://auth.docker.io/token: 401 Unauthorized",
            "registry-auth",
        ),
        (
            "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
            "registry-denied-or-missing",
        ),
        ("no match for platform in manifest: not found", "image-platform"),
        ("exec /usr/bin/redis-server: exec format error", "image-platform"),
        (
            "rpc error: code = NotFound desc = failed to pull and unpack image \"k3d-dev-reg:5000/third-party/redis:9\": failed to resolve reference \"k3d-dev-reg:5000/third-party/redis:9\": k3d-dev-reg:5000/third-party/redis:9: not found",
            "image-not-found",
        ),
        ("manifest unknown: manifest unknown", "image-not-found"),
        (
            "InvalidImageName: Failed to apply default image tag \"a//b\": couldn't parse image name \"a//b\": invalid reference format",
            "image-invalid",
        ),
        (
            "failed to do request: Head \"http://k3d-dev-reg:5000/v2/x/manifests/1\": dial tcp: lookup k3d-dev-reg on 127.0.0.11:53: no such host",
            "registry-dns",
        ),
        (
            "failed to do request: Head \"http://k3d-dev-reg:5000/v2/x/manifests/1\": dial tcp 172.18.0.2:5000: connect: connection refused",
            "registry-unreachable",
        ),
        (
            "secrets \"sh.helm.release.v1.minio.v1\" is forbidden: unable to create new content in namespace ameide because it is being terminated",
            "namespace-terminating",
        ),
        ("UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress", "release-pending"),
        ("INSTALLATION FAILED: cannot reuse a name that is still in use", "name-in-use"),
        (
            "invalid ownership metadata; annotation validation error: key \"meta.helm.sh/release-name\" must equal",
            "name-in-use",
        ),
        (
            "Job.batch \"migrate\" is invalid: spec.template: Invalid value: core.PodTemplateSpec{}: field is immutable",
            "immutable-field",
        ),
        (
            "resource mapping not found for name: \"x\": no matches for kind \"Kafka\" in version \"v1\" ensure CRDs are installed first",
            "crd-missing",
        ),
        ("admission webhook \"validate.kyverno.svc\" denied the request: no", "webhook-denied"),
        ("Internal error occurred: failed calling webhook \"x\": Post \"https://x.svc\": EOF", "webhook-unavailable"),
        (
            "pods \"minio-0\" is forbidden: exceeded quota: small, requested: cpu=1, used: cpu=0, limited: cpu=100m",
            "quota-exceeded",
        ),
        ("secrets is forbidden: User \"ci\" cannot list resource \"secrets\" in API group \"\"", "forbidden"),
        ("FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu.", "unschedulable"),
        (
            "CreateContainerConfigError: couldn't find key root-password in Secret ameide/minio-root-credentials",
            "config-missing",
        ),
        ("Error: secret \"postgres-app\" not found", "config-missing"),
        ("ERROR: FLYWAY_URL not set", "config-missing"),
        ("OOMKilled: exit code 137: ", "oom-killed"),
        ("CrashLoopBackOff: back-off 10s restarting failed container=x", "crash-loop"),
        ("BackoffLimitExceeded: Job has reached the specified backoff limit", "hook-failed"),
        ("Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 503", "probe-failing"),
        ("write /data: no space left on device", "disk-full"),
        ("client rate limiter Wait returned an error: context deadline exceeded", "api-unreachable"),
        (
            "Error: Kubernetes cluster unreachable: Get \"https://0.0.0.0:6550/version\": dial tcp 0.0.0.0:6550: connect: connection refused",
            "api-unreachable",
        ),
        ("Error: values don't meet the specifications of the schema(s) in the following chart(s)", "render-failed"),
    ];

    #[test]
    fn every_message_on_record_has_its_blocker() {
        for (message, code) in MESSAGES {
            assert_eq!(classify(message).map(|rule| rule.code), Some(*code), "{message}");
        }
    }

    #[test]
    fn a_timeout_is_no_verdict() {
        for message in ["Error: context deadline exceeded", "timed out waiting for the condition"] {
            assert!(is_timeout(message) && classify(message).is_none(), "{message}");
        }
    }

    #[test]
    fn codes_are_told_apart() {
        let codes: std::collections::BTreeSet<&str> = RULES.iter().map(|rule| rule.code).collect();
        assert_eq!(codes.len(), RULES.len());
    }
}
