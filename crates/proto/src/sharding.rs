//! Which shard of a sharded queue a key belongs to: the same for every client, in any language.
//!
//! ```text
//! shard = shards[ XXH64(key, seed 0) mod number of shards ]
//! ```
//! XXH64 is by Yann Collet, as specified in the xxHash repository (`doc/xxhash_spec.md`). Every language has it.

/// Name of the hash, as `Sharding.hash` has it.
pub const XXH64: &str = "xxh64";

/// The longest key that chooses a shard, in bytes.
pub const SHARD_KEY_BYTES_MAX: usize = 256;

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

/// The place of a key's shard among so many, at least one.
#[must_use]
pub fn place(key: &[u8], shards: usize) -> usize {
    (xxh64(key) % shards as u64) as usize
}

/// XXH64 with seed 0.
#[must_use]
pub fn xxh64(bytes: &[u8]) -> u64 {
    let mut stripes = bytes.chunks_exact(32);
    let mut hash = match bytes.len() {
        0..32 => P5,
        _ => {
            let mut lanes = [P1.wrapping_add(P2), P2, 0, P1.wrapping_neg()];
            for stripe in &mut stripes {
                for (lane, word) in lanes.iter_mut().zip(stripe.chunks_exact(8)) {
                    *lane = round(*lane, word64(word));
                }
            }
            let turns = [1, 7, 12, 18];
            let turned = lanes.iter().zip(turns).map(|(lane, turn)| lane.rotate_left(turn));
            lanes.iter().fold(turned.fold(0, u64::wrapping_add), |hash: u64, lane| {
                (hash ^ round(0, *lane)).wrapping_mul(P1).wrapping_add(P4)
            })
        }
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    let mut words = stripes.remainder().chunks_exact(8);
    for word in &mut words {
        hash ^= round(0, word64(word));
        hash = hash.rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
    }
    let mut halves = words.remainder().chunks_exact(4);
    for half in &mut halves {
        let half = u32::from_le_bytes(half.try_into().expect("half a word has 4 bytes"));
        hash ^= u64::from(half).wrapping_mul(P1);
        hash = hash.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
    }
    for byte in halves.remainder() {
        hash ^= u64::from(*byte).wrapping_mul(P5);
        hash = hash.rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

fn word64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("a word has 8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first four are xxHash's own.
    #[test]
    fn the_hash_is_xxh64() {
        let hashed = |key: &str| xxh64(key.as_bytes());
        assert_eq!(hashed(""), 0xEF46_DB37_51D8_E999);
        assert_eq!(hashed("a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(hashed("abc"), 0x44BC_2CF5_AD77_0999);
        assert_eq!(hashed("Nobody inspects the spammish repetition"), 0xFBCE_A83C_8A37_8BF1);
    }

    #[test]
    fn keys_of_any_length_are_spread_evenly_over_any_number_of_shards() {
        for shards in [2, 3, 7, 64] {
            let mut met = vec![0u32; shards];
            for number in 0..shards * 500 {
                let key = format!("{}{number}", "customer-".repeat(number % 9));
                met[place(key.as_bytes(), shards)] += 1;
            }
            assert!(met.iter().all(|met| (400..600).contains(met)), "{shards}: {met:?}");
        }
    }
}
