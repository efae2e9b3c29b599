//! What Helm and Helmfile say themselves.

use run_record::Code;

use super::table::{Row, harmless, row};

/// Helm's own messages, without the API answers quoted in them. Checked before
/// [`API_ANSWERS`](super::api::API_ANSWERS).
pub(super) const HELM_FIRST: &[Row] = &[
    // Of the stored revision, not of the chart (`pkg/action/upgrade.go`, `uninstall.go`).
    row(
        Code::ApiRemoved,
        &[
            &["removed kubernetes api"],
            &["from current release manifest", "no matches for kind"],
            &["kubernetes objects for delete", "no matches for kind"],
        ],
    ),
    row(
        Code::ReleasePending,
        &[
            &["another operation (install/upgrade/rollback) is in progress"],
            &["has no deployed releases"],
            &["\"sh.helm.release", "already exists"],
            &["release: already exists"],
        ],
    ),
    row(
        Code::Usage,
        &[
            &["invalid client update option"],
            &["unknown flag"],
            &["unknown shorthand flag"],
            &["unknown command"],
            &["context \"", "does not exist"],
        ],
    ),
    row(
        Code::NameInUse,
        &[
            &["cannot reuse a name that is still in use"],
            &["cannot re-use a name that is still in use"],
            &["invalid ownership metadata"],
            &["cannot be imported into the current release"],
            &["resource that already exists"],
        ],
    ),
    row(
        Code::RenderFailed,
        &[
            &["yaml parse error on"],
            &["execution error at ("],
            &["parse error at ("],
            &["error calling include"],
            &["error calling tpl"],
            &["error calling fail"],
            &["error calling required"],
            &["nil pointer evaluating"],
            &["values don't meet the specifications"],
            &["template: ", "/templates/"],
            &["template: ", ".tpl:"],
            &["template: ", ".gotmpl"],
            &["failed parsing --set"],
            &["failed to parse ", "values"],
            &["error converting yaml to json"],
            &["chart requires kubeversion"],
            &["validation: chart.metadata"],
            &["release name \"", "invalid"],
            &["invalid release name"],
            &["cannot load values"],
            &["error unmarshaling json"],
            &["mapping values are not allowed"],
            &["manifest", "is not valid yaml"],
        ],
    ),
    row(Code::RegistryRateLimited, &[&["response status code 429"], &["429 too many requests"], &["toomanyrequests"]]),
    row(
        Code::ChartMissing,
        &[
            &["chart.yaml file is missing"],
            &["missing in charts/ directory"],
            &["path \"", "not found"],
            &["no such file or directory", "chart"],
            &["chart \"", "not found"],
            &["chart not found"],
            &["failed to download \""],
            &["could not download "],
            // A chart that Helm pulls itself (oras, containerd's resolver, a repository's index).
            &["failed to perform \""],
            &["response status code "],
            &["/v2/", "/tags/list"],
            &["/v2/", "/manifests/"],
            &["/v2/", "/blobs/"],
            &["failed to fetch anonymous token"],
            &["failed to fetch oauth token"],
            &["is not a valid chart repository"],
            &["repo ", "not found"],
            &["not a chart archive"],
            &["chart.yaml", "no such file"],
            &["could not find chart"],
            &["could not find ../"],
            &["could not find ./"],
            &["could not load", "chart"],
            &["chart metadata is missing"],
            &["out of sync", "chart.lock"],
        ],
    ),
];

/// Helm and the network between it and the API. Checked after
/// [`API_ANSWERS`](super::api::API_ANSWERS).
pub(super) const HELM_LAST: &[Row] = &[
    row(Code::Forbidden, &[&["getting credentials: exec"], &[": unauthorized"], &["no auth provider found"]]),
    row(
        Code::ApiCertificate,
        &[&["x509:"], &["remote error: tls:"], &["tls: failed to verify"], &["tls: private key"]],
    ),
    row(
        Code::ApiUnreachable,
        &[
            &["kubernetes cluster unreachable"],
            &["client rate limiter wait returned an error"],
            &["the connection to the server"],
            &["unable to connect to the server"],
            &["http2: client connection lost"],
            &["http2: server sent goaway"],
            &["get \"https://"],
            &["post \"https://"],
            &["put \"https://"],
            &["patch \"https://"],
            &["delete \"https://"],
            &["dial tcp"],
            &["unexpected eof"],
            &["connection reset by peer"],
            &["tls handshake timeout"],
            &["could not get apiversions"],
            &["couldn't get current server api group list"],
            &["unable to retrieve the complete list of server apis"],
            &["connect: connection refused"],
        ],
    ),
    // What others write at the same time, and an object that is on its way out.
    row(
        Code::Conflict,
        &[&["operation cannot be fulfilled on", "object has been modified"], &["object is being deleted: "]],
    ),
    // A hook's own object of an earlier run.
    row(Code::HookFailed, &[&["hook ", " failed: ", "already exists"]]),
    row(Code::NameInUse, &[&["\" already exists"]]),
    harmless(&[&["release: not found"]]),
    // What Helm waited for and saw fail: Helm names the object, the cluster has the cause.
    row(
        Code::HookFailed,
        &[
            &["backofflimitexceeded"],
            &["deadlineexceeded", "job"],
            &["job failed"],
            &["job ", " failed"],
            &["pod ", " failed"],
            &["hooks failed"],
            &["failed pre-"],
            &["failed post-"],
        ],
    ),
];

/// Symptoms of pods: anything in the cluster's state takes precedence.
pub(super) const SYMPTOMS: &[Code] = &[Code::HookFailed];

pub(super) const HELMFILE: &[Row] = &[
    // Its frame around a failed command, which itself said what is wrong.
    harmless(&[&["exited with non-zero status"], &["command \"", "exited"], &["skipping missing"]]),
    row(
        Code::Usage,
        &[
            &["environment \"", "is not defined"],
            &["does not match the selectors"],
            &["no releases found that matches"],
            &["specified state file"],
            &["no state file found"],
            &["unknown flag"],
            &["malformed label"],
        ],
    ),
    row(
        Code::ChartMissing,
        &[
            &["chart.yaml", "missing"],
            &["chart.yaml", "no such file"],
            &["charts/", "no such file"],
            &["chart", "does not exist"],
            &["charts", "not found"],
            &["directory", "not found"],
        ],
    ),
    row(
        Code::RenderFailed,
        &[
            &["undefined release"],
            &["depends on"],
            &["depend(s) on"],
            &["dependency cycle"],
            &["cycle"],
            &["duplicate release"],
            &["parsing: template"],
            &["template: "],
            &["yaml:"],
            &["unmarshal"],
            &["failed executing template"],
            &["failed to render"],
            &["failed to read"],
            &["failed to load"],
            &["error during"],
            &["is not defined"],
            &["does not exist"],
            &["no such file or directory"],
            &["does not match any"],
            &["unable to parse"],
            &["required env var"],
            &["env var"],
            &["values file"],
            &["unknown field"],
            &["mapping key"],
            &["invalid"],
        ],
    ),
];
