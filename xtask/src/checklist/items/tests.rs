use run_record::Code;

use super::*;
use crate::checklist::facts::{Change, Drifted, Images, NodeFact, Pods, PullSecret, TestRun, Workload};
use crate::cluster::Standing;
use crate::cluster::lock::Holder;
use crate::releases::Revision;
use crate::world::helmfile::WantedRelease;

fn seen<T>(value: T) -> Seen<T> {
    Seen { result: Ok(value), took: Duration::from_millis(3) }
}

fn unseen<T>(failure: Failure) -> Seen<T> {
    Seen { result: Err(failure), took: Duration::from_millis(3) }
}

fn wanted() -> WantedRelease {
    WantedRelease { layer: "45-data-plane-ext".into(), namespace: "ameide".into(), name: "minio".into() }
}

fn revision(status: Status) -> Revision {
    Revision {
        release: "minio".into(),
        namespace: "ameide".into(),
        revision: 2,
        status,
        run: None,
        by: None,
        created: None,
        written: None,
        layer: None,
        secret: "sh.helm.release.v1.minio.v2".into(),
        uid: None,
        resource_version: None,
    }
}

fn test_run(phase: &str) -> TestRun {
    let completed = Some("2026-11-24T03:40:08Z".into());
    TestRun { release: wanted(), revision: 2, test: "minio-test".into(), phase: Some(phase.into()), completed }
}

fn minio(wanted: i32, ready: i32) -> Workload {
    Workload {
        namespace: "ameide".into(),
        name: "deployment/minio".into(),
        release: "minio".into(),
        wanted,
        ready,
        trouble: None,
    }
}

/// Facts where every item passes.
fn good() -> Facts {
    Facts {
        run: "me".into(),
        critical_path: vec!["10-bootstrap".into(), "45-data-plane-ext".into()],
        pull: "k3d-ci-reg:5000".into(),
        lock: seen(None),
        cluster: seen(Some(Standing { plan: Plan::Nothing, unfit: None, lab: true })),
        api: seen(()),
        nodes: seen(vec![NodeFact { name: "server-0".into(), ready: true, schedulable: true, message: String::new() }]),
        namespaces: seen(vec![("ameide".into(), NamespacePhase::Active)]),
        registry: seen(()),
        images: seen(Images { total: 7, findings: vec![] }),
        pods: seen(Pods {
            from_elsewhere: vec![],
            mirrored: 4,
            pull_secrets: vec![PullSecret {
                namespace: "ameide".into(),
                name: "dockerhub-creds".into(),
                state: SecretState::Absent,
            }],
        }),
        wanted: seen(vec![wanted()]),
        revisions: seen(vec![revision(Status::Deployed)]),
        tests: seen(vec![test_run("Succeeded")]),
        workloads: seen(vec![minio(1, 1)]),
        drift: seen(Drifted { compared: 1, found: Vec::new() }),
    }
}

fn item(facts: &Facts, id: &str) -> Item {
    decide(facts).into_iter().find(|item| item.id == id).unwrap()
}

/// Asserts that only this item fails, with this exit code and evidence; returns its fix, if any.
#[track_caller]
fn fails_alone(facts: &Facts, id: &str, exit: Exit, evidence: &str) -> Option<Fix> {
    let items = decide(facts);
    let failed: Vec<&str> = items.iter().filter(|item| item.state == State::Fail).map(|item| item.id).collect();
    assert_eq!(failed, [id]);
    assert_eq!(first_failure(&items).unwrap().exit(), exit);
    let item = items.into_iter().find(|item| item.id == id).unwrap();
    assert!(item.evidence.iter().any(|line| line.contains(evidence)), "{:?}", item.evidence);
    assert!(item.remedy.is_some());
    item.fix
}

#[test]
fn a_good_cluster_passes_every_item() {
    let items = decide(&good());
    assert!(items.iter().all(|item| item.state == State::Pass), "{items:#?}");
    assert!(first_failure(&items).is_none());
    let ids: Vec<&str> = items.iter().map(|item| item.id).collect();
    assert_eq!(ids, ITEMS.iter().map(|item| item.id).collect::<Vec<_>>());
}

#[test]
fn a_lock_is_no_obstacle_to_the_run_that_holds_it() {
    let mut holder = Holder::this_process("me");
    let facts = |holder: &Holder| Facts { lock: seen(Some(Some(holder.clone()))), ..good() };
    assert_eq!(item(&facts(&holder), "lock-free").state, State::Pass);
    holder.run = "another".into();
    fails_alone(&facts(&holder), "lock-free", Exit::LockTimeout, &format!("pid {}", std::process::id()));
}

#[test]
fn a_cluster_that_differs_is_not_recreated_unasked() {
    let facts = |plan: Plan, unfit: Option<String>| Facts {
        cluster: seen(Some(Standing { plan, unfit, lab: false })),
        ..good()
    };
    let drifted = facts(Plan::Recreate(vec!["servers: the cluster has 1, the file says 2".into()]), None);
    assert_eq!(fails_alone(&drifted, "cluster-matches", Exit::ApiUnreachable, "servers"), None);
    let stopped = facts(Plan::Start(vec!["server-0".into()]), None);
    assert_eq!(fails_alone(&stopped, "cluster-matches", Exit::ApiUnreachable, "server-0"), Some(Fix::Cluster));
    let unmarked = facts(Plan::Nothing, Some("never brought up here".into()));
    assert_eq!(fails_alone(&unmarked, "cluster-matches", Exit::ApiUnreachable, "never"), Some(Fix::Cluster));
    let shared = Facts { cluster: seen(None), ..good() };
    assert_eq!(item(&shared, "cluster-matches").state, State::NotApplicable);
}

#[test]
fn without_the_api_only_the_api_fails() {
    let down = || Failure::new(Code::ApiUnreachable, "refused");
    let facts = Facts {
        api: unseen(down()),
        nodes: unseen(down()),
        namespaces: unseen(down()),
        pods: unseen(down()),
        wanted: unseen(down()),
        revisions: unseen(down()),
        tests: unseen(down()),
        workloads: unseen(down()),
        drift: unseen(down()),
        ..good()
    };
    assert_eq!(fails_alone(&facts, "api-ready", Exit::ApiUnreachable, "refused"), Some(Fix::Cluster));
    assert_eq!(item(&facts, "workloads-ready").state, State::Unknown);
}

#[test]
fn what_may_not_be_read_is_never_taken_for_absent() {
    let forbidden = Failure::new(Code::Forbidden, "not allowed to read Helm's release Secrets");
    let facts = Facts { revisions: unseen(forbidden), ..good() };
    assert_eq!(item(&facts, "no-pending-release").state, State::Fail);
    assert_eq!(item(&facts, "releases-deployed").state, State::Fail);
}

#[test]
fn a_node_must_be_ready_and_take_pods() {
    let node = |ready, schedulable| {
        seen(vec![NodeFact { name: "server-0".into(), ready, schedulable, message: "kubelet stopped".into() }])
    };
    fails_alone(&Facts { nodes: node(false, true), ..good() }, "nodes-ready", Exit::NotReady, "kubelet stopped");
    fails_alone(&Facts { nodes: node(true, false), ..good() }, "nodes-ready", Exit::NotReady, "cordoned");
    fails_alone(&Facts { nodes: seen(vec![]), ..good() }, "nodes-ready", Exit::NotReady, "no node");
}

#[test]
fn a_terminating_namespace_tells_what_holds_it_and_is_left_alone() {
    let held = NamespacePhase::Terminating(vec!["finalizers ameide.dev/hold".into()]);
    let facts = Facts { namespaces: seen(vec![("ameide".into(), held)]), ..good() };
    let fix = fails_alone(&facts, "namespaces-active", Exit::NamespaceTerminating, "ameide.dev/hold");
    assert_eq!(fix, None);
    let facts = Facts { namespaces: seen(vec![("ameide".into(), NamespacePhase::Absent)]), ..good() };
    let fix = fails_alone(&facts, "namespaces-active", Exit::NotReady, "does not exist");
    assert_eq!(fix, Some(Fix::Layers(vec!["10-bootstrap".into()])));
}

#[test]
fn a_registry_that_is_silent_or_lacks_an_image_is_not_warm() {
    let silent = Failure::new(Code::RegistryUnreachable, "does not answer");
    let filled = Pods { pull_secrets: vec![], ..good().pods.result.unwrap() };
    let facts = Facts { registry: unseen(silent), pods: seen(filled.clone()), ..good() };
    assert_eq!(fails_alone(&facts, "registry-warm", Exit::Registry, "does not answer"), Some(Fix::Cluster));
    let lacking = Images { total: 7, findings: vec!["third-party/redis is missing".into()] };
    let facts = Facts { images: seen(lacking), pods: seen(filled), ..good() };
    assert_eq!(fails_alone(&facts, "registry-warm", Exit::Registry, "third-party/redis"), Some(Fix::Mirror));
}

#[test]
fn an_image_from_elsewhere_is_named_with_its_pod() {
    let pods = Pods { from_elsewhere: vec!["ameide/x: docker.io/x".into()], pull_secrets: vec![], mirrored: 1 };
    fails_alone(&Facts { pods: seen(pods), ..good() }, "images-mirrored", Exit::Registry, "ameide/x: docker.io/x");
}

#[test]
fn pull_secrets_matter_only_while_the_mirror_is_not_complete() {
    let with = |state: SecretState, findings: &[&str]| {
        let secret = PullSecret { namespace: "ameide".into(), name: "dockerhub-creds".into(), state };
        let pods = Pods { pull_secrets: vec![secret], ..good().pods.result.unwrap() };
        let findings = findings.iter().map(|text| (*text).to_owned()).collect();
        item(&Facts { pods: seen(pods), images: seen(Images { total: 7, findings }), ..good() }, "pull-secrets")
    };
    assert!(with(SecretState::Absent, &[]).evidence[0].contains("not needed"));
    assert_eq!(with(SecretState::Filled, &["redis is missing"]).state, State::Pass);
    for (state, words) in [(SecretState::Absent, "does not exist"), (SecretState::Empty, "no credentials")] {
        let item = with(state, &["redis is missing"]);
        assert_eq!((item.state, item.exit), (State::Fail, Some(Exit::Registry)));
        assert!(item.evidence[0].contains(words), "{item:?}");
    }
}

#[test]
fn every_pending_state_of_a_release_is_named() {
    for status in [Status::PendingInstall, Status::PendingUpgrade, Status::PendingRollback, Status::Uninstalling] {
        let facts = Facts { revisions: seen(vec![revision(status)]), ..good() };
        let item = item(&facts, "no-pending-release");
        assert_eq!((item.exit, item.fix), (Some(Exit::Release), Some(Fix::Repair)));
        assert!(item.evidence[0].contains(status.as_str()), "{:?}", item.evidence);
        assert_eq!(first_failure(&decide(&facts)).unwrap().exit(), Exit::Release);
    }
}

#[test]
fn a_failed_or_absent_release_is_named_with_its_layer() {
    let layer = Some(Fix::Layers(vec!["45-data-plane-ext".into()]));
    let facts = Facts { revisions: seen(vec![revision(Status::Failed)]), ..good() };
    assert_eq!(fails_alone(&facts, "releases-deployed", Exit::Release, "revision 2 is failed"), layer);
    let facts = Facts { revisions: seen(vec![]), ..good() };
    assert_eq!(fails_alone(&facts, "releases-deployed", Exit::NotReady, "layer 45-data-plane-ext"), layer);
}

#[test]
fn a_workload_that_is_not_ready_is_named() {
    let layer = Some(Fix::Layers(vec!["45-data-plane-ext".into()]));
    let with = |workload: Workload| Facts { workloads: seen(vec![workload]), ..good() };
    assert_eq!(fails_alone(&with(minio(1, 0)), "workloads-ready", Exit::NotReady, "0 of 1 ready"), layer);
    fails_alone(&with(minio(0, 0)), "workloads-ready", Exit::NotReady, "scaled to 0");
    let job = |trouble: Option<&str>| Workload {
        name: "job/temporal-schema".into(),
        trouble: trouble.map(str::to_owned),
        ..minio(1, 0)
    };
    fails_alone(&with(job(Some("BackoffLimitExceeded"))), "workloads-ready", Exit::NotReady, "BackoffLimitExceeded");
    assert_eq!(item(&with(job(None)), "workloads-ready").state, State::Pass, "a Job at work is no trouble");
    fails_alone(&Facts { workloads: seen(vec![]), ..good() }, "workloads-ready", Exit::NotReady, "none");
}

#[test]
fn what_others_changed_is_named_and_what_was_not_compared_is_no_drift() {
    let with = |drift: Seen<Drifted>| Facts { drift, ..good() };
    let change = |text: &str, taken| Change { layer: "45-data-plane-ext".into(), text: text.into(), taken };
    let of = |found: Vec<Change>| with(seen(Drifted { compared: 1, found }));
    let gone = of(vec![change("Service ameide/minio is gone", false)]);
    assert_eq!(
        fails_alone(&gone, "nothing-drifted", Exit::Release, "minio is gone"),
        Some(Fix::Layers(vec!["45-data-plane-ext".into()]))
    );
    let taken = of(vec![change("spec.type was changed by kubectl-edit", true)]);
    assert_eq!(fails_alone(&taken, "nothing-drifted", Exit::Release, "kubectl-edit"), None);
    let remedy = item(&taken, "nothing-drifted").remedy.unwrap();
    assert!(remedy.ends_with("layer 45-data-plane-ext --force-conflicts"), "{remedy}");
    for unknown in [seen(Drifted::default()), unseen(Failure::new(Code::Forbidden, "not allowed"))] {
        assert_eq!(item(&with(unknown), "nothing-drifted").state, State::Unknown);
    }
}

#[test]
fn a_test_that_failed_is_named_and_one_that_never_ran_is_told() {
    let facts = Facts { tests: seen(vec![test_run("Failed")]), ..good() };
    assert_eq!(
        fails_alone(&facts, "smoke-tests", Exit::TestsFailed, "minio-test"),
        Some(Fix::Layers(vec!["45-data-plane-ext".into()]))
    );
    let never = TestRun { phase: None, completed: None, ..test_run("") };
    let never = item(&Facts { tests: seen(vec![never]), ..good() }, "smoke-tests");
    assert_eq!(never.state, State::Unknown);
    assert!(never.evidence[0].contains("not yet for minio revision 2"), "{never:?}");
}

#[test]
fn the_first_failed_item_gives_the_exit_code() {
    let facts = Facts {
        namespaces: seen(vec![("ameide".into(), NamespacePhase::Terminating(vec![]))]),
        revisions: seen(vec![revision(Status::PendingUpgrade)]),
        ..good()
    };
    let failure = first_failure(&decide(&facts)).unwrap();
    assert_eq!(failure.exit(), Exit::NamespaceTerminating);
    assert!(failure.message.contains("and 2 more"), "{failure}");
}

#[test]
fn a_usual_remedy_can_be_pasted_and_a_wrong_file_has_none() {
    for definition in ITEMS {
        let fails = |exit: Exit| {
            let trouble = fail(exit, vec!["x".to_owned()]);
            super::item(definition, (Verdict::Fail(trouble), Duration::ZERO)).remedy
        };
        assert!(!fails(Exit::NotReady).unwrap().contains('`'), "{}", definition.id);
        assert_eq!(fails(Exit::Usage), None, "{}", definition.id);
    }
}
