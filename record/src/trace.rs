//! The trace that a run is part of (W3C Trace Context, <https://www.w3.org/TR/trace-context/>): CI
//! hands it to a run, and a run to the programs it starts. A step's span id follows from the step's
//! number, before any reader has created the span.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The id of a trace; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceId(u128);

/// The id of one span of a trace; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpanId(u64);

/// Exactly `width` lower-case hexadecimal digits, not all of them 0.
fn hex(text: &str, width: usize) -> Option<u128> {
    let digits = text.len() == width && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let value = digits.then(|| u128::from_str_radix(text, 16).ok())??;
    (value != 0).then_some(value)
}

macro_rules! id {
    ($name:ident, $number:ty, $width:literal) => {
        impl $name {
            /// From random bits.
            pub fn new(bits: $number) -> Self {
                Self(bits.max(1))
            }

            fn parse(text: &str) -> Option<Self> {
                hex(text, $width).map(|value| Self(value as $number))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                write!(formatter, concat!("{:0", $width, "x}"), self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                Self::parse(&text).ok_or_else(|| format!("expected {} hexadecimal digits: {text:?}", $width))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

id!(TraceId, u128, 32);
id!(SpanId, u64, 16);

/// What a run has to know about its trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    pub id: TraceId,
    /// The run's own span.
    pub span: SpanId,
    /// The parent of that span, if somebody else began the trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<SpanId>,
    /// Whoever began the trace wants it to be recorded.
    pub sampled: bool,
    /// `tracestate`, passed on unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Nothing of this run is exported: what it starts belongs directly below its parent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsent: bool,
}

/// The flag bit for [`Trace::sampled`].
const SAMPLED: u8 = 1;

/// The length that every program has to accept (3.3.1.5).
const LONGEST_STATE: usize = 512;

impl Trace {
    /// A trace that begins with this run.
    pub fn begun(id: TraceId, span: SpanId) -> Self {
        Self { id, span, parent: None, sampled: true, state: None, unsent: false }
    }

    /// The trace that `traceparent` and `tracestate` name, with a span for this run; `None` if
    /// `traceparent` is malformed (2.2). A malformed `tracestate` is dropped.
    pub fn joined(traceparent: &str, tracestate: Option<&str>, span: SpanId) -> Option<Self> {
        let mut parts = traceparent.trim().split('-');
        let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let byte = |text: &str| {
            let digits = text.len() == 2 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            digits.then(|| u8::from_str_radix(text, 16).ok())?
        };
        // A later version may have more fields after these four.
        match byte(version)? {
            0xff => return None,
            0 if parts.next().is_some() => return None,
            _ => {}
        }
        let (id, parent, flags) = (TraceId::parse(id)?, SpanId::parse(parent)?, byte(flags)?);
        let state = tracestate.map(str::trim).filter(|state| !state.is_empty() && state.len() <= LONGEST_STATE);
        let state = state.filter(|state| state.bytes().all(|byte| matches!(byte, b' '..=b'~')) && state.contains('='));
        let (parent, sampled) = (Some(parent), flags & SAMPLED != 0);
        Some(Self { id, span, parent, sampled, state: state.map(str::to_owned), unsent: false })
    }

    /// The span of the step with this number.
    pub fn step(&self, id: u64) -> SpanId {
        self.nth(id)
    }

    /// The span of a row that has no number: derived from its position among the run's rows.
    pub(crate) fn row(&self, index: usize) -> SpanId {
        self.nth((1 << 63) | index as u64)
    }

    /// A different id for each `n` that looks as random as the run's own.
    fn nth(&self, n: u64) -> SpanId {
        // SplitMix64: an odd increment, then an invertible mix, so that no two ids are the same.
        let mut bits = self.span.0.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        SpanId::new(bits ^ (bits >> 31))
    }

    /// The `traceparent` for a child process that works within this span.
    pub fn traceparent(&self, span: SpanId) -> String {
        format!("00-{}-{span}-{:02x}", self.id, u8::from(self.sampled) * SAMPLED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn joined(traceparent: &str) -> Option<Trace> {
        Trace::joined(traceparent, None, SpanId::new(7))
    }

    #[test]
    fn a_trace_is_joined_and_handed_on() {
        let trace = joined(&format!("00-{ID}-{PARENT}-01")).unwrap();
        assert_eq!((trace.id.to_string(), trace.parent.unwrap().to_string()), (ID.into(), PARENT.into()));
        assert_eq!(trace.traceparent(trace.span), format!("00-{ID}-0000000000000007-01"));
        let unsampled = joined(&format!("00-{ID}-{PARENT}-00")).unwrap();
        assert!(!unsampled.sampled && unsampled.traceparent(unsampled.span).ends_with("-00"));
        assert!(joined(&format!("cc-{ID}-{PARENT}-01-what-comes")).is_some(), "of a later version");
        let begun = Trace::begun(TraceId::new(0), SpanId::new(0));
        assert_eq!(begun.traceparent(begun.span), format!("00-{:032x}-{:016x}-01", 1, 1));
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        let (zeros, upper) = ("0".repeat(32), ID.to_uppercase());
        for wrong in [
            String::new(),
            "yes".into(),
            format!("00-{ID}-{PARENT}"),
            format!("00-{ID}-{PARENT}-1"),
            format!("00-{ID}-{PARENT}-0x"),
            format!("00-{ID}-{PARENT}-01-more"),
            format!("ff-{ID}-{PARENT}-01"),
            format!("0-{ID}-{PARENT}-01"),
            format!("00-{zeros}-{PARENT}-01"),
            format!("00-{ID}-0000000000000000-01"),
            format!("00-{upper}-{PARENT}-01"),
            format!("00-{}-{PARENT}-01", &ID[1..]),
            format!("00-+{}-{PARENT}-01", &ID[1..]),
            format!("00-{ID}é-{PARENT}-01"),
        ] {
            assert_eq!(joined(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_state_is_kept_where_it_is_one() {
        let state = |text: &str| Trace::joined(&format!("00-{ID}-{PARENT}-01"), Some(text), SpanId::new(7))?.state;
        assert_eq!(state(" a=1,b@c=2 ").as_deref(), Some("a=1,b@c=2"));
        for wrong in ["", "a", "a=\u{1b}[31m", "a=é", &format!("a={}", "x".repeat(600))] {
            assert_eq!(state(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn each_step_has_a_span_of_its_own() {
        let trace = joined(&format!("00-{ID}-{PARENT}-01")).unwrap();
        let mut spans: Vec<SpanId> = (1..2000).map(|id| trace.step(id)).collect();
        spans.extend((0..2000).map(|index| trace.row(index)));
        spans.push(trace.span);
        let distinct: std::collections::HashSet<SpanId> = spans.iter().copied().collect();
        assert_eq!(distinct.len(), spans.len());
    }

    #[test]
    fn it_is_read_back_as_it_was_and_nothing_else_is() {
        let trace = Trace::joined(&format!("00-{ID}-{PARENT}-01"), Some("a=1"), SpanId::new(7)).unwrap();
        let json = serde_json::to_string(&trace).unwrap();
        assert_eq!(serde_json::from_str::<Trace>(&json).unwrap(), trace);
        assert!(serde_json::from_str::<Trace>(&json.replace(ID, "x")).is_err());
    }
}
