//! The checklist itself: what "Data Plane Ready" means, item by item, with causes before their
//! effects; and the pure function from facts to verdicts.

use std::time::Duration;

use serde::Serialize;

use super::facts::{Facts, SecretState, Seen};
use crate::cluster::{self, Plan};
use crate::releases::Status;
use crate::world::kubernetes::{NamespacePhase, kubectl};
pub use run_record::State;
use run_record::{Exit, Failure};

/// One row of the checklist: its definition, and how it is decided from facts.
pub struct Definition {
    /// Stable, kebab-case.
    pub id: &'static str,
    pub title: &'static str,
    /// What must hold, and how that is checked.
    pub holds: &'static str,
    /// What to do if it does not, as Markdown.
    pub remedy: &'static str,
    /// The exit codes that its failure may have.
    pub exits: &'static [Exit],
    judge: fn(&Facts) -> (Verdict, Duration),
}

/// The verdict on an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass(String),
    Fail(Trouble),
    /// It does not apply to this environment.
    NotApplicable(String),
    /// It is unknown, because of something that an earlier item names.
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub exit: Exit,
    pub evidence: Vec<String>,
    pub remedy: Option<String>,
    pub fix: Option<Fix>,
}

/// A remedy that is safe without asking: it destroys nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    Cluster,
    Mirror,
    Repair,
    Layers(Vec<String>),
}

/// A judged item.
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    pub id: &'static str,
    pub title: &'static str,
    pub state: State,
    pub evidence: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The exit code of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// How long the look took.
    pub seconds: f64,
    #[serde(skip)]
    pub fix: Option<Fix>,
}

pub const ITEMS: &[Definition] = &[
    Definition {
        id: "lock-free",
        title: "Cluster lock free",
        holds: "no run holds `k3d-cluster.lock` of the cluster's state folder",
        remedy: "wait for the run that the evidence names",
        exits: &[Exit::LockTimeout],
        judge: lock_free,
    },
    Definition {
        id: "cluster-matches",
        title: "Cluster as its file says",
        holds: "every container of `k3d.yaml` runs, created from the current file, the registry is in their network, and `k3d-cluster-ready` names this cluster",
        remedy: "`cargo xtask cluster`",
        exits: &[Exit::ApiUnreachable, Exit::NotReady],
        judge: cluster_matches,
    },
    Definition {
        id: "api-ready",
        title: "Kubernetes API ready",
        holds: "`/readyz` answers `ok`",
        remedy: "`cargo xtask cluster`",
        exits: &[Exit::ApiUnreachable],
        judge: api_ready,
    },
    Definition {
        id: "nodes-ready",
        title: "Nodes Ready",
        holds: "every node is Ready and takes pods",
        remedy: "`kubectl describe node` says what the kubelet lacks",
        exits: &[Exit::NotReady],
        judge: nodes_ready,
    },
    Definition {
        id: "namespaces-active",
        title: "Namespaces Active",
        holds: "the namespaces that `layers.yaml` names for the critical path exist and are Active",
        remedy: "Terminating: wait, or remove what the evidence says holds it; missing: run the first layer",
        exits: &[Exit::NamespaceTerminating, Exit::NotReady],
        judge: namespaces_active,
    },
    Definition {
        id: "registry-warm",
        title: "Registry mirror warm",
        holds: "the registry answers (`K3D_REGISTRY_HEALTHCHECK_URL`, else `/v2/_catalog`) and holds what `images.lock` names, by digest",
        remedy: "`cargo xtask mirror`",
        exits: &[Exit::Registry],
        judge: registry_warm,
    },
    Definition {
        id: "images-mirrored",
        title: "Images from the mirror",
        holds: "every image of every pod in those namespaces comes from our registry",
        remedy: "add the image to `images.yaml`, `cargo xtask mirror --update`, and run its layer",
        exits: &[Exit::Registry],
        judge: images_mirrored,
    },
    Definition {
        id: "pull-secrets",
        title: "Pull secrets present",
        holds: "each pull secret that pods name (`dockerhub-creds`) holds credentials; none is needed while the mirror is complete and serves every pod",
        remedy: "`cargo xtask mirror`, or set `DOCKERHUB_USERNAME` and `DOCKERHUB_TOKEN` and run a layer",
        exits: &[Exit::Registry],
        judge: pull_secrets,
    },
    Definition {
        id: "no-pending-release",
        title: "No pending release",
        holds: "no release's newest revision is `pending-install`, `pending-upgrade`, `pending-rollback` or `uninstalling`",
        remedy: "`cargo xtask releases`, then `cargo xtask releases repair`",
        exits: &[Exit::Release],
        judge: no_pending_release,
    },
    Definition {
        id: "releases-deployed",
        title: "Releases deployed",
        holds: "every release of the critical path's layers is `deployed`",
        remedy: "`cargo xtask layer NAME`",
        exits: &[Exit::Release, Exit::NotReady],
        judge: releases_deployed,
    },
    Definition {
        id: "workloads-ready",
        title: "Workloads ready",
        holds: "every Deployment and StatefulSet of a release has all its pods ready, and no Job has given up",
        remedy: "`kubectl describe` of what the evidence names; `cargo xtask layer NAME` explains it",
        exits: &[Exit::NotReady],
        judge: workloads_ready,
    },
    Definition {
        id: "nothing-drifted",
        title: "Objects as Helm left them",
        holds: "nobody has changed or deleted what Helm set since the last run of its layer; what an autoscaler scales is left to it",
        remedy: "`cargo xtask drift` says who changed what; `cargo xtask layer NAME` brings back what the tree says, with `--force-conflicts` what others have set",
        exits: &[Exit::Release],
        judge: nothing_drifted,
    },
    Definition {
        id: "smoke-tests",
        title: "Smoke tests passed",
        holds: "the last `helm test` of each release's newest revision succeeded, as Helm recorded it",
        remedy: "`cargo xtask layer NAME`",
        exits: &[Exit::TestsFailed],
        judge: smoke_tests,
    },
];

/// Turns facts into verdicts, in the order of [`ITEMS`].
pub fn decide(facts: &Facts) -> Vec<Item> {
    ITEMS.iter().map(|definition| item(definition, (definition.judge)(facts))).collect()
}

fn item(definition: &Definition, (verdict, took): (Verdict, Duration)) -> Item {
    let mut item = Item {
        id: definition.id,
        title: definition.title,
        state: State::Pass,
        evidence: Vec::new(),
        remedy: None,
        exit: None,
        seconds: took.as_secs_f64(),
        fix: None,
    };
    let (state, evidence) = match verdict {
        Verdict::Pass(seen) => (State::Pass, vec![seen]),
        Verdict::NotApplicable(why) => (State::NotApplicable, vec![why]),
        Verdict::Unknown(why) => (State::Unknown, vec![why]),
        Verdict::Fail(trouble) => {
            item.exit = Some(trouble.exit);
            // A file that is wrong is put right by none of these; and for a shell, backticks run
            // what is between them.
            let usual = || (trouble.exit != Exit::Usage).then(|| definition.remedy.replace('`', ""));
            item.remedy = trouble.remedy.or_else(usual);
            item.fix = trouble.fix;
            (State::Fail, trouble.evidence)
        }
    };
    Item { state, evidence, ..item }
}

/// The failure for the first failed item, which determines the exit code.
pub fn first_failure(items: &[Item]) -> Option<Failure> {
    let failed: Vec<&Item> = items.iter().filter(|item| item.state == State::Fail).collect();
    let first = failed.first()?;
    let others = match failed.len() {
        1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let mut failure = Failure::data_plane_not_ready(
        first.exit.unwrap_or(Exit::NotReady),
        format!("{}: {} does not hold{others}", first.id, first.title),
    );
    failure.evidence = first.evidence.clone();
    failure.remedy = first.remedy.clone();
    Some(failure)
}

fn fail(exit: Exit, evidence: Vec<String>) -> Trouble {
    Trouble { exit, evidence, remedy: None, fix: None }
}

/// The fact, or the verdict for a look that failed: unknown if the API failed, since that has its
/// own item.
fn looked<'a, T>(facts: &Facts, seen: &'a Seen<T>) -> Result<&'a T, (Verdict, Duration)> {
    seen.result.as_ref().map_err(|failure| {
        let verdict = match &facts.api.result {
            Err(_) if failure.exit() == Exit::ApiUnreachable => Verdict::Unknown("the API does not answer".to_owned()),
            _ => Verdict::Fail(Trouble { remedy: failure.remedy.clone(), ..of(failure) }),
        };
        (verdict, seen.took)
    })
}

fn of(failure: &Failure) -> Trouble {
    let mut evidence = vec![failure.to_string()];
    evidence.extend(failure.evidence.iter().cloned());
    fail(failure.exit(), evidence)
}

/// Like `?`, for judges, where an early return is a verdict.
macro_rules! known {
    ($facts:expr, $seen:expr) => {
        match looked($facts, $seen) {
            Ok(value) => value,
            Err(verdict) => return verdict,
        }
    };
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn lock_free(facts: &Facts) -> (Verdict, Duration) {
    let held = known!(facts, &facts.lock);
    let verdict = match held {
        None => Verdict::Pass("nobody holds it".to_owned()),
        Some(Some(holder)) if holder.run == facts.run => Verdict::Pass("held by this run".to_owned()),
        Some(Some(holder)) => Verdict::Fail(fail(
            Exit::LockTimeout,
            vec![format!(
                "held by `{}` ({}@{}, pid {}) since {}",
                holder.command, holder.user, holder.host, holder.pid, holder.since
            )],
        )),
        Some(None) => {
            Verdict::Fail(fail(Exit::LockTimeout, vec!["held by a run that has not written its name".to_owned()]))
        }
    };
    (verdict, facts.lock.took)
}

fn cluster_matches(facts: &Facts) -> (Verdict, Duration) {
    let standing = known!(facts, &facts.cluster);
    let verdict = match standing {
        None => Verdict::NotApplicable("a shared cluster: it is not created from here".to_owned()),
        Some(standing) => match (&standing.plan, &standing.unfit) {
            (Plan::Nothing, None) => Verdict::Pass("runs, created from the current file, marked ready".to_owned()),
            (Plan::Nothing, Some(why)) => {
                Verdict::Fail(Trouble { fix: Some(Fix::Cluster), ..fail(Exit::ApiUnreachable, vec![why.clone()]) })
            }
            // Needs consent first, because it destroys what the cluster holds.
            (Plan::Recreate(reasons), _) => Verdict::Fail(fail(Exit::ApiUnreachable, reasons.clone())),
            (plan, _) => Verdict::Fail(Trouble {
                fix: Some(Fix::Cluster),
                ..fail(Exit::ApiUnreachable, vec![format!("the remedy would {}", cluster::describe(plan))])
            }),
        },
    };
    (verdict, facts.cluster.took)
}

fn api_ready(facts: &Facts) -> (Verdict, Duration) {
    let verdict = match &facts.api.result {
        Ok(()) => Verdict::Pass("/readyz: ok".to_owned()),
        Err(failure) => {
            Verdict::Fail(Trouble { fix: Some(Fix::Cluster), remedy: failure.remedy.clone(), ..of(failure) })
        }
    };
    (verdict, facts.api.took)
}

fn nodes_ready(facts: &Facts) -> (Verdict, Duration) {
    let nodes = known!(facts, &facts.nodes);
    let trouble = nodes.iter().filter_map(|node| match (node.ready, node.schedulable) {
        (true, true) => None,
        (false, _) => Some(format!("{} is not Ready: {}", node.name, node.message)),
        (true, false) => Some(format!("{} is cordoned: it takes no pods ({} uncordon {0})", node.name, kubectl())),
    });
    let trouble: Vec<String> = trouble.collect();
    let verdict = if nodes.is_empty() {
        Verdict::Fail(fail(Exit::NotReady, vec!["no node has registered".to_owned()]))
    } else if trouble.is_empty() {
        Verdict::Pass(count(nodes.len(), "node"))
    } else {
        Verdict::Fail(fail(Exit::NotReady, trouble))
    };
    (verdict, facts.nodes.took)
}

fn namespaces_active(facts: &Facts) -> (Verdict, Duration) {
    let namespaces = known!(facts, &facts.namespaces);
    let mut evidence = Vec::new();
    let (mut terminating, mut absent) = (false, false);
    for (name, phase) in namespaces {
        match phase {
            NamespacePhase::Active => {}
            NamespacePhase::Absent => {
                absent = true;
                evidence.push(format!("{name} does not exist"));
            }
            NamespacePhase::Terminating(held) => {
                terminating = true;
                let held = if held.is_empty() { "its content is being deleted".to_owned() } else { held.join("; ") };
                evidence.push(format!("{name} is Terminating: {held}"));
            }
        }
    }
    let verdict = if evidence.is_empty() {
        let names: Vec<&str> = namespaces.iter().map(|(name, _)| name.as_str()).collect();
        Verdict::Pass(names.join(", "))
    } else {
        // A layer running at the same time would race with the deletion.
        let fix = (absent && !terminating).then(|| facts.critical_path.first().cloned()).flatten();
        let exit = if terminating { Exit::NamespaceTerminating } else { Exit::NotReady };
        let remedy = fix.as_ref().map(|layer| format!("cargo xtask layer {layer}"));
        Verdict::Fail(Trouble { remedy, fix: fix.map(|layer| Fix::Layers(vec![layer])), ..fail(exit, evidence) })
    };
    (verdict, facts.namespaces.took)
}

fn registry_warm(facts: &Facts) -> (Verdict, Duration) {
    let took = facts.registry.took + facts.images.took;
    if let Err(failure) = &facts.registry.result {
        let trouble = Trouble { fix: Some(Fix::Cluster), remedy: failure.remedy.clone(), ..of(failure) };
        return (Verdict::Fail(trouble), took);
    }
    let images = known!(facts, &facts.images);
    let verdict = if images.findings.is_empty() {
        Verdict::Pass(format!("{}, by digest", count(images.total, "image")))
    } else {
        Verdict::Fail(Trouble { fix: Some(Fix::Mirror), ..fail(Exit::Registry, images.findings.clone()) })
    };
    (verdict, took)
}

fn images_mirrored(facts: &Facts) -> (Verdict, Duration) {
    let pods = known!(facts, &facts.pods);
    let verdict = if pods.from_elsewhere.is_empty() {
        Verdict::Pass(format!("{} of pods, all from {}", count(pods.mirrored, "image"), facts.pull))
    } else {
        Verdict::Fail(fail(Exit::Registry, pods.from_elsewhere.clone()))
    };
    (verdict, facts.pods.took)
}

fn pull_secrets(facts: &Facts) -> (Verdict, Duration) {
    let pods = known!(facts, &facts.pods);
    let name = |secret: &super::facts::PullSecret| format!("{}/{}", secret.namespace, secret.name);
    let lacking: Vec<_> = pods.pull_secrets.iter().filter(|secret| secret.state != SecretState::Filled).collect();
    let complete = facts.registry.result.is_ok()
        && facts.images.result.as_ref().is_ok_and(|images| images.findings.is_empty())
        && pods.from_elsewhere.is_empty();
    let verdict = if lacking.is_empty() {
        let names: Vec<String> = pods.pull_secrets.iter().map(name).collect();
        Verdict::Pass(if names.is_empty() { "no pod names one".to_owned() } else { names.join(", ") })
    } else if complete {
        let names: Vec<String> = lacking.into_iter().map(name).collect();
        Verdict::Pass(format!("not needed, the mirror is complete: {}", names.join(", ")))
    } else {
        let evidence = lacking.into_iter().map(|secret| match secret.state {
            SecretState::Empty => format!("{} holds no credentials", name(secret)),
            _ => format!("{} does not exist, and the mirror is not complete", name(secret)),
        });
        Verdict::Fail(Trouble { fix: Some(Fix::Mirror), ..fail(Exit::Registry, evidence.collect()) })
    };
    (verdict, facts.pods.took)
}

fn no_pending_release(facts: &Facts) -> (Verdict, Duration) {
    let revisions = known!(facts, &facts.revisions);
    let stuck: Vec<String> = revisions
        .iter()
        .filter(|revision| revision.status.is_pending() || revision.status == Status::Uninstalling)
        .map(|revision| {
            let since = revision.created.map(|time| format!(" since {time}")).unwrap_or_default();
            let status = revision.status.as_str();
            format!("{}/{} revision {} is {status}{since}", revision.namespace, revision.release, revision.revision)
        })
        .collect();
    let verdict = if stuck.is_empty() {
        Verdict::Pass(count(revisions.len(), "release"))
    } else {
        Verdict::Fail(Trouble { fix: Some(Fix::Repair), ..fail(Exit::Release, stuck) })
    };
    (verdict, facts.revisions.took)
}

fn releases_deployed(facts: &Facts) -> (Verdict, Duration) {
    let (wanted, revisions) = (known!(facts, &facts.wanted), known!(facts, &facts.revisions));
    let (mut evidence, mut layers, mut stuck) = (Vec::new(), Vec::new(), false);
    for release in wanted {
        let newest =
            revisions.iter().find(|found| found.release == release.name && found.namespace == release.namespace);
        let why = match newest {
            Some(revision) if revision.status == Status::Deployed => continue,
            Some(revision) => {
                stuck = true;
                format!("revision {} is {}", revision.revision, revision.status.as_str())
            }
            None => "is not installed".to_owned(),
        };
        evidence.push(format!("{}/{} (layer {}): {why}", release.namespace, release.name, release.layer));
        if !layers.contains(&release.layer) {
            layers.push(release.layer.clone());
        }
    }
    let verdict = if evidence.is_empty() {
        Verdict::Pass(count(wanted.len(), "release"))
    } else {
        let exit = if stuck { Exit::Release } else { Exit::NotReady };
        let remedy = Some(format!("cargo xtask layer {}", layers.join(" ")));
        Verdict::Fail(Trouble { remedy, fix: Some(Fix::Layers(layers)), ..fail(exit, evidence) })
    };
    (verdict, facts.wanted.took + facts.revisions.took)
}

fn workloads_ready(facts: &Facts) -> (Verdict, Duration) {
    let workloads = known!(facts, &facts.workloads);
    // An installed release's layer, from the tree; `None` if the tree does not know it.
    let layer = |release: &str| {
        let wanted = facts.wanted.result.as_ref().ok()?;
        wanted.iter().find(|known| known.name == release).map(|known| known.layer.clone())
    };
    let (mut evidence, mut layers) = (Vec::new(), Vec::new());
    for workload in workloads {
        // A Job that is still running is neither ready nor in trouble.
        let at_work = workload.name.starts_with("job/") && workload.trouble.is_none();
        if workload.trouble.is_none() && (workload.ready >= workload.wanted || at_work) && workload.wanted > 0 {
            continue;
        }
        let why = match &workload.trouble {
            Some(trouble) => trouble.clone(),
            None if workload.wanted == 0 => "is scaled to 0".to_owned(),
            None => format!("{} of {} ready", workload.ready, workload.wanted),
        };
        evidence.push(format!("{}/{}: {why}", workload.namespace, workload.name));
        layers.extend(layer(&workload.release).filter(|layer| !layers.contains(layer)));
    }
    let verdict = if workloads.is_empty() {
        Verdict::Fail(Trouble {
            fix: Some(Fix::Layers(facts.critical_path.clone())),
            remedy: Some("cargo xtask up".to_owned()),
            ..fail(Exit::NotReady, vec!["there are none".to_owned()])
        })
    } else if evidence.is_empty() {
        Verdict::Pass(count(workloads.len(), "workload"))
    } else {
        let fix = (!layers.is_empty()).then_some(Fix::Layers(layers));
        Verdict::Fail(Trouble { fix, ..fail(Exit::NotReady, evidence) })
    };
    (verdict, facts.workloads.took)
}

fn nothing_drifted(facts: &Facts) -> (Verdict, Duration) {
    // Without the right to read everything, the item is unknown.
    let drift = match &facts.drift.result {
        Ok(drift) => drift,
        Err(failure) => return (Verdict::Unknown(failure.to_string()), facts.drift.took),
    };
    let mut layers: Vec<String> = drift.found.iter().map(|change| change.layer.clone()).collect();
    layers.dedup();
    let verdict = if !drift.found.is_empty() {
        let evidence = drift.found.iter().map(|change| change.text.clone()).collect();
        let taken = drift.found.iter().any(|change| change.taken);
        let force = if taken { " --force-conflicts" } else { "" };
        let remedy = format!("cargo xtask drift {0}; cargo xtask layer {0}{force}", layers.join(" "));
        // What somebody has set on purpose is not fixed automatically.
        let fix = (!taken).then_some(Fix::Layers(layers));
        Verdict::Fail(Trouble { remedy: Some(remedy), fix, ..fail(Exit::Release, evidence) })
    } else if drift.compared > 0 {
        Verdict::Pass(format!("{} compared", count(drift.compared, "release")))
    } else {
        Verdict::Unknown("no run of a layer has left a record to compare with".to_owned())
    };
    (verdict, facts.drift.took)
}

fn smoke_tests(facts: &Facts) -> (Verdict, Duration) {
    let tests = known!(facts, &facts.tests);
    let phase = |wanted: &str| tests.iter().filter(move |run| run.phase.as_deref() == Some(wanted)).count();
    let failed: Vec<_> = tests.iter().filter(|run| run.phase.as_deref() == Some("Failed")).collect();
    let passed = phase("Succeeded");
    let verdict = if !failed.is_empty() {
        let mut layers: Vec<String> = failed.iter().map(|run| run.release.layer.clone()).collect();
        layers.dedup();
        let evidence = failed.iter().map(|run| {
            let when = run.completed.as_ref().map(|time| format!(" at {time}")).unwrap_or_default();
            format!("{} of {}/{} failed{when}", run.test, run.release.namespace, run.release.name)
        });
        let remedy = Some(format!("cargo xtask layer {}", layers.join(" ")));
        let trouble = fail(Exit::TestsFailed, evidence.collect());
        Verdict::Fail(Trouble { remedy, fix: Some(Fix::Layers(layers)), ..trouble })
    } else if tests.is_empty() {
        Verdict::Unknown("no deployed release has tests".to_owned())
    } else if passed == tests.len() {
        Verdict::Pass(format!("{} succeeded", count(passed, "test")))
    } else {
        // `--skip-tests` is a choice: it is reported, and nothing is claimed.
        let never = tests.iter().filter(|run| run.phase.as_deref() != Some("Succeeded"));
        let mut never: Vec<String> =
            never.map(|run| format!("{} revision {}", run.release.name, run.revision)).collect();
        never.dedup();
        Verdict::Unknown(format!("{passed} of {} ran; not yet for {}", tests.len(), never.join(", ")))
    };
    (verdict, facts.tests.took)
}

#[cfg(test)]
mod tests;
