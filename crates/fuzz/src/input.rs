//! The fuzzer's bytes as a source of choices, for targets whose input describes something.

/// Numbers near which arithmetic goes wrong.
const EDGES: [u64; 8] =
    [0, 1, u8::MAX as u64, u16::MAX as u64, u32::MAX as u64, (1 << 63) - 1, u64::MAX - 1, u64::MAX];

/// What is left of the input. When nothing is, every choice is 0.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Up to `length` bytes.
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes behind a length of two bytes.
    pub fn chunk(&mut self) -> &'a [u8] {
        let length = u16::from_le_bytes(self.array());
        self.take(length.into())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.take(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number: mostly a small one, sometimes one at an edge, sometimes any.
    pub fn number(&mut self) -> u64 {
        match self.u8() {
            255 => self.u64(),
            edge @ 240..=254 => EDGES[usize::from(edge) % EDGES.len()],
            small => small.into(),
        }
    }
}

/// Writes what [`Input::chunk`] reads.
pub fn put_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u16).to_le_bytes());
    out.extend(bytes);
}
