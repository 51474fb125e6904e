//! A growable buffer whose content starts at an address that direct I/O accepts, without unsafe
//! code: a vector with slack, and the offset at which its aligned part begins.

use super::BLOCK;

/// Bytes starting at a multiple of [`BLOCK`] in memory.
#[derive(Default)]
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// An empty buffer; it grows on use and keeps its memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the length in bytes. The content is unspecified: what earlier use left, or zeros.
    pub fn resize(&mut self, len: usize) {
        if self.bytes.len() < len + BLOCK {
            self.bytes = vec![0; (len + BLOCK).next_power_of_two()];
            self.start = self.bytes.as_ptr().align_offset(BLOCK);
        }
        assert!(self.start + len <= self.bytes.len(), "an aligned part fits into the slack");
        self.len = len;
    }

    /// The aligned bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    /// The aligned bytes, to be filled.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}
