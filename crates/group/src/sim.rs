//! What a simulated world sets for the replicas in it, and what it sees of them.
//!
//! The world is a plugin of the madsim runtime, so that it goes with the run: a clock for each
//! node, which may be wrong and drift, and one observer, told of all that is applied and led.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use madsim::plugin::Simulator;
use madsim::rand::GlobalRng;
use madsim::task::NodeId;
use madsim::time::TimeHandle;

/// How a node's clock differs from the world's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skew {
    /// Added to what the wall clock shows, in milliseconds.
    pub offset_ms: i64,
    /// Parts per million by which the node's clock runs fast (or slow, below 0), within a tenth
    /// either way: Raft's timers end sooner (later), and its wall clock gains (loses) on the
    /// world's.
    pub drift_ppm: i64,
}

/// The plugin. Registered with `Runtime::add_simulator` before anything runs.
#[derive(Default)]
pub struct World {
    clocks: Mutex<BTreeMap<NodeId, Clock>>,
    observer: Mutex<Option<Arc<dyn Observer>>>,
    machines: Mutex<Vec<NodeId>>,
}

#[derive(Clone, Copy, Default)]
struct Clock {
    skew: Skew,
    /// World's time at which the drift was set.
    since: Duration,
}

/// Is told what the replicas do, at the moment they do it.
pub trait Observer: Send + Sync {
    /// A replica has applied the entry at `index`: `body` is its payload, empty for those of Raft.
    fn applied(&self, node: u64, group: u64, term: u64, index: u64, body: &[u8]);

    /// What a replica's machine made of the commands of the entry at `index`: a `Vec` each of
    /// commands, replies and effects of the group's machine, and the machine's hash after it.
    fn made(&self, node: u64, group: u64, made: Made<'_>);

    /// A replica stands at `index` without having applied up to there: it was opened from a
    /// checkpoint, or has installed a snapshot.
    fn restored(&self, node: u64, group: u64, index: u64);

    /// A replica has ended, though its node goes on: should it start again, it does so from its checkpoint, or
    /// from nothing if its queue has moved away.
    fn ended(&self, node: u64, group: u64);

    /// A replica has begun to lead.
    fn leads(&self, node: u64, group: u64, term: u64);

    /// A replica was parked, or has woken.
    fn parked(&self, node: u64, group: u64, parked: bool);
}

/// See [`Observer::made`].
pub struct Made<'a> {
    /// Log index of the entry.
    pub index: u64,
    /// The leader's time of the entry, in Unix milliseconds.
    pub now_ms: u64,
    /// The entry's commands, encoded.
    pub commands: &'a [Bytes],
    /// `Vec<M::Reply>`.
    pub replies: &'a dyn Any,
    /// `Vec<M::Effect>`.
    pub effects: &'a dyn Any,
    /// The machine as the entry has left it.
    pub machine: &'a dyn Any,
    /// Digest of the machine's state after the entry, at every [`HASH_EVERY`]th index.
    pub hash: Option<u64>,
}

/// A digest looks at the whole state: it is not taken after every entry. States that differ stay
/// different.
pub const HASH_EVERY: u64 = 8;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Simulator for World {
    fn new(_: &GlobalRng, _: &TimeHandle, _: &madsim::Config) -> Self {
        Self::default()
    }

    fn create_node(&self, id: NodeId) {
        lock(&self.machines).push(id);
    }
}

impl World {
    /// The world of the run that calls.
    ///
    /// # Panics
    /// When the plugin was not registered with the runtime.
    #[must_use]
    pub fn current() -> Arc<World> {
        madsim::plugin::simulator()
    }

    /// Every machine that was made, of nodes and of others.
    #[must_use]
    pub fn machines(&self) -> Vec<NodeId> {
        // The first is the supervisor's own.
        lock(&self.machines).iter().skip(1).copied().collect()
    }

    /// Sets a node's clock.
    pub fn set_skew(&self, node: NodeId, skew: Skew) {
        let since = TimeHandle::current().elapsed();
        lock(&self.clocks).insert(node, Clock { skew, since });
    }

    /// How a node's clock differs now.
    #[must_use]
    pub fn skew(&self, node: NodeId) -> Skew {
        lock(&self.clocks).get(&node).map_or_else(Skew::default, |clock| clock.skew)
    }

    /// Sets who is told.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        *lock(&self.observer) = Some(observer);
    }

    pub(crate) fn observer(&self) -> Option<Arc<dyn Observer>> {
        lock(&self.observer).clone()
    }

    fn clock(&self) -> Clock {
        lock(&self.clocks).get(&madsim::plugin::node()).copied().unwrap_or_default()
    }

    /// Time since the Unix epoch as this node's wall clock shows it.
    pub(crate) fn wall_clock(&self) -> Duration {
        let time = TimeHandle::current();
        let unix = time.now_time().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let clock = self.clock();
        let drifting = time.elapsed().saturating_sub(clock.since).as_millis() as i64;
        let gained = drifting * clock.skew.drift_ppm / 1_000_000;
        let skewed = (unix.as_millis() as u64).saturating_add_signed(clock.skew.offset_ms + gained);
        Duration::from_millis(skewed)
    }

    /// How long, in the world's time, a timer of this node takes.
    pub(crate) fn timer(&self, duration: Duration) -> Duration {
        let drift = self.clock().skew.drift_ppm.clamp(-100_000, 100_000);
        duration.mul_f64(1.0 - drift as f64 / 1_000_000.0)
    }
}
