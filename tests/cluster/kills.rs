//! Runs that are killed, and many at once: the next one converges, nothing is lost, and no two
//! Helmfile runs on one cluster ever overlap.

use std::process::Command;
use std::time::{Duration, Instant};

use duct::Handle;
use serde_json::json;

use crate::support::cluster::{
    Alone, Tree, beside, context, ended, helm_processes, image, kill, kills_of, kubectl, layer, mc, pull_registry,
    random, releases, state, turn, unheard,
};
use crate::support::{eventually, succeeds, tool};

/// How often to check whether a run has ended.
const LOOK: Duration = Duration::from_millis(15);

#[test]
fn twenty_runs_at_once_take_turns() {
    let tree = turn();
    layer(&tree, "fine", json!({"image": image(&tree, &pull_registry(&tree))}));
    let (alone, started) = (Alone::new(), Instant::now());
    let children: Vec<Handle> =
        (0..20).map(|_| beside(&watched(&tree, &alone, &["layer", "fine", "--force"]))).collect();
    for child in children {
        let (code, said) = ended(&child);
        assert_eq!(code, Some(0), "{said}");
    }
    assert_eq!(alone.never_overlapped(), 20);
    println!("twenty at once: {:.0} s", started.elapsed().as_secs_f64());
}

/// A run whose Helmfile reports if it is not alone.
fn watched(tree: &Tree, alone: &Alone, arguments: &[&str]) -> Command {
    let mut command = tree.xtask(arguments);
    command.env("AMEIDE_CACHE_DIR", alone.cache());
    command
}

/// The processes that a round kills.
#[derive(Clone, Copy, Debug)]
enum Victims {
    All,
    Xtask,
    Helmfile,
    Helm,
}

/// Kills these processes; Helm's first, which would end cleanly if the others were gone.
fn kill_helm(victims: Victims) -> usize {
    let (helmfile, helm): (Vec<_>, Vec<_>) =
        helm_processes().into_iter().partition(|(_, line)| line.contains("helmfile --file"));
    let victims = match victims {
        Victims::All => [helm, helmfile].concat(),
        Victims::Helm => helm,
        Victims::Helmfile => helmfile,
        Victims::Xtask => Vec::new(),
    };
    kill(&victims);
    victims.len()
}

/// Kills helm, and what started it, once the release is in this state, so that it stays in it.
fn kill_while(tree: &Tree, state: &str) {
    let is = || releases().iter().any(|(name, status)| name == "minio" && status == state);
    let child = unheard(&tree.xtask(&["layer", "45", "--skip-tests", "--force"]));
    eventually(state, is);
    kill_helm(Victims::All);
    child.kill().unwrap();
    assert!(is(), "helm was killed while the release was {state}: {:?}", releases());
}

/// Asserts that the next run converges by itself.
fn converges(tree: &Tree) {
    let said = succeeds(tree.xtask(&["layer", "45", "--skip-tests"]));
    println!("{said}");
    all_deployed();
}

fn all_deployed() {
    let releases = releases();
    for name in ["minio", "temporal"] {
        assert!(releases.contains(&(name.to_owned(), "deployed".to_owned())), "{releases:?}");
    }
}

#[test]
fn helm_killed_in_an_install_and_in_an_upgrade_of_minio_loses_nothing() {
    let tree = turn();
    mc("mc mb -q --ignore-existing minio/guard && echo kept | mc pipe -q minio/guard/object");
    let kept = || assert!(mc("mc cat minio/guard/object").contains("kept"));
    kill_while(&tree, "pending-upgrade");
    converges(&tree);
    kept();
    let mut uninstall = tool("helm");
    uninstall.args(["--kube-context", &context(), "-n", "ameide", "uninstall", "minio", "--wait"]);
    succeeds(uninstall);
    kill_while(&tree, "pending-install");
    converges(&tree);
    kept();
    mc("mc rb -q --force minio/guard");
}

/// After this many kills in a row, a run is left alone and must converge.
const IN_A_ROW: usize = 3;

#[test]
fn layers_beside_each_other_killed_at_random_moments_always_converge() {
    let tree = turn();
    let mut random = random();
    let wanted = kills_of(12);
    let (mut kills, mut converged) = (0, 0);
    let alone = Alone::new();
    while kills < wanted {
        // Two layers at a time, one of which holds up the other.
        let run = &["layer", "24-45", "--skip-tests", "--force", "--jobs", "2"];
        let child = unheard(&watched(&tree, &alone, run));
        let moment = Duration::from_millis(random.u64(..14_000));
        let victims = match random.u8(..6) {
            0 => Victims::Xtask,
            1 => Victims::Helmfile,
            2 => Victims::Helm,
            _ => Victims::All,
        };
        let started = Instant::now();
        while started.elapsed() < moment && child.try_wait().unwrap().is_none() {
            std::thread::sleep(LOOK);
        }
        if let Some(output) = child.try_wait().unwrap() {
            assert_eq!(output.status.code(), Some(0), "kill {kills}: a rerun that nobody killed");
            all_deployed();
            converged += 1;
            continue;
        }
        let xtask = matches!(victims, Victims::All | Victims::Xtask);
        let killed = kill_helm(victims) + usize::from(xtask);
        if xtask {
            child.kill().unwrap();
        }
        if killed == 0 {
            // None of them was running: this is no kill.
            child.kill().unwrap();
            continue;
        }
        kills += 1;
        // If helm or Helmfile is killed, the run goes on, and may well repair it at once.
        let status = child.wait().unwrap().status;
        println!("kill {kills}: {victims:?} ({killed}) after {moment:?}; {status}");
        if kills % IN_A_ROW != 0 && (xtask || status.success()) {
            continue;
        }
        let (code, said) = ended(&beside(&watched(&tree, &alone, run)));
        assert_eq!(code, Some(0), "after kill {kills}\n{said}");
        all_deployed();
        converged += 1;
    }
    println!("{kills} kills, {converged} runs left to themselves: all converged");
    assert!(converged >= wanted / IN_A_ROW);
    println!("{} syncs, none beside another", alone.never_overlapped());
    let lock = state().lock();
    assert!(!lock.exists(), "{lock} stays");
    let holder = ["-n", "kube-system", "get", "lease", "ameide-deploy", "-o", "jsonpath={.spec.holderIdentity}"];
    assert_eq!(kubectl(&holder), "");
}
