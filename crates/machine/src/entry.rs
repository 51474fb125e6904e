//! The payload of a log entry: the leader's time and the commands that it gathered.
//!
//! ```text
//! entry   = version u8 | now u64 | command*          all integers little-endian
//! command = length u32 | bytes                       what `Machine::encode` wrote
//! ```
//!
//! An entry is encoded once, by the leader; the same bytes go to its log, to the followers and, in
//! slices, to the consumers. So decoding copies nothing.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::{self, DecodeError};
use crate::{Machine, Millis};

/// Version of the entry layout that this build writes, and the only one that it reads.
pub const ENTRY_VERSION: u8 = 1;

/// Bytes of an entry before its first command.
pub const ENTRY_HEADER_BYTES: usize = 1 + 8;

/// Bytes that an entry spends on each command beside the command's own.
pub const COMMAND_HEADER_BYTES: usize = 4;

/// Gathers commands into an entry.
#[derive(Debug)]
pub struct EntryBuilder {
    buffer: BytesMut,
    commands: u32,
}

impl EntryBuilder {
    /// An entry without commands.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(0)
    }

    /// An entry without commands, with room for `bytes` of them.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(ENTRY_HEADER_BYTES + bytes);
        buffer.put_u8(ENTRY_VERSION);
        buffer.put_u64_le(0);
        Self { buffer, commands: 0 }
    }

    /// Adds the command that `write` appends to the buffer; it must append only.
    pub fn push(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let start = self.buffer.len();
        self.buffer.put_u32_le(0);
        write(&mut self.buffer);
        let length = self.buffer.len() - start - COMMAND_HEADER_BYTES;
        let length = u32::try_from(length).expect("a command is far below 4 GiB");
        self.buffer[start..start + COMMAND_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        self.commands += 1;
    }

    /// Adds `command`, encoded.
    pub fn push_command<M: Machine>(&mut self, command: &M::Command) {
        self.push(|buffer| M::encode(command, buffer));
    }

    /// Bytes so far, the header included.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "the header makes it never empty")]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Commands so far.
    #[must_use]
    pub fn commands(&self) -> u32 {
        self.commands
    }

    /// The finished entry, stamped with the leader's time.
    #[must_use]
    pub fn freeze(mut self, now: Millis) -> Bytes {
        self.buffer[1..ENTRY_HEADER_BYTES].copy_from_slice(&now.0.to_le_bytes());
        self.buffer.freeze()
    }
}

impl Default for EntryBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// Opens an entry: its time, and its commands still encoded.
///
/// # Errors
/// When the header is cut short or of another version. Damage further on shows in the iterator.
pub fn decode_entry(mut entry: Bytes) -> Result<(Millis, CommandIter), DecodeError> {
    wire::expect_version(&mut entry, "entry", ENTRY_VERSION)?;
    let now = Millis(wire::u64(&mut entry)?);
    Ok((now, CommandIter { rest: entry }))
}

/// The encoded commands of an entry, in order. After an error it ends.
#[derive(Clone, Debug)]
pub struct CommandIter {
    rest: Bytes,
}

impl Iterator for CommandIter {
    type Item = Result<Bytes, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let limit = self.rest.len();
        let command = wire::bytes(&mut self.rest, "command", limit);
        if command.is_err() {
            self.rest = Bytes::new();
        }
        Some(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(now: u64, commands: &[Vec<u8>]) -> Bytes {
        let mut builder = EntryBuilder::new();
        for command in commands {
            builder.push(|buffer| buffer.put_slice(command));
        }
        assert_eq!(builder.commands() as usize, commands.len());
        let length = builder.len();
        let entry = builder.freeze(Millis(now));
        assert_eq!(entry.len(), length);
        entry
    }

    proptest! {
        #[test]
        fn entries_come_back(now: u64, commands: Vec<Vec<u8>>) {
            let (stamped, iter) = decode_entry(encode(now, &commands)).unwrap();
            prop_assert_eq!(stamped, Millis(now));
            let back: Result<Vec<Bytes>, _> = iter.collect();
            prop_assert_eq!(back.unwrap(), commands);
        }

        #[test]
        fn arbitrary_bytes_give_an_error_or_an_end(bytes: Vec<u8>) {
            if let Ok((_, iter)) = decode_entry(Bytes::from(bytes)) {
                prop_assert!(iter.count() < 1000);
            }
        }
    }

    #[test]
    fn commands_are_slices_of_the_entry() {
        let entry = encode(7, &[b"hello".to_vec()]);
        let (_, mut iter) = decode_entry(entry.clone()).unwrap();
        let command = iter.next().unwrap().unwrap();
        assert!(entry.as_ptr_range().contains(&command.as_ptr()));
    }

    #[test]
    fn a_cut_entry_is_an_error_and_then_the_end() {
        let entry = encode(7, &[b"hello".to_vec(), b"world".to_vec()]);
        let (_, mut iter) = decode_entry(entry.slice(..entry.len() - 1)).unwrap();
        assert!(iter.next().unwrap().is_ok());
        assert_eq!(iter.next(), Some(Err(DecodeError::Truncated { needed: 5, left: 4 })));
        assert_eq!(iter.next(), None);
    }
}
