//! Connects this machine to a Service: connections to loopback ports are forwarded to one of its
//! pods, and to the next one if that is replaced.

use std::cell::Cell;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use kube::api::Api;
use run_record::{Code, Failure};
use tokio::sync::mpsc;

use super::services::{self, Openable, Port, in_words, with_scheme};
use crate::diagnosis::watches::{self, Seen};
use crate::run::Run;
use crate::run::context::{Context, Site};
use crate::run::interrupt::Interrupt;
use crate::world::kubernetes::{self, read_failed};
use crate::world::port_forward::{self, Pair};
use crate::world::tools;

/// A port of a service, as requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    local: Option<u16>,
    /// By its number or its name.
    port: String,
}

/// Parses a port in kubectl's syntax.
///
/// # Errors
/// A message with the expected format.
pub fn wanted(text: &str) -> Result<Wanted, String> {
    const EXPECTED: &str = "expected PORT or LOCAL:PORT, with LOCAL from 1 to 65535";
    let (local, port) = match text.split_once(':') {
        Some((local, port)) => (Some(local.parse().ok().filter(|local| *local > 0).ok_or(EXPECTED)?), port),
        None => (None, text),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if port.is_empty() || !port.chars().all(plain) {
        Err(EXPECTED.to_owned())
    } else {
        Ok(Wanted { local, port: port.to_owned() })
    }
}

/// The pause before a broken connection is reopened: doubling while that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often a port-forward may fail before it has ever worked.
const ATTEMPTS: u32 = 3;

/// How often to check whether a pod is ready.
const READY: Duration = Duration::from_secs(1);

/// The ports to forward, each with the requested local port.
///
/// # Errors
/// `usage` for a port that the service does not have.
pub fn chosen(openable: &Openable, wanted: &[Wanted]) -> Result<Vec<(Port, Option<u16>)>, Failure> {
    if wanted.is_empty() {
        return Ok(openable.ports.iter().map(|port| (port.clone(), None)).collect());
    }
    let of = |wanted: &Wanted| {
        let is_it = |port: &&Port| port.number.to_string() == wanted.port || port.name.as_ref() == Some(&wanted.port);
        let port = openable.ports.iter().find(is_it).map(|port| (port.clone(), wanted.local));
        port.ok_or_else(|| {
            let (name, first) = (&openable.name, openable.ports.first().map(|port| port.number).unwrap_or_default());
            let ports: Vec<String> = openable.ports.iter().map(in_words).collect();
            Failure::usage(format!("--port {}: {name} has no such port: it has {}", wanted.port, ports.join(", ")))
                .remedy(format!("for a port of this machine: cargo xtask open {name} --port LOCAL:{first}"))
        })
    };
    wanted.iter().map(of).collect()
}

/// Forwards connections until Ctrl-C, to one pod after the other as they are replaced.
///
/// # Errors
/// `interrupted` at the end; what kept it from ever working.
pub async fn forward(
    context: &Context,
    client: &Client,
    openable: &Openable,
    ports: &[(Port, Option<u16>)],
) -> Result<(), Failure> {
    let (namespace, name) = (&openable.namespace, &openable.name);
    let toolbox = tools::ensure(&context.repo.tree, &["kubectl"], &context.run.reporter).await?;
    let plain: Vec<Port> = ports.iter().map(|(port, _)| port.clone()).collect();
    let log = context.run.log(&format!("open-{name}"));
    let (mut locals, mut stood, mut failures) = (None::<Vec<u16>>, false, 0);
    let (mut pause, mut waiting) = (FIRST_PAUSE, false);
    loop {
        let found = Api::<Service>::namespaced(client.clone(), namespace).get_opt(name).await;
        let found = match found {
            Ok(Some(service)) => services::pod_of(client, &service, &plain).await,
            Ok(None) if !stood => {
                return Err(Failure::usage(format!("the service {namespace}/{name} no longer exists")));
            }
            Ok(None) => Ok(None),
            Err(error) => Err(read_failed(&format!("the service {namespace}/{name}"), error)),
        };
        let (pod, remotes) = match found {
            Ok(Some(found)) => found,
            // If it never worked before, a failed look is a failure.
            Err(failure) if !stood => return Err(failure),
            not_now => {
                if !std::mem::replace(&mut waiting, true) {
                    let why = not_now.err().map_or("no pod of it is ready".to_owned(), |failure| failure.to_string());
                    context.run.reporter.waiting(name, format!("{why}: it is forwarded as soon as one is"));
                }
                Interrupt::global().or(tokio::time::sleep(READY)).await?;
                continue;
            }
        };
        waiting = false;
        let chosen = match &locals {
            Some(locals) => locals.clone(),
            None => local_ports(ports)?,
        };
        let pairs: Vec<Pair> =
            chosen.iter().zip(&remotes).map(|(local, remote)| Pair { local: *local, remote: *remote }).collect();
        let pod_name = pod.metadata.name.clone().unwrap_or_default();
        let listening = Cell::new(false);
        let on_listening = || {
            listening.set(true);
            match stood {
                true => context.run.reporter.note(name, format!("forwarded again, to pod/{pod_name}")),
                false => say(&context.run, openable, ports, &chosen),
            }
        };
        let over = port_forward::forward(
            context,
            &toolbox,
            (namespace, &pod_name),
            &pairs,
            &log,
            on_listening,
            replaced(client, &pod),
        )
        .await?;
        if over.listened {
            stood = true;
            locals = Some(chosen);
            (failures, pause) = (0, FIRST_PAUSE);
            context.run.reporter.waiting(name, format!("the connection to pod/{pod_name} ended ({})", over.why));
        } else {
            failures += 1;
            if !stood && (failures >= ATTEMPTS || is_final(&over.why)) {
                return Err(refused(&context.site, openable, &over.why).log(&log));
            }
            Interrupt::global().or(tokio::time::sleep(pause)).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// The local ports: as requested, else the same number, else any that is free.
fn local_ports(ports: &[(Port, Option<u16>)]) -> Result<Vec<u16>, Failure> {
    let mut taken: Vec<u16> = Vec::new();
    for (port, asked) in ports {
        let local = match asked {
            Some(asked) if port_forward::is_free(*asked) && !taken.contains(asked) => *asked,
            Some(asked) => {
                let message = format!("port {asked} of this machine is taken, or you may not listen on it");
                return Err(Failure::new(Code::PortTaken, message).remedy("name another one: --port LOCAL:PORT"));
            }
            None => {
                let free = port_forward::free_port(port.number).filter(|free| !taken.contains(free));
                free.or_else(|| port_forward::free_port(0)).ok_or_else(|| {
                    Failure::new(Code::PortTaken, "no port of this machine's loopback is free to listen on")
                })?
            }
        };
        taken.push(local);
    }
    Ok(taken)
}

/// Prints what is open now, one line per port.
fn say(run: &Run, openable: &Openable, ports: &[(Port, Option<u16>)], locals: &[u16]) {
    for ((port, asked), local) in ports.iter().zip(locals) {
        let address = with_scheme(port.scheme, &format!("127.0.0.1:{local}"));
        let service = format!("{}/{}:{}", openable.namespace, openable.name, port.number);
        if run.json {
            let Openable { namespace, name, .. } = openable;
            let line =
                serde_json::json!({"address": address, "namespace": namespace, "service": name, "port": port.number});
            run.reporter.data(&line.to_string());
            continue;
        }
        let other = *local != port.number && asked.is_none();
        let other = if other { format!("   ({} is taken here)", port.number) } else { String::new() };
        run.reporter.data(&format!("{address} → {service}{other}"));
    }
}

/// Resolves when the pod is being deleted, or is gone.
async fn replaced(client: &Client, pod: &Pod) {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let api = Api::<Pod>::namespaced(client.clone(), &namespace);
    let (to, mut news) = mpsc::unbounded_channel();
    // From the pod's own version on, so that changes since it was read are reported too.
    let version = pod.metadata.resource_version.clone().unwrap_or_default();
    let goes = async {
        while let Some(seen) = news.recv().await {
            let going = match &seen {
                Seen::Pod(now) => now.metadata.uid == pod.metadata.uid && now.metadata.deletion_timestamp.is_some(),
                Seen::Gone(uid) => Some(uid) == pod.metadata.uid.as_ref(),
                _ => false,
            };
            if going {
                return;
            }
        }
    };
    tokio::select! {
        () = watches::pods(api, &namespace, version, to) => {}
        () = goes => {}
    }
}

/// Errors for which a retry does not help.
fn is_final(why: &str) -> bool {
    code_of(why) != Code::Unknown
}

fn code_of(why: &str) -> Code {
    const WORDS: [(&str, Code); 3] = [
        ("is forbidden", Code::Forbidden),
        ("unable to listen on", Code::PortTaken),
        ("address already in use", Code::PortTaken),
    ];
    WORDS.into_iter().find(|(words, _)| why.contains(words)).map_or(Code::Unknown, |(_, code)| code)
}

fn refused(site: &Site, openable: &Openable, why: &str) -> Failure {
    let Openable { namespace, name, .. } = openable;
    let failure = Failure::new(code_of(why), format!("{namespace}/{name} cannot be forwarded")).evidence(why);
    match failure.code {
        Code::Forbidden => failure.remedy(format!(
            "{} auth can-i create pods/portforward -n {namespace}",
            kubernetes::kubectl_on(&site.kube_context)
        )),
        Code::PortTaken => failure.remedy(format!("cargo xtask open {namespace}/{name} --port LOCAL:PORT")),
        _ => failure.remedy("cargo xtask checklist"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn openable(namespace: &str, name: &str, ports: serde_json::Value) -> Openable {
        let service = json!({"metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": "10.43.0.9", "selector": {"app": name}, "ports": ports}});
        services::openable(&serde_json::from_value(service).unwrap(), &[]).unwrap()
    }

    #[test]
    fn ports_are_read_as_kubectl_reads_them() {
        let of = |local: Option<u16>, port: &str| Ok(Wanted { local, port: port.to_owned() });
        assert_eq!(wanted("9001"), of(None, "9001"));
        assert_eq!(wanted("http-api"), of(None, "http-api"));
        assert_eq!(wanted("8080:console"), of(Some(8080), "console"));
        for wrong in ["", ":", "0:80", "70000:80", "x:80", "80:", "a b", ":80"] {
            assert!(wanted(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_port_is_chosen_by_number_or_name_and_another_is_an_error() {
        let web = openable("shop", "web", json!([{"port": 80, "name": "http"}, {"port": 9000, "name": "admin"}]));
        let numbers = |texts: &[&str]| -> Result<Vec<(u16, Option<u16>)>, Failure> {
            let asked: Vec<Wanted> = texts.iter().map(|text| wanted(text).unwrap()).collect();
            Ok(chosen(&web, &asked)?.into_iter().map(|(port, local)| (port.number, local)).collect())
        };
        assert_eq!(numbers(&[]).unwrap(), [(80, None), (9000, None)]);
        assert_eq!(numbers(&["admin", "8080:80"]).unwrap(), [(9000, None), (80, Some(8080))]);
        let failure = numbers(&["8080"]).unwrap_err();
        assert!(failure.message.contains("80 (http), 9000 (admin)"), "{failure}");
    }

    #[test]
    fn a_port_that_is_asked_for_and_taken_is_an_error_and_another_one_is_chosen_else() {
        let somebody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = somebody.local_addr().unwrap().port();
        let web = openable("shop", "web", json!([{"port": taken}]));
        let port = web.ports[0].clone();
        let failure = local_ports(&[(port.clone(), Some(taken))]).unwrap_err();
        assert_eq!(failure.code, Code::PortTaken);
        assert_ne!(local_ports(&[(port, None)]).unwrap(), [taken]);
    }

    #[test]
    fn a_refusal_is_told_by_what_it_is() {
        for (why, code) in [
            (
                "Error from server (Forbidden): pods \"x\" is forbidden: User \"dev\" cannot create resource",
                Code::Forbidden,
            ),
            (
                "Unable to listen on port 80: Listeners failed to create with the following errors: [unable to listen on any]",
                Code::PortTaken,
            ),
            ("error: lost connection to pod", Code::Unknown),
        ] {
            assert_eq!((code_of(why), is_final(why)), (code, code != Code::Unknown), "{why}");
        }
    }
}
