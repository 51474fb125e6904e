//! Crashes at every kind of place: what was acknowledged is there, what is there has happened.

mod support {
    pub mod model;
    pub mod tables;
}

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use quorate_storage::disk::{Fault, Operation};
use quorate_storage::{Done, Entry, GroupId, Log, Options, SimDisk, Writer};
use support::model::{Model, Random};
use support::tables::compare_both_ways;

const SEEDS: u64 = 250;
const BOOTS: u64 = 6;
const OPERATIONS: u64 = 120;
/// Groups from here on have no Raft log, only bodies.
const FIRST_BODIES: u64 = 1000;

fn options() -> Options {
    Options {
        segment_bytes: 32 << 10,
        max_batch_bytes: 6 << 10,
        tail_bytes: 8 << 10,
        spare_segments: 2,
    }
}

struct World {
    random: Random,
    model: Model,
    log: Log,
    writer: Writer,
    acknowledged: Arc<AtomicUsize>,
    term: u64,
    counter: u64,
    /// Added to group ids when one was removed: ids are never used again.
    generation: [u64; 4],
}

impl World {
    fn done(&self, at: usize) -> Done {
        let acknowledged = self.acknowledged.clone();
        Box::new(move |result| {
            if result.is_ok() {
                acknowledged.fetch_max(at, Ordering::SeqCst);
            }
        })
    }

    fn entry(&mut self, index: u64) -> Entry {
        self.counter += 1;
        let len = if self.random.one_in(8) { 3000 } else { 20 + self.random.below(600) };
        let mut payload = format!("{}:", self.counter).into_bytes();
        payload.resize(len as usize, b'x');
        Entry { index, term: self.term, payload: Bytes::from(payload) }
    }

    fn operate(&mut self) {
        let slot = self.random.below(4);
        let id = GroupId(slot + 10 * self.generation[slot as usize]);
        let bodies = GroupId(FIRST_BODIES + self.random.below(2));
        match self.random.below(100) {
            0..45 => self.append(id),
            45..52 => self.truncate(id),
            52..62 => self.vote(id),
            62..75 => self.purge_and_retain(id),
            75..85 => self.put(bodies),
            85..90 => self.retain_bodies(bodies),
            90..94 => self.commit(id),
            94..97 => self.put_again(id),
            97 => self.remove(id, slot),
            98 => self.reset(id),
            _ => drop(self.writer.step()),
        }
    }

    fn append(&mut self, id: GroupId) {
        let last = self.model.now.get(&id).and_then(|group| group.last).map_or(0, |(i, _)| i);
        let count = 1 + self.random.below(6);
        let entries: Vec<Entry> = (last + 1..=last + count).map(|i| self.entry(i)).collect();
        let at = self.model.append(id, &entries);
        self.log.append(id, entries, self.done(at));
    }

    fn truncate(&mut self, id: GroupId) {
        let Some(group) = self.model.now.get(&id) else { return };
        let (Some((last, _)), floor) = (group.last, group.floor().unwrap_or(0)) else { return };
        let committed = self.log.state(id).map(|state| state.committed).unwrap_or_default();
        let committed: u64 = String::from_utf8_lossy(&committed).parse().unwrap_or(0);
        let lowest = floor.max(committed);
        if last <= lowest {
            return;
        }
        let to = lowest + self.random.below(last - lowest + 1);
        let term = group.entries.get(&to).map(|(term, _)| *term);
        let after = match (term, group.purged) {
            (Some(term), _) => Some((to, term)),
            (None, purged) => purged,
        };
        self.term += 1;
        let at = self.model.change(id, |group| {
            group.entries.retain(|index, _| after.is_some_and(|(a, _)| *index <= a));
            group.raft.retain(|index| after.is_some_and(|(a, _)| *index <= a));
            group.last = after;
        });
        self.log.truncate_after(id, after, self.done(at));
    }

    fn vote(&mut self, id: GroupId) {
        self.term += 1;
        let vote = Bytes::from(self.term.to_string());
        let at = self.model.change(id, |group| group.vote = vote.clone());
        self.log.save_vote(id, vote, self.done(at));
    }

    fn commit(&mut self, id: GroupId) {
        if let Some((last, _)) = self.model.now.get(&id).and_then(|group| group.last) {
            self.log.save_committed(id, Bytes::from(last.to_string()));
        }
    }

    fn purge_and_retain(&mut self, id: GroupId) {
        let Some(group) = self.model.now.get(&id) else { return };
        let Some((last, last_term)) = group.last else { return };
        let floor = group.floor().unwrap_or(0);
        let beyond = self.random.one_in(12);
        let upto = if beyond { last + 5 } else { floor + self.random.below(last - floor + 1) };
        let term = group.entries.get(&upto).map_or(last_term, |(term, _)| *term);
        if upto > floor {
            let at = self.model.change(id, |group| {
                group.purged = Some((upto, term));
                if group.last.is_none_or(|(last, _)| last < upto) {
                    group.last = Some((upto, term));
                }
            });
            self.log.purge(id, (upto, term), self.done(at));
        }
        let limit = upto.max(floor);
        self.retain(id, limit, 9);
    }

    fn retain_bodies(&mut self, id: GroupId) {
        let last = self.model.now.get(&id).and_then(|g| g.entries.keys().last().copied());
        self.retain(id, last.unwrap_or(0), 4);
    }

    /// Keeps one in `n` of what is there.
    fn retain(&mut self, id: GroupId, limit: u64, n: u64) {
        let Some(group) = self.model.now.get(&id) else { return };
        let present: Vec<u64> = group.entries.range(..=limit).map(|(i, _)| *i).collect();
        let keep: BTreeSet<u64> = present.into_iter().filter(|_| self.random.one_in(n)).collect();
        self.model.retain(id, limit, &keep);
        let ranges: Vec<_> = keep.iter().map(|index| *index..=*index).collect();
        self.log.retain(id, limit, &ranges);
    }

    fn put(&mut self, id: GroupId) {
        let first = self.counter * 2;
        let count = 1 + self.random.below(4);
        let entries: Vec<Entry> = (first..first + count).map(|i| self.entry(i)).collect();
        self.counter += count;
        let at = self.model.put(id, &entries);
        self.log.put(id, entries, self.done(at));
    }

    /// Stores an entry of the Raft log once more, as a snapshot that brings its body would.
    fn put_again(&mut self, id: GroupId) {
        let Some(group) = self.model.now.get(&id) else { return };
        let Some((index, (term, payload))) = group.entries.iter().next_back() else { return };
        let entries = vec![Entry { index: *index, term: *term, payload: payload.clone() }];
        let at = self.model.put(id, &entries);
        self.log.put(id, entries, self.done(at));
    }

    fn reset(&mut self, id: GroupId) {
        if !self.model.now.contains_key(&id) {
            return;
        }
        let at = self.model.change(id, |group| {
            group.entries.retain(|index, _| !group.raft.contains(index));
            group.raft.clear();
            (group.last, group.purged) = (None, None);
        });
        self.log.reset_group(id, Bytes::new(), self.done(at));
    }

    fn remove(&mut self, id: GroupId, slot: u64) {
        let at = self.model.remove(id);
        self.generation[slot as usize] += 1;
        self.log.remove_group(id, self.done(at));
    }
}

fn plan_crash(disk: &SimDisk, random: &mut Random) {
    let operation = match random.below(8) {
        0..4 => Operation::Write,
        4..6 => Operation::Flush,
        6 => Operation::Rename,
        _ => return,
    };
    let fault = if random.one_in(3) { Fault::Kill } else { Fault::PowerLoss };
    let within = if operation == Operation::Rename { 6 } else { 60 };
    disk.plan(operation, 1 + random.below(within), fault);
}

/// Returns how many tables of contents were found by the starts.
fn run(seed: u64) -> usize {
    let mut tables = 0;
    let disk = SimDisk::new(seed);
    let (log, writer) = Log::open(Arc::new(disk.reopen()), options()).expect("open empty");
    let mut world = World {
        random: Random(seed),
        model: Model::new(),
        log,
        writer,
        acknowledged: Arc::default(),
        term: 1,
        counter: 0,
        generation: [0; 4],
    };
    for boot in 0..BOOTS {
        plan_crash(&disk, &mut world.random);
        for _ in 0..OPERATIONS {
            world.operate();
            if world.random.one_in(3) {
                world.writer.step();
            }
            if world.log.poisoned().is_some() {
                break;
            }
        }
        if world.random.one_in(3) {
            disk.kill()
        } else {
            disk.power_loss()
        }
        disk.clear_plans();
        tables += compare_both_ways(&disk, &options());
        let (log, writer) = Log::open(Arc::new(disk.reopen()), options())
            .unwrap_or_else(|error| panic!("seed {seed} boot {boot}: {error}"));
        let acknowledged = world.acknowledged.load(Ordering::SeqCst);
        if let Err(reasons) = world.model.recovered(&log, acknowledged) {
            panic!("seed {seed} boot {boot}: acknowledged {acknowledged}, but\n{reasons}");
        }
        world.acknowledged = Arc::default();
        (world.log, world.writer) = (log, writer);
    }
    tables
}

#[test]
fn recovery_equals_a_moment_not_before_the_last_acknowledgement() {
    let tables: usize = (0..SEEDS).map(run).sum();
    assert!(tables as u64 > SEEDS * BOOTS, "{tables} tables of contents in all");
}
