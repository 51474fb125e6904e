//! Commands of queue and catalog: what is read is written again as it was. The first byte of the
//! input chooses the machine.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use quorate_machine::catalog::{
    self, Catalog, CreateQueue, CreateSharded, GroupId, PlaceQueue, QueueName, RegisterNode,
};
use quorate_machine::queue::{
    Again, Attach, Attachment, Command, Condition, Control, CreateSlot, MessageId, Offset,
    Producer, ProducerId, Properties, Publish, PublishMoved, Queue, Receive, Session, Settings,
    SettleItem, SettleKind, SlotName, SlotStart, Target, Token, tag_of,
};
use quorate_machine::{Machine, Millis, NodeId};

use crate::frames;

pub fn check(data: &[u8]) {
    match data.split_first() {
        Some((0, command)) => round_trip::<Queue>(command),
        Some((_, command)) => round_trip::<Catalog>(command),
        None => {}
    }
}

fn round_trip<M: Machine<Command: Debug>>(bytes: &[u8]) {
    if let Ok(command) = M::decode(&mut Bytes::copy_from_slice(bytes)) {
        assert_eq!(encode::<M>(&command), bytes, "{command:?}");
    }
}

/// A command as it goes into an entry.
pub fn encode<M: Machine>(command: &M::Command) -> Bytes {
    let mut out = BytesMut::new();
    M::encode(command, &mut out);
    out.freeze()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let queue = queue_commands().into_iter().map(|command| (0, encode::<Queue>(&command)));
    let catalog = catalog_commands().into_iter().map(|command| (1, encode::<Catalog>(&command)));
    queue.chain(catalog).map(|(choice, bytes)| [&[choice], &bytes[..]].concat()).collect()
}

const SESSION: Session = Session(7);

/// A life of a queue, with something of everything. Given one to an entry, from index 1 on, the
/// settles name leases that exist.
pub fn queue_commands() -> Vec<Command> {
    let settle = |token, items: &[(SettleKind, u64, u32)]| {
        let item = |&(kind, first, count): &(SettleKind, u64, u32)| SettleItem {
            kind,
            token: Token(token),
            first: Offset(first),
            count,
        };
        Command::Settle { session: SESSION, items: items.iter().map(item).collect() }
    };
    vec![
        Command::Configure(Box::new(Settings {
            max_messages: Some(1000),
            max_deliveries: 2,
            dedup_window: 4,
            priorities: true,
            version: 1,
            ..Settings::default()
        })),
        attach(SESSION, 100, None),
        publish(Some(0), 2),
        publish(Some(40), 4),
        publish(None, 2),
        settle(3, &[(SettleKind::Nack { delay_ms: 5_000 }, 1, 1), (SettleKind::Ack, 0, 1)]),
        settle(5, &[(SettleKind::Extend { lease_ms: 60_000 }, 3, 1), (SettleKind::Reject, 4, 1)]),
        settle(5, &[(SettleKind::Nack { delay_ms: 0 }, 5, 1)]),
        Command::Configure(Box::new(Settings {
            min_in_sync: 2,
            retain_ms: Some(600_000),
            retain_bytes: Some(1 << 20),
            ttl_ms: Some(30_000),
            drop_head: true,
            priorities: true,
            version: 2,
            ..Settings::default()
        })),
        settle(5, &[(SettleKind::Ack, 3, 1)]),
        settle(8, &[(SettleKind::Ack, 5, 1)]),
        attach(Session(8), 1, Some(1_000)),
        create_slot("archive", SlotStart::First, 0),
        receive(Session(9), 2, 5_000),
        create_slot("mirror", SlotStart::Offset(Offset(7)), 60_000),
        Command::Disconnect { session: SESSION, attachment: Attachment(1) },
        publish(Some(3), 3),
        Command::AdvanceSlot { name: slot_name("archive"), made_at: 0, to: Offset(5) },
        Command::Configure(Box::new(Settings {
            max_deliveries: 3,
            retry_ms: 1_000,
            retry_max_ms: 60_000,
            version: 3,
            ..Settings::default()
        })),
        telling(Session(9)),
        publish(None, 2),
        told(20, SettleKind::Start, 3),
        told(21, SettleKind::Start, 1_000),
        told(20, SettleKind::Return, 2),
        control(Target::Session(Session(9)), Control::Pause),
        control(Target::Named("consumer".to_owned()), Control::Resume),
        control(Target::Everyone, Control::Pause),
        control(Target::Session(SESSION), Control::Kick),
        publish_if(Some("order-7"), None),
        publish_if(Some("order-7"), Some(0)),
        publish_if(None, Some(1 << 40)),
        Command::PurgeBefore { before: Offset(9) },
        Command::Configure(Box::new(Settings {
            message_id_window: 1,
            version: 4,
            ..Settings::default()
        })),
        Command::Tick,
        Command::Configure(Box::new(Settings {
            single_active: true,
            version: 5,
            ..Settings::default()
        })),
        grouped(),
        create_slot("tail", SlotStart::Next, 1),
        Command::DropSlot { name: slot_name("mirror") },
        Command::Detach { session: Session(8), attachment: Attachment(2) },
        Command::LeaderChanged { node: NodeId(2) },
        control(Target::Everyone, Control::Resume),
        Command::Configure(Box::new(Settings {
            dead_letter: Some(QueueName::parse("dead").expect("a good name")),
            version: 6,
            ..Settings::default()
        })),
        publish_moved(2),
        attach(SESSION, 100, None),
        settle(44, &[(SettleKind::Reject, 0, 1_000)]),
        Command::Moved { to: 1 },
        publish_moved(4),
        Command::Purge,
        Command::Configure(Box::new(Settings {
            retain_ms: Some(600_000),
            priorities: true,
            version: 7,
            ..Settings::default()
        })),
        publish(None, 4),
        settle(50, &[(SettleKind::Ack, 0, 1_000)]),
        seek(),
        Command::Configure(Box::new(Settings {
            filter_header: Some("region".to_owned()),
            priorities: true,
            version: 8,
            ..Settings::default()
        })),
        filtering(),
        tagged(),
        Command::Configure(Box::new(Settings { version: 9, ..Settings::default() })),
    ]
}

/// One that is handed messages of two values.
fn filtering() -> Command {
    let filter = vec!["eu".to_owned(), String::new()];
    let (session, node, name) = (Session(31), NodeId(2), "some".to_owned());
    let (prefetch, lease_ms, tells_starts) = (4, Some(900), false);
    Command::Attach(Attach { session, node, name, prefetch, lease_ms, tells_starts, filter })
}

/// Back to before the last messages but one, which are of a key and for later.
fn seek() -> Command {
    let of = |count, group, priority, due: Option<u64>| {
        let due = due.map(Millis);
        Properties { count, group, priority, due, ..Properties::default() }
    };
    let again = [
        (1, of(1, None, 9, None)),
        (2, of(1, Some(7), 0, None)),
        (3, of(1, Some(7), 0, Some(90_000_000))),
    ];
    let named = again.map(|(at, of)| Again { first: Offset(SEEK_FROM + at), of });
    Command::Seek { to: Offset(SEEK_FROM), again: named.to_vec() }
}

/// The offset of the last batch of [`queue_commands`].
const SEEK_FROM: u64 = 57;

fn slot_name(name: &str) -> SlotName {
    SlotName::parse(name).expect("a good name")
}

fn create_slot(name: &str, from: SlotStart, max_idle_ms: u64) -> Command {
    let name = slot_name(name);
    Command::CreateSlot(CreateSlot { name, from, max_retained_bytes: 1 << 20, max_idle_ms })
}

fn attach(session: Session, prefetch: u32, lease_ms: Option<u32>) -> Command {
    let (name, node) = ("consumer".to_owned(), NodeId(1));
    Command::Attach(Attach {
        session,
        node,
        name,
        prefetch,
        lease_ms,
        tells_starts: false,
        filter: Vec::new(),
    })
}

/// A consumer that tells what it has begun to handle.
fn telling(session: Session) -> Command {
    let (name, node) = ("telling".to_owned(), NodeId(2));
    let (prefetch, lease_ms, tells_starts) = (10, None, true);
    Command::Attach(Attach {
        session,
        node,
        name,
        prefetch,
        lease_ms,
        tells_starts,
        filter: Vec::new(),
    })
}

/// Messages of one of its values.
fn tagged() -> Command {
    let frame = frames::frames().swap_remove(4);
    let tag = Some(tag_of("region", b"eu"));
    let properties = vec![Properties { count: frame.count, tag, ..Properties::default() }];
    Command::Publish(Publish { properties, ..Publish::plain(frame.count, frame.messages) })
}

/// What the telling consumer says of its first messages.
fn told(token: u64, kind: SettleKind, count: u32) -> Command {
    let item = SettleItem { kind, token: Token(token), first: Offset(0), count };
    Command::Settle { session: Session(9), items: vec![item] }
}

fn control(target: Target, what: Control) -> Command {
    Command::ControlConsumer { target, what }
}

fn receive(session: Session, count: u32, wait_ms: u32) -> Command {
    let (name, lease_ms) = ("receiver".to_owned(), Some(1_000));
    let (node, filter) = (NodeId(1), Vec::new());
    Command::Receive(Receive { session, node, name, count, lease_ms, wait_ms, filter })
}

fn publish(sequence: Option<u64>, frame: usize) -> Command {
    let frame = frames::frames().swap_remove(frame);
    let producer = sequence.map(|sequence| Producer {
        id: ProducerId::new(&b"producer"[..]).expect("short"),
        epoch: 1,
        sequence,
    });
    let (count, frame) = (frame.count, frame.messages);
    let (due, expires) = (Some(Millis(70_000)), Some(Millis(90_000)));
    let properties = match sequence {
        Some(0) => vec![Properties { count, due, ..Properties::default() }],
        Some(3) => vec![
            Properties { count: 1, due: None, expires, priority: 9, group: Some(7), tag: Some(5) },
            Properties { count: count - 1, due, priority: 1, ..Properties::default() },
        ],
        _ => Vec::new(),
    };
    Command::Publish(Publish { producer, properties, ..Publish::plain(count, frame) })
}

fn publish_if(id: Option<&str>, next: Option<u64>) -> Command {
    let Command::Publish(publish) = publish(None, 2) else { unreachable!("it is one") };
    let message_id = id.map(|id| MessageId::new(id).expect("short"));
    Command::Publish(Publish { condition: Condition::of(message_id, next.map(Offset)), ..publish })
}

fn publish_moved(first: u64) -> Command {
    let frame = frames::frames().swap_remove(2);
    let (count, frame) = (frame.count, frame.messages);
    Command::PublishMoved(PublishMoved { source: 9, timeline: 1, first, count, layout: 1, frame })
}

/// Two groups, with what is blocked behind their heads, for later and not.
fn grouped() -> Command {
    let frame = frames::frames().swap_remove(4);
    let of = |count, group, due: Option<u64>| Properties {
        count,
        due: due.map(Millis),
        group: Some(group),
        ..Properties::default()
    };
    let properties = vec![of(1, 7, None), of(20, 9, Some(90_000)), of(frame.count - 21, 7, None)];
    let (count, frame) = (frame.count, frame.messages);
    Command::Publish(Publish { properties, ..Publish::plain(count, frame) })
}

/// A life of a catalog.
pub fn catalog_commands() -> Vec<catalog::Command> {
    use catalog::Command as C;
    let name = |name: &str| QueueName::parse(name).expect("a good name");
    let register = |id: u64| {
        C::RegisterNode(RegisterNode {
            id: NodeId(id),
            incarnation: 70 + u128::from(id),
            address: format!("10.0.0.{id}:7100"),
            zone: ["a", "b"][id as usize % 2].to_owned(),
            version: 1,
            replace: id == 2,
        })
    };
    let create = |queue: &str, replicas, settings| {
        let candidates = (1..=3).map(NodeId).collect();
        C::CreateQueue(CreateQueue { name: name(queue), settings, replicas, candidates })
    };
    let sharded = |queue: &str, shards| {
        let C::CreateQueue(queue) = create(queue, 1, Settings::default()) else { unreachable!() };
        C::CreateSharded(CreateSharded { queue, shards })
    };
    let retained = Settings { retain_ms: Some(60_000), ..Settings::default() };
    let limited = Settings { max_bytes: Some(1 << 30), ..Settings::default() };
    vec![
        C::Bootstrap { cluster_id: 0xc1 },
        register(1),
        register(2),
        register(3),
        create("orders", 3, Settings::default()),
        create("mail.eu-west_1", 1, limited.clone()),
        C::UpdateQueue { name: name("orders"), settings: limited },
        create(
            "payments",
            1,
            Settings { dead_letter: Some(name("orders")), ..Settings::default() },
        ),
        C::DrainNode { id: NodeId(2), draining: true },
        register(4),
        C::PlaceQueue(PlaceQueue {
            group: GroupId(1),
            moved: 0,
            replicas: vec![NodeId(1), NodeId(2), NodeId(4)],
            observers: vec![NodeId(3)],
        }),
        C::QueuePlaced { group: GroupId(1), moved: 10 },
        C::RemoveNode { id: NodeId(3) },
        C::PlaceQueue(PlaceQueue {
            group: GroupId(1),
            moved: 10,
            replicas: vec![NodeId(1), NodeId(2), NodeId(4)],
            observers: vec![],
        }),
        C::QueuePlaced { group: GroupId(1), moved: 13 },
        C::RetireNode { id: NodeId(3) },
        C::RecoverQueue { group: GroupId(1), moved: 13, survivor: NodeId(2), timeline: 1 },
        C::QueueTookOver { group: GroupId(1), moved: 14, from: 70 },
        C::CatalogRecovered,
        C::Tick,
        C::LeaderChanged { node: NodeId(1) },
        C::DeleteQueue { name: name("mail.eu-west_1") },
        sharded("events", 3),
        C::UpdateQueue { name: name("events"), settings: retained },
    ]
}

#[cfg(test)]
mod tests {
    use quorate_machine::At;

    use super::*;

    #[test]
    fn the_life_of_a_queue_has_dead_letters() {
        let (mut queue, mut most) = (Queue::new(), (0, 0));
        for (command, index) in queue_commands().into_iter().zip(1..) {
            let at = At { index, now: Millis(index * 1_000) };
            queue.apply(at, 0, command, &mut Vec::new());
            queue.finish(at, &mut Vec::new());
            let stats = queue.stats();
            most = (most.0.max(stats.dead), most.1.max(stats.dead_lettered));
        }
        assert!(most.0 > 1 && most.1 > 0, "{most:?}");
        let stats = queue.stats();
        assert_eq!((stats.replayed, stats.blocked), (3, 1), "some come back: {stats:?}");
    }
}
