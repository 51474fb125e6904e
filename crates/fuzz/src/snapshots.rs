//! Snapshots of the machines. The input is a snapshot without its checksum, which is made to fit.
//!
//! What is restored is sound, has one form (replicas compare states by it), and lives on: leases
//! end, messages are published, delivered, settled and purged without a contradiction.

use bytes::Bytes;
use quorate_machine::catalog::{
    self, Catalog, CreateQueue, CreateSharded, PlaceQueue, RegisterNode,
};
use quorate_machine::queue::{
    Again, Attach, Command, Condition, Control, CreateSlot, Effect, MessageId, Offset, Piece,
    Producer, ProducerId, Properties, Publish, Queue, SeekTo, Session, Settings, SettleItem,
    SettleKind, SlotName, SlotStart, Target, Token,
};
use quorate_machine::{
    At, DecodeError, EntryBuilder, Machine, Millis, NodeId, SnapshotError, decode_entry,
};

use crate::commands::{catalog_commands, encode, queue_commands};

pub fn check_queue(data: &[u8]) {
    let Some(queue) = restored::<Queue>(data) else { return };
    queue.check().expect("what was restored is sound");
    let _ = (queue.stats(), queue.next_deadline());
    settle_all(queue);
    expire_all(restored::<Queue>(data).expect("it was restored before"));
}

pub fn check_catalog(data: &[u8]) {
    let Some(catalog) = restored::<Catalog>(data) else { return };
    for queue in catalog.queues() {
        assert_eq!(catalog.by_group(queue.group), Some(queue));
    }
    for sharded in catalog.all_sharded() {
        assert_eq!(catalog.shards_of(sharded).count(), sharded.shards.len());
    }
    live_on(catalog);
}

fn restored<M: Machine>(data: &[u8]) -> Option<M> {
    let _ = M::restore(data);
    let sealed = [data, &checksum(data).to_le_bytes()].concat();
    match M::restore(&sealed) {
        Ok(machine) => {
            let snapshot = machine.snapshot();
            if snapshot[0] > data[0] {
                // Of before a layout in which the same is written.
                restored_again(&machine);
            } else {
                assert_eq!(snapshot, sealed, "one state has one snapshot");
            }
            Some(machine)
        }
        Err(error) => {
            assert_ne!(error, SnapshotError::Checksum, "it was made to fit");
            None
        }
    }
}

/// What lives on can be restored again, unless a counter was given that had no step left.
fn restored_again<M: Machine>(machine: &M) {
    let snapshot = machine.snapshot();
    match M::restore(&snapshot) {
        Ok(again) => assert_eq!(again.snapshot(), snapshot),
        Err(SnapshotError::Decode(DecodeError::Invalid {
            why: "it is larger than can be",
            ..
        })) => {}
        Err(error) => panic!("{error}"),
    }
}

/// The checksum of a snapshot, written anew from docs/FORMATS.md.
fn checksum(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, lane: u64| {
        let product = (hash ^ lane).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        product ^ (product >> 29)
    };
    let (lanes, last) = bytes.as_chunks::<8>();
    let mut padded = [0; 8];
    padded[..last.len()].copy_from_slice(last);
    let hash =
        lanes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, lane| mix(hash, u64::from_le_bytes(*lane)));
    mix(mix(hash, u64::from_le_bytes(padded)), bytes.len() as u64)
}

/// A queue that goes on after the last entry that it knows of.
struct Life {
    queue: Queue,
    index: u64,
    effects: Vec<Effect>,
}

impl Life {
    fn of(queue: Queue) -> Self {
        let index = queue.live().last().map_or(0, |live| *live.end());
        Self { queue, index, effects: Vec::new() }
    }

    /// Applies an entry of one command.
    fn step(&mut self, now: u64, command: Command) {
        self.index += 1;
        let at = At { index: self.index, now: Millis(now) };
        self.queue.apply(at, 0, command, &mut self.effects);
        self.queue.finish(at, &mut self.effects);
        self.queue.check().expect("the queue stays sound");
    }

    fn end(mut self) {
        self.step(u64::MAX, Command::Purge);
        restored_again(&self.queue);
    }
}

fn attach(session: u128) -> Command {
    let (name, node) = (String::new(), NodeId(3));
    let (session, tells_starts) = (Session(session), session == 7);
    Command::Attach(Attach {
        session,
        node,
        name,
        prefetch: 9,
        lease_ms: None,
        tells_starts,
        filter: Vec::new(),
    })
}

fn slot_name(name: &str) -> SlotName {
    SlotName::parse(name).expect("a good name")
}

fn create_slot(name: &str, from: SlotStart) -> Command {
    let name = slot_name(name);
    Command::CreateSlot(CreateSlot { name, from, max_retained_bytes: 5, max_idle_ms: 1 })
}

fn publish_named() -> Command {
    let frame = Bytes::from_static(&[2, 0, 0, 0, 0, 0]);
    let message_id = Some(MessageId::new("named").expect("short"));
    Command::Publish(Publish {
        condition: Condition::of(message_id, None),
        ..Publish::plain(1, frame)
    })
}

fn publish(producer: Option<u64>) -> Command {
    let producer = producer.map(|sequence| Producer {
        id: ProducerId::new(&b"producer"[..]).expect("short"),
        epoch: 1,
        sequence,
    });
    let frame = Bytes::from_static(&[2, 0, 0, 0, 0, 0]);
    Command::Publish(Publish { producer, ..Publish::plain(1, frame) })
}

/// Everything that is held goes to consumers, who settle it in every way.
fn settle_all(queue: Queue) {
    let mut life = Life::of(queue);
    life.step(0, attach(7));
    life.step(0, attach(u128::MAX));
    life.step(0, create_slot("a", SlotStart::First));
    life.step(0, create_slot("b", SlotStart::Next));
    for sequence in [0, 1, 5, u64::MAX - 1] {
        life.step(0, publish(Some(sequence)));
    }
    life.step(0, publish_named());
    life.step(0, publish_named());
    life.queue.outstanding(&mut life.effects);
    let kinds = [
        SettleKind::Extend { lease_ms: 1 },
        SettleKind::Ack,
        SettleKind::Nack { delay_ms: 0 },
        SettleKind::Reject,
        SettleKind::Nack { delay_ms: u32::MAX },
        SettleKind::Start,
        SettleKind::Return,
    ];
    let mut kinds = kinds.into_iter().cycle();
    for effect in std::mem::take(&mut life.effects) {
        let Effect::Deliver { session, token, runs, .. } = effect else { continue };
        let item = |kind, first, count| SettleItem { kind, token, first, count };
        let items = runs.iter().zip(&mut kinds);
        let items = items.map(|(run, kind)| item(kind, run.first_offset, run.count)).collect();
        life.step(0, Command::Settle { session, items });
    }
    for name in ["a", "b"].map(slot_name) {
        let to = life.queue.slot(&name).map_or(Offset(0), |slot| Offset(slot.position.0 + 1));
        life.step(0, Command::AdvanceSlot { name, made_at: 0, to });
    }
    for (target, what) in [
        (Target::Everyone, Control::Resume),
        (Target::Session(Session(7)), Control::Pause),
        (Target::Named(String::new()), Control::Resume),
        (Target::Session(Session(u128::MAX)), Control::Kick),
    ] {
        life.step(0, Command::ControlConsumer { target, what });
    }
    life.step(0, Command::DropSlot { name: slot_name("b") });
    let all = SettleItem {
        kind: SettleKind::Ack,
        token: Token(life.index),
        first: Offset(0),
        count: u32::MAX,
    };
    life.step(1, Command::Settle { session: Session(7), items: vec![all] });
    let retain_ms = Some(u64::MAX);
    let keeping = Settings { retain_ms, version: u64::MAX, ..life.queue.settings().clone() };
    life.step(0, Command::Configure(Box::new(keeping)));
    for place in [SeekTo::Next, SeekTo::First] {
        let to = life.queue.offset_of(place);
        let again = life.queue.settled_from(to).into_iter();
        let again = again.map(|Piece { run, .. }| Again {
            first: run.first_offset,
            of: Properties { count: run.count, group: Some(7), ..Properties::default() },
        });
        life.step(0, Command::Seek { to, again: again.collect() });
    }
    life.step(1, Command::PurgeBefore { before: Offset(life.queue.next_offset().0 / 2) });
    life.end();
}

/// Time passes, until everything that has a deadline has met it.
fn expire_all(queue: Queue) {
    let mut life = Life::of(queue);
    life.step(0, publish(None));
    life.step(0, publish_named());
    for _ in 0..3 {
        let now = life.queue.next_deadline().map_or(0, |at| at.0);
        life.step(now, Queue::tick());
    }
    let (max_deliveries, retry_ms, version) = (2, 5, u64::MAX);
    let limited = Settings { max_deliveries, retry_ms, version, ..Settings::default() };
    life.step(0, Command::Configure(Box::new(limited)));
    life.step(0, Queue::leader_changed(2));
    life.step(u64::MAX, Queue::tick());
    life.end();
}

fn live_on(mut catalog: Catalog) {
    let mut index = 0;
    let mut apply = |catalog: &mut Catalog, command| {
        index += 1;
        let at = At { index, now: Millis(index) };
        let mut effects = Vec::new();
        let reply = catalog.apply(at, 0, command, &mut effects);
        catalog.finish(at, &mut effects);
        reply
    };
    for id in 1..=3 {
        let register = RegisterNode {
            id: NodeId(id),
            incarnation: 1,
            address: String::new(),
            zone: String::new(),
            version: 1,
            replace: true,
        };
        apply(&mut catalog, catalog::Command::RegisterNode(register));
    }
    let queues = catalog.queues().map(|queue| queue.name.clone());
    let names: Vec<_> =
        queues.chain(catalog.all_sharded().map(|sharded| sharded.name.clone())).collect();
    for (name, number) in names.into_iter().zip(0u64..) {
        let settings = Settings { dedup_age_ms: number, ..Settings::default() };
        apply(&mut catalog, catalog::Command::UpdateQueue { name: name.clone(), settings });
        if number % 2 == 0 {
            apply(&mut catalog, catalog::Command::DeleteQueue { name: name.clone() });
        }
        let candidates = (1..=3).map(NodeId).collect();
        let settings = Settings::default();
        let create = CreateQueue { name, settings, replicas: 3, candidates };
        apply(&mut catalog, catalog::Command::CreateQueue(create.clone()));
        let sharded = CreateSharded { queue: create, shards: 2 + (number % 3) as u16 };
        apply(&mut catalog, catalog::Command::CreateSharded(sharded));
    }
    let queues: Vec<_> = catalog.queues().map(|queue| (queue.group, queue.moved)).collect();
    for (group, moved) in queues {
        let (replicas, observers) = (vec![NodeId(group.0 % 3 + 1)], vec![NodeId(4)]);
        let place = PlaceQueue { group, moved, replicas, observers };
        let reply = apply(&mut catalog, catalog::Command::PlaceQueue(place));
        if let catalog::Reply::Placed { moved } = reply {
            apply(&mut catalog, catalog::Command::QueuePlaced { group, moved });
        }
        apply(&mut catalog, catalog::Command::RemoveNode { id: NodeId(group.0) });
        apply(&mut catalog, catalog::Command::RetireNode { id: NodeId(group.0) });
    }
    restored_again(&catalog);
}

pub fn queue_seeds() -> Vec<Vec<u8>> {
    states::<Queue>(&queue_commands())
}

pub fn catalog_seeds() -> Vec<Vec<u8>> {
    states::<Catalog>(&catalog_commands())
}

/// The states that a machine goes through, as snapshots without checksums.
fn states<M: Machine>(commands: &[M::Command]) -> Vec<Vec<u8>> {
    let mut machine = M::new();
    let mut seeds = vec![state(&machine)];
    for (command, index) in commands.iter().zip(1..) {
        let mut entry = EntryBuilder::new();
        entry.push(|out| out.extend_from_slice(&encode::<M>(command)));
        let (now, commands) = decode_entry(entry.freeze(Millis(index * 1_000))).expect("sound");
        let at = At { index, now };
        for command in commands {
            let command = M::decode(&mut command.expect("sound")).expect("sound");
            machine.apply(at, 0, command, &mut Vec::new());
        }
        machine.finish(at, &mut Vec::new());
        seeds.push(state(&machine));
    }
    seeds.dedup();
    seeds
}

fn state<M: Machine>(machine: &M) -> Vec<u8> {
    let mut snapshot = machine.snapshot();
    snapshot.truncate(snapshot.len() - 8);
    snapshot
}
