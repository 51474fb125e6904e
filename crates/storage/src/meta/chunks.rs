//! How a value is laid out in a store of small records.
//!
//! ```text
//!  'h' key                         → crc 4 │ 0 │ value                               up to 16 KiB
//!                                  → crc 4 │ 1 │ generation 8 │ bytes 8 │ value crc 4   larger
//!  'c' key-length 4 key generation 8 number 4 → up to 16 KiB of the value
//! ```
//!
//! Large values are cut because sled puts them into files of their own, which syncing its main
//! file does not cover. The chunks of a new generation are written before the head that names it;
//! those of the old one go only after a sync. The head's CRC covers the key, so a record under a
//! wrong key is noticed, too.

use bytes::Bytes;

use super::MetaError;

/// Values up to this many bytes are stored in one piece; larger ones in pieces of at most that.
pub const CHUNK_BYTES: usize = 16 << 10;

const HEAD: u8 = b'h';
const CHUNK: u8 = b'c';
const INLINE: u8 = 0;
const CHUNKED: u8 = 1;
const CRC_BYTES: usize = 4;
/// Generation, bytes and checksum.
const CHUNKED_BYTES: usize = 8 + 8 + 4;

/// A head record, decoded.
#[derive(Debug, PartialEq, Eq)]
pub enum Head<'a> {
    /// The value itself.
    Inline(&'a [u8]),
    /// Where the value is.
    Chunked { generation: u64, bytes: u64, crc: u32 },
}

impl Head<'_> {
    /// Encodes the head record of `key`.
    pub fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut out = vec![0; CRC_BYTES];
        match self {
            Head::Inline(value) => {
                out.push(INLINE);
                out.extend_from_slice(value);
            }
            Head::Chunked { generation, bytes, crc } => {
                out.push(CHUNKED);
                out.extend_from_slice(&generation.to_le_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
                out.extend_from_slice(&crc.to_le_bytes());
            }
        }
        let crc = head_crc(key, &out[CRC_BYTES..]);
        out[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// Decodes the head record of `key`.
pub fn decode_head<'a>(key: &[u8], record: &'a [u8]) -> Result<Head<'a>, MetaError> {
    let (crc, body) = record.split_at_checked(CRC_BYTES).ok_or(damaged(key, "head is cut"))?;
    if crc != head_crc(key, body).to_le_bytes() {
        return Err(damaged(key, "checksum of the head"));
    }
    match body.split_first() {
        Some((&INLINE, value)) => Ok(Head::Inline(value)),
        Some((&CHUNKED, rest)) if rest.len() != CHUNKED_BYTES => {
            Err(damaged(key, "head is not as long as it has to be"))
        }
        Some((&CHUNKED, rest)) => {
            let generation = take::<8>(key, rest, 0)?;
            let bytes = take::<8>(key, rest, 8)?;
            let crc = take::<4>(key, rest, 16)?;
            Ok(Head::Chunked {
                generation: u64::from_le_bytes(generation),
                bytes: u64::from_le_bytes(bytes),
                crc: u32::from_le_bytes(crc),
            })
        }
        _ => Err(damaged(key, "unknown kind of head")),
    }
}

/// Puts the chunks of a value together and checks the whole.
pub fn assemble(
    key: &[u8],
    bytes: u64,
    crc: u32,
    chunks: impl Iterator<Item = Result<Bytes, MetaError>>,
) -> Result<Bytes, MetaError> {
    let mut value = Vec::new();
    for chunk in chunks {
        value.extend_from_slice(&chunk?);
        if value.len() as u64 > bytes {
            return Err(damaged(key, "more chunks than its head says"));
        }
    }
    if value.len() as u64 != bytes {
        return Err(damaged(key, "chunks are missing"));
    }
    if crc32c::crc32c(&value) != crc {
        return Err(damaged(key, "checksum of the value"));
    }
    Ok(value.into())
}

/// Key of the head record.
pub fn head_key(key: &[u8]) -> Vec<u8> {
    [&[HEAD], key].concat()
}

/// The key whose head record has this key.
pub fn key_of_head(head_key: &[u8]) -> &[u8] {
    head_key.get(1..).unwrap_or_default()
}

/// Prefix of all chunks of `key`.
pub fn chunks_prefix(key: &[u8]) -> Vec<u8> {
    [&[CHUNK], (key.len() as u32).to_be_bytes().as_slice(), key].concat()
}

/// Prefix of the chunks of one generation.
pub fn generation_prefix(key: &[u8], generation: u64) -> Vec<u8> {
    [chunks_prefix(key).as_slice(), &generation.to_be_bytes()].concat()
}

/// Key of one chunk.
pub fn chunk_key(key: &[u8], generation: u64, number: u32) -> Vec<u8> {
    [generation_prefix(key, generation).as_slice(), &number.to_be_bytes()].concat()
}

/// The generation in the key of a chunk of `key`.
pub fn generation_of(key: &[u8], chunk_key: &[u8]) -> u64 {
    let start = chunks_prefix(key).len();
    let raw = chunk_key.get(start..start + 8).and_then(|raw| raw.try_into().ok());
    raw.map_or(0, u64::from_be_bytes)
}

/// An error about `key`.
pub fn damaged(key: &[u8], reason: &'static str) -> MetaError {
    MetaError::Damaged { key: key.escape_ascii().to_string(), reason }
}

fn head_crc(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

fn take<const N: usize>(key: &[u8], bytes: &[u8], at: usize) -> Result<[u8; N], MetaError> {
    let raw = bytes.get(at..at + N).and_then(|raw| raw.try_into().ok());
    raw.ok_or(damaged(key, "head is cut"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_head_with_more_than_its_fields_is_refused() {
        let mut record = Head::Chunked { generation: 1, bytes: 2, crc: 3 }.encode(b"key");
        record.push(0);
        let crc = head_crc(b"key", &record[CRC_BYTES..]);
        record[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        assert!(decode_head(b"key", &record).is_err());
    }

    proptest! {
        #[test]
        fn a_head_reads_back_and_only_under_its_key(
            key: Vec<u8>,
            value: Vec<u8>,
            chunked: Option<(u64, u64, u32)>,
        ) {
            let head = match chunked {
                None => Head::Inline(&value),
                Some((generation, bytes, crc)) => Head::Chunked { generation, bytes, crc },
            };
            let record = head.encode(&key);
            prop_assert_eq!(decode_head(&key, &record).ok(), Some(head));
            prop_assert!(decode_head(&[key.as_slice(), b"x"].concat(), &record).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_an_error_or_a_head(key: Vec<u8>, record: Vec<u8>) {
            let _ = decode_head(&key, &record);
        }
    }
}
