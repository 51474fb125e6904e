//! Reading and writing of the primitives that entries, commands and snapshots are made of.
//!
//! Commands use fixed-width little-endian integers, which decode fastest; snapshots use LEB128
//! varints, since they hold many small numbers. Reading never trusts a length: it is compared with
//! what is left and with a named limit before anything is allocated.

use std::ops::RangeInclusive;

use bytes::{Buf, BufMut, Bytes};
use thiserror::Error;

use crate::digest::digest;

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The input ends before the value does.
    #[error("input ends early: {needed} bytes wanted, {left} left")]
    Truncated {
        /// Bytes that the value needs.
        needed: usize,
        /// Bytes that were there.
        left: usize,
    },
    /// Written by a newer version.
    #[error("{what} has version {version}, which this build does not know")]
    UnknownVersion {
        /// What was being read.
        what: &'static str,
        /// The version found.
        version: u8,
    },
    /// A tag without a meaning.
    #[error("{what} has the unknown kind {kind}")]
    UnknownKind {
        /// What was being read.
        what: &'static str,
        /// The tag found.
        kind: u8,
    },
    /// Longer than is ever written.
    #[error("{what} is {length} long, limit {limit}")]
    TooLong {
        /// What was being read.
        what: &'static str,
        /// The length found.
        length: u64,
        /// The longest allowed.
        limit: u64,
    },
    /// A value that breaks a rule of its field.
    #[error("{what} is invalid: {why}")]
    Invalid {
        /// What was being read.
        what: &'static str,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// Bytes after the end of the value.
    #[error("{bytes} bytes are left over")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// Why a snapshot was not restored.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// The bytes were changed or cut since they were written.
    #[error("snapshot is damaged: its checksum does not match")]
    Checksum,
    /// Whole, but not readable.
    #[error("decode snapshot: {0}")]
    Decode(#[from] DecodeError),
    /// Readable, but contradicts itself.
    #[error("snapshot contradicts itself: {0}")]
    Inconsistent(&'static str),
}

/// Bytes that [`seal`] appends.
const CHECKSUM_LEN: usize = 8;

/// Appends the checksum of a snapshot to it.
pub(crate) fn seal(mut snapshot: Vec<u8>) -> Vec<u8> {
    let sum = digest(&snapshot);
    snapshot.put_u64_le(sum);
    snapshot
}

/// The snapshot within what [`seal`] made, with its version taken off.
pub(crate) fn unseal<'a>(
    sealed: &'a [u8],
    what: &'static str,
    known: RangeInclusive<u8>,
) -> Result<(u8, &'a [u8]), SnapshotError> {
    let Some(length) = sealed.len().checked_sub(CHECKSUM_LEN) else {
        return Err(SnapshotError::Checksum);
    };
    let (mut snapshot, sum) = sealed.split_at(length);
    if digest(snapshot).to_le_bytes() != sum {
        return Err(SnapshotError::Checksum);
    }
    let version = u8(&mut snapshot)?;
    if !known.contains(&version) {
        return Err(DecodeError::UnknownVersion { what, version }.into());
    }
    Ok((version, snapshot))
}

/// Reads the version byte, of which one value is known.
pub(crate) fn expect_version(
    buf: &mut impl Buf,
    what: &'static str,
    known: u8,
) -> Result<(), DecodeError> {
    match u8(buf)? {
        version if version == known => Ok(()),
        version => Err(DecodeError::UnknownVersion { what, version }),
    }
}

/// Refuses bytes after the end.
pub(crate) fn expect_end(buf: &impl Buf) -> Result<(), DecodeError> {
    match buf.remaining() {
        0 => Ok(()),
        bytes => Err(DecodeError::Trailing { bytes }),
    }
}

/// Reads one byte.
pub(crate) fn u8(buf: &mut impl Buf) -> Result<u8, DecodeError> {
    need(buf, 1)?;
    Ok(buf.get_u8())
}

/// Reads two bytes.
pub(crate) fn u16(buf: &mut impl Buf) -> Result<u16, DecodeError> {
    need(buf, 2)?;
    Ok(buf.get_u16_le())
}

/// Reads four bytes.
pub(crate) fn u32(buf: &mut impl Buf) -> Result<u32, DecodeError> {
    need(buf, 4)?;
    Ok(buf.get_u32_le())
}

/// Reads eight bytes.
pub(crate) fn u64(buf: &mut impl Buf) -> Result<u64, DecodeError> {
    need(buf, 8)?;
    Ok(buf.get_u64_le())
}

/// Reads sixteen bytes.
pub(crate) fn u128(buf: &mut impl Buf) -> Result<u128, DecodeError> {
    need(buf, 16)?;
    Ok(buf.get_u128_le())
}

/// Reads 0 or 1.
pub(crate) fn flag(buf: &mut impl Buf, what: &'static str) -> Result<bool, DecodeError> {
    match u8(buf)? {
        0 => Ok(false),
        1 => Ok(true),
        kind => Err(DecodeError::UnknownKind { what, kind }),
    }
}

/// Reads a flag and, when it is set, a value.
pub(crate) fn option<B: Buf, T>(
    buf: &mut B,
    what: &'static str,
    read: impl FnOnce(&mut B) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    if flag(buf, what)? { read(buf).map(Some) } else { Ok(None) }
}

/// Reads `length` bytes; from [`Bytes`] without copying.
pub(crate) fn take(buf: &mut impl Buf, length: usize) -> Result<Bytes, DecodeError> {
    need(buf, length)?;
    Ok(buf.copy_to_bytes(length))
}

/// Reads a `u32` length and that many bytes.
pub(crate) fn bytes(
    buf: &mut impl Buf,
    what: &'static str,
    limit: usize,
) -> Result<Bytes, DecodeError> {
    let length = u32(buf)? as usize;
    if length > limit {
        return Err(DecodeError::TooLong { what, length: length as u64, limit: limit as u64 });
    }
    take(buf, length)
}

/// Reads a `u32` length and that many bytes of UTF-8, copied.
pub(crate) fn string(
    buf: &mut impl Buf,
    what: &'static str,
    limit: usize,
) -> Result<String, DecodeError> {
    let bytes = bytes(buf, what, limit)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(DecodeError::Invalid { what, why: "it is not UTF-8" }),
    }
}

/// Writes a `u32` length and the bytes.
pub(crate) fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("no field reaches 4 GiB"));
    out.put_slice(bytes);
}

/// Writes what [`option`] reads.
pub(crate) fn put_option<O: BufMut, T>(
    out: &mut O,
    value: Option<T>,
    write: impl FnOnce(&mut O, T),
) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        write(out, value);
    }
}

/// Writes an integer as LEB128.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads an integer in LEB128.
pub(crate) fn varint(buf: &mut impl Buf) -> Result<u64, DecodeError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = u8(buf)?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(VARINT_OVERFLOW);
        }
        value |= bits << shift;
        if byte < 0x80 {
            let longer = byte == 0 && shift > 0;
            return if longer { Err(VARINT_PADDED) } else { Ok(value) };
        }
    }
    Err(VARINT_OVERFLOW)
}

const VARINT_OVERFLOW: DecodeError =
    DecodeError::Invalid { what: "varint", why: "it exceeds 64 bits" };
const VARINT_PADDED: DecodeError =
    DecodeError::Invalid { what: "varint", why: "it is longer than it has to be" };

/// What counts up by steps of at most 2^32 (offsets, log indexes, ids given out) never reaches this
/// in a node's life. So a larger one is damage, and with it refused no step can overflow.
const COUNTER_MAX: u64 = 1 << 63;

/// Reads a varint that is a counter.
pub(crate) fn counter(buf: &mut impl Buf, what: &'static str) -> Result<u64, DecodeError> {
    check_counter(varint(buf)?, what)
}

/// Refuses what no counter reaches.
pub(crate) fn check_counter(value: u64, what: &'static str) -> Result<u64, DecodeError> {
    if value < COUNTER_MAX {
        Ok(value)
    } else {
        Err(DecodeError::Invalid { what, why: "it is larger than can be" })
    }
}

/// Refuses a key of an ordered list that does not come after the one before.
pub(crate) fn ascending<K: Ord>(
    last: Option<&K>,
    key: &K,
    what: &'static str,
) -> Result<(), DecodeError> {
    if last.is_none_or(|last| last < key) {
        Ok(())
    } else {
        Err(DecodeError::Invalid { what, why: "it is out of order" })
    }
}

/// Reads a varint that must fit 32 bits.
pub(crate) fn varint32(buf: &mut impl Buf) -> Result<u32, DecodeError> {
    u32::try_from(varint(buf)?)
        .map_err(|_| DecodeError::Invalid { what: "varint", why: "it exceeds 32 bits" })
}

/// Reads how many items of at least `item_bytes` follow, so that a false count cannot make the
/// reader reserve more memory than the input occupies.
pub(crate) fn item_count(buf: &mut impl Buf, item_bytes: usize) -> Result<usize, DecodeError> {
    let count = varint(buf)?;
    let left = buf.remaining();
    match usize::try_from(count).ok().and_then(|count| count.checked_mul(item_bytes)) {
        Some(needed) if needed <= left => Ok(needed / item_bytes),
        needed => Err(DecodeError::Truncated { needed: needed.unwrap_or(usize::MAX), left }),
    }
}

fn need(buf: &impl Buf, needed: usize) -> Result<(), DecodeError> {
    let left = buf.remaining();
    if left < needed { Err(DecodeError::Truncated { needed, left }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_come_back(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut rest = out.as_slice();
            prop_assert_eq!(varint(&mut rest), Ok(value));
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn a_varint_of_more_than_64_bits_is_refused() {
        assert_eq!(varint(&mut [0xff; 10].as_slice()), Err(VARINT_OVERFLOW));
        assert_eq!(varint(&mut [0x80; 10].as_slice()), Err(VARINT_OVERFLOW));
    }

    #[test]
    fn a_varint_has_one_form() {
        assert_eq!(varint(&mut [0].as_slice()), Ok(0));
        assert_eq!(varint(&mut [0x80, 0].as_slice()), Err(VARINT_PADDED));
        assert_eq!(varint(&mut [0xb8, 0x8b, 0].as_slice()), Err(VARINT_PADDED));
    }

    #[test]
    fn a_counter_that_could_overflow_is_refused() {
        let mut out = Vec::new();
        put_varint(&mut out, COUNTER_MAX - 1);
        assert_eq!(counter(&mut out.as_slice(), "test"), Ok(COUNTER_MAX - 1));
        out.clear();
        put_varint(&mut out, COUNTER_MAX);
        assert!(counter(&mut out.as_slice(), "test").is_err());
    }

    #[test]
    fn a_count_larger_than_the_input_is_refused() {
        let mut out = Vec::new();
        put_varint(&mut out, u64::MAX);
        assert!(item_count(&mut out.as_slice(), 16).is_err());
    }

    #[test]
    fn a_damaged_snapshot_is_refused() {
        let sealed = seal(vec![1, 2, 3]);
        assert_eq!(unseal(&sealed, "test", 1..=2), Ok((1, [2, 3].as_slice())));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 0x10;
            assert_eq!(unseal(&damaged, "test", 1..=1), Err(SnapshotError::Checksum));
            assert_eq!(unseal(&sealed[..at], "test", 1..=1), Err(SnapshotError::Checksum));
        }
    }
}
