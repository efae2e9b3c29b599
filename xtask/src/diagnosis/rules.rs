//! The closed list of blockers: what each is called, with which exit code a run
//! ends that it stops, how long it may last, and what to do about it.
//!
//! Which message means which blocker is said by source, in [`super::sources`].

use crate::exit::Exit;

/// How long a blocker may stand before it ends a Helmfile run that would else wait
/// for its own timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// It may heal: only when it has stood for so many seconds, and stands at a last look.
    For(u64),
    /// It heals by itself, by a retry that counts by itself, or is Helm's to judge.
    Always,
}

/// When what was seen ends a run. [`super::sources`] decides it: only the state of a
/// container and an answer of the API can give [`Ends::AtOnce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Nothing that this run does can heal it: as soon as it was seen twice.
    AtOnce,
    /// When it has lasted so many seconds, and a state of the cluster stands behind it.
    After(u64),
    Never,
}

impl From<Lasts> for Ends {
    fn from(lasts: Lasts) -> Self {
        match lasts {
            Lasts::For(seconds) => Self::After(seconds),
            Lasts::Always => Self::Never,
        }
    }
}

/// A blocker.
#[derive(Debug)]
pub struct Rule {
    pub code: &'static str,
    pub exit: Exit,
    pub sentence: &'static str,
    /// With `{context}`, `{namespace}`, `{object}`, `{layer}`, `{env}`.
    pub remedy: &'static str,
    /// `retries.patience` of layers.yaml goes before it.
    pub lasts: Lasts,
}

/// Every blocker that a layer's objects, Helm or Helmfile can show.
pub const RULES: &[Rule] = &[
    Rule {
        code: "registry-rate-limited",
        exit: Exit::Registry,
        sentence: "the registry's pull rate limit is reached",
        remedy: "cargo xtask --env {env} mirror",
        lasts: Lasts::Always,
    },
    Rule {
        code: "node-pull-qps",
        exit: Exit::Registry,
        sentence: "the kubelet pulls too many images at once; it goes on by itself",
        remedy: "kubectl --context {context} -n {namespace} get pods --watch",
        lasts: Lasts::Always,
    },
    Rule {
        code: "registry-protocol",
        exit: Exit::Registry,
        sentence: "a plain-HTTP registry is spoken to over HTTPS",
        remedy: "cargo xtask --env {env} cluster recreate   # asks first, elsewhere --allow-destroy=cluster",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "registry-tls",
        exit: Exit::Registry,
        sentence: "the registry's certificate is not accepted",
        remedy: "openssl s_client -connect REGISTRY </dev/null   # shows its certificate; its CA belongs in registries.config of k3d.yaml",
        lasts: Lasts::For(120),
    },
    Rule {
        code: "registry-denied-or-missing",
        exit: Exit::Registry,
        sentence: "the registry denies the image, or does not have it",
        remedy: "cargo xtask --env {env} mirror --check",
        lasts: Lasts::For(120),
    },
    Rule {
        code: "registry-auth",
        exit: Exit::Registry,
        sentence: "the registry refuses the credentials, or wants some",
        remedy: "docker login && cargo xtask --env {env} mirror",
        lasts: Lasts::For(120),
    },
    Rule {
        code: "image-platform",
        exit: Exit::Registry,
        sentence: "the image has no build for the node's platform",
        remedy: "cargo xtask --env {env} mirror --update",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "image-not-found",
        exit: Exit::Registry,
        sentence: "the image is not in the registry",
        remedy: "cargo xtask --env {env} mirror",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "image-invalid",
        exit: Exit::Registry,
        sentence: "the image's name or content is not valid",
        remedy: "check the image in infra/images/images.yaml",
        lasts: Lasts::For(120),
    },
    Rule {
        code: "registry-dns",
        exit: Exit::Registry,
        sentence: "the registry's name does not resolve on the node",
        remedy: "cargo xtask --env {env} cluster",
        lasts: Lasts::For(120),
    },
    Rule {
        code: "registry-unreachable",
        exit: Exit::Registry,
        sentence: "the registry does not answer the node",
        remedy: "cargo xtask --env {env} cluster",
        lasts: Lasts::For(120),
    },
    Rule {
        code: "namespace-terminating",
        exit: Exit::NamespaceTerminating,
        sentence: "the namespace is being deleted",
        remedy: "kubectl --context {context} get namespaces   # run the layer again when it is gone",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "namespace-missing",
        exit: Exit::NotReady,
        sentence: "a namespace does not exist",
        remedy: "cargo xtask --env {env} layer 10",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "release-pending",
        exit: Exit::Release,
        sentence: "another Helm operation on the release is in progress, or died",
        remedy: "cargo xtask --env {env} releases repair",
        lasts: Lasts::Always,
    },
    Rule {
        code: "name-in-use",
        exit: Exit::Release,
        sentence: "an object or release of that name belongs to somebody else",
        remedy: "kubectl --context {context} -n {namespace} get all,secrets,pvc -o custom-columns=KIND:.kind,NAME:.metadata.name,OWNER:.metadata.annotations.meta\\.helm\\.sh/release-name",
        lasts: Lasts::Always,
    },
    Rule {
        code: "field-conflict",
        exit: Exit::Release,
        sentence: "somebody else set a field that the release sets",
        remedy: "cargo xtask --env {env} layer {layer} --force-conflicts",
        lasts: Lasts::Always,
    },
    Rule {
        code: "release-too-large",
        exit: Exit::Release,
        sentence: "the release does not fit into the Secret that Helm keeps it in (1 MiB), or a request into the API",
        remedy: "du -a infra/kubernetes/charts | sort -n | tail   # take large files out of the chart, or split the release",
        lasts: Lasts::Always,
    },
    Rule {
        code: "helm-stuck",
        exit: Exit::Release,
        sentence: "Helm still waits, though everything that the release made is ready",
        remedy: "cargo xtask --env {env} layer {layer}",
        // Helm waits for custom resources too, which nobody here can judge: only a Helm that
        // has outlived every timeout of its own (900 s by default) is stuck for sure.
        lasts: Lasts::For(1800),
    },
    Rule {
        code: "immutable-field",
        exit: Exit::NotReady,
        sentence: "a field that cannot change was changed",
        remedy: "undo the change, or replace that object by hand",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "crd-missing",
        exit: Exit::NotReady,
        sentence: "a custom resource's definition is not installed",
        remedy: "run the layer that installs the CRD",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "pod-security",
        exit: Exit::NotReady,
        sentence: "the security policy of the namespace or the node does not admit the pod",
        remedy: "kubectl --context {context} get namespace {namespace} --show-labels   # correct the pod's securityContext as the evidence says",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "webhook-denied",
        exit: Exit::NotReady,
        sentence: "an admission webhook or policy denied the object",
        remedy: "change the object as the webhook says",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "webhook-unavailable",
        exit: Exit::NotReady,
        sentence: "a webhook of the API server does not answer",
        remedy: "kubectl --context {context} get validatingwebhookconfigurations,mutatingwebhookconfigurations",
        lasts: Lasts::For(180),
    },
    Rule {
        code: "quota-exceeded",
        exit: Exit::NotReady,
        sentence: "a quota or limit of the namespace does not allow it",
        remedy: "kubectl --context {context} -n {namespace} describe quota,limitrange",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "forbidden",
        exit: Exit::NotReady,
        sentence: "the credentials do not allow it",
        remedy: "kubectl --context {context} auth can-i --list   # use a context with more rights (--context)",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "config-missing",
        exit: Exit::NotReady,
        sentence: "a Secret, ConfigMap, key or account is missing or wrong",
        remedy: "kubectl --context {context} -n {namespace} get secrets,configmaps,serviceaccounts   # run the layer that makes it",
        lasts: Lasts::For(180),
    },
    Rule {
        code: "volume-pending",
        exit: Exit::NotReady,
        sentence: "a volume is not there yet",
        remedy: "kubectl --context {context} -n {namespace} get pvc,events",
        lasts: Lasts::For(180),
    },
    Rule {
        code: "unschedulable",
        exit: Exit::NotReady,
        sentence: "no node can take the pod",
        remedy: "kubectl --context {context} -n {namespace} describe {object}",
        lasts: Lasts::For(180),
    },
    Rule {
        code: "pod-network",
        exit: Exit::NotReady,
        sentence: "the node cannot give the pod a network",
        remedy: "cargo xtask --env {env} cluster",
        lasts: Lasts::For(120),
    },
    Rule {
        code: "node-runtime",
        exit: Exit::NotReady,
        sentence: "the node, or its container runtime, does not do what it should",
        remedy: "kubectl --context {context} describe nodes; kubectl --context {context} -n {namespace} describe {object}",
        lasts: Lasts::For(180),
    },
    Rule {
        code: "oom-killed",
        exit: Exit::NotReady,
        sentence: "a container used more memory than its limit",
        remedy: "raise its memory limit in infra/kubernetes/values",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "disk-full",
        exit: Exit::NotReady,
        sentence: "a disk is full, or fails",
        remedy: "cargo xtask doctor",
        lasts: Lasts::For(120),
    },
    Rule {
        code: "layer-missing",
        exit: Exit::NotReady,
        sentence: "an earlier layer is not in place",
        remedy: "cargo xtask --env {env} checklist",
        lasts: Lasts::For(300),
    },
    Rule {
        code: "dependency-unreachable",
        exit: Exit::NotReady,
        sentence: "a container crashes because what it needs does not answer",
        remedy: "kubectl --context {context} -n {namespace} logs --previous {object}",
        lasts: Lasts::For(300),
    },
    Rule {
        code: "crash-loop",
        exit: Exit::NotReady,
        sentence: "a container keeps crashing",
        remedy: "kubectl --context {context} -n {namespace} logs --previous {object}",
        lasts: Lasts::For(120),
    },
    Rule {
        code: "hook-failed",
        exit: Exit::NotReady,
        sentence: "a hook or a job of the release failed",
        remedy: "kubectl --context {context} -n {namespace} get jobs,pods   # the log below has what the hook said",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "probe-failing",
        exit: Exit::NotReady,
        sentence: "a container's probe fails",
        remedy: "kubectl --context {context} -n {namespace} logs {object}",
        lasts: Lasts::Always,
    },
    Rule {
        code: "chart-missing",
        exit: Exit::Usage,
        sentence: "a chart is not in the tree",
        remedy: "git status   # charts are vendored under infra/kubernetes/charts",
        lasts: Lasts::Always,
    },
    Rule {
        code: "render-failed",
        exit: Exit::Usage,
        sentence: "the layer's files cannot be rendered",
        remedy: "helmfile -f infra/kubernetes/helmfiles/{layer}.yaml -e {env} template",
        lasts: Lasts::Always,
    },
    Rule {
        code: "usage",
        exit: Exit::Usage,
        sentence: "what was asked for does not exist in the tree",
        remedy: "cargo xtask layer --list; helmfile -f infra/kubernetes/helmfiles/{layer}.yaml -e {env} list",
        lasts: Lasts::Always,
    },
    Rule {
        code: "object-invalid",
        exit: Exit::NotReady,
        sentence: "an object is refused as invalid",
        remedy: "correct the object's template",
        lasts: Lasts::For(60),
    },
    Rule {
        code: "api-unreachable",
        exit: Exit::ApiUnreachable,
        sentence: "the Kubernetes API does not answer",
        remedy: "cargo xtask --env {env} cluster",
        lasts: Lasts::Always,
    },
    Rule {
        code: "api-certificate",
        exit: Exit::ApiUnreachable,
        sentence: "the certificate of the Kubernetes API, or the client's, is not accepted",
        remedy: "cargo xtask --env {env} cluster kubeconfig   # where it has expired: cluster stop, then cluster; k3s makes it anew as it starts",
        lasts: Lasts::Always,
    },
];

/// The rule of a code.
pub fn of(code: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        let codes: std::collections::BTreeSet<&str> = RULES.iter().map(|rule| rule.code).collect();
        assert_eq!(codes.len(), RULES.len());
    }

    /// What begins with a program is a command to its end: words for people are a comment.
    #[test]
    fn remedies_work_when_pasted() {
        for rule in RULES {
            let (command, _) = rule.remedy.split_once("   # ").unwrap_or((rule.remedy, ""));
            let programs = ["kubectl", "cargo", "helmfile", "docker", "git", "du", "openssl"];
            if !programs.iter().any(|program| command.starts_with(program)) {
                continue;
            }
            for part in command.split("; ").flat_map(|part| part.split(" && ")).flat_map(|part| part.split(" | ")) {
                let first = part.split(' ').next().unwrap_or_default();
                assert!(programs.contains(&first) || ["sort", "tail"].contains(&first), "{}: {part}", rule.code);
                assert!(!part.contains(", "), "{}: {part}", rule.code);
            }
        }
    }

    #[test]
    fn what_may_heal_gets_minutes() {
        for code in ["config-missing", "webhook-unavailable", "registry-unreachable", "registry-auth", "layer-missing"]
        {
            assert!(matches!(of(code).unwrap().lasts, Lasts::For(seconds) if seconds >= 120), "{code}");
        }
    }
}
