//! The connection to a cluster and the answers of its API server, with the real binary against API
//! servers on loopback: every answer in words, with its exit code; kubeconfigs from several files;
//! proxies.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::server::{Answer, Request, Server};
use crate::support::tls::{Authority, encrypted};
use crate::support::{self, free_port, root, side_by_side};

/// With the API server's clock, which is this machine's.
fn answer(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer::new(status, body).with("Date", httpdate::fmt_http_date(std::time::SystemTime::now()))
}

/// An API server that answers requests for Secrets with `secrets`, and has nothing else.
fn api(secrets: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
    Server::start(move |request| if request.target.contains("/secrets") { secrets(request) } else { nothing(request) })
}

fn failure(code: u16, reason: &str, message: &str) -> String {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
        .to_string()
}

fn nothing(request: &Request) -> Answer {
    match request.path() {
        "/readyz" => answer(200, "ok"),
        "/version" => answer(200, "{}"),
        _ => {
            let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": []});
            answer(200, list.to_string())
        }
    }
}

/// Its own home, state folder and kubeconfig.
pub struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs `releases`, which reads Helm's Secrets from the API and needs nothing else.
    fn releases(&self, env: &str, kubeconfig: &str) -> Command {
        let mut command = support::xtask(&root(), &["--env", env, "releases"]);
        command.env("AMEIDE_STATE_DIR", self.path("state")).env("HOME", self.path("home"));
        command.env("KUBECONFIG", kubeconfig);
        for variable in ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY"] {
            command.env_remove(variable).env_remove(variable.to_lowercase());
        }
        command
    }
}

fn kubeconfig(context: &str, server: &str, more: Value) -> String {
    let mut cluster = json!({"server": server});
    cluster.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": context,
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "secret-token"}}],
        "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
    })
    .to_string()
}

const STAGING: &str = "ameide-staging";

/// Text that only a programmer can make sense of.
const DEBUG: [&str; 9] =
    ["ApiError", "ServiceError", "HyperError", "Some(", "Status {", "os error", "hyper", "Error {", "secret-token"];

#[track_caller]
fn ends(command: Command, exit: i32, parts: &[&str]) -> String {
    let text = support::ends(command, exit);
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    for word in DEBUG {
        assert!(!text.contains(word), "{word:?} is in:\n{text}");
    }
    text
}

#[test]
fn every_answer_of_the_api_server_is_told_in_words_with_its_own_exit_code() {
    let rbac = "secrets is forbidden: User \"system:serviceaccount:ci:deployer\" cannot list resource \"secrets\" in API group \"\" at the cluster scope";
    let rows: &[(u16, &str, &str, i32, &[&str])] = &[
        (401, "Unauthorized", "Unauthorized", 8, &["unauthenticated", "ameide-staging", "log in again"]),
        (
            403,
            "Forbidden",
            rbac,
            8,
            &["forbidden", "not allowed to list secrets in the whole cluster", "auth can-i list secrets -A"],
        ),
        (
            403,
            "Forbidden",
            "denied by an authorizer of its own",
            8,
            &["forbidden", "not allowed to read", "denied by an authorizer"],
        ),
        (404, "NotFound", "the server could not find the requested resource", 8, &["crd-missing"]),
        (
            429,
            "TooManyRequests",
            "too many requests, please try again later",
            4,
            &["api-overloaded", "rejects requests"],
        ),
        (500, "InternalError", "Internal error occurred: database is locked", 4, &["api-failed", "database is locked"]),
        (500, "", "etcdserver: leader changed", 4, &["api-unreachable", "leader changed"]),
        (
            503,
            "ServiceUnavailable",
            "apiserver is shutting down, please try again later",
            4,
            &["api-unreachable", "shutting down"],
        ),
        (
            504,
            "Timeout",
            "request did not complete within the allotted timeout",
            4,
            &["api-unreachable", "504 Gateway Timeout"],
        ),
        (418, "", "a teapot", 1, &["unknown", "418", "a teapot"]),
    ];
    side_by_side(rows.len(), rows, |&(code, reason, message, exit, parts)| {
        let machine = Machine::new();
        let body = failure(code, reason, message);
        let api = api(move |_| answer(code, body.clone()));
        let config = machine.write("config", &kubeconfig(STAGING, &api.url(), json!({})));
        let text = ends(machine.releases("staging", &config), exit, parts);
        // This tool must not offer to bring up a shared cluster.
        assert!(!text.contains("cargo xtask cluster"), "{text}");
    });
}

#[test]
fn what_is_no_api_server_is_told_as_that() {
    let rows: &[(u16, &str, &[&str])] = &[
        (
            502,
            "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
            &["an HTML page (502 Bad Gateway)"],
        ),
        (200, "<html>Please log in</html>", &["not from a Kubernetes API"]),
        (0, "", &["cannot be reached", "GET /api/v1/secrets"]),
    ];
    for &(code, body, parts) in rows {
        let machine = Machine::new();
        let api = api(move |_| if code == 0 { Answer::Cut } else { answer(code, body) });
        let config = machine.write("config", &kubeconfig(STAGING, &api.url(), json!({})));
        ends(machine.releases("staging", &config), 4, parts);
    }
    // A server that does not answer, and a remedy that fits the environment.
    let free = format!("127.0.0.1:{}", free_port());
    let machine = Machine::new();
    let config = machine.write("config", &kubeconfig("k3d-ameide-ci", &format!("http://{free}"), json!({})));
    ends(machine.releases("ci", &config), 4, &["api-unreachable", "refused", "remedy:   cargo xtask --env ci cluster"]);
    let config = machine.write("config", &kubeconfig(STAGING, &format!("http://{free}"), json!({})));
    let text = ends(machine.releases("staging", &config), 4, &["api-unreachable", "refused", "VPN"]);
    assert!(!text.contains("cargo xtask cluster"), "{text}");
}

#[test]
fn a_server_that_asks_for_patience_is_asked_again_and_not_for_ever() {
    let again: &[(u16, Option<u64>, &str)] = &[
        (429, Some(1), "too many requests, please try again later"),
        (503, None, "the server is currently unable to handle the request"),
        (504, None, "timeout"),
        (500, None, "etcdserver: leader changed"),
        (0, None, ""),
    ];
    side_by_side(again.len(), again, |&(code, after, message)| {
        let machine = Machine::new();
        let body = failure(code, "", message);
        let api = api(move |request| match request.before {
            0 | 1 if code == 0 => Answer::Cut,
            0 | 1 => patience(answer(code, body.clone()), after),
            _ => nothing(request),
        });
        let config = machine.write("config", &kubeconfig(STAGING, &api.url(), json!({})));
        let text = ends(machine.releases("staging", &config), 0, &["retrying in"]);
        assert!(api.count("GET", "/secrets") >= 3, "{code}: {text}");
    });
    // A server that always refuses is given up, even one that asks to wait an hour.
    side_by_side(2, [None, Some(3600)], |after| {
        let machine = Machine::new();
        let api = api(move |_| patience(answer(503, failure(503, "", "no")), after));
        let config = machine.write("config", &kubeconfig(STAGING, &api.url(), json!({})));
        ends(machine.releases("staging", &config), 4, &["api-unreachable"]);
        assert_eq!(api.count("GET", "/secrets"), if after.is_some() { 1 } else { 5 }, "{after:?}");
    });
}

/// With the time after which to ask again, if any.
fn patience(answer: Answer, seconds: Option<u64>) -> Answer {
    match seconds {
        Some(seconds) => answer.with("Retry-After", seconds),
        None => answer,
    }
}

#[test]
fn a_credential_plugin_that_fails_is_told_in_its_own_words() {
    let machine = Machine::new();
    let api = Server::start(nothing);
    let plugin = |command: &str, arguments: &[&str]| {
        let mut config: Value = serde_json::from_str(&kubeconfig(STAGING, &api.url(), json!({}))).unwrap();
        config["users"][0]["user"] = json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": command, "args": arguments,
            "interactiveMode": "Never",
        }});
        machine.write("config", &config.to_string())
    };
    let refusing = plugin("sh", &["-c", "echo secret-token; echo 'Token has expired: run cloud login' >&2; exit 3"]);
    ends(machine.releases("staging", &refusing), 8, &["unauthenticated", "plugin sh exited with 3", "run cloud login"]);
    let absent = plugin("no-such-plugin", &[]);
    ends(machine.releases("staging", &absent), 8, &["unauthenticated", "cannot be started"]);
}

#[test]
fn a_list_of_kubeconfigs_is_read_as_kubectl_reads_it() {
    let machine = Machine::new();
    let api = Server::start(nothing);
    let good = kubeconfig(STAGING, &api.url(), json!({}));
    let dead = kubeconfig(STAGING, "http://127.0.0.1:1", json!({}));
    let good = machine.write("a folder/kube config", &good);
    let dead = machine.write("dead", &dead);
    let empty = machine.write("empty", "");
    let absent = machine.path("absent").to_str().unwrap().to_owned();
    // Missing and empty files and entries are skipped; the first one that sets a value wins.
    for list in [
        good.clone(),
        format!("{absent}:{good}"),
        format!("{good}:{absent}"),
        format!(":{empty}::{good}:"),
        format!("{good}:{dead}"),
        format!("{good}:{good}"),
    ] {
        ends(machine.releases("staging", &list), 0, &[]);
    }
    ends(machine.releases("staging", &format!("{dead}:{good}")), 4, &["refused"]);
    // Relative to the current folder.
    let mut relative = machine.releases("staging", "kube config");
    relative.env("KUBECONFIG", pathdiff(&root(), Path::new(&good)));
    ends(relative, 0, &[]);
    // If there is none, the context is reported missing, with those that exist.
    ends(machine.releases("staging", &absent), 4, &["ameide-staging", "absent", "it has none"]);
    ends(machine.releases("ci", &good), 4, &["k3d-ameide-ci", "it has ameide-staging", "cargo xtask --env ci cluster"]);
    // A malformed one is named, and nothing in it is shown.
    let broken = machine.write("broken", "users:\n- name: x\n  user: {token: secret-token\n");
    ends(machine.releases("staging", &format!("{good}:{broken}")), 2, &["broken", "line "]);
    let folder = machine.path("a folder").to_str().unwrap().to_owned();
    ends(machine.releases("staging", &format!("{folder}:{good}")), 2, &["a folder", "cannot be read"]);
}

fn pathdiff(from: &Path, to: &Path) -> PathBuf {
    let up: PathBuf = from.components().skip(1).map(|_| "..").collect();
    up.join(to.strip_prefix("/").unwrap())
}

/// A proxy that accepts CONNECT, and always connects to its configured target.
pub struct Proxy {
    pub address: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn before(upstream: &str, answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (noted, upstream) = (seen.clone(), upstream.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (noted, upstream) = (noted.clone(), upstream.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(client.try_clone().unwrap());
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|read| read > 0) {}
                    noted.lock().unwrap().push(head);
                    let mut client = client;
                    let _ = client.write_all(answer.as_bytes());
                    if !answer.contains(" 200 ") {
                        return;
                    }
                    let there = TcpStream::connect(upstream).unwrap();
                    let (mut from, mut to) = (there.try_clone().unwrap(), client.try_clone().unwrap());
                    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                    let mut there = there;
                    let _ = std::io::copy(&mut client, &mut there);
                });
            }
        });
        Self { address, seen }
    }

    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

pub const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// An API server with TLS, for the name `api.example`; and its authority.
pub fn api_with_tls(machine: &Machine) -> (Server, String) {
    server_with_tls(machine.folder.path(), "api.example", nothing)
}

/// A server with TLS for this name; and its authority, whose files are in this folder.
pub fn server_with_tls(
    folder: &Path,
    name: &str,
    answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> (Server, String) {
    let authority = Authority::made_in(folder, &[name]);
    let tls = authority.tls();
    let server = Server::over("127.0.0.1:0", answer, move |stream| encrypted(&tls, stream));
    (server, authority.certificate().to_str().unwrap().to_owned())
}

#[test]
fn a_proxy_leads_to_the_api_server_as_kubectl_has_it() {
    let machine = Machine::new();
    let (api, authority) = api_with_tls(&machine);
    let proxy = Proxy::before(&api.address, ESTABLISHED);
    let of = |more: Value| {
        let mut cluster = json!({"certificate-authority": authority});
        cluster.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        machine.write("config", &kubeconfig(STAGING, "https://api.example:6443", cluster))
    };
    let config = of(json!({}));
    // Through the variable, in either case, with and without a scheme, with an account.
    for (variable, value) in [
        ("HTTPS_PROXY", format!("http://{}", proxy.address)),
        ("https_proxy", format!("http://{}/", proxy.address)),
        ("HTTPS_PROXY", proxy.address.clone()),
        ("HTTPS_PROXY", format!("http://me:p%40ss@{}", proxy.address)),
    ] {
        let mut command = machine.releases("staging", &config);
        command.env(variable, value);
        ends(command, 0, &[]);
    }
    let seen = proxy.seen();
    assert!(seen.iter().all(|head| head.starts_with("CONNECT api.example:6443 HTTP/1.1")), "{seen:?}");
    // `me:p@ss`
    assert!(seen.last().unwrap().to_lowercase().contains("basic bwu6cebzcw=="), "{seen:?}");
    // The kubeconfig's own takes precedence over the variable, and ignores NO_PROXY.
    let mut command = machine.releases("staging", &of(json!({"proxy-url": format!("http://{}", proxy.address)})));
    command.env("HTTPS_PROXY", "http://127.0.0.1:1").env("NO_PROXY", "*");
    let before = proxy.seen().len();
    ends(command, 0, &[]);
    assert!(proxy.seen().len() > before);
    // Hosts in NO_PROXY are not reached through it.
    for list in ["api.example", "other.example, .example", "*.example", "api.example:6443", "*"] {
        let before = proxy.seen().len();
        let mut command = machine.releases("staging", &of(json!({})));
        command.env("HTTPS_PROXY", format!("http://{}", proxy.address)).env("NO_PROXY", list);
        ends(command, 4, &["api-unreachable"]);
        assert_eq!(proxy.seen().len(), before, "{list}");
    }
    let mut command = machine.releases("staging", &of(json!({})));
    command.env("HTTPS_PROXY", format!("http://{}", proxy.address)).env("NO_PROXY", "api.example:443,notapi.example");
    ends(command, 0, &[]);
}

#[test]
fn a_proxy_that_fails_or_is_mistyped_is_named_with_its_variable() {
    let machine = Machine::new();
    let config = machine.write("config", &kubeconfig(STAGING, "https://api.example:6443", json!({})));
    let refusing = Proxy::before("", "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    for (value, exit, part) in [
        ("http://me:secret-token@127.0.0.1:1".to_owned(), 4, "127.0.0.1:1"),
        (format!("http://{}", refusing.address), 4, "authorization required"),
        ("ftp://proxy.example:21".to_owned(), 2, "expected http://HOST:PORT"),
        ("http://proxy.example:port".to_owned(), 2, "expected http://HOST:PORT"),
        ("http://me:secret-token@proxy.example:99999".to_owned(), 2, "expected http://HOST:PORT"),
        ("http:/proxy.example".to_owned(), 2, "expected http://HOST:PORT"),
        ("two words".to_owned(), 2, "expected http://HOST:PORT"),
        // Mistyped right where the account is: a malformed proxy is never shown.
        ("htp://me:secret-token/proxy.example:3128".to_owned(), 2, "expected http://HOST:PORT"),
    ] {
        let mut command = machine.releases("staging", &config);
        command.env("HTTPS_PROXY", &value);
        let said = ends(command, exit, &["HTTPS_PROXY", part]);
        assert!(!said.contains("secret-token"), "{said}");
    }
    let config = kubeconfig(STAGING, "https://api.example:6443", json!({"proxy-url": "proxy.example:3128"}));
    let config = machine.write("config", &config);
    ends(machine.releases("staging", &config), 2, &["proxy-url", "expected http://HOST:PORT"]);
}

#[test]
fn a_local_cluster_and_this_machine_are_reached_directly() {
    let machine = Machine::new();
    let api = Server::start(nothing);
    let config = machine.write("config", &kubeconfig("k3d-ameide-ci", &api.url(), json!({})));
    for value in ["http://127.0.0.1:1", "no proxy at all"] {
        let mut command = machine.releases("ci", &config);
        command.env("HTTP_PROXY", value).env("HTTPS_PROXY", value);
        ends(command, 0, &[]);
    }
    let config = machine.write("config", &kubeconfig(STAGING, &api.url(), json!({})));
    let mut command = machine.releases("staging", &config);
    command.env("HTTP_PROXY", "http://127.0.0.1:1");
    ends(command, 0, &[]);
}
