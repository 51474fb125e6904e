//! See `quorate_fuzz::META_CHUNKS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::META_CHUNKS.run(data));
