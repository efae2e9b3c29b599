//! The log of one container, line by line, in bounded memory; and the position that lets a reader
//! continue after a broken connection without repeating a line.

use futures_util::AsyncBufReadExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::Client;
use kube::api::{Api, LogParams};

use crate::world::process::streams::Cutter;

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    pub namespace: String,
    pub pod: String,
    pub name: String,
    /// A container that runs to completion, once, before the others start.
    pub init: bool,
}

/// The containers of a pod in the order in which they start, ephemeral ones last.
pub fn containers(pod: &Pod) -> Vec<Container> {
    let spec = pod.spec.as_ref();
    let container = |name: &str, init: bool| Container {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        pod: pod.metadata.name.clone().unwrap_or_default(),
        name: name.to_owned(),
        init,
    };
    // An init container with restart policy Always is a sidecar, which runs with the others.
    let init = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let init = init.map(|one| container(&one.name, one.restart_policy.as_deref() != Some("Always")));
    let others = spec.into_iter().flat_map(|spec| &spec.containers).map(|one| container(&one.name, false));
    let ephemeral = spec.into_iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    init.chain(others).chain(ephemeral.map(|one| container(&one.name, false))).collect()
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no log yet; with the reason.
    NotStarted(String),
    Runs,
    /// This instance has ended, with its restart count.
    Ended(i32),
}

fn status<'a>(pod: &'a Pod, container: &Container) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flat_map(|statuses| statuses.iter().flatten()).find(|status| status.name == container.name)
}

/// The state of a container, according to its pod.
pub fn standing(pod: &Pod, container: &Container) -> Standing {
    let Some(status) = status(pod, container) else {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        return Standing::NotStarted(format!("its pod is {}", phase.unwrap_or("new")));
    };
    let state = status.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        return Standing::Runs;
    }
    // Between two instances the log is that of the previous one.
    if has_previous(pod, container) || state.is_some_and(|state| state.terminated.is_some()) {
        return Standing::Ended(status.restart_count);
    }
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.clone());
    Standing::NotStarted(reason.unwrap_or_else(|| "waiting".to_owned()))
}

/// Whether a container has had an earlier instance.
pub fn has_previous(pod: &Pod, container: &Container) -> bool {
    let last = status(pod, container).and_then(|status| status.last_state.as_ref());
    last.is_some_and(|last| last.terminated.is_some())
}

/// Whether a pod will start no more containers.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Which lines of a log were already read. The log's times are the node's, in nanoseconds; the API
/// server is asked from a full second on, and the lines that it repeats are dropped here.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Of the last line.
    last: Option<Timestamp>,
    /// How many lines had exactly that time.
    at_last: usize,
    /// How many of those this connection has repeated.
    repeated: usize,
}

impl Taken {
    /// The time from which the next connection has to ask; `None` if nothing was read.
    pub fn since(&self) -> Option<Timestamp> {
        // The client would round up to the next second, and lines would be lost.
        self.last.and_then(|last| Timestamp::from_second(last.as_second()).ok())
    }

    /// A new connection starts, which may repeat lines.
    pub fn again(&mut self) {
        self.repeated = 0;
    }

    /// Removes the time from a line as the API server sends it; `None` if the line was already
    /// read.
    pub fn take<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let parts = line.split_once(' ').unwrap_or((line, ""));
        // A line without a time is a message of the kubelet.
        let Ok(time) = parts.0.parse::<Timestamp>() else { return Some(line) };
        match self.last {
            Some(last) if time < last => return None,
            Some(last) if time == last => {
                self.repeated += 1;
                if self.repeated <= self.at_last {
                    return None;
                }
                self.at_last += 1;
            }
            _ => {
                self.last = Some(time);
                (self.at_last, self.repeated) = (1, 1);
            }
        }
        Some(parts.1)
    }
}

/// Reads a log to its end, or until its connection ends. `on_line` gets each new line, and says
/// whether to go on.
///
/// # Errors
/// Errors from the request. A connection that ends in the middle is not one: a follower reconnects.
pub async fn read(
    client: &Client,
    container: &Container,
    parameters: &LogParams,
    taken: &mut Taken,
    mut on_line: impl AsyncFnMut(&str) -> bool,
) -> Result<(), kube::Error> {
    let parameters = LogParams { container: Some(container.name.clone()), timestamps: true, ..parameters.clone() };
    let api = Api::<Pod>::namespaced(client.clone(), &container.namespace);
    let stream = api.log_stream(&container.pod, &parameters).await?;
    let mut stream = std::pin::pin!(stream);
    taken.again();
    let mut cutter = Cutter::default();
    loop {
        let bytes = match stream.fill_buf().await {
            Ok(bytes) if !bytes.is_empty() => bytes,
            Ok(_) => break,
            // An incomplete last line is requested again.
            Err(_) if parameters.follow => return Ok(()),
            Err(error) => return Err(kube::Error::ReadEvents(error)),
        };
        let lines = cutter.take(bytes);
        let read = bytes.len();
        stream.consume_unpin(read);
        for line in lines {
            if let Some(line) = taken.take(&line)
                && !on_line(line).await
            {
                return Ok(());
            }
        }
    }
    if let Some(line) = cutter.rest()
        && let Some(line) = taken.take(&line)
    {
        on_line(line).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in::{Answer, Server};
    use serde_json::json;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "shop"},
            "spec": {
                "initContainers": [{"name": "wait"}, {"name": "proxy", "restartPolicy": "Always"}],
                "containers": [{"name": "main"}],
                "ephemeralContainers": [{"name": "debug"}],
            },
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn every_container_of_a_pod_has_a_log() {
        let found: Vec<(String, bool)> =
            containers(&pod(json!({}))).into_iter().map(|container| (container.name, container.init)).collect();
        let expected = [("wait", true), ("proxy", false), ("main", false), ("debug", false)];
        assert_eq!(found, expected.map(|(name, init)| (name.to_owned(), init)));
    }

    #[test]
    fn a_container_says_how_far_it_has_come() {
        let main = containers(&pod(json!({}))).remove(2);
        let of = |state: serde_json::Value, last: serde_json::Value| {
            let pod = pod(json!({"containerStatuses": [{"name": "main", "image": "i", "imageID": "", "ready": false,
                "restartCount": 3, "state": state, "lastState": last}]}));
            (standing(&pod, &main), has_previous(&pod, &main))
        };
        let ended = || json!({"terminated": {"exitCode": 1}});
        let waiting = || json!({"waiting": {"reason": "CrashLoopBackOff"}});
        assert_eq!(of(json!({"running": {}}), json!({})), (Standing::Runs, false));
        assert_eq!(of(json!({"running": {}}), ended()), (Standing::Runs, true));
        assert_eq!(of(waiting(), ended()), (Standing::Ended(3), true));
        assert_eq!(of(ended(), json!({})), (Standing::Ended(3), false));
        assert_eq!(of(waiting(), json!({})), (Standing::NotStarted("CrashLoopBackOff".into()), false));
        assert_eq!(
            standing(&pod(json!({"phase": "Pending"})), &main),
            Standing::NotStarted("its pod is Pending".into())
        );
    }

    #[test]
    fn no_line_comes_twice_and_none_is_lost() {
        let all = [
            "2026-11-25T12:00:00.1Z a",
            "2026-11-25T12:00:00.7Z b",
            "2026-11-25T12:00:00.7Z b",
            "2026-11-25T12:00:00.7Z c",
            "2026-11-25T12:00:01.2Z ",
            "2026-11-25T12:00:03Z d",
        ];
        // A connection may break after any line; the next one starts at the full second.
        for first in 0..=all.len() {
            for second in 0..=all.len() {
                let mut taken = Taken::default();
                let mut seen: Vec<&str> = all[..first].iter().filter_map(|line| taken.take(line)).collect();
                for upto in [second, all.len()] {
                    taken.again();
                    let since = taken.since();
                    let asked = all[..upto].iter().filter(|line| {
                        let time: Timestamp = line.split_once(' ').unwrap().0.parse().unwrap();
                        since.is_none_or(|since| time >= since)
                    });
                    seen.extend(asked.filter_map(|line| taken.take(line)));
                }
                assert_eq!(seen, ["a", "b", "b", "c", "", "d"], "broken after {first} and {second}");
            }
        }
        let mut taken = Taken::default();
        taken.take("2026-11-25T12:00:00.7Z b");
        assert_eq!(taken.since().unwrap().to_string(), "2026-11-25T12:00:00Z", "never a later second");
        assert_eq!(taken.take("unable to retrieve container logs"), Some("unable to retrieve container logs"));
    }

    #[tokio::test]
    async fn a_log_is_read_line_by_line_whatever_its_lines_are_like() {
        let server = Server::start(|_| {
            let long = "x".repeat(100_000);
            Answer::new(
                200,
                format!("2026-11-25T12:00:00Z one\n2026-11-25T12:00:01Z {long}\r\n2026-11-25T12:00:02Z last"),
            )
        });
        let client = Client::try_from(kube::Config::new(server.url().parse().unwrap())).unwrap();
        let main = containers(&pod(json!({}))).remove(2);
        let mut lines = Vec::new();
        let parameters = LogParams { tail_lines: Some(5), ..LogParams::default() };
        let on_line = async |line: &str| {
            lines.push(line.to_owned());
            true
        };
        read(&client, &main, &parameters, &mut Taken::default(), on_line).await.unwrap();
        assert_eq!((lines.len(), lines[0].as_str(), lines[2].as_str()), (3, "one", "last"));
        assert!(lines[1].len() < 20_000 && lines[1].ends_with(" more bytes)"), "{}", lines[1].len());
        let asked = &server.seen()[0].target;
        assert!(asked.starts_with("/api/v1/namespaces/shop/pods/web-0/log?"), "{asked}");
        assert!(
            ["container=main", "timestamps=true", "tailLines=5"].iter().all(|part| asked.contains(part)),
            "{asked}"
        );
    }
}
