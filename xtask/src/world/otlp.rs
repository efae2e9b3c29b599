//! The trace collector that OpenTelemetry's variables name
//! (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>): HTTP with JSON.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use image_mirror::Posted;
use serde_json::Value;

use crate::world::proxies;

/// How long a receiver may take to answer, if no variable says.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest `Retry-After` that is waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Where traces are sent. Its headers may contain credentials: it is never printed.
pub struct Receiver {
    url: String,
    headers: HeaderMap,
    patience: Duration,
    ca: Option<Utf8PathBuf>,
    /// `OTEL_EXPORTER_OTLP_PROTOCOL`, if it is not the one used here.
    protocol: Option<String>,
}

/// A variable that is set and not empty.
fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

impl Receiver {
    /// The receiver that this process's environment names.
    pub fn from_env() -> Option<Self> {
        Self::from_variables(set)
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        // Settings for traces take precedence over those for all signals.
        let said = |what: &str| {
            let of_traces = variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{what}"));
            of_traces.or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{what}")))
        };
        let of_all = || Some(format!("{}/v1/traces", variable("OTEL_EXPORTER_OTLP_ENDPOINT")?.trim_end_matches('/')));
        let url = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(of_all)?;
        let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let exporters = variable("OTEL_TRACES_EXPORTER");
        let other = exporters.is_some_and(|names| !names.split(',').any(|name| name.trim() == "otlp"));
        if disabled || other {
            return None;
        }
        let patience = said("TIMEOUT").and_then(|value| value.parse().ok()).map(Duration::from_millis);
        Some(Self {
            url,
            headers: headers(&said("HEADERS").unwrap_or_default()),
            patience: patience.unwrap_or(PATIENCE),
            ca: said("CERTIFICATE").map(Utf8PathBuf::from),
            protocol: said("PROTOCOL").filter(|protocol| protocol != "http/json"),
        })
    }

    /// A message about a protocol that was requested but is not supported here.
    pub fn of_the_protocol(&self) -> Option<String> {
        let asked = self.protocol.as_ref()?;
        let then = if self.is_grpc() { "this run exports no trace" } else { "it is tried all the same" };
        Some(format!("OTEL_EXPORTER_OTLP_PROTOCOL={asked}: only http/json is supported here; {then}"))
    }

    pub fn is_grpc(&self) -> bool {
        self.protocol.as_deref() == Some("grpc")
    }

    /// Sends a trace, and once more if the receiver is busy (OTLP/HTTP, "Retryable Response Codes").
    /// A receiver that only speaks gRPC gets nothing.
    ///
    /// # Errors
    /// Why it was not accepted, naming the address.
    pub async fn send(&self, request: &Value) -> Result<(), String> {
        if self.is_grpc() {
            return Ok(());
        }
        // Some have a key in the query.
        let shown = self.url.split('?').next().unwrap_or_default();
        let failed = |why: String| format!("{shown}: the trace was not accepted: {}", why.replace(&self.url, shown));
        let proxies = proxies::named().map_err(|failure| failed(failure.message))?;
        let body = request.to_string().into_bytes();
        let send = async || {
            let sent = image_mirror::post(&self.url, self.headers.clone(), body.clone(), self.ca.clone(), &proxies);
            match tokio::time::timeout(self.patience, sent).await {
                Ok(Ok(posted)) => Ok(posted),
                Ok(Err(error)) => Err(failed(error.to_string())),
                Err(_) => Err(failed(format!("no answer within {} ms", self.patience.as_millis()))),
            }
        };
        let started = Instant::now();
        let mut posted = send().await?;
        // A receiver that took long to say that it is busy has used up what people wait for.
        if let Some(wait) = wait_before_retry(posted).filter(|_| started.elapsed() < PATIENCE) {
            tokio::time::sleep(wait).await;
            posted = send().await?;
        }
        match posted.status {
            200..=299 => Ok(()),
            status => Err(failed(format!("status {status}"))),
        }
    }
}

/// How long a receiver that is busy is waited for; it is not, if it asks for longer: people wait for
/// the end of the run.
fn wait_before_retry(posted: Posted) -> Option<Duration> {
    let wait = posted.retry_after.unwrap_or(Duration::from_millis(500));
    (matches!(posted.status, 429 | 502 | 503 | 504) && wait <= LONGEST_WAIT).then_some(wait)
}

/// `key=value,key=value` with percent-encoded values, as in W3C Baggage; malformed pairs are
/// dropped.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split(',').filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let key = key.trim();
        (!key.is_empty()).then(|| (key.to_owned(), image_mirror::percent_decoded(value.trim())))
    })
}

fn headers(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(text) {
        if let (Ok(name), Ok(mut value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(concat!("xtask/", env!("CARGO_PKG_VERSION"))));
    headers
}

/// The service that makes the spans: `OTEL_SERVICE_NAME`, plus `OTEL_RESOURCE_ATTRIBUTES`.
pub fn resource() -> Vec<(String, String)> {
    resource_from(set)
}

fn resource_from(variable: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let own = [("service.name", "xtask"), ("service.version", env!("CARGO_PKG_VERSION"))];
    let mut resource: BTreeMap<String, String> = own.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    resource.extend(pairs(&variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default()));
    resource.extend(variable("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name)));
    resource.into_iter().collect()
}

/// Makes Helmfile export to the same receiver too: only its traces, unless the environment says
/// otherwise. It does not support JSON, and would export nothing if that were requested.
pub fn for_helmfile() -> Vec<(&'static str, String)> {
    helmfile_from(set)
}

fn helmfile_from(variable: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
    let mut variables = Vec::new();
    for (name, value) in [("HELMFILE_OTEL_TRACING", "true"), ("OTEL_METRICS_EXPORTER", "none")] {
        if variable(name).is_none() {
            variables.push((name, value.to_owned()));
        }
    }
    for name in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] {
        if variable(name).as_deref() == Some("http/json") {
            variables.push((name, "http/protobuf".to_owned()));
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(of: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| of.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn receiver(of: &[(&str, &str)]) -> Option<Receiver> {
        Receiver::from_variables(variables(of))
    }

    const ALL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example:4318/");

    #[test]
    fn the_address_is_what_the_specification_makes_of_the_variables() {
        let url = |of: &[(&str, &str)]| receiver(of).map(|receiver| receiver.url);
        assert_eq!(url(&[]), None);
        assert_eq!(url(&[ALL]).as_deref(), Some("http://collector.example:4318/v1/traces"));
        let of_traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces.example/in");
        assert_eq!(url(&[ALL, of_traces]).as_deref(), Some("https://traces.example/in"));
        for off in
            [("OTEL_SDK_DISABLED", "True"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_TRACES_EXPORTER", "console")]
        {
            assert_eq!(url(&[ALL, off]), None, "{off:?}");
        }
        for on in [("OTEL_SDK_DISABLED", "false"), ("OTEL_TRACES_EXPORTER", "console, otlp")] {
            assert!(url(&[ALL, on]).is_some(), "{on:?}");
        }
    }

    #[test]
    fn headers_and_patience_are_read() {
        let found = receiver(&[
            ALL,
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20c2VjcmV0, x-tenant = a=b ,broken,b@d=1,=x"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "9000"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "150"),
        ])
        .unwrap();
        assert_eq!(found.patience, Duration::from_millis(150));
        assert!(found.headers["authorization"] == "Basic c2VjcmV0" && found.headers["x-tenant"] == "a=b");
        assert!(found.headers["authorization"].is_sensitive());
        assert_eq!(found.headers.len(), 4, "{:?}", found.headers);
        let plain = receiver(&[ALL, ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")]).unwrap();
        assert_eq!((plain.patience, plain.headers.len()), (PATIENCE, 2));
    }

    #[test]
    fn a_protocol_that_is_not_spoken_is_told() {
        let told =
            |protocol: &str| receiver(&[ALL, ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)]).unwrap().of_the_protocol();
        assert_eq!(told("http/json"), None);
        assert!(told("http/protobuf").unwrap().ends_with("tried all the same"));
        assert!(told("grpc").unwrap().ends_with("exports no trace"));
    }

    #[test]
    fn the_service_has_the_name_that_it_is_given() {
        let name = |of: &[(&str, &str)]| {
            resource_from(variables(of)).iter().find(|(key, _)| key == "service.name").unwrap().1.clone()
        };
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=deploy,team=data%20plane");
        assert_eq!(name(&[]), "xtask");
        assert_eq!(name(&[attributes]), "deploy");
        assert_eq!(name(&[attributes, ("OTEL_SERVICE_NAME", "ci")]), "ci");
        assert!(resource_from(variables(&[attributes])).contains(&("team".into(), "data plane".into())));
    }

    #[test]
    fn helmfile_tells_its_traces_in_what_it_speaks() {
        let plain = helmfile_from(variables(&[ALL]));
        assert_eq!(plain, [("HELMFILE_OTEL_TRACING", "true".to_owned()), ("OTEL_METRICS_EXPORTER", "none".to_owned())]);
        let chosen = [
            ("HELMFILE_OTEL_TRACING", "false"),
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ];
        assert_eq!(helmfile_from(variables(&chosen)), [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned())]);
    }
}
