//! Segment files in memory: an open file with its identity, and what is known of its use.

use std::io;
use std::sync::Arc;

use super::format::SegmentHeader;
use crate::disk::File;

/// An open segment. Readers hold it while they read; it is recycled only when nobody else does.
pub struct Segment {
    pub header: SegmentHeader,
    pub name: String,
    pub file: Box<dyn File>,
}

impl Segment {
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
}

/// A pre-written file that no segment uses.
pub struct Spare {
    pub name: String,
    pub file: Box<dyn File>,
    /// It has the length that segments have now; otherwise it is to be removed.
    pub usable: bool,
}

const SUFFIX: &str = ".seg";
const SPARE_PREFIX: &str = "spare-";

/// File name of segment `sequence`.
pub fn segment_name(sequence: u64) -> String {
    format!("{sequence:020}{SUFFIX}")
}

/// The sequence in a segment's file name.
pub fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
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
