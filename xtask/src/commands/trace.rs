//! The trace of a run: started by it, or joined if CI has started one, and exported at its end to
//! the trace collector. Like the report, it is made from the run's record.

use std::hash::{BuildHasher, RandomState};

use run_record::readers::otlp;
use run_record::trace::{SpanId, Trace, TraceId};

use super::report;
use crate::run::Run;
use crate::run::reporter::Reporter;
use crate::world::otlp::{Receiver, resource};

/// The trace that this run is part of; `None` if there is no collector.
pub fn begin(reporter: &Reporter) -> Option<Trace> {
    let receiver = Receiver::from_env()?;
    let trace = Trace { unsent: receiver.is_grpc(), ..named(reporter) };
    if let Some(text) = receiver.of_the_protocol() {
        let below = trace.unsent && trace.parent.is_some();
        let below = if below { "; Helmfile's spans are put below that of TRACEPARENT" } else { "" };
        reporter.note("trace", format!("{text}{below}"));
    }
    Some(trace)
}

fn named(reporter: &Reporter) -> Trace {
    let span = SpanId::new(random());
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let own = || Trace::begun(TraceId::new(u128::from(random()) << 64 | u128::from(random())), span);
    let Some(parent) = variable("TRACEPARENT") else { return own() };
    Trace::joined(&parent, variable("TRACESTATE").as_deref(), span).unwrap_or_else(|| {
        reporter.warn("trace", "TRACEPARENT is not a W3C trace context: the trace starts with this run");
        own()
    })
}

/// Bits that differ in each process: from the keys of hash maps.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// Exports this run, which has ended. Whatever happens here does not change its result.
pub async fn export(run: &Run) {
    let Some(receiver) = Receiver::from_env() else { return };
    let Some(recorded) = report::load(&run.dir) else { return };
    // Whoever started the trace decided this for all of it.
    let Some(trace) = recorded.trace.as_ref().filter(|trace| trace.sampled) else { return };
    if let Err(why) = receiver.send(&otlp::request(&recorded, trace, &resource())).await {
        Reporter::last_word("trace", &why);
    }
}
