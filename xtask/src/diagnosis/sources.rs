//! Which message means which blocker: by its source first, then by its reason, then by its text.
//! Each source has its own table, and a text is never looked up in another source's table: the
//! output of a probe, or a container's log, can contain any words.
//!
//! The texts are those of the kubelet (`pkg/kubelet/events/event.go`, `images/types.go`,
//! `container/sync_result.go`), containerd, the scheduler and the controllers, the API server, Helm
//! 3 and 4 and Helmfile. `tests/messages.tsv` has real examples with their origin, and the tests
//! check each row.
//!
//! Only a state or an answer of the API, also one that Helm quotes, ends a run at once: the tables of
//! the other sources cannot express it, and a test gives each of them random texts.

mod api;
mod controllers;
mod helm;
mod kubelet;
mod logs;
mod scheduler;
mod states;
mod table;

use super::rules::{self, Ends, Rule};
use api::{API_ANSWERS, FINAL_REFUSALS, REFUSALS, WEBHOOKS};
use controllers::CONTROLLER;
use helm::{HELM_FIRST, HELM_LAST, HELMFILE, SYMPTOMS};
use kubelet::{KUBELET, sentence};
use logs::{LOG, names_unset_variable};
use run_record::Code;
use scheduler::SCHEDULER;
use states::STATES;
use table::{for_reason, has, in_reason, in_rows, matches_reason};

/// The meaning of one message.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    pub rule: &'static Rule,
    pub ends: Ends,
}

impl Verdict {
    fn may_heal(code: Code) -> Option<Self> {
        let rule = rules::of(code)?;
        Some(Self { rule, ends: rule.lasts.into() })
    }

    fn cannot_heal(code: Code) -> Option<Self> {
        Some(Self { rule: rules::of(code)?, ends: Ends::AtOnce })
    }
}

/// A container's waiting or terminated state: a fact, which may be final.
pub fn state(reason: &str, message: &str) -> Option<Verdict> {
    let state = STATES.iter().find(|state| state.reason.of.iter().any(|of| matches_reason(of, reason)));
    let Some(state) = state else {
        // A pod's own reason (`Evicted`, `OutOfcpu`) has the same text as the kubelet's event.
        let of_pod = [
            "Evicted",
            "NodeAffinity",
            "NodePorts",
            "UnexpectedAdmissionError",
            "TopologyAffinityError",
            "VolumeAttachmentLimitExceeded",
            "NodeLost",
            "NodeShutdown",
            "Terminated",
            "Preempting",
            "SysctlForbidden",
            "AppArmor",
            "PodOSNotSupported",
            "PodFeatureUnsupported",
        ];
        let known = of_pod.contains(&reason) || reason.starts_with("OutOf");
        return if known { event(Some("kubelet"), reason, message) } else { None };
    };
    let lower = message.to_lowercase();
    let code = in_reason(&state.reason, &lower)?;
    let is_final = state.finals.iter().any(|(of, any)| *of == code && (any.is_empty() || has(&lower, any)));
    if is_final { Verdict::cannot_heal(code) } else { Verdict::may_heal(code) }
}

/// The source of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Teller {
    Kubelet,
    Scheduler,
    Controller,
    /// For example an operator, which has its own reasons.
    Other,
}

fn teller(component: Option<&str>, reason: &str) -> Teller {
    let of_scheduler = for_reason(SCHEDULER, reason).is_some();
    let of_controller = for_reason(CONTROLLER, reason).is_some();
    let of_kubelet = for_reason(KUBELET, reason).is_some();
    match component.unwrap_or_default() {
        "kubelet" => Teller::Kubelet,
        "" if of_scheduler && !of_kubelet => Teller::Scheduler,
        "" if of_controller && !of_kubelet => Teller::Controller,
        "" => Teller::Kubelet,
        name if of_scheduler && name.ends_with("scheduler") => Teller::Scheduler,
        name if name.ends_with("controller") || name.ends_with("-manager") => Teller::Controller,
        // Schedulers and provisioners may have any name, but these reasons have one meaning.
        _ if matches!(reason, "FailedScheduling") => Teller::Scheduler,
        _ if matches!(reason, "ProvisioningFailed" | "FailedAttachVolume" | "UpdateFailed") => Teller::Controller,
        _ => Teller::Other,
    }
}

/// A Warning event: reported when it comes, and never ends a run by itself.
pub fn event(component: Option<&str>, reason: &str, message: &str) -> Option<Verdict> {
    let table = match teller(component, reason) {
        Teller::Kubelet => KUBELET,
        Teller::Scheduler => SCHEDULER,
        Teller::Controller => CONTROLLER,
        Teller::Other => return None,
    };
    let lower = message.to_lowercase();
    let code = in_reason(for_reason(table, sentence(reason, &lower))?, &lower)?;
    let held = code == Code::VolumePending && lower.contains("multi-attach error");
    Verdict::may_heal(code).map(|verdict| if held { Verdict { ends: FORCED_DETACH, ..verdict } } else { verdict })
}

/// The attach-detach controller detaches a volume by force from a node that does not let go of it
/// after 6 minutes (`ReconcilerMaxWaitForUnmountDuration`), and only then attaches it to the pod's.
const FORCED_DETACH: Ends = Ends::After(420);

/// Lines that Helm's libraries log next to its errors: klog's (`E0204 17:06:35.898427 …`), slog's
/// (`level=WARN msg=…`), and `WARNING: …`. None of them is why Helm failed.
pub fn is_warning(line: &str) -> bool {
    let line = line.trim_start();
    let klog = {
        let bytes = line.as_bytes();
        bytes.len() > 14
            && matches!(bytes[0], b'I' | b'W' | b'E' | b'F')
            && bytes[1..5].iter().all(u8::is_ascii_digit)
            && bytes[5] == b' '
            && line.contains("] ")
    };
    let slog = line.starts_with("level=") || line.starts_with("time=") && line.contains(" level=");
    let go_log = line.len() > 20 && line.as_bytes()[4] == b'/' && line.as_bytes()[..4].iter().all(u8::is_ascii_digit);
    let words = ["WARNING: ", "Warning: ", "coalesce.go", "walk.go", "I! ", "W! "];
    klog || slog || go_log || words.iter().any(|word| line.starts_with(word))
}

/// A line of Helm's error: an API answer quoted in it, or Helm's own message.
pub fn helm(message: &str) -> Option<Verdict> {
    let lower = message.to_lowercase();
    if is_warning(message) {
        return None;
    }
    // A timeout that names a webhook or a URL is about that webhook or the API.
    if is_timeout(message) && !lower.contains("webhook") && !lower.contains("\"https://") {
        return hook_of_timeout(&lower);
    }
    if let Some(code) = in_rows(WEBHOOKS, without_rollback(&lower)) {
        return of_api(code?);
    }
    // The API server quotes the object that it refuses, with its mounts, arguments and labels.
    let before = lower.split_once("\" is invalid: ").map_or(&*lower, |(before, _)| before);
    let of_the_tree = |code: &Option<Code>| matches!(code, Some(Code::RenderFailed | Code::ChartMissing));
    let found =
        in_rows(HELM_FIRST, &lower).filter(|code| !of_the_tree(code) || in_rows(HELM_FIRST, before) == Some(*code));
    if let Some(code) = found {
        return Verdict::may_heal(code?);
    }
    if let Some(code) = in_rows(API_ANSWERS, &lower) {
        return of_api(code?);
    }
    Verdict::may_heal(in_rows(HELM_LAST, &lower)??)
}

/// Helm appends the error of its rollback to that of the upgrade, if there was one.
fn without_rollback(lower: &str) -> &str {
    let both = lower.contains("while rolling back the release. original upgrade error: ");
    lower.rsplit_once(": ").filter(|_| both).map_or(lower, |(upgrade, _)| upgrade)
}

/// The message about a deadline may also say that a hook's Job failed.
fn hook_of_timeout(lower: &str) -> Option<Verdict> {
    let failed = lower.contains("backofflimitexceeded") || lower.contains("job/") && lower.contains("status: failed");
    if failed { Verdict::may_heal(Code::HookFailed) } else { None }
}

/// Whether it is the API server's own refusal, which takes precedence over everything.
pub fn is_refusal(verdict: &Verdict) -> bool {
    REFUSALS.contains(&verdict.rule.code)
}

/// Whether Helm only says that something it waited for failed.
pub fn is_symptom(verdict: &Verdict) -> bool {
    SYMPTOMS.contains(&verdict.rule.code)
}

/// What Helmfile says about itself and the tree.
pub fn helmfile(message: &str) -> Option<Verdict> {
    if is_warning(message) || is_timeout(message) {
        return None;
    }
    // For a short command it quotes the error on the same line.
    if let Some((_, quoted)) = message.split_once("exited with non-zero status: ") {
        return helm(quoted);
    }
    Verdict::may_heal(in_rows(HELMFILE, &message.to_lowercase())??)
}

/// A line of a crashing container's log.
pub fn log(line: &str) -> Option<Verdict> {
    let lower = line.to_lowercase();
    if let Some(code) = in_rows(LOG, &lower) {
        return Verdict::may_heal(code?);
    }
    names_unset_variable(line).then(|| Verdict::may_heal(Code::ConfigMissing))?
}

/// Symptoms: they say that something took too long, but not what.
pub fn is_timeout(message: &str) -> bool {
    let lower = message.to_lowercase();
    let others = ["client rate limiter", "request did not complete within"];
    lower.contains("context deadline exceeded") && !others.iter().any(|other| lower.contains(other))
        || lower.contains("timed out waiting for the condition")
        || lower.contains("resource not ready")
        || lower.contains(" not ready. status:")
}

/// The API server's answer: a Status, by its reason if that is specific enough, and by its message.
pub fn api(reason: &str, message: &str) -> Option<Verdict> {
    let lower = message.to_lowercase();
    if let Some(code) = in_rows(WEBHOOKS, &lower).or_else(|| in_rows(API_ANSWERS, &lower)) {
        return of_api(code?);
    }
    match reason {
        // For an eviction: a PodDisruptionBudget blocks it for a while.
        "TooManyRequests" if lower.contains("disruption budget") => None,
        "AlreadyExists" if lower.contains("object is being deleted") => of_api(Code::Conflict),
        "AlreadyExists" => of_api(Code::NameInUse),
        "Unauthorized" | "Forbidden" => of_api(Code::Forbidden),
        "Invalid" => of_api(Code::ObjectInvalid),
        "ServerTimeout" | "ServiceUnavailable" | "Timeout" | "TooManyRequests" => of_api(Code::ApiUnreachable),
        _ => None,
    }
}

fn of_api(code: Code) -> Option<Verdict> {
    if FINAL_REFUSALS.contains(&code) { Verdict::cannot_heal(code) } else { Verdict::may_heal(code) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::helm_errors;
    use table::{Reason, Row};

    struct Line {
        source: &'static str,
        reason: &'static str,
        message: String,
        code: Option<Code>,
        may_end: &'static str,
    }

    fn table() -> Vec<Line> {
        let rows = include_str!("../../../tests/messages.tsv").lines().filter(|line| !line.starts_with('#')).skip(1);
        rows.map(|row| {
            let [source, reason, message, code, may_end, _origin] = row.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{row}")
            };
            let message = message.replace("\\n", "\n").replace("\\t", "\t");
            Line { source, reason, message, code: (code != "-").then(|| code.parse().unwrap()), may_end }
        })
        .collect()
    }

    fn judged(line: &Line) -> Option<Verdict> {
        match line.source {
            "event" => event(Some("kubelet"), line.reason, &line.message),
            "scheduler" => event(Some("default-scheduler"), line.reason, &line.message),
            "controller" => event(Some("replicaset-controller"), line.reason, &line.message),
            "state" => state(line.reason, &line.message),
            "api" => api(line.reason, &line.message),
            "helm" | "warning" => helm_text(&line.message),
            "helmfile" => helmfile_text(&line.message),
            "log" => line.message.lines().rev().find_map(log),
            other => panic!("{other}"),
        }
    }

    fn helm_text(text: &str) -> Option<Verdict> {
        let statement = helm_errors::Statement { speaker: helm_errors::Speaker::Helm, text: text.to_owned() };
        statement.verdict().map(|(verdict, _)| verdict)
    }

    fn helmfile_text(text: &str) -> Option<Verdict> {
        if text.contains("STDERR:") {
            let said = helm_errors::of_lines(text.lines());
            return said.errors.iter().find_map(|error| error.verdict()).map(|(verdict, _)| verdict);
        }
        let statement = helm_errors::Statement { speaker: helm_errors::Speaker::Helmfile, text: text.to_owned() };
        statement.verdict().map(|(verdict, _)| verdict)
    }

    fn in_words(verdict: Option<Verdict>) -> &'static str {
        match verdict.map(|verdict| verdict.ends) {
            Some(Ends::AtOnce) => "at-once",
            Some(Ends::After(_)) => "after",
            Some(Ends::Never) | None => "never",
        }
    }

    #[test]
    fn every_message_on_record_has_its_verdict() {
        let mut wrong = Vec::new();
        for line in table().iter().filter(|line| line.source != "k3d") {
            let verdict = judged(line);
            let code = verdict.map(|verdict| verdict.rule.code);
            // For a program that has ended, the table says whether it is retried.
            let ended = matches!(line.source, "helm" | "helmfile" | "warning");
            let ends = if ended { line.may_end } else { in_words(verdict) };
            if code != line.code || ends != line.may_end {
                wrong.push(format!(
                    "{} {} {:?}\n   is {code:?} {ends}, should be {:?} {}",
                    line.source, line.reason, line.message, line.code, line.may_end
                ));
            }
        }
        assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn what_is_tried_again_is_what_may_heal() {
        let budgets = crate::repo::needs::Budgets::default();
        for line in table().iter().filter(|line| matches!(line.source, "helm" | "helmfile")) {
            let Some(code) = line.code else { continue };
            let retried = crate::diagnosis::retry::Spent::default().decide(code, &budgets)
                != crate::diagnosis::retry::Retry::None;
            // A webhook that is coming up is waited for, as the API is.
            let expected = line.may_end == "never" || code == Code::WebhookUnavailable;
            assert_eq!(retried, expected, "{}", line.message);
        }
    }

    fn reasons() -> impl Iterator<Item = &'static Reason> {
        KUBELET.iter().chain(SCHEDULER).chain(CONTROLLER).chain(STATES.iter().map(|state| &state.reason))
    }

    /// Those of all reasons, and of the sources whose messages have none.
    fn rows() -> impl Iterator<Item = &'static Row> {
        let of_reasons = reasons().flat_map(|reason| reason.texts.iter().copied());
        of_reasons.chain([WEBHOOKS, API_ANSWERS, HELM_FIRST, HELM_LAST, HELMFILE, LOG]).flatten()
    }

    #[test]
    fn every_code_of_a_row_is_on_the_list_and_every_code_of_the_list_has_a_message() {
        let codes = rows().filter_map(|row| row.code).chain(reasons().filter_map(|reason| reason.rest));
        for code in codes.chain([REFUSALS, FINAL_REFUSALS, SYMPTOMS].into_iter().flatten().copied()) {
            assert!(rules::of(code).is_some(), "{code}");
        }
        for rule in rules::RULES.iter().filter(|rule| rule.code != Code::HelmStuck) {
            assert!(table().iter().any(|line| line.code == Some(rule.code)), "no message for {}", rule.code);
        }
    }

    #[test]
    fn what_is_final_of_a_state_is_a_code_that_the_state_can_have() {
        for state in STATES {
            let of_texts = state.reason.texts.iter().copied().flatten().filter_map(|row| row.code);
            let codes: Vec<Code> = of_texts.chain(state.reason.rest).collect();
            for (code, _) in state.finals {
                assert!(codes.contains(code), "{code} of {:?}", state.reason.of);
            }
        }
    }

    /// A rule with capital letters would never match.
    #[test]
    fn texts_of_rules_are_lower_case() {
        let finals = STATES.iter().flat_map(|state| state.finals).flat_map(|(_, any)| any.iter());
        for parts in rows().flat_map(|row| row.any).chain(finals) {
            assert!(parts.iter().all(|part| *part == part.to_lowercase()), "{parts:?}");
        }
    }

    /// Random texts, including whole messages of every source and halves of them, given to each
    /// source except states, under each of its reasons.
    #[test]
    fn no_text_ends_a_run_at_once_without_a_state_or_an_answer_of_the_api() {
        let table = table();
        let mut random = fastrand::Rng::with_seed(14);
        let words =
            ["", "401 Unauthorized", "x509:", "yaml:", "hook failed", "is being terminated", "not found", "\u{1b}[0m"];
        let (mut texts, mut refusals) = (0, 0);
        for _ in 0..4000 {
            let mut text = String::new();
            for _ in 0..random.usize(1..4) {
                let message = &table[random.usize(..table.len())].message;
                let (from, to) = (random.usize(..=message.len()), random.usize(..=message.len()));
                let half = message.get(from.min(to)..from.max(to)).unwrap_or(message);
                text.push_str(if random.bool() { message } else { half });
                text.push_str([" ", ": ", "\n"][random.usize(..3)]);
                text.push_str(words[random.usize(..words.len())]);
            }
            texts += 1;
            let reason = table[random.usize(..table.len())].reason;
            for component in
                [None, Some("kubelet"), Some("default-scheduler"), Some("job-controller"), Some("keycloak")]
            {
                let verdict = event(component, reason, &text);
                assert_ne!(in_words(verdict), "at-once", "{component:?} {reason} {text}");
            }
            assert_ne!(in_words(log(&text)), "at-once", "{text}");
            if text.split_once("exited with non-zero status: ").is_none() {
                assert_ne!(in_words(helmfile(&text)), "at-once", "{text}");
            }
            // What Helm quotes is final only as an answer of the API.
            if let Some(verdict) = helm(&text).filter(|verdict| verdict.ends == Ends::AtOnce) {
                refusals += 1;
                assert_eq!(api("", &text).map(|api| api.rule.code), Some(verdict.rule.code), "{text}");
            }
            if is_warning(&text) {
                assert!(helm(&text).is_none() && helmfile(&text).is_none(), "{text}");
            }
            // A probe's output is evidence about the probe, whatever it says.
            assert_eq!(
                event(Some("kubelet"), "Unhealthy", &text).map(|found| found.rule.code),
                Some(Code::ProbeFailing)
            );
            assert!(
                event(Some("strimzi-cluster-operator"), "Failed", &text).is_none(),
                "an operator's reasons are its own"
            );
        }
        assert!(texts >= 1000 && refusals > 10, "{texts} {refusals}");
    }
}
