//! What the kubelet, and containerd through it, reports about pods.

use run_record::Code;

use super::table::{Reason, Row, harmless, row};

/// Anything that the kubelet or containerd says about pulling an image.
pub(super) const PULL: &[Row] = &[
    harmless(&[&["unable to retrieve some image pull secrets"]]),
    CGROUPS,
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
    // The tag is there; a cache in front of the registry, or a mirror, lacks its content for now.
    row(
        Code::ImageInvalid,
        &[
            &["failed to copy", "not found"],
            &["content descriptor", "from remote: not found"],
            &["content size of zero"],
        ],
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
    // A proxy comes first: what it says about TLS or HTTP is not the registry's. And an ingress
    // that has no certificate of its own yet shows its default one.
    row(
        Code::RegistryUnreachable,
        &[
            &["proxyconnect"],
            &["certificate is valid for ingress.local,"],
            &["certificate is valid for ", ".traefik.default, not "],
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
    row(Code::RegistryUnreachable, &[&["tls handshake timeout"], &["proxy authentication required"], &["407 "]]),
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
            &["short-name", "did not resolve"],
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
    // 402, 412, 451 …: a policy of the registry, in a status of its own choice.
    row(Code::RegistryDeniedOrMissing, &[&["unexpected status"]]),
];

/// No more cgroups, which the kernel says in the words of a full disk.
const CGROUPS: Row = row(Code::NodeRuntime, &[&["/sys/fs/cgroup", "no space left"]]);

/// What the kubelet lacks to create a container.
pub(super) const CONFIG: &[Row] = &[
    harmless(&[
        &["services have not yet been read"],
        &["host ip unknown"],
        &["failed to sync secret cache"],
        &["failed to sync configmap cache"],
        &["cannot find volume"],
    ]),
    row(Code::ObjectInvalid, &[&["imagevolumemountfailed", "subpath"]]),
    row(Code::VolumePending, &[&["failed to prepare subpath"], &["failed to create subpath"]]),
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
pub(super) const START: &[Row] = &[
    CGROUPS,
    row(Code::DiskFull, &[&["no space left on device"], &["input/output error"]]),
    row(
        Code::NodeRuntime,
        &[
            &["shared or slave mount"],
            &["not a shared mount"],
            // Unlike a profile that is missing, which the object names.
            &["apparmor failed to apply profile"],
            &["apparmor_parser"],
        ],
    ),
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
pub(super) const VOLUME: &[Row] = &[
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
pub(super) const SANDBOX: &[Row] = &[
    CGROUPS,
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
pub(super) const KUBELET: &[Reason] = &[
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
        texts: &[SANDBOX],
        rest: Some(Code::NodeRuntime),
    },
    // The pause image is pulled like any other.
    Reason { of: &[SANDBOX_IMAGE], texts: &[PULL], rest: Some(Code::NodeRuntime) },
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
    // Known, and no obstacle: FailedPreStopHook, FailedToRetrieveImagePullSecret, DNSConfigForming,
    // MissingClusterDNS, InvalidDiskCapacity, ExceededGracePeriod, Rebooted,
    // PossibleMemoryBackedVolumesOnDisk …
];

const PULL_FAILED: &str = "Failed: pull";
const MAKE_FAILED: &str = "Failed: make";
const SANDBOX_IMAGE: &str = "FailedCreatePodSandBox: pull";

/// Which of the two the kubelet means. For a container: `Error: …` and `Internal PreStartContainer
/// hook failed: …` (`kuberuntime_container.go`), and for a pod's folders on the node
/// (`kubelet.go`).
pub(super) fn sentence<'a>(reason: &'a str, lower: &str) -> &'a str {
    let of_making =
        ["error: ", "error making pod data", "internal pre", "failed to create container", "failed to start container"];
    match reason {
        "Failed" if of_making.iter().any(|begin| lower.starts_with(begin)) => MAKE_FAILED,
        "Failed" => PULL_FAILED,
        "FailedCreatePodSandBox" if lower.contains("sandbox image") => SANDBOX_IMAGE,
        reason => reason,
    }
}

const MAKE: &[Row] = &[
    CGROUPS,
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
