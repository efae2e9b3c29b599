//! What is done about a revision that Helm has not finished, by its status, its owner and its age.

use std::time::Duration;

use jiff::SignedDuration;
use serde::Serialize;

use crate::world::helm_storage::Status;

/// Whether somebody is still working on a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "owner")]
pub enum Owner {
    /// With who it is: a helm process on this machine, the holder of the lock or of the Lease.
    Alive { who: String },
    /// A run of this machine that has ended: we hold its lock now.
    Dead { run: String },
    /// Nobody that there is a record of: only then does age decide.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "plan")]
pub enum Plan {
    /// Nothing to do.
    Leave,
    WaitFor {
        who: String,
    },
    /// Too young to count as orphaned; it will in this many seconds.
    TooYoung {
        seconds: u64,
    },
    /// Nobody will finish it: mark it failed and upgrade.
    MarkFailed,
    /// An unfinished uninstall of a release that the tree wants: a person decides.
    HalfUninstalled,
}

/// The decision table. `age` is how long nobody has written the revision, negative if the clock
/// went back; `age` and `orphan_after` only matter for unknown owners.
pub fn decide(status: Status, owner: &Owner, age: SignedDuration, orphan_after: Duration) -> Plan {
    let working = status.is_pending() || status == Status::Uninstalling;
    let left = SignedDuration::try_from(orphan_after).unwrap_or(SignedDuration::MAX).saturating_sub(age);
    match owner {
        Owner::Alive { who } if working => Plan::WaitFor { who: who.clone() },
        Owner::Unknown if working && left.is_positive() => {
            Plan::TooYoung { seconds: left.as_secs().max(1).unsigned_abs() }
        }
        _ if status.is_pending() => Plan::MarkFailed,
        _ if status == Status::Uninstalling => Plan::HalfUninstalled,
        // Nobody works on such a revision, and Helm upgrades no release without a deployed
        // revision.
        _ if status == Status::Unknown => Plan::MarkFailed,
        // Helm continues from these by itself.
        _ => Plan::Leave,
    }
}

/// The minimum age from which an unknown owner's pending release counts as orphaned.
pub const ORPHAN_AFTER: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: SignedDuration = SignedDuration::from_secs(10);
    const OLD: SignedDuration = SignedDuration::from_secs(301);

    #[test]
    fn every_row_of_the_recovery_table() {
        let alive = Owner::Alive { who: "helm (pid 7)".into() };
        let dead = Owner::Dead { run: "r".into() };
        let wait = Plan::WaitFor { who: "helm (pid 7)".into() };
        let pending = [Status::PendingInstall, Status::PendingUpgrade, Status::PendingRollback];
        for status in pending {
            for age in [YOUNG, OLD] {
                assert_eq!(decide(status, &alive, age, ORPHAN_AFTER), wait, "{status:?}");
                assert_eq!(decide(status, &dead, age, ORPHAN_AFTER), Plan::MarkFailed, "{status:?}");
            }
            assert_eq!(
                decide(status, &Owner::Unknown, YOUNG, ORPHAN_AFTER),
                Plan::TooYoung { seconds: 290 },
                "{status:?}"
            );
            assert_eq!(decide(status, &Owner::Unknown, OLD, ORPHAN_AFTER), Plan::MarkFailed, "{status:?}");
        }
        for owner in [&dead, &Owner::Unknown] {
            assert_eq!(decide(Status::Uninstalling, owner, OLD, ORPHAN_AFTER), Plan::HalfUninstalled);
            assert_eq!(decide(Status::Unknown, owner, YOUNG, ORPHAN_AFTER), Plan::MarkFailed);
        }
        assert_eq!(decide(Status::Uninstalling, &dead, YOUNG, ORPHAN_AFTER), Plan::HalfUninstalled);
        assert_eq!(
            decide(Status::Uninstalling, &Owner::Unknown, YOUNG, ORPHAN_AFTER),
            Plan::TooYoung { seconds: 290 },
            "somebody may be uninstalling it"
        );
        assert_eq!(decide(Status::Uninstalling, &alive, OLD, ORPHAN_AFTER), wait);
        for status in [Status::Deployed, Status::Failed, Status::Superseded, Status::Uninstalled, Status::Other] {
            for owner in [&alive, &dead, &Owner::Unknown] {
                assert_eq!(decide(status, owner, OLD, ORPHAN_AFTER), Plan::Leave, "{status:?} {owner:?}");
            }
        }
    }

    #[test]
    fn a_clock_that_went_back_makes_no_orphan() {
        let plan = |age: i64, after: u64| {
            let age = SignedDuration::from_secs(age);
            decide(Status::PendingUpgrade, &Owner::Unknown, age, Duration::from_secs(after))
        };
        assert_eq!(plan(-3600, 300), Plan::TooYoung { seconds: 3900 });
        assert_eq!(plan(299, 300), Plan::TooYoung { seconds: 1 });
        assert_eq!(plan(300, 300), Plan::MarkFailed);
        assert_eq!(plan(0, 0), Plan::MarkFailed);
        assert!(matches!(plan(i64::MIN, u64::MAX), Plan::TooYoung { .. }));
        assert!(matches!(plan(i64::MAX, u64::MAX), Plan::TooYoung { .. } | Plan::MarkFailed));
    }
}
