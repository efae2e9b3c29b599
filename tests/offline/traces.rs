//! A run as a trace, sent to a collector by the tool itself: one tree of spans from whoever began
//! it down to Helmfile, however the run ends; and a failing collector changes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::access::{ESTABLISHED, Machine, Proxy, api_with_tls};
use crate::processes::{CONTEXT, World, ended, said, signal};
use crate::support::server::{Answer, Server};
use crate::support::{eventually, succeeds, tool};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn receiver() -> Server {
    Server::start(|_| Answer::new(200, "{}"))
}

/// Exit code and output of a run that exports its trace to this address.
fn run(world: &World, url: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let variables = [&[("OTEL_EXPORTER_OTLP_ENDPOINT", url)], variables].concat();
    said(world.run(arguments, &variables).stderr_to_stdout().stdout_capture())
}

/// The spans of the only trace received, which form one tree: one root with this parent, and below
/// it each span within its parent.
#[track_caller]
fn spans(receiver: &Server, above: &str) -> Vec<Value> {
    let seen = receiver.seen();
    let [request] = seen.as_slice() else { panic!("{} requests", seen.len()) };
    assert!(request.is("POST", "/v1/traces") && request.header("content-type") == Some("application/json"));
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
    let time = |span: &Value, name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
    let is_hex = |id: &str, width: usize| id.len() == width && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let by_id: BTreeMap<&str, &Value> = spans.iter().map(|span| (span["spanId"].as_str().unwrap(), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "{spans:#?}");
    let mut roots = 0;
    for span in &spans {
        assert!(is_hex(span["traceId"].as_str().unwrap(), 32) && is_hex(span["spanId"].as_str().unwrap(), 16));
        assert_eq!(span["traceId"], spans[0]["traceId"]);
        let (start, end) = (time(span, "startTimeUnixNano"), time(span, "endTimeUnixNano"));
        assert!(start <= end, "{span:#}");
        let parent = span["parentSpanId"].as_str().unwrap();
        if parent == above {
            roots += 1;
            continue;
        }
        let parent = by_id.get(parent).unwrap_or_else(|| panic!("no parent: {span:#}"));
        assert!(time(parent, "startTimeUnixNano") <= start && end <= time(parent, "endTimeUnixNano"), "{span:#}");
    }
    assert_eq!(roots, 1, "{spans:#?}");
    spans
}

#[track_caller]
fn named<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no {name}: {spans:#?}"))
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().unwrap();
    attributes.iter().find(|attribute| attribute["key"] == key).map_or(&Value::Null, |attribute| &attribute["value"])
}

/// The record and the logs of all runs.
fn kept(world: &World) -> String {
    let mut kept = String::new();
    let runs = world.path("state").join(CONTEXT).join("runs");
    for run in std::fs::read_dir(runs).unwrap().flatten() {
        for file in std::fs::read_dir(run.path()).unwrap().flatten() {
            kept += &std::fs::read_to_string(file.path()).unwrap();
        }
    }
    kept
}

/// The environment of the first program that was started with these words.
#[track_caller]
fn environment(world: &World, program: &str, words: &str) -> String {
    let starts = world.starts();
    let is = |line: &&String| line.split(' ').nth(1) == Some(program) && line.contains(words);
    let start = starts.iter().find(is).unwrap_or_else(|| panic!("no {program} {words}: {starts:#?}"));
    let pid = start.split(' ').next().unwrap();
    std::fs::read_to_string(world.path("environments").join(format!("{program}.{pid}"))).unwrap()
}

#[test]
fn one_trace_goes_from_ci_to_helmfile_and_its_account_to_nobody_else() {
    let (world, receiver) = (World::new(), receiver());
    world.with_a_cluster();
    let variables = [
        ("TRACEPARENT", TRACEPARENT),
        ("TRACESTATE", "ci=1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret"),
        ("OTEL_RESOURCE_ATTRIBUTES", "cicd.pipeline.name=deploy"),
    ];
    let (code, text) = run(&world, &receiver.url(), &["layer", "10"], &variables);
    assert_eq!(code, Some(0), "{text}");
    let spans = spans(&receiver, PARENT);
    let root = named(&spans, "cargo xtask layer");
    assert_eq!((root["traceId"].as_str(), root["traceState"].as_str()), (Some(TRACE), Some("ci=1")));
    assert_eq!(attribute(root, "process.exit.code")["intValue"], "0");
    let sync = named(&spans, "helmfile-sync 10-bootstrap");
    assert_eq!(sync["parentSpanId"], named(&spans, "layer 10-bootstrap")["spanId"]);
    // Every step in the record is a span.
    let steps = kept(&world).lines().filter(|line| line.contains("\"event\":\"finished\"")).count();
    assert_eq!(spans.iter().filter(|span| attribute(span, "ameide.kind")["stringValue"] != "layer").count(), steps + 1);

    let told = |span: &Value| format!("TRACEPARENT=00-{TRACE}-{}-01", span["spanId"].as_str().unwrap());
    let helmfile = environment(&world, "helmfile", " sync ");
    for line in [&told(sync), "TRACESTATE=ci=1", "HELMFILE_OTEL_TRACING=true", "OTEL_METRICS_EXPORTER=none"] {
        assert!(helmfile.lines().any(|given| given == line), "{line}\n{helmfile}");
    }
    assert!(helmfile.contains("OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20s3cret"), "{helmfile}");
    let test = named(&spans, "helm-test stand-in");
    assert!(environment(&world, "helm", " test ").lines().any(|line| line == told(test)));
    // A program that is only queried exports nothing: it would wait for a collector that is
    // unreachable.
    let asked = environment(&world, "helmfile", " list ");
    assert!(asked.contains(&told(root)) && !asked.contains("HELMFILE_OTEL_TRACING"), "{asked}");

    assert_eq!(receiver.seen()[0].header("authorization"), Some("Bearer s3cret"));
    for (what, text) in [("printed", &text), ("kept", &kept(&world)), ("arguments", &world.starts().join("\n"))] {
        assert!(!text.contains("s3cret"), "{what}: {text}");
    }
    assert!(!receiver.seen()[0].text().contains("s3cret"));
    for entry in std::fs::read_dir(world.path("environments")).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Helmfile's own Helm has the same environment as Helmfile.
        let given =
            name.starts_with("helmfile.") || std::fs::read_to_string(entry.path()).unwrap().contains("HELMFILE_OTEL");
        assert!(given || !std::fs::read_to_string(entry.path()).unwrap().contains("s3cret"), "{name}");
    }
}

#[test]
fn a_receiver_is_reached_through_the_proxy_and_by_its_own_authority() {
    let (world, machine) = (World::new(), Machine::new());
    let (receiver, authority) = api_with_tls(&machine);
    let proxy = Proxy::before(&receiver.address, ESTABLISHED);
    for (given, told) in [(None, 0), (Some(authority.as_str()), 1)] {
        let authority = given.map(|authority| ("OTEL_EXPORTER_OTLP_CERTIFICATE", authority));
        let through = ("HTTPS_PROXY", proxy.address.as_str());
        let variables: Vec<(&str, &str)> = [through].into_iter().chain(authority).collect();
        let (code, text) = run(&world, "https://api.example:4318", &["-v", "layer", "--list"], &variables);
        assert_eq!((code, receiver.count("POST", "/v1/traces")), (Some(0), told), "{text}");
    }
}

/// Helmfile itself, by what it sends: its spans are in the trace and the span that it works in.
#[test]
fn helmfile_goes_on_with_the_trace_that_it_is_told_of() {
    let receiver = receiver();
    let mut helmfile = tool("helmfile");
    helmfile.args(["--file", "infra/kubernetes/helmfiles/10-bootstrap.yaml", "--environment", "ci", "list"]);
    helmfile.env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url()).env("TRACEPARENT", TRACEPARENT);
    succeeds({
        helmfile.envs(xtask::world::otlp::for_helmfile());
        helmfile
    });
    let seen = receiver.seen();
    assert!(!seen.is_empty() && seen.iter().all(|request| request.is("POST", "/v1/traces")), "{seen:?}");
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    for id in [TRACE, PARENT].map(bytes) {
        assert!(seen[0].body.windows(id.len()).any(|part| part == id), "{id:?}");
    }
}

#[test]
fn a_run_that_fails_and_one_that_is_interrupted_are_told_as_what_they_are() {
    let (world, failed) = (World::new(), receiver());
    let (code, text) = run(&world, &failed.url(), &["layer", "99"], &[("TRACEPARENT", "yes")]);
    assert_eq!(code, Some(2), "{text}");
    assert_eq!(text.matches("TRACEPARENT is not a W3C trace context").count(), 1, "{text}");
    let spans_of_failed = spans(&failed, "");
    let [root] = spans_of_failed.as_slice() else { panic!("{spans_of_failed:#?}") };
    assert_eq!(
        (root["status"]["code"].as_i64(), &attribute(root, "error.type")["stringValue"]),
        (Some(2), &"usage".into())
    );
    assert_eq!(attribute(root, "process.exit.code")["intValue"], "2");

    let interrupted = receiver();
    world.with_a_cluster();
    let endpoint = [("OTEL_EXPORTER_OTLP_ENDPOINT", interrupted.url())];
    let endpoint = endpoint.each_ref().map(|(name, value)| (*name, value.as_str()));
    let child = world.run(&["layer", "10"], &endpoint).stderr_to_stdout().stdout_capture().start().unwrap();
    eventually("Helmfile runs", || world.starts().iter().any(|line| line.contains(" sync ")));
    signal(&child, 2);
    assert_eq!(ended(&child).0, Some(130));
    let spans = spans(&interrupted, "");
    assert_eq!(attribute(named(&spans, "cargo xtask layer"), "error.type")["stringValue"], "interrupted");
    let sync = named(&spans, "helmfile-sync 10-bootstrap");
    assert_eq!(attribute(sync, "ameide.outcome")["stringValue"], "cut-short");
}

#[test]
fn a_receiver_that_takes_nothing_costs_a_line_and_nothing_else() {
    let world = World::new();
    let list = ["layer", "--list"];
    let (code, plain) = said(world.run(&list, &[]).stderr_to_stdout().stdout_capture());
    assert_eq!(code, Some(0));
    let [angry, silent, curt] =
        [Answer::new(500, "no"), Answer::Never, Answer::Cut].map(|answer| Server::start(move |_| answer.clone()).url());
    let patience = ("OTEL_EXPORTER_OTLP_TIMEOUT", "300");
    for (url, why) in [
        (angry.as_str(), "status 500"),
        (&silent, "no answer within 300 ms"),
        (&curt, "connection closed"),
        ("http://127.0.0.1:9", "Connection refused"),
        ("ftp://collector.example", "expected http://host"),
    ] {
        let started = Instant::now();
        let (code, text) = run(&world, url, &list, &[patience]);
        assert!(started.elapsed() < Duration::from_secs(5), "{url}");
        let more = text.strip_prefix(&plain).unwrap_or_else(|| panic!("{url}: {text}"));
        let said = more.starts_with("⚠️  [trace] ") && more.contains(why) && more.lines().count() == 1;
        assert!(code == Some(0) && said, "{url}: {text}");
    }
}

#[test]
fn a_receiver_that_is_busy_is_asked_once_more_if_it_does_not_ask_for_long() {
    let world = World::new();
    for (status, wait, asked) in [(503, "1", 2), (429, "0", 2), (502, "", 2), (503, "60", 1), (400, "0", 1)] {
        let receiver = Server::start(move |request| match request.before {
            0 => Answer::new(status, "").with("Retry-After", wait),
            _ => Answer::new(200, "{}"),
        });
        let (code, text) = run(&world, &receiver.url(), &["layer", "--list"], &[]);
        assert_eq!((code, receiver.seen().len()), (Some(0), asked), "{status} {wait}: {text}");
        assert_eq!(text.contains("[trace]"), asked == 1, "{status} {wait}: {text}");
    }
}

/// What xtask does not speak, Helmfile does: its spans must not hang below one that nobody sends.
#[test]
fn with_grpc_helmfiles_spans_are_below_those_of_ci() {
    let (world, receiver) = (World::new(), receiver());
    world.with_a_cluster();
    let variables = [("TRACEPARENT", TRACEPARENT), ("TRACESTATE", "ci=1"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
    let (code, text) = run(&world, &receiver.url(), &["layer", "10"], &variables);
    assert_eq!((code, receiver.seen().len()), (Some(0), 0), "{text}");
    let helmfile = environment(&world, "helmfile", " sync ");
    for line in [&format!("TRACEPARENT={TRACEPARENT}"), "TRACESTATE=ci=1", "HELMFILE_OTEL_TRACING=true"] {
        assert!(helmfile.lines().any(|given| given == line), "{line}\n{helmfile}");
    }
    assert_eq!(text.matches("Helmfile's spans are put below that of TRACEPARENT").count(), 1, "{text}");
}

#[test]
fn nothing_is_told_where_nobody_wants_to_know() {
    let (world, receiver) = (World::new(), receiver());
    let unsampled = TRACEPARENT.replace("-01", "-00");
    for variable in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("TRACEPARENT", unsampled.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ] {
        let (code, text) = run(&world, &receiver.url(), &["layer", "--list"], &[variable]);
        assert_eq!((code, receiver.seen().len()), (Some(0), 0), "{variable:?}: {text}");
        let told = text.lines().filter(|line| line.contains("only http/json is supported")).count();
        assert_eq!(told, usize::from(variable.1 == "grpc"), "{text}");
    }
    let (_, text) =
        run(&world, &receiver.url(), &["layer", "--list"], &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]);
    assert!(receiver.seen().len() == 1 && text.contains("only http/json is supported"), "{text}");
}
