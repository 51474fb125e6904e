//! What keeps the disk bounded: recycling, copying forward, pre-writing; and tables of contents.
//!
//! ```text
//!  sealed segment ── live = 0 ───────────────► spare (renamed) or removed
//!        ├── live < 25 % ── live records copied into the queue ── durable ── live = 0 ──┘
//!        └── its table of contents is written beside it, and goes when it goes
//! ```
//!
//! In production a thread beside the writer makes the passes; a stepped writer makes them itself.
//! A segment goes only when nobody reads it, no record in it is needed, and every operation that
//! made its records superfluous is durable (its barrier): otherwise a crash could bring back a
//! state that needs what is gone. Renames and removals are durable before anything relies on them,
//! so a tombstone expires only after the segments before it are really away. Tables of contents are
//! written here so that the writer does not wait for them, and without a flush, for which its own
//! would wait; nothing relies on them, so what fails around one is logged and no more.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{Kind, Record};
use super::index::Place;
use super::read;
use super::segment::{self, Segment, Spare, Table, Usage};
use super::state::{Shared, State, Work};
use super::{GroupId, LogError};

/// A sealed segment with less than this share of live bytes is copied forward.
const COPY_BELOW_PERCENT: u64 = 25;
/// A spare is written with zeros until the log has grown by this share of a segment meanwhile.
const GROWTH_SHARE: u64 = 64;
/// Most payload that one copy takes, in bytes; and never more than a quarter of a segment.
const COPY_BYTES: u64 = 1 << 20;
/// Most slots looked at under one hold of the lock.
const SCAN_SLOTS: usize = 64 << 10;

/// Live records on their way out of a sparse segment.
pub struct CopyJob {
    pub segment: u64,
    pub records: Vec<(Place, Record<Bytes>)>,
    pub states: Vec<GroupId>,
    pub tombstones: Vec<GroupId>,
}

/// A walk over all groups for what lies in one segment.
struct Walk {
    segment: u32,
    next: Option<(GroupId, u64)>,
    /// The last copy queued; the next one is made when it is durable.
    op: u64,
}

/// What one look at the index found.
#[derive(Default)]
struct Found {
    records: Vec<(Place, GroupId, u64, u64, u64)>,
    states: Vec<GroupId>,
    tombstones: Vec<GroupId>,
    next: Option<(GroupId, u64)>,
}

/// The upkeep of one log.
pub struct Upkeep {
    shared: Arc<Shared>,
    walk: Option<Walk>,
}

impl Upkeep {
    pub fn new(shared: Arc<Shared>) -> Upkeep {
        Upkeep { shared, walk: None }
    }

    /// Everything that is due, but of the tables of contents one. Errors of the device poison the
    /// log, except those of making a spare, for which one waits, and those around tables.
    pub fn pass(&mut self) {
        if self.shared.lock().poison.is_some() {
            return;
        }
        if let Err(error) = self.recycle() {
            self.poison("recycle a segment", &error);
            return;
        }
        self.refill();
        self.write_table();
        self.copy_forward();
    }

    /// Looks up the free space.
    pub fn refresh_free_bytes(&self) {
        if let Ok(bytes) = self.shared.disk.free_bytes() {
            self.shared.lock().free_bytes = bytes;
        }
    }

    fn poison(&self, action: &str, error: &io::Error) {
        let reason = format!("{action}: {error}");
        let dones = self.shared.lock().fail(LogError::Poisoned { reason: reason.clone() });
        for done in dones {
            done(Err(LogError::Poisoned { reason: reason.clone() }));
        }
        self.shared.work.notify_all();
    }

    fn recycle(&mut self) -> io::Result<()> {
        let stale = std::mem::take(&mut self.shared.lock().stale_tables);
        stale.iter().for_each(|name| self.remove_table(name));
        let freed = self.shared.lock().take_recyclable();
        let unusable = self.shared.lock().take_unusable_spares();
        if freed.is_empty() && unusable.is_empty() {
            return Ok(());
        }
        for spare in &unusable {
            self.shared.disk.remove(&spare.name)?;
        }
        let mut spares = Vec::new();
        for usage in freed {
            if let Table::Filed(_) = usage.table {
                self.remove_table(&segment::table_name(usage.segment.header.segment));
            }
            let spare = self.retire(usage.segment, spares.len())?;
            spares.extend(spare);
        }
        self.shared.disk.sync_dir()?;
        let mut state = self.shared.lock();
        state.spares.extend(spares);
        state.expire_tombstones();
        drop(state);
        self.shared.work.notify_all();
        Ok(())
    }

    /// Makes a spare of a segment, or removes it if there are enough; `more` were made and are not
    /// counted yet.
    fn retire(&self, segment: Arc<Segment>, more: usize) -> io::Result<Option<Spare>> {
        let Some(segment) = Arc::into_inner(segment) else {
            return Err(io::Error::other("a segment being recycled is still read"));
        };
        let name = {
            let mut state = self.shared.lock();
            let spares = state.spares.len() + more;
            let enough = spares >= self.shared.options.spare_segments.max(1);
            let usable = segment.file.len() == self.shared.options.segment_bytes;
            if enough || !usable { None } else { Some(state.new_spare_name()) }
        };
        match name {
            None => {
                self.shared.disk.remove(&segment.name)?;
                Ok(None)
            }
            Some(name) => {
                self.shared.disk.rename(&segment.name, &name)?;
                Ok(Some(Spare { name, file: segment.file, usable: true }))
            }
        }
    }

    /// Writes the first table of contents that is due.
    fn write_table(&self) {
        let Some((segment, table)) = self.shared.lock().take_due_table() else { return };
        let name = segment::table_name(u64::from(segment));
        let bytes = table.len() as u64;
        let written = self.shared.disk.write_unflushed(&name, &table);
        let mut state = self.shared.lock();
        let Some(usage) = state.segments.get_mut(&segment) else { return };
        match written {
            Ok(()) if matches!(usage.table, Table::Filed(_)) => {
                state.counters.written_bytes += bytes;
                return;
            }
            // Damage was read meanwhile.
            Ok(()) => {}
            Err(error) => {
                usage.table = Table::None;
                tracing::warn!(%error, file = name, "the next start will scan this segment");
            }
        }
        drop(state);
        self.remove_table(&name);
    }

    fn remove_table(&self, name: &str) {
        if let Err(error) = self.shared.disk.remove(name)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, file = name, "a table of contents is not removed");
        }
    }

    /// Pre-writes spares when less than half of them are left. Recycling normally keeps up, so a
    /// log that is trimmed as it grows does not take more than its first files.
    fn refill(&self) {
        let wanted = self.shared.options.spare_segments.max(1);
        let (have, empty) = {
            let state = self.shared.lock();
            let coming = if state.starved { 0 } else { state.count_sparse() };
            (state.spares.len() + coming, state.segments.is_empty())
        };
        let low = if empty { wanted } else { wanted.div_ceil(2) };
        for _ in have..low {
            if !self.make_spare() {
                return;
            }
        }
    }

    /// Pre-writes one spare; false if the device has no room (or another reason not to).
    pub fn make_spare(&self) -> bool {
        let name = self.shared.lock().new_spare_name();
        let segment_bytes = self.shared.options.segment_bytes;
        let before = self.shared.lock().counters.written_bytes;
        // Zeros are for a log that waits for each write. One that grows while they are written batches
        // by itself, and would only write everything twice.
        let worthwhile = || {
            let grown = self.shared.lock().counters.written_bytes - before;
            grown <= segment_bytes / GROWTH_SHARE
        };
        let made = self.shared.disk.create(&name, segment_bytes, &worthwhile);
        let mut state = self.shared.lock();
        match made {
            Ok(file) => {
                state.spares.push(Spare { name, file, usable: true });
                state.spare_refused = false;
            }
            Err(error) => {
                if !state.spare_refused {
                    tracing::warn!(%error, "no new log segment can be made; writing may wait");
                }
                state.spare_refused = true;
                return false;
            }
        }
        drop(state);
        self.shared.work.notify_all();
        true
    }

    fn copy_forward(&mut self) {
        let mut walk = match self.walk.take() {
            Some(walk) => walk,
            None => match self.shared.lock().sparse_segment() {
                Some(segment) => Walk { segment, next: Some((GroupId(0), 0)), op: 0 },
                None => return,
            },
        };
        let state = self.shared.lock();
        if state.durable_op < walk.op {
            self.walk = Some(walk);
            return;
        }
        let Some(from) = walk.next else { return };
        let budget = COPY_BYTES.min(self.shared.options.segment_bytes / 4);
        let Some(source) = state.segments.get(&walk.segment).map(|u| u.segment.clone()) else {
            return;
        };
        let found = state.find_live(walk.segment, from, budget);
        drop(state);
        walk.next = found.next;
        match read_job(&source, found) {
            Ok(job) => {
                walk.op = self.queue(job, walk.op);
                self.walk = Some(walk);
            }
            Err(error) => {
                self.shared.withdraw_table(&error);
                tracing::error!(%error, file = source.name, "segment is not copied forward");
                if let Some(usage) = self.shared.lock().segments.get_mut(&walk.segment) {
                    usage.unreadable = true;
                }
            }
        }
    }

    fn queue(&self, job: CopyJob, earlier: u64) -> u64 {
        if job.records.is_empty() && job.states.is_empty() && job.tombstones.is_empty() {
            return earlier;
        }
        let bytes: usize = job.records.iter().map(|(_, record)| record.encoded_len()).sum();
        let op = self.shared.lock().enqueue(Work::Copy(job), bytes, None);
        self.shared.notify(true);
        op
    }

    /// Whether the pass should be repeated at once.
    pub fn is_busy(&self) -> bool {
        let state = self.shared.lock();
        let walks = self.walk.as_ref().is_some_and(|walk| state.durable_op >= walk.op);
        walks || state.poison.is_none() && state.due_table().is_some()
    }
}

impl State {
    fn new_spare_name(&mut self) -> String {
        self.next_spare += 1;
        segment::spare_name(self.next_spare - 1)
    }

    /// The first segment whose table of contents is to be written.
    fn due_table(&self) -> Option<u32> {
        let mut segments = self.segments.iter();
        segments.find(|(_, usage)| matches!(usage.table, Table::Due(_))).map(|(at, _)| *at)
    }

    /// Takes that table; from now on there may be a file.
    fn take_due_table(&mut self) -> Option<(u32, Vec<u8>)> {
        let segment = self.due_table()?;
        let table = &mut self.segments.get_mut(&segment)?.table;
        let Table::Due(due) = std::mem::replace(table, Table::None) else { return None };
        *table = Table::Filed(due.len() as u64);
        Some((segment, due))
    }

    fn take_unusable_spares(&mut self) -> Vec<Spare> {
        self.spares.extract_if(.., |spare| !spare.usable).collect()
    }

    /// Takes out the segments that nobody needs any more.
    fn take_recyclable(&mut self) -> Vec<Usage> {
        let durable = self.durable_op;
        let free: Vec<u32> = self
            .segments
            .iter()
            .filter(|(_, usage)| usage.sealed && usage.live == 0 && usage.barrier <= durable)
            .filter(|(_, usage)| Arc::strong_count(&usage.segment) == 1)
            .map(|(sequence, _)| *sequence)
            .collect();
        free.iter().filter_map(|sequence| self.segments.remove(sequence)).collect()
    }

    /// Lets go of tombstones with no older segment left to keep quiet.
    fn expire_tombstones(&mut self) {
        let Some(oldest) = self.segments.keys().next().copied() else { return };
        let expired: Vec<(GroupId, Place, u64)> = self
            .removed
            .iter()
            .filter(|(_, removed)| removed.origin <= u64::from(oldest))
            .filter_map(|(id, removed)| removed.at.map(|(place, bytes)| (*id, place, bytes)))
            .collect();
        for (id, place, bytes) in expired {
            self.release(place, bytes, 0);
            self.removed.remove(&id);
        }
    }

    /// The emptiest segment worth copying.
    fn sparse_segment(&self) -> Option<u32> {
        let sparse = self.segments.iter().filter(|(_, usage)| is_sparse(usage) && usage.live > 0);
        sparse.min_by_key(|(_, usage)| usage.live).map(|(sequence, _)| *sequence)
    }

    /// Segments that will be free soon.
    fn count_sparse(&self) -> usize {
        self.segments.values().filter(|usage| is_sparse(usage)).count()
    }

    /// Live records of `segment` from `from` on, up to `budget` bytes.
    fn find_live(&self, segment: u32, from: (GroupId, u64), budget: u64) -> Found {
        let mut found = Found::default();
        let mut scanned = 0;
        let mut bytes = 0;
        for (id, group) in self.groups.range(from.0..) {
            let start = if *id == from.0 { from.1 } else { 0 };
            let state_bytes = 256 + (group.state.vote.len() + group.state.committed.len()) as u64;
            if start == 0 && group.state_at.is_some_and(|(place, _)| place.segment == segment) {
                found.states.push(*id);
                bytes += state_bytes;
            }
            scanned += 1;
            let mut charged = false;
            for (index, slot) in group.index.iter_from(start) {
                scanned += 1;
                let lies_here = slot.place.segment == segment;
                let cost = slot.record_bytes() + if charged { 0 } else { state_bytes };
                let full = lies_here && !found.records.is_empty() && bytes + cost > budget;
                if full || scanned > SCAN_SLOTS {
                    found.next = Some((*id, index));
                    return found;
                }
                if lies_here {
                    charged = true;
                    bytes += cost;
                    found.records.push((slot.place, *id, index, slot.term, slot.record_bytes()));
                }
            }
            if bytes > budget {
                found.next = Some((GroupId(id.0.saturating_add(1)), 0));
                return found;
            }
        }
        found.tombstones = self
            .removed
            .iter()
            .filter(|(_, removed)| removed.at.is_some_and(|(at, _)| at.segment == segment))
            .map(|(id, _)| *id)
            .collect();
        found
    }
}

fn is_sparse(usage: &Usage) -> bool {
    let limit = usage.segment.file.len() * COPY_BELOW_PERCENT;
    usage.sealed && !usage.unreadable && usage.live * 100 < limit
}

fn read_job(source: &Segment, found: Found) -> Result<CopyJob, super::ReadError> {
    let mut records = Vec::with_capacity(found.records.len());
    for (place, group, index, term, bytes) in found.records {
        let record = read::read_extent(source, u64::from(place.offset), bytes)?;
        let payload = read::verify(&record, group, index, term).map_err(|reason| {
            super::ReadError::Damaged {
                group,
                index,
                file: source.name.clone(),
                offset: u64::from(place.offset),
                reason,
            }
        })?;
        records.push((place, Record { kind: Kind::Copy, group, index, term, payload }));
    }
    let (states, tombstones) = (found.states, found.tombstones);
    Ok(CopyJob { segment: source.header.segment, records, states, tombstones })
}
