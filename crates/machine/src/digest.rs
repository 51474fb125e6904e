//! The digest by which replicas compare their states and a snapshot knows that it is whole.
//!
//! It guards against accidents (a damaged byte, a replica that went astray), not against an
//! adversary. Its values are persisted in snapshots, so the function must never change.

const SEED: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;

/// Digest of `bytes`: FNV's xor-then-multiply over 8-byte lanes, with a fold so that high bits
/// reach low ones.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mut lanes = bytes.chunks_exact(8);
    let mut hash = SEED;
    for lane in &mut lanes {
        hash = mix(hash, u64::from_le_bytes(lane.try_into().expect("a lane has 8 bytes")));
    }
    let mut last = [0; 8];
    let rest = lanes.remainder();
    last[..rest.len()].copy_from_slice(rest);
    // The length keeps inputs apart that differ only in trailing zeros.
    mix(mix(hash, u64::from_le_bytes(last)), bytes.len() as u64)
}

fn mix(hash: u64, lane: u64) -> u64 {
    let product = (hash ^ lane).wrapping_mul(PRIME);
    product ^ (product >> 29)
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn one_changed_bit_changes_the_digest() {
        let bytes: Vec<u8> = (0..61).collect();
        let whole = digest(&bytes);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(whole, digest(&damaged), "bit {bit}");
        }
    }

    #[test]
    fn trailing_zeros_count() {
        assert_ne!(digest(&[1, 0]), digest(&[1]));
        assert_ne!(digest(&[]), digest(&[0; 8]));
    }

    #[test]
    fn the_function_is_the_one_in_existing_snapshots() {
        assert_eq!(digest(b"a queue of messages"), 0x4c15_424f_b4ac_b759);
    }
}
