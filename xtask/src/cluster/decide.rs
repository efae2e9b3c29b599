//! From facts to a plan. Only positive facts lead to anything that deletes: a look that failed
//! never gets this far.

use crate::repo::k3d::Difference;
use crate::world::docker::{Container, Looked};

/// k3d's label for a container's role (`k3d.role`).
pub const ROLE_LABEL: &str = "k3d.role";

/// A container of the cluster, with what the decision needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub id: String,
    /// Servers and agents hold what is deployed: etcd or SQLite, and local volumes.
    pub holds_data: bool,
    pub is_agent: bool,
    pub running: bool,
    /// Known to have been created and never started.
    pub never_ran: bool,
}

impl Node {
    pub fn of(container: &Container) -> Self {
        Self {
            name: container.name().to_owned(),
            id: container.id.clone(),
            // Any role that is not known to hold no data may hold some.
            holds_data: !matches!(container.label(ROLE_LABEL), Some("loadbalancer" | "noRole")),
            is_agent: container.label(ROLE_LABEL) == Some("agent"),
            running: container.runs(),
            never_ran: container.never_ran(),
        }
    }
}

/// What exists.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Every container that belongs to the cluster by k3d's labels, according to the engine.
    pub nodes: Vec<Node>,
    /// The names of the servers that the config asks for.
    pub servers: Vec<String>,
    /// How many agents it asks for. One that has joined later goes by any name.
    pub agents: usize,
    /// Whether new agents can take the places of those that are gone.
    pub joinable: bool,
    /// The name of the load balancer, where the config asks for one.
    pub balancer: Option<String>,
    /// The load balancer among them, if it can be recreated from the config.
    pub replaceable: Option<String>,
    /// Whether creation was once completed. Not checked if no node ever ran.
    pub stamp: Looked<()>,
    pub drift: Vec<Difference>,
    /// Created by something else: it may hold anything.
    pub foreign: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    Create,
    /// An interrupted creation left containers that are known never to have held anything.
    ClearAndCreate(Leftovers),
    /// Destroys what the cluster holds, so consent is needed.
    Recreate(Vec<String>),
    /// Creation was interrupted when nodes were already running: it is continued.
    Finish,
    /// The load balancer is recreated: it holds nothing.
    Mend(String),
    /// So many agents are gone, and what they held with them: new ones take their places.
    Join(usize),
    Start(Vec<String>),
    Nothing,
}

/// Containers that may be removed without consent. Only [`decide`] creates one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftovers {
    nodes: Vec<Node>,
}

impl Leftovers {
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

/// Turns facts into a plan.
pub fn decide(facts: &Facts) -> Plan {
    let Facts { nodes, servers, balancer, .. } = facts;
    if nodes.is_empty() {
        return Plan::Create;
    }
    if !facts.foreign && nodes.iter().all(|node| node.never_ran || !node.holds_data) && !any_server_ran(facts) {
        return Plan::ClearAndCreate(Leftovers { nodes: nodes.clone() });
    }
    let find = |name: &String| nodes.iter().find(|node| node.name == *name);
    let mendable = |name: &String| facts.replaceable.as_ref() == Some(name);
    let mut reasons: Vec<String> = facts.drift.iter().map(ToString::to_string).collect();
    let gone = servers.iter().chain(balancer).filter(|name| find(name).is_none());
    reasons.extend(gone.filter(|name| !mendable(name)).map(|name| format!("the container {name} is gone")));
    let missing = missing_agents(facts);
    if missing > 0 && !facts.joinable {
        reasons.push(format!("agents gone: {missing}; k3d cannot join new ones that are as the file says"));
    }
    if !reasons.is_empty() {
        return Plan::Recreate(reasons);
    }
    if facts.stamp == Looked::Absent {
        return Plan::Finish;
    }
    if let Some(name) = &facts.replaceable
        && find(name).is_none_or(|node| node.never_ran)
    {
        return Plan::Mend(name.clone());
    }
    if missing > 0 {
        return Plan::Join(missing);
    }
    let named = servers.iter().chain(balancer).filter_map(find);
    let agents = nodes.iter().filter(|node| node.is_agent);
    let stopped: Vec<String> = named.chain(agents).filter(|node| !node.running).map(|node| node.name.clone()).collect();
    if stopped.is_empty() { Plan::Nothing } else { Plan::Start(stopped) }
}

/// How many agents there are too few. One that never ran counts as none: what k3d does
/// before it starts a node may not have been done to it.
pub fn missing_agents(facts: &Facts) -> usize {
    let counts = |node: &&Node| node.is_agent && !(facts.joinable && node.never_ran);
    let there = facts.nodes.iter().filter(counts).count();
    facts.agents.saturating_sub(there)
}

/// Without its servers, only parts of a cluster are left; if a server ever ran, it may hold
/// anything.
fn any_server_ran(facts: &Facts) -> bool {
    facts.nodes.iter().any(|node| facts.servers.contains(&node.name) && !node.never_ran)
}

pub fn describe(plan: &Plan) -> String {
    match plan {
        Plan::Create => "create the cluster".to_owned(),
        Plan::ClearAndCreate(_) => {
            "remove the rest of an interrupted creation, which never ran, and create the cluster".to_owned()
        }
        Plan::Recreate(reasons) => format!("recreate the cluster: {}", reasons.join("; ")),
        Plan::Finish => "finish an interrupted creation".to_owned(),
        Plan::Mend(name) => format!("recreate {name}, which holds no data"),
        Plan::Join(1) => "join a new agent to replace one that is gone".to_owned(),
        Plan::Join(count) => format!("join {count} new agents to replace those that are gone"),
        Plan::Start(names) => format!("start {}", names.join(", ")),
        Plan::Nothing => "change nothing: the cluster matches the file".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Is {
        Gone,
        NeverRan,
        Stopped,
        Running,
    }

    const ALL: [Is; 4] = [Is::Gone, Is::NeverRan, Is::Stopped, Is::Running];

    fn node(name: &str, is: Is) -> Option<Node> {
        (is != Is::Gone).then(|| Node {
            name: name.to_owned(),
            id: format!("id of {name}"),
            holds_data: name != "lb" && name != "tools",
            is_agent: name == "a",
            running: is == Is::Running,
            never_ran: is == Is::NeverRan,
        })
    }

    /// Every combination of facts. What is deleted without consent never ran, or holds no data;
    /// anything else needs consent, is repaired, started or left alone.
    #[test]
    fn every_state_has_its_plan_and_none_destroys_what_ever_ran() {
        let drift = Difference { field: "servers".into(), cluster: "1".into(), file: "2".into() };
        let mut seen = std::collections::BTreeMap::<String, usize>::new();
        for server in ALL {
            for agent in ALL {
                for lb in ALL {
                    for tools in [Is::Gone, Is::Running] {
                        for bits in 0..32u8 {
                            let [stamped, drifted, foreign, replaceable, joinable] =
                                std::array::from_fn(|bit| bits & (1 << bit) != 0);
                            let all = [("s", server), ("a", agent), ("lb", lb), ("tools", tools)];
                            let facts = Facts {
                                nodes: all.into_iter().filter_map(|(name, is)| node(name, is)).collect(),
                                servers: vec!["s".to_owned()],
                                agents: 1,
                                joinable,
                                balancer: Some("lb".to_owned()),
                                replaceable: replaceable.then(|| "lb".to_owned()),
                                stamp: if stamped { Looked::Found(()) } else { Looked::Absent },
                                drift: Vec::from_iter(drifted.then(|| drift.clone())),
                                foreign,
                            };
                            check(&facts, [server, agent, lb]);
                            let plan = format!("{:?}", decide(&facts));
                            *seen.entry(plan.split(['(', '{']).next().unwrap().to_owned()).or_default() += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(seen.len(), 8, "each plan is met: {seen:?}");
    }

    fn check(facts: &Facts, [server, agent, lb]: [Is; 3]) {
        let ran = |is: Is| matches!(is, Is::Stopped | Is::Running);
        match decide(facts) {
            Plan::Create => assert!(facts.nodes.is_empty()),
            Plan::ClearAndCreate(leftovers) => {
                assert!(!ran(server) && !ran(agent) && !facts.foreign, "{facts:?}");
                assert!(leftovers.nodes().iter().all(|node| node.never_ran || !node.holds_data));
            }
            Plan::Recreate(reasons) => {
                let gone = server == Is::Gone
                    || (lb == Is::Gone && facts.replaceable.is_none())
                    || (agent == Is::Gone && !facts.joinable);
                assert!(gone || !facts.drift.is_empty(), "{facts:?}: {reasons:?}");
                assert_eq!(reasons.iter().any(|reason| reason.contains("servers")), !facts.drift.is_empty());
            }
            Plan::Finish => assert_eq!(facts.stamp, Looked::Absent),
            Plan::Mend(name) => assert!(name == "lb" && !ran(lb)),
            Plan::Join(count) => assert!(count == 1 && facts.joinable && !ran(agent) && server != Is::Gone),
            Plan::Start(names) => assert!(!names.is_empty()),
            Plan::Nothing => assert_eq!([server, agent, lb], [Is::Running; 3]),
        }
    }
}
