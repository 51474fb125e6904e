//! Random logs of a catalog.

use super::Rng;
use super::op::{Entry, Op, SHARDS};

/// Node ids that may come up; one more is named as a candidate and is never known.
const NODES: u64 = 9;

/// A log: as a rule it begins with nodes, as else few queues can be placed.
pub fn entries(rng: &mut Rng) -> Vec<Entry> {
    let names = rng.pick(&[1, 3, 12]);
    let restore = rng.pick(&[1, 3, 10]);
    let length = 1 + rng.below(30);
    let nodes = rng.below(NODES);
    let first = (0..nodes).map(|_| register(rng)).collect();
    let mut entries = vec![Entry { after_ms: 0, restore: false, ops: first }];
    entries.extend((0..length).map(|_| Entry {
        after_ms: rng.within(-5, 20),
        restore: rng.one_in(restore),
        ops: (0..rng.below(4)).map(|_| op(rng, names)).collect(),
    }));
    entries
}

fn op(rng: &mut Rng, names: u64) -> Op {
    let name = name(rng, names);
    let max_messages = rng.below(3) as u8;
    let dead_letter = if rng.one_in(2) { self::name(rng, names) } else { 0 };
    match rng.weighted(&[1, 4, 14, 4, 6, 1, 2, 1, 8, 6, 3, 3, 6, 8, 1, 10, 2, 6]) {
        0 => Op::Bootstrap { cluster_id: rng.below(3) as u8 },
        1 => register(rng),
        2 => {
            let replicas = rng.pick(&[1, 1, 3, 3, 3, 5, 5, 0, 2, 4, 255]);
            let count = rng.below(NODES + 2);
            let candidates = (0..count).map(|_| rng.below(NODES + 1) as u8).collect();
            Op::Create { name, max_messages, dead_letter, replicas, candidates }
        }
        3 => Op::Update { name, max_messages, dead_letter, version: rng.below(100) as u8 },
        4 => Op::Delete { name },
        5 => Op::Tick,
        6 => Op::Drain { node: rng.below(NODES) as u8, draining: rng.one_in(2) },
        7 => Op::LeaderChanged,
        8 => {
            let count = rng.pick(&[1, 1, 3, 3, 3, 5, 0, 2]);
            let replicas = (0..count).map(|_| rng.below(NODES + 1) as u8).collect();
            let observers = (0..rng.below(3)).map(|_| rng.below(NODES + 1) as u8).collect();
            Op::Place { group: group(rng), moved: moved(rng), replicas, observers }
        }
        9 => Op::Placed { group: group(rng), moved: moved(rng) },
        10 => Op::Remove { node: rng.below(NODES) as u8 },
        11 => Op::Retire { node: rng.below(NODES) as u8 },
        12 => {
            let survivor = rng.below(NODES) as u8;
            let timeline = rng.pick(&[1, 1, 2, 2, 3, 5, 0]);
            Op::Recover { group: group(rng), moved: moved(rng), survivor, timeline }
        }
        13 => Op::TookOver { group: group(rng), moved: moved(rng), from: rng.below(100) },
        14 => Op::CatalogRecovered,
        15 => {
            let routes = (0..rng.below(4)).map(|_| (self::name(rng, names), rng.below(12) as u8));
            let routes = routes.collect();
            Op::SetTopic { name: rng.below(2) as u8, is_known: !rng.one_in(5), routes }
        }
        16 => Op::DeleteTopic { name: rng.below(2) as u8 },
        _ => {
            let replicas = rng.pick(&[1, 1, 3, 3, 3, 5, 2]);
            let count = rng.below(NODES + 2);
            let candidates = (0..count).map(|_| rng.below(NODES + 1) as u8).collect();
            let shards = rng.pick(&[2, 2, 2, 3, 3, 64, 1, 65]);
            Op::CreateSharded { name, shards, max_messages, dead_letter, replicas, candidates }
        }
    }
}

/// Of a queue, now and then of a shard.
fn name(rng: &mut Rng, names: u64) -> u8 {
    let whole = rng.below(names) as u8;
    if rng.one_in(8) { SHARDS + 2 * whole + rng.below(2) as u8 } else { whole }
}

/// Mostly one of the first queues.
fn group(rng: &mut Rng) -> u8 {
    1 + rng.below(4) as u8
}

/// Mostly that of a queue which was not moved, or at one of the next entries.
fn moved(rng: &mut Rng) -> u64 {
    if rng.one_in(2) { 0 } else { 1 + rng.below(12) }
}

fn register(rng: &mut Rng) -> Op {
    Op::Register {
        node: rng.below(NODES) as u8,
        incarnation: u8::from(rng.one_in(6)),
        zone: rng.below(3) as u8,
        version: rng.below(3) as u8,
        replace: rng.one_in(4),
    }
}
