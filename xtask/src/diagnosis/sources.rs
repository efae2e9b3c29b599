//! Which message means which blocker: by its source first, then by its reason, then
//! by its text. Each source has its own table, and a text is never looked up in the
//! table of another: what a probe printed, or a container's log, can hold any words.
//!
//! Texts are those of the kubelet (`pkg/kubelet/events/event.go`,
//! `images/types.go`, `container/sync_result.go`), containerd, the scheduler and the
//! controllers, the API server, Helm 3 and 4 and Helmfile. `tests/messages.tsv` has
//! real ones with where they come from, and the tests read it row by row.
//!
//! That only a state or an answer of the API ends a run at once is held by the types:
//! [`Reason`], the rows of all other sources, has no way to say so.

use super::rules::{self, Ends, Rule};
use super::said;

/// What was read off one message.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    pub rule: &'static Rule,
    pub ends: Ends,
}

impl Verdict {
    fn may_heal(code: &str) -> Option<Self> {
        let rule = rules::of(code)?;
        Some(Self { rule, ends: rule.lasts.into() })
    }

    fn cannot_heal(code: &str) -> Option<Self> {
        Some(Self { rule: rules::of(code)?, ends: Ends::AtOnce })
    }
}

/// Parts, lower case, that must all be in the text.
type Parts = &'static [&'static str];

/// A text with one of these is that blocker; no code: it is known, and harmless.
struct Row {
    code: Option<&'static str>,
    any: &'static [Parts],
}

const fn row(code: &'static str, any: &'static [Parts]) -> Row {
    Row { code: Some(code), any }
}

const fn harmless(any: &'static [Parts]) -> Row {
    Row { code: None, any }
}

/// The rows for these reasons of a source: the first that holds, else `rest`.
struct Reason {
    of: &'static [&'static str],
    texts: &'static [&'static [Row]],
    rest: Option<&'static str>,
}

/// As [`Reason`], of a source whose word is a fact about the cluster.
struct Fact {
    reason: Reason,
    /// Codes that are final when read from this reason.
    final_codes: &'static [&'static str],
}

/// Some: a row holds, with its code.
fn in_rows(rows: &[Row], lower: &str) -> Option<Option<&'static str>> {
    let holds = |row: &&Row| row.any.iter().any(|parts| parts.iter().all(|part| lower.contains(part)));
    rows.iter().find(holds).map(|row| row.code)
}

fn in_reason(reason: &Reason, lower: &str) -> Option<&'static str> {
    reason.texts.iter().find_map(|rows| in_rows(rows, lower)).unwrap_or(reason.rest)
}

fn for_reason<'a>(table: &'a [Reason], reason: &str) -> Option<&'a Reason> {
    table.iter().find(|row| row.of.iter().any(|of| matches_reason(of, reason)))
}

/// `OutOf*` stands for every reason that begins so.
fn matches_reason(of: &str, reason: &str) -> bool {
    of.strip_suffix('*').map_or(of == reason, |prefix| reason.starts_with(prefix))
}

/// Whatever the kubelet or containerd say about fetching an image.
const PULL: &[Row] = &[
    harmless(&[&["unable to retrieve some image pull secrets"]]),
    row("disk-full", &[&["no space left on device"], &["input/output error"], &["disk quota exceeded"], &["read-only file system"]]),
    row(
        "node-runtime",
        &[
            &["containerd.sock"],
            &["cri-dockerd.sock"],
            &["crio.sock"],
            &["unknown service runtime.v1"],
            &["failed to get reader from content store"],
            &["failed to mount", "tmpmounts"],
            &["failed to prepare extraction snapshot"],
            &["failed to create snapshot"],
            &["snapshotter", "was not found"],
            &["parent snapshot", "does not exist"],
        ],
    ),
    row("node-pull-qps", &[&["pull qps exceeded"]]),
    row(
        "registry-rate-limited",
        &[&["toomanyrequests"], &["too many requests"], &["pull rate limit"], &["rate exceeded"], &["rate limit exceeded"]],
    ),
    row(
        "registry-protocol",
        &[
            &["server gave http response to https client"],
            &["client sent an http request to an https server"],
            &["first record does not look like a tls handshake"],
        ],
    ),
    row("registry-unreachable", &[&["tls handshake timeout"], &["proxyconnect"], &["proxy authentication required"], &["407 "]]),
    row("registry-tls", &[&["x509:"], &["tls: "]]),
    row(
        "registry-dns",
        &[
            &["no such host"],
            &["server misbehaving"],
            &["lookup ", "i/o timeout"],
            &["lookup ", "connection refused"],
            &["lookup ", ":53:"],
            &["temporary failure in name resolution"],
            &["no answer from dns server"],
        ],
    ),
    row(
        "registry-denied-or-missing",
        &[
            &["pull access denied"],
            &["insufficient_scope"],
            &["requested access to the resource is denied"],
            &["repository does not exist or may require"],
            &["denied: "],
        ],
    ),
    row(
        "registry-auth",
        &[
            &["401 unauthorized"],
            &["authentication required"],
            &["no basic auth credentials"],
            &["403 forbidden"],
            &["unauthorized:"],
            &["incorrect username or password"],
            &["authorization failed"],
            &["failed to fetch oauth token", ": 40"],
            &["failed to fetch anonymous token", ": 40"],
            &["invalid_grant"],
            &["authorization token has expired"],
        ],
    ),
    row(
        "image-platform",
        &[
            &["no match for platform in manifest"],
            &["no matching manifest"],
            &["does not match the specified platform"],
            &["no image found in manifest list for"],
            &["no image found in image index for"],
            &["cannot be used on this platform"],
            &["exec format error"],
        ],
    ),
    row(
        "image-invalid",
        &[
            &["invalid reference format"],
            &["couldn't parse image"],
            &["could not parse reference"],
            &["failed to apply default image tag"],
            &["invalidimagename"],
            &["repository name must be"],
            &["media type", "no longer supported"],
            &["unsupported media type"],
            &["unsupported manifest"],
            &["unexpected media type"],
            &["schema 1"],
            &["mismatched image rootfs"],
            &["failed to extract layer"],
            &["failed to convert whiteout"],
            &["unexpected commit digest"],
            &["failed commit on ref"],
            &["failed size validation"],
            &["invalid tar header"],
            &["gzip: invalid"],
            &["zstd:"],
            &["signature"],
            &["unexpected end of json"],
            &["invalid character"],
        ],
    ),
    row(
        "registry-unreachable",
        &[
            &["unexpected status", ": 5"],
            &["unexpected http status", ": 5"],
            &["received unexpected http status"],
            &["http status: 5"],
            &["status code 5"],
            &["status 5"],
            &["502 bad gateway"],
            &["503 service unavailable"],
            &["504 gateway"],
            &["500 internal server error"],
            &["registryunavailable"],
        ],
    ),
    row(
        "image-not-found",
        &[
            &["manifest unknown"],
            &["name unknown"],
            &["manifest_unknown"],
            &["name_unknown"],
            &["404 not found"],
            &["tag does not exist"],
            &["manifest for", "not found"],
            &["failed to resolve", "not found"],
            &["failed to pull", "not found"],
            &["failed to copy", "not found"],
            &["code = notfound"],
            &["is not present with pull policy of never"],
        ],
    ),
    row(
        "registry-unreachable",
        &[
            &["connection refused"],
            &["connection reset"],
            &["connection timed out"],
            &["i/o timeout"],
            &["no route to host"],
            &["host is down"],
            &["network is unreachable"],
            &["broken pipe"],
            &["use of closed network connection"],
            &["unexpected eof"],
            &[": eof"],
            &["short read"],
            &["stream error"],
            &["http2:"],
            &["goaway"],
            &["deadlineexceeded"],
            &["deadline exceeded"],
            &["context canceled"],
            &["code = canceled"],
            &["request canceled"],
            &["client.timeout"],
            &["timeout awaiting"],
            &["failed to do request"],
            &["code = unavailable"],
            &["pull progress"],
        ],
    ),
];

/// What the kubelet lacks to make a container.
const CONFIG: &[Row] = &[
    harmless(&[&["services have not yet been read"], &["host ip unknown"], &["unable to retrieve some image pull secrets"]]),
    row(
        "object-invalid",
        &[
            &["runasnonroot"],
            &["run as root"],
            &["non-numeric user"],
            &["invalid environment variable"],
            &["no command specified"],
            &["subpath"],
        ],
    ),
    row(
        "config-missing",
        &[
            &["couldn't find key"],
            &["secret \"", "not found"],
            &["configmap \"", "not found"],
            &["secrets \"", "not found"],
            &["configmaps \"", "not found"],
            &["secret not found"],
            &["configmap not found"],
            &["references non-existent"],
            &["failed to sync secret cache"],
            &["failed to sync configmap cache"],
            &["secret", "is forbidden"],
            &["serviceaccount", "not found"],
        ],
    ),
];

/// What the runtime says when it makes or starts a container.
const START: &[Row] = &[
    row("disk-full", &[&["no space left on device"], &["input/output error"]]),
    row("oom-killed", &[&["oom-killed"], &["oomkilled"], &["memory limit too low"]]),
    row("image-platform", &[&["exec format error"], &["exec user process caused", "format"]]),
    row(
        "object-invalid",
        &[
            &["no command specified"],
            &["runasnonroot"],
            &["seccomp", "no such file"],
            &["apparmor"],
            &["failed to generate", "spec"],
            &["are you trying to mount a directory onto a file"],
            &["unable to find user"],
            &["unable to find group"],
            &["no users found"],
            &["is not a valid"],
        ],
    ),
    row(
        "node-runtime",
        &[
            &["failed to reserve container name"],
            &["is reserved for"],
            &["deadline exceeded"],
            &["deadlineexceeded"],
            &["containerd.sock"],
            &["ttrpc: closed"],
            &["failed to start shim"],
            &["shim", "exited"],
            &["cgroup"],
            &["too many open files"],
            &["cannot allocate memory"],
            &["resource temporarily unavailable"],
            &["runtime handler"],
            &["cdi"],
            &["nvidia"],
            &["failed to create containerd container"],
            &["sandbox", "not found"],
            &["container is not created or running"],
        ],
    ),
];

/// Volumes, as the kubelet and the controllers speak of them.
const VOLUME: &[Row] = &[
    row("disk-full", &[&["no space left on device"], &["input/output error"]]),
    row(
        "config-missing",
        &[
            &["secret \"", "not found"],
            &["configmap \"", "not found"],
            &["secrets \"", "not found"],
            &["configmaps \"", "not found"],
            &["references non-existent"],
            &["serviceaccount", "not found"],
            &["secretproviderclass", "not found"],
        ],
    ),
];

/// The pod's sandbox: its network, its pause image, its cgroup.
const SANDBOX: &[Row] = &[
    row("disk-full", &[&["no space left on device"], &["disk quota exceeded"]]),
    row(
        "pod-network",
        &[
            &["setup network for sandbox"],
            &["set up sandbox container", "network"],
            &["set up pod", "network"],
            &["cni"],
            &["network plugin"],
            &["networkplugin"],
            &["network namespace"],
            &["flannel"],
            &["no ip addresses available"],
            &["failed to allocate for range"],
            &["network is not ready"],
        ],
    ),
];

/// What the kubelet tells of pods in events. None of these ends a run by itself.
const KUBELET: &[Reason] = &[
    Reason { of: &["Unhealthy", "ProbeWarning", "ProbeError"], texts: &[], rest: Some("probe-failing") },
    // `Failed` is said of pulling an image, and of making and starting a container.
    Reason { of: &["Failed"], texts: &[CREATE_EVENT, CONFIG, PULL, START], rest: None },
    Reason { of: &["InspectFailed"], texts: &[PULL], rest: Some("image-invalid") },
    Reason { of: &["ErrImageNeverPull"], texts: &[], rest: Some("image-not-found") },
    Reason { of: &["BackOff"], texts: &[BACK_OFF, PULL], rest: None },
    Reason { of: &["FailedMount"], texts: &[VOLUME], rest: Some("volume-pending") },
    Reason {
        of: &[
            "FailedAttachVolume",
            "FailedMapVolume",
            "FailedMountOnFilesystemMismatch",
            "FailedUnMount",
            "VolumeResizeFailed",
            "FileSystemResizeFailed",
        ],
        texts: &[],
        rest: Some("volume-pending"),
    },
    Reason {
        of: &["FailedCreatePodSandBox", "FailedPodSandBoxStatus", "FailedCreatePodContainer"],
        texts: &[SANDBOX, SANDBOX_IMAGE],
        rest: Some("node-runtime"),
    },
    Reason { of: &["NetworkNotReady"], texts: &[], rest: Some("pod-network") },
    Reason { of: &["FailedPostStartHook"], texts: &[], rest: Some("crash-loop") },
    Reason { of: &["Evicted", "EvictionThresholdMet"], texts: &[EVICTED], rest: Some("unschedulable") },
    Reason { of: &["FreeDiskSpaceFailed", "ImageGCFailed", "NodeHasDiskPressure"], texts: &[], rest: Some("disk-full") },
    Reason { of: &["SystemOOM", "OOMKilling"], texts: &[], rest: Some("oom-killed") },
    Reason {
        of: &["OutOf*", "NodeAffinity", "NodePorts", "NodeResources", "UnexpectedAdmissionError", "Preempting", "Preempted"],
        texts: &[],
        rest: Some("unschedulable"),
    },
    Reason {
        of: &["FailedPrepareDynamicResources", "HostPortConflict", "UnsupportedPodOS", "InvalidNodeInfo"],
        texts: &[],
        rest: Some("unschedulable"),
    },
    Reason { of: &["SysctlForbidden", "SupplementalGroupsPolicyNotSupported"], texts: &[], rest: Some("pod-security") },
    Reason { of: &["AppArmor", "HostNetworkNotSupported", "FailedValidation"], texts: &[], rest: Some("object-invalid") },
    Reason {
        of: &[
            "NodeNotReady",
            "KubeletSetupFailed",
            "ContainerGCFailed",
            "FailedNodeAllocatableEnforcement",
            "NodeShutdown",
            "Shutdown",
            "Terminated",
            "NodeLost",
            "FailedMakePodDataDirectories",
            "FailedToMakePodDataDirectories",
        ],
        texts: &[],
        rest: Some("node-runtime"),
    },
    // Known, and no obstacle: FailedPreStopHook, FailedSync, FailedKillPod, Killing,
    // FailedToRetrieveImagePullSecret, DNSConfigForming, MissingClusterDNS,
    // InvalidDiskCapacity, ExceededGracePeriod, Rebooted, PossibleMemoryBackedVolumesOnDisk …
];

/// `Error: ErrImagePull` and its like say nothing that did not come before.
const CREATE_EVENT: &[Row] = &[row("image-not-found", &[&["errimageneverpull"], &["pull policy of never"]])];

const BACK_OFF: &[Row] = &[row("crash-loop", &[&["restarting failed container"]])];

/// The pause image is pulled as any other is.
const SANDBOX_IMAGE: &[Row] = &[
    row("registry-dns", &[&["sandbox image", "no such host"], &["sandbox image", "lookup "]]),
    row("registry-rate-limited", &[&["sandbox image", "too many requests"]]),
    row("image-not-found", &[&["sandbox image", "not found"]]),
    row("registry-unreachable", &[&["sandbox image", "failed to pull"], &["sandbox image", "dial tcp"]]),
];

const EVICTED: &[Row] = &[row(
    "disk-full",
    &[
        &["ephemeral-storage"],
        &["ephemeral storage"],
        &["local storage"],
        &["emptydir"],
        &["inodes"],
        &["diskpressure"],
        &["imagefs"],
        &["nodefs"],
    ],
)];

const SCHEDULER: &[Reason] = &[
    Reason { of: &["FailedScheduling", "Unschedulable"], texts: &[SCHEDULING], rest: Some("unschedulable") },
    Reason { of: &["Preempted"], texts: &[], rest: Some("unschedulable") },
];

const SCHEDULING: &[Row] = &[
    harmless(&[&["skip schedule deleting pod"], &["object has been modified"]]),
    row("disk-full", &[&["disk-pressure"]]),
    row(
        "volume-pending",
        &[
            &["unbound immediate persistentvolumeclaims"],
            &["persistentvolumeclaim \""],
            &["volume node affinity conflict"],
            &["persistent volumes to bind"],
            &["volumebinding"],
            &["binding volumes"],
            &["max volume count"],
            &["non-existent persistentvolume"],
            &["storageclass"],
        ],
    ),
];

/// What controllers tell of what they cannot make: mostly an answer of the API, which
/// they ask again until it is another one.
const CONTROLLER: &[Reason] = &[
    Reason {
        of: &["FailedCreate", "ReplicaSetCreateError", "FailedDaemonPod", "FailedUpdate", "ReplicaFailure", "RolloutFailed"],
        texts: &[API_ANSWERS],
        rest: None,
    },
    Reason { of: &["ProvisioningFailed", "FailedBinding", "FailedAttachVolume", "VolumeMismatch", "ClaimLost"], texts: &[VOLUME], rest: Some("volume-pending") },
    Reason { of: &["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy", "FailedIndexes", "MaxFailedIndexesExceeded"], texts: &[], rest: Some("hook-failed") },
    Reason { of: &["FailedPlacement"], texts: &[], rest: Some("unschedulable") },
    Reason { of: &["NodeNotReady"], texts: &[], rest: Some("node-runtime") },
];

/// The text of a Status of the API server, wherever it is quoted.
const API_ANSWERS: &[Row] = &[
    row(
        "release-too-large",
        &[
            &["sh.helm.release", "too long: "],
            &["request is too large"],
            &["request entity too large"],
            &["trying to send message larger than max"],
            &["trying to send message larger"],
        ],
    ),
    row("disk-full", &[&["database space exceeded"], &["etcdserver: no space"]]),
    row("webhook-denied", &[&["admission webhook", "denied the request"], &["validatingadmissionpolicy", "denied request"]]),
    row(
        "webhook-unavailable",
        &[&["failed calling webhook"], &["failed to call webhook"], &["conversion webhook for"], &["webhook", "does not support dry run"]],
    ),
    row(
        "field-conflict",
        &[&["apply failed with", "conflict"], &["conflicts with \""], &["conflict with \"", " using "]],
    ),
    row(
        "pod-security",
        &[
            &["violates podsecurity"],
            &["unable to validate against any security context constraint"],
            &["unable to validate against any pod security policy"],
            &["podsecuritypolicy:"],
            &["forbidden sysctl"],
        ],
    ),
    row("namespace-terminating", &[&["because it is being terminated"], &["namespace is being terminated"]]),
    row(
        "quota-exceeded",
        &[
            &["exceeded quota:"],
            &["failed quota:"],
            &["insufficient quota"],
            &["status unknown for quota"],
            &["usage per container is"],
            &["usage per pod is"],
            &["usage per persistentvolumeclaim is"],
            &["limit to request ratio per"],
        ],
    ),
    row("namespace-missing", &[&["namespaces \"", "not found"]]),
    row(
        "config-missing",
        &[
            &["error looking up service account"],
            &["no priorityclass with name"],
            &["runtimeclass", "not found"],
            &["serviceaccount \"", "not found"],
        ],
    ),
    row(
        "forbidden",
        &[
            &["is forbidden: user \""],
            &["cannot get resource"],
            &["cannot list resource"],
            &["cannot watch resource"],
            &["cannot create resource"],
            &["cannot update resource"],
            &["cannot patch resource"],
            &["cannot delete resource"],
            &["cannot get path"],
            &["attempting to grant rbac permissions"],
            &["must be logged in to the server"],
            &["asked for the client to provide credentials"],
            &["error: unauthorized"],
            &["failed: unauthorized"],
            &["unable to create", "unauthorized"],
            &["cannot set blockownerdeletion"],
        ],
    ),
    row(
        "immutable-field",
        &[
            &["field is immutable"],
            &["is immutable after"],
            &["updates to statefulset spec for fields other than"],
            &["updates to daemonset spec for fields other than"],
            &["pod updates may not change fields other than"],
            &["may not change once set"],
            &["cannot change roleref"],
            &["updates to provisioner are forbidden"],
            &["updates to parameters are forbidden"],
            &["updates to reclaimpolicy are forbidden"],
            &["updates to volumebindingmode"],
            &["field can not be less than"],
            &["field can not be decremented"],
            &["may not be changed"],
            &["cannot be changed"],
            &["can not be changed"],
            &["primary clusterip can not be unset"],
            &["is immutable"],
        ],
    ),
    row(
        "crd-missing",
        &[
            &["no matches for kind"],
            &["ensure crds are installed first"],
            &["resource mapping not found"],
            &["could not find the requested resource"],
            &["doesn't have a resource type"],
        ],
    ),
    row(
        "object-invalid",
        &[
            &["is invalid:"],
            &["unknown field"],
            &["cannot be handled as a"],
            &["cannot unmarshal"],
            &["strict decoding error"],
            &["unable to decode"],
            &["error validating"],
            &["validationerror("],
            &["unknown object type"],
            &["failed to create typed"],
            &["field not declared in schema"],
            &["duplicate entries for key"],
            &["error in our request"],
            &["does not match the namespace of the request"],
            &["does not match the expected"],
            &["object 'kind' is missing"],
            &["object 'apiversion' is missing"],
            &["invalid value"],
            &["must be specified"],
            &["resource name may not be empty"],
            &["unknown conversion"],
            &["illegal base64"],
            &["rejected our request"],
        ],
    ),
    row(
        "api-unreachable",
        &[
            &["etcdserver:"],
            &["currently unable to handle the request"],
            &["unable to return a response in the time allotted"],
            &["request did not complete within"],
            &["received too many requests"],
            &["too many requests"],
            &["apiserver is shutting down"],
            &["apiserver not ready"],
            &["storage is (re)initializing"],
            &["error on the server"],
            &["the server is not yet ready"],
            &["kine: "],
            &["database is locked"],
        ],
    ),
];

/// Codes that are the API server's own refusal of what the tree says: asked again, it
/// says the same.
const REFUSALS: &[&str] = &[
    "release-too-large",
    "webhook-denied",
    "field-conflict",
    "pod-security",
    "namespace-terminating",
    "quota-exceeded",
    "namespace-missing",
    "config-missing",
    "forbidden",
    "immutable-field",
    "crd-missing",
    "object-invalid",
];

/// Helm's own words, the API's quoted in them apart. Above [`API_ANSWERS`].
const HELM_FIRST: &[Row] = &[
    row("release-pending", &[&["another operation (install/upgrade/rollback) is in progress"], &["has no deployed releases"], &["\"sh.helm.release", "already exists"]]),
    row(
        "name-in-use",
        &[
            &["cannot reuse a name that is still in use"],
            &["cannot re-use a name that is still in use"],
            &["invalid ownership metadata"],
            &["cannot be imported into the current release"],
            &["release: already exists"],
            &["resource that already exists"],
        ],
    ),
    row(
        "render-failed",
        &[
            &["yaml parse error on"],
            &["execution error at ("],
            &["parse error at ("],
            &["error calling include"],
            &["error calling tpl"],
            &["error calling fail"],
            &["error calling required"],
            &["nil pointer evaluating"],
            &["values don't meet the specifications"],
            &["template: ", "/templates/"],
            &["template: ", ".tpl:"],
            &["template: ", ".gotmpl"],
            &["failed parsing --set"],
            &["failed to parse ", "values"],
            &["error converting yaml to json"],
            &["chart requires kubeversion"],
            &["validation: chart.metadata"],
            &["release name \"", "invalid"],
            &["invalid release name"],
            &["cannot load values"],
            &["error unmarshaling json"],
            &["mapping values are not allowed"],
            &["manifest", "is not valid yaml"],
        ],
    ),
    row(
        "chart-missing",
        &[
            &["chart.yaml file is missing"],
            &["missing in charts/ directory"],
            &["path \"", "not found"],
            &["no such file or directory", "chart"],
            &["chart \"", "not found"],
            &["chart not found"],
            &["failed to download \""],
            &["repo ", "not found"],
            &["not a chart archive"],
            &["chart.yaml", "no such file"],
            &["could not find", "chart"],
            &["could not load", "chart"],
            &["chart metadata is missing"],
            &["out of sync", "chart.lock"],
        ],
    ),
];

/// Helm and the network between it and the API. Below [`API_ANSWERS`].
const HELM_LAST: &[Row] = &[
    row(
        "forbidden",
        &[&["getting credentials: exec"], &["unauthorized"], &["no auth provider found"]],
    ),
    row("api-certificate", &[&["x509:"], &["remote error: tls:"], &["tls: failed to verify"], &["tls: private key"]]),
    row(
        "api-unreachable",
        &[
            &["kubernetes cluster unreachable"],
            &["client rate limiter wait returned an error"],
            &["the connection to the server"],
            &["unable to connect to the server"],
            &["http2: client connection lost"],
            &["http2: server sent goaway"],
            &["get \"https://"],
            &["post \"https://"],
            &["put \"https://"],
            &["patch \"https://"],
            &["delete \"https://"],
            &["dial tcp"],
            &["unexpected eof"],
            &["connection reset by peer"],
            &["tls handshake timeout"],
            &["could not get apiversions"],
            &["couldn't get current server api group list"],
            &["unable to retrieve the complete list of server apis"],
            &["connect: connection refused"],
        ],
    ),
    row("usage", &[&["release: not found"], &["release not loaded"], &["unknown flag"], &["unknown command"], &["context \"", "does not exist"]]),
    // What Helm waited for and saw fail: it names the object, the cluster the cause.
    row(
        "hook-failed",
        &[
            &["backofflimitexceeded"],
            &["deadlineexceeded", "job"],
            &["job failed"],
            &["job ", " failed"],
            &["pod ", " failed"],
            &["hooks failed"],
            &["failed pre-"],
            &["failed post-"],
        ],
    ),
];

/// Symptoms of pods: what stands in the cluster goes before it, whatever it is.
const SYMPTOMS: &[&str] = &["hook-failed"];

const HELMFILE: &[Row] = &[
    // Its frame around a command that failed, which said itself what is wrong.
    harmless(&[&["exited with non-zero status"], &["command \"", "exited"]]),
    row(
        "usage",
        &[
            &["no releases found that matches"],
            &["specified state file"],
            &["no state file found"],
            &["unknown flag"],
            &["malformed label"],
        ],
    ),
    row(
        "chart-missing",
        &[
            &["chart.yaml", "missing"],
            &["chart.yaml", "no such file"],
            &["charts/", "no such file"],
            &["chart", "does not exist"],
            &["charts", "not found"],
            &["directory", "not found"],
        ],
    ),
    row(
        "render-failed",
        &[
            &["undefined release"],
            &["depends on"],
            &["depend(s) on"],
            &["dependency cycle"],
            &["cycle"],
            &["duplicate release"],
            &["parsing: template"],
            &["template: "],
            &["yaml:"],
            &["unmarshal"],
            &["failed executing template"],
            &["failed to render"],
            &["failed to read"],
            &["failed to load"],
            &["error during"],
            &["is not defined"],
            &["does not exist"],
            &["no such file or directory"],
            &["does not match any"],
            &["unable to parse"],
            &["required env var"],
            &["env var"],
            &["values file"],
            &["unknown field"],
            &["mapping key"],
            &["invalid"],
        ],
    ),
];

/// The last words of a container that crashed. Most rows are about what may come up.
const LOG: &[Row] = &[
    harmless(&[&["terminating connection due to administrator command"]]),
    row("image-platform", &[&["exec format error"]]),
    row("disk-full", &[&["no space left on device"], &["enospc"], &["disk full"]]),
    row("oom-killed", &[&["java.lang.outofmemoryerror"], &["heap out of memory"]]),
    row("layer-missing", &[&["schema version", "mismatch"], &["schema version compatibility check failed"], &["relation \"", "does not exist"], &["could not get clustersecretstore"], &["no such table"], &["unknown database"], &["database \"", "does not exist"]]),
    row(
        "config-missing",
        &[
            &["password authentication failed"],
            &["access denied for user"],
            &["noauth authentication required"],
            &["wrongpass"],
            &["invalid username-password pair"],
            &["sasl authentication failed"],
            &["authentication failed", "password"],
            &["no pg_hba.conf entry"],
            &["role \"", "does not exist"],
            &["login failed for user"],
            &["no password supplied"],
            &["flyway_url not set"],
            &["couldn't find key"],
            &["required environment variable"],
            &["missing required env"],
            &["environment variable", "not set"],
            &["environment variable", "required"],
            &["environment variable", "missing"],
            &["unbound variable"],
            &["parameter not set"],
            &["parameter null or not set"],
            &["the access key id you provided does not exist"],
            &["signaturedoesnotmatch"],
        ],
    ),
    row(
        "dependency-unreachable",
        &[
            &["connection refused"],
            &["connection reset by peer"],
            &["connection timed out"],
            &["econnrefused"],
            &["econnreset"],
            &["enotfound"],
            &["eai_again"],
            &["etimedout"],
            &["ehostunreach"],
            &["no such host"],
            &["unknownhostexception"],
            &["connectexception"],
            &["communications link failure"],
            &["i/o timeout"],
            &["could not connect to server"],
            &["could not translate host name"],
            &["could not resolve host"],
            &["can't connect to"],
            &["cannot connect to"],
            &["name or service not known"],
            &["temporary failure in name resolution"],
            &["nodename nor servname"],
            &["no route to host"],
            &["network is unreachable"],
            &["the database system is"],
            &["too many clients already"],
            &["remaining connection slots are reserved"],
            &["mongoserverselectionerror"],
            &["mongonetworkerror"],
            &["broker may not be available"],
            &["no brokers available"],
            &["all brokers are down"],
            &["failed to connect to"],
            &["unable to connect to"],
            &["connect timeout"],
            &["connection to server", "failed"],
            &["is the server running on"],
            &["503 service unavailable"],
            &["serverselectiontimeout"],
            &["no healthy upstream"],
        ],
    ),
];

/// A container's state of waiting, or of how it ended.
const STATES: &[Fact] = &[
    Fact {
        reason: Reason { of: &["ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"], texts: &[PULL], rest: None },
        final_codes: &["image-not-found", "image-platform", "registry-protocol"],
    },
    Fact {
        reason: Reason { of: &["InvalidImageName"], texts: &[], rest: Some("image-invalid") },
        final_codes: &["image-invalid"],
    },
    Fact {
        reason: Reason { of: &["ErrImageNeverPull"], texts: &[], rest: Some("image-not-found") },
        final_codes: &["image-not-found"],
    },
    Fact {
        reason: Reason { of: &["ImageInspectError", "SignatureValidationFailed"], texts: &[INSPECT], rest: Some("image-invalid") },
        final_codes: &[],
    },
    Fact {
        reason: Reason { of: &["CreateContainerConfigError", "VerifyNonRootError"], texts: &[CONFIG], rest: Some("config-missing") },
        final_codes: &["object-invalid"],
    },
    Fact {
        reason: Reason { of: &["CreateContainerError", "PreCreateHookError"], texts: &[CONFIG, START], rest: Some("node-runtime") },
        final_codes: &[],
    },
    Fact {
        reason: Reason {
            of: &["RunContainerError", "StartError", "ContainerCannotRun", "RunInitContainerError", "PreStartHookError"],
            texts: &[START],
            rest: Some("crash-loop"),
        },
        final_codes: &["image-platform"],
    },
    Fact {
        reason: Reason { of: &["PostStartHookError", "CrashLoopBackOff"], texts: &[], rest: Some("crash-loop") },
        final_codes: &[],
    },
    Fact { reason: Reason { of: &["OOMKilled"], texts: &[], rest: Some("oom-killed") }, final_codes: &[] },
    Fact {
        reason: Reason {
            of: &["CreatePodSandboxError", "ConfigPodSandboxError"],
            texts: &[SANDBOX],
            rest: Some("node-runtime"),
        },
        final_codes: &[],
    },
    Fact {
        reason: Reason { of: &["ContainerStatusUnknown"], texts: &[], rest: Some("node-runtime") },
        final_codes: &[],
    },
    Fact {
        reason: Reason { of: &["ErrPrepareDynamicResources"], texts: &[], rest: Some("unschedulable") },
        final_codes: &[],
    },
    // Of a pod's status, and of its condition PodScheduled.
    Fact {
        reason: Reason { of: &["Unschedulable"], texts: &[SCHEDULING], rest: Some("unschedulable") },
        final_codes: &[],
    },
];

const INSPECT: &[Row] = &[
    row("image-invalid", &[&["couldn't parse image"], &["invalid reference format"]]),
    row("node-runtime", &[&["containerd.sock"], &["deadline exceeded"], &["deadlineexceeded"]]),
];

/// A container's waiting state or how it ended: a fact, which may be final.
pub fn state(reason: &str, message: &str) -> Option<Verdict> {
    let fact = STATES.iter().find(|fact| fact.reason.of.iter().any(|of| matches_reason(of, reason)));
    let Some(fact) = fact else {
        // A pod's own reason (`Evicted`, `OutOfcpu`) is written as the kubelet's event is.
        let of_pod = ["Evicted", "NodeAffinity", "UnexpectedAdmissionError", "NodeLost", "SysctlForbidden", "AppArmor"];
        let known = of_pod.contains(&reason) || reason.starts_with("OutOf");
        return if known { event(None, reason, message) } else { None };
    };
    let code = in_reason(&fact.reason, &message.to_lowercase())?;
    if fact.final_codes.contains(&code) { Verdict::cannot_heal(code) } else { Verdict::may_heal(code) }
}

/// Who told an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Teller {
    Kubelet,
    Scheduler,
    Controller,
    /// An operator, say: its reasons are its own.
    Other,
}

fn teller(component: Option<&str>, reason: &str) -> Teller {
    let of_scheduler = for_reason(SCHEDULER, reason).is_some();
    let of_controller = for_reason(CONTROLLER, reason).is_some();
    let of_kubelet = for_reason(KUBELET, reason).is_some();
    match component.unwrap_or_default() {
        "kubelet" => Teller::Kubelet,
        "" if of_scheduler && !of_kubelet => Teller::Scheduler,
        "" if of_controller && !of_kubelet => Teller::Controller,
        "" => Teller::Kubelet,
        name if of_scheduler && name.ends_with("scheduler") => Teller::Scheduler,
        name if name.ends_with("controller") || name.ends_with("-manager") => Teller::Controller,
        // Schedulers and provisioners have any name, and these reasons one meaning.
        _ if matches!(reason, "FailedScheduling") => Teller::Scheduler,
        _ if matches!(reason, "ProvisioningFailed" | "FailedAttachVolume") => Teller::Controller,
        _ => Teller::Other,
    }
}

/// A Warning event: told when it comes, and never the end of a run by itself.
pub fn event(component: Option<&str>, reason: &str, message: &str) -> Option<Verdict> {
    let table = match teller(component, reason) {
        Teller::Kubelet => KUBELET,
        Teller::Scheduler => SCHEDULER,
        Teller::Controller => CONTROLLER,
        Teller::Other => return None,
    };
    Verdict::may_heal(in_reason(for_reason(table, reason)?, &message.to_lowercase())?)
}

/// A line of Helm's error: an answer of the API in it, or Helm's own words.
pub fn helm(message: &str) -> Option<Verdict> {
    let lower = message.to_lowercase();
    if said::is_warning(message) {
        return None;
    }
    if is_timeout(message) && !lower.contains("webhook") && !lower.contains("client rate limiter") {
        return hook_of_timeout(&lower);
    }
    if let Some(code) = in_rows(HELM_FIRST, &lower) {
        return Verdict::may_heal(code?);
    }
    if let Some(code) = in_rows(API_ANSWERS, &lower) {
        let code = code?;
        return if REFUSALS.contains(&code) { Verdict::cannot_heal(code) } else { Verdict::may_heal(code) };
    }
    Verdict::may_heal(in_rows(HELM_LAST, &lower)??)
}

/// That a hook's Job failed is said beside the deadline as well.
fn hook_of_timeout(lower: &str) -> Option<Verdict> {
    if lower.contains("backofflimitexceeded") { Verdict::may_heal("hook-failed") } else { None }
}

/// Whether it is the API server's own refusal, before which nothing goes.
pub fn is_refusal(verdict: &Verdict) -> bool {
    verdict.ends == Ends::AtOnce && REFUSALS.contains(&verdict.rule.code)
}

/// Whether Helm only says that something it waited for failed.
pub fn is_symptom(verdict: &Verdict) -> bool {
    SYMPTOMS.contains(&verdict.rule.code)
}

/// What Helmfile says of itself and of the tree.
pub fn helmfile(message: &str) -> Option<Verdict> {
    if said::is_warning(message) || is_timeout(message) {
        return None;
    }
    Verdict::may_heal(in_rows(HELMFILE, &message.to_lowercase())??)
}

/// A line of a crashing container's log.
pub fn log(line: &str) -> Option<Verdict> {
    let lower = line.to_lowercase();
    if let Some(code) = in_rows(LOG, &lower) {
        return Verdict::may_heal(code?);
    }
    names_unset_variable(line).then(|| Verdict::may_heal("config-missing"))?
}

/// `FLYWAY_URL not set`, `DATABASE_URL is required`: shells and programs alike.
fn names_unset_variable(line: &str) -> bool {
    let words: Vec<&str> = line.split(|c: char| c.is_whitespace() || "\"'`:$,{}".contains(c)).filter(|w| !w.is_empty()).collect();
    let is_name = |word: &str| {
        word.contains('_') && word.len() > 3 && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    words.iter().enumerate().any(|(at, word)| {
        let after = words[at + 1..].iter().take(4).map(|word| word.to_lowercase()).collect::<Vec<_>>().join(" ");
        let says = ["not set", "is not set", "is unset", "must be set", "is required", "not defined", "is missing", "not provided", "cannot be empty", "must not be empty", "is empty"];
        is_name(word) && says.iter().any(|says| after.starts_with(says))
    })
}

/// Symptoms: they say that something took too long, and not what.
pub fn is_timeout(message: &str) -> bool {
    let lower = message.to_lowercase();
    lower.contains("context deadline exceeded") && !lower.contains("client rate limiter")
        || lower.contains("timed out waiting for the condition")
        || lower.contains("resource not ready")
        || lower.contains(" not ready. status:")
}
