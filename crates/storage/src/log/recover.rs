//! What counts after a crash.
//!
//! Segments are read in the order of their sequence, batches in the order of theirs, and the last
//! writer wins for (group, index). Of a sealed segment its table of contents is read instead if it
//! has one: it says the same of every record, in the same order, and is applied by the same code.
//! The rules, and why they are safe:
//!
//! - **One batch is in flight at a time.** Batch n+1 is written after n is on the device. So if
//!   any header of n+1 or later is found, n had been acknowledged, and being unable to read it is
//!   damage, not the trace of a crash. A header has a CRC of its own, so even a torn n+1 proves n.
//! - **A segment is sealed before its successor is taken into use.** So in every segment but the
//!   last the batches must lead without a gap to a seal; only the last one may end torn.
//! - **The torn tail is overwritten from its own start.** The header of a torn batch can only lie
//!   where the next batch (or the seal) is written, so it disappears with that write; behind it
//!   there are bodies, but never a header: a body cannot contain one, because it would need the
//!   segment's salt. A recycled segment gets a new sequence and salt, so what it held
//!   before is not a header any more either. Nothing torn can come back.
//! - **What is found is flushed before it is believed.** The process may have been killed between
//!   write and flush; the directory and the last segment are synced first, or a later power failure
//!   could take back what we are about to tell the peers.
//! - **A Raft entry at i means that Raft entries above i are gone; a `State` means the same for
//!   its `last`.** The newest `State` of each group is always kept, all entries between floor and
//!   last are, and a copied entry brings a `State` with it, so an old record that was truncated
//!   away is cut off again here, whichever segments remain. Entries at or below the floor
//!   may reappear until the group calls `retain`: those still needed were written later
//!   and win.
//! - **Between floor and last no entry may be missing.** That is checked: a lost file is damage.
//! - **A table of contents is believed only as a whole**, for the segment's use that it names, and
//!   with the seal standing where it says; otherwise the segment is scanned. It was made from what
//!   was on the device, so it can say no more than a scan would have found then. Damage that came
//!   later is found when a record is read: each has its checksum.
//!
//! What cannot be told from a torn write is damage to the very last batch of the log.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::contents::{self, Builder, Contents, Item};
use super::format::{self, Invalid, Kind, SEGMENT_HEADER_BYTES};
use super::index::{Place, Slot};
use super::scan::{Scan, damaged, io_error, open_segment};
use super::segment::{self, Segment, Spare, Table, Usage};
use super::state::{Group, Removed, State};
use super::{GroupState, INDEX_MAX, OpenError, Options};
use crate::disk::{BLOCK, Disk};

/// Most that the tables of segments which had to be scanned take in memory until they are written,
/// in bytes. Segments beyond it get theirs at a later start.
const DUE_BYTES_MAX: usize = 32 << 20;

/// Where writing goes on.
pub struct End {
    /// The last segment and the offset behind its last valid batch; `None` in an empty log.
    pub active: Option<(Arc<Segment>, u64)>,
    /// Whether the last segment is sealed.
    pub sealed: bool,
    /// Sequence of the next batch.
    pub next_batch: u64,
    /// What the table of contents of the last segment says so far, unless that is sealed.
    pub contents: Option<Builder>,
}

/// Reads everything in `disk`.
pub fn recover(disk: &dyn Disk, options: &Options) -> Result<(State, End), OpenError> {
    let mut state = State::new(options.tail_bytes);
    disk.sync_dir().map_err(io_error("flush", "the directory"))?;
    let names = disk.list().map_err(io_error("list", ""))?;
    collect_spares(disk, options, &names, &mut state)?;
    let mut sequences: Vec<u64> =
        names.iter().filter_map(|name| segment::parse_segment_name(name)).collect();
    sequences.sort_unstable();
    let mut tables = Tables::find(&names);
    let mut end = End { active: None, sealed: false, next_batch: 1, contents: None };
    let mut previous: Option<u64> = None;
    for (at, sequence) in sequences.iter().copied().enumerate() {
        let is_last = at + 1 == sequences.len();
        let segment = Arc::new(open_segment(disk, sequence)?);
        if is_last {
            segment.file.sync().map_err(io_error("flush", &segment.name))?;
        }
        let follows = previous.is_some_and(|previous| previous + 1 == sequence);
        if follows && segment.header.first_batch != end.next_batch {
            return Err(damaged(&segment, 0, "batches are missing before this segment"));
        }
        let usage = Usage::new(segment.clone(), !is_last, Table::None);
        state.segments.insert(sequence as u32, usage);
        end = match tables.apply(disk, &segment, &mut state) {
            Some((offset, next_batch)) => {
                End { active: Some((segment, offset)), sealed: true, next_batch, contents: None }
            }
            None => {
                let end = scan(&mut state, segment, is_last)?;
                tables.make(&mut state, end)
            }
        };
        previous = Some(sequence);
    }
    state.stale_tables = tables.into_stale();
    finish(&mut state)?;
    state.free_bytes = disk.free_bytes().unwrap_or(0);
    Ok((state, end))
}

fn collect_spares(
    disk: &dyn Disk,
    options: &Options,
    names: &[String],
    state: &mut State,
) -> Result<(), OpenError> {
    let mut numbers: Vec<u64> =
        names.iter().filter_map(|name| segment::parse_spare_name(name)).collect();
    numbers.sort_unstable();
    for number in numbers {
        let name = segment::spare_name(number);
        state.next_spare = number + 1;
        let file = disk.open(&name).map_err(io_error("open", &name))?;
        // Half made, or from other settings: the writer removes it.
        let usable = file.len() == options.segment_bytes;
        state.spares.push(Spare { name, file, usable });
    }
    Ok(())
}

/// The tables of contents on the disk.
struct Tables {
    /// Sequences of those that no segment has used yet; in the end these are of no use.
    found: BTreeSet<u64>,
    /// Bytes of the tables made here.
    due_bytes: usize,
}

impl Tables {
    fn find(names: &[String]) -> Tables {
        let found = names.iter().filter_map(|name| segment::parse_table_name(name)).collect();
        Tables { found, due_bytes: 0 }
    }

    /// Applies what the table of `segment` says, if it has a good one; returns where the segment
    /// ends, and the sequence of the next batch.
    fn apply(
        &mut self,
        disk: &dyn Disk,
        segment: &Segment,
        state: &mut State,
    ) -> Option<(u64, u64)> {
        let sequence = segment.header.segment;
        if !self.found.contains(&sequence) {
            return None;
        }
        let name = segment::table_name(sequence);
        let used = read_table(disk, &name, segment).and_then(|bytes| {
            let (contents, end) = check_table(segment, &bytes)?;
            apply_table(state, sequence as u32, &contents);
            Ok((end, contents.next_batch, bytes.len()))
        });
        match used {
            Ok((end, next_batch, bytes)) => {
                self.found.remove(&sequence);
                if let Some(usage) = state.segments.get_mut(&(sequence as u32)) {
                    usage.table = Table::Filed(bytes as u64);
                }
                Some((end, next_batch))
            }
            Err(reason) => {
                tracing::warn!(%reason, file = name, "table of contents is not used: scanning");
                None
            }
        }
    }

    /// Keeps the table of a segment that was scanned and is sealed, to be written later.
    fn make(&mut self, state: &mut State, mut end: End) -> End {
        if end.sealed
            && let Some((segment, offset)) = &end.active
            && let Some(builder) = end.contents.take()
        {
            let seal = (*offset - BLOCK as u64) as u32;
            let table = builder.finish(&segment.header, end.next_batch, seal);
            let room = DUE_BYTES_MAX - self.due_bytes;
            let usage = state.segments.get_mut(&(segment.header.segment as u32));
            if let (Some(table), Some(usage)) = (table.filter(|table| table.len() <= room), usage) {
                self.due_bytes += table.len();
                self.found.remove(&segment.header.segment);
                usage.table = Table::Due(table);
            }
        }
        end
    }

    /// Names of the files that are of no use.
    fn into_stale(self) -> Vec<String> {
        self.found.into_iter().map(segment::table_name).collect()
    }
}

pub fn read_table(disk: &dyn Disk, name: &str, segment: &Segment) -> Result<Vec<u8>, String> {
    let refused = |error: io::Error| error.to_string();
    let file = disk.open(name).map_err(refused)?;
    if file.len() > contents::table_bytes_max(segment.file.len()) {
        return Err(format!("it cannot be {} bytes long", file.len()));
    }
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).map_err(refused)?;
    Ok(bytes)
}

/// Checks all of the table, so that nothing of it is applied unless all can be; returns it with the
/// offset behind the seal.
fn check_table<'a>(segment: &Segment, bytes: &'a [u8]) -> Result<(Contents<'a>, u64), String> {
    let contents = Contents::decode(&segment.header, bytes).map_err(|e| e.to_string())?;
    for item in contents.items() {
        check(&item).map_err(|e| format!("record at {}: {e}", item.offset))?;
    }
    let seal = u64::from(contents.seal);
    let end = seal + BLOCK as u64;
    if end > segment.file.len() {
        return Err("the segment ends before its seal".to_owned());
    }
    let mut block = vec![0; BLOCK];
    segment.read_at(seal, &mut block).map_err(|error| error.to_string())?;
    let is_seal = format::decode_batch_header(&segment.header, &block).is_ok_and(|header| {
        header.seal
            && header.records == 0
            && header.batch.checked_add(1) == Some(contents.next_batch)
    });
    if is_seal { Ok((contents, end)) } else { Err("no seal stands where it says".to_owned()) }
}

fn apply_table(state: &mut State, segment: u32, contents: &Contents<'_>) {
    for item in contents.items() {
        let applied = apply(state, segment, &item);
        assert!(applied.is_ok(), "what was checked is applied: {applied:?}");
    }
}

/// Applies all batches of a segment; returns where they end.
fn scan(state: &mut State, segment: Arc<Segment>, is_last: bool) -> Result<End, OpenError> {
    let mut contents = Builder::new(segment.file.len());
    let mut scan = Scan::new(&segment);
    let sequence = segment.header.segment as u32;
    let mut offset = SEGMENT_HEADER_BYTES as u64;
    let mut expected = segment.header.first_batch;
    let sealed = loop {
        let found = scan.batch(offset, expected, |item, record| {
            contents.push(item);
            check_index(record.index).and_then(|()| apply(state, sequence, item))
        })?;
        match found {
            Ok(header) => {
                offset += format::padded(header.bytes as usize) as u64;
                expected += 1;
                if header.seal {
                    break true;
                }
            }
            Err(reason) if is_last => match scan.later_batch(offset, expected)? {
                None => break false,
                Some((at, later)) => {
                    let reason = format!("{reason}, but batch {} follows at {at}", later.batch);
                    return Err(damaged(&segment, offset, &reason));
                }
            },
            Err(reason) => return Err(damaged(&segment, offset, &reason.to_string())),
        }
    };
    drop(scan);
    let contents = Some(contents);
    Ok(End { active: Some((segment, offset)), sealed, next_batch: expected, contents })
}

/// Applies one record to memory, as the operation that wrote it did; nothing if it is malformed.
pub fn apply(state: &mut State, segment: u32, record: &Item<'_>) -> Result<(), Invalid> {
    let id = record.group;
    let place = Place { segment, offset: record.offset };
    let bytes = record.record_bytes();
    let new_state = check(record)?;
    match record.kind {
        Kind::Entry | Kind::Copy | Kind::Put => {
            if record.kind == Kind::Entry {
                state.drop_raft_above(id, Some(record.index));
            }
            let group = state.groups.entry(id).or_default();
            if record.kind == Kind::Entry {
                group.state.last = Some((record.index, record.term));
            }
            let slot = Slot {
                term: record.term,
                place,
                payload_bytes: record.payload_bytes,
                raft: record.kind != Kind::Put,
                was_read: false,
            };
            if let Some(old) = group.index.set(record.index, slot) {
                state.release(old.place, old.record_bytes(), 0);
            }
            state.claim(place, bytes);
        }
        Kind::State => {
            state.drop_raft_above(id, new_state.last.map(|(index, _)| index));
            let group = state.groups.entry(id).or_default();
            group.state = new_state;
            let old = group.state_at.replace((place, bytes));
            state.claim(place, bytes);
            if let Some((old, bytes)) = old {
                state.release(old, bytes, 0);
            }
        }
        Kind::Tombstone => apply_tombstone(state, place, record),
    }
    Ok(())
}

/// Whether the record makes sense. Returns the state that it holds; an empty one for other kinds.
fn check(record: &Item<'_>) -> Result<GroupState, Invalid> {
    check_index(record.index)?;
    if record.kind != Kind::State {
        return Ok(GroupState::default());
    }
    let state = format::decode_state(record.state)?;
    [state.purged, state.last].iter().flatten().try_for_each(|at| check_index(at.0))?;
    Ok(state)
}

pub fn check_index(index: u64) -> Result<(), Invalid> {
    if index <= INDEX_MAX { Ok(()) } else { Err(Invalid::Malformed) }
}

fn apply_tombstone(state: &mut State, place: Place, record: &Item<'_>) {
    let group: Group = state.groups.remove(&record.group).unwrap_or_default();
    for (_, slot) in group.index.iter_from(0) {
        state.release(slot.place, slot.record_bytes(), 0);
    }
    if let Some((old, bytes)) = group.state_at {
        state.release(old, bytes, 0);
    }
    let bytes = record.record_bytes();
    let removed = Removed { origin: record.index, op: 0, at: Some((place, bytes)) };
    let earlier = state.removed.insert(record.group, removed);
    state.claim(place, bytes);
    if let Some((old, bytes)) = earlier.and_then(|earlier| earlier.at) {
        state.release(old, bytes, 0);
    }
}

fn finish(state: &mut State) -> Result<(), OpenError> {
    for (id, group) in &mut state.groups {
        group.written = group.state.clone();
        if let Some((missing, last)) = first_missing(group) {
            let reason = format!("group {id}: entry {missing} of ..={last} is missing");
            return Err(OpenError::Damaged { file: "the log".to_owned(), offset: 0, reason });
        }
    }
    Ok(())
}

/// The first entry that is missing between a group's floor and its last, and the last.
pub fn first_missing(group: &Group) -> Option<(u64, u64)> {
    let (last, _) = group.state.last?;
    let floor = group.state.purged.map(|(index, _)| index);
    let mut expected = match floor {
        Some(floor) => floor + 1,
        None => group.index.iter_from(0).next().map_or(0, |(index, _)| index),
    };
    for (index, _) in group.index.iter_from(expected) {
        if index != expected || index > last {
            break;
        }
        expected += 1;
    }
    (expected <= last).then_some((expected, last))
}
