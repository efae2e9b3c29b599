//! The final adjustment of the failure that ends a run: its remedy must work when pasted, in this
//! environment, and never create or repair a cluster that this tool does not manage.

use run_record::{Code, Exit, Failure};

use crate::repo::Repo;
use crate::repo::environment;
use crate::run::context::Site;
use crate::world::kubernetes;

/// The failure, with its remedy adapted to this environment.
pub fn fitting(repo: &Repo, site: &Site, mut failure: Failure) -> Failure {
    let remedy = failure.remedy.take();
    failure.remedy = remedy.map(|remedy| match &repo.env.cluster.k3d {
        None if says_cluster(&remedy) => of_shared(repo, site, failure.code),
        _ => with_flags(&remedy, &flags(repo, site)),
    });
    // A port that `open` listens on belongs to the container itself.
    let published = failure.remedy.as_ref().is_some_and(|remedy| remedy.contains("k3d.yaml"));
    if failure.code == Code::PortTaken && published && site.inside.is_some() {
        failure = outside(failure);
    }
    failure
}

/// In a container whose engine is outside, the engine publishes ports on the machine that it runs
/// on; the output of `ss` here is useless.
fn outside(failure: Failure) -> Failure {
    failure
        .evidence("Docker Engine is outside of this container: the port is one of the machine that it runs on")
        .remedy("see there who holds the port (`ss -ltnp`; macOS: `lsof -iTCP -sTCP:LISTEN`), and stop that or change the port in k3d.yaml or env.yaml")
}

fn of_shared(repo: &Repo, site: &Site, code: Code) -> String {
    if code.exit() == Exit::Registry {
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
fn flags(repo: &Repo, site: &Site) -> Flags {
    let flag = |name: &str, value: &str, default: &str| {
        if value == default { String::new() } else { format!("--{name} {value} ") }
    };
    Flags {
        context: flag("context", &site.kube_context, &repo.env.cluster.context),
        env: flag("env", &repo.env_name, environment::DEFAULT),
    }
}

/// Each empty, or followed by a space.
struct Flags {
    context: String,
    env: String,
}

/// Adds the flags to each of this tool's commands; the environment only where none is named.
fn with_flags(remedy: &str, Flags { context, env }: &Flags) -> String {
    let mut parts = remedy.split("cargo xtask ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, rest| {
        let env = if rest.starts_with("--env") { "" } else { env };
        format!("{text}cargo xtask {context}{env}{rest}")
    })
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

    #[test]
    fn a_remedy_names_context_and_environment_once_and_a_shared_cluster_is_not_made_here() {
        for (remedy, named) in [
            ("cargo xtask cluster", "cargo xtask --env ci cluster"),
            ("cargo xtask --env ci cluster", "cargo xtask --env ci cluster"),
            (
                "wait, then cargo xtask layer 10; or cargo xtask up",
                "wait, then cargo xtask --env ci layer 10; or cargo xtask --env ci up",
            ),
            ("docker login", "docker login"),
        ] {
            let flags = |context: &str, env: &str| Flags { context: context.to_owned(), env: env.to_owned() };
            assert_eq!(with_flags(remedy, &flags("", "--env ci ")), named);
            assert_eq!(with_flags(remedy, &flags("", "")), remedy);
            let elsewhere = named.replace("cargo xtask ", "cargo xtask --context b ");
            assert_eq!(with_flags(remedy, &flags("--context b ", "--env ci ")), elsewhere);
        }
        for remedy in ["cargo xtask cluster", "see the log; cargo xtask --env staging cluster recreate"] {
            assert!(says_cluster(remedy), "{remedy}");
        }
        for remedy in ["cargo xtask layer 10", "look at the cluster", "cargo xtask --env staging up"] {
            assert!(!says_cluster(remedy), "{remedy}");
        }
    }
}
