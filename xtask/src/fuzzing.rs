//! A named list of every parser of external text, for the tests here and for `cargo fuzz`
//! (`fuzz/`). Each accepts any bytes; its result is used as far as that is possible without I/O.

use std::sync::LazyLock;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use camino::Utf8Path;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Event, Pod, Secret, Service};

use crate::cluster::{lock, registry_hosting};
use crate::compare::{self, images, pull_secret};
use crate::diagnosis::retry;
use crate::diagnosis::tracker::Owner;
use crate::diagnosis::{helm_errors, pods, sources, tracker};
use crate::files::bounds;
use crate::layer::{preflight, timeline};
use crate::reach::services;
use crate::releases::{Status, history, manifest, removal};
use crate::repo::environment::Environment;
use crate::repo::environment::RegistrySettings;
use crate::repo::k3d;
use crate::repo::layers::Layer;
use crate::repo::needs::LayerNeeds;
use crate::repo::needs::PullSecretNeed;
use crate::run::duration;
use crate::run::foreign;
use crate::world::process::Captured;
use crate::world::{docker, docker_hub, helm_storage, helmfile, kubeconfig, kubernetes, pod_log, tools};
use crate::{checklist, cluster};
use run_record::readers::{html, markdown};
use run_record::{Code, timeline as run_timeline};

#[cfg(test)]
#[path = "../../tests/fuzz/driver.rs"]
mod driver;

/// A parser's name, and the function that feeds it.
pub type Parser = (&'static str, fn(&[u8]));

pub const PARSERS: &[Parser] = &[
    ("answer", answer),
    ("chart-template", chart_template),
    ("checklist", kept_checklist),
    ("checksums", checksums_file),
    ("docker", docker_answer),
    ("duration", duration),
    ("env.yaml", env_yaml),
    ("event", event),
    ("foreign", foreign_text),
    ("go.mod", go_mod),
    ("helm-payload", helm_payload),
    ("helm-release", helm_release),
    ("helmfile-build", helmfile_build),
    ("helmfile-list", helmfile_list),
    ("holder", holder),
    ("images.lock", images_lock),
    ("k3d-label", k3d_label),
    ("k3d-said", k3d_said),
    ("k3d.yaml", k3d_yaml),
    ("kubeconfig", kube_config),
    ("layer-record", layer_record),
    ("layers.yaml", layers_yaml),
    ("log", log),
    ("message", message),
    ("pod", pod),
    ("pod-log", pod_log_lines),
    ("pull-secret", pull_secret_config),
    ("record", record),
    ("registry-hosting", hosting),
    ("rendered", rendered_manifests),
    ("service", service),
    ("tools.lock", tools_lock),
];

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn file() -> &'static Utf8Path {
    Utf8Path::new("file")
}

fn layers_yaml(bytes: &[u8]) {
    let Ok(needs) = LayerNeeds::parse(file(), &text(bytes)) else { return };
    let mut spent = retry::Spent::default();
    for code in [
        Code::RegistryRateLimited,
        Code::ReleasePending,
        Code::ApiUnreachable,
        Code::WebhookUnavailable,
        Code::Conflict,
    ] {
        for _ in 0..40 {
            if let retry::Retry::RateLimit(next)
            | retry::Retry::Repair(next)
            | retry::Retry::Api(next)
            | retry::Retry::Webhook(next) = spent.decide(code, &needs.retries)
            {
                let _ = Instant::now() + next.wait;
            }
        }
    }
    for seconds in needs.retries.patience.values().chain([&needs.preflight.namespace, &needs.preflight.service]) {
        let _ = Instant::now() + std::time::Duration::from_secs(*seconds);
    }
}

fn env_yaml(bytes: &[u8]) {
    let _ = Environment::parse(file(), &text(bytes));
}

fn k3d_yaml(bytes: &[u8]) {
    let Ok(config) = k3d::K3dConfig::parse(file(), &text(bytes)) else { return };
    assert!(config.containers().len() <= 202);
    let _ = (cluster::loadbalancer::spec(&config).is_ok(), config.api_binding());
    let _ = (config.host_ports(), config.registry_container(), config.network());
    assert_eq!(cluster::label::drift(&cluster::label::of(&config), &config), Some(Vec::new()));
}

/// Standard output and standard error, with a line of three percent signs between them.
fn docker_answer(bytes: &[u8]) {
    use std::os::unix::process::ExitStatusExt;
    let text = text(bytes);
    let (stdout, stderr) = text.split_once("%%%\n").unwrap_or((&text, ""));
    let names = ["k3d-ameide-ci-server-0".to_owned(), "absent".to_owned()];
    for status in [0, 1 << 8, 9] {
        let status = std::process::ExitStatus::from_raw(status);
        let captured = Captured { status, stdout: stdout.to_owned(), stderr: stderr.to_owned() };
        let found = docker::read_inspected::<docker::Container>(docker::Kind::Container, &names, "docker", &captured);
        for container in found.unwrap_or_default() {
            let _ = (container.never_ran(), container.keeps_in_volume("/x", "y"), container.label("app"));
        }
        let _ = docker::read_inspected::<docker::Thing>(docker::Kind::Network, &names, "docker", &captured);
        let _ = docker::read_file_look("k3d-ameide-ci-server-0", "/etc/x", "docker", &captured);
        let _ = (docker::read_names("docker", &captured), docker::read_info(&captured));
    }
}

fn k3d_said(bytes: &[u8]) {
    let text = text(bytes);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let _ = cluster::k3d_errors::failure(&["cluster", "create"], &lines);
    for line in &lines {
        let _ = (cluster::k3d_errors::port_failure(line), cluster::k3d_errors::readable(line));
    }
}

fn k3d_label(bytes: &[u8]) {
    let yaml = "apiVersion: k3d.io/v1alpha5\nkind: Simple\nmetadata: {name: x}\nports: [{port: '1:1'}]\n";
    if let Ok(config) = k3d::K3dConfig::parse(file(), yaml) {
        let found = cluster::label::drift(&URL_SAFE_NO_PAD.encode(bytes), &config).unwrap_or_default();
        found.iter().for_each(|difference| drop(difference.to_string()));
    }
}

/// Applying a change twice must be the same as applying it once.
fn kube_config(bytes: &[u8]) {
    let text = text(bytes);
    if kubeconfig::unfolds(&text).is_ok() {
        let _ = kube::config::Kubeconfig::from_yaml(&text);
    }
    let entry = serde_json::json!({"name": "k3d-ameide-ci", "cluster": {"server": "https://127.0.0.1:6551"}});
    let entries = [("clusters", entry)];
    for change in [
        kubeconfig::Change::Forget { context: "k3d-ameide-ci", user: "admin@k3d-ameide-ci" },
        kubeconfig::Change::Put { entries: &entries, current: Some("k3d-ameide-ci") },
    ] {
        if let Ok(Some(changed)) = kubeconfig::changed(&text, &change) {
            assert_eq!(kubeconfig::changed(&changed, &change), Ok(None), "{changed}");
        }
    }
}

fn helm_payload(bytes: &[u8]) {
    if let Ok(stored) = helm_storage::decode::<helm_storage::Stored>(bytes) {
        let _ = (manifest::objects(&stored), manifest::data_of(&stored));
    }
    let _ = helm_storage::decode::<helm_storage::Told>(bytes);
    if let Ok(changed) = helm_storage::with_status(bytes, Status::Failed, "marked") {
        let _ = helm_storage::decode::<helm_storage::Stored>(&changed);
    }
}

/// The JSON of a release, packed as Helm packs it.
fn helm_release(bytes: &[u8]) {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let zipped = encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default();
    helm_payload(STANDARD.encode(zipped).as_bytes());
}

fn record(bytes: &[u8]) {
    let _ = history::read(&text(bytes));
    let logs = ["k3d.log".to_owned(), "10-bootstrap.log".to_owned()];
    let Some(run) = run_timeline::read("run", &text(bytes), &logs) else { return };
    let _ = html::page(&run, &[], |_| Some("log".to_owned()));
    let _ = markdown::page(&run, &[]);
}

fn kept_checklist(bytes: &[u8]) {
    let checkpoints: Vec<run_record::Checkpoint> = serde_json::from_slice(bytes).unwrap_or_default();
    let line = "{\"time\":\"2026-11-24T03:40:00Z\",\"event\":\"end\",\"exit\":0,\"seconds\":1}";
    if let Some(run) = run_timeline::read("run", line, &[]) {
        let _ = (html::page(&run, &checkpoints, |_| None), markdown::page(&run, &checkpoints));
    }
}

fn rendered_manifests(bytes: &[u8]) {
    let text = text(bytes);
    let lock = image_mirror::ImagesLock { version: 1, platforms: Vec::new(), images: Vec::new() };
    static PLACES: LazyLock<Option<images::Places>> =
        LazyLock::new(|| bounds::yaml(include_str!("../../infra/images/places.yaml")).ok());
    let Some(places) = PLACES.as_ref() else { return };
    for named in images::images(&text, places).unwrap_or_default() {
        let _ = images::judge(&named.image, "k3d-ci-reg:5000", &lock, &["linux/amd64".to_owned()]);
    }
    let _ = manifest::parse(&text);
    if let Ok(Some(marked)) = removal::keeping(&text) {
        assert_eq!(removal::keeping(&marked), Ok(None), "{marked}");
    }
    let _ = preflight::Own::of(&text, &[]);
}

fn images_lock(bytes: &[u8]) {
    let text = text(bytes);
    let Ok(lock) = bounds::yaml::<image_mirror::ImagesLock>(&text) else { return };
    for image in &lock.images {
        let platforms = ["linux/amd64".to_owned(), "linux/arm64/v8".to_owned()];
        let _ = images::judge(&format!("reg/{}", image.image), "reg", &lock, &platforms);
    }
}

fn go_mod(bytes: &[u8]) {
    let text = text(bytes);
    let _ = (tools::pin(&text), tools::prints_version(&text, "v4.3.1"));
}

fn checksums_file(bytes: &[u8]) {
    for form in [tools::checksums::Form::Named, tools::checksums::Form::Bare] {
        let _ = tools::checksums::digest_in(&text(bytes), form, "k3d-linux-amd64");
    }
}

fn tools_lock(bytes: &[u8]) {
    if let Ok(lock) = tools::lock::Lock::parse(file(), &text(bytes)) {
        let _ = lock.digest("helm", "linux/amd64", "v4.3.1");
    }
}

fn chart_template(bytes: &[u8]) {
    let _ = compare::inputs::doubts_in(&text(bytes));
}

fn layer_record(bytes: &[u8]) {
    let _ = compare::record::read(&text(bytes));
}

fn helmfile_list(bytes: &[u8]) {
    let _ = compare::reader::listed(&text(bytes), "default");
}

fn helmfile_build(bytes: &[u8]) {
    let revision = helm_storage::Revision {
        release: "minio".to_owned(),
        namespace: "ameide".to_owned(),
        revision: 1,
        status: Status::PendingUpgrade,
        run: None,
        by: None,
        created: None,
        written: None,
        layer: None,
        secret: String::new(),
        uid: None,
        resource_version: None,
    };
    if let Some(timeout) = helmfile::timeout_in(&text(bytes), &revision) {
        let _ = Instant::now() + timeout;
    }
}

fn pod(bytes: &[u8]) {
    let Ok(pod) = serde_json::from_slice::<Pod>(bytes) else { return };
    let layer = Layer { number: 45, stage: "data-plane-ext".to_owned(), path: file().to_owned() };
    let _ = (timeline::pod_event(&layer, &pod), pods::facts(&pod));
    for container in pod_log::containers(&pod) {
        let _ = (pod_log::standing(&pod, &container), pod_log::has_previous(&pod, &container));
    }
    let (mut seen, now) = (patient(), Instant::now());
    for _ in 0..2 {
        seen.pod(&pod, Owner::Ours, now);
    }
    let _ = (seen.next_due(), seen.due(now).map(|sighting| seen.prospect(sighting)));
}

/// A container's log, with a timestamp before each line.
fn pod_log_lines(bytes: &[u8]) {
    let text = text(bytes);
    let mut taken = pod_log::Taken::default();
    for _ in 0..2 {
        taken.again();
        let _ = (text.lines().filter_map(|line| taken.take(line)).count(), taken.since());
    }
}

fn service(bytes: &[u8]) {
    let Ok(service) = serde_json::from_slice::<Service>(bytes) else { return };
    let mapped: Vec<k3d::Mapping> = k3d::Mapping::parse("127.0.0.1:8443:443").into_iter().collect();
    let found: Vec<services::Openable> = services::openable(&service, &mapped).into_iter().collect();
    let _ = (services::list(&found, "ci"), services::summary(&found));
}

fn event(bytes: &[u8]) {
    let Ok(event) = serde_json::from_slice::<Event>(bytes) else { return };
    let (mut seen, now) = (patient(), Instant::now());
    for _ in 0..2 {
        seen.event(&event, Owner::Ours, now);
    }
    let _ = (seen.next_due(), seen.standing().len());
}

/// Longer than a file of the tree may ask for.
fn patient() -> tracker::Tracker {
    tracker::Tracker::new([(Code::CrashLoop.to_owned(), u64::MAX), (Code::ImageNotFound.to_owned(), u64::MAX)].into())
}

/// A reason, a tab, and a message, as any source may give it.
fn message(bytes: &[u8]) {
    let text = text(bytes);
    let (reason, message) = text.split_once('\t').unwrap_or(("", &text));
    for component in [None, Some("kubelet"), Some(reason)] {
        let _ = sources::event(component, reason, message);
    }
    let _ = (sources::state(reason, message), sources::api(reason, message), sources::helm(message));
    let _ = (sources::helmfile(message), sources::log(message), sources::is_timeout(message));
    let _ = (
        helm_errors::is_killed(message),
        sources::is_warning(message),
        helm_errors::conflicts(message),
        retry::image_of(message),
    );
}

fn log(bytes: &[u8]) {
    let _ = helm_errors::of_lines(text(bytes).lines());
}

/// An answer of the API server, as JSON and as its message alone.
fn answer(bytes: &[u8]) {
    let text = text(bytes);
    let told: kube::core::Status = serde_json::from_slice(bytes).unwrap_or_default();
    let said = kube::core::Status { message: text.clone().into_owned(), ..Default::default() };
    for status in [told, said] {
        for code in [status.code, 403, 404, 500] {
            let error = kube::Error::Api(kube::core::Status { code, ..status.clone() }.into());
            let _ = (kubernetes::read_failed("a thing", error), retry::image_of(&status.message));
        }
    }
    let _ = kubernetes::answers::program(&text);
}

fn duration(bytes: &[u8]) {
    if let Ok(time) = duration::parse(&text(bytes)) {
        let _ = Instant::now() + time;
    }
}

fn holder(bytes: &[u8]) {
    if let Ok(holder) = serde_json::from_slice::<lock::Holder>(bytes) {
        let _ = holder.describe(jiff::Timestamp::now());
    }
}

fn hosting(bytes: &[u8]) {
    let settings = RegistrySettings {
        push: "127.0.0.1:5001".to_owned(),
        pull: "k3d-ci-reg:5000".to_owned(),
        plain_http: true,
        ca: None,
    };
    let _ = registry_hosting::differences(&text(bytes), &settings);
}

fn pull_secret_config(bytes: &[u8]) {
    let secret = Secret {
        type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
        data: Some([(".dockerconfigjson".to_owned(), ByteString(bytes.to_owned()))].into()),
        ..Default::default()
    };
    let _ = checklist::facts::secret_state(&secret);
    let need = PullSecretNeed { name: "creds".to_owned(), server: "https://x/v1/".to_owned(), namespaces: Vec::new() };
    if let Ok(Some(account)) = docker_hub::account(|_| Some("name".to_owned())) {
        let _ = pull_secret::with_account(Some(secret), &need, &account);
    }
}

fn foreign_text(bytes: &[u8]) {
    let text = text(bytes);
    let line = foreign::line(&text);
    assert!(!line.chars().any(char::is_control) && line.len() <= 32 << 10, "{line:?}");
    let _ = (foreign::lines(&text), foreign::command_line(text.split(' ').take(200)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Real input: the tree's own files, and output of programs.
    fn samples(parser: &str) -> Vec<Vec<u8>> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let file = |path: &str| std::fs::read(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let files = |paths: &[&str]| paths.iter().map(|path| file(path)).collect();
        let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        match parser {
            "answer" => texts(&[
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"secrets is forbidden: User \"dev\" cannot list resource \"secrets\" in API group \"\" in the namespace \"ameide\"","reason":"Forbidden","details":{"kind":"secrets","retryAfterSeconds":1},"code":403}"#,
                "admission webhook \"x.example\" denied the request: no",
                "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head></html>",
                "Back-off pulling image \"k3d-ci-reg:5000/third-party/redis:7@sha256:0000\": ErrImagePull: failed to resolve reference",
                r#"TOKEN="a \" b" "aws" "eks" "get-token""#,
                "cannot reach it: Connection refused (os error 111) (os error 2",
            ]),
            "checklist" => vec![
                serde_json::from_slice::<serde_json::Value>(&file("tests/runs/good/checklist.json")).unwrap()["items"]
                    .to_string()
                    .into_bytes(),
            ],
            "docker" => texts(&[
                "[{\"Id\":\"0123456789abcdef\",\"Name\":\"/k3d-ameide-ci-server-0\",\"State\":{\"Running\":false,\"Status\":\"created\",\"StartedAt\":\"0001-01-01T00:00:00Z\"},\"RestartCount\":0,\"Config\":{\"Image\":\"rancher/k3s\",\"Labels\":{\"app\":\"k3d\"}},\"Mounts\":[{\"Type\":\"volume\",\"Name\":\"y\",\"Destination\":\"/x\"}]}]\n%%%\nError response from daemon: No such container: absent\n",
                "{\"ServerVersion\":\"29.0.0\",\"Driver\":\"overlay2\",\"CgroupVersion\":\"2\",\"ServerErrors\":null}\n%%%\n",
                "[]\n%%%\nCannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n",
                "a\nb\n%%%\nError response from daemon: Could not find the file /etc/x in container k3d-ameide-ci-server-0\n",
            ]),
            "chart-template" => files(&[
                "infra/kubernetes/charts/lib/templates/_secret.tpl",
                "infra/kubernetes/charts/coredns-config/templates/deployment.yaml",
                "infra/kubernetes/_defaults.yaml.gotmpl",
                "infra/kubernetes/environments/images.yaml.gotmpl",
                "infra/kubernetes/helmfiles/10-bootstrap.yaml",
            ]),
            "duration" => texts(&["90", "90s", "5m", "1h"]),
            "env.yaml" => files(&[
                "infra/kubernetes/environments/ci/env.yaml",
                "infra/kubernetes/environments/production/env.yaml",
            ]),
            "event" => texts(&[
                r#"{"apiVersion":"v1","kind":"Event","metadata":{"name":"e","namespace":"ameide","uid":"e1"},"involvedObject":{"kind":"Pod","name":"minio-0","namespace":"ameide","uid":"u"},"reason":"Failed","message":"Failed to pull image \"k3d-ci-reg:5000/x:1\": not found","type":"Warning","count":2147483647,"firstTimestamp":"2026-11-24T03:40:00Z","lastTimestamp":"2026-11-24T03:40:00Z","source":{"component":"kubelet"},"eventTime":null,"series":{"count":2147483647,"lastObservedTime":"2026-11-24T03:40:00.000000Z"}}"#,
            ]),
            "log" => files(&[
                "tests/runs/failed/45-data-plane-ext.log",
                "tests/runs/good/40-data-plane.log",
                "tests/runs/good/k3d.log",
            ]),
            "message" => {
                let rows = String::from_utf8(file("tests/messages.tsv")).unwrap();
                let rows = rows.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').skip(1).take(2));
                rows.map(|row| row.collect::<Vec<_>>().join("\t").replace("\\n", "\n").into_bytes()).collect()
            }
            "foreign" => texts(&[
                "\u{1b}[31mFATAL\u{1b}[0m password authentication failed\r\n::error::x\u{1b}]8;;https://x\u{7}",
                "clone https://user:ghp_0123456789abcdefABCDEF@github.com/x?X-Amz-Signature=abc&token=\"x y\"",
                r#"{"auths":{"x":{"auth":"dXNlcjpwYXNzd29yZA==","password":"hunter2"}}} Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.e30.abc"#,
                "docker.io/library/redis:7@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa a:b@c --token é@ü:ß",
            ]),
            "go.mod" => files(&["infra/tools/helm/go.mod"]).into_iter().chain(texts(&[
                "module x\n\ntool helm.sh/helm/v4/cmd/helm\n\nrequire (\n\thelm.sh/helm v1.0.0 // indirect\n\thelm.sh/helm/v4 v4.3.1\n)\n",
                "v4.3.1+g1234567\nclient: v1.36.0 {\"gitVersion\":\"v4.3.1\"}",
            ])).collect::<Vec<_>>(),
            "checksums" => texts(&[
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  _dist/k3d-linux-amd64\r\n",
                "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
            ]),
            "tools.lock" => files(&["infra/tools/tools.lock"]).into_iter().chain(texts(&[
                "version: 1\ntools:\n  helm:\n    linux/amd64: {version: v4.3.1, digest: 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'}\n",
            ])).collect::<Vec<_>>(),
            "helm-release" => texts(&[RELEASE]),
            "helm-payload" => {
                use std::io::Write;
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(RELEASE.as_bytes()).unwrap();
                vec![STANDARD.encode(encoder.finish().unwrap()).into_bytes(), STANDARD.encode(RELEASE).into_bytes()]
            }
            "helmfile-build" => texts(&[
                "---\n# Source: infra/kubernetes/helmfiles/45-data-plane-ext.yaml\nfilepath: x.yaml\nhelmDefaults:\n  timeout: 600\n  wait: true\nreleases:\n- chart: ../charts/minio\n  name: minio\n  namespace: ameide\n  timeout: 900\n  labels: {layer: 45-data-plane-ext}\n- chart: ../charts/temporal\n  name: temporal\n",
            ]),
            "helmfile-list" => texts(&[
                r#"[{"name":"minio","namespace":"ameide","enabled":true,"installed":true,"labels":"layer:45","chart":"../charts/minio","version":""},{"name":"x","namespace":"","enabled":false,"installed":true}]"#,
            ]),
            "holder" => texts(&[
                r#"{"pid":7,"host":"h","user":"vscode","command":"cargo xtask up","run":"20261124-034000-7","since":"2026-11-24T03:40:00.5Z"}"#,
            ]),
            "images.lock" => files(&["infra/images/images.lock"]).into_iter().chain(texts(&[
                "version: 1\nplatforms: [linux/amd64]\nimages:\n- id: a\n  image: docker.io/x/y:1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n  target: third-party/y\n  mediaType: application/vnd.oci.image.index.v1+json\n  size: 1609\n  mode: index\n  targetDigest: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n  children:\n  - os: linux\n    arch: arm64\n    variant: v8\n    digest: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n    size: 18446744073709551615\n",
            ])).collect::<Vec<_>>(),
            "k3d-label" => texts(&[
                r#"{"apiVersion":"k3d.io/v1alpha5","kind":"Simple","metadata":{"name":"x"},"servers":1,"agents":0,"kubeAPI":{"hostPort":"6551"},"ports":[{"port":"1:2","nodeFilters":[]}],"options":null}"#,
            ]),
            "k3d-said" => files(&["tests/runs/good/k3d.log"]).into_iter().chain(texts(&[
                "\u{1b}[31mFATA\u{1b}[0m[0003] Failed Cluster Start: Failed to start server: Error response from daemon: driver failed programming external connectivity: Bind for 0.0.0.0:6551 failed: port is already allocated",
                "ERRO[0001] failed to set up container networking: listen tcp4 127.0.0.1:8443: bind: address already in use",
            ])).collect::<Vec<_>>(),
            "k3d.yaml" => files(&["infra/docker/ci/k3d.yaml", "infra/docker/local/k3d.yaml"]),
            "kubeconfig" => texts(&[
                "apiVersion: v1\n# mine\nclusters:\n- cluster:\n    certificate-authority-data: QQ==\n    server: https://127.0.0.1:6551\n  name: k3d-ameide-ci\n# the other one\n- cluster:\n    proxy-url: http://p # a proxy\n    server: https://x\n  name: other\ncontexts:\n- context:\n    cluster: k3d-ameide-ci\n    user: admin@k3d-ameide-ci\n  name: k3d-ameide-ci\n- context:\n    cluster: other\n    user: other\n  name: other\ncurrent-context: k3d-ameide-ci\nkind: Config\nusers:\n- name: admin@k3d-ameide-ci\n  user:\n    token: a\n- name: other\n  user:\n    exec: {apiVersion: client.authentication.k8s.io/v1, command: aws, args: [eks], env: null}\n",
                "{apiVersion: v1, kind: Config, clusters: [{name: k3d-ameide-ci, cluster: {server: 'https://x'}}], contexts: [], users: null, current-context: \"\"}\n",
                "",
            ]),
            "layer-record" => texts(&[
                r#"{"format":1,"cluster":"c","layer":"45-x","releases":[{"namespace":"ameide","name":"minio","installed":true}],"inputs":{"charts/minio":"0a"},"rendered":"aa","objects":[{"api_version":"v1","kind":"Secret","plural":"secrets","namespace":"ameide","name":"minio","uid":"u","owns":"0b"}],"tested":true}"#,
            ]),
            "layers.yaml" => files(&["infra/kubernetes/layers.yaml"]).into_iter().chain(texts(&[
                "preflight: {namespace: 120, service: 60}\nretries: {rateLimit: {attempts: 8, firstWait: 5, longestWait: 120}, patience: {crash-loop: 60}}\ncriticalPath: [10-bootstrap]\nlayers:\n  10-bootstrap:\n    services: [{namespace: a, name: b, port: 5432}]\n",
            ])).collect::<Vec<_>>(),
            "pod" => texts(&[POD]),
            "pod-log" => texts(&[
                "2026-11-25T12:00:00.123456789Z one\n2026-11-25T12:00:00.123456789Z one\n2026-11-25T12:00:01Z \nunable to retrieve container logs for containerd://0a",
            ]),
            "service" => texts(&[
                r#"{"metadata":{"name":"web","namespace":"shop","annotations":{"meta.helm.sh/release-name":"web"}},"spec":{"type":"LoadBalancer","clusterIP":"10.43.0.9","selector":{"app":"web"},"ports":[{"name":"https","port":443,"nodePort":30080,"targetPort":"web","appProtocol":"kubernetes.io/wss"}]},"status":{"loadBalancer":{"ingress":[{"ip":"1.2.3.4"}]}}}"#,
            ]),
            "pull-secret" => texts(&[
                r#"{"auths":{"https://x/v1/":{"username":"u","password":"p","auth":"dTpw"},"quay.io":{"auth":"Og=="}},"credsStore":"x"}"#,
            ]),
            "record" => files(&["tests/runs/failed/record.jsonl", "tests/runs/good/record.jsonl"]),
            "registry-hosting" => texts(&[
                "help: https://k3d.io\nhost: localhost:5000\nhostFromClusterNetwork: k3d-dev-reg:5000\nhostFromContainerRuntime: k3d-dev-reg:5000\n",
            ]),
            "rendered" => texts(&[MANIFESTS]),
            _ => Vec::new(),
        }
    }

    const RELEASE: &str = r#"{"name":"minio","info":{"first_deployed":"2026-11-24T03:40:00Z","last_deployed":"2026-11-24T03:40:00Z","deleted":"","description":"Upgrade complete","status":"deployed","notes":"x"},"chart":{"metadata":{"name":"minio","version":"0.1.0"},"templates":[{"name":"t","data":"QQ=="}]},"config":{"a":null},"manifest":"---\n# Source: minio/templates/s.yaml\napiVersion: apps/v1\nkind: StatefulSet\nmetadata:\n  name: minio\n  annotations: {helm.sh/resource-policy: keep}\nspec:\n  volumeClaimTemplates: [{metadata: {name: data}}]\n---\napiVersion: v1\nkind: SecretList\nitems:\n- metadata: {name: a}\n","hooks":[{"name":"minio-test","kind":"Pod","path":"p","manifest":"apiVersion: v1\nkind: Pod\nmetadata: {name: t}\n","events":["test"],"last_run":{"started_at":"2026-11-24T03:40:00Z","completed_at":"2026-11-24T03:40:00Z","phase":"Succeeded"}},{"name":"d","manifest":"kind: Job","events":["pre-delete"],"last_run":{"phase":""}}],"version":3,"namespace":"ameide","labels":{"layer":"45"}}"#;

    const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"minio-0","namespace":"ameide","uid":"u","creationTimestamp":"2026-11-24T03:40:00Z","labels":{"app.kubernetes.io/instance":"minio","app.kubernetes.io/component":"test"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"StatefulSet","name":"minio","uid":"s","controller":true}]},"spec":{"nodeName":"n","containers":[{"name":"minio","image":"x"}]},"status":{"phase":"Running","conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"0/1 nodes are available","lastTransitionTime":"2026-11-24T03:40:01Z"},{"type":"Ready","status":"True","lastTransitionTime":"2026-11-24T03:40:05Z"}],"initContainerStatuses":[{"name":"i","image":"x","imageID":"","ready":false,"restartCount":2147483647,"state":{"terminated":{"exitCode":137,"signal":9,"reason":"OOMKilled","finishedAt":"2026-11-24T03:40:02Z"}}}],"containerStatuses":[{"name":"minio","image":"x","imageID":"","ready":false,"restartCount":3,"state":{"waiting":{"reason":"ImagePullBackOff","message":"Back-off pulling image \"k3d-ci-reg:5000/x:1\""}},"lastState":{"terminated":{"exitCode":1}}}]}}"#;

    const MANIFESTS: &str = "---\n# Source: minio/templates/statefulset.yaml\napiVersion: apps/v1\nkind: StatefulSet\nmetadata:\n  name: minio\n  namespace: ameide\nspec:\n  template:\n    spec:\n      containers:\n      - name: minio\n        image: \"k3d-ci-reg:5000/third-party/minio:1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"\n        args: [server, '--image=quay.io/a/b:c']\n        env:\n        - {name: IMAGE, value: 'docker.io/x/y:1'}\n---\nkind: List\nitems:\n- kind: ConfigMap\n  data: {a: |\n    image: x\n    }\n- apiVersion: x/v1\n  kind: Custom\n  spec:\n    image: {registry: quay.io, repository: a/b, tag: c, digest: d}\n    anchors: &a {image: x}\n    same: *a\n---\n{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 9000}]}}\n";

    #[test]
    fn no_text_from_outside_makes_a_parser_panic_or_take_all_memory() {
        driver::hold(PARSERS, samples);
    }

    /// A release of 790 MB in a Secret of 768 KiB.
    #[test]
    fn a_release_that_inflates_without_end_is_refused_within_bounds() {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        let zeros = vec![b' '; 1 << 20];
        for _ in 0..80 {
            encoder.write_all(&zeros).unwrap();
        }
        let payload = STANDARD.encode(encoder.finish().unwrap()).into_bytes();
        assert!(payload.len() < 200 << 10);
        assert!(helm_storage::decode::<helm_storage::Stored>(&payload).unwrap_err().contains("inflates to more than"));
        assert!(helm_storage::with_status(&payload, Status::Failed, "x").is_err());
    }
}
