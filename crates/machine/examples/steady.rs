//! What the queue machine costs: time a message in a steady flow, and memory of a long backlog.
//!
//! `cargo run --release -p quorate-machine --example steady [FLOW]`; a flow by name alone is short, to be counted by callgrind.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_machine::queue::{
    Attach, Command, Effect, Offset, Producer, ProducerId, Publish, Queue, Session, SettleItem,
    SettleKind,
};
use quorate_machine::{At, EntryBuilder, Machine, Millis, NodeId, decode_entry};

const BATCH: u32 = 64;
const BODY: usize = 100;

/// Bytes of this process that are in memory, where the system tells.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0usize) * 4096
}

fn main() {
    if let Some(name) = std::env::args().nth(1) {
        match FLOWS.iter().find(|flow| flow.name == name) {
            Some(flow) => return steady(flow, 5_000),
            None => panic!("no flow {name}; there are {}", FLOWS.map(|flow| flow.name).join(", ")),
        }
    }
    // First, while the allocator has nothing to hand out again.
    backlog(1_000_000);
    backlog(10_000_000);
    FLOWS.iter().for_each(|flow| steady(flow, 50_000));
}

struct Flow {
    name: &'static str,
    consumers: u128,
    is_idempotent: bool,
    acks_each: bool,
}

/// One consumer that acks as it is delivered to, and what differs from it.
const FLOWS: [Flow; 4] = [
    Flow { name: "plain", consumers: 1, is_idempotent: false, acks_each: false },
    Flow { name: "idempotent", consumers: 1, is_idempotent: true, acks_each: false },
    Flow { name: "four-consumers", consumers: 4, is_idempotent: false, acks_each: false },
    Flow { name: "ack-each", consumers: 1, is_idempotent: false, acks_each: true },
];

/// Publish, deliver and ack, one entry each way, encoded and decoded as in the log.
fn steady(flow: &Flow, rounds: u64) {
    let &Flow { name, consumers, is_idempotent, acks_each } = flow;
    let mut queue = Queue::new();
    let mut effects = Vec::new();
    for session in 1..=consumers {
        apply(&mut queue, 1, attach(session), &mut effects);
    }
    let started = Instant::now();
    for round in 0..rounds {
        let index = 2 + round * 2;
        let publish = publish(is_idempotent.then_some(round * u64::from(BATCH)));
        apply(&mut queue, index, publish, &mut effects);
        let settles: Vec<Command> =
            effects.drain(..).flat_map(|effect| ack(effect, acks_each)).collect();
        for settle in settles {
            apply(&mut queue, index + 1, settle, &mut effects);
        }
    }
    let messages = rounds * u64::from(BATCH);
    assert_eq!(queue.stats().acked, messages);
    let nanos = started.elapsed().as_nanos() as f64 / messages as f64;
    println!("{name:16} {nanos:6.1} ns a message in batches of {BATCH}");
}

fn backlog(messages: u64) {
    let before = resident();
    let mut queue = Queue::new();
    let mut effects = Vec::new();
    for index in 1..=messages / u64::from(BATCH) {
        apply(&mut queue, index, publish(None), &mut effects);
    }
    let held = resident().saturating_sub(before);
    let started = Instant::now();
    let snapshot = queue.snapshot();
    let written = started.elapsed();
    let started = Instant::now();
    assert_eq!(Queue::restore(&snapshot).unwrap().hash(), queue.hash());
    println!(
        "backlog of {messages} in batches of {BATCH}: {:.2} MB, {:.2} bytes a message; \
         snapshot {:.2} MB, written in {written:.1?}, restored and compared in {:.1?}",
        held as f64 / 1e6,
        held as f64 / messages as f64,
        snapshot.len() as f64 / 1e6,
        started.elapsed()
    );
}

fn apply(queue: &mut Queue, index: u64, command: Command, effects: &mut Vec<Effect>) {
    let mut builder = EntryBuilder::with_capacity(256);
    builder.push_command::<Queue>(&command);
    drop(command);
    let (now, commands) = decode_entry(builder.freeze(Millis(index))).unwrap();
    let at = At { index, now };
    for (ordinal, bytes) in (0..).zip(commands) {
        let command = Queue::decode(&mut bytes.unwrap()).unwrap();
        queue.apply(at, ordinal, command, effects);
    }
    queue.finish(at, effects);
}

fn attach(session: u128) -> Command {
    Command::Attach(Attach {
        session: Session(session),
        node: NodeId(1),
        name: "steady".to_owned(),
        prefetch: 1000,
        lease_ms: None,
        tells_starts: false,
        filter: Vec::new(),
    })
}

fn publish(sequence: Option<u64>) -> Command {
    let id = || ProducerId::new(&b"producer"[..]).unwrap();
    let producer = sequence.map(|sequence| Producer { id: id(), epoch: 0, sequence });
    Command::Publish(Publish { producer, ..Publish::plain(BATCH, frame()) })
}

/// The frame, made once: what a client does to make one is not the machine's cost.
fn frame() -> Bytes {
    static FRAME: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    let make = || {
        let mut frame = BytesMut::new();
        for _ in 0..BATCH {
            frame.put_u32_le(2 + BODY as u32);
            frame.put_u16_le(0);
            frame.put_bytes(b'x', BODY);
        }
        frame.freeze()
    };
    FRAME.get_or_init(make).clone()
}

fn ack(effect: Effect, acks_each: bool) -> Option<Command> {
    let Effect::Deliver { session, token, runs, .. } = effect else {
        return None;
    };
    let whole = |first, count| SettleItem { kind: SettleKind::Ack, token, first, count };
    let items = runs.iter().flat_map(|run| -> Vec<SettleItem> {
        let Offset(first) = run.first_offset;
        if acks_each {
            (0..run.count).map(|n| whole(Offset(first + u64::from(n)), 1)).collect()
        } else {
            vec![whole(Offset(first), run.count)]
        }
    });
    Some(Command::Settle { session, items: items.collect() })
}
