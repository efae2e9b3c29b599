//! The lock across machines: a Kubernetes Lease per cluster, renewed while a layer runs. On one
//! machine the file lock ([`crate::cluster::lock`]) is enough.
//!
//! The clocks of two hosts are never compared: a waiter takes over a lease only if it has seen no
//! renewal for the lease's whole duration, by its own clock.
//!
//! A separate thread renews it, so that nothing that blocks the run blocks the renewal. A lost
//! lease ends the run like an interrupt: programs that work on the cluster are stopped and waited
//! for, and nothing more is started.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::oneshot;

use crate::cluster::lock::Holder;
use crate::host;
use crate::repo::Repo;
use crate::run::Run;
use crate::run::context::Context;
use crate::run::interrupt::Interrupt;
use crate::run::reporter::Reporter;
use crate::run::state::StateDir;
use crate::world::kubernetes::{self, read_failed, write_failed};
use run_record::{Code, Failure, human_seconds};

const NAME: &str = "ameide-deploy";
/// The holder, for people: the text of the lock file.
const HOLDER: &str = "ameide.dev/holder";
/// How long a lease is valid after its last renewal, in seconds.
const DURATION: i32 = if cfg!(test) { 1 } else { 15 };
/// The longest validity that is accepted from another holder, in seconds.
const LONGEST: i32 = 120;
const RENEW: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 4000 });
/// How soon a failed renewal is retried, and how long one may take.
const AGAIN: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });
const ANSWER: Duration = Duration::from_secs(5);
/// How long a release may take: otherwise the lease expires by itself.
const RELEASE: Duration = Duration::from_secs(3);
/// A waiter that did not look for this long cannot know that nothing changed.
const UNSEEN: Duration = Duration::from_secs(3);

/// Held until released; if the holder is killed, it expires after [`DURATION`].
pub struct ClusterLease {
    release: Option<oneshot::Sender<oneshot::Sender<()>>>,
}

/// What a waiter does with the lease it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Take,
    Wait,
}

/// `unchanged` is how long this waiter has seen no renewal.
fn decide(holder: Option<Option<&str>>, machine: &str, unchanged: Duration, duration: Duration) -> Step {
    match holder {
        None => Step::Create,
        Some(None | Some("")) => Step::Take,
        // From this state folder, whose file lock we hold: that run has ended.
        Some(Some(holder)) if holder.strip_prefix(machine).is_some_and(|rest| rest.starts_with('#')) => Step::Take,
        Some(Some(_)) if unchanged > duration => Step::Take,
        Some(Some(_)) => Step::Wait,
    }
}

/// How long another's lease is valid: what it says, within limits.
fn duration_of(spec: Option<&LeaseSpec>) -> Duration {
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(DURATION);
    Duration::from_secs(seconds.clamp(DURATION, LONGEST).unsigned_abs().into())
}

/// How long a waiter has seen the same version of the lease.
struct Unchanged {
    version: String,
    since: Instant,
    looked: Instant,
}

impl Unchanged {
    /// After a look that found this version. Time in which the lease could not be seen (because the
    /// API was unreachable, for the holder too) does not count.
    fn after(before: Option<Self>, version: String, now: Instant) -> Self {
        match before {
            Some(before) if before.version == version && now.duration_since(before.looked) < UNSEEN => {
                Self { looked: now, ..before }
            }
            _ => Self { version, since: now, looked: now },
        }
    }
}

/// Identifies this state folder, within which the file lock excludes: by a random id in it, the
/// file itself (a copy of the folder has another one), and the kernel that manages the locks (a
/// folder shared by two hosts may not exclude anybody).
fn machine(state: &StateDir) -> Result<String, Failure> {
    let path = state.path.join("lease-identity");
    let failed = |error: std::io::Error| Failure::new(Code::StateUnwritable, format!("the file {path}: {error}"));
    if !path.exists() {
        let mut random = [0; 16];
        std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).map_err(failed)?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let part = state.path.join(format!("lease-identity.{id}"));
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&part).map_err(failed)?;
        let written = file.write_all(id.as_bytes()).and_then(|()| std::fs::hard_link(&part, &path));
        let _ = std::fs::remove_file(&part);
        match written {
            // Another run was faster.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            written => written.map_err(failed)?,
        }
    }
    let mut file = std::fs::File::open(&path).map_err(failed)?;
    let mut id = String::new();
    (&mut file).take(64).read_to_string(&mut id).map_err(failed)?;
    let id = id.trim();
    if id.len() < 32 || !id.chars().all(|c| c.is_ascii_alphanumeric()) {
        // The next run creates it again: half an id identifies nothing.
        let _ = std::fs::remove_file(&path);
        return Err(failed(std::io::Error::other("contains no id; it is removed now: run this again")));
    }
    let meta = file.metadata().map_err(failed)?;
    Ok(format!("{id}-{:x}-{:x}/{}", meta.dev(), meta.ino(), host::boot_id()))
}

impl ClusterLease {
    /// Waits for the lease, saying for whom, for at most as long as for the lock. The caller holds
    /// the file lock.
    ///
    /// # Errors
    /// `lock-timeout`, `forbidden`, `api-unreachable`, `state-unwritable`.
    pub async fn acquire(context: &Context, client: &Client) -> Result<Self, Failure> {
        let namespace = &context.repo.env.cluster.lease_namespace;
        let what = format!("the Lease {namespace}/{NAME}");
        let api = Api::<Lease>::namespaced(client.clone(), namespace);
        let machine = machine(&context.run.state)?;
        let identity = format!("{machine}#{}", context.run.id);
        let holder = serde_json::to_string(&Holder::this_process(&context.run.id)).unwrap_or_default();
        let started = Instant::now();
        let mut seen: Option<Unchanged> = None;
        let mut told = false;
        loop {
            let found = api.get_opt(NAME).await.map_err(|error| read_failed(&what, error))?;
            let version = found.as_ref().and_then(|lease| lease.metadata.resource_version.clone()).unwrap_or_default();
            let unchanged = Unchanged::after(seen.take(), version, Instant::now());
            let spec = found.as_ref().and_then(|lease| lease.spec.as_ref());
            let current = found.as_ref().map(|_| spec.and_then(|spec| spec.holder_identity.as_deref()));
            let step = decide(current, &machine, unchanged.since.elapsed(), duration_of(spec));
            seen = Some(unchanged);
            let mut lease = found.clone().unwrap_or_default();
            write_holder(&mut lease, namespace, &identity, &holder);
            let written = match step {
                Step::Create => api.create(&PostParams::default(), &lease).await.map(Some),
                Step::Take => api.replace(NAME, &PostParams::default(), &lease).await.map(Some),
                Step::Wait => Ok(None),
            };
            match written {
                Ok(Some(_)) => {
                    if told {
                        context.run.reporter.note("lease", "the cluster is free");
                    }
                    let connect = kubernetes::connector(context);
                    let renewal = Renewal {
                        namespace: namespace.to_owned(),
                        identity,
                        holder,
                        reporter: context.run.reporter.clone(),
                    };
                    return renewal.begin(connect, |failure| Interrupt::global().stop(failure));
                }
                Ok(None) => {}
                // Somebody was faster: look again.
                Err(kube::Error::Api(status)) if status.code == 409 => continue,
                Err(error) => return Err(write_failed(&what, error)),
            }
            let who = found.as_ref().map(describe).unwrap_or_default();
            if !told {
                context.run.reporter.waiting("lease", format!("waiting for {who}"));
                told = true;
            }
            if started.elapsed() >= context.run.lock_timeout {
                let waited = human_seconds(context.run.lock_timeout.as_secs_f64());
                let message = format!("the cluster's Lease was not free within {waited}");
                return Err(Failure::new(Code::LockTimeout, message)
                    .evidence(format!("{namespace}/{NAME} is held by {who}"))
                    .remedy("wait for that run to end, or allow more time with --lock-timeout"));
            }
            // It waits for the absence of changes, which no watch reports.
            Interrupt::global().or(tokio::time::sleep(Duration::from_millis(500))).await?;
        }
    }

    /// Runs `work` unless the run is interrupted or another one takes over the lease: then what it
    /// started is stopped and waited for. In any case the lease is released afterwards.
    pub async fn guard<T>(self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let result = Interrupt::global().until(work).await;
        self.release().await;
        result
    }

    /// Releases the lease, so that the next run can start at once.
    pub async fn release(mut self) {
        let (done, released) = oneshot::channel();
        let asked = self.release.take().is_some_and(|release| release.send(done).is_ok());
        if asked {
            let _ = Interrupt::global().tidy(RELEASE, released).await;
        }
    }
}

/// Renews a lease: a thread with its own client.
struct Renewal {
    namespace: String,
    identity: String,
    /// The holder, for people.
    holder: String,
    reporter: Arc<Reporter>,
}

/// The result of a renewal attempt.
enum Renewed {
    Ours,
    /// It had been deleted, and was created again.
    Again,
    Lost(Box<Lease>),
    /// The API server answers, but refuses.
    Refused(String),
    /// The API cannot be reached, as far as can be seen from here.
    Away,
}

impl Renewal {
    /// # Errors
    /// If the system could not create a thread.
    fn begin<C>(self, connect: C, lost: impl Fn(Failure) + Send + 'static) -> Result<ClusterLease, Failure>
    where
        C: Fn() -> Result<Client, Failure> + Send + 'static,
    {
        let (release, asked) = oneshot::channel();
        let failed =
            |error: std::io::Error| Failure::new(Code::Unknown, format!("no thread to renew the Lease: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let thread = std::thread::Builder::new().name("lease".to_owned());
        thread.spawn(move || runtime.block_on(self.keep(connect, lost, asked))).map_err(failed)?;
        Ok(ClusterLease { release: Some(release) })
    }

    async fn keep(
        self,
        connect: impl Fn() -> Result<Client, Failure>,
        lost: impl Fn(Failure),
        mut asked: oneshot::Receiver<oneshot::Sender<()>>,
    ) {
        let mut api: Option<Api<Lease>> = None;
        let mut written = Instant::now();
        let mut refusal: Option<String> = None;
        let mut wait = RENEW;
        loop {
            tokio::select! {
                asked = &mut asked => {
                    let Ok(done) = asked else { return };
                    if let Some(api) = self.api(&mut api, &connect) {
                        let _ = tokio::time::timeout(RELEASE, self.let_go(&api)).await;
                    }
                    let _ = done.send(());
                    return;
                }
                () = tokio::time::sleep(wait) => {}
            }
            let began = Instant::now();
            let renewed = match self.api(&mut api, &connect) {
                Some(api) => tokio::time::timeout(ANSWER, self.renew(&api)).await.unwrap_or(Renewed::Away),
                None => Renewed::Away,
            };
            wait = if matches!(renewed, Renewed::Ours | Renewed::Again) { RENEW } else { AGAIN };
            match renewed {
                Renewed::Ours | Renewed::Again => {
                    if matches!(renewed, Renewed::Again) {
                        self.reporter.warn("lease", "somebody deleted the cluster's Lease: taken again");
                    }
                    if refusal.take().is_some() {
                        self.reporter.note("lease", "renewed again");
                    }
                    written = began;
                }
                Renewed::Lost(lease) => {
                    let message = "another run took the cluster's Lease while this one did not renew it";
                    return lost(
                        Failure::new(Code::LockLost, message)
                            .evidence(format!("now held by {}", describe(&lease)))
                            .remedy("run it again: it waits for that run"),
                    );
                }
                Renewed::Refused(why) => {
                    if refusal.as_ref() != Some(&why) {
                        self.reporter.warn("lease", format!("the cluster's Lease cannot be renewed: {why}"));
                    }
                    if written.elapsed() > Duration::from_secs(DURATION.unsigned_abs().into()) {
                        let message = "the cluster's Lease could not be renewed before it expired";
                        let remedy = format!(
                            "{} auth can-i update leases -n {}: the role that deploys needs it",
                            kubernetes::kubectl(),
                            self.namespace
                        );
                        return lost(Failure::new(Code::LockLost, message).evidence(why).remedy(remedy));
                    }
                    refusal = Some(why);
                }
                // What keeps us from the API keeps Helm from it as well. Once it is back, the first
                // request shows whether another run took the lease.
                Renewed::Away => {}
            }
        }
    }

    fn api(&self, api: &mut Option<Api<Lease>>, connect: &impl Fn() -> Result<Client, Failure>) -> Option<Api<Lease>> {
        if api.is_none() {
            *api = Some(Api::namespaced(connect().ok()?, &self.namespace));
        }
        api.clone()
    }

    async fn renew(&self, api: &Api<Lease>) -> Renewed {
        // Somebody may write it between reading and writing, but not forever.
        for _ in 0..5 {
            let (written, created) = match api.get_opt(NAME).await {
                Ok(None) => {
                    let mut lease = Lease::default();
                    write_holder(&mut lease, &self.namespace, &self.identity, &self.holder);
                    (api.create(&PostParams::default(), &lease).await, true)
                }
                Ok(Some(mut lease)) => {
                    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
                    match holder.as_deref() {
                        Some(holder) if holder == self.identity => {
                            if let Some(spec) = &mut lease.spec {
                                spec.renew_time = now();
                            }
                        }
                        None | Some("") => write_holder(&mut lease, &self.namespace, &self.identity, &self.holder),
                        Some(_) => return Renewed::Lost(Box::new(lease)),
                    }
                    (api.replace(NAME, &PostParams::default(), &lease).await, false)
                }
                Err(error) => (Err(error), false),
            };
            match written {
                Ok(_) if created => return Renewed::Again,
                Ok(_) => return Renewed::Ours,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
                    return Renewed::Refused(status.message.clone());
                }
                Err(_) => return Renewed::Away,
            }
        }
        Renewed::Away
    }

    /// If this fails, the lease expires by itself.
    async fn let_go(&self, api: &Api<Lease>) {
        let Ok(Some(mut lease)) = api.get_opt(NAME).await else { return };
        let Some(spec) = &mut lease.spec else { return };
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = None;
            let _ = api.replace(NAME, &PostParams::default(), &lease).await;
        }
    }
}

/// How far a holder's clock may differ from the API server's, for a look that decides nothing.
const SKEW: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// Who else holds the Lease, as far as a single look can tell: taking it over requires more.
///
/// # Errors
/// Errors from reading it.
pub async fn other_holder(run: &Run, repo: &Repo, client: &Client) -> Result<Option<String>, Failure> {
    let namespace = &repo.env.cluster.lease_namespace;
    let found = Api::<Lease>::namespaced(client.clone(), namespace).get_opt(NAME).await;
    let found = found.map_err(|error| read_failed(&format!("the Lease {namespace}/{NAME}"), error))?;
    let Some(lease) = found else { return Ok(None) };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.clone().unwrap_or_default();
    let ours = holder.strip_prefix(&machine(&run.state)?).is_some_and(|rest| rest.starts_with('#'));
    if holder.is_empty() || ours {
        return Ok(None);
    }
    let now = crate::world::kubernetes::server_time(client).await?;
    let renewed = spec.renew_time.as_ref().map(|time| time.0);
    let lasts = jiff::SignedDuration::try_from(duration_of(Some(&spec))).unwrap_or(SKEW);
    let silent = renewed.is_some_and(|renewed| now.duration_since(renewed) > lasts.saturating_add(SKEW));
    Ok((!silent).then(|| describe(&lease)))
}

fn now() -> Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime> {
    let text = jiff::Timestamp::now().to_string();
    serde_json::from_value(serde_json::Value::String(text)).ok()
}

fn write_holder(lease: &mut Lease, namespace: &str, identity: &str, holder: &str) {
    let old = std::mem::take(&mut lease.metadata);
    let mut annotations = old.annotations.unwrap_or_default();
    annotations.insert(HOLDER.to_owned(), holder.to_owned());
    lease.metadata = ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(namespace.to_owned()),
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
        lease_transitions: Some(transitions.saturating_add(1)),
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
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::run::reporter::Format;
    use crate::stand_in::Answer;

    /// An API server with one Lease.
    #[derive(Default)]
    struct Server {
        lease: Mutex<Option<Lease>>,
        version: AtomicUsize,
        /// The status that writes are answered with instead of being done.
        refuses: Mutex<Option<u16>>,
        writes: AtomicUsize,
        creations: AtomicUsize,
    }

    impl Server {
        fn start() -> (Arc<Self>, kube::Config) {
            let server = Arc::new(Self::default());
            let serving = server.clone();
            let http = crate::stand_in::Server::start(move |request| {
                let (code, answer) = serving.answer(&request.method, &request.body);
                Answer::new(code, answer).with("Content-Type", "application/json")
            });
            let mut config = kube::Config::new(http.url().parse().unwrap());
            // As in the real client: retries are done by the renewal.
            config.default_retry = false;
            (server, config)
        }

        fn answer(&self, method: &str, body: &[u8]) -> (u16, String) {
            let status = |code: u16| {
                let name = if code == 404 { "NotFound" } else { "Other" };
                let reason = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "code": code, "message": format!("answer {code}"), "reason": name});
                (code, reason.to_string())
            };
            let mut lease = self.lease.lock().unwrap();
            if method == "GET" {
                return lease.as_ref().map_or(status(404), |lease| (200, serde_json::to_string(lease).unwrap()));
            }
            self.writes.fetch_add(1, Ordering::SeqCst);
            if let Some(code) = *self.refuses.lock().unwrap() {
                return status(code);
            }
            let mut new: Lease = serde_json::from_slice(body).unwrap();
            let version = |lease: &Lease| lease.metadata.resource_version.clone();
            if lease.as_ref().map(version).unwrap_or_default() != version(&new) {
                return status(409);
            }
            if method == "POST" {
                self.creations.fetch_add(1, Ordering::SeqCst);
            }
            new.metadata.resource_version = Some((self.version.fetch_add(1, Ordering::SeqCst) + 1).to_string());
            let answer = serde_json::to_string(&new).unwrap();
            *lease = Some(new);
            (200, answer)
        }

        fn holder(&self) -> Option<String> {
            self.lease.lock().unwrap().as_ref()?.spec.as_ref()?.holder_identity.clone()
        }

        fn hold_as(&self, identity: &str) {
            let mut lease = Lease::default();
            write_holder(&mut lease, "kube-system", identity, "{}");
            lease.metadata.resource_version = Some((self.version.fetch_add(1, Ordering::SeqCst) + 1).to_string());
            *self.lease.lock().unwrap() = Some(lease);
        }

        async fn written(&self, more: usize) {
            let before = self.writes.load(Ordering::SeqCst);
            while self.writes.load(Ordering::SeqCst) < before + more {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// A lease held as `me`, and the reason once it is lost.
    fn held(config: &kube::Config) -> (ClusterLease, std::sync::mpsc::Receiver<Failure>) {
        let (sender, lost) = std::sync::mpsc::channel();
        let renewal = Renewal {
            namespace: "kube-system".to_owned(),
            identity: "me".to_owned(),
            holder: "{}".to_owned(),
            reporter: Arc::new(Reporter::new(Format::Json, false)),
        };
        let config = config.clone();
        let connect = move || Ok(Client::try_from(config.clone()).unwrap());
        (renewal.begin(connect, move |failure| drop(sender.send(failure))).unwrap(), lost)
    }

    #[tokio::test]
    async fn a_lease_is_renewed_while_the_run_is_held_up_and_released_at_its_end() {
        let (server, config) = Server::start();
        server.hold_as("me");
        let (lease, lost) = held(&config);
        // The run's own thread is blocked here.
        while server.writes.load(Ordering::SeqCst) < 3 {
            std::thread::sleep(Duration::from_millis(5));
        }
        lease.release().await;
        assert_eq!(server.holder(), None);
        assert!(lost.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_lease_that_another_run_took_is_lost_and_left_to_it() {
        let (server, config) = Server::start();
        server.hold_as("other");
        let (lease, lost) = held(&config);
        let failure = lost.recv().unwrap();
        assert_eq!(failure.code, Code::LockLost);
        assert_eq!(failure.evidence, ["now held by other"]);
        lease.release().await;
        assert_eq!(server.holder().as_deref(), Some("other"));
    }

    #[tokio::test]
    async fn a_lease_that_cannot_be_renewed_is_lost_when_it_counts_no_more() {
        let (server, config) = Server::start();
        server.hold_as("me");
        *server.refuses.lock().unwrap() = Some(403);
        let (_lease, lost) = held(&config);
        let failure = lost.recv().unwrap();
        assert_eq!((failure.code, failure.evidence), (Code::LockLost, vec!["answer 403".to_owned()]));
        assert!(failure.remedy.unwrap().contains("update leases"));
    }

    #[tokio::test]
    async fn what_may_heal_is_waited_out() {
        let (server, config) = Server::start();
        server.hold_as("me");
        let (lease, lost) = held(&config);
        // Overloaded, then another write in between, for longer than the lease is valid.
        for code in [503, 429, 500] {
            *server.refuses.lock().unwrap() = Some(code);
            server.written(30).await;
        }
        *server.refuses.lock().unwrap() = Some(409);
        server.written(3).await;
        *server.refuses.lock().unwrap() = None;
        // Deleted: it is taken again.
        *server.lease.lock().unwrap() = None;
        while server.creations.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.written(2).await;
        assert_eq!(server.holder().as_deref(), Some("me"));
        assert!(lost.try_recv().is_err());
        lease.release().await;
        assert_eq!(server.holder(), None);
    }

    #[test]
    fn an_identity_is_the_folder_s_own_and_no_copy_s() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let state = |name: &str| {
            let path = camino::Utf8PathBuf::from_path_buf(folder.path().join(name)).unwrap();
            std::fs::create_dir_all(&path).unwrap();
            StateDir { path }
        };
        let (one, two, copy) = (state("one"), state("two"), state("copy"));
        let identity = machine(&one).unwrap();
        assert_eq!(machine(&one).unwrap(), identity);
        assert_ne!(machine(&two).unwrap(), identity);
        let file = one.path.join("lease-identity");
        std::fs::copy(&file, copy.path.join("lease-identity")).unwrap();
        assert_ne!(machine(&copy).unwrap(), identity);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(one.path.read_dir_utf8().unwrap().count(), 1);
        std::fs::write(&file, "").unwrap();
        assert_eq!(machine(&one).unwrap_err().code, Code::StateUnwritable);
        machine(&one).unwrap();
    }

    #[test]
    fn runs_that_begin_together_have_one_identity() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir { path: camino::Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap() };
        let identities: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| machine(&state).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(identities.iter().all(|identity| *identity == identities[0]), "{identities:?}");
    }

    #[test]
    fn another_s_duration_is_believed_within_reason() {
        for (said, seconds) in [(0, DURATION), (-5, DURATION), (i32::MIN, DURATION), (60, 60), (i32::MAX, LONGEST)] {
            let spec = LeaseSpec { lease_duration_seconds: Some(said), ..Default::default() };
            assert_eq!(duration_of(Some(&spec)).as_secs(), u64::from(seconds.unsigned_abs()), "{said}");
        }
    }

    #[test]
    fn time_in_which_nothing_could_be_seen_does_not_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = Unchanged::after(None, "1".into(), at(0));
        let second = Unchanged::after(Some(first), "1".into(), at(2));
        assert_eq!(second.since, at(0));
        // The API was unreachable for 20 s: the holder could not renew either.
        let third = Unchanged::after(Some(second), "1".into(), at(22));
        assert_eq!(third.since, at(22));
        assert_eq!(Unchanged::after(Some(third), "2".into(), at(23)).since, at(23));
    }

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
