//! Scripts for the catalog.
//!
//! ```text
//! bootstrap ID
//! register ID [incarnation=N] [zone=NAME] [version=N] [replace]
//! create NAME [replicas=N] [on=1,2,3] [max_messages=N]
//! update NAME [max_messages=N]   delete NAME   leader N
//! show   restore
//! ```

use std::fmt::Write as _;

use quorate_machine::Machine;
use quorate_machine::NodeId;
use quorate_machine::catalog::{
    Catalog, Change, Command, CreateQueue, Effect, QueueName, RegisterNode, Reply,
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
            writeln!(
                output,
                "node {} zone {} incarnation {}",
                node.id.0, node.zone, node.incarnation
            )
            .unwrap();
        }
        for queue in catalog.queues() {
            let replicas: Vec<u64> = queue.replicas.iter().map(|node| node.0).collect();
            writeln!(
                output,
                "queue {} group {} on {replicas:?} led by {}, settings {}",
                queue.name, queue.group.0, queue.preferred_leader.0, queue.settings.version
            )
            .unwrap();
            assert_eq!(catalog.by_group(queue.group), Some(queue));
            assert!(!catalog.is_deleted(queue.group));
        }
    }
}

impl Runner for Script {
    fn line(&mut self, line: &str, output: &mut String) {
        if self.log.common(line, output) {
            return;
        }
        if line == "show" {
            return self.show(output);
        }
        let commands: Vec<Command> = line.split(';').map(command).collect();
        let (replies, effects) = self.log.apply(&commands);
        for reply in &replies {
            show_reply(self.log.index, reply, output);
        }
        for Effect::Changed(change) in &effects {
            show_change(change, output);
        }
    }
}

fn command(line: &str) -> Command {
    let words = Words::parse(line);
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
        "create" => Command::CreateQueue(CreateQueue {
            name: name(&words),
            settings: settings(&words),
            replicas: words.get("replicas").unwrap_or(3),
            candidates: candidates(&words),
        }),
        "update" => Command::UpdateQueue { name: name(&words), settings: settings(&words) },
        "delete" => Command::DeleteQueue { name: name(&words) },
        "leader" => Catalog::leader_changed(words.number(0)),
        verb => panic!("unknown command {verb}"),
    }
}

fn name(words: &Words) -> QueueName {
    QueueName::parse(words.word(0)).unwrap()
}

fn settings(words: &Words) -> Settings {
    Settings { max_messages: words.get("max_messages"), ..Settings::default() }
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
        Change::QueueDeleted { name, group } => format!("deleted {name}, {}", group.0),
    };
    writeln!(output, "  changed: {text}").unwrap();
}
