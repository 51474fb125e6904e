//! The bytes of a segment: what is written once and understood for years.
//!
//! ```text
//!  segment file                                   (all numbers little endian)
//!  ┌────────────┬─────────┬─────────┬───┬────────┬─ ─ ─ ─ ─ ─ ─ ─ ─
//!  │ header 4K  │ batch n │ batch n+1 … │ seal   │ zeros, or an earlier use's bytes
//!  └────────────┴─────────┴─────────┴───┴────────┴─ ─ ─ ─ ─ ─ ─ ─ ─
//!                └ starts on a 4K block, zero padded
//!
//!  segment header   0 magic 8 │ version 4 │ crc 4 │ segment 8 │ salt 8 │ first batch 8
//!  batch header     0 magic 4 │ crc 4 │ salt 8 │ segment 8 │ batch 8 │ durable 8
//!                  40 bytes 4 │ records 4 │ flags 4 │ header crc 4 │ reserved 8
//!  record           0 crc 4 │ payload bytes 4 │ kind 1 │ zero 3 │ group 8 │ index 8 │ term 8
//!                  36 payload
//! ```
//!
//! Payload bytes are checksummed once: a record's CRC covers its header and payload, so a single
//! read is verified; the batch's CRC covers its header and the CRCs of its records, so a batch is
//! whole or not at all. `header crc` makes the header believable alone: a torn batch still proves
//! that everything up to its `durable` had reached the device. `salt` is unknown to clients, so a
//! payload cannot imitate a batch.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{GroupId, GroupState};
use crate::disk::BLOCK;

/// Version of everything in this file; a newer one is refused.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes of a segment that its header takes.
pub const SEGMENT_HEADER_BYTES: usize = BLOCK;
/// Bytes of a batch before its first record.
pub const BATCH_HEADER_BYTES: usize = 64;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 36;

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"QRTESEG\0");
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"QBAT");
const FLAG_SEAL: u32 = 1;
const STATE_VERSION: u8 = 1;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A Raft entry: becomes the last one, whatever was stored above it is gone.
    Entry = 1,
    /// A Raft entry copied out of an older segment: replaces its index, changes nothing else.
    Copy = 2,
    /// An entry stored beside the Raft log: replaces its index, no truncation touches it.
    Put = 3,
    /// The whole [`GroupState`] of a group; Raft entries above its `last` are gone.
    State = 4,
    /// The group is forgotten. `index` is the segment in which this was first said.
    Tombstone = 5,
}

impl Kind {
    pub(super) fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Entry, Kind::Copy, Kind::Put, Kind::State, Kind::Tombstone]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// One record, in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<B> {
    /// What it says.
    pub kind: Kind,
    /// About which group.
    pub group: GroupId,
    /// Index of the entry; 0 for `State`.
    pub index: u64,
    /// Term of the entry; 0 otherwise.
    pub term: u64,
    /// Body of the entry, or the encoded state.
    pub payload: B,
}

/// Which segment a batch belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Sequence of the segment; grows by one with each segment taken into use.
    pub segment: u64,
    /// See the module's head.
    pub salt: u64,
    /// Sequence of the first batch written here.
    pub first_batch: u64,
}

/// The fixed part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Sequence of the batch, over the whole log.
    pub batch: u64,
    /// The last batch that was on the device when this one was built.
    pub durable: u64,
    /// Bytes from the start of the header to the end of the last record, without padding.
    pub bytes: u32,
    /// How many records follow.
    pub records: u32,
    /// Whether this is the end of a full segment.
    pub seal: bool,
}

/// Why bytes are not what was expected at their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// No header of this segment stands here.
    #[error("no header of this segment")]
    NotOurs,
    /// The header is ours, the content is incomplete or changed.
    #[error("checksum mismatch")]
    Checksum,
    /// Lengths or kinds contradict each other although the checksum fits.
    #[error("malformed content")]
    Malformed,
    /// Written by a newer version.
    #[error("format version {0} is newer than this program's {FORMAT_VERSION}")]
    Newer(u32),
}

/// Rounds up to whole blocks.
#[must_use]
pub fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK)
}

impl SegmentHeader {
    /// Fills `block`, which is [`SEGMENT_HEADER_BYTES`] long.
    pub fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        block[0..8].copy_from_slice(&SEGMENT_MAGIC.to_le_bytes());
        block[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[16..24].copy_from_slice(&self.segment.to_le_bytes());
        block[24..32].copy_from_slice(&self.salt.to_le_bytes());
        block[32..40].copy_from_slice(&self.first_batch.to_le_bytes());
        let crc = Self::crc(block);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads what [`SegmentHeader::encode`] wrote.
    pub fn decode(block: &[u8]) -> Result<SegmentHeader, Invalid> {
        if block.len() < 40 || u64_at(block, 0) != SEGMENT_MAGIC {
            return Err(Invalid::NotOurs);
        }
        if u32_at(block, 12) != Self::crc(block) {
            return Err(Invalid::Checksum);
        }
        match u32_at(block, 8) {
            FORMAT_VERSION => Ok(SegmentHeader {
                segment: u64_at(block, 16),
                salt: u64_at(block, 24),
                first_batch: u64_at(block, 32),
            }),
            newer => Err(Invalid::Newer(newer)),
        }
    }

    fn crc(block: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&block[0..12]), &block[16..40])
    }
}

impl<B: AsRef<[u8]>> Record<B> {
    /// Bytes this record takes in a batch.
    pub fn encoded_len(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload.as_ref().len()
    }

    /// Writes the record to the start of `out`; returns its CRC.
    fn encode(&self, out: &mut [u8]) -> u32 {
        let payload = self.payload.as_ref();
        out[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        out[8..12].copy_from_slice(&[self.kind as u8, 0, 0, 0]);
        out[12..20].copy_from_slice(&self.group.0.to_le_bytes());
        out[20..28].copy_from_slice(&self.index.to_le_bytes());
        out[28..36].copy_from_slice(&self.term.to_le_bytes());
        out[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload.len()].copy_from_slice(payload);
        let crc = crc32c::crc32c(&out[4..RECORD_HEADER_BYTES + payload.len()]);
        out[0..4].copy_from_slice(&crc.to_le_bytes());
        crc
    }
}

/// Reads the record at the start of `bytes`; returns it with its CRC.
pub fn decode_record(bytes: &[u8]) -> Result<(Record<&[u8]>, u32), Invalid> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err(Invalid::Malformed);
    }
    let len = u32_at(bytes, 4) as usize;
    if len > bytes.len() - RECORD_HEADER_BYTES {
        return Err(Invalid::Malformed);
    }
    let end = RECORD_HEADER_BYTES + len;
    let crc = u32_at(bytes, 0);
    if crc != crc32c::crc32c(&bytes[4..end]) {
        return Err(Invalid::Checksum);
    }
    let kind = Kind::from_byte(bytes[8]).ok_or(Invalid::Malformed)?;
    if bytes[9..12] != [0; 3] {
        return Err(Invalid::Malformed);
    }
    let record = Record {
        kind,
        group: GroupId(u64_at(bytes, 12)),
        index: u64_at(bytes, 20),
        term: u64_at(bytes, 28),
        payload: &bytes[RECORD_HEADER_BYTES..end],
    };
    Ok((record, crc))
}

/// Encodes a batch into `out`, which is as long as the padded batch; `offsets` receives where each
/// record starts within it.
pub fn encode_batch<B: AsRef<[u8]>>(
    segment: &SegmentHeader,
    batch: u64,
    seal: bool,
    records: &[Record<B>],
    out: &mut [u8],
    offsets: &mut Vec<u32>,
) {
    offsets.clear();
    let mut at = BATCH_HEADER_BYTES;
    let mut crcs = 0;
    for record in records {
        offsets.push(at as u32);
        let crc = record.encode(&mut out[at..]);
        crcs = crc32c::crc32c_append(crcs, &crc.to_le_bytes());
        at += record.encoded_len();
    }
    out[at..].fill(0);
    let header = &mut out[..BATCH_HEADER_BYTES];
    header.fill(0);
    header[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
    header[8..16].copy_from_slice(&segment.salt.to_le_bytes());
    header[16..24].copy_from_slice(&segment.segment.to_le_bytes());
    header[24..32].copy_from_slice(&batch.to_le_bytes());
    header[32..40].copy_from_slice(&batch.saturating_sub(1).to_le_bytes());
    header[40..44].copy_from_slice(&(at as u32).to_le_bytes());
    header[44..48].copy_from_slice(&(records.len() as u32).to_le_bytes());
    header[48..52].copy_from_slice(&(if seal { FLAG_SEAL } else { 0 }).to_le_bytes());
    let header_crc = crc32c::crc32c(&header[8..52]);
    header[52..56].copy_from_slice(&header_crc.to_le_bytes());
    let crc = crc32c::crc32c_append(crcs, &header[8..56]);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the header of a batch of `segment`, believing it only if its own CRC fits.
pub fn decode_batch_header(segment: &SegmentHeader, bytes: &[u8]) -> Result<BatchHeader, Invalid> {
    let ours = bytes.len() >= BATCH_HEADER_BYTES
        && u32_at(bytes, 0) == BATCH_MAGIC
        && u64_at(bytes, 8) == segment.salt
        && u64_at(bytes, 16) == segment.segment;
    if !ours {
        return Err(Invalid::NotOurs);
    }
    if u32_at(bytes, 52) != crc32c::crc32c(&bytes[8..52]) {
        return Err(Invalid::Checksum);
    }
    let header = BatchHeader {
        batch: u64_at(bytes, 24),
        durable: u64_at(bytes, 32),
        bytes: u32_at(bytes, 40),
        records: u32_at(bytes, 44),
        seal: u32_at(bytes, 48) & FLAG_SEAL != 0,
    };
    let room = (header.bytes as usize).checked_sub(BATCH_HEADER_BYTES).ok_or(Invalid::Malformed)?;
    let unknown_flags = u32_at(bytes, 48) & !FLAG_SEAL != 0;
    if header.records as usize > room / RECORD_HEADER_BYTES || unknown_flags {
        return Err(Invalid::Malformed);
    }
    Ok(header)
}

/// Checks the whole batch in `bytes` (at least `header.bytes` long), and calls `each` with the
/// offset of every record in it. Nothing is called unless all of it is valid.
pub fn decode_batch<'a>(
    header: &BatchHeader,
    bytes: &'a [u8],
    mut each: impl FnMut(u32, Record<&'a [u8]>),
) -> Result<(), Invalid> {
    let bytes = bytes.get(..header.bytes as usize).ok_or(Invalid::Malformed)?;
    let mut crcs = 0;
    let mut at = BATCH_HEADER_BYTES;
    let mut records = Vec::with_capacity(header.records as usize);
    for _ in 0..header.records {
        let (record, crc) = decode_record(&bytes[at..])?;
        crcs = crc32c::crc32c_append(crcs, &crc.to_le_bytes());
        let offset = at as u32;
        at += record.encoded_len();
        records.push((offset, record));
    }
    if at != bytes.len() {
        return Err(Invalid::Malformed);
    }
    if u32_at(bytes, 4) != crc32c::crc32c_append(crcs, &bytes[8..56]) {
        return Err(Invalid::Checksum);
    }
    records.into_iter().for_each(|(offset, record)| each(offset, record));
    Ok(())
}

/// The payload of a `State` record.
#[must_use]
pub fn encode_state(state: &GroupState) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + state.vote.len() + state.committed.len());
    out.put_u8(STATE_VERSION);
    out.put_u8(u8::from(state.purged.is_some()) | u8::from(state.last.is_some()) << 1);
    for (index, term) in [state.purged, state.last].into_iter().flatten() {
        out.put_u64_le(index);
        out.put_u64_le(term);
    }
    for part in [&state.vote, &state.committed] {
        out.put_u32_le(part.len() as u32);
        out.put_slice(part);
    }
    out.freeze()
}

/// Reads what [`encode_state`] wrote.
pub fn decode_state(mut bytes: &[u8]) -> Result<GroupState, Invalid> {
    let malformed = |_| Invalid::Malformed;
    let version = bytes.try_get_u8().map_err(malformed)?;
    if version != STATE_VERSION {
        return Err(Invalid::Newer(u32::from(version)));
    }
    let flags = bytes.try_get_u8().map_err(malformed)?;
    if flags & !3 != 0 {
        return Err(Invalid::Malformed);
    }
    let mut position = |present: bool| -> Result<Option<(u64, u64)>, Invalid> {
        if !present {
            return Ok(None);
        }
        let index = bytes.try_get_u64_le().map_err(malformed)?;
        Ok(Some((index, bytes.try_get_u64_le().map_err(malformed)?)))
    };
    let purged = position(flags & 1 != 0)?;
    let last = position(flags & 2 != 0)?;
    let mut part = || -> Result<Bytes, Invalid> {
        let len = bytes.try_get_u32_le().map_err(malformed)? as usize;
        if len > bytes.len() {
            return Err(Invalid::Malformed);
        }
        let (part, rest) = bytes.split_at(len);
        bytes = rest;
        Ok(Bytes::copy_from_slice(part))
    };
    let vote = part()?;
    let committed = part()?;
    if bytes.is_empty() {
        Ok(GroupState { vote, committed, purged, last })
    } else {
        Err(Invalid::Malformed)
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}
