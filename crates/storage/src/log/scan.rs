//! One segment, batch by batch: what recovery and the tools that look at a stopped node's log have in
//! common. It knows what a whole batch is; what follows from one that is not, its callers decide.

use std::io;

use super::contents::Item;
use super::format::{
    self, BATCH_HEADER_BYTES, BatchHeader, Invalid, Record, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::segment::{self, Segment};
use super::{INDEX_MAX, OpenError};
use crate::disk::{BLOCK, Disk, File};

/// Bytes read at once while scanning.
const WINDOW_BYTES: usize = 1 << 20;

/// Why no whole batch stands at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoBatch {
    /// Less than a block is left.
    #[error("the segment ends")]
    SegmentEnds,
    /// It says that it is longer than what is left.
    #[error("the batch is longer than its segment")]
    TooLong,
    /// Its bytes are not those of a batch.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// A walk over the batches of a segment.
pub struct Scan<'a> {
    segment: &'a Segment,
    window: Window<'a>,
}

/// Opens a segment and checks its header.
pub fn open_segment(disk: &dyn Disk, sequence: u64) -> Result<Segment, OpenError> {
    let name = segment::segment_name(sequence);
    let file = disk.open(&name).map_err(io_error("open", &name))?;
    let mut block = vec![0; SEGMENT_HEADER_BYTES];
    let whole = file.len() >= super::SEGMENT_BYTES_MIN && file.len() <= u64::from(u32::MAX);
    if !whole {
        let reason = format!("a segment cannot be {} bytes long", file.len());
        return Err(OpenError::Damaged { file: name, offset: 0, reason });
    }
    file.read_at(0, &mut block).map_err(io_error("read", &name))?;
    let header = match SegmentHeader::decode(&block) {
        Ok(header) => header,
        Err(Invalid::Newer(version)) => {
            return Err(OpenError::NewerFormat { file: name, version });
        }
        Err(invalid) => {
            let reason = format!("segment header: {invalid}");
            return Err(OpenError::Damaged { file: name, offset: 0, reason });
        }
    };
    let sequences = u32::try_from(sequence).is_ok() && header.first_batch <= INDEX_MAX;
    let fits = header.segment == sequence && sequence > 0 && sequences;
    let segment = Segment { header, name, file };
    if fits { Ok(segment) } else { Err(damaged(&segment, 0, "its header names another segment")) }
}

impl<'a> Scan<'a> {
    pub fn new(segment: &'a Segment) -> Scan<'a> {
        Scan { segment, window: Window::new(segment.file.as_ref()) }
    }

    /// Reads the batch at `offset` and, if all of it is whole, calls `each` with every record of it.
    /// The inner error says why there is none.
    pub fn batch(
        &mut self,
        offset: u64,
        expected: u64,
        mut each: impl FnMut(&Item<'_>, &Record<&[u8]>) -> Result<(), Invalid>,
    ) -> Result<Result<BatchHeader, NoBatch>, OpenError> {
        let left = self.window.file.len() - offset;
        if left < BLOCK as u64 {
            return Ok(Err(NoBatch::SegmentEnds));
        }
        let ours = self.segment.header;
        let block = self.read(offset, BLOCK)?;
        let header = match format::decode_batch_header(&ours, block) {
            Ok(header) => header,
            Err(invalid) => return Ok(Err(invalid.into())),
        };
        if header.batch != expected {
            let reason = format!("batch {} stands where {expected} belongs", header.batch);
            return Err(damaged(self.segment, offset, &reason));
        }
        if format::padded(header.bytes as usize) as u64 > left {
            return Ok(Err(NoBatch::TooLong));
        }
        let bytes = self.window.get(offset, header.bytes as usize);
        let bytes = bytes.map_err(io_error("read", &self.segment.name))?;
        let mut malformed = None;
        let decoded = format::decode_batch(&header, bytes, |at, record| {
            let item = Item::of(offset as u32 + at, &record);
            if let Err(invalid) = each(&item, &record) {
                malformed = Some(invalid);
            }
        });
        match (decoded, malformed) {
            (Err(invalid), _) => Ok(Err(invalid.into())),
            (Ok(()), None) => Ok(Ok(header)),
            (Ok(()), Some(Invalid::Newer(version))) => {
                Err(OpenError::NewerFormat { file: self.segment.name.clone(), version })
            }
            (Ok(()), Some(invalid)) => Err(damaged(self.segment, offset, &invalid.to_string())),
        }
    }

    /// A batch behind `offset` that says that batch `expected` had been durable: it tells damage from a
    /// torn tail, see `recover`.
    pub fn later_batch(
        &mut self,
        offset: u64,
        expected: u64,
    ) -> Result<Option<(u64, BatchHeader)>, OpenError> {
        self.find(offset, |header| header.durable >= expected)
    }

    /// The next batch from `expected` on whose header stands behind `offset`.
    pub fn next_batch(
        &mut self,
        offset: u64,
        expected: u64,
    ) -> Result<Option<(u64, BatchHeader)>, OpenError> {
        self.find(offset, |header| header.batch >= expected)
    }

    fn find(
        &mut self,
        offset: u64,
        is_it: impl Fn(&BatchHeader) -> bool,
    ) -> Result<Option<(u64, BatchHeader)>, OpenError> {
        let mut at = offset + BLOCK as u64;
        while at + BLOCK as u64 <= self.window.file.len() {
            let header = self.segment.header;
            let block = self.read(at, BATCH_HEADER_BYTES)?;
            if let Ok(header) = format::decode_batch_header(&header, block)
                && is_it(&header)
            {
                return Ok(Some((at, header)));
            }
            at += BLOCK as u64;
        }
        Ok(None)
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<&[u8], OpenError> {
        self.window.get(offset, len).map_err(io_error("read", &self.segment.name))
    }
}

/// A piece of a file, read ahead.
struct Window<'a> {
    file: &'a dyn File,
    buffer: Vec<u8>,
    start: u64,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn File) -> Window<'a> {
        Window { file, buffer: Vec::new(), start: 0 }
    }

    /// `len` bytes at `offset`, which lie within the file.
    fn get(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let end = offset + len as u64;
        let inside = self.start <= offset && end <= self.start + self.buffer.len() as u64;
        if !inside {
            let left = usize::try_from(self.file.len() - offset).unwrap_or(usize::MAX);
            let want = len.max(WINDOW_BYTES.min(left));
            self.buffer.resize(want, 0);
            self.start = offset;
            if let Err(error) = self.file.read_at(offset, &mut self.buffer) {
                self.buffer.clear();
                return Err(error);
            }
        }
        let at = (offset - self.start) as usize;
        Ok(&self.buffer[at..at + len])
    }
}

pub fn damaged(segment: &Segment, offset: u64, reason: &str) -> OpenError {
    OpenError::Damaged { file: segment.name.clone(), offset, reason: reason.to_owned() }
}

pub fn io_error(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> OpenError {
    let file = file.to_owned();
    move |source| OpenError::Io { action, file, source }
}
