//! Bodies that say which message they are, all through: any other byte shows.

use bytes::{BufMut, Bytes, BytesMut};

use crate::events::MessageId;

/// Tells messages of the workload from those of applications.
const MARK: &[u8; 4] = b"\xa7sim";
const HEAD: usize = 12;

fn filler(id: MessageId, at: usize) -> u8 {
    let mixed = id.producer.wrapping_mul(31).wrapping_add(id.sequence).wrapping_mul(0x9e37_79b9);
    (mixed >> 24) as u8 ^ at as u8
}

/// The body of a message, at least 12 bytes long.
#[must_use]
pub fn make(id: MessageId, bytes: usize) -> Bytes {
    let mut body = BytesMut::with_capacity(bytes.max(HEAD));
    body.put_slice(MARK);
    body.put_u32(id.producer);
    body.put_u32(id.sequence);
    (HEAD..bytes).for_each(|at| body.put_u8(filler(id, at)));
    body.freeze()
}

/// Which message it is; `None` if it is none of the workload, or not as it was made.
#[must_use]
pub fn read(body: &[u8]) -> Option<MessageId> {
    let body = body.strip_prefix(MARK)?;
    let (producer, rest) = body.split_first_chunk::<4>()?;
    let (sequence, filled) = rest.split_first_chunk::<4>()?;
    let id = MessageId {
        producer: u32::from_be_bytes(*producer),
        sequence: u32::from_be_bytes(*sequence),
    };
    let intact = (HEAD..).zip(filled).all(|(at, byte)| *byte == filler(id, at));
    intact.then_some(id)
}
