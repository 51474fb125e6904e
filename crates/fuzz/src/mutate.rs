//! Changes to a known input, the same ones for the same seed: what `cargo test` has of a fuzzer.

/// A source of choices: splitmix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Choices(u64);

impl Choices {
    /// Choices that follow from `name` and `number` alone.
    #[must_use]
    pub fn of(name: &str, number: u64) -> Self {
        // FNV-1a.
        let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, fold).wrapping_add(number << 32))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if there is none.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Integers that lengths, counts and positions go wrong with.
const INTERESTING: [u64; 9] = [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

/// `data` with one to four changes; `other` is an input to take pieces of.
#[must_use]
pub fn mutated(data: &[u8], other: &[u8], choices: &mut Choices) -> Vec<u8> {
    let mut out = data.to_vec();
    for _ in 0..=choices.below(4) {
        change(&mut out, other, choices);
    }
    out
}

fn change(out: &mut Vec<u8>, other: &[u8], choices: &mut Choices) {
    let at = choices.below(out.len());
    let span = at..(at + 1 + choices.below(16)).min(out.len());
    match choices.below(8) {
        0 | 1 => {
            if let Some(byte) = out.get_mut(at) {
                *byte ^= 1 << choices.below(8);
            }
        }
        2 => {
            if let Some(byte) = out.get_mut(at) {
                *byte = choices.next() as u8;
            }
        }
        3 => {
            let number = INTERESTING[choices.below(INTERESTING.len())].to_le_bytes();
            let width = [1, 2, 4, 8][choices.below(4)].min(out.len() - at.min(out.len()));
            out[at..at + width].copy_from_slice(&number[..width]);
        }
        4 => drop(out.drain(span.start.min(span.end)..span.end)),
        5 => {
            let piece = out[span.start.min(span.end)..span.end].to_vec();
            out.splice(at..at, piece);
        }
        6 => out.truncate(at),
        _ => {
            let from = choices.below(other.len());
            let piece = &other[from..(from + 1 + choices.below(64)).min(other.len())];
            out.splice(at..at, piece.iter().copied());
        }
    }
}
