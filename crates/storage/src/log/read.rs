//! Reading entries: a plan made under the lock, carried out without it.
//!
//! The plan holds the segments it needs, so none of them is recycled meanwhile. Records that lie
//! close together come with one read.
//!
//! What is read once goes past the system's page cache, as a backlog that is drained: a copy less. An entry whose messages
//! are wanted one by one, as those that were published together for different times, is read again and again: from the
//! second time on through the page cache.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{self, RECORD_HEADER_BYTES};
use super::index::{Place, Slot};
use super::segment::Segment;
use super::state::State;
use super::{Entry, GroupId, ReadError};

/// Records closer than this are read together, in bytes.
const GAP_BYTES: u64 = 16 << 10;
/// Most that one read takes, unless one record is larger, in bytes.
const READ_BYTES: u64 = 1 << 20;

/// Where one entry comes from.
enum Source {
    Memory(Bytes),
    Disk(Arc<Segment>, Place),
}

struct Item {
    index: u64,
    term: u64,
    payload_bytes: u32,
    was_read: bool,
    source: Source,
}

impl Item {
    fn record_bytes(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.payload_bytes)
    }
}

/// What to read.
pub struct ReadPlan {
    group: GroupId,
    items: Vec<Item>,
}

impl State {
    pub fn read_cached(
        &self,
        id: GroupId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0usize;
        let group = self.groups.get(&id)?;
        for index in range {
            let slot = group.index.get(index)?;
            bytes = bytes.saturating_add(slot.payload_bytes as usize);
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            let payload = self.cached(id, index, slot)?.clone();
            entries.push(Entry { index, term: slot.term, payload });
        }
        Some(entries)
    }

    pub fn plan_read(&self, id: GroupId, range: Range<u64>, max_bytes: usize) -> ReadPlan {
        let mut plan = ReadPlan { group: id, items: Vec::new() };
        let Some(group) = self.groups.get(&id) else { return plan };
        let mut bytes = 0usize;
        for (expected, (index, slot)) in range.clone().zip(group.index.iter_from(range.start)) {
            bytes = bytes.saturating_add(slot.payload_bytes as usize);
            let full = bytes > max_bytes && !plan.items.is_empty();
            if index != expected || full {
                break;
            }
            let Some(source) = self.source(id, index, slot) else { break };
            let &Slot { term, payload_bytes, was_read, .. } = slot;
            plan.items.push(Item { index, term, payload_bytes, was_read, source });
        }
        plan
    }

    fn cached(&self, id: GroupId, index: u64, slot: &Slot) -> Option<&Bytes> {
        self.tail.get(id, index).or_else(|| {
            let keeps = self.recent.keeps(slot.payload_bytes as usize);
            keeps.then(|| self.recent.get(id, index, slot.term)).flatten()
        })
    }

    fn source(&self, id: GroupId, index: u64, slot: &Slot) -> Option<Source> {
        if let Some(body) = self.cached(id, index, slot) {
            return Some(Source::Memory(body.clone()));
        }
        let usage = self.segments.get(&slot.place.segment)?;
        Some(Source::Disk(usage.segment.clone(), slot.place))
    }
}

impl ReadPlan {
    /// Carries the plan out; may block on the device.
    pub fn run(self) -> Result<Vec<Entry>, ReadError> {
        let mut entries = Vec::with_capacity(self.items.len());
        let mut rest = self.items.as_slice();
        while let Some(item) = rest.first() {
            match &item.source {
                Source::Memory(payload) => {
                    let (index, term) = (item.index, item.term);
                    entries.push(Entry { index, term, payload: payload.clone() });
                    rest = &rest[1..];
                }
                Source::Disk(segment, place) => {
                    let (count, bytes) = extent(rest, segment, *place);
                    let start = u64::from(place.offset);
                    let buffer = match count == 1 && item.was_read {
                        true => read_with(segment, start, bytes, Segment::read_through_cache)?,
                        false => read_extent(segment, start, bytes)?,
                    };
                    for item in &rest[..count] {
                        entries.push(self.entry(item, segment, start, &buffer)?);
                    }
                    rest = &rest[count..];
                }
            }
        }
        Ok(entries)
    }

    fn entry(
        &self,
        item: &Item,
        segment: &Segment,
        start: u64,
        buffer: &Bytes,
    ) -> Result<Entry, ReadError> {
        let Source::Disk(_, place) = &item.source else { unreachable!("an extent is on disk") };
        let at = (u64::from(place.offset) - start) as usize;
        let record = buffer.slice(at..at + item.record_bytes() as usize);
        match verify(&record, self.group, item.index, item.term) {
            Ok(payload) => Ok(Entry { index: item.index, term: item.term, payload }),
            Err(reason) => Err(ReadError::Damaged {
                group: self.group,
                index: item.index,
                file: segment.name.clone(),
                offset: u64::from(place.offset),
                reason,
            }),
        }
    }
}

/// How many items from the first on one read serves, and its length in bytes.
fn extent(items: &[Item], first: &Arc<Segment>, place: Place) -> (usize, u64) {
    let start = u64::from(place.offset);
    let mut end = start + items[0].record_bytes();
    let mut count = 1;
    for item in &items[1..] {
        let Source::Disk(segment, place) = &item.source else { break };
        let at = u64::from(place.offset);
        let next_end = at + item.record_bytes();
        let near = Arc::ptr_eq(segment, first) && at >= end && at - end <= GAP_BYTES;
        if !near || next_end - start > READ_BYTES {
            break;
        }
        end = next_end;
        count += 1;
    }
    (count, end - start)
}

/// Reads `bytes` from `start`, past the page cache if they are many.
pub fn read_extent(segment: &Segment, start: u64, bytes: u64) -> Result<Bytes, ReadError> {
    read_with(segment, start, bytes, Segment::read)
}

fn read_with(
    segment: &Segment,
    start: u64,
    bytes: u64,
    read: impl FnOnce(&Segment, u64, usize) -> io::Result<Bytes>,
) -> Result<Bytes, ReadError> {
    read(segment, start, bytes as usize).map_err(|source| ReadError::Io {
        file: segment.name.clone(),
        offset: start,
        source,
    })
}

/// The payload of `record` if it is whole and the one that is meant.
pub fn verify(record: &Bytes, group: GroupId, index: u64, term: u64) -> Result<Bytes, String> {
    let (decoded, _) = format::decode_record(record).map_err(|invalid| invalid.to_string())?;
    if (decoded.group, decoded.index, decoded.term) != (group, index, term) {
        return Err(format!(
            "another record stands here: group {} index {} term {}",
            decoded.group, decoded.index, decoded.term
        ));
    }
    Ok(record.slice_ref(decoded.payload))
}
