//! The lock across machines: a Kubernetes Lease per cluster, renewed while a
//! layer runs. On one machine the file lock ([`crate::lock`]) already excludes.
//!
//! The clocks of two hosts are never compared: a waiter takes a lease over only
//! when it saw no renewal for the lease's whole duration, by its own clock.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::oneshot;

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::kubernetes::{read_failed, write_failed};
use crate::lock::Holder;
use crate::output::human_seconds;
use crate::process::Interrupt;

const NAME: &str = "ameide-deploy";
/// Who holds it, for people: the text of the lock file.
const HOLDER: &str = "ameide.dev/holder";
/// How long a lease counts after its last renewal, in seconds.
const DURATION: i32 = 15;
const RENEW: Duration = Duration::from_secs(4);

/// Held until released; a holder that is killed loses it after [`DURATION`].
pub struct ClusterLease {
    api: Api<Lease>,
    identity: String,
    renewing: tokio::task::JoinHandle<()>,
    lost: oneshot::Receiver<Failure>,
}

/// What a waiter does about the lease it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Take,
    Wait,
}

/// `unchanged` is for how long this waiter saw no renewal.
fn decide(holder: Option<Option<&str>>, machine: &str, unchanged: Duration, duration: Duration) -> Step {
    match holder {
        None => Step::Create,
        Some(None | Some("")) => Step::Take,
        // Of this machine, whose file lock is ours: that run has ended.
        Some(Some(holder)) if holder.strip_prefix(machine).is_some_and(|rest| rest.starts_with('#')) => Step::Take,
        Some(Some(_)) if unchanged > duration => Step::Take,
        Some(Some(_)) => Step::Wait,
    }
}

/// This machine since its start, and this state folder: within them the file lock excludes.
fn machine(context: &Context) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}/{}{}", boot.trim(), context.state.path)
}

impl ClusterLease {
    /// Waits for the lease, telling for whom, at most as long as for the lock. The
    /// caller holds the file lock.
    ///
    /// # Errors
    /// `lock-timeout`, `forbidden`, `api-unreachable`.
    pub async fn acquire(context: &Context, client: &Client) -> Result<Self, Failure> {
        let namespace = &context.env.cluster.lease_namespace;
        let what = format!("the Lease {namespace}/{NAME}");
        let api = Api::<Lease>::namespaced(client.clone(), namespace);
        let machine = machine(context);
        let identity = format!("{machine}#{}", context.run_id);
        let started = Instant::now();
        let mut seen: Option<(String, Instant)> = None;
        let mut told = false;
        loop {
            let found = api.get_opt(NAME).await.map_err(|error| read_failed(&what, error))?;
            let version = found.as_ref().and_then(|lease| lease.metadata.resource_version.clone()).unwrap_or_default();
            let since = match &seen {
                Some((before, since)) if *before == version => *since,
                _ => Instant::now(),
            };
            seen = Some((version, since));
            let spec = found.as_ref().and_then(|lease| lease.spec.as_ref());
            let holder = found.as_ref().map(|_| spec.and_then(|spec| spec.holder_identity.as_deref()));
            let duration = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(DURATION);
            let step = decide(holder, &machine, since.elapsed(), Duration::from_secs(duration.max(0) as u64));
            let mut lease = found.clone().unwrap_or_default();
            write_holder(context, &mut lease, &identity);
            let written = match step {
                Step::Create => api.create(&PostParams::default(), &lease).await.map(Some),
                Step::Take => api.replace(NAME, &PostParams::default(), &lease).await.map(Some),
                Step::Wait => Ok(None),
            };
            match written {
                Ok(Some(_)) => {
                    if told {
                        context.reporter.note("lease", "the cluster is free");
                    }
                    return Ok(Self::hold(api, identity));
                }
                Ok(None) => {}
                // Somebody was faster: look again.
                Err(kube::Error::Api(status)) if status.code == 409 => continue,
                Err(error) => return Err(write_failed(&what, error)),
            }
            let who = found.as_ref().map(describe).unwrap_or_default();
            if !told {
                context.reporter.waiting("lease", format!("waiting for {who}"));
                told = true;
            }
            if started.elapsed() >= context.lock_timeout {
                let waited = human_seconds(context.lock_timeout.as_secs_f64());
                let message = format!("the cluster's Lease was not free within {waited}");
                return Err(Failure::new("lock-timeout", Exit::LockTimeout, message)
                    .evidence(format!("{namespace}/{NAME} is held by {who}"))
                    .remedy("wait for that run to end, or give more time with --lock-timeout"));
            }
            // What is waited for is that nothing happens, which no watch tells.
            Interrupt::global().or(tokio::time::sleep(Duration::from_millis(500))).await?;
        }
    }

    fn hold(api: Api<Lease>, identity: String) -> Self {
        let (tell, lost) = oneshot::channel();
        let renewing = tokio::spawn({
            let (api, identity) = (api.clone(), identity.clone());
            async move {
                loop {
                    tokio::time::sleep(RENEW).await;
                    // An API that is away for a while keeps others out as well.
                    let Ok(Some(mut lease)) = api.get_opt(NAME).await else { continue };
                    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
                    if holder.as_deref() != Some(&identity) {
                        let message = "another run took the cluster's Lease while this one did not renew it";
                        let _ = tell.send(
                            Failure::new("lock-lost", Exit::LockTimeout, message)
                                .evidence(format!("now held by {}", describe(&lease)))
                                .remedy("run it again: it waits for that run"),
                        );
                        return;
                    }
                    if let Some(spec) = &mut lease.spec {
                        spec.renew_time = now();
                    }
                    let _ = api.replace(NAME, &PostParams::default(), &lease).await;
                }
            }
        });
        Self { api, identity, renewing, lost }
    }

    /// Runs `work` unless another run takes the lease.
    pub async fn guard<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            result = work => result,
            Ok(failure) = &mut self.lost => Err(failure),
        }
    }

    /// Lets the next one in at once.
    pub async fn release(self) {
        self.renewing.abort();
        let Ok(Some(mut lease)) = self.api.get_opt(NAME).await else { return };
        let Some(spec) = &mut lease.spec else { return };
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = None;
            // Failing, it runs out by itself.
            let _ = self.api.replace(NAME, &PostParams::default(), &lease).await;
        }
    }
}

/// By how much the clock of a holder may differ from the API server's, in a look that decides nothing.
const SKEW: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// Who else holds the Lease, as far as one look can tell: taking it over needs more than that.
///
/// # Errors
/// Those of reading it.
pub async fn other_holder(context: &Context, client: &Client) -> Result<Option<String>, Failure> {
    let namespace = &context.env.cluster.lease_namespace;
    let found = Api::<Lease>::namespaced(client.clone(), namespace).get_opt(NAME).await;
    let found = found.map_err(|error| read_failed(&format!("the Lease {namespace}/{NAME}"), error))?;
    let Some(lease) = found else { return Ok(None) };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.unwrap_or_default();
    let ours = holder.strip_prefix(&machine(context)).is_some_and(|rest| rest.starts_with('#'));
    if holder.is_empty() || ours {
        return Ok(None);
    }
    let now = crate::kubernetes::server_time(client).await?;
    let renewed = spec.renew_time.and_then(|time| time.0.to_string().parse::<jiff::Timestamp>().ok());
    let lasts = jiff::SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or(DURATION).max(0).into());
    let silent = renewed.is_some_and(|renewed| now.duration_since(renewed) > lasts.saturating_add(SKEW));
    Ok((!silent).then(|| describe(&lease)))
}

fn now() -> Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime> {
    let text = jiff::Timestamp::now().to_string();
    serde_json::from_value(serde_json::Value::String(text)).ok()
}

fn write_holder(context: &Context, lease: &mut Lease, identity: &str) {
    let holder = serde_json::to_string(&Holder::this_process(&context.run_id)).unwrap_or_default();
    let old = std::mem::take(&mut lease.metadata);
    let mut annotations = old.annotations.unwrap_or_default();
    annotations.insert(HOLDER.to_owned(), holder);
    lease.metadata = ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(context.env.cluster.lease_namespace.clone()),
        resource_version: old.resource_version,
        uid: old.uid,
        labels: old.labels,
        annotations: Some(annotations),
        ..Default::default()
    };
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(DURATION),
        acquire_time: now(),
        renew_time: now(),
        lease_transitions: Some(transitions + 1),
        ..Default::default()
    });
}

fn describe(lease: &Lease) -> String {
    let text = lease.metadata.annotations.as_ref().and_then(|all| all.get(HOLDER));
    let holder = text.and_then(|text| serde_json::from_str::<Holder>(text).ok());
    match holder {
        Some(holder) => holder.describe(jiff::Timestamp::now()),
        None => lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_lease_table() {
        let (long, short, duration) = (Duration::from_secs(16), Duration::from_secs(3), Duration::from_secs(15));
        for (holder, unchanged, step) in [
            (None, short, Step::Create),
            (Some(None), short, Step::Take),
            (Some(Some("")), short, Step::Take),
            (Some(Some("me/boot/state#run")), short, Step::Take),
            (Some(Some("me/boot/state2#run")), short, Step::Wait),
            (Some(Some("other/boot/state#run")), short, Step::Wait),
            (Some(Some("other/boot/state#run")), long, Step::Take),
        ] {
            assert_eq!(decide(holder, "me/boot/state", unchanged, duration), step, "{holder:?}");
        }
    }
}
