//! What controllers report about what they cannot create or keep.

use run_record::Code;

use super::api::{API_ANSWERS, WEBHOOKS};
use super::kubelet::VOLUME;
use super::table::{Reason, Row, harmless, row};

/// What controllers report that they cannot create: usually an answer of the API, which they retry
/// until it changes.
pub(super) const CONTROLLER: &[Reason] = &[
    Reason {
        of: &[
            "FailedCreate",
            "ReplicaSetCreateError",
            "FailedDaemonPod",
            "FailedUpdate",
            "ReplicaFailure",
            "RolloutFailed",
        ],
        texts: &[TRIED_AGAIN, WEBHOOKS, API_ANSWERS],
        rest: None,
    },
    Reason {
        of: &["ProvisioningFailed", "FailedBinding", "FailedAttachVolume", "VolumeMismatch", "ClaimLost"],
        texts: &[VOLUME],
        rest: Some(Code::VolumePending),
    },
    Reason { of: JOB_FAILED, texts: &[], rest: Some(Code::HookFailed) },
    Reason { of: &["FailedPlacement"], texts: &[], rest: Some(Code::Unschedulable) },
    Reason { of: &["NodeNotReady"], texts: &[], rest: Some(Code::NodeRuntime) },
    Reason { of: &["TaintManagerEviction"], texts: &[TAINTED], rest: None },
    Reason {
        of: &["UnparseableCronJobSchedule", "InvalidSchedule", "UnknownTimeZone", "SelectingAll"],
        texts: &[],
        rest: Some(Code::ObjectInvalid),
    },
    // external-secrets.
    Reason { of: &["UpdateFailed"], texts: &[SECRET_STORE], rest: None },
];

/// Why a Job has failed: the same in its events and in its condition.
pub(super) const JOB_FAILED: &[&str] =
    &["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy", "FailedIndexes", "MaxFailedIndexesExceeded"];

/// Just a slow API: the controller retries.
const TRIED_AGAIN: &[Row] =
    &[harmless(&[&["could not be completed at this time"], &["object has been modified"], &["already exists"]])];

const TAINTED: &[Row] = &[row(Code::NodeRuntime, &[&["marking for deletion"]])];

const SECRET_STORE: &[Row] = &[row(
    Code::LayerMissing,
    &[&["could not get clustersecretstore"], &["could not get secretstore"], &["secretstore", "not found"]],
)];
