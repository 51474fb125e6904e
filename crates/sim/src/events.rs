//! Everything that happens in a simulated world, as the invariants and the trace are told of it.
//!
//! ```text
//!  replicas ── applied, made, leads ──┐
//!  clients ── sent, confirmed, … ─────┼──► Record ──► every invariant; the trace
//!  world ── faults, starts, stops ────┘
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_client::{AckLevel, LogPosition, ReadPosition, SeekTo, Sought};
use quorate_group::sim::{Made, Observer};
use quorate_machine::Machine;
use quorate_machine::queue::{
    Command, Effect, Properties, Queue, Reply, Session, Stats, Whereabouts,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::invariants::{self, Invariant};
use crate::passages::Passages;
use crate::trace::Trace;

/// A message of the workload: who sent it, and which of its messages it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// A producer, numbered within the run.
    pub producer: u32,
    /// From 0, in the order of sending.
    pub sequence: u32,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}-{}", self.producer, self.sequence)
    }
}

/// How a consumer settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Done.
    Ack,
    /// Again, not before so many milliseconds have passed.
    Nack(u32),
    /// Never again.
    Reject,
    /// Again, as if it had not been delivered.
    PutBack,
}

/// Something that happened. `group` is the queue's group throughout.
#[derive(Debug)]
pub enum Event<'a> {
    /// A replica applied an entry; `body` is empty for Raft's own.
    Applied {
        /// Where.
        node: u64,
        /// Of which group.
        group: u64,
        /// Raft term of the entry.
        term: u64,
        /// Log index of the entry.
        index: u64,
        /// The commands.
        body: &'a [u8],
    },
    /// The state of a replica's machine after an entry.
    State {
        /// Where.
        node: u64,
        /// Of which group.
        group: u64,
        /// Log index of the entry.
        index: u64,
        /// Digest of the state.
        hash: u64,
    },
    /// What a queue's machine made of an entry, told once, when it is first applied anywhere.
    Made(QueueEntry<'a>),
    /// A replica stands at an index without having applied up to there.
    Restored {
        /// Where.
        node: u64,
        /// Of which group.
        group: u64,
        /// From a checkpoint, or by a snapshot.
        index: u64,
    },
    /// A replica leads.
    Leads {
        /// Where.
        node: u64,
        /// Of which group.
        group: u64,
        /// The term.
        term: u64,
    },
    /// A replica has ended, though its node may go on.
    Ended {
        /// Where.
        node: u64,
        /// Of which group.
        group: u64,
    },
    /// A replica was parked, or has woken.
    Parked {
        /// Where.
        node: u64,
        /// Of which group.
        group: u64,
        /// Which of the two.
        parked: bool,
    },
    /// A message was handed to a producer.
    Sent {
        /// The queue.
        group: u64,
        /// The message.
        id: MessageId,
    },
    /// It was confirmed.
    Confirmed {
        /// The queue.
        group: u64,
        /// The message.
        id: MessageId,
        /// Its place, if it has one yet.
        offset: Option<u64>,
        /// A retry met its first copy.
        duplicate: bool,
        /// What the receipt says of it.
        level: AckLevel,
        /// Where in the queue's log it is.
        position: LogPosition,
    },
    /// It was refused for good: it is not in the queue.
    Refused {
        /// The queue.
        group: u64,
        /// The message.
        id: MessageId,
        /// Why.
        reason: &'a str,
    },
    /// What a publish to a topic is to bring to a queue is about to be sent: all of it, or nothing.
    Part {
        /// The queue.
        group: u64,
        /// The messages for it, in order; no other publish brings any of them.
        ids: &'a [MessageId],
    },
    /// A message is about to be sent to a sharded queue.
    Keyed {
        /// The groups of its shards, in the order in which keys are spread over them.
        shards: &'a [u64],
        /// The message.
        id: MessageId,
        /// What chooses its shard.
        key: &'a str,
    },
    /// What came of a message that was published on the condition that it gets an offset.
    Claimed {
        /// The queue.
        group: u64,
        /// The message.
        id: MessageId,
        /// The offset.
        expected: u64,
        /// The one that it got; or where the queue ended, if it was refused for that.
        got: Result<u64, u64>,
    },
    /// What became of it is not known.
    Unknown {
        /// The queue.
        group: u64,
        /// The message.
        id: MessageId,
    },
    /// A consumer was shown a message.
    Delivered {
        /// The queue.
        group: u64,
        /// The consumer, numbered within the run.
        consumer: u32,
        /// Its place.
        offset: u64,
        /// From 1.
        attempt: u32,
        /// Of the lease.
        token: u64,
        /// As sent, if the body can be understood.
        id: Option<MessageId>,
    },
    /// A reader was told how far the queue is.
    Looked {
        /// The queue.
        group: u64,
        /// When it asked.
        asked: Instant,
        /// How old the answer may be; `None`: not older than the question.
        bound: Option<Duration>,
        /// What it was told.
        position: &'a ReadPosition,
    },
    /// A reader that follows was shown a message.
    Read {
        /// The queue.
        group: u64,
        /// The reader, numbered within the run.
        reader: u32,
        /// The message's place.
        offset: u64,
        /// As sent, if the body can be understood.
        id: Option<MessageId>,
        /// The slot that it reads through.
        slot: Option<&'a str>,
    },
    /// A reader of a slot is about to begin.
    SlotReader {
        /// The queue.
        group: u64,
        /// The slot.
        slot: &'a str,
        /// The reader, numbered within the run.
        reader: u32,
    },
    /// A reader of a slot was refused.
    SlotRefused {
        /// The queue.
        group: u64,
        /// The slot.
        slot: &'a str,
        /// Why.
        reason: &'a str,
        /// Whether the slot has a bound that it can be beyond.
        is_bounded: bool,
    },
    /// A consumer began to settle.
    Settling {
        /// The queue.
        group: u64,
        /// The consumer.
        consumer: u32,
        /// The message's place.
        offset: u64,
        /// Of the lease.
        token: u64,
        /// How.
        settle: Settle,
    },
    /// What it was told: `None` is success.
    Settled {
        /// The queue.
        group: u64,
        /// The consumer.
        consumer: u32,
        /// The message's place.
        offset: u64,
        /// Of the lease.
        token: u64,
        /// How.
        settle: Settle,
        /// Why not.
        error: Option<&'a str>,
    },
    /// The consumers of a queue are about to be set to a place.
    Seeking {
        /// The queue.
        group: u64,
        /// Numbered within the run.
        seek: u32,
        /// The place.
        to: SeekTo,
    },
    /// What came of it, unless that is not known.
    Sought {
        /// The queue.
        group: u64,
        /// Which one.
        seek: u32,
        /// The place, and how many came back and left; or why not.
        sought: Result<Sought, &'a str>,
    },
    /// A queue's figures, as its leader gave them.
    Counted {
        /// The queue.
        group: u64,
        /// The figures.
        counts: &'a quorate_client::QueueCounts,
    },
    /// Something was done to the world.
    Fault {
        /// What kind.
        kind: &'static str,
        /// To what.
        what: &'a str,
    },
    /// A node's process began, serves, refused to start, failed, or ended.
    Node {
        /// Which.
        node: u64,
        /// What it does.
        does: &'a str,
    },
    /// A step of the run.
    Note(&'a str),
}

/// An entry of a queue with what came of it.
#[derive(Debug)]
pub struct QueueEntry<'a> {
    /// The queue.
    pub group: u64,
    /// Log index.
    pub index: u64,
    /// The leader's time, in Unix milliseconds; a machine uses the largest that it has seen.
    pub now_ms: u64,
    /// In order.
    pub commands: &'a [Command],
    /// One for each command.
    pub replies: &'a [Reply],
    /// In order.
    pub effects: &'a [Effect],
    /// The queue's figures after it.
    pub stats: &'a Stats,
    /// Where messages were before it, by offset.
    pub before: &'a [(Range<u64>, Whereabouts)],
    /// Where messages are after it, by offset.
    pub places: &'a [(Range<u64>, Whereabouts)],
    /// Messages that are not held any more, by offset; among them those that came with the entry and went with it, and those
    /// that left and came back.
    pub left: &'a [u64],
    /// Messages that have left, or wait from now on to be moved to the dead-letter queue; those that waited for that
    /// before are not among them.
    pub ended: &'a [u64],
    /// Messages that came back by seeks, by offset, each as it was named; among them those that left again.
    pub returned: &'a [(u64, Properties)],
    /// The queue after it.
    pub queue: &'a Queue,
}

impl QueueEntry<'_> {
    /// Leases that it has granted: offset and attempt. What is held already is repeated to a consumer that comes
    /// back, under the token that it had.
    pub fn granted(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let index = self.index;
        let granted = self.effects.iter().filter_map(move |effect| match effect {
            Effect::Deliver { token, runs, .. } if token.0 == index => Some(runs),
            _ => None,
        });
        granted.flatten().flat_map(|run| {
            let first = run.first_offset.0;
            (first..first + u64::from(run.count)).map(|offset| (offset, run.attempt))
        })
    }

    /// Those of them that went to consumers with a filter, and the values of that.
    pub fn granted_by_filter(&self) -> BTreeMap<u64, Vec<String>> {
        let filtered = self.queue.consumers_after(None).filter(|info| !info.filter.is_empty());
        let filters: BTreeMap<Session, Vec<String>> =
            filtered.map(|info| (info.session, info.filter)).collect();
        let mut granted = BTreeMap::new();
        for effect in self.effects {
            let Effect::Deliver { session, token, runs, .. } = effect else { continue };
            let Some(filter) = filters.get(session).filter(|_| token.0 == self.index) else {
                continue;
            };
            for run in runs {
                let first = run.first_offset.0;
                let offsets = first..first + u64::from(run.count);
                granted.extend(offsets.map(|offset| (offset, filter.clone())));
            }
        }
        granted
    }
}

/// Figures of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Messages confirmed.
    pub confirmed: u64,
    /// Deliveries shown to consumers.
    pub delivered: u64,
    /// Messages and positions that readers were shown.
    pub read: u64,
    /// Acknowledgements confirmed.
    pub acked: u64,
    /// Messages refused.
    pub refused: u64,
    /// Publishes whose outcome stayed unknown.
    pub unknown: u64,
    /// Leaderships begun.
    pub elections: u64,
    /// Entries applied, over all replicas.
    pub applied: u64,
    /// Node starts that were refused or that failed.
    pub node_failures: u64,
}

/// Who is told of everything. Cheap to clone.
#[derive(Clone)]
pub struct Record(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    violated: Notify,
}

struct State {
    invariants: Vec<Box<dyn Invariant>>,
    violation: Option<String>,
    trace: Trace,
    counters: Counters,
    faults: std::collections::BTreeMap<&'static str, u64>,
    /// By group: the last index made known, and where each group's last leader is.
    made: std::collections::BTreeMap<u64, u64>,
    /// By group: where messages are as of then.
    places: std::collections::BTreeMap<u64, Vec<(Range<u64>, Whereabouts)>>,
    leaders: std::collections::BTreeMap<u64, (u64, u64)>,
    applied: std::collections::BTreeMap<(u64, u64), u64>,
    parked: std::collections::BTreeSet<(u64, u64)>,
    /// By group: the time of its queue.
    times: std::collections::BTreeMap<u64, u64>,
}

impl Record {
    /// A record whose trace keeps its text if asked to.
    pub(crate) fn new(trace: Trace) -> Record {
        let state = State {
            invariants: invariants::all(),
            violation: None,
            trace,
            counters: Counters::default(),
            faults: Default::default(),
            made: Default::default(),
            places: Default::default(),
            leaders: Default::default(),
            applied: Default::default(),
            parked: Default::default(),
            times: Default::default(),
        };
        Record(Arc::new(Inner { state: Mutex::new(state), violated: Notify::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells it.
    pub fn tell(&self, event: Event<'_>) {
        let mut state = self.lock();
        state.count(&event);
        state.trace.event(&event);
        if state.violation.is_some() {
            return;
        }
        let mut violation = None;
        for invariant in &mut state.invariants {
            if let Err(reason) = invariant.saw(&event) {
                violation = Some(format!("{}: {reason}", invariant.name()));
                break;
            }
        }
        drop(state);
        if let Some(violation) = violation {
            self.violate(violation);
        }
    }

    /// Ends the run as failed.
    pub fn violate(&self, violation: String) {
        let mut state = self.lock();
        state.trace.line(&format!("VIOLATION {violation}"));
        state.violation.get_or_insert(violation);
        drop(state);
        self.0.violated.notify_one();
    }

    /// Looks at the end, when everything has settled.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        let mut violation = None;
        for invariant in &mut state.invariants {
            if let Err(reason) = invariant.at_end() {
                violation = Some(format!("{}: {reason}", invariant.name()));
                break;
            }
        }
        drop(state);
        if let Some(violation) = violation {
            self.violate(violation);
        }
    }

    /// The first invariant that did not hold, if any.
    #[must_use]
    pub fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }

    /// Resolves when an invariant did not hold.
    pub(crate) async fn violated(&self) {
        while self.violation().is_none() {
            self.0.violated.notified().await;
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lock().counters
    }

    pub(crate) fn faults(&self) -> std::collections::BTreeMap<&'static str, u64> {
        self.lock().faults.clone()
    }

    /// Node and term of the last leader of a group that made itself known.
    #[must_use]
    pub fn leader(&self, group: u64) -> Option<(u64, u64)> {
        self.lock().leaders.get(&group).copied()
    }

    /// Whether a node's replica of a group is parked, or was when its process ended.
    #[must_use]
    pub fn is_parked(&self, node: u64, group: u64) -> bool {
        self.lock().parked.contains(&(node, group))
    }

    /// Last index that a node applied of a group.
    #[must_use]
    pub fn applied(&self, node: u64, group: u64) -> Option<u64> {
        self.lock().applied.get(&(node, group)).copied()
    }

    /// The time of a queue, in Unix milliseconds, as far as any replica has applied.
    pub(crate) fn time_ms(&self, group: u64) -> Option<u64> {
        self.lock().times.get(&group).copied()
    }

    pub(crate) fn with_trace<R>(&self, look: impl FnOnce(&mut Trace) -> R) -> R {
        look(&mut self.lock().trace)
    }
}

impl State {
    fn count(&mut self, event: &Event<'_>) {
        match event {
            Event::Confirmed { .. } => self.counters.confirmed += 1,
            Event::Refused { .. } => self.counters.refused += 1,
            Event::Unknown { .. } => self.counters.unknown += 1,
            Event::Delivered { .. } => self.counters.delivered += 1,
            Event::Looked { .. } | Event::Read { .. } => self.counters.read += 1,
            Event::Settled { settle: Settle::Ack, error: None, .. } => self.counters.acked += 1,
            Event::Leads { node, group, term } => {
                let known = self.leaders.entry(*group).or_default();
                if known.1 < *term {
                    *known = (*node, *term);
                    self.counters.elections += 1;
                }
            }
            Event::Parked { node, group, parked: true } => {
                self.parked.insert((*node, *group));
            }
            Event::Parked { node, group, parked: false } => {
                self.parked.remove(&(*node, *group));
            }
            Event::Applied { node, group, index, .. } => {
                self.counters.applied += 1;
                self.applied.insert((*node, *group), *index);
            }
            Event::Ended { node, group } => {
                self.applied.remove(&(*node, *group));
            }
            Event::Restored { node, group, index } => {
                self.applied.insert((*node, *group), *index);
            }
            Event::Node { node, does: "starts" } => {
                self.applied.retain(|(of, _), _| of != node);
            }
            Event::Fault { kind, .. } => *self.faults.entry(kind).or_default() += 1,
            Event::Node { does, .. } if does.starts_with("fail") || does.starts_with("refuse") => {
                self.counters.node_failures += 1;
            }
            _ => {}
        }
    }
}

impl Observer for Record {
    fn applied(&self, node: u64, group: u64, term: u64, index: u64, body: &[u8]) {
        self.tell(Event::Applied { node, group, term, index, body });
    }

    fn made(&self, node: u64, group: u64, made: Made<'_>) {
        if let Some(hash) = made.hash {
            self.tell(Event::State { node, group, index: made.index, hash });
        }
        let mut state = self.lock();
        let last = state.made.entry(group).or_default();
        if made.index <= *last {
            return;
        }
        *last = made.index;
        let replies = made.replies.downcast_ref::<Vec<Reply>>();
        let effects = made.effects.downcast_ref::<Vec<Effect>>();
        let queue = made.machine.downcast_ref::<Queue>();
        let (Some(replies), Some(effects), Some(queue)) = (replies, effects, queue) else { return };
        let places = queue.places();
        let before = state.places.insert(group, places.clone()).unwrap_or_default();
        state.times.insert(group, queue.now().0);
        drop(state);
        let stats = queue.stats();
        let commands = made.commands.iter().map(|bytes| Queue::decode(&mut bytes.clone()));
        let commands = match commands.collect::<Result<Vec<Command>, _>>() {
            Ok(commands) => commands,
            Err(error) => {
                return self.violate(format!("an applied command cannot be read: {error}"));
            }
        };
        let now_ms = queue.now().0;
        let Passages { left, ended, returned } =
            Passages::of(&before, &places, &commands, replies, now_ms);
        self.tell(Event::Made(QueueEntry {
            group,
            index: made.index,
            now_ms: made.now_ms,
            commands: &commands,
            replies,
            effects,
            stats: &stats,
            before: &before,
            places: &places,
            left: &left,
            ended: &ended,
            returned: &returned,
            queue,
        }));
    }

    fn restored(&self, node: u64, group: u64, index: u64) {
        self.tell(Event::Restored { node, group, index });
    }

    fn ended(&self, node: u64, group: u64) {
        self.tell(Event::Ended { node, group });
    }

    fn leads(&self, node: u64, group: u64, term: u64) {
        self.tell(Event::Leads { node, group, term });
    }

    fn parked(&self, node: u64, group: u64, parked: bool) {
        self.tell(Event::Parked { node, group, parked });
    }
}
