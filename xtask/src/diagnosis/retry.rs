//! What is tried again, how often, and when: one table. Everything that does not
//! stand in it is not tried again. Budgets are per layer run, in
//! `infra/kubernetes/layers.yaml`.

use std::time::Duration;

use run_record::Code;

use crate::repo::needs::{Budgets, RateLimit};
use crate::run::context::Context;

/// What a layer run has used of its budgets.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    rate_limit: u32,
    release_pending: u32,
    api_unreachable: u32,
    webhook_unavailable: u32,
}

/// The next try.
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
            _ => Retry::None,
        }
    }

    /// As long as the registry asks for, else doubling, within bounds and with a
    /// jitter of a quarter, so that the nodes of a site do not come back together.
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

/// Any number that two runs are unlikely to share; nothing depends on its quality.
fn jitter() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

/// What the registry asks for in `Retry-After`, since the
/// kubelet's message does not carry it: asks once for the manifest that the
/// message is about. Registries that speak TLS are not asked: the wait then doubles.
pub async fn retry_after(message: &str, context: &Context) -> Option<Duration> {
    let registry = &context.env.registry;
    let (host, path) = manifest_of(message)?;
    let address = if host == registry.pull { registry.push.clone() } else { host };
    let asked = tokio::time::timeout(Duration::from_secs(3), ask(&address, &path)).await;
    asked.ok()?.ok()?
}

/// Host and path of the manifest that the kubelet's message is about.
pub(crate) fn manifest_of(message: &str) -> Option<(String, String)> {
    let reference = ["failed to resolve reference \"", "Failed to pull image \"", "Back-off pulling image \""]
        .iter()
        .find_map(|before| message.split_once(before)?.1.split_once('"'))?
        .0;
    // What is asked becomes a line of HTTP.
    if reference.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return None;
    }
    let (host, rest) = reference.split_once('/')?;
    let (repository, version) = match rest.split_once('@') {
        Some((name, digest)) => (name.split(':').next()?, digest),
        None => rest.rsplit_once(':')?,
    };
    host.contains([':', '.']).then(|| (host.to_owned(), format!("/v2/{repository}/manifests/{version}")))
}

async fn ask(address: &str, path: &str) -> std::io::Result<Option<Duration>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream
        .write_all(format!("HEAD {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    stream.take(16 * 1024).read_to_end(&mut answer).await?;
    Ok(header_seconds(&String::from_utf8_lossy(&answer)))
}

/// Longer than this is no wait but an outage of its own.
const LONGEST: Duration = Duration::from_secs(3600);

pub(crate) fn header_seconds(answer: &str) -> Option<Duration> {
    let mut lines = answer.lines();
    if !lines.next()?.contains(" 429") {
        return None;
    }
    let value = lines.take_while(|line| !line.is_empty()).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("retry-after").then(|| value.trim().to_owned())
    })?;
    image_mirror::asked_wait(&value, std::time::SystemTime::now()).map(|wait| wait.min(LONGEST))
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
        let retried = [Code::RegistryRateLimited, Code::ReleasePending, Code::ApiUnreachable, Code::WebhookUnavailable];
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
    fn the_manifest_is_found_in_the_kubelets_message() {
        for (message, found) in [
            (
                "Failed to pull image \"reg:5000/a/b:1\": failed to resolve reference \"reg:5000/a/b:1\": 429",
                Some(("reg:5000", "/v2/a/b/manifests/1")),
            ),
            ("Back-off pulling image \"reg:5000/a@sha256:0f\": 429", Some(("reg:5000", "/v2/a/manifests/sha256:0f"))),
            ("Failed to pull image \"a/b:1\": 429", None),
            ("429 Too Many Requests", None),
        ] {
            let found = found.map(|(host, path)| (host.to_owned(), path.to_owned()));
            assert_eq!(manifest_of(message), found, "{message}");
        }
    }

    #[test]
    fn retry_after_is_read_from_a_429_only() {
        let limited = "HTTP/1.1 429 Too Many Requests\r\nServer: nginx\r\nRetry-After: 7\r\n\r\n";
        assert_eq!(header_seconds(limited), Some(Duration::from_secs(7)));
        assert_eq!(header_seconds("HTTP/1.1 429 Too Many Requests\r\n\r\nRetry-After: 7"), None);
        assert_eq!(header_seconds("HTTP/1.1 503 x\r\nRetry-After: 7\r\n\r\n"), None);
    }
}
