//! Heads and chunks of the small state.
//!
//! ```text
//! input   key (length u16, bytes) | head (length u16, bytes) | chunk (length u16, bytes) *
//! ```

use bytes::Bytes;
use quorate_storage::meta::chunks::{self, Head};

use crate::input::{Input, put_chunk};

pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let key = input.chunk();
    let head = input.chunk();
    let _ = chunks::decode_head(key, head);
    let mut fitting = head.to_vec();
    if let Some((crc, body)) = fitting.split_at_mut_checked(4) {
        let sum = crc32c::crc32c_append(crc32c::crc32c(key), body);
        crc.copy_from_slice(&sum.to_le_bytes());
    }
    let Ok(head) = chunks::decode_head(key, &fitting) else { return };
    assert_eq!(head.encode(key), fitting, "{head:?}");
    keys(key, &head);
    if let Head::Chunked { bytes, crc, .. } = head {
        let pieces = std::iter::from_fn(|| {
            (!input.is_empty()).then(|| Ok(Bytes::copy_from_slice(input.chunk())))
        });
        if let Ok(value) = chunks::assemble(key, bytes, crc, pieces) {
            assert_eq!((value.len() as u64, crc32c::crc32c(&value)), (bytes, crc));
        }
    }
}

fn keys(key: &[u8], head: &Head<'_>) {
    assert_eq!(chunks::key_of_head(&chunks::head_key(key)), key);
    if let Head::Chunked { generation, .. } = *head {
        let chunk = chunks::chunk_key(key, generation, 1);
        assert_eq!(chunks::generation_of(key, &chunk), generation);
        assert!(chunk.starts_with(&chunks::generation_prefix(key, generation)));
    }
    // A key that is no chunk's.
    let _ = chunks::generation_of(b"checkpoint/", key);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let pieces = [b"one".as_slice(), b"two", b"three"];
    let value = pieces.concat();
    let (bytes, crc) = (value.len() as u64, crc32c::crc32c(&value));
    let heads =
        [Head::Inline(b""), Head::Inline(&value), Head::Chunked { generation: 3, bytes, crc }];
    let keys = [b"".as_slice(), b"checkpoint/\0\0\0\0\0\0\0\x07", b"address/\0\0\0\0\0\0\0\x01"];
    let mut seeds = Vec::new();
    for head in &heads {
        for key in keys {
            let mut seed = Vec::new();
            put_chunk(&mut seed, key);
            put_chunk(&mut seed, &head.encode(key));
            for piece in pieces {
                put_chunk(&mut seed, piece);
            }
            seeds.push(seed);
        }
    }
    seeds
}
