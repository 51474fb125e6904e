//! A sealed segment's table of contents: all that recovery learns from the segment, in a small file
//! beside it, so that a start need not read the segment itself.
//!
//! ```text
//!  00000000000000000007.seg   ░ header ░ batch ░ batch ░ … ░ seal ░
//!  00000000000000000007.toc   header 64 │ record* │ zeros up to a multiple of 4K
//!
//!  header   0 magic 8 │ version 4 │ crc 4 │ segment 8 │ salt 8 │ first batch 8
//!          40 next batch 8 │ seal 4 │ body bytes 4 │ records 4 │ zero 4
//!  record   tag 1 │ skipped? │ group? │ index? │ term? │ payload bytes │ state      (varints)
//!  tag      bits 0-2 kind │ 8 adjacent │ 16 same group │ 32 next index │ 64 same term
//! ```
//!
//! It is never needed: without one, or with one that is not whole, the segment is scanned. So it
//! is written by the upkeep, in its own time and without a flush: a loss of power may take the
//! newest ones, and being unable to write one does no harm. It belongs
//! to one use of a file: sequence, salt and first batch are those of the segment's header, and the
//! seal has to stand where it says. Bodies are not in it; what their checksums say is found when
//! they are read, and then the table is withdrawn (`Shared::withdraw_table`), so that
//! the next start scans the segment and reports what it finds.
//!
//! A record says only what differs from the one before it: 3 bytes for an entry of 1 KiB in a long
//! run of one group. One content has one form, and bytes left over are refused.

use super::GroupId;
use super::format::{
    Invalid, Kind, RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES, SegmentHeader, padded,
    u32_at, u64_at,
};
use crate::disk::BLOCK;

/// Version of the table; one that is not known is not used.
pub const TABLE_VERSION: u32 = 1;
/// Bytes before the first record.
pub const TABLE_HEADER_BYTES: usize = 64;

const MAGIC: u64 = u64::from_le_bytes(*b"QRTETOC\0");
/// Largest table, in bytes; a segment with more to say is scanned.
const TABLE_BYTES_MAX: u64 = 32 << 20;
/// Nor is a table larger than this part of its segment.
const TABLE_PART: u64 = 8;

const KIND: u8 = 7;
const ADJACENT: u8 = 8;
const SAME_GROUP: u8 = 16;
const NEXT_INDEX: u8 = 32;
const SAME_TERM: u8 = 64;

/// Largest table, in bytes, of a segment of `segment_bytes`.
#[must_use]
pub fn table_bytes_max(segment_bytes: u64) -> u64 {
    let bytes = (segment_bytes / TABLE_PART).min(TABLE_BYTES_MAX);
    bytes - bytes % BLOCK as u64
}

/// What is said of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// Where the record starts in its segment.
    pub offset: u32,
    /// What it says.
    pub kind: Kind,
    /// About which group.
    pub group: GroupId,
    /// Index of the entry; 0 for `State`.
    pub index: u64,
    /// Term of the entry; 0 for `State`.
    pub term: u64,
    /// Length of its payload.
    pub payload_bytes: u32,
    /// The payload of a `State`; empty for others.
    pub state: &'a [u8],
}

impl<'a> Item<'a> {
    /// What a table says of `record`, which starts at `offset`.
    pub fn of<B: AsRef<[u8]>>(offset: u32, record: &'a Record<B>) -> Item<'a> {
        let payload = record.payload.as_ref();
        let is_state = record.kind == Kind::State;
        Item {
            offset,
            kind: record.kind,
            group: record.group,
            index: if is_state { 0 } else { record.index },
            term: if is_state { 0 } else { record.term },
            payload_bytes: payload.len() as u32,
            state: if is_state { payload } else { &[] },
        }
    }

    /// Bytes that the record takes in its segment.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.payload_bytes)
    }

    fn end(&self) -> u64 {
        u64::from(self.offset) + self.record_bytes()
    }
}

/// What the next record is compared with.
#[derive(Clone, Copy, Default)]
struct Previous {
    end: u64,
    group: u64,
    index: u64,
    term: u64,
}

impl Previous {
    fn follow(&mut self, item: &Item<'_>) {
        self.end = item.end();
        self.group = item.group.0;
        if item.kind != Kind::State {
            (self.index, self.term) = (item.index, item.term);
        }
    }
}

/// Gathers the table of a segment while that is written, or read.
pub struct Builder {
    body: Vec<u8>,
    records: u32,
    previous: Previous,
    /// Most bytes of `body`. Beyond it there will be no table.
    limit: usize,
    overflown: bool,
}

impl Builder {
    /// The table of a segment that is `segment_bytes` long.
    #[must_use]
    pub fn new(segment_bytes: u64) -> Builder {
        let limit = (table_bytes_max(segment_bytes) as usize).saturating_sub(TABLE_HEADER_BYTES);
        let previous = Previous::default();
        Builder { body: Vec::new(), records: 0, previous, limit, overflown: false }
    }

    /// Adds the next record, in the order of their places.
    pub fn push(&mut self, item: &Item<'_>) {
        if self.overflown {
            return;
        }
        let Previous { end, group, index, term } = self.previous;
        let adjacent = u64::from(item.offset) == end;
        let same_group = item.group.0 == group;
        let is_state = item.kind == Kind::State;
        let next_index = !is_state && item.index == index.wrapping_add(1);
        let same_term = !is_state && item.term == term;
        let flag = |bit: u8, set: bool| if set { bit } else { 0 };
        self.body.push(
            item.kind as u8
                | flag(ADJACENT, adjacent)
                | flag(SAME_GROUP, same_group)
                | flag(NEXT_INDEX, next_index)
                | flag(SAME_TERM, same_term),
        );
        let mut number = |wanted: bool, value: u64| {
            if wanted {
                put_varint(&mut self.body, value);
            }
        };
        number(!adjacent, u64::from(item.offset).wrapping_sub(end));
        number(!same_group, item.group.0);
        number(!is_state && !next_index, item.index);
        number(!is_state && !same_term, item.term);
        number(true, u64::from(item.payload_bytes));
        self.body.extend_from_slice(item.state);
        self.records += 1;
        self.previous.follow(item);
        if self.body.len() > self.limit {
            self.overflown = true;
            self.body = Vec::new();
        }
    }

    /// The table, once the seal stands at `seal` and `next_batch` is the batch after it. `None` if
    /// it would be too large.
    #[must_use]
    pub fn finish(self, segment: &SegmentHeader, next_batch: u64, seal: u32) -> Option<Vec<u8>> {
        if self.overflown {
            return None;
        }
        let mut out = vec![0; TABLE_HEADER_BYTES];
        out[0..8].copy_from_slice(&MAGIC.to_le_bytes());
        out[8..12].copy_from_slice(&TABLE_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&segment.segment.to_le_bytes());
        out[24..32].copy_from_slice(&segment.salt.to_le_bytes());
        out[32..40].copy_from_slice(&segment.first_batch.to_le_bytes());
        out[40..48].copy_from_slice(&next_batch.to_le_bytes());
        out[48..52].copy_from_slice(&seal.to_le_bytes());
        out[52..56].copy_from_slice(&(self.body.len() as u32).to_le_bytes());
        out[56..60].copy_from_slice(&self.records.to_le_bytes());
        out.extend_from_slice(&self.body);
        let crc = crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out.resize(padded(out.len()), 0);
        Some(out)
    }
}

/// A table that is whole.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// Sequence of the batch after the seal.
    pub next_batch: u64,
    /// Where the seal stands in the segment.
    pub seal: u32,
    /// How many records the segment holds.
    pub records: u32,
    body: &'a [u8],
}

impl<'a> Contents<'a> {
    /// Reads the file `bytes` as the table of `segment`.
    ///
    /// # Errors
    /// If it is of another segment or another use of it, or not exactly what [`Builder`] makes.
    pub fn decode(segment: &SegmentHeader, bytes: &'a [u8]) -> Result<Contents<'a>, Invalid> {
        if bytes.len() < TABLE_HEADER_BYTES || u64_at(bytes, 0) != MAGIC {
            return Err(Invalid::NotOurs);
        }
        let end = TABLE_HEADER_BYTES + u32_at(bytes, 52) as usize;
        let whole = bytes.get(..end).ok_or(Invalid::Malformed)?;
        if u32_at(bytes, 12) != crc(whole) {
            return Err(Invalid::Checksum);
        }
        if u32_at(bytes, 8) != TABLE_VERSION {
            return Err(Invalid::Newer(u32_at(bytes, 8)));
        }
        let header = SegmentHeader {
            segment: u64_at(bytes, 16),
            salt: u64_at(bytes, 24),
            first_batch: u64_at(bytes, 32),
        };
        if header != *segment {
            return Err(Invalid::NotOurs);
        }
        let contents = Contents {
            next_batch: u64_at(bytes, 40),
            seal: u32_at(bytes, 48),
            records: u32_at(bytes, 56),
            body: &whole[TABLE_HEADER_BYTES..],
        };
        let padding_is_zero = bytes[end..].iter().all(|byte| *byte == 0);
        let sized = bytes.len() == padded(end) && padding_is_zero && u32_at(bytes, 60) == 0;
        let sealed = contents.seal.is_multiple_of(BLOCK as u32)
            && contents.seal as usize >= SEGMENT_HEADER_BYTES
            && contents.next_batch > segment.first_batch;
        if !sized || !sealed {
            return Err(Invalid::Malformed);
        }
        contents.check()?;
        Ok(contents)
    }

    /// The records, in the order of their places.
    pub fn items(&self) -> impl Iterator<Item = Item<'a>> + use<'a> {
        let mut cursor = self.cursor();
        // All of them were read once already.
        std::iter::from_fn(move || if cursor.rest.is_empty() { None } else { cursor.next().ok() })
    }

    fn cursor(&self) -> Cursor<'a> {
        Cursor { rest: self.body, previous: Previous::default() }
    }

    fn check(&self) -> Result<(), Invalid> {
        let mut cursor = self.cursor();
        let mut records = 0;
        while !cursor.rest.is_empty() {
            if cursor.next()?.end() > u64::from(self.seal) {
                return Err(Invalid::Malformed);
            }
            records += 1;
        }
        if records == self.records { Ok(()) } else { Err(Invalid::Malformed) }
    }
}

/// A walk over the records of a table.
struct Cursor<'a> {
    rest: &'a [u8],
    previous: Previous,
}

impl<'a> Cursor<'a> {
    fn next(&mut self) -> Result<Item<'a>, Invalid> {
        let Previous { end, group, index, term } = self.previous;
        let (tag, rest) = self.rest.split_first().ok_or(Invalid::Malformed)?;
        self.rest = rest;
        let kind = Kind::from_byte(tag & KIND).ok_or(Invalid::Malformed)?;
        let is_state = kind == Kind::State;
        if tag & 128 != 0 || is_state && tag & (NEXT_INDEX | SAME_TERM) != 0 {
            return Err(Invalid::Malformed);
        }
        // What is written out differs from what the flag would have said: one content, one form.
        let skipped = self.unless(tag & ADJACENT != 0, 0)?;
        let offset = end.checked_add(skipped).and_then(|offset| u32::try_from(offset).ok());
        let group = self.unless(tag & SAME_GROUP != 0, group)?;
        let (index, term) = if is_state {
            (0, 0)
        } else {
            (
                self.unless(tag & NEXT_INDEX != 0, index.wrapping_add(1))?,
                self.unless(tag & SAME_TERM != 0, term)?,
            )
        };
        let payload_bytes = self.varint()?;
        let payload_bytes = u32::try_from(payload_bytes).map_err(|_| Invalid::Malformed)?;
        let state_bytes = if is_state { payload_bytes as usize } else { 0 };
        let (state, rest) = self.rest.split_at_checked(state_bytes).ok_or(Invalid::Malformed)?;
        self.rest = rest;
        let offset = offset.ok_or(Invalid::Malformed)?;
        let item = Item { offset, kind, group: GroupId(group), index, term, payload_bytes, state };
        self.previous.follow(&item);
        Ok(item)
    }

    /// `implied` if so flagged, else a number that must be another one.
    fn unless(&mut self, flagged: bool, implied: u64) -> Result<u64, Invalid> {
        if flagged {
            return Ok(implied);
        }
        let value = self.varint()?;
        if value == implied { Err(Invalid::Malformed) } else { Ok(value) }
    }

    fn varint(&mut self) -> Result<u64, Invalid> {
        let mut value = 0u64;
        for (at, byte) in self.rest.iter().enumerate().take(10) {
            let bits = u64::from(byte & 127);
            let fits = at < 9 || bits <= 1;
            value |= bits << (7 * at);
            if byte & 128 == 0 {
                self.rest = &self.rest[at + 1..];
                let is_padded = *byte == 0 && at > 0;
                return if fits && !is_padded { Ok(value) } else { Err(Invalid::Malformed) };
            }
        }
        Err(Invalid::Malformed)
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Of everything but the checksum itself and the padding.
fn crc(table: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&table[..12]), &table[16..])
}
