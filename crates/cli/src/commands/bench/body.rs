//! Bodies for the load: one that all messages share, or ones that carry a number each.
//!
//! Numbered bodies are cut from pieces that hold many, so that a message costs no allocation of its own.

use bytes::{Bytes, BytesMut};

/// Bytes of the number at the start of a body.
const NUMBER_BYTES: usize = 8;
/// Numbered bodies are cut from pieces of at least this many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Makes bodies of one size.
#[derive(Debug)]
pub enum Bodies {
    /// The same one each time.
    Shared(Bytes),
    /// Each with a number in front.
    Numbered {
        /// What a piece is filled with.
        filling: Bytes,
        /// The rest of the current piece.
        piece: BytesMut,
        /// Bytes of a body.
        size: usize,
    },
}

impl Bodies {
    /// Bodies that need not be told apart.
    pub fn shared(size: usize) -> Bodies {
        Bodies::Shared(filling(size))
    }

    /// Bodies that carry a number; `size` leaves room for it.
    pub fn numbered(size: usize) -> Bodies {
        let piece = (PIECE_BYTES / size).max(1) * size;
        Bodies::Numbered { filling: filling(piece), piece: BytesMut::new(), size }
    }

    /// The next body; the number goes into it if bodies are numbered.
    pub fn next(&mut self, number: u64) -> Bytes {
        match self {
            Bodies::Shared(body) => body.clone(),
            Bodies::Numbered { filling, piece, size } => {
                if piece.is_empty() {
                    *piece = BytesMut::from(&filling[..]);
                }
                let mut body = piece.split_to(*size);
                body[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
                body.freeze()
            }
        }
    }
}

/// The number in a body.
pub fn number(body: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(body.get(..NUMBER_BYTES)?.try_into().ok()?))
}

/// Bytes that do not repeat soon, for file systems that compress.
fn filling(bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        // Linear congruential generator with the constants of Numerical Recipes (Press et al.).
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_bodies_have_their_size_and_their_number() {
        for size in [16, 100, 1024, 100_000] {
            let mut bodies = Bodies::numbered(size);
            let made: Vec<Bytes> = (0..200).map(|number| bodies.next(number)).collect();
            for (expected, body) in (0..).zip(&made) {
                assert_eq!((body.len(), number(body)), (size, Some(expected)));
            }
        }
        assert_eq!(number(b"short"), None);
    }

    #[test]
    fn shared_bodies_share_their_bytes() {
        let mut bodies = Bodies::shared(1024);
        assert_eq!(bodies.next(1).as_ptr(), bodies.next(2).as_ptr());
    }
}
