//! The final adjustment of a remedy, of the failure that ends a run or of a check: it must work when
//! pasted, in this environment, and never create or repair a cluster that this tool does not manage.

use run_record::{Code, Exit, Failure};

use crate::repo::{Repo, environment};
use crate::run::commands::Flags;
use crate::run::context::Site;
use crate::world::{kubernetes, process};

/// The failure, with its remedy adapted to this environment.
pub fn fitting(repo: &Repo, site: &Site, mut failure: Failure) -> Failure {
    let remedy = failure.remedy.take();
    failure.remedy = remedy.map(|remedy| adapted(repo, site, failure.exit(), &remedy));
    // A port that `open` listens on belongs to the container itself.
    let published = failure.remedy.as_ref().is_some_and(|remedy| remedy.contains("k3d.yaml"));
    if failure.code == Code::PortTaken && published && site.inside.is_some() {
        failure = outside(failure);
    }
    failure
}

/// A remedy for a failure with this exit code, adapted to this environment. Adapting it again
/// changes nothing.
pub fn adapted(repo: &Repo, site: &Site, exit: Exit, remedy: &str) -> String {
    if repo.env.cluster.k3d.is_none() && says_cluster(remedy) {
        return of_shared(repo, site, exit);
    }
    let kubectl = kubernetes::kubectl_on(&site.kube_context);
    let remedy = remedy.replace("kubectl describe ", &format!("{kubectl} describe "));
    flags(repo, site).put_into(&remedy)
}

/// In a container whose engine is outside, the engine publishes ports on the machine that it runs
/// on; the output of `ss` here is useless.
fn outside(failure: Failure) -> Failure {
    failure
        .evidence("Docker Engine is outside of this container: the port is one of the machine that it runs on")
        .remedy("see there who holds the port (`ss -ltnp`; macOS: `lsof -iTCP -sTCP:LISTEN`), and stop that or change the port in k3d.yaml or env.yaml")
}

fn of_shared(repo: &Repo, site: &Site, exit: Exit) -> String {
    if exit == Exit::Registry {
        return format!("check the network, and that the registry {} answers", repo.env.registry.push);
    }
    kubernetes::bring_back(&site.kube_context)
}

/// Whether a remedy is `cargo xtask cluster` or one of its subcommands.
fn says_cluster(remedy: &str) -> bool {
    let commands = remedy.split("cargo xtask ").skip(1);
    commands.into_iter().any(|rest| {
        let rest = rest.strip_prefix("--env ").and_then(|rest| rest.split_once(' ')).map_or(rest, |(_, rest)| rest);
        rest.starts_with("cluster")
    })
}

/// The flags by which a command reaches the cluster of this run: none by default.
pub fn flags(repo: &Repo, site: &Site) -> Flags {
    let flag = |name: &str, value: &str, default: &str| {
        if value == default { String::new() } else { format!("--{name} {} ", process::for_a_shell(value)) }
    };
    Flags {
        context: flag("context", &site.kube_context, &repo.env.cluster.context),
        env: flag("env", &repo.env_name, environment::DEFAULT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_an_engine_outside_is_one_of_its_machine() {
        let taken = outside(Failure::new(Code::PortTaken, "x").evidence("the engine's words").remedy("ss -ltnp"));
        assert_eq!(taken.evidence.len(), 2);
        assert!(
            taken.evidence[1].contains("the machine that it runs on") && taken.remedy.unwrap().contains("see there")
        );
    }

    fn repo(k3d: Option<&str>) -> Repo {
        let k3d = k3d.map(|path| format!("k3d: {path}, ")).unwrap_or_default();
        let text = format!("cluster: {{{k3d}context: k3d-ci}}\nregistry: {{push: reg:1, pull: reg:1}}\n");
        let env = environment::Environment::parse("env.yaml".into(), &text).unwrap();
        Repo { tree: crate::repo::Tree { root: ".".into() }, env_name: "ci".to_owned(), env }
    }

    #[test]
    fn a_remedy_is_adapted_once_however_often() {
        let site = Site { kube_context: "k3d ci".into(), registry_host: "reg:1".into(), inside: None, lab: None };
        for (k3d, exit, remedy, expected) in [
            (
                Some("k3d.yaml"),
                Exit::NotReady,
                "cargo xtask cluster",
                "cargo xtask --context 'k3d ci' --env ci cluster",
            ),
            (Some("k3d.yaml"), Exit::NotReady, "kubectl describe node", "kubectl --context 'k3d ci' describe node"),
            (None, Exit::Registry, "docker ps; cargo xtask cluster starts it", "registry reg:1 answers"),
            (None, Exit::ApiUnreachable, "cargo xtask cluster", "get --raw /readyz"),
        ] {
            let repo = repo(k3d);
            let once = adapted(&repo, &site, exit, remedy);
            assert!(once.contains(expected), "{once}");
            assert_eq!(adapted(&repo, &site, exit, &once), once);
        }
    }

    #[test]
    fn a_shared_cluster_is_not_made_here() {
        for remedy in ["cargo xtask cluster", "see the log; cargo xtask --env staging cluster recreate"] {
            assert!(says_cluster(remedy), "{remedy}");
        }
        for remedy in ["cargo xtask layer 10", "look at the cluster", "cargo xtask --env staging up"] {
            assert!(!says_cluster(remedy), "{remedy}");
        }
    }
}
