//! Consent, of two kinds that never imply each other.
//!
//! For what loses nothing (installing Docker, marking an unknown owner's old revision as failed),
//! the terminal asks, or `--yes` consents. For what destroys, the terminal asks, and elsewhere a
//! flag must name what may be lost: `--allow-destroy=cluster,registry,release,claim`. A function
//! that destroys takes a [`Consent`], which only [`Given::may_destroy`] can create.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::marker::PhantomData;

use clap::ValueEnum;
use rustix::termios::{self, QueueSelector};

use crate::run::interrupt::Interrupt;
use crate::run::reporter::Reporter;
use run_record::{Code, Failure};

/// What can be lost, as `--allow-destroy` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// The cluster with everything deployed on it
    Cluster,
    /// The registry container with its images
    Registry,
    /// A Helm release with its objects
    Release,
    /// With `release`: its claims, volumes and whatever else of it holds data
    Claim,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Registry => "registry",
            Self::Release => "release",
            Self::Claim => "claim",
        }
    }
}

/// The variable that replaces the flag, for CI.
const VARIABLE: &str = "XTASK_ALLOW_DESTROY";

/// The one that replaces `--yes`.
const CONFIRM: &str = "XTASK_CONFIRM";

fn confirmed_by(variable: &str) -> Result<bool, Failure> {
    match variable {
        "1" => Ok(true),
        "" | "0" => Ok(false),
        other => Err(Failure::usage(format!("{CONFIRM}: {other:?}: expected 1 to consent, or 0"))),
    }
}

/// What a [`Consent`] covers.
pub trait Lost {
    const KINDS: &'static [Kind];
}

pub enum Cluster {}
pub enum Registry {}
pub enum Release {}
pub enum Claim {}

impl Lost for Cluster {
    const KINDS: &'static [Kind] = &[Kind::Cluster];
}

impl Lost for Registry {
    const KINDS: &'static [Kind] = &[Kind::Registry];
}

impl Lost for Release {
    const KINDS: &'static [Kind] = &[Kind::Release];
}

impl Lost for Claim {
    const KINDS: &'static [Kind] = &[Kind::Claim];
}

/// Both in one question.
impl Lost for (Cluster, Registry) {
    const KINDS: &'static [Kind] = &[Kind::Cluster, Kind::Registry];
}

impl Lost for (Release, Claim) {
    const KINDS: &'static [Kind] = &[Kind::Release, Kind::Claim];
}

/// Proof that somebody consented to losing `L`. It cannot be created or copied elsewhere.
#[must_use = "consent is asked for to be used"]
pub struct Consent<L: Lost>(PhantomData<L>);

impl Consent<(Cluster, Registry)> {
    pub fn split(self) -> (Consent<Cluster>, Consent<Registry>) {
        (Consent(PhantomData), Consent(PhantomData))
    }
}

impl Consent<(Release, Claim)> {
    pub fn split(self) -> (Consent<Release>, Consent<Claim>) {
        (Consent(PhantomData), Consent(PhantomData))
    }
}

/// What was consented to before the run began.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// To what loses nothing.
    yes: bool,
    /// To losing these.
    destroy: BTreeSet<Kind>,
}

fn allowed_by(flag: &[Kind], variable: &str) -> Result<BTreeSet<Kind>, Failure> {
    let mut allowed: BTreeSet<Kind> = flag.iter().copied().collect();
    for name in variable.split([',', ' ']).filter(|name| !name.is_empty()) {
        let kind = Kind::from_str(name, false).map_err(|_| {
            let known: Vec<&str> = Kind::value_variants().iter().map(|kind| kind.name()).collect();
            Failure::usage(format!("{VARIABLE}: {name:?} is not one of {}", known.join(", ")))
        })?;
        allowed.insert(kind);
    }
    Ok(allowed)
}

fn list(kinds: &[Kind]) -> String {
    kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(",")
}

fn needed(what: &str, remedy: String) -> Failure {
    Failure::new(Code::ConsentNeeded, format!("this would {what}, and nobody can be asked here"))
        .evidence("none of that was done")
        .remedy(remedy)
}

impl Given {
    /// Combines the flags with `XTASK_CONFIRM` and `XTASK_ALLOW_DESTROY`.
    ///
    /// # Errors
    /// `usage` for what the variables cannot mean; an empty variable counts as unset.
    pub fn by(yes: bool, destroy: &[Kind]) -> Result<Self, Failure> {
        let confirmed = confirmed_by(&std::env::var(CONFIRM).unwrap_or_default())?;
        let destroy = allowed_by(destroy, &std::env::var(VARIABLE).unwrap_or_default())?;
        Ok(Self { yes: yes || confirmed, destroy })
    }

    /// Whether losing this was named. This is not consent: it decides what the question mentions.
    pub fn names(&self, kind: Kind) -> bool {
        self.destroy.contains(&kind)
    }

    /// Asks for consent to something that loses nothing, but that nobody wants done unasked.
    ///
    /// # Errors
    /// `consent-needed`; `interrupted` by a signal during the question.
    pub async fn confirm(&self, reporter: &Reporter, what: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !can_ask() {
            return Err(needed(what, "run it again with --yes (or XTASK_CONFIRM=1)".to_owned()));
        }
        ask(reporter, what).await
    }

    /// Asks for consent to losing `L`. `what` names all of it, and follows "this would". `--yes`
    /// does not count.
    ///
    /// # Errors
    /// `consent-needed`; `interrupted` by a signal during the question.
    pub async fn may_destroy<L: Lost>(&self, reporter: &Reporter, what: &str) -> Result<Consent<L>, Failure> {
        let names = list(L::KINDS);
        if L::KINDS.iter().all(|kind| self.destroy.contains(kind)) {
            reporter.note("consent", format!("--allow-destroy={names}: {what}"));
        } else if can_ask() {
            ask(reporter, what).await?;
        } else {
            let remedy =
                format!("run it again with --allow-destroy={names} (or {VARIABLE}={names}); --yes is not enough");
            return Err(needed(what, remedy));
        }
        Ok(Consent(PhantomData))
    }
}

async fn ask(reporter: &Reporter, what: &str) -> Result<(), Failure> {
    // One question at a time, even if layers run in parallel.
    static ASKING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _one = ASKING.lock().await;
    // What was typed before it was asked answers something else.
    let _ = termios::tcflush(std::io::stdin(), QueueSelector::IFlush);
    reporter.prompt(&format!("This would {what}. Continue? [y/N] "));
    let (sender, answer) = tokio::sync::oneshot::channel();
    // A separate thread that nothing waits for: reading a terminal cannot be cancelled, and the
    // runtime would wait for its own blocking task.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line).map(|_| line);
        let _ = sender.send(read);
    });
    let interrupt = Interrupt::global();
    let answer = interrupt.or(answer).await?;
    interrupt.check()?;
    match answer {
        Ok(Ok(line)) if matches!(line.trim(), "y" | "Y" | "yes") => Ok(()),
        _ => Err(Failure::new(Code::ConsentNeeded, "not confirmed: none of that was done")),
    }
}

fn can_ask() -> bool {
    // Whoever reads the terminal from the background is stopped, and what it started is not.
    let in_background = termios::tcgetpgrp(std::io::stdin()).is_ok_and(|group| group != rustix::process::getpgrp());
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal() && !in_background
}

#[cfg(test)]
mod tests {
    use super::*;
    use run_record::Exit;

    #[test]
    fn the_variable_stands_for_the_flag_and_a_wrong_name_is_told() {
        let both = BTreeSet::from([Kind::Cluster, Kind::Release]);
        for (flag, variable) in [
            (&[Kind::Cluster][..], "release"),
            (&[], "cluster,release"),
            (&[], " release cluster,"),
            (&[Kind::Release, Kind::Cluster], ""),
        ] {
            assert_eq!(allowed_by(flag, variable).unwrap(), both, "{variable:?}");
        }
        assert!(allowed_by(&[], "").unwrap().is_empty());
        for wrong in ["all", "1", "true", "Cluster", "cluster;release"] {
            let failure = allowed_by(&[], wrong).unwrap_err();
            assert!(failure.exit() == Exit::Usage && failure.message.contains(wrong), "{failure}");
            assert!(failure.message.contains("cluster, registry, release"), "{failure}");
        }
    }

    #[test]
    fn what_the_variable_for_yes_cannot_mean_is_told() {
        for (variable, expected) in [("", Some(false)), ("0", Some(false)), ("1", Some(true)), ("yes", None)] {
            assert_eq!(confirmed_by(variable).ok(), expected, "{variable:?}");
        }
        assert!(confirmed_by("yes").unwrap_err().message.starts_with("XTASK_CONFIRM: \"yes\""));
    }

    #[test]
    fn names_on_the_command_line_and_in_messages_are_one() {
        for kind in Kind::value_variants() {
            assert_eq!(kind.to_possible_value().unwrap().get_name(), kind.name());
        }
    }
}
