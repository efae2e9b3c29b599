//! Why the scheduler finds no node for a pod.

use run_record::Code;

use super::table::{Reason, Row, harmless, row};

pub(super) const SCHEDULER: &[Reason] = &[
    Reason {
        of: &["FailedScheduling", "Unschedulable", "SchedulingGated", "SchedulerError"],
        texts: &[SCHEDULING],
        rest: Some(Code::Unschedulable),
    },
    Reason { of: &["Preempted"], texts: &[], rest: Some(Code::Unschedulable) },
];

pub(super) const SCHEDULING: &[Row] = &[
    harmless(&[&["skip schedule deleting pod"], &["object has been modified"], &["operation cannot be fulfilled"]]),
    // If some nodes lack capacity, the problem is not their health.
    row(Code::Unschedulable, &[&["insufficient "], &["too many pods"]]),
    row(Code::DiskFull, &[&["disk-pressure"]]),
    row(
        Code::NodeRuntime,
        &[
            &["node.kubernetes.io/not-ready"],
            &["node.kubernetes.io/unreachable"],
            &["node.kubernetes.io/network-unavailable"],
        ],
    ),
    row(
        Code::VolumePending,
        &[
            &["unbound immediate persistentvolumeclaims"],
            &["persistentvolumeclaim \""],
            &["volume node affinity conflict"],
            &["persistentvolume's node affinity"],
            &["enough free storage"],
            &["due to", "pvc"],
            &["volume limit"],
            &["persistent volumes to bind"],
            &["volumebinding"],
            &["binding volumes"],
            &["max volume count"],
            &["non-existent persistentvolume"],
            &["storageclass"],
        ],
    ),
];
