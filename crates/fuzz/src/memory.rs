//! Memory in proportion to the input: a length field must not decide how much is allocated.

use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What a target may use whatever its input: the fixtures that some build, and the window in which
/// a log is scanned.
const FIXED_BYTES: usize = 8 << 20;
/// What it may use for each byte of input: a decoded thing is larger than its encoding.
const BYTES_PER_BYTE: usize = 512;

static ALONE: Mutex<()> = Mutex::new(());

/// Runs a target alone, and asserts that it did not use more than `input` bytes warrant.
pub fn bounded(input: usize, run: impl FnOnce()) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    run();
    let used = MEMORY.peak_usage().saturating_sub(before);
    let limit = FIXED_BYTES + BYTES_PER_BYTE * input;
    assert!(used <= limit, "{input} bytes of input took {used} bytes of memory, limit {limit}");
}
