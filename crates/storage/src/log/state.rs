//! What all handles of a log share: the index, the tail, the queue, the use of the segments.
//!
//! An operation changes memory and joins the queue under one lock, so the order of the queue is
//! the order in which memory changed. Places on disk follow when the batch is durable (`drain`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::format::{Kind, Record};
use super::index::{Index, Place, Slot};
use super::recent::Recent;
use super::segment::{self, Spare, Table, Usage};
use super::tail::Tail;
use super::upkeep::CopyJob;
use super::{Done, Entry, GroupId, GroupState, LogError, Options, ReadError};
use crate::disk::Disk;

type Waker = Arc<dyn Fn() + Send + Sync>;

/// Shared by [`Log`](super::Log), [`Writer`](super::Writer) and the upkeep thread.
pub struct Shared {
    pub disk: Arc<dyn Disk>,
    pub options: Options,
    state: Mutex<State>,
    /// The writer waits here for work, spares and the end.
    pub work: Condvar,
    /// The upkeep thread waits here.
    pub upkeep: Condvar,
    waker: Mutex<Option<Waker>>,
}

impl Shared {
    pub fn new(disk: Arc<dyn Disk>, options: Options, state: State) -> Shared {
        Shared {
            disk,
            options,
            state: Mutex::new(state),
            work: Condvar::new(),
            upkeep: Condvar::new(),
            waker: Mutex::new(None),
        }
    }

    /// A panic of another holder cannot leave the state half changed in a way that reaches the
    /// disk: the writer would have panicked too, and then nothing is acknowledged any more.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_waker(&self, waker: Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    /// After damage was read: the table of contents of that segment goes, so that the next start
    /// scans the segment and reports the damage instead of going on without knowing.
    pub fn withdraw_table(&self, error: &ReadError) {
        let ReadError::Damaged { file, .. } = error else { return };
        let Some(sequence) = segment::parse_segment_name(file) else { return };
        if let Some(usage) = self.lock().segments.get_mut(&(sequence as u32)) {
            usage.table = Table::None;
        }
        let removed = self.disk.remove(&segment::table_name(sequence));
        if let Err(error) = removed.and_then(|()| self.disk.sync_dir())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, file, "table of contents of a damaged segment is not removed");
        }
    }

    /// Says that there is work. Called without the lock. `writer_sleeps`, as it was under the lock,
    /// saves a system call for each operation that arrives while the writer is busy.
    pub fn notify(&self, writer_sleeps: bool) {
        if writer_sleeps {
            self.work.notify_all();
        }
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker();
        }
    }
}

/// What an operation in the queue writes.
pub enum Work {
    Records(VecDeque<Record<Bytes>>),
    State { group: GroupId, state: GroupState },
    Tombstone { group: GroupId },
    Copy(CopyJob),
}

/// An operation in the queue.
pub struct Queued {
    pub op: u64,
    pub work: Work,
    pub done: Option<Done>,
    pub bytes: usize,
}

/// One group in memory.
#[derive(Default)]
pub struct Group {
    pub index: Index,
    /// As of the last operation queued.
    pub state: GroupState,
    /// As of the last operation given to a batch: what a fresh `State` record may say.
    pub written: GroupState,
    /// The newest durable `State` record, with its size in bytes.
    pub state_at: Option<(Place, u64)>,
    /// The last operation queued that writes the state.
    pub state_op: u64,
}

/// A removed group whose records may still lie in segments before `origin`.
pub struct Removed {
    pub origin: u64,
    /// The operation that removed it.
    pub op: u64,
    pub at: Option<(Place, u64)>,
}

/// Counters for [`Stats`](super::Stats).
#[derive(Default)]
pub struct Counters {
    pub written_bytes: u64,
    pub payload_bytes: u64,
    pub flushes: u64,
    pub records: u64,
    pub copied_bytes: u64,
}

/// Everything behind the lock.
pub struct State {
    pub groups: BTreeMap<GroupId, Group>,
    pub removed: BTreeMap<GroupId, Removed>,
    pub segments: BTreeMap<u32, Usage>,
    pub spares: Vec<Spare>,
    pub next_spare: u64,
    /// Tables of contents that belong to no segment, to be removed.
    pub stale_tables: Vec<String>,
    pub tail: Tail,
    /// Read from the disk.
    pub recent: Recent,
    pub queue: VecDeque<Queued>,
    pub queued_bytes: usize,
    pub last_op: u64,
    pub durable_op: u64,
    /// Groups whose `committed` waits for a batch to ride with.
    pub dirty: BTreeSet<GroupId>,
    pub counters: Counters,
    pub free_bytes: u64,
    /// The last attempt to pre-write a segment failed.
    pub spare_refused: bool,
    pub waiting_for_space: bool,
    pub poison: Option<LogError>,
    pub closing: bool,
    pub ended: bool,
    /// The writer waits for work, or for a segment.
    pub writer_sleeps: bool,
    /// The writer cannot go on without a new segment.
    pub starved: bool,
}

impl State {
    pub fn new(tail_bytes: usize) -> State {
        State {
            groups: BTreeMap::new(),
            removed: BTreeMap::new(),
            segments: BTreeMap::new(),
            spares: Vec::new(),
            next_spare: 0,
            stale_tables: Vec::new(),
            tail: Tail::new(tail_bytes),
            recent: Recent::new(tail_bytes / 4),
            queue: VecDeque::new(),
            queued_bytes: 0,
            last_op: 0,
            durable_op: 0,
            dirty: BTreeSet::new(),
            counters: Counters::default(),
            free_bytes: 0,
            spare_refused: false,
            waiting_for_space: false,
            poison: None,
            closing: false,
            ended: false,
            writer_sleeps: false,
            starved: false,
        }
    }

    /// Whether operations on `group` are accepted.
    pub fn check(&self, group: GroupId) -> Result<(), LogError> {
        if let Some(poison) = &self.poison {
            return Err(poison.clone());
        }
        if self.closing || self.ended {
            return Err(LogError::Closed);
        }
        if self.removed.contains_key(&group) {
            return Err(LogError::Removed { group });
        }
        Ok(())
    }

    /// Appends an operation to the queue; returns its number.
    pub fn enqueue(&mut self, work: Work, bytes: usize, done: Option<Done>) -> u64 {
        self.last_op += 1;
        self.queued_bytes += bytes;
        self.queue.push_back(Queued { op: self.last_op, work, done, bytes });
        self.last_op
    }

    /// Queues a `State` record with what memory says now.
    pub fn enqueue_state(&mut self, group: GroupId, done: Option<Done>) {
        let state = self.groups.entry(group).or_default().state.clone();
        let bytes = state.vote.len() + state.committed.len();
        let op = self.enqueue(Work::State { group, state }, bytes, done);
        self.groups.entry(group).or_default().state_op = op;
    }

    /// Checks that a Raft append follows the last entry.
    pub fn check_contiguous(&self, group: GroupId, entries: &[Entry]) -> Result<(), LogError> {
        let last = self.groups.get(&group).and_then(|group| group.state.last);
        let mut expected = last.map(|(index, _)| index + 1);
        for entry in entries {
            let expected_here = expected.unwrap_or(entry.index);
            if entry.index != expected_here {
                let got = entry.index;
                return Err(LogError::NotContiguous { group, expected: expected_here, got });
            }
            expected = Some(entry.index + 1);
        }
        Ok(())
    }

    /// Queues entries and makes them readable. `raft`: they extend the Raft log.
    pub fn store(&mut self, id: GroupId, entries: Vec<Entry>, raft: bool, done: Done) {
        let payload_bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
        self.counters.payload_bytes += payload_bytes as u64;
        let group = self.groups.entry(id).or_default();
        if raft && let Some(entry) = entries.last() {
            group.state.last = Some((entry.index, entry.term));
        }
        let mut records = VecDeque::with_capacity(entries.len());
        for entry in &entries {
            let was_raft = group.index.get(entry.index).is_some_and(|slot| slot.raft);
            let kind = match (raft, was_raft) {
                (true, _) => Kind::Entry,
                (false, true) => Kind::Copy,
                (false, false) => Kind::Put,
            };
            records.push_back(Record {
                kind,
                group: id,
                index: entry.index,
                term: entry.term,
                payload: entry.payload.clone(),
            });
        }
        let kinds: Vec<Kind> = records.iter().map(|record| record.kind).collect();
        let op = self.enqueue(Work::Records(records), payload_bytes, Some(done));
        for (entry, kind) in entries.into_iter().zip(kinds) {
            self.place_pending(id, op, kind, entry);
        }
        self.tail.evict(self.durable_op);
    }

    fn place_pending(&mut self, id: GroupId, op: u64, kind: Kind, entry: Entry) {
        let slot = Slot {
            term: entry.term,
            place: Place::pending(op),
            payload_bytes: entry.payload.len() as u32,
            raft: kind != Kind::Put,
            was_read: false,
        };
        let replaced = self.groups.entry(id).or_default().index.set(entry.index, slot);
        if let Some(old) = replaced {
            self.release(old.place, old.record_bytes(), op);
        }
        self.tail.insert(id, entry.index, op, entry.payload);
    }

    /// A record is no longer needed, once operation `barrier` is durable.
    pub fn release(&mut self, place: Place, bytes: u64, barrier: u64) {
        if let Some(usage) = self.segments.get_mut(&place.segment) {
            assert!(usage.live >= bytes, "a record is released once");
            usage.live -= bytes;
            usage.barrier = usage.barrier.max(barrier);
        }
    }

    /// A record at `place` is needed.
    pub fn claim(&mut self, place: Place, bytes: u64) {
        if let Some(usage) = self.segments.get_mut(&place.segment) {
            usage.live += bytes;
        }
    }

    pub fn truncate_after(&mut self, id: GroupId, after: Option<(u64, u64)>, done: Done) {
        let group = self.groups.entry(id).or_default();
        let bound = after.max(group.state.purged);
        if bound.map(|b| b.0) < group.state.last.map(|l| l.0) {
            group.state.last = bound;
        }
        self.enqueue_state(id, Some(done));
        self.drop_raft_above(id, bound.map(|(index, _)| index));
    }

    /// Removes the Raft entries above `after` from memory.
    pub fn drop_raft_above(&mut self, id: GroupId, after: Option<u64>) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let mut dropped = Vec::new();
        group.index.truncate(after, |index, slot| dropped.push((index, slot)));
        self.forget(id, dropped);
    }

    fn forget(&mut self, id: GroupId, dropped: Vec<(u64, Slot)>) {
        // What is dropped is dropped because of a state: truncated by it, or below its floor.
        let barrier = self.groups.get(&id).map_or(0, |group| group.state_op);
        for (index, slot) in dropped {
            self.release(slot.place, slot.record_bytes(), barrier);
            self.tail.remove(id, index);
        }
    }

    pub fn purge(&mut self, id: GroupId, upto: (u64, u64), done: Done) {
        let state = &mut self.groups.entry(id).or_default().state;
        if state.purged.is_none_or(|purged| purged.0 < upto.0) {
            state.purged = Some(upto);
        }
        if state.last.is_none_or(|last| last.0 < upto.0) {
            state.last = Some(upto);
        }
        self.enqueue_state(id, Some(done));
    }

    pub fn retain(&mut self, id: GroupId, upto: u64, keep: &[RangeInclusive<u64>]) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let limit = match (group.state.last, group.state.purged) {
            (None, _) => upto,
            (Some(_), Some((floor, _))) => upto.min(floor),
            (Some(_), None) => return,
        };
        let mut dropped = Vec::new();
        group.index.retain(limit, keep, |index, slot| dropped.push((index, slot)));
        self.forget(id, dropped);
    }

    pub fn reset_group(&mut self, id: GroupId, committed: Bytes, done: Done) {
        let state = &mut self.groups.entry(id).or_default().state;
        let vote = std::mem::take(&mut state.vote);
        *state = GroupState { vote, committed, ..GroupState::default() };
        self.dirty.remove(&id);
        self.enqueue_state(id, Some(done));
        self.drop_raft_above(id, None);
    }

    pub fn remove_group(&mut self, id: GroupId, done: Done) {
        let op = self.enqueue(Work::Tombstone { group: id }, 0, Some(done));
        let group = self.groups.remove(&id).unwrap_or_default();
        for (_, slot) in group.index.iter_from(0) {
            self.release(slot.place, slot.record_bytes(), op);
        }
        if let Some((place, bytes)) = group.state_at {
            self.release(place, bytes, op);
        }
        self.tail.remove_group(id);
        self.recent.remove_group(id);
        self.dirty.remove(&id);
        self.removed.insert(id, Removed { origin: u64::MAX, op, at: None });
    }

    /// Refuses everything from now on; returns what has to be told so, outside of the lock.
    #[must_use = "the operations that wait have to be told"]
    pub fn fail(&mut self, error: LogError) -> Vec<Done> {
        self.poison.get_or_insert(error);
        self.queued_bytes = 0;
        self.queue.drain(..).filter_map(|queued| queued.done).collect()
    }
}
