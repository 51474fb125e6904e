//! What one replica keeps in the node's log: its Raft log, and the bodies that it was sent with a
//! snapshot.
//!
//! The two have a group id each. The Raft log is contiguous above its floor; below it, only the
//! entries stay whose bodies a durable checkpoint still refers to. Bodies that came with a snapshot
//! stand apart, since an entry of the Raft log at the same index may be an uncommitted one that
//! differs.

use std::collections::BTreeSet;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use quorate_machine::planted::{self, Bug};
use quorate_storage::{Done, Entry, GroupId, GroupState, Log};
use tokio::sync::oneshot;

use crate::codec;
use crate::received::Received;
use crate::recovery::{self, timeline_of};
use crate::runtime::blocking;
use crate::types::{Vote, log_id, term_of};

/// Bit of a log group's id that marks the bodies received with snapshots.
pub(crate) const BODIES: u64 = 1 << 63;

/// Entries that consumers share and that may be read from the disk at a time.
const TURNS: usize = 8;

pub(crate) struct ReplicaLog {
    pub(crate) log: Log,
    /// Whose log it is.
    #[cfg_attr(not(madsim), allow(dead_code, reason = "a simulated world is told where it is"))]
    pub(crate) node: u64,
    pub(crate) group: GroupId,
    pub(crate) bodies: GroupId,
    /// What the last durable checkpoint refers to.
    kept: Mutex<Kept>,
    /// See [`ReplicaLog::had`].
    had: Mutex<Option<Had>>,
    /// What came from leaders, and how much of it is on the disk.
    pub(crate) received: Received,
    /// See [`ReplicaLog::timeline`].
    timeline: AtomicU64,
    /// The latest timeline beyond its own that a leader was heard of in.
    superseded: AtomicU64,
    /// Snapshot transfers under way: nothing they may still read is released.
    pins: AtomicUsize,
    /// Who reads an entry that stays in memory afterwards, by its index: consumers that want parts of
    /// the same entry at the same time let one of them read it.
    turns: [tokio::sync::Mutex<()>; TURNS],
}

#[derive(Default)]
struct Kept {
    upto: u64,
    live: Vec<RangeInclusive<u64>>,
}

/// Holds back the release of entries while it exists.
pub(crate) struct Pin(Arc<ReplicaLog>);

impl Drop for Pin {
    fn drop(&mut self) {
        if self.0.pins.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.release();
        }
    }
}

impl ReplicaLog {
    pub(crate) fn new(log: Log, node: u64, group: u64) -> Self {
        let state = log.state(GroupId(group)).unwrap_or_default();
        let flushed = last(&state).map(|(_, index)| index);
        let had = committed(&state).filter(|committed| last(&state).as_ref() < Some(committed));
        // One that cannot be read is reported when it is opened.
        let vote = recovery::vote(&state.vote).ok().flatten();
        let timeline = vote.map_or(0, |vote| timeline_of(vote.leader_id.term));
        Self {
            had: Mutex::new(had),
            received: Received::from(flushed),
            timeline: AtomicU64::new(timeline),
            superseded: AtomicU64::new(0),
            log,
            node,
            group: GroupId(group),
            bodies: GroupId(group | BODIES),
            kept: Mutex::default(),
            pins: AtomicUsize::new(0),
            turns: Default::default(),
        }
    }

    pub(crate) fn pin(self: &Arc<Self>) -> Pin {
        self.pins.fetch_add(1, Ordering::AcqRel);
        Pin(self.clone())
    }

    /// Whether a snapshot is being sent or taken in.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::Acquire) > 0
    }

    /// Entries of the Raft log from `range.start` on, without gaps, at least one if it is there.
    pub(crate) async fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        self.read_group(self.group, range, max_bytes).await
    }

    async fn read_group(
        &self,
        group: GroupId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> io::Result<Vec<Entry>> {
        if let Some(entries) = self.log.read_cached(group, range.clone(), max_bytes) {
            return Ok(entries);
        }
        let log = self.log.clone();
        blocking(move || log.read(group, range, max_bytes).map_err(io::Error::other)).await
    }

    /// The entry at `index` with its body, from either place.
    pub(crate) async fn body(&self, index: u64) -> io::Result<Entry> {
        for group in [self.bodies, self.group] {
            if self.log.term_of(group, index).is_none() {
                continue;
            }
            let one = index..index + 1;
            let entries = match self.log.read_cached(group, one.clone(), 1) {
                Some(entries) => entries,
                None if !self.log.keeps_once_read(group, index) => {
                    self.read_group(group, one, 1).await?
                }
                None => {
                    let _turn = self.turns[(index % TURNS as u64) as usize].lock().await;
                    self.read_group(group, one, 1).await?
                }
            };
            if let Some(entry) = entries.into_iter().next() {
                return Ok(entry);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("the log of group {} has no entry {index}", self.group),
        ))
    }

    /// True if the body at `index` is stored under `term`, and stays: an entry of the Raft log
    /// that is not `applied` yet may be truncated.
    pub(crate) fn has(&self, index: u64, term: u64, applied: u64) -> bool {
        let stored = |group| self.log.term_of(group, index) == Some(term);
        stored(self.bodies) || (index <= applied && stored(self.group))
    }

    /// Stores bodies that came with a snapshot; they are durable when this returns.
    pub(crate) async fn put_bodies(&self, entries: Vec<Entry>) -> io::Result<()> {
        durable(|done| self.log.put(self.bodies, entries, done)).await
    }

    /// A checkpoint that covers `upto` is durable and refers to the entries in `live`.
    pub(crate) fn checkpointed(&self, upto: u64, live: Vec<RangeInclusive<u64>>) {
        *self.kept.lock().expect("no panic while held") = Kept { upto, live };
        self.release();
    }

    /// The entries that the last durable checkpoint refers to.
    pub(crate) fn kept_live(&self) -> Vec<RangeInclusive<u64>> {
        self.kept.lock().expect("no panic while held").live.clone()
    }

    /// Lets go of what neither Raft nor the last durable checkpoint needs.
    pub(crate) fn release(&self) {
        if self.is_pinned() {
            return;
        }
        let kept = self.kept.lock().expect("no panic while held");
        self.log.retain(self.group, kept.upto, &kept.live);
        self.log.retain(self.bodies, kept.upto, &kept.live);
    }

    /// The groups that have anything stored in a node's log.
    pub(crate) fn stored(log: &Log) -> BTreeSet<u64> {
        log.groups().into_iter().map(|group| group.0 & !BODIES).collect()
    }

    /// The position up to which this replica once had the log, while it has less: it has left its node and come
    /// back, or a crash came while it installed a snapshot. Its place in majorities of then counts on what it
    /// had: until it has as much again it must not lead, nor have one lead that has less.
    pub(crate) fn had(&self) -> Option<Had> {
        if planted::is(Bug::ForgetWhatItHad) {
            return None;
        }
        let mut had = self.had.lock().expect("no panic while held");
        if had.is_some() {
            let last = self.log.state(self.group).and_then(|state| last(&state));
            *had = had.filter(|had| last.as_ref() < Some(had));
        }
        *had
    }

    /// The timeline that its vote is of; see [`recovery`](crate::recovery).
    pub(crate) fn timeline(&self) -> u64 {
        self.timeline.load(Ordering::Acquire)
    }

    /// Saves a vote; it is durable when this returns.
    pub(crate) async fn save_vote(&self, vote: &Vote) -> io::Result<()> {
        // Before anybody hears of it.
        self.timeline.fetch_max(timeline_of(vote.leader_id.term), Ordering::AcqRel);
        let vote = codec::encode_vote(vote);
        durable(|done| self.log.save_vote(self.group, vote, done)).await
    }

    /// Whether nothing was ever appended here, or nothing since the replica forgot its log.
    pub(crate) fn is_blank(&self) -> bool {
        self.log.state(self.group).is_none_or(|state| last(&state).is_none())
    }

    /// Notes that a leader of a later timeline was heard of, which this replica cannot follow with what it has.
    pub(crate) fn supersede(&self, timeline: u64) {
        self.superseded.fetch_max(timeline, Ordering::AcqRel);
    }

    /// The timeline that this replica has missed, if it was heard of.
    pub(crate) fn superseded(&self) -> Option<u64> {
        Some(self.superseded.load(Ordering::Acquire)).filter(|later| *later > self.timeline())
    }

    /// Forgets the replica, but for its vote and how much it had.
    pub(crate) async fn reset(&self) -> io::Result<()> {
        let state = self.log.state(self.group).unwrap_or_default();
        let had = last(&state).max(committed(&state)).max(self.had());
        *self.had.lock().expect("no panic while held") = had;
        let mut bytes = BytesMut::new();
        codec::put_log_id(had.map(|(term, index)| log_id(term, index)).as_ref(), &mut bytes);
        durable(|done| self.log.reset_group(self.group, bytes.freeze(), done)).await?;
        self.log.retain(self.bodies, u64::MAX, &[]);
        self.received.flushed(None);
        Ok(())
    }

    /// Forgets the replica for ever.
    pub(crate) async fn remove(&self) -> io::Result<()> {
        for group in [self.group, self.bodies] {
            durable(|done| self.log.remove_group(group, done)).await?;
        }
        Ok(())
    }
}

/// A position in a log, the later one being the greater: term, index.
pub(crate) type Had = (u64, u64);

fn last(state: &GroupState) -> Option<Had> {
    state.last.or(state.purged).map(|(index, term)| (term, index))
}

fn committed(state: &GroupState) -> Option<Had> {
    let committed = codec::decode_log_id(&state.committed).ok().flatten()?;
    Some((term_of(&committed), committed.index))
}

/// Queues an operation of the log and waits until it is durable.
pub(crate) async fn durable(queue: impl FnOnce(Done)) -> io::Result<()> {
    let (send, receive) = oneshot::channel();
    queue(Box::new(move |result| {
        let _ = send.send(result);
    }));
    match receive.await {
        Ok(result) => result.map_err(io::Error::other),
        Err(_) => Err(io::Error::other("the log's writer has ended")),
    }
}
