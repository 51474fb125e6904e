//! The handle that the rest of the node holds.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use bytes::Bytes;

use super::recover;
use super::segment::Usage;
use super::state::{Shared, State};
use super::{
    Done, Entry, GroupId, GroupState, INDEX_MAX, LogError, OpenError, Options, ReadError, Stats,
    Writer,
};
use crate::disk::Disk;

/// A cheap handle of the node-wide log; may be used from any thread.
///
/// Changes are visible to reads when the call returns, and durable when their `done` is called. A
/// refused operation changes nothing and calls its `done` before it returns.
#[derive(Clone)]
pub struct Log {
    pub(super) shared: Arc<Shared>,
}

impl Log {
    /// Opens the log in `disk` and recovers what it holds. Nothing is written until the writer
    /// runs; what an earlier process left unflushed at the end is flushed.
    ///
    /// # Errors
    /// See [`OpenError`]; the files are left as they are.
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<(Log, Writer), OpenError> {
        options.validate()?;
        let (state, end) = recover::recover(disk.as_ref(), &options)?;
        let shared = Arc::new(Shared::new(disk, options, state));
        let writer = Writer::new(shared.clone(), end);
        Ok((Log { shared }, writer))
    }

    /// All groups that are known, in order.
    pub fn groups(&self) -> Vec<GroupId> {
        self.shared.lock().groups.keys().copied().collect()
    }

    /// The state of a group; `None` if nothing was ever stored for it, or it was removed.
    pub fn state(&self, group: GroupId) -> Option<GroupState> {
        self.shared.lock().groups.get(&group).map(|group| group.state.clone())
    }

    /// Appends to the Raft log of `group`, right after its last entry (anywhere if it has none).
    pub fn append(&self, group: GroupId, entries: Vec<Entry>, done: Done) {
        let limit = self.shared.options.max_payload_bytes();
        self.submit(group, done, |state| {
            state.check_contiguous(group, &entries)?;
            check_entries(group, &entries, limit)?;
            Ok(move |state: &mut State, done| state.store(group, entries, true, done))
        });
    }

    /// Stores entries at any index, in any order, without touching the Raft log's end. No
    /// truncation drops them; an append at their index replaces them.
    pub fn put(&self, group: GroupId, entries: Vec<Entry>, done: Done) {
        let limit = self.shared.options.max_payload_bytes();
        self.submit(group, done, |_| {
            check_entries(group, &entries, limit)?;
            Ok(move |state: &mut State, done| state.store(group, entries, false, done))
        });
    }

    /// Saves the vote.
    pub fn save_vote(&self, group: GroupId, vote: Bytes, done: Done) {
        self.submit(group, done, |_| {
            Ok(move |state: &mut State, done| {
                state.groups.entry(group).or_default().state.vote = vote;
                state.enqueue_state(group, Some(done));
            })
        });
    }

    /// Saves the committed position. It causes no flush: it rides with the next batch.
    pub fn save_committed(&self, group: GroupId, committed: Bytes) {
        let mut state = self.shared.lock();
        if state.check(group).is_ok() {
            state.groups.entry(group).or_default().state.committed = committed;
            state.dirty.insert(group);
        }
    }

    /// Drops the Raft entries above `after` (all for `None`), never below the floor.
    pub fn truncate_after(&self, group: GroupId, after: Option<(u64, u64)>, done: Done) {
        self.submit(group, done, |_| {
            Ok(move |state: &mut State, done| state.truncate_after(group, after, done))
        });
    }

    /// Moves the Raft floor to `upto`, and the last entry too if it is below. Entries at or below
    /// stay stored until [`Log::retain`].
    pub fn purge(&self, group: GroupId, upto: (u64, u64), done: Done) {
        self.submit(group, done, |_| {
            Ok(move |state: &mut State, done| state.purge(group, upto, done))
        });
    }

    /// Says, after a durable checkpoint, that of the entries with an index of at most `upto` (and
    /// at most the Raft floor, if the group has a Raft log) only those in `keep` are needed.
    /// `keep` is sorted and disjoint. Nothing is recorded: after a restart entries outside of
    /// `keep` may be back, even from before a truncation, until this is called again.
    pub fn retain(&self, group: GroupId, upto: u64, keep: &[RangeInclusive<u64>]) {
        let mut state = self.shared.lock();
        state.retain(group, upto, keep);
        let waiting = state.waiting_for_space;
        drop(state);
        self.shared.upkeep.notify_all();
        if waiting {
            self.shared.notify(true);
        }
    }

    /// Forgets the Raft log of a group with its floor, as if nothing had ever been appended. Its vote stays, and
    /// its committed position is `committed` from now on.
    pub fn reset_group(&self, group: GroupId, committed: Bytes, done: Done) {
        self.submit(group, done, |_| {
            Ok(move |state: &mut State, done| state.reset_group(group, committed, done))
        });
    }

    /// Forgets a group for ever. Its id is not to be used again.
    pub fn remove_group(&self, group: GroupId, done: Done) {
        self.submit(group, done, |_| {
            Ok(move |state: &mut State, done| state.remove_group(group, done))
        });
    }

    /// Reads from memory alone: `None` if any entry of `range` up to `max_bytes` of payload is
    /// not stored or not cached. At least one entry is returned otherwise, unless `range` is
    /// empty.
    pub fn read_cached(
        &self,
        group: GroupId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Option<Vec<Entry>> {
        self.shared.lock().read_cached(group, range, max_bytes)
    }

    /// Reads entries from `range.start` on, without a gap, up to `max_bytes` of payload but at
    /// least one; empty if the first is not stored. May block on the device.
    ///
    /// # Errors
    /// A damaged record is reported, never returned and never skipped.
    pub fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        let plan = self.shared.lock().plan_read(group, range, max_bytes);
        let entries = plan.run().inspect_err(|error| self.shared.withdraw_table(error))?;
        // One that is read by itself is most likely to be delivered, in parts.
        if let [entry] = entries.as_slice() {
            let mut state = self.shared.lock();
            state.recent.insert(group, entry);
            let stored = state.groups.get_mut(&group);
            if let Some(slot) = stored.and_then(|group| group.index.get_mut(entry.index)) {
                slot.was_read = true;
            }
        }
        Ok(entries)
    }

    /// Whether the entry is stored, and kept in memory for a while once [`Log::read`] has read it by
    /// itself.
    pub fn keeps_once_read(&self, group: GroupId, index: u64) -> bool {
        let state = self.shared.lock();
        let slot = state.groups.get(&group).and_then(|group| group.index.get(index));
        slot.is_some_and(|slot| state.recent.keeps(slot.payload_bytes as usize))
    }

    /// The term of a stored entry.
    pub fn term_of(&self, group: GroupId, index: u64) -> Option<u64> {
        Some(self.shared.lock().groups.get(&group)?.index.get(index)?.term)
    }

    /// Payload bytes of a group's stored entries from `index` on, of the first `most` of them.
    pub fn bytes_from(&self, group: GroupId, index: u64, most: usize) -> u64 {
        let state = self.shared.lock();
        let Some(group) = state.groups.get(&group) else { return 0 };
        let slots = group.index.iter_from(index).take(most);
        slots.map(|(_, slot)| u64::from(slot.payload_bytes)).sum()
    }

    /// The stored ranges of a group, for verification.
    pub fn indexes(&self, group: GroupId) -> Vec<RangeInclusive<u64>> {
        self.shared.lock().groups.get(&group).map(|g| g.index.ranges()).unwrap_or_default()
    }

    /// Figures; walks all groups.
    pub fn stats(&self) -> Stats {
        let state = self.shared.lock();
        let file_bytes = |file: &dyn crate::disk::File| file.len();
        let of = |u: &Usage| file_bytes(u.segment.file.as_ref()) + u.table.file_bytes();
        let used: u64 = state.segments.values().map(of).sum();
        let spare: u64 = state.spares.iter().map(|s| file_bytes(s.file.as_ref())).sum();
        Stats {
            segments: state.segments.len(),
            spare_segments: state.spares.len(),
            live_bytes: state.segments.values().map(|usage| usage.live).sum(),
            disk_bytes: used + spare,
            written_bytes: state.counters.written_bytes,
            payload_bytes: state.counters.payload_bytes,
            flushes: state.counters.flushes,
            records: state.counters.records,
            copied_bytes: state.counters.copied_bytes,
            tail_bytes: state.tail.held_bytes(),
            queued_bytes: state.queued_bytes,
            entries: state.groups.values().map(|group| group.index.len()).sum(),
            free_bytes: state.free_bytes,
            waiting_for_space: state.waiting_for_space,
            poisoned: state.poison.is_some(),
        }
    }

    /// Bytes free on the file system, as the writer saw them last (about a second old).
    pub fn free_bytes(&self) -> u64 {
        self.shared.lock().free_bytes
    }

    /// The failure that ended this log, if one did.
    pub fn poisoned(&self) -> Option<LogError> {
        self.shared.lock().poison.clone()
    }

    /// Refuses further operations and lets [`Writer::run`] end once the queue is written.
    pub fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.upkeep.notify_all();
        self.shared.notify(true);
    }

    /// `waker` is called whenever something is queued: for a driver that steps the writer.
    pub fn on_work(&self, waker: Box<dyn Fn() + Send + Sync>) {
        self.shared.set_waker(waker.into());
    }

    /// Runs `prepare` under the lock and, if it agrees, the change that it returns.
    fn submit<F>(
        &self,
        group: GroupId,
        done: Done,
        prepare: impl FnOnce(&State) -> Result<F, LogError>,
    ) where
        F: FnOnce(&mut State, Done),
    {
        let mut state = self.shared.lock();
        match state.check(group).and_then(|()| prepare(&state)) {
            Ok(change) => {
                change(&mut state, done);
                let writer_sleeps = std::mem::take(&mut state.writer_sleeps);
                drop(state);
                self.shared.notify(writer_sleeps);
            }
            Err(error) => {
                drop(state);
                done(Err(error));
            }
        }
    }
}

fn check_entries(group: GroupId, entries: &[Entry], limit: usize) -> Result<(), LogError> {
    for Entry { index, payload, .. } in entries {
        let (index, bytes) = (*index, payload.len());
        if bytes > limit {
            return Err(LogError::TooLarge { group, index, bytes, limit });
        }
        if index > INDEX_MAX {
            return Err(LogError::IndexTooHigh { group, index });
        }
    }
    Ok(())
}
