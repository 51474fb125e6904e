//! Scripts for the catalog.
//!
//! ```text
//! bootstrap ID
//! register ID [incarnation=N] [zone=NAME] [version=N] [replace]
//! create NAME [replicas=N] [on=1,2,3] [max_messages=N] [dead_letter=NAME]
//! sharded NAME shards=N [as create]
//! update NAME [max_messages=N] [dead_letter=NAME]   delete NAME   leader N
//! drain ID   undrain ID   remove ID   retire ID
//! place NAME on=1,2,3 [observers=4,5] [moved=N]   placed NAME [moved=N]   (else that in force)
//! recover NAME on=N [moved=N] [timeline=N]   tookover NAME from=N [moved=N]   recovered     (the catalog itself)
//! topic NAME [QUEUE@PATTERN,HEADER:VALUE,... ...] [version=N]   (else that in force)   untopic NAME
//! show   restore   explain NAME [there=1,2,3]   (else all)
//! ```

use std::fmt::Write as _;

use quorate_machine::Machine;
use quorate_machine::NodeId;
use quorate_machine::catalog::{
    Catalog, Change, Command, CreateQueue, CreateSharded, Effect, GroupId, Pattern, PlaceQueue,
    QueueName, RegisterNode, Reply, Route, Subject,
};
use quorate_machine::queue::Settings;

use super::{Log, Runner, Words};

pub struct Script {
    log: Log<Catalog>,
}

impl Script {
    pub fn new() -> Self {
        Self { log: Log::new() }
    }

    fn show(&self, output: &mut String) {
        let catalog = &self.log.machine;
        writeln!(
            output,
            "cluster {:?}, all know {:?}",
            catalog.cluster_id(),
            catalog.min_version()
        )
        .unwrap();
        for node in catalog.nodes() {
            let (id, zone, incarnation) = (node.id.0, &node.zone, node.incarnation);
            let duty = match (node.draining, node.leaving) {
                (_, true) => ", leaving",
                (true, false) => ", draining",
                (false, false) => "",
            };
            writeln!(output, "node {id} zone {zone} incarnation {incarnation}{duty}").unwrap();
        }
        for queue in catalog.queues() {
            let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
            let replicas = ids(&queue.replicas);
            write!(
                output,
                "queue {} group {} on {replicas:?} led by {}, settings {}",
                queue.name, queue.group.0, queue.preferred_leader.0, queue.settings.version
            )
            .unwrap();
            if queue.moved > 0 {
                let (observers, leaving) = (ids(&queue.observers), ids(&queue.leaving));
                let state = if queue.is_moving { "moving" } else { "placed" };
                write!(output, ", {state} {} observed by {observers:?}", queue.moved).unwrap();
                write!(output, " leaving {leaving:?}").unwrap();
            }
            if self.log.machine.may_have_moved(queue) {
                write!(output, ", may have moved").unwrap();
            }
            if queue.timeline > 0 {
                let state = if queue.is_recovering { "recovering" } else { "recovered" };
                write!(output, ", {state}, timeline {}", queue.timeline).unwrap();
                for fork in &queue.forks {
                    write!(output, ", {} from {}", fork.timeline, fork.from).unwrap();
                }
                write!(output, ", voters wanted {}", queue.voters_wanted).unwrap();
            }
            output.push('\n');
            assert_eq!(catalog.by_group(queue.group), Some(queue));
            assert!(!catalog.is_deleted(queue.group));
        }
        for sharded in catalog.all_sharded() {
            let (name, generation, hash) = (&sharded.name, sharded.generation, sharded.hash.name());
            let shards: Vec<_> = catalog.shards_of(sharded).map(|it| it.name.as_str()).collect();
            let shards = shards.join(" ");
            writeln!(output, "sharded {name}, generation {generation}, by {hash}: {shards}")
                .unwrap();
            assert!(catalog.queue(name).is_none());
        }
        for topic in catalog.topics() {
            writeln!(output, "topic {}, version {}", topic.name, topic.version).unwrap();
            for route in &topic.routes {
                let headers: Vec<_> = route.headers.iter().collect();
                writeln!(output, "  to {} {} {headers:?}", route.queue, route.subject).unwrap();
            }
        }
    }
}

impl Script {
    fn explain(&self, words: &Words, output: &mut String) {
        let catalog = &self.log.machine;
        let there = match words.text("there") {
            Some(_) => nodes(words, "there"),
            None => catalog.nodes().map(|node| node.id).collect(),
        };
        let Some(explained) = catalog.explain(&name(words), &there) else {
            return writeln!(output, "no such queue").unwrap();
        };
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
        let (queue, anew) = (&explained.queue, ids(&explained.anew));
        let (name, leader) = (&queue.name, queue.preferred_leader.0);
        writeln!(output, "{name} on {:?}, anew {anew:?}", ids(&queue.replicas)).unwrap();
        writeln!(output, "led by {leader}: {}", compact(&explained.leader)).unwrap();
        for node in &explained.nodes {
            let (role, reason) = (compact(&node.role), compact(&node.reason));
            let (id, zone, carries) = (node.id.0, &node.zone, node.replicas);
            writeln!(output, "{id} zone {zone} carries {carries} {role}: {reason}").unwrap();
        }
        for finding in &explained.findings {
            writeln!(output, "finding: {}", compact(finding)).unwrap();
        }
    }
}

fn compact(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").replace("NodeId(", "(")
}

impl Runner for Script {
    fn line(&mut self, line: &str, output: &mut String) {
        if self.log.common(line, output) {
            return;
        }
        if line == "show" {
            return self.show(output);
        }
        let words = Words::parse(line);
        if words.verb == "route" {
            let topic = self.log.machine.topic(&name(&words)).expect("the topic is there");
            let subject = Subject::parse(words.word(1)).unwrap();
            let header = |key: &str| words.text(key).map(str::as_bytes);
            let queues: Vec<_> = topic.queues(&subject, header).map(QueueName::as_str).collect();
            return writeln!(output, "goes to {queues:?}").unwrap();
        }
        if words.verb == "explain" {
            return self.explain(&words, output);
        }
        let commands: Vec<Command> = line.split(';').map(|line| self.command(line)).collect();
        let (replies, effects) = self.log.apply(&commands);
        for reply in &replies {
            show_reply(self.log.index, reply, output);
        }
        for Effect::Changed(change) in &effects {
            show_change(change, output);
        }
    }
}

impl Script {
    /// The group of a queue, and where it was moved last.
    fn placement(&self, words: &Words) -> (GroupId, u64) {
        let queue = self.log.machine.queue(&name(words)).expect("the queue is there");
        (queue.group, words.get("moved").unwrap_or(queue.moved))
    }

    fn command(&self, line: &str) -> Command {
        let words = Words::parse(line);
        match words.verb {
            "place" => {
                let (group, moved) = self.placement(&words);
                let (replicas, observers) = (nodes(&words, "on"), nodes(&words, "observers"));
                Command::PlaceQueue(PlaceQueue { group, moved, replicas, observers })
            }
            "recover" => {
                let (group, moved) = self.placement(&words);
                let known = self.log.machine.queue(&name(&words)).expect("the queue is there");
                let timeline = words.get("timeline").unwrap_or(known.timeline + 1);
                let survivor = nodes(&words, "on")[0];
                Command::RecoverQueue { group, moved, survivor, timeline }
            }
            "tookover" => {
                let (group, moved) = self.placement(&words);
                Command::QueueTookOver { group, moved, from: words.get("from").unwrap() }
            }
            "placed" => {
                let (group, moved) = self.placement(&words);
                Command::QueuePlaced { group, moved }
            }
            "topic" => {
                let name = name(&words);
                let present = self.log.machine.topic(&name).map_or(0, |topic| topic.version);
                let version = words.get("version").unwrap_or(present);
                let routes = words.all()[1..].iter().map(|text| route(text)).collect();
                Command::SetTopic { name, version, routes }
            }
            _ => command(&words),
        }
    }
}

fn nodes(words: &Words, key: &str) -> Vec<NodeId> {
    let ids = words.text(key).unwrap_or_default().split(',').filter(|id| !id.is_empty());
    ids.map(|id| NodeId(id.parse().unwrap())).collect()
}

fn route(text: &str) -> Route {
    let mut parts = text.split(',');
    let (queue, subject) = parts.next().unwrap().rsplit_once('@').expect("QUEUE@PATTERN");
    let headers = parts.map(|header| header.split_once(':').expect("HEADER:VALUE"));
    Route {
        queue: QueueName::parse(queue).unwrap(),
        subject: Pattern::parse(subject).unwrap(),
        headers: headers.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    }
}

fn command(words: &Words) -> Command {
    match words.verb {
        "bootstrap" => Command::Bootstrap { cluster_id: words.number(0).into() },
        "register" => Command::RegisterNode(RegisterNode {
            id: NodeId(words.number(0)),
            incarnation: words.get("incarnation").unwrap_or(1),
            address: format!("node-{}:7000", words.number(0)),
            zone: words.text("zone").unwrap_or_default().to_owned(),
            version: words.get("version").unwrap_or(1),
            replace: words.has("replace"),
        }),
        "create" => Command::CreateQueue(create(words)),
        "sharded" => Command::CreateSharded(CreateSharded {
            queue: create(words),
            shards: words.get("shards").unwrap(),
        }),
        "update" => Command::UpdateQueue { name: name(words), settings: settings(words) },
        "delete" => Command::DeleteQueue { name: name(words) },
        "drain" => Command::DrainNode { id: NodeId(words.number(0)), draining: true },
        "undrain" => Command::DrainNode { id: NodeId(words.number(0)), draining: false },
        "remove" => Command::RemoveNode { id: NodeId(words.number(0)) },
        "retire" => Command::RetireNode { id: NodeId(words.number(0)) },
        "recovered" => Command::CatalogRecovered,
        "untopic" => Command::DeleteTopic { name: name(words) },
        "leader" => Catalog::leader_changed(words.number(0)),
        verb => panic!("unknown command {verb}"),
    }
}

fn create(words: &Words) -> CreateQueue {
    CreateQueue {
        name: name(words),
        settings: settings(words),
        replicas: words.get("replicas").unwrap_or(3),
        candidates: candidates(words),
    }
}

fn name(words: &Words) -> QueueName {
    QueueName::parse(words.word(0)).unwrap()
}

fn settings(words: &Words) -> Settings {
    let dead_letter = words.text("dead_letter").map(|name| QueueName::parse(name).unwrap());
    Settings { max_messages: words.get("max_messages"), dead_letter, ..Settings::default() }
}

fn candidates(words: &Words) -> Vec<NodeId> {
    let ids = words.text("on").unwrap_or("1,2,3");
    ids.split(',').map(|id| NodeId(id.parse().unwrap())).collect()
}

fn show_reply(index: u64, reply: &Reply, output: &mut String) {
    let text = match reply {
        Reply::Done => "done".to_owned(),
        Reply::Created { group } => format!("created as group {}", group.0),
        Reply::Deleted { group } => format!("deleted group {}", group.0),
        Reply::Updated { group, version } => format!("updated group {} to {version}", group.0),
        Reply::Placed { moved } => format!("placed by {moved}"),
        Reply::TopicSet { version } => format!("topic is of version {version}"),
        Reply::Rejected(rejection) => format!("rejected: {rejection} ({rejection:?})"),
    };
    writeln!(output, "[{index}] {text}").unwrap();
}

fn show_change(change: &Change, output: &mut String) {
    let text = match change {
        Change::Bootstrapped => "bootstrapped".to_owned(),
        Change::Node(id) => format!("node {}", id.0),
        Change::QueueCreated { name, group } => format!("created {name} as {}", group.0),
        Change::QueueUpdated { name, group } => format!("updated {name}, {}", group.0),
        Change::QueueMoved { name, group } => format!("moved {name}, {}", group.0),
        Change::QueueDeleted { name, group } => format!("deleted {name}, {}", group.0),
        Change::Sharded { name } => format!("sharded {name}"),
    };
    writeln!(output, "  changed: {text}").unwrap();
}
