//! The log of a node that does not run: read as recovery reads it, without changing a file, and without
//! ending at the first damage.
//!
//! ```text
//!  ReadOnlyDisk ──► Scan (batches, checksums) ──► each record ──► State, by recovery's own rules
//!                        │ damaged? a Fault with its place;            │
//!                        ▼ goes on at the next header                  ▼
//!                   segments, faults, tail                 groups, entries, what is live
//! ```
//!
//! All of every segment is read: tables of contents are compared with their segments, not believed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range, RangeInclusive};
use std::sync::Arc;

use super::contents::{Builder, Contents};
use super::format::{self, Invalid, Kind, SEGMENT_HEADER_BYTES};
use super::read::ReadPlan;
use super::recover;
use super::scan::{NoBatch, Scan, open_segment};
use super::segment::{self, Segment, Table, Usage};
use super::state::State;
use super::{Entry, GroupId, GroupState, OpenError, ReadError};
use crate::disk::{BLOCK, Disk};

/// Most faults that are kept; more are counted.
pub const FAULTS_MAX: usize = 1_000;

/// A record where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Sequence of the segment.
    pub segment: u64,
    /// Byte offset of the record in it.
    pub offset: u64,
    /// Sequence of the batch.
    pub batch: u64,
    /// What the record says.
    pub kind: Kind,
    /// About which group.
    pub group: GroupId,
    /// Index of the entry; 0 for a state.
    pub index: u64,
    /// Term of the entry; 0 for a state.
    pub term: u64,
    /// Body of the entry, or the encoded state.
    pub payload: &'a [u8],
}

/// An entry that is stored, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Position in the group's log.
    pub index: u64,
    /// Raft term that wrote it.
    pub term: u64,
    /// Length of its payload.
    pub payload_bytes: u32,
    /// Sequence of the segment.
    pub segment: u64,
    /// Byte offset of its record in it.
    pub offset: u64,
}

/// The file of a segment.
#[must_use]
pub fn file_name(segment: u64) -> String {
    segment::segment_name(segment)
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// Byte offset in it.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}

/// How the log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Behind its last batch nothing was begun.
    Clean,
    /// A write was cut off, as a crash does it: it was not confirmed, and the next start overwrites it.
    Torn(Fault),
}

/// What is known of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Sequence of the segment.
    pub sequence: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Where its batches end.
    pub used_bytes: u64,
    /// Nothing more will be written to it.
    pub sealed: bool,
    /// Sequence of its first batch.
    pub first_batch: u64,
    /// Whole batches, the seal included.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Records that are still needed.
    pub live_records: u64,
    /// Bytes of those.
    pub live_bytes: u64,
    /// Whether a table of contents stands beside it that a start would use.
    pub has_table: bool,
}

/// A log that was read.
pub struct Offline {
    state: State,
    segments: Vec<SegmentInfo>,
    faults: Vec<Fault>,
    unlisted: u64,
    tail: Tail,
    spares: usize,
}

/// Calls `each` with every record that is whole, in the order in which they were written, until it breaks.
///
/// # Errors
/// When the directory cannot be listed. Damage is no error here: see [`Offline::faults`].
pub fn read(
    disk: &dyn Disk,
    each: &mut dyn FnMut(&Seen<'_>) -> ControlFlow<()>,
) -> Result<Offline, OpenError> {
    let listing = |source| OpenError::Io { action: "list", file: "the log".to_owned(), source };
    let names = disk.list().map_err(listing)?;
    let mut sequences: Vec<u64> =
        names.iter().filter_map(|name| segment::parse_segment_name(name)).collect();
    sequences.sort_unstable();
    let tables = names.iter().filter_map(|name| segment::parse_table_name(name)).collect();
    let spares = names.iter().filter(|name| segment::parse_spare_name(name).is_some()).count();
    let offline = Offline {
        state: State::new(0),
        segments: Vec::new(),
        faults: Vec::new(),
        unlisted: 0,
        tail: Tail::Clean,
        spares,
    };
    let mut walk = Walk { disk, tables, offline, each, ended: false, follows: None };
    for (at, sequence) in sequences.iter().copied().enumerate() {
        if walk.ended {
            break;
        }
        walk.segment(sequence, at + 1 == sequences.len());
    }
    let mut offline = walk.offline;
    offline.count_live();
    Ok(offline)
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    tables: BTreeSet<u64>,
    offline: Offline,
    each: &'a mut dyn FnMut(&Seen<'_>) -> ControlFlow<()>,
    ended: bool,
    /// The segment before, if it was read to its seal, and the batch that comes after it.
    follows: Option<(u64, u64)>,
}

/// Where reading a segment stands.
struct At {
    offset: u64,
    batch: u64,
    is_last: bool,
}

impl Walk<'_> {
    fn segment(&mut self, sequence: u64, is_last: bool) {
        let segment = match open_segment(self.disk, sequence) {
            Ok(segment) => Arc::new(segment),
            Err(error) => return self.offline.fault(of(&segment::segment_name(sequence), error)),
        };
        let (name, header) = (&segment.name, segment.header);
        if let Some((before, batch)) = self.follows.take()
            && before + 1 == sequence
            && header.first_batch != batch
        {
            let reason = format!(
                "batches are missing before this segment: it begins with {}, not {batch}",
                header.first_batch
            );
            self.offline.fault(Fault { file: name.clone(), offset: 0, reason });
        }
        let usage = Usage::new(segment.clone(), !is_last, Table::None);
        self.offline.state.segments.insert(sequence as u32, usage);
        let mut info = SegmentInfo {
            sequence,
            file_bytes: segment.file.len(),
            used_bytes: SEGMENT_HEADER_BYTES as u64,
            sealed: false,
            first_batch: header.first_batch,
            batches: 0,
            records: 0,
            live_records: 0,
            live_bytes: 0,
            has_table: false,
        };
        let faults = self.offline.fault_count();
        let mut table = Builder::new(segment.file.len());
        let mut at = At { offset: SEGMENT_HEADER_BYTES as u64, batch: header.first_batch, is_last };
        let mut scan = Scan::new(&segment);
        while !info.sealed
            && !self.ended
            && self.batch(&mut scan, &segment, &mut at, &mut info, &mut table)
        {}
        drop(scan);
        if info.sealed && self.offline.fault_count() == faults {
            self.follows = Some((sequence, at.batch));
            let seal = (at.offset - BLOCK as u64) as u32;
            info.has_table = self.table(&segment, table.finish(&header, at.batch, seal));
        }
        self.offline.segments.push(info);
    }

    /// Reads one batch; false at the end of what can be read of the segment.
    fn batch(
        &mut self,
        scan: &mut Scan<'_>,
        segment: &Segment,
        at: &mut At,
        info: &mut SegmentInfo,
        table: &mut Builder,
    ) -> bool {
        let sequence = segment.header.segment;
        let batch = at.batch;
        let (state, each, ended) = (&mut self.offline.state, &mut self.each, &mut self.ended);
        let mut refused = None;
        let read = scan.batch(at.offset, batch, |item, record| {
            table.push(item);
            let (kind, group, payload) = (record.kind, record.group, record.payload);
            let (index, term, offset) = (record.index, record.term, u64::from(item.offset));
            let seen = Seen { segment: sequence, offset, batch, kind, group, index, term, payload };
            if !*ended {
                *ended = each(&seen).is_break();
            }
            let applied = recover::check_index(index)
                .and_then(|()| recover::apply(state, sequence as u32, item));
            if let Err(invalid) = applied {
                refused = Some((offset, invalid));
            }
            Ok(())
        });
        let reason = match read {
            Ok(Ok(header)) => {
                at.offset += format::padded(header.bytes as usize) as u64;
                at.batch += 1;
                info.used_bytes = at.offset;
                info.batches += 1;
                info.records += u64::from(header.records);
                info.sealed = header.seal;
                if let Some((offset, invalid)) = refused {
                    let reason = format!("record of batch {}: {invalid}", header.batch);
                    self.offline.fault(Fault { file: segment.name.clone(), offset, reason });
                }
                return true;
            }
            Ok(Err(none)) if at.is_last => match scan.later_batch(at.offset, batch) {
                Ok(None) => {
                    self.offline.end(segment, at, none);
                    return false;
                }
                _ => none.to_string(),
            },
            Ok(Err(none)) => none.to_string(),
            Err(OpenError::Damaged { reason, .. }) => reason,
            Err(error) => {
                self.offline.fault(of(&segment.name, error));
                return false;
            }
        };
        self.skip(scan, segment, at, reason)
    }

    /// Notes the damage at `at` and goes to the next batch that can be told; false if there is none.
    fn skip(
        &mut self,
        scan: &mut Scan<'_>,
        segment: &Segment,
        at: &mut At,
        reason: String,
    ) -> bool {
        let next = scan.next_batch(at.offset, at.batch).ok().flatten();
        let reason = match next {
            Some((offset, header)) => {
                format!("batch {}: {reason}; batch {} follows at {offset}", at.batch, header.batch)
            }
            None => format!("batch {}: {reason}; the segment is not sealed", at.batch),
        };
        self.offline.fault(Fault { file: segment.name.clone(), offset: at.offset, reason });
        if let Some((offset, header)) = next {
            (at.offset, at.batch) = (offset, header.batch);
        }
        next.is_some()
    }

    /// Whether a start would use the segment's table of contents. One that is whole and says something
    /// else than the segment is a fault.
    fn table(&mut self, segment: &Segment, made: Option<Vec<u8>>) -> bool {
        let name = segment::table_name(segment.header.segment);
        if !self.tables.contains(&segment.header.segment) {
            return false;
        }
        let Ok(bytes) = recover::read_table(self.disk, &name, segment) else { return false };
        if Contents::decode(&segment.header, &bytes).is_err() {
            return false;
        }
        if made.is_some_and(|made| made != bytes) {
            let reason = "it says something else than its segment".to_owned();
            self.offline.fault(Fault { file: name, offset: 0, reason });
        }
        true
    }
}

impl Offline {
    fn fault(&mut self, fault: Fault) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        } else {
            self.unlisted += 1;
        }
    }

    fn fault_count(&self) -> u64 {
        self.faults.len() as u64 + self.unlisted
    }

    /// The last segment ends at `at`, where there is no whole batch and no proof that there was one.
    fn end(&mut self, segment: &Segment, at: &At, none: NoBatch) {
        let is_cut = !segment.file.len().is_multiple_of(BLOCK as u64);
        let begun = match none {
            NoBatch::SegmentEnds => is_cut,
            NoBatch::Invalid(Invalid::NotOurs) => false,
            NoBatch::TooLong | NoBatch::Invalid(_) => true,
        };
        if begun {
            let reason = format!("batch {}: {none}", at.batch);
            let file = segment.name.clone();
            self.tail = Tail::Torn(Fault { file, offset: at.offset, reason });
        }
    }

    fn count_live(&mut self) {
        let mut records: BTreeMap<u64, u64> = BTreeMap::new();
        let mut count = |segment: u32| *records.entry(u64::from(segment)).or_default() += 1;
        for group in self.state.groups.values() {
            group.index.iter_from(0).for_each(|(_, slot)| count(slot.place.segment));
            group.state_at.iter().for_each(|(place, _)| count(place.segment));
        }
        let removed = self.state.removed.values().filter_map(|removed| removed.at);
        removed.for_each(|(place, _)| count(place.segment));
        for info in &mut self.segments {
            info.live_records = records.get(&info.sequence).copied().unwrap_or(0);
            let usage = self.state.segments.get(&(info.sequence as u32));
            info.live_bytes = usage.map_or(0, |usage| usage.live);
        }
    }

    /// Its segments, by sequence; those that cannot be opened are among the faults.
    #[must_use]
    pub fn segments(&self) -> &[SegmentInfo] {
        &self.segments
    }

    /// Files ready to become segments.
    #[must_use]
    pub fn spare_segments(&self) -> usize {
        self.spares
    }

    /// What is damaged, in the order in which it was found; at most [`FAULTS_MAX`].
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Faults beyond those.
    #[must_use]
    pub fn unlisted_faults(&self) -> u64 {
        self.unlisted
    }

    /// How it ends.
    #[must_use]
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// All groups that are known, in order.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.state.groups.keys().copied()
    }

    /// The state of a group; `None` if nothing is stored for it.
    #[must_use]
    pub fn state(&self, group: GroupId) -> Option<&GroupState> {
        self.state.groups.get(&group).map(|group| &group.state)
    }

    /// The stored entries of a group from `index` on.
    pub fn entries(&self, group: GroupId, index: u64) -> impl Iterator<Item = Stored> + '_ {
        let group = self.state.groups.get(&group);
        let slots = group.into_iter().flat_map(move |group| group.index.iter_from(index));
        slots.map(|(index, slot)| Stored {
            index,
            term: slot.term,
            payload_bytes: slot.payload_bytes,
            segment: slot.place.segment.into(),
            offset: slot.place.offset.into(),
        })
    }

    /// Whether the entry is stored.
    #[must_use]
    pub fn has(&self, group: GroupId, index: u64) -> bool {
        self.state.groups.get(&group).is_some_and(|group| group.index.get(index).is_some())
    }

    /// The first entry that is missing between a group's floor and its last, and the last.
    #[must_use]
    pub fn first_missing(&self, group: GroupId) -> Option<(u64, u64)> {
        recover::first_missing(self.state.groups.get(&group)?)
    }

    /// Forgets what checkpoints make superfluous: of each group, as [`Log::retain`](super::Log::retain) does,
    /// up to an index all but some entries.
    pub fn retain(&mut self, kept: &[(GroupId, u64, Vec<RangeInclusive<u64>>)]) {
        for (group, upto, keep) in kept {
            self.state.retain(*group, *upto, keep);
        }
        self.count_live();
    }

    /// Entries from `range.start` on, without a gap, up to `max_bytes` of payload but at least one; empty
    /// if the first is not stored.
    ///
    /// # Errors
    /// A record that is damaged meanwhile, or a refusal of the device.
    pub fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        let plan: ReadPlan = self.state.plan_read(group, range, max_bytes);
        plan.run()
    }
}

fn of(file: &str, error: OpenError) -> Fault {
    let (offset, reason) = match error {
        OpenError::Damaged { offset, reason, .. } => (offset, reason),
        OpenError::Io { action, source, .. } => (0, format!("{action}: {source}")),
        other => (0, other.to_string()),
    };
    Fault { file: file.to_owned(), offset, reason }
}
