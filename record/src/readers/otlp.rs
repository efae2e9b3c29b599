//! A run as spans, in the JSON of the OpenTelemetry protocol
//! (<https://opentelemetry.io/docs/specs/otlp/>): the run and, below it, its layers, steps and
//! releases as in its timeline. Messages, blockers and pods become events of the span that they
//! concern.

use serde_json::{Value, json};

use crate::timeline::{Blockage, Kind, Mark, Row, Run};
use crate::trace::{SpanId, Trace};

/// `SPAN_KIND_INTERNAL`.
const INTERNAL: u8 = 1;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// The body of an `ExportTraceServiceRequest`. `resource` identifies the program that made the
/// spans.
pub fn request(run: &Run, trace: &Trace, resource: &[(String, String)]) -> Value {
    let resource: Vec<Value> = resource.iter().map(|(key, value)| text(key, value)).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": "xtask"}, "spans": spans(run, trace)}],
    }]})
}

/// A span under construction, which later spans may become children of.
struct Span {
    id: SpanId,
    start: f64,
    end: f64,
    json: Value,
    events: Vec<Value>,
}

impl Span {
    fn finish(mut self) -> Value {
        self.events.sort_by_key(|event| event["timeUnixNano"].as_str().map(|nanos| (nanos.len(), nanos.to_owned())));
        self.json["events"] = self.events.into();
        self.json
    }
}

fn spans(run: &Run, trace: &Trace) -> Vec<Value> {
    let mut spans = vec![of_run(run, trace)];
    // The span that rows of each depth go into; the run is the root.
    let mut above: Vec<usize> = vec![0];
    for (index, row) in run.rows.iter().enumerate() {
        above.truncate(row.depth + 1);
        let parent = &mut spans[above[above.len() - 1]];
        if row.kind == Kind::Pod {
            let of_pod = |(at, words): &(f64, String)| {
                event(run, *at, "pod", vec![text("k8s.pod.name", &row.resource), text("message", words)])
            };
            parent.events.extend(row.said.iter().map(of_pod));
            continue;
        }
        let span = of_row(run, trace, row, index, parent);
        above.push(spans.len());
        spans.push(span);
    }
    spans.into_iter().map(Span::finish).collect()
}

fn of_run(run: &Run, trace: &Trace) -> Span {
    let mut attributes = vec![
        text("ameide.run", &run.id),
        text("ameide.verb", &run.verb),
        text("deployment.environment.name", &run.env),
        text("process.command_line", &run.command),
    ];
    attributes.extend(run.exit.map(|exit| number("process.exit.code", exit.into())));
    let mut status = json!({});
    if let Some(failure) = &run.failure {
        attributes.push(text("error.type", failure.code.name()));
        status = json!({"code": ERROR, "message": failure.to_string()});
    }
    let verb = if run.verb.is_empty() { "run" } else { &run.verb };
    let json = json!({
        "traceId": trace.id.to_string(),
        "spanId": trace.span.to_string(),
        "parentSpanId": trace.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        "traceState": trace.state.clone().unwrap_or_default(),
        "name": format!("cargo xtask {verb}"),
        "kind": INTERNAL,
        "startTimeUnixNano": nanos(run, 0.0),
        "endTimeUnixNano": nanos(run, run.seconds),
        "attributes": attributes,
        "status": status,
    });
    let events = run.said.iter().map(|(at, words)| event(run, *at, "said", vec![text("message", words)])).collect();
    Span { id: trace.span, start: 0.0, end: run.seconds, json, events }
}

fn of_row(run: &Run, trace: &Trace, row: &Row, index: usize, parent: &Span) -> Span {
    // The clocks of the cluster and of this machine differ, and Helmfile's times are whole seconds:
    // a child is cut to fit into its parent.
    let start = row.start.clamp(parent.start, parent.end);
    let end = row.end.clamp(start, parent.end);
    let id = match row.id {
        0 => trace.row(index),
        id => trace.step(id),
    };
    let kind = match row.kind {
        Kind::Layer => "layer",
        Kind::Release => "release",
        Kind::Step | Kind::Pod => row.step.name(),
    };
    let mut attributes = vec![text("ameide.kind", kind), text("ameide.resource", &row.resource)];
    attributes.extend(row.layer.as_deref().map(|layer| text("ameide.layer", layer)));
    attributes.extend(row.release.as_deref().map(|release| text("ameide.release", release)));
    attributes.push(text("ameide.outcome", outcome(row.mark)));
    let status = match row.mark {
        Mark::Failed => json!({"code": ERROR, "message": row.label}),
        _ => json!({}),
    };
    let said = row.said.iter().map(|(at, words)| event(run, *at, "said", vec![text("message", words)]));
    let blocked = row.blocked.iter().map(|blocked| of_blockage(run, blocked));
    let events = said.chain(blocked).collect();
    let json = json!({
        "traceId": trace.id.to_string(),
        "spanId": id.to_string(),
        "parentSpanId": parent.id.to_string(),
        "traceState": trace.state.clone().unwrap_or_default(),
        "name": format!("{kind} {}", row.resource),
        "kind": INTERNAL,
        "startTimeUnixNano": nanos(run, start),
        "endTimeUnixNano": nanos(run, end),
        "attributes": attributes.into_iter().chain([text("ameide.words", &row.label)]).collect::<Vec<_>>(),
        "status": status,
    });
    Span { id, start, end, json, events }
}

fn outcome(mark: Mark) -> &'static str {
    match mark {
        Mark::Done => "done",
        Mark::Unchanged => "unchanged",
        Mark::Failed => "failed",
        Mark::CutShort => "cut-short",
    }
}

fn of_blockage(run: &Run, blocked: &Blockage) -> Value {
    let attributes = vec![
        text("error.type", blocked.code.name()),
        text("ameide.resource", &blocked.resource),
        text("message", &blocked.message),
        text("ameide.followed", &blocked.outcome()),
        number("ameide.retries", i64::try_from(blocked.retries).unwrap_or(i64::MAX)),
    ];
    event(run, blocked.since, "blocker", attributes)
}

fn event(run: &Run, at: f64, name: &str, attributes: Vec<Value>) -> Value {
    json!({"timeUnixNano": nanos(run, at), "name": name, "attributes": attributes})
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// The JSON of Protocol Buffers has 64-bit integers as strings.
fn number(key: &str, value: i64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

/// A second of the run, in nanoseconds since 1970.
fn nanos(run: &Run, second: f64) -> String {
    let since = (second.max(0.0) * 1e9).round() as i128;
    (run.started.as_nanosecond() + since).max(0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline;
    use crate::trace::{SpanId, TraceId};
    use std::collections::BTreeMap;

    const GOOD: &str = include_str!("../../../tests/runs/good/record.jsonl");
    const FAILED: &str = include_str!("../../../tests/runs/failed/record.jsonl");

    fn trace() -> Trace {
        Trace::begun(TraceId::new(0xabc), SpanId::new(0xdef))
    }

    /// The spans of a record, after checking that they form a tree.
    fn spans(record: &str) -> Vec<Value> {
        let run = timeline::read("r", record, &[]).unwrap();
        let request = request(&run, &trace(), &[("service.name".into(), "xtask".into())]);
        let spans = request["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
        let time = |span: &Value, name: &str| span[name].as_str().unwrap().parse::<i128>().unwrap();
        let by_id: BTreeMap<&str, &Value> = spans.iter().map(|span| (span["spanId"].as_str().unwrap(), span)).collect();
        assert_eq!(by_id.len(), spans.len(), "each has an id of its own");
        for (index, span) in spans.iter().enumerate() {
            assert_eq!(span["traceId"].as_str().unwrap().len(), 32);
            assert_eq!(span["spanId"].as_str().unwrap().len(), 16);
            let (start, end) = (time(span, "startTimeUnixNano"), time(span, "endTimeUnixNano"));
            assert!(start <= end, "{span:#}");
            let parent = span["parentSpanId"].as_str().unwrap();
            if index == 0 {
                assert_eq!(parent, "");
                continue;
            }
            let parent = by_id[parent];
            assert!(time(parent, "startTimeUnixNano") <= start && end <= time(parent, "endTimeUnixNano"), "{span:#}");
        }
        spans
    }

    #[track_caller]
    fn named<'a>(spans: &'a [Value], name: &str) -> &'a Value {
        let names: Vec<&str> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
        spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no {name}: {names:#?}"))
    }

    fn parent_of<'a>(spans: &'a [Value], span: &Value) -> &'a str {
        let parent = spans.iter().find(|other| other["spanId"] == span["parentSpanId"]).unwrap();
        parent["name"].as_str().unwrap()
    }

    fn attribute<'a>(of: &'a Value, key: &str) -> &'a Value {
        let attributes = of["attributes"].as_array().unwrap();
        let found = attributes.iter().find(|attribute| attribute["key"] == key);
        &found.unwrap_or_else(|| panic!("no {key}: {of:#}"))["value"]
    }

    #[test]
    fn a_good_run_is_a_tree_of_its_layers_steps_and_releases() {
        let spans = spans(GOOD);
        let run = named(&spans, "cargo xtask up");
        assert_eq!((&run["status"], attribute(run, "process.exit.code")), (&json!({}), &json!({"intValue": "0"})));
        let sync = named(&spans, "helmfile-sync 45-data-plane-ext");
        assert_eq!(parent_of(&spans, sync), "layer 45-data-plane-ext");
        let release = named(&spans, "release temporal");
        assert_eq!(parent_of(&spans, release), "helmfile-sync 45-data-plane-ext");
        let pods = release["events"].as_array().unwrap().iter().filter(|event| event["name"] == "pod");
        assert!(
            pods.clone().count() > 3 && pods.clone().any(|pod| attribute(pod, "message")["stringValue"] == "ready")
        );
        // Every step of the record is there, with the id that its child processes were given.
        for line in crate::readers::json::read(GOOD).lines {
            if let crate::Event::StepStarted(step) = line.event {
                let id = trace().step(step.id).to_string();
                assert!(spans.iter().any(|span| span["spanId"] == id.as_str()), "{step:?}");
            }
        }
    }

    #[test]
    fn a_failed_run_says_what_stood_in_its_way() {
        let spans = spans(FAILED);
        let run = named(&spans, "cargo xtask layer");
        assert_eq!(run["status"]["code"], 2);
        assert_eq!(attribute(run, "error.type")["stringValue"], "image-not-found");
        assert_eq!(attribute(run, "process.exit.code")["intValue"], "5");
        let blockers: Vec<&Value> = spans
            .iter()
            .flat_map(|span| span["events"].as_array().unwrap())
            .filter(|e| e["name"] == "blocker")
            .collect();
        let [blocker] = blockers.as_slice() else { panic!("{blockers:#?}") };
        assert_eq!(attribute(blocker, "error.type")["stringValue"], "image-not-found");
        let release = named(&spans, "release minio");
        assert_eq!(
            (release["status"]["code"].as_i64(), attribute(release, "ameide.release")),
            (Some(2), &json!({"stringValue": "minio"}))
        );
    }

    #[test]
    fn what_was_said_outside_of_every_step_is_said_of_the_run() {
        let record = "{\"time\":\"2026-11-24T03:40:00Z\",\"event\":\"run\",\"command\":\"c\",\"verb\":\"doctor\",\"env\":\"ci\"}\n\
                      {\"time\":\"2026-11-24T03:40:01Z\",\"event\":\"note\",\"resource\":\"r\",\"text\":\"t\"}\n\
                      {\"time\":\"2026-11-24T03:40:02Z\",\"event\":\"end\",\"exit\":1,\"seconds\":2}\n";
        let spans = spans(record);
        let [run] = spans.as_slice() else { panic!("{spans:#?}") };
        assert_eq!(run["events"][0]["timeUnixNano"], "1795491601000000000");
        assert_eq!(attribute(&run["events"][0], "message")["stringValue"], "[r] t");
        assert_eq!(run["status"], json!({}), "that something differs is no error");
    }

    #[test]
    fn whose_child_a_run_is_and_what_was_handed_to_it_go_along() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = Trace::joined(parent, Some("a=1"), SpanId::new(7)).unwrap();
        let run = timeline::read("r", FAILED, &[]).unwrap();
        let spans = super::spans(&run, &trace);
        assert_eq!((&spans[0]["parentSpanId"], &spans[0]["traceState"]), (&json!("00f067aa0ba902b7"), &json!("a=1")));
        assert!(spans.iter().all(|span| span["traceId"] == "4bf92f3577b34da6a3ce929d0e0e4736"));
    }
}
