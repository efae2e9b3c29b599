//! Which message means which blocker: by its source first, then by its reason, then by its text.
//! Each source has its own table, and a text is never looked up in another source's table: the
//! output of a probe, or a container's log, can contain any words.
//!
//! The texts are those of the kubelet (`pkg/kubelet/events/event.go`, `images/types.go`,
//! `container/sync_result.go`), containerd, the scheduler and the controllers, the API server, Helm
//! 3 and 4 and Helmfile. `tests/messages.tsv` has real examples with their origin, and the tests
//! check each row.
//!
//! The types ensure that only a state or an answer of the API ends a run at once: [`Reason`], used
//! for all other sources, cannot express it.

use super::rules::{self, Ends, Rule};
use run_record::Code;

/// The meaning of one message.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    pub rule: &'static Rule,
    pub ends: Ends,
}

impl Verdict {
    fn may_heal(code: Code) -> Option<Self> {
        let rule = rules::of(code)?;
        Some(Self { rule, ends: rule.lasts.into() })
    }

    fn cannot_heal(code: Code) -> Option<Self> {
        Some(Self { rule: rules::of(code)?, ends: Ends::AtOnce })
    }
}

/// Parts, in lower case, that must all occur in the text.
type Parts = &'static [&'static str];

/// A text with one of these is that blocker; without a code, it is known to be harmless.
struct Row {
    code: Option<Code>,
    any: &'static [Parts],
}

const fn row(code: Code, any: &'static [Parts]) -> Row {
    Row { code: Some(code), any }
}

const fn harmless(any: &'static [Parts]) -> Row {
    Row { code: None, any }
}

/// The rows for these reasons of a source: the first match, else `rest`.
struct Reason {
    of: &'static [&'static str],
    texts: &'static [&'static [Row]],
    rest: Option<Code>,
}

/// Like [`Reason`], for a source whose messages are facts about the cluster.
struct Fact {
    reason: Reason,
    /// What is final if it has this reason: a code, with the texts for which it is (if there are
    /// none, all).
    finals: &'static [(Code, &'static [Parts])],
}

/// `Some` if a row matches, with its code.
fn in_rows(rows: &[Row], lower: &str) -> Option<Option<Code>> {
    let holds = |row: &&Row| row.any.iter().any(|parts| parts.iter().all(|part| lower.contains(part)));
    rows.iter().find(holds).map(|row| row.code)
}

fn in_reason(reason: &Reason, lower: &str) -> Option<Code> {
    reason.texts.iter().find_map(|rows| in_rows(rows, lower)).unwrap_or(reason.rest)
}

fn for_reason<'a>(table: &'a [Reason], reason: &str) -> Option<&'a Reason> {
    table.iter().find(|row| row.of.iter().any(|of| matches_reason(of, reason)))
}

/// `OutOf*` matches every reason with that prefix.
fn matches_reason(of: &str, reason: &str) -> bool {
    of.strip_suffix('*').map_or(of == reason, |prefix| reason.starts_with(prefix))
}

/// Anything that the kubelet or containerd says about pulling an image.
const PULL: &[Row] = &[
    harmless(&[&["unable to retrieve some image pull secrets"]]),
    row(
        Code::DiskFull,
        &[&["no space left on device"], &["input/output error"], &["disk quota exceeded"], &["read-only file system"]],
    ),
    row(
        Code::NodeRuntime,
        &[
            &["containerd.sock"],
            &["cri-dockerd.sock"],
            &["crio.sock"],
            &["code = unavailable"],
            &["unknown service runtime.v1"],
            &["failed to mount", "tmpmounts"],
            &["failed to prepare extraction snapshot"],
            &["failed to create snapshot"],
            &["snapshotter", "was not found"],
            &["parent snapshot", "does not exist"],
        ],
    ),
    // What an earlier pull left is broken, or unpacking was interrupted.
    row(
        Code::ImageInvalid,
        &[&["content digest", "not found"], &["failed to get reader from content store"], &["unexpected media type"]],
    ),
    row(Code::RegistryUnreachable, &[&["failed to extract layer", "eof"], &["failed to extract layer", "connection"]]),
    row(Code::NodePullQps, &[&["pull qps exceeded"]]),
    row(
        Code::RegistryRateLimited,
        &[
            &["toomanyrequests"],
            &["too many requests"],
            &["pull rate limit"],
            &["rate exceeded"],
            &["rate limit exceeded"],
            // Not the number alone: sizes and digests have it too.
            &["status 429"],
            &["status code 429"],
            &["status", ": 429"],
        ],
    ),
    row(
        Code::RegistryProtocol,
        &[
            &["server gave http response to https client"],
            &["client sent an http request to an https server"],
            &["first record does not look like a tls handshake"],
        ],
    ),
    row(
        Code::RegistryUnreachable,
        &[&["tls handshake timeout"], &["proxyconnect"], &["proxy authentication required"], &["407 "]],
    ),
    row(Code::RegistryTls, &[&["x509:"], &["tls: "]]),
    row(
        Code::RegistryDns,
        &[
            &["no such host"],
            &["server misbehaving"],
            &["lookup ", "i/o timeout"],
            &["lookup ", "connection refused"],
            &["lookup ", ":53:"],
            &["lookup ", "try again"],
            &["lookup ", "no answer"],
            &["temporary failure in name resolution"],
            &["no answer from dns server"],
        ],
    ),
    row(Code::RegistryAuth, &[&["no basic auth credentials"]]),
    row(
        Code::RegistryDeniedOrMissing,
        &[
            &["pull access denied"],
            &["insufficient_scope"],
            &["requested access to the resource is denied"],
            &["repository does not exist or may require"],
            &[": denied: "],
            &["denied: permission"],
            &["denied: requested"],
        ],
    ),
    row(
        Code::RegistryAuth,
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
        Code::ImagePlatform,
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
        Code::ImageInvalid,
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
            // Not the word alone: a CDN's signed URLs and names of images have it too.
            &["signature validation failed"],
            &["source image rejected"],
            &["image verifier", "blocked pull"],
            &["unexpected end of json"],
            &["invalid character"],
        ],
    ),
    row(
        Code::RegistryUnreachable,
        &[
            &["unexpected status", ": 5"],
            &["unexpected status", ": 400"],
            &["unexpected status", ": 408"],
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
        Code::ImageNotFound,
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
        Code::RegistryUnreachable,
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
            &["pull progress"],
        ],
    ),
];

/// What the kubelet lacks to create a container.
const CONFIG: &[Row] = &[
    harmless(&[
        &["services have not yet been read"],
        &["host ip unknown"],
        &["failed to sync secret cache"],
        &["failed to sync configmap cache"],
        &["cannot find volume"],
    ]),
    row(Code::VolumePending, &[&["subpath"]]),
    row(
        Code::ObjectInvalid,
        &[
            &["runasnonroot"],
            &["run as root"],
            &["non-numeric user"],
            &["invalid environment variable"],
            &["no command specified"],
        ],
    ),
    row(
        Code::ConfigMissing,
        &[
            &["couldn't find key"],
            &["secret \"", "not found"],
            &["configmap \"", "not found"],
            &["secrets \"", "not found"],
            &["configmaps \"", "not found"],
            &["secret not found"],
            &["configmap not found"],
            &["references non-existent"],
            &["secret", "is forbidden"],
            &["serviceaccount", "not found"],
        ],
    ),
];

/// The runtime's messages when it creates or starts a container.
const START: &[Row] = &[
    row(Code::DiskFull, &[&["no space left on device"], &["input/output error"]]),
    row(Code::NodeRuntime, &[&["shared or slave mount"], &["not a shared mount"]]),
    row(Code::OomKilled, &[&["oom-killed"], &["oomkilled"], &["memory limit too low"]]),
    row(Code::ImagePlatform, &[&["exec format error"], &["exec user process caused", "format"]]),
    row(
        Code::ObjectInvalid,
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
        Code::NodeRuntime,
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

/// Volumes, in messages of the kubelet and the controllers.
const VOLUME: &[Row] = &[
    row(Code::DiskFull, &[&["no space left on device"], &["input/output error"]]),
    // The kubelet has not seen them yet; it retries within seconds.
    harmless(&[&["not registered"], &["failed to sync configmap cache"], &["failed to sync secret cache"]]),
    row(Code::VolumePending, &[&["failed to fetch token"]]),
    row(
        Code::ConfigMissing,
        &[
            &["secret \"", "not found"],
            &["configmap \"", "not found"],
            &["secrets \"", "not found"],
            &["configmaps \"", "not found"],
            &["references non-existent"],
            &["secretproviderclass", "not found"],
        ],
    ),
];

/// The pod's sandbox: its network, its pause image, its cgroup.
const SANDBOX: &[Row] = &[
    row(Code::DiskFull, &[&["no space left on device"], &["disk quota exceeded"]]),
    row(
        Code::PodNetwork,
        &[
            &["setup network for sandbox"],
            &["set up sandbox container", "network"],
            &["set up pod", "network"],
            &["destroy network for sandbox"],
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

/// What the kubelet reports about pods in events. None of these ends a run by itself.
const KUBELET: &[Reason] = &[
    Reason { of: &["Unhealthy", "ProbeError", "ProbeWarning"], texts: &[], rest: Some(Code::ProbeFailing) },
    Reason { of: &["Killing"], texts: &[KILLING], rest: None },
    // `Failed` is used for pulling an image, and for creating and starting a container: two tables,
    // distinguished by the start of the kubelet's message ([`sentence`]).
    Reason { of: &[PULL_FAILED], texts: &[PULL], rest: None },
    Reason { of: &[MAKE_FAILED], texts: &[MAKE, CONFIG, START, STARTED], rest: None },
    Reason { of: &["InspectFailed"], texts: &[PULL], rest: Some(Code::ImageInvalid) },
    Reason { of: &["ErrImageNeverPull"], texts: &[], rest: Some(Code::ImageNotFound) },
    Reason { of: &["BackOff"], texts: &[BACK_OFF, PULL], rest: None },
    Reason { of: &["FailedMount"], texts: &[VOLUME], rest: Some(Code::VolumePending) },
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
        rest: Some(Code::VolumePending),
    },
    Reason {
        of: &[
            "FailedCreatePodSandBox",
            "FailedPodSandBoxStatus",
            "FailedCreatePodContainer",
            "FailedKillPod",
            "FailedSync",
        ],
        texts: &[SANDBOX, SANDBOX_IMAGE],
        rest: Some(Code::NodeRuntime),
    },
    Reason { of: &["NetworkNotReady"], texts: &[], rest: Some(Code::PodNetwork) },
    Reason { of: &["FailedPostStartHook"], texts: &[], rest: Some(Code::CrashLoop) },
    Reason { of: &["Evicted", "EvictionThresholdMet"], texts: &[EVICTED], rest: Some(Code::Unschedulable) },
    Reason {
        of: &["FreeDiskSpaceFailed", "ImageGCFailed", "NodeHasDiskPressure"],
        texts: &[],
        rest: Some(Code::DiskFull),
    },
    Reason { of: &["OOMKilling", "SystemOOM"], texts: &[], rest: Some(Code::OomKilled) },
    Reason {
        of: &[
            "OutOf*",
            "NodeAffinity",
            "NodePorts",
            "NodeResources",
            "UnexpectedAdmissionError",
            "Preempting",
            "Preempted",
        ],
        texts: &[],
        rest: Some(Code::Unschedulable),
    },
    Reason {
        of: &["HostPortConflict", "UnsupportedPodOS", "PodOSNotSupported", "InvalidNodeInfo", "TopologyAffinityError"],
        texts: &[],
        rest: Some(Code::Unschedulable),
    },
    Reason {
        of: &[
            "AppArmor",
            "HostNetworkNotSupported",
            "FailedValidation",
            "SupplementalGroupsPolicyNotSupported",
            "PodFeatureUnsupported",
            "InitContainerRestartPolicyForbidden",
        ],
        texts: &[],
        rest: Some(Code::ObjectInvalid),
    },
    Reason { of: &["SysctlForbidden"], texts: &[], rest: Some(Code::PodSecurity) },
    Reason {
        of: &["VolumeConditionAbnormal", "VolumeAttachmentLimitExceeded"],
        texts: &[],
        rest: Some(Code::VolumePending),
    },
    Reason { of: &["FailedPrepareDynamicResources", "ContainerGCFailed"], texts: &[], rest: Some(Code::NodeRuntime) },
    Reason {
        of: &[
            "NodeNotReady",
            "KubeletSetupFailed",
            "NodeShutdown",
            "Shutdown",
            "Terminated",
            "NodeLost",
            "NodeHasInsufficientMemory",
            "NodeHasInsufficientPID",
        ],
        texts: &[],
        rest: Some(Code::NodeRuntime),
    },
    // Known, and no obstacle: FailedPreStopHook, FailedSync, FailedKillPod, Killing,
    // FailedToRetrieveImagePullSecret, DNSConfigForming, MissingClusterDNS, InvalidDiskCapacity,
    // ExceededGracePeriod, Rebooted, PossibleMemoryBackedVolumesOnDisk …
];

const PULL_FAILED: &str = "Failed: pull";
const MAKE_FAILED: &str = "Failed: make";

/// Which of the two the kubelet means. For a container: `Error: …` and `Internal PreStartContainer
/// hook failed: …` (`kuberuntime_container.go`), and for a pod's folders on the node
/// (`kubelet.go`).
fn sentence<'a>(reason: &'a str, lower: &str) -> &'a str {
    let of_making =
        ["error: ", "error making pod data", "internal pre", "failed to create container", "failed to start container"];
    match reason {
        "Failed" if of_making.iter().any(|begin| lower.starts_with(begin)) => MAKE_FAILED,
        "Failed" => PULL_FAILED,
        reason => reason,
    }
}

const MAKE: &[Row] = &[
    row(Code::ImageNotFound, &[&["errimageneverpull"], &["pull policy of never"]]),
    // Repeated after the pull itself said why.
    harmless(&[&["errimagepull"], &["imagepullbackoff"], &["error: imageinspecterror"], &["error: invalidimagename"]]),
    row(Code::DiskFull, &[&["no space left on device"], &["input/output error"]]),
    row(Code::NodeRuntime, &[&["error making pod data directories"], &["internal pre"]]),
];

/// A container that was created, but whose program could not be started.
const STARTED: &[Row] = &[row(
    Code::CrashLoop,
    &[
        &["failed to create containerd task"],
        &["failed to start container"],
        &["failed to create shim task"],
        &["oci runtime"],
        &["unable to start container process"],
        &["runc"],
        &["crun"],
    ],
)];

const KILLING: &[Row] = &[row(Code::ProbeFailing, &[&["failed liveness probe"], &["failed startup probe"]])];

const BACK_OFF: &[Row] = &[row(Code::CrashLoop, &[&["restarting failed container"]])];

/// The pause image is pulled like any other.
const SANDBOX_IMAGE: &[Row] = &[
    row(Code::RegistryDns, &[&["sandbox image", "no such host"], &["sandbox image", "lookup "]]),
    row(
        Code::RegistryRateLimited,
        &[
            &["sandbox image", "too many requests"],
            &["sandbox image", "toomanyrequests"],
            &["sandbox image", "pull rate limit"],
            &["sandbox image", "status", ": 429"],
        ],
    ),
    row(Code::ImageNotFound, &[&["sandbox image", "not found"]]),
    row(Code::RegistryUnreachable, &[&["sandbox image", "failed to pull"], &["sandbox image", "dial tcp"]]),
];

const EVICTED: &[Row] = &[row(
    Code::DiskFull,
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
    Reason {
        of: &["FailedScheduling", "Unschedulable", "SchedulingGated", "SchedulerError"],
        texts: &[SCHEDULING],
        rest: Some(Code::Unschedulable),
    },
    Reason { of: &["Preempted"], texts: &[], rest: Some(Code::Unschedulable) },
];

const SCHEDULING: &[Row] = &[
    harmless(&[&["skip schedule deleting pod"], &["object has been modified"], &["operation cannot be fulfilled"]]),
    // If some nodes lack capacity, the problem is not their health.
    row(Code::Unschedulable, &[&["insufficient "], &["too many pods"]]),
    row(Code::DiskFull, &[&["disk-pressure"]]),
    row(
        Code::NodeRuntime,
        &[
            &["node.kubernetes.io/not-ready"],
            &["node.kubernetes.io/unreachable"],
            &["node.kubernetes.io/network-unavailable"],
        ],
    ),
    row(
        Code::VolumePending,
        &[
            &["unbound immediate persistentvolumeclaims"],
            &["persistentvolumeclaim \""],
            &["volume node affinity conflict"],
            &["persistentvolume's node affinity"],
            &["enough free storage"],
            &["due to", "pvc"],
            &["volume limit"],
            &["persistent volumes to bind"],
            &["volumebinding"],
            &["binding volumes"],
            &["max volume count"],
            &["non-existent persistentvolume"],
            &["storageclass"],
        ],
    ),
];

/// What controllers report that they cannot create: usually an answer of the API, which they retry
/// until it changes.
const CONTROLLER: &[Reason] = &[
    Reason {
        of: &[
            "FailedCreate",
            "ReplicaSetCreateError",
            "FailedDaemonPod",
            "FailedUpdate",
            "ReplicaFailure",
            "RolloutFailed",
        ],
        texts: &[TRIED_AGAIN, WEBHOOKS, API_ANSWERS],
        rest: None,
    },
    Reason {
        of: &["ProvisioningFailed", "FailedBinding", "FailedAttachVolume", "VolumeMismatch", "ClaimLost"],
        texts: &[VOLUME],
        rest: Some(Code::VolumePending),
    },
    Reason {
        of: &[
            "BackoffLimitExceeded",
            "DeadlineExceeded",
            "PodFailurePolicy",
            "FailedIndexes",
            "MaxFailedIndexesExceeded",
        ],
        texts: &[],
        rest: Some(Code::HookFailed),
    },
    Reason { of: &["FailedPlacement"], texts: &[], rest: Some(Code::Unschedulable) },
    Reason { of: &["NodeNotReady"], texts: &[], rest: Some(Code::NodeRuntime) },
    Reason { of: &["TaintManagerEviction"], texts: &[TAINTED], rest: None },
    Reason {
        of: &["UnparseableCronJobSchedule", "InvalidSchedule", "UnknownTimeZone", "SelectingAll"],
        texts: &[],
        rest: Some(Code::ObjectInvalid),
    },
    // external-secrets.
    Reason { of: &["UpdateFailed"], texts: &[SECRET_STORE], rest: None },
];

/// Just a slow API: the controller retries.
const TRIED_AGAIN: &[Row] =
    &[harmless(&[&["could not be completed at this time"], &["object has been modified"], &["already exists"]])];

const TAINTED: &[Row] = &[row(Code::NodeRuntime, &[&["marking for deletion"]])];

const SECRET_STORE: &[Row] = &[row(
    Code::LayerMissing,
    &[&["could not get clustersecretstore"], &["could not get secretstore"], &["secretstore", "not found"]],
)];

/// What admission webhooks say, and the API server about them. Checked before [`API_ANSWERS`] and
/// [`HELM_FIRST`]: a webhook quotes anything, for example the registry of an image that it verifies.
const WEBHOOKS: &[Row] = &[
    // A webhook that denies what it could not check, since it did not reach what it asks (a
    // registry, Sigstore): it may reach it a moment later.
    row(
        Code::WebhookUnavailable,
        &[
            &["denied the request", "dial tcp"],
            &["denied the request", "server misbehaving"],
            &["denied the request", "i/o timeout"],
            &["denied the request", "deadline exceeded"],
            &["denied the request", "client.timeout exceeded"],
            &["denied the request", "tls handshake timeout"],
            &["denied the request", "connection reset"],
            &["denied the request", "context canceled"],
        ],
    ),
    row(
        Code::WebhookDenied,
        &[&["admission webhook", "denied the request"], &["validatingadmissionpolicy", "denied request"]],
    ),
    row(
        Code::WebhookUnavailable,
        &[
            &["failed calling webhook"],
            &["failed to call webhook"],
            &["conversion webhook for"],
            &["webhook", "does not support dry run"],
        ],
    ),
];

/// The text of an API server's Status, wherever it is quoted.
const API_ANSWERS: &[Row] = &[
    row(
        Code::ReleaseTooLarge,
        &[
            &["sh.helm.release", "too long: "],
            &["request is too large"],
            &["request entity too large"],
            &["trying to send message larger than max"],
            &["trying to send message larger"],
        ],
    ),
    row(Code::DiskFull, &[&["database space exceeded"], &["etcdserver: no space"], &["database or disk is full"]]),
    row(
        Code::FieldConflict,
        &[&["apply failed with", "conflict"], &["conflicts with \""], &["conflict with \"", " using "]],
    ),
    row(
        Code::PodSecurity,
        &[
            &["violates podsecurity"],
            &["unable to validate against any security context constraint"],
            &["unable to validate against any pod security policy"],
            &["podsecuritypolicy:"],
            &["forbidden sysctl"],
        ],
    ),
    row(Code::NamespaceTerminating, &[&["because it is being terminated"], &["namespace is being terminated"]]),
    row(
        Code::QuotaExceeded,
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
    row(Code::NamespaceMissing, &[&["namespaces \"", "not found"]]),
    row(
        Code::ConfigMissing,
        &[
            &["error looking up service account"],
            &["no priorityclass with name"],
            &["runtimeclass", "not found"],
            &["serviceaccount \"", "not found"],
        ],
    ),
    row(
        Code::Forbidden,
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
        Code::ImmutableField,
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
        Code::CrdMissing,
        &[
            &["no matches for kind"],
            &["ensure crds are installed first"],
            &["resource mapping not found"],
            &["could not find the requested resource"],
            &["doesn't have a resource type"],
        ],
    ),
    row(
        Code::ObjectInvalid,
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
        Code::ApiUnreachable,
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
            &["could not be completed at this time"],
            &["kine: "],
            &["database is locked"],
        ],
    ),
];

/// Codes that are the API server's own refusal: the cluster's state is not its cause.
const REFUSALS: &[Code] = &[
    Code::ReleaseTooLarge,
    Code::WebhookDenied,
    Code::FieldConflict,
    Code::PodSecurity,
    Code::NamespaceTerminating,
    Code::QuotaExceeded,
    Code::NamespaceMissing,
    Code::ConfigMissing,
    Code::Forbidden,
    Code::ImmutableField,
    Code::CrdMissing,
    Code::ApiRemoved,
    Code::ObjectInvalid,
    Code::NameInUse,
];

/// Refusals of what the tree says: a retry gives the same answer. For the others, somebody else may
/// change the reason: a quota, a right, a CRD.
const FINAL_REFUSALS: &[Code] = &[
    Code::ReleaseTooLarge,
    Code::WebhookDenied,
    Code::FieldConflict,
    Code::PodSecurity,
    Code::ImmutableField,
    Code::ObjectInvalid,
    Code::NameInUse,
];

/// Helm's own messages, without the API answers quoted in them. Checked before [`API_ANSWERS`].
const HELM_FIRST: &[Row] = &[
    // Of the stored revision, not of the chart (`pkg/action/upgrade.go`, `uninstall.go`).
    row(
        Code::ApiRemoved,
        &[
            &["removed kubernetes api"],
            &["from current release manifest", "no matches for kind"],
            &["kubernetes objects for delete", "no matches for kind"],
        ],
    ),
    row(
        Code::ReleasePending,
        &[
            &["another operation (install/upgrade/rollback) is in progress"],
            &["has no deployed releases"],
            &["\"sh.helm.release", "already exists"],
            &["release: already exists"],
        ],
    ),
    row(
        Code::Usage,
        &[
            &["invalid client update option"],
            &["unknown flag"],
            &["unknown shorthand flag"],
            &["unknown command"],
            &["context \"", "does not exist"],
        ],
    ),
    row(
        Code::NameInUse,
        &[
            &["cannot reuse a name that is still in use"],
            &["cannot re-use a name that is still in use"],
            &["invalid ownership metadata"],
            &["cannot be imported into the current release"],
            &["resource that already exists"],
        ],
    ),
    row(
        Code::RenderFailed,
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
    row(Code::RegistryRateLimited, &[&["response status code 429"], &["429 too many requests"], &["toomanyrequests"]]),
    row(
        Code::ChartMissing,
        &[
            &["chart.yaml file is missing"],
            &["missing in charts/ directory"],
            &["path \"", "not found"],
            &["no such file or directory", "chart"],
            &["chart \"", "not found"],
            &["chart not found"],
            &["failed to download \""],
            &["could not download "],
            // A chart that Helm pulls itself (oras, containerd's resolver, a repository's index).
            &["failed to perform \""],
            &["response status code "],
            &["/v2/", "/tags/list"],
            &["/v2/", "/manifests/"],
            &["/v2/", "/blobs/"],
            &["failed to fetch anonymous token"],
            &["failed to fetch oauth token"],
            &["is not a valid chart repository"],
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

/// Helm and the network between it and the API. Checked after [`API_ANSWERS`].
const HELM_LAST: &[Row] = &[
    row(Code::Forbidden, &[&["getting credentials: exec"], &[": unauthorized"], &["no auth provider found"]]),
    row(
        Code::ApiCertificate,
        &[&["x509:"], &["remote error: tls:"], &["tls: failed to verify"], &["tls: private key"]],
    ),
    row(
        Code::ApiUnreachable,
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
    row(Code::NameInUse, &[&["\" already exists"]]),
    harmless(&[&["release: not found"]]),
    // What Helm waited for and saw fail: Helm names the object, the cluster has the cause.
    row(
        Code::HookFailed,
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

/// Symptoms of pods: anything in the cluster's state takes precedence.
const SYMPTOMS: &[Code] = &[Code::HookFailed];

const HELMFILE: &[Row] = &[
    // Its frame around a failed command, which itself said what is wrong.
    harmless(&[&["exited with non-zero status"], &["command \"", "exited"], &["skipping missing"]]),
    row(
        Code::Usage,
        &[
            &["environment \"", "is not defined"],
            &["does not match the selectors"],
            &["no releases found that matches"],
            &["specified state file"],
            &["no state file found"],
            &["unknown flag"],
            &["malformed label"],
        ],
    ),
    row(
        Code::ChartMissing,
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
        Code::RenderFailed,
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

/// The last words of a crashed container. Most rows are about dependencies that may still come up.
const LOG: &[Row] = &[
    harmless(&[&["terminating connection due to administrator command"]]),
    row(Code::ImagePlatform, &[&["exec format error"]]),
    row(Code::DiskFull, &[&["no space left on device"], &["enospc"], &["disk full"]]),
    row(
        Code::ConfigMissing,
        &[
            &["no pg_hba.conf entry"],
            &["password authentication failed"],
            &["superuser password is not specified"],
            &["you must specify postgres_password"],
        ],
    ),
    row(
        Code::DependencyUnreachable,
        &[
            // Something else creates a database's schema, possibly right now.
            &["schema version", "mismatch"],
            &["schema version compatibility check failed"],
            &["unable to read db schema version"],
            &["relation \"", "does not exist"],
            &["no such table"],
            &["unknown database"],
            &["database \"", "does not exist"],
            &["connection to ", " refused"],
        ],
    ),
    row(Code::LayerMissing, &[&["could not get clustersecretstore"]]),
    row(
        Code::ConfigMissing,
        &[
            &["password authentication failed"],
            &["access denied for user"],
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
        Code::DependencyUnreachable,
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
            &["could not connect to"],
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
            &["connect timed out"],
            &["operation timed out"],
            &["connection attempt failed"],
            &["couldn't connect to"],
            &["when trying to connect"],
            &["due to connection timeout"],
            &["acquisition timeout"],
            &["waiting for an open connection"],
            &["waiting for a server that matches"],
            &["selecting a server using"],
            &["can't reach database server"],
            &["host(s) tried for query failed"],
            &["no node was available to execute"],
            &["no resolvable bootstrap"],
            &["nobrokersavailable"],
            &["no servers available"],
            &["loading the dataset in memory"],
            &["server not initialized"],
            &["connection to server", "failed"],
            &["is the server running on"],
            &["503 service unavailable"],
            &["serverselectiontimeout"],
            &["no healthy upstream"],
        ],
    ),
];

/// The state of a container that is waiting or has ended.
const STATES: &[Fact] = &[
    Fact {
        reason: Reason { of: &["ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"], texts: &[PULL], rest: None },
        finals: &[
            (Code::ImageNotFound, &[]),
            (Code::ImagePlatform, &[]),
            (Code::RegistryProtocol, &[]),
            // An expired certificate may be renewed, and a clock set; but waiting does not make a
            // CA trusted.
            (
                Code::RegistryTls,
                &[&["unknown authority"], &["certificate is valid for"], &["ip sans"], &["not standards compliant"]],
            ),
            (
                Code::ImageInvalid,
                &[
                    &["no longer supported"],
                    &["unsupported media type"],
                    &["invalid reference format"],
                    &["couldn't parse image"],
                ],
            ),
        ],
    },
    Fact {
        reason: Reason { of: &["InvalidImageName"], texts: &[], rest: Some(Code::ImageInvalid) },
        finals: &[(Code::ImageInvalid, &[])],
    },
    Fact {
        reason: Reason { of: &["ErrImageNeverPull"], texts: &[], rest: Some(Code::ImageNotFound) },
        // Somebody may load it into the node.
        finals: &[],
    },
    Fact {
        reason: Reason {
            of: &["ImageInspectError", "SignatureValidationFailed"],
            texts: &[INSPECT],
            rest: Some(Code::ImageInvalid),
        },
        finals: &[],
    },
    Fact {
        reason: Reason {
            of: &["CreateContainerConfigError", "VerifyNonRootError"],
            texts: &[CONFIG],
            rest: Some(Code::ConfigMissing),
        },
        finals: &[(Code::ObjectInvalid, &[])],
    },
    Fact {
        reason: Reason {
            of: &["CreateContainerError", "PreCreateHookError"],
            texts: &[CONFIG, START],
            rest: Some(Code::NodeRuntime),
        },
        finals: &[],
    },
    Fact {
        reason: Reason {
            of: &[
                "RunContainerError",
                "StartError",
                "ContainerCannotRun",
                "RunInitContainerError",
                "PreStartHookError",
            ],
            texts: &[START],
            rest: Some(Code::CrashLoop),
        },
        finals: &[],
    },
    Fact {
        reason: Reason { of: &["PostStartHookError", "CrashLoopBackOff"], texts: &[], rest: Some(Code::CrashLoop) },
        finals: &[],
    },
    Fact { reason: Reason { of: &["OOMKilled"], texts: &[], rest: Some(Code::OomKilled) }, finals: &[] },
    Fact {
        reason: Reason {
            of: &["CreatePodSandboxError", "ConfigPodSandboxError"],
            texts: &[SANDBOX],
            rest: Some(Code::NodeRuntime),
        },
        finals: &[],
    },
    // A Job's condition; a pod that exceeded its own deadline has the same reason.
    Fact {
        reason: Reason {
            of: &[
                "BackoffLimitExceeded",
                "DeadlineExceeded",
                "PodFailurePolicy",
                "FailedIndexes",
                "MaxFailedIndexesExceeded",
            ],
            texts: &[],
            rest: Some(Code::HookFailed),
        },
        finals: &[(Code::HookFailed, &[&["job "], &["failjob"], &["index"]])],
    },
    Fact {
        reason: Reason { of: &["ErrPrepareDynamicResources"], texts: &[], rest: Some(Code::Unschedulable) },
        finals: &[],
    },
    // A pod's status, and its condition PodScheduled.
    Fact {
        reason: Reason {
            of: &["Unschedulable", "SchedulingGated", "SchedulerError"],
            texts: &[SCHEDULING],
            rest: Some(Code::Unschedulable),
        },
        finals: &[],
    },
];

const INSPECT: &[Row] = &[
    row(Code::ImageInvalid, &[&["couldn't parse image"], &["invalid reference format"]]),
    row(Code::NodeRuntime, &[&["containerd.sock"], &["deadline exceeded"], &["deadlineexceeded"]]),
];

/// A container's waiting or terminated state: a fact, which may be final.
pub fn state(reason: &str, message: &str) -> Option<Verdict> {
    let fact = STATES.iter().find(|fact| fact.reason.of.iter().any(|of| matches_reason(of, reason)));
    let Some(fact) = fact else {
        // A pod's own reason (`Evicted`, `OutOfcpu`) has the same text as the kubelet's event.
        let of_pod = [
            "Evicted",
            "NodeAffinity",
            "NodePorts",
            "UnexpectedAdmissionError",
            "TopologyAffinityError",
            "VolumeAttachmentLimitExceeded",
            "NodeLost",
            "NodeShutdown",
            "Terminated",
            "Preempting",
            "SysctlForbidden",
            "AppArmor",
            "PodOSNotSupported",
            "PodFeatureUnsupported",
        ];
        let known = of_pod.contains(&reason) || reason.starts_with("OutOf");
        return if known { event(Some("kubelet"), reason, message) } else { None };
    };
    let lower = message.to_lowercase();
    let code = in_reason(&fact.reason, &lower)?;
    let holds = |any: &[Parts]| any.is_empty() || any.iter().any(|parts| parts.iter().all(|part| lower.contains(part)));
    let is_final = fact.finals.iter().any(|(of, any)| *of == code && holds(any));
    if is_final { Verdict::cannot_heal(code) } else { Verdict::may_heal(code) }
}

/// The source of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Teller {
    Kubelet,
    Scheduler,
    Controller,
    /// For example an operator, which has its own reasons.
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
        // Schedulers and provisioners may have any name, but these reasons have one meaning.
        _ if matches!(reason, "FailedScheduling") => Teller::Scheduler,
        _ if matches!(reason, "ProvisioningFailed" | "FailedAttachVolume" | "UpdateFailed") => Teller::Controller,
        _ => Teller::Other,
    }
}

/// A Warning event: reported when it comes, and never ends a run by itself.
pub fn event(component: Option<&str>, reason: &str, message: &str) -> Option<Verdict> {
    let table = match teller(component, reason) {
        Teller::Kubelet => KUBELET,
        Teller::Scheduler => SCHEDULER,
        Teller::Controller => CONTROLLER,
        Teller::Other => return None,
    };
    let lower = message.to_lowercase();
    let code = in_reason(for_reason(table, sentence(reason, &lower))?, &lower)?;
    let held = code == Code::VolumePending && lower.contains("multi-attach error");
    Verdict::may_heal(code).map(|verdict| if held { Verdict { ends: FORCED_DETACH, ..verdict } } else { verdict })
}

/// The attach-detach controller detaches a volume by force from a node that does not let go of it
/// after 6 minutes (`ReconcilerMaxWaitForUnmountDuration`), and only then attaches it to the pod's.
const FORCED_DETACH: Ends = Ends::After(420);

/// Lines that Helm's libraries log next to its errors: klog's (`E0204 17:06:35.898427 …`), slog's
/// (`level=WARN msg=…`), and `WARNING: …`. None of them is why Helm failed.
pub fn is_warning(line: &str) -> bool {
    let line = line.trim_start();
    let klog = {
        let bytes = line.as_bytes();
        bytes.len() > 14
            && matches!(bytes[0], b'I' | b'W' | b'E' | b'F')
            && bytes[1..5].iter().all(u8::is_ascii_digit)
            && bytes[5] == b' '
            && line.contains("] ")
    };
    let slog = line.starts_with("level=") || line.starts_with("time=") && line.contains(" level=");
    let go_log = line.len() > 20 && line.as_bytes()[4] == b'/' && line.as_bytes()[..4].iter().all(u8::is_ascii_digit);
    let words = ["WARNING: ", "Warning: ", "coalesce.go", "walk.go", "I! ", "W! "];
    klog || slog || go_log || words.iter().any(|word| line.starts_with(word))
}

/// A line of Helm's error: an API answer quoted in it, or Helm's own message.
pub fn helm(message: &str) -> Option<Verdict> {
    let lower = message.to_lowercase();
    if is_warning(message) {
        return None;
    }
    // A timeout that names a webhook or a URL is about that webhook or the API.
    if is_timeout(message) && !lower.contains("webhook") && !lower.contains("\"https://") {
        return hook_of_timeout(&lower);
    }
    if let Some(code) = in_rows(WEBHOOKS, without_rollback(&lower)) {
        return of_api(code?);
    }
    if let Some(code) = in_rows(HELM_FIRST, &lower) {
        return Verdict::may_heal(code?);
    }
    if let Some(code) = in_rows(API_ANSWERS, &lower) {
        return of_api(code?);
    }
    Verdict::may_heal(in_rows(HELM_LAST, &lower)??)
}

/// Helm appends the error of its rollback to that of the upgrade, if there was one.
fn without_rollback(lower: &str) -> &str {
    let both = lower.contains("while rolling back the release. original upgrade error: ");
    lower.rsplit_once(": ").filter(|_| both).map_or(lower, |(upgrade, _)| upgrade)
}

/// The message about a deadline may also say that a hook's Job failed.
fn hook_of_timeout(lower: &str) -> Option<Verdict> {
    let failed = lower.contains("backofflimitexceeded") || lower.contains("job/") && lower.contains("status: failed");
    if failed { Verdict::may_heal(Code::HookFailed) } else { None }
}

/// Whether it is the API server's own refusal, which takes precedence over everything.
pub fn is_refusal(verdict: &Verdict) -> bool {
    REFUSALS.contains(&verdict.rule.code)
}

/// Whether Helm only says that something it waited for failed.
pub fn is_symptom(verdict: &Verdict) -> bool {
    SYMPTOMS.contains(&verdict.rule.code)
}

/// What Helmfile says about itself and the tree.
pub fn helmfile(message: &str) -> Option<Verdict> {
    if is_warning(message) || is_timeout(message) {
        return None;
    }
    // For a short command it quotes the error on the same line.
    if let Some((_, quoted)) = message.split_once("exited with non-zero status: ") {
        return helm(quoted);
    }
    Verdict::may_heal(in_rows(HELMFILE, &message.to_lowercase())??)
}

/// A line of a crashing container's log.
pub fn log(line: &str) -> Option<Verdict> {
    let lower = line.to_lowercase();
    if let Some(code) = in_rows(LOG, &lower) {
        return Verdict::may_heal(code?);
    }
    names_unset_variable(line).then(|| Verdict::may_heal(Code::ConfigMissing))?
}

/// `FLYWAY_URL not set`, `DATABASE_URL is required`: shells and programs alike.
fn names_unset_variable(line: &str) -> bool {
    let words: Vec<&str> =
        line.split(|c: char| c.is_whitespace() || "\"'`:$,{}".contains(c)).filter(|w| !w.is_empty()).collect();
    let is_name = |word: &str| {
        word.contains('_')
            && word.len() > 3
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    words.iter().enumerate().any(|(at, word)| {
        let after = words[at + 1..].iter().take(4).map(|word| word.to_lowercase()).collect::<Vec<_>>().join(" ");
        let says = [
            "not set",
            "is not set",
            "is unset",
            "must be set",
            "is required",
            "not defined",
            "is missing",
            "not provided",
            "cannot be empty",
            "must not be empty",
            "is empty",
        ];
        is_name(word) && says.iter().any(|says| after.starts_with(says))
    })
}

/// Symptoms: they say that something took too long, but not what.
pub fn is_timeout(message: &str) -> bool {
    let lower = message.to_lowercase();
    lower.contains("context deadline exceeded") && !lower.contains("client rate limiter")
        || lower.contains("timed out waiting for the condition")
        || lower.contains("resource not ready")
        || lower.contains(" not ready. status:")
}

/// The API server's answer: a Status, by its reason if that is specific enough, and by its message.
pub fn api(reason: &str, message: &str) -> Option<Verdict> {
    let lower = message.to_lowercase();
    if let Some(code) = in_rows(WEBHOOKS, &lower).or_else(|| in_rows(API_ANSWERS, &lower)) {
        return of_api(code?);
    }
    match reason {
        // For an eviction: a PodDisruptionBudget blocks it for a while.
        "TooManyRequests" if lower.contains("disruption budget") => None,
        "AlreadyExists" => of_api(Code::NameInUse),
        "Unauthorized" | "Forbidden" => of_api(Code::Forbidden),
        "Invalid" => of_api(Code::ObjectInvalid),
        "ServerTimeout" | "ServiceUnavailable" | "Timeout" | "TooManyRequests" => of_api(Code::ApiUnreachable),
        _ => None,
    }
}

fn of_api(code: Code) -> Option<Verdict> {
    if FINAL_REFUSALS.contains(&code) { Verdict::cannot_heal(code) } else { Verdict::may_heal(code) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::helm_errors;

    struct Line {
        source: &'static str,
        reason: &'static str,
        message: String,
        code: Option<Code>,
        may_end: &'static str,
    }

    fn table() -> Vec<Line> {
        let rows = include_str!("../../../tests/messages.tsv").lines().filter(|line| !line.starts_with('#')).skip(1);
        rows.map(|row| {
            let [source, reason, message, code, may_end, _origin] = row.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{row}")
            };
            let message = message.replace("\\n", "\n").replace("\\t", "\t");
            Line { source, reason, message, code: (code != "-").then(|| code.parse().unwrap()), may_end }
        })
        .collect()
    }

    fn judged(line: &Line) -> Option<Verdict> {
        match line.source {
            "event" => event(Some("kubelet"), line.reason, &line.message),
            "scheduler" => event(Some("default-scheduler"), line.reason, &line.message),
            "controller" => event(Some("replicaset-controller"), line.reason, &line.message),
            "state" => state(line.reason, &line.message),
            "api" => api(line.reason, &line.message),
            "helm" | "warning" => helm_text(&line.message),
            "helmfile" => helmfile_text(&line.message),
            "log" => line.message.lines().rev().find_map(log),
            other => panic!("{other}"),
        }
    }

    fn helm_text(text: &str) -> Option<Verdict> {
        let statement = helm_errors::Statement { speaker: helm_errors::Speaker::Helm, text: text.to_owned() };
        statement.verdict().map(|(verdict, _)| verdict)
    }

    fn helmfile_text(text: &str) -> Option<Verdict> {
        if text.contains("STDERR:") {
            let said = helm_errors::of_lines(text.lines());
            return said.errors.iter().find_map(|error| error.verdict()).map(|(verdict, _)| verdict);
        }
        let statement = helm_errors::Statement { speaker: helm_errors::Speaker::Helmfile, text: text.to_owned() };
        statement.verdict().map(|(verdict, _)| verdict)
    }

    fn in_words(verdict: Option<Verdict>) -> &'static str {
        match verdict.map(|verdict| verdict.ends) {
            Some(Ends::AtOnce) => "at-once",
            Some(Ends::After(_)) => "after",
            Some(Ends::Never) | None => "never",
        }
    }

    #[test]
    fn every_message_on_record_has_its_verdict() {
        let mut wrong = Vec::new();
        for line in table().iter().filter(|line| line.source != "k3d") {
            let verdict = judged(line);
            let code = verdict.map(|verdict| verdict.rule.code);
            // For a program that has ended, the table says whether it is retried.
            let ended = matches!(line.source, "helm" | "helmfile" | "warning");
            let ends = if ended { line.may_end } else { in_words(verdict) };
            if code != line.code || ends != line.may_end {
                wrong.push(format!(
                    "{} {} {:?}\n   is {code:?} {ends}, should be {:?} {}",
                    line.source, line.reason, line.message, line.code, line.may_end
                ));
            }
        }
        assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn what_is_tried_again_is_what_may_heal() {
        let budgets = crate::repo::needs::Budgets::default();
        for line in table().iter().filter(|line| matches!(line.source, "helm" | "helmfile")) {
            let Some(code) = line.code else { continue };
            let retried = crate::diagnosis::retry::Spent::default().decide(code, &budgets)
                != crate::diagnosis::retry::Retry::None;
            // A webhook that is coming up is waited for, as the API is.
            let expected = line.may_end == "never" || code == Code::WebhookUnavailable;
            assert_eq!(retried, expected, "{}", line.message);
        }
    }

    #[test]
    fn every_code_of_a_row_is_on_the_list_and_every_code_of_the_list_has_a_message() {
        let of_rows = |rows: &[Row]| rows.iter().filter_map(|row| row.code).collect::<Vec<_>>();
        let mut codes = Vec::new();
        for reason in KUBELET.iter().chain(SCHEDULER).chain(CONTROLLER).chain(STATES.iter().map(|fact| &fact.reason)) {
            codes.extend(reason.rest);
            codes.extend(reason.texts.iter().flat_map(|rows| of_rows(rows)));
        }
        for rows in [WEBHOOKS, API_ANSWERS, HELM_FIRST, HELM_LAST, HELMFILE, LOG] {
            codes.extend(of_rows(rows));
        }
        codes.extend(REFUSALS.iter().chain(FINAL_REFUSALS).chain(SYMPTOMS));
        for code in codes {
            assert!(rules::of(code).is_some(), "{code}");
        }
        for rule in rules::RULES.iter().filter(|rule| rule.code != Code::HelmStuck) {
            assert!(table().iter().any(|line| line.code == Some(rule.code)), "no message for {}", rule.code);
        }
    }

    /// A rule with capital letters would never match.
    #[test]
    fn texts_of_rules_are_lower_case() {
        let tables = [PULL, CONFIG, START, VOLUME, SANDBOX, WEBHOOKS, API_ANSWERS, HELM_FIRST, HELM_LAST, HELMFILE];
        for row in tables.into_iter().chain([LOG, SCHEDULING]).flatten() {
            assert!(row.any.iter().copied().flatten().all(|part| *part == part.to_lowercase()), "{:?}", row.any);
        }
    }

    /// Random texts, including whole messages of every source and halves of them, given to each
    /// source except states, under each of its reasons.
    #[test]
    fn no_text_ends_a_run_at_once_without_a_state_or_an_answer_of_the_api() {
        let table = table();
        let mut random = fastrand::Rng::with_seed(14);
        let words =
            ["", "401 Unauthorized", "x509:", "yaml:", "hook failed", "is being terminated", "not found", "\u{1b}[0m"];
        let (mut texts, mut refusals) = (0, 0);
        for _ in 0..4000 {
            let mut text = String::new();
            for _ in 0..random.usize(1..4) {
                let message = &table[random.usize(..table.len())].message;
                let (from, to) = (random.usize(..=message.len()), random.usize(..=message.len()));
                let half = message.get(from.min(to)..from.max(to)).unwrap_or(message);
                text.push_str(if random.bool() { message } else { half });
                text.push_str([" ", ": ", "\n"][random.usize(..3)]);
                text.push_str(words[random.usize(..words.len())]);
            }
            texts += 1;
            let reason = table[random.usize(..table.len())].reason;
            for component in
                [None, Some("kubelet"), Some("default-scheduler"), Some("job-controller"), Some("keycloak")]
            {
                let verdict = event(component, reason, &text);
                assert_ne!(in_words(verdict), "at-once", "{component:?} {reason} {text}");
            }
            assert_ne!(in_words(log(&text)), "at-once", "{text}");
            if text.split_once("exited with non-zero status: ").is_none() {
                assert_ne!(in_words(helmfile(&text)), "at-once", "{text}");
            }
            // What Helm quotes is final only as an answer of the API.
            if let Some(verdict) = helm(&text).filter(|verdict| verdict.ends == Ends::AtOnce) {
                refusals += 1;
                assert_eq!(api("", &text).map(|api| api.rule.code), Some(verdict.rule.code), "{text}");
            }
            if is_warning(&text) {
                assert!(helm(&text).is_none() && helmfile(&text).is_none(), "{text}");
            }
            // A probe's output is evidence about the probe, whatever it says.
            assert_eq!(
                event(Some("kubelet"), "Unhealthy", &text).map(|found| found.rule.code),
                Some(Code::ProbeFailing)
            );
            assert!(
                event(Some("strimzi-cluster-operator"), "Failed", &text).is_none(),
                "an operator's reasons are its own"
            );
        }
        assert!(texts >= 1000 && refusals > 10, "{texts} {refusals}");
    }
}
