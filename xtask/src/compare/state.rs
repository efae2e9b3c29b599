//! How a layer's releases stand, and what is done about it: one closed list of states,
//! one function from what was seen to a state, one from a state to an action. Nothing is
//! looked at or done here, so that each row is tested without a cluster.

use std::fmt;

use crate::world::helm_storage::Status;

/// What somebody did to an object that Helm made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drift {
    /// `Deployment ameide/minio`
    pub object: String,
    /// `.spec.replicas`; none where the object itself is gone or another one.
    pub field: Option<String>,
    /// Who did it, as the API server noted: `kubectl-scale`.
    pub manager: Option<String>,
    /// How long ago, by the API server's clock: `3 min`.
    pub ago: Option<String>,
    /// What happened, where it is no field: `is gone`.
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

/// How one release stands to what the tree says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReleaseState {
    /// The tree wants it, and no revision of it is there.
    Absent,
    /// Somebody works on it now; says who.
    Owned(String),
    /// Its newest revision is one that nobody finishes any more; says which.
    Stuck(String),
    /// The tree says otherwise by now, or it cannot be told that it does not; says why.
    OutOfSync(String),
    /// As the tree says, but for what others have changed since on what Helm made.
    Drifted(Vec<Drift>),
    /// As the tree says, and something of it does not run; says what.
    Unhealthy(String),
    /// As the tree says, and whole; its tests have not passed on this revision.
    Untested,
    /// As the tree says, whole, and tested.
    InSync,
}

impl ReleaseState {
    /// Why it is not in sync, as a line of the run says it.
    pub fn why(&self) -> String {
        match self {
            Self::Absent => "it is not installed".to_owned(),
            Self::Owned(who) => format!("{who} works on it"),
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

/// What was found out of the newest revision's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// None is there, or none that is to be believed; says why.
    None(String),
    /// It holds for this revision and this cluster.
    Whole {
        /// Why the rendering may differ from the recorded one; none where nothing did that
        /// decides it.
        inputs: Option<String>,
        tested: bool,
    },
}

/// What was seen of one release.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The tree wants it installed.
    pub installed: bool,
    /// The highest revision and its label; none where none is there.
    pub newest: Option<(u32, Status)>,
    /// Who works on it, where anybody is known to.
    pub owner: Option<String>,
    pub kept: Kept,
    /// What rendering it anew has shown; none where it was not rendered.
    pub rendering: Option<Rendering>,
    pub drifts: Vec<Drift>,
    /// What of it does not run.
    pub ailing: Vec<String>,
}

/// A fresh rendering beside the recorded one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rendering {
    Same,
    Different,
}

/// The state that these facts make.
pub(crate) fn determine(facts: &Facts) -> ReleaseState {
    let Some((revision, status)) = facts.newest.filter(|(_, status)| *status != Status::Uninstalled) else {
        return if facts.installed { ReleaseState::Absent } else { ReleaseState::InSync };
    };
    if status.is_pending() || matches!(status, Status::Uninstalling | Status::Unknown | Status::Other) {
        return match &facts.owner {
            Some(who) => ReleaseState::Owned(who.clone()),
            None => ReleaseState::Stuck(format!("revision {revision} is {}", status.as_str())),
        };
    }
    if !facts.installed {
        return ReleaseState::OutOfSync("the tree says that it is not to be installed".to_owned());
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
    /// Its tests alone.
    Test,
    /// Whoever works on it is waited for, what nobody finishes is repaired, and Helm brings
    /// it to what the tree says; its tests follow.
    Sync,
}

/// What is done about a release in this state. `force` syncs whatever the state is;
/// without `tests` none are run, nor missed.
pub(crate) fn act(state: &ReleaseState, force: bool, tests: bool) -> Action {
    match state {
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
                ReleaseState::InSync,
                Action::Nothing,
            ),
            (
                "not wanted, and there",
                |facts| facts.installed = false,
                ReleaseState::OutOfSync("the tree says that it is not to be installed".into()),
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
            assert_eq!(act(&found, true, true), Action::Sync, "{name}, forced");
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
