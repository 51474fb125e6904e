//! A part of one group's log in a file of its own, to be replayed elsewhere.
//!
//! ```text
//! slice       magic "QRTESLC\0" | version u32 | head | checkpoint piece* | entry* | end
//! each part   crc u32 | bytes u32 | kind u8 | 3 zero bytes | content         crc: of all behind it
//! 1 head      cluster text | node u64 | group u64 | queue text | bodies u8 | committed? term u64, index u64
//!             | landmark? index u64, state hash u64
//! 2 piece     of a checkpoint (see `checkpoint`); all of 1 MiB but the last
//! 3 entry     index u64 | term u64 | payload
//! 4 end       entries u64 | crc u32 of the crcs of all parts before
//! ```
//! All integers little-endian. Entries begin with index 0, or behind the checkpoint, and leave no gap. The
//! reader holds one part at a time, and no more of one than the file has.

use std::io::{self, Read, Write};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_storage::Entry;

use super::{Base, Landmark};
use crate::codec;
use crate::types::{Position, log_id};

/// Version of the layout.
pub const SLICE_VERSION: u32 = 1;
/// Largest content of a part, in bytes: more than the largest entry has.
pub const PART_BYTES_MAX: u32 = 64 << 20;
/// Largest checkpoint, in bytes.
pub const CHECKPOINT_BYTES_MAX: usize = 1 << 30;

const MAGIC: &[u8; 8] = b"QRTESLC\0";
const PART_HEADER_BYTES: usize = 12;
const PIECE_BYTES: usize = 1 << 20;
const TEXT_BYTES_MAX: usize = 1024;

const HEAD: u8 = 1;
const PIECE: u8 = 2;
const ENTRY: u8 = 3;
const END: u8 = 4;

/// Whose log it is a part of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The cluster; empty if not known.
    pub cluster_id: String,
    /// The node that it was taken from; 0 if not known.
    pub node_id: u64,
    /// The group.
    pub group: u64,
    /// Name of its queue; empty if not known.
    pub queue: String,
    /// Whether the messages are in it, or zeros in their places.
    pub bodies: bool,
    /// What the node knew to be committed.
    pub committed: Option<Position>,
    /// A state hash that the node had, at an entry of the slice.
    pub landmark: Option<Landmark>,
}

/// Why a slice could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    /// The file cannot be read, or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no slice at all.
    #[error("this is no slice of a log")]
    NotASlice,
    /// Written by a newer version of this program.
    #[error("the slice has format version {0}; this program knows {SLICE_VERSION}: upgrade it")]
    Newer(u32),
    /// It ends before its end.
    #[error("the slice is cut short at byte {at}; take it again")]
    Cut {
        /// Where the part begins that is not whole.
        at: u64,
    },
    /// A part is not what was written.
    #[error("the slice is damaged at byte {at}: {reason}; take it again")]
    Damaged {
        /// Where the part begins.
        at: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// Something is larger than a slice takes.
    #[error("{what} of {bytes} bytes is beyond the limit of a slice, {limit}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// Writes a slice.
pub struct SliceWriter<W> {
    out: W,
    crcs: u32,
    entries: u64,
}

impl<W: Write> SliceWriter<W> {
    /// Begins a slice with its head and the checkpoint before its entries, if there is one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(mut out: W, head: &Head, base: Option<&Base>) -> Result<Self, SliceError> {
        out.write_all(MAGIC)?;
        out.write_all(&SLICE_VERSION.to_le_bytes())?;
        let mut writer = Self { out, crcs: 0, entries: 0 };
        writer.part(HEAD, &[&encode_head(head)])?;
        let checkpoint: &[u8] = base.map_or(&[], |base| base.bytes());
        if checkpoint.len() > CHECKPOINT_BYTES_MAX {
            let (bytes, limit) = (checkpoint.len(), CHECKPOINT_BYTES_MAX);
            return Err(SliceError::TooLarge { what: "a checkpoint", bytes, limit });
        }
        checkpoint.chunks(PIECE_BYTES).try_for_each(|piece| writer.part(PIECE, &[piece]))?;
        Ok(writer)
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn entry(&mut self, entry: &Entry) -> Result<(), SliceError> {
        self.entries += 1;
        let place = [entry.index.to_le_bytes(), entry.term.to_le_bytes()].concat();
        self.part(ENTRY, &[&place, &entry.payload])
    }

    /// Ends the slice.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<W, SliceError> {
        let end = [&self.entries.to_le_bytes()[..], &self.crcs.to_le_bytes()].concat();
        self.part(END, &[&end])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn part(&mut self, kind: u8, content: &[&[u8]]) -> Result<(), SliceError> {
        let bytes: usize = content.iter().map(|piece| piece.len()).sum();
        if bytes > PART_BYTES_MAX as usize {
            let limit = PART_BYTES_MAX as usize;
            return Err(SliceError::TooLarge { what: "a part", bytes, limit });
        }
        let mut header = (bytes as u32).to_le_bytes().to_vec();
        header.extend([kind, 0, 0, 0]);
        let crc = content
            .iter()
            .fold(crc32c::crc32c(&header), |crc, piece| crc32c::crc32c_append(crc, piece));
        self.crcs = crc32c::crc32c_append(self.crcs, &crc.to_le_bytes());
        self.out.write_all(&crc.to_le_bytes())?;
        self.out.write_all(&header)?;
        content.iter().try_for_each(|piece| self.out.write_all(piece))?;
        Ok(())
    }
}

/// Reads a slice: its entries in order, as an iterator that ends after an error.
pub struct SliceReader<R> {
    parts: Parts<R>,
    head: Head,
    base: Option<Base>,
    /// The part that was read to see that there are no more pieces.
    next: Option<Part>,
    due: (u64, u64),
    entries: u64,
}

impl<R: Read> SliceReader<R> {
    /// Reads all that stands before the entries.
    ///
    /// # Errors
    /// When that is no slice, or not a whole one.
    pub fn open(input: R) -> Result<Self, SliceError> {
        let mut parts = Parts { input, at: 0, crcs: 0 };
        parts.magic()?;
        let first = parts.part()?;
        let head = match first.kind {
            HEAD => decode_head(first.content.clone()).ok_or(first.damaged("its head"))?,
            _ => return Err(first.damaged("it has no head")),
        };
        let mut checkpoint = BytesMut::new();
        let mut is_last = false;
        let next = loop {
            let part = parts.part()?;
            if part.kind != PIECE {
                break part;
            }
            let bytes = part.content.len();
            if is_last || bytes == 0 || bytes > PIECE_BYTES {
                return Err(part.damaged("its checkpoint is cut in another way"));
            }
            if checkpoint.len() + bytes > CHECKPOINT_BYTES_MAX {
                return Err(part.damaged("its checkpoint is too large"));
            }
            is_last = bytes < PIECE_BYTES;
            checkpoint.extend_from_slice(&part.content);
        };
        let base = match checkpoint.is_empty() {
            true => None,
            false => Some(
                Base::decode(checkpoint.freeze()).map_err(|_| next.damaged("its checkpoint"))?,
            ),
        };
        let at = base.as_ref().and_then(Base::position);
        let due = at.map_or((0, 0), |at| (at.index.saturating_add(1), at.term));
        Ok(Self { parts, head, base, next: Some(next), due, entries: 0 })
    }

    /// Whose log it is a part of.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The checkpoint before its entries.
    #[must_use]
    pub fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    fn entry(&mut self, part: Part) -> Result<Option<Entry>, SliceError> {
        match part.kind {
            ENTRY if part.content.len() >= 16 => {
                let mut content = part.content.clone();
                let (index, term) = (content.get_u64_le(), content.get_u64_le());
                if index != self.due.0 || index > quorate_storage::log::INDEX_MAX {
                    return Err(part.damaged("an entry is missing, or out of order"));
                }
                if term < self.due.1 {
                    return Err(part.damaged("the term of an entry is lower than the one before"));
                }
                self.due = (index + 1, term);
                self.entries += 1;
                Ok(Some(Entry { index, term, payload: content }))
            }
            END if part.content.len() == 12 => {
                let mut content = part.content.clone();
                let (entries, crcs) = (content.get_u64_le(), content.get_u32_le());
                if (entries, crcs) != (self.entries, part.crcs_before) {
                    return Err(part.damaged("its parts are not those that were written"));
                }
                self.parts.end()?;
                Ok(None)
            }
            _ => Err(part.damaged("a part of an unknown kind, or in a place where it cannot be")),
        }
    }
}

impl<R: Read> Iterator for SliceReader<R> {
    type Item = Result<Entry, SliceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let part = self.next.take()?;
        let entry = self.entry(part).transpose()?;
        let read = entry.and_then(|entry| {
            self.next = Some(self.parts.part()?);
            Ok(entry)
        });
        Some(read)
    }
}

struct Part {
    at: u64,
    kind: u8,
    content: Bytes,
    crcs_before: u32,
}

impl Part {
    fn damaged(&self, reason: &'static str) -> SliceError {
        SliceError::Damaged { at: self.at, reason }
    }
}

struct Parts<R> {
    input: R,
    at: u64,
    crcs: u32,
}

impl<R: Read> Parts<R> {
    /// `bytes` bytes, taking no more memory than the file has bytes.
    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, SliceError> {
        let mut taken = Vec::new();
        self.input.by_ref().take(bytes as u64).read_to_end(&mut taken)?;
        if taken.len() < bytes { Err(SliceError::Cut { at: self.at }) } else { Ok(taken) }
    }

    fn magic(&mut self) -> Result<(), SliceError> {
        let bytes = self.take(MAGIC.len() + 4)?;
        let (magic, version) = bytes.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(SliceError::NotASlice);
        }
        self.at = bytes.len() as u64;
        match u32::from_le_bytes(version.try_into().expect("4 bytes are left")) {
            SLICE_VERSION => Ok(()),
            newer => Err(SliceError::Newer(newer)),
        }
    }

    fn part(&mut self) -> Result<Part, SliceError> {
        let at = self.at;
        let damaged = |reason| SliceError::Damaged { at, reason };
        let header = self.take(PART_HEADER_BYTES)?;
        let mut fields = &header[..];
        let (crc, bytes) = (fields.get_u32_le(), fields.get_u32_le());
        let kind = fields.get_u8();
        if bytes > PART_BYTES_MAX {
            return Err(damaged("a part is larger than can be"));
        }
        let content = self.take(bytes as usize)?;
        if crc != crc32c::crc32c_append(crc32c::crc32c(&header[4..]), &content) {
            return Err(damaged("checksum mismatch"));
        }
        if fields != [0; 3] {
            return Err(damaged("its reserved bytes"));
        }
        let crcs_before = self.crcs;
        self.crcs = crc32c::crc32c_append(self.crcs, &crc.to_le_bytes());
        self.at += (PART_HEADER_BYTES + content.len()) as u64;
        Ok(Part { at, kind, content: content.into(), crcs_before })
    }

    fn end(&mut self) -> Result<(), SliceError> {
        match self.input.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(SliceError::Damaged { at: self.at, reason: "something follows its end" }),
        }
    }
}

fn encode_head(head: &Head) -> Vec<u8> {
    let mut out = BytesMut::new();
    let text = |out: &mut BytesMut, text: &str| {
        out.put_u32_le(text.len() as u32);
        out.put_slice(text.as_bytes());
    };
    text(&mut out, &head.cluster_id);
    out.put_u64_le(head.node_id);
    out.put_u64_le(head.group);
    text(&mut out, &head.queue);
    out.put_u8(u8::from(head.bodies));
    let committed = head.committed.map(|at| log_id(at.term, at.index));
    codec::put_log_id(committed.as_ref(), &mut out);
    out.put_u8(u8::from(head.landmark.is_some()));
    if let Some(landmark) = head.landmark {
        out.put_u64_le(landmark.index);
        out.put_u64_le(landmark.hash);
    }
    out.to_vec()
}

fn decode_head(mut bytes: Bytes) -> Option<Head> {
    fn text(bytes: &mut Bytes) -> Option<String> {
        let length = bytes.try_get_u32_le().ok()? as usize;
        if length > TEXT_BYTES_MAX || length > bytes.len() {
            return None;
        }
        String::from_utf8(bytes.split_to(length).to_vec()).ok()
    }
    fn flag(bytes: &mut Bytes) -> Option<bool> {
        [false, true].get(usize::from(bytes.try_get_u8().ok()?)).copied()
    }
    let head = Head {
        cluster_id: text(&mut bytes)?,
        node_id: bytes.try_get_u64_le().ok()?,
        group: bytes.try_get_u64_le().ok()?,
        queue: text(&mut bytes)?,
        bodies: flag(&mut bytes)?,
        committed: codec::get_log_id(&mut bytes).ok()?.as_ref().map(Position::from),
        landmark: match flag(&mut bytes)? {
            false => None,
            true => Some(Landmark {
                index: bytes.try_get_u64_le().ok()?,
                hash: bytes.try_get_u64_le().ok()?,
            }),
        },
    };
    bytes.is_empty().then_some(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> Head {
        Head {
            cluster_id: "c".repeat(32),
            node_id: 3,
            group: 7,
            queue: "orders".to_owned(),
            bodies: true,
            committed: Some(Position { term: 2, index: 1 }),
            landmark: Some(Landmark { index: 1, hash: 9 }),
        }
    }

    fn entries(payloads: &[Vec<u8>]) -> Vec<Entry> {
        let entry = |(payload, index): (&Vec<u8>, u64)| Entry {
            index,
            term: 1 + index / 2,
            payload: Bytes::copy_from_slice(payload),
        };
        payloads.iter().zip(0..).map(entry).collect()
    }

    fn written(entries: &[Entry]) -> Vec<u8> {
        let mut writer = SliceWriter::begin(Vec::new(), &head(), None).unwrap();
        entries.iter().for_each(|entry| writer.entry(entry).unwrap());
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>, SliceError> {
        SliceReader::open(bytes)?.collect()
    }

    proptest! {
        #[test]
        fn slices_come_back(payloads: Vec<Vec<u8>>) {
            let entries = entries(&payloads);
            let bytes = written(&entries);
            let reader = SliceReader::open(&bytes[..]).unwrap();
            prop_assert_eq!(reader.head(), &head());
            prop_assert_eq!(read(&bytes).unwrap(), entries);
        }

        #[test]
        fn a_changed_byte_is_noticed(at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = written(&entries(&[b"one".to_vec(), b"two".to_vec()]));
            *at.get_mut(&mut bytes) ^= 1 << bit;
            prop_assert!(read(&bytes).is_err());
        }
    }

    #[test]
    fn a_cut_slice_or_one_with_more_behind_it_is_an_error() {
        let bytes = written(&entries(&[b"one".to_vec(), b"two".to_vec()]));
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{length} bytes");
        }
        assert!(read(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn entries_with_a_gap_or_a_falling_term_are_refused() {
        let mut entries = entries(&[b"".to_vec(), b"".to_vec(), b"".to_vec()]);
        entries[2].term = 0;
        assert!(matches!(read(&written(&entries)), Err(SliceError::Damaged { .. })));
        entries.remove(1);
        assert!(matches!(read(&written(&entries)), Err(SliceError::Damaged { .. })));
    }

    #[test]
    fn a_newer_slice_and_something_else_are_told_apart() {
        let mut bytes = written(&[]);
        bytes[8] = 9;
        assert!(matches!(read(&bytes), Err(SliceError::Newer(9))));
        bytes[0] = b'X';
        assert!(matches!(read(&bytes), Err(SliceError::NotASlice)));
    }

    #[test]
    fn a_length_takes_no_memory_that_the_file_does_not_have() {
        let mut bytes = written(&[]);
        bytes.truncate(12);
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(PART_BYTES_MAX.to_le_bytes());
        bytes.extend([HEAD, 0, 0, 0]);
        assert!(matches!(read(&bytes), Err(SliceError::Cut { at: 12 })));
    }
}
