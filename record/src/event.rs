//! What happens in a run, one value per event. Whoever does the work creates it; some readers print
//! it, others write it to the record and read it back. Readers rely on these fields alone; the
//! wording is for people.
//!
//! Field names in a record are stable, so that records of earlier versions stay readable.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::preview::ReleasePreview;
use crate::trace::Trace;
use crate::{Code, Failure, seconds};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Done,
    /// Looked at and found as it should be: nothing was changed.
    Unchanged,
    Failed,
}

/// How a layer came to be in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InPlace {
    /// This run synced or tested what needed it.
    #[default]
    Synced,
    /// Nothing in it had changed.
    Unchanged,
    /// Nothing had changed except the number of replicas, which an autoscaler sets.
    Scaled,
    /// Nothing had changed except that something is gone which only an install makes.
    Lacking,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    #[serde(rename = "run")]
    RunStarted {
        command: String,
        /// The subcommand: `up`, `layer`.
        #[serde(default)]
        verb: String,
        env: String,
        /// Set if the run exports its trace to a collector.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<Trace>,
    },
    LayerStarted {
        layer: String,
    },
    /// The cluster has what the tree says.
    LayerInPlace {
        layer: String,
        releases: usize,
        #[serde(default)]
        how: InPlace,
        #[serde(rename = "seconds", with = "seconds::fraction")]
        took: Duration,
    },
    /// None of its releases matches the selector.
    LayerSkipped {
        layer: String,
        selector: String,
    },
    LayerFailed {
        layer: String,
        code: Code,
        #[serde(rename = "seconds", with = "seconds::fraction")]
        took: Duration,
    },
    /// A release is about to be synced, and why. A first install needs no reason and has no such
    /// event.
    ReleaseSyncing {
        layer: String,
        release: String,
        namespace: String,
        why: String,
        /// Requested explicitly with `--force`, whatever the reason.
        #[serde(default)]
        forced: bool,
    },
    ReleaseDeployed {
        layer: String,
        release: String,
        namespace: String,
        /// As Helmfile counts it, in whole seconds.
        #[serde(rename = "seconds", with = "seconds::fraction")]
        took: Duration,
    },
    #[serde(rename = "started")]
    StepStarted(Step),
    #[serde(rename = "finished")]
    StepFinished {
        #[serde(flatten)]
        step: Step,
        outcome: Outcome,
        #[serde(rename = "seconds", with = "seconds::fraction")]
        took: Duration,
    },
    Note {
        resource: String,
        text: String,
    },
    Warning {
        resource: String,
        text: String,
    },
    Waiting {
        resource: String,
        text: String,
    },
    Planned {
        resource: String,
        text: String,
    },
    /// What a run would do to a release.
    Preview(ReleasePreview),
    Retry {
        #[serde(alias = "reason")]
        code: Code,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layer: Option<String>,
        attempt: u32,
        budget: u32,
        #[serde(rename = "wait_seconds", with = "seconds::whole")]
        wait: Duration,
    },
    /// Something is blocking, or did for a while.
    #[serde(rename = "blocker")]
    Blocked(Blocked),
    #[serde(rename = "failure")]
    Failed(Failure),
    /// What the cluster recorded about a layer.
    Release(ReleaseEvent),
    Pod(PodEvent),
    /// What a copy of images did.
    Images(ImagesEvent),
    #[serde(rename = "end")]
    RunEnded {
        exit: i32,
        #[serde(rename = "seconds", with = "seconds::fraction")]
        took: Duration,
    },
}

/// The event names used in a record; any other name comes from another version.
pub(crate) const NAMES: &[&str] = &[
    "run",
    "layer-started",
    "layer-in-place",
    "layer-skipped",
    "layer-failed",
    "release-syncing",
    "release-deployed",
    "started",
    "finished",
    "note",
    "warning",
    "waiting",
    "planned",
    "preview",
    "retry",
    "blocker",
    "failure",
    "release",
    "pod",
    "images",
    "end",
];

/// What a step does.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum StepKind {
            $($(#[$doc])* $variant,)*
            /// A kind that this version does not know.
            #[default]
            Other,
        }

        impl StepKind {
            const ALL: &[Self] = &[$(Self::$variant),*];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* Self::Other => "other" }
            }
        }
    };
}

kinds! {
    /// Checks that what a layer needs is there.
    Preflight = "preflight";
    HelmfileSync = "helmfile-sync";
    HelmTest = "helm-test";
    /// Helm on its own: a rollback, an uninstall.
    Helm = "helm";
    /// Corrects a release's state where Helm stores it.
    Repair = "repair";
    /// Creates, starts, stops or deletes the cluster or its load balancer.
    Cluster = "cluster";
    Registry = "registry";
    /// Pushes an image to the registry and lets a pod pull it.
    Probe = "probe";
    Mirror = "mirror";
    Lab = "lab";
    ImageBuild = "image-build";
    /// Docker Engine.
    Engine = "engine";
    Tool = "tool";
    /// Looks at something on this machine.
    Check = "check";
}

impl StepKind {
    /// Whether it never contains other steps: what runs at the same time runs beside it.
    pub(crate) fn is_leaf(self) -> bool {
        matches!(self, Self::Preflight | Self::HelmfileSync | Self::HelmTest | Self::Check)
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl Serialize for StepKind {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for StepKind {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        Ok(Self::ALL.iter().copied().find(|kind| kind.name() == name).unwrap_or_default())
    }
}

/// A step. Its start and end events differ only in their text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Steps of a run are numbered from 1; 0 in records of versions that did not number them.
    #[serde(default)]
    pub id: u64,
    #[serde(default)]
    pub kind: StepKind,
    pub resource: String,
    /// What is being done; at the end, the result.
    #[serde(rename = "step")]
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// The name of the log file, in the run's folder, with the tool's output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

impl Step {
    pub fn new(kind: StepKind, resource: impl Into<String>, text: impl Into<String>) -> Self {
        Self { kind, resource: resource.into(), text: text.into(), ..Self::default() }
    }

    pub fn of_layer(self, layer: impl Into<String>) -> Self {
        Self { layer: Some(layer.into()), ..self }
    }

    pub fn of_release(self, release: impl Into<String>) -> Self {
        Self { release: Some(release.into()), ..self }
    }

    /// Records only the log's file name; whoever has the run's folder knows the path.
    pub fn logging_to(self, path: &camino::Utf8Path) -> Self {
        Self { log: path.file_name().map(str::to_owned), ..self }
    }
}

/// An observed blocker, and what it concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    pub code: Code,
    /// As `kubectl` takes it: `pod/minio-0`.
    pub resource: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    pub message: String,
    /// When it began, according to Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// `None` in records of versions that had it in the text only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prospect: Option<Prospect>,
}

/// What a blocker may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Prospect {
    MayHeal,
    /// It belongs to no known release, so it does not end a run.
    OfNoRelease,
    EndsTheRunIfSeenAgain,
    EndsTheRunIfItLasts {
        seconds: u64,
    },
}

impl fmt::Display for Prospect {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::MayHeal => formatter.write_str("may heal"),
            Self::OfNoRelease => formatter.write_str("of no release that is known"),
            Self::EndsTheRunIfSeenAgain => formatter.write_str("ends the run if it is seen again"),
            Self::EndsTheRunIfItLasts { seconds } => write!(formatter, "ends the run if it lasts {seconds} s"),
        }
    }
}

/// What `mirror` did, and the traffic it caused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImagesEvent {
    pub copied: usize,
    pub skipped: usize,
    /// Blobs that were transferred, that were already there, and that were mounted.
    pub blobs: usize,
    pub there: usize,
    pub mounted: usize,
    pub bytes: u64,
    pub source_requests: u64,
    #[serde(rename = "seconds", with = "seconds::fraction")]
    pub took: Duration,
}

/// A revision that a layer created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseEvent {
    pub layer: String,
    pub name: String,
    pub namespace: String,
    pub revision: String,
    pub status: String,
    pub started: Timestamp,
}

/// A pod of a layer's releases, in its state when the layer ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodEvent {
    pub layer: String,
    pub release: String,
    /// A pod of `helm test`.
    pub test: bool,
    pub name: String,
    pub namespace: String,
    pub created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Timestamp>,
    /// For a pod that ran to completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    pub phase: String,
    pub restarts: i32,
    /// The reason its container is waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

impl Event {
    /// The same event with `change` applied to the sentences that may say what to run, but to nothing
    /// that they only show: names, and what other programs said.
    pub fn map_sentences(&self, change: impl Fn(&str) -> String) -> Self {
        let mut event = self.clone();
        // No `_`, so that an event added later cannot be forgotten here.
        match &mut event {
            Self::Note { text, .. }
            | Self::Warning { text, .. }
            | Self::Waiting { text, .. }
            | Self::Planned { text, .. }
            | Self::ReleaseSyncing { why: text, .. }
            | Self::StepStarted(Step { text, .. })
            | Self::StepFinished { step: Step { text, .. }, .. } => *text = change(text),
            Self::Preview(preview) => {
                let notes = preview.objects.iter_mut().flat_map(|object| &mut object.notes);
                notes.chain([&mut preview.why]).for_each(|text| *text = change(text));
            }
            Self::Failed(failure) => failure.map_advice(change),
            Self::RunStarted { .. }
            | Self::LayerStarted { .. }
            | Self::LayerInPlace { .. }
            | Self::LayerSkipped { .. }
            | Self::LayerFailed { .. }
            | Self::ReleaseDeployed { .. }
            | Self::Retry { .. }
            | Self::Blocked(_)
            | Self::Release(_)
            | Self::Pod(_)
            | Self::Images(_)
            | Self::RunEnded { .. } => {}
        }
        event
    }

    /// The same event with `change` applied to every text.
    pub fn map_text(&self, change: impl Fn(&str) -> String) -> Self {
        let text = |text: &String| change(text);
        let maybe = |text: &Option<String>| text.as_deref().map(&change);
        // No `..`, so that a text added later cannot be forgotten here.
        match self {
            Self::RunStarted { command, verb, env, trace } => Self::RunStarted {
                command: text(command),
                verb: text(verb),
                env: text(env),
                trace: trace.as_ref().map(|trace| Trace { state: maybe(&trace.state), ..trace.clone() }),
            },
            Self::LayerStarted { layer } => Self::LayerStarted { layer: text(layer) },
            Self::LayerInPlace { layer, releases, how, took } => {
                Self::LayerInPlace { layer: text(layer), releases: *releases, how: *how, took: *took }
            }
            Self::LayerSkipped { layer, selector } => {
                Self::LayerSkipped { layer: text(layer), selector: text(selector) }
            }
            Self::LayerFailed { layer, code, took } => {
                Self::LayerFailed { layer: text(layer), code: *code, took: *took }
            }
            Self::ReleaseSyncing { layer, release, namespace, why, forced } => Self::ReleaseSyncing {
                layer: text(layer),
                release: text(release),
                namespace: text(namespace),
                why: text(why),
                forced: *forced,
            },
            Self::ReleaseDeployed { layer, release, namespace, took } => Self::ReleaseDeployed {
                layer: text(layer),
                release: text(release),
                namespace: text(namespace),
                took: *took,
            },
            Self::StepStarted(step) => Self::StepStarted(step.map_text(&change)),
            Self::StepFinished { step, outcome, took } => {
                Self::StepFinished { step: step.map_text(&change), outcome: *outcome, took: *took }
            }
            Self::Note { resource, text: words } => Self::Note { resource: text(resource), text: text(words) },
            Self::Warning { resource, text: words } => Self::Warning { resource: text(resource), text: text(words) },
            Self::Waiting { resource, text: words } => Self::Waiting { resource: text(resource), text: text(words) },
            Self::Planned { resource, text: words } => Self::Planned { resource: text(resource), text: text(words) },
            Self::Preview(preview) => Self::Preview(preview.map_text(&change)),
            Self::Retry { code, layer, attempt, budget, wait } => {
                Self::Retry { code: *code, layer: maybe(layer), attempt: *attempt, budget: *budget, wait: *wait }
            }
            Self::Blocked(Blocked { code, resource, layer, release, message, since, prospect }) => {
                Self::Blocked(Blocked {
                    code: *code,
                    resource: text(resource),
                    layer: maybe(layer),
                    release: maybe(release),
                    message: text(message),
                    since: *since,
                    prospect: *prospect,
                })
            }
            Self::Failed(failure) => Self::Failed(failure.map_text(&change)),
            Self::Release(ReleaseEvent { layer, name, namespace, revision, status, started }) => {
                Self::Release(ReleaseEvent {
                    layer: text(layer),
                    name: text(name),
                    namespace: text(namespace),
                    revision: text(revision),
                    status: text(status),
                    started: *started,
                })
            }
            Self::Pod(PodEvent {
                layer,
                release,
                test,
                name,
                namespace,
                created,
                scheduled,
                ready,
                ended,
                phase,
                restarts,
                waiting,
            }) => Self::Pod(PodEvent {
                layer: text(layer),
                release: text(release),
                test: *test,
                name: text(name),
                namespace: text(namespace),
                created: *created,
                scheduled: *scheduled,
                ready: *ready,
                ended: *ended,
                phase: text(phase),
                restarts: *restarts,
                waiting: maybe(waiting),
            }),
            Self::Images(images) => Self::Images(images.clone()),
            Self::RunEnded { exit, took } => Self::RunEnded { exit: *exit, took: *took },
        }
    }
}

impl Step {
    fn map_text(&self, change: impl Fn(&str) -> String) -> Self {
        let Self { id, kind, resource, text, layer, release, log } = self;
        Self {
            id: *id,
            kind: *kind,
            resource: change(resource),
            text: change(text),
            layer: layer.as_deref().map(&change),
            release: release.as_deref().map(&change),
            log: log.as_deref().map(&change),
        }
    }
}

/// One of each event, with every text set to `text`.
#[cfg(test)]
pub(crate) fn one_of_each(text: &str) -> Vec<Event> {
    use crate::preview::{Act, Change, ObjectPreview};
    use crate::trace::{SpanId, TraceId};
    let owned = || text.to_owned();
    let (took, time) = (Duration::from_millis(1500), Timestamp::UNIX_EPOCH);
    let step = || Step { id: 7, ..Step::new(StepKind::HelmTest, text, text).of_layer(text).of_release(text) };
    let step = || Step { log: Some(owned()), ..step() };
    let trace = Trace { state: Some(owned()), ..Trace::begun(TraceId::new(1), SpanId::new(2)) };
    vec![
        Event::RunStarted { command: owned(), verb: owned(), env: owned(), trace: Some(trace) },
        Event::LayerStarted { layer: owned() },
        Event::LayerInPlace { layer: owned(), releases: 2, how: InPlace::Unchanged, took },
        Event::LayerSkipped { layer: owned(), selector: owned() },
        Event::LayerFailed { layer: owned(), code: Code::CrashLoop, took },
        Event::ReleaseSyncing { layer: owned(), release: owned(), namespace: owned(), why: owned(), forced: true },
        Event::ReleaseDeployed { layer: owned(), release: owned(), namespace: owned(), took },
        Event::StepStarted(step()),
        Event::StepFinished { step: step(), outcome: Outcome::Unchanged, took },
        Event::Note { resource: owned(), text: owned() },
        Event::Warning { resource: owned(), text: owned() },
        Event::Waiting { resource: owned(), text: owned() },
        Event::Planned { resource: owned(), text: owned() },
        Event::Preview(ReleasePreview {
            layer: owned(),
            release: owned(),
            namespace: owned(),
            act: Act::Upgrade,
            why: owned(),
            revision: Some(3),
            tests: true,
            unknown: vec![owned()],
            objects: vec![ObjectPreview {
                object: owned(),
                change: Change::Change,
                notes: vec![owned()],
                diff: vec![owned()],
            }],
        }),
        Event::Retry {
            code: Code::RegistryRateLimited,
            layer: Some(owned()),
            attempt: 1,
            budget: 3,
            wait: Duration::from_secs(30),
        },
        Event::Blocked(Blocked {
            code: Code::ImageNotFound,
            resource: owned(),
            layer: Some(owned()),
            release: Some(owned()),
            message: owned(),
            since: Some(time),
            prospect: Some(Prospect::EndsTheRunIfItLasts { seconds: 45 }),
        }),
        Event::Failed(Failure::usage(text).evidence(text).remedy(text)),
        Event::Release(ReleaseEvent {
            layer: owned(),
            name: owned(),
            namespace: owned(),
            revision: owned(),
            status: owned(),
            started: time,
        }),
        Event::Pod(PodEvent {
            layer: owned(),
            release: owned(),
            test: true,
            name: owned(),
            namespace: owned(),
            created: time,
            scheduled: Some(time),
            ready: None,
            ended: Some(time),
            phase: owned(),
            restarts: 1,
            waiting: Some(owned()),
        }),
        Event::Images(ImagesEvent {
            copied: 1,
            skipped: 2,
            blobs: 3,
            there: 4,
            mounted: 5,
            bytes: 6,
            source_requests: 7,
            took,
        }),
        Event::RunEnded { exit: 5, took },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_read_back_as_it_was_and_has_its_name_in_the_list() {
        let mut names = Vec::new();
        for event in one_of_each("a \"text\"") {
            let json = serde_json::to_value(&event).unwrap();
            names.push(json["event"].as_str().unwrap().to_owned());
            assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
        }
        assert_eq!(names, NAMES);
    }

    #[test]
    fn every_text_is_changed_and_nothing_else() {
        let changed: Vec<Event> =
            one_of_each("before").iter().map(|event| event.map_text(|_| "after".into())).collect();
        assert_eq!(changed, one_of_each("after"));
        assert!(!serde_json::to_string(&changed).unwrap().contains("before"));
    }

    #[test]
    fn a_sentence_is_changed_and_what_it_shows_is_not() {
        let changed: Vec<usize> = one_of_each("before")
            .iter()
            .map(|event| event.map_sentences(|_| "after".into()))
            .map(|event| serde_json::to_string(&event).unwrap().matches("after").count())
            .collect();
        // As in `NAMES`: the reason of a sync, steps, notes and the like, a preview's reason and note,
        // and a remedy.
        assert_eq!(changed, [0, 0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 2, 0, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_step_of_a_kind_from_another_version_is_still_a_step() {
        let read = |kind: &str| serde_json::from_str::<StepKind>(&format!("\"{kind}\"")).unwrap();
        for kind in StepKind::ALL {
            assert_eq!(read(kind.name()), *kind);
        }
        assert_eq!(read("teleport"), StepKind::Other);
    }

    #[test]
    fn what_earlier_versions_wrote_is_read() {
        let read = |json: &str| serde_json::from_str::<Event>(json).unwrap();
        let step = Step { text: "helm test".into(), resource: "redis".into(), ..Step::default() };
        assert_eq!(
            read(r#"{"event":"started","resource":"redis","step":"helm test"}"#),
            Event::StepStarted(step.clone())
        );
        assert_eq!(
            read(r#"{"event":"finished","resource":"redis","step":"helm test","outcome":"done","seconds":2}"#),
            Event::StepFinished { step, outcome: Outcome::Done, took: Duration::from_secs(2) }
        );
        let retry = r#"{"event":"retry","reason":"api-unreachable","attempt":1,"budget":2,"wait_seconds":60}"#;
        assert!(matches!(read(retry), Event::Retry { code: Code::ApiUnreachable, layer: None, .. }));
        let blocker = r#"{"event":"blocker","code":"crash-loop","resource":"pod/x","text":"a container keeps crashing","message":"m","then":"may heal"}"#;
        assert!(matches!(read(blocker), Event::Blocked(Blocked { code: Code::CrashLoop, prospect: None, .. })));
    }
}
