//! The states of a layer's releases, and what is done about each: one closed list of states, one
//! function from facts to a state, one from a state to an action. There are no looks or actions
//! here, so each row is tested without a cluster.

use std::fmt;

use crate::world::helm_storage::Status;

/// What somebody did to an object that Helm made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drift {
    /// `Deployment ameide/minio`
    pub object: String,
    /// `.spec.replicas`; `None` if the object itself is gone or was replaced.
    pub field: Option<String>,
    /// Who did it, as the API server recorded: `kubectl-scale`.
    pub manager: Option<String>,
    /// How long ago, by the API server's clock: `3 min`.
    pub ago: Option<String>,
    /// What happened, if it is not about a field: `is gone`.
    pub what: String,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, field, manager, ago, what } = self;
        match field {
            Some(field) => write!(f, "{object}: {} {what}", field.trim_start_matches('.'))?,
            None => write!(f, "{object} {what}")?,
        }
        if let Some(manager) = manager {
            write!(f, " by {manager}")?;
        }
        if let Some(ago) = ago {
            write!(f, " {ago} ago")?;
        }
        Ok(())
    }
}

/// The state of one release compared with the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReleaseState {
    /// The tree wants it, and it has no revision.
    Absent,
    /// The tree does not want it, and it has no revision.
    NotWanted,
    /// Somebody is working on it now; says who.
    Owned(String),
    /// Nobody will finish its newest revision; says which.
    Stuck(String),
    /// The tree now says something else, or that cannot be excluded; says why.
    OutOfSync(String),
    /// As the tree says, except for what others have changed since in what Helm made.
    Drifted(Vec<Drift>),
    /// As the tree says, but something in it does not run; says what.
    Unhealthy(String),
    /// As the tree says, and healthy; its tests have not passed on this revision.
    Untested,
    /// As the tree says, healthy, and tested.
    InSync,
}

impl ReleaseState {
    /// Why it is not in sync, as a line of the run says it.
    pub fn why(&self) -> String {
        match self {
            Self::Absent => "it is not installed".to_owned(),
            Self::NotWanted => "the tree marks it as not installed".to_owned(),
            Self::Owned(who) => format!("{who} is working on it"),
            Self::Stuck(how) | Self::OutOfSync(how) | Self::Unhealthy(how) => how.clone(),
            Self::Drifted(drifts) => told(drifts),
            Self::Untested => "its tests have not passed on this revision".to_owned(),
            Self::InSync => "nothing has changed".to_owned(),
        }
    }
}

/// The first of them, and how many more there are.
fn told(drifts: &[Drift]) -> String {
    match drifts {
        [] => "something has changed".to_owned(),
        [one] => one.to_string(),
        [one, others @ ..] => format!("{one}, and {} more", others.len()),
    }
}

/// The state of the newest revision's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// There is none, or none that is trustworthy; says why.
    None(String),
    /// It is valid for this revision and this cluster.
    Whole {
        /// Why the rendering may differ from the recorded one; `None` if none of its inputs
        /// changed.
        inputs: Option<String>,
        tested: bool,
    },
}

/// The facts about one release.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The tree wants it installed.
    pub installed: bool,
    /// The highest revision and its label; `None` if there is none.
    pub newest: Option<(u32, Status)>,
    /// Who is working on it, if anybody is known to.
    pub owner: Option<String>,
    pub kept: Kept,
    /// The result of a new rendering; `None` if it was not rendered.
    pub rendering: Option<Rendering>,
    pub drifts: Vec<Drift>,
    /// What in it does not run.
    pub ailing: Vec<String>,
}

/// A new rendering compared with the recorded one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rendering {
    Same,
    Different,
}

/// The state for these facts.
pub(crate) fn determine(facts: &Facts) -> ReleaseState {
    let Some((revision, status)) = facts.newest.filter(|(_, status)| *status != Status::Uninstalled) else {
        return if facts.installed { ReleaseState::Absent } else { ReleaseState::NotWanted };
    };
    if status.is_pending() || matches!(status, Status::Uninstalling | Status::Unknown | Status::Other) {
        return match &facts.owner {
            Some(who) => ReleaseState::Owned(who.clone()),
            None => ReleaseState::Stuck(format!("revision {revision} is {}", status.as_str())),
        };
    }
    if !facts.installed {
        return ReleaseState::OutOfSync("the tree marks it as not installed".to_owned());
    }
    if status != Status::Deployed {
        return ReleaseState::OutOfSync(format!("revision {revision} is {}", status.as_str()));
    }
    let (inputs, tested) = match &facts.kept {
        Kept::None(why) => return ReleaseState::OutOfSync(why.clone()),
        Kept::Whole { inputs, tested } => (inputs, *tested),
    };
    match (&facts.rendering, inputs) {
        (Some(Rendering::Different), why) => {
            let why = why.clone().unwrap_or_else(|| "it renders differently now".to_owned());
            return ReleaseState::OutOfSync(why);
        }
        (None, Some(why)) => return ReleaseState::OutOfSync(why.clone()),
        (Some(Rendering::Same), _) | (None, None) => {}
    }
    if !facts.drifts.is_empty() {
        return ReleaseState::Drifted(facts.drifts.clone());
    }
    if let Some(first) = facts.ailing.first() {
        return ReleaseState::Unhealthy(first.clone());
    }
    if tested { ReleaseState::InSync } else { ReleaseState::Untested }
}

/// What is done about one release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    /// Only its tests.
    Test,
    /// Wait for whoever works on it, repair what nobody will finish, and let Helm deploy what the
    /// tree says; its tests follow.
    Sync,
}

/// What is done about a release in this state. `force` syncs whatever is or should be there; without
/// `tests` none are run or required.
pub(crate) fn act(state: &ReleaseState, force: bool, tests: bool) -> Action {
    match state {
        ReleaseState::NotWanted => Action::Nothing,
        _ if force => Action::Sync,
        ReleaseState::InSync => Action::Nothing,
        ReleaseState::Untested => {
            if tests {
                Action::Test
            } else {
                Action::Nothing
            }
        }
        ReleaseState::Absent
        | ReleaseState::Owned(_)
        | ReleaseState::Stuck(_)
        | ReleaseState::OutOfSync(_)
        | ReleaseState::Drifted(_)
        | ReleaseState::Unhealthy(_) => Action::Sync,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            installed: true,
            newest: Some((3, Status::Deployed)),
            owner: None,
            kept: Kept::Whole { inputs: None, tested: true },
            rendering: None,
            drifts: Vec::new(),
            ailing: Vec::new(),
        }
    }

    fn drift() -> Drift {
        Drift {
            object: "Deployment ameide/minio".into(),
            field: Some(".spec.replicas".into()),
            manager: Some("kubectl-scale".into()),
            ago: Some("3 min".into()),
            what: "was changed".into(),
        }
    }

    #[test]
    fn each_doubt_has_its_state_and_only_a_whole_release_is_left_alone() {
        type Change = fn(&mut Facts);
        let rows: [(&str, Change, ReleaseState, Action); 17] = [
            ("nothing", |_| {}, ReleaseState::InSync, Action::Nothing),
            ("no revision", |facts| facts.newest = None, ReleaseState::Absent, Action::Sync),
            ("uninstalled", |facts| facts.newest = Some((3, Status::Uninstalled)), ReleaseState::Absent, Action::Sync),
            (
                "not wanted, and not there",
                |facts| (facts.installed, facts.newest) = (false, None),
                ReleaseState::NotWanted,
                Action::Nothing,
            ),
            (
                "not wanted, and there",
                |facts| facts.installed = false,
                ReleaseState::OutOfSync("the tree marks it as not installed".into()),
                Action::Sync,
            ),
            (
                "pending",
                |facts| facts.newest = Some((4, Status::PendingUpgrade)),
                ReleaseState::Stuck("revision 4 is pending-upgrade".into()),
                Action::Sync,
            ),
            (
                "pending, and somebody works on it",
                |facts| (facts.newest, facts.owner) = (Some((4, Status::PendingRollback)), Some("anna".into())),
                ReleaseState::Owned("anna".into()),
                Action::Sync,
            ),
            (
                "a word of a later Helm",
                |facts| facts.newest = Some((4, Status::Other)),
                ReleaseState::Stuck("revision 4 is of a later Helm".into()),
                Action::Sync,
            ),
            (
                "failed",
                |facts| facts.newest = Some((4, Status::Failed)),
                ReleaseState::OutOfSync("revision 4 is failed".into()),
                Action::Sync,
            ),
            (
                "no record",
                |facts| facts.kept = Kept::None("no record".into()),
                ReleaseState::OutOfSync("no record".into()),
                Action::Sync,
            ),
            (
                "an input changed",
                |facts| facts.kept = Kept::Whole { inputs: Some("x changed".into()), tested: true },
                ReleaseState::OutOfSync("x changed".into()),
                Action::Sync,
            ),
            (
                "an input changed, and what it renders",
                |facts| {
                    facts.kept = Kept::Whole { inputs: Some("x changed".into()), tested: true };
                    facts.rendering = Some(Rendering::Different);
                },
                ReleaseState::OutOfSync("x changed".into()),
                Action::Sync,
            ),
            (
                "an input changed, and nothing that it renders",
                |facts| {
                    facts.kept = Kept::Whole { inputs: Some("x changed".into()), tested: true };
                    facts.rendering = Some(Rendering::Same);
                },
                ReleaseState::InSync,
                Action::Nothing,
            ),
            ("drift", |facts| facts.drifts = vec![drift()], ReleaseState::Drifted(vec![drift()]), Action::Sync),
            (
                "drift under the same rendering",
                |facts| (facts.rendering, facts.drifts) = (Some(Rendering::Same), vec![drift()]),
                ReleaseState::Drifted(vec![drift()]),
                Action::Sync,
            ),
            (
                "a pod that is not ready",
                |facts| facts.ailing = vec!["0 of 1 ready".into()],
                ReleaseState::Unhealthy("0 of 1 ready".into()),
                Action::Sync,
            ),
            (
                "untested",
                |facts| facts.kept = Kept::Whole { inputs: None, tested: false },
                ReleaseState::Untested,
                Action::Test,
            ),
        ];
        for (name, change, state, action) in rows {
            let mut facts = facts();
            change(&mut facts);
            let found = determine(&facts);
            assert_eq!(found, state, "{name}");
            assert_eq!(act(&found, false, true), action, "{name}");
            let forced = if state == ReleaseState::NotWanted { Action::Nothing } else { Action::Sync };
            assert_eq!(act(&found, true, true), forced, "{name}, forced");
        }
        assert_eq!(act(&ReleaseState::Untested, false, false), Action::Nothing);
    }

    #[test]
    fn a_drift_is_told_with_object_field_who_and_when() {
        let one = drift();
        assert_eq!(one.to_string(), "Deployment ameide/minio: spec.replicas was changed by kubectl-scale 3 min ago");
        let gone = Drift {
            object: "Service ameide/minio".into(),
            field: None,
            manager: None,
            ago: None,
            what: "is gone".into(),
        };
        assert_eq!(gone.to_string(), "Service ameide/minio is gone");
        assert_eq!(ReleaseState::Drifted(vec![gone, one]).why(), "Service ameide/minio is gone, and 1 more");
    }
}
