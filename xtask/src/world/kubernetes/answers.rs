//! The API server's answers, or why there were none, in words: the one place that turns a client
//! error into a failure with code, evidence, remedy and exit code.
//!
//! Codes and reasons are those of the API conventions (`sig-architecture/api-conventions.md`, "HTTP
//! status codes" and "Response Status Kind"); the wording of a forbidden request is that of the
//! RBAC authorizer (`apiserver/pkg/endpoints/handlers/responsewriters/errors.go`).

use std::sync::OnceLock;

use kube::core::Status;

use crate::run::foreign::plain;
use crate::world::process::for_a_shell;
use run_record::{Code, Failure};

/// The Role with sufficient rights, as remedies name it.
const ROLES: &str = "infra/kubernetes/access/deployer.yaml";

/// The cluster that this run uses, as far as remedies depend on it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The kubeconfig context.
    pub context: String,
    /// Whether it is a k3d cluster of this machine, which `cargo xtask cluster` repairs; else a
    /// shared one.
    pub local: bool,
}

static PLACE: OnceLock<Place> = OnceLock::new();

/// Records which cluster the run uses; there is one per run.
pub(super) fn talks_to(place: Place) {
    let _ = PLACE.set(place);
}

fn place() -> Place {
    PLACE.get().cloned().unwrap_or_else(|| Place { context: String::new(), local: true })
}

/// How remedies call kubectl: with the run's context, since the kubeconfig's current one may be
/// another cluster's.
pub fn kubectl() -> String {
    place().kubectl()
}

/// The same for the cluster of this context.
pub fn kubectl_on(context: &str) -> String {
    format!("kubectl --context {}", for_a_shell(context))
}

impl Place {
    fn kubectl(&self) -> String {
        match self.context.as_str() {
            "" => "kubectl".to_owned(),
            context => kubectl_on(context),
        }
    }

    /// The remedy for an API that does not answer.
    pub(super) fn bring_back(&self) -> String {
        if self.local {
            return "cargo xtask cluster".to_owned();
        }
        format!("check the network (VPN, proxy) and the cluster: {} get --raw /readyz", self.kubectl())
    }
}

/// The remedy for the API of a shared cluster, which this tool neither creates nor starts.
pub fn bring_back(context: &str) -> String {
    Place { context: context.to_owned(), local: false }.bring_back()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Read,
    Write,
}

impl Doing {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "reading",
            Self::Write => "writing",
        }
    }
}

/// Reading `what` failed: this never means "there is none". `what` names the namespace.
pub fn read_failed(what: &str, error: kube::Error) -> Failure {
    failure(Doing::Read, what, &error, &place())
}

/// Creating, changing or deleting `what` failed.
pub fn write_failed(what: &str, error: kube::Error) -> Failure {
    failure(Doing::Write, what, &error, &place())
}

/// The context's API does not answer, for a reason other than a client error.
pub fn unreachable(context: &str, reason: impl std::fmt::Display) -> Failure {
    let place = Place { context: context.to_owned(), ..place() };
    Failure::new(Code::ApiUnreachable, format!("the Kubernetes API of context {context:?} cannot be reached"))
        .evidence(plain(&reason.to_string()))
        .remedy(place.bring_back())
}

/// Whether the credentials lack a right (and nothing else is wrong).
pub fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// A client error in one line that says what happened and to what.
pub fn in_words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => answer(status),
        kube::Error::Auth(error) => plugin(error),
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
            "the answer is not from a Kubernetes API: something else listens there, or is in between".to_owned()
        }
        other => {
            let chain = chain(other);
            certificate(&chain).unwrap_or(chain)
        }
    }
}

pub(super) fn failure(doing: Doing, what: &str, error: &kube::Error, place: &Place) -> Failure {
    if let Some(interrupted) = super::unanswered::interrupted(error) {
        return interrupted.clone();
    }
    match error {
        kube::Error::Api(status) => of_status(doing, what, status, place),
        kube::Error::Auth(_) => {
            let message = format!("no credentials for context {:?}: {} {what} failed", place.context, doing.word());
            Failure::new(Code::Unauthenticated, message)
                .evidence(in_words(error))
                .remedy(format!("log in again, so that this works: {} auth whoami", place.kubectl()))
        }
        error => of_connection(doing, what, error, place),
    }
}

fn of_connection(doing: Doing, what: &str, error: &kube::Error, place: &Place) -> Failure {
    let chain = chain(error);
    let words = in_words(error);
    let of = |code, sentence: String, remedy: String| {
        Failure::new(code, format!("{} {what} failed: {sentence}", doing.word())).evidence(words.clone()).remedy(remedy)
    };
    // A TLS alert is the server's rejection of our side of the handshake.
    if chain.contains("received fatal alert") {
        return of(Code::Unauthenticated, "the API server refuses the client certificate".into(), log_in(place));
    }
    if certificate(&chain).is_some() {
        let remedy = if place.local {
            RENEW.to_owned()
        } else {
            "get the cluster's kubeconfig again from whoever runs it; check this machine's clock".to_owned()
        };
        return of(Code::ApiCertificate, "the API server's certificate is not trusted".into(), remedy);
    }
    if let Some(via) = super::unanswered::proxy_in(error) {
        let remedy = format!("correct {}, or name the API server's host in NO_PROXY", via.from);
        return of(Code::ApiUnreachable, format!("the proxy {} does not let it through", via.address()), remedy);
    }
    of(Code::ApiUnreachable, "the Kubernetes API cannot be reached".into(), place.bring_back())
}

/// For a local cluster, whose certificates are the tool's to renew.
const RENEW: &str = "cargo xtask cluster   # fetches the kubeconfig, and renews what has expired";

fn log_in(place: &Place) -> String {
    if place.local {
        return RENEW.to_owned();
    }
    format!(
        "log in again (a token or certificate may have expired), then run it again: {} auth whoami shows as whom",
        place.kubectl()
    )
}

/// A webhook that denies what it could not check, since it did not reach what it asks (a registry,
/// Sigstore): it may reach it a moment later. Parts in lower case, of which one list has to occur.
pub const UNCHECKED: &[&[&str]] = &[
    &["denied the request", "dial tcp"],
    &["denied the request", "server misbehaving"],
    &["denied the request", "i/o timeout"],
    &["denied the request", "deadline exceeded"],
    &["denied the request", "client.timeout exceeded"],
    &["denied the request", "tls handshake timeout"],
    &["denied the request", "connection reset"],
    &["denied the request", "context canceled"],
    &["denied the request", "unexpected eof"],
    &["denied the request", "toomanyrequests"],
    &["denied the request", "too many requests"],
    &["denied the request", "503 service unavailable"],
    &["denied the request", "etcdserver:"],
    &["denied the request", "signal: killed"],
];

/// The table: the first matching row decides. Refusals of an object come before those of a right,
/// since both are 403.
fn of_status(doing: Doing, what: &str, status: &Status, place: &Place) -> Failure {
    let text = &status.message;
    let has = |words: &[&str]| words.iter().all(|word| text.contains(word));
    let doing_it = format!("{} {what}", doing.word());
    let kubectl = place.kubectl();
    let told = |code, sentence: String, remedy: String| {
        Failure::new(code, sentence).evidence(format!("{doing_it}: {}", answer(status))).remedy(remedy)
    };
    let refused = |code, sentence: &str, remedy: String| told(code, format!("{doing_it} failed: {sentence}"), remedy);
    let unavailable = |sentence: &str| {
        let remedy = format!("{kubectl} get validatingwebhookconfigurations,mutatingwebhookconfigurations");
        refused(Code::WebhookUnavailable, sentence, remedy)
    };
    let lower = text.to_lowercase();
    let unchecked = UNCHECKED.iter().any(|parts| parts.iter().all(|part| lower.contains(part)));
    match status.code {
        401 => refused(
            Code::Unauthenticated,
            &format!("the API server does not accept the credentials of context {:?}", place.context),
            log_in(place),
        ),
        _ if has(&["is being terminated"]) => told(
            Code::NamespaceTerminating,
            format!("{doing_it} failed: the namespace is being deleted"),
            format!("{kubectl} get namespaces; run it again when it is gone"),
        ),
        _ if unchecked => unavailable("an admission webhook cannot check it now"),
        _ if has(&["admission webhook", "denied the request"])
            || has(&["ValidatingAdmissionPolicy", "denied request"]) =>
        {
            refused(
                Code::WebhookDenied,
                "an admission webhook or policy denied the object",
                "change the object as the evidence says".to_owned(),
            )
        }
        _ if has(&["failed calling webhook"])
            || has(&["failed calling admission webhook"])
            || has(&["admission plugin", "failed to complete"]) =>
        {
            unavailable("an admission webhook does not answer")
        }
        _ if has(&["exceeded quota"]) => {
            refused(Code::QuotaExceeded, "the namespace's quota is used up", format!("{kubectl} describe quota -A"))
        }
        _ if has(&["violates PodSecurity"]) => refused(
            Code::PodSecurity,
            "the namespace's pod security level forbids the pod",
            "change the pod as the evidence says, or the namespace's label".to_owned(),
        ),
        403 => forbidden(status, doing, what, place),
        404 if has(&["namespaces \"", "not found"]) && doing == Doing::Write => refused(
            Code::NamespaceMissing,
            "the namespace does not exist",
            "run the layer that creates it: cargo xtask layer --list".to_owned(),
        ),
        404 if has(&["could not find the requested resource"]) => refused(
            Code::CrdMissing,
            "the cluster does not know this kind of object",
            format!("{kubectl} api-resources"),
        ),
        404 => refused(
            Code::ConfigMissing,
            "it does not exist",
            format!("{kubectl} get events -A; run the layer that creates it"),
        ),
        409 => refused(Code::Conflict, "somebody else wrote it at the same time", "run it again".to_owned()),
        400 | 422 if has(&["field is immutable"]) => refused(
            Code::ImmutableField,
            "a field that cannot change was changed",
            "undo the change, or replace that object by hand".to_owned(),
        ),
        400 | 413 | 422 if doing == Doing::Write => refused(
            Code::ObjectInvalid,
            "the API server refuses the object",
            "correct it as the evidence says".to_owned(),
        ),
        429 => refused(
            Code::ApiOverloaded,
            "the API server rejects requests, even after retries",
            format!(
                "wait and run it again; {kubectl} get --raw /metrics shows apiserver_flowcontrol_rejected_requests_total"
            ),
        ),
        408 | 502..=504 => {
            refused(Code::ApiUnreachable, "the API server cannot answer now, even after retries", place.bring_back())
        }
        500 if is_passing(text) => {
            refused(Code::ApiUnreachable, "the API server cannot answer now, even after retries", place.bring_back())
        }
        500..=599 => refused(
            Code::ApiFailed,
            "the API server had an internal error",
            format!("run it again; the API server's log shows more: {kubectl} get --raw /readyz?verbose"),
        ),
        _ => told(Code::Unknown, format!("{doing_it} failed"), format!("{kubectl} get --raw /readyz")),
    }
}

/// What the server says about itself while it starts, stops or changes its leader (etcd's
/// `rpctypes/error.go`, the API server's shutdown filters).
pub(super) fn is_passing(text: &str) -> bool {
    [
        "etcdserver: leader changed",
        "etcdserver: no leader",
        "etcdserver: request timed out",
        "etcdserver: too many requests",
        "etcdserver: server stopped",
        "apiserver is shutting down",
        "http: Handler timeout",
        "unexpected EOF",
        "connection reset by peer",
        "transport is closing",
        "context deadline exceeded",
    ]
    .iter()
    .any(|words| text.contains(words))
}

/// A missing right, extracted from the API server's message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Right<'a> {
    verb: &'a str,
    /// With its subresource, `pods/log`; a path if it is not a resource.
    resource: &'a str,
    group: &'a str,
    /// `None` for the whole cluster.
    namespace: Option<&'a str>,
}

impl<'a> Right<'a> {
    /// `… cannot list resource "secrets" in API group "" in the namespace "ameide"`, or
    /// `… at the cluster scope`, or `… cannot get path "/metrics"`.
    fn of(text: &'a str) -> Option<Self> {
        let (_, said) = text.split_once(" cannot ")?;
        let (verb, rest) = said.split_once(' ')?;
        let quoted = |after: &str| -> Option<&'a str> {
            let (_, rest) = rest.split_once(after)?;
            rest.strip_prefix('"')?.split('"').next()
        };
        let resource = quoted("resource ").or_else(|| quoted("path "))?;
        let group = quoted("in API group ").unwrap_or_default();
        Some(Self { verb, resource, group, namespace: quoted("in the namespace ") })
    }

    fn sentence(&self) -> String {
        let scope = match self.namespace {
            Some(namespace) => format!(" in the namespace {namespace}"),
            None if self.resource.starts_with('/') => String::new(),
            None => " in the whole cluster".to_owned(),
        };
        format!("not allowed to {} {}{scope}", self.verb, self.resource)
    }

    fn check(&self, kubectl: &str) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let resource = match self.resource.split_once('/') {
            Some((resource, sub)) if !self.resource.starts_with('/') => {
                format!("{resource}{group} --subresource={sub}")
            }
            _ => format!("{}{group}", self.resource),
        };
        let scope = match self.namespace {
            Some(namespace) => format!(" -n {namespace}"),
            None if self.resource.starts_with('/') => String::new(),
            None => " -A".to_owned(),
        };
        format!("{kubectl} auth can-i {} {resource}{scope}", self.verb)
    }
}

fn forbidden(status: &Status, doing: Doing, what: &str, place: &Place) -> Failure {
    let kubectl = place.kubectl();
    let (message, check) = match Right::of(&status.message) {
        Some(right) => (right.sentence(), right.check(&kubectl)),
        None => (
            format!("not allowed to {} {what}", if doing == Doing::Read { "read" } else { "write" }),
            format!("{kubectl} auth can-i --list"),
        ),
    };
    Failure::new(Code::Forbidden, message)
        .evidence(format!("{} {what}: {}", doing.word(), answer(status)))
        .remedy(format!("ask for that right ({ROLES} names all that are needed), and check it: {check}"))
}

/// `403 Forbidden: secrets is forbidden: …`
fn answer(status: &Status) -> String {
    let known = http::StatusCode::from_u16(status.code).ok();
    let reason = known.and_then(|code| code.canonical_reason()).unwrap_or(&status.reason);
    let code = if status.code == 0 { String::new() } else { status.code.to_string() };
    let text = said(&status.message);
    let head = [code.as_str(), reason].join(" ");
    match text.as_str() {
        "" => head.trim().to_owned(),
        text if text == reason => head.trim().to_owned(),
        text => format!("{}: {text}", head.trim()),
    }
}

/// What a server said, in one line of readable length. An HTML page does not come from the API
/// server: its title says the most.
fn said(text: &str) -> String {
    const LONGEST: usize = 600;
    let lower = text.trim_start().get(..14).unwrap_or_default().to_ascii_lowercase();
    if lower.starts_with("<html") || lower.starts_with("<!doctype html") {
        let title = text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
        let title = title.map(|(title, _)| format!(" ({})", plain(title))).unwrap_or_default();
        return format!("an HTML page{title}, from something in front of the API server");
    }
    let line = plain(text);
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The causes of an error, outermost first, each once and without the names of the layers.
fn chain(error: &kube::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = next {
        let text = plain(&cause.to_string());
        next = cause.source();
        let noise =
            ["ServiceError: ", "HyperError: ", "client error (", "error trying to connect", "tcp connect error"];
        let is_noise = noise.iter().any(|prefix| text.starts_with(prefix)) && next.is_some();
        if !is_noise && !words.iter().any(|word| word.contains(&text)) {
            words.push(text);
        }
    }
    let joined = words.join(": ");
    joined.strip_prefix("ServiceError: ").map(str::to_owned).unwrap_or(joined)
}

/// An error that is due to a certificate's age, in words.
pub(super) enum OfAge {
    /// The server's has expired.
    Server(&'static str),
    /// Perhaps the client's has: the API server only answers 401.
    Client(&'static str),
}

pub(super) fn of_age(error: &kube::Error) -> Option<OfAge> {
    match error {
        kube::Error::Api(status) => {
            (status.code == 401).then_some(OfAge::Client("it refuses the credentials that it has issued"))
        }
        error => certificate(&chain(error)).filter(|words| words.starts_with(EXPIRED)).map(|_| OfAge::Server(EXPIRED)),
    }
}

const EXPIRED: &str = "its certificate has expired";

/// What is wrong with a certificate, if that is what rustls reports.
fn certificate(chain: &str) -> Option<String> {
    let sentence = if chain.contains("InvalidContentType") || chain.contains("corrupt message") {
        "what answers there does not speak TLS: another program, or plain HTTP"
    } else if !chain.contains("invalid peer certificate") {
        return None;
    } else if chain.contains("UnknownIssuer") || chain.contains("BadSignature") {
        "its certificate is not signed by the authority that the kubeconfig names (another cluster, or something in between)"
    } else if chain.contains("expired") || chain.contains("Expired") {
        EXPIRED
    } else if chain.contains("not valid yet") || chain.contains("NotValidYet") {
        "its certificate is not valid yet: this machine's clock may be wrong"
    } else if chain.contains("not valid for name") || chain.contains("NotValidForName") {
        "its certificate is for other names than the one in the kubeconfig's server"
    } else if chain.contains("CaUsedAsEndEntity") {
        "its certificate is that of an authority, which no server may use as its own"
    } else {
        "its certificate is not valid"
    };
    // Rust's variant names mean nothing to users.
    let detail = chain.rsplit_once("invalid peer certificate: ").map_or("", |(_, detail)| detail);
    Some(if detail.contains(' ') { format!("{sentence} ({detail})") } else { sentence.to_owned() })
}

/// A credential plugin of the kubeconfig failed (`users[].user.exec`), or another way to log in.
fn plugin(error: &kube::client::AuthError) -> String {
    use kube::client::AuthError;
    match error {
        AuthError::AuthExecRun { cmd, out } => {
            // Its standard output may hold a token.
            let words = String::from_utf8_lossy(&out.stderr);
            let last: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let last = last.iter().rev().take(3).rev().copied().collect::<Vec<_>>().join(" | ");
            let said = if last.is_empty() { "and said nothing".to_owned() } else { format!("saying: {last}") };
            let ended = out.status.code().map_or("was killed".to_owned(), |code| format!("exited with {code}"));
            format!(
                "the kubeconfig's credential plugin {}{ended}, {said}",
                program(cmd).map(|name| format!("{name} ")).unwrap_or_default()
            )
        }
        AuthError::AuthExecStart(error) => {
            format!("the kubeconfig's credential plugin cannot be started: {}", plain(&error.to_string()))
        }
        AuthError::AuthExecParse(_) | AuthError::ExecPluginFailed | AuthError::AuthExec(_) => {
            format!("the kubeconfig's credential plugin returned no credentials: {}", plain(&error.to_string()))
        }
        AuthError::ReadTokenFile(error, path) => {
            format!("the kubeconfig's token file {} cannot be read: {}", path.display(), plain(&error.to_string()))
        }
        other => plain(&other.to_string()),
    }
}

/// The program in a command line as Rust formats it, `NAME="value" "program" "argument"`: the rest
/// may be secret.
pub(crate) fn program(line: &str) -> Option<String> {
    let mut rest = line;
    loop {
        let (before, quoted) = rest.split_once('"')?;
        let mut escaped = false;
        let end = quoted.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        if !before.ends_with('=') {
            return Some(quoted[..end].to_owned());
        }
        rest = &quoted[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Place {
        Place { context: "prod".into(), local: false }
    }

    fn api(code: u16, reason: &str, message: &str) -> kube::Error {
        kube::Error::Api(Status::failure(message, reason).with_code(code).boxed())
    }

    #[test]
    fn every_refusal_has_its_code_and_exit() {
        use Doing::{Read, Write};
        for (doing, code, message, expected) in [
            (Read, 401, "Unauthorized", Code::Unauthenticated),
            (
                Write,
                403,
                "secrets is forbidden: User \"u\" cannot create resource \"secrets\" in API group \"\" in the namespace \"a\"",
                Code::Forbidden,
            ),
            (
                Write,
                403,
                "secrets \"x\" is forbidden: unable to create new content in namespace a because it is being terminated",
                Code::NamespaceTerminating,
            ),
            (Write, 403, "pods \"x\" is forbidden: exceeded quota: small", Code::QuotaExceeded),
            (Write, 403, "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": x", Code::PodSecurity),
            (Write, 400, "admission webhook \"w\" denied the request: no", Code::WebhookDenied),
            (
                Write,
                400,
                "admission webhook \"w\" denied the request: Get \"https://r.example/v2/\": dial tcp: i/o timeout",
                Code::WebhookUnavailable,
            ),
            (
                Write,
                500,
                "Internal error occurred: admission plugin \"MutatingAdmissionWebhook\" failed to complete mutation in 13s",
                Code::WebhookUnavailable,
            ),
            (
                Write,
                422,
                "secrets \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
                Code::WebhookDenied,
            ),
            (
                Write,
                500,
                "Internal error occurred: failed calling webhook \"w\": Post \"https://w.svc\": EOF",
                Code::WebhookUnavailable,
            ),
            (Write, 404, "namespaces \"a\" not found", Code::NamespaceMissing),
            (Read, 404, "secrets \"x\" not found", Code::ConfigMissing),
            (Read, 404, "the server could not find the requested resource", Code::CrdMissing),
            (
                Write,
                409,
                "Operation cannot be fulfilled on secrets \"x\": the object has been modified",
                Code::Conflict,
            ),
            (
                Write,
                422,
                "Secret \"x\" is invalid: type: Invalid value: \"Opaque\": field is immutable",
                Code::ImmutableField,
            ),
            (Write, 422, "Secret \"x\" is invalid: metadata.name: Invalid value", Code::ObjectInvalid),
            (Write, 413, "Request entity too large: limit is 3145728", Code::ObjectInvalid),
            (Read, 429, "too many requests", Code::ApiOverloaded),
            (Read, 500, "etcdserver: request timed out", Code::ApiUnreachable),
            (Read, 500, "Internal error occurred: x", Code::ApiFailed),
            (Read, 503, "the server is currently unable to handle the request", Code::ApiUnreachable),
            (Read, 504, "Timeout", Code::ApiUnreachable),
            (Read, 410, "The provided continue parameter is too old", Code::Unknown),
        ] {
            let failure = failure(doing, "the Secret a/x", &api(code, "", message), &shared());
            assert_eq!(failure.code, expected, "{message}");
            assert!(failure.evidence[0].starts_with(doing.word()), "{failure:?}");
            assert!(failure.evidence[0].contains("the Secret a/x"), "{failure:?}");
            assert!(
                failure.remedy.as_ref().is_some_and(|remedy| !remedy.contains("cargo xtask cluster")),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn a_right_that_lacks_is_named_with_verb_resource_and_namespace() {
        let user = "User \"system:serviceaccount:ci:deployer\"";
        for (message, sentence, check) in [
            (
                format!(
                    "secrets is forbidden: {user} cannot list resource \"secrets\" in API group \"\" in the namespace \"ameide\""
                ),
                "not allowed to list secrets in the namespace ameide",
                "kubectl --context prod auth can-i list secrets -n ameide",
            ),
            (
                format!(
                    "leases.coordination.k8s.io \"ameide-deploy\" is forbidden: {user} cannot update resource \"leases\" in API group \"coordination.k8s.io\" in the namespace \"kube-system\""
                ),
                "not allowed to update leases in the namespace kube-system",
                "kubectl --context prod auth can-i update leases.coordination.k8s.io -n kube-system",
            ),
            (
                format!(
                    "pods \"x\" is forbidden: {user} cannot get resource \"pods/log\" in API group \"\" in the namespace \"ameide\""
                ),
                "not allowed to get pods/log in the namespace ameide",
                "kubectl --context prod auth can-i get pods --subresource=log -n ameide",
            ),
            (
                format!(
                    "nodes is forbidden: {user} cannot list resource \"nodes\" in API group \"\" at the cluster scope"
                ),
                "not allowed to list nodes in the whole cluster",
                "kubectl --context prod auth can-i list nodes -A",
            ),
            (
                format!("forbidden: {user} cannot get path \"/metrics\""),
                "not allowed to get /metrics",
                "kubectl --context prod auth can-i get /metrics",
            ),
        ] {
            let failure = failure(Doing::Read, "x", &api(403, "Forbidden", &message), &shared());
            assert_eq!(failure.message, sentence);
            assert!(failure.remedy.unwrap().ends_with(check));
        }
    }

    #[test]
    fn a_certificate_is_told_by_what_is_wrong_with_it() {
        for (chain, part) in [
            ("GET /x: invalid peer certificate: UnknownIssuer", "not signed by the authority"),
            (
                "invalid peer certificate: certificate expired: verification time 2 (UNIX), but certificate is not valid after 1 (1 seconds ago)",
                "has expired",
            ),
            (
                "invalid peer certificate: certificate not valid for name \"a\"; certificate is only valid for DnsName(\"b\")",
                "for other names",
            ),
            (
                "invalid peer certificate: certificate not valid yet: verification time 1 (UNIX), but certificate is not valid before 2",
                "clock",
            ),
            ("received corrupt message of type InvalidContentType", "not speak TLS"),
        ] {
            assert!(certificate(chain).is_some_and(|words| words.contains(part)), "{chain}");
        }
        assert_eq!(certificate("Connection refused"), None);
    }

    #[test]
    fn of_a_plugins_command_line_only_the_program_is_shown() {
        for (line, name) in [
            (r#""aws" "eks" "get-token""#, "aws"),
            (r#"KUBERNETES_EXEC_INFO="{\"kind\":\"x y\"}" TOKEN="a" "/opt/a b/login" "--secret""#, "/opt/a b/login"),
        ] {
            assert_eq!(program(line).as_deref(), Some(name), "{line}");
        }
        assert_eq!(program("TOKEN=\"unended"), None);
    }

    #[test]
    fn what_a_server_says_is_one_line_of_bounded_length() {
        assert_eq!(said("a\n\tb (os error 111)"), "a b");
        assert_eq!(said(&"x".repeat(5000)).chars().count(), 601);
        assert_eq!(
            said("<!DOCTYPE html><title>Log\nin</title>"),
            "an HTML page (Log in), from something in front of the API server"
        );
    }
}
