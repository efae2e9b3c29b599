//! The closed list of blockers, as data: which message means what, when it ends a
//! run, and what to do about it.
//!
//! Messages are those of the kubelet (`pkg/kubelet/events`, `images/types.go`),
//! containerd, the API server, Helm and Helmfile; each has a real one as a test.

use crate::exit::Exit;

/// When a blocker ends a Helmfile run that would else wait for its timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Nothing that this run does can heal it.
    AtOnce,
    /// It may heal: only when it has lasted so many seconds.
    After(u64),
    /// It heals by itself, or by a retry that counts by itself.
    Never,
}

/// A row: a message that holds one of these (lower case) is that blocker.
#[derive(Debug)]
pub struct Rule {
    pub code: &'static str,
    pub exit: Exit,
    /// Any of these alternatives; each a list of parts that must all be there.
    pub any: &'static [&'static [&'static str]],
    pub sentence: &'static str,
    pub remedy: &'static str,
    pub ends: Ends,
    /// Whether it may be read from the log of a crashing container. Logs speak of
    /// many things: most rows must not be read into them.
    pub in_logs: bool,
}

/// Most specific first: the first row that matches is the verdict.
pub const RULES: &[Rule] = &[
    Rule {
        code: "registry-rate-limited",
        exit: Exit::Registry,
        any: &[&["toomanyrequests"], &["too many requests", "pull"], &["429 too many requests"], &["pull rate limit"]],
        sentence: "the registry's pull rate limit is reached",
        remedy: "cargo xtask --env {env} mirror",
        ends: Ends::Never,
        in_logs: false,
    },
    Rule {
        code: "node-pull-qps",
        exit: Exit::Registry,
        any: &[&["pull qps exceeded"]],
        sentence: "the kubelet pulls too many images at once; it goes on by itself",
        remedy: "kubectl --context {context} -n {namespace} get pods --watch",
        ends: Ends::Never,
        in_logs: false,
    },
    Rule {
        code: "registry-protocol",
        exit: Exit::Registry,
        any: &[
            &["server gave http response to https client"],
            &["client sent an http request to an https server"],
            &["first record does not look like a tls handshake"],
        ],
        sentence: "a plain-HTTP registry is spoken to over HTTPS",
        remedy: "cargo xtask --env {env} cluster recreate",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "registry-tls",
        exit: Exit::Registry,
        any: &[&["x509:"], &["tls: failed to verify"]],
        sentence: "the registry's certificate is not trusted",
        remedy: "openssl s_client -connect REGISTRY shows its certificate; its CA belongs into registries.config of k3d.yaml",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "registry-denied-or-missing",
        exit: Exit::Registry,
        any: &[
            &["pull access denied"],
            &["insufficient_scope"],
            &["denied: requested access to the resource is denied"],
        ],
        sentence: "the registry denies the image, or does not have it",
        remedy: "cargo xtask --env {env} mirror --check",
        ends: Ends::AtOnce,
        in_logs: false,
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
        remedy: "docker login, then cargo xtask --env {env} mirror",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "image-platform",
        exit: Exit::Registry,
        any: &[
            &["no match for platform in manifest"],
            &["no matching manifest"],
            &["does not match the specified platform"],
            &["exec format error"],
        ],
        sentence: "the image has no build for the node's platform",
        remedy: "cargo xtask --env {env} mirror --update",
        ends: Ends::AtOnce,
        in_logs: true,
    },
    Rule {
        code: "image-not-found",
        exit: Exit::Registry,
        any: &[&["manifest unknown"], &["failed to resolve reference", "not found"], &["failed to pull", "not found"]],
        sentence: "the image is not in the registry",
        remedy: "cargo xtask --env {env} mirror",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "image-invalid",
        exit: Exit::Registry,
        any: &[
            &["invalidimagename"],
            &["inspectfailed"],
            &["failed to extract layer"],
            &["unexpected media type"],
            &["mismatched image rootfs"],
            &["couldn't parse image"],
            &["invalid reference format"],
        ],
        sentence: "the image's name is not valid",
        remedy: "check the image in infra/images/images.yaml",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "registry-dns",
        exit: Exit::Registry,
        any: &[&["pull", "no such host"], &["failed to do request", "no such host"]],
        sentence: "the registry's name does not resolve on the node",
        remedy: "cargo xtask --env {env} cluster",
        ends: Ends::After(30),
        in_logs: false,
    },
    Rule {
        code: "registry-unreachable",
        exit: Exit::Registry,
        any: &[
            &["failed to do request", "connection refused"],
            &["failed to do request", "i/o timeout"],
            &["pull", "connection refused"],
            &["failed to do request", "no route to host"],
            &["failed to do request", "network is unreachable"],
            &["failed to do request", "eof"],
            &["registryunavailable"],
            &["unexpected status", ": 50"],
            &["failed to resolve reference", "deadline exceeded"],
        ],
        sentence: "the registry does not answer the node",
        remedy: "cargo xtask --env {env} cluster",
        ends: Ends::After(30),
        in_logs: false,
    },
    Rule {
        code: "namespace-terminating",
        exit: Exit::NamespaceTerminating,
        any: &[&["is being terminated"], &["namespace", "terminating"]],
        sentence: "the namespace is being deleted",
        remedy: "kubectl --context {context} get namespaces; run the layer again when it is gone",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "release-pending",
        exit: Exit::Release,
        any: &[&["another operation (install/upgrade/rollback) is in progress"]],
        sentence: "another Helm operation on the release is in progress, or died",
        remedy: "cargo xtask --env {env} releases repair",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "name-in-use",
        exit: Exit::Release,
        any: &[&["cannot reuse a name that is still in use"], &["invalid ownership metadata"]],
        sentence: "an object or release of that name belongs to somebody else",
        remedy: "kubectl --context {context} -n {namespace} get all,secrets,pvc -o custom-columns=KIND:.kind,NAME:.metadata.name,OWNER:.metadata.annotations.meta\\.helm\\.sh/release-name",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "immutable-field",
        exit: Exit::NotReady,
        any: &[&["field is immutable"], &["updates to statefulset spec for fields other than"]],
        sentence: "a field that cannot change was changed",
        remedy: "undo the change, or replace that object by hand",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "crd-missing",
        exit: Exit::NotReady,
        any: &[&["no matches for kind"], &["ensure crds are installed first"]],
        sentence: "a custom resource's definition is not installed",
        remedy: "run the layer that installs the CRD",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "webhook-denied",
        exit: Exit::NotReady,
        any: &[&["admission webhook", "denied the request"]],
        sentence: "an admission webhook denied the object",
        remedy: "change the object as the webhook says",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "webhook-unavailable",
        exit: Exit::NotReady,
        any: &[&["failed calling webhook"]],
        sentence: "an admission webhook does not answer",
        remedy: "kubectl --context {context} get validatingwebhookconfigurations,mutatingwebhookconfigurations",
        ends: Ends::After(60),
        in_logs: false,
    },
    Rule {
        code: "quota-exceeded",
        exit: Exit::NotReady,
        any: &[&["exceeded quota"]],
        sentence: "the namespace's quota is used up",
        remedy: "kubectl --context {context} -n {namespace} describe quota",
        ends: Ends::After(5),
        in_logs: false,
    },
    Rule {
        code: "forbidden",
        exit: Exit::NotReady,
        any: &[&["is forbidden: user"], &["cannot create resource"], &["cannot list resource"]],
        sentence: "the credentials do not allow it",
        remedy: "kubectl --context {context} auth can-i --list; use a context with more rights (--context)",
        ends: Ends::After(5),
        in_logs: false,
    },
    Rule {
        code: "config-missing",
        exit: Exit::NotReady,
        any: &[
            &["couldn't find key"],
            &["secret \"", "not found"],
            &["configmap \"", "not found"],
            &["references non-existent config key"],
            &["references non-existent secret key"],
            &["createcontainerconfigerror"],
            &["flyway_url not set"],
        ],
        sentence: "a Secret, ConfigMap or key is missing",
        remedy: "kubectl --context {context} -n {namespace} get secrets,configmaps; run the layer that makes it",
        ends: Ends::After(10),
        in_logs: true,
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
        remedy: "kubectl --context {context} -n {namespace} get pvc,events",
        ends: Ends::After(90),
        in_logs: false,
    },
    Rule {
        code: "unschedulable",
        exit: Exit::NotReady,
        any: &[
            &["nodes are available"],
            &["no nodes available to schedule pods"],
            &["predicate", "failed"],
            &["outofcpu"],
            &["outofmemory"],
        ],
        sentence: "no node can take the pod",
        remedy: "kubectl --context {context} -n {namespace} describe {object}",
        ends: Ends::After(60),
        in_logs: false,
    },
    Rule {
        code: "pod-network",
        exit: Exit::NotReady,
        any: &[&["failed to setup network for sandbox"], &["failed to create pod sandbox"]],
        sentence: "the node cannot give the pod a network",
        remedy: "cargo xtask --env {env} cluster",
        ends: Ends::After(60),
        in_logs: false,
    },
    Rule {
        code: "oom-killed",
        exit: Exit::NotReady,
        any: &[&["oomkilled"], &["oom-kill"]],
        sentence: "a container used more memory than its limit",
        remedy: "raise its memory limit in infra/kubernetes/values",
        ends: Ends::After(5),
        in_logs: false,
    },
    Rule {
        code: "disk-full",
        exit: Exit::NotReady,
        any: &[
            &["no space left on device"],
            &["disk pressure"],
            &["diskpressure"],
            &["low on resource: ephemeral-storage"],
        ],
        sentence: "a disk is full",
        remedy: "cargo xtask doctor",
        ends: Ends::After(5),
        in_logs: true,
    },
    Rule {
        code: "layer-missing",
        exit: Exit::NotReady,
        any: &[&["could not get clustersecretstore"]],
        sentence: "an earlier layer is not in place",
        remedy: "cargo xtask --env {env} layer 10-15",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "dependency-unreachable",
        exit: Exit::NotReady,
        any: &[
            &["connection refused"],
            &["no such host"],
            &["i/o timeout"],
            &["could not connect to server"],
            &["could not translate host name"],
            &["name or service not known"],
            &["temporary failure in name resolution"],
            &["no route to host"],
            &["the database system is starting up"],
        ],
        sentence: "a container crashes because what it needs does not answer",
        remedy: "kubectl --context {context} -n {namespace} logs --previous {object}",
        ends: Ends::After(120),
        in_logs: true,
    },
    Rule {
        code: "crash-loop",
        exit: Exit::NotReady,
        any: &[&["crashloopbackoff"], &["back-off restarting failed container"]],
        sentence: "a container keeps crashing",
        remedy: "kubectl --context {context} -n {namespace} logs --previous {object}",
        ends: Ends::After(45),
        in_logs: false,
    },
    Rule {
        code: "hook-failed",
        exit: Exit::NotReady,
        any: &[
            &["backofflimitexceeded"],
            &["deadlineexceeded: job"],
            &["hook", "failed"],
            &["job failed"],
            &["hooks failed"],
        ],
        sentence: "a hook or a job of the release failed",
        remedy: "kubectl --context {context} -n {namespace} get jobs,pods; the log below has what the hook said",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "probe-failing",
        exit: Exit::NotReady,
        any: &[&["probe failed"]],
        sentence: "a container's probe fails",
        remedy: "kubectl --context {context} -n {namespace} logs {object}",
        ends: Ends::Never,
        in_logs: false,
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
        ends: Ends::AtOnce,
        in_logs: false,
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
        remedy: "helmfile -f infra/kubernetes/helmfiles/{layer}.yaml -e {env} template",
        ends: Ends::AtOnce,
        in_logs: false,
    },
    Rule {
        code: "object-invalid",
        exit: Exit::NotReady,
        any: &[&["is invalid:"], &["unknown field"]],
        sentence: "the API server refuses an object as invalid",
        remedy: "correct the object's template",
        ends: Ends::AtOnce,
        in_logs: false,
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
            &["http2: client connection lost"],
            &["etcdserver:"],
            &["the server is currently unable to handle the request"],
            &["apiserver not ready"],
            &["get \"https://", "connection refused"],
            &["get \"https://", "eof"],
            &["post \"https://", "eof"],
            &["patch \"https://", "connection refused"],
            &["post \"https://", "connection refused"],
            &["put \"https://", "connection refused"],
            &["watch", "connection refused"],
        ],
        sentence: "the Kubernetes API does not answer",
        remedy: "cargo xtask --env {env} cluster",
        ends: Ends::Never,
        in_logs: false,
    },
];

/// What the kubelet says of every pod and what says nothing: that an image pull
/// secret is absent is harmless where the image needs none, and the pull itself
/// tells where it does. A back-off without a cause hides one that came before.
const SAYS_NOTHING: &[&str] = &["failedtoretrieveimagepullsecret", "unable to retrieve some image pull secrets"];

/// The rule for a message of the kubelet, the API server, Helm or Helmfile, if any is.
pub fn classify(message: &str) -> Option<&'static Rule> {
    find(message, |rule| rule.code != "dependency-unreachable")
}

/// The rule for the last lines of a crashing container's log.
pub fn classify_log(log: &str) -> Option<&'static Rule> {
    find(log, |rule| rule.in_logs)
}

fn find(message: &str, among: impl Fn(&Rule) -> bool) -> Option<&'static Rule> {
    let lower = message.to_lowercase();
    if SAYS_NOTHING.iter().any(|nothing| lower.contains(nothing)) {
        return None;
    }
    let holds = |rule: &Rule| rule.any.iter().any(|parts| parts.iter().all(|part| lower.contains(part)));
    RULES.iter().find(|rule| among(rule) && holds(rule))
}

/// The rule of a code.
pub fn of(code: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.code == code)
}

/// Symptoms: they say that something took too long, and not what.
pub fn is_timeout(message: &str) -> bool {
    let lower = message.to_lowercase();
    lower.contains("context deadline exceeded") && !lower.contains("client rate limiter")
        || lower.contains("timed out waiting for the condition")
        || lower.contains("resource not ready")
}

/// Helmfile's words for a Helm that was killed (Go's `exec.ExitError`), on a line of
/// their own; and Rust's for a Helmfile that was.
pub fn is_killed(line: &str) -> bool {
    matches!(line.trim(), "signal: killed" | "signal: 9 (SIGKILL)")
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
        (
            "FailedCreatePodSandBox: Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox \"0a1b\": plugin type=\"flannel\" failed (add): loadFlannelSubnetEnv failed: open /run/flannel/subnet.env: no such file or directory",
            "pod-network",
        ),
        (
            "Failed to pull image \"reg:5000/x:1\": failed to resolve reference \"reg:5000/x:1\": unexpected status from HEAD request to http://reg:5000/v2/x/manifests/1: 503 Service Unavailable",
            "registry-unreachable",
        ),
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
        (
            "Failed to pull image \"k3d-dev-reg:5000/x:1\": failed to do request: Head \"http://k3d-dev-reg:5000/v2/x/manifests/1\": dial tcp 172.20.0.2:5000: connect: no route to host",
            "registry-unreachable",
        ),
        (
            "Failed to pull image \"ghcr.io/x/y:1\": failed to resolve reference \"ghcr.io/x/y:1\": failed to authorize: failed to fetch oauth token: unexpected status from GET request to https://ghcr.io/token: 403 Forbidden",
            "registry-auth",
        ),
        (
            "Failed to pull image \"reg:5000/x:1\": unexpected status from HEAD request to http://reg:5000/v2/x/manifests/1: 429 Too Many Requests",
            "registry-rate-limited",
        ),
        (
            "FailedCreate: Error creating: pods \"web-6f\" is forbidden: exceeded quota: tiny, requested: pods=1, used: pods=0, limited: pods=0",
            "quota-exceeded",
        ),
        (
            "FailedMount: MountVolume.SetUp failed for volume \"conf\" : configmap \"absent\" not found",
            "config-missing",
        ),
        ("ProvisioningFailed: storageclass.storage.k8s.io \"fast\" not found", "volume-pending"),
        (
            "FailedScheduling: 0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
            "volume-pending",
        ),
        ("Evicted: The node was low on resource: ephemeral-storage.", "disk-full"),
        ("BackOff: Back-off restarting failed container web in pod web-6f_ameide(1)", "crash-loop"),
        ("could not get ClusterSecretStore \"ameide-vault\", clustersecretstores not found", "layer-missing"),
        ("Error: path \"../charts/minio\" not found", "chart-missing"),
        ("stat /work/infra/kubernetes/charts/x.tgz: no such file or directory: chart not found", "chart-missing"),
        (
            "Error: UPGRADE FAILED: failed to create resource: Deployment.apps \"web\" is invalid: spec.template.spec.containers[0].name: Required value",
            "object-invalid",
        ),
        ("http2: client connection lost", "api-unreachable"),
    ];

    #[test]
    fn every_message_on_record_has_its_blocker() {
        for (message, code) in MESSAGES {
            assert_eq!(classify(message).map(|rule| rule.code), Some(*code), "{message}");
        }
    }

    #[test]
    fn every_code_has_a_message_on_record() {
        for rule in RULES {
            let on_record = MESSAGES.iter().chain(LOGS).any(|(_, code)| *code == rule.code);
            assert!(on_record, "{}", rule.code);
        }
    }

    const LOGS: &[(&str, &str)] = &[
        ("pq: dial tcp 10.43.0.7:5432: connect: connection refused", "dependency-unreachable"),
        ("psql: error: could not translate host name \"postgres-ameide-rw\" to address", "dependency-unreachable"),
        ("ERROR: FLYWAY_URL not set", "config-missing"),
        ("exec /usr/bin/x: exec format error", "image-platform"),
        ("write /data/x: no space left on device", "disk-full"),
    ];

    #[test]
    fn a_crashing_containers_log_tells_what_it_lacks() {
        for (log, code) in LOGS {
            assert_eq!(classify_log(log).map(|rule| rule.code), Some(*code), "{log}");
        }
        assert!(classify_log("panic: 401 Unauthorized").is_none(), "a log is not the kubelet");
    }

    #[test]
    fn what_says_nothing_is_no_blocker() {
        for message in [
            "FailedToRetrieveImagePullSecret: Unable to retrieve some image pull secrets (dockerhub-creds); attempting to pull the image may not succeed.",
            "Failed: Error: ImagePullBackOff",
            "Failed: Error: ErrImagePull",
            "BackOff: Back-off pulling image \"k3d-dev-reg:5000/x:1\"",
            "Scheduled: Successfully assigned ameide/minio to node",
        ] {
            assert_eq!(classify(message).map(|rule| rule.code), None, "{message}");
        }
    }

    #[test]
    fn a_timeout_is_no_verdict() {
        for message in ["Error: context deadline exceeded", "timed out waiting for the condition"] {
            assert!(is_timeout(message) && classify(message).is_none(), "{message}");
        }
    }

    #[test]
    fn a_killed_helm_is_told_from_what_a_container_says() {
        assert!(is_killed("  signal: killed") && is_killed("signal: 9 (SIGKILL)"));
        assert!(!is_killed("Unhealthy: Liveness probe errored: command timed out: signal: killed"));
    }

    #[test]
    fn codes_are_told_apart() {
        let codes: std::collections::BTreeSet<&str> = RULES.iter().map(|rule| rule.code).collect();
        assert_eq!(codes.len(), RULES.len());
    }
}
