//! Segment files in memory: an open file with its identity, and what is known of its use.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::format::SegmentHeader;
use crate::disk::File;

/// An open segment. Readers hold it while they read; it is recycled only when nobody else does.
pub struct Segment {
    pub header: SegmentHeader,
    pub name: String,
    pub file: Box<dyn File>,
}

impl Segment {
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.file.read(offset, len)
    }

    pub fn read_through_cache(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; len];
        self.file.read_at(offset, &mut bytes)?;
        Ok(bytes.into())
    }

    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)
    }
}

/// How a segment is used.
pub struct Usage {
    pub segment: Arc<Segment>,
    /// Bytes of records in it that are still needed.
    pub live: u64,
    /// Nothing more will be written to it.
    pub sealed: bool,
    /// Recycling has to wait until this operation is durable: the one that made records here
    /// superfluous must not be forgotten by a crash while they are gone.
    pub barrier: u64,
    /// Copying out of it failed: it stays as it is.
    pub unreadable: bool,
    pub table: Table,
}

impl Usage {
    /// Of a segment of which no record is known to be needed.
    pub fn new(segment: Arc<Segment>, sealed: bool, table: Table) -> Usage {
        Usage { segment, live: 0, sealed, barrier: 0, unreadable: false, table }
    }
}

/// A segment's table of contents.
pub enum Table {
    /// There is none, and none is coming: the next start scans the segment.
    None,
    /// The upkeep has this to write.
    Due(Vec<u8>),
    /// It is in a file of that many bytes, or about to be.
    Filed(u64),
}

impl Table {
    /// Bytes of its file.
    pub fn file_bytes(&self) -> u64 {
        if let Table::Filed(bytes) = self { *bytes } else { 0 }
    }
}

/// A pre-written file that no segment uses.
pub struct Spare {
    pub name: String,
    pub file: Box<dyn File>,
    /// It has the length that segments have now; otherwise it is to be removed.
    pub usable: bool,
}

const SUFFIX: &str = ".seg";
const TABLE_SUFFIX: &str = ".toc";
const SPARE_PREFIX: &str = "spare-";

/// File name of segment `sequence`.
pub fn segment_name(sequence: u64) -> String {
    format!("{sequence:020}{SUFFIX}")
}

/// File name of the table of contents of segment `sequence`.
pub fn table_name(sequence: u64) -> String {
    format!("{sequence:020}{TABLE_SUFFIX}")
}

/// The sequence in a segment's file name.
pub fn parse_segment_name(name: &str) -> Option<u64> {
    parse_sequence(name.strip_suffix(SUFFIX)?)
}

/// The sequence in the file name of a table of contents.
pub fn parse_table_name(name: &str) -> Option<u64> {
    parse_sequence(name.strip_suffix(TABLE_SUFFIX)?)
}

fn parse_sequence(digits: &str) -> Option<u64> {
    let all_digits = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    if all_digits { digits.parse().ok() } else { None }
}

/// File name of a spare.
pub fn spare_name(number: u64) -> String {
    format!("{SPARE_PREFIX}{number:020}{SUFFIX}")
}

/// The number in a spare's file name.
pub fn parse_spare_name(name: &str) -> Option<u64> {
    name.strip_prefix(SPARE_PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}
