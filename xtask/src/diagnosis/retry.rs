//! What is retried, how often, and when, in one table. Anything else is not retried. Budgets are
//! per layer run, in `infra/kubernetes/layers.yaml`.

use std::time::Duration;

use image_mirror::Limit;
use run_record::Code;

use crate::repo::Repo;
use crate::repo::needs::{Budgets, RateLimit};
use crate::run::context::Site;
use crate::world::registry;

/// What a layer run has used of its budgets.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    rate_limit: u32,
    release_pending: u32,
    api_unreachable: u32,
    webhook_unavailable: u32,
    conflict: u32,
}

/// Each sync makes a revision of every release in it, of which Helm keeps five (`historyMax`): a
/// revision from before this run has to stay.
const CONFLICTS: u32 = 3;

/// The next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    pub attempt: u32,
    pub budget: u32,
    pub wait: Duration,
}

/// What has to happen before a layer is synced again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    None,
    /// Wait, replace what is in back-off, sync again.
    RateLimit(Next),
    /// Repair the release, sync again.
    Repair(Next),
    /// Wait until the API is back, repair what it left, sync again.
    Api(Next),
    /// Wait, sync again.
    Webhook(Next),
}

impl Spent {
    /// The table.
    pub fn decide(&mut self, code: Code, budgets: &Budgets) -> Retry {
        let count = |spent: &mut u32, budget: u32, wait: u64| {
            (*spent < budget).then(|| {
                *spent += 1;
                Next { attempt: *spent, budget, wait: Duration::from_secs(wait) }
            })
        };
        match code {
            Code::RegistryRateLimited => {
                self.rate_limit(&budgets.rate_limit, None).map_or(Retry::None, Retry::RateLimit)
            }
            Code::ReleasePending => {
                count(&mut self.release_pending, budgets.release_pending.attempts, 0).map_or(Retry::None, Retry::Repair)
            }
            Code::ApiUnreachable => {
                count(&mut self.api_unreachable, budgets.api_unreachable.attempts, budgets.api_unreachable.within)
                    .map_or(Retry::None, Retry::Api)
            }
            Code::WebhookUnavailable => {
                let budget = &budgets.webhook_unavailable;
                count(&mut self.webhook_unavailable, budget.attempts, budget.wait).map_or(Retry::None, Retry::Webhook)
            }
            // It is over as well once somebody else is done.
            Code::Conflict => {
                let budget = &budgets.webhook_unavailable;
                count(&mut self.conflict, budget.attempts.min(CONFLICTS), budget.wait)
                    .map_or(Retry::None, Retry::Webhook)
            }
            _ => Retry::None,
        }
    }

    /// As long as the registry asks for, else doubling, within limits and with a jitter of a
    /// quarter, so that the nodes of a site do not retry simultaneously.
    pub fn rate_limit(&mut self, budget: &RateLimit, asked: Option<Duration>) -> Option<Next> {
        if self.rate_limit >= budget.attempts {
            return None;
        }
        let doubled = budget.first_wait.saturating_mul(1 << self.rate_limit.min(16)).min(budget.longest_wait);
        self.rate_limit += 1;
        let wait = asked.unwrap_or_else(|| {
            let millis = doubled.saturating_mul(1000);
            Duration::from_millis(millis.saturating_add(jitter() % (millis / 4 + 1)))
        });
        Some(Next { attempt: self.rate_limit, budget: budget.attempts, wait })
    }
}

/// A number that two runs are unlikely to share; its quality does not matter.
fn jitter() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

/// How the registry of the image in the kubelet's message limits us: asked separately, since the
/// message does not say. A wait of more than an hour counts as none; it is an outage.
pub async fn limit(message: &str, repo: &Repo, site: &Site) -> Limit {
    const LONGEST: Duration = Duration::from_secs(3600);
    let Some(image) = image_of(message) else { return Limit::default() };
    let limit = registry::limit(repo, site, image).await.unwrap_or_default();
    Limit { wait: limit.wait.map(|wait| wait.min(LONGEST)), ..limit }
}

/// The image in the kubelet's message.
pub(crate) fn image_of(message: &str) -> Option<&str> {
    let before = ["failed to resolve reference \"", "Failed to pull image \"", "Back-off pulling image \""];
    let (image, _) = before.iter().find_map(|before| message.split_once(before)?.1.split_once('"'))?;
    Some(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_retry_table() {
        let budgets = Budgets::default();
        let mut spent = Spent::default();
        assert!(matches!(
            spent.decide(Code::ReleasePending, &budgets),
            Retry::Repair(Next { attempt: 1, budget: 1, .. })
        ));
        assert_eq!(spent.decide(Code::ReleasePending, &budgets), Retry::None);
        for attempt in 1..=2 {
            let next = Next { attempt, budget: 2, wait: Duration::from_secs(180) };
            assert_eq!(spent.decide(Code::ApiUnreachable, &budgets), Retry::Api(next));
        }
        assert_eq!(spent.decide(Code::ApiUnreachable, &budgets), Retry::None);
        for attempt in 1..=8 {
            let Retry::RateLimit(next) = spent.decide(Code::RegistryRateLimited, &budgets) else { panic!("{attempt}") };
            assert_eq!((next.attempt, next.budget), (attempt, 8));
        }
        assert_eq!(spent.decide(Code::RegistryRateLimited, &budgets), Retry::None);
        for attempt in 1..=12 {
            let next = Next { attempt, budget: 12, wait: Duration::from_secs(15) };
            assert_eq!(spent.decide(Code::WebhookUnavailable, &budgets), Retry::Webhook(next));
        }
        assert_eq!(spent.decide(Code::WebhookUnavailable, &budgets), Retry::None);
        for attempt in 1..=3 {
            let next = Next { attempt, budget: 3, wait: Duration::from_secs(15) };
            assert_eq!(spent.decide(Code::Conflict, &budgets), Retry::Webhook(next));
        }
        assert_eq!(spent.decide(Code::Conflict, &budgets), Retry::None);
        let retried = [
            Code::RegistryRateLimited,
            Code::ReleasePending,
            Code::ApiUnreachable,
            Code::WebhookUnavailable,
            Code::Conflict,
        ];
        for rule in crate::diagnosis::rules::RULES {
            if !retried.contains(&rule.code) {
                assert_eq!(Spent::default().decide(rule.code, &budgets), Retry::None, "{}", rule.code);
            }
        }
    }

    #[test]
    fn patience_is_with_blockers_that_there_are() {
        let read = |yaml: &str| serde_saphyr::from_str::<Budgets>(yaml);
        assert_eq!(read("patience: {config-missing: 300}").unwrap().patience[&Code::ConfigMissing], 300);
        assert!(read("patience: {config-mising: 300}").unwrap_err().to_string().contains("config-mising"));
    }

    #[test]
    fn waits_double_within_bounds_unless_the_registry_says() {
        let budget = RateLimit { attempts: 4, first_wait: 10, longest_wait: 25 };
        let mut spent = Spent::default();
        for (low, high) in [(10, 13), (20, 25), (25, 32)] {
            let wait = spent.rate_limit(&budget, None).unwrap().wait;
            assert!(wait >= Duration::from_secs(low) && wait <= Duration::from_secs(high), "{wait:?}");
        }
        assert_eq!(spent.rate_limit(&budget, Some(Duration::from_secs(3))).unwrap().wait, Duration::from_secs(3));
        assert_eq!(spent.rate_limit(&budget, None), None);
    }

    #[test]
    fn the_image_is_found_in_the_kubelets_message() {
        for (message, found) in [
            (
                "Failed to pull image \"reg:5000/a/b:1\": failed to resolve reference \"reg:5000/a/b:2\": 429",
                Some("reg:5000/a/b:2"),
            ),
            ("Back-off pulling image \"reg:5000/a@sha256:0f\": 429", Some("reg:5000/a@sha256:0f")),
            ("Failed to pull image \"a/b:1\": 429", Some("a/b:1")),
            ("Failed to pull image \"a/b:1", None),
            ("429 Too Many Requests", None),
        ] {
            assert_eq!(image_of(message), found, "{message}");
        }
    }
}
