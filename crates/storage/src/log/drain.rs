//! From the queue into a batch, and from a durable batch back into the index.
//!
//! Only the newest `State` of a group within a batch is written: a batch counts as a whole or not
//! at all, and what an earlier state in it cut off is cut off by the entries that follow it too.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::format::{self, Kind, RECORD_HEADER_BYTES, Record};
use super::index::Place;
use super::state::{Removed, State, Work};
use super::{Done, GroupId};
use crate::log::upkeep::CopyJob;

/// What a record of a batch changes in memory once it is durable.
enum Effect {
    Stored { op: u64 },
    Copied { from: Place },
    State,
    Tombstone,
}

/// A batch before it is written.
#[derive(Default)]
pub struct Batch {
    pub records: Vec<Record<Bytes>>,
    effects: Vec<Effect>,
    states: BTreeMap<GroupId, usize>,
    superseded: Vec<usize>,
    copies: bool,
    pub dones: Vec<Done>,
    /// Encoded bytes of the records.
    pub bytes: usize,
    /// All operations up to this one are durable with the batch.
    durable_op: u64,
}

impl Batch {
    fn push(&mut self, record: Record<Bytes>, effect: Effect) {
        self.bytes += record.encoded_len();
        self.records.push(record);
        self.effects.push(effect);
    }

    fn push_state(&mut self, group: GroupId, payload: Bytes) {
        if let Some(earlier) = self.states.insert(group, self.records.len()) {
            self.superseded.push(earlier);
        }
        self.push(Record { kind: Kind::State, group, index: 0, term: 0, payload }, Effect::State);
    }

    fn drop_superseded(&mut self) {
        if self.superseded.is_empty() {
            return;
        }
        self.superseded.sort_unstable();
        let dropped = std::mem::take(&mut self.superseded);
        let stays = |at: usize| dropped.binary_search(&at).is_err();
        let records = std::mem::take(&mut self.records);
        let effects = std::mem::take(&mut self.effects);
        let pairs = records.into_iter().zip(effects).enumerate();
        (self.records, self.effects) =
            pairs.filter(|(at, _)| stays(*at)).map(|(_, pair)| pair).unzip();
        self.bytes = self.records.iter().map(Record::encoded_len).sum();
    }

    /// Whether it moves records out of a sparse segment: the upkeep waits for that.
    pub fn copies(&self) -> bool {
        self.copies
    }

    /// Whether there is neither anything to write nor anyone to tell.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.dones.is_empty()
    }
}

/// How far a batch may grow, in encoded record bytes.
#[derive(Clone, Copy)]
pub struct Room {
    /// Preferred size; one record or copy may exceed it.
    pub preferred: usize,
    /// What still fits into the segment.
    pub segment: usize,
}

impl Room {
    fn admits(self, batch: &Batch, bytes: usize) -> bool {
        let total = batch.bytes + bytes;
        total <= self.segment && (total <= self.preferred || batch.records.is_empty())
    }
}

impl State {
    /// Takes from the queue what fits. `None`: the next thing needs a new segment.
    pub fn drain(&mut self, segment: u64, room: Room) -> Option<Batch> {
        let mut batch = Batch { durable_op: self.durable_op, ..Batch::default() };
        while let Some(mut queued) = self.queue.pop_front() {
            let all = self.take(&mut queued.work, queued.op, segment, room, &mut batch);
            if !all {
                self.queue.push_front(queued);
                break;
            }
            self.queued_bytes -= queued.bytes;
            batch.durable_op = queued.op;
            batch.dones.extend(queued.done);
        }
        if self.queue.is_empty() {
            self.take_dirty(room, &mut batch);
        }
        let stuck = !self.queue.is_empty() || (self.closing && !self.dirty.is_empty());
        if stuck && batch.is_empty() {
            return None;
        }
        batch.drop_superseded();
        Some(batch)
    }

    /// Moves as much of `work` as fits; whether that was all.
    fn take(
        &mut self,
        work: &mut Work,
        op: u64,
        segment: u64,
        room: Room,
        batch: &mut Batch,
    ) -> bool {
        match work {
            Work::Records(records) => {
                while let Some(record) = records.pop_front() {
                    if !room.admits(batch, record.encoded_len()) {
                        records.push_front(record);
                        return false;
                    }
                    self.note_written(&record);
                    batch.push(record, Effect::Stored { op });
                }
                true
            }
            Work::State { group, state } => {
                let payload = format::encode_state(state);
                let fits = room.admits(batch, RECORD_HEADER_BYTES + payload.len());
                if fits {
                    // A group removed since then is written all the same: its tombstone may come
                    // with a later batch, and a crash in between must find this.
                    if let Some(known) = self.groups.get_mut(group) {
                        known.written = state.clone();
                        self.dirty.remove(group);
                    }
                    batch.push_state(*group, payload);
                }
                fits
            }
            Work::Tombstone { group } => {
                let group = *group;
                let fits = room.admits(batch, RECORD_HEADER_BYTES);
                if fits {
                    self.push_tombstone(group, segment, batch);
                }
                fits
            }
            Work::Copy(job) => self.take_copy(job, room, batch),
        }
    }

    fn note_written(&mut self, record: &Record<Bytes>) {
        if record.kind == Kind::Entry
            && let Some(group) = self.groups.get_mut(&record.group)
        {
            group.written.last = Some((record.index, record.term));
        }
    }

    fn push_tombstone(&mut self, group: GroupId, segment: u64, batch: &mut Batch) {
        let Some(removed) = self.removed.get_mut(&group) else { return };
        removed.origin = removed.origin.min(segment);
        let record = Record {
            kind: Kind::Tombstone,
            group,
            index: removed.origin,
            term: 0,
            payload: Bytes::new(),
        };
        batch.push(record, Effect::Tombstone);
    }

    /// Copies what is still where the job found it. With the copy of a Raft entry goes the state
    /// of its group: the original, once recycled, no longer says what the last entry is.
    fn take_copy(&mut self, job: &mut CopyJob, room: Room, batch: &mut Batch) -> bool {
        let in_place = |at: Option<(Place, u64)>| {
            at.is_some_and(|(place, _)| u64::from(place.segment) == job.segment)
        };
        let mut records = Vec::new();
        let mut states: Vec<GroupId> = Vec::new();
        for (from, record) in &job.records {
            let Some(group) = self.groups.get(&record.group) else { continue };
            let Some(slot) = group.index.get(record.index).filter(|s| s.place == *from) else {
                continue;
            };
            let kind = if slot.raft { Kind::Copy } else { Kind::Put };
            records.push((*from, Record { kind, ..record.clone() }));
            if slot.raft {
                states.push(record.group);
            }
        }
        let moved = |id: &&GroupId| self.groups.get(id).is_some_and(|g| in_place(g.state_at));
        states.extend(job.states.iter().filter(moved));
        states.sort_unstable();
        states.dedup();
        let encoded: Vec<(GroupId, Bytes)> = states
            .iter()
            .filter_map(|id| Some((*id, format::encode_state(&self.groups.get(id)?.written))))
            .collect();
        let tombstones: Vec<(GroupId, u64)> = job
            .tombstones
            .iter()
            .filter_map(|id| self.removed.get(id).map(|removed| (*id, removed)))
            .filter(|(_, removed)| in_place(removed.at))
            .map(|(id, removed)| (id, removed.origin))
            .collect();
        let bytes: usize = records.iter().map(|(_, record)| record.encoded_len()).sum::<usize>()
            + encoded.iter().map(|(_, state)| RECORD_HEADER_BYTES + state.len()).sum::<usize>()
            + tombstones.len() * RECORD_HEADER_BYTES;
        if bytes > 0 && !room.admits(batch, bytes) {
            return false;
        }
        self.counters.copied_bytes += bytes as u64;
        batch.copies = true;
        for (from, record) in records {
            batch.push(record, Effect::Copied { from });
        }
        for (group, payload) in encoded {
            batch.push_state(group, payload);
        }
        for (group, origin) in tombstones {
            self.push_tombstone(group, origin, batch);
        }
        true
    }

    /// Committed positions ride with a batch that empties the queue: then every entry that they
    /// can speak of is in this batch or before it.
    fn take_dirty(&mut self, room: Room, batch: &mut Batch) {
        let rides = !batch.records.is_empty() || self.closing;
        while rides && let Some(id) = self.dirty.pop_first() {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let payload = format::encode_state(&group.state);
            if !room.admits(batch, RECORD_HEADER_BYTES + payload.len()) {
                self.dirty.insert(id);
                break;
            }
            group.written = group.state.clone();
            batch.push_state(id, payload);
        }
    }

    /// Takes over the places of a durable batch that starts at `base` of `segment`; `offsets` are
    /// those of its records. Returns whom to tell, outside of the lock.
    #[must_use = "the operations that wait have to be told"]
    pub fn complete(
        &mut self,
        batch: Batch,
        segment: u32,
        base: u32,
        offsets: &[u32],
    ) -> Vec<Done> {
        self.counters.records += batch.records.len() as u64;
        for ((record, effect), offset) in batch.records.iter().zip(&batch.effects).zip(offsets) {
            let place = Place { segment, offset: base + offset };
            self.settle(record, effect, place);
        }
        self.durable_op = self.durable_op.max(batch.durable_op);
        self.tail.evict(self.durable_op);
        batch.dones
    }

    fn settle(&mut self, record: &Record<Bytes>, effect: &Effect, place: Place) {
        let bytes = record.encoded_len() as u64;
        let was = match effect {
            Effect::Stored { op } => Place::pending(*op),
            Effect::Copied { from } => *from,
            Effect::State => return self.settle_state(record, place, bytes),
            Effect::Tombstone => return self.settle_tombstone(record.group, place, bytes),
        };
        let slot = self
            .groups
            .get_mut(&record.group)
            .and_then(|group| group.index.get_mut(record.index))
            .filter(|slot| slot.place == was);
        match slot {
            Some(slot) => {
                slot.place = place;
                self.claim(place, bytes);
                self.release(was, bytes, 0);
            }
            None => self.dead_at_birth(record, place),
        }
    }

    /// A record that a queued operation has made superfluous while it was written: until that
    /// operation is durable, too, a crash would need it.
    fn dead_at_birth(&mut self, record: &Record<Bytes>, place: Place) {
        let id = record.group;
        let group = self.groups.get(&id);
        let replaced = group.is_some_and(|group| group.index.get(record.index).is_some());
        let barrier = match (group, self.removed.get(&id)) {
            (Some(group), _) if !replaced => group.state_op,
            (None, Some(removed)) => removed.op,
            _ => self.last_op,
        };
        self.release(place, 0, barrier);
    }

    fn settle_state(&mut self, record: &Record<Bytes>, place: Place, bytes: u64) {
        let Some(group) = self.groups.get_mut(&record.group) else {
            return self.dead_at_birth(record, place);
        };
        let old = group.state_at.replace((place, bytes));
        self.claim(place, bytes);
        if let Some((old, bytes)) = old {
            self.release(old, bytes, 0);
        }
    }

    fn settle_tombstone(&mut self, id: GroupId, place: Place, bytes: u64) {
        let Some(Removed { at, .. }) = self.removed.get_mut(&id) else { return };
        let old = at.replace((place, bytes));
        self.claim(place, bytes);
        if let Some((old, bytes)) = old {
            self.release(old, bytes, 0);
        }
    }
}
