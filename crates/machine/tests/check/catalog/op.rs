//! Steps of a catalog's log, in a small world: few nodes, few names, few settings.

use std::collections::BTreeMap;

use quorate_machine::catalog::{
    Catalog, Command, CreateQueue, CreateSharded, GroupId, Pattern, PlaceQueue, QueueName,
    RegisterNode, Route,
};
use quorate_machine::queue::Settings;
use quorate_machine::{Machine, NodeId};

/// An entry: commands applied at one time.
#[derive(Clone, Debug)]
pub struct Entry {
    pub after_ms: i64,
    /// One of the replicas is restored from its snapshot first.
    pub restore: bool,
    pub ops: Vec<Op>,
}

#[derive(Clone, Debug)]
pub enum Op {
    Bootstrap {
        cluster_id: u8,
    },
    Register {
        node: u8,
        incarnation: u8,
        zone: u8,
        version: u8,
        replace: bool,
    },
    /// The first name stands for no dead-letter queue.
    Create {
        name: u8,
        max_messages: u8,
        dead_letter: u8,
        replicas: u8,
        candidates: Vec<u8>,
    },
    CreateSharded {
        name: u8,
        shards: u8,
        max_messages: u8,
        dead_letter: u8,
        replicas: u8,
        candidates: Vec<u8>,
    },
    Update {
        name: u8,
        max_messages: u8,
        dead_letter: u8,
        version: u8,
    },
    Delete {
        name: u8,
    },
    Drain {
        node: u8,
        draining: bool,
    },
    Place {
        group: u8,
        moved: u64,
        replicas: Vec<u8>,
        observers: Vec<u8>,
    },
    Placed {
        group: u8,
        moved: u64,
    },
    Remove {
        node: u8,
    },
    Retire {
        node: u8,
    },
    Recover {
        group: u8,
        moved: u64,
        survivor: u8,
        timeline: u64,
    },
    TookOver {
        group: u8,
        moved: u64,
        from: u64,
    },
    CatalogRecovered,
    /// Routes as queue and what it takes; `behind` that many versions.
    SetTopic {
        name: u8,
        is_known: bool,
        routes: Vec<(u8, u8)>,
    },
    DeleteTopic {
        name: u8,
    },
    Tick,
    LeaderChanged,
}

impl Op {
    /// `versions`: of the topics that there are.
    pub fn command(&self, versions: &BTreeMap<QueueName, u64>) -> Command {
        match self {
            Self::SetTopic { name, is_known, routes } => {
                let name = queue_name(*name);
                let version = versions.get(&name).copied().filter(|_| *is_known).unwrap_or(0);
                let routes = routes.iter().map(|&(queue, kind)| route(queue, kind)).collect();
                Command::SetTopic { name, version, routes }
            }
            Self::DeleteTopic { name } => Command::DeleteTopic { name: queue_name(*name) },
            Self::Bootstrap { cluster_id } => {
                Command::Bootstrap { cluster_id: (*cluster_id).into() }
            }
            &Self::Register { node, incarnation, zone, version, replace } => {
                Command::RegisterNode(RegisterNode {
                    id: NodeId(node.into()),
                    incarnation: incarnation.into(),
                    address: format!("node-{node}-{incarnation}:7000"),
                    zone: format!("zone-{zone}"),
                    version: version.into(),
                    replace,
                })
            }
            Self::Create { name, max_messages, dead_letter, replicas, candidates } => {
                Command::CreateQueue(CreateQueue {
                    name: queue_name(*name),
                    settings: settings(*max_messages, *dead_letter, 0),
                    replicas: *replicas,
                    candidates: candidates.iter().map(|&id| NodeId(id.into())).collect(),
                })
            }
            Self::CreateSharded {
                name,
                shards,
                max_messages,
                dead_letter,
                replicas,
                candidates,
            } => Command::CreateSharded(CreateSharded {
                shards: (*shards).into(),
                queue: CreateQueue {
                    name: queue_name(*name),
                    settings: settings(*max_messages, *dead_letter, 0),
                    replicas: *replicas,
                    candidates: candidates.iter().map(|&id| NodeId(id.into())).collect(),
                },
            }),
            &Self::Update { name, max_messages, dead_letter, version } => Command::UpdateQueue {
                name: queue_name(name),
                settings: settings(max_messages, dead_letter, version),
            },
            Self::Delete { name } => Command::DeleteQueue { name: queue_name(*name) },
            &Self::Drain { node, draining } => {
                Command::DrainNode { id: NodeId(node.into()), draining }
            }
            Self::Place { group, moved, replicas, observers } => {
                let nodes = |ids: &[u8]| ids.iter().map(|&id| NodeId(id.into())).collect();
                Command::PlaceQueue(PlaceQueue {
                    group: GroupId((*group).into()),
                    moved: *moved,
                    replicas: nodes(replicas),
                    observers: nodes(observers),
                })
            }
            &Self::Placed { group, moved } => {
                Command::QueuePlaced { group: GroupId(group.into()), moved }
            }
            &Self::Remove { node } => Command::RemoveNode { id: NodeId(node.into()) },
            &Self::Retire { node } => Command::RetireNode { id: NodeId(node.into()) },
            &Self::Recover { group, moved, survivor, timeline } => Command::RecoverQueue {
                group: GroupId(group.into()),
                moved,
                survivor: NodeId(survivor.into()),
                timeline,
            },
            &Self::TookOver { group, moved, from } => {
                Command::QueueTookOver { group: GroupId(group.into()), moved, from }
            }
            Self::CatalogRecovered => Command::CatalogRecovered,
            Self::Tick => Command::Tick,
            Self::LeaderChanged => Catalog::leader_changed(1),
        }
    }
}

fn route(queue: u8, kind: u8) -> Route {
    let subject = ["a.b", "a.*", "*.b", ">"][usize::from(kind % 4)];
    let headers = [("eu", "yes"), ("us", "no")].into_iter().take((kind / 4).into());
    Route {
        queue: queue_name(queue),
        subject: Pattern::parse(subject).unwrap(),
        headers: headers.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    }
}

/// From [`SHARDS`] on, the first shards of the queues before it.
pub fn queue_name(number: u8) -> QueueName {
    let name = match number.checked_sub(SHARDS) {
        Some(shard) => format!("queue-{}@{}", shard / 2, shard % 2),
        None => format!("queue-{number}"),
    };
    QueueName::parse(&name).unwrap()
}

/// The first number of a shard's name.
pub const SHARDS: u8 = 100;

/// The version is the client's; the catalog must put its own in its place.
fn settings(max_messages: u8, dead_letter: u8, version: u8) -> Settings {
    let max_messages = Some(max_messages.into()).filter(|max| *max > 0);
    let dead_letter = Some(dead_letter).filter(|number| *number > 0).map(queue_name);
    Settings { max_messages, dead_letter, version: version.into(), ..Settings::default() }
}
