//! The group's machine with its kind erased, so that openraft is compiled once for all kinds.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use quorate_machine::{At, CommandIter, DecodeError, Machine, SnapshotError, decode_entry};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::types::Replies;

/// What a group tells its owner.
#[derive(Debug)]
pub enum Event<E> {
    /// This replica leads in `term`, and its machine knows it: what was attached to another leader
    /// is marked so.
    Leading {
        /// Raft term of the leadership.
        term: u64,
    },
    /// This replica does not lead any more.
    Following,
    /// Effects of the entry at `index`, which has just been applied here.
    Effects {
        /// Log index of the entry.
        index: u64,
        /// In the order of the machine.
        effects: Vec<E>,
    },
    /// A snapshot took the place of the machine: effects of the entries that it spared are not told.
    Restored,
    /// The replica stopped for a failure of this node; the node must stop too.
    Failed(String),
}

/// Whether anybody is to be told of effects.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) always: bool,
    pub(crate) leading: Arc<AtomicBool>,
    pub(crate) takers: Arc<AtomicUsize>,
}

impl Wanted {
    fn now(&self) -> bool {
        self.always || self.leading.load(Ordering::Acquire) || self.is_taken()
    }

    fn is_taken(&self) -> bool {
        self.takers.load(Ordering::Acquire) > 0
    }
}

/// While it lives, the replica's owner is told of effects, whether the replica leads or not; see
/// [`Handle::take_effects`](crate::Handle::take_effects).
#[must_use = "effects are told only while it lives"]
pub struct EffectsTaken(Arc<AtomicUsize>);

impl EffectsTaken {
    pub(crate) fn new(takers: Arc<AtomicUsize>) -> Self {
        takers.fetch_add(1, Ordering::AcqRel);
        Self(takers)
    }
}

impl Drop for EffectsTaken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(crate) trait Applier: Send + Sync {
    fn apply(&mut self, index: u64, entry: Bytes) -> Result<Replies, DecodeError>;
    fn snapshot(&self) -> Vec<u8>;
    fn restore(&mut self, bytes: &[u8], index: u64) -> Result<(), SnapshotError>;
    fn live(&self) -> Vec<RangeInclusive<u64>>;
    fn next_deadline_ms(&self) -> Option<u64>;
}

/// A machine that the state machine's task changes and everyone else may look at.
pub(crate) struct Shared<M> {
    machine: Arc<Mutex<M>>,
    /// The last entry in it; changed under its lock.
    index: Arc<AtomicU64>,
}

impl<M> Clone for Shared<M> {
    fn clone(&self) -> Self {
        Self { machine: self.machine.clone(), index: self.index.clone() }
    }
}

impl<M: Machine> Shared<M> {
    pub(crate) fn new() -> Self {
        Self { machine: Arc::new(Mutex::new(M::new())), index: Arc::default() }
    }

    /// A machine whose invariant failed has panicked inside; nobody may go on with it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, M> {
        self.machine.lock().expect("the machine has not panicked")
    }

    /// The last entry that the machine has applied; exact while it is locked.
    pub(crate) fn index(&self) -> u64 {
        self.index.load(Ordering::Acquire)
    }
}

#[cfg_attr(not(madsim), allow(dead_code, reason = "a simulated world is told where it runs"))]
pub(crate) struct Running<M: Machine> {
    pub(crate) node: u64,
    pub(crate) group: u64,
    pub(crate) machine: Shared<M>,
    pub(crate) events: mpsc::UnboundedSender<Event<M::Effect>>,
    pub(crate) wanted: Wanted,
    pub(crate) clock: Clock,
}

#[cfg(madsim)]
impl<M: Machine> Running<M> {
    fn tell_world(
        &self,
        at: At,
        entry: &Bytes,
        machine: &M,
        replies: &Vec<M::Reply>,
        effects: &Vec<M::Effect>,
        hash: Option<u64>,
    ) {
        let Some(observer) = crate::sim::World::current().observer() else { return };
        let Ok((_, commands)) = decode_entry(entry.clone()) else { return };
        let commands: Vec<Bytes> = commands.flatten().collect();
        let (index, now_ms) = (at.index, at.now.0);
        let commands = &commands[..];
        let made = crate::sim::Made { index, now_ms, commands, replies, effects, machine, hash };
        observer.made(self.node, self.group, made);
    }
}

#[cfg(feature = "planted")]
impl<M: Machine> Running<M> {
    /// Does with a copy of the machine what applying the entry would do, and delivers.
    pub(crate) fn speculation(&self) -> crate::log_store::Speculation {
        let (machine, events, wanted) =
            (self.machine.clone(), self.events.clone(), self.wanted.clone());
        Arc::new(move |index, payload: Bytes| {
            let entry = crate::codec::decode_entry(crate::types::log_id(0, index), payload);
            let Ok(openraft::EntryPayload::Normal(entry)) = entry.map(|entry| entry.payload) else {
                return;
            };
            let (Ok((now, commands)), true) = (decode_entry(entry.commands), wanted.now()) else {
                return;
            };
            let at = At { index, now };
            let mut effects = Vec::new();
            let Ok(mut copy) = M::restore(&machine.lock().snapshot()) else { return };
            for (ordinal, command) in commands.flatten().enumerate() {
                let Ok(command) = M::decode(&mut command.clone()) else { return };
                let _ = copy.apply(at, ordinal as u32, command, &mut effects);
            }
            copy.finish(at, &mut effects);
            let _ = events.send(Event::Effects { index, effects });
        })
    }
}

/// Applies all commands of an entry, and ends it.
pub(crate) fn apply_entry<M: Machine>(
    machine: &mut M,
    at: At,
    commands: CommandIter,
    effects: &mut Vec<M::Effect>,
) -> Result<Vec<M::Reply>, DecodeError> {
    let mut replies = Vec::new();
    for (ordinal, command) in commands.enumerate() {
        let command = M::decode(&mut command?)?;
        replies.push(machine.apply(at, ordinal as u32, command, effects));
    }
    machine.finish(at, effects);
    Ok(replies)
}

impl<M: Machine> Applier for Running<M> {
    fn apply(&mut self, index: u64, entry: Bytes) -> Result<Replies, DecodeError> {
        #[cfg(madsim)]
        let copy = entry.clone();
        let (now, commands) = decode_entry(entry)?;
        let at = At { index, now };
        self.clock.observe(now.0);
        let mut effects = Vec::new();
        let mut machine = self.machine.lock();
        let replies = apply_entry(&mut *machine, at, commands, &mut effects)?;
        self.machine.index.store(index, Ordering::Release);
        #[cfg(madsim)]
        let hash = at.index.is_multiple_of(crate::sim::HASH_EVERY).then(|| machine.hash());
        #[cfg(madsim)]
        self.tell_world(at, &copy, &machine, &replies, &effects, hash);
        drop(machine);
        if !effects.is_empty() && self.wanted.now() {
            // Bounded by the consumers' credit. The receiver ends only with the group.
            let _ = self.events.send(Event::Effects { index, effects });
        }
        Ok(Replies(Box::new(replies)))
    }

    fn snapshot(&self) -> Vec<u8> {
        self.machine.lock().snapshot()
    }

    fn restore(&mut self, bytes: &[u8], index: u64) -> Result<(), SnapshotError> {
        let machine = M::restore(bytes)?;
        self.clock.observe(machine.now().0);
        let mut held = self.machine.lock();
        *held = machine;
        self.machine.index.store(index, Ordering::Release);
        if self.wanted.is_taken() {
            let _ = self.events.send(Event::Restored);
        }
        Ok(())
    }

    fn live(&self) -> Vec<RangeInclusive<u64>> {
        self.machine.lock().live()
    }

    fn next_deadline_ms(&self) -> Option<u64> {
        self.machine.lock().next_deadline().map(|at| at.0)
    }
}
