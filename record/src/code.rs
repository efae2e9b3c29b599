//! What can block a run: the closed list of codes. Each has the exit code that it ends a run with,
//! a sentence and, where a single command fixes it, a template for that command.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The exit codes, as documented in `docs/operations.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    Unclassified = 1,
    Usage = 2,
    LockTimeout = 3,
    ApiUnreachable = 4,
    Registry = 5,
    NamespaceTerminating = 6,
    Release = 7,
    NotReady = 8,
    TestsFailed = 9,
    /// Something would be lost or changed that nobody consented to.
    ConsentNeeded = 10,
    /// 128 + SIGINT.
    Interrupted = 130,
    /// 128 + SIGTERM.
    Terminated = 143,
}

/// A row: variant, name, exit code, sentence and, for some, a remedy template.
macro_rules! codes {
    ($($variant:ident = $name:literal, $exit:ident, $sentence:literal $(, $remedy:literal)?;)*) => {
        /// What blocks a run. Stable: scripts and `docs/operations.md` name them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($variant),* }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// In kebab-case, as printed.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The exit code of a run that ends with this code.
            pub const fn exit(self) -> Exit {
                match self { $(Self::$variant => Exit::$exit),* }
            }

            /// What it means, as part of a sentence.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence),* }
            }

            /// What to do about it, with the placeholders `{context}`, `{namespace}`, `{object}`,
            /// `{layer}` and `{env}`. Only codes that can come from a layer's objects, Helm or
            /// Helmfile have one.
            pub const fn remedy(self) -> Option<&'static str> {
                match self { $(Self::$variant => codes!(@remedy $($remedy)?)),* }
            }
        }
    };
    (@remedy) => { None };
    (@remedy $remedy:literal) => { Some($remedy) };
}

codes! {
    LabBuildFailed = "lab-build-failed", Unclassified, "a part of the lab cannot be built";
    StateUnwritable = "state-unwritable", Unclassified, "the state folder or the kubeconfig cannot be written";
    ToolBuildFailed = "tool-build-failed", Unclassified, "a pinned tool cannot be built";
    Unknown = "unknown", Unclassified, "none of the known causes";
    ChartMissing = "chart-missing", Usage, "a chart is not in the tree",
        "git status   # charts are vendored under infra/kubernetes/charts";
    RenderFailed = "render-failed", Usage, "the layer's files cannot be rendered",
        "helmfile -f infra/kubernetes/helmfiles/{layer}.yaml -e {env} template";
    Usage = "usage", Usage, "what was asked for does not exist in the tree",
        "cargo xtask layer --list; helmfile -f infra/kubernetes/helmfiles/{layer}.yaml -e {env} list";
    LockLost = "lock-lost", LockTimeout, "another run has taken over the cluster";
    LockTimeout = "lock-timeout", LockTimeout, "another run held the lock that this one waited for";
    ApiCertificate = "api-certificate", ApiUnreachable, "the certificate of the Kubernetes API, or the client's, is not accepted",
        "cargo xtask --env {env} cluster   # fetches the kubeconfig, and renews what has expired";
    ApiFailed = "api-failed", ApiUnreachable, "the Kubernetes API had an internal error";
    ApiOverloaded = "api-overloaded", ApiUnreachable, "the Kubernetes API is overloaded and rejects requests";
    ApiUnreachable = "api-unreachable", ApiUnreachable, "the Kubernetes API does not answer",
        "cargo xtask --env {env} cluster";
    ClusterMissing = "cluster-missing", ApiUnreachable, "there is no cluster";
    ClusterNotReady = "cluster-not-ready", ApiUnreachable, "the cluster does not match its file, or is not up";
    ImageInvalid = "image-invalid", Registry, "the image's name or content is not valid",
        "check the image in infra/images/images.yaml";
    ImageNotFound = "image-not-found", Registry, "the image is not in the registry",
        "cargo xtask --env {env} mirror";
    ImageNotMirrored = "image-not-mirrored", Registry, "the registry does not hold an image as the lock names it";
    ImagePlatform = "image-platform", Registry, "the image has no build for the node's platform",
        "cargo xtask --env {env} mirror --update";
    NodePullQps = "node-pull-qps", Registry, "the kubelet pulls too many images at once; it continues by itself",
        "kubectl --context {context} -n {namespace} get pods --watch";
    RegistryAuth = "registry-auth", Registry, "the registry refuses the credentials, or requires some",
        "docker login && cargo xtask --env {env} mirror";
    RegistryBodyLimit = "registry-body-limit", Registry, "a proxy in front of the registry refuses a blob of this size";
    RegistryDeniedOrMissing = "registry-denied-or-missing", Registry, "the registry denies the image, or does not have it",
        "cargo xtask --env {env} mirror --check";
    RegistryDns = "registry-dns", Registry, "the registry's name does not resolve on the node",
        "cargo xtask --env {env} cluster";
    RegistryProtocol = "registry-protocol", Registry, "a plain-HTTP registry is contacted over HTTPS",
        "cargo xtask --env {env} cluster recreate   # asks first, elsewhere --allow-destroy=cluster";
    RegistryRateLimited = "registry-rate-limited", Registry, "the registry's pull rate limit is reached",
        "cargo xtask --env {env} mirror";
    RegistryTls = "registry-tls", Registry, "the registry's certificate is not accepted",
        "openssl s_client -connect REGISTRY </dev/null   # shows its certificate; its CA belongs in registries.config of k3d.yaml";
    RegistryUnreachable = "registry-unreachable", Registry, "the registry does not answer the node",
        "cargo xtask --env {env} cluster";
    NamespaceTerminating = "namespace-terminating", NamespaceTerminating, "the namespace is being deleted",
        "kubectl --context {context} get namespaces   # run the layer again when it is gone";
    ApiRemoved = "api-removed", Release, "the stored release has an object of a kind or API version that the cluster no longer serves",
        "helm mapkubeapis --kube-context {context} --namespace {namespace} RELEASE   # for an API version that Kubernetes removed (plugin helm-mapkubeapis); if a CRD was deleted, run the layer that installs it";
    FieldConflict = "field-conflict", Release, "somebody else set a field that the release sets",
        "cargo xtask --env {env} layer {layer} --force-conflicts";
    HelmStuck = "helm-stuck", Release, "Helm still waits, although everything that the release created is ready",
        "cargo xtask --env {env} layer {layer}";
    NameInUse = "name-in-use", Release, "an object or release of that name belongs to somebody else",
        "kubectl --context {context} -n {namespace} get all,secrets,pvc -o custom-columns=KIND:.kind,NAME:.metadata.name,OWNER:.metadata.annotations.meta\\.helm\\.sh/release-name";
    PlanOutdated = "plan-outdated", Release, "the tree or the cluster has changed since the plan was saved";
    ReleaseOwned = "release-owned", Release, "somebody else may still be working on the release";
    ReleasePending = "release-pending", Release, "another Helm operation on the release is in progress, or died",
        "cargo xtask --env {env} releases repair";
    ReleaseTooLarge = "release-too-large", Release, "the release does not fit into the Secret that Helm keeps it in (1 MiB), or a request into the API",
        "du -a infra/kubernetes/charts | sort -n | tail   # take large files out of the chart, or split the release";
    AddressPool = "address-pool", NotReady, "Docker has no address range left for another network";
    ClusterFailed = "cluster-failed", NotReady, "k3d could not do what it was asked to do";
    ConfigMissing = "config-missing", NotReady, "a Secret, ConfigMap, key or account is missing or wrong",
        "kubectl --context {context} -n {namespace} get secrets,configmaps,serviceaccounts   # run the layer that creates it";
    Conflict = "conflict", NotReady, "somebody else is changing or deleting the object",
        "run it again, once they are done";
    CrashLoop = "crash-loop", NotReady, "a container keeps crashing",
        "kubectl --context {context} -n {namespace} logs --previous {object}";
    CrdMissing = "crd-missing", NotReady, "a custom resource's definition is not installed",
        "run the layer that installs the CRD";
    DataPlaneNotReady = "data-plane-not-ready", NotReady, "an item of the checklist does not hold";
    DependencyUnreachable = "dependency-unreachable", NotReady, "a container crashes because a service that it needs does not answer",
        "kubectl --context {context} -n {namespace} logs --previous {object}";
    DiskFull = "disk-full", NotReady, "a disk is full, or fails",
        "cargo xtask doctor";
    DockerFailed = "docker-failed", NotReady, "Docker refused the request";
    DockerUnavailable = "docker-unavailable", NotReady, "Docker Engine cannot be reached";
    Forbidden = "forbidden", NotReady, "the credentials do not allow it",
        "kubectl --context {context} auth can-i --list   # use a context with more rights (--context)";
    GoMissing = "go-missing", NotReady, "a pinned tool has to be built, and there is no Go";
    HookFailed = "hook-failed", NotReady, "a hook or a job of the release failed",
        "kubectl --context {context} -n {namespace} get jobs,pods   # the log below has the hook's output";
    ImmutableField = "immutable-field", NotReady, "a field that cannot change was changed",
        "undo the change, or replace that object by hand";
    LayerMissing = "layer-missing", NotReady, "an earlier layer is not in place",
        "cargo xtask --env {env} checklist";
    MachineNotReady = "machine-not-ready", NotReady, "this machine lacks something that is needed";
    NamespaceMissing = "namespace-missing", NotReady, "a namespace does not exist",
        "cargo xtask --env {env} layer --list   # run the one that creates the namespace";
    NoAnswer = "no-answer", NotReady, "a program did not answer in time";
    NodeRuntime = "node-runtime", NotReady, "the node, or its container runtime, does not work as it should",
        "kubectl --context {context} describe nodes; kubectl --context {context} -n {namespace} describe {object}";
    NotOurs = "not-ours", NotReady, "something of that name was created by somebody else";
    ObjectInvalid = "object-invalid", NotReady, "an object is refused as invalid",
        "correct the object's template";
    OomKilled = "oom-killed", NotReady, "a container used more memory than its limit",
        "raise its memory limit in infra/kubernetes/values";
    PodNetwork = "pod-network", NotReady, "the node cannot give the pod a network",
        "cargo xtask --env {env} cluster";
    PodSecurity = "pod-security", NotReady, "the security policy of the namespace or the node does not admit the pod",
        "kubectl --context {context} get namespace {namespace} --show-labels   # correct the pod's securityContext as the evidence says";
    PortTaken = "port-taken", NotReady, "another program listens on a port that is needed";
    ProbeFailing = "probe-failing", NotReady, "a container's probe fails",
        "kubectl --context {context} -n {namespace} logs {object}";
    QuotaExceeded = "quota-exceeded", NotReady, "a quota or limit of the namespace does not allow it",
        "kubectl --context {context} -n {namespace} describe quota,limitrange";
    ToolUnresolved = "tool-unresolved", NotReady, "a project's checksum file does not give the digest of a tool's archive";
    ToolVersion = "tool-version", NotReady, "the release archive of a tool contains a version other than the pinned one";
    Unauthenticated = "unauthenticated", NotReady, "the API server does not accept the kubeconfig's credentials";
    Unschedulable = "unschedulable", NotReady, "no node can take the pod",
        "kubectl --context {context} -n {namespace} describe {object}";
    VolumePending = "volume-pending", NotReady, "a volume is not available yet",
        "kubectl --context {context} -n {namespace} get pvc,events";
    WebhookDenied = "webhook-denied", NotReady, "an admission webhook or policy denied the object",
        "change the object as the webhook says";
    WebhookUnavailable = "webhook-unavailable", NotReady, "a webhook of the API server does not answer, or cannot reach what it needs",
        "kubectl --context {context} get validatingwebhookconfigurations,mutatingwebhookconfigurations";
    TestFailed = "test-failed", TestsFailed, "a test of a release failed";
    ConsentNeeded = "consent-needed", ConsentNeeded, "something would be lost or changed that nobody consented to";
    Interrupted = "interrupted", Interrupted, "somebody asked the run to stop";
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// No blocker has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no blocker is called {0:?}")]
pub struct UnknownCode(String);

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(name: &str) -> Result<Self, UnknownCode> {
        Self::ALL.iter().copied().find(|code| code.name() == name).ok_or_else(|| UnknownCode(name.to_owned()))
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_back_by_its_name_and_each_has_its_own() {
        for code in Code::ALL {
            assert_eq!(code.name().parse(), Ok(*code));
            let kebab = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(code.name().chars().all(kebab), "{code}");
        }
        assert!("Unknown".parse::<Code>().is_err());
    }

    #[test]
    fn a_sentence_is_a_part_of_one() {
        for code in Code::ALL {
            assert!(!code.sentence().ends_with('.') && code.sentence().len() > 10, "{code}");
        }
    }

    /// A remedy that starts with a program must be a valid command to the end; prose goes into a
    /// comment.
    #[test]
    fn remedies_work_when_pasted() {
        for code in Code::ALL {
            let Some(remedy) = code.remedy() else { continue };
            let (command, _) = remedy.split_once("   # ").unwrap_or((remedy, ""));
            let programs = ["kubectl", "cargo", "helm", "helmfile", "docker", "git", "du", "openssl"];
            if !programs.iter().any(|program| command.starts_with(program)) {
                continue;
            }
            for part in command.split("; ").flat_map(|part| part.split(" && ")).flat_map(|part| part.split(" | ")) {
                let first = part.split(' ').next().unwrap_or_default();
                assert!(programs.contains(&first) || ["sort", "tail"].contains(&first), "{code}: {part}");
                assert!(!part.contains(", "), "{code}: {part}");
            }
        }
    }
}
