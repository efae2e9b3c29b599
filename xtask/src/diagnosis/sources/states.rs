//! What the status of a container, a pod or a Job says: facts, of which some are final.

use run_record::Code;

use super::controllers::JOB_FAILED;
use super::kubelet::{CONFIG, PULL, SANDBOX, START};
use super::scheduler::SCHEDULING;
use super::table::{Reason, Row, State, row};

/// The state of a container that is waiting or has ended.
pub(super) const STATES: &[State] = &[
    State {
        reason: Reason { of: &["ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"], texts: &[PULL], rest: None },
        finals: &[
            (Code::ImageNotFound, &[]),
            (Code::ImagePlatform, &[]),
            (Code::RegistryProtocol, &[]),
            // An expired certificate may be renewed, and a clock set; but waiting does not make a
            // CA trusted.
            (
                Code::RegistryTls,
                &[&["unknown authority"], &["certificate is valid for"], &["ip sans"], &["not standards compliant"]],
            ),
            (
                Code::ImageInvalid,
                &[
                    &["no longer supported"],
                    &["unsupported media type"],
                    &["invalid reference format"],
                    &["couldn't parse image"],
                ],
            ),
        ],
    },
    State {
        reason: Reason { of: &["InvalidImageName"], texts: &[], rest: Some(Code::ImageInvalid) },
        finals: &[(Code::ImageInvalid, &[])],
    },
    State {
        reason: Reason { of: &["ErrImageNeverPull"], texts: &[], rest: Some(Code::ImageNotFound) },
        // Somebody may load it into the node.
        finals: &[],
    },
    State {
        reason: Reason {
            of: &["ImageInspectError", "SignatureValidationFailed"],
            texts: &[INSPECT],
            rest: Some(Code::ImageInvalid),
        },
        finals: &[],
    },
    State {
        reason: Reason {
            of: &["CreateContainerConfigError", "VerifyNonRootError"],
            texts: &[CONFIG],
            rest: Some(Code::ConfigMissing),
        },
        finals: &[(Code::ObjectInvalid, &[])],
    },
    State {
        reason: Reason {
            of: &["CreateContainerError", "PreCreateHookError"],
            texts: &[CONFIG, START],
            rest: Some(Code::NodeRuntime),
        },
        finals: &[],
    },
    State {
        reason: Reason {
            of: &[
                "RunContainerError",
                "StartError",
                "ContainerCannotRun",
                "RunInitContainerError",
                "PreStartHookError",
            ],
            texts: &[START],
            rest: Some(Code::CrashLoop),
        },
        finals: &[],
    },
    State {
        reason: Reason { of: &["PostStartHookError", "CrashLoopBackOff"], texts: &[], rest: Some(Code::CrashLoop) },
        finals: &[],
    },
    State { reason: Reason { of: &["OOMKilled"], texts: &[], rest: Some(Code::OomKilled) }, finals: &[] },
    State {
        reason: Reason {
            of: &["CreatePodSandboxError", "ConfigPodSandboxError"],
            texts: &[SANDBOX],
            rest: Some(Code::NodeRuntime),
        },
        finals: &[],
    },
    // A Job's condition; a pod that exceeded its own deadline has the same reason.
    State {
        reason: Reason { of: JOB_FAILED, texts: &[], rest: Some(Code::HookFailed) },
        finals: &[(Code::HookFailed, &[&["job "], &["failjob"], &["index"]])],
    },
    State {
        reason: Reason { of: &["ErrPrepareDynamicResources"], texts: &[], rest: Some(Code::Unschedulable) },
        finals: &[],
    },
    // A pod's status, and its condition PodScheduled.
    State {
        reason: Reason {
            of: &["Unschedulable", "SchedulingGated", "SchedulerError"],
            texts: &[SCHEDULING],
            rest: Some(Code::Unschedulable),
        },
        finals: &[],
    },
];

const INSPECT: &[Row] = &[
    row(Code::ImageInvalid, &[&["couldn't parse image"], &["invalid reference format"]]),
    row(Code::NodeRuntime, &[&["containerd.sock"], &["deadline exceeded"], &["deadlineexceeded"]]),
];
