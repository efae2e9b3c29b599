//! Which blockers a layer's objects, Helm or Helmfile can show, and how long each may last.
//!
//! Which message means which blocker is defined by source, in [`super::sources`].

use run_record::Code;

/// How long a blocker may last before it ends a Helmfile run that would otherwise wait for its own
/// timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// It may heal: it ends the run only after this many seconds, if a last look confirms it.
    For(u64),
    /// It heals by itself or through a retry with its own limit, or Helm decides.
    Always,
}

/// When a sighting ends a run. Decided by [`super::sources`]: only the state of a container and an
/// answer of the API can give [`Ends::AtOnce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Nothing in this run can heal it: as soon as it was seen twice.
    AtOnce,
    /// After this many seconds, if the cluster's state confirms it.
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

/// A blocker as it is judged here; its name and remedy belong to the [`Code`].
#[derive(Debug)]
pub struct Rule {
    pub code: Code,
    /// `retries.patience` of layers.yaml takes precedence.
    pub lasts: Lasts,
}

/// Every blocker that a layer's objects, Helm or Helmfile can show.
pub const RULES: &[Rule] = &[
    Rule { code: Code::RegistryRateLimited, lasts: Lasts::Always },
    Rule { code: Code::NodePullQps, lasts: Lasts::Always },
    Rule { code: Code::RegistryProtocol, lasts: Lasts::For(60) },
    Rule { code: Code::RegistryTls, lasts: Lasts::For(120) },
    Rule { code: Code::RegistryDeniedOrMissing, lasts: Lasts::For(120) },
    Rule { code: Code::RegistryAuth, lasts: Lasts::For(120) },
    Rule { code: Code::ImagePlatform, lasts: Lasts::For(60) },
    Rule { code: Code::ImageNotFound, lasts: Lasts::For(60) },
    Rule { code: Code::ImageInvalid, lasts: Lasts::For(120) },
    Rule { code: Code::RegistryDns, lasts: Lasts::For(120) },
    Rule { code: Code::RegistryUnreachable, lasts: Lasts::For(120) },
    Rule { code: Code::NamespaceTerminating, lasts: Lasts::For(60) },
    Rule { code: Code::NamespaceMissing, lasts: Lasts::For(60) },
    Rule { code: Code::ReleasePending, lasts: Lasts::Always },
    Rule { code: Code::NameInUse, lasts: Lasts::Always },
    Rule { code: Code::FieldConflict, lasts: Lasts::Always },
    Rule { code: Code::Conflict, lasts: Lasts::Always },
    Rule { code: Code::ReleaseTooLarge, lasts: Lasts::Always },
    // Helm also waits for custom resources, which cannot be judged here: only a Helm that has
    // exceeded all its timeouts (900 s by default) is certainly stuck.
    Rule { code: Code::HelmStuck, lasts: Lasts::For(1800) },
    Rule { code: Code::ImmutableField, lasts: Lasts::For(60) },
    Rule { code: Code::CrdMissing, lasts: Lasts::For(60) },
    Rule { code: Code::ApiRemoved, lasts: Lasts::Always },
    Rule { code: Code::PodSecurity, lasts: Lasts::For(60) },
    Rule { code: Code::WebhookDenied, lasts: Lasts::For(60) },
    Rule { code: Code::WebhookUnavailable, lasts: Lasts::For(180) },
    Rule { code: Code::QuotaExceeded, lasts: Lasts::For(60) },
    Rule { code: Code::Forbidden, lasts: Lasts::For(60) },
    Rule { code: Code::ConfigMissing, lasts: Lasts::For(180) },
    Rule { code: Code::VolumePending, lasts: Lasts::For(180) },
    Rule { code: Code::Unschedulable, lasts: Lasts::For(180) },
    Rule { code: Code::PodNetwork, lasts: Lasts::For(120) },
    Rule { code: Code::NodeRuntime, lasts: Lasts::For(180) },
    Rule { code: Code::OomKilled, lasts: Lasts::For(60) },
    Rule { code: Code::DiskFull, lasts: Lasts::For(120) },
    Rule { code: Code::LayerMissing, lasts: Lasts::For(300) },
    Rule { code: Code::DependencyUnreachable, lasts: Lasts::For(300) },
    Rule { code: Code::CrashLoop, lasts: Lasts::For(120) },
    Rule { code: Code::HookFailed, lasts: Lasts::For(60) },
    Rule { code: Code::ProbeFailing, lasts: Lasts::Always },
    Rule { code: Code::ChartMissing, lasts: Lasts::Always },
    Rule { code: Code::RenderFailed, lasts: Lasts::Always },
    Rule { code: Code::Usage, lasts: Lasts::Always },
    Rule { code: Code::ObjectInvalid, lasts: Lasts::For(60) },
    Rule { code: Code::ApiUnreachable, lasts: Lasts::Always },
    Rule { code: Code::ApiCertificate, lasts: Lasts::Always },
];

/// The rule for a code.
pub fn of(code: Code) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        let codes: std::collections::BTreeSet<Code> = RULES.iter().map(|rule| rule.code).collect();
        assert_eq!(codes.len(), RULES.len());
    }

    #[test]
    fn every_rule_has_a_remedy_and_every_remedy_its_rule() {
        let codes: std::collections::BTreeSet<Code> = RULES.iter().map(|rule| rule.code).collect();
        let remedied = Code::ALL.iter().copied().filter(|code| code.remedy().is_some());
        assert_eq!(codes, remedied.collect());
    }

    #[test]
    fn what_may_heal_gets_minutes() {
        for code in [
            Code::ConfigMissing,
            Code::WebhookUnavailable,
            Code::RegistryUnreachable,
            Code::RegistryAuth,
            Code::LayerMissing,
        ] {
            assert!(matches!(of(code).unwrap().lasts, Lasts::For(seconds) if seconds >= 120), "{code}");
        }
    }
}
